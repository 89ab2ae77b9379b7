"""diffedit_core.params: laws of trees, the real models' sizes, every way in which a weight file can
be wrong."""

import json
import math
import struct
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from diffedit_core import clip, params as P, unet, vae
from diffedit_core.config import TextConfig, UNetConfig, VAEConfig
from diffedit_core.errors import InputError
from tests.test_config import TEXT_15, TEXT_21, UNET_15, UNET_21, VAE_21, refused

BLOCKS = Path(__file__).parent / "fixtures" / "blocks"
SPECS = {"a": P.linear(3, 2), "b.0": {"norm": P.norm(5), "conv": P.conv(2, 4, 3)}}
NAMES = [
    "a.weight",
    "a.bias",
    "b.0.norm.weight",
    "b.0.norm.bias",
    "b.0.conv.weight",
    "b.0.conv.bias",
]


def arrays(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {
        path: rng.standard_normal(leaf.shape).astype(dtype)
        for path, leaf in P.flatten(SPECS).items()
    }


@pytest.fixture
def write(tmp_path):
    """write(arrays, name) -> path of a safetensors file with them."""

    def run(content, name="w.safetensors"):
        save_file(content, tmp_path / name)
        return tmp_path / name

    return run


def write_raw(path, entries, blanks=0):
    """A safetensors file by hand: {name: (dtype, shape, bytes)}, so many blanks in its header."""
    header, data = {}, b""
    for name, (dtype, shape, raw) in entries.items():
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode() + b" " * blanks
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def values(tree):
    return {path: leaf.asnumpy() for path, leaf in P.flatten(tree).items()}


def equal(a, b):
    return a.keys() == b.keys() and all(
        np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a
    )


# ---- trees ---------------------------------------------------------------------------------------

keys = st.text("abc0", min_size=1, max_size=3)
trees = st.recursive(
    st.dictionaries(keys, st.integers(), min_size=1, max_size=3),
    lambda child: st.dictionaries(keys, child | st.integers(), min_size=1, max_size=3),
    max_leaves=12,
)


@given(trees)
def test_flatten_gives_each_leaf_under_its_path(tree):
    def find(node, path):
        for key in path.split("."):
            node = node[key]
        return node

    def number(node):
        return sum(number(v) if isinstance(v, dict) else 1 for v in node.values())

    flat = P.flatten(tree)
    assert len(flat) == number(tree) and all(
        find(tree, path) == leaf for path, leaf in flat.items()
    )


@given(trees)
def test_tree_map_keeps_the_form_and_the_order(tree):
    assert P.tree_map(lambda path, leaf: leaf, tree) == tree
    seen = []
    mapped = P.tree_map(lambda path, leaf: seen.append((path, leaf)) or (path, leaf), tree)
    assert seen == list(P.flatten(tree).items())
    assert P.flatten(mapped) == {path: (path, leaf) for path, leaf in seen}
    twice = P.tree_map(lambda _, leaf: -leaf, P.tree_map(lambda _, leaf: leaf + 1, tree))
    assert twice == P.tree_map(lambda _, leaf: -(leaf + 1), tree)


def test_flatten_joins_keys_with_dots():
    assert list(P.flatten(SPECS)) == NAMES


def test_count():
    assert P.count(SPECS) == 3 * 2 + 2 + 5 + 5 + 4 * 2 * 9 + 4
    assert P.count(P.to_parameters(P.init(SPECS, np.random.default_rng(0)))) == P.count(SPECS)


# ---- the released models -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "specs, number",
    [
        (unet.specs(UNetConfig.read(UNET_21)), 865_910_724),
        (unet.specs(UNetConfig.read(UNET_15)), 859_520_964),
        (vae.specs(VAEConfig.read(VAE_21)), 83_653_863),
        (clip.specs(TextConfig.read(TEXT_21)), 340_387_840),
        (clip.specs(TextConfig.read(TEXT_15)), 123_060_480),
    ],
    ids=["unet 2.1", "unet 1.5", "vae", "text 2.1", "text 1.5"],
)
def test_parameters_of_the_released_models(specs, number):
    """The numbers that the public libraries count for the same configs."""
    assert P.count(specs) == number


