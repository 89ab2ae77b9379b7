"""What a table of an experiment shows, and the measures in it."""

import functools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.ablation import engine, rows, subjects, tables
from benchmarks.ablation.measures import MEASURES, numbers_of, ssim
from benchmarks.ablations import beyond

from .test_ablation import experiment, ran

# --- tables ---------------------------------------------------------------------------------------

VALUES = st.lists(st.floats(-5, 5), min_size=2, max_size=12)


@given(VALUES, st.floats(-3, 3), st.randoms())
def test_a_bootstrap_moves_with_its_values_and_forgets_their_order(values, shift, random):
    mean, low, high = tables.bootstrap(values)
    assert low <= mean + 1e-9 and mean <= high + 1e-9
    assert mean == pytest.approx(np.mean(values))
    assert tables.bootstrap(np.add(values, shift)) == pytest.approx(
        (mean + shift, low + shift, high + shift), abs=1e-9
    )
    shuffled = list(values)
    random.shuffle(shuffled)
    assert tables.bootstrap(shuffled) == (mean, low, high)


def test_a_bootstrap_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [tables.bootstrap(rng.standard_normal(40), 400) for _ in range(400)]
    share = np.mean([low <= 0 <= high for _, low, high in found])
    assert 0.90 <= share <= 0.98
    assert tables.bootstrap([2.0])[0] == 2 and math.isnan(tables.bootstrap([2.0])[1])
    assert tables.bootstrap([2.0] * 5) == (2, 2, 2)


def test_differences_are_paired_by_scene():
    """Two ways that differ by a constant have a difference without an interval, however much the
    scenes differ."""
    rng = np.random.default_rng(1)
    base = {(f"s{i}", 0): {"iou": float(rng.uniform())} for i in range(30)}
    rows_ = {key: {"iou": row["iou"] + 0.125} for key, row in base.items()}
    rows_["new", 0] = {"iou": 0.0}
    mean, low, high = tables.difference(rows_, base, "iou")
    assert (mean, low, high) == pytest.approx((0.125,) * 3)
    _, low, high = tables.summary(base, "iou")
    assert high - low > 0.1


@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=4))
def test_the_mean_lies_between_those_of_the_seeds(values):
    """Of scenes that have all seeds; the words say nothing of a single one."""
    rows_ = {
        (f"s{scene}", seed): {"iou": value}
        for seed, some in enumerate(values)
        for scene, value in enumerate(some)
    }
    means = tables.by_seed(rows_, "iou")
    assert means == pytest.approx({seed: np.mean(some) for seed, some in enumerate(values)})
    low, high = min(means.values()), max(means.values())
    assert low - 1e-9 <= tables.summary(rows_, "iou")[0] <= high + 1e-9
    words = f", {len(values)} seeds {low:.3f} to {high:.3f}" if len(values) > 1 else ""
    assert tables.of_seeds(rows_, "iou") == words
    unknown = {key: {"iou": None} for key in rows_}
    assert tables.of_seeds(unknown, "iou") == ""


def test_a_table_has_a_line_for_each_way_and_what_is_no_number_is_left_out(tmp_path, capsys):
    one = experiment(vary={"mask_threshold": (0.3, 0.5, 0.6)})
    ran(one, tmp_path)
    found = tables.results(rows.read(tmp_path / "toy"))
    text = tables.table(found)
    lines = text.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| mask_threshold 0.3",
        "| mask_threshold 0.5 (base)",
        "| mask_threshold 0.6",
    ]
    assert all(line.split(" | ")[1] == "4" for line in lines[2:])
    assert lines[3].count(" - ") >= len(one.measures)
    tables.collect(rows.read(tmp_path / "toy"), found, tmp_path / "toy.jsonl")
    again = tables.results(list(rows.lines(tmp_path / "toy.jsonl")))
    assert tables.table(again) == text
    size = sum(p.stat().st_size for p in (tmp_path / "toy").iterdir())
    assert (tmp_path / "toy.jsonl").stat().st_size < size


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "kind": st.just("row"),
                "run": st.sampled_from("rs"),
                "variant": st.sampled_from("ab"),
                "id": st.text(max_size=3),
            },
            optional={"iou": st.floats(0, 1) | st.none(), "recognised": st.booleans()},
        )
        | st.fixed_dictionaries({"kind": st.sampled_from(("run", "truth"))}),
        max_size=20,
    )
)
def test_packed_rows_are_the_rows(found):
    """No line is lost or changed, and those of a run and variant with the same numbers keep their
    order."""
    again = [each for line in rows.packed(found) for each in rows.unpacked(line)]
    key = functools.partial(json.dumps, sort_keys=True)
    assert sorted(map(key, again)) == sorted(map(key, found))
    for line in found:
        same = [
            [each for each in some if each.keys() == line.keys()
             and [each.get(k) for k in ("kind", "run", "variant")]
             == [line.get(k) for k in ("kind", "run", "variant")]]
            for some in (found, again)
        ]  # fmt: skip
        assert same[0] == same[1]


