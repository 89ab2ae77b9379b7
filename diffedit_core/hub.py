"""A model folder in the public layout: found, fetched, its files chosen, checked and described."""

import contextlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from . import clip, params, unet, vae
from .config import SchedulerConfig, TextConfig, UNetConfig, VAEConfig
from .errors import InputError
from .settings import read_index, read_json

# the small model that ships with the package
ORCHARD = Path(__file__).parent / "assets" / "orchard"

# component -> (config class, config file, base name of the weights, leaves)
COMPONENTS = {
    "text_encoder": (TextConfig, "config.json", "model", clip.specs),
    "unet": (UNetConfig, "config.json", "diffusion_pytorch_model", unet.specs),
    "vae": (VAEConfig, "config.json", "diffusion_pytorch_model", vae.specs),
}

TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)


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


def find(source, half=False):
    """The local folder of a model: `source` itself, or a repository id of the hub, fetched
    (`choose_weights` for `half`).

    Raises:
        InputError: there is no such folder, or the repository cannot be had.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise InputError(
                f"{path} has no model_index.json: give the top folder of a model in the diffusers "
                "layout."
            )
        return path
    if path.is_file():
        raise InputError(
            f"{path} is a file: a model is a folder in the diffusers layout, with a "
            "model_index.json."
        )
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and not str(source).startswith("."):
        return _fetch(str(source), half)
    raise InputError(
        f"There is no model folder {source}: give an existing folder, or a repository id such as "
        "owner/name."
    )


def _fetch(repository, half):
    """Only the files that are needed: configs, tokenizer, and one set of safetensors for each
    component."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

    try:
        names = HfApi().list_repo_files(repository)
        wanted = needed_files(names, half)
        return Path(snapshot_download(repository, allow_patterns=wanted))
    except (RepositoryNotFoundError, EntryNotFoundError) as error:
        raise InputError(
            f"The hub has no public model {repository} ({type(error).__name__}): check the name, "
            "or log "
            "in."
        ) from None
    except InputError:
        raise
    except (
        Exception
    ) as error:  # no network, a proxy's answer, a time-out: each client has exceptions of its own
        with contextlib.suppress(Exception):
            return Path(snapshot_download(repository, local_files_only=True))
        raise InputError(
            f"{repository} is neither a folder nor in the local cache, and the hub cannot be "
            "reached "
            f"({type(error).__name__}): download the model where there is a network and give its "
            "folder."
        ) from None


def needed_files(names, half):
    """Of all file names of a repository, those that a model needs. Raises InputError where a
    component has none."""
    wanted = [
        n
        for n in names
        if n == "model_index.json"
        or n == "scheduler/scheduler_config.json"
        or n.startswith("tokenizer/")
        and n.split("/")[-1] in TOKENIZER_FILES
    ]
    for component, (_, config, base, _) in COMPONENTS.items():
        own = [n[len(component) + 1 :] for n in names if n.startswith(component + "/")]
        chosen = choose_weights(own, base, half)
        if chosen is None:
            raise InputError(
                f"The model has no {base}*.safetensors in {component}/: only safetensors are "
                "loaded."
            )
        wanted += [f"{component}/{n}" for n in (config, *chosen)]
    return wanted


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
    chosen = choose_weights([p.name for p in folder.iterdir()], base, half)
    if chosen is None:
        others = sorted(
            p.name for p in folder.iterdir() if p.suffix in (".bin", ".ckpt", ".msgpack")
        )
        instead = f" (there is {', '.join(others)}, which is not)" if others else ""
        raise InputError(
            f"{folder} has no {base}.safetensors{instead}: only safetensors are loaded."
        )
    if not chosen[0].endswith(".json"):
        return [folder / chosen[0]]
    return [folder / name for name in read_index(folder / chosen[0])]


def read_configs(folder):
    """The configurations of a model folder. Raises InputError for what is missing, unknown or not
    honoured."""
    index = read_json(folder / "model_index.json")
    for component in (*COMPONENTS, "tokenizer", "scheduler"):
        listed = index.get(component) if isinstance(index, dict) else None
        if not isinstance(listed, list) or not listed or listed[0] is None:
            raise InputError(
                f"{folder / 'model_index.json'} lists no {component}: it is not a Stable "
                "Diffusion model."
            )
    read = {
        c: cls.read(read_json(folder / c / file), str(folder / c / file))
        for c, (cls, file, _, _) in COMPONENTS.items()
    }
    file = folder / "scheduler" / "scheduler_config.json"
    configs = Configs(
        read["text_encoder"],
        read["unet"],
        read["vae"],
        SchedulerConfig.read(read_json(file), str(file)),
    )
    if configs.unet.cross_attention_dim != configs.text.hidden_size:
        raise InputError(
            f"{folder}: the UNet's 'cross_attention_dim' {configs.unet.cross_attention_dim} is "
            "not the text "
            f"encoder's 'hidden_size' {configs.text.hidden_size}: the components are of different "
            "models."
        )
    if (
        configs.unet.in_channels != configs.vae.latent_channels
        or configs.unet.out_channels != configs.vae.latent_channels
    ):
        raise InputError(
            f"{folder}: the UNet maps {configs.unet.in_channels} to {configs.unet.out_channels} "
            "channels, the VAE's "
            f"latents have {configs.vae.latent_channels}: inpainting and other variants are not "
            "supported."
        )
    return configs


def describe(source):
    """What a model folder holds, without reading its weights: a dict for `diffedit info`."""
    folder = find(source)
    configs = read_configs(folder)
    return {
        "folder": str(folder),
        "parameters": {c: params.count(configs.specs(c)) for c in COMPONENTS},
        "files": {
            c: [p.name for p in weight_files(folder / c, base)]
            for c, (_, _, base, _) in COMPONENTS.items()
        },
        "prediction_type": configs.scheduler.prediction_type,
        "picture_size": configs.picture_size,
        "configs": configs,
        "index": json.dumps(read_json(folder / "model_index.json")),
    }
