"""diffedit_core.config: the released files are accepted, and nothing is dropped silently."""

import dataclasses
import json
import warnings
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffedit_core import clip, params as P, schedule, unet, vae
from diffedit_core.config import SchedulerConfig, TextConfig, UNetConfig, VAEConfig
from diffedit_core.errors import InputError
from diffedit_core.scheduler_config import OTHERS, OWN, STEERING
from diffedit_core.settings import per_level, read_json

# The released files of Stable Diffusion 2.1 and 1.5, key for key.
CROSS_DOWN, CROSS_UP = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], ["UpBlock2D"] + [
    "CrossAttnUpBlock2D"
] * 3
UNET_15 = dict(
    _class_name="UNet2DConditionModel",
    _diffusers_version="0.6.0",
    act_fn="silu",
    attention_head_dim=8,
    block_out_channels=[320, 640, 1280, 1280],
    center_input_sample=False,
    cross_attention_dim=768,
    down_block_types=CROSS_DOWN,
    downsample_padding=1,
    flip_sin_to_cos=True,
    freq_shift=0,
    in_channels=4,
    layers_per_block=2,
    mid_block_scale_factor=1,
    norm_eps=1e-05,
    norm_num_groups=32,
    out_channels=4,
    sample_size=64,
    up_block_types=CROSS_UP,
)
UNET_21 = UNET_15 | dict(
    _diffusers_version="0.10.0.dev0",
    attention_head_dim=[5, 10, 20, 20],
    cross_attention_dim=1024,
    dual_cross_attention=False,
    num_class_embeds=None,
    only_cross_attention=False,
    sample_size=96,
    upcast_attention=True,
    use_linear_projection=True,
)
VAE_15 = dict(
    _class_name="AutoencoderKL",
    _diffusers_version="0.6.0",
    act_fn="silu",
    block_out_channels=[128, 256, 512, 512],
    down_block_types=["DownEncoderBlock2D"] * 4,
    in_channels=3,
    latent_channels=4,
    layers_per_block=2,
    norm_num_groups=32,
    out_channels=3,
    sample_size=512,
    up_block_types=["UpDecoderBlock2D"] * 4,
)
VAE_21 = VAE_15 | dict(_diffusers_version="0.10.0.dev0", sample_size=768)
TEXT_15 = dict(
    _name_or_path="openai/clip-vit-large-patch14",
    architectures=["CLIPTextModel"],
    attention_dropout=0.0,
    bos_token_id=0,
    dropout=0.0,
    eos_token_id=2,
    hidden_act="quick_gelu",
    hidden_size=768,
    initializer_factor=1.0,
    initializer_range=0.02,
    intermediate_size=3072,
    layer_norm_eps=1e-05,
    max_position_embeddings=77,
    model_type="clip_text_model",
    num_attention_heads=12,
    num_hidden_layers=12,
    pad_token_id=1,
    projection_dim=768,
    torch_dtype="float32",
    transformers_version="4.22.0.dev0",
    vocab_size=49408,
)
TEXT_21 = TEXT_15 | dict(
    _name_or_path="hf-models/stable-diffusion-v2-768x768/text_encoder",
    hidden_act="gelu",
    hidden_size=1024,
    intermediate_size=4096,
    num_attention_heads=16,
    num_hidden_layers=23,
    projection_dim=512,
    transformers_version="4.25.0.dev0",
)
SCHEDULER_15 = dict(
    _class_name="PNDMScheduler",
    _diffusers_version="0.6.0",
    beta_end=0.012,
    beta_schedule="scaled_linear",
    beta_start=0.00085,
    clip_sample=False,
    num_train_timesteps=1000,
    set_alpha_to_one=False,
    skip_prk_steps=True,
    steps_offset=1,
    trained_betas=None,
)
SCHEDULER_21 = SCHEDULER_15 | dict(
    _class_name="DDIMScheduler", _diffusers_version="0.8.0", prediction_type="v_prediction"
)
READERS = {"unet": UNetConfig, "vae": VAEConfig, "text": TextConfig, "scheduler": SchedulerConfig}
FILES = {"unet": UNET_21, "vae": VAE_21, "text": TEXT_21, "scheduler": SCHEDULER_21}


