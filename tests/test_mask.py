"""diffedit_core.mask: laws of the noise map, its normalisation, the threshold and the blend."""

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffedit_core import mask as masks
from diffedit_core.schedule import guide

from . import reference as R
from .strategies import latents_like, noise_maps, seeds

clamp_ratios = st.floats(0.25, 8, width=32)  # numbers that a float32 constant holds
ways = st.sampled_from(("image", "batch"))
quantiles = st.one_of(
    st.just(0.0), st.floats(0.05, 1), st.sampled_from((0.5, 0.98, 1.0))
)  # 0: the mean decides
sigmas = st.floats(0.1, 5)


def normalise(maps, *args):
    return masks.normalise(ms.Tensor(maps), *args).asnumpy()


def tolerance(array):
    """The mean of up to a hundred values, a product, a minimum and a quotient."""
    return 64 * np.finfo(array.dtype).eps


# --- normalise ------------------------------------------------------------------------------------


@given(noise_maps(), clamp_ratios, ways, quantiles)
def test_normalise_agrees_with_the_definition(maps, ratio, over, quantile):
    result = normalise(maps, ratio, over, quantile)
    assert result.dtype == maps.dtype and result.shape == maps.shape
    exact = tolerance(
        maps.astype(np.float32) if quantile else maps
    )  # MindSpore sorts float64 as float32
    assert np.abs(result - R.normalise(maps, ratio, over, quantile)).max() <= exact


@given(noise_maps(), clamp_ratios, ways, quantiles)
def test_normalise_is_bounded(maps, ratio, over, quantile):
    result = normalise(maps, ratio, over, quantile)
    assert np.isfinite(result).all() and result.min() >= 0 and result.max() <= 1


@given(
    noise_maps(),
    clamp_ratios,
    ways,
    st.sampled_from((2.0**-10, 0.125, 2.0, 1024.0)),
    st.floats(0.1, 9),
)
def test_normalise_is_invariant_to_scale(maps, ratio, over, power, factor):
    assert np.array_equal(
        normalise(maps * maps.dtype.type(power), ratio, over), normalise(maps, ratio, over)
    )
    scaled = normalise(maps * maps.dtype.type(factor), ratio, over)
    assert np.abs(scaled - normalise(maps, ratio, over)).max() <= tolerance(maps)


@given(seeds, st.sampled_from((-6.5, 0.5, 3.0, 7.5)), clamp_ratios, ways, quantiles)
def test_guidance_away_from_one_sentence_scales_the_map_and_no_more(seed, scale, ratio, over, q):
    draws = np.random.default_rng(seed).normal(size=(3, 2, 4, 5, 7)).astype(np.float32)
    negative, source, target = map(ms.Tensor, draws)
    guided = (guide(negative, each, scale) for each in (target, source))
    plain = masks.channel_difference(target, source).asnumpy()
    difference = masks.channel_difference(*guided).asnumpy()
    assert np.abs(difference - abs(scale) * plain).max() < 1e-5 * abs(scale)
    change = normalise(difference, ratio, over, q) - normalise(plain, ratio, over, q)
    assert np.abs(change).max() < 1e-4


@given(noise_maps(), st.floats(0.05, 1), ways)
def test_the_clamp_at_a_quantile_does_not_look_at_the_ratio_nor_at_the_largest_cells(maps, q, over):
    assert np.array_equal(normalise(maps, 1.0, over, q), normalise(maps, 7.0, over, q))
    rows = maps.reshape(len(maps) if over == "image" else 1, -1)
    louder = np.where(
        rows > np.quantile(rows, q, axis=1, keepdims=True, method="higher"), rows * 3, rows
    ).reshape(maps.shape)
    assert np.abs(
        normalise(louder, 1.0, over, q) - normalise(maps, 1.0, over, q)
    ).max() <= tolerance(maps.astype(np.float32))


@given(noise_maps(), clamp_ratios, ways, quantiles)
def test_normalise_keeps_the_order_within_a_map(maps, ratio, over, quantile):
    result = normalise(maps, ratio, over, quantile)
    for before, after in zip(maps, result):
        order = np.argsort(before, axis=None)
        assert (np.diff(after.reshape(-1)[order]) >= 0).all()


@given(noise_maps(), clamp_ratios, ways)
def test_clamped_cells_are_exactly_one(maps, ratio, over):
    """Every cell above its clamp, with a margin for rounding, becomes 1; without a clamp the
    extremes would stand out."""
    clamp = ratio * R.wide(maps).mean((1, 2) if over == "image" else None, keepdims=True)
    assert (normalise(maps, ratio, over)[(maps > clamp * 1.0001) & (clamp > 0)] == 1).all()


