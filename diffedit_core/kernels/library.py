"""Lowerings that call MindSpore's library and that several devices share.

A graph is compiled for each shape that a kernel meets. A tensor's method or operator is a function
with branches, all of which the compiler follows each time; a primitive has none, and
`ops.constexpr` leaves arithmetic with shapes to Python. So kernels that meet many shapes use both.

`x[a:b]` of the first axis copies one element after the other on one thread; `piece` copies blocks
(MindSpore 2.8 on a CPU).
"""

import math

from mindspore import ops

reshape, cast, bias_add, slice_of = ops.Reshape(), ops.Cast(), ops.BiasAdd(), ops.Slice()
product = ops.MatMul(transpose_b=True)  # x W^T


def conv2d(x, weight, bias, stride, padding):
    """The library's convolution."""
    convolution = ops.Conv2D(
        weight.shape[0], weight.shape[2:4], pad_mode="pad", pad=padding, stride=stride
    )
    return bias_add(convolution(x, weight), bias)


def linear(x, weight, bias):
    """One matrix product over all leading axes."""
    y = product(reshape(x, (-1, weight.shape[1])), weight)
    y = y if bias is None else bias_add(y, bias)
    return reshape(y, with_last(x.shape, weight.shape[0]))


def layer_norm(x, weight, bias, eps):
    """The library's primitive, which keeps its sums in fp32."""
    return ops.LayerNorm(begin_norm_axis=-1, begin_params_axis=-1, epsilon=eps)(x, weight, bias)[0]


def gelu(x):
    """The library's exact GELU: five kernels, each of which rounds to the dtype."""
    return ops.gelu(x, approximate="none")


def silu(x):
    """The library's SiLU."""
    return ops.silu(x)


# --- shapes ---------------------------------------------------------------------------------------


@ops.constexpr
def with_last(shape, last):
    """A shape with another last axis."""
    return (*shape[:-1], last)


@ops.constexpr
def bytes_of(*shape):
    """Of an array of such a shape, in fp32."""
    return 4 * math.prod(shape)


@ops.constexpr
def corner(shape, axis, start):
    """Where a piece begins that is cut along an axis."""
    return tuple(start if i == axis else 0 for i in range(len(shape)))


@ops.constexpr
def extent(shape, axis, count):
    """The shape of such a piece."""
    return tuple(count if i == axis else n for i, n in enumerate(shape))


# --- arrays in pieces -----------------------------------------------------------------------------


def piece(x, axis, start, count):
    """`count` of x along an axis, from `start` on."""
    return slice_of(x, corner(x.shape, axis, start), extent(x.shape, axis, count))


def joined(pieces, axis):
    """The pieces one after the other along an axis."""
    return ops.concat(pieces, axis) if len(pieces) > 1 else pieces[0]


def after(x, earlier):
    """x, not before the last of the earlier results is there."""
    return ops.depend(x, earlier[-1]) if len(earlier) > 0 else x
