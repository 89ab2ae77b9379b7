"""DiffEdit with a perfect model: what remains wrong is the method's fault, the rest the network's.

    python -m benchmarks.ablations.perfect_model --work W [--edits 30] [--renders 300] [--size 64]
    python -m benchmarks.ablations.perfect_model --table

In a world of finitely many pictures x_1 ... x_M, all equally likely, the best denoiser is known.
For a sentence that the pictures S fit,

    E[x0 | x_t] = sum_S w_i x_i,   w = softmax_S( -|x_t - sqrt(a) x_i|^2 / (2 (1-a)) )
    eps*(x_t)   = (x_t - sqrt(a) E[x0 | x_t]) / sqrt(1-a)

and no network of any size has a smaller squared error. `PerfectModel` predicts that, with pixels
for latents, so that `edit` runs on it as it is.

Each edit has a world of its own: renders that fit the source's sentence, as many that fit the
target's, as many others; the empty sentence fits all. It comes in three kinds (`KINDS`): with the
scene and its true edit among the renders, with other still lifes on the scene's very ground
instead, or with neither. Renders are kept in the folder --work, results appended to --out; what is
there already is not made again. --table prints what is there.
"""

import argparse
import json
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import ops
from tqdm import tqdm

from diffedit_core import kernels, schedule
from diffedit_core.mask import normalise, smooth
from diffedit_core.options import RECIPES

from ..command import command
from ..orchard import data, layout, measures, methods, reader, world as W

SCALE = 2.0  # of pixels in [-1,1]: about unit variance, as the noise levels are made for
SCHEDULE = replace(layout.SCHEDULER, prediction_type="epsilon")
KINDS = {
    "holds the scene": "the scene and its true edit are among the renders",
    "holds its ground": "other still lifes on the scene's ground are, but not the scene",
    "holds neither": "neither is",
}
RUNS = (  # (name in methods.METHODS, guidance of the decoding)
    ("DiffEdit", 7.5),
    ("recipe smooth", 7.5),
    ("mask without encoding", 7.5),
    ("encode-decode", 7.5),
    ("SDEdit", 7.5),
    ("SDEdit", 1.0),
)
THRESHOLDS = (0.25, 0.5, 0.75)
SAME = 2.0  # grey levels, root mean square: a result this near to a render is that render
RESULT = Path(__file__).with_suffix(".jsonl")


# --- the best denoiser of a finite world ----------------------------------------------------------

LOST = 40.0  # a render with e^-40 times the largest weight has none
ROUNDING = 1e-2  # of a logit, from which on distances are computed once more, difference first


class Atoms(NamedTuple):
    """The pictures of a world as rows: points float32 [M,D], squares float64 [M] their lengths
    squared."""

    points: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, points):
        points = np.ascontiguousarray(points, np.float32)
        return cls(points, np.einsum("md,md->m", points, points, dtype=np.float64))


def distances(x, atoms, alpha):
    """|x - sqrt(a) x_i|^2, float64 [B,M].

    By |x|^2 - 2 sqrt(a) x.x_i + a |x_i|^2, in one product of float32 matrices. Where that is not
    exact enough for the weights at 1-a, the nearest are computed again as they are written.

    Args:
        x: float32 [B,D].
        alpha: alphas_cumprod of x's level, in (0,1).
    """
    squares = np.einsum("bd,bd->b", x, x, dtype=np.float64)[:, None]
    found = squares - 2 * np.sqrt(alpha) * (x @ atoms.points.T) + alpha * atoms.squares
    error = np.finfo(np.float32).eps * np.sqrt(alpha * squares.max() * atoms.squares.max())
    if error > ROUNDING * 2 * (1 - alpha):
        near = found <= found.min(1, keepdims=True) + 2 * (1 - alpha) * LOST + 16 * error
        for row, some in enumerate(near):
            differences = x[row] - np.float32(np.sqrt(alpha)) * atoms.points[some]
            found[row, some] = np.einsum("md,md->m", differences, differences, dtype=np.float64)
    return found


def weights(found, alpha):
    """softmax(-found / (2 (1-a))) over the last axis, float64; infinite distances have no
    weight."""
    logits = -(found - found.min(-1, keepdims=True)) / (2 * (1 - alpha))
    shares = np.where(logits < -LOST, 0.0, np.exp(np.maximum(logits, -LOST)))
    return shares / shares.sum(-1, keepdims=True)


def mean_of(shares, atoms):
    """sum_i w_i x_i: float64 [B,M] -> float32 [B,D]."""
    some = np.flatnonzero(shares.any(0))
    return shares[:, some].astype(np.float32) @ atoms.points[some]


