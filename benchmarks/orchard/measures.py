"""Measures of pictures and masks, their means with intervals, and the table. numpy only.

Pictures are float [...,3,H,W] in [-1,1]. A measure over no pixel at all is not a number, and means
leave it out: what lies outside a mask that covers everything, for example. An equal picture has
126.0 dB.
"""

import numpy as np

from . import reader, world as W


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
    """(intersection over union, precision, recall) of two boolean masks; two empty ones agree, and
    a share of nothing is 1."""
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


# --- one edit -------------------------------------------------------------------------------------


def judge(case, image, mask, round_trip, found, factor):
    """All numbers of one edit, as a flat dict; what needs something that is None is left out.

    Args:
        case: with source and truth [3,H,W], the true mask bool [H,W], and the edited scene.
        image: the edit [3,H,W].
        mask: the predicted mask [h,w].
        round_trip: the source through the method's autoencoder and back [3,H,W], its floor.
        found: classes that the reader sees in the edit.
        factor: pixels per cell of the mask.
    """
    numbers = {}
    if image is not None:
        numbers["background psnr"] = psnr(image, case.source, ~case.mask)
        numbers["edit psnr"] = psnr(image, case.truth, case.mask)
        numbers["edit slope error"] = slope_error(image, case.truth, case.mask)
        numbers.update(seen(case, found))
    if round_trip is not None:
        numbers["background floor"] = psnr(round_trip, case.source, ~case.mask)
    if mask is not None:
        numbers.update(judge_mask(case, image, mask > 0.5, round_trip, factor))
    return numbers


def judge_mask(case, image, cells, round_trip, factor):
    """Agreement of the predicted cells [h,w] with the true ones, and what was left alone outside
    them, and outside them and their neighbours."""
    numbers = dict(
        zip(("iou", "precision", "recall"), overlap(cells, W.on_grid(case.mask, factor)))
    )
    for name, held in (("outside", cells), ("beyond", grown(cells))):
        where = ~np.kron(held, np.ones((factor, factor), bool))
        for kind, picture in (("psnr", image), ("floor", round_trip)):
            if picture is not None:
                numbers[f"{name} {kind}"] = psnr(picture, case.source, where)
    return numbers


def seen(case, found):
    """Which of the wanted attributes the reader sees."""
    wanted = reader.classes(case.edited)
    numbers = {f"{name} right": bool(found[i] == wanted[i]) for i, name in enumerate(reader.HEADS)}
    numbers["rest unchanged"] = numbers["container right"] and numbers["background right"]
    numbers["recognised"] = numbers["fruit right"] and numbers["container right"]
    return numbers


# --- many edits -----------------------------------------------------------------------------------


def interval(values):
    """(mean, low, high) at 95 %: Wilson's for booleans, else 1.96 standard errors; values that are
    not numbers are left out."""
    values = np.asarray(values)
    n, z = len(values), 1.96
    if values.dtype == bool:
        p = values.mean()
        middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return p, (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return float("nan"), float("nan"), float("nan")
    half = z * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("inf")
    return values.mean(), values.mean() - half, values.mean() + half


def summarise(records):
    """{measure: (mean, low, high)} over records."""
    return {key: interval([r[key] for r in records]) for key in records[0]} if records else {}


def frechet(a, b):
    """Fréchet distance of two sets of features [N,F] taken as normal (Heusel et al. 2017, eq. 6);
    not a number for a set of one, which has no spread."""
    if min(len(a), len(b)) < 2:
        return float("nan")
    means, covariances = [x.mean(0) for x in (a, b)], [np.cov(x, rowvar=False) for x in (a, b)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ covariances[1] @ root)
    squares = ((means[0] - means[1]) ** 2).sum()
    spread = sum(map(np.trace, covariances)) - 2 * np.sqrt(np.clip(cross, 0, None)).sum()
    return max(0.0, float(squares + spread))  # rounding may leave a little less than nothing


COLUMNS = {
    "iou": "mask IoU",
    "precision": "precision",
    "recall": "recall",
    "recognised": "fruit and container right",
    "fruit right": "fruit right",
    "container right": "container right",
    "rest unchanged": "container and background right",
    "outside psnr": "PSNR outside predicted mask",
    "outside floor": "(VAE floor)",
    "beyond psnr": "PSNR a cell further out",
    "beyond floor": "(VAE floor)",
    "background psnr": "PSNR outside true mask",
    "background floor": "(VAE floor)",
    "edit psnr": "PSNR to true edit inside",
    "edit slope error": "slope error inside",
}


def table(lines, columns=None):
    """Markdown of {line: (count, {measure: interval})}."""
    columns = COLUMNS if columns is None else columns
    text = ["| | n | " + " | ".join(columns.values()) + " |", "|" + "---|" * (len(columns) + 2)]
    for name, (count, numbers) in lines.items():
        cells = " | ".join(shown(numbers.get(key)) for key in columns)
        text.append(f"| {name} | {count} | {cells} |")
    return "\n".join(text) + "\n"


def shown(triple):
    """0.842 [0.821, 0.863]; a dash where a method has no such number, no interval around a single
    one."""
    if triple is None or not np.isfinite(triple[0]):
        return "-"
    mean, low, high = triple
    digits = 1 if abs(mean) > 2 else 3
    if not np.isfinite(low):
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
