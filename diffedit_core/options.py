"""What a run can vary, each option declared once, and the recipes: DiffEdit as the paper has it,
with a smoother mask, and as the public pipeline does it.

Checks, the flags of the command line with their help, the keys of caches, and the table in the
notes all follow from the declarations. Nothing here imports MindSpore, so that `--help` is quick.
"""

import dataclasses
import numbers
from dataclasses import dataclass

from .background import KINDS
from .declare import AT_LEAST_0, BELOW_1, POSITIVE, QUANTILE, SHARE, flag, interval, number, one_of
from .declare import option, optional, whole
from .errors import InputError
from .integrators import INTEGRATORS

# The stages of an edit, each with those whose results it takes.
STAGES = {
    "encode": (),
    "maps": ("encode",),
    "mask": ("maps",),
    "trail": ("encode",),
    "decode": ("mask", "trail"),
    "picture": ("decode",),
}


@dataclass(frozen=True)
class Options:
    """Everything that a run can vary. A recipe is nothing but one of these."""

    # encode
    sample_posterior: bool = option(
        False, flag(), "encode", "draw the latents from the posterior instead of taking its mean"
    )

    # maps
    num_maps: int = option(
        10, whole(1), "maps", "noise draws that are averaged for the mask (the paper's n)"
    )
    mask_noise_strength: float = option(
        0.5, SHARE, "maps", "how noisy the picture is when the mask is looked for"
    )
    map_batch: int = option(
        1, whole(1), "maps", "noise draws in one UNet batch; memory and speed only", cost=True
    )
    posterior_per_map: bool = option(
        False, flag(), "maps", "draw the latents from the posterior anew for each noise map"
    )
    guided_mask: bool = option(
        False, flag(), "maps", "guide the predictions whose difference makes the mask"
    )
    mask_on_grid: bool = option(
        False, flag(), "maps", "noise for the mask at a timestep of the grid, not at strength T"
    )

    # mask
    mask_clamp_ratio: float = option(
        3.0,
        POSITIVE,
        "mask",
        "cut the noise map off at this many times its mean",
        unless="mask_clamp_quantile",
    )
    mask_clamp_quantile: float = option(
        0.0, QUANTILE, "mask", "cut it off at this quantile instead, such as 0.98; 0 is at the mean"
    )
    mask_smoothing: float = option(
        0.0,
        AT_LEAST_0,
        "mask",
        "Gaussian over the noise map, standard deviation in latent cells; 0 is none",
    )
    mask_threshold: float = option(
        0.5, BELOW_1, "mask", "cells above this share of the cut are edited"
    )
    clamp_over: str = option(
        "image",
        one_of(("image", "batch")),
        "mask",
        "statistics of each image by itself, or of the whole batch",
        also={"trail": "num_reg_steps"},
        batch=True,
    )

    # trail
    num_inference_steps: int = option(
        50,
        whole(1),
        "trail",
        "steps of the whole grid, N",
        flag="steps",
        also={"maps": "mask_on_grid"},
    )
    encode_ratio: float = option(0.8, SHARE, "trail", "how deep to invert, the paper's r")
    round_steps: str = option(
        "nearest", one_of(("nearest", "down")), "trail", "rounding of K = N r, the steps inverted"
    )
    integrator: str = option(
        "ddim", one_of(INTEGRATORS), "trail", "integrator of inversion and decoding"
    )
    reuse_features: int = option(
        1,
        whole(1),
        "trail",
        "compute the UNet's deep features at every so many evaluations of the inversion and of the "
        "decoding, and reuse them in between; a shortcut",
    )
    inversion_prompt: str = option(
        "empty", one_of(("empty", "source")), "trail", "prompt of the inversion"
    )
    inversion_guidance_scale: float = option(
        1.0, number(), "trail", "guidance of the inversion; needs --inversion-prompt source"
    )
    inversion_timestep: str = option(
        "current",
        one_of(("current", "destination")),
        "trail",
        "ask the model at the level that x is at, or at the one that the step leads to",
    )
    num_reg_steps: int = option(
        0, whole(0), "trail", "gradient steps in each step that make the noise whiter; 0 is none"
    )
    lambda_auto_corr: float = option(
        20.0,
        AT_LEAST_0,
        "trail",
        "size of these steps against the noise's correlation with itself",
        needs="num_reg_steps",
    )
    lambda_kl: float = option(
        20.0,
        AT_LEAST_0,
        "trail",
        "size of these steps towards mean 0 and variance 1",
        needs="num_reg_steps",
    )
    num_auto_corr_rolls: int = option(
        5, whole(1), "trail", "shifts that each of these steps compares", needs="num_reg_steps"
    )

    # decode
    guidance_scale: float = option(
        7.5,
        number(),
        "decode",
        "classifier-free guidance of the decoding, and of a guided mask; 1 is none",
        also={"maps": "guided_mask"},
    )
    guidance_interval: tuple = option(
        (0.0, 1.0),
        interval(),
        "decode",
        "guide the decoding only at timesteps between these shares of the training's; a shortcut: "
        "outside, half the evaluations",
    )
    decode_window: int = option(
        None,
        optional(whole(0)),
        "decode",
        "decode only the mask's window and so many latent cells around it; a shortcut: the model "
        "sees no more than that",
    )
    blend_level: str = option(
        "same",
        one_of(("same", "noisier")),
        "decode",
        "noise level of the background: the edit's, or one above",
    )

    # picture
    background: str = option(
        "restored", one_of(KINDS), "picture", "what comes back outside the mask"
    )
    grow: int = option(
        4, whole(0), "picture", "pixels by which the mask grows for that", needs="background"
    )
    feather: int = option(
        4, whole(0), "picture", "pixels over which the grown mask falls off", needs="background"
    )

    def __post_init__(self):
        for name, declared in DECLARED.items():
            value = getattr(self, name)
            if declared.check.parts and isinstance(value, list):  # of a command line, of JSON
                value = tuple(value)
                object.__setattr__(self, name, value)
            if not declared.check.holds(value):
                number_wanted = declared.check.kind is float and not declared.check.parts
                no_number = number_wanted and not isinstance(value, numbers.Real)
                wanted = "a number" if no_number else declared.check.wanted()
                raise InputError(f"{name} is {value!r}: it has to be {wanted}.")
        self._check_together()

    def _check_together(self):
        if self.inversion_prompt == "empty" and self.inversion_guidance_scale != 1:
            raise InputError(
                f"inversion_guidance_scale is {self.inversion_guidance_scale}, but the inversion "
                "uses the empty prompt, which guidance does not change: invert with the source "
                "prompt (--inversion-prompt source)."
            )
        record = INTEGRATORS[self.integrator]
        if self.num_reg_steps and record.exact:
            raise InputError(
                "num_reg_steps changes the predictions of the inversion only, so that it would not "
                f"be exact any more: leave it at 0, or use integrator {inexact()}."
            )
        if self.reuse_features > 1 and record.exact:
            raise InputError(
                "reuse_features makes a prediction depend on those before it, so that the "
                f"inversion would not be exact any more: leave it at 1, or use integrator "
                f"{inexact()}."
            )
        if self.num_encode_steps < record.least_steps:
            if self.num_encode_steps >= 1:
                raise InputError(
                    f"integrator {self.integrator} starts with latents of {record.least_steps} "
                    f"levels: invert at least {record.least_steps} steps."
                )
            raise InputError(
                f"encode_ratio {self.encode_ratio} of {self.num_inference_steps} steps rounds to "
                "no step: raise one of them."
            )

    @property
    def num_encode_steps(self):
        """K, the number of steps of the inversion and of the decoding."""
        steps = self.num_inference_steps * self.encode_ratio
        return int(steps) if self.round_steps == "down" else max(1, round(steps))

    @property
    def mask_guidance_scale(self):
        """The guidance of the predictions whose difference makes the mask; 1 is none."""
        return self.guidance_scale if self.guided_mask else 1.0

    def replace(self, **changes):
        """The same options with some changed; None leaves one as it is."""
        return dataclasses.replace(self, **{k: v for k, v in changes.items() if v is not None})


