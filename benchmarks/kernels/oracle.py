"""Each operation in numpy and float64, from its equation, fast enough for full sizes.

`tests/reference.py` has the slow and literal form; a test compares the two.
"""

import math

import numpy as np

_erf = np.frompyfunc(math.erf, 1, 1)


def erf(x):
    """The error function, element by element."""
    return _erf(x).astype(np.float64)


def conv2d(x, weight, bias, stride, padding):
    """Sum over the kernel's offsets of a matrix times the shifted picture."""
    top, bottom, left, right = padding
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    rows, columns = weight.shape[2:]
    height, width = (x.shape[2] - rows) // stride + 1, (x.shape[3] - columns) // stride + 1
    taps = np.ascontiguousarray(weight.transpose(2, 3, 0, 1))  # numpy's product is slow on strides
    y = np.empty((len(x), len(weight), height * width))
    y[:] = bias[:, None]
    for i in range(rows):
        for j in range(columns):
            window = x[:, :, i : i + stride * height : stride, j : j + stride * width : stride]
            window = window[:, :, :height, :width].reshape(len(x), x.shape[1], -1)
            y += taps[i, j] @ window
    return y.reshape(len(x), len(weight), height, width)


def linear(x, weight, bias=None):
    """x W^T + b."""
    y = x @ weight.reshape(weight.shape[:2]).T
    return y if bias is None else y + bias


def linear_from_picture(x, weight, bias=None):
    """Each cell through a linear layer."""
    return linear(x.reshape(*x.shape[:2], -1).swapaxes(1, 2), weight, bias)


def linear_to_picture(x, weight, *rest):
    """The same, from a list of cells to a picture; rest is (bias, height, width), and the bias may
    be None and last of the tensors."""
    bias, height, width = rest
    return linear(x, weight, bias).swapaxes(1, 2).reshape(len(x), -1, height, width)


def geglu(x, weight, bias, weight_out, bias_out):
    """(a gelu(b)) W'^T + b'."""
    a, b = np.split(linear(x, weight, bias), 2, -1)
    return linear(a * gelu(b), weight_out, bias_out)


def attention(query, key, value, heads, causal, rows=1024):
    """softmax(Q K^T / sqrt(d)) V, some queries of a head at a time."""
    y, dim = np.empty_like(query), query.shape[2] // heads
    for b in range(len(query)):
        for h in range(heads):
            own = slice(h * dim, (h + 1) * dim)
            for start in range(0, query.shape[1], rows):
                part = slice(start, start + rows)
                scores = query[b, part, own] @ key[b, :, own].T / math.sqrt(dim)
                if causal:
                    scores[np.triu_indices(len(scores), start + 1, scores.shape[1])] = -np.inf
                scores = np.exp(scores - scores.max(-1, keepdims=True))
                scores /= scores.sum(-1, keepdims=True)
                y[b, part, own] = scores @ value[b, :, own]
    return y


def group_norm(x, weight, bias, groups, eps):
    """Zero mean and unit variance over each group of channels, then scale and shift."""
    y = x.reshape(len(x), groups, -1)
    y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + eps)
    return y.reshape(x.shape) * weight[:, None, None] + bias[:, None, None]


def layer_norm(x, weight, bias, eps):
    """The same over the last axis."""
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    return y * weight + bias


def gelu(x):
    """x Phi(x)."""
    return x * 0.5 * (1 + erf(x / math.sqrt(2)))


def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x))


ORACLES = {
    "conv2d": conv2d,
    "linear": linear,
    "linear_from_picture": linear_from_picture,
    "linear_to_picture": linear_to_picture,
    "geglu": geglu,
    "attention": attention,
    "group_norm": group_norm,
    "layer_norm": layer_norm,
    "gelu": gelu,
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),
    "silu": lambda x: x * sigmoid(x),
    "upsample": lambda x: x.repeat(2, 2).repeat(2, 3),
    "add": lambda x, y: x + y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / y,
    "triad": lambda x, y, factor: factor * x + y,
    "cast": lambda x, dtype: x,
    "concat2": lambda x, y, axis: np.concatenate((x, y), axis),
    "concat3": lambda x, y, z, axis: np.concatenate((x, y, z), axis),
    "cut": lambda x, sizes: x[tuple(slice(n) for n in sizes)],
    "embedding": lambda ids, table: table[ids.astype(int)],
    "gather": lambda table, ids: table[ids.astype(int)],
    "clamp": np.clip,
    "sin": np.sin,
    "cos": np.cos,
}