def expected(x, atoms, alpha, fits=None):
    """E[x0 | x_t = x] in a world of equally likely pictures.

    Args:
        x: float32 [B,D].
        atoms: `Atoms`.
        alpha: alphas_cumprod of x's level, in (0,1).
        fits: bool [B,M], the pictures that each row's sentence fits; all without it.
    Returns:
        float32 [B,D].
    Laws: one picture is found from any x; as a -> 0 the mean of the pictures; between the pictures'
        extremes everywhere.
    """
    found = distances(x, atoms, alpha)
    if fits is not None:
        found = np.where(fits, found, np.inf)
    return mean_of(weights(found, alpha), atoms)


def best_eps(x, atoms, alpha, fits=None):
    """(x - sqrt(a) E[x0|x]) / sqrt(1-a): the noise estimate with the smallest mean squared error.

    Args, Returns: as `expected`.
    Law: no other estimate that was tried has a smaller mean error against sampled noise.
    """
    clean = expected(x, atoms, alpha, fits)
    return (x - np.float32(np.sqrt(alpha)) * clean) / np.float32(np.sqrt(1 - alpha))


# --- as a model -----------------------------------------------------------------------------------


class PerfectModel:
    """The interface of `model.Model` over a finite world; latents are pixels times SCALE.

    Args:
        atoms: `Atoms` of pictures [3,H,W] times SCALE, as rows.
        fits: {sentence: bool [M], the pictures that it fits}; the empty sentence fits all.
    """

    def __init__(self, atoms, fits, config=SCHEDULE):
        self.atoms = atoms
        self.sentences = [*fits]
        self.fits = np.stack([fits[sentence] for sentence in self.sentences])
        self.alphas = schedule.alphas_cumprod(config)
        self.configs = SimpleNamespace(
            scheduler=config,
            latent_channels=3,
            vae=SimpleNamespace(factor=1, scaling_factor=SCALE),
            unet=SimpleNamespace(factor=1),
        )

    def encode_prompts(self, texts):
        """[N] sentences of the world -> [N,1,1], their numbers."""
        numbers = [self.sentences.index(text) for text in texts]
        return ms.Tensor(np.array(numbers, np.float32).reshape(-1, 1, 1))

    def encode_image(self, image, tiling=None):
        mean = ms.Tensor(np.asarray(image, np.float32))
        return mean, ops.zeros_like(mean) - 30.0

    def latents(self, moments, noise=None):
        mean, log_variance = moments
        if noise is not None:
            mean = mean + ops.exp(log_variance / 2) * ms.Tensor(noise)
        return mean * SCALE

    def decode_latents(self, latents, tiling=None):
        return latents.asnumpy() / np.float32(SCALE)

    def predict(self, latents, timestep, states):
        """eps* for latents [B,3,H,W]; equal rows are looked up once."""
        x, numbers = latents.asnumpy().reshape(latents.shape[0], -1), states.asnumpy().reshape(-1)
        keys = [row.tobytes() for row in x]
        places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
        alpha = float(self.alphas[timestep])
        once = x[[keys.index(key) for key in places]]
        found = distances(once, self.atoms, alpha)[[places[key] for key in keys]]
        found = np.where(self.fits[numbers.astype(int)], found, np.inf)
        clean = mean_of(weights(found, alpha), self.atoms)
        eps = (x - np.float32(np.sqrt(alpha)) * clean) / np.float32(np.sqrt(1 - alpha))
        return ms.Tensor(eps.reshape(latents.shape))


# --- worlds ---------------------------------------------------------------------------------------


def reduced(picture, size):
    """uint8 [128,128,3], averaged down: uint8 [size,size,3]."""
    factor = picture.shape[0] // size
    cells = picture.reshape(size, factor, size, factor, 3).mean((1, 3))
    return np.floor(cells + 0.5).astype(np.uint8)


def draw(scene, size):
    return reduced(W.render(scene)[0], size)


def alike(scene, count):
    """`count` training scenes that the caption of `scene` fits, and the same ones each time."""
    rng = np.random.default_rng([3, zlib.crc32(W.caption(scene).encode())])
    counts = [n for n in W.COUNTS if (n == 1) == (scene.count == 1)]
    for _ in range(count):
        number, place = counts[rng.integers(len(counts))], W.PLACES[rng.integers(len(W.PLACES))]
        seed = W.SEEDS["train"][int(rng.integers(len(W.SEEDS["train"])))]
        yield replace(scene, count=number, place=place, seed=seed)


