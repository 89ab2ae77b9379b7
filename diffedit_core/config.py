"""The text encoder's and the VAE's configurations, and under one name those of the UNet and the
scheduler. `settings` says how a file is read."""

import dataclasses
from dataclasses import dataclass

from .scheduler_config import SchedulerConfig  # noqa: F401
from .settings import as_tuples, check, check_kinds, is_count, is_list, read_settings
from .unet_config import UNetConfig  # noqa: F401


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
        check_kinds(
            self,
            vocab_size="count",
            hidden_size="count",
            intermediate_size="count",
            num_hidden_layers="count",
            num_attention_heads="count",
            max_position_embeddings="count",
            layer_norm_eps="positive",
        )
        check(
            self.hidden_act in ("gelu", "quick_gelu"),
            f"'hidden_act' is {self.hidden_act!r}, expected 'gelu' or 'quick_gelu'.",
        )
        check(
            self.hidden_size % self.num_attention_heads == 0,
            f"'hidden_size' {self.hidden_size} is not a multiple of 'num_attention_heads' "
            f"{self.num_attention_heads}.",
        )

    def without_last(self, layers):
        """The same encoder cut off before its last layers (SD 2.x itself leaves out the last of
        OpenCLIP's 24)."""
        return dataclasses.replace(self, num_hidden_layers=self.num_hidden_layers - layers)

    @classmethod
    def read(cls, mapping, where="text_encoder/config.json"):
        """Raises InputError for a key that is unknown or not honoured."""
        return read_settings(cls, mapping, where, {}, _TRANSFORMERS_DEFAULTS)


# Generation settings that transformers 4 wrote into every config file; an encoder does not
# generate.
_TRANSFORMERS_DEFAULTS = frozenset(
    "_commit_hash add_cross_attention bad_words_ids begin_suppress_tokens chunk_size_feed_forward "
    "cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample "
    "early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task "
    "forced_bos_token_id forced_eos_token_id id2label label2id length_penalty max_length "
    "min_length no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_scores "
    "prefix problem_type pruned_heads remove_invalid_values repetition_penalty "
    "return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature "
    "tf_legacy_loss tie_encoder_decoder tokenizer_class top_k top_p typical_p use_bfloat16".split()
)


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
        check_kinds(
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
            check(
                channels % self.norm_num_groups == 0,
                f"'block_out_channels' {channels} is not a multiple of 'norm_num_groups' "
                f"{self.norm_num_groups}.",
            )

    @property
    def factor(self):
        """Picture pixels per latent cell, along each side."""
        return 2 ** (len(self.block_out_channels) - 1)

    @classmethod
    def read(cls, mapping, where="vae/config.json"):
        """Raises InputError for a key that is unknown or not honoured."""
        widths = (
            as_tuples(mapping.get("block_out_channels", (64,)))
            if isinstance(mapping, dict)
            else None
        )
        if not is_list(
            widths, is_count
        ):  # let the message be about that, not about the number of blocks
            return read_settings(
                cls, mapping, where, cls.NEUTRAL, frozenset(("down_block_types", "up_block_types"))
            )
        neutral = {
            **cls.NEUTRAL,
            "down_block_types": (("DownEncoderBlock2D",) * len(widths),),
            "up_block_types": (("UpDecoderBlock2D",) * len(widths),),
        }
        return read_settings(cls, mapping, where, neutral)
