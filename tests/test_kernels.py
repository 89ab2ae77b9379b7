"""diffedit_core.kernels: every lowering against the numpy oracle and its reference, eagerly and
compiled, and in fp16.

Sizes are distinct and odd where the operation allows it. The errors allowed are relative to the
largest value.
"""

from functools import partial


import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.kernels import gelu as fitted
from diffedit_core import kernels as K
from diffedit_core import params as P
from diffedit_core.graphs import Graph
from diffedit_core.kernels import cpu, library, reference, winograd
from tests.test_config import refused

from . import reference as R

# those that the device runs: the CPU has no kernels for some operations of the others
TABLES = tuple(t for t in K.LOWERINGS if t not in K.ONLY_ON_ASCEND or K.device() == "Ascend")
TOLERANCE = {np.float32: 1e-5, np.float16: 4e-3}  # 4e-3: eight roundings of half an epsilon
rng = np.random.default_rng(0)


def normal(*shape):
    return rng.standard_normal(shape)


def conv(c_in, c_out, rows, columns):
    return normal(c_out, c_in, rows, columns) / (c_in * rows * columns) ** 0.5, normal(c_out)


# case -> (operation, arrays, settings); the oracle of the same name takes both
CASES = {
    "conv2d 3x3": ("conv2d", (normal(2, 3, 9, 7), *conv(3, 5, 3, 3)), (1, (1, 1, 1, 1))),
    "conv2d 1x1": ("conv2d", (normal(2, 3, 9, 7), *conv(3, 5, 1, 1)), (1, (0, 0, 0, 0))),
    "conv2d stride 2": ("conv2d", (normal(3, 5, 11, 7), *conv(5, 3, 3, 3)), (2, (1, 1, 1, 1))),
    "conv2d stride 2, padded below and right": (
        "conv2d",
        (normal(1, 3, 8, 6), *conv(3, 5, 3, 3)),
        (2, (0, 1, 0, 1)),
    ),
    "conv2d 3x5, padded unevenly": (
        "conv2d",
        (normal(2, 3, 9, 7), *conv(3, 7, 3, 5)),
        (1, (2, 1, 0, 3)),
    ),
    "linear": ("linear", (normal(2, 5, 7), normal(9, 7), normal(9)), ()),
    "linear without bias": ("linear", (normal(3, 7), normal(5, 7), None), ()),
    "linear from a picture": (
        "linear_from_picture",
        (normal(2, 7, 3, 5), normal(9, 7), normal(9)),
        (),
    ),
    "linear from a picture, without bias": (
        "linear_from_picture",
        (normal(3, 5, 1, 7), normal(3, 5), None),
        (),
    ),
    "linear from a picture, by a 1x1 convolution's weight": (
        "linear_from_picture",
        (normal(2, 5, 7, 3), normal(9, 5, 1, 1), normal(9)),
        (),
    ),
    "linear to a picture, by a 1x1 convolution's weight": (
        "linear_to_picture",
        (normal(3, 15, 5), normal(7, 5, 1, 1), normal(7)),
        (5, 3),
    ),
    "linear to a picture": (
        "linear_to_picture",
        (normal(2, 15, 7), normal(9, 7), normal(9)),
        (3, 5),
    ),
    "linear to a picture, without bias": (
        "linear_to_picture",
        (normal(3, 7, 5), normal(3, 5), None),
        (7, 1),
    ),
    "geglu": (
        "geglu",
        (3 * normal(2, 9, 5), normal(14, 5), normal(14), normal(3, 7), normal(3)),
        (),
    ),
    "attention": ("attention", (normal(2, 9, 15), normal(2, 9, 15), normal(2, 9, 15)), (3, False)),
    "attention to another length": (
        "attention",
        (normal(3, 9, 10), normal(3, 7, 10), normal(3, 7, 10)),
        (5, False),
    ),
    "attention, causal": (
        "attention",
        (normal(2, 9, 15), normal(2, 9, 15), normal(2, 9, 15)),
        (3, True),
    ),
    "attention, one token": (
        "attention",
        (normal(2, 1, 7), normal(2, 1, 7), normal(2, 1, 7)),
        (1, True),
    ),
    "group_norm": ("group_norm", (3 + normal(2, 15, 5, 7), normal(15), normal(15)), (3, 1e-5)),
    "group_norm, one channel each": (
        "group_norm",
        (normal(3, 5, 7, 9), normal(5), normal(5)),
        (5, 1e-6),
    ),
    "group_norm, large eps": ("group_norm", (normal(2, 6, 5, 7), normal(6), normal(6)), (2, 0.5)),
    "layer_norm": ("layer_norm", (3 + normal(2, 5, 7), normal(7), normal(7)), (1e-5,)),
    "layer_norm, large eps": ("layer_norm", (normal(3, 9), normal(9), normal(9)), (0.5,)),
    "gelu": ("gelu", (np.linspace(-9, 9, 3 * 5 * 7).reshape(3, 5, 7),), ()),
    "quick_gelu": ("quick_gelu", (np.linspace(-9, 9, 3 * 5 * 7).reshape(3, 5, 7),), ()),
    "silu": ("silu", (np.linspace(-20, 20, 2 * 3 * 5 * 7).reshape(2, 3, 5, 7),), ()),
    "upsample": ("upsample", (normal(2, 3, 5, 7),), ()),
    "embedding": ("embedding", (np.array([[3, 0, 6], [6, 6, 1]]), normal(7, 5)), ()),
}


