"""What MindSpore's and CANN's documentation asks of the calls that the Ascend lowerings make.

    python -m benchmarks.ascend.constraints     # every call of SD 1.5, 2.1-base and 2.1, checked

Each row of `RULES` has its source. aclnn pages are those of CANN 8.0 to 8.5, by the name of the
function (hiascend.com, "aolapi"); op_proto is CANN's REG_OP of that name; MindSpore is the
docstring in the wheel of 2.8.
"""

import sys
from typing import Callable, NamedTuple

from diffedit_core import clip, unet, vae
from diffedit_core.kernels import ascend
from diffedit_core.memory import CELLS_AT_ONCE, rows_at_once

from ..kernels.models import KNOWN
from . import sketch


class Rule(NamedTuple):
    """One documented demand. `broken(call, family)` says whether a call violates it."""

    says: str
    source: str
    functions: tuple  # of the library; () for all
    broken: Callable


FLOATS = {"float32", "float16", "bfloat16"}
PRODUCTS = ("conv2d", "linear", "BatchMatMul")
NORMS = ("group_norm", "layer_norm", "LayerNorm")
A2 = ("A2", "A3")


def _sides(value):
    return value if isinstance(value, tuple) else (value, value)


def _mixed(call, family):
    return len(set(call.dtypes.values())) > 1


def _attention_width(call):
    return call.shapes["query"][2] / call.settings["head_num"]


def _bad_mask(call, family):
    if "attn_mask" not in call.shapes:
        return False
    wanted = (call.shapes["query"][1], call.shapes["key"][1])
    return call.shapes["attn_mask"] != wanted or call.dtypes["attn_mask"] not in ("uint8", "bool")


def _bad_counts(call, family):
    batch, length, _ = call.shapes["query"]
    most = {batch: 2048, length: 512 << 10, call.shapes["key"][1]: 512 << 10}
    heads = call.settings["head_num"]
    return not 1 <= heads <= 256 or any(not 1 <= n <= limit for n, limit in most.items())


def _odd_conv_numbers(call, family):
    pads, strides = (_sides(call.settings[name]) for name in ("padding", "stride"))
    return (
        len(pads) != 2
        or any(not 0 <= n <= 255 for n in pads)
        or any(not 1 <= n <= 63 for n in strides)
    )


