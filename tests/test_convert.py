"""weights_convert: the public names, nothing lost or mixed up, and every way in which a source can
be wrong."""

import gzip
import json
import re
import shutil
import warnings
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from diffedit_core import params as P, tokenizer as T
from diffedit_core.config import UNetConfig, VAEConfig
from diffedit_core.model import COMPONENTS, Model, weight_files
from tests.test_config import TEXT_15, TEXT_21, UNET_15, UNET_21, VAE_15, VAE_21, refused
from tests.test_model import MICRO, change, shard
from weights_convert import (
    convert,
    inspect,
    leaves,
    reading,
    rules_diffusers,
    rules_lora,
    rules_mindone,
    rules_original,
    verify,
    words,
)
from weights_convert import infer
from weights_convert.engine import Drop, Group, Rule, candidates, match, stored_shape
from weights_convert.sources import Source, open_file, read_tokenizer
from weights_convert.tensors import Stored, narrow, widen

FIXTURES = Path(__file__).parent / "fixtures" / "convert"
FULL = {
    "sd21": {"unet": UNET_21, "vae": VAE_21, "text_encoder": TEXT_21},
    "sd15": {"unet": UNET_15, "vae": VAE_15, "text_encoder": TEXT_15},
}
TINY = ("sd1", "sd2")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Tests need not survive a power cut."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@lru_cache(maxsize=None)
def public_names(name):
    return json.loads(gzip.decompress((FIXTURES / f"names_{name}.json.gz").read_bytes()))


@lru_cache(maxsize=None)
def tiny(name):
    """(configurations, {component/key: [original key, shape there, layout]}) of a tiny model."""
    content = json.loads((FIXTURES / f"{name}.json").read_text())
    return content["configs"], content["names"]


@lru_cache(maxsize=None)
def weight(name, shape):
    """The weight of a name, as tests/fixtures/make_convert.py draws it."""
    return np.random.default_rng(list(name.encode())).standard_normal(shape).astype(np.float16)


def tiny_weights(name):
    return {leaf: weight(leaf, shape) for leaf, shape in leaves.shapes(tiny(name)[0]).items()}


def config_folder(place, name):
    """A folder with a tiny model's configurations and a tokenizer."""
    for component, mapping in tiny(name)[0].items():
        (place / component).mkdir(parents=True)
        (place / component / "config.json").write_text(json.dumps(mapping))
    for part in ("tokenizer", "scheduler"):
        shutil.copytree(MICRO / part, place / part)
    return place


@pytest.fixture
def configs(tmp_path):
    """configs(name) -> folder for --config."""
    return lambda name: config_folder(tmp_path / f"{name}-config", name)


def held(folder):
    """{component/key: array} of a model folder."""
    return {
        f"{c}/{key}": array
        for c in COMPONENTS
        for file in sorted((folder / c).glob("*.safetensors"))
        for key, array in load_file(file).items()
    }


def equal(a, b):
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and a[k].tobytes() == b[k].tobytes()
        for k in a
    )


def headers(listed, path=Path("some.safetensors")):
    """[(key, Stored)] of an original file with these names: a header without data."""
    return [
        (key, Stored(path, "F32", tuple(shape), ()))
        for key, shape in {k: tuple(s) for k, s, _ in listed.values()}.items()
    ]


def surplus(layers, width):
    """What OpenCLIP's released files have and the model does not use."""
    block = rules_original.OPENCLIP + f"transformer.resblocks.{layers}."
    shapes = {
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "mlp.c_fc.weight": (4 * width, width),
        "mlp.c_fc.bias": (4 * width,),
        "mlp.c_proj.weight": (width, 4 * width),
        "mlp.c_proj.bias": (width,),
        **{f"ln_{i}.{leaf}": (width,) for i in (1, 2) for leaf in ("weight", "bias")},
    }
    found = {block + key: shape for key, shape in shapes.items()}
    return {
        **found,
        rules_original.OPENCLIP + "text_projection": (width, width),
        rules_original.OPENCLIP + "logit_scale": (),
    }


@lru_cache(maxsize=None)
def released(name):
    """The header of a full-size public file."""
    tensors = headers(public_names(name))
    extra = surplus(23, 1024) if name == "sd21" else {}
    return tensors + [
        (key, Stored(Path("some.safetensors"), "F32", shape, ())) for key, shape in extra.items()
    ]


def read(tensors, **options):
    """Read headers as `convert` does, without the files."""
    return reading.read_model(
        Source(Path("some.safetensors"), "safetensors", [], list(tensors)),
        **{"ema": False, "config": None, "prediction_type": None, **options},
    )


# ---- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FULL)
def test_names_are_those_of_the_public_conversion(name):
    """Every key, shape and layout of the full-size model, in both directions."""
    shapes = leaves.shapes(FULL[name])
    numbers = rules_original.numbers(
        UNetConfig.read(FULL[name]["unet"]), VAEConfig.read(FULL[name]["vae"])
    )
    names = candidates(rules_original.rules(name == "sd21"), shapes, numbers)
    first = {leaf: claims[0] for leaf, claims in names.items()}
    mine = {
        leaf: [claim.key, list(stored_shape(shapes[leaf], claim.layout)), claim.layout]
        for leaf, claim in first.items()
    }
    assert mine == public_names(name)