def test_names_and_shapes_of_the_released_unet():
    flat = P.flatten(unet.specs(UNetConfig.read(UNET_21)))
    assert len(flat) == 686
    assert flat["down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_k.weight"].shape == (
        1280,
        1024,
    )
    assert flat["up_blocks.3.resnets.0.conv1.weight"].shape == (320, 960, 3, 3)
    assert flat["mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.weight"].shape == (
        10240,
        1280,
    )


# ---- new parameters ------------------------------------------------------------------------------


def test_init_has_the_stated_statistics():
    specs = {
        "linear": P.linear(300, 400),
        "conv": P.conv(40, 50, 3),
        "norm": P.norm(7),
        "table": P.Leaf((300, 200), "embedding"),
    }
    flat = P.flatten(P.init(specs, np.random.default_rng(1)))
    for path, deviation in (
        ("linear.weight", 1 / math.sqrt(300)),
        ("conv.weight", 1 / math.sqrt(360)),
        ("table", 0.02),
    ):
        n = flat[path].size  # five standard errors
        assert abs(flat[path].mean()) < 5 * deviation / math.sqrt(n)
        assert abs(flat[path].std() / deviation - 1) < 5 / math.sqrt(2 * n)
    assert (flat["norm.weight"] == 1).all()
    assert all((flat[path] == 0).all() for path in ("linear.bias", "conv.bias", "norm.bias"))
    assert all(
        leaf.dtype == np.float32 and leaf.shape == P.flatten(specs)[path].shape
        for path, leaf in flat.items()
    )


def test_init_follows_the_generator():
    a, b, c = (P.flatten(P.init(SPECS, np.random.default_rng(seed))) for seed in (3, 3, 4))
    assert equal(a, b) and not equal(a, c)


@pytest.mark.parametrize("dtype", P.DTYPES)
def test_parameters_carry_their_paths(dtype):
    tree = P.to_parameters(P.init(SPECS, np.random.default_rng(0)), dtype)
    for path, leaf in P.flatten(tree).items():
        assert (
            isinstance(leaf, ms.Parameter) and leaf.name == path and leaf.dtype == P.DTYPES[dtype]
        )


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_round_trip_is_exact(tmp_path, dtype):
    content = arrays(dtype=P.NUMPY_DTYPES[dtype])
    content["a.weight"].flat[:4] = [
        0,
        -0.0,
        np.finfo(content["a.weight"].dtype).max,
        np.finfo(content["a.weight"].dtype).tiny,
    ]
    tree = P.to_parameters(P.tree_map(lambda path, _: content[path], SPECS), dtype)
    P.save(tree, tmp_path / "w.safetensors", dtype)
    assert equal(load_file(tmp_path / "w.safetensors"), content)  # under the public names
    loaded = P.load([tmp_path / "w.safetensors"], SPECS, dtype)
    assert equal(values(loaded), content)
    assert np.signbit(values(loaded)["a.weight"].flat[1])
    assert [leaf.name for leaf in P.flatten(loaded).values()] == NAMES


def test_numpy_trees_are_saved_too(tmp_path):
    content = arrays()
    P.save(P.tree_map(lambda path, _: content[path], SPECS), str(tmp_path / "w.safetensors"))
    assert equal(
        load_file(tmp_path / "w.safetensors"), {k: v.astype(np.float16) for k, v in content.items()}
    )


def test_half_precision_file_into_full_precision(write):
    content = arrays(dtype=np.float16)
    assert equal(
        values(P.load([write(content)], SPECS)),
        {k: v.astype(np.float32) for k, v in content.items()},
    )


