"""Fonts for labels: Pillow's own, or an installed one that has the characters, found without
fontconfig."""

import functools
import os
import sys
import unicodedata
from pathlib import Path

from PIL import ImageFont

SUFFIXES = (".ttf", ".otf", ".ttc")
STYLES = ("bold", "italic", "oblique", "light", "thin", "mono", "serif", "black", "condensed")
ABSENT = "\U0010ffff"  # a code that is no character: drawn as every missing one
INVISIBLE = ("Cc", "Cf", "Mn", "Zs")  # categories that draw nothing of their own


def for_text(text, size):
    """A font that has the most characters of a text.

    Args: text: str; size: px.
    Returns: (PIL font, the characters that it has not, in their order).
    """
    best = ImageFont.load_default(size)
    missing = _missing(best, text)
    if not missing:
        return best, ""
    for path in installed():
        try:
            font = ImageFont.truetype(str(path), size)
            lacks = _missing(font, text)
        except (OSError, ValueError):  # damaged, or of bitmaps in another size
            continue
        if len(lacks) < len(missing):
            best, missing = font, lacks
        if not missing:
            break
    return best, missing


def folders():
    """Where systems keep fonts, the user's own first."""
    home = Path.home()
    places = [home / ".fonts", home / ".local/share/fonts", home / "Library/Fonts"]
    places += [Path("/usr/local/share/fonts"), Path("/usr/share/fonts"), Path("/Library/Fonts")]
    places += [Path("/System/Library/Fonts"), Path(sys.prefix) / "fonts"]
    if "WINDIR" in os.environ:
        places.append(Path(os.environ["WINDIR"]) / "Fonts")
    return places


@functools.lru_cache(maxsize=1)
def installed():
    """The paths of the installed fonts, upright sans-serif ones first."""
    found = [
        Path(place, name)
        for folder in folders()
        for place, _, names in os.walk(folder)
        for name in sorted(names)
        if name.lower().endswith(SUFFIXES)
    ]
    return sorted(found, key=lambda path: any(style in path.name.lower() for style in STYLES))


def _missing(font, text):
    """The visible characters of a text that a font draws as it draws what it has not."""
    absent = _drawn(font, ABSENT)
    visible = dict.fromkeys(c for c in text if unicodedata.category(c) not in INVISIBLE)
    return "".join(c for c in visible if _drawn(font, c) == absent)


def _drawn(font, character):
    mask = font.getmask(character)
    return mask.size, bytes(mask)
