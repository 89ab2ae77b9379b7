"""diffedit_core.schedule: the grid for every number of steps, and DDIM steps as laws.

Rounding. `close` allows 16 machine epsilons times an amplification: the sum of the sizes of all
terms that a result is made of, carried to the result's level. One step is c_x x + c_e e; each
coefficient is rounded when it is computed (in float64, where c_e itself is a difference), when it
is cast, each product and the sum once more: at most 5 units of half an epsilon on every term. Two
steps double it, and the second multiplies the error of the first by its own c_x, which is in the
amplification. That is 10 half epsilons; 16 whole ones leave a factor of three.
"""

import dataclasses
import math

import mindspore as ms
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from diffedit_core import schedule as S
from diffedit_core.config import SchedulerConfig
from diffedit_core.errors import InputError

from . import reference as R
from .strategies import (
    PREDICTION_TYPES,
    SD21,
    SPACINGS,
    alpha_pairs,
    alpha_triples,
    alphas,
    floats,
    latents_like,
    prediction_types,
    scheduler_configs,
)

ZERO_SNR = SchedulerConfig(
    beta_schedule="scaled_linear",
    beta_start=0.00085,
    beta_end=0.012,
    timestep_spacing="trailing",
    prediction_type="v_prediction",
    rescale_betas_zero_snr=True,
)


def close(result, wanted, amplification):
    result = result.asnumpy() if isinstance(result, ms.Tensor) else result
    allowed = 16 * np.finfo(result.dtype).eps * np.broadcast_to(amplification, result.shape)
    error = np.abs(result.astype(np.float64) - wanted)
    share = (error[error > 0] / allowed[error > 0]).max(initial=0)
    assert (error <= allowed).all(), f"errors up to {error.max()}, {share} of the allowed"


def step_of(x, out, alpha_from, alpha_to, kind="epsilon", sigma=0.0):
    """A step with a prediction of either kind, as `integrators.ddim` takes it."""
    return S.add_noise(*S.denoised(out, x, alpha_from, kind), alpha_to, sigma)


def tensors(*arrays):
    return [ms.Tensor(a) for a in arrays]


def size(x, e, alpha_from, alpha_to, kind="epsilon"):
    """The amplification of one step: its terms without their signs."""
    x, e = np.abs(R.wide(x)), np.abs(R.wide(e))
    if kind == "v_prediction":
        return 2 * (x + e)  # every coefficient is a sum of two products of sines and cosines
    return (
        math.sqrt(alpha_to / alpha_from) * (x + math.sqrt(1 - alpha_from) * e)
        + math.sqrt(1 - alpha_to) * e
    )


# --- alphas ---------------------------------------------------------------------------------------


@given(scheduler_configs())
def test_alphas_decrease_within_the_unit_interval_in_float64(config):
    bar = S.alphas_cumprod(config)
    assert bar.dtype == np.float64 and bar.shape == (config.num_train_timesteps,)
    assert (np.diff(bar) < 0).all() and bar[0] < 1
    assert bar[-1] == 0 if config.rescale_betas_zero_snr else bar[-1] > 0


def test_alphas_of_sd21_are_exact_to_float64():
    """Against exact products of fractions; a cumulative product in float32 is off by 1e-6 and
    more."""
    from fractions import Fraction

    start, end = Fraction(math.sqrt(0.00085)), Fraction(math.sqrt(0.012))
    product, wanted = Fraction(1), []
    for i in range(1000):
        beta = (start + Fraction(i, 999) * (end - start)) ** 2
        product = Fraction(
            float(product * (1 - beta))
        )  # one rounding per step keeps the fractions short
        wanted.append(float(product))
    assert np.abs(S.alphas_cumprod(SD21) / wanted - 1).max() < 1e-12
    single = np.cumprod((1 - S.betas(SD21)).astype(np.float32))
    assert np.abs(single / wanted - 1).max() > 1e-7, "the tolerance above would not see float32"


@given(st.floats(1e-5, 0.01), st.floats(0, 0.02), st.integers(2, 1000))
def test_linear_betas_go_from_start_to_end(start, more, total):
    config = SchedulerConfig(num_train_timesteps=total, beta_start=start, beta_end=start + more)
    values = S.betas(config)
    assert values[0] == pytest.approx(start, rel=1e-14) and values[-1] == pytest.approx(
        start + more, rel=1e-14
    )
    assert np.diff(values, 2) == pytest.approx(np.zeros(total - 2), abs=1e-16)
    root = np.sqrt(S.betas(dataclasses.replace(config, beta_schedule="scaled_linear")))
    assert root[[0, -1]] ** 2 == pytest.approx([start, start + more], rel=1e-14)
    assert np.diff(root, 2) == pytest.approx(np.zeros(total - 2), abs=1e-15)