@pytest.mark.parametrize("stored", [np.float32, np.float64])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_wider_file_is_rounded_to_nearest(write, stored, dtype):
    content = arrays(dtype=stored)
    want = {k: v.astype(P.NUMPY_DTYPES[dtype]) for k, v in content.items()}
    assert equal(values(P.load([write(content)], SPECS, dtype)), want)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_bf16_file(tmp_path, dtype):
    """A bfloat16 is the upper half of a float32; a float32 with nothing below is kept exactly."""
    content = {k: (v.view(np.uint32) & 0xFFFF0000).view(np.float32) for k, v in arrays().items()}
    file = write_raw(
        tmp_path / "w.safetensors",
        {
            k: ("BF16", v.shape, (v.view(np.uint32) >> 16).astype("<u2").tobytes())
            for k, v in content.items()
        },
    )
    loaded = {
        k: v.astype(ms.float32).asnumpy()
        for k, v in P.flatten(P.load([file], SPECS, dtype)).items()
    }
    want = {
        k: v.astype(np.float16).astype(np.float32) if dtype == "fp16" else v
        for k, v in content.items()
    }
    assert equal(loaded, want)


def test_several_files_give_the_same_tree(write):
    """In any division and order."""
    content = arrays()
    whole = values(P.load([write(content)], SPECS))
    parts = [write({n: content[n] for n in NAMES[i::3]}, f"{i}.safetensors") for i in (2, 0, 1)]
    assert equal(values(P.load(parts, SPECS)), whole) and equal(whole, content)


@pytest.mark.parametrize("blanks", range(4))
def test_numbers_may_begin_at_any_byte(tmp_path, blanks):
    content = arrays()
    entries = {k: ("F32", v.shape, v.tobytes()) for k, v in content.items()}
    file = write_raw(tmp_path / "w.safetensors", entries, blanks)
    assert equal(values(P.load([file], SPECS)), content)


def test_a_file_is_never_written(write):
    """Its arrays are the mapped file, and who changes them changes no file."""
    file = write(arrays())
    before = file.read_bytes()
    for _, array in P.read([file], SPECS):
        assert not array.flags.owndata
        array[...] = 0
    assert file.read_bytes() == before
    assert equal(values(P.load([file], SPECS)), arrays())


# ---- older public files --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "old, new",
    [
        (
            "encoder.mid_block.attentions.0.query.weight",
            "encoder.mid_block.attentions.0.to_q.weight",
        ),
        ("decoder.mid_block.attentions.0.key.bias", "decoder.mid_block.attentions.0.to_k.bias"),
        (
            "encoder.mid_block.attentions.0.value.weight",
            "encoder.mid_block.attentions.0.to_v.weight",
        ),
        (
            "decoder.mid_block.attentions.0.proj_attn.weight",
            "decoder.mid_block.attentions.0.to_out.0.weight",
        ),
        ("embeddings.token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
        ("encoder.layers.3.mlp.fc1.bias", "text_model.encoder.layers.3.mlp.fc1.bias"),
        ("final_layer_norm.weight", "text_model.final_layer_norm.weight"),
        ("text_model.embeddings.position_ids", None),
        ("embeddings.position_ids", None),
    ],
)
def test_older_names(old, new):
    assert P.canonical(old) == new


@pytest.mark.parametrize(
    "specs", [unet.specs(UNetConfig()), vae.specs(VAEConfig()), clip.specs(TextConfig())]
)
def test_current_names_are_kept(specs):
    assert all(P.canonical(path) == path for path in P.flatten(specs))


def fixture(case, reader, specs):
    config = reader.read(json.loads((BLOCKS / case / "config.json").read_text()))
    return load_file(BLOCKS / case / "weights.safetensors"), specs(config)


def test_text_encoder_without_prefix_and_with_position_ids(write):
    content, specs = fixture("clip_l", TextConfig, clip.specs)
    older = {
        k.removeprefix("text_model."): v for k, v in content.items() if "position_ids" not in k
    }
    older["embeddings.position_ids"] = np.arange(77)[None]
    assert equal(
        values(P.load([write(older)], specs)), values(P.load([write(content, "now")], specs))
    )


