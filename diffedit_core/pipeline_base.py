"""A loaded pipeline without its three calls: its components, how it is loaded, its prompts and its
progress bar."""

import dataclasses
from types import SimpleNamespace

from tqdm.auto import tqdm

from . import pipeline_checks as checks
from . import pipeline_runs as runs
from .errors import InputError
from .model import Model
from .pipeline_loading import load_model
from .pipeline_parts import VAE, Part, TextEncoder, UNet
from .pipeline_switches import Switches
from .pipeline_text import Tokenizer
from .progress import hidden
from .schedulers import DDIMInverseScheduler, DDIMScheduler

# what may be assigned: its type, and what to do instead
ASSIGNED = {
    "scheduler": (DDIMScheduler, "give a DDIMScheduler"),
    "inverse_scheduler": ((DDIMInverseScheduler, type(None)), "give a DDIMInverseScheduler"),
    "safety_checker": (type(None), "there is none to give to this pipeline"),
    "feature_extractor": (type(None), "there is none to give to this pipeline"),
} | {
    name: ((), "load a model folder that has the one that you want")
    for name in ("vae", "text_encoder", "tokenizer", "unet")
}


class Loaded(Switches):
    """The components of a pipeline.

    Args:
        model: `model.Model`; or load one with `from_pretrained`.
        scheduler, inverse_scheduler: by default the model's, and None.
        components: instead of a model, another pipeline's `components`.
    """

    safety_checker = feature_extractor = None

    def __init__(self, model=None, *, scheduler=None, inverse_scheduler=None, **components):
        self.model = _model(model, components)
        own = DDIMScheduler(**dataclasses.asdict(self.model.configs.scheduler))
        self.scheduler = own if scheduler is None else scheduler
        self.inverse_scheduler = inverse_scheduler
        self.vae_scale_factor = self.model.configs.vae.factor
        self.tiling = None
        self._bar_config = {"disable": None}  # as `hidden` says
        self._parts = {
            "vae": VAE(self),
            "text_encoder": TextEncoder(self),
            "tokenizer": Tokenizer(self),
            "unet": UNet(self),
        }

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *,
        mindspore_dtype=None,
        torch_dtype=None,
        use_safetensors=None,
        variant=None,
        kernels=None,
        scheduler=None,
        inverse_scheduler=None,
        requires_safety_checker=False,
        **others,
    ):
        """Load a folder in the public layout, or a repository of the hub.

        Args:
            mindspore_dtype: float32 (by default), float16 or bfloat16, as a dtype or its name;
                torch_dtype is the same.
            use_safetensors: not False; no other files are read.
            variant: "fp16" prefers the files with half precision for any dtype; None does so for
                float16 only.
            kernels: a name of `kernels.LOWERINGS`.
            scheduler, inverse_scheduler: instead of the model's.
            requires_safety_checker: there is none, required or not.
            others: subfolder, of a folder; revision, cache_dir, local_files_only, token,
                force_download, of the hub. What changes nothing says so
                (`pipeline_loading.HARMLESS`), what cannot be is refused.
        Raises:
            InputError: no such model, or one that cannot be honoured.
        """
        if scheduler is not None:
            _assignable("scheduler", scheduler)
        _assignable("inverse_scheduler", inverse_scheduler)
        dtypes = mindspore_dtype, torch_dtype
        model = load_model(
            pretrained_model_name_or_path, dtypes, use_safetensors, variant, kernels, others
        )
        return cls(model, scheduler=scheduler, inverse_scheduler=inverse_scheduler)

    def __setattr__(self, name, value):
        """`scheduler` has the levels of the mask and the edit; `inverse_scheduler` those of invert,
        None for the same ones."""
        _assignable(name, value)
        super().__setattr__(name, value)

    vae = property(lambda self: self._parts["vae"])
    text_encoder = property(lambda self: self._parts["text_encoder"])
    tokenizer = property(lambda self: self._parts["tokenizer"])
    unet = property(lambda self: self._parts["unet"])

    @property
    def components(self):
        """All components by name, from which `StableDiffusionDiffEditPipeline(**components)` makes
        another pipeline without loading anything."""
        schedulers = {"scheduler": self.scheduler, "inverse_scheduler": self.inverse_scheduler}
        return self._parts | schedulers | {"safety_checker": None, "feature_extractor": None}

    @property
    def text_shape(self):
        """(channels, positions) of text states."""
        return self.model.configs.text.hidden_size, self.model.tokenizer.max_length

    def progress_bar(self, iterable=None, total=None, **settings):
        """A tqdm bar with the settings of `set_progress_bar_config`."""
        good = iterable is None or checks.iterates(iterable)
        checks.check("iterable", iterable, good, "something to iterate over, or None")
        total = None if total is None else checks.number("total", total, 0)
        settings = checks.bar_settings(settings | self._bar_config)
        if settings.get("disable", True) is None:
            settings["disable"] = hidden()
        return tqdm(iterable, total=total if total is None else int(total), **settings)

    def set_progress_bar_config(self, **settings):
        """Settings of tqdm for the bars to come, such as disable=True. By default a bar shows
        on a terminal and in a notebook."""
        self._bar_config |= checks.bar_settings(settings)

    def embed_prompts(self, prompt, average=False, clip_skip=None):
        """Text states to give as prompt_embeds: [B,77,D], or with `average` their mean [1,77,D]
        over the prompts.

        The mean over many captions of one subject makes a steadier source or target than any one of
        them. `clip_skip` leaves out so many of the text encoder's last layers.
        """
        checks.prompt("", prompt, None, None, None, *self.text_shape)
        most = self.model.configs.text.num_hidden_layers - 1
        skip = 0 if clip_skip is None else checks.whole("clip_skip", clip_skip, 0, most)
        average = checks.flag("average", average)
        states = self.model.encode_prompts([prompt] if isinstance(prompt, str) else prompt, skip)
        return states.mean(0, keep_dims=True) if average else states

    def encode_prompt(
        self,
        prompt,
        device=None,
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
        negative_prompt=None,
        prompt_embeds=None,
        negative_prompt_embeds=None,
        lora_scale=None,
        clip_skip=None,
    ):
        """(prompt_embeds, negative_prompt_embeds), [B,77,D] each; the second None without guidance.

        The order and the meaning of the arguments are the public pipeline's. `embed_prompts` is
        shorter.
        """
        if lora_scale is not None:
            raise InputError("lora_scale needs a LoRA: merge it as load_lora_weights says.")
        self.to(device)
        return runs.encode_prompt(self, SimpleNamespace(**locals()))


def _assignable(name, value):
    """Raise TypeError for a component that a pipeline cannot have."""
    wanted, remedy = ASSIGNED.get(name, (object, ""))
    if not isinstance(value, wanted):
        raise TypeError(f"{name} cannot be a {type(value).__name__}: {remedy}.")


def _model(model, components):
    """The model itself, or the one that all of another pipeline's components belong to."""
    for name in components:
        if name not in ASSIGNED and name not in ("requires_safety_checker", "image_encoder"):
            raise TypeError(f"A pipeline has no component {name!r}: leave it out.")
    parts = [c for c in components.values() if isinstance(c, (Part, Tokenizer))]
    models = [model] if model is not None else [part.model for part in parts]
    good = models and all(isinstance(m, Model) and m is models[0] for m in models)
    if not good or len(parts) != sum(c is not None and c is not False for c in components.values()):
        raise TypeError(
            "model has to be a Model, or the components those of one pipeline: "
            "load them with from_pretrained."
        )
    return models[0]
