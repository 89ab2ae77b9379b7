"""Compiled graphs in files: the right one is found, a damaged one is not, and no bit changes."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from diffedit_core import clip, graph_cache as cache, kernels as K, params as P
from diffedit_core.config import TextConfig
from diffedit_core.graphs import Graph

from .tiny import LOAD, MICRO, close

CONFIG = TextConfig(
    vocab_size=13,
    hidden_size=6,
    intermediate_size=10,
    num_hidden_layers=1,
    num_attention_heads=3,
    max_position_embeddings=7,
)
OTHER = replace(CONFIG, num_attention_heads=2)
IDS = (ms.Tensor(np.array([[1, 5, 2, 12, 0]], np.int32)),)
CPU = K.LOWERINGS["cpu"]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty folder of graphs for each test."""
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "graphs"))
    return tmp_path / "graphs"


def encoder(seed=0, config=CONFIG, table=CPU, function=clip.apply, dtype="fp32"):
    rng = np.random.default_rng(seed)
    arrays = P.tree_map(
        lambda _, leaf: rng.standard_normal(leaf.shape).astype(np.float32), clip.specs(config)
    )
    return Graph(function, P.to_parameters(arrays, dtype), config, table)


def result(graph, file):
    """The bits of what a graph gives for IDS that was compiled with the help of a file."""
    cache.compiled(graph, IDS, file)
    assert len(graph.compile_cache) == 1
    found = graph(*IDS).asnumpy()
    assert len(graph.compile_cache) == 1  # the call compiled nothing
    return found.tobytes()


def own_silu(x):
    return x


def no_such_thing(self, x):
    return x.no_such_thing()


# --- which file -----------------------------------------------------------------------------------


