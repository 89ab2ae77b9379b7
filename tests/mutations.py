"""Plant faults in the equations and see that the tests find every one.

    python -m tests.mutations [--only NAME ...] [--list]

Each fault replaces a piece of text in a copy of the tree; then the tests that belong to the file
run there until one fails. Before that they have to pass there without a fault.
A fault that survives is a gap in the tests: its name is printed and the exit code is 1.
"""

import argparse
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
PARTS = [
    importlib.import_module(f"tests.faults.{part.name}")
    for part in pkgutil.iter_modules([str(ROOT / "tests" / "faults")])
]
FAULTS = tuple(fault for part in PARTS for fault in part.FAULTS)
TESTS = {module: tests for part in PARTS for module, tests in part.TESTS.items()}


NO_TESTS = 5  # pytest's exit code where a selection finds none


def failures(module, text, first=None):
    """The tests of a module that fail, the first at least, if its text in a copy of the tree is
    this one."""
    with tempfile.TemporaryDirectory() as place:
        for part in ("diffedit_core", "tests", "weights_convert", "benchmarks"):
            if (ROOT / part).is_dir():
                shutil.copytree(
                    ROOT / part, Path(place) / part, ignore=shutil.ignore_patterns("__pycache__")
                )
        shutil.copy(ROOT / "setup.cfg", place)
        (Path(place) / file_of(module)).write_text(text, encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "--tb=no",
            "-p",
            "no:cacheprovider",
            *TESTS[module],
        ]
        environment = {**os.environ, "PYTHONPATH": place, "HYPOTHESIS_PROFILE": "faults"}
        for selection in filter(None, (first and ["-k", first], ["-k", ""])):
            run = subprocess.run(
                command + selection, cwd=place, env=environment, capture_output=True, text=True
            )
            failed = [
                line.split()[1]
                for line in run.stdout.splitlines()
                if line.startswith(("FAILED", "ERROR"))
            ]
            # MindSpore 2.8 can end by a signal when all tests are over: after a reshaped view
            ended = run.returncode < 0 and failed
            if run.returncode not in (0, 1, NO_TESTS) and not ended:
                raise SystemExit(
                    f"{module}: pytest could not run:\n{run.stdout[-2000:]}{run.stderr[-2000:]}"
                )
            if failed:
                break
        return failed


def file_of(module):
    """The path of a fault's module, which has no suffix if it is Python's."""
    return module if Path(module).suffix else f"{module}.py"


def source(module):
    return (ROOT / file_of(module)).read_text(encoding="utf-8")


def planted(fault, text):
    """The text with the fault in place of `old`, which is found token by token.

    Raises:
        SystemExit: `old` is not there exactly once.
    """
    tokens = re.findall(r"\w+|[^\w\s]", fault.old)
    gaps = [r"\s*,?\s*" if token in ")]}" else r"\s*" for token in tokens[1:]]
    pattern = re.escape(tokens[0])
    pattern += "".join(gap + re.escape(token) for gap, token in zip(gaps, tokens[1:]))
    places = re.findall(pattern, text)
    if len(places) != 1:
        raise SystemExit(
            f"{fault.name}: its text is {len(places)} times in {fault.module}.py: "
            "bring it up to date."
        )
    return text.replace(places[0], fault.new)


def found(fault):
    """The tests that fail with the fault in place."""
    return failures(fault.module, planted(fault, source(fault.module)), fault.first)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="faults of these modules, or with one of these in their names",
    )
    parser.add_argument("--list", action="store_true", help="only name them")
    arguments = parser.parse_args()
    chosen = [
        f
        for f in FAULTS
        if not arguments.only
        or any(f.module.endswith(only) or only in f.name for only in arguments.only)
    ]
    if arguments.list:
        print("\n".join(f"{fault.module:<26} {fault.name}" for fault in chosen))
        return 0
    for module in dict.fromkeys(fault.module for fault in chosen):
        failed = failures(module, source(module))
        if failed:
            raise SystemExit(f"Without a fault {', '.join(failed)} fails already: mend that first.")
    survivors = 0
    for fault in chosen:
        start = time.perf_counter()
        failed = found(fault)
        survivors += not failed
        seconds = time.perf_counter() - start
        print(
            f"{'caught' if failed else 'SURVIVES':<9} {fault.module:<26} {fault.name:<40} "
            f"{seconds:5.0f} s  "
            f"{', '.join(failed)}",
            flush=True,
        )
    print(f"{len(chosen) - survivors} of {len(chosen)} faults caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
