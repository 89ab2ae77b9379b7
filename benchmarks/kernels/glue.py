"""The operations that stand between the kernels: additions, concatenations, casts and the like.

No table has them; they are seen by watching the library's operators while a model is traced.
"""

import contextlib
from collections import Counter

import mindspore as ms
from mindspore import ops

from diffedit_core import kernels as K
from diffedit_core import trace


def add(x, y):
    """x + y."""
    return x + y


def multiply(x, y):
    """x y."""
    return x * y


def triad(x, y, factor):
    """factor x + y, the anchor of the memory: two kernels where the device does not fuse them."""
    return factor * x + y


def divide(x, y):
    """x / y."""
    return x / y


def cast(x, dtype):
    """x in another dtype, by its name."""
    return x.astype(getattr(ms, dtype))


def concat2(x, y, axis):
    """x and y, one after the other."""
    return ops.concat((x, y), axis)


def concat3(x, y, z, axis):
    """x, y and z, one after the other."""
    return ops.concat((x, y, z), axis)


def cut(x, sizes):
    """The first `sizes` of each axis."""
    for axis, size in enumerate(sizes):
        x = ops.narrow(x, axis, 0, size) if size != x.shape[axis] else x
    return x


def gather(table, ids):
    """Rows of a table."""
    return ops.gather(table, ids, 0)


def clamp(x, low, high):
    """x between two numbers."""
    return ops.clamp(x, low, high)


TABLE = {
    "add": add,
    "multiply": multiply,
    "divide": divide,
    "triad": triad,
    "cast": cast,
    "concat2": concat2,
    "concat3": concat3,
    "cut": cut,
    "gather": gather,
    "clamp": clamp,
    "sin": ops.sin,
    "cos": ops.cos,
}


class Seen:
    """What a watch has counted, and whether it counts now."""

    def __init__(self):
        self.calls, self.on = Counter(), True


def unwatched(table, seen):
    """The table's functions, with the watch off while they run."""

    def quiet(function):
        def run(*args):
            before, seen.on = seen.on, False
            try:
                return function(*args)
            finally:
                seen.on = before

        return run

    composites = {n: lambda *a, n=n: K.COMPOSITES[n](table, *a) for n in K.COMPOSITES}
    return {name: quiet(function) for name, function in {**composites, **table}.items()}


def described(name, args, result):
    """The `trace.Call` of a watched operation; None where nothing is computed or moved."""
    if name == "concat":
        tensors, axis = args[0], args[1] if len(args) > 1 else 0
        return trace.call(f"concat{len(tensors)}", (*tensors, axis))
    if name == "astype":
        if result.dtype == args[0].dtype:
            return None
        return trace.call("cast", (args[0], str(result.dtype).lower()))
    if name == "__getitem__":
        if result.shape == args[0].shape:
            return None
        return trace.call("cut", (args[0], tuple(result.shape)))
    if name == "gather":
        return trace.call("gather", args[:2])
    names = {"__add__": "add", "__mul__": "multiply", "__truediv__": "divide"}
    return trace.call(names.get(name, name), args)


WATCHED = (
    (ms.Tensor, ("__add__", "__mul__", "__truediv__", "__getitem__", "astype")),
    (ops, ("concat", "gather", "clamp", "sin", "cos")),
)


@contextlib.contextmanager
def watched():
    """Count the operations of `WATCHED` that are called within, as `Seen`."""
    seen, kept = Seen(), []

    def watch(name, original):
        def run(*args, **options):
            if not seen.on:
                return original(*args, **options)
            seen.on = False
            try:
                result = original(*args, **options)
                call = described(name, args, result)
            finally:
                seen.on = True
            if call is not None:
                seen.calls[call] += 1
            return result

        return run

    try:
        for owner, names in WATCHED:
            for name in names:
                own = name in vars(owner)
                kept.append((owner, name, own, getattr(owner, name)))
                setattr(owner, name, watch(name, getattr(owner, name)))
        yield seen
    finally:
        for owner, name, own, original in kept:
            if own:
                setattr(owner, name, original)
            else:
                delattr(owner, name)
