"""One call, or one whole evaluation: first its result, then its time."""

import re
import time
from pathlib import Path

import numpy as np

from diffedit_core.errors import InputError

from . import cases, flops, machine, timers, tolerance

WHOLE = 3  # times that a whole evaluation is timed
HOST_BOUND = 1.2  # event time over the device's from which the device waits for the host


def checked(case, wanted, table, settings, head):
    """The fields of a call with a table: its error, and its times if it is right.

    Args:
        case: `cases.Case`.
        wanted: the result in float64.
        table: kernels.
        settings: `suite.Settings`.
        head: the row so far, for the name of the profiler's folder.
    """
    call = case.call
    bound = tolerance.bound(call, table, settings.hf32)
    fields = {"flops": flops.flops(call), "bytes": flops.bytes_of(call), "tolerance": bound}
    graph = cases.graph(case, table)
    try:
        result, first = first_call(graph)
    except (RuntimeError, TypeError, ValueError) as problem:
        return {**fields, "note": f"failed: {without_paths(problem)}"}
    error = cases.error(result, wanted)
    fields.update(first_call_s=round(first, 4), error=error if np.isfinite(error) else None)
    if not error <= bound:
        return {**fields, "note": f"wrong: error {error:.1e}, allowed {bound:.1e}; not timed"}
    return {**fields, **times(graph, settings, folder_of(settings, head))}


def whole(part, dtype, table, settings):
    """The fields of a whole evaluation."""
    function = cases.whole(part, dtype, table, np.random.default_rng(0))
    try:
        _, first = first_call(function)
    except (RuntimeError, TypeError, ValueError) as problem:
        return {"note": f"failed: {without_paths(problem)}"}
    own = settings._replace(iters=1, repeats=WHOLE, warmup=0)  # the first call has warmed up
    head = {"op": "whole", "suite": part.name, "dtype": dtype, "variant": str(table)}
    return {"first_call_s": round(first, 4), **times(function, own, folder_of(settings, head))}


def first_call(function):
    """(result, seconds with compiling)."""
    start = time.perf_counter()
    result = function()
    timers.synchronise()
    return result, time.perf_counter() - start


def times(function, settings, folder=None):
    """{field: value} of the times of a function without arguments, and of its kernels."""
    flush = timers.flusher() if settings.l2 == "cold" else None
    args, fields, notes = (settings.warmup, settings.iters), {}, []
    machine.reset_memory()
    if "wall" in settings.timers:
        fields["wall_us"] = timers.statistics(timers.wall(function, *args, settings.repeats, flush))
    if "event" in settings.timers:
        fields["event_us"] = timers.statistics(timers.event(function, *args, settings.repeats))
    if "device" in settings.timers:
        try:
            found = timers.device(function, *args, flush, folder)
        except InputError as refused:
            notes.append(f"no device time: {refused}")
        else:
            fields["device_us"] = timers.statistics([t / 1e6 for t in found.device_us])
            fields["span_us"] = timers.statistics([t / 1e6 for t in found.span_us])
            fields.update(found.fields())
    medians = {t: fields[f"{t}_us"]["p50"] for t in timers.TIMERS if f"{t}_us" in fields}
    notes.append(timers.check_order(medians) if flush is None else None)
    if "event" in medians and "device" in medians:
        fields["host_bound"] = medians["event"] > HOST_BOUND * medians["device"]
    fields["note"] = " ".join(filter(None, notes)) or None
    fields["max_memory_allocated"] = machine.peak_memory()
    fields["clock_mhz"] = machine.clock()
    return fields


def folder_of(settings, head):
    """Where the profiler's files of a row are kept, if they are."""
    if settings.profile_dir is None:
        return None
    words = [head[name] for name in ("suite", "op", "dtype", "variant")]
    stem = "-".join(re.sub(r"\W+", "_", str(word)) for word in words)
    number = len(list(Path(settings.profile_dir).glob(f"{stem}-*")))
    return Path(settings.profile_dir) / f"{stem}-{number}"


def without_paths(problem):
    """The first line of an exception's text, with the folders of files left out."""
    first = next((line for line in str(problem).splitlines() if line.strip()), "no message")
    return re.sub(r"(?:[A-Za-z]:)?[/\\](?:[^/\\\s:'\"]+[/\\])+", "", first).strip()[:200]
