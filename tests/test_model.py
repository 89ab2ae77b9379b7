"""diffedit_core.model: what a model folder must hold, where it may come from, and how the loaded
model runs."""

import contextlib
import copy
import dataclasses
import inspect
import json
import shutil

from pathlib import Path

import huggingface_hub
import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from diffedit_core import clip, hub, kernels as K, memory, model as M, params as P, unet
from diffedit_core.hub import choose_weights
from diffedit_core.model import Model
from tests import traces
from tests.test_config import refused
from tests.test_vae import shipped
from tests.tiny import shared_load

MICRO = Path(__file__).parent / "fixtures" / "pipeline" / "model"
WEIGHTS = {
    "text_encoder": "model",
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}
TEXTS = ["a bowl of fruits", "", "a cat"]


@pytest.fixture
def folder(tmp_path):
    """A copy of the micro model to damage."""
    return Path(shutil.copytree(MICRO, tmp_path / "model"))


def micro():
    """The micro model, compiled on first use for the shapes that several tests share."""
    return shared_load(MICRO)


@contextlib.contextmanager
def replaced(leaf, array):
    """A leaf of the shared model with other values for a while."""
    original = leaf.asnumpy().copy()
    leaf.set_data(ms.Tensor(array))
    try:
        yield
    finally:
        leaf.set_data(ms.Tensor(original))


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def values(model):
    return {
        (name, path): leaf.asnumpy()
        for name in ("text_encoder", "unet", "vae_encoder")
        for path, leaf in P.flatten(model.graphs[name].params).items()
    }


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def normal(seed, *shape):
    return ms.Tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


# ---- a whole model -------------------------------------------------------------------------------


def test_micro_model_runs():
    model = micro()
    assert (
        model.kernels == K.default_kernels()
        and model.dtype == "fp32"
        and model.configs.latent_channels == 4
    )
    assert model.configs.picture_size == 64
    states = model.encode_prompts(TEXTS)
    assert states.shape == (3, 77, 12) and states.dtype == ms.float32
    out = model.predict(normal(0, 3, 4, 8, 6), 481, states)
    assert out.shape == (3, 4, 8, 6) and out.dtype == ms.float32
    image = np.random.default_rng(1).uniform(-1, 1, (2, 3, 64, 48)).astype(np.float32)
    mean, log_variance = model.encode_image(image)
    assert mean.shape == log_variance.shape == (2, 4, 8, 6)
    assert model.decode_latents(mean).shape == (2, 3, 64, 48)


def test_results_are_those_of_the_pure_functions():
    """Ids, timestep and scale arrive where they should."""
    model = micro()
    ids = M.T.encode(model.tokenizer, TEXTS)
    want = clip.apply(
        model.graphs["text_encoder"].params, ms.Tensor(ids), model.configs.text, "reference"
    )
    states = model.encode_prompts(TEXTS)
    np.testing.assert_allclose(states.asnumpy(), want.asnumpy(), atol=2e-5)
    latents = normal(0, 3, 4, 8, 6)
    timesteps = ms.Tensor(np.array([77] * 3, np.int32))
    want = unet.apply(
        model.graphs["unet"].params, latents, timesteps, states, model.configs.unet, "cpu"
    )
    np.testing.assert_allclose(
        model.predict(latents, 77, states).asnumpy(), want.asnumpy(), atol=2e-5
    )


def test_an_evaluation_gives_deep_features_and_takes_them():
    """With those of the same latents it is the prediction, bit for bit; each row has its own, and
    they go on as they came."""
    model, (x, y) = micro(), (normal(seed, 3, 4, 8, 6) for seed in (0, 1))
    states = model.encode_prompts(TEXTS)
    wanted = model.predict(x, 481, states).asnumpy()
    predicted, deep = model.evaluate(x, 481, states)
    assert deep.shape[0] == 3 and deep.shape[2:] == (8, 6) and predicted.dtype == ms.float32
    again, same = model.evaluate(x, 481, states, deep)
    assert same is deep
    for found in (predicted, again):
        assert np.array_equal(found.asnumpy(), wanted)
    later = model.evaluate(y, 461, states, deep)[0].asnumpy()
    for i in range(3):
        row = slice(i, i + 1)
        alone = model.evaluate(y[row], 461, states[row], deep[row])[0].asnumpy()
        assert np.array_equal(later[row], alone)
    assert np.abs(later - model.predict(y, 461, states).asnumpy()).max() > 1e-4


