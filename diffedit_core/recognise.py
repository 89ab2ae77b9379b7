"""What a file or folder is that cannot be loaded as it is, and the command that helps.

Everything is told from names, JSON and the headers of safetensors files; no weights are read.
"""

import json
import re
import shlex
from pathlib import Path

from .settings import is_lfs_pointer, lfs_sentence

SUPPORTED = "Stable Diffusion 1.x and 2.x, text to image"
SINGLE_FILES = (".safetensors", ".ckpt", ".bin", ".pt", ".pth")
HEADER_BYTES = 100 << 20  # no real header is larger

# Pattern in the class of a pipeline (model_index.json) -> what the model is; the first one counts.
PIPELINES = (
    ("StableDiffusionXL|Kolors|SSD1B", "Stable Diffusion XL"),
    ("StableDiffusion3", "Stable Diffusion 3"),
    ("Flux", "Flux"),
    ("LatentUpscale", "an upscaler"),
    ("ImageVariation", "a model of image variations, which takes a picture in place of a text"),
    ("StableUnCLIP|UnCLIP", "an unCLIP model, which takes an image embedding"),
    ("AltDiffusion", "AltDiffusion, which has a text encoder of another kind"),
    ("Video|Motion|AnimateDiff", "a video model"),
    ("StableCascade|Wuerstchen", "Stable Cascade"),
    ("Kandinsky", "Kandinsky"),
    ("PixArt|HunyuanDiT|AuraFlow|Sana|Lumina|CogView|QwenImage", "a diffusion transformer"),
    ("^IF", "DeepFloyd IF, which has no autoencoder"),
)

# Channels that the UNet takes -> what the others than the latents' four are for.
INPUTS = {
    5: "a depth model, whose UNet takes a depth map too",
    7: "an upscaler, whose UNet takes a small picture too",
    8: "an InstructPix2Pix model, whose UNet takes a second picture",
    9: "an inpainting model (9 input channels), whose UNet takes a mask and a picture too",
}

# Pattern among the names of a single file's tensors -> what it is; the first one counts.
TENSORS = (
    (r"lora_|\.lora\.|lora_[AB]\.|hada_w|lokr_", "LoRA"),
    (r"(^|\.)joint_blocks\.", "Stable Diffusion 3"),
    (r"(^|\.)double_blocks\.|single_transformer_blocks\.", "Flux"),
    (r"^conditioner\.embedders\.1\.", "Stable Diffusion XL"),
    (r"^conditioner\.embedders\.0\.model\.", "the refiner of Stable Diffusion XL"),
    (r"^(control_model|controlnet)", "a ControlNet"),
    (r"^(emb_params|clip_g|clip_l|<.*>)$", "embedding"),
)
FIRST_CONVOLUTION = "model.diffusion_model.input_blocks.0.0.weight"


def convert_command(source):
    """The command that makes a model folder of `source`, ready to be pasted."""
    target = f"{Path(source).resolve().stem}-converted"
    return f"weights_convert convert {shlex.quote(str(source))} {shlex.quote(target)}"


def of_file(path):
    """Why a single file is no model, as a sentence with the remedy."""
    if is_lfs_pointer(path):
        return lfs_sentence(path)
    if (path.parent.parent / "model_index.json").is_file():
        return f"{path} is a file of a model: give the top folder {path.parent.parent}."
    if path.suffix.lower() not in SINGLE_FILES:
        return (
            f"{path} is a file: a model is a folder in the diffusers layout, with a "
            "model_index.json."
        )
    kind = _kind_of_tensors(path) if path.suffix.lower() == ".safetensors" else None
    if kind in ("LoRA", "embedding"):
        flag = "--lora FILE 1" if kind == "LoRA" else "--embedding FILE WORD"
        flag = flag.replace("FILE", shlex.quote(str(path)))
        what = "a LoRA" if kind == "LoRA" else "an embedding"
        return (
            f"{path} is {what}, an addition to a model: merge it with `weights_convert convert "
            f"MODEL TARGET {flag}`, then give TARGET."
        )
    if kind is not None:
        return unsupported(path, kind)
    return (
        f"{path} is a single file, and a model is a folder: make one with "
        f"`{convert_command(path)}` and give that."
    )


def unsupported(place, kind):
    """The sentence about a model of another kind."""
    return f"{place} is {kind}: supported is {SUPPORTED}; give such a model."


def of_folder(path):
    """Why a folder without a model_index.json is no model, as a sentence with the remedy."""
    missing = f"{path} has no model_index.json"
    if (path.parent / "model_index.json").is_file():
        return f"{missing}: it is a part of a model, give the top folder {path.parent}."
    below = sorted(path.glob("*/model_index.json")) + sorted(path.glob("*/*/model_index.json"))
    if below:
        return f"{missing}, but there is one below it: give {below[0].parent}."
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in (".safetensors", ".ckpt"))
    if files:
        return (
            f"{missing}, but single files: make a model folder of one, such as with "
            f"`{convert_command(files[0])}`, and give that."
        )
    return f"{missing}: give the top folder of a model in the diffusers layout."


