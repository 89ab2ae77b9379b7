"""diffedit_core.diffedit: the three phases as laws, with closed-form predictors in place of the
model.

The text states here are [B,1,1] tensors that hold one number each, which the predictors use. The
predictors are functions of numpy arrays, so that the oracles in tests/reference.py take the same
ones.
"""

import dataclasses
import math
import warnings
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mindspore import ops

from diffedit_core import diffedit as D
from diffedit_core import integrators as I
from diffedit_core import regularise as G
from diffedit_core import schedule as S
from diffedit_core.errors import InputError

from . import reference as R
from .strategies import PREDICTION_TYPES, SD21, SPACINGS, latents, prediction_types, spacings

LEVELS = S.levels(SD21, 50)
SHAPE = (2, 3, 5, 7)
PAPER, DIFFUSERS = D.RECIPES["paper"], D.RECIPES["diffusers"]
BOTH_RECIPES = pytest.mark.parametrize("recipe", (PAPER, DIFFUSERS), ids=("paper", "diffusers"))


def states(*values):
    return ms.Tensor(np.array(values, np.float64).reshape(-1, 1, 1))


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def level_field(x, timestep, state):
    """A prediction that looks at the text and the timestep but not at x."""
    return x * 0 + state * (timestep / 1024) + 0.25


def text_field(x, timestep, state):
    """A prediction that looks at the text only."""
    return x * 0 + state


def wave_field(x, timestep, state):
    """A prediction that looks at everything, and at no other row or cell."""
    return x * 0.5 + state * x * x * 0.125 + state * (timestep / 1024) - 0.25


def answer(field, x, timestep, states):
    """A field's values as a tensor of the dtype of x."""
    values = field(x.asnumpy(), timestep, states.asnumpy().reshape(-1, 1, 1, 1))
    return ms.Tensor(np.asarray(values, x.asnumpy().dtype))


class Predictor:
    """A field as `predict`; records what it was asked."""

    def __init__(self, field):
        self.field, self.calls = field, []

    def __call__(self, x, timestep, states):
        assert isinstance(timestep, int) and x.shape[0] == states.shape[0]
        self.calls.append((timestep, x.asnumpy(), states.asnumpy().reshape(-1)))
        return answer(self.field, x, timestep, states)

    @property
    def timesteps(self):
        return [timestep for timestep, _, _ in self.calls]

    @property
    def rows(self):
        return sum(len(x) for _, x, _ in self.calls)


def run(field, x0, mask, steps=6, levels=LEVELS, text=0.5, target=0.5, **options):
    """Invert with one text and decode with another."""
    both = {k: v for k, v in options.items() if k == "prediction_type"}
    own = {k: options.pop(k) for k in ("inversion_timestep",) if k in options}
    trail = D.invert(
        Predictor(field), ms.Tensor(x0), levels, steps, states(*[text] * len(x0)), **both, **own
    )
    decoded = D.decode(
        Predictor(field), trail, ms.Tensor(mask), levels, states(*[target] * len(x0)), **options
    )
    return trail.asnumpy(), decoded.asnumpy()


def ones(x0):
    return np.ones((x0.shape[0], *x0.shape[2:]))


# --- inversion and decoding -----------------------------------------------------------------------


@given(latents(dtype=st.just(np.float64)), st.integers(1, 4), spacings)
def test_decode_undoes_invert_where_the_prediction_ignores_x(x0, steps, spacing):
    """With the current level's timestep it must not look at the level either; with the
    destination's it may: both directions then ask at the same one for each step."""
    levels = S.levels(dataclasses.replace(SD21, timestep_spacing=spacing), 5)
    bound = (
        16 * steps * np.finfo(np.float64).eps * (np.abs(x0) + 1) / math.sqrt(levels.alphas[steps])
    )
    for field, asked in (
        (text_field, "current"),
        (level_field, "destination"),
        (text_field, "destination"),
    ):
        trail, decoded = run(field, x0, ones(x0), steps, levels, inversion_timestep=asked)
        assert np.array_equal(trail[0], x0) and trail.shape == (steps + 1, *x0.shape)
        assert (np.abs(decoded - x0) <= bound).all()


@given(latents(dtype=st.just(np.float64)), st.integers(1, 50), spacings, prediction_types)
def test_invert_reaches_every_level_with_a_fixed_eps(x0, steps, spacing, kind):
    """x_i = sqrt(a_i) x0' + sqrt(1-a_i) eps for one picture x0' and one eps, whichever steps led
    there."""
    levels = S.levels(
        dataclasses.replace(SD21, timestep_spacing=spacing, set_alpha_to_one=True), 50
    )
    eps = 0.75

    def field(x, timestep, state):
        alpha = 1.0 if not field.asked else levels.alphas[field.asked]
        field.asked += 1
        return (
            x * 0 + eps
            if kind == "epsilon"
            else (eps - math.sqrt(1 - alpha) * x) / math.sqrt(alpha)
        )

    field.asked = 0
    trail = D.invert(
        Predictor(field), ms.Tensor(x0), levels, steps, states(*[0] * len(x0)), prediction_type=kind
    ).asnumpy()
    for x, alpha in zip(trail, levels.alphas):
        wanted = math.sqrt(alpha) * x0 + math.sqrt(1 - alpha) * eps
        assert np.abs(x - wanted).max() <= 1e-12 * (np.abs(x0).max() + 1)


@pytest.mark.parametrize("asked", ("current", "destination"))
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("scale", (None, 1.0, 2.5))
def test_invert_agrees_with_the_equations(kind, asked, scale):
    x0, steps = normal(1, *SHAPE), 7
    negative = None if scale is None else states(-0.5, 0.125)
    result = D.invert(
        Predictor(wave_field),
        ms.Tensor(x0),
        LEVELS,
        steps,
        states(1, 0.5),
        negative,
        scale or 1.0,
        kind,
        asked,
    )
    columns = [np.reshape(v, (-1, 1, 1, 1)) for v in ((1, 0.5), (-0.5, 0.125))]
    wanted = R.invert(
        wave_field,
        x0,
        LEVELS.timesteps.tolist(),
        LEVELS.alphas,
        steps,
        columns[0],
        None if scale is None else columns[1],
        scale,
        kind,
        asked,
    )
    assert np.abs(result.asnumpy() - np.stack(wanted)).max() < 1e-12


