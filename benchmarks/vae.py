"""Encoding and decoding a large picture: seconds and peak memory above the loaded model; with
PyTorch in turn if there is one.

    python -m benchmarks.vae [MODEL] [--size 1024] [--tiling] [--dtype fp16] [--warmup 12]
        [--record FILE.jsonl] [--pytorch PYTHON]

The memory is the device's, on a CPU that of the process. In fp32 a CPU computes the first dozen
calls operation by operation, unless picture and model are large; from --warmup 12 on compiled ones
are timed. PYTHON is the interpreter of another environment, with torch and diffusers: the two
processes take turns, of two calls each, the second timed, and the largest relative difference of
the results is printed.
"""

import argparse
import sys
import time

import mindspore as ms
import numpy as np

from diffedit_core import model as M, vae

from .against import turns
from .command import command
from .kernels import evaluation
from .timing import alternate, peak_memory


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
    top.add_argument("--runs", type=int, default=1, help="after the first and the warm-up")
    top.add_argument("--warmup", type=int, default=0, help="calls after the first, not timed")
    evaluation.add_options(top)
    top.add_argument("--pytorch", metavar="PYTHON")
    return top


@command("benchmarks.vae: error")
def main(words):
    """Print what was measured."""
    arguments = parser().parse_args(words)
    return measure(arguments)


def tasks(model, size, tiling):
    """{component: (function that evaluates ours, the inputs by name)}."""
    cells, rng = size // model.configs.vae.factor, np.random.default_rng(0)
    shape = (1, model.configs.latent_channels, cells, cells)
    latents = rng.standard_normal(shape).astype(np.float32)
    picture = rng.uniform(-1, 1, (1, 3, size, size)).astype(np.float32)
    scaled = ms.Tensor(latents)
    return {
        "decode": (lambda: model.decode_latents(scaled, tiling), {"latents": latents}),
        "encode": (lambda: model.encode_image(picture, tiling)[0].asnumpy(), {"picture": picture}),
    }


def measure(arguments):
    """Decode, then encode."""
    turns.check(arguments)
    evaluation.check(arguments.record)
    model = M.Model.load(arguments.model, arguments.dtype)
    model.cached = False  # the first call is with compiling
    loaded, tiling = peak_memory(), vae.Tiling() if arguments.tiling else None
    rows = []
    for name, (task, inputs) in tasks(model, arguments.size, tiling).items():
        op, start = "vae " + name, time.perf_counter()
        found = task()  # numpy: the device is done
        first = time.perf_counter() - start
        for _ in range(arguments.warmup):
            task()
        functions, other = {"mindspore": task}, None
        if arguments.pytorch:
            other = turns.PyTorch(arguments.pytorch, arguments.model, name, inputs)
            functions["pytorch"] = other
            print(f"difference          {turns.difference(found, other()):.1e}", flush=True)
        seconds = alternate(functions, max(1, arguments.runs), int(other is not None))
        if other is not None:
            other.close()
        memory = peak_memory() - loaded
        print(
            f"{op}: the first time {first:.1f} s, {memory:.2f} GiB above the loaded model",
            *turns.lines(seconds),
            sep="\n",
            flush=True,
        )
        row = evaluation.row(
            op,
            seconds["mindspore"],
            model=evaluation.label(arguments.model),
            suite="vae",
            size=arguments.size,
            batch=1,
            dtype=arguments.dtype,
            variant=model.kernels,
            args=["tiling"] if tiling else [],
            first_call_s=round(first, 4),
            memory=memory,
            settings={"repeats": arguments.runs, "warmup": arguments.warmup},
        )
        rows += turns.rows(row, seconds, arguments.pytorch)
    evaluation.write(arguments.record, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
