"""The KL autoencoder between pictures and latents, and its tiled form for large pictures."""

from typing import NamedTuple

import numpy as np
from mindspore import ops

from . import kernels as K
from . import layers as L
from . import params as P

EPS = 1e-6  # of every group norm; no config has it: every autoencoder of the kind has this


def specs(config):
    """Leaves of the autoencoder for a `VAEConfig`."""
    widths, latent = config.block_out_channels, config.latent_channels
    last, moments = widths[-1], 2 * config.latent_channels

    block = {f"resnets.{j}": L.resnet_specs(last, last) for j in range(2)}
    if config.mid_block_add_attention:
        block["attentions.0"] = L.spatial_attention_specs(last)

    def stack(name, order, layers, sampler):
        blocks, c = {}, order[0]
        for i, width in enumerate(order):
            level = blocks[f"{name}.{i}"] = {}
            for j in range(layers):
                level[f"resnets.{j}"] = L.resnet_specs(c, width)
                c = width
            if i < len(order) - 1:
                level[f"{sampler}.0.conv"] = P.conv(width, width, 3)
        return blocks

    tree = {
        "encoder": {
            "conv_in": P.conv(config.in_channels, widths[0], 3),
            **stack("down_blocks", widths, config.layers_per_block, "downsamplers"),
            "mid_block": block,
            "conv_norm_out": P.norm(last),
            "conv_out": P.conv(last, moments, 3),
        },
        "decoder": {
            "conv_in": P.conv(latent, last, 3),
            **stack("up_blocks", widths[::-1], config.layers_per_block + 1, "upsamplers"),
            "mid_block": block,
            "conv_norm_out": P.norm(widths[0]),
            "conv_out": P.conv(widths[0], config.out_channels, 3),
        },
    }
    if config.use_quant_conv:
        tree["quant_conv"] = P.conv(moments, moments, 1)
    if config.use_post_quant_conv:
        tree["post_quant_conv"] = P.conv(latent, latent, 1)
    return tree


def mid_block(params, x, config, kernels):
    """Resnet, self-attention over all cells with one head, resnet. [B,C,h,w] -> [B,C,h,w]."""
    groups = config.norm_num_groups
    x = L.resnet(params["resnets.0"], x, None, groups, EPS, kernels)
    if config.mid_block_add_attention:
        x = L.spatial_attention(params["attentions.0"], x, 1, groups, EPS, kernels)
    return L.resnet(params["resnets.1"], x, None, groups, EPS, kernels)


def encode(params, image, config, kernels):
    """Picture -> mean and log-variance of its latents, unscaled; the log-variance is clamped to
    [-30, 20].

    Args:
        image: [B,3,H,W] in [-1,1], H and W multiples of `config.factor`.
    Returns:
        (mean, log_variance), each [B,C,h,w].
    Source: Kingma & Welling 2013 (arXiv 1312.6114); Rombach et al. 2022, section 3.1.
    """
    groups, levels, p = config.norm_num_groups, len(config.block_out_channels), params["encoder"]
    x = K.conv2d(p["conv_in"], image, kernels)
    for i in range(levels):
        block = p["down_blocks." + str(i)]
        for j in range(config.layers_per_block):
            x = L.resnet(block["resnets." + str(j)], x, None, groups, EPS, kernels)
        if i < levels - 1:
            x = K.conv2d(block["downsamplers.0.conv"], x, kernels, stride=2, padding=(0, 1, 0, 1))
    x = mid_block(p["mid_block"], x, config, kernels)
    x = L.norm_silu(p["conv_norm_out"], x, groups, EPS, kernels)
    x = K.conv2d(p["conv_out"], x, kernels)
    if config.use_quant_conv:
        x = K.conv2d(params["quant_conv"], x, kernels, padding=(0, 0, 0, 0))
    return x[:, : config.latent_channels], ops.clamp(x[:, config.latent_channels :], -30.0, 20.0)


