"""The benchmark: its frozen pictures, its splits, the exported files, and the scores."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from benchmarks.orchard import classifier, data, manifest, measures, paint, reader, score, splits
from benchmarks.orchard import world as W

HERE = Path(__file__).parent
ORCHARD = HERE.parent / "benchmarks" / "orchard"
ANSWERS = HERE / "fixtures" / "orchard"  # of six test edits, by the model of 128 pixels
SMALL = {"split": "test", "size": 128, "edits": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The small set as files, with the committed answers in it."""
    out = tmp_path_factory.mktemp("orchard") / "small"
    command = ["--split", "test", "--size", "128", "--count", "6", "--out", str(out)]
    assert data.main(command) == 0
    for answers in ANSWERS.iterdir():
        shutil.copytree(answers, out / answers.name)
    return out


@pytest.fixture(scope="module")
def edits(folder):
    return data.read_split(folder)


# ---- what is frozen ------------------------------------------------------------------------------


def test_fifty_edits_are_drawn_again_bit_for_bit():
    """From all splits and both sizes; `manifest.py` without options draws all of them."""
    head, lines = manifest.read()
    assert head[0].startswith(f"# {W.VERSION}, drawn with Pillow ")
    names = manifest.names()
    assert [f"{size} {split}-{i:04d}" for split, i, size in names] == [
        " ".join(line.split()[:2]) for line in lines
    ]
    small = np.flatnonzero([size == W.SIZE for _, _, size in names])
    large = np.flatnonzero([size != W.SIZE for _, _, size in names])
    for i in (*small[7 :: len(small) // 38][:38], *large[3 :: len(large) // 12][:12]):
        assert manifest.line(*names[i]) == lines[i]


FEATURES = """
from numpy.core._multiarray_umath import __cpu_dispatch__ as known, __cpu_features__ as has
print(*(name for name in known if has[name]))
"""
DRAWN = """
import sys
from benchmarks.orchard import manifest
for name in manifest.names()[5 :: int(sys.argv[1])]:
    print(manifest.line(*name))
"""


def python(code, *arguments, **environment):
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        cwd=HERE.parent,
        text=True,
        capture_output=True,
        check=True,
    )
    return run.stdout.split("\n")[:-1]


def test_vector_units_change_no_pixel():
    """numpy without what it has for this processor draws the frozen pictures, too."""
    features = python(FEATURES)[0]
    if not features:
        pytest.skip("numpy has nothing of its own for this processor")
    drawn = python(DRAWN, "30", NPY_DISABLE_CPU_FEATURES=features)
    assert drawn == manifest.read()[1][5::30]


@given(st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40))
def test_a_portable_function_is_the_nearest_float32(values):
    x = np.array(values, np.float32)
    for name in ("sin", "cos", "exp", "tanh"):
        found = getattr(paint, name)(x)
        exact = np.array([getattr(math, name)(v) for v in x.tolist()])
        assert found.dtype == np.float32
        assert (np.abs(found - exact) <= 0.5001 * np.spacing(np.abs(found))).all()


def test_no_two_edits_of_the_manifest_are_the_same():
    lines = [line.split() for line in manifest.read()[1]]
    assert len({tuple(fields[2:]) for fields in lines}) == len(lines)


# ---- splits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", splits.TESTED)
def test_a_split_shows_what_its_name_says(split):
    pairs = [splits.SPLITS[split](i, W.EDITS[i % 3]) for i in range(splits.TESTED[split])]
    known = {
        "test": lambda a, b: a.background in W.BACKGROUNDS and a.light == b.light == "usual",
        "compositional": lambda a, b: b.combination in W.HELD_OUT,
        "new-background": lambda a, b: a.background == b.background == "grey slate",
        "new-light": lambda a, b: a.light == b.light == "low",
        "camouflage": lambda a, b: a.fruit in splits.CLOTHS[a.background],
    }
    for i, (scene, edited) in enumerate(pairs):
        assert known[split](scene, edited)
        assert (scene.fruit != edited.fruit) == (i % 3 != 1)
        assert (scene.container != edited.container) == (i % 3 != 0)
        rest = ("background", "count", "place", "seed", "light")
        assert all(getattr(scene, name) == getattr(edited, name) for name in rest)


def test_splits_share_no_scene():
    seeds = [
        {splits.SPLITS[split](i, "both")[0].seed for i in range(count)}
        for split, count in splits.TESTED.items()
    ]
    trained = set(W.SEEDS["train"]) | set(W.SEEDS["validation"])
    assert not any(found & trained for found in seeds)
    assert not seeds[0] & seeds[1]
    assert not any(found & (seeds[0] | seeds[1]) for found in seeds[2:])


# ---- the reader ----------------------------------------------------------------------------------


