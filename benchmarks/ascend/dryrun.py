"""Compile all graphs of an edit, kernels included, without running one.

    MS_SIMULATION_LEVEL=1 python -m benchmarks.ascend.dryrun --model "SD 1.5" --dtype bf16

On a machine with CANN's toolkit (8.2, 8.3 or 8.5 for MindSpore 2.8) that environment variable makes
MindSpore choose and compile kernels for an Ascend without occupying one. Weights are random, of the
model's shapes. Without the variable it compiles for the device that MindSpore uses.
"""

import argparse
import sys
import time

import mindspore as ms
import numpy as np

from diffedit_core import clip, kernels as K, params as P, unet, vae
from diffedit_core.graphs import Graph

from .constraints import MODELS

GRAPHS = ("text encoder", "UNet", "VAE's encoder", "VAE's decoder")


def compile_all(configs, size, rows, dtype, kernels, graphs=GRAPHS):
    """Yields (name of the graph, seconds) of each that compiled.

    Args:
        configs: (text encoder's, UNet's, autoencoder's).
        size: side of the picture in pixels; rows: latents that the UNet takes at once.
        dtype: a name of `params.DTYPES`; kernels: a name of `kernels.LOWERINGS`.
    """
    text, denoiser, autoencoder = configs
    cells, length = size // autoencoder.factor, text.max_position_embeddings

    def zeros(*shape):
        return ms.Tensor(np.zeros(shape, np.float32)).astype(P.DTYPES[dtype])

    latents = zeros(rows, denoiser.in_channels, cells, cells)
    states = zeros(rows, length, denoiser.cross_attention_dim)
    ids, timestep = (ms.Tensor(np.array(x, np.int32)) for x in ([[0] * length], [481]))
    runs = (
        (clip.apply, clip.specs, text, (ids,)),
        (unet.apply, unet.specs, denoiser, (latents, timestep, states)),
        (vae.encode, vae.specs, autoencoder, (zeros(1, 3, size, size),)),
        (vae.decode, vae.specs, autoencoder, (latents[:1],)),
    )
    rng = np.random.default_rng(0)
    for name, (function, specs, config, inputs) in zip(GRAPHS, runs):
        if name in graphs:
            leaves = P.to_parameters(P.init(specs(config), rng), dtype)
            start = time.perf_counter()
            Graph(function, leaves, config, kernels).compile(*inputs)
            yield name, time.perf_counter() - start


def main():
    """Print a line for each graph."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=MODELS, default="SD 2.1 and 2.1-base")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rows", type=int, default=2, help="of the UNet")
    parser.add_argument("--dtype", choices=tuple(P.DTYPES), default="bf16")
    parser.add_argument("--kernels", choices=tuple(K.LOWERINGS))
    arguments = parser.parse_args()
    K.set_up(arguments.dtype)
    kernels = K.checked(arguments.kernels)
    print(f"MindSpore {ms.__version__} on {K.device()}, kernels {kernels!r}, {arguments.dtype}")
    configs, size, rows = MODELS[arguments.model], arguments.size, arguments.rows
    for name, seconds in compile_all(configs, size, rows, arguments.dtype, kernels):
        print(f"{name:<14} compiled in {seconds:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