def test_cosine_alphas_telescope_to_the_cosine():
    """Nichol & Dhariwal 2021, eq. 17, up to the cap of the last betas at 0.999."""
    bar = S.alphas_cumprod(SchedulerConfig(beta_schedule="squaredcos_cap_v2"))
    f = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(1001)]
    assert bar[:999] == pytest.approx(np.array(f[1:1000]) / f[0], rel=1e-11)
    assert S.betas(SchedulerConfig(beta_schedule="squaredcos_cap_v2")).max() == 0.999


def test_trained_betas_are_used_as_they_are():
    values = (0.1, 0.5, 0.25)
    config = SchedulerConfig(
        num_train_timesteps=3, trained_betas=values, beta_schedule="scaled_linear"
    )
    assert S.alphas_cumprod(config) == pytest.approx([0.9, 0.45, 0.3375], rel=1e-15)
    with pytest.raises(InputError, match="'trained_betas' has 3 values for 4"):
        S.betas(dataclasses.replace(config, num_train_timesteps=4))


@given(scheduler_configs(zero_snr=True))
def test_zero_snr_moves_the_end_to_zero_and_keeps_the_start(config):
    """Lin et al. 2023, algorithm 1: sqrt(a) is an affine image of the old one, same first value,
    last value 0."""
    old = np.sqrt(S.alphas_cumprod(dataclasses.replace(config, rescale_betas_zero_snr=False)))
    new = np.sqrt(S.alphas_cumprod(config))
    assert new[-1] == 0 and new[0] == pytest.approx(old[0], rel=1e-13)
    fraction = (old - old[-1]) / (old[0] - old[-1])
    assert new == pytest.approx(old[0] * fraction, rel=1e-9, abs=1e-9)


# --- the grid -------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", (0, 1))
@pytest.mark.parametrize("spacing", SPACINGS)
def test_every_grid_increases_strictly_within_range(spacing, offset):
    config = dataclasses.replace(SD21, timestep_spacing=spacing, steps_offset=offset)
    for n in range(1, 1001):
        steps = S.grid(config, n)
        assert steps.shape == (n,) and np.issubdtype(steps.dtype, np.integer)
        assert steps[0] >= 0 and steps[-1] <= 999 and (np.diff(steps) > 0).all(), (n, steps)
        points, unit = R.grid_points(1000, n, spacing, offset)
        assert (2 * np.abs(unit * steps - points) <= unit).all(), (
            n,
            steps,
        )  # the nearest; a half may go either way


@given(scheduler_configs(), st.data())
def test_grids_of_other_schedules_increase_strictly_within_range(config, data):
    total = config.num_train_timesteps
    n = data.draw(st.integers(1, total))
    steps = S.grid(config, n)
    assert (
        steps.shape == (n,) and steps[0] >= 0 and steps[-1] < total and (np.diff(steps) > 0).all()
    )


@pytest.mark.parametrize("n", (1, 2, 3, 7, 50, 51, 333, 667, 999, 1000))
@pytest.mark.parametrize("spacing", SPACINGS)
def test_levels_are_neighbours_of_the_grid(spacing, n):
    for one in (False, True):
        config = dataclasses.replace(SD21, timestep_spacing=spacing, set_alpha_to_one=one)
        bar, levels = S.alphas_cumprod(config), S.levels(config, n)
        assert levels.timesteps.tolist() == [0, *S.grid(config, n)]
        assert levels.alphas.dtype == np.float64
        assert levels.alphas[1:].tolist() == [bar[t] for t in levels.timesteps[1:]]
        assert levels.alphas[0] == (1 if one else bar[0])
        assert (np.diff(levels.alphas) <= 0).all()


def test_the_grid_of_sd21():
    assert S.grid(SD21, 50).tolist() == list(range(1, 1000, 20))
    assert S.grid(SD21, 1000).tolist() == list(range(1000))
    assert S.grid(dataclasses.replace(SD21, timestep_spacing="trailing"), 4).tolist() == [
        249,
        499,
        749,
        999,
    ]
    assert S.grid(dataclasses.replace(SD21, timestep_spacing="linspace"), 4).tolist() == [
        0,
        333,
        666,
        999,
    ]


