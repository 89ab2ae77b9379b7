"""benchmarks.ablation.pie_bench: its masks and prompts, and what it says of a wrong folder."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.ablation import pie_bench, subjects
from diffedit_core.errors import InputError

HEIGHT, WIDTH = 5, 7


@given(st.lists(st.tuples(st.integers(0, 34), st.integers(0, 35)), max_size=6))
def test_pixels_are_those_of_the_runs(runs):
    runs = [(start, min(length, 35 - start)) for start, length in runs]
    mask = pie_bench.pixels([n for run in runs for n in run], HEIGHT, WIDTH)
    wanted = {start + k for start, length in runs for k in range(length)}
    assert mask.shape == (HEIGHT, WIDTH) and mask.dtype == bool
    assert set(np.flatnonzero(mask)) == wanted


def entry(name, kind, **more):
    return {
        "image_path": f"1_change/{name}.png",
        "original_prompt": "a [red] cup",
        "editing_prompt": "a [blue] cup",
        "editing_type_id": kind,
        "mask": [0, 7, 14, 1],
        **more,
    }


def benchmark(folder, **more):
    (folder / "annotation_images" / "1_change").mkdir(parents=True)
    for name in "abc":
        picture = Image.new("RGB", (WIDTH, HEIGHT), "red")
        picture.save(folder / "annotation_images" / "1_change" / f"{name}.png")
    mapping = {"a": entry("a", "1", **more), "b": entry("b", "8"), "c": entry("c", "1")}
    (folder / "mapping_file.json").write_text(json.dumps(mapping))
    return folder


def test_what_it_writes_is_what_the_ablations_read(tmp_path, capsys):
    folder, out = benchmark(tmp_path / "pie"), tmp_path / "out"
    assert pie_bench.main([str(folder), "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith("2 edits in")
    assert subjects.have_masks(out, out / "prompts.jsonl")
    (batch,) = subjects.pictures(out, out / "prompts.jsonl", (0,), 5)
    one, other = batch.make()
    assert one.caption == "a red cup" and one.target == "a blue cup"
    assert one.name == "0000-a.png" and other.name == "0001-c.png"
    wanted = np.zeros((5, 5), bool)  # the middle five columns
    wanted[0] = True
    assert np.array_equal(one.mask, wanted)


@pytest.mark.parametrize(
    "more, types, said",
    [
        ({"mask": [0]}, (1,), "a: mask is no list"),
        ({"mask": [30, 6]}, (1,), "a: mask is no list"),
        ({"mask": [-1, 6]}, (1,), "a: mask is no list"),
        ({"mask": ["x", 6]}, (1,), "a: mask is no list"),
        ({"editing_prompt": None}, (1,), "not as PIE-Bench has it"),
        ({"editing_type_id": "x"}, (1,), "not as PIE-Bench has it"),
        ({"image_path": "none.png"}, (1,), "none.png"),
        ({}, (2, 3), "no edits of type 2, 3"),
    ],
)
def test_a_wrong_folder_is_a_sentence_and_leaves_nothing(more, types, said, tmp_path, capsys):
    folder, out = benchmark(tmp_path / "pie", **more), tmp_path / "out"
    given = [str(folder), "--out", str(out), "--types", *map(str, types)]
    assert pie_bench.main(given) == 2
    said_there = capsys.readouterr().err
    assert said in said_there and "Traceback" not in said_there
    assert [p.name for p in tmp_path.iterdir()] == ["pie"]


def test_no_folder_is_a_sentence(tmp_path):
    with pytest.raises(InputError, match="missing or not as PIE-Bench has it"):
        list(pie_bench.edits(tmp_path, (1,)))
