"""The noise schedule's configuration, also where its file is of another sampler than DDIM.

Most shared models ship the settings of the sampler that their author liked best. What defines the
noise levels is kept, what only steers that sampler is ignored with one warning, and what says that
the model was trained on something else is refused.
"""

import warnings
from dataclasses import dataclass

from .errors import InputError
from .settings import check, check_kinds, is_count, read_settings

# Samplers whose settings DDIM has too, or that Stable Diffusion's own files name: nothing is lost.
OWN = frozenset(
    "DDIMScheduler DDIMInverseScheduler DDIMParallelScheduler PNDMScheduler FlaxDDIMScheduler "
    "FlaxPNDMScheduler".split()
)

# Samplers over the same noise levels: alphas_cumprod of betas, and a model of noise or velocity.
OTHERS = frozenset(
    "DDPMScheduler DDPMParallelScheduler DEISMultistepScheduler DPMSolverMultistepScheduler "
    "DPMSolverMultistepInverseScheduler DPMSolverSinglestepScheduler DPMSolverSDEScheduler "
    "EulerDiscreteScheduler EulerAncestralDiscreteScheduler HeunDiscreteScheduler "
    "KDPM2DiscreteScheduler KDPM2AncestralDiscreteScheduler LCMScheduler LMSDiscreteScheduler "
    "RePaintScheduler SASolverScheduler TCDScheduler UniPCMultistepScheduler FlaxDDPMScheduler "
    "FlaxDPMSolverMultistepScheduler FlaxEulerDiscreteScheduler FlaxLMSDiscreteScheduler".split()
)

# Their settings that choose steps within these levels, or how to take one.
STEERING = frozenset(
    "algorithm_type clip_sample_range corrector_order disable_corrector "
    "dynamic_thresholding_ratio eta euler_at_final final_sigmas_type flow_shift "
    "interpolation_type lambda_min_clipped lower_order_final noise_sampler_seed "
    "original_inference_steps predict_x0 predictor_order sample_max_value sigma_max sigma_min "
    "skip_prk_steps solver_order solver_p solver_type tau_func time_shift_type "
    "timestep_scaling use_beta_sigmas use_exponential_sigmas use_karras_sigmas "
    "use_lu_lambdas".split()
)

# Defaults of the samplers that are made for Stable Diffusion's own levels.
LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
DEFAULTS = {"LCMScheduler": LATENT, "TCDScheduler": LATENT}

# Settings that leave the neutral value only for a model of another kind.
TRAINED = {
    "use_flow_sigmas": (False,),
    "use_dynamic_shifting": (False,),
    "shift_terminal": (None,),
    "timestep_type": ("discrete",),
    "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
}


@dataclass(frozen=True)
class SchedulerConfig:
    """The noise schedule and the step grid, as diffusers' DDIMScheduler makes them of any
    sampler's file."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: tuple = None
    prediction_type: str = "epsilon"
    timestep_spacing: str = "leading"
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    rescale_betas_zero_snr: bool = False

    # clipping latents to [-1, 1] makes no sense, and a clipped step cannot be inverted
    NEUTRAL = {"clip_sample": (False,), "thresholding": (False,)}

    def __post_init__(self):
        check_kinds(
            self,
            num_train_timesteps="count",
            beta_start="beta",
            beta_end="beta",
            trained_betas="betas",
            set_alpha_to_one="flag",
            rescale_betas_zero_snr="flag",
        )
        check(
            self.steps_offset == 0
            and self.steps_offset is not False
            or is_count(self.steps_offset),
            f"'steps_offset' is {self.steps_offset!r}, expected a whole number from 0 up.",
        )
        for name, known in (
            ("prediction_type", ("epsilon", "v_prediction")),
            ("timestep_spacing", ("leading", "trailing", "linspace")),
            ("beta_schedule", ("linear", "scaled_linear", "squaredcos_cap_v2")),
        ):
            check(
                getattr(self, name) in known,
                f"{name!r} is {getattr(self, name)!r}, implemented are {', '.join(known)}.",
            )

    @classmethod
    def read(cls, mapping, where="scheduler/scheduler_config.json"):
        """The noise levels of a sampler's settings; warns once where DDIM stands in for another.

        Raises:
            InputError: a key is unknown or not honoured, or the sampler is not one of diffusion's.
        """
        name = mapping.get("_class_name") if isinstance(mapping, dict) else None
        if name is None or name in tuple(OWN):
            return read_settings(cls, mapping, where, cls.NEUTRAL | TRAINED, STEERING)
        if name not in tuple(OTHERS):
            kind = " of flow matching," if "Flow" in str(name) else ""
            raise InputError(
                f"{where}: '_class_name' is {name!r},{kind} none of the samplers over the noise "
                "levels that Stable Diffusion 1 and 2 are trained on: use a model of these, or "
                "the file of its DDIMScheduler."
            )
        sampling = STEERING | set(cls.NEUTRAL)
        config = read_settings(cls, DEFAULTS.get(name, {}) | mapping, where, TRAINED, sampling)
        ignored = sorted(key for key in mapping if key in sampling)
        warnings.warn(
            f"{where} is of {name}: DDIM runs on its noise levels"
            + (f", without {', '.join(ignored)}." if ignored else "."),
            stacklevel=2,
        )
        return config
