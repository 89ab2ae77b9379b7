"""The files that a command writes: checked before anything is computed, and written whole or not at
all."""

import os
from pathlib import Path

from .arguments import given
from .errors import InputError

# MindSpore is imported inside the functions, as in cli.py.


STANDARD = Path("-")  # standard output
PAGES = (".html", ".htm")


def plan_outputs(arguments):
    """The files of each target, {kind: path}, checked to be writable before anything is
    computed."""
    from . import images

    stem = images.stem(arguments.image)
    wanted = {
        "grid": given(arguments, "grid"),
        "map": given(arguments, "map_out"),
        "mask": given(arguments, "mask_out"),
    }
    if arguments.command == "edit":
        wanted["out"] = given(arguments, "out") or f"{stem}-edited.png"
        if given(arguments, "mask") and wanted["map"]:
            raise InputError(
                "--map-out has nothing to show with --mask: no noise map is computed for a given "
                "mask."
            )
    elif not any(wanted.values()) and not given(arguments, "report"):
        wanted["mask"] = f"{stem}-mask.png"
    wanted = {kind: Path(path) for kind, path in wanted.items() if path}
    several = len(arguments.target) > 1
    if several and STANDARD in wanted.values():
        raise InputError("Several targets cannot all go to standard output: give file names.")
    outputs = [
        {
            kind: path.with_name(f"{path.stem}-{i + 1}{path.suffix}") if several else path
            for kind, path in wanted.items()
        }
        for i in range(len(arguments.target))
    ]
    pictures, pages = [path for files in outputs for path in files.values()], page_of(arguments)
    paths = pictures + pages
    if not arguments.dry_run:
        for path in paths:
            images.check_writable(path, picture=path not in pages)
        if given(arguments, "save_trace"):
            check_folder(arguments.save_trace)
    if len({p.resolve() for p in paths}) < len(paths):
        raise InputError("Two outputs have the same file name: give each its own.")
    for source in filter(None, (arguments.image, given(arguments, "mask"))):
        if str(source) != "-" and any(
            p.exists() and Path(source).exists() and p.samefile(source) for p in paths
        ):
            raise InputError(
                f"{source} is the input and would be overwritten: give another output name."
            )
    return outputs


def page_of(arguments):
    """The file of the page, a list of one or none."""
    path = given(arguments, "report")
    if path is None:
        if arguments.report_full:
            raise InputError("--report-full changes nothing without --report: leave it out.")
        return []
    if Path(path).suffix.lower() not in PAGES:
        raise InputError(f"{path} does not end in .html: browsers need that to show a page.")
    return [Path(path)]


def check_folder(path):
    """Raise InputError where a folder can be neither created nor written to."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: --save-trace needs a folder.")
    parent = path if path.is_dir() else path.resolve().parent
    if not parent.is_dir():
        raise InputError(f"The folder {parent} does not exist: create it first.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(
            f"{parent} cannot be written to: change its permissions or give another folder."
        )


def write(arguments, job, target, edit, files, factor):
    """Write the pictures of one target, at the input's size. Returns the result."""
    from PIL import Image

    from . import images

    picture, (height, width) = job.picture, job.size
    final = (picture.size[1], picture.size[0])
    cells = images.resize_mask(images.mask_to_pixels(edit.mask[0], (height, width), factor), final)
    result = finished(job, edit)
    shown = {"out": lambda: result, "mask": lambda: _grey(cells)}
    heat = None
    if edit.noise_map is not None:
        heat = images.heat_map(images.mask_to_pixels(edit.noise_map[0], (height, width), factor))
        heat = heat.resize(picture.size, resample=Image.Resampling.NEAREST)
        shown["map"] = lambda: heat
    labelled = [(arguments.source or "source", picture)] + (
        [("heat map", heat)] if heat is not None else []
    )
    labelled += [("mask over source", images.overlay(picture, cells))]
    labelled += [(target, result)] if arguments.command == "edit" else []
    shown["grid"] = lambda: images.labelled_grid(labelled)
    for kind, path in files.items():
        images.save_atomically(path, shown[kind]())
    return result


def finished(job, edit):
    """The edited picture as PIL image of the input's size.

    Where the edit was worked on at another size, the background is finished at the input's: what is
    far from the mask are the input's own pixels.
    """
    import numpy as np

    from . import background, images, results

    if edit.unchanged or edit.decoded_latents is None:
        return job.picture
    final = job.picture.size[::-1]
    if final == job.size:
        return images.to_pil(images.crop(edit.image, job.size))[0]

    def enlarged(pixels):
        return images.resized(images.crop(pixels, job.size), final)

    w = enlarged(results.pixel_weight(job.options, edit.mask, job.image.shape))
    source = images.to_array([job.picture])
    roundtrip = None if edit.roundtrip is None else enlarged(edit.roundtrip)
    kind = job.options.background
    if roundtrip is None and kind == "restored":
        kind = "decoded"  # the mask is everywhere
    pixels = background.finished(kind, enlarged(edit.decoded), source, roundtrip, np.clip(w, 0, 1))
    return images.to_pil(pixels)[0]


def _grey(mask):
    from PIL import Image

    from . import images

    return Image.fromarray(images.round_half_up(mask * 255))
