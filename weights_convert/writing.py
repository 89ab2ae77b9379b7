"""The result's files: which tensors with which segments, in which layout; configurations and
tokenizer beside them."""

from diffedit_core.errors import InputError

from . import output
from .engine import elements, part, stored_shape
from .reading import named, parse
from .sources import COMPONENTS, to_json
from .tensors import FLOATS, KEPT, Output, Segment

TARGETS = {"diffusers": None, "single-file": "safetensors", "mindspore-ckpt": "ckpt"}
BASE = {
    "text_encoder": "model",
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}
TABLE = "text_encoder/text_model.embeddings.token_embedding.weight"


def outputs(model, to, dtype):
    """{component or "": [Output]} of the target's layout; `dtype` None keeps the source's."""
    if to == "diffusers":
        return _diffusers(model, dtype)
    kind = "mindone" if to == "mindspore-ckpt" else "original"
    _, names = named(kind, model.open_clip, parse(model.configs, "The model"), model.shapes)
    joined = {}
    for leaf, claims in names.items():
        if not claims:
            raise InputError(
                f"{leaf!r} has no name in the layout {to}: keep the model as diffusers."
            )
        own = (part(claims[0].layout), leaf, claims[0].layout)
        joined.setdefault(claims[0].key, []).append(own)
    return {"": [_joined(model, key, sorted(parts), dtype) for key, parts in joined.items()]}


def write(place, target, groups, to, limit, advance):
    """Write the weights; returns {file: entry of the record}.

    Args:
        place: a folder of its own.
        target: what the result will be called.
        groups: from `outputs`.
        limit: bytes of one file of the diffusers layout, or None.
        advance: called with the number of bytes after each piece.
    """
    if to != "diffusers":
        form, name = TARGETS[to], target.name
        return {name: output.write_weights(place / name, groups[""], form, advance)}
    files = {}
    for component, group in groups.items():
        (place / component).mkdir()
        parts = output.shards(group, BASE[component], limit)
        for name, own in parts:
            files[f"{component}/{name}"] = output.write_weights(
                place / component / name, own, "safetensors", advance
            )
        if len(parts) > 1:
            name = f"{component}/{BASE[component]}.safetensors.index.json"
            files[name] = output.write_bytes(place / name, to_json(output.index(parts)))
    return files


def write_small(place, model):
    """Configurations, tokenizer and model_index.json; returns {file: entry}."""
    scheduler = model.configs["scheduler"].get("_class_name", "DDIMScheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    content = {
        "model_index.json": to_json(index),
        "scheduler/scheduler_config.json": to_json(model.configs["scheduler"]),
        **{f"{c}/config.json": to_json(model.configs[c]) for c in COMPONENTS},
        **{f"tokenizer/{name}": data for name, data in model.tokenizer.items()},
    }
    for folder in ("scheduler", "tokenizer"):
        (place / folder).mkdir()
    return {name: output.write_bytes(place / name, data) for name, data in content.items()}


def finish(place, target, record, to):
    """Write the record and move everything to its name."""
    if to == "diffusers":
        output.write_bytes(place / output.RECORD, output.seal(record))
        output.move(place, target)
        return
    beside = target.with_name(f"{target.name}.{output.RECORD}")
    output.write_bytes(place / beside.name, output.seal(record))
    output.move(place / beside.name, beside)
    output.move(place / target.name, target)


def _diffusers(model, dtype):
    grouped = {component: [] for component in COMPONENTS}
    for leaf, shape in model.shapes.items():
        component, _, path = leaf.partition("/")
        segments = _segments(model, leaf)
        rows = shape[0] + sum(s.stored.count // shape[-1] for s in segments[1:])
        grouped[component].append(
            Output(path, dtype or _kept(segments[0]), (rows, *shape[1:]), segments)
        )
    return grouped


def _joined(model, key, parts, dtype):
    """The tensor of a key, put together from its leaves."""
    segments = tuple(segment for _, leaf, _ in parts for segment in _segments(model, leaf))
    widest = min(map(_kept, segments), key=FLOATS.index)
    shape = stored_shape(model.shapes[parts[0][1]], parts[0][2])
    return Output(key, dtype or widest, shape, segments)


def _kept(segment):
    """The dtype that is written where none is asked for."""
    return KEPT.get(segment.stored.dtype, segment.stored.dtype)


def _segments(model, leaf):
    """A leaf's segments."""
    claim = model.match.claims[leaf]
    first, last = elements(model.shapes[leaf], claim.layout)
    own = Segment(model.tensors[claim.key], first, last, model.changes.get(leaf, ()))
    return (own, *model.rows) if leaf == TABLE else (own,)
