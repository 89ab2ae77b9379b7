"""A whole evaluation that another benchmark timed, as a row of the same format.

`benchmarks/unet.py`, `vae.py` and `edit.py` write such rows, and `compare` reads them.
"""

from pathlib import Path

from diffedit_core.errors import InputError
from diffedit_core.folder import ORCHARD

from . import machine, models, records, timers
from .arguments import DTYPES


def add_options(parser):
    """The options that these benchmarks share."""
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="of weights, activations")
    add_record(parser)


def add_record(parser):
    """The file of the rows."""
    parser.add_argument("--record", metavar="FILE.jsonl", help="write what was measured, as a row")


def check(file):
    """Refuse a file that is there, before anything is computed; None is no file."""
    if file is not None:
        if not Path(file).resolve().parent.is_dir():
            raise InputError(f"There is no folder {Path(file).parent}: make it first.")
        if Path(file).exists():
            raise InputError(f"{file} is there already: choose another --record or remove it.")


def label(model):
    """The model's name in a row: "orchard" is the shipped folder, another one goes by its
    configuration, anything else is as it is."""
    if Path(model).is_dir() and Path(model).samefile(ORCHARD):
        return "orchard"
    return models.label(str(model)) if Path(model).is_dir() else str(model)


def row(op, seconds, where=None, **fields):
    """A row of a whole evaluation.

    Args:
        op: what was evaluated.
        seconds: of each run after the first.
        where: `machine.describe()`, which is asked without.
        fields: further fields of `records.record`; "memory" in GiB.
    """
    memory = fields.pop("memory", None)
    return records.record(
        record="evaluation",
        op=op,
        count=1,
        wall_us=timers.statistics(seconds),
        seconds=[round(float(each), 6) for each in seconds],
        max_memory_allocated=memory and round(memory * 2**30),
        l2="warm",
        date=machine.today(),
        **fields,
        **(where or machine.describe()),
    )


def write(file, rows):
    """Write the rows, unless `file` is None."""
    writer = records.Writer(file)
    for each in rows:
        writer.add(each)
    writer.finish()
