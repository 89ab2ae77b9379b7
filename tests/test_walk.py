"""diffedit_core.walk: guidance, what an integrator asks, loops up and down, stochastic steps."""

import dataclasses
import math

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffedit_core import integrators, schedule, walk
from diffedit_core.integrators import State

from . import reference
from .closed_forms import LEVELS, SHAPE, Predictor, latents_of, normal, states
from .closed_forms import text_field, wave_field
from .strategies import PREDICTION_TYPES, SD21, latents, prediction_types, spacings

# --- guidance -------------------------------------------------------------------------------------


def guided(predict, x, pairs, scale):
    return [p.asnumpy() for p in walk.guided(predict, ms.Tensor(x), 481, pairs, scale)]


def test_guidance_asks_for_all_in_one_batch_the_negative_first():
    x, predict = normal(13, *SHAPE), Predictor(wave_field)
    pairs = [(states(-1, -2), states(1, 2)), (states(-3, -4), states(3, 4))]
    guided(predict, x, pairs, 7.5)
    ((timestep, rows, asked),) = predict.calls
    assert timestep == 481 and asked.tolist() == [-1, -2, 1, 2, -3, -4, 3, 4]
    assert np.array_equal(rows, np.concatenate([x] * 4))


def test_without_guidance_the_negative_is_not_asked_about():
    x, predict = normal(13, *SHAPE), Predictor(wave_field)
    guided(predict, x, [(None, states(1, 2)), (states(-3, -4), states(3, 4))], 1.0)
    assert predict.calls[0][2].tolist() == [1, 2, 3, 4] and len(predict.calls) == 1


@given(st.floats(-4, 16))
def test_guidance_is_a_line_through_both_predictions(scale):
    x, pair = normal(14, *SHAPE), (states(-1, -2), states(1, 2))
    at = {g: guided(Predictor(wave_field), x, [pair], g)[0] for g in (0.0, 1.0, scale)}
    unconditional, conditional = (
        guided(Predictor(wave_field), x, [(None, s)], 1.0)[0] for s in pair
    )
    assert np.array_equal(at[0.0], unconditional) and np.array_equal(at[1.0], conditional)
    wanted = unconditional + scale * (conditional - unconditional)
    assert np.abs(at[scale] - wanted).max() < 1e-13


@given(st.floats(-4, 16))
def test_pairs_in_one_batch_are_those_asked_one_by_one(scale):
    x = normal(15, *SHAPE)
    pairs = [(states(-1, -2), states(1, 2)), (states(0.5, 3), states(3, 4))]
    together = guided(Predictor(wave_field), x, pairs, scale)
    for pair, found in zip(pairs, together):
        assert np.array_equal(found, guided(Predictor(wave_field), x, [pair], scale)[0])


@pytest.mark.parametrize("ahead", (0, 1))
def test_asked_is_at_the_timestep_of_the_level_or_of_the_one_above(ahead):
    predict = Predictor(wave_field)
    ask = walk.asked(predict, LEVELS, states(1, 2), states(-1, -2), 2.5, ahead)
    x = normal(16, *SHAPE)
    wanted = guided(lambda a, t, s: predict(a, int(LEVELS.timesteps[7 + ahead]), s), x,
                    [(states(-1, -2), states(1, 2))], 2.5)[0]  # fmt: skip
    assert np.array_equal(ask(ms.Tensor(x), 7).asnumpy(), wanted)
    assert predict.timesteps == [int(LEVELS.timesteps[7 + ahead])] * 2


@pytest.mark.parametrize("ahead", (0, 1))
def test_each_level_may_have_a_guidance_of_its_own(ahead):
    """That of the level asked; 1 asks for the conditional rows alone."""
    x, scales = ms.Tensor(normal(16, *SHAPE)), np.where(np.arange(51) % 2, 2.5, 1.0)
    predict, pair = Predictor(wave_field), (states(1, 2), states(-1, -2))
    ask = walk.asked(predict, LEVELS, *pair, scales, ahead)
    for k in (6, 7):
        alone = walk.asked(predict, LEVELS, *pair, float(scales[k + ahead]), ahead)
        assert np.array_equal(ask(x, k).asnumpy(), alone(x, k).asnumpy())
    guided, plain = (4, 2) if ahead else (2, 4)
    assert [len(rows) for _, rows, _ in predict.calls] == [guided] * 2 + [plain] * 2


