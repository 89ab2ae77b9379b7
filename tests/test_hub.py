"""diffedit_core.hub, folder, recognise: what is found without reading weights, what a thing is that
cannot be loaded, and how long a silent network is waited for."""

import json
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from safetensors.numpy import save_file

from diffedit_core import folder as folders, hub, recognise
from diffedit_core.model import Model
from tests.test_config import SCHEDULER_21, refused
from tests.test_model import LISTING, MICRO, WEIGHTS, change, shard
from weights_convert import cli as converter

POINTER = (
    "version https://git-lfs.github.com/spec/v1\noid "
    "sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


@pytest.fixture
def folder(tmp_path):
    """A copy of the micro model to damage."""
    return Path(shutil.copytree(MICRO, tmp_path / "a model"))


def command(sentence):
    """The arguments of the converter's command in a sentence."""
    words = shlex.split(next(part for part in sentence.split("`") if "weights_convert" in part))
    assert words[0] == "weights_convert"
    return words[1:]


def said(call):
    with pytest.raises(hub.InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- checked without the weights' values ---------------------------------------------------------


def test_a_checked_folder_is_loaded_as_it_was_found(folder):
    found = folders.check(folder)
    assert found.path == folder and set(found.files) == set(WEIGHTS)
    model = Model.load(found)
    assert model.configs is found.configs and model.tokenizer is found.tokenizer


def test_the_scheduler_is_warned_of_once(folder):
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(SCHEDULER_21 | {"_class_name": "EulerDiscreteScheduler"}))
    with pytest.warns(UserWarning, match="EulerDiscreteScheduler") as told:
        Model.load(folders.check(folder))
    assert len(told) == 1


@pytest.mark.parametrize("look", [folders.check, folders.describe, Model.load])
@pytest.mark.parametrize("component", WEIGHTS)
def test_a_pointer_in_place_of_weights(look, component, folder):
    file = folder / component / f"{WEIGHTS[component]}.safetensors"
    file.write_text(POINTER)
    refused(lambda: look(folder), file, "Git LFS pointer", "git lfs pull")


@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "tokenizer/vocab.json"])
def test_a_pointer_in_place_of_a_small_file(file, folder):
    (folder / file).write_text(POINTER)
    refused(lambda: folders.check(folder), folder / file, "Git LFS pointer", "git lfs pull")


def test_a_pointer_in_place_of_a_shard(folder):
    index = shard(folder, "unet")
    part = index.parent / "diffusion_pytorch_model-00002-of-00003.safetensors"
    part.write_text(POINTER)
    refused(lambda: folders.check(folder), part, "Git LFS pointer")


def test_weights_are_checked_by_their_headers(folder):
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    refused(lambda: folders.check(folder), file, "not a complete safetensors")
    file.write_bytes(content)
    change(folder / "vae" / "config.json", layers_per_block=2)
    refused(lambda: folders.check(folder), "missing: ", "config.json")


# ---- weights in other files ----------------------------------------------------------------------


@pytest.mark.parametrize("look", [folders.check, folders.describe, Model.load])
def test_pickled_weights_name_the_command(look, folder):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))
    sentence = said(lambda: look(folder))
    assert "diffusion_pytorch_model.bin" in sentence
    verb, source, target = command(sentence)
    assert (verb, Path(source)) == ("convert", folder) and not Path(target).exists()
    converter.parser().parse_args([verb, source, target])


