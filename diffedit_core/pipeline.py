"""The class facade: the public StableDiffusionDiffEditPipeline's interface over `model.Model` and
the "diffusers" recipe.

A program written for that pipeline runs after its import line is changed, with the same defaults
and, given the same random draws, the same results within float tolerance. What differs on purpose:

- Identical prompts give an empty mask and a warning; there, 0/0 gives a mask that is one
  everywhere.
- generate_mask works with guidance_scale <= 1, where the public one fails.
- invert needs no `inverse_scheduler`: without one it runs `scheduler` backwards.
- With num_images_per_prompt > 1 each picture keeps its own mask; there, masks and pictures of a
  batch get mixed up.
- A mask may be of any resolution; pictures of one batch must be of one size, and none is distorted
  to another's.
- An integer `generator` is a seed: each of the three calls draws from a stream of its own that only
  the seed determines.
- What would have no effect (`cross_attention_kwargs`, an unknown `output_type`) is an error.
"""

from collections import namedtuple
from types import SimpleNamespace

from . import pipeline_checks as checks
from . import pipeline_runs as runs
from .images import load_image, make_image_grid
from .pipeline_base import Loaded
from .results import gallery
from .schedulers import DDIMInverseScheduler, DDIMScheduler

__all__ = [
    "DDIMInverseScheduler",
    "DDIMScheduler",
    "StableDiffusionDiffEditPipeline",
    "load_image",
    "make_image_grid",
]

# latents [B,L,C,h,w], noisiest first; images of every one of them, or None
InversionOutput = namedtuple("InversionOutput", "latents images")


class EditOutput(namedtuple("EditOutput", "images nsfw_content_detected")):
    """Images as output_type says; None, as there is no safety checker."""

    __slots__ = ()

    def _repr_html_(self):
        """What a notebook shows: the pictures, if they are PIL's."""
        return gallery(self.images) if isinstance(self.images, list) else None


class StableDiffusionDiffEditPipeline(Loaded):
    """DiffEdit in the public pipeline's three calls: `generate_mask`, `invert`, and the pipeline
    itself.

    Args:
        model: `model.Model`; or load one with `from_pretrained`.
        scheduler, inverse_scheduler: by default the model's, and None.
        components: instead of a model, another pipeline's `components`.
    """

    def generate_mask(
        self,
        image=None,
        target_prompt=None,
        target_negative_prompt=None,
        target_prompt_embeds=None,
        target_negative_prompt_embeds=None,
        source_prompt=None,
        source_negative_prompt=None,
        source_prompt_embeds=None,
        source_negative_prompt_embeds=None,
        num_maps_per_mask=10,
        mask_encode_strength=0.5,
        mask_thresholding_ratio=3.0,
        num_inference_steps=50,
        guidance_scale=7.5,
        generator=None,
        output_type="np",
        cross_attention_kwargs=None,
        map_batch=1,
    ):
        """Where source and target prompt differ: the mask of what to edit.

        Args:
            image: PIL image, file name, or a list of these (sizes are cut to multiples of 8 by
                resampling), array [B,H,W,3] in [0,1], tensor [B,3,H,W] in [-1,1] or, if nothing in
                it is negative, in [0,1]; or latents [B,4,h,w].
            *_prompt: string or list of strings, or instead *_prompt_embeds [B,77,D]; one source
                serves all targets.
            num_maps_per_mask, mask_encode_strength, mask_thresholding_ratio: the map is averaged
                over so many draws of noise, of a strength in (0,1], and clamped at so many times
                its mean over the batch.
            guidance_scale: at most 1 for none.
            generator: None, a seed, a numpy Generator, anything with `initial_seed()`, or a list of
                these per picture. A numpy Generator continues from call to call; the order of its
                draws is posterior, noise.
            output_type: "np" or "pil".
            map_batch: draws of noise in one batch; changes memory and speed only.
        Returns:
            int64 [B,h,w] of 0 and 1 on the latent grid, or a list of B greyscale PIL images.
        """
        return runs.generate_mask(self, SimpleNamespace(**locals()))

    def invert(
        self,
        prompt=None,
        image=None,
        num_inference_steps=50,
        inpaint_strength=0.8,
        guidance_scale=7.5,
        negative_prompt=None,
        generator=None,
        prompt_embeds=None,
        negative_prompt_embeds=None,
        decode_latents=False,
        output_type="pil",
        return_dict=True,
        callback=None,
        callback_steps=1,
        cross_attention_kwargs=None,
        lambda_auto_corr=20.0,
        lambda_kl=20.0,
        num_reg_steps=0,
        num_auto_corr_rolls=5,
    ):
        """The picture's latents at int(num_inference_steps * inpaint_strength) levels of noise, by
        DDIM run backwards.

        Args:
            image, generator, guidance_scale: as in `generate_mask`; prompt_embeds [B,77,D] instead
                of a prompt.
            decode_latents: also decode every level; `output_type` "pil" or "np".
            callback: called as callback(step, timestep, latents) at every `callback_steps`-th step.
            num_reg_steps: gradient steps in each step that make the noise whiter
                (`regularise.regularise`); 0 is none.
            lambda_auto_corr, lambda_kl, num_auto_corr_rolls: the sizes of these steps, and how many
                rolls each averages.
        Returns:
            `InversionOutput`; a plain tuple without return_dict.
        """
        asked, named = SimpleNamespace(**locals()), checks.flag("return_dict", return_dict)
        scheduler = self.inverse_scheduler
        if scheduler is None:
            scheduler = DDIMInverseScheduler.from_config(self.scheduler.config)
        output = InversionOutput(*runs.invert(self, asked, scheduler))
        return output if named else tuple(output)

    def __call__(
        self,
        prompt=None,
        mask_image=None,
        image_latents=None,
        inpaint_strength=0.8,
        num_inference_steps=50,
        guidance_scale=7.5,
        negative_prompt=None,
        num_images_per_prompt=1,
        eta=0.0,
        generator=None,
        latents=None,
        prompt_embeds=None,
        negative_prompt_embeds=None,
        output_type="pil",
        return_dict=True,
        callback=None,
        callback_steps=1,
        cross_attention_kwargs=None,
        clip_skip=None,
    ):
        """Decode the inverted latents with another prompt; outside the mask they follow the
        inversion.

        Args:
            mask_image: PIL image, file name, array or tensor [h,w], [B,h,w] or [B,1,h,w] in [0,1],
                or a list; at any resolution; 1 is edited, and so is everything from 0.5 up. One
                mask serves all pictures.
            image_latents: `invert`'s [B,L,C,h,w] with the same num_inference_steps and
                inpaint_strength; also [B*L,C,h,w].
            num_images_per_prompt: results for each picture, which differ only if eta > 0.
            eta, generator: share of fresh noise in each step, from 0 (DDIM) to 1 (DDPM), and its
                source.
            latents: has no effect, as in the public pipeline; the edit starts from the inversion.
            output_type: "pil", "np" ([B,H,W,3] in [0,1]) or "latent" (tensor).
            clip_skip: how many of the text encoder's last layers to leave out for the prompt.
            prompt, negative_prompt, *_embeds, guidance_scale, callback, callback_steps: as in
                `invert`.
        Returns:
            `EditOutput`; a plain tuple without return_dict.
        """
        asked, named = SimpleNamespace(**locals()), checks.flag("return_dict", return_dict)
        output = EditOutput(runs.edit(self, asked), None)
        return output if named else tuple(output)
