"""The noise maps of diffedit_core.edit: how differently two sentences are denoised."""

import math

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffedit_core import edit as stages
from diffedit_core import schedule
from diffedit_core.mask import channel_difference
from diffedit_core.options import RECIPES, Options
from diffedit_core.parts import Parts, Run, mask_of

from . import reference
from .closed_forms import Predictor, column, normal, states, wave_field
from .strategies import SD21

TARGETS = ((1, 2), (3, -1), (0.25, 0.5))


def difference(guidance=1.0, targets=((1, 2),), clean=None, noise=None, by=channel_difference):
    """`noise_difference` for two pictures: (the predictor, a list of arrays [2,n,h,w])."""
    predict = Predictor(wave_field)
    clean = normal(15, 2, 1, 3, 5, 7) if clean is None else clean
    noise = normal(16, 2, 5, 3, 5, 7) if noise is None else noise
    negative = states(-0.5, 0.125)
    found = stages.noise_difference(
        predict,
        ms.Tensor(clean),
        ms.Tensor(noise),
        481,
        0.28,
        (negative, states(0.25, 0.5)),
        [(negative, states(*target)) for target in targets],
        guidance,
        by,
    )
    return predict, [f.asnumpy() for f in found]


def maps(options, targets=((1, 2),), negative=(-0.5, 0.125), keep=None, clean=None):
    """`maps` of two pictures with 5 draws or as many as the options say."""
    predict = Predictor(wave_field)
    run = Run(predict, SD21, options, Parts.of(options))
    run = run if keep is None else run._replace(keep=keep)
    clean = normal(19, 2, 1, 3, 5, 7) if clean is None else clean
    noise = normal(20, 2, 8, 3, 5, 7)[:, : options.num_maps]
    pairs = [(states(*s), states(*negative)) for s in ((0.25, 0.5), *targets)]
    found = stages.maps(run, ms.Tensor(clean), ms.Tensor(noise), pairs[0], pairs[1:])
    return predict, [f.asnumpy() for f in found]


@pytest.mark.parametrize("per_map", (False, True))
@pytest.mark.parametrize("guidance", (1.0, 7.5))
def test_difference_agrees_with_the_definition(guidance, per_map):
    """Map by map and picture by picture."""
    clean, noise = normal(17, 2, 5 if per_map else 1, 3, 5, 7), normal(18, 2, 5, 3, 5, 7)
    source, target, negative = (0.25, 0.5), (1, 2), (-0.5, 0.125)
    wanted = np.empty((2, 5, 5, 7))
    for b in range(2):
        for m in range(5):
            x = math.sqrt(0.28) * clean[b, m if per_map else 0] + math.sqrt(0.72) * noise[b, m]
            at = [wave_field(x, 481, s[b]) for s in (source, target, negative)]
            eps = at if guidance == 1 else [at[2] + guidance * (e - at[2]) for e in at]
            wanted[b, m] = np.abs(eps[1] - eps[0]).mean(0)
    _, (found,) = difference(guidance, clean=clean, noise=noise)
    assert found.shape == wanted.shape and np.abs(found - wanted).max() < 1e-13


def test_difference_asks_for_its_rows_in_a_known_order():
    """All rows of the source, then of each target; with guidance each after its negative."""
    predict, _ = difference(targets=((1, 2), (3, 4)))
    ((timestep, x, asked),) = predict.calls
    five = [[value] * 5 for value in (0.25, 0.5, 1, 2, 3, 4)]
    assert timestep == 481 and asked.tolist() == sum(five, [])
    assert all(np.array_equal(part, x[:10]) for part in np.split(x, 3))
    predict, _ = difference(7.5)
    five = [[value] * 5 for value in (-0.5, 0.125, 0.25, 0.5, -0.5, 0.125, 1, 2)]
    assert predict.calls[0][2].tolist() == sum(five, [])


def test_several_targets_equal_separate_runs_and_share_the_source():
    together, found = difference(targets=TARGETS)
    for target, one in zip(TARGETS, found):
        assert np.array_equal(one, difference(targets=(target,))[1][0])
    assert not found[2].any(), "the source itself"
    assert together.rows == 2 * 5 * 4


