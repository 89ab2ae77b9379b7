"""The stages of diffedit_core.edit as laws, with closed-form predictions in place of the model: the
trail, the decoding, and the noise maps."""

import dataclasses
import math
import warnings

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffedit_core import edit as stages
from diffedit_core import notices, schedule, walk
from diffedit_core.errors import InputError
from diffedit_core.integrators import INTEGRATORS, State
from diffedit_core.parts import blend

from . import reference
from .closed_forms import LEVELS, SHAPE, Predictor, back, column, latents_of, level_field, normal
from .closed_forms import ones, run_of, states, text_field, there, wave_field
from .strategies import PREDICTION_TYPES, SD21, SPACINGS, latents, prediction_types, spacings


def config(**changes):
    return dataclasses.replace(SD21, **changes)


# --- inversion and decoding -----------------------------------------------------------------------


@given(latents(dtype=st.just(np.float64)), st.integers(1, 4), spacings)
def test_decode_undoes_the_trail_where_the_prediction_ignores_x(x0, steps, spacing):
    """With the current level's timestep it must not look at the level either; with the
    destination's it may: both directions then ask at the same one for each step."""
    spaced, text = config(timestep_spacing=spacing), states(*[0.5] * len(x0))
    alpha = schedule.levels(spaced, 5).alphas[steps]
    bound = 16 * steps * np.finfo(np.float64).eps * (np.abs(x0) + 1) / math.sqrt(alpha)
    for field, asked in (
        (text_field, "current"),
        (level_field, "destination"),
        (text_field, "destination"),
    ):
        run = run_of(
            Predictor(field), steps, 5, spaced, inversion_timestep=asked, guidance_scale=1.0
        )
        trail = there(run, x0, text)
        decoded = back(run, trail, ones(x0), text)
        assert np.array_equal(trail[0].latents.asnumpy(), x0) and len(trail) == steps + 1
        assert (np.abs(decoded - x0) <= bound).all()


@pytest.mark.parametrize("asked", ("current", "destination"))
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("scale", (1.0, 2.5))
def test_the_trail_agrees_with_the_equations(kind, asked, scale):
    x0, steps = normal(1, *SHAPE), 7
    run = run_of(
        Predictor(wave_field),
        steps,
        config=config(prediction_type=kind),
        inversion_timestep=asked,
        inversion_prompt="source",
        inversion_guidance_scale=scale,
    )
    found = there(run, x0, states(1, 0.5), states(-0.5, 0.125))
    negative = None if scale == 1 else column(-0.5, 0.125)
    timesteps = LEVELS.timesteps.tolist()
    wanted = reference.invert(
        wave_field,
        x0,
        timesteps,
        LEVELS.alphas,
        steps,
        column(1, 0.5),
        negative,
        scale,
        kind,
        asked,
    )
    assert np.abs(latents_of(found) - np.stack(wanted)).max() < 1e-12


@pytest.mark.parametrize("background", ("same", "noisier"))
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("scale", (1.0, 2.5))
def test_decode_agrees_with_the_equations(kind, background, scale):
    trail, mask = normal(2, 8, *SHAPE), np.random.default_rng(3).choice((0, 0.375, 1), (2, 5, 7))
    run = run_of(
        Predictor(wave_field),
        7,
        config=config(prediction_type=kind),
        blend_level=background,
        guidance_scale=scale,
    )
    found = back(run, trail, mask, states(1, 0.5), states(-0.5, 0.125))
    negative = None if scale == 1 else column(-0.5, 0.125)
    timesteps = LEVELS.timesteps.tolist()
    wanted = reference.decode(
        wave_field,
        trail,
        mask,
        timesteps,
        LEVELS.alphas,
        column(1, 0.5),
        negative,
        scale,
        kind,
        background,
    )
    assert np.abs(found - wanted).max() < 1e-12