# Lines of mindone's own list for Stable Diffusion 2
# (examples/stable_diffusion_v2/tools/model_conversion/ms_names_v2.txt).
MINDONE = {
    "cond_stage_model.transformer.embedding_table": (49408, 1024),
    "cond_stage_model.transformer.ln_final.beta": (1024,),
    "cond_stage_model.transformer.positional_embedding": (77, 1024),
    "cond_stage_model.transformer.transformer_layer.resblocks.0.attn.attn.in_proj.bias": (3072,),
    "cond_stage_model.transformer.transformer_layer.resblocks.22.attn.attn.in_proj.weight": (
        3072,
        1024,
    ),
    "cond_stage_model.transformer.transformer_layer.resblocks.3.attn.attn.out_proj.weight": (
        1024,
        1024,
    ),
    "cond_stage_model.transformer.transformer_layer.resblocks.9.c_fc.weight": (4096, 1024),
    "cond_stage_model.transformer.transformer_layer.resblocks.9.c_proj.weight": (1024, 4096),
    "cond_stage_model.transformer.transformer_layer.resblocks.21.ln_1.gamma": (1024,),
    "first_stage_model.decoder.mid.attn_1.k.weight": (512, 512, 1, 1),
    "first_stage_model.decoder.mid.attn_1.norm.bias": (512,),
    "first_stage_model.decoder.norm_out.weight": (128,),
    "first_stage_model.decoder.up.0.block.0.nin_shortcut.weight": (128, 256, 1, 1),
    "first_stage_model.decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
    "first_stage_model.quant_conv.weight": (8, 8, 1, 1),
    "first_stage_model.encoder.down.2.downsample.conv.bias": (512,),
    "first_stage_model.encoder.mid.attn_1.proj_out.bias": (512,),
    "model.diffusion_model.input_blocks.0.0.conv.weight": (320, 4, 3, 3),
    "model.diffusion_model.input_blocks.1.0.emb_layers.1.weight": (320, 1280),
    "model.diffusion_model.input_blocks.1.0.in_layers_norm.gamma": (320,),
    "model.diffusion_model.input_blocks.1.0.out_layers_conv.conv.bias": (320,),
    "model.diffusion_model.input_blocks.1.1.norm.beta": (320,),
    "model.diffusion_model.input_blocks.1.1.proj_in.weight": (320, 320),
    "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.ff.net.0.proj.weight": (2560, 320),
    "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.norm3.gamma": (320,),
    "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight": (1280, 1024),
    "model.diffusion_model.middle_block.2.in_layers_conv.conv.weight": (1280, 1280, 3, 3),
    "model.diffusion_model.out.0.beta": (320,),
    "model.diffusion_model.out.2.conv.weight": (4, 320, 3, 3),
    "model.diffusion_model.output_blocks.2.1.conv.conv.weight": (1280, 1280, 3, 3),
    "model.diffusion_model.output_blocks.6.0.skip_connection.conv.weight": (640, 1920, 1, 1),
    "model.diffusion_model.output_blocks.8.2.conv.conv.bias": (640,),
    "model.diffusion_model.time_embed.2.weight": (1280, 1280),
}


def test_names_of_mindone():
    """Its list has one line for each key; the original's differ from it in norms, convolutions and
    the text encoder only."""
    shapes = leaves.shapes(FULL["sd21"])
    numbers = rules_original.numbers(UNetConfig.read(UNET_21), VAEConfig.read(VAE_21))
    names = candidates(rules_mindone.RULES, shapes, numbers)
    mine = {
        claims[0].key: stored_shape(shapes[leaf], claims[0].layout)
        for leaf, claims in names.items()
    }
    assert MINDONE.items() <= mine.items() and all(len(claims) == 1 for claims in names.values())
    assert len(mine) == len({key for key, _, _ in public_names("sd21").values()})
    assert not any(
        key.endswith((".weight", ".bias")) and "norm" in key
        for key in mine
        if key.startswith("model.")
    )


def test_names_of_low_rank_files():
    """What the public conversion makes of kohya's name is a name of the same weight here."""
    modules = public_names("lora")
    names = candidates(
        rules_lora.RULES, [f"unet/{module}.weight" for module in modules], rules_lora.numbers
    )
    for module, (kohya, diffusers) in modules.items():
        keys = {
            claim.key + rules_lora.ENDINGS[claim.layout][0]
            for claim in names[f"unet/{module}.weight"]
        }
        assert {kohya + ".lora_down.weight", diffusers} <= keys


def test_no_two_low_rank_names_are_one():
    """Underscores for dots could make two weights one."""
    shapes = leaves.shapes(FULL["sd21"])
    weights = [leaf for leaf in shapes if leaf.endswith(".weight")]
    claims = [
        claim
        for found in candidates(rules_lora.RULES, weights, rules_lora.numbers).values()
        for claim in found
    ]
    keys = [claim.key + rules_lora.ENDINGS[claim.layout][0] for claim in claims]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("name", FULL)
def test_configurations_are_inferred_from_shapes(name):
    model = read(released(name))
    assert model.shapes == leaves.shapes(FULL[name]) and model.open_clip == (name == "sd21")
    heads = UNetConfig.read({**model.configs["unet"]}).heads
    assert heads == UNetConfig.read(FULL[name]["unet"]).heads
    text, public = model.configs["text_encoder"], FULL[name]["text_encoder"]
    assert all(
        text[key] == public[key]
        for key in text.keys() - {"transformers_version", "torch_dtype"}
        if key in public
    )
    if name == "sd21":
        assert model.match.dropped == {
            "OpenCLIP's last layer and its projection": 13,
            "OpenCLIP's contrast to pictures": 1,
        }


@pytest.mark.parametrize(
    "name, sha256, open_clip, expected",
    [
        ("v2-1_768-ema-pruned.safetensors", "", True, ("v_prediction", "name")),
        ("768-v-ema.ckpt", "", True, ("v_prediction", "name")),
        ("512-base-ema.safetensors", "", True, ("epsilon", "name")),
        ("v2-1_512-ema-pruned.ckpt", "", True, ("epsilon", "name")),
        (
            "mine.ckpt",
            "d635794c1fedfdfa261e065370bea59c651fc9bfa65dc6d67ad29e11869a1824",
            True,
            ("epsilon", "checksum"),
        ),
        (
            "512-base-ema.ckpt",
            "ad2a33c361c1f593c4a1fb32ea81afce2b5bb7d1983c6b94793a26a3b54b08a0",
            True,
            ("v_prediction", "checksum"),
        ),
        ("mine.ckpt", "", True, ("v_prediction", "guess")),
        ("mine.ckpt", "", False, ("epsilon", "version")),
    ],
)
def test_prediction_type(name, sha256, open_clip, expected):
    assert infer.prediction_type(name, sha256, open_clip) == expected


# ---- the engine ----------------------------------------------------------------------------------

SHAPES = {"a/x": (2, 3), "a/y": (5,), "b/q": (2, 3), "b/k": (2, 3)}
TABLE = (
    Rule(r"a/(?P<n>.+)", "{n}"),
    Rule(r"b/q", "qk", "part 0/2"),
    Rule(r"b/k", "qk", "part 1/2"),
)
NAMES = candidates(TABLE, SHAPES)


def stored(*shape, dtype="F32"):
    return Stored(Path("f"), dtype, shape, ())


GOOD = [("x", stored(2, 3)), ("y", stored(5)), ("qk", stored(4, 3))]


