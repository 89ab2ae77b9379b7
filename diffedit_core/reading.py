"""Pictures that come in: a file, an address, a stream or a PIL image becomes an upright RGB image.

Needs no model and no MindSpore.
"""

import os
import re
import sys
import warnings
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .arrays import round_half_up
from .colour import to_srgb
from .errors import InputError
from .web import fetch, is_address

MAX_PIXELS = 100_000_000


def load_image(source):
    """Read a picture upright and as RGB in sRGB: transparency over white, 16-bit grey scaled, the
    first frame of several.

    Args: source: file name, "-" for standard input, web address, binary stream or PIL image. Its
        colour profile is applied and, as its other metadata, not kept.
    Returns: PIL image, RGB.
    Raises: InputError: not a readable picture, or over 100 megapixels.
    """
    picture, name = read(source, "the given picture")
    if is_deep(picture):
        profile = picture.info.get("icc_profile")
        picture = Image.fromarray(round_half_up(255 * deep_levels(picture, name)))
        picture.info["icc_profile"] = profile
    return flatten(to_srgb(picture, name), "white")


def stem(source):
    """A name for the files that are made of a source, without folder and suffix."""
    if is_address(source):
        source = unquote(urlsplit(str(source)).path).replace("\\", "/")
    found = re.sub(r"[^\w .-]", "_", Path(source).stem) if str(source) != "-" else ""
    return found or "picture"


def read(source, what):
    """Decode a picture and turn it upright.

    Args: source: as of `load_image`; what: how to call one that has no name.
    Returns: (PIL image of any mode, its name).
    Raises: InputError: each failure becomes one sentence.
    """
    given = isinstance(source, Image.Image)
    name = _name(source, what)
    too_large = f"{name} has more than {MAX_PIXELS // 1_000_000} megapixels: make it smaller first."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata and of sizes that are fine here
            with nullcontext(source) if given else Image.open(_opened(source, name)) as image:
                if 0 in image.size:
                    raise InputError(
                        f"{name} has no pixels ({image.width}x{image.height}): give another "
                        "picture."
                    )
                # the header's word, before anything is decoded
                if image.width * image.height > MAX_PIXELS:
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


def _name(source, what):
    if isinstance(source, Image.Image) or hasattr(source, "read"):
        return what
    return "standard input" if str(source) == "-" else str(source)


def _opened(source, name):
    """What Pillow can open: a path, or the content of a stream or an address."""
    if hasattr(source, "read"):
        return _content(source, name)
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(
            f"{name} is of type {type(source).__name__}: give a file name or a PIL image."
        )
    if str(source) == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise InputError("standard input is a terminal: pipe a picture into it.")
        return _content(sys.stdin.buffer, name)
    if is_address(source):
        return BytesIO(fetch(str(source)))
    path = Path(source)
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder: give a picture file.")
    if os.path.getsize(path) == 0:
        raise InputError(f"{path} is empty (0 bytes): save or download it again.")
    return path


def _content(stream, name):
    """All of a binary stream."""
    content = stream.read()
    if not isinstance(content, bytes):
        raise InputError(f"{name} is a stream of {type(content).__name__}: open it as binary.")
    if not content:
        raise InputError(f"{name} is empty (0 bytes): give a picture.")
    return BytesIO(content)


def is_picture(source):
    """Whether `read` takes it: a name, an address, a stream or a PIL image, not an array."""
    return isinstance(source, (str, os.PathLike, Image.Image)) or hasattr(source, "read")


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
