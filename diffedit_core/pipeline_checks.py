"""What the facade's arguments may be: each check returns the plain value, or raises one sentence
that names the argument."""

import inspect
import numbers
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from .errors import InputError
from .foreign import plain, shown, to_numpy

PACKAGE = Path(__file__).parent
BAR_SETTINGS = [
    name for name in inspect.signature(tqdm.__init__).parameters if name not in ("self", "kwargs")
]


def warn(text):
    """A warning that points at the line of the program that called this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and Path(frame.f_code.co_filename).parent == PACKAGE:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)


def check(name, value, good, wanted):
    """Raise InputError, saying what was wanted of the named value, unless it is good."""
    if not good:
        raise InputError(f"{name} is {shown(value)}: it has to be {wanted}.")


def number(name, value, low=-sys.float_info.max, high=sys.float_info.max, wanted="a number"):
    """A float in [low, high], which NaN is not."""
    given = plain(value)
    real = isinstance(given, numbers.Real) and not isinstance(given, bool)
    check(name, value, real and low <= given <= high, wanted)
    return float(given)


def whole(name, value, low=1, high=None):
    """An int of at least `low`, and at most `high`."""
    given = plain(value)
    good = isinstance(given, int) and not isinstance(given, bool) and given >= low
    limit = "up" if high is None else f"to {high}"
    check(
        name, value, good and (high is None or given <= high), f"a whole number from {low} {limit}"
    )
    return given


def flag(name, value):
    """A truth value: True, False, 1 or 0."""
    given = plain(value)
    check(name, value, isinstance(given, (bool, int)) and given in (0, 1), "True or False")
    return bool(given)


def steps_and_share(name, share, steps, most):
    """(share, number of steps): a share in [0,1] that is deep enough for one step of the grid."""
    steps = whole("num_inference_steps", steps, 1, most)
    share = number(name, share, 0, 1, "a number from 0 to 1")
    check(
        name,
        share,
        int(steps * share),
        f"large enough for one of the {steps} steps of num_inference_steps",
    )
    return share, steps


def output(output_type, known, cross_attention_kwargs):
    """A known output type, and no settings that would have no effect."""
    wanted = " or ".join(map(repr, known))
    check("output_type", output_type, isinstance(output_type, str) and output_type in known, wanted)
    given = cross_attention_kwargs
    nothing = given is None or isinstance(given, dict) and not given
    check("cross_attention_kwargs", given, nothing, "left out, as it would have no effect")


def guidance(guidance_scale):
    """The guidance scale, 1 (none) for all below: the public pipeline guides above 1 only."""
    return max(1.0, number("guidance_scale", guidance_scale))


def callback(function, every):
    """How often to call: a whole number of steps; the function is None or can be called."""
    check("callback", function, function is None or callable(function), "a function, or None")
    return whole("callback_steps", every)


def iterates(value):
    """Whether there is anything to iterate over; an array of no axes has a method for it only."""
    try:
        iter(value)
    except TypeError:
        return False
    return getattr(value, "shape", None) != ()


def bar_settings(settings):
    """Settings of tqdm, unchanged."""
    for name in settings:
        known = ", ".join(BAR_SETTINGS)
        check("a progress bar's setting", name, name in BAR_SETTINGS, f"one of {known}")
    return settings


# ---- prompts -------------------------------------------------------------------------------------


class Prompt(NamedTuple):
    """A prompt and its negative, each as text, or as states float32 [B,S,D], or None; of how many
    pictures, and of how many positions each."""

    text: object
    negative: object
    states: object
    negative_states: object
    count: int
    lengths: dict


def prompt(prefix, text, negative, states, negative_states, width, length):
    """Either text or states, of fitting types and numbers -> `Prompt`.

    Args:
        prefix: of the arguments' names.
        width, length: of text states, their channels and positions.
    """
    what, minus = f"{prefix}prompt", f"{prefix}negative_prompt"
    if (text is None) == (states is None):
        ending = ", one of them" if text is None else ", not both"
        raise InputError(f"Give either {what} or {what}_embeds{ending}.")
    if negative is not None and negative_states is not None:
        raise InputError(f"Give either {minus} or {minus}_embeds, not both.")
    _texts(what, text)
    _texts(minus, negative)

    if negative is not None and text is not None:
        if isinstance(negative, list) != isinstance(text, list):
            raise TypeError(
                f"{minus} is a {type(negative).__name__} but {what} a {type(text).__name__}: "
                "give two of a kind."
            )
    states = _states(f"{what}_embeds", states, width, length)
    negative_states = _states(f"{minus}_embeds", negative_states, width, length)

    count = len(states) if text is None else len(text) if isinstance(text, list) else 1
    if isinstance(negative, list) and len(negative) != count:
        raise InputError(
            f"There are {len(negative)} strings in {minus}: {what} has another number, {count}."
        )
    if negative_states is not None:
        spread(f"{minus}_embeds", len(negative_states), count)
    lengths = {
        what if states is None else f"{what}_embeds": length if states is None else states.shape[1],
        (minus if negative is not None else f"{minus}_embeds"): (
            length if negative_states is None else negative_states.shape[1]
        ),
    }
    return Prompt(text, negative, states, negative_states, count, lengths)


def _texts(name, text):
    listed = isinstance(text, list) and text and all(isinstance(t, str) for t in text)
    good = text is None or isinstance(text, str) or listed
    check(name, text, good, "a string or a list of strings")


def _states(name, given, width, length):
    """Text states as float32 [B,S,D]; a list has one [S,D] or [1,S,D] for each picture."""
    if given is None:
        return None
    array = to_numpy(given, name)
    if isinstance(given, (list, tuple)) and array.ndim == 4 and array.shape[1] == 1:
        array = array[:, 0]
    check(
        f"{name}'s shape",
        list(array.shape),
        array.ndim == 3 and array.shape[2] == width and 0 not in array.shape,
        f"[B,{length},{width}]",
    )
    array = array.astype(np.float32)
    check(name, given, np.isfinite(array).all(), "finite everywhere")
    return array


def same_lengths(*prompts, guided):
    """All prompts that run in one batch have as many positions, the negatives too if guided."""
    named = [item for p in prompts for item in list(p.lengths.items())[: 1 + guided]]
    longest, most = max(named, key=lambda item: item[1])
    for name, length in named:
        if length != most:
            remedy = name if name.endswith("_embeds") else f"{name}_embeds"
            raise InputError(
                f"{longest} has {most} positions but {name} {length}: "
                f"give {remedy} of {most} positions."
            )


def spread(name, count, batch):
    """One of it, or one for each picture of the batch."""
    if count not in (1, batch):
        raise InputError(f"{name} has {count} entries for a batch of {batch}: give {batch} or one.")
