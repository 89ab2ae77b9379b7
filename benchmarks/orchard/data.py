"""Pictures of the Orchard on disk: the benchmark's edits as files, and the training's chunks and
crops.

    python -m benchmarks.orchard.data --split test --size 256 --out DIR

writes DIR/edits.jsonl, and pictures, true edits and true masks as PNG: all that another method
needs to be run on the benchmark, and all that `score.py` needs to score it. numpy and Pillow only.

    python -m benchmarks.orchard.data --training 20000 --size 256 --workers 16 --out W

draws what `train.py --work W` would draw with one process.
"""

import argparse
import dataclasses
import json
import sys
from contextlib import nullcontext
from itertools import islice
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from diffedit_core import files
from diffedit_core.errors import InputError

from ..command import command
from . import splits, world as W

CHUNK = 500


def pictures(work, count, split="train", size=W.SIZE, workers=1):
    """The first `count` pictures of a split: a list of memory-mapped uint8 [CHUNK,size,size,3];
    draws what is not there yet.

    Chunks appear whole or not at all, so that drawing can be stopped at any moment and go on.

    Args:
        workers: processes that draw.
    Raises:
        InputError: a chunk was drawn by another version of the world.
    """
    folder = Path(work) / sized("pictures", size)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {start: folder / f"{split}-{start:06d}.npy" for start in range(0, count, CHUNK)}
    missing = [start for start, path in paths.items() if not path.exists()]
    jobs = ((W.SEEDS[split][start + i], size) for start in missing for i in range(CHUNK))
    bar = tqdm(total=len(missing), desc="pictures", unit="chunk", disable=None)
    with bar, Pool(workers) if workers > 1 and missing else nullcontext() as pool:
        rows = pool.imap(drawn, jobs, chunksize=10) if pool else map(drawn, jobs)
        for start in missing:
            write_array(paths[start], np.stack(list(islice(rows, CHUNK))))
            bar.update()
    chunks = [np.load(path, mmap_mode="r") for path in paths.values()]
    for (start, path), chunk in zip(paths.items(), chunks):
        if not np.array_equal(chunk[0], draw(W.SEEDS[split][start], size)):
            raise InputError(f"{path} was drawn by another version of the world: remove {folder}.")
    return chunks


def drawn(job):
    """`draw` of a pair (seed, size)."""
    return draw(*job)


def sized(name, size):
    """The name of a folder of pictures of a size: "pictures", "pictures-256"."""
    return name if size == W.SIZE else f"{name}-{size}"


def draw(seed, size=W.SIZE):
    """The picture of a seed."""
    return W.render(W.sample_scene(seed), size)[0]


def write_array(path, array):
    """Save an array as a file that appears whole or not at all."""
    with files.written(path) as part, open(part, "wb") as handle:
        np.save(handle, array)


def take(chunks, index):
    """Picture `index` of the chunks."""
    return chunks[index // CHUNK][index % CHUNK]


def to_model(batch):
    """uint8 [B,H,W,3] -> float32 [B,3,H,W] in [-1,1]."""
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2), np.float32) / 127.5 - 1


def to_pixels(image):
    """[B,3,H,W] in [-1,1] -> uint8 [B,H,W,3]."""
    return np.clip(np.round((image.transpose(0, 2, 3, 1) + 1) * 127.5), 0, 255).astype(np.uint8)


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


# --- the benchmark as files -----------------------------------------------------------------------

INDEX = "edits.jsonl"
ABOUT = "about.json"  # in a folder of answers: what made them
IMAGES = ("picture", "edit", "mask")  # fields of a row that name a PNG


def row_of(edit):
    """The line of INDEX for an edit."""
    files = {name: f"{name}s/{edit.name}.png" for name in IMAGES}
    return {
        "id": edit.name,
        "version": W.VERSION,
        "kind": edit.kind,
        **files,
        "source": splits.captions(edit.scene),
        "target": splits.captions(edit.edited),
        "scene": dataclasses.asdict(edit.scene),
        "edited_scene": dataclasses.asdict(edit.edited),
    }


def arrays_of(edit):
    """{field of IMAGES: array} of an edit; the mask is 0 or 255."""
    return {"picture": edit.picture, "edit": edit.truth, "mask": edit.mask.astype(np.uint8) * 255}


def write_split(split, size, out, count):
    """Write the first edits of a split into a new folder, which appears whole or not at all.

    Raises:
        InputError: the folder is there already.
    """
    if out.exists():
        raise InputError(f"{out} exists: give another --out, or remove it.")
    with files.folder_written(out) as part:
        for name in IMAGES:
            (part / f"{name}s").mkdir()
        with open(part / INDEX, "w", encoding="utf-8") as handle:
            for i in tqdm(range(count), desc=split, disable=None):
                edit = splits.edit(split, i, size)
                row = row_of(edit)
                for name, array in arrays_of(edit).items():
                    Image.fromarray(array).save(part / row[name])
                print(json.dumps(row), file=handle)


def read_split(folder):
    """The edits of a folder that `write_split` wrote.

    Raises:
        InputError: there is no index, it is of another version, or a picture is missing.
    """
    index = Path(folder) / INDEX
    if not index.exists():
        raise InputError(f"{index} is missing: write the folder with benchmarks.orchard.data.")
    return [read_row(folder, row) for row in index.read_text(encoding="utf-8").splitlines()]


def read_row(folder, line):
    """One edit of the index."""
    row = json.loads(line)
    if row["version"] != W.VERSION:
        raise InputError(f"{folder} holds {row['version']}, this is {W.VERSION}: write it anew.")
    scenes = [W.Scene(**row[name]) for name in ("scene", "edited_scene")]
    picture, edit, mask = [read_png(Path(folder) / row[name]) for name in IMAGES]
    return splits.Edit(row["id"], row["kind"], *scenes, picture, edit, mask > 127)


def write_answers(folder, names, images, masks, about=None):
    """A method's edits and masks as files that `score` reads.

    Args:
        names: of the edits.
        images: uint8 [N,size,size,3].
        masks: [N,h,w] of 0 and 1, or None.
        about: None, or a dict that says what made them: the file ABOUT.
    """
    white = None if masks is None else (np.asarray(masks) > 0.5).astype(np.uint8) * 255
    kinds = {"edits": images, "masks": white}
    with files.folder_written(folder) as part:
        for kind, arrays in kinds.items():
            if arrays is not None:
                (part / kind).mkdir()
                for name, array in zip(names, arrays):
                    Image.fromarray(array).save(part / kind / f"{name}.png")
        if about is not None:
            (part / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def read_png(path):
    """A PNG as an array."""
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except OSError:
        raise InputError(f"{path} is missing or no picture.") from None


def parser():
    """The command line."""
    top = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--split", choices=splits.SPLITS, default="test")
    top.add_argument("--size", type=int, choices=W.SIZES, default=max(W.SIZES))
    top.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder to write: a new one, or one of train.py with --training",
    )
    top.add_argument("--count", type=int, help="default: all edits that count for the benchmark")
    top.add_argument(
        "--training", type=int, metavar="N", help="N pictures for train.py instead of a split"
    )
    top.add_argument("--workers", type=int, default=1, help="processes that draw for --training")
    return top


@command("data")
def main(words):
    """Write a split."""
    a = parser().parse_args(words)
    if a.training is not None:
        pictures(a.out, a.training, size=a.size, workers=a.workers)
        return
    count = splits.TESTED.get(a.split) if a.count is None else a.count
    if count is None:
        raise InputError(f"--split {a.split} has no end: give --count.")
    write_split(a.split, a.size, a.out, count)


if __name__ == "__main__":
    sys.exit(main())
