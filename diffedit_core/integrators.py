"""Integrators of the probability-flow ODE, up towards the noise and down towards the picture. No
model in sight.

All have one contract: `step(denoise, state, levels, i, j) -> State` takes the state at level i to
its neighbour j. `denoise(x, k) -> (x0, eps)` stands for the model with its guidance, asked about x
as a latent of level k; `levels` is `schedule.Levels`. A journey begins with `State(x)`. The
functions are pure: what an integrator carries is in its state.

Latents are MindSpore tensors or numpy arrays of any float dtype.

With u = x / sqrt(a) and tau = sqrt(1/a - 1) the ODE is du = eps dtau (DiffEdit, arXiv 2210.11427,
eq. 3). tests/laws.py has the laws and says which of them hold for which integrator.
"""

import functools
import math
from typing import NamedTuple, Optional

import numpy as np
from mindspore import Tensor

from . import schedule as S
from .errors import InputError

MIXING = 0.93  # EDICT's p, as in its paper
TOLERANCE = 1e-6  # of fixed-point inversion: relative size of the last correction
ITERATIONS = 20  # of fixed-point inversion, at most, in each step
ANDERSON_MEMORY = 3  # earlier iterates that Anderson acceleration looks at


class Note(NamedTuple):
    """What a step that iterates found, the worst of the batch."""

    evaluations: int  # calls of `denoise`
    residual: float  # relative size of the last correction
    contraction: float  # last ratio of two corrections; 1 and more does not contract
    converged: bool


class State(NamedTuple):
    """Everything that an integrator carries from level to level.

    latents: [B,C,h,w] at the level that the state is at.
    partner: a second latent that belongs to the state, or None: EDICT's y (None: equal to the
        first), BELM's latent of the level below (None: not known yet). It is blended as the first
        is.
    history: (level, x0 [B,C,h,w]) of the step before, or None; only ever used to continue in the
        same direction.
    note: `Note` of the step that led here, or None.
    """

    latents: Tensor
    partner: Optional[Tensor] = None
    history: Optional[tuple] = None
    note: Optional[Note] = None


def ddim(denoise, state, levels, i, j, sigma=0.0):
    """DDIM: Euler's method for the ODE. x_j = sqrt(a_j) x0 + sqrt(1 - a_j - sigma^2) eps, both
    predicted at level i.

    Args:
        denoise, levels, i, j: as in the head of this file; any two levels.
        state: latents [B,C,h,w] at level i.
        sigma: standard deviation of the noise that the caller adds afterwards.
    Source: Song et al. 2021 (arXiv 2010.02502), eq. 12; DiffEdit, eq. 2.
    Laws: first order; one evaluation in a step; independent of the way, not reversible: the way
        back asks at other points.
    """
    x0, eps = denoise(state.latents, i)
    return State(S.add_noise(x0, eps, levels.alphas[j], sigma))


def log_snr(alpha):
    """lambda = log sqrt(a / (1-a)), infinite at the two ends."""
    if alpha in (0.0, 1.0):
        return math.inf if alpha else -math.inf
    return 0.5 * math.log(alpha / (1 - alpha))


def dpmpp_2m(denoise, state, levels, i, j):
    """DPM-Solver++ (2M): the picture predicted at level i and at the one before, extrapolated
    linearly in lambda.

    x_j = (s_j/s_i) x_i - sqrt(a_j) (e^(-h) - 1) D with D = x0_i + (x0_i - x0_before) h / (2
    h_before), s = sqrt(1-a), h = lambda_j - lambda_i. The first step of a journey, and one that
    touches a level without noise or without signal, is DDIM's, which is the same with D = x0_i.
    Inversion is the same formula on the way up.

    Args, Returns: as `ddim`; i and j neighbours.
    Source: Lu et al. 2022 (arXiv 2211.01095), algorithm 2.
    Laws: second order, one evaluation in a step; not reversible.
    """
    x0, eps = denoise(state.latents, i)
    x = S.add_noise(x0, eps, levels.alphas[j])
    if state.history is not None and state.history[0] == 2 * i - j:
        before, here, there = (log_snr(levels.alphas[k]) for k in (state.history[0], i, j))
        if math.isfinite(there) and math.isfinite(before) and here != before:
            h = there - here
            weight = -math.sqrt(levels.alphas[j]) * math.expm1(-h) * h / (2 * (here - before))
            x = x + S.scalar(weight, x) * (x0 - state.history[1])
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
    pair = [state.latents, state.latents if state.partner is None else state.partner]
    order = (0, 1) if noisy % 2 else (1, 0)

    def step(one):
        eps = denoise(pair[1 - one], noisy)[1]
        pair[one] = S.ddim_step(pair[one], eps, levels.alphas[i], levels.alphas[j])

    def mix(one, weight):  # weight of its own, the rest of the other
        pair[one] = pair[1 - one] + S.scalar(weight, pair[one]) * (pair[one] - pair[1 - one])

    if j < i:
        step(order[0]), step(order[1]), mix(0, p), mix(1, p)
    else:
        mix(1, 1 / p), mix(0, 1 / p), step(order[1]), step(order[0])
    return State(*pair)