@pytest.mark.parametrize("blend", ("same", "noisier"))
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("scale", (None, 2.5))
def test_decode_agrees_with_the_equations(kind, blend, scale):
    trail, mask = normal(2, 8, *SHAPE), np.random.default_rng(3).choice((0, 0.375, 1), (2, 5, 7))
    negative = None if scale is None else states(-0.5, 0.125)
    result = D.decode(
        Predictor(wave_field),
        ms.Tensor(trail),
        ms.Tensor(mask),
        LEVELS,
        states(1, 0.5),
        negative,
        scale or 1.0,
        kind,
        blend,
    )
    columns = [np.reshape(v, (-1, 1, 1, 1)) for v in ((1, 0.5), (-0.5, 0.125))]
    wanted = R.decode(
        wave_field,
        trail,
        mask,
        LEVELS.timesteps.tolist(),
        LEVELS.alphas,
        columns[0],
        None if scale is None else columns[1],
        scale,
        kind,
        blend,
    )
    assert np.abs(result.asnumpy() - wanted).max() < 1e-12


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("n", (1, 3, 7, 50, 333))
def test_the_model_is_asked_at_the_levels_of_the_grid(spacing, n):
    levels = S.levels(dataclasses.replace(SD21, timestep_spacing=spacing), n)
    steps = min(n, 5)
    x0 = normal(0, 1, 1, 3, 5)
    for asked, wanted in (
        ("current", levels.timesteps[:steps]),
        ("destination", levels.timesteps[1 : steps + 1]),
    ):
        predict = Predictor(text_field)
        trail = D.invert(predict, ms.Tensor(x0), levels, steps, states(0), inversion_timestep=asked)
        assert predict.timesteps == wanted.tolist()
        assert all(
            np.array_equal(x, level) for (_, x, _), level in zip(predict.calls, trail.asnumpy())
        )
    predict = Predictor(text_field)
    D.decode(predict, trail, ms.Tensor(ones(x0)), levels, states(0))
    assert predict.timesteps == levels.timesteps[steps:0:-1].tolist()
    assert np.array_equal(
        predict.calls[0][1], trail.asnumpy()[-1]
    ), "decoding starts at the deepest latents"


@given(
    latents(dtype=st.sampled_from((np.float32, np.float64))),
    st.integers(1, 6),
    prediction_types,
    st.floats(0.1, 2),
)
def test_outside_the_mask_the_picture_comes_back_bit_for_bit(x0, steps, kind, target):
    mask = np.zeros_like(ones(x0), x0.dtype)
    mask[:, ::2, 1::3] = 1
    _, decoded = run(
        wave_field, x0 / 1024, mask, steps, text=0.0, target=target, prediction_type=kind
    )
    outside = np.broadcast_to(mask[:, None] == 0, x0.shape)
    assert np.array_equal(decoded[outside], (x0 / x0.dtype.type(1024))[outside])


@pytest.mark.parametrize("eta", (0.0, 0.5, 1.0))
def test_an_empty_mask_gives_the_picture_back(eta):
    trail = normal(4, 6, *SHAPE)
    noise = ms.Tensor(normal(5, 5, *SHAPE))
    result = D.decode(
        Predictor(wave_field),
        ms.Tensor(trail),
        ms.Tensor(0 * ones(trail[0])),
        LEVELS,
        states(1, 0.5),
        eta=eta,
        noise=noise,
    )
    assert np.array_equal(result.asnumpy(), trail[0])


@pytest.mark.parametrize("blend", ("same", "noisier"))
def test_inside_a_full_mask_the_background_does_not_matter(blend):
    trail = normal(6, 6, *SHAPE)
    other = trail.copy()
    other[:-1] = normal(7, 5, *SHAPE)
    mask = ms.Tensor(ones(trail[0]))
    first, second = (
        D.decode(
            Predictor(wave_field), ms.Tensor(t), mask, LEVELS, states(1, 0.5), blend_level=blend
        ).asnumpy()
        for t in (trail, other)
    )
    assert np.array_equal(first, second)
    other[-1] += 1
    assert (
        np.abs(
            first
            - D.decode(
                Predictor(wave_field), ms.Tensor(other), mask, LEVELS, states(1, 0.5)
            ).asnumpy()
        ).min()
        > 0
    )


def test_the_background_is_of_the_same_level_or_one_noisier():
    """Each step's latents, seen by `on_step`, hold the inverted latents of the level just reached,
    or of the one before."""
    trail, mask = normal(8, 6, *SHAPE), 0 * ones(normal(0, *SHAPE))
    for blend, levels in (("same", (4, 3, 2, 1, 0)), ("noisier", (5, 4, 3, 2, 1))):
        seen = []
        D.decode(
            Predictor(wave_field),
            ms.Tensor(trail),
            ms.Tensor(mask),
            LEVELS,
            states(1, 0.5),
            blend_level=blend,
            on_step=lambda step, timestep, x: seen.append((step, timestep, x.asnumpy())),
        )
        assert [step for step, _, _ in seen] == [1, 2, 3, 4, 5]
        assert [t for _, t, _ in seen] == LEVELS.timesteps[5:0:-1].tolist()
        assert all(np.array_equal(x, trail[level]) for (_, _, x), level in zip(seen, levels))


def test_soft_masks_mix_linearly():
    """In one step, the result is affine in the mask: the mix of the results of an empty and of a
    full one."""
    trail, mask = normal(9, 2, *SHAPE), np.random.default_rng(10).random((2, 5, 7))
    mixed, empty, full = (
        D.decode(
            Predictor(wave_field), ms.Tensor(trail), ms.Tensor(m), LEVELS, states(1, 0.5)
        ).asnumpy()
        for m in (mask, 0 * mask, 0 * mask + 1)
    )
    assert np.abs(mixed - (mask[:, None] * full + (1 - mask[:, None]) * empty)).max() < 1e-14


def test_a_stochastic_step_adds_its_sigma_of_noise_in_order():
    trail, noise = normal(11, 4, *SHAPE), normal(12, 3, *SHAPE)
    plain = R.wide(trail[3])
    for step, i in enumerate((3, 2, 1)):
        sigma = S.ddim_sigma(LEVELS.alphas[i], LEVELS.alphas[i - 1], 0.75)
        out = wave_field(plain, int(LEVELS.timesteps[i]), np.full((2, 1, 1, 1), 0.5))
        plain = (
            R.ddim_step(plain, out, LEVELS.alphas[i], LEVELS.alphas[i - 1], sigma=sigma)
            + sigma * noise[step]
        )
    result = D.decode(
        Predictor(wave_field),
        ms.Tensor(trail),
        ms.Tensor(ones(trail[0])),
        LEVELS,
        states(0.5, 0.5),
        eta=0.75,
        noise=ms.Tensor(noise),
    )
    assert np.abs(result.asnumpy() - plain).max() < 1e-12


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_round_trip_error_of_a_gaussian_falls_at_first_order(kind):
    """Inverting and decoding with the exact prediction for x0 ~ N(0, s^2) both follow one ODE, each
    with an error of 1/N."""
    config, deviation, errors, counts = (
        dataclasses.replace(SD21, timestep_spacing="trailing"),
        0.5,
        [],
        (10, 20, 40, 80),
    )
    bar = S.alphas_cumprod(config)

    def field(x, timestep, state):
        a = bar[timestep]
        eps = math.sqrt(1 - a) / (a * deviation**2 + 1 - a)
        x0 = math.sqrt(a) * deviation**2 / (a * deviation**2 + 1 - a)
        return x * (eps if kind == "epsilon" else math.sqrt(a) * eps - math.sqrt(1 - a) * x0)

    x0 = np.array([1.5, -0.25, 0.75]).reshape(1, 3, 1, 1)
    for n in counts:
        _, decoded = run(field, x0, ones(x0), n, S.levels(config, n), prediction_type=kind)
        errors.append(np.abs(decoded / x0 - 1).max())
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert -1.3 < slope < -0.75, (slope, errors)


