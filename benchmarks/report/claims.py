"""What the paper says about what the experiments ask, and the comparisons that test it.

Source: DiffEdit, arXiv 2210.11427; the sentences are ours, the places in the paper are named.
"""

from typing import NamedTuple, Tuple


class Side(NamedTuple):
    """One side of a comparison: a measure of a variant."""

    label: str
    measure: str


class Comparison(NamedTuple):
    """`more` is expected to be larger than `less`.

    when: the condition under which it is asked, or a name of it.
    """

    when: str
    more: Side
    less: Side


class Claim(NamedTuple):
    """A sentence of the paper in our words; without comparisons nothing of it can be tested."""

    sentence: str
    source: str
    comparisons: Tuple[Comparison, ...] = ()


def _better(when, measure, more, less):
    return Comparison(when, Side(more, measure), Side(less, measure))


def _mask(value):
    return f"mask_threshold {value}"


def _component(ratio, mask, trail):
    return f"encode_ratio {ratio}, to_mask {mask}, trail {trail}"


RATIOS = ("0.4", "0.6", "0.8", "1")
BOTH, NO_MASK, NOISED, SDEDIT = (
    ("mask", "encoded"),
    ("no mask", "encoded"),
    ("mask", "noised"),
    ("no mask", "noised"),
)


def _each(measure, more, less):
    """A comparison for each ratio."""
    return tuple(
        _better(f"ratio {r}", measure, _component(r, *more), _component(r, *less)) for r in RATIOS
    )


CLAIMS = {  # of an experiment; () where the paper says nothing
    "threshold": (
        Claim(
            "A threshold of 0.25 makes larger masks and a worse trade-off between edit and rest.",
            "ablation of the threshold, ImageNet",
            (
                _better("mask", "iou", _mask("0.5"), _mask("0.25")),
                _better("background", "background psnr", _mask("0.5"), _mask("0.25")),
            ),
        ),
        Claim(
            "A threshold of 0.75 edits too little: the distance to the wanted pictures stays high.",
            "ablation of the threshold, ImageNet",
            (
                _better("CSFID", "csfid", _mask("0.75"), _mask("0.5")),
                _better("edit", "recognised", _mask("0.5"), _mask("0.75")),
            ),
        ),
    ),
    "ratio": (
        Claim(
            "The examples use a ratio of 0.8 or 0.9; no single one is called the best.",
            "section 4, examples",
        ),
    ),
    "components": (
        Claim(
            "A mask alone already improves on SDEdit.",
            "study of the components",
            _each("background psnr", NOISED, SDEDIT),
        ),
        Claim(
            "Encoding alone, without a mask, already improves on SDEdit.",
            "study of the components; proposition 1",
            _each("background psnr", NO_MASK, SDEDIT),
        ),
        Claim(
            "Mask and encoding together are better than encoding alone.",
            "study of the components",
            _each("background psnr", BOTH, NO_MASK),
        ),
        Claim(
            "Mask and encoding together are better than the mask alone.",
            "study of the components",
            _each("background psnr", BOTH, NOISED),
        ),
    ),
    "reference": (
        Claim(
            "With the source's text as the mask's reference the trade-off is best, on pictures "
            "that were made from text.",
            "section 4, Imagen",
            (
                _better("mask", "iou", "source source", 'source ""'),
                _better("background", "background psnr", "source source", 'source ""'),
                _better("edit", "recognised", "source source", 'source ""'),
            ),
        ),
        Claim(
            "On COCO's captions it does not help overall, only where few words change.",
            "section 4, COCO",
        ),
    ),
    "guidance": (
        Claim(
            "Guidance is 7.5 for Stable Diffusion and 5 for the ImageNet model, without a "
            "comparison.",
            "section 4, settings",
        ),
    ),
    "steps": (Claim("All edits take 50 DDIM steps, without a comparison.", "section 4, settings"),),
    "mask-noise": (
        Claim(
            "Noise of strength 50 % and a threshold of 0.5 are used. Thresholds are compared by "
            "the edit, not by the mask; strengths are not compared.",
            "section 3.2, step 1",
        ),
    ),
    "mask-draws-32": (),
    "mask-seeds": (),
    "mask-compositional": (),
    "mask-new-light": (),
    "mask-new-background": (),
    "mask-camouflage": (),
    "mask-draws": (Claim("Ten draws are averaged, without a comparison.", "section 3.2, step 1"),),
    "mask-ways": (
        Claim(
            "The masks tend to be larger than the object.",
            "section 3.2, step 1",
            (Comparison("recall above precision", Side("base", "recall"),
                        Side("base", "precision")),),  # fmt: skip
        ),
    ),
    "ledger": (),
    "guidances": (),
    "soft": (),
    "integrators": (),
    "edit-seeds": (),
    "baselines": (),
    "shortcuts-guidance": (),
    "shortcuts-features": (),
    "shortcuts-window": (),
    "shortcuts-together": (),
    "shortcuts-32": (),
}
