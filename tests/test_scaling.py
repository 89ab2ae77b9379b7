"""Time and memory against what they depend on: the fit of an exponent, the points, the tables, and
every refusal. The edits are played."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, strategies as st
from PIL import Image

from benchmarks import scaling
from benchmarks.against import children, cli, job, rounds
from benchmarks.kernels import records
from diffedit_core import folder
from diffedit_core.options import RECIPES, Options
from diffedit_core.plan import plan

from .tiny import MICRO

NUMBERS = st.lists(st.integers(1, 1000), min_size=2, max_size=7, unique=True)
POSITIVE = st.floats(1e-3, 1e3)


def played(options, targets):
    """What an edit would say whose inversion takes 1 s a step, whose decoding 2 s a step and
    target, and whose memory is 5 GiB, 3 of them the loaded model."""
    steps = options.num_encode_steps
    seconds = {"maps": options.num_maps**0.5, "inversion": steps, "decoding": 2 * targets * steps}
    counts = plan(options, SCHEDULER, targets)
    counts = {"maps": counts.mask_evaluations, "decoding": counts.decode_evaluations}
    first = {"seconds": seconds, "rows": counts, "processor": 9.0, "memory": 5 << 30}
    return children.Measured(1.0, 2.0, 3 << 30, [first, first], {"mindspore": "9"}, 0.5)


SCHEDULER = folder.read_configs(MICRO).scheduler


@pytest.fixture
def asked(monkeypatch):
    """The points that were run, in their order."""
    found = []

    def run(arguments, model, point, picture):
        assert picture.size == (point["size"], point["size"])
        found.append(point)
        return played(scaling.options_of(point, arguments.recipe), point["targets"])

    monkeypatch.setattr(scaling, "run", run)
    return found


def run(*words, model=MICRO):
    return scaling.main(["--model", str(model), *words])


# --- the exponent ---------------------------------------------------------------------------------


@given(NUMBERS, st.floats(-3, 3), POSITIVE)
def test_a_power_has_its_exponent(x, exponent, factor):
    found = scaling.fit(x, [factor * value**exponent for value in x])
    assert found.exponent == pytest.approx(exponent, abs=1e-6) and found.count == len(x)
    assert found.error is None if len(x) == 2 else found.error < 1e-5


@given(
    st.lists(st.tuples(st.integers(1, 99), POSITIVE), min_size=2, max_size=7), POSITIVE, POSITIVE
)
def test_units_do_not_matter(points, a, b):
    x, y = zip(*points)
    assume(len(set(x)) > 1)
    found = scaling.fit(x, y)
    other = scaling.fit([a * v for v in x], [b * v for v in y])
    assert other.exponent == pytest.approx(found.exponent, abs=1e-6)
    reciprocal = scaling.fit(x, [1 / v for v in y])
    assert reciprocal.exponent == pytest.approx(-found.exponent, abs=1e-9)
    assert found.error is None or other.error == pytest.approx(found.error, abs=1e-6)


@given(st.lists(st.tuples(st.integers(1, 99), POSITIVE), min_size=3, max_size=7))
def test_it_is_the_best_line_of_the_logarithms(points):
    """Against numpy's own, with its covariance."""
    x, y = zip(*points)
    assume(len(set(x)) > 1)
    found = scaling.fit(x, y)
    design = np.stack([np.log(x), np.ones(len(x))], 1)
    (slope, _), *_ = np.linalg.lstsq(design, np.log(y), rcond=None)
    rest = np.log(y) - design @ np.linalg.lstsq(design, np.log(y), rcond=None)[0]
    covariance = np.linalg.inv(design.T @ design) * (rest @ rest) / (len(x) - 2)
    assert found.exponent == pytest.approx(slope, abs=1e-6)
    assert found.error == pytest.approx(covariance[0, 0] ** 0.5, rel=1e-4, abs=1e-6)


def test_a_constant_part_makes_it_smaller():
    x = [1, 2, 4, 8]
    assert 0 < scaling.fit(x, [5 + v for v in x]).exponent < 0.6


@pytest.mark.parametrize(
    "x, y", [([1], [1]), ([2, 2], [1, 3]), ([1, 2], [0, 1]), ([1, 2], [None, 1])]
)
def test_what_has_no_exponent(x, y):
    assert scaling.fit(x, y) is None


