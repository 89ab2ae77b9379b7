"""A model folder in the public layout: its configurations, and which of its files are read."""

import re
from dataclasses import dataclass
from pathlib import Path

from . import clip, recognise, unet, vae
from .config import SchedulerConfig, TextConfig, UNetConfig, VAEConfig
from .errors import InputError
from .settings import is_lfs_pointer, lfs_sentence, read_index, read_json

# the small model that ships with the package
ORCHARD = Path(__file__).parent / "assets" / "orchard"

# component -> (config class, config file, base name of the weights, leaves)
COMPONENTS = {
    "text_encoder": (TextConfig, "config.json", "model", clip.specs),
    "unet": (UNetConfig, "config.json", "diffusion_pytorch_model", unet.specs),
    "vae": (VAEConfig, "config.json", "diffusion_pytorch_model", vae.specs),
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


def choose_weights(names, base, half):
    """The weight files to read among the names of a component's folder, an index first; None if
    there are none.

    `half` prefers the fp16 variant to the plain files; either way it takes what there is.
    """
    names = set(names)
    for variant in ("fp16", "") if half else ("", "fp16"):
        dot = f".{variant}" if variant else ""
        single, index = f"{base}{dot}.safetensors", f"{base}.safetensors.index{dot}.json"
        if index in names:
            shards = sorted(
                n
                for n in names
                if re.fullmatch(rf"{re.escape(base + dot)}-\d+-of-\d+\.safetensors", n)
            )
            return [index, *shards]
        if single in names:
            return [single]
    return None


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
    index, mappings = read_json(file), {}
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
