"""One UNet evaluation: seconds, compile time and peak memory; with PyTorch in turn if there is one.

    python -m benchmarks.unet MODEL [--size 64] [--batch 2] [--runs 5] [--whole] [--dtype fp16]
        [--record FILE.jsonl] [--pytorch PYTHON]

MODEL is a folder in the diffusers layout. PYTHON is the interpreter of another environment, with
torch and diffusers; the two processes take turns on the same inputs, of two evaluations each, the
second timed, and the largest relative difference of their predictions is printed. The memory is
the device's, on a CPU that of the process.
"""

import argparse
import sys
import time

import mindspore as ms
import numpy as np

from diffedit_core.model import Model

from .against import turns
from .command import command
from .kernels import evaluation, timers
from .timing import alternate, peak_memory

TIMESTEP = 481


def parser():
    """The argument parser."""
    top = argparse.ArgumentParser(
        prog="benchmarks.unet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("model")
    top.add_argument(
        "--size", type=int, default=64, help="of the latents: an eighth of a picture's"
    )
    top.add_argument("--batch", type=int, default=2)
    top.add_argument("--runs", type=int, default=5)
    top.add_argument(
        "--whole", action="store_true", help="the batch at once, however large (cells_at_once=0)"
    )
    evaluation.add_options(top)
    top.add_argument("--pytorch", metavar="PYTHON")
    return top


@command("benchmarks.unet: error")
def main(words):
    """Print what was measured."""
    arguments = parser().parse_args(words)
    return measure(arguments)


def measure(arguments):
    """Load, compare, time, report."""
    turns.check(arguments)
    evaluation.check(arguments.record)
    model = Model.load(
        arguments.model, arguments.dtype, cells_at_once=0 if arguments.whole else None
    )
    model.cached = False  # the first evaluation is with compiling
    arrays = random_inputs(model, arguments)
    latents, states = map(ms.Tensor, arrays.values())
    print(f"loaded              {peak_memory():6.1f} GiB peak", flush=True)

    def ours():
        found = model.predict(latents, TIMESTEP, states)
        timers.synchronise()
        return found

    start = time.perf_counter()
    found = ours()
    first = time.perf_counter() - start
    print(f"first evaluation    {first:6.1f} s, with compiling", flush=True)
    functions = {"mindspore": ours}
    if arguments.pytorch:
        inputs = {**arrays, "timestep": np.array(TIMESTEP)}
        other = turns.PyTorch(arguments.pytorch, arguments.model, "unet", inputs)
        functions["pytorch"] = other
        print(f"difference          {turns.difference(found.asnumpy(), other()):.1e}", flush=True)
    processor = time.process_time()
    before = int(bool(arguments.pytorch))
    seconds = alternate(functions, arguments.runs, before)
    processor = (time.process_time() - processor) / (arguments.runs * (1 + before) + 1)
    if arguments.pytorch:
        other.close()
    print("\n".join(turns.lines(seconds)))
    print(f"processor time      {processor:6.1f} s an evaluation (mindspore)")
    print(f"peak memory         {peak_memory():6.1f} GiB")
    row = record(arguments, model, seconds["mindspore"], first)
    evaluation.write(arguments.record, turns.rows(row, seconds, arguments.pytorch))
    return 0


def random_inputs(model, arguments):
    """{"latents", "states"} -> random array."""
    rng = np.random.default_rng(0)
    shapes = {
        "latents": (arguments.batch, model.configs.latent_channels, arguments.size, arguments.size),
        "states": (arguments.batch, 77, model.configs.text.hidden_size),
    }
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def record(arguments, model, seconds, first):
    """The row of what was measured with MindSpore."""
    return evaluation.row(
        "unet",
        seconds,
        model=evaluation.label(arguments.model),
        suite="unet",
        size=arguments.size * model.configs.vae.factor,
        batch=arguments.batch,
        dtype=arguments.dtype,
        variant=model.kernels,
        args=["whole"] if arguments.whole else [],
        first_call_s=round(first, 4),
        memory=peak_memory(),
        settings={"repeats": arguments.runs},
    )


if __name__ == "__main__":
    sys.exit(main())
