"""Text to image: plain samples of captions, batch after batch, and which of them are right."""

import numpy as np
from tqdm import tqdm

from . import batches, classifier as C, world as W
from .data import to_pixels
from .measures import interval
from .methods import samples

BATCH = 8  # samples at once, and in a row of the sheet
SAMPLES = {"seen combinations": False, "held-out combinations": True}  # whether they are held out
NEW = "held-out combinations that are new to v0 too"


def scenes(name, count):
    """(seeds, scenes) of the last test seeds: their captions are what is drawn."""
    seeds = W.SEEDS["test"][-count:]
    return seeds, [W.sample_scene(seed, SAMPLES[name]) for seed in seeds]


def measure(name, model, options, classifier, count, size, folder, share):
    """Draw and judge the batches of a share that have no file yet.

    Args:
        name: of `SAMPLES`.
        size: of the pictures.
        folder, share: as `batches.measure` has them.
    """
    seeds, wanted = scenes(name, count)
    texts = [W.captions(scene)[2] for scene in wanted]  # the one that names the count
    side = size // model.configs.vae.factor
    left = [start for start in share.of_units(list(range(0, count, BATCH)))
            if not batches.file_of(folder, name, start).exists()]  # fmt: skip
    for start in tqdm(left, desc=name, disable=None):
        some = slice(start, start + BATCH)
        pictures = np.clip(samples(model, texts[some], seeds[some], options, (side, side)), -1, 1)
        path = batches.file_of(folder, name, start)
        batches.write(path, pictures=to_pixels(pictures), classes=classifier(pictures)[1])


def collected(name, count, folder):
    """(scenes, whether each head is right [N,4], uint8 pictures [N,size,size,3]) of what `measure`
    has written."""
    pictures, classes = [], []
    for start in range(0, count, BATCH):
        with np.load(batches.file_of(folder, name, start)) as file:
            pictures.append(file["pictures"]), classes.append(file["classes"])
    wanted = scenes(name, count)[1]
    right = np.concatenate(classes) == np.stack([C.classes(scene) for scene in wanted])
    return wanted, right, np.concatenate(pictures)


def shares(right):
    """{head: interval of the share of right answers}, and that of fruit, container and background
    together."""
    names = list(C.HEADS)
    numbers = {name: interval(right[:, i]) for i, name in enumerate(names)}
    numbers["fruit, container and background"] = interval(right[:, : names.index("count")].all(1))
    return numbers


def lines(name, wanted, right):
    """{line: (count, shares)} of what `collected` gives."""
    found = {name: (len(wanted), shares(right))}
    new = [new_to_v0(scene) for scene in wanted]
    if SAMPLES[name] and any(new):
        found[NEW] = sum(new), shares(right[new])
    return found


def new_to_v0(scene):
    """Whether even the model whose weights training started from (6 fruits, no checked cloth)
    cannot know the combination."""
    return scene.fruit in ("strawberry", "banana") or scene.background == "a checked cloth"


def sheet(pictures):
    """Rows of `BATCH` pictures; what does not fill a row is left out, but for a single row."""
    width = min(BATCH, len(pictures))
    starts = range(0, len(pictures) // width * width, width)
    return W.sheet([list(pictures[i : i + width]) for i in starts])
