"""The sum of count x time over all calls, held against the measured whole evaluation."""

from typing import NamedTuple

from . import glue, peaks

PERCENT = 10  # that the sum may differ from the whole


class Books(NamedTuple):
    """In microseconds: the sum of the calls, the part of it that is between the kernels, the
    launches that were taken off it, the whole; and the number of calls without a time."""

    total: float
    between: float
    launches: float
    whole: float
    missing: int

    @property
    def rest(self):
        """Percent of the whole that the calls do not explain; negative where they say more."""
        return 100 * (self.whole - self.total) / self.whole

    @property
    def close(self):
        """Whether the sum agrees with the whole."""
        return not self.missing and abs(self.rest) <= PERCENT


def closed(rows, whole, launch_us):
    """`Books` of the rows of a part.

    A timer of the host counts one launch with every call, and one with the whole: it is taken off
    each call. The device's own time has none.

    Args: rows, whole: records; launch_us: time of an empty launch, or None.
    """
    total = between = launches = 0.0
    for row in rows:
        us = peaks.time_of(row)
        if us is None:
            continue
        launch = 0.0 if row["device_us"] else min(launch_us or 0.0, us)
        total += (us - launch) * row["count"]
        launches += launch * row["count"]
        between += (us - launch) * row["count"] * (row["op"] in glue.TABLE)
    missing = sum(peaks.time_of(row) is None for row in rows)
    return Books(total, between, launches, peaks.time_of(whole), missing)


def of_rows(rows):
    """[(whole's record, `Books`)] of all whole evaluations among records."""
    found = []
    for whole in (row for row in rows if row["record"] == "whole" and peaks.time_of(row)):
        same = ("suite", "model", "size", "batch", "dtype", "variant", "l2", "jit_level", "hf32")
        own = [
            row for row in rows if row["record"] == "call" and all(row[n] == whole[n] for n in same)
        ]
        anchors = [row for row in rows if row["record"] == "anchor"]
        launch = peaks.measured(anchors, whole["dtype"])["launch_us"]
        found.append((whole, closed(own, whole, launch)))
    return found


def line(whole, found):
    """The books for the screen."""
    state = "closes" if found.close else f"DOES NOT CLOSE within {PERCENT} %"
    missing = f", {found.missing} calls without a time" if found.missing else ""
    return (
        f"{whole['suite']} {whole['dtype']} {whole['variant']}: the calls take "
        f"{found.total / 1e3:.2f} ms in all (between the kernels {found.between / 1e3:.2f} ms; "
        f"launches of {found.launches / 1e3:.2f} ms taken off), the whole evaluation "
        f"{found.whole / 1e3:.2f} ms, rest {found.rest:+.1f} %: {state}{missing}"
    )
