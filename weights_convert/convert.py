"""The conversion: headers and configurations read, every leaf given its source, the result streamed
beside its name and moved."""

import concurrent.futures
import threading
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from diffedit_core.config import SchedulerConfig, TextConfig, UNetConfig, VAEConfig
from diffedit_core.errors import InputError

from . import (
    additions,
    infer,
    leaves as L,
    output as O,
    rules_diffusers,
    rules_mindone,
    rules_original,
)
from .engine import Match, candidates, elements, match, part, stored_shape
from .sources import COMPONENTS, open_source, read_folder_configs, read_tokenizer, to_json
from .tensors import FLOATS, SIZES, Output, Segment, count
from .tokenizer_files import WORDS, clip_files

TARGETS = {"diffusers": None, "single-file": "safetensors", "mindspore-ckpt": "ckpt"}
DTYPES = {"keep": None, "fp32": "F32", "fp16": "F16", "bf16": "BF16"}
BASE = {
    "text_encoder": "model",
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}
MARGIN = 16 << 20  # bytes beside the weights
MAX_LAYERS = 256  # in a row; no public model comes near
VERSION = 1


@dataclass
class Model:
    """What is known of a model before its weights are touched.

    Attributes:
        configs: {component or "scheduler": mapping}.
        tokenizer: {file name: content}.
        shapes: {leaf: shape}.
        tensors: {key: Stored} of the source.
        match: the engine's answer.
        inferred: whether the configurations come from the shapes, so that the prediction type is
            still to be found.
        open_clip: whether the text encoder is OpenCLIP's.
        changes: {leaf: (Change, ...)} of the low-rank files.
        rows: segments that follow the token table.
    """

    configs: dict
    tokenizer: dict
    shapes: dict
    tensors: dict
    match: Match
    inferred: bool
    open_clip: bool
    changes: dict = field(default_factory=dict)
    rows: tuple = ()


def convert(
    source,
    target,
    to="diffusers",
    dtype="keep",
    max_shard_size=None,
    ema=False,
    prediction_type=None,
    config=None,
    variant=None,
    loras=(),
    embeddings=(),
    advance=None,
):
    """Convert a model to the layout that the core loads, or back to a public one.

    Every source key has exactly one use and every leaf exactly one source, or nothing is written.

    Args:
        source: a folder in the diffusers layout, or a file: safetensors, PyTorch's zip format,
            MindSpore's checkpoint.
        target: the folder or file to write; it must not exist.
        to: "diffusers", "single-file" (safetensors with the original names) or "mindspore-ckpt".
        dtype: "keep", "fp32", "fp16" or "bf16".
        max_shard_size: bytes of one weight file of the diffusers layout; None for one file each.
        ema: take the averaged weights of a single file.
        prediction_type: "epsilon" or "v_prediction" for a single file; by default from its
            checksum, its name, or a guess.
        config: a model folder whose configurations and tokenizer hold for the file, instead of
            inferred ones.
        variant: of a folder's files, such as "fp16".
        loras: (file, scale) pairs, merged into the weights.
        embeddings: (file, word or None) pairs, added to the token table and the tokenizer.
        advance: called with (bytes, bytes in all) after each piece.
    Returns:
        The record, which is also in conversion.json; for a file as target, in FILE.conversion.json.
    Raises:
        InputError: the source is damaged or does not fit; a value does not fit the dtype; the
            target cannot be written.
    """
    if to not in TARGETS or dtype not in DTYPES:
        raise InputError(
            f"There is no target {to!r} with dtype {dtype!r}: choose of {', '.join(TARGETS)} and "
            f"{', '.join(DTYPES)}."
        )
    if to != "diffusers" and (embeddings or max_shard_size):
        raise InputError(
            f"{to} has no place for {'words' if embeddings else 'shards'}: convert to diffusers."
        )
    opened = open_source(source, variant)
    model = _read(opened, ema, config, prediction_type)
    _add(model, loras, embeddings)
    outputs = _outputs(model, to, DTYPES[dtype])
    total = sum(count(o.shape) * SIZES[o.dtype] for group in outputs.values() for o in group)
    target = Path(target).expanduser()
    before = _stamps(opened.files)
    report = (lambda size: advance(size, total)) if advance else (lambda size: None)
    with O.fresh_place(target, total + MARGIN) as place, _Digests(opened) as digests:
        record = {
            "weights_convert": VERSION,
            "source": {"name": opened.path.name, "format": opened.format, "files": []},
            "to": to,
            "dtype": dtype,
            "ema": ema,
            "rules": model.match.rules,
            "dropped": model.match.dropped,
            "changes": [{"file": Path(f).name, "scale": scale} for f, scale in loras],
            "words": [
                word
                for token, stored in _embeddings(embeddings)
                for word in additions.words(token, stored)
            ],
        }
        files = _write(place, target, outputs, to, max_shard_size, report)
        record["source"]["files"] = digests.result()
        if before != _stamps(opened.files):
            raise InputError(f"{opened.path} was changed while it was read: convert again.")
        if to == "diffusers":
            record["prediction_type"] = _settle(
                model, opened, record["source"]["files"], prediction_type
            )
            files.update(_write_small(place, model))
        record["files"] = files
        _finish(place, target, record, to)
    return record


