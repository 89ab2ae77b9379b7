"""Fixed points x = g(x), row by row of a batch, with Anderson acceleration. No model in sight."""

from typing import NamedTuple

import numpy as np


class Note(NamedTuple):
    """What a step that iterates found, the worst of the batch."""

    evaluations: int  # calls of `denoise`
    residual: float  # relative size of the last correction
    contraction: float  # last ratio of two corrections; 1 and more does not contract
    converged: bool


def iterate(g, start, tolerance, iterations, memory=0):
    """Solve x = g(x) for each row of a batch by itself, from x = start: (x, `Note`).

    A row stops when its correction |g(x) - x| is at most the tolerance times the latents, or when
    it has not shrunk twice in a row, where the iteration does not contract; then, as after the last
    iteration, the iterate with the smallest correction is the result.

    Args:
        g: function of [B,...].
        start: [B,...].
        tolerance: of the correction, relative to the root mean square of the row.
        iterations: at most so many calls of g.
        memory: 0, or how many earlier iterates Anderson acceleration combines.
    """
    x, rows, best = start, start.shape[0], _host(start).copy()
    least, last, worse = np.full(rows, np.inf), np.full(rows, np.inf), np.zeros(rows, int)
    ratio, running, points, values, count = np.zeros(rows), np.ones(rows, bool), [], [], 0

    while running.any() and count < iterations:
        following = g(x)
        count += 1
        point, value = _host(x), _host(following)
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

        points = [*points, point][-memory - 1 :]
        values = [*values, value][-memory - 1 :]
        x = _like(anderson(points, values), start)

    note = Note(count, float(least.max()), float(ratio.max()), bool((least <= tolerance).all()))
    return _like(best, start), note


def _host(x):
    return x if isinstance(x, np.ndarray) else x.asnumpy()


def _like(values, x):
    if isinstance(x, np.ndarray):
        return values

    import mindspore as ms

    return ms.Tensor(values)


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