def test_each_text_is_encoded_by_itself():
    model = micro()
    together = model.encode_prompts(TEXTS).asnumpy()
    for text, row in zip(TEXTS, together):
        assert np.array_equal(model.encode_prompts([text]).asnumpy()[0], row)
    assert np.abs(together[0] - together[2]).max() > 0.01


def test_each_picture_is_encoded_and_decoded_by_itself():
    model = micro()
    image = np.random.default_rng(1).uniform(-1, 1, (2, 3, 64, 48)).astype(np.float32)
    mean, log_variance = (m.asnumpy() for m in model.encode_image(image))
    for i in range(2):
        alone = model.encode_image(image[i : i + 1])
        assert np.array_equal(alone[0].asnumpy()[0], mean[i]) and np.array_equal(
            alone[1].asnumpy()[0], log_variance[i]
        )
    decoded = model.decode_latents(ms.Tensor(mean))
    assert np.array_equal(model.decode_latents(ms.Tensor(mean[1:]))[0], decoded[1])


@pytest.mark.parametrize("scaling_factor", (0.18215, 0.7))
def test_latents_are_scaled_once_and_unscaled_once(scaling_factor):
    """By the config's number, whatever it is."""
    model = copy.copy(micro())
    own = dataclasses.replace(model.configs.vae, scaling_factor=scaling_factor)
    model.configs = dataclasses.replace(model.configs, vae=own)
    mean, log_variance = normal(2, 1, 4, 8, 6), normal(3, 1, 4, 8, 6)
    scale = scaling_factor
    np.testing.assert_allclose(
        model.latents((mean, log_variance)).asnumpy(), scale * mean.asnumpy(), rtol=1e-6
    )
    noise = np.random.default_rng(4).standard_normal((1, 4, 8, 6))
    drawn = scale * (mean.asnumpy() + np.exp(log_variance.asnumpy() / 2) * noise)
    np.testing.assert_allclose(
        model.latents((mean, log_variance), noise).asnumpy(), drawn, atol=1e-5
    )
    want = M.vae.decode(
        model.graphs["vae_decoder"].params, mean, model.configs.vae, "cpu"
    ).asnumpy()
    np.testing.assert_allclose(
        model.decode_latents(model.latents((mean, log_variance))), want, atol=5e-5
    )


def test_skipping_layers_leaves_out_the_last():
    model = micro()
    skipped = model.encode_prompts(["a cat"], skip=1).asnumpy()
    ids = M.T.encode(model.tokenizer, ["a cat"])
    want = clip.apply(
        model.graphs["text_encoder"].params,
        ms.Tensor(ids),
        model.configs.text.without_last(1),
        "reference",
    )
    np.testing.assert_allclose(skipped, want.asnumpy(), atol=2e-5)
    assert np.abs(skipped - model.encode_prompts(["a cat"]).asnumpy()).max() > 0.01
    for skip in (2, -1):  # it has two layers
        refused(lambda: model.encode_prompts(["a cat"], skip=skip), "clip_skip", skip)


@pytest.mark.parametrize(
    "component, path",
    [
        ("unet", "mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight"),
        ("text_encoder", "text_model.encoder.layers.0.mlp.fc1.weight"),
    ],
)
def test_a_changed_weight_changes_the_compiled_graph(component, path):
    model = micro()

    def run():
        states = model.encode_prompts(TEXTS)
        return (
            states.asnumpy()
            if component == "text_encoder"
            else model.predict(normal(0, 3, 4, 8, 6), 481, states).asnumpy()
        )

    leaf = P.flatten(model.graphs[component].params)[path]
    before = run()
    with replaced(leaf, -leaf.asnumpy()):
        changed = run()
    assert np.abs(changed - before).max() > 1e-3
    assert np.array_equal(run(), before)


def test_compilation_is_announced_once_for_each_shape():
    model, told = Model.load(MICRO), []
    model.on_compile = told.append
    for texts in (["a"], ["b", "c"]):
        model.encode_prompts(texts)
    assert told == ["compiling text_encoder", ""]


