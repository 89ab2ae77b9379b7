"""Runs a suite: each distinct call is checked, then timed, then recorded; at the end the sum of all
calls is held against the whole evaluation."""

from typing import NamedTuple

import numpy as np

from diffedit_core import kernels as K
from diffedit_core.errors import InputError
from diffedit_core.trace import Call

from . import books, cases, flops, machine, measure, models, peaks, records

LONG = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
# device -> (sides of the matrices, bytes of an array) of the anchors
ANCHORS = {"Ascend": ((4096, 8192), 1 << 30), "CPU": ((1024, 2048), 1 << 28)}


class Settings(NamedTuple):
    """What was asked for: see the command line."""

    suites: tuple
    model: str
    size: int
    batch: int  # None: of each suite its own
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
    profile_dir: str = None
    whole: tuple = None  # of `kernels`, the tables whose whole evaluation is measured; None: all

    @property
    def evaluated(self):
        """The tables whose whole evaluation is measured."""
        chosen = self.kernels if self.whole is None else self.whole
        return () if self.only else tuple(name for name in self.kernels if name in chosen)

    def head(self, record, suite, dtype, variant, **fields):
        """A row that says what is measured, and how; not what came out."""
        own = {} if suite == "anchors" else {"model": models.label(self.model), "size": self.size}
        how = {name: getattr(self, name) for name in ("iters", "repeats", "warmup", "timers")}
        return records.record(
            record=record,
            suite=suite,
            dtype=dtype,
            variant=variant,
            l2=self.l2,
            jit_level=self.jit_level,
            hf32=self.hf32,
            settings={**how, "timers": list(self.timers)},
            **own,
            **fields,
        )


class Planned(NamedTuple):
    """A part of a model in a dtype, and its distinct calls: {call: times}."""

    part: models.Part
    dtype: str
    calls: dict


def plan(settings):
    """[`Planned`] of all suites, with `only` applied.

    Raises: InputError: no call has the name that `only` asks for.
    """
    found, names = [], set()
    for suite in settings.suites:
        for part in models.parts(suite, settings.model, settings.size, settings.batch):
            for dtype in settings.dtypes:
                calls = models.calls(part, dtype)
                names |= {call.name for call in calls}
                kept = {c: n for c, n in calls.items() if settings.only in (None, c.name)}
                found.append(Planned(part, dtype, ordered(kept)))
    if settings.only and settings.only not in names:
        raise InputError(
            f"--only {settings.only}: no call of these suites has that name; there are "
            f"{', '.join(sorted(names)) or 'the anchors alone'}."
        )
    return found


def ordered(calls):
    """The calls by name, the one with most operations first."""
    return dict(sorted(calls.items(), key=lambda c: (c[0].name, -flops.flops(c[0]), str(c[0]))))


def anchors(dtype, device=None):
    """The calls whose rates are the measured peaks: [(name, `Call`)]."""
    kind = LONG[dtype]
    sides, size = ANCHORS.get(device or K.device(), ANCHORS["CPU"])
    elements = size // flops.SIZES[kind]
    return [
        *(("matmul", Call("linear", ((n, n), (n, n)), (kind,) * 2, (None,))) for n in sides),
        ("copy", Call("multiply", ((elements,),), (kind,), (-1.0,))),
        ("triad", Call("triad", ((elements,),) * 2, (kind,) * 2, (0.5,))),
        ("launch", Call("add", ((1,), (1,)), (kind,) * 2, ())),
    ]


def head_of_call(settings, record, suite, dtype, variant, call, **fields):
    """`Settings.head` of a call."""
    shapes, args = [list(s) for s in call.shapes], list(call.settings)
    return settings.head(record, suite, dtype, variant, shapes=shapes, args=args, **fields)


def takes_all(call, variant):
    """Every table computes every call."""
    return True