def test_the_file_depends_on_all_that_a_graph_depends_on_and_on_no_weight(monkeypatch):
    same = {cache.file_of(encoder(seed), IDS) for seed in (0, 1)}
    assert len(same) == 1
    longer = (ms.Tensor(np.zeros((1, 6), np.int32)),)
    others = [
        cache.file_of(encoder(), longer),
        cache.file_of(encoder(config=OTHER), IDS),
        cache.file_of(encoder(table=K.REFERENCE), IDS),
        cache.file_of(encoder(table={**CPU, "gelu": K.REFERENCE["gelu"]}), IDS),
        cache.file_of(encoder(function=clip.specs), IDS),
        cache.file_of(encoder(dtype="fp16"), IDS),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(cache, "sources", lambda: "another program")
        patch.setattr(cache, "SOURCES", "another program")
        others.append(cache.file_of(encoder(), IDS))
    with monkeypatch.context() as patch:
        patch.setattr(cache, "ms", Version)
        others.append(cache.file_of(encoder(), IDS))
    assert len({*same, *others}) == 1 + len(others)


class Version:
    """In place of MindSpore."""

    __version__ = "0"

    @staticmethod
    def get_context(_):
        return None


def test_there_is_no_file_for_programs_from_elsewhere():
    """Their sources are not part of the digest."""
    assert cache.file_of(encoder(table={**CPU, "silu": own_silu}), IDS) is None
    assert cache.file_of(encoder(function=own_silu), IDS) is None


def test_there_is_no_file_where_the_programs_are_not_those_that_were_imported(monkeypatch):
    """A function or a number replaced in a running program, or a source that was edited."""
    assert not cache.replaced() and cache.file_of(encoder(), IDS)
    for module, name, value in (
        (clip, "apply", own_silu),
        (cache.layers, "resnet", cache.layers.transformer),
        (K.cpu, "SCORE_BYTES", 1),
        (cache.unet, "new", 1),
        (cache, "SOURCES", "other"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value, raising=False)
            assert cache.file_of(encoder(), IDS) is None, name
    with monkeypatch.context() as patch:
        patch.setattr(clip.specs, "__code__", (lambda config: {}).__code__)
        assert cache.replaced()
    assert cache.file_of(encoder(), IDS)


def test_the_sources_are_those_of_the_whole_package(tmp_path, monkeypatch):
    """A changed byte or another name of any file is another program."""
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "graph_cache.py"))
    found = []
    for name, text in (("a.py", "x"), ("a.py", "y"), ("b/c.py", ""), ("b/d.py", ""), ("e.txt", "")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        found.append(cache.sources())
    assert len(set(found[:4])) == 4 and found[4] == found[3]


@pytest.mark.parametrize(
    "variables, found",
    [
        ({cache.VARIABLE: "/a/b"}, "/a/b"),
        ({cache.VARIABLE: ""}, None),
        ({"XDG_CACHE_HOME": "/c"}, "/c/diffedit/graphs"),
        ({"XDG_CACHE_HOME": ""}, str(Path.home() / ".cache/diffedit/graphs")),
        ({}, str(Path.home() / ".cache/diffedit/graphs")),
        ({"XDG_CACHE_HOME": "not/absolute"}, None),
        ({cache.VARIABLE: "/a", "MS_COMPILER_CACHE_ENABLE": "1"}, None),
        ({cache.VARIABLE: "/a", "MS_COMPILER_CACHE_PATH": "/own"}, None),
    ],
)
def test_the_folder_is_what_the_environment_says(variables, found):
    assert cache.folder(variables) == (None if found is None else Path(found))


def test_there_is_no_folder_on_a_device_where_it_is_untried(monkeypatch):
    monkeypatch.setattr(cache.K, "device", lambda: "Ascend")
    assert cache.folder({cache.VARIABLE: "/a"}) is None


# --- what is in it --------------------------------------------------------------------------------


def test_what_one_graph_compiled_the_next_one_loads_and_sees_its_own_weights():
    file = cache.file_of(encoder(), IDS)
    first = result(encoder(0), file)
    written = file.stat()
    for seed in (0, 1):
        loaded = encoder(seed)
        assert result(loaded, file) == encoder(seed)(*IDS).asnumpy().tobytes()
        assert (result(loaded, file) == first) == (seed == 0)
        leaf = next(iter(P.flatten(loaded.params).values()))
        leaf.set_data(leaf + 1)
        close(loaded(*IDS), clip.apply(loaded.params, *IDS, CONFIG, "reference"), 1e-5)
    assert file.stat().st_ino == written.st_ino  # not written again


def test_what_is_in_the_file_is_what_runs():
    """Under the name of one function, the graph of another."""
    file = cache.file_of(encoder(), IDS)
    want = result(encoder(config=OTHER), file)
    assert result(encoder(), file) == want != encoder()(*IDS).asnumpy().tobytes()


@pytest.mark.parametrize("damage", [lambda b: b[:100], lambda b: b"", lambda b: b[:-1] + b"?"])
def test_a_damaged_file_is_compiled_anew_and_written_again(damage):
    file = cache.file_of(encoder(), IDS)
    want, whole = result(encoder(), file), file.read_bytes()
    file.write_bytes(damage(whole))
    assert cache.load(file) is None
    assert result(encoder(), file) == want
    assert cache.load(file) is not None
    assert result(encoder(), file) == want


def test_a_folder_that_cannot_be_written_changes_nothing(place):
    place.write_text("no folder")
    file = cache.file_of(encoder(), IDS)
    assert result(encoder(), file) == encoder()(*IDS).asnumpy().tobytes()
    assert place.read_text() == "no folder"


def test_without_room_for_temporary_files_it_compiles_all_the_same(monkeypatch, place):
    def full(**_):
        raise OSError("no space left")

    monkeypatch.setattr(cache, "COMPILER", cache.Compiler())
    monkeypatch.setattr(cache.tempfile, "mkdtemp", full)
    file = cache.file_of(encoder(), IDS)
    assert result(encoder(), file) == encoder()(*IDS).asnumpy().tobytes()
    assert not place.exists()


def test_after_a_compilation_that_fails_the_next_ones_are_right(monkeypatch):
    file = cache.file_of(encoder(), IDS)
    want = result(encoder(config=OTHER), file)  # so that only the file gives it
    for known in (False, True):  # before MindSpore has counted it, and after
        broken = encoder()
        if known:
            monkeypatch.setattr(Graph, "construct", no_such_thing)
        else:
            monkeypatch.setattr(broken, "compile", lambda *_: 1 / 0)
        with pytest.raises(Exception, match="no_such_thing|division"):
            cache.compiled(broken, IDS, file.with_name("other.graph"))
        monkeypatch.undo()
        assert cache.ENABLE not in os.environ and cache.FORCE not in os.environ
        assert result(encoder(), file) == want
        fresh = file.with_name(f"fresh {known}.graph")
        assert result(encoder(1), fresh) == encoder(1)(*IDS).asnumpy().tobytes()
        assert cache.load(fresh) is not None


def test_the_graphs_that_were_not_used_for_the_longest_time_go_first(tmp_path):
    for name, used in (("a", 3), ("b", 1), ("c", 4), ("d", 2)):
        (tmp_path / f"{name}.graph").write_bytes(bytes(10))
        os.utime(tmp_path / f"{name}.graph", (used, used))
    (tmp_path / "else").write_bytes(bytes(100))
    cache.prune(tmp_path, 25)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.graph", "c.graph", "else"]
    cache.load(tmp_path / "a.graph")  # which is a use
    cache.prune(tmp_path, 10)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.graph", "else"]


# --- models ---------------------------------------------------------------------------------------


def test_a_model_loads_what_another_one_compiled_with_the_same_bits(place):
    """Its three networks; not where it is told to do without."""
    rng = np.random.default_rng(0)
    latents = ms.Tensor(rng.standard_normal((1, 4, 6, 8)).astype(np.float32))
    picture = rng.random((1, 3, 16, 24)).astype(np.float32)

    def everything(sequential=False):
        model = LOAD(MICRO, sequential=sequential)
        model._before = {}  # the autoencoder is compiled at once
        states = model.encode_prompts(["a bowl of apples"])
        found = [states, model.predict(latents, 481, states), *model.encode_image(picture)]
        return [x.asnumpy().tobytes() for x in found]

    first = everything()
    files = {f.name: f.stat().st_ino for f in place.iterdir()}
    assert len(files) == 3
    for sequential in (False, True):
        assert everything(sequential) == first
        assert {f.name: f.stat().st_ino for f in place.iterdir()} == files
    for file in place.iterdir():
        file.unlink()
    model = LOAD(MICRO)
    model.cached = False
    model.encode_prompts(["a bowl of apples"])
    assert not list(place.iterdir())


PROGRAM = """
import mindspore as ms, numpy as np
from diffedit_core.model import Model
model = Model.load({folder!r})
print(model.encode_prompts(["a bowl of pears"]).asnumpy().tobytes().hex())
"""


def test_another_process_loads_them_whatever_it_was_started_with(place, tmp_path):
    """A command, and a program that comes through a pipe; MindSpore does not warn of it."""
    program, found = PROGRAM.format(folder=str(MICRO)), set()
    for words, text in ((["-c", program], None), ([], program)):
        done = subprocess.run(
            [sys.executable, *words], input=text, capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0 and not done.stderr, done.stderr
        found.add((done.stdout, tuple((f.name, f.stat().st_ino) for f in place.iterdir())))
    assert len(found) == 1 and len(list(place.iterdir())) == 1
    assert not list(Path(tmp_path).glob("rank_*"))  # MindSpore left nothing where it was started
