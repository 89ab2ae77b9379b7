"""Small edits of the Orchard, and a model that needs no weights."""

import zlib
from types import SimpleNamespace

import numpy as np

from benchmarks.ablation.work import Share
from benchmarks.orchard import batches, classifier as C, methods
from benchmarks.orchard import world as W
from diffedit_core.options import RECIPES

from .closed_forms import OBJECT, FakeModel

CHANGES = {"num_inference_steps": 10, "num_maps": 3, "guidance_scale": 3.0}
OPTIONS = RECIPES["paper"].replace(**CHANGES)


def pictures(seed, *shape):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


class Speaker(FakeModel):
    """Understands every caption: a number between 1 and 3 that follows from its letters."""

    class Prompts(dict):
        def __missing__(self, text):
            return 1 + 2 * zlib.crc32(text.encode()) / 2**32

    PROMPTS = Prompts(FakeModel.PROMPTS)


def small_cases(count=2):
    scenes = [W.sample_scene(seed) for seed in range(count)]
    inside = np.kron(OBJECT, np.ones((2, 2))) > 0
    return [
        methods.Case("both", s, W.random_edit(s, "both"), *pictures(s.seed, 2, 3, 12, 16), inside)
        for s in scenes
    ]


class Held(Speaker):
    """With the latents' channels in its configurations, as `methods` reads them."""

    def __init__(self, *arguments, **changes):
        super().__init__(*arguments, **changes)
        self.configs.latent_channels, self.configs.vae = 3, SimpleNamespace(factor=2)


def run(name, batch, changes=CHANGES):
    return methods.run(name, Held(), changes, batch)


def measured(folder, names, count=5, share=Share(), model=None):
    """`batches.measure` of small cases, three a batch, judged by their means."""

    def judge(images):
        return images.mean((2, 3)), np.zeros((len(images), len(C.HEADS)), int)

    cases = small_cases(count)
    sources = np.stack([c.source for c in cases])

    def trips(start):
        return sources[start : start + batches.BATCH]

    batches.measure(names, model or Held(), CHANGES, cases, judge, trips, folder, share)
    return [batches.collected(name, count, folder) for name in names]
