"""A whole edit by the command line: seconds, processor time and peak memory.

    python -m benchmarks.edit IMAGE --source TEXT --target TEXT [any option of `diffedit edit`]
        [--record FILE.jsonl]
    python -m benchmarks.edit --against diffusers --python PYTHON [--model DIR] [--size PX]
        [--steps N] [--dtype fp32] [--record FILE.jsonl]; --help has the rest
    python -m benchmarks.edit --table FILE.jsonl ...

The second compares whole edits, phase by phase, with the public pipeline's in an environment that
has it (`against/cli.py`); the third prints the tables of what it wrote.

Of the first, `--dtype` is one of the options of `diffedit edit`. The memory is the device's, on a
CPU that of the process. A row of --record has numbers and choices of the options, and no text,
picture or path.
"""

import argparse
import sys
import time

from diffedit_core import arguments as core, cli, kernels
from diffedit_core.errors import InputError
from diffedit_core.folder import ORCHARD

from .against import cli as comparison
from .kernels import evaluation
from .timing import peak_memory


def settings(words):
    """{option: value} of a command `diffedit edit`, without texts and names of files."""
    top = core.parser()
    found = vars(top.parse_args(["edit", *words]))
    (commands,) = [a.choices for a in top._actions if isinstance(a, argparse._SubParsersAction)]
    public = {
        action.dest
        for action in commands["edit"]._actions
        if action.choices is not None or action.type in (int, float) or action.nargs == 0
    }
    kept = {name: value for name, value in found.items() if name in public}
    return {name: value for name, value in sorted(kept.items()) if value is not None}


def main(words=None):
    """Run `diffedit edit` with the arguments as they are and print what it took; or compare."""
    words = sys.argv[1:] if words is None else words
    if any(word.split("=")[0] == "--against" for word in words):
        return comparison.main(words)
    if words[:1] == ["--table"]:
        return comparison.show(words[1:])
    own = argparse.ArgumentParser(prog="benchmarks.edit", add_help=False, allow_abbrev=False)
    evaluation.add_record(own)
    given, rest = own.parse_known_args(words)
    try:
        evaluation.check(given.record)
    except InputError as error:
        print(f"benchmarks.edit: error: {error}", file=sys.stderr)
        return 2
    wall, processor = time.perf_counter(), time.process_time()
    code = cli.main(["edit", *rest])
    seconds = time.perf_counter() - wall
    print(
        f"{seconds:.1f} s, processor time {time.process_time() - processor:.1f} s, "
        f"peak memory {peak_memory():.2f} GiB"
    )
    if given.record and code == 0:
        evaluation.write(given.record, [record(rest, seconds)])
    return code


def record(words, seconds):
    """The row of an edit; its first call is its only one."""
    found = core.parser().parse_args(["edit", *words])
    model = getattr(found, "model", None)
    return evaluation.row(
        "edit",
        [seconds],
        model=evaluation.label(model or ORCHARD),
        suite="edit",
        size=getattr(found, "size", None),
        batch=len(found.target),
        dtype=found.dtype,
        variant=kernels.default_kernels() if found.kernels == "auto" else found.kernels,
        args=settings(words),
        first_call_s=round(seconds, 4),
        memory=peak_memory(),
    )


if __name__ == "__main__":
    sys.exit(main())
