"""The models by name, and every distinct call of one evaluation, traced and not typed in."""

import functools
import hashlib
from pathlib import Path
from typing import Any, Callable, NamedTuple

import mindspore as ms
import numpy as np

from diffedit_core import clip, params as P, trace, unet, vae
from diffedit_core.config import TextConfig, UNetConfig, VAEConfig
from diffedit_core.errors import InputError
from diffedit_core.folder import ORCHARD, read_configs

from . import glue

TOKENS = 77

UNET_1 = UNetConfig(sample_size=64, cross_attention_dim=768)
UNET_2 = UNetConfig(
    attention_head_dim=(5, 10, 20, 20), cross_attention_dim=1024, use_linear_projection=True
)
TEXT_1 = TextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
TEXT_2 = TextConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=23,
    num_attention_heads=16,
    hidden_act="gelu",
)
VAE = VAEConfig(block_out_channels=(128, 256, 512, 512), layers_per_block=2)

# The architectures of the released files; 2.1 and 2.1-base differ in what they predict only.
KNOWN = {
    "sd21": {"unet": UNET_2, "vae": VAE, "text": TEXT_2},
    "sd21-base": {"unet": UNET_2, "vae": VAE, "text": TEXT_2},
    "sd15": {"unet": UNET_1, "vae": VAE, "text": TEXT_1},
}
BATCHES = {"unet": 2, "vae": 1, "text": 1}  # two rows with guidance
SIZES = {"sd21": 768, "sd21-base": 512, "sd15": 512}


class Part(NamedTuple):
    """One function of a model: name; function(params, *inputs, config, kernels); its config and
    the tree of its leaves; (shape, dtype) of its inputs, where the dtype None is the model's; the
    rows of a batch."""

    name: str
    function: Callable
    config: Any
    specs: dict
    inputs: tuple
    batch: int


@functools.lru_cache(maxsize=None)
def configs(model):
    """{"unet", "vae", "text"} -> config, of a name of `KNOWN`, "orchard", or a folder.

    Raises: InputError: there is no such model, or its folder is not complete.
    """
    if model in KNOWN:
        return KNOWN[model]
    if model != "orchard" and not Path(model).is_dir():
        raise InputError(
            f"--model {model}: there is no such folder; give one, or {', '.join(KNOWN)} or orchard."
        )
    found = read_configs(ORCHARD if model == "orchard" else Path(model))
    return {"unet": found.unet, "vae": found.vae, "text": found.text}


def label(model):
    """A model's name in a record; a folder's tells its configuration, not where it is."""
    if model in KNOWN or model == "orchard":
        return model
    text = repr(sorted(configs(model).items()))
    return f"folder {hashlib.sha256(text.encode()).hexdigest()[:8]}"


def default_size(model):
    """Side of the pictures that the model was made for, in pixels."""
    if model in SIZES:
        return SIZES[model]
    own = configs(model)
    cells = own["unet"].sample_size
    return own["vae"].sample_size if cells is None else cells * own["vae"].factor


def parts(suite, model, size, batch):
    """The functions of a suite as a list of `Part`; the autoencoder has two, the anchors none.

    Raises: InputError: the size is not a multiple of the autoencoder's factor.
    """
    if suite == "anchors":
        return []
    own, batch = configs(model), BATCHES[suite] if batch is None else batch
    factor, latent = own["vae"].factor, own["vae"].latent_channels
    if size < 1 or size % factor:
        raise InputError(f"The size is {size}: give a positive multiple of {factor}.")
    cells = size // factor
    if suite == "unet":
        config = own["unet"]
        shapes = (
            ((batch, config.in_channels, cells, cells), None),
            ((1,), "int32"),
            ((batch, TOKENS, config.cross_attention_dim), None),
        )
        return [Part("unet", unet.apply, config, unet.specs(config), shapes, batch)]
    if suite == "text":
        config = own["text"]
        shapes = (((batch, min(TOKENS, config.max_position_embeddings)), "int32"),)
        return [Part("text", clip.apply, config, clip.specs(config), shapes, batch)]
    config = own["vae"]
    tree, picture = vae.specs(config), ((batch, config.in_channels, size, size), None)
    hidden = ((batch, latent, cells, cells), None)
    return [
        Part("vae encoder", vae.encode, config, tree, (picture,), batch),
        Part("vae decoder", vae.decode, config, tree, (hidden,), batch),
    ]


def calls(part, dtype):
    """Counter {`trace.Call`: times} of one evaluation, with the glue between the kernels."""
    kind = P.DTYPES[dtype]
    inputs = [
        ms.ops.zeros(shape, kind if wanted is None else ms.int32) for shape, wanted in part.inputs
    ]
    run = trace.unloaded(part.function, part.specs, part.config, dtype=dtype)
    with glue.watched() as seen:
        found = trace.calls(run, *inputs, kernels=glue.unwatched(trace.ABSTRACT, seen))
    found.update(seen.calls)
    return found


def inputs(part, dtype, rng):
    """Random numpy inputs of an evaluation, float32 or int32."""
    highest = part.config.vocab_size if part.name == "text" else 1000
    return [
        (
            rng.integers(0, highest, shape).astype(np.int32)
            if wanted
            else rng.standard_normal(shape).astype(np.float32)
        )
        for shape, wanted in part.inputs
    ]
