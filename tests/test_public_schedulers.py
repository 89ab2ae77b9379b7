"""benchmarks/ablations/public_schedulers.py and defects.py: the laws on stand-ins whose faults are
known, and on the public package where it is installed."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.ablations import defects, public_schedulers as P
from benchmarks.ablations.public.loops import PREDICTIONS
from benchmarks.ablations.public.packages import Package, prediction_of
from benchmarks.ablations.public.steps import Manner
from diffedit_core import schedule
from diffedit_core.scheduler_config import SchedulerConfig

ROOT = Path(__file__).parent.parent


# ---- stand-ins -----------------------------------------------------------------------------------


class Right:
    """A scheduler over the levels of `schedule.levels`; its neighbour in the grid is where a step
    leads. The model is asked at a step's own level, on the way up at the destination, so the
    prediction is read there."""

    direction, slip = -1, 0.0

    def __init__(self, clip_sample=False, prediction_type="epsilon", **settings):
        self.kind, self.clip = prediction_type, clip_sample
        self.config = SchedulerConfig.read(settings, "a stand-in")
        self.alphas_cumprod = schedule.alphas_cumprod(self.config)

    def set_timesteps(self, steps):
        self.grid = schedule.grid(self.config, steps)
        self.timesteps = self.grid[:: self.direction]

    def step(self, out, t, x, return_dict):
        place = int(np.flatnonzero(self.grid == t)[0])
        clean = 1.0 if self.config.set_alpha_to_one else self.alphas_cumprod[0]
        here = float(self.alphas_cumprod[t])
        below = float(self.alphas_cumprod[self.grid[place - 1]] if place else clean)
        start, to = (here, below)[:: -self.direction]
        x0, eps = self.read(out, x, start)
        eps = (1 - self.slip) * eps
        x0 = (x - np.sqrt(1 - start) * eps) / np.sqrt(start) if self.slip else x0
        x0 = np.clip(x0, -1, 1) if self.clip else x0
        found = np.sqrt(to) * x0 + np.sqrt(1 - to) * eps
        return (found.astype(x.dtype),)

    def read(self, out, x, alpha):
        if self.kind == "sample":
            return out, (x - np.sqrt(alpha) * out) / np.sqrt(1 - alpha) if alpha < 1 else 0 * x
        return schedule.denoised(out, x, alpha, self.kind)


class RightUp(Right):
    direction = 1


class Slip(Right):
    """Uses half of eps: in both directions, so that a round trip does not see it."""

    slip = 0.5


class SlipUp(RightUp):
    slip = 0.5


def package(down, up):
    return Package("stand-in", "", down, up, lambda x: x, lambda x: x)


RIGHT, WRONG = package(Right, RightUp), package(Slip, SlipUp)
FEW = ("identity", "reversal_with_one_eps", "composition_with_one_eps", "one_picture_is_found")


def law_cells(*of):
    return dict(P.law_cells(*of))


def loop_cells(*of, **more):
    return dict(P.loop_cells(*of, **more))


def cells(found, column):
    return {name: cell for (name, c), (cell, _) in found.items() if c == column}


# ---- one step ------------------------------------------------------------------------------------


def test_a_right_scheduler_obeys_the_laws():
    """As an integrator of tests/laws.py; the clipped one does not, and its counterexample is
    small."""
    manners = {name: P.MANNERS[name] for name in ("eps", "v", "eps, clip_sample")}
    found = law_cells(RIGHT, FEW, manners)
    assert cells(found, "eps") == dict.fromkeys(FEW, "holds")
    v = cells(found, "v")
    assert v.pop("reversal_with_one_eps") == "-" and set(v.values()) == {"holds"}
    clipped = cells(found, "eps, clip_sample")
    assert clipped["composition_with_one_eps"] == clipped["one_picture_is_found"] == "no"
    error, example = found["composition_with_one_eps", "eps, clip_sample"][1]
    assert len(example.alphas) == 2 and "off by" in str(error)


def test_a_slip_in_both_directions_passes_the_round_trip_alone():
    found = cells(law_cells(WRONG, FEW, {"eps": Manner()}), "eps")
    assert found["identity"] == found["reversal_with_one_eps"] == "holds"
    assert found["composition_with_one_eps"] == found["one_picture_is_found"] == "no"


def test_ours_refuse_what_cannot_be_inverted():
    manners = {name: P.MANNERS[name] for name in ("v", "sample", "eps, clip_sample")}
    found = law_cells(P.load("ours"), ("linearity",), manners)
    assert [cell for cell, _ in found.values()] == ["holds", "refused", "refused"]


def test_a_call_that_a_package_does_not_take_is_no_verdict_on_a_law():
    class Other(Right):
        def step(self, out, t, x):
            raise AssertionError("is not reached")

    other = package(Other, Other)
    assert [cell for cell, _ in law_cells(other, FEW[:1], {"eps": Manner()}).values()] == ["error"]
    assert loop_cells(other, ["eps_is_used"], ["linspace"]).popitem()[1][0] == "error"


def test_asking_ahead_is_seen():
    """One picture is not found by a way up that asks the model where the step leads."""
    found = law_cells(RIGHT, ("one_picture_is_found",), {"ahead": P.MANNERS["eps, asked ahead"]})
    assert cells(found, "ahead") == {"one_picture_is_found": "no"}


def test_a_rounded_schedule_is_told_from_a_wrong_one():
    class Rounded(Right):
        def __init__(self, **settings):
            super().__init__(**settings)
            self.alphas_cumprod = self.alphas_cumprod.astype(np.float32)

    class RoundedUp(Rounded):
        direction = 1

    rounded = package(Rounded, RoundedUp)
    found = law_cells(rounded, ("composition_with_one_eps",), {"eps": Manner()})
    assert cells(found, "eps") == {"composition_with_one_eps": "rounding"}


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_predictions_say_what_they_stand_for(kind):
    """What `prediction_of` makes of a picture and its noise, a scheduler reads back."""
    x0, eps = np.random.default_rng(0).standard_normal((2, 1, 2, 3, 5))
    for alpha in (0.9, 0.3):
        out = prediction_of(kind, x0, eps, alpha)
        x = np.sqrt(alpha) * x0 + np.sqrt(1 - alpha) * eps
        found = Right(prediction_type=kind).read(out, x, alpha)
        assert np.allclose(found[0], x0) and np.allclose(found[1], eps)


# ---- loops ---------------------------------------------------------------------------------------


def test_a_right_loop_obeys_the_laws_on_every_grid():
    """But for the predictions on the way up: the model is asked at the destination, and a v means
    something else there."""
    found = loop_cells(RIGHT)
    assert {name for (name, _), (cell, _) in found.items() if cell != "holds"} == {
        "predictions_agree_up"
    }


def test_a_slip_in_both_directions_is_seen_in_a_loop():
    column = "leading, N <= T/2"
    found = cells(loop_cells(WRONG, columns=[column]), column)
    assert found["up_and_down_with_one_eps_is_the_identity"] == "holds"
    assert found["eps_is_used"] == found["steps_down_follow_the_timesteps"] == "no"


def test_our_schedulers_take_the_public_steps():
    """T // N timesteps down, which leaves a trailing grid whose N does not divide T; the edit walks
    the grid's own levels. A round trip does not show it."""
    found = loop_cells(P.load("ours"), ["steps_down_follow_the_timesteps", "eps_is_used"])
    assert found["steps_down_follow_the_timesteps", "leading, N <= T/2"][0] == "holds"
    cell, (error, example) = found["steps_down_follow_the_timesteps", "trailing, other N"]
    assert cell == "no" and example.total == 10 and example.steps == 3
    assert found["eps_is_used", "trailing, other N"][0] == "no"
    trip = loop_cells(P.load("ours"), ["up_and_down_with_one_eps_is_the_identity"])
    assert {cell for cell, _ in trip.values()} == {"holds"}


