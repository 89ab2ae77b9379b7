"""DiffEdit's stages as pure functions over a batch, and the whole edit composed of them.

    encode -> maps -> mask -+
           -> trail --------+-> decode

Each row of a batch has a picture, sentences and random draws of its own. The functions that the
stages are made of are in parts.py.
"""

import functools
import hashlib

import mindspore as ms
import numpy as np
from mindspore import ops

from . import mask as masks
from . import notices, regularise, schedule, walk, window
from .errors import InputError
from .integrators import INTEGRATORS
from .parts import Parts, Run, compute, everywhere, unwatched
from .prompts import Prompts, text_states
from .results import edited, unedited


def encode(model, image, run, draws, tiling=None):
    """The picture's latents, and those that the noise maps start from.

    Args:
        model: `model.Model`.
        image: [B,3,H,W] in [-1,1].
        draws: `draws.Draws`.
    Returns:
        (latents [B,C,h,w], starts [B,1 or n,C,h,w]): the posterior's mean, or a sample from it;
        with `posterior_per_map` the starts are samples of their own.
    """
    options = run.options
    moments = run.keep("encode", run.key("encode"), lambda: model.encode_image(image, tiling))
    latents = model.latents(moments, draws.posterior if options.sample_posterior else None)
    if not options.posterior_per_map:
        return latents, latents.expand_dims(1)
    noise = draws.posterior_mask
    copies = [walk.repeat(m, noise.shape[1]) for m in moments]
    drawn = model.latents(copies, noise.reshape(-1, *noise.shape[2:]))
    return latents, drawn.reshape(noise.shape)


def noise_difference(predict, starts, noise, timestep, alpha, source, targets, guidance_scale, by):
    """How differently the model denoises with each target and with the source, draw by draw.

    |eps(x_t, target) - eps(x_t, source)| averaged over channels, with x_t = sqrt(a) x0 + sqrt(1-a)
    noise. The raw predictions serve as well as eps: eps and v differ by a factor and a term that
    cancel in the difference and in the normalisation that follows.

    Args:
        starts: x0 [B,m or 1,C,h,w].
        noise: [B,m,C,h,w].
        source: pair (u, c) of text states [B,S,D] as in `walk.guided`.
        targets: list of such pairs; every target shares the source's predictions.
        by: `Parts.difference`.
    Returns:
        A list with one [B,m,h,w] for each target.
    Source: DiffEdit, section 3.2, step 1; Ho & Salimans 2022 for the guidance.
    """
    size = noise.shape[1]
    clean = ops.broadcast_to(starts, noise.shape)
    x = schedule.add_noise(clean, noise, alpha).flatten(start_dim=0, end_dim=1)  # [B*m,C,h,w]
    pairs = [
        [s if s is None else walk.repeat(s, size) for s in pair] for pair in (source, *targets)
    ]
    first, *others = walk.guided(predict, x, timestep, pairs, guidance_scale)
    return [by(other, first).reshape(noise.shape[:2] + noise.shape[3:]) for other in others]


def maps(run, starts, noise, source, targets, key=()):
    """The noise map of every target, [B,h,w] each: step 1 of the paper up to the average.

    Args:
        starts, noise: as in `noise_difference`, for all draws.
        source, targets: (states, negative states or None) [B,S,D], and a list of such.
        key: what else the maps depend on, for `keep`.
    Laws: the draws' chunks (`map_batch`) change nothing; more draws leave the first as they are.
    """
    options, scale, count = run.options, run.options.mask_guidance_scale, noise.shape[1]
    steps = options.num_inference_steps if options.mask_on_grid else None
    level = schedule.noise_level(run.config, options.mask_noise_strength, steps)
    # The public pipeline exchanges the two under guidance: d = (1-g) d_positive + g d_negative.
    source, *targets = [p if scale != 1 else (None, p[0]) for p in (source, *targets)]

    def chunk(start):
        some = slice(start, start + options.map_batch)
        clean = starts if starts.shape[1] == 1 else starts[:, some]
        return noise_difference(
            run.predict, clean, noise[:, some], *level, source, targets, scale, run.parts.difference
        )

    pieces = []
    for start in run.watch("mask", count, range(0, count, options.map_batch)):
        more = (start, min(options.map_batch, count - start), run.parts.difference, *key)
        chunk_key = run.key("maps", *more, without=("num_maps",))
        pieces.append(run.keep("maps", chunk_key, functools.partial(chunk, start)))
    return [masks.average_maps(walk.joined(each, 1)) for each in zip(*pieces)]


