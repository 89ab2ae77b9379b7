"""A call as a compiled graph whose inputs are on the device, and its difference from the oracle."""

from typing import Any, NamedTuple

import mindspore as ms
import numpy as np

from diffedit_core import kernels as K
from diffedit_core import params as P
from diffedit_core.graphs import Graph

from . import glue, models, oracle

KINDS = {"float32": ms.float32, "float16": ms.float16, "bfloat16": ms.bfloat16, "int32": ms.int32}


class Case(NamedTuple):
    """A call and its inputs as float64, rounded to their dtypes."""

    call: Any
    arrays: tuple


def compute(params, name, settings, count, kernels):
    """The function that is compiled: an operation of the table or of the glue. The tensors are
    parameters, so that they are on the device before anything is timed."""
    tensors = ()
    for i in range(count):
        tensors = tensors + (params["input" + str(i)],)
    if name in glue.TABLE:
        return glue.TABLE[name](*tensors, *settings)
    return K.call(kernels, name, *tensors, *settings)


def rounded(array, dtype):
    """The array's values in another dtype, as float64."""
    if dtype == "bfloat16":
        bits = np.asarray(array, np.float32).view(np.uint32)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
        return bits.view(np.float32).astype(np.float64)
    return np.asarray(array).astype(dtype).astype(np.float64)


def case(call, rng):
    """The call with random inputs: products of unit variance, norms away from zero."""
    arrays = []
    for i, (shape, dtype) in enumerate(zip(call.shapes, call.dtypes)):
        if dtype == "int32":
            highest = {"gather": call.shapes[0][0], "embedding": call.shapes[-1][0]}
            highest = highest.get(call.name, 1000)
            array = rng.integers(0, highest, shape)
        else:
            array = rng.standard_normal(shape, np.float32)
            weight = "linear" in call.name or call.name in ("conv2d", "geglu")
            if weight and i in (1, 3):
                array /= np.float32(np.sqrt(np.prod(shape[1:])))
        arrays.append(rounded(array, dtype))
    if call.name == "divide" and len(arrays) == 2:
        arrays[1] = rounded(1 + np.abs(arrays[1]), call.dtypes[1])
    return Case(call, tuple(arrays))


def graph(case, kernels):
    """The call as `Graph`, to be called without arguments."""
    call, tree = case.call, {}
    for i, (array, dtype) in enumerate(zip(case.arrays, call.dtypes)):
        exact = array.astype(np.float32 if dtype == "bfloat16" else dtype)
        tensor = ms.Tensor(exact).astype(KINDS[dtype])
        tree[f"input{i}"] = ms.Parameter(tensor, name=f"input{i}", requires_grad=False)
    return Graph(compute, tree, call.name, call.settings, len(tree), kernels)


def oracle_of(case):
    """The result in float64, by numpy."""
    return oracle.ORACLES[case.call.name](*case.arrays, *case.call.settings)


def error(result, wanted):
    """Largest difference from the oracle's result, relative to its largest value; infinity for a
    result that is not finite or has another shape."""
    found = result.astype(ms.float32).asnumpy().astype(np.float64)
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return float("inf")
    scale = np.abs(wanted).max()
    return float(np.abs(found - wanted).max() / (scale if scale > 0 else 1))


def whole(part, dtype, kernels, rng):
    """One evaluation of a model with random weights, as a function without arguments."""
    leaves = P.to_parameters(P.init(part.specs, rng), dtype)
    model = Graph(part.function, leaves, part.config, kernels)
    tensors = []
    for array, (_, wanted) in zip(models.inputs(part, dtype, rng), part.inputs):
        tensor = ms.Tensor(array)
        # a result of an operation is on the device, what numpy hands over is not yet
        tensors.append(tensor * 1 if wanted else (tensor * 1).astype(P.DTYPES[dtype]))
    return lambda: model(*tensors)
