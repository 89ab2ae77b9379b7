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

import contextlib
import dataclasses
import sys
import warnings
from collections import namedtuple

import mindspore as ms
import numpy as np
from PIL import Image
from tqdm import tqdm

from . import diffedit as D
from . import kernels as K
from . import params as P
from . import pipeline_inputs as inputs
from . import schedule as S
from .config import SchedulerConfig
from .errors import InputError
from .images import load_image, make_image_grid, to_pil
from .model import Model
from .vae import Tiling

__all__ = [
    "DDIMInverseScheduler",
    "DDIMScheduler",
    "StableDiffusionDiffEditPipeline",
    "load_image",
    "make_image_grid",
]

DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}

# latents [B,L,C,h,w], noisiest first; images of every one of them, or None
InversionOutput = namedtuple("InversionOutput", "latents images")
# images as output_type says; None, as there is no safety checker
EditOutput = namedtuple("EditOutput", "images nsfw_content_detected")


class FrozenConfig(dict):
    """A scheduler's settings: config["prediction_type"], config.prediction_type, dict(config); not
    to be changed."""

    def __getattr__(self, key):
        if key in self:
            return self[key]
        raise AttributeError(f"A scheduler has no setting {key!r}: {', '.join(self)}.")

    def _refuse(self, key, *_):
        raise TypeError(
            f"A scheduler's {key!r} cannot be changed: make another with from_config(config, {key}=...)."
        )

    __setattr__ = __setitem__ = _refuse


class DDIMScheduler:
    """The noise schedule and the step grid that the pipeline runs on; `config` are its settings."""

    direction = -1

    def __init__(self, **settings):
        self.settings = SchedulerConfig.read(settings, type(self).__name__)
        self.config = FrozenConfig(dataclasses.asdict(self.settings) | {"clip_sample": False})
        self.num_inference_steps = self.timesteps = None

    @classmethod
    def from_config(cls, config, **changes):
        """A scheduler with another's `config` (any mapping), some settings changed. Raises
        InputError for unknown ones."""
        return cls(**{**config, **changes})

    def set_timesteps(self, num_inference_steps):
        """`timesteps` becomes the grid of that many steps, int64 [N], in the order in which they
        are taken."""
        self.timesteps = S.grid(self.settings, num_inference_steps)[:: self.direction].copy()
        self.num_inference_steps = num_inference_steps

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.config.items())})"


class DDIMInverseScheduler(DDIMScheduler):
    """The same levels, from the clean picture up."""

    direction = 1


