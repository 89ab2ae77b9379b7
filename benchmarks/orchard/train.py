"""Train the Orchard's model with the project's own functions, differentiated by
`mindspore.value_and_grad`.

    python -m benchmarks.orchard.train vae  --work DIR --steps 20000
    python -m benchmarks.orchard.train unet --work DIR --steps 20000
    python -m benchmarks.orchard.train export --work DIR --out MODEL

DIR holds the pictures, latents, checkpoints, logs and sample sheets. Every command can be stopped
at any moment and given again: it goes on from the last checkpoint.
"""

import argparse
import sys
from pathlib import Path

from ..command import command
from . import world as W
from .autoencoder import train_vae
from .denoiser import train_unet
from .export import export


def parser():
    """The command line."""
    top = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", required=True)
    p = commands.add_parser("vae", help=train_vae.__doc__)
    p.set_defaults(function=train_vae)
    add_run_options(p, "vae", 1e-3, 8)
    p.add_argument("--crop", type=int, default=64, help="side of the crops, in pixels")
    p.add_argument(
        "--exchange",
        type=float,
        default=0.0,
        help="share of crops into whose latents a rectangle of another one's is set: the decoder "
        "learns to leave alone what is beside an edit",
    )
    p.add_argument(
        "--freeze-encoder",
        action="store_true",
        help="train the decoder only: the latents stay as they are",
    )
    p = commands.add_parser("unet", help=train_unet.__doc__)
    p.set_defaults(function=train_unet)
    add_run_options(p, "unet", 8e-4, 32)
    add_vae(p)
    p = commands.add_parser("export", help=export.__doc__)
    p.set_defaults(function=export)
    p.add_argument("--work", type=Path, required=True, help="folder of the checkpoints and latents")
    p.add_argument("--out", type=Path, required=True, help="the model folder to write")
    add_vae(p)
    p.add_argument(
        "--unet", type=Path, help="checkpoint of the UNet (default: unet.safetensors of --work)"
    )
    p.add_argument("--results", help="results.md of evaluate.py, to stand in the model card")
    return top


def add_vae(p):
    """The option that names the autoencoder."""
    p.add_argument(
        "--vae",
        type=Path,
        help="checkpoint or model folder of the VAE (default: vae.safetensors of --work)",
    )


def add_run_options(p, name, rate, batch):
    """The options of a training run."""
    p.add_argument(
        "--work",
        type=Path,
        required=True,
        help="folder of pictures, latents, checkpoints, logs and samples",
    )
    p.add_argument("--name", default=name, help="name of the checkpoint and of the log")
    p.add_argument(
        "--init",
        help="start from a model folder or a checkpoint, where this run has none of its own",
    )
    p.add_argument(
        "--steps",
        type=int,
        default=20000,
        help="length of the whole run, over which the rate falls",
    )
    p.add_argument("--minutes", type=float, help="stop after that long; the same command goes on")
    p.add_argument("--rate", type=float, default=rate, help="highest learning rate")
    p.add_argument("--batch", type=int, default=batch)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--pictures", type=int, default=20000, help="size of the training set")
    p.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        choices=W.SIZES,
        default=[W.SIZE],
        help="sizes of the pictures; they come in turn, so that 256 256 128 shows the larger ones "
        "twice as often",
    )
    p.add_argument(
        "--backend",
        choices=("mindspore", "torch"),
        default="mindspore",
        help="torch: the same training with PyTorch and diffusers (pip install .[train])",
    )
    p.add_argument(
        "--threads",
        type=int,
        default=0,
        help="threads that draw the next batches while one is learnt from, for a GPU",
    )
    p.add_argument("--save-minutes", type=float, default=4)
    p.add_argument("--sample-steps", type=int, default=1000, help="steps between two sample sheets")


@command("train")
def main(words):
    """Run one command; a wrong input ends with one sentence and exit code 2."""
    arguments = parser().parse_args(words)
    arguments.function(arguments)


if __name__ == "__main__":
    sys.exit(main())