def prepared(case, dtype):
    """(operation, tensors of the dtype, settings, the oracle's answer for the rounded arrays)."""
    name, arrays, options = CASES[case]
    arrays = [  # whole numbers are no data of that dtype
        a if a is None or a.dtype.kind == "i" else a.astype(dtype) for a in arrays
    ]
    tensors = [None if a is None else ms.Tensor(a) for a in arrays]
    return name, tensors, options, getattr(R, name)(*arrays, *options)


def assert_near(result, wanted, dtype, case=""):
    assert (
        result.dtype == ms.Tensor(np.zeros(1, dtype)).dtype and result.shape == wanted.shape
    ), case
    error = np.abs(result.asnumpy().astype(np.float64) - wanted).max()
    assert error <= TOLERANCE[dtype] * np.abs(wanted).max(), f"{case}: error {error}"


# --- every lowering -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("table", TABLES)
def test_each_lowering_agrees_with_the_oracle(table, case, dtype):
    name, tensors, options, wanted = prepared(case, dtype)
    assert_near(K.call(table, name, *tensors, *options), wanted, dtype)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("table", [t for t in TABLES if t != "reference"])
def test_each_lowering_agrees_with_its_reference(table, case):
    name, tensors, options, _ = prepared(case, np.float32)
    reference = K.call("reference", name, *tensors, *options).asnumpy()
    assert_near(K.call(table, name, *tensors, *options), reference, np.float32)


def all_cases(params, cases, settings, kernels):
    """Every case in one graph; the arrays stand in the tree `params`."""
    results = ()
    for i in range(len(cases)):
        leaves = params["case" + str(i)]
        arrays = (leaves["a0"],)
        if "a1" in leaves:
            arrays = arrays + (leaves["a1"],)
        if cases[i].startswith("linear") and "a2" not in leaves:
            arrays = arrays + (None,)
        for j in range(2, 5):
            if "a" + str(j) in leaves:
                arrays = arrays + (leaves["a" + str(j)],)
        results = results + (K.call(kernels, cases[i], *arrays, *settings[i]),)
    return results


@pytest.mark.parametrize("table", TABLES)
def test_each_lowering_agrees_when_compiled(table):
    everything = [prepared(case, np.float32) for case in CASES]
    tree = {
        f"case{i}": {f"a{j}": t.asnumpy() for j, t in enumerate(tensors) if t is not None}
        for i, (_, tensors, _, _) in enumerate(everything)
    }
    graph = Graph(
        all_cases,
        P.to_parameters(tree),
        tuple(e[0] for e in everything),
        tuple(e[2] for e in everything),
        table,
    )
    for case, result, (_, _, _, wanted) in zip(CASES, graph(), everything):
        assert_near(result, wanted, np.float32, case)


