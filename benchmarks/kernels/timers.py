"""The timers: wall (perf_counter and one synchronise), event (slope of R and 2R calls), device (the
profiler's kernel times). No result is copied in a timed region.

The last two need a device that has them; their code has not run on one yet.
"""

import tempfile
import time
from pathlib import Path

import mindspore as ms
import numpy as np

from diffedit_core import kernels as K
from diffedit_core.errors import InputError

from . import profiler_csv
from .arguments import TIMERS

FLUSH_BYTES = 384 << 20  # twice the largest second-level cache of the table of peaks
DISAGREEMENT = 0.02  # a shorter timer may be longer by this share before it is called wrong


def synchronise():
    """Wait for the device; a CPU's graph has ended when its call returns."""
    if K.device() != "CPU":
        ms.runtime.synchronize()


def flusher():
    """A function that drives everything else out of the device's caches."""
    buffer = ms.ops.zeros(FLUSH_BYTES // 4, ms.float32)
    return lambda: ms.ops.ReduceMax()(buffer)  # no case has this operation


def statistics(seconds):
    """{"p20", "p50", "p80", "min" (microseconds), "n"} of a list of seconds."""
    low, middle, high = np.percentile(np.asarray(seconds) * 1e6, (20, 50, 80))
    smallest = float(np.min(seconds)) * 1e6
    figures = {"p20": low, "p50": middle, "p80": high, "min": smallest}
    return {**{k: round(float(v), 3) for k, v in figures.items()}, "n": len(seconds)}


def warm_up(function, times):
    """Call a function some times, and wait."""
    for _ in range(times):
        function()
    synchronise()


def wall(function, warmup, iters, repeats, flush=None, clock=time.perf_counter):
    """Seconds of a call: with warm caches `repeats` means over `iters` calls and one synchronise;
    with `flush` each call by itself, `iters * repeats` of them."""
    warm_up(function, warmup)
    seconds = []
    if flush is not None:
        for _ in range(iters * repeats):
            flush()
            synchronise()
            start = clock()
            function()
            synchronise()
            seconds.append(clock() - start)
        return seconds
    for _ in range(repeats):
        start = clock()
        for _ in range(iters):
            function()
        synchronise()
        seconds.append((clock() - start) / iters)
    return seconds


def event(function, warmup, iters, repeats, bracket=None):
    """Seconds of a call as the slope between `iters` and twice as many calls, `repeats` times."""
    bracket = between_events if bracket is None else bracket
    warm_up(function, warmup)
    slopes = []
    for _ in range(repeats):
        once, twice = bracket(function, iters), bracket(function, 2 * iters)
        slopes.append((twice - once) / iters)
    return slopes


def between_events(function, times):
    """Seconds that the device's clock counts between two events around the calls."""
    start, stop = (ms.runtime.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(times):
        function()
    stop.record()
    ms.runtime.synchronize()
    return start.elapsed_time(stop) / 1e3


def device(function, warmup, iters, flush=None, keep=None):
    """`profiler_csv.Steps` of `iters` calls, each one step of the profiler at its level 1.

    Args:
        flush: called before each call; its kernels are left out.
        keep: folder for the profiler's files; they are thrown away without one.
    Raises: InputError: the profiler's file is not as documented.
    """
    from mindspore import profiler as prof

    before = max(1, warmup)  # in the profiler's warm-up, whose kernels it does not write
    with tempfile.TemporaryDirectory() as folder:
        target = str(keep or folder)
        settings = prof._ExperimentalConfig(
            profiler_level=prof.ProfilerLevel.Level1, aic_metrics=prof.AicoreMetrics.PipeUtilization
        )
        with prof.profile(
            activities=[prof.ProfilerActivity.CPU, prof.ProfilerActivity.NPU],
            schedule=prof.schedule(wait=0, warmup=before, active=iters, repeat=1, skip_first=0),
            on_trace_ready=prof.tensorboard_trace_handler(target),
            experimental_config=settings,
        ) as session:
            for _ in range(before + iters):
                if flush is not None:
                    flush()
                function()
                ms.runtime.synchronize()
                session.step()
        return profiler_csv.steps(newest(target), iters)


def newest(folder):
    """The latest kernel_details.csv below a folder."""
    pattern = "*_ascend_ms/ASCEND_PROFILER_OUTPUT/kernel_details.csv"
    files = sorted(Path(folder).glob(pattern), key=lambda file: file.stat().st_mtime)
    if not files:
        raise InputError(
            "The profiler wrote no kernel_details.csv: see its log, or measure with --timer event."
        )
    return files[-1]


def check_order(times):
    """A sentence where not device <= event <= wall; None where it holds.

    Args: times: {timer: median in microseconds}.
    """
    known = [(timer, times[timer]) for timer in TIMERS if timer in times]
    for (inner, short), (outer, long) in zip(known, known[1:]):
        if short > long * (1 + DISAGREEMENT):
            return (
                f"{inner} says {short:.1f} us, {outer} only {long:.1f} us: they do not time the "
                "same work."
            )
    return None
