"""Configurations of a single file, from the shapes of its tensors.

Each number is the one that most of the keys agree on, so that one wrong key is reported as such and
does not change the model that is looked for. The number of heads and the prediction type have no
shape: the first is known for Stable Diffusion 1 and 2, the second comes from the file's checksum,
its name, or a guess.
"""

import re
from collections import Counter

from diffedit_core.errors import InputError

from .rules_lora import FACTOR, OTHERS
from .rules_original import CLIP, OPENCLIP, UNET, VAE

# sha256 of public files
PREDICTION_OF_FILE = {
    # v2-1_768-ema-pruned.ckpt
    "ad2a33c361c1f593c4a1fb32ea81afce2b5bb7d1983c6b94793a26a3b54b08a0": "v_prediction",
    # v2-1_768-ema-pruned.safetensors
    "dcd690123cfc64383981a31d955694f6acf2072a80537fdb612c8e58ec87a8ac": "v_prediction",
    # 768-v-ema.ckpt
    "bfcaf0755797b0c30eb00a3787e8b423eb1f5decd8de76c4d824ac2dd27e139f": "v_prediction",
    # v2-1_512-ema-pruned.ckpt
    "88ecb782561455673c4b78d05093494b9c539fc6bfc08f3a9a4a0dd7b0b10f36": "epsilon",
    # 512-base-ema.ckpt
    "d635794c1fedfdfa261e065370bea59c651fc9bfa65dc6d67ad29e11869a1824": "epsilon",
    # v1-5-pruned-emaonly.ckpt
    "cc6cb27103417325ff94f52b7a5d2dde45a7515b25c255d8e396c90014281516": "epsilon",
    # v1-5-pruned-emaonly.safetensors
    "6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa": "epsilon",
    "fe4efff1e174c627256e44ec2991ba279b3816e364b49f9be2abc0b3ff3f8556": "epsilon",  # sd-v1-4.ckpt
}
PREDICTION_OF_NAME = (  # patterns of public file names
    (r"(v2-1_768-(ema|nonema)-pruned|768-v-ema)\..*", "v_prediction"),
    (r"(v2-1_512-(ema|nonema)-pruned|512-base-ema)\..*", "epsilon"),
)
SIDE = {"v_prediction": 768, "epsilon": 512}  # pixels that the public models were trained on
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "trained_betas": None,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


class Shapes:
    """The shapes of a file's tensors, asked by pattern."""

    def __init__(self, tensors):
        self.items = [(key, stored.shape) for key, stored in tensors]

    def find(self, pattern):
        """[(match, shape)] of the keys that a pattern fits."""
        pairs = [(re.fullmatch(pattern, key), shape) for key, shape in self.items]
        return [(match, shape) for match, shape in pairs if match]

    def vote(self, pattern, value, default=None):
        """What most of the keys say; `value` takes a shape and may return None."""
        votes = Counter(
            v for v in (value(shape) for _, shape in self.find(pattern)) if v is not None
        )
        return votes.most_common(1)[0][0] if votes else default

    def levels(self, pattern, value, at_least=1):
        """{number: what most keys with that number in the first group say}, for numbers that occur
        often enough."""
        votes = {}
        for match, shape in self.find(pattern):
            votes.setdefault(int(match[1]), Counter())[value(shape)] += 1
        return {
            n: c.most_common(1)[0][0]
            for n, c in sorted(votes.items())
            if sum(c.values()) >= at_least
        }


def kind_of(source):
    """What a file is: "original", "mindone", "lora", "embedding", "component" or None."""
    if not source.tensors and "string_to_param" in source.extras:
        return "embedding"
    return kind(source.tensors)


def kind(tensors):
    """The same, from the keys alone."""
    keys = [key for key, _ in tensors]
    if any(key.startswith(UNET) for key in keys):
        mindone = sum(bool(re.search(r"\.(in|out)_layers_(norm|conv)\.", key)) for key in keys)
        return "mindone" if mindone > sum(".in_layers." in key for key in keys) else "original"
    factors = (FACTOR, *(pattern for pattern, _ in OTHERS))
    if any(re.search(pattern, key) for key in keys for pattern in factors):
        return "lora"
    if any(re.match(r"(down_blocks|encoder\.down_blocks|text_model)\.", key) for key in keys):
        return "component"
    if 0 < len(keys) <= 4 and all(len(stored.shape) in (1, 2) for _, stored in tensors):
        return "embedding"
    return None


def has_scaled_fp8(tensors):
    """Whether numbers of eight bits have to be multiplied by scales that are keys of their own."""
    narrow = any(stored.dtype.startswith("F8") for _, stored in tensors)
    scale = r"(.*\.)?(scaled_fp8|scale_weight|weight_scale(_2)?|scale_input|input_scale)"
    return narrow and any(re.fullmatch(scale, key) for key, _ in tensors)


def uses_open_clip(tensors):
    """Whether the text encoder of an original file is OpenCLIP's."""
    keys = [key for key, _ in tensors]
    return sum(key.startswith(OPENCLIP) for key in keys) > sum(key.startswith(CLIP) for key in keys)


def file_layers(tensors):
    """How many layers of OpenCLIP the file has, and whether the last of them is one too many.

    It is in the files of the first release, which also have OpenCLIP's projection, and in none that
    were converted back.
    """
    keys, layers = {key for key, _ in tensors}, text_layers(Shapes(tensors))
    return layers, layers == 24 or bool(
        {OPENCLIP + "text_projection", OPENCLIP + "logit_scale"} & keys
    )


def _first(shape):
    return shape[0] if shape else None


def _second(shape):
    return shape[1] if len(shape) > 1 else None