def test_every_leaf_has_one_source():
    found = match(
        GOOD + [("epoch", stored())], SHAPES, TABLE, NAMES, [Drop("epoch|step", "counters")]
    )
    assert {leaf: claim.key for leaf, claim in found.claims.items()} == {
        "a/x": "x",
        "a/y": "y",
        "b/q": "qk",
        "b/k": "qk",
    }
    assert found.rules == {TABLE[0].pattern: 2, "b/q": 1, "b/k": 1} and found.dropped == {
        "counters": 1
    }


def test_everything_is_reported_at_once():
    wrong = [
        ("x", stored(3, 2)),
        ("z", stored(1)),
        ("qk", stored(4, 3)),
        ("qk", stored(4, 3)),
        ("i", stored(2, dtype="I64")),
    ]
    shapes = {**SHAPES, "a/i": (2,)}
    refused(
        lambda: match(wrong, shapes, TABLE, candidates(TABLE, shapes), where="file.bin"),
        "file.bin",
        "missing: 'y'",
        "'z' [1]",
        "given twice: 'qk'",
        "'x' is [3, 2], expected [2, 3]",
        "'i' is I64",
    )


def test_a_table_that_is_ambiguous_is_refused():
    for bad in (
        (*TABLE, Rule("b/q", "x")),
        (*TABLE[:2], Rule("b/k", "qk", "part 0/2")),
        (*TABLE[:2], Rule("b/k", "qk")),
    ):
        refused(
            lambda table=bad: match(GOOD, SHAPES, table, candidates(table, SHAPES)),
            "'x'" if len(bad) > 3 else "'qk'",
        )
    refused(lambda: match(GOOD, SHAPES, TABLE, NAMES, [Drop("x", "no need")]), "ambiguous", "'x'")
    refused(
        lambda: match(GOOD, SHAPES, TABLE, NAMES, groups=[Group("no need", {"x": (2, 3)})]),
        "ambiguous",
        "'x'",
    )
    refused(
        lambda: match(
            GOOD, {**SHAPES, "c/d": (1,)}, TABLE, candidates(TABLE, {**SHAPES, "c/d": (1,)})
        ),
        "a rule for 'c/d'",
    )


def test_a_group_is_left_out_as_a_whole():
    group = Group("the other copy", {"x2": (2, 3), "y2": (5,)})
    whole = match(
        GOOD + [("x2", stored(2, 3)), ("y2", stored(5))], SHAPES, TABLE, NAMES, groups=[group]
    )
    assert whole.dropped == {"the other copy": 2}
    assert match(GOOD, SHAPES, TABLE, NAMES, groups=[group]).dropped == {}
    refused(
        lambda: match(GOOD + [("x2", stored(2, 3))], SHAPES, TABLE, NAMES, groups=[group]),
        "missing: 'y2'",
    )
    refused(
        lambda: match(
            GOOD + [("x2", stored(3)), ("y2", stored(5))], SHAPES, TABLE, NAMES, groups=[group]
        ),
        "'x2' is [3]",
    )


# ---- a single wrong key --------------------------------------------------------------------------


def without_weights(key):
    """Keys that may be missing, since no weight is in them."""
    return any(
        re.fullmatch(drop.pattern, key) for drop in rules_original.DROPS + rules_diffusers.DROPS
    )


def damaged(tensors, index, kind):
    """(tensors with one key wrong, the name that the message has to hold), or None where nothing is
    wrong then."""
    key, own = tensors[index]
    before, after = tensors[:index], tensors[index + 1 :]
    shape = {
        "transposed": own.shape[1::-1] + own.shape[2:],
        "reshaped": (*own.shape, 1),
        "flattened": (own.count,),
    }.get(kind)
    if kind == "dropped":
        return None if without_weights(key) else (before + after, key)
    if kind == "duplicated":
        return [*tensors, (key, own)], key
    if kind == "renamed":
        return [*before, (key + "x", own), *after], key + "x"
    if shape == own.shape or without_weights(key):
        return None
    return [*before, (key, Stored(own.path, own.dtype, shape, own.pieces)), *after], key


STEP = 7
KINDS = ("dropped", "duplicated", "renamed", "transposed", "reshaped", "flattened")


@given(st.sampled_from(tuple(FULL)), st.integers(0, 10**6), st.sampled_from(KINDS))
def test_any_wrong_key_of_a_released_file_is_named(name, number, kind):
    """Though the configuration is inferred from the very shapes."""
    tensors = released(name)
    wrong = damaged(tensors, number % len(tensors), kind)
    if wrong is not None:
        refused(lambda: read(wrong[0]), repr(wrong[1]))


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("kind", KINDS)
def test_every_wrong_key_of_a_tiny_file_is_named(monkeypatch, tmp_path, name, kind):
    """With the averages in between; a sample here, all of them by `python -m tests.test_convert`,
    which takes minutes."""
    tensors = open_file(FIXTURES / f"{name}.ckpt").tensors
    folder = config_folder(tmp_path / "config", name)
    shapes = leaves.shapes(tiny(name)[0])
    monkeypatch.setattr(leaves, "shapes", lambda _: shapes)
    monkeypatch.setattr(reading, "candidates", _remembered(candidates))
    for index in range(KINDS.index(kind) % STEP, len(tensors), STEP):
        wrong = damaged(tensors, index, kind)
        if wrong is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                refused(lambda: read(wrong[0], config=folder), repr(wrong[1]))


def _remembered(function):
    """The function with its last answers kept, by the identity of the first argument and the number
    of leaves."""
    kept = {}

    def call(rules, shapes, numbers=None):
        key = (rules, tuple(shapes))
        if key not in kept:
            kept[key] = function(rules, shapes, numbers)
        return kept[key]

    return call


# ---- every source to the same weights ------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A copy of the micro model to change."""
    return Path(shutil.copytree(MICRO, tmp_path / "model"))


def converted(source, target, **options):
    """The weights of a conversion to the diffusers layout, which verifies."""
    convert(source, target, **options)
    verify(target)
    return held(target)


def rewrite(file, change_key=lambda key: key, change_array=lambda array: array, more=()):
    save_file(
        {
            **{
                change_key(k): np.ascontiguousarray(change_array(v))
                for k, v in load_file(file).items()
            },
            **dict(more),
        },
        file,
    )


def test_a_folder_is_copied_weight_by_weight(tmp_path):
    assert equal(converted(MICRO, tmp_path / "out"), held(MICRO))
    for file in (
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
    ):
        assert json.loads((tmp_path / "out" / file).read_text()) == json.loads(
            (MICRO / file).read_text()
        )
    for file in (MICRO / "tokenizer").iterdir():
        assert (tmp_path / "out" / "tokenizer" / file.name).read_bytes() == file.read_bytes()


