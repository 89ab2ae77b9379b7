"""How far a result may be from the exact one: rounding emulated in numpy, operation by operation.

| function | what it gives |
|---|---|
| `rounded(x, dtype)` | the nearest numbers of a dtype, HF32 among them |
| `computed(name, arrays, settings, dtype)` | an operation on a device; exact for None |
| `tolerance(name, dtype, hf32, terms)` | the largest error to allow |
| `tolerance_of(call, hf32)` | the same of a `trace.Call` |

The matrix unit multiplies numbers of the dtype (HF32 where that is allowed for float32) and adds in
float32, 16 products at a time; everything else is computed in float32; results are rounded to the
dtype once, or with rounds="each" at each step, as the reference lowerings are written.
"""

import functools
import math

import numpy as np

# dtype -> bits of mantissa that are stored, exponents of the smallest and the largest normal number
FORMATS = {
    "fp32": (23, -126, 127),
    "hf32": (11, -126, 127),  # CANN: atlasatcparam_16_0077
    "fp16": (10, -14, 15),
    "bf16": (7, -126, 127),
}
NAMES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}

FACTOR = 4  # a device adds in another order, and its elementary functions are not ours
FLOOR = {"fp32": 2.0**-19, "fp16": 0.0, "bf16": 0.0}  # those are good to some units of float32
MOST_TERMS = 1 << 14  # of an emulated sum; beyond, the error of float32 grows too slowly to matter
AT_ONCE = 16  # products that the matrix unit adds up in one step

HF32_OF = {"none": (), "conv": ("conv2d",), "matmul": ("matmul",), "both": ("conv2d", "matmul")}


def rounded(x, dtype):
    """The nearest number of the dtype, to even where two are equally near; infinity beyond all.

    Args: x: array; dtype: a name of `FORMATS`.
    Returns: float64 of the same shape.
    Laws: idempotent, monotonic; off by at most half a unit in the last place.
    """
    bits, smallest, largest = FORMATS[dtype]
    x = np.asarray(x, np.float64)
    exponent = np.maximum(np.frexp(x)[1] - 1, smallest)
    unit = np.ldexp(1.0, exponent - bits)
    y = np.where(np.isfinite(x), np.rint(x / unit) * unit, x)
    return np.where(np.abs(y) >= 2.0 ** (largest + 1), np.copysign(np.inf, y), y)


def tolerance(name, dtype, hf32="none", terms=1, rounds="once"):
    """The largest error to allow in a result, relative to its largest value.

    Args:
        name: of an operation of the table; any other is taken for one of single elements.
        dtype: "fp32", "fp16", "bf16", or MindSpore's name of one.
        hf32: "none", "conv", "matmul" or "both": which products of float32 are in HF32.
        terms: how many numbers are added up for one of the result.
        rounds: "once", or "each" for lowerings that round after each step.
    Returns: float; 0 for operations that only move numbers.
    """
    dtype = NAMES.get(dtype, dtype)
    kind = "conv2d" if name == "conv2d" else "matmul"
    terms = min(MOST_TERMS, 1 << max(0, math.ceil(math.log2(terms))))
    return _tolerance(name, dtype, kind in HF32_OF[hf32], terms, rounds)


def tolerance_of(call, hf32="none", rounds="once"):
    """`tolerance` of a `trace.Call`."""
    return tolerance(call.name, call.dtypes[-1], hf32, terms_of(call), rounds)


