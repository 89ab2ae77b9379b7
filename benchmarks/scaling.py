"""Time and memory of a whole edit against what they depend on, one axis at a time.

    python -m benchmarks.scaling [--axes size,steps,maps,targets] [--points steps=10,20,40]
        [--base size=128] [--model DIR] [--record FILE.jsonl]
    python -m benchmarks.scaling --table FILE.jsonl ...

Each point is a process of its own, which edits twice; the second edit's seconds count (the first
one's are in the file, too), and the largest memory of the process. An exponent p is that of
quantity = c * axis^p, fitted to the logarithms by least squares: what does not depend on the axis,
such as the weights' memory, makes it smaller.
"""

import argparse
import sys
import tempfile
from typing import NamedTuple, Optional

import numpy as np

from diffedit_core import folder
from diffedit_core.errors import InputError
from diffedit_core.options import RECIPES
from diffedit_core.plan import plan
from diffedit_core.progress import Bars

from .against import children, cli, job, rounds, rows, tables
from .kernels import evaluation, records
from .kernels.arguments import Parser, at_least, several

AXES = {
    "size": (0.5, 1, 1.5, 2),  # of the model's own
    "steps": (10, 20, 40, 80),
    "maps": (5, 10, 20, 40),
    "targets": (1, 2, 4, 8),
}
BASE = {"steps": 20, "maps": 10, "targets": 1}  # and the model's own size
TARGETS = tuple(
    f"a {container} of {fruit} on a wooden table"
    for container in ("basket", "bowl")
    for fruit in ("pears", "lemons", "oranges", "plums")
)
PHASES = (rows.WHOLE, rows.PROCESSOR, "maps", "inversion", "decoding", "encode", "VAE decode")


class Fit(NamedTuple):
    """exponent: p of y = c x^p; error: its standard error, None of two points; count: of points."""

    exponent: float
    error: Optional[float]
    count: int

    def __str__(self):
        noise = "" if self.error is None else f" ± {self.error:.2f}"
        return f"{self.exponent:.2f}{noise} ({self.count})"


def fit(x, y):
    """The `Fit` of positive numbers; None where a y is unknown or not above 0, or where there are
    not two different x.

    Laws: exact for a power of x; the same for x or y in other units.
    """
    if None in y or min(y, default=0) <= 0 or len(set(x)) < 2:
        return None
    a, b = np.log(np.asarray(x, np.float64)), np.log(np.asarray(y, np.float64))
    a, b = a - a.mean(), b - b.mean()
    exponent = float(a @ b / (a @ a))
    if len(a) == 2:
        return Fit(exponent, None, 2)
    rest = b - exponent * a
    return Fit(exponent, float(np.sqrt(rest @ rest / (len(a) - 2) / (a @ a))), len(a))


# --- the points -----------------------------------------------------------------------------------


def named(text):
    """A type: NAME=N[,N...] of an axis -> (name, numbers)."""
    name, _, values = text.partition("=")
    if name not in AXES or not values:
        raise argparse.ArgumentTypeError(f"{text!r} is given, expected NAME=N of {', '.join(AXES)}")
    numbers = tuple(at_least(1)(value) for value in values.split(","))
    return name, numbers


def points(axes, base, given):
    """{axis: [{"size", "steps", "maps", "targets"}]}: the base with one of them varied.

    Args:
        axes: names. base: {name: number} of all. given: {axis: numbers} in place of `AXES`.
    Raises: InputError: an axis has not two different points.
    """
    found = {}
    for axis in axes:
        values = given.get(axis, AXES[axis])
        if axis == "size" and axis not in given:
            values = [int(share * base["size"]) for share in values]
        if len(set(values)) < 2:
            raise InputError(f"--points {axis} has one value: an exponent needs two or more.")
        found[axis] = [{**base, axis: value} for value in sorted(set(values))]
    return found


def distinct(found):
    """The different points of all axes: what has to be run, once each."""
    return list({tuple(point.items()): point for each in found.values() for point in each}.values())


def options_of(point, recipe):
    """The `Options` of a point."""
    return RECIPES[recipe].replace(num_inference_steps=point["steps"], num_maps=point["maps"])


# --- the command ----------------------------------------------------------------------------------


