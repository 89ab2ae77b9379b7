"""Integrators of the probability-flow ODE, up towards the noise and down towards the picture. No
model in sight.

A step function has one contract: `step(denoise, state, levels, i, j) -> State` takes the state at
level i to its neighbour j. `denoise(x, k) -> (x0, eps)` stands for the model with its guidance,
asked about x as a latent of level k; `levels` is `schedule.Levels`. A trajectory begins with
`State(x)`. The functions are pure: what an integrator carries is in its state.

`INTEGRATORS` at the end has a record for each. The laws, the command line, the plan and the
benchmark read that table, so that a new record is all that a new integrator needs.

Latents are MindSpore tensors or numpy arrays of any float dtype.

With u = x / sqrt(a) and tau = sqrt(1/a - 1) the ODE is du = eps dtau (DiffEdit, arXiv 2210.11427,
eq. 3). tests/laws.py has the laws and says which of them hold for which integrator.
"""

import functools
import math
from typing import Any, Callable, NamedTuple, Optional

import numpy as np

from . import schedule
from .errors import InputError
from .fixed_points import Note, iterate

MIXING = 0.93  # EDICT's p, as in its paper
TOLERANCE = 1e-6  # of fixed-point inversion: relative size of the last correction
ITERATIONS = 20  # of fixed-point inversion, at most, in each step
ANDERSON_MEMORY = 3  # earlier iterates that Anderson acceleration looks at


class State(NamedTuple):
    """Everything that an integrator carries from level to level.

    latents: [B,C,h,w] at the level that the state is at.
    coupled: a second latent that belongs to the state, or None: EDICT's y (None: equal to the
        first), BELM's latent of the level below (None: not known yet). It is blended as the first
        is.
    history: (level, x0 [B,C,h,w]) of the step before, or None; only ever used to continue in the
        same direction.
    note: `Note` of the step that led here, or None.
    features: `walk.Features` that the next step may reuse, or None; no integrator's own.
    """

    latents: Any
    coupled: Optional[Any] = None
    history: Optional[tuple] = None
    note: Optional[Note] = None
    features: Optional[Any] = None


def ddim(denoise, state, levels, i, j, sigma=0.0):
    """DDIM: Euler's method for the ODE. x_j = sqrt(a_j) x0 + sqrt(1 - a_j - sigma^2) eps, both
    predicted at level i.

    Args:
        denoise, levels, i, j: as in the head of this file; any two levels.
        state: latents [B,C,h,w] at level i.
        sigma: standard deviation of the noise that the caller adds afterwards.
    Source: Song et al. 2021 (arXiv 2010.02502), eq. 12; DiffEdit, eq. 2.
    Laws: first order; one evaluation in a step; independent of the path, not reversible: the step
        back asks at other points.
    """
    x0, eps = denoise(state.latents, i)
    return State(schedule.add_noise(x0, eps, levels.alphas[j], sigma))


def log_snr(alpha):
    """lambda = log sqrt(a / (1-a)), infinite at the two ends."""
    if alpha in (0.0, 1.0):
        return math.inf if alpha else -math.inf
    return 0.5 * math.log(alpha / (1 - alpha))


def dpmpp_2m(denoise, state, levels, i, j):
    """DPM-Solver++ (2M): the picture predicted at level i and at the one before, extrapolated
    linearly in lambda.

    x_j = (s_j/s_i) x_i - sqrt(a_j) (e^(-h) - 1) D with D = x0_i + (x0_i - x0_before) h / (2
    h_before), s = sqrt(1-a), h = lambda_j - lambda_i. The first step of a trajectory, and one that
    touches a level without noise or without signal, is DDIM's, which is the same with D = x0_i.
    Inversion is the same formula upwards.

    Args, Returns: as `ddim`; i and j neighbours.
    Source: Lu et al. 2022 (arXiv 2211.01095), algorithm 2.
    Laws: second order, one evaluation in a step; not reversible.
    """
    x0, eps = denoise(state.latents, i)
    x = schedule.add_noise(x0, eps, levels.alphas[j])
    if state.history is not None and state.history[0] == 2 * i - j:
        before, here, there = (log_snr(levels.alphas[k]) for k in (state.history[0], i, j))
        if math.isfinite(there) and math.isfinite(before) and here != before:
            h = there - here
            weight = -math.sqrt(levels.alphas[j]) * math.expm1(-h) * h / (2 * (here - before))
            x = x + schedule.scalar(weight, x) * (x0 - state.history[1])
    return State(x, history=(i, x0))