def test_how_an_exponent_is_shown():
    assert str(scaling.Fit(1.0, None, 2)) == "1.00 (2)"
    assert str(scaling.Fit(0.987, 0.0123, 4)) == "0.99 ± 0.01 (4)"


# --- the points -----------------------------------------------------------------------------------

BASE = {"size": 64, **scaling.BASE}


@given(st.lists(st.sampled_from(list(scaling.AXES)), min_size=1, unique=True), NUMBERS)
def test_one_axis_at_a_time(axes, values):
    found = scaling.points(axes, BASE, {axes[0]: values})
    assert list(found) == axes and [p[axes[0]] for p in found[axes[0]]] == sorted(values)
    for axis, each in found.items():
        assert len({point[axis] for point in each}) == len(each) > 1
        for point in each:
            assert all(point[name] == BASE[name] for name in scaling.AXES if name != axis)


def test_a_shared_point_is_run_once():
    found = scaling.points(scaling.AXES, BASE, {})
    assert sum(map(len, found.values())) == 16
    run_once = scaling.distinct(found)
    assert len(run_once) == 13 and sum(point == BASE for point in run_once) == 1


def test_the_targets_are_different_edits():
    assert len(set(scaling.TARGETS)) == 8 and cli.SOURCE not in scaling.TARGETS


# --- the command ----------------------------------------------------------------------------------

WORDS = ["--axes", "steps,targets", "--points", "steps=5,10,20", "--base", "maps=4"]


def test_rows_and_table(asked, tmp_path, capsys):
    """Each point once a round, and a row of it under each axis; the table is what the file says."""
    file = tmp_path / "r.jsonl"
    assert run(*WORDS, "--runs", "2", "--record", str(file), "--note", "Shared.") == 0
    printed, bars = capsys.readouterr()
    assert not bars and not rounds.part(file).exists()
    assert len(asked) == 2 * 6 and asked[:6] == asked[6:], "3 steps and 4 targets share a point"
    found = records.read(file)
    assert all(set(row) == set(records.FIELDS) for row in found)
    assert len({records.key(row) for row in found}) == len(found)
    assert all(row["note"] == "Shared." and "bowl" not in json.dumps(row) for row in found)
    assert scaling.main(["--table", str(file)]) == 0
    assert capsys.readouterr().out == printed
    steps, targets = (part.splitlines() for part in printed.split("\n\n")[1:])
    names, *lines = ([c.strip() for c in line.strip("|").split("|")] for line in steps)
    at = names.index
    assert [line[0] for line in lines[1:]] == ["5", "10", "20", "exponent (points)"]
    assert [line[at("inversion, s")] for line in lines[1:]] == ["4", "8", "16", "1.00 ± 0.00 (3)"]
    assert [line[at("maps, s")] for line in lines[1:]] == ["2", "2", "2", "0.00 ± 0.00 (3)"]
    assert lines[-1][at("encode, s")] == "-", "nothing has no exponent"
    assert lines[1][at("peak, GiB")] == "5"
    assert lines[1][at("above the loaded model, GiB")] == "2"
    assert targets[0].startswith("| targets |") and "1.00 ± 0.00 (4)" in targets[-1]
    assert "maps 4" in printed and "medians of 2" in printed and "mindspore 9" in printed


def test_dry_run_counts_what_would_be_evaluated(asked, capsys):
    assert run(*WORDS, "--runs", "3", "--dry-run") == 0
    text = capsys.readouterr().out
    one = {n: plan(RECIPES["paper"].replace(num_inference_steps=20, num_maps=4), SCHEDULER, n)
           for n in (1, 2, 4, 8)}  # fmt: skip
    few = [plan(RECIPES["paper"].replace(num_inference_steps=n, num_maps=4), SCHEDULER)
           for n in (5, 10)]  # fmt: skip
    total = sum(p.evaluations for p in (*one.values(), *few))
    assert f"processes   18, two edits each: {6 * total} UNet rows in all" in text and not asked