@given(noise_maps(), clamp_ratios, quantiles)
def test_over_image_each_map_is_by_itself(maps, ratio, quantile):
    alone = np.concatenate([normalise(m[None], ratio, "image", quantile) for m in maps])
    assert np.abs(normalise(maps, ratio, "image", quantile) - alone).max() <= tolerance(maps)


@pytest.mark.parametrize("quantile", (0.0, 0.9))
def test_batch_depends_on_the_rest_and_image_does_not(quantile):
    maps = np.random.default_rng(3).random((3, 5, 7))
    other = maps.copy()
    other[2] *= 100
    before, after = [normalise(m, 3.0, "image", quantile)[:2] for m in (maps, other)]
    assert np.array_equal(before, after)
    before, after = [normalise(m, 3.0, "batch", quantile)[:2] for m in (maps, other)]
    assert np.abs(before - after).max() > 0.5
    assert np.array_equal(
        normalise(maps, 3.0), normalise(maps, 3.0, "image")
    ), "each image by itself is the default"


@given(ways, st.sampled_from((np.float32, np.float64)), clamp_ratios)
def test_a_zero_map_stays_zero(over, dtype, ratio):
    maps = np.zeros((3, 5, 7), dtype)
    assert not normalise(maps, ratio, over).any()
    maps[1] = 2.5
    result = normalise(maps, ratio, over)
    assert not result[[0, 2]].any() and np.isfinite(result).all() and result[1].min() > 0


def test_one_loud_cell_does_not_hide_the_others():
    """The reason for the clamp: without it the other cells of the object would be far below the
    threshold."""
    maps = np.full((1, 9, 11), 0.01)
    maps[0, 2:5, 3:6] = 1.0
    maps[0, 3, 4] = 50.0
    mask = masks.threshold(masks.normalise(ms.Tensor(maps), 3.0), 0.5).asnumpy()
    assert mask[0, 2:5, 3:6].sum() in (
        1,
        9,
    )  # the clamp is at 3 times the mean, 1.7: the spike is clamped to it
    assert masks.threshold(ms.Tensor(maps / maps.max()), 0.5).asnumpy().sum() == 1
    assert mask.sum() == mask[0, 2:5, 3:6].sum() == 9


# --- smooth ---------------------------------------------------------------------------------------


def smooth(maps, sigma):
    return masks.smooth(ms.Tensor(maps), sigma).asnumpy()


def rounding(maps):
    """What two products of up to 11 terms each may lose of the map's largest number."""
    return 64 * np.finfo(maps.dtype).eps * max(maps.max(), np.finfo(maps.dtype).tiny)


@given(noise_maps(), sigmas)
def test_smooth_agrees_with_the_definition(maps, sigma):
    result = smooth(maps, sigma)
    assert result.dtype == maps.dtype and result.shape == maps.shape
    assert np.abs(result - R.smooth(maps, sigma)).max() <= rounding(maps)
    assert np.array_equal(smooth(maps, 0), maps) and np.array_equal(smooth(maps, 1e-300), maps)


@given(noise_maps(), sigmas, st.floats(0, 9, width=32))
def test_smooth_is_linear_and_leaves_constants(maps, sigma, value):
    ramp = np.broadcast_to(np.arange(maps.shape[2], dtype=maps.dtype), maps.shape)
    together = smooth(maps + maps.dtype.type(value) * ramp, sigma)
    apart = smooth(maps, sigma) + maps.dtype.type(value) * smooth(ramp, sigma)
    assert np.abs(together - apart).max() <= 2 * rounding(maps + 9 * ramp)
    constant = np.full_like(maps, value)
    assert np.abs(smooth(constant, sigma) - constant).max() <= rounding(constant)


@given(noise_maps(), sigmas, seeds)
def test_smooth_is_monotonic_and_bounded(maps, sigma, seed):
    more = maps + maps.dtype.type(maps.max()) * np.random.default_rng(seed).random(
        maps.shape
    ).astype(maps.dtype)
    assert (smooth(more, sigma) - smooth(maps, sigma)).min() >= -rounding(more)
    result, slack = smooth(maps, sigma), rounding(maps)
    assert (result.max((1, 2)) <= maps.max((1, 2)) + slack).all() and (
        result.min((1, 2)) >= maps.min((1, 2)) - slack
    ).all()


