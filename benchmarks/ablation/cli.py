"""Run experiments: what a choice of DiffEdit's costs or gains, where the truth is known.

    python -m benchmarks.ablation --list
    python -m benchmarks.ablation threshold --plan
    python -m benchmarks.ablation threshold my_experiment.py --scenes 12
    msrun --worker_num=2 --local_worker_num=2 --join=True python -m benchmarks.ablation threshold
    python -m benchmarks.ablation threshold --model owner/name --pictures FOLDER --prompts FILE

An experiment is one of benchmarks/ablations or of a file. What the folder of results has already is
not done again, so that a run can be stopped at any moment and continued; processes that share the
folder share the work.
"""

import argparse
import dataclasses
import functools
import importlib
import importlib.util
import os
import sys
from pathlib import Path

from diffedit_core.errors import InputError
from diffedit_core.folder import ORCHARD

from ..command import command
from . import rows, tables
from .experiment import Experiment
from .measures import MEASURES
from .work import Share

HOME = Path(__file__).parent.parent / "ablations"
COLLECTED = HOME / "results"  # what was measured for the notes


def experiments():
    """{name: `Experiment`} of the files of benchmarks/ablations that have any."""
    found = {}
    for file in sorted(HOME.glob("[a-z]*.py")):
        if "from ..ablation import Experiment" not in file.read_text(encoding="utf-8"):
            continue  # a program of its own
        module = importlib.import_module(f"benchmarks.ablations.{file.stem}")
        found.update({e.name: e for e in vars(module).values() if isinstance(e, Experiment)})
    return found


