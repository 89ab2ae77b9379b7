"""The work of the pipeline's three calls, and the facade's only calls into the core.

Each function takes the pipeline and its call's arguments by name. Everything is checked before
anything is compiled or computed.
"""

import contextlib
import dataclasses

import mindspore as ms
import numpy as np
from PIL import Image

from . import edit as stages
from . import pipeline_checks as checks
from . import pipeline_inputs as inputs
from . import walk
from .errors import InputError
from .images import to_pil
from .integrators import State
from .options import RECIPES
from .parts import Parts, Run
from .pipeline_draws import DECODING, INVERSION, MASK, draws, rolls


def generate_mask(pipe, asked):
    """int64 [B,h,w] of 0 and 1, or a list of B greyscale pictures."""
    target, source = _prompt(pipe, asked, "target_"), _prompt(pipe, asked, "source_")
    options = _mask_options(asked, len(pipe.scheduler))
    checks.output(asked.output_type, ("np", "pil"), asked.cross_attention_kwargs)
    guided, batch, maps = options.guidance_scale > 1, target.count, options.num_maps
    checks.spread("source_prompt", source.count, batch)
    checks.same_lengths(source, target, guided=guided)
    pixels = _pixels(pipe, asked.image, batch)
    draw = draws(asked.generator, MASK, (len(pixels), maps), (batch, maps))
    pipe.scheduler.set_timesteps(options.num_inference_steps)

    with _working(pipe, "mask", maps) as bar:
        source, target = [_states(pipe, p, guided, batch) for p in (source, target)]
        latents = _latents(pipe, pixels, batch, maps, draw)
        noise = draw(latents.shape[:2], latents.shape[2:])
        if all(np.array_equal(*map(_host, pair)) for pair in zip(source, target)):
            checks.warn("Source and target prompt are the same: the mask is empty.")
            mask = np.zeros((batch, *latents.shape[3:]), np.int64)
        else:
            run = _run(pipe, pipe.scheduler, options, _advancing(bar, options.map_batch))
            noise_map = stages.maps(run, latents, ms.Tensor(noise), source, [target])[0]
            mask = run.parts.to_mask(noise_map).asnumpy().astype(np.int64)

    if asked.output_type == "pil":
        return [Image.fromarray(np.uint8(255 * m)) for m in mask]
    return mask


def _mask_options(asked, most):
    strength, steps = checks.steps_and_share(
        "mask_encode_strength", asked.mask_encode_strength, asked.num_inference_steps, most
    )
    ratio = checks.number("mask_thresholding_ratio", asked.mask_thresholding_ratio)
    checks.check("mask_thresholding_ratio", ratio, ratio > 0, "a positive number")
    return dataclasses.replace(
        RECIPES["diffusers"],
        num_inference_steps=steps,
        encode_ratio=1.0,
        map_batch=checks.whole("map_batch", asked.map_batch),
        num_maps=checks.whole("num_maps_per_mask", asked.num_maps_per_mask),
        mask_noise_strength=strength,
        mask_clamp_ratio=ratio,
        guidance_scale=checks.guidance(asked.guidance_scale),
    )


def invert(pipe, asked, scheduler):
    """(latents [B,L,C,h,w], noisiest first; pictures of every one of them or None)."""
    prompt = _prompt(pipe, asked, "")
    options = _inversion_options(asked, len(scheduler))
    checks.output(asked.output_type, ("pil", "np"), asked.cross_attention_kwargs)
    scale = options.inversion_guidance_scale
    decoded = checks.flag("decode_latents", asked.decode_latents)
    every = checks.callback(asked.callback, asked.callback_steps)
    checks.same_lengths(prompt, guided=scale > 1)
    pixels = _pixels(pipe, asked.image, prompt.count)
    draw = draws(asked.generator, INVERSION, (len(pixels), 1))
    scheduler.set_timesteps(options.num_inference_steps)

    with _working(pipe, "inversion", options.num_encode_steps) as bar:
        states = _states(pipe, prompt, scale > 1)
        latents = _latents(pipe, pixels, prompt.count, 1, draw)[:, 0]
        rolled = rolls(asked.generator, options, latents.shape) if options.num_reg_steps else None
        run = _run(pipe, scheduler, options)
        trail = []
        for state in stages.trail(run, latents, *states, rolls=rolled):
            if trail:
                _tell(bar, asked, every, len(trail), run.levels.timesteps[len(trail)], state)
            trail.append(state.latents.asnumpy())
        inverted = np.ascontiguousarray(np.stack(trail[:0:-1]).swapaxes(0, 1))
        latents = ms.Tensor(inverted)
        rows = latents.reshape(-1, *latents.shape[2:])
        return latents, _decode(pipe, rows, asked.output_type) if decoded else None