def test_every_table_has_every_operation():
    for table in K.LOWERINGS.values():
        assert set(K.REFERENCE) <= set(table) <= set(K.OPERATIONS)
    assert not set(K.COMPOSITES) & set(K.REFERENCE)
    named = {name for name, _, _ in CASES.values()}
    assert named == set(K.OPERATIONS), "an operation has no case here"


def test_the_functions_of_the_models_use_the_table():
    """Each public function reaches the operation of its own name, with its arguments in place and
    the leaves as they are."""
    seen = []
    table = {name: (lambda *args, name=name: seen.append((name, args))) for name in K.OPERATIONS}
    leaf = {"weight": "w", "bias": "b"}
    K.conv2d(leaf, "x", table, 2, (0, 1, 0, 1))
    K.conv2d(leaf, "x", table)
    K.linear(leaf, "x", table)
    K.linear({"weight": "w"}, "x", table)
    K.linear_from_picture(leaf, "x", table)
    K.linear_from_picture({"weight": "w"}, "x", table)
    K.linear_to_picture(leaf, "x", 3, 5, table)
    K.linear_to_picture({"weight": "w"}, "x", 3, 5, table)
    K.geglu({"net.0.proj": leaf, "net.2": {"weight": "w2", "bias": "b2"}}, "x", table)
    K.attention("q", "k", "v", 5, table)
    K.attention("q", "k", "v", 5, table, causal=True)
    K.group_norm(leaf, "x", 32, 1e-6, table)
    K.layer_norm(leaf, "x", 1e-5, table)
    K.embedding(leaf, "ids", table)
    for name in ("gelu", "quick_gelu", "silu", "upsample"):
        getattr(K, name)("x", table)
    assert seen == [
        ("conv2d", ("x", "w", "b", 2, (0, 1, 0, 1))),
        ("conv2d", ("x", "w", "b", 1, (1, 1, 1, 1))),
        ("linear", ("x", "w", "b")),
        ("linear", ("x", "w", None)),
        ("linear_from_picture", ("x", "w", "b")),
        ("linear_from_picture", ("x", "w", None)),
        ("linear_to_picture", ("x", "w", "b", 3, 5)),
        ("linear_to_picture", ("x", "w", None, 3, 5)),
        ("geglu", ("x", "w", "b", "w2", "b2")),
        ("attention", ("q", "k", "v", 5, False)),
        ("attention", ("q", "k", "v", 5, True)),
        ("group_norm", ("x", "w", "b", 32, 1e-6)),
        ("layer_norm", ("x", "w", "b", 1e-5)),
        ("embedding", ("ids", "w")),
        ("gelu", ("x",)),
        ("quick_gelu", ("x",)),
        ("silu", ("x",)),
        ("upsample", ("x",)),
    ]


# --- a table of one's own -------------------------------------------------------------------------


def doubled(x, weight, bias):
    """A kernel of one's own: twice the linear layer."""
    return 2 * reference.linear(x, weight, bias)


def picture_and_back(params, x, kernels):
    """Both composites of `linear`, the feed-forward between them."""
    h = K.linear_from_picture(params["a"], x, kernels)
    h = K.geglu(params["ff"], h, kernels)
    return K.linear_to_picture(params["b"], h, x.shape[2], x.shape[3], kernels)


