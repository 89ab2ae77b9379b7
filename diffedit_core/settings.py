"""JSON files of settings: read, and every key of them accounted for.

Each configuration is a dataclass that holds exactly the keys that this implementation honours, with
the public libraries' defaults. Every other key of a file has to be known: either harmless (it
changes no result of inference) or present with its neutral value. Anything else is an error,
because a key that is silently dropped is a model that silently runs wrong.
"""

import dataclasses
import json
import math
from pathlib import Path

from .errors import InputError

HARMLESS = frozenset(
    "_class_name _diffusers_version _name_or_path architectures model_type torch_dtype dtype "
    "transformers_version dropout attention_dropout initializer_factor initializer_range "
    "projection_dim bos_token_id eos_token_id pad_token_id use_cache return_dict force_upcast "
    "addition_embed_type_num_heads gradient_checkpointing output_attentions output_hidden_states "
    "torchscript tie_word_embeddings "
    "is_encoder_decoder is_decoder".split()
)


def as_tuples(value):
    return tuple(as_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value


def kind_of(value):
    """JSON's type of a value; a whole number is also a number."""
    return "number" if isinstance(value, float) else type(value).__name__


def read_settings(cls, mapping, where, neutral, harmless=frozenset()):
    """Build `cls` from a mapping, refusing every key whose effect it would not have."""
    if not isinstance(mapping, dict):
        raise InputError(f"{where}: expected a JSON object of settings, found {kind_of(mapping)}.")
    fields = {f.name for f in dataclasses.fields(cls)}
    kept, problems = {}, []
    for key, value in mapping.items():
        if key in fields:
            kept[key] = as_tuples(value)
        elif key in neutral:
            if as_tuples(value) not in neutral[key]:
                allowed = " or ".join(json.dumps(v) for v in neutral[key])
                problems.append(f"{key!r} is {json.dumps(value)}, only {allowed} is implemented")
        elif key not in HARMLESS and key not in harmless:
            problems.append(f"unknown key {key!r} ({json.dumps(value)})")
    if problems:
        raise InputError(
            f"{where}: {'; '.join(problems)}. Such a setting would change the result unnoticed: "
            "remove the key if it is not part of the model, or use a model without it."
        )
    try:
        return cls(**kept)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from None


def check(condition, message):
    if not condition:
        raise ValueError(message)


def is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_list(value, of):
    return isinstance(value, tuple) and len(value) > 0 and all(map(of, value))


# kind of a field -> (what the message asks for, test)
_KINDS = {
    "flag": ("true or false", lambda v: isinstance(v, bool)),
    "count": ("a positive whole number", is_count),
    "counts": ("a list of positive whole numbers", lambda v: is_list(v, is_count)),
    "per level": (
        "a positive whole number, or a list of them",
        lambda v: is_count(v) or is_list(v, is_count),
    ),
    "number": ("a number", is_number),
    "positive": ("a positive number", lambda v: is_number(v) and v > 0),
    "beta": ("a number from 0 to 1", lambda v: is_number(v) and 0 <= v <= 1),
    "betas": (
        "a list of numbers from 0 to 1",
        lambda v: is_list(v, lambda x: is_number(x) and 0 <= x <= 1),
    ),
    "names": ("a list of names", lambda v: is_list(v, lambda x: isinstance(x, str))),
}


def check_kinds(config, **fields):
    """Each named field has the kind given for it; None passes only where it is the default."""
    for name, kind in fields.items():
        value, (wanted, test) = getattr(config, name), _KINDS[kind]
        optional = value is None and type(config).__dataclass_fields__[name].default is None
        check(
            optional or test(value),
            f"{name!r} is {json.dumps(value, default=repr)}, expected {wanted}.",
        )


def per_level(value, levels, name):
    """One value for each resolution level: a number stands for all of them."""
    values = value if isinstance(value, tuple) else (value,) * levels
    check(len(values) == levels, f"{name!r} lists {len(values)} values for {levels} levels.")
    return values


LFS = b"version https://git-lfs.github.com/spec/"  # how a pointer's text begins


def is_lfs_pointer(path):
    """Whether a file holds a pointer of Git LFS in place of its content; False if it is missing."""
    try:
        with open(path, "rb") as handle:
            return handle.read(len(LFS)) == LFS
    except OSError:
        return False


def lfs_sentence(path):
    """What to do with a pointer."""
    return (
        f"{path} is a Git LFS pointer instead of the file itself: run `git lfs pull` in the "
        "folder, or download the file."
    )


def read_json(path):
    """Raises InputError when the file is missing or is not JSON."""
    path = Path(path)
    if is_lfs_pointer(path):
        raise InputError(lfs_sentence(path))
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path} is missing: the model folder is not complete, copy or download it again."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read as JSON ({error}): copy or download it again."
        ) from None


def read_index(path):
    """{shard: keys that are in it} of a `*.index.json`, the shards in the order of their names.

    Raises:
        InputError: it is no index, or refers to files outside its folder.
    """
    index = read_json(path)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{path} has no 'weight_map': copy or download it again.")
    shards = {}
    for key, name in weight_map.items():
        if (
            not isinstance(name, str)
            or Path(name).name != name
            or name in ("", "..")
            or "\\" in name
            or "\0" in name
        ):
            raise InputError(
                f"{path} refers to {name!r} outside its folder: do not use files from this source."
            )
        shards.setdefault(name, set()).add(key)
    return dict(sorted(shards.items()))