def _inversion_options(asked, most):
    share, steps = checks.steps_and_share(
        "inpaint_strength", asked.inpaint_strength, asked.num_inference_steps, most
    )
    largest = "0 or a positive number"
    return dataclasses.replace(
        RECIPES["diffusers"],
        num_inference_steps=steps,
        encode_ratio=share,
        inversion_guidance_scale=checks.guidance(asked.guidance_scale),
        num_reg_steps=checks.whole("num_reg_steps", asked.num_reg_steps, 0),
        lambda_auto_corr=checks.number("lambda_auto_corr", asked.lambda_auto_corr, 0, 1e9, largest),
        lambda_kl=checks.number("lambda_kl", asked.lambda_kl, 0, 1e9, largest),
        num_auto_corr_rolls=checks.whole("num_auto_corr_rolls", asked.num_auto_corr_rolls),
    )


def edit(pipe, asked):
    """Pictures as output_type says."""
    prompt = _prompt(pipe, asked, "")
    share, number = checks.steps_and_share(
        "inpaint_strength", asked.inpaint_strength, asked.num_inference_steps, len(pipe.scheduler)
    )
    options = dataclasses.replace(
        RECIPES["diffusers"], num_inference_steps=number, encode_ratio=share
    )
    checks.output(asked.output_type, ("pil", "np", "latent"), asked.cross_attention_kwargs)
    scale, every, skip = _edit_settings(pipe, asked)
    options = options.replace(guidance_scale=scale)
    eta = checks.number("eta", asked.eta, 0, 1, "a number from 0 to 1")
    checks.same_lengths(prompt, guided=scale > 1)
    batch, steps = prompt.count, options.num_encode_steps
    count = checks.whole("num_images_per_prompt", asked.num_images_per_prompt)
    trail = inputs.trail_levels(
        asked.image_latents, batch, steps, pipe.model.configs.latent_channels
    )
    mask = inputs.mask_cells(asked.mask_image, batch, trail.shape[3:], pipe.vae_scale_factor)
    draw = draws(asked.generator, DECODING, (batch, count))
    pipe.scheduler.set_timesteps(number)

    with _working(pipe, "decoding", steps) as bar:
        states = _states(pipe, prompt, scale > 1, batch, skip)
        trail = np.concatenate((trail[:1], trail))  # level 0, which this recipe does not look at
        shape = trail.shape[2:]
        step = None
        if eta:
            noise = np.stack([draw((batch, count), shape) for _ in range(steps)])
            noise = ms.Tensor(noise.reshape(steps, -1, *shape))
            step = walk.stochastic_ddim(eta, noise, steps)
        run = _run(pipe, pipe.scheduler, options)
        states, negative = (None if s is None else walk.repeat(s, count) for s in states)
        mask = ms.Tensor(mask.repeat(count, 0))
        held = [State(ms.Tensor(x)) for x in trail.repeat(count, 1)]
        for done, state in enumerate(stages.decode(run, states, held, mask, negative, step)):
            if done:
                _tell(bar, asked, every, done, run.levels.timesteps[steps - done + 1], state)
        edited = state.latents
        latent = asked.output_type == "latent"
        return edited if latent else _decode(pipe, edited, asked.output_type)


def _edit_settings(pipe, asked):
    """(guidance scale, steps between callbacks, clip_skip), checked; and what cannot be None."""
    for name, wanted in (
        ("mask_image", "what generate_mask returns, or another mask"),
        ("image_latents", "what invert returns as latents"),
    ):
        value = getattr(asked, name)
        checks.check(name, value, value is not None, wanted)
    if asked.latents is not None:
        checks.warn("latents has no effect: the edit starts from image_latents.")
    every = checks.callback(asked.callback, asked.callback_steps)
    return checks.guidance(asked.guidance_scale), every, _clip_skip(pipe, asked.clip_skip)