def refused(call, *words):
    """The call raises InputError with one line that holds all the words."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message


# ---- released files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mapping", [UNET_15, UNET_21, VAE_15, VAE_21, TEXT_15, TEXT_21, SCHEDULER_15, SCHEDULER_21]
)
def test_released_files_are_read(mapping):
    """Each key of the file that is a field has the file's value; each other field has its
    default."""
    reader = {"UNet2DConditionModel": UNetConfig, "AutoencoderKL": VAEConfig, None: TextConfig}.get(
        mapping.get("_class_name"), SchedulerConfig
    )
    config = reader.read(json.loads(json.dumps(mapping)))
    for field in dataclasses.fields(config):
        value = mapping.get(field.name, field.default)
        assert getattr(config, field.name) == (tuple(value) if isinstance(value, list) else value)
    hash(config)  # graphs are specialised to it


def test_stable_diffusion_2_1():
    config = UNetConfig.read(UNET_21)
    assert (
        config.heads == (5, 10, 20, 20)
        and config.up_heads == (20, 20, 10, 5)
        and config.mid_heads == 20
    )
    assert [w // h for w, h in zip(config.block_out_channels, config.heads)] == [
        64
    ] * 4  # SD 2: heads of 64 channels
    assert config.layers == (2, 2, 2, 2) and config.depths == config.up_depths == (1, 1, 1, 1)
    assert VAEConfig.read(VAE_21).factor == 8 and VAEConfig.read(VAE_21).scaling_factor == 0.18215
    assert SchedulerConfig.read(SCHEDULER_21).prediction_type == "v_prediction"


def test_stable_diffusion_1_5():
    config = UNetConfig.read(UNET_15)
    assert config.heads == config.up_heads == (8, 8, 8, 8) and config.mid_heads == 8
    assert not config.use_linear_projection
    scheduler = SchedulerConfig.read(SCHEDULER_15)
    assert scheduler.prediction_type == "epsilon" and scheduler.timestep_spacing == "leading"
    np.testing.assert_allclose(
        schedule.alphas_cumprod(scheduler)[[0, -1]], [0.99915, 0.0046600], rtol=1e-4
    )


def test_files_as_later_versions_write_them():
    """Newer versions of the public libraries write every neutral setting out."""
    UNetConfig.read(UNET_21 | {key: allowed[0] for key, allowed in UNetConfig.NEUTRAL.items()})
    VAEConfig.read(
        VAE_21
        | dict(
            force_upcast=True,
            latents_mean=None,
            latents_std=None,
            shift_factor=None,
            mid_block_add_attention=True,
            use_quant_conv=True,
            use_post_quant_conv=True,
            scaling_factor=0.18215,
        )
    )
    SchedulerConfig.read(
        SCHEDULER_21
        | dict(
            clip_sample_range=1.0,
            dynamic_thresholding_ratio=0.995,
            rescale_betas_zero_snr=False,
            sample_max_value=1.0,
            thresholding=False,
            timestep_spacing="leading",
        )
    )


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", READERS)
def test_an_unknown_key_is_named(kind):
    refused(
        lambda: READERS[kind].read(FILES[kind] | {"frobnicate": 3}, "a/b.json"),
        "a/b.json",
        "'frobnicate'",
        3,
    )


def test_all_problems_are_named_at_once():
    refused(
        lambda: UNetConfig.read(UNET_21 | dict(one=1, act_fn="gelu", two=2)),
        "'one'",
        "'act_fn'",
        "'two'",
    )


CHANGED = {
    "unet": dict(
        center_input_sample=True,
        act_fn="gelu",
        only_cross_attention=True,
        dual_cross_attention=True,
        mid_block_type="UNetMidBlock2D",
        mid_block_only_cross_attention=True,
        class_embed_type="timestep",
        num_class_embeds=1000,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        encoder_hid_dim=1024,
        encoder_hid_dim_type="text_proj",
        attention_type="gated",
        resnet_time_scale_shift="scale_shift",
        resnet_skip_time_act=True,
        resnet_out_scale_factor=1.5,
        time_embedding_type="fourier",
        time_embedding_dim=512,
        time_embedding_act_fn="silu",
        timestep_post_act="silu",
        time_cond_proj_dim=256,
        projection_class_embeddings_input_dim=2816,
        class_embeddings_concat=True,
        cross_attention_norm="group_norm",
        num_attention_heads=8,
    ),
    "vae": dict(
        act_fn="gelu",
        shift_factor=0.1,
        latents_mean=[0.1] * 4,
        latents_std=[0.9] * 4,
        down_block_types=["AttnDownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 3,
    ),
    "scheduler": dict(clip_sample=True, thresholding=True),
}


@pytest.mark.parametrize(
    "kind, key, value", [(kind, *item) for kind, keys in CHANGED.items() for item in keys.items()]
)
def test_a_setting_that_would_change_the_result_is_refused(kind, key, value):
    refused(
        lambda: READERS[kind].read(FILES[kind] | {key: value}, "a/b.json"),
        "a/b.json",
        repr(key),
        json.dumps(value),
    )


def test_the_list_above_is_complete():
    assert set(CHANGED["unet"]) == set(UNetConfig.NEUTRAL)
    assert set(CHANGED["vae"]) == {*VAEConfig.NEUTRAL, "down_block_types", "up_block_types"}
    assert set(CHANGED["scheduler"]) == set(SchedulerConfig.NEUTRAL)


JUNK = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    float("nan"),
    float("inf"),
    "x",
    "",
    [],
    [0],
    ["x"],
    [None],
    [1.5],
    [[1]],
    {},
    {"a": 1},
]


@pytest.mark.parametrize(
    "kind, name",
    [(kind, f.name) for kind, reader in READERS.items() for f in dataclasses.fields(reader)],
)
def test_a_value_of_the_wrong_kind_is_refused_by_name(kind, name):
    """Junk either has the kind of the field's default, or the message names file and key; nothing
    else is raised."""
    default = {f.name: f.default for f in dataclasses.fields(READERS[kind])}[name]
    accepted = []
    for value in JUNK:
        try:
            READERS[kind].read(FILES[kind] | {name: value}, "a/b.json")
            accepted.append(value)
        except InputError as error:
            assert "a/b.json" in str(error) and name in str(error) and "\n" not in str(error)
    allowed = [True, False] if isinstance(default, bool) else [None] if default is None else []
    allowed += {
        "norm_eps": [1.5],
        "layer_norm_eps": [1.5],
        "mid_block_scale_factor": [True, 1.5],
        "scaling_factor": [1.5],
        "freq_shift": [0, -1, 1.5],
        "downsample_padding": [0, True, False],
        "beta_start": [0],
        "beta_end": [0],
        "trained_betas": [[0]],
        "steps_offset": [0],
    }.get(name, [])
    assert all(
        any(value is a or value == a and type(value) is type(a) for a in allowed)
        for value in accepted
    ), accepted


@pytest.mark.parametrize(
    "changes, key",
    [
        (dict(block_out_channels=[320, 640, 1280]), "down_block_types"),
        (dict(down_block_types=CROSS_DOWN[1:]), "down_block_types"),
        (dict(up_block_types=CROSS_UP + ["UpBlock2D"]), "up_block_types"),
        (dict(layers_per_block=[2, 2, 2]), "layers_per_block"),
        (dict(transformer_layers_per_block=[1, 2]), "transformer_layers_per_block"),
        (
            dict(reverse_transformer_layers_per_block=[1] * 5),
            "reverse_transformer_layers_per_block",
        ),
        (dict(attention_head_dim=[5, 10, 20]), "attention_head_dim"),
        (dict(attention_head_dim=7), "attention_head_dim"),
        (dict(attention_head_dim=[5, 10, 20, 19]), "attention_head_dim"),
        (dict(norm_num_groups=33), "norm_num_groups"),
        (dict(block_out_channels=[320, 640, 1280, 1279]), "block_out_channels"),
        (dict(conv_in_kernel=2), "conv_in_kernel"),
        (dict(conv_out_kernel=4), "conv_out_kernel"),
        (dict(downsample_padding=2), "downsample_padding"),
        (dict(freq_shift=160), "freq_shift"),
        (dict(down_block_types=["SimpleCrossAttnDownBlock2D"] * 4), "SimpleCrossAttnDownBlock2D"),
        (dict(up_block_types=["CrossAttnDownBlock2D"] * 4), "up_block_types"),
    ],
)
def test_an_inconsistent_unet_is_refused(changes, key):
    refused(lambda: UNetConfig.read(UNET_21 | changes, "a/b.json"), "a/b.json", key)


@pytest.mark.parametrize(
    "kind, changes, key",
    [
        ("text", dict(hidden_size=1023), "hidden_size"),
        ("text", dict(hidden_act="relu"), "hidden_act"),
        ("vae", dict(block_out_channels=[128, 256, 512, 500]), "block_out_channels"),
        ("vae", dict(block_out_channels=128), "block_out_channels"),
        ("vae", dict(block_out_channels=[128, 256]), "block_types"),
        ("scheduler", dict(prediction_type="sample"), "prediction_type"),
        ("scheduler", dict(beta_schedule="sigmoid"), "beta_schedule"),
        ("scheduler", dict(timestep_spacing="karras"), "timestep_spacing"),
        ("scheduler", dict(beta_end=1.2), "beta_end"),
        ("scheduler", dict(steps_offset=-1), "steps_offset"),
    ],
)
def test_an_inconsistent_file_is_refused(kind, changes, key):
    refused(lambda: READERS[kind].read(FILES[kind] | changes, "a/b.json"), "a/b.json", key)


@pytest.mark.parametrize("mapping", [[], "x", 3, 2.5, None, True])
@pytest.mark.parametrize("kind", READERS)
def test_a_file_that_is_no_object_is_refused(kind, mapping):
    refused(lambda: READERS[kind].read(mapping, "a/b.json"), "a/b.json", "object")


# ---- the two meanings of attention_head_dim ------------------------------------------------------


def test_attention_head_dim_is_a_number_of_heads_with_the_text_and_a_width_without():
    config = UNetConfig(
        block_out_channels=(32, 64, 128),
        norm_num_groups=4,
        attention_head_dim=(2, 4, 8),
        down_block_types=("AttnDownBlock2D", "CrossAttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )
    assert config.heads == (
        16,
        4,
        16,
    )  # 32 channels in heads of 2, 4 heads, 128 channels in heads of 8
    assert config.mid_heads == 8
    assert config.up_heads == (
        64,
        4,
        2,
    )  # 128 channels in heads of 2: the list is read in down order here


def test_a_width_that_does_not_divide_is_refused():
    """12 channels in heads of 5 would lose two channels."""
    types = dict(
        down_block_types=["AttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D"] * 2,
    )
    refused(
        lambda: UNetConfig.read(
            dict(block_out_channels=[12, 20], norm_num_groups=4, attention_head_dim=[5, 4], **types)
        ),
        "attention_head_dim",
        5,
        12,
    )
    types["up_block_types"] = ["AttnUpBlock2D", "CrossAttnUpBlock2D"]
    refused(
        lambda: UNetConfig.read(
            dict(block_out_channels=[12, 20], norm_num_groups=4, attention_head_dim=[3, 4], **types)
        ),
        "attention_head_dim",
        3,
        20,
    )


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_per_level(values):
    assert per_level(tuple(values), len(values), "x") == tuple(values)
    assert per_level(values[0], len(values), "x") == (values[0],) * len(values)
    with pytest.raises(ValueError, match="'x'"):
        per_level(tuple(values), len(values) + 1, "x")


# ---- every field matters -------------------------------------------------------------------------

SMALL = {
    "unet": dict(
        block_out_channels=[8, 12],
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=6,
        layers_per_block=1,
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
    ),
    "vae": dict(
        block_out_channels=[8, 12],
        norm_num_groups=4,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
    ),
    "text": dict(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=10,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=5,
    ),
}
# fields that change no leaf, but what is computed with them
COMPUTED = {
    "unet": dict(
        attention_head_dim=4,
        norm_num_groups=2,
        norm_eps=0.3,
        flip_sin_to_cos=False,
        freq_shift=1,
        downsample_padding=0,
        mid_block_scale_factor=1.7,
    ),
    "vae": dict(norm_num_groups=2),
    "text": dict(num_attention_heads=4, hidden_act="gelu", layer_norm_eps=0.3),
}
SHAPED = {  # fields that change the leaves
    "unet": dict(
        in_channels=5,
        out_channels=5,
        block_out_channels=[12, 12],
        layers_per_block=2,
        cross_attention_dim=7,
        transformer_layers_per_block=2,
        reverse_transformer_layers_per_block=[1, 2],
        use_linear_projection=True,
        conv_in_kernel=1,
        conv_out_kernel=1,
        down_block_types=["CrossAttnDownBlock2D", "AttnDownBlock2D"],
        up_block_types=["AttnUpBlock2D", "CrossAttnUpBlock2D"],
    ),
    "vae": dict(
        in_channels=4,
        out_channels=4,
        latent_channels=3,
        block_out_channels=[12, 12],
        layers_per_block=2,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ),
    "text": dict(
        vocab_size=12,
        hidden_size=12,
        intermediate_size=11,
        num_hidden_layers=3,
        max_position_embeddings=6,
    ),
}
ELSEWHERE = (
    {  # checked in test_model.py and test_schedule.py; upcast_attention: scores are always fp32
        "unet": {"sample_size", "upcast_attention"},
        "vae": {"sample_size", "scaling_factor"},
        "text": set(),
    }
)
SPECS = {"unet": unet.specs, "vae": vae.specs, "text": clip.specs}


def output(kind, config):
    """Random weights that depend on nothing but their shapes, through the models operation by
    operation."""
    ms.set_context(mode=ms.GRAPH_MODE)  # single operations are quicker in it
    rng = np.random.default_rng(0)
    params = P.to_parameters(
        P.tree_map(lambda _, leaf: rng.standard_normal(leaf.shape) * 0.3, SPECS[kind](config))
    )

    def normal(*shape):
        return ms.Tensor(np.random.default_rng(1).standard_normal(shape).astype(np.float32))

    if kind == "text":
        return clip.apply(
            params, ms.Tensor(np.array([[3, 1, 4, 1, 5]], np.int32)), config, "cpu"
        ).asnumpy()
    if kind == "vae":
        return vae.decode(params, normal(1, 4, 3, 4), config, "cpu").asnumpy()
    timesteps = ms.Tensor(np.array([300], np.int32))
    return unet.apply(
        params,
        normal(1, 4, 6, 4),
        timesteps,
        normal(1, 3, config.cross_attention_dim),
        config,
        "cpu",
    ).asnumpy()


@pytest.mark.parametrize("kind", SMALL)
def test_every_field_changes_leaves_or_result(kind):
    base = READERS[kind].read(SMALL[kind])
    names = {f.name for f in dataclasses.fields(base)}
    assert names == {*COMPUTED[kind], *SHAPED[kind], *ELSEWHERE[kind]}
    shapes = P.flatten(SPECS[kind](base))
    for name, value in SHAPED[kind].items():
        assert (
            P.flatten(SPECS[kind](READERS[kind].read(SMALL[kind] | {name: value}))) != shapes
        ), name
    before = output(kind, base)
    for name, value in COMPUTED[kind].items():
        config = READERS[kind].read(SMALL[kind] | {name: value})
        assert P.flatten(SPECS[kind](config)) == shapes
        assert np.abs(output(kind, config) - before).max() > 1e-3, name


def test_every_field_of_the_scheduler_changes_the_levels():
    base = dict(num_train_timesteps=20)
    changes = dict(
        num_train_timesteps=30,
        beta_start=0.001,
        beta_end=0.05,
        beta_schedule="scaled_linear",
        trained_betas=[0.1] * 20,
        timestep_spacing="trailing",
        steps_offset=1,
        set_alpha_to_one=False,
        rescale_betas_zero_snr=True,
    )
    assert {f.name for f in dataclasses.fields(SchedulerConfig)} == {*changes, "prediction_type"}
    before = schedule.levels(SchedulerConfig.read(base), 5)
    for name, value in changes.items():
        after = schedule.levels(SchedulerConfig.read(base | {name: value}), 5)
        assert not (
            np.array_equal(after.timesteps, before.timesteps)
            and np.allclose(after.alphas, before.alphas, 1e-6)
        ), name


# ---- files of other samplers ---------------------------------------------------------------------

# as shared models ship them, written by diffusers after a change of the sampler
DEIS = dict(
    _class_name="DEISMultistepScheduler",
    _diffusers_version="0.21.0",
    algorithm_type="deis",
    beta_end=0.012,
    beta_schedule="scaled_linear",
    beta_start=0.00085,
    clip_sample=False,
    clip_sample_range=1.0,
    dynamic_thresholding_ratio=0.995,
    lower_order_final=True,
    num_train_timesteps=1000,
    prediction_type="epsilon",
    sample_max_value=1.0,
    set_alpha_to_one=False,
    skip_prk_steps=True,
    solver_order=2,
    solver_type="logrho",
    steps_offset=1,
    thresholding=False,
    timestep_spacing="leading",
    trained_betas=None,
    use_karras_sigmas=False,
)
steering = st.dictionaries(
    st.sampled_from(sorted(STEERING)), st.none() | st.booleans() | st.floats() | st.text()
)


@pytest.mark.parametrize("name", sorted(OTHERS))
@given(steering)
@settings(max_examples=5)
def test_another_sampler_leaves_its_noise_levels_and_one_warning(name, ignored):
    mapping = SCHEDULER_21 | ignored | dict(_class_name=name, timestep_spacing="trailing")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        config = SchedulerConfig.read(mapping, "a/b.json")
    own = SCHEDULER_21 | dict(timestep_spacing="trailing")
    assert config == SchedulerConfig.read(own)
    (said,) = told
    for word in ("a/b.json", name, "DDIM", *ignored):
        assert word in str(said.message)


@pytest.mark.parametrize("name", [*sorted(OWN), None])
@given(ignored=steering)
@settings(max_examples=5)
def test_what_another_sampler_left_in_the_file_of_ddim_is_ignored(name, ignored):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = SchedulerConfig.read(SCHEDULER_21 | ignored | dict(_class_name=name))
    assert config == SchedulerConfig.read(SCHEDULER_21)


def test_a_file_of_deis_is_stable_diffusion_1_5():
    with pytest.warns(UserWarning, match="DEISMultistepScheduler.*solver_order"):
        assert SchedulerConfig.read(DEIS) == SchedulerConfig.read(SCHEDULER_15)


def test_clipping_of_another_sampler_is_not_done():
    with pytest.warns(UserWarning, match="clip_sample, .*thresholding"):
        SchedulerConfig.read(DEIS | dict(clip_sample=True, thresholding=True))


def test_samplers_of_latent_models_have_defaults_of_their_own():
    """What diffusers leaves out of a file is that class's default, not DDIM's."""
    with pytest.warns(UserWarning, match="LCMScheduler"):
        config = SchedulerConfig.read({"_class_name": "LCMScheduler"})
    np.testing.assert_allclose(
        schedule.alphas_cumprod(config)[[0, -1]], [0.99915, 0.0046600], rtol=1e-4
    )


@pytest.mark.parametrize(
    "name",
    [
        "FlowMatchEulerDiscreteScheduler",
        "EDMEulerScheduler",
        "CMStochasticIterativeScheduler",
        "DDIMSchedulr",
        3,
        ["DDIMScheduler"],
    ],
)
def test_a_sampler_of_other_noise_levels_is_refused_by_name(name):
    refused(lambda: SchedulerConfig.read({"_class_name": name}, "a/b.json"), "a/b.json", repr(name))
    kind = "flow matching" if "Flow" in str(name) else "noise levels"
    refused(lambda: SchedulerConfig.read({"_class_name": name}, "a/b.json"), kind)


@pytest.mark.parametrize("mapping", [SCHEDULER_15, DEIS], ids=["own", "other"])
@pytest.mark.parametrize(
    "key, value",
    [
        ("use_flow_sigmas", True),
        ("use_dynamic_shifting", True),
        ("shift_terminal", 0.1),
        ("timestep_type", "continuous"),
        ("variance_type", "learned_range"),
        ("prediction_type", "sample"),
        ("prediction_type", "flow_prediction"),
        ("solver_ordr", 2),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_the_model_was_trained_on_is_not_ignored(mapping, key, value):
    refused(lambda: SchedulerConfig.read(mapping | {key: value}, "a/b.json"), "a/b.json", key)


def test_up_depths_follow_the_down_path_unless_given():
    config = UNetConfig.read(SMALL["unet"] | dict(transformer_layers_per_block=[1, 3]))
    assert config.depths == (1, 3) and config.up_depths == (3, 1)
    assert dataclasses.replace(config, reverse_transformer_layers_per_block=(2, 4)).up_depths == (
        2,
        4,
    )


@pytest.mark.parametrize("levels", (1, 2, 3, 4))
def test_the_factor_is_what_the_downsamplers_halve_by(levels):
    """Latents of that many cells are one cell in the middle."""
    widths, kinds = (32, 64, 96, 32)[:levels], ("DownBlock2D",) * levels
    ups = ("UpBlock2D",) * levels
    config = UNetConfig(block_out_channels=widths, down_block_types=kinds, up_block_types=ups)
    halvings = sum(".downsamplers." in key for key in unet.specs(config))
    assert halvings == levels - 1 and config.factor == 2**halvings


def test_without_last():
    config = TextConfig.read(TEXT_21)
    assert dataclasses.replace(config.without_last(2), num_hidden_layers=23) == config
    assert config.without_last(2).num_hidden_layers == 21


# ---- files ---------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    max_leaves=8,
)
unet_keys = st.sampled_from([f.name for f in dataclasses.fields(UNetConfig)] + ["act_fn", "y"])


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(unet_keys, json_values, min_size=1))
def test_any_json_is_read_or_refused(mapping):
    try:
        config = UNetConfig.read(mapping)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        unet.specs(config)


def test_read_json(tmp_path):
    file = tmp_path / "config.json"
    refused(lambda: read_json(file), file, "missing")
    for bad in (b"", b"{", b'{"a": }', b"\xff\xfe\x00", b'{"a": 1} x'):
        file.write_bytes(bad)
        refused(lambda: read_json(file), file, "JSON")
    file.write_text('{"a": [1, 2.5, null]}')
    assert read_json(str(file)) == {"a": [1, 2.5, None]}
    refused(lambda: read_json(tmp_path), tmp_path)


def test_fixture_files_are_accepted():
    """Files written by the newest public versions."""
    for file in sorted((Path(__file__).parent / "fixtures").rglob("unet*/config.json")):
        UNetConfig.read(read_json(file), str(file))
