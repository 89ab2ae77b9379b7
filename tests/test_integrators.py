"""diffedit_core.integrators against their equations in numpy, and what only some of them can do."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffedit_core import integrators as I
from diffedit_core import schedule as S
from diffedit_core.errors import InputError
from diffedit_core.integrators import INTEGRATORS, State

from . import laws, strategies as draw
from .laws import Field, path

WAVE = Field("network", 0.4)
LEVELS = path((0.97, 0.83, 0.6, 0.31, 0.12, 0.03))
X = np.random.default_rng(1).standard_normal((2, 3, 5, 7))
TIGHT = {"tolerance": 1e-13, "iterations": 300}


def signal(k):
    return math.sqrt(LEVELS.alphas[k])


def noise(k):
    return math.sqrt(1 - LEVELS.alphas[k])


def eps(x, k):
    return WAVE.eps(x, LEVELS.alphas[k])


def plain(x, e, i, j):
    """Song et al. 2021, eq. 12."""
    return signal(j) * (x - noise(i) * e) / signal(i) + noise(j) * e


def along(step, direction, x=X, levels=LEVELS, field=WAVE):
    return direction(step, field.denoiser(levels), levels, State(x))


# --- the equations --------------------------------------------------------------------------------


def test_ddim_agrees_with_the_equation():
    x = X
    for i, state in zip(range(5), along(I.ddim, laws.up)[1:]):
        x = plain(x, eps(x, i), i, i + 1)
        assert laws.relative(state.latents, x) < 1e-13


@pytest.mark.parametrize("way", (laws.up, laws.down))
def test_dpmpp_agrees_with_the_algorithm(way):
    """Lu et al. 2022, algorithm 2, with its own names: r, h, D."""
    order = list(range(6)) if way is laws.up else list(range(5, -1, -1))
    lam = [math.log(signal(k) / noise(k)) for k in range(6)]
    x, pictures = X, []
    for n, (i, j) in enumerate(zip(order, order[1:])):
        pictures.append((x - noise(i) * eps(x, i)) / signal(i))
        h = lam[j] - lam[i]
        big_d = pictures[-1]
        if n > 0:
            r = (lam[i] - lam[order[n - 1]]) / h
            big_d = (1 + 1 / (2 * r)) * pictures[-1] - 1 / (2 * r) * pictures[-2]
        x = noise(j) / noise(i) * x - signal(j) * (math.exp(-h) - 1) * big_d
        assert laws.relative(along(I.dpmpp_2m, way)[n + 1].latents, x) < 1e-12


def test_dpmpp_forgets_where_it_turns_round():
    trail = along(I.dpmpp_2m, laws.up)
    fresh, turned = (
        I.dpmpp_2m(WAVE.denoiser(LEVELS), state, LEVELS, 5, 4).latents
        for state in (State(trail[-1].latents), trail[-1])
    )
    assert np.array_equal(fresh, turned)
    going_on = trail[3]._replace(history=None)
    assert (
        np.abs(
            I.dpmpp_2m(WAVE.denoiser(LEVELS), going_on, LEVELS, 3, 4).latents - trail[4].latents
        ).max()
        > 1e-4
    )


def test_edict_agrees_with_the_equations():
    """Wallace et al. 2022: the two updates, then the two mixing lines; the first update
    alternates."""
    p, x, y = 0.93, X, X
    for state, i in zip(along(I.edict, laws.down)[1:], range(5, 0, -1)):
        if i % 2:
            x = plain(x, eps(y, i), i, i - 1)
            y = plain(y, eps(x, i), i, i - 1)
        else:
            y = plain(y, eps(x, i), i, i - 1)
            x = plain(x, eps(y, i), i, i - 1)
        x = p * x + (1 - p) * y
        y = p * y + (1 - p) * x
        assert laws.relative(state.latents, x) < 1e-12 and laws.relative(state.coupled, y) < 1e-12


@given(st.floats(0.5, 1))
def test_edict_is_exact_for_every_mixing_weight(p):
    step = functools.partial(I.edict, mixing=p)
    there = along(step, laws.up)
    back = laws.down(step, WAVE.denoiser(LEVELS), LEVELS, there[-1])
    for one, other in zip(there[1:], reversed(back[:-1])):
        assert (
            laws.relative(other.latents, one.latents) < 1e-10
            and laws.relative(other.coupled, one.coupled) < 1e-10
        )
    assert laws.relative(back[-1].latents, X) < 1e-10 and laws.relative(back[-1].coupled, X) < 1e-10


def test_belm_agrees_with_the_equation():
    """Wang et al. 2024: two latents and one eps, with h_k = tau_k - tau_(k-1)."""
    tau = [noise(k) / signal(k) for k in range(6)]
    x = [X, plain(X, eps(X, 0), 0, 1)]
    for k in range(1, 5):
        h, after = tau[k] - tau[k - 1], tau[k + 1] - tau[k]
        x.append(
            signal(k + 1)
            * (
                (after / h) ** 2 * x[k - 1] / signal(k - 1)
                + (1 - (after / h) ** 2) * x[k] / signal(k)
                + after * (h + after) / h * eps(x[k], k)
            )
        )
    trail = along(I.belm, laws.up)
    for k in range(6):
        assert laws.relative(trail[k].latents, x[k]) < 1e-12
        assert k == 0 or laws.relative(trail[k].coupled, x[k - 1]) < 1e-12
    y = [X, plain(X, eps(X, 5), 5, 4)]
    for k in range(4, 0, -1):
        h, above = tau[k] - tau[k - 1], tau[k + 1] - tau[k]
        y.append(
            signal(k - 1)
            * (
                (h / above) ** 2 * y[-2] / signal(k + 1)
                + (1 - (h / above) ** 2) * y[-1] / signal(k)
                - h * (h + above) / above * eps(y[-1], k)
            )
        )
    for state, wanted in zip(along(I.belm, laws.down), y):
        assert laws.relative(state.latents, wanted) < 1e-12


def test_belm_is_exact_on_quadratic_fields():
    """u = c + b tau + a tau^2 solves du = (b + 2 a tau) dtau: the rule has no error there, once it
    has two latents."""
    a, b = -0.7, 0.4
    tau = [noise(k) / signal(k) for k in range(6)]
    exact = [signal(k) * (X + b * tau[k] + a * tau[k] ** 2) for k in range(6)]

    def denoise(x, k):
        e = np.full_like(x, b + 2 * a * tau[k])
        return S.eps_to_x0(e, x, LEVELS.alphas[k]), e

    up = State(exact[1], exact[0])
    down = State(exact[5], exact[4])
    for k in range(1, 5):
        up = I.belm(denoise, up, LEVELS, k, k + 1)
        assert laws.relative(up.latents, exact[k + 1]) < 1e-12
    for k in range(5, 0, -1):
        down = I.belm(denoise, down, LEVELS, k, k - 1)
        assert laws.relative(down.latents, exact[k - 1]) < 1e-12


# --- fixed points ---------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", (0, 1, 3))
def test_fixed_point_solves_its_equation(memory):
    """The DDIM step down from the result, asked at the result, leads back; the note says how
    near."""
    for i in range(5):
        state = I.fixed_point(
            WAVE.denoiser(LEVELS), State(X), LEVELS, i, i + 1, memory=memory, **TIGHT
        )
        back = plain(state.latents, eps(state.latents, i + 1), i + 1, i)
        assert (
            state.note.converged and state.note.residual <= 1e-13 and laws.relative(back, X) < 1e-11
        )


def linear_step(slope, memory=0, tolerance=1e-12, iterations=50):
    """One step up where eps = slope x: the iteration is x <- c x + d with a contraction that is
    known."""
    levels = path((0.9, 0.4))
    tau = [math.sqrt(1 / a - 1) for a in levels.alphas]
    contraction = abs(slope) * math.sqrt(0.4) * (tau[1] - tau[0])
    asked = []
    denoise = Field("linear", slope).denoiser(levels, asked=asked)
    state = I.fixed_point(denoise, State(X), levels, 0, 1, tolerance, iterations, memory)
    return state, contraction, len(asked)


@given(st.floats(0.05, 1.2))
def test_the_note_tells_contraction_evaluations_and_residual(slope):
    state, contraction, asked = linear_step(slope, tolerance=1e-9, iterations=100)
    assert state.note.evaluations == asked
    assert state.note.contraction == pytest.approx(contraction, rel=1e-3) and state.note.converged
    assert state.note.residual <= 1e-9
    assert asked <= 3 + math.log(1e-9) / math.log(
        contraction
    ), "corrections shrink by the contraction each time"


def test_it_stops_where_it_does_not_contract():
    state, contraction, asked = linear_step(4.0)
    assert (
        contraction > 1 and not state.note.converged and asked == 3 and state.note.contraction > 1
    )
    assert state.note.residual > 0.1
    assert np.isfinite(state.latents).all()


def test_anderson_needs_fewer_evaluations_and_finds_what_does_not_contract():
    plain_, _, asked = linear_step(0.9)
    accelerated, _, fewer = linear_step(0.9, memory=3)
    assert fewer < asked / 2 and laws.relative(accelerated.latents, plain_.latents) < 1e-9
    state, contraction, _ = linear_step(4.0, memory=2)
    assert contraction > 1 and state.note.converged, "one secant step solves a linear equation"


def test_every_picture_stops_by_itself():
    """One that is solved is not moved by what the rest of the batch still needs."""
    levels = path((0.9, 0.4))
    slopes = np.array([0.1, 1.0]).reshape(2, 1, 1, 1)

    def denoise(x, k):
        e = slopes[: len(x)] * x
        return S.eps_to_x0(e, x, levels.alphas[k]), e

    both = I.fixed_point(denoise, State(X), levels, 0, 1, 1e-6, 50)
    alone = I.fixed_point(denoise, State(X[:1]), levels, 0, 1, 1e-6, 50)
    assert (
        np.array_equal(both.latents[:1], alone.latents)
        and alone.note.evaluations < both.note.evaluations
    )


def test_iterations_are_limited():
    state, _, asked = linear_step(1.2, tolerance=0.0, iterations=5)
    assert asked == 5 and not state.note.converged


# --- tensors, counts, ends ------------------------------------------------------------------------


@pytest.mark.parametrize("name", INTEGRATORS)
@pytest.mark.parametrize("dtype", (np.float16, np.float32, np.float64))
def test_tensors_and_arrays_agree(name, dtype):
    """The same trajectory on MindSpore tensors and on numpy arrays, up to the rounding of its
    steps."""
    step, x = INTEGRATORS[name].step, X.astype(dtype)
    for direction in (laws.up, laws.down):
        arrays, tensors = (
            along(s, direction, x)[-1].latents for s in (step, laws.on_tensors(step))
        )
        assert tensors.dtype == arrays.dtype == dtype
        iterated = INTEGRATORS[name].iterates and direction is laws.up
        allowed = 256 * np.finfo(dtype).eps + 10 * I.TOLERANCE * iterated
        assert laws.relative(tensors.astype(np.float64), arrays.astype(np.float64)) <= allowed


@given(st.integers(2, 12), st.sampled_from(tuple(INTEGRATORS)))
def test_evaluations_are_counted(steps, name):
    """Those of the record; where it iterates, at most those on the way up."""
    levels, asked, record = laws.smooth_path(steps), [], INTEGRATORS[name]
    denoise = WAVE.denoiser(levels, asked=asked)
    top = laws.up(record.step, denoise, levels, State(X[:1]))[-1]
    up = len(asked)
    laws.down(record.step, denoise, levels, top)
    wanted = record.evaluations(steps)
    assert len(asked) - up == wanted[1]
    assert steps < up <= wanted[0] if record.iterates else up == wanted[0]


@pytest.mark.parametrize("name", INTEGRATORS)
def test_what_needs_signal_refuses_a_level_without_and_says_what_to_use(name):
    levels = path((0.9, 0.3, 0.0))
    step, denoise = INTEGRATORS[name].step, WAVE.denoiser(levels, "v_prediction")
    if not INTEGRATORS[name].needs_signal:
        assert np.isfinite(laws.up(step, denoise, levels, State(X))[-1].latents).all()
        return
    with pytest.raises(InputError, match="alphas_cumprod is 0: use ddim or dpmpp_2m"):
        laws.up(step, denoise, levels, State(X))


def test_settings_change_both_directions_and_unknown_ones_are_refused():
    """EDICT with p = 1 does not mix: each latent steps alone, with the other's prediction."""
    unmixed, pair = INTEGRATORS["edict"].configured(mixing=1.0), State(X, X[::-1])
    for i, j in ((1, 2), (2, 1)):
        whole = unmixed.step(WAVE.denoiser(LEVELS), pair, LEVELS, i, j)
        by_hand = I.edict(WAVE.denoiser(LEVELS), pair, LEVELS, i, j, mixing=1.0)
        assert np.array_equal(whole.latents, by_hand.latents)
        mixed = I.edict(WAVE.denoiser(LEVELS), pair, LEVELS, i, j)
        assert laws.relative(whole.latents, mixed.latents) > 1e-3
    with pytest.raises(InputError, match="no setting 'mixing'"):
        INTEGRATORS["ddim"].configured(mixing=1.0)


