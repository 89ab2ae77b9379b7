"""The Orchard's training: one step against numpy, resuming, checkpoints, gradients of the UNet, the
written model."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given, strategies as st
from mindspore import nn
from PIL import Image

from benchmarks.orchard import classifier, data, layout, steps as stepping, train, world as W
from diffedit_core import clip, kernels as K, model as M, params as P, tokenizer, unet, vae
from diffedit_core.config import TextConfig, UNetConfig, VAEConfig
from diffedit_core.errors import InputError
from diffedit_core.graphs import Graph

TREE = {"a": P.linear(3, 4), "b": P.linear(4, 2)}
TOTAL, PEAK = 20, 0.05


def weights(seed=0, specs=TREE):
    rng = np.random.default_rng(seed)
    return P.tree_map(lambda _, leaf: rng.standard_normal(leaf.shape).astype(np.float32), specs)


def loss(params, x, y, kernels):
    error = K.linear(params["b"], K.linear(params["a"], x, kernels), kernels) - y
    return (error * error).mean()


def batch(step):
    rng = np.random.default_rng([7, step])
    return rng.standard_normal((5, 3)).astype(np.float32), rng.standard_normal((5, 2)).astype(
        np.float32
    )


@pytest.fixture(scope="module")
def compiled():
    """One compiled step for all tests of this file, and the state that it starts from."""
    train_step = stepping.TrainStep(loss, P.to_parameters(weights()), "cpu")
    return train_step, train_step.arrays()


@pytest.fixture
def fresh(compiled):
    train_step, start = compiled
    train_step.restore(start)
    return train_step


def run(train_step, path, steps=TOTAL, until_step=None, batch=batch, **more):
    """The loop, ended by SIGTERM during step `until_step`, as a machine that shuts down would."""

    def stopping(step):
        if step == until_step:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(step)

    return stepping.run(
        train_step, stopping, path, {"seed": 7}, steps, PEAK, log=lambda line: None, **more
    )


# ---- one step ------------------------------------------------------------------------------------


def adamw(tree, history):
    """(params, ema) after the steps of `history`, each (step, gradients), in float64 (Loshchilov &
    Hutter 2019, algorithm 2)."""
    flat = {path: leaf.astype(np.float64) for path, leaf in P.flatten(tree).items()}
    first, second = [{path: np.zeros(leaf.shape) for path, leaf in flat.items()} for _ in range(2)]
    ema = dict(flat)
    for step, gradients in history:
        norm = math.sqrt(sum((g**2).sum() for g in gradients.values()))
        rate = (
            PEAK
            * min(1, (step + 1) / 200)
            * (0.05 + 0.95 * (0.5 + 0.5 * math.cos(math.pi * step / TOTAL)))
        )
        for path, g in gradients.items():
            g = g / max(norm, 1)
            first[path] = 0.9 * first[path] + 0.1 * g
            second[path] = 0.99 * second[path] + 0.01 * g**2
            mean, square = first[path] / (1 - 0.9 ** (step + 1)), second[path] / (
                1 - 0.99 ** (step + 1)
            )
            decay = (
                rate
                * math.sqrt(1 - 0.99 ** (step + 1))
                / (1 - 0.9 ** (step + 1))
                * 0.01
                * flat[path]
            )
            flat[path] = flat[path] - rate * mean / np.sqrt(square) - decay
            ema[path] = ema[path] + (1 - min(0.999, (1 + step) / (10 + step))) * (
                flat[path] - ema[path]
            )
        yield {path: leaf.copy() for path, leaf in flat.items()}, dict(ema)


def gradients(flat, x, y):
    """Of the two linear layers, by hand."""
    h = x @ flat["a.weight"].T + flat["a.bias"]
    d = 2 * (h @ flat["b.weight"].T + flat["b.bias"] - y) / y.size
    back = d @ flat["b.weight"]
    return {"a.weight": back.T @ x, "a.bias": back.sum(0), "b.weight": d.T @ h, "b.bias": d.sum(0)}


def test_a_step_is_adamw_on_clipped_gradients(fresh):
    """Six steps against float64: weights, average and the gradient's norm."""
    flat = {path: leaf.astype(np.float64) for path, leaf in P.flatten(weights()).items()}
    history = []
    for step in range(6):
        wanted = gradients(flat, *batch(step))
        _, norm = fresh(stepping.rates(step, TOTAL, PEAK), *batch(step))
        assert norm == pytest.approx(
            math.sqrt(sum((g**2).sum() for g in wanted.values())), rel=1e-4
        )
        history.append((step, wanted))
        *_, (flat, ema) = adamw(weights(), history)
        found = fresh.arrays()
        for path in flat:
            np.testing.assert_allclose(
                found["params." + path], flat[path], rtol=1e-4, atol=1e-5, err_msg=path
            )
            np.testing.assert_allclose(
                found["ema." + path], ema[path], rtol=1e-4, atol=1e-5, err_msg=path
            )


