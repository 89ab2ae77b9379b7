"""What a file is and holds, from its header alone."""

import json
from collections import Counter
from pathlib import Path

from diffedit_core.errors import InputError

from . import infer, low_rank
from .sources import COMPONENTS, open_source, read_folder_configs
from .tensors import SIZES
from .unpickled import describe, label

KINDS = {
    "original": "Stable Diffusion in the original layout",
    "mindone": "Stable Diffusion in mindone's layout",
    "component": "one part of a model in the diffusers layout",
    "embedding": "a textual-inversion embedding",
    None: "tensors of another kind",
}
TOLD = (
    "block_out_channels",
    "cross_attention_dim",
    "use_linear_projection",
    "latent_channels",
    "hidden_size",
    "num_hidden_layers",
    "vocab_size",
)


def inspect(path, variant=None, keys=False):
    """Lines that say what a path holds.

    Args:
        path: a model folder or a file.
        variant: of a folder's files, such as "fp16".
        keys: also one line for each tensor.
    Raises:
        InputError: it cannot be read.
    """
    source = open_source(Path(path), variant)
    size, files = sum(file.stat().st_size for file in source.files), len(source.files)
    lines = [
        f"{source.path}: {source.format}, {files} file{'s' * (files != 1)}, {size / 1e6:,.1f} MB",
        f"{len(source.tensors)} tensors: {_dtypes(source)}",
    ]
    if source.format == "diffusers":
        lines += _folder(source)
    else:
        kind = infer.kind_of(source)
        lines.append(low_rank.describe(source.tensors) if kind == "lora" else KINDS[kind])
        if kind in ("original", "mindone"):
            lines += _model(source, kind)
        lines += _beside(source)
    if keys:
        for key, stored in (*source.tensors, *source.beside):
            lines.append(f"{key} {stored.dtype} {list(stored.shape)}")
    return lines


def _dtypes(source):
    """How many numbers of which dtypes."""
    dtypes = Counter()
    for _, stored in source.tensors:
        dtypes[stored.dtype] += stored.count
    return ", ".join(
        f"{number:,} {dtype} ({number * SIZES[dtype] / 1e6:,.1f} MB)"
        for dtype, number in dtypes.most_common()
    )


def _beside(source):
    """What is beside the weights."""
    lines = []
    if source.format == "safetensors":
        metadata = json.dumps(source.extras["metadata"])
        return [f"also: metadata = {metadata[:200]}"] if source.extras["metadata"] else []
    for name, value in source.extras.items():
        if value:
            lines.append(f"also: {label(name)} = {describe(value)}")
    if source.beside:
        lines.append(f"also: {len(source.beside)} tensors that are not among the weights")
    names = Counter(source.objects.values())
    return lines + [f"also: {n} of {name}, not loaded" for name, n in names.most_common()]


def _folder(source):
    sizes = {
        c: sum(stored.count for key, stored in source.tensors if key.startswith(c + "/"))
        for c in COMPONENTS
    }
    parts = [f"{component}: {size:,} numbers" for component, size in sizes.items()]
    configs = read_folder_configs(source.path)
    return parts + [f"prediction type: {configs['scheduler'].get('prediction_type', 'epsilon')}"]


def _model(source, kind):
    """The configuration that the shapes tell, as far as they do."""
    shapes = infer.Shapes(source.tensors)
    open_clip = kind == "mindone" or infer.uses_open_clip(source.tensors)
    lines = []
    for name, ask in (
        ("unet", lambda: infer.unet(shapes)),
        ("vae", lambda: infer.vae(shapes)),
        ("text_encoder", lambda: infer.text(shapes, open_clip, infer.text_layers(shapes))),
    ):
        try:
            told = ask()
            shown = ", ".join(f"{key} {told[key]}" for key in TOLD if key in told)
            lines.append(f"{name}: {shown}")
        except InputError as error:
            lines.append(f"{name}: {error}")
    averages = sum(key.startswith("model_ema.diffusion_model") for key, _ in source.tensors)
    if kind == "original" and open_clip and infer.file_layers(source.tensors)[1]:
        lines.append("text encoder: OpenCLIP as released; its last layer is left out")
    return lines + ([f"averaged weights: {averages} tensors (--ema)"] if averages else [])
