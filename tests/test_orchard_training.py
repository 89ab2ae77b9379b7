"""The stages of the Orchard's training: gradients of the losses, both backends, sample sheets, the
written model."""

import math
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from mindspore import nn
from PIL import Image

from benchmarks.orchard import (
    autoencoder,
    data,
    denoiser,
    latents,
    layout,
    measures,
    runs,
    steps as stepping,
    train,
)
from diffedit_core import clip, model as M, params as P, tokenizer, unet, vae
from diffedit_core.config import TextConfig, UNetConfig, VAEConfig
from diffedit_core.graphs import Graph


class Both(nn.Cell):
    """Value and gradients as one graph, in which a changed leaf is seen."""

    def __init__(self, graph):
        super().__init__(auto_prefix=False)
        self.gradient = ms.value_and_grad(graph, None, graph.leaves)

    def construct(self, *inputs):
        return self.gradient(*inputs)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_steepness_is_the_measure_s_slope(seed):
    """Up to the constant under the root, which keeps its gradient finite: sqrt(1e-5) at most."""
    pictures = np.random.default_rng(seed).uniform(-1, 1, (2, 3, 5, 7)).astype(np.float32)
    found = autoencoder.steepness(ms.Tensor(pictures)).asnumpy()[:, 0]
    wanted = measures.slope(pictures)
    assert ((found >= wanted - 1e-6) & (found <= wanted + 1e-5**0.5 + 1e-6)).all()


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
        denoiser.unet_loss,
        {**clip.specs(text), **unet.specs(config)},
        inputs,
        (text, config, "cpu"),
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
    one = vae_step(autoencoder.vae_terms, start, frozen=("encoder.",))
    two = stepping.TrainStep(
        autoencoder.vae_loss, P.to_parameters(start), layout.VAE, "cpu", frozen=("encoder.",)
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
    ours = stepping.TrainStep(denoiser.unet_loss, P.to_parameters(start), text, config, "cpu")
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
    autoencoder.VAEJudge(Averaged(vae.specs(narrow)), narrow, count=2).report(
        lines.append, tmp_path, 3
    )
    assert "psnr" in lines[0] and (tmp_path / "vae-000003.png").exists()
    specs = {**clip.specs(layout.text_config()), **unet.specs(small)}
    layout.write_tokenizer(tmp_path / "tokenizer")
    decoder = P.to_parameters(Averaged(vae.specs(narrow)).weights)
    known = SimpleNamespace(params=decoder, scaling_factor=0.5)
    tokens = SimpleNamespace(tokenizer=tokenizer.load(tmp_path / "tokenizer"))
    judge = denoiser.UNetJudge(Averaged(specs), specs, known, tokens, sizes=(32,), steps=2)
    judge.report(lines.append, tmp_path, 7)
    with Image.open(tmp_path / "unet-32-000007.png") as sheet:
        assert sheet.width >= 32 * len(denoiser.SHOWN) and sheet.height >= 32
    assert "samples" in lines[1]


def test_an_exported_model_goes_on_from_both_checkpoints(tmp_path):
    """Its weights, sizes and scaling factor are those of the checkpoints; another encoder than the
    one whose latents the UNet has learnt is refused."""
    trees = random_weights()
    halves = {**trees, "unet": {**trees["text_encoder"], **trees["unet"]}}
    name = latents.encoder_name(trees["vae"])
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
    read = runs.folder_weights(tmp_path / "model", "vae", P.flatten(trees["vae"]))
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
        read = runs.folder_weights(
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