def test_composites_use_the_table_that_they_are_in():
    """Eagerly and in a graph: a `linear` of one's own is what they call."""
    tree = {
        "a": {"weight": normal(5, 7), "bias": normal(5)},
        "ff": {
            "net.0.proj": {"weight": normal(6, 5), "bias": normal(6)},
            "net.2": {"weight": normal(5, 3), "bias": normal(5)},
        },
        "b": {"weight": normal(9, 5, 1, 1), "bias": normal(9)},
    }
    x = normal(2, 7, 3, 5).astype(np.float32)
    h = 2 * R.linear(R.cells(x), tree["a"]["weight"], tree["a"]["bias"])
    a, b = np.split(2 * R.linear(h, *tree["ff"]["net.0.proj"].values()), 2, -1)
    h = 2 * R.linear(a * R.gelu(b), *tree["ff"]["net.2"].values())
    wanted = 2 * R.linear_to_picture(h, tree["b"]["weight"][..., 0, 0], tree["b"]["bias"], 3, 5)
    params, table = P.to_parameters(tree), {**K.LOWERINGS["reference"], "linear": doubled}
    for result in (
        picture_and_back(params, ms.Tensor(x), table),
        Graph(picture_and_back, params, table)(ms.Tensor(x)),
    ):
        assert_near(result, wanted, np.float32)


def test_a_lowering_with_another_threshold_is_a_row_of_a_table():
    """In a graph, too."""
    _, tensors, _, wanted = prepared("attention, causal", np.float32)
    params = P.to_parameters({name: t.asnumpy() for name, t in zip("qkv", tensors)})
    for size in (9 * 4 * ROW, 4 * ROW):
        own = partial(cpu.attention, score_bytes=size)
        graph = Graph(compiled_attention, params, 3, {**K.LOWERINGS["cpu"], "attention": own})
        assert_near(graph(), wanted, np.float32)


def compiled_attention(params, heads, kernels):
    return K.attention(params["q"], params["k"], params["v"], heads, kernels, causal=True)


def test_kernels_are_checked():
    assert K.checked(None) == K.default_kernels()
    own = {**K.LOWERINGS["cpu"], "linear": doubled}
    assert K.checked("ascend-aclop") == "ascend-aclop" and K.checked(own) is own
    refused(lambda: K.checked("cuda"), "'cuda'", *K.LOWERINGS)
    refused(lambda: K.checked(3), "int", "table")
    refused(lambda: K.checked({**own, "linear": None}), "linear", "no function")
    refused(lambda: K.checked({"linear": doubled}), "no function", "conv2d", "upsample")
    refused(lambda: K.checked({**own, "lineer": doubled}), "lineer", "no model calls")


def test_the_device_is_what_mindspore_uses():
    assert K.device() == ms.get_context("device_target")


# --- what only large shapes do, with a lower threshold --------------------------------------------

# Bytes of the scores of one query, for 9 tokens; 2 pictures x 3 heads x 9 queries make 54 of them.
ROW = 4 * 9


@pytest.mark.parametrize("case", ("attention", "attention, causal"))
@pytest.mark.parametrize("rows", (54, 53, 36, 18, 17, 9, 8, 5, 4, 2, 1, 0))
def test_attention_in_pieces_is_the_same(monkeypatch, rows, case):
    """Whatever fits: all at once, some heads or queries at a time with an uneven rest, or a query
    of each picture."""
    _, tensors, options, wanted = prepared(case, np.float32)
    attend, seen = cpu.attend, []

    def recorded(q, k, *rest):
        seen.append(q.shape[0] * q.shape[1])
        return attend(q, k, *rest)

    monkeypatch.setattr(cpu, "attend", recorded)
    result = cpu.attention(*tensors, *options, score_bytes=rows * ROW)
    assert_near(result, wanted, np.float32)
    assert sum(seen) == 54, "each query once"
    assert max(seen) <= max(rows, 2), "no more scores at a time than allowed"


