"""Every integrator against every law of tests/laws.py; a table at the end says which hold.

    python -m pytest tests/test_laws.py                                         the integrators of
    this package python -m pytest tests/test_laws.py --integrator package.module:function    one of
    yours, and nothing else

`EXCEPTIONS` lists each law that one of ours does not satisfy, with the reason. Such a law is
checked all the same: it has to fail, so that the list stays true.
"""

import functools
import importlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings

from diffedit_core import integrators as I
from diffedit_core import schedule
from diffedit_core.integrators import State
from diffedit_core.pipeline import DDIMInverseScheduler, DDIMScheduler

from . import laws, strategies

OURS = {
    "ddim": I.ddim,
    "dpmpp_2m": I.dpmpp_2m,
    "edict": I.edict,
    "belm": I.belm,
    "fixed_point": functools.partial(I.fixed_point, tolerance=1e-12, iterations=300),
    "anderson": functools.partial(
        I.fixed_point, tolerance=1e-12, iterations=300, memory=I.ANDERSON_MEMORY
    ),
}
ASKS_ELSEWHERE = "the way back asks the model at other points than the way there did, so it returns with an error of order {}"
EULER = "it is Euler's method, whose error falls as 1/N"
NO_SIGNAL = "its equation divides by the signal that the level has, so it refuses levels without"
EXCEPTIONS = {
    ("ddim", "second_order_down"): EULER,
    ("ddim", "second_order_up"): EULER,
    ("ddim", "round_trip_at_second_order"): EULER,
    ("ddim", "up_then_down_is_exact"): ASKS_ELSEWHERE.format("1/N"),
    ("ddim", "down_then_up_is_exact"): ASKS_ELSEWHERE.format("1/N"),
    ("dpmpp_2m", "up_then_down_is_exact"): ASKS_ELSEWHERE.format("1/N^2"),
    ("dpmpp_2m", "down_then_up_is_exact"): ASKS_ELSEWHERE.format("1/N^2"),
    (
        "edict",
        "one_picture_is_found",
    ): "its second evaluation takes a latent of the next level for one of this level",
    (
        "edict",
        "second_order_down",
    ): "its error falls as 1/N, as that of the Euler steps that it is made of",
    ("edict", "second_order_up"): "its error falls as 1/N at best",
    ("edict", "leaves_and_reaches_zero_snr"): NO_SIGNAL,
    ("belm", "leaves_and_reaches_zero_snr"): NO_SIGNAL,
    (
        "belm",
        "down_then_up_is_exact",
    ): "at the clean level it keeps one latent, which determines the other only for journeys that "
    "began there",
}
for one in ("fixed_point", "anderson"):
    EXCEPTIONS |= {
        (one, "second_order_down"): EULER,
        (one, "second_order_up"): EULER,
        (one, "leaves_and_reaches_zero_snr"): NO_SIGNAL,
    }


def pytest_generate_tests(metafunc):
    if "integrator" in metafunc.fixturenames:
        given_ = metafunc.config.getoption("--integrator")
        metafunc.parametrize("integrator", [given_] if given_ else list(OURS))


def load(name):
    """package.module:function."""
    module, _, function = name.partition(":")
    if not function:
        raise pytest.UsageError(f"--integrator {name}: give it as package.module:function.")
    return functools.reduce(getattr, function.split("."), importlib.import_module(module))