def edict(denoise, state, levels, i, j, mixing=MIXING):
    """EDICT: two latents that step with each other's prediction, so that every operation can be
    undone.

    Down from i: x' = S(x, eps(y)), y' = S(y, eps(x')), x_j = p x' + (1-p) y', y_j = p y' + (1-p)
    x_j, with S the DDIM step for a given eps, and both eps asked at level i. Up: the same four
    lines solved backwards, last first. Which of the two steps first alternates with the level.

    Args, Returns: as `ddim`; i and j neighbours. `mixing` is p in (0,1].
    Raises:
        InputError: a level without signal, from which a DDIM step with a given eps cannot leave.
    Source: Wallace et al. 2022 (arXiv 2211.12446), sections 4.2 and 4.3; the alternation as in the
        authors' program.
    Laws: up then down, and down then up, give both latents back. Without the model x - y grows by
        1/p^2 in a step up and shrinks by p^2 in a step down.
    """
    noisy, p = max(i, j), mixing
    _need_signal(levels, noisy, "EDICT")
    pair = [state.latents, state.latents if state.coupled is None else state.coupled]
    order = (0, 1) if noisy % 2 else (1, 0)

    def step(one):
        eps = denoise(pair[1 - one], noisy)[1]
        pair[one] = schedule.ddim_step(pair[one], eps, levels.alphas[i], levels.alphas[j])

    def mix(one, weight):  # weight of its own, the rest of the other
        pair[one] = pair[1 - one] + schedule.scalar(weight, pair[one]) * (pair[one] - pair[1 - one])

    if j < i:
        step(order[0])
        step(order[1])
        mix(0, p)
        mix(1, p)
    else:
        mix(1, 1 / p)
        mix(0, 1 / p)
        step(order[1])
        step(order[0])
    return State(*pair)


def belm(denoise, state, levels, i, j):
    """O-BELM: an explicit two-step rule that reads the same in both directions.

    With h_k = tau_k - tau_(k-1), q = h_k/h_(k+1):
    u_(k-1) = q^2 u_(k+1) + (1 - q^2) u_k - h_k (1 + q) eps_k, and up the same line solved for
    u_(k+1). It is the only combination of these three terms whose error is of the third order in a
    step (Taylor in tau). The state at level i is (x_i, x_(i-1)). A trajectory begins with one DDIM
    step.

    Args, Returns: as `ddim`; i and j neighbours.
    Raises:
        InputError: a level without signal, where tau is infinite.
    Source: Wang et al. 2024 (arXiv 2410.07273), the O-BELM update.
    Laws: second order; up then down, and down then up, give the state back. Without the model an
        error in u_i - u_(i-1) grows on the way up as h^2 (and alternates), and shrinks on the way
        down.
    """
    _need_signal(levels, max(i, j), "BELM")
    x, behind = state.latents, state.coupled
    if j > i:
        return State(_belm_next(denoise, levels, x, behind, i, i - 1, j), x)
    if behind is None:
        behind = _belm_next(denoise, levels, x, None, i, None, j)
    return State(behind, _belm_next(denoise, levels, behind, x, j, i, j - 1) if j > 0 else None)


def _belm_next(denoise, levels, x, other, k, before, after):
    """The latent of level `after` from those of k and, unless None, `before`."""
    signal, tau = np.sqrt(levels.alphas), functools.partial(_tau, levels)
    eps, step = denoise(x, k)[1], tau(after) - tau(k)
    if other is None or tau(k) == tau(before):
        return schedule.ddim_step(x, eps, levels.alphas[k], levels.alphas[after])
    q = step / (tau(k) - tau(before))
    return (
        schedule.scalar(q * q * signal[after] / signal[before], x) * other
        + schedule.scalar((1 - q * q) * signal[after] / signal[k], x) * x
        + schedule.scalar(step * (1 + q) * signal[after], x) * eps
    )


def _tau(levels, k):
    return math.sqrt(1 / levels.alphas[k] - 1)


