"""What a source is converted from: its configurations, its tokenizer, and the key of every leaf."""

import fnmatch
import re
import warnings
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from diffedit_core.config import SchedulerConfig, TextConfig, UNetConfig, VAEConfig
from diffedit_core.errors import InputError

from . import infer, leaves, rules_diffusers, rules_mindone, rules_original, rules_training
from .engine import Match, candidates, match
from .sources import Source, read_folder_configs, read_tokenizer
from .tokenizer_files import WORDS, clip_files

MAX_LAYERS = 256  # in a row; no public model comes near
MAX_NAMED = 5  # objects of other programs that a warning names
READERS = {
    "text_encoder": TextConfig,
    "unet": UNetConfig,
    "vae": VAEConfig,
    "scheduler": SchedulerConfig,
}
REMEDIES = {
    "lora": "is a low-rank file: give a model, and this file as --lora FILE SCALE",
    "embedding": "is an embedding: give a model, and this file as --embedding FILE",
    "component": "is one part of a model: give the folder of the whole model",
    "scaled fp8": "has fp8 weights with scales of their own, which are not read: use the file of "
    "the same model in fp16",
    None: "holds no Stable Diffusion: its keys are of another kind",
}


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
        prediction_type: what was asked for, or None.
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
    prediction_type: str = None
    changes: dict = field(default_factory=dict)
    rows: tuple = ()


def read_model(source, ema=False, config=None, prediction_type=None):
    """Configurations, leaves, and the key of every leaf; nothing is left over.

    Args:
        source: from `open_source`, and `without` if there is something to leave out.
        ema, config, prediction_type: see `convert`.
    Raises:
        InputError: the source is not complete, or holds something else.
    """
    if source.format == "diffusers":
        if ema or config or prediction_type:
            raise InputError(
                f"{source.path} is a model folder with its own configuration: leave out --ema, "
                "--config and --prediction-type."
            )
        return _read_folder(source)
    return _read_file(source, ema, config, prediction_type)


def without(source, patterns):
    """The source without the keys that a pattern fits, and {pattern: [keys]}.

    Args:
        patterns: globs, such as "model_ema.*"; each has to fit a key.
    Raises:
        InputError: a pattern fits none.
    """
    if infer.has_scaled_fp8(source.tensors):
        raise InputError(f"{source.path} {REMEDIES['scaled fp8']}.")
    keys = [key for key, _ in (*source.tensors, *source.beside)]
    dropped, gone = {}, set()
    for pattern in dict.fromkeys(patterns):
        fits = [key for key in keys if fnmatch.fnmatchcase(key, pattern)]
        if not fits:
            raise InputError(
                f"--drop {pattern!r} fits no key of {source.path}: see its keys with "
                "`weights_convert inspect --keys`, and put the pattern in quotes."
            )
        dropped[pattern] = [key for key in dict.fromkeys(fits) if key not in gone]
        gone.update(fits)
    left = (
        [(key, own) for key, own in part if key not in gone]
        for part in (source.tensors, source.beside)
    )
    return replace(source, **dict(zip(("tensors", "beside"), left))), dropped


