"""weights_convert on hostile and damaged files, a full disk, an interruption: refused in one line,
or shown by `verify`.

`python -m tests.test_convert_files 12000` runs the fuzzing with that many inputs.
"""

import errno
import json
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
import warnings
import zipfile
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from diffedit_core.errors import InputError
from tests.test_config import refused
from tests.test_convert import FIXTURES, config_folder, converted, equal, held
from tests.test_convert import folder, quick  # noqa: F401 (fixtures)
from tests.test_model import MICRO, change, shard
from weights_convert import convert, leaves, mindspore_ckpt, output, safetensors_file, verify
from weights_convert.cli import byte_size, main
from weights_convert.sources import open_file, read_folder_configs
from weights_convert.tensors import FLOATS, Output, Segment, Stored, load, widen

ROOT = Path(__file__).parent.parent


# ---- PyTorch files -------------------------------------------------------------------------------


def write_zip(path, program, storages=(), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        for key, content in storages:
            archive.writestr(f"archive/data/{key}", content)
    return path


def test_an_archive_that_is_not_plainly_stored_is_refused(tmp_path):
    program = pickle.dumps({}, 2)
    refused(
        lambda: open_file(write_zip(tmp_path / "a.bin", program, compression=zipfile.ZIP_DEFLATED)),
        "compressed",
    )
    with pytest.warns(UserWarning, match="Duplicate"):
        file = write_zip(tmp_path / "b.bin", program, [("0", b"1234"), ("0", b"5678")])
    refused(lambda: open_file(file), "twice")
    with zipfile.ZipFile(tmp_path / "c.bin", "w") as archive:
        archive.writestr("x/readme", b"")
    refused(lambda: open_file(tmp_path / "c.bin"), "data.pkl")


def test_strides(tmp_path):
    """A tensor that PyTorch saved with other strides comes out in the order of its dimensions."""
    found = dict(open_file(FIXTURES / "sd2.ckpt").tensors)
    strided = [key for key, stored in found.items() if stored.strides is not None]
    assert "model.diffusion_model.input_blocks.0.0.weight" in strided
    stored = found[strided[0]]
    out, inner, height, width = stored.shape
    channels_last = load(
        Stored(stored.path, stored.dtype, (out, height, width, inner), stored.pieces)
    )
    assert np.array_equal(load(stored), channels_last.transpose(0, 3, 1, 2))


# ---- safetensors and MindSpore files -------------------------------------------------------------


def write_header(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(shape=(2,), offsets=(0, 8), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**63 - 1) + b"{}",
        struct.pack("<Q", 99_999_999) + b"{" + b" " * 100,
        struct.pack("<Q", 101) + b"{" + b" " * 99,
        b"\x02\0\0\0\0\0\0\0{}x",
    ],
)
def test_an_absurd_header_is_refused_without_room_for_it(tmp_path, content):
    file = tmp_path / "file.safetensors"
    file.write_bytes(content)
    tracemalloc.start()
    refused(lambda: open_file(file), file)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "header",
    [
        {"a": entry(offsets=(0, 10**18), shape=(10**17,))},
        {"a": entry(shape=(2**62, 2**62))},
        {"a": entry(offsets=(4, 12))},
        {"a": entry(offsets=(0, 4))},
        {"a": entry(shape=(-2,))},
        {"a": entry(shape=(True,))},
        {"a": entry(shape=(2.0,))},
        {"a": entry(dtype="F33")},
        {"a": entry(dtype=[])},
        {"a": 3},
        {"a": {}},
        {"a": entry(), "b": entry()},
        {"a": entry() | {"x": 1}},
        [],
        {},
        {"a": entry(), "b": entry(offsets=(8, 16))},
        b'{"a":' + b"[" * 100_000,
        b"{\xff}",
        b'{"a": 1' + b"0" * 5000 + b"}",
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, header):
    """Every tensor has to be where the header says, without gaps or overlaps, and no name may come
    twice."""
    file = write_header(tmp_path / "file.safetensors", header, bytes(8))
    refused(lambda: open_file(file), file)


