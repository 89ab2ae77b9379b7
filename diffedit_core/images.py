"""The edge where pictures come in and go out: files and PIL on one side, numpy arrays on the other.

A picture is a PIL image in mode RGB; `image` is [B,3,H,W] float32 in [-1,1]; a mask is [h,w]
float32 in [0,1], 1 where the edit happens. Sizes are (W, H) where PIL is meant and (H, W) where an
array is. Needs no model and no MindSpore.
"""

import math
import os
import secrets
import textwrap
import warnings
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps, UnidentifiedImageError

from .errors import InputError

MAX_PIXELS = 100_000_000
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}  # no GIF: 256 colours ruin a photograph
OPTIONS = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
    "TIFF": {"compression": "tiff_lzw"},
}
# Dark to bright; the lightness L* rises in nearly equal steps: 1, 18, 34, 51, 68, 84, 97.
HEAT = np.array(
    [
        (10, 8, 30),
        (66, 18, 106),
        (140, 40, 110),
        (212, 72, 66),
        (245, 140, 30),
        (250, 205, 70),
        (252, 250, 200),
    ],
    np.float64,
)
OUTLINE = (60, 255, 240)
CELL = 256  # px; in narrower cells the labels are hard to read


def load_image(source):
    """Read a picture upright and as RGB: transparency over white, 16-bit grey scaled, the first
    frame of several.

    Args: source: file name or PIL image. Its metadata (EXIF, colour profile) is not kept.
    Returns: PIL image, RGB.
    Raises: InputError: not a readable picture, or over 100 megapixels.
    """
    picture, name = _read(source, "the given picture")
    if _is_deep(picture):
        return Image.fromarray(_round_half_up(255 * _deep_levels(picture, name))).convert("RGB")
    return _flatten(picture, "white")


def load_mask(source, size):
    """Read a mask at its own resolution; a soft one stays soft, transparency counts as 0.

    Args: source: file name, PIL image, or array [h,w] of bool or numbers in [0,1]; size: the
        picture's (W, H), px.
    Returns: float32 [h,w] in [0,1].
    Raises: InputError: unreadable, NaN, out of range, or not of the picture's shape (within 2 % or
        one cell).
    """
    name = "the given mask"
    if not isinstance(source, (str, os.PathLike, Image.Image)):
        mask = _checked_mask_array(source)
    else:
        picture, name = _read(source, name)
        deep = _is_deep(picture)
        mask = (
            _deep_levels(picture, name)
            if deep
            else np.float32(_flatten(picture, "black").convert("L")) / 255
        )
    (h, w), (width, height) = mask.shape, size
    # The second term: rounding up a small grid, 13x10 for 100x75, moves the ratio by up to one
    # cell.
    if abs(w * height - h * width) > max(0.02 * w * height, max(size) - 1):
        raise InputError(
            f"{name} is {w}x{h} but the picture is {width}x{height}: "
            "give a mask of the picture's shape, at any resolution."
        )
    return mask


def _read(source, what):
    """Decode a picture and turn it upright -> (PIL image of any mode, its name); each failure
    becomes one sentence."""
    given = isinstance(source, Image.Image)
    name = what if given else str(source)
    too_large = f"{name} has more than {MAX_PIXELS // 1_000_000} megapixels: make it smaller first."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # Pillow warns of odd metadata and of sizes that are fine here
            with (
                nullcontext(source) if given else Image.open(_existing_file(source, what))
            ) as image:
                if 0 in image.size:
                    raise InputError(
                        f"{name} has no pixels ({image.width}x{image.height}): give another picture."
                    )
                if (
                    image.width * image.height > MAX_PIXELS
                ):  # the header's word, before anything is decoded
                    raise InputError(too_large)
                return ImageOps.exif_transpose(image), name
    except InputError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{name} does not exist: check the name and the folder.") from None
    except PermissionError:
        raise InputError(f"{name} cannot be read: change its permissions or copy it.") from None
    except Image.DecompressionBombError:
        raise InputError(too_large) from None
    except UnidentifiedImageError:
        raise InputError(
            f"{name} is not a picture in a known format: convert it to PNG or JPEG."
        ) from None
    except Exception as error:  # on damaged files Pillow's decoders raise a dozen different types
        raise InputError(
            f"{name} is damaged or cut short ({error}): save or download it again."
        ) from error


def _existing_file(source, what):
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(
            f"{what} is of type {type(source).__name__}: give a file name or a PIL image."
        )
    if str(source).lower().startswith(("http://", "https://")):
        raise InputError(f"{source} is a web address: download it first, then give the file.")
    path = Path(source)
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder: give a picture file.")
    if os.path.getsize(path) == 0:
        raise InputError(f"{path} is empty (0 bytes): save or download it again.")
    return path


