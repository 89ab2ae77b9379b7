"""Score a method's edits of a split of the Orchard. numpy and Pillow only, no MindSpore.

    python -m benchmarks.orchard.data --split test --size 256 --out DIR
    python -m benchmarks.orchard.score DIR --method NAME

reads DIR/NAME/edits/ID.png, the edited pictures, and DIR/NAME/masks/ID.png, the predicted masks;
either may be missing as a whole. A mask has the size of the picture, or one pixel for each cell of
CELL x CELL pixels; what is above half of white is in it, and a cell is in it as soon as one of its
pixels is. DIR/NAME/about.json may say what made them, such as {"model": "...", "settings": {...}};
it comes into the line of the leaderboard. These names are baselines, of which no files are needed:

    copy            the source, with an empty mask
    full            the edited scene with another geometry and a full mask: right, nothing preserved
    random-mask     as many cells as the true mask has, anywhere
    oracle-mask     the true mask
    oracle-picture  the true edit

Intervals are 95 %. A measure over no pixel, such as what is left outside a full mask, is left out
of its mean.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from diffedit_core.errors import InputError

from ..command import command
from . import data, measures, world as W
from .reader import Reader

CELL = 8  # pixels of a latent cell
COLUMNS = {key: name for key, name in measures.COLUMNS.items() if not key.endswith("floor")}


class Answer(NamedTuple):
    """What a method says to an edit; a method that has no such thing gives None."""

    image: Optional[np.ndarray]  # uint8 [size,size,3]
    mask: Optional[np.ndarray]  # bool [size/CELL,size/CELL]


class Truth(NamedTuple):
    """An edit as `measures.judge` wants it: pictures float [3,H,W] in [-1,1]."""

    edited: W.Scene
    source: np.ndarray
    truth: np.ndarray
    mask: np.ndarray


# --- baselines ------------------------------------------------------------------------------------


def no_cells(edit):
    side = len(edit.mask) // CELL
    return np.zeros((side, side), bool)


def copy(edit):
    return Answer(edit.picture, no_cells(edit))


def full(edit):
    other = dataclasses.replace(edit.edited, seed=edit.edited.seed + 1)
    return Answer(W.render(other, len(edit.mask))[0], ~no_cells(edit))


def random_mask(edit):
    mask = W.on_grid(edit.mask, CELL)
    return Answer(None, np.random.default_rng(edit.scene.seed).permuted(mask, axis=None))


def oracle_mask(edit):
    return Answer(None, W.on_grid(edit.mask, CELL))


def oracle_picture(edit):
    return Answer(edit.truth, None)


BASELINES = {
    "copy": copy,
    "full": full,
    "random-mask": random_mask,
    "oracle-mask": oracle_mask,
    "oracle-picture": oracle_picture,
}


# --- a folder of answers --------------------------------------------------------------------------


def answers_of(folder, edits):
    """The answers of a method's folder, in the order of the edits.

    Raises:
        InputError: there are neither edits nor masks, or some are missing or of a wrong size.
    """
    there = [name for name in ("edits", "masks") if (folder / name).is_dir()]
    if not there:
        known = ", ".join(BASELINES)
        raise InputError(f"{folder} has neither edits nor masks: give one, or one of {known}.")
    return [
        Answer(
            image_of(folder / "edits" / f"{e.name}.png", e) if "edits" in there else None,
            mask_of(folder / "masks" / f"{e.name}.png", e) if "masks" in there else None,
        )
        for e in edits
    ]


def image_of(path, edit):
    """An edited picture: uint8 [size,size,3]."""
    image = data.read_png(path)
    if image.shape != edit.picture.shape:
        raise InputError(f"{path} is {shape_of(image)}, the source is {shape_of(edit.picture)}.")
    return image


def mask_of(path, edit):
    """A predicted mask on the grid of cells: bool [size/CELL,size/CELL]."""
    mask = data.read_png(path)
    mask = (mask if mask.ndim == 2 else mask[..., 0]) > 127
    cells = no_cells(edit)
    if mask.shape == edit.mask.shape:
        return W.on_grid(mask, CELL)
    if mask.shape != cells.shape:
        raise InputError(
            f"{path} is {shape_of(mask)}: give {shape_of(edit.mask)} or {shape_of(cells)}."
        )
    return mask


def shape_of(array):
    """Words for a picture's size."""
    channels = "grey" if array.ndim == 2 else f"{array.shape[2]} channels"
    return f"{array.shape[1]}x{array.shape[0]}, {channels}"


