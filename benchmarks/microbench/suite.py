"""Runs a suite: each distinct call is checked, then timed, then recorded; at the end the sum of all
calls is held against the whole evaluation."""

import time
from typing import NamedTuple

import mindspore as ms
import numpy as np

from diffedit_core import kernels as K
from diffedit_core.errors import InputError
from diffedit_core.trace import Call

from . import cases, flops, glue, machine, models, peaks, records, timers
from .tolerance import tolerance

LONG = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
CLOSED = 10  # percent that the sum of the calls may differ from the whole


class Settings(NamedTuple):
    """What was asked for: see the command line."""

    suites: tuple
    model: str
    size: int
    batch: int
    dtypes: tuple
    kernels: tuple
    timers: tuple = ("wall",)
    warmup: int = 3
    iters: int = 10
    repeats: int = 5
    l2: str = "warm"
    jit_level: str = None
    hf32: str = "none"
    only: str = None

    def common(self, suite, dtype, variant):
        """The fields that rows of a suite share."""
        names = ("iters", "repeats", "warmup")
        return dict(
            suite=suite,
            model=None if suite == "anchors" else self.model,
            size=None if suite == "anchors" else self.size,
            batch=None if suite == "anchors" else self.batch,
            dtype=dtype,
            variant=variant,
            l2=self.l2,
            jit_level=self.jit_level,
            hf32=self.hf32,
            settings={name: getattr(self, name) for name in names},
        )


def check_dtypes(dtypes):
    """Raises InputError for a dtype that the device lacks."""
    if "bf16" in dtypes and K.device() == "CPU":
        raise InputError("MindSpore has no bf16 products on a CPU: choose fp32 or fp16.")


def label(model):
    """A model's name in a record: a folder is only called one."""
    return model if model in (*models.KNOWN, "orchard") else "folder"


def plan(settings):
    """[(part, dtype, {call: times})] of all suites, with `only` applied."""
    found = []
    for suite in settings.suites:
        for part in models.parts(suite, settings.model, settings.size, settings.batch):
            for dtype in settings.dtypes:
                calls = models.calls(part, dtype)
                kept = {c: n for c, n in calls.items() if settings.only in (None, c.name)}
                found.append((part, dtype, kept))
    names = {call.name for _, _, calls in found for call in calls}
    if settings.only and not names:
        raise InputError(f"No call of these suites is {settings.only!r}: see --list.")
    return found


def anchors(dtype, device=None):
    """The calls whose rates are the measured peaks: [(name, `Call`)]."""
    kind, big = LONG[dtype], (device or K.device()) == "Ascend"
    elements = (1 << 30 if big else 1 << 28) // flops.SIZES[kind]
    found = [
        ("matmul", Call("linear", ((n, n), (n, n)), (kind,) * 2, (None,)))
        for n in ((4096, 8192) if big else (1024, 2048))
    ]
    found.append(("copy", Call("multiply", ((elements,),), (kind,), (-1.0,))))
    found.append(("triad", Call("triad", ((elements,),) * 2, (kind,) * 2, (0.5,))))
    found.append(("launch", Call("add", ((1,), (1,)), (kind,) * 2, ())))
    return found


def measure(function, settings):
    """{field: value} of the times of a function without arguments, and of its kernels."""
    flush = timers.flusher() if settings.l2 == "cold" else None
    args = (settings.warmup, settings.iters)
    fields = {}
    if "wall" in settings.timers:
        fields["wall_us"] = timers.statistics(timers.wall(function, *args, settings.repeats, flush))
    if "event" in settings.timers:
        fields["event_us"] = timers.statistics(timers.event(function, *args, settings.repeats))
    if "device" in settings.timers:
        found = timers.device(function, *args, flush)
        fields["device_us"] = timers.statistics([t / 1e6 for t in found.device_us])
        fields["span_us"] = timers.statistics([t / 1e6 for t in found.span_us])
        fields.update(found.fields())
    medians = {t: fields[f"{t}_us"]["p50"] for t in settings.timers}
    fields["note"] = timers.check_order(medians) if flush is None else None
    if "event" in medians and "device" in medians:
        fields["host_bound"] = medians["event"] > 1.2 * medians["device"]
    fields["max_memory_allocated"] = machine.peak_memory()
    return fields


def first_call(function):
    """(result, seconds with compiling)."""
    start = time.perf_counter()
    result = function()
    timers.synchronise()
    return result, time.perf_counter() - start


def row_of_call(call, op, times, common, settings, table):
    """The record of a call: checked, and timed if it is right.

    Returns: (record, whether the result is right).
    """
    case = cases.case(call, np.random.default_rng(0))
    graph = cases.graph(case, table)
    result, first = first_call(graph)
    error = cases.error(case, result)
    bound = tolerance(call.name, flops.result_dtype(call), settings.hf32)
    right = error <= bound
    row = records.record(
        **common,
        op=op,
        shapes=[list(s) for s in call.shapes],
        args=list(call.settings),
        count=times,
        first_call_s=round(first, 4),
        flops=flops.flops(call),
        bytes=flops.bytes_of(call),
        error=error if np.isfinite(error) else None,
        tolerance=bound,
    )
    if right:
        row.update(measure(graph, settings))
    else:
        row["note"] = f"wrong: error {error:.1e}, allowed {bound:.1e}; not timed"
    return row, right


