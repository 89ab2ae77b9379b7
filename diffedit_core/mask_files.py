"""Masks that come in: a file, a PIL image or an array becomes float32 [h,w] in [0,1]."""

import warnings

import numpy as np

from .errors import InputError
from .reading import deep_levels, flatten, is_deep, is_picture, read

FAINT = 0.1  # a mask that is nowhere brighter than this edits next to nothing


def load_mask(source, size):
    """Read a mask at its own resolution; a soft one stays soft, transparency counts as 0.

    What white is follows from the bits and the values of the file (`_levels`); one warning says
    what was assumed where it is not the brightest value that the file could hold.

    Args: source: file name, "-", web address, stream, PIL image, or array [h,w] of bool or numbers
        in [0,1]; size: the picture's (W, H), px.
    Returns: float32 [h,w] in [0,1].
    Raises: InputError: unreadable, NaN, out of range, or not of the picture's shape (within 2 % or
        one cell).
    """
    name, assumed = "the given mask", None
    if is_picture(source):
        picture, name = read(source, name)
        mask, assumed = _levels(picture, name)
    else:
        mask = _checked_mask_array(source)
    (h, w), (width, height) = mask.shape, size
    # The second term: rounding up a small grid, 13x10 for 100x75, moves the ratio by up to one
    # cell.
    if abs(w * height - h * width) > max(0.02 * w * height, max(size) - 1):
        raise InputError(
            f"{name} is {w}x{h} but the picture is {width}x{height}: "
            "give a mask of the picture's shape, at any resolution."
        )
    if assumed is None and mask.max() <= FAINT:
        assumed = "hardly anything is edited; white is where the edit happens"
        assumed = f"is nowhere brighter than {mask.max():.1%} of white: {assumed}"
    if assumed is not None:
        warnings.warn(f"{name} {assumed}.", stacklevel=2)
    return mask


def _levels(picture, name):
    """(mask float32 [h,w] in [0,1], what was assumed of its values or None).

    - Zeros and ones in 8 bits or more: 1 is white, as programs for segmentation write them.
    - At most 255 in 16 bits or more: 255 is white, as 8 bits in a wider file.
    - Black and one other colour that is no grey: the colour is white, as palettes of labels and
      red overlays have it.
    """
    if is_deep(picture):
        mask = deep_levels(picture, name)
        if picture.mode == "F":
            return mask, None
        largest = round(float(mask.max()) * 65535)
        if 0 < largest <= 255:
            white = 1 if largest == 1 else 255
            said = f"holds values from 0 to {largest} in 16 bits: {white} is taken as white"
            return np.minimum(mask * np.float32(65535 / white), 1), said
        return mask, None
    flat = flatten(picture, "black")
    grey = np.asarray(flat.convert("L"))
    colours = [colour for _, colour in flat.getcolors(2) or ()]
    others = [colour for colour in colours if colour != (0, 0, 0)]
    if len(colours) == 2 and len(others) == 1 and len(set(others[0])) > 1:
        said = f"is black and one colour, {others[0]}: the colour is taken as white"
        return np.float32((np.asarray(flat) != 0).any(-1)), said
    if grey.max() == 1:
        return np.float32(grey), "holds only zeros and ones: 1 is taken as white"
    return np.float32(grey) / 255, None


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