def test_the_columns_are_all_numbers_of_steps():
    for spacing in ("leading", "trailing", "linspace"):
        tests = [wanted for s, wanted in P.COLUMNS.values() if s == spacing]
        for total in (1, 10, 60, 61):
            assert all(sum(t(n, total) for t in tests) == 1 for n in range(1, total + 1))


def test_the_table_names_every_law_and_counterexample():
    found = loop_cells(WRONG, ["eps_is_used"], ["linspace"])
    text = "\n".join(P.table(found.items(), ["linspace"], WRONG))
    assert "| eps_is_used | no |" in text and re.search(r"eps_is_used; linspace: .*not", text)


def test_a_row_of_the_table_is_there_as_soon_as_its_cells_are():
    def cells():
        yield ("first", "a"), ("holds", None)
        yield ("first", "b"), ("-", None)
        raise RuntimeError("the second row")

    lines = P.table(cells(), ["a", "b"], RIGHT)
    assert [next(lines) for _ in range(3)][2] == "| first | holds | - |"
    with pytest.raises(RuntimeError, match="second"):
        next(lines)


# ---- the programs --------------------------------------------------------------------------------


@pytest.mark.parametrize("module", (P, defects))
def test_what_is_missing_is_said_in_one_sentence(module, monkeypatch, capsys):
    for name in ("diffusers", "torch", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    assert module.main([]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and 'pip install ".[compare]"' in said


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers", reason="needs the extra [compare]")


def test_diffusers_under_our_laws(diffusers):
    found = law_cells(P.load("diffusers"), FEW, {"eps": Manner()})
    assert cells(found, "eps")["composition_with_one_eps"] == "rounding"


def test_the_defects_are_reproduced(diffusers):
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.ablations.defects"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode in (0, 1), run.stderr
    assert run.stdout.count(f"with diffusers {diffusers.__version__}: ") == len(defects.DEFECTS)
