"""The original single file of Stable Diffusion 1 and 2: UNet, autoencoder and text encoder under
three prefixes.

The UNet counts its blocks through, the core by level: `numbers` computes the one from the other.
The last of OpenCLIP's layers and its projection are in the file, but no part of Stable Diffusion 2.
"""

from .engine import Drop, Group, Rule, candidates, stored_shape

UNET, VAE = "model.diffusion_model.", "first_stage_model."
OPENCLIP, CLIP = "cond_stage_model.model.", "cond_stage_model.transformer."
LEAF = r"\.(?P<leaf>weight|bias)"

# (pattern of a place in the core's UNet, prefix in the file)
RESNETS = (
    (r"unet/down_blocks\.(?P<i>\d+)\.resnets\.(?P<j>\d+)", "input_blocks.{down}.0"),
    (r"unet/mid_block\.resnets\.0", "middle_block.0"),
    (r"unet/mid_block\.resnets\.1", "middle_block.2"),
    (r"unet/up_blocks\.(?P<i>\d+)\.resnets\.(?P<j>\d+)", "output_blocks.{up}.0"),
)
ATTENTIONS = (
    (r"unet/down_blocks\.(?P<i>\d+)\.attentions\.(?P<j>\d+)", "input_blocks.{down}.1"),
    (r"unet/mid_block\.attentions\.0", "middle_block.1"),
    (r"unet/up_blocks\.(?P<i>\d+)\.attentions\.(?P<j>\d+)", "output_blocks.{up}.1"),
)
# (name in the core, name in the file)
RESNET_PARTS = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)
UNET_PARTS = (
    (r"unet/conv_in", "input_blocks.0.0"),
    (r"unet/time_embedding\.linear_1", "time_embed.0"),
    (r"unet/time_embedding\.linear_2", "time_embed.2"),
    (r"unet/down_blocks\.(?P<i>\d+)\.downsamplers\.0\.conv", "input_blocks.{downsample}.0.op"),
    (r"unet/up_blocks\.(?P<i>\d+)\.upsamplers\.0\.conv", "output_blocks.{upsample}.{slot}.conv"),
    (r"unet/conv_norm_out", "out.0"),
    (r"unet/conv_out", "out.2"),
)
PART = r"(?P<part>norm1|conv1|norm2|conv2)"
VAE_PARTS = (
    (r"vae/(?P<place>(?:en|de)coder\.conv_(?:in|out)|quant_conv|post_quant_conv)", "{place}"),
    (r"vae/(?P<side>encoder|decoder)\.conv_norm_out", "{side}.norm_out"),
    (
        r"vae/(?P<side>encoder|decoder)\.mid_block\.resnets\.(?P<j>\d+)\." + PART,
        "{side}.mid.block_{next}.{part}",
    ),
    (
        r"vae/(?P<side>encoder|decoder)\.mid_block\.attentions\.0\.group_norm",
        "{side}.mid.attn_1.norm",
    ),
    (
        r"vae/encoder\.down_blocks\.(?P<i>\d+)\.resnets\.(?P<j>\d+)\." + PART,
        "encoder.down.{i}.block.{j}.{part}",
    ),
    (
        r"vae/encoder\.down_blocks\.(?P<i>\d+)\.resnets\.(?P<j>\d+)\.conv_shortcut",
        "encoder.down.{i}.block.{j}.nin_shortcut",
    ),
    (
        r"vae/encoder\.down_blocks\.(?P<i>\d+)\.downsamplers\.0\.conv",
        "encoder.down.{i}.downsample.conv",
    ),
    (
        r"vae/decoder\.up_blocks\.(?P<i>\d+)\.resnets\.(?P<j>\d+)\." + PART,
        "decoder.up.{mirror}.block.{j}.{part}",
    ),
    (
        r"vae/decoder\.up_blocks\.(?P<i>\d+)\.resnets\.(?P<j>\d+)\.conv_shortcut",
        "decoder.up.{mirror}.block.{j}.nin_shortcut",
    ),
    (
        r"vae/decoder\.up_blocks\.(?P<i>\d+)\.upsamplers\.0\.conv",
        "decoder.up.{mirror}.upsample.conv",
    ),
)
# (name in the core, the released name, names of two versions of diffusers)
VAE_ATTENTION = (
    ("to_q", "q", ("to_q", "query")),
    ("to_k", "k", ("to_k", "key")),
    ("to_v", "v", ("to_v", "value")),
    (r"to_out\.0", "proj_out", ("to_out.0", "proj_attn")),
)


def _vae_attention(name, target):
    """The rules of one matrix and its bias in the autoencoder's attention."""
    place = r"vae/(?P<side>encoder|decoder)\.mid_block\.attentions\.0"
    return [
        Rule(rf"{place}\.{name}\.{leaf}", f"{VAE}{{side}}.mid.attn_1.{target}.{leaf}", layout)
        for leaf, layout in (("weight", "1x1"), ("bias", "same"))
    ]


VAE_RULES = (
    *(Rule(pattern + LEAF, VAE + target + ".{leaf}") for pattern, target in VAE_PARTS),
    *(rule for name, target, _ in VAE_ATTENTION for rule in _vae_attention(name, target)),
)
# files that were put together from both layouts
VAE_OTHER_RULES = (
    *(
        rule
        for name, _, others in VAE_ATTENTION
        for o in others
        for rule in _vae_attention(name, o)
    ),
    Rule(
        r"vae/(?P<side>encoder|decoder)\.mid_block\.attentions\.0\.group_norm" + LEAF,
        VAE + "{side}.mid.attn_1.group_norm.{leaf}",
    ),
)
UNET_RULES = (
    *(Rule(pattern + LEAF, UNET + target + ".{leaf}") for pattern, target in UNET_PARTS),
    *(
        Rule(rf"{place}\.{name}" + LEAF, f"{UNET}{prefix}.{target}.{{leaf}}")
        for place, prefix in RESNETS
        for name, target in RESNET_PARTS
    ),
    *(
        Rule(
            rf"{place}\.(?P<path>(?:norm|proj_in|proj_out|transformer_blocks)\..+)",
            f"{UNET}{prefix}.{{path}}",
        )
        for place, prefix in ATTENTIONS
    ),
)