# --- other integrators ----------------------------------------------------------------------------

WAYS = {
    "ddim": {},
    "dpmpp_2m": {"integrator": "dpmpp_2m"},
    "edict": {"integrator": "edict"},
    "belm": {"integrator": "belm"},
    "fixed_point": {"inversion": "fixed_point"},
    "anderson": {"inversion": "anderson"},
}


def there_and_back(
    x0, mask, way, text=0.25, target=0.25, scale=1.0, kind="epsilon", steps=6, blend="same"
):
    """The trail and the decoded latents, guided away from -0.25 unless the scale is 1."""
    negative = None if scale == 1 else states(*[-0.25] * len(x0))
    levels = S.levels(SD21, 10)
    predict, source, wanted = (
        Predictor(wave_field),
        states(*[text] * len(x0)),
        states(*[target] * len(x0)),
    )
    trail = D.invert_states(
        predict, ms.Tensor(x0), levels, steps, source, negative, scale, kind, **way
    )
    decoded = D.decode_states(
        predict,
        trail,
        ms.Tensor(mask),
        levels,
        wanted,
        negative,
        scale,
        kind,
        blend,
        integrator=way.get("integrator", "ddim"),
    )
    return trail, decoded.asnumpy()


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("scale", (1.0, 3.0))
@pytest.mark.parametrize("name", WAYS)
def test_exact_ways_give_the_picture_back_with_guidance_too(name, scale, kind):
    x0 = 0.5 * normal(23, *SHAPE)
    _, decoded = there_and_back(x0, ones(x0), WAYS[name], scale=scale, kind=kind)
    error = np.abs(decoded - x0).max()
    allowed = {"edict": 1e-12, "belm": 1e-12, "fixed_point": 1e-4, "anderson": 1e-4}.get(name)
    if allowed is None:
        assert error > 1e-3, "or the test would not tell them apart"
    else:
        assert error < allowed


@pytest.mark.parametrize("blend", ("same", "noisier"))
@pytest.mark.parametrize("name", WAYS)
def test_every_way_keeps_the_background_bit_for_bit(name, blend):
    x0 = (0.5 * normal(24, *SHAPE)).astype(np.float32)
    mask = np.zeros((2, 5, 7), np.float32)
    mask[:, ::2, 1::3] = 1
    trail, decoded = there_and_back(x0, mask, WAYS[name], target=0.75, blend=blend)
    outside = np.broadcast_to(mask[:, None] == 0, x0.shape)
    background = x0 if blend == "same" else trail[1].latents.asnumpy()
    assert np.array_equal(decoded[outside], background[outside])
    assert np.abs(decoded - background)[~outside].max() > 1e-3


def test_both_latents_are_blended_and_a_missing_partner_is_the_first():
    mask = ms.Tensor(np.array([[[[0.0, 0.25, 1.0]]]]))
    a, b, c, d = (normal(seed, 1, 2, 1, 3) for seed in range(4))
    edited = I.State(ms.Tensor(a), ms.Tensor(b), history=(3, ms.Tensor(a)))
    both = D.blend_states(edited, I.State(ms.Tensor(c), ms.Tensor(d)), mask)
    weight = np.array([0.0, 0.25, 1.0])
    assert np.abs(both.latents.asnumpy() - (weight * a + (1 - weight) * c)).max() < 1e-15
    assert (
        np.abs(both.partner.asnumpy() - (weight * b + (1 - weight) * d)).max() < 1e-15
        and both.history is edited.history
    )
    one = D.blend_states(edited, I.State(ms.Tensor(c)), mask)
    assert np.abs(one.partner.asnumpy() - (weight * b + (1 - weight) * c)).max() < 1e-15
    assert (
        D.blend_states(
            edited._replace(partner=None), I.State(ms.Tensor(c), ms.Tensor(d)), mask
        ).partner
        is None
    )


@pytest.mark.parametrize(
    "name, current, destination",
    [
        ("ddim", [0, 1, 2], [1, 2, 3]),
        ("dpmpp_2m", [0, 1, 2], [1, 2, 3]),
        ("belm", [0, 1, 2], [0, 1, 2]),
        ("edict", [1, 1, 2, 2, 3, 3], [1, 1, 2, 2, 3, 3]),
    ],
)
def test_where_the_inversion_asks(name, current, destination):
    for asked, wanted in (("current", current), ("destination", destination)):
        predict, seen = Predictor(text_field), []
        D.invert_states(
            predict,
            ms.Tensor(normal(25, *SHAPE)),
            LEVELS,
            3,
            states(0, 0),
            inversion_timestep=asked,
            on_step=lambda done, t, x: seen.append(t),
            **WAYS[name],
        )
        assert predict.timesteps == [int(LEVELS.timesteps[k]) for k in wanted]
        shift = asked == "destination" and name in ("ddim", "dpmpp_2m")
        assert seen == LEVELS.timesteps[shift : 3 + shift].tolist()


def test_a_fixed_point_that_does_not_contract_stops_with_a_warning():
    def steep(x, timestep, state):
        return 6 * np.sin(5 * x)

    x0 = ms.Tensor(normal(26, *SHAPE))
    with pytest.warns(
        UserWarning,
        match=r"did not converge in \d of 3 steps.*does not contract.*use integrator edict",
    ):
        trail = D.invert_states(
            Predictor(steep), x0, S.levels(SD21, 4), 3, states(0, 0), inversion="fixed_point"
        )
    assert not trail[-1].note.converged and np.isfinite(trail[-1].latents.asnumpy()).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        D.invert_states(
            Predictor(wave_field),
            x0 * 0.1,
            S.levels(SD21, 4),
            3,
            states(0, 0),
            inversion="anderson",
        )


def test_only_ddim_has_stochastic_steps():
    trail = [I.State(ms.Tensor(x)) for x in normal(27, 3, *SHAPE)]
    with pytest.raises(InputError, match="eta is 0.5, but integrator edict"):
        D.decode_states(
            Predictor(wave_field),
            trail,
            ms.Tensor(ones(normal(0, *SHAPE))),
            LEVELS,
            states(0, 0),
            eta=0.5,
            noise=ms.Tensor(normal(1, 2, *SHAPE)),
            integrator="edict",
        )


# --- guidance -------------------------------------------------------------------------------------


def test_guidance_asks_for_both_halves_in_one_batch_negative_first():
    x = normal(13, *SHAPE)
    predict = Predictor(wave_field)
    D.guided(predict, ms.Tensor(x), 481, states(1, 2), states(-1, -2), 7.5)
    ((timestep, rows, asked),) = predict.calls
    assert timestep == 481 and asked.tolist() == [-1, -2, 1, 2]
    assert np.array_equal(rows, np.concatenate((x, x)))


