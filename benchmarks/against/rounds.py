"""A measurement in rounds: after each one all rows are on disk, in FILE.part, and a run that was
stopped goes on."""

from pathlib import Path

import numpy as np

from diffedit_core import files
from diffedit_core.errors import InputError

from ..kernels import evaluation, machine, records, timers

BUSY = "load average"  # of the settings the only one that a round has of its own


def part(file):
    """The file of what is not complete."""
    return Path(f"{file}.part")


def begun(file, resume, wanted, settings):
    """The rows of the rounds that are there already: none, without `resume`.

    Args:
        file: of `--record`, or None.
        wanted, settings: {field: value}, {setting: value} that the rows have to have.
    Raises: InputError: there is such a file or its part, but no `resume`; or it was measured
        otherwise.
    """
    if resume and file is None:
        raise InputError("--resume goes on with the file of --record: add it.")
    there = file is not None and next((p for p in (Path(file), part(file)) if p.exists()), None)
    if not there or not resume:
        evaluation.check(file)
        if there:
            raise InputError(
                f"{there} is left of an earlier run: go on with it by --resume, or remove it."
            )
        return []
    rows = records.read(there)
    if any(row["record"] == "agreement" and not row["error"] <= row["tolerance"] for row in rows):
        raise InputError(f"{there} is of sides that disagree: remove it.")
    where = machine.describe()
    wanted = {**wanted, **{name: where[name] for name in machine.SAME}}
    for row in rows:
        refuse_other(there, row, wanted)
        refuse_other(there, row.get("settings") or {}, settings)
    return rows


def refuse_other(file, found, wanted):
    """Raises InputError where what was found is not what is wanted."""
    other = next((name for name in wanted if found.get(name) != wanted[name]), None)
    if other is not None:
        raise InputError(
            f"{file} was measured with {other} {found.get(other)}, now it is {wanted[other]}: "
            "measure as then, or choose another --record."
        )


def done(rows):
    """How many rounds the rows are of."""
    return next((row["wall_us"]["n"] for row in rows if row["record"] == "evaluation"), 0)


def merged(old, new):
    """The rows of two measurements of the same things, as if they had been one.

    Raises: InputError: they are not of the same things, or of other versions.
    """
    if not old:
        return new
    before = {records.key(row): row for row in old}
    if set(before) != {records.key(row) for row in new}:
        raise InputError("The earlier rounds measured other things: choose another --record.")
    return [_merged(before[records.key(row)], row) for row in new]


def spoiled(old, found):
    """The rows of earlier rounds after one whose sides disagree: the errors of all, and the times
    of those before, which `tables` refuses from now on.

    Args: old: rows, maybe none; found: those of the agreement.
    """
    before = {records.key(row): row for row in old}
    errors = [_merged(before.pop(records.key(r)), r) if before else r for r in found]
    return [*errors, *before.values()]


def _merged(old, new):
    """One row of two."""
    result = dict(new)
    if old["commit"] != new["commit"]:
        result["commit"] = f"{old['commit']}, {new['commit']}"
    if new["record"] == "agreement":
        return {**result, "error": float(np.max([old["error"], new["error"]]))}
    own = {name: value for name, value in new["settings"].items() if name != BUSY}
    refuse_other("The earlier rounds'", old["settings"], own)
    refuse_other("The earlier rounds'", old, {"evaluations": new["evaluations"]})
    memory = [old["max_memory_allocated"], new["max_memory_allocated"]]
    return {
        **result,
        "seconds": old["seconds"] + new["seconds"],
        "wall_us": timers.statistics(old["seconds"] + new["seconds"]),
        "max_memory_allocated": None if None in memory else max(memory),
        "settings": {**own, BUSY: old["settings"][BUSY] + new["settings"][BUSY]},
    }


def kept(file):
    """What is left of a run that was stopped, as the end of a sentence."""
    there = file is not None and part(file).exists()
    return f", {part(file)} has the rounds that were complete" if there else ""


def write_part(file, rows):
    """Write the rows that are there so far; no file is None."""
    if file is not None:
        with files.written(part(file)) as name:
            name.write_text("".join(map(records.to_line, rows)), encoding="utf-8")


def write(file, rows):
    """Write all rows, whole or not at all; no file is None."""
    if file is not None:
        write_part(file, rows)
        part(file).replace(file)
