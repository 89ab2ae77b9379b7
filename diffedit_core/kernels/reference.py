"""Every operation once, as readable as its equation: what each lowering of a device is compared
with."""

import math

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops


def conv2d(x, weight, bias, stride, padding):
    """Sum over the kernel's offsets of shifted pictures times a matrix."""
    top, bottom, left, right = padding
    batch, c_in, height, width = x.shape
    c_out, _, rows, columns = weight.shape
    if top + bottom:
        above = ops.zeros((batch, c_in, top, width), x.dtype)
        below = ops.zeros((batch, c_in, bottom, width), x.dtype)
        x = ops.concat((above, x, below), 2)
        height = height + top + bottom
    if left + right:
        before = ops.zeros((batch, c_in, height, left), x.dtype)
        behind = ops.zeros((batch, c_in, height, right), x.dtype)
        x = ops.concat((before, x, behind), 3)
        width = width + left + right

    h_out, w_out = (height - rows) // stride + 1, (width - columns) // stride + 1
    tall, wide = stride * (h_out - 1) + 1, stride * (w_out - 1) + 1
    y = bias.reshape(1, c_out, 1)
    for i in range(rows):
        for j in range(columns):
            window = x[:, :, i : i + tall : stride, j : j + wide : stride]
            y = y + ops.matmul(weight[:, :, i, j], window.reshape(batch, c_in, h_out * w_out))
    return y.reshape(batch, c_out, h_out, w_out)


def linear(x, weight, bias):
    """y = x W^T + b."""
    y = ops.matmul(x, weight.swapaxes(0, 1))
    return y if bias is None else y + bias


def attention(query, key, value, heads, causal):
    """softmax(Q K^T / sqrt(d)) V for each head; scores, softmax and products in fp32 (Vaswani et
    al. 2017, eq. 1)."""
    batch, length, channels = query.shape
    dim = channels // heads
    q, k, v = [
        t.astype(ms.float32).reshape(batch, t.shape[1], heads, dim).swapaxes(1, 2)
        for t in (query, key, value)
    ]
    scores = ops.matmul(q, k.swapaxes(2, 3)) / math.sqrt(dim)
    if causal:
        scores = scores + causal_mask(length)
    y = ops.matmul(ops.softmax(scores, -1), v)
    return y.swapaxes(1, 2).reshape(batch, length, channels).astype(query.dtype)


@ops.constexpr  # in a graph, numpy can be called only if it lies in a folder site-packages
def causal_mask(length):
    """[T,T] float32: 0 where a token may look (at itself and back), a large negative number ahead
    of it."""
    return Tensor(np.triu(np.full((length, length), -1e30, np.float32), 1))


def group_norm(x, weight, bias, groups, eps):
    """(x - mean) / sqrt(var + eps) over each group of channels, in fp32, then scale and shift (Wu &
    He 2018)."""
    batch, channels, height, width = x.shape
    y = x.astype(ms.float32).reshape(batch, groups, -1)
    centred = y - y.mean(-1, keep_dims=True)
    y = centred * ops.rsqrt((centred * centred).mean(-1, keep_dims=True) + eps)
    y = y.reshape(batch, channels, height, width).astype(x.dtype)
    return y * weight.reshape(1, channels, 1, 1) + bias.reshape(1, channels, 1, 1)


def layer_norm(x, weight, bias, eps):
    """(x - mean) / sqrt(var + eps) over the last axis, in fp32, then scale and shift (Ba et al.
    2016)."""
    y = x.astype(ms.float32)
    centred = y - y.mean(-1, keep_dims=True)
    y = centred * ops.rsqrt((centred * centred).mean(-1, keep_dims=True) + eps)
    return y.astype(x.dtype) * weight + bias


def gelu(x):
    """x Phi(x) with the exact normal distribution (Hendrycks & Gimpel 2016)."""
    return x * 0.5 * (1 + ops.erf(x / math.sqrt(2)))


def quick_gelu(x):
    """x sigmoid(1.702 x), the approximation that SD 1.x's text encoder was trained with."""
    return x * ops.sigmoid(x * 1.702)


def silu(x):
    """x sigmoid(x)."""
    return x * ops.sigmoid(x)


def embedding(ids, weight):
    """The rows of the matrix with these numbers."""
    return ops.gather(weight, ids.astype(ms.int32), 0)


def upsample(x):
    """Nearest neighbour, twice as high and wide."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height, 1, width, 1)
    x = ops.broadcast_to(x, (batch, channels, height, 2, width, 2))
    return x.reshape(batch, channels, 2 * height, 2 * width)
