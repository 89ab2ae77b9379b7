"""The UNet's configuration."""

from dataclasses import dataclass

from .settings import check, check_kinds, per_level, read_settings


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
        check_kinds(
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
        self._check_blocks()
        self._check_widths()
        for name in ("conv_in_kernel", "conv_out_kernel"):
            check(
                getattr(self, name) % 2 == 1,
                f"{name!r} is {getattr(self, name)}, expected an odd number.",
            )
        check(
            self.downsample_padding in (0, 1),
            f"'downsample_padding' is {self.downsample_padding!r}, expected 0 or 1.",
        )
        check(
            self.freq_shift < self.block_out_channels[0] // 2,
            f"'freq_shift' is {self.freq_shift}, expected less than half of the first of "
            "'block_out_channels'.",
        )

    def _check_blocks(self):
        """One known block, and one of each value, for each level."""
        levels = len(self.block_out_channels)
        for name, known in (
            ("down_block_types", ("CrossAttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D")),
            ("up_block_types", ("CrossAttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")),
        ):
            kinds = getattr(self, name)
            check(
                len(kinds) == levels,
                f"{name!r} lists {len(kinds)} blocks for {levels} 'block_out_channels'.",
            )
            for kind in kinds:
                check(
                    kind in known,
                    f"{name!r} contains {kind!r}, implemented are {', '.join(known)}.",
                )
        for name in (
            "layers_per_block",
            "transformer_layers_per_block",
            "reverse_transformer_layers_per_block",
        ):
            per_level(getattr(self, name), levels, name)

    def _check_widths(self):
        """Channels divide into the groups of the norms and into heads."""
        for channels in self.block_out_channels:
            check(
                channels % self.norm_num_groups == 0,
                f"'block_out_channels' {channels} is not a multiple of 'norm_num_groups' "
                f"{self.norm_num_groups}.",
            )
        levels, mirrored = len(self.block_out_channels), self.block_out_channels[::-1]
        values = per_level(self.attention_head_dim, levels, "attention_head_dim")
        wide = [
            (c, v)
            for kind, c, v in zip(self.up_block_types, mirrored, values)
            if kind == "AttnUpBlock2D"
        ]  # see up_heads
        for channels, value in (*zip(self.block_out_channels, values), *wide):
            check(
                channels % value == 0,
                f"'attention_head_dim' {value} does not divide the {channels} channels of a block.",
            )

    @property
    def factor(self):
        """Cells of the outermost level per cell of the innermost, along each side."""
        return 2 ** (len(self.block_out_channels) - 1)

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
        return read_settings(cls, mapping, where, cls.NEUTRAL)
