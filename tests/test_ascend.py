"""diffedit_core.kernels.ascend and benchmarks.ascend: what is known of the Ascend lowerings without
such a device."""

import json
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import ops

from benchmarks.ascend import registry
from diffedit_core import kernels as K, params as P
from diffedit_core.kernels import ascend
from tests.test_config import refused

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


@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize("dtype", ("fp16", "bf16"))
@pytest.mark.parametrize("width", (16, 8, 40))
def test_the_fused_attention_of_ascend(monkeypatch, dtype, causal, width):
    """On an Ascend device the fused kernel itself; elsewhere a stand-in that its documentation
    describes."""
    if K.device() != "Ascend":
        monkeypatch.setattr(ops, "flash_attention_score", fused)
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


CHIPS = (
    ("Ascend910B4", "ascend", True),
    ("Ascend910_9391", "ascend", True),
    ("Ascend310P3", "ascend-unfused", False),
    ("Ascend910A", "ascend-unfused", False),
    ("Ascend999", "ascend-unfused", False),
)


@pytest.mark.parametrize("name, table, bf16", CHIPS)
def test_the_chip_decides(monkeypatch, name, table, bf16):
    monkeypatch.setattr(K, "device", lambda: "Ascend")
    monkeypatch.setattr(ascend, "chip_name", lambda: name)
    monkeypatch.setattr(ascend, "choose_hf32", lambda allowed: None)
    assert K.default_kernels() == K.checked(None) == table
    if bf16:
        K.set_up("bf16")
        assert K.checked("ascend") == "ascend"
    else:
        refused(lambda: K.set_up("bf16"), name, "fp16")
        refused(lambda: K.checked("ascend"), name, "ascend-unfused")


@pytest.mark.parametrize("target, name", (("CPU", "cpu"), ("GPU", "reference")))
def test_the_default_is_the_device(monkeypatch, target, name):
    monkeypatch.setattr(K, "device", lambda: target)
    assert K.default_kernels() == name
    refused(lambda: K.set_up("fp32", hf32=True), "hf32", target)
    refused(lambda: K.checked("ascend"), "ascend", target, name)


def test_the_front_end_takes_every_lowering_and_each_primitive_has_a_kernel(tmp_path):
    """In a process of its own (see `inventory`)."""
    names = registry.registered()
    if names is None:
        pytest.skip("this wheel has no Ascend plugin")
    file = tmp_path / "inventory.json"
    command = [sys.executable, "-m", "benchmarks.ascend.inventory", "--out", str(file)]
    root = Path(__file__).parent.parent
    run = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    for place, counts in json.loads(file.read_text()).items():
        assert counts and registry.without_kernel(counts, names) == [], place
    if ms.__version__.startswith("2.8."):
        assert registry.changes(names) == ([], [])


def test_a_primitive_without_a_kernel_is_noticed():
    names = registry.snapshot()
    assert registry.without_kernel({"Conv2D", "Conv2DExt", "Reshape"}, names) == ["Conv2D"]
    assert registry.changes(names - {"Add"} | {"New"}) == (["Add"], ["New"])
