"""diffedit_core.images: laws first, then every kind of picture, then every refusal."""

import math
import os
import stat
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffedit_core import figures, fonts, reading
from diffedit_core.arrays import round_half_up
from diffedit_core.errors import InputError
from diffedit_core.images import (
    check_writable,
    crop,
    heat_map,
    labelled_grid,
    load_image,
    load_mask,
    make_image_grid,
    mask_to_latents,
    mask_to_pixels,
    overlay,
    pad_to_multiple,
    resize_mask,
    resized,
    save_atomically,
    to_array,
    to_pil,
)
from diffedit_core.writing import FORMATS

quick = settings(max_examples=40, deadline=None)
sides = st.integers(1, 23)
seeds = st.integers(0, 2**32 - 1)


def noise(seed, *shape):
    return np.random.default_rng(seed).random(shape, np.float32)


def picture(seed, height, width):
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    )


def same(a, b):
    return np.array_equal(np.asarray(a), np.asarray(b))


def refused(call, *words):
    """The call raises InputError with one sentence that holds all the words."""
    with pytest.raises(InputError) as caught:
        call()
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".")
    for word in words:
        assert str(word) in sentence


# ---- laws ----------------------------------------------------------------------------------------


@quick
@given(seeds, sides, sides, st.integers(1, 3))
def test_uint8_round_trip(seed, height, width, batch):
    pictures = [picture(seed + i, height, width) for i in range(batch)]
    image = to_array(pictures)
    assert image.shape == (batch, 3, height, width) and image.dtype == np.float32
    assert all(map(same, to_pil(image), pictures))


def test_round_trip_of_every_value_in_every_channel():
    values = np.arange(256, dtype=np.uint8)
    every = Image.fromarray(np.stack([values, values[::-1], np.roll(values, 99)], -1)[None])
    assert same(to_pil(to_array([every]))[0], every)


def test_array_layout_and_range():
    image = to_array([Image.fromarray(np.array([[[255, 0, 51]], [[0, 255, 0]]], np.uint8))])
    assert image.shape == (1, 3, 2, 1)
    np.testing.assert_allclose(
        image[0, :, :, 0], [[1, -1], [-1, 1], [51 / 127.5 - 1, -1]], atol=1e-6
    )


def test_half_a_level_is_rounded_up():
    halves = np.array([0.5, 1.5, 2.5, 253.5, 254.5])
    assert round_half_up(halves).tolist() == [1, 2, 3, 254, 255]


def test_to_pil_clips_and_refuses_nan():
    image = np.array([-np.inf, -1.5, 1.5], np.float16).reshape(1, 3, 1, 1)
    assert to_pil(image)[0].getpixel((0, 0)) == (0, 0, 255)
    refused(lambda: to_pil(np.full((1, 3, 1, 1), np.nan)), "NaN", "float32")


@quick
@given(seeds, sides, sides, st.integers(1, 16))
def test_pad_is_undone_by_crop_and_repeats_the_edge(seed, height, width, multiple):
    image = noise(seed, 2, 3, height, width)
    padded, size = pad_to_multiple(image, multiple)
    h8, w8 = padded.shape[2:]
    assert h8 % multiple == w8 % multiple == 0 and h8 - height < multiple and w8 - width < multiple
    assert same(crop(padded, size), image)
    rows, columns = np.minimum(np.arange(h8), height - 1), np.minimum(np.arange(w8), width - 1)
    assert same(padded, image[:, :, rows][..., columns])


def box_oracle(mask, size):
    """Blow each cell up to the common multiple, then average plain blocks."""
    for axis, new in enumerate(size):
        old = mask.shape[axis]
        fine = np.moveaxis(
            mask.astype(np.float64).repeat(math.lcm(old, new) // old, axis), axis, -1
        )
        mask = np.moveaxis(fine.reshape(*fine.shape[:-1], new, -1).mean(-1), -1, axis)
    return mask


@quick
@given(seeds, sides, sides, sides, sides)
def test_resize_mask_is_the_exact_box_filter(seed, h, w, height, width):
    mask = noise(seed, h, w)
    resized = resize_mask(mask, (height, width))
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, box_oracle(mask, (height, width)), atol=1e-6)
    np.testing.assert_allclose(
        resized.mean(dtype=np.float64), mask.mean(dtype=np.float64), atol=1e-6
    )