def test_weights_of_eight_bits_become_wider(tmp_path):
    """Exactly, in every dtype that is asked for, and it is said."""
    convert(MICRO, tmp_path / "one.safetensors", to="single-file")
    rng, header, parts, offset, wanted = np.random.default_rng(2), {}, [], 0, {}
    for key, own in open_file(tmp_path / "one.safetensors").tensors:
        raw = rng.integers(0, 0x70, own.count, np.uint8)
        header[key] = entry(own.shape, (offset, offset + own.count), "F8_E4M3")
        wanted[key] = widen(raw, "F8_E4M3").reshape(own.shape)
        parts.append(raw.tobytes())
        offset += own.count
    file = write_header(tmp_path / "narrow.safetensors", header, b"".join(parts))
    for dtype, kind in (("keep", "F16"), ("bf16", "BF16"), ("fp32", "F32")):
        with pytest.warns(UserWarning, match=f"eight bits.*F8_E4M3.*written as {kind}"):
            convert(file, tmp_path / dtype, config=MICRO, dtype=dtype)
        convert(tmp_path / dtype, tmp_path / f"{dtype}.safetensors", to="single-file")
        for key, own in open_file(tmp_path / f"{dtype}.safetensors").tensors:
            assert own.dtype == kind and np.array_equal(load(own), wanted[key])


def test_eight_bits_with_scales_or_of_other_kinds_are_refused(tmp_path):
    """Widened without its scale a weight would be wrong, also where --drop takes the scale away."""
    key = "model.diffusion_model.out.2."
    header = {key + "weight": entry((4,), (0, 4), "F8_E5M2")}
    scaled = {**header, key + "scale_weight": entry((1,), (4, 8))}
    file = write_header(tmp_path / "scaled.safetensors", scaled, bytes(8))
    for drop in ([], ["*scale_weight"]):
        refused(lambda: convert(file, tmp_path / "out", drop=drop), file, "scales", "fp16")
    other = {key + "weight": entry((4,), (0, 4), "F8_E8M0")}
    file = write_header(tmp_path / "other.safetensors", other, bytes(4))
    refused(lambda: open_file(file), file, key + "weight", "F8_E8M0", "fp16")


def outputs(rng, place):
    """Some tensors in a safetensors file, as outputs to write again."""
    shapes = [(), (3,), (2, 5), (0, 4), (1, 2, 3, 1)]
    dtypes = {
        "F64": np.float64,
        "F32": np.float32,
        "F16": np.float16,
        "I64": np.int64,
        "U8": np.uint8,
        "BOOL": np.bool_,
    }
    arrays = {
        f"{dtype}.{i}": np.array(rng.standard_normal(shape) * 100).astype(kind)
        for i, shape in enumerate(shapes)
        for dtype, kind in dtypes.items()
    }
    save_file(arrays, place / "in.safetensors")
    return arrays, [
        Output(name, own.dtype, own.shape, (Segment(own, 0, own.count),))
        for name, own in open_file(place / "in.safetensors").tensors
        if own.dtype in ("F64", "F32", "F16")
    ]


@pytest.mark.parametrize(
    "form, module", [("safetensors", safetensors_file), ("ckpt", mindspore_ckpt)]
)
def test_what_is_written_is_read(tmp_path, form, module):
    """Names, dtypes, shapes and numbers, scalars and empty tensors too."""
    arrays, wanted = outputs(np.random.default_rng(3), tmp_path)
    wanted = [o for o in wanted if form == "safetensors" or 0 not in o.shape]
    output.write_weights(tmp_path / "out", wanted, form)
    found = dict(open_file(tmp_path / "out").tensors)
    assert list(found) == [o.name for o in wanted]
    for name, stored in found.items():
        assert stored.shape == arrays[name].shape and np.array_equal(load(stored), arrays[name])


