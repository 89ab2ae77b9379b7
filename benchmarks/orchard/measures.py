"""Measures of pictures and masks, and plain sampling. Pictures are float [...,3,H,W] in [-1,1] as
numpy arrays."""

import mindspore as ms
import numpy as np

from diffedit_core import diffedit as D


def psnr(found, wanted, where=None):
    """Peak signal-to-noise ratio in dB over the pixels in `where` [H,W] (all without it): 10
    log10(4 / mean square)."""
    squares = (np.clip(found, -1, 1) - wanted) ** 2
    squares = squares if where is None else squares[..., where]
    return 10 * np.log10(4 / max(float(squares.mean()), 1e-12)) if squares.size else float("nan")


def slope(x):
    """Length of the grey value's gradient by forward differences: [...,3,H,W] -> [...,H-1,W-1]."""
    grey = x.mean(-3)
    corner = grey[..., :-1, :-1]
    return np.hypot(grey[..., :-1, 1:] - corner, grey[..., 1:, :-1] - corner)


def slope_error(found, wanted, where=None):
    """Mean |slope(found) - slope(wanted)| over the mean slope wanted: 0 is as sharp everywhere, 1 a
    flat grey."""
    a, b = slope(np.clip(found, -1, 1)), slope(wanted)
    if where is not None:
        a, b = a[..., where[:-1, :-1]], b[..., where[:-1, :-1]]
    return float(np.abs(a - b).mean() / b.mean()) if b.size and b.mean() > 0 else float("nan")


def overlap(found, wanted):
    """(intersection over union, precision, recall) of two boolean masks; two empty ones agree."""
    both = (found & wanted).sum()
    return tuple(
        float(both / total) if total else 1.0
        for total in ((found | wanted).sum(), found.sum(), wanted.sum())
    )


def best_overlap(noise_map, wanted):
    """The largest intersection over union with `wanted` that any threshold of the map reaches."""
    return max(overlap(noise_map >= t, wanted)[0] for t in np.unique(noise_map))


def grown(mask):
    """A boolean mask [H,W] and its eight neighbours."""
    padded = np.pad(mask, 1)
    return np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).any((2, 3))


def sample(predict, noise, levels, states, negative, guidance_scale, prediction_type):
    """DDIM from pure noise [B,C,h,w] at the grid's last level down to the clean one; text states as
    in `diffedit.decode`.

    A whole mask makes DiffEdit's decoding plain sampling: nothing of a background remains.
    """
    depth = len(levels.timesteps) - 1
    trail = ms.ops.zeros((depth, *noise.shape), noise.dtype)
    trail = ms.ops.concat((trail, noise.expand_dims(0)), 0)
    whole = ms.ops.ones((noise.shape[0], *noise.shape[2:]), noise.dtype)
    return D.decode(
        predict, trail, whole, levels, states, negative, guidance_scale, prediction_type
    )
