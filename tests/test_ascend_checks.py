"""benchmarks.ascend: whole models traced without weights, documented constraints, emulated
rounding."""

from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.ascend import constraints, dryrun, inventory, rounding, sketch
from diffedit_core import clip, kernels as K, params as P, trace, unet, vae
from diffedit_core.kernels import ascend, library

from . import reference as R

# --- sketches -------------------------------------------------------------------------------------

RUNS = {
    "text encoder": (clip.apply, clip.specs, inventory.TEXT, ([(2, 7)],)),
    "UNet": (unet.apply, unet.specs, inventory.UNET, ((2, 4, 8, 6), 481, (2, 5, 64))),
    "encoder": (vae.encode, vae.specs, inventory.AUTOENCODER, ((1, 3, 12, 8),)),
    "decoder": (vae.decode, vae.specs, inventory.AUTOENCODER, ((1, 4, 6, 4),)),
}


def real(shape):
    """The input that `sketch.calls` takes this for, with values."""
    if isinstance(shape, int):
        return ms.Tensor([shape])
    if isinstance(shape, list):
        return ms.Tensor(np.zeros(shape[0], np.int32))
    return ms.ops.zeros(shape, ms.float32)


@pytest.mark.parametrize("kernels", K.ONLY_ON_ASCEND)
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_a_sketch_makes_the_calls_of_real_tensors(run, kernels):
    """The operations are those of `trace.calls`, and each of them calls the library."""
    function, specs, config, shapes = run
    found, operations = sketch.calls(function, specs(config), config, shapes, "fp32", kernels)
    unloaded = trace.unloaded(function, specs(config), config)
    assert operations == trace.calls(unloaded, *map(real, shapes))
    assert {call.name for call in operations} <= {call.operation for call in found}


def test_the_library_is_itself_again():
    before = [getattr(owner, name) for name, (owner, *_) in sketch.LIBRARY.items()]
    with pytest.raises(ZeroDivisionError):
        with sketch.watched(lambda *_: None):
            assert ms.ops.silu is not before[list(sketch.LIBRARY).index("silu")]
            1 / 0
    assert before == [getattr(owner, name) for name, (owner, *_) in sketch.LIBRARY.items()]


def test_a_sketch_refuses_what_the_library_would():
    """Two dtypes, shapes that do not meet, an argument that nobody checks."""
    x, half = sketch.Sketch((2, 3, 5), ms.float32), sketch.Sketch((5,), ms.float16)
    assert (x + 1).shape == (2, 3, 5) and x[:, :1].shape == (2, 1, 5)
    assert x.reshape(-1, 5).shape == (6, 5) and x.swapaxes(1, 2).shape == (2, 5, 3)
    with pytest.raises(TypeError, match="would cast"):
        x + half
    with pytest.raises(ValueError, match="cannot become"):
        x.reshape(7, 5)
    with sketch.watched(lambda *_: None):
        with pytest.raises(TypeError, match="nobody checks"):
            ms.ops.softmax(x, -1, dtype=ms.float32)
        with pytest.raises(ValueError, match="does not meet"):
            ms.mint.nn.functional.linear(x, sketch.Sketch((7, 6), ms.float32))
        with pytest.raises(ValueError, match="does not meet"):
            ms.ops.BatchMatMul()(x, x)
        with pytest.raises(ValueError, match="does not meet"):
            weight = sketch.Sketch((7, 4, 3, 3), ms.float32)
            ms.mint.nn.functional.conv2d(sketch.Sketch((2, 3, 5, 5), ms.float32), weight)


# --- constraints ----------------------------------------------------------------------------------


def test_no_call_of_the_published_models_breaks_a_documented_constraint():
    """SD 1.5, 2.1-base and 2.1 at 512, 768 and 1024, in each dtype, on each family of chips."""
    runs = 0
    for what, count, bad in constraints.violations():
        assert count > 800 and not bad, f"{what}: {bad}"
        runs += 1
    assert runs == 2 * 3 * (3 + 2)


def call(name, **given):
    """The `sketch.Call` with tensors given as (shape, dtype)."""
    tensors = {
        key: sketch.Sketch(value[0], getattr(ms, value[1]))
        for key, value in given.items()
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], str)
    }
    return sketch.call(name, {**given, **tensors})


def attention(tokens=9, channels=48, dtype="float16", **given):
    tensor = ((2, tokens, channels), dtype)
    given = {"head_num": 3, "query": tensor, "key": tensor, "value": tensor, **given}
    return call("flash_attention_score", **given)


