"""The other side: the process that edits with the public pipeline, by an interpreter that has
torch, diffusers and transformers. No part of the package.

    python -I public.py FOLDER

FOLDER is of `job.write`, whose options of recipe "diffusers" are the three calls' arguments. The
pipeline is as it is published, but for where its random numbers come from: `randn_tensor` hands out
the given ones in the order in which they are asked for.
"""

import importlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image

import diffusers
from diffusers import DDIMInverseScheduler, DDIMScheduler, StableDiffusionDiffEditPipeline

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def beside(name):
    """The module of a file beside this one, without its folder among the places of modules."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


child = beside("child")


class Draws:
    """In place of `randn_tensor`."""

    def __init__(self, arrays):
        self.left = list(arrays)

    def __call__(self, shape, generator=None, device=None, dtype=None, layout=None):
        array = self.left.pop(0)
        if tuple(shape) != array.shape:
            raise ValueError(f"the pipeline draws {tuple(shape)}, {array.shape} is given")
        return torch.from_numpy(array).to(device=device, dtype=dtype)

    def give(self):
        """Let every module of the pipeline that draws draw from here."""
        pipeline = StableDiffusionDiffEditPipeline.__module__
        for name in (pipeline, "diffusers.models.autoencoders.vae"):
            importlib.import_module(name).randn_tensor = self


def loaded(given):
    """The pipeline, with both schedulers."""
    pipe = StableDiffusionDiffEditPipeline.from_pretrained(
        given["model"],
        torch_dtype=DTYPES[given["dtype"]],
        safety_checker=None,
        requires_safety_checker=False,
        local_files_only=True,
    )
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.inverse_scheduler = DDIMInverseScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def editor(pipe, image, given, drawn):
    """A function of a `child.Clock` that edits, and gives the arrays of `ours.editor`."""
    options = given["options"]["diffusers"]
    shared = {"num_inference_steps": options["num_inference_steps"]}
    depth = {**shared, "inpaint_strength": options["encode_ratio"]}
    source, target = given["source"], given["targets"][0]
    text, unet = pipe.encode_prompt, pipe.unet.forward
    encode, decode = pipe.vae.encode, pipe.vae.decode

    def run(clock):
        def counted(sample, *args, **kwargs):
            clock.count(sample.shape[0])
            return unet(sample, *args, **kwargs)

        pipe.encode_prompt, pipe.unet.forward = clock.timed("text", text), counted
        pipe.vae.encode = clock.timed("encode", encode)
        pipe.vae.decode = clock.timed("VAE decode", decode)
        noise = Draws([drawn["posterior_mask"][0], drawn["maps"][0], drawn["posterior"]])
        noise.give()
        with clock.phase("maps"):
            mask = pipe.generate_mask(
                image=image,
                source_prompt=source,
                target_prompt=target,
                num_maps_per_mask=options["num_maps"],
                mask_encode_strength=options["mask_noise_strength"],
                mask_thresholding_ratio=options["mask_clamp_ratio"],
                guidance_scale=options["guidance_scale"],
                **shared,
            )
        with clock.phase("inversion"):
            scale = options["inversion_guidance_scale"]
            up = pipe.invert(prompt=source, image=image, guidance_scale=scale, **depth).latents
        last = []
        with clock.phase("decoding"):
            picture = pipe(
                prompt=target,
                mask_image=mask,
                image_latents=up,
                guidance_scale=options["guidance_scale"],
                output_type="np",
                callback=lambda i, t, latents: last.append(latents),
                **depth,
            ).images[0]
        if noise.left:
            raise ValueError(f"the pipeline left {len(noise.left)} of the random draws")
        return {
            "mask": np.asarray(mask[0], np.float32),
            "inverted": up[0].flip(0).float().numpy(),
            "decoded": last[-1][0].float().numpy(),
            "picture": picture,
        }

    return run


def main(words):
    """Run the process."""
    say = child.speaker()
    folder = Path(words[0])
    given = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    image = Image.open(folder / "picture.png").convert("RGB")
    with np.load(folder / "draws.npz") as arrays:
        drawn = dict(arrays)
    versions = {each.__name__: each.__version__ for each in (torch, diffusers, transformers)}
    child.serve(
        say,
        {**versions, "torch threads": torch.get_num_threads()},
        lambda: editor(loaded(given), image, given, drawn),
        lambda number, arrays: np.savez(folder / f"public-{number}.npz", **arrays),
        edits=given["edits"],
    )


if __name__ == "__main__":
    child.guarded(main)
