"""One training step with MindSpore and with PyTorch, in turn: milliseconds of each and the ratio to
MindSpore.

    python -m benchmarks.orchard.compare vae [--batch 8] [--crop 64] [--runs 7]
    python -m benchmarks.orchard.compare unet [--batch 32] [--runs 7]

Needs the extra `train`, for the UNet also transformers. PyTorch computes the autoencoder in
bfloat16, as `train.py vae --backend torch` does, the UNet in float32 and in bfloat16.
"""

import argparse

import numpy as np

from diffedit_core import clip, kernels as K, params as P, unet, vae

from ..timing import alternate, summary
from . import autoencoder, denoiser, layout, steps as stepping


def vae_steps(batch, crop):
    """{name: a training step of the autoencoder without arguments}."""
    from .torch_steps import vae_step

    rng, cells = np.random.default_rng(0), crop // layout.VAE.factor
    weights = P.init(vae.specs(layout.VAE), rng)
    image = rng.uniform(-1, 1, (batch, 3, crop, crop)).astype(np.float32)
    noise = rng.standard_normal((batch, layout.VAE.latent_channels, cells, cells)).astype(
        np.float32
    )
    inputs = (image, image, noise, np.ones((batch, 1, cells, cells), np.float32))
    steps = {
        "mindspore": stepping.TrainStep(
            autoencoder.vae_loss, P.to_parameters(weights), layout.VAE, K.default_kernels()
        ),
        "torch bf16": vae_step(autoencoder.vae_terms, weights),
    }
    rates = stepping.rates(0, 1000, 1e-3)
    return {name: lambda step=step: step(rates, *inputs) for name, step in steps.items()}


def unet_steps(batch):
    """The same of UNet and text encoder together."""
    from .torch_steps import unet_step

    config, text_config, rng = layout.UNET, layout.text_config(), np.random.default_rng(0)
    shape = (batch, config.in_channels, config.sample_size, config.sample_size)
    latents, noise = rng.standard_normal((2, *shape)).astype(np.float32)
    roots = np.full((2, batch, 1, 1, 1), np.sqrt(0.5), np.float32)
    timesteps = rng.integers(1000, size=batch).astype(np.int32)
    ids = rng.integers(text_config.vocab_size, size=(batch, 77)).astype(np.int32)
    weights = P.init({**clip.specs(text_config), **unet.specs(config)}, rng)
    static = (text_config, config, K.default_kernels())
    steps = {
        "mindspore": stepping.TrainStep(denoiser.unet_loss, P.to_parameters(weights), *static),
        "torch fp32": unet_step(weights, text_config, config, narrow=False),
        "torch bf16": unet_step(weights, text_config, config),
    }
    inputs = (stepping.rates(0, 1000, 1e-4), latents, noise, roots, timesteps, ids)
    return {name: lambda step=step: step(*inputs) for name, step in steps.items()}


def main():
    """Print the medians and the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("vae", "unet"))
    parser.add_argument("--batch", type=int, help="default: 8 of the autoencoder, 32 of the UNet")
    parser.add_argument("--crop", type=int, default=64, help="of the autoencoder's pictures")
    parser.add_argument("--runs", type=int, default=7)
    a = parser.parse_args()
    steps = vae_steps(a.batch or 8, a.crop) if a.stage == "vae" else unet_steps(a.batch or 32)
    seconds = alternate(steps, a.runs)
    ours = np.median(seconds["mindspore"])
    for name, values in seconds.items():
        print(f"{name:<11} {summary(values)}   mindspore / {name}: {ours / np.median(values):.2f}")


if __name__ == "__main__":
    main()
