"""Finds the polynomial of `cpu.gelu`, and says how far the result is from the exact one.

    python -m benchmarks.kernels.gelu

gelu(x) = x Phi(x) = x sigmoid(x P(x^2)) where x P(x^2) is the logarithm of Phi(x) / (1 - Phi(x)).
P is fitted by least squares on 0 < x <= 7, in double precision; each point's weight is the slope of
the result, x^2 Phi (1 - Phi), and grows wherever the last fit was worst (Lawson 1961), which leads
to the smallest largest error. P is positive with a positive last term, so that the sigmoid goes to
0 and 1 beyond.
"""

import math

import numpy as np

FARTHEST, DEGREE, POINTS, ROUNDS = 7, 6, 2000, 300


def exact(x):
    """x Phi(x) in double precision."""
    return x * 0.5 * np.vectorize(math.erfc)(-x / math.sqrt(2))


def approximate(x, coefficients):
    """x sigmoid(x P(x^2)) in double precision."""
    return x / (1 + np.exp(-x * np.polynomial.polynomial.polyval(x * x, coefficients)))


def fit():
    """(coefficients from the constant term up, largest error on 0 < x <= FARTHEST)."""
    x = np.linspace(0, FARTHEST, POINTS + 1)[1:]
    above = 0.5 * np.vectorize(math.erfc)(x / math.sqrt(2))
    wanted = (np.log1p(-above) - np.log(above)) / x
    slope, shares = x * x * above * (1 - above), np.ones_like(x)
    scale = float(FARTHEST**2) ** np.arange(DEGREE + 1)
    powers = np.vander((x / FARTHEST) ** 2, DEGREE + 1, increasing=True)
    for _ in range(ROUNDS):
        weight = slope * np.sqrt(shares)
        found = np.linalg.lstsq(powers * weight[:, None], wanted * weight, rcond=None)[0] / scale
        errors = np.abs(approximate(x, found) - exact(x))
        shares *= (errors / errors.max() + 1e-3) ** 0.5
        shares /= shares.sum()
    return found, errors.max()


if __name__ == "__main__":
    coefficients, error = fit()
    print(f"{', '.join(f'{c:.9e}' for c in coefficients)}\nlargest error {error:.2e}")
