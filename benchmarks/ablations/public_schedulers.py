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
import functools
import importlib
import importlib.util
import logging
import math
import sys
import textwrap
import warnings
from typing import Callable, NamedTuple

import numpy as np

from diffedit_core.errors import InputError

from ..command import command

NEEDED = ("mindspore", "hypothesis")  # beside the package that is looked at
SCALED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PREDICTIONS = ("epsilon", "v_prediction", "sample")


# --- packages -------------------------------------------------------------------------------------


class Package(NamedTuple):
    """The two schedulers of a package, and its tensors."""

    name: str
    version: str
    down: Callable  # DDIMScheduler
    up: Callable  # DDIMInverseScheduler
    to: Callable  # numpy -> tensor
    back: Callable  # tensor -> numpy
    refuses: tuple = ()  # settings: predictions, "clip_sample"


def of_diffusers():
    torch, public = importlib.import_module("torch"), importlib.import_module("diffusers")
    public.utils.logging.set_verbosity_error()
    both = public.DDIMScheduler, public.DDIMInverseScheduler
    return Package("diffusers", public.__version__, *both, torch.from_numpy, lambda x: x.numpy())


def of_mindone():
    ms = importlib.import_module("mindspore")
    public = importlib.import_module("mindone.diffusers.schedulers")
    version = importlib.import_module("importlib.metadata").version("mindone")
    logging.getLogger("mindone").setLevel(logging.ERROR)
    both = public.DDIMScheduler, public.DDIMInverseScheduler
    return Package("mindone", version, *both, ms.Tensor, lambda x: x.asnumpy())


def ours():
    core = importlib.import_module("diffedit_core.pipeline")
    both, same = (core.DDIMScheduler, core.DDIMInverseScheduler), np.asarray
    return Package("ours", "", *both, same, same, refuses=("sample", "clip_sample"))


PACKAGES = {"diffusers": of_diffusers, "mindone": of_mindone, "ours": ours}


def load(name):
    """The `Package` of a name.

    Raises:
        InputError: it cannot be imported here; the sentence says what to install.
    """
    extra = 'pip install ".[compare]"' if name == "diffusers" else f"pip install {name}"
    try:
        return PACKAGES[name]()
    except ImportError as error:
        raise InputError(f"{name} cannot be imported ({error}): {extra}.") from error


