"""What a file is and holds, from its header alone."""

import json
from collections import Counter
from pathlib import Path

from diffedit_core.errors import InputError

from . import additions, infer
from .sources import COMPONENTS, open_source, read_folder_configs
from .tensors import SIZES

KINDS = {
    "original": "Stable Diffusion in the original layout",
    "mindone": "Stable Diffusion in mindone's layout",
    "component": "one part of a model in the diffusers layout",
    "embedding": "a textual-inversion embedding",
    None: "tensors of another kind",
}


def inspect(path, variant=None):
    """Lines that say what a path holds. Raises InputError for what cannot be read."""
    source = open_source(Path(path), variant)
    size = sum(file.stat().st_size for file in source.files)
    dtypes = Counter()
    for _, stored in source.tensors:
        dtypes[stored.dtype] += stored.count
    numbers = ", ".join(
        f"{number:,} {dtype} ({number * SIZES[dtype] / 1e6:,.1f} MB)"
        for dtype, number in dtypes.most_common()
    )
    lines = [
        f"{source.path}: {source.format}, {len(source.files)} file{'s' * (len(source.files) != 1)}, {size / 1e6:,.1f} MB",
        f"{len(source.tensors)} tensors: {numbers}",
    ]
    if source.format == "diffusers":
        return lines + _folder(source)
    kind = infer.kind(source.tensors)
    lines.append(additions.describe(source.tensors) if kind == "lora" else KINDS[kind])
    if kind in ("original", "mindone"):
        lines += _model(source, kind)
    shown = {name: value for name, value in source.extras.items() if value}
    return lines + [
        f"also: {name} = {json.dumps(value, default=str)[:200]}" for name, value in shown.items()
    ]


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
    shapes, open_clip = infer.Shapes(source.tensors), kind == "mindone" or infer.uses_open_clip(
        source.tensors
    )
    lines = []
    for name, ask in (
        ("unet", lambda: infer.unet(shapes)),
        ("vae", lambda: infer.vae(shapes)),
        ("text_encoder", lambda: infer.text(shapes, open_clip, infer.text_layers(shapes))),
    ):
        try:
            told = ask()
            keys = (
                "block_out_channels",
                "cross_attention_dim",
                "use_linear_projection",
                "latent_channels",
                "hidden_size",
                "num_hidden_layers",
                "vocab_size",
            )
            lines.append(
                f"{name}: " + ", ".join(f"{key} {told[key]}" for key in keys if key in told)
            )
        except InputError as error:
            lines.append(f"{name}: {error}")
    averages = sum(key.startswith("model_ema.diffusion_model") for key, _ in source.tensors)
    if kind == "original" and open_clip and infer.file_layers(source.tensors)[1]:
        lines.append("text encoder: OpenCLIP as released; its last layer is left out")
    return lines + ([f"averaged weights: {averages} tensors (--ema)"] if averages else [])
