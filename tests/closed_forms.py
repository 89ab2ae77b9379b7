"""Models in closed form: predictions as functions of numpy arrays, and a whole model made of one.

Text states here are [B,1,1] tensors that hold one number each, which the predictions use. They are
functions of numpy arrays, so that the oracles in tests/reference.py take the same ones.
"""

import dataclasses
from types import SimpleNamespace

import mindspore as ms
import numpy as np
from mindspore import ops

from diffedit_core import draws as drawing
from diffedit_core import edit as stages
from diffedit_core import schedule
from diffedit_core.integrators import State
from diffedit_core.options import Options
from diffedit_core.parts import Parts, Run

from .strategies import SD21

LEVELS = schedule.levels(SD21, 50)
SHAPE = (2, 3, 5, 7)


def states(*values):
    """Text states of B sentences, each a number."""
    return ms.Tensor(np.array(values, np.float64).reshape(-1, 1, 1))


def column(*values):
    """The same for the oracles."""
    return np.reshape(values, (-1, 1, 1, 1))


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def ones(x0):
    """The mask of everything, for latents [B,C,h,w]."""
    return np.ones((x0.shape[0], *x0.shape[2:]))


# --- predictions ----------------------------------------------------------------------------------


def text_field(x, timestep, state):
    """A prediction that looks at the text only."""
    return x * 0 + state


def level_field(x, timestep, state):
    """A prediction that looks at the text and the timestep but not at x."""
    return x * 0 + state * (timestep / 1024) + 0.25


def wave_field(x, timestep, state):
    """A prediction that looks at everything, and at no other row or cell."""
    return x * 0.5 + state * x * x * 0.125 + state * (timestep / 1024) - 0.25


def answer(field, x, timestep, states):
    """A field's values as a tensor of the dtype of x."""
    values = field(x.asnumpy(), timestep, states.asnumpy().reshape(-1, 1, 1, 1))
    return ms.Tensor(np.asarray(values, x.asnumpy().dtype))


def halves(model, x, timestep, states, deep):
    """`Model.evaluate` in closed form: half of the field is deep, so that with the deep half of the
    same inputs it is the field, bit for bit. The model notes whether each call reused one."""
    model.reused.append(deep is not None)
    half = model(x, timestep, states) * 0.5
    deep = half if deep is None else deep
    return half + deep, deep


class Predictor:
    """A field as `predict`; records what it was asked."""

    def __init__(self, field):
        self.field, self.calls, self.reused = field, [], []

    def __call__(self, x, timestep, states):
        assert isinstance(timestep, int) and x.shape[0] == states.shape[0]
        self.calls.append((timestep, x.asnumpy(), states.asnumpy().reshape(-1)))
        return answer(self.field, x, timestep, states)

    def evaluate(self, x, timestep, states, deep=None):
        """(prediction, deep features): half of a prediction is deep."""
        return halves(self, x, timestep, states, deep)

    @property
    def timesteps(self):
        return [timestep for timestep, _, _ in self.calls]

    @property
    def rows(self):
        return sum(len(x) for _, x, _ in self.calls)


# --- the stages with a prediction -----------------------------------------------------------------


def run_of(predict, steps, n=50, config=SD21, parts=None, **changes):
    """A `Run` that inverts `steps` steps of a grid of n."""
    options = Options(num_inference_steps=n, encode_ratio=steps / n, **changes)
    assert options.num_encode_steps == steps
    parts, evaluate = parts or Parts.of(options), getattr(predict, "evaluate", None)
    return Run(predict, config, options, parts, evaluate=evaluate)


def there(run, x0, text, negative=None, **more):
    """The states of the inversion of latents, a list."""
    return list(stages.trail(run, ms.Tensor(x0), text, negative, **more))


def back(run, trail, mask, text, negative=None, **more):
    """The decoded latents, as numpy; the trail as states, or as an array [K+1,B,C,h,w]."""
    if isinstance(trail, np.ndarray):
        trail = [State(ms.Tensor(x)) for x in trail]
    *_, last = stages.decode(run, text, trail, ms.Tensor(mask), negative, **more)
    return last.latents.asnumpy()


def latents_of(trail):
    """[K+1,B,C,h,w] of states."""
    return np.stack([state.latents.asnumpy() for state in trail])


