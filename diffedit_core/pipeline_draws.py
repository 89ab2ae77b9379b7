"""The facade's random numbers: whatever may be given as `generator` -> numpy's streams."""

import numpy as np

from . import regularise
from .errors import InputError
from .foreign import plain

MASK, INVERSION, DECODING, ROLLS, SCHEDULER, POSTERIOR = range(6)  # streams of an integer seed


def draws(generator, phase, *rows):
    """A function (pictures, copies), shape -> float32 standard normal numbers
    [pictures,copies,*shape].

    A list has one generator for each picture, or as in the public pipeline one for each copy of
    each.

    Args:
        rows: the (pictures, copies) to come, so that a list of another length is refused at once.
    """
    listed = isinstance(generator, (list, tuple))
    streams = [stream(g, phase) for g in (generator if listed else [generator])]

    def check(pictures, copies):
        if listed and len(streams) not in (pictures, pictures * copies):
            raise InputError(
                f"generator lists {len(streams)} for {pictures} pictures: give one for each, or a "
                "single one."
            )

    def draw(rows, shape):
        check(*rows)
        each = (rows[0] * rows[1] // len(streams), *shape)
        drawn = np.concatenate([s.standard_normal(each) for s in streams])
        return drawn.astype(np.float32).reshape(*rows, *shape)

    for pair in rows:
        check(*pair)
    return draw


def rolls(generator, options, shape):
    """`regularise.draw_rolls` for latents of a shape, from one stream for each generator or a
    single one for all pictures."""
    listed = generator if isinstance(generator, (list, tuple)) else [generator]
    streams = [stream(g, ROLLS) for g in listed]
    streams = streams if len(streams) == shape[0] else streams[:1] * shape[0]
    return regularise.draw_rolls(
        streams, options.num_encode_steps, options.num_reg_steps, options.num_auto_corr_rolls, shape
    )


def stream(generator, *key):
    """The numpy Generator of one generator argument; a seed has one for each key (phase, ...)."""
    if generator is None or isinstance(generator, np.random.Generator):
        return np.random.default_rng(generator)

    seed = generator
    if hasattr(generator, "initial_seed") and not isinstance(generator, type):
        seed = generator.initial_seed()
    seed = plain(seed)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(
            f"generator is a {type(generator).__name__}: give a seed, a Generator, or a list of "
            "these."
        )
    return np.random.default_rng([seed % 2**64, *key])
