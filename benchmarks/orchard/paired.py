"""What two methods, or two models, differ by, edit by edit: the pairing takes out how hard an edit
is, so that a difference shows which the means' own intervals hide.

    python -m benchmarks.orchard.paired results/results.json              # against its first method
    python -m benchmarks.orchard.paired new/results.json old/results.json # each method of both

The files are what `evaluate` wrote. Of two files the edits that both have are compared: the first
ones of the test split. Intervals are 95 %, by a bootstrap over edits; the two means are of the
edits of which both have the number.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from diffedit_core.errors import InputError

from ..ablation.tables import bootstrap
from ..command import command
from .measures import COLUMNS

COMPARED = {key: name for key, name in COLUMNS.items() if not key.endswith("floor")}


def differences(new, old):
    """{measure: (pairs, mean of the new, mean of the old, (difference, low, high))} of two lists of
    an edit's numbers each; a pair with something that is no number is left out."""
    found = {}
    for key in COMPARED:
        pairs = [(a.get(key), b.get(key)) for a, b in zip(new, old)]
        pairs = np.array([p for p in pairs if None not in p and np.isfinite(p).all()], float)
        if len(pairs):
            means = pairs.mean(0)
            found[key] = len(pairs), *map(float, means), bootstrap(pairs[:, 0] - pairs[:, 1])
    return found


def table(found):
    """Markdown of `differences`."""
    text = ["| | n | new | old | difference |", "|---|---|---|---|---|"]
    for key, (count, new, old, (mean, low, high)) in found.items():
        digits = 2 if key.endswith("psnr") else 3
        interval = f" [{low:.{digits}f}, {high:.{digits}f}]" if np.isfinite(low) else ""
        cells = f"{new:.{digits}f} | {old:.{digits}f} | {mean:+.{digits}f}{interval}"
        text.append(f"| {COMPARED[key]} | {count} | {cells} |")
    return "\n".join(text) + "\n"


def read(path):
    """The results of a file of `evaluate`.

    Raises:
        InputError: there is none, or it has no edits.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
        if results["facts"] and results["records"]:
            return results
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{path} is no results.json with edits: give one that evaluate wrote.")


def pairs_of(results, others):
    """{title: (records, records of the other)}.

    Raises:
        InputError: nothing can be compared, or not what would be.
    """
    records = results["records"]
    if others is None:
        first, *rest = records
        if not rest:
            raise InputError(f"There is one method, {first!r}: measure another, or give two files.")
        return {f"{name}, against {first}": (records[name], records[first]) for name in rest}
    for fact in ("size", "classifier"):
        if results["facts"][fact] != others["facts"][fact]:
            raise InputError(
                f"The files differ in {fact}, {results['facts'][fact]} and "
                f"{others['facts'][fact]}: measure both with the same one."
            )
    both = {name: (rows, others["records"][name]) for name, rows in records.items()
            if name in others["records"]}  # fmt: skip
    if not both:
        raise InputError("The files have no method in common: measure the same one of both.")
    return both


@command("paired")
def main(words):
    """Print a table for each pair."""
    top = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("new", type=Path, metavar="NEW", help="results.json of evaluate")
    top.add_argument("old", type=Path, metavar="OLD", nargs="?", help="another one")
    a = top.parse_args(words)
    for title, pair in pairs_of(read(a.new), a.old and read(a.old)).items():
        print(f"{title}:\n\n{table(differences(*pair))}")


if __name__ == "__main__":
    sys.exit(main())
