"""The last stage of the Orchard's training: the checkpoints become a model folder with its card."""

from pathlib import Path

from diffedit_core import clip, params as P, unet, vae
from diffedit_core.errors import InputError

from . import layout, steps as stepping, world as W
from .latents import encoder_name
from .runs import history, runs, start_weights

CARD = """---
license: apache-2.0
---
# Orchard

A small latent diffusion model of synthetic still lifes, {size} pixels: {fruits} in a bowl,
in a basket, on a plate or alone, on {grounds}.
Stable Diffusion 2.1's architecture in small: v-prediction, scaled_linear schedule, factor-8 KL
autoencoder with 4 channels, linear projections; {parameters} million parameters, stored in fp16.

Captions: "a bowl of apples on a wooden table", "two lemons on a plate on green grass on the left",
"a bowl of fruits on sand".

Data: {pictures} scenes drawn by `benchmarks/orchard/world.py`, seeds {seeds}; {held_out}
combinations of fruit, container and ground were held out. No photograph and no other data were
used{start}.

Training: `benchmarks/orchard/train.py`; training.json has the steps, batches and seconds of every
run.
{budget}

{results}
Licence: Apache-2.0.
"""


def export(a):
    """Write the model folder from the checkpoints of both stages."""
    checkpoint = a.unet or a.work / "unet.safetensors"
    progress, weights = stepping.read_weights(checkpoint)
    source = a.vae or a.work / "vae.safetensors"
    autoencoder, facts = start_weights(source, "vae", vae.specs(layout.VAE), 0), progress.facts
    if encoder_name(autoencoder) != facts["vae"]:
        raise InputError(
            f"{checkpoint} was trained on the latents of encoder {facts['vae']}, "
            f"{source} has {encoder_name(autoencoder)}: give that VAE, or one of which only the "
            "decoder was trained further."
        )
    scaling_factor, size = facts["scaling_factor"], max(facts["sizes"])
    found = layout.configs(scaling_factor, size)
    trees = {
        "text_encoder": P.tree_map(lambda path, _: weights[path], clip.specs(found.text)),
        "unet": P.tree_map(lambda path, _: weights[path], unet.specs(found.unet)),
        "vae": autoencoder,
    }
    training = {
        "vae": history(source, "vae"),
        "unet": runs(progress),
        "pictures": facts["pictures"],
    }
    text = card(trees, training, a.results, facts["sizes"])
    layout.write_model(a.out, scaling_factor, trees, training, text, size)


def card(trees, training, results, sizes):
    """The text of the model card."""

    def line(run):
        if run["steps"] is None:
            return f"from the weights of {run['weights']}"
        return f"{run['steps']} steps of {run['batch']} in {run['seconds'] / 3600:.2f} h"

    budget = "\n".join(
        f"- {stage}: " + "; ".join(map(line, training[stage])) for stage in ("vae", "unet")
    )
    earlier = [
        r["weights"] for stage in ("vae", "unet") for r in training[stage] if r["steps"] is None
    ]
    return CARD.format(
        size=" and ".join(f"{size}x{size}" for size in sorted(set(sizes))),
        fruits=", ".join(W.PLURALS[name] for name in W.FRUITS),
        grounds=", ".join(W.BACKGROUNDS),
        parameters=round(sum(map(P.count, trees.values())) / 1e6, 1),
        pictures=training["pictures"],
        budget=budget,
        seeds=f"0 to {training['pictures'] - 1}",
        held_out=len(W.HELD_OUT),
        start=(
            ", but what the weights that it started from had seen "
            f"({', '.join(sorted(set(earlier)))})"
            if earlier
            else ""
        ),
        results=Path(results).read_text(encoding="utf-8") if results else "Not evaluated yet.\n",
    )
