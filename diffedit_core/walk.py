"""Along the levels of noise: the model as an integrator asks it, and the loops up and down.

`up` and `down` are generators: progress, callbacks and traces are the caller's loop. The laws in
tests/laws.py run these same loops.

`predict(latents [B,C,h,w], timestep, encoder_hidden_states [B,S,D]) -> [B,C,h,w]` stands for the
model, and nothing else of it is known here. `encoder_hidden_states` are only repeated and
concatenated, so that a denoiser in closed form may take anything that has a batch axis.
"""

from typing import Any, NamedTuple

import numpy as np
from mindspore import ops

from . import schedule
from .integrators import State, ddim


def repeat(x, times):
    """Each row `times` times in a row: [B,...] -> [B*times,...]."""
    return x if times == 1 else x.repeat_interleave(times, 0)


def joined(tensors, axis=0):
    """Tensors one after the other along an axis."""
    return ops.concat(tensors, axis) if len(tensors) > 1 else tensors[0]


def guided(predict, x, timestep, pairs, guidance_scale):
    """Predictions for x with classifier-free guidance, all in one batch.

    For each pair (u, c) of text states u + g (c - u), or with g = 1 the prediction for c alone.

    Args:
        x: [B,C,h,w].
        pairs: list of (unconditional, conditional) states [B,S,D]; with g = 1 the first is unused.
    Returns:
        A list with one [B,C,h,w] for each pair.
    Source: Ho & Salimans 2022 (arXiv 2207.12598), eq. 6.
    """
    alone = guidance_scale == 1
    states = [s for pair in pairs for s in (pair[1:] if alone else pair)]
    rows = predict(joined([x] * len(states)), timestep, joined(states))
    parts = [rows[i * x.shape[0] : (i + 1) * x.shape[0]] for i in range(len(states))]
    if alone:
        return parts
    return [
        schedule.guide(unconditional, conditional, guidance_scale)
        for unconditional, conditional in zip(parts[::2], parts[1::2])
    ]


def asked(predict, levels, states, negative=None, guidance_scale=1.0, ahead=0):
    """The guided prediction as a function of (x, k), x taken for a latent of level k.

    Args:
        levels: `schedule.Levels`.
        states, negative: text states [B,S,D], and those to guide away from.
        guidance_scale: a number, or one for each level of `levels`; where it is 1 only the
            conditional rows are evaluated.
        ahead: 1 asks at the timestep of the level above instead.
    """
    scales = np.broadcast_to(guidance_scale, levels.timesteps.shape)

    def ask(x, k):
        timestep, scale = int(levels.timesteps[k + ahead]), float(scales[k + ahead])
        return guided(predict, x, timestep, [(negative, states)], scale)[0]

    return ask


def denoiser(ask, levels, prediction_type="epsilon"):
    """What an integrator asks: denoise(x, k) -> (x0, eps) of the prediction for x at level k."""

    def denoise(x, k):
        return schedule.denoised(ask(x, k), x, levels.alphas[k], prediction_type)

    return denoise


class Features(NamedTuple):
    """A UNet's deep features, carried from evaluation to evaluation.

    deep: [R,C,h,w] for the R rows of the batch that they were computed for.
    age: how many evaluations have reused them.
    """

    deep: Any
    age: int = 0


def reusing(step, evaluate, every):
    """A step function whose model computes its deep features in every `every`-th evaluation of a
    walk and takes them from the evaluation before in between.

    All are computed where the state has none, as at the beginning, and where the number of rows is
    another than before. Pure: the features come in the state and go on in the result's.

    Args:
        step: as in integrators.py; its evaluations follow each other.
        evaluate: `model.Model.evaluate`, (x, timestep, states, deep or None) -> (prediction, deep).
        every: N.
    Returns:
        A step function whose `denoise` is a function of `predict` that gives one.
    Source: Ma et al. 2024 (DeepCache, arXiv 2312.00858), section 3, with a uniform N.
    Law: with N = 1 it is `step` with denoise(predict), bit for bit.
    """

    def stepped(denoise, state, levels, i, j):
        features = state.features

        def predict(x, timestep, states):
            nonlocal features
            known = features is not None and features.deep.shape[0] == x.shape[0]
            if known and features.age < every - 1:
                predicted, deep = evaluate(x, timestep, states, features.deep)
                features = Features(deep, features.age + 1)
            else:
                predicted, deep = evaluate(x, timestep, states)
                features = Features(deep)
            return predicted

        return step(denoise(predict), state, levels, i, j)._replace(features=features)

    return stepped


def up(step, denoise, levels, state, steps):
    """Towards the noise: yields the state at level 0, as given, then at 1, 2, ... `steps`.

    Args:
        step: step function of `integrators.py`.
        denoise: as in `denoiser`.
        levels: `schedule.Levels`.
        state: `integrators.State` at level 0.
    Source: DiffEdit, eq. 3: the encoder E_r.
    """
    yield state
    for i in range(steps):
        state = step(denoise, state, levels, i, i + 1)
        yield state


def down(step, denoise, levels, state, steps, hold=lambda state, level: state):
    """Towards the picture: yields the state at level `steps`, as given, then at the next, ... 0.

    Args:
        step, denoise, levels: as in `up`.
        state: `integrators.State` at level `steps`.
        hold: function (state, level) -> the state to go on with, after each step.
    Source: DiffEdit, eq. 3: the decoder D_r; `hold` is its step y <- M y + (1 - M) x.
    """
    yield state
    for i in range(steps, 0, -1):
        state = hold(step(denoise, state, levels, i, i - 1), i - 1)
        yield state


def stochastic_ddim(eta, noise, steps):
    """A step down that adds noise: DDIM's with sigma = eta sqrt((1-a_j)/(1-a_i)) sqrt(1-a_i/a_j).

    Args:
        eta: from 0 (DDIM) to 1 (DDPM).
        noise: [K,B,C,h,w] in the order of the steps, the first from the deepest level.
        steps: K.
    Returns:
        A step function.
    Source: Song et al. 2021 (arXiv 2010.02502), eq. 16.
    """

    def step(denoise, state, levels, i, j):
        sigma = schedule.ddim_sigma(levels.alphas[i], levels.alphas[j], eta)
        x = ddim(denoise, state, levels, i, j, sigma).latents
        return State(x + schedule.scalar(sigma, x) * noise[steps - i])

    return step
