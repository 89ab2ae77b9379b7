"""Pictures that come in: a file or a PIL image becomes an upright RGB image.

Needs no model and no MindSpore.
"""

import os
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .arrays import round_half_up
from .errors import InputError

MAX_PIXELS = 100_000_000


def load_image(source):
    """Read a picture upright and as RGB: transparency over white, 16-bit grey scaled, the first
    frame of several.

    Args: source: file name or PIL image. Its metadata (EXIF, colour profile) is not kept.
    Returns: PIL image, RGB.
    Raises: InputError: not a readable picture, or over 100 megapixels.
    """
    picture, name = read(source, "the given picture")
    if is_deep(picture):
        return Image.fromarray(round_half_up(255 * deep_levels(picture, name))).convert("RGB")
    return flatten(picture, "white")


def read(source, what):
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
                        f"{name} has no pixels ({image.width}x{image.height}): give another "
                        "picture."
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


def is_deep(picture):
    return picture.mode == "F" or picture.mode.startswith("I")


def deep_levels(picture, name):
    """Grey of 16 bits (I;16, or I as Pillow reads some of those files) or floats in [0,1] ->
    float32 [h,w] in [0,1].

    Pillow's own `convert("L")` clips these modes at 255 instead of scaling them.
    """
    white = 1 if picture.mode == "F" else 65535
    levels = np.asarray(picture).astype(np.float32)
    if not (levels.min() >= 0 and levels.max() <= white):  # NaN fails too
        raise InputError(
            f"{name} holds grey values from {levels.min():g} to {levels.max():g} instead of 0 to "
            f"{white}, so its white is unknown: save it with 8 or 16 bits."
        )
    return levels / white


def flatten(picture, ground):
    """Any other mode -> RGB over the ground colour; the info (a CMYK profile, say, wrong for RGB)
    stays behind."""
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, ground), picture).convert("RGB")
