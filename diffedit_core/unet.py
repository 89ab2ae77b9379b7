"""The conditional UNet that predicts the noise (or v) of latents."""

from mindspore import ops

from . import kernels as K
from . import layers as L
from . import params as P


def specs(config):
    """Leaves of the UNet for a `UNetConfig`."""
    widths, levels = config.block_out_channels, len(config.block_out_channels)
    time = 4 * widths[0]

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
    return apply_keeping(params, latents, timesteps, encoder_hidden_states, config, kernels)[0]


def apply_keeping(params, latents, timesteps, encoder_hidden_states, config, kernels):
    """(what `apply` gives, the deep features [B,C',h,w] that the outermost level sees last).

    The deep features are the result of all levels but the outermost, of whose blocks the first
    feeds them and the last takes them, with the skips of the first.
    """
    time, skips = enter(params, latents, timesteps, encoder_hidden_states, config, kernels)
    deep = inner(params, skips, time, encoder_hidden_states, config, kernels)
    return leave(params, deep, skips, time, encoder_hidden_states, config, kernels), deep


def apply_reusing(params, latents, timesteps, encoder_hidden_states, deep, config, kernels):
    """What `apply` would give if its deep features were these, of `apply_keeping` with latents of
    the same shape: the outermost level alone.

    Source: Ma et al. 2024 (DeepCache, arXiv 2312.00858), section 3.
    Law: with the deep features of the same latents, timesteps and text it is `apply`, bit for bit.
    """
    time, skips = enter(params, latents, timesteps, encoder_hidden_states, config, kernels)
    return leave(params, deep, skips, time, encoder_hidden_states, config, kernels)


def enter(params, latents, timesteps, text, config, kernels):
    """(time embedding, skips) of the outermost level of the way down."""
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
    return time, down(params, x, (x,), time, text, (0,), config, kernels)[1]


def inner(params, skips, time, text, config, kernels):
    """The deep features: all levels but the outermost, down and up again."""
    levels = len(config.block_out_channels)
    x, skips = down(params, skips[-1], skips, time, text, range(1, levels), config, kernels)
    x = middle(params, x, time, text, config, kernels)
    return up(params, x, skips, time, text, range(levels - 1), config, kernels)[0]


def leave(params, x, skips, time, text, config, kernels):
    """The prediction: the outermost level of the way up."""
    last = len(config.block_out_channels) - 1
    x = up(params, x, skips, time, text, (last,), config, kernels)[0]
    x = L.norm_silu(params["conv_norm_out"], x, config.norm_num_groups, config.norm_eps, kernels)
    return K.conv2d(params["conv_out"], x, kernels, padding=same(config.conv_out_kernel))


def down(params, x, skips, time, text, levels, config, kernels):
    """Some levels, from the outside inwards: (x, skips), each result of a layer appended."""
    groups, eps = config.norm_num_groups, config.norm_eps
    for i in levels:
        block, kind = "down_blocks." + str(i), config.down_block_types[i]
        heads, depth = config.heads[i], config.depths[i]
        if i > 0:
            sampler = "down_blocks." + str(i - 1) + ".downsamplers.0.conv"
            padding = halving(config.downsample_padding)
            x = K.conv2d(params[sampler], x, kernels, stride=2, padding=padding)
            skips = skips + (x,)
        for j in range(config.layers[i]):
            x = L.resnet(params[block + ".resnets." + str(j)], x, time, groups, eps, kernels)
            x = attend(params, block, j, kind, x, text, heads, depth, config, kernels)
            skips = skips + (x,)
    return x, skips


def middle(params, x, time, text, config, kernels):
    """Resnet, transformer, resnet. [B,C,h,w] -> the same shape."""
    groups, eps, scale = config.norm_num_groups, config.norm_eps, config.mid_block_scale_factor
    heads, depth = config.mid_heads, config.depths[-1]
    x = L.resnet(params["mid_block.resnets.0"], x, time, groups, eps, kernels, scale)
    x = attend(params, "mid_block", 0, "CrossAttn", x, text, heads, depth, config, kernels)
    return L.resnet(params["mid_block.resnets.1"], x, time, groups, eps, kernels, scale)


def up(params, x, skips, time, text, levels, config, kernels):
    """Some levels, from the inside outwards: (x, the skips that are left); each resnet also sees
    the latest skip that is left."""
    groups, eps, count = config.norm_num_groups, config.norm_eps, len(config.block_out_channels)
    for i in levels:
        block, kind = "up_blocks." + str(i), config.up_block_types[i]
        heads, depth = config.up_heads[i], config.up_depths[i]
        for j in range(config.layers[count - 1 - i] + 1):
            skip, skips = skips[-1], skips[:-1]
            x = ops.concat((x, skip), 1)
            x = L.resnet(params[block + ".resnets." + str(j)], x, time, groups, eps, kernels)
            x = attend(params, block, j, kind, x, text, heads, depth, config, kernels)
        if i < count - 1:
            height, width = skips[-1].shape[2:]
            x = K.upsample(x, kernels)
            if x.shape[2:] != (height, width):  # an odd size lost half a cell on its way down
                x = x[:, :, :height, :width]
            x = K.conv2d(params[block + ".upsamplers.0.conv"], x, kernels)
    return x, skips


def attend(params, block, j, kind, x, text, heads, depth, config, kernels):
    """What stands behind resnet j of a block of this kind: a transformer over the text, attention
    of the cells to each other, or nothing."""
    groups = config.norm_num_groups
    if kind.startswith("CrossAttn"):
        own = params[block + ".attentions." + str(j)]
        return L.transformer(own, x, text, heads, depth, groups, kernels)
    if kind.startswith("Attn"):
        own = params[block + ".attentions." + str(j)]
        return L.spatial_attention(own, x, heads, groups, config.norm_eps, kernels)
    return x


def same(kernel):
    """Padding that keeps the size."""
    return (kernel // 2,) * 4


def halving(padding):
    """Padding of a stride-2 convolution; 0 means one row and column at the far side only, as the
    first DDPM code had it."""
    return (0, 1, 0, 1) if padding == 0 else (padding,) * 4