@pytest.mark.parametrize("most, queries", ((9, 1), (8, 2), (3, 3), (2, 5), (1, 9)))
def test_a_head_s_attention_has_no_more_pieces_than_allowed(monkeypatch, most, queries):
    """Of 9 queries, however many bytes that takes: a graph of more takes long to compile."""
    _, tensors, options, wanted = prepared("attention, causal", np.float32)
    attend, seen = cpu.attend, []
    monkeypatch.setattr(cpu, "attend", lambda q, *of: seen.append(q.shape[1]) or attend(q, *of))
    result = cpu.attention(*tensors, *options, score_bytes=0, most=most)
    assert_near(result, wanted, np.float32)
    assert max(seen) == queries and len(seen) == options[0] * -(-9 // queries)


def rows_at_once(monkeypatch):
    """The numbers of rows that `cpu.gated` is called with from now on."""
    gated, seen = cpu.gated, []

    def recorded(x, *leaves):
        seen.append(x.shape[0])
        return gated(x, *leaves)

    monkeypatch.setattr(cpu, "gated", recorded)
    return seen


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rows, least", ((1, 1), (4, 1), (1, 5), (17, 1), (18, 1), (19, 1)))
def test_geglu_in_pieces_is_the_same(monkeypatch, rows, least, dtype):
    """2 x 9 rows, whose wide layer has 14 numbers: more than 17 rows of it are too large."""
    seen = rows_at_once(monkeypatch)
    _, tensors, options, wanted = prepared("geglu", dtype)
    result = cpu.geglu(
        *tensors, *options, wide_bytes=17 * 4 * 14, chunk_bytes=rows * 14 * 4, chunk_rows=least
    )
    assert_near(result, wanted, dtype)
    step = max(rows, least)
    assert seen == [min(step, 18 - start) for start in range(0, 18, step)]


def test_geglu_of_a_small_layer_is_taken_whole(monkeypatch):
    seen = rows_at_once(monkeypatch)
    _, tensors, options, wanted = prepared("geglu", np.float32)
    result = cpu.geglu(*tensors, *options, wide_bytes=18 * 4 * 14, chunk_bytes=0, chunk_rows=1)
    assert_near(result, wanted, np.float32)
    assert seen == [18]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", [case for case in CASES if "a picture" in case])
def test_pictures_one_by_one_are_the_same(monkeypatch, case, dtype):
    """One byte less than all of them need, and one product for each; the exact number takes them
    together."""
    name, tensors, options, wanted = prepared(case, dtype)
    x, weight = tensors[:2]
    channels = x.shape[1] if name == "linear_from_picture" else weight.shape[0]
    cells = x.shape[2] * x.shape[3] if name == "linear_from_picture" else x.shape[1]
    size, joined, pieces = 4 * x.shape[0] * channels * cells, cpu.joined, []
    monkeypatch.setattr(cpu, "joined", lambda p, axis: pieces.append(len(p)) or joined(p, axis))
    function = getattr(cpu, name)
    for limit, wanted_pieces in ((size, []), (size - 1, [x.shape[0]]), (0, [x.shape[0]])):
        pieces.clear()
        assert_near(function(*tensors, *options, transpose_bytes=limit), wanted, dtype)
        assert pieces == wanted_pieces


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("attention")])
def test_heads_cut_out_are_those_of_a_transpose(case):
    """Bit for bit, whichever way a size takes."""
    _, tensors, options, wanted = prepared(case, np.float32)
    size = 4 * tensors[0].size
    cut, whole = (
        cpu.attention(*tensors, *options, transpose_bytes=limit).asnumpy()
        for limit in (size - 1, size)
    )
    assert np.array_equal(cut, whole) and np.abs(cut - wanted).max() < 1e-5
    x, heads = tensors[0], options[0]
    for way in (True, False):
        assert np.array_equal(cpu.joined_heads(cpu.split_heads(x, heads, way), heads, way), x)


@given(st.lists(st.floats(-88, 88, width=32), min_size=1, max_size=60))
def test_gelu_is_as_exact_as_the_reference(values):
    x = np.float32([*np.linspace(-9, 9, 181), *values])
    exact, tensor = fitted.exact(R.wide(x)), ms.Tensor(x)
    errors = [np.abs(g(tensor).asnumpy() - exact).max() for g in (cpu.gelu, reference.gelu)]
    assert errors[0] <= max(1e-6, 2 * errors[1])