def _is_deep(picture):
    return picture.mode == "F" or picture.mode.startswith("I")


def _deep_levels(picture, name):
    """Grey of 16 bits (I;16, or I as Pillow reads some of those files) or floats in [0,1] ->
    float32 [h,w] in [0,1].

    Pillow's own `convert("L")` clips these modes at 255 instead of scaling them.
    """
    white = 1 if picture.mode == "F" else 65535
    levels = np.asarray(picture).astype(np.float32)
    if not (levels.min() >= 0 and levels.max() <= white):  # NaN fails too
        raise InputError(
            f"{name} holds grey values from {levels.min():g} to {levels.max():g} instead of 0 to {white}, "
            "so its white is unknown: save it with 8 or 16 bits."
        )
    return levels / white


def _flatten(picture, ground):
    """Any other mode -> RGB over the ground colour; the info (a CMYK profile, say, wrong for RGB)
    stays behind."""
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, ground), picture).convert("RGB")


def _checked_mask_array(source):
    try:
        mask = np.array(source, np.float32)
    except (TypeError, ValueError):
        raise InputError(
            f"a mask of type {type(source).__name__} is not understood: "
            "give a file name, a PIL image or an array [h,w]."
        ) from None
    if mask.ndim != 2 or mask.size == 0:
        raise InputError(
            f"a mask array must have the shape [h,w], not {list(mask.shape)}: give one mask per picture."
        )
    if not (mask.min() >= 0 and mask.max() <= 1):  # NaN fails too
        raise InputError(
            f"the mask array's values run from {mask.min():g} to {mask.max():g}: scale them to [0, 1]."
        )
    return mask


def to_array(pictures):
    """`x / 127.5 - 1`.

    Args: pictures: list of PIL images of one size.
    Returns: image, float32 [B,3,H,W] in [-1,1].
    Raises: InputError: an empty list, or different sizes.
    """
    sizes = sorted({picture.size for picture in pictures})
    if len(sizes) != 1:
        found = ", ".join(f"{w}x{h}" for w, h in sizes) or "an empty list"
        raise InputError(
            f"the pictures of a batch must have one size, not {found}: edit them one at a time."
        )
    pixels = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32) / 127.5 - 1


def to_pil(image):
    """`(x + 1) * 127.5`, rounded half up. Law: to_pil(to_array([picture])) == [picture].

    Args: image: [B,3,H,W] float, clipped to [-1,1].
    Returns: list of B PIL images, RGB.
    Raises: InputError: NaN.
    """
    image = np.asarray(image, np.float32)
    if np.isnan(image).any():
        raise InputError("the image holds NaN: run again in float32.")
    return [
        Image.fromarray(pixels)
        for pixels in _round_half_up((image.transpose(0, 2, 3, 1) + 1) * 127.5)
    ]


def _round_half_up(values):
    """Float -> uint8; np.rint would take 0.5 down but 1.5 up."""
    return np.floor(np.clip(values, 0, 255) + 0.5).astype(np.uint8)


