"""One component of a model, ours and PyTorch's in turn on the same inputs."""

import os
import signal
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from diffedit_core.errors import InputError

from ..timing import summary
from . import children, networks

NEEDED = ("torch", "diffusers")
SCRIPT = Path(__file__).with_name("component.py")


def check(arguments):
    """Raise InputError for options that only one of the two sides would follow."""
    if arguments.pytorch and arguments.dtype != "fp32":
        raise InputError(f"--dtype {arguments.dtype}: --pytorch compares in fp32.")
    if arguments.pytorch and getattr(arguments, "tiling", False):
        raise InputError("--tiling: --pytorch compares whole pictures.")


class PyTorch:
    """A component in another process, which evaluates it once for each line that it is sent.

    Python runs isolated (-I), where the modules beside the script do not hide libraries of the same
    names, and without the environment variables that MindSpore sets for its own threads and
    libraries: with them PyTorch is half as fast. Between its turns the process is stopped, where
    the system can do that: its threads would wait by spinning, at the other side's cost.

    Args:
        python: the interpreter.
        model: a folder in the diffusers layout.
        component: of `component.COMPONENTS`.
        inputs: {name: array}.
    A call raises InputError where the process has ended.
    """

    def __init__(self, python, model, component, inputs):
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        np.savez(folder / "inputs.npz", **inputs)
        self.output = folder / "output.npy"
        command = [python, "-I", str(SCRIPT), str(model), component, str(folder)]
        environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self):
        self._send("SIGCONT")
        print("go", file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline().split()
        if answer[:1] != ["done"]:
            raise InputError("PyTorch's process ended: its message stands above.")
        self._send("SIGSTOP")
        return np.load(self.output)

    def _send(self, name):
        if hasattr(signal, name):
            self.process.send_signal(getattr(signal, name))

    def close(self):
        """End the process."""
        self._send("SIGCONT")
        self.process.stdin.close()
        self.process.wait()
        self._folder.cleanup()


def rows(ours, seconds, python):
    """The rows of what was measured: ours, and PyTorch's where it took turns.

    Args:
        ours: our row.
        seconds: {side: seconds} of `timing.alternate`.
        python: PyTorch's interpreter.
    """
    if len(seconds) == 1:
        return [ours]
    versions = children.probe(python, NEEDED)
    return [ours, networks.theirs(ours, seconds["pytorch"], versions)]


def difference(found, expected):
    """The largest difference over the largest value."""
    return np.abs(found - expected).max() / np.abs(expected).max()


def lines(seconds):
    """What is said of {name: seconds}, as `timing.alternate` gives them."""
    for name, values in seconds.items():
        yield f"{name:<19} {summary(values)}"
    if len(seconds) == 2:
        one, other = (np.median(values) for values in seconds.values())
        yield f"ratio of medians    {one / other:6.2f}"