def test_frozen_leaves_stay_and_the_others_learn():
    train_step = stepping.TrainStep(loss, P.to_parameters(weights()), "cpu", frozen=("a.",))
    before = train_step.arrays()
    assert not any(name.startswith(("first.a", "second.a", "ema.a")) for name in before)
    train_step(stepping.rates(0, TOTAL, PEAK), *batch(0))
    after = train_step.arrays()
    for name in before:
        assert np.array_equal(before[name], after[name]) == name.startswith("params.a"), name
    assert np.array_equal(
        P.flatten(train_step.average())["a.weight"].asnumpy(), before["params.a.weight"]
    )


@given(st.integers(0, 5000), st.integers(1, 5000), st.floats(1e-5, 1e-2))
def test_rates_stay_between_zero_and_the_peak(step, total, peak):
    rate, forget = stepping.rates(step, total, peak)
    correction = math.sqrt(1 - stepping.BETAS[1] ** (step + 1)) / (
        1 - stepping.BETAS[0] ** (step + 1)
    )
    assert 0 < rate <= peak * correction * (1 + 1e-6)
    assert 1 - stepping.EMA_DECAY - 1e-6 <= forget <= 0.9 + 1e-6


# ---- the loop and its checkpoints ----------------------------------------------------------------


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(fresh, compiled, tmp_path):
    whole = run(fresh, tmp_path / "whole.safetensors")
    expected = fresh.arrays()
    fresh.restore(compiled[1])
    losses = []
    for stop in (3, 4, 11, None):
        losses += run(fresh, tmp_path / "parts.safetensors", until_step=stop)
        fresh.restore(compiled[1])  # a new process knows nothing
    assert losses == whole and len(whole) == TOTAL
    run(fresh, tmp_path / "parts.safetensors")
    found = fresh.arrays()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert stepping.read_weights(tmp_path / "parts.safetensors")[0].step == TOTAL


def test_two_runs_of_one_seed_give_the_same_losses(fresh, compiled, tmp_path):
    first = run(fresh, tmp_path / "1.safetensors")
    fresh.restore(compiled[1])
    assert run(fresh, tmp_path / "2.safetensors") == first and len(set(first)) == TOTAL


