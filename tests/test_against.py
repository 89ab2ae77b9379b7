"""Whole edits beside the public pipeline's: the clock of phases, what the two processes say, what
becomes of it, and every refusal. The processes are played by a script here; the public pipeline's
own is run where it is installed, or `DIFFEDIT_PUBLIC_PYTHON` names an interpreter that has it."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, strategies as st

from benchmarks import edit, scaling
from benchmarks.against import agreement, child, children, job, networks, ours, rounds, rows, tables
from benchmarks.kernels import records
from diffedit_core import folder as folders
from diffedit_core.errors import InputError
from diffedit_core.options import RECIPES
from diffedit_core.plan import plan

from .closed_forms import FakeModel, draws_of, picture
from .strategies import SD21
from .test_config import refused
from .tiny import MICRO

# A process of either side: says what a real one does, and saves the arrays that it is told to.
PLAYED = """
import json, sys
import numpy as np
folder, name = sys.argv[1:3]
told = json.load(open(folder + "/job.json"))
told.update(json.load(open(sys.argv[3])).get(name, {}))
if "fails" in told:
    sys.exit(told["fails"])
say = lambda **message: print(json.dumps(message), flush=True)
say(event="ready", versions={name: "1.0"})
say(event="loaded", seconds=told.get("load", 2.0), memory=3 << 30)
for number in range(told["edits"]):
    scale = told.get("scale", 1.0)
    seconds = {"text": 1.0, "maps": 4.0, "inversion": 5.0, "decoding": 5.0, "other": 0.5}
    say(event="edited", seconds={k: v * scale / (number + 1) for k, v in seconds.items()},
        rows=told.get("rows", {"maps": 8, "inversion": 4, "decoding": 4}),
        processor=20.0, memory=(4 + number) << 30)
    file = folder + "/" + name + "-" + str(number) + ".npz"
    mask = np.zeros((20, 20))
    mask.flat[: told.get("cells", 100)] = 1
    latents = np.ones((3, 4, 20, 20)) + told.get("off", 0.0) * number
    np.savez(file, mask=mask, inverted=latents, decoded=latents[0], picture=latents[0])
say(event="done")
"""


@pytest.fixture
def played(monkeypatch, tmp_path):
    """Processes that are played; gives a function that tells them what to say: {name: {...}}."""
    script, told = tmp_path / "played.py", tmp_path / "told.json"
    script.write_text(PLAYED, encoding="utf-8")
    told.write_text("{}", encoding="utf-8")
    started = []

    def command(name):
        def of(*arguments):
            place, side = (arguments[1], name) if name else arguments[:2]
            started.append((side, arguments[2]))
            return [sys.executable, "-I", str(script), str(place), side, str(told)], {}

        return of

    monkeypatch.setattr(children, "public", command("public"))
    monkeypatch.setattr(children, "ours", command(None))
    monkeypatch.setattr(children, "probe", lambda python: dict.fromkeys(children.NEEDED, "9.9"))
    return SimpleNamespace(
        tell=lambda **what: told.write_text(json.dumps(what), encoding="utf-8"), started=started
    )


def run(*words, model=MICRO):
    return edit.main(
        ["--against", "diffusers", "--python", sys.executable, "--model", str(model), *words]
    )


SHORT = ["--steps", "4", "--maps", "2", "--size", "64"]


# --- the clock ------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 9)), max_size=12))
def test_phases_add_up_to_the_whole(steps):
    """Whatever is nested in whatever, each second is of the innermost phase, and of no other."""
    now, wanted = [0], dict.fromkeys("abcw", 0)
    clock = child.Clock(lambda: now[0])

    def walk(left, name):
        while left:
            inner, deeper, seconds = left.pop(0)
            now[0] += seconds
            wanted[name] += seconds
            if deeper:
                with clock.phase(inner):
                    walk(left, inner)

    with clock.phase("w"):
        walk(list(steps), "w")
    assert {name: clock.seconds[name] for name in wanted} == wanted
    assert sum(clock.seconds.values()) == now[0]


def test_rows_are_of_the_phase_that_is_open():
    clock = child.Clock()
    with clock.phase("other"), clock.phase("maps"):
        clock.timed("text", lambda: None)()
        clock.count(3)
    assert clock.rows == {"maps": 3}


def test_a_phase_ends_with_an_error():
    clock = child.Clock()
    with pytest.raises(KeyError), clock.phase("other"):
        clock.timed("maps", {}.__getitem__)(0)
    assert not clock._open


@pytest.mark.parametrize("recipe, every", [("diffusers", 1), ("paper", 1), ("paper", 3)])
def test_our_edit_counts_what_its_plan_says(recipe, every):
    """And tells each model's work from the UNet's phases; the arrays are the edit's."""
    options = RECIPES[recipe].replace(num_inference_steps=10, num_maps=3, reuse_features=every)
    model, clock = FakeModel(), child.Clock()
    model.evaluate = lambda x, t, states, deep=None: (model.predict(x, t, states), x)
    run_once = ours.editor(model, picture(), "source", ["a"], options, draws_of(options))
    with clock.phase("other"):
        arrays = run_once(clock)
    costs = plan(options, SD21)
    assert clock.rows == {
        "maps": costs.mask_evaluations,
        "inversion": costs.inversion_evaluations,
        "decoding": costs.decode_evaluations,
    }
    assert set(clock.seconds) == {*rows.PHASES}
    assert arrays["mask"].shape == (6, 8) and 0 < arrays["mask"].mean() < 1
    assert arrays["inverted"].shape == (options.num_encode_steps, 3, 6, 8)
    assert arrays["decoded"].shape == (3, 6, 8) and arrays["picture"].shape == (12, 16, 3)
    assert "predict" not in vars(model), "the model is as it was"


