"""Lowerings for Ascend by the older operations, which have no aclnn kernel: the device compiles
them for each shape. They are kept to compare with, and not run on such a device either."""

import mindspore as ms
from mindspore import ops

from . import ascend, reference


def attention(query, key, value, heads, causal):
    """The fused kernel in fp16 and bf16 for heads that it takes as they are, else the reference."""
    if query.dtype == ms.float32 or query.shape[2] // heads % ascend.WIDTH_UNIT != 0:
        return reference.attention(query, key, value, heads, causal)
    return ascend.attention(query, key, value, heads, causal)


def group_norm(x, weight, bias, groups, eps):
    """The library's group norm, in fp32."""
    y = ops.group_norm(
        x.astype(ms.float32), groups, weight.astype(ms.float32), bias.astype(ms.float32), eps
    )
    return y.astype(x.dtype)


def upsample(x):
    """The library's nearest-neighbour resize, in fp32: older CANN takes no bf16."""
    y = ops.interpolate(x.astype(ms.float32), size=(2 * x.shape[2], 2 * x.shape[3]), mode="nearest")
    return y.astype(x.dtype)
