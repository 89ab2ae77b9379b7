"""Pictures that explain: heat maps, masks laid over a picture, rows of pictures with labels."""

import math
import textwrap
import warnings

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from .arrays import erode, round_half_up
from .errors import InputError
from .fonts import for_text

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
        round_half_up(np.stack([np.interp(levels, anchors, c) for c in HEAT.T], axis=-1))
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
        core = erode(core)
    out[inside > core] = OUTLINE
    return Image.fromarray(round_half_up(out))


def labelled_grid(cells):
    """A row of pictures on white with a label above each; small ones are enlarged by a whole
    factor.

    Args: cells: list of (label, PIL image), e.g. source, heat map, mask over source, result.
    Returns: PIL image, RGB.
    """
    scale = math.ceil(CELL / max(max(picture.size) for _, picture in cells))
    width = max(CELL, scale * max(picture.width for _, picture in cells))
    height = scale * max(picture.height for _, picture in cells)
    size, gap = max(16, width // 18), max(10, width // 24)
    chosen = [for_text(label, size) for label, _ in cells]
    fonts = [font for font, _ in chosen]
    labels = ["\n".join(_wrap(label, font, width)) for font, (label, _) in zip(fonts, cells)]
    _say_missing("".join(missing for _, missing in chosen))
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    top = 2 * gap + max(
        math.ceil(measure.multiline_textbbox((0, 0), label, font)[3])
        for label, font in zip(labels, fonts)
    )
    sheet = Image.new("RGB", (len(cells) * (width + gap) + gap, top + height + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (label, (_, picture)) in enumerate(zip(labels, cells)):
        left = gap + index * (width + gap)
        draw.multiline_text(
            (left + width / 2, top - gap),
            label,
            "#202020",
            fonts[index],
            anchor="md",
            align="center",
        )
        large = ImageOps.scale(
            picture.convert("RGB"),
            max(1, min(width // picture.width, height // picture.height)),
            Image.Resampling.NEAREST,
        )
        sheet.paste(large, (left + (width - large.width) // 2, top + (height - large.height) // 2))
    return sheet


def _say_missing(characters):
    if characters:
        shown = "".join(dict.fromkeys(characters))
        warnings.warn(
            f"no installed font has {shown}: the labels show boxes in their place; install one "
            "that has them, such as Noto Sans.",
            stacklevel=3,
        )


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
            f"a grid of {rows} rows and {cols} columns needs {rows * cols} pictures, not "
            f"{len(images)}."
        )
    if resize is not None:
        images = [picture.resize((resize, resize)) for picture in images]
    width, height = images[0].size
    grid = Image.new("RGB", (cols * width, rows * height))
    for index, picture in enumerate(images):
        grid.paste(picture, (index % cols * width, index // cols * height))
    return grid
