"""The command line: `diffedit edit`, `diffedit mask`, `diffedit info`."""

import argparse
import contextlib
import dataclasses
import errno
import os
import re
import sys
import warnings
from pathlib import Path

from .errors import InputError
from .outputs import FEATHER, WHOLE_DRAWS, given, plan_outputs, save_trace, write

# MindSpore is imported inside the functions: `--help` answers at once, and its warnings are
# silenced first.

RECIPE_OPTIONS = (  # flag, type, what it is
    ("steps", int, "steps of the whole grid, N"),
    (
        "guidance-scale",
        float,
        "classifier-free guidance of the decoding, and of the mask in recipe diffusers; 1 is none",
    ),
    ("num-maps", int, "noise draws that are averaged for the mask"),
    ("mask-noise-strength", float, "how noisy the picture is when the mask is looked for"),
    ("mask-clamp-ratio", float, "the noise map is cut off at this many times its mean"),
    (
        "mask-clamp-quantile",
        float,
        "cut it off at this quantile instead, such as 0.98; 0 is at the mean",
    ),
    (
        "mask-smoothing",
        float,
        "Gaussian over the noise map, standard deviation in latent cells; 0 is none",
    ),
    ("mask-threshold", float, "cells above this share of the cut are edited"),
    ("map-batch", int, "noise draws in one UNet batch; changes memory and speed only"),
)
EDIT_OPTIONS = (  # the same, of `edit` only
    ("encode-ratio", float, "how deep to invert, the paper's r"),
    (
        "inversion-guidance-scale",
        float,
        "guidance of the inversion; needs --inversion-prompt source",
    ),
    (
        "num-reg-steps",
        int,
        "regularise the inverted noise with so many gradient steps in each step (pix2pix-zero); 0 is none",
    ),
    ("lambda-auto-corr", float, "size of these steps against the noise's correlation with itself"),
    ("lambda-kl", float, "size of these steps towards mean 0 and variance 1"),
)
RECIPES = ("paper", "smooth", "diffusers")
INTEGRATORS, INVERSIONS = ("ddim", "dpmpp_2m", "edict", "belm"), (
    "explicit",
    "fixed_point",
    "anderson",
)
MASK_FLAGS = (
    "num-maps",
    "mask-noise-strength",
    "mask-clamp-ratio",
    "mask-clamp-quantile",
    "mask-smoothing",
    "mask-threshold",
    "map-batch",
)
RENAMED = {"steps": "num_inference_steps"}


