"""Contact sheets: scenes with the most, the middle and the least of a measure.

The rows hold no pictures. Scenes of the Orchard are drawn again from their seeds: the source and
the true edit; what a model made of them is not there to be shown.
"""

import functools
import re
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..ablation.measures import MEASURES
from ..orchard import splits
from ..orchard.world import caption

EACH = 3  # scenes of each part
LOWER = ("edit slope error", "csfid", "change", "lpips", "evaluations", "seconds")  # is better
NEITHER = ("area",)  # is no merit


class Shown(NamedTuple):
    """A scene of a sheet. numbers: {measure: its mean over the seeds of the base}."""

    scene: str
    kind: str
    numbers: dict


def sheet(summary):
    """(measure, {"best" | "middle" | "worst": [`Shown`]}) of the base's scenes that can be drawn,
    or None. Law: no scene is in it twice, and none is better than one of a part before its own."""
    base = summary.base
    measure = next((m for m in summary.measures if _ranks(summary, base, m)), None)
    if base is None or measure is None:
        return None
    held = {}
    for (scene, _), row in sorted(summary.found.rows[base.digest].items()):
        if number_of(scene) is not None:
            held.setdefault((scene, row["subject"]), []).append(row)
    found = [Shown(*key, _means(of, summary.measures)) for key, of in held.items()]
    sign = 1 if measure in LOWER else -1
    ordered = sorted((each for each in found if measure in each.numbers),
                     key=lambda each: (sign * each.numbers[measure], each.scene))  # fmt: skip
    if len(ordered) < 3:
        return None
    each = min(EACH, len(ordered) // 3)
    start = (len(ordered) - each) // 2
    parts = (ordered[:each], ordered[start : start + each], ordered[-each:])
    return measure, dict(zip(("best", "middle", "worst"), parts))


def _means(rows, measures):
    """{measure: mean over rows} of those that have it."""
    found = {m: [row[m] for row in rows if row.get(m) is not None] for m in measures}
    return {m: float(np.mean(values)) for m, values in found.items() if values}


def _ranks(summary, base, measure):
    """Whether scenes can be put in order by a measure: one that is no yes or no, and a merit."""
    if base is None or measure in NEITHER or MEASURES[measure].of == "set":
        return False
    values = [row.get(measure) for row in summary.found.rows[base.digest].values()]
    return any(v is not None and not isinstance(v, bool) for v in values)


def number_of(scene):
    """(split, number) of an Orchard's scene, or None for another picture's name."""
    found = re.fullmatch(r"([a-z-]+)-(\d{4,6})", scene)
    if found is None or found[1] not in splits.SPLITS:
        return None
    return found[1], int(found[2])


@functools.lru_cache(maxsize=None)
def drawn(scene):
    """(source, true edit, caption, caption of the edit): PIL images and texts."""
    edit = splits.edit(*number_of(scene))
    pictures = [Image.fromarray(p) for p in (edit.picture, edit.truth)]
    return (*pictures, caption(edit.scene), caption(edit.edited))