def old_names(key):
    for new, old in (
        ("to_q", "query"),
        ("to_k", "key"),
        ("to_v", "value"),
        ("to_out.0", "proj_attn"),
    ):
        key = key.replace(f".attentions.0.{new}.", f".attentions.0.{old}.")
    return key


def test_older_forms_of_a_folder_are_the_same_model(tmp_path, folder):
    """Old attention names, no wrapper around the text encoder, a buffer, one number of heads for
    all levels."""
    expected = held(folder)
    rewrite(folder / "vae" / "diffusion_pytorch_model.safetensors", old_names)
    ids = {"text_model.embeddings.position_ids": np.arange(77)[None]}
    rewrite(
        folder / "text_encoder" / "model.safetensors",
        lambda key: key.removeprefix("text_model."),
        more=ids,
    )
    heads = json.loads((folder / "unet" / "config.json").read_text())["attention_head_dim"]
    change(
        folder / "unet" / "config.json",
        attention_head_dim=heads[0] if isinstance(heads, list) else [heads] * 4,
    )
    assert equal(converted(folder, tmp_path / "out"), expected)


@pytest.mark.parametrize("component", COMPONENTS)
def test_sharded_sources_are_the_same_model(tmp_path, folder, component):
    shard(folder, component)
    assert equal(converted(folder, tmp_path / "out"), held(MICRO))


def test_variants(tmp_path, folder):
    """Without --variant the plain files count, and fp16 ones where there are no others; with it
    those of that name."""
    for component, (_, _, base, _) in COMPONENTS.items():
        plain = folder / component / f"{base}.safetensors"
        shutil.copy(plain, folder / component / f"{base}.fp16.safetensors")
        rewrite(plain, change_array=lambda array: array * 2)
    doubled = {key: array * 2 for key, array in held(MICRO).items()}
    assert equal(converted(folder, tmp_path / "plain"), doubled)
    assert equal(converted(folder, tmp_path / "fp16", variant="fp16"), held(MICRO))
    for component, (_, _, base, _) in COMPONENTS.items():
        (folder / component / f"{base}.safetensors").unlink()
    assert equal(converted(folder, tmp_path / "only"), held(MICRO))
    refused(lambda: convert(folder, tmp_path / "none", variant="ema"), "ema", "--variant")


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("ema", (False, True))
def test_a_checkpoint_of_torch(tmp_path, configs, name, ema):
    """Names, layouts, fused and strided tensors, a wrapped state dictionary, dropped buffers: all
    as torch.save wrote them."""
    target, expected = tmp_path / "out", tiny_weights(name)
    options = dict(ema=ema, config=configs(name))
    if name == "sd1" and ema:
        refused(lambda: convert(FIXTURES / "sd1.ckpt", target, **options), "sd1.ckpt", "--ema")
        return
    if ema:
        expected = {
            leaf: array * 2 if leaf.startswith("unet/") else array
            for leaf, array in expected.items()
        }
    with pytest.warns(UserWarning, match="global_step"):
        assert equal(converted(FIXTURES / f"{name}.ckpt", target, **options), expected)
    record = json.loads((target / "conversion.json").read_text())
    unets = sum(leaf.startswith("unet/") for leaf in expected)
    dropped = {
        "the noise schedule, which the scheduler's configuration describes": 3,
        "a buffer of positions": 1,
        "the optimiser's state": 1,
        "the state of the trainer's callbacks": 2,
    }
    if name == "sd2":
        dropped = {
            "the noise schedule, which the scheduler's configuration describes": 3,
            "the UNet's other weights (see --ema)": unets,
            "OpenCLIP's last layer and its projection": 13,
            "OpenCLIP's contrast to pictures": 1,
            "counters of the averaging": 2,
        }
    assert record["dropped"] == dropped and sum(record["rules"].values()) == len(expected)


ROUND = {"single-file": "one.safetensors", "mindspore-ckpt": "one.ckpt"}


@pytest.mark.parametrize("to", ROUND)
@pytest.mark.parametrize("dtype", ("keep", "fp32"))
def test_round_trip_is_bit_identical(tmp_path, to, dtype):
    file = tmp_path / ROUND[to]
    convert(MICRO, file, to=to, dtype=dtype)
    assert verify(file, source=MICRO)[0] == 1
    expected = {
        key: array.astype(np.float32) if dtype == "fp32" else array
        for key, array in held(MICRO).items()
    }
    assert equal(converted(file, tmp_path / "back", config=MICRO), expected)


@pytest.mark.parametrize("to", ROUND)
def test_round_trip_of_stable_diffusion_1(tmp_path, configs, to):
    """Its text encoder has other names than Stable Diffusion 2's; its UNet projects by
    convolutions."""
    with pytest.warns(UserWarning):
        convert(FIXTURES / "sd1.ckpt", tmp_path / "model", config=configs("sd1"))
    convert(tmp_path / "model", tmp_path / ROUND[to], to=to)
    assert equal(
        converted(tmp_path / ROUND[to], tmp_path / "back", config=tmp_path / "model"),
        tiny_weights("sd1"),
    )


def test_mindspore_reads_and_writes_the_same_bytes(tmp_path):
    file, again = tmp_path / "ours.ckpt", tmp_path / "theirs.ckpt"
    convert(MICRO, file, to="mindspore-ckpt")
    read_back = ms.load_checkpoint(str(file))
    listed = [{"name": key, "data": value} for key, value in read_back.items()]
    ms.save_checkpoint(listed, str(again))
    assert again.read_bytes() == file.read_bytes()
    ms.save_checkpoint(listed, str(tmp_path / "crc.ckpt"), crc_check=True)
    assert equal(converted(tmp_path / "crc.ckpt", tmp_path / "back", config=MICRO), held(MICRO))


def test_the_core_loads_what_was_converted(tmp_path):
    """Bit for bit the parameters of the diffusers layout; hence the same outputs from the same
    graphs."""
    convert(MICRO, tmp_path / "one.safetensors", to="single-file")
    convert(tmp_path / "one.safetensors", tmp_path / "out", config=MICRO, max_shard_size=100_000)
    assert len(list((tmp_path / "out" / "unet").glob("*.safetensors"))) > 1
    for component, (reader, file, base, specs) in COMPONENTS.items():
        config = reader.read(json.loads((MICRO / component / file).read_text()))
        a, b = (
            P.flatten(P.load(weight_files(place / component, base, "fp32"), specs(config)))
            for place in (MICRO, tmp_path / "out")
        )
        assert equal({k: v.asnumpy() for k, v in a.items()}, {k: v.asnumpy() for k, v in b.items()})
    Model.load(tmp_path / "out")


