"""Low-rank files (LoRA): the changes that they make to a model's weights."""

import math
import re
import warnings
from pathlib import Path

from diffedit_core.errors import InputError

from . import rules_lora as table
from .engine import Report, candidates
from .sources import open_file, read_mapping
from .tensors import FLOATS, Change, count, load

PEFT = "base_model.model."
ADAPTER = "adapter_config.json"


def lora_changes(path, scale, leaves):
    """The changes that a low-rank file makes.

    W' = W + scale alpha / rank (up down); alpha is the rank where a file does not give it (Hu et
    al. 2021, section 4.1).

    Args:
        path: a file in kohya's, diffusers' or PEFT's names.
        scale: 1 for the full change.
        leaves: {leaf: shape} of the model.
    Returns:
        {leaf: Change}.
    Raises:
        InputError: a key that is unknown, without its partner, or of another shape, all in one
            message; or the file is of another kind, such as DoRA or LoHa.
    """
    source, report, changes, used = open_file(path), Report(), {}, set()
    tensors = [*source.tensors, *source.beside]
    _refuse_others(path, tensors)
    keys = {}
    for key, stored in tensors:
        if key in keys:
            report.add("given twice", repr(key))
        keys[key] = stored
    strength = _strength_of(Path(path).expanduser(), keys)
    weights = [
        leaf for leaf, shape in leaves.items() if leaf.endswith(".weight") and len(shape) > 1
    ]
    for leaf, claims in candidates(table.RULES, weights, table.numbers).items():
        for claim in claims:
            names = [claim.key + ending for ending in table.ENDINGS[claim.layout]]
            present = [name in keys for name in names[:2]]
            if not any(present):
                continue
            if not all(present):
                report.add("missing", repr(names[present.index(False)]))
            elif leaf in changes:
                report.add("given twice", f"the change of {leaf!r} (again in {names[0]!r})")
            elif _fits(keys, names, leaves[leaf], report):
                down, up = keys[names[0]], keys[names[1]]
                factor = scale * strength(names[2], down.shape[0])
                changes[leaf] = Change(down, up, factor)
            used.update(names)
    for key in keys:
        if key not in used:
            report.add("unknown", f"{key!r} {list(keys[key].shape)}")
    if not keys:
        report.add("missing", "any tensor")
    report.check(f"{path}, given as a low-rank file,")
    return changes


def describe(tensors):
    """What a low-rank file holds, in words."""
    other = _other(tensors)
    if other:
        return f"changes of the kind {other[0]}, which are not merged"
    downs = [ending[0] for ending in table.ENDINGS.values()]
    ranks = {
        stored.shape[0]
        for key, stored in tensors
        if stored.shape and any(key.endswith(down) for down in downs)
    }
    factors = sum(bool(re.search(table.FACTOR, key)) for key, _ in tensors)
    told = ", ".join(map(str, sorted(ranks)))
    return f"low-rank changes of {factors // 2} weights, rank {told}"


def _other(tensors):
    """(kind, key) of a key that is of another kind of change, or None."""
    for key, _ in tensors:
        for pattern, kind in table.OTHERS:
            if re.search(pattern, key):
                return kind, key
    return None


def _refuse_others(path, tensors):
    other = _other(tensors)
    if other:
        raise InputError(
            f"{path} holds changes of the kind {other[0]} ({other[1]!r}), only plain LoRA can be "
            "merged: use a LoRA of the same style, or merge it with the program that trained it "
            "and convert the model."
        )


def _strength_of(path, keys):
    """A function (key of alpha, rank) -> what multiplies up down. PEFT keeps alpha in a file
    beside the weights."""
    default, root = None, False
    beside = path.with_name(ADAPTER)
    if any(PEFT in key for key in keys) and not any(key.endswith(".alpha") for key in keys):
        if beside.is_file():
            default, root = _adapter(beside)
        else:
            warnings.warn(
                f"{path.name} has no {ADAPTER} beside it, which would give its alpha: alpha was "
                "taken to be the rank",
                stacklevel=5,
            )

    def strength(alpha, rank):
        if alpha in keys:
            return float(load(keys[alpha]).reshape(-1)[0]) / rank
        if default is None:
            return 1.0
        return default / (math.sqrt(rank) if root else rank)

    return strength


def _adapter(path):
    """(alpha, whether it is divided by the root of the rank) of PEFT's adapter_config.json."""
    config = read_mapping(path)
    for name in ("use_dora", "fan_in_fan_out", "alpha_pattern"):
        if config.get(name):
            raise InputError(
                f"{path} has {name!r} = {config[name]!r}, which is not merged: merge it with PEFT "
                "and convert the model."
            )
    alpha = config.get("lora_alpha")
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise InputError(f"{path} has no number 'lora_alpha': copy it from the style's release.")
    return float(alpha), bool(config.get("use_rslora"))


def _fits(keys, names, shape, report):
    """Whether two factors multiply to a weight of this shape."""
    down, up = keys[names[0]], keys[names[1]]
    rank = down.shape[0] if down.shape else 0
    flat_up = up.shape[:2] if up.shape[2:] in ((), (1, 1)) else up.shape
    wanted_down, wanted_up = (rank, *shape[1:]), (shape[0], rank)
    bad_down = down.shape != wanted_down and down.shape != (*wanted_down, 1, 1) or not rank
    for key, wrong, wanted in (
        (names[0], bad_down, wanted_down),
        (names[1], flat_up != wanted_up, wanted_up),
    ):
        dtype, own = keys[key].dtype, list(keys[key].shape)
        if wrong:
            report.add("wrong shape", f"{key!r} is {own}, expected {list(wanted)}")
        if dtype not in FLOATS:
            report.add("wrong type", f"{key!r} is {dtype}, expected one of {', '.join(FLOATS)}")
    alpha = keys.get(names[2])
    if alpha is not None and (count(alpha.shape) != 1 or alpha.dtype not in FLOATS):
        told = f"{names[2]!r} is {alpha.dtype} {list(alpha.shape)}, expected one number"
        report.add("wrong shape", told)
    return not report.found
