"""Laws of a loop over the timesteps of `set_timesteps`, as a pipeline runs it."""

import math
from typing import NamedTuple

import numpy as np

from .packages import prediction_of, take

PREDICTIONS = ("epsilon", "v_prediction", "sample")
SCALED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


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