def test_a_file_without_a_folder_gets_everything(tmp_path, monkeypatch):
    """Inferred configurations, CLIP's tokenizer and a scheduler: what the core needs; here for a
    text encoder of 64 channels."""
    text = dict(
        TEXT_21, hidden_size=64, intermediate_size=96, num_attention_heads=1, num_hidden_layers=2
    )
    unet = dict(
        UNET_21,
        block_out_channels=[64, 128],
        cross_attention_dim=64,
        attention_head_dim=[1, 2],
        layers_per_block=1,
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
    )
    vae = dict(
        VAE_21,
        block_out_channels=[32, 64],
        layers_per_block=1,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
    )
    shapes = leaves.shapes({"text_encoder": text, "unet": unet, "vae": vae})
    names = candidates(
        rules_original.rules(True),
        shapes,
        rules_original.numbers(UNetConfig.read(unet), VAEConfig.read(vae)),
    )
    keys = {
        claims[0].key: stored_shape(shapes[leaf], claims[0].layout)
        for leaf, claims in names.items()
    }
    save_file(
        {key: np.full(shape, 0.5, np.float16) for key, shape in keys.items()},
        tmp_path / "mine.safetensors",
    )
    with pytest.warns(UserWarning, match="--prediction-type"):
        record = convert(tmp_path / "mine.safetensors", tmp_path / "out")
    assert record["prediction_type"] == {"value": "v_prediction", "known from": "guess"}
    record = convert(tmp_path / "mine.safetensors", tmp_path / "epsilon", prediction_type="epsilon")
    assert record["prediction_type"] == {"value": "epsilon", "known from": "option"}
    model = Model.load(tmp_path / "out")
    assert (
        model.configs.scheduler.prediction_type == "v_prediction"
        and model.configs.unet.heads == (1, 2)
    )
    assert model.configs.picture_size == 768 and model.configs.text.num_hidden_layers == 2
    ids = T.encode(model.tokenizer, "a photo of a cat")[0]
    assert ids[:7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407] and set(ids[7:]) == {
        0
    }  # CLIP's ids; padded with "!"
    assert Model.load(tmp_path / "epsilon").configs.picture_size == 512


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """{original key: array} of the micro model as a single file."""
    file = tmp_path_factory.mktemp("single") / "one.safetensors"
    convert(MICRO, file, to="single-file")
    return load_file(file)


ATTENTION = {  # names of the autoencoder's attention: released, and of two versions of diffusers
    "released": ("q", "k", "v", "proj_out"),
    "diffusers": ("to_q", "to_k", "to_v", "to_out.0"),
    "older": ("query", "key", "value", "proj_attn"),
}


@pytest.mark.parametrize("ones", range(3))
@pytest.mark.parametrize("names", ATTENTION)
def test_the_autoencoders_attention_maps_under_all_its_names(tmp_path, single, names, ones):
    """And as [C,C], [C,C,1] and [C,C,1,1]: nothing else fits these matrices."""
    renamed = {}
    for key, array in single.items():
        place, mark, rest = key.partition(".mid.attn_1.")
        name, _, leaf = rest.rpartition(".")
        if name in ATTENTION["released"]:
            key = f"{place}{mark}{ATTENTION[names][ATTENTION['released'].index(name)]}.{leaf}"
            shape = array.shape[:2] + (1,) * ones
            array = array.reshape(shape) if leaf == "weight" else array
        renamed[key] = array
    save_file(renamed, tmp_path / "one.safetensors")
    found = converted(tmp_path / "one.safetensors", tmp_path / "out", config=MICRO)
    assert equal(found, held(MICRO))


def test_attention_given_under_two_names_is_refused(tmp_path, single):
    key = "first_stage_model.decoder.mid.attn_1.q.bias"
    more = {key.replace(".q.", ".to_q."): single[key]}
    save_file({**single, **more}, tmp_path / "one.safetensors")
    refused(
        lambda: convert(tmp_path / "one.safetensors", tmp_path / "out", config=MICRO),
        "given twice",
        repr(key),
        repr(next(iter(more))),
    )


def test_attention_of_a_folder_may_be_a_convolution(tmp_path, folder):
    def as_convolution(array):
        return array[..., None, None] if array.ndim == 2 else array

    rewrite(
        folder / "vae" / "diffusion_pytorch_model.safetensors",
        old_names,
        change_array=as_convolution,
    )
    assert equal(converted(folder, tmp_path / "out"), held(MICRO))


def test_keys_can_be_dropped_by_pattern(tmp_path, single):
    """One stray key blocks a file until it is named; what was left out is told and recorded."""
    file, out = tmp_path / "one.safetensors", tmp_path / "out"
    stray = {f"control.{i}.w": np.ones(3, np.float32) for i in range(2)} | {"x": np.ones(1)}
    save_file({**single, **stray}, file)
    refused(lambda: convert(file, out, config=MICRO), "unknown", "'control.0.w'", "'x'", "--drop")
    with pytest.warns(UserWarning, match="left out by --drop 'control.*': control.0.w, control.1"):
        found = converted(file, out, config=MICRO, drop=["control.*", "x", "[wx]"])
    assert equal(found, held(MICRO))
    record = json.loads((out / "conversion.json").read_text())
    assert record["dropped"] == {"--drop control.*": 2, "--drop x": 1, "--drop [wx]": 0}
    assert record["dropped by pattern"]["control.*"] == ["control.0.w", "control.1.w"]


def test_patterns_that_drop_nothing_or_too_much_are_refused(tmp_path, single):
    file = tmp_path / "one.safetensors"
    save_file(single, file)
    for drop, words in (
        ("controls.*", ("'controls.*'", "fits no key", file)),
        ("*.mid.attn_1.q.bias", ("missing", "'first_stage_model.decoder.mid.attn_1.q.bias'")),
        ("MODEL.*", ("'MODEL.*'", "fits no key")),
        ("*", ("no Stable Diffusion",)),
    ):
        refused(lambda: convert(file, tmp_path / "out", config=MICRO, drop=[drop]), *words)
    refused(
        lambda: convert(MICRO, tmp_path / "out", drop=["unet/conv_in.*"]), "'unet/conv_in.bias'"
    )