@given(st.floats(-4, 16))
def test_guidance_is_a_line_through_both_predictions(scale):
    x = ms.Tensor(normal(14, *SHAPE))
    positive, negative = states(1, 2), states(-1, -2)
    at = {
        g: D.guided(Predictor(wave_field), x, 481, positive, negative, g).asnumpy()
        for g in (0.0, 1.0, scale)
    }
    conditional, unconditional = (
        D.guided(Predictor(wave_field), x, 481, s, None, 7.5).asnumpy()
        for s in (positive, negative)
    )
    assert np.array_equal(at[0.0], unconditional) and np.abs(at[1.0] - conditional).max() < 1e-14
    assert np.abs(at[scale] - unconditional - scale * (conditional - unconditional)).max() < 1e-13


# --- the noise difference -------------------------------------------------------------------------


def difference(
    field=wave_field,
    clean=None,
    noise=None,
    guidance=None,
    map_batch=1,
    targets=((1, 2),),
    on_step=None,
):
    """`noise_difference` for two pictures: (the predictor, a list of arrays [2,n,h,w])."""
    predict = Predictor(field)
    clean = normal(15, 2, 1, 3, 5, 7) if clean is None else clean
    noise = normal(16, 2, 5, 3, 5, 7) if noise is None else noise
    negative = None if guidance is None else states(-0.5, 0.125)
    found = D.noise_difference(
        predict,
        ms.Tensor(clean),
        ms.Tensor(noise),
        481,
        0.28,
        (states(0.25, 0.5), negative),
        [(states(*t), negative) for t in targets],
        guidance,
        map_batch,
        on_step,
    )
    return predict, [f.asnumpy() for f in found]


@pytest.mark.parametrize("per_map", (False, True))
@pytest.mark.parametrize("guidance", (None, 1.0, 7.5))
def test_difference_agrees_with_the_definition(guidance, per_map):
    """Map by map and picture by picture; with guidance in the public order, (1-g) d_positive + g
    d_negative."""
    clean, noise = normal(17, 2, 5 if per_map else 1, 3, 5, 7), normal(18, 2, 5, 3, 5, 7)
    source, target, negative = (0.25, 0.5), (1, 2), (-0.5, 0.125)
    wanted = np.empty((2, 5, 5, 7))
    for b in range(2):
        for m in range(5):
            x = math.sqrt(0.28) * clean[b, m if per_map else 0] + math.sqrt(0.72) * noise[b, m]
            at = [wave_field(x, 481, s[b]) for s in (source, target, negative)]
            eps = at if guidance is None else [(1 - guidance) * e + guidance * at[2] for e in at]
            wanted[b, m] = np.abs(eps[1] - eps[0]).mean(0)
    for map_batch in (1, 2, 5):
        _, (result,) = difference(clean=clean, noise=noise, guidance=guidance, map_batch=map_batch)
        assert result.shape == wanted.shape and np.abs(result - wanted).max() < 1e-13


@pytest.mark.parametrize("guidance", (None, 7.5))
def test_difference_does_not_depend_on_the_chunks(guidance):
    one = difference(guidance=guidance, map_batch=1)[1][0]
    for map_batch in (2, 3, 4, 5, 99):
        assert np.array_equal(
            difference(guidance=guidance, map_batch=map_batch)[1][0], one
        ), map_batch


def test_difference_asks_for_its_rows_in_a_known_order():
    """All rows of the source, then of each target; with guidance positive and negative have changed
    places."""
    predict, _ = difference(map_batch=2, targets=((1, 2), (3, 4)))
    assert predict.timesteps == [481] * 3 and [len(x) for _, x, _ in predict.calls] == [12, 12, 6]
    assert predict.calls[0][2].tolist() == [0.25, 0.25, 0.5, 0.5, 1, 1, 2, 2, 3, 3, 4, 4]
    assert all(
        np.array_equal(part, predict.calls[0][1][:4]) for part in np.split(predict.calls[0][1], 3)
    )
    predict, _ = difference(map_batch=2, guidance=7.5)
    assert predict.calls[0][2].tolist() == [
        0.25,
        0.25,
        0.5,
        0.5,
        -0.5,
        -0.5,
        0.125,
        0.125,
        1,
        1,
        2,
        2,
        -0.5,
        -0.5,
        0.125,
        0.125,
    ]


def test_several_targets_equal_separate_runs_and_share_the_source():
    together, results = difference(targets=((1, 2), (3, -1), (0.25, 0.5)))
    for target, result in zip(((1, 2), (3, -1), (0.25, 0.5)), results):
        assert np.array_equal(result, difference(targets=(target,))[1][0])
    assert not results[2].any(), "the source itself"
    assert together.rows == 2 * 5 * 4


def test_difference_reports_its_progress():
    seen = []
    difference(map_batch=2, on_step=lambda done, *rest: seen.append(done))
    assert seen == [2, 4, 5]


@given(st.floats(0.25, 16))
def test_with_equal_negatives_the_guidance_only_scales_the_difference(guidance):
    (plain,) = difference(map_batch=5)[1]
    (guided,) = difference(guidance=guidance, map_batch=5)[1]
    assert np.abs(guided - abs(1 - guidance) * plain).max() < 1e-12


def test_find_masks_is_the_definition_whole():
    clean, noise = normal(19, 2, 1, 3, 5, 7), normal(20, 2, 4, 3, 5, 7)
    options = PAPER.replace(num_maps=4, mask_threshold=0.5, mask_clamp_ratio=2.0)
    ((noise_map, mask),) = D.find_masks(
        Predictor(wave_field),
        SD21,
        ms.Tensor(clean),
        ms.Tensor(noise),
        options,
        (states(0.25, 0.5), None),
        [(states(1, 2), None)],
    )
    timestep, alpha = D.mask_level(options, SD21)
    x = math.sqrt(alpha) * clean + math.sqrt(1 - alpha) * noise
    eps = [wave_field(x, timestep, np.reshape(s, (2, 1, 1, 1, 1))) for s in ((1, 2), (0.25, 0.5))]
    wanted = R.noise_map(*eps)
    assert np.abs(noise_map.asnumpy() - wanted).max() < 1e-13
    assert (
        np.array_equal(mask.asnumpy(), R.normalise(wanted, 2.0) > 0.5)
        and 0 < mask.asnumpy().mean() < 1
    )
    smooth = D.RECIPES["smooth"].replace(mask_threshold=0.95)
    found = D.mask_of(noise_map, smooth).asnumpy()
    again = R.normalise(
        R.smooth(wanted, smooth.mask_smoothing), 3.0, "image", smooth.mask_clamp_quantile
    )
    assert (
        np.array_equal(found, again > smooth.mask_threshold)
        and 0 < found.mean() < 1
        and (found != mask.asnumpy()).any()
    )


# --- options, levels, plan ------------------------------------------------------------------------