DECLARED = {field.name: field.metadata["declared"] for field in dataclasses.fields(Options)}


def inexact():
    """The names of the integrators whose inversion is no more than an approximation."""
    return " or ".join(name for name, record in INTEGRATORS.items() if not record.exact)


def stages_of(name, options=None):
    """The stages that look at an option, whatever the others are, or with these options."""
    declared = DECLARED[name]
    also = [s for s, by in declared.also.items() if options is None or getattr(options, by)]
    return (declared.stage, *also)


def looked_at(options, stage):
    """{name: value} of the options that the result of a stage depends on, those before included."""
    stages, waiting = set(), [stage]
    while waiting:
        stages.add(waiting[-1])
        waiting.extend(STAGES[waiting.pop()])
    return {
        name: getattr(options, name)
        for name, declared in DECLARED.items()
        if not declared.cost and stages & set(stages_of(name, options))
    }


def rows(guidance_scale):
    """UNet rows that one prediction takes: two with classifier-free guidance, else one."""
    return 1 if guidance_scale == 1 else 2


RECIPES = {
    # Couairon et al. 2022, algorithm of section 3.2, with the constants that the public pipeline
    # fills in.
    "paper": Options(),
    # The paper's with a mask of fewer holes.
    "smooth": Options(mask_smoothing=0.7, mask_clamp_quantile=0.98, mask_threshold=0.3),
    # The same for 32x32 cells, which take more noise to hide as much: chosen on the Orchard's
    # validation scenes, benchmarks/orchard/README.md.
    "smooth-32": Options(
        mask_noise_strength=0.6, mask_smoothing=0.5, mask_clamp_quantile=0.99, mask_threshold=0.2
    ),
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
        background="decoded",
    ),
}
