"""diffedit_core.trace: the calls of a model are as many as its config says, seeing them changes
nothing, and a number that is not finite is found where it arose."""

import json
from collections import Counter
from functools import partial
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from diffedit_core import clip, kernels as K, model as M, params as P, trace, unet, vae
from diffedit_core.config import TextConfig, UNetConfig, VAEConfig
from diffedit_core.graphs import Graph
from tests.test_config import TEXT_15, TEXT_21, UNET_15, UNET_21, VAE_21

MICRO = Path(__file__).parent / "fixtures" / "pipeline" / "model"
rng = np.random.default_rng(0)


def shipped(component, reader):
    return reader.read(json.loads((M.ORCHARD / component / "config.json").read_text()))


TEXTS = {
    "2.1": TextConfig.read(TEXT_21),
    "1.5": TextConfig.read(TEXT_15),
    "shipped": shipped("text_encoder", TextConfig),
}
UNETS = {
    "2.1": UNetConfig.read(UNET_21),
    "1.5": UNetConfig.read(UNET_15),
    "shipped": shipped("unet", UNetConfig),
}
VAES = {"2.1 and 1.5": VAEConfig.read(VAE_21), "shipped": shipped("vae", VAEConfig)}


def tensor(*shape):
    return ms.Tensor(rng.standard_normal(shape).astype(np.float32))


def unet_inputs(config, batch=1, height=8, width=8, length=5):
    latents = tensor(batch, config.in_channels, height, width)
    return latents, ms.Tensor([481]), tensor(batch, length, config.cross_attention_dim)


def names(found):
    """How often each operation is called."""
    total = Counter()
    for call, times in found.items():
        total[call.name] += times
    return {name: total[name] for name in K.OPERATIONS if total[name]}


def ordered(**counts):
    return {name: counts[name] for name in K.OPERATIONS if counts.get(name)}


# --- as many as the config says -------------------------------------------------------------------


@pytest.mark.parametrize("config", TEXTS.values(), ids=TEXTS)
def test_calls_of_the_text_encoder(config):
    """Each layer: q, k, v, out and two of the feed-forward; a norm before both halves and one at
    the end."""
    n = config.num_hidden_layers
    run = trace.unloaded(clip.apply, clip.specs(config), config)
    found = trace.calls(run, ms.Tensor(np.zeros((3, 7), np.int32)))
    assert names(found) == ordered(
        linear=6 * n, attention=n, layer_norm=2 * n + 1, embedding=1, **{config.hidden_act: n}
    )
    width, wide = config.hidden_size, config.intermediate_size
    shapes = ((3, 7, width), (wide, width), (wide,))
    assert found[trace.Call("linear", shapes, ("float32",) * 3, ())] == n
    query = ((3, 7, width),) * 3
    settings = (config.num_attention_heads, True)
    assert found[trace.Call("attention", query, ("float32",) * 3, settings)] == n


@pytest.mark.parametrize("config", UNETS.values(), ids=UNETS)
def test_calls_of_the_unet(config):
    """One list of layers for each level, one more on the way up; a transformer behind each resnet
    of a level that attends to the text, and in the middle."""
    levels, layers = len(config.block_out_channels), sum(config.layers)
    resnets = 2 * layers + levels + 2
    kinds = zip(config.down_block_types, config.up_block_types[::-1], config.layers)
    transformers = 1 + sum(
        n * down.startswith("Cross") + (n + 1) * up.startswith("Cross") for down, up, n in kinds
    )
    assert config.transformer_layers_per_block == 1
    widths = config.block_out_channels
    wider = sum(a != b for a, b in zip(widths, widths[1:]))  # then a skip is a 1x1 convolution,
    skips = wider + layers + levels  # as for each resnet that sees the skips of the way down
    run = trace.unloaded(unet.apply, unet.specs(config), config)
    found = trace.calls(run, *unet_inputs(config))
    assert names(found) == ordered(
        conv2d=2 + 2 * resnets + skips + 2 * (levels - 1),
        linear=2 + resnets + 8 * transformers,
        attention=2 * transformers,
        group_norm=2 * resnets + transformers + 1,
        layer_norm=3 * transformers,
        silu=3 * resnets + 2,
        upsample=levels - 1,
        linear_from_picture=transformers,
        linear_to_picture=transformers,
        geglu=transformers,
    )
    strides = Counter()
    for call, times in found.items():
        if call.name == "conv2d":
            strides[call.settings[0]] += times
    assert strides[2] == levels - 1
    eps = {call.settings[1] for call in found if call.name == "group_norm"}
    assert eps == {config.norm_eps, 1e-6} and len(eps) == 2


