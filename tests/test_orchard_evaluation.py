"""The Orchard's evaluation: batches and shards, tables, thresholds, masks and backgrounds."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, strategies as st

from benchmarks.ablation.work import Share
from benchmarks.orchard import backgrounds, batches, classifier as C, data, evaluate as E, masks
from benchmarks.orchard import measures, methods, score, texts
from benchmarks.orchard import world as W
from diffedit_core.errors import InputError
from diffedit_core.options import RECIPES

from .orchard_fakes import OPTIONS, Held, measured, small_cases

SEEDS = st.integers(0, 2**31 - 1)


def test_shares_of_the_batches_are_together_what_one_process_finds(tmp_path, monkeypatch):
    """Whatever share comes first; what is there is not measured again."""
    monkeypatch.setattr(batches, "BATCH", 3)
    names = ["DiffEdit", "copy"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    assert measured(parts, names, share=Share(1, 2, True)) == [None, None]
    for one, other in zip(measured(whole, names), measured(parts, names, share=Share(0, 2, True))):
        for a, b in zip(one, other):
            np.testing.assert_equal(a, b)
        assert len(one.records) == 5 and one.images.shape == (5, 12, 16, 3)
    for found in measured(whole, names, model=object()):  # asks nothing
        assert len(found.records) == 5
    batches.discard("copy", 5, whole)
    assert batches.collected("copy", 5, whole) is None
    batches.discard("DiffEdit", 5, whole)
    assert not list(whole.iterdir())


def test_the_command_puts_two_shards_together(tmp_path, monkeypatch, capsys):
    """The same table as without shards; a shard alone writes none, and the batches' files go."""

    def judge(images):
        return images.mean((2, 3)), np.zeros((len(images), len(C.HEADS)), int)

    monkeypatch.setattr(batches, "BATCH", 3)
    monkeypatch.setattr(E, "cases", lambda count, size: small_cases(count))
    monkeypatch.setattr(E.M.Model, "load", lambda *_, **__: Held())
    monkeypatch.setattr(E.C.Classifier, "load", lambda *_: judge)
    monkeypatch.setattr(E.C, "accuracy", lambda *_: {})
    words = "--edits 5 --texts 2 --size 128 --steps 4 --methods SDEdit copy --out".split()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    monkeypatch.setattr(E, "names_of", lambda folder, found: [f"test-{i}" for i in range(5)])
    assert E.main([*words, str(whole), "--answers", str(tmp_path)]) == 0
    assert len(list((tmp_path / "SDEdit" / "edits").iterdir())) == 5
    for shard in ("2/2", "1/2"):
        assert E.main([*words, str(parts), "--shard", shard]) == 0
        assert not (parts / "results.md").exists()
    monkeypatch.setattr(batches, "run", None)  # nothing is left to edit
    assert E.main([*words, str(parts)]) == 0
    texts = [(folder / "results.md").read_text(encoding="utf-8") for folder in (whole, parts)]
    assert texts[0] == texts[1] and "| SDEdit | 5 |" in texts[0] and "| copy | 5 |" in texts[0]
    assert not (parts / "batches").exists()
    capsys.readouterr()
    assert E.main([*words, str(parts), "--shard", "3/2"]) == 2
    assert "--shard is '3/2'" in capsys.readouterr().err