def pad_to_multiple(image, multiple):
    """Repeat the right and bottom edge. Law: crop(*pad_to_multiple(image, m)) == image.

    Args: image: [...,H,W]; multiple: px.
    Returns: (padded [...,H8,W8], (H, W)).
    """
    size = image.shape[-2:]
    return _pad_edges(image, [-(-side // multiple) * multiple for side in size]), size


def crop(image, size):
    """[...,H8,W8] -> its top left [...,H,W]."""
    return image[..., : size[0], : size[1]]


def _pad_edges(array, size):
    after = [(0, new - old) for new, old in zip(size, array.shape[-2:])]
    return np.pad(array, [(0, 0)] * (array.ndim - 2) + after, mode="edge")


def resize_mask(mask, size):
    """Exact box filter: each new cell is the mask's mean over the area it covers. Law: the mean
    stays.

    Upwards this repeats cells, and mixes two only where their edge falls inside a pixel. Bilinear
    would soften a hard mask. Pillow's BOX is not used: it counts a partly covered cell fully or not
    at all.

    Args: mask: [h,w]; size: (H, W).
    Returns: float32 [H,W].
    """
    rows, columns = (_overlap(old, new) for old, new in zip(mask.shape, size))
    return (rows @ mask.astype(np.float64) @ columns.T).astype(np.float32)


def _overlap(old, new):
    """[new,old] float64: the share of each new cell that each old one covers, with integer edges so
    that 0 is 0."""
    i, j = np.arange(new)[:, None], np.arange(old)
    return (
        np.maximum(np.minimum((i + 1) * old, (j + 1) * new) - np.maximum(i * old, j * new), 0) / old
    )


def mask_to_pixels(mask, size, factor=8):
    """Make each latent cell factor x factor pixels, and crop what was padding.

    Args: mask: [h,w] on the latent grid, or a noise map; size: the picture's (H, W), px.
    Returns: [H,W], same dtype.
    Raises: InputError: the grid does not reach over the picture.
    """
    blocks = mask.repeat(factor, axis=0).repeat(factor, axis=1)
    if blocks.shape[0] < size[0] or blocks.shape[1] < size[1]:
        raise InputError(
            f"a latent mask {list(mask.shape)} covers {list(blocks.shape)} pixels, not {list(size)}: "
            "give the size of the picture that it was made for."
        )
    return crop(blocks, size)


def mask_to_latents(mask, picture_size, padded, factor=8):
    """Bring a picture's mask to the latent grid of the padded picture, padding it alike.

    Args: mask: [mh,mw] of any resolution over the unpadded picture; one that has the latent grid's
        shape already lies on that grid and stays; picture_size: (H, W) px; padded: (H8, W8) px,
        multiples of `factor`.
    Returns: float32 [H8/factor,W8/factor].
    Law: mask_to_latents(mask_to_pixels(m, size), size, padded) == m, when padded by less than one
        cell.
    """
    grid = (padded[0] // factor, padded[1] // factor)
    if mask.shape == grid:
        return mask.astype(np.float32)
    if mask.shape != tuple(picture_size):
        mask = resize_mask(mask, picture_size)
    return resize_mask(_pad_edges(mask, padded), grid)


def paste_background(source, result, mask, feather=4):
    """`source + w (result - source)`, `w = mean_k erode^k(mask), k = 0..feather`: a linear ramp
    inside the mask's edge.

    At the picture's border the mask counts as going on, so that no seam shows there.
    Args: source, result: PIL images of one size; mask: [H,W] in [0,1]; feather: px, 0 for none.
    Returns: PIL image, RGB.
    Raises: InputError: different sizes, or a negative feather.
    Law: where mask == 0 the output is the source bit for bit.
    """
    if not source.size == result.size == mask.shape[::-1]:
        raise InputError(
            f"source {source.size}, result {result.size} and mask {mask.shape[::-1]} must have one size."
        )
    if feather < 0:
        raise InputError(f"feather is {feather}: give 0 or more pixels.")
    layer = total = np.asarray(mask, np.float32)
    for _ in range(feather):
        layer = _erode(layer)
        total = total + layer
    before, after = (np.asarray(picture.convert("RGB"), np.float32) for picture in (source, result))
    return Image.fromarray(
        _round_half_up(before + total[..., None] / (feather + 1) * (after - before))
    )


def _erode(mask):
    """[H,W] float32: the minimum of each 3x3 neighbourhood, edges repeated."""
    return np.asarray(Image.fromarray(mask).filter(ImageFilter.MinFilter(3)))


def check_writable(path, picture=True):
    """Raise before a long computation what `save_atomically` would raise after it; creates nothing.

    Args: path: file name; picture: whether its suffix must name a picture format.
    Raises: InputError: unknown suffix, no such folder, a folder or device itself, no permission.
    """
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    if os.path.isdir(target):
        raise InputError(f"{path} is a folder: give a file name inside it.")
    if picture and Path(path).suffix.lower() not in FORMATS:
        raise InputError(
            f"{path} does not end in a known picture suffix: use one of {' '.join(FORMATS)}."
        )
    if not os.path.isdir(folder):
        raise InputError(f"the folder of {path} does not exist: create it first.")
    if os.path.exists(target) and not os.path.isfile(
        target
    ):  # renaming onto /dev/null would destroy it
        raise InputError(f"{path} is not an ordinary file: give another name.")
    if (
        not os.access(folder, os.W_OK | os.X_OK)
        or os.path.exists(target)
        and not os.access(target, os.W_OK)
    ):
        raise InputError(f"{path} cannot be written: change its permissions or give another name.")


def save_atomically(path, content):
    """Write all or nothing: under a temporary name beside the final one, then renamed. Same input,
    same bytes.

    Args: path: file name, its suffix chooses the format; content: PIL image, or bytes that are
        written as they are.
    Raises: InputError: as `check_writable`, or the disk or the format refuses.
    """
    picture = isinstance(content, Image.Image)
    check_writable(path, picture)
    target = Path(os.path.realpath(path))  # a link stays a link
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_bytes(
            _encode(content, FORMATS[Path(path).suffix.lower()]) if picture else content
        )
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(
            f"{path} could not be written ({error.strerror or error}): give another place."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _encode(picture, encoder):
    buffer = BytesIO()
    picture.save(buffer, encoder, **OPTIONS.get(encoder, {}))
    return buffer.getvalue()


def heat_map(noise_map):
    """Colour a map from dark, 0, to bright, its maximum.

    Args: noise_map: [h,w] >= 0, any unit; clamp it first if a few peaks would darken the rest, and
        pass `mask_to_pixels(noise_map, size)` to get the picture's size.
    Returns: PIL image, RGB.
    Raises: InputError: NaN or infinity.
    """
    levels = np.asarray(noise_map, np.float64)
    if not np.isfinite(levels).all():
        raise InputError("the noise map holds NaN or infinity: run again in float32.")
    levels = levels / max(levels.max(), 1e-30)
    anchors = np.linspace(0, 1, len(HEAT))
    return Image.fromarray(
        _round_half_up(np.stack([np.interp(levels, anchors, c) for c in HEAT.T], axis=-1))
    )


def overlay(picture, mask):
    """The picture, dim and half grey outside the mask, with a bright line just inside the mask's
    edge (at 0.5).

    Args: picture: PIL image; mask: [H,W] in [0,1].
    Returns: PIL image, RGB.
    """
    pixels = np.asarray(picture.convert("RGB"), np.float32)
    grey = np.asarray(picture.convert("L"), np.float32)[..., None]
    shown = np.asarray(mask, np.float32)[..., None]
    out = shown * pixels + (1 - shown) * 0.22 * (pixels + grey)
    core = inside = np.float32(np.asarray(mask) >= 0.5)
    for _ in range(
        max(1, round(min(picture.size) / 200))
    ):  # the line looks equally wide at every size
        core = _erode(core)
    out[inside > core] = OUTLINE
    return Image.fromarray(_round_half_up(out))


def labelled_grid(cells):
    """A row of pictures on white with a label above each; small ones are enlarged by a whole
    factor.

    Args: cells: list of (label, PIL image), e.g. source, heat map, mask over source, result.
    Returns: PIL image, RGB.
    """
    scale = math.ceil(CELL / max(max(picture.size) for _, picture in cells))
    width = max(CELL, scale * max(picture.width for _, picture in cells))
    height = scale * max(picture.height for _, picture in cells)
    font, gap = ImageFont.load_default(max(16, width // 18)), max(10, width // 24)
    labels = ["\n".join(_wrap(label, font, width)) for label, _ in cells]
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    top = 2 * gap + max(
        math.ceil(measure.multiline_textbbox((0, 0), label, font)[3]) for label in labels
    )
    sheet = Image.new("RGB", (len(cells) * (width + gap) + gap, top + height + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (label, (_, picture)) in enumerate(zip(labels, cells)):
        left = gap + index * (width + gap)
        draw.multiline_text(
            (left + width / 2, top - gap), label, "#202020", font, anchor="md", align="center"
        )
        large = ImageOps.scale(
            picture.convert("RGB"),
            max(1, min(width // picture.width, height // picture.height)),
            Image.Resampling.NEAREST,
        )
        sheet.paste(large, (left + (width - large.width) // 2, top + (height - large.height) // 2))
    return sheet


def _wrap(label, font, width):
    """Break a label into the longest lines that are no wider than `width` px."""
    for characters in range(max(1, len(label)), 0, -1):
        lines = textwrap.wrap(label, characters) or [""]
        if characters == 1 or max(map(font.getlength, lines)) <= width:
            return lines


def make_image_grid(images, rows, cols, resize=None):
    """Paste pictures row by row into cells of the first one's size; interface of diffusers'
    function of that name.

    Args: images: rows * cols PIL images; resize: px, makes each a square of that side first.
    Returns: PIL image, RGB.
    Raises: InputError (a ValueError): another number of pictures.
    """
    if not images or len(images) != rows * cols:
        raise InputError(
            f"a grid of {rows} rows and {cols} columns needs {rows * cols} pictures, not {len(images)}."
        )
    if resize is not None:
        images = [picture.resize((resize, resize)) for picture in images]
    width, height = images[0].size
    grid = Image.new("RGB", (cols * width, rows * height))
    for index, picture in enumerate(images):
        grid.paste(picture, (index % cols * width, index // cols * height))
    return grid