# --- rounding of the exact ones -------------------------------------------------------------------


def rounding_bound(name, levels, lipschitz, trail):
    """How far rounding may lead an exact integrator's way up and down from where it began.

    Let F_i be the step down from level i, and the way up its inverse, each with a rounding error of
    d_i at level i. The way down undoes exactly what the way up did, up to those errors, so the
    error at level 0 is the sum over the levels of d_i (of the step up that ended there, and of the
    step down that begins there) carried by the steps below it. In u = x / sqrt(a) and the largest
    norm over both latents a step down multiplies an error by at most

        EDICT  (1 + h L)^2                 two updates, each with the other's eps; mixing is a mean
        (p <= 1) BELM   q^2 + |1 - q^2| + h (1+q) L      with q = h_k / h_(k+1), the ratio of the
        steps

    where L bounds how eps changes with u (sqrt(a) times its Lipschitz constant). So EDICT's 1/p^2
    in a step up does not enter, as the way down contracts by as much; it is the price of the other
    order, down then up. With 16 machine epsilons of the largest number in a state for d_i, divided
    by p^2 where EDICT mixes back:

        error at 0 <= sum_i 16 epsilon / p^2 * 2 |state_i| / sqrt(a_i) * prod_(k<=i) factor_k *
        sqrt(a_0).
    """
    tau, total, carried = [math.sqrt(1 / a - 1) for a in levels.alphas], 0.0, 1.0
    for i in range(1, len(levels.alphas)):
        h = tau[i] - tau[i - 1]
        if name == "edict":
            carried *= (1 + h * lipschitz) ** 2
        elif i > 1:  # the step down from i leads to i-2 over the interval below
            low = tau[i - 1] - tau[i - 2]
            q = low / h
            carried *= max(1, q * q + abs(1 - q * q) + low * (1 + q) * lipschitz)
        state = trail[i]
        size = max(np.abs(state.latents).max(), np.abs(state.coupled).max(), 1)
        total += 2 * size / math.sqrt(levels.alphas[i]) * carried
    epsilon = np.finfo(trail[0].latents.dtype).eps
    return 16 * epsilon / I.MIXING**2 * total * math.sqrt(levels.alphas[0])


