"""What an experiment costs before it runs: the edit itself with a model that only counts; and which
variants share work."""

import contextlib
import hashlib
import json
import warnings
from types import SimpleNamespace
from typing import NamedTuple

import mindspore as ms
import numpy as np

from diffedit_core.files import written

from ..orchard.methods import latent_shape
from .editing import run
from .identity import digest


class Plan(NamedTuple):
    """UNet evaluations of one latent each.

    alone: if no variant shared anything.
    shared: that are computed; what is kept in memory is taken to fit there.
    left: of these, what the rows that are there already leave to do.
    edits: variants times subjects.
    at_most: an iterated inversion may stop sooner, and an empty mask has no window to decode.
    """

    alone: int
    shared: int
    left: int
    edits: int
    at_most: bool

    def lines(self, rate=None):
        """The lines of `--plan`."""
        most = "at most " if self.at_most else ""
        yield f"edits                     {self.edits}"
        yield f"evaluations, none shared  {most}{self.alone}"
        times = f", {self.alone / self.shared:.1f} times fewer" if self.shared else ""
        yield f"evaluations, shared       {most}{self.shared}{times}"
        if self.left != self.shared:
            yield f"evaluations left          {most}{self.left}"
        if rate:
            hours = self.left / rate / 3600
            yield f"hours                     {hours:.2f} at {rate:.1f} evaluations a second"


def of_units(units, steps, known, at_most):
    """The `Plan` of units.

    Args:
        steps: as `steps` gives them.
        known: ids of the rows that are there.
    """
    alone = shared = left = edits = 0
    for unit in units:
        size = len(unit.batch.names)
        lists = {v.digest: steps[v.digest] for v in unit.variants}
        waiting = {d: s for d, s in lists.items() if not known.issuperset(unit.ids[d])}
        alone += size * sum(step.evaluations for asked in lists.values() for step in asked)
        shared += size * _once(lists)
        left += size * _once(waiting)
        edits += size * len(lists)
    return Plan(alone, shared, left, edits, at_most)


def _once(lists):
    """Evaluations of the steps of several lists, each once."""
    return sum({s.name: s.evaluations for asked in lists.values() for s in asked}.values())


def groups(variants, steps):
    """The variants, each once, in groups that share no evaluation with another; within a group
    those that share most stand side by side."""
    variants = list({v.digest: v for v in variants}.values())
    owner, group = {}, {v.digest: {v.digest} for v in variants}
    for variant in variants:
        for step in steps[variant.digest]:
            first = owner.setdefault(step.name, variant.digest)
            if step.evaluations and group[first] is not group[variant.digest]:
                joined = group[first] | group[variant.digest]
                group.update(dict.fromkeys(joined, joined))
    places = {v.digest: [s.name for s in steps[v.digest]] for v in variants}
    found = {id(g): g for g in group.values()}.values()
    return [
        sorted((v for v in variants if v.digest in g), key=lambda v: places[v.digest])
        for g in found
    ]


def remembered(variants, subject, configs, model, program, folder):
    """`steps`, each variant's from a file of the folder if it has been asked before."""
    known, files = {}, {}
    asked = (program, model, subject.name, subject.source, subject.caption, subject.target)
    for variant in variants:
        name = digest(*asked, subject.seed, variant.digest)
        files[variant.digest] = file = folder / f"{name[:24]}.json"
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            known[variant.digest] = [Step(*step) for step in found]
        except (OSError, ValueError, TypeError):
            pass
    new = [v for v in variants if v.digest not in known]
    for name, found in (steps(new, subject, configs) if new else {}).items():
        known[name] = found
        with contextlib.suppress(OSError):  # it would only be quicker next time
            folder.mkdir(parents=True, exist_ok=True)
            with written(files[name]) as part:
                part.write_text(json.dumps(found), encoding="utf-8")
    return known


class Step(NamedTuple):
    """A value that an edit needs: its name, and the evaluations of one latent that make it."""

    name: str
    evaluations: int


def steps(variants, subject, configs):
    """{variant's digest: its `Step`s, in their order}, for one subject.

    The edit itself runs, with a model that knows nothing: what it predicts is noise, so that no
    iteration ends early, and a mask is some cells that only its key determines. The number of
    evaluations of a batch is that of one latent times the size of the batch.
    """
    model, known, found = _Nothing(configs), {}, {}
    for variant in variants:
        if variant.digest not in found:
            asked = found[variant.digest] = []

            def keep(stage, key, function, asked=asked):
                if stage == "picture":
                    return None
                name = digest(stage, key)
                if name not in known:
                    before = model.evaluations
                    value = _cells(name, model.size) if stage == "mask" else function()
                    known[name] = value, model.evaluations - before
                asked.append(Step(name, known[name][1]))
                return known[name][0]

            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                run(variant, [subject], model, keep)
    return found


def _cells(name, size):
    """A mask [1,h,w] that is another for another name, and never empty."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    cells = np.random.default_rng(seed).integers(0, 2, (1, *size))
    cells[0, 0, 0] = 1
    return ms.Tensor(cells.astype(np.float32))


class _Nothing:
    """The interface of `model.Model` without a model: it counts, and answers with noise."""

    def __init__(self, configs):
        self.configs = SimpleNamespace(
            scheduler=configs.scheduler,
            latent_channels=configs.latent_channels,
            vae=SimpleNamespace(factor=configs.vae.factor),
            unet=SimpleNamespace(factor=configs.unet.factor),
        )
        self.evaluations, self.size = 0, None
        self.random = np.random.default_rng(0)

    def _noise(self, shape):
        return ms.Tensor(0.1 * self.random.standard_normal(shape).astype(np.float32))

    def encode_image(self, image, tiling=None):
        shape = (len(image), *latent_shape(self, image.shape))
        self.size = shape[2:]
        return self._noise(shape), self._noise(shape)

    def latents(self, moments, noise=None):
        return moments[0]

    def encode_prompts(self, texts):
        return ms.Tensor(np.zeros((len(texts), 1, 1), np.float32))

    def predict(self, latents, timestep, states):
        self.evaluations += latents.shape[0]
        return self._noise(latents.shape)

    def evaluate(self, latents, timestep, states, deep=None):
        return self.predict(latents, timestep, states), self._noise((latents.shape[0], 1, 1, 1))

    def decode_latents(self, latents, tiling=None):
        raise AssertionError("a plan decodes no picture")
