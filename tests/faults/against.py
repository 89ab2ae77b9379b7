"""Faults in benchmarks/against and benchmarks/scaling: phases, agreement, ratios, rounds, fits."""

from . import Fault

AGAINST, SCALING = "tests/test_against.py", "tests/test_scaling.py"
TESTS = {
    "benchmarks/against/child": (AGAINST,),
    "benchmarks/against/agreement": (AGAINST,),
    "benchmarks/against/rounds": (AGAINST,),
    "benchmarks/against/tables": (AGAINST,),
    "benchmarks/scaling": (SCALING,),
}

FAULTS = (
    Fault(
        "an inner phase counts twice",
        "benchmarks/against/child",
        "self.seconds[self._open[-1]] += now - self._since",
        "for name in self._open:\n                self.seconds[name] += now - self._since",
        "add_up",
    ),
    Fault(
        "not a number passes for agreement",
        "benchmarks/against/agreement",
        "if not found[name] <= allowed[name]",
        "if found[name] > allowed[name]",
        "no_error_passes",
    ),
    Fault(
        "the last round's error counts alone",
        "benchmarks/against/rounds",
        'np.max([old["error"], new["error"]])',
        'np.max([new["error"]])',
        "any_grouping",
    ),
    Fault(
        "theirs over ours",
        "benchmarks/against/tables",
        "return ours / theirs if theirs else None",
        "return theirs / ours if theirs else None",
        "ratios",
    ),
    Fault(
        "the fit goes through the origin",
        "benchmarks/scaling",
        "a, b = a - a.mean(), b - b.mean()",
        "a, b = a + 0, b + 0",
        "exponent",
    ),
)
