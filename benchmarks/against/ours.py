"""Our side: the process that edits with `diffedit_core`.

    python -m benchmarks.against.ours FOLDER NAME

FOLDER is of `job.write`, NAME that of one of its options.
"""

import copy

import mindspore as ms
import numpy as np

from diffedit_core import edit, images, kernels
from diffedit_core.errors import InputError
from diffedit_core.model import Model
from diffedit_core.options import Options

from ..timing import peak_memory
from . import child, job

PHASES = {"mask": "maps"}  # the name that `watch` gives a phase -> ours, where it is another


def watched(model, clock):
    """(a model that tells the clock what it does, the `watch` of its edit)."""
    own = copy.copy(model)
    own.encode_prompts = clock.timed("text", model.encode_prompts)
    own.encode_image = clock.timed("encode", model.encode_image)
    own.decode_latents = clock.timed("VAE decode", model.decode_latents)

    def counted(function):
        def run(latents, *others, **more):
            clock.count(latents.shape[0])
            return function(latents, *others, **more)

        return run

    def watch(phase, total, iterable):
        with clock.phase(PHASES.get(phase, phase)):
            yield from iterable

    own.predict = counted(model.predict)
    if hasattr(model, "evaluate"):
        own.evaluate = counted(model.evaluate)
    return own, watch


def editor(model, picture, source, targets, options, drawn):
    """A function of a `child.Clock` that edits, and gives the arrays that are compared: mask [h,w],
    inverted latents [K,C,h,w] from the first level of noise, decoded latents [C,h,w], and picture
    [H,W,3] in [0,1], of the first target."""

    def run(clock):
        own, watch = watched(model, clock)
        edits = edit.edit(own, picture, source, targets, options, drawn, watch=watch)
        if any(each.unchanged for each in edits):
            raise InputError(
                "A mask is empty, so that no edit was timed: choose another picture or target."
            )
        found = edits[0]
        pixels = np.clip(found.image[0].transpose(1, 2, 0) / 2 + 0.5, 0, 1)
        return {
            "mask": found.mask[0],
            "inverted": found.inverted_latents[1:, 0],
            "decoded": found.decoded_latents[0],
            "picture": pixels,
        }

    return run


def memory():
    """The largest memory so far, in bytes: of the device, on a CPU of the process."""
    return child.resident() if kernels.device() == "CPU" else round(peak_memory() * 2**30)


def main(words):
    """Run the process."""
    say = child.speaker()
    folder, name = words
    given = job.read(folder)
    options = Options(**given["options"][name])
    drawn = job.read_draws(folder, options)
    picture = images.to_array([images.load_image(job.picture(folder))])

    def load():
        model = Model.load(given["model"], given["dtype"])
        return editor(model, picture, given["source"], given["targets"], options, drawn)

    versions = {"mindspore": ms.__version__, "kernels": kernels.default_kernels()}
    child.serve(say, versions, load, job.saver(folder, name), memory, given["edits"])


if __name__ == "__main__":
    child.guarded(main)
