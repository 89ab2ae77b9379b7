"""The binding of a parameter tree to a compiled graph: what `diffedit_core.graphs` says would be
silently wrong otherwise."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import ops
from mindspore._extends.parse.jit_fallback_modules import check_utils

from diffedit_core import clip, kernels as K, layers, params as P
from diffedit_core.config import TextConfig
from diffedit_core.graphs import Graph, signature

CONFIG = TextConfig(
    vocab_size=13,
    hidden_size=6,
    intermediate_size=10,
    num_hidden_layers=2,
    num_attention_heads=3,
    max_position_embeddings=7,
)
IDS = ms.Tensor(np.array([[1, 5, 2, 12, 0], [3, 3, 4, 7, 11]], np.int32))
LEAVES = list(P.flatten(clip.specs(CONFIG)))


def tree(seed=0):
    """Random leaves, none of them 0 or 1: what matters must show."""
    rng = np.random.default_rng(seed)
    return P.tree_map(
        lambda _, leaf: rng.standard_normal(leaf.shape).astype(np.float32), clip.specs(CONFIG)
    )


def encoder(arrays):
    return Graph(clip.apply, P.to_parameters(arrays), CONFIG, "cpu")


def two_layers(params, x, kernels):
    return K.linear(params["b.0"], K.silu(K.linear(params["a"], x, kernels), kernels), kernels)


def small(seed=0):
    rng = np.random.default_rng(seed)
    return P.tree_map(
        lambda _, leaf: rng.standard_normal(leaf.shape).astype(np.float32),
        {"a": P.linear(3, 4), "b.0": P.linear(4, 2)},
    )


def expected(arrays, x):
    h = x @ arrays["a"]["weight"].T + arrays["a"]["bias"]
    return (h / (1 + np.exp(-h))) @ arrays["b.0"]["weight"].T + arrays["b.0"]["bias"]


def test_graph_is_the_function():
    arrays = tree()
    want = clip.apply(P.to_parameters(arrays), IDS, CONFIG, "reference").asnumpy()
    np.testing.assert_allclose(encoder(arrays)(IDS).asnumpy(), want, atol=1e-5)


def test_a_compiled_graph_sees_each_changed_leaf():
    """Every leaf is set in turn in one graph; each time it gives what a graph made from those
    values would."""
    arrays, changed = tree(), P.flatten(tree(1))
    graph = encoder(arrays)
    before = graph(IDS).asnumpy()
    leaves = P.flatten(graph.params)
    fresh = P.flatten(arrays)
    for path in LEAVES:
        leaves[path].set_data(ms.Tensor(changed[path]))
        fresh[path] = changed[path]
        after = graph(IDS).asnumpy()
        assert np.abs(after - before).max() > 1e-4 or path.endswith(
            "k_proj.bias"
        ), path  # softmax cancels a bias of the keys
        before = after
    want = encoder(P.tree_map(lambda path, _: fresh[path], arrays))(IDS).asnumpy()
    np.testing.assert_allclose(before, want, atol=1e-6)
    assert len(graph.compile_cache) == 1  # not by compiling anew


def test_assign_is_seen():
    arrays, x = small(), np.random.default_rng(2).standard_normal((5, 3)).astype(np.float32)
    graph = Graph(two_layers, P.to_parameters(arrays), "cpu")
    np.testing.assert_allclose(graph(ms.Tensor(x)).asnumpy(), expected(arrays, x), atol=1e-5)
    arrays["a"]["bias"] = arrays["a"]["bias"] + 1
    ops.assign(graph.params["a"]["bias"], ms.Tensor(arrays["a"]["bias"]))
    np.testing.assert_allclose(graph(ms.Tensor(x)).asnumpy(), expected(arrays, x), atol=1e-5)


def test_gradients_reach_every_leaf_and_are_right():
    """Against central differences in float64 on the closed form."""
    arrays, x = small(3), np.random.default_rng(4).standard_normal((5, 3)).astype(np.float32)
    graph = Graph(two_layers, P.to_parameters(arrays), "cpu")

    def loss(x):
        return (graph(x) ** 2).mean()

    value, gradients = ms.value_and_grad(loss, None, graph.leaves)(ms.Tensor(x))
    np.testing.assert_allclose(value.asnumpy(), (expected(arrays, x) ** 2).mean(), rtol=1e-5)
    for (path, leaf), gradient in zip(P.flatten(arrays).items(), gradients):
        numeric = np.zeros(leaf.shape)
        for index in np.ndindex(leaf.shape):
            losses = []
            for step in (1e-4, -1e-4):
                moved = P.tree_map(lambda _, a: a.astype(np.float64), arrays)
                P.flatten(moved)[path][index] += step
                losses.append((expected(moved, x) ** 2).mean())
            numeric[index] = (losses[0] - losses[1]) / 2e-4
        np.testing.assert_allclose(gradient.asnumpy(), numeric, rtol=1e-3, atol=1e-4, err_msg=path)


def test_gradients_through_a_whole_model():
    graph = encoder(tree(5))

    def loss(ids):
        return (graph(ids) ** 3).mean()

    _, gradients = ms.value_and_grad(loss, None, graph.leaves)(IDS)
    for path, gradient in zip(LEAVES, gradients):
        gradient = gradient.asnumpy()
        assert np.isfinite(gradient).all(), path
        if not path.endswith("k_proj.bias"):
            assert np.abs(gradient).max() > 1e-6, path


def test_one_graph_for_each_shape():
    """Alternate calls stay right, and only the first of each shape compiles."""
    arrays, rng = small(6), np.random.default_rng(7)
    graph = Graph(two_layers, P.to_parameters(arrays), "cpu")
    for rows in (5, 2, 5, 2, 5):
        x = rng.standard_normal((rows, 3)).astype(np.float32)
        np.testing.assert_allclose(graph(ms.Tensor(x)).asnumpy(), expected(arrays, x), atol=1e-5)
    assert len(graph.compile_cache) == 2


def test_a_signature_tells_shapes_dtypes_and_numbers_of_inputs_apart():
    """It is the same exactly where one compilation serves both."""
    five, two = ms.Tensor(np.zeros((5, 3), np.float32)), ms.Tensor(np.zeros((2, 3), np.float32))
    given = [(five,), (two,), (five.astype(ms.float16),), (five, two), (two, five), ()]
    assert len({signature(inputs) for inputs in given}) == len(given)
    assert signature((five + 1,)) == signature((five,))


def doubled(x):
    """A kernel of one's own."""
    return 2 * x


