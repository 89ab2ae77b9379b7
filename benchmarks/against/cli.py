"""`python -m benchmarks.edit --against diffusers`: whole edits, ours and the public pipeline's.

The same weights, picture and random numbers; each edit in a process of its own, which edits twice
(cold, warm); the sides take turns. Three sides: the public pipeline; ours with its recipe, whose
results have to agree with it; our default edit (recipe paper), which evaluates the UNet less often
and is another edit. A fourth of your choice: --also="--reuse-features 5 --num-maps 1".
"""

import argparse
import shlex
import sys
import tempfile

import numpy as np

from diffedit_core import arguments as core, cli, folder, images, kernels
from diffedit_core.errors import InputError
from diffedit_core.options import DECLARED, RECIPES
from diffedit_core.plan import plan
from diffedit_core.progress import Bars

from ..command import command
from ..kernels import evaluation
from ..kernels.arguments import DTYPES, Parser, at_least
from . import agreement, child, children, job, rounds, rows, tables

APPLES = folder.ORCHARD.parent / "bowl_of_apples.png"
SOURCE, TARGET = "a bowl of apples on a wooden table", "a basket of pears on a wooden table"
CLAMP = RECIPES["paper"].mask_clamp_ratio
SETTINGS = ("steps", "maps", "clamp_ratio", "seed", "threads", "edits", "also")  # in all rows
NAMES = {"recipe diffusers": "diffusers", "recipe paper": "paper", "also": "also"}  # of options


def parser():
    """The argument parser."""
    top = Parser(
        prog="benchmarks.edit",
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit code: 0; 1 where the results disagree; 2 for bad input",
    )
    add = top.add_argument
    add("--against", choices=("diffusers",), required=True, help="the package to compare with")
    add("--python", required=True, help=f"an interpreter that has {', '.join(children.NEEDED)}")
    add_edit(top)
    add("--target", default=TARGET, metavar="TEXT", help="what it shall show")
    add("--size", type=at_least(1), metavar="PX", help="of the square picture (the model's own)")
    add("--steps", type=at_least(1), default=50, metavar="N", help="of the whole grid (50)")
    add("--maps", type=at_least(1), default=10, metavar="N", help="noise maps of the mask (10)")
    add("--clamp-ratio", type=at_least(0, float), default=CLAMP, metavar="X", help="of the mask, "
        f"the public mask_thresholding_ratio ({CLAMP:g}); random weights need less")  # fmt: skip
    add("--also", type=also, metavar="OPTIONS", help="a fourth side: our default edit with these "
        "options of `diffedit edit`")  # fmt: skip
    edits = "of a process: 1 is the cold one alone (2)"
    add("--edits", type=int, choices=(1, 2), default=child.EDITS, help=edits)
    add("--graph-cache", metavar="DIR", help="of our compiled graphs: what an earlier run left "
        "there is loaded (compile them all)")  # fmt: skip
    add("--runs", type=at_least(1), default=3, metavar="N", help="processes of each side (3)")
    add(
        "--tolerance",
        type=at_least(0, float),
        metavar="X",
        help=f"largest relative error of latents and picture ({agreement.RELATIVE['fp32']:g} in "
        "fp32)",
    )
    return top


def add_edit(top):
    """The options that `benchmarks.scaling` has, too."""
    add = top.add_argument
    add("--model", metavar="DIR|REPO", help="model in the diffusers layout (the shipped one)")
    add("--dtype", choices=DTYPES, default="fp32", help="of weights and activations (fp32)")
    add("--image", default=str(APPLES), metavar="FILE", help="the picture (shipped apples)")
    add("--source", default=SOURCE, metavar="TEXT", help="what the picture shows")
    add("--seed", type=at_least(0), default=0, metavar="N", help="of the random draws (0)")
    add(
        "--threads", type=at_least(1), metavar="N", help="of OpenMP (as many as the libraries take)"
    )
    add("--record", metavar="FILE.jsonl", help="write what was measured")
    add("--resume", action="store_true", help="add rounds to that file until there are --runs")
    add("--note", metavar="TEXT", help="a sentence about the run, in every row")
    add("--dry-run", action="store_true", help="check all arguments; say what would be run")
    add("--quiet", action="store_true", help="no progress bar")


def also(text):
    """A type: options of `diffedit edit` -> the text, its words apart by single spaces."""
    words = shlex.split(text)
    options_parser(Raising).parse_args(words)
    if not words:
        raise argparse.ArgumentTypeError("no option is given")
    return shlex.join(words)


