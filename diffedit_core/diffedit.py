"""DiffEdit's three phases over any noise predictor, and the whole edit composed of them.

`predict(latents [B,C,h,w], timestep, encoder_hidden_states [B,S,D]) -> [B,C,h,w]` stands for the
model; the phases know nothing else of it. `encoder_hidden_states` are only repeated and
concatenated, so that a closed-form denoiser may take anything that has a batch axis.
"""

import warnings
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import ops

from . import integrators as I
from . import mask as M
from . import regularise as G
from . import schedule as S
from .errors import InputError
from .options import RECIPES, Options  # noqa: F401, so that users find them beside `edit`


def mask_level(options, config):
    """(timestep, alpha) of the noise under which the mask is looked for (DiffEdit, section 3.2: 50
    % noise).

    On the grid: the level int(N strength) of the step grid, 481 for SD 2.1 at N = 50. Off it:
    round(strength T), so that the mask does not depend on the number of steps.
    Raises:
        InputError: on the grid, the strength rounds to the clean picture.
    """
    if options.mask_on_grid:
        level = int(options.num_inference_steps * options.mask_noise_strength)
        if level < 1:
            raise InputError(
                f"mask_noise_strength {options.mask_noise_strength} of {options.num_inference_steps} steps rounds "
                "to no noise: raise one."
            )
        timestep = int(S.grid(config, options.num_inference_steps)[level - 1])
    else:
        timestep = min(
            round(options.mask_noise_strength * config.num_train_timesteps),
            config.num_train_timesteps - 1,
        )
    return timestep, float(S.alphas_cumprod(config)[timestep])


def repeat(x, times):
    """Each row `times` times in a row: [B,...] -> [B*times,...]."""
    return x if times == 1 else x.repeat_interleave(times, 0)


def noise_difference(
    predict,
    latents,
    noise,
    timestep,
    alpha,
    source,
    targets,
    guidance_scale=None,
    map_batch=1,
    on_step=None,
):
    """How differently the model denoises with each target and with the source, map by map.

    |eps(x_t, target) - eps(x_t, source)| averaged over channels, with x_t = sqrt(a) x0 + sqrt(1-a) noise. The raw
    predictions serve as well as eps: eps and v differ by a factor and a term that cancel in the
    difference and in the normalisation that follows.

    Args:
        latents: x0 [B,n or 1,C,h,w].
        noise: [B,n,C,h,w].
        source: (states [B,S,D], negative states or None).
        targets: list of the same pairs; every target shares the source's predictions.
        guidance_scale: None without guidance. With it the pairs take the public pipeline's order,
            in which negative and positive have changed places: d = (1-g) d_positive + g d_negative.
        map_batch: noise draws in one model batch; the result does not depend on it.
    Returns:
        A list with one [B,n,h,w] for each target.
    Source: DiffEdit, section 3.2, step 1; Ho & Salimans 2022 for the guidance.
    """
    count = noise.shape[1]
    pairs = (source, *targets)
    pieces = [[] for _ in targets]
    for start in range(0, count, map_batch):
        chunk = noise[:, start : start + map_batch]
        size = chunk.shape[1]
        clean = latents if latents.shape[1] == 1 else latents[:, start : start + map_batch]
        x = S.add_noise(ops.broadcast_to(clean, chunk.shape), chunk, alpha).flatten(
            start_dim=0, end_dim=1
        )  # [B*m,C,h,w]
        states = [
            repeat(s, size)
            for positive, negative in pairs
            for s in ((positive,) if guidance_scale is None else (positive, negative))
        ]
        rows = predict(ops.concat([x] * len(states), 0), timestep, ops.concat(states, 0))
        parts = [rows[i * x.shape[0] : (i + 1) * x.shape[0]] for i in range(len(states))]
        if guidance_scale is not None:
            parts = [
                S.guide(parts[i], parts[i + 1], guidance_scale) for i in range(0, len(parts), 2)
            ]
        for i, part in enumerate(parts[1:]):
            difference = M.channel_difference(part, parts[0])
            pieces[i].append(difference.reshape(-1, size, *difference.shape[1:]))
        if on_step is not None:
            on_step(start + size, None, None)
    return [ops.concat(p, 1) if len(p) > 1 else p[0] for p in pieces]


