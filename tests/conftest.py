"""Hypothesis profiles: "dev" by default, "ci" with ten times the examples, "faults" for
tests/mutations.py, which needs no smallest example; the table of laws at the end of a run; a core
for each of several processes, and one cache of compiled graphs for them and for what they start.

Choose a profile by the environment variable HYPOTHESIS_PROFILE or by pytest's --hypothesis-profile.
"""

import atexit
import os
import shutil
import tempfile


def share_graphs():
    """The first process makes a folder for the graphs that all compile, as long as the tests
    run."""
    if "DIFFEDIT_GRAPH_CACHE" not in os.environ:
        os.environ["DIFFEDIT_GRAPH_CACHE"] = tempfile.mkdtemp(prefix="diffedit-tests-")
        atexit.register(shutil.rmtree, os.environ["DIFFEDIT_GRAPH_CACHE"], ignore_errors=True)


def keep_to_a_core():
    """Bind one of pytest-xdist's processes to a core where each can have one: MindSpore's threads
    wait by spinning, which takes the other processes' time."""
    number = os.environ.get("PYTEST_XDIST_WORKER", "gw").removeprefix("gw")
    if not number or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if int(os.environ["PYTEST_XDIST_WORKER_COUNT"]) <= len(cores):
        os.sched_setaffinity(0, {cores[int(number) % len(cores)]})


share_graphs()
keep_to_a_core()  # before MindSpore counts the cores

import mindspore as ms  # noqa: E402
from hypothesis import HealthCheck, Phase, settings  # noqa: E402

COMMON = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow],
}  # a first operation in MindSpore takes a second
settings.register_profile("dev", max_examples=25, derandomize=True, **COMMON)
settings.register_profile("ci", max_examples=250, **COMMON)
settings.register_profile(
    "faults", max_examples=8, derandomize=True, phases=(Phase.explicit, Phase.generate), **COMMON
)
LONGEST = (  # the files to begin with
    "test_readme.py",
    "test_cli.py",
    "test_vae.py",
    "test_weights.py",
    "test_measuring_command.py",
    "test_round_trip.py",
    "test_ascend_inventory.py",
    "test_pipeline.py",
    "test_public_programs.py",
)
ms.runtime.launch_blocking()  # as `kernels.set_up` does on a CPU
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_addoption(parser):
    parser.addoption(
        "--integrator",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="check this integrator against tests/laws.py",
    )


def pytest_configure(config):
    """Several processes take the files in the order of `pytest_collection_modifyitems`."""
    if hasattr(config.option, "loadscopereorder"):  # of pytest-xdist
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """The longest files first, so that no process is left with one at the end."""
    places = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


def pytest_terminal_summary(terminalreporter):
    """Which laws hold for which integrator, where test_laws.py has run."""
    for line in getattr(terminalreporter.config, "laws_table", lambda: [])():
        terminalreporter.write_line(line)


def pytest_unconfigure():
    """One more operation: MindSpore 2.8 ends by a signal where a process's last one has reshaped a
    transposed view, operation by operation."""
    (ms.Tensor([1.0]) + 1).asnumpy()