_LAYER = r"text_encoder/text_model\.encoder\.layers\.(?P<i>\d+)"
OPENCLIP_RULES = (
    Rule(
        r"text_encoder/text_model\.embeddings\.token_embedding\.weight",
        OPENCLIP + "token_embedding.weight",
    ),
    Rule(
        r"text_encoder/text_model\.embeddings\.position_embedding\.weight",
        OPENCLIP + "positional_embedding",
    ),
    Rule(r"text_encoder/text_model\.final_layer_norm" + LEAF, OPENCLIP + "ln_final.{leaf}"),
    *(
        Rule(
            rf"{_LAYER}\.{name}" + LEAF, f"{OPENCLIP}transformer.resblocks.{{i}}.{target}.{{leaf}}"
        )
        for name, target in (
            ("layer_norm1", "ln_1"),
            ("layer_norm2", "ln_2"),
            (r"mlp\.fc1", "mlp.c_fc"),
            (r"mlp\.fc2", "mlp.c_proj"),
            (r"self_attn\.out_proj", "attn.out_proj"),
        )
    ),
    *(
        Rule(
            rf"{_LAYER}\.self_attn\.{name}_proj" + LEAF,
            OPENCLIP + "transformer.resblocks.{i}.attn.in_proj_{leaf}",
            f"part {k}/3",
        )
        for k, name in enumerate("qkv")
    ),
)
CLIP_RULES = (
    Rule(r"text_encoder/(?P<path>text_model\..+)", CLIP + "{path}"),
    Rule(
        r"text_encoder/text_model\.(?P<path>.+)", CLIP + "{path}"
    ),  # saved without the wrapper around the encoder
)

_SCHEDULE = (
    "betas|alphas_cumprod|alphas_cumprod_prev|sqrt_alphas_cumprod|sqrt_one_minus_alphas_cumprod"
    "|log_one_minus_alphas_cumprod|sqrt_recip_alphas_cumprod|sqrt_recipm1_alphas_cumprod"
    "|posterior_variance|posterior_log_variance_clipped|posterior_mean_coef1|posterior_mean_coef2"
    "|lvlb_weights|logvar|scale_factor"
)
DROPS = (
    Drop(_SCHEDULE, "the noise schedule, which the scheduler's configuration describes"),
    Drop(r"model_ema\.(decay|num_updates)", "counters of the averaging"),
    Drop(r"cond_stage_model\.model\.(logit_scale|attn_mask)", "OpenCLIP's contrast to pictures"),
    Drop(
        r"cond_stage_model\.transformer\.(text_model\.)?embeddings\.position_ids",
        "a buffer of positions",
    ),
)


def rules(open_clip):
    """The whole table, with OpenCLIP's names (Stable Diffusion 2) or CLIP's (1)."""
    text = OPENCLIP_RULES if open_clip else CLIP_RULES
    return (*UNET_RULES, *VAE_RULES, *VAE_OTHER_RULES, *text)


def numbers(unet, vae):
    """The table's numbers for a `UNetConfig` and a `VAEConfig`: a function of a pattern's
    groups."""

    def compute(groups):
        i, j, n = int(groups.get("i") or 0), int(groups.get("j") or 0), unet.layers[0] + 1
        attends = (
            groups.get("i") and i < len(unet.up_block_types) and "Attn" in unet.up_block_types[i]
        )
        return {
            "down": 1 + i * n + j,
            "downsample": (i + 1) * n,
            "up": i * n + j,
            "upsample": i * n + n - 1,
            "slot": 2 if attends else 1,
            "mirror": len(vae.block_out_channels) - 1 - i,
            "next": j + 1,
        }

    return compute


def averaged(key):
    """The key of a weight's average over the training, which has no dots in it."""
    return "model_ema." + key.partition(".")[2].replace(".", "") if key.startswith(UNET) else key


def with_averages(names):
    """The same candidates, the UNet's being the averages."""
    return {
        leaf: [claim._replace(key=averaged(claim.key)) for claim in claims]
        for leaf, claims in names.items()
    }


def unused_weights(names, leaves):
    """The UNet's keys and shapes under these names, as the group that is left out."""
    shapes = {
        names[leaf][0].key: stored_shape(shape, names[leaf][0].layout)
        for leaf, shape in leaves.items()
        if leaf.startswith("unet/")
    }
    return Group("the UNet's other weights (see --ema)", shapes)


def last_layer(leaves, text, layers):
    """OpenCLIP's last layer and projection, which Stable Diffusion 2 does not use; the file has
    `layers` layers."""
    first = "text_encoder/text_model.encoder.layers.0."
    own = {
        leaf.replace(".layers.0.", f".layers.{layers - 1}."): shape
        for leaf, shape in leaves.items()
        if leaf.startswith(first)
    }
    names = candidates(OPENCLIP_RULES, own)
    shapes = {
        names[leaf][0].key: stored_shape(shape, names[leaf][0].layout)
        for leaf, shape in own.items()
    }
    return Group(
        "OpenCLIP's last layer and its projection",
        {**shapes, OPENCLIP + "text_projection": (text.hidden_size, text.hidden_size)},
    )
