"""The arguments of `python -m benchmarks.kernels`. Nothing here imports MindSpore, so that `--help`
answers at once; every default is None here, so that what was given can be told."""

import argparse
from pathlib import Path

from diffedit_core.errors import InputError

SUITES = ("anchors", "unet", "vae", "text")
DTYPES = ("fp32", "fp16", "bf16")
TIMERS = ("device", "event", "wall")
LEVELS = ("O0", "O1", "O2")
HF32 = ("none", "conv", "matmul", "both")
WHAT = ("suite", "model", "size", "batch", "dtype", "only")
HOW = (
    "kernels",
    "whole",
    "tune",
    "timer",
    "warmup",
    "iters",
    "repeats",
    "l2",
    "jit_level",
    "hf32",
    "profile_dir",
)
AFTER = ("csv", "report", "bundle", "baseline", "fail_above", "across_machines")
OUT = ("out", "resume")

# what is done instead of measuring -> the options that have a meaning with it
MODES = {
    "inventory": ("kernels",),
    "list": WHAT,
    "dry_run": (*WHAT, *HOW, *OUT, *AFTER),
    "from_file": (*AFTER, "tune"),
}
TUNED = ("conv2d",)  # the operations of `tune.WAYS`
# option -> the option without which it means nothing
NEEDS = {"resume": "out", "fail_above": "baseline", "across_machines": "baseline"}


class Parser(argparse.ArgumentParser):
    """One sentence for a mistake, and exit code 2."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message}; see --help\n")


def several(*choices):
    """A type: names with commas between them, each of `choices` where there are any."""

    def read(text):
        names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
        unknown = [name for name in names if choices and name not in choices]
        if unknown or not names:
            wrong = repr(unknown[0]) if unknown else "nothing"
            raise argparse.ArgumentTypeError(
                f"{wrong} is given, choose of {', '.join(choices) or 'the names'}"
            )
        return names

    return read


def at_least(smallest, kind=int):
    """A type: a number that is not smaller."""

    def read(text):
        try:
            number = kind(text)
        except ValueError:
            number = None
        if number is None or not number >= smallest or number == float("inf"):
            raise argparse.ArgumentTypeError(f"{text!r} is given, expected {smallest} or more")
        return number

    return read


def parser():
    """The argument parser of a measurement."""
    top = Parser(
        prog="benchmarks.kernels",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure every kernel that a model calls: first its result, against float64, "
        "then its time.\n`compare OLD.jsonl NEW.jsonl` instead of options compares two results.",
        epilog="exit code: 0; 1 where a result is wrong or slower than --fail-above; 2 for bad "
        "input",
    )
    add_what(top.add_argument_group("what is measured"))
    add_how(top.add_argument_group("how"))
    add_results(top.add_argument_group("results"))
    add_instead(top.add_argument_group("instead of measuring").add_mutually_exclusive_group())
    return top


def add_what(group):
    """Options of what is measured."""
    add = group.add_argument
    add("--suite", type=several(*SUITES), metavar="NAMES", help=f"of {','.join(SUITES)} (unet)")
    add("--model", help="sd21, sd21-base, sd15, orchard, or a model folder (sd21-base)")
    add("--size", type=at_least(1), metavar="N", help="side of the picture (the model's own)")
    add("--batch", type=at_least(1), metavar="N", help="rows (unet 2, for guidance; else 1)")
    add("--dtype", type=several(*DTYPES), metavar="NAMES", help=f"of {','.join(DTYPES)} (fp32)")
    add("--only", metavar="OP", help="calls of this name only, such as conv2d")


def add_how(group):
    """Options of how it is measured."""
    add = group.add_argument
    add(
        "--kernels",
        type=several(),
        metavar="NAMES",
        help="tables of kernels, to be measured in turn (the device's, then reference)",
    )
    add(
        "--whole",
        type=several(),
        metavar="NAMES",
        help="of these tables, the ones whose whole evaluation is measured (all); none: calls only",
    )
    add(
        "--tune",
        choices=TUNED,
        help="instead of tables: every way to compute this operation, and the one that is chosen",
    )
    add(
        "--timer",
        type=several(*TIMERS),
        metavar="NAMES",
        help="device (the profiler's kernel times), event (of the device's clock), wall (of the "
        "host's); all three on Ascend, wall elsewhere",
    )
    add("--warmup", type=at_least(0), metavar="N", help="calls before the first that is timed (3)")
    add("--iters", type=at_least(1), metavar="N", help="calls between two looks at the clock (10)")
    add("--repeats", type=at_least(1), metavar="N", help="of that (5)")
    add("--l2", choices=("warm", "cold"), help="cold: flush the cache before each call (warm)")
    add("--jit-level", choices=LEVELS, help="how MindSpore compiles for Ascend (its own default)")
    add("--hf32", choices=HF32, help="which fp32 products Ascend may round to 11 bits (none)")
    add("--profile-dir", metavar="DIR", help="keep the profiler's files there")


def add_results(group):
    """Options of what becomes of the results."""
    add = group.add_argument
    add("--out", metavar="FILE.jsonl", help="one row a line; FILE.jsonl.part until it is complete")
    add("--resume", action="store_true", default=None, help="go on with FILE.jsonl.part")
    add("--csv", action="store_true", default=None, help="the same as FILE.csv")
    add("--report", metavar="FILE.html", help="a page: roofline and table")
    add("--bundle", metavar="FILE.zip", help="results, versions and inventory, to send back")
    add("--baseline", metavar="OLD.jsonl", help="compare with an earlier result")
    add(
        "--fail-above",
        type=at_least(0, float),
        metavar="X",
        help="exit with 1 if a call takes more than X times as long, beyond the noise",
    )
    add("--across-machines", action="store_true", default=None, help="compare other machines, too")


def add_instead(group):
    """What is done instead of measuring."""
    add = group.add_argument
    add("--list", action="store_true", default=None, help="the distinct calls, their counts, FLOP")
    add("--dry-run", action="store_true", default=None, help="check all options; say what would be")
    add("--inventory", action="store_true", default=None, help="what the kernels become on Ascend")
    add("--from", dest="from_file", metavar="FILE.jsonl", help="take the rows of an earlier run")


def flag(name):
    """The flag of an option's name."""
    return "--from" if name == "from_file" else "--" + name.replace("_", "-")


