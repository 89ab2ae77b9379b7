"""diffedit_core.kernels.ascend and chips: what is known of them without such a device.

On an Ascend device the library's functions run; elsewhere stand-ins that its documentation
describes.
"""

import mindspore as ms
import numpy as np
import pytest
from mindspore import mint, ops

from diffedit_core import kernels as K, memory, model as M, params as P
from diffedit_core.kernels import ascend, chips
from tests.test_config import refused
from tests.test_kernels import CASES, assert_near, prepared

from . import reference as R

rng = np.random.default_rng(0)


def normal(*shape):
    return rng.standard_normal(shape)


def fused(query, key, value, head_num, attn_mask=None, scalar_value=1.0, input_layout="BSH"):
    """What MindSpore's documentation says of `flash_attention_score`: the scores times
    `scalar_value`, nothing where the mask is 1, softmax, times the values."""
    assert input_layout == "BSH" and query.dtype in (ms.float16, ms.bfloat16)
    assert query.shape[2] // head_num % 16 == 0
    assert attn_mask is None or attn_mask.dtype == ms.uint8
    q, k, v = [
        np.stack(np.split(R.wide(t.astype(ms.float32).asnumpy()), head_num, 2), 1)
        for t in (query, key, value)
    ]
    scores = q @ k.swapaxes(2, 3) * scalar_value
    if attn_mask is not None:
        scores = np.where(attn_mask.asnumpy() == 1, -np.inf, scores)
    y = np.concatenate(list((R.softmax(scores) @ v).swapaxes(0, 1)), 2)
    return ms.Tensor(y.astype(np.float32)).astype(query.dtype)


def stand_in(function):
    """A function of numpy arrays as one of tensors, in the dtype of the last."""

    def run(*args, **options):
        kind = [a.dtype for a in args if isinstance(a, ms.Tensor)][-1]
        plain = [a.asnumpy() if isinstance(a, ms.Tensor) else a for a in args]
        return ms.Tensor(np.asarray(function(*plain, **options), np.float32)).astype(kind)

    return run


def documented_conv2d(input, weight, bias=None, stride=1, padding=0):
    rows, columns = padding if isinstance(padding, tuple) else (padding, padding)
    return R.conv2d(input, weight, bias, stride, (rows, rows, columns, columns))


def documented_pad(input, pad):
    left, right, top, bottom = pad
    return np.pad(input, ((0, 0), (0, 0), (top, bottom), (left, right)))


def documented_layer_norm(input, normalized_shape, weight, bias, eps):
    assert tuple(normalized_shape) == input.shape[-1:]
    return R.layer_norm(input, weight, bias, eps)


def documented_gelu(input, approximate):
    assert approximate == "none"
    return R.gelu(input)


def documented_interpolate(input, size, mode):
    assert mode == "nearest" and size == tuple(2 * n for n in input.shape[2:])
    return R.upsample(input)


DOCUMENTED = {
    "conv2d": documented_conv2d,
    "pad": documented_pad,
    "linear": lambda input, weight, bias: R.linear(input, weight, bias),
    "group_norm": lambda x, groups, weight, bias, eps: R.group_norm(x, weight, bias, groups, eps),
    "layer_norm": documented_layer_norm,
    "gelu": documented_gelu,
    "interpolate": documented_interpolate,
    "embedding": lambda ids, weight: R.embedding(ids, weight),
}


@pytest.fixture
def the_library(monkeypatch):
    """The functions that only an Ascend has."""
    if K.device() != "Ascend":
        monkeypatch.setattr(ops, "flash_attention_score", fused)
        for name, function in DOCUMENTED.items():
            monkeypatch.setattr(mint.nn.functional, name, stand_in(function))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("table", K.ONLY_ON_ASCEND)
def test_each_lowering_calls_the_library_as_it_is_documented(the_library, table, case):
    name, tensors, options, wanted = prepared(case, np.float32)
    assert_near(K.call(table, name, *tensors, *options), wanted, np.float32)


@pytest.mark.parametrize("table", ("ascend", "ascend-aclop"))
@pytest.mark.parametrize("case", ("attention", "attention, causal", "group_norm", "upsample"))
def test_half_precision_goes_the_same_way(the_library, table, case):
    """The heads of these are 5 wide: padded, or left to the reference."""
    name, tensors, options, wanted = prepared(case, np.float16)
    assert_near(K.call(table, name, *tensors, *options), wanted, np.float16)