def trail(run, latents, states, negative, noise=None, rolls=None, key=()):
    """The background's states at levels 0 to K: step 2 of the paper.

    With DDIM x_{i+1} = S(x_i, eps_i), asked at the timestep of level i, the Euler scheme of the
    paper's ODE; with `inversion_timestep` "destination" at that of level i+1. That choice is of the
    integrators that are not exact; the others ask at the levels that their equations name.

    Args:
        latents: x0 [B,C,h,w].
        states, negative: text states [B,S,D], and those to guide away from.
        noise: [B,C,h,w] for a trail that is noised.
        rolls: `Draws.rolls`.
        key: what else the states depend on, for `keep`.
    Yields:
        K+1 `integrators.State`, the first the clean x0.
    Source: DiffEdit, eq. 3 and section 3.2, step 2; Song et al. 2021, section 4.3; integrators.py.
    Law: with an exact integrator `decode` with the same sentence gives x0 back.
    """
    options, levels, kind = run.options, run.levels, run.config.prediction_type
    record = INTEGRATORS[options.integrator]
    ahead = int(options.inversion_timestep == "destination" and not record.exact)
    scale = options.inversion_guidance_scale

    def denoise_of(predict):
        ask = walk.asked(predict, levels, states, negative, scale, ahead)
        if options.num_reg_steps:
            ask = regularise.regularised(ask, levels, kind, options, rolls, ahead)
        return walk.denoiser(ask, levels, kind)

    advance, denoise = run.walked(run.parts.step, denoise_of)
    without = () if options.num_reg_steps else ("encode_ratio", "round_steps")

    def step(denoise, state, levels, i, j):
        key_of_level = run.key("trail", j, run.parts.step, *key, without=without)
        stepped = functools.partial(advance, denoise, state, levels, i, j)
        return run.keep("trail", key_of_level, stepped)

    steps = options.num_encode_steps
    return run.parts.trail(step, denoise, levels, latents, steps, noise)


def decode(run, states, trail, mask, negative=None, step=None):
    """From the deepest state down, held to the trail outside the mask: step 3 of the paper.

    x_{i-1} = M step(x_i) + (1-M) trail[i-1]; the last blend is with x0 itself. With `blend_level`
    "noisier" the background is trail[i], one level above, as in the public pipeline.

    Args:
        states, negative: text states [B,S,D] of the target, and those to guide away from.
        trail: K+1 states of `trail`.
        mask: [B,h,w] in [0,1]; soft values mix.
        step: another step function than the parts' (`walk.stochastic_ddim`).
    Yields:
        The state at each level from K to 0.
    Source: DiffEdit, eq. 2 and section 3.2, step 3.
    Laws: with `blend_level` "same" the result equals x0 bit for bit where the mask is 0; with a
        `guidance_interval` of all levels it is that without one, with one of none that without
        guidance, bit for bit; with a `decode_window` that of `window.decoded`.
    """
    above, margin = int(run.options.blend_level == "noisier"), run.options.decode_window
    walked = functools.partial(_walked, run, step or run.parts.step, above)
    if margin is None:
        return walked(states, negative, trail, mask)
    if step is not None:
        raise InputError("decode_window is of steps without noise of their own: leave it out.")
    return window.decoded(walked, states, negative, trail, mask, above, margin, run.multiple)


def _walked(run, step, above, states, negative, trail, mask):
    """The states of `decode` for a trail and a mask of any cells."""
    options, levels = run.options, run.levels
    mask = mask.expand_dims(1).astype(trail[0].latents.dtype)
    guidance = options.guidance_scale, options.guidance_interval
    scales = schedule.limited_guidance(run.config, levels, *guidance)

    def denoise_of(predict):
        ask = walk.asked(predict, levels, states, negative, scales)
        return walk.denoiser(ask, levels, run.config.prediction_type)

    def hold(state, level):
        return run.parts.blend(state, trail[level + above], mask)

    step, denoise = run.walked(step, denoise_of)
    start = trail[-1]._replace(features=None)  # the inversion's are of another sentence
    return walk.down(step, denoise, levels, start, len(trail) - 1, hold)


# --- the whole edit -------------------------------------------------------------------------------


