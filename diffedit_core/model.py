"""A model in the public layout: found, checked, loaded, and bound to compiled graphs."""

import contextlib
import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms
import numpy as np

from . import clip, kernels as K, params as P, tokenizer as T, unet, vae
from .config import SchedulerConfig, TextConfig, UNetConfig, VAEConfig, read_index, read_json
from .errors import InputError
from .graphs import Graph

# copies of the UNet's first level that a graph keeps: SD 2.1, 512x512, MindSpore 2.8 on a CPU
ACTIVATION_LAYERS = 330
VAE_LAYERS = 10  # the same of the VAE's
BASE_BYTES = 450 << 20  # MindSpore itself
ORCHARD = (
    Path(__file__).parent / "assets" / "orchard"
)  # the small model that ships with the package

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
                f"{path} has no model_index.json: give the top folder of a model in the diffusers layout."
            )
        return path
    if path.is_file():
        raise InputError(
            f"{path} is a file: a model is a folder in the diffusers layout, with a model_index.json."
        )
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and not str(source).startswith("."):
        return _fetch(str(source), half)
    raise InputError(
        f"There is no model folder {source}: give an existing folder, or a repository id such as owner/name."
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
            f"The hub has no public model {repository} ({type(error).__name__}): check the name, or log "
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
            f"{repository} is neither a folder nor in the local cache, and the hub cannot be reached "
            f"({type(error).__name__}): download the model where there is a network and give its folder."
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
                f"The model has no {base}*.safetensors in {component}/: only safetensors are loaded."
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
                f"{folder / 'model_index.json'} lists no {component}: it is not a Stable Diffusion model."
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
            f"{folder}: the UNet's 'cross_attention_dim' {configs.unet.cross_attention_dim} is not the text "
            f"encoder's 'hidden_size' {configs.text.hidden_size}: the components are of different models."
        )
    if (
        configs.unet.in_channels != configs.vae.latent_channels
        or configs.unet.out_channels != configs.vae.latent_channels
    ):
        raise InputError(
            f"{folder}: the UNet maps {configs.unet.in_channels} to {configs.unet.out_channels} channels, the VAE's "
            f"latents have {configs.vae.latent_channels}: inpainting and other variants are not supported."
        )
    return configs