def renders(work, name, scenes, size):
    """Pictures uint8 [M,size,size,3] of scenes, drawn once and kept in a file of this name."""
    path = Path(work) / f"{name}-{size}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        data.write_array(path, np.stack([draw(scene, size) for scene in scenes]))
    return np.load(path)


def fitting(work, scene, count, size):
    """`renders` of `alike`."""
    name = f"{W.caption(scene).replace(' ', '-')}-{count}"
    return renders(work, name, alike(scene, count), size)


def others(work, count, size):
    """(captions, pictures) of the first training scenes, whatever they show."""
    scenes = [W.sample_scene(seed) for seed in W.SEEDS["train"][:count]]
    return [W.caption(scene) for scene in scenes], renders(work, f"others-{count}", scenes, size)


def on_its_ground(scene):
    """The scenes of the same sentence and seed with another count or place: equal grounds."""
    return [
        replace(scene, count=count, place=place)
        for count in W.COUNTS
        for place in W.PLACES
        if (count == 1) == (scene.count == 1) and (count, place) != (scene.count, scene.place)
    ]


def rows_of(pictures):
    """uint8 [M,size,size,3] -> float32 [M,D], latents as the model has them."""
    return data.to_model(pictures).reshape(len(pictures), -1) * np.float32(SCALE)


def world_of(work, case, count, size, shared):
    """(`Atoms`, {kind: {sentence: bool [M]}}) of one edit."""
    pair = (case.scene, case.edited)
    source, target = map(W.caption, pair)
    captions, pictures = shared
    ground = [[draw(s, size) for s in on_its_ground(scene)] for scene in pair]
    parts = {  # (kind, sentence): pictures
        ("holds the scene", source): draw(case.scene, size)[None],
        ("holds the scene", target): draw(case.edited, size)[None],
        ("holds its ground", source): np.stack(ground[0]),
        ("holds its ground", target): np.stack(ground[1]),
        (None, source): fitting(work, case.scene, count, size),
        (None, target): fitting(work, case.edited, count, size),
    }
    kinds = np.array([k for (k, _), rows in parts.items() for _ in rows] + [None] * len(captions))
    says = np.array([s for (_, s), rows in parts.items() for _ in rows] + captions)
    atoms = Atoms.of(rows_of(np.concatenate([*parts.values(), pictures])))
    held = {kind: np.isin(kinds, [kind, None]) for kind in KINDS}
    fits = {
        kind: {"": some} | {sentence: some & (says == sentence) for sentence in (source, target)}
        for kind, some in held.items()
    }
    return atoms, fits


def cases(count, size):
    """The first test edits at this size, with the true masks that they have there."""
    found = []
    for case in methods.cases(count):
        pictures = [draw(scene, size) for scene in (case.scene, case.edited)]
        source, truth = data.to_model(np.stack(pictures))
        mask = W.true_mask(*pictures)
        found.append(case._replace(source=source, truth=truth, mask=mask))
    return found


# --- what it gives --------------------------------------------------------------------------------


def read(judge, picture):
    """The classes that the reader sees in a picture [3,H,W]."""
    factor = W.SIZE // picture.shape[-1]
    wide = np.clip(picture, -1, 1).repeat(factor, 1).repeat(factor, 2)
    return judge(wide[None])[1][0]


def nearest(picture, pictures, where):
    """Root mean square, in grey levels, to the nearest of pictures [M,3,H,W], over the pixels in
    `where` [H,W]."""
    if not where.any() or not len(pictures):
        return float("nan")
    differences = pictures[:, :, where] - np.clip(picture, -1, 1)[:, where]
    return float(127.5 * np.sqrt((differences**2).mean((1, 2)).min()))


def judged(case, outcome, judge, known):
    """All numbers of one result; `known` are the world's pictures [M,3,H,W]."""
    picture = np.clip(outcome.images[0], -1, 1)
    mask = None if outcome.masks is None else outcome.masks[0]
    numbers = measures.judge(case, picture, mask, None, read(judge, picture), 1)
    where = np.ones(picture.shape[1:], bool) if mask is None else mask > 0.5
    numbers["nearest render"] = nearest(picture, known, where)
    numbers["nearest to the truth"] = nearest(picture, case.truth[None], where)
    if mask is not None:
        numbers["area"] = float(where.mean())
        numbers |= of_the_map(outcome.noise_maps[0], case.mask)
    numbers["deepest"] = float(outcome.edit.inverted_latents[-1].std())
    return numbers