def take(package, scheduler, out, t, x):
    """One step, of numpy arrays; a division by zero shows in the result."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = scheduler.step(package.to(out), int(t), package.to(x), return_dict=False)
    return package.back(found[0])


# --- one step: an integrator for tests/laws.py ----------------------------------------------------


class Manner(NamedTuple):
    """How a scheduler is asked."""

    prediction: str = "epsilon"
    clip: bool = False  # clip_sample, which the public classes have on by default
    ahead: bool = False  # up, ask the model where the step leads, as the public pipeline does


MANNERS = {
    "eps": Manner(),
    "v": Manner("v_prediction"),
    "sample": Manner("sample"),
    "eps, asked ahead": Manner(ahead=True),
    "v, asked ahead": Manner("v_prediction", ahead=True),
    "eps, clip_sample": Manner(clip=True),
}


def prediction_of(kind, x0, eps, alpha):
    """What a model of this kind says, of the picture and the noise that it sees."""
    signal, noise = (x0.dtype.type(math.sqrt(a)) for a in (alpha, 1 - alpha))
    return {"epsilon": eps, "sample": x0}.get(kind, signal * eps - noise * x0)


def integrator(package, manner, exact=False):
    """A step function with the contract of tests/laws.py that takes the package's steps.

    Args:
        exact: with the schedule in double precision.
    """
    from diffedit_core.integrators import State

    @functools.lru_cache(maxsize=256)
    def pair(alphas):
        return [
            with_alphas(package, of, alphas, manner, exact) for of in (package.down, package.up)
        ]

    def step(denoise, state, levels, i, j):
        x = state.latents
        scheduler = pair(tuple(levels.alphas.tolist()))[int(j > i)]
        asked = j if manner.ahead and j > i else i
        x0, eps = denoise(x, asked)
        out = prediction_of(manner.prediction, x0, eps, levels.alphas[asked])
        return State(take(package, scheduler, out, max(i, j), x))

    return step


def with_alphas(package, of, alphas, manner, exact):
    """A scheduler whose alphas_cumprod are these; from level k it steps to k-1 and back."""
    settings = {"prediction_type": manner.prediction, "clip_sample": manner.clip}
    betas = 1 - np.array(alphas) / np.array((1.0, *alphas[:-1]))
    scheduler = of(
        num_train_timesteps=len(alphas), trained_betas=np.clip(betas, 0, 1).tolist(), **settings
    )
    scheduler.set_timesteps(len(alphas))
    if exact:
        scheduler.alphas_cumprod = package.to(np.array(alphas, np.float64))
    return scheduler


# --- a loop as a pipeline runs it -----------------------------------------------------------------


class Loop(NamedTuple):
    """An example: settings of both schedulers, and the number of steps."""

    spacing: str
    prediction: str
    steps: int
    total: int  # training timesteps
    offset: int  # steps_offset
    to_one: bool  # set_alpha_to_one

    def scheduler(self, package, which):
        """The scheduler for the way down (0) or up (1), and its timesteps as they are taken: int64
        [N]."""
        settings = dict(SCALED, clip_sample=False, steps_offset=self.offset)
        settings |= dict(set_alpha_to_one=self.to_one, num_train_timesteps=self.total)
        settings |= dict(prediction_type=self.prediction, timestep_spacing=self.spacing)
        scheduler = (package.down, package.up)[which](**settings)
        scheduler.set_timesteps(self.steps)
        found = scheduler.timesteps
        return scheduler, np.array(
            found if isinstance(found, np.ndarray) else package.back(found), np.int64
        )

    @property
    def alphas(self):
        """alphas_cumprod of the training schedule: float64 [total]."""
        first, last = (SCALED[name] ** 0.5 for name in ("beta_start", "beta_end"))
        return np.cumprod(1 - np.linspace(first, last, self.total) ** 2)

    @property
    def clean(self):
        """alphas_cumprod of the clean picture."""
        return 1.0 if self.to_one else float(self.alphas[0])


def walked(package, example, x, out, ways=(1, 0)):
    """x after all steps up, and down again; out(x, t) is the model."""
    for which in ways:
        scheduler, steps = example.scheduler(package, which)
        for t in steps:
            x = take(package, scheduler, out(x, int(t)), t, x)
    return x


X = np.array([[[[0.5, -1.5, 0.25]]]])
PICTURE, NOISE = 0.75, X
CLOSE = 1e-4  # relative: the public schedules are float32


def close(found, wanted):
    """Assert that all numbers are, within CLOSE of the largest."""
    error = np.abs(found - wanted).max()
    assert np.isfinite(found).all() and error <= CLOSE * (
        1 + np.abs(wanted).max()
    ), f"{np.round(found.reshape(-1), 5).tolist()} not {np.round(wanted.reshape(-1), 5).tolist()}"


LOOPS = {}  # name: (check(package, example), whether it needs the inverse scheduler)


def loop_law(inverse):
    def register(check):
        LOOPS[check.__name__] = check, inverse
        return check

    return register


@loop_law(inverse=False)
def there_is_an_inverse(package, example):
    """The inverse scheduler takes the settings that the scheduler takes."""
    example.scheduler(package, 0)
    try:
        example.scheduler(package, 1)
    except (ValueError, NotImplementedError) as error:
        raise AssertionError(error) from error


@loop_law(inverse=False)
def as_many_timesteps_as_steps(package, example):
    """The scheduler has as many different timesteps as it was asked for."""
    steps = example.scheduler(package, 0)[1].tolist()
    assert len(set(steps)) == len(steps) == example.steps, steps


@loop_law(inverse=False)
def timesteps_are_of_the_schedule(package, example):
    """No timestep is beyond the last that the model was trained on."""
    steps = example.scheduler(package, 0)[1]
    assert steps.min() >= 0 and steps.max() < example.total, steps.tolist()


@loop_law(inverse=True)
def both_take_the_same_timesteps(package, example):
    """The inverse scheduler's timesteps are the scheduler's, backwards."""
    down, up = (example.scheduler(package, which)[1] for which in (0, 1))
    assert np.array_equal(down[::-1], up), (down.tolist(), up.tolist())


def follows_the_timesteps(package, example, which):
    """With the true picture and noise each step begins and ends at the loop's own levels."""
    scheduler, steps = example.scheduler(package, which)
    here = example.alphas[within(steps, example)].tolist()
    ends = [*here[1:], example.clean] if which == 0 else here
    starts = here if which == 0 else [example.clean, *here[:-1]]
    for t, start, end in zip(steps, starts, ends):
        x, wanted = (math.sqrt(a) * PICTURE + math.sqrt(1 - a) * NOISE for a in (start, end))
        out = prediction_of(example.prediction, np.full_like(X, PICTURE), NOISE, start)
        close(take(package, scheduler, out, t, x), wanted)


def within(steps, example):
    """The timesteps; an example that has others says nothing more than
    `timesteps_are_of_the_schedule`."""
    from hypothesis import assume

    assume(steps.max() < example.total)
    return steps


@loop_law(inverse=False)
def steps_down_follow_the_timesteps(package, example):
    """A step down, given the true picture and noise, leads from its timestep's level to the next
    timestep's; the last one to the clean picture's."""
    follows_the_timesteps(package, example, 0)


@loop_law(inverse=True)
def steps_up_follow_the_timesteps(package, example):
    """A step up, given the true picture and noise, leads from the level of the timestep before to
    its own timestep's; the first one from the clean picture's."""
    if (example.prediction, example.to_one) != ("sample", True):  # see the next law
        follows_the_timesteps(package, example, 1)


@loop_law(inverse=True)
def the_first_step_up_is_finite(package, example):
    """A clean picture can be inverted, whatever the model predicts."""
    scheduler, steps = example.scheduler(package, 1)
    t = within(steps, example)[0]
    out = prediction_of(example.prediction, X, np.full_like(X, 0.5), example.clean)
    assert np.isfinite(take(package, scheduler, out, t, X)).all(), "NaN"


