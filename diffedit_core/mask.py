"""Where to edit: noise difference -> map -> mask. Tensors in, tensors out (DiffEdit, section 3.2, step 1)."""

import mindspore as ms
from mindspore import ops


def channel_difference(target, source):
    """Mean over channels of |eps_target - eps_source|: [...,C,h,w] twice -> [...,h,w] in float32 at least."""
    wide = ms.float64 if target.dtype == ms.float64 else ms.float32
    return ops.abs(target.astype(wide) - source.astype(wide)).mean(-3)


def average_maps(differences):
    """Mean over the noise draws: [B,n,h,w] -> noise_map [B,h,w]."""
    return differences.mean(1)


def normalise(noise_map, clamp_ratio, over="image"):
    """Clamp at clamp_ratio times the mean, and divide by the clamp: noise_map -> [0,1].

    y = min(m, c) / c with c = clamp_ratio mean(m). The extremes are removed before scaling, as the paper does without
    giving its constant; 3 is the public pipeline's. A map that is zero everywhere stays zero.

    Args:
        noise_map: [B,h,w], not negative.
        clamp_ratio: positive.
        over: "image" takes the mean over each map by itself; "batch" over the whole batch (the public pipeline).
    Returns:
        [B,h,w] in [0,1].
    Source: DiffEdit, section 3.2, step 1.
    Laws: scale-invariant; monotonic; bounded; of "image": independent of the rest of the batch.
    """
    axes = (1, 2) if over == "image" else (0, 1, 2)
    clamp = noise_map.mean(axes, keep_dims=True) * clamp_ratio
    return ops.minimum(noise_map, clamp) / ops.select(clamp > 0, clamp, ops.ones_like(clamp))


def threshold(normalised, mask_threshold):
    """1 where the normalised map exceeds the threshold, else 0, in the map's dtype (DiffEdit, section 3.2, step 1).

    Laws, of a map that was normalised over the image, with a threshold t < 1: the mask is m > clamp_ratio t mean(m), so only
    the product counts, and at most 1 / (clamp_ratio t) of the cells are in it (Markov's inequality): 2/3 by default.
    """
    return (normalised > mask_threshold).astype(normalised.dtype)


def blend(edited, background, mask):
    """M y + (1 - M) x, exactly x where M is 0 and exactly y where it is 1 (DiffEdit, section 3.2, step 3).

    Args:
        edited, background: latents [B,C,h,w] of one noise level.
        mask: [B,1,h,w] in [0,1]; soft values mix.
    """
    mixed = mask * edited + (1 - mask) * background
    return ops.select(ops.broadcast_to(mask, edited.shape) == 0, background, mixed)
