"""What the Orchard's UNet learns from, computed once: latents of the training pictures, and token
ids of their captions."""

import hashlib

import mindspore as ms
import numpy as np
from tqdm import tqdm

from diffedit_core import kernels as K, params as P, tokenizer as T, vae
from diffedit_core.graphs import Graph

from . import data, layout, world as W
from .runs import start_weights


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
