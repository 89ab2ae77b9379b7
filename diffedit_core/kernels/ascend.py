"""Lowerings for Ascend, written from MindSpore's documentation and not run on such a device yet."""

import math

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from . import reference


def attention(query, key, value, heads, causal):
    """The fused kernel in fp16 or bf16 (it accumulates in fp32); it wants head widths that are a
    multiple of 16."""
    dim = query.shape[2] // heads
    if query.dtype == ms.float32 or dim % 16 != 0:
        return reference.attention(query, key, value, heads, causal)
    scale = 1 / math.sqrt(dim)
    if not causal:
        return ops.flash_attention_score(
            query, key, value, heads, scalar_value=scale, input_layout="BSH"
        )
    length = query.shape[1]
    ahead = Tensor(np.triu(np.ones((length, length), np.uint8), 1))  # 1 where a token may not look
    return ops.flash_attention_score(
        query, key, value, heads, attn_mask=ahead, scalar_value=scale, input_layout="BSH"
    )


def group_norm(x, weight, bias, groups, eps):
    """The library's group norm, in fp32."""
    y = ops.group_norm(
        x.astype(ms.float32), groups, weight.astype(ms.float32), bias.astype(ms.float32), eps
    )
    return y.astype(x.dtype)


def upsample(x):
    """The library's nearest-neighbour resize."""
    return ops.interpolate(x, size=(2 * x.shape[2], 2 * x.shape[3]), mode="nearest")
