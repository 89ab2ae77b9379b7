"""Shortcuts: what each costs in the edit, and what it saves."""

from ..ablation import Experiment

PRICE = ("recognised", "background psnr", "edit psnr", "csfid", "evaluations", "seconds")

GUIDANCE = Experiment(
    name="shortcuts-guidance",
    question="At which noise levels does the decoding need its guidance?",
    vary={
        "guidance_interval": {
            "0 to 1": (0.0, 1.0),
            "0 to 0.6": (0.0, 0.6),
            "0 to 0.4": (0.0, 0.4),
            "0.2 to 1": (0.2, 1.0),
            "0.4 to 1": (0.4, 1.0),
            "0.2 to 0.6": (0.2, 0.6),
        }
    },
    measures=PRICE,
    scenes=36,
)

WINDOW = Experiment(
    name="shortcuts-window",
    question="How much of what is around the mask does the decoding have to see?",
    vary={"decode_window": {"none": None, "4": 4, "2": 2, "1": 1, "0": 0}},
    measures=("iou", *PRICE[:-2], "window", *PRICE[-2:]),
    scenes=36,
)

FEATURES = Experiment(
    name="shortcuts-features",
    question="How long do the UNet's deep features last?",
    vary={"reuse_features": (1, 2, 3, 5)},
    measures=PRICE,
    scenes=36,
)

LESS_GUIDED = {"guidance_interval": (0.2, 0.6)}


def together(smoothed):
    """Rows of several shortcuts at once; of one noise map, a recipe that smooths it."""
    fewest = {**LESS_GUIDED, "reuse_features": 5}
    return {
        "guidance 0.2 to 0.6": LESS_GUIDED,
        "and features 3": {**LESS_GUIDED, "reuse_features": 3},
        "and features 5": fewest,
        "and features 5, one smoothed map": {**fewest, "recipe": smoothed, "num_maps": 1},
    }


TOGETHER = Experiment(
    name="shortcuts-together",
    question="What do the shortcuts save together?",
    rows=together("smooth"),
    measures=("iou", *PRICE),
    scenes=36,
)

LARGE = Experiment(
    name="shortcuts-32",
    question="What do the shortcuts cost and save on latents of 32x32?",
    rows={**together("smooth-32"), "window 4": {"decode_window": 4}},
    measures=("iou", *PRICE),
    scenes=100,
)
