"""What an edit gives."""

import dataclasses
import itertools
from dataclasses import dataclass

import numpy as np

from . import background, images, pages

SHOWN, THUMBNAIL = 2, 224  # in a notebook: pictures of a batch, and px of their longer side


@dataclass(frozen=True, repr=False)
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
    source: np.ndarray = None  # [B,3,H,W] float32, the input
    options: object = dataclasses.field(default=None, compare=False)  # `options.Options`

    def __repr__(self):
        return f"Edit(image {list(self.image.shape)}, mask {self.mask.mean():.1%})"

    def _repr_html_(self):
        """What a notebook shows: source, mask over the source, and result of the first pictures,
        and the options."""
        count = len(self.mask)
        shown = [each for i in range(min(count, SHOWN)) for each in self._pictures(i)]
        more = f"and {count - SHOWN} more; " if count > SHOWN else ""
        said = "" if self.options is None else options_of(self.options)
        return gallery([p for _, p in shown], [name for name, _ in shown], f"{more}{said}")

    def _pictures(self, i):
        """(name, picture) of one row of the batch."""
        result = images.to_pil(self.image[i : i + 1])[0]
        source = result if self.source is None else images.to_pil(self.source[i : i + 1])[0]
        height, width = self.image.shape[2:]
        cells = images.mask_to_pixels(self.mask[i], (height, width), width // self.mask.shape[2])
        yield "source", source
        yield f"mask, {self.mask[i].mean():.1%}", images.overlay(source, cells)
        yield "result", result


def gallery(pictures, names=(), said=""):
    """Pictures, three in a row, as HTML for a notebook.

    Args: pictures: PIL images; names: one for each, or none; said: a line below them.
    """
    cells = [
        pages.filled("thumbnail.html", name=name, picture=pages.embedded(picture, THUMBNAIL, False))
        for name, picture in itertools.zip_longest(names, pictures, fillvalue="")
    ]
    return pages.filled("notebook.html", pictures=pages.joined(cells), said=said)


def options_of(options):
    """The options that are not the paper's, as a line."""
    changed = [
        f"{field.name} {getattr(options, field.name)}"
        for field in dataclasses.fields(options)
        if getattr(options, field.name) != field.default
    ]
    return "Options: " + (", ".join(changed) or "those of the paper")


def unedited(options, image, noise_map, mask):
    """The `Edit` of an empty mask, or of a run that stops after the masks."""
    nothing = None, None, None, None
    return Edit(noise_map, mask, *nothing, image, not mask.any(), image, options)


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
    arrays = noise_map, mask, np.array(inverted), latents, pixels, lost, finished
    return Edit(*arrays, False, image, options)


def pixel_weight(options, mask, shape):
    """`background.weight` [B,1,H,W] of a mask [B,h,w] of latent cells for pictures [...,H,W]."""
    factor = shape[-1] // mask.shape[-1]
    pixels = mask.repeat(factor, 1).repeat(factor, 2)
    return background.weight(pixels, options.grow, options.feather)[:, None]