def test_the_autoencoder_is_compiled_when_it_is_called_often(monkeypatch):
    """Before and after: the same bits. Each shape is counted by itself."""
    model, told = Model.load(MICRO), []
    monkeypatch.setattr(model, "_before", dict.fromkeys(model._before, 2))
    model.on_compile = told.append
    latents, image = normal(3, 1, 4, 5, 3), np.tanh(normal(4, 1, 3, 24, 40).asnumpy())
    for name, function in (
        ("vae_decoder", lambda: model.decode_latents(latents)),
        ("vae_encoder", lambda: [m.asnumpy() for m in model.encode_image(image)]),
    ):
        found = []
        for _ in range(4):
            found.append((np.array(function()), len(told)))
        assert [count for _, count in found] == [0, 0, 2, 2]
        assert all(np.array_equal(values, found[0][0]) for values, _ in found)
        assert told == [f"compiling {name}", ""]
        told.clear()
    model.decode_latents(normal(3, 1, 4, 3, 5))
    assert not told


def test_the_autoencoder_of_a_large_picture_is_compiled_at_once(monkeypatch):
    """24 x 40 pixels times the square of the fewest channels, both ways."""
    model, told = Model.load(MICRO), []
    model.on_compile = told.append
    work = 24 * 40 * min(model.configs.vae.block_out_channels) ** 2
    image, latents = np.zeros((1, 3, 24, 40), np.float32), normal(3, 1, 4, 3, 5)
    for limit, compiled in ((work + 1, []), (work, ["vae_decoder", "vae_encoder"])):
        monkeypatch.setattr(M, "LARGE", limit)
        model.decode_latents(latents)
        model.encode_image(image)
        assert told == [text for name in compiled for text in (f"compiling {name}", "")]


def test_only_fp32_on_a_cpu_waits_with_compiling():
    assert M.CALLS_BEFORE == {("cpu", "fp32"): Model.load(MICRO)._before}
    assert (
        not Model.load(MICRO, "fp16")._before and not Model.load(MICRO, kernels="reference")._before
    )


@pytest.mark.parametrize(
    "component, path, run",
    [
        (
            "text_encoder",
            "text_model.encoder.layers.1.mlp.fc2.weight",
            lambda m: m.encode_prompts(["a cat"]),
        ),
        (
            "unet",
            "down_blocks.1.resnets.0.norm1.weight",
            lambda m: m.predict(normal(0, 3, 4, 8, 6), 481, normal(1, 3, 77, 12)),
        ),
    ],
)
def test_nan_at_run_time_names_the_layer_and_the_remedy(component, path, run):
    model = micro()
    leaf = P.flatten(model.graphs[component].params)[path]
    damaged = leaf.asnumpy().copy()
    damaged.flat[0] = np.inf
    with replaced(leaf, damaged):
        refused(lambda: run(model), component, path, "fp32", "check the weights")
    run(model)


def test_overflow_in_half_precision_asks_for_full_precision():
    model = Model.load(MICRO, dtype="fp16")
    leaf = P.flatten(model.graphs["text_encoder"].params)[
        "text_model.encoder.layers.1.mlp.fc2.bias"
    ]
    assert leaf.dtype == ms.float16
    assert np.isfinite(model.encode_prompts(["a cat"]).asnumpy()).all()
    leaf.set_data(ms.Tensor(np.full(leaf.shape, np.inf, np.float16)))
    refused(lambda: model.encode_prompts(["a cat"]), "text_encoder", "fc2", "fp16", "--dtype fp32")


def test_the_shipped_model():
    model = shipped()
    assert hub.find(M.ORCHARD) == M.ORCHARD
    assert model.configs.scheduler.prediction_type in ("epsilon", "v_prediction")
    states = model.encode_prompts(["a bowl of apples", "a bowl of pears"]).asnumpy()
    assert np.abs(states[0] - states[1]).max() > 0.1 and np.isfinite(states).all()


