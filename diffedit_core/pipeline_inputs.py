"""What the facade takes: every form of picture, mask and latents -> what the core takes.

All of it raises InputError with the argument's name.
"""

import os

import numpy as np
from PIL import Image

from .errors import InputError
from .foreign import is_tensor, shown, to_numpy
from .images import load_image, load_mask, mask_to_latents, to_array
from .pipeline_checks import check


def pixels(image, factor, latent_channels):
    """What `generate_mask` takes for an image -> float32 [B,3,H,W] in [-1,1], or latents as they
    are."""
    listed = list(image) if isinstance(image, (list, tuple)) else [image]
    if listed and all(isinstance(i, (Image.Image, str, os.PathLike)) for i in listed):
        return _pictures(listed, factor)

    arrays = all(is_tensor(i) or isinstance(i, np.ndarray) for i in listed)
    wanted = "PIL images, file names, an array [B,H,W,3] or a tensor [B,3,H,W]"
    check("image", _kind(image), listed and arrays, wanted)

    tensor, first = is_tensor(listed[0]), to_numpy(listed[0], "image")
    shape = f"{'[B,3,H,W]' if tensor else '[B,H,W,3]'} with H and W multiples of {factor}"
    values = [to_numpy(i, "image") for i in listed]
    check("image's shape", first.shape, first.ndim in (3, 4), shape)
    same = {v.shape[-3:] for v in values} == {first.shape[-3:]}
    check("image's shapes", [v.shape for v in values], same, "one, as they make a batch")

    values = [v if v.ndim == 4 else v[None] for v in values]
    values = np.concatenate(values).astype(np.float32)
    values = values if tensor else np.moveaxis(values, -1, 1)
    if tensor and values.shape[1] == latent_channels and values.size:
        check("image", "latents with NaN or infinity", np.isfinite(values).all(), "finite")
        return values
    sides = not any(n % factor for n in values.shape[2:])
    check("image's shape", first.shape, values.shape[1] == 3 and values.size and sides, shape)
    return _signed(values, -1 if tensor else 0)


def _pictures(listed, factor):
    """Pictures or file names, cut to multiples of `factor` by resampling."""
    named = not any(isinstance(p, str) and not p for p in listed)
    check("image", "", named, "a picture or a file name")
    pictures = [load_image(i) for i in listed]
    sizes = [(p.width - p.width % factor, p.height - p.height % factor) for p in pictures]
    smallest = f"at least {factor}x{factor} pixels"
    check("image's size", pictures[0].size, all(map(all, sizes)), smallest)
    return to_array(
        [
            p if p.size == size else p.resize(size, Image.Resampling.LANCZOS)
            for p, size in zip(pictures, sizes)
        ]
    )


def _signed(values, lowest):
    """Pixels in [lowest,1] -> in [-1,1]; where none is negative, they are taken to be in [0,1]."""
    low, high = float(values.min()), float(values.max())
    inside = low >= lowest and high <= 1  # NaN fails too
    check("image's range", [low, high], inside, f"within [{lowest}, 1]")
    return np.ascontiguousarray(values if low < 0 else 2 * values - 1)


def mask_cells(mask, batch, grid, factor):
    """What `__call__` takes for a mask -> float32 [B,h,w] of 0 and 1."""
    planes = []
    for one in mask if isinstance(mask, (list, tuple)) else [mask]:
        planes += [one] if isinstance(one, (Image.Image, str, os.PathLike)) else _planes(one)
    if len(planes) not in (1, batch):
        raise InputError(
            f"mask_image has {len(planes)} masks for {batch} prompts: give one for each, or a "
            "single one."
        )
    named = not any(isinstance(p, str) and not p for p in planes)
    check("mask_image", "", named, "a mask or a file name")
    size = tuple(side * factor for side in grid)
    cells = [mask_to_latents(load_mask(p, size[::-1]), size, size, factor) for p in planes]
    return np.repeat(np.float32(np.stack(cells) >= 0.5), batch if len(cells) == 1 else 1, 0)


def _planes(mask):
    """An array [h,w], [B,h,w] or [B,1,h,w] as a list of [h,w]."""
    array = to_numpy(mask, "mask_image")
    shape = "[h,w], [B,h,w] or [B,1,h,w]"
    check("mask_image's shape", array.shape, array.ndim in (2, 3, 4) and array.size, shape)
    if array.ndim == 4:
        check("mask_image's number of channels", array.shape[1], array.shape[1] == 1, "1")
        array = array[:, 0]
    low, high = float(array.min()), float(array.max())
    check("mask_image's range", [low, high], low >= 0 and high <= 1, "within [0, 1]")
    return list(array) if array.ndim == 3 else [array]


def trail_levels(latents, batch, steps, channels):
    """`invert`'s [B,L,C,h,w] or [B*L,C,h,w] -> numpy [L,B,C,h,w], from the least noise up."""
    listed = latents if isinstance(latents, (list, tuple)) else [latents]
    arrays = all(is_tensor(x) or isinstance(x, np.ndarray) for x in listed)
    check("image_latents", _kind(latents), listed and arrays, "what invert returns as latents")

    values = [to_numpy(i, "image_latents") for i in listed]
    same = {v.shape[1:] for v in values} == {values[0].shape[1:]} and values[0].ndim > 0
    shapes = [v.shape for v in values]
    check("image_latents' shapes", shapes, same, "the same but for the number of pictures")

    x = np.concatenate(values).astype(np.float32)
    if x.ndim == 4 and len(x) == batch * steps:
        x = x.reshape(batch, steps, *x.shape[1:])
    if x.ndim != 5 or x.shape[:3] != (batch, steps, channels) or not x.size:
        raise InputError(
            f"image_latents has the shape {list(x.shape)}, expected [{batch},{steps},{channels},h,"
            f"w] for {batch} prompts and {steps} steps: use invert's num_inference_steps and "
            "inpaint_strength here too."
        )
    check("image_latents", "latents with NaN or infinity", np.isfinite(x).all(), "finite")
    return np.ascontiguousarray(x.swapaxes(0, 1)[::-1])


def float_tensor(name, value, *shapes):
    """A numpy float32 array of one of the shapes, in which None is any size."""
    array = to_numpy(value, name)

    def fits(shape):
        return len(shape) == array.ndim and all(w in (None, n) for w, n in zip(shape, array.shape))

    wanted = " or ".join(str([n or "any" for n in s]).replace("'", "") for s in shapes)
    good = any(map(fits, shapes)) and array.size
    check(f"{name}'s shape", list(array.shape), good, wanted or "of numbers")
    return array.astype(np.float32)


def _kind(value):
    """The type of what was given, and of what a list holds first."""
    if isinstance(value, (list, tuple)) and value:
        return f"{type(value).__name__} of {type(value[0]).__name__}"
    return shown(value) if value is None else type(value).__name__