def test_the_answers_of_methods_are_what_score_reads(tmp_path, monkeypatch, capsys):
    """The edits and masks as they were measured; a folder of other edits is refused before any
    work."""
    folder, found = tmp_path / "split", methods.cases(3)
    data.write_split("test", W.SIZE, folder, 3)
    names, edits = E.names_of(folder, found), data.read_split(folder)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, W.SIZE, W.SIZE, 3), np.uint8)
    cells = (rng.random((3, 16, 16)) > 0.5).astype(np.float32)
    data.write_answers(folder / "ours", names, images, cells)
    for image, mask, answer in zip(images, cells, score.answers_of(folder / "ours", edits)):
        assert np.array_equal(answer.image, image) and np.array_equal(answer.mask, mask > 0.5)
    about = {"model": "a-1", "settings": methods.settings("SDEdit", {"num_inference_steps": 20})}
    data.write_answers(folder / "no mask", names, images, None, about)
    assert [a.mask for a in score.answers_of(folder / "no mask", edits)] == [None] * 3
    assert about["settings"] == {
        "num_inference_steps": 20,
        "background": "decoded",
        "trail": "noised",
        "to_mask": "everywhere",
    }
    for name, said in (("ours", None), ("no mask", about)):
        assert score.main([str(folder), "--method", name, "--json"]) == 0
        assert json.loads(capsys.readouterr().out).get("about") == said

    monkeypatch.setattr(E.M.Model, "load", None)
    words = [
        "--edits",
        "2",
        "--size",
        "128",
        "--out",
        str(tmp_path / "out"),
        "--answers",
        str(folder),
    ]
    assert E.main(words) == 2
    assert "--size 128 --count 2." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_samples_of_texts_are_the_same_from_shares_and_from_other_batches(tmp_path, monkeypatch):
    """And what is there is not drawn again."""

    def judge(images):
        return None, np.stack([np.arange(len(C.HEADS)) + len(i) for i in images])

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    name, count = "held-out combinations", texts.BATCH + 3
    for folder in (whole, parts):
        folder.mkdir()

    def measure(folder, share, model=None):
        texts.measure(name, model or Held(), OPTIONS, judge, count, 12, folder, share)

    measure(whole, Share())
    measure(parts, Share(1, 2, True))
    with pytest.raises(FileNotFoundError):
        texts.collected(name, count, parts)
    measure(parts, Share(0, 2, True))
    measure(parts, Share(), model=SimpleNamespace(configs=Held().configs))  # asks nothing
    for one, other in zip(texts.collected(name, count, whole), texts.collected(name, count, parts)):
        np.testing.assert_equal(one, other)
    scenes, right, pictures = texts.collected(name, count, whole)
    assert scenes == texts.scenes(name, count)[1] and right.shape == (count, len(C.HEADS))
    assert pictures.shape == (count, 12, 12, 3) and texts.sheet(pictures).size == (8 * 12, 12)
    monkeypatch.setattr(texts, "BATCH", 5)
    (tmp_path / "fives").mkdir()
    measure(tmp_path / "fives", Share())
    assert np.array_equal(texts.collected(name, count, tmp_path / "fives")[2], pictures)
    found = texts.lines(name, scenes, right)
    assert found[name][0] == count and set(found) <= {name, texts.NEW}


def test_sheet_and_table():
    batch = methods.cases(4)
    maps = [np.random.default_rng(i).random((16, 16)) for i in range(4)]
    masks = [(m > 0.5).astype(np.float32) for m in maps]
    records = [
        measures.judge(c, c.truth * 0.9, m, c.source, C.classes(c.edited), 8)
        for c, m in zip(batch, masks)
    ]
    edits = data.to_pixels(np.stack([c.truth for c in batch]))
    sheet = E.contact_sheet(batch, records, edits, masks, maps, each=2)
    assert sheet.size == (3 * 5 * W.SIZE, 2 * W.SIZE)
    lines = {
        line: (len(rows), measures.summarise([records[i] for i in rows]))
        for line, rows in E.groups(batch).items()
    }
    text = measures.table(lines)
    rows = text.splitlines()
    assert len(rows) == 2 + len(lines) and all(
        len(row.split("|")) == len(measures.COLUMNS) + 4 for row in rows
    )
    assert {"fruit", "container", "both"} <= set(lines)


def test_threshold_curve():
    """The true cells as a map score 1 at every threshold; an even map is all or nothing around 1 /
    clamp_ratio."""
    batch = methods.cases(6)
    truths = [W.on_grid(case.mask, 8) for case in batch]
    exact = E.threshold_curve(batch, [cells.astype(np.float32) for cells in truths], 1.0)
    assert list(exact) == list(W.EDITS) and all(
        set(curve.values()) == {1.0} for curve in exact.values()
    )
    even = E.threshold_curve(batch, [np.ones((16, 16), np.float32)] * 6, 2.0)
    for i, kind in enumerate(W.EDITS):
        share = np.mean([truths[j].mean() for j in (i, i + 3)])
        for t, value in even[kind].items():
            assert value == pytest.approx(share if t == E.BEST or t < 0.5 else 0.0)


