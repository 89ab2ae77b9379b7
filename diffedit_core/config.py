"""Model and scheduler configurations, read from the public JSON files.

Each dataclass holds exactly the keys that this implementation honours, with the public libraries'
defaults. Every other key of a file has to be known: either harmless (it changes no result of
inference) or present with its neutral value. Anything else is an error, because a key that is
silently dropped is a model that silently runs wrong.
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

from .errors import InputError

HARMLESS = frozenset(
    "_class_name _diffusers_version _name_or_path architectures model_type torch_dtype dtype transformers_version "
    "dropout attention_dropout initializer_factor initializer_range projection_dim bos_token_id eos_token_id "
    "pad_token_id use_cache return_dict force_upcast addition_embed_type_num_heads gradient_checkpointing "
    "output_attentions output_hidden_states torchscript tie_word_embeddings is_encoder_decoder is_decoder".split()
)


def _tuples(value):
    return tuple(_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value


def _kind(value):
    """JSON's type of a value; a whole number is also a number."""
    return "number" if isinstance(value, float) else type(value).__name__


def _read(cls, mapping, where, neutral, harmless=frozenset()):
    """Build `cls` from a mapping, refusing every key whose effect it would not have."""
    if not isinstance(mapping, dict):
        raise InputError(f"{where}: expected a JSON object of settings, found {_kind(mapping)}.")
    fields = {f.name for f in dataclasses.fields(cls)}
    kept, problems = {}, []
    for key, value in mapping.items():
        if key in fields:
            kept[key] = _tuples(value)
        elif key in neutral:
            if _tuples(value) not in neutral[key]:
                allowed = " or ".join(json.dumps(v) for v in neutral[key])
                problems.append(f"{key!r} is {json.dumps(value)}, only {allowed} is implemented")
        elif key not in HARMLESS and key not in harmless:
            problems.append(f"unknown key {key!r} ({json.dumps(value)})")
    if problems:
        raise InputError(
            f"{where}: {'; '.join(problems)}. Such a setting would change the result unnoticed: remove the key if it is "
            "not part of the model, or use a model without it."
        )
    try:
        return cls(**kept)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from None


def _check(condition, message):
    if not condition:
        raise ValueError(message)


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_list(value, of):
    return isinstance(value, tuple) and len(value) > 0 and all(map(of, value))


# kind of a field -> (what the message asks for, test)
_KINDS = {
    "flag": ("true or false", lambda v: isinstance(v, bool)),
    "count": ("a positive whole number", _is_count),
    "counts": ("a list of positive whole numbers", lambda v: _is_list(v, _is_count)),
    "per level": (
        "a positive whole number, or a list of them",
        lambda v: _is_count(v) or _is_list(v, _is_count),
    ),
    "number": ("a number", _is_number),
    "positive": ("a positive number", lambda v: _is_number(v) and v > 0),
    "beta": ("a number from 0 to 1", lambda v: _is_number(v) and 0 <= v <= 1),
    "betas": (
        "a list of numbers from 0 to 1",
        lambda v: _is_list(v, lambda x: _is_number(x) and 0 <= x <= 1),
    ),
    "names": ("a list of names", lambda v: _is_list(v, lambda x: isinstance(x, str))),
}


def _check_kinds(config, **fields):
    """Each named field has the kind given for it; None passes only where it is the default."""
    for name, kind in fields.items():
        value, (wanted, test) = getattr(config, name), _KINDS[kind]
        optional = value is None and type(config).__dataclass_fields__[name].default is None
        _check(
            optional or test(value),
            f"{name!r} is {json.dumps(value, default=repr)}, expected {wanted}.",
        )


def per_level(value, levels, name):
    """One value for each resolution level: a number stands for all of them."""
    values = value if isinstance(value, tuple) else (value,) * levels
    _check(len(values) == levels, f"{name!r} lists {len(values)} values for {levels} levels.")
    return values