@given(st.lists(st.floats(-65504, 65504, width=32), min_size=1, max_size=60))
def test_gelu_of_both_signs_differs_by_the_argument(values):
    """x Phi(x) + x Phi(-x) = x; 0 stays, and nothing overflows."""
    x = np.float32([0, 1e30, 3e38, *values])
    up, down = (cpu.gelu(ms.Tensor(v)).asnumpy() for v in (x, -x))
    assert up[0] == down[0] == 0 and np.isfinite(up).all() and np.isfinite(down).all()
    assert (np.abs(up - down - x) <= 1e-6 * np.maximum(1, np.abs(x))).all()


def test_gelu_s_polynomial_is_the_fitted_one():
    found, error = fitted.fit()
    assert np.allclose(found, cpu.GELU, rtol=1e-5) and error < 7e-8
    squares = np.geomspace(1e-6, 1e6, 1001)
    assert found[-1] > 0 and (np.polynomial.polynomial.polyval(squares, found) > 0).all()


# --- fewer products -------------------------------------------------------------------------------


@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 5),
    out=st.integers(1, 4),
    height=st.integers(1, 5).map(lambda half: 2 * half),
    width=st.integers(1, 7),
    seed=st.integers(0, 2**32 - 1),
)
def test_fewer_products_are_exact_for_whole_numbers(batch, channels, out, height, width, seed):
    """Sums, differences and halves of small whole numbers are exact in fp32, so every bit is the
    convolution's: the identities hold, at borders, too."""
    draw = np.random.default_rng(seed)
    arrays = [
        draw.integers(-9, 10, shape).astype(np.float32)
        for shape in ((batch, channels, height, width), (out, channels, 3, 3), (out,))
    ]
    found = winograd.conv2d(*map(ms.Tensor, arrays)).asnumpy()
    assert np.array_equal(found, R.conv2d(*arrays))


def test_fewer_products_round_as_the_library_does():
    """At most twice its distance from float64, at a size of which a model has many."""
    x, (weight, bias) = normal(2, 96, 16, 16), conv(96, 80, 3, 3)
    arrays = [a.astype(np.float32) for a in (x, weight, bias)]
    tensors, wanted = [ms.Tensor(a) for a in arrays], R.conv2d(*arrays)
    own = np.sqrt(np.mean((winograd.conv2d(*tensors).asnumpy() - wanted) ** 2))
    others = library.conv2d(*tensors, 1, (1, 1, 1, 1)).asnumpy() - wanted
    assert own <= 2 * np.sqrt(np.mean(others**2))


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("conv2d")])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_convolution_without_thresholds_is_the_same(case, dtype):
    _, tensors, options, wanted = prepared(case, dtype)
    assert_near(cpu.conv2d(*tensors, *options, cells=0, channels=0), wanted, dtype)


