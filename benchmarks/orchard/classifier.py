"""What a picture shows: a small convolutional network that learns from rendered scenes only.

It judges samples and edits by attributes (fruit, container, background, count), and its features
carry the distance between two sets of pictures (our CSFID). Built from `diffedit_core.kernels` like
the model, but not part of it. `reader.py` is the trained network without MindSpore.
"""

import argparse
import json
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import ops
from safetensors.numpy import save_file

from diffedit_core import kernels as K, params as P
from diffedit_core.graphs import Graph

from ..command import command
from . import data, reader, steps as stepping, world as W
from .reader import EPS, GROUPS, HEADS, SIZES, TRAINED, WIDTHS, classes


def specs():
    """Leaves of the classifier: a stack of stride-2 convolutions with a second convolution each,
    and one linear head."""
    tree, c = {}, 3
    for i, width in enumerate(WIDTHS):
        tree[f"level.{i}"] = {
            "down": P.conv(c, width, 3),
            "norm1": P.norm(width),
            "conv": P.conv(width, width, 3),
            "norm2": P.norm(width),
        }
        c = width
    tree["mix"] = P.linear(2 * c, 2 * c)
    tree["head"] = P.linear(2 * c, sum(map(len, HEADS.values())))
    return tree


def features(params, image, kernels):
    """[B,3,H,W] in [-1,1] -> [B,256]: mean and largest value of the last level's channels, mixed
    once."""
    x = image
    for i in range(len(WIDTHS)):
        p = params["level." + str(i)]
        x = K.conv2d(p["down"], x, kernels, stride=2)
        x = K.silu(K.group_norm(p["norm1"], x, GROUPS, EPS, kernels), kernels)
        h = K.silu(
            K.group_norm(p["norm2"], K.conv2d(p["conv"], x, kernels), GROUPS, EPS, kernels), kernels
        )
        x = x + h
    pooled = ops.concat((x.mean((2, 3)), ops.amax(x, (2, 3))), 1)
    return K.silu(K.linear(params["mix"], pooled, kernels), kernels)


def apply(params, image, kernels):
    """(features [B,256], logits [B,24]); the logits of the heads one after the other."""
    f = features(params, image, kernels)
    return f, K.linear(params["head"], f, kernels)


def loss(params, image, wanted, kernels):
    """Sum over the heads of the cross entropy; `wanted` int32 [B,4] are the classes."""
    logits = K.linear(params["head"], features(params, image, kernels), kernels)
    total, start = 0.0, 0
    for i, size in enumerate(SIZES):
        rows = ops.log_softmax(logits[:, start : start + size], -1)
        total = total - (rows * ops.one_hot(wanted[:, i], size, ON, OFF)).sum(-1).mean()
        start = start + size
    return total


ON, OFF = ms.Tensor(1.0, ms.float32), ms.Tensor(0.0, ms.float32)


class Classifier:
    """The trained network: pictures in, features and values out."""

    def __init__(self, weights):
        params = P.to_parameters(
            P.tree_map(lambda path, _: weights[path].astype(np.float32), specs())
        )
        self.graph = Graph(apply, params, K.default_kernels())

    @classmethod
    def load(cls, path=TRAINED):
        return cls(stepping.read_weights(path)[1])

    def __call__(self, images, batch=10):
        """[N,3,H,W] -> (features [N,256], classes int [N,4]); larger pictures are averaged down."""
        images, outputs = reader.at_reading_size(images), []
        for start in range(0, len(images), batch):
            rows = images[start : start + batch]
            padded = np.concatenate(
                [rows, np.zeros((batch - len(rows), *rows.shape[1:]), np.float32)]
            )
            outputs.append([o.asnumpy()[: len(rows)] for o in self.graph(ms.Tensor(padded))])
        found, logits = [np.concatenate(parts) for parts in zip(*outputs)]
        pieces = np.split(logits, np.cumsum(SIZES)[:-1], axis=1)
        return found, np.stack([piece.argmax(1) for piece in pieces], 1)


def augment(images, rng):
    """What the autoencoder may do to a picture must not matter: a little blur, noise and
    brightness."""
    gain = rng.uniform(0.92, 1.08, (len(images), 1, 1, 1))
    spread = rng.uniform(0, 0.04, (len(images), 1, 1, 1)) * rng.standard_normal(images.shape)
    blur = rng.uniform(0, 1, (len(images), 1, 1, 1))
    soft = images.copy()
    soft[:, :, 1:-1, 1:-1] = (
        sum(
            images[:, :, 1 + dy : -1 + dy or None, 1 + dx : -1 + dx or None]
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
        )
        / 9
    )
    mixed = blur * soft + (1 - blur) * images
    return np.clip(mixed * gain + spread, -1, 1).astype(np.float32)


def train(work, path, pictures, steps, batch=32, seed=0, log=print, until=None):
    """Train on the first `pictures` of the training split; resumable like every run of
    `steps.run`."""
    chunks = data.pictures(work, pictures)
    wanted = np.stack([classes(W.sample_scene(W.SEEDS["train"][i])) for i in range(pictures)])
    params = P.to_parameters(P.init(specs(), np.random.default_rng([seed, 1])))
    train_step = stepping.TrainStep(loss, params, K.default_kernels())

    def draw(step):
        rng = np.random.default_rng([seed, step])
        rows = rng.integers(pictures, size=batch)
        images = augment(data.to_model(np.stack([data.take(chunks, int(i)) for i in rows])), rng)
        return images, wanted[rows]

    facts = {"stage": "classifier", "seed": seed, "batch": batch, "pictures": pictures}
    return stepping.run(train_step, draw, path, facts, steps, 1.5e-3, until, log=log)


def export(checkpoint, path):
    """Write the averaged weights of a checkpoint alone, in float16, as `Classifier.load` reads
    them."""
    progress, weights = stepping.read_weights(checkpoint)
    arrays = {f"ema.{name}": weights[name].astype(np.float16) for name in P.flatten(specs())}
    save_file(arrays, str(path), metadata={"progress": json.dumps(progress._asdict())})


def accuracy(classifier, count=1000, split="validation"):
    """{head: share of right answers} on rendered scenes that training has not seen."""
    scenes = [W.sample_scene(W.SEEDS[split][i]) for i in range(count)]
    _, found = classifier(data.to_model(np.stack([W.render(scene)[0] for scene in scenes])))
    right = found == np.stack([classes(scene) for scene in scenes])
    return {name: float(right[:, i].mean()) for i, name in enumerate(HEADS)}


@command("classifier")
def main(words):
    """Train the classifier, write its weights and print their accuracy on scenes it has not
    seen."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work",
        type=Path,
        required=True,
        help="folder of the pictures; the checkpoint goes there as well",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=TRAINED,
        help="weights that evaluate.py reads (default: %(default)s)",
    )
    parser.add_argument("--pictures", type=int, default=10000)
    parser.add_argument("--steps", type=int, default=2500)
    arguments = parser.parse_args(words)
    path = arguments.work / "classifier.safetensors"
    train(arguments.work, path, arguments.pictures, arguments.steps)
    export(path, arguments.out)
    print(json.dumps(accuracy(Classifier.load(arguments.out))))


if __name__ == "__main__":
    sys.exit(main())