def test_an_edit_that_edits_nothing_is_not_timed():
    options = RECIPES["paper"].replace(num_inference_steps=4, num_maps=1)
    run_once = ours.editor(FakeModel(), picture(), "a", ["a"], options, draws_of(options))
    with pytest.raises(InputError, match="mask is empty"):
        run_once(child.Clock())


# --- a process ------------------------------------------------------------------------------------


def test_what_a_process_says():
    """Loaded once, edited twice; the first edit's processor time is from the process's start."""
    said, saved, edits = [], [], []

    def work(clock):
        edits.append(clock)
        with clock.phase("maps"):
            clock.count(5)
        return {"x": len(edits)}

    child.serve(
        lambda **message: said.append(message),
        {"a": "1"},
        lambda: work,
        lambda *found: saved.append(found),
        lambda: 7,
    )
    assert [message["event"] for message in said] == ["ready", "loaded", *["edited"] * 2, "done"]
    assert saved == [(0, {"x": 1}), (1, {"x": 2})] and edits[0] is not edits[1]
    lines = [(float(i), json.dumps(message)) for i, message in enumerate(said, 1)]
    found = children.measured("it", lines, 0.5)
    assert found.start == 1.0 and found.loaded == 7 and found.versions == {"a": "1"}
    assert [e["rows"] for e in found.edits] == [{"maps": 5}] * 2
    assert found.edits[0]["processor"] > 10 * found.edits[1]["processor"]


@pytest.mark.parametrize(
    "lines", [[], ["no"], ['{"event": "ready", "versions": {}}'], ["[]"], ["{}"] * 4]
)
def test_a_process_that_does_not_finish_is_not_measured(lines):
    with pytest.raises(InputError, match="The process of it did not say"):
        children.measured("it", [(0.0, line) for line in lines], 0.0)


def test_only_what_is_said_is_on_stdout():
    """Libraries print where they like; the messages are lines of their own."""
    program = (
        "from benchmarks.against import child; say = child.speaker(); print('noise'); "
        "import os; os.system('echo more'); say(event='x')"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=children.ROOT, capture_output=True, text=True
    )
    assert found.stdout == '{"event": "x"}\n' and "noise" in found.stderr


def test_the_largest_memory_only_grows():
    before = child.resident()
    ballast = np.ones(1 << 23)
    assert child.resident() >= before > 1 << 20 and ballast.all()