@pytest.mark.parametrize("place", ["before writing", "half written", "before renaming"])
def test_a_process_killed_while_saving_leaves_the_last_checkpoint(
    fresh, tmp_path, monkeypatch, place
):
    """What a kill can interrupt: nothing of the new file, a part of it, all of it under its
    temporary name."""
    path = tmp_path / "c.safetensors"
    run(fresh, path, until_step=5)
    good = path.read_bytes()

    class Killed(BaseException):
        pass

    def save_file(arrays, name, metadata):
        if place != "before writing":
            with open(name, "wb") as handle:
                handle.write(good if place == "before renaming" else good[: len(good) // 2])
        if place != "before renaming":
            raise Killed

    def replace(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(stepping, "save_file", save_file)
        patch.setattr(stepping.os, "replace", replace)
        with pytest.raises(Killed):
            run(fresh, path)
    assert path.read_bytes() == good
    assert stepping.read_weights(path)[0].step == 6
    assert len(run(fresh, path)) == TOTAL - 6


def test_a_checkpoint_of_another_run_is_refused(fresh, tmp_path):
    path = tmp_path / "c.safetensors"
    run(fresh, path, steps=1)
    with pytest.raises(InputError, match="another seed"):
        stepping.load_checkpoint(path, fresh, {"seed": 8})
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="c.safetensors"):
        stepping.read_weights(path)


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(fresh, tmp_path):
    path = tmp_path / "c.safetensors"
    run(fresh, path, until_step=2)
    with pytest.raises(InputError, match="step 5"):
        run(
            fresh,
            path,
            batch=lambda step: tuple(x * (np.nan if step == 5 else 1) for x in batch(step)),
        )
    assert stepping.read_weights(path)[0].step == 3


def test_the_handlers_of_signals_come_back(fresh, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    run(fresh, tmp_path / "c.safetensors", until_step=0)
    assert signal.getsignal(signal.SIGTERM) is before


# ---- gradients of the real losses ----------------------------------------------------------------


class Both(nn.Cell):
    """Value and gradients as one graph, in which a changed leaf is seen."""

    def __init__(self, graph):
        super().__init__(auto_prefix=False)
        self.gradient = ms.value_and_grad(graph, None, graph.leaves)

    def construct(self, *inputs):
        return self.gradient(*inputs)


def slopes_agree(function, specs, inputs, static, directions=10, step=1e-2, rtol=2e-2):
    """value_and_grad against central differences along random directions, one leaf or all leaves at
    a time."""
    rng = np.random.default_rng(3)
    arrays = P.init(specs, rng)
    graph = Graph(function, P.to_parameters(arrays), *static)
    both, tensors = Both(graph), tuple(map(ms.Tensor, inputs))
    found = {
        path: g.asnumpy().astype(np.float64)
        for path, g in zip(P.flatten(arrays), both(*tensors)[1])
    }
    leaves, start = P.flatten(graph.params), {
        path: leaf.copy() for path, leaf in P.flatten(arrays).items()
    }
    paths = list(start)
    for i in range(directions):
        chosen = (
            paths
            if i == 0
            else [paths[j] for j in rng.choice(len(paths), len(paths) // 4, replace=False)]
        )
        way = {path: rng.standard_normal(start[path].shape) for path in chosen}
        length = math.sqrt(sum((w**2).sum() for w in way.values()))
        values = []
        for sign in (1, -1):
            for path, w in way.items():
                leaves[path].set_data(
                    ms.Tensor((start[path] + sign * step / length * w).astype(np.float32))
                )
            values.append(float(both(*tensors)[0].asnumpy()))
        for path in way:
            leaves[path].set_data(ms.Tensor(start[path]))
        numeric = (values[0] - values[1]) / (2 * step)
        exact = sum((found[path] * w).sum() for path, w in way.items()) / length
        scale = math.sqrt(
            sum((found[path] ** 2).sum() for path in way) / sum(w.size for w in way.values())
        )
        assert numeric == pytest.approx(exact, rel=rtol, abs=rtol * scale + 2e-5), i


def test_gradients_of_the_unet_and_its_text_encoder():
    """Of the loss that trains the model, at a small size: resnets, both samplers, both attentions,
    the time embedding."""
    text = TextConfig(
        vocab_size=11,
        hidden_size=6,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=5,
        hidden_act="gelu",
    )
    config = UNetConfig(
        sample_size=6,
        block_out_channels=(4, 6),
        layers_per_block=1,
        attention_head_dim=(2, 3),
        cross_attention_dim=6,
        use_linear_projection=True,
        norm_num_groups=2,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    rng = np.random.default_rng(1)
    latents, noise = rng.standard_normal((2, 3, 4, 6, 6)).astype(np.float32)
    angles = rng.uniform(0.2, 1.3, (1, 3, 1, 1, 1))
    levels = np.concatenate((np.cos(angles), np.sin(angles))).astype(np.float32)
    inputs = (
        latents,
        noise,
        levels,
        np.array((3, 400, 900), np.int32),
        rng.integers(11, size=(3, 5)).astype(np.int32),
    )
    slopes_agree(
        train.unet_loss, {**clip.specs(text), **unet.specs(config)}, inputs, (text, config, "cpu")
    )


def test_both_backends_make_the_same_step():
    """One loss and one update; PyTorch's convolutions are in bfloat16. Their checkpoints have the
    same leaves."""
    pytest.importorskip("torch", reason="extra `train`")
    pytest.importorskip("diffusers", reason="extra `train`")
    from benchmarks.orchard.torch_steps import vae_step

    specs, rng = vae.specs(layout.VAE), np.random.default_rng(0)
    start = P.init(specs, rng)
    image, noise = rng.uniform(-1, 1, (2, 3, 32, 32)).astype(np.float32), rng.standard_normal(
        (2, 4, 4, 4)
    ).astype(np.float32)
    one = vae_step(train.vae_terms, start, frozen=("encoder.",))
    two = stepping.TrainStep(
        train.vae_loss, P.to_parameters(start), layout.VAE, "cpu", frozen=("encoder.",)
    )
    own = data.own_cells(rng, 2, 4, 1.0)
    found, wanted = [
        step(stepping.rates(0, 9, 1e-3), image, data.exchanged(image, own), noise, own)
        for step in (one, two)
    ]
    assert found == pytest.approx(wanted, rel=0.03)
    a, b = one.arrays(), two.arrays()
    assert {name: x.shape for name, x in a.items()} == {name: x.shape for name, x in b.items()}
    firsts = [
        np.concatenate([x[name].ravel() for name in sorted(x) if name.startswith("first.")])
        for x in (a, b)
    ]
    assert np.corrcoef(*firsts)[0, 1] > 0.995
    one.restore(b)
    assert all(np.array_equal(one.arrays()[name], b[name]) for name in b)


@pytest.mark.parametrize("cells", (8, 12))
def test_both_backends_make_the_same_step_of_the_unet(cells):
    """Loss and norm of the gradient on the same weights and draws, up to rounding."""
    pytest.importorskip("torch", reason="extra `train`")
    pytest.importorskip("diffusers", reason="extra `train`")
    from benchmarks.orchard.torch_steps import unet_step

    config, text, rng = layout.UNET, layout.text_config(), np.random.default_rng(0)
    start = P.init({**clip.specs(text), **unet.specs(config)}, rng)
    latents, noise = rng.standard_normal((2, 2, 4, cells, cells)).astype(np.float32)
    angles = rng.uniform(0.2, 1.3, (1, 2, 1, 1, 1))
    levels = np.concatenate((np.cos(angles), np.sin(angles))).astype(np.float32)
    ids = np.full((2, 77), text.vocab_size - 1, np.int32)
    ids[:, :9] = rng.integers(text.vocab_size - 1, size=(2, 9))
    inputs = (latents, noise, levels, np.array((3, 700), np.int32), ids)
    ours = stepping.TrainStep(train.unet_loss, P.to_parameters(start), text, config, "cpu")
    wanted = ours(stepping.rates(0, 9, 1e-3), *inputs)
    exact = unet_step(start, text, config, narrow=False)
    assert exact(stepping.rates(0, 9, 1e-3), *inputs) == pytest.approx(wanted, rel=2e-4)
    assert set(exact.arrays()) == set(ours.arrays())
    narrow = unet_step(start, text, config)
    assert narrow(stepping.rates(0, 9, 1e-3), *inputs) == pytest.approx(wanted, rel=0.03)


class Averaged:
    """A step whose averaged weights are these."""

    def __init__(self, specs):
        self.weights = P.init(specs, np.random.default_rng(0))

    def average(self):
        return self.weights


def test_the_judges_write_their_sheets(tmp_path, monkeypatch):
    """Round trips of validation pictures, and samples of every caption that is shown."""
    narrow = VAEConfig(
        block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2, sample_size=128
    )
    small = UNetConfig(
        sample_size=4,
        block_out_channels=(4, 6),
        layers_per_block=1,
        attention_head_dim=(2, 3),
        cross_attention_dim=layout.UNET.cross_attention_dim,
        use_linear_projection=True,
        norm_num_groups=2,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    monkeypatch.setattr(layout, "VAE", narrow)
    monkeypatch.setattr(layout, "UNET", small)
    lines = []
    train.VAEJudge(Averaged(vae.specs(narrow)), narrow, count=2).report(lines.append, tmp_path, 3)
    assert "psnr" in lines[0] and (tmp_path / "vae-000003.png").exists()
    specs = {**clip.specs(layout.text_config()), **unet.specs(small)}
    layout.write_tokenizer(tmp_path / "tokenizer")
    decoder = P.to_parameters(Averaged(vae.specs(narrow)).weights)
    known = SimpleNamespace(params=decoder, scaling_factor=0.5)
    tokens = SimpleNamespace(tokenizer=tokenizer.load(tmp_path / "tokenizer"))
    judge = train.UNetJudge(Averaged(specs), specs, known, tokens, sizes=(32,), steps=2)
    judge.report(lines.append, tmp_path, 7)
    with Image.open(tmp_path / "unet-32-000007.png") as sheet:
        assert sheet.width >= 32 * len(train.SHOWN) and sheet.height >= 32
    assert "samples" in lines[1]


@pytest.mark.parametrize("threads", (0, 3))
def test_batches_drawn_ahead_come_in_their_order(threads):
    """Those of later steps may be ready before; what a step raises is raised at its turn."""

    def slow(step):
        time.sleep(0.02 * (step % 3 == 0))
        return 1 / (step - 9)

    batches = stepping.ahead(slow, 2, 12, threads)
    assert [next(batches) for _ in range(7)] == [1 / (step - 9) for step in range(2, 9)]
    with pytest.raises(ZeroDivisionError):
        next(batches)


def test_an_exported_model_goes_on_from_both_checkpoints(tmp_path):
    """Its weights, sizes and scaling factor are those of the checkpoints; another encoder than the
    one whose latents the UNet has learnt is refused."""
    trees = random_weights()
    halves = {**trees, "unet": {**trees["text_encoder"], **trees["unet"]}}
    name = train.encoder_name(trees["vae"])
    facts = {"before": [], "batch": 2, "pictures": 5, "sizes": [256, 128]}
    own = {"vae": {}, "unet": {"vae": name, "scaling_factor": 0.4}}
    for stage in ("vae", "unet"):
        progress = stepping.Progress(3, 7.0, {**facts, **own[stage], "stage": stage})
        step = SimpleNamespace(arrays=lambda: prefixed(halves[stage]))
        stepping.save_checkpoint(tmp_path / f"{stage}.safetensors", step, progress)
    command = ["export", "--work", str(tmp_path), "--out", str(tmp_path / "model")]
    assert train.main(command) == 0
    found = M.read_configs(tmp_path / "model")
    assert found.picture_size == 256 and found.vae.scaling_factor == 0.4
    read = train.folder_weights(tmp_path / "model", "vae", P.flatten(trees["vae"]))
    for path, leaf in P.flatten(trees["vae"]).items():
        np.testing.assert_allclose(read[path], leaf, rtol=1e-3, atol=1e-6)
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "256x256" in card and "3 steps of 2" in card
    other = SimpleNamespace(arrays=lambda: prefixed(random_weights(1)["vae"]))
    stepping.save_checkpoint(
        tmp_path / "vae.safetensors", other, stepping.Progress(3, 7.0, {**facts, "stage": "vae"})
    )
    assert train.main(command) == 2


def prefixed(tree):
    return {"params." + path: leaf for path, leaf in P.flatten(tree).items()}


# ---- data and the written model ------------------------------------------------------------------


def test_pictures_are_drawn_once_and_are_those_of_the_world(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "CHUNK", 3)
    chunks = data.pictures(tmp_path, 6)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    again = data.pictures(tmp_path, 6)
    assert (
        written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
        and len(written) == 2
    )
    for i in range(6):
        assert np.array_equal(data.take(again, i), W.render(W.sample_scene(W.SEEDS["train"][i]))[0])
    crops = data.crops([chunks], 6, np.random.default_rng(0), 5, 40)
    assert (
        crops.shape == (5, 3, 40, 40)
        and crops.dtype == np.float32
        and -1 <= crops.min() < crops.max() <= 1
    )
    assert np.array_equal(crops, data.crops([chunks], 6, np.random.default_rng(0), 5, 40))


def test_several_processes_draw_the_same_pictures(tmp_path):
    """In a process without MindSpore, as `data.py --training` is one."""
    program = (
        "from benchmarks.orchard import data\n"
        "data.CHUNK = 3\n"
        f"data.pictures({str(tmp_path)!r}, 6, workers=2)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parent.parent)
    paths = sorted(tmp_path.rglob("*.npy"))
    assert [path.name for path in paths] == ["train-000000.npy", "train-000003.npy"]
    found = np.concatenate([np.load(path) for path in paths])
    assert np.array_equal(found, [data.draw(W.SEEDS["train"][i]) for i in range(6)])


def test_rectangles_of_another_crop_are_exchanged():
    """Latents and pixels change places in the same cells; without a share nothing does."""
    image = np.random.default_rng(0).uniform(-1, 1, (5, 3, 56, 56)).astype(np.float32)
    own = data.own_cells(np.random.default_rng(1), 5, 7, 0.6)
    shares = own.mean((1, 2, 3))
    assert (
        set(np.unique(own)) == {0, 1}
        and 0 < (shares < 1).sum() < 5
        and shares.min() >= 1 - (5 / 7) ** 2
    )
    for i, (row, mixed) in enumerate(zip(own[:, 0], data.exchanged(image, own))):
        for y, x in np.ndindex(7, 7):
            cell = (slice(None), slice(8 * y, 8 * y + 8), slice(8 * x, 8 * x + 8))
            assert np.array_equal(mixed[cell], image[i if row[y, x] else 4 - i][cell])
    assert np.array_equal(
        data.exchanged(image, data.own_cells(np.random.default_rng(1), 5, 7, 0.0)), image
    )


def test_pictures_of_another_world_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "CHUNK", 2)
    data.pictures(tmp_path, 2)
    monkeypatch.setattr(data, "draw", lambda seed, size: np.zeros((size, size, 3), np.uint8))
    with pytest.raises(InputError, match="another version"):
        data.pictures(tmp_path, 2)


def random_weights(seed=0):
    found = layout.configs()
    return {
        name: P.init(M.COMPONENTS[name][3](config), np.random.default_rng(seed))
        for name, config in (("text_encoder", found.text), ("unet", found.unet), ("vae", found.vae))
    }


def test_a_written_model_is_read_back(tmp_path, monkeypatch):
    """Its configurations, its weights up to fp16, within 40 MB; a failed second writing leaves the
    first in place."""
    folder, trees = tmp_path / "model", random_weights()
    layout.write_model(folder, 0.5, trees, {"vae": [], "unet": []}, "card")
    assert M.read_configs(M.find(folder)) == layout.configs(0.5)
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < 40e6
    for component in trees:
        read = train.folder_weights(
            folder, component, P.flatten({**trees["text_encoder"], **trees["unet"]})
        )
        for path, leaf in P.flatten(trees[component]).items():
            np.testing.assert_allclose(read[path], leaf, rtol=1e-3, atol=1e-6)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    monkeypatch.setattr(layout, "write_tokenizer", lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        layout.write_model(folder, 0.7, trees, {}, "other")
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_the_model_is_within_its_budget():
    assert 10e6 < sum(map(P.count, random_weights().values())) < 20e6


# ---- the classifier ------------------------------------------------------------------------------


def test_classes_are_the_scene(seed=5):
    scene = W.sample_scene(seed)
    found = [values[i] for values, i in zip(classifier.HEADS.values(), classifier.classes(scene))]
    assert found == [scene.fruit, scene.container, scene.background, scene.count]


@given(st.integers(0, 2**31 - 1))
def test_augmented_pictures_stay_pictures(seed):
    rng = np.random.default_rng(seed)
    images = rng.uniform(-1, 1, (2, 3, 9, 11)).astype(np.float32)
    found = classifier.augment(images, rng)
    assert found.shape == images.shape and found.dtype == np.float32 and np.abs(found).max() <= 1


def test_the_classifiers_loss_is_the_cross_entropy_of_all_heads():
    rng = np.random.default_rng(2)
    params = P.to_parameters(P.init(classifier.specs(), rng))
    images = rng.uniform(-1, 1, (2, 3, 32, 32)).astype(np.float32)
    wanted = np.stack([classifier.classes(W.sample_scene(seed)) for seed in (1, 2)])
    logits = classifier.apply(params, ms.Tensor(images), "cpu")[1].asnumpy().astype(np.float64)
    total, start = 0.0, 0
    for head, size in enumerate(classifier.SIZES):
        piece = logits[:, start : start + size]
        total -= np.mean(
            [row[c] - np.log(np.exp(row).sum()) for row, c in zip(piece, wanted[:, head])]
        )
        start += size
    found = classifier.loss(params, ms.Tensor(images), ms.Tensor(wanted), "cpu")
    assert float(found.asnumpy()) == pytest.approx(total, rel=1e-4)


def test_the_committed_classifier_reads_renders():
    """What judges the numbers in the model card is in the repository, and was trained on the world
    that is."""
    found = classifier.accuracy(classifier.Classifier.load(), 30, "test")
    assert all(share >= 0.95 for share in found.values())


def test_an_exported_classifier_keeps_the_averages(tmp_path):
    arrays = {
        f"{kind}.{path}": np.full(leaf.shape, value, np.float32)
        for kind, value in (("params", 1), ("ema", 0.1))
        for path, leaf in P.flatten(classifier.specs()).items()
    }

    class Trained:
        @staticmethod
        def arrays():
            return arrays

    stepping.save_checkpoint(
        tmp_path / "a.safetensors", Trained, stepping.Progress(3, 4.0, {"seed": 7})
    )
    classifier.export(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    progress, found = stepping.read_weights(tmp_path / "b.safetensors")
    assert progress == (3, 4.0, {"seed": 7}) and set(found) == set(P.flatten(classifier.specs()))
    assert all(
        leaf.dtype == np.float16 and (leaf == np.float16(0.1)).all() for leaf in found.values()
    )
