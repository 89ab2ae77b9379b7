"""Train the Orchard's model with the project's own functions, differentiated by
`mindspore.value_and_grad`.

    python -m benchmarks.orchard.train vae  --work DIR --steps 20000
    python -m benchmarks.orchard.train unet --work DIR --steps 20000
    python -m benchmarks.orchard.train export --work DIR --out MODEL

DIR holds the pictures, latents, checkpoints, logs and sample sheets. Every command can be stopped
at any moment and given again: it goes on from the last checkpoint.
"""

import argparse
import hashlib
import sys
import time
from pathlib import Path

import mindspore as ms
import numpy as np
from tqdm import tqdm

from diffedit_core import (
    clip,
    kernels as K,
    model as M,
    params as P,
    schedule,
    tokenizer as T,
    unet,
    vae,
)
from diffedit_core.errors import InputError
from diffedit_core.graphs import Graph
from diffedit_core.settings import read_json

from . import data, layout, measures, methods, steps as stepping, world as W

KL_WEIGHT = 1e-4
CAPTION_DROPOUT = 0.1
PLAIN = 0.6  # share of captions that do not name the place
SHOWN = (
    "a bowl of apples on a wooden table",
    "a basket of pears on a wooden table",
    "two lemons on a plate on green grass",
    "three oranges on a blue cloth",
    "a bowl of fruits on white marble",
    "a banana on sand on the left",
    "a plate of plums on a checked cloth",
    "a basket with five limes on white marble",
)


# --- the autoencoder ------------------------------------------------------------------------------


def pooled(x, size):
    """Means over squares of `size` pixels, without what is left at the edge: [B,C,H,W] ->
    [B,C,H//size,W//size]."""
    batch, channels, rows, columns = x.shape[0], x.shape[1], x.shape[2] // size, x.shape[3] // size
    x = x[:, :, : rows * size, : columns * size].reshape(batch, channels, rows, size, columns, size)
    return x.mean((3, 5))


def slopes(x):
    """Differences to the right and downwards, of one size: [B,C,H,W] -> twice [B,C,H-1,W-1]."""
    corner = x[:, :, :-1, :-1]
    return x[:, :, :-1, 1:] - corner, x[:, :, 1:, :-1] - corner


def roughness(x):
    """Root mean square slope in squares of 8 pixels: how much texture there is, wherever exactly it
    lies."""
    right, below = slopes(x)
    return (pooled(right * right + below * below, 8) + 1e-4) ** 0.5


def distance(found, wanted):
    """Mean absolute difference."""
    return (found - wanted).abs().mean()


def vae_terms(found, image, mean, log_variance):
    """L1 of the pixels, of their means over 4x4, of their slopes and of the local roughness, and a
    little KL.

    Written in methods that tensors of MindSpore and of PyTorch share, so that both backends train
    on one loss.

    Args:
        found, image: round trip and picture [B,3,H,W] in [-1,1].
        mean, log_variance: of the posterior [B,4,h,w].
    Source: Rombach et al. 2022 (arXiv 2112.10752), appendix G, with terms on slopes in place of a
        perceptual network.
    """
    right, below = slopes(found)
    wanted_right, wanted_below = slopes(image)
    loss = distance(found, image) + distance(pooled(found, 4), pooled(image, 4))
    loss = loss + 0.5 * (distance(right, wanted_right) + distance(below, wanted_below))
    loss = loss + 0.5 * distance(roughness(found), roughness(image))
    return loss + KL_WEIGHT * 0.5 * (mean * mean + log_variance.exp() - 1 - log_variance).mean()