def test_the_older_attention_is_fused_where_its_heads_need_no_zeros(the_library):
    """The stand-in refuses other widths."""
    tensors = [ms.Tensor(normal(2, 9, 48).astype(np.float16)) for _ in range(3)]
    wanted = R.attention(*[t.asnumpy() for t in tensors], 3)
    assert_near(K.call("ascend-aclop", "attention", *tensors, 3, False), wanted, np.float16)


@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize("dtype", ("fp16", "bf16"))
@pytest.mark.parametrize("width", (16, 8, 40))
def test_the_fused_attention_of_ascend(the_library, dtype, causal, width):
    """With zeros that fill up narrow heads, too."""
    arrays = [normal(2, 9, 3 * width) for _ in range(3)]
    tensors = [ms.Tensor(a.astype(np.float32)).astype(P.DTYPES[dtype]) for a in arrays]
    wanted = R.attention(*[t.astype(ms.float32).asnumpy() for t in tensors], 3, causal)
    result = ascend.attention(*tensors, 3, causal).astype(ms.float32).asnumpy()
    assert np.abs(result - wanted).max() < 0.02


@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize("rows", (1, 2, 4, 9, 50))
def test_attention_by_parts_is_the_same(rows, causal):
    arrays = [normal(2, 9, 15).astype(np.float32) for _ in range(3)]
    size = rows * 4 * 2 * 3 * 9
    result = ascend.attention_by_parts(*map(ms.Tensor, arrays), 3, causal, score_bytes=size)
    assert np.abs(result.asnumpy() - R.attention(*arrays, 3, causal)).max() < 1e-5


@pytest.mark.parametrize("width, dtype", ((257, "fp16"), (512, "bf16"), (16, "fp32")))
def test_what_the_fused_kernel_is_not_trusted_with(monkeypatch, width, dtype):
    """Wider heads than anybody was seen to run, and fp32."""
    monkeypatch.setattr(ops, "flash_attention_score", None)
    tensors = [ms.Tensor(normal(1, 3, width)).astype(P.DTYPES[dtype]) for _ in range(3)]
    wanted = R.attention(*[t.astype(ms.float32).asnumpy() for t in tensors], 1)
    result = ascend.attention(*tensors, 1, False)
    assert result.dtype == P.DTYPES[dtype]
    assert np.abs(result.astype(ms.float32).asnumpy() - wanted).max() < 0.02


def test_parts_are_as_many_queries_as_the_budget_holds(monkeypatch):
    """More than 16 as a multiple of it; one at least."""
    taken, kept = [], ops.softmax
    monkeypatch.setattr(ops, "softmax", lambda x, axis: taken.append(x.shape[1]) or kept(x, axis))
    tensors = [ms.Tensor(normal(2, 50, 6).astype(np.float32)) for _ in range(3)]
    row = 4 * 2 * 3 * 50
    for size, wanted in ((50, [48, 2]), (35, [32, 18]), (16, [16, 16, 16, 2]), (9, [9] * 5 + [5])):
        taken.clear()
        ascend.attention_by_parts(*tensors, 3, False, score_bytes=size * row)
        assert taken == wanted
    assert ascend.queries_at_once(0) == ascend.queries_at_once(1) == 1


def test_the_estimate_counts_the_scores():
    """In fp32, and of the autoencoder's wide heads; no more than the budget; nothing where they
    are fused, or on a CPU, where they are in what was measured."""
    configs = M.read_configs(M.ORCHARD)
    heads, cells = configs.unet.heads[0], 1 << 12
    width = configs.unet.block_out_channels[0] // heads
    assert width <= ascend.WIDEST_HEAD
    whole = ascend.SCORE_COPIES * 4 * 2 * heads * cells**2
    most = ascend.SCORE_COPIES * ascend.SCORE_BYTES
    for dtype, kernels, wanted in (
        ("fp32", "ascend", min(whole, most)),
        ("fp16", "ascend", 0),
        ("fp16", "ascend-unfused", min(whole, most)),
        ("fp32", "reference", whole),
        ("fp32", "cpu", 0),
    ):
        assert K.score_bytes(kernels, dtype, 2, heads, width, cells) == wanted
        known = memory.estimate_memory(configs, (64, 64), 2, dtype, kernels)[1]
        scores = memory.score_bytes(configs, cells, 2, dtype, kernels)
        assert scores >= wanted and known > scores
    wide = ascend.WIDEST_HEAD + 1
    assert K.score_bytes("ascend", "bf16", 1, 1, wide, cells) == ascend.SCORE_COPIES * 4 * cells**2


