"""What `from_pretrained` takes: which files of which model, in which dtype; each other argument of
the public one works, changes nothing, or is refused by name."""

import os
from pathlib import Path

from .errors import InputError
from .foreign import shown
from .hub import fetch, needed_files
from .model import Model
from .pipeline_checks import check, warn

DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "half": "fp16", "float": "fp32"}
HUB = ("revision", "cache_dir", "local_files_only", "token", "force_download")

# arguments that choose how the public libraries do what here is done in one way
HARMLESS = {
    "device_map": "the model is loaded onto MindSpore's device",
    "max_memory": "the model is loaded onto MindSpore's device",
    "low_cpu_mem_usage": "weights are always read one by one",
    "offload_folder": "nothing is offloaded to a disk",
    "offload_state_dict": "nothing is offloaded to a disk",
    "resume_download": "downloads are always resumed",
    "add_watermarker": "no watermark is ever added",
}
COMPONENTS = ("vae", "text_encoder", "tokenizer", "unet")
REFUSED = {
    "safety_checker": "there is no safety checker to give to this pipeline: pass None",
    "feature_extractor": "there is no safety checker to give to this pipeline: pass None",
    "image_encoder": "this pipeline takes no picture prompts: leave it out",
    "custom_pipeline": "no code of other pipelines is run: leave it out",
    "custom_revision": "no code of other pipelines is run: leave it out",
    "trust_remote_code": "no code of a model's folder is run: leave it out",
    "use_onnx": "only safetensors are loaded: leave it out",
    "provider": "MindSpore chooses the device: leave it out",
    "quantization_config": "weights are not quantised: choose a torch_dtype",
    "proxies": "set the environment variables HTTP_PROXY and HTTPS_PROXY instead",
    "mirror": "set the environment variable HF_ENDPOINT instead",
    "output_loading_info": "problems of loading are raised as errors: leave it out",
} | {
    name: f"a component cannot be given by itself: put its files into {name}/ of a model folder"
    for name in COMPONENTS
}
UNNEEDED = (None, False)  # of REFUSED: what asks for nothing


def load_model(name, dtypes, use_safetensors, variant, kernels, others):
    """`model.Model` for the arguments of `from_pretrained`.

    Args:
        dtypes: mindspore_dtype and torch_dtype.
        others: the remaining arguments by name.
    """
    check(
        "use_safetensors",
        use_safetensors,
        use_safetensors is None or use_safetensors is True,
        "True or None",
    )
    check(
        "variant",
        variant,
        variant is None or isinstance(variant, str) and variant == "fp16",
        "None or 'fp16'",
    )
    check("kernels", kernels, kernels is None or isinstance(kernels, str), "a name, or None")
    dtype = _dtype(*dtypes)
    hub = _sorted_out(others)
    subfolder = hub.pop("subfolder", None)
    half = "fp16" in (dtype, variant)
    source = _source(name, subfolder, hub, lambda names: needed_files(names, half))
    return Model.load(source, dtype, kernels, variant=variant)


def dtype_name(value):
    """ "fp32", "fp16" or "bf16" of a dtype of MindSpore, numpy or PyTorch or of its name, or the
    name as it is."""
    name = value.__name__ if isinstance(value, type) else str(value)
    name = name.lower().rsplit(".", 1)[-1]
    return DTYPES.get(name, name)


def _dtype(mindspore_dtype, torch_dtype):
    given = [
        d
        for d in (mindspore_dtype, torch_dtype)
        if d is not None and not (isinstance(d, str) and d == "auto")
    ]
    names = [dtype_name(d) for d in given] or ["fp32"]
    same = len(set(names)) == 1
    wanted = f"left out, or the same as mindspore_dtype {shown(mindspore_dtype)}"
    check("torch_dtype", torch_dtype, same, wanted)
    known = "float32, float16 or bfloat16"
    argument = "torch_dtype" if mindspore_dtype is None else "mindspore_dtype"
    check(argument, given[0] if given else None, names[0] in DTYPES.values(), known)
    return names[0]


def _sorted_out(others):
    """Of all further arguments, those that choose the files; the rest is refused, or said to change
    nothing."""
    chosen = {}
    for name, value in others.items():
        if name in HUB or name == "subfolder":
            chosen[name] = value
        elif name == "use_auth_token":  # the older name
            chosen["token"] = value
        elif name in HARMLESS:
            if value is not None:
                warn(f"{name} has no effect: {HARMLESS[name]}.")
        elif name in REFUSED:
            unneeded = any(value is nothing for nothing in UNNEEDED)
            if not unneeded:
                raise InputError(f"{name} is {shown(value)}, but {REFUSED[name]}.")
        else:
            raise TypeError(
                f"from_pretrained has no argument {name!r}: leave it out, or see its help."
            )
    return chosen


def _source(name, subfolder, hub, wanted):
    """The folder or repository id to load; with options of the hub, the fetched folder."""
    _check_name("pretrained_model_name_or_path", name)
    if subfolder is not None:
        _check_name("subfolder", subfolder)
        folder = Path(name).expanduser() / subfolder
        check("subfolder", str(subfolder), folder.is_dir(), f"a folder in {name}")
        return folder
    given = {k: v for k, v in hub.items() if v is not None and v is not False}
    if not given or Path(name).expanduser().exists():
        return name  # the model finds it; a folder needs no options of the hub
    return fetch(str(name), wanted, **_checked(hub))


def _check_name(argument, name):
    good = isinstance(name, (str, os.PathLike)) and str(name) and "\0" not in str(name)
    check(argument, name, good, "a folder, or a repository id such as owner/name")


def _checked(hub):
    for name in ("revision", "cache_dir"):
        value = hub.get(name)
        check(name, value, value is None or isinstance(value, (str, os.PathLike)), "a name")
    for name in ("local_files_only", "force_download"):
        check(
            name,
            hub.get(name),
            hub.get(name) is None or isinstance(hub[name], bool),
            "True or False",
        )
    token = hub.get("token")
    check("token", type(token), token is None or isinstance(token, (str, bool)), "a string")
    return {k: v for k, v in hub.items() if v is not None}


def scheduler_file(name, subfolder, others):
    """The path of scheduler_config.json in a folder or in a repository of the hub."""
    hub = _sorted_out(others)
    if subfolder is not None:
        _check_name("subfolder", subfolder)
    _check_name("pretrained_model_name_or_path", name)
    below = Path(subfolder or ".") / "scheduler_config.json"
    folder = Path(name).expanduser()
    if not folder.is_dir() and str(name).count("/") == 1 and not str(name).startswith((".", "/")):
        folder = fetch(str(name), lambda names: [below.as_posix()], **_checked(hub))
    if not (folder / below).is_file():
        remedy = "give a model's folder"
        if subfolder is None and (folder / "scheduler" / below).is_file():
            remedy = "add subfolder='scheduler'"
        raise InputError(f"{folder / below} is missing: {remedy}.")
    return folder / below