def row_of_whole(part, dtype, variant, table, common, settings):
    """The record of one whole evaluation."""
    function = cases.whole(part, dtype, table, np.random.default_rng(0))
    _, first = first_call(function)
    whole = settings._replace(iters=1, repeats=max(3, settings.repeats), warmup=1)
    calls = models.calls(part, dtype)
    row = records.record(
        **{**common, "suite": part.name},
        record="whole",
        op="whole",
        shapes=[list(s) for s, _ in part.inputs],
        count=1,
        first_call_s=round(first, 4),
        flops=sum(flops.flops(c) * n for c, n in calls.items()),
    )
    row.update(measure(function, whole))
    return row


def books(rows, whole, launch_us):
    """The sum of count x time against the whole evaluation.

    Host timers count one launch for each call, the whole has only one: it is taken off the calls.

    Returns: {"sum_us", "glue_us", "whole_us", "rest_pct", "closed", "wrong"}.
    """
    total, between, wrong = 0.0, 0.0, 0
    for row in rows:
        us = peaks.time_of(row)
        if us is None:
            wrong += 1
            continue
        own = us if row.get("device_us") else max(0.0, us - (launch_us or 0.0))
        total += own * row["count"]
        between += own * row["count"] * (row["op"] in glue.TABLE)
    measured = peaks.time_of(whole)
    rest = 100 * (measured - total) / measured
    closed = not wrong and abs(rest) <= CLOSED
    return dict(
        sum_us=total, glue_us=between, whole_us=measured, rest_pct=rest, closed=closed, wrong=wrong
    )


def run(settings, tables, writer, say):
    """Measure everything.

    Args:
        settings: `Settings`.
        tables: {variant: kernels}, a name of `kernels.LOWERINGS` or a table.
        writer: `records.Writer`.
        say: called with each line of text.
    Returns: number of wrong results.
    """
    where, wrong = machine.describe(), 0

    def kept(row, compute):
        """What an earlier run measured, or what is computed now."""
        found = writer.find(row)
        if found is None:
            found = compute()
            found.update(where)
            writer.add(found)
        return found

    for dtype in settings.dtypes:
        common = settings.common("anchors", dtype, "library")
        for op, call in anchors(dtype):
            shapes, args = [list(s) for s in call.shapes], list(call.settings)
            key = records.record(**common, record="anchor", op=op, shapes=shapes, args=args)

            def compute():
                fields = {**common, "record": "anchor"}
                table = "cpu" if K.device() == "CPU" else K.default_kernels()
                row = row_of_call(call, op, 1, fields, settings, table)[0]
                row.update(peaks.rates(row, where["soc"], None))
                return row

            row = kept(key, compute)
            wrong += not peaks.time_of(row)
            say(line(row))
    seen = [r for r in writer.rows if r["record"] == "anchor"]
    for part, dtype, calls in plan(settings):
        peak = peaks.measured(seen, dtype)
        for variant, table in tables.items():
            common = settings.common(part.name, dtype, variant)
            rows = []
            for call, times in sorted(calls.items(), key=lambda item: str(item[0])):
                shapes, args = [list(s) for s in call.shapes], list(call.settings)
                fields = {**common, "record": "call"}
                key = records.record(**fields, op=call.name, shapes=shapes, args=args)

                def compute():
                    row = row_of_call(call, call.name, times, fields, settings, table)[0]
                    row.update(peaks.rates(row, where["soc"], peak))
                    return row

                rows.append(kept(key, compute))
                wrong += not peaks.time_of(rows[-1])
                say(line(rows[-1]))
            if settings.only is None:
                shapes = [list(s) for s, _ in part.inputs]
                key = records.record(**common, record="whole", op="whole", shapes=shapes)
                whole = kept(
                    key, lambda: row_of_whole(part, dtype, variant, table, common, settings)
                )
                say(books_line(part.name, variant, books(rows, whole, peak["launch_us"])))
    return wrong


def line(row):
    """A row for the screen."""
    us, shapes = peaks.time_of(row), " ".join("x".join(map(str, s)) for s in row["shapes"])
    head = f"{row['op']:<20} {row['dtype']} {row['variant']:<10} {row['count']:>4} x"
    if us is None:
        return f"{head} {row['note']}  {shapes}"
    times = next(row[f] for f in ("device_us", "event_us", "wall_us") if row.get(f))
    rate = f"{row['tflops'] * 1e3:8.1f} GFLOP/s {row['gbs']:7.1f} GB/s"
    note = f"  {row['note']}" if row.get("note") else ""
    return (
        f"{head} {us:11.1f} us ({times['p20']:.1f} to {times['p80']:.1f}) {rate} "
        f"{row['bound'] or '':<7} error {row['error']:.1e}  {shapes}{note}"
    )


def books_line(name, variant, found):
    """The books for the screen."""
    state = "closed" if found["closed"] else f"NOT closed within {CLOSED} %"
    wrong = f", {found['wrong']} calls without a time" if found["wrong"] else ""
    return (
        f"{name} with {variant}: sum of the calls {found['sum_us'] / 1e3:.2f} ms (of these between "
        f"the kernels {found['glue_us'] / 1e3:.2f} ms), whole {found['whole_us'] / 1e3:.2f} ms, "
        f"rest {found['rest_pct']:+.1f} %: {state}{wrong}"
    )
