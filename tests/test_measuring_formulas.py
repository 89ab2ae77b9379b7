"""benchmarks.kernels: operations, bytes and oracles of a call against loops that are counted and
against the slow oracles; what a model calls against the trace."""

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.kernels import cases, flops, glue, models, oracle, tolerance
from diffedit_core import kernels as K
from diffedit_core.config import TextConfig, UNetConfig, VAEConfig
from diffedit_core.trace import Call

from . import reference as R
from .test_config import TEXT_15, TEXT_21, UNET_15, UNET_21, VAE_21

small = st.integers(1, 3)


# --- operations, counted --------------------------------------------------------------------------


class Number:
    """A number that counts what is done with it."""

    done = 0

    def _again(self, *_):
        Number.done += 1
        return Number()

    __add__ = __sub__ = __mul__ = __truediv__ = _again
    exp = sqrt = erf = larger = _again


def numbers(count):
    return [Number() for _ in range(count)]


def total(values, start=None):
    """The sum, one addition after the other."""
    first, *rest = ([] if start is None else [start]) + list(values)
    for value in rest:
        first = first + value
    return first


def dot(first, second, bias=None):
    return total([a * b for a, b in zip(first, second)], bias)


def softmax(row):
    largest = row[0]
    for value in row[1:]:
        largest = largest.larger(value)
    powers = [(value - largest).exp() for value in row]
    whole = total(powers)
    return [power / whole for power in powers]


def gelu(x):
    return x * Number() * ((x / Number()).erf() + Number())


def normalised(values):
    count, eps = Number(), Number()
    mean = total(values) / count
    centred = [value - mean for value in values]
    deviation = (total([c * c for c in centred]) / count + eps).sqrt()
    return [c / deviation * Number() + Number() for c in centred]


def count_conv2d(batch, c_in, c_out, height, width, rows, columns):
    for _ in range(batch * c_out * height * width):
        inside = c_in * rows * columns
        dot(numbers(inside), numbers(inside), Number())


def count_linear(cells, c_in, c_out, bias):
    return [
        dot(numbers(c_in), numbers(c_in), Number() if bias else None) for _ in range(cells * c_out)
    ]


def count_attention(batch, heads, length, tokens, dim, causal):
    for _ in range(batch * heads):
        for t in range(length):
            seen = t + 1 if causal else tokens
            weights = softmax([dot(numbers(dim), numbers(dim)) * Number() for _ in range(seen)])
            for _ in range(dim):
                dot(weights, numbers(seen))


def counted(function, *args):
    Number.done = 0
    function(*args)
    return Number.done


def call(name, shapes, *settings, kind="float32"):
    return Call(name, tuple(map(tuple, shapes)), (kind,) * len(shapes), settings)


@given(small, small, small, small, small, small, small, st.integers(1, 2), st.tuples(*[small] * 4))
def test_operations_of_a_convolution(b, c, o, height, width, rows, columns, stride, padding):
    height, width = height + rows, width + columns
    made = call("conv2d", [(b, c, height, width), (o, c, rows, columns), (o,)], stride, padding)
    shape = flops.output_shape(made)
    assert flops.flops(made) == counted(count_conv2d, b, c, *shape[1:], rows, columns)


@given(small, small, small, small, st.booleans())
def test_operations_of_a_linear_layer(batch, cells, c_in, c_out, bias):
    shapes = [(batch, cells, c_in), (c_out, c_in), (c_out,)][: 3 if bias else 2]
    settings = () if bias else (None,)
    wanted = counted(count_linear, batch * cells, c_in, c_out, bias)
    assert flops.flops(call("linear", shapes, *settings)) == wanted
    assert flops.flops(call("linear_to_picture", shapes, *settings, cells, 1)) == wanted
    shapes[0] = (batch, c_in, cells, 1)
    assert flops.flops(call("linear_from_picture", shapes, *settings)) == wanted


@given(small, small, small, small)
def test_operations_of_geglu(rows, c_in, wide, c_out):
    def count():
        values = count_linear(rows, c_in, wide, True)
        gates = count_linear(rows, c_in, wide, True)
        for value, gate in zip(values, gates):
            value * gelu(gate)
        count_linear(rows, wide, c_out, True)

    shapes = [(rows, c_in), (2 * wide, c_in), (2 * wide,), (c_out, wide), (c_out,)]
    assert flops.flops(call("geglu", shapes)) == counted(count)


