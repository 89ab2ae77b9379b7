"""Beyond the paper: guidances apart, soft masks, integrators, draws, and the bounds of mask and
picture."""

import functools

import numpy as np

from diffedit_core.errors import InputError
from diffedit_core.mask import normalise
from diffedit_core.options import Options

from ..ablation import Experiment
from ..orchard.world import on_grid

EDIT = ("recognised", "background psnr", "edit psnr")


def soft(noise_map, power):
    """The clamped map itself, or a power of it, as a mask that mixes."""
    return normalise(noise_map, Options().mask_clamp_ratio) ** power


def true_cells(subject, size):
    """The oracle's mask: the cells that the true edit changes."""
    if subject.mask is None:
        raise InputError("The oracle's mask needs the true mask: give one with each picture.")
    return on_grid(subject.mask, subject.mask.shape[0] // size[0])


def random_cells(subject, size):
    """As many cells as the true mask has, anywhere."""
    cells = true_cells(subject, size)
    return np.random.default_rng(subject.seed).permuted(cells.reshape(-1)).reshape(size)


def all_cells(subject, size):
    return np.ones(size)


def source_of(subject):
    return subject.source


def true_edit(subject):
    if subject.truth is None:
        raise InputError("The true edit is not known of pictures of your own: leave it out.")
    return subject.truth


GUIDANCES = Experiment(
    name="guidances",
    question="Guidance of the inversion and of the decoding, apart: what does each cost?",
    base={"inversion_prompt": "source"},
    vary={"inversion_guidance_scale": (1.0, 3.0, 7.5), "guidance_scale": (1.0, 3.0, 7.5)},
    measures=EDIT,
    scenes=36,
)

SOFT = Experiment(
    name="soft",
    question="Is a mask that mixes better than one that chooses?",
    rows={f"map to the power {p}": {"to_mask": functools.partial(soft, power=p)} for p in (1, 2)},
    measures=("iou", *EDIT),
    scenes=36,
)

INTEGRATORS = Experiment(
    name="integrators",
    question="Does another integrator make better edits?",
    vary={"integrator": ("ddim", "dpmpp_2m", "edict", "belm", "anderson")},
    measures=EDIT,
    scenes=36,
)

SEEDS = Experiment(
    name="edit-seeds",
    question="How much do the random draws change the edit?",
    rows={"smooth-32": {"recipe": "smooth-32"}},
    measures=("iou", *EDIT),
    scenes=36,
    seeds=(0, 1, 2, 3, 4),
)

BASELINES = Experiment(
    name="baselines",
    question="Between which bounds do mask and picture lie?",
    rows={
        "mask of all cells": {"mask": all_cells},
        "random mask of the true size": {"mask": random_cells},
        "true mask": {"mask": true_cells},
        "the source": {"answer": source_of},
        "the true edit": {"answer": true_edit},
    },
    measures=("iou", "recognised", "background psnr", "csfid"),
    scenes=100,
)