def test_what_both_processes_are_given(tmp_path):
    """The draws of the recipe that draws for each map serve the other as well: more maps or a
    posterior leave a seed's as they are."""
    from PIL import Image

    options = {n: RECIPES[n].replace(num_maps=3) for n in ("paper", "diffusers")}
    options["also"] = RECIPES["smooth"].replace(num_maps=1)
    found = folders.check(MICRO)
    job.write(tmp_path, found, "fp32", Image.new("RGB", (64, 48)), "s", ["t"], options, 4)
    given = job.read(tmp_path)
    assert given["options"]["diffusers"]["posterior_per_map"]
    assert given["model"] == str(MICRO.resolve()) and given["targets"] == ["t"]
    for each in options.values():
        wanted = job.draws.draws(each, [4], (4, 6, 8))
        for one, other in zip(wanted, job.read_draws(tmp_path, each)):
            assert (one is None) == (other is None) and (one is None or np.array_equal(one, other))


# --- agreement ------------------------------------------------------------------------------------


def arrays(**changes):
    found = {name: np.ones((4, 5)) for name in ("mask", "inverted", "decoded", "picture")}
    return {**found, **changes}


def test_errors_are_relative_to_the_public_pipelines():
    found = agreement.errors(
        arrays(decoded=np.full((4, 5), 1.5)), arrays(decoded=np.full((4, 5), 2.0))
    )
    assert found == {"mask": 0.0, "inverted": 0.0, "decoded": 0.25, "picture": 0.0}
    mask = np.ones((4, 5))
    mask[0, 0] = 0
    assert agreement.errors(arrays(mask=mask), arrays())["mask"] == 1 / 20


@pytest.mark.parametrize("name", ["mask", "inverted", "decoded", "picture"])
def test_no_error_passes_for_agreement(name):
    """Neither another shape nor what is not a number."""
    allowed = agreement.tolerances(1e-3)
    for wrong in (np.ones((5, 4)), np.full((4, 5), np.nan), np.zeros((4, 5))):
        found = {**agreement.errors(arrays(**{name: wrong}), arrays()), "UNet rows": 0.0}
        (said,) = agreement.broken(agreement.worst([found]), allowed)
        assert agreement.MEASURES[name] in said
    assert not agreement.broken({**agreement.errors(arrays(), arrays()), "UNet rows": 0}, allowed)


def test_the_worst_counts_even_if_it_is_no_number():
    found = agreement.worst([{"a": 1.0}, {"a": float("nan")}, {"a": 3.0}])
    assert np.isnan(found["a"])
    assert agreement.worst([{"a": 1.0}, {"a": 3.0}, {"a": 2.0}]) == {"a": 3.0}


def test_rows_are_compared_phase_by_phase():
    assert agreement.rows({"maps": 4, "decoding": 2}, {"maps": 2, "decoding": 4}) == 4
    assert agreement.rows({"maps": 4}, {"maps": 4, "inversion": 3}) == 3


# --- the command ----------------------------------------------------------------------------------


def test_sides_take_turns_and_their_rows_add_up(played, tmp_path, capsys):
    played.tell(public={"scale": 2.0}, paper={"rows": {"maps": 4, "inversion": 2, "decoding": 4}})
    file = tmp_path / "r.jsonl"
    assert run(*SHORT, "--runs", "2", "--record", str(file), "--note", "Shared.") == 0
    assert not rounds.part(file).exists()
    printed, found = capsys.readouterr().out, records.read(file)
    assert all(set(row) == set(records.FIELDS) for row in found)
    assert len({records.key(row) for row in found}) == len(found)
    timed = [row for row in found if row["record"] == "evaluation"]
    assert {row["variant"] for row in timed} == set(tables.sides())
    for side in tables.sides():
        for state in rows.STATES:
            each = {
                r["op"]: r for r in timed if (r["variant"], r["args"]["state"]) == (side, state)
            }
            parts = [op for op in each if op not in (rows.WHOLE, rows.PROCESSOR)]
            assert ("start" in parts and "load" in parts) == (state == "cold")
            whole = sum(each[op]["seconds"][1] for op in parts)
            assert each[rows.WHOLE]["seconds"][1] == pytest.approx(whole, abs=1e-5)
            assert each[rows.WHOLE]["evaluations"] == (10 if side == "recipe paper" else 16)
            assert each[rows.WHOLE]["max_memory_allocated"] >> 30 == 4 + (state == "warm")
            assert all(len(r["seconds"]) == 2 and r["wall_us"]["n"] == 2 for r in each.values())
    for row in found:
        assert row["date"].count("-") == 2 and row["processor"] and row["note"] == "Shared."
        text = json.dumps(row)
        assert "apples" not in text and str(MICRO) not in text and sys.executable not in text
    assert edit.main(["--table", str(file)]) == 0
    assert capsys.readouterr().out == printed
    assert "Shared." in printed and "load average" in printed