@given(small, small, st.integers(1, 4), st.integers(1, 4), small, st.booleans())
def test_operations_of_attention(batch, heads, length, tokens, dim, causal):
    tokens = length if causal else tokens
    shapes = [(batch, length, heads * dim), *[(batch, tokens, heads * dim)] * 2]
    made = call("attention", shapes, heads, causal)
    assert flops.flops(made) == counted(count_attention, batch, heads, length, tokens, dim, causal)


@given(small, small, small, small, small)
def test_operations_of_the_norms(batch, groups, each, height, width):
    def count(many, size):
        for _ in range(many):
            normalised(numbers(size))

    channels = groups * each
    shapes = [(batch, channels, height, width), (channels,), (channels,)]
    wanted = counted(count, batch * groups, each * height * width)
    assert flops.flops(call("group_norm", shapes, groups, 1e-5)) == wanted
    shapes = [(batch, height, channels), (channels,), (channels,)]
    wanted = counted(count, batch * height, channels)
    assert flops.flops(call("layer_norm", shapes, 1e-5)) == wanted


ELEMENTWISE = {
    "gelu": (gelu, 1),
    "silu": (lambda x: Number() / (Number() + (x * Number()).exp()) * x, 1),
    "quick_gelu": (lambda x: x * (Number() / (Number() + (x * Number() * Number()).exp())), 1),
    "add": (lambda x, y: x + y, 2),
    "multiply": (lambda x, y: x * y, 2),
    "divide": (lambda x, y: x / y, 2),
    "triad": (lambda x, y: x * Number() + y, 2),
    "sin": (Number.exp, 1),
    "cos": (Number.exp, 1),
    "clamp": (lambda x: x.larger(Number()).larger(Number()), 1),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_operations_of_each_element(name):
    function, tensors = ELEMENTWISE[name]

    def count():
        for _ in range(2 * 3 * 5):
            function(*numbers(tensors))

    assert flops.flops(call(name, [(2, 3, 5)] * tensors)) == counted(count)


# --- shapes, bytes and results --------------------------------------------------------------------

# every operation that is measured, as calls with distinct sizes
CALLS = (
    call("conv2d", [(2, 3, 9, 7), (5, 3, 3, 3), (5,)], 1, (1, 1, 1, 1)),
    call("conv2d", [(2, 3, 9, 7), (5, 3, 2, 3), (5,)], 2, (0, 1, 2, 1)),
    call("linear", [(2, 5, 7), (9, 7), (9,)]),
    call("linear", [(3, 7), (5, 7)], None),
    call("linear_from_picture", [(2, 7, 3, 5), (9, 7, 1, 1), (9,)]),
    call("linear_from_picture", [(2, 7, 3, 5), (9, 7)], None),
    call("linear_to_picture", [(2, 15, 7), (9, 7), (9,)], 3, 5),
    call("linear_to_picture", [(3, 7, 5), (3, 5)], None, 7, 1),
    call("geglu", [(2, 9, 5), (14, 5), (14,), (3, 7), (3,)]),
    call("attention", [(3, 9, 10), (3, 7, 10), (3, 7, 10)], 5, False),
    call("attention", [(2, 9, 15)] * 3, 3, True),
    call("group_norm", [(2, 15, 5, 7), (15,), (15,)], 3, 1e-5),
    call("layer_norm", [(2, 5, 7), (7,), (7,)], 1e-5),
    call("gelu", [(3, 5)]),
    call("quick_gelu", [(3, 5)]),
    call("silu", [(3, 5)]),
    call("upsample", [(2, 3, 5, 7)]),
    Call("embedding", ((2, 5), (11, 3)), ("int32", "float32"), ()),
)
SLOW = {"embedding": lambda ids, table: np.stack([table[int(i)] for i in ids.flat]).reshape(
    *ids.shape, -1)}  # fmt: skip
GLUE = (
    (call("add", [(2, 3), (3,)]), lambda x, y: x + y[None]),
    (call("multiply", [(2, 3), (2, 1)]), lambda x, y: x * y),
    (call("multiply", [(4,)], 0.5), lambda x: x / 2),
    (call("divide", [(4,), (4,)]), lambda x, y: x * (1 / y)),
    (call("triad", [(5,), (5,)], 0.5), lambda x, y: x / 2 + y),
    (call("cast", [(2, 3)], "float16"), lambda x: x),
    (call("concat2", [(2, 3), (2, 5)], 1), lambda x, y: np.hstack((x, y))),
    (call("concat3", [(1, 2), (3, 2), (4, 2)], 0), lambda x, y, z: np.vstack((x, y, z))),
    (call("cut", [(5, 3)], (2, 3)), lambda x: x[:2]),
    (Call("gather", ((7, 3), (5,)), ("float32", "int32"), ()), lambda t, i: t[i.astype(int)]),
    (call("clamp", [(50,)], -0.5, 0.5), lambda x: np.minimum(np.maximum(x, -0.5), 0.5)),
    (call("sin", [(4,)]), lambda x: np.cos(x - math.pi / 2)),
    (call("cos", [(4,)]), lambda x: np.sin(x + math.pi / 2)),
)


def slow(made, arrays):
    """The result by the literal oracle; a bias that is missing stands among the settings."""
    if made.name in SLOW:
        return SLOW[made.name](*arrays)
    return getattr(R, made.name)(*arrays, *made.settings)


@pytest.mark.parametrize("made", CALLS, ids=str)
def test_the_fast_oracle_is_the_slow_one(made):
    case = cases.case(made, np.random.default_rng(0))
    found = cases.oracle_of(case)
    np.testing.assert_allclose(found, slow(made, case.arrays), rtol=0, atol=1e-12)


@pytest.mark.parametrize("made, wanted", GLUE, ids=[str(made) for made, _ in GLUE])
def test_the_oracle_between_the_kernels(made, wanted):
    case = cases.case(made, np.random.default_rng(0))
    np.testing.assert_allclose(cases.oracle_of(case), wanted(*case.arrays), rtol=0, atol=1e-12)


def test_attention_in_parts_is_whole():
    q, k, v = np.random.default_rng(0).standard_normal((3, 2, 9, 6))
    for causal in (False, True):
        whole = oracle.attention(q, k, v, 2, causal)
        parts = oracle.attention(q, k, v, 2, causal, rows=4)
        np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-14)


