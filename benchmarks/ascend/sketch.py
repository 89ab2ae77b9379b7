"""Which functions of MindSpore's library a whole model calls, with what shapes and settings: of any
size, without its weights, without arithmetic, and with lowerings that this machine cannot run.

The lowerings themselves run, on tensors that have a shape and a dtype only. While they do, the
functions of the library that they call are replaced by ones that write down their arguments.
"""

import contextlib
import math
from collections import Counter
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import mint, ops

from diffedit_core import params as P, trace


class Call(NamedTuple):
    """One call of the library: its name; shapes and dtypes of its tensors by the names of the
    arguments; the other arguments; and the operation of the table that made it ("" for none)."""

    name: str
    shapes: dict
    dtypes: dict
    settings: dict
    operation: str = ""


class Sketch:
    """A tensor without values."""

    def __init__(self, shape, dtype):
        self.shape, self.dtype = tuple(shape), dtype

    def __add__(self, other):
        if hasattr(other, "dtype") and other.dtype != self.dtype:
            raise TypeError(f"{self.dtype} meets {other.dtype}: the library would cast")
        return Sketch(np.broadcast_shapes(self.shape, getattr(other, "shape", ())), self.dtype)

    __radd__ = __mul__ = __rmul__ = __truediv__ = __add__

    def __getitem__(self, key):
        return Sketch(np.broadcast_to(np.int8(0), self.shape)[key].shape, self.dtype)

    def astype(self, dtype):
        return Sketch(self.shape, dtype)

    def swapaxes(self, a, b):
        return Sketch(np.broadcast_to(np.int8(0), self.shape).swapaxes(a, b).shape, self.dtype)

    def reshape(self, *shape):
        shape = list(shape[0] if isinstance(shape[0], tuple) else shape)
        size = math.prod(self.shape)
        if -1 in shape:
            shape[shape.index(-1)] = -size // math.prod(shape)
        if math.prod(shape) != size:
            raise ValueError(f"{self.shape} cannot become {shape}")
        return Sketch(shape, self.dtype)


# --- the library ----------------------------------------------------------------------------------


def _product(x, y, across=False):
    rows = y.shape[-2] if across else y.shape[-1]
    inner = y.shape[-1] if across else y.shape[-2]
    if x.shape[-1] != inner:
        raise ValueError(f"{x.shape} does not meet {y.shape}")
    return (*np.broadcast_shapes(x.shape[:-2], y.shape[:-2]), x.shape[-2], rows)


def _pair(value):
    return value if isinstance(value, tuple) else (value, value)


