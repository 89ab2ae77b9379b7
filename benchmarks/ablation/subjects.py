"""What is edited: scenes of the Orchard, whose answer is known, or pictures of one's own."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
from PIL import Image

from diffedit_core import images
from diffedit_core.errors import InputError

from ..orchard import data, splits
from ..orchard import world as W

BATCH = 12  # edits at once


class Subject(NamedTuple):
    """A picture and what shall become of it; the last four are None where no answer is known. The
    mask alone may be known of a picture of one's own.

    Pictures are float [3,H,W] in [-1,1].
    """

    name: str
    kind: str
    seed: int
    source: np.ndarray
    caption: str  # of the source
    target: str  # caption of the wanted edit
    scene: Optional[W.Scene] = None
    edited: Optional[W.Scene] = None
    truth: Optional[np.ndarray] = None
    mask: Optional[np.ndarray] = None  # true mask, bool [H,W]


class Batch(NamedTuple):
    """Subjects that are edited at once; they are made when they are first looked at."""

    names: tuple  # (name, seed index) of each
    make: object  # function () -> [Subject]


def orchard(split, count, seeds, size):
    """Batches of the first edits of a split, for each seed in turn.

    Args:
        seeds: numbers; with 0 a scene's draws have the seed that the evaluation gives them.
        size: of the pictures in pixels.
    """
    if split not in splits.SPLITS:
        raise InputError(f"split is {split!r}: choose of {', '.join(splits.SPLITS)}.")
    if size not in W.SIZES:
        raise InputError(
            f"Pictures of {size}x{size} are asked for, the Orchard draws "
            f"{' or '.join(map(str, W.SIZES))}: give --size, or --pictures and --prompts."
        )
    wanted = [(i, seed) for seed in seeds for i in range(count)]
    for start in range(0, len(wanted), BATCH):
        some = wanted[start : start + BATCH]
        names = tuple((f"{split}-{i:04d}", seed) for i, seed in some)
        yield Batch(names, lambda some=some: [scene(split, i, seed, size) for i, seed in some])


def scene(split, i, seed, size):
    """A `Subject` of the Orchard."""
    edit = splits.edit(split, i, size)
    source, truth = data.to_model(np.stack([edit.picture, edit.truth]))
    return Subject(
        edit.name,
        edit.kind,
        seed_of(edit.scene.seed, seed),
        source,
        W.caption(edit.scene),
        W.caption(edit.edited),
        edit.scene,
        edit.edited,
        truth,
        edit.mask,
    )


def seed_of(own, index):
    """The seed of the draws of a subject's run `index`."""
    if index == 0:
        return own
    return int.from_bytes(hashlib.sha256(f"{own} {index}".encode()).digest()[:4], "big")


def pictures(folder, prompts, seeds, side):
    """Batches of pictures of one's own.

    Args:
        folder: of the pictures.
        prompts: JSON lines {"picture": file name, "source": text, "target": text}, and "mask": file
            name, white where the edit belongs, where that is known.
        side: each picture is cropped to its middle square and resized to so many pixels.
    """
    wanted = [(line, seed) for seed in seeds for line in _prompts(Path(folder), Path(prompts))]
    for start in range(0, len(wanted), BATCH):
        some = wanted[start : start + BATCH]
        names = tuple((line["name"], seed) for line, seed in some)
        yield Batch(names, lambda some=some: [_picture(*each, side) for each in some])


def have_masks(folder, prompts):
    """Whether the true mask of a picture of one's own is known."""
    return any("mask" in line for line in _prompts(Path(folder), Path(prompts)))


def content(folder, prompts):
    """The digest of all that pictures of one's own say: sentences, pictures, masks."""
    found = hashlib.sha256()
    for line in _prompts(Path(folder), Path(prompts)):
        files = [line["folder"] / line[key] for key in ("picture", "mask") if key in line]
        digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        found.update(json.dumps([line["source"], line["target"], *digests]).encode())
    return found.hexdigest()


def _prompts(folder, file):
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{file} is missing or no text: give JSON lines as --prompts.") from None
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            found.append(_prompt(folder, f"{file}, line {number}", line, len(found)))
    if not found:
        raise InputError(f"{file} has no lines: write one for each edit.")
    return found


def _prompt(folder, where, line, index):
    keys = ("picture", "source", "target")
    try:
        given = json.loads(line)
    except ValueError:
        given = None
    if not isinstance(given, dict) or set(given) - {"mask"} != set(keys):
        raise InputError(f"{where}: write an object with {', '.join(keys)}, and mask if you like.")
    for key, value in given.items():
        if not isinstance(value, str):
            raise InputError(f"{where}: {key} is {value!r}, it has to be a text.")
    for key in {"picture", "mask"} & set(given):
        if not (folder / given[key]).is_file():
            raise InputError(f"{where}: {folder / given[key]} is missing.")
    return {**given, "name": f"{index:04d}-{given['picture']}", "folder": folder}


def _picture(line, seed, side):
    picture = images.load_image(str(line["folder"] / line["picture"])).convert("RGB")
    mask = _mask(line["folder"] / line["mask"], picture.size, side) if "mask" in line else None
    source = images.to_array([_middle(picture, side, Image.Resampling.LANCZOS)])[0]
    own = int.from_bytes(hashlib.sha256(line["name"].encode()).digest()[:4], "big")
    words = line["source"], line["target"]
    return Subject(line["name"], "picture", seed_of(own, seed), source, *words, mask=mask)


def _mask(path, size, side):
    """The mask of a picture of that size, for its middle square: bool [side,side]."""
    mask = Image.fromarray(255 * (images.load_mask(str(path), size) > 0.5).astype(np.uint8))
    nearest = Image.Resampling.NEAREST
    return np.asarray(_middle(mask.resize(size, nearest), side, nearest)) > 0


def _middle(picture, side, resampling):
    short = min(picture.size)
    left, top = ((n - short) // 2 for n in picture.size)
    square = picture.crop((left, top, left + short, top + short))
    return square.resize((side, side), resampling)