@pytest.mark.parametrize("config", VAES.values(), ids=VAES)
@pytest.mark.parametrize("half", ("encode", "decode"))
def test_calls_of_the_autoencoder(config, half):
    """The decoder has one resnet more at each level; the middle is two resnets around one attention
    of a single head."""
    widths, levels = config.block_out_channels, len(config.block_out_channels)
    resnets = levels * (config.layers_per_block + (half == "decode")) + 2
    wider = sum(a != b for a, b in zip(widths, widths[1:]))
    run = trace.unloaded(getattr(vae, half), vae.specs(config), config)
    shape = (1, 3, 32, 24) if half == "encode" else (1, config.latent_channels, 4, 3)
    found = trace.calls(run, tensor(*shape))
    assert names(found) == ordered(
        conv2d=2 + 2 * resnets + wider + (levels - 1) + 1,
        attention=1,
        group_norm=2 * resnets + 2,
        silu=2 * resnets + 1,
        upsample=(levels - 1) * (half == "decode"),
        linear_from_picture=3,
        linear_to_picture=1,
    )
    cells = ((1, 12, widths[-1]),) * 3
    assert found[trace.Call("attention", cells, ("float32",) * 3, (1, False))] == 1


@pytest.mark.parametrize(
    "function, specs, config, inputs",
    [
        (clip.apply, clip.specs, TEXTS["2.1"], lambda c: (ms.Tensor([[1, 2, 3]]),)),
        (unet.apply, unet.specs, UNETS["2.1"], unet_inputs),
        (unet.apply, unet.specs, UNETS["1.5"], unet_inputs),
    ],
    ids=["text 2.1", "unet 2.1", "unet 1.5"],
)
def test_each_leaf_is_used_once(function, specs, config, inputs):
    """Of the full-size models; only the two tables of embeddings are looked up without a kernel.
    The shapes of all leaves fit what reaches them."""
    tree, used = specs(config), Counter()

    def note(name, lowering, args):
        used.update(id(a) for a in args if isinstance(a, trace.Shape))
        return lowering(*args)

    leaves = {}

    def keep(params, *rest):
        leaves.update(P.flatten(params))
        return function(params, *rest)

    trace.unloaded(keep, tree, config)(trace.wrapped(trace.ABSTRACT, note), *inputs(config))
    looked_up = [path for path, leaf in P.flatten(tree).items() if leaf.init == "embedding"]
    assert {path: used[id(leaf)] for path, leaf in leaves.items()} == {
        path: 0 if path in looked_up else 1 for path in P.flatten(tree)
    }


def test_a_weight_that_does_not_fit_is_seen_without_arithmetic():
    config = UNETS["shipped"]
    tree = unet.specs(config)
    tree["conv_in"] = P.conv(3, config.block_out_channels[0], 3)
    with pytest.raises(ValueError, match="4 channels meet a weight"):
        trace.calls(trace.unloaded(unet.apply, tree, config), *unet_inputs(config))


# --- seeing changes nothing -----------------------------------------------------------------------