@given(SEEDS)
def test_no_threshold_finds_more_than_the_best_one(seed):
    batch = methods.cases(3)
    maps = [
        W.on_grid(case.mask, 8) + np.random.default_rng(seed + i).random((16, 16)) * 1.5
        for i, case in enumerate(batch)
    ]
    for curve in E.threshold_curve(batch, maps, 2.0).values():
        assert max(value for t, value in curve.items() if t != E.BEST) <= curve[E.BEST] < 1


@given(SEEDS, st.floats(0.01, 100))
def test_ways_from_a_map_to_a_mask(seed, scale):
    """No way finds more than the best threshold of its map, nor looks at the map's scale."""
    rng = np.random.default_rng(seed)
    truths = rng.random((3, 7, 9)) < 0.4
    truths[:, 0, 0], truths[:, 0, 1] = True, False
    found, scaled = [
        masks.scores(k * (truths + rng.random((3, 7, 9))), truths)
        for k, rng in ((1.0, np.random.default_rng(seed)), (scale, np.random.default_rng(seed)))
    ]
    for name, values in found.items():
        best = found[
            ("smoothed, " if name.startswith("smooth") else "") + "best threshold of each picture"
        ]
        assert (values <= best).all()
        np.testing.assert_allclose(values, scaled[name], atol=0.1, err_msg=name)
    assert masks.scores(truths.astype(np.float32), truths)[
        "best threshold of each picture"
    ] == pytest.approx(1)


def test_a_grid_of_ways_holds_the_recipes(capsys):
    """The recipe's own smoothing, quantile and threshold find what the recipe finds; a part of a
    grid is refused."""
    rng = np.random.default_rng(0)
    maps, truths = rng.random((3, 7, 9), np.float32), rng.random((3, 7, 9)) > 0.5
    (name,) = ways = masks.grid([0.7], [0.98], [0.3])
    assert ways[name] == RECIPES["smooth"] and len(masks.grid([0, 1], [0.9], [0.1, 0.2, 0.3])) == 6
    found = masks.scores(maps, truths, {**masks.WAYS, **ways})
    assert np.array_equal(found[name], found["smooth, threshold 0.3"])
    assert masks.main(["--smoothings", "0.5"]) == 2
    assert "together" in capsys.readouterr().err


def test_a_run_goes_on_where_it_was_stopped(tmp_path):
    """What is measured is kept for the same settings, and refused for others."""

    def arguments(*more):
        return E.parser().parse_args(["--out", str(tmp_path), *more])

    options = RECIPES["paper"]
    results = E.begin(arguments(), options)
    results |= {
        "methods": {"copy": (1, {})},
        "vae": {"psnr": 1.0, "slope error": 1.0},
        "classifier accuracy": {},
    }
    E.write(tmp_path, results)
    assert list(E.begin(arguments(), options)["methods"]) == ["copy"]
    for more, changed in ((("--edits", "3"), options), ((), options.replace(mask_threshold=0.4))):
        with pytest.raises(InputError, match="another --out"):
            E.begin(arguments(*more), changed)


@given(st.integers(1, 4), st.integers(1, 6))
def test_a_mosaic_holds_every_scene_and_changes_in_one(count, number):
    """Outside the edited scene a mosaic's source and truth are equal, and nothing is masked."""
    pictures = np.random.default_rng(count).standard_normal((2, number, 3, 4, 4))
    cases = [
        methods.Case("fruit", None, None, source, truth, np.ones((4, 4), bool))
        for source, truth in zip(*pictures)
    ]
    found = backgrounds.mosaics(cases, count)
    sources, truths, masks = (
        np.stack([getattr(c, n) for c in found]) for n in ("source", "truth", "mask")
    )
    assert sources.shape == (number, 3, 4 * count, 4 * count)
    assert np.array_equal(backgrounds.edited_scenes(sources, count), pictures[0])
    assert np.array_equal(backgrounds.edited_scenes(truths, count), pictures[1])
    assert backgrounds.edited_scenes(masks[:, None], count).all()
    assert (masks.sum((1, 2)) == 16).all()
    changed = (sources != truths).any(1)
    assert np.array_equal(changed, masks)
    if count > 1 and number > 1:  # beside the edited scene come the next ones
        second = sources[0, :, :4, 4:8]
        assert np.array_equal(second, pictures[0, 1])