def of_index(index, unet=None):
    """What kind of model other than Stable Diffusion 1.x or 2.x an index describes; None if none.

    Args:
        index: the content of model_index.json.
        unet: the content of unet/config.json, where there is one.
    """
    name = str(index.get("_class_name"))

    def has(part):
        return (
            isinstance(index.get(part), list) and bool(index[part]) and index[part][0] is not None
        )

    if has("text_encoder_2") and not has("text_encoder"):
        return "the refiner of Stable Diffusion XL"
    for pattern, kind in PIPELINES:
        if re.search(pattern, name):
            return kind
    if has("transformer") and not has("unet"):
        return f"of {name}, a diffusion transformer"
    if not isinstance(unet, dict):
        return None
    if unet.get("addition_embed_type") == "text_time":
        return "Stable Diffusion XL"
    if unet.get("time_cond_proj_dim") is not None:
        return "a distilled model (LCM), whose UNet takes the guidance scale"
    channels = unet.get("in_channels")
    return INPUTS.get(channels) if isinstance(channels, int) else None


def of_weights(folder, base, names):
    """Why a component's folder has no weights that can be read, as a sentence with the remedy.

    Args:
        folder: of the component.
        base: of the weights' file names, such as "diffusion_pytorch_model".
        names: of its files.
    """
    missing = f"{folder} has no {base}.safetensors"
    shards = [n for n in names if re.fullmatch(r".*-\d+-of-\d+\.safetensors", n)]
    if shards:
        first = re.fullmatch(r"(.*?)(\.[^.-]+)?-\d+-of-\d+\.safetensors", shards[0])
        index = f"{first[1]}.safetensors.index{first[2] or ''}.json"
        return (
            f"{missing} but shards ({', '.join(shards[:2])}{', ...' if shards[2:] else ''}) "
            f"without their index {index}: copy or download that too."
        )
    pickles = [n for n in names if Path(n).suffix in (".bin", ".ckpt", ".pt", ".pth")]
    if pickles:
        return (
            f"{missing} but {', '.join(pickles)}: only safetensors are loaded; convert the model "
            f"with `{convert_command(Path(folder).parent)}` and give that."
        )
    others = [n for n in names if Path(n).suffix in (".safetensors", ".msgpack", ".onnx", ".h5")]
    there = f" (there is {', '.join(others)}, which is not read)" if others else ""
    return f"{missing}{there}: only safetensors of that name are loaded; copy or download them."


def of_listed_weights(repository, weights, names):
    """The same for a component of a repository; `weights` such as "unet/model"."""
    missing = f"{repository} has no {weights}.safetensors"
    pickles = [n for n in names if n.endswith((".bin", ".ckpt"))]
    if not pickles:
        return f"{missing}: only safetensors of that name are loaded; use a model that has them."
    place = shlex.quote(repository.split("/")[-1])
    return (
        f"{missing} but {', '.join(pickles)}: only safetensors are loaded; fetch it with `hf "
        f"download {repository} --local-dir {place}`, convert it with "
        f"`{convert_command(place)}`, and give that."
    )


def of_listing(repository, names):
    """Why a repository cannot be used, from the names of its files alone; None if it may be."""
    folders = {name.split("/")[0] for name in names if "/" in name}
    if "model_index.json" not in names:
        files = [n for n in names if n.endswith((".safetensors", ".ckpt")) and "/" not in n]
        if files:
            place = shlex.quote(repository.split("/")[-1])
            return (
                f"{repository} has no model_index.json but single files: fetch one with `hf "
                f"download {repository} {shlex.quote(files[0])} --local-dir {place}`, then "
                f"`{convert_command(f'{place}/{files[0]}')}`, and give that."
            )
        return f"{repository} has no model_index.json: it is not a model in the diffusers layout."
    if "text_encoder_2" in folders:
        refiner = "text_encoder" not in folders
        kind = "Stable Diffusion 3" if "transformer" in folders else "Stable Diffusion XL"
        return unsupported(repository, f"the refiner of {kind}" if refiner else kind)
    if "transformer" in folders and "unet" not in folders:
        return unsupported(repository, "a diffusion transformer")
    return None


def _kind_of_tensors(path):
    """What a safetensors file holds by the names in its header; None if it may be supported."""
    try:
        with open(path, "rb") as handle:
            size = int.from_bytes(handle.read(8), "little")
            header = json.loads(handle.read(size)) if size <= HEADER_BYTES else {}
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(header, dict):
        return None
    for pattern, kind in TENSORS:
        if any(re.search(pattern, name) for name in header):
            return kind
    first = header.get(FIRST_CONVOLUTION)
    shape = first.get("shape") if isinstance(first, dict) else None
    return INPUTS.get(shape[1]) if isinstance(shape, list) and len(shape) == 4 else None
