"""The second stage of the Orchard's training: text encoder and UNet, on latents."""

import mindspore as ms
import numpy as np

from diffedit_core import clip, kernels as K, params as P, schedule, tokenizer as T, unet, vae
from diffedit_core.graphs import Graph

from . import data, layout, methods, steps as stepping, world as W
from .latents import Latents, caption_ids
from .runs import history, run, start_weights

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