@pytest.mark.parametrize("made", [*CALLS, *(made for made, _ in GLUE)], ids=str)
def test_shape_and_bytes_are_those_of_the_arrays(made):
    """Of a table and of a picture that is cut, what is used is read once."""
    case = cases.case(made, np.random.default_rng(0))
    result = cases.oracle_of(case)
    assert flops.output_shape(made) == result.shape
    sizes = [flops.SIZES[kind] for kind in made.dtypes]
    read = [array.size * size for array, size in zip(case.arrays, sizes)]
    out = result.size * flops.SIZES[flops.result_dtype(made)]
    if made.name == "cut":
        read = [out]
    if made.name in ("gather", "embedding"):
        read[0 if made.name == "gather" else 1] = out
    assert flops.bytes_of(made) == sum(read) + out


@given(st.lists(st.integers(1, 4), max_size=3), st.data())
def test_broadcasting_is_numpys(first, data):
    second = [data.draw(st.sampled_from((1, n))) for n in first]
    second = second[data.draw(st.integers(0, len(second))) :]
    for one, two in ((first, second), (second, first)):
        assert flops.broadcast(one, two) == np.broadcast_shapes(tuple(one), tuple(two))


def test_every_operation_has_its_formulas_and_its_oracle():
    """Of the kernels and of what is between them; a new one needs a row in CALLS first."""
    assert set(K.OPERATIONS) <= {made.name for made in CALLS}
    assert set(glue.TABLE) == {made.name for made, _ in GLUE}
    assert {made.name for made in CALLS} | set(glue.TABLE) == set(oracle.ORACLES)


# --- inputs and bounds ----------------------------------------------------------------------------


@given(st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False))
def test_bf16_is_rounded_to_nearest(x):
    """To 8 bits of mantissa: within half a unit in the last place, and twice is once."""
    found = float(cases.rounded(np.array([x]), "bfloat16")[0])
    assert abs(found - x) <= max(abs(x) * 2.0**-8, 2.0**-134)
    assert cases.rounded(np.array([found]), "bfloat16")[0] == found


def test_a_result_of_another_shape_or_not_finite_is_wrong():
    import mindspore as ms

    wanted = np.array([[1.0, -2.0, 0.5]])
    assert cases.error(ms.Tensor(wanted.astype(np.float32)), wanted) == 0
    assert cases.error(ms.Tensor(np.float32([[1, -2, 0]])), wanted) == 0.25
    assert cases.error(ms.Tensor(np.float32([[1, -2, np.nan]])), wanted) == np.inf
    assert cases.error(ms.Tensor(np.float32([1, -2, 0.5])), wanted) == np.inf