def of_file(path):
    """The experiments of a file.

    Raises:
        InputError: it is missing, fails, or has none.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing: give a file of Python with an Experiment.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path} fails with {type(error).__name__}: {error}") from error
    found = [e for e in vars(module).values() if isinstance(e, Experiment)]
    if not found:
        raise InputError(f"{path} has no Experiment: assign one to a name.")
    return found


def chosen(names):
    """The experiments that are named."""
    found, known = [], None
    for name in names:
        if name.endswith(".py"):
            found += of_file(Path(name))
            continue
        known = experiments() if known is None else known
        if name != "all" and name not in known:
            raise InputError(
                f"There is no experiment {name!r}: choose of all, {', '.join(known)}, or give a "
                "file."
            )
        found += list(known.values()) if name == "all" else [known[name]]
    return found


def parser():
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = top.add_argument
    add("names", nargs="*", metavar="NAME|FILE.py", help="experiments, or all")
    add("--list", action="store_true", help="name the experiments and what they ask")
    add("--plan", action="store_true", help="say what it costs and stop")
    add("--table", action="store_true", help="print the tables of what is there and stop")
    add("--kinds", action="store_true", help="tables for each kind of edit, too")
    add("--collect", action="store_true", help="write the rows as files of benchmarks/ablations")
    add("--scenes", type=int, help="edits of the split (default: the experiment's)")
    add("--seeds", type=int, nargs="+", help="of the draws (default: the experiment's)")
    add("--shard", metavar="i/n", help="do this part of the work only")
    add("--out", type=Path, default=Path("results"), help="folder of results (default: results)")
    add("--model", default=ORCHARD, help="folder or repository id (default: the one that ships)")
    add("--size", type=int, help="side of the pictures, in pixels (default: the model's own)")
    add("--dtype", choices=("fp32", "fp16", "bf16"), default="fp32")
    add("--cache", type=Path, help="folder for what is computed once, used by all runs")
    add("--memory", type=float, default=1.0, help="GiB of it in memory, at most")
    add("--disk", type=float, default=4.0, help="GiB of it in the folder, at most")
    add("--rate", type=float, help="evaluations a second for --plan (default: the last run's)")
    add("--pictures", type=Path, help="folder of pictures of your own")
    line = '{"picture": ..., "source": ..., "target": ...}'
    add("--prompts", type=Path, help=f'JSON lines {line}, and "mask" where it is known')
    add("--clip", type=Path, help="folder of a CLIP model, for the measure clip")
    add("--lpips", choices=("alex", "vgg"), help="network of the measure lpips")
    return top


@command("ablation")
def main(words):
    """Run the command; the exit code."""
    return run(parser().parse_args(words))


def run(a):
    """What the command line says."""
    if a.list:
        for experiment in experiments().values():
            count = len({v.digest for v in experiment.variants})
            print(f"{experiment.name:24} {count:3} ways, {experiment.scenes} scenes: "
                  f"{experiment.question}")  # fmt: skip
        return 0
    if not a.names:
        raise InputError("no experiment is named: give one, all, or --list.")
    if (a.pictures is None) != (a.prompts is None):
        raise InputError("--pictures and --prompts belong together: give both.")
    wanted = [adjusted(experiment, a) for experiment in chosen(a.names)]
    if a.table or a.collect:
        for experiment in wanted:
            show(experiment, a)
        return 0
    return work(wanted, a)


def adjusted(experiment, a):
    """The experiment with what the command line changes. Pictures of one's own are part of its
    name, so that an edited sentence or picture is measured anew."""
    from . import subjects

    changes = {}
    if a.scenes is not None:
        changes["scenes"] = a.scenes
    if a.seeds is not None:
        changes["seeds"] = tuple(a.seeds)
    if a.pictures is not None:
        changes["measures"] = without_truth(experiment, a)
        content = subjects.content(a.pictures, a.prompts)
        changes["name"] = f"{experiment.name}-{a.prompts.stem}-{content[:8]}"
    return dataclasses.replace(experiment, **changes)


def without_truth(experiment, a):
    """The measures for pictures of one's own: those of the same stage that need no true edit, and
    those of a true mask where one is given."""
    from . import subjects

    known = ("", "mask") if subjects.have_masks(a.pictures, a.prompts) else ("",)
    given = {"clip": a.clip, "lpips": a.lpips}
    stages = ("mask",) if experiment.only_mask else ("mask", "picture", "cost")
    names = [n for n, m in MEASURES.items() if m.truth in known and m.of in stages]
    return tuple(n for n in names if not MEASURES[n].extra or given[n] or n in experiment.measures)


# --- work -----------------------------------------------------------------------------------------


def work(wanted, a):
    """Plan or run experiments one after the other, on one model."""
    from diffedit_core import kernels

    from . import engine
    from .cache import Cache

    if os.environ.get("MS_ROLE") == "MS_SCHED":
        return 0  # the launcher's own process, which runs the command as well
    kernels.set_up(a.dtype)
    share = Share.of(a.shard)
    bench = bench_of(a)
    if a.plan:
        jobs, rate = [], a.rate or engine.rate(a.out)
        for experiment in wanted:
            jobs.append(engine.lay_out(experiment, bench, a.out))
            print(f"{experiment.name}: {experiment.question}")
            print("\n".join(jobs[-1].plan.lines(rate)), flush=True)
        if len(jobs) > 1:
            print("\nall, with --cache")
            print("\n".join(engine.total(jobs).lines(rate)))
        return 0
    cache = Cache(int(a.memory * 2**30), a.cache, int(a.disk * 2**30))
    for experiment in wanted:
        job = engine.lay_out(experiment, bench, a.out)
        elsewhere, computed = engine.run(job, cache, share)
        print(f"{experiment.name}: {computed} evaluations", file=sys.stderr)
        if elsewhere:
            print(f"{experiment.name}: other processes are at {elsewhere} parts of it: "
                  "run --table when they are done.", file=sys.stderr)  # fmt: skip
        elif share.count == 1:
            show(experiment, a, (engine.program(), bench.model, bench.size))
    return 0


def bench_of(a):
    """The `engine.Bench` of the command line."""
    from diffedit_core.folder import check
    from diffedit_core.memory import CELLS_OF_MANY, default_cells
    from diffedit_core.model import Model

    from ..orchard.reader import Reader
    from . import subjects
    from .compare import functions
    from .engine import Bench
    from .identity import model_digest

    found = check(a.model, a.dtype == "fp16")
    side = a.size or found.configs.picture_size
    own, cells = a.pictures is not None, default_cells(cells=CELLS_OF_MANY)

    def batches(split, scenes, seeds):
        if own:
            return subjects.pictures(a.pictures, a.prompts, seeds, side)
        return subjects.orchard(split, scenes, seeds, side)

    return Bench(
        found.configs,
        model_digest(found, a.dtype),
        side,
        functools.lru_cache(lambda: Model.load(found, a.dtype, cells_at_once=cells)),
        batches,
        None if own else Reader.load(),
        functions(a.clip, a.lpips),
    )


def show(experiment, a, wanted=None):
    """Print the tables of an experiment, or collect its rows: of a program, a model and a size."""
    folder = a.out / experiment.name
    collected = COLLECTED / f"{experiment.name}.jsonl"
    lines = rows.read(folder) if folder.is_dir() else []
    if not lines and collected.is_file():
        lines = list(rows.lines(collected))
    found = tables.results(lines, wanted)
    if found is None:
        raise InputError(f"{folder} has no rows of {experiment.name}: run it first.")
    if a.collect:
        COLLECTED.mkdir(exist_ok=True)
        tables.collect(lines, found, collected)
        print(collected)
        return
    of = f"commit {found.run['commit']}, model {found.run['model']}"
    of += f", {found.run['size']} pixels" if "size" in found.run else ""
    print(f"\n{experiment.question} ({of})\n")
    print(tables.table(found))
    kinds = {row["subject"] for of in found.rows.values() for row in of.values()}
    for kind in sorted(kinds) if a.kinds else ():
        print(f"{kind}:\n\n{tables.table(found, kind)}")
    if found.others:
        print(f"{found.others} rows of other programs, models or sizes are not in the table.")
