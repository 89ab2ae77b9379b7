"""DiffEdit and what it is compared with, each a function of a batch of edits whose answer is
known."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import ops

from diffedit_core import diffedit as D, model as M, schedule as S

from . import data, world as W


class Case(NamedTuple):
    """An edit with its answer; pictures are float [3,H,W] in [-1,1]."""

    kind: str
    scene: W.Scene
    edited: W.Scene
    source: np.ndarray
    truth: np.ndarray
    mask: np.ndarray  # true mask, bool [H,W]


class Outcome(NamedTuple):
    """What a method made of a batch of cases."""

    images: np.ndarray  # [B,3,H,W]
    masks: np.ndarray  # [B,h,w], or None without one
    noise_maps: np.ndarray  # [B,h,w], or None


def cases(count, split="test", kinds=W.EDITS):
    """The first edits of a split, their kinds in turn."""
    found = []
    for i in range(count):
        scene, kind = W.sample_scene(W.SEEDS[split][i]), kinds[i % len(kinds)]
        edited = W.random_edit(scene, kind)
        pictures = [W.render(s)[0] for s in (scene, edited)]
        found.append(
            Case(kind, scene, edited, *data.to_model(np.stack(pictures)), W.true_mask(*pictures))
        )
    return found


def model_name(folder, components=("unet",)):
    """The folder's name and the beginning of the sha256 of its weights: what ships changes."""
    digest = hashlib.sha256()
    for component in components:
        for file in M.weight_files(Path(folder) / component, M.COMPONENTS[component][2]):
            digest.update(Path(file).read_bytes())
    return f"{Path(folder).name}-{digest.hexdigest()[:8]}"


class Setting(NamedTuple):
    """What every method needs of a batch."""

    model: M.Model
    options: D.Options
    latents: ms.Tensor  # [B,4,h,w]
    source: ms.Tensor  # text states [B,77,D]
    target: ms.Tensor
    empty: ms.Tensor
    maps: np.ndarray  # noise [B,n,4,h,w]
    noise: ms.Tensor  # one more draw for each picture [B,4,h,w]
    levels: S.Levels


def setting(model, options, batch):
    """Encode pictures and captions; the noise of each picture follows from its scene's seed, as in
    `diffedit.edit`."""
    latents = model.latents(model.encode_image(np.stack([c.source for c in batch])))
    source, target, empty = [
        text_states(model, texts)
        for texts in (
            [W.caption(c.scene) for c in batch],
            [W.caption(c.edited) for c in batch],
            [""] * len(batch),
        )
    ]
    draws = [D.draw_noise(c.scene.seed, 1, options.num_maps, latents.shape[1:]) for c in batch]
    maps, noise = [np.concatenate([d[name] for d in draws]) for name in ("maps", "posterior")]
    levels = S.levels(model.configs.scheduler, options.num_inference_steps)
    return Setting(model, options, latents, source, target, empty, maps, ms.Tensor(noise), levels)


def text_states(model, texts):
    """[B,77,D] of B texts, each different one encoded once."""
    distinct = list(dict.fromkeys(texts))
    return ops.gather(
        model.encode_prompts(distinct), ms.Tensor([distinct.index(text) for text in texts]), 0
    )


def find_mask(s):
    """(noise_map, mask) of DiffEdit's first step."""
    return D.find_masks(
        s.model.predict,
        s.model.configs.scheduler,
        s.latents.expand_dims(1),
        ms.Tensor(s.maps),
        s.options,
        (s.source, None),
        [(s.target, None)],
    )[0]


def encoding(s):
    """The picture's latents at each level by DDIM run backwards without text."""
    return D.invert(
        s.model.predict,
        s.latents,
        s.levels,
        s.options.num_encode_steps,
        s.empty,
        prediction_type=s.model.configs.scheduler.prediction_type,
    )


def noising(s):
    """The picture's latents at each level by adding one noise, as SDEdit does."""
    return ops.stack(
        [
            S.add_noise(s.latents, s.noise, float(a)) if i else s.latents
            for i, a in enumerate(s.levels.alphas[: s.options.num_encode_steps + 1])
        ]
    )


