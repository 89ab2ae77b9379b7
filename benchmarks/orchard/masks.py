"""What limits the mask? The ablation of DiffEdit's first step on edits whose true mask is known.

    python -m benchmarks.orchard.masks [--edits 120] [--strengths 0.35 0.5 0.65] [--maps 10 30]
        [--size 128] [--smoothings 0.5 0.7 --quantiles 0.95 0.98 --thresholds 0.2 0.25]

For each noise strength and number of noise draws: the mean IoU with the true mask, on the grid of
the latents, for edits of the fruit, the container, and both, of validation scenes. The rows of a
block are ways from one noise map to a mask: the recipes with other thresholds, each half of what
recipe "smooth" changes, and the threshold that is best for each picture by itself, which only the
truth can tell: no threshold finds more in these maps. `--smoothings`, `--quantiles` and
`--thresholds` together add rows for all their combinations.
"""

import argparse
import itertools
import sys

import mindspore as ms
import numpy as np
from tqdm import tqdm

from diffedit_core import mask, model as M
from diffedit_core.errors import InputError
from diffedit_core.memory import CELLS_OF_MANY, default_cells
from diffedit_core.options import RECIPES
from diffedit_core.parts import mask_of

from ..command import command
from . import measures, methods, world as W

PAPER, SMOOTH = RECIPES["paper"], RECIPES["smooth"]
WAYS = {
    **{f"paper, threshold {t}": PAPER.replace(mask_threshold=t) for t in (0.3, 0.4, 0.5, 0.6)},
    **{
        f"clamp at the 98 % quantile, threshold {t}": SMOOTH.replace(
            mask_smoothing=0.0, mask_threshold=t
        )
        for t in (0.2, 0.25)
    },
    **{
        f"smoothed, threshold {t}": PAPER.replace(mask_smoothing=0.7, mask_threshold=t)
        for t in (0.4, 0.5)
    },
    **{f"smooth, threshold {t}": SMOOTH.replace(mask_threshold=t) for t in (0.25, 0.3, 0.35)},
}
BATCH = 12  # edits at once


def grid(smoothings, quantiles, thresholds):
    """{way: options} of all combinations, with clamps at quantiles as in recipe "smooth"."""
    return {
        f"smoothing {s}, clamp at the {100 * q:g} % quantile, threshold {t}": SMOOTH.replace(
            mask_smoothing=s, mask_clamp_quantile=q, mask_threshold=t
        )
        for s, q, t in itertools.product(smoothings, quantiles, thresholds)
    }


def scores(maps, truths, ways=WAYS):
    """{way: IoU of each picture [B]} of maps [B,h,w] and true masks bool [B,h,w]."""
    tensor = ms.Tensor(maps)
    found = {
        name: [
            measures.overlap(m, true)[0]
            for m, true in zip(mask_of(tensor, way).asnumpy() > 0, truths)
        ]
        for name, way in ways.items()
    }
    for name, options in (
        ("best threshold of each picture", PAPER),
        ("smoothed, best threshold of each picture", SMOOTH),
    ):
        smoothed = mask.smooth(tensor, options.mask_smoothing).asnumpy()
        found[name] = [measures.best_overlap(m, true) for m, true in zip(smoothed, truths)]
    return {name: np.array(values) for name, values in found.items()}


def noise_maps(model, batch, strength, draws):
    """Noise maps [B,n,h,w] of a batch of cases, one for each draw, as the edit computes them."""
    drawn = []

    def keep(stage, key, function):
        value = function()
        if stage == "maps":
            drawn.append(value[0].asnumpy())
        return value

    changes = {"mask_noise_strength": strength, "num_maps": draws}
    methods.run("DiffEdit", model, changes, batch, keep=keep, only_mask=True)
    return np.concatenate(drawn, 1)


@command("masks")
def main(words):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default=M.ORCHARD, help="folder of the model (default: the one that ships)"
    )
    parser.add_argument("--edits", type=int, default=120)
    parser.add_argument(
        "--size", type=int, choices=W.SIZES, help="of the pictures (default: the model's own)"
    )
    parser.add_argument("--strengths", type=float, nargs="+", default=(0.35, 0.5, 0.65))
    parser.add_argument("--maps", type=int, nargs="+", default=(10, 30), help="noise draws")
    rows = parser.add_argument_group("rows for all combinations of")
    rows.add_argument("--smoothings", type=float, nargs="+", default=(), help="sigmas, in cells")
    rows.add_argument("--quantiles", type=float, nargs="+", default=(), help="where it is clamped")
    rows.add_argument("--thresholds", type=float, nargs="+", default=(), help="where it is cut")
    arguments = parser.parse_args(words)
    axes = arguments.smoothings, arguments.quantiles, arguments.thresholds
    if any(axes) and not all(axes):
        raise InputError("Give --smoothings, --quantiles and --thresholds together, or none.")
    ways = {**WAYS, **grid(*axes)}
    model = M.Model.load(arguments.model, cells_at_once=default_cells(cells=CELLS_OF_MANY))
    size = arguments.size or model.configs.picture_size
    cases = methods.cases(arguments.edits, "validation", size=size)
    truths = np.stack([W.on_grid(c.mask, model.configs.vae.factor) for c in cases])
    kinds = np.array([c.kind for c in cases])
    for strength in arguments.strengths:
        parts = [
            noise_maps(model, cases[i : i + BATCH], strength, max(arguments.maps))
            for i in tqdm(range(0, len(cases), BATCH), desc=f"strength {strength}", disable=None)
        ]
        maps = np.concatenate(parts)
        for draws in arguments.maps:
            print(
                f"\n| strength {strength}, {draws} draws | {' | '.join(W.EDITS)} | all |\n|---|"
                + "---|" * (len(W.EDITS) + 1)
            )
            for name, values in scores(maps[:, :draws].mean(1), truths, ways).items():
                means = [values[kinds == kind].mean() for kind in W.EDITS] + [values.mean()]
                print(f"| {name} | " + " | ".join(f"{m:.3f}" for m in means) + " |")


if __name__ == "__main__":
    sys.exit(main())