@pytest.mark.parametrize("n", (0, -1, 1001, 2.5, 50.0, True, None, "50"))
def test_no_grid_for_a_bad_number_of_steps(n):
    for spacing in SPACINGS:
        with pytest.raises(InputError, match=r"from 1 to 1000"):
            S.grid(dataclasses.replace(SD21, timestep_spacing=spacing), n)


# --- one step -------------------------------------------------------------------------------------


@given(latents_like(), alpha_pairs, prediction_types)
def test_step_agrees_with_the_equation(pair, levels, kind):
    x, out = pair
    result = step_of(*tensors(x, out), *levels, kind)
    assert result.asnumpy().dtype == x.dtype and result.shape == x.shape
    spread = np.abs(R.wide(x)) + np.abs(R.wide(out))
    oracle_size = (
        (1 / math.sqrt(levels[0])) * spread if kind == "epsilon" else spread
    )  # the oracle goes through x0
    wanted = R.ddim_step(x, out, *levels, kind)
    close(result, wanted, 2 * (size(x, out, *levels, kind) + oracle_size))
    if kind == "epsilon":
        close(S.ddim_step(*tensors(x, out), *levels), wanted, size(x, out, *levels) + oracle_size)


@given(latents_like(), alphas, prediction_types)
def test_step_to_its_own_level_is_the_identity(pair, alpha, kind):
    x, out = pair
    close(step_of(*tensors(x, out), alpha, alpha, kind), x, 2 * size(x, out, alpha, alpha, kind))
    close(S.ddim_step(*tensors(x, out), alpha, alpha), x, size(x, out, alpha, alpha))


@given(latents_like(), alpha_triples)
def test_two_steps_with_one_eps_are_one_step(pair, levels):
    a, b, c = levels
    x, eps = tensors(*pair)
    twice = S.ddim_step(S.ddim_step(x, eps, a, b), eps, b, c)
    once = S.ddim_step(x, eps, a, c).asnumpy()
    through = (
        math.sqrt(c / b) * size(*pair, a, b) + size(pair[0], pair[1], a, c) + size(0, pair[1], b, c)
    )
    close(twice, once, through)


@given(latents_like(), alpha_pairs)
@example([np.full((1, 3, 5, 7), 1e4), np.full((1, 3, 5, 7), -1.0)], (0.0047, 1.0))
def test_the_reverse_step_undoes_a_step(pair, levels):
    a, b = levels
    x, eps = tensors(*pair)
    back = S.ddim_step(S.ddim_step(x, eps, a, b), eps, b, a)
    close(back, pair[0], math.sqrt(a / b) * size(*pair, a, b) + size(0, pair[1], b, a))


@given(latents_like(4), alpha_pairs, prediction_types)
def test_step_is_linear(arrays, levels, kind):
    x, y, e, f = arrays
    whole = step_of(*tensors(2 * x + y, 2 * e + f), *levels, kind)
    parts = [R.wide(step_of(*tensors(*p), *levels, kind).asnumpy()) for p in ((x, e), (y, f))]
    sizes = [2 * size(*p, *levels, kind) for p in ((x, e), (y, f))]
    close(whole, 2 * parts[0] + parts[1], 2 * sizes[0] + sizes[1])


@given(latents_like(), alpha_pairs)
def test_v_and_eps_steps_agree(pair, levels):
    x, v = tensors(*pair)
    by_eps = S.ddim_step(x, S.v_to_eps(v, x, levels[0]), *levels).asnumpy()
    sizes = np.abs(pair[0]) + np.abs(pair[1])
    by_v = step_of(x, v, *levels, "v_prediction")
    close(by_v, by_eps, size(sizes, sizes, *levels) + 2 * sizes)