def test_the_tables_ratios_are_those_of_the_medians(played, tmp_path, capsys):
    """Ours over theirs: they take twice as long at everything, and evaluate 16 rows, not 10."""
    fewer = {"rows": {"maps": 4, "inversion": 2, "decoding": 4}}
    played.tell(public={"scale": 2.0}, paper=fewer, diffusers={"off": 0.01})
    assert run(*SHORT, "--runs", "1", "--tolerance", "0.1") == 0
    text, bars = capsys.readouterr()
    assert "0.01 (at most 0.1)" in text, "a tolerance of one's own"
    assert not bars, "no progress in a pipe"
    cold, warm = (
        {c[0]: c[1:] for c in map(cells, part.splitlines()) if len(c) > 1}
        for part in (text.split("| warm")[0], "| warm" + text.split("| warm")[1])
    )
    assert warm["maps, s"] == ["4", "2", "0.5", "2", "0.5"]
    assert warm["**whole, s**"] == ["15.5", "7.75", "0.5", "7.75", "0.5"]
    assert warm["UNet rows"] == ["16", "16", "1", "10", "0.625"]
    assert warm["whole, s per UNet row"][-2:] == ["0.775", "0.8"]
    assert warm["encode, s"] == ["0", "0", "-", "0", "-"], "nothing is no ratio"
    assert cold["load, s"] == ["2", "2", "1", "2", "1"] and "start, s" in cold


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_ratios(ours, theirs, unit):
    assert tables.ratio(ours, theirs) * tables.ratio(theirs, ours) == pytest.approx(1)
    assert tables.ratio(unit * ours, unit * theirs) == pytest.approx(tables.ratio(ours, theirs))
    assert (tables.ratio(ours, theirs) < 1) == (ours < theirs)


@pytest.mark.parametrize(
    "told, sentence",
    [
        ({"off": 0.01}, "decoded latents 0.01"),
        ({"cells": 110}, "cells that differ 0.025"),
        ({"rows": {"maps": 9}}, "UNet rows"),
    ],
)
def test_sides_that_disagree_are_not_compared(told, sentence, played, tmp_path, capsys):
    """Exit code 1 after the first pair; the errors are written, no time is."""
    played.tell(diffusers=told)
    file = tmp_path / "r.jsonl"
    assert run(*SHORT, "--runs", "3", "--record", str(file)) == 1
    message = capsys.readouterr().err
    assert sentence in message and "disagree" in message and message.count("\n") == 1
    assert {row["record"] for row in records.read(file)} == {"agreement"}
    assert "sides that disagree" in said(capsys, *SHORT, "--record", str(file), "--resume")
    assert edit.main(["--table", str(file)]) == 2
    assert "disagree" in capsys.readouterr().err


def test_a_process_that_fails_is_repeated_in_one_line(played, tmp_path, capsys):
    played.tell(public={"fails": "RuntimeError: no memory"})
    assert run(*SHORT, "--record", str(tmp_path / "r.jsonl")) == 2
    assert capsys.readouterr().err == (
        "benchmarks.edit: error: The process of public pipeline failed: RuntimeError: no memory\n"
    )
    assert not list(tmp_path.glob("r.jsonl*"))


