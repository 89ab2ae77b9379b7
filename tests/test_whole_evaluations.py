"""The benchmarks of whole evaluations: unet, vae and edit, PyTorch in turn with them, a model to
time, and where oneDNN's time goes."""

import dataclasses
import functools
import json
import re
import sys
import time
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from benchmarks import edit, random_model, timing, unet, vae
from benchmarks.against import networks, turns
from benchmarks.kernels import cli, machine, onednn, records
from diffedit_core import cli as core_cli
from diffedit_core import kernels as K
from diffedit_core.folder import read_configs
from diffedit_core.model import Model

ROOT = Path(__file__).parent.parent
MICRO = str(Path(__file__).parent / "fixtures" / "pipeline" / "model")


class Played:
    """A model that computes nothing, and remembers how it was loaded."""

    kernels, loaded = "cpu", None

    def __init__(self):
        self.configs = read_configs(Path(MICRO))

    @classmethod
    def load(cls, model, dtype="fp32", **_):
        cls.loaded = dtype
        return cls()

    def predict(self, latents, timestep, states):
        assert str(latents.dtype) == "Float32" and states.shape[1] == 77
        return latents

    def decode_latents(self, latents, tiling):
        return np.zeros((1, 3, *(self.configs.vae.factor * n for n in latents.shape[2:])))

    def encode_image(self, picture, tiling):
        return ms.Tensor(picture), None


@pytest.fixture
def played(monkeypatch):
    monkeypatch.setattr(unet, "Model", Played)
    monkeypatch.setattr(vae.M, "Model", Played)
    monkeypatch.setattr(core_cli, "main", lambda words: 0)