class StableDiffusionDiffEditPipeline:
    """DiffEdit in the public pipeline's three calls: `generate_mask`, `invert`, and the pipeline
    itself.

    Args: model: `model.Model`; or load one with `from_pretrained`.
    """

    def __init__(self, model):
        self.model, self.tokenizer = model, model.tokenizer
        self.vae_scale_factor = model.configs.vae.factor
        self.scheduler, self.inverse_scheduler = (
            DDIMScheduler(**dataclasses.asdict(model.configs.scheduler)),
            None,
        )
        self._tiling = self._run = self._resident = None
        self._bar_config = {"disable": None}  # no bar where stderr is not a terminal

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *,
        mindspore_dtype=None,
        torch_dtype=None,
        safety_checker=None,
        requires_safety_checker=False,
        feature_extractor=None,
        use_safetensors=None,
        variant=None,
        kernels=None,
    ):
        """Load a folder in the public layout, or a repository of the hub.

        Args:
            mindspore_dtype: float32 (by default), float16 or bfloat16, as a dtype or its name;
                torch_dtype is the same.
            safety_checker, feature_extractor: None; there is no safety checker, required or not.
            use_safetensors: not False; no other files are read.
            variant: "fp16" prefers the files with half precision for any dtype; None does so for
                float16 only.
            kernels: a name of `kernels.LOWERINGS`.
        Raises:
            InputError: no such model, or one that cannot be honoured.
        """
        if safety_checker is not None or feature_extractor is not None:
            raise InputError(
                "There is no safety checker to give to this pipeline: pass safety_checker=None."
            )
        inputs.check(
            "use_safetensors",
            use_safetensors,
            use_safetensors is not False,
            "True or None, as only safetensors are loaded",
        )
        inputs.check("variant", variant, variant in (None, "fp16"), "None or 'fp16'")
        names = [
            str(d).lower().rsplit(".", 1)[-1]
            for d in (mindspore_dtype, torch_dtype)
            if d is not None
        ] or ["float32"]
        inputs.check(
            "torch_dtype",
            torch_dtype,
            len(set(names)) == 1,
            f"left out, or the same as mindspore_dtype {mindspore_dtype}",
        )
        return cls(
            Model.load(
                pretrained_model_name_or_path,
                DTYPES.get(names[0], names[0]),
                kernels,
                variant=variant,
            )
        )

    def __setattr__(self, name, value):
        """`scheduler` has the levels of the mask and the edit; `inverse_scheduler` those of invert,
        None for the same ones."""
        wanted = {
            "scheduler": DDIMScheduler,
            "inverse_scheduler": (DDIMInverseScheduler, type(None)),
        }.get(name, object)
        if not isinstance(value, wanted):
            raise TypeError(
                f"{name} cannot be a {type(value).__name__}: give a DDIM{'Inverse' * (name[0] == 'i')}Scheduler."
            )
        super().__setattr__(name, value)

    def enable_model_cpu_offload(self):
        """Keep on the device only the weights of the component that runs; on a CPU, where nothing
        can move, say so."""
        if K.device() == "CPU":
            warnings.warn(
                "enable_model_cpu_offload has no effect: the model is already on the CPU.",
                stacklevel=2,
            )
        elif self._run is None:
            self._run = self.model._run
            for weights in self._weights():
                self._move("_offload", weights)
            self.model._run = self._run_alone

    def disable_model_cpu_offload(self):
        """Bring all weights back to the device."""
        if self._run is not None:
            self.model._run, self._run = self._run, None
            for weights in self._weights():
                if weights is not self._resident:
                    self._move("_load", weights)
            self._resident = None

    def _weights(self):
        return {id(g.params): g.params for g in self.model.graphs.values()}.values()

    def _run_alone(self, name, *tensors):
        wanted = self.model.graphs[name].params
        if wanted is not self._resident:
            self._move("_offload", self._resident)
            self._move("_load", wanted)
            self._resident = wanted
        return self._run(name, *tensors)

    def enable_vae_slicing(self):
        """Nothing changes: pictures always pass the VAE one at a time, which is what this asks
        for."""

    disable_vae_slicing = enable_vae_slicing

    def enable_vae_tiling(self, tile=Tiling().tile, overlap=Tiling().overlap):
        """Encode and decode pictures larger than `tile` in overlapping tiles (both in latent
        cells): less memory."""
        self._tiling = Tiling(tile, overlap)

    def disable_vae_tiling(self):
        """Encode and decode pictures whole."""
        self._tiling = None

    def progress_bar(self, iterable=None, total=None, **settings):
        """A tqdm bar with the settings of `set_progress_bar_config`."""
        return tqdm(iterable, total=total, **(settings | self._bar_config))

    def set_progress_bar_config(self, **settings):
        """Settings of tqdm for the bars to come, such as disable=True. By default a bar shows only
        on a terminal."""
        self._bar_config |= settings

    def encode_prompt(self, prompt, average=False, clip_skip=None):
        """Text states to give as prompt_embeds: [B,77,D], or with `average` their mean [1,77,D]
        over the prompts.

        The mean over many captions of one subject makes a steadier source or target than any one of
        them.
        """
        states = self.model.encode_prompts(
            [prompt] if isinstance(prompt, str) else prompt, clip_skip or 0
        )
        return states.mean(0, keep_dims=True) if average else states

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
            image: PIL image or a list of them (sizes are cut to multiples of 8 by resampling),
                array [B,H,W,3] in [0,1], tensor [B,3,H,W] in [-1,1] or, if nothing in it is
                negative, in [0,1]; or latents [B,4,h,w].
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
        target = inputs.check_prompts(
            "target_",
            target_prompt,
            target_negative_prompt,
            target_prompt_embeds,
            target_negative_prompt_embeds,
        )
        source = inputs.check_prompts(
            "source_",
            source_prompt,
            source_negative_prompt,
            source_prompt_embeds,
            source_negative_prompt_embeds,
        )
        inputs.check_numbers(
            num_maps_per_mask=num_maps_per_mask,
            map_batch=map_batch,
            num_inference_steps=num_inference_steps,
        )
        inputs.check_strength("mask_encode_strength", mask_encode_strength, num_inference_steps)
        inputs.check(
            "mask_thresholding_ratio",
            mask_thresholding_ratio,
            inputs.within(mask_thresholding_ratio, 0, sys.float_info.max)
            and mask_thresholding_ratio > 0,
            "a positive number",
        )
        inputs.check_output(output_type, ("np", "pil"), cross_attention_kwargs)
        options = dataclasses.replace(
            D.RECIPES["diffusers"],
            num_inference_steps=num_inference_steps,
            encode_ratio=1.0,
            map_batch=map_batch,
            num_maps=num_maps_per_mask,
            mask_noise_strength=mask_encode_strength,
            mask_clamp_ratio=mask_thresholding_ratio,
            guidance_scale=inputs.guidance(guidance_scale),
        )
        self.scheduler.set_timesteps(num_inference_steps)
        pixels, draw, guided = (
            self._pixels(image),
            inputs.draws(generator, inputs.MASK),
            options.guidance_scale > 1,
        )

        with self._working("mask", num_maps_per_mask) as bar:
            target = self._states(target, guided)
            batch = target[0].shape[0]
            source = [
                inputs.spread(s, batch, "source_prompt") for s in self._states(source, guided)
            ]
            target = [inputs.spread(s, batch, "target_negative_prompt") for s in target]
            latents = self._latents(pixels, batch, num_maps_per_mask, draw)
            noise = draw(latents.shape[:2], latents.shape[2:])
            if all(
                np.array_equal(inputs.to_numpy(s), inputs.to_numpy(t))
                for s, t in zip(source, target)
            ):
                warnings.warn(
                    "Source and target prompt are the same: the mask is empty.", stacklevel=2
                )
                mask = np.zeros((batch, *latents.shape[3:]), np.int64)
            else:
                found = D.find_masks(
                    self.model.predict,
                    self.scheduler.settings,
                    latents,
                    ms.Tensor(noise),
                    options,
                    source,
                    [target],
                    lambda done, *_: bar.update(done - bar.n),
                )
                mask = found[0][1].asnumpy().astype(np.int64)
        return [Image.fromarray(np.uint8(255 * m)) for m in mask] if output_type == "pil" else mask

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
        prompts = inputs.check_prompts(
            "", prompt, negative_prompt, prompt_embeds, negative_prompt_embeds
        )
        options = dataclasses.replace(
            inputs.edit_options(num_inference_steps, inpaint_strength, callback_steps),
            num_reg_steps=num_reg_steps,
            lambda_auto_corr=lambda_auto_corr,
            lambda_kl=lambda_kl,
            num_auto_corr_rolls=num_auto_corr_rolls,
        )
        inputs.check_output(output_type, ("pil", "np"), cross_attention_kwargs)
        scheduler = self.inverse_scheduler or DDIMInverseScheduler.from_config(
            self.scheduler.config
        )
        levels, scale = S.levels(scheduler.settings, num_inference_steps), inputs.guidance(
            guidance_scale
        )
        scheduler.set_timesteps(num_inference_steps)
        pixels, draw = self._pixels(image), inputs.draws(generator, inputs.INVERSION)

        with self._working("inversion", options.num_encode_steps) as bar:
            states = self._states(prompts, scale > 1)
            batch = states[0].shape[0]
            latents = self._latents(pixels, batch, 1, draw)[:, 0]
            rolls = inputs.rolls(generator, options, latents.shape) if num_reg_steps else None
            trail = D.invert(
                self.model.predict,
                latents,
                levels,
                options.num_encode_steps,
                *(inputs.spread(s, batch, "negative_prompt") for s in states),
                guidance_scale=scale,
                prediction_type=scheduler.settings.prediction_type,
                inversion_timestep=options.inversion_timestep,
                on_step=_on_step(bar, callback, callback_steps),
                change=D.regulariser(options, levels, scheduler.settings.prediction_type, rolls),
            )
            latents = ms.Tensor(
                np.ascontiguousarray(trail.asnumpy()[:0:-1].swapaxes(0, 1))
            )  # [B,L,C,h,w]
            pictures = (
                self._decode(latents.reshape(-1, *latents.shape[2:]), output_type)
                if decode_latents
                else None
            )
        output = InversionOutput(latents, pictures)
        return output if return_dict else tuple(output)

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
            mask_image: PIL image, array or tensor [h,w], [B,h,w] or [B,1,h,w] in [0,1], or a list;
                at any resolution; 1 is edited, and so is everything from 0.5 up. One mask serves
                all pictures.
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
        prompts = inputs.check_prompts(
            "", prompt, negative_prompt, prompt_embeds, negative_prompt_embeds
        )
        options = inputs.edit_options(num_inference_steps, inpaint_strength, callback_steps)
        inputs.check_numbers(num_images_per_prompt=num_images_per_prompt)
        inputs.check_output(output_type, ("pil", "np", "latent"), cross_attention_kwargs)
        inputs.check("eta", eta, inputs.within(eta, 0, 1), "a number from 0 to 1")
        inputs.check(
            "mask_image",
            mask_image,
            mask_image is not None,
            "what generate_mask returns, or another mask",
        )
        inputs.check(
            "image_latents",
            image_latents,
            image_latents is not None,
            "what invert returns as latents",
        )
        if latents is not None:
            warnings.warn(
                "latents has no effect: the edit starts from image_latents.", stacklevel=2
            )
        levels, scale = S.levels(self.scheduler.settings, num_inference_steps), inputs.guidance(
            guidance_scale
        )
        self.scheduler.set_timesteps(num_inference_steps)
        steps, count, draw = (
            options.num_encode_steps,
            num_images_per_prompt,
            inputs.draws(generator, inputs.DECODING),
        )

        with self._working("decoding", steps) as bar:
            states = self._states(prompts, scale > 1, clip_skip or 0)
            batch = states[0].shape[0]
            trail = inputs.trail_levels(
                image_latents, batch, steps, self.model.configs.latent_channels
            )
            mask = inputs.mask_cells(mask_image, batch, trail.shape[3:], self.vae_scale_factor)
            trail = np.concatenate(
                (trail[:1], trail)
            )  # level 0, which this recipe does not look at
            noise = (
                [draw((batch, count), trail.shape[2:]) for _ in range(steps)] if eta > 0 else None
            )
            edited = D.decode(
                self.model.predict,
                *(ms.Tensor(x.repeat(count, axis)) for x, axis in ((trail, 1), (mask, 0))),
                levels,
                *(
                    s if s is None else D.repeat(inputs.spread(s, batch, "negative_prompt"), count)
                    for s in states
                ),
                guidance_scale=scale,
                prediction_type=self.scheduler.settings.prediction_type,
                blend_level=options.blend_level,
                eta=eta,
                noise=(
                    None
                    if noise is None
                    else ms.Tensor(np.stack(noise).reshape(steps, -1, *trail.shape[2:]))
                ),
                on_step=_on_step(bar, callback, callback_steps),
            )
            output = EditOutput(
                edited if output_type == "latent" else self._decode(edited, output_type), None
            )
        return output if return_dict else tuple(output)

    @contextlib.contextmanager
    def _working(self, phase, total):
        """A progress bar that also says when a graph compiles."""
        before = self.model.on_compile
        with self.progress_bar(total=total, desc=phase) as bar:
            self.model.on_compile = bar.set_postfix_str
            try:
                yield bar
            finally:
                self.model.on_compile = before

    def _states(self, prompts, guided, skip=0):
        """(states, negative states or None) [B,77,D] of what `_check_prompts` gave; the empty
        negative where there is none."""
        prompt, negative, embeds, negative_embeds = prompts

        def states(text, given, skip):
            if given is None:
                return self.encode_prompt(text or "", clip_skip=skip)
            width = self.model.configs.text.hidden_size
            inputs.check(
                "prompt_embeds' shape",
                given.shape,
                len(given.shape) == 3 and given.shape[2] == width,
                f"[B,77,{width}]",
            )
            return ms.Tensor(inputs.to_numpy(given).astype(np.float32))

        return states(prompt, embeds, skip), (
            states(negative, negative_embeds, 0) if guided else None
        )

    def _pixels(self, image):
        return inputs.pixels(image, self.vae_scale_factor, self.model.configs.latent_channels)

    def _latents(self, pixels, batch, copies, draw):
        """Clean latents [B,copies,C,h,w], each drawn anew from its picture's posterior; one picture
        serves all prompts."""
        if batch % len(pixels):
            raise InputError(
                f"There are {len(pixels)} pictures for {batch} prompts: give as many of each, or one picture."
            )
        if pixels.shape[1] != 3:
            latents = D.repeat(ms.Tensor(pixels), copies)
        else:
            moments = self.model.encode_image(pixels, self._tiling)
            noise = draw((len(pixels), copies), moments[0].shape[1:])
            latents = self.model.latents(
                [D.repeat(m, copies) for m in moments], noise.reshape(-1, *noise.shape[2:])
            )
        return ms.ops.concat([latents] * (batch // len(pixels))).reshape(
            batch, copies, *latents.shape[1:]
        )

    def _decode(self, latents, output_type):
        pixels = self.model.decode_latents(latents, self._tiling)
        return (
            to_pil(pixels)
            if output_type == "pil"
            else np.clip(pixels / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)
        )

    def _move(self, method, weights):
        """Parameter._offload releases a weight's device memory and keeps a host copy, _load undoes
        it.

        Written from MindSpore 2.8's documentation, which has both for Ascend only; not tested on
        one.
        """
        for leaf in P.flatten(weights or {}).values():
            getattr(leaf, method)()


def _on_step(bar, callback, every):
    def on_step(done, timestep, latents):
        bar.update()
        if callback is not None and (done - 1) % every == 0:
            callback(done - 1, timestep, latents)

    return on_step