# --- a whole model --------------------------------------------------------------------------------

OBJECT = np.zeros((6, 8))
# Where the prompts make a difference: 6 of 48 cells, so the clamp at 3 means is 3/8 of it.
OBJECT[1:3, 4:7] = 1.0


def shown(x):
    """OBJECT, for latents of the whole grid; a window around it shows that only."""
    return OBJECT if x.shape[2:] == OBJECT.shape else np.ones(x.shape[2:])


def on_the_object(x, timestep, state):
    """A prediction whose text matters on OBJECT only."""
    return x * 0.125 + state * shown(x)


def wavy_on_the_object(x, timestep, state):
    """The same, which looks at the timestep and is not linear in x."""
    return np.sin(x) * 0.125 + state * shown(x) + timestep / 4096


class FakeModel:
    """The interface of `model.Model` with closed forms: latents are every other pixel halved, and a
    sentence is one number.

    `calls` are (phase, timestep, sentences) of each prediction, the phase as `watch` names it.
    """

    PROMPTS = {"": 0.0, "source": 1.0, "negative": -1.0, "a": 2.0, "b": 3.0, "c": -2.0, "d": 5.0}

    def __init__(self, field=on_the_object, **changes):
        self.configs = SimpleNamespace(
            scheduler=dataclasses.replace(SD21, **changes),
            latent_channels=3,
            vae=SimpleNamespace(factor=2),
            unet=SimpleNamespace(factor=2),
        )
        self.field, self.calls, self.watched, self.reused = field, [], [], []
        self.encoded, self.decoded, self.phase = 0, 0, None

    def encode_prompts(self, texts):
        assert len(set(texts)) == len(texts), "no prompt is encoded twice"
        return ms.Tensor(np.array([self.PROMPTS[t] for t in texts], np.float32).reshape(-1, 1, 1))

    def encode_image(self, image, tiling=None):
        self.encoded += 1
        mean = ms.Tensor(np.ascontiguousarray(image[:, :, ::2, ::2]))
        return mean, ops.zeros_like(mean) - 2.0

    def latents(self, moments, noise=None):
        mean, log_variance = moments
        if noise is not None:
            mean = mean + ops.exp(log_variance / 2) * ms.Tensor(noise)
        return mean * 0.5

    def decode_latents(self, latents, tiling=None):
        self.decoded += 1
        return (latents.asnumpy() * 2).repeat(2, 2).repeat(2, 3)

    def predict(self, x, timestep, states):
        assert x.shape[0] == states.shape[0]
        self.calls.append((self.phase, timestep, states.asnumpy().reshape(-1).tolist()))
        return answer(self.field, x, timestep, states)

    def evaluate(self, x, timestep, states, deep=None):
        return halves(self, x, timestep, states, deep)

    __call__ = predict

    def watch(self, phase, total, iterable):
        """`parts.Run.watch`: which phase the predictions belong to, and how many items it had."""
        self.phase = phase
        record = [phase, total, 0]
        self.watched.append(record)
        for item in iterable:
            record[2] += 1
            yield item

    def rows(self, phase):
        """UNet rows that a phase asked for."""
        return sum(len(sentences) for p, _, sentences in self.calls if p == phase)


PHASES = ("mask", "inversion", "decoding")
SHORT = {"num_inference_steps": 10, "num_maps": 3}


def picture(batch=1):
    return np.random.default_rng(5).uniform(-1, 1, (batch, 3, 12, 16)).astype(np.float32)


def draws_of(options, batch=1, seed=0):
    """The draws of pictures with the seeds `seed`, `seed` + 1, ..."""
    return drawing.draws(options, range(seed, seed + batch), (3, 6, 8))


def edited(options, source="source", targets=("a",), batch=1, seed=0, model=None, **more):
    """Run `edit` on random pictures: (the model, the edits)."""
    model = model or FakeModel()
    draws = draws_of(options, batch, seed)
    more.setdefault("watch", model.watch)
    found = stages.edit(model, picture(batch), source, list(targets), options, draws, **more)
    return model, found


def equal(one, other):
    """Whether two `Edit` hold the same numbers."""
    return all(
        np.array_equal(getattr(one, field.name), getattr(other, field.name))
        for field in dataclasses.fields(one)
        if field.compare
    )
