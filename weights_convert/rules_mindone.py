"""The checkpoint of mindone's stable_diffusion_v2: the original's blocks, with MindSpore's names
for norms and convolutions."""

from . import rules_original as original
from .engine import Rule

TEXT = "cond_stage_model.transformer."
_NORM = (("weight", "gamma"), ("bias", "beta"))


def _norm(pattern, target):
    return [Rule(rf"{pattern}\.{leaf}", f"{target}.{name}") for leaf, name in _NORM]


def _plain(pattern, target):
    return [Rule(pattern + original.LEAF, target + ".{leaf}")]


# (name in the core, name in the file, kind)
RESNET_PARTS = (
    ("norm1", "in_layers_norm", _norm),
    ("conv1", "in_layers_conv.conv", _plain),
    ("time_emb_proj", "emb_layers.1", _plain),
    ("norm2", "out_layers_norm", _norm),
    ("conv2", "out_layers_conv.conv", _plain),
    ("conv_shortcut", "skip_connection.conv", _plain),
)
ATTENTION_PARTS = (
    ("norm", "norm", _norm),
    (r"(?P<path>transformer_blocks\.\d+\.norm\d)", "{path}", _norm),
    (r"(?P<path>proj_in|proj_out|transformer_blocks\.\d+\.(?:attn|ff).+)", "{path}", _plain),
)
_LAYER, _BLOCK = (
    r"text_encoder/text_model\.encoder\.layers\.(?P<i>\d+)",
    TEXT + "transformer_layer.resblocks.{i}",
)

RULES = (
    *(
        rule
        for pattern, target in original.UNET_PARTS
        for rule in (_norm if "norm" in pattern else _plain)(
            pattern,
            original.UNET
            + target
            + (".conv" if "conv" in pattern and "norm" not in pattern else ""),
        )
    ),
    *(
        rule
        for place, prefix in original.RESNETS
        for name, target, kind in RESNET_PARTS
        for rule in kind(rf"{place}\.{name}", f"{original.UNET}{prefix}.{target}")
    ),
    *(
        rule
        for place, prefix in original.ATTENTIONS
        for name, target, kind in ATTENTION_PARTS
        for rule in kind(rf"{place}\.{name}", f"{original.UNET}{prefix}.{target}")
    ),
    *original.VAE_RULES,
    Rule(r"text_encoder/text_model\.embeddings\.token_embedding\.weight", TEXT + "embedding_table"),
    Rule(
        r"text_encoder/text_model\.embeddings\.position_embedding\.weight",
        TEXT + "positional_embedding",
    ),
    *_norm(r"text_encoder/text_model\.final_layer_norm", TEXT + "ln_final"),
    *_norm(_LAYER + r"\.layer_norm1", _BLOCK + ".ln_1"),
    *_norm(_LAYER + r"\.layer_norm2", _BLOCK + ".ln_2"),
    *_plain(_LAYER + r"\.mlp\.fc1", _BLOCK + ".c_fc"),
    *_plain(_LAYER + r"\.mlp\.fc2", _BLOCK + ".c_proj"),
    *_plain(_LAYER + r"\.self_attn\.out_proj", _BLOCK + ".attn.attn.out_proj"),
    *(
        rule._replace(layout=f"part {k}/3")
        for k, name in enumerate("qkv")
        for rule in _plain(rf"{_LAYER}\.self_attn\.{name}_proj", _BLOCK + ".attn.attn.in_proj")
    ),
)