def vae_loss(params, image, target, noise, own, config, kernels):
    """`vae_terms` of a round trip through a sample of the posterior, with cells of other pictures
    set into the latents.

    Args:
        image, target: pictures to encode [B,3,H,W], and what to decode: `data.exchanged` of the
            pictures.
        noise: standard normal [B,4,h,w].
        own: 1 where a latent cell is the picture's own, 0 where it is that of the batch's picture
            from the other end [B,1,h,w].
    Source of the exchange: Yun et al. 2019 (arXiv 1905.04899), in the latents, as DiffEdit blends
    them.
    """
    mean, log_variance = vae.encode(params, image, config, kernels)
    latents = vae.sample(mean, log_variance, noise)
    latents = own * latents + (1 - own) * latents.flip((0,))
    return vae_terms(vae.decode(params, latents, config, kernels), target, mean, log_variance)


def train_vae(a):
    """The stage `vae`: KL autoencoder on crops."""
    weights = start_weights(a.init, "vae", vae.specs(layout.VAE), a.seed)
    frozen = ("encoder.", "quant_conv.") if a.freeze_encoder else ()
    if a.backend == "torch":
        from .torch_steps import vae_step

        train_step = vae_step(vae_terms, weights, frozen)
    else:
        train_step = stepping.TrainStep(
            vae_loss, P.to_parameters(weights), layout.VAE, K.default_kernels(), frozen=frozen
        )
    known = {size: data.pictures(a.work, a.pictures, size=size) for size in set(a.sizes)}
    sources = [known[size] for size in a.sizes]
    cells = a.crop // layout.VAE.factor
    shape = (a.batch, layout.VAE.latent_channels, cells, cells)

    def batch(step):
        rng = np.random.default_rng([a.seed, step])
        image = data.crops(sources, a.pictures, rng, a.batch, a.crop)
        noise = rng.standard_normal(shape).astype(np.float32)
        own = data.own_cells(rng, a.batch, cells, a.exchange)
        return image, data.exchanged(image, own), noise, own

    judge = VAEJudge(train_step, layout.VAE, sorted(set(a.sizes)))
    facts = {
        "stage": "vae",
        "backend": a.backend,
        "seed": a.seed,
        "batch": a.batch,
        "crop": a.crop,
        "pictures": a.pictures,
        "sizes": a.sizes,
        "exchange": a.exchange,
        "frozen": frozen,
        "before": history(a.init, "vae"),
    }
    return run(a, train_step, batch, facts, judge.report)


class VAEJudge:
    """Round trips of validation pictures through the mean of the posterior, by the project's own
    functions."""

    def __init__(self, train_step, config, sizes=(W.SIZE,), count=12):
        seeds = W.SEEDS["validation"][:count]
        self.images = {
            size: data.to_model(np.stack([data.draw(seed, size) for seed in seeds]))
            for size in sizes
        }
        self.train_step = train_step
        self.params = P.to_parameters(
            P.tree_map(lambda _, leaf: np.zeros(leaf.shape, np.float32), vae.specs(config))
        )
        self.graphs = [
            Graph(f, self.params, config, K.default_kernels()) for f in (vae.encode, vae.decode)
        ]

    def round_trip(self, images):
        """[B,3,H,W] -> the same, one at a time, with the averaged weights of now."""
        encode, decode = self.graphs
        now = P.flatten(self.train_step.average())
        for path, leaf in P.flatten(self.params).items():
            leaf.set_data(ms.Tensor(np.asarray(now[path])))
        return np.concatenate([decode(encode(ms.Tensor(row[None]))[0]).asnumpy() for row in images])

    def report(self, log, folder, step):
        """Log the measures and write a sheet for each size: a row of pictures above a row of their
        round trips."""
        for size, images in self.images.items():
            found = self.round_trip(images)
            log(
                f"step {step} validation at {size}: psnr {measures.psnr(found, images):.2f} "
                f"slope error {measures.slope_error(found, images):.3f}"
            )
            halves = np.split(np.stack((images, found)), 2, axis=1)
            rows = [list(data.to_pixels(row)) for half in halves for row in half]
            sheet = folder / f"{data.sized('vae', size)}-{step:06d}.png"
            W.sheet(rows).save(sheet)


