"""What should come back outside the mask? Ways to finish one edit, on scenes with a known answer.

    python -m benchmarks.orchard.backgrounds --work W                     validation: what to choose
    python -m benchmarks.orchard.backgrounds --work W --split test --edits 201 --chosen
    python -m benchmarks.orchard.backgrounds --work W --edits 4 --chosen --mask true --mosaic 8

With `--mask true` the true mask is used instead of one that is looked for. With `--mosaic 8` each
picture is 8x8 scenes of the model's size, one of which is edited, coded in tiles.

Each scene is edited once; its arrays stay in the folder W, so that a run can be stopped and
continued, and another way costs nothing. Remnants is the share of clearly changed pixels that end
nearer to the source than to the truth (`measures.remnants`).
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from diffedit_core import background
from diffedit_core.files import written
from diffedit_core.model import ORCHARD, Model
from diffedit_core.options import RECIPES, Options
from diffedit_core.results import pixel_weight
from diffedit_core.vae import Tiling

from ..command import command
from . import classifier as judges, measures, methods, world
from .measures import frechet, interval

BATCH = 10  # edits at once, one where they are mosaics
PIXELS = (0, 4, 8)  # of growth and of feather, tried on validation scenes
COLUMNS = {
    "outside true mask, dB": "background psnr",
    "outside predicted mask, dB": "outside psnr",
    "slope error outside": "background slope error",
    "remnants": "remnants",
    "fruit and container right": "recognised",
    "container and background right": "rest unchanged",
}


def ways(chosen):
    """{name: (kind, grow, feather)}."""
    if chosen:
        default = Options()
        return {kind: (kind, default.grow, default.feather) for kind in background.KINDS}
    found = {"decoded": ("decoded", 0, 0)}
    for kind in ("pasted", "restored"):
        for grow in PIXELS:
            for feather in PIXELS:
                found[f"{kind}, grow {grow}, feather {feather}"] = (kind, grow, feather)
    return found


def edits(arguments, cases):
    """{"decoded", "roundtrip" [N,3,H,W], "mask" [N,h,w]} of the cases, in their order."""
    model, parts = None, []
    size = 1 if arguments.mosaic > 1 else BATCH
    for start in tqdm(range(0, len(cases), size), desc="edits", disable=None):
        name = f"{arguments.split}-{arguments.recipe}-{start}"
        if arguments.mask == "true" or arguments.mosaic > 1:
            name += f"-{arguments.mask}-{arguments.mosaic}-{arguments.steps}"
        file = arguments.work / f"{name}-{methods.model_name(arguments.model)}.npz"
        if not file.exists():
            model = model or Model.load(arguments.model)
            batch = cases[start : start + size]
            changes = {**_of(RECIPES[arguments.recipe]), "background": "restored"}
            changes["num_inference_steps"] = arguments.steps
            masks = on_latents(batch, model) if arguments.mask == "true" else None
            tiling = Tiling() if arguments.mosaic > 1 else None
            found = methods.run("DiffEdit", model, changes, batch, masks=masks, tiling=tiling).edit
            arrays = {n: getattr(found, n) for n in ("decoded", "roundtrip", "mask")}
            with written(file) as part:
                np.savez(part, **arrays)
        parts.append(np.load(file))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0].files}


def on_latents(cases, model):
    """The true masks [N,h,w] of latent cells: 1 where any pixel of the cell changes."""
    factor = model.configs.vae.factor
    return np.stack([world.on_grid(case.mask, factor) for case in cases]).astype(np.float32)


def mosaics(cases, count):
    """Each case within count x count scenes: the others are the sources of the cases that follow.

    The i-th case is in the i-th place, by rows, so that edges and corners have their turn.
    """
    found = []
    for i, case in enumerate(cases):
        around = [cases[(i + j) % len(cases)].source for j in range(1, count**2)]
        place = i % count**2

        def tiled(own, others=around, place=place):
            return joined([*others[:place], own, *others[place:]], count)

        mask = tiled(case.mask[None], [np.zeros_like(case.mask[None])] * len(around))[0]
        source, truth = tiled(case.source), tiled(case.truth)
        found.append(case._replace(source=source, truth=truth, mask=mask))
    return found


def joined(pictures, count):
    """count^2 pictures [C,H,W], by rows -> [C, count H, count W]."""
    rows = [np.concatenate(pictures[i : i + count], 2) for i in range(0, len(pictures), count)]
    return np.concatenate(rows, 1)


def edited_scenes(images, count):
    """The scene of each mosaic that was edited: [N,C,count H,count W] -> [N,C,H,W]."""
    size = images.shape[-1] // count
    places = [divmod(i % count**2, count) for i in range(len(images))]
    return np.stack(
        [
            image[:, row * size : (row + 1) * size, column * size : (column + 1) * size]
            for image, (row, column) in zip(images, places)
        ]
    )


def _of(options):
    names = ("mask_smoothing", "mask_clamp_quantile", "mask_threshold")
    return {name: getattr(options, name) for name in names}


def judge(case, image, mask, found):
    """All numbers of one finished edit."""
    wanted, heads = judges.classes(case.edited), list(judges.HEADS)
    right = dict(zip(heads, found == wanted))
    beside = ~mask.repeat(len(case.mask) // len(mask), 0).repeat(len(case.mask) // len(mask), 1)
    return {
        "background psnr": measures.psnr(image, case.source, ~case.mask),
        "outside psnr": measures.psnr(image, case.source, beside),
        "background slope error": measures.slope_error(image, case.source, ~case.mask),
        "remnants": measures.remnants(image, case.source, case.truth, case.mask),
        "recognised": bool(right["fruit"] and right["container"]),
        "rest unchanged": bool(right["container"] and right["background"]),
    }


def finished(way, arrays, sources):
    """The pictures [N,3,H,W] of a way."""
    kind, grow, feather = way
    options = Options(background=kind, grow=grow, feather=feather)
    w = pixel_weight(options, arrays["mask"], sources.shape)
    pixels = background.finished(kind, arrays["decoded"], sources, arrays["roundtrip"], w)
    return np.clip(pixels, -1, 1)


def lines(cases, arrays, chosen, count=1):
    """Lines of the Markdown table, for mosaics of count x count scenes."""
    judge_of = judges.Classifier.load(judges.TRAINED)
    sources, truths = (np.stack([getattr(c, n) for c in cases]) for n in ("source", "truth"))
    true_features = judge_of(edited_scenes(truths, count))[0]
    yield f"| n = {len(cases)} | {' | '.join(COLUMNS)} | CSFID |"
    yield "|---" * (len(COLUMNS) + 2) + "|"
    for name, way in ways(chosen).items():
        images = finished(way, arrays, sources)
        features, classes = judge_of(edited_scenes(images, count))
        rows = [judge(*row) for row in zip(cases, images, arrays["mask"] > 0.5, classes)]
        cells = [shown([row[key] for row in rows]) for key in COLUMNS.values()]
        yield f"| {name} | {' | '.join(cells)} | {frechet(features, true_features):.1f} |"


def shown(values):
    """Mean [low, high] at 95 %."""
    mean, low, high = interval(values)
    digits = 2 if abs(mean) > 2 else 3
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


@command("backgrounds")
def main(words):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of the edits' arrays")
    parser.add_argument("--model", default=ORCHARD)
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--edits", type=int, default=30)
    parser.add_argument("--recipe", choices=("paper", "smooth"), default="paper")
    parser.add_argument("--mask", choices=("found", "true"), default="found")
    parser.add_argument("--mosaic", type=int, default=1, metavar="N", help="N x N scenes a picture")
    parser.add_argument("--steps", type=int, default=Options().num_inference_steps)
    parser.add_argument("--chosen", action="store_true", help="only the default growth and feather")
    arguments = parser.parse_args(words)
    side = methods.own_size(arguments.model)
    arguments.work.mkdir(parents=True, exist_ok=True)
    cases = methods.cases(arguments.edits, arguments.split, world.EDITS, side)
    if arguments.mosaic > 1:
        cases = mosaics(cases, arguments.mosaic)
    arrays = edits(arguments, cases)
    print("\n".join(lines(cases, arrays, arguments.chosen, arguments.mosaic)))


if __name__ == "__main__":
    sys.exit(main())