@given(latents_like(), alpha_pairs)
def test_coefficients_keep_float64(pair, levels):
    """A coefficient that passed through float32 would be wrong from the eighth digit on."""
    x, eps = (a.astype(np.float64) for a in pair)
    assume(np.abs(x).max() > 0)
    c_x, c_eps = S.ddim_coefficients(*levels)
    result = S.ddim_step(*tensors(x, eps), *levels).asnumpy()
    assert result.dtype == np.float64
    allowed = 1e-15 * (abs(c_x) * np.abs(x) + abs(c_eps) * np.abs(eps)).max()
    assert np.abs(result - (c_x * x + c_eps * eps)).max() <= allowed
    for convert in (S.add_noise, S.v_to_eps, S.v_to_x0, S.eps_to_x0):
        assert convert(*tensors(x, eps), levels[0]).dtype == ms.float64
    for kind in PREDICTION_TYPES:
        a, signal = levels[0], math.sqrt(levels[0])
        x0, e = R.prediction(eps, x, a, kind)
        for found, wanted in zip(S.denoised(*tensors(eps, x), a, kind), (x0, e)):
            assert found.dtype == ms.float64
            size_of = (np.abs(x) + np.abs(eps)).max() / (signal if kind == "epsilon" else 1)
            assert np.abs(found.asnumpy() - wanted).max() <= 2e-15 * size_of
    third = S.guide(*tensors(np.zeros_like(x), x), 1 / 3).asnumpy()
    assert np.abs(third - x / 3).max() <= 1e-15 * np.abs(x).max()


@given(floats, st.floats(0, 1))
def test_scalar_is_rounded_once(dtype, value):
    tensor = S.scalar(value, ms.Tensor(np.zeros(3, dtype)))
    assert tensor.asnumpy().dtype == dtype and tensor.asnumpy() == dtype(value)


# --- zero terminal SNR ----------------------------------------------------------------------------


@pytest.mark.parametrize("n", (1, 2, 7, 50, 1000))
@pytest.mark.parametrize("spacing", ("trailing", "linspace"))
def test_v_steps_through_zero_snr_without_dividing_by_zero(spacing, n):
    config = dataclasses.replace(ZERO_SNR, timestep_spacing=spacing)
    with np.errstate(all="raise"):
        levels = S.levels(config, n)
        pairs = list(zip(levels.alphas[:-1], levels.alphas[1:]))
        one, none = np.ones(1), np.zeros(1)
        coefficients = [
            [step_of(x, v, *p, "v_prediction").item() for x, v in ((one, none), (none, one))]
            for a, b in pairs
            for p in ((a, b), (b, a))
        ]
    assert levels.alphas[-1] == (0 if n > 1 or spacing == "trailing" else levels.alphas[1])
    lengths = np.square(coefficients).sum(1)
    assert lengths == pytest.approx(1, abs=1e-12), "a step with v is a rotation"


def test_eps_cannot_leave_zero_snr_but_reach_it():
    x = ms.Tensor(np.ones((1, 3, 5, 7)))
    for alpha_to in (0.0, 0.5, 1.0):
        with pytest.raises(ValueError, match="v-prediction"):
            S.ddim_step(x, x, 0.0, alpha_to)
    with pytest.raises(ValueError, match="v-prediction"):
        S.denoised(x, x, 0.0)
    close(S.ddim_step(x, 3 * x, 0.5, 0.0), 3.0, 8)
    close(step_of(x, 3 * x, 0.5, 0.0), 3.0, 8)
    close(step_of(x, 3 * x, 0.0, 1.0, "v_prediction"), -3.0, 8)  # v at a = 0 is -x0


# --- noise and conversions ------------------------------------------------------------------------


@given(latents_like(), st.floats(1e-4, 1 - 1e-4))
def test_noise_with_its_exact_eps_gives_the_picture_back(pair, alpha):
    x0, eps = tensors(*pair)
    x = S.add_noise(x0, eps, alpha)
    wanted = math.sqrt(alpha) * R.wide(pair[0]) + math.sqrt(1 - alpha) * R.wide(pair[1])
    close(x, wanted, np.abs(pair[0]) + np.abs(pair[1]))
    spread = np.abs(R.wide(pair[0])) + math.sqrt((1 - alpha) / alpha) * np.abs(R.wide(pair[1]))
    close(S.eps_to_x0(eps, x, alpha), pair[0], 2 * spread)
    close(S.ddim_step(x, eps, alpha, 1.0), pair[0], 2 * spread)