@quick
@given(seeds, sides, sides, sides, sides)
def test_resize_mask_leaks_nothing_across_a_hard_edge(seed, h, w, height, width):
    mask = (noise(seed, h, w) > 0.5).astype(np.float32)
    resized, oracle = resize_mask(mask, (height, width)), box_oracle(mask, (height, width))
    assert same(resized == 0, oracle == 0)
    assert same(resized == 1, oracle > 1 - 1e-9)


def test_resize_mask_repeats_cells_when_enlarged_by_a_whole_factor():
    mask = noise(1, 3, 5)
    assert same(resize_mask(mask, (21, 15)), np.kron(mask, np.ones((7, 3), np.float32)))


@quick
@given(seeds, st.integers(1, 9), st.integers(1, 9), st.integers(2, 9), st.data())
def test_latents_to_pixels_and_back_is_the_identity(seed, h, w, factor, data):
    mask = noise(seed, h, w)
    size = tuple(data.draw(st.integers((n - 1) * factor + 1, n * factor)) for n in (h, w))
    pixels = mask_to_pixels(mask, size, factor)
    assert pixels.shape == size
    assert pixels[-1, -1] == mask[-1, -1] and pixels[0, -1] == mask[0, -1]
    np.testing.assert_allclose(
        mask_to_latents(pixels, size, (h * factor, w * factor), factor), mask, atol=1e-7
    )


def test_power_of_two_factor_comes_back_bit_for_bit():
    mask = noise(2, 7, 9)
    assert same(mask_to_latents(mask_to_pixels(mask, (51, 70)), (51, 70), (56, 72)), mask)


