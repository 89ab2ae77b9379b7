"""diffedit_core.cli: what the commands write and print, and that bad input costs one sentence and
leaves nothing behind."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from diffedit_core import background, cli, edit as stages, memory, model as M
from diffedit_core.arguments import MASK_STAGES, flag, parser
from diffedit_core.errors import InputError
from diffedit_core.integrators import INTEGRATORS
from diffedit_core.options import DECLARED, RECIPES, stages_of

from .tiny import shared_load

ROOT = Path(__file__).parent.parent
MICRO = Path(__file__).parent / "fixtures" / "pipeline" / "model"
SIZE = (64, 48)  # (W, H); latents [4,6,8]
UNET = "unet/diffusion_pytorch_model.safetensors"
LEAF = "conv_in.weight"  # float [8,4,3,3]
MODEL, STEPS, MAPS = ("--model", MICRO), ("--steps", 4), ("--num-maps", 2)  # K = 3
SMALL = (*MODEL, *STEPS, *MAPS)
PROMPTS = ("--source", "a bowl of apples", "--target", "a bowl of pears")
REAL_LOAD = M.Model.load


def smooth(width, height):
    """uint8 [h,w,3] without hard edges."""
    y, x = np.mgrid[:height, :width]
    return np.stack([128 + 100 * np.sin(x / 9 + y / (13 + k) + k) for k in range(3)], -1).astype(
        np.uint8
    )


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty current folder with one picture; loading gives the same compiled model each time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(M.Model, "load", shared_load)
    Image.fromarray(smooth(*SIZE)).save("apples.png")
    return tmp_path


@pytest.fixture
def unloadable(work, monkeypatch):
    """As `work`, but a test that reaches the weights fails."""

    def load(*_, **__):
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr(M.Model, "load", load)
    return work


@pytest.fixture
def broken(work, monkeypatch):
    """As `work`, with the real loader and a copy of the micro model to damage."""
    monkeypatch.setattr(M.Model, "load", REAL_LOAD)
    return Path(shutil.copytree(MICRO, work / "model"))


def main(*words):
    return cli.main([str(word) for word in words])


def edit(*words, picture="apples.png"):
    small = (*MODEL, *STEPS) if "--mask" in words else SMALL
    assert main("edit", picture, *PROMPTS, *small, *words) == 0


def pixels(path):
    return np.asarray(Image.open(path))


def trace(folder):
    return {path.stem: np.load(path) for path in Path(folder).glob("*.npy")}


def contents(folder="."):
    return {
        str(path): path.read_bytes() if path.is_file() else None for path in Path(folder).rglob("*")
    }


def refused(capsys, *words):
    """The one sentence of a refused command, which changes no file and prints nothing else."""
    before = contents()
    assert main(*words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert (
        err.startswith("diffedit: error: ")
        and err.endswith("\n")
        and err.count("\n") == 1
        and "Traceback" not in err
    )
    assert contents() == before
    return err


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def replace_leaf(folder, array):
    save_file(load_file(folder / UNET) | {LEAF: array}, folder / UNET)


# Good runs.


def test_edit_writes_every_output_and_the_trace_repeats_it(work, capsys):
    files = ["grid.png", "map.png", "mask.png", "out.png"]
    named = (
        "--out",
        "out.png",
        "--mask-out",
        "mask.png",
        "--map-out",
        "map.png",
        "--grid",
        "grid.png",
    )
    edit(*named, "--save-trace", "first")
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and "cannot hold this picture" in err  # its weights are random
    assert sorted(out.splitlines()) == files
    assert {p.name for p in work.iterdir()} == {"apples.png", "first", *files}
    assert {name: Image.open(name).size for name in files[1:]} == dict.fromkeys(files[1:], SIZE)
    assert Image.open("grid.png").width > 4 * SIZE[0] and Image.open("grid.png").height > SIZE[1]
    assert not np.array_equal(pixels("out.png"), pixels("apples.png"))

    arrays = trace("first")
    assert {name: a.shape for name, a in arrays.items()} == {
        "maps": (2, 4, 6, 8),
        "posterior": (1, 4, 6, 8),
        "noise_map": (1, 6, 8),
        "mask": (1, 6, 8),
        "latents": (1, 4, 6, 8),
        "inverted_latents": (4, 1, 4, 6, 8),
        "decoded_latents": (1, 4, 6, 8),
        **dict.fromkeys(("decoded", "roundtrip", "image"), (1, 3, 48, 64)),
    }
    assert {a.dtype for a in arrays.values()} == {np.dtype(np.float32)}
    assert np.array_equal(arrays["inverted_latents"][0], arrays["latents"])
    assert np.array_equal(pixels("mask.png"), 255 * arrays["mask"][0].repeat(8, 0).repeat(8, 1))
    record = json.loads(Path("first/options.json").read_text())
    assert (record["seed"], record["targets"], len(record["timesteps"])) == (
        0,
        ["a bowl of pears"],
        3,
    )
    assert record["options"]["num_inference_steps"] == 4 and record["options"]["num_maps"] == 2
    assert record["dtype"] == "fp32" and record["hf32"] is False

    inside = arrays["mask"][0] > 0
    assert 0 < inside.sum() < inside.size
    decoded, latents = arrays["decoded_latents"][0], arrays["latents"][0]
    assert decoded[:, ~inside].tobytes() == latents[:, ~inside].tobytes()
    assert (decoded != latents)[:, inside].any(0).all()


def test_a_run_repeats_by_its_seed_and_by_its_trace(work):
    named = ("--out", "out.png", "--mask-out", "mask.png")
    edit(*named, "--save-trace", "first")
    arrays, before = trace("first"), contents()
    edit(*named, "--save-trace", "again")
    after = contents()
    assert {name: after[name] for name in before} == before
    assert same(trace("again"), arrays)

    edit("--out", "other.png", "--seed", 1, "--save-trace", "other")
    other = trace("other")
    assert not np.array_equal(other["maps"], arrays["maps"])
    assert not np.array_equal(other["noise_map"], arrays["noise_map"])
    assert np.array_equal(other["latents"], arrays["latents"])

    named = ("--out", "loaded.png", "--mask-out", "loadedmask.png")
    edit(*named, "--seed", 1, "--load-noise", "first", "--save-trace", "loaded")
    for name in ("out", "mask"):
        loaded = name.replace("out", "loaded") if name == "out" else "loadedmask"
        assert Path(f"{loaded}.png").read_bytes() == Path(f"{name}.png").read_bytes()
    assert same(trace("loaded"), arrays)


def same(one, other):
    """Whether two traces hold the same bytes."""
    return {k: v.tobytes() for k, v in one.items()} == {k: v.tobytes() for k, v in other.items()}


def test_the_diffusers_recipe_traces_its_posterior_draws_and_no_clean_level(work):
    edit("--recipe", "diffusers", "--save-trace", "trace", "--out", "out.png")
    arrays = trace("trace")
    assert arrays["posterior_mask"].shape == arrays["maps"].shape == (2, 4, 6, 8)
    assert arrays["inverted_latents"].shape == (3, 1, 4, 6, 8)
    assert not np.array_equal(arrays["inverted_latents"][0], arrays["latents"])
    edit("--recipe", "diffusers", "--seed", 5, "--load-noise", "trace", "--out", "loaded.png")
    assert Path("loaded.png").read_bytes() == Path("out.png").read_bytes()
    edit("--recipe", "diffusers", "--seed", 5, "--save-trace", "other")
    assert not np.array_equal(trace("other")["posterior_mask"], arrays["posterior_mask"])
    assert not np.array_equal(trace("other")["latents"], arrays["latents"])


def test_a_map_batch_changes_neither_mask_nor_picture(work):
    for batch in (1, 2):
        edit("--map-batch", batch, "--out", f"{batch}.png", "--mask-out", f"mask{batch}.png")
    assert np.array_equal(pixels("mask1.png"), pixels("mask2.png"))
    assert np.abs(pixels("1.png").astype(int) - pixels("2.png")).max() <= 1


def test_backgrounds(work):
    """Decoded is the trace's; pasted and restored are the source's pixels far from the mask, and
    the decoding's in it; all but decoded take the growth and the feather."""
    edit("--out", "decoded.png", "--background", "decoded", "--mask-out", "mask.png")
    for kind in ("pasted", "restored"):
        edit("--out", f"{kind}.png", "--background", kind, "--grow", 1, "--feather", 0)
        edit("--out", f"{kind}-wide.png", "--background", kind, "--grow", 2, "--feather", 3)
    source, decoded = pixels("apples.png"), pixels("decoded.png")
    mask = pixels("mask.png") > 0
    near = background.weight(mask.astype(np.float32), 1, 0) > 0
    assert 0 < near.sum() < near.size and not np.array_equal(decoded[~near], source[~near])
    for kind in ("pasted", "restored"):
        hard, wide = pixels(f"{kind}.png"), pixels(f"{kind}-wide.png")
        assert np.array_equal(hard[~near], source[~near])
        assert np.array_equal(hard[near], decoded[near])
        assert np.array_equal(wide[mask], decoded[mask]) and not np.array_equal(wide, hard)


