"""DiffEdit and what it is compared with: options and parts of one edit."""

import dataclasses
import hashlib
from pathlib import Path
from typing import NamedTuple

import mindspore as ms
import numpy as np

from diffedit_core import schedule, walk
from diffedit_core.draws import POSTERIOR, draws, stream
from diffedit_core.edit import edit
from diffedit_core.integrators import State, ddim
from diffedit_core.folder import COMPONENTS, read_configs, weight_files
from diffedit_core.hub import find
from diffedit_core.options import RECIPES
from diffedit_core.parts import Parts, compute, everywhere, noised
from diffedit_core.prompts import text_states
from diffedit_core.results import Edit

from . import data, world


class Case(NamedTuple):
    """An edit with its answer; pictures are float [3,H,W] in [-1,1]."""

    kind: str
    scene: world.Scene
    edited: world.Scene
    source: np.ndarray
    truth: np.ndarray
    mask: np.ndarray  # true mask, bool [H,W]


class Outcome(NamedTuple):
    """What a method made of a batch of cases."""

    images: np.ndarray  # [B,3,H,W]
    masks: np.ndarray  # [B,h,w], or None without one
    noise_maps: np.ndarray  # [B,h,w], or None
    edit: Edit = None  # all arrays of the run


class Method(NamedTuple):
    """A recipe, the parts that are replaced, and what the decoding guides away from. The picture
    is as the autoencoder decodes it, so that methods are compared and not backgrounds."""

    recipe: str = "paper"
    parts: dict = {}
    negative: str = ""  # or "source", the source's caption


METHODS = {
    "DiffEdit": Method(),
    "recipe smooth": Method("smooth"),
    "recipe smooth-32": Method("smooth-32"),
    "encode-decode": Method(parts={"to_mask": everywhere}),
    "mask without encoding": Method(parts={"trail": noised}),
    "SDEdit": Method(parts={"trail": noised, "to_mask": everywhere}),
    "recipe diffusers": Method("diffusers", negative="source"),
    "copy": None,  # the source as it is: the best preservation, no change
}


def options_of(method, changes):
    """The options of a `Method`, with changes to its recipe {option: value}."""
    return RECIPES[method.recipe].replace(**{"background": "decoded", **changes})


def settings(name, changes):
    """What a method does otherwise than the paper's recipe: {option: value, part: function's name},
    and what it guides away from."""
    method = METHODS[name]
    if method is None:
        return {}
    paper = dataclasses.asdict(RECIPES["paper"])
    found = dataclasses.asdict(options_of(method, changes))
    found = {key: value for key, value in found.items() if value != paper[key]}
    found |= {part: function.__name__ for part, function in method.parts.items()}
    return found | ({"negative": method.negative} if method.negative else {})


def run(name, model, changes, batch, keep=compute, only_mask=False, masks=None, tiling=None):
    """The `Outcome` of a method for a batch of cases.

    Args:
        name: one of METHODS.
        changes: of the method's recipe, as {option: value}.
        keep: as in `parts.Run`; of one batch.
        only_mask: stop after the masks.
        masks: [B,h,w] in [0,1] to use instead of looking for them.
        tiling: `vae.Tiling` for large pictures.
    """
    method, images = METHODS[name], np.stack([case.source for case in batch])
    if method is None:
        return Outcome(images, None, None)
    options = options_of(method, changes)
    if options.clamp_over == "batch":  # in the public pipeline each picture would be a batch
        options = options.replace(clamp_over="image")
    parts = Parts.of(options)._replace(**method.parts)
    sources = [world.caption(case.scene) for case in batch]
    found = edit(
        model,
        images,
        sources,
        [[world.caption(case.edited) for case in batch]],
        options,
        draws(options, [case.scene.seed for case in batch], latent_shape(model, images.shape)),
        negative=sources if method.negative == "source" else "",
        mask=masks,
        only_mask=only_mask,
        tiling=tiling,
        parts=parts,
        keep=keep,
    )[0]
    masked = parts.to_mask is not everywhere
    return Outcome(found.image, found.mask if masked else None, found.noise_map, found)


def latent_shape(model, shape):
    """(C,h,w) of the latents of pictures [...,H,W]."""
    factor = model.configs.vae.factor
    return (model.configs.latent_channels, shape[-2] // factor, shape[-1] // factor)


def cases(count, split="test", kinds=world.EDITS, size=world.SIZE):
    """The first edits of a split, their kinds in turn, drawn at a size of `world.SIZES`."""
    found = []
    for i in range(count):
        scene, kind = world.sample_scene(world.SEEDS[split][i]), kinds[i % len(kinds)]
        edited = world.random_edit(scene, kind)
        pictures = [world.render(s, size)[0] for s in (scene, edited)]
        source, truth = data.to_model(np.stack(pictures))
        found.append(Case(kind, scene, edited, source, truth, world.true_mask(*pictures)))
    return found


def own_size(model):
    """The side of the pictures that a model folder was trained on, in pixels."""
    return read_configs(find(model)).picture_size


def remember(store):
    """A `parts.Run.keep` of one batch and one model: everything, in a dict."""

    def keep(stage, key, function):
        if key not in store:
            store[key] = function()
        return store[key]

    return keep


def samples(model, texts, seeds, options, size):
    """Plain text to image: DDIM from pure noise at the grid's last level, guided by `options`.

    Args:
        texts, seeds: B sentences, and the seed of each one's noise.
        size: (h, w) of the latents.
    Returns:
        Pictures [B,3,H,W] in about [-1,1].
    """
    shape = (model.configs.latent_channels, *size)
    noise = [stream(seed, POSTERIOR).standard_normal(shape).astype(np.float32) for seed in seeds]
    states = text_states(model, len(texts))
    return model.decode_latents(
        sampled(
            model.predict,
            model.configs.scheduler,
            options.num_inference_steps,
            (states(tuple(texts)), states("")),
            options.guidance_scale,
            ms.Tensor(np.stack(noise)),
        )
    )


def sampled(predict, config, steps, states, guidance_scale, noise):
    """The latents that DDIM makes of noise [B,C,h,w] at the last level of its grid.

    Args:
        states: of the texts, and of what to guide away from [B,S,D].
    """
    levels, (wanted, negative) = schedule.levels(config, steps), states
    ask = walk.asked(predict, levels, wanted, negative, guidance_scale)
    denoise = walk.denoiser(ask, levels, config.prediction_type)
    *_, last = walk.down(ddim, denoise, levels, State(noise), steps)
    return last.latents


def model_name(folder, components=("unet",)):
    """The folder's name and the beginning of the sha256 of its weights: what ships changes."""
    digest = hashlib.sha256()
    for component in components:
        for file in weight_files(Path(folder) / component, COMPONENTS[component][2]):
            digest.update(Path(file).read_bytes())
    return f"{Path(folder).name}-{digest.hexdigest()[:8]}"
