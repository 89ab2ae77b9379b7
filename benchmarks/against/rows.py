"""What was measured, as records of the format of `benchmarks/kernels/records.py`: a row for each
side, state of the process (cold, warm) and phase."""

from ..kernels import evaluation, machine, records
from .rounds import BUSY

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


def of_side(side, run, **fields):
    """The rows of a process.

    Args:
        side: what it is, the rows' "variant".
        run: `children.Measured`.
        fields: further fields of the rows; "args" and "settings" dicts.
    """
    args, found, where = fields.pop("args", {}), [], machine.describe()
    settings = {**fields.pop("settings", {}), "versions": run.versions, BUSY: [run.busy]}
    for number, (state, edit) in enumerate(zip(STATES, run.edits)):
        evaluated = {**edit["rows"], WHOLE: sum(edit["rows"].values())}
        memory = {"load": run.loaded, WHOLE: edit["memory"]}
        for op, seconds in taken(run, number).items():
            row = evaluation.row(
                op,
                [seconds],
                where,
                variant=side,
                args={"state": state, **args},
                evaluations=evaluated.get(op),
                memory=memory.get(op) and memory[op] / 2**30,
                settings=settings,
                **fields,
            )
            found.append(row)
    return found


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