def test_vae_attention_as_1x1_convolutions(write):
    """The original release stores the attention's matrices as [C, C, 1, 1] under the older
    names."""
    content, specs = fixture("vae_legacy", VAEConfig, vae.specs)
    older = {
        k: v[:, :, None, None] if ".attentions.0." in k and v.ndim == 2 else v
        for k, v in content.items()
    }
    assert sum(v.shape != content[k].shape for k, v in older.items()) == 8
    assert equal(
        values(P.load([write(older)], specs)), values(P.load([write(content, "now")], specs))
    )


def test_a_1x1_convolution_is_no_linear_layer_elsewhere(write):
    """SD 1.x's projections for a config with linear ones."""
    content = arrays()
    content["a.weight"] = content["a.weight"][:, :, None, None]
    refused(lambda: P.load([write(content)], SPECS), "a.weight", [2, 3, 1, 1], [2, 3])


# ---- refusals ------------------------------------------------------------------------------------


def test_missing_leaf(write):
    content = arrays()
    del content["b.0.norm.bias"]
    refused(lambda: P.load([write(content)], SPECS), "missing: b.0.norm.bias")
    refused(lambda: P.load([], SPECS), *NAMES[:5], "1 more")


def test_unknown_leaf(write):
    file = write(arrays() | {"b.1.extra": np.zeros((2, 7), np.float32)})
    refused(lambda: P.load([file], SPECS), file, "'b.1.extra'", [2, 7])


@pytest.mark.parametrize("shape", [(3, 2), (3,), (6,), (2, 3, 1), (2, 4), ()])
def test_wrong_shape(write, shape):
    file = write(arrays() | {"a.weight": np.zeros(shape, np.float32)})
    refused(lambda: P.load([file], SPECS), file, "'a.weight'", list(shape), [2, 3])


def test_leaf_given_twice(write):
    content = arrays()
    first, second = write(content, "1"), write({"a.bias": content["a.bias"]}, "2")
    refused(lambda: P.load([first, second], SPECS), "'a.bias'", "twice", second)
    specs = {"text_model.final_layer_norm": P.norm(3)}
    both = {
        "text_model.final_layer_norm.weight": np.ones(3),
        "final_layer_norm.weight": np.ones(3),
        "final_layer_norm.bias": np.ones(3),
    }
    refused(
        lambda: P.load([write(both, "3")], specs), "text_model.final_layer_norm.weight", "twice"
    )


def test_all_problems_are_in_one_message(write):
    content = arrays() | {
        "x": np.zeros(1),
        "a.weight": np.zeros((2, 4)),
        "a.bias": np.array([1, np.nan]),
    }
    del content["b.0.conv.bias"]
    refused(
        lambda: P.load([write(content)], SPECS), "'x'", "'a.weight'", "'a.bias'", "b.0.conv.bias"
    )
    many = arrays() | {f"extra.{i}": np.zeros(1) for i in range(30)}
    refused(lambda: P.load([write(many)], SPECS), "'extra.0'", "22 more")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("stored", [np.float16, np.float32])
def test_weights_that_are_not_finite(write, bad, stored):
    content = arrays(dtype=stored)
    content["b.0.conv.weight"][-1, -1, -1, -1] = bad
    file = write(content)
    for dtype in P.DTYPES:
        refused(lambda: P.load([file], SPECS, dtype), file, "'b.0.conv.weight'", "NaN")


def test_bf16_that_is_not_finite(tmp_path):
    entries = {k: ("F32", v.shape, v.tobytes()) for k, v in arrays().items()}
    entries["a.bias"] = ("BF16", (2,), struct.pack("<2H", 0x3F80, 0x7F80))  # 1, inf
    refused(lambda: P.load([write_raw(tmp_path / "w", entries)], SPECS), "'a.bias'", "NaN")