@pytest.mark.parametrize("name", ("edict", "belm"))
@given(
    draw.grid_alphas(), st.floats(0.05, 0.5), st.sampled_from((np.float32, np.float64)), draw.seeds
)
def test_exact_integrators_stay_within_their_bound(name, alphas, lipschitz, dtype, seed):
    levels, x = path(alphas), np.random.default_rng(seed).standard_normal((2, 3, 5, 7)).astype(
        dtype
    )
    denoise, step = Field("network", lipschitz).denoiser(levels), INTEGRATORS[name].step
    trail = laws.up(step, denoise, levels, State(x))
    back = laws.down(step, denoise, levels, trail[-1])[-1].latents
    assert np.abs(back.astype(np.float64) - x).max() <= rounding_bound(
        name, levels, lipschitz, trail
    )


def test_down_then_up_edict_amplifies_by_its_mixing_weight():
    """A difference between the two latents grows by 1/p^2 in every step up, without a model exactly
    so."""
    levels, growth = path(1 / (1 + np.linspace(0.2, 0.3, 11) ** 2)), []
    nothing = Field("constant", 0.0).denoiser(levels)
    for state in laws.up(I.edict, nothing, levels, State(X, X + 1e-3)):
        growth.append(
            np.abs(state.coupled - state.latents).max() / math.sqrt(levels.alphas[len(growth)])
        )
    assert np.array(growth[1:]) / growth[:-1] == pytest.approx(I.MIXING**-2, rel=1e-6)


