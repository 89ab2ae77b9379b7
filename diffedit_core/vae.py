"""The KL autoencoder between pictures and latents, and its tiled form for large pictures."""

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from . import kernels as K
from . import layers as L
from . import params as P

EPS = 1e-6


def specs(config):
    """Leaves of the autoencoder for a `VAEConfig`."""
    widths, latent = config.block_out_channels, config.latent_channels
    last, moments = widths[-1], 2 * config.latent_channels

    block = {f"resnets.{j}": L.resnet_specs(last, last) for j in range(2)}
    if config.mid_block_add_attention:
        block["attentions.0"] = {"group_norm": P.norm(last), **L.attention_specs(last, last, bias=True)}

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
        "encoder": {"conv_in": P.conv(config.in_channels, widths[0], 3),
                    **stack("down_blocks", widths, config.layers_per_block, "downsamplers"),
                    "mid_block": block, "conv_norm_out": P.norm(last), "conv_out": P.conv(last, moments, 3)},
        "decoder": {"conv_in": P.conv(latent, last, 3),
                    **stack("up_blocks", widths[::-1], config.layers_per_block + 1, "upsamplers"),
                    "mid_block": block, "conv_norm_out": P.norm(widths[0]),
                    "conv_out": P.conv(widths[0], config.out_channels, 3)},
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
        block = params["attentions.0"]
        batch, channels, height, width = x.shape
        h = K.group_norm(block["group_norm"], x, groups, EPS, kernels).reshape(batch, channels, -1).swapaxes(1, 2)
        h = L.attention(block, h, h, 1, kernels)
        x = x + h.swapaxes(1, 2).reshape(batch, channels, height, width)
    return L.resnet(params["resnets.1"], x, None, groups, EPS, kernels)


def encode(params, image, config, kernels):
    """Picture -> mean and log-variance of its latents, unscaled; the log-variance is clamped to [-30, 20].

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
    x = K.silu(K.group_norm(p["conv_norm_out"], x, groups, EPS, kernels), kernels)
    x = K.conv2d(p["conv_out"], x, kernels)
    if config.use_quant_conv:
        x = K.conv2d(params["quant_conv"], x, kernels, padding=(0, 0, 0, 0))
    return x[:, :config.latent_channels], ops.clamp(x[:, config.latent_channels:], -30.0, 20.0)


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
    x = K.silu(K.group_norm(p["conv_norm_out"], x, groups, EPS, kernels), kernels)
    return K.conv2d(p["conv_out"], x, kernels)


def sample(mean, log_variance, noise):
    """z = mean + exp(log_variance / 2) noise, all [B,C,h,w] (Kingma & Welling 2013, section 2.4)."""
    return mean + ops.exp(0.5 * log_variance) * noise
