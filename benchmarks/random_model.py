"""A model folder of a released model's shapes with random weights: what takes time takes as long
with them, so that whole edits at that size can be timed without a download.

    python -m benchmarks.random_model sd21-base FOLDER [--seed 0]

The folder is in the public layout, for us and for the public packages, its weights in fp16. The
words are the shipped model's. Pictures that come out show nothing. Where a mask is empty, a lower
`--clamp-ratio` of `benchmarks.edit --against diffusers` makes it larger.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np

from diffedit_core import clip, params as P, unet, vae
from diffedit_core.errors import InputError
from diffedit_core.files import folder_written
from diffedit_core.folder import Configs

from .command import command
from .kernels.models import KNOWN, SIZES
from .orchard.layout import SCHEDULER, WORDS_FILE, write_components

PREDICTION = {"sd21": "v_prediction"}  # the others predict the noise


def parser():
    """The argument parser."""
    top = argparse.ArgumentParser(
        prog="benchmarks.random_model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("model", choices=KNOWN)
    top.add_argument("folder", type=Path)
    top.add_argument("--seed", type=int, default=0)
    return top


@command("benchmarks.random_model: error")
def main(words):
    """Write the folder, complete or not at all."""
    a = parser().parse_args(words)
    if a.folder.exists():
        raise InputError(f"{a.folder} is there already: choose another folder or remove it.")
    if not a.folder.parent.is_dir():
        raise InputError(f"{a.folder.parent} is no folder: make it first.")
    found, rng, size = dict(KNOWN[a.model]), np.random.default_rng(a.seed), SIZES[a.model]
    found["vae"] = dataclasses.replace(found["vae"], sample_size=size)
    found["unet"] = dataclasses.replace(found["unet"], sample_size=size // found["vae"].factor)
    weights = {
        "text_encoder": P.init(clip.specs(found["text"]), rng),
        "unet": P.init(unet.specs(found["unet"]), rng),
        "vae": P.init(vae.specs(found["vae"]), rng),
    }
    scheduler = dataclasses.replace(SCHEDULER, prediction_type=PREDICTION.get(a.model, "epsilon"))
    configs = Configs(found["text"], found["unet"], found["vae"], scheduler)
    with folder_written(a.folder) as part:
        write_components(part, configs, weights)
        (part / WORDS_FILE).unlink()  # it was trained on none
    return 0


if __name__ == "__main__":
    sys.exit(main())
