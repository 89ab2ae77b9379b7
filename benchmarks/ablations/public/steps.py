"""One step of a public scheduler as an integrator that tests/laws.py can ask."""

import functools
from typing import NamedTuple

import numpy as np

from .packages import prediction_of, take


class Manner(NamedTuple):
    """How a scheduler is asked."""

    prediction: str = "epsilon"
    clip: bool = False  # clip_sample, which the public classes have on by default
    ahead: bool = False  # up, ask the model where the step leads, as the public pipeline does


MANNERS = {
    "eps": Manner(),
    "v": Manner("v_prediction"),
    "sample": Manner("sample"),
    "eps, asked ahead": Manner(ahead=True),
    "v, asked ahead": Manner("v_prediction", ahead=True),
    "eps, clip_sample": Manner(clip=True),
}


def integrator(package, manner, exact=False):
    """A step function with the contract of tests/laws.py that takes the package's steps.

    Args:
        exact: with the schedule in double precision.
    """
    from diffedit_core.integrators import State

    @functools.lru_cache(maxsize=256)
    def pair(alphas):
        return [
            with_alphas(package, of, alphas, manner, exact) for of in (package.down, package.up)
        ]

    def step(denoise, state, levels, i, j):
        x = state.latents
        scheduler = pair(tuple(levels.alphas.tolist()))[int(j > i)]
        asked = j if manner.ahead and j > i else i
        x0, eps = denoise(x, asked)
        out = prediction_of(manner.prediction, x0, eps, levels.alphas[asked])
        return State(take(package, scheduler, out, max(i, j), x))

    return step


def with_alphas(package, of, alphas, manner, exact):
    """A scheduler whose alphas_cumprod are these; from level k it steps to k-1 and back."""
    settings = {"prediction_type": manner.prediction, "clip_sample": manner.clip}
    betas = 1 - np.array(alphas) / np.array((1.0, *alphas[:-1]))
    scheduler = of(
        num_train_timesteps=len(alphas), trained_betas=np.clip(betas, 0, 1).tolist(), **settings
    )
    scheduler.set_timesteps(len(alphas))
    if exact:
        scheduler.alphas_cumprod = package.to(np.array(alphas, np.float64))
    return scheduler