@given(latents(dtype=st.just(np.float64)), st.integers(1, 50), prediction_types)
def test_the_denoiser_says_what_a_noised_picture_is_made_of(x0, level, kind):
    """Told the exact prediction for x = sqrt(a) x0 + sqrt(1-a) eps, it gives x0 and eps back."""
    eps, a = normal(17, *x0.shape), LEVELS.alphas[level]
    x = math.sqrt(a) * x0 + math.sqrt(1 - a) * eps
    out = eps if kind == "epsilon" else math.sqrt(a) * eps - math.sqrt(1 - a) * x0
    denoise = walk.denoiser(lambda x, k: ms.Tensor(out), LEVELS, kind)
    found = [part.asnumpy() for part in denoise(ms.Tensor(x), level)]
    size = (np.abs(x0).max() + np.abs(eps).max()) / math.sqrt(a)
    assert np.abs(found[0] - x0).max() <= 1e-14 * size
    assert np.abs(found[1] - eps).max() <= 1e-14 * size


# --- the loops ------------------------------------------------------------------------------------


class Recorded:
    """A step function that leaves the latents, and records where it was sent."""

    def __init__(self):
        self.taken = []

    def __call__(self, denoise, state, levels, i, j):
        self.taken.append((i, j))
        return State(state.latents + (j - i))


def numbers(path):
    return [float(state.latents.asnumpy()) for state in path]


@given(st.integers(0, 9))
def test_up_and_down_go_from_neighbour_to_neighbour_and_yield_every_level(steps):
    start, up, down = State(ms.Tensor(np.float64(0))), Recorded(), Recorded()
    assert numbers(walk.up(up, None, LEVELS, start, steps)) == list(range(steps + 1))
    assert up.taken == [(i, i + 1) for i in range(steps)]
    top = State(ms.Tensor(np.float64(steps)))
    assert numbers(walk.down(down, None, LEVELS, top, steps)) == list(range(steps, -1, -1))
    assert down.taken == [(i, i - 1) for i in range(steps, 0, -1)]


def test_down_goes_on_with_what_hold_gives_it():
    held, top = [], State(ms.Tensor(np.float64(4)))

    def hold(state, level):
        held.append((float(state.latents.asnumpy()), level))
        return State(state.latents + 10)

    found = numbers(walk.down(Recorded(), None, LEVELS, top, 4, hold))
    assert found == [4, 13, 22, 31, 40] and held == [(3, 3), (12, 2), (21, 1), (30, 0)]


def test_a_step_is_taken_only_when_it_is_asked_for():
    step = Recorded()
    path = walk.up(step, None, LEVELS, State(ms.Tensor(np.float64(0))), 5)
    next(path), next(path)
    assert step.taken == [(0, 1)]


@given(latents(dtype=st.just(np.float64)), st.integers(1, 50), spacings, prediction_types)
def test_up_reaches_every_level_with_a_fixed_eps(x0, steps, spacing, kind):
    """x_i = sqrt(a_i) x0 + sqrt(1-a_i) eps for one picture x0 and one eps, whichever steps led
    there."""
    config = dataclasses.replace(SD21, timestep_spacing=spacing, set_alpha_to_one=True)
    levels, eps = schedule.levels(config, 50), 0.75

    def ask(x, k):
        alpha, x = levels.alphas[k], x.asnumpy()
        out = (
            x * 0 + eps
            if kind == "epsilon"
            else (eps - math.sqrt(1 - alpha) * x) / math.sqrt(alpha)
        )
        return ms.Tensor(out)

    denoise = walk.denoiser(ask, levels, kind)
    trail = walk.up(integrators.ddim, denoise, levels, State(ms.Tensor(x0)), steps)
    for x, alpha in zip(latents_of(trail), levels.alphas):
        wanted = math.sqrt(alpha) * x0 + math.sqrt(1 - alpha) * eps
        assert np.abs(x - wanted).max() <= 1e-12 * (np.abs(x0).max() + 1)