# --- text encoder and UNet ------------------------------------------------------------------------


def unet_loss(params, latents, noise, levels, timesteps, ids, text_config, unet_config, kernels):
    """Mean squared error of v = sqrt(a) noise - sqrt(1-a) x0, predicted from x_t, t and the
    caption.

    Args:
        params: the leaves of text encoder and UNet in one tree; their names do not meet.
        latents, noise: x0 and its noise [B,4,h,w].
        levels: sqrt(a) and sqrt(1-a) of each sample, float32 [2,B,1,1,1].
        timesteps: int32 [B].
        ids: token ids int32 [B,77].
    Source: Salimans & Ho 2022 (arXiv 2202.00512), appendix D; Ho et al. 2020, eq. 14.
    """
    states = clip.apply(params, ids, text_config, kernels)
    noisy = levels[0] * latents + levels[1] * noise
    wanted = levels[0] * noise - levels[1] * latents
    error = unet.apply(params, noisy, timesteps, states, unet_config, kernels) - wanted
    return (error * error).mean()


def train_unet(a):
    """The stage `unet`: text encoder and UNet together, on latents computed once."""
    config, text_config = layout.UNET, layout.text_config()
    specs = {**clip.specs(text_config), **unet.specs(config)}
    weights = start_weights(a.init, "unet", specs, a.seed)
    if a.backend == "torch":
        from .torch_steps import unet_step

        train_step = unet_step(weights, text_config, config)
    else:
        train_step = stepping.TrainStep(
            unet_loss, P.to_parameters(weights), text_config, config, K.default_kernels()
        )
    latents = Latents(
        a.work, a.vae or a.work / "vae.safetensors", a.pictures, a.sizes, a.backend == "torch"
    )
    tokens = caption_ids(a.work, a.pictures)
    judge = UNetJudge(train_step, specs, latents, tokens, sorted(set(a.sizes)))
    facts = {
        "stage": "unet",
        "backend": a.backend,
        "seed": a.seed,
        "batch": a.batch,
        "pictures": a.pictures,
        "sizes": a.sizes,
        "vae": latents.name,
        "scaling_factor": latents.scaling_factor,
        "before": history(a.init, "unet"),
    }
    return run(a, train_step, unet_batches(a, latents, tokens), facts, judge.report)


def unet_batches(a, latents, tokens):
    """The function of a step that draws the inputs of `unet_loss`; steps take the sizes in turn."""
    bar = schedule.alphas_cumprod(layout.SCHEDULER)
    roots = np.sqrt(np.stack((bar, 1 - bar))).astype(np.float32)

    def batch(step):
        rng = np.random.default_rng([a.seed, step])
        rows = rng.integers(a.pictures, size=a.batch)
        timesteps = rng.integers(len(bar), size=a.batch).astype(np.int32)
        drawn = latents.draw(rows, rng, a.sizes[step % len(a.sizes)])
        noise = rng.standard_normal(drawn.shape).astype(np.float32)
        chosen = np.where(rng.random(a.batch) < PLAIN, 0, 4) + rng.integers(4, size=a.batch)
        dropped = rng.random((a.batch, 1)) < CAPTION_DROPOUT
        ids = np.where(dropped, tokens.empty, tokens.ids[rows, chosen])
        levels = roots[:, timesteps].reshape(2, a.batch, 1, 1, 1)
        return drawn, noise, levels, timesteps, ids.astype(np.int32)

    return batch