def test_slices_of_a_mindspore_tensor_are_put_together(tmp_path):
    """Values that follow each other with one tag are one tensor, as MindSpore writes large ones;
    too many bytes are refused."""

    def value(tag, dims, content):
        tensor = (
            b"".join(b"\x08" + bytes([n]) for n in dims)
            + b"\x12\x07Float32\x1a"
            + bytes([len(content)])
            + content
        )
        body = b"\x0a" + bytes([len(tag)]) + tag + b"\x12" + bytes([len(tensor)]) + tensor
        return b"\x0a" + bytes([len(body)]) + body

    numbers = np.arange(6, dtype="<f4").tobytes()
    halves = value(b"x", (2, 3), numbers[:12]) + value(b"x", (2, 3), numbers[12:])
    (tmp_path / "a.ckpt").write_bytes(halves + value(b"y", (1,), numbers[:4]))
    found = dict(open_file(tmp_path / "a.ckpt").tensors)
    assert np.array_equal(load(found["x"]), np.arange(6).reshape(2, 3)) and found["y"].shape == (1,)
    (tmp_path / "b.ckpt").write_bytes(value(b"x", (2, 3), numbers) * 2)
    refused(lambda: open_file(tmp_path / "b.ckpt"), "'x'", "twice")


def test_a_wrong_checksum_of_its_own_is_refused(tmp_path):
    """PyTorch's archives and MindSpore's checkpoints may bring one along; one flipped bit of a
    number shows."""
    content = bytearray((FIXTURES / "sd1.ckpt").read_bytes())
    place = dict(open_file(FIXTURES / "sd1.ckpt").tensors)[
        "model.diffusion_model.out.2.weight"
    ].pieces[0][0]
    content[place] ^= 1
    (tmp_path / "sd1.ckpt").write_bytes(content)
    config = config_folder(tmp_path / "config", "sd1")
    with pytest.warns(UserWarning):
        refused(lambda: convert(tmp_path / "sd1.ckpt", tmp_path / "out", config=config), "damaged")
    assert not (tmp_path / "out").exists()


# ---- folders -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../unet.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..",
        ".",
        "",
        "a\\b",
        3,
        None,
        ["x"],
    ],
)
def test_an_index_that_points_outside_its_folder_is_refused(tmp_path, folder, name):  # noqa: F811
    shard(folder, "unet")
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["conv_in.bias"] = name
    index.write_text(json.dumps(content))
    refused(lambda: convert(folder, tmp_path / "out"), index, repr(name), "outside")


def test_an_index_that_disagrees_with_its_shards_is_refused(tmp_path, folder):  # noqa: F811
    shard(folder, "unet")
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    content = json.loads(index.read_text())
    names = sorted(set(content["weight_map"].values()))
    content["weight_map"]["conv_in.bias"] = next(
        n for n in names if n != content["weight_map"]["conv_in.bias"]
    )
    index.write_text(json.dumps(content))
    refused(lambda: convert(folder, tmp_path / "out"), "'conv_in.bias'")
    for bad in ("[]", "{}", '{"weight_map": []}', "[" * 100_000, "\x80"):
        index.write_text(bad)
        refused(lambda: convert(folder, tmp_path / "out"), index)


def test_configurations_that_do_not_fit_are_refused(tmp_path, folder):  # noqa: F811
    for changes, word in (
        ({"num_hidden_layers": 10**9}, 10**9),
        ({"hidden_size": 24}, 24),
        ({"frobnicate": 1}, "frobnicate"),
    ):
        before = (folder / "text_encoder" / "config.json").read_bytes()
        change(folder / "text_encoder" / "config.json", **changes)
        refused(lambda: convert(folder, tmp_path / "out"), word)
        (folder / "text_encoder" / "config.json").write_bytes(before)
    shutil.rmtree(folder / "vae")
    refused(lambda: convert(folder, tmp_path / "out"), folder / "vae")


# ---- nothing half-written ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), MemoryError()]
)
@pytest.mark.parametrize("calls", [1, 40, 400])
@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_a_conversion_that_stops_leaves_nothing(monkeypatch, tmp_path, error, calls, name):
    real, left = output._write, [calls]

    def failing(file, data):
        left[0] -= 1
        if left[0] < 0:
            raise error
        real(file, data)

    monkeypatch.setattr(output, "_write", failing)
    with pytest.raises(InputError if isinstance(error, OSError) else type(error)) as caught:
        convert(MICRO, tmp_path / name, to="single-file" if "." in name else "diffusers")
    assert list(tmp_path.iterdir()) == []
    assert not isinstance(error, OSError) or "No space left" in str(caught.value)