def counterexample(law, step, shrink=True):
    """None, or (the error, the smallest example that was found; without `shrink` the first)."""
    found, phases = [], (Phase.explicit, Phase.generate, Phase.shrink)

    @settings(
        report_multiple_bugs=False,
        print_blob=False,
        database=None,
        phases=phases if shrink else phases[:2],
        max_examples=-(-settings.default.max_examples // law.cost),
    )
    @given(law.examples)
    def check(example):
        try:
            law.check(step, example)
        except Exception as error:
            found[:] = [(error, example)]  # hypothesis runs the shrunk one last
            raise

    try:
        check()
    except Exception:
        return found[0]
    return None


@pytest.mark.parametrize("name", laws.LAWS)
def test_law(integrator, name, request):
    law, own = laws.LAWS[name], integrator not in OURS
    reason = EXCEPTIONS.get((integrator, name))
    step = laws.on_tensors(load(integrator)) if own else OURS[integrator]
    failure = counterexample(law, step, shrink=reason is None)
    results = request.config.__dict__.setdefault("law_results", {})
    results[integrator, name] = failure
    request.config.laws_table = functools.partial(table, results)
    shown = failure and f"{law.statement} {in_words(failure)}"
    if own:
        assert failure is None or not law.holds_for_all, shown
    else:
        assert failure is None or reason is not None, shown
        assert (
            failure is not None or reason is None
        ), f"{name} holds for {integrator} after all: strike it from EXCEPTIONS"


def euler_of_the_docstring(denoise, state, levels, i, j):
    """The smallest integrator, as it stands in tests/laws.py."""
    x0, eps = denoise(state.latents, i)
    return State(schedule.add_noise(x0, eps, levels.alphas[j]))


def wrong_sign(denoise, state, levels, i, j):
    x0, eps = denoise(state.latents, i)
    return State(schedule.add_noise(x0, -1 * eps, levels.alphas[j]))


def test_a_function_of_ones_own_is_checked_from_the_command_line():
    """A wrong one fails with the smallest example, and the table says so."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        __file__,
        "-p",
        "no:cacheprovider",
        "-k",
        "test_law and (identity or linearity)",
        "--integrator",
        f"{__name__}:wrong_sign",
    ]
    run = subprocess.run(
        command,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "HYPOTHESIS_PROFILE": "dev"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1, run.stderr
    lines = run.stdout.splitlines()
    assert [line.split()[1:] for line in lines if line.startswith(("identity ", "linearity "))] == [
        ["no"],
        ["holds"],
    ]
    assert (
        "AssertionError: off by" in run.stdout and "Field(name='constant', value=1.0)" in run.stdout
    )


def test_a_function_of_ones_own_passes():
    step = laws.on_tensors(load(f"{__name__}:euler_of_the_docstring"))
    assert counterexample(laws.LAWS["identity"], step) is None
    error, example = counterexample(laws.LAWS["second_order_down"], step)
    assert "order 0.9" in str(error) and example == laws.Field("gaussian", example.value)
    with pytest.raises(pytest.UsageError, match="package.module:function"):
        load("tests.test_laws")


@pytest.mark.parametrize("spacing", strategies.SPACINGS)
def test_both_schedulers_walk_the_same_levels(spacing):
    """For every number of steps the inverse scheduler's timesteps are the scheduler's, reversed.

    The public inverse scheduler steps by T // N and so leaves a trailing or linspace grid where N
    does not divide T.
    """
    settings_ = {
        "timestep_spacing": spacing,
        "steps_offset": 1,
        "beta_schedule": "scaled_linear",
        "set_alpha_to_one": False,
    }
    down, up = DDIMScheduler(**settings_), DDIMInverseScheduler(**settings_)
    for n in range(1, 1001):
        down.set_timesteps(n)
        up.set_timesteps(n)
        assert (
            np.array_equal(down.timesteps[::-1], up.timesteps) and (np.diff(up.timesteps) > 0).all()
        )
        levels = schedule.levels(up.settings, n)
        assert np.array_equal(levels.timesteps[1:], up.timesteps)


def in_words(failure):
    """The error and its example, with the corners of long arrays only."""
    error, example = failure
    with np.printoptions(threshold=8, edgeitems=1):
        return " ".join(f"{type(error).__name__}: {error}; {example}".split())


def table(results):
    """Lines of the table, then the reason or the smallest counterexample of each law that does not
    hold."""
    integrators = list(dict.fromkeys(i for i, _ in results))
    names = [n for n in laws.LAWS if any((i, n) in results for i in integrators)]
    yield ""
    yield f"{'law':<30}" + "".join(f"{i[-14:]:>15}" for i in integrators)
    for name in names:
        marks = [results.get((i, name), "-") for i in integrators]
        yield f"{name:<30}" + "".join(
            f"{'-' if m == '-' else 'holds' if m is None else 'no':>15}" for m in marks
        )
    for (integrator, name), failure in results.items():
        if failure is not None:
            reason = EXCEPTIONS.get((integrator, name)) or in_words(failure)
            yield from textwrap.wrap(
                f"{integrator}, {name}: {reason}", 125, subsequent_indent="    "
            )
