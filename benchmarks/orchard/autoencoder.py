"""The first stage of the Orchard's training: the KL autoencoder, on crops."""

import mindspore as ms
import numpy as np

from diffedit_core import kernels as K, params as P, vae
from diffedit_core.graphs import Graph

from . import data, layout, measures, steps as stepping, world as W
from .runs import history, run, start_weights

KL_WEIGHT = 1e-4


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


def steepness(x):
    """Length of the grey value's slope in every pixel, what `measures.slope_error` compares:
    [B,C,H,W] -> [B,1,H-1,W-1]."""
    right, below = slopes(x.mean(1, keepdim=True))
    return (right * right + below * below + 1e-5) ** 0.5


def distance(found, wanted):
    """Mean absolute difference."""
    return (found - wanted).abs().mean()


def vae_terms(found, image, mean, log_variance):
    """L1 of the pixels, of their means over 4x4, of their slopes, of their steepness and of the
    local roughness, and a little KL.

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
    loss = loss + distance(steepness(found), steepness(image))
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
