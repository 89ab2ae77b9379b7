"""How far a result may be from the oracle: the rounding that `benchmarks.ascend.rounding` emulates,
for the lowering that is measured."""

from benchmarks.ascend import rounding
from diffedit_core import kernels as K

from . import flops

# The emulation takes a sample of some hundred results; the largest error of some millions is
# larger: on a CPU 2.5e-6 in attention over 4096 tokens, by either table, where it says 1.9e-6, and
# 0.84 of what it says in fp16 where sums are rounded one after the other.
FLOOR = 2.0**-17
EACH = 2


def bound(call, table, hf32="none"):
    """The largest error allowed, relative to the largest value of the result.

    Args:
        call: `trace.Call`.
        table: kernels, a name or a table; the reference rounds at each of its steps.
        hf32: "none", "conv", "matmul" or "both": which products of float32 may use HF32.
    Returns: float; 0 for operations that only move numbers.
    """
    if call.name == "cast":
        return rounding.tolerance(call.name, flops.result_dtype(call))
    rounds = "each" if of_reference(call.name, table) else "once"
    found = rounding.tolerance_of(call, hf32, rounds)
    if found == 0:
        return 0.0
    if flops.result_dtype(call) == "float32":
        return max(found, FLOOR)
    return found * EACH if rounds == "each" else found


def of_reference(name, table):
    """Whether an operation of a table is the reference's; a composite is made of linear layers."""
    own = K.LOWERINGS[table] if isinstance(table, str) else table
    part = name if name in own else "linear" if name in K.COMPOSITES else None
    return part is not None and own[part] is K.REFERENCE.get(part)
