"""What was measured, as records of the format of `benchmarks/kernels/records.py`: a row for each
side, state of the process (cold, warm) and phase."""

from pathlib import Path

from diffedit_core import files
from diffedit_core.errors import InputError

from ..kernels import evaluation, machine, records

PHASES = ("text", "encode", "maps", "inversion", "decoding", "VAE decode", "other")
STATES = ("cold", "warm")  # the first and the second edit of a process
WHOLE, PROCESSOR = "whole", "processor time"


def taken(run, number):
    """{phase: seconds} of an edit of a process: `children.Measured`, 0 for the cold one, which has
    the process's start and the loading. The phases add up to the whole."""
    seconds = {phase: run.edits[number]["seconds"].get(phase, 0.0) for phase in PHASES}
    before = {} if number else {"start": run.start, "load": run.load}
    found = {**before, **seconds}
    processor = run.edits[number]["processor"]
    return {**found, WHOLE: sum(found.values()), PROCESSOR: processor}


def of_side(side, runs, **fields):
    """The rows of a side.

    Args:
        side: its name, the rows' "variant".
        runs: `children.Measured` of each of its processes.
        fields: further fields of the rows; "args" a dict.
    """
    args, found, where = fields.pop("args", {}), [], machine.describe()
    settings = {
        **fields.pop("settings", {}),
        "versions": runs[0].versions,
        "load average": [run.busy for run in runs],
    }
    for number, state in enumerate(STATES):
        columns = [taken(run, number) for run in runs]
        evaluated = runs[0].edits[number]["rows"]
        evaluated = {**evaluated, WHOLE: sum(evaluated.values())}
        for op in columns[0]:
            row = evaluation.row(
                op,
                [column[op] for column in columns],
                where,
                variant=side,
                args={"state": state, **args},
                evaluations=evaluated.get(op),
                memory=memory(runs, number, op),
                settings=settings,
                **fields,
            )
            found.append(row)
    return found


def memory(runs, number, op):
    """The largest of the runs after an edit, or after loading, in GiB; None where it is not known,
    and for the other phases."""
    if op not in ("load", WHOLE):
        return None
    known = [run.loaded if op == "load" else run.edits[number]["memory"] for run in runs]
    return None if None in known else max(known) / 2**30


def of_agreement(found, allowed, **fields):
    """A row for each measure: its error and the largest one allowed."""
    where = machine.describe()
    return [
        records.record(
            record="agreement",
            op=name,
            error=error,
            tolerance=allowed[name],
            date=machine.today(),
            **fields,
            **where,
        )
        for name, error in found.items()
    ]


# --- files ----------------------------------------------------------------------------------------


def part(file):
    """The file of what is not complete."""
    return Path(f"{file}.part")


def check(file):
    """Raises InputError for a file that is there, or a part of an earlier run; None is no file."""
    evaluation.check(file)
    if file is not None and part(file).exists():
        raise InputError(f"{part(file)} is left of an earlier run: remove it, or rename it.")


def kept(file):
    """What is left of a run that was stopped, as the end of a sentence."""
    there = file is not None and part(file).exists()
    return f", {part(file)} has the rounds that were complete" if there else ""


def write_part(file, rows):
    """Write the rows that are there so far."""
    if file is not None:
        with files.written(part(file)) as name:
            name.write_text("".join(map(records.to_line, rows)), encoding="utf-8")


def write(file, rows):
    """Write all rows, whole or not at all; no file is None."""
    if file is not None:
        write_part(file, rows)
        part(file).replace(file)