def decoded_in(interval, scale, name="ddim", spacing="leading", background="same"):
    """(decoded latents, the predictor) of a decoding with guidance in an interval."""
    predict, trail = Predictor(wave_field), normal(11, 8, *SHAPE)
    run = run_of(
        predict,
        7,
        10,
        config(timestep_spacing=spacing),
        guidance_scale=scale,
        guidance_interval=interval,
        integrator=name,
        blend_level=background,
    )
    mask = np.random.default_rng(12).choice((0, 0.375, 1), (2, 5, 7))
    return back(run, trail, mask, states(1, 0.5), states(-0.5, 0.125)), predict


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", INTEGRATORS)
def test_guidance_everywhere_is_that_without_an_interval_and_nowhere_none(name, spacing):
    """Bit for bit, the rows that are asked included."""
    for interval, scale in (((0, 1), 2.5), ((1, 1), 1.0), ((0.0005, 0.0006), 1.0)):
        found, predict = decoded_in(interval, 2.5, name, spacing)
        wanted, alone = decoded_in((0, 1), scale, name, spacing)
        assert np.array_equal(found, wanted) and predict.rows == alone.rows


@given(st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted), st.sampled_from(("ddim", "edict")))
def test_guidance_in_an_interval_agrees_with_its_definition(interval, name):
    """Two rows are asked exactly where the timestep's share lies between both ends, themselves
    included."""
    _, predict = decoded_in(interval, 2.5, name)
    for timestep, _, rows in predict.calls:
        inside = interval[0] <= timestep / 1000 <= interval[1]
        assert len(rows) == (4 if inside else 2), timestep


def test_both_ends_of_an_interval_are_in_it():
    """The levels that are asked are 601, 501, ..., 1."""
    _, predict = decoded_in((0.101, 0.301), 2.5)
    assert [t for t, _, rows in predict.calls if len(rows) == 4] == [301, 201, 101]
    assert predict.calls[-1][2].tolist() == [1, 0.5], "outside, the sentence alone is asked about"


@pytest.mark.parametrize("scale", (1.0, 2.5))
@pytest.mark.parametrize("every", (1, 2, 3, 9))
def test_inversion_and_decoding_reuse_deep_features_of_their_own(every, scale):
    """Each begins with a whole evaluation; then every `every`-th is one."""
    predict, x0 = Predictor(wave_field), normal(13, *SHAPE)
    run = run_of(predict, 7, reuse_features=every, guidance_scale=scale)
    trail = there(run, x0, states(0, 0))
    back(run, trail, ones(x0), states(1, 0.5), states(-0.5, 0.125))
    walk_of_7 = [k % every > 0 for k in range(7)]
    assert predict.reused == ([] if every == 1 else 2 * walk_of_7) and len(predict.calls) == 14


def test_a_model_without_deep_features_is_told_so():
    run = run_of(Predictor(wave_field), 7, reuse_features=2)._replace(evaluate=None)
    with pytest.raises(InputError, match="reuse_features is 2, but this model gives no deep"):
        there(run, normal(13, *SHAPE), states(0, 0))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("n", (1, 3, 7, 50, 333))
def test_the_model_is_asked_at_the_levels_of_the_grid(spacing, n):
    spaced, steps, x0 = config(timestep_spacing=spacing), min(n, 5), normal(0, 1, 1, 3, 5)
    levels = schedule.levels(spaced, n)
    for asked, wanted in (
        ("current", levels.timesteps[:steps]),
        ("destination", levels.timesteps[1 : steps + 1]),
    ):
        predict = Predictor(text_field)
        run = run_of(predict, steps, n, spaced, inversion_timestep=asked, guidance_scale=1.0)
        trail = there(run, x0, states(0))
        assert predict.timesteps == wanted.tolist()
        assert all(
            np.array_equal(x, level) for (_, x, _), level in zip(predict.calls, latents_of(trail))
        )
        predict.calls.clear()
        back(run, trail, ones(x0), states(0))
        assert predict.timesteps == levels.timesteps[steps:0:-1].tolist()
        deepest = trail[-1].latents.asnumpy()
        assert np.array_equal(predict.calls[0][1], deepest), "decoding starts at the deepest"


