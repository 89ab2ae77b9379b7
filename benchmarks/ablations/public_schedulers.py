"""Which laws the public DDIM schedulers obey, and the smallest counterexample to each other one.

    pip install ".[compare]"
    python -m benchmarks.ablations.public_schedulers [--packages diffusers mindone ours]

`DDIMScheduler` and `DDIMInverseScheduler` of a package are asked in two ways:

- One step. The laws of tests/laws.py, which our integrators obey, on schedulers whose training
  schedule is the law's own levels, so that a step from timestep k leads to k-1, or up to k+1. A law
  that fails is tried again with the schedule in double precision ("rounding": the equation is
  right, its coefficients are float32), without levels that have no noise ("not at a = 1"), and
  without half precision ("not in float16"); the table says from which of these on it holds.
- A loop as a pipeline runs it, over the timesteps of `set_timesteps`, with the model asked at each
  of them: `LOOPS`. A bare round trip says little here, since a slip made in both directions cancels
  in it; so what the steps do with eps is tested by itself.

hypothesis finds each counterexample and shrinks it. "ours" are the schedulers of diffedit_core,
which take the public steps on purpose; the edit itself walks the grid's own levels.
"""

import argparse
import importlib.util
import sys
import textwrap

import numpy as np

from diffedit_core.errors import InputError

from ..command import command
from .public.loops import COLUMNS, LOOPS, loops, there_is_an_inverse
from .public.packages import PACKAGES, load
from .public.steps import MANNERS, integrator

NEEDED = ("mindspore", "hypothesis")  # beside the package that is looked at


def failure(check, subject, examples, cost=1):
    """None, or (error, smallest example): as `laws.counterexample`."""
    from tests import laws

    law = laws.Law(lambda step, example: check(subject, example), examples, laws.by_all, cost)
    with np.errstate(all="ignore"):
        return laws.counterexample(law, None)


# Laws that ask nothing of a scheduler, since the adapter answers for it.
OF_THE_ADAPTER = ("asks_at_its_own_levels", "kinds_of_prediction_agree")
ONLY = {  # laws that are about one kind of prediction
    "leaves_and_reaches_zero_snr": "v_prediction",  # no other can
    "reversal_with_one_eps": "epsilon",  # its bound counts the roundings of a step with a given eps
}


def numbers_of(example):
    """(alphas, latents) of an example of tests/laws.py, as far as it has them."""
    first = example if hasattr(example, "_fields") else example[0]
    return getattr(first, "alphas", ()), getattr(first, "x", np.zeros(1))


RESERVATIONS = {  # what a law may need, one after the other: (exact schedule, examples to keep)
    "rounding": (True, lambda example: True),
    "not at a = 1": (True, lambda example: 1.0 not in numbers_of(example)[0]),
    "not in float16": (
        True,
        lambda example: 1.0 not in numbers_of(example)[0]
        and numbers_of(example)[1].dtype != np.float16,
    ),
}


def verdict(bad):
    """A cell of a table. Only an assertion says that a law does not hold; another error is a call
    that the package does not take."""
    return "holds" if bad is None else "no" if isinstance(bad[0], AssertionError) else "error"


def law_cell(package, name, manner):
    """(cell, failure or None) of a law of tests/laws.py."""
    from tests import laws

    law = laws.LAWS[name]
    if manner.prediction in package.refuses or manner.clip and "clip_sample" in package.refuses:
        return "refused", None
    if ONLY.get(name, manner.prediction) != manner.prediction:
        return "-", None
    bad = failure(law.check, integrator(package, manner), law.examples, law.cost)
    if verdict(bad) != "no":
        return verdict(bad), bad
    for reservation, (exact, kept) in RESERVATIONS.items():
        step, examples = integrator(package, manner, exact), law.examples.filter(kept)
        then = failure(law.check, step, examples, law.cost)
        if then is None:
            return reservation, bad
        bad = then
    return "no", bad


def law_cells(package, names=None, manners=MANNERS):
    """((law, manner), (cell, failure or None)), one after the other, of the laws of tests/laws.py
    that DDIM promises."""
    from diffedit_core.integrators import INTEGRATORS
    from tests import laws

    promised = [name for name in laws.LAWS if not laws.LAWS[name].promised(INTEGRATORS["ddim"])]
    for name in names or promised:
        if name not in OF_THE_ADAPTER:
            for manner, how in manners.items():
                yield (name, manner), law_cell(package, name, how)


def loop_cells(package, names=None, columns=tuple(COLUMNS)):
    """((law, column), (cell, failure or None)), one after the other, of LOOPS."""
    examples = {column: loops(column, package.refuses) for column in columns}
    without = {
        column: failure(there_is_an_inverse, package, examples[column]) for column in columns
    }
    for name in names or LOOPS:
        check, inverse = LOOPS[name]
        for column in columns:
            if inverse and without[column] is not None:
                yield (name, column), ("-", None)
                continue
            bad = failure(check, package, examples[column])
            yield (name, column), (verdict(bad), bad)


def table(cells, columns, package):
    """Lines of Markdown, each as soon as its cells are there, and then the smallest counterexample
    of each that does not hold."""
    from tests.laws import in_words

    title, bad = f"{package.name} {package.version}".strip(), []
    yield f"| {title} | " + " | ".join(columns) + " |"
    yield "|" + "---|" * (len(columns) + 1)
    row = []
    for (name, column), (cell, failed) in cells:
        row.append(cell)
        if failed is not None and cell != "rounding":
            bad.append(f"{name}; {column}: {in_words(failed)}")
        if len(row) == len(columns):
            yield f"| {name} | " + " | ".join(row) + " |"
            row = []
    yield ""
    for text in bad:
        yield from textwrap.wrap(text, 100, subsequent_indent="    ")
    yield ""


def parser():
    top = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--packages", nargs="+", choices=PACKAGES, default=["diffusers"])
    top.add_argument("--examples", type=int, default=25, help="tried for each law")
    return top


@command("public_schedulers")
def main(words):
    """Print the tables; 2 and one sentence where something has to be installed."""
    a = parser().parse_args(words)
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise InputError(f'{name} is not installed: pip install ".[compare]".')
    packages = [load(name) for name in a.packages]
    profile(a.examples)
    for package in packages:
        for cells, columns in ((law_cells, MANNERS), (loop_cells, COLUMNS)):
            for line in table(cells(package), columns, package):
                print(line, flush=True)
        if package.version:
            print(f"reproduced with {package.name} {package.version}\n", flush=True)


def profile(examples):
    """The examples of hypothesis: so many, and the same each time."""
    from hypothesis import HealthCheck, settings

    more = dict(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    settings.register_profile("public", max_examples=examples, **more)
    settings.load_profile("public")


if __name__ == "__main__":
    sys.exit(main())