def test_a_difference_in_belm_grows_as_the_square_of_the_step():
    tau = 0.1 * 1.3 ** np.arange(9)
    levels = path(1 / (1 + tau**2))
    nothing, growth = Field("constant", 0.0).denoiser(levels), []
    states = [State(X * signal_of(levels, 1) + 1e-3, X * signal_of(levels, 0))]
    for i in range(1, 8):
        states.append(I.belm(nothing, states[-1], levels, i, i + 1))
    for i, state in enumerate(states, 1):
        growth.append(
            np.abs(
                state.latents / signal_of(levels, i) - state.coupled / signal_of(levels, i - 1)
            ).max()
        )
    assert np.array(growth[1:]) / growth[:-1] == pytest.approx(1.3**2, rel=1e-6)


def signal_of(levels, k):
    return math.sqrt(levels.alphas[k])


def test_belm_is_unstable_where_the_model_contracts_strongly():
    """The price of reading the same in both directions: where DDIM's steps shrink every difference,
    those of a two-step rule without damping let the other solution of its recurrence grow. Guidance
    multiplies the contraction.
    """
    levels = S.levels(draw.SD21, 50)
    levels = S.Levels(levels.timesteps[:41], levels.alphas[:41])
    for slope, stable in ((0.5, True), (4.0, False)):
        size = {}
        for name in ("ddim", "belm"):
            top = laws.up(
                INTEGRATORS[name].step, Field("linear", 0.3).denoiser(levels), levels, State(X)
            )[-1]
            end = laws.down(
                INTEGRATORS[name].step, Field("linear", slope).denoiser(levels), levels, top
            )[-1].latents
            size[name] = np.abs(end).max()
        assert size["belm"] < 1.1 * size["ddim"] if stable else size["belm"] > 1e3 * size["ddim"]


# --- the bound of laws.reversal_bound is tight ----------------------------------------------------


@pytest.mark.parametrize("dtype", (np.float16, np.float32, np.float64))
def test_the_reversal_bound_is_tight_within_ten(dtype):
    """Of many latents and levels some err by more than a tenth of what the law allows, and none by
    more."""
    rng, worst = np.random.default_rng(0), 0.0
    for _ in range(300):
        a, b = np.sort(rng.uniform(0.01, 0.9999, 2))[:: rng.choice((-1, 1))]
        x, value = rng.uniform(0.5, 1, (1, 1, 50, 50)).astype(dtype), float(rng.uniform(-2, 2))
        levels = path((a, b))
        denoise = Field("constant", value).denoiser(levels)
        back = I.ddim(denoise, I.ddim(denoise, State(x), levels, 0, 1), levels, 1, 0).latents
        used = np.abs(back.astype(np.float64) - x) / laws.reversal_bound(x, value, a, b)
        worst = max(worst, used.max())
    assert 0.1 < worst < 1, worst
