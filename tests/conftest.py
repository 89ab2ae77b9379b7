"""Hypothesis profiles: "dev" by default, "ci" with ten times the examples, "faults" for
tests/mutations.py, which needs no smallest example; the table of laws at the end of a run.

Choose a profile by the environment variable HYPOTHESIS_PROFILE or by pytest's --hypothesis-profile.
"""

import os

import mindspore as ms
from hypothesis import HealthCheck, Phase, settings

COMMON = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow],
}  # a first operation in MindSpore takes a second
settings.register_profile("dev", max_examples=25, derandomize=True, **COMMON)
settings.register_profile("ci", max_examples=250, **COMMON)
settings.register_profile(
    "faults", max_examples=8, derandomize=True, phases=(Phase.explicit, Phase.generate), **COMMON
)
ms.runtime.launch_blocking()  # as `kernels.set_up` does on a CPU
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_addoption(parser):
    parser.addoption(
        "--integrator",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="check this integrator against tests/laws.py",
    )


def pytest_terminal_summary(terminalreporter):
    """Which laws hold for which integrator, where test_laws.py has run."""
    for line in getattr(terminalreporter.config, "laws_table", lambda: [])():
        terminalreporter.write_line(line)