@dataclass(frozen=True)
class TextConfig:
    """CLIP text encoder (transformers' CLIPTextConfig)."""

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    def __post_init__(self):
        _check_kinds(
            self,
            vocab_size="count",
            hidden_size="count",
            intermediate_size="count",
            num_hidden_layers="count",
            num_attention_heads="count",
            max_position_embeddings="count",
            layer_norm_eps="positive",
        )
        _check(
            self.hidden_act in ("gelu", "quick_gelu"),
            f"'hidden_act' is {self.hidden_act!r}, expected 'gelu' or 'quick_gelu'.",
        )
        _check(
            self.hidden_size % self.num_attention_heads == 0,
            f"'hidden_size' {self.hidden_size} is not a multiple of 'num_attention_heads' {self.num_attention_heads}.",
        )

    def without_last(self, layers):
        """The same encoder cut off before its last layers (SD 2.x itself leaves out the last of
        OpenCLIP's 24)."""
        return dataclasses.replace(self, num_hidden_layers=self.num_hidden_layers - layers)

    @classmethod
    def read(cls, mapping, where="text_encoder/config.json"):
        """Raises InputError for a key that is unknown or not honoured."""
        return _read(cls, mapping, where, {}, _TRANSFORMERS_DEFAULTS)


# Generation settings that transformers 4 wrote into every config file; an encoder does not
# generate.
_TRANSFORMERS_DEFAULTS = frozenset(
    "_commit_hash add_cross_attention bad_words_ids begin_suppress_tokens chunk_size_feed_forward "
    "cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample early_stopping "
    "encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task forced_bos_token_id "
    "forced_eos_token_id id2label label2id length_penalty max_length min_length no_repeat_ngram_size num_beam_groups "
    "num_beams num_return_sequences output_scores prefix problem_type pruned_heads remove_invalid_values "
    "repetition_penalty return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature "
    "tf_legacy_loss tie_encoder_decoder tokenizer_class top_k top_p typical_p use_bfloat16".split()
)