def guided(predict, x, timestep, states, negative, guidance_scale):
    """The prediction with classifier-free guidance, both halves in one batch; without it where
    `negative` is None."""
    if negative is None:
        return predict(x, timestep, states)
    rows = predict(ops.concat((x, x), 0), timestep, ops.concat((negative, states), 0))
    return S.guide(rows[: x.shape[0]], rows[x.shape[0] :], guidance_scale)


def denoiser(
    predict,
    levels,
    states,
    negative=None,
    guidance_scale=1.0,
    prediction_type="epsilon",
    ahead=0,
    change=None,
):
    """The model as an integrator asks it: denoise(x, k) -> (x0, eps) of the guided prediction for x
    at level k.

    Args:
        ahead: 1 asks at the timestep of the level above instead.
        change: called as change(out, x, k), gives the prediction to use.
    """

    def denoise(x, k):
        out = guided(predict, x, int(levels.timesteps[k + ahead]), states, negative, guidance_scale)
        if change is not None:
            out = change(out, x, k)
        return S.denoised(out, x, levels.alphas[k], prediction_type)

    return denoise


def invert(predict, latents, levels, steps, *arguments, **options):
    """The latents [K+1,B,C,h,w] of `invert_states`, which see; index 0 the clean x0."""
    return ops.stack(
        [
            state.latents
            for state in invert_states(predict, latents, levels, steps, *arguments, **options)
        ]
    )


def invert_states(
    predict,
    latents,
    levels,
    steps,
    states,
    negative=None,
    guidance_scale=1.0,
    prediction_type="epsilon",
    inversion_timestep="current",
    on_step=None,
    integrator="ddim",
    inversion="explicit",
    change=None,
):
    """The picture's way up to the noise: what the integrator carries at every level up to `steps`.

    With DDIM x_{i+1} = ddim_step(x_i, out_i, a_i, a_{i+1}), with out_i asked at the timestep of
    level i, the Euler scheme of the paper's ODE, or with "destination" at that of level i+1. That
    choice is of the explicit inversions of DDIM and DPM-Solver++ only; the others ask at the levels
    that their equations name.

    Args:
        latents: x0 [B,C,h,w].
        levels: `schedule.Levels`.
        steps: K, at most the levels' N.
        states, negative: text states, and those to guide away from or None.
        on_step: called after each step as (steps done, timestep, latents).
        integrator, inversion: names of `integrators.INTEGRATORS` and `INVERSIONS`.
        change: called as change(out, x, level), gives the prediction to use
            (`regularise.regularise`).
    Returns:
        A list of K+1 `integrators.State`, index 0 the clean x0. Warns where a fixed-point inversion
        did not converge.
    Source: DiffEdit, eq. 3 and section 3.2, step 2; Song et al. 2021, section 4.3; integrators.py
        for the others.
    Law: with an eps predictor that looks neither at x nor at the timestep, `decode` with the same
        predictor gives x0 back; with "destination" it may look at the timestep. With an exact
        integrator it may look at both.
    """
    step = I.INVERSIONS[inversion] or I.INTEGRATORS[integrator]
    ahead = int(
        inversion_timestep == "destination"
        and inversion == "explicit"
        and integrator not in I.EXACT
    )
    denoise = denoiser(
        predict, levels, states, negative, guidance_scale, prediction_type, ahead, change
    )
    trail = [I.State(latents)]
    for i in range(steps):
        trail.append(step(denoise, trail[-1], levels, i, i + 1))
        if on_step is not None:
            on_step(i + 1, int(levels.timesteps[i + ahead]), trail[-1].latents)
    notes = [state.note for state in trail if state.note is not None]
    _warn_of_notes([note for note in notes if not note.converged], len(notes))
    return trail


def decode(predict, inverted_latents, mask, *arguments, **options):
    """`decode_states`, which see, from latents alone: `inverted_latents` [K+1,B,C,h,w] of
    `invert`."""
    return decode_states(
        predict, [I.State(x) for x in inverted_latents], mask, *arguments, **options
    )


