"""Two files of records against each other: ratios with their noise, and which rows differ beyond
it."""

from typing import Any, NamedTuple

from diffedit_core.errors import InputError

from . import machine, peaks, records


class Ratio(NamedTuple):
    """Time of the new row over that of the old: of the medians, and the range that the 20th and
    80th percentiles of both allow."""

    row: Any
    timer: str
    middle: float
    low: float
    high: float

    @property
    def differs(self):
        """Whether the two differ beyond their noise."""
        return self.low > 1 or self.high < 1


def differences(old, new):
    """Fields of the machine in which two files differ: {field: (values of old, of new)}."""
    found = {}
    for name in machine.SAME:
        values = [sorted({str(row.get(name)) for row in rows}) for rows in (old, new)]
        if values[0] != values[1]:
            found[name] = tuple(", ".join(v) for v in values)
    return found


def check_machine(old, new):
    """Raises InputError where the rows are of another machine or version."""
    found = differences(old, new)
    if found:
        shown = "; ".join(f"{name}: {a} against {b}" for name, (a, b) in found.items())
        raise InputError(
            f"The files are of different machines or versions ({shown}): their times are not "
            "comparable; --across-machines compares them all the same."
        )


def ratios(old, new):
    """(list of `Ratio` of the rows that both have, number only in old, number only in new)."""
    old = {records.key(r): r for r in old if peaks.time_of(r)}
    new = {records.key(r): r for r in new if peaks.time_of(r)}
    found = []
    for key in old.keys() & new.keys():
        timer = next(
            (
                t
                for t in ("device_us", "event_us", "wall_us")
                if old[key].get(t) and new[key].get(t)
            ),
            None,
        )
        if timer is None:
            continue
        a, b = old[key][timer], new[key][timer]
        found.append(
            Ratio(new[key], timer, b["p50"] / a["p50"], b["p20"] / a["p80"], b["p80"] / a["p20"])
        )
    found.sort(key=lambda r: -r.middle)
    return found, len(old) - len(found), len(new) - len(found)


def slower(found, limit):
    """Of `Ratio`s, those above the limit and beyond their noise."""
    return [r for r in found if r.middle > limit and r.differs]


def title(row):
    """One row in a few words."""
    shapes = " ".join("x".join(map(str, s)) for s in row["shapes"] or [])
    return f"{row['op']} {row['dtype']} {row['variant']} {shapes}".strip()


def text(found, only_old, only_new, machines):
    """The comparison as lines; what differs between the machines is said first."""
    lines = [f"{name}: {a} against {b}" for name, (a, b) in machines.items()]
    lines += [
        f"{r.middle:6.3f} ({r.low:.3f} to {r.high:.3f}) {'differs' if r.differs else '       '} "
        f"{r.timer[:-3]:<6} {title(r.row)}"
        for r in found
    ]
    count = sum(r.differs for r in found)
    lines.append(f"{len(found)} rows in both, {count} differ beyond their noise (20 % to 80 %)")
    if only_old or only_new:
        lines.append(f"not compared: {only_old} rows of the first file, {only_new} of the second")
    return "\n".join(lines)


def checked(old, new, across):
    """`ratios` of the rows, and the machines' differences.

    Raises: InputError: other machines or versions, and not `across`; or nothing in common.
    """
    if not across:
        check_machine(old, new)
    found, only_old, only_new = ratios(old, new)
    if not found:
        raise InputError("The two results have no measurement in common: measure the same calls.")
    return found, only_old, only_new, differences(old, new)


def files(first, second, across):
    """The comparison of two files as text."""
    return text(*checked(records.read(first), records.read(second), across))
