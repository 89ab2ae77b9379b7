"""The profiler's kernel_details.csv: one row for each kernel that ran, with its step where the
profiler knows it.

Columns as in MindSpore 2.8: "Step ID" only with a schedule and not in O2; shapes, formats, "HF32
Eligible" and the shares of the pipes only at level 1.
"""

import csv
from pathlib import Path
from typing import NamedTuple

from diffedit_core.errors import InputError

NEEDED = ("Name", "Type", "Accelerator Core", "Start Time(us)", "Duration(us)")
RATIOS = {  # field of a record -> column of PipeUtilization
    "mac_ratio": "aic_mac_ratio",
    "mte2_ratio": "aic_mte2_ratio",
    "vec_ratio": "aiv_vec_ratio",
    "cube_utilization": "cube_utilization(%)",
}
FLUSH_TYPES = ("ReduceMax",)  # of `timers.flusher`
NOTHING = (None, "", "None", "N/A", "NA", "nan")  # how an empty cell may be written
LAYOUT_TYPES = ("TransData", "Transpose", "TransposeD")


class Kernel(NamedTuple):
    """One kernel: names as the profiler gives them, times in microseconds, and the columns that
    only level 1 has (None without)."""

    step: object
    type: str
    core: str
    start: float
    duration: float
    blocks: object
    hf32: object
    ratios: dict


class Steps(NamedTuple):
    """Of each step the kernels' total time and the span from first start to last end, and the
    kernels of the first."""

    device_us: list
    span_us: list
    kernels: tuple

    def fields(self):
        """What a record says about the kernels."""
        return {
            "kernels": [[k.type, k.core, k.blocks, k.hf32, k.duration] for k in self.kernels],
            "launches": len(self.kernels),
            "transdata_us": sum(k.duration for k in self.kernels if k.type in LAYOUT_TYPES),
            "aicpu_us": sum(k.duration for k in self.kernels if "CPU" in k.core.upper()),
            **{name: self._ratio(name) for name in RATIOS},
        }

    def _ratio(self, name):
        """Mean over the kernels that have the column, weighted by their time."""
        known = [(k.duration, k.ratios[name]) for k in self.kernels if k.ratios[name] is not None]
        total = sum(duration for duration, _ in known)
        return sum(d * r for d, r in known) / total if total else None


def read(file):
    """The kernels of a file, in their order.

    Raises: InputError: the file is empty or cut off, a column is missing, a number is none.
    """
    file = Path(file)
    try:
        with file.open(newline="", encoding="utf-8-sig") as handle:
            rows = list(csv.reader(handle))
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise InputError(f"{file.name} cannot be read ({problem}): profile again.") from None
    if not rows:
        raise InputError(f"{file.name} is empty: the profiler saw no kernel; profile again.")
    header = [name.strip() for name in rows[0]]
    missing = [name for name in NEEDED if name not in header]
    if missing:
        raise InputError(
            f"{file.name} has no column {', '.join(missing)}: it has {', '.join(header)}; use the "
            "MindSpore that this benchmark was written for (2.8), or --timer event."
        )
    kernels = []
    for number, row in enumerate(rows[1:], 2):
        if not any(row):
            continue
        if len(row) != len(header):
            raise InputError(
                f"{file.name} line {number} has {len(row)} of {len(header)} columns: the file is "
                "cut off; profile again."
            )
        kernels.append(_kernel(file, number, dict(zip(header, (cell.strip() for cell in row)))))
    if not kernels:
        raise InputError(f"{file.name} has a header and no kernel; profile again.")
    return kernels


def _kernel(file, number, row):
    def value(column):
        try:
            return float(row[column])
        except ValueError:
            raise InputError(
                f"{file.name} line {number}: {column!r} is {row[column]!r}, expected a number; "
                "profile again."
            ) from None

    def share(column):
        return None if row.get(column) in NOTHING else value(column)

    return Kernel(
        None if row.get("Step ID") in NOTHING else row["Step ID"],
        row["Type"],
        row["Accelerator Core"],
        value("Start Time(us)"),
        value("Duration(us)"),
        row.get("Block Dim"),
        row.get("HF32 Eligible"),
        {name: share(column) for name, column in RATIOS.items()},
    )


def steps(file, count, leave_out=FLUSH_TYPES):
    """The kernels of each of `count` steps, without those of the flush.

    By "Step ID" where the file has it, otherwise by equal numbers of rows in the order of time.

    Raises: InputError: also where not every step has the same kernels.
    """
    name = Path(file).name
    kernels = sorted(read(file), key=lambda k: k.start)
    kernels = [k for k in kernels if k.type not in leave_out]
    known = [k.step is not None for k in kernels]
    if kernels and all(known):
        groups = {}
        for kernel in kernels:
            groups.setdefault(kernel.step, []).append(kernel)
        groups = list(groups.values())
    elif any(known):
        raise InputError(f"{name}: some kernels have a step and some do not; profile again.")
    else:
        if not kernels or len(kernels) % count:
            raise InputError(
                f"{name} has {len(kernels)} kernels, which {count} steps cannot share equally: "
                "something else ran, or the file is cut off; profile again."
            )
        size = len(kernels) // count
        groups = [kernels[i : i + size] for i in range(0, len(kernels), size)]
    if len(groups) != count:
        raise InputError(f"{name} has {len(groups)} steps, {count} ran; profile again.")
    kinds = [[k.type for k in group] for group in groups]
    if any(kind != kinds[0] for kind in kinds):
        other = next(i for i, kind in enumerate(kinds) if kind != kinds[0])
        raise InputError(
            f"{name}: step {other + 1} has the kernels {', '.join(kinds[other])}, the first "
            f"{', '.join(kinds[0])}: they cannot be averaged; raise --warmup."
        )
    return Steps(
        [sum(k.duration for k in group) for group in groups],
        [
            max(k.start + k.duration for k in group) - min(k.start for k in group)
            for group in groups
        ],
        tuple(groups[0]),
    )