def _convolved(input, weight, bias=None, stride=1, padding=0):
    if input.shape[1] != weight.shape[1]:
        raise ValueError(f"{input.shape} does not meet {weight.shape}")
    sides = zip(input.shape[2:], weight.shape[2:], _pair(stride), _pair(padding))
    return (input.shape[0], weight.shape[0], *((n + 2 * p - k) // s + 1 for n, k, s, p in sides))


def _padded(input, pad):
    left, right, top, bottom = pad
    batch, channels, height, width = input.shape
    return batch, channels, height + top + bottom, width + left + right


def _lined(input, weight, bias=None):
    if input.shape[-1] != weight.shape[1]:
        raise ValueError(f"{input.shape} does not meet {weight.shape}")
    return (*input.shape[:-1], weight.shape[0])


def _joined(tensors, axis):
    shape = list(tensors[0].shape)
    shape[axis] = sum(t.shape[axis] for t in tensors)
    return shape


def _as_first(first, *_, **__):
    return first.shape


LIBRARY = {  # function: (where it is, names of its arguments, the shape of its result)
    "conv2d": (mint.nn.functional, "input weight bias stride padding", _convolved),
    "pad": (mint.nn.functional, "input pad", _padded),
    "linear": (mint.nn.functional, "input weight bias", _lined),
    "group_norm": (mint.nn.functional, "input num_groups weight bias eps", _as_first),
    "layer_norm": (mint.nn.functional, "input normalized_shape weight bias eps", _as_first),
    "gelu": (mint.nn.functional, "input approximate", _as_first),
    "interpolate": (
        mint.nn.functional,
        "input size mode",
        lambda input, size, mode: (*input.shape[:2], *size),
    ),
    "embedding": (
        mint.nn.functional,
        "input weight",
        lambda input, weight: (*input.shape, weight.shape[1]),
    ),
    "flash_attention_score": (
        ops,
        "query key value head_num attn_mask scalar_value input_layout",
        _as_first,
    ),
    "silu": (ops, "input", _as_first),
    "sigmoid": (ops, "input", _as_first),
    "softmax": (ops, "input axis", _as_first),
    "clamp": (ops, "input min max", _as_first),
    "broadcast_to": (ops, "input shape", lambda input, shape: shape),
}


def _noted(note, name):
    """The stand-in for a function of the library."""
    _, names, shape = LIBRARY[name]

    def function(*args, **options):
        given = {**dict(zip(names.split(), args)), **options}
        unknown = set(given) - set(names.split())
        if unknown:
            raise TypeError(f"{name} is called with {', '.join(unknown)}, which nobody checks")
        note(name, given)
        leading = given["weight"] if name == "embedding" else args[0]
        return Sketch(shape(**given) if shape is not _as_first else args[0].shape, leading.dtype)

    return function


def _stand_ins(note):
    """(owner, name, what stands there): the functions of `LIBRARY`, and those of another form."""

    def concat(tensors, axis=0):
        note("concat", {f"input{i}": t for i, t in enumerate(tensors)} | {"axis": axis})
        return Sketch(_joined(tensors, axis), tensors[0].dtype)

    def batch_matmul(transpose_b=False):
        def product(x, y):
            note("BatchMatMul", {"x": x, "y": y, "transpose_b": transpose_b})
            return Sketch(_product(x, y, transpose_b), x.dtype)

        return product

    def layer_norm(begin_norm_axis, begin_params_axis, epsilon):
        axes = {"begin_norm_axis": begin_norm_axis, "begin_params_axis": begin_params_axis}

        def norm(x, weight, bias):
            note("LayerNorm", {"x": x, "weight": weight, "bias": bias, **axes})
            return (Sketch(x.shape, x.dtype),)

        return norm

    yield from ((owner, name, _noted(note, name)) for name, (owner, *_) in LIBRARY.items())
    yield ops, "concat", concat
    yield ops, "zeros", Sketch
    yield ops, "depend", lambda x, earlier: x
    yield ops, "BatchMatMul", batch_matmul
    yield ops, "LayerNorm", layer_norm


@contextlib.contextmanager
def watched(note):
    """Within, the library only calls note(name, {argument: value})."""
    kept = []
    try:
        for owner, name, function in _stand_ins(note):
            kept.append((owner, name, getattr(owner, name)))
            setattr(owner, name, function)
        yield
    finally:
        for owner, name, function in kept:
            setattr(owner, name, function)


# --- a model --------------------------------------------------------------------------------------


def calls(function, specs, config, shapes, dtype, kernels):
    """Every call of the library by a model.

    Args:
        function, specs, config: as of `trace.unloaded`, `specs` the tree itself.
        shapes: of the inputs; whole numbers are the timestep, and one in a list the token ids.
        dtype: of weights and inputs, a name of `params.DTYPES`.
        kernels: a name of `kernels.LOWERINGS`, or a table.
    Returns:
        (list of `Call`, Counter of the table's operations as `trace.calls` gives them).
        Law: the latter is what `trace.calls` finds on real tensors.
    """
    kind, found, operations, within = P.DTYPES[dtype], [], Counter(), [""]
    leaves = P.tree_map(lambda _, leaf: Sketch(leaf.shape, kind), specs)
    inputs = [_input(shape, kind) for shape in shapes]

    def note(name, given):
        found.append(call(name, given, within[0]))

    def around(name, lowering, args):
        operations[trace.call(name, args)] += 1
        within[0] = name
        result = lowering(*args)
        within[0] = ""
        return result

    with watched(note):
        function(leaves, *inputs, config, trace.wrapped(kernels, around))
    return found, operations


def call(name, given, operation=""):
    """The `Call` of a function with these arguments."""
    tensors = {key: value for key, value in given.items() if hasattr(value, "dtype")}
    return Call(
        name,
        {key: tuple(t.shape) for key, t in tensors.items()},
        {key: str(t.dtype).lower() for key, t in tensors.items()},
        {key: value for key, value in given.items() if key not in tensors},
        operation,
    )


def _input(shape, kind):
    if isinstance(shape, int):
        return ms.Tensor([shape])
    return Sketch(shape[0], ms.int32) if isinstance(shape, list) else Sketch(shape, kind)
