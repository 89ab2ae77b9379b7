"""The conditional UNet that predicts the noise (or v) of latents."""

from mindspore import ops

from . import kernels as K
from . import layers as L
from . import params as P


def specs(config):
    """Leaves of the UNet for a `UNetConfig`."""
    widths, time, levels = (
        config.block_out_channels,
        4 * config.block_out_channels[0],
        len(config.block_out_channels),
    )

    def attentions(block, kind, width, count, depth):
        if kind.startswith("CrossAttn"):
            leaves = L.transformer_specs(
                width, config.cross_attention_dim, depth, config.use_linear_projection
            )
        elif kind.startswith("Attn"):
            leaves = L.spatial_attention_specs(width)
        else:
            return {}
        return {f"{block}.attentions.{j}": leaves for j in range(count)}

    tree = {
        "conv_in": P.conv(config.in_channels, widths[0], config.conv_in_kernel),
        "time_embedding": L.time_specs(widths[0]),
    }
    c, skips = widths[0], [widths[0]]
    for i, (kind, width) in enumerate(zip(config.down_block_types, widths)):
        block = f"down_blocks.{i}"
        for j in range(config.layers[i]):
            tree[f"{block}.resnets.{j}"] = L.resnet_specs(c, width, time)
            c = width
            skips.append(c)
        tree.update(attentions(block, kind, width, config.layers[i], config.depths[i]))
        if i < levels - 1:
            tree[f"{block}.downsamplers.0.conv"] = P.conv(width, width, 3)
            skips.append(c)
    tree.update({f"mid_block.resnets.{j}": L.resnet_specs(c, c, time) for j in range(2)})
    tree.update(attentions("mid_block", "CrossAttn", c, 1, config.depths[-1]))
    for i, (kind, width) in enumerate(zip(config.up_block_types, widths[::-1])):
        block, resnets = f"up_blocks.{i}", config.layers[::-1][i] + 1
        for j in range(resnets):
            tree[f"{block}.resnets.{j}"] = L.resnet_specs(c + skips.pop(), width, time)
            c = width
        tree.update(attentions(block, kind, width, resnets, config.up_depths[i]))
        if i < levels - 1:
            tree[f"{block}.upsamplers.0.conv"] = P.conv(width, width, 3)
    tree["conv_norm_out"] = P.norm(c)
    tree["conv_out"] = P.conv(c, config.out_channels, config.conv_out_kernel)
    return tree


def apply(params, latents, timesteps, encoder_hidden_states, config, kernels):
    """Latents at a noise level, the timestep and the text -> the model's raw prediction (eps or v,
    as it was trained).

    Args:
        params: the tree of `specs(config)`.
        latents: [B,C,h,w], any h and w.
        timesteps: training indices [B], or [1] for the whole batch.
        encoder_hidden_states: text states [B,S,D].
    Returns:
        [B,C,h,w].
    Source: Rombach et al. 2022 (arXiv 2112.10752), section 3; Ho et al. 2020 (arXiv 2006.11239),
        appendix B.
    """
    groups, eps, levels = config.norm_num_groups, config.norm_eps, len(config.block_out_channels)

    def attend(block, j, kind, x, heads, depth):
        if kind.startswith("CrossAttn"):
            return L.transformer(
                params[block + ".attentions." + str(j)],
                x,
                encoder_hidden_states,
                heads,
                depth,
                groups,
                kernels,
            )
        if kind.startswith("Attn"):
            return L.spatial_attention(
                params[block + ".attentions." + str(j)], x, heads, groups, eps, kernels
            )
        return x

    time = L.time_embedding(
        params["time_embedding"],
        timesteps,
        config.block_out_channels[0],
        config.flip_sin_to_cos,
        config.freq_shift,
        latents.dtype,
        kernels,
    )
    x = K.conv2d(params["conv_in"], latents, kernels, padding=same(config.conv_in_kernel))
    skips = (x,)
    for i in range(levels):
        block = "down_blocks." + str(i)
        for j in range(config.layers[i]):
            x = L.resnet(params[block + ".resnets." + str(j)], x, time, groups, eps, kernels)
            x = attend(block, j, config.down_block_types[i], x, config.heads[i], config.depths[i])
            skips = skips + (x,)
        if i < levels - 1:
            x = K.conv2d(
                params[block + ".downsamplers.0.conv"],
                x,
                kernels,
                stride=2,
                padding=halving(config.downsample_padding),
            )
            skips = skips + (x,)

    scale = config.mid_block_scale_factor
    x = L.resnet(params["mid_block.resnets.0"], x, time, groups, eps, kernels, scale)
    x = attend("mid_block", 0, "CrossAttn", x, config.mid_heads, config.depths[levels - 1])
    x = L.resnet(params["mid_block.resnets.1"], x, time, groups, eps, kernels, scale)

    for i in range(levels):
        block = "up_blocks." + str(i)
        for j in range(config.layers[levels - 1 - i] + 1):
            skip, skips = skips[-1], skips[:-1]
            x = L.resnet(
                params[block + ".resnets." + str(j)],
                ops.concat((x, skip), 1),
                time,
                groups,
                eps,
                kernels,
            )
            x = attend(
                block, j, config.up_block_types[i], x, config.up_heads[i], config.up_depths[i]
            )
        if i < levels - 1:
            height, width = skips[-1].shape[2:]
            x = K.upsample(x, kernels)[
                :, :, :height, :width
            ]  # an odd size lost half a cell on its way down
            x = K.conv2d(params[block + ".upsamplers.0.conv"], x, kernels)
    x = K.silu(K.group_norm(params["conv_norm_out"], x, groups, eps, kernels), kernels)
    return K.conv2d(params["conv_out"], x, kernels, padding=same(config.conv_out_kernel))


def same(kernel):
    """Padding that keeps the size."""
    return (kernel // 2,) * 4


def halving(padding):
    """Padding of a stride-2 convolution; 0 means one row and column at the far side only, as the
    first DDPM code had it."""
    return (0, 1, 0, 1) if padding == 0 else (padding,) * 4