# --- order of convergence -------------------------------------------------------------------------


def gaussian(config, deviation, kind):
    """The exact prediction for pictures x0 ~ N(0, s^2): E[eps|x] = sqrt(1-a) x / (a s^2 + 1 -
    a)."""
    bar = schedule.alphas_cumprod(config)

    def field(x, timestep, state):
        a = bar[timestep]
        eps = math.sqrt(1 - a) / (a * deviation**2 + 1 - a)
        x0 = math.sqrt(a) * deviation**2 / (a * deviation**2 + 1 - a)
        return x * (eps if kind == "epsilon" else math.sqrt(a) * eps - math.sqrt(1 - a) * x0)

    return field


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_round_trip_error_of_a_gaussian_falls_at_first_order(kind):
    """Up and down with the exact prediction for x0 ~ N(0, s^2) both follow one ODE, each with an
    error of 1/N."""
    config = dataclasses.replace(SD21, timestep_spacing="trailing")
    predict, errors, counts = Predictor(gaussian(config, 0.5, kind)), [], (10, 20, 40, 80)
    x0 = np.array([1.5, -0.25, 0.75]).reshape(1, 3, 1, 1)
    for n in counts:
        levels = schedule.levels(config, n)
        denoise = walk.denoiser(walk.asked(predict, levels, states(0)), levels, kind)
        *_, top = walk.up(integrators.ddim, denoise, levels, State(ms.Tensor(x0)), n)
        *_, end = walk.down(integrators.ddim, denoise, levels, top, n)
        errors.append(np.abs(end.latents.asnumpy() / x0 - 1).max())
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert -1.3 < slope < -0.75, (slope, errors)


# --- stochastic steps -----------------------------------------------------------------------------


def noisy_down(eta, noise, steps, field=wave_field):
    """Latents of every level, from the deepest."""
    denoise = walk.denoiser(walk.asked(Predictor(field), LEVELS, states(0.5, 0.5)), LEVELS)
    step = walk.stochastic_ddim(eta, ms.Tensor(noise), steps)
    top = State(ms.Tensor(normal(11, *SHAPE)))
    return latents_of(walk.down(step, denoise, LEVELS, top, steps))


def test_a_stochastic_step_adds_its_sigma_of_noise_in_order():
    noise, plain = normal(12, 3, *SHAPE), normal(11, *SHAPE)
    for step, i in enumerate((3, 2, 1)):
        pair = LEVELS.alphas[i], LEVELS.alphas[i - 1]
        sigma = schedule.ddim_sigma(*pair, 0.75)
        out = wave_field(plain, int(LEVELS.timesteps[i]), np.full((2, 1, 1, 1), 0.5))
        plain = reference.ddim_step(plain, out, *pair, sigma=sigma) + sigma * noise[step]
    assert np.abs(noisy_down(0.75, noise, 3)[-1] - plain).max() < 1e-12


def test_without_eta_a_stochastic_step_is_that_of_ddim():
    noise = normal(12, 3, *SHAPE)
    denoise = walk.denoiser(walk.asked(Predictor(wave_field), LEVELS, states(0.5, 0.5)), LEVELS)
    top = State(ms.Tensor(normal(11, *SHAPE)))
    wanted = latents_of(walk.down(integrators.ddim, denoise, LEVELS, top, 3))
    assert np.array_equal(noisy_down(0.0, noise, 3), wanted)


def test_stochastic_steps_keep_the_variance():
    """Pictures of the one value 0, each with noise of its own, have deviation sqrt(1 - a) at every
    level, within 5 standard errors of 42,000 numbers."""
    shape, steps = (2, 3, 70, 100), 6

    def exact(x, timestep, state):
        return x / math.sqrt(1 - schedule.alphas_cumprod(SD21)[timestep])

    denoise = walk.denoiser(walk.asked(Predictor(exact), LEVELS, states(0, 0)), LEVELS)
    step = walk.stochastic_ddim(1.0, ms.Tensor(normal(21, steps, *shape)), steps)
    top = State(ms.Tensor(math.sqrt(1 - LEVELS.alphas[steps]) * normal(22, *shape)))
    path = latents_of(walk.down(step, denoise, LEVELS, top, steps))
    for x, alpha in zip(path, LEVELS.alphas[steps::-1]):
        assert abs(x.std() / math.sqrt(1 - alpha) - 1) < 5 / math.sqrt(2 * x.size)


