"""Weights that are given back and read again, the model that has one component at a time, and the
memory there is."""

import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from diffedit_core import edit as stages
from diffedit_core import memory, params as P, prompts
from diffedit_core.draws import draws
from diffedit_core.errors import InputError
from diffedit_core.graphs import Graph
from diffedit_core.model import Model
from diffedit_core.options import RECIPES
from diffedit_core.weights import LINE, Weights

from .closed_forms import FakeModel, edited, equal
from .tiny import MICRO, shared_load

SPECS = {"first": P.linear(7, 9), "odd": P.linear(3, 1, bias=False), "last": P.norm(6)}
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def written(folder, stored=np.float32, **changes):
    """A file with leaves of distinct values, some of them replaced."""
    rng = np.random.default_rng(3)
    leaves = P.flatten(SPECS)
    arrays = {p: rng.standard_normal(leaf.shape).astype(stored) for p, leaf in leaves.items()}
    save_file({**arrays, **changes}, folder / "w.safetensors")
    return [folder / "w.safetensors"]


def values(tree):
    return {path: leaf.asnumpy().copy() for path, leaf in P.flatten(tree).items()}


def same(one, other):
    return all(one[p].dtype == other[p].dtype and (one[p] == other[p]).all() for p in other)


# --- weights --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return {s: written(tmp_path_factory.mktemp(s), s) for s in ("float16", "float32", "float64")}


@given(
    st.sampled_from(("float16", "float32", "float64")),
    st.sampled_from(("fp32", "fp16")),
    st.lists(st.booleans(), max_size=4),
)
def test_the_leaves_have_the_bits_of_the_files_however_often_they_went(files, stored, dtype, turns):
    weights = Weights(files[stored], SPECS, dtype)
    for there in turns:
        weights.fill() if there else weights.release()
        assert weights.filled == there
    weights.fill()
    assert same(values(weights.params), values(P.load(files[stored], SPECS, dtype)))
    assert [leaf.name for leaf in P.flatten(weights.params).values()] == list(P.flatten(SPECS))


def test_every_leaf_begins_at_a_cache_line_and_none_overlap(files):
    weights = Weights(files["float32"], SPECS, "fp32")
    places = [(a.ctypes.data, a.nbytes) for a in weights.arrays.values()]
    assert all(start % LINE == 0 for start, _ in places)
    assert all(start + size <= after for (start, size), (after, _) in zip(places, places[1:]))


def test_what_is_wrong_with_the_values_is_said_when_they_are_read(tmp_path):
    bad = np.full((9, 7), np.nan, np.float32)
    weights = Weights(written(tmp_path, **{"first.weight": bad}), SPECS, "fp32")
    with pytest.raises(InputError, match="'first.weight'.*NaN"):
        weights.fill()
    assert not weights.filled


def linear(params, x):
    return ms.ops.matmul(x, params["first"]["weight"].swapaxes(0, 1)) + params["first"]["bias"]


def test_a_compiled_graph_sees_the_values_go_and_come_back(files):
    """Which shows that the leaves look at the memory that is given back: were they copies, the
    graph would not notice."""
    weights = Weights(files["float32"], SPECS, "fp32")
    weights.fill()
    graph, x = Graph(linear, weights.params), ms.Tensor(np.ones((2, 7), np.float32))
    before = graph(x).asnumpy()
    weights.release()
    assert not graph(x).asnumpy().any() and before.all()
    weights.fill()
    assert np.array_equal(graph(x).asnumpy(), before) and len(graph.compile_cache) == 1