@pytest.mark.parametrize(
    "shape, kernel, stride, padding, wanted",
    [
        ((1, 5, 6, 7), (3, 5, 3, 3), 1, (1, 1, 1, 1), True),
        ((9, 5, 6, 7), (3, 5, 3, 3), 1, (1, 1, 1, 1), True),
        ((1, 5, 7, 6), (3, 5, 3, 3), 1, (1, 1, 1, 1), False),  # an odd number of rows
        ((9, 5, 4, 10), (3, 5, 3, 3), 1, (1, 1, 1, 1), False),  # too few cells in each
        ((1, 2, 6, 7), (5, 2, 3, 3), 1, (1, 1, 1, 1), False),  # too few channels come in
        ((1, 5, 6, 7), (2, 5, 3, 3), 1, (1, 1, 1, 1), False),  # or go out
        ((1, 6, 6, 7), (3, 6, 3, 3), 1, (1, 1, 1, 1), False),  # too large a picture comes in
        ((1, 3, 6, 7), (6, 3, 3, 3), 1, (1, 1, 1, 1), False),  # or goes out
        ((1, 5, 6, 7), (3, 5, 3, 5), 1, (1, 1, 1, 1), False),
        ((1, 5, 6, 7), (3, 5, 1, 3), 1, (1, 1, 1, 1), False),
        ((1, 5, 6, 7), (3, 5, 3, 3), 2, (1, 1, 1, 1), False),
        ((1, 5, 6, 7), (3, 5, 3, 3), 1, (1, 1, 0, 2), False),
    ],
)
def test_which_convolutions_save_products(monkeypatch, shape, kernel, stride, padding, wanted):
    """And that the lowering asks the same, and in fp32 only."""
    limits = dict(cells=42, channels=3, picture_bytes=4 * 42 * 5)
    assert cpu.saves_products(shape, kernel, stride, padding, **limits) is wanted
    monkeypatch.setattr(winograd, "conv2d", lambda *_: "fewer")
    monkeypatch.setattr(library, "conv2d", lambda *_: "all")
    for dtype, name in ((ms.float32, "fewer" if wanted else "all"), (ms.float16, "all")):
        x, weight = ms.Tensor(np.zeros(shape), dtype), ms.Tensor(np.zeros(kernel), dtype)
        assert cpu.conv2d(x, weight, None, stride, padding, **limits) == name


def test_pieces_are_put_in_order():
    """One alone is itself; more wait for each other."""
    one, two = ms.Tensor(normal(2, 3)), ms.Tensor(normal(2, 3))
    assert cpu.joined((one,), 0) is one and cpu.after(one, ()) is one
    assert np.array_equal(cpu.joined((one, two), 1).asnumpy()[:, 3:], two.asnumpy())
    assert np.array_equal(cpu.after(one, (two,)).asnumpy(), one.asnumpy())


@pytest.mark.parametrize("table", TABLES)
def test_causal_attention_does_not_look_ahead(table):
    _, tensors, _, _ = prepared("attention, causal", np.float32)
    before = K.call(table, "attention", *tensors, 3, True).asnumpy()
    later = [t.asnumpy().copy() for t in tensors]
    for array in later:
        array[:, 5:] += 7
    after = K.call(table, "attention", *map(ms.Tensor, later), 3, True).asnumpy()
    assert (
        np.array_equal(before[:, :5], after[:, :5])
        and np.abs(before[:, 5:] - after[:, 5:]).min() > 0
    )


@pytest.mark.parametrize("table", TABLES)
def test_attention_to_equal_keys_is_the_mean(table):
    query, value = normal(2, 9, 15).astype(np.float32), normal(2, 7, 15).astype(np.float32)
    key = np.ones((2, 7, 15), np.float32)
    result = K.call(table, "attention", *map(ms.Tensor, (query, key, value)), 3, False)
    assert_near(result, np.broadcast_to(value.mean(1, keepdims=True), (2, 9, 15)), np.float32)


# --- half precision: sums stay in fp32 ------------------------------------------------------------

HALF = np.float16


@pytest.mark.parametrize("table", TABLES)
def test_group_norm_of_large_values_in_fp16(table):
    """The squares are more than fp16 holds, with the mean and without it, and so is the plain sum
    of a group."""
    x = (300 + 400 * normal(2, 6, 31, 33)).astype(HALF)
    weight, bias = normal(6).astype(HALF), normal(6).astype(HALF)
    assert (np.square(x.astype(np.float32)) > np.finfo(HALF).max).any()
    result = K.call(table, "group_norm", *map(ms.Tensor, (x, weight, bias)), 3, 1e-5)
    assert_near(result, R.group_norm(x, weight, bias, 3, 1e-5), HALF)


@pytest.mark.parametrize("table", TABLES)
def test_layer_norm_of_large_values_in_fp16(table):
    x = (300 + 400 * normal(3, 5, 777)).astype(HALF)
    weight, bias = normal(777).astype(HALF), normal(777).astype(HALF)
    result = K.call(table, "layer_norm", *map(ms.Tensor, (x, weight, bias)), 1e-5)
    assert_near(result, R.layer_norm(x, weight, bias, 1e-5), HALF)


