"""Tensors of other libraries: read as numpy arrays, and given back in the kind that came."""

import sys

import mindspore as ms
import numpy as np

from .errors import InputError


def is_tensor(value):
    """Whether it is a tensor of MindSpore or of PyTorch (anything with `detach` and `numpy`)."""
    return isinstance(value, ms.Tensor) or _is_torch(value)


def _is_torch(value):
    if isinstance(value, (type, np.ndarray, ms.Tensor)):
        return False
    return all(hasattr(value, method) for method in ("detach", "numpy"))


def to_numpy(value, name):
    """A tensor, an array, or a nested list of numbers or of these -> numpy array; bf16 as float32.

    Raises:
        InputError: it is none of these, or has rows of unequal lengths. The sentence begins with
            `name`.
    """
    if isinstance(value, ms.Tensor):
        return (value.astype(ms.float32) if value.dtype == ms.bfloat16 else value).asnumpy()

    if _is_torch(value):
        value = value.detach().cpu()
        return (value.float() if "bfloat16" in str(value.dtype) else value).numpy()

    if isinstance(value, (list, tuple)) and any(hasattr(v, "shape") for v in value):
        value = [to_numpy(v, name) for v in value]

    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        array = np.array(None)  # refused below

    if array.dtype.name == "bfloat16":
        return array.astype(np.float32)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} is {shown(value)}: it has to be an array or tensor of numbers.")
    return array


def like(array, given):
    """A numpy array in the kind and the dtype of `given`: numpy, MindSpore or PyTorch. Where that
    has whole numbers, the dtype stays the array's."""
    if "float" not in str(getattr(given, "dtype", "float")).lower():
        return array if isinstance(given, np.ndarray) else beside(array, given)
    if isinstance(given, ms.Tensor):
        return ms.Tensor(np.ascontiguousarray(array)).astype(given.dtype)
    if _is_torch(given):
        library = sys.modules[type(given).__module__.split(".")[0]]
        return library.from_numpy(np.ascontiguousarray(array)).to(given)
    return array.astype(given.dtype) if isinstance(given, np.ndarray) else array


def plain(value):
    """A number of numpy, or a tensor that holds a single one, as Python's own; all else as it
    is."""
    single = getattr(value, "shape", None) == () and hasattr(value, "item")
    return value.item() if single else value


def shown(value):
    """A value for the middle of a sentence: one short line, and of arrays the shape only."""
    if hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, np.generic):
        return f"an array of shape {list(value.shape)} and type {value.dtype}"
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a repr of somebody else's
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def beside(array, given):
    """A numpy array as a tensor of the library of `given`, on its device, in the array's dtype;
    of MindSpore where that has none."""
    if _is_torch(given):
        library = sys.modules[type(given).__module__.split(".")[0]]
        return library.from_numpy(np.ascontiguousarray(array)).to(given.device)
    return ms.Tensor(np.ascontiguousarray(array))