def test_what_was_complete_is_kept(asked, tmp_path, monkeypatch, capsys):
    """A whole round is; a run that was stopped in its first has nothing."""
    real, left = scaling.run, [6]

    def stopped(*args):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(scaling, "run", stopped)
    file = tmp_path / "r.jsonl"
    assert run(*WORDS, "--runs", "2", "--record", str(file)) == 130
    assert "r.jsonl.part" in capsys.readouterr().err and not file.exists()
    assert scaling.main(["--table", str(rounds.part(file))]) == 0
    assert run(*WORDS, "--record", str(file)) == 2
    assert "left of an earlier run" in capsys.readouterr().err
    monkeypatch.setattr(scaling, "run", real)
    for words, expected in (
        (["--seed", "1"], "seed 0, now it is 1"),
        (["--recipe", "smooth"], "variant recipe paper, now it is recipe smooth"),
        (["--base", "size=72"], "is of other points"),
        (["--points", "targets=1,2"], "is of other points"),
        (["--runs", "1"], "has 1 rounds already"),
    ):
        assert run(*WORDS, "--runs", "2", "--record", str(file), "--resume", *words) == 2
        assert expected in capsys.readouterr().err
    assert run(*WORDS, "--runs", "2", "--record", str(file), "--resume") == 0
    assert {row["wall_us"]["n"] for row in records.read(file)} == {2}
    assert not rounds.part(file).exists()


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--axes", "steps,noise"], "'noise' is given, choose of size, steps, maps, targets"),
        (["--points", "steps"], "'steps' is given, expected NAME=N"),
        (["--points", "noise=1,2"], "expected NAME=N"),
        (["--points", "steps=5,x"], "expected 1 or more"),
        (["--points", "steps=5,5"], "--points steps has one value"),
        (["--axes", "maps", "--points", "steps=5,6"], "without --axes steps"),
        (["--base", "steps=5,6"], "--base steps has 2 values"),
        (["--base", "size=63"], "The size is 63: give a multiple of 8"),
        (["--points", "size=64,65"], "The size is 65: give a multiple of 8"),
        (["--points", "targets=1,9"], "There are 8 targets, not 9"),
        (["--points", "steps=1,2", "--recipe", "diffusers"], "rounds to no step"),
        (["--runs", "0"], "expected 1 or more"),
        (["--image", "no.png"], "no.png"),
        (["--record", "no/r.jsonl"], "There is no folder no"),
        (["--source", scaling.TARGETS[2]], "is one of the targets"),
        (["--dtype", "bf16"], "choose fp32 or fp16"),
        (["--table", "no.jsonl"], "no.jsonl cannot be read"),
    ],
)
def test_bad_arguments(words, expected, asked, capsys):
    try:
        code = run(*words)
    except SystemExit as end:
        code = end.code
    message = capsys.readouterr().err
    assert code == 2 and expected in message and message.count("\n") == 1
    assert message.startswith("benchmarks.scaling: error: ") and not asked


def test_a_file_of_another_benchmark(tmp_path, capsys):
    file = tmp_path / "r.jsonl"
    file.write_text('{"record": "call", "op": "x"}\n', encoding="utf-8")
    assert scaling.main(["--table", str(file)]) == 2
    assert "has no rows of benchmarks.scaling" in capsys.readouterr().err


def test_a_point_is_an_edit_of_its_own(monkeypatch, tmp_path):
    """The process gets the point's targets, options and picture; the draws are the seed's."""

    def started(name, command, environment):
        place = command[-2]
        found.update(job.read(place), recipe=command[-1])
        found["threads"] = environment["OMP_NUM_THREADS"]
        options = Options(**found["options"][found["recipe"]])
        found["shape"] = job.read_draws(place, options).maps.shape

    found = {}
    monkeypatch.setattr(children, "run", started)
    arguments = SimpleNamespace(recipe="smooth", dtype="fp32", source="s", seed=3, threads=2)
    point = {"size": 40, "steps": 7, "maps": 3, "targets": 2}
    scaling.run(arguments, folder.check(MICRO), point, Image.new("RGB", (40, 40)))
    assert found["targets"] == list(scaling.TARGETS[:2]) and found["recipe"] == "smooth"
    assert found["threads"] == "2"
    assert found["options"]["smooth"]["num_inference_steps"] == 7
    assert found["shape"] == (1, 3, 4, 5, 5)
