"""Every integrator against every law of tests/laws.py; a table at the end says which hold.

    python -m pytest tests/test_laws.py
    python -m pytest tests/test_laws.py --integrator package.module:function

The first checks every row of the table of integrators, the second one of yours, and nothing else.
Which laws a row has to obey follows from its record; `EXCEPTIONS` lists the rest, with the reason.
A law that need not hold is checked all the same: it has to fail, so that the record stays true.
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

from diffedit_core import schedule
from diffedit_core.integrators import INTEGRATORS, State
from diffedit_core.pipeline import DDIMInverseScheduler, DDIMScheduler

from . import laws, strategies
from .laws import counterexample, in_words

PRECISE = {"tolerance": 1e-12, "iterations": 300}  # of those that iterate
EXCEPTIONS = {
    ("edict", "one_picture_is_found"): "its second evaluation takes a latent of the next level for "
    "one of this level",
    ("belm", "down_then_up_is_exact"): "at the clean level it keeps one latent, which determines "
    "the other only for trajectories that began there",
}


def pytest_generate_tests(metafunc):
    if "integrator" in metafunc.fixturenames:
        own = metafunc.config.getoption("--integrator")
        metafunc.parametrize("integrator", [own] if own else list(INTEGRATORS))


def precise(record):
    """The record with the settings that laws of rounding need."""
    return record.configured(**{k: v for k, v in PRECISE.items() if k in record.settings})


def reason_against(integrator, name):
    """Why a law need not hold for an integrator of the table, or None."""
    promised = laws.LAWS[name].promised(INTEGRATORS[integrator])
    return EXCEPTIONS.get((integrator, name)) or promised or None


def load(name):
    """package.module:function."""
    module, _, function = name.partition(":")
    if not function:
        raise pytest.UsageError(f"--integrator {name}: give it as package.module:function.")
    return functools.reduce(getattr, function.split("."), importlib.import_module(module))


@pytest.mark.parametrize("name", laws.LAWS)
def test_law(integrator, name, request):
    law, ours = laws.LAWS[name], integrator in INTEGRATORS
    if ours:
        step, reason = precise(INTEGRATORS[integrator]).step, reason_against(integrator, name)
    else:
        step, reason = laws.on_tensors(load(integrator)), None
    failure = counterexample(law, step, shrink=reason is None)
    results = request.config.__dict__.setdefault("law_results", {})
    results[integrator, name] = failure
    request.config.laws_table = functools.partial(table, results)

    shown = failure and f"{law.statement} {in_words(failure)}"
    if not ours:
        assert failure is None or law.promised is not laws.by_all, shown
        return
    assert failure is None or reason is not None, shown
    assert failure is not None or reason is None, f"{name} holds for {integrator} after all"


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
            known = integrator in INTEGRATORS and reason_against(integrator, name)
            reason = known or in_words(failure)
            yield from textwrap.wrap(
                f"{integrator}, {name}: {reason}", 100, subsequent_indent="    "
            )
