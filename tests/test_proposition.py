"""Proposition 1 in worlds where the constants and the distances are known."""

import math

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given, strategies as st

from benchmarks.ablations import proposition as P
from diffedit_core import schedule, walk
from diffedit_core.config import SchedulerConfig
from diffedit_core.integrators import State, ddim

LEVELS = schedule.levels(SchedulerConfig(), 50)
SHAPE = (2, 3, 5, 4)
sizes = st.floats(0, 3)


def normal(seed):
    return ms.Tensor(np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32))


def field(slope, offset):
    """denoise of e(x) = slope x + offset."""

    def denoise(x, k):
        eps = slope * x + offset
        return schedule.denoised(eps, x, LEVELS.alphas[k], "epsilon")

    return denoise


@given(sizes, sizes, sizes, sizes)
def test_bounds_grow_with_each_constant_and_with_the_noise(t, more, k1, k2):
    low, high = {"C": 1.0, "K1": k1, "K2": k2}, {"C": 1.5, "K1": k1 + more, "K2": k2 + more}
    for bound in (P.sdedit_bound, P.encoding_bound, P.printed_bound):
        assert bound(0.0, low) == 0 <= bound(t, low) <= bound(t, high)
    for bound in (P.sdedit_bound, P.encoding_bound):
        assert bound(t, low) <= bound(t + more, low)
    assert P.printed_bound(t, low) <= P.encoding_bound(t, low)


@pytest.mark.parametrize("slope", (-0.4, 0.3))
def test_the_constants_of_a_linear_field_are_found(slope):
    offset = normal(1)
    states = [normal(seed) for seed in range(4)]
    found = P.constants(field(slope, 0.0), field(slope, offset), states, normal(9))
    assert found["K1"] == pytest.approx(abs(slope), rel=1e-3)
    assert found["K2"] == pytest.approx(P.size(offset).mean(), rel=1e-5)


def moved(slope, offset, steps):
    """(distance from the encoding, from noise, tau, constants) in such a world."""
    latents, noise = normal(2), normal(3)
    sizes = []
    empty, target = [P.recorded(field(slope, shift), sizes) for shift in (0.0, offset)]
    path = list(walk.up(ddim, empty, LEVELS, State(latents), steps))
    states = [state.latents for state in path]
    encoded, noisy = P.distances(target, LEVELS, states, latents, noise, steps)
    found = P.constants(empty, target, states, noise)
    return encoded, noisy, P.tau(LEVELS.alphas[steps]), {"C": max(sizes), **found}


@given(st.sampled_from((-0.4, 0.0, 0.4)), st.integers(1, 35), st.floats(0.01, 1))
def test_the_proved_bounds_hold(slope, steps, size):
    encoded, noisy, t, found = moved(slope, size * normal(4), steps)
    assert encoded.mean() <= P.encoding_bound(t, found) * 1.1  # steps are not infinitely small
    assert noisy.mean() <= P.sdedit_bound(t, found) * 1.1


def test_the_printed_bound_fails_for_a_constant_difference():
    encoded, _, t, found = moved(0.0, 0.1 * normal(4), 37)
    assert found["K1"] < 1e-3
    assert encoded.mean() == pytest.approx(found["K2"] * t, rel=1e-3)
    assert encoded.mean() > 1.5 * P.printed_bound(t, found)


def test_the_table_has_every_row():
    rows = [
        {"ratio": r, "tau": 2 * r, "encoding": [0.1, 0.2], "sdedit": [0.3, 0.5]} for r in (1, 2)
    ]
    *_, first, second = P.table({"constants": P.PAPER, "rows": rows})
    assert first.startswith("| 1 | 2 | 0.150 [") and "| 0.400 [" in first
    assert f"| {P.encoding_bound(2, P.PAPER):.3g} | {P.printed_bound(2, P.PAPER):.3g} |" in first
    assert second.startswith("| 2 | 4 |")


def test_what_is_not_there_is_said(tmp_path, capsys):
    assert P.main(["--table", "--out", str(tmp_path / "none.json")]) == 2
    assert "measure first" in capsys.readouterr().err
    assert P.main(["--scenes", "1"]) == 2 and "--scenes" in capsys.readouterr().err


def test_tau_is_the_ratio_of_noise_and_picture():
    assert P.tau(0.5) == 1 and P.tau(0.2) == pytest.approx(math.sqrt(0.8) / math.sqrt(0.2))
