"""The few names of PyTorch that programs for the public pipeline use around it, for programs that
run without PyTorch: `from diffedit_core import torch_names as torch`."""

import contextlib

import mindspore as ms

from .foreign import shown
from .pipeline_checks import check, whole

float16, float32, bfloat16 = ms.float16, ms.float32, ms.bfloat16


class no_grad(contextlib.ContextDecorator):  # noqa: N801, the public name
    """`@no_grad`, `@no_grad()` and `with no_grad():`; the model never records gradients."""

    def __new__(cls, function=None):
        return super().__new__(cls) if function is None else function

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        return False


inference_mode = no_grad


def cat(tensors, dim=0):
    """MindSpore tensors, one after the other along an axis."""
    tensors = list(tensors) if isinstance(tensors, (list, tuple)) else tensors
    good = isinstance(tensors, list) and tensors and all(isinstance(t, ms.Tensor) for t in tensors)
    check("tensors", tensors, good, "a list of MindSpore tensors")
    return ms.ops.concat(tensors, whole("dim", dim, -tensors[0].ndim, tensors[0].ndim - 1))


concat = concatenate = cat


class Generator:
    """A seed in the form that the pipeline's calls take: `Generator(device).manual_seed(0)`."""

    def __init__(self, device=None):
        self._seed = 0

    def manual_seed(self, seed):
        """Itself, with another seed."""
        check("seed", shown(seed), isinstance(seed, int), "a whole number")
        self._seed = seed
        return self

    def initial_seed(self):
        """The seed."""
        return self._seed


def manual_seed(seed):
    """A generator with that seed."""
    return Generator().manual_seed(seed)
