"""The measures of the Orchard against closed forms."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from benchmarks.orchard import classifier as C, measures, methods, paired
from benchmarks.orchard import world as W

from .orchard_fakes import pictures

SEEDS = st.integers(0, 2**31 - 1)


@given(SEEDS, st.floats(1e-3, 0.5))
def test_psnr_of_a_constant_error(seed, error):
    """20 log10(2 / error): the range is 2."""
    wanted = 0.4 * pictures(seed, 3, 7, 9)
    assert measures.psnr(wanted + np.float32(error), wanted) == pytest.approx(
        20 * math.log10(2 / error), abs=0.01
    )


@given(SEEDS)
def test_psnr_looks_only_where_it_is_told(seed):
    wanted, where = pictures(seed, 2, 3, 7, 9), np.zeros((7, 9), bool)
    where[2:4, 5:] = True
    found = np.where(where, wanted + 0.1, -wanted)
    assert measures.psnr(found, wanted, where) == measures.psnr(
        np.clip(wanted + 0.1, -1, 1), wanted, where
    )
    assert np.isnan(measures.psnr(found, wanted, where & False))


@given(SEEDS)
def test_slope_error_of_equal_flat_and_brighter_pictures(seed):
    wanted = 0.5 * pictures(seed, 3, 7, 9)
    assert measures.slope_error(wanted, wanted) == 0
    assert measures.slope_error(np.zeros_like(wanted), wanted) == pytest.approx(1)
    assert measures.slope_error(wanted + 0.3, wanted) == pytest.approx(0, abs=1e-5)


@given(SEEDS)
def test_overlap_counts(seed):
    a, b = np.random.default_rng(seed).random((2, 5, 7)) < 0.4
    both, either = sum(x and y for x, y in zip(a.flat, b.flat)), sum(
        x or y for x, y in zip(a.flat, b.flat)
    )
    assert measures.overlap(a, b) == (both / either, both / a.sum(), both / b.sum())
    assert measures.overlap(a, a) == (1, 1, 1) and measures.overlap(a & False, b & False) == (
        1,
        1,
        1,
    )


@given(SEEDS)
def test_a_grown_mask_holds_what_is_at_most_one_cell_away(seed):
    mask = np.random.default_rng(seed).random((5, 7)) < 0.1
    rows, columns = np.nonzero(mask)
    near = [
        [bool(((abs(rows - i) <= 1) & (abs(columns - j) <= 1)).any()) for j in range(7)]
        for i in range(5)
    ]
    assert np.array_equal(measures.grown(mask), near)


@given(SEEDS)
def test_frechet_distance_of_a_shift_is_its_square(seed):
    a = np.random.default_rng(seed).standard_normal((40, 5))
    shift = np.array((0.5, 0, -1, 2, 0))
    assert measures.frechet(a, a) == pytest.approx(0, abs=1e-6)
    assert np.isnan(measures.frechet(a[:1], a))  # one has no spread
    assert measures.frechet(a, a + shift) == pytest.approx((shift**2).sum(), rel=1e-6)
    # of independent scaled axes: sum (s - 1)^2 var, here with s = 3
    assert measures.frechet(a, 3 * a) == pytest.approx(
        4 * (np.trace(np.cov(a.T)) + (a.mean(0) ** 2).sum()), rel=1e-6
    )


def test_intervals():
    """Wilson's for 92 of 100, from the closed form by hand; normal for numbers; not-a-number is
    left out."""
    mean, low, high = measures.interval([True] * 92 + [False] * 8)
    assert (mean, low, high) == pytest.approx((0.92, 0.8500, 0.9589), abs=1e-3)
    assert (
        measures.interval([True] * 20)[2] == pytest.approx(1)
        and 0.8 < measures.interval([True] * 20)[1] < 1
    )
    mean, low, high = measures.interval([1.0, 2.0, 3.0, float("nan")])
    assert (mean, high - mean) == pytest.approx((2, 1.96 / math.sqrt(3)))
    assert mean - low == pytest.approx(high - mean)


def test_the_true_edit_gets_full_marks_and_the_source_none():
    case = methods.cases(3)[2]
    cells = W.on_grid(case.mask, 8)
    right = measures.judge(case, case.truth, cells, case.source, C.classes(case.edited), 8)
    assert right["iou"] == right["precision"] == right["recall"] == 1
    assert (
        right["edit psnr"] > 100
        and right["edit slope error"] == 0
        and right["recognised"]
        and right["rest unchanged"]
    )
    assert right["background psnr"] > 25 and right["outside psnr"] > 25
    near = case.source.copy()
    near[:, np.kron(measures.grown(cells) & ~cells, np.ones((8, 8), bool))] = 0
    marks = measures.judge(case, near, cells, case.source, C.classes(case.edited), 8)
    assert marks["beyond psnr"] == marks["beyond floor"] > 100 > marks["outside psnr"]
    copied = measures.judge(case, case.source, ~cells, case.source, C.classes(case.scene), 8)
    assert copied["iou"] == 0 and copied["background psnr"] > 100 and not copied["recognised"]
    assert copied["edit psnr"] < 25


# ---- pairs of methods ----------------------------------------------------------------------------

NUMBERS = st.lists(
    st.fixed_dictionaries(
        {"iou": st.floats(0, 1), "recognised": st.booleans()},
        optional={"edit psnr": st.floats(0, 60) | st.just(float("nan"))},
    ),
    min_size=2,
    max_size=9,
)


@given(NUMBERS, st.integers(0, 2**31 - 1))
def test_paired_differences_change_their_sign_with_the_order(rows, seed):
    """And are exactly zero, interval and all, against oneself; what has no number is in neither
    mean."""
    rng = np.random.default_rng(seed)
    others = [{**row, "iou": rng.random(), "recognised": bool(rng.integers(2))} for row in rows]
    one, two = paired.differences(rows, others), paired.differences(others, rows)
    for key, (count, new, old, (mean, low, high)) in one.items():
        assert (count, old, new) == two[key][:3]
        assert mean == pytest.approx(new - old) == pytest.approx(-two[key][3][0])
    for count, new, old, triple in paired.differences(rows, rows).values():
        assert new == old and triple[0] == 0 and (count == 1 or triple == (0, 0, 0))
    finite = [row for row in rows if np.isfinite(row.get("edit psnr", np.nan))]
    assert one.get("edit psnr", [0])[0] == len(finite)


def test_paired_shows_what_the_means_hide(tmp_path, capsys):
    """Edits of every difficulty, each a little better: the interval of the difference is narrow."""
    old = [{"iou": i / 50, "edit psnr": 10 + i} for i in range(40)]
    new = [{**row, "iou": row["iou"] + 0.02} for row in old]
    results = {"facts": {"size": 128, "classifier": "a"}, "records": {"DiffEdit": new, "copy": old}}
    path, other = tmp_path / "new.json", tmp_path / "old.json"
    path.write_text(json.dumps(results), encoding="utf-8")
    other.write_text(json.dumps({**results, "records": {"DiffEdit": old}}), encoding="utf-8")
    for words, title in (([path], "copy, against DiffEdit"), ([path, other], "DiffEdit:")):
        assert paired.main(list(map(str, words))) == 0
        text = capsys.readouterr().out
        assert title in text and "| PSNR to true edit inside | 40 | 29.50 | 29.50 | +0.00 [" in text
    assert "| mask IoU | 40 | 0.410 | 0.390 | +0.020 [0.020, 0.020] |" in text


@pytest.mark.parametrize(
    "change, words",
    [
        ({"facts": {"size": 256, "classifier": "a"}}, "differ in size, 128 and 256"),
        ({"facts": {"size": 128, "classifier": "b"}}, "differ in classifier"),
        ({"records": {"copy": [{"iou": 0}]}}, "no method in common"),
        ({"records": {}}, "other.json is no results.json"),
    ],
)
def test_paired_refuses_what_cannot_be_compared(tmp_path, capsys, change, words):
    results = {"facts": {"size": 128, "classifier": "a"}, "records": {"DiffEdit": [{"iou": 1}]}}
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    one.write_text(json.dumps(results), encoding="utf-8")
    other.write_text(json.dumps({**results, **change}), encoding="utf-8")
    assert paired.main([str(one), str(other)]) == 2
    assert words in capsys.readouterr().err
    assert paired.main([str(one)]) == 2 and "one method, 'DiffEdit'" in capsys.readouterr().err
    assert paired.main([str(tmp_path / "none")]) == 2
