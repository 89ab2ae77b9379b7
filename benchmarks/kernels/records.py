"""Records as JSON lines and CSV. A run writes FILE.part line by line, which a later run goes on
with, and renames it at its end."""

import csv
import io
import json
from pathlib import Path

from diffedit_core.errors import InputError

from . import machine

# What a row is about: two rows of these are measurements of the same thing.
KEY = (
    "record",
    "suite",
    "model",
    "size",
    "batch",
    "op",
    "shapes",
    "args",
    "dtype",
    "variant",
    "l2",
    "jit_level",
    "hf32",
)
TIMES = ("device_us", "span_us", "event_us", "wall_us")
FIELDS = (
    *KEY,
    "count",
    *TIMES,
    "seconds",
    "first_call_s",
    "evaluations",
    "kernels",
    "launches",
    "transdata_us",
    "aicpu_us",
    "flops",
    "bytes",
    "tflops",
    "gbs",
    "pct_cube",
    "pct_hbm",
    "pct_measured_flops",
    "pct_measured_bytes",
    "roofline_pct",
    "bound",
    "mac_ratio",
    "mte2_ratio",
    "vec_ratio",
    "cube_utilization",
    "error",
    "tolerance",
    "max_memory_allocated",
    "clock_mhz",
    "host_bound",
    "note",
    "settings",
    "soc",
    "cann",
    "driver",
    "mindspore",
    "processor",
    "commit",
    "date",
)


def record(**fields):
    """A row of every field; what is not given is None.

    Raises: KeyError: a field of another name.
    """
    unknown = [name for name in fields if name not in FIELDS]
    if unknown:
        raise KeyError(f"no fields of a record: {unknown}")
    return {name: fields.get(name) for name in FIELDS}


def to_line(row):
    """A row as a line of a file."""
    return json.dumps(row) + "\n"


def key(row):
    """What a row is about, as a tuple that can be hashed."""
    return tuple(json.dumps(row.get(name)) for name in KEY)


def of_bound(row):
    """The error in units of the largest one allowed; None where it is not known, or none is."""
    if row["error"] == 0:
        return 0.0
    return row["error"] / row["tolerance"] if row["error"] and row["tolerance"] else None


def read(file):
    """The rows of a file, oldest first.

    Raises: InputError: no such file, or a line is not such a row.
    """
    file = Path(file)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"{file} cannot be read: {problem}.") from None
    rows = [row_of(line, file, number) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise InputError(f"{file} holds no records.")
    return rows


def row_of(line, file, number):
    """The row of a line."""
    try:
        row = json.loads(line)
    except ValueError:
        raise InputError(f"{file} line {number} is not JSON: the file is cut off.") from None
    if not isinstance(row, dict) or "record" not in row or "op" not in row:
        raise InputError(f"{file} line {number} is no record of benchmarks.kernels.")
    return row


def check_out(file, resume):
    """The name of what is not complete yet, FILE.part.

    Raises: InputError: the file is there already, or FILE.part is and `resume` is not given.
    """
    if file.exists():
        raise InputError(f"{file} is there already: choose another --out or remove it.")
    part = file.with_name(file.name + ".part")
    if part.exists() and not resume:
        raise InputError(
            f"{part} is left of an earlier run: go on with it by --resume, or remove it."
        )
    return part


class Writer:
    """Rows on their way to a file; `None` keeps them in memory only.

    Args:
        file: the JSON lines' file.
        resume: go on with what an earlier run left in FILE.part.
    Raises: InputError: the file is there already, or FILE.part is and `resume` is not given.
    """

    def __init__(self, file, resume=False):
        self.file, self.rows = None if file is None else Path(file), []
        if self.file is None:
            return
        self.part = check_out(self.file, resume)
        if not self.part.exists():
            return
        for number, line in enumerate(self.part.read_text(encoding="utf-8").splitlines(), 1):
            if line.endswith("}"):  # the last line may be cut off
                self.rows.append(row_of(line, self.part, number))
        text = "".join(map(to_line, self.rows))
        self.part.write_text(text, encoding="utf-8")

    def check_same(self, where, head):
        """Raises InputError where the rows that are there were measured elsewhere or otherwise."""
        for row in self.rows:
            wanted = {**{name: where[name] for name in machine.SAME}, "settings": head["settings"]}
            other = next((name for name in wanted if row[name] != wanted[name]), None)
            if other is not None:
                raise InputError(
                    f"{self.part} was measured with {other} {row[other]}, now it is "
                    f"{wanted[other]}: measure as then, or choose another --out."
                )

    def find(self, row):
        """The row about the same that is there already; None without one."""
        wanted = key(row)
        return next((r for r in self.rows if key(r) == wanted), None)

    def add(self, row):
        """Keep a row, on disk at once."""
        self.rows.append(row)
        if self.file is not None:
            with self.part.open("a", encoding="utf-8") as handle:
                handle.write(to_line(row))

    def finish(self):
        """Write the file as a whole, with rows in their final form."""
        if self.file is None:
            return
        text = "".join(map(to_line, self.rows))
        self.part.write_text(text, encoding="utf-8")
        self.part.replace(self.file)


def flat(row):
    """A row for a table: each time as its own columns, lists as JSON."""
    result = {}
    for name, value in row.items():
        if name in TIMES:
            for figure in ("p20", "p50", "p80", "min", "n"):
                result[f"{name}_{figure}"] = value[figure] if value else None
        else:
            result[name] = json.dumps(value) if isinstance(value, (list, dict)) else value
    return result


def to_csv(rows):
    """The rows as the text of a CSV file."""
    handle = io.StringIO()
    table = [flat(row) for row in rows]
    writer = csv.DictWriter(handle, list(flat(record())), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return handle.getvalue()
