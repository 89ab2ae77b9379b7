"""Each lowering of a device against its readable reference: the difference first, then the time of
both in turn.

    python -m benchmarks.kernels [--kernels cpu] [--runs 7] [--only attention]

Shapes are those of Stable Diffusion 2.1's UNet at 64x64 latents, batch 2. A difference above 1e-3
ends with exit code 1.
"""

import argparse
import sys

import mindspore as ms
import numpy as np

from diffedit_core import kernels as K
from diffedit_core.graphs import Graph

from .timing import alternate, summary

X, W, B = (2, 320, 64, 64), (320, 320, 3, 3), (320,)
TOKENS = (2, 4096, 320)
CASES = {  # operation -> shapes of the tensors, then the other arguments
    "conv2d": ((X, W, B), (1, (1, 1, 1, 1))),
    "linear": ((TOKENS, (320, 320), B), ()),
    "linear_from_picture": ((X, (320, 320), B), ()),
    "linear_to_picture": ((TOKENS, (320, 320), B), (64, 64)),
    "geglu": ((TOKENS, (2560, 320), (2560,), (320, 1280), B), ()),
    "attention": ((TOKENS, TOKENS, TOKENS), (5, False)),
    "group_norm": ((X, B, B), (32, 1e-5)),
    "layer_norm": ((TOKENS, B, B), (1e-5,)),
    "gelu": (((2, 4096, 1280),), ()),
    "quick_gelu": (((2, 77, 3072),), ()),
    "silu": ((X,), ()),
    "upsample": (((2, 640, 32, 32),), ()),
}


def run_operation(params, tensors, others, kernels, name):
    """The function that is compiled; an operation of the table has no parameters of its own."""
    return K.call(kernels, name, *tensors, *others)


def measure(name, kernels, runs, rng):
    """(largest relative difference, {"reference": seconds, kernels: seconds})."""
    shapes, others = CASES[name]
    arrays = [rng.standard_normal(s) / np.sqrt(np.prod(s[1:]) if s == W else 1) for s in shapes]
    tensors = tuple(ms.Tensor(a.astype(np.float32)) for a in arrays)
    graphs = {
        k: Graph(_function(len(tensors)), {}, others, k, name) for k in ("reference", kernels)
    }
    expected, found = [graphs[k](*tensors).asnumpy() for k in ("reference", kernels)]
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    return difference, alternate(
        {k: lambda g=g: g(*tensors).asnumpy() for k, g in graphs.items()}, runs
    )


def _function(count):
    """Graph mode knows the number of inputs: one, three or five tensors."""
    return {1: _one, 3: _three, 5: _five}[count]


def _one(params, a, others, kernels, name):
    return run_operation(params, (a,), others, kernels, name)


def _three(params, a, b, c, others, kernels, name):
    return run_operation(params, (a, b, c), others, kernels, name)


def _five(params, a, b, c, d, e, others, kernels, name):
    return run_operation(params, (a, b, c, d, e), others, kernels, name)


def main():
    """Print a line for each operation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--kernels",
        default=K.default_kernels(),
        choices=[k for k in K.LOWERINGS if k != "reference"],
    )
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--only", choices=CASES)
    arguments = parser.parse_args()
    rng, worst = np.random.default_rng(0), 0.0
    for name in [arguments.only] if arguments.only else CASES:
        difference, seconds = measure(name, arguments.kernels, arguments.runs, rng)
        worst = max(worst, difference)
        ratio = np.median(seconds["reference"]) / np.median(seconds[arguments.kernels])
        print(
            f"{name:<11} reference {summary(seconds['reference'])}  "
            f"{arguments.kernels} {summary(seconds[arguments.kernels])}  "
            f"{ratio:5.1f}x  difference {difference:.1e}",
            flush=True,
        )
    return 1 if worst > 1e-3 else 0


if __name__ == "__main__":
    sys.exit(main())