class Run(NamedTuple):
    """What a run needs all along: settings, tables {variant: kernels}, `records.Writer`, a function
    called with each line of text, the fields of the machine, and which table takes which call."""

    settings: Settings
    tables: dict
    writer: records.Writer
    say: callable
    where: dict
    takes: callable

    def rows(self, heads, call, peak):
        """The rows of a call, one of each of `heads` (pairs of a row and its table): what an
        earlier run measured, or what is measured now."""
        missing = [(head, table) for head, table in heads if self.writer.find(head) is None]
        if missing:
            case = cases.case(call, np.random.default_rng(0))
            wanted = cases.oracle_of(case)
            for head, table in missing:
                fields = measure.checked(case, wanted, table, self.settings, head)
                head.update(fields, **self.where)
                head.update(peaks.rates(head, self.where["soc"], peak))
                self.writer.add(head)
        found = [self.writer.find(head) for head, _ in heads]
        for row in found:
            self.say(line(row))
        return found

    def whole(self, planned, variant, table):
        """The row of a whole evaluation."""
        part, dtype, calls = planned
        shapes = [list(s) for s, _ in part.inputs]
        head = self.settings.head(
            "whole", part.name, dtype, variant, op="whole", shapes=shapes, batch=part.batch
        )
        if self.writer.find(head) is None:
            head.update(measure.whole(part, dtype, table, self.settings), **self.where)
            head.update(count=1, flops=sum(flops.flops(c) * n for c, n in calls.items()))
            self.writer.add(head)
        return self.writer.find(head)


def run(settings, planned, tables, writer, say, takes=takes_all):
    """Measure everything.

    Args:
        settings: `Settings`.
        planned: of `plan`.
        tables: {variant: kernels}, a name of `kernels.LOWERINGS` or a table.
        writer: `records.Writer`, which gets the rows.
        say: called with each line of text.
        takes: function (call, variant) -> whether this table computes this call.
    Returns: number of rows without a time, since their result was wrong or there was none.
    """
    here = Run(settings, tables, writer, say, machine.describe(), takes)
    writer.check_same(here.where, settings.head(None, "anchors", None, None))
    found = []
    for dtype in settings.dtypes:
        for op, call in anchors(dtype):
            head = head_of_call(settings, "anchor", "anchors", dtype, "library", call, op=op)
            head["count"] = 1
            found += here.rows([(head, K.default_kernels())], call, None)
    for each in planned:
        found += run_part(here, each, peaks.measured(found, each.dtype))
    return sum(peaks.time_of(row) is None for row in found)


def run_part(here, planned, peak):
    """The rows of a part in a dtype, all calls in all variants in turn, then the whole."""
    part, dtype, calls = planned
    found = []
    for call, times in calls.items():
        heads = [
            (
                head_of_call(
                    here.settings,
                    "call",
                    part.name,
                    dtype,
                    variant,
                    call,
                    op=call.name,
                    count=times,
                    batch=part.batch,
                ),
                table,
            )
            for variant, table in here.tables.items()
            if here.takes(call, variant)
        ]
        found += here.rows(heads, call, peak)
    for variant in here.settings.evaluated:
        whole = here.whole(planned, variant, here.tables[variant])
        own = [row for row in found if row["variant"] == variant]
        here.say(books.line(whole, books.closed(own, whole, peak["launch_us"])))
    return found


def line(row):
    """A row for the screen."""
    us, shapes = peaks.time_of(row), " ".join("x".join(map(str, s)) for s in row["shapes"])
    head = f"{row['op']:<20}{row['dtype']} {row['variant']:<10}{row['count']:>4} x"
    if us is None:
        return f"{head} {row['note']}  {shapes}"
    times = peaks.times_of(row)
    share = f"{row['roofline_pct']:4.0f} % of the {row['bound']}" if row["roofline_pct"] else ""
    note = f"  {row['note']}" if row["note"] else ""
    return (
        f"{head}{us:11.1f} us ({times['p20']:.1f} to {times['p80']:.1f})"
        f"{row['tflops'] * 1e3:8.1f} GFLOP/s{row['gbs']:7.1f} GB/s {share:<20} "
        f"error {records.of_bound(row):.2f}  {shapes}{note}"
    )
