"""The page of one edit (`--report`): before and after, the noise map, and the mask that sliders
make of it, computed in the page as `parts.mask_of` does."""

import shlex

from . import images, pages, window
from .arguments import bare, flag, given, words
from .options import DECLARED, RECIPES, looked_at

# The options that the page varies: least, most and step of the slider, and the least and the
# largest number that may be typed beside it.
SLIDERS = {
    "mask_threshold": (0, 0.99, 0.01, 0, 0.9999),
    "mask_smoothing": (0, 4, 0.05, 0, 1000),
    "mask_clamp_ratio": (0.5, 10, 0.1, 0.01, 1000),
    "mask_clamp_quantile": (0.5, 1, 0.005, 0.001, 1),
}
LABELS = {name: flag(name).replace("mask-", "").replace("-", " ") for name in SLIDERS}


def write(arguments, job, edits, results, costs, bars):
    """Write the page of a run to `arguments.report`.

    Args:
        job: `cli.Job`.
        edits, results: `results.Edit` of each target, and its finished picture.
        costs: `plan.Plan`.
        bars: `progress.Bars`, for the seconds.
    """
    text = edit_page(arguments, job, edits, results, costs, bars)
    images.save_atomically(arguments.report, text.encode(errors="replace"))


def edit_page(arguments, job, edits, results, costs, bars):
    """The text of that page, which names files without their folders."""
    name = words(arguments)[2]
    live = job.mask is None
    different = job.prompts.others if live else set(job.prompts.targets)
    sections = [
        target_section(arguments, job, *each) for each in zip(arguments.target, edits, results)
    ]
    body = pages.filled(
        "edit.html",
        name=name,
        source=embedded(arguments, job.picture),
        width=job.picture.width,
        height=job.picture.height,
        sentences=sentences(job.prompts),
        facts=facts(arguments, job),
        targets=pages.joined(sections),
        controls=controls(job.options) if live else "",
        phases=phases(len(different), costs, bars.spent),
        time=f"Compiling took {bars.compiling:.1f} s of the run." if bars.compiling else "",
        options=options_table(job.options),
    )
    data = {"targets": [cells_of(edit) for edit in edits]}
    if live:
        data |= panel_of(arguments, job.options)
    return pages.page(f"DiffEdit: {name}", body, data, "edit.js")


def embedded(arguments, picture):
    """A picture at screen size, or with --report-full all of it."""
    if arguments.report_full:
        return pages.embedded(picture, None, lossless=True)
    return pages.embedded(picture)


def sentences(prompts):
    """From what to what, and away from what."""
    lines = [pages.Html(f"Source: {pages.said(prompts.source)}")]
    for name, text in zip(prompts._fields[2:], prompts[2:]):
        if text:
            label = name.replace("_", " ").capitalize()
            lines.append(pages.Html(f"<br>{label}: {pages.said(text)}"))
    return pages.joined(lines)


def facts(arguments, job):
    """One line of what was run."""
    (width, height), (h, w) = job.picture.size, job.size
    worked = "" if (h, w) == (height, width) else f", worked on as {w}x{h}"
    model = given(arguments, "model")
    named = "the shipped model" if model is None else f"model {bare(model, True)}"
    recipe, seed, dtype = arguments.recipe, arguments.seed, arguments.dtype
    return f"{width}x{height} pixels{worked}; recipe {recipe}, seed {seed}, {named}, {dtype}"


def target_section(arguments, job, target, edit, result):
    """Before and after, the mask and the noise map of one target."""
    (width, height), (h, w) = job.picture.size, job.size
    rows, columns = edit.mask.shape[1:]
    factor = job.image.shape[-1] // columns
    # The cells reach over the picture's edge where its sides are no multiples of a cell.
    shared = {
        "width": width,
        "height": height,
        "across": f"{100 * columns * factor / w:.6g}%",
        "down": f"{100 * rows * factor / h:.6g}%",
    }
    compare = heat = note = ""
    if arguments.command == "edit":
        shown = embedded(arguments, result)
        compare = pages.filled("compare.html", result=shown, width=width, height=height)
    if edit.noise_map is not None:
        noise_map = edit.noise_map[0]
        shown = pages.embedded(images.heat_map(noise_map), None, lossless=True)
        heat = pages.filled("heat.html", heat=shown, largest=f"{noise_map.max():.3g}", **shared)
    if edit.unchanged:
        note = pages.Html("<p>The mask of this run is empty: the picture stays as it is.</p>")
    elif arguments.command == "edit" and job.options.decode_window is not None:
        seen = window.described(edit.mask[0], job.options.decode_window, job.multiple)
        note = pages.Html(f"<p>Decoded in a window of {seen}.</p>")
    return pages.filled(
        "target.html", heading=pages.said(target), note=note, compare=compare, heat=heat, **shared
    )


def controls(options):
    """The panel of sliders."""
    return pages.filled("controls.html", rows=pages.joined(row(n, options) for n in SLIDERS))


def row(name, options):
    """The slider and the number of one option."""
    least, most, step, smallest, largest = SLIDERS[name]
    value, clamp = started(options)[name], name.partition("mask_clamp_")[2]
    choice = pages.filled("choice.html", value=clamp) if clamp else ""
    return pages.filled(
        "row.html",
        option=name,
        choice=choice,
        label=LABELS[name],
        help=DECLARED[name].help,
        value=value,
        least=least,
        most=max(most, value),
        step=step,
        # the run's own value is always valid
        smallest=min(smallest, value),
        largest=max(largest, value),
    )


def started(options):
    """What the panel shows first: the run's options, and a quantile to start from."""
    values = {name: getattr(options, name) for name in SLIDERS}
    values["mask_clamp_quantile"] = (
        options.mask_clamp_quantile or RECIPES["smooth"].mask_clamp_quantile
    )
    return values


def panel_of(arguments, options):
    """What the program needs to know of the options, and the command without those it varies."""
    recipe = RECIPES[arguments.recipe]
    return {
        "run": started(options),
        "clamp": "quantile" if options.mask_clamp_quantile else "ratio",
        "recipe": {name: getattr(recipe, name) for name in SLIDERS},
        "flags": {name: flag(name) for name in SLIDERS},
        "command": shlex.join(words(arguments, leave_out=SLIDERS)),
    }


def cells_of(edit):
    """The numbers of one target: its noise map, or the mask that was given."""
    known = edit.mask if edit.noise_map is None else edit.noise_map
    height, width = known.shape[1:]
    cells = pages.numbers(known[0])
    return {"height": height, "width": width, "cells": cells, "given": edit.noise_map is None}


def phases(targets, costs, spent):
    """The table of what each phase took: those that did not run are left out.

    Args:
        targets: how many the plan counts.
        spent: {phase: list of seconds, one for each time that it ran}.
    """
    planned = {
        "mask": costs.mask_evaluations,
        "inversion": costs.inversion_evaluations,
        "decoding": costs.decode_evaluations // max(1, targets),
    }
    rows = []
    for phase, times in spent.items():
        most = "at most " if costs.at_most and phase == "inversion" else ""
        count = pages.number(f"{most}{len(times) * planned[phase]}")
        rows.append([phase, count, pages.number(f"{sum(times):.1f}")])
    return pages.table(["phase", "UNet evaluations", "seconds"], rows)


def options_table(options):
    """Every option that the picture depends on, with what it is; it is one picture."""
    rows = [
        [f"--{flag(name)}", value, DECLARED[name].help]
        for name, value in looked_at(options, "picture").items()
        if not DECLARED[name].batch
    ]
    return pages.table(["option", "value", "what it is"], rows)
