"""What a path holds: a folder in the diffusers layout, or one file of any of three formats, told
apart by content."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from diffedit_core.settings import read_index, read_json
from diffedit_core.errors import InputError

from . import mindspore_ckpt, safetensors_file, torch_zip

COMPONENTS = ("text_encoder", "unet", "vae")
# base names of a component's weights, the preferred first; PyTorch's text encoder is called
# otherwise
BASES = {
    "text_encoder": (("model", "safetensors"), ("pytorch_model", "bin")),
    "unet": (("diffusion_pytorch_model", "safetensors"), ("diffusion_pytorch_model", "bin")),
    "vae": (("diffusion_pytorch_model", "safetensors"), ("diffusion_pytorch_model", "bin")),
}
TOKENIZER = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


@dataclass
class Source:
    """A source with its headers read.

    Attributes:
        path: as it was given.
        format: "diffusers", "safetensors", "PyTorch" or "MindSpore".
        files: the files whose bytes the tensors are.
        tensors: [(key, Stored)], as often as the files name them.
        checks: {file: [(offset, bytes, CRC-32)]} that the files bring along.
        beside: [(path, Stored)] of a PyTorch file's tensors that are not among its weights.
        objects: {path: name} of what a PyTorch file holds of other programs.
        extras: what else a file holds beside its tensors.
    """

    path: Path
    format: str
    files: list
    tensors: list
    checks: dict = field(default_factory=dict)
    beside: list = field(default_factory=list)
    objects: dict = field(default_factory=dict)
    extras: dict = field(default_factory=dict)


def open_source(path, variant=None):
    """Read the headers of a model folder or file.

    Args:
        path: a folder in the diffusers layout, or a file.
        variant: of a folder's files, such as "fp16".
    Raises:
        InputError: there is nothing, or it is none of the known formats, or it is not complete.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _folder(path, variant)
    if variant:
        raise InputError(
            f"{path} is one file: --variant {variant} chooses among the files of a folder."
        )
    return open_file(path)


def open_file(path):
    """Read the header of one file, whatever its name ends with."""
    path = Path(path).expanduser()
    try:
        if not path.is_file():
            raise InputError(f"There is no file {path}: give a model folder or a file that exists.")
        with open(path, "rb") as file:
            start = file.read(64)
        size = path.stat().st_size
        if torch_zip.looks_like(start, size):
            found, checks = torch_zip.read(path)
            return Source(path, "PyTorch", [path], checks={path: checks}, **found._asdict())
        if safetensors_file.looks_like(start, size):
            tensors, metadata = safetensors_file.read(path)
            return Source(path, "safetensors", [path], tensors, extras={"metadata": metadata})
        if mindspore_ckpt.looks_like(start, size):
            tensors, checks = mindspore_ckpt.read(path)
            return Source(path, "MindSpore", [path], tensors, {path: checks})
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror or error}): check that it exists and is "
            "yours to read."
        ) from None
    if start[:2] == b"\x80\x02":
        raise InputError(
            f"{path} is a pickle of PyTorch before 1.6: use the safetensors file of the same model."
        )
    raise InputError(
        f"{path} is neither safetensors, nor a PyTorch zip file, nor a MindSpore checkpoint: "
        "copy or download it again."
    )


def _folder(path, variant):
    if not (path / "model_index.json").is_file():
        raise InputError(
            f"{path} has no model_index.json: give the top folder of a model in the diffusers "
            "layout, or a file."
        )
    source = Source(path, "diffusers", [], [])
    for component in COMPONENTS:
        for file, listed in component_files(path / component, component, variant):
            opened = open_file(file)
            source.files.append(file)
            source.checks.update(opened.checks)
            for own, more in ((source.tensors, opened.tensors), (source.beside, opened.beside)):
                own += [(f"{component}/{key}", stored) for key, stored in more]
            source.objects |= {f"{component}/{path}": o for path, o in opened.objects.items()}
            if listed is not None:
                _agrees(file, listed, {key for key, _ in opened.tensors})
    return source


def _agrees(file, listed, held):
    """Whether a shard holds what its index says."""
    wrong = sorted(listed ^ held)
    if wrong:
        raise InputError(
            f"{file} and its index disagree about {', '.join(map(repr, wrong))}: copy or download "
            "both again."
        )


def component_files(folder, component, variant=None):
    """[(file, keys that an index says are in it, or None)] of a component's weights. An index may
    name its own folder only."""
    if not folder.is_dir():
        raise InputError(
            f"{folder} is missing: the model folder is not complete, copy or download it again."
        )
    dot = f".{variant}" if variant else ""
    for base, ending in BASES[component]:
        index, single = (
            folder / f"{base}.{ending}.index{dot}.json",
            folder / f"{base}{dot}.{ending}",
        )
        if index.is_file():
            return [(folder / name, keys) for name, keys in read_index(index).items()]
        if single.is_file():
            return [(single, None)]
    if variant is None and (fp16 := component_files_or_none(folder, component, "fp16")):
        return fp16
    wanted = " or ".join(f"{base}{dot}.{ending}" for base, ending in BASES[component])
    raise InputError(
        f"{folder} has no {wanted}: copy or download it again"
        + (", or leave out --variant." if variant else ".")
    )


def component_files_or_none(folder, component, variant):
    """The same, or None."""
    try:
        return component_files(folder, component, variant)
    except InputError:
        return None


def read_mapping(path):
    """A JSON file whose content is an object."""
    mapping = read_json(path)
    if not isinstance(mapping, dict):
        raise InputError(f"{path} holds no JSON object: copy or download it again.")
    return mapping


def read_folder_configs(folder):
    """{component or "scheduler": mapping} of a model folder, as its JSON files say."""
    files = {
        **{c: f"{c}/config.json" for c in COMPONENTS},
        "scheduler": "scheduler/scheduler_config.json",
    }
    return {name: read_mapping(folder / file) for name, file in files.items()}


def read_tokenizer(folder):
    """{file name: content} of a model's tokenizer folder."""
    place = folder / "tokenizer"
    try:
        found = {
            name: (place / name).read_bytes() for name in TOKENIZER if (place / name).is_file()
        }
    except OSError as error:
        raise InputError(
            f"{place} cannot be read ({error.strerror or error}): copy it from the model's release."
        ) from None
    if "tokenizer_config.json" not in found or not (
        {"vocab.json", "merges.txt"} <= set(found) or "tokenizer.json" in found
    ):
        raise InputError(
            f"{place} has no tokenizer_config.json, or no vocab.json with merges.txt: copy it "
            "from the model's release."
        )
    return found


def to_json(mapping):
    """A mapping as the bytes of a JSON file."""
    return (json.dumps(mapping, indent=2, ensure_ascii=False) + "\n").encode()