def test_equal_prompts_warn_and_return_the_picture(work, capsys):
    words = (
        "edit",
        "apples.png",
        "--source",
        "a cat",
        "--target",
        "a cat",
        *SMALL,
        "--out",
        "out.png",
    )
    assert main(*words) == 0
    out, err = capsys.readouterr()
    assert out == "out.png\n"
    assert err.startswith("diffedit: warning: ") and err.count("\n") == 1 and "same prompt" in err
    assert np.array_equal(pixels("out.png"), pixels("apples.png"))
    assert main(*words, "--quiet") == 0
    assert capsys.readouterr() == ("", "")


def test_several_targets_share_one_inversion(work, monkeypatch, capsys):
    calls, trail = [], stages.trail
    monkeypatch.setattr(stages, "trail", lambda *a, **k: calls.append(1) or trail(*a, **k))
    edit(
        "--target", "a dog", "--target", "two cats", "--mask-out", "m.png", "--save-trace", "trace"
    )
    assert len(calls) == 1
    files = {f"{stem}-{i}.png" for stem in ("apples-edited", "m") for i in (1, 2, 3)}
    assert {p.name for p in work.iterdir()} == {"apples.png", "trace", *files}
    assert set(capsys.readouterr().out.split()) == files
    assert len({Path(f"apples-edited-{i}.png").read_bytes() for i in (1, 2, 3)}) == 3
    traces = [trace(f"trace/target-{i}") for i in (1, 2, 3)]
    assert all(np.array_equal(t["inverted_latents"], traces[0]["inverted_latents"]) for t in traces)
    edit("--out", "alone.png")  # the others change nothing but the batch
    assert np.abs(pixels("alone.png").astype(int) - pixels("apples-edited-1.png")).max() <= 1


