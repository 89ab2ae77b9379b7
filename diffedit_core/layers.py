"""Blocks that more than one model uses: resnet, spatial transformer, time embedding."""

import math

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from . import kernels as K
from . import params as P

# No config has these: every Stable Diffusion was trained with them.
TRANSFORMER_EPS = 1e-6  # of the group norm in front of a transformer
LAYER_NORM_EPS = 1e-5  # of the layer norms within


def norm_silu(params, x, groups, eps, kernels):
    """silu(group_norm(x)), what each convolution of a resnet sees. [B,C,H,W] -> the same shape."""
    return K.silu(K.group_norm(params, x, groups, eps, kernels), kernels)


def resnet_specs(c_in, c_out, c_time=None):
    """Leaves of `resnet`; `c_time` is the width of the time embedding, None without one."""
    specs = {"norm1": P.norm(c_in), "conv1": P.conv(c_in, c_out, 3)}
    if c_time is not None:
        specs["time_emb_proj"] = P.linear(c_time, c_out)
    specs.update(norm2=P.norm(c_out), conv2=P.conv(c_out, c_out, 3))
    if c_in != c_out:
        specs["conv_shortcut"] = P.conv(c_in, c_out, 1)
    return specs


def resnet(params, x, time, groups, eps, kernels, scale=1.0):
    """Residual block: y = (skip(x) + conv(silu(norm(conv(silu(norm(x))) + proj(silu(time)))))) /
    scale.

    Args:
        x: [B,C,H,W].
        time: time embedding [B,E], or None.
        scale: divisor of the sum (the mid block's mid_block_scale_factor).
    Returns:
        [B,C',H,W].
    Source: He et al. 2016 (arXiv 1512.03385) with group norm and time embedding as in Ho et al.
        2020, appendix B.
    """
    h = norm_silu(params["norm1"], x, groups, eps, kernels)
    h = K.conv2d(params["conv1"], h, kernels)
    if time is not None:
        shift = K.linear(params["time_emb_proj"], K.silu(time, kernels), kernels)
        h = h + shift.reshape(shift.shape[0], shift.shape[1], 1, 1)
    h = norm_silu(params["norm2"], h, groups, eps, kernels)
    h = K.conv2d(params["conv2"], h, kernels)

    if "conv_shortcut" in params:
        x = K.conv2d(params["conv_shortcut"], x, kernels, padding=(0, 0, 0, 0))
    y = x + h
    return y if scale == 1 else y / scale


def attention_specs(channels, context, bias=False):
    """Leaves of `attention`."""
    return {
        "to_q": P.linear(channels, channels, bias),
        "to_k": P.linear(context, channels, bias),
        "to_v": P.linear(context, channels, bias),
        "to_out.0": P.linear(channels, channels),
    }


def attention(params, x, context, heads, kernels):
    """Attention of x [B,T,C] to context [B,S,D] -> [B,T,C]."""
    query = K.linear(params["to_q"], x, kernels)
    key = K.linear(params["to_k"], context, kernels)
    value = K.linear(params["to_v"], context, kernels)
    return K.linear(params["to_out.0"], K.attention(query, key, value, heads, kernels), kernels)


def spatial_attention_specs(channels):
    """Leaves of `spatial_attention`."""
    return {"group_norm": P.norm(channels), **attention_specs(channels, channels, bias=True)}


def spatial_attention(params, x, heads, groups, eps, kernels):
    """Every cell attends to every cell; added to its input. [B,C,H,W] -> [B,C,H,W] (Ho et al. 2020,
    appendix B)."""
    h = K.group_norm(params["group_norm"], x, groups, eps, kernels)
    query = K.linear_from_picture(params["to_q"], h, kernels)
    key = K.linear_from_picture(params["to_k"], h, kernels)
    value = K.linear_from_picture(params["to_v"], h, kernels)
    h = K.attention(query, key, value, heads, kernels)
    return x + K.linear_to_picture(params["to_out.0"], h, x.shape[2], x.shape[3], kernels)


