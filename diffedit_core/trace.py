"""Seeing the kernels that a model calls: which, with what shapes, how often, and with what result.

A model is followed as `run(kernels, *inputs)`: `Graph.eagerly`, or for a model whose weights are
not there `unloaded(function, specs, ...)`. It runs operation by operation for this, not compiled.
"""

import functools
from collections import Counter
from typing import NamedTuple

import mindspore as ms
from mindspore import ops

from . import kernels as K
from . import params as P


class Call(NamedTuple):
    """One call `kernels.call(table, name, *tensors, *settings)`: shapes and dtypes of the tensors,
    then all other arguments."""

    name: str
    shapes: tuple
    dtypes: tuple
    settings: tuple


def wrapped(kernels, around):
    """A table that calls `around(name, function, args)` in place of each `function(*args)`.

    What a composite calls within is not wrapped: a trace holds what the model calls, and so is the
    same for every backend.

    Args:
        kernels: a name of `kernels.LOWERINGS`, or a table.
        around: gives the result of the call.
    Returns:
        A table of every operation. Law: around = function(*args) changes nothing, bit for bit.
    """

    def row(name):
        function = functools.partial(K.call, kernels, name)
        return lambda *args: around(name, function, args)

    return {name: row(name) for name in K.OPERATIONS}


def calls(run, *inputs, kernels=None):
    """Every kernel call of a model, and how often it comes.

    Args:
        run: run(kernels, *inputs).
        inputs: tensors.
        kernels: what computes the results; by default `ABSTRACT`, which only gives them their
            shapes.
    Returns:
        Counter {`Call`: times}. Laws: as many as the config says; the same for every `kernels`.
    """
    found = Counter()

    def note(name, function, args):
        found[call(name, args)] += 1
        return function(*args)

    run(wrapped(ABSTRACT if kernels is None else kernels, note), *inputs)
    return found


def call(name, args):
    """The `Call` of an operation with these arguments."""
    tensors = [a for a in args if hasattr(a, "dtype")]
    return Call(
        name,
        tuple(tuple(t.shape) for t in tensors),
        tuple(str(t.dtype).lower() for t in tensors),
        tuple(a for a in args if not hasattr(a, "dtype")),
    )


# --- without weights and without arithmetic -------------------------------------------------------


class Shape(NamedTuple):
    """A leaf without values."""

    shape: tuple
    dtype: object

    def reshape(self, *shape):
        return self._replace(shape=shape)


def unloaded(function, specs, *static, dtype="fp32"):
    """A model as run(kernels, *inputs) from its `specs` alone, for `calls`.

    Only what a function looks up by itself, the positions, needs values: all embeddings get zeros.
    """

    def leaf(_, wanted):
        kind = P.DTYPES[dtype]
        if wanted.init == "embedding":
            return ops.zeros(wanted.shape, kind)
        return Shape(wanted.shape, kind)

    leaves = P.tree_map(leaf, specs)
    return lambda kernels, *inputs: function(leaves, *inputs, *static, kernels)


def _same(x, *_):
    return ops.zeros(x.shape, x.dtype)


def _conv2d(x, weight, bias, stride, padding):
    _fits(x.shape[1], weight.shape)
    top, bottom, left, right = padding
    height = (x.shape[2] + top + bottom - weight.shape[2]) // stride + 1
    width = (x.shape[3] + left + right - weight.shape[3]) // stride + 1
    return ops.zeros((x.shape[0], weight.shape[0], height, width), x.dtype)


def _linear(x, weight, bias):
    _fits(x.shape[-1], weight.shape)
    return ops.zeros((*x.shape[:-1], weight.shape[0]), x.dtype)


def _embedding(ids, weight):
    return ops.zeros((*ids.shape, weight.shape[1]), weight.dtype)


def _upsample(x):
    batch, channels, height, width = x.shape
    return ops.zeros((batch, channels, 2 * height, 2 * width), x.dtype)


def _fits(channels, weight):
    if weight[1] != channels:
        raise ValueError(f"{channels} channels meet a weight of shape {list(weight)}")


# Results of the right shape and dtype, all zeros. An operation keeps its first argument's shape
# unless it has a row here.
ABSTRACT = {
    **{name: _same for name in K.REFERENCE},
    "conv2d": _conv2d,
    "linear": _linear,
    "embedding": _embedding,
    "upsample": _upsample,
}


# --- where a number stopped being finite ----------------------------------------------------------


def finite(*tensors):
    """Whether all numbers are finite. The device looks, and hands over a truth value for each."""
    return all(bool(ops.isfinite(x.astype(ms.float32)).all()) for x in tensors)


def locate_nonfinite(run, params, *inputs, kernels):
    """Run a model operation by operation and name the first one whose result is not finite.

    Args:
        run: run(kernels, *inputs).
        params: the tree of the leaves that it uses.
        kernels: a name of `kernels.LOWERINGS`, or a table.
    Returns:
        A phrase such as "in group_norm with down_blocks.0.resnets.1.norm1.weight".
    """
    names = {id(leaf): path for path, leaf in P.flatten(params).items()}
    latest = ["the first layer"]

    def watched(name, function, args):
        own = [names[id(a)] for a in args if id(a) in names]
        latest[0] = own[0] if own else latest[0]
        result = function(*args)
        if not finite(result):
            raise FloatingPointError(f"in {name} {'with' if own else 'after'} {latest[0]}")
        return result

    try:
        run(wrapped(kernels, watched), *inputs)
    except FloatingPointError as place:
        return str(place)
    return "in the last operation, or only in the compiled graph"
