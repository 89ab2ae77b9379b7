"""Where to edit: noise difference -> map -> mask. Tensors in, tensors out (DiffEdit, section 3.2,
step 1)."""

import math

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops


def channel_difference(target, source):
    """Mean over channels of |eps_target - eps_source|: [...,C,h,w] twice -> [...,h,w] in float32 at
    least."""
    wide = ms.float64 if target.dtype == ms.float64 else ms.float32
    return ops.abs(target.astype(wide) - source.astype(wide)).mean(-3)


def average_maps(differences):
    """Mean over the noise draws: [B,n,h,w] -> noise_map [B,h,w]."""
    return differences.mean(1)


def smooth(noise_map, sigma):
    """Means of each cell and its neighbours with Gaussian weights: G_h m G_w^T, G[i,j] =
    exp(-(i-j)^2 / (2 sigma^2)) / row sum.

    Not in the paper: it averages over places what more draws would average over noise.

    Args:
        noise_map: [B,h,w].
        sigma: standard deviation in cells; 0 leaves the map as it is.
    Returns:
        [B,h,w].
    Laws: linear; monotonic; a constant map stays as it is, at the borders too; commutes with
        mirroring and transposing; independent of the rest of the batch.
    """
    if sigma == 0:
        return noise_map
    down = _weighted(noise_map, sigma)
    return _weighted(down.swapaxes(1, 2), sigma).swapaxes(1, 2)


def _weighted(values, sigma):
    """G v along axis 1 of [B,n,w]."""
    kind = np.float64 if values.dtype == ms.float64 else np.float32
    weights = Tensor(gaussian_weights(values.shape[1], sigma).T.astype(kind))
    products = weights.expand_dims(-1) * values.expand_dims(2)  # [B,n,n,w], what is summed first
    return total(products)


def gaussian_weights(n, sigma):
    """G of `smooth`, float64 [n,n].

    Weights below 2^-52 of the largest are none. The product of two would leave float32's normal
    numbers, which some devices take for 0 and some do not.
    """
    with np.errstate(over="ignore"):
        distances = np.subtract.outer(np.arange(n), np.arange(n)) / sigma
        weights = np.exp(-(distances**2) / 2)
    weights = np.where(weights < 2.0**-52, 0, weights)
    return weights / weights.sum(1, keepdims=True)


def total(values):
    """The sum over axis 1 of [B,n,...] by halves: v[:,:n/2] + v[:,n/2:] until one is left, as if
    zeros made n a power of two.

    Each addition is rounded by itself and their order is fixed, so that every device gets the same
    number, and the page of a report, too.

    Law: the number does not depend on the rest of the batch.
    """
    count = values.shape[1]
    half = 1 << max(0, (count - 1).bit_length() - 1)
    if half < count < 2 * half:
        first = values[:, : count - half] + values[:, half:]
        values = ops.cat([first, values[:, count - half : half]], 1)
    while values.shape[1] > 1:
        half = values.shape[1] // 2
        values = values[:, :half] + values[:, half:]
    return values[:, 0]


def normalise(noise_map, clamp_ratio, over="image", clamp_quantile=0.0):
    """Clamp at clamp_ratio times the mean, or at a quantile, and divide by the clamp: noise_map ->
    [0,1].

    y = min(m, c) / c with c = clamp_ratio mean(m). The extremes are removed before scaling, as the
    paper does without giving its constant; 3 is the public pipeline's. A map that is zero
    everywhere stays zero.

    Args:
        noise_map: [B,h,w], not negative.
        clamp_ratio: positive; not used with a clamp_quantile.
        over: "image" takes the mean over each map by itself; "batch" over the whole batch (the
            public pipeline).
        clamp_quantile: q above 0 and up to 1: c is the number below which a share q of the cells
            lies, linear between two cells. Unlike the mean it does not rise with the size of what
            changes.
    Returns:
        [B,h,w] in [0,1].
    Source: DiffEdit, section 3.2, step 1.
    Laws: scale-invariant; monotonic; bounded; of "image": independent of the rest of the batch.
    """
    rows = noise_map.reshape(noise_map.shape[0] if over == "image" else 1, -1)
    if clamp_quantile:
        clamp = quantile(rows, clamp_quantile)
    else:
        clamp = total(rows) / rows.shape[1] * clamp_ratio
    clamp = clamp.reshape(-1, 1, 1)
    return ops.minimum(noise_map, clamp) / ops.select(clamp > 0, clamp, ops.ones_like(clamp))


def quantile(rows, q):
    """The q-quantile of each row, linear between two values: [R,n] -> [R] (Hyndman & Fan 1996,
    definition 7).

    Sorted on the host: a clamp decides the mask, and a device may sort rounded numbers.
    """
    ordered, place = np.sort(rows.asnumpy(), 1), q * (rows.shape[1] - 1)
    low = min(math.floor(place), rows.shape[1] - 1)
    high = min(low + 1, rows.shape[1] - 1)
    return Tensor(ordered[:, low] + (ordered[:, high] - ordered[:, low]) * (place - low))


def threshold(normalised, mask_threshold):
    """1 where the normalised map exceeds the threshold, else 0, in the map's dtype (DiffEdit,
    section 3.2, step 1).

    Laws, of a map that was normalised by its image's mean, with a threshold t < 1: the mask is m >
    clamp_ratio t mean(m), so only the product counts, and at most 1 / (clamp_ratio t) of the cells
    are in it (Markov's inequality): 2/3 by default.
    """
    return (normalised > mask_threshold).astype(normalised.dtype)


def blend(edited, background, mask):
    """M y + (1 - M) x, exactly x where M is 0 and exactly y where it is 1 (DiffEdit, section 3.2,
    step 3).

    Args:
        edited, background: latents [B,C,h,w] of one noise level.
        mask: [B,1,h,w] in [0,1]; soft values mix.
    """
    mixed = mask * edited + (1 - mask) * background
    return ops.select(ops.broadcast_to(mask, edited.shape) == 0, background, mixed)
