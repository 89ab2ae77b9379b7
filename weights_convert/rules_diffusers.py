"""The diffusers layout, with the names that older versions wrote. Keys are "component/key"."""

from .engine import Drop, Rule

_ATTENTION = r"vae/(?P<place>(en|de)coder\.mid_block\.attentions\.0)"

RULES = (
    Rule(r"(?P<component>unet|vae|text_encoder)/(?P<path>.+)", "{component}/{path}"),
    # transformers without the wrapper around the encoder
    Rule(r"text_encoder/text_model\.(?P<path>.+)", "text_encoder/{path}"),
    # diffusers before 0.15
    Rule(_ATTENTION + r"\.to_q\.(?P<leaf>.+)", "vae/{place}.query.{leaf}"),
    Rule(_ATTENTION + r"\.to_k\.(?P<leaf>.+)", "vae/{place}.key.{leaf}"),
    Rule(_ATTENTION + r"\.to_v\.(?P<leaf>.+)", "vae/{place}.value.{leaf}"),
    Rule(_ATTENTION + r"\.to_out\.0\.(?P<leaf>.+)", "vae/{place}.proj_attn.{leaf}"),
)

DROPS = (Drop(r"text_encoder/(text_model\.)?embeddings\.position_ids", "a buffer of positions"),)