def _conv_output(call):
    sides = zip(
        call.shapes["input"][2:],
        call.shapes["weight"][2:],
        _sides(call.settings["stride"]),
        _sides(call.settings["padding"]),
    )
    return [(n + 2 * pad - kernel) // stride + 1 for n, kernel, stride, pad in sides]


def _score_bytes(call):
    x, y = call.shapes["x"], call.shapes["y"]
    return 4 * x[0] * x[1] * (y[1] if call.settings["transpose_b"] else y[2])


def _bad_group_norm(call, family):
    channels = call.shapes["input"][1]
    own = [call.shapes[name] for name in ("weight", "bias")]
    return channels % call.settings["num_groups"] != 0 or own != [(channels,)] * 2


def _bad_layer_norm(call, family):
    shape = tuple(call.settings["normalized_shape"])
    own = [call.shapes[name] for name in ("weight", "bias")]
    return call.shapes["input"][-len(shape) :] != shape or own != [shape] * 2


def _bad_resize(call, family):
    sizes = call.settings["size"]
    return len(call.shapes["input"]) != 4 or len(sizes) != 2 or min(sizes) < 1


FUSED, CONV = ("flash_attention_score",), ("conv2d",)
RULES = {
    "no float64": Rule(
        "no tensor of float64",
        "MindSpore: MatMul and Sort take none on Ascend",
        (),
        lambda call, family: "float64" in call.dtypes.values(),
    ),
    "eight axes": Rule(
        "at most eight axes",
        "aclnnGelu, aclnnGroupNorm, aclnnPermute",
        (),
        lambda call, family: any(len(shape) > 8 for shape in call.shapes.values()),
    ),
    "no bf16 on older chips": Rule(
        "bf16 on A2 and A3 only",
        "aclnnGelu, aclnnGroupNorm and the like, list of dtypes by product",
        (),
        lambda call, family: family not in A2 and "bfloat16" in call.dtypes.values(),
    ),
    "attention's chip": Rule(
        "the fused attention on A2 and A3 only",
        "aclnnFlashAttentionScore, list of products; MindSpore: flash_attention_score",
        FUSED,
        lambda call, family: family not in A2,
    ),
    "attention's dtype": Rule(
        "query, key and value are all fp16 or all bf16",
        "MindSpore: flash_attention_score",
        FUSED,
        lambda call, family: {call.dtypes[name] for name in ("query", "key", "value")}
        not in ({"float16"}, {"bfloat16"}),
    ),
    "attention's width": Rule(
        "the width of a head is a multiple of 16",
        "MindSpore: flash_attention_score",
        FUSED,
        lambda call, family: _attention_width(call) % 16 != 0,
    ),
    "attention's widest": Rule(
        "no head is wider than 256 (documented: 512; nobody was found to run that)",
        "mindone, attention_processor.py, falls back above 256",
        FUSED,
        lambda call, family: _attention_width(call) > ascend.WIDEST_HEAD,
    ),
    "attention's counts": Rule(
        "1 to 256 heads, a batch up to 2048, up to 512k tokens",
        "MindSpore: flash_attention_score",
        FUSED,
        _bad_counts,
    ),
    "attention's mask": Rule(
        "the mask is [queries, keys] in uint8 or bool",
        "MindSpore: flash_attention_score, sparse_mode 0",
        FUSED,
        _bad_mask,
    ),
    "score bytes": Rule(
        f"scores of at most {ascend.SCORE_BYTES >> 20} MiB at a time",
        "this project: what `memory.estimate_memory` counts",
        ("BatchMatMul",),
        lambda call, family: _score_bytes(call) > ascend.SCORE_BYTES,
    ),
    "dtypes of products": Rule(
        "both factors and the bias have one dtype: fp32, fp16 or bf16",
        "aclnnConvolution, aclnnBatchMatMul: no mixture with bf16",
        PRODUCTS,
        lambda call, family: _mixed(call, family) or not set(call.dtypes.values()) <= FLOATS,
    ),
    "conv2d's numbers": Rule(
        "two pads of 0 to 255, strides of 1 to 63",
        "op_proto Conv2D; aclnnConvolution",
        CONV,
        _odd_conv_numbers,
    ),
    "conv2d's width": Rule(
        "pictures at most 4096 wide",
        "op_proto Conv2D: wider ones may not compile",
        CONV,
        lambda call, family: call.shapes["input"][3] > 4096,
    ),
    "conv2d's column": Rule(
        "no result that is one column of several rows",
        "op_proto Conv2D of older versions",
        CONV,
        lambda call, family: _conv_output(call)[1] == 1 != _conv_output(call)[0],
    ),
    "linear's axes": Rule(
        "at most six axes, a bias of one",
        "MindSpore: mint.nn.functional.linear",
        ("linear",),
        lambda call, family: len(call.shapes["input"]) > 6
        or len(call.shapes.get("bias", (0,))) != 1,
    ),
    "dtypes of norms": Rule(
        "scale and shift have the dtype of the input",
        "aclnnGroupNorm; aclnnLayerNorm",
        NORMS,
        _mixed,
    ),
    "group_norm's shapes": Rule(
        "the groups divide the channels; a scale and a shift for each channel",
        "aclnnGroupNorm",
        ("group_norm",),
        _bad_group_norm,
    ),
    "layer_norm's shapes": Rule(
        "scale and shift have the shape of the last axes, over which it goes",
        "aclnnLayerNorm",
        ("layer_norm",),
        _bad_layer_norm,
    ),
    "layer_norm's chip": Rule(
        "not on a 310P",
        "aclnnLayerNorm, list of products",
        ("layer_norm",),
        lambda call, family: family == "310P",
    ),
    "LayerNorm's axes": Rule(
        "begin_norm_axis and begin_params_axis are equal",
        "MindSpore: ops.LayerNorm",
        ("LayerNorm",),
        lambda call, family: call.settings["begin_norm_axis"] != call.settings["begin_params_axis"],
    ),
    "gelu's formula": Rule(
        "approximate='none': only then it is aclnnGeluV2 with the exact function",
        "aclnnGelu is the approximation by tanh",
        ("gelu",),
        lambda call, family: call.settings.get("approximate") != "none",
    ),
    "upsampling's dtype": Rule(
        "fp32 and bf16 on A2 and A3 only",
        "aclnnUpsampleNearest2d, list of dtypes by product",
        ("interpolate",),
        lambda call, family: family not in A2 and call.dtypes["input"] != "float16",
    ),
    "upsampling's shapes": Rule(
        "four axes, two sizes", "aclnnUpsampleNearest2d", ("interpolate",), _bad_resize
    ),
    "embedding's inputs": Rule(
        "ids of int32 or int64, a matrix of two axes",
        "MindSpore: mint.nn.functional.embedding",
        ("embedding",),
        lambda call, family: call.dtypes["input"] not in ("int32", "int64")
        or len(call.shapes["weight"]) != 2,
    ),
    "dtypes of concat": Rule("all pieces have one dtype", "aclnnCat", ("concat",), _mixed),
}


def broken(call, family):
    """Names of the rules that a call of the library violates on this family of chips."""
    return [
        name
        for name, rule in RULES.items()
        if (not rule.functions or call.name in rule.functions) and rule.broken(call, family)
    ]


# --- the calls of the published models ------------------------------------------------------------

MODELS = {
    name: tuple(KNOWN[released][part] for part in ("text", "unet", "vae"))
    for name, released in (("SD 1.5", "sd15"), ("SD 2.1 and 2.1-base", "sd21"))
}
SIZES, MAPS = (512, 768, 1024), 10
TABLES = {  # of kernels -> the chips that use them, and what they compute with
    "ascend": (A2, ("fp32", "fp16", "bf16")),
    "ascend-unfused": (("310P", "910A"), ("fp32", "fp16")),
}


def rows(size):
    """Latents that the UNet takes at once where a mask has `MAPS` maps with guidance."""
    return rows_at_once(2 * MAPS, (size // 8) ** 2, CELLS_AT_ONCE["ascend"])


def model_calls(configs, size, batch, dtype, kernels):
    """The calls of the library by the text encoder, the UNet, and both halves of the VAE."""
    text, denoiser, autoencoder = configs
    cells, wide = size // autoencoder.factor, denoiser.cross_attention_dim
    latents = (batch, denoiser.in_channels, cells, cells)
    states = (batch, text.max_position_embeddings, wide)
    runs = (
        (clip.apply, clip.specs, text, ([(1, text.max_position_embeddings)],)),
        (unet.apply, unet.specs, denoiser, (latents, 481, states)),
        (vae.encode, vae.specs, autoencoder, ((1, 3, size, size),)),
        (vae.decode, vae.specs, autoencoder, ((1, *latents[1:]),)),
    )
    for function, specs, config, shapes in runs:
        yield from sketch.calls(function, specs(config), config, shapes, dtype, kernels)[0]


def violations():
    """Yields (what was run, number of its calls, {rule: the first call that violates it})."""
    for kernels, (families, dtypes) in TABLES.items():
        for model, configs in MODELS.items():
            for size in SIZES:
                for dtype in dtypes:
                    found = list(model_calls(configs, size, rows(size), dtype, kernels))
                    bad = {}
                    for call in found:
                        for family in families:
                            for name in broken(call, family):
                                bad.setdefault(name, call)
                    what = f"{model}, {size}x{size}, {rows(size)} rows, {dtype}, {kernels}"
                    yield what, len(found), bad


def main():
    """Print a line for each run, and what is violated; exit code 1 if anything is."""
    worst = 0
    for what, count, bad in violations():
        print(f"{what}: {count} calls, {len(bad)} rules broken")
        for name, call in bad.items():
            worst = 1
            print(f"  {RULES[name].says} ({RULES[name].source})\n  {call}")
    return worst


if __name__ == "__main__":
    sys.exit(main())