def transformer_specs(channels, context, depth, linear_projection):
    """Leaves of `transformer`; it projects in and out by a linear layer (SD 2.x) or by a 1x1
    convolution (SD 1.x)."""
    projection = (
        P.linear(channels, channels) if linear_projection else P.conv(channels, channels, 1)
    )
    block = {
        "norm1": P.norm(channels),
        "attn1": attention_specs(channels, channels),
        "norm2": P.norm(channels),
        "attn2": attention_specs(channels, context),
        "norm3": P.norm(channels),
        "ff": {
            "net.0.proj": P.linear(channels, 8 * channels),
            "net.2": P.linear(4 * channels, channels),
        },
    }
    return {
        "norm": P.norm(channels),
        "proj_in": projection,
        **{f"transformer_blocks.{i}": block for i in range(depth)},
        "proj_out": projection,
    }


def transformer(params, x, context, heads, depth, groups, kernels):
    """Spatial transformer: every cell attends to every cell, then to the text; added to its input.

    Args:
        x: [B,C,H,W].
        context: text states [B,S,D].
    Returns:
        [B,C,H,W].
    Source: Rombach et al. 2022 (arXiv 2112.10752), section 3.3 and appendix E.2.1.
    """
    h = K.group_norm(params["norm"], x, groups, TRANSFORMER_EPS, kernels)
    h = K.linear_from_picture(params["proj_in"], h, kernels)  # [B,HW,C]
    for i in range(depth):
        block = params["transformer_blocks." + str(i)]
        n = K.layer_norm(block["norm1"], h, LAYER_NORM_EPS, kernels)
        h = h + attention(block["attn1"], n, n, heads, kernels)
        n = K.layer_norm(block["norm2"], h, LAYER_NORM_EPS, kernels)
        h = h + attention(block["attn2"], n, context, heads, kernels)
        n = K.layer_norm(block["norm3"], h, LAYER_NORM_EPS, kernels)
        h = h + K.geglu(block["ff"], n, kernels)
    return x + K.linear_to_picture(params["proj_out"], h, x.shape[2], x.shape[3], kernels)


def time_specs(channels):
    """Leaves of `time_embedding`."""
    return {
        "linear_1": P.linear(channels, 4 * channels),
        "linear_2": P.linear(4 * channels, 4 * channels),
    }


def time_embedding(params, timesteps, channels, flip_sin_to_cos, freq_shift, dtype, kernels):
    """Sinusoids of the timestep through a small network: [B] -> [B,4C].

    sin(t w_k) and cos(t w_k) with w_k = 10000^(-k / (C/2 - freq_shift)); cosines first if
    `flip_sin_to_cos`. The frequencies are computed in float64, the angles in float32 in every
    precision: fp16 cannot hold t = 999 radians.
    Source: Vaswani et al. 2017, section 3.5; Ho et al. 2020, appendix B.
    """
    angles = timesteps.astype(ms.float32).reshape(-1, 1) * frequencies(channels // 2, freq_shift)
    sines, cosines = ops.sin(angles), ops.cos(angles)
    h = ops.concat((cosines, sines) if flip_sin_to_cos else (sines, cosines), 1)
    if channels % 2 == 1:
        h = ops.concat((h, ops.zeros((h.shape[0], 1), h.dtype)), 1)
    h = K.silu(K.linear(params["linear_1"], h.astype(dtype), kernels), kernels)
    return K.linear(params["linear_2"], h, kernels)


@ops.constexpr
def frequencies(half, freq_shift):
    """[1,C/2] float32: 10000^(-k / (C/2 - freq_shift)), computed in float64."""
    w = np.exp(-math.log(10000) * np.arange(half) / (half - freq_shift))
    return Tensor(w.astype(np.float32).reshape(1, half))
