"""The diffusers layout, with the names that older versions wrote. Keys are "component/key"."""

from .engine import Drop, Rule

_ATTENTION = r"vae/(?P<place>(en|de)coder\.mid_block\.attentions\.0)"
_NAMES = (
    (r"to_q", "to_q", "query"),
    (r"to_k", "to_k", "key"),
    (r"to_v", "to_v", "value"),
    (r"to_out\.0", "to_out.0", "proj_attn"),
)

RULES = (
    # matrices that some files hold as convolutions; the second names are of diffusers before 0.15
    *(
        Rule(rf"{_ATTENTION}\.{pattern}\.{leaf}", f"vae/{{place}}.{name}.{leaf}", layout)
        for pattern, *names in _NAMES
        for leaf, layout in (("weight", "matrix"), ("bias", "same"))
        for name in names
    ),
    Rule(
        rf"(?!{_ATTENTION}\.to_)(?P<component>unet|vae|text_encoder)/(?P<path>.+)",
        "{component}/{path}",
    ),
    # transformers without the wrapper around the encoder
    Rule(r"text_encoder/text_model\.(?P<path>.+)", "text_encoder/{path}"),
)

DROPS = (Drop(r"text_encoder/(text_model\.)?embeddings\.position_ids", "a buffer of positions"),)