def decode_states(
    predict,
    trail,
    mask,
    levels,
    states,
    negative=None,
    guidance_scale=1.0,
    prediction_type="epsilon",
    blend_level="same",
    eta=0.0,
    noise=None,
    on_step=None,
    integrator="ddim",
):
    """From the deepest latents down, held to the inverted ones outside the mask.

    x_{i-1} = M step(x_i) + (1-M) inverted[i-1], with DDIM's step or another integrator's; the last
    blend is with x0 itself. With blend_level "noisier" the background is inverted[i], one level
    above, as in the public pipeline. A second latent of the integrator is blended with the
    inversion's second one.

    Args:
        trail: K+1 states of `invert_states`, from the same integrator.
        mask: [B,h,w] in [0,1]; soft values mix.
        eta, noise: stochastic steps (Song et al. 2021, eq. 16) with noise [K,B,C,h,w] in the order
            of the steps; DDIM only.
        on_step: called after each step as (steps done, timestep, latents).
        integrator: a name of `integrators.INTEGRATORS`.
    Returns:
        Latents [B,C,h,w].
    Raises:
        InputError: stochastic steps of an integrator that has none.
    Source: DiffEdit, eq. 2 and section 3.2, step 3.
    Law: with blend_level "same" the result equals x0 bit for bit where the mask is 0.
    """
    if eta > 0 and integrator != "ddim":
        raise InputError(
            f"eta is {eta}, but integrator {integrator} has no stochastic steps: leave eta at 0 or use ddim."
        )
    mask = mask.expand_dims(1).astype(trail[0].latents.dtype)
    denoise = denoiser(predict, levels, states, negative, guidance_scale, prediction_type)
    state, depth = trail[-1], len(trail) - 1
    for done, i in enumerate(range(depth, 0, -1)):
        if eta > 0:
            sigma = S.ddim_sigma(levels.alphas[i], levels.alphas[i - 1], eta)
            x = I.ddim(denoise, state, levels, i, i - 1, sigma).latents
            state = I.State(x + S.scalar(sigma, x) * noise[done])
        else:
            state = I.INTEGRATORS[integrator](denoise, state, levels, i, i - 1)
        state = blend_states(state, trail[i - 1 if blend_level == "same" else i], mask)
        if on_step is not None:
            on_step(done + 1, int(levels.timesteps[i]), state.latents)
    return state.latents


def blend_states(edited, background, mask):
    """`mask.blend` of the latents and of the partners, where there are any; a missing background
    partner is the latents."""
    partner = edited.partner
    if partner is not None:
        partner = M.blend(
            partner, background.latents if background.partner is None else background.partner, mask
        )
    return edited._replace(
        latents=M.blend(edited.latents, background.latents, mask), partner=partner
    )


def _warn_of_notes(stopped, total):
    if stopped:
        warnings.warn(
            f"The fixed-point inversion did not converge in {len(stopped)} of {total} steps: corrections of up to "
            f"{max(n.residual for n in stopped):.1e} of the latents are left, with ratios of up to "
            f"{max(n.contraction for n in stopped):.2f} from one to the next (1 and more does not contract). Decoding will not "
            "lead back exactly: lower inversion_guidance_scale, take more steps, or use integrator edict.",
            stacklevel=4,
        )


def draw_noise(seed, pictures, maps, shape, posterior_per_map=False):
    """All random draws of a run, on the host: {"maps": [B,n,...], "posterior": [B,...],
    ("posterior_mask": [B,n,...])}.

    One stream for each (seed, picture, map): neither the device nor the batch nor the chunking
    changes a draw. `shape` is that of one latent, (C,h,w); float32.
    """

    def stream(picture, kind, index):
        return (
            np.random.default_rng([seed, picture, kind, index])
            .standard_normal(shape)
            .astype(np.float32)
        )

    draws = {
        "maps": np.stack([[stream(p, 0, m) for m in range(maps)] for p in range(pictures)]),
        "posterior": np.stack([stream(p, 1, 0) for p in range(pictures)]),
    }
    if posterior_per_map:
        draws["posterior_mask"] = np.stack(
            [[stream(p, 2, m) for m in range(maps)] for p in range(pictures)]
        )
    return draws


@dataclass(frozen=True)
class Edit:
    """What `edit` found for one target: every array of the run, as numpy."""

    noise_map: np.ndarray  # [B,h,w] before the clamp; None with a given mask
    mask: np.ndarray  # [B,h,w] in [0,1]
    inverted_latents: np.ndarray  # [K+1,B,C,h,w], index 0 clean; None where nothing was edited
    decoded_latents: np.ndarray  # [B,C,h,w]; None where nothing was edited
    image: np.ndarray  # [B,3,H,W] float32; the input itself where nothing was edited
    unchanged: bool  # the mask is empty, so the input is returned