def decode(params, latents, config, kernels):
    """Unscaled latents [B,C,h,w] -> picture [B,3,H,W], about [-1,1] and not clipped."""
    groups, levels, p = config.norm_num_groups, len(config.block_out_channels), params["decoder"]
    if config.use_post_quant_conv:
        latents = K.conv2d(params["post_quant_conv"], latents, kernels, padding=(0, 0, 0, 0))
    x = mid_block(p["mid_block"], K.conv2d(p["conv_in"], latents, kernels), config, kernels)
    for i in range(levels):
        block = p["up_blocks." + str(i)]
        for j in range(config.layers_per_block + 1):
            x = L.resnet(block["resnets." + str(j)], x, None, groups, EPS, kernels)
        if i < levels - 1:
            x = K.conv2d(block["upsamplers.0.conv"], K.upsample(x, kernels), kernels)
    x = L.norm_silu(p["conv_norm_out"], x, groups, EPS, kernels)
    return K.conv2d(p["conv_out"], x, kernels)


def sample(mean, log_variance, noise):
    """z = mean + exp(log_variance / 2) noise, all [B,C,h,w] (Kingma & Welling 2013, section
    2.4)."""
    return mean + ops.exp(0.5 * log_variance) * noise


class Tiling(NamedTuple):
    """Side and overlap of tiles, both in latent cells."""

    tile: int = 48
    overlap: int = 12


def encode_tiled(encode_one, image, factor, tiling):
    """`encode_one` (picture -> (mean, log_variance)) over overlapping tiles. numpy in and out;
    whole if tiling is None."""
    if tiling is None:
        return encode_one(image)
    outputs = _over_tiles(encode_one, image, tiling, factor, 1)
    return outputs[0], outputs[1]


def decode_tiled(decode_one, latents, factor, tiling):
    """`decode_one` (latents -> picture) over overlapping tiles. numpy in and out; whole if tiling
    is None."""
    if tiling is None:
        return decode_one(latents)
    return _over_tiles(lambda tile: (decode_one(tile),), latents, tiling, 1, factor)[0]


def _over_tiles(function, x, tiling, step_in, step_out):
    """Weighted mean of the function's outputs over tiles whose weights fall off linearly across the
    overlap.

    A tile lies at whole latent cells; one cell is `step_in` wide in x and `step_out` wide in the
    outputs. All tiles have one size, so that a single compiled graph serves them.
    """
    height, width = (n // step_in for n in x.shape[2:])
    rows, columns = min(tiling.tile, height), min(tiling.tile, width)
    sums, total = None, np.zeros((1, 1, height * step_out, width * step_out), np.float32)
    weight = _ramp(rows * step_out, tiling.overlap * step_out)[:, None] * _ramp(
        columns * step_out, tiling.overlap * step_out
    )
    for top in starts(height, rows, tiling.overlap):
        for left in starts(width, columns, tiling.overlap):
            tile = x[
                :,
                :,
                top * step_in : (top + rows) * step_in,
                left * step_in : (left + columns) * step_in,
            ]
            outputs = function(np.ascontiguousarray(tile))
            if sums is None:
                sums = [np.zeros((*o.shape[:2], *total.shape[2:]), np.float32) for o in outputs]
            window = (
                slice(None),
                slice(None),
                slice(top * step_out, (top + rows) * step_out),
                slice(left * step_out, (left + columns) * step_out),
            )
            for s, o in zip(sums, outputs):
                s[window] += o * weight
            total[window] += weight
    for s in sums:
        s /= total
    return sums


def starts(size, tile, overlap):
    """First cells of tiles that cover 0..size-1, evenly spread, neighbours sharing at least
    `overlap` cells."""
    count = 1 if tile >= size else -(-(size - overlap) // (tile - overlap))
    return [round(i * (size - tile) / max(1, count - 1)) for i in range(count)]


def _ramp(size, overlap):
    """Weights that rise from the edge over `overlap` and are 1 inside; never 0, so that a picture's
    edge keeps its one tile."""
    edge = np.minimum(np.arange(size) + 0.5, size - np.arange(size) - 0.5)
    return np.minimum(edge / max(overlap, 1), 1).astype(np.float32)