@loop_law(inverse=True)
def up_and_down_with_one_eps_is_the_identity(package, example):
    """All steps up and all steps down with one eps give the latents back."""
    example = example._replace(prediction="epsilon")
    within(example.scheduler(package, 1)[1], example)
    close(walked(package, example, X, lambda x, t: np.full_like(x, 0.5)), X)


@loop_law(inverse=True)
def eps_is_used(package, example):
    """Adding 1 to eps moves the end of the way up as far as the equation says. (A slip that is made
    in both directions passes the law before this one.)"""
    example = example._replace(prediction="epsilon")
    last = example.alphas[within(example.scheduler(package, 1)[1], example)[-1]]
    ends = [
        walked(package, example, X, lambda x, t, e=e: np.full_like(x, e), ways=(1,))
        for e in (0.0, 1.0)
    ]
    moved = math.sqrt(1 - last) - math.sqrt(last * (1 - example.clean) / example.clean)
    close(ends[1] - ends[0], np.full_like(X, moved))


def predictions_agree(package, example, which):
    """Models of one world that predict eps, or v, or the picture, asked at the loop's timesteps,
    end at the same latents: that of pictures x0 ~ N(0, 1/4)."""
    bar = example.alphas
    within(example.scheduler(package, which)[1], example)

    def model(kind):
        def out(x, t):
            a = float(bar[t])
            eps = math.sqrt(1 - a) / (0.25 * a + 1 - a) * x
            return prediction_of(kind, (x - math.sqrt(1 - a) * eps) / math.sqrt(a), eps, a)

        return out

    one, other = (
        walked(package, example._replace(prediction=kind), X, model(kind), ways=(which,))
        for kind in (example.prediction, "epsilon")
    )
    close(one, other)


@loop_law(inverse=False)
def predictions_agree_down(package, example):
    """On the way down, models of one world that predict eps, v or the picture end at the same
    latents."""
    predictions_agree(package, example, 0)


@loop_law(inverse=True)
def predictions_agree_up(package, example):
    """On the way up, models of one world that predict eps, v or the picture end at the same
    latents."""
    predictions_agree(package, example, 1)


COLUMNS = {  # of the table of loops: (spacing, whether a number of steps N is in it, of T)
    "leading, N <= T/2": ("leading", lambda n, total: 2 * n <= total),
    "leading, N > T/2": ("leading", lambda n, total: 2 * n > total),
    "trailing, N divides T": ("trailing", lambda n, total: total % n == 0),
    "trailing, other N": ("trailing", lambda n, total: total % n != 0),
    "linspace": ("linspace", lambda n, total: True),
}


def loops(column, refused=()):
    """Examples of a column of the table, without the predictions that are refused."""
    from hypothesis import strategies as st

    spacing, wanted = COLUMNS[column]
    numbers = [(n, total) for total in (10, 60) for n in range(1, total + 1) if wanted(n, total)]

    def build(pair, **more):
        return Loop(spacing=spacing, steps=pair[0], total=pair[1], **more)

    return st.builds(
        build,
        pair=st.sampled_from(numbers),
        prediction=st.sampled_from([kind for kind in PREDICTIONS if kind not in refused]),
        offset=st.integers(0, 1),
        to_one=st.booleans(),
    )


# --- the tables -----------------------------------------------------------------------------------


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
    """{(law, manner): (cell, failure or None)} of the laws of tests/laws.py that DDIM promises."""
    from diffedit_core.integrators import INTEGRATORS
    from tests import laws

    promised = [name for name in laws.LAWS if not laws.LAWS[name].promised(INTEGRATORS["ddim"])]
    return {
        (name, manner): law_cell(package, name, how)
        for name in names or promised
        if name not in OF_THE_ADAPTER
        for manner, how in manners.items()
    }


def loop_cells(package, names=None, columns=COLUMNS):
    """{(law, column): (cell, failure or None)} of LOOPS."""
    found = {}
    for column in columns:
        examples = loops(column, package.refuses)
        without = failure(there_is_an_inverse, package, examples)
        for name in names or LOOPS:
            check, inverse = LOOPS[name]
            if inverse and without is not None:
                found[name, column] = "-", None
                continue
            bad = failure(check, package, examples)
            found[name, column] = verdict(bad), bad
    return found


def table(cells, package):
    """Markdown of cells, and the smallest counterexample of each that does not hold."""
    from tests.laws import in_words

    columns = list(dict.fromkeys(column for _, column in cells))
    title = f"{package.name} {package.version}".strip()
    yield f"| {title} | " + " | ".join(columns) + " |"
    yield "|" + "---|" * (len(columns) + 1)
    for name in dict.fromkeys(name for name, _ in cells):
        yield f"| {name} | " + " | ".join(cells[name, c][0] for c in columns) + " |"
    yield ""
    for (name, column), (cell, bad) in cells.items():
        if bad is not None and cell != "rounding":
            text = f"{name}; {column}: {in_words(bad)}"
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
        for cells in (law_cells(package), loop_cells(package)):
            print("\n".join(table(cells, package)), flush=True)
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
