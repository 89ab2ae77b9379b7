"""Low-rank files: the keys of a weight's two factors, as kohya's trainer, the versions of diffusers
and PEFT name them."""

from .engine import Rule

_PATH = r"(?P<component>unet|text_encoder)/(?P<path>.+)\.weight"
_ATTENTION = r"unet/(?P<block>.+\.attn\d)"

# leaf -> what the keys begin with; the layout names how they go on
RULES = (
    Rule(r"unet/(?P<path>.+)\.weight", "lora_unet_{flat}", "kohya"),
    Rule(r"text_encoder/(?P<path>.+)\.weight", "lora_te_{flat}", "kohya"),
    Rule(_PATH, "{component}.{path}", "peft"),
    Rule(r"(unet|text_encoder)/(?P<path>.+)\.weight", "base_model.model.{path}", "peft"),
    Rule(_PATH, "base_model.model.{component}.{path}", "peft"),
    Rule(_PATH, "{component}.base_model.model.{path}", "peft"),
    Rule(_PATH, "{component}.{path}", "diffusers"),
    Rule(r"unet/(?P<path>.+)\.weight", "{path}", "diffusers"),
    Rule(r"text_encoder/(?P<path>.+)\.weight", "text_encoder.{path}", "linear"),
    Rule(
        _ATTENTION + r"\.(?P<name>to_q|to_k|to_v)\.weight",
        "unet.{block}.processor.{name}",
        "processor",
    ),
    Rule(_ATTENTION + r"\.to_out\.0\.weight", "unet.{block}.processor.to_out", "processor"),
    Rule(
        _ATTENTION + r"\.(?P<name>to_q|to_k|to_v)\.weight", "{block}.processor.{name}", "processor"
    ),
    Rule(_ATTENTION + r"\.to_out\.0\.weight", "{block}.processor.to_out", "processor"),
    Rule(
        r"text_encoder/(?P<block>.+\.self_attn)\.(?P<name>q|k|v|out)_proj\.weight",
        "text_encoder.{block}.to_{name}",
        "processor",
    ),
)

# (down, up, alpha)
ENDINGS = {
    "kohya": (".lora_down.weight", ".lora_up.weight", ".alpha"),
    "peft": (".lora_A.weight", ".lora_B.weight", ".alpha"),
    "diffusers": (".lora.down.weight", ".lora.up.weight", ".alpha"),
    "linear": (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight", ".alpha"),
    "processor": ("_lora.down.weight", "_lora.up.weight", "_lora.alpha"),
}
# what a key of a factor looks like
FACTOR = r"\.lora_(down|up|A|B)\.|_lora\.(down|up)\.|\.lora\.(down|up)\.|lora_linear_layer"
# (what a key looks like, kind of change): other ways to change weights, which are not merged
OTHERS = (
    (r"dora_scale|lora_magnitude_vector", "DoRA"),
    (r"\.hada_[wt]\d", "LoHa"),
    (r"\.lokr_[wt]\d", "LoKr"),
    (r"\.oft_(blocks|diag|R)|\.oft_r\b", "OFT"),
    (r"\.(ia3_l|on_input)\b", "(IA)^3"),
    (r"\.lora_mid\.", "LoCon in Tucker's form"),
    (r"\.(diff|diff_b)$", "full differences"),
)


def numbers(groups):
    """`flat` is the path with underscores, as kohya's trainer has it."""
    return {"flat": groups.get("path", "").replace(".", "_")}