class Model:
    """The loaded model: four compiled functions, the tokenizer, and the configurations. All tensors
    in and out are fp32.

    Attributes:
        configs: `Configs`.
        tokenizer: `tokenizer.Tokenizer`.
        graphs: {"text_encoder", "unet", "vae_encoder", "vae_decoder"} -> `Graph`.
        on_compile: None, or called with a text before a graph compiles and with "" after its first
            run.
        before_run: None, or called with the name and the parameters of a graph before it runs.
    """

    def __init__(self, configs, tokenizer, params, dtype="fp32", kernels=None):
        kernels = kernels or K.default_kernels()
        if kernels not in K.LOWERINGS:
            raise InputError(
                f"There are no kernels {kernels!r}: choose one of {', '.join(K.LOWERINGS)}."
            )
        warn_of_slow_convolution(kernels)
        self.configs, self.tokenizer, self.dtype, self.kernels = configs, tokenizer, dtype, kernels
        self.graphs = {
            "text_encoder": Graph(clip.apply, params["text_encoder"], configs.text, kernels),
            "unet": Graph(unet.apply, params["unet"], configs.unet, kernels),
            "vae_encoder": Graph(vae.encode, params["vae"], configs.vae, kernels),
            "vae_decoder": Graph(vae.decode, params["vae"], configs.vae, kernels),
        }
        self.on_compile = self.before_run = None

    @classmethod
    def load(cls, source=ORCHARD, dtype="fp32", kernels=None, on_component=None, variant=None):
        """Load a folder in the public layout, or a repository id.

        Args:
            source: folder or repository id.
            dtype: "fp32", "fp16" or "bf16", for the weights and the activations.
            kernels: a name of `kernels.LOWERINGS`; by default the device's.
            on_component: called with the name of each component before it is read.
            variant: "fp16" prefers the files of that name for any dtype; None does so for fp16
                only.
        Raises:
            InputError: anything is missing, malformed, unknown, or does not fit together.
        """
        if dtype not in P.DTYPES:
            raise InputError(f"The dtype is {dtype!r}: choose one of {', '.join(P.DTYPES)}.")
        if dtype == "bf16" and K.device() == "CPU":
            raise InputError("MindSpore has no bf16 convolution on a CPU: choose fp32 or fp16.")
        half = "fp16" in (dtype, variant)
        folder = find(source, half)
        configs = read_configs(folder)
        tokenizer = T.load(folder / "tokenizer")
        if tokenizer.max_length > configs.text.max_position_embeddings:
            raise InputError(
                f"{folder}: the tokenizer gives {tokenizer.max_length} tokens, the text encoder has "
                f"{configs.text.max_position_embeddings} positions: the components are of different models."
            )
        owners = {"text_encoder": configs.text, "unet": configs.unet, "vae": configs.vae}
        largest = max(tokenizer.library.get_vocab().values())
        if largest >= configs.text.vocab_size:
            raise InputError(
                f"{folder}: the tokenizer gives ids up to {largest}, the text encoder's 'vocab_size' is "
                f"{configs.text.vocab_size}: the components are of different models."
            )
        params = {}
        for component, (_, _, base, specs) in COMPONENTS.items():
            if on_component is not None:
                on_component(component)
            params[component] = P.load(
                weight_files(folder / component, base, half), specs(owners[component]), dtype
            )
        return cls(configs, tokenizer, params, dtype, kernels)

    def _run(self, name, *inputs):
        """Run a graph, announce its compilation, and refuse results that are not finite."""
        graph = self.graphs[name]
        if self.before_run is not None:
            self.before_run(name, graph.params)
        fresh = not graph.compiled_for(*inputs)
        if fresh and self.on_compile is not None:
            self.on_compile(f"compiling {name}")
        outputs = graph(*inputs)
        results = outputs if isinstance(outputs, tuple) else (outputs,)
        finite = all(
            np.isfinite((r.astype(ms.float32) if r.dtype == ms.bfloat16 else r).asnumpy()).all()
            for r in results
        )
        if fresh and self.on_compile is not None:
            self.on_compile("")
        if not finite:
            place = K.locate_nonfinite(graph.function, graph.params, inputs, graph.static)
            remedy = (
                "use --dtype fp32" if self.dtype != "fp32" else "check the weights and the inputs"
            )
            raise InputError(
                f"The {name} produced NaN or infinity in {self.dtype}, first {place}: {remedy}."
            )
        return outputs

    def _cast(self, x):
        return x.astype(P.DTYPES[self.dtype])

    def encode_prompts(self, texts, skip=0):
        """Texts -> encoder_hidden_states [B,77,D]; `skip` leaves out that many of the last layers
        (clip_skip).

        Raises InputError for a text that cannot be encoded.
        """
        ids = T.encode(self.tokenizer, list(texts))
        graph = self.graphs["text_encoder"]
        if skip:
            if not 0 < skip < self.configs.text.num_hidden_layers:
                raise InputError(
                    f"clip_skip is {skip}: the text encoder has {self.configs.text.num_hidden_layers} layers."
                )
            name = f"text_encoder without {skip}"
            config = graph.static[0].without_last(skip)
            self.graphs.setdefault(name, Graph(clip.apply, graph.params, config, self.kernels))
        else:
            name = "text_encoder"
        rows = [
            self._run(name, ms.Tensor(row[None])) for row in ids
        ]  # one by one: a single graph for any number
        return ms.ops.concat(rows, 0).astype(ms.float32)

    def predict(self, latents, timestep, encoder_hidden_states):
        """The UNet's raw prediction for latents [B,4,h,w] that are all at one timestep ->
        [B,4,h,w].

        The batch runs in parts where the device gains nothing from a large one: less memory, and
        fewer graphs.
        """
        timesteps = ms.Tensor(np.array([timestep], np.int32))
        latents, states = self._cast(latents), self._cast(encoder_hidden_states)
        rows = K.rows_at_once(self.kernels, latents.shape[0], latents.shape[2] * latents.shape[3])
        parts = [
            self._run("unet", latents[i : i + rows], timesteps, states[i : i + rows])
            for i in range(0, latents.shape[0], rows)
        ]
        return ms.ops.concat(parts).astype(ms.float32)

    def encode_image(self, image, tiling=None):
        """Picture [B,3,H,W] in [-1,1] -> (mean, log_variance) of its unscaled latents, [B,4,h,w]
        each.

        Each picture is encoded by itself, so that one graph serves every batch. With `tiling`
        (`vae.Tiling`), in tiles.
        """
        image = np.asarray(image, np.float32)
        moments = [
            vae.encode_tiled(self._encode, row[None], self.configs.vae.factor, tiling)
            for row in image
        ]
        mean, log_variance = [ms.Tensor(np.concatenate(m)) for m in zip(*moments)]
        return mean, log_variance

    def latents(self, moments, noise=None):
        """Scaled latents from `encode_image`'s moments: the posterior's mean, or a sample with
        `noise` of the same shape."""
        mean, log_variance = moments
        drawn = (
            mean
            if noise is None
            else vae.sample(mean, log_variance, ms.Tensor(np.asarray(noise, np.float32)))
        )
        return drawn * self.configs.vae.scaling_factor

    def _encode(self, image):
        mean, log_variance = self._run("vae_encoder", self._cast(ms.Tensor(image)))
        return mean.astype(ms.float32).asnumpy(), log_variance.astype(ms.float32).asnumpy()

    def decode_latents(self, latents, tiling=None):
        """Scaled latents [B,4,h,w] -> picture [B,3,H,W] as numpy float32, about [-1,1], one at a
        time."""
        latents = latents.asnumpy() / self.configs.vae.scaling_factor
        return np.concatenate(
            [
                vae.decode_tiled(self._decode, row[None], self.configs.vae.factor, tiling)
                for row in latents
            ]
        )

    def _decode(self, latents):
        return self._run("vae_decoder", self._cast(ms.Tensor(latents))).astype(ms.float32).asnumpy()