@dataclass(frozen=True)
class Plan:
    """What an edit will cost, counted in UNet evaluations of one latent each."""

    timesteps: np.ndarray  # of the inversion's levels 1..K
    num_encode_steps: int
    mask_timestep: int
    mask_evaluations: int
    inversion_evaluations: int
    decode_evaluations: int
    at_most: bool = False  # the inversion iterates and may stop sooner


def plan(options, config, targets=1, given_mask=False):
    """The `Plan` of an edit of one picture; raises InputError like the edit itself."""
    steps = options.num_encode_steps
    timesteps = S.grid(config, options.num_inference_steps)[:steps]
    if S.alphas_cumprod(config)[timesteps[-1]] <= 0 and (
        options.integrator in I.EXACT or options.inversion != "explicit"
    ):
        raise InputError(
            "The schedule ends without signal, where only integrators ddim and dpmpp_2m with the explicit inversion "
            "are defined: use one of them, or a lower encode_ratio."
        )
    up, down = I.evaluations(options.integrator, options.inversion, steps)
    guided_mask = 2 if options.guided_mask and options.guidance_scale != 1 else 1
    return Plan(
        timesteps=timesteps,
        num_encode_steps=steps,
        mask_timestep=None if given_mask else mask_level(options, config)[0],
        mask_evaluations=0 if given_mask else options.num_maps * (1 + targets) * guided_mask,
        inversion_evaluations=up * (2 if options.inversion_guidance_scale != 1 else 1),
        decode_evaluations=targets * down * (2 if options.guidance_scale != 1 else 1),
        at_most=options.inversion != "explicit",
    )


def find_masks(predict, config, latents, noise, options, source, targets, on_step=None):
    """(noise_map, mask), [B,h,w] each, for every target: step 1 of the paper, whole.

    Args:
        predict, latents, noise, source, targets, on_step: as in `noise_difference`.
        config: `SchedulerConfig`.
        options: `Options`.
    """
    timestep, alpha = mask_level(options, config)
    scale = options.guidance_scale if options.guided_mask and options.guidance_scale != 1 else None
    differences = noise_difference(
        predict, latents, noise, timestep, alpha, source, targets, scale, options.map_batch, on_step
    )
    maps = [M.average_maps(d) for d in differences]
    return [(m, mask_of(m, options)) for m in maps]


def mask_of(noise_map, options):
    """The mask that `options` make of a noise map, [B,h,w] both."""
    smoothed = M.smooth(noise_map, options.mask_smoothing)
    normalised = M.normalise(
        smoothed, options.mask_clamp_ratio, options.clamp_over, options.mask_clamp_quantile
    )
    return M.threshold(normalised, options.mask_threshold)