def test_describe():
    told = M.describe(MICRO)
    assert told["parameters"] == {
        c: sum(v.size for v in load_file(MICRO / c / f"{base}.safetensors").values())
        for c, base in WEIGHTS.items()
    }
    assert told["files"] == {c: [f"{base}.safetensors"] for c, base in WEIGHTS.items()}
    assert (
        told["prediction_type"] == "v_prediction"
        and told["picture_size"] == 64
        and told["folder"] == str(MICRO)
    )


# ---- what is missing or does not fit -------------------------------------------------------------


@pytest.mark.parametrize("component", [*WEIGHTS, "tokenizer", "scheduler"])
def test_missing_component(folder, component):
    shutil.rmtree(folder / component)
    refused(lambda: Model.load(folder), folder / component)


@pytest.mark.parametrize(
    "file",
    ["scheduler/scheduler_config.json", *(f"{component}/config.json" for component in WEIGHTS)],
)
def test_missing_or_damaged_config(folder, file):
    (folder / file).write_text("{")
    refused(lambda: Model.load(folder), folder / file, "JSON")
    (folder / file).unlink()
    refused(lambda: Model.load(folder), folder / file, "missing")


@pytest.mark.parametrize("component", WEIGHTS)
def test_missing_weights(folder, component):
    file = folder / component / f"{WEIGHTS[component]}.safetensors"
    file.rename(file.with_suffix(".bin"))
    refused(
        lambda: Model.load(folder),
        folder / component,
        file.name,
        file.with_suffix(".bin").name,
        "only safetensors",
    )
    file.with_suffix(".bin").unlink()
    refused(lambda: Model.load(folder), folder / component, file.name)


def test_missing_model_index(folder):
    refused(lambda: Model.load(folder / "unet"), folder / "unet", "model_index.json", "top folder")
    (folder / "model_index.json").unlink()
    refused(lambda: Model.load(folder), folder, "model_index.json", "top folder")


@pytest.mark.parametrize(
    "content",
    ["[]", "3", "{}", *(f'{{"unet": {v}}}' for v in ('"x"', "3", "[]", "[null, null]", "{}"))],
)
def test_model_index_of_something_else(folder, content):
    index = json.loads((folder / "model_index.json").read_text())
    value = json.loads(content)
    (folder / "model_index.json").write_text(
        json.dumps(index | value) if value and isinstance(value, dict) else content
    )
    refused(lambda: Model.load(folder), folder / "model_index.json", "lists no")


def test_source_that_is_no_folder(folder, tmp_path):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    refused(lambda: Model.load(file), file, "is a file", f"top folder {folder}")
    for source in (
        tmp_path / "none",
        "no/such/folder",
        "./none",
        "none",
        "~/none-of-it/x",
        "a b/c",
    ):
        refused(lambda: Model.load(source), source)


def test_components_of_different_models(folder):
    index = (folder / "text_encoder/config.json").read_text()
    change(folder / "text_encoder/config.json", hidden_size=16)
    refused(lambda: Model.load(folder), "cross_attention_dim", 12, "hidden_size", 16)
    (folder / "text_encoder/config.json").write_text(index)
    change(folder / "unet/config.json", in_channels=9)
    refused(lambda: Model.load(folder), 9, "inpainting")


def test_weights_of_another_model(folder):
    change(folder / "unet/config.json", layers_per_block=2)
    refused(lambda: Model.load(folder), "missing: down_blocks.0.resnets.1", "config.json")


def test_tokenizer_of_another_model(folder):
    change(folder / "tokenizer/tokenizer_config.json", model_max_length=78)
    refused(lambda: Model.load(folder), 78, 77)
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(
        MICRO.parent.parent / "tokenizer" / "reduced", folder / "tokenizer"
    )  # it has more tokens
    refused(lambda: Model.load(folder), "tokenizer", "vocab_size", "different models")


def test_options_that_there_are_not():
    refused(lambda: Model.load(MICRO, kernels="cuda"), "'cuda'", *K.LOWERINGS)
    refused(lambda: Model.load(MICRO, dtype="int8"), "'int8'", *P.DTYPES)
    refused(lambda: Model.load(MICRO, dtype="bf16"), "bf16", "CPU", "fp32")


# ---- weight files --------------------------------------------------------------------------------