def decoded(s, trail, mask):
    """Decode with the target caption and guidance, held to the trail outside the mask."""
    latents = D.decode(
        s.model.predict,
        trail,
        mask,
        s.levels,
        s.target,
        s.empty,
        s.options.guidance_scale,
        s.model.configs.scheduler.prediction_type,
    )
    return s.model.decode_latents(latents)


def everywhere(s):
    return ops.ones((s.latents.shape[0], *s.latents.shape[2:]), s.latents.dtype)


def diffedit(s, batch):
    """DiffEdit with the default recipe: mask, encoding, decoding; with an empty mask, the source,
    as in `diffedit.edit`."""
    noise_map, mask = find_mask(s)
    masks = mask.asnumpy()
    return Outcome(
        unedited(decoded(s, encoding(s), mask), masks, batch), masks, noise_map.asnumpy()
    )


def encode_decode(s, batch):
    """Encoding and decoding without a mask."""
    return Outcome(decoded(s, encoding(s), everywhere(s)), None, None)


def without_encode(s, batch):
    """The mask with noise in place of the encoding (the paper's "w/o encode")."""
    noise_map, mask = find_mask(s)
    return Outcome(decoded(s, noising(s), mask), mask.asnumpy(), noise_map.asnumpy())


def sdedit(s, batch):
    """Noise, and decode without a mask (Meng et al. 2021, arXiv 2108.01073)."""
    return Outcome(decoded(s, noising(s), everywhere(s)), None, None)


def recipe_smooth(s, batch):
    """DiffEdit with the mask of recipe "smooth"."""
    smooth = D.RECIPES["smooth"]
    names = ("mask_smoothing", "mask_clamp_quantile", "mask_threshold")
    return diffedit(
        s._replace(options=s.options.replace(**{name: getattr(smooth, name) for name in names})),
        batch,
    )


def recipe_diffusers(s, batch):
    """The public pipeline with its defaults, the source caption as negative prompt.

    The masks one picture at a time, since their clamp looks at the whole batch. The inversion needs
    no guidance: guiding away from its own prompt changes nothing.
    """
    options = D.RECIPES["diffusers"].replace(
        num_inference_steps=s.options.num_inference_steps,
        num_maps=s.options.num_maps,
        map_batch=s.options.num_maps,
    )
    shape, found = s.latents.shape[1:], []
    for case in batch:
        draws, source = D.draw_noise(
            case.scene.seed, 1, options.num_maps, shape, posterior_per_map=True
        ), W.caption(case.scene)
        found += D.edit(
            s.model,
            case.source[None],
            source,
            [W.caption(case.edited)],
            options,
            draws,
            source,
            only_mask=True,
        )
    latents = s.model.latents(
        s.model.encode_image(np.stack([c.source for c in batch])), s.noise.asnumpy()
    )
    prediction_type = s.model.configs.scheduler.prediction_type
    trail = D.invert(
        s.model.predict,
        latents,
        s.levels,
        options.num_encode_steps,
        s.source,
        prediction_type=prediction_type,
        inversion_timestep=options.inversion_timestep,
    )
    masks, maps = [
        np.concatenate([getattr(e, name) for e in found]) for name in ("mask", "noise_map")
    ]
    latents = D.decode(
        s.model.predict,
        trail,
        ms.Tensor(masks),
        s.levels,
        s.target,
        s.source,
        options.guidance_scale,
        prediction_type,
        options.blend_level,
    )
    return Outcome(unedited(s.model.decode_latents(latents), masks, batch), masks, maps)


def unedited(images, masks, batch):
    """The sources where the masks are empty, as `diffedit.edit` gives them, else the images."""
    empty = ~masks.any((1, 2))
    images[empty] = np.stack([c.source for c in batch])[empty]
    return images


def copy(s, batch):
    """The source as it is: the best preservation, no change."""
    return Outcome(np.stack([c.source for c in batch]), None, None)


METHODS = {
    "DiffEdit": diffedit,
    "recipe smooth": recipe_smooth,
    "encode-decode": encode_decode,
    "mask without encoding": without_encode,
    "SDEdit": sdedit,
    "recipe diffusers": recipe_diffusers,
    "copy": copy,
}
