"""Where oneDNN's time goes: the sums of what `DNNL_VERBOSE=1` makes it print.

    DNNL_VERBOSE=1 python -m benchmarks.unet MODEL --runs 3 > calls.log
    python -m benchmarks.kernels.onednn calls.log --evaluations 5

The first evaluation and the warm-up are evaluations, too. Milliseconds of one evaluation, how many
calls it makes, and GFLOP/s of products and convolutions, for each kind and for the largest shapes.
"""

import argparse
import collections
import math
import re
import sys
from pathlib import Path

from diffedit_core.errors import InputError

from ..command import command

PLACES = (3, 4, -2, -1)  # of kind, way, shapes and milliseconds in a line


def parser():
    """The argument parser."""
    top = argparse.ArgumentParser(
        prog="benchmarks.kernels.onednn",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("file", type=Path)
    top.add_argument("--evaluations", type=int, required=True, help="how many the file holds")
    top.add_argument("--shapes", type=int, default=10, help="how many to list (10)")
    return top


def flop(kind, shapes):
    """FLOP of a call; 0 of what is neither a product nor a convolution.

    Args: shapes: as oneDNN writes them: "2x3:3x5:2x5", "mb1_ic3oc5_ih7oh7kh3sh1dh0ph1_iw...".
    """
    if kind == "matmul":
        first, _, result = ([int(n) for n in part.split("x")] for part in shapes.split(":"))
        return 2 * first[-1] * math.prod(result)
    if kind == "convolution":
        names = re.findall(r"(mb|ic|oc|oh|ow|kh|kw)(\d+)", shapes)
        return 2 * math.prod(int(n) for _, n in names)
    return 0


def calls(lines):
    """(kind, way, shapes, milliseconds) of each call among the lines."""
    for line in lines:
        parts = line.strip().split(",")
        if parts[:2] == ["dnnl_verbose", "exec"]:
            kind, way, shapes, time = (parts[i] for i in PLACES)
            yield kind, way, shapes, float(time)


def sums(found, key):
    """{key(call): [milliseconds, calls, FLOP]}, the largest first."""
    total = collections.defaultdict(lambda: [0.0, 0, 0])
    for call in found:
        kind, _, shapes, time = call
        for i, more in enumerate((time, 1, flop(kind, shapes))):
            total[key(call)][i] += more
    return dict(sorted(total.items(), key=lambda item: -item[1][0]))


def table(found, evaluations, shapes):
    """Lines: each kind, then the largest shapes."""
    yield f"{'ms':>9} {'calls':>7} {'GFLOP/s':>8}"
    kinds = sums(found, lambda call: call[0])
    largest = list(sums(found, lambda call: call[:3]).items())[:shapes]
    for name, (time, count, work) in [*kinds.items(), *largest]:
        speed = f"{work / time / 1e6:8.1f}" if work else f"{'':8}"
        text = name if isinstance(name, str) else " ".join(name)
        yield f"{time / evaluations:9.1f} {count / evaluations:7.1f} {speed}  {text}"


@command("benchmarks.kernels.onednn: error")
def main(words):
    """Print the table; 2 and a sentence where there is nothing to sum."""
    a = parser().parse_args(words)
    if a.evaluations < 1:
        raise InputError(f"--evaluations {a.evaluations}: at least 1.")
    try:
        found = list(calls(a.file.read_text(encoding="utf-8").splitlines()))
    except OSError as error:
        raise InputError(f"{a.file} cannot be read: {error.strerror}.") from error
    if not found:
        raise InputError(f"{a.file} holds no call of oneDNN: set DNNL_VERBOSE=1 for what wrote it.")
    print("\n".join(table(found, a.evaluations, a.shapes)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