def shard(folder, component, parts=3, variant=""):
    """Replace a component's weights by shards and their index."""
    base = WEIGHTS[component]
    file = folder / component / f"{base}.safetensors"
    content, weight_map = load_file(file), {}
    file.unlink()
    for i in range(parts):
        name = f"{base}{variant}-{i + 1:05}-of-{parts:05}.safetensors"
        part = {k: content[k] for k in sorted(content)[i::parts]}
        save_file(part, folder / component / name)
        weight_map |= dict.fromkeys(part, name)
    index = folder / component / f"{base}.safetensors.index{variant}.json"
    index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
    return index


def test_sharded_weights_are_the_same_model(folder):
    whole = values(Model.load(folder))
    shard(folder, "unet")
    shard(folder, "text_encoder", 2)
    assert equal(values(Model.load(folder)), whole)


def test_missing_shard(folder):
    index = shard(folder, "unet")
    gone = sorted(set(json.loads(index.read_text())["weight_map"].values()))[1]
    (index.parent / gone).unlink()
    refused(lambda: Model.load(folder), index.parent / gone, "missing")


@pytest.mark.parametrize(
    "name", ["../text_encoder/model.safetensors", "/etc/passwd", "..", "", "sub/x.safetensors"]
)
def test_index_that_points_outside_its_folder(folder, name):
    index = shard(folder, "unet")
    content = json.loads(index.read_text())
    content["weight_map"]["conv_in.weight"] = name
    index.write_text(json.dumps(content))
    refused(lambda: Model.load(folder), index, repr(name), "outside")


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "3"])
def test_index_without_a_map(folder, content):
    shard(folder, "vae").write_text(content)
    refused(lambda: Model.load(folder), "index.json", "weight_map")


def double(folder, component, suffix):
    """A second file of a component's weights, all twice as large."""
    file = folder / component / f"{WEIGHTS[component]}.safetensors"
    save_file(
        {k: v * 2 for k, v in load_file(file).items()}, file.with_suffix(suffix + ".safetensors")
    )


def test_variant_follows_the_dtype(folder):
    double(folder, "unet", ".fp16")

    def first(dtype, variant=None):
        return P.flatten(Model.load(folder, dtype, variant=variant).graphs["unet"].params)[
            "conv_in.weight"
        ].asnumpy()

    full, half = first("fp32"), first("fp16")
    np.testing.assert_array_equal(first("fp32", "fp16"), 2 * full)
    assert full.dtype == np.float32 and half.dtype == np.float16
    np.testing.assert_array_equal(half, 2 * full)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    np.testing.assert_array_equal(first("fp32"), 2 * full)  # either takes what there is


@pytest.mark.parametrize(
    "half, names, wanted",
    [
        (False, ["m.safetensors", "m.fp16.safetensors", "m.bin"], ["m.safetensors"]),
        (True, ["m.safetensors", "m.fp16.safetensors"], ["m.fp16.safetensors"]),
        (True, ["m.safetensors", "m.bin"], ["m.safetensors"]),
        (False, ["m.fp16.safetensors"], ["m.fp16.safetensors"]),
        (False, ["m.bin", "m.fp16.bin", "m.non_ema.safetensors", "other.safetensors"], None),
        (False, [], None),
        (
            False,
            [
                "m.safetensors.index.json",
                "m-00002-of-00002.safetensors",
                "m-00001-of-00002.safetensors",
                "m.fp16-00001-of-00002.safetensors",
                "m.safetensors",
            ],
            [
                "m.safetensors.index.json",
                "m-00001-of-00002.safetensors",
                "m-00002-of-00002.safetensors",
            ],
        ),
        (
            True,
            [
                "m.safetensors.index.fp16.json",
                "m.fp16-00001-of-00001.safetensors",
                "m-00001-of-00001.safetensors",
                "m.safetensors.index.json",
            ],
            ["m.safetensors.index.fp16.json", "m.fp16-00001-of-00001.safetensors"],
        ),
    ],
)
def test_choice_of_weights(half, names, wanted):
    assert choose_weights(names, "m", half) == wanted


def test_sharded_variant(folder):
    whole = values(Model.load(folder, "fp16"))
    shard(folder, "unet", 2, ".fp16")
    assert equal(values(Model.load(folder, "fp16")), whole)


