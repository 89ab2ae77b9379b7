"""Colour profiles: any picture that has one becomes sRGB, which is what the models were trained on;
pictures that are written say that they are sRGB."""

import functools
import warnings
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

# The ICC's name of a profile's colour space -> the mode that Pillow transforms.
MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}

# An ICC profile's header: date and time, and the checksum over it; ICC.1:2022, 7.2.
DATE, CHECKSUM = slice(24, 36), slice(84, 100)


@functools.lru_cache(maxsize=None)
def srgb_profile():
    """The profile to embed, as bytes; without its date, so that the same picture gives the same
    file."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[DATE] = b"\x07\xea\x00\x01\x00\x01" + bytes(6)  # 1 January 2026
    profile[CHECKSUM] = bytes(16)  # 0: not computed
    return bytes(profile)


def to_srgb(picture, name):
    """The picture's colours as its profile means them, in sRGB.

    A profile that moves no colour by more than one level is sRGB's own: the pixels stay as they
    are. Warns and takes the colours as they are where the profile is broken or of another kind of
    picture.

    Args: picture: PIL image of 8 bits; its profile is in `info["icc_profile"]`; name: for warnings.
    Returns: PIL image: as given without a profile, else RGB, or RGBA where it is transparent.
    Law: the alpha channel stays; without a profile nothing changes.
    """
    content = picture.info.get("icc_profile")
    if not content:
        return picture
    alpha = None
    if picture.mode in ("P", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
    if picture.mode in ("LA", "La", "RGBA", "RGBa"):
        picture = picture.convert("RGBA" if picture.mode.startswith("RGB") else "LA")
        alpha = picture.getchannel("A")
        picture = picture.convert(picture.mode[:-1])
    if picture.mode == "1":
        picture = picture.convert("L")
    try:
        colours = _transformed(picture, content)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        warnings.warn(
            f"the colour profile of {name} is not used ({' '.join(str(error).split())}): its "
            "colours are taken as sRGB.",
            stacklevel=3,
        )
        colours = picture.convert("RGB")
    if alpha is not None:
        colours.putalpha(alpha)
    return colours


def _transformed(picture, content):
    """RGB in sRGB. Raises PyCMSError or ValueError where the profile does not serve."""
    profile = ImageCms.ImageCmsProfile(BytesIO(content))
    space = profile.profile.xcolor_space.strip()
    mode = MODES.get(space)
    if mode == "L" and picture.mode == "RGB" and _is_grey(picture):
        picture = picture.convert("L")
    elif mode == "RGB" and picture.mode == "L":
        picture = picture.convert("RGB")
    if mode != picture.mode:
        raise ValueError(f"it is of {space} and the picture of {picture.mode}")
    transform = ImageCms.buildTransform(
        profile, ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.PERCEPTUAL
    )
    if mode in ("RGB", "L"):
        probe = _probe(mode)
        moved = np.int16(ImageCms.applyTransform(probe, transform)) - np.asarray(
            probe.convert("RGB")
        )
        if np.abs(moved).max() <= 1:
            return picture.convert("RGB")
    colours = ImageCms.applyTransform(picture, transform)
    colours.info.clear()
    return colours


def _probe(mode):
    """A picture of colours from the whole range."""
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(27, 27, 3))


def _is_grey(picture):
    red, green, blue = (np.asarray(channel) for channel in picture.split())
    return bool((red == green).all() and (green == blue).all())
