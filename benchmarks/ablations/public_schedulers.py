"""Which laws the public DDIM schedulers obey, and the smallest counterexample to each of the others.

    pip install ".[compare]"
    python -m benchmarks.ablations.public_schedulers [--packages diffusers mindone ours]

`DDIMScheduler` and `DDIMInverseScheduler` of a package are asked in two ways:

- One step. The laws of tests/laws.py, which our integrators obey, on schedulers whose training
  schedule is the law's own levels, so that a step from timestep k leads to k-1, or up to k+1. A law
  that fails is tried once more with the schedule in double precision: if it holds then, the
  equation is right and only its coefficients are rounded.
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
from typing import Any, Callable, NamedTuple

import numpy as np

from diffedit_core import schedule
from diffedit_core.errors import InputError

NEEDED = ("mindspore", "hypothesis")  # beside the package that is looked at
SCALED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PREDICTIONS = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "trailing", "linspace")


# --- packages -------------------------------------------------------------------------------------


class Package(NamedTuple):
    """The two schedulers of a package, and its tensors."""

    name: str
    version: str
    down: Callable  # DDIMScheduler
    up: Callable  # DDIMInverseScheduler
    to: Callable  # numpy -> tensor
    back: Callable  # tensor -> numpy


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
    same = lambda x: x  # noqa: E731
    return Package("ours", "", core.DDIMScheduler, core.DDIMInverseScheduler, same, same)


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
        result = scheduler.step(package.to(out), max(i, j), package.to(x)).prev_sample
        return State(package.back(result))

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
    offset: int
    to_one: bool  # set_alpha_to_one

    def pair(self, package):
        """(scheduler, inverse scheduler) with `steps` timesteps."""
        settings = dict(SCALED, clip_sample=False, steps_offset=self.offset)
        settings |= dict(set_alpha_to_one=self.to_one, num_train_timesteps=self.total)
        settings |= dict(prediction_type=self.prediction, timestep_spacing=self.spacing)
        both = package.down(**settings), package.up(**settings)
        for scheduler in both:
            scheduler.set_timesteps(self.steps)
        return both


def times(package, scheduler):
    """Its timesteps, as they are taken: int64 [N]."""
    steps = scheduler.timesteps
    return np.array(steps if isinstance(steps, np.ndarray) else package.back(steps), np.int64)


def number(value):
    """A float of a tensor of one number."""
    return float(value.asnumpy() if hasattr(value, "asnumpy") else value)


def alphas_of(example):
    """alphas_cumprod of the training schedule: float64 [total]."""
    betas = np.linspace(SCALED["beta_start"] ** 0.5, SCALED["beta_end"] ** 0.5, example.total) ** 2
    return np.cumprod(1 - betas)


def clean_alpha(example):
    """alphas_cumprod of the clean picture."""
    return 1.0 if example.to_one else float(alphas_of(example)[0])


def along(package, example, which):
    """(scheduler, its timesteps, the alphas at which each of its steps has to begin and to end):
    `which` is 0 for the way down, 1 for the way up."""
    scheduler = example.pair(package)[which]
    steps, bar = times(package, scheduler), alphas_of(example)
    assert steps.min() >= 0 and steps.max() < example.total, f"timesteps {steps.tolist()}"
    here, clean = bar[steps].tolist(), clean_alpha(example)
    ends = [*here[1:], clean] if which == 0 else here
    starts = here if which == 0 else [clean, *here[:-1]]
    return scheduler, steps, starts, ends


def take(package, scheduler, out, t, x):
    return package.back(scheduler.step(package.to(out), int(t), package.to(x)).prev_sample)


X = np.array([[[[0.5, -1.5, 0.25]]]])
PICTURE, NOISE = 0.75, X
CLOSE = 1e-4  # relative: the public schedules are float32
LOOPS = {}


def loop_law(check):
    LOOPS[check.__name__] = check
    return check


def close(found, wanted):
    error = np.abs(found - wanted).max()
    assert np.isfinite(found).all() and error <= CLOSE * (
        1 + np.abs(wanted).max()
    ), f"{found.reshape(-1).tolist()} instead of {np.asarray(wanted).reshape(-1).tolist()}"


@loop_law
def there_is_an_inverse(package, example):
    """The inverse scheduler takes the settings that the scheduler takes."""
    try:
        example.pair(package)
    except (ValueError, NotImplementedError) as error:
        raise AssertionError(error) from error


@loop_law
def as_many_timesteps_as_steps(package, example):
    """Each has as many timesteps as it was asked for, different ones within the training
    schedule."""
    for scheduler in example.pair(package):
        steps = times(package, scheduler)
        good = len(set(steps.tolist())) == example.steps == len(steps)
        assert good and steps.min() >= 0 and steps.max() < example.total, steps.tolist()


@loop_law
def both_take_the_same_timesteps(package, example):
    """The inverse scheduler's timesteps are the scheduler's, backwards."""
    down, up = (times(package, scheduler) for scheduler in example.pair(package))
    assert np.array_equal(down[::-1], up), (down.tolist(), up.tolist())


def ends_where_the_next_begins(package, example, which):
    scheduler, steps, starts, ends = along(package, example, which)
    for t, start, end in zip(steps, starts, ends):
        x, wanted = (math.sqrt(a) * PICTURE + math.sqrt(1 - a) * NOISE for a in (start, end))
        out = prediction_of(example.prediction, np.full_like(X, PICTURE), NOISE, start)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            close(take(package, scheduler, out, t, x), wanted)


@loop_law
def a_step_down_ends_where_the_next_begins(package, example):
    """With the true picture and noise, a step down leads from its timestep's level to the next
    timestep's, the last one to the clean picture's."""
    ends_where_the_next_begins(package, example, 0)


@loop_law
def a_step_up_ends_at_its_timestep(package, example):
    """With the true picture and noise, a step up leads from the level of the timestep before, the
    first one from the clean picture's, to its own timestep's."""
    ends_where_the_next_begins(package, example, 1)


def walked(package, example, x, out, ways=(1, 0)):
    """x after all steps up, and down again; out(x, t) is the model."""
    for which in ways:
        scheduler = example.pair(package)[which]
        for t in times(package, scheduler):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                x = take(package, scheduler, out(x, int(t)), t, x)
    return x


@loop_law
def up_and_down_with_one_eps_is_the_identity(package, example):
    """All steps up and all steps down with one eps give the latents back."""
    example = example._replace(prediction="epsilon")
    close(walked(package, example, X, lambda x, t: np.full_like(x, 0.5)), X)


@loop_law
def eps_is_used(package, example):
    """Adding 1 to eps moves the end of the way up by what the equation says, whatever the way
    down would undo."""
    example = example._replace(prediction="epsilon")
    first, last = (
        clean_alpha(example),
        alphas_of(example)[times(package, example.pair(package)[1])[-1]],
    )
    ends = [
        walked(package, example, X, lambda x, t, e=e: np.full_like(x, e), ways=(1,))
        for e in (0.0, 1.0)
    ]
    moved = math.sqrt(1 - last) - math.sqrt(last * (1 - first) / first)
    close(ends[1] - ends[0], np.full_like(X, moved))


def agree(package, example, which):
    """A model of a bell-shaped world that predicts eps, v or the picture, asked at the loop's own
    timesteps."""
    bar = alphas_of(example)

    def ask(kind):
        def out(x, t):
            a = float(bar[t])
            eps = math.sqrt(1 - a) / (0.25 * a + 1 - a) * x
            return prediction_of(kind, (x - math.sqrt(1 - a) * eps) / math.sqrt(a), eps, a)

        return out

    ends = {
        kind: walked(package, example._replace(prediction=kind), X, ask(kind), ways=(which,))
        for kind in ("epsilon", example.prediction)
    }
    close(ends[example.prediction], ends["epsilon"])


@loop_law
def predictions_agree_down(package, example):
    """On the way down, models that predict eps, v or the picture of the same world end at the same
    latents."""
    agree(package, example, 0)


@loop_law
def predictions_agree_up(package, example):
    """On the way up, models that predict eps, v or the picture of the same world end at the same
    latents."""
    agree(package, example, 1)


def loops(spacing):
    """Examples with one spacing; those of few timesteps are simpler."""
    from hypothesis import strategies as st

    def build(total, share, **more):
        return Loop(spacing=spacing, total=total, steps=1 + int(share * (total - 1)), **more)

    return st.builds(
        build,
        total=st.sampled_from((10, 50, 1000)),
        share=st.floats(0, 1).map(lambda x: round(x, 2)),
        prediction=st.sampled_from(PREDICTIONS),
        offset=st.integers(0, 1),
        to_one=st.booleans(),
    )


# --- the tables -----------------------------------------------------------------------------------


def failure(check, subject, examples, cost=1):
    """None, or (error, smallest example): as `laws.counterexample`. What the package refuses fails
    with its own error."""
    from tests import laws

    law = laws.Law(lambda step, example: check(subject, example), examples, laws.by_all, cost)
    with np.errstate(all="ignore"):
        return laws.counterexample(law, None)


def law_cells(package, names=None, manners=MANNERS):
    """{(law, manner): (cell, failure or None)} of the laws of tests/laws.py that DDIM promises."""
    from diffedit_core.integrators import INTEGRATORS
    from tests import laws

    found = {}
    for name in names or laws.LAWS:
        law = laws.LAWS[name]
        if law.promised(INTEGRATORS["ddim"]):
            continue
        for manner, how in manners.items():
            bad = failure(law.check, integrator(package, how), law.examples, law.cost)
            cell = "holds" if bad is None else "no"
            if bad is not None:
                step = integrator(package, how, exact=True)
                exactly = failure(law.check, step, law.examples, law.cost)
                cell, bad = ("rounding", bad) if exactly is None else ("no", exactly)
            found[name, manner] = cell, bad
    return found


def loop_cells(package, names=LOOPS, spacings=SPACINGS):
    """{(law, spacing): (cell, failure or None)} of LOOPS."""
    found = {}
    for name in names:
        for spacing in spacings:
            bad = failure(LOOPS[name], package, loops(spacing))
            found[name, spacing] = ("holds" if bad is None else "no"), bad
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
        if cell == "no":
            text = f"{name}, {column}: {in_words(bad)}"
            yield from textwrap.wrap(text, 120, subsequent_indent="    ")
    yield ""


def parser():
    top = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--packages", nargs="+", choices=PACKAGES, default=["diffusers"])
    top.add_argument("--examples", type=int, default=25, help="tried for each law")
    return top


def main(argv=None):
    """Print the tables; 2 and one sentence where something has to be installed."""
    a = parser().parse_args(argv)
    try:
        for name in NEEDED:
            if importlib.util.find_spec(name) is None:
                raise InputError(f'{name} is not installed: pip install ".[compare]".')
        packages = [load(name) for name in a.packages]
    except InputError as error:
        print(f"public_schedulers: {error}", file=sys.stderr)
        return 2
    profile(a.examples)
    for package in packages:
        for cells in (law_cells(package), loop_cells(package)):
            print("\n".join(table(cells, package)), flush=True)
        if package.version:
            print(f"reproduced with {package.name} {package.version}\n", flush=True)
    return 0


def profile(examples):
    """The examples of hypothesis: so many, and the same each time."""
    from hypothesis import HealthCheck, settings

    more = dict(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    settings.register_profile("public", max_examples=examples, **more)
    settings.load_profile("public")


if __name__ == "__main__":
    sys.exit(main())