def parser():
    """The argument parser; defaults of None mean: as the recipe has it."""
    top = argparse.ArgumentParser(
        prog="diffedit",
        description="Edit a picture from two sentences (DiffEdit, arXiv 2210.11427).",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="{edit,mask,info}")
    shown = argparse.ArgumentDefaultsHelpFormatter
    edit = commands.add_parser("edit", help="write the edited picture", formatter_class=shown)
    mask = commands.add_parser(
        "mask", help="only find where the edit would be", formatter_class=shown
    )
    info = commands.add_parser("info", help="print what a model is", formatter_class=shown)
    info.add_argument(
        "model",
        nargs="?",
        default=None,
        metavar="MODEL",
        help="folder or repository id (default: the shipped one)",
    )

    none = argparse.SUPPRESS  # a default of None is not worth showing
    for command in (edit, mask):
        add = command.add_argument
        add("image", metavar="IMAGE", help="the picture to edit")
        add("--source", default="", metavar="TEXT", help="what the picture shows; may be left out")
        add(
            "--target",
            action="append",
            required=True,
            metavar="TEXT",
            help="what it shall show; several share the inversion",
        )
        add("--negative", default="", metavar="TEXT", help="what to guide away from")
        add(
            "--model",
            default=none,
            metavar="DIR|REPO",
            help="model in the diffusers layout (default: the shipped one)",
        )
        add(
            "--recipe",
            choices=RECIPES,
            default="paper",
            help="the paper's algorithm, the same "
            "with a mask of fewer holes, or the public pipeline's",
        )
        for flag, kind, text in RECIPE_OPTIONS:
            add(
                f"--{flag}", type=kind, default=none, metavar="N" if kind is int else "X", help=text
            )
        add(
            "--sample-posterior",
            action="store_true",
            default=none,
            help="draw the latents instead of taking their mean",
        )
        add(
            "--mask-out",
            default=none,
            metavar="FILE",
            help="write the mask, white where the edit is",
        )
        add(
            "--map-out",
            default=none,
            metavar="FILE",
            help="write the heat map of the noise difference",
        )
        add(
            "--grid",
            default=none,
            metavar="FILE",
            help="write source, heat map, mask and result side by side",
        )
        add(
            "--size",
            type=int,
            default=none,
            metavar="PX",
            help="work at no more than this on the longer side; by default a "
            "picture over 1.5 times the model's own size is brought down to it. The output has the input's size",
        )
        add("--tiling", action="store_true", help="encode and decode in tiles, for large pictures")
        add("--seed", type=int, default=0, help="of all random draws")
        add(
            "--dtype",
            choices=("fp32", "fp16", "bf16"),
            default="fp32",
            help="of weights and activations",
        )
        add(
            "--kernels",
            default="auto",
            metavar="NAME",
            help="lowering of the operations; `diffedit info` lists them",
        )
        add(
            "--save-trace", default=none, metavar="DIR", help="write every array of the run as .npy"
        )
        add(
            "--load-noise",
            default=none,
            metavar="DIR",
            help="take the random draws from such a folder",
        )
        add("--dry-run", action="store_true", help="print the plan and its cost, and stop")
        add("--quiet", action="store_true", help="no progress bars and no messages but errors")
    edit.add_argument(
        "--out",
        default=none,
        metavar="FILE",
        help="the edited picture (default: NAME-edited.png here)",
    )
    edit.add_argument(
        "--mask",
        default=none,
        metavar="FILE",
        help="edit here: any size, grey values mix; no mask is looked for",
    )
    edit.add_argument(
        "--inversion-prompt",
        choices=("empty", "source"),
        default=none,
        help="prompt of the inversion",
    )
    edit.add_argument(
        "--integrator",
        choices=INTEGRATORS,
        default=none,
        help="of inversion and decoding: edict and belm invert " "exactly, edict at twice the cost",
    )
    edit.add_argument(
        "--inversion",
        choices=INVERSIONS,
        default=none,
        help="of ddim: explicit, or its exact inverse by " "iteration, several evaluations a step",
    )
    for flag, kind, text in EDIT_OPTIONS:
        edit.add_argument(
            f"--{flag}", type=kind, default=none, metavar="N" if kind is int else "X", help=text
        )
    edit.add_argument(
        "--paste-background", action="store_true", help="the source's own pixels outside the mask"
    )
    edit.add_argument(
        "--feather",
        type=int,
        default=none,
        metavar="PX",
        help=f"width of --paste-background's transition (default: {FEATHER})",
    )
    return top