@pytest.mark.parametrize("table", TABLES)
def test_attention_with_scores_beyond_fp16(table):
    """A score of 5 x 200 x 200 / sqrt(5) = 89,443 is infinite in fp16, and two infinite scores make
    NaN."""
    query = np.full((2, 3, 15), 200, HALF)
    key = np.full((2, 7, 15), 200, HALF) * np.array([1, -1, 1, 0, 0.5, 1, 0.25], HALF).reshape(
        1, 7, 1
    )
    value = normal(2, 7, 15).astype(HALF)
    result = K.call(table, "attention", *map(ms.Tensor, (query, key, value)), 3, False)
    assert_near(result, R.attention(query, key, value, 3), HALF)


@pytest.mark.parametrize("table", TABLES)
def test_attention_to_many_tokens_in_fp16(table):
    """Sums of 3001 small weights: fp16 would lose them one by one, and 3001 weights of 1 overflow
    with values of 60."""
    query, key = np.zeros((1, 3, 5), HALF), np.zeros((1, 3001, 5), HALF)
    value = (60 + normal(1, 3001, 5)).astype(HALF)
    result = (
        K.call(table, "attention", *map(ms.Tensor, (query, key, value)), 1, False)
        .asnumpy()
        .astype(np.float64)
    )
    assert (
        np.abs(result - R.wide(value).mean(1)).max() <= 0.03
    )  # half a unit in the last place at 60 is 0.016


# --- training -------------------------------------------------------------------------------------


def two_norms(params, x, weights, groups, kernels):
    """Two norms of one size: their constants are equal, and a compiler merges them."""
    h = K.group_norm(params["norm1"], x, groups, 1e-5, kernels)
    return (K.group_norm(params["norm2"], h * h, groups, 1e-5, kernels) * weights).sum()


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    "batch, channels, groups", ((2, 15, 5), (2, 6, 3), (1, 5, 5))
)  # batch x groups: also the channels
def test_norms_give_the_same_with_and_without_gradients(table, batch, channels, groups):
    x, weights = (normal(batch, channels, 5, 7).astype(np.float32) for _ in range(2))
    tree = {
        name: {"weight": normal(channels), "bias": normal(channels)} for name in ("norm1", "norm2")
    }
    h = R.group_norm(x, *tree["norm1"].values(), groups, 1e-5)
    terms = R.group_norm(h * h, *tree["norm2"].values(), groups, 1e-5) * weights
    graph = Graph(two_norms, P.to_parameters(tree), groups, table)
    with_gradients = ms.value_and_grad(graph, None, graph.leaves)
    for _ in range(2):
        for value in (
            graph(ms.Tensor(x), ms.Tensor(weights)),
            with_gradients(ms.Tensor(x), ms.Tensor(weights))[0],
        ):
            assert abs(float(value.asnumpy()) - terms.sum()) < 1e-5 * np.abs(terms).sum()


# --- laws -----------------------------------------------------------------------------------------


@given(st.sampled_from(TABLES), st.floats(-50, 50, width=32), st.floats(0.5, 100, width=32))
def test_group_norm_ignores_shift_and_scale(table, shift, scale):
    x = normal(2, 6, 5, 7).astype(np.float32)
    one, zero = ms.Tensor(np.ones(6, np.float32)), ms.Tensor(np.zeros(6, np.float32))
    plain, moved = (
        K.call(table, "group_norm", ms.Tensor(t), one, zero, 3, 1e-12).asnumpy()
        for t in (x, x * scale + shift)
    )
    assert np.abs(plain - moved).max() < 1e-5 * (4 + 4 * abs(shift) / scale)
    assert (
        np.abs(moved.reshape(2, 3, -1).mean(-1)).max() < 1e-4
        and np.abs(moved.reshape(2, 3, -1).std(-1) - 1).max() < 1e-3
    )