def program(tmp_path, before=""):
    """A command that runs the command line in a process of its own, which is told the shapes of the
    micro model, so that no third process has to ask the core for them."""
    shapes = leaves.shapes(read_folder_configs(MICRO))
    lines = (
        "import sys, time",
        "from weights_convert import cli, leaves, output",
        f"leaves.shapes = lambda _: {shapes!r}",
        before,
        "sys.exit(cli.main(sys.argv[1:]))",
    )
    file = tmp_path.with_suffix(".py")
    file.write_text("\n".join(lines))
    return [sys.executable, str(file)], {
        "cwd": ROOT,
        "env": {**os.environ, "PYTHONPATH": str(ROOT)},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }


def test_a_limit_of_the_system_leaves_nothing(tmp_path):
    """A real failure of a real write, in a process whose files may have 100 kB."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    command, options = program(tmp_path)
    command += ["convert", str(MICRO), str(tmp_path / "out")]
    run = subprocess.run(command, preexec_fn=limit, timeout=120, **options)
    assert run.returncode == 2 and "File too large" in run.stderr and "Traceback" not in run.stderr
    assert list(tmp_path.iterdir()) == []


SLOW = """
real = output._write
def slow(file, data):
    print(".", flush=True)
    time.sleep(0.2)
    real(file, data)