class Latents:
    """Means and standard deviations of the training pictures' latents, computed once for a VAE and
    kept as float16.

    The scaling factor is that of the smallest size, so that a model that learns a larger one keeps
    its own.

    Args:
        sizes: of the pictures.
        torch: whether PyTorch computes them.
    """

    def __init__(self, work, source, count, sizes=(W.SIZE,), torch=False):
        weights = start_weights(source, "vae", vae.specs(layout.VAE), 0)
        self.params, self.name = P.to_parameters(weights), encoder_name(weights)
        if torch:
            from .torch_steps import encoder as torch_encoder

            encode = torch_encoder(weights)
        else:
            graph = Graph(vae.encode, self.params, layout.VAE, K.default_kernels())

            def encode(images):
                return [part.asnumpy() for part in graph(ms.Tensor(images))]

        self.moments = {
            size: encoded(
                work / data.sized(f"latents-{self.name}", size), chunks, encode, 50 if torch else 10
            )
            for size in sorted(set(sizes))
            for chunks in [data.pictures(work, count, size=size)]
        }
        means = self.moments[min(sizes)][:5000, 0].astype(np.float32)
        self.scaling_factor = round(1 / float(means.std()), 5)

    def draw(self, rows, rng, size=W.SIZE):
        """Samples of the posterior, scaled: float32 [B,4,h,w]."""
        mean, deviation = self.moments[size][rows].astype(np.float32).swapaxes(0, 1)
        noise = rng.standard_normal(mean.shape).astype(np.float32)
        return (mean + deviation * noise) * np.float32(self.scaling_factor)


def encoder_name(weights):
    """Twelve digits of the digest of an encoder's weights: latents are those of one encoder."""
    flat = P.flatten(weights)
    encoder = sorted(path for path in flat if path.startswith(("encoder.", "quant_conv.")))
    return hashlib.sha256(b"".join(flat[path].tobytes() for path in encoder)).hexdigest()[:12]


def encoded(folder, chunks, encode, rows):
    """Means and standard deviations of all pictures' latents, float16 [N,2,4,h,w], kept in a folder
    by chunks; so many rows at once."""
    folder.mkdir(exist_ok=True)
    found = []
    for i, chunk in enumerate(tqdm(chunks, desc="latents", unit="chunk", disable=None)):
        path = folder / f"{i:04d}.npy"
        if not path.exists():
            starts = range(0, len(chunk), rows)
            parts = [encode(data.to_model(chunk[start : start + rows])) for start in starts]
            mean, log_variance = [np.concatenate(part) for part in zip(*parts)]
            moments = np.stack((mean, np.exp(log_variance / 2)), 1)
            data.write_array(path, moments.astype(np.float16))
        found.append(np.load(path))
    return np.concatenate(found)


class Tokens:
    """Token ids of every caption of every training picture [N,8,77], and of the empty text [77]."""

    def __init__(self, tokenizer, count):
        scenes = [W.sample_scene(W.SEEDS["train"][i]) for i in range(count)]
        texts = [text for scene in scenes for text in W.captions(scene)]
        distinct = {text: T.encode(tokenizer, text)[0] for text in set(texts)}
        self.ids = np.stack([distinct[text] for text in texts]).reshape(
            count, -1, tokenizer.max_length
        )
        self.empty = T.encode(tokenizer, "")[0]
        self.tokenizer = tokenizer


def caption_ids(work, count):
    """`Tokens` of the world's own tokenizer."""
    layout.write_tokenizer(work / "tokenizer")
    return Tokens(T.load(work / "tokenizer"), count)