def _need_signal(levels, k, name):
    if levels.alphas[k] <= 0:
        raise InputError(
            f"{name} cannot reach a level whose alphas_cumprod is 0: " "use ddim or dpmpp_2m there."
        )


def fixed_point(denoise, state, levels, i, j, tolerance=TOLERANCE, iterations=ITERATIONS, memory=0):
    """The exact inverse of a DDIM step down: the x_j from which that step comes to x_i.

    Iterates x <- g(x) = S(x_i, eps(x, j)), the DDIM step up with the eps of its own destination,
    from x = x_i, with `iterate`.

    Args, Returns: as `ddim`; j the level above i. The state's `note` has residual and evaluations.
        tolerance, iterations, memory: as in `iterate`.
    Raises:
        InputError: a level without signal, which determines nothing.
    Source: Pan et al. 2023 (AIDI, arXiv 2309.04907), section 3; Garibi et al. 2024 (ReNoise, arXiv
        2403.14602); Walker & Ni 2011 for the acceleration.
    Law: where g contracts, up then down gives the latents back within the tolerance times the
        amplification of the way down.
    """
    _need_signal(levels, j, "Fixed-point inversion")
    start = state.latents

    def g(x):
        return schedule.ddim_step(start, denoise(x, j)[1], levels.alphas[i], levels.alphas[j])

    latents, note = iterate(g, start, tolerance, iterations, memory)
    return State(latents, note=note)


# --- the table ------------------------------------------------------------------------------------


class Integrator(NamedTuple):
    """A record of the table: the step functions, and what the rest has to know of them.

    up, down: step functions towards the noise and towards the picture.
    evaluations: function of the number of steps K -> (up, down), calls of `denoise` for K steps up
        from the picture and as many down again.
    order: the error of K steps against the ODE falls as K^-order.
    exact: down undoes up, whatever the model says. Its equations then name the levels at which the
        model is asked, and its predictions must be the same in both directions: the options
        `inversion_timestep` and `num_reg_steps` are of those that are not exact.
    needs_signal: it cannot reach or leave a level whose alphas_cumprod is 0.
    least_steps: the fewest steps of an inversion.
    iterates: the evaluations up are the most that it can take.
    settings: names of arguments of the step functions that may be set (`configured`).
    """

    up: Callable
    down: Callable
    summary: str
    evaluations: Callable = lambda steps: (steps, steps)
    order: int = 1
    exact: bool = False
    needs_signal: bool = False
    least_steps: int = 1
    iterates: bool = False
    settings: tuple = ()

    def step(self, denoise, state, levels, i, j):
        """A step in either direction: up if j > i, else down."""
        return (self.up if j > i else self.down)(denoise, state, levels, i, j)

    def configured(self, **changes):
        """The same integrator with some of its `settings` changed, in both directions."""
        for name in changes:
            if name not in self.settings:
                raise InputError(f"The integrator has no setting {name!r}: leave it out.")
        up = functools.partial(self.up, **changes)
        return self._replace(up=up, down=up if self.down is self.up else self.down)


EXACT = {"exact": True, "needs_signal": True}
ITERATED = {
    "evaluations": lambda steps: (steps * ITERATIONS, steps),
    "iterates": True,
    "settings": ("tolerance", "iterations", "memory"),
    **EXACT,
}

INTEGRATORS = {
    "ddim": Integrator(ddim, ddim, "Euler's method, as in the paper"),
    "dpmpp_2m": Integrator(dpmpp_2m, dpmpp_2m, "DPM-Solver++ (2M), of second order", order=2),
    "edict": Integrator(
        edict,
        edict,
        "exact, by two coupled latents, at twice the cost",
        lambda k: (2 * k, 2 * k),
        **EXACT,
        settings=("mixing",),
    ),
    "belm": Integrator(
        belm,
        belm,
        "exact, by a two-step rule, for little guidance",
        lambda k: (k, k - 1),
        **EXACT,
        order=2,
        least_steps=2,
    ),
    "fixed_point": Integrator(fixed_point, ddim, "DDIM, inverted exactly by iteration", **ITERATED),
    "anderson": Integrator(
        functools.partial(fixed_point, memory=ANDERSON_MEMORY),
        ddim,
        "the same with Anderson acceleration",
        **ITERATED,
    ),
}