# ---- numbers -------------------------------------------------------------------------------------

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(finite, min_size=1, max_size=20), st.sampled_from(("F32", "F16", "BF16")))
def test_rounding_is_to_the_nearest(values, dtype):
    """Never farther than half a step; what the dtype can hold is kept."""
    values = np.array(values, np.float32)
    rounded = widen(narrow(values, dtype), dtype).astype(np.float64)
    bits, smallest = {"F32": (24, 2.0**-149), "F16": (11, 2.0**-24), "BF16": (8, 2.0**-133)}[dtype]
    inside = np.isfinite(rounded)
    step = np.maximum(
        2.0
        ** (np.floor(np.log2(np.maximum(np.abs(values.astype(np.float64)), 1e-300))) - bits + 1),
        smallest,
    )
    assert (np.abs(rounded - values)[inside] <= step[inside] / 2).all()
    assert np.array_equal(
        widen(narrow(rounded[inside].astype(np.float32), dtype), dtype), rounded[inside]
    )


@pytest.mark.parametrize("dtype, kind", [("fp32", "F32"), ("fp16", "F16"), ("bf16", "BF16")])
def test_dtype(tmp_path, dtype, kind):
    convert(MICRO, tmp_path / "out", dtype=dtype)
    entry = json.loads((tmp_path / "out" / "conversion.json").read_text())["files"][
        "vae/diffusion_pytorch_model.safetensors"
    ]
    assert {tensor["dtype"] for tensor in entry["tensors"].values()} == {kind}
    configs = COMPONENTS["vae"][0].read(json.loads((MICRO / "vae" / "config.json").read_text()))
    tree = P.load(
        [tmp_path / "out" / "vae" / "diffusion_pytorch_model.safetensors"],
        COMPONENTS["vae"][3](configs),
    )
    for key, leaf in P.flatten(tree).items():
        wanted = held(MICRO)[f"vae/{key}"].astype(np.float32)
        np.testing.assert_allclose(
            leaf.asnumpy(), wanted, rtol={"fp32": 0, "fp16": 0, "bf16": 2**-8}[dtype], atol=0
        )


@pytest.mark.parametrize(
    "value, dtype, words",
    [(np.nan, "keep", ("NaN",)), (np.inf, "fp32", ("infinity",)), (7e4, "fp16", ("7e+04", "bf16"))],
)
def test_values_that_do_not_fit_are_refused_by_name(tmp_path, folder, value, dtype, words):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    arrays = {key: array.astype(np.float32) for key, array in load_file(file).items()}
    arrays["conv_in.bias"][3] = value
    save_file(arrays, file)
    refused(lambda: convert(folder, tmp_path / "out", dtype=dtype), "'conv_in.bias'", *words)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


# ---- additions -----------------------------------------------------------------------------------

LINEAR = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
OUT = "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0"
CONV = "down_blocks.0.resnets.0.conv1"
TEXT = "text_model.encoder.layers.1.self_attn.k_proj"
STYLES = {
    "kohya": lambda part, m: (
        {"unet": "lora_unet_", "text_encoder": "lora_te_"}[part] + m.replace(".", "_"),
        "lora_down",
        "lora_up",
    ),
    "peft": lambda part, m: (f"{part}.{m}", "lora_A", "lora_B"),
    "adapter": lambda part, m: (f"base_model.model.{m}", "lora_A", "lora_B"),
    "adapters": lambda part, m: (f"{part}.base_model.model.{m}", "lora_A", "lora_B"),
    "diffusers": lambda part, m: (f"{part}.{m}", "lora.down", "lora.up"),
    "processor": lambda part, m: (
        (f"{part}.{m}", "lora_linear_layer.down", "lora_linear_layer.up")
        if part == "text_encoder"
        else (
            (
                f"{part}." + re.sub(r"(attn\d)\.(to_\w+?)(\.0)?$", r"\1.processor.\2_lora", m),
                "down",
                "up",
            )
            if "attn" in m
            else (m, "lora.down", "lora.up")
        )
    ),
}


def low_rank(style, alpha=None, rank=3):
    """(content of a low-rank file, {leaf: what it adds}) with four changed weights."""
    rng, content, changes = np.random.default_rng(5), {}, {}
    for part, module in (("unet", LINEAR), ("unet", OUT), ("unet", CONV), ("text_encoder", TEXT)):
        shape = held(MICRO)[f"{part}/{module}.weight"].shape
        down = rng.standard_normal((rank, *shape[1:])).astype(np.float32)
        up = rng.standard_normal((shape[0], rank, *(1 for _ in shape[2:]))).astype(np.float32)
        base, lower, upper = STYLES[style](part, module)
        content |= {f"{base}.{lower}.weight": down, f"{base}.{upper}.weight": up}
        if alpha is not None:
            content[f"{base}.alpha"] = np.array(alpha, np.float32)
        changes[f"{part}/{module}.weight"] = np.einsum(
            "or,r...->o...", up.reshape(shape[0], rank).astype(np.float64), down
        )
    return content, changes


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("alpha", (None, 2.0))
def test_low_rank_changes_are_merged(tmp_path, style, alpha):
    """W + scale alpha/rank up down, in float64; all other weights untouched, in every naming
    style."""
    content, changes = low_rank(style, alpha)
    save_file(content, tmp_path / "style.safetensors")
    found = converted(
        MICRO, tmp_path / "out", dtype="fp32", loras=[(tmp_path / "style.safetensors", 0.7)]
    )
    for leaf, array in held(MICRO).items():
        if leaf in changes:
            wanted = (
                array.astype(np.float64) + 0.7 * (1 if alpha is None else alpha / 3) * changes[leaf]
            )
            np.testing.assert_allclose(found[leaf], wanted, rtol=1e-6, atol=2e-6)
        else:
            assert np.array_equal(found[leaf], array.astype(np.float32))


def test_low_rank_changes_add_up_and_cancel(tmp_path):
    content, _ = low_rank("kohya")
    save_file(content, tmp_path / "style.safetensors")
    own = tmp_path / "style.safetensors"
    twice, once = (
        converted(MICRO, tmp_path / name, dtype="fp32", loras=loras)
        for name, loras in (("twice", [(own, 0.5), (own, 0.5)]), ("once", [(own, 1)]))
    )
    none = converted(MICRO, tmp_path / "none", dtype="fp32", loras=[(own, 0)])
    for leaf, array in held(MICRO).items():
        np.testing.assert_allclose(twice[leaf], once[leaf], rtol=1e-6, atol=2e-6)
        assert np.array_equal(none[leaf], array.astype(np.float32))