def test_the_reader_is_the_classifier_without_mindspore(edits):
    """Features and classes, and of larger pictures those of their means."""
    images = data.to_model(np.stack([edit.picture for edit in edits]))
    features, found = reader.Reader.load()(images, batch=4)
    wanted, classes = classifier.Classifier.load()(images)
    np.testing.assert_allclose(features, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())
    assert np.array_equal(found, classes)
    assert np.array_equal(found, np.stack([reader.classes(edit.scene) for edit in edits]))
    twice = images.repeat(2, 2).repeat(2, 3)
    np.testing.assert_allclose(reader.at_reading_size(twice), images, atol=1e-6)


def test_the_reader_sees_the_larger_pictures():
    scenes = [W.sample_scene(W.SEEDS["test"][i]) for i in range(12)]
    pictures = data.to_model(np.stack([W.render(scene, 256)[0] for scene in scenes]))
    right = reader.Reader.load()(pictures)[1] == np.stack([reader.classes(s) for s in scenes])
    assert right.mean() >= 0.95


def test_scoring_needs_no_mindspore():
    code = "import sys, benchmarks.orchard.score as s\n"
    code += "sys.exit(len({'mindspore', 'torch', 'safetensors'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE.parent)


# ---- measures ------------------------------------------------------------------------------------


@given(st.integers(0, 2**31 - 1), st.sampled_from(("nothing", "everything", "something")))
@settings(max_examples=30)
def test_measures_are_numbers_of_every_mask_but_where_no_pixel_is_left(edits, seed, kind):
    edit = edits[seed % len(edits)]
    rng = np.random.default_rng(seed)
    shape = score.no_cells(edit).shape
    cells = {"nothing": 0.0, "everything": 1.0, "something": rng.uniform(0.1, 0.9)}[kind]
    answer = score.Answer(edit.truth, rng.random(shape) < cells)
    (record,), _ = score.judge([edit], [answer], ALL_RIGHT)
    assert 0 <= record["iou"] <= min(record["precision"], record["recall"]) + 1e-9 or not any(
        answer.mask.flat
    )
    undefined = {key for key, value in record.items() if not np.isfinite(value)}
    assert undefined == ({"outside psnr", "beyond psnr"} if kind == "everything" else set()) or (
        undefined == {"beyond psnr"} and measures.grown(answer.mask).all()
    )
    assert not edit.mask.all() and edit.mask.any()


def ALL_RIGHT(images):
    """A reader that always says zero."""
    return np.zeros((len(images), 256), np.float32), np.zeros((len(images), 4), int)


def test_baselines_are_what_they_say(edits):
    results = {}
    for name, answer in score.BASELINES.items():
        answers = [answer(edit) for edit in edits]
        result = score.score(edits, answers, reader.Reader.load())
        results[name] = result["lines"]["all"][1]
        for edit, given_answer in zip(edits, answers):
            if name == "random-mask":
                assert given_answer.mask.sum() == W.on_grid(edit.mask, score.CELL).sum()
    assert results["copy"]["background psnr"][0] > 100 and results["copy"]["iou"][0] == 0
    assert results["oracle-mask"]["iou"][0] == 1 and "edit psnr" not in results["oracle-mask"]
    assert results["oracle-picture"]["edit psnr"][0] > 100
    assert results["oracle-picture"]["recognised"][0] == results["full"]["recognised"][0] == 1
    assert results["full"]["recall"][0] == 1 and np.isnan(results["full"]["outside psnr"][0])
    assert results["full"]["background psnr"][0] < 25
    assert 0 < results["random-mask"]["iou"][0] < 0.5


# ---- files ---------------------------------------------------------------------------------------


def test_files_are_the_edits(folder, edits):
    """Nothing is lost on the way through PNG and JSON; the index alone describes every edit."""
    for i, found in enumerate(edits):
        wanted = splits.edit("test", i, 128)
        assert found[:4] == wanted[:4]
        for a, b in zip(found[4:], wanted[4:]):
            assert a.dtype == b.dtype and np.array_equal(a, b)
    row = json.loads((folder / data.INDEX).read_text().splitlines()[0])
    assert row["version"] == W.VERSION and len(row["source"]) == len(row["target"]) == 2
    assert row["source"][0] == W.caption(edits[0].scene) != row["source"][1]


def test_a_folder_of_true_answers_scores_as_the_oracle(folder, edits, tmp_path, capsys):
    """With masks of either size: of the pictures' pixels, or of cells."""
    shutil.copytree(folder / "edits", tmp_path / "edits")
    shutil.copytree(folder / "masks", tmp_path / "masks")
    whole = score.answers_of(tmp_path, edits)
    for edit in edits:
        cells = Image.fromarray(W.on_grid(edit.mask, 8).astype(np.uint8) * 255)
        cells.save(tmp_path / "masks" / f"{edit.name}.png")
    small = score.answers_of(tmp_path, edits)
    for edit, a, b in zip(edits, whole, small):
        assert np.array_equal(a.image, edit.truth) and np.array_equal(a.mask, b.mask)
        assert np.array_equal(a.mask, score.oracle_mask(edit).mask)


