"""What a process is given, as files of one folder: job.json, picture.png, draws.npz; and the arrays
that it gives back."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from diffedit_core import draws

from .child import EDITS


def write(folder, found, dtype, picture, source, targets, options, seed, edits=EDITS):
    """Write the files.

    Args:
        folder: an empty one.
        found: `folder.Found` of the model.
        dtype: of weights and activations.
        picture: PIL, of the size to work at.
        source, targets: what it shows, and a list of what it shall show.
        options: {name: `Options`}.
        seed: of the draws, which are the same for all: those of the first options that draw from a
            posterior for each map, else of the first; more maps leave the first as they are.
        edits: of a process.
    """
    folder, factor = Path(folder), found.configs.vae.factor
    picture.save(folder / "picture.png")
    each = sorted(options.values(), key=lambda o: (not o.posterior_per_map, -o.num_maps))
    shape = (found.configs.latent_channels, picture.height // factor, picture.width // factor)
    drawn = {
        n: a for n, a in draws.draws(each[0], [seed], shape)._asdict().items() if a is not None
    }
    np.savez(folder / "draws.npz", **drawn)
    given = {
        "model": str(found.path.resolve()),
        "dtype": dtype,
        "source": source,
        "targets": list(targets),
        "options": {name: dataclasses.asdict(o) for name, o in options.items()},
        "edits": edits,
    }
    (folder / "job.json").write_text(json.dumps(given), encoding="utf-8")


def read(folder):
    """What job.json holds."""
    return json.loads((Path(folder) / "job.json").read_text(encoding="utf-8"))


def read_draws(folder, options):
    """`draws.Draws` of the options: the first of the maps, and no posterior that they don't draw
    from."""
    with np.load(Path(folder) / "draws.npz") as arrays:
        found = {name: arrays.get(name) for name in draws.Draws._fields}
    first, drawn = slice(options.num_maps), found["posterior_mask"]
    found["maps"] = found["maps"][:, first]
    found["posterior_mask"] = drawn[:, first] if options.posterior_per_map else None
    return draws.Draws(**found)


def picture(folder):
    """The picture's file."""
    return str(Path(folder) / "picture.png")


def saver(folder, name):
    """The `save` of `child.serve`: arrays of edit number n become FOLDER/NAME-n.npz."""
    return lambda number, arrays: np.savez(place(folder, name, number), **arrays)


def place(folder, name, number):
    """The file of the arrays of an edit."""
    return Path(folder) / f"{name}-{number}.npz"
