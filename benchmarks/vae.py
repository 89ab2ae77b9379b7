"""Encoding and decoding a large picture: seconds and peak memory above the loaded model.

    python -m benchmarks.vae [MODEL] [--size 1024] [--tiling] [--dtype fp16] [--record FILE.jsonl]

The memory is the device's, on a CPU that of the process.
"""

import argparse
import functools
import sys
import time

import mindspore as ms
import numpy as np

from diffedit_core import model as M, vae

from .command import command
from .kernels import evaluation
from .timing import peak_memory


def parser():
    """The argument parser."""
    top = argparse.ArgumentParser(
        prog="benchmarks.vae",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("model", nargs="?", default=M.ORCHARD)
    top.add_argument("--size", type=int, default=1024, help="side of the picture in pixels")
    top.add_argument("--tiling", action="store_true")
    top.add_argument("--runs", type=int, default=1, help="after the first, which compiles")
    evaluation.add_options(top)
    return top


def timed(function, runs):
    """(result, seconds of the first call, [seconds of each of `runs` more])."""
    seconds = []
    for _ in range(1 + max(1, runs)):
        start = time.perf_counter()
        result = function()  # numpy: the device is done
        seconds.append(time.perf_counter() - start)
    return result, seconds[0], seconds[1:]


@command("benchmarks.vae: error")
def main(words):
    """Print what was measured."""
    arguments = parser().parse_args(words)
    return measure(arguments)


def measure(arguments):
    """Decode, then encode what came out."""
    evaluation.check(arguments.record)
    model = M.Model.load(arguments.model, arguments.dtype)
    loaded, tiling = peak_memory(), vae.Tiling() if arguments.tiling else None
    cells = arguments.size // model.configs.vae.factor
    shape = (1, model.configs.latent_channels, cells, cells)
    latents = ms.Tensor(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    rows, result = [], latents
    for op, task in (("vae decode", model.decode_latents), ("vae encode", model.encode_image)):
        result, first, seconds = timed(functools.partial(task, result, tiling), arguments.runs)
        memory = peak_memory() - loaded
        print(
            f"{op} {np.median(seconds):6.1f} s, the first time {first:.1f} s, "
            f"{memory:.2f} GiB above the loaded model",
            flush=True,
        )
        row = evaluation.row(
            op,
            seconds,
            model=evaluation.label(arguments.model),
            suite="vae",
            size=arguments.size,
            batch=1,
            dtype=arguments.dtype,
            variant=model.kernels,
            args=["tiling"] if tiling else [],
            first_call_s=round(first, 4),
            memory=memory,
            settings={"repeats": arguments.runs},
        )
        rows.append(row)
    evaluation.write(arguments.record, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