class Raising(argparse.ArgumentParser):
    """A mistake is one of the type's."""

    def error(self, message):
        raise argparse.ArgumentTypeError(message)


def options_parser(kind=argparse.ArgumentParser):
    """A parser of a recipe and its options."""
    top = kind(add_help=False, allow_abbrev=False)
    top.add_argument("--recipe", choices=tuple(RECIPES))
    core.add_options(top, tuple(core.TITLES))
    return top


def sides(arguments):
    """{name of a side: `Options`}: that of the recipe, with the command's steps, maps and clamp.
    The fourth side's own options come last; a recipe of its own has its own maps and clamp."""
    steps = {"num_inference_steps": arguments.steps}
    changes = {**steps, "num_maps": arguments.maps, "mask_clamp_ratio": arguments.clamp_ratio}
    found = {name: RECIPES[name].replace(**changes) for name in ("diffusers", "paper")}
    if arguments.also is not None:
        given = options_parser().parse_args(shlex.split(arguments.also))
        base = RECIPES[given.recipe].replace(**steps) if given.recipe else found["paper"]
        found["also"] = base.replace(**{name: core.given(given, name) for name in DECLARED})
        given.command, given.recipe = "edit", given.recipe or "paper"
        cli.check_effect(given, found["also"])
    return found


