"""Time functions fairly on a noisy machine: warm up, alternate, report medians and their ratio."""

import time
from pathlib import Path

import mindspore as ms
import numpy as np

from diffedit_core import kernels


def alternate(functions, runs=7, before=0):
    """Seconds of each of {name: function}, called in turn `runs` times after one warm-up: {name:
    array of seconds}.

    Args: before: calls in each turn before the timed one, which finds its own data in the caches
        then and not the other side's.
    Each function has to wait for its own result. An exception ends the measurement.
    """
    for function in functions.values():
        function()
    seconds = {name: [] for name in functions}
    for _ in range(runs):
        for name, function in functions.items():
            for _ in range(before):
                function()
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def summary(seconds):
    """Median with the 20th and 80th percentile, in milliseconds."""
    low, middle, high = np.percentile(seconds * 1e3, (20, 50, 80))
    return f"{middle:9.2f} ms ({low:.2f} to {high:.2f})"


def peak_memory():
    """The largest memory so far, in GiB: the device's; on a CPU the resident set of this process
    (Linux)."""
    if kernels.device() != "CPU":
        return ms.runtime.max_memory_allocated() / 2**30
    (line,) = [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    ]
    return int(line.split()[1]) / 2**20
