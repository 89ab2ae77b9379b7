"""The command line: measure, list, compare, report."""

import functools
import os
import subprocess
import sys
from pathlib import Path

from diffedit_core.errors import InputError

from . import arguments as A

ROOT = Path(__file__).parents[2]
PROGRAM = "benchmarks.kernels"
INVENTORY = "benchmarks.ascend.inventory"  # a module that sets MindSpore up otherwise

# MindSpore is imported inside the functions, after its warnings are silenced.


def main(words=None):
    """Run the command line. Returns the exit code: 0; 1 for a wrong or slower result; 2 for bad
    input, which prints one sentence."""
    os.environ.setdefault("GLOG_v", "3")  # MindSpore: errors only
    words = sys.argv[1:] if words is None else list(words)
    try:
        if words[:1] == ["compare"]:
            return compare_files(words[1:])
        arguments = A.parser().parse_args(words)
        A.check(arguments)
        if arguments.inventory:
            return inventory(arguments)
        files = A.outputs(arguments)
        if arguments.from_file:
            from . import records

            return after(arguments, files, records.read(arguments.from_file))
        return measured(arguments, files)
    except InputError as error:
        print(f"{PROGRAM}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted; --resume goes on with --out's .part file", file=sys.stderr)
        return 130


def compare_files(words):
    """`compare OLD NEW`."""
    from . import compare

    parser = A.Parser(prog=f"{PROGRAM} compare", allow_abbrev=False)
    parser.add_argument("old", metavar="OLD.jsonl")
    parser.add_argument("new", metavar="NEW.jsonl")
    parser.add_argument("--across-machines", action="store_true", help="other machines, too")
    given = parser.parse_args(words)
    print(compare.files(given.old, given.new, given.across_machines))
    return 0


def inventory(arguments):
    """What the lowerings become in MindSpore's front end: see `benchmarks.ascend.inventory`, which
    wants a process of its own."""
    names = arguments.kernels or ()
    if len(names) > 1:
        raise InputError("--inventory takes one table: give --kernels one name.")
    command = [sys.executable, "-m", INVENTORY]
    command += ["--kernels", names[0]] if names else []
    return 1 if subprocess.run(command, cwd=ROOT).returncode else 0


def settings_of(given):
    """`suite.Settings` and the tables {variant: kernels} of the arguments, all checked.

    Raises: InputError: an option that is wrong, or would change nothing on this device.
    """
    from diffedit_core import kernels as K

    from . import machine, models, suite

    timers = given.timer or machine.default_timers()
    machine.check(timers, given.l2 or "warm", given.jit_level, given.hf32, given.profile_dir)
    if given.l2 == "cold" and given.timer is None:
        timers = tuple(timer for timer in timers if timer != "event")
    if given.tune:
        tables = tuned(given)
    else:
        names = given.kernels or tuple(dict.fromkeys((K.default_kernels(), "reference")))
        tables = {name: K.checked(name) for name in names}
    names = tuple(tables)
    whole = () if given.whole == ("none",) else given.whole
    strange = [name for name in whole or () if name not in names]
    if strange:
        raise InputError(
            f"--whole {strange[0]} is not measured: choose of {', '.join(names)}, or none."
        )
    if given.only and given.whole is not None:
        raise InputError("--whole changes nothing with --only: leave it out.")
    dtypes, model = given.dtype or ("fp32",), given.model or "sd21-base"
    machine.check_dtypes(dtypes)
    chosen = dict(
        suites=given.suite or ("unet",),
        model=model,
        size=given.size or models.default_size(model),
        batch=given.batch,
        dtypes=dtypes,
        kernels=names,
        timers=timers,
        whole=whole,
    )
    if given.tune:
        chosen["only"] = given.tune
    for name in ("warmup", "iters", "repeats", "l2", "jit_level", "hf32", "only", "profile_dir"):
        if getattr(given, name) is not None:
            chosen[name] = getattr(given, name)
    return suite.Settings(**chosen), tables


def tuned(given):
    """The tables of --tune: see `tune.tables`.

    Raises: InputError: the ways are of a CPU, in fp32.
    """
    from diffedit_core import kernels as K

    from . import tune

    if K.device() != "CPU" or given.dtype not in (None, ("fp32",)):
        raise InputError("--tune compares the ways of a CPU in fp32: leave out --dtype, or --tune.")
    return tune.tables(given.tune)


def measured(given, files):
    """Measure, or say what would be measured."""
    from . import listing, machine, records, suite, tune

    settings, tables = settings_of(given)
    baseline = records.read(given.baseline) if given.baseline else None
    if not given.list:
        machine.prepare(settings.jit_level, settings.hf32)
    if "out" in files:
        records.check_out(files["out"], bool(given.resume))
    planned = suite.plan(settings)
    if given.list or given.dry_run:
        print(listing.calls(planned) if given.list else listing.work(settings, planned, files))
        return 0
    writer = records.Writer(files.get("out"), bool(given.resume))
    print(listing.heading(machine.describe(), settings), flush=True)
    say = functools.partial(print, flush=True)
    takes = tune.takes if given.tune else suite.takes_all
    missing = suite.run(settings, planned, tables, writer, say, takes)
    writer.finish()
    code = after(given, files, writer.rows, baseline)
    if missing:
        print(f"{missing} results are wrong or have no time: see their rows", file=sys.stderr)
    return 1 if missing else code


def after(given, files, rows, baseline=None):
    """What is made of the rows: table, page, bundle, comparison. Returns the exit code."""
    from diffedit_core.files import written

    from . import bundle, compare, page, records, tune

    if "csv" in files:
        with written(files["csv"]) as part:
            part.write_text(records.to_csv(rows), encoding="utf-8")
    if "report" in files:
        with written(files["report"]) as part:
            part.write_text(page.page(rows), encoding="utf-8")
    if "bundle" in files:
        with written(files["bundle"]) as part:
            bundle.write(part, rows, bundle.inventory_of(INVENTORY))
    if given.tune:
        print(tune.text(tune.choices(rows)))
    if not given.baseline:
        return 0
    baseline = records.read(given.baseline) if baseline is None else baseline
    found = compare.checked(baseline, rows, bool(given.across_machines))
    print(compare.text(*found))
    slower = compare.slower(found[0], given.fail_above) if given.fail_above is not None else []
    if slower:
        print(f"{len(slower)} rows are slower than {given.fail_above:g} times", file=sys.stderr)
    return 1 if slower else 0
