"""What an edit will cost, before it runs."""

from dataclasses import dataclass

import numpy as np

from . import schedule, window
from .errors import InputError
from .integrators import INTEGRATORS, State
from .options import inexact, rows


@dataclass(frozen=True)
class Plan:
    """What an edit will cost, counted in UNet evaluations of one latent each; with a
    `decode_window` those of the decoding are of the window's cells only, which are known with the
    mask."""

    timesteps: np.ndarray  # of the inversion's levels 1..K
    num_encode_steps: int
    mask_timestep: int  # None with a given mask
    mask_evaluations: int
    inversion_evaluations: int
    decode_evaluations: int
    shallow_evaluations: int  # of the last two, those that reuse deep features
    at_most: bool  # the inversion iterates and may stop sooner
    largest_batch: int  # latents in one UNet batch, at most

    @property
    def evaluations(self):
        """All of them."""
        return self.mask_evaluations + self.inversion_evaluations + self.decode_evaluations


def plan(options, config, targets=1, given_mask=False):
    """The `Plan` of an edit of one picture; raises InputError like the edit itself.

    Args:
        options: `Options`.
        config: `SchedulerConfig`.
        targets: how many different ones; without a given mask those that are the source count not.
    Law: the counts are those of a run (of an iterated inversion, at least).
    """
    steps, record = options.num_encode_steps, INTEGRATORS[options.integrator]
    levels = schedule.levels(config, options.num_inference_steps)
    timesteps = levels.timesteps[1 : steps + 1]
    if record.needs_signal and schedule.alphas_cumprod(config)[timesteps[-1]] <= 0:
        raise InputError(
            f"The schedule ends without signal, where only integrator {inexact()} is defined: use "
            "that, or a lower encode_ratio."
        )
    grid = options.num_inference_steps if options.mask_on_grid else None
    mask_timestep = schedule.noise_level(config, options.mask_noise_strength, grid)[0]
    up = record.evaluations(steps)[0] if targets else 0
    every = options.reuse_features
    a_map = (1 + targets) * rows(options.mask_guidance_scale)
    upward = rows(options.inversion_guidance_scale)
    downward = rows_down(options, config, levels, record)
    count = 0 if given_mask or not targets else options.num_maps
    return Plan(
        timesteps=timesteps,
        num_encode_steps=steps,
        mask_timestep=None if given_mask else mask_timestep,
        mask_evaluations=count * a_map,
        inversion_evaluations=up * upward,
        decode_evaluations=targets * sum(downward),
        shallow_evaluations=shallow([upward] * up, every) + targets * shallow(downward, every),
        at_most=record.iterates,
        largest_batch=max(min(options.map_batch, count) * a_map, upward, *downward),
    )


def shallow(evaluations, every):
    """Of the rows of these evaluations in their order, those whose deep features are the ones of
    an evaluation before (`walk.reusing`)."""
    count, before, age = 0, None, 0
    for size in evaluations:
        age = age + 1 if size == before and age < every - 1 else 0
        count, before = count + size * (age > 0), size
    return count


def rows_down(options, config, levels, record):
    """The UNet rows of each evaluation of a decoding, in their order: an integrator asks at levels
    of its own, found by sending a zero up and down."""
    scales = schedule.limited_guidance(
        config, levels, options.guidance_scale, options.guidance_interval
    )
    asked, state, steps = [], State(np.zeros(1)), options.num_encode_steps

    def denoise(x, k):
        asked.append(k)
        return x, x

    for i in range(steps):
        state = record.step(denoise, state, levels, i, i + 1)
    asked.clear()
    for i in range(steps, 0, -1):
        state = record.step(denoise, state, levels, i, i - 1)
    return [rows(scales[k]) for k in asked]


def describe(arguments, found, job, plan, kernels):
    """The lines of `--dry-run`."""
    options, editing = job.options, arguments.command == "edit"
    (width, height), worked = job.picture.size, job.image.shape[2:]
    yield f"model             {found.path}"
    yield f"recipe            {arguments.recipe}"
    yield (
        f"picture           {width}x{height}, worked on as {worked[1]}x{worked[0]}, "
        f"latents {job.shape[2]}x{job.shape[1]}"
    )
    if editing or options.mask_on_grid:
        spacing = found.configs.scheduler.timestep_spacing
        yield f"grid              {options.num_inference_steps} steps, {spacing} spacing"
    if editing:
        regularised = f", {options.num_reg_steps} regularising steps"
        yield f"integrator        {options.integrator}{regularised * (options.num_reg_steps > 0)}"
        timesteps = shortened(plan.timesteps)
        yield f"K                 {plan.num_encode_steps} steps at timesteps {timesteps}"
    if plan.mask_timestep is None:
        yield "mask              as given"
    else:
        maps = f"{options.num_maps} noise maps at timestep {plan.mask_timestep}"
        yield f"mask              {maps}"
    if editing:
        most = "at most " if plan.at_most else ""
        yield (
            f"UNet evaluations  {most}{plan.evaluations}: {plan.mask_evaluations} for the mask, "
            f"{most}{plan.inversion_evaluations} for the inversion, {plan.decode_evaluations} for "
            f"the decoding of {len(set(arguments.target))} target(s)"
        )
        if plan.shallow_evaluations:
            shallow = plan.shallow_evaluations
            yield f"reused features   by {shallow} of these, which are of the outermost level only"
        if options.decode_window is not None:
            seen = f"the cells of the mask that is found and {options.decode_window} around them"
            if job.mask is not None:
                seen = window.described(job.mask[0], options.decode_window, job.multiple)
            yield f"decoding window   {seen}, all that the decoding's evaluations see"
    else:
        yield f"UNet evaluations  {plan.mask_evaluations} for the mask"
    weights, activations = memory(arguments, found, job, plan, kernels)
    yield (
        f"memory            about {(weights + activations) / 2**30:.1f} GiB: "
        f"{weights / 2**30:.1f} weights, {activations / 2**30:.1f} activations (an estimate)"
    )
    largest = sum(memory(arguments, found, job, plan, kernels, sequential=True))
    yield f"                  about {largest / 2**30:.1f} GiB with --sequential"


def memory(arguments, found, job, plan, kernels, sequential=False):
    """(weights, activations) in bytes that an edit takes (`memory.estimate_memory`)."""
    from .kernels import default_kernels
    from .memory import estimate_memory

    return estimate_memory(
        found.configs,
        job.shape[1:],
        plan.largest_batch,
        arguments.dtype,
        kernels or default_kernels(),
        unets=3 if plan.shallow_evaluations else 1,
        sequential=sequential,
    )


def shortened(timesteps):
    """All of a few timesteps, the ends of many."""
    if len(timesteps) < 12:
        return ", ".join(map(str, timesteps))
    return f"{', '.join(map(str, timesteps[:3]))}, ..., {', '.join(map(str, timesteps[-2:]))}"
