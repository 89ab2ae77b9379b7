"""One network beside PyTorch: the table of what `--record` wrote with `--pytorch`.

    python -m benchmarks.against.networks FILE.jsonl ...

The files are those of `benchmarks.unet` and `benchmarks.vae`: a row of ours, then PyTorch's.
"""

import sys

from diffedit_core.errors import InputError

from ..command import command
from ..kernels import records, timers
from .tables import ratio, shown

THEIRS = "pytorch"


def theirs(row, seconds, versions):
    """PyTorch's row.

    Args:
        row: ours, of the same inputs.
        seconds: of PyTorch's runs.
        versions: {package: text} of the other environment.
    """
    return {
        **row,
        "variant": THEIRS,
        "seconds": [round(float(each), 6) for each in seconds],
        "wall_us": timers.statistics(seconds),
        "first_call_s": None,
        "max_memory_allocated": None,
        "settings": {**row["settings"], "versions": versions},
    }


def pairs(rows, file):
    """[(our row, PyTorch's)] in the file's order.

    Raises: InputError: there is none.
    """
    rows = [row for row in rows if row.get("suite") in ("unet", "vae") and row["wall_us"]]
    found = [
        (ours, other)
        for ours, other in zip(rows, rows[1:])
        if other["variant"] == THEIRS and ours["variant"] != THEIRS
        if all(ours[name] == other[name] for name in ("op", "model", "size", "batch", "args"))
    ]
    if not found:
        raise InputError(f"{file} has no row of PyTorch's beside ours: give --pytorch PYTHON.")
    return found


def line(ours, other):
    """The line of a pair: milliseconds, medians."""
    name = f"{ours['op']}, {ours['model']}, {ours['size']} pixels, batch {ours['batch']}"
    warmed = ours["settings"].get("warmup")
    name += f", after {warmed + 1} calls" if warmed else ""
    name += "".join(f", {each}" for each in ours["args"] or ())
    times = [row["wall_us"]["p50"] / 1e3 for row in (ours, other)]
    count = ours["wall_us"]["n"]
    return f"| {name} | {count} | {' | '.join(map(shown, [*times, ratio(*times)]))} |"


def table(rows, file):
    """The lines of the table of rows; file: their name, for messages. Raises as `pairs`."""
    found = pairs(rows, file)
    yield "| network, model, size of the picture | runs | ours, ms | PyTorch, ms | ratio |"
    yield "|---|---|---|---|---|"
    for each in found:
        yield line(*each)
    yield ""
    yield where([other for _, other in found])


def where(rows):
    """The machines, versions and dates of PyTorch's rows."""
    versions = [{"mindspore": row["mindspore"], **row["settings"]["versions"]} for row in rows]
    named = [", ".join(f"{name} {text}" for name, text in each.items()) for each in versions]
    kinds = [row["dtype"] for row in rows]
    dates = [f"{row['date']}, commit {row['commit']}" for row in rows]
    places = [row["processor"] for row in rows]
    said = ("; ".join(dict.fromkeys(each)) for each in (kinds, places, named, dates))
    return f"Medians in turn; {'; '.join(said)}."


def text(*files):
    """The table of all files' rows."""
    rows = [row for file in files for row in records.read(file)]
    return "\n".join(table(rows, ", ".join(map(str, files))))


@command("benchmarks.against.networks: error")
def main(files):
    """Print the table."""
    if not files:
        raise InputError("No file is named: name what --record wrote.")
    print(text(*files))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