# ---- running -------------------------------------------------------------------------------------


def test_a_row_does_not_depend_on_its_batch(monkeypatch, folder):
    """On a CPU: to the last bit, since by default each row runs by itself."""
    model, rng = Model.load(folder), np.random.default_rng(0)
    latents, states = [
        ms.Tensor(rng.standard_normal(shape).astype(np.float32))
        for shape in ((3, 4, 6, 8), (3, 7, model.configs.text.hidden_size))
    ]
    batches = []
    monkeypatch.setattr(
        model,
        "_run",
        lambda name, *inputs: batches.append(len(inputs[0])) or Model._run(model, name, *inputs),
    )
    parts = model.predict(latents, 481, states).asnumpy()
    alone = model.predict(latents[2:], 481, states[2:]).asnumpy()
    assert (
        batches == [1, 1, 1, 1] and parts.shape == (3, 4, 6, 8) and np.array_equal(parts[2:], alone)
    )


@given(rows=st.integers(1, 40), cells=st.integers(1, 9000), limit=st.sampled_from((0, 1, 48, 4096)))
def test_rows_at_once(rows, cells, limit):
    """A divisor of the batch, the largest within the limit, but at least one; without a limit the
    whole batch."""
    some = memory.rows_at_once(rows, cells, limit)
    fitting = [n for n in range(1, rows + 1) if rows % n == 0 and (not limit or n * cells <= limit)]
    assert some == max(fitting, default=1)


def test_default_cells():
    """A table of one's own is for the device that runs it; where a process makes many edits, a CPU
    takes latents together."""
    assert memory.default_cells("cpu") == 1
    assert memory.default_cells("cpu", memory.CELLS_OF_MANY) == 4096
    for name in ("reference", *K.UNTRIED):
        assert memory.default_cells(name, memory.CELLS_OF_MANY) == memory.default_cells(name)
    assert memory.default_cells("reference") == 0 < memory.default_cells("ascend")
    for own in ({}, None):
        assert memory.default_cells(own) == memory.default_cells(K.default_kernels())


def half_layer_norm(x, weight, bias, eps):
    """A kernel of one's own: another function, so that its use shows."""
    return K.reference.layer_norm(x, weight, bias, eps) / 2


def test_kernels_of_ones_own():
    """Through `load` into the compiled graphs; a table that is not one is refused."""
    table = {**K.LOWERINGS["cpu"], "layer_norm": half_layer_norm}
    model = Model.load(MICRO, kernels=table)
    assert all(graph.static[-1] is table for graph in model.graphs.values())
    ids, text = ms.Tensor(M.T.encode(model.tokenizer, ["a cat"])), model.configs.text
    params = model.graphs["text_encoder"].params
    want = clip.apply(params, ids, text, {**K.REFERENCE, "layer_norm": half_layer_norm}).asnumpy()
    found = model.encode_prompts(["a cat"]).asnumpy()
    np.testing.assert_allclose(found, want, atol=2e-5)
    assert np.abs(found - micro().encode_prompts(["a cat"]).asnumpy()).max() > 0.1
    refused(lambda: Model.load(MICRO, kernels={"silu": len}), "table of kernels", "conv2d")


# ---- the hub -------------------------------------------------------------------------------------

LISTING = [
    ".gitattributes",
    "README.md",
    "model_index.json",
    "feature_extractor/preprocessor_config.json",
    "v2-1.ckpt",
    "v2-1.safetensors",
    "scheduler/scheduler_config.json",
    "safety_checker/config.json",
    "safety_checker/model.safetensors",
    *(
        f"tokenizer/{n}"
        for n in (
            "merges.txt",
            "vocab.json",
            "special_tokens_map.json",
            "tokenizer_config.json",
            "extra.bin",
        )
    ),
    *(
        f"{c}/{n}"
        for c, b in WEIGHTS.items()
        for n in (
            "config.json",
            f"{b}.bin",
            f"{b}.fp16.bin",
            f"{b}.safetensors",
            f"{b}.fp16.safetensors",
        )
    ),
]


