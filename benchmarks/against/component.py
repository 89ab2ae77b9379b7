"""PyTorch's side of `benchmarks/unet.py` and `vae.py`, run by an interpreter that has torch and
diffusers: no part of the package.

    python component.py MODEL COMPONENT FOLDER

COMPONENT is unet, decode or encode. For each line on stdin it evaluates the component on
FOLDER/inputs.npz, writes FOLDER/output.npy and prints "done".
"""

import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel


def loaded(kind, model, subfolder):
    """In fp32, to be evaluated only."""
    found = kind.from_pretrained(model, subfolder=subfolder, torch_dtype=torch.float32)
    return found.eval()


def of_unet(model):
    """(latents, timestep, states) -> what the UNet predicts."""
    unet = loaded(UNet2DConditionModel, model, "unet")
    return lambda latents, timestep, states: unet(latents, timestep, states).sample


def of_decoder(model):
    """(scaled latents) -> picture."""
    vae = loaded(AutoencoderKL, model, "vae")
    return lambda latents: vae.decode(latents / vae.config.scaling_factor).sample


def of_encoder(model):
    """(picture) -> mean of its unscaled latents."""
    vae = loaded(AutoencoderKL, model, "vae")
    return lambda picture: vae.encode(picture).latent_dist.mean


COMPONENTS = {"unet": of_unet, "decode": of_decoder, "encode": of_encoder}


def main(model, component, folder):
    """Answer until stdin ends."""
    evaluate, folder = COMPONENTS[component](model), Path(folder)
    inputs = {name: torch.from_numpy(a) for name, a in np.load(folder / "inputs.npz").items()}
    with torch.no_grad():
        for _ in sys.stdin:
            np.save(folder / "output.npy", evaluate(**inputs).numpy())
            print("done", flush=True)


main(*sys.argv[1:])
