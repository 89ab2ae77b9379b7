"""What the class facade takes: every form of picture, mask, prompt, number and generator -> what
the core takes.

All of it raises InputError, or TypeError for a wrong type, with the argument's name.
"""

import dataclasses
import sys

import mindspore as ms
import numpy as np
from PIL import Image

from . import diffedit as D
from . import regularise as G
from .errors import InputError
from .images import load_image, load_mask, mask_to_latents, to_array

MASK, INVERSION, DECODING, ROLLS = range(4)  # streams of an integer seed


def pixels(image, factor, latent_channels):
    """What `generate_mask` takes for an image -> float32 [B,3,H,W] in [-1,1], or latents as they
    are."""
    listed = list(image) if isinstance(image, (list, tuple)) else [image]
    if listed and all(isinstance(i, Image.Image) for i in listed):
        pictures = [load_image(i) for i in listed]
        sizes = [(p.width - p.width % factor, p.height - p.height % factor) for p in pictures]
        check(
            "image's size",
            pictures[0].size,
            all(map(all, sizes)),
            f"at least {factor}x{factor} pixels",
        )
        return to_array(
            [
                p if p.size == size else p.resize(size, Image.Resampling.LANCZOS)
                for p, size in zip(pictures, sizes)
            ]
        )
    check(
        "image",
        type(image).__name__,
        listed and all(isinstance(i, (np.ndarray, ms.Tensor)) for i in listed),
        "PIL images, an array [B,H,W,3] or a tensor [B,3,H,W]",
    )
    tensor = isinstance(listed[0], ms.Tensor)
    pixels = np.concatenate([a if a.ndim == 4 else a[None] for a in map(to_numpy, listed)]).astype(
        np.float32
    )
    pixels = pixels if tensor else np.moveaxis(pixels, -1, 1)
    if tensor and pixels.ndim == 4 and pixels.shape[1] == latent_channels:
        return pixels
    check(
        "image's shape",
        to_numpy(listed[0]).shape,
        pixels.ndim == 4
        and pixels.shape[1] == 3
        and pixels.size
        and not any(n % factor for n in pixels.shape[2:]),
        f"{'[B,3,H,W]' if tensor else '[B,H,W,3]'} with H and W multiples of {factor}",
    )
    low, high, lowest = float(pixels.min()), float(pixels.max()), -1 if tensor else 0
    check(
        "image's range", [low, high], low >= lowest and high <= 1, f"within [{lowest}, 1]"
    )  # NaN fails too
    return np.ascontiguousarray(pixels if low < 0 else 2 * pixels - 1)


def to_numpy(x):
    """A tensor, or anything numpy takes, as an array."""
    return x.asnumpy() if isinstance(x, ms.Tensor) else np.asarray(x)


def check(name, value, good, wanted):
    """Raise InputError, saying what was wanted of the named value, unless it is good."""
    if not good:
        raise InputError(f"{name} is {value!r}: it has to be {wanted}.")


def within(value, low, high):
    """Whether it is a number in [low, high]; NaN is not."""
    return isinstance(value, (int, float)) and low <= value <= high


def check_numbers(**values):
    """All are whole numbers above 0."""
    for name, value in values.items():
        check(
            name,
            value,
            isinstance(value, int) and not isinstance(value, bool) and value > 0,
            "a whole number from 1 up",
        )


def check_strength(name, value, steps):
    """In [0,1], and deep enough for one step of the grid."""
    check(name, value, within(value, 0, 1), "a number from 0 to 1")
    check(name, value, int(steps * value), f"large enough for one of the {steps} steps")


def check_output(output_type, known, cross_attention_kwargs):
    """A known output type, and no settings that would have no effect."""
    check("output_type", output_type, output_type in known, " or ".join(map(repr, known)))
    check(
        "cross_attention_kwargs",
        cross_attention_kwargs,
        not cross_attention_kwargs,
        "left out, as it would have no effect",
    )


def guidance(guidance_scale):
    """The guidance scale, 1 (none) for all below: the public pipeline guides above 1 only."""
    check(
        "guidance_scale",
        guidance_scale,
        within(guidance_scale, -sys.float_info.max, sys.float_info.max),
        "a number",
    )
    return max(1.0, float(guidance_scale))


def edit_options(num_inference_steps, inpaint_strength, callback_steps):
    """The options of `invert` and `__call__`."""
    check_numbers(num_inference_steps=num_inference_steps, callback_steps=callback_steps)
    check_strength("inpaint_strength", inpaint_strength, num_inference_steps)
    return dataclasses.replace(
        D.RECIPES["diffusers"],
        num_inference_steps=num_inference_steps,
        encode_ratio=inpaint_strength,
    )


