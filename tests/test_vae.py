"""diffedit_core.vae: the laws of tiling and sampling, and the shipped autoencoder on the sample
picture."""

from functools import lru_cache
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

import diffedit_core
from diffedit_core import vae
from diffedit_core.model import Model
from diffedit_core.vae import Tiling

PICTURE = Path(diffedit_core.__file__).parent / "assets" / "bowl_of_apples.png"
sizes = st.integers(1, 70)


@lru_cache(maxsize=None)
def shipped():
    """The model that comes with the package."""
    return Model.load()


def sample_picture():
    """[1,3,H,W] in [-1,1]."""
    pixels = np.asarray(Image.open(PICTURE).convert("RGB"), np.float32) / 127.5 - 1
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def large_picture(mode):
    """One and a half times the sample picture's height and width: repeated ("wrap"), or beside its
    mirror images ("symmetric")."""
    height, width = sample_picture().shape[2:]
    return np.pad(sample_picture(), ((0, 0), (0, 0), (0, height // 2), (0, width // 2)), mode)


def grow(x, factor):
    return x.repeat(factor, 2).repeat(factor, 3)


def shrink(x, factor):
    batch, channels, height, width = x.shape
    return x.reshape(batch, channels, height // factor, factor, width // factor, factor).mean(
        (3, 5)
    )


# ---- tiles ---------------------------------------------------------------------------------------


@given(sizes, sizes, st.integers(0, 69))
def test_tiles_cover_everything_and_overlap(size, tile, overlap):
    assume(overlap < tile)
    tile = min(tile, size)  # as the caller does
    assume(overlap < tile or tile == size)
    tops = vae.starts(size, tile, overlap)
    assert tops[0] == 0 and tops[-1] + tile == size
    shared = [a + tile - b for a, b in zip(tops, tops[1:])]
    assert all(overlap <= s < tile for s in shared)
    assert max(shared, default=0) - min(shared, default=0) <= 1  # evenly
    if len(tops) > 1:  # one tile fewer would not do
        assert size > tile + (len(tops) - 2) * (tile - overlap)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 23),
    st.integers(1, 23),
    st.integers(1, 9),
    st.integers(0, 8),
    st.integers(1, 3),
)
def test_tiling_a_function_of_single_cells_is_exact(seed, height, width, tile, overlap, factor):
    """Decoding by repetition and encoding by averaging see no neighbours, so that tiles must not
    show."""
    assume(overlap < tile)
    latents = np.random.default_rng(seed).standard_normal((2, 3, height, width)).astype(np.float32)
    calls = []

    def decode(x):
        calls.append(x.shape)
        return grow(x, factor) * 2 + 1

    image = vae.decode_tiled(decode, latents, factor, Tiling(tile, overlap))
    np.testing.assert_allclose(image, grow(latents, factor) * 2 + 1, atol=1e-5)
    assert set(calls) == {(2, 3, min(tile, height), min(tile, width))}  # one graph serves all
    mean, other = vae.encode_tiled(
        lambda x: (shrink(x, factor), -3 * shrink(x, factor)), image, factor, Tiling(tile, overlap)
    )
    np.testing.assert_allclose(mean, latents * 2 + 1, atol=1e-5)
    np.testing.assert_allclose(other, -3 * (latents * 2 + 1), atol=1e-5)


@given(st.integers(1, 40), st.integers(1, 20))
def test_weights_are_positive_symmetric_and_rise_to_one(size, overlap):
    weights = vae._ramp(size, overlap)
    assert (weights > 0).all() and weights.max() <= 1 and np.array_equal(weights, weights[::-1])
    assert (np.diff(weights[: (size + 1) // 2]) >= 0).all()
    assert (weights[overlap : size - overlap] == 1).all()


def test_a_tile_as_large_as_the_picture_is_the_whole():
    """Bit for bit up to a weight divided by itself, in one call."""
    latents, calls = np.random.default_rng(0).standard_normal((1, 4, 5, 7)).astype(np.float32), []

    def decode(x):
        calls.append(x)
        return grow(np.cumsum(x, 3), 2)  # sees all of a row

    whole = decode(latents)
    for tiling in (None, Tiling(7, 2), Tiling(48, 12)):
        calls.clear()
        np.testing.assert_allclose(vae.decode_tiled(decode, latents, 2, tiling), whole, rtol=1e-6)
        assert len(calls) == 1
    assert vae.decode_tiled(decode, latents, 2, Tiling(4, 2)).shape == whole.shape
    assert (
        np.abs(vae.decode_tiled(decode, latents, 2, Tiling(4, 2)) - whole).max() > 0.1
    )  # such a function shows tiles


def test_overlap_blends_linearly():
    """Two tiles that decode to 0 and to 1 meet in a straight ramp."""
    values = iter((0.0, 1.0))
    row = vae.decode_tiled(
        lambda x: np.full((1, 1, 2, 16), next(values), np.float32),
        np.zeros((1, 1, 1, 12), np.float32),
        2,
        Tiling(8, 4),
    )[0, 0, 0]
    np.testing.assert_allclose(
        row, [0] * 8 + [(i + 0.5) / 8 for i in range(8)] + [1] * 8, atol=1e-6
    )


# ---- sampling ------------------------------------------------------------------------------------


def draw(mean, log_variance, noise):
    return vae.sample(
        *(ms.Tensor(np.asarray(x, np.float32)) for x in (mean, log_variance, noise))
    ).asnumpy()


def test_sample_without_noise_is_the_mean():
    mean, log_variance = (
        np.random.default_rng(0).standard_normal((2, 2, 4, 3, 5)).astype(np.float32)
    )
    assert np.array_equal(draw(mean, log_variance, np.zeros_like(mean)), mean)


def test_sample_is_linear_in_the_noise_with_the_standard_deviation():
    rng = np.random.default_rng(1)
    mean, log_variance, noise = rng.standard_normal((3, 2, 4, 3, 5)).astype(np.float32)
    np.testing.assert_allclose(
        draw(mean, log_variance, noise), mean + np.sqrt(np.exp(log_variance)) * noise, atol=1e-5
    )
    wider = draw(mean, log_variance + np.log(9), noise)
    np.testing.assert_allclose(
        wider - mean, 3 * (draw(mean, log_variance, noise) - mean), atol=1e-4
    )


@pytest.mark.parametrize("variance", [0.01, 1.0, 7.0])
def test_samples_have_the_variance(variance):
    noise = np.random.default_rng(2).standard_normal((1, 4, 64, 64))
    z = draw(np.full(noise.shape, 2.0), np.full(noise.shape, np.log(variance)), noise)
    assert abs(z.mean() - 2) < 5 * np.sqrt(variance / z.size)
    assert abs(z.var() / variance - 1) < 5 * np.sqrt(2 / z.size)


# ---- the shipped autoencoder ---------------------------------------------------------------------


def test_the_sample_picture_survives():
    picture = sample_picture()
    decoded = shipped().decode_latents(shipped().latents(shipped().encode_image(picture)))
    assert decoded.shape == picture.shape
    assert (
        10 * np.log10(4 / np.mean((np.clip(decoded, -1, 1) - picture) ** 2)) > 20
    )  # PSNR; the range is 2


def seams(size, tile, overlap, factor):
    """Pixel columns at which a tile begins or ends inside the picture."""
    tops = vae.starts(size, tile, overlap)
    return sorted({t * factor for t in tops[1:]} | {(t + tile) * factor for t in tops[:-1]})


def prominence(difference, axis, border):
    """At each border the mean step of the difference image, over the median of the steps up to 8
    pixels beside it."""
    steps = np.abs(np.diff(difference, axis=axis)).mean(tuple(a for a in range(4) if a != axis))
    return [steps[b - 1] / np.median(np.delete(steps[b - 9 : b + 8], 8)) for b in border]


TILING = Tiling(32, 8)  # a tile has the size of the pictures that the model makes


def test_tiling_is_near_the_untiled():
    """In encoding and decoding; not equal, since attention and group norms see a tile instead of
    the picture."""
    model, picture = shipped(), large_picture("wrap")
    latents, tiled = (model.encode_image(picture, tiling)[0].asnumpy() for tiling in (None, TILING))
    assert 0 < np.sqrt(np.mean((tiled - latents) ** 2)) < 0.03 * latents.std()  # 0.015 is measured
    latents = ms.Tensor(latents) * model.configs.vae.scaling_factor
    whole, tiled = model.decode_latents(latents), model.decode_latents(latents, TILING)
    assert 0 < np.sqrt(np.mean((tiled - whole) ** 2)) < 0.01  # of [-1,1]; 0.005 is measured
    assert np.abs(tiled - whole).max() < 0.3


def test_tiled_decoding_has_no_visible_seam(monkeypatch):
    """The difference to the untiled picture steps no more across a tile's border than just beside
    it.

    Without the weights that blend the tiles it does, by a factor of 7 to 15: the measure would see
    a seam.
    """
    model, factor = shipped(), shipped().configs.vae.factor
    # the table's boards end every 64 rows: not at a border now
    picture = np.roll(large_picture("symmetric"), 16, 2)
    mean, _ = model.encode_image(picture)
    latents = mean * model.configs.vae.scaling_factor
    whole, blended = model.decode_latents(latents), model.decode_latents(latents, TILING)
    monkeypatch.setattr(vae, "_ramp", lambda size, overlap: np.ones(size, np.float32))
    hard = model.decode_latents(latents, TILING)
    for axis in (2, 3):
        border = seams(whole.shape[axis] // factor, TILING.tile, TILING.overlap, factor)
        assert max(prominence(blended - whole, axis, border)) < 2
        assert max(prominence(hard - whole, axis, border)) > 3
