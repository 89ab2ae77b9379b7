"""Masks that come in: a file, a PIL image or an array becomes float32 [h,w] in [0,1]."""

import os

import numpy as np
from PIL import Image

from .errors import InputError
from .reading import deep_levels, flatten, is_deep, read


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
        picture, name = read(source, name)
        deep = is_deep(picture)
        mask = (
            deep_levels(picture, name)
            if deep
            else np.float32(flatten(picture, "black").convert("L")) / 255
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
            f"a mask array must have the shape [h,w], not {list(mask.shape)}: give one mask per "
            "picture."
        )
    if not (mask.min() >= 0 and mask.max() <= 1):  # NaN fails too
        raise InputError(
            f"the mask array's values run from {mask.min():g} to {mask.max():g}: scale them to "
            "[0, 1]."
        )
    return mask