class UNetJudge:
    """Plain samples of fixed captions from fixed noise, at each size, by the project's own
    functions."""

    def __init__(
        self, train_step, specs, latents, tokens, sizes=(W.SIZE,), steps=25, guidance_scale=4.0
    ):
        kernels = K.default_kernels()
        self.train_step = train_step
        self.params = P.to_parameters(
            P.tree_map(lambda _, leaf: np.zeros(leaf.shape, np.float32), specs)
        )
        self.text = Graph(clip.apply, self.params, layout.text_config(), kernels)
        self.unet = Graph(unet.apply, self.params, layout.UNET, kernels)
        self.decode = Graph(vae.decode, latents.params, layout.VAE, kernels)
        self.scaling_factor = latents.scaling_factor
        self.steps, self.guidance_scale = steps, guidance_scale
        empty = [""] * len(SHOWN)
        self.ids = [ms.Tensor(T.encode(tokens.tokenizer, list(t))) for t in (SHOWN, empty)]
        self.noise = {}
        for size in sizes:
            cells = size // layout.VAE.factor
            shape = (len(SHOWN), layout.UNET.in_channels, cells, cells)
            noise = np.random.default_rng(0).standard_normal(shape)
            self.noise[size] = ms.Tensor(noise.astype(np.float32))

    def predict(self, latents, timestep, states):
        return self.unet(latents, ms.Tensor(np.array([timestep], np.int32)), states)

    def report(self, log, folder, step):
        """Write the sheets of samples."""
        now = P.flatten(self.train_step.average())
        for path, leaf in P.flatten(self.params).items():
            value = now[path]
            leaf.set_data(ms.Tensor(value if isinstance(value, np.ndarray) else value.asnumpy()))
        states, negative = [self.text(ids) for ids in self.ids]
        for size, noise in self.noise.items():
            found = methods.sampled(
                self.predict,
                layout.SCHEDULER,
                self.steps,
                (states, negative),
                self.guidance_scale,
                noise,
            )
            rows = [found[i : i + 1] / self.scaling_factor for i in range(len(SHOWN))]
            pictures = np.concatenate([self.decode(row).asnumpy() for row in rows])
            sheet = folder / f"{data.sized('unet', size)}-{step:06d}.png"
            W.sheet([list(data.to_pixels(pictures))]).save(sheet)
        log(f"step {step} wrote samples")


# --- export ---------------------------------------------------------------------------------------

CARD = """---
license: apache-2.0
---
# Orchard

A small latent diffusion model of synthetic still lifes, {size} pixels: {fruits} in a bowl,
in a basket, on a plate or alone, on {grounds}.
Stable Diffusion 2.1's architecture in small: v-prediction, scaled_linear schedule, factor-8 KL
autoencoder with 4 channels, linear projections; {parameters} million parameters, stored in fp16.

Captions: "a bowl of apples on a wooden table", "two lemons on a plate on green grass on the left",
"a bowl of fruits on sand".

Data: {pictures} scenes drawn by `benchmarks/orchard/world.py`, seeds {seeds}; {held_out}
combinations of fruit, container and ground were held out. No photograph and no other data were
used{start}.

Training: `benchmarks/orchard/train.py`; training.json has the steps, batches and seconds of every
run.
{budget}

{results}
Licence: Apache-2.0.
"""


def history(source, stage):
    """The runs of a stage that the weights of `source` come from: a list of {"steps": ...,
    "seconds": ...}."""
    if source is None:
        return []
    if Path(source).is_dir():
        path = Path(source) / "training.json"
        return (
            read_json(path)[stage]
            if path.exists()
            else [{"weights": M.find(source).name, "steps": None}]
        )
    return runs(stepping.read_weights(source)[0])


def runs(progress):
    """The history of a checkpoint, its own run last."""
    own = {key: value for key, value in progress.facts.items() if key not in ("before", "stage")}
    return [
        *progress.facts["before"],
        {**own, "steps": progress.step, "seconds": round(progress.seconds)},
    ]


def export(a):
    """Write the model folder from the checkpoints of both stages."""
    checkpoint = a.unet or a.work / "unet.safetensors"
    progress, weights = stepping.read_weights(checkpoint)
    source = a.vae or a.work / "vae.safetensors"
    autoencoder, facts = start_weights(source, "vae", vae.specs(layout.VAE), 0), progress.facts
    if encoder_name(autoencoder) != facts["vae"]:
        raise InputError(
            f"{checkpoint} was trained on the latents of encoder {facts['vae']}, "
            f"{source} has {encoder_name(autoencoder)}: give that VAE, or one of which only the "
            "decoder was trained further."
        )
    scaling_factor, size = facts["scaling_factor"], max(facts["sizes"])
    found = layout.configs(scaling_factor, size)
    trees = {
        "text_encoder": P.tree_map(lambda path, _: weights[path], clip.specs(found.text)),
        "unet": P.tree_map(lambda path, _: weights[path], unet.specs(found.unet)),
        "vae": autoencoder,
    }
    training = {
        "vae": history(source, "vae"),
        "unet": runs(progress),
        "pictures": facts["pictures"],
    }
    text = card(trees, training, a.results, facts["sizes"])
    layout.write_model(a.out, scaling_factor, trees, training, text, size)


