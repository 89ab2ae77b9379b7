"""The classifier that judges edits of the Orchard."""

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given, strategies as st

from benchmarks.orchard import classifier, steps as stepping, world as W
from diffedit_core import params as P


def test_classes_are_the_scene(seed=5):
    scene = W.sample_scene(seed)
    found = [values[i] for values, i in zip(classifier.HEADS.values(), classifier.classes(scene))]
    assert found == [scene.fruit, scene.container, scene.background, scene.count]


@given(st.integers(0, 2**31 - 1))
def test_augmented_pictures_stay_pictures(seed):
    rng = np.random.default_rng(seed)
    images = rng.uniform(-1, 1, (2, 3, 9, 11)).astype(np.float32)
    found = classifier.augment(images, rng)
    assert found.shape == images.shape and found.dtype == np.float32 and np.abs(found).max() <= 1


def test_the_classifiers_loss_is_the_cross_entropy_of_all_heads():
    rng = np.random.default_rng(2)
    params = P.to_parameters(P.init(classifier.specs(), rng))
    images = rng.uniform(-1, 1, (2, 3, 32, 32)).astype(np.float32)
    wanted = np.stack([classifier.classes(W.sample_scene(seed)) for seed in (1, 2)])
    logits = classifier.apply(params, ms.Tensor(images), "cpu")[1].asnumpy().astype(np.float64)
    total, start = 0.0, 0
    for head, size in enumerate(classifier.SIZES):
        piece = logits[:, start : start + size]
        total -= np.mean(
            [row[c] - np.log(np.exp(row).sum()) for row, c in zip(piece, wanted[:, head])]
        )
        start += size
    found = classifier.loss(params, ms.Tensor(images), ms.Tensor(wanted), "cpu")
    assert float(found.asnumpy()) == pytest.approx(total, rel=1e-4)


def test_the_committed_classifier_reads_renders():
    """What judges the numbers in the model card is in the repository, and was trained on the world
    that is."""
    found = classifier.accuracy(classifier.Classifier.load(), 30, "test")
    assert all(share >= 0.95 for share in found.values())


def test_an_exported_classifier_keeps_the_averages(tmp_path):
    arrays = {
        f"{kind}.{path}": np.full(leaf.shape, value, np.float32)
        for kind, value in (("params", 1), ("ema", 0.1))
        for path, leaf in P.flatten(classifier.specs()).items()
    }

    class Trained:
        @staticmethod
        def arrays():
            return arrays

    stepping.save_checkpoint(
        tmp_path / "a.safetensors", Trained, stepping.Progress(3, 4.0, {"seed": 7})
    )
    classifier.export(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    progress, found = stepping.read_weights(tmp_path / "b.safetensors")
    assert progress == (3, 4.0, {"seed": 7}) and set(found) == set(P.flatten(classifier.specs()))
    assert all(
        leaf.dtype == np.float16 and (leaf == np.float16(0.1)).all() for leaf in found.values()
    )