output._write = slow
"""


def test_a_signal_leaves_nothing(tmp_path):
    """A conversion to a slow disk, which would take five minutes, is stopped from outside."""
    command, options = program(tmp_path, SLOW)
    run = subprocess.Popen(command + ["convert", str(MICRO), str(tmp_path / "out")], **options)
    run.stdout.read(1)
    assert len(list(tmp_path.iterdir())) == 1
    run.send_signal(signal.SIGTERM)
    _, told = run.communicate(timeout=60)
    assert run.returncode == 130 and "interrupted" in told and list(tmp_path.iterdir()) == []


def test_a_target_that_exists_is_kept(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "file").write_text("mine")
    refused(lambda: convert(MICRO, tmp_path / "out"), tmp_path / "out", "exists")
    refused(
        lambda: convert(MICRO, tmp_path / "file", to="single-file"), tmp_path / "file", "exists"
    )
    refused(lambda: convert(MICRO, tmp_path / "no" / "out"), tmp_path / "no" / "out")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_disk_that_is_too_small_is_seen_first(monkeypatch, tmp_path):
    monkeypatch.setattr(
        output.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000)
    )
    refused(lambda: convert(MICRO, tmp_path / "out"), "0.00 GB free", "--dtype fp16")


# ---- verify --------------------------------------------------------------------------------------


def test_any_changed_file_shows(tmp_path):
    """A bit of each file, an added and a missing file, another source."""
    out = tmp_path / "out"
    convert(MICRO, out, max_shard_size=100_000)
    files, tensors = verify(out, source=MICRO)
    assert (
        tensors == len(held(MICRO)) and files == len([p for p in out.rglob("*") if p.is_file()]) - 1
    )
    rng = random.Random(1)
    for file in sorted(p for p in out.rglob("*") if p.is_file()):
        content = file.read_bytes()
        file.write_bytes(flipped(content, rng))
        refused(lambda: verify(out), file.name)
        file.write_bytes(content[:-1])
        refused(lambda: verify(out), file.name)
        file.write_bytes(content)
    (out / "unet" / "more.bin").write_text("")
    refused(lambda: verify(out), "more.bin")
    (out / "unet" / "more.bin").unlink()
    (out / "vae" / "config.json").rename(tmp_path / "gone")
    refused(lambda: verify(out), "vae/config.json", "missing")
    (tmp_path / "gone").rename(out / "vae" / "config.json")
    refused(lambda: verify(out, source=FIXTURES / "sd1.ckpt"), "source")
    verify(out, source=MICRO)


def test_a_changed_record_shows(tmp_path):
    convert(MICRO, tmp_path / "out")
    record = tmp_path / "out" / "conversion.json"
    content = json.loads(record.read_text())
    for wrong in (
        {},
        [],
        {"checksum": ""},
        {**content, "dtype": "fp32"},
        {**content, "files": {}},
        {**content, "files": {"../x": {"size": 0, "sha256": ""}}},
    ):
        record.write_text(json.dumps(wrong))
        refused(lambda: verify(tmp_path / "out"), record)
    record.unlink()
    refused(lambda: verify(tmp_path / "out"), record, "missing")


def test_the_record(tmp_path):
    record = convert(MICRO, tmp_path / "out", dtype="fp32")
    assert json.loads((tmp_path / "out" / "conversion.json").read_text()) == {
        **record,
        "checksum": output.checksum(record),
    }
    assert (
        record["source"]["name"] == "model"
        and len(record["source"]["files"]) == 3
        and record["dtype"] == "fp32"
    )
    for own in record["source"]["files"]:
        assert set(own) == {"name", "size", "sha256"} and "/" not in own["name"]
    assert sum(record["rules"].values()) == len(held(MICRO))


# ---- command line --------------------------------------------------------------------------------


def test_command_line(tmp_path, capsys):
    """Convert, verify, inspect; quiet in a pipe; what is wrong is one line and exit code 2."""
    assert (
        main(
            [
                "convert",
                str(MICRO),
                str(tmp_path / "out"),
                "--max-shard-size",
                "100kB",
                "--dtype",
                "fp32",
            ]
        )
        == 0
    )
    assert main(["verify", str(tmp_path / "out"), "--source", str(MICRO)]) == 0
    assert main(["inspect", str(tmp_path / "out"), "--keys"]) == 0
    told = capsys.readouterr()
    assert "unet/conv_in.weight F32 [" in told.out
    words = ["--embedding", str(FIXTURES / "embedding.pt"), "<Mine>"]
    assert main(["convert", str(MICRO), str(tmp_path / "words"), *words]) == 0
    told_words = capsys.readouterr()
    assert "write <mine> in a prompt for 3 vectors\n" in told_words.out
    assert "files and" in told.out and told.err == ""
    for arguments in (
        ["convert", tmp_path / "none", tmp_path / "x"],
        ["inspect", ROOT / "setup.cfg"],
        ["verify", MICRO],
        ["convert", MICRO, tmp_path / "x", "--lora", FIXTURES / "sd1.ckpt", "much"],
    ):
        assert main(list(map(str, arguments))) == 2
        told = capsys.readouterr()
        assert (
            told.out == ""
            and told.err.count("\n") == 1
            and told.err.startswith("weights_convert: ")
        )


def test_no_command_loads_mindspore(tmp_path):
    """Its 400 MB and its seconds: a process of its own asks the core for the shapes, and only to
    convert."""
    out = str(tmp_path / "out")
    commands = (["convert", str(MICRO), out], ["verify", out], ["inspect", out])
    lines = (
        "import sys",
        "from weights_convert.cli import main",
        f"assert not any([main(arguments) for arguments in {commands!r}])",
        "assert 'mindspore' not in sys.modules",
    )
    command = [sys.executable, "-c", "\n".join(lines)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert equal(held(tmp_path / "out"), held(MICRO))


@pytest.mark.parametrize(
    "text, size",
    [("2GB", 2 * 10**9), ("500MiB", 500 << 20), ("7", 7), ("1.5 kb", 1500), ("100K", 100_000)],
)
def test_sizes(text, size):
    assert byte_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "0", "2 bananas", "1e9"])
def test_sizes_that_are_none(text):
    with pytest.raises(Exception, match="size"):
        byte_size(text)


# ---- fuzzing -------------------------------------------------------------------------------------


def flipped(content, rng):
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def cut(content, rng):
    return content[: rng.randrange(len(content))]


def head_flipped(content, rng):
    """Several bits among the first or last kilobytes, where the structure is."""
    for _ in range(rng.randint(1, 4)):
        near = rng.randrange(min(4096, len(content)))
        place = near if rng.random() < 0.5 else len(content) - 1 - near
        content = (
            content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]
        )
    return content


def overwritten(content, rng):
    place, size = rng.randrange(len(content)), rng.randint(1, 64)
    return content[:place] + rng.randbytes(size) + content[place + size :]


def moved(content, rng):
    """A piece removed, or given twice."""
    place, size = rng.randrange(len(content)), rng.randint(1, 2000)
    piece = content[place : place + size]
    return (
        content[:place] + content[place + size :]
        if rng.random() < 0.5
        else content[:place] + piece + content[place:]
    )


def noise(content, rng):
    return content[: rng.choice((0, 4, 8, 9, 64))] + rng.randbytes(rng.randrange(300))


def reprogrammed(content, rng):
    """A PyTorch file whose pickle is changed, and whose archive is whole."""
    if content[:2] != b"PK":
        return head_flipped(content, rng)
    with TemporaryDirectory() as place:
        source = Path(place) / "in"
        source.write_bytes(content)
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(Path(place) / "out", "w") as new:
            for info in old.infolist():
                data = old.read(info)
                new.writestr(
                    info.filename,
                    (
                        rng.choice(MUTATIONS[:5])(data, rng)
                        if info.filename.endswith("data.pkl")
                        else data
                    ),
                )
        return (Path(place) / "out").read_bytes()


MUTATIONS = (flipped, cut, head_flipped, overwritten, moved, noise, reprogrammed)


def values(source):
    """{key: (dtype, shape, bytes)} of a file's tensors, its own checksums made."""
    output.digest(source.path, source.checks.get(source.path, ()))
    return {
        key: (own.dtype, own.shape, load(own).tobytes())
        for key, own in source.tensors
        if own.dtype in FLOATS
    }