@given(
    latents(dtype=st.sampled_from((np.float32, np.float64))),
    st.integers(1, 6),
    prediction_types,
    st.floats(0.1, 2),
)
def test_outside_the_mask_the_picture_comes_back_bit_for_bit(x0, steps, kind, target):
    x0 = (x0 / 1024).astype(x0.dtype)
    mask = np.zeros_like(ones(x0), x0.dtype)
    mask[:, ::2, 1::3] = 1
    run = run_of(
        Predictor(wave_field), steps, config=config(prediction_type=kind), guidance_scale=1.0
    )
    trail = there(run, x0, states(*[0.0] * len(x0)))
    decoded = back(run, trail, mask, states(*[target] * len(x0)))
    outside = np.broadcast_to(mask[:, None] == 0, x0.shape)
    assert np.array_equal(decoded[outside], x0[outside])


@pytest.mark.parametrize("eta", (None, 0.5, 1.0))
def test_an_empty_mask_gives_the_picture_back(eta):
    trail, run = normal(4, 6, *SHAPE), run_of(Predictor(wave_field), 5, guidance_scale=1.0)
    noise = ms.Tensor(normal(5, 5, *SHAPE))
    step = None if eta is None else walk.stochastic_ddim(eta, noise, 5)
    found = back(run, trail, 0 * ones(trail[0]), states(1, 0.5), step=step)
    assert np.array_equal(found, trail[0])


@pytest.mark.parametrize("background", ("same", "noisier"))
def test_inside_a_full_mask_the_background_does_not_matter(background):
    run = run_of(Predictor(wave_field), 5, blend_level=background, guidance_scale=1.0)
    trail = normal(6, 6, *SHAPE)
    other = trail.copy()
    other[:-1] = normal(7, 5, *SHAPE)
    first, second = (back(run, t, ones(t[0]), states(1, 0.5)) for t in (trail, other))
    assert np.array_equal(first, second)
    other[-1] += 1
    assert np.abs(first - back(run, other, ones(other[0]), states(1, 0.5))).min() > 0


def test_the_background_is_of_the_same_level_or_one_noisier():
    """Each level's latents hold, outside the mask, the inverted latents of this level or of the one
    above."""
    trail = normal(8, 6, *SHAPE)
    for background, levels in (("same", (5, 4, 3, 2, 1, 0)), ("noisier", (5, 5, 4, 3, 2, 1))):
        run = run_of(Predictor(wave_field), 5, blend_level=background, guidance_scale=1.0)
        given_states = [State(ms.Tensor(x)) for x in trail]
        empty = ms.Tensor(0 * ones(trail[0]))
        path = latents_of(stages.decode(run, states(1, 0.5), given_states, empty))
        assert np.array_equal(path, trail[list(levels)])


def test_soft_masks_mix_linearly():
    """In one step, the result is affine in the mask: the mix of the results of an empty and of a
    full one."""
    trail, mask = normal(9, 2, *SHAPE), np.random.default_rng(10).random((2, 5, 7))
    run = run_of(Predictor(wave_field), 1, guidance_scale=1.0)
    mixed, empty, full = (
        back(run, trail, m, states(1, 0.5)) for m in (mask, 0 * mask, 0 * mask + 1)
    )
    assert np.abs(mixed - (mask[:, None] * full + (1 - mask[:, None]) * empty)).max() < 1e-14


# --- every integrator -----------------------------------------------------------------------------


def there_and_back(x0, mask, name, target=0.25, scale=1.0, kind="epsilon", background="same"):
    """The trail and the decoded latents, guided away from -0.25 unless the scale is 1."""
    run = run_of(
        Predictor(wave_field),
        6,
        10,
        config(prediction_type=kind),
        integrator=name,
        inversion_prompt="source",
        inversion_guidance_scale=scale,
        guidance_scale=scale,
        blend_level=background,
    )
    source, wanted, negative = (states(*[v] * len(x0)) for v in (0.25, target, -0.25))
    trail = there(run, x0, source, negative)
    return trail, back(run, trail, mask, wanted, negative)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("scale", (1.0, 3.0))