def conv(picture=(1, 4, 9, 9), kind="float32", **given):
    given = {"stride": 1, "padding": (1, 1), **given}
    return call("conv2d", input=(picture, "float32"), weight=((8, 4, 3, 3), kind), **given)


def norm(name, shape=(2, 8, 3, 3), own=(8,), kind="float16", **given):
    tensors = {"weight": (own, kind), "bias": (own, kind)}
    return call(name, input=(shape, "float16"), **tensors, **given)


def silu(dtype, shape=(2, 3)):
    return call("silu", input=(shape, dtype))


def scores(rows):
    q, k = ((10, rows, 64), "float32"), ((10, 4096, 64), "float32")
    return call("BatchMatMul", x=q, y=k, transpose_b=True)


def resize(dtype="float16", size=(6, 6)):
    return call("interpolate", input=((1, 4, 3, 3), dtype), size=size, mode="nearest")


BUDGET = ascend.SCORE_BYTES // (4 * 10 * 4096)
X, Y = ((3, 8), "float32"), ((3, 8), "float16")
GOOD = {  # rule -> a call that it allows and one that it does not, and on which family
    "no float64": (silu("float32"), silu("float64"), "A2"),
    "eight axes": (silu("float32", (1,) * 8), silu("float32", (1,) * 9), "A2"),
    "no bf16 on older chips": (silu("float16"), silu("bfloat16"), "910A"),
    "attention's chip": (silu("float16"), attention(), "310P"),
    "attention's dtype": (attention(), attention(dtype="float32"), "A2"),
    "attention's width": (attention(), attention(channels=24), "A3"),
    "attention's widest": (attention(channels=768), attention(channels=816), "A2"),
    "attention's counts": (
        attention(channels=256 * 16, head_num=256),
        attention(channels=257 * 16, head_num=257),
        "A2",
    ),
    "attention's mask": (
        attention(attn_mask=((9, 9), "uint8")),
        attention(attn_mask=((9, 9), "float16")),
        "A2",
    ),
    "score bytes": (scores(BUDGET), scores(BUDGET + 1), "A2"),
    "dtypes of products": (conv(), conv(kind="bfloat16"), "A2"),
    "conv2d's numbers": (conv(), conv(padding=(0, 1, 0, 1)), "A2"),
    "conv2d's width": (conv((1, 4, 9, 4096)), conv((1, 4, 9, 4097)), "A2"),
    "conv2d's column": (conv((1, 4, 1, 1)), conv((1, 4, 2, 1)), "A2"),
    "linear's axes": (
        call("linear", input=((1,) * 6, "float32"), weight=((1, 1), "float32")),
        call("linear", input=((1,) * 7, "float32"), weight=((1, 1), "float32")),
        "A2",
    ),
    "dtypes of norms": (
        norm("group_norm", num_groups=4),
        norm("group_norm", num_groups=4, kind="float32"),
        "A2",
    ),
    "group_norm's shapes": (
        norm("group_norm", num_groups=4),
        norm("group_norm", num_groups=3),
        "A2",
    ),
    "layer_norm's shapes": (
        norm("layer_norm", (2, 8), normalized_shape=(8,)),
        norm("layer_norm", (2, 8), normalized_shape=(2, 8)),
        "A2",
    ),
    "layer_norm's chip": (
        norm("LayerNorm", (2, 8), begin_norm_axis=-1, begin_params_axis=-1),
        norm("layer_norm", (2, 8), normalized_shape=(8,)),
        "310P",
    ),
    "LayerNorm's axes": (
        norm("LayerNorm", (2, 8), begin_norm_axis=-1, begin_params_axis=-1),
        norm("LayerNorm", (2, 8), begin_norm_axis=1, begin_params_axis=-1),
        "A2",
    ),
    "gelu's formula": (
        call("gelu", input=X, approximate="none"),
        call("gelu", input=X, approximate="tanh"),
        "A2",
    ),
    "upsampling's dtype": (resize(), resize("float32"), "910A"),
    "upsampling's shapes": (resize(), resize(size=(6,)), "A2"),
    "embedding's inputs": (
        call("embedding", input=((2, 9), "int32"), weight=((7, 4), "float16")),
        call("embedding", input=((2, 9), "float32"), weight=((7, 4), "float16")),
        "A2",
    ),
    "dtypes of concat": (
        call("concat", input0=X, input1=X, axis=0),
        call("concat", input0=X, input1=Y, axis=0),
        "A2",
    ),
}


