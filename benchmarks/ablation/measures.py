"""What an experiment can measure, one table; and the numbers of one edit. Imports no MindSpore."""

from typing import NamedTuple

import numpy as np

from ..orchard import measures
from ..orchard.world import on_grid


class Measure(NamedTuple):
    """A number of an edit, or of all edits of a variant.

    title: of its column.
    of: what it needs: "mask", "picture", "set" (the features of all pictures), or "cost".
    truth: what it needs of the true answer: "" nothing, "mask" where it is, "edit" all of it.
    extra: whether it needs public packages (`[compare]`) and the folder of their model.
    digits: that a table shows.
    """

    title: str
    of: str
    truth: str = "edit"
    extra: bool = False
    digits: int = 3


MEASURES = {
    "iou": Measure("mask IoU", "mask", truth="mask"),
    "precision": Measure("precision", "mask", truth="mask"),
    "recall": Measure("recall", "mask", truth="mask"),
    "best iou": Measure("IoU at the best threshold", "mask", truth="mask"),
    "area": Measure("share of the cells in the mask", "mask", truth=""),
    "recognised": Measure("fruit and container right", "picture"),
    "fruit right": Measure("fruit right", "picture"),
    "container right": Measure("container right", "picture"),
    "rest unchanged": Measure("container and background right", "picture"),
    "background psnr": Measure("PSNR outside true mask", "picture", truth="mask", digits=2),
    "edit psnr": Measure("PSNR to true edit inside", "picture", digits=2),
    "edit slope error": Measure("slope error inside", "picture"),
    "csfid": Measure("CSFID", "set", digits=1),
    "outside psnr": Measure("PSNR outside predicted mask", "picture", truth="", digits=2),
    "outside ssim": Measure("SSIM outside predicted mask", "picture", truth=""),
    "change": Measure("mean change in grey levels", "picture", truth="", digits=2),
    "clip": Measure("CLIP, picture and text", "picture", truth="", extra=True),
    "lpips": Measure("LPIPS to the source", "picture", truth="", extra=True),
    "evaluations": Measure("evaluations", "cost", truth="", digits=0),
    "window": Measure("share of the cells decoded", "cost", truth=""),
    "seconds": Measure("seconds", "cost", truth="", digits=1),
}


def numbers_of(subject, image, mask, noise_map, found, factor):
    """All numbers of one edit, as {measure: number}; what needs something that is None is left out.

    Args:
        subject: `subjects.Subject`.
        image: the edit [3,H,W], or None.
        mask: the predicted mask [h,w], or None.
        noise_map: [h,w], or None.
        found: classes that the reader sees in the edit, or None.
        factor: pixels per cell of the mask.
    """
    numbers = {}
    if mask is not None:
        numbers["area"] = float(np.mean(mask))
    if image is not None:
        numbers["change"] = 127.5 * float(np.abs(np.clip(image, -1, 1) - subject.source).mean())
    if image is not None and mask is not None:
        left = ~np.kron(mask > 0.5, np.ones((factor, factor), bool))
        numbers["outside psnr"] = measures.psnr(image, subject.source, left)
        numbers["outside ssim"] = ssim(image, subject.source, left)
    if subject.truth is not None:
        numbers.update(measures.judge(subject, image, mask, None, found, factor))
    elif subject.mask is not None:
        if image is not None:
            numbers["background psnr"] = measures.psnr(image, subject.source, ~subject.mask)
        if mask is not None:
            numbers.update(measures.judge_mask(subject, image, mask > 0.5, None, factor))
    if subject.mask is not None and noise_map is not None:
        numbers["best iou"] = measures.best_overlap(noise_map, on_grid(subject.mask, factor))
    return {name: value for name, value in numbers.items() if name in MEASURES}


def ssim(found, wanted, where=None, sigma=1.5):
    """Mean structural similarity over the pixels in `where` [H,W] (all without it) and channels.

    With Gaussian windows of 11 pixels: (2 m n + c1)(2 cov + c2) / ((m^2 + n^2 + c1)(var + var +
    c2)), c1 = (0.01 L)^2, c2 = (0.03 L)^2, L = 2. Edges are mirrored.

    Args: found, wanted: [3,H,W] in [-1,1].
    Source: Wang et al. 2004, eq. 13.
    Laws: 1 for equal pictures; symmetric; at most 1.
    """
    if where is not None and not where.any():
        return float("nan")
    x, y = np.clip(found, -1, 1).astype(np.float64), np.asarray(wanted, np.float64)
    m, n = _blurred(x, sigma), _blurred(y, sigma)
    variances = _blurred(x * x, sigma) - m * m + _blurred(y * y, sigma) - n * n
    covariance = _blurred(x * y, sigma) - m * n
    c1, c2 = 0.02**2, 0.06**2
    similar = (2 * m * n + c1) * (2 * covariance + c2)
    similar /= (m * m + n * n + c1) * (variances + c2)
    return float((similar if where is None else similar[:, where]).mean())


def _blurred(x, sigma, reach=5):
    """[...,H,W] with a Gaussian window of 2 reach + 1 pixels along both axes."""
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    for axis in (-2, -1):
        reached = [(0, 0)] * x.ndim
        reached[axis] = (reach, reach)
        padded, size = np.pad(x, reached, mode="symmetric"), x.shape[axis]
        x = sum(w * np.take(padded, range(k, k + size), axis=axis) for k, w in enumerate(weights))
    return x