def test_mask_command_writes_a_mask_only(work, monkeypatch, capsys):
    monkeypatch.setattr(stages, "trail", None)
    assert main("mask", "apples.png", *PROMPTS, *MODEL, *MAPS) == 0
    assert capsys.readouterr() == ("apples-mask.png\n", "")
    assert {p.name for p in work.iterdir()} == {"apples.png", "apples-mask.png"}
    assert Image.open("apples-mask.png").size == SIZE and set(
        np.unique(pixels("apples-mask.png"))
    ) == {0, 255}


def test_a_given_soft_mask_of_another_resolution(work, monkeypatch):
    monkeypatch.setattr(stages, "maps", None)
    given = np.zeros((24, 32), np.uint8)
    given[:, 8:] = np.linspace(0, 255, 24).astype(np.uint8)
    Image.fromarray(given).save("given.png")
    edit(
        "--mask", "given.png", "--mask-out", "used.png", "--save-trace", "trace", "--out", "out.png"
    )
    arrays, wanted = trace("trace"), given.reshape(6, 4, 8, 4).mean((1, 3)) / 255
    np.testing.assert_allclose(arrays["mask"][0], wanted, rtol=0, atol=1e-6)
    assert "noise_map" not in arrays
    np.testing.assert_allclose(
        pixels("used.png"), 255 * wanted.repeat(8, 0).repeat(8, 1), rtol=0, atol=0.51
    )
    outside = wanted == 0
    assert (
        arrays["decoded_latents"][0][:, outside].tobytes()
        == arrays["latents"][0][:, outside].tobytes()
    )


def test_a_rotated_picture_of_odd_size_keeps_its_size_and_quiet_is_silent(work, capsys):
    upright = Image.fromarray(smooth(61, 45))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown a quarter turn clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save("turned.png", exif=exif)
    assert Image.open("turned.png").size == (45, 61)
    edit(
        "--out",
        "out.png",
        "--mask-out",
        "mask.png",
        "--map-out",
        "map.png",
        "--quiet",
        picture="turned.png",
    )
    assert capsys.readouterr() == ("", "")
    assert {Image.open(name).size for name in ("out.png", "mask.png", "map.png")} == {(61, 45)}


# Without a model.


def test_dry_run_prints_the_plan_without_weights(unloadable, capsys):
    before = contents()
    assert (
        main(
            "edit",
            "apples.png",
            *PROMPTS,
            *SMALL,
            "--target",
            "a dog",
            "--dry-run",
            "--save-trace",
            "trace",
            "--grid",
            "grid.png",
        )
        == 0
    )
    out, err = capsys.readouterr()
    assert err == "" and contents() == before
    assert (
        "64x48, worked on as 64x48, latents 8x6" in out
        and "3 steps at timesteps 1, 251, 501" in out
    )
    assert (
        "21: 6 for the mask, 3 for the inversion, 12 for the decoding of 2 target(s)" in out
    )  # 2*3, K, 2 targets * 2K


@pytest.mark.parametrize(
    "words, said",
    [
        (
            ("--integrator", "edict"),
            "24: 6 for the mask, 6 for the inversion, 12 for the decoding",
        ),  # 4K evaluations with guidance
        (
            ("--integrator", "belm"),
            "13: 6 for the mask, 3 for the inversion, 4 for the decoding",
        ),  # the first step down is known
        (("--integrator", "anderson"), "at most 70: 4 for the mask, at most 60 for the inversion"),
        (("--num-reg-steps", 2), "ddim, 2 regularising steps"),
    ],
)
def test_dry_run_counts_the_evaluations_of_every_way(unloadable, capsys, words, said):
    maps = 3 if words[1] in ("edict", "belm") else 2
    assert (
        main("edit", "apples.png", *PROMPTS, *SMALL, "--num-maps", maps, "--dry-run", *words) == 0
    )
    assert said in capsys.readouterr().out