def card(trees, training, results, sizes):
    """The text of the model card."""

    def line(run):
        if run["steps"] is None:
            return f"from the weights of {run['weights']}"
        return f"{run['steps']} steps of {run['batch']} in {run['seconds'] / 3600:.2f} h"

    budget = "\n".join(
        f"- {stage}: " + "; ".join(map(line, training[stage])) for stage in ("vae", "unet")
    )
    earlier = [
        r["weights"] for stage in ("vae", "unet") for r in training[stage] if r["steps"] is None
    ]
    return CARD.format(
        size=" and ".join(f"{size}x{size}" for size in sorted(set(sizes))),
        fruits=", ".join(W.PLURALS[name] for name in W.FRUITS),
        grounds=", ".join(W.BACKGROUNDS),
        parameters=round(sum(map(P.count, trees.values())) / 1e6, 1),
        pictures=training["pictures"],
        budget=budget,
        seeds=f"0 to {training['pictures'] - 1}",
        held_out=len(W.HELD_OUT),
        start=(
            ", but what the weights that it started from had seen "
            f"({', '.join(sorted(set(earlier)))})"
            if earlier
            else ""
        ),
        results=Path(results).read_text(encoding="utf-8") if results else "Not evaluated yet.\n",
    )


# --- both -----------------------------------------------------------------------------------------


def start_weights(source, component, specs, seed):
    """Weights to start from: of a model folder, of a checkpoint of this program, or random ones.

    Raises:
        InputError: a leaf is missing or has another shape.
    """
    fresh = P.init(specs, np.random.default_rng([seed, 0]))
    if source is None:
        return fresh
    weights = (
        folder_weights(Path(source), component, P.flatten(fresh))
        if Path(source).is_dir()
        else stepping.read_weights(source)[1]
    )
    bad = [
        path
        for path, leaf in P.flatten(specs).items()
        if path not in weights or weights[path].shape != leaf.shape
    ]
    if bad:
        raise InputError(
            f"{source} does not fit: {', '.join(bad[:5])} missing or of another shape."
        )
    return P.tree_map(lambda path, _: weights[path].astype(np.float32), specs)


def folder_weights(folder, component, fresh):
    """{path: array} of a model folder's component; "unet" includes the text encoder.

    Words are matched by their text, so that a model of another vocabulary can serve; a new word
    starts afresh.
    """
    stored = M.read_configs(M.find(folder))
    owners = {"text_encoder": stored.text, "unet": stored.unet, "vae": stored.vae}
    weights = {}
    for name in ("text_encoder", "unet") if component == "unet" else (component,):
        files = M.weight_files(folder / name, M.COMPONENTS[name][2], "fp32")
        tree = P.load(files, M.COMPONENTS[name][3](owners[name]))
        weights.update({path: leaf.asnumpy() for path, leaf in P.flatten(tree).items()})
    words = "text_model.embeddings.token_embedding.weight"
    if words in weights:
        known, own = T.load(folder / "tokenizer").library.get_vocab(), fresh[words].copy()
        for row, token in enumerate(layout.vocabulary()[0]):
            if token in known:
                own[row] = weights[words][known[token]]
        weights[words] = own
    return weights


