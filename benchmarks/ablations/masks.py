"""Beyond the paper: from a noise map to a mask. No picture is edited."""

import functools

import mindspore as ms
import numpy as np

from diffedit_core.background import dilated
from diffedit_core.options import RECIPES
from diffedit_core.parts import to_mask_of

from ..ablation import Experiment
from .beyond import random_cells

MASK = ("iou", "precision", "recall", "area")


def otsu(noise_map):
    """The threshold that makes the two sides' means most different, of each map by itself.

    Source: Otsu 1979: the largest w0 w1 (m0 - m1)^2 over all thresholds.
    """
    maps, masks = noise_map.asnumpy().astype(np.float64), []
    for values in maps:
        ordered = np.sort(values.reshape(-1))
        below, sums = np.arange(1, len(ordered)), np.cumsum(ordered)
        above = len(ordered) - below
        distance = sums[:-1] / below - (sums[-1] - sums[:-1]) / above
        best = ordered[np.argmax(below * above * distance**2)]
        masks.append(values > best)
    return ms.Tensor(np.stack(masks).astype(np.float32))


def top(noise_map, share):
    """The cells of the largest values, a share of all, in each map."""
    limit = np.quantile(noise_map.asnumpy(), 1 - share, axis=(1, 2), keepdims=True)
    return ms.Tensor((noise_map.asnumpy() > limit).astype(np.float32))


def grown(noise_map, recipe="paper"):
    """The recipe's mask and its neighbours."""
    return ms.Tensor(dilated(to_mask_of(RECIPES[recipe])(noise_map).asnumpy()))


MASK_NOISE = Experiment(
    name="mask-noise",
    question="How noisy should the picture be, and where should the threshold be?",
    vary={
        "mask_noise_strength": (0.25, 0.35, 0.5, 0.65, 0.75),
        "mask_threshold": (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8),
    },
    measures=("iou",),
    scenes=36,
)

MASK_DRAWS = Experiment(
    name="mask-draws",
    question="How many noise draws does the mask need?",
    vary={"num_maps": (1, 2, 5, 10, 20, 30), "recipe": ("paper", "smooth")},
    measures=("iou", "best iou"),
    scenes=100,
)

MASK_DRAWS_LARGE = Experiment(
    name="mask-draws-32",
    question="How many noise draws does the mask need on latents of 32x32?",
    vary={"num_maps": (1, 2, 3, 5, 10), "recipe": ("paper", "smooth-32")},
    measures=("iou", "best iou"),
    scenes=100,
)

MASK_SEEDS = Experiment(
    name="mask-seeds",
    question="How much do the random draws change the mask?",
    rows={"smooth-32": {"recipe": "smooth-32"}},
    measures=MASK,
    scenes=100,
    seeds=(0, 1, 2, 3, 4),
)


def mask_of(split):
    """The masks of a split that training has not shown."""
    return Experiment(
        name=f"mask-{split}",
        question=f"How much of the mask is found in the split {split}?",
        rows={
            "smooth-32": {"recipe": "smooth-32"},
            "random mask of the true size": {"mask": random_cells},
        },
        measures=MASK,
        scenes=96,
        split=split,
    )


MASK_COMPOSITIONAL = mask_of("compositional")
MASK_LIGHT = mask_of("new-light")
MASK_BACKGROUND = mask_of("new-background")
MASK_CAMOUFLAGE = mask_of("camouflage")

MASK_WAYS = Experiment(
    name="mask-ways",
    question="Which way from the map to the mask finds most of what the truth allows?",
    rows={
        "smoothed": {"mask_smoothing": 0.7},
        "clamp at a quantile": {"mask_clamp_quantile": 0.98, "mask_threshold": 0.25},
        "both, threshold 0.3: recipe smooth": {"recipe": "smooth"},
        "both, threshold 0.25": {
            "mask_smoothing": 0.7,
            "mask_clamp_quantile": 0.98,
            "mask_threshold": 0.25,
        },
        "Otsu": {"to_mask": otsu},
        "the top 15 %": {"to_mask": functools.partial(top, share=0.15)},
        "the top 25 %": {"to_mask": functools.partial(top, share=0.25)},
        "paper's, grown by a cell": {"to_mask": grown},
        "smooth's, grown by a cell": {"to_mask": functools.partial(grown, recipe="smooth")},
    },
    measures=(*MASK, "best iou"),
    scenes=100,
)