@given(latents_like(), st.floats(1e-4, 1 - 1e-4), st.floats(0, 1))
def test_noise_leaves_room_for_fresh_noise(pair, alpha, part):
    """With sigma the three variances a, 1 - a - sigma^2 and sigma^2 add up to 1."""
    sigma = math.sqrt(part * (1 - alpha))
    wanted = math.sqrt(alpha) * R.wide(pair[0]) + math.sqrt((1 - part) * (1 - alpha)) * R.wide(
        pair[1]
    )
    allowed = (
        1e-7 * np.abs(R.wide(pair[1])).max()
    )  # where all the noise is fresh, the root of a rounding error is left
    scale = np.abs(pair[0]) + np.abs(pair[1]) + allowed / np.finfo(pair[0].dtype).eps
    close(S.add_noise(*tensors(*pair), alpha, sigma), wanted, scale)


@given(latents_like(), st.floats(1e-4, 1 - 1e-4))
def test_conversions_are_those_of_one_noised_picture(pair, alpha):
    """Each of the three agrees with x0, eps and v = sqrt(a) eps - sqrt(1-a) x0 of the picture that
    was noised."""
    x0, eps = R.wide(*pair)
    signal, noise = math.sqrt(alpha), math.sqrt(1 - alpha)
    x, v = signal * x0 + noise * eps, signal * eps - noise * x0
    values = {"x0": x0, "eps": eps, "v": v}
    for name, convert in (
        ("v_to_eps", S.v_to_eps),
        ("v_to_x0", S.v_to_x0),
        ("eps_to_x0", S.eps_to_x0),
    ):
        given_, wanted = name.split("_to_")
        result = convert(*tensors(values[given_], x), alpha)
        close(result, values[wanted], 4 * (np.abs(x0) + np.abs(eps)) / min(signal, noise))


@given(latents_like(), st.floats(1e-3, 1 - 1e-3), prediction_types)
def test_what_a_prediction_stands_for_makes_x_again(pair, alpha, kind):
    """sqrt(a) x0 + sqrt(1-a) eps = x, and v = sqrt(a) eps - sqrt(1-a) x0 is what was predicted."""
    out, x = tensors(*pair)
    x0, eps = S.denoised(out, x, alpha, kind)
    spread = (np.abs(R.wide(pair[0])) + np.abs(R.wide(pair[1]))) / alpha
    close(S.add_noise(x0, eps, alpha), pair[1], spread)
    if kind == "v_prediction":
        v = math.sqrt(alpha) * R.wide(eps.asnumpy()) - math.sqrt(1 - alpha) * R.wide(x0.asnumpy())
        close(v.astype(pair[0].dtype), pair[0], spread)
    else:
        assert np.array_equal(eps.asnumpy(), pair[0])


@given(latents_like(), st.floats(-10, 20))
def test_guidance_goes_through_both_predictions(pair, scale):
    u, c = tensors(*pair)
    spread = np.abs(R.wide(pair[0])) + np.abs(R.wide(pair[1]))
    close(S.guide(u, c, 1.0), pair[1], spread)
    assert np.array_equal(S.guide(u, c, 0.0).asnumpy(), pair[0])
    close(
        S.guide(u, c, scale),
        (1 - scale) * R.wide(pair[0]) + scale * R.wide(pair[1]),
        (1 + abs(scale)) * spread,
    )


# --- stochastic steps -----------------------------------------------------------------------------


@given(st.floats(1e-3, 0.98), st.floats(1e-3, 0.01), st.floats(0, 1))
def test_a_stochastic_step_keeps_the_marginal(alpha_from, more, eta):
    """With the exact eps, the step's noise and the added noise together have variance 1 - a_to, the
    signal sqrt(a_to)."""
    alpha_to = alpha_from + more
    sigma = S.ddim_sigma(alpha_from, alpha_to, eta)
    signal, noise = math.sqrt(alpha_from), math.sqrt(1 - alpha_from)
    for kind in PREDICTION_TYPES:
        of_x0, of_eps = (
            step_of(
                signal * x0 + noise * eps,
                eps if kind == "epsilon" else signal * eps - noise * x0,
                alpha_from,
                alpha_to,
                kind,
                sigma,
            ).item()
            for x0, eps in ((np.ones(1), np.zeros(1)), (np.zeros(1), np.ones(1)))
        )
        assert of_x0 == pytest.approx(math.sqrt(alpha_to), rel=1e-10)
        assert of_eps**2 + sigma**2 == pytest.approx(1 - alpha_to, rel=1e-10)