def test_the_way_is_chosen_on_the_command_line(work, capsys):
    """Each gives other latents than DDIM and has its options in the trace; the rolls of the
    regularisation are repeated."""
    edit("--save-trace", "ddim")
    plain = trace("ddim")
    for words in (
        ("--integrator", "edict"),
        ("--integrator", "fixed_point"),
        ("--reuse-features", 2),
        ("--num-reg-steps", 1, "--lambda-auto-corr", 5.0, "--lambda-kl", 2.0),
    ):
        edit(*words, "--save-trace", "trace", "--recipe", "paper")
        found = trace("trace")
        assert (
            np.abs(found["inverted_latents"][-1] - plain["inverted_latents"][-1]).max() > 1e-3
        ), words
        options, given = json.loads(Path("trace/options.json").read_text())["options"], dict(
            zip(words[::2], words[1::2])
        )
        assert all(
            options[flag.removeprefix("--").replace("-", "_")] == value
            for flag, value in given.items()
        )
    edit(*words, "--load-noise", "trace", "--save-trace", "again", "--seed", 5)
    assert np.array_equal(trace("again")["inverted_latents"], found["inverted_latents"])


def test_a_window_is_in_the_plan_and_its_decoding_on_the_page(work, capsys):
    """Of the mask that is given, or found; the inversion is that without it. Sides are multiples of
    8, or the picture's own: this UNet halves them three times."""
    Image.fromarray(smooth(128, 48)).save("wide.png")
    Image.fromarray(np.pad(np.full((8, 8), 255, np.uint8), ((16, 24), (48, 72)))).save("square.png")
    words = ("wide.png", *PROMPTS, *SMALL[:-2], "--size", 128, "--decode-window", 1)
    assert main("edit", *words, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "decoding window   the cells of the mask that is found and 1 around them" in out
    given = (*words, "--mask", "square.png")
    assert main("edit", *given, "--dry-run") == 0
    assert "decoding window   8x6 of 16x6 cells, " in capsys.readouterr().out
    assert main("edit", *given, "--save-trace", "trace", "--report", "page.html", "--quiet") == 0
    assert "<p>Decoded in a window of 8x6 of 16x6 cells.</p>" in Path("page.html").read_text()
    cut = trace("trace")
    assert main("edit", *given[:-4], *given[-2:], "--save-trace", "whole", "--quiet") == 0
    whole = trace("whole")
    assert np.array_equal(cut["inverted_latents"], whole["inverted_latents"])
    apart = np.abs(cut["decoded_latents"] - whole["decoded_latents"])
    assert apart[0][:, whole["mask"][0] == 0].max() == 0 < apart.max()


def test_info_prints_the_parameter_counts(unloadable, capsys):
    assert main("info", MICRO) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for component in ("text_encoder", "unet", "vae"):
        (file,) = (MICRO / component).glob("*.safetensors")
        count = sum(array.size for array in load_file(file).values())
        (line,) = (line for line in out.splitlines() if line.startswith(component + " "))
        assert f"{count:,} parameters in {file.name}" in line
    assert "64x64 pictures, v_prediction" in out and "--hf32" in out
    assert f"compiled graphs  in {os.environ['DIFFEDIT_GRAPH_CACHE']}\n" in out


def rgba():
    colours = smooth(61, 45)
    alpha = np.where(np.arange(61) < 30, 0, 255)[None].repeat(45, 0).astype(np.uint8)
    return Image.fromarray(np.dstack([colours, alpha])), np.where(
        alpha[..., None] > 0, colours, 255
    )


def palette():
    picture = Image.fromarray(smooth(61, 45)).quantize(16)
    return picture, np.asarray(picture.convert("RGB"))


def grey(depth):
    levels = smooth(50, 33)[..., 0]
    picture = Image.fromarray(levels if depth == 8 else levels.astype(np.uint16) * 257)
    return picture, levels[..., None].repeat(3, -1)


PICTURES = {
    "odd": lambda: (Image.fromarray(smooth(61, 45)), smooth(61, 45)),
    "alpha": rgba,
    "palette": palette,
    "grey": lambda: grey(8),
    "16 bits": lambda: grey(16),
    "one pixel": lambda: (Image.fromarray(smooth(1, 1)), smooth(1, 1)),
}


def prepare(*words):
    return cli.prepare(
        parser().parse_args(["edit", *map(str, words), "--target", "a cat"]), M.read_configs(MICRO)
    )


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_of_every_mode_and_size_are_padded_not_scaled(work, kind):
    picture, wanted = PICTURES[kind]()
    picture.save("picture.png")
    job = prepare("picture.png")
    height, width = wanted.shape[:2]
    padded = (-(-height // 8) * 8, -(-width // 8) * 8)
    assert job.picture.size == (width, height) and job.size == (height, width)
    assert job.image.shape == (1, 3, *padded) and job.shape == (4, padded[0] // 8, padded[1] // 8)
    wanted = np.pad(wanted, [(0, padded[0] - height), (0, padded[1] - width), (0, 0)], mode="edge")
    assert np.array_equal(np.rint((job.image[0].transpose(1, 2, 0) + 1) * 127.5), wanted)


@pytest.mark.parametrize(
    "words, size, worked",
    [
        ((), (90, 60), (60, 90)),
        ((), (200, 100), (32, 64)),
        (("--size", 200), (200, 100), (100, 200)),
        (("--size", 32), (61, 45), (24, 32)),
        (("--size", 100), (61, 45), (45, 61)),
    ],
)
def test_working_size(work, words, size, worked, capsys):
    Image.fromarray(smooth(*size)).save("picture.png")
    job = prepare("picture.png", *words)
    assert job.size == worked and job.picture.size == size
    assert ("working at 64 pixels" in capsys.readouterr().err) == (not words and max(size) > 96)


# Bad input. Each: how the folder is made, the words that follow the picture, and what the sentence
# names.


def damaged(name, data):
    return lambda: Path(name).write_bytes(data)


def half(name="half.png"):
    data = Path("apples.png").read_bytes()
    Path(name).write_bytes(data[: len(data) // 2])


def noise(**shapes):
    def make():
        Path("noise").mkdir()
        fitting = {
            "maps": np.zeros((2, 4, 6, 8), np.float32),
            "posterior": np.zeros((1, 4, 6, 8), np.float32),
        }
        for name, array in (fitting | shapes).items():
            with open(f"noise/{name}.npy", "wb") as file:
                file.write(array) if isinstance(array, bytes) else np.save(file, array)

    return make


def zipped():
    noise()()
    np.savez("noise.npz", maps=np.zeros((2, 4, 6, 8), np.float32))
    Path("noise.npz").replace("noise/maps.npy")


def nothing():
    pass


BAD_PICTURES = {
    "missing": (nothing, "none.png", "none.png does not exist"),
    "below a file": (nothing, "apples.png/a.png", "does not exist"),
    "folder": (lambda: Path("folder").mkdir(), "folder", "folder is a folder"),
    "text": (damaged("text.png", b"not a picture\n"), "text.png", "text.png is not a picture"),
    "empty": (damaged("empty.png", b""), "empty.png", "empty.png is empty"),
    "truncated": (half, "half.png", "half.png is damaged or cut short"),
    "too large": (
        lambda: Image.new("1", (20000, 6000)).save("large.png"),
        "large.png",
        "100 megapixels",
    ),
    "web": (nothing, "https://127.0.0.1:1/a.png", "cannot be had"),
    "long name": (nothing, "a" * 300 + ".png", "aaa"),
}


@pytest.mark.parametrize("command", ["edit", "mask"])
@pytest.mark.parametrize("case", BAD_PICTURES)
def test_bad_pictures(unloadable, capsys, case, command):
    make, picture, text = BAD_PICTURES[case]
    make()
    assert text in refused(capsys, command, picture, *PROMPTS, *MODEL)


BAD_WORDS = {
    "no model": (nothing, "--model missing", "no model folder missing"),
    "model is a file": (nothing, "--model apples.png", "apples.png is a file"),
    "model is another folder": (lambda: Path("other").mkdir(), "--model other", "model_index.json"),
    "long model name": (nothing, "--model " + "m" * 300, "mmm"),
    "mask of another shape": (
        lambda: Image.new("L", (48, 64)).save("m.png"),
        "--mask m.png",
        "48x64 but the picture is 64x48",
    ),
    "missing mask": (nothing, "--mask m.png", "m.png does not exist"),
    "truncated mask": (lambda: half("m.png"), "--mask m.png", "m.png is damaged"),
    "map of a given mask": (nothing, "--mask apples.png --map-out h.png", "--map-out"),
    "ratio 0": (nothing, "--encode-ratio 0", "encode_ratio is 0.0"),
    "ratio 1.5": (nothing, "--encode-ratio 1.5", "encode_ratio is 1.5"),
    "ratio nan": (nothing, "--encode-ratio nan", "encode_ratio is nan"),
    "strength 0": (nothing, "--mask-noise-strength 0", "mask_noise_strength is 0.0"),
    "strength 1.5": (nothing, "--mask-noise-strength 1.5", "mask_noise_strength is 1.5"),
    "strength nan": (nothing, "--mask-noise-strength nan", "mask_noise_strength is nan"),
    "strength without level": (
        nothing,
        "--recipe diffusers --mask-noise-strength 0.1",
        "rounds to no noise",
    ),
    "guidance": (nothing, "--guidance-scale inf", "guidance_scale is inf"),
    "interval": (nothing, "--guidance-interval 0.5 0.25", "guidance_interval is (0.5, 0.25)"),
    "window": (nothing, "--decode-window -1", "decode_window is -1: it has to be a whole number"),
    "threshold": (nothing, "--mask-threshold 1", "mask_threshold is 1.0"),
    "steps 0": (nothing, "--steps 0", "num_inference_steps is 0"),
    "more steps than the training": (nothing, "--steps 2000", "2000"),
    "maps 0": (nothing, "--num-maps 0", "num_maps is 0"),
    "map batch 0": (nothing, "--map-batch 0", "map_batch is 0"),
    "guided empty inversion": (
        nothing,
        "--inversion-guidance-scale 3",
        "--inversion-prompt source",
    ),
    "size": (nothing, "--size 2", "--size is 2"),
    "seed": (nothing, "--seed -1", "--seed is -1"),
    "feather": (nothing, "--feather -1", "feather is -1"),
    "missing out folder": (nothing, "--out nowhere/out.png", "nowhere/out.png"),
    "out is a folder": (lambda: Path("a.png").mkdir(), "--out a.png", "a.png is a folder"),
    "unknown suffix": (nothing, "--out out.gif", "out.gif does not end in a known picture suffix"),
    "unknown mask suffix": (nothing, "--mask-out mask", "mask does not end"),
    "missing grid folder": (nothing, "--grid nowhere/grid.png", "nowhere/grid.png"),
    "out is the input": (nothing, "--out apples.png", "would be overwritten"),
    "out is a link to the input": (
        lambda: Path("l.png").symlink_to("apples.png"),
        "--out l.png",
        "would be overwritten",
    ),
    "mask is the input": (nothing, "--mask-out ./apples.png", "would be overwritten"),
    "outputs are the same": (nothing, "--out a.png --mask-out ./a.png", "same file name"),
    "long out name": (nothing, f"--out {'o' * 300}.png", "ooo"),
    "trace below a file": (nothing, "--save-trace apples.png/trace", "apples.png does not exist"),
    "trace is a file": (nothing, "--save-trace apples.png", "apples.png is a file"),
    "trace in a missing folder": (nothing, "--save-trace a/b", "does not exist"),
    "missing noise": (nothing, "--load-noise noise", "maps.npy is missing"),
    "noise is a file": (nothing, "--load-noise apples.png", "maps.npy"),
    "noise of other maps": (
        noise(maps=np.zeros((3, 4, 6, 8), np.float32)),
        "--load-noise noise",
        "[3, 4, 6, 8]",
    ),
    "noise of another size": (
        noise(posterior=np.zeros((1, 4, 8, 8), np.float32)),
        "--load-noise noise",
        "[1, 4, 8, 8]",
    ),
    "whole noise": (noise(maps=np.zeros((2, 4, 6, 8), int)), "--load-noise noise", "int64"),
    "infinite noise": (noise(maps=np.full((2, 4, 6, 8), np.inf)), "--load-noise noise", "finite"),
    "noise beyond float32": (
        noise(maps=np.full((2, 4, 6, 8), 1e300)),
        "--load-noise noise",
        "finite",
    ),
    "damaged noise": (
        noise(maps=b"\x93NUMPY"),
        "--load-noise noise",
        "maps.npy is not a readable .npy file",
    ),
    "empty noise": (noise(maps=b""), "--load-noise noise", "maps.npy is not a readable .npy file"),
    "damaged zip as noise": (
        noise(maps=b"PK\x03\x04 and no more"),
        "--load-noise noise",
        "maps.npy",
    ),
    "zip as noise": (zipped, "--load-noise noise", "maps.npy"),
    "noise without the mask's": (
        noise(),
        "--load-noise noise --recipe diffusers",
        "posterior_mask.npy is missing",
    ),
}


@pytest.mark.parametrize("case", BAD_WORDS)
def test_bad_words(unloadable, capsys, case):
    make, words, text = BAD_WORDS[case]
    make()
    small = (*MODEL, *STEPS) if "--mask " in words else SMALL
    assert text in refused(capsys, "edit", "apples.png", *PROMPTS, *small, *words.split())


FLAGS = [name for name, declared in DECLARED.items() if not declared.batch]


def words_for(name):
    """An option with the value that the recipe diffusers gives it, as words; with one of its own
    where it is off."""
    value = getattr(RECIPES["diffusers"], name)
    value = 2 if value is None else value
    if isinstance(value, bool):
        return [f"--{flag(name)}" if value else f"--no-{flag(name)}"]
    if isinstance(value, tuple):
        return [f"--{flag(name)}", *map(str, value)]
    return [f"--{flag(name)}", str(value)]


def said(capsys, command, *words):
    """What the command says of its options: "" where it accepts them."""
    code = main(command, "apples.png", *PROMPTS, *MODEL, *words, "--dry-run")
    out, err = capsys.readouterr()
    assert (code == 0) == (err == "") == (out != "")
    return err


@pytest.mark.parametrize("name", FLAGS)
def test_an_option_that_no_stage_looks_at_is_refused(unloadable, capsys, name):
    """For every declared option: beside a given mask those of the mask alone, in `mask` those of
    the edit alone, of the recipe that is asked for."""
    declared, words = DECLARED[name], words_for(name)
    for recipe, options in RECIPES.items():
        needed = declared.needs and getattr(options, declared.needs) in cli.NEUTRAL
        blocked = needed or (declared.unless and getattr(options, declared.unless))
        if name == "inversion_guidance_scale" and options.inversion_prompt == "empty":
            words = [f"--{flag(name)}", "1"]
        idle = bool(blocked) or not stages_of(name, options)
        used = set(stages_of(name, options))
        for command, more, changes in (
            ("edit", (), not idle),
            ("edit", ("--mask", "apples.png"), not idle and not used <= {"maps", "mask"}),
            ("mask", (), not idle and bool(used & set(MASK_STAGES))),
        ):
            if command == "mask" and not set(stages_of(name)) & set(MASK_STAGES):
                continue  # it has no such flag
            if name == "sample_posterior" and command == "mask" and options.posterior_per_map:
                changes = False
            err = said(capsys, command, "--recipe", recipe, *more, *words)
            assert (f"--{flag(name)} changes nothing" in err) == (not changes), (recipe, err)
            assert changes == (err == ""), (recipe, command, err)


@pytest.mark.parametrize(
    "command, words, name",
    [
        ("mask", "--mask-clamp-ratio 2 --mask-clamp-quantile 0.9", "--mask-clamp-ratio"),
        ("edit", "--lambda-kl 1", "--lambda-kl"),
        ("edit", "--background decoded --feather 2", "--feather"),
        ("edit", "--negative plums --guidance-scale 1", "--negative"),
        ("edit", "--mask-negative plums", "--mask-negative"),
        ("edit", "--inversion-negative plums", "--inversion-negative"),
        ("edit", "--recipe diffusers --mask apples.png --mask-negative plums", "--mask-negative"),
        ("mask", "--mask-negative plums", "--mask-negative"),
        ("mask", "--recipe diffusers --mask-negative a --guidance-scale 1", "--mask-negative"),
        ("edit", "--guided-mask --guidance-scale 1", "--guided-mask"),
        ("edit", "--guidance-interval 0 0.5 --guidance-scale 1", "--guidance-interval"),
        ("edit", "--integrator edict --inversion-timestep current", "--inversion-timestep"),
        ("mask", "--recipe diffusers --no-sample-posterior", "--sample-posterior"),
    ],
)
def test_words_that_would_change_nothing_are_refused(unloadable, capsys, command, words, name):
    words = (*PROMPTS, *MODEL, *words.split())
    assert f"{name} changes nothing" in refused(capsys, command, "apples.png", *words)


@pytest.mark.parametrize("name", INTEGRATORS)
def test_an_exact_integrator_refuses_another_timestep(unloadable, capsys, name):
    err = said(capsys, "edit", "--integrator", name, "--inversion-timestep", "destination")
    assert ("--inversion-timestep changes nothing" in err) == INTEGRATORS[name].exact


@pytest.mark.parametrize("word", ["--steps", "--guidance-scale", "--mask-negative"])
def test_a_guided_mask_on_the_grid_takes_them(unloadable, capsys, word):
    words = ("--recipe", "diffusers", word, "4", "--dry-run")
    assert main("mask", "apples.png", *PROMPTS, *MODEL, *words) == 0
    assert "K  " not in capsys.readouterr().out


def in_a_shell(command):
    """A command line of a real shell: its result, and the seconds that it took."""
    start = time.perf_counter()
    result = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True)
    return result, time.perf_counter() - start


def test_a_closed_pipe_ends_without_a_traceback():
    """`diffedit ... | head -1`, and a reader that reads nothing."""
    picture = M.ORCHARD.parent / "bowl_of_apples.png"
    command = f"{sys.executable} -m diffedit_core edit {picture} --target pears --dry-run"
    for reader, lines in (("head -1", 1), ("true", 0)):
        result, _ = in_a_shell(f"{{ {command}; echo $? >&2; }} | {reader}")
        assert result.stderr.split() == ["0"] and len(result.stdout.splitlines()) == lines


def test_help_answers_without_mindspore():
    program = (
        "import sys; from diffedit_core import cli\n"
        "try: cli.main([{!r}, '--help'])\n"
        "except SystemExit: print('mindspore' in sys.modules, 'PIL' in sys.modules)"
    )
    for command in ("edit", "mask", "info"):
        result, _ = in_a_shell(f'{sys.executable} -c "{program.format(command)}"')
        assert result.stdout.splitlines()[-1] == "False False", result.stderr


def test_help_takes_little_more_than_numpy():
    """The least of several runs of both, since other programs slow some of them down."""
    helped, bare = (
        min(in_a_shell(f"{sys.executable} {words}")[1] for _ in range(4))
        for words in ("-m diffedit_core edit --help", "-c 'import numpy, argparse'")
    )
    assert helped < bare + 0.3


def test_help_names_every_option_and_what_an_integrator_is():
    result, _ = in_a_shell(f"{sys.executable} -m diffedit_core edit --help")
    text = " ".join(result.stdout.split())
    assert "(default: 0)" in text
    assert not any(f"default: {nothing})" in text for nothing in ("", "None", "False"))
    assert [name for name in DECLARED if f"--{flag(name)} " in text] == FLAGS
    assert all(f"{name}: {record.summary}".split(",")[0] in text.replace("- ", "-")
               for name, record in INTEGRATORS.items())  # fmt: skip


BAD_MODELS = {
    "component missing": (lambda f: shutil.rmtree(f / "unet"), ["unet"]),
    "tokenizer missing": (lambda f: shutil.rmtree(f / "tokenizer"), ["tokenizer"]),
    "weights missing": (
        lambda f: (f / UNET).unlink(),
        ["unet", "diffusion_pytorch_model.safetensors"],
    ),
    "weights truncated": (
        lambda f: (f / UNET).write_bytes((f / UNET).read_bytes()[:-1000]),
        [UNET, "not a complete safetensors"],
    ),
    "weights empty": (lambda f: (f / UNET).write_bytes(b""), [UNET, "not a complete safetensors"]),
    "unknown key": (
        lambda f: change(f / "unet/config.json", flux_capacitor=1),
        ["unet/config.json", "flux_capacitor"],
    ),
    "no JSON": (lambda f: (f / "vae/config.json").write_text("{"), ["vae/config.json"]),
    "wrong shape": (
        lambda f: replace_leaf(f, np.zeros((8, 9, 3, 3), np.float32)),
        [LEAF, "[8, 9, 3, 3]", "[8, 4, 3, 3]"],
    ),
    "NaN": (lambda f: replace_leaf(f, np.full((8, 4, 3, 3), np.nan, np.float32)), [LEAF, "NaN"]),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_bad_models(broken, capsys, case):
    damage, texts = BAD_MODELS[case]
    damage(broken)
    err = refused(
        capsys,
        "edit",
        "apples.png",
        *PROMPTS,
        *SMALL,
        "--model",
        "model",
        "--grid",
        "grid.png",
        "--save-trace",
        "trace",
    )
    assert all(text in err for text in texts), err


def test_info_of_a_bad_model(broken, capsys):
    (broken / UNET).unlink()
    assert "unet" in refused(capsys, "info", broken)
    assert "nothing" in refused(capsys, "info", "nothing")


def test_no_bf16_on_a_cpu(broken, capsys):
    assert "bf16" in refused(capsys, "edit", "apples.png", *PROMPTS, *SMALL, "--dtype", "bf16")


@pytest.mark.parametrize(
    "free, words, wanted",
    (
        (0, (), True),
        (1 << 45, (), False),
        (None, (), False),
        (0, ("--no-sequential",), False),
        (1 << 45, ("--sequential",), True),
    ),
)
def test_weights_come_one_after_the_other_where_the_memory_asks_for_it(
    work, monkeypatch, capsys, free, words, wanted
):
    """A line says so where nobody asked for it."""
    given = []

    def load(*_, sequential, **__):
        given.append(sequential)
        raise InputError("that is enough")

    monkeypatch.setattr(memory, "available", lambda: free)
    monkeypatch.setattr(M.Model, "load", load)
    assert main("edit", "apples.png", *PROMPTS, *SMALL, *words) == 2
    err = capsys.readouterr().err
    assert given == [wanted]
    assert ("0.0 GiB are free of about 0." in err) == (wanted and not words)
    assert main("edit", "apples.png", *PROMPTS, *SMALL, *words, "--quiet") == 2
    assert given == [wanted] * 2 and "GiB" not in capsys.readouterr().err


def test_the_flag_reaches_the_model_and_changes_no_pixel(work):
    edit("--out", "whole.png", "--no-sequential")
    edit("--out", "one.png", "--sequential")
    assert np.array_equal(pixels("whole.png"), pixels("one.png"))
    assert main("edit", "apples.png", *PROMPTS, *SMALL, "--sequential", "--dry-run") == 0


def test_no_hf32_on_a_cpu(broken, capsys):
    assert "hf32 is for Ascend" in refused(capsys, "edit", "apples.png", *PROMPTS, *SMALL, "--hf32")


@pytest.mark.parametrize(
    "words",
    [
        "",
        "paint a.png",
        "edit",
        "edit apples.png",
        "edit apples.png --target b --steps many",
        "edit apples.png --target b --seed 0.5",
        "edit apples.png --target b --recipe own",
        "mask apples.png --target b --out c.png",
        "edit apples.png --target b --hurry",
    ],
)
def test_words_that_are_not_understood(unloadable, capsys, words):
    with pytest.raises(SystemExit) as exit:
        main(*words.split())
    out, err = capsys.readouterr()
    assert exit.value.code == 2 and out == "" and err.startswith("usage: diffedit")
    assert list(contents()) == ["apples.png"]