def run(a, train_step, batch, facts, report):
    """`steps.run` with a log file, and a sample sheet now and then."""
    folder = a.work / "samples"
    folder.mkdir(parents=True, exist_ok=True)

    def log(line):
        line = f"{time.strftime('%H:%M:%S')} {line}"
        print(line, flush=True)
        with open(a.work / f"{a.name}.log", "a", encoding="utf-8") as handle:
            print(line, file=handle)

    until = None if a.minutes is None else time.time() + 60 * a.minutes
    return stepping.run(
        train_step,
        batch,
        a.work / f"{a.name}.safetensors",
        facts,
        a.steps,
        a.rate,
        until,
        a.save_minutes,
        log,
        lambda step: report(log, folder, step),
        a.sample_steps,
        a.threads,
    )


def parser():
    """The command line."""
    top = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", required=True)
    p = commands.add_parser("vae", help=train_vae.__doc__)
    p.set_defaults(function=train_vae)
    add_run_options(p, "vae", 1e-3, 8)
    p.add_argument("--crop", type=int, default=64, help="side of the crops, in pixels")
    p.add_argument(
        "--exchange",
        type=float,
        default=0.0,
        help="share of crops into whose latents a rectangle of another one's is set: the decoder "
        "learns to leave alone what is beside an edit",
    )
    p.add_argument(
        "--freeze-encoder",
        action="store_true",
        help="train the decoder only: the latents stay as they are",
    )
    p = commands.add_parser("unet", help=train_unet.__doc__)
    p.set_defaults(function=train_unet)
    add_run_options(p, "unet", 8e-4, 32)
    add_vae(p)
    p = commands.add_parser("export", help=export.__doc__)
    p.set_defaults(function=export)
    p.add_argument("--work", type=Path, required=True, help="folder of the checkpoints and latents")
    p.add_argument("--out", type=Path, required=True, help="the model folder to write")
    add_vae(p)
    p.add_argument(
        "--unet", type=Path, help="checkpoint of the UNet (default: unet.safetensors of --work)"
    )
    p.add_argument("--results", help="results.md of evaluate.py, to stand in the model card")
    return top


def add_vae(p):
    """The option that names the autoencoder."""
    p.add_argument(
        "--vae",
        type=Path,
        help="checkpoint or model folder of the VAE (default: vae.safetensors of --work)",
    )


def add_run_options(p, name, rate, batch):
    """The options of a training run."""
    p.add_argument(
        "--work",
        type=Path,
        required=True,
        help="folder of pictures, latents, checkpoints, logs and samples",
    )
    p.add_argument("--name", default=name, help="name of the checkpoint and of the log")
    p.add_argument(
        "--init",
        help="start from a model folder or a checkpoint, where this run has none of its own",
    )
    p.add_argument(
        "--steps",
        type=int,
        default=20000,
        help="length of the whole run, over which the rate falls",
    )
    p.add_argument("--minutes", type=float, help="stop after that long; the same command goes on")
    p.add_argument("--rate", type=float, default=rate, help="highest learning rate")
    p.add_argument("--batch", type=int, default=batch)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--pictures", type=int, default=20000, help="size of the training set")
    p.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        choices=W.SIZES,
        default=[W.SIZE],
        help="sizes of the pictures; they come in turn, so that 256 256 128 shows the larger ones "
        "twice as often",
    )
    p.add_argument(
        "--backend",
        choices=("mindspore", "torch"),
        default="mindspore",
        help="torch: the same training with PyTorch and diffusers (pip install .[train])",
    )
    p.add_argument(
        "--threads",
        type=int,
        default=0,
        help="threads that draw the next batches while one is learnt from, for a GPU",
    )
    p.add_argument("--save-minutes", type=float, default=4)
    p.add_argument("--sample-steps", type=int, default=1000, help="steps between two sample sheets")


def main(argv=None):
    """Run one command; a wrong input ends with one sentence and exit code 2."""
    arguments = parser().parse_args(argv)
    try:
        arguments.function(arguments)
    except InputError as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