EDIT = [
    str(ROOT / "diffedit_core" / "assets" / "bowl_of_apples.png"),
    *("--source", "a secret", "--target", "another secret", "--negative", "a third secret"),
    *("--out", "/secret/x.png", "--steps", "7", "--recipe", "smooth", "--dtype", "fp16"),
]
WHOLE = {
    "unet": (unet.main, [MICRO, "--size", "16", "--runs", "2", "--dtype", "fp16"], ["unet"]),
    "vae": (vae.main, [MICRO, "--size", "32", "--dtype", "fp16"], ["vae decode", "vae encode"]),
    "edit": (edit.main, EDIT, ["edit"]),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_evaluations_are_rows_of_the_same_format(name, played, tmp_path, capsys):
    main, words, ops = WHOLE[name]
    file = tmp_path / "r.jsonl"
    assert main([*words, "--record", str(file)]) == 0
    assert "GiB" in capsys.readouterr().out
    rows = records.read(file)
    assert [row["op"] for row in rows] == ops
    for row in rows:
        assert set(row) == set(records.FIELDS) and row["dtype"] == "fp16"
        assert row["wall_us"]["n"] >= 1 and row["soc"] == "CPU" and row["variant"] == "cpu"
        assert "secret" not in json.dumps(row) and MICRO not in json.dumps(row)
        assert row["max_memory_allocated"] is not None
    assert name == "edit" or Played.loaded == "fp16"
    assert cli.main(["compare", str(file), str(file)]) == 0
    assert main([*words, "--record", str(file)]) == 2
    assert "--record" in capsys.readouterr().err


OTHER = """
import sys
import numpy as np

model, component, folder = sys.argv[1:]
for _ in sys.stdin:
    arrays = np.load(folder + "/inputs.npz")
    if component == "encode":
        sys.exit("no such weights")
    first = arrays[arrays.files[0]]
    shape = (1, 3, 8 * first.shape[2], 8 * first.shape[3]) if component == "decode" else first.shape
    np.save(folder + "/output.npy", np.ones(shape) if component == "decode" else first)
    print("done", flush=True)
"""


@pytest.fixture
def other(monkeypatch, tmp_path):
    """The other side, played."""
    script = tmp_path / "other.py"
    script.write_text(OTHER, encoding="utf-8")
    monkeypatch.setattr(turns, "SCRIPT", script)
    monkeypatch.setattr(turns, "NEEDED", ("numpy",))


def test_pytorch_takes_turns_and_the_difference_is_said(played, other, capsys):
    words = [MICRO, "--size", "16", "--runs", "2", "--pytorch", sys.executable]
    assert unet.main(words) == 0
    said = capsys.readouterr().out
    assert re.search("^difference +0.0e", said, re.M) and "ratio of medians" in said
    assert vae.main([MICRO, "--size", "32", "--warmup", "1", *words[3:]]) == 2
    out, error = capsys.readouterr()
    assert "difference          1.0e+00" in out, "zeros for ones"
    assert "vae decode" in out and "vae encode" not in out
    assert "PyTorch's process ended" in error and "Traceback" not in error


def test_both_sides_are_recorded_and_the_table_is_of_the_files(played, other, tmp_path, capsys):
    files = [tmp_path / name for name in ("a.jsonl", "b.jsonl", "ours.jsonl")]
    words = [MICRO, "--size", "16", "--runs", "3"]
    for file, more in zip(files, (["--batch", "1"], ["--batch", "3"], [])):
        turn = [] if file is files[2] else ["--pytorch", sys.executable]
        assert unet.main([*words, *more, *turn, "--record", str(file)]) == 0
    ours, theirs = records.read(files[0])
    assert (ours["variant"], theirs["variant"]) == ("cpu", "pytorch")
    assert len(theirs["seconds"]) == theirs["wall_us"]["n"] == 3 and theirs["error"] is None
    assert theirs["settings"]["versions"] == {"numpy": np.__version__}
    assert theirs["max_memory_allocated"] is None, "of this process only"
    told = {**ours, "wall_us": {**ours["wall_us"], "p50": 3e6}}
    files[0].write_text("\n".join(json.dumps(row) for row in (told, {**theirs, "wall_us": {
        **theirs["wall_us"], "p50": 2e6}})), encoding="utf-8")  # fmt: skip
    capsys.readouterr()
    assert networks.main([str(file) for file in files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| unet, folder ") and len(lines) == 6
    assert lines[2].endswith(", 128 pixels, batch 1 | 3 | 3000 | 2000 | 1.5 |")
    assert ", batch 3 | 3 |" in lines[3] and f"numpy {np.__version__}" in lines[5]
    assert networks.main([str(files[2])]) == 2 and "--pytorch PYTHON" in capsys.readouterr().err
    assert networks.main([]) == 2
    files[2].write_text('{}\n{"record": "call", "op": "x"}\n', encoding="utf-8")
    assert networks.main([str(files[2])]) == 2 and "ours.jsonl" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="asks Linux for a state")
def test_pytorch_is_stopped_between_its_turns(other):
    """Its threads would spin while ours compute."""
    side = turns.PyTorch(sys.executable, MICRO, "unet", {"x": np.ones((1, 2), np.float32)})
    state = Path(f"/proc/{side.process.pid}/stat")
    for _ in range(2):
        assert np.array_equal(side(), np.ones((1, 2)))
        until = time.monotonic() + 10
        while (found := state.read_text().rsplit(")", 1)[1].split()[0]) != "T":
            assert time.monotonic() < until, found
    side.close()
    assert side.process.returncode == 0


def test_a_random_model_of_a_released_shape_is_a_model(monkeypatch, tmp_path, capsys):
    """That of the micro model in place of a large one; the same numbers for the same seed."""
    small = read_configs(Path(MICRO))
    text = dataclasses.replace(small.text, vocab_size=1000)  # the words are the shipped model's
    shapes = {"text": text, "unet": small.unet, "vae": small.vae}
    monkeypatch.setitem(random_model.KNOWN, "sd21", shapes)
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, seed in zip(folders, "001"):
        assert random_model.main(["sd21", str(folder), "--seed", seed]) == 0
    model, again, other = (Model.load(folder) for folder in folders)
    for found, wanted in ((model.configs.unet, small.unet), (model.configs.vae, small.vae)):
        assert dataclasses.replace(found, sample_size=wanted.sample_size) == wanted
    assert model.configs.vae.sample_size == 768 and model.configs.text == text
    assert model.configs.scheduler.prediction_type == "v_prediction"
    latents, states = ms.Tensor(np.ones((1, 4, 8, 8), np.float32)), model.encode_prompts(["a"])
    found = [m.predict(latents, 9, states).asnumpy() for m in (model, again, other)]
    assert np.array_equal(found[0], found[1]) and not np.allclose(found[0], found[2])
    assert random_model.main(["sd21", str(folders[0])]) == 2
    assert "is there already" in capsys.readouterr().err
    assert random_model.main(["sd21", str(tmp_path / "no" / "folder")]) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]


def test_what_an_edit_says_of_its_options():
    """Numbers and choices, no texts and no names of files."""
    found = edit.settings(EDIT)
    assert found["num_inference_steps"] == 7 and found["recipe"] == "smooth"
    assert found["dtype"] == "fp16" and found["seed"] == 0
    assert not {"image", "source", "target", "negative", "out", "model"} & set(found)


def test_each_turn_begins_with_calls_that_are_not_timed():
    """They fill the caches, from which the other side's turn has driven what was there."""
    called = []
    functions = {name: functools.partial(called.append, name) for name in "ab"}
    found = timing.alternate(functions, runs=3, before=2)
    assert "".join(called) == "ab" + 3 * "aaabbb"
    assert {name: len(seconds) for name, seconds in found.items()} == {"a": 3, "b": 3}


def test_memory_is_the_devices_where_there_is_one(monkeypatch):
    assert 0.05 < timing.peak_memory() < 100, "of this process"
    monkeypatch.setattr(K, "device", lambda: "Ascend")
    monkeypatch.setattr(ms.runtime, "max_memory_allocated", lambda: 3 << 30)
    assert timing.peak_memory() == 3 and machine.peak_memory() == 3 << 30


@pytest.mark.parametrize(
    "main, words, wanted",
    [
        (unet.main, ["--dtype", "fp16"], "--dtype fp16"),
        (vae.main, ["--dtype", "bf16"], "--dtype bf16"),
        (vae.main, ["--tiling"], "--tiling"),
    ],
)
def test_what_pytorch_would_not_follow_is_refused(main, words, wanted, played, other, capsys):
    assert main([MICRO, "--pytorch", sys.executable, *words]) == 2
    error = capsys.readouterr().err
    assert wanted in error and error.count("\n") == 1


# --- where oneDNN's time goes ---------------------------------------------------------------------

LINE = "dnnl_verbose,exec,cpu,{},gemm:jit,undef,src wei dst,,,{},{}"
SHAPES = {
    "2x3:3x5:2x5": "matmul",
    "7x2x3:7x3x5:7x2x5": "matmul",
    "mb2_ic3oc5_ih9oh7kh3sh1dh0ph1_iw9ow11kw1sw1dw0pw1": "convolution",
    "mb1ic4ih5iw6": "batch_normalization",
}


def test_flop_are_those_of_the_shapes():
    found = [onednn.flop(kind, shapes) for shapes, kind in SHAPES.items()]
    assert found == [2 * 2 * 3 * 5, 7 * 2 * 2 * 3 * 5, 2 * 2 * 3 * 5 * 7 * 11 * 3, 0]


def test_the_sums_are_of_one_evaluation(tmp_path, capsys):
    """Two of them, with other lines between."""
    calls = [LINE.format(kind, shapes, 2 + i) for i, (shapes, kind) in enumerate(SHAPES.items())]
    file = tmp_path / "calls.log"
    text = "\n".join(["dnnl_verbose,info,oneDNN v2.2", *calls, "loaded", *calls])
    file.write_text(text, encoding="utf-8")
    assert onednn.main([str(file), "--evaluations", "2", "--shapes", "1"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["ms", "calls", "GFLOP/s"] and len(lines) == 5
    assert ["5.0", "2.0", "0.0", "matmul"] in lines
    assert ["5.0", "1.0", "batch_normalization"] in lines
    assert lines[-1][:2] == ["5.0", "1.0"] and lines[-1][-1] == "mb1ic4ih5iw6"


@pytest.mark.parametrize(
    "text, words, wanted",
    [
        (None, ["--evaluations", "1"], "cannot be read"),
        ("loaded\n", ["--evaluations", "1"], "DNNL_VERBOSE=1"),
        ("loaded\n", ["--evaluations", "0"], "--evaluations 0"),
    ],
)
def test_nothing_to_sum(text, words, wanted, tmp_path, capsys):
    file = tmp_path / "calls.log"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    assert onednn.main([str(file), *words]) == 2
    assert wanted in capsys.readouterr().err
