"""A variant's edit of a batch, on `diffedit_core.edit`."""

import time

import numpy as np

from diffedit_core.draws import draws
from diffedit_core.edit import edit
from diffedit_core.errors import InputError
from diffedit_core.parts import Parts, everywhere

from ..orchard.methods import Outcome, latent_shape
from .identity import digest


def run(variant, subjects, model, keep):
    """The `Outcome` of a variant for subjects [B]; its pictures are None if it stops before.

    Args:
        variant: `experiment.Variant`.
        keep: as in `parts.Run`.
    """
    sources = np.stack([subject.source for subject in subjects])
    if variant.get("answer") is not None:
        answered = [np.asarray(variant.get("answer")(s), np.float32) for s in subjects]
        return Outcome(np.stack(answered), None, None)
    options, shape = variant.options, latent_shape(model, sources.shape)
    mask = _given_masks(variant, subjects, shape[1:])
    if mask is not None and variant.only_mask:
        return Outcome(None, mask, None)
    parts = Parts.of(options)._replace(**variant.functions)
    found = edit(
        model,
        sources,
        _texts(variant.prompt("source"), subjects),
        [_texts(variant.prompt("target"), subjects)],
        options,
        draws(options, [subject.seed for subject in subjects], shape),
        _texts(variant.prompt("negative"), subjects),
        _texts(variant.prompt("mask_negative"), subjects),
        _texts(variant.prompt("inversion_negative"), subjects),
        mask=mask,
        only_mask=variant.only_mask,
        parts=parts,
        keep=keep,
    )[0]
    if found is None:  # a plan
        return None
    looked = mask is not None or parts.to_mask is not everywhere
    image = None if variant.only_mask else found.image
    return Outcome(image, found.mask if looked else None, found.noise_map, found)


def _given_masks(variant, subjects, size):
    function = variant.get("mask")
    if function is None:
        return None
    masks = np.stack([np.asarray(function(s, size), np.float32) for s in subjects])
    if masks.shape[1:] != size or not (masks >= 0).all() or not (masks <= 1).all():
        raise InputError(
            f"{variant.label}: its mask is {list(masks.shape[1:])}, it has to be {list(size)} with "
            "values from 0 to 1."
        )
    return masks


def _texts(prompt, subjects):
    """A text for each subject."""
    if callable(prompt):
        return [prompt(subject) for subject in subjects]
    captions = {"source": [s.caption for s in subjects], "target": [s.target for s in subjects]}
    return captions.get(prompt, [prompt] * len(subjects))


def context(model_digest, program, subjects):
    """What the values of a batch depend on beside their keys."""
    return digest(model_digest, program, [(s.seed, s.source) for s in subjects])


class Counted:
    """A model that counts the latents that its UNet is asked about, and the seconds in which its
    graphs compile and run for the first time."""

    def __init__(self, model):
        self.model, self.evaluations, self.compiling, self._since = model, 0, 0.0, 0.0
        model.on_compile = self._compiles

    def __getattr__(self, name):
        return getattr(self.model, name)

    def _compiles(self, text):
        """`Model.on_compile`: a text before, "" after."""
        if text:
            self._since = time.perf_counter()
        else:
            self.compiling += time.perf_counter() - self._since

    def clock(self):
        """Seconds without those: whichever variant needs a graph first does not pay for it."""
        return time.perf_counter() - self.compiling

    def predict(self, latents, timestep, states):
        self.evaluations += latents.shape[0]
        return self.model.predict(latents, timestep, states)

    def evaluate(self, latents, *inputs):
        self.evaluations += latents.shape[0]
        return self.model.evaluate(latents, *inputs)
