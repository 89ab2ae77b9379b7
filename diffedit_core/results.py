"""What an edit gives."""

from dataclasses import dataclass

import numpy as np

from . import background


@dataclass(frozen=True)
class Edit:
    """Every array of the edit for one target, as numpy. The last five but `image` are None where
    nothing was edited."""

    noise_map: np.ndarray  # [B,h,w] before the clamp; None where none was looked for
    mask: np.ndarray  # [B,h,w] in [0,1]
    inverted_latents: np.ndarray  # [K+1,B,C,h,w], index 0 clean
    decoded_latents: np.ndarray  # [B,C,h,w]
    decoded: np.ndarray  # [B,3,H,W] float32, the picture as the autoencoder gives it
    roundtrip: (
        np.ndarray
    )  # [B,3,H,W], the source encoded and decoded, where the background needs it
    image: np.ndarray  # [B,3,H,W] float32; the input itself in rows with an empty mask
    unchanged: bool  # every mask is empty, so the input is returned


def unedited(image, noise_map, mask):
    """The `Edit` of an empty mask, or of a run that stops after the masks."""
    return Edit(noise_map, mask, None, None, None, None, image, not mask.any())


def edited(options, image, noise_map, mask, states, latents, pixels, roundtrip):
    """The `Edit` of decoded latents.

    Args:
        image: the source [B,3,H,W].
        states: of the trail.
        latents, pixels: decoded, [B,C,h,w] and [B,3,H,W].
        roundtrip: function that gives the source encoded and decoded [B,3,H,W]; it is called if the
            background needs it.
    """
    inverted = [state.latents.asnumpy() for state in states]
    w = pixel_weight(options, mask, image.shape)
    lost = roundtrip() if options.background == "restored" and (w < 1).any() else None
    if lost is None and options.background == "restored":
        finished = pixels
    else:
        finished = background.finished(options.background, pixels, image, lost, w)
    empty = ~mask.any((1, 2))
    finished = np.where(empty[:, None, None, None], image, finished)
    return Edit(noise_map, mask, np.array(inverted), latents, pixels, lost, finished, False)


def pixel_weight(options, mask, shape):
    """`background.weight` [B,1,H,W] of a mask [B,h,w] of latent cells for pictures [...,H,W]."""
    factor = shape[-1] // mask.shape[-1]
    pixels = mask.repeat(factor, 1).repeat(factor, 2)
    return background.weight(pixels, options.grow, options.feather)[:, None]
