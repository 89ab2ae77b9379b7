"""What a picture shows, read by a small convolutional network in numpy: the judge of the benchmark.

The weights are those that `classifier.py` trains; this is the same function without MindSpore, so
that a folder of edited pictures can be scored with numpy and Pillow alone.
"""

import json
from pathlib import Path

import numpy as np

from . import world as W

HEADS = {
    "fruit": (*W.FRUITS, W.MIXED),
    "container": W.CONTAINERS,
    "background": W.BACKGROUNDS,
    "count": W.COUNTS,
}
SIZES = tuple(map(len, HEADS.values()))
WIDTHS = (24, 48, 96, 128)  # each level halves the picture
GROUPS, EPS = 8, 1e-5
TRAINED = Path(__file__).with_name("classifier.safetensors")  # judge of the published numbers


def classes(scene):
    """The index of the scene's value in each head: int32 [4]; -1 where the head does not know it.

    Only grounds that are out of distribution are unknown: no answer about them is right.
    """
    found = [
        values.index(value) if value in values else -1
        for name, values in HEADS.items()
        for value in [getattr(scene, name)]
    ]
    return np.array(found, np.int32)


def at_reading_size(images):
    """Pictures averaged down to the size that the network was trained at: [N,3,H,W] ->
    [N,3,SIZE,SIZE]."""
    count, channels, height, width = images.shape
    factor = height // W.SIZE
    if (height, width) != (factor * W.SIZE,) * 2:
        raise ValueError(f"Pictures of {height}x{width} are not those of the Orchard.")
    cells = images.reshape(count, channels, W.SIZE, factor, W.SIZE, factor)
    return cells.mean((3, 5), dtype=np.float32)


class Reader:
    """The trained network: pictures in, features and values out."""

    def __init__(self, weights):
        self.weights = {name: np.asarray(leaf, np.float32) for name, leaf in weights.items()}

    @classmethod
    def load(cls, path=TRAINED):
        return cls({name[len("ema.") :]: leaf for name, leaf in read_tensors(path).items()})

    def __call__(self, images, batch=8):
        """[N,3,H,W] in [-1,1] -> (features [N,256], classes int [N,4])."""
        images = at_reading_size(np.asarray(images, np.float32))
        rows = [self.features(images[i : i + batch]) for i in range(0, len(images), batch)]
        found = np.concatenate(rows)
        logits = linear(self.weights, "head", found)
        pieces = np.split(logits, np.cumsum(SIZES)[:-1], axis=1)
        return found, np.stack([piece.argmax(1) for piece in pieces], 1)

    def features(self, x):
        """Mean and largest value of the last level's channels, mixed once: [B,3,H,W] -> [B,256]."""
        w = self.weights
        for i in range(len(WIDTHS)):
            level = f"level.{i}."
            x = convolve(w, level + "down", x, 2)
            x = silu(group_norm(w, level + "norm1", x))
            x = x + silu(group_norm(w, level + "norm2", convolve(w, level + "conv", x, 1)))
        pooled = np.concatenate((x.mean((2, 3)), x.max((2, 3))), 1)
        return silu(linear(w, "mix", pooled))


def convolve(weights, name, x, stride):
    """3x3 convolution with a border of zeros: [B,C,H,W] -> [B,D,H/stride,W/stride]."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    windows = windows[:, :, ::stride, ::stride]
    product = np.tensordot(windows, weights[name + ".weight"], ((1, 4, 5), (1, 2, 3)))
    return product.transpose(0, 3, 1, 2) + weights[name + ".bias"][:, None, None]


def group_norm(weights, name, x):
    """Group normalisation (Wu & He 2018)."""
    grouped = x.reshape(len(x), GROUPS, -1)
    mean, variance = grouped.mean(2, keepdims=True), grouped.var(2, keepdims=True)
    normal = ((grouped - mean) / np.sqrt(variance + EPS)).reshape(x.shape)
    return (
        normal * weights[name + ".weight"][:, None, None] + weights[name + ".bias"][:, None, None]
    )


def silu(x):
    """x sigmoid(x)."""
    return x * (0.5 + 0.5 * np.tanh(0.5 * x))


def linear(weights, name, x):
    """[B,C] -> [B,D]."""
    return x @ weights[name + ".weight"].T + weights[name + ".bias"]


def read_tensors(path):
    """{name: array} of a safetensors file: eight bytes of length, a header in JSON, the numbers.

    Source: the format's description, https://github.com/huggingface/safetensors.
    """
    content = Path(path).read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    types = {"F16": "<f2", "F32": "<f4"}
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            low, high = entry["data_offsets"]
            numbers = np.frombuffer(content[start + low : start + high], types[entry["dtype"]])
            tensors[name] = numbers.reshape(entry["shape"])
    return tensors
