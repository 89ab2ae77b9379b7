"""The noise schedule, the step grid, and DDIM steps in both directions. No model in sight.

Coefficients are computed in float64 and cast last, to the dtype of the latents that they multiply.
"""

import math
from typing import NamedTuple

import numpy as np

from .errors import InputError

# MindSpore is imported where a tensor is made: the command line reads the table of integrators for
# its help, and answers at once.


def betas(config):
    """The variances of the forward process for a `SchedulerConfig`: float64 [num_train_timesteps].

    linear: from beta_start to beta_end; scaled_linear: the same for their square roots (latent
        diffusion);
    squaredcos_cap_v2: from alpha(t) = cos^2((t + 0.008) / 1.008 pi/2), capped at 0.999 (Nichol &
        Dhariwal 2021, eq. 17).
    """
    n = config.num_train_timesteps
    if config.trained_betas is not None:
        values = np.asarray(config.trained_betas, np.float64)
        if len(values) != n:
            raise InputError(
                f"'trained_betas' has {len(values)} values for {n} 'num_train_timesteps': they "
                "have to agree."
            )
    elif config.beta_schedule == "linear":
        values = np.linspace(config.beta_start, config.beta_end, n)
    elif config.beta_schedule == "scaled_linear":
        values = np.linspace(config.beta_start**0.5, config.beta_end**0.5, n) ** 2
    else:
        bar = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * np.pi / 2) ** 2
        values = np.minimum(1 - bar[1:] / bar[:-1], 0.999)
    return rescale_to_zero_snr(values) if config.rescale_betas_zero_snr else values


def rescale_to_zero_snr(values):
    """Betas shifted and scaled so that sqrt(alphas_cumprod) ends at 0 and starts where it did (Lin
    et al. 2023, alg. 1)."""
    root = np.sqrt(np.cumprod(1 - values))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    bar = root**2
    return 1 - np.concatenate((bar[:1], bar[1:] / bar[:-1]))


def alphas_cumprod(config):
    """a(t) = prod_{s<=t} (1 - beta_s): float64 [num_train_timesteps], decreasing, in (0,1] (0 last
    with zero SNR)."""
    return np.cumprod(1 - betas(config))


NO_SIGNAL = (
    "An eps prediction cannot leave a level whose alphas_cumprod is 0: use a v-prediction model."
)


class Levels(NamedTuple):
    """The noise levels of a grid, from clean to noisy: index 0 is the clean picture, index N the
    noisiest.

    timesteps: int64 [N+1], where the model is asked at each level (0 for the clean one).
    alphas: float64 [N+1], alphas_cumprod at each level.
    """

    timesteps: np.ndarray
    alphas: np.ndarray