def unet(shapes):
    """The UNet's configuration."""
    prefix = re.escape(UNET)
    per_level, widths, depths = _levels(shapes, prefix)
    linear = shapes.vote(prefix + r".*\.proj_in\.weight", len, 2) == 2
    if linear and any(width is None or width % 64 for width in widths):
        raise InputError(
            f"The number of heads of a UNet of {widths} channels cannot be told from the file: "
            "give the folder of a model of the same shapes as --config."
        )
    attends = [depth is not None for depth in depths]
    depths = [depth or 1 for depth in depths]
    return {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": [width // 64 for width in widths] if linear else 8,
        "block_out_channels": widths,
        "center_input_sample": False,
        "cross_attention_dim": shapes.vote(prefix + r".*\.attn2\.to_[kv]\.weight", _second, 768),
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": shapes.vote(prefix + r"input_blocks\.0\.0(\.conv)?\.weight", _second, 4),
        "layers_per_block": per_level - 1,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": shapes.vote(prefix + r"out\.2(\.conv)?\.(weight|bias)", _first, 4),
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in attends[::-1]],
        "transformer_layers_per_block": depths[0] if len(set(depths)) == 1 else depths,
        "upcast_attention": linear,
        "use_linear_projection": linear,
    }


def _levels(shapes, prefix):
    """(input blocks of a level, [channels of each level], [its transformer blocks or None])."""
    downs = sorted(shapes.levels(prefix + r"input_blocks\.(\d+)\.0\.op\..*", len))
    per_level = downs[0] if downs else 3
    widths_of = shapes.levels(
        prefix
        + r"input_blocks\.(\d+)\.0\.(?:emb_layers\.1|out_layers\.0|out_layers\.3|out_layers_norm|"
        r"out_layers_conv\.conv)\.(?:bias|beta)",
        _first,
    )
    firsts = [1 + i * per_level for i in range(len(downs) + 1)]
    if per_level < 2 or any(first not in widths_of for first in firsts):
        raise InputError(
            "The UNet's levels cannot be told from the file: give the folder of a model of the "
            "same shapes as --config."
        )
    depths = {n: 1 + depth for n, depth in _depths(shapes, prefix).items()}
    return per_level, [widths_of[n] for n in firsts], [depths.get(n) for n in firsts]


def _depths(shapes, prefix):
    """{input block: the highest number of a transformer block that several keys have}."""
    pattern = prefix + r"input_blocks\.(\d+)\.1\.transformer_blocks\.(\d+)\..*"
    found = Counter((int(match[1]), int(match[2])) for match, _ in shapes.find(pattern))
    depths = {}
    for (block, number), keys in found.items():
        if keys > 1:
            depths[block] = max(number, depths.get(block, 0))
    return depths


def vae(shapes):
    """The autoencoder's configuration."""
    prefix = re.escape(VAE)
    widths = shapes.levels(
        prefix + r"encoder\.down\.(\d+)\.block\.\d+\.(?:conv1|conv2|norm2)\.bias", _first
    )
    blocks = shapes.levels(prefix + r"encoder\.down\.0\.block\.(\d+)\..*", len, 2)
    if not widths or not blocks or sorted(widths) != list(range(len(widths))):
        raise InputError(
            "The autoencoder's levels cannot be told from the file: it is not complete, or not "
            "of Stable Diffusion."
        )
    latent = shapes.vote(prefix + r"(post_quant_conv|decoder\.conv_in)\.weight", _second, 4)
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": [widths[i] for i in range(len(widths))],
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "in_channels": 3,
        "latent_channels": latent,
        "layers_per_block": max(blocks) + 1,
        "norm_num_groups": 32,
        "out_channels": 3,
        "scaling_factor": 0.18215,
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
    }


def text(shapes, open_clip, layers):
    """The text encoder's configuration; `layers` of it are used."""
    width = shapes.vote(
        r"cond_stage_model\..*(ln_1|ln_2|layer_norm1|layer_norm2)\.(weight|bias|gamma|beta)", _first
    )
    vocabulary = shapes.vote(
        r"cond_stage_model\..*(token_embedding\.weight|embedding_table)", _first, 49408
    )
    positions = shapes.vote(
        r"cond_stage_model\..*(positional_embedding|position_embedding\.weight)", _first, 77
    )
    inner = shapes.vote(r"cond_stage_model\..*(c_fc|fc1)\.bias", _first)
    if not width or not inner or layers < 1:
        raise InputError(
            "The text encoder cannot be told from the file: it is not complete, or not of Stable "
            "Diffusion 1 or 2."
        )
    if width % 64:
        raise InputError(
            f"The number of heads of a text encoder of {width} channels cannot be told from the "
            "file: give the folder of a model of the same shapes as --config."
        )
    return {
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": "gelu" if open_clip else "quick_gelu",
        "hidden_size": width,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": inner,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": positions,
        "model_type": "clip_text_model",
        "num_attention_heads": width // 64,
        "num_hidden_layers": layers,
        "pad_token_id": 1,
        "vocab_size": vocabulary,
    }


def text_layers(shapes):
    """How many layers of the text encoder several keys have."""
    found = shapes.levels(r"cond_stage_model\..*\.(?:resblocks|layers)\.(\d+)\..*", len, 2)
    return 1 + max(found, default=-1)


def prediction_type(name, sha256, open_clip):
    """(prediction type, how it is known: "checksum", "name", "version" or "guess") of a single
    file."""
    if sha256 in PREDICTION_OF_FILE:
        return PREDICTION_OF_FILE[sha256], "checksum"
    for pattern, value in PREDICTION_OF_NAME:
        if re.fullmatch(pattern, name):
            return value, "name"
    return ("v_prediction", "guess") if open_clip else ("epsilon", "version")