def _stamps(files):
    return [(file.stat().st_size, file.stat().st_mtime_ns) for file in files]


class _Digests:
    """Checksums of the source's files, computed beside the conversion."""

    def __init__(self, source):
        self.source, self.stop = source, threading.Event()

    def __enter__(self):
        self.pool = concurrent.futures.ThreadPoolExecutor(1)
        self.futures = [
            self.pool.submit(O.digest, file, self.source.checks.get(file, ()), self._go_on)
            for file in self.source.files
        ]
        return self

    def _go_on(self, _):
        if self.stop.is_set():
            raise InterruptedError

    def result(self):
        return [future.result() for future in self.futures]

    def __exit__(self, *_):
        self.stop.set()
        self.pool.shutdown(cancel_futures=True)


# ---- reading -------------------------------------------------------------------------------------


def _read(source, ema, config, prediction_type):
    """Configurations, leaves, and the leaf of every key."""
    if source.format == "diffusers":
        if ema or config or prediction_type:
            raise InputError(
                f"{source.path} is a model folder with its own configuration: leave out --ema, --config and "
                "--prediction-type."
            )
        return _read_folder(source)
    return _read_file(source, ema, config, prediction_type)


def _read_folder(source):
    configs = read_folder_configs(source.path)
    parsed = parse(configs, source.path)
    shapes = L.shapes(configs)
    rules = rules_diffusers.RULES
    found = match(
        source.tensors,
        shapes,
        rules,
        candidates(rules, shapes),
        rules_diffusers.DROPS,
        where=source.path,
    )
    open_clip = parsed["text_encoder"].hidden_act == "gelu"
    return Model(
        configs, read_tokenizer(source.path), shapes, dict(source.tensors), found, False, open_clip
    )


def parse(configs, where):
    """The configurations as the core reads them. Raises InputError for what the core does not
    honour."""
    readers = {
        "text_encoder": TextConfig,
        "unet": UNetConfig,
        "vae": VAEConfig,
        "scheduler": SchedulerConfig,
    }
    parsed = {
        name: readers[name].read(configs[name], f"{where}: {name}")
        for name in readers
        if name in configs
    }
    unet, vae = parsed["unet"], parsed["vae"]
    numbers = (
        parsed["text_encoder"].num_hidden_layers,
        vae.layers_per_block,
        len(vae.block_out_channels),
        len(unet.block_out_channels),
        *unet.layers,
        *unet.depths,
        *unet.up_depths,
    )
    if max(numbers) > MAX_LAYERS:
        raise InputError(
            f"{where}: the configuration asks for {max(numbers)} layers in a row: it is damaged."
        )
    if unet.cross_attention_dim != parsed["text_encoder"].hidden_size:
        raise InputError(
            f"{where}: the UNet's 'cross_attention_dim' {unet.cross_attention_dim} is not the text encoder's "
            f"'hidden_size' {parsed['text_encoder'].hidden_size}: the parts are of different models."
        )
    return parsed


