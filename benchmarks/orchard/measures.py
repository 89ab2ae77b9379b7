"""Measures of pictures and masks. Pictures are float [...,3,H,W] in [-1,1] as
numpy arrays."""

import numpy as np


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


def remnants(found, source, truth, mask, levels=64):
    """The share of clearly changed pixels that end nearer to the source than to the truth.

    A pixel of the mask is clearly changed where a channel of source and truth differs by so many of
    255 levels; it is near by the sum of squares over channels. NaN where no pixel is.
    """
    changed = mask & (np.abs(source - truth).max(0) * 127.5 >= levels)
    away, to = [((np.clip(found, -1, 1) - true) ** 2).sum(0) for true in (source, truth)]
    return float((away < to)[changed].mean()) if changed.any() else float("nan")
