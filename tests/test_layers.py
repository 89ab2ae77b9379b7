"""diffedit_core.layers: each block against the numpy oracle, and its gradients against finite
differences."""

import mindspore as ms
import numpy as np
import pytest

from diffedit_core import layers as L
from diffedit_core import params as P
from diffedit_core.graphs import Graph

from . import reference as R

TABLES = ("reference", "cpu")
every_table = pytest.mark.parametrize("table", TABLES)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def random_tree(specs, seed):
    """Every leaf random, also those that start as zeros or ones: a leaf that is not used, or used
    twice, would not show."""
    rng = np.random.default_rng(seed)

    def draw(_, leaf):
        return (rng.standard_normal(leaf.shape) / np.sqrt(np.prod(leaf.shape[1:]))).astype(
            np.float32
        )

    return P.tree_map(draw, specs)


def tensor(x):
    return None if x is None else ms.Tensor(x.astype(np.float32))


def compare(block, oracle, tree, arrays, options, table):
    """block(params, *arrays, *options, table), eagerly and compiled, against the oracle without the
    table."""
    wanted = oracle(tree, *[None if a is None else a.astype(np.float32) for a in arrays], *options)
    graph = Graph(block, P.to_parameters(tree), *options, table)
    for result in (
        block(P.to_parameters(tree), *map(tensor, arrays), *options, table),
        graph(*map(tensor, arrays)),
    ):
        assert result.shape == wanted.shape
        error = np.abs(result.asnumpy() - wanted).max()
        assert error < 2e-5 * np.abs(wanted).max(), f"error {error}"


def scaled_resnet(params, x, time, groups, eps, scale, kernels):
    return L.resnet(params, x, time, groups, eps, kernels, scale)


def timeless_resnet(params, x, groups, eps, kernels):
    return L.resnet(params, x, None, groups, eps, kernels)


@every_table
@pytest.mark.parametrize("c_out, scale", ((6, 1.0), (15, 1.5)))
def test_resnet(table, c_out, scale):
    specs = L.resnet_specs(6, c_out, 11)
    assert ("conv_shortcut" in specs) == (c_out != 6)
    compare(
        scaled_resnet,
        R.resnet,
        random_tree(specs, 1),
        (normal(2, 2, 6, 5, 7), normal(3, 2, 11)),
        (3, 0.01, scale),
        table,
    )


@every_table
def test_resnet_without_time(table):
    def oracle(params, x, groups, eps):
        return R.resnet(params, x, None, groups, eps)

    specs = L.resnet_specs(6, 9)
    assert "time_emb_proj" not in specs
    compare(
        timeless_resnet, oracle, random_tree(specs, 4), (normal(5, 3, 6, 7, 5),), (3, 1e-6), table
    )


@every_table
def test_attention(table):
    compare(
        L.attention,
        R.attend,
        random_tree(L.attention_specs(15, 7), 6),
        (normal(7, 2, 9, 15), normal(8, 2, 5, 7)),
        (3,),
        table,
    )


@every_table
def test_attention_with_bias(table):
    compare(
        L.attention,
        R.attend,
        random_tree(L.attention_specs(10, 7, bias=True), 9),
        (normal(10, 3, 9, 10), normal(11, 3, 5, 7)),
        (5,),
        table,
    )


@every_table
def test_spatial_attention(table):
    compare(
        L.spatial_attention,
        R.spatial_attention,
        random_tree(L.spatial_attention_specs(15), 12),
        (normal(13, 2, 15, 5, 7),),
        (3, 5, 0.01),
        table,
    )


@every_table
@pytest.mark.parametrize("depth, linear_projection", ((1, False), (2, True)))
def test_transformer(table, linear_projection, depth):
    specs = L.transformer_specs(15, 7, depth, linear_projection)
    assert len(specs["proj_in"]["weight"].shape) == (2 if linear_projection else 4)
    compare(
        L.transformer,
        R.transformer,
        random_tree(specs, 14),
        (normal(15, 2, 15, 3, 5), normal(16, 2, 9, 7)),
        (3, depth, 5),
        table,
    )


@every_table
def test_eps_of_the_norms(table):
    """Inputs of size 1e-3, whose variance is of the size of an eps: 1e-5 for 1e-6 would show, in
    front of the transformer and, with a projection that leaves as little, within it."""
    tree = random_tree(L.transformer_specs(15, 7, 1, True), 17)
    for leaf in (*tree["proj_in"].values(), tree["proj_out"]["bias"]):
        leaf *= 1e-3
    for part in ("attn1", "attn2"):
        for leaf in tree["transformer_blocks.0"][part]["to_out.0"].values():
            leaf *= 1e-3
    arrays = (1e-3 * normal(18, 2, 15, 3, 5), normal(19, 2, 9, 7))
    compare(L.transformer, R.transformer, tree, arrays, (3, 1, 5), table)