def _read_file(source, ema, config, prediction_type):
    kind = infer.kind(source.tensors)
    if kind not in ("original", "mindone"):
        remedy = {
            "lora": "is a low-rank file: give a model, and this file as --lora FILE SCALE",
            "embedding": "is an embedding: give a model, and this file as --embedding FILE",
            "component": "is one part of a model: give the folder of the whole model",
        }
        raise InputError(
            f"{source.path} {remedy.get(kind, 'holds no Stable Diffusion: its keys are of another kind')}."
        )
    _notice_extras(source)
    original = kind == "original"
    open_clip = infer.uses_open_clip(source.tensors) if original else None
    layers, surplus = infer.file_layers(source.tensors) if open_clip else (None, False)
    configs = (
        _given(Path(config).expanduser(), prediction_type)
        if config
        else _infer(source, open_clip, surplus)
    )
    parsed = parse(configs, config or source.path)
    open_clip = open_clip if original else parsed["text_encoder"].hidden_act == "gelu"
    tokenizer = (
        read_tokenizer(Path(config).expanduser())
        if config
        else _tokenizer(source, parsed["text_encoder"], open_clip)
    )
    shapes = L.shapes(configs)
    rules, names = _named(kind, open_clip, parsed, shapes)
    groups = []
    if original:
        names, groups = _averages(source, names, shapes, ema)
        groups += (
            [rules_original.last_layer(shapes, parsed["text_encoder"], layers)] if surplus else []
        )
    elif ema:
        raise InputError(f"{source.path} has no averaged weights: leave out --ema.")
    found = match(
        source.tensors,
        shapes,
        rules,
        names,
        rules_original.DROPS if original else (),
        groups,
        source.path,
    )
    return Model(configs, tokenizer, shapes, dict(source.tensors), found, config is None, open_clip)


def _given(folder, prediction_type):
    """The configurations of a folder, with another prediction type if one is asked for."""
    configs = read_folder_configs(folder)
    if prediction_type:
        configs["scheduler"]["prediction_type"] = prediction_type
    return configs


def _notice_extras(source):
    names = sorted(str(name) for name in source.extras if name != "metadata")
    if names:
        warnings.warn(
            f"left out of {source.path.name}, being no weights: {', '.join(names)}", stacklevel=4
        )


def _infer(source, open_clip, surplus):
    """Configurations from the shapes. mindone names both text encoders alike: Stable Diffusion 1's
    is 768 wide."""
    shapes = infer.Shapes(source.tensors)
    configs = {"unet": infer.unet(shapes), "vae": infer.vae(shapes)}
    if open_clip is None:
        open_clip = configs["unet"]["cross_attention_dim"] != 768
    return {
        **configs,
        "text_encoder": infer.text(shapes, open_clip, infer.text_layers(shapes) - surplus),
    }


def _tokenizer(source, text, open_clip):
    if text.vocab_size < WORDS:
        raise InputError(
            f"{source.path} has {text.vocab_size} words, CLIP's tokenizer {WORDS}: give the folder of a model "
            "with its tokenizer as --config."
        )
    return clip_files("!" if open_clip else "<|endoftext|>")


def _named(kind, open_clip, parsed, shapes):
    """The table of a kind of file, and its candidates for a model."""
    if len(set(parsed["unet"].layers)) > 1:
        raise InputError(
            "A UNet with different 'layers_per_block' has no name in the original layout: keep it as diffusers."
        )
    rules = rules_mindone.RULES if kind == "mindone" else rules_original.rules(open_clip)
    return rules, candidates(rules, shapes, rules_original.numbers(parsed["unet"], parsed["vae"]))


def _averages(source, names, shapes, ema):
    """Candidates and groups for the weights or their averages, of which a file may have both."""
    averaged = rules_original.with_averages(names)
    wanted, other = (averaged, names) if ema else (names, averaged)
    there = {
        claim.key
        for leaf, claims in averaged.items()
        if leaf.startswith("unet/")
        for claim in claims
    }
    present = sum(key in there for key, _ in source.tensors)
    if ema and not present:
        raise InputError(
            f"{source.path} has no averaged weights, or has them as its only ones: leave out --ema."
        )
    if present and not ema:
        warnings.warn(
            f"{source.path.name} has the averages of the UNet's weights, too; --ema takes them",
            stacklevel=4,
        )
    return wanted, [rules_original.unused_weights(other, shapes)]


# ---- additions -----------------------------------------------------------------------------------


def _embeddings(embeddings):
    return [additions.read_embedding(file, token) for file, token in embeddings]


def _add(model, loras, embeddings):
    """Low-rank changes and new words."""
    for file, scale in loras:
        for leaf, change in additions.lora_changes(file, scale, model.shapes).items():
            model.changes[leaf] = (*model.changes.get(leaf, ()), change)
    found = _embeddings(embeddings)
    if found:
        text = model.configs["text_encoder"]
        rows, width = model.shapes["text_encoder/text_model.embeddings.token_embedding.weight"]
        model.rows = tuple(additions.embedding_segments(found, width))
        new = [word for token, stored in found for word in additions.words(token, stored)]
        model.tokenizer = additions.add_words(model.tokenizer, new, rows)
        text["vocab_size"] = rows + len(new)


