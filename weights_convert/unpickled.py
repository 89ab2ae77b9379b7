"""What a pickle's object holds: the weights, the tensors beside them, and objects of other
programs, each with its path."""

from typing import NamedTuple

from .inert import Inert, Name, Refused
from .tensors import Stored

MAX_DEPTH = 100  # of what lies in what
MAX_LABEL = 200  # characters of one step of a path
PARAMETER_DICT = "torch.nn.modules.container.ParameterDict"


class Contents(NamedTuple):
    """What is in a file.

    Attributes:
        tensors: [(key, Stored)] of the state dictionary.
        beside: [(path, Stored)] of all tensors that are elsewhere.
        objects: {path: name} of everything that was of an unknown name and is left out.
        extras: {key: value} beside the weights, which are no tensors.
    """

    tensors: list
    beside: list
    objects: dict
    extras: dict


def contents(value, set_aside=()):
    """Sort what a pickle would have built; of a training state the weights are its `state_dict`.

    Args:
        value: from `pickle_machine.run`, as is `set_aside`.
    Raises:
        Refused: it is nested too deeply.
    """
    top = as_mapping(value)
    if top is None:
        beside, objects = _walk([("content", value), ("attributes", set_aside)], ())
        return Contents([], beside, objects, {"content": value})
    inner = as_mapping(top.get("state_dict"))
    weights, prefix = (top, "") if inner is None else (inner, "state_dict.")
    tensors = [(_key(key), own) for key, own in weights.items() if isinstance(own, Stored)]
    extras = {} if inner is None else {k: v for k, v in top.items() if k != "state_dict"}
    roots = [part for key, own in extras.items() for part in _pair(label(key), key, own)]
    for key, own in weights.items():
        if not isinstance(own, Stored):
            extras[key] = own
            roots += _pair(prefix + label(key), key, own)
    beside, objects = _walk([*roots, ("attributes", set_aside)], (id(own) for _, own in tensors))
    extras = {key: own for key, own in extras.items() if not isinstance(own, Stored)}
    return Contents(tensors, beside, objects, extras)


def as_mapping(value):
    """The dictionary that a value is, or stands for; None if it is none."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Inert) and value.name == PARAMETER_DICT:
        found = [state.get("_parameters") for state in value.states if isinstance(state, dict)]
        return next((own for own in found if isinstance(own, dict)), None)
    if isinstance(value, Inert) and value.items and all(type(k) is str for k, _ in value.items):
        return dict(value.items)  # a class of its own that is a dictionary
    return None


def label(key):
    """A key as a step of a path, in printable characters."""
    if type(key) is int and abs(key) >= 1 << 64:
        return "a number"  # Python refuses to print one of thousands of digits
    text = key.text if isinstance(key, Name) else key.name if isinstance(key, Inert) else str(key)
    text = text[:MAX_LABEL]
    return text if text.isprintable() else repr(text)[1:-1]


def describe(value):
    """A value in a few words, whatever is in it."""
    if isinstance(value, (Name, Inert)):
        return label(value)
    if isinstance(value, (dict, list, tuple)):
        return f"{len(value)} entries"
    if type(value) is int:
        return label(value)
    return repr(value)[:MAX_LABEL]


def _key(key):
    return key if isinstance(key, str) else label(key)


def _pair(path, key, value):
    """The places to look at for one entry of a dictionary."""
    own = [(path, key)] if isinstance(key, (Name, Inert)) else []
    return [*own, (path, value)]


def _walk(roots, used):
    """([(path, Stored)], {path: name}) of all that the roots hold, each object once."""
    seen, tensors, objects = set(used), [], {}
    waiting = [(path, 0, value) for path, value in reversed(roots)]
    while waiting:
        path, depth, value = waiting.pop()
        if isinstance(value, Name):
            objects[path] = label(value)
        if not isinstance(value, (Stored, Inert, dict, list, tuple)) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Stored):
            tensors.append((path, value))
            continue
        if isinstance(value, Inert):
            objects[path] = label(value)
        if depth == MAX_DEPTH:
            raise Refused(f"it is nested more than {MAX_DEPTH} deep")
        inside = [part for key, own in _entries(value) for part in _pair(label(key), key, own)]
        waiting += [(f"{path}.{step}", depth + 1, own) for step, own in reversed(inside)]
    return tensors, objects


def _entries(value):
    if isinstance(value, Inert):
        return value.parts()
    return value.items() if isinstance(value, dict) else enumerate(value)
