"""The splits of the benchmark: each a list of edits whose answer is known.

numpy and Pillow only.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from . import world as W
from .paint import CLOTHS, SLATE

PHRASINGS = (0, 2)  # of `world.captions`: the plainest, and the one that names the count


class Edit(NamedTuple):
    """An edit with its answer; pictures are uint8 [size,size,3]."""

    name: str
    kind: str
    scene: W.Scene
    edited: W.Scene
    picture: np.ndarray
    truth: np.ndarray
    mask: np.ndarray  # true mask, bool [size,size]


def plain(split):
    """The edits that `methods.cases` takes: scenes of a split, the kinds of edits in turn."""

    def pair(i, kind):
        scene = W.sample_scene(W.SEEDS[split][i])
        return scene, W.random_edit(scene, kind)

    return pair


def changed(change):
    """The edits of the test split, with a change of both scenes that no training has shown."""

    def pair(i, kind):
        scene = change(W.sample_scene(W.SEEDS["test"][20_000 + i]))
        return scene, W.random_edit(scene, kind)

    return pair


def compositional(i, kind):
    """Into a combination that training has not shown, though it has shown its parts."""
    edited = W.sample_scene(W.SEEDS["test"][10_000 + i], held_out=True)
    return W.random_edit(edited, kind), edited


def camouflaged(scene):
    """The fruit on a cloth of its own colour; mixed fruits become one kind."""
    fruit = scene.fruit
    if fruit == W.MIXED:
        fruit = W.kinds(scene)[0]
    background = next(cloth for cloth, owners in CLOTHS.items() if fruit in owners)
    return dataclasses.replace(scene, fruit=fruit, background=background)


SPLITS = {
    "train": plain("train"),
    "validation": plain("validation"),
    "test": plain("test"),
    "compositional": compositional,
    "new-background": changed(lambda scene: W.counterfactual(scene, background=SLATE)),
    "new-light": changed(lambda scene: dataclasses.replace(scene, light="low")),
    "camouflage": changed(camouflaged),
}
TESTED = {  # edits of each split that count for the benchmark
    "test": 201,
    "compositional": 99,
    "new-background": 99,
    "new-light": 99,
    "camouflage": 99,
}


def edit(split, i, size=W.SIZE):
    """Edit `i` of a split, drawn at a size."""
    kind = W.EDITS[i % len(W.EDITS)]
    scene, edited = SPLITS[split](i, kind)
    pictures = [W.render(s, size)[0] for s in (scene, edited)]
    name = f"{split}-{i:04d}"
    return Edit(name, kind, scene, edited, *pictures, W.true_mask(*pictures))


def captions(scene):
    """The two phrasings of a scene's caption."""
    return [W.caption(scene, index) for index in PHRASINGS]
