"""Encoding and decoding a large picture: seconds and peak memory above the loaded model.

python -m benchmarks.vae [MODEL] [--size 1024] [--tiling]
"""

import argparse
import sys
import time

import mindspore as ms
import numpy as np

from diffedit_core import model as M, vae

from .timing import peak_memory


def main():
    """Print what was measured, with compiling."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default=M.ORCHARD)
    parser.add_argument("--size", type=int, default=1024, help="side of the picture in pixels")
    parser.add_argument("--tiling", action="store_true")
    arguments = parser.parse_args()
    model = M.Model.load(arguments.model)
    loaded, tiling = peak_memory(), vae.Tiling() if arguments.tiling else None
    cells = arguments.size // model.configs.vae.factor
    latents = (
        np.random.default_rng(0)
        .standard_normal((1, model.configs.latent_channels, cells, cells))
        .astype(np.float32)
    )
    start = time.perf_counter()
    picture = model.decode_latents(ms.Tensor(latents), tiling)
    print(
        f"decode {time.perf_counter() - start:6.1f} s, "
        f"{peak_memory() - loaded:.2f} GiB above the loaded model",
        flush=True,
    )
    start = time.perf_counter()
    model.encode_image(picture, tiling)
    print(
        f"encode {time.perf_counter() - start:6.1f} s, "
        f"{peak_memory() - loaded:.2f} GiB above the loaded model, of both"
    )


if __name__ == "__main__":
    sys.exit(main())
