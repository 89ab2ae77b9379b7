"""Whether two sides made the same edit: without that their times do not compare."""

import numpy as np

CELLS = 0.005  # share of the mask's cells that may differ: rounding flips one at the threshold

# dtype -> relative error of latents and picture that is rounding and no more. Measured in fp32:
# 2e-5. Of the others nothing is measured, and --tolerance has to say it.
RELATIVE = {"fp32": 1e-3}

MEASURES = {
    "mask": "share of the mask's cells that differ",
    "inverted": "relative error of the inverted latents",
    "decoded": "relative error of the decoded latents",
    "picture": "relative error of the picture",
    "UNet rows": "UNet rows that one evaluates and the other does not",
}


def relative(found, expected):
    """The norm of the difference over that of the expected; infinite where shapes differ."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        return float("inf")
    size, error = np.linalg.norm(expected), np.linalg.norm(found - expected)
    return float(error / size) if size else float(error)


def errors(ours, public):
    """{measure: error} of the arrays that both sides gave, but for the rows."""
    same = ours["mask"].shape == public["mask"].shape
    cells = float(np.mean(ours["mask"] != public["mask"])) if same else float("inf")
    others = {
        name: relative(ours[name], public[name]) for name in ("inverted", "decoded", "picture")
    }
    return {"mask": cells, **others}


def rows(ours, public):
    """How many UNet rows the two evaluated in phases where the other did not; of {phase: rows}."""
    phases = set(ours) | set(public)
    return float(sum(abs(ours.get(phase, 0) - public.get(phase, 0)) for phase in phases))


def worst(found):
    """The largest of each measure over several {measure: error}; not a number is the largest."""
    return {name: float(np.max([each[name] for each in found])) for name in found[0]}


def tolerances(relative_error):
    """{measure: the largest error allowed}."""
    return {
        "mask": CELLS,
        **dict.fromkeys(("inverted", "decoded", "picture"), relative_error),
        "UNet rows": 0.0,
    }


def broken(found, allowed):
    """The measures whose error is not within what is allowed, in words; empty where all are."""
    return [
        f"{MEASURES[name]} {found[name]:.2g}, at most {allowed[name]:g}"
        for name in allowed
        if not found[name] <= allowed[name]
    ]
