"""What makes two functions, programs and variants the same, for rows and caches."""

import ast
import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.ablation import Experiment, experiment as E, identity
from benchmarks.ablation.identity import code, digest
from diffedit_core.parts import Parts

ROOT = Path(__file__).parent.parent


def twice(x):
    """Two."""
    return helper(x) * 2


def helper(x):
    return x


def adder(n):
    return lambda x: x + n


def test_functions_are_the_same_if_they_do_the_same():
    assert digest(adder(1)) == digest(adder(1)) != digest(adder(2))
    assert digest(lambda x: x + 1) != digest(lambda x: x + 2)
    assert digest(functools.partial(twice, 1)) != digest(functools.partial(twice, 2))
    assert digest(twice) != digest(helper)
    assert digest(np.eye(2)) == digest(np.eye(2)) != digest(np.eye(3))
    assert digest(1) != digest(1.0) != digest("1.0") != digest(True)
    before = digest(twice)
    changed = {**twice.__globals__, "helper": lambda x: -x}
    other = type(twice)(twice.__code__, changed, "twice")
    assert digest(other) != before, "what it calls is part of it"


def test_a_digest_is_that_of_another_process(tmp_path):
    """Sets of texts, which Python orders by chance, included."""
    file = tmp_path / "functions.py"
    text = """
from benchmarks.ablation.identity import digest
known = frozenset({"a", "b", "c", "d"})
def f(x, y=("q", 1.5)):
    "%s"
    # %s
    return x in {"apple", "pear", "plum", "fig"} or x in known
print(digest(f))
"""
    found = set()
    for seed, comment in (("1", "one"), ("2", "two")):
        file.write_text(text % (comment, comment), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, str(file)], env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1


def test_the_programs_digest_sees_code_and_no_comments(tmp_path, monkeypatch):
    core = tmp_path / "diffedit_core"
    core.mkdir()
    monkeypatch.setattr(identity, "ROOT", tmp_path)

    def of(first, second="from . import a\ny = a.x"):
        (core / "a.py").write_text(first, encoding="utf-8")
        (core / "b.py").write_text(second, encoding="utf-8")
        code.cache_clear()
        return code("diffedit_core.b")

    before = of("x = 1")
    assert of('"""New."""\n\nx = 1  # one') == before
    assert of("x = 2") != before != of("x = 1", "from . import a\ny = -a.x")
    code.cache_clear()


def test_a_program_has_the_same_digest_in_every_version_of_python(monkeypatch):
    """Python 3.12 gave functions a field that is empty for all that 3.11 can say."""
    tree = ast.parse("def f(x=0, *, y=None): return x, y, ...")
    before = identity._syntax(tree)
    fields = (*ast.FunctionDef._fields, "of_a_newer_version")
    monkeypatch.setattr(ast.FunctionDef, "_fields", fields)
    for value, same in (([], True), (None, True), ([ast.Pass()], False)):
        tree.body[0].of_a_newer_version = value
        assert (identity._syntax(tree) == before) is same


def test_the_names_of_parts_are_the_cores():
    assert E.PARTS == Parts._fields


def test_variants_of_the_same_edit_have_the_same_digest():
    one = Experiment("toy", "?", vary={"source": ("source", ""), "mask_threshold": (0.5, 0.3)})
    assert len(one.variants) == 4 and one.base_digest == one.variants[0].digest
    other = Experiment("other", "?", rows={"a": {"mask_threshold": 0.3}})
    assert [v.label for v in other.variants] == ["base", "a"]
    assert other.variants[1].digest == one.variants[1].digest
    assert not one.only_mask and Experiment("m", "?", measures=("iou", "area")).only_mask
