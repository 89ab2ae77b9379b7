"""Three defects of the public DiffEdit pipeline, each shown by the shortest program that does.

    pip install diffusers transformers torch
    python -m benchmarks.ablations.defects [neighbour] [identical] [late]

Neither weights nor downloads are needed: the pipeline is the package's own, unchanged, around a
random UNet and VAE of a few kilobytes; sentences are given as embeddings. Each defect is printed
with its number as "reproduced with diffusers X", or as "not reproduced".
"""

import argparse
import importlib
import sys
import warnings
from typing import Callable, NamedTuple

import numpy as np

SIZE, MAPS, WIDTH = 64, 4, 12  # pixels on a side, noise maps, width of an embedding


def pipeline(diffusers, torch, **changes):
    """`StableDiffusionDiffEditPipeline` of random weights, with SD 2.1's schedule."""
    torch.manual_seed(0)
    levels = dict(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)
    unet = diffusers.UNet2DConditionModel(
        sample_size=SIZE // 2,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **levels,
    )
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        **levels,
    )
    settings = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    settings |= dict(clip_sample=False, set_alpha_to_one=False, steps_offset=1, **changes)
    pipe = diffusers.StableDiffusionDiffEditPipeline(
        vae=vae.eval(),
        unet=unet.eval(),
        text_encoder=None,
        tokenizer=None,
        scheduler=diffusers.DDIMScheduler(**settings),
        inverse_scheduler=diffusers.DDIMInverseScheduler(**settings),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sentence(torch, seed, scale=1.0):
    """An embedding [1,77,WIDTH]."""
    values = np.random.default_rng(seed).standard_normal((1, 77, WIDTH)) * scale
    return torch.from_numpy(values.astype(np.float32))


def pictures(torch, count):
    """Pictures [B,3,SIZE,SIZE] in [0,1], smooth and different."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    waves = [[np.sin(6 * (x * (i + 1) + y * c)) for c in range(3)] for i in range(count)]
    return torch.from_numpy((np.array(waves) / 2 + 0.5).astype(np.float32))


def mask(torch, pipe, image, sources, targets):
    """`generate_mask` with noise that is each picture's own, whatever the batch: [B,h,w]."""
    generators = [torch.Generator().manual_seed(m) for _ in range(len(image)) for m in range(MAPS)]
    plain = torch.zeros(len(image), 77, WIDTH)
    return pipe.generate_mask(
        image=image,
        source_prompt_embeds=torch.cat(sources),
        target_prompt_embeds=torch.cat(targets),
        source_negative_prompt_embeds=plain,
        target_negative_prompt_embeds=plain,
        num_maps_per_mask=MAPS,
        generator=generators,
    )


def neighbour(diffusers, torch):
    """The mask of a picture depends on the other pictures of the batch: the clamp is three times
    the mean over all of them."""
    pipe, image = pipeline(diffusers, torch), pictures(torch, 2)
    texts = sentence(torch, 1), sentence(torch, 2), sentence(torch, 3, 40.0)
    alone = mask(torch, pipe, image[:1], texts[:1], texts[1:2])[0]
    calm = mask(torch, pipe, image, [texts[0]] * 2, [texts[1]] * 2)[0]
    loud = mask(torch, pipe, image, [texts[0]] * 2, [texts[1], texts[2]])[0]
    text = f"the first mask has {alone.sum()} of {alone.size} cells alone, {calm.sum()} beside a "
    text += f"like edit, {loud.sum()} beside one that changes more"
    return (alone != loud).any(), text


def identical(diffusers, torch):
    """Identical prompts, which ask for no change, give a mask of everything: 0/0 is no number, and
    what is not at most 0.5 is in the mask."""
    pipe, same = pipeline(diffusers, torch), [sentence(torch, 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = mask(torch, pipe, pictures(torch, 1), same, same)[0]
    return found.mean() > 0.5, f"{found.mean():.0%} of the cells are in the mask"


def after_each_step(diffusers, torch, steps, strength, **changes):
    """Outside the mask, which of the inverted latents stands after each step of the edit: (indices,
    timesteps, pipeline). Inverted latents are marked with their index."""
    pipe, seen = pipeline(diffusers, torch, **changes), []
    count, side = int(steps * strength), 8
    marks = torch.arange(count, dtype=torch.float32).reshape(1, count, 1, 1, 1)
    pipe(
        mask_image=torch.zeros(1, 1, side, side),
        image_latents=marks.expand(1, count, 4, side, side),
        prompt_embeds=sentence(torch, 1),
        negative_prompt_embeds=sentence(torch, 2),
        num_inference_steps=steps,
        inpaint_strength=strength,
        output_type="latent",
        callback=lambda step, timestep, latents: seen.append(round(float(latents.mean()))),
    )
    return seen, pipe.scheduler.timesteps[-count:].tolist(), pipe


def late(diffusers, torch):
    """The background is one level late: after the step from a timestep to the next it is the
    inverted latent of the timestep that was left, which has more noise than the edit beside it."""
    text, found = [], []
    for spacing, steps in (("leading", 50), ("leading", 20), ("trailing", 50), ("trailing", 20)):
        seen, timesteps, pipe = after_each_step(
            diffusers, torch, steps, 1.0, timestep_spacing=spacing
        )
        found.append(seen == list(range(steps)))  # one level on, it would be 1, 2, ...
        sigma = (1 - pipe.scheduler.alphas_cumprod.double()).sqrt().tolist()
        clean = sigma[0]
        stands = [sigma[timesteps[index]] for index in seen]
        belongs = [*(sigma[t] for t in timesteps[1:]), clean]
        most = max(a - b for a, b in zip(stands, belongs))
        rest = stands[-1] - belongs[-1]
        text.append(f"{spacing} N = {steps} by up to {most:.3f}, in the end by {rest:.3f}")
    return all(found), "sigma too high: " + "; ".join(text)


class Defect(NamedTuple):
    """A program that returns (whether it is there, its numbers)."""

    program: Callable

    @property
    def statement(self):
        return " ".join(self.program.__doc__.split())


DEFECTS = {f.__name__: Defect(f) for f in (neighbour, identical, late)}


def main(argv=None):
    """Print each defect; 1 where one is not reproduced, 2 where the packages are missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(DEFECTS))
    names = parser.parse_args(argv).names or list(DEFECTS)
    for name in names:
        if name not in DEFECTS:
            parser.error(f"there is no {name!r}: choose of {', '.join(DEFECTS)}")
    try:
        for name in ("transformers", "torch", "diffusers"):
            importlib.import_module(name)
    except ImportError as error:
        print(f'defects: {error}: pip install ".[compare]".', file=sys.stderr)
        return 2
    diffusers, torch = sys.modules["diffusers"], sys.modules["torch"]
    diffusers.utils.logging.set_verbosity_error()
    missing = 0
    for name in names:
        there, text = DEFECTS[name].program(diffusers, torch)
        missing += not there
        verdict = "reproduced with" if there else "not reproduced with"
        print(f"{name}: {DEFECTS[name].statement}")
        print(f"    {verdict} diffusers {diffusers.__version__}: {text}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
