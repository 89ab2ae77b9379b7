"""Training pictures of the Orchard, drawn once and kept in chunks, and crops of them."""

import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from diffedit_core.errors import InputError

from . import world as W

CHUNK = 500


def pictures(work, count, split="train", size=W.SIZE):
    """The first `count` pictures of a split: a list of memory-mapped uint8 [CHUNK,size,size,3];
    draws what is not there yet.

    Chunks appear whole or not at all, so that drawing can be stopped at any moment and go on.
    Raises:
        InputError: a chunk was drawn by another version of the world.
    """
    folder = Path(work) / sized("pictures", size)
    folder.mkdir(parents=True, exist_ok=True)
    seeds, chunks = W.SEEDS[split], []
    for start in tqdm(range(0, count, CHUNK), desc="pictures", unit="chunk", disable=None):
        path = folder / f"{split}-{start:06d}.npy"
        if not path.exists():
            rows = [draw(seeds[i], size) for i in range(start, start + CHUNK)]
            write_array(path, np.stack(rows))
        chunks.append(np.load(path, mmap_mode="r"))
        if not np.array_equal(chunks[-1][0], draw(seeds[start], size)):
            raise InputError(f"{path} was drawn by another version of the world: remove {folder}.")
    return chunks


def sized(name, size):
    """The name of a folder of pictures of a size: "pictures", "pictures-256"."""
    return name if size == W.SIZE else f"{name}-{size}"


def draw(seed, size=W.SIZE):
    """The picture of a seed."""
    return W.render(W.sample_scene(seed), size)[0]


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


def crops(sources, count, rng, batch, size):
    """Random crops of the first `count` pictures, half of them mirrored: float32 [B,3,size,size].

    A corner is the mean of two uniform draws: the middle, where the objects are, is seen more often
    than the edges.

    Args:
        sources: lists of chunks, one for each size of the pictures; rows take them in turn.
    """
    out = np.empty((batch, size, size, 3), np.uint8)
    for i in range(batch):
        picture = take(sources[i % len(sources)], int(rng.integers(count)))
        y, x = rng.integers(0, len(picture) - size + 1, (2, 2)).sum(0) // 2
        crop = picture[y : y + size, x : x + size]
        out[i] = crop[:, ::-1] if rng.random() < 0.5 else crop
    return to_model(out)


def own_cells(rng, batch, size, share):
    """Which latent cells are a crop's own: float32 [B,1,size,size], ones.

    A `share` of the rows has a rectangle of zeros, a quarter to three quarters high and wide.
    """
    own = np.ones((batch, 1, size, size), np.float32)
    for i in np.flatnonzero(rng.random(batch) < share):
        height, width = rng.integers(size // 4, 3 * size // 4 + 1, 2)
        top, left = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
        own[i, 0, top : top + height, left : left + width] = 0
    return own


def exchanged(image, own):
    """Pixels [B,C,H,W] of the cells that are not a picture's own are those of the batch's picture
    from the other end."""
    factor = image.shape[2] // own.shape[2]
    own = np.kron(own, np.ones((1, 1, factor, factor), np.float32))
    return own * image + (1 - own) * image[::-1]
