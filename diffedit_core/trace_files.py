"""The arrays of a run as .npy files: written with --save-trace, random draws read with
--load-noise."""

import dataclasses
import json
from pathlib import Path

import mindspore as ms
import numpy as np

from . import files
from .errors import InputError

WHOLE = ("posterior", "rolls")  # the other draws are saved without the axis of the one picture


def save(arguments, job, draws, edits, plan, folder):
    """Every array of the run as .npy, in a folder that appears at once; each of several targets in
    a folder of its own.

    Raises:
        InputError: the folder cannot be written.
    """
    target = Path(arguments.save_trace)
    first = 1 if job.options.blend_level == "noisier" else 0  # then no clean level is used
    try:
        with files.folder_written(target) as part:
            for name, array in draws._asdict().items():
                if array is not None:
                    np.save(part / f"{name}.npy", array if name in WHOLE else array[0])
            for i, edit in enumerate(edits):
                place = part if len(edits) == 1 else part / f"target-{i + 1}"
                place.mkdir(exist_ok=True)
                for name, array in _arrays(edit, first).items():
                    if array is not None:
                        np.save(place / f"{name}.npy", array)
            record = _record(arguments, job, plan, folder)
            (part / "options.json").write_text(json.dumps(record, indent=1))
    except OSError as error:
        raise InputError(
            f"{target} could not be written ({error.strerror or error}): give another place."
        ) from None


def _arrays(edit, first):
    inverted = edit.inverted_latents
    return {
        "noise_map": edit.noise_map,
        "mask": edit.mask,
        "decoded_latents": edit.decoded_latents,
        "decoded": edit.decoded,
        "roundtrip": edit.roundtrip,
        "image": edit.image,
        "latents": None if inverted is None else inverted[0],
        "inverted_latents": None if inverted is None else inverted[first:],
    }


def _record(arguments, job, plan, folder):
    """What was run, as JSON."""
    prompts = job.prompts._asdict()
    return {
        "command": arguments.command,
        **prompts,
        "recipe": arguments.recipe,
        "seed": arguments.seed,
        "dtype": arguments.dtype,
        "kernels": arguments.kernels,
        "hf32": arguments.hf32,
        "model": str(folder),
        "picture": list(job.picture.size),
        "mindspore": ms.__version__,
        "options": dataclasses.asdict(job.options),
        "timesteps": plan.timesteps.tolist(),
        "mask_timestep": plan.mask_timestep,
    }


def load_noise(folder, drawn, options, looks_for_mask):
    """The `Draws` of a folder, of the shapes and kinds that a run would draw itself.

    Args:
        folder: as `save` writes it.
        drawn: `Draws` of this run; what the folder lacks and the run does not use comes from it.
    Raises:
        InputError: a file is missing, unreadable, or of another run.
    """
    used = {
        "maps": looks_for_mask,
        "posterior": options.sample_posterior,
        "posterior_mask": options.posterior_per_map,
        "rolls": True,
    }
    found = {}
    for name, array in drawn._asdict().items():
        file = Path(folder) / f"{name}.npy"
        if array is not None and (used[name] or file.exists()):
            shape = array.shape if name in WHOLE else array.shape[1:]
            found[name] = _read(file, shape, array.dtype).reshape(array.shape)
    return drawn._replace(**found)


def _read(file, shape, dtype):
    """A .npy file of finite numbers of this shape and kind."""
    try:
        with open(file, "rb") as handle:  # np.load would take a zip for an .npz
            array = np.lib.format.read_array(handle, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(
            f"{file} is missing: --load-noise needs the draws of this recipe."
        ) from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file} is not a readable .npy file ({error}): write it again.") from None
    same_kind = array.dtype.kind == dtype.kind
    with np.errstate(over="ignore"):
        narrow = array.astype(dtype) if same_kind else array
    if array.shape != shape or not same_kind or not np.isfinite(narrow).all():
        raise InputError(
            f"{file} holds {array.dtype} {list(array.shape)}, this run draws finite "
            f"{dtype} {list(shape)}: use the noise of a run with the same picture size, "
            "number of maps and regularisation."
        )
    if dtype.kind == "i" and not (0 <= narrow).all():
        raise InputError(f"{file} holds negative shifts: use the {file.stem} of a trace.")
    return narrow
