"""Every integrator against every law of tests/laws.py; a table at the end says which hold.

    python -m pytest tests/test_laws.py                                         the integrators of this package
    python -m pytest tests/test_laws.py --integrator package.module:function    one of yours, and nothing else

`EXCEPTIONS` lists each law that one of ours does not satisfy, with the reason. Such a law is checked all the same: it has to
fail, so that the list stays true.
"""

import functools
import importlib
import textwrap

import pytest
from hypothesis import Phase, given, settings

from diffedit_core import integrators as I

from . import laws

OURS = {
    "ddim": I.ddim, "dpmpp_2m": I.dpmpp_2m, "edict": I.edict, "belm": I.belm,
    "fixed_point": functools.partial(I.fixed_point, tolerance=1e-13, iterations=300),
    "anderson": functools.partial(I.fixed_point, tolerance=1e-13, iterations=300, memory=I.ANDERSON_MEMORY),
}
EXCEPTIONS = {}


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

    @settings(report_multiple_bugs=False, print_blob=False, database=None, phases=phases if shrink else phases[:2])
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
    shown = None if failure is None else f"{law.statement}\n{type(failure[0]).__name__}: {failure[0]}\n{failure[1]}"
    if own:
        assert failure is None or not law.holds_for_all, shown
    else:
        assert failure is None or reason is not None, shown
        assert failure is not None or reason is None, f"{name} holds for {integrator} after all: strike it from EXCEPTIONS"


def table(results):
    """Lines of the table, then the reason or the smallest counterexample of each law that does not hold."""
    integrators = list(dict.fromkeys(i for i, _ in results))
    names = [n for n in laws.LAWS if any((i, n) in results for i in integrators)]
    yield ""
    yield f"{'law':<30}" + "".join(f"{i[-14:]:>15}" for i in integrators)
    for name in names:
        marks = [results.get((i, name), "-") for i in integrators]
        yield f"{name:<30}" + "".join(f"{'-' if m == '-' else 'holds' if m is None else 'no':>15}" for m in marks)
    for (integrator, name), failure in results.items():
        if failure is not None:
            reason = EXCEPTIONS.get((integrator, name)) or f"{type(failure[0]).__name__}: {failure[0]}; {failure[1]}"
            yield from textwrap.wrap(f"{integrator}, {name}: {reason}", 125, subsequent_indent="    ")
