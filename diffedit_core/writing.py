"""Files that go out: checked beforehand, and written whole or not at all."""

import os
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image

from .colour import srgb_profile
from . import files
from .errors import InputError

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


STANDARD_FORMAT = ".png"  # of a picture that goes to standard output


def check_writable(path, picture=True):
    """Raise before a long computation what `save_atomically` would raise after it; creates nothing.

    Args: path: file name, or "-" for standard output; picture: whether its suffix must name a
        picture format.
    Raises: InputError: unknown suffix, no such folder, a folder or device itself, no permission, a
        terminal.
    """
    if str(path) == "-":
        if sys.stdout is None or sys.stdout.isatty():
            raise InputError("standard output is a terminal: redirect it into a file or a pipe.")
        return
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
    # renaming onto /dev/null would destroy it
    if os.path.exists(target) and not os.path.isfile(target):
        raise InputError(f"{path} is not an ordinary file: give another name.")
    if (
        not os.access(folder, os.W_OK | os.X_OK)
        or os.path.exists(target)
        and not os.access(target, os.W_OK)
    ):
        raise InputError(f"{path} cannot be written: change its permissions or give another name.")


def save_atomically(path, content):
    """Write all or nothing: under a temporary name beside the final one, then renamed. Same input,
    same bytes. Standard output gets all of it at once, a picture as PNG.

    Args: path: file name, its suffix chooses the format, or "-" for standard output; content: PIL
        image, or bytes that are written as they are.
    Raises: InputError: as `check_writable`, or the disk or the format refuses.
    """
    picture = isinstance(content, Image.Image)
    check_writable(path, picture)
    if str(path) == "-":
        write_stream(sys.stdout.buffer, content)
        return
    try:
        content = encode(content, Path(path).suffix) if picture else content
        with files.written(path) as part:
            part.write_bytes(content)
    except OSError as error:
        raise InputError(
            f"{path} could not be written ({error.strerror or error}): give another place."
        ) from error


def write_stream(stream, content):
    """Write a picture, as PNG, or bytes to a binary stream, after all of it is encoded.

    Raises: InputError: the other end is closed.
    """
    picture = isinstance(content, Image.Image)
    content = encode(content, STANDARD_FORMAT) if picture else content
    try:
        stream.write(content)
        stream.flush()
    except OSError as error:
        raise InputError(
            f"the output stream was closed ({error.strerror or error}): read it to its end."
        ) from None


def encode(picture, suffix):
    """A picture as the bytes of a file of that suffix; a colour picture says that it is sRGB."""
    encoder, buffer = FORMATS[suffix.lower()], BytesIO()
    options = dict(OPTIONS.get(encoder, {}))
    if picture.mode == "RGB" and encoder != "BMP":
        options["icc_profile"] = srgb_profile()
    picture.save(buffer, encoder, **options)
    return buffer.getvalue()
