"""What a run can vary, and the recipes: DiffEdit as the paper has it, with a smoother mask, and as
the public pipeline does it.
"""

import dataclasses
import numbers
from dataclasses import dataclass

import numpy as np

from . import integrators as I
from .errors import InputError


@dataclass(frozen=True)
class Options:
    """Everything that a run can vary. A recipe is nothing but one of these.

    The first group are numbers of the paper; the second are the places where implementations
    differ.
    """

    num_inference_steps: int = 50
    encode_ratio: float = 0.8  # the paper's r
    guidance_scale: float = 7.5  # 1 means no guidance
    inversion_guidance_scale: float = 1.0
    num_maps: int = 10
    mask_noise_strength: float = 0.5
    mask_clamp_ratio: float = 3.0
    mask_threshold: float = 0.5
    mask_smoothing: float = (
        0.0  # standard deviation, in latent cells, of a Gaussian over the noise map
    )
    mask_clamp_quantile: float = (
        0.0  # above 0: clamp at this quantile of the map, not at mask_clamp_ratio times its mean
    )
    map_batch: int = 1  # noise maps in one UNet batch; changes memory and speed only

    sample_posterior: bool = (
        False  # draw the picture's latents from the posterior instead of taking its mean
    )
    posterior_per_map: bool = False  # draw them anew for each noise map
    inversion_prompt: str = "empty"  # "empty" or "source"
    inversion_timestep: str = (
        "current"  # ask the model at the level that x is at, or at the step's "destination"
    )
    guided_mask: bool = False  # guide the predictions whose difference makes the mask
    mask_on_grid: bool = (
        False  # noise for the mask at a timestep of the grid, or at strength times T
    )
    clamp_over: str = (
        "image"  # the mean that clamps the noise map (and the regularisation's) is an "image"'s or the "batch"'s
    )
    blend_level: str = (
        "same"  # the background has the "same" noise level as the edit, or is one level "noisier"
    )
    round_steps: str = "nearest"  # K = N r rounded to the "nearest" number or "down"

    integrator: str = "ddim"  # of inversion and decoding: a name of `integrators.INTEGRATORS`
    inversion: str = (
        "explicit"  # of DDIM: "explicit", or the exact inverse by "fixed_point" iteration or with "anderson"
    )
    num_reg_steps: int = 0  # regularisation of the inverted noise (regularise.py)
    lambda_auto_corr: float = 20.0
    lambda_kl: float = 20.0
    num_auto_corr_rolls: int = 5

    def __post_init__(self):
        def check(condition, name, wanted):
            if not condition:
                raise InputError(f"{name} is {getattr(self, name)!r}: it has to be {wanted}.")

        for name in ("num_inference_steps", "num_maps", "map_batch", "num_auto_corr_rolls"):
            value = getattr(self, name)
            check(
                isinstance(value, int) and not isinstance(value, bool) and value >= 1,
                name,
                "a whole number from 1 up",
            )
        steps = self.num_reg_steps
        check(
            isinstance(steps, int) and not isinstance(steps, bool) and steps >= 0,
            "num_reg_steps",
            "a whole number from 0 up",
        )
        for name in (
            "encode_ratio",
            "mask_noise_strength",
            "guidance_scale",
            "inversion_guidance_scale",
            "mask_clamp_ratio",
            "mask_threshold",
            "mask_smoothing",
            "mask_clamp_quantile",
            "lambda_auto_corr",
            "lambda_kl",
        ):
            check(isinstance(getattr(self, name), numbers.Real), name, "a number")
        for name in ("sample_posterior", "posterior_per_map", "guided_mask", "mask_on_grid"):
            check(isinstance(getattr(self, name), bool), name, "True or False")
        for name in ("encode_ratio", "mask_noise_strength"):
            check(0 < getattr(self, name) <= 1, name, "above 0 and at most 1")
        for name in ("guidance_scale", "inversion_guidance_scale"):
            check(np.isfinite(getattr(self, name)), name, "a finite number")
        for name in ("lambda_auto_corr", "lambda_kl", "mask_smoothing"):
            check(0 <= getattr(self, name) < np.inf, name, "0 or a positive number")
        check(0 < self.mask_clamp_ratio < np.inf, "mask_clamp_ratio", "a positive number")
        check(0 <= self.mask_clamp_quantile <= 1, "mask_clamp_quantile", "between 0 and 1")
        check(0 <= self.mask_threshold < 1, "mask_threshold", "at least 0 and below 1")
        for name, choices in (
            ("inversion_prompt", ("empty", "source")),
            ("inversion_timestep", ("current", "destination")),
            ("clamp_over", ("image", "batch")),
            ("blend_level", ("same", "noisier")),
            ("round_steps", ("nearest", "down")),
            ("integrator", tuple(I.INTEGRATORS)),
            ("inversion", tuple(I.INVERSIONS)),
        ):
            check(getattr(self, name) in choices, name, " or ".join(map(repr, choices)))
        if self.inversion_prompt == "empty" and self.inversion_guidance_scale != 1:
            raise InputError(
                f"inversion_guidance_scale is {self.inversion_guidance_scale}, but the inversion uses the empty "
                "prompt, which guidance does not change: invert with the source prompt (--inversion-prompt source)."
            )
        if self.inversion != "explicit" and self.integrator != "ddim":
            raise InputError(
                f"inversion is {self.inversion!r}, which is of DDIM, but integrator is {self.integrator!r}: leave "
                "one of them out."
            )
        if self.num_reg_steps and (self.integrator in I.EXACT or self.inversion != "explicit"):
            raise InputError(
                "num_reg_steps changes the predictions of the inversion only, so that it would not be exact any "
                "more: leave it at 0, or use integrator ddim or dpmpp_2m with the explicit inversion."
            )
        if self.integrator == "belm" and self.num_encode_steps < 2:
            raise InputError(
                "integrator belm takes two latents of different levels: invert at least two steps."
            )
        if self.num_encode_steps < 1:
            raise InputError(
                f"encode_ratio {self.encode_ratio} of {self.num_inference_steps} steps rounds to no step: raise "
                "one of them."
            )

    @property
    def num_encode_steps(self):
        """K, the number of steps of the inversion and of the decoding."""
        steps = self.num_inference_steps * self.encode_ratio
        return int(steps) if self.round_steps == "down" else max(1, round(steps))

    def replace(self, **changes):
        """The same options with some changed; None leaves one as it is."""
        return dataclasses.replace(self, **{k: v for k, v in changes.items() if v is not None})


RECIPES = {
    # Couairon et al. 2022, algorithm of section 3.2, with the constants that the public pipeline
    # fills in.
    "paper": Options(),
    # The paper's with a mask of fewer holes: benchmarks/orchard/masks.py compares such ways from a
    # map to a mask.
    "smooth": Options(mask_smoothing=0.7, mask_clamp_quantile=0.98, mask_threshold=0.3),
    # The public pipeline with its defaults, defects included (paper_notes.md lists them).
    "diffusers": Options(
        inversion_guidance_scale=7.5,
        sample_posterior=True,
        posterior_per_map=True,
        inversion_prompt="source",
        inversion_timestep="destination",
        guided_mask=True,
        mask_on_grid=True,
        clamp_over="batch",
        blend_level="noisier",
        round_steps="down",
    ),
}
