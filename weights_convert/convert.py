"""The conversion: headers and configurations read, every leaf given its source, the result streamed
beside its name and moved."""

import concurrent.futures
import threading
import warnings
from pathlib import Path

from diffedit_core.config import VAEConfig
from diffedit_core.errors import InputError

from . import infer, low_rank, output, words, writing
from .reading import parse, read_model, without
from .sources import open_source
from .tensors import KEPT, SIZES, count

DTYPES = {"keep": None, "fp32": "F32", "fp16": "F16", "bf16": "BF16"}
MARGIN = 16 << 20  # bytes beside the weights
MAX_LISTED = 20  # keys that a message names; the record has all
VERSION = 1


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
    drop=(),
):
    """Convert a model to the layout that the core loads, or back to a public one.

    Every source key has exactly one use and every leaf exactly one source, or nothing is written.

    Args:
        source: a folder in the diffusers layout, or a file: safetensors, PyTorch's zip format,
            MindSpore's checkpoint.
        target: the folder or file to write; it must not exist.
        to: "diffusers", "single-file" (safetensors with the original names) or "mindspore-ckpt".
        dtype: "keep", "fp32", "fp16" or "bf16"; weights of eight bits are never kept.
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
        drop: patterns of keys to leave out, such as "model_ema.*"; each has to fit one.
    Returns:
        The record, which is also in conversion.json; for a file as target, in FILE.conversion.json.
    Raises:
        InputError: the source is damaged or does not fit; a value does not fit the dtype; the
            target cannot be written.
    """
    _check(to, dtype, embeddings, max_shard_size)
    opened, dropped = without(open_source(source, variant), drop)
    model = read_model(opened, ema, config, prediction_type)
    added = _add(model, loras, embeddings)
    record = {
        "weights_convert": VERSION,
        "source": {"name": opened.path.name, "format": opened.format, "files": []},
        "to": to,
        "dtype": dtype,
        "ema": ema,
        "rules": model.match.rules,
        **_left_out(opened, model, dropped),
        "changes": [{"file": Path(file).name, "scale": scale} for file, scale in loras],
        "words": added,
    }
    return _write(Path(target).expanduser(), opened, model, record, max_shard_size, advance)


def _check(to, dtype, embeddings, max_shard_size):
    if to not in writing.TARGETS or dtype not in DTYPES:
        raise InputError(
            f"There is no target {to!r} with dtype {dtype!r}: choose of "
            f"{', '.join(writing.TARGETS)} and {', '.join(DTYPES)}."
        )
    if to != "diffusers" and (embeddings or max_shard_size):
        raise InputError(
            f"{to} has no place for {'words' if embeddings else 'shards'}: convert to diffusers."
        )


def _add(model, loras, embeddings):
    """Add low-rank changes and new words to the model; returns {word: number of vectors}."""
    for file, scale in loras:
        for leaf, change in low_rank.lora_changes(file, scale, model.shapes).items():
            model.changes[leaf] = (*model.changes.get(leaf, ()), change)
    found = [words.read_embedding(file, token) for file, token in embeddings]
    names = {token: words.words(token, stored) for token, stored in found}
    if found:
        rows, width = model.shapes[writing.TABLE]
        model.rows = tuple(words.segments(found, width))
        new = [word for token, stored in found for word in words.words(token, stored)]
        model.tokenizer = words.add_words(model.tokenizer, new, rows)
        model.configs["text_encoder"]["vocab_size"] = rows + len(new)
    return {token: len(own) for token, own in names.items()}


def _left_out(source, model, dropped):
    """What the record says about all that is not converted."""
    counts = {f"--drop {pattern}": len(keys) for pattern, keys in dropped.items()}
    for pattern, keys in dropped.items():
        more = f" and {len(keys) - MAX_LISTED} more" if len(keys) > MAX_LISTED else ""
        told = ", ".join(keys[:MAX_LISTED]) or "nothing that was not left out already"
        warnings.warn(f"left out by --drop {pattern!r}: {told}{more}", stacklevel=4)
    return {
        "dropped": {**model.match.dropped, **counts},
        "dropped by pattern": dropped,
        "objects": source.objects,
    }


def _write(target, source, model, record, max_shard_size, advance):
    """Write the result beside its name, and move it there; returns the whole record."""
    to, given = record["to"], DTYPES[record["dtype"]]
    _notice_eight_bits(source, model, given)
    groups = writing.outputs(model, to, given)
    total = sum(count(o.shape) * SIZES[o.dtype] for group in groups.values() for o in group)
    report = (lambda size: advance(size, total)) if advance else (lambda size: None)
    before = _stamps(source.files)
    with output.fresh_place(target, total + MARGIN) as place, _Digests(source) as digests:
        files = writing.write(place, target, groups, to, max_shard_size, report)
        record["source"]["files"] = digests.result()
        if before != _stamps(source.files):
            raise InputError(f"{source.path} was changed while it was read: convert again.")
        if to == "diffusers":
            record["prediction_type"] = _settle(model, source, record["source"]["files"])
            files.update(writing.write_small(place, model))
        record["files"] = files
        writing.finish(place, target, record, to)
    return record


def _notice_eight_bits(source, model, dtype):
    """Say that weights of eight bits become wider."""
    narrow = {
        stored.dtype
        for stored in (model.tensors[claim.key] for claim in model.match.claims.values())
        if stored.dtype in KEPT
    }
    if narrow:
        wide = dtype or KEPT[min(narrow)]
        warnings.warn(
            f"{source.path.name} has weights of eight bits ({', '.join(sorted(narrow))}), which "
            f"are written as {wide}",
            stacklevel=4,
        )


def _settle(model, source, digests):
    """Find the prediction type of an inferred model and what follows from it; returns {"value",
    "known from"}."""
    given = model.prediction_type
    if not model.inferred:
        value = parse(model.configs, source.path)["scheduler"].prediction_type
        return {"value": value, "known from": "option" if given else "configuration"}
    value, known = given, "option"
    if not given:
        sha256 = digests[0]["sha256"]
        value, known = infer.prediction_type(source.path.name, sha256, model.open_clip)
    if known == "guess":
        warnings.warn(
            f"the prediction type of {source.path.name} is not known and was taken to be {value}: "
            "if pictures come out as noise, convert again with --prediction-type epsilon",
            stacklevel=4,
        )
    side = infer.SIDE[value]
    model.configs["scheduler"] = {**infer.SCHEDULER, "prediction_type": value}
    model.configs["unet"]["sample_size"] = side // VAEConfig.read(model.configs["vae"]).factor
    model.configs["vae"]["sample_size"] = side
    return {"value": value, "known from": known}


def _stamps(files):
    return [(file.stat().st_size, file.stat().st_mtime_ns) for file in files]


class _Digests:
    """Checksums of the source's files, computed beside the conversion."""

    def __init__(self, source):
        self.source, self.stop = source, threading.Event()

    def __enter__(self):
        self.pool = concurrent.futures.ThreadPoolExecutor(1)
        self.futures = [
            self.pool.submit(output.digest, file, self.source.checks.get(file, ()), self._go_on)
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