@pytest.mark.parametrize("rule", constraints.RULES)
def test_a_planted_violation_of_each_constraint_is_seen(rule):
    good, bad, family = GOOD[rule]
    assert constraints.broken(good, family) == []
    assert rule in constraints.broken(bad, family)
    assert constraints.RULES[rule].says and constraints.RULES[rule].source


def first_violations(table, monkeypatch, dtype="fp16"):
    """The rules that SD 1.5 at 512 breaks with other lowerings."""
    monkeypatch.setitem(K.LOWERINGS, "ascend", {**K.LOWERINGS["ascend"], **table})
    own = constraints.MODELS["SD 1.5"]
    found = constraints.model_calls(own, 512, 2, dtype, "ascend")
    return {name for one in found for name in constraints.broken(one, "A2")}


def unpadded(query, key, value, heads, causal):
    return ms.ops.flash_attention_score(query, key, value, heads)


def test_a_lowering_that_breaks_a_constraint_is_seen(monkeypatch):
    """In a whole model: heads of 40 channels as they are; whole scores; a norm in another dtype."""
    with monkeypatch.context() as patch:
        patch.setattr(ascend.attention_by_parts, "__defaults__", (1 << 40,))
        assert first_violations({}, monkeypatch, "fp32") == {"score bytes"}
    assert first_violations({"attention": unpadded}, monkeypatch) >= {"attention's width"}
    wide = lambda x, w, b, groups, eps: ascend.group_norm(x, w.astype(ms.float32), b, groups, eps)
    assert "dtypes of norms" in first_violations({"group_norm": wide}, monkeypatch)


# --- rounding -------------------------------------------------------------------------------------

numbers = st.floats(-1e5, 1e5, width=64)
DTYPES = {"fp32": np.float32, "fp16": np.float16}


@given(numbers, st.sampled_from(tuple(DTYPES)))
def test_rounding_is_numpy_s(x, dtype):
    with np.errstate(over="ignore"):
        assert rounding.rounded(x, dtype) == np.float64(x).astype(DTYPES[dtype])


@pytest.mark.parametrize("dtype", rounding.FORMATS)
def test_rounding_is_to_even_halfway(dtype):
    """Where the two nearest numbers are equally near, the last bit is 0."""
    unit = 2.0 ** -rounding.FORMATS[dtype][0]
    found = rounding.rounded([1 + (k + 0.5) * unit for k in range(6)], dtype)
    assert np.array_equal((found - 1) / unit, [0, 2, 2, 4, 4, 6])


@given(st.floats(-(2.0**126), 2.0**126, width=32))
def test_rounding_to_bf16_is_mindspore_s(x):
    tensor = ms.Tensor(np.array([x], np.float32)).astype(ms.bfloat16)
    assert rounding.rounded([x], "bf16") == tensor.astype(ms.float32).asnumpy()


@given(numbers, numbers, st.sampled_from(tuple(rounding.FORMATS)))
def test_rounding_keeps_the_order_and_is_near(x, y, dtype):
    low, high = rounding.rounded(sorted((x, y)), dtype)
    assert low <= high and rounding.rounded(high, dtype) == high
    bits, smallest, _ = rounding.FORMATS[dtype]
    if np.isfinite(high):
        big = max(x, y)
        unit = 2.0 ** (max(np.frexp(big)[1] - 1, smallest) - bits)
        assert abs(high - big) <= unit / 2


def test_numbers_beyond_the_dtype_are_infinite():
    assert np.array_equal(rounding.rounded([65519, 65520, -7e4], "fp16"), [65504, np.inf, -np.inf])
    assert rounding.rounded(1e39, "bf16") == rounding.rounded(1e39, "hf32") == np.inf
    assert np.isnan(rounding.rounded(np.nan, "bf16"))


@pytest.mark.parametrize("name", rounding.OPERATIONS)
def test_without_rounding_an_operation_is_exact(name):
    arrays, settings = rounding.sample(name, "fp32", 40)
    wanted = getattr(R, name)(*arrays, *settings)
    found = rounding.computed(name, arrays, settings, None)
    assert np.abs(found - wanted).max() < 1e-12 * np.abs(wanted).max()
    assert set(rounding.OPERATIONS) | {"upsample", "embedding"} == set(K.OPERATIONS)


def error(result, wanted):
    found = result.astype(ms.float32).asnumpy().astype(np.float64)
    return np.abs(found - wanted).max() / np.abs(wanted).max()


