"""The other side of `benchmarks/unet.py`, run by an interpreter that has torch and diffusers: no
part of the package.

    python unet_pytorch.py MODEL FOLDER TIMESTEP

For each line on stdin it evaluates the UNet on FOLDER/inputs.npz, writes FOLDER/output.npy and
prints "done".
"""

import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel

model, folder, timestep = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
unet = UNet2DConditionModel.from_pretrained(
    model, subfolder="unet", torch_dtype=torch.float32
).eval()
arrays = np.load(folder / "inputs.npz")
latents, states = torch.from_numpy(arrays["latents"]), torch.from_numpy(arrays["states"])
with torch.no_grad():
    for _ in sys.stdin:
        np.save(folder / "output.npy", unet(latents, timestep, states).sample.numpy())
        print("done", flush=True)