def test_changes_reach_the_right_part_of_a_fused_tensor(tmp_path):
    """k_proj is the second of three in the original file."""
    content, _ = low_rank("kohya")
    save_file(content, tmp_path / "style.safetensors")
    convert(MICRO, tmp_path / "one.safetensors", to="single-file", dtype="fp32")
    a = converted(
        tmp_path / "one.safetensors",
        tmp_path / "a",
        config=MICRO,
        loras=[(tmp_path / "style.safetensors", 1)],
    )
    b = converted(MICRO, tmp_path / "b", dtype="fp32", loras=[(tmp_path / "style.safetensors", 1)])
    assert equal(a, b)


def test_a_low_rank_file_that_does_not_fit_is_refused_by_name(tmp_path):
    content, _ = low_rank("kohya")
    keys = list(content)
    file = tmp_path / "style.safetensors"
    for change_it, words in (
        (lambda c: c.pop(keys[0]), (keys[0],)),
        (lambda c: c.pop(keys[1]), (keys[1],)),
        (lambda c: c.update({keys[0] + "x": c.pop(keys[0])}), (keys[0], keys[0] + "x")),
        (lambda c: c.update({keys[0]: c[keys[0]][:, :-1].copy()}), (keys[0], "expected")),
        (lambda c: c.update({keys[1]: c[keys[1]][:-1].copy()}), (keys[1], "expected")),
        (
            lambda c: c.update(
                {keys[0].replace("lora_down.weight", "alpha"): np.ones(2, np.float32)}
            ),
            ("alpha",),
        ),
        (lambda c: c.update(low_rank("peft")[0]), ("given twice",)),
    ):
        wrong = dict(content)
        change_it(wrong)
        save_file(wrong, file)
        refused(lambda: convert(MICRO, tmp_path / "out", loras=[(file, 1)]), file, *words)


@pytest.mark.parametrize(
    "ending, kind",
    [
        ("dora_scale", "DoRA"),
        ("lora_magnitude_vector", "DoRA"),
        ("hada_w1_a", "LoHa"),
        ("lokr_w2", "LoKr"),
        ("oft_blocks", "OFT"),
        ("diff", "full differences"),
        ("lora_mid.weight", "LoCon"),
    ],
)
def test_other_changes_than_low_rank_are_named(tmp_path, ending, kind):
    """Also where the file is given as a model, and by inspect."""
    file, content = tmp_path / "style.safetensors", low_rank("kohya")[0]
    content[f"lora_unet_{LINEAR.replace('.', '_')}.{ending}"] = np.ones(3, np.float32)
    save_file(content, file)
    refused(lambda: convert(MICRO, tmp_path / "out", loras=[(file, 1)]), file, kind, ending)
    refused(lambda: convert(file, tmp_path / "out"), file, "--lora")
    assert kind in "\n".join(inspect(file))


