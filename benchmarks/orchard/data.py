"""Training pictures of the Orchard, drawn once and kept in chunks, and crops of them."""

import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from diffedit_core.errors import InputError

from . import world as W

CHUNK = 500


def pictures(folder, count, split="train"):
    """The first `count` pictures of a split: a list of memory-mapped uint8 [CHUNK,H,W,3]; draws what is not there yet.

    Chunks appear whole or not at all, so that drawing can be stopped at any moment and go on.
    Raises:
        InputError: a chunk was drawn by another version of the world.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    seeds, chunks = W.SEEDS[split], []
    for start in tqdm(range(0, count, CHUNK), desc="pictures", unit="chunk", disable=None):
        path = folder / f"{split}-{start:06d}.npy"
        if not path.exists():
            write_array(path, np.stack([draw(seeds[i]) for i in range(start, start + CHUNK)]))
        chunks.append(np.load(path, mmap_mode="r"))
        if not np.array_equal(chunks[-1][0], draw(seeds[start])):
            raise InputError(f"{path} was drawn by another version of the world: remove {folder}.")
    return chunks


def draw(seed):
    """The picture of a seed."""
    return W.render(W.sample_scene(seed))[0]


def write_array(path, array):
    """Save an array as a file that appears whole or not at all."""
    part = path.with_suffix(".part")
    with open(part, "wb") as handle:
        np.save(handle, array)
    os.replace(part, path)


def take(chunks, index):
    """Picture `index` of the chunks."""
    return chunks[index // CHUNK][index % CHUNK]


def to_model(batch):
    """uint8 [B,H,W,3] -> float32 [B,3,H,W] in [-1,1]."""
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2), np.float32) / 127.5 - 1


def crops(chunks, count, rng, batch, size):
    """Random crops of the first `count` pictures, half of them mirrored: float32 [B,3,size,size].

    A corner is the mean of two uniform draws: the middle, where the objects are, is seen more often than the edges.
    """
    out = np.empty((batch, size, size, 3), np.uint8)
    for i in range(batch):
        picture = take(chunks, int(rng.integers(count)))
        y, x = rng.integers(0, W.SIZE - size + 1, (2, 2)).sum(0) // 2
        crop = picture[y:y + size, x:x + size]
        out[i] = crop[:, ::-1] if rng.random() < 0.5 else crop
    return to_model(out)
