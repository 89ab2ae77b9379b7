"""The functions that an edit is made of, and what its stages share.

`Parts.of(options)` are the functions that the options name. An experiment replaces one or more:
`parts._replace(trail=noised, to_mask=everywhere)` is SDEdit.
"""

import functools
from typing import Any, Callable, NamedTuple

from mindspore import ops

from . import mask as masks
from . import schedule, walk
from .errors import InputError
from .integrators import INTEGRATORS, State
from .options import DECLARED, Options, looked_at


def mask_of(noise_map, options):
    """The mask that `options` make of a noise map, [B,h,w] both: smoothed, clamped, binarised."""
    smoothed = masks.smooth(noise_map, options.mask_smoothing)
    normalised = masks.normalise(
        smoothed, options.mask_clamp_ratio, options.clamp_over, options.mask_clamp_quantile
    )
    return masks.threshold(normalised, options.mask_threshold)


def to_mask_of(options):
    """`mask_of` with these options: the same function for the same options of the mask, so that it
    can be part of a key."""
    own = {n: getattr(options, n) for n, declared in DECLARED.items() if declared.stage == "mask"}
    return _to_mask(Options(**own))


@functools.lru_cache(maxsize=None)
def _to_mask(options):
    return functools.partial(mask_of, options=options)


def everywhere(noise_map):
    """The mask of an edit without a mask: 1 in every cell. `edit` looks for no map then."""
    return ops.ones_like(noise_map)


def blend(edited, background, mask):
    """`mask.blend` of the latents and, where the state has one, of the coupled latent; a background
    without a coupled latent lends its latents."""
    coupled = edited.coupled
    if coupled is not None:
        behind = background.latents if background.coupled is None else background.coupled
        coupled = masks.blend(coupled, behind, mask)
    latents = masks.blend(edited.latents, background.latents, mask)
    return edited._replace(latents=latents, coupled=coupled)


def inverted(step, denoise, levels, latents, steps, noise):
    """The trajectory of the encoding: the ODE from the picture up (DiffEdit, eq. 3)."""
    return walk.up(step, denoise, levels, State(latents), steps)


def noised(step, denoise, levels, latents, steps, noise):
    """The trajectory of SDEdit: one noise, added to the picture in the strength of each level (Meng
    et al. 2021, arXiv 2108.01073)."""
    yield State(latents)
    for alpha in levels.alphas[1 : steps + 1]:
        yield State(schedule.add_noise(latents, noise, float(alpha)))


class Parts(NamedTuple):
    """The functions of an edit.

    step: (denoise, state, levels, i, j) -> state, as in integrators.py.
    difference: (prediction for the target, for the source) [...,C,h,w] -> [...,h,w].
    to_mask: noise map [B,h,w] -> mask [B,h,w] in [0,1].
    blend: (edited state, background state, mask [B,1,h,w]) -> state.
    trail: (step, denoise, levels, latents, steps, noise) -> the background's states at levels 0 to
        `steps`.
    """

    step: Callable
    difference: Callable
    to_mask: Callable
    blend: Callable
    trail: Callable

    @classmethod
    def of(cls, options):
        """The parts that the options name."""
        return cls(
            step=INTEGRATORS[options.integrator].step,
            difference=masks.channel_difference,
            to_mask=to_mask_of(options),
            blend=blend,
            trail=inverted,
        )


def compute(stage, key, function):
    """The `keep` that keeps nothing."""
    return function()


def unwatched(phase, total, iterable):
    """The `watch` that shows nothing."""
    return iterable


class Run(NamedTuple):
    """What the stages share.

    predict: the model, as in walk.py.
    config: `SchedulerConfig`.
    options, parts: `Options`, `Parts`.
    keep: called as keep(stage, key, function), gives function(), or what it gave earlier for an
        equal key. A key holds the options, sentences and functions that the value depends on; a
        cache is of one model, one batch of pictures, their draws and one tiling.
    watch: called as watch(phase, total, iterable), gives the same items: a progress bar.
    evaluate: the model with its deep features, as in `walk.reusing`; needed for `reuse_features`.
    multiple: what the sides of a `decode_window` are multiples of, `UNetConfig.factor`.
    """

    predict: Callable
    config: Any
    options: Options
    parts: Parts
    keep: Callable = compute
    watch: Callable = unwatched
    evaluate: Callable = None
    multiple: int = 1

    @classmethod
    def of(cls, model, options, parts, keep=compute, watch=unwatched):
        """The run of a `model.Model`, or of what stands for one."""
        evaluate, configs = getattr(model, "evaluate", None), model.configs
        walked = keep, watch, evaluate, configs.unet.factor
        return cls(model.predict, configs.scheduler, options, parts, *walked)

    def walked(self, step, denoise_of):
        """(step, denoise) for the loops of walk.py, of a function predict -> denoise: with
        `reuse_features` above 1 the step function of `walk.reusing`.

        Raises:
            InputError: the model has no deep features to give.
        """
        every = self.options.reuse_features
        if every == 1:
            return step, denoise_of(self.predict)
        if self.evaluate is None:
            raise InputError(
                f"reuse_features is {every}, but this model gives no deep features: leave it at 1."
            )
        return walk.reusing(step, self.evaluate, every), denoise_of

    @property
    def levels(self):
        return schedule.levels(self.config, self.options.num_inference_steps)

    def key(self, stage, *more, without=()):
        """What a value of the stage depends on, as a tuple that can be hashed."""
        found = looked_at(self.options, stage)
        options = tuple((n, v) for n, v in sorted(found.items()) if n not in without)
        return (stage, options, *more)