def test_a_table_of_kernels_is_a_static_value():
    """It is compiled, it sees changed leaves, and `eagerly` runs the same with another table."""
    arrays, x = small(10), np.random.default_rng(11).standard_normal((5, 3)).astype(np.float32)
    graph = Graph(two_layers, P.to_parameters(arrays), {**K.LOWERINGS["cpu"], "silu": doubled})
    for _ in range(2):
        h = x @ arrays["a"]["weight"].T + arrays["a"]["bias"]
        want = 2 * h @ arrays["b.0"]["weight"].T + arrays["b.0"]["bias"]
        np.testing.assert_allclose(graph(ms.Tensor(x)).asnumpy(), want, atol=1e-5)
        for kernels in ("cpu", "reference"):
            plain = graph.eagerly(kernels, ms.Tensor(x)).asnumpy()
            np.testing.assert_allclose(plain, expected(arrays, x), atol=1e-5)
        arrays["a"]["bias"] = arrays["a"]["bias"] + 1
        graph.params["a"]["bias"].set_data(ms.Tensor(arrays["a"]["bias"]))


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
def test_the_mode_before_does_not_matter(mode):
    """In PyNative mode the leaves would become constants: the graph itself has to leave that
    mode."""
    ms.set_context(mode=mode)
    arrays, x = small(8), np.ones((1, 3), np.float32)
    graph = Graph(two_layers, P.to_parameters(arrays), "cpu")
    graph(ms.Tensor(x))
    arrays["b.0"]["weight"] = arrays["b.0"]["weight"] * 2
    graph.params["b.0"]["weight"].set_data(ms.Tensor(arrays["b.0"]["weight"]))
    np.testing.assert_allclose(graph(ms.Tensor(x)).asnumpy(), expected(arrays, x), atol=1e-5)


def test_two_graphs_share_their_parameters():
    """As the VAE's encoder and decoder do: a change is seen by both, and no leaf is stored
    twice."""
    arrays, x = small(9), np.ones((1, 3), np.float32)
    params = P.to_parameters(arrays)
    first, second = Graph(two_layers, params, "cpu"), Graph(two_layers, params, "reference")
    first(ms.Tensor(x)), second(ms.Tensor(x))
    arrays["a"]["weight"] = -arrays["a"]["weight"]
    params["a"]["weight"].set_data(ms.Tensor(arrays["a"]["weight"]))
    for graph in (first, second):
        np.testing.assert_allclose(graph(ms.Tensor(x)).asnumpy(), expected(arrays, x), atol=1e-5)


def every_constant(params, x, kernels):
    """What the networks put into their graphs as constants that numpy computes."""
    steps = layers.time_embedding(params, x[:, 0, 0, 0], 4, True, 0, x.dtype, kernels)
    words = x[:, :, 0]
    seen = K.attention(words, words, words, 2, kernels, causal=True)
    return steps.sum() + seen.sum() + K.upsample(x, kernels).sum()


@pytest.mark.parametrize("kernels", ["cpu", "reference"])
def test_constants_do_not_depend_on_where_numpy_is_installed(monkeypatch, kernels):
    """MindSpore calls numpy while it compiles only if numpy lies in a folder site-packages; Debian
    and Colab have dist-packages."""
    checker, known = check_utils.ThirdPartyLibraryChecker, check_utils.third_party_checker
    before = known.is_third_party_module
    monkeypatch.setattr(
        checker, "is_third_party_module", lambda _, m: "numpy" not in m.__name__ and before(m)
    )
    rng = np.random.default_rng(0)
    arrays = P.tree_map(
        lambda _, leaf: rng.standard_normal(leaf.shape).astype(np.float32), layers.time_specs(4)
    )
    x = ms.Tensor(rng.standard_normal((1, 3, 4, 4)).astype(np.float32))
    params = P.to_parameters(arrays)
    found = Graph(every_constant, params, kernels)(x)
    assert np.allclose(found.asnumpy(), every_constant(params, x, kernels).asnumpy(), atol=1e-4)
