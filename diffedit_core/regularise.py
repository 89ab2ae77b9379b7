"""Inverted noise held near white noise: the optional regularisation of the inversion in the public
pipeline.

It comes from pix2pix-zero (Parmar et al. 2023, arXiv 2302.03027, section 3.1) and is no part of
DiffEdit.
"""

import math

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from . import schedule

SMALLEST = 8  # rows of the last level of the pyramid, at most


def pyramid(shape):
    """Sizes (h, w) of the pyramid for latents [B,C,h,w]: halved, rounded down, until there are at
    most 8 rows."""
    sizes = [tuple(shape[2:])]
    while sizes[-1][0] > SMALLEST:
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    return sizes


def auto_correlation(eps, rolls):
    """How much noise resembles itself shifted: sum over pictures, channels, sizes of mean(e
    roll_h(e))^2 + mean(e roll_w(e))^2.

    Args:
        eps: [B,C,h,w].
        rolls: int32 [sizes,B,C], shifts in cells for each size of `pyramid`, the same in both
            directions.
    Returns:
        A number; the smaller sizes are means over blocks of 2 x 2 cells.
    Source: Parmar et al. 2023, eq. 2.
    """
    loss = 0
    for k, (height, width) in enumerate(pyramid(eps.shape)):
        if k > 0:
            eps = (
                eps[:, :, : 2 * height, : 2 * width]
                .reshape(*eps.shape[:2], height, 2, width, 2)
                .mean((3, 5))
            )
        for axis, size in ((2, height), (3, width)):
            along = ops.arange(size).reshape((-1, 1) if axis == 2 else (1, -1))
            index = (along - rolls[k].reshape(*eps.shape[:2], 1, 1)) % size
            rolled = ops.gather_elements(eps, axis, ops.broadcast_to(index, eps.shape))
            loss = loss + ((eps * rolled).mean((2, 3)) ** 2).sum()
    return loss


def kl_divergence(eps, over):
    """Twice the divergence from the standard normal: var + mean^2 - 1 - log(var + 1e-7), with the
    unbiased variance.

    Statistics over the whole "batch", as in the public pipeline, or over each "image", whose values
    are added up.
    Source: Parmar et al. 2023, section 3.1 (after Kingma & Welling 2014).
    """
    rows = eps.reshape(1 if over == "batch" else eps.shape[0], -1)
    mean = rows.mean(1)
    variance = ((rows - mean.reshape(-1, 1)) ** 2).sum(1) / (rows.shape[1] - 1)
    return (variance + mean**2 - 1 - ops.log(variance + 1e-7)).sum()


@ms.jit
def correlation_gradient(out, rest, scale, rolls):
    """d auto_correlation(scale out + rest, rolls) / d out; compiled once for each shape."""

    def loss(value):
        return auto_correlation(scale * value + rest, rolls)

    return ms.grad(loss)(out)


@ms.jit
def divergence_gradient(out, rest, scale, over):
    """d kl_divergence(scale out + rest, over) / d out; compiled once for each shape."""

    def loss(value):
        return kl_divergence(scale * value + rest, over)

    return ms.grad(loss)(out)


def regularise(
    out, x, alpha, prediction_type, draws, lambda_auto_corr=20.0, lambda_kl=20.0, over="image"
):
    """Gradient steps on a prediction that make its eps more like white noise.

    For each of the steps: for each roll, out <- out - lambda_ac / rolls d(auto_correlation)/d(out);
    then out <- out - lambda_kl d(kl_divergence)/d(out). The gradients are MindSpore's.

    Args:
        out: the model's prediction [B,C,h,w], eps or v.
        x, alpha: what it was asked about, and the level at which it was asked.
        draws: int32 [steps,rolls,sizes,B,C], the shifts (`draw_rolls`).
        lambda_auto_corr, lambda_kl: step sizes; 0 leaves one out.
        over: as in `kl_divergence`.
    Returns:
        The prediction, of the same kind.
    Source: the public StableDiffusionDiffEditPipeline.invert with num_reg_steps > 0.
    """
    v = prediction_type == "v_prediction"  # eps = scale out + rest
    scale, rest = (
        schedule.scalar(math.sqrt(alpha) if v else 1.0, out),
        schedule.scalar(math.sqrt(1 - alpha) if v else 0.0, x) * x,
    )
    for rolls in draws:
        if lambda_auto_corr > 0:
            for shifts in rolls:
                gradient = correlation_gradient(out, rest, scale, Tensor(shifts))
                out = out - schedule.scalar(lambda_auto_corr / len(rolls), out) * gradient
        if lambda_kl > 0:
            out = out - schedule.scalar(lambda_kl, out) * divergence_gradient(
                out, rest, scale, over
            )
    return out


def regularised(ask, levels, prediction_type, options, rolls, ahead=0):
    """A prediction as a function of (x, k) -> the same, regularised at the level asked.

    Args:
        ask: as `walk.asked` gives it, asked at the timestep of level k + ahead.
        rolls: int32 [K,steps,rolls,sizes,B,C] (`draw_rolls`).
    """

    def regular(x, k):
        return regularise(
            ask(x, k),
            x,
            levels.alphas[k + ahead],
            prediction_type,
            rolls[k],
            options.lambda_auto_corr,
            options.lambda_kl,
            options.clamp_over,
        )

    return regular


def draw_rolls(streams, steps, reg_steps, rolls, shape):
    """Shifts for `steps` predictions of latents [B,C,h,w]: int32 [steps,reg_steps,rolls,sizes,B,C],
    each below h // 2.

    Args:
        streams: B numpy Generators, one for each picture; the same one may stand for several.
    """
    highest = [max(1, height // 2) for height, _ in pyramid(shape)]
    draws = [
        [stream.integers(0, high, (steps, reg_steps, rolls, shape[1])) for high in highest]
        for stream in streams
    ]
    return np.ascontiguousarray(np.moveaxis(np.array(draws, np.int32), (0, 1), (4, 3)))
