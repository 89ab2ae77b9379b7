"""Text encoder, UNet and VAE against the public modules' outputs (tests/fixtures/make_blocks.py
says how they were made)."""

import json
from functools import lru_cache
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from diffedit_core import clip, params as P, trace, unet, vae
from diffedit_core.config import TextConfig, UNetConfig, VAEConfig
from diffedit_core.graphs import Graph

BLOCKS = Path(__file__).parent / "fixtures" / "blocks"
CLIP = ("clip_h", "clip_l")
UNET = ("unet_heads", "unet_mixed", "unet_nonlinear_flags", "unet_odd", "unet_sd1", "unet_sd21")
VAE = ("vae", "vae_sd1")
KINDS = {
    "clip": (TextConfig, clip.specs),
    "unet": (UNetConfig, unet.specs),
    "vae": (VAEConfig, vae.specs),
}
TOLERANCE = 5e-5  # fp32 against float64; 1e-6 to 1e-5 is measured


@lru_cache(maxsize=None)
def load(case, dtype="fp32"):
    """(params, config, arrays) of a fixture."""
    reader, specs = KINDS[case.split("_")[0]]
    config = reader.read(json.loads((BLOCKS / case / "config.json").read_text()), case)
    params = P.load([BLOCKS / case / "weights.safetensors"], specs(config), dtype)
    with np.load(BLOCKS / case / "arrays.npz") as arrays:
        return params, config, dict(arrays)


def run(function, case, *inputs, kernels=None, dtype="fp32"):
    """The function's outputs as float32 numpy: compiled for "cpu", or operation by operation with
    the kernels given."""
    params, config, _ = load(case, dtype)
    inputs = [
        ms.Tensor(x.astype(np.int32) if x.dtype.kind == "i" else x.astype(P.NUMPY_DTYPES[dtype]))
        for x in inputs
    ]
    ms.set_context(mode=ms.GRAPH_MODE)  # single operations are quicker in it, too
    outputs = (
        function(params, *inputs, config, kernels) if kernels else graph(function, case)(*inputs)
    )
    assert all(
        o.dtype == P.DTYPES[dtype] for o in (outputs if isinstance(outputs, tuple) else (outputs,))
    )
    if isinstance(outputs, tuple):
        return tuple(o.asnumpy().astype(np.float32) for o in outputs)
    return outputs.asnumpy().astype(np.float32)


@lru_cache(maxsize=None)
def graph(function, case):
    params, config, _ = load(case)
    return Graph(function, params, config, "cpu")


def assert_close(actual, expected, tolerance=TOLERANCE):
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance  # false for NaN


@pytest.mark.parametrize("kernels", [None, "reference"])
@pytest.mark.parametrize("case", CLIP)
@pytest.mark.parametrize("length", ["", "_short"])
def test_text_encoder(case, length, kernels):
    arrays = load(case)[2]
    assert_close(
        run(clip.apply, case, arrays["input_ids" + length], kernels=kernels),
        arrays["last_hidden_state" + length],
    )


@pytest.mark.parametrize("case", CLIP)
def test_text_encoder_is_causal(case):
    """A token changes the states from its own position on, and none before it."""
    ids = load(case)[2]["input_ids"].copy()
    before = run(clip.apply, case, ids)
    ids[:, 5] = (ids[:, 5] + 1) % 97
    after = run(clip.apply, case, ids)
    changed = np.abs(after - before).max((0, 2)) > 0
    assert not changed[:5].any() and changed[5:].all()


@pytest.mark.parametrize("case", UNET)
def test_unet(case):
    """One timestep for all rows, then one for each."""
    arrays = load(case)[2]
    sample, states = arrays["sample"], arrays["encoder_hidden_states"]
    for timesteps, expected in (
        (np.repeat(arrays["timestep"], len(sample)), "out_timestep"),
        (arrays["timesteps"], "out_timesteps"),
    ):
        assert_close(run(unet.apply, case, sample, timesteps, states), arrays[expected])