def grid(config, num_inference_steps):
    """The training timesteps of `num_inference_steps` steps: int64 [N], strictly increasing, within
    [0, T-1].

    leading: i (T // N) + steps_offset; trailing: T - 1 backwards in steps of T / N; linspace: N
        points from 0 to T - 1
    (Lin et al. 2023, table 2). Where the offset would leave the range (N = T), the grid starts that
    much earlier.

    Raises:
        InputError: num_inference_steps is not in 1..T.
    """
    total, n = config.num_train_timesteps, num_inference_steps
    if not isinstance(n, (int, np.integer)) or isinstance(n, bool) or not 1 <= n <= total:
        raise InputError(
            f"The number of steps is {n!r}: it has to be a whole number from 1 to {total}."
        )
    if config.timestep_spacing == "leading":
        steps = np.arange(n) * (total // n)
        return steps + min(config.steps_offset, total - 1 - steps[-1])
    if config.timestep_spacing == "trailing":
        return np.round(total - np.arange(n)[::-1] * (total / n)).astype(np.int64) - 1
    return np.round(np.linspace(0, total - 1, n)).astype(np.int64)


def levels(config, num_inference_steps):
    """The grid with the clean level put before it.

    The clean level's alpha is 1 with `set_alpha_to_one`, else a(0), the least noise that the model
    was trained on. A step to the previous level uses the grid's own neighbour, so that both
    directions share their levels for every N.
    """
    timesteps, bar = grid(config, num_inference_steps), alphas_cumprod(config)
    clean = 1.0 if config.set_alpha_to_one else bar[0]
    return Levels(np.concatenate(([0], timesteps)), np.concatenate(([clean], bar[timesteps])))


def noise_level(config, strength, num_inference_steps=None):
    """(timestep, alpha) of a noise whose strength is a share of the schedule.

    Without a number of steps t = min(round(strength T), T - 1), so that it does not depend on the
    grid; with one it is the level int(N strength) of that grid: 481 for SD 2.1 at N = 50 and
    strength 0.5.

    Raises:
        InputError: on a grid, the strength rounds to the clean picture.
    Source: DiffEdit, section 3.2, step 1 ("50 % noise"); the grid's as in the public pipeline.
    """
    total = config.num_train_timesteps
    if num_inference_steps is None:
        timestep = min(round(strength * total), total - 1)
    else:
        level = int(num_inference_steps * strength)
        if level < 1:
            raise InputError(
                f"mask_noise_strength {strength} of {num_inference_steps} steps rounds "
                "to no noise: raise one."
            )
        timestep = int(grid(config, num_inference_steps)[level - 1])
    return timestep, float(alphas_cumprod(config)[timestep])


def limited_guidance(config, levels, scale, interval):
    """The guidance scale at each level, float64 [N+1]: `scale` where low <= t / T <= high, else 1,
    which is none.

    The noise level of a step is the training timestep t at which the model is asked, as a share of
    all T. (0, 1) holds every level, (1, 1) none.

    Source: Kynkäänniemi et al. 2024 (arXiv 2404.07724), whose interval is one of sigma.
    """
    share, (low, high) = levels.timesteps / config.num_train_timesteps, interval
    return np.where((low <= share) & (share <= high), scale, 1.0)


def scalar(value, like):
    """A float64 coefficient in the dtype of `like`, a tensor or a numpy array; so all functions
    here take either.

    (A bare Python float times a tensor would pass through float32.)
    """
    if isinstance(like, (np.ndarray, np.generic)):
        return like.dtype.type(value)

    import mindspore as ms

    kinds = {ms.float64: np.float64, ms.float32: np.float32, ms.float16: np.float16}
    if like.dtype in kinds:
        return ms.Tensor(kinds[like.dtype](value))
    return ms.Tensor(np.float32(value)).astype(like.dtype)


def ddim_coefficients(alpha_from, alpha_to):
    """(c_x, c_eps) of the step x_to = c_x x + c_eps eps, in float64.

    c_x = sqrt(a_to/a_from), c_eps = sqrt(1-a_to) - sqrt(a_to (1-a_from)/a_from).

    Raises:
        ValueError: alpha_from is 0, where eps says nothing about the picture.
    Source: Song et al. 2021 (arXiv 2010.02502), eq. 12; DiffEdit, eq. 2.
    """
    if alpha_from <= 0:
        raise ValueError(NO_SIGNAL)
    c_x = math.sqrt(alpha_to / alpha_from)
    return c_x, math.sqrt(1 - alpha_to) - math.sqrt(alpha_to * (1 - alpha_from) / alpha_from)


def ddim_step(x, eps, alpha_from, alpha_to):
    """One DDIM step with a given eps between two noise levels, in either direction.

    x_to = sqrt(a_to) x0 + sqrt(1 - a_to) eps with x0 = (x - sqrt(1-a_from) eps) / sqrt(a_from),
    sorted by x and eps.

    Args:
        x: latents at alpha_from, any shape.
        eps: noise, the same shape.
        alpha_from, alpha_to: alphas_cumprod of the two levels, float64 in [0,1].
    Returns:
        Latents at alpha_to, in x's dtype.
    Raises:
        ValueError: alpha_from is 0.
    Source: Song et al. 2021 (arXiv 2010.02502), eq. 12; DiffEdit (arXiv 2210.11427), eq. 2 and 3.
    Laws: a step to its own level is the identity; steps a->b->c with one eps equal a->c; the
        reverse step undoes it.
    """
    c_x, c_eps = ddim_coefficients(alpha_from, alpha_to)
    return scalar(c_x, x) * x + scalar(c_eps, x) * eps


def ddim_sigma(alpha_from, alpha_to, eta):
    """eta sqrt((1-a_to)/(1-a_from)) sqrt(1 - a_from/a_to): the noise of a stochastic step (Song et
    al. 2021, eq. 16)."""
    return eta * math.sqrt((1 - alpha_to) / (1 - alpha_from) * (1 - alpha_from / alpha_to))


def add_noise(x0, noise, alpha, sigma=0.0):
    """x_t = sqrt(a) x0 + sqrt(1-a-sigma^2) noise, all of one shape (Ho et al. 2020, eq. 4;
    DiffEdit, eq. 1).

    With `sigma` the rest, sigma times fresh noise, is left to the caller.
    """
    return (
        scalar(math.sqrt(alpha), x0) * x0
        + scalar(math.sqrt(max(0.0, 1 - alpha - sigma**2)), x0) * noise
    )


def denoised(out, x, alpha, prediction_type="epsilon"):
    """(x0, eps) that a prediction stands for, with x at alpha.

    Raises:
        ValueError: an eps prediction at alpha = 0, which says nothing about the picture.
    """
    if prediction_type == "v_prediction":
        return v_to_x0(out, x, alpha), v_to_eps(out, x, alpha)
    if alpha <= 0:
        raise ValueError(NO_SIGNAL)
    return eps_to_x0(out, x, alpha), out


def v_to_eps(v, x, alpha):
    """eps = sqrt(a) v + sqrt(1-a) x."""
    return scalar(math.sqrt(alpha), x) * v + scalar(math.sqrt(1 - alpha), x) * x


def v_to_x0(v, x, alpha):
    """x0 = sqrt(a) x - sqrt(1-a) v."""
    return scalar(math.sqrt(alpha), x) * x - scalar(math.sqrt(1 - alpha), x) * v


def eps_to_x0(eps, x, alpha):
    """x0 = (x - sqrt(1-a) eps) / sqrt(a), for a > 0."""
    return (x - scalar(math.sqrt(1 - alpha), x) * eps) * scalar(1 / math.sqrt(alpha), x)


def guide(unconditional, conditional, scale):
    """u + g (c - u): classifier-free guidance on any of the predictions, which are all linear (Ho &
    Salimans 2022, eq. 6)."""
    return unconditional + scalar(scale, conditional) * (conditional - unconditional)