def edit(
    model,
    image,
    source,
    targets,
    options,
    draws,
    negative="",
    mask_negative="",
    inversion_negative="",
    mask=None,
    only_mask=False,
    tiling=None,
    parts=None,
    keep=compute,
    watch=unwatched,
):
    """Edit a batch of pictures, once for each target, with one trail for all.
    Args:
        model: `model.Model`.
        image: [B,3,H,W] float32 in [-1,1], H and W multiples of the VAE's factor.
        source, targets, *negative: as in `prompts.Prompts`.
        options: `Options`.
        draws: `draws.Draws`.
        mask: [B,h,w] in [0,1] to use instead of looking for one.
        only_mask: stop after the masks.
        tiling: `vae.Tiling` for pictures that do not fit at once.
        parts, keep, watch: as in `parts.Run`; by default the parts that the options name.
    Returns:
        A list of `results.Edit`, one for each target; with an empty mask the input, and a warning.
    Source: DiffEdit, section 3.2.
    """
    prompts = Prompts.of(source, targets, negative, mask_negative, inversion_negative)
    run = Run.of(model, options, parts or Parts.of(options), keep, watch)
    text = text_states(model, image.shape[0], prompts.needed(options, mask is not None, only_mask))
    latents, starts = encode(model, image, run, draws, tiling)

    if mask is None:
        found = _masks(run, starts, draws, text, prompts)
    else:
        found = dict.fromkeys(prompts.targets, (None, ms.Tensor(np.asarray(mask, np.float32))))
    chosen = [t for t, (_, cells) in found.items() if not only_mask and cells.asnumpy().any()]
    states = _states(run, latents, draws, text, prompts) if chosen else None
    edits, roundtrip = {}, functools.lru_cache(lambda: model.decode_latents(latents, tiling))
    paths = {t: _decoded(run, states, found[t][1], text, prompts, t) for t in chosen}
    for target, (noise_map, cells) in found.items():
        arrays = None if noise_map is None else noise_map.asnumpy(), cells.asnumpy()
        if target in chosen:
            decoded, key = paths[target]

            def finished(arrays=arrays, decoded=decoded):
                pixels = model.decode_latents(decoded, tiling)
                return edited(options, image, *arrays, states, decoded.asnumpy(), pixels, roundtrip)

            edits[target] = keep("picture", run.key("picture", *key), finished)
        else:
            edits[target] = unedited(options, image, *arrays)
            if not only_mask:
                notices.empty_mask(prompts.source, target, given=mask is not None)
    return [edits[target] for target in prompts.targets]


def _masks(run, starts, draws, text, prompts):
    """{target: (noise map, mask)}. A target that is the source differs nowhere, and a mask that is
    everywhere needs no map: neither takes an evaluation."""
    nothing = ms.Tensor(np.zeros((starts.shape[0], *starts.shape[3:]), np.float32))
    found = dict.fromkeys(prompts.targets, (nothing, nothing))
    if run.parts.to_mask is everywhere:
        return dict.fromkeys(prompts.targets, (None, ops.ones_like(nothing)))
    if not prompts.others:
        return found
    negative = text(prompts.mask_negative) if run.options.mask_guidance_scale != 1 else None
    pairs = [(text(t), negative) for t in (prompts.source, *prompts.others)]
    said = (prompts.source, prompts.others, prompts.mask_negative)
    noise_maps = maps(run, starts, ms.Tensor(draws.maps), pairs[0], pairs[1:], said)
    for target, noise_map in zip(prompts.others, noise_maps):
        key = run.key("mask", run.parts.difference, run.parts.to_mask, target, *said)
        to_mask = functools.partial(run.parts.to_mask, noise_map)
        found[target] = noise_map, run.keep("mask", key, to_mask)
    return found


def _states(run, latents, draws, text, prompts):
    """The K+1 states of `trail`, with a warning where a fixed point was not reached."""
    options = run.options
    sentence = prompts.source if options.inversion_prompt == "source" else ""
    negative = text(prompts.inversion_negative) if options.inversion_guidance_scale != 1 else None
    noise, said = ms.Tensor(draws.posterior), (sentence, prompts.inversion_negative)
    states = iter(trail(run, latents, text(sentence), negative, noise, draws.rolls, said))
    found = [next(states), *run.watch("inversion", options.num_encode_steps, states)]
    notices.unsolved(found)
    return found


def _decoded(run, states, cells, text, prompts, target):
    """(decoded latents [B,C,h,w] of a target, what they depend on beside the options)."""
    negative = text(prompts.negative) if run.options.guidance_scale != 1 else None
    digest = hashlib.sha256(cells.asnumpy().tobytes()).hexdigest()

    def decoded():
        path = iter(decode(run, text(target), states, cells, negative))
        *_, last = next(path), *run.watch("decoding", len(states) - 1, path)
        return last.latents

    key = (run.parts.step, run.parts.blend, run.parts.trail, digest, target, *prompts)
    return run.keep("decode", run.key("decode", *key), decoded), key
