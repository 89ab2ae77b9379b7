"""The public schedulers' interface: noise levels, the step grid, and single DDIM steps for loops
of one's own."""

import dataclasses
from typing import NamedTuple

import numpy as np

from . import schedule
from .config import SchedulerConfig
from .errors import InputError
from .foreign import like, plain, shown, to_numpy
from .pipeline_checks import check, flag, number, whole
from .pipeline_draws import SCHEDULER, stream
from .settings import read_json
from .pipeline_loading import scheduler_file


class FrozenConfig(dict):
    """Settings that cannot be changed: config["prediction_type"], config.prediction_type,
    dict(config)."""

    def __getattr__(self, key):
        if key in self:
            return self[key]
        raise AttributeError(f"There is no setting {key!r} here, but: {', '.join(self)}.")

    def _refuse(self, key, *_):
        raise TypeError(
            f"The setting {key!r} cannot be changed: make a scheduler with "
            f"from_config(config, {key}=...)."
        )

    __setattr__ = __setitem__ = _refuse


class StepOutput(NamedTuple):
    """Latents at the level that a step leads to, and the clean latents that it was heading for."""

    prev_sample: object
    pred_original_sample: object


class DDIMScheduler:
    """The noise schedule and the step grid that the pipeline runs on; `config` are its settings.

    Attributes:
        timesteps: int64 [N], in the order in which they are taken; all of them before
            `set_timesteps`.
        betas, alphas, alphas_cumprod: float64 [T]; final_alpha_cumprod: that of the clean picture.
        init_noise_sigma: 1, and order: 1 call of the model in each step.
    """

    direction = -1
    order, init_noise_sigma = 1, 1.0

    def __init__(self, **settings):
        self.settings = SchedulerConfig.read(settings, type(self).__name__)
        self.config = FrozenConfig(dataclasses.asdict(self.settings) | {"clip_sample": False})
        self.betas = schedule.betas(self.settings)
        self.alphas = 1 - self.betas
        self.alphas_cumprod = schedule.alphas_cumprod(self.settings)
        clean = 1.0 if self.settings.set_alpha_to_one else self.alphas_cumprod[0]
        self.final_alpha_cumprod = float(clean)
        self.timesteps = np.arange(len(self))[:: self.direction].copy()
        self.num_inference_steps = None

    @classmethod
    def from_config(cls, config, **changes):
        """A scheduler with another's `config` (any mapping), some settings changed. Raises
        InputError for unknown ones."""
        mapping = hasattr(config, "keys")
        check("config", config, mapping, "a scheduler's config or another mapping of its settings")
        return cls(**{**config, **changes})

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *, subfolder=None, **hub):
        """The scheduler of a model: `subfolder` "scheduler" of a folder or a hub repository.

        Args:
            hub: revision, cache_dir, local_files_only, token, force_download, which a folder does
                not need; any setting of the scheduler, to change it.
        """
        options = {k: hub.pop(k) for k in list(hub) if k not in cls._names()}
        file = scheduler_file(pretrained_model_name_or_path, subfolder, options)
        read = SchedulerConfig.read(read_json(file), str(file))
        return cls(**{**dataclasses.asdict(read), **hub})

    @staticmethod
    def _names():
        return {field.name for field in dataclasses.fields(SchedulerConfig)}

    def __len__(self):
        return self.settings.num_train_timesteps

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.config.items())})"

    def set_timesteps(self, num_inference_steps, device=None):
        """`timesteps` becomes the grid of that many steps, int64 [N], in the order in which they
        are taken.

        They are numbers on the host; `device` needs no copy of them.
        """
        steps = whole("num_inference_steps", num_inference_steps, 1, len(self))
        self.timesteps = schedule.grid(self.settings, steps)[:: self.direction].copy()
        self.num_inference_steps = steps

    def scale_model_input(self, sample, timestep=None):
        """The sample as it is: DDIM's latents have unit variance at every level, whatever the
        timestep."""
        return sample

    def step(
        self,
        model_output,
        timestep,
        sample,
        eta=0.0,
        use_clipped_model_output=False,
        generator=None,
        variance_noise=None,
        return_dict=True,
    ):
        """One DDIM step from `timestep` to the level below it, T // N timesteps earlier.

        x_to = sqrt(a_to) x0 + sqrt(1 - a_to - sigma^2) eps + sigma noise.

        Args:
            model_output, sample: tensors or arrays of one shape; the prediction and the latents at
                `timestep`, a number.
            eta: share of fresh noise, 0 to 1, drawn from `generator` (None, a seed, a numpy
                Generator) or given as `variance_noise`, of the sample's shape.
            use_clipped_model_output: changes nothing, as nothing is clipped.
        Returns:
            `StepOutput` in the kind and dtype of `sample`, float32 where that has whole numbers; a
            plain tuple without return_dict.
        Source: Song et al. 2021 (arXiv 2010.02502), eq. 12 and 16.
        """
        flag("use_clipped_model_output", use_clipped_model_output)
        start, x, out, to = self._before_step(model_output, timestep, sample)
        eta = number("eta", eta, 0, 1, "a number from 0 to 1")
        noise = self._noise(x, timestep, generator, variance_noise) if eta else None

        sigma = schedule.ddim_sigma(start, to, eta) if eta else 0.0
        clean, eps = self._denoised(out, x, start)
        result = schedule.add_noise(clean, eps, to, sigma)
        result = result + schedule.scalar(sigma, x) * noise if eta else result
        output = StepOutput(like(result, sample), like(clean, sample))
        return output if flag("return_dict", return_dict) else tuple(output)

    def add_noise(self, original_samples, noise, timesteps):
        """sqrt(a_t) x0 + sqrt(1-a_t) noise, each row at its own timestep of [B], or all at one."""
        rows = self._rows(original_samples, noise, timesteps, "original_samples")
        noisy = [schedule.add_noise(x, n, a) for x, n, a in rows]
        return like(np.stack(noisy), original_samples)

    def get_velocity(self, sample, noise, timesteps):
        """v = sqrt(a_t) noise - sqrt(1-a_t) x0, what a v-prediction model learns; as in
        `add_noise`."""
        rows = self._rows(sample, noise, timesteps, "sample")
        return like(np.stack([schedule.add_noise(n, -x, a) for x, n, a in rows]), sample)

    def _before_step(self, model_output, timestep, sample):
        """(alpha at the step's start, sample, prediction, alpha at its end), checked."""
        if self.num_inference_steps is None:
            raise InputError("The scheduler has no steps yet: call set_timesteps first.")
        t = whole("timestep", timestep, 0, len(self) - 1)
        x, out = _floats("sample", sample), _floats("model_output", model_output)
        _same_shape("model_output", out, "sample", x)
        below = t - len(self) // self.num_inference_steps
        lower = self.alphas_cumprod[below] if below >= 0 else self.final_alpha_cumprod
        start, to = (self.alphas_cumprod[t], lower)[:: -self.direction]
        return float(start), x, out, float(to)

    def _denoised(self, out, x, alpha):
        return schedule.denoised(out, x, alpha, self.settings.prediction_type)

    def _noise(self, x, timestep, generator, given):
        if given is None:
            drawn = stream(generator, SCHEDULER, int(plain(timestep))).standard_normal(x.shape)
            return drawn.astype(x.dtype)
        if generator is not None:
            raise InputError("Give either generator or variance_noise, not both.")
        noise = _floats("variance_noise", given)
        _same_shape("variance_noise", noise, "sample", x)
        return noise

    def _rows(self, clean, noise, timesteps, name):
        """(clean, noise, alpha) of each row of a batch."""
        x, n = _floats(name, clean), _floats("noise", noise)
        _same_shape("noise", n, name, x)
        check(f"{name}'s shape", x.shape, x.ndim > 0 and x.size, "[B,...]")
        steps = np.atleast_1d(to_numpy(timesteps, "timesteps"))
        inside = steps.size and steps.min() >= 0 and steps.max() < len(self)
        good = steps.dtype.kind in "iu" and steps.ndim == 1 and inside
        check("timesteps", timesteps, good, f"whole numbers from 0 to {len(self) - 1}")
        count = f"one, or one for each of {len(x)} samples"
        check("the number of timesteps", len(steps), len(steps) in (1, len(x)), count)
        return zip(x, n, self.alphas_cumprod[np.broadcast_to(steps, len(x))].tolist())


class DDIMInverseScheduler(DDIMScheduler):
    """The same levels, from the clean picture up."""

    direction = 1

    @property
    def initial_alpha_cumprod(self):
        """alphas_cumprod of the clean picture."""
        return self.final_alpha_cumprod

    def step(self, model_output, timestep, sample, return_dict=True):
        """One DDIM step up to `timestep`, from the level T // N timesteps below it; else as
        `DDIMScheduler.step`."""
        return super().step(model_output, timestep, sample, return_dict=return_dict)


def _floats(name, value):
    """An array of float32, or of float64 where it is one."""
    array = to_numpy(value, name)
    check(name, value, np.isfinite(array).all(), "finite everywhere")
    return array if array.dtype == np.float64 else array.astype(np.float32)


def _same_shape(name, array, other, sample):
    if array.shape != sample.shape:
        raise InputError(
            f"{name} is {shown(array)}, {other} {shown(sample)}: give both in one shape."
        )