@pytest.mark.parametrize("name", ["v1-5.ckpt", "v1-5.safetensors", "x.bin", "x.PT", "x y.pth"])
def test_a_single_file_names_the_command(name, tmp_path):
    file = tmp_path / name
    if name.endswith("safetensors"):
        save_file({"first_stage_model.quant_conv.bias": np.zeros(3, np.float32)}, file)
    else:
        file.write_bytes(b"x")
    sentence = said(lambda: folders.check(file))
    assert "single file" in sentence and command(sentence)[:2] == ["convert", str(file)]
    sentence = said(lambda: folders.check(tmp_path))
    if name.endswith(("ckpt", "safetensors")):
        assert "no model_index.json" in sentence
        assert command(sentence)[:2] == ["convert", str(file)]
    file.write_text(POINTER)
    refused(lambda: folders.check(file), file, "Git LFS pointer")


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_shards_without_an_index_name_it(variant, folder):
    index = shard(folder, "unet", variant=variant)
    index.unlink()
    refused(lambda: folders.check(folder), folder / "unet", "shards", index.name)


def test_weights_under_a_name_that_is_not_read(folder):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".non_ema.safetensors"))
    refused(lambda: folders.check(folder), file.name, "diffusion_pytorch_model.non_ema.safetensors")


def test_a_folder_above_the_model(folder):
    place = folder.parent / "models--a--b" / "snapshots" / "123"
    place.parent.mkdir(parents=True)
    folder.rename(place)
    refused(lambda: folders.check(place.parent.parent), f"give {place}")


# ---- other models --------------------------------------------------------------------------------

INDEX = json.loads((MICRO / "model_index.json").read_text())
MODELS = [  # changes of model_index.json, changes of unet/config.json, what it is
    (dict(_class_name="StableDiffusionXLPipeline"), {}, "Stable Diffusion XL"),
    ({}, dict(addition_embed_type="text_time"), "Stable Diffusion XL"),
    (
        dict(
            _class_name="StableDiffusionXLImg2ImgPipeline",
            text_encoder=[None, None],
            text_encoder_2=["transformers", "CLIPTextModelWithProjection"],
        ),
        {},
        "refiner",
    ),
    (dict(_class_name="StableDiffusion3Pipeline"), {}, "Stable Diffusion 3"),
    (dict(_class_name="FluxPipeline"), {}, "Flux"),
    (dict(_class_name="StableDiffusionInpaintPipeline"), dict(in_channels=9), "inpainting"),
    (dict(_class_name="StableDiffusionDepth2ImgPipeline"), dict(in_channels=5), "depth"),
    (dict(_class_name="StableDiffusionUpscalePipeline"), dict(in_channels=7), "upscaler"),
    ({}, dict(in_channels=8), "InstructPix2Pix"),
    (dict(_class_name="StableDiffusionImageVariationPipeline"), {}, "image variations"),
    (dict(_class_name="StableUnCLIPImg2ImgPipeline"), {}, "unCLIP"),
    ({}, dict(time_cond_proj_dim=256), "LCM"),
    (
        dict(_class_name="SomePipeline", unet=[None, None], transformer=["diffusers", "X"]),
        {},
        "diffusion transformer",
    ),
]


@pytest.mark.parametrize("index, unet, kind", MODELS)
def test_another_model_is_named(index, unet, kind, folder):
    change(folder / "model_index.json", **index)
    change(folder / "unet" / "config.json", **unet)
    refused(lambda: folders.check(folder), folder, kind, "Stable Diffusion 1.x and 2.x")


@pytest.mark.parametrize(
    "name", ["StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline", None]
)
def test_pipelines_over_the_same_model_are_taken(name, folder):
    """A class of another task does not matter where the UNet takes four channels."""
    change(folder / "model_index.json", _class_name=name)
    folders.check(folder)


FILES = [  # names and shapes of tensors, what it is
    ({"conditioner.embedders.1.model.x": (1,)}, "Stable Diffusion XL"),
    ({"conditioner.embedders.0.model.x": (1,)}, "refiner"),
    ({"model.diffusion_model.joint_blocks.0.x": (1,)}, "Stable Diffusion 3"),
    ({"double_blocks.0.img_attn.x": (1,)}, "Flux"),
    ({"lora_unet_down.lora_up.weight": (1,)}, "--lora"),
    ({"emb_params": (1, 768)}, "--embedding"),
    ({recognise.FIRST_CONVOLUTION: (3, 9, 3, 3)}, "inpainting"),
]