@dataclass(frozen=True)
class UNetConfig:
    """UNet2DCondition (diffusers' UNet2DConditionModel).

    `attention_head_dim` has two historical meanings. In the blocks with cross-attention, so in
    every released Stable Diffusion, it is despite its name the *number* of heads; in
    AttnDownBlock2D and AttnUpBlock2D it is the width of one.
    """

    sample_size: int = None
    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple = (320, 640, 1280, 1280)
    down_block_types: tuple = (
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    )
    up_block_types: tuple = (
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
    )
    layers_per_block: object = 2
    transformer_layers_per_block: object = 1
    reverse_transformer_layers_per_block: tuple = None
    attention_head_dim: object = 8
    cross_attention_dim: int = 1280
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    use_linear_projection: bool = False
    upcast_attention: bool = False  # honoured for free: scores and softmax are always fp32 here
    flip_sin_to_cos: bool = True
    freq_shift: float = 0
    downsample_padding: int = 1
    mid_block_scale_factor: float = 1
    conv_in_kernel: int = 3
    conv_out_kernel: int = 3

    NEUTRAL = {
        "center_input_sample": (False,),
        "act_fn": ("silu", "swish"),
        "only_cross_attention": (False,),
        "dual_cross_attention": (False,),
        "mid_block_type": ("UNetMidBlock2DCrossAttn",),
        "mid_block_only_cross_attention": (None, False),
        "class_embed_type": (None,),
        "num_class_embeds": (None,),
        "addition_embed_type": (None,),
        "addition_time_embed_dim": (None,),
        "encoder_hid_dim": (None,),
        "encoder_hid_dim_type": (None,),
        "attention_type": ("default",),
        "resnet_time_scale_shift": ("default",),
        "resnet_skip_time_act": (False,),
        "resnet_out_scale_factor": (1, 1.0),
        "time_embedding_type": ("positional",),
        "time_embedding_dim": (None,),
        "time_embedding_act_fn": (None,),
        "timestep_post_act": (None,),
        "time_cond_proj_dim": (None,),
        "projection_class_embeddings_input_dim": (None,),
        "class_embeddings_concat": (False, None),
        "cross_attention_norm": (None,),
        "num_attention_heads": (None,),
    }

    def __post_init__(self):
        _check_kinds(
            self,
            sample_size="count",
            in_channels="count",
            out_channels="count",
            block_out_channels="counts",
            down_block_types="names",
            up_block_types="names",
            layers_per_block="per level",
            transformer_layers_per_block="per level",
            reverse_transformer_layers_per_block="counts",
            attention_head_dim="per level",
            cross_attention_dim="count",
            norm_num_groups="count",
            norm_eps="positive",
            use_linear_projection="flag",
            upcast_attention="flag",
            flip_sin_to_cos="flag",
            freq_shift="number",
            mid_block_scale_factor="positive",
            conv_in_kernel="count",
            conv_out_kernel="count",
        )
        levels = len(self.block_out_channels)
        for name, known in (
            ("down_block_types", ("CrossAttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D")),
            ("up_block_types", ("CrossAttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")),
        ):
            kinds = getattr(self, name)
            _check(
                len(kinds) == levels,
                f"{name!r} lists {len(kinds)} blocks for {levels} 'block_out_channels'.",
            )
            for kind in kinds:
                _check(
                    kind in known,
                    f"{name!r} contains {kind!r}, implemented are {', '.join(known)}.",
                )
        for channels in self.block_out_channels:
            _check(
                channels % self.norm_num_groups == 0,
                f"'block_out_channels' {channels} is not a multiple of 'norm_num_groups' {self.norm_num_groups}.",
            )
        values, mirrored = (
            per_level(self.attention_head_dim, levels, "attention_head_dim"),
            self.block_out_channels[::-1],
        )
        wide = [
            (c, v)
            for kind, c, v in zip(self.up_block_types, mirrored, values)
            if kind == "AttnUpBlock2D"
        ]  # see up_heads
        for channels, value in (*zip(self.block_out_channels, values), *wide):
            _check(
                channels % value == 0,
                f"'attention_head_dim' {value} does not divide the {channels} channels of a block.",
            )
        for name in (
            "layers_per_block",
            "transformer_layers_per_block",
            "reverse_transformer_layers_per_block",
        ):
            per_level(getattr(self, name), levels, name)
        for name in ("conv_in_kernel", "conv_out_kernel"):
            _check(
                getattr(self, name) % 2 == 1,
                f"{name!r} is {getattr(self, name)}, expected an odd number.",
            )
        _check(
            self.downsample_padding in (0, 1),
            f"'downsample_padding' is {self.downsample_padding!r}, expected 0 or 1.",
        )
        _check(
            self.freq_shift < self.block_out_channels[0] // 2,
            f"'freq_shift' is {self.freq_shift}, expected less than half of the first of 'block_out_channels'.",
        )

    @property
    def heads(self):
        """Attention heads in each down block."""
        values = per_level(
            self.attention_head_dim, len(self.block_out_channels), "attention_head_dim"
        )
        return tuple(
            width // value if kind == "AttnDownBlock2D" else value
            for kind, width, value in zip(self.down_block_types, self.block_out_channels, values)
        )

    @property
    def mid_heads(self):
        """Attention heads in the mid block, which always attends to the text."""
        return per_level(
            self.attention_head_dim, len(self.block_out_channels), "attention_head_dim"
        )[-1]

    @property
    def up_heads(self):
        """Attention heads in each up block. AttnUpBlock2D reads the list of the config in the order
        of the down blocks."""
        values = per_level(
            self.attention_head_dim, len(self.block_out_channels), "attention_head_dim"
        )
        return tuple(
            width // value if kind == "AttnUpBlock2D" else mirrored
            for kind, width, value, mirrored in zip(
                self.up_block_types, self.block_out_channels[::-1], values, values[::-1]
            )
        )

    @property
    def layers(self):
        """Resnets in each down block; an up block has one more."""
        return per_level(self.layers_per_block, len(self.block_out_channels), "layers_per_block")

    @property
    def depths(self):
        """Transformer blocks behind each resnet of each down block."""
        return per_level(
            self.transformer_layers_per_block,
            len(self.block_out_channels),
            "transformer_layers_per_block",
        )

    @property
    def up_depths(self):
        """The same for each up block, in the order of the up blocks."""
        return self.reverse_transformer_layers_per_block or self.depths[::-1]

    @classmethod
    def read(cls, mapping, where="unet/config.json"):
        """Raises InputError for a key that is unknown or not honoured."""
        return _read(cls, mapping, where, cls.NEUTRAL)