# --- chips ----------------------------------------------------------------------------------------

CHIPS = (
    ("Ascend910B4", "ascend", True),
    ("Ascend910_9391", "ascend", True),
    ("Ascend310P3", "ascend-unfused", False),
    ("Ascend910A", "ascend-unfused", False),
    ("Ascend999", "ascend-unfused", False),
)


@pytest.fixture
def on_chip(monkeypatch):
    """Sets the name of the chip; nothing is chosen yet."""
    monkeypatch.setattr(K, "device", lambda: "Ascend")
    monkeypatch.setattr(chips, "_hf32", [])
    monkeypatch.setattr(chips, "choose_hf32", lambda allowed: None)
    return lambda name: monkeypatch.setattr(chips, "chip_name", lambda: name)


@pytest.mark.parametrize("name, table, bf16", CHIPS)
def test_the_chip_decides(on_chip, name, table, bf16):
    on_chip(name)
    assert K.default_kernels() == K.checked(None) == table
    assert K.checked("ascend-unfused") == "ascend-unfused"
    K.set_up("fp16")
    if bf16:
        K.set_up("bf16")
        assert K.checked("ascend") == "ascend"
    else:
        refused(lambda: K.set_up("bf16"), name, "fp16")
        for fused_kernels in ("ascend", "ascend-aclop"):
            refused(lambda: K.checked(fused_kernels), name, "ascend-unfused")


@pytest.mark.parametrize("name, said", (("Ascend910B4", 0), ("Ascend310P3", 1), ("Ascend999", 0)))
def test_fp32_that_is_none_is_said(on_chip, recwarn, name, said):
    on_chip(name)
    K.set_up("fp32")
    assert len([w for w in recwarn if "fp16 only" in str(w.message)]) == said


def test_the_name_of_the_chip_is_asked_for(monkeypatch):
    monkeypatch.setattr(ms.hal, "get_device_name", lambda number, target: f"{target}{number}")
    assert chips.chip_name() == f"Ascend{ms.get_context('device_id')}"


class Precision:
    """MindSpore's functions, which take one choice in a process."""

    def __init__(self):
        self.chosen = {}

    def choose(self, what, value):
        if self.chosen.get(what, value) != value:
            raise RuntimeError(f"The '{what}' can not be set repeatedly.")
        self.chosen[what] = value

    def conv_allow_hf32(self, value):
        self.choose("conv", value)

    def matmul_allow_hf32(self, value):
        self.choose("matmul", value)


@pytest.mark.parametrize("allowed", (False, True))
def test_hf32_is_chosen_once_for_both_kinds_of_product(monkeypatch, allowed):
    precision = Precision()
    monkeypatch.setattr(ms.device_context.ascend, "op_precision", precision)
    monkeypatch.setattr(chips, "_hf32", [])
    monkeypatch.setattr(chips, "chip_name", lambda: "Ascend910B4")
    monkeypatch.setattr(K, "device", lambda: "Ascend")
    K.set_up("fp32", allowed)
    assert precision.chosen == {"conv": allowed, "matmul": allowed}
    K.set_up("fp16", allowed)  # the same again
    refused(lambda: K.set_up("fp32", not allowed), "HF32", "another process")


def test_hf32_that_somebody_else_chose(monkeypatch):
    precision = Precision()
    precision.conv_allow_hf32(True)
    monkeypatch.setattr(ms.device_context.ascend, "op_precision", precision)
    monkeypatch.setattr(chips, "_hf32", [])
    refused(lambda: chips.choose_hf32(False), "before the model was loaded", "Model.load")


@pytest.mark.parametrize("target, name", (("CPU", "cpu"), ("GPU", "reference")))
def test_the_default_is_the_device(monkeypatch, target, name):
    monkeypatch.setattr(K, "device", lambda: target)
    assert K.default_kernels() == name
    K.set_up("fp32")
    refused(lambda: K.set_up("fp32", hf32=True), "hf32", target)
    refused(lambda: K.checked("ascend"), "ascend", target, name)


def test_no_bf16_on_a_cpu(monkeypatch):
    monkeypatch.setattr(K, "device", lambda: "CPU")
    refused(lambda: K.set_up("bf16"), "bf16", "CPU")
