"""`python -m benchmarks.kernels`: one small run, stopped and gone on with; what is made of its
rows; and every refusal, in one sentence."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mindspore import ops

from benchmarks.kernels import (
    arguments,
    bundle,
    cli,
    machine,
    measure,
    records,
    suite,
    timers,
    tune,
)
from diffedit_core import kernels as K
from diffedit_core.kernels import chips

from .test_config import refused

ROOT = Path(__file__).parent.parent
MICRO = str(Path(__file__).parent / "fixtures" / "pipeline" / "model")
QUICK = "--warmup 0 --iters 1 --repeats 2".split()


def run(*words):
    return cli.main([str(word) for word in words])


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Anchors of no size."""
    monkeypatch.setitem(suite.ANCHORS, "CPU", ((8, 16), 1 << 12))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(folder with r.jsonl, exit codes, number of rows before it was stopped)."""
    place = tmp_path_factory.mktemp("run")
    words = ["--suite", "text", "--model", MICRO, "--out", place / "r.jsonl", *QUICK]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(suite.ANCHORS, "CPU", ((8, 16), 1 << 12))
        checked, left = measure.checked, [9]

        def stopped(*args):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return checked(*args)

        patch.setattr(measure, "checked", stopped)
        codes = [run(*words)]
        before = len((place / "r.jsonl.part").read_text().splitlines())
        patch.setattr(measure, "checked", checked)
        words += ["--resume", "--csv", "--report", place / "r.html"]
        codes.append(run(*words))
    return place, codes, before


def test_a_run_that_was_stopped_goes_on(done):
    """Exit code 130, then 0; each call in both tables once, in the order of the plan."""
    place, codes, before = done
    assert codes == [130, 0] and before == 9
    rows = records.read(place / "r.jsonl")
    assert not (place / "r.jsonl.part").exists()
    assert len({records.key(row) for row in rows}) == len(rows)
    kinds = [row["record"] for row in rows]
    assert kinds.count("anchor") == 5 and kinds.count("whole") == 2
    calls = [row for row in rows if row["record"] == "call"]
    assert {row["variant"] for row in calls} == {"cpu", "reference"}
    assert len(calls) == 2 * len({json.dumps([row["op"], row["shapes"]]) for row in calls})


def test_a_row_says_all_that_is_known(done):
    rows = records.read(done[0] / "r.jsonl")
    for row in rows:
        assert set(row) == set(records.FIELDS)
        assert row["soc"] == "CPU" and row["mindspore"] and row["processor"]
        assert row["wall_us"]["n"] == (2 if row["record"] != "whole" else measure.WHOLE)
        assert row["settings"]["timers"] == ["wall"] and row["hf32"] == "none"
        if row["record"] != "whole":
            assert 0 <= row["error"] <= row["tolerance"] and row["bytes"] > 0
        assert MICRO not in json.dumps(row)
    call = next(row for row in rows if row["op"] == "linear")
    assert call["model"].startswith("folder ") and call["bound"] and call["roofline_pct"] > 0


def test_table_and_page_are_there(done):
    place = done[0]
    assert (place / "r.csv").read_text() == records.to_csv(records.read(place / "r.jsonl"))
    assert "<table" in (place / "r.html").read_text()
    assert sorted(file.name for file in place.iterdir()) == ["r.csv", "r.html", "r.jsonl"]


def test_rows_of_an_earlier_run_are_used_again(done, tmp_path, monkeypatch, capsys):
    place = done[0]
    monkeypatch.setattr(bundle, "inventory_of", lambda module: f"of {module}\n")
    made = ["--report", tmp_path / "p.html", "--bundle", tmp_path / "b.zip"]
    assert run("--from", place / "r.jsonl", *made) == 0
    assert (tmp_path / "p.html").read_text() == (place / "r.html").read_text()
    assert (tmp_path / "b.zip").stat().st_size > 1000


def test_slower_than_before(done, tmp_path, capsys):
    """The exit code says so, beyond --fail-above and beyond the noise only."""
    file, old = done[0] / "r.jsonl", tmp_path / "old.jsonl"
    rows = records.read(file)
    for row in rows:
        if row["op"] == "linear":
            row["wall_us"] = {k: v / 1e3 if k != "n" else v for k, v in row["wall_us"].items()}
    old.write_text("".join(json.dumps(row) + "\n" for row in rows))
    same = ["--from", file, "--baseline", file, "--fail-above", "1.05"]
    assert run(*same) == 0
    assert " 0 differ" in capsys.readouterr().out
    assert run("--from", file, "--baseline", old, "--fail-above", "1.05") == 1
    shown = capsys.readouterr()
    assert "differs" in shown.out and "slower than 1.05 times" in shown.err
    assert run("--from", file, "--baseline", old) == 0, "it was not asked to fail"
    assert run("compare", old, file) == 0
    assert "beyond their noise" in capsys.readouterr().out
    rows = [{**row, "mindspore": "1.0"} for row in rows]
    old.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("compare", old, file) == 2
    assert "mindspore: 1.0" in capsys.readouterr().err
    assert run("compare", old, file, "--across-machines") == 0


# --- a wrong kernel -------------------------------------------------------------------------------


def doubled(x):
    """Nearly twice GELU."""
    return 2 * x * ops.sigmoid(x * 1.702)


def broken(x):
    """A kernel that the device does not have."""
    raise RuntimeError(f"Unsupported op at {__file__}")


def test_a_wrong_kernel_is_not_timed(monkeypatch, tmp_path, capsys):
    """Nor one that fails; the others are, and the exit code is 1."""
    for name, kernel in (("wrong", doubled), ("broken", broken)):
        monkeypatch.setitem(K.LOWERINGS, name, {**K.REFERENCE, "gelu": kernel})
    timed, wall = [], timers.wall
    monkeypatch.setattr(timers, "wall", lambda *a, **k: timed.append(1) or wall(*a, **k))
    file = tmp_path / "r.jsonl"
    words = ["--suite", "text", "--model", MICRO, "--only", "gelu", "--out", file, *QUICK]
    assert run(*words, "--kernels", "wrong,reference,broken") == 1
    rows = {r["variant"]: r for r in records.read(file) if r["record"] == "call"}
    assert rows["wrong"]["wall_us"] is None and rows["wrong"]["note"].startswith("wrong: error")
    assert rows["broken"]["wall_us"] is None and "Unsupported op" in rows["broken"]["note"]
    assert str(ROOT) not in rows["broken"]["note"]
    assert rows["reference"]["wall_us"] and rows["reference"]["note"] is None
    assert len(timed) == 5 + 1, "the anchors, and the reference"
    assert "2 results are wrong" in capsys.readouterr().err


# --- every way of an operation --------------------------------------------------------------------


def test_every_way_of_a_convolution_is_measured(tmp_path, monkeypatch, capsys):
    """Each way of each call that it can compute; the table of the rows of a file is the same. (The
    largest and the smallest calls are enough.)"""

    def some(settings, plan=suite.plan):
        calls = [(each, list(each.calls.items())) for each in plan(settings)]
        return [each._replace(calls=dict(own[:1] + own[-1:])) for each, own in calls]

    monkeypatch.setattr(suite, "plan", some)
    file = tmp_path / "r.jsonl"
    words = ["--tune", "conv2d", "--suite", "vae", "--model", MICRO, "--size", 16, *QUICK]
    assert run(*words, "--out", file) == 0
    shown = capsys.readouterr().out
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    calls = [row for row in rows if row["record"] == "call"]
    ways = {}
    for row in calls:
        ways.setdefault((row["suite"], str(row["shapes"]), str(row["args"])), set()).add(
            row["variant"]
        )
    assert {row["op"] for row in calls} == {"conv2d"} and not any(r["note"] for r in calls)
    for (_, shapes, args), names in ways.items():
        fits = json.loads(shapes)[1][2:] == [3, 3] and args == "[1, [1, 1, 1, 1]]"
        assert names == ({"library", "winograd", "shifted"} if fits else {"library", "shifted"})
    assert {len(names) for names in ways.values()} == {2, 3}

    monkeypatch.setattr(suite, "run", None)
    assert run("--from", file, "--tune", "conv2d") == 0
    table = capsys.readouterr().out
    assert table.startswith("conv2d, milliseconds") and shown.endswith(table)
    assert table.count("\n") == len(ways) + 3


def test_the_choice_and_what_it_loses():
    """64 x 64 cells of 128 channels save products; where another way is faster, the table says by
    how much."""
    head = {"record": "call", "suite": "vae", "op": "conv2d", "args": [1, [1, 1, 1, 1]], "count": 3}
    large = [[1, 128, 64, 64], [128, 128, 3, 3], [128]]
    small = [[1, 128, 2, 64], [128, 128, 3, 3], [128]]
    rows = [
        {**head, "shapes": shapes, "variant": way, "wall_us": {"p50": us} if us else None}
        for shapes, times in ((large, (4e3, 5e3, 9e3)), (small, (2e3, 1e3, None)))
        for way, us in zip(("library", "winograd", "shifted"), times)
    ]
    (found,) = tune.choices(rows)
    assert (found.chosen, found.best, found.lost) == ("winograd", "library", 0.25)
    rows[-1]["wall_us"] = {"p50": 3e3}
    slow, fast = tune.choices(rows)
    assert slow == found and (fast.chosen, fast.best, fast.lost) == ("library", "winograd", 1.0)
    lines = tune.text([slow, fast]).splitlines()
    assert lines[2].split()[:5] == ["4.00", "5.00", "9.00", "winograd", "25%"]
    assert lines[-1].endswith("the library's 18.0, chosen 21.0, the fastest 15.0")
    assert tune.text(tune.choices(rows[:1])) == "no call that was timed in all ways"


def test_what_is_chosen_gains_in_the_committed_measurement():
    """In all of one evaluation's convolutions, against the library alone."""
    file = ROOT / "benchmarks" / "results" / "cpu-tune-sd21-base-512.jsonl"
    found = tune.choices(records.read(file))
    assert {choice.chosen for choice in found} == {"library", "winograd"}
    chosen = sum(choice.us[choice.chosen] * choice.count for choice in found)
    assert chosen < sum(choice.us["library"] * choice.count for choice in found)