@pytest.mark.parametrize("tensors, kind", FILES)
def test_a_file_of_something_else_is_named(tensors, kind, tmp_path):
    file = tmp_path / "a file.safetensors"
    save_file({name: np.zeros(shape, np.float32) for name, shape in tensors.items()}, file)
    sentence = said(lambda: folders.check(file))
    assert kind in sentence and str(file) in sentence
    if kind.startswith("--"):
        arguments = command(sentence)
        assert arguments[arguments.index(kind) + 1] == str(file)
        converter.parser().parse_args(arguments)


@pytest.mark.parametrize("content", [b"", b"\xff" * 9, (2).to_bytes(8, "little") + b"[]"])
def test_a_damaged_header_is_a_single_file(content, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(content)
    refused(lambda: folders.check(tmp_path / "x.safetensors"), "single file", "weights_convert")


@pytest.mark.parametrize(
    "change_of, words",
    [
        (lambda n: n + ["text_encoder_2/model.safetensors"], ["Stable Diffusion XL"]),
        (
            lambda n: [x for x in n if not x.startswith("unet/")] + ["transformer/config.json"],
            ["diffusion transformer"],
        ),
        (
            lambda n: [x for x in n if not (x.startswith("vae/") and "safetensors" in x)],
            ["hf download a/b", "weights_convert convert b b-converted", ".bin"],
        ),
        (
            lambda n: ["v1.ckpt", "README.md"],
            ["hf download a/b v1.ckpt", "weights_convert convert b/v1.ckpt v1-converted"],
        ),
        (lambda n: ["README.md"], ["a/b", "model_index.json"]),
    ],
)
def test_a_repository_is_judged_before_anything_is_fetched(monkeypatch, change_of, words):
    monkeypatch.setattr(hub, "_listing", lambda *_: change_of(LISTING))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: 1 / 0)
    refused(lambda: hub.find("a/b"), "a/b", *words)


# ---- a hub that does not answer ------------------------------------------------------------------


@pytest.fixture
def silent():
    """The address of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed():
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("kind", ["silent", "closed"])
def test_without_a_network_the_answer_comes_within_five_seconds(
    kind, request, monkeypatch, tmp_path
):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", request.getfixturevalue(kind))
    start = time.monotonic()
    refused(
        lambda: hub.find("someone/some-model", cache_dir=tmp_path),
        "someone/some-model",
        "cannot be reached",
    )
    assert time.monotonic() - start < 5


def test_a_name_server_that_is_silent_is_not_waited_for(monkeypatch, tmp_path):
    over = threading.Event()
    monkeypatch.setattr(hub, "_listing", lambda *_: over.wait(60))
    start = time.monotonic()
    refused(lambda: hub.find("a/b", cache_dir=tmp_path), "cannot be reached: TimeoutError")
    over.set()
    assert time.monotonic() - start < 5


def test_local_files_only_asks_nobody(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "_listing", lambda *_: 1 / 0)
    refused(
        lambda: hub.find("a/b", cache_dir=tmp_path, local_files_only=True),
        "a/b",
        "local_files_only",
    )


def test_where_to_look_is_passed_on(monkeypatch, folder):
    asked = []
    monkeypatch.setattr(hub, "_listing", lambda *names: asked.append(names) or LISTING)
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *_, **where: asked.append(where) or folder
    )
    assert hub.find("a/b", revision="v2", cache_dir="there") == folder
    assert asked[0][0] == "a/b" and asked[0][1]["revision"] == "v2"
    assert asked[1].items() >= dict(revision="v2", cache_dir="there").items()


def test_finding_needs_no_mindspore():
    """A wrong name is answered before MindSpore's seconds."""
    code = "import sys; from diffedit_core import hub; assert 'mindspore' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
