"""Experiments on pictures of one's own, where no truth is known."""

import functools
import json

import numpy as np
import pytest
from PIL import Image

from benchmarks.ablation import cli, subjects
from benchmarks.ablation.measures import numbers_of
from benchmarks.ablations import beyond
from diffedit_core.errors import InputError

from .closed_forms import FakeModel
from .test_ablation import bench

SHIPPED = cli.experiments()


def own_pictures(folder, text=None):
    Image.new("RGB", (40, 30), "red").save(folder / "a.png")
    Image.new("RGB", (20, 50), "blue").save(folder / "b.png")
    lines = [{"picture": n, "source": "source", "target": "a"} for n in ("a.png", "b.png")]
    file = folder / "edits.jsonl"
    file.write_text(text or "\n".join(map(json.dumps, lines)), encoding="utf-8")
    return file


def test_pictures_without_truth_have_the_same_tables(tmp_path, monkeypatch, capsys):
    file = own_pictures(tmp_path)

    def own(a):
        load = functools.partial(FakeModel, lambda x, t, state: np.sin(x) * 0.125 + state * x)
        return bench(load)._replace(
            batches=lambda split, count, seeds: subjects.pictures(a.pictures, a.prompts, seeds, 16)
        )

    monkeypatch.setattr(cli, "bench_of", own)
    arguments = ["threshold", "--pictures", str(tmp_path), "--prompts", str(file)]
    assert cli.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "SSIM outside predicted mask" in text and "seconds" in text and "mask IoU" not in text
    assert "| mask_threshold 0.25 | 2 |" in text


@pytest.mark.parametrize(
    "text, said",
    [
        ("[1]", "line 1: write an object with picture, source, target"),
        ('{"picture": "a.png", "source": 1, "target": "a"}', "source is 1, it has to be a text"),
        ('{"picture": "c.png", "source": "s", "target": "a"}', "c.png is missing"),
        ('{"picture": "a.png", "mask": "m", "source": "s", "target": "a"}', "m is missing"),
        ("\n", "has no lines"),
        ("{", "line 1: write an object"),
    ],
)
def test_wrong_prompts_are_a_sentence(text, said, tmp_path):
    with pytest.raises(InputError) as caught:
        list(subjects.pictures(tmp_path, own_pictures(tmp_path, text), (0,), 16))
    assert said in str(caught.value)


def test_a_given_mask_is_cropped_and_measured_like_its_picture(tmp_path):
    file = own_pictures(tmp_path)
    mask = np.zeros((30, 40), np.uint8)
    mask[:15, 5:20] = 255  # the upper left quarter of the middle square
    Image.fromarray(mask).save(tmp_path / "m.png")
    first = {**json.loads(file.read_text().splitlines()[0]), "mask": "m.png"}
    file.write_text(json.dumps(first))
    assert subjects.have_masks(tmp_path, file)
    (batch,) = subjects.pictures(tmp_path, file, (0,), 16)
    (subject,) = batch.make()
    cells = np.zeros((2, 2))
    cells[0] = 1
    wanted = np.kron([[1, 0], [0, 0]], np.ones((8, 8))) > 0
    assert np.array_equal(subject.mask, wanted) and subject.truth is None
    image = subject.source * np.where(wanted, 0.5, 0.75)
    found = numbers_of(subject, image, cells, np.eye(2), None, 8)
    assert found["iou"] == 0.5 and found["precision"] == 0.5 and found["recall"] == 1
    assert found["background psnr"] == pytest.approx(20 * np.log10(2 / 0.25), rel=1e-5)
    assert found["best iou"] == 0.5 and "edit psnr" not in found


@pytest.mark.parametrize("what", ("picture", "source", "target", "mask", "line"))
def test_another_sentence_picture_or_mask_is_another_experiment(what, tmp_path):
    file = own_pictures(tmp_path)
    Image.new("L", (40, 30)).save(tmp_path / "m.png")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["mask"] = "m.png"
    file.write_text("\n".join(map(json.dumps, lines)))
    named = ["threshold", "--pictures", str(tmp_path), "--prompts", str(file)]
    before, again = (cli.adjusted(SHIPPED["threshold"], cli.parser().parse_args(named)).name
                     for _ in range(2))  # fmt: skip
    if what in ("picture", "mask"):
        Image.new("L", (40, 30), 9).save(tmp_path / lines[0][what])
    elif what == "line":
        lines.pop()
    else:
        lines[0][what] += "s"
    file.write_text("\n".join(map(json.dumps, lines)))
    after = cli.adjusted(SHIPPED["threshold"], cli.parser().parse_args(named)).name
    assert before == again != after and after.startswith("threshold-edits-")


def test_answers_that_are_not_known_are_a_sentence(tmp_path):
    (batch,) = subjects.pictures(tmp_path, own_pictures(tmp_path), (0,), 16)
    subject = batch.make()[0]
    for answer in (lambda: beyond.true_cells(subject, (2, 2)), lambda: beyond.true_edit(subject)):
        with pytest.raises(InputError, match="give one with each picture|leave it out"):
            answer()


def test_measures_of_a_mask_are_in_the_table_where_one_is_given(tmp_path):
    file = own_pictures(tmp_path)
    named = ["--pictures", str(tmp_path), "--prompts", str(file)]
    a = cli.parser().parse_args(["threshold", *named])
    assert "iou" not in cli.without_truth(SHIPPED["threshold"], a)
    Image.new("L", (20, 50)).save(tmp_path / "m.png")
    lines = file.read_text().splitlines()
    file.write_text(lines[0] + "\n" + lines[1][:-1] + ', "mask": "m.png"}')
    found = cli.without_truth(SHIPPED["threshold"], a)
    assert {"iou", "best iou", "background psnr", "outside psnr"} <= set(found)
    assert not {"recognised", "edit psnr", "csfid"} & set(found)