def main(arguments=None):
    """Run the command line. Returns the exit code: 0, or 2 for bad input, which prints one
    sentence."""
    os.environ.setdefault("GLOG_v", "3")  # MindSpore: errors only
    options = parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _quiet if getattr(options, "quiet", False) else _say_warning
        try:
            return info(options) if options.command == "info" else run(options)
        except InputError as error:
            print(f"diffedit: error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        except OSError as error:
            if (
                error.errno != errno.ENAMETOOLONG
            ):  # pathlib raises it from mere questions such as exists()
                raise
            print(
                f"diffedit: error: the name {error.filename} is too long for this file system: shorten it.",
                file=sys.stderr,
            )
            return 2
        except KeyboardInterrupt:
            print("diffedit: interrupted, nothing was written", file=sys.stderr)
            return 130


def _say_warning(message, category, *_, **__):
    if issubclass(category, UserWarning):
        print(f"diffedit: warning: {message}", file=sys.stderr)


def _quiet(*_, **__):
    pass


def info(options):
    """`diffedit info [MODEL]`."""
    import mindspore as ms

    from . import kernels, model

    found = model.describe(options.model or model.ORCHARD)
    print(f"model            {found['folder']}")
    print(
        f"trained on       {found['picture_size']}x{found['picture_size']} pictures, {found['prediction_type']} prediction"
    )
    for component, count in found["parameters"].items():
        print(f"{component:<16} {count:>13,} parameters in {', '.join(found['files'][component])}")
    print(
        f"mindspore        {ms.__version__} on {kernels.device()}, kernels {kernels.default_kernels()!r} "
        f"(of {', '.join(kernels.LOWERINGS)}; {', '.join(kernels.UNTRIED)} not run on a device yet)"
    )
    return 0


@dataclasses.dataclass
class Job:
    """A checked command: the picture as array, and what to do with it."""

    picture: object  # PIL, as given
    image: object  # [1,3,H8,W8] float32, resized and padded
    size: tuple  # (H, W) before padding
    mask: object  # [1,h,w] or None
    options: object  # diffedit.Options
    shape: tuple  # of the latents, (C,h,w)


def run(arguments):
    """`diffedit edit` and `diffedit mask`."""
    from . import diffedit, model

    outputs = plan_outputs(arguments)
    source = given(arguments, "model") or model.ORCHARD
    folder = model.find(source, arguments.dtype == "fp16")
    configs = model.read_configs(folder)
    job = prepare(arguments, configs)
    plan = diffedit.plan(
        job.options, configs.scheduler, len(set(arguments.target)), job.mask is not None
    )
    if arguments.dry_run:
        print_plan(arguments, configs, job, plan, folder)
        return 0
    draws = make_draws(arguments, job)

    bars = Bars(arguments.quiet)
    with bars.open("loading", 3) as step:
        loaded = model.Model.load(
            folder, arguments.dtype, kernel_name(arguments), on_component=lambda name: step(name)
        )
    loaded.on_compile = bars.note
    from . import vae

    try:
        edits = diffedit.edit(
            loaded,
            job.image,
            arguments.source,
            arguments.target,
            job.options,
            draws,
            arguments.negative,
            job.mask,
            vae.Tiling() if arguments.tiling else None,
            bars.phase,
            arguments.command == "mask",
        )
    finally:
        bars.close()
    for target, edit, files in zip(arguments.target, edits, outputs):
        write(arguments, job, target, edit, files, configs.vae.factor)
    if given(arguments, "save_trace"):
        save_trace(arguments, job, draws, edits, plan, folder)
    if not arguments.quiet:
        for files in outputs:
            print("\n".join(str(path) for path in files.values()))
    return 0


def prepare(arguments, configs):
    """Read and check the inputs that need no model: a `Job`."""
    from PIL import Image

    from . import diffedit, images, kernels

    if arguments.kernels not in ("auto", *kernels.LOWERINGS):
        raise InputError(
            f"There are no kernels {arguments.kernels!r}: choose auto or one of {', '.join(kernels.LOWERINGS)}."
        )
    changes = {
        RENAMED.get(flag, flag.replace("-", "_")): given(arguments, flag.replace("-", "_"))
        for flag, _, _ in (*RECIPE_OPTIONS, *EDIT_OPTIONS)
    }
    changes |= {
        name: given(arguments, name)
        for name in ("sample_posterior", "inversion_prompt", "integrator", "inversion")
    }
    options = diffedit.RECIPES[arguments.recipe].replace(**changes)
    check_effect(arguments, options)
    if arguments.seed < 0:
        raise InputError(f"--seed is {arguments.seed}: it has to be 0 or more.")
    if given(arguments, "feather") is not None and arguments.feather < 0:
        raise InputError(f"--feather is {arguments.feather}: it has to be 0 or more pixels.")
    picture = images.load_image(arguments.image)
    size = working_size(
        picture.size, configs.picture_size, given(arguments, "size"), arguments.quiet
    )
    worked = (
        picture if size == picture.size else picture.resize(size, resample=Image.Resampling.BICUBIC)
    )
    factor = configs.vae.factor
    image, size = images.pad_to_multiple(images.to_array([worked]), factor)
    mask = None
    if given(arguments, "mask"):
        mask = images.mask_to_latents(
            images.load_mask(arguments.mask, picture.size), size, image.shape[2:], factor
        )[None]
    return Job(
        picture,
        image,
        size,
        mask,
        options,
        (configs.latent_channels, *(n // factor for n in image.shape[2:])),
    )


def check_effect(arguments, options):
    """Raise InputError where an option is given that changes nothing beside the others."""

    def refuse(flags, condition, reason):
        for flag in flags:
            if condition and given(arguments, flag.replace("-", "_")) not in (None, ""):
                raise InputError(f"--{flag} changes nothing {reason}: leave it out.")

    refuse(("mask-clamp-ratio",), options.mask_clamp_quantile, "with a mask-clamp-quantile")
    if arguments.command == "edit":
        refuse(
            MASK_FLAGS,
            given(arguments, "mask"),
            "with --mask, which is used instead of a mask that is looked for",
        )
        refuse(
            ("lambda-auto-corr", "lambda-kl"), not options.num_reg_steps, "without --num-reg-steps"
        )
        refuse(("feather",), not arguments.paste_background, "without --paste-background")
    else:
        refuse(("steps",), not options.mask_on_grid, f"about the mask of recipe {arguments.recipe}")
        refuse(
            ("guidance-scale", "negative"),
            not options.guided_mask,
            f"about the mask of recipe {arguments.recipe}",
        )
    guided = (
        options.guidance_scale != 1
        or arguments.command == "edit"
        and options.inversion_guidance_scale != 1
    )
    refuse(("negative",), not guided, "without guidance")


def working_size(size, trained, limit, quiet):
    """(W, H) to work at: never larger than the picture, at most `limit` on the longer side."""
    longer = max(size)
    if limit is not None and limit < 8:
        raise InputError(f"--size is {limit}: it has to be at least 8 pixels.")
    if limit is None:
        limit = trained if longer > 1.5 * trained else longer
        if limit < longer and not quiet:
            print(
                f"diffedit: working at {limit} pixels, for which the model was trained (--size {longer} keeps its "
                "own size)",
                file=sys.stderr,
            )
    scale = min(1.0, limit / longer)
    return tuple(max(1, round(side * scale)) for side in size)


def make_draws(arguments, job):
    """The random draws: from the seed, or from --load-noise."""
    import numpy as np

    from . import diffedit, regularise

    options = job.options
    draws = diffedit.draw_noise(
        arguments.seed, 1, options.num_maps, job.shape, options.posterior_per_map
    )
    if options.num_reg_steps:
        stream = np.random.default_rng([arguments.seed, 0, 3, 0])  # 0 to 2 are those of draw_noise
        draws["rolls"] = regularise.draw_rolls(
            [stream],
            options.num_encode_steps,
            options.num_reg_steps,
            options.num_auto_corr_rolls,
            (1, *job.shape),
        )
    if not given(arguments, "load_noise"):
        return draws
    folder = Path(arguments.load_noise)
    used = {
        "maps": job.mask is None,
        "posterior": options.sample_posterior,
        "posterior_mask": options.posterior_per_map,
        "rolls": True,
    }
    for name, drawn in draws.items():
        file, shape = folder / f"{name}.npy", (
            drawn.shape if name in WHOLE_DRAWS else drawn.shape[1:]
        )
        if not file.exists() and not used[name]:
            continue
        try:
            with open(file, "rb") as handle:  # np.load would take a zip for an .npz
                array = np.lib.format.read_array(handle, allow_pickle=False)
        except FileNotFoundError:
            raise InputError(
                f"{file} is missing: --load-noise needs the draws of this recipe."
            ) from None
        except (OSError, ValueError, EOFError) as error:
            raise InputError(
                f"{file} is not a readable .npy file ({error}): write it again."
            ) from None
        kind = drawn.dtype.kind
        with np.errstate(over="ignore"):
            narrow = array.astype(drawn.dtype) if array.dtype.kind == kind else array
        if array.shape != shape or array.dtype.kind != kind or not np.isfinite(narrow).all():
            raise InputError(
                f"{file} holds {array.dtype} {list(array.shape)}, this run draws finite {drawn.dtype} {list(shape)}: "
                "use the noise of a run with the same picture size, number of maps and regularisation."
            )
        if kind == "i" and not (0 <= narrow).all():
            raise InputError(f"{file} holds negative shifts: use the {name} of a trace.")
        draws[name] = narrow.reshape(drawn.shape)
    return draws


def kernel_name(arguments):
    """`--kernels` as the model takes it: None for the device's own."""
    return None if arguments.kernels == "auto" else arguments.kernels


def print_plan(arguments, configs, job, plan, folder):
    """What `--dry-run` says."""
    from . import kernels, model

    height, width = job.image.shape[2:]
    total = plan.mask_evaluations + plan.inversion_evaluations + plan.decode_evaluations
    steps = (
        ", ".join(map(str, plan.timesteps))
        if len(plan.timesteps) < 12
        else f"{', '.join(map(str, plan.timesteps[:3]))}, ..., {', '.join(map(str, plan.timesteps[-2:]))}"
    )
    print(f"model             {folder}")
    print(f"recipe            {arguments.recipe}")
    print(
        f"picture           {job.picture.size[0]}x{job.picture.size[1]}, worked on as {width}x{height}, "
        f"latents {job.shape[2]}x{job.shape[1]}"
    )
    if arguments.command == "edit" or job.options.mask_on_grid:
        print(
            f"grid              {job.options.num_inference_steps} steps, {configs.scheduler.timestep_spacing} spacing"
        )
    if arguments.command == "edit":
        print(
            f"integrator        {job.options.integrator}, {job.options.inversion} inversion"
            + (
                f", {job.options.num_reg_steps} regularising steps"
                if job.options.num_reg_steps
                else ""
            )
        )
        print(f"K                 {plan.num_encode_steps} steps at timesteps {steps}")
    print(
        "mask              "
        + (
            "as given"
            if plan.mask_timestep is None
            else f"{job.options.num_maps} noise maps at timestep {plan.mask_timestep}"
        )
    )
    if arguments.command == "edit":
        most = "at most " if plan.at_most else ""
        print(
            f"UNet evaluations  {most}{total}: {plan.mask_evaluations} for the mask, "
            f"{most}{plan.inversion_evaluations} for the inversion, "
            f"{plan.decode_evaluations} for the decoding of {len(set(arguments.target))} target(s)"
        )
    else:
        print(f"UNet evaluations  {plan.mask_evaluations} for the mask")
    rows = max(
        2,
        job.options.map_batch
        * (1 + len(set(arguments.target)))
        * (2 if job.options.guided_mask else 1),
    )
    weights, activations = model.estimate_memory(
        configs,
        job.shape[1:],
        rows,
        arguments.dtype,
        kernel_name(arguments) or kernels.default_kernels(),
    )
    print(
        f"memory            about {(weights + activations) / 2**30:.1f} GiB: {weights / 2**30:.1f} weights, "
        f"{activations / 2**30:.1f} activations (an estimate)"
    )


class Bars:
    """Progress bars on a terminal, nothing in a pipe. One bar at a time; `note` says on it what
    takes long."""

    def __init__(self, quiet):
        self.disable = (
            True if quiet else None
        )  # tqdm: None means silent where stderr is no terminal
        self.bar = None

    @contextlib.contextmanager
    def open(self, name, total):
        from tqdm import tqdm

        self.bar = tqdm(total=total, desc=name, disable=self.disable, leave=False)
        yield lambda text: (self.bar.set_postfix_str(text), self.bar.update())
        self.close()

    def phase(self, name, total):
        """A bar for a phase of the edit; returns its on_step."""
        from tqdm import tqdm

        self.close()
        self.bar = tqdm(total=total, desc=name, disable=self.disable, leave=True)
        return lambda done, timestep, latents: (
            self.bar.update(done - self.bar.n) if not self.bar.disable else None
        )

    def note(self, text):
        """Called by the model before and after a graph compiles."""
        if self.bar is not None and not self.bar.disable:
            self.bar.set_postfix_str(
                re.sub("^compiling (.*)", r"compiling the \1, once", text.replace("_", " "))
            )

    def close(self):
        if self.bar is not None:
            self.bar.close()
            self.bar = None


if __name__ == "__main__":
    sys.exit(main())
