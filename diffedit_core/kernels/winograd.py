"""A 3x3 convolution with two thirds of the multiplications."""

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from . import library

stacked, taken = ops.Concat(2), ops.Gather()


def conv2d(x, weight, bias):
    """Two rows of the result from four products instead of six: minimal filtering F(2,3) down the
    columns (Winograd 1980; Lavin & Gray 2015, arXiv 1509.09308, section 4.1).

    Of the picture's rows d0, d1, d2, d3 and the kernel's rows g0, g1, g2 come two rows of the
    result, y0 = d0 g0 + d1 g1 + d2 g2 and y1 = d1 g0 + d2 g1 + d3 g2, as

        m0 = (d0 - d2) g0        m1 = (d1 + d2) (g0 + g1 + g2) / 2
        m3 = (d1 - d3) g2        m2 = (d2 - d1) (g0 - g1 + g2) / 2
        y0 = m0 + m1 + m2        y1 = m1 - m2 - m3

    where each product stands for a 1x3 convolution over all channels.

    Args:
        x: [B,C,H,W] with an even H; a border of one zero is added around it.
        weight: [C',C,3,3].
        bias: [C'].
    Returns:
        [B,C',H,W], which differs from the sum over nine offsets by rounding only.
    """
    batch, channels, height, width = x.shape
    pairs = library.reshape(x, (batch, channels, height // 2, 2, width))
    d1, d2 = row_of(pairs, 0), row_of(pairs, 1)
    zeros, rows = ops.zeros((batch, channels, 1, width), x.dtype), height // 2 - 1
    d0 = stacked((zeros, taken(d2, places(0, rows), 2)))
    d3 = stacked((taken(d1, places(1, rows), 2), zeros))

    # the kernel's sums wait for the picture: a graph would make those of all its layers first
    weight = ops.depend(weight, x)
    g0, g1, g2 = [taken(weight, places(i, 1), 2) for i in range(3)]
    outer, middle = (g0 + g2) * 0.5, g1 * 0.5
    m0 = along_rows(d0 - d2, g0)
    m1 = along_rows(d1 + d2, outer + middle)
    m2 = along_rows(d2 - d1, outer - middle)
    m3 = along_rows(d1 - d3, g2)
    y = ops.Concat(3)((m0 + m1 + m2, m1 - m2 - m3))
    return library.bias_add(library.reshape(y, (batch, weight.shape[0], height, width)), bias)


def row_of(pairs, i):
    """Row i of each pair. [B,C,H/2,2,W] -> [B,C,H/2,W].

    Gathered, not sliced: operation by operation a slice is a view, of which every kernel that reads
    it makes a slow copy of its own (MindSpore 2.8).
    """
    rows = taken(pairs, places(i, 1), 3)
    return library.reshape(rows, (*pairs.shape[:3], pairs.shape[4]))


@ops.constexpr
def places(start, count):
    """Indices start, start+1, ...: int32 [count]."""
    return Tensor(np.arange(start, start + count), ms.int32)


def along_rows(x, weight):
    """The library's convolution with a kernel [C',C,1,3], zeros left and right."""
    convolution = ops.Conv2D(weight.shape[0], (1, 3), pad_mode="pad", pad=(0, 0, 1, 1))
    return convolution(x, weight)