@given(noise_maps(), sigmas)
def test_smooth_commutes_with_mirrors_and_transposes_and_knows_each_map_by_itself(maps, sigma):
    result, slack = smooth(maps, sigma), rounding(maps)
    for change in (
        lambda m: m[:, ::-1],
        lambda m: m[:, :, ::-1],
        lambda m: m.transpose(0, 2, 1),
        lambda m: m[::-1],
    ):
        assert (
            np.abs(smooth(np.ascontiguousarray(change(maps)), sigma) - change(result)).max()
            <= slack
        )
    alone = np.concatenate([smooth(m[None], sigma) for m in maps])
    assert np.abs(alone - result).max() <= slack


# --- threshold ------------------------------------------------------------------------------------


@given(noise_maps(), st.floats(0, 1, exclude_max=True))
def test_threshold_is_one_above_and_zero_up_to_it(maps, level):
    maps = maps / max(maps.max(), 1)
    result = masks.threshold(ms.Tensor(maps), level).asnumpy()
    away = np.abs(maps - level) > 1e-6
    assert result.dtype == maps.dtype and set(np.unique(result)) <= {0, 1}
    assert np.array_equal(result[away], (maps > level)[away])


def test_threshold_itself_is_outside():
    values = np.array([[[0.0, 0.25, 0.5, 0.75, 1.0]]])
    assert masks.threshold(ms.Tensor(values), 0.5).asnumpy().tolist() == [[[0, 0, 0, 1, 1]]]
    assert masks.threshold(ms.Tensor(values), 0.0).asnumpy().tolist() == [[[0, 1, 1, 1, 1]]]


@given(noise_maps(), st.floats(0, 0.9), st.floats(0, 0.09))
def test_a_higher_threshold_gives_a_smaller_mask(maps, level, more):
    normalised = masks.normalise(ms.Tensor(maps), 3.0)
    low, high = (masks.threshold(normalised, t).asnumpy() for t in (level, level + more))
    assert (high <= low).all()


@given(noise_maps(), clamp_ratios, st.floats(0.02, 0.98), st.floats(0.02, 0.98))
def test_only_the_product_of_clamp_ratio_and_threshold_matters(maps, ratio, level, other):
    """Below 1, the mask is where the map exceeds clamp_ratio x threshold x its mean, however the
    product is divided."""
    cut = ratio * level * maps.astype(np.float64).mean((1, 2), keepdims=True)
    away = np.abs(maps - cut) > 2 * tolerance(maps) * cut
    for r, t in ((ratio, level), (ratio * level / other, other)):
        mask = masks.threshold(masks.normalise(ms.Tensor(maps), r), t).asnumpy()
        assert np.array_equal(mask[away], (maps > cut)[away])


@given(noise_maps(), clamp_ratios, st.floats(0.02, 0.98))
def test_no_mask_covers_more_than_markovs_share(maps, ratio, level):
    """At most 1 / (clamp_ratio x threshold) of a map exceeds that multiple of its mean: 2/3 of a
    picture by default."""
    mask = masks.threshold(masks.normalise(ms.Tensor(maps), ratio), level).asnumpy()
    assert (mask.mean((1, 2)) <= (1 + tolerance(maps)) / (ratio * level)).all()


# --- blend ----------------------------------------------------------------------------------------


@given(latents_like(), seeds)
def test_blend_is_exact_at_both_ends_and_linear_between(pair, seed):
    edited, background = pair
    batch, _, height, width = edited.shape
    mask = (
        np.random.default_rng(seed)
        .choice((0, 0.25, 0.5, 1), (batch, 1, height, width))
        .astype(edited.dtype)
    )
    result = masks.blend(*map(ms.Tensor, (edited, background, mask))).asnumpy()
    everywhere = np.broadcast_to(mask, edited.shape)
    assert result.dtype == edited.dtype
    assert np.array_equal(result[everywhere == 0], background[everywhere == 0])
    assert np.array_equal(result[everywhere == 1], edited[everywhere == 1])
    wanted = R.wide(mask) * edited + (1 - R.wide(mask)) * background
    error = 4 * np.finfo(edited.dtype).eps * (np.abs(R.wide(edited)) + np.abs(R.wide(background)))
    assert (np.abs(result - wanted) <= error).all()


@pytest.mark.parametrize("dtype", (np.float16, np.float32, np.float64))
def test_blend_is_exact_for_the_largest_and_smallest_numbers(dtype):
    info = np.finfo(dtype)
    values = np.array(
        [info.max, -info.max, info.tiny, -info.tiny, 0, 1 + info.eps, 1 / 3, -1e4], dtype
    )
    edited, background = (a.reshape(1, 1, 8, 8) for a in np.meshgrid(values, values))
    for value, wanted in ((0, background), (1, edited)):
        mask = np.full((1, 1, 8, 8), value, dtype)
        assert np.array_equal(
            masks.blend(*map(ms.Tensor, (edited, background, mask))).asnumpy(), wanted
        )