def offline(monkeypatch, listing, snapshot):
    """A hub without a network: what it lists, and what a download does."""
    monkeypatch.setattr(hub, "_listing", lambda repository, revision: listing(repository))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)


def failing(error):
    def call(*args, **kwargs):
        raise error

    return call


@pytest.mark.parametrize("dtype, variant", [("fp32", ""), ("fp16", ".fp16")])
def test_only_what_is_needed_is_fetched(monkeypatch, folder, dtype, variant):
    asked = []

    def snapshot(repository, allow_patterns, revision, cache_dir):
        asked.append((repository, allow_patterns))
        return str(folder)

    offline(monkeypatch, lambda repository: LISTING, snapshot)
    model = Model.load("someone/some-model", dtype)
    assert equal(values(model), values(Model.load(folder, dtype)))
    ((repository, wanted),) = asked
    assert repository == "someone/some-model" and len(wanted) == len(set(wanted))
    assert set(wanted) == {
        "model_index.json",
        "scheduler/scheduler_config.json",
        *(f"{c}/config.json" for c in WEIGHTS),
        *(
            f"tokenizer/{n}"
            for n in (
                "merges.txt",
                "vocab.json",
                "special_tokens_map.json",
                "tokenizer_config.json",
            )
        ),
        *(f"{c}/{b}{variant}.safetensors" for c, b in WEIGHTS.items()),
    }


def test_repository_without_safetensors(monkeypatch):
    names = [n for n in LISTING if not (n.startswith("unet/") and n.endswith(".safetensors"))]
    offline(
        monkeypatch,
        lambda repository: names,
        failing(AssertionError("nothing is to be downloaded")),
    )
    refused(lambda: Model.load("someone/some-model"), "unet/", "safetensors")


@pytest.mark.parametrize(
    "error", [ConnectionError("no route"), TimeoutError(), OSError("proxy"), ValueError("page")]
)
def test_no_network(monkeypatch, error):
    offline(monkeypatch, failing(error), failing(error))
    refused(
        lambda: Model.load("someone/some-model"),
        "someone/some-model",
        type(error).__name__,
        "cache",
        "folder",
    )


def test_no_network_but_a_cached_copy(monkeypatch, folder):
    def snapshot(repository, local_files_only=False, **_):
        if not local_files_only:
            raise ConnectionError
        return str(folder)

    offline(monkeypatch, failing(ConnectionError()), snapshot)
    assert hub.find("someone/some-model") == folder


def test_unknown_repository(monkeypatch):
    class Response:
        status_code, headers, request, text = 404, {}, None, ""

    error = huggingface_hub.errors.RepositoryNotFoundError("404", response=Response())
    offline(monkeypatch, failing(error), failing(error))
    refused(lambda: Model.load("someone/typo"), "someone/typo", "no public model", "check the name")


# ---- the warning about slow convolutions ---------------------------------------------------------


@pytest.mark.parametrize(
    "version, kernels, warns",
    [
        ("2.7.0", "cpu", False),
        ("2.8.0", "cpu", False),
        ("2.9.0", "cpu", True),
        ("2.10.0", "cpu", True),
        ("3.0.0rc1", "cpu", True),
        ("2.9.0", "reference", False),
        ("2.9.0", "ascend", False),
    ],
)
def test_warning_of_slow_convolutions(monkeypatch, recwarn, version, kernels, warns):
    monkeypatch.setattr(ms, "__version__", version)
    M.warn_of_slow_convolution(kernels)
    assert [f"MindSpore {version}" in str(w.message) for w in recwarn] == [True] * warns


def test_traces_load_each_model_once_by_any_of_its_names():
    """The script that holds two states of the code against each other loads as the product does."""
    asked = []

    def load(folder, dtype="fp32", kernels=None, **others):
        asked.append((folder, dtype, kernels, others))
        return len(asked)

    loaded = traces.cached(load)
    for source in (MICRO, str(MICRO), M.check(MICRO)):
        assert loaded(source, on_component=print, variant=None, hf32=False) == 1
    assert loaded(MICRO, dtype="fp16", variant="fp16", hf32=False) == 2
    assert {name for *_, others in asked for name in others} == {"variant", "hf32"}
    inspect.signature(Model.load).bind("folder", "fp32", None, **asked[0][3])
