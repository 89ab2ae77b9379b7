"""A training step as one graph, and its state on disk.

A loss is a pure function of (params, *inputs, *static) like every function of `diffedit_core`;
`TrainStep` differentiates it through `graphs.Graph` and applies AdamW and a moving average of the
weights. Everything random is an input, drawn from (seed, step) by the caller, so that a run that
was stopped and resumed gives what an uninterrupted one does.
"""

import json
import math
import os
import signal
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import nn, ops
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from diffedit_core import files, params as P
from diffedit_core.errors import InputError
from diffedit_core.graphs import Graph

BETAS, EPSILON, WEIGHT_DECAY, LARGEST_NORM, EMA_DECAY = (0.9, 0.99), 1e-8, 0.01, 1.0, 0.999


class TrainStep:
    """`TrainStep(loss, params, *static)(rates, *inputs)` updates params in place and returns (loss,
    gradient norm).

    AdamW (Loshchilov & Hutter 2019) on gradients clipped to a global norm of 1, then ema += (1 -
    decay) (params - ema).

    Args:
        loss: pure function of (params, *inputs, *static) -> scalar.
        params: tree of `mindspore.Parameter`.
        frozen: beginnings of the paths of leaves that stay as they are.
        rates: `rates(...)`.
        inputs: numpy arrays.
    """

    def __init__(self, loss, params, *static, frozen=()):
        self.update = Update(Graph(loss, params, *static), frozen)

    def __call__(self, rates, *inputs):
        loss, norm = self.update(ms.Tensor(rates), *map(ms.Tensor, inputs))
        return float(loss.asnumpy()), float(norm.asnumpy())

    def arrays(self):
        """{"params.a.b": array, "first.a.b": ..., "second.a.b": ..., "ema.a.b": ...}; of frozen
        leaves only the first."""
        return {
            name: leaf.asnumpy().copy() for name, leaf in self.update.state().items()
        }  # its memory is updated in place

    def restore(self, arrays):
        """Take over what `arrays` gave."""
        for name, leaf in self.update.state().items():
            leaf.set_data(ms.Tensor(arrays[name]))

    def average(self):
        """The tree of averaged weights, sharing its leaves with this step."""
        averaged = dict(zip(self.update.paths, self.update.ema))
        return P.tree_map(lambda path, leaf: averaged.get(path, leaf), self.update.graph.params)


class Update(nn.Cell):
    """The graph of a TrainStep: gradients, clipping, AdamW, average."""

    def __init__(self, graph, frozen):
        super().__init__(auto_prefix=False)
        self.graph, params = graph, graph.params
        self.paths = [path for path in P.flatten(params) if not path.startswith(tuple(frozen))]
        self.leaves = ms.ParameterTuple([P.flatten(params)[path] for path in self.paths])
        self.first, self.second, self.ema = [
            _copies(self.leaves, name) for name in ("first.", "second.", "ema.")
        ]
        for leaf in (*self.first, *self.second):
            leaf.set_data(ops.zeros_like(leaf))
        self.gradient = ms.value_and_grad(self.graph, None, self.leaves)
        self.map = (
            ops.HyperMap()
        )  # a loop over hundreds of leaves exceeds the compiler's depth (MindSpore 2.8)

    def construct(self, rates, *inputs):
        loss, gradients = self.gradient(*inputs)
        norm = ops.sqrt(ops.addn(self.map(square_sum, gradients)))
        shrink = LARGEST_NORM / ops.maximum(norm, LARGEST_NORM)
        done = self.map(
            ops.partial(adamw, rates, shrink),
            self.leaves,
            self.first,
            self.second,
            self.ema,
            gradients,
        )
        return ops.depend(loss, done), norm

    def state(self):
        """{name: leaf} of everything that the next step depends on."""
        kinds = {"first": self.first, "second": self.second, "ema": self.ema}
        named = {
            f"{kind}.{path}": leaf
            for kind, leaves in kinds.items()
            for path, leaf in zip(self.paths, leaves)
        }
        return {
            f"params.{path}": leaf for path, leaf in P.flatten(self.graph.params).items()
        } | named


def square_sum(x):
    """Sum of squares."""
    return ops.ReduceSum()(x * x)


def adamw(rates, shrink, leaf, first, second, ema, gradient):
    """Update one leaf, its moments and its average, in place (Loshchilov & Hutter 2019, algorithm
    2)."""
    done = ops.AdamWeightDecay()(
        leaf, first, second, rates[0], BETAS[0], BETAS[1], EPSILON, WEIGHT_DECAY, gradient * shrink
    )
    return ops.assign(ema, ema + rates[1] * (ops.depend(leaf, done) - ema))


def _copies(leaves, prefix):
    return ms.ParameterTuple(
        [ms.Parameter(ms.Tensor(leaf.asnumpy().copy()), name=prefix + leaf.name) for leaf in leaves]
    )


def rates(step, total, peak, warmup=200):
    """float32 [2]: learning rate and 1 - EMA decay at a step: linear warm-up, then half a cosine
    down to a twentieth of the peak.

    The primitive has no bias correction; the rate carries it: sqrt(1 - b2^t) / (1 - b1^t) with t =
    step + 1. The average forgets quickly at first: decay = min(0.999, (1 + step) / (10 + step)).
    """
    t = step + 1
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / total))
    rate = peak * min(1.0, t / warmup) * (0.05 + 0.95 * cosine)
    rate *= math.sqrt(1 - BETAS[1] ** t) / (1 - BETAS[0] ** t)
    return np.array((rate, 1 - min(EMA_DECAY, (1 + step) / (10 + step))), np.float32)