def micro(component, reader, specs, seed=1):
    """(config, parameters) of the small fixture, all leaves random."""
    config = reader.read(json.loads((MICRO / component / "config.json").read_text()))
    draw = np.random.default_rng(seed)
    tree = P.tree_map(
        lambda _, leaf: (0.3 * draw.standard_normal(leaf.shape)).astype(np.float32), specs(config)
    )
    return config, tree


def models():
    """component -> (function, config, numpy tree, inputs)."""
    config, tree = micro("unet", UNetConfig, unet.specs)
    yield unet.apply, unet.specs, config, tree, unet_inputs(config, 2, 8, 6)
    config, tree = micro("vae", VAEConfig, vae.specs)
    side = 2 * config.factor
    yield vae.encode, vae.specs, config, tree, (tensor(1, 3, side, 3 * config.factor),)
    yield vae.decode, vae.specs, config, tree, (tensor(1, config.latent_channels, 2, 3),)
    config, tree = micro("text_encoder", TextConfig, clip.specs)
    yield clip.apply, clip.specs, config, tree, (ms.Tensor(np.array([[1, 5, 2], [3, 0, 7]])),)


def outputs(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("dtype", ("fp32", "fp16"))
@pytest.mark.parametrize("model", list(models()), ids=("unet", "encoder", "decoder", "text"))
def test_seeing_changes_nothing(model, dtype):
    """With the identity around each call, and while `calls` counts: the same bits. The abstract
    kernels and an unloaded model give the same calls, shapes and dtypes without the weights."""
    function, specs, config, tree, inputs = model
    params = P.to_parameters(tree, dtype)
    inputs = [x.astype(P.DTYPES[dtype]) if x.dtype == ms.float32 else x for x in inputs]
    identity = trace.wrapped("cpu", lambda name, lowering, args: lowering(*args))
    plain, around = (outputs(function(params, *inputs, config, k)) for k in ("cpu", identity))
    kept = []

    def run(kernels, *inputs):
        kept.append(outputs(function(params, *inputs, config, kernels)))

    found = trace.calls(run, *inputs, kernels="cpu")
    for other in (around, kept[0]):
        assert all(np.array_equal(a.asnumpy(), b.asnumpy()) for a, b in zip(plain, other))

    assert found == trace.calls(run, *inputs)
    assert [(o.shape, o.dtype) for o in kept[1]] == [(o.shape, o.dtype) for o in plain]
    assert found == trace.calls(
        trace.unloaded(function, specs(config), config, dtype=dtype), *inputs
    )


def test_calls_of_a_graph():
    """`Graph.eagerly` is the graph's own function: with its kernels it gives the graph's result."""
    function, _, config, tree, inputs = next(m for m in models() if m[0] is clip.apply)
    graph = Graph(function, P.to_parameters(tree), config, "cpu")
    np.testing.assert_allclose(
        graph.eagerly("reference", *inputs).asnumpy(), graph(*inputs).asnumpy(), atol=1e-4
    )
    assert trace.calls(graph.eagerly, *inputs, kernels="reference") == trace.calls(
        graph.eagerly, *inputs
    )


def test_a_call_keeps_what_is_needed_to_repeat_it():
    x, weight = tensor(2, 15, 5), tensor(7, 5).astype(ms.float16)
    call = trace.call("linear_to_picture", (x, weight, None, 3, 5))
    assert call == ("linear_to_picture", ((2, 15, 5), (7, 5)), ("float32", "float16"), (None, 3, 5))


def test_what_a_composite_calls_within_is_not_seen():
    leaf = {"weight": tensor(9, 7), "bias": tensor(9)}
    run = partial(lambda kernels, x: K.linear_from_picture(leaf, x, kernels))
    for kernels in ("reference", "cpu", None):
        found = trace.calls(run, tensor(2, 7, 3, 5), kernels=kernels)
        assert [(call.name, times) for call, times in found.items()] == [("linear_from_picture", 1)]


# --- where a number stopped being finite ----------------------------------------------------------


@pytest.mark.parametrize("bad", (np.nan, np.inf, -np.inf))
@pytest.mark.parametrize("dtype", (np.float32, np.float16))
def test_finite(bad, dtype):
    good = rng.standard_normal((2, 3, 5)).astype(dtype)
    worse = good.copy()
    worse[1, 2, 4] = bad
    assert trace.finite() and trace.finite(ms.Tensor(good), ms.Tensor(good))
    assert not trace.finite(ms.Tensor(worse)) and not trace.finite(
        ms.Tensor(good), ms.Tensor(worse)
    )


def all_operations(params, x, eps, kernels):
    """Each operation that has leaves, once; the weight of `out` is a 1x1 convolution's."""
    h = K.conv2d(params["conv_in"], x, kernels)
    h = K.silu(K.group_norm(params["down.0"]["norm1"], h, 1, eps, kernels), kernels)
    h = K.linear_from_picture(params["in"], h, kernels)
    h = K.layer_norm(params["norm"], K.linear(params["proj"], h, kernels), eps, kernels)
    h = K.geglu(params["ff"], h, kernels)
    return K.linear_to_picture(params["out"], h, x.shape[2], x.shape[3], kernels)


SPECS = {
    "conv_in": P.conv(3, 5, 3),
    "down.0": {"norm1": P.norm(5)},
    "in": P.linear(5, 7, bias=False),
    "proj": P.linear(7, 4),
    "norm": P.norm(4),
    "ff": {"net.0.proj": P.linear(4, 6), "net.2": P.linear(3, 4)},
    "out": P.conv(4, 5, 1),
}
OPERATION = {
    "conv_in": "conv2d",
    "down.0": "group_norm",
    "in": "linear_from_picture",
    "proj": "linear",
    "norm": "layer_norm",
    "ff": "geglu",
    "out": "linear_to_picture",
}


@pytest.mark.parametrize("table", ("reference", "cpu"))
@pytest.mark.parametrize("path", P.flatten(SPECS))
def test_a_nonfinite_number_is_located(table, path):
    """In every operation, by the first of its leaves, also where it reshapes a leaf first."""
    tree = P.tree_map(lambda _, leaf: rng.standard_normal(leaf.shape), SPECS)
    part, leaf = path.split(".")[0], P.flatten(tree)[path]
    part = "down.0" if part == "down" else part
    leaf.reshape(-1)[1] = np.inf
    params, x = P.to_parameters(tree), tensor(2, 3, 5, 7)
    run = lambda kernels, x: all_operations(params, x, 1e-5, kernels)
    first = next(p for p in P.flatten(SPECS) if p.startswith(part + "."))
    wanted = f"in {OPERATION[part]} with {first}"
    assert trace.locate_nonfinite(run, params, x, kernels=table) == wanted


def overflowing(params, x, kernels):
    """The operation that overflows has no weights."""
    return K.upsample(K.silu(K.linear(params["proj"], x, kernels), kernels) * 1e30, kernels)


def test_a_nonfinite_number_of_an_operation_without_weights_is_located():
    params, x = P.to_parameters({"proj": {"weight": np.full((3, 7), 1e10)}}), ms.ops.ones((2, 7))
    run = lambda kernels, x: overflowing(params, x.reshape(1, 1, 2, 7), kernels)
    found = trace.locate_nonfinite(run, params, x, kernels="reference")
    assert found == "in upsample after proj.weight"
    infinite = x * np.inf
    found = trace.locate_nonfinite(
        lambda kernels, x: K.silu(x, kernels), params, infinite, kernels="cpu"
    )
    assert found == "in silu after the first layer"


def test_finite_numbers_are_not_blamed():
    params = P.to_parameters(P.init(SPECS, rng))
    run = lambda kernels, x: all_operations(params, x, 1e-5, kernels)
    found = trace.locate_nonfinite(run, params, tensor(2, 3, 5, 7), kernels="cpu")
    assert found == "in the last operation, or only in the compiled graph"