def test_text_field_ignores_x_so_that_down_undoes_up():
    """With a prediction of the text only, the two loops are inverse for any number of steps."""
    denoise = walk.denoiser(walk.asked(Predictor(text_field), LEVELS, states(0.5, 0.25)), LEVELS)
    x0 = normal(23, *SHAPE)
    *_, top = walk.up(integrators.ddim, denoise, LEVELS, State(ms.Tensor(x0)), 20)
    *_, end = walk.down(integrators.ddim, denoise, LEVELS, top, 20)
    assert np.abs(end.latents.asnumpy() - x0).max() < 1e-12


# --- features that are reused ---------------------------------------------------------------------


def asked_with(scales):
    """A function predict -> denoise, guided by a scale for each level."""

    def denoise_of(predict):
        ask = walk.asked(predict, LEVELS, states(1, 2), states(-1, -2), scales)
        return walk.denoiser(ask, LEVELS)

    return denoise_of


@pytest.mark.parametrize("step", (integrators.ddim, integrators.dpmpp_2m))
@pytest.mark.parametrize("direction", (walk.up, walk.down))
def test_features_that_are_always_fresh_change_nothing(step, direction):
    predict, start = Predictor(wave_field), State(ms.Tensor(normal(18, *SHAPE)))
    reusing, denoise_of = walk.reusing(step, predict.evaluate, 1), asked_with(2.5)
    found = latents_of(direction(reusing, denoise_of, LEVELS, start, 6))
    wanted = latents_of(direction(step, denoise_of(Predictor(wave_field)), LEVELS, start, 6))
    assert np.array_equal(found, wanted) and predict.reused == [False] * 6


@given(st.integers(1, 4), st.integers(1, 7), st.integers(0, 6))
def test_a_walk_with_reused_features_agrees_with_its_definition(every, steps, first):
    """The deep half is that of the latest evaluation whose number is a multiple of `every`; a walk
    that is left and gone on with from a state of its middle is the same walk."""
    x, deep, wanted = normal(19, *SHAPE), None, []
    text = np.reshape((1, 2), (2, 1, 1, 1))
    for i in range(steps):
        half = 0.5 * wave_field(x, int(LEVELS.timesteps[i]), text)
        deep = half if i % every == 0 else deep
        x = schedule.ddim_step(x, half + deep, LEVELS.alphas[i], LEVELS.alphas[i + 1])
        wanted.append(x)
    predict, start = Predictor(wave_field), State(ms.Tensor(normal(19, *SHAPE)))
    step, denoise_of = walk.reusing(integrators.ddim, predict.evaluate, every), asked_with(1.0)
    path = list(walk.up(step, denoise_of, LEVELS, start, steps))
    assert np.abs(latents_of(path[1:]) - np.stack(wanted)).max() < 1e-12
    assert predict.reused == [i % every > 0 for i in range(steps)]
    first = min(first, steps)
    state = path[first]
    for i in range(first, steps):
        state = step(denoise_of, state, LEVELS, i, i + 1)
    assert np.array_equal(state.latents.asnumpy(), path[-1].latents.asnumpy())


def test_another_number_of_rows_takes_a_whole_evaluation():
    """Guidance begins at the third level: what was computed for the sentence alone does not serve
    the pair."""
    predict, scales = Predictor(wave_field), np.where(np.arange(51) < 2, 1.0, 2.5)
    step = walk.reusing(integrators.ddim, predict.evaluate, 5)
    start = State(ms.Tensor(normal(20, *SHAPE)))
    list(walk.up(step, asked_with(scales), LEVELS, start, 5))
    assert predict.reused == [False, True, False, True, True]
