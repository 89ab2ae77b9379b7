"""The micro model of tests/fixtures/pipeline, loaded and compiled once for all tests of the facade.

Every shape of the UNet compiles for many seconds. So its UNet takes one latent at a time here,
which is one graph for each picture size; `batched` is the model's own `predict`.
"""

import functools
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from PIL import Image

from diffedit_core.model import Model

FIXTURES = Path(__file__).parent / "fixtures" / "pipeline"


@functools.lru_cache(None)
def tiny_model():
    """The model, with a UNet that runs row by row."""
    model = Model.load(FIXTURES / "model")
    model.batched = model.predict

    def predict(latents, timestep, states):
        rows = range(len(latents))
        return ms.ops.concat(
            [model.batched(latents[i : i + 1], timestep, states[i : i + 1]) for i in rows]
        )

    model.predict = predict
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
