"""How far a result may be from the float64 oracle: conservative values, in one place to replace by
bounds that are derived from emulated rounding."""

from . import flops

EPSILON = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8, "int32": 0.0}
HF32_EPSILON = 2.0**-12  # products of factors with 11 bits of mantissa

ROUNDINGS = {"fp32": 200, "narrow": 8}  # in half units in the last place of the largest value
PRODUCTS = {
    "conv": ("conv2d",),
    "matmul": ("linear", "linear_from_picture", "linear_to_picture", "geglu", "attention"),
}


def tolerance_of(call, hf32="none"):
    """`tolerance` of a `trace.Call`."""
    return tolerance(call.name, flops.result_dtype(call), hf32)


def tolerance(name, dtype, hf32="none"):
    """The largest error allowed, relative to the largest value of the result.

    Args:
        name: of an operation.
        dtype: name of the dtype of the result and the inputs, such as "float16".
        hf32: "none", "conv", "matmul" or "both": which products of float32 may use HF32.
    Returns: float.
    """
    if dtype == "float32":
        kinds = ("conv", "matmul") if hf32 == "both" else (hf32,)
        if any(name in PRODUCTS.get(kind, ()) for kind in kinds):
            return ROUNDINGS["narrow"] * HF32_EPSILON
        return ROUNDINGS["fp32"] * EPSILON[dtype]
    return ROUNDINGS["narrow"] * EPSILON[dtype]