def test_wrong_folders_are_refused_in_a_sentence(folder, edits, tmp_path, capsys):
    assert score.main([str(folder), "--method", "nobody"]) == 2
    assert "neither edits nor masks" in capsys.readouterr().err
    assert score.main([str(tmp_path), "--method", "copy"]) == 2
    assert data.INDEX in capsys.readouterr().err
    assert data.main(["--out", str(folder)]) == 2
    assert "exists" in capsys.readouterr().err
    assert data.main(["--split", "train", "--out", str(tmp_path / "new")]) == 2
    assert "--count" in capsys.readouterr().err
    (tmp_path / "masks").mkdir()
    Image.new("L", (5, 7)).save(tmp_path / "masks" / f"{edits[0].name}.png")
    with pytest.raises(data.InputError, match="5x7"):
        score.answers_of(tmp_path, edits[:1])
    with pytest.raises(data.InputError, match="missing"):
        score.answers_of(tmp_path, edits[1:2])
    for wrong in ("[1]", "{", ""):
        (tmp_path / data.ABOUT).write_text(wrong)
        with pytest.raises(data.InputError, match="no JSON object"):
            score.about(tmp_path)


# ---- the published numbers -----------------------------------------------------------------------


def leaderboard():
    lines = (ORCHARD / "leaderboard.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    "row",
    [r for r in leaderboard() if {k: r[k] for k in SMALL} == SMALL],
    ids=lambda r: r["method"],
)
def test_rows_of_the_small_set_are_what_score_prints(folder, row, capsys):
    assert score.main([str(folder), "--method", row["method"], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {**found, "means": None} == {**row, "means": None}
    assert found["means"] == pytest.approx(row["means"], rel=2e-3, abs=2e-3)


def test_the_leaderboard_has_every_baseline_and_every_committed_answer():
    rows = leaderboard()
    small = {row["method"] for row in rows if {k: row[k] for k in SMALL} == SMALL}
    assert small == {*score.BASELINES, *(path.name for path in ANSWERS.iterdir())}
    assert all(row["version"] == W.VERSION and row["split"] in splits.TESTED for row in rows)


def test_the_readmes_table_is_the_leaderboards():
    """Of all test edits at 256 pixels; what the leaderboard lacks is no number there either."""
    whole = {
        r["method"]: r["means"] for r in leaderboard() if (r["size"], r["edits"]) == (256, 201)
    }
    text = (ORCHARD / "README.md").read_text(encoding="utf-8")
    titles = {
        "DiffEdit": "DiffEdit, the paper's recipe",
        "recipe-smooth-32": "DiffEdit, `smooth-32`",
    }
    columns = {"iou": 3, "recognised": 3, "background psnr": 1, "edit psnr": 1, "csfid": 1}
    assert len(whole) == 7
    for method, means in whole.items():
        title = titles.get(method, f"`{method}`")
        (line,) = [each for each in text.splitlines() if each.startswith(f"| {title} |")]
        cells = [cell.strip() for cell in line.split("|")[2:-1]]
        for (key, digits), cell in zip(columns.items(), cells):
            exact = means.get(key, 0) > 126 and cell.startswith("the ")  # an equal picture's
            assert exact or cell == (f"{means[key]:.{digits}f}" if key in means else "")


REQUIRED = {  # of Croissant 1.0, section "Dataset-level information"
    "@context",
    "@type",
    "conformsTo",
    "name",
    "description",
    "license",
    "url",
    "creator",
    "datePublished",
    "version",
}


def test_the_data_card_has_croissants_required_fields():
    """It describes what is there: each field is a column of the index, each source is defined."""
    card = json.loads((ORCHARD / "croissant.json").read_text(encoding="utf-8"))
    assert REQUIRED <= set(card) and card["@type"] == "sc:Dataset"
    assert card["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert card["name"] == W.VERSION
    sources = {entry["@id"] for entry in card["distribution"]}
    for entry in card["distribution"]:
        assert {"@type", "@id", "name", "encodingFormat"} <= set(entry)
        if entry["@type"] == "cr:FileSet":
            assert entry["containedIn"]["@id"] in sources and entry["includes"]
        else:
            assert entry["contentUrl"] and entry["sha256"]
    row = data.row_of(splits.edit("test", 0))
    (records,) = card["recordSet"]
    columns = set()
    for field in records["field"]:
        assert {"@type", "@id", "name", "description", "dataType", "source"} <= set(field)
        assert field["source"].get("fileObject", field["source"].get("fileSet"))["@id"] in sources
        columns.add(field["name"])
    assert columns == set(row)
