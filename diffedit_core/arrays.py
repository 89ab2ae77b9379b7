"""Pictures and masks as arrays: `image` is [B,3,H,W] float32 in [-1,1]; a mask is [h,w] float32 in
[0,1], 1 where the edit happens. Sizes are (W, H) where PIL is meant and (H, W) where an array is.
"""

import numpy as np
from PIL import Image, ImageFilter

from .errors import InputError


def to_array(pictures):
    """`x / 127.5 - 1`.

    Args: pictures: list of PIL images of one size.
    Returns: image, float32 [B,3,H,W] in [-1,1].
    Raises: InputError: an empty list, or different sizes.
    """
    sizes = sorted({picture.size for picture in pictures})
    if len(sizes) != 1:
        found = ", ".join(f"{w}x{h}" for w, h in sizes) or "an empty list"
        raise InputError(
            f"the pictures of a batch must have one size, not {found}: edit them one at a time."
        )
    pixels = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32) / 127.5 - 1


def to_pil(image):
    """`(x + 1) * 127.5`, rounded half up. Law: to_pil(to_array([picture])) == [picture].

    Args: image: [B,3,H,W] float, clipped to [-1,1].
    Returns: list of B PIL images, RGB.
    Raises: InputError: NaN.
    """
    image = np.asarray(image, np.float32)
    if np.isnan(image).any():
        raise InputError("the image holds NaN: run again in float32.")
    return [
        Image.fromarray(pixels)
        for pixels in round_half_up((image.transpose(0, 2, 3, 1) + 1) * 127.5)
    ]


def round_half_up(values):
    """Float -> uint8; np.rint would take 0.5 down but 1.5 up."""
    return np.floor(np.clip(values, 0, 255) + 0.5).astype(np.uint8)


def pad_to_multiple(image, multiple):
    """Repeat the right and bottom edge. Law: crop(*pad_to_multiple(image, m)) == image.

    Args: image: [...,H,W]; multiple: px.
    Returns: (padded [...,H8,W8], (H, W)).
    """
    size = image.shape[-2:]
    return _pad_edges(image, [-(-side // multiple) * multiple for side in size]), size


def crop(image, size):
    """[...,H8,W8] -> its top left [...,H,W]."""
    return image[..., : size[0], : size[1]]


def _pad_edges(array, size):
    after = [(0, new - old) for new, old in zip(size, array.shape[-2:])]
    return np.pad(array, [(0, 0)] * (array.ndim - 2) + after, mode="edge")


def resize_mask(mask, size):
    """Exact box filter: each new cell is the mask's mean over the area it covers. Law: the mean
    stays.

    Upwards this repeats cells, and mixes two only where their edge falls inside a pixel. Bilinear
    would soften a hard mask. Pillow's BOX is not used: it counts a partly covered cell fully or not
    at all.

    Args: mask: [h,w]; size: (H, W).
    Returns: float32 [H,W].
    """
    rows, columns = (_overlap(old, new) for old, new in zip(mask.shape, size))
    return (rows @ mask.astype(np.float64) @ columns.T).astype(np.float32)


def _overlap(old, new):
    """[new,old] float64: the share of each new cell that each old one covers, with integer edges so
    that 0 is 0."""
    i, j = np.arange(new)[:, None], np.arange(old)
    return (
        np.maximum(np.minimum((i + 1) * old, (j + 1) * new) - np.maximum(i * old, j * new), 0) / old
    )


def mask_to_pixels(mask, size, factor=8):
    """Make each latent cell factor x factor pixels, and crop what was padding.

    Args: mask: [h,w] on the latent grid, or a noise map; size: the picture's (H, W), px.
    Returns: [H,W], same dtype.
    Raises: InputError: the grid does not reach over the picture.
    """
    blocks = mask.repeat(factor, axis=0).repeat(factor, axis=1)
    if blocks.shape[0] < size[0] or blocks.shape[1] < size[1]:
        raise InputError(
            f"a latent mask {list(mask.shape)} covers {list(blocks.shape)} pixels, not "
            f"{list(size)}: give the size of the picture that it was made for."
        )
    return crop(blocks, size)


def mask_to_latents(mask, picture_size, padded, factor=8):
    """Bring a picture's mask to the latent grid of the padded picture, padding it alike.

    Args: mask: [mh,mw] of any resolution over the unpadded picture; one that has the latent grid's
        shape already lies on that grid and stays; picture_size: (H, W) px; padded: (H8, W8) px,
        multiples of `factor`.
    Returns: float32 [H8/factor,W8/factor].
    Law: mask_to_latents(mask_to_pixels(m, size), size, padded) == m, when padded by less than one
        cell.
    """
    grid = (padded[0] // factor, padded[1] // factor)
    if mask.shape == grid:
        return mask.astype(np.float32)
    if mask.shape != tuple(picture_size):
        mask = resize_mask(mask, picture_size)
    return resize_mask(_pad_edges(mask, padded), grid)


def paste_background(source, result, mask, feather=4):
    """`source + w (result - source)`, `w = mean_k erode^k(mask), k = 0..feather`: a linear ramp
    inside the mask's edge.

    At the picture's border the mask counts as going on, so that no seam shows there.
    Args: source, result: PIL images of one size; mask: [H,W] in [0,1]; feather: px, 0 for none.
    Returns: PIL image, RGB.
    Raises: InputError: different sizes, or a negative feather.
    Law: where mask == 0 the output is the source bit for bit.
    """
    if not source.size == result.size == mask.shape[::-1]:
        raise InputError(
            f"source {source.size}, result {result.size} and mask {mask.shape[::-1]} must have "
            "one size."
        )
    if feather < 0:
        raise InputError(f"feather is {feather}: give 0 or more pixels.")
    layer = total = np.asarray(mask, np.float32)
    for _ in range(feather):
        layer = erode(layer)
        total = total + layer
    before, after = (np.asarray(picture.convert("RGB"), np.float32) for picture in (source, result))
    return Image.fromarray(
        round_half_up(before + total[..., None] / (feather + 1) * (after - before))
    )


def erode(mask):
    """[H,W] float32: the minimum of each 3x3 neighbourhood, edges repeated."""
    return np.asarray(Image.fromarray(mask).filter(ImageFilter.MinFilter(3)))