@pytest.mark.parametrize(
    "config, factor",
    [
        ({"lora_alpha": 6, "r": 99}, 2),
        ({"lora_alpha": 6.0, "use_rslora": True, "use_dora": False}, 6 / 3**0.5),
    ],
)
def test_alpha_of_an_adapter_is_in_a_file_beside_it(tmp_path, config, factor):
    """alpha / rank, or alpha / sqrt(rank) (Kalajdzievski 2023, arXiv 2312.03732)."""
    content, changes = low_rank("adapter")
    save_file(content, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    own = [(tmp_path / "adapter_model.safetensors", 0.5)]
    found = converted(MICRO, tmp_path / "out", dtype="fp32", loras=own)
    for leaf, change_of in changes.items():
        wanted = held(MICRO)[leaf] + 0.5 * factor * change_of
        np.testing.assert_allclose(found[leaf], wanted, rtol=1e-6, atol=4e-6)


def test_adapters_that_cannot_be_merged_are_refused(tmp_path):
    save_file(low_rank("adapter")[0], tmp_path / "adapter_model.safetensors")
    own = [(tmp_path / "adapter_model.safetensors", 1)]
    with pytest.warns(UserWarning, match="alpha was taken to be the rank"):
        convert(MICRO, tmp_path / "plain", loras=own)
    for config, words in (
        ({"lora_alpha": 6, "use_dora": True}, ("use_dora",)),
        ({"lora_alpha": 6, "alpha_pattern": {"q": 3}}, ("alpha_pattern",)),
        ({"r": 3}, ("lora_alpha",)),
        ([], ("adapter_config.json",)),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        refused(lambda: convert(MICRO, tmp_path / "out", loras=own), "adapter_config", *words)


@pytest.mark.parametrize(
    "file, word, expected",
    [
        ("original.pt", "<Mine>", ["<mine>", "<mine>_1", "<mine>_2"]),
        ("embedding.pt", None, ["<toy>", "<toy>_1", "<toy>_2"]),
        ("embedding.pt", "<mine>", ["<mine>", "<mine>_1", "<mine>_2"]),
        ("embedding.bin", None, ["<cat>"]),
        ("emb.safetensors", None, ["emb", "emb_1", "emb_2"]),
    ],
)
def test_words_are_added(tmp_path, file, word, expected):
    """Their ids follow the table, their rows are the file's, and the core's tokenizer finds them;
    the other rows stay."""
    rows = weight("embedding", (3, 12))[: len(expected)]
    source = FIXTURES / file
    if not source.exists():
        source = tmp_path / file
        save_file({"emb_params": rows}, source)
    found = converted(MICRO, tmp_path / "out", embeddings=[(source, word)])
    table = found["text_encoder/text_model.embeddings.token_embedding.weight"]
    before = held(MICRO)["text_encoder/text_model.embeddings.token_embedding.weight"]
    assert np.array_equal(table[:532], before) and np.array_equal(table[532:], rows)
    tokenizer = T.load(tmp_path / "out" / "tokenizer")
    plain, ids = (
        T.encode(T.load(MICRO / "tokenizer"), "a b")[0],
        T.encode(tokenizer, "a " + " ".join(expected) + " b")[0],
    )
    n = len(expected)
    assert (
        ids[2 : 2 + n].tolist() == list(range(532, 532 + n))
        and ids[[0, 1, 2 + n, 3 + n]].tolist() == plain[:4].tolist()
    )
    assert Model.load(tmp_path / "out").configs.text.vocab_size == 532 + n


WORDS = json.loads((FIXTURES / "words.json").read_text())


@lru_cache(maxsize=None)
def tokenizer_with_words(layout):
    """The core's tokenizer, from files to which words were added."""
    files = read_tokenizer(MICRO)
    if layout == "newer":
        files.pop("special_tokens_map.json")
    files["tokenizer_config.json"] = json.dumps(WORDS["layouts"][layout]["config"]).encode()
    with TemporaryDirectory() as place:
        for name, content in words.add_words(files, WORDS["words"], WORDS["first"]).items():
            (Path(place) / name).write_bytes(content)
        return T.load(place)


@pytest.mark.parametrize("layout", WORDS["layouts"])
def test_words_are_those_of_the_public_tools(layout):
    """The ids of transformers for the prompt that diffusers writes out; the fixture's script has
    both read a folder of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = T.encode(tokenizer_with_words(layout), WORDS["prompts"])
    assert found.tolist() == WORDS["layouts"][layout]["ids"]


@given(
    st.lists(st.sampled_from(("<toy>", "emb", "<one>", "kalt-5", "a", ",")), max_size=9), st.data()
)
def test_a_word_expands_in_any_case_of_letters(prompt, data):
    """To all its vectors, one behind the other, wherever it stands."""
    family = {"<toy>": (532, 533, 534), "emb": (535, 536), "<one>": (537,), "kalt-5": (538,)}
    family |= {"a": (320,), ",": (267,)}
    upper = data.draw(st.lists(st.booleans(), min_size=len(prompt), max_size=len(prompt)))
    text = " ".join(w.upper() if up else w for w, up in zip(prompt, upper))
    ids = T.encode(tokenizer_with_words("released"), text)[0].tolist()
    wanted = [index for word in prompt for index in family[word]]
    assert ids[1 : 2 + len(wanted)] == [*wanted, 531]


def test_a_word_that_is_written_out_is_left_so():
    ids = T.encode(tokenizer_with_words("released"), "<toy> <toy>_1 <toy>_2 emb_1 embassy")[0]
    assert ids[1:5].tolist() == [532, 533, 534, 536] and 535 not in ids


def test_widths_are_named_by_their_models():
    for width, names in ((768, ("768 numbers (Stable Diffusion 1)", "1024 (Stable Diffusion 2)")),):
        refused(lambda: words.segments([("x", stored(3, width))], 1024), *names)


def test_words_that_cannot_be_added_are_refused(tmp_path):
    save_file({"emb_params": np.ones((2, 7), np.float32)}, tmp_path / "narrow.safetensors")
    refused(
        lambda: convert(
            MICRO, tmp_path / "out", embeddings=[(tmp_path / "narrow.safetensors", None)]
        ),
        "narrow",
        7,
        12,
    )
    two = {"clip_l": np.ones((2, 768), np.float32), "clip_g": np.ones((2, 1280), np.float32)}
    save_file(two, tmp_path / "xl.safetensors")
    refused(
        lambda: convert(MICRO, tmp_path / "out", embeddings=[(tmp_path / "xl.safetensors", None)]),
        "Stable Diffusion XL",
    )
    refused(
        lambda: convert(MICRO, tmp_path / "out", embeddings=[(FIXTURES / "embedding.pt", "a</w>")]),
        "'a</w>'",
    )
    refused(
        lambda: convert(
            MICRO, tmp_path / "out", embeddings=[(FIXTURES / "embedding.pt", "two words")]
        ),
        "two words",
    )
    refused(
        lambda: convert(
            MICRO, tmp_path / "out", embeddings=[(FIXTURES / "embedding.pt", None)] * 2
        ),
        "<toy>",
    )
    refused(
        lambda: convert(MICRO, tmp_path / "out", embeddings=[(FIXTURES / "sd1.ckpt", None)]),
        "sd1.ckpt",
    )
    new = [(FIXTURES / "embedding.pt", None)]
    taken = [(FIXTURES / "embedding.pt", "<Toy>"), (FIXTURES / "embedding.bin", "<toy>_2")]
    refused(lambda: convert(MICRO, tmp_path / "out", embeddings=taken), "'<toy>_2'")
    with pytest.warns(UserWarning, match="'pears' is an ordinary word"):
        convert(MICRO, tmp_path / "pears", embeddings=[(FIXTURES / "embedding.bin", "Pears")])
    refused(lambda: convert(MICRO, tmp_path / "out", to="mindspore-ckpt", embeddings=new), "words")


# ---- what files are ------------------------------------------------------------------------------


def test_inspect(tmp_path):
    save_file(low_rank("kohya")[0], tmp_path / "style.safetensors")
    assert "prediction type: v_prediction" in inspect(MICRO)
    lines, unets = "\n".join(inspect(FIXTURES / "sd2.ckpt")), sum(
        leaf.startswith("unet/") for leaf in tiny("sd2")[1]
    )
    for words in (
        "original layout",
        f"averaged weights: {unets} tensors",
        "global_step = 7",
        "OpenCLIP",
    ):
        assert words in lines
    assert "4 weights, rank 3" in "\n".join(inspect(tmp_path / "style.safetensors"))
    assert "textual-inversion" in "\n".join(inspect(FIXTURES / "embedding.bin"))
    assert "one part of a model" in "\n".join(
        inspect(MICRO / "vae" / "diffusion_pytorch_model.safetensors")
    )


def test_a_file_that_is_no_model_says_what_it_is(tmp_path):
    save_file(low_rank("kohya")[0], tmp_path / "style.safetensors")
    for file, word in (
        (tmp_path / "style.safetensors", "--lora"),
        (FIXTURES / "embedding.bin", "--embedding"),
        (MICRO / "vae" / "diffusion_pytorch_model.safetensors", "folder"),
    ):
        refused(lambda: convert(file, tmp_path / "out"), file, word)
    refused(lambda: convert(tmp_path / "style.safetensors", tmp_path / "out", to="onnx"), "onnx")
    refused(lambda: convert(MICRO, tmp_path / "out", ema=True), "--ema")


if __name__ == "__main__":
    STEP = 1
    for tiny_name in TINY:
        for wrong_kind in KINDS:
            with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as working:
                test_every_wrong_key_of_a_tiny_file_is_named(
                    patch, Path(working), tiny_name, wrong_kind
                )
            print(tiny_name, wrong_kind, "every key named")
    for full_name in FULL:
        for wrong_kind in KINDS:
            cases = [
                damaged(released(full_name), i, wrong_kind)
                for i in range(0, len(released(full_name)), 10)
            ]
            for case in filter(None, cases):
                refused(lambda tensors=case[0]: read(tensors), repr(case[1]))
            print(
                full_name, wrong_kind, sum(case is not None for case in cases), "keys, each named"
            )