@given(st.floats(0.25, 16))
def test_with_equal_negatives_the_guidance_only_scales_the_difference(guidance):
    (plain,), (guided,) = difference()[1], difference(guidance)[1]
    assert np.abs(guided - guidance * plain).max() < 1e-12


def test_another_difference_takes_the_place_of_ours():
    summed = difference(by=lambda target, source: (target - source).sum(-3))[1][0]
    assert summed.shape == (2, 5, 5, 7) and not np.array_equal(summed, difference()[1][0])


# --- maps -----------------------------------------------------------------------------------------


def test_a_map_is_the_definition_whole():
    options = Options(num_maps=4, mask_threshold=0.5, mask_clamp_ratio=2.0)
    _, (noise_map,) = maps(options)
    timestep, alpha = schedule.noise_level(SD21, 0.5)
    clean, noise = normal(19, 2, 1, 3, 5, 7), normal(20, 2, 8, 3, 5, 7)[:, :4]
    x = math.sqrt(alpha) * clean + math.sqrt(1 - alpha) * noise
    eps = [wave_field(x, timestep, column(*s)[:, None]) for s in ((1, 2), (0.25, 0.5))]
    wanted = reference.noise_map(*eps)
    assert np.abs(noise_map - wanted).max() < 1e-13
    mask = mask_of(ms.Tensor(noise_map), options).asnumpy()
    assert np.array_equal(mask, reference.normalise(wanted, 2.0) > 0.5) and 0 < mask.mean() < 1

    smooth = RECIPES["smooth"].replace(mask_threshold=0.95)
    found = mask_of(ms.Tensor(noise_map), smooth).asnumpy()
    smoothed = reference.smooth(wanted, smooth.mask_smoothing)
    again = reference.normalise(smoothed, 3.0, "image", smooth.mask_clamp_quantile)
    assert np.array_equal(found, again > smooth.mask_threshold)
    assert 0 < found.mean() < 1 and (found != mask).any()


def test_guidance_has_source_and_negative_exchanged_as_in_the_public_pipeline():
    """d = (1-g) d_positive + g d_negative: with one negative for all, |1-g| times the plain map."""
    for guidance in (0.0, 2.5, 7.5):
        options = Options(num_maps=3, guided_mask=True, guidance_scale=guidance)
        (guided,), (plain,) = maps(options)[1], maps(Options(num_maps=3))[1]
        assert np.abs(guided - abs(1 - guidance) * plain).max() < 1e-12


@given(st.integers(1, 9), st.sampled_from((1.0, 7.5)), st.booleans())
def test_a_map_does_not_depend_on_the_chunks(map_batch, guidance, per_map):
    options = Options(num_maps=5, guided_mask=True, guidance_scale=guidance)
    clean = normal(21, 2, 5 if per_map else 1, 3, 5, 7)
    predict, found = maps(options.replace(map_batch=map_batch), TARGETS, clean=clean)
    _, wanted = maps(options, TARGETS, clean=clean)
    assert all(np.array_equal(f, w) for f, w in zip(found, wanted))
    assert len(predict.calls) == -(-5 // map_batch)


def test_maps_nest_in_their_number():
    """With n of n + k maps already there, only k are computed, and the average is that of all."""
    kept = {}

    def keep(stage, key, function):
        if key not in kept:
            kept[key] = function()
        return kept[key]

    first, _ = maps(Options(num_maps=3), TARGETS, keep=keep)
    more, found = maps(Options(num_maps=8), TARGETS, keep=keep)
    fewer, _ = maps(Options(num_maps=2), TARGETS, keep=keep)
    assert (len(first.calls), len(more.calls), len(fewer.calls)) == (3, 5, 0)
    _, wanted = maps(Options(num_maps=8), TARGETS)
    assert all(np.array_equal(f, w) for f, w in zip(found, wanted))


@pytest.mark.parametrize("options", (Options(), Options(mask_on_grid=True)))
def test_maps_ask_at_the_level_that_the_options_name(options):
    predict, _ = maps(options.replace(num_maps=2))
    assert set(predict.timesteps) == {481 if options.mask_on_grid else 500}