def parse(configs, where):
    """The configurations as the core reads them. Raises InputError for what the core does not
    honour."""
    parsed = {
        name: reader.read(configs[name], f"{where}: {name}")
        for name, reader in READERS.items()
        if name in configs
    }
    unet, vae, text = parsed["unet"], parsed["vae"], parsed["text_encoder"]
    numbers = (
        text.num_hidden_layers,
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
    if unet.cross_attention_dim != text.hidden_size:
        raise InputError(
            f"{where}: the UNet's 'cross_attention_dim' {unet.cross_attention_dim} is not the text "
            f"encoder's 'hidden_size' {text.hidden_size}: the parts are of different models."
        )
    return parsed


def named(kind, open_clip, parsed, shapes):
    """The table of a kind of single file, and its candidates for a model."""
    if len(set(parsed["unet"].layers)) > 1:
        raise InputError(
            "A UNet with different 'layers_per_block' has no name in the original layout: keep it "
            "as diffusers."
        )
    rules = rules_mindone.RULES if kind == "mindone" else rules_original.rules(open_clip)
    return rules, candidates(rules, shapes, rules_original.numbers(parsed["unet"], parsed["vae"]))


def _read_folder(source):
    configs = read_folder_configs(source.path)
    parsed = parse(configs, source.path)
    shapes = leaves.shapes(configs)
    rules = rules_diffusers.RULES
    names = candidates(rules, shapes)
    found = _matched(source, shapes, rules, names, rules_diffusers.DROPS, ())
    tokenizer = read_tokenizer(source.path)
    open_clip = parsed["text_encoder"].hidden_act == "gelu"
    return Model(configs, tokenizer, shapes, dict(source.tensors), found, False, open_clip)


def _read_file(source, ema, config, prediction_type):
    kind = infer.kind_of(source)
    if kind not in ("original", "mindone"):
        raise InputError(f"{source.path} {_remedy(source, kind)}.")
    original = kind == "original"
    open_clip = infer.uses_open_clip(source.tensors) if original else None
    layers, surplus = infer.file_layers(source.tensors) if open_clip else (None, False)
    folder = Path(config).expanduser() if config else None
    if config:
        configs = _given(folder, prediction_type)
    else:
        configs = _inferred(source, open_clip, surplus)
    parsed = parse(configs, config or source.path)
    if not original:
        open_clip = parsed["text_encoder"].hidden_act == "gelu"
    text = parsed["text_encoder"]
    tokenizer = read_tokenizer(folder) if config else _tokenizer(source, text, open_clip)
    shapes = leaves.shapes(configs)
    rules, names = named(kind, open_clip, parsed, shapes)
    groups = []
    if original:
        names, groups = _averages(source, names, shapes, ema)
        groups += [rules_original.last_layer(shapes, text, layers)] if surplus else []
    elif ema:
        raise InputError(f"{source.path} has no averaged weights: leave out --ema.")
    drops = rules_original.DROPS if original else ()
    found = _matched(source, shapes, rules, names, drops, groups)
    tensors = dict(source.tensors)
    return Model(configs, tokenizer, shapes, tensors, found, not config, open_clip, prediction_type)


def _matched(source, shapes, rules, names, drops, groups):
    """The engine's answer, what trainers keep beside the weights being left out."""
    _notice_extras(source)
    reasons = {}
    for path, _ in source.beside:
        fits = [d.reason for d in rules_training.DROPS if re.fullmatch(d.pattern, path)]
        reasons[path] = fits[0] if fits else None
    unknown = [(path, own) for path, own in source.beside if reasons[path] is None]
    tensors = [*source.tensors, *unknown]
    found = match(tensors, shapes, rules, names, drops, groups, source.path)
    dropped = Counter(found.dropped)
    dropped.update(reason for reason in reasons.values() if reason)
    return found._replace(dropped=dict(dropped))


def _remedy(source, kind):
    """What a file is that is no model, and what can be done with it."""
    if kind is None and source.objects and not source.tensors:
        first = next(iter(source.objects.values()))
        return (
            f"holds no dictionary of tensors, but an object {first!r}, which was not loaded: save "
            "the model's state_dict(), or use the safetensors file of the same model"
        )
    return REMEDIES[kind]


def _given(folder, prediction_type):
    """The configurations of a folder, with another prediction type if one is asked for."""
    configs = read_folder_configs(folder)
    if prediction_type:
        configs["scheduler"]["prediction_type"] = prediction_type
    return configs


def _notice_extras(source):
    """Say what is left out that is no tensor."""
    names = sorted(str(name) for name in source.extras if isinstance(name, str))
    if source.format != "safetensors" and names:
        told = ", ".join(names)
        warnings.warn(f"left out of {source.path.name}, being no weights: {told}", stacklevel=5)
    objects = sorted(set(source.objects.values()))
    if objects:
        more = f" and {len(objects) - MAX_NAMED} more" if len(objects) > MAX_NAMED else ""
        warnings.warn(
            f"left out of {source.path.name} and not loaded, objects of other programs "
            f"({len(source.objects)}): {', '.join(objects[:MAX_NAMED])}{more}",
            stacklevel=5,
        )


def _inferred(source, open_clip, surplus):
    """Configurations from the shapes. mindone names both text encoders alike: Stable Diffusion 1's
    is 768 wide."""
    shapes = infer.Shapes(source.tensors)
    configs = {"unet": infer.unet(shapes), "vae": infer.vae(shapes)}
    if open_clip is None:
        open_clip = configs["unet"]["cross_attention_dim"] != 768
    text = infer.text(shapes, open_clip, infer.text_layers(shapes) - surplus)
    return {**configs, "text_encoder": text}


def _tokenizer(source, text, open_clip):
    if text.vocab_size < WORDS:
        raise InputError(
            f"{source.path} has {text.vocab_size} words, CLIP's tokenizer {WORDS}: give the folder "
            "of a model with its tokenizer as --config."
        )
    return clip_files("!" if open_clip else "<|endoftext|>")


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
            stacklevel=5,
        )
    return wanted, [rules_original.unused_weights(other, shapes)]
