"""Measure a model on edits whose true answer is known: a table (JSON and Markdown) and a contact
sheet.

    python -m benchmarks.orchard.evaluate --out results [--model DIR] [--edits 201]

A third of the edits each changes the fruit, the container, and both. The true mask is what differs
between two renders of one scene (`world.true_mask`), on the grid of the latents: a cell counts as
soon as one of its 8x8 pixels differs, since no latent mask can be finer. Intervals are 95 %:
Wilson's for shares, two standard errors of the mean for the rest. What the folder of results has
already is not measured again, so that a run can be stopped and continued. `--shard 1/2` and
`--shard 2/2` in two processes, or on two machines with one folder, do half of the batches each.
`--answers DIR` leaves the edits and masks of each method it measures in the folder that
`benchmarks.orchard.data --out DIR` wrote, for `benchmarks.orchard.score DIR --method NAME`.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from tqdm import tqdm

from diffedit_core import images, model as M
from diffedit_core.errors import InputError
from diffedit_core.files import written
from diffedit_core.mask import normalise
from diffedit_core.memory import CELLS_OF_MANY, default_cells
from diffedit_core.options import RECIPES

from ..ablation.work import Share
from ..command import command
from . import batches, classifier as C, data, measures, texts, world as W
from .data import to_pixels
from .measures import frechet, shown, summarise, table
from .methods import METHODS, cases, model_name, own_size, settings

THRESHOLDS = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)
IN_LINES = {
    "DiffEdit": "",
    "recipe smooth": ", recipe smooth",
    "recipe smooth-32": ", recipe smooth-32",
}  # methods whose kinds of edits have lines of their own
BEST = "each picture's best"


def round_trips(model, found_cases):
    """The sources through the VAE and back, one by one."""
    latents = [model.latents(model.encode_image(case.source[None])) for case in found_cases]
    return np.concatenate([np.clip(model.decode_latents(z), -1, 1) for z in latents])


def groups(found_cases):
    """{line of the table: indices of its cases}."""
    lines = {kind: [i for i, c in enumerate(found_cases) if c.kind == kind] for kind in W.EDITS}
    lines["removing the container"] = [
        i for i in lines["container"] if found_cases[i].edited.container == "none"
    ]
    lines["single fruit"] = [i for i in lines["fruit"] if found_cases[i].scene.count == 1]
    return {name: rows for name, rows in lines.items() if rows}


def threshold_curve(found_cases, maps, clamp_ratio):
    """{kind: {threshold: mean IoU}}: what each threshold finds in the noise maps [h,w] of the
    cases.

    BEST is the mean of what the best threshold of each picture finds, of all that there are: the
    limit that the maps set.
    """
    factor = found_cases[0].mask.shape[0] // maps[0].shape[0]
    truths = [W.on_grid(c.mask, factor) for c in found_cases]
    normalised = normalise(ms.Tensor(np.stack(maps)), clamp_ratio).asnumpy()
    found = {
        t: np.array([measures.overlap(y > t, true)[0] for y, true in zip(normalised, truths)])
        for t in THRESHOLDS
    }
    found[BEST] = np.array([measures.best_overlap(y, true) for y, true in zip(maps, truths)])
    kinds = np.array([c.kind for c in found_cases])
    return {
        kind: {t: float(values[kinds == kind].mean()) for t, values in found.items()}
        for kind in dict.fromkeys(kinds)
    }


# --- output ---------------------------------------------------------------------------------------


def contact_sheet(found_cases, records, images, masks, maps, each=12):
    """Best, median and worst edits by their PSNR to the truth, side by side: source, heat map,
    mask, edit, truth."""
    order = sorted(
        (i for i, r in enumerate(records) if np.isfinite(r["edit psnr"])),
        key=lambda i: -records[i]["edit psnr"],
    )
    each = min(each, len(order))
    middle = (len(order) - each) // 2
    columns = [order[:each], order[middle : middle + each], order[-each:]]
    rows = [
        [
            picture
            for column in columns
            for picture in strip(
                found_cases[column[k]], images[column[k]], masks[column[k]], maps[column[k]]
            )
        ]
        for k in range(each)
    ]
    return W.sheet(rows)


def strip(case, image, mask, noise_map):
    """Five uint8 pictures of one edit."""
    source, truth = to_pixels(np.stack([case.source, case.truth]))
    clamped = np.minimum(noise_map, 3 * noise_map.mean())
    size = source.shape[:2]
    factor = size[0] // mask.shape[0]
    wide = [np.kron(m, np.ones((factor, factor), np.float32)) for m in (clamped, mask)]
    dimmed = (source * (0.35 + 0.65 * wide[1][..., None])).astype(np.uint8)
    return [source, np.asarray(images.heat_map(wide[0])), dimmed, image, truth]


def parser():
    """The command line."""
    top = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument(
        "--model", default=M.ORCHARD, help="folder of the model (default: the one that ships)"
    )
    top.add_argument("--classifier", default=C.TRAINED, type=Path, help="weights of another judge")
    top.add_argument("--out", required=True, type=Path, help="folder of the results")
    top.add_argument("--edits", type=int, default=201)
    top.add_argument(
        "--size",
        type=int,
        choices=W.SIZES,
        help="of the edits' pictures (default: the model's own)",
    )
    top.add_argument(
        "--texts", type=int, default=96, help="samples of seen, and of held-out combinations"
    )
    top.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    top.add_argument("--shard", metavar="i/n", help="do this part of the batches, no table")
    top.add_argument(
        "--answers", metavar="DIR", type=Path, help="for score: a folder of data with these edits"
    )
    top.add_argument("--steps", type=int, default=50)
    top.add_argument("--guidance", type=float, default=RECIPES["paper"].guidance_scale)
    return top


@command("evaluate")
def main(words):
    """Write results.json, results.md, edits.jpg and the sheets of samples."""
    evaluate(parser().parse_args(words))


def begin(a, options):
    """The results so far: those in the folder, if they are of the same model and settings, else
    none."""
    judge = hashlib.sha256(Path(a.classifier).read_bytes()).hexdigest()[:8]
    facts = {
        "model": model_name(a.model, M.COMPONENTS),
        "edits": a.edits,
        "texts": a.texts,
        "size": a.size or own_size(a.model),
        "classifier": judge,
        "options": dataclasses.asdict(options),
    }
    facts = json.loads(json.dumps(facts))  # as a file gives them back: pairs are lists
    results = {
        "facts": facts,
        "lines": {},
        "thresholds": {},
        "methods": {},
        "csfid": {},
        "text to image": {},
        "records": {},
    }
    earlier = a.out / "results.json"
    if earlier.exists():
        results = json.loads(earlier.read_text(encoding="utf-8"))
        if results.get("facts") != facts:
            raise InputError(
                f"{earlier} is of another model or other settings: give another --out."
            )
    return results


def evaluate(a):
    """The whole measurement, written step by step into the folder; what is there already is not
    measured again."""
    changes = {"num_inference_steps": a.steps, "guidance_scale": a.guidance}
    options = RECIPES["paper"].replace(**changes)
    results = begin(a, options)
    found_cases, share = cases(a.edits, size=results["facts"]["size"]), Share.of(a.shard, {})
    asked = names_of(a.answers, found_cases)
    a.out.mkdir(parents=True, exist_ok=True)
    if not (a.out / "results.json").exists():
        write_json(a.out / "results.json", results)
    model = M.Model.load(a.model, cells_at_once=default_cells(cells=CELLS_OF_MANY))
    classifier = C.Classifier.load(a.classifier)

    @functools.lru_cache(maxsize=None)
    def trips(start):
        return round_trips(model, found_cases[start : start + batches.BATCH])

    names = [name for name in a.methods if name not in results["methods"]]
    batches.measure(names, model, changes, found_cases, classifier, trips, a.out, share)
    drawn = [n for n in texts.SAMPLES if a.texts and n not in results["text to image"]]
    asking = model, options, classifier, a.texts, results["facts"]["size"], a.out, share
    if share.alone:
        for name in drawn:
            texts.measure(name, *asking)
        print(f"{a.shard} is done: when all are, give the command without --shard for the table.")
        return
    starts = tqdm(sorted(batches.starts(a.edits, share)), desc="round trips", disable=None)
    add_facts(results, found_cases, np.concatenate(list(map(trips, starts))), classifier)
    for name in names:
        add_method(results, name, found_cases, classifier, a.out)
        if a.answers:
            found = batches.collected(name, a.edits, a.out)
            about = {"model": results["facts"]["model"], "settings": settings(name, changes)}
            folder = a.answers / batches.slug(name)
            data.write_answers(folder, asked, found.images, found.masks, about)
        write(a.out, results)
        batches.discard(name, a.edits, a.out)
    for name in drawn:
        texts.measure(name, *asking)
        add_samples(results, name, a.out)
        write(a.out, results)
        batches.discard(name, a.texts, a.out, texts.BATCH)
    print((a.out / "results.md").read_text(encoding="utf-8"))


def names_of(folder, found_cases):
    """The names of the edits in a folder that `data` wrote, or None without a folder.

    Raises:
        InputError: it holds other edits.
    """
    if folder is None:
        return None
    edits, sources = data.read_split(folder), np.stack([case.source for case in found_cases])
    pictures = to_pixels(sources)
    same = len(edits) == len(pictures) and all(
        np.array_equal(edit.picture, picture) for edit, picture in zip(edits, pictures)
    )
    if not same:
        raise InputError(
            f"{folder} holds other edits than the {len(pictures)} of {pictures.shape[2]} pixels "
            "that are measured: write one with benchmarks.orchard.data --split test --size "
            f"{pictures.shape[2]} --count {len(pictures)}."
        )
    return [edit.name for edit in edits]


def add_facts(results, found_cases, trips, classifier):
    """Put what the autoencoder loses and the classifier's own accuracy into the results."""
    sources = np.stack([case.source for case in found_cases])
    results["classifier accuracy"] = C.accuracy(classifier)
    results["vae"] = {
        "psnr": measures.psnr(trips, sources),
        "slope error": measures.slope_error(trips, sources),
    }


