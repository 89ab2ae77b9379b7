"""Lowerings for Ascend, written from MindSpore's and CANN's documentation and not run on such a
device.

Each calls an operation that MindSpore 2.8 hands to a kernel of CANN's aclnn library; README.md says
which, and how each was checked. The older ones, which are compiled for each shape on the device,
stay in `aclop.py`.
"""

import math

import mindspore as ms
import numpy as np
from mindspore import Tensor, mint, ops

from . import reference
from .library import after, joined

WIDTH_UNIT = 16  # the fused attention takes heads whose width is a multiple of this,
WIDEST_HEAD = 256  # documented up to 512; wider ones go the other way until one was seen to work
SCORE_BYTES = 512 << 20  # the other attention holds at most this many bytes of scores at a time
SCORE_COPIES = 3  # of them at once: the scores, what softmax makes of them, and a mask or a copy


def conv2d(x, weight, bias, stride, padding):
    """The library's convolution with its bias; a padding that is not the same on both sides comes
    before it."""
    top, bottom, left, right = padding
    if top == bottom and left == right:
        return mint.nn.functional.conv2d(x, weight, bias, stride, (top, left))
    x = mint.nn.functional.pad(x, (left, right, top, bottom))
    return mint.nn.functional.conv2d(x, weight, bias, stride, 0)


def linear(x, weight, bias):
    """The library's linear layer with its bias."""
    return mint.nn.functional.linear(x, weight, bias)


def attention(query, key, value, heads, causal):
    """The fused kernel in fp16 and bf16 (it accumulates in fp32); `attention_by_parts` in fp32, and
    for heads wider than `WIDEST_HEAD`.

    Zeros fill up a head whose width is no multiple of 16: they add nothing to a score, the scale is
    that of the true width, and the columns of zeros in the result are left out.
    """
    batch, length, channels = query.shape
    width = channels // heads
    if query.dtype == ms.float32 or width > WIDEST_HEAD:
        return attention_by_parts(query, key, value, heads, causal)
    scale = 1 / math.sqrt(width)
    missing = -width % WIDTH_UNIT
    q, k, v = [widened(t, heads, missing) for t in (query, key, value)]
    ahead = forbidden(length) if causal else None
    y = ops.flash_attention_score(
        q, k, v, heads, attn_mask=ahead, scalar_value=scale, input_layout="BSH"
    )
    if missing == 0:
        return y
    y = y.reshape(batch, length, heads, width + missing)[:, :, :, :width]
    return y.reshape(batch, length, channels)


@ops.constexpr
def forbidden(length):
    """[T,T] uint8: 1 where a token may not look, ahead of itself."""
    return Tensor(np.triu(np.ones((length, length), np.uint8), 1))


def widened(x, heads, missing):
    """[B,T,C] with so many zeros behind the channels of each head."""
    if missing == 0:
        return x
    batch, length, channels = x.shape
    zeros = ops.zeros((batch, length, heads, missing), x.dtype)
    x = ops.concat((x.reshape(batch, length, heads, channels // heads), zeros), 3)
    return x.reshape(batch, length, channels + heads * missing)


def attention_by_parts(query, key, value, heads, causal, score_bytes=SCORE_BYTES):
    """Attention in fp32, so many queries at a time as have scores of `score_bytes`, one part after
    the other."""
    batch, length, channels = query.shape
    tokens, width = key.shape[1], channels // heads
    q = heads_first(query, heads) * (1 / math.sqrt(width))
    k, v = heads_first(key, heads), heads_first(value, heads)
    ahead = reference.causal_mask(length) if causal else None
    rows = queries_at_once(score_bytes // (4 * batch * heads * tokens))
    pieces = ()
    for start in range(0, length, rows):
        part = after(q[:, start : start + rows], pieces)
        scores = ops.BatchMatMul(transpose_b=True)(part, k)
        if ahead is not None:
            scores = scores + ahead[start : start + rows]
        pieces = pieces + (ops.BatchMatMul()(ops.softmax(scores, -1), v),)
    y = joined(pieces, 1).reshape(batch, heads, length, width)
    return y.swapaxes(1, 2).reshape(batch, length, channels).astype(query.dtype)


def queries_at_once(most):
    """At least one; more of them as a multiple of `WIDTH_UNIT`, in which the device computes."""
    return max(1, most if most < WIDTH_UNIT else most - most % WIDTH_UNIT)


def heads_first(x, heads):
    """[B,T,C] -> [B*heads,T,C/heads] in fp32."""
    batch, length, channels = x.shape
    x = x.astype(ms.float32).reshape(batch, length, heads, channels // heads)
    return x.swapaxes(1, 2).reshape(batch * heads, length, channels // heads)


def group_norm(x, weight, bias, groups, eps):
    """The library's group norm in the dtype of x."""
    return mint.nn.functional.group_norm(x, groups, weight, bias, eps)


def layer_norm(x, weight, bias, eps):
    """The library's layer norm over the last axis."""
    return mint.nn.functional.layer_norm(x, (x.shape[-1],), weight, bias, eps)


def gelu(x):
    """The library's exact GELU as one kernel: a chain of five rounds 1 + erf to nothing below -1
    where the dtype is a half one."""
    return mint.nn.functional.gelu(x, approximate="none")


def upsample(x):
    """The library's nearest-neighbour resize."""
    return mint.nn.functional.interpolate(x, size=(2 * x.shape[2], 2 * x.shape[3]), mode="nearest")


def embedding(ids, weight):
    """The library's embedding."""
    return mint.nn.functional.embedding(ids, weight)
