"""Models that are loaded and compiled once for all tests, such as the micro model of the fixtures.

Every shape of the UNet compiles for many seconds. So its UNet takes one latent at a time here,
which is one graph for each picture size.
"""

import copy
import functools
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from diffedit_core.folder import ORCHARD
from diffedit_core.model import Model

FIXTURES = Path(__file__).parent / "fixtures" / "pipeline"
MICRO = FIXTURES / "model"
LOAD = Model.load


@functools.lru_cache(maxsize=None)
def compiled(folder, dtype, kernels, variant):
    """A model that all tests share, so that each of its graphs compiles once."""
    cells = 1 if folder == MICRO else None  # the UNet's rows one by one are a single graph
    return LOAD(folder, dtype, kernels, variant=variant, cells_at_once=cells)


def shared_load(
    source=ORCHARD,
    dtype="fp32",
    kernels=None,
    on_component=None,
    variant=None,
    cells_at_once=None,
    hf32=False,
    sequential=False,
):
    """In place of `Model.load`: what a test sets on the model stays with that test."""
    if isinstance(kernels, dict):  # one of a test's own
        return LOAD(source, dtype, kernels, on_component, variant, cells_at_once)
    folder = Path(getattr(source, "path", source))
    for name in folder.iterdir() if on_component else ():
        on_component(name.name)
    model = copy.copy(compiled(folder, dtype, kernels, variant))
    model.sequential = sequential
    if cells_at_once is not None:
        model.cells_at_once = cells_at_once
    return model


def tiny_model():
    """The micro model."""
    model = shared_load(MICRO)
    whole = copy.copy(model)
    whole.cells_at_once = 0
    model.batched = whole.predict  # each batch at once, as large as it is
    return model


def picture(seed=0, size=(64, 48)):
    coarse = np.random.default_rng([seed, 1]).integers(0, 256, (4, 5, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def checker(h=6, w=8):
    return np.indices((h, w)).sum(0) % 2


def close(actual, expected, tolerance):
    """Largest difference relative to the largest value expected."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert abs(actual - expected).max() <= tolerance * abs(expected).max()


class Foreign:
    """A tensor of another library, as PyTorch's look from outside."""

    def __init__(self, array, device="cuda:0"):
        self.array, self.device = np.asarray(array), device
        self.shape, self.ndim, self.dtype = self.array.shape, self.array.ndim, self.array.dtype

    def detach(self):
        return self

    def cpu(self):
        return Foreign(self.array, "cpu")

    def numpy(self):
        assert self.device == "cpu"
        return self.array

    def item(self):
        return self.array.item()

    def to(self, place):
        if isinstance(place, Foreign):
            return Foreign(self.array.astype(place.dtype), place.device)
        return Foreign(self.array, place)


def from_numpy(array):
    """A library of such tensors has this function; it is importable as `tests_tensors`."""
    return Foreign(array, "cpu")


Foreign.__module__ = "tests_tensors"
sys.modules["tests_tensors"] = sys.modules[__name__]