def encode_prompt(pipe, asked):
    """(states, negative states or None), repeated for the pictures of each prompt."""
    prompt, skip = _prompt(pipe, asked, ""), _clip_skip(pipe, asked.clip_skip)
    count = checks.whole("num_images_per_prompt", asked.num_images_per_prompt)
    guided = checks.flag("do_classifier_free_guidance", asked.do_classifier_free_guidance)
    states = _states(pipe, prompt, guided, skip=skip)
    return tuple(None if s is None else walk.repeat(s, count) for s in states)


def _clip_skip(pipe, skip):
    """How many of the text encoder's last layers to leave out."""
    most = pipe.model.configs.text.num_hidden_layers - 1
    return 0 if skip is None else checks.whole("clip_skip", skip, 0, most)


@contextlib.contextmanager
def _working(pipe, phase, total):
    """A progress bar that also says when a graph compiles."""
    before = pipe.model.on_compile
    with pipe.progress_bar(total=total, desc=phase) as bar:
        pipe.model.on_compile = bar.set_postfix_str
        try:
            yield bar
        finally:
            pipe.model.on_compile = before


def _run(pipe, scheduler, options, watch=None):
    """The core's `Run` with a scheduler's levels."""
    run = Run(pipe.model.predict, scheduler.settings, options, Parts.of(options))
    return run if watch is None else run._replace(watch=watch)


def _advancing(bar, each):
    """A `watch` that advances the bar by so many for each item."""

    def watch(phase, total, iterable):
        for item in iterable:
            yield item
            bar.update(min(each, bar.total - bar.n))

    return watch


def _tell(bar, asked, every, done, timestep, state):
    """Advance the bar after a step, and call back."""
    bar.update()
    if asked.callback is not None and (done - 1) % every == 0:
        asked.callback(done - 1, int(timestep), state.latents)


def _prompt(pipe, asked, prefix):
    """`pipeline_checks.Prompt` of the four arguments with a prefix."""
    names = ("prompt", "negative_prompt", "prompt_embeds", "negative_prompt_embeds")
    values = [getattr(asked, prefix + name) for name in names]
    return checks.prompt(prefix, *values, *pipe.text_shape)


def _states(pipe, prompt, guided, batch=None, skip=0):
    """(states, negative states or None) [B,77,D]; the empty negative where there is none."""
    batch = batch or prompt.count

    def states(text, given, skip):
        found = pipe.embed_prompts(text or "", clip_skip=skip) if given is None else given
        found = found if isinstance(found, ms.Tensor) else ms.Tensor(found)
        return found if found.shape[0] == batch else walk.repeat(found, batch)

    own = states(prompt.text, prompt.states, skip)
    return own, states(prompt.negative, prompt.negative_states, 0) if guided else None


def _host(x):
    return x.asnumpy() if isinstance(x, ms.Tensor) else x


def _pixels(pipe, image, batch):
    """The pictures of a batch: one for each prompt, or fewer that serve them in turn."""
    pixels = inputs.pixels(image, pipe.vae_scale_factor, pipe.model.configs.latent_channels)
    if batch % len(pixels):
        raise InputError(
            f"image has {len(pixels)} pictures for {batch} prompts: give as many of each, or one "
            "picture."
        )
    return pixels


def _latents(pipe, pixels, batch, copies, draw):
    """Clean latents [B,copies,C,h,w], each drawn anew from its picture's posterior; one picture
    serves all prompts."""
    if pixels.shape[1] != 3:
        latents = walk.repeat(ms.Tensor(pixels), copies)
    else:
        moments = pipe.model.encode_image(pixels, pipe.tiling)
        noise = draw((len(pixels), copies), moments[0].shape[1:])
        moments = [walk.repeat(m, copies) for m in moments]
        latents = pipe.model.latents(moments, noise.reshape(-1, *noise.shape[2:]))
    repeated = ms.ops.concat([latents] * (batch // len(pixels)))
    return repeated.reshape(batch, copies, *latents.shape[1:])


def _decode(pipe, latents, output_type):
    pixels = pipe.model.decode_latents(latents, pipe.tiling)
    if output_type == "pil":
        return to_pil(pixels)
    return np.clip(pixels / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)
