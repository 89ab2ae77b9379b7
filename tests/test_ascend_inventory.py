"""benchmarks.ascend.inventory and registry: the primitives of the Ascend lowerings, and the kernels
that MindSpore's wheel has for them."""

import json

import mindspore as ms
import pytest

from benchmarks.ascend import inventory, registry
from diffedit_core import kernels as K


def test_the_front_end_takes_every_lowering_and_each_primitive_has_a_kernel(tmp_path):
    """In fp32, fp16 and bf16, and whole tiny models in bf16; in a process of its own."""
    names, views = registry.registered(), registry.views()
    if names is None or views is None:
        pytest.skip("this wheel has no Ascend plugin")
    file = tmp_path / "inventory.json"
    run = inventory.run("--out", str(file))
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(file.read_text())
    assert len(found) == 3 + 4
    for place, counts in found.items():
        assert counts and registry.without_kernel(counts, names) == [], place
    for name in ("FlashAttentionScore", "Conv2DExt", "LayerNormExt", "GeluExt", "Embedding"):
        assert name in run.stdout
    assert set(registry.VIEWS) <= views
    if ms.__version__.startswith("2.8."):
        assert registry.changes(names) == ([], [])


def test_every_operation_is_in_the_inventory():
    assert {name for name, _, _ in inventory.CASES} == set(K.OPERATIONS)


def test_a_primitive_without_a_kernel_is_noticed():
    names = registry.snapshot()
    assert registry.without_kernel({"Conv2D", "Conv2DExt", "Reshape"}, names) == ["Conv2D"]
    assert registry.changes(names - {"Add"} | {"New"}) == (["Add"], ["New"])
    assert not names & set(registry.ACLOP)


def test_a_wheel_without_the_plugin(tmp_path):
    assert registry.registered(tmp_path / "no.so") is None is registry.views(tmp_path / "no.so")