def of_the_map(noise_map, true):
    """Mask IoU by threshold, and that of the best one, which only the truth can tell."""
    tensor, paper = ms.Tensor(noise_map[None]), RECIPES["paper"]
    normalised = normalise(tensor, paper.mask_clamp_ratio).asnumpy()[0]
    found = {f"iou {t}": measures.overlap(normalised > t, true)[0] for t in THRESHOLDS}
    smoothed = smooth(tensor, RECIPES["smooth"].mask_smoothing).asnumpy()[0]
    return found | {"iou best": best(noise_map, true), "iou best, smoothed": best(smoothed, true)}


def best(noise_map, true):
    """The largest intersection over union with `true` that any threshold of the map reaches: as
    `measures.best_overlap`, in one pass over the sorted cells."""
    order = np.argsort(-noise_map, axis=None, kind="stable")
    values, hits = noise_map.reshape(-1)[order], np.cumsum(true.reshape(-1)[order])
    ends = np.append(values[1:] != values[:-1], True)  # equal cells are in together
    taken = np.arange(1, len(values) + 1)
    return float((hits / (taken + true.sum() - hits))[ends].max())


def measured(a):
    """Measure what --out does not have yet, and append it."""
    kernels.set_up("fp32")
    done = {(row["edit"], row["kind"], *run_of(row)) for row in rows(a.out) if matches(row, a)}
    judge, shared = reader.Reader.load(), others(a.work, a.renders, a.size)
    for number, case in enumerate(tqdm(cases(a.edits, a.size), disable=None)):
        wanted = [(k, r) for k in KINDS for r in RUNS if (number, k, *r) not in done]
        if not wanted:
            continue
        atoms, fits = world_of(a.work, case, a.renders, a.size, shared)
        shape = (-1, *case.source.shape)
        for kind in dict.fromkeys(k for k, _ in wanted):
            model, store = PerfectModel(atoms, fits[kind]), {}
            known = atoms.points[fits[kind][""]].reshape(shape) / np.float32(SCALE)
            for run, guidance in [r for k, r in wanted if k == kind]:
                changes = dict(num_inference_steps=a.steps, map_batch=10, guidance_scale=guidance)
                found = methods.run(run, model, changes, [case], keep=methods.remember(store))
                row = dict(edit=number, edited=case.kind, kind=kind, run=run, guidance=guidance)
                row |= dict(renders=a.renders, size=a.size, steps=a.steps)
                row |= judged(case, found, judge, known)
                with open(a.out, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row, default=float) + "\n")


def rows(path):
    """The rows of a file of results."""
    path = Path(path)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def run_of(row):
    return row["run"], row["guidance"]


def matches(row, a):
    return (row["renders"], row["size"], row["steps"]) == (a.renders, a.size, a.steps)


COLUMNS = {
    "iou": "mask IoU",
    **{f"iou {t}": f"threshold {t}" for t in THRESHOLDS},
    "iou best": "each picture's best",
    "recognised": "fruit and container right",
    "background psnr": "PSNR outside true mask",
    "edit psnr": "PSNR to true edit inside",
    "deepest": "deepest latents",
    "a render": "is a render",
    "the truth": "is the true edit",
}


def counted(row):
    """What the table shows of a row."""
    near = {"a render": "nearest render", "the truth": "nearest to the truth"}
    shares = {name: bool(row[key] < SAME) for name, key in near.items()}
    return {name: row[name] for name in COLUMNS if name in row} | shares


def table(found):
    """Markdown of rows."""
    lines = {}
    for kind in KINDS:
        for run in RUNS:
            some = [counted(r) for r in found if (r["kind"], run_of(r)) == (kind, run)]
            if some:
                lines[f"{kind}: {run[0]}, guidance {run[1]:g}"] = len(some), measures.summarise(
                    some
                )
    return measures.table(lines, COLUMNS)


def parser():
    top = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--work", type=Path, help="folder of the renders")
    top.add_argument("--out", type=Path, default=RESULT, help="results, one line each")
    top.add_argument("--edits", type=int, default=30)
    top.add_argument("--renders", type=int, default=300, help="of each sentence, and others")
    top.add_argument("--size", type=int, default=64, choices=(16, 32, 64, 128), help="pixels")
    top.add_argument("--steps", type=int, default=50)
    top.add_argument("--table", action="store_true", help="print what --out has")
    return top


@command("perfect_model")
def main(words):
    a = parser().parse_args(words)
    if not a.table:
        if a.work is None:
            parser().error("give --work, a folder for the renders, or --table")
        measured(a)
    print(table([row for row in rows(a.out) if matches(row, a)]))


if __name__ == "__main__":
    sys.exit(main())