def test_blend_outside_the_mask_ignores_what_the_model_made_of_it():
    edited = np.full((2, 3, 5, 7), np.nan, np.float32)
    background = np.random.default_rng(0).standard_normal((2, 3, 5, 7)).astype(np.float32)
    mask = np.zeros((2, 1, 5, 7), np.float32)
    assert np.array_equal(
        masks.blend(*map(ms.Tensor, (edited, background, mask))).asnumpy(), background
    )


# --- difference -----------------------------------------------------------------------------------


@given(latents_like())
def test_difference_agrees_with_the_definition_and_is_symmetric(pair):
    a, b = map(ms.Tensor, pair)
    result = masks.channel_difference(a, b).asnumpy()
    wanted = np.abs(R.wide(pair[0]) - R.wide(pair[1])).mean(1)
    assert result.shape == wanted.shape and result.dtype == pair[0].dtype
    error = (
        8 * np.finfo(result.dtype).eps * (np.abs(R.wide(pair[0])) + np.abs(R.wide(pair[1]))).mean(1)
    )
    assert (np.abs(result - wanted) <= error).all()
    assert np.array_equal(result, masks.channel_difference(b, a).asnumpy())
    assert not masks.channel_difference(a, a).asnumpy().any()


@given(latents_like(3), st.sampled_from((-2.0, -0.3, 0.5, 7.0)))
def test_difference_ignores_a_common_term_and_follows_a_factor(arrays, factor):
    """So the raw predictions serve as well as eps: v = (eps - sqrt(1-a) x) / sqrt(a) at one x."""
    a, b, common = R.wide(*arrays)
    plain = masks.channel_difference(ms.Tensor(a), ms.Tensor(b)).asnumpy()
    moved = masks.channel_difference(
        ms.Tensor(factor * a + common), ms.Tensor(factor * b + common)
    ).asnumpy()
    error = 1e-14 * (abs(factor) * (np.abs(a) + np.abs(b)) + np.abs(common)).mean(1)
    assert (np.abs(moved - abs(factor) * plain) <= error).all()


def test_eps_and_v_give_the_same_mask():
    rng = np.random.default_rng(5)
    x, target, source = rng.standard_normal((3, 2, 3, 7, 9))
    alpha = 0.28
    by_eps, by_v = (
        masks.threshold(
            masks.normalise(masks.channel_difference(*map(ms.Tensor, pair)), 3.0), 0.5
        ).asnumpy()
        for pair in (
            (target, source),
            [(eps - np.sqrt(1 - alpha) * x) / np.sqrt(alpha) for eps in (target, source)],
        )
    )
    assert np.array_equal(by_eps, by_v) and 0 < by_eps.mean() < 1


def test_half_precision_is_widened_first():
    """60000 + 60000 does not fit into fp16, and neither does the sum over channels."""
    large = np.full((2, 5, 3, 7), 60000, np.float16)
    result = masks.channel_difference(ms.Tensor(large), ms.Tensor(-large)).asnumpy()
    assert result.dtype == np.float32 and np.array_equal(
        result, np.full((2, 3, 7), 2 * np.float32(large[0, 0, 0, 0]))
    )


def test_average_is_over_the_draws():
    predictions = np.random.default_rng(1).standard_normal((2, 3, 5, 7, 4, 9))
    difference = masks.channel_difference(*map(ms.Tensor, predictions))
    assert difference.shape == (3, 5, 4, 9)
    result = masks.average_maps(difference).asnumpy()
    assert np.abs(result - R.noise_map(*predictions)).max() < 1e-14


# --- sums in a fixed order ------------------------------------------------------------------------


@given(st.integers(1, 70), st.integers(1, 3), seeds)
def test_total_is_the_sum_by_halves_whatever_stands_beside_it(count, width, seed):
    """numpy's float32 additions in the same order give the same bits, with zeros up to a power of
    two."""
    values = np.random.default_rng(seed).lognormal(0, 9, (2, count, width)).astype(np.float32)
    wanted = np.zeros((2, 1 << (count - 1).bit_length(), width), np.float32)
    wanted[:, :count] = values
    while wanted.shape[1] > 1:
        half = wanted.shape[1] // 2
        wanted = wanted[:, :half] + wanted[:, half:]
    found = masks.total(ms.Tensor(values)).asnumpy()
    assert np.array_equal(found, wanted[:, 0])
    assert np.array_equal(masks.total(ms.Tensor(values[:1, :, :1])).asnumpy(), found[:1, :1])
