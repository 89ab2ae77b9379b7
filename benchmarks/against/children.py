"""Processes that edit: how they are started, and what they say."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from diffedit_core import graph_cache
from diffedit_core.errors import InputError

ROOT = Path(__file__).parents[2]
PUBLIC = Path(__file__).with_name("public.py")
NEEDED = ("torch", "diffusers", "transformers")

# What the other side's process sees of our environment: with the variables that MindSpore sets for
# its own threads and libraries PyTorch is half as fast.
KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "OMP_NUM_THREADS")

PROBE = "import importlib.metadata as m; print(*map(m.version, {!r}))"


class Measured(NamedTuple):
    """What a process said.

    start: seconds from before it was there until its modules were imported.
    load, loaded: seconds of loading the model, and the largest memory in bytes after it.
    edits: [{"seconds": {phase: number}, "rows": {phase: number}, "processor", "memory"}].
    versions: {name: text}.
    busy: the system's load average before it began.
    """

    start: float
    load: float
    loaded: int
    edits: list
    versions: dict
    busy: float


def ours(folder, name, threads=None, graphs=None):
    """(command, environment) of our process.

    Args:
        name: of the options, in the folder.
        threads: of OpenMP; None leaves their number to the libraries.
        graphs: the folder of compiled graphs; None compiles them all.
    """
    command = [sys.executable, "-m", f"{__package__}.ours", str(folder), name]
    kept = {graph_cache.VARIABLE: "" if graphs is None else str(graphs)}
    return command, {**os.environ, "GLOG_v": "3", **kept, **limited(threads)}


def public(python, folder, threads=None):
    """(command, environment) of the public pipeline's. Python runs isolated (-I), where the modules
    beside the script do not hide libraries of the same names."""
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    return [python, "-I", str(PUBLIC), str(folder)], {**environment, **limited(threads)}


def limited(threads):
    """The environment variable of a number of threads."""
    return {} if threads is None else {"OMP_NUM_THREADS": str(threads)}


def probe(python, needed=NEEDED):
    """{name: version} of what an interpreter needs for the public pipeline, or a part of it.

    Raises: InputError: there is no such interpreter, or it lacks something.
    """
    command = [python, "-I", "-c", PROBE.format(needed)]
    try:
        found = subprocess.run(command, capture_output=True, text=True)
    except OSError as problem:
        raise InputError(f"--python {python} cannot be started: {problem.strerror}.") from None
    versions = found.stdout.split()
    if found.returncode or len(versions) != len(needed):
        reason = (found.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise InputError(
            f"--python {python} does not have {', '.join(needed)} ({reason}): install them there, "
            "or name another interpreter."
        )
    return dict(zip(needed, versions))


def run(name, command, environment):
    """Run a process to its end: `Measured`.

    Args: name: what it is, for messages.
    Raises: InputError: it failed, with its own last line.
    """
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        begun = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            lines = [(time.perf_counter() - begun, line) for line in process.stdout]
            code = process.wait()
        finally:
            process.kill()
            process.wait()
        errors.seek(0)
        reason = (errors.read().strip().splitlines() or [f"exit code {code}"])[-1]
    if code:
        raise InputError(f"The process of {name} failed: {reason}")
    return measured(name, lines, busy)


def measured(name, lines, busy):
    """`Measured` of (seconds, line) of a process.

    Raises: InputError: the lines are not as `child.serve` says them.
    """
    try:
        said = [(seconds, json.loads(line)) for seconds, line in lines]
        events = [message["event"] for _, message in said]
        if events[:2] != ["ready", "loaded"] or events[-1:] != ["done"]:
            raise ValueError("not to the end")
        (start, first), (_, second) = said[:2]
        edits = [message for _, message in said if message["event"] == "edited"]
        return Measured(start, second["seconds"], second["memory"], edits, first["versions"], busy)
    except (ValueError, KeyError, TypeError) as problem:
        raise InputError(f"The process of {name} did not say what it took ({problem}).") from None
