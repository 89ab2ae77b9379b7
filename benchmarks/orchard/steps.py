"""A training step as one graph, and its state on disk.

A loss is a pure function of (params, *inputs, *static) like every function of `diffedit_core`; `TrainStep` differentiates it
through `graphs.Graph` and applies AdamW and a moving average of the weights. Everything random is an input, drawn from
(seed, step) by the caller, so that a run that was stopped and resumed gives what an uninterrupted one does.
"""

import json
import math
import os
import signal
import time
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn, ops
from safetensors import safe_open
from safetensors.numpy import save_file

from diffedit_core import params as P
from diffedit_core.errors import InputError
from diffedit_core.graphs import Graph

BETAS, EPSILON, WEIGHT_DECAY, LARGEST_NORM, EMA_DECAY = (0.9, 0.99), 1e-8, 0.01, 1.0, 0.999


class TrainStep(nn.Cell):
    """`TrainStep(loss, params, *static)(rates, *inputs)` updates params in place and returns (loss, gradient norm).

    AdamW (Loshchilov & Hutter 2019) on gradients clipped to a global norm of 1, then ema += (1 - decay) (params - ema).

    Args:
        loss: pure function of (params, *inputs, *static) -> scalar.
        params: tree of `mindspore.Parameter`.
        rates: float32 [2] of `rates(...)`: the learning rate with its bias correction, and 1 - decay of the average.
    """

    def __init__(self, loss, params, *static):
        super().__init__(auto_prefix=False)
        self.graph = Graph(loss, params, *static)
        self.leaves = self.graph.leaves
        self.first, self.second, self.ema = [_copies(self.leaves, name) for name in ("first.", "second.", "ema.")]
        for leaf in (*self.first, *self.second):
            leaf.set_data(ops.zeros_like(leaf))
        self.gradient = ms.value_and_grad(self.graph, None, self.leaves)
        self.adam = ops.AdamWeightDecay()

    def construct(self, rates, *inputs):
        loss, gradients = self.gradient(*inputs)
        squares = 0.0
        for g in gradients:
            squares = squares + ops.ReduceSum()(g * g)
        norm = ops.sqrt(squares)
        shrink = LARGEST_NORM / ops.maximum(norm, LARGEST_NORM)
        for leaf, first, second, ema, g in zip(self.leaves, self.first, self.second, self.ema, gradients):
            done = self.adam(leaf, first, second, rates[0], BETAS[0], BETAS[1], EPSILON, WEIGHT_DECAY, g * shrink)
            moved = ops.depend(leaf, done)
            ops.assign(ema, ema + rates[1] * (moved - ema))
        return loss, norm

    def state(self):
        """{"params.a.b": array, "first.a.b": ..., "second.a.b": ..., "ema.a.b": ...}"""
        named = {"params": self.leaves, "first": self.first, "second": self.second, "ema": self.ema}
        paths = list(P.flatten(self.graph.params))
        return {f"{kind}.{path}": leaf for kind, leaves in named.items() for path, leaf in zip(paths, leaves)}


def _copies(leaves, prefix):
    return ms.ParameterTuple([ms.Parameter(ms.Tensor(leaf.asnumpy().copy()), name=prefix + leaf.name) for leaf in leaves])


def rates(step, total, peak, warmup=200):
    """[learning rate, 1 - EMA decay] at a step: linear warm-up, then half a cosine down to a twentieth of the peak.

    The primitive has no bias correction; the rate carries it: sqrt(1 - b2^t) / (1 - b1^t) with t = step + 1. The average
    forgets quickly at first: decay = min(0.999, (1 + step) / (10 + step)).
    """
    t = step + 1
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / total))
    rate = peak * min(1.0, t / warmup) * (0.05 + 0.95 * cosine)
    rate *= math.sqrt(1 - BETAS[1] ** t) / (1 - BETAS[0] ** t)
    return ms.Tensor(np.array((rate, 1 - min(EMA_DECAY, (1 + step) / (10 + step))), np.float32))


# --- the state on disk ------------------------------------------------------------------------------------------------


def save_checkpoint(path, step, train_step, facts):
    """Write step, weights, moments and average as one file, which appears whole or not at all."""
    path = Path(path)
    arrays = {name: leaf.asnumpy() for name, leaf in train_step.state().items()}
    part = path.with_suffix(".part")
    save_file(arrays, str(part), metadata={"step": str(step), "facts": json.dumps(facts)})
    with open(part, "rb") as handle:
        os.fsync(handle.fileno())
    os.replace(part, path)


def load_checkpoint(path, train_step, facts):
    """Put a checkpoint's state into a TrainStep; returns its step, 0 if there is none.

    Raises:
        InputError: the checkpoint is of another run (another config, seed, batch ...).
    """
    path = Path(path)
    if not path.exists():
        return 0
    with safe_open(str(path), framework="np") as handle:
        metadata = handle.metadata()
        stored = json.loads(metadata["facts"])
        if stored != json.loads(json.dumps(facts)):
            changed = sorted(k for k in {*stored, *facts} if stored.get(k) != json.loads(json.dumps(facts)).get(k))
            raise InputError(f"{path} is of a run with another {', '.join(changed)}: give the same, or another --out.")
        for name, leaf in train_step.state().items():
            leaf.set_data(ms.Tensor(handle.get_tensor(name)))
    return int(metadata["step"])


def read_weights(path, kind="ema"):
    """(step, {"a.b": array}) of a checkpoint, its moving average or its "params"."""
    with safe_open(str(path), framework="np") as handle:
        names = [name for name in handle.keys() if name.startswith(kind + ".")]
        return int(handle.metadata()["step"]), {name[len(kind) + 1:]: handle.get_tensor(name) for name in names}


class Stop:
    """True once the process was asked to end (SIGTERM or Ctrl-C): the loop then saves and leaves."""

    def __init__(self):
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, *_):
        self.asked = True

    def __bool__(self):
        return self.asked


def run(train_step, batch, path, facts, steps, peak, until=None, save_minutes=4, log=print, sample=None, sample_steps=1000):
    """The training loop: from the checkpoint's step to `steps`, or until a time; saves every few minutes and at the end.

    Args:
        batch: function of the step -> inputs of the loss.
        path: of the checkpoint.
        facts: what the run is determined by; a checkpoint with others is refused.
        until: `time.time()` at which to stop, or None.
        sample: called with the step now and then, to write a sample sheet.
    Returns:
        The losses of this call's steps.
    """
    step, losses, stop = load_checkpoint(path, train_step, facts), [], Stop()
    saved = began = time.time()
    first = step
    while step < steps and not stop and (until is None or time.time() < until):
        loss, norm = train_step(rates(step, steps, peak), *batch(step))
        losses.append(float(loss.asnumpy()))
        if not math.isfinite(losses[-1]):
            raise InputError(f"The loss is {losses[-1]} at step {step}: start again from {path} with a smaller --rate.")
        step += 1
        if step % 50 == 0:
            seconds = (time.time() - began) / (step - first)
            log(f"step {step} loss {np.mean(losses[-50:]):.5f} norm {float(norm.asnumpy()):.3f} {1000 * seconds:.0f} ms/step")
        if time.time() - saved > 60 * save_minutes:
            save_checkpoint(path, step, train_step, facts)
            saved = time.time()
        if sample is not None and step % sample_steps == 0:
            sample(step)
    save_checkpoint(path, step, train_step, facts)
    return losses