def terms_of(call):
    """How many numbers are added up for one of the result of a `trace.Call`; the most, where there
    are several sums."""
    name, shapes = call.name, call.shapes
    if name in ("conv2d", "linear", "linear_from_picture", "linear_to_picture"):
        return math.prod(shapes[1][1:])
    if name == "geglu":
        return max(shapes[1][1], shapes[3][1])
    if name == "attention":
        return max(shapes[1][1], shapes[0][2] // call.settings[0])
    if name == "group_norm":
        return math.prod(shapes[0][1:]) // call.settings[0]
    return shapes[0][-1] if name == "layer_norm" else 1


@functools.lru_cache(maxsize=None)
def _tolerance(name, dtype, hf32, terms, rounds):
    if name in MOVING:
        return 0.0
    half_unit = 2.0 ** -(FORMATS[dtype][0] + 1)
    if name not in OPERATIONS:
        return max(FACTOR * half_unit, FLOOR[dtype])
    arrays, settings = sample(name, dtype, terms)
    wanted = computed(name, arrays, settings, None)
    found = computed(name, arrays, settings, dtype, hf32, rounds)
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    return max(FACTOR * max(error, half_unit), FLOOR[dtype])


# --- operations -----------------------------------------------------------------------------------


class Device:
    """How numbers are rounded: `inner` between the steps of an operation, `out` at its end."""

    def __init__(self, dtype, hf32, rounds):
        self.exact = dtype is None
        self.kind, self.factors = dtype, "hf32" if hf32 and dtype == "fp32" else dtype
        self.within = dtype if rounds == "each" else "fp32"

    def inner(self, x):
        return x if self.exact else rounded(x, self.within)

    def out(self, x):
        return x if self.exact else rounded(x, self.kind)

    def product(self, a, b):
        """a b, matrices."""
        if self.exact:
            return a @ b
        a, b = (rounded(x, self.factors).astype(np.float32) for x in (a, b))
        total = np.zeros((a.shape[0], b.shape[1]), np.float32)
        for k in range(0, a.shape[1], AT_ONCE):
            total += a[:, k : k + AT_ONCE] @ b[k : k + AT_ONCE]
        return total.astype(np.float64)

    def mean(self, x):
        """Over the last axis, which stays."""
        x = x if self.exact else x.astype(np.float32)
        return x.mean(-1, keepdims=True).astype(np.float64)


def conv2d(on, x, weight, bias, stride, padding):
    top, bottom, left, right = padding
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    rows, columns = weight.shape[2:]
    windows = np.lib.stride_tricks.sliding_window_view(x, (rows, columns), (2, 3))
    windows = windows[:, :, ::stride, ::stride]  # [B,C,H,W,rows,columns]
    batch, _, height, width = windows.shape[:4]
    total = 0
    if on.within == "fp32" or on.exact:
        cells = windows.transpose(0, 2, 3, 1, 4, 5).reshape(batch * height * width, -1)
        total = on.product(cells, weight.reshape(len(weight), -1).T)
    else:  # one offset after the other, each sum rounded
        for i in range(rows):
            for j in range(columns):
                cells = windows[..., i, j].transpose(0, 2, 3, 1).reshape(-1, x.shape[1])
                part = on.out(on.product(cells, weight[:, :, i, j].T))
                total = on.inner(total + part)
    y = on.out(total + bias)
    return y.reshape(batch, height, width, -1).transpose(0, 3, 1, 2)


def linear(on, x, weight, bias):
    y = on.product(x.reshape(-1, x.shape[-1]), weight.reshape(len(weight), -1).T)
    y = on.out(on.inner(y) + (0 if bias is None else bias))
    return y.reshape(*x.shape[:-1], len(weight))


def linear_from_picture(on, x, weight, bias):
    return linear(on, x.reshape(*x.shape[:2], -1).swapaxes(1, 2), weight, bias)


def linear_to_picture(on, x, weight, bias, height, width):
    y = linear(on, x, weight, bias).swapaxes(1, 2)
    return y.reshape(*y.shape[:2], height, width)


def geglu(on, x, weight, bias, weight_out, bias_out):
    a, b = np.split(linear(on, x, weight, bias), 2, -1)
    return linear(on, on.out(a * gelu(on, b)), weight_out, bias_out)


def attention(on, query, key, value, heads, causal):
    width = query.shape[2] // heads
    y = np.empty_like(query)
    ahead = np.triu(np.full((query.shape[1], key.shape[1]), -1e30), 1) if causal else 0
    for i in range(len(query)):
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            scores = on.product(query[i, :, own], key[i, :, own].T) / math.sqrt(width) + ahead
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights = on.out(weights / weights.sum(-1, keepdims=True))  # a factor of the next
            y[i, :, own] = on.out(on.product(weights, value[i, :, own]))
    return y


def group_norm(on, x, weight, bias, groups, eps):
    y = normed(on, x.reshape(len(x), groups, -1), eps).reshape(x.shape)
    return scaled(on, y, weight.reshape(-1, 1, 1), bias.reshape(-1, 1, 1))


def layer_norm(on, x, weight, bias, eps):
    return scaled(on, normed(on, x, eps), weight, bias)


def normed(on, x, eps):
    """Mean 0 and variance 1 over the last axis; the sums are in float32 always."""
    centred = x - on.mean(x)
    return centred / np.sqrt(on.mean(centred * centred) + eps)


def scaled(on, x, weight, bias):
    return on.out(on.inner(on.inner(x) * weight) + bias)


def gelu(on, x):
    t = on.inner(on.inner(x / math.sqrt(2)))
    t = on.inner(1 + on.inner(_erf(t)))
    return on.out(on.inner(x * 0.5) * t)


def quick_gelu(on, x):
    return on.out(x * on.inner(sigmoid(on.inner(1.702 * x))))


def silu(on, x):
    return on.out(x * on.inner(sigmoid(x)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


_erf = np.vectorize(math.erf, otypes=[np.float64])

OPERATIONS = {
    f.__name__: f
    for f in (
        conv2d,
        linear,
        linear_from_picture,
        linear_to_picture,
        geglu,
        attention,
        group_norm,
        layer_norm,
        gelu,
        quick_gelu,
        silu,
    )
}
MOVING = ("upsample", "embedding", "concat", "concat2", "concat3", "cut", "gather")


def computed(name, arrays, settings, dtype, hf32=False, rounds="once"):
    """An operation as a device computes it.

    Args:
        name: of `OPERATIONS`.
        arrays: float64, numbers of the dtype; settings: the other arguments.
        dtype: "fp32", "fp16" or "bf16"; None gives the exact result.
    Returns: float64.
    """
    return OPERATIONS[name](Device(dtype, hf32, rounds), *arrays, *settings)


def sample(name, dtype, terms, seed=0):
    """(arrays of numbers of the dtype, settings) of an operation that adds up about so many."""
    rng = np.random.default_rng(seed)
    deep, wide = max(terms, 2), min(max(terms, 2), 128)
    channels, side = max(1, deep // 9), max(1, math.isqrt(deep // 2))
    shapes = {  # a weight's numbers have the variance 1 / numbers that are added up
        "conv2d": ((1, channels, 4, 5), (8, channels, 3, 3), (8,)),
        "linear": ((24, deep), (16, deep), (16,)),
        "linear_from_picture": ((1, deep, 3, 5), (16, deep), (16,)),
        "linear_to_picture": ((1, 15, deep), (16, deep), (16,)),
        "geglu": ((4, deep), (2 * wide, deep), (2 * wide,), (16, wide), (16,)),
        "attention": ((1, 16, 16), (1, deep, 16), (1, deep, 16)),
        "group_norm": ((1, 4, side, side), (4,), (4,)),
        "layer_norm": ((6, deep), (deep,), (deep,)),
    }
    settings = {
        "conv2d": (1, (1, 1, 1, 1)),
        "linear_to_picture": (3, 5),
        "attention": (1, False),
        "group_norm": (2, 1e-5),
        "layer_norm": (1e-5,),
    }
    if name not in shapes:
        return (rounded(np.linspace(-9, 9, 1024).reshape(4, 256), dtype),), ()
    arrays = [rng.standard_normal(shape) for shape in shapes[name]]
    if name not in ("attention", "group_norm", "layer_norm"):
        arrays = [
            x / math.sqrt(math.prod(x.shape[1:]) if i % 2 else 1) for i, x in enumerate(arrays)
        ]
    return tuple(rounded(x, dtype) for x in arrays), settings.get(name, ())