def test_the_distance_of_sets_is_that_of_the_evaluation():
    rng = np.random.default_rng(2)
    truths = {f"s{i}": rng.standard_normal(6) for i in range(60)}
    near, far = (
        {(s, 0): {"features": engine.encoded(t + shift)} for s, t in truths.items()}
        for shift in (0.5, 2.0)
    )
    assert tables.set_interval(near, truths)[0] == pytest.approx(6 * 0.25, rel=1e-2)
    value, low, high = tables.set_interval(far, truths, near)
    assert low < value < high and value == pytest.approx(6 * (4 - 0.25), rel=1e-2)


def scenes_with_features(some):
    """The lines of an experiment of two variants whose distance of sets is measured."""
    yield {"kind": "experiment", "name": "toy", "question": "?", "measures": ["csfid"], "base": "a",
           "variants": [["a", "a"], ["b", "b"]]}  # fmt: skip
    yield {"kind": "run", "run": "r", "code": "c", "model": "m"}
    for i in some:
        truth, one, other = np.random.default_rng(i).standard_normal((3, 5))
        yield {"kind": "truth", "scene": f"s{i}", "features": engine.encoded(truth)}
        for variant, features in (("a", truth + 0.5 * one), ("b", truth + one + other)):
            yield {"kind": "row", "id": f"{variant}{i}", "run": "r", "variant": variant, "seed": 0,
                   "scene": f"s{i}", "subject": "fruit", "change": 1.0,
                   "features": engine.encoded(features)}  # fmt: skip


def test_a_run_goes_on_with_a_collected_file(tmp_path):
    """A set that is too small for its measure keeps its features: collected in two parts or
    measured at once, the numbers are the same."""
    whole = list(scenes_with_features(range(50)))
    wanted = tables.table(tables.results(whole))
    assert "[" in wanted
    part = list(scenes_with_features(range(30)))
    tables.collect(part, tables.results(part), tmp_path / "part.jsonl")
    there = list(rows.lines(tmp_path / "part.jsonl"))
    assert "[" not in tables.table(tables.results(there))
    assert all("change" not in line for line in there)
    more = there + list(scenes_with_features(range(30, 50)))
    assert tables.table(tables.results(more)) == wanted
    tables.collect(more, tables.results(more), tmp_path / "whole.jsonl")
    there = list(rows.lines(tmp_path / "whole.jsonl"))
    assert not any("features" in line for line in there)
    assert tables.table(tables.results(there)) == wanted


# --- measures -------------------------------------------------------------------------------------


@given(st.integers(0, 2**31 - 1), st.floats(0.05, 0.5))
def test_ssim_is_one_for_equal_pictures_symmetric_and_falls(seed, amount):
    rng = np.random.default_rng(seed)
    a = rng.uniform(-0.5, 0.5, (3, 14, 17))
    b = a + amount * rng.standard_normal(a.shape)
    where = rng.random((14, 17)) < 0.5
    assert ssim(a, a) == pytest.approx(1) and ssim(a, a, where) == pytest.approx(1)
    assert ssim(a, np.clip(b, -1, 1)) == pytest.approx(ssim(np.clip(b, -1, 1), a))
    assert ssim(a + 4 * (b - a), a) < 1 and math.isnan(ssim(a, b, where & False))


def test_ssim_of_two_flat_pictures_is_its_formula():
    a, b = np.full((3, 9, 11), 0.25), np.full((3, 9, 11), 0.75)
    wanted = (2 * 0.25 * 0.75 + 0.02**2) / (0.25**2 + 0.75**2 + 0.02**2)
    assert ssim(a, b) == pytest.approx(wanted)


def test_ssim_at_a_pixel_is_its_formula():
    """Faint pictures, where both constants count, against weighted sums over one window."""
    a, b = 0.04 * np.random.default_rng(5).standard_normal((2, 3, 17, 15))
    window = np.exp(-(np.arange(-5, 6)[:, None] ** 2 + np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window /= window.sum()
    where = np.zeros((17, 15), bool)
    where[8, 6] = True
    x, y = (p[:, 3:14, 1:12] for p in (a, b))
    m, n = ((window * p).sum((1, 2)) for p in (x, y))
    variances = (window * (x**2 + y**2)).sum((1, 2)) - m**2 - n**2
    covariance = (window * x * y).sum((1, 2)) - m * n
    wanted = (2 * m * n + 0.0004) * (2 * covariance + 0.0036)
    wanted /= (m**2 + n**2 + 0.0004) * (variances + 0.0036)
    assert ssim(a, b, where) == pytest.approx(wanted.mean())


def test_an_edit_that_is_the_truth_has_the_best_numbers():
    one = subjects.scene("test", 1, 0, 128)
    assert one.truth.shape == (3, 128, 128) and one.caption != one.target
    cells = beyond.true_cells(one, (16, 16))
    other = beyond.random_cells(one, (16, 16))
    assert cells.sum() == other.sum() and (cells != other).any()
    from benchmarks.orchard.reader import classes

    found = numbers_of(one, one.truth, cells, cells.astype(float), classes(one.edited), 8)
    assert found["iou"] == found["best iou"] == 1 and found["recognised"]
    assert found["outside psnr"] > 40 and set(found) <= set(MEASURES)