@given(st.floats(1e-3, 0.98), st.floats(1e-3, 0.01), st.floats(0, 1))
def test_sigma_of_eta_one_is_the_posterior_of_ddpm(alpha_from, more, eta):
    """The precisions of q(x_to | x0) and of q(x_from | x_to) add up: 1/s^2 = 1/(1 - a_to) + r/(1 -
    r), r = a_from/a_to."""
    alpha_to = alpha_from + more
    ratio = alpha_from / alpha_to
    sigma = (1 / (1 - alpha_to) + ratio / (1 - ratio)) ** -0.5
    assert S.ddim_sigma(alpha_from, alpha_to, 1) == pytest.approx(sigma, rel=1e-9)
    assert S.ddim_sigma(alpha_from, alpha_to, eta) == pytest.approx(eta * sigma, rel=1e-9)


@given(st.sampled_from(PREDICTION_TYPES), latents_like())
def test_sigma_enters_the_step(kind, pair):
    close(
        step_of(*tensors(*pair), 0.3, 0.5, kind, 0.4),
        R.ddim_step(*pair, 0.3, 0.5, kind, 0.4),
        4 * (np.abs(pair[0]) + np.abs(pair[1])),
    )


# --- order of convergence -------------------------------------------------------------------------


def gaussian_prediction(x, alpha, deviation, kind):
    """The exact prediction for pictures x0 ~ N(0, s^2): E[eps|x] = sqrt(1-a) x / (a s^2 + 1 -
    a)."""
    variance = alpha * deviation**2 + 1 - alpha
    eps, x0 = math.sqrt(1 - alpha) / variance, math.sqrt(alpha) * deviation**2 / variance
    return (
        S.scalar(
            eps if kind == "epsilon" else math.sqrt(alpha) * eps - math.sqrt(1 - alpha) * x0, x
        )
        * x
    )


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("direction", ("decode", "invert"))
def test_ddim_converges_at_first_order_to_the_closed_form(direction, kind):
    """The ODE's flow on N(0, s^2) scales x by the deviation of its level: x(a) / sqrt(a s^2 + 1 -
    a) is constant.

    DDIM is Euler's method in the coordinate of DiffEdit's eq. 3, so its error falls as 1/N: the
    slope of log error over log N is -1.
    """
    deviation, errors, counts = 0.4, [], (20, 40, 80, 160)
    config = dataclasses.replace(
        SD21, timestep_spacing="trailing"
    )  # its last level is the same for each N
    for n in counts:
        path = S.levels(config, n).alphas
        path = path if direction == "invert" else path[::-1]
        start = np.array([1.7, -0.3, 0.9])
        x = ms.Tensor(start)
        for a, b in zip(path[:-1], path[1:]):
            x = step_of(x, gaussian_prediction(x, a, deviation, kind), a, b, kind)
        a, b = path[0], path[-1]
        exact = start * math.sqrt((b * deviation**2 + 1 - b) / (a * deviation**2 + 1 - a))
        errors.append(np.abs(x.asnumpy() / exact - 1).max())
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert -1.15 < slope < -0.85, (slope, errors)


# --- the level of a strength ----------------------------------------------------------------------


def test_the_noise_level_of_sd21():
    bar = S.alphas_cumprod(SD21)
    assert S.noise_level(SD21, 0.5, 50) == (481, bar[481])
    assert S.noise_level(SD21, 0.5) == (500, bar[500])
    assert S.noise_level(SD21, 1.0) == (999, bar[999])
    assert S.noise_level(SD21, 1.0, 50) == (981, bar[981])
    with pytest.raises(InputError, match="mask_noise_strength 0.1 of 9 steps rounds to no noise"):
        S.noise_level(SD21, 0.1, 9)


@pytest.mark.parametrize("spacing", SPACINGS)
@given(st.integers(1, 1000), st.floats(0.001, 1), st.booleans())
def test_a_noise_level_is_one_of_the_schedule(spacing, n, strength, on_grid):
    config = dataclasses.replace(SD21, timestep_spacing=spacing)
    steps = n if on_grid else None
    if on_grid and int(n * strength) == 0:
        with pytest.raises(InputError):
            S.noise_level(config, strength, steps)
        return
    timestep, alpha = S.noise_level(config, strength, steps)
    assert 0 <= timestep <= 999 and alpha == S.alphas_cumprod(config)[timestep]
    assert timestep in S.grid(config, n) if on_grid else abs(timestep - 1000 * strength) <= 1
