"""The pictures that the Orchard's model learns from."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.orchard import data, world as W
from diffedit_core.errors import InputError


def test_pictures_are_drawn_once_and_are_those_of_the_world(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "CHUNK", 3)
    chunks = data.pictures(tmp_path, 6)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    again = data.pictures(tmp_path, 6)
    assert (
        written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
        and len(written) == 2
    )
    for i in range(6):
        assert np.array_equal(data.take(again, i), W.render(W.sample_scene(W.SEEDS["train"][i]))[0])
    crops = data.crops([chunks], 6, np.random.default_rng(0), 5, 40)
    assert (
        crops.shape == (5, 3, 40, 40)
        and crops.dtype == np.float32
        and -1 <= crops.min() < crops.max() <= 1
    )
    assert np.array_equal(crops, data.crops([chunks], 6, np.random.default_rng(0), 5, 40))


def test_several_processes_draw_the_same_pictures(tmp_path):
    """In a process without MindSpore, as `data.py --training` is one."""
    program = (
        "from benchmarks.orchard import data\n"
        "data.CHUNK = 3\n"
        f"data.pictures({str(tmp_path)!r}, 6, workers=2)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parent.parent)
    paths = sorted(tmp_path.rglob("*.npy"))
    assert [path.name for path in paths] == ["train-000000.npy", "train-000003.npy"]
    found = np.concatenate([np.load(path) for path in paths])
    assert np.array_equal(found, [data.draw(W.SEEDS["train"][i]) for i in range(6)])


def test_rectangles_of_another_crop_are_exchanged():
    """Latents and pixels change places in the same cells; without a share nothing does."""
    image = np.random.default_rng(0).uniform(-1, 1, (5, 3, 56, 56)).astype(np.float32)
    own = data.own_cells(np.random.default_rng(1), 5, 7, 0.6)
    shares = own.mean((1, 2, 3))
    assert (
        set(np.unique(own)) == {0, 1}
        and 0 < (shares < 1).sum() < 5
        and shares.min() >= 1 - (5 / 7) ** 2
    )
    for i, (row, mixed) in enumerate(zip(own[:, 0], data.exchanged(image, own))):
        for y, x in np.ndindex(7, 7):
            cell = (slice(None), slice(8 * y, 8 * y + 8), slice(8 * x, 8 * x + 8))
            assert np.array_equal(mixed[cell], image[i if row[y, x] else 4 - i][cell])
    assert np.array_equal(
        data.exchanged(image, data.own_cells(np.random.default_rng(1), 5, 7, 0.0)), image
    )


def test_pictures_of_another_world_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "CHUNK", 2)
    data.pictures(tmp_path, 2)
    monkeypatch.setattr(data, "draw", lambda seed, size: np.zeros((size, size, 3), np.uint8))
    with pytest.raises(InputError, match="another version"):
        data.pictures(tmp_path, 2)