def check_prompts(prefix, prompt, negative, embeds, negative_embeds):
    """Either prompt or states, of fitting types and numbers -> the four unchanged."""
    what, minus = f"{prefix}prompt", f"{prefix}negative_prompt"
    if (prompt is None) == (embeds is None):
        raise InputError(
            f"Give either {what} or {what}_embeds{', one of them' if prompt is None else ', not both'}."
        )
    for name, text in ((what, prompt), (minus, negative)):
        listed = isinstance(text, list) and text and all(isinstance(t, str) for t in text)
        check(
            name,
            text,
            text is None or isinstance(text, str) or listed,
            "a string or a list of strings",
        )
    if negative is not None and negative_embeds is not None:
        raise InputError(f"Give either {minus} or {minus}_embeds, not both.")
    if negative is not None and prompt is not None and type(negative) is not type(prompt):
        raise TypeError(
            f"{minus} is a {type(negative).__name__} but {what} a {type(prompt).__name__}: give two of a kind."
        )
    if isinstance(negative, list) and len(negative) != len(prompt if embeds is None else embeds):
        raise InputError(
            f"There are {len(negative)} strings in {minus}: {what} has another number."
        )
    if (
        embeds is not None
        and negative_embeds is not None
        and tuple(embeds.shape) != tuple(negative_embeds.shape)
    ):
        raise InputError(
            f"{what}_embeds {list(embeds.shape)} and {minus}_embeds {list(negative_embeds.shape)} differ in shape."
        )
    return prompt, negative, embeds, negative_embeds


def spread(states, batch, name):
    """[1 or B,S,D] -> [B,S,D]; None stays."""
    if states is None or states.shape[0] == batch:
        return states
    if states.shape[0] != 1:
        raise InputError(
            f"{name} has {states.shape[0]} entries for a batch of {batch}: give {batch} or one."
        )
    return D.repeat(states, batch)


def draws(generator, phase):
    """A function (pictures, copies), shape -> float32 standard normal numbers
    [pictures,copies,*shape].

    A list has one generator for each picture, or as in the public pipeline one for each copy of
    each.
    """
    listed = isinstance(generator, (list, tuple))
    streams = [stream(g, phase) for g in (generator if listed else [generator])]

    def draw(rows, shape):
        if listed and len(streams) not in (rows[0], rows[0] * rows[1]):
            raise InputError(
                f"generator lists {len(streams)} for {rows[0]} pictures: give one for each, or a single one."
            )
        each = (rows[0] * rows[1] // len(streams), *shape)
        return (
            np.concatenate([s.standard_normal(each) for s in streams])
            .astype(np.float32)
            .reshape(*rows, *shape)
        )

    return draw


def rolls(generator, options, shape):
    """`regularise.draw_rolls` for latents of a shape, from one stream for each generator or a
    single one for all pictures."""
    streams = [
        stream(g, ROLLS)
        for g in (generator if isinstance(generator, (list, tuple)) else [generator])
    ]
    streams = streams if len(streams) == shape[0] else streams[:1] * shape[0]
    return G.draw_rolls(
        streams, options.num_encode_steps, options.num_reg_steps, options.num_auto_corr_rolls, shape
    )


def stream(generator, phase):
    """The numpy Generator of one generator argument; a seed has one for each phase."""
    if generator is None or isinstance(generator, np.random.Generator):
        return np.random.default_rng(generator)
    seed = generator.initial_seed() if hasattr(generator, "initial_seed") else generator
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(
            f"generator is a {type(generator).__name__}: give a seed, a Generator, or a list of these."
        )
    return np.random.default_rng([int(seed) % 2**64, phase])


def mask_cells(mask, batch, grid, factor):
    """What `__call__` takes for a mask -> float32 [B,h,w] of 0 and 1."""
    planes = []
    for one in mask if isinstance(mask, (list, tuple)) else [mask]:
        one = one if isinstance(one, Image.Image) else to_numpy(one)
        if not isinstance(one, Image.Image) and one.ndim == 4:
            check("mask_image's number of channels", one.shape[1], one.shape[1] == 1, "1")
            one = one[:, 0]
        planes += list(one) if isinstance(one, np.ndarray) and one.ndim == 3 else [one]
    if len(planes) not in (1, batch):
        raise InputError(
            f"There are {len(planes)} masks for {batch} prompts: give one for each, or a single one."
        )
    size = tuple(side * factor for side in grid)
    cells = [mask_to_latents(load_mask(p, size[::-1]), size, size, factor) for p in planes]
    return np.repeat(np.float32(np.stack(cells) >= 0.5), batch if len(cells) == 1 else 1, 0)


def trail_levels(latents, batch, steps, channels):
    """`invert`'s [B,L,C,h,w] or [B*L,C,h,w] -> numpy [L,B,C,h,w], from the least noise up."""
    listed = latents if isinstance(latents, (list, tuple)) else [latents]
    check(
        "image_latents",
        type(latents).__name__,
        listed and all(isinstance(x, (np.ndarray, ms.Tensor)) for x in listed),
        "what invert returns as latents",
    )
    x = np.concatenate([to_numpy(i).astype(np.float32) for i in listed])
    if x.ndim == 4 and len(x) == batch * steps:
        x = x.reshape(batch, steps, *x.shape[1:])
    if x.ndim != 5 or x.shape[:3] != (batch, steps, channels):
        raise InputError(
            f"image_latents has the shape {list(x.shape)}, expected [{batch},{steps},{channels},h,w] for {batch} "
            f"prompts and {steps} steps: use invert's num_inference_steps and inpaint_strength here too."
        )
    return np.ascontiguousarray(x.swapaxes(0, 1)[::-1])