def test_what_was_complete_is_kept(played, tmp_path, monkeypatch, capsys):
    """A run that is stopped leaves its rounds; the next one does not write over them."""
    start, left = children.run, [4]

    def stopped(*args):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return start(*args)

    monkeypatch.setattr(children, "run", stopped)
    file = tmp_path / "r.jsonl"
    assert run(*SHORT, "--runs", "2", "--record", str(file)) == 130
    assert "r.jsonl.part" in capsys.readouterr().err and not file.exists()
    assert edit.main(["--table", str(rounds.part(file))]) == 0
    assert "medians of 1" in capsys.readouterr().out
    assert "left of an earlier run" in said(capsys, *SHORT, "--record", str(file))
    monkeypatch.setattr(children, "run", start)
    played.tell(diffusers={"off": 1e-4, "scale": 3.0})
    assert run(*SHORT, "--runs", "3", "--record", str(file), "--resume") == 0
    found = {(r["op"], r["variant"], str(r["args"])): r for r in records.read(file)}
    maps = found["maps", "recipe diffusers", "{'state': 'warm'}"]
    assert maps["seconds"] == [2.0, 6.0, 6.0] and maps["wall_us"]["p50"] == 6e6
    assert len(maps["settings"]["load average"]) == 3
    assert found["decoded", None, "None"]["error"] == pytest.approx(1e-4), "the worst of all"


ROW = {"soc": "CPU", "commit": "a", "settings": {"steps": 4, "load average": [1.0]}}
ROUND = st.lists(st.tuples(st.floats(1e-3, 1e3), st.integers(0, 1 << 40)), min_size=2, max_size=2)


def a_round(figures, error):
    """Two timed rows and an error."""
    timed = [
        records.record(record="evaluation", op=str(i), seconds=[s], max_memory_allocated=m, **ROW)
        for i, (s, m) in enumerate(figures)
    ]
    return [records.record(record="agreement", op="mask", error=error, **ROW), *timed]


@given(st.lists(st.tuples(ROUND, st.floats(0, 1)), min_size=3, max_size=3))
def test_rounds_are_merged_in_any_grouping(each):
    one, two, three = (a_round(*figures) for figures in each)
    left = rounds.merged(rounds.merged(one, two), three)
    assert left == rounds.merged(one, rounds.merged(two, three))
    assert left[0]["error"] == max(error for _, error in each)
    for i, row in enumerate(left[1:]):
        seconds = [figures[i][0] for figures, _ in each]
        assert row["seconds"] == seconds and row["wall_us"]["n"] == 3
        assert row["wall_us"]["p50"] == pytest.approx(sorted(seconds)[1] * 1e6, abs=1e-3)
        assert row["max_memory_allocated"] == max(figures[i][1] for figures, _ in each)
        assert row["settings"]["load average"] == [1.0] * 3
    assert rounds.merged([], one) == one


def test_rounds_of_other_things_are_not_merged():
    one = a_round([(1.0, 1), (2.0, 1)], 0.0)
    refused(lambda: rounds.merged(one, one[:-1]), "measured other things")
    other = [{**row, "settings": {"steps": 5, "load average": [1.0]}} for row in one]
    refused(lambda: rounds.merged(one, other), "steps 4, now it is 5")
    more = [{**row, "evaluations": 7} for row in one]
    refused(lambda: rounds.merged(one, more), "evaluations None, now it is 7")
    newer = rounds.merged(one, [{**row, "commit": "b"} for row in one])
    assert {row["commit"] for row in newer} == {"a, b"}


