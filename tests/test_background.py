"""diffedit_core.background: the weight and the ways to finish a picture, as laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from diffedit_core import background as B
from diffedit_core import results
from diffedit_core.options import Options, RECIPES

values = st.floats(0, 1, width=32)
masks = hnp.arrays(np.float32, (2, 7, 9), elements=st.one_of(st.sampled_from((0.0, 1.0)), values))
pictures = hnp.arrays(np.float32, (2, 3, 7, 9), elements=st.floats(-1, 1, width=32))
pixels = st.integers(0, 4)
KINDS = ("restored", "pasted")


def by_definition(mask, grow, feather):
    """W of one mask, pixel by pixel from the definition."""
    height, width = mask.shape
    found = np.zeros_like(mask)
    for i in range(height):
        for j in range(width):
            grown = []
            for k in range(max(1, feather)):
                n = grow + k
                rows = slice(max(0, i - n), i + n + 1)
                columns = slice(max(0, j - n), j + n + 1)
                grown.append(mask[rows, columns].max())
            found[i, j] = np.mean(grown)
    return found


@given(masks, pixels, pixels)
def test_weight_agrees_with_its_definition(mask, grow, feather):
    w = B.weight(mask, grow, feather)
    assert w.dtype == np.float32 and w.shape == mask.shape
    for one, wanted in zip(w, mask):
        assert np.abs(one - by_definition(wanted, grow, feather)).max() < 1e-6


@given(masks, masks, pixels, pixels)
def test_weight_grows_with_the_mask_and_is_at_least_it(mask, other, grow, feather):
    w = B.weight(mask, grow, feather)
    assert (w >= mask - 1e-6).all() and (w <= 1).all()
    assert (B.weight(np.maximum(mask, other), grow, feather) >= w - 1e-6).all()
    assert np.array_equal(B.weight(mask[:1], grow, feather), w[:1]), "alone as in the batch"


@given(masks, pixels, pixels, st.sampled_from(("rows", "columns", "both")))
def test_weight_commutes_with_mirroring(mask, grow, feather, axes):
    flip = {"rows": (1,), "columns": (2,), "both": (1, 2)}[axes]
    mirrored = B.weight(np.flip(mask, flip), grow, feather)
    assert np.array_equal(mirrored, np.flip(B.weight(mask, grow, feather), flip))


def test_weight_of_one_pixel():
    mask = np.zeros((1, 1, 12), np.float32)
    mask[..., 2] = 1
    assert B.weight(mask, 2, 4)[0, 0].tolist() == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0, 0, 0]


@given(masks, pictures, pictures, pictures, st.sampled_from(KINDS), pixels, pixels)
def test_the_source_where_w_is_0_and_the_decoding_where_it_is_1(
    mask, decoded, source, roundtrip, kind, grow, feather
):
    w = B.weight(mask, grow, feather)[:, None]
    found = B.finished(kind, decoded, source, roundtrip, w)
    outside, inside = (np.broadcast_to(w == v, source.shape) for v in (0, 1))
    assert np.array_equal(found[outside], source[outside])
    assert np.array_equal(found[inside], decoded[inside])
    assert np.array_equal(B.finished("decoded", decoded, source, None, w), decoded)


@pytest.mark.parametrize("kind", KINDS)
def test_the_source_comes_back_with_values_that_rounding_would_lose(kind):
    source = np.array([1e-8, -0.3, 0], np.float32)[:, None, None]
    roundtrip = np.array([1, 0.7, 1e-8], np.float32)[:, None, None]
    assert (roundtrip + (source - roundtrip) != source).any()
    found = B.finished(kind, roundtrip, source, roundtrip, np.zeros((1, 1, 1), np.float32))
    assert np.array_equal(found, source)


@given(masks, pictures, pictures, pictures)
def test_restored_is_its_equation(mask, decoded, source, roundtrip):
    """decoded + (1-W) (source - roundtrip) from W = 1/4 up; below, what differs from the round trip
    fades."""
    w = mask[:, None]
    found = B.finished("restored", decoded, source, roundtrip, w)
    wanted = decoded + (1 - w) * (source - roundtrip)
    part = np.broadcast_to(w >= 0.25, wanted.shape)
    assert np.abs(found - wanted)[part].max(initial=0) < 1e-5
    low = np.broadcast_to((w > 0) & (w < 0.25), wanted.shape)
    faded = wanted - (1 - 4 * w) * (decoded - roundtrip)
    assert np.abs(found - faded)[low].max(initial=0) < 1e-5


@given(masks, pictures, pictures)
def test_restored_is_pasted_where_the_decoder_is_local(mask, source, roundtrip):
    """That is where the decoding equals the round trip."""
    w = mask[:, None]
    pasted = B.finished("pasted", roundtrip, source, None, w)
    assert np.abs(B.finished("restored", roundtrip, source, roundtrip, w) - pasted).max() < 1e-5


@given(masks, pictures, pictures, pictures, st.sampled_from(KINDS))
def test_it_is_continuous_in_the_weight(mask, decoded, source, roundtrip, kind):
    """A step of 1e-3 in W moves no pixel by more than 17e-3 of the largest difference, 2."""
    w = mask[:, None]
    near = np.clip(w + np.float32(1e-3), 0, 1)
    found, moved = (B.finished(kind, decoded, source, roundtrip, v) for v in (w, near))
    assert np.abs(found - moved).max() <= 1e-3 * (2 + 4 * 2 + 2) + 1e-5


@pytest.mark.parametrize("recipe, kind", [("paper", "restored"), ("smooth", "restored"),
                                          ("diffusers", "decoded")])  # fmt: skip
def test_the_recipes(recipe, kind):
    assert RECIPES[recipe].background == kind


def test_an_edit_is_finished_with_one_round_trip_for_all_targets_and_none_where_none_is_needed():
    """An edit's picture is `finished`; the round trip is asked for by "restored" only, and only
    where some pixel is not edited."""
    rng = np.random.default_rng(2)
    image, decoded, lost = rng.uniform(-1, 1, (3, 2, 3, 12, 16)).astype(np.float32)
    mask = np.zeros((2, 6, 8), np.float32)
    mask[0, 2:4, 3:5] = 1
    for kind, wanted in (("restored", 1), ("pasted", 0), ("decoded", 0)):
        asked = []
        options = Options(background=kind, grow=1, feather=1)
        found = results.edited(
            options, image, None, mask, [], None, decoded, lambda: asked.append(1) or lost
        )
        assert len(asked) == wanted
        w = results.pixel_weight(options, mask, image.shape)
        assert np.array_equal(found.image[0], B.finished(kind, decoded, image, lost, w)[0])
        assert np.array_equal(found.image[1], image[1]), "a row with an empty mask is the input"
        assert np.array_equal(found.decoded, decoded)
    whole = results.edited(Options(), image, None, mask * 0 + 1, [], None, decoded, None)
    assert np.array_equal(whole.image, decoded) and whole.roundtrip is None