# --- the state on disk ----------------------------------------------------------------------------


class Progress(NamedTuple):
    """How far a run has come, and the facts that determine it."""

    step: int
    seconds: float  # spent in training so far
    facts: dict


def save_checkpoint(path, train_step, progress):
    """Write progress, weights, moments and average as one file, which appears whole or not at
    all."""
    metadata = {"progress": json.dumps(progress._asdict())}
    with files.written(path) as part:
        save_file(train_step.arrays(), str(part), metadata=metadata)
        with open(part, "rb") as handle:
            os.fsync(handle.fileno())


def load_checkpoint(path, train_step, facts):
    """Put a checkpoint's state into a TrainStep and give its Progress; a fresh one if there is
    none.

    Raises:
        InputError: the checkpoint is of another run (another seed, batch ...).
    """
    facts = json.loads(json.dumps(facts))
    if not Path(path).exists():
        return Progress(0, 0.0, facts)
    with open_checkpoint(path) as handle:
        stored = Progress(**json.loads(handle.metadata()["progress"]))
        if stored.facts != facts:
            changed = sorted(
                k for k in {*stored.facts, *facts} if stored.facts.get(k) != facts.get(k)
            )
            raise InputError(
                f"{path} is of a run with another {', '.join(changed)}: give the same, or another "
                "--name."
            )
        train_step.restore({name: handle.get_tensor(name) for name in handle.keys()})
    return stored


def read_weights(path):
    """(Progress, {"a.b": array}) of a checkpoint: the averaged weights, and those that were
    frozen."""
    with open_checkpoint(path) as handle:
        weights = {}
        for kind in ("params.", "ema."):
            weights.update(
                {
                    name[len(kind) :]: handle.get_tensor(name)
                    for name in handle.keys()
                    if name.startswith(kind)
                }
            )
        return Progress(**json.loads(handle.metadata()["progress"])), weights


def open_checkpoint(path):
    """Raises InputError where there is no checkpoint of this program."""
    try:
        handle = safe_open(str(path), framework="np")
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path} is no checkpoint ({error}): give one that train.py has written."
        ) from None
    if "progress" not in (handle.metadata() or {}):
        raise InputError(f"{path} is no checkpoint: give one that train.py has written.")
    return handle


class Stop:
    """Within `with Stop() as stop:` a SIGTERM or Ctrl-C makes `stop.asked` true, so that the loop
    can save and leave."""

    def __enter__(self):
        self.asked = False
        self.before = {
            number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def _ask(self, *_):
        self.asked = True

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)


def run(
    train_step,
    batch,
    path,
    facts,
    steps,
    peak,
    until=None,
    save_minutes=4,
    log=print,
    sample=None,
    sample_steps=1000,
    threads=0,
):
    """The training loop: from the checkpoint's step to `steps`, or until a time; saves every few
    minutes and at the end.

    Args:
        train_step: a TrainStep, or what has its methods; its losses are looked at every 50 steps
            and before the weights are saved, so that a GPU need not be waited for.
        batch: function of the step -> inputs of the loss, numpy arrays.
        path: of the checkpoint.
        facts: what the run is determined by; a checkpoint with others is refused.
        until: `time.time()` at which to stop, or None.
        sample: called with the step now and then, to write a sample sheet.
        threads: how many draw the inputs of later steps meanwhile; 0 draws each when its turn
            comes. What is drawn is the same.
    Returns:
        The losses of this call's steps.
    """
    progress = load_checkpoint(path, train_step, facts)
    step, began, saved = progress.step, time.time(), time.time()
    losses = Losses(progress.step, path)

    def save():
        losses.settle()
        save_checkpoint(
            path, train_step, Progress(step, progress.seconds + time.time() - began, progress.facts)
        )

    with Stop() as stop, closing(ahead(batch, step, steps, threads)) as batches:
        while step < steps and not stop.asked and (until is None or time.time() < until):
            loss, norm = train_step(rates(step, steps, peak), *next(batches))
            losses.waiting.append(loss)
            step += 1
            if step % 50 == 0:
                log(
                    f"step {step} loss {np.mean(losses.settle()[-50:]):.5f} norm {float(norm):.3f} "
                    f"{1000 * (time.time() - began) / (step - progress.step):.0f} ms/step"
                )
            sheet_due = sample is not None and step % sample_steps == 0
            if sheet_due or time.time() - saved > 60 * save_minutes:
                save()
                saved = time.time()
            if sheet_due:
                sample(step)
        save()
    return losses.settled


class Losses:
    """The losses of the steps from `first` on; those in `waiting` may still be computed."""

    def __init__(self, first, path):
        self.first, self.path, self.settled, self.waiting = first, path, [], []

    def settle(self):
        """All losses as numbers.

        Raises:
            InputError: one is not finite.
        """
        for loss in map(float, self.waiting):
            if not math.isfinite(loss):
                raise InputError(
                    f"The loss is {loss} at step {self.first + len(self.settled)}: go on from "
                    f"{self.path} with a smaller --rate."
                )
            self.settled.append(loss)
        self.waiting.clear()
        return self.settled


def ahead(batch, start, stop, threads):
    """Yields batch(start), ... batch(stop - 1) in order; threads work on those that come next."""
    if not threads:
        yield from map(batch, range(start, stop))
        return
    with ThreadPoolExecutor(threads) as pool:
        steps, waiting = iter(range(start, stop)), deque()
        try:
            for step in islice(steps, 2 * threads):
                waiting.append(pool.submit(batch, step))
            while waiting:
                yield waiting.popleft().result()
                for step in islice(steps, 1):
                    waiting.append(pool.submit(batch, step))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