def describe(source):
    """What a model folder holds, without reading its weights: a dict for `diffedit info`."""
    folder = find(source)
    configs = read_configs(folder)
    owners = {"text_encoder": configs.text, "unet": configs.unet, "vae": configs.vae}
    return {
        "folder": str(folder),
        "parameters": {c: P.count(specs(owners[c])) for c, (_, _, _, specs) in COMPONENTS.items()},
        "files": {
            c: [p.name for p in weight_files(folder / c, base)]
            for c, (_, _, base, _) in COMPONENTS.items()
        },
        "prediction_type": configs.scheduler.prediction_type,
        "picture_size": configs.picture_size,
        "configs": configs,
        "index": json.dumps(read_json(folder / "model_index.json")),
    }


def estimate_memory(configs, latent_size, rows, dtype, kernels):
    """(weights, activations) in bytes of a run whose largest UNet batch has `rows` latents of size
    (h, w): an estimate.

    A compiled graph keeps its memory, so that the VAE's comes on top, and the inversion's batch of
    one where the kernels run large batches whole.
    """
    width = {"fp32": 4, "fp16": 2, "bf16": 2}[dtype]
    owners = {"text_encoder": configs.text, "unet": configs.unet, "vae": configs.vae}
    weights = width * sum(P.count(specs(owners[c])) for c, (_, _, _, specs) in COMPONENTS.items())
    cells = latent_size[0] * latent_size[1]
    batches = {K.rows_at_once(kernels, n, cells) for n in (rows, 1)}
    layer = 4 * sum(batches) * cells * configs.unet.block_out_channels[0]
    pixels = 4 * cells * configs.vae.factor**2 * configs.vae.block_out_channels[0]
    return weights, ACTIVATION_LAYERS * layer + VAE_LAYERS * pixels + BASE_BYTES


def warn_of_slow_convolution(kernels):
    """MindSpore 2.9 and later fall back to oneDNN's reference loop for 3x3 convolutions on a CPU
    (over 100 times slower)."""
    version = tuple(int(n) for n in re.findall(r"\d+", ms.__version__)[:2])
    if kernels == "cpu" and version >= (2, 9):
        warnings.warn(
            f"MindSpore {ms.__version__} computes 3x3 convolutions on a CPU over 100 times slower than 2.8: "
            "install mindspore 2.7 or 2.8.",
            stacklevel=3,
        )