# --- without measuring ----------------------------------------------------------------------------


@pytest.fixture
def nothing(monkeypatch):
    """Nothing may be measured."""

    def measured(*_):
        raise AssertionError("it measures")

    monkeypatch.setattr(suite, "run", measured)


def test_list(nothing, capsys):
    words = ["--model", MICRO, "--size", 16, "--suite", "text,vae", "--only", "conv2d", "--list"]
    assert run(*words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("text fp32: 0 distinct") and lines[1].startswith("vae encoder fp32")
    assert all("conv2d" in line for line in lines if line.startswith("  "))


def test_dry_run(nothing, capsys, tmp_path):
    """It says what would be done, checks all that a run would check, and writes nothing."""
    file = tmp_path / "r.jsonl"
    words = ["--model", MICRO, "--suite", "text", "--dtype", "fp32,fp16", "--dry-run"]
    assert run(*words, "--out", file, "--csv") == 0
    text = capsys.readouterr().out
    assert "anchors fp16: 5 calls" in text and "with cpu and reference" in text
    assert f"would write {file}" in text and f"would write {tmp_path / 'r.csv'}" in text
    assert not list(tmp_path.iterdir())
    file.write_text("")
    assert run(*words, "--out", file) == 2


@pytest.mark.parametrize(
    "given, chosen",
    [((), "cpu and reference"), (("--whole", "cpu"), "cpu"), (("--whole", "none"), "none")],
)
def test_whose_whole_evaluation_is_measured(given, chosen, monkeypatch, capsys):
    """The plan says it, and the run asks for those and no others."""
    words = ["--model", MICRO, "--suite", "text", *given]
    assert run(*words, "--dry-run") == 0
    assert f"a whole evaluation with {chosen}:" in capsys.readouterr().out
    asked = []
    monkeypatch.setattr(suite.Run, "rows", lambda self, heads, call, peak: [])
    monkeypatch.setattr(suite.Run, "whole", lambda self, planned, name, table: asked.append(name))
    monkeypatch.setattr(suite.books, "closed", lambda *_: None)
    monkeypatch.setattr(suite.books, "line", lambda *_: "closed")
    monkeypatch.setattr(suite.peaks, "measured", lambda *_: {"launch_us": 1.0})
    assert run(*words) == 0
    assert " and ".join(asked) == ("" if chosen == "none" else chosen)


def test_inventory_runs_in_a_process_of_its_own(monkeypatch):
    """MindSpore has to be set up otherwise for it."""
    seen = []

    def process(command, cwd):
        seen.append((command, cwd))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", process)
    monkeypatch.setattr(cli, "INVENTORY", "some.module")
    assert run("--inventory") == 0
    assert run("--inventory", "--kernels", "ascend") == 0
    start = [sys.executable, "-m", "some.module"]
    assert seen == [(start, ROOT), ([*start, "--kernels", "ascend"], ROOT)]


def test_help_needs_no_mindspore():
    code = (
        "import sys; sys.modules['mindspore'] = None\n"
        "from benchmarks.kernels import cli\n"
        "cli.main(['--help'])"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    options = [a for a in arguments.parser()._actions if a.option_strings]
    assert all(o.option_strings[-1] in found.stdout and o.help for o in options)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, wanted",
    [
        ("--timer device", "--timer device needs an Ascend device"),
        ("--timer wall,event", "--timer event needs an Ascend device"),
        ("--l2 cold", "--l2 cold needs an Ascend device"),
        ("--hf32 conv", "--hf32 conv needs an Ascend device"),
        ("--jit-level O1", "--jit-level O1 needs an Ascend device"),
        ("--profile-dir d", "--profile-dir d needs an Ascend device"),
        ("--profile-dir d --timer wall", "add that timer"),
        ("--l2 cold --timer event,device", "leave out one of them"),
        ("--dtype bf16", "choose fp32 or fp16"),
        ("--kernels none", "There are no kernels 'none'"),
        ("--kernels cpu --whole reference", "--whole reference is not measured: choose of cpu"),
        ("--only conv2d --whole cpu", "--whole changes nothing with --only"),
        ("--suite anchors --whole cpu", "--whole changes nothing for the anchors"),
        ("--list --whole cpu", "--whole changes nothing with --list"),
        ("--tune conv2d --kernels cpu", "--kernels changes nothing with --tune"),
        ("--tune conv2d --only conv2d", "--only changes nothing with --tune"),
        ("--tune conv2d --whole none", "--whole changes nothing with --tune"),
        ("--tune conv2d --dtype fp16", "the ways of a CPU in fp32"),
        ("--list --tune conv2d", "--tune changes nothing with --list"),
        ("--suite anchors --tune conv2d", "--tune changes nothing for the anchors"),
        ("--model nowhere", "there is no such folder"),
        ("--suite text --model orchard --only conv2d", "there are add, attention"),
        ("--model orchard --size 12", "multiple of 8"),
        ("--resume", "--resume needs --out"),
        ("--csv", "--csv writes beside --out"),
        ("--fail-above 1.1", "--fail-above needs --baseline"),
        ("--across-machines", "--across-machines needs --baseline"),
        ("--baseline none.jsonl", "none.jsonl cannot be read"),
        ("--list --out r.jsonl", "--out changes nothing with --list"),
        ("--list --iters 3", "--iters changes nothing with --list"),
        ("--inventory --size 8", "--size changes nothing with --inventory"),
        ("--inventory --kernels a,b", "--inventory takes one table"),
        ("--from none.jsonl --csv", "none.jsonl cannot be read"),
        ("--from none.jsonl", "add one"),
        ("--from none.jsonl --suite vae --csv", "--suite changes nothing with --from"),
        ("--suite anchors --size 64", "--size changes nothing for the anchors"),
        ("--suite anchors --kernels cpu", "--kernels changes nothing for the anchors"),
        ("--out none/r.jsonl", "There is no folder none"),
        ("--report .", "is a folder"),
        ("--out r --report r", "Two outputs have the same file name"),
        ("--from a.csv --csv", "is read and would be overwritten"),
        ("compare none.jsonl none.jsonl", "none.jsonl cannot be read"),
    ],
)
def test_one_sentence_and_exit_code_2(nothing, words, wanted, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*words.split()) == 2
    shown = capsys.readouterr()
    assert wanted in shown.err and shown.err.count("\n") == 1 and not shown.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words, wanted",
    [
        ("--suite clip", "'clip' is given"),
        ("--dtype fp64", "'fp64' is given"),
        ("--timer ,", "nothing is given"),
        ("--iters 0", "expected 1 or more"),
        ("--warmup -1", "expected 0 or more"),
        ("--repeats many", "expected 1 or more"),
        ("--fail-above nan", "expected 0 or more"),
        ("--l2 hot", "invalid choice"),
        ("--tune linear", "invalid choice"),
        ("--list --dry-run", "not allowed with"),
        ("--unknown", "unrecognized arguments"),
        ("compare one.jsonl", "NEW.jsonl"),
    ],
)
def test_what_the_parser_refuses(words, wanted, capsys):
    with pytest.raises(SystemExit) as caught:
        run(*words.split())
    shown = capsys.readouterr().err
    assert caught.value.code == 2 and wanted in shown and shown.count("\n") == 1


