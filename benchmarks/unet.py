"""One UNet evaluation: seconds, compile time and peak memory; with PyTorch in turn if there is one.

    python -m benchmarks.unet MODEL [--size 64] [--batch 2] [--runs 5] [--whole] [--dtype fp16]
        [--record FILE.jsonl] [--pytorch PYTHON]

MODEL is a folder in the diffusers layout. PYTHON is the interpreter of another environment, with
torch and diffusers; the two processes take turns on the same inputs, and the largest relative
difference of their predictions is printed. The memory is the device's, on a CPU that of the
process.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mindspore as ms
import numpy as np

from diffedit_core.model import Model

from .command import command
from .kernels import evaluation, timers
from .timing import alternate, peak_memory, summary

TIMESTEP = 481


class PyTorch:
    """The same UNet in another process, which evaluates it once for each line that it is sent.

    Python runs isolated (-I), where the modules beside the script do not hide libraries of the same
    names, and without the environment variables that MindSpore sets for its own threads and
    libraries: with them PyTorch is half as fast.
    """

    def __init__(self, python, folder, model):
        self.output = folder / "output.npy"
        command = [
            python,
            "-I",
            str(Path(__file__).with_name("unet_pytorch.py")),
            model,
            str(folder),
            str(TIMESTEP),
        ]
        environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self):
        print("go", file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline().split()
        if answer[:1] != ["done"]:
            raise RuntimeError("the PyTorch process ended: its message stands above")
        return np.load(self.output)

    def close(self):
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def difference(found, expected):
    """The largest difference over the largest value."""
    return np.abs(found - expected).max() / np.abs(expected).max()


def ratio(ours, others):
    """Of the medians."""
    return np.median(ours) / np.median(others)


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
    evaluation.check(arguments.record)
    model = Model.load(
        arguments.model, arguments.dtype, cells_at_once=0 if arguments.whole else None
    )
    arrays = inputs(model, arguments)
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
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "inputs.npz", **arrays)
        functions = {"mindspore": ours}
        if arguments.pytorch:
            functions["pytorch"] = PyTorch(arguments.pytorch, Path(folder), arguments.model)
            expected = functions["pytorch"]()
            print(f"difference          {difference(found.asnumpy(), expected):.1e}", flush=True)
        processor = time.process_time()
        seconds = alternate(functions, arguments.runs)
        # alternate warms up with one more
        processor = (time.process_time() - processor) / (arguments.runs + 1)
        if arguments.pytorch:
            functions["pytorch"].close()
    for name, values in seconds.items():
        print(f"{name:<19} {summary(values)}")
    if arguments.pytorch:
        print(f"ratio of medians    {ratio(seconds['mindspore'], seconds['pytorch']):6.2f}")
    print(f"processor time      {processor:6.1f} s an evaluation (mindspore)")
    print(f"peak memory         {peak_memory():6.1f} GiB")
    evaluation.write(arguments.record, [record(arguments, model, seconds["mindspore"], first)])
    return 0


def inputs(model, arguments):
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