BAD = [
    (name, value)
    for name in ("num_inference_steps", "num_maps", "map_batch")
    for value in (0, -3, 2.5, 5.0, True, None, "5")
]
BAD += [
    (name, value)
    for name in ("encode_ratio", "mask_noise_strength")
    for value in (0, -0.1, 1.01, math.nan, math.inf)
]
BAD += [
    (name, value)
    for name in ("guidance_scale", "inversion_guidance_scale")
    for value in (math.nan, math.inf, -math.inf)
]
BAD += [("mask_clamp_ratio", value) for value in (0, -1, math.nan, math.inf)]
BAD += [("mask_threshold", value) for value in (-0.1, 1, 1.5, math.nan)]
BAD += [("mask_smoothing", value) for value in (-0.1, math.nan, math.inf)]
BAD += [("mask_clamp_quantile", value) for value in (-0.1, 1.01, math.nan)]
BAD += [
    ("inversion_prompt", "target"),
    ("inversion_timestep", "next"),
    ("clamp_over", "channel"),
    ("blend_level", "cleaner"),
    ("round_steps", "up"),
    ("inversion_prompt", None),
]
BAD += [("integrator", "euler"), ("inversion", "magic"), ("num_auto_corr_rolls", 0)]
BAD += [("num_reg_steps", value) for value in (-1, 1.5, True, None)]
BAD += [
    (name, value)
    for name in ("lambda_auto_corr", "lambda_kl")
    for value in (-1.0, math.nan, math.inf, "1")
]
BAD_TYPES = [
    (name, "0.5")
    for name in (
        "encode_ratio",
        "mask_noise_strength",
        "guidance_scale",
        "inversion_guidance_scale",
        "mask_clamp_ratio",
        "mask_threshold",
        "mask_smoothing",
        "mask_clamp_quantile",
    )
]
BAD_TYPES += [
    (name, value)
    for name in ("sample_posterior", "posterior_per_map", "guided_mask", "mask_on_grid")
    for value in ("no", None, 1)
]


@pytest.mark.parametrize("name, value", BAD + BAD_TYPES)
def test_a_bad_option_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=rf"^{name} is "):
        dataclasses.replace(DIFFUSERS, **{name: value})


def test_options_that_contradict_each_other_are_refused():
    with pytest.raises(InputError, match="inversion_guidance_scale is 3.0.*empty prompt"):
        D.Options(inversion_guidance_scale=3.0)
    D.Options(inversion_guidance_scale=3.0, inversion_prompt="source")
    with pytest.raises(
        InputError, match="inversion is 'fixed_point', which is of DDIM, but integrator is 'edict'"
    ):
        D.Options(integrator="edict", inversion="fixed_point")
    for way in ({"integrator": "belm"}, {"inversion": "anderson"}):
        with pytest.raises(
            InputError, match="num_reg_steps changes the predictions of the inversion only"
        ):
            D.Options(num_reg_steps=1, **way)
    with pytest.raises(InputError, match="belm takes two latents"):
        D.Options(integrator="belm", num_inference_steps=5, encode_ratio=0.2)
    with pytest.raises(InputError, match="encode_ratio 0.1 of 9 steps rounds to no step"):
        D.Options(num_inference_steps=9, encode_ratio=0.1, round_steps="down")
    with pytest.raises(InputError, match="mask_noise_strength 0.1 of 9 steps rounds to no noise"):
        D.mask_level(
            D.Options(num_inference_steps=9, mask_noise_strength=0.1, mask_on_grid=True), SD21
        )


def test_replace_changes_what_is_given_and_leaves_none():
    changed = DIFFUSERS.replace(num_maps=3, guidance_scale=None)
    assert (
        changed.num_maps == 3 and changed.guidance_scale == 7.5 and changed.blend_level == "noisier"
    )
    with pytest.raises(InputError):
        DIFFUSERS.replace(num_maps=0)


def test_the_paper_is_the_default_recipe():
    assert PAPER == D.Options() and PAPER.num_inference_steps == 50 and PAPER.num_encode_steps == 40
    assert (PAPER.mask_noise_strength, PAPER.num_maps, PAPER.mask_threshold) == (0.5, 10, 0.5)
    assert (
        DIFFUSERS.num_encode_steps,
        DIFFUSERS.inversion_guidance_scale,
        DIFFUSERS.mask_clamp_ratio,
    ) == (40, 7.5, 3.0)


def test_rounding_of_the_encoding_steps():
    """50 times 0.58 is 28.999999999999996 in binary."""
    near = D.Options(encode_ratio=0.58)
    assert (near.num_encode_steps, near.replace(round_steps="down").num_encode_steps) == (29, 28)
    assert D.Options(encode_ratio=0.001).num_encode_steps == 1, "at least one step"
    assert D.Options(encode_ratio=1.0).num_encode_steps == 50


@given(st.integers(1, 1000), st.floats(0.001, 1))
def test_encoding_steps_stay_within_the_grid(n, ratio):
    near = D.Options(num_inference_steps=n, encode_ratio=ratio)
    assert 1 <= near.num_encode_steps <= n and abs(near.num_encode_steps - n * ratio) <= max(
        0.5, 1 - n * ratio
    )
    if n * ratio >= 1:
        down = near.replace(round_steps="down").num_encode_steps
        assert n * ratio - 1 < down <= n * ratio


def test_mask_level_of_both_recipes():
    bar = S.alphas_cumprod(SD21)
    assert D.mask_level(DIFFUSERS, SD21) == (481, bar[481])
    for n in (4, 50, 999):
        assert D.mask_level(PAPER.replace(num_inference_steps=n), SD21) == (500, bar[500])
    assert D.mask_level(PAPER.replace(mask_noise_strength=1.0), SD21) == (999, bar[999])
    assert D.mask_level(DIFFUSERS.replace(mask_noise_strength=1.0), SD21) == (981, bar[981])


@pytest.mark.parametrize("spacing", SPACINGS)
@given(st.integers(1, 1000), st.floats(0.001, 1), st.booleans())
def test_mask_level_is_a_level(spacing, n, strength, on_grid):
    config = dataclasses.replace(SD21, timestep_spacing=spacing)
    options = D.Options(num_inference_steps=n, mask_noise_strength=strength, mask_on_grid=on_grid)
    if on_grid and int(n * strength) == 0:
        with pytest.raises(InputError):
            D.mask_level(options, config)
        return
    timestep, alpha = D.mask_level(options, config)
    assert 0 <= timestep <= 999 and alpha == S.alphas_cumprod(config)[timestep]
    assert timestep in S.grid(config, n) if on_grid else abs(timestep - 1000 * strength) <= 1


@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from((1.0, 3.0)),
    st.sampled_from((1.0, 2.0)),
    st.sampled_from((PAPER, DIFFUSERS)),
    st.booleans(),
)
def test_plan_counts_what_an_edit_evaluates(
    n, targets, given_mask, scale, inversion_scale, recipe, guided_mask
):
    options = recipe.replace(
        num_inference_steps=n,
        num_maps=3,
        guidance_scale=scale,
        guided_mask=guided_mask,
        encode_ratio=1.0,
        inversion_guidance_scale=inversion_scale if recipe is DIFFUSERS else None,
        mask_noise_strength=1.0,
    )
    plan = D.plan(options, SD21, targets, given_mask)
    model, _ = edited(
        options, targets=tuple("abcd"[:targets]), mask=np.ones((1, 6, 8)) if given_mask else None
    )
    phases = [
        sum(len(s) for p, _, s in model.calls if p == phase)
        for phase in ("mask", "inversion", "decoding")
    ]
    assert phases == [plan.mask_evaluations, plan.inversion_evaluations, plan.decode_evaluations]
    assert model.rows == sum(phases)
    asked = {p: [t for phase, t, _ in model.calls if phase == p] for p in ("mask", "inversion")}
    assert set(asked["mask"]) == (set() if given_mask else {plan.mask_timestep})
    assert plan.num_encode_steps == len(plan.timesteps) == len(asked["inversion"])
    if options.inversion_timestep == "destination":
        assert asked["inversion"] == plan.timesteps.tolist()