def test_what_is_set_for_a_device(monkeypatch):
    """Before the first operation, each option once; and the timers that it has by default."""
    import mindspore as ms
    from mindspore.device_context.ascend import op_precision

    seen = {}
    monkeypatch.setattr(K, "device", lambda: "Ascend")
    monkeypatch.setattr(ms, "set_context", lambda **given: seen.update(given))
    for name in ("conv", "matmul"):
        monkeypatch.setattr(
            op_precision, f"{name}_allow_hf32", lambda value, name=name: seen.update({name: value})
        )
    machine.prepare("O1", "conv")
    assert seen == {"jit_config": {"jit_level": "O1"}, "conv": True, "matmul": False}
    seen.clear()
    machine.prepare(None, "none")
    assert seen == {"conv": False, "matmul": False}
    assert machine.default_timers() == ("device", "event", "wall")
    machine.check(("device", "event"), "cold", "O2", "both", "folder")
    monkeypatch.setattr(chips, "chip_name", lambda: "Ascend910B4")
    machine.check_dtypes(("bf16",))
    monkeypatch.setattr(chips, "chip_name", lambda: "Ascend310P3")
    machine.check_dtypes(("fp16",))
    refused(lambda: machine.check_dtypes(("fp16", "bf16")), "Ascend310P3 has no bf16")


def test_the_anchors_of_a_device_are_larger_than_its_caches():
    for dtype, size in (("fp32", 4), ("fp16", 2), ("bf16", 2)):
        found = dict(suite.anchors(dtype, "Ascend"))
        assert set(found) == {"matmul", "copy", "triad", "launch"}
        assert np.prod(found["copy"].shapes[0]) * size == 2**30