@lru_cache(maxsize=None)
def seeds(place):
    """{name: (file, its tensors)}: one small file of each format."""
    place = Path(place)
    convert(MICRO, place / "one.safetensors", to="single-file")
    convert(MICRO, place / "one.ckpt", to="mindspore-ckpt")
    config_folder(place / "sd1-config", "sd1")
    files = [
        place / "one.safetensors",
        place / "one.ckpt",
        FIXTURES / "sd1.ckpt",
        FIXTURES / "embedding.pt",
    ]
    return [(file, file.read_bytes(), values(open_file(file))) for file in files]


def fuzz(number, place, seed=0, conversions=10**9):
    """Damage files in many ways; returns how each attempt ended. Only InputError may be raised,
    within five seconds of work. What has the right names is converted, `conversions` times.

    A PyTorch file's checksums leave no change of a tensor unseen. The other formats have none of
    their own: a change of a number alone is read, and is what `verify --source` compares.
    """
    rng, ends, target = random.Random(seed), {}, Path(place) / "damaged"
    for i in range(number):
        file, content, wanted = rng.choice(seeds(str(place)))
        mutation = rng.choice(MUTATIONS)
        damaged = mutation(content, rng)
        target.write_bytes(damaged)
        begin = time.process_time()
        try:
            found = values(open_file(target))
            if found == wanted:
                end = "same tensors"
            elif damaged[:2] == b"PK" and mutation is not reprogrammed:
                raise AssertionError(
                    f"{mutation.__name__} {seed}/{i}: a changed tensor of {file.name} was not seen"
                )
            else:
                end = "other tensors"
                if found.keys() == wanted.keys() and conversions:
                    conversions -= 1
                    end = _convert_damaged(target, content, file, Path(place))
        except InputError as error:
            assert "\n" not in str(error)
            end = "refused"
        assert time.process_time() - begin < 5, (mutation.__name__, seed, i)
        ends[end] = ends.get(end, 0) + 1
    return ends


def _convert_damaged(target, content, file, place):
    """A file that still has the right names: refused, or another source than the good one for
    `verify`."""
    if file.suffix == ".pt":
        return "other numbers"
    out = place / "out"
    config = place / "sd1-config" if file.name == "sd1.ckpt" else MICRO
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            convert(target, out, config=config)
        verify(out, source=target)
        with pytest.raises(InputError, match="source"):
            verify(out, source=file)
        return "shown by verify"
    except InputError:
        return "refused"
    finally:
        shutil.rmtree(out, ignore_errors=True)


def test_fuzz(tmp_path):
    ends = fuzz(150, tmp_path, conversions=8)
    assert sum(ends.values()) == 150 and ends["refused"] > 50 and ends["shown by verify"] > 4, ends


if __name__ == "__main__":
    os.fsync = lambda _: None
    with TemporaryDirectory() as working:
        print(fuzz(int(sys.argv[1]), working, int(sys.argv[2]) if len(sys.argv) > 2 else 1))