@BOTH_RECIPES
@pytest.mark.parametrize("name", WAYS)
def test_plan_counts_every_way(name, recipe):
    """Exactly, or where the inversion iterates as a limit."""
    options = recipe.replace(
        num_inference_steps=4, num_maps=2, encode_ratio=1.0, mask_noise_strength=1.0, **WAYS[name]
    )
    plan = D.plan(options, SD21, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, results = edited(options, targets=("a", "b"))
    count = {
        phase: sum(len(s) for p, _, s in model.calls if p == phase)
        for phase in ("mask", "inversion", "decoding")
    }
    assert count["mask"] == plan.mask_evaluations and count["decoding"] == plan.decode_evaluations
    assert plan.at_most == (name in I.INVERSIONS)
    assert (
        count["inversion"] <= plan.inversion_evaluations
        if plan.at_most
        else count["inversion"] == plan.inversion_evaluations
    )
    assert all(np.isfinite(r.image).all() and not r.unchanged for r in results)


def test_plan_refuses_what_the_schedule_cannot_do():
    config = dataclasses.replace(
        SD21,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
    )
    for way in ("edict", "belm", "anderson"):
        D.plan(PAPER.replace(**WAYS[way]), config)
        with pytest.raises(InputError, match="ends without signal"):
            D.plan(PAPER.replace(encode_ratio=1.0, **WAYS[way]), config)
    D.plan(PAPER.replace(encode_ratio=1.0, integrator="dpmpp_2m"), config)


def test_a_regularised_edit_uses_its_rolls_in_the_inversion_only():
    """Each prediction of the inversion is changed by `regularise` at the level where it was asked;
    no other is."""
    for name, ahead in (("paper", 0), ("diffusers", 1)):
        options = D.RECIPES[name].replace(
            num_inference_steps=3,
            num_maps=2,
            encode_ratio=1.0,
            mask_noise_strength=1.0,
            num_reg_steps=1,
            num_auto_corr_rolls=2,
        )
        rolls = G.draw_rolls([np.random.default_rng(1)], 3, 1, 2, (1, 3, 6, 8))
        draws = D.draw_noise(0, 1, 2, (3, 6, 8), options.posterior_per_map) | {"rolls": rolls}
        model = FakeModel()
        result = D.edit(model, picture(), "source", ["a"], options, draws, progress=model.progress)[
            0
        ]
        levels = S.levels(SD21, 3)
        again = FakeModel()
        state = ms.Tensor(
            np.full((1, 1, 1), FakeModel.PROMPTS["" if name == "paper" else "source"], np.float32)
        )
        empty = None if name == "paper" else ms.Tensor(np.zeros((1, 1, 1), np.float32))
        x = ms.Tensor(result.inverted_latents[0])
        for k in range(3):
            out = D.guided(
                again.predict,
                x,
                int(levels.timesteps[k + ahead]),
                state,
                empty,
                options.inversion_guidance_scale,
            )
            out = G.regularise(
                out,
                x,
                levels.alphas[k + ahead],
                "epsilon",
                rolls[k],
                20.0,
                20.0,
                options.clamp_over,
            )
            x = S.ddim_step(x, out, levels.alphas[k], levels.alphas[k + 1])
            assert (
                np.abs(x.asnumpy() - result.inverted_latents[k + 1]).max()
                < 1e-4 * np.abs(x.asnumpy()).max()
            )
        plain = D.edit(
            FakeModel(), picture(), "source", ["a"], options.replace(num_reg_steps=0), draws
        )[0]
        assert (
            np.abs(plain.inverted_latents - result.inverted_latents)[1:].max((1, 2, 3, 4)).min()
            > 1e-3
        )


def test_plan_of_the_recipes():
    paper, public = (D.plan(o, SD21) for o in (PAPER, DIFFUSERS))
    assert (paper.mask_evaluations, paper.inversion_evaluations, paper.decode_evaluations) == (
        20,
        40,
        80,
    )
    assert (public.mask_evaluations, public.inversion_evaluations, public.decode_evaluations) == (
        40,
        80,
        80,
    )
    assert public.timesteps.tolist() == list(range(1, 782, 20))
    with pytest.raises(InputError, match="1001"):
        D.plan(PAPER.replace(num_inference_steps=1001), SD21)


# --- random draws ---------------------------------------------------------------------------------


@given(st.integers(0, 2**63), st.integers(1, 3), st.integers(1, 4), st.booleans())
def test_more_pictures_or_maps_leave_the_first_draws_as_they_are(seed, pictures, maps, per_map):
    few = D.draw_noise(seed, pictures, maps, (1, 3, 5), per_map)
    many = D.draw_noise(seed, pictures + 2, maps + 3, (1, 3, 5), True)
    assert set(few) == {"maps", "posterior"} | ({"posterior_mask"} if per_map else set())
    for name, draws in few.items():
        assert draws.dtype == np.float32
        wider = many[name][:pictures]
        assert np.array_equal(draws, wider if name == "posterior" else wider[:, :maps])


def test_every_stream_is_its_own_and_the_seed_decides():
    draws = D.draw_noise(7, 3, 4, (2, 3, 5), True)
    rows = np.concatenate([d.reshape(-1, 30) for d in draws.values()])
    rows = np.concatenate(
        (rows, *[d.reshape(-1, 30) for d in D.draw_noise(8, 3, 4, (2, 3, 5), True).values()])
    )
    assert len(rows) == 2 * (12 + 3 + 12) and len(np.unique(rows[:, 0])) == len(
        np.unique(rows, axis=0)
    ) == len(rows)
    assert all(
        np.array_equal(a, draws[k]) for k, a in D.draw_noise(7, 3, 4, (2, 3, 5), True).items()
    )


def test_draws_are_standard_normal():
    """Moments of 120,000 numbers, within 5 standard errors: mean 1, variance 2, third 15, fourth
    96, over their number."""
    for draws in D.draw_noise(1, 2, 3, (4, 50, 100), True).values():
        z = np.resize(draws, draws.size).astype(np.float64)
        for power, wanted, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
            assert abs((z**power).mean() - wanted) < 5 * math.sqrt(variance / z.size)
    maps = D.draw_noise(1, 1, 8, (4, 30, 30))["maps"].reshape(8, -1)
    assert np.abs(np.corrcoef(maps) - np.eye(8)).max() < 5 / math.sqrt(3600)


# --- the whole edit -------------------------------------------------------------------------------

OBJECT = np.zeros((6, 8))
OBJECT[1:3, 4:7] = (
    1.0  # where the prompts make a difference: 6 of 48 cells, so the clamp at 3 means is 3/8 of it
)


class FakeModel:
    """The interface of `model.Model` with closed forms: latents are every other pixel halved, a
    prompt is one number, and the prediction is that number on OBJECT plus a part of x."""

    PROMPTS = {"": 0.0, "source": 1.0, "negative": -1.0, "a": 2.0, "b": 3.0, "c": -2.0, "d": 5.0}

    def __init__(self, field=None, **changes):
        self.configs = SimpleNamespace(scheduler=dataclasses.replace(SD21, **changes))
        self.field = field or (lambda x, timestep, state: x * 0.125 + state * OBJECT)
        self.calls, self.encoded, self.decoded, self.phase, self.progressed = [], 0, 0, None, []

    def encode_prompts(self, texts):
        assert len(set(texts)) == len(texts), "no prompt is encoded twice"
        return ms.Tensor(np.array([self.PROMPTS[t] for t in texts], np.float32).reshape(-1, 1, 1))

    def encode_image(self, image, tiling=None):
        self.encoded += 1
        mean = ms.Tensor(np.ascontiguousarray(image[:, :, ::2, ::2]))
        return mean, ops.zeros_like(mean) - 2.0

    def latents(self, moments, noise=None):
        mean, log_variance = moments
        return (
            mean if noise is None else mean + ops.exp(log_variance / 2) * ms.Tensor(noise)
        ) * 0.5

    def decode_latents(self, latents, tiling=None):
        self.decoded += 1
        return (latents.asnumpy() * 2).repeat(2, 2).repeat(2, 3)

    def predict(self, x, timestep, states):
        assert x.shape[0] == states.shape[0]
        self.calls.append((self.phase, timestep, states.asnumpy().reshape(-1).tolist()))
        return answer(self.field, x, timestep, states)

    def progress(self, phase, total):
        self.phase = phase
        record = [phase, total]
        self.progressed.append(record)
        return lambda step, timestep, x: record.append(step)

    @property
    def rows(self):
        return sum(len(states) for _, _, states in self.calls)


def picture(batch=1):
    return np.random.default_rng(5).uniform(-1, 1, (batch, 3, 12, 16)).astype(np.float32)


def edited(
    options, source="source", targets=("a",), batch=1, mask=None, seed=0, model=None, **more
):
    """Run `edit` on a random picture: (the model, the edits)."""
    model = model or FakeModel()
    draws = D.draw_noise(seed, batch, options.num_maps, (3, 6, 8), options.posterior_per_map)
    return model, D.edit(
        model,
        picture(batch),
        source,
        list(targets),
        options,
        draws,
        mask=mask,
        progress=model.progress,
        **more,
    )


SHORT = {"num_inference_steps": 10, "num_maps": 3}
BOTH = pytest.mark.parametrize("recipe", ("paper", "diffusers"))


@BOTH
def test_edit_finds_the_object_and_leaves_the_rest(recipe):
    options = D.RECIPES[recipe].replace(**SHORT)
    model, (result,) = edited(options, batch=2)
    assert np.array_equal(result.mask, np.broadcast_to(OBJECT, (2, 6, 8))) and not result.unchanged
    assert result.noise_map.shape == (2, 6, 8) and result.image.shape == (2, 3, 12, 16)
    assert result.inverted_latents.shape == (9, 2, 3, 6, 8) and result.decoded_latents.shape == (
        2,
        3,
        6,
        8,
    )
    outside = np.broadcast_to(OBJECT == 0, result.decoded_latents.shape)
    background = result.inverted_latents[0 if recipe == "paper" else 1]
    assert np.array_equal(result.decoded_latents[outside], background[outside])
    assert np.abs(result.decoded_latents - background)[~outside].min() > 1e-3
    assert np.array_equal(result.image[:, :, ::2, ::2], 2 * result.decoded_latents)
    assert model.encoded == 1 and model.decoded == 1


@BOTH
def test_edit_composes_the_phases(recipe):
    """Its latents are those of `invert` and `decode` called by hand with the right prompts."""
    options = D.RECIPES[recipe].replace(**SHORT)
    model, (result,) = edited(options, negative="negative")
    by_hand, value = FakeModel(), lambda name: ms.Tensor(
        np.full((1, 1, 1), FakeModel.PROMPTS[name], np.float32)
    )
    levels = S.levels(SD21, 10)
    start = ms.Tensor(result.inverted_latents[0])
    if recipe == "paper":
        trail = D.invert(by_hand.predict, start, levels, 8, value(""))
        decoded = D.decode(
            by_hand.predict,
            trail,
            ms.Tensor(result.mask),
            levels,
            value("a"),
            value("negative"),
            7.5,
        )
    else:
        trail = D.invert(
            by_hand.predict,
            start,
            levels,
            8,
            value("source"),
            value("negative"),
            7.5,
            inversion_timestep="destination",
        )
        decoded = D.decode(
            by_hand.predict,
            trail,
            ms.Tensor(result.mask),
            levels,
            value("a"),
            value("negative"),
            7.5,
            blend_level="noisier",
        )
    assert np.array_equal(result.inverted_latents, trail.asnumpy())
    assert np.array_equal(result.decoded_latents, decoded.asnumpy())


def test_each_phase_uses_its_own_prompts():
    """Paper: mask source and target, inversion the empty prompt, decoding negative and target.
    Public: as documented."""
    a, source, empty, negative = (FakeModel.PROMPTS[p] for p in ("a", "source", "", "negative"))
    for recipe, wanted in (
        ("paper", {"mask": [source, a], "inversion": [empty], "decoding": [negative, a]}),
        (
            "diffusers",
            {
                "mask": [source, negative, a, negative],
                "inversion": [negative, source],
                "decoding": [negative, a],
            },
        ),
    ):
        model, _ = edited(D.RECIPES[recipe].replace(**SHORT), negative="negative")
        for phase, prompts in wanted.items():
            assert {tuple(s) for p, _, s in model.calls if p == phase} == {tuple(prompts)}, (
                recipe,
                phase,
            )


def test_swapped_prompts_edit_in_the_other_direction():
    """The mask is symmetric in the prompts, the decoding is not."""
    options = PAPER.replace(**SHORT)
    (_, (there,)), (_, (back,)) = (
        edited(options, s, (t,)) for s, t in (("source", "a"), ("a", "source"))
    )
    assert np.array_equal(there.noise_map, back.noise_map) and np.array_equal(there.mask, back.mask)
    assert np.array_equal(there.inverted_latents, back.inverted_latents)
    inside = np.broadcast_to(OBJECT == 1, there.decoded_latents.shape)
    assert np.abs(there.decoded_latents - back.decoded_latents)[inside].min() > 0.1


@BOTH
def test_the_posterior_is_averaged_or_drawn(recipe):
    options = D.RECIPES[recipe].replace(**SHORT)
    first, second = (edited(options, seed=s)[1][0] for s in (0, 1))
    assert np.array_equal(first.inverted_latents[0], second.inverted_latents[0]) == (
        recipe == "paper"
    )
    draws, (result,) = D.draw_noise(3, 1, 3, (3, 6, 8), True), edited(options, seed=3)[1]
    image = picture()[:, :, ::2, ::2]
    wanted = image / 2 + (0 if recipe == "paper" else draws["posterior"] * math.exp(-1) / 2)
    assert np.abs(result.inverted_latents[0] - wanted).max() < 1e-6


def test_each_map_has_a_sample_of_its_own():
    """Seen through a prediction whose difference is |x_t|: the noise map averages sqrt(a) x0 +
    sqrt(1-a) noise by draws."""
    options = DIFFUSERS.replace(**SHORT, guidance_scale=1.0)
    model = FakeModel(lambda x, timestep, state: x * state)
    _, (result,) = edited(options, batch=2, model=model, only_mask=True)
    draws = D.draw_noise(0, 2, 3, (3, 6, 8), True)
    image = picture(2)[:, None, :, ::2, ::2]
    clean = image / 2 + draws["posterior_mask"] * math.exp(-1) / 2
    alpha = D.mask_level(options, SD21)[1]
    x = math.sqrt(alpha) * clean + math.sqrt(1 - alpha) * draws["maps"]
    assert np.abs(result.noise_map - np.abs(x).mean((1, 2))).max() < 1e-5


@pytest.mark.parametrize("targets", (("source",), ("source", "source")))
@BOTH
def test_identical_prompts_return_the_picture_without_asking_the_model(recipe, targets):
    with pytest.warns(UserWarning, match="source and target are the same prompt"):
        model, results = edited(D.RECIPES[recipe].replace(**SHORT), targets=targets)
    assert model.calls == [] and len(results) == len(targets)
    for result in results:
        assert (
            result.unchanged and not result.mask.any() and np.array_equal(result.image, picture())
        )
        assert result.inverted_latents is None and result.decoded_latents is None


@BOTH
def test_a_map_of_zeros_returns_the_picture(recipe):
    model = FakeModel(lambda x, timestep, state: x * 0.125)
    with pytest.warns(UserWarning, match="no place differs enough"):
        _, (result,) = edited(D.RECIPES[recipe].replace(**SHORT), model=model)
    assert (
        result.unchanged
        and not result.mask.any()
        and not result.noise_map.any()
        and not np.isnan(result.noise_map).any()
    )
    assert {phase for phase, _, _ in model.calls} == {"mask"}


def test_an_empty_given_mask_returns_the_picture():
    with pytest.warns(UserWarning, match="the given mask is empty"):
        model, (result,) = edited(PAPER.replace(**SHORT), mask=np.zeros((1, 6, 8)))
    assert result.unchanged and model.calls == []


def test_a_given_mask_is_used_as_it_is_and_not_looked_for():
    mask = np.random.default_rng(1).choice((0, 0.25, 1), (1, 6, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, (result,) = edited(PAPER.replace(**SHORT), mask=mask)
        edited(
            PAPER.replace(**SHORT), targets=("source",), mask=mask
        )  # the same prompt may be decoded anew
    assert np.array_equal(result.mask, mask) and result.noise_map is None
    assert {phase for phase, _, _ in model.calls} == {"inversion", "decoding"}


@BOTH
def test_several_targets_share_the_inversion_and_equal_separate_edits(recipe):
    options = D.RECIPES[recipe].replace(**SHORT)
    targets = ("a", "b", "a", "c")
    model, together = edited(options, targets=targets)
    inversions = [s for phase, _, s in model.calls if phase == "inversion"]
    assert len(inversions) == options.num_encode_steps and model.encoded == 1
    for target, result in zip(targets, together):
        (alone,) = edited(options, targets=(target,))[1]
        for field in dataclasses.fields(result):
            assert np.array_equal(getattr(result, field.name), getattr(alone, field.name)), (
                target,
                field.name,
            )


def test_one_target_that_changes_nothing_does_not_stop_the_others():
    with pytest.warns(UserWarning, match="'source'.*same prompt"):
        model, results = edited(PAPER.replace(**SHORT), targets=("source", "a"))
    assert [r.unchanged for r in results] == [True, False]
    assert np.array_equal(
        results[1].decoded_latents, edited(PAPER.replace(**SHORT))[1][0].decoded_latents
    )


def test_pictures_of_a_batch_do_not_see_each_other():
    """Each picture's draws and clamp are its own, so the first of two pictures is edited as if
    alone."""
    options = PAPER.replace(**SHORT)
    model = FakeModel(lambda x, timestep, state: x * 0.125 + state * x * x * 0.5)
    two, one = (
        edited(options, batch=2, model=model)[1][0],
        edited(options, batch=1, model=FakeModel(model.field))[1][0],
    )
    for name in ("noise_map", "mask", "decoded_latents", "image"):
        assert np.abs(getattr(two, name)[:1] - getattr(one, name)).max() < 1e-5, name


@BOTH
def test_map_batch_changes_nothing(recipe):
    results = [
        edited(D.RECIPES[recipe].replace(**SHORT, map_batch=m), batch=2)[1][0] for m in (1, 2, 3)
    ]
    for result in results[1:]:
        assert np.array_equal(result.noise_map, results[0].noise_map) and np.array_equal(
            result.image, results[0].image
        )


def test_only_mask_stops_after_the_masks():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, results = edited(PAPER.replace(**SHORT), targets=("a", "source"), only_mask=True)
    assert {phase for phase, _, _ in model.calls} == {"mask"} and model.decoded == 0
    assert [r.unchanged for r in results] == [False, True] and np.array_equal(
        results[0].mask[0], OBJECT
    )


def test_progress_counts_every_step_of_every_phase():
    model, _ = edited(PAPER.replace(**SHORT), targets=("a", "b"))
    steps = list(range(1, 9))
    assert model.progressed == [
        ["mask", 3, 1, 2, 3],
        ["inversion", 8, *steps],
        ["decoding", 8, *steps],
        ["decoding", 8, *steps],
    ]


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_edit_passes_the_prediction_type_on(kind):
    """To the inversion, whose first step follows the equation, and to the decoding, which equals
    one by hand."""
    model, (result,) = edited(PAPER.replace(**SHORT), model=FakeModel(prediction_type=kind))
    levels = S.levels(SD21, 10)
    first = result.inverted_latents[0] * np.float32(0.125)
    other_kind = [k for k in PREDICTION_TYPES if k != kind][0]
    wanted, other = (
        R.ddim_step(result.inverted_latents[0], first, *levels.alphas[:2], k)
        for k in (kind, other_kind)
    )
    assert (
        np.abs(result.inverted_latents[1] - wanted).max() < 1e-6 < np.abs(other - wanted).max() / 10
    )
    value = {
        name: ms.Tensor(np.full((1, 1, 1), FakeModel.PROMPTS[name], np.float32))
        for name in ("a", "")
    }
    decoded, other = (
        D.decode(
            FakeModel().predict,
            ms.Tensor(result.inverted_latents),
            ms.Tensor(result.mask),
            levels,
            value["a"],
            value[""],
            7.5,
            k,
        ).asnumpy()
        for k in (kind, other_kind)
    )
    assert np.array_equal(result.decoded_latents, decoded) and np.abs(other - decoded).max() > 0.1