def add_method(results, name, found_cases, classifier, folder):
    """Put what `batches.measure` found into the results, and the contact sheet into the folder."""
    records, images, features, masks, maps = batches.collected(name, len(found_cases), folder)
    results["records"][name] = records
    results["methods"][name] = len(records), summarise(records)
    truths = classifier(np.stack([case.truth for case in found_cases]))[0]
    results["csfid"][name] = frechet(features, truths)
    if name in IN_LINES:
        for line, rows in groups(found_cases).items():
            summary = summarise([records[i] for i in rows])
            results["lines"][line + IN_LINES[name]] = len(rows), summary
    if name == "DiffEdit":
        ratio = RECIPES["paper"].mask_clamp_ratio
        results["thresholds"] = threshold_curve(found_cases, maps, ratio)
        sheet = contact_sheet(found_cases, records, images, masks, maps)
        smaller = results["facts"]["size"] // W.SIZE  # pictures of any size have that of the small
        sheet.reduce(smaller).save(folder / "edits.jpg", quality=85)


def add_samples(results, name, folder):
    """Put what `texts.measure` found into the results, and a sheet into the folder."""
    wanted, right, pictures = texts.collected(name, results["facts"]["texts"], folder)
    results["text to image"].update(texts.lines(name, wanted, right))
    texts.sheet(pictures).save(folder / f"samples-{name.split()[0]}.png")