def edit(
    model,
    image,
    source,
    targets,
    options,
    draws,
    negative="",
    mask=None,
    tiling=None,
    progress=None,
    only_mask=False,
):
    """Edit a picture, once for each target prompt; the inversion and the source's predictions are
    shared.

    Args:
        model: `model.Model`.
        image: [B,3,H,W] float32 in [-1,1], H and W multiples of the VAE's factor.
        source: the prompt that describes the picture; may be empty.
        targets: prompts that describe the wanted pictures.
        options: `Options`.
        draws: as `draw_noise` gives them; with num_reg_steps also "rolls", as
            `regularise.draw_rolls` gives them.
        negative: prompt to guide away from.
        mask: [B,h,w] in [0,1] to use instead of looking for one.
        tiling: `vae.Tiling` for pictures that do not fit at once.
        progress: called as progress(phase, total), gives an on_step function.
        only_mask: stop after the masks.
    Returns:
        A list of `Edit`, one for each target. Where the prompts are the same, or no cell differs,
        the mask is empty and the edit is the input, with a warning.
    Source: DiffEdit, section 3.2.
    """
    progress = progress or (lambda phase, total: None)
    config, batch = model.configs.scheduler, image.shape[0]
    texts = list(dict.fromkeys([source, negative, "", *targets]))
    states = dict(
        zip(texts, [repeat(s.expand_dims(0), batch) for s in model.encode_prompts(texts)])
    )

    moments = model.encode_image(image, tiling)
    latents = model.latents(moments, draws["posterior"] if options.sample_posterior else None)
    if mask is None:
        starts = latents.expand_dims(1)
        if options.posterior_per_map:
            starts = _latents_per_map(model, moments, draws["posterior_mask"])
        found = _find_masks(
            model, starts, states, source, targets, options, draws["maps"], negative, progress
        )
    else:
        found = [(None, ms.Tensor(np.asarray(mask, np.float32)))] * len(targets)
    if only_mask:
        return [
            Edit(_numpy(m), k.asnumpy(), None, None, image, not k.asnumpy().any()) for m, k in found
        ]

    inverted = None
    edits = []
    for target, (noise_map, cells) in zip(targets, found):
        if not cells.asnumpy().any():
            _warn_of_empty_mask(source, target, given=mask is not None)
            edits.append(Edit(_numpy(noise_map), cells.asnumpy(), None, None, image, True))
            continue
        if inverted is None:
            levels = S.levels(config, options.num_inference_steps)
            prompt = source if options.inversion_prompt == "source" else ""
            inverted = invert_states(
                model.predict,
                latents,
                levels,
                options.num_encode_steps,
                states[prompt],
                states[negative] if options.inversion_guidance_scale != 1 else None,
                options.inversion_guidance_scale,
                config.prediction_type,
                options.inversion_timestep,
                progress("inversion", options.num_encode_steps),
                options.integrator,
                options.inversion,
                regulariser(options, levels, config.prediction_type, draws.get("rolls")),
            )
        decoded = decode_states(
            model.predict,
            inverted,
            cells,
            levels,
            states[target],
            states[negative] if options.guidance_scale != 1 else None,
            options.guidance_scale,
            config.prediction_type,
            options.blend_level,
            on_step=progress("decoding", options.num_encode_steps),
            integrator=options.integrator,
        )
        edits.append(
            Edit(
                _numpy(noise_map),
                cells.asnumpy(),
                np.stack([state.latents.asnumpy() for state in inverted]),
                decoded.asnumpy(),
                model.decode_latents(decoded, tiling),
                False,
            )
        )
    return edits


def regulariser(options, levels, prediction_type, rolls):
    """The `change` of `invert_states` that `options` ask for, or None; `rolls` as
    `regularise.draw_rolls` gives them."""
    if not options.num_reg_steps:
        return None
    ahead = int(options.inversion_timestep == "destination")
    return lambda out, x, k: G.regularise(
        out,
        x,
        levels.alphas[k + ahead],
        prediction_type,
        rolls[k],
        options.lambda_auto_corr,
        options.lambda_kl,
        options.clamp_over,
    )


def _latents_per_map(model, moments, noise):
    """Latents [B,n,C,h,w], each a sample of its own from the picture's posterior."""
    count = noise.shape[1]
    drawn = model.latents([repeat(m, count) for m in moments], noise.reshape(-1, *noise.shape[2:]))
    return drawn.reshape(noise.shape)


def _find_masks(model, latents, states, source, targets, options, maps, negative, progress):
    """(noise_map, mask) for each target. A target that is the source needs no evaluation: its
    difference is zero."""
    distinct = [t for t in dict.fromkeys(targets) if t != source]
    nothing = ms.Tensor(np.zeros((maps.shape[0], *maps.shape[3:]), np.float32))
    found = {}
    if distinct:
        pairs = find_masks(
            model.predict,
            model.configs.scheduler,
            latents,
            ms.Tensor(maps),
            options,
            (states[source], states[negative]),
            [(states[t], states[negative]) for t in distinct],
            progress("mask", maps.shape[1]),
        )
        found = dict(zip(distinct, pairs))
    return [found.get(t, (nothing, nothing)) for t in targets]


def _warn_of_empty_mask(source, target, given):
    if given:
        reason = "the given mask is empty"
    elif source == target:
        reason = "source and target are the same prompt"
    else:
        reason = "no place differs enough between the prompts (a lower mask_threshold finds more)"
    warnings.warn(
        f"Nothing to edit for {target!r}: {reason}; the picture is returned unchanged.",
        stacklevel=3,
    )


def _numpy(tensor):
    return None if tensor is None else tensor.asnumpy()
