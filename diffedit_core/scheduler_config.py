"""The noise schedule's configuration."""

from dataclasses import dataclass

from .settings import check, check_kinds, is_count, read_settings


@dataclass(frozen=True)
class SchedulerConfig:
    """The noise schedule and the step grid (diffusers' DDIMScheduler, and what it takes over from
    PNDM's file)."""

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

    NEUTRAL = {"clip_sample": (False,), "thresholding": (False,)}
    IGNORED = frozenset(
        "clip_sample_range dynamic_thresholding_ratio sample_max_value skip_prk_steps".split()
    )

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
        """Raises InputError for a key that is unknown or not honoured.

        `clip_sample` must be false: clipping latents to [-1, 1] makes no sense, and a clipped step
        cannot be inverted.
        """
        return read_settings(cls, mapping, where, cls.NEUTRAL, cls.IGNORED)