def write(folder, results):
    """results.json and results.md, with what is known so far."""
    text = (
        f"{results['facts']['edits']} test edits of {results['facts']['size']} pixels. "
        "VAE round trip of their sources: "
        f"PSNR {results['vae']['psnr']:.2f} dB, slope error {results['vae']['slope error']:.3f}.\n"
    )
    text += "Classifier on unseen renders: "
    text += ", ".join(f"{k} {v:.3f}" for k, v in results["classifier accuracy"].items()) + ".\n\n"
    text += table(results["lines"]) + "\n"
    for kind, curve in results["thresholds"].items():
        text += (
            f"Mask IoU of {kind} by mask_threshold: "
            + ", ".join(f"{t} {value:.3f}" for t, value in curve.items())
            + ".\n\n"
        )
    text += "All edits, against the alternatives:\n\n" + table(results["methods"]) + "\n"
    text += (
        "CSFID to the true edits: "
        + ", ".join(f"{k} {v:.2f}" for k, v in results["csfid"].items())
        + ".\n\n"
    )
    for line, (count, numbers) in results["text to image"].items():
        text += (
            f"Text to image, {line} (n = {count}): "
            + ", ".join(f"{k} {shown(v)}" for k, v in numbers.items())
            + ".\n\n"
        )
    with written(folder / "results.md") as part:
        part.write_text(text, encoding="utf-8")
    write_json(folder / "results.json", results)


def write_json(path, results):
    """The results as a file that appears whole."""
    with written(path) as part:
        part.write_text(json.dumps(results, indent=1, default=float) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
