"""The autoencoder's training step with MindSpore and with PyTorch, in turn: milliseconds of both and their ratio.

    python -m benchmarks.orchard.compare [--batch 8] [--crop 64] [--runs 7]

Needs the extra `train`. PyTorch computes its convolutions in bfloat16, as `train.py vae --backend torch` does.
"""

import argparse

import numpy as np

from diffedit_core import kernels as K, params as P, vae

from ..timing import alternate, summary
from . import layout, steps as S, train


def main():
    """Print both medians and the ratio."""
    from .torch_steps import VAETrainStep
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--runs", type=int, default=7)
    a = parser.parse_args()
    rng, cells = np.random.default_rng(0), a.crop // layout.VAE.factor
    weights = P.init(vae.specs(layout.VAE), rng)
    inputs = (rng.uniform(-1, 1, (a.batch, 3, a.crop, a.crop)).astype(np.float32),
              rng.standard_normal((a.batch, layout.VAE.latent_channels, cells, cells)).astype(np.float32))
    backends = {"mindspore": S.TrainStep(train.vae_loss, P.to_parameters(weights), layout.VAE, K.default_kernels()),
                "torch": VAETrainStep(train.vae_terms, weights)}
    rates = S.rates(0, 1000, 1e-3)
    seconds = alternate({name: lambda step=step: step(rates, *inputs) for name, step in backends.items()}, a.runs)
    for name, values in seconds.items():
        print(f"{name:<10} {summary(values)}")
    print(f"ratio of medians {np.median(seconds['mindspore']) / np.median(seconds['torch']):.2f}")


if __name__ == "__main__":
    main()