def test_a_run_goes_on_as_it_began(played, tmp_path, capsys):
    file = tmp_path / "r.jsonl"
    words = [*SHORT, "--record", str(file)]
    assert "--resume goes on with the file of --record" in said(capsys, "--resume")
    assert run(*words, "--runs", "1", "--resume") == 0
    capsys.readouterr()
    before, started = file.read_bytes(), len(played.started)
    assert "is there already" in said(capsys, *words)
    words.append("--resume")
    assert "has 1 rounds already" in said(capsys, *words, "--runs", "1")
    assert "with steps 4, now it is 8" in said(capsys, *words, "--steps", "8")
    assert "with size 64, now it is 72" in said(capsys, *words, "--size", "72")
    assert "with note None, now it is x" in said(capsys, *words, "--note", "x")
    assert "with threads None, now it is 2" in said(capsys, *words, "--threads", "2")
    assert "with clamp_ratio 3.0, now it is 2.0" in said(capsys, *words, "--clamp-ratio", "2")
    assert file.read_bytes() == before and len(played.started) == started
    played.tell(diffusers={"off": 0.01})
    assert run(*words) == 1
    assert len(records.read(file)) == before.count(b"\n"), "the first round's times are kept"
    assert "disagree" in capsys.readouterr().err and edit.main(["--table", str(file)]) == 2
    assert "sides that disagree" in capsys.readouterr().err + said(capsys, *words)


def test_the_clamp_is_that_of_both_sides(played, monkeypatch, capsys):
    """The public pipeline takes the options of recipe `diffusers`."""
    given, write = [], job.write
    monkeypatch.setattr(job, "write", lambda *job: given.append(job[6]) or write(*job))
    assert run(*SHORT, "--runs", "1", "--clamp-ratio", "2") == 0
    assert {name: o.mask_clamp_ratio for name, o in given[0].items()} == {
        "diffusers": 2.0,
        "paper": 2.0,
    }


def test_a_fourth_side_has_the_options_that_are_given(played, tmp_path, monkeypatch, capsys):
    """Its options are those of `diffedit edit`, on top of the default edit's or a recipe's."""
    given, write = [], job.write
    monkeypatch.setattr(job, "write", lambda *job: given.append(job[6]) or write(*job))
    played.tell(also={"rows": {"maps": 2, "inversion": 2, "decoding": 4}, "scale": 0.5})
    words = [*SHORT, "--clamp-ratio", "2", "--runs", "1", "--edits", "1"]
    file = tmp_path / "r.jsonl"
    assert run(*words, "--also=--num-maps  1 --reuse-features 5", "--record", str(file)) == 0
    text = capsys.readouterr().out
    assert "ours, --num-maps 1 --reuse-features 5 | ratio |" in text and "warm" not in text
    assert "| UNet rows | 16 | 16 | 1 | 16 | 1 | 8 | 0.5 |" in text
    assert "| maps, s | 4 | 4 | 1 | 4 | 1 | 2 | 0.5 |" in text
    assert given[0]["also"] == given[0]["paper"].replace(num_maps=1, reuse_features=5)
    assert edit.main(["--table", str(file)]) == 0 and capsys.readouterr().out == text
    assert "with edits 1, now it is 2" in said(capsys, *SHORT, "--clamp-ratio", "2", "--record",
                                               str(file), "--resume")  # fmt: skip
    assert run(*words, "--also", "--recipe smooth-32 --guidance-interval 0.2 0.6") == 0
    smooth = RECIPES["smooth-32"].replace(num_inference_steps=4, guidance_interval=(0.2, 0.6))
    assert given[1]["also"] == smooth


def test_dry_run_says_what_would_be_run(played, tmp_path, capsys):
    assert run(*SHORT, "--runs", "5", "--dry-run", "--record", str(tmp_path / "r")) == 0
    text = capsys.readouterr().out
    for words in ("5 of each side", "20 UNet rows", "13 UNet rows", "64x64", "8x8", "torch 9.9"):
        assert words in text
    assert "at most 0.001" in text and str(tmp_path / "r") in text
    assert not played.started and not list(tmp_path.glob("r*"))


# --- refusals -------------------------------------------------------------------------------------