# ---- writing -------------------------------------------------------------------------------------


def _segments(model, leaf):
    """A leaf's segments."""
    claim = model.match.claims[leaf]
    first, last = elements(model.shapes[leaf], claim.layout)
    own = Segment(model.tensors[claim.key], first, last, model.changes.get(leaf, ()))
    return (
        (own, *model.rows)
        if leaf.endswith("/text_model.embeddings.token_embedding.weight")
        else (own,)
    )


def _outputs(model, to, dtype):
    """{component or "": [Output]} of the target's layout."""
    if to == "diffusers":
        grouped = {component: [] for component in COMPONENTS}
        for leaf, shape in model.shapes.items():
            component, _, path = leaf.partition("/")
            segments = _segments(model, leaf)
            rows = shape[0] + sum(s.stored.count // shape[-1] for s in segments[1:])
            grouped[component].append(
                Output(path, dtype or segments[0].stored.dtype, (rows, *shape[1:]), segments)
            )
        return grouped
    kind = "mindone" if to == "mindspore-ckpt" else "original"
    _, names = _named(kind, model.open_clip, parse(model.configs, "The model"), model.shapes)
    joined = {}
    for leaf, claims in names.items():
        if not claims:
            raise InputError(
                f"{leaf!r} has no name in the layout {to}: keep the model as diffusers."
            )
        joined.setdefault(claims[0].key, []).append(
            (part(claims[0].layout), leaf, claims[0].layout)
        )
    return {"": [_joined(model, key, sorted(parts), dtype) for key, parts in joined.items()]}


def _joined(model, key, parts, dtype):
    """The tensor of a key, put together from its leaves."""
    segments = tuple(segment for _, leaf, _ in parts for segment in _segments(model, leaf))
    widest = min((s.stored.dtype for s in segments), key=FLOATS.index)
    return Output(
        key, dtype or widest, stored_shape(model.shapes[parts[0][1]], parts[0][2]), segments
    )


def _write(place, target, outputs, to, limit, report):
    """The weights; returns {file: entry}."""
    if to != "diffusers":
        return {target.name: O.write_weights(place / target.name, outputs[""], TARGETS[to], report)}
    files = {}
    for component, group in outputs.items():
        (place / component).mkdir()
        parts = O.shards(group, BASE[component], limit)
        for name, own in parts:
            files[f"{component}/{name}"] = O.write_weights(
                place / component / name, own, "safetensors", report
            )
        if len(parts) > 1:
            name = f"{component}/{BASE[component]}.safetensors.index.json"
            files[name] = O.write_bytes(place / name, to_json(O.index(parts)))
    return files


def _settle(model, source, digests, given):
    """Find the prediction type of an inferred model and what follows from it; returns {"value",
    "known from"}."""
    if not model.inferred:
        value = parse(model.configs, source.path)["scheduler"].prediction_type
        return {"value": value, "known from": "option" if given else "configuration"}
    value, known = (
        (given, "option")
        if given
        else infer.prediction_type(source.path.name, digests[0]["sha256"], model.open_clip)
    )
    if known == "guess":
        warnings.warn(
            f"the prediction type of {source.path.name} is not known and was taken to be {value}: if pictures come out "
            "as noise, convert again with --prediction-type epsilon",
            stacklevel=4,
        )
    side = infer.SIDE[value]
    model.configs["scheduler"] = {**infer.SCHEDULER, "prediction_type": value}
    model.configs["unet"]["sample_size"] = side // VAEConfig.read(model.configs["vae"]).factor
    model.configs["vae"]["sample_size"] = side
    return {"value": value, "known from": known}


def _write_small(place, model):
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
    return {name: O.write_bytes(place / name, data) for name, data in content.items()}


def _finish(place, target, record, to):
    """Write the record and move everything to its name."""
    if to == "diffusers":
        O.write_bytes(place / O.RECORD, O.seal(record))
        O.move(place, target)
        return
    beside = target.with_name(f"{target.name}.{O.RECORD}")
    O.write_bytes(place / beside.name, O.seal(record))
    O.move(place / beside.name, beside)
    O.move(place / target.name, target)
