"""diffedit_core.colour: profiles made by hand, and the colours that they mean, in numpy."""

import struct
import warnings
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffedit_core import colour
from diffedit_core.images import load_image, save_atomically

# XYZ of the primaries, columns red, green, blue, adapted to D50 (Bradford)
SRGB = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)
DISPLAY_P3 = np.array(
    [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]
)
D50 = (0.9642, 1.0, 0.8249)


def fixed(*values):
    return b"".join(struct.pack(">i", round(v * 65536)) for v in values)


def profile(space, tags, connection=b"XYZ "):
    """An ICC profile, version 2, of a display."""
    body, table = b"", struct.pack(">I", len(tags))
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name.encode() + struct.pack(">II", start + len(body), len(content))
        body += content
    header = struct.pack(
        ">I4sI4s4s4s", start + len(body), b"lcms", 0x02400000, b"mntr", space, connection
    )
    header += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + fixed(*D50)
    return header + bytes(128 - len(header)) + table + body


def xyz(values):
    return b"XYZ " + bytes(4) + fixed(*values)


def gamma(value):
    return b"curv" + struct.pack(">IIHH", 0, 1, round(value * 256), 0)


def rgb_profile(matrix, exponent):
    curves = {f"{c}TRC": gamma(exponent) for c in "rgb"}
    primaries = {f"{c}XYZ": xyz(matrix[:, i]) for i, c in enumerate("rgb")}
    return profile(b"RGB ", {"wtpt": xyz(D50), **primaries, **curves})


def grey_profile(exponent):
    return profile(b"GRAY", {"wtpt": xyz(D50), "kTRC": gamma(exponent)})


def cmyk_profile():
    """Lightness falls with the ink's sum, from 100 to 0; without colour. As a table of corners."""
    corners = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), -1).reshape(16, 4)
    lightness = 255 * (1 - corners.sum(1) / 4)
    lab = np.stack([np.round(lightness), np.full(16, 128), np.full(16, 128)], -1).astype(np.uint8)
    line = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    table += line * 4 + lab.tobytes() + line * 3
    return profile(b"CMYK", {"wtpt": xyz(D50), "A2B0": table}, b"Lab ")


def encoded(linear):
    """sRGB's curve, IEC 61966-2-1."""
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def shown(pixels, content, mode="RGB"):
    """What `load_image` makes of pixels [h,w,c] under a profile."""
    picture = Image.frombytes(mode, pixels.shape[1::-1], np.ascontiguousarray(pixels).tobytes())
    picture.info["icc_profile"] = content
    return np.asarray(load_image(picture)).astype(int)


def pixels(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.8, 2.2, 2.6]), st.booleans())
def test_rgb_profiles_mean_what_their_matrix_and_curve_say(seed, exponent, wide):
    matrix, given_pixels = DISPLAY_P3 if wide else SRGB, pixels(seed, 5, 7, 3)
    linear = (given_pixels / 255) ** exponent @ (np.linalg.inv(SRGB) @ matrix).T
    found = shown(given_pixels, rgb_profile(matrix, exponent))
    assert np.abs(found - encoded(linear)).max() <= 2


def test_a_grey_profile():
    levels = np.arange(256, dtype=np.uint8)[None, :, None]
    want = encoded((levels / 255.0) ** 1.4)
    found = shown(levels, grey_profile(1.4), "L")
    assert np.abs(found - want).max() <= 2


def test_a_cmyk_profile():
    ink = np.array(
        [[[0, 0, 0, 0], [255, 255, 255, 255], [255, 255, 0, 0], [0, 255, 0, 0]]], np.uint8
    )
    found = shown(ink, cmyk_profile(), "CMYK")
    lightness = np.array([100, 0, 50, 75])
    want = encoded(np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3))
    assert np.abs(found - want[None, :, None]).max() <= 4


def test_transparency_stays_and_the_colour_is_converted():
    content, colours = rgb_profile(DISPLAY_P3, 2.2), pixels(1, 3, 5, 4)
    picture = Image.fromarray(colours)
    picture.info["icc_profile"] = content
    converted = np.asarray(colour.to_srgb(picture, "x"))
    assert np.array_equal(converted[..., 3], colours[..., 3])
    assert np.array_equal(converted[..., :3], shown(colours[..., :3], content))


def test_a_palette_is_converted_by_its_colours():
    picture = Image.frombytes("P", (2, 1), bytes([0, 1]))
    picture.putpalette([200, 60, 60, 30, 220, 40])
    picture.info["icc_profile"] = content = rgb_profile(DISPLAY_P3, 2.2)
    want = shown(np.array([[[200, 60, 60], [30, 220, 40]]], np.uint8), content)
    assert np.array_equal(np.asarray(load_image(picture)), want)


def test_grey_of_sixteen_bits_is_converted():
    deep = Image.fromarray(np.array([[0, 257 * 90, 65535]], np.uint16))
    deep.info["icc_profile"] = content = grey_profile(1.4)
    want = shown(np.array([[[0], [90], [255]]], np.uint8), content, "L")
    assert np.array_equal(np.asarray(load_image(deep)), want)


def test_srgb_itself_changes_nothing():
    every = np.stack([np.arange(256)] * 2 + [np.arange(255, -1, -1)], -1).astype(np.uint8)[None]
    assert np.array_equal(shown(every, colour.srgb_profile()), every)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_written_pictures_say_that_they_are_srgb(suffix, tmp_path):
    picture = Image.fromarray(pixels(2, 9, 7, 3))
    save_atomically(tmp_path / f"a{suffix}", picture)
    with Image.open(tmp_path / f"a{suffix}") as stored:
        assert stored.info["icc_profile"] == colour.srgb_profile()
    save_atomically(tmp_path / f"m{suffix}", picture.convert("L"))
    with Image.open(tmp_path / f"m{suffix}") as mask:
        assert "icc_profile" not in mask.info or mask.mode == "RGB"


@pytest.mark.parametrize(
    "content",
    [b"x", b"\0" * 200, rgb_profile(SRGB, 2.2)[:150], grey_profile(2.2), cmyk_profile()],
    ids=["text", "zeros", "cut", "grey", "cmyk"],
)
def test_a_profile_that_does_not_serve_is_a_warning(content):
    given_pixels = pixels(3, 4, 6, 3)
    with pytest.warns(UserWarning, match="the given picture.*taken as sRGB") as told:
        found = shown(given_pixels, content)
    assert len(told) == 1 and np.array_equal(found, given_pixels)


@settings(max_examples=20, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 400))
def test_no_profile_crashes(junk, place):
    whole = rgb_profile(DISPLAY_P3, 2.2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shown(pixels(4, 2, 3, 3), whole[:place] + junk + whole[place + len(junk) :])


def test_the_embedded_profile_has_no_date_of_today():
    assert colour.srgb_profile() == colour.srgb_profile.__wrapped__()
    year = struct.unpack(">H", colour.srgb_profile()[24:26])[0]
    assert year == 2026 and Image.open(BytesIO(png())).info["icc_profile"]


def png():
    buffer = BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG", icc_profile=colour.srgb_profile())
    return buffer.getvalue()