def resident():
    """Bytes of this process that are in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


@LINUX
def test_the_memory_is_given_back(tmp_path):
    """Of 160 MB, all but a twentieth; before the values are read they take none."""
    specs = {f"layer.{i}": P.linear(2000, 2000) for i in range(10)}
    arrays = {p: np.full(leaf.shape, 0.5, np.float32) for p, leaf in P.flatten(specs).items()}
    save_file(arrays, tmp_path / "w.safetensors")
    size = sum(a.nbytes for a in arrays.values())
    del arrays
    held = Weights([tmp_path / "w.safetensors"], specs, "fp32")
    held.fill()  # what only the first use takes
    start = resident()
    weights = Weights([tmp_path / "w.safetensors"], specs, "fp32")
    laid_out = resident()
    weights.fill()
    full = resident()
    weights.release()
    assert laid_out - start < size / 4 and full - start > 0.95 * size
    assert full - resident() > 0.95 * size and held.filled


# --- one component at a time ----------------------------------------------------------------------


@pytest.fixture
def model():
    """The shared micro model, as a test's own; its weights are there again afterwards."""
    found = shared_load(MICRO)
    yield found
    for weights in found.weights.values():
        weights.fill()


SIDE = 32


def micro_edit(model, **more):
    options = RECIPES["paper"].replace(num_inference_steps=2, num_maps=2, mask_threshold=0.1)
    factor = model.configs.vae.factor
    drawn = draws(options, [0], (4, SIDE // factor, SIDE // factor))
    pixels = np.random.default_rng(2).uniform(-1, 1, (1, 3, SIDE, SIDE)).astype(np.float32)
    return stages.edit(model, pixels, "a bowl", ["pears", "a cat"], options, drawn, **more)


def test_one_component_at_a_time_changes_no_bit_and_a_second_edit_works(model, monkeypatch):
    """Each component is read once an edit, in the order of the stages."""
    whole = micro_edit(model)
    read, fill = [], Weights.fill
    names = {id(weights): name for name, weights in model.weights.items()}

    def counted(self):
        if not self.filled:
            read.append(names[id(self)])
        fill(self)
        assert sum(w.filled for w in model.weights.values()) == 1

    model.sequential = True
    monkeypatch.setattr(Weights, "fill", counted)
    model.weights["vae"].release()
    for turn in range(2):
        found = micro_edit(model)
        assert all(equal(one, other) for one, other in zip(found, whole))
    once = ["text_encoder", "unet", "vae"]
    assert read == ["vae", *once, *once]


def test_weights_stay_where_that_is_not_asked_for(model):
    micro_edit(model)
    assert all(weights.filled for weights in model.weights.values())


def test_a_model_that_is_loaded_so_reads_nothing_before_it_is_needed():
    loaded = Model.load(MICRO, sequential=True)
    assert loaded.sequential and not any(w.filled for w in loaded.weights.values())
    states = loaded.encode_prompts(["a bowl"])
    assert [name for name, w in loaded.weights.items() if w.filled] == ["text_encoder"]
    assert np.array_equal(states.asnumpy(), shared_load(MICRO).encode_prompts(["a bowl"]).asnumpy())


@pytest.mark.parametrize("eagerly", (0, 1))
def test_a_graph_is_compiled_once_and_while_no_weights_are_in_memory(eagerly, monkeypatch):
    loaded, held, said, compile_graph = Model.load(MICRO), {}, [], Graph.compile
    pixels = np.random.default_rng(2).uniform(-1, 1, (1, 3, SIDE, SIDE))
    for _ in range(eagerly):
        loaded.encode_image(pixels)
    loaded.sequential, loaded.on_compile = True, said.append

    def compiled(self, *inputs):
        held.setdefault(id(self), [n for n, w in loaded.weights.items() if w.filled])
        return compile_graph(self, *inputs)

    monkeypatch.setattr(Graph, "compile", compiled)
    whole = shared_load(MICRO).encode_image(pixels)
    held.clear()
    for _ in range(2):
        found = loaded.encode_image(pixels)
        assert all(np.array_equal(a.asnumpy(), b.asnumpy()) for a, b in zip(found, whole))
    assert held == {id(loaded.graphs["vae_encoder"]): []}
    assert said == ["compiling vae_encoder", ""]


def test_another_device_has_no_such_mode(monkeypatch):
    monkeypatch.setattr("diffedit_core.weights.K.device", lambda: "Ascend")
    monkeypatch.setattr("diffedit_core.model.K.set_up", lambda *_: None)
    with pytest.raises(InputError, match="sequential is for a CPU.*leave it out"):
        Model.load(MICRO, sequential=True)


class Ordered(FakeModel):
    """A fake that also writes down which of its functions are called."""

    def __init__(self):
        super().__init__()
        self.order, self.texts = [], []

    def encode_prompts(self, texts):
        self.order.append("text_encoder")
        self.texts += texts
        return super().encode_prompts(texts)

    def encode_image(self, image, tiling=None):
        self.order.append("vae")
        return super().encode_image(image, tiling)

    def decode_latents(self, latents, tiling=None):
        self.order.append("vae")
        return super().decode_latents(latents, tiling)

    def predict(self, *inputs):
        self.order.append("unet")
        return super().predict(*inputs)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("ways", ({}, {"only_mask": True}, {"mask": np.ones((1, 6, 8))}))
def test_an_edit_needs_each_component_once(recipe, ways, monkeypatch):
    """The autoencoder for the picture, the text encoder for exactly the sentences that are asked
    for, the UNet for everything, the autoencoder for the pictures."""
    asked, text_states = set(), prompts.text_states

    def watched(*arguments):
        states = text_states(*arguments)
        return lambda text: asked.add(text) or states(text)

    monkeypatch.setattr(stages, "text_states", watched)
    options = RECIPES[recipe].replace(num_inference_steps=5, num_maps=2)
    said = {"negative": "negative", "mask_negative": "c", "inversion_negative": "d"}
    model, _ = edited(options, targets=("a", "b"), model=Ordered(), **said, **ways)
    phases = [o for o, before in zip(model.order, [None, *model.order]) if o != before]
    wanted = ["vae", "text_encoder", "unet", "vae"]
    assert phases == (wanted[:3] if "only_mask" in ways else wanted)
    assert set(model.texts) == asked and model.order.count("text_encoder") == 1


# --- the memory there is --------------------------------------------------------------------------

BYTES = st.integers(0, 1 << 45)


@given(BYTES, BYTES, BYTES)
def test_the_rule_of_the_default(available, needed, more):
    """Laws: more memory never asks for it, a larger edit never asks for less; exactly enough is
    enough; nothing is done where nothing is known."""
    rule = memory.needs_sequence
    assert not rule(None, needed) and not rule(needed, needed) and rule(needed, needed + 1)
    assert (
        rule(available + more, needed) <= rule(available, needed) <= rule(available, needed + more)
    )


def system(root, free=None, **group):
    """Files as Linux shows them."""
    if free is not None:
        (root / "proc").mkdir()
        (root / "proc/meminfo").write_text(
            f"MemFree: 1 kB\nMemAvailable:   {free} kB\nHugePages: 0\n"
        )
    if group:
        (root / "sys/fs/cgroup").mkdir(parents=True)
        group["stat"] = f"anon 5\ninactive_file {group.pop('files', 0)}\n"
        for name, value in group.items():
            (root / f"sys/fs/cgroup/memory.{name}").write_text(f"{value}\n")
    return memory.available(root)


@pytest.mark.parametrize(
    "given, wanted",
    (
        ({}, None),
        ({"free": 7}, 7 << 10),
        ({"free": 7, "max": "max", "current": 5}, 7 << 10),
        ({"free": 7, "max": 100, "current": 40, "files": 9}, 69),
        ({"free": 7, "max": 1 << 20, "current": 40}, 7 << 10),
        ({"max": 40, "current": 60}, 0),
    ),
)
def test_what_is_available_is_the_least_that_the_system_says(tmp_path, given, wanted):
    assert system(tmp_path, **given) == wanted


@LINUX
def test_this_machine_says_what_is_available():
    assert 1 << 20 < memory.available() < 1 << 50


def test_the_estimate_with_one_component_has_the_largest_ones_weights():
    configs = shared_load(MICRO).configs
    sizes = [4 * P.count(configs.specs(c)) for c in ("text_encoder", "unet", "vae")]
    whole = memory.estimate_memory(configs, (4, 4), 2, "fp32", "cpu")
    one = memory.estimate_memory(configs, (4, 4), 2, "fp32", "cpu", sequential=True)
    assert (whole[0], one[0]) == (sum(sizes), max(sizes)) and whole[1] == one[1]