def belm(denoise, state, levels, i, j):
    """O-BELM: an explicit two-step rule that reads the same in both directions.

    With h_k = tau_k - tau_(k-1), q = h_k/h_(k+1):
    u_(k-1) = q^2 u_(k+1) + (1 - q^2) u_k - h_k (1 + q) eps_k, and up the same line solved for
    u_(k+1). It is the only combination of these three terms whose error is of the third order in a
    step (Taylor in tau). The state at level i is (x_i, x_(i-1)). A journey begins with one DDIM
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
    x, behind = state.latents, state.partner
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
        return S.ddim_step(x, eps, levels.alphas[k], levels.alphas[after])
    q = step / (tau(k) - tau(before))
    return (
        S.scalar(q * q * signal[after] / signal[before], x) * other
        + S.scalar((1 - q * q) * signal[after] / signal[k], x) * x
        + S.scalar(step * (1 + q) * signal[after], x) * eps
    )


def _tau(levels, k):
    return math.sqrt(1 / levels.alphas[k] - 1)


def _need_signal(levels, k, name):
    if levels.alphas[k] <= 0:
        raise InputError(
            f"{name} cannot reach a level whose alphas_cumprod is 0: use ddim or dpmpp_2m there."
        )


def fixed_point(denoise, state, levels, i, j, tolerance=TOLERANCE, iterations=ITERATIONS, memory=0):
    """DDIM whose way up is the exact inverse of its way down: the x_j from which a DDIM step comes
    to x_i.

    Iterates x <- g(x) = S(x_i, eps(x, j)), the DDIM step up with the eps of its own destination,
    from x = x_i. Every picture of the batch stops by itself: when the correction |g(x) - x| is at
    most the tolerance times the latents, or when it has not shrunk twice in a row, where the
    iteration does not contract; then, as after the last iteration, the iterate with the smallest
    correction is the result.

    Args, Returns: as `ddim`; i and j neighbours. The state's `note` has residual and evaluations of
        a step up.
        memory: 0, or how many earlier iterates Anderson acceleration combines.
    Raises:
        InputError: a level without signal, which determines nothing.
    Source: Pan et al. 2023 (AIDI, arXiv 2309.04907), section 3; Garibi et al. 2024 (ReNoise, arXiv
        2403.14602); Walker & Ni 2011 for the acceleration.
    Law: where g contracts, up then down gives the latents back within the tolerance times the way's
        amplification.
    """
    if j < i:
        return ddim(denoise, state, levels, i, j)
    _need_signal(levels, j, "Fixed-point inversion")
    start = x = state.latents
    rows, best = start.shape[0], _host(start).copy()
    least, last, worse = np.full(rows, np.inf), np.full(rows, np.inf), np.zeros(rows, int)
    ratio, running, points, values, count = np.zeros(rows), np.ones(rows, bool), [], [], 0
    while running.any() and count < iterations:
        g = S.ddim_step(start, denoise(x, j)[1], levels.alphas[i], levels.alphas[j])
        count += 1
        point, value = _host(x), _host(g)
        if count == 1:
            scale = np.maximum(_norm(point), _norm(value))
        size = _norm(value - point) / scale
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(running & (count > 1), np.nan_to_num(size / last), ratio)
        better = running & (size < least)
        best[better], least[better] = value[better], size[better]
        worse = np.where(size < last, 0, worse + 1)
        running &= (size > tolerance) & (worse < 2)
        last = size
        points, values = [*points, point][-memory - 1 :], [*values, value][-memory - 1 :]
        x = _like(anderson(points, values), start)
    note = Note(count, float(least.max()), float(ratio.max()), bool((least <= tolerance).all()))
    return State(_like(best, start), note=note)


def _host(x):
    return x if isinstance(x, np.ndarray) else x.asnumpy()


def _like(values, x):
    return values if isinstance(x, np.ndarray) else Tensor(values)


def _norm(x):
    """Root mean square of each row, [B] float64, not 0."""
    mean = (x.reshape(len(x), -1).astype(np.float64) ** 2).mean(1)
    return np.maximum(np.sqrt(mean), np.finfo(np.float64).tiny)


def anderson(points, values):
    """The next iterate from earlier points x_k and values g(x_k), [B,...] each, oldest first; row
    by row.

    x = g_m - sum c_k (g_(k+1) - g_k) with the c that make the same combination of the corrections f
    = g - x least.
    Source: Walker & Ni 2011 (Anderson acceleration for fixed-point iterations), eq. 2.3. With one
        point it is g itself.
    """
    result = values[-1].copy()
    if len(points) == 1:
        return result
    for row in range(len(result)):
        g = np.stack([v[row].reshape(-1).astype(np.float64) for v in values])
        f = g - np.stack([p[row].reshape(-1).astype(np.float64) for p in points])
        c = np.linalg.lstsq(np.diff(f, axis=0).T, f[-1], rcond=1e-10)[0]
        result[row] = (g[-1] - c @ np.diff(g, axis=0)).reshape(result[row].shape)
    return result


INTEGRATORS = {"ddim": ddim, "dpmpp_2m": dpmpp_2m, "edict": edict, "belm": belm}
INVERSIONS = {
    "explicit": None,
    "fixed_point": fixed_point,
    "anderson": functools.partial(fixed_point, memory=ANDERSON_MEMORY),
}  # of DDIM
EXACT = ("edict", "belm")


def evaluations(integrator, inversion, steps):
    """Calls of `denoise` on the way (up, down) of so many steps that begins at the clean picture
    and turns round.

    For an iterated inversion the first is the most that it can take.
    """
    up = (
        steps * ITERATIONS
        if inversion != "explicit"
        else steps * 2 if integrator == "edict" else steps
    )
    down = {"edict": 2 * steps, "belm": steps - 1}.get(integrator, steps)
    return up, down