def test_the_bound_is_that_of_the_lowering():
    """The reference rounds at each step, and so may be farther off in half precision; a cast is as
    good as its result; what only moves numbers is exact."""
    conv = call("conv2d", [(2, 64, 9, 7), (5, 64, 3, 3), (5,)], 1, (1, 1, 1, 1), kind="float16")
    linear = call("linear_from_picture", [(2, 64, 3, 5), (9, 64), (9,)], kind="float16")
    for made in (conv, linear):
        assert tolerance.bound(made, "reference") >= tolerance.bound(made, "cpu") > 0
        assert tolerance.of_reference(made.name, "reference")
        assert not tolerance.of_reference(made.name, "cpu")
    own = {**K.LOWERINGS["cpu"], "conv2d": K.REFERENCE["conv2d"]}
    assert tolerance.of_reference("conv2d", own) and not tolerance.of_reference("add", own)
    plain = call("conv2d", conv.shapes, *conv.settings)
    assert tolerance.bound(plain, "cpu", "conv") > tolerance.bound(plain, "cpu", "matmul")
    assert tolerance.bound(plain, "cpu", "matmul") == tolerance.bound(plain, "cpu")
    down, up = call("cast", [(3,)], "float16"), call("cast", [(3,)], "float32", kind="float16")
    assert tolerance.bound(down, "cpu") >= 2.0**-12 > tolerance.bound(up, "cpu")
    attention = call("attention", [(2, 4096, 320)] * 3, 5, False)
    assert 2.5e-6 < tolerance.bound(attention, "cpu") < 1e-5
    assert tolerance.bound(call("upsample", [(2, 3, 5, 7)]), "cpu") == 0
    assert tolerance.bound(call("concat2", [(2, 3), (2, 5)], 1), "cpu") == 0


# --- what a model calls ---------------------------------------------------------------------------


def test_architectures_are_those_of_the_released_files():
    """But for the size, which is in SIZES, and for what the kernels decide."""
    for name, files in (("sd21-base", (UNET_21, TEXT_21)), ("sd15", (UNET_15, TEXT_15))):
        own = dict(models.KNOWN[name])
        released = UNetConfig.read(files[0])
        same = {n: getattr(released, n) for n in ("sample_size", "upcast_attention")}
        own["unet"] = dataclasses.replace(own["unet"], **same)
        assert own["unet"] == released and own["text"] == TextConfig.read(files[1])
        read = VAEConfig.read(VAE_21)
        assert dataclasses.replace(own["vae"], sample_size=read.sample_size) == read
    assert models.KNOWN["sd21"] == models.KNOWN["sd21-base"]
    assert models.SIZES == {"sd21": 768, "sd21-base": 512, "sd15": 512}


def test_calls_of_stable_diffusion():
    """One evaluation of SD 2.1-base with guidance at 512: the kernels are those of the trace."""
    (part,) = models.parts("unet", "sd21-base", 512, None)
    found = models.calls(part, "fp32")
    assert part.batch == 2 and len(found) == 131 and sum(found.values()) == 603
    count = Counter()
    for made, times in found.items():
        count[made.name] += times
    assert count["attention"] == 2 * 16 and count["geglu"] == 16
    assert count["conv2d"] == 2 * 22 + 14 + 3 + 3 + 2
    assert count["concat2"] >= 12, "the skips"
    # the additions of 22 residual blocks (two each) and of 16 transformers (four each)
    assert count["add"] == 2 * 22 + 4 * 16
    total = sum(flops.flops(made) * times for made, times in found.items())
    assert 2 * 0.80e12 < total < 2 * 0.82e12


@pytest.mark.parametrize("suite", ("unet", "vae", "text"))
def test_a_dtype_changes_no_count(suite):
    """What is measured in half precision are the same calls, but for casts."""
    for part in models.parts(suite, "orchard", 32, 1):
        counts = []
        for dtype in ("fp32", "fp16"):
            found = Counter()
            for made, times in models.calls(part, dtype).items():
                if made.name != "cast":
                    found[made.name, made.shapes] += times
            counts.append(found)
        assert counts[0] == counts[1]


def test_watching_leaves_the_library_as_it_was():
    from mindspore import ops

    import mindspore as ms

    owned = ("__add__", "__mul__", "__truediv__", "__getitem__", "astype")
    before = [getattr(ms.Tensor, name) for name in owned] + [ops.concat, ops.sin]
    with pytest.raises(KeyError):
        with glue.watched():
            raise KeyError
    assert [getattr(ms.Tensor, name) for name in owned] + [ops.concat, ops.sin] == before