def parser():
    """The argument parser."""
    top = Parser(
        prog="benchmarks.scaling",
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, default = top.add_argument, ",".join(AXES)
    add("--axes", type=several(*AXES), default=tuple(AXES), help=f"which to vary ({default})")
    add("--points", type=named, action="append", default=[], metavar="NAME=N,N", help="its values")
    add("--base", type=named, action="append", default=[], metavar="NAME=N", help="where the "
        "others stay (the model's own size, 20 steps, 10 maps, 1 target)")  # fmt: skip
    add("--recipe", choices=tuple(RECIPES), default="paper", help="of the edit (paper)")
    add("--runs", type=at_least(1), default=1, metavar="N", help="processes of each point (1)")
    cli.add_edit(top)
    add("--table", nargs="+", metavar="FILE", help="only print what files hold")
    return top


def main(words=None):
    """Run the command: the exit code."""
    arguments = parser().parse_args(words)
    try:
        if arguments.table:
            print("\n\n".join(table(records.read(file), file) for file in arguments.table))
            return 0
        return measure(arguments)
    except InputError as error:
        print(f"benchmarks.scaling: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"benchmarks.scaling: interrupted{rounds.kept(arguments.record)}", file=sys.stderr)
        return 130


def planned(arguments, configs):
    """`points` of the command's axes.

    Raises: InputError: one of them cannot be run.
    """
    given, base = dict(arguments.points), dict(arguments.base)
    for name in given:
        if name not in arguments.axes:
            raise InputError(f"--points {name} changes nothing without --axes {name}: add it.")
    for name, values in base.items():
        if len(values) > 1:
            raise InputError(f"--base {name} has {len(values)} values: give one.")
    base = {**BASE, **{name: value for name, (value,) in base.items()}}
    base = {"size": cli.check_size(base.get("size"), configs), **base}
    found = points(arguments.axes, base, given)
    for point in distinct(found):
        cli.check_size(point["size"], configs)
        if point["targets"] > len(TARGETS):
            raise InputError(f"There are {len(TARGETS)} targets, not {point['targets']}.")
        plan(options_of(point, arguments.recipe), configs.scheduler, point["targets"])
    if arguments.source in TARGETS:
        raise InputError("--source is one of the targets, which would not be edited: say another.")
    return found


def measure(arguments):
    """Check everything, then run each point."""
    model = cli.check_model(arguments)
    found = planned(arguments, model.configs)
    fields = facts(arguments)
    wanted = {name: value for name, value in fields.items() if name != "settings"}
    old = rounds.begun(arguments.record, arguments.resume, wanted, fields["settings"])
    check_rounds(arguments, old, found)
    pictures = {p["size"]: cli.squared(arguments.image, p["size"]) for p in distinct(found)}
    if arguments.dry_run:
        print("\n".join(described(arguments, model, found)))
        return 0
    left, bars, result = arguments.runs - rounds.done(old), Bars(arguments.quiet), old
    with bars.open("processes", left * len(distinct(found))) as step:
        for _ in range(left):
            runs = {}
            for point in distinct(found):
                picture = pictures[point["size"]]
                runs[tuple(point.items())] = run(arguments, model, point, picture)
                step(" ".join(f"{name} {value}" for name, value in point.items()))
            result = rounds.merged(result, results(found, runs, fields))
            rounds.write_part(arguments.record, result)
    rounds.write(arguments.record, result)
    print(table(result, "the result"))
    return 0


def check_rounds(arguments, old, found):
    """Raises InputError where earlier rounds are of other points, or are all that is asked for."""
    if not old:
        return
    wanted = {(axis, *point.items()) for axis, each in found.items() for point in each}
    there = {
        (row["args"]["axis"], *((name, row["settings"][name]) for name in AXES)) for row in old
    }
    if there != wanted:
        raise InputError(f"{arguments.record} is of other points: choose another --record.")
    if rounds.done(old) >= arguments.runs:
        raise InputError(f"{arguments.record} has {rounds.done(old)} rounds already: raise --runs.")


def run(arguments, model, point, picture):
    """`children.Measured` of a point."""
    recipe = arguments.recipe
    with tempfile.TemporaryDirectory() as place:
        job.write(
            place,
            model,
            arguments.dtype,
            picture,
            arguments.source,
            TARGETS[: point["targets"]],
            {recipe: options_of(point, recipe)},
            arguments.seed,
        )
        return children.run("the edit", *children.ours(place, recipe, arguments.threads))


def described(arguments, model, found):
    """The lines of `--dry-run`."""
    yield f"model       {model.path}, {arguments.dtype}, recipe {arguments.recipe}"
    for axis, each in found.items():
        yield f"{axis:<12}{', '.join(str(point[axis]) for point in each)}"
    total = 0
    for point in distinct(found):
        costs = plan(options_of(point, arguments.recipe), model.configs.scheduler, point["targets"])
        total += 2 * arguments.runs * costs.evaluations
        words = ", ".join(f"{name} {value}" for name, value in point.items())
        yield f"point       {words}: {costs.evaluations} UNet rows an edit"
    yield (
        f"processes   {arguments.runs * len(distinct(found))}, two edits each: "
        f"{total} UNet rows in all"
    )
    if arguments.record is not None:
        yield f"would write {arguments.record}"


def facts(arguments):
    """The fields that all rows share."""
    return {
        "variant": f"recipe {arguments.recipe}",
        "model": evaluation.label(arguments.model or folder.ORCHARD),
        "suite": "scaling",
        "dtype": arguments.dtype,
        "note": arguments.note,
        "settings": {"seed": arguments.seed, "threads": arguments.threads},
    }


def results(found, runs, fields):
    """All rows of a round: those of a point that two axes share stand under each."""
    fields, result = dict(fields), []
    side, settings = fields.pop("variant"), fields.pop("settings")
    for axis, each in found.items():
        for point in each:
            result += rows.of_side(
                side,
                runs[tuple(point.items())],
                args={"axis": axis, "value": point[axis]},
                settings={**point, **settings},
                size=point["size"],
                batch=point["targets"],
                **fields,
            )
    return result


# --- the tables -----------------------------------------------------------------------------------


def columns(found):
    """{heading: [number or None]} of the points of an axis; found: {value: {(state, op): row}}."""
    each = list(found.values())
    warm = [{op: row for (state, op), row in point.items() if state == "warm"} for point in each]
    peak = [point[rows.WHOLE]["max_memory_allocated"] for point in warm]
    loaded = [point["cold", "load"]["max_memory_allocated"] for point in each]
    known = None not in (*peak, *loaded)
    return {
        "UNet rows": [point[rows.WHOLE]["evaluations"] for point in warm],
        **{f"{op}, s": [point[op]["wall_us"]["p50"] / 1e6 for point in warm] for op in PHASES},
        "peak, GiB": [p and p / 2**30 for p in peak],
        "above the loaded model, GiB": [
            (p - q) / 2**30 if known else None for p, q in zip(peak, loaded)
        ],
    }


def table(result, file):
    """The tables of records: one for each axis, with the fitted exponents as the last line.

    Raises: InputError: there are none of this benchmark.
    """
    result = [row for row in result if row.get("suite") == "scaling"]
    if not result:
        raise InputError(f"{file} has no rows of benchmarks.scaling: give another file.")
    lines = [heading(result)]
    for axis in dict.fromkeys(row["args"]["axis"] for row in result):
        found = {}
        for row in result:
            if row["args"]["axis"] == axis:
                point = found.setdefault(row["args"]["value"], {})
                point[row["args"]["state"], row["op"]] = row
        shown = columns(found)
        lines += ["", f"| {axis} | {' | '.join(shown)} |", "|---" * (1 + len(shown)) + "|"]
        for i, value in enumerate(found):
            cells = [tables.shown(values[i]) for values in shown.values()]
            lines.append(f"| {value} | {' | '.join(cells)} |")
        fits = [fit(list(found), values) for values in shown.values()]
        cells = ["-" if each is None else str(each) for each in fits]
        lines.append(f"| exponent (points) | {' | '.join(cells)} |")
    return "\n".join(lines)


def heading(result):
    """A paragraph: what was measured, and where."""
    first = result[0]
    base = ", ".join(f"{name} {value}" for name, value in base_of(result).items())
    return (
        f"{first['model']}, {first['variant']}, {first['dtype']}; {base} where they are not "
        f"varied; the second edit of a process, medians of {first['wall_us']['n']}. "
        f"{tables.where(result)}"
    )


def base_of(result):
    """{axis: number} where the others are varied: the most frequent of each."""
    found = {}
    for name in AXES:
        values = [row["settings"][name] for row in result]
        found[name] = max(sorted(set(values)), key=values.count)
    return found


if __name__ == "__main__":
    sys.exit(main())
