"""The command line: `diffedit edit`, `diffedit mask`, `diffedit info`."""

import dataclasses
import errno
import os
import sys
import warnings

from .arguments import MASK_STAGES, flag, given, parser
from .errors import InputError
from .integrators import INTEGRATORS
from .options import DECLARED, RECIPES, stages_of

# MindSpore is imported inside the functions: `--help` answers at once, its warnings are silenced.


def main(arguments=None):
    """Run the command line. Returns the exit code: 0, or 2 for bad input, which prints one
    sentence."""
    os.environ.setdefault("GLOG_v", "3")  # MindSpore: errors only
    options = parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _quiet if getattr(options, "quiet", False) else _say_warning
        try:
            code = info(options) if options.command == "info" else run(options)
            sys.stdout.flush()
            return code
        except InputError as error:
            print(f"diffedit: error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        except BrokenPipeError:  # `diffedit ... | head -1`: whoever reads has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:  # from mere questions such as Path.exists()
                raise
            print(
                f"diffedit: error: the name {error.filename} is too long for this file system: "
                "shorten it.",
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
    place = model_place(options.model)

    import mindspore as ms

    from . import folder, graph_cache, kernels

    found = folder.describe(place or folder.ORCHARD)
    print(f"model            {found['folder']}")
    if found["knows"]:
        print(f"knows            {found['knows']}")
    size, kind = found["picture_size"], found["prediction_type"]
    print(f"trained on       {size}x{size} pictures, {kind} prediction")
    for component, count in found["parameters"].items():
        files = ", ".join(found["files"][component])
        print(f"{component:<16} {count:>13,} parameters in {files}")
    print(
        f"compiled graphs  in {graph_cache.folder() or 'no folder'}\n"
        f"mindspore        {ms.__version__} on {kernels.device()}, kernels "
        f"{kernels.default_kernels()!r} (of {', '.join(kernels.LOWERINGS)}; "
        f"{', '.join(kernels.UNTRIED)} not run on a device yet)"
    )
    print("fp32 products    rounded to HF32 only on Ascend, and only with --hf32")
    return 0


@dataclasses.dataclass
class Job:
    """A checked command: the picture as array, and what to do with it."""

    picture: object  # PIL, as given
    image: object  # [1,3,H8,W8] float32, resized and padded
    size: tuple  # (H, W) before padding
    mask: object  # [1,h,w] or None
    options: object  # options.Options
    shape: tuple  # of the latents, (C,h,w)
    prompts: object  # prompts.Prompts
    multiple: int  # UNetConfig.factor


def run(arguments):
    """`diffedit edit` and `diffedit mask`."""
    from .outputs import plan_outputs, write

    outputs = plan_outputs(arguments)
    half = arguments.dtype == "fp16"
    place = model_place(given(arguments, "model"), half)

    from . import edit, folder, model, report, trace_files, vae
    from .doubts import doubt, limits_of_picture, limits_of_words
    from .plan import describe, plan
    from .progress import Bars

    found = folder.check(place or folder.ORCHARD, half)
    job = prepare(arguments, found.configs)
    doubt(arguments, limits_of_words(found.path, job.prompts))
    masked = job.mask is not None
    targets = set(job.prompts.targets) if masked else job.prompts.others
    costs = plan(job.options, found.configs.scheduler, len(targets), masked)
    if arguments.dry_run:
        print("\n".join(describe(arguments, found, job, costs, kernel_name(arguments))))
        return 0
    draws = make_draws(arguments, job)

    bars = Bars(arguments.quiet)
    settings = dict(dtype=arguments.dtype, kernels=kernel_name(arguments), hf32=arguments.hf32)
    settings["sequential"] = one_by_one(arguments, found, job, costs)
    with bars.open("loading", 3) as step:
        loaded = model.Model.load(found, on_component=lambda name: step(name), **settings)
    loaded.on_compile = bars.note
    try:
        edits = edit.edit(
            loaded,
            job.image,
            *job.prompts[:2],
            job.options,
            draws,
            *job.prompts[2:],
            mask=job.mask,
            only_mask=arguments.command == "mask",
            tiling=vae.Tiling() if arguments.tiling else None,
            watch=bars.watch,
        )
    finally:
        bars.close()
    doubt(arguments, limits_of_picture(job, edits))
    results = [
        write(arguments, job, *each, found.configs.vae.factor)
        for each in zip(arguments.target, edits, outputs)
    ]
    if given(arguments, "report"):
        report.write(arguments, job, edits, results, costs, bars)
    if given(arguments, "save_trace"):
        trace_files.save(arguments, job, draws, edits, costs, found.path)
    written = [str(path) for files in outputs for path in files.values()]
    written += filter(None, [given(arguments, "report")])
    if not arguments.quiet and "-" not in written:
        print("\n".join(written))
    return 0


def one_by_one(arguments, found, job, costs):
    """Whether to hold one component's weights at a time: --sequential, or else a lack of memory."""
    from . import memory, plan, weights

    asked = given(arguments, "sequential")
    if asked is not None or not weights.releasable():
        return bool(asked)
    needed = sum(plan.memory(arguments, found, job, costs, kernel_name(arguments)))
    free = memory.available()
    short = memory.needs_sequence(free, needed)
    if short and not arguments.quiet:
        print(
            f"diffedit: {free / 2**30:.1f} GiB are free of about {needed / 2**30:.1f} that all "
            "weights at once would need: one component at a time (--no-sequential keeps them)",
            file=sys.stderr,
        )
    return short


def model_place(source, half=False):
    """The folder of a model, None for the shipped one: found before MindSpore is imported, so that
    a wrong name is answered at once."""
    from .hub import find

    return None if source is None else find(source, half)


def prepare(arguments, configs):
    """Read and check the inputs that need no model: a `Job`."""
    from PIL import Image

    from . import images, kernels
    from .prompts import Prompts

    if arguments.kernels not in ("auto", *kernels.LOWERINGS):
        raise InputError(
            f"There are no kernels {arguments.kernels!r}: choose auto or one of "
            f"{', '.join(kernels.LOWERINGS)}."
        )
    changes = {name: given(arguments, name) for name in DECLARED}
    options = RECIPES[arguments.recipe].replace(**changes)
    check_effect(arguments, options)
    if arguments.seed < 0:
        raise InputError(f"--seed is {arguments.seed}: it has to be 0 or more.")

    picture = images.load_image(arguments.image)
    limit = given(arguments, "size")
    size = working_size(picture.size, configs.picture_size, limit, arguments.quiet)
    worked = picture
    if size != picture.size:
        worked = picture.resize(size, resample=Image.Resampling.BICUBIC)
    factor = configs.vae.factor
    image, size = images.pad_to_multiple(images.to_array([worked]), factor)
    mask = None
    if given(arguments, "mask"):
        pixels = images.load_mask(arguments.mask, picture.size)
        mask = images.mask_to_latents(pixels, size, image.shape[2:], factor)[None]
    shape = (configs.latent_channels, *(n // factor for n in image.shape[2:]))
    negatives = [given(arguments, n) or "" for n in NEGATIVES]
    prompts = Prompts.of(arguments.source, arguments.target, *negatives)
    return Job(picture, image, size, mask, options, shape, prompts, configs.unet.factor)


NEUTRAL = (0, "decoded")  # values of an option with which those that need it change nothing
NEGATIVES = ("negative", "mask_negative", "inversion_negative")


def check_effect(arguments, options):
    """Raise InputError where an option is given that changes nothing beside the others."""

    def refuse(name, reason):
        if given(arguments, name) not in (None, ""):
            shown = flag(name) if name in DECLARED else name.replace("_", "-")
            raise InputError(f"--{shown} changes nothing {reason}: leave it out.")

    about_mask = f"about the mask of recipe {arguments.recipe}"
    with_mask = "with --mask, which is used instead of a mask that is looked for"
    for name, declared in DECLARED.items():
        if declared.unless and getattr(options, declared.unless):
            refuse(name, f"with a {flag(declared.unless)}")
        if declared.needs and getattr(options, declared.needs) in NEUTRAL:
            refuse(name, f"without --{flag(declared.needs)}")
        stages = set(stages_of(name, options))
        if arguments.command == "mask" and not stages & set(MASK_STAGES):
            refuse(name, about_mask)
        if given(arguments, "mask") and stages <= {"maps", "mask"}:
            refuse(name, with_mask)

    if arguments.command == "edit":
        if options.guidance_scale == 1:
            refuse("negative", "without guidance")
        if options.inversion_guidance_scale == 1:
            refuse("inversion_negative", "without an --inversion-guidance-scale")
    if given(arguments, "mask"):
        refuse("mask_negative", with_mask)
    if INTEGRATORS[options.integrator].exact:
        refuse("inversion_timestep", "with an integrator whose equations name the timesteps")
    if options.guidance_scale == 1:
        refuse("guided_mask", "without guidance")
        refuse("guidance_interval", "without guidance")
    if arguments.command == "mask" and options.posterior_per_map:
        refuse("sample_posterior", "with --posterior-per-map, which draws the mask's own")
    if options.mask_guidance_scale == 1:
        refuse("mask_negative", about_mask if not options.guided_mask else "without guidance")


def working_size(size, trained, limit, quiet):
    """(W, H) to work at: never larger than the picture, at most `limit` on the longer side."""
    longer = max(size)
    if limit is not None and limit < 8:
        raise InputError(f"--size is {limit}: it has to be at least 8 pixels.")
    if limit is None:
        limit = trained if longer > 1.5 * trained else longer
        if limit < longer and not quiet:
            print(
                f"diffedit: working at {limit} pixels, for which the model was trained "
                f"(--size {longer} keeps its own size)",
                file=sys.stderr,
            )
    scale = min(1.0, limit / longer)
    return tuple(max(1, round(side * scale)) for side in size)


def make_draws(arguments, job):
    """The random draws: from the seed, or from --load-noise."""
    from . import trace_files
    from .draws import draws

    drawn = draws(job.options, [arguments.seed], job.shape)
    if not given(arguments, "load_noise"):
        return drawn
    return trace_files.load_noise(arguments.load_noise, drawn, job.options, job.mask is None)


def kernel_name(arguments):
    """`--kernels` as the model takes it: None for the device's own."""
    return None if arguments.kernels == "auto" else arguments.kernels


if __name__ == "__main__":
    sys.exit(main())