def without_the_inner_levels(params):
    """The leaves of the outermost level, which an evaluation with given deep features looks at."""
    last = max(int(key.split(".")[1]) for key in params if key.startswith("up_blocks"))
    inner = [f"up_blocks.{i}." for i in range(last)]
    inner += [f"down_blocks.{i}." for i in range(1, last + 1)]
    inner += ["mid_block.", "down_blocks.0.downsamplers"]
    return {key: leaf for key, leaf in params.items() if not key.startswith(tuple(inner))}


@pytest.mark.parametrize("case", UNET)
def test_unet_with_its_own_deep_features_is_the_unet(case):
    """Bit for bit, from the outermost level's leaves alone; with others it is another."""
    params, config, arrays = load(case)
    ms.set_context(mode=ms.GRAPH_MODE)  # single operations are quicker in it, too
    x, text = (ms.Tensor(arrays[n].astype(np.float32)) for n in ("sample", "encoder_hidden_states"))
    asked = (x, ms.Tensor(np.array([481], np.int32)), text)
    wanted = unet.apply(params, *asked, config, "cpu").asnumpy()
    kept, deep = unet.apply_keeping(params, *asked, config, "cpu")
    few = without_the_inner_levels(params)
    assert np.array_equal(kept.asnumpy(), wanted) and len(few) < len(params)
    assert deep.shape[0] == x.shape[0] and deep.shape[2:] == x.shape[2:]
    reused = unet.apply_reusing(few, *asked, deep, config, "cpu").asnumpy()
    assert np.array_equal(reused, wanted)
    other = unet.apply_reusing(few, *asked, deep * 1.5, config, "cpu").asnumpy()
    assert other.shape == wanted.shape and np.abs(other - wanted).max() > 1e-3


@pytest.mark.parametrize("case", ["unet_heads", "unet_nonlinear_flags"])
def test_unet_reference_kernels(case):
    arrays = load(case)[2]
    inputs = (
        arrays["sample"],
        arrays["timestep"][None],
        arrays["encoder_hidden_states"],
    )  # one timestep broadcast to all rows
    assert_close(run(unet.apply, case, *inputs, kernels="reference"), arrays["out_timestep"])


@pytest.mark.parametrize("case", VAE)
def test_vae_encoder(case):
    arrays = load(case)[2]
    mean, log_variance = run(vae.encode, case, arrays["image"])
    assert_close(mean, arrays["mean"])
    assert_close(log_variance, arrays["logvar"])
    assert (log_variance == -30).any() and (
        log_variance == 20
    ).any()  # the fixture reaches both ends of the clamp


@pytest.mark.parametrize("case", VAE)
def test_vae_decoder(case):
    arrays = load(case)[2]
    assert_close(run(vae.decode, case, arrays["latents"]), arrays["decoded"])


def test_vae_reference_kernels():
    arrays = load("vae")[2]
    mean, log_variance = run(vae.encode, "vae", arrays["image"], kernels="reference")
    assert_close(mean, arrays["mean"])
    assert_close(log_variance, arrays["logvar"])


def test_older_names_of_the_vae_are_the_same_model():
    current, older = (P.flatten(load(case)[0]) for case in ("vae", "vae_legacy"))
    assert list(current) == list(older)
    assert all(np.array_equal(current[path].asnumpy(), older[path].asnumpy()) for path in current)


# ---- every eps: a signal of size 1e-3 reaches each norm ------------------------------------------


def test_text_encoder_of_a_faint_signal():
    arrays = load("clip_faint")[2]
    for length in ("", "_short"):
        actual = run(clip.apply, "clip_faint", arrays["input_ids" + length], kernels="cpu")
        assert_close(actual, arrays["last_hidden_state" + length])


