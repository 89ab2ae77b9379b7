"""The Orchard's model as a folder in the public layout: configurations, tokenizer files, weights,
model card."""

import dataclasses
import json
import os
import shutil
import tempfile
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel

from diffedit_core import folder as model_folder, params as P
from diffedit_core.config import SchedulerConfig, TextConfig, UNetConfig, VAEConfig
from diffedit_core.limits import WORDS_FILE

from . import world as W

START, END, PAD = "<|startoftext|>", "<|endoftext|>", "!"
SPECIAL = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": PAD}
CLASSES = {
    "text_encoder": ("transformers", "CLIPTextModel"),
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "scheduler": ("diffusers", "DDIMScheduler"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
}

VAE = VAEConfig(
    block_out_channels=(32, 64, 96, 128), layers_per_block=1, norm_num_groups=16, sample_size=W.SIZE
)
UNET = UNetConfig(
    sample_size=W.SIZE // VAE.factor,
    block_out_channels=(96, 160, 224),
    layers_per_block=1,
    attention_head_dim=(3, 5, 7),
    cross_attention_dim=128,
    use_linear_projection=True,
    norm_num_groups=16,
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
)
SCHEDULER = SchedulerConfig(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    steps_offset=1,
    set_alpha_to_one=False,
    prediction_type="v_prediction",
)


# words without content, which do no harm in a prompt though no caption has them
NEUTRAL = ("and", "life", "photo", "picture", "some", "still")


def caption_words():
    """Every word of the world's captions."""
    found = set()
    for fruit in (*W.FRUITS, W.MIXED):
        for container in W.CONTAINERS:
            for background in W.BACKGROUNDS:
                for count in W.COUNTS[1 if fruit == W.MIXED else 0 :]:
                    for place in W.PLACES:
                        for text in W.captions(
                            W.Scene(fruit, container, background, count, place, 0)
                        ):
                            found.update(text.split())
    return found


def words():
    """Every word of the world's captions, and a few more that a user may try, sorted."""
    more = set("a an the of on in with red green yellow purple".split()).union(NEUTRAL)
    return sorted(caption_words() | more | set(W.PLURALS.values()) | set(W.FRUITS))


def known_words():
    """The list of words that the model's folder carries, see `diffedit_core.limits`."""
    fruits = ", ".join(W.PLURALS[fruit] for fruit in W.FRUITS)
    about = f"{fruits} in a bowl, in a basket, on a plate or alone, on {', '.join(W.BACKGROUNDS)}"
    return {"about": about, "words": sorted(caption_words()), "neutral": list(NEUTRAL)}


def vocabulary():
    """(tokens, merges) of a byte-pair encoding in which each of `words` is one token and every text
    can be written."""
    symbols = sorted(ByteLevel.alphabet())
    tokens, merges = symbols + [s + "</w>" for s in symbols], []
    for word in sorted(words(), key=lambda w: (len(w), w)):
        parts = merged([*word[:-1], word[-1] + "</w>"], merges)
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            if parts[0] + parts[1] not in tokens:
                tokens.append(parts[0] + parts[1])
            parts = merged(parts, merges)
    return tokens + [START, END], merges


def merged(parts, merges):
    """Apply byte-pair merges, earlier ones first, as long as one applies (Sennrich et al. 2016,
    algorithm 1)."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    while len(parts) > 1:
        rank, i = min(
            (ranks.get((parts[i], parts[i + 1]), len(merges)), i) for i in range(len(parts) - 1)
        )
        if rank == len(merges):
            break
        parts = [*parts[:i], parts[i] + parts[i + 1], *parts[i + 2 :]]
    return parts


def write_tokenizer(folder):
    """The four files of a CLIP tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens, merges = vocabulary()
    write_json(folder / "vocab.json", {token: i for i, token in enumerate(tokens)})
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8"
    )
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": 77,
            "do_lower_case": True,
            "add_prefix_space": False,
            "errors": "replace",
            **SPECIAL,
        },
    )
    write_json(folder / "special_tokens_map.json", SPECIAL)


def text_config():
    """The text encoder's configuration; its vocabulary is `vocabulary()`."""
    return TextConfig(
        vocab_size=len(vocabulary()[0]),
        hidden_size=UNET.cross_attention_dim,
        intermediate_size=4 * UNET.cross_attention_dim,
        num_hidden_layers=2,
        num_attention_heads=4,
        hidden_act="gelu",
    )


def configs(scaling_factor=1.0, size=W.SIZE):
    """The four configurations of the model whose own pictures have `size` pixels on each side."""
    autoencoder = dataclasses.replace(VAE, scaling_factor=scaling_factor, sample_size=size)
    model = dataclasses.replace(UNET, sample_size=size // VAE.factor)
    return model_folder.Configs(text_config(), model, autoencoder, SCHEDULER)


def public(component, config):
    """A configuration as the public libraries write it."""
    fields = {"_class_name": CLASSES[component][1], **dataclasses.asdict(config)}
    if component == "vae":
        levels = len(config.block_out_channels)
        fields.update(
            act_fn="silu",
            down_block_types=["DownEncoderBlock2D"] * levels,
            up_block_types=["UpDecoderBlock2D"] * levels,
        )
    elif component == "text_encoder":
        fields.pop("_class_name")
        tokens = vocabulary()[0]
        fields.update(
            architectures=["CLIPTextModel"],
            model_type="clip_text_model",
            projection_dim=config.hidden_size,
            bos_token_id=tokens.index(START),
            eos_token_id=tokens.index(END),
            pad_token_id=tokens.index(PAD),
        )
    elif component == "scheduler":
        fields.update(clip_sample=False, thresholding=False)
    return fields


def write_model(folder, scaling_factor, weights, training, card, size=W.SIZE):
    """Write a whole model folder; it appears complete or not at all, in place of an older one.

    Args:
        folder: where; its parent exists.
        weights: {"text_encoder": tree, "unet": tree, "vae": tree} of arrays, stored in fp16.
        training: what `train.py` needs to go on from these weights, kept in training.json.
        card: text of the model card.
        size: of the model's own pictures.
    """
    folder = Path(folder)
    part = Path(tempfile.mkdtemp(prefix=folder.name + ".", dir=folder.parent))
    write_components(part, configs(scaling_factor, size), weights)
    write_json(part / "training.json", training)
    (part / "README.md").write_text(card, encoding="utf-8")
    part.chmod(0o755)
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=folder.name + ".old.", dir=folder.parent))
        os.replace(folder, old / "model")
        os.replace(part, folder)
        shutil.rmtree(old)
    else:
        os.replace(part, folder)


def write_components(folder, found, weights):
    """Index, configurations, weights and tokenizer of a model."""
    nothing = ("safety_checker", "feature_extractor", "image_encoder")
    index = {
        "_class_name": "StableDiffusionPipeline",
        **{name: list(value) for name, value in CLASSES.items()},
        **{name: [None, None] for name in nothing},
        "requires_safety_checker": False,
    }
    write_json(folder / "model_index.json", index)
    for component, config in found.parts.items():
        (folder / component).mkdir()
        write_json(folder / component / "config.json", public(component, config))
        file = folder / component / (model_folder.COMPONENTS[component][2] + ".safetensors")
        P.save(weights[component], file)
        file.chmod(0o644)  # safetensors writes for the owner only
    (folder / "scheduler").mkdir()
    scheduler = public("scheduler", found.scheduler)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_tokenizer(folder / "tokenizer")
    write_json(folder / WORDS_FILE, known_words())


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