def said(capsys, *words, **more):
    """The one sentence of a command that is refused."""
    try:
        code = run(*words, **more)
    except SystemExit as end:
        code = end.code
    message = capsys.readouterr().err
    assert code == 2 and message.count("\n") == 1 and message.startswith("benchmarks.edit: error: ")
    return message


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--size", "63"], "The size is 63: give a multiple of 8"),
        (["--size", "0"], "expected 1 or more"),
        (["--steps", "1"], "rounds to no step"),
        (["--steps", "many"], "expected 1 or more"),
        (["--maps", "0"], "expected 1 or more"),
        (["--runs", "0"], "expected 1 or more"),
        (["--clamp-ratio", "0"], "mask_clamp_ratio"),
        (["--dtype", "fp16"], "--tolerance"),
        (["--dtype", "fp8"], "invalid choice"),
        (["--tolerance", "-1"], "expected 0 or more"),
        (["--against", "mindone"], "invalid choice"),
        (["--source", "a", "--target", "a"], "nothing would be edited"),
        (["--image", "no.png"], "no.png"),
        (["--record", "no/r.jsonl"], "There is no folder no"),
        (["--recipe", "paper"], "unrecognized arguments"),
        (["--edits", "3"], "invalid choice"),
        (["--also", ""], "argument --also: no option is given"),
        (["--also=--steps"], "argument --also: argument --steps: expected one argument"),
        (["--also=--out x.png"], "argument --also: unrecognized arguments: --out x.png"),
        (["--also=--num-maps '1"], "invalid also value"),
        (["--also=--num-maps 0"], "num_maps"),
        (["--also=--guidance-scale 1 --guidance-interval 0 1"], "changes nothing"),
    ],
)
def test_bad_arguments(words, expected, played, capsys):
    assert expected in said(capsys, *words)
    assert not played.started, "nothing long has run"


def test_no_such_model(played, tmp_path, capsys):
    assert "There is no model folder" in said(capsys, model=tmp_path / "no")


@pytest.mark.parametrize("python", ["/no/python", "false", sys.executable])
def test_an_interpreter_without_the_public_pipeline(python, capsys, monkeypatch):
    monkeypatch.setattr(children, "NEEDED", ("torch", "no-such-package"))
    refused(lambda: children.probe(python), python)


PRINTED = {  # committed results: what `--table` prints of a file
    "edits-*.jsonl": tables.text,
    "networks.jsonl": networks.text,
    "scaling-*.jsonl": lambda file: scaling.table(records.read(file), file),
}


@pytest.mark.parametrize("pattern", PRINTED)
def test_the_readmes_tables_are_the_files(pattern):
    folder = Path(edit.__file__).parent
    files = sorted((folder / "results").glob(pattern))
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert files and all(PRINTED[pattern](file) in text for file in files)


@pytest.mark.parametrize("text", ["", "{}\n", '{"record": "call", "op": "x"}\n'])
def test_a_file_that_holds_no_comparison(text, tmp_path, capsys):
    file = tmp_path / "r.jsonl"
    file.write_text(text, encoding="utf-8")
    assert edit.main(["--table", str(file)]) == 2
    assert str(file) in capsys.readouterr().err
    assert edit.main(["--table"]) == 2


# --- the public pipeline itself -------------------------------------------------------------------

HERE = all(importlib.util.find_spec(name) for name in children.NEEDED)
PYTHON = os.environ.get("DIFFEDIT_PUBLIC_PYTHON") or (sys.executable if HERE else None)


@pytest.mark.skipif(
    not PYTHON, reason="no torch and diffusers here, nor a DIFFEDIT_PUBLIC_PYTHON that has them"
)
def test_the_public_pipeline_agrees(capsys):
    words = ["--against", "diffusers", "--python", PYTHON, "--model", str(MICRO), *SHORT]
    texts = ["--source", "a bowl of fruits", "--target", "a bowl of pears"]
    assert edit.main([*words, *texts, "--runs", "1"]) == 0
    text = capsys.readouterr().out
    assert "diffusers 0" in text and "| UNet rows | 20 | 20 | 1 | 13 |" in text


def test_our_process_compiles_its_graphs_unless_a_folder_of_them_is_given():
    name = "DIFFEDIT_GRAPH_CACHE"
    assert children.ours("folder", "paper")[1][name] == ""
    assert children.ours("folder", "paper", graphs="graphs")[1][name] == "graphs"