@dataclass(frozen=True)
class VAEConfig:
    """KL autoencoder (diffusers' AutoencoderKL)."""

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple = (64,)
    layers_per_block: int = 1
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    sample_size: int = 32
    mid_block_add_attention: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True

    NEUTRAL = {
        "act_fn": ("silu", "swish"),
        "shift_factor": (None, 0),
        "latents_mean": (None,),
        "latents_std": (None,),
    }

    def __post_init__(self):
        _check_kinds(
            self,
            in_channels="count",
            out_channels="count",
            latent_channels="count",
            block_out_channels="counts",
            layers_per_block="count",
            norm_num_groups="count",
            scaling_factor="positive",
            sample_size="count",
            mid_block_add_attention="flag",
            use_quant_conv="flag",
            use_post_quant_conv="flag",
        )
        for channels in self.block_out_channels:
            _check(
                channels % self.norm_num_groups == 0,
                f"'block_out_channels' {channels} is not a multiple of 'norm_num_groups' {self.norm_num_groups}.",
            )

    @property
    def factor(self):
        """Picture pixels per latent cell, along each side."""
        return 2 ** (len(self.block_out_channels) - 1)

    @classmethod
    def read(cls, mapping, where="vae/config.json"):
        """Raises InputError for a key that is unknown or not honoured."""
        widths = (
            _tuples(mapping.get("block_out_channels", (64,))) if isinstance(mapping, dict) else None
        )
        if not _is_list(
            widths, _is_count
        ):  # let the message be about that, not about the number of blocks
            return _read(
                cls, mapping, where, cls.NEUTRAL, frozenset(("down_block_types", "up_block_types"))
            )
        neutral = {
            **cls.NEUTRAL,
            "down_block_types": (("DownEncoderBlock2D",) * len(widths),),
            "up_block_types": (("UpDecoderBlock2D",) * len(widths),),
        }
        return _read(cls, mapping, where, neutral)


@dataclass(frozen=True)
class SchedulerConfig:
    """The noise schedule and the step grid (diffusers' DDIMScheduler, and what it takes over from
    PNDM's file)."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: tuple = None
    prediction_type: str = "epsilon"
    timestep_spacing: str = "leading"
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    rescale_betas_zero_snr: bool = False

    NEUTRAL = {"clip_sample": (False,), "thresholding": (False,)}
    IGNORED = frozenset(
        "clip_sample_range dynamic_thresholding_ratio sample_max_value skip_prk_steps".split()
    )

    def __post_init__(self):
        _check_kinds(
            self,
            num_train_timesteps="count",
            beta_start="beta",
            beta_end="beta",
            trained_betas="betas",
            set_alpha_to_one="flag",
            rescale_betas_zero_snr="flag",
        )
        _check(
            self.steps_offset == 0
            and self.steps_offset is not False
            or _is_count(self.steps_offset),
            f"'steps_offset' is {self.steps_offset!r}, expected a whole number from 0 up.",
        )
        for name, known in (
            ("prediction_type", ("epsilon", "v_prediction")),
            ("timestep_spacing", ("leading", "trailing", "linspace")),
            ("beta_schedule", ("linear", "scaled_linear", "squaredcos_cap_v2")),
        ):
            _check(
                getattr(self, name) in known,
                f"{name!r} is {getattr(self, name)!r}, implemented are {', '.join(known)}.",
            )

    @classmethod
    def read(cls, mapping, where="scheduler/scheduler_config.json"):
        """Raises InputError for a key that is unknown or not honoured.

        `clip_sample` must be false: clipping latents to [-1, 1] makes no sense, and a clipped step
        cannot be inverted.
        """
        return _read(cls, mapping, where, cls.NEUTRAL, cls.IGNORED)


def read_json(path):
    """Raises InputError when the file is missing or is not JSON."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path} is missing: the model folder is not complete, copy or download it again."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read as JSON ({error}): copy or download it again."
        ) from None


def read_index(path):
    """{shard: keys that are in it} of a `*.index.json`, the shards in the order of their names.

    Raises:
        InputError: it is no index, or refers to files outside its folder.
    """
    index = read_json(path)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{path} has no 'weight_map': copy or download it again.")
    shards = {}
    for key, name in weight_map.items():
        if (
            not isinstance(name, str)
            or Path(name).name != name
            or name in ("", "..")
            or "\\" in name
            or "\0" in name
        ):
            raise InputError(
                f"{path} refers to {name!r} outside its folder: do not use files from this source."
            )
        shards.setdefault(name, set()).add(key)
    return dict(sorted(shards.items()))
