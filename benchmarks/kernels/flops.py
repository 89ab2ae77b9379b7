"""Operations and bytes of a call by formula, from its shapes alone.

An addition, a multiplication, a division, a comparison and each elementary function (exp, erf,
sqrt, sin, cos) count as one. A causal attention counts what a token may see. Padding counts as
data. Bytes are the least traffic: each input is read once, the result is written once.
"""

from math import prod

SIZES = {"float32": 4, "float16": 2, "bfloat16": 2, "int32": 4, "int64": 8, "float64": 8}
SIGMOID = 4  # 1 / (1 + exp(-x))
GELU = 5  # x * 0.5 * (1 + erf(x / sqrt 2))


def output_shape(call):
    """Shape of the result."""
    name, shapes, settings = call.name, call.shapes, call.settings
    x = shapes[0]
    if name == "conv2d":
        weight, (stride, (top, bottom, left, right)) = shapes[1], settings
        height = (x[2] + top + bottom - weight[2]) // stride + 1
        return (x[0], weight[0], height, (x[3] + left + right - weight[3]) // stride + 1)
    if name == "linear":
        return (*x[:-1], shapes[1][0])
    if name == "geglu":
        return (*x[:-1], shapes[3][0])
    if name == "linear_from_picture":
        return (x[0], x[2] * x[3], shapes[1][0])
    if name == "linear_to_picture":
        return (x[0], shapes[1][0], *settings[-2:])
    if name == "upsample":
        return (*x[:2], 2 * x[2], 2 * x[3])
    if name in ("concat2", "concat3"):
        axis = settings[0]
        return tuple(sum(s[i] for s in shapes) if i == axis else n for i, n in enumerate(x))
    if name == "cut":
        return tuple(settings[0])
    if name == "gather":
        return (*shapes[1], *x[1:])
    if name == "embedding":
        return (*x, shapes[1][1])
    if name in ("add", "multiply", "divide") and len(shapes) == 2:
        return broadcast(*shapes)
    return x


def broadcast(first, second):
    """Shape of two arrays that are combined element by element."""
    length = max(len(first), len(second))
    first, second = [(1,) * (length - len(s)) + tuple(s) for s in (first, second)]
    return tuple(b if a == 1 else a for a, b in zip(first, second))


def flops(call):
    """Number of arithmetic operations."""
    name, shapes, out = call.name, call.shapes, prod(output_shape(call))
    size = prod(shapes[0])
    if name == "conv2d":
        return 2 * out * prod(shapes[1][1:])
    if name in ("linear", "linear_from_picture", "linear_to_picture"):
        return out * (2 * shapes[1][1] - (len(shapes) == 2))  # without bias one addition less
    if name == "geglu":
        rows, wide = prod(shapes[0][:-1]), shapes[1][0]
        gate = (GELU + 1) * rows * (wide // 2)
        return 2 * rows * (wide * shapes[1][1] + prod(shapes[3])) + gate
    if name == "attention":
        return _attention(*shapes[:2], *call.settings)
    if name == "group_norm":
        return 7 * size + 2 * shapes[0][0] * call.settings[0]
    if name == "layer_norm":
        return 7 * size + 2 * prod(shapes[0][:-1])
    each = {"gelu": GELU, "quick_gelu": SIGMOID + 2, "silu": SIGMOID + 1, "clamp": 2, "triad": 2}
    each.update(dict.fromkeys(("add", "multiply", "divide", "sin", "cos"), 1))
    return each.get(name, 0) * out


def _attention(query, key, heads, causal):
    batch, length, channels = query
    dim, tokens = channels // heads, key[1]
    pairs = length * (length + 1) // 2 if causal else length * tokens
    dot, mix = 2 * dim * pairs - pairs, 2 * dim * pairs - dim * length
    softmax = 6 * pairs - 2 * length  # scale, maximum, difference, exp, sum, division
    return batch * heads * (dot + softmax + mix)


def result_dtype(call):
    """Name of the result's dtype."""
    if call.name == "cast":
        return call.settings[0]
    return call.dtypes[1 if call.name == "embedding" else 0]


def bytes_of(call):
    """Bytes of the inputs and of the result; of a table or a cut picture what is used."""
    written = SIZES[result_dtype(call)] * prod(output_shape(call))
    if call.name == "cut":
        return 2 * written
    if call.name in ("gather", "embedding"):
        ids = 1 if call.name == "gather" else 0
        return 2 * written + SIZES[call.dtypes[ids]] * prod(call.shapes[ids])
    read = sum(SIZES[kind] * prod(shape) for shape, kind in zip(call.shapes, call.dtypes))
    return read + written