def check(arguments):
    """Refuse options that would change nothing.

    Raises: InputError
    """
    given = [name for name, value in vars(arguments).items() if value is not None]
    for mode, allowed in MODES.items():
        idle = [name for name in given if name not in (mode, *allowed)]
        if mode in given and idle:
            raise InputError(f"{flag(idle[0])} changes nothing with {flag(mode)}: leave it out.")
    for name, other in NEEDS.items():
        if name in given and other not in given:
            raise InputError(f"{flag(name)} needs {flag(other)}: add it.")
    if "csv" in given and not {"out", "from_file"} & set(given):
        raise InputError("--csv writes beside --out: add it.")
    if "from_file" in given and not set(given) & {*AFTER, "tune"}:
        raise InputError("--from needs --csv, --report, --bundle, --baseline or --tune: add one.")
    idle = [name for name in ("kernels", "whole", "only") if name in given]
    if "tune" in given and idle:
        raise InputError(f"{flag(idle[0])} changes nothing with --tune: leave it out.")
    if arguments.suite == ("anchors",):
        idle = [
            n for n in given if n in ("model", "size", "batch", "only", "kernels", "whole", "tune")
        ]
        if idle:
            raise InputError(
                f"{flag(idle[0])} changes nothing for the anchors: leave it out or add a suite."
            )
    timer = arguments.timer
    if arguments.profile_dir and timer is not None and "device" not in timer:
        raise InputError("--profile-dir keeps the files of --timer device: add that timer.")
    if arguments.l2 == "cold" and timer is not None and "event" in timer:
        raise InputError(
            "--l2 cold flushes before each call, --timer event calls without a pause: leave out "
            "one of them."
        )


def outputs(arguments):
    """{kind: Path} of the files that will be written.

    Raises: InputError: a folder is missing, a file is there or is the source.
    """
    found = {n: Path(getattr(arguments, n)) for n in ("report", "bundle") if getattr(arguments, n)}
    if arguments.csv:
        found["csv"] = Path(arguments.out or arguments.from_file).with_suffix(".csv")
    if arguments.out:
        found["out"] = Path(arguments.out)
    sources = [getattr(arguments, n) for n in ("from_file", "baseline") if getattr(arguments, n)]
    for kind, path in found.items():
        if not path.resolve().parent.is_dir():
            raise InputError(f"There is no folder {path.parent}: make it first.")
        if path.is_dir():
            raise InputError(f"{path} is a folder: give {flag(kind)} a file.")
        if any(Path(source).resolve() == path.resolve() for source in sources):
            raise InputError(f"{path} is read and would be overwritten: give {flag(kind)} another.")
    places = [path.resolve() for path in found.values()]
    if len(set(places)) < len(places):
        raise InputError("Two outputs have the same file name: give each its own.")
    return found
