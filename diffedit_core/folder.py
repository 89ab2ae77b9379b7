"""A model folder in the public layout: its configurations, and whether all of it fits together."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from . import clip, params, recognise, tokenizer, unet, vae
from .config import SchedulerConfig, TextConfig, UNetConfig, VAEConfig
from .errors import InputError
from .hub import WEIGHTS, choose_weights, find
from .limits import known_words
from .settings import is_lfs_pointer, lfs_sentence, read_index, read_json

# the small model that ships with the package
ORCHARD = Path(__file__).parent / "assets" / "orchard"

# component -> (config class, config file, base name of the weights, leaves)
COMPONENTS = {
    "text_encoder": (TextConfig, "config.json", WEIGHTS["text_encoder"], clip.specs),
    "unet": (UNetConfig, "config.json", WEIGHTS["unet"], unet.specs),
    "vae": (VAEConfig, "config.json", WEIGHTS["vae"], vae.specs),
}


@dataclass(frozen=True)
class Configs:
    """The four configurations of a model folder."""

    text: TextConfig
    unet: UNetConfig
    vae: VAEConfig
    scheduler: SchedulerConfig

    @property
    def parts(self):
        """component -> configuration, of the components that have weights."""
        return {"text_encoder": self.text, "unet": self.unet, "vae": self.vae}

    def specs(self, component):
        """The tree of the parameters of a component, `params.Leaf`."""
        return COMPONENTS[component][3](self.parts[component])

    @property
    def latent_channels(self):
        return self.unet.in_channels

    @property
    def picture_size(self):
        """The side of the pictures that the model was trained on, in pixels."""
        return (
            self.unet.sample_size * self.vae.factor
            if self.unet.sample_size
            else self.vae.sample_size
        )


class Found(NamedTuple):
    """A model folder whose files are all there and fit together; no weights are read yet."""

    path: Path
    configs: Configs
    tokenizer: tokenizer.Tokenizer
    files: dict  # component -> paths of its safetensors


def check(source, half=False, **place):
    """Find a model and check all of it but the values of its weights, from their headers.

    Args:
        source: folder or repository id.
        half: see `choose_weights`.
        place: `revision`, `cache_dir`, `local_files_only` of `find`.
    Returns:
        `Found`, which `Model.load` takes in place of the source.
    Raises:
        InputError: anything is missing, malformed, unknown, or does not fit together.
    """
    folder = find(source, half, **place)
    configs = read_configs(folder)
    found = tokenizer.load(folder / "tokenizer")
    if found.max_length > configs.text.max_position_embeddings:
        raise InputError(
            f"{folder}: the tokenizer gives {found.max_length} tokens, the text encoder has "
            f"{configs.text.max_position_embeddings} positions: the components are of different "
            "models."
        )
    largest = max(found.library.get_vocab().values())
    if largest >= configs.text.vocab_size:
        raise InputError(
            f"{folder}: the tokenizer gives ids up to {largest}, the text encoder's 'vocab_size' "
            f"is {configs.text.vocab_size}: the components are of different models."
        )
    files = {
        component: weight_files(folder / component, base, half)
        for component, (_, _, base, _) in COMPONENTS.items()
    }
    for component, paths in files.items():
        params.check(paths, configs.specs(component))
    return Found(folder, configs, found, files)


def weight_files(folder, base, half=False):
    """Paths of a component's safetensors; an index is read, and may name files of its own folder
    only."""
    if not folder.is_dir():
        raise InputError(
            f"{folder} is missing: the model folder is not complete, copy or download it again."
        )
    names = sorted(p.name for p in folder.iterdir())
    chosen = choose_weights(names, base, half)
    if chosen is None:
        raise InputError(recognise.of_weights(folder, base, names))
    if chosen[0].endswith(".json"):
        chosen = list(read_index(folder / chosen[0]))
    for name in chosen:
        if is_lfs_pointer(folder / name):
            raise InputError(lfs_sentence(folder / name))
    return [folder / name for name in chosen]


def read_configs(folder):
    """The configurations of a model folder. Raises InputError for what is missing, unknown or not
    honoured."""
    file = folder / "model_index.json"
    index = read_json(file)
    if isinstance(index, dict):
        unet = folder / "unet" / "config.json"
        kind = recognise.of_index(index, read_json(unet) if unet.is_file() else None)
        if kind is not None:
            raise InputError(recognise.unsupported(folder, kind))
    for component in (*COMPONENTS, "tokenizer", "scheduler"):
        listed = index.get(component) if isinstance(index, dict) else None
        if not isinstance(listed, list) or not listed or listed[0] is None:
            raise InputError(f"{file} lists no {component}: it is not a Stable Diffusion model.")
    read = {
        c: cls.read(read_json(folder / c / name), str(folder / c / name))
        for c, (cls, name, _, _) in COMPONENTS.items()
    }
    file = folder / "scheduler" / "scheduler_config.json"
    configs = Configs(
        read["text_encoder"],
        read["unet"],
        read["vae"],
        SchedulerConfig.read(read_json(file), str(file)),
    )
    _check_fit(folder, configs)
    return configs


def _check_fit(folder, configs):
    """Raises InputError where the components are not of one model."""
    text, unet, vae_ = configs.text, configs.unet, configs.vae
    if unet.cross_attention_dim != text.hidden_size:
        raise InputError(
            f"{folder}: the UNet's 'cross_attention_dim' {unet.cross_attention_dim} is not the "
            f"text encoder's 'hidden_size' {text.hidden_size}: the components are of different "
            "models."
        )
    if not unet.in_channels == unet.out_channels == vae_.latent_channels:
        raise InputError(
            f"{folder}: the UNet maps {unet.in_channels} to {unet.out_channels} channels, the "
            f"VAE's latents have {vae_.latent_channels}: inpainting and other variants are not "
            "supported."
        )


def describe(source):
    """What a model folder holds, without reading its weights: a dict for `diffedit info`.

    "knows" is a line on what the model was trained on, None where its folder does not say.
    """
    found = check(source)
    return {
        "folder": str(found.path),
        "parameters": {c: params.count(found.configs.specs(c)) for c in COMPONENTS},
        "files": {c: [path.name for path in paths] for c, paths in found.files.items()},
        "prediction_type": found.configs.scheduler.prediction_type,
        "picture_size": found.configs.picture_size,
        "configs": found.configs,
        "knows": (known_words(found.path) or {}).get("about"),
        "index": json.dumps(read_json(found.path / "model_index.json")),
    }
