"""Make a page of the results of experiments: one file that needs nothing else.

    python -m benchmarks.ablation threshold mask-noise
    python -m benchmarks.report results --out page.html
    python -m benchmarks.report benchmarks/ablations/results --out page.html --svg plots
    python -m benchmarks.report results --frontier price.svg --axes seconds "edit psnr"

RESULTS are folders or files that `python -m benchmarks.ablation` wrote; of a folder those of its
subfolders, too. What several of them have of the same experiment is put together.
"""

import argparse
import re
from pathlib import Path

from diffedit_core.errors import InputError
from diffedit_core.files import folder_written, written

from .. import plots
from ..command import command
from . import drawing, page, reading
from .frontier import AXES, frontier


def parser():
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("results", nargs="+", type=Path, metavar="RESULTS", help="folder or .jsonl")
    top.add_argument("--out", type=Path, help="the page to write")
    top.add_argument("--svg", type=Path, metavar="FOLDER", help="write each plot as a file, too")
    top.add_argument(
        "--frontier", type=Path, metavar="FILE.svg", help="one measure over another, of all RESULTS"
    )
    top.add_argument(
        "--axes",
        nargs=2,
        metavar=("ACROSS", "UPWARDS"),
        default=AXES,
        help=f"measures of the frontier ({', '.join(AXES)})",
    )
    return top


@command("report")
def main(words):
    """Run the command; the exit code."""
    return run(parser().parse_args(words))


def run(a):
    """What the command line says."""
    if a.out is None and a.svg is None and a.frontier is None:
        raise InputError(
            "there is nothing to write: give --out page.html, --svg FOLDER or --frontier FILE.svg."
        )
    found = reading.read(a.results)
    try:
        if a.out is not None:
            with written(a.out) as part:
                part.write_text(page.page(found), encoding="utf-8")
            print(a.out)
        if a.svg is not None:
            with folder_written(a.svg) as part:
                for name, svg in files(found).items():
                    (part / name).write_text(plots.alone(svg), encoding="utf-8")
            print(a.svg)
        if a.frontier is not None:
            text = plots.alone(frontier(found, *a.axes))
            with written(a.frontier) as part:
                part.write_text(text, encoding="utf-8")
            print(a.frontier)
    except OSError as error:
        raise InputError(
            f"{error.filename or a.out} cannot be written ({error.strerror}): choose another place."
        ) from None
    return 0


def files(found):
    """{name of a file: plot} of all summaries. Law: there are as many files as plots."""
    named = {}
    for number, summary in enumerate(found):
        for measure, svg in drawing.plots_of(summary, number).items():
            words = f"{summary.experiment['name']} {measure}".lower()
            base = re.sub(r"[^a-z0-9]+", "-", words).strip("-")[:80] or "plot"
            name, count = base, 1
            while f"{name}.svg" in named:
                count += 1
                name = f"{base}-{count}"
            named[f"{name}.svg"] = svg
    return named