@pytest.mark.parametrize("value", [65505.0, -1e5])
def test_value_beyond_half_precision(write, value):
    content = arrays()
    content["b.0.norm.weight"][3] = value
    file = write(content)
    refused(lambda: P.load([file], SPECS, "fp16"), file, "'b.0.norm.weight'", "fp16", "fp32")
    assert values(P.load([file], SPECS, "fp32"))["b.0.norm.weight"][3] == np.float32(value)


def test_largest_half_precision_value_is_kept(write):
    content = arrays()
    content["b.0.norm.weight"][3] = 65504
    assert values(P.load([write(content)], SPECS, "fp16"))["b.0.norm.weight"][3] == 65504


def test_double_beyond_single_precision(write):
    content = arrays(dtype=np.float64)
    content["a.bias"][0] = 1e300
    refused(lambda: P.load([write(content)], SPECS), "'a.bias'", "fp32")


@pytest.mark.parametrize(
    "stored, width", [("F8_E4M3", 1), ("F8_E5M2", 1), ("I8", 1), ("I64", 8), ("BOOL", 1)]
)
def test_dtype_that_weights_do_not_have(tmp_path, stored, width):
    entries = {k: ("F32", v.shape, v.tobytes()) for k, v in arrays().items()}
    entries["a.bias"] = (stored, (2,), bytes(2 * width))
    file = write_raw(tmp_path / "w", entries)
    refused(lambda: P.load([file], SPECS), file, "'a.bias'", stored)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: raw[:5],
        lambda raw: raw[:40],
        lambda raw: raw[:-1],
        lambda raw: raw + b"\0",
        lambda raw: b"PK\3\4" + raw,
        lambda raw: b"\xff" * 200,
        lambda raw: b"<!DOCTYPE html><html>404</html>",
        lambda raw: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
    ],
    ids=[
        "empty",
        "no header",
        "half a header",
        "last byte",
        "more bytes",
        "pickle",
        "ones",
        "web page",
        "lfs pointer",
    ],
)
def test_damaged_file(write, damage):
    file = write(arrays())
    file.write_bytes(damage(file.read_bytes()))
    refused(lambda: P.load([file], SPECS), file, "not a complete safetensors file")


def test_file_that_is_not_there(tmp_path):
    refused(
        lambda: P.load([tmp_path / "none.safetensors"], SPECS),
        tmp_path / "none.safetensors",
        "missing",
    )
    with pytest.raises(InputError, match=tmp_path.name):
        P.load([tmp_path], SPECS)


# ---- memory --------------------------------------------------------------------------------------

MEMORY = """
import sys
import numpy as np
from diffedit_core import params as P

def kib(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))

specs = {f"layer.{i}": P.linear(1900, 2000) for i in range(int(sys.argv[2]))}
P.to_parameters({"a": np.zeros(3)}, sys.argv[3])
before, peak_before = kib("VmRSS:"), kib("VmHWM:")
tree = P.load([sys.argv[1]], specs, sys.argv[3])
print(P.count(specs), before, peak_before, kib("VmHWM:"))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("stored, dtype", [(np.float32, "fp32"), (np.float32, "fp16")])
def test_peak_memory_of_loading(tmp_path, stored, dtype):
    """At most 1.3 times the parameters, and 60 MB: neither the file nor a second copy of the tree
    is ever held."""
    layers = 20  # 304 MB in fp32
    rows = np.arange(1900 * 2000, dtype=stored).reshape(2000, 1900) % 7
    content = {f"layer.{i}.weight": rows for i in range(layers)} | {
        f"layer.{i}.bias": rows[:, 0].copy() for i in range(layers)
    }
    save_file(content, tmp_path / "w.safetensors")
    out = subprocess.run(
        [sys.executable, "-c", MEMORY, tmp_path / "w.safetensors", str(layers), dtype],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    count, before, peak_before, peak = map(int, out.stdout.split())
    tree = count * np.dtype(P.NUMPY_DTYPES[dtype]).itemsize / 1024
    assert peak > max(peak_before, before + 0.9 * tree)  # it is the loading that is measured
    assert peak - before < 1.3 * tree + 60_000
