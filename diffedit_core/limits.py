"""What a model cannot do, said before or beside its result: words that it never saw, and pictures
that its autoencoder cannot hold. Needs no MindSpore."""

import re
import unicodedata
from pathlib import Path

import numpy as np

from .errors import InputError
from .settings import read_json

WORDS_FILE = "words.json"  # in a model's folder, beside model_index.json; may be missing

# PSNR of a picture's round trip through the autoencoder, in dB, under which the model was not made
# for such pictures. Measured with the shipped model at 128x128: 120 test renders of the Orchard
# from 24.3 up (median 29.9), 20 pictures of scikit-image 0.26.0, cut square, from 9.7 to 20.3.
ROUND_TRIP_DB = 22

REMEDY = (
    "for other pictures give real weights: --model FOLDER in the diffusers layout, --model "
    "OWNER/NAME of the hub, or a single file after `weights_convert convert FILE FOLDER`"
)


def known_words(folder):
    """What a model's list of words says.

    The file is an object: "about", a line on what the model knows; "words", all that its training
    captions had; "neutral", words that it never saw and that do no harm, such as "photo".

    Args: folder: of the model.
    Returns: {"about": str, "words": list of str, "neutral": list of str}, or None without a list.
    Raises: InputError: the file is not such an object.
    """
    file = Path(folder) / WORDS_FILE
    if not file.is_file():
        return None
    content = read_json(file)
    found = content if isinstance(content, dict) else {}
    about, words, neutral = found.get("about"), found.get("words"), found.get("neutral", [])
    lists = isinstance(words, list) and isinstance(neutral, list)
    if not (isinstance(about, str) and lists and all(isinstance(w, str) for w in words + neutral)):
        raise InputError(
            f"{file} needs 'about', a text, and 'words' and 'neutral', lists of words: mend or "
            "remove it."
        )
    return {"about": about, "words": words, "neutral": neutral}


def unknown_words(folder, texts):
    """The words of prompts that a model never saw, each once, in their order.

    Args: folder: of the model; texts: list of str.
    Returns: list of str in lower case; empty where the model has no list.
    Law: words of the list, in any case of letters and between any signs, are never among them.
    """
    known = known_words(folder)
    if known is None:
        return []
    seen = {_plain(word) for word in known["words"] + known["neutral"]}
    found = dict.fromkeys(word for text in texts for word in re.findall(r"\w+", _plain(text)))
    return [word for word in found if word not in seen]


def words_sentence(folder, texts):
    """What to say about words that a model never saw, with the remedy; None if there are none."""
    unknown = unknown_words(folder, texts)
    if not unknown:
        return None
    about = known_words(folder)["about"]
    return f"the model knows {about}; not: {', '.join(unknown)}; {REMEDY}"


def round_trip_psnr(source, round_trip):
    """`10 log10(255^2 / mean((source - round_trip)^2))` over all pixels and channels.

    Args: source, round_trip: [...,H,W] in [-1,1] of equal shape, what is worked on and
        `decode(encode(source))`; clipped to that range.
    Returns: float, dB; infinity where they are equal.
    """
    difference = np.clip(np.float64(source), -1, 1) - np.clip(np.float64(round_trip), -1, 1)
    error = np.mean((127.5 * difference) ** 2)
    return float(10 * np.log10(255**2 / error)) if error > 0 else float("inf")


def picture_sentence(source, round_trip):
    """What to say where a model's autoencoder loses too much of a picture; None if it does not.

    Args: as of `round_trip_psnr`.
    """
    quality = round_trip_psnr(source, round_trip)
    if quality >= ROUND_TRIP_DB:
        return None
    return (
        f"this model cannot hold this picture: its autoencoder alone gives it back with "
        f"{quality:.1f} dB, less than {ROUND_TRIP_DB} dB, so that details are lost everywhere; "
        f"{REMEDY}"
    )


def _plain(text):
    return unicodedata.normalize("NFC", text).lower()
