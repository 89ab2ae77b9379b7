"""Test edits by several methods, batch after batch, kept in files until all of them are there.

All methods edit a batch before the next one begins, because they share work: the noise maps, and
the encoding. Processes take a share of the batches each, and one that was stopped goes on where it
was.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from diffedit_core.files import written

from .data import to_pixels
from .measures import judge
from .methods import remember, run

BATCH = 12  # edits at once


class Found(NamedTuple):
    """What a method made of N edits."""

    records: list  # of dicts, as `measures.judge` gives them
    images: np.ndarray  # uint8 [N,H,W,3]
    features: np.ndarray  # of the classifier, [N,D]
    masks: np.ndarray = None  # [N,h,w], of a method that has them
    maps: np.ndarray = None  # [N,h,w]


def starts(count, share):
    """The numbers of the first edits of the batches of an `ablation.work.Share`."""
    return share.of_units(list(range(0, count, BATCH)))


def slug(name):
    """A method's name in names of files and folders."""
    return name.replace(" ", "-")


def file_of(folder, name, start):
    """Of a method's batch."""
    return Path(folder) / "batches" / f"{slug(name)}-{start:04d}.npz"


def measure(names, model, changes, cases, classifier, trips, folder, share):
    """Write the files that are missing of a share.

    Args:
        names: of `methods.METHODS`.
        changes: of each method's recipe, as {option: value}.
        cases: all edits, of `methods.Case`.
        trips: function (start) -> the batch's sources through the autoencoder and back.
    """
    left = [
        (start, name)
        for start in starts(len(cases), share)
        for name in names
        if not file_of(folder, name, start).exists()
    ]
    keep, of = None, None
    for start, name in tqdm(left, desc="batches", disable=None):
        if start != of:
            keep, of = remember({}), start
        batch = cases[start : start + BATCH]
        outcome = run(name, model, changes, batch, keep=keep)
        save(file_of(folder, name, start), found(outcome, model, batch, classifier, trips(start)))


def found(outcome, model, batch, classifier, trips):
    """The `Found` of a `methods.Outcome`."""
    images = np.clip(outcome.images, -1, 1)
    features, classes = classifier(images)
    masks = [None] * len(batch) if outcome.masks is None else outcome.masks
    factor = model.configs.vae.factor
    records = [judge(*row, factor) for row in zip(batch, images, masks, trips, classes)]
    return Found(records, to_pixels(images), features, outcome.masks, outcome.noise_maps)


def save(path, found):
    """The file of a batch; it appears whole."""
    arrays = {k: v for k, v in found._asdict().items() if v is not None and k != "records"}
    write(path, records=json.dumps(found.records, default=float), **arrays)


def write(path, **arrays):
    """A file of arrays in the folder of batches; it appears whole."""
    path.parent.mkdir(exist_ok=True)
    with written(path) as part:
        np.savez(part, **arrays)


def load(path):
    """What `save` has written."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != "records"}
        return Found(json.loads(str(file["records"])), **arrays)


def collected(name, count, folder):
    """The `Found` of all edits, or None as long as a batch is missing."""
    files = [file_of(folder, name, start) for start in range(0, count, BATCH)]
    if not all(file.exists() for file in files):
        return None
    columns = zip(*map(load, files))
    records, *arrays = [None if column[0] is None else column for column in columns]
    whole = [None if a is None else np.concatenate(a) for a in arrays]
    return Found([record for batch in records for record in batch], *whole)


def discard(name, count, folder, batch=None):
    """Remove a method's files, once its numbers are elsewhere."""
    for start in range(0, count, batch or BATCH):
        file_of(folder, name, start).unlink(missing_ok=True)
    place = Path(folder) / "batches"
    if place.exists() and not any(place.iterdir()):
        place.rmdir()