def embedding(params, timesteps, channels, flip_sin_to_cos, freq_shift, kernels):
    return L.time_embedding(
        params, timesteps, channels, flip_sin_to_cos, freq_shift, ms.float32, kernels
    )


@every_table
@pytest.mark.parametrize(
    "channels, flip, shift", ((10, True, 0), (10, False, 1), (11, True, 0), (7, False, 0))
)
def test_time_embedding(table, channels, flip, shift):
    """The angles are float32: at t = 999 their rounding is 3e-5, which the random weights pass
    on."""
    tree, timesteps = random_tree(L.time_specs(channels), 19), np.array([0, 1, 481, 999])
    wanted = R.time_embedding(tree, timesteps, channels, flip, shift)
    graph = Graph(embedding, P.to_parameters(tree), channels, flip, shift, table)
    for result in (
        graph(ms.Tensor(timesteps.astype(np.int32))),
        embedding(
            P.to_parameters(tree),
            ms.Tensor(timesteps.astype(np.int32)),
            channels,
            flip,
            shift,
            table,
        ),
    ):
        assert result.shape == (4, 4 * channels)
        assert np.abs(result.asnumpy() - wanted).max() < 2e-4 * np.abs(wanted).max()


@every_table
def test_time_embedding_in_fp16_tells_late_timesteps_apart(table):
    """fp16 has steps of half a radian at 999; the angles are float32 and only their sines are
    rounded."""
    tree, timesteps = random_tree(L.time_specs(10), 20), np.array([997, 998, 999])
    wanted = R.time_embedding(tree, timesteps, 10, True, 0)
    asked = ms.Tensor(timesteps.astype(np.int32))
    result = L.time_embedding(P.to_parameters(tree, "fp16"), asked, 10, True, 0, ms.float16, table)
    assert result.dtype == ms.float16
    assert np.abs(result.asnumpy() - wanted).max() < 0.01 * np.abs(wanted).max()


# --- gradients ------------------------------------------------------------------------------------

SPECS = {
    "resnets.0": L.resnet_specs(6, 15, 11),
    "attentions.0": L.transformer_specs(15, 7, 1, True),
}
ARRAYS = normal(21, 2, 6, 3, 5), normal(22, 2, 11), normal(23, 2, 9, 7)
WEIGHTS = normal(24, 2, 15, 3, 5)  # of the loss, a sum over the outputs


def loss(params, x, time, text, weights, kernels):
    h = L.resnet(params["resnets.0"], x, time, 3, 0.01, kernels)
    return (L.transformer(params["attentions.0"], h, text, 3, 1, 5, kernels) * weights).sum()


def loss_oracle(tree):
    h = R.resnet(tree["resnets.0"], *ARRAYS[:2], 3, 0.01)
    return (R.transformer(tree["attentions.0"], h, ARRAYS[2], 3, 1, 5) * WEIGHTS).sum()


@every_table
def test_gradients_agree_with_finite_differences(table):
    """For each leaf, <gradient, d> in a random direction d against (loss(p + h d) - loss(p - h d))
    / 2h of the float64 oracle, whose error is about h^2 = 1e-10. A leaf that the graph took for a
    constant would have the gradient 0.
    """
    tree = random_tree(SPECS, 25)
    graph = Graph(loss, P.to_parameters(tree), table)
    value, gradients = ms.value_and_grad(graph, None, graph.leaves)(
        *map(tensor, (*ARRAYS, WEIGHTS))
    )
    wide = P.tree_map(lambda _, leaf: leaf.astype(np.float64), tree)
    assert float(value.asnumpy()) == pytest.approx(loss_oracle(wide), rel=1e-4, abs=1e-3)
    paths = list(P.flatten(tree))
    assert len(gradients) == len(paths)
    total = np.sqrt(sum(np.square(g.asnumpy()).sum() for g in gradients))
    for seed, (path, gradient) in enumerate(zip(paths, gradients)):
        direction = normal(100 + seed, *gradient.shape)
        direction /= np.linalg.norm(direction)
        above, below = (
            loss_oracle(
                P.tree_map(lambda p, leaf: leaf + step * direction if p == path else leaf, wide)
            )
            for step in (1e-5, -1e-5)
        )
        wanted = (above - below) / 2e-5
        found = (gradient.asnumpy() * direction).sum()
        assert abs(found - wanted) < 1e-3 * abs(wanted) + 2e-6 * total, (path, found, wanted)
        assert abs(wanted) > 1e-6, f"{path} does not matter to the loss"