def main(words):
    """Run the command: the exit code."""
    arguments = parser().parse_args(words)
    try:
        return compare(arguments)
    except InputError as error:
        print(f"benchmarks.edit: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"benchmarks.edit: interrupted{rounds.kept(arguments.record)}", file=sys.stderr)
        return 130


def check_model(arguments):
    """`folder.Found` of the model, on a device and in a dtype that can be compared."""
    kernels.check_dtype(arguments.dtype)
    if kernels.device() != "CPU":
        raise InputError(
            f"This is a {kernels.device()}, and the processes are timed on a CPU alone: use "
            "python -m benchmarks.kernels here."
        )
    return folder.check(arguments.model or folder.ORCHARD, arguments.dtype == "fp16")


def squared(image, size):
    """A picture of size x size of the file or PIL picture; the middle square of one that is not."""
    found = images.load_image(image).convert("RGB")
    side = min(found.size)
    left, top = (found.width - side) // 2, (found.height - side) // 2
    return found.crop((left, top, left + side, top + side)).resize((size, size), 3)


def check_size(size, configs):
    """The side of the picture, by default the model's own.

    Raises: InputError: the model's latents have no such size.
    """
    size = configs.picture_size if size is None else size
    if size % configs.vae.factor:
        raise InputError(f"The size is {size}: give a multiple of {configs.vae.factor}.")
    return size


def check_tolerance(arguments):
    """The relative error that is allowed."""
    if arguments.tolerance is None and arguments.dtype not in agreement.RELATIVE:
        raise InputError(
            f"Nobody has measured how far two {arguments.dtype} edits are apart by rounding: say "
            "by --tolerance what is near enough."
        )
    given = arguments.tolerance
    return agreement.RELATIVE[arguments.dtype] if given is None else given


def compare(arguments):
    """Check everything, then measure."""
    allowed = agreement.tolerances(check_tolerance(arguments))
    if arguments.source == arguments.target:
        raise InputError("--source and --target are the same: nothing would be edited.")
    options = sides(arguments)
    found = check_model(arguments)
    size = check_size(arguments.size, found.configs)
    fields = facts(arguments, size)
    old = begun(arguments, fields)
    picture = squared(arguments.image, size)
    plans = {name: plan(o, found.configs.scheduler) for name, o in options.items()}
    versions = children.probe(arguments.python)
    if arguments.dry_run:
        print("\n".join(described(arguments, found, size, plans, versions, allowed)))
        return 0
    with tempfile.TemporaryDirectory() as place:
        job.write(
            place, found, arguments.dtype, picture, arguments.source, [arguments.target], options,
            arguments.seed, arguments.edits,
        )  # fmt: skip
        return measure(arguments, place, list(options), old, fields, allowed)


def facts(arguments, size):
    """The fields that all rows share."""
    return {
        "model": evaluation.label(arguments.model or folder.ORCHARD),
        "suite": "edit",
        "size": size,
        "batch": 1,
        "dtype": arguments.dtype,
        "note": arguments.note,
        "settings": {
            **{name: getattr(arguments, name) for name in SETTINGS},
            "graph_cache": arguments.graph_cache is not None,
        },
    }


def begun(arguments, fields):
    """The rows of earlier rounds, of which there are fewer than asked for."""
    wanted = {name: value for name, value in fields.items() if name not in ("settings", "batch")}
    old = rounds.begun(arguments.record, arguments.resume, wanted, fields["settings"])
    if old and rounds.done(old) >= arguments.runs:
        raise InputError(f"{arguments.record} has {rounds.done(old)} rounds already: raise --runs.")
    return old


def described(arguments, found, size, plans, versions, allowed):
    """The lines of `--dry-run`."""
    cells = size // found.configs.vae.factor
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    ours = {side: plans[name] for side, name in NAMES.items() if name in plans}
    named_sides = tables.sides(arguments.also)
    yield f"model       {found.path}, {arguments.dtype}"
    yield f"picture     {size}x{size}, latents {cells}x{cells}, seed {arguments.seed}"
    turns = f"{arguments.runs} of each side in turn"
    states = ", ".join(rows.STATES[: arguments.edits])
    yield f"processes   {turns}, edits of each: {states}"
    yield f"threads     {threads(arguments.threads)}"
    yield f"graphs      {'loaded where they are there' if arguments.graph_cache else 'compiled'}"
    for side, costs in {tables.THEIRS: plans["diffusers"], **ours}.items():
        yield (
            f"  {named_sides[side]:<24} {costs.evaluations} UNet rows an edit: "
            f"{costs.mask_evaluations} maps, {costs.inversion_evaluations} inversion, "
            f"{costs.decode_evaluations} decoding"
        )
    yield f"public      {named} ({arguments.python})"
    for name, bound in allowed.items():
        yield f"agreement   {agreement.MEASURES[name]}: at most {bound:g}"
    if arguments.record is not None:
        yield f"would write {arguments.record}"


def threads(number):
    """How many threads, in words."""
    return "as many as the libraries take" if number is None else f"{number} of OpenMP"


def measure(arguments, place, options, old, fields, allowed):
    """Let the sides take turns; the exit code. options: the names of all."""
    named, threads = tables.sides(arguments.also), arguments.threads
    programs = {tables.THEIRS: children.public(arguments.python, place, threads)}
    for side, name in NAMES.items():
        if name in options:
            programs[side] = children.ours(place, name, threads, arguments.graph_cache)
    left, bars, result = arguments.runs - rounds.done(old), Bars(arguments.quiet), old
    with bars.open("processes", left * len(programs)) as step:
        for _ in range(left):
            runs = {}
            for side, (program, environment) in programs.items():
                runs[side] = children.run(named[side], program, environment)
                step(side)
                if side == "recipe diffusers":  # the public pipeline came before it
                    errors = agreements(place, runs[side], runs[tables.THEIRS])
                    wrong = agreement.broken(errors, allowed)
                    found = rows.of_agreement(errors, allowed, **fields)
                    if wrong:
                        return disagree(arguments, result, found, wrong)
            for side, run in runs.items():
                found += rows.of_side(side, run, **fields)
            result = rounds.merged(result, found)
            rounds.write_part(arguments.record, result)
    rounds.write(arguments.record, result)
    print(tables.of(result, "the result"))
    return 0


def agreements(place, ours, public):
    """{measure: error}, the larger one of both edits of the two processes that ran last."""
    found = []
    for number in range(len(ours.edits)):
        files = [job.place(place, name, number) for name in ("diffusers", "public")]
        arrays = [dict(np.load(file)) for file in files]
        counts = [side.edits[number]["rows"] for side in (ours, public)]
        found.append({**agreement.errors(*arrays), "UNet rows": agreement.rows(*counts)})
    return agreement.worst(found)


def disagree(arguments, old, found, wrong):
    """Write the errors, and no times of this round; exit code 1."""
    rounds.write(arguments.record, rounds.spoiled(old, found))
    print(
        f"benchmarks.edit: the two edits disagree ({'; '.join(wrong)}), so that their times do "
        "not compare.",
        file=sys.stderr,
    )
    return 1


@command("benchmarks.edit: error")
def show(files):
    """`python -m benchmarks.edit --table FILE...`: the exit code."""
    if not files:
        raise InputError("--table needs files: name what --record wrote.")
    print("\n\n".join(tables.text(file) for file in files))