@quick
@given(seeds, st.integers(1, 30), st.integers(1, 30), st.integers(2, 3))
def test_latent_mask_does_not_depend_on_the_resolution_of_the_given_mask(seed, h, w, zoom):
    mask, size = noise(seed, h, w), (h * zoom, w * zoom)
    padded = [-(-side // 8) * 8 for side in size]
    if mask.shape == (padded[0] // 8, padded[1] // 8):
        return  # then it counts as a latent mask, see the next test
    fine = np.kron(mask, np.ones((zoom, zoom), np.float32))
    np.testing.assert_allclose(
        mask_to_latents(mask, size, padded), mask_to_latents(fine, size, padded), atol=1e-6
    )


def test_a_mask_of_the_latent_grid_stays_as_it_is():
    mask = noise(3, 10, 13)
    assert same(mask_to_latents(mask, (75, 100), (80, 104)), mask)


def test_mask_to_pixels_refuses_a_grid_that_is_too_small():
    refused(lambda: mask_to_pixels(noise(0, 3, 5), (25, 40)), [3, 5], [25, 40])
    refused(lambda: mask_to_pixels(noise(0, 3, 5), (24, 41)), [3, 5], [24, 41])


@given(st.integers(0, 99), st.floats(-1, 1, width=32))
def test_resized_pictures_keep_constants_and_their_rows(seed, value):
    rng = np.random.default_rng(seed)
    size = tuple(int(n) for n in rng.integers(5, 40, 2))
    flat = resized(np.full((2, 3, 7, 9), value, np.float32), size)
    assert flat.shape == (2, 3, *size) and np.abs(flat - value).max() < 1e-6
    image = rng.uniform(-1, 1, (2, 3, 7, 9)).astype(np.float32)
    assert np.array_equal(resized(image, (7, 9)), image)
    assert np.array_equal(resized(image, size)[1:], resized(image[1:], size))


def test_to_array_refuses_different_sizes_and_nothing():
    refused(lambda: to_array([picture(0, 2, 3), picture(0, 3, 2)]), "2x3", "3x2")
    refused(lambda: to_array([]), "empty list")


# ---- every kind of picture -----------------------------------------------------------------------


def stored(folder, image, name="a.png", **options):
    image.save(folder / name, **options)
    return folder / name


def palette(alpha=None):
    image = Image.frombytes("P", (2, 1), bytes([0, 1]))
    image.putpalette([200, 10, 20, 30, 220, 40])
    if alpha is not None:
        image.info["transparency"] = alpha
    return image


KINDS = {  # mode: (picture of 2x1, the two RGB pixels it shows)
    "RGB": (Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)), [(1, 2, 3), (4, 5, 6)]),
    "L": (Image.fromarray(np.array([[7, 250]], np.uint8)), [(7,) * 3, (250,) * 3]),
    "1": (Image.fromarray(np.array([[False, True]])), [(0,) * 3, (255,) * 3]),
    "RGBA": (
        Image.fromarray(np.array([[[9, 9, 9, 0], [0, 100, 255, 51]]], np.uint8)),
        [(255,) * 3, (204, 224, 255)],
    ),
    "LA": (Image.frombytes("LA", (2, 1), bytes([9, 0, 100, 255])), [(255,) * 3, (100,) * 3]),
    "P": (palette(), [(200, 10, 20), (30, 220, 40)]),
    "P one clear": (palette(1), [(200, 10, 20), (255,) * 3]),
    "P soft": (palette(bytes([0, 255])), [(255,) * 3, (30, 220, 40)]),
    "CMYK": (
        Image.frombytes("CMYK", (2, 1), bytes([0, 255, 255, 0, 0, 0, 0, 255])),
        [(255, 0, 0), (0,) * 3],
    ),
    "I;16": (Image.fromarray(np.array([[128, 65535]], np.uint16)), [(0,) * 3, (255,) * 3]),
    "I": (Image.fromarray(np.array([[257 * 90, 65535]], np.int32)), [(90,) * 3, (255,) * 3]),
    "F": (Image.fromarray(np.array([[0.2, 1]], np.float32)), [(51,) * 3, (255,) * 3]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_mode_becomes_rgb(kind):
    given_picture, pixels = KINDS[kind]
    loaded = load_image(given_picture)
    assert loaded.mode == "RGB" and same(loaded, [pixels])
    assert loaded.info == {}


@pytest.mark.parametrize(
    "kind", ["RGB", "L", "1", "RGBA", "LA", "P", "P one clear", "P soft", "I;16"]
)
def test_every_mode_from_a_png(kind, tmp_path):
    given_picture, pixels = KINDS[kind]
    assert same(load_image(stored(tmp_path, given_picture)), [pixels])
    assert same(load_image(str(tmp_path / "a.png")), [pixels])


@pytest.mark.parametrize(
    "kind, name",
    [
        ("CMYK", "a.tif"),
        ("F", "a.tif"),
        ("I;16", "a.tif"),
        ("I", "a.tif"),
        ("I;16", "a.pgm"),
        ("RGB", "a.bmp"),
    ],
)
def test_modes_from_other_formats(kind, name, tmp_path):
    given_picture, pixels = KINDS[kind]
    assert same(load_image(stored(tmp_path, given_picture, name)), [pixels])


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_sixteen_bit_grey_is_scaled_not_clipped(dtype):
    wide = Image.fromarray((np.arange(256) * 257).astype(dtype)[None])
    assert same(np.asarray(load_image(wide))[0, :, 1], np.arange(256))
    assert same(load_mask(wide, (256, 1))[0], np.arange(256, dtype=np.float32) * 257 / 65535)


def test_transparent_colour_of_an_rgb_png(tmp_path):
    path = stored(tmp_path, KINDS["RGB"][0], transparency=(4, 5, 6))
    assert same(load_image(path), [[(1, 2, 3), (255, 255, 255)]])


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_first_frame_of_an_animation(name, tmp_path):
    frames = [Image.new("RGB", (5, 3), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if name == "a.webp" else {}
    path = stored(tmp_path, frames[0], name, save_all=True, append_images=frames[1:], **options)
    assert same(load_image(path), frames[0])


# What the file stores for an upright picture u, from the EXIF table of where row 0 and column 0
# lie.
STORED = {
    1: lambda u: u,
    2: lambda u: u[:, ::-1],
    3: lambda u: u[::-1, ::-1],
    4: lambda u: u[::-1],
    5: lambda u: u.swapaxes(0, 1),
    6: lambda u: u[:, ::-1].swapaxes(0, 1),
    7: lambda u: u[::-1, ::-1].swapaxes(0, 1),
    8: lambda u: u[::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation(orientation, tmp_path):
    upright = np.asarray(picture(4, 5, 7))
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = np.ascontiguousarray(STORED[orientation](upright))
    loaded = load_image(stored(tmp_path, Image.fromarray(turned), exif=exif))
    assert same(loaded, upright)
    assert same(load_image(loaded), upright)  # not turned a second time
    grey = stored(
        tmp_path, Image.fromarray(np.ascontiguousarray(turned[..., 0])), "mask.png", exif=exif
    )
    np.testing.assert_allclose(load_mask(grey, (7, 5)), upright[..., 0] / 255, atol=1e-7)


def test_broken_exif_neither_stops_nor_warns(tmp_path):
    path = stored(
        tmp_path, Image.new("RGB", (4, 3)), "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(path).size == (4, 3)


def test_the_given_picture_is_not_changed():
    given_picture = KINDS["RGBA"][0].copy()
    load_image(given_picture).putpixel((0, 0), (1, 1, 1))
    assert given_picture.mode == "RGBA" and same(given_picture, KINDS["RGBA"][0])


# ---- masks ---------------------------------------------------------------------------------------


def test_mask_file_keeps_its_resolution_and_softness(tmp_path):
    grey = np.random.default_rng(5).integers(0, 256, (6, 9), np.uint8)
    mask = load_mask(stored(tmp_path, Image.fromarray(grey)), (900, 600))
    assert mask.dtype == np.float32
    np.testing.assert_allclose(mask, grey / 255, atol=1e-7)


def test_transparency_of_a_mask_is_zero():
    white = np.full((1, 3, 4), 255, np.uint8)
    white[0, :, 3] = 0, 255, 51
    np.testing.assert_allclose(load_mask(Image.fromarray(white), (3, 1)), [[0, 1, 0.2]], atol=1e-7)


def test_mask_arrays():
    soft = noise(6, 5, 7).astype(np.float64)
    np.testing.assert_allclose(load_mask(soft, (7, 5)), soft, atol=1e-7)
    assert same(load_mask(soft > 0.5, (7, 5)), soft > 0.5)
    assert load_mask(soft > 0.5, (7, 5)).dtype == np.float32


@given(st.integers(1, 2000), st.integers(1, 2000), st.sampled_from([1, 2, 8, 64]))
def test_every_rounded_up_grid_has_the_picture_s_shape(width, height, factor):
    grid = -(-height // factor), -(-width // factor)
    assert load_mask(np.zeros(grid), (width, height)).shape == grid


@pytest.mark.parametrize(
    "shape, fits",
    [
        ((300, 400), True),
        ((300, 407), True),
        ((300, 410), False),
        ((300, 390), False),
        ((400, 300), False),
        ((64, 64), False),
    ],
)
def test_mask_of_another_shape_is_refused(shape, fits):
    if fits:
        assert load_mask(np.ones(shape), (800, 600)).shape == shape
    else:
        refused(lambda: load_mask(np.ones(shape), (800, 600)), f"{shape[1]}x{shape[0]}", "800x600")


@pytest.mark.parametrize(
    "mask, word",
    [
        (np.array([[0, np.nan]]), "nan"),
        (np.array([[0, 1.01]]), "1.01"),
        (np.array([[-0.1, 0]]), "-0.1"),
        (np.array([[0, 255]], np.uint8), "255"),
        (np.ones((1, 1, 2)), "[1, 1, 2]"),
        (np.ones((0, 2)), "[0, 2]"),
        (None, "[]"),
        ({}, "dict"),
        (["a"], "list"),
    ],
)
def test_bad_mask_arrays_are_refused(mask, word):
    refused(lambda: load_mask(mask, (2, 1)), "mask", word)


def test_mask_files_are_refused_by_name(tmp_path):
    refused(lambda: load_mask(tmp_path / "no.png", (2, 1)), "no.png", "does not exist")
    path = stored(tmp_path, Image.new("L", (5, 3)), "odd.png")
    refused(lambda: load_mask(path, (3, 5)), "odd.png", "5x3", "3x5")


# ---- pictures that are refused -------------------------------------------------------------------


@pytest.fixture
def closed_folder():
    """A read-only folder with an unreadable a.png, and open/a.png read-only, while permissions
    count (not as root)."""
    root = os.geteuid() == 0
    # not tmp_path, which others than its owner cannot even enter
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "open").mkdir()
        (folder / "open").chmod(0o777)
        for path, mode in [(folder / "a.png", 0), (folder / "open" / "a.png", 0o444)]:
            path.write_bytes(b"old")
            path.chmod(mode)
        folder.chmod(0o555)
        if root:
            os.setresuid(65534, 65534, 0)
        yield folder
        if root:
            os.setresuid(0, 0, 0)
        folder.chmod(0o700)


def test_missing_folder_and_empty(tmp_path):
    (tmp_path / "empty.png").touch()
    refused(lambda: load_image(tmp_path / "no.png"), tmp_path / "no.png", "does not exist")
    refused(lambda: load_image(tmp_path / "empty.png" / "no.png"), "no.png", "does not exist")
    refused(lambda: load_image(str(tmp_path)), tmp_path, "is a folder")
    refused(lambda: load_image(tmp_path / "empty.png"), "empty.png", "0 bytes")


def test_unreadable(closed_folder):
    refused(lambda: load_image(closed_folder / "a.png"), "a.png", "permissions")


@pytest.mark.parametrize(
    "source, words",
    [
        ("https://example.org/a.png", ["https://example.org/a.png", "download"]),
        ("HTTP://a/b.png", ["download"]),
        (None, ["NoneType"]),
        (3, ["int"]),
        (Image.new("RGB", (0, 5)), ["0x5"]),
        ("a" * 300, ["aaa"]),
        (Image.fromarray(np.array([[0, 65536]], np.int32)), ["65536", "16 bits"]),
        (Image.fromarray(np.array([[-1, 5]], np.int32)), ["-1"]),
        (Image.fromarray(np.array([[0, 3.5]], np.float32)), ["3.5"]),
        (Image.fromarray(np.array([[0, np.nan]], np.float32)), ["nan"]),
    ],
)
def test_sources_that_are_no_picture(source, words):
    refused(lambda: load_image(source), *words)


def test_text_is_not_a_picture(tmp_path):
    (tmp_path / "a.png").write_text("<html>Not found</html>")
    refused(lambda: load_image(tmp_path / "a.png"), "a.png", "not a picture")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif", "a.webp"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_truncated(name, kept, tmp_path):
    whole = stored(tmp_path, picture(7, 41, 47), name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(kept * len(whole))])
    refused(lambda: load_image(tmp_path / name), name)
    (tmp_path / name).write_bytes(whole)
    assert load_image(tmp_path / name).size == (47, 41)


def test_truncated_is_told_from_unknown(tmp_path):
    path = stored(tmp_path, picture(7, 41, 47))
    path.write_bytes(path.read_bytes()[:2000])
    refused(lambda: load_image(path), "a.png", "damaged")
    refused(lambda: load_image(Image.open(path)), "the given picture", "damaged")


@pytest.mark.parametrize(
    "size", [(10_001, 10_000), (20_000, 10_000)]
)  # Pillow warns of the one, raises for the other
def test_too_large_is_known_from_the_header(size, tmp_path):
    path = stored(tmp_path, Image.new("1", (10, 10)), "big.bmp")
    header = bytearray(path.read_bytes())
    header[18:26] = np.array(size, "<u4").tobytes()
    path.write_bytes(header)  # no such pixels follow: decoding would say "cut short"
    refused(lambda: load_image(path), "big.bmp", "100 megapixels")


def test_the_limit_itself_is_allowed(monkeypatch):
    monkeypatch.setattr(reading, "MAX_PIXELS", 12)
    assert load_image(Image.new("RGB", (4, 3))).size == (4, 3)
    refused(lambda: load_image(Image.new("RGB", (13, 1))), "megapixels")


def test_pillow_s_warning_of_size_does_not_leak(tmp_path, monkeypatch):
    path = stored(tmp_path, Image.new("RGB", (4, 3)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(path).size == (4, 3)


# ---- saving --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [*FORMATS, ".PNG"])
def test_save_and_load(suffix, tmp_path):
    stripes = np.tile(
        np.array([(220, 40, 60), (30, 90, 200)], np.uint8), (23, 18, 1)
    )  # JPEG's 4:2:0 would mix them
    save_atomically(tmp_path / f"a{suffix}", Image.fromarray(stripes))
    difference = np.abs(np.asarray(load_image(tmp_path / f"a{suffix}"), int) - stripes).max()
    assert difference <= (6 if suffix in (".jpg", ".jpeg") else 0)
    assert os.listdir(tmp_path) == [f"a{suffix}"]


def test_same_picture_same_bytes_and_usual_permissions(tmp_path):
    for name in ("a.png", "b.png"):
        save_atomically(tmp_path / name, picture(8, 5, 7))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    (tmp_path / "usual").touch()
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "usual").stat().st_mode
    )


def test_bytes_are_written_as_they_are_and_replace(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"something longer")
    save_atomically(str(tmp_path / "a.npy"), b"new")
    assert (tmp_path / "a.npy").read_bytes() == b"new"


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real.png").touch()
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    save_atomically(tmp_path / "link.png", picture(8, 5, 7))
    assert (tmp_path / "link.png").is_symlink() and load_image(tmp_path / "real.png").size == (7, 5)


WRITERS = pytest.mark.parametrize(
    "write", [check_writable, lambda path: save_atomically(path, picture(0, 2, 3))]
)


@WRITERS
@pytest.mark.parametrize(
    "name, words",
    [
        ("a.xyz", ["a.xyz", *FORMATS]),
        ("a", [".png"]),
        ("a.gif", [".png"]),
        (".png", [".png"]),
        ("no/a.png", ["no/a.png", "create"]),
        ("folder.png", ["folder.png", "folder"]),
        ("", ["folder"]),
    ],
)
def test_names_that_cannot_be_written(write, name, words, tmp_path):
    (tmp_path / "folder.png").mkdir()
    refused(lambda: write(tmp_path / name), *words)
    assert os.listdir(tmp_path) == ["folder.png"]


@WRITERS
def test_no_permission_to_write(write, closed_folder):
    refused(lambda: write(closed_folder / "new.png"), "new.png", "permissions")
    refused(lambda: write(closed_folder / "open" / "a.png"), "a.png", "permissions")
    assert (closed_folder / "open" / "a.png").read_bytes() == b"old"
    write(closed_folder / "open" / "new.png")


def test_check_writable_creates_nothing_and_keeps_what_is_there(tmp_path):
    check_writable(tmp_path / "new.png")
    check_writable(tmp_path / "new.npy", picture=False)
    assert os.listdir(tmp_path) == []
    (tmp_path / "old.png").write_bytes(b"old")
    check_writable(tmp_path / "old.png")
    assert (tmp_path / "old.png").read_bytes() == b"old"


def test_a_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    refused(lambda: save_atomically(tmp_path / "pipe.png", b"x"), "pipe.png", "ordinary")
    assert stat.S_ISFIFO((tmp_path / "pipe.png").stat().st_mode)


@pytest.mark.parametrize(
    "where, error, raised",
    [
        ("PIL.Image.Image.save", RuntimeError("encoder"), RuntimeError),
        ("PIL.Image.Image.save", KeyboardInterrupt(), KeyboardInterrupt),
        ("os.replace", OSError(28, "No space left on device"), InputError),
    ],
)
def test_a_failure_leaves_the_old_file_and_nothing_else(
    where, error, raised, tmp_path, monkeypatch
):
    def fail(*_, **__):
        raise error

    (tmp_path / "a.png").write_bytes(b"old")
    monkeypatch.setattr(where, fail)
    with pytest.raises(raised, match="a.png.*No space" if raised is InputError else None):
        save_atomically(tmp_path / "a.png", picture(0, 2, 3))
    assert os.listdir(tmp_path) == ["a.png"] and (tmp_path / "a.png").read_bytes() == b"old"


def test_a_half_written_file_is_removed(tmp_path, monkeypatch):
    def half(path, data):
        with open(path, "wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", half)
    refused(lambda: save_atomically(tmp_path / "a.png", picture(0, 2, 3)), "a.png", "No space")
    assert os.listdir(tmp_path) == []


def test_a_mode_the_format_cannot_hold(tmp_path):
    refused(lambda: save_atomically(tmp_path / "a.jpg", Image.new("RGBA", (2, 3))), "a.jpg", "RGBA")
    assert os.listdir(tmp_path) == []


# ---- to look at ----------------------------------------------------------------------------------


def lightness(pixels):
    """CIE Y of sRGB, which rises exactly when L* does."""
    c = np.asarray(pixels, np.float64) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [
        0.2126,
        0.7152,
        0.0722,
    ]


def test_heat_map_gets_lighter_all_the_way():
    ramp = np.linspace(0, 7, 100)[None]
    light = lightness(heat_map(ramp))[0]
    assert (np.diff(light) > 0).all() and light[0] < 0.01 and light[-1] > 0.9
    assert same(heat_map(ramp), heat_map(ramp * 1000))


def test_heat_map_of_zeros_is_dark_and_nan_is_refused():
    dark = heat_map(np.zeros((3, 5)))
    assert dark.size == (5, 3) and lightness(dark).max() < 0.01
    refused(lambda: heat_map(np.array([[np.nan, 1]])), "NaN")


def test_overlay_shows_the_inside_and_draws_its_line_only_there():
    source = picture(9, 21, 31)
    mask = np.zeros((21, 31))
    mask[5:15, 4:20] = 1
    shown, pixels = np.asarray(overlay(source, mask)), np.asarray(source)
    assert same(shown[6:14, 5:19], pixels[6:14, 5:19])
    outline = (shown == figures.OUTLINE).all(-1)
    assert outline.sum() == 2 * 16 + 2 * 8 and not outline[mask == 0].any()
    assert shown[mask == 0].mean() < 0.5 * pixels[mask == 0].mean()
    assert same(overlay(source, np.ones((21, 31))), source)


COLOURS = [(200, 30, 40), (40, 160, 60), (50, 70, 210), (210, 160, 30)]


def boxes(sheet):
    """Left, top, right, bottom of each colour's rectangle."""
    found = [np.nonzero((np.asarray(sheet) == colour).all(-1)) for colour in COLOURS]
    return [(x.min(), y.min(), x.max() + 1, y.max() + 1) for y, x in found]


@pytest.mark.parametrize(
    "size, expected",
    [
        ((128, 96), (256, 192)),
        ((13, 11), (260, 220)),
        ((300, 200), (300, 200)),
        ((20, 256), (20, 256)),
    ],
)
def test_grid_enlarges_by_whole_factors(size, expected):
    sheet = labelled_grid([("label", Image.new("RGB", size, colour)) for colour in COLOURS])
    for left, top, right, bottom in boxes(sheet):
        assert (right - left, bottom - top) == expected and top == boxes(sheet)[0][1]


@pytest.mark.parametrize(
    "label", ["mask", "a bowl of apples with a long story about where they grew", "W" * 60]
)
def test_grid_keeps_each_label_above_its_picture(label):
    labels = ["", label, "", ""]
    sheet = labelled_grid(
        list(zip(labels, (Image.new("RGB", (256, 256), colour) for colour in COLOURS)))
    )
    left, top, right, _ = boxes(sheet)[1]
    ink = np.nonzero(np.asarray(sheet.convert("L"))[:top] < 128)
    assert len(ink[0]) > 50 and left <= ink[1].min() and ink[1].max() < right
    assert 0 < ink[0].min() and ink[0].max() < top - 2


def test_grid_enlarges_a_small_map_to_the_others_and_centres_it():
    sizes = [(128, 128), (16, 16), (10, 12), (128, 128)]
    sheet = labelled_grid(
        [("x", Image.new("RGB", size, colour)) for size, colour in zip(sizes, COLOURS)]
    )
    (_, top, _, bottom), small, odd, _ = boxes(sheet)
    assert (small[1], small[3]) == (top, bottom)
    assert odd[3] - odd[1] == 12 * 21 and abs((odd[1] - top) - (bottom - odd[3])) <= 1


def test_make_image_grid():
    pictures = [picture(i, 3, 5) for i in range(6)]
    grid = np.asarray(make_image_grid(pictures, rows=2, cols=3))
    assert grid.shape == (6, 15, 3)
    assert same(grid[3:, 5:10], pictures[4])
    assert make_image_grid(pictures, 3, 2, resize=4).size == (8, 12)
    with pytest.raises(ValueError, match="4 pictures, not 6"):
        make_image_grid(pictures, 2, 2)
    with pytest.raises(ValueError):
        make_image_grid([], 0, 0)


# ---- what is white in a mask ---------------------------------------------------------------------

HALF = np.array([[0, 1, 0], [1, 1, 0]])


def colours(one, other=(0, 0, 0)):
    return Image.fromarray(np.where(HALF[..., None], one, other).astype(np.uint8))


def indexed(*shown):
    image = Image.fromarray(HALF.astype(np.uint8))
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([level for colour in shown for level in colour])
    return image


ASSUMED = {  # file: (picture, word of the warning)
    "8 bits, 0 and 1": (Image.fromarray(HALF.astype(np.uint8)), "zeros and ones"),
    "RGB, 0 and 1": (colours((1, 1, 1)), "zeros and ones"),
    "16 bits, 0 and 1": (Image.fromarray(HALF.astype(np.uint16)), "1 is taken as white"),
    "16 bits, 0 and 255": (Image.fromarray((255 * HALF).astype(np.uint16)), "255 is taken"),
    "32 bits, 0 and 1": (Image.fromarray(HALF.astype(np.int32)), "1 is taken as white"),
    "red on black": (colours((255, 0, 0)), "one colour"),
    "palette of labels": (indexed((0, 0, 0), (128, 0, 0)), "one colour"),
    "palette of 0 and 1": (indexed((0, 0, 0), (1, 1, 1)), "zeros and ones"),
}


@pytest.mark.parametrize("kind", ASSUMED)
def test_white_follows_from_bits_and_values_and_is_said(kind, tmp_path):
    given_picture, word = ASSUMED[kind]
    suffix = "tif" if given_picture.mode == "I" else "png"
    path = stored(tmp_path, given_picture, f"m.{suffix}")
    for source in (given_picture, path):
        with pytest.warns(UserWarning, match=word) as told:
            mask = load_mask(source, (3, 2))
        assert len(told) == 1 and same(mask, HALF)


CERTAIN = {
    "1 bit": Image.fromarray(HALF.astype(bool)),
    "8 bits": Image.fromarray((255 * HALF).astype(np.uint8)),
    "16 bits": Image.fromarray((65535 * HALF).astype(np.uint16)),
    "float": Image.fromarray(HALF.astype(np.float32)),
    "palette": indexed((0, 0, 0), (255, 255, 255)),
    "bool array": HALF.astype(bool),
    "whole numbers": HALF,
}


@pytest.mark.parametrize("kind", CERTAIN)
def test_the_usual_masks_need_no_word(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(load_mask(CERTAIN[kind], (3, 2)), HALF)


def test_sixteen_bits_with_soft_eights():
    levels = np.array([[0, 51, 255]], np.uint16)
    with pytest.warns(UserWarning, match="255 is taken as white"):
        mask = load_mask(Image.fromarray(levels), (3, 1))
    np.testing.assert_allclose(mask[0], [0, 0.2, 1], atol=1e-6)


@pytest.mark.parametrize(
    "faint", [np.zeros((2, 3)), 0.05 * HALF, Image.fromarray((3 * HALF).astype(np.uint8))]
)
def test_a_mask_that_edits_next_to_nothing_is_said(faint):
    with pytest.warns(UserWarning, match="nowhere brighter"):
        load_mask(faint, (3, 2))


def test_a_soft_mask_is_not_guessed_at():
    soft = Image.fromarray((128 * HALF).astype(np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(load_mask(soft, (3, 2)), HALF * np.float32(128 / 255))


# ---- fonts ---------------------------------------------------------------------------------------


class Font:
    """Draws each of its characters differently, and all others alike."""

    def __init__(self, has):
        self.has = has

    def getmask(self, character):
        class Mask(bytes):
            size = (1, 1)

        return Mask([1 + self.has.index(character)] if character in self.has else [0])


@pytest.fixture
def installed(monkeypatch):
    """The default font has Latin letters; files a, b and c have what follows; d is damaged."""
    found = {"d": None, "a": "я", "b": "яб", "c": "яблоко果"}

    def open_font(path, size):
        if found[path] is None:
            raise OSError("damaged")
        return Font(found[path])

    monkeypatch.setattr(fonts, "installed", lambda: list(found))
    monkeypatch.setattr(fonts.ImageFont, "truetype", open_font)
    monkeypatch.setattr(fonts.ImageFont, "load_default", lambda size: Font("abc xyz"))


@pytest.mark.parametrize(
    "text, has, missing",
    [
        ("abc\n", "abc xyz", ""),
        ("яб", "яб", ""),
        ("я果", "яблоко果", ""),
        ("果子", "яблоко果", "子"),
        ("子\u200d\ufe0f子", "abc xyz", "子"),
    ],
)
def test_the_first_font_that_has_most_characters(text, has, missing, installed):
    font, lacks = fonts.for_text(text, 20)
    assert (font.has, lacks) == (has, missing)


def test_characters_that_no_font_has_are_said(monkeypatch):
    monkeypatch.setattr(fonts, "installed", list)
    cells = [(label, picture(0, 5, 7)) for label in ("яблоко", "果", "apple")]
    with pytest.warns(UserWarning, match="no installed font has .*я.*果") as told:
        labelled_grid(cells)
    assert len(told) == 1


def test_installed_fonts_are_searched_without_fontconfig(monkeypatch, tmp_path):
    for name in ("deep/er/Sans-Bold.ttf", "deep/Sans.OTF", "Sans.txt", "Serif.ttc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(fonts, "folders", lambda: [tmp_path / "none", tmp_path])
    found = [path.name for path in fonts.installed.__wrapped__()]
    assert found[0] == "Sans.OTF" and set(found) == {"Sans.OTF", "Sans-Bold.ttf", "Serif.ttc"}