def test_unet_of_a_faint_signal():
    arrays = load("unet_faint")[2]
    inputs = arrays["sample"], arrays["timesteps"], arrays["encoder_hidden_states"]
    assert_close(run(unet.apply, "unet_faint", *inputs, kernels="cpu"), arrays["out_timesteps"])


def test_vae_of_a_faint_signal():
    arrays = load("vae_faint")[2]
    mean, log_variance = run(vae.encode, "vae_faint", arrays["image"], kernels="cpu")
    assert_close(mean, arrays["mean"])
    assert_close(log_variance, arrays["logvar"])
    decoded = run(vae.decode, "vae_faint", arrays["latents"], kernels="cpu")
    assert_close(decoded, arrays["decoded"])


def eps_of_norms(function, specs, config, *inputs):
    """{path of a norm: its eps}, by following the model without its weights."""
    paths, found = {}, {}

    def keep(params, *rest):
        paths.update({id(leaf): path for path, leaf in P.flatten(params).items()})
        return function(params, *rest)

    def note(name, lowering, args):
        if name in ("group_norm", "layer_norm"):
            found[paths[id(args[1])].rsplit(".", 1)[0]] = args[-1]
        return lowering(*args)

    run = trace.unloaded(keep, specs(config), config)
    run(trace.wrapped(trace.ABSTRACT, note), *inputs)
    return found


def test_each_norm_has_the_eps_of_the_public_model():
    """The config's, but for the norms within and before a transformer and those of the VAE, of
    which diffusers' modules fix 1e-5 and 1e-6."""
    config = load("unet_faint")[1]
    inputs = ms.ops.ones((1, 4, 4, 6)), ms.Tensor([3]), ms.ops.ones((1, 11, 6))
    found = eps_of_norms(unet.apply, unet.specs, config, *inputs)
    assert len(found) == 2 * 8 + 4 * 4 + 3 + 1  # resnets, transformers, attentions, the last one
    for path, eps in found.items():
        wanted = 1e-5 if ".transformer_blocks." in path else config.norm_eps
        assert eps == (1e-6 if path.endswith(".norm") else wanted), path

    config = load("vae_faint")[1]
    for function, shape in ((vae.encode, (1, 3, 6, 10)), (vae.decode, (1, 4, 3, 5))):
        found = eps_of_norms(function, vae.specs, config, ms.ops.ones(shape))
        assert set(found.values()) == {1e-6}

    config = load("clip_faint")[1]
    found = eps_of_norms(clip.apply, clip.specs, config, ms.Tensor([[1, 2, 3]]))
    assert len(found) == 5 and set(found.values()) == {config.layer_norm_eps}


# fp16 holds 11 bits; what the layers between add up to is measured at 1e-2 of the outputs' spread.


def assert_close_in_fp16(actual, expected):
    assert np.isfinite(actual).all()
    error = np.sqrt(np.mean((actual - expected) ** 2)) / expected.std()
    assert 1e-5 < error < 1e-2  # not 0: the sums ran in fp16 indeed


def test_text_encoder_in_fp16():
    arrays = load("clip_h")[2]
    actual = run(clip.apply, "clip_h", arrays["input_ids"], kernels="cpu", dtype="fp16")
    assert_close_in_fp16(actual, arrays["last_hidden_state"])


def test_unet_in_fp16():
    arrays = load("unet_sd21")[2]
    inputs = arrays["sample"], arrays["timesteps"], arrays["encoder_hidden_states"]
    actual = run(unet.apply, "unet_sd21", *inputs, kernels="cpu", dtype="fp16")
    assert_close_in_fp16(actual, arrays["out_timesteps"])


def test_vae_in_fp16():
    arrays = load("vae")[2]
    assert_close_in_fp16(
        run(vae.decode, "vae", arrays["latents"], kernels="cpu", dtype="fp16"), arrays["decoded"]
    )
    mean, _ = run(vae.encode, "vae", arrays["image"], kernels="cpu", dtype="fp16")
    assert_close_in_fp16(mean, arrays["mean"])