@pytest.mark.parametrize("name", INTEGRATORS)
def test_exact_integrators_give_the_picture_back_with_guidance_too(name, scale, kind):
    """Those that iterate up to their tolerance, the others up to rounding; the rest do not."""
    x0, record = 0.5 * normal(23, *SHAPE), INTEGRATORS[name]
    _, decoded = there_and_back(x0, ones(x0), name, scale=scale, kind=kind)
    error = np.abs(decoded - x0).max()
    if not record.exact:
        assert error > 1e-3, "or the test would not tell them apart"
    else:
        assert error < (1e-4 if record.iterates else 1e-12)


@pytest.mark.parametrize("background", ("same", "noisier"))
@pytest.mark.parametrize("name", INTEGRATORS)
def test_every_integrator_keeps_the_background_bit_for_bit(name, background):
    x0 = (0.5 * normal(24, *SHAPE)).astype(np.float32)
    mask = np.zeros((2, 5, 7), np.float32)
    mask[:, ::2, 1::3] = 1
    trail, decoded = there_and_back(x0, mask, name, target=0.75, background=background)
    outside = np.broadcast_to(mask[:, None] == 0, x0.shape)
    behind = x0 if background == "same" else trail[1].latents.asnumpy()
    assert np.array_equal(decoded[outside], behind[outside])
    assert np.abs(decoded - behind)[~outside].max() > 1e-3


def test_both_latents_are_blended_and_a_missing_one_is_the_first():
    mask = ms.Tensor(np.array([[[[0.0, 0.25, 1.0]]]]))
    a, b, c, d = (normal(seed, 1, 2, 1, 3) for seed in range(4))
    weight = np.array([0.0, 0.25, 1.0])
    edited = State(ms.Tensor(a), ms.Tensor(b), history=(3, ms.Tensor(a)))
    both = blend(edited, State(ms.Tensor(c), ms.Tensor(d)), mask)
    assert np.abs(both.latents.asnumpy() - (weight * a + (1 - weight) * c)).max() < 1e-15
    assert np.abs(both.coupled.asnumpy() - (weight * b + (1 - weight) * d)).max() < 1e-15
    assert both.history is edited.history
    one = blend(edited, State(ms.Tensor(c)), mask)
    assert np.abs(one.coupled.asnumpy() - (weight * b + (1 - weight) * c)).max() < 1e-15
    alone = edited._replace(coupled=None)
    assert blend(alone, State(ms.Tensor(c), ms.Tensor(d)), mask).coupled is None


ASKED = {  # levels that an inversion of 3 steps asks at
    "ddim": [0, 1, 2],
    "dpmpp_2m": [0, 1, 2],
    "belm": [0, 1, 2],
    "edict": [1, 1, 2, 2, 3, 3],
}


@pytest.mark.parametrize("name", ASKED)
def test_where_the_inversion_asks(name):
    """One level further with the destination's timestep, but for the exact ones, whose equations
    name the levels."""
    for ahead, asked in enumerate(("current", "destination")):
        predict = Predictor(text_field)
        run = run_of(predict, 3, integrator=name, inversion_timestep=asked)
        there(run, normal(25, *SHAPE), states(0, 0))
        shift = 0 if INTEGRATORS[name].exact else ahead
        assert predict.timesteps == [int(LEVELS.timesteps[k + shift]) for k in ASKED[name]]


def test_a_fixed_point_that_does_not_contract_stops_with_a_warning():
    def steep(x, timestep, state):
        return 6 * np.sin(5 * x)

    x0 = normal(26, *SHAPE)
    trail = there(run_of(Predictor(steep), 3, 4, integrator="fixed_point"), x0, states(0, 0))
    with pytest.warns(
        UserWarning,
        match=r"did not converge in \d of 3 steps.*does not contract.*use integrator edict",
    ):
        notices.unsolved(trail)
    assert not trail[-1].note.converged and np.isfinite(trail[-1].latents.asnumpy()).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = run_of(Predictor(wave_field), 3, 4, integrator="anderson")
        notices.unsolved(there(run, 0.1 * x0, states(0, 0)))