def about(folder):
    """{"about": what the folder's ABOUT says}, or {} where there is none.

    Raises:
        InputError: it is no JSON object.
    """
    path = folder / data.ABOUT
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f'{path} is no JSON object: write one, such as {{"model": "..."}}.')
    return {"about": found}


# --- scores ---------------------------------------------------------------------------------------


def judge(edits, answers, reader):
    """(records of `measures.judge`, features of the edited pictures or None)."""
    images = None
    features, found = None, [None] * len(edits)
    if all(answer.image is not None for answer in answers):
        images = data.to_model(np.stack([answer.image for answer in answers]))
        features, found = reader(images)
    records = []
    for i, (edit, answer) in enumerate(zip(edits, answers)):
        pictures = data.to_model(np.stack((edit.picture, edit.truth)))
        truth = Truth(edit.edited, *pictures, edit.mask)
        image = None if images is None else images[i]
        records.append(measures.judge(truth, image, answer.mask, None, found[i], CELL))
    return records, features


def score(edits, answers, reader):
    """{"lines": {line: (count, {measure: interval})}, "csfid": distance to the true edits or
    None}."""
    records, features = judge(edits, answers, reader)
    lines = {"all": (len(records), measures.summarise(records))}
    for kind in W.EDITS:
        rows = [r for r, e in zip(records, edits) if e.kind == kind]
        if rows:
            lines[kind] = len(rows), measures.summarise(rows)
    csfid = None
    if features is not None and len(edits) > 1:
        truths = data.to_model(np.stack([edit.truth for edit in edits]))
        csfid = measures.frechet(features, reader(truths)[0])
    return {"lines": lines, "csfid": csfid}


def row(command, facts, result, digits=4):
    """A line of the leaderboard: the command, what it was run on, and the means of all edits."""
    _, numbers = result["lines"]["all"]
    means = {key: float(numbers[key][0]) for key in COLUMNS if key in numbers}
    if result["csfid"] is not None:
        means["csfid"] = result["csfid"]
    finite = {key: round(value, digits) for key, value in means.items() if np.isfinite(value)}
    return {"command": command, **facts, "means": finite}


def parser():
    """The command line."""
    top = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("folder", type=Path, metavar="DIR", help="what benchmarks.orchard.data wrote")
    top.add_argument("--method", required=True, help="a folder in DIR, or a baseline")
    top.add_argument(
        "--json", action="store_true", help="print the line of the leaderboard, not the table"
    )
    return top


@command("score")
def main(words):
    """Print the table, or the line of the leaderboard."""
    a = parser().parse_args(words)
    edits = data.read_split(a.folder)
    facts = facts_of(a.method, edits)
    if a.method in BASELINES:
        answers = [BASELINES[a.method](edit) for edit in edits]
    else:
        answers = answers_of(a.folder / a.method, edits)
        facts |= about(a.folder / a.method)
    result = score(edits, answers, Reader.load())
    if a.json:
        program = f"python -m benchmarks.orchard.score DIR --method {a.method} --json"
        print(json.dumps(row(program, facts, result)))
        return
    print(measures.table(result["lines"], COLUMNS))
    if result["csfid"] is not None:
        print(f"CSFID to the true edits: {result['csfid']:.2f}")


def facts_of(method, edits):
    """What a line of the leaderboard is about."""
    split = edits[0].name.rsplit("-", 1)[0]
    return {
        "version": W.VERSION,
        "split": split,
        "size": len(edits[0].mask),
        "edits": len(edits),
        "method": method,
    }


if __name__ == "__main__":
    sys.exit(main())