ON_DEVICE = tuple(t for t in K.LOWERINGS if t not in K.UNTRIED or K.device() == "Ascend")
KINDS = ("fp32", "fp16", "bf16") if K.device() == "Ascend" else ("fp32", "fp16")


@pytest.mark.parametrize("terms", (40, 640))
@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("name", rounding.OPERATIONS)
def test_the_lowerings_of_this_device_are_within_the_tolerance(name, dtype, terms):
    """On an Ascend its own, too; the reference rounds at each step."""
    arrays, settings = rounding.sample(name, dtype, terms, seed=1)
    tensors = [ms.Tensor(a.astype(np.float32)).astype(P.DTYPES[dtype]) for a in arrays]
    wanted = rounding.computed(name, arrays, settings, None)
    for table in ON_DEVICE:
        found = error(K.call(table, name, *tensors, *settings), wanted)
        assert found <= rounding.tolerance(name, dtype, "none", terms, "each"), table


def test_a_coarser_dtype_has_a_larger_tolerance():
    """So that a result of fp16 is not taken for fp32, of bf16 for fp16, or of HF32 for fp32."""
    for name in ("conv2d", "linear", "geglu", "attention"):
        kind = "conv" if name == "conv2d" else "matmul"
        fine, hf32, half, coarse = [
            rounding.tolerance(name, dtype, hf32, 320)
            for dtype, hf32 in (("fp32", "none"), ("fp32", kind), ("fp16", kind), ("bf16", "none"))
        ]
        assert 20 * fine < hf32 < half < coarse
        other = "matmul" if kind == "conv" else "conv"
        assert rounding.tolerance(name, "float32", other, 320) == fine
        arrays, settings = rounding.sample(name, "fp32", 320, seed=1)
        wanted = rounding.computed(name, arrays, settings, None)
        found = rounding.computed(name, arrays, settings, "fp32", hf32=True)
        assert fine < np.abs(found - wanted).max() / np.abs(wanted).max() < hf32
    assert rounding.tolerance("upsample", "bf16") == 0 < rounding.tolerance("add", "bf16") < 0.02


def test_gelu_in_one_kernel_is_better_than_a_chain():
    """Below -1 the sum 1 + erf cancels: the relative error of five roundings nears 1."""
    x = rounding.rounded(np.linspace(-4, -1, 301), "bf16")
    exact = rounding.computed("gelu", (x,), (), None)
    one, chain = [
        np.abs(rounding.computed("gelu", (x,), (), "bf16", rounds=r) / exact - 1).max()
        for r in ("once", "each")
    ]
    assert one < 0.004 and chain > 0.9
    tensor = ms.Tensor(x.astype(np.float32)).astype(ms.float16)
    half = library.gelu(tensor).astype(ms.float32).asnumpy() / exact - 1
    assert np.abs(half).max() > 0.1  # the library's chain does so, too


def test_the_terms_of_a_call():
    """Numbers that are added up for one of the result."""
    for name, (shapes, settings, wanted) in {
        "conv2d": (((1, 5, 9, 9), (7, 5, 3, 3), (7,)), (1, (1, 1, 1, 1)), 45),
        "linear": (((2, 9, 5), (7, 5), (7,)), (), 5),
        "linear_to_picture": (((2, 9, 5), (7, 5), (7,)), (3, 3), 5),
        "geglu": (((2, 5), (14, 5), (14,), (3, 7), (3,)), (), 7),
        "attention": (((2, 3, 12), (2, 9, 12), (2, 9, 12)), (3, False), 9),
        "group_norm": (((2, 6, 3, 5), (6,), (6,)), (3, 1e-5), 30),
        "layer_norm": (((2, 3, 7), (7,), (7,)), (1e-5,), 7),
        "silu": (((2, 3),), (), 1),
    }.items():
        found = SimpleNamespace(
            name=name, shapes=shapes, settings=settings, dtypes=("float16",) * len(shapes)
        )
        assert rounding.terms_of(found) == wanted
        assert rounding.tolerance_of(found) == rounding.tolerance(name, "fp16", "none", wanted)


# --- compiling where CANN is ----------------------------------------------------------------------


def test_the_dry_run_compiles_the_graphs_of_an_edit():
    """Here for this device, and the smallest graph alone."""
    configs = (inventory.TEXT, inventory.UNET, inventory.AUTOENCODER)
    kernels, kinds = K.default_kernels(), ("text encoder",)
    found = list(dryrun.compile_all(configs, 16, 1, "fp32", kernels, kinds))
    assert [name for name, _ in found] == ["text encoder"] and found[0][1] > 0
