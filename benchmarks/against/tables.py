"""The tables of a file that `--record` wrote, in Markdown."""

from diffedit_core.errors import InputError

from ..kernels import records
from . import agreement
from .rows import PROCESSOR, STATES, WHOLE

OURS = {"recipe diffusers": "ours, its recipe", "recipe paper": "ours, the default edit"}
THEIRS = "diffusers"
CHOSEN = "also"  # the side that --also adds
WITHOUT = {
    "cold": "the first edit of a new process, from its start",
    "warm": "the second edit of the same process",
}


def sides(also=None):
    """{side: its name}; also: the options of the chosen one."""
    chosen = {} if also is None else {CHOSEN: f"ours, {also}"}
    return {THEIRS: "public pipeline", **OURS, **chosen}


def text(file):
    """The tables of a file; raises as `of`."""
    return of(records.read(file), file)


def of(rows, file):
    """The tables of a comparison: seconds of each side, cold and warm, with the ratios of medians.

    Args: rows: records; file: their name, for messages.
    Raises: InputError: they are no comparison, or one whose sides disagree.
    """
    rows = [row for row in rows if row.get("suite") == "edit"]
    agreed = check(rows, file)
    lines, settings = [heading(rows), ""], rows[-1]["settings"]
    names = sides(settings.get("also"))
    for state in STATES[: settings.get("edits")]:
        found = {
            (row["variant"], row["op"]): row
            for row in rows
            if row["record"] == "evaluation" and (row["args"] or {}).get("state") == state
        }
        missing = [side for side in names if (side, WHOLE) not in found]
        if missing:
            raise InputError(f"{file} has no {state} edit of {missing[0]}: measure all sides.")
        lines += [*table(found, state, names), ""]
    return "\n".join([*lines, agreed])


def check(rows, file):
    """A sentence that says how well the sides agree.

    Raises: InputError: they do not, or nothing says whether they do.
    """
    found = [row for row in rows if row["record"] == "agreement"]
    if {row["op"] for row in found} != set(agreement.MEASURES):
        raise InputError(f"{file} does not say whether its sides agree: nothing is compared.")
    wrong = agreement.broken(
        {row["op"]: row["error"] for row in found}, {row["op"]: row["tolerance"] for row in found}
    )
    if wrong:
        raise InputError(f"{file}: the sides disagree ({'; '.join(wrong)}): nothing is compared.")
    said = [
        f"{agreement.MEASURES[row['op']]} {row['error']:.2g} (at most {row['tolerance']:g})"
        for row in found
    ]
    return f"Agreement of the first two: {'; '.join(said)}."


def heading(rows):
    """A paragraph: what was measured, and where."""
    timed = [row for row in rows if row["record"] == "evaluation"]
    first, settings = timed[0], timed[0]["settings"]
    return (
        f"{first['model']}, {first['size']} pixels, {settings['steps']} steps, "
        f"{settings['maps']} noise maps clamped at {settings['clamp_ratio']:g} times the mean, "
        f"{first['dtype']}; medians of {first['wall_us']['n']}, ratios of medians (ours / theirs). "
        f"{where(timed)}"
    )


def where(timed):
    """The machine, versions and date of rows of `rows.of_side`, the machine's load, the note."""
    first, versions = timed[0], {}
    for row in timed:
        versions.update(row["settings"]["versions"])
    busy = [b for row in timed for b in row["settings"]["load average"] if b is not None]
    named = ", ".join(f"{name} {value}" for name, value in versions.items())
    load = f", load average {min(busy):.1f} to {max(busy):.1f} before each process" if busy else ""
    note = f" {first['note']}" if first["note"] else ""
    threads = first["settings"]["threads"]
    named += "" if threads is None else f"; OpenMP threads: {threads}"
    named += "; our compiled graphs from files" * first["settings"].get("graph_cache", False)
    return f"{first['processor']}; {named}; {first['date']}, commit {first['commit']}{load}.{note}"


def table(found, state, names):
    """The lines of the table of a state; found: {(side, op): row}, names: `sides`."""
    columns = [f"{name}{' | ratio' * (side != THEIRS)}" for side, name in names.items()]
    yield f"| {state}: {WITHOUT[state]} | {' | '.join(columns)} |"
    yield "|---" * (2 * len(names)) + "|"
    ops = [op for side, op in found if side == THEIRS]
    for op in ops:
        name = f"{op}, s"
        yield line(name, {s: found[s, op]["wall_us"]["p50"] / 1e6 for s in names})
    rows = {side: found[side, WHOLE]["evaluations"] for side in names}
    yield line("UNet rows", rows)
    per_row = {s: found[s, WHOLE]["wall_us"]["p50"] / 1e6 / rows[s] for s in names}
    yield line("whole, s per UNet row", per_row)
    memory = {side: found[side, WHOLE]["max_memory_allocated"] for side in names}
    if None not in memory.values():
        yield line("peak memory so far, GiB", {s: m / 2**30 for s, m in memory.items()})


def line(name, values):
    """A line: the value of each side, and its ratio to the public pipeline's."""
    cells = []
    for side, value in values.items():
        cells.append(shown(value))
        if side != THEIRS:
            cells.append(shown(ratio(value, values[THEIRS])))
    strong = "**" if name.startswith((f"{WHOLE}, s", PROCESSOR)) and "per" not in name else ""
    return f"| {strong}{name}{strong} | {' | '.join(cells)} |"


def ratio(ours, theirs):
    """Ours over theirs: below 1 is less. None where theirs is nothing."""
    return ours / theirs if theirs else None


def shown(value):
    """Three digits; "-" for None, whole numbers as they are."""
    if value is None:
        return "-"
    if isinstance(value, int) or value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if value >= 0.01 else f"{value:.1g}"
