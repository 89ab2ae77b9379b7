"""Every array of some thirty runs, to hold one state of the code against another, bit for bit.

    python -m tests.traces OUT                  write the arrays of all runs
    python -m tests.traces OUT --only NAME      those of the runs with this in their names
    python -m tests.traces OUT --against OLD    compare two such folders; exit code 1 if they differ

The runs go through the command line, the functions and the facade: the recipes, each integrator,
given, soft and differently sized masks, several targets, batches, half precision, regularisation,
given noise. They are short, since every array counts and no picture has to look well. The bits
depend on the processor, so both folders have to be of one machine.
"""

import argparse
import contextlib
import functools
import io
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from diffedit_core import cli, model

ASSETS = Path(model.__file__).parent / "assets"
APPLES = str(ASSETS / "bowl_of_apples.png")
TINY = Path(__file__).parent / "fixtures" / "pipeline" / "model"
SOURCE = "a bowl of apples on a wooden table"
TARGET = "a basket of pears on a wooden table"
PROMPTS = ["--source", SOURCE, "--target", TARGET]
SHORT = ["--steps", "6", "--num-maps", "2"]

COMMANDS = {  # name -> arguments behind the picture; {mask}, {soft} and {noise} are files
    "paper": [],
    "smooth": ["--recipe", "smooth"],
    "diffusers": ["--recipe", "diffusers"],
    "dpmpp_2m": ["--integrator", "dpmpp_2m"],
    "edict": ["--integrator", "edict"],
    "belm": ["--integrator", "belm"],
    "fixed_point": ["--integrator", "fixed_point"],
    "anderson": ["--integrator", "anderson"],
    "given_mask": ["--mask", "{mask}"],
    "soft_mask": ["--mask", "{soft}"],
    "targets": ["--target", "a bowl of lemons on sand", "--target", SOURCE, "--target", TARGET],
    "regularised": ["--num-reg-steps", "1"],
    "regularised_diffusers": ["--recipe", "diffusers", "--num-reg-steps", "1"],
    "half": ["--dtype", "fp16"],
    "noise": ["--load-noise", "{noise}", "--seed", "9"],
    "noise_regularised": ["--load-noise", "{noise_reg}", "--seed", "9", "--num-reg-steps", "1"],
    "posterior": ["--sample-posterior", "--seed", "3"],
    "map_batch": ["--map-batch", "2"],
    "guided_inversion": ["--inversion-prompt", "source", "--inversion-guidance-scale", "3"],
    "not_square": ["--size", "96", "{wide}"],
    "no_guidance": ["--guidance-scale", "1"],
    "paste": ["--paste-background", "--feather", "3"],
}
MASKS = {"mask_paper": [], "mask_diffusers": ["--recipe", "diffusers"]}


def inputs(folder):
    """Files that the commands take, by name."""
    rng = np.random.default_rng(5)
    mask = Image.fromarray(np.uint8(255 * (rng.random((16, 16)) < 0.4)))
    mask.resize((128, 128), Image.Resampling.NEAREST).save(folder / "mask.png")
    soft = Image.fromarray(np.uint8(rng.integers(0, 256, (9, 13))))
    soft.resize((75, 75), Image.Resampling.BICUBIC).save(folder / "soft.png")
    with Image.open(APPLES) as picture:
        picture.crop((0, 10, 128, 100)).resize((150, 105)).save(folder / "wide.png")
    names = {name: str(folder / f"{name}.png") for name in ("mask", "soft", "wide")}
    return names | {"noise": str(folder / "posterior"), "noise_reg": str(folder / "regularised")}


def run(arguments, out):
    """One command in this process; what it prints and warns goes to out/printed.txt."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = cli.main(arguments)
    if code:
        raise SystemExit(f"{' '.join(arguments)}: exit code {code}\n{printed.getvalue()}")
    out.mkdir(exist_ok=True)
    text = printed.getvalue().replace(str(out.parent), "OUT").replace(str(ASSETS), "ASSETS")
    with open(out / "printed.txt", "a", encoding="utf-8") as file:
        file.write(text)


def command(name, arguments, out, files):
    """`diffedit edit` with --save-trace, and the same with --dry-run."""
    arguments = [a.format(**files) for a in arguments]
    picture = APPLES
    if files["wide"] in arguments:
        arguments.remove(files["wide"])
        picture = files["wide"]
    masked = "--mask" in arguments
    short = SHORT[:2] if masked else SHORT
    given = ["edit", picture, *PROMPTS, *short, *arguments, "--quiet", "--out", f"{out}.png"]
    run([*given[:-3], "--out", f"{out}.png", "--dry-run"], out)
    run([*given, "--save-trace", str(out)], out)


def only_mask(name, arguments, out, files):
    """`diffedit mask`."""
    maps = SHORT[2:] if name == "mask_paper" else SHORT
    run(["mask", APPLES, *PROMPTS, *maps, *arguments, "--quiet", "--save-trace", str(out),
         "--mask-out", f"{out}.png", "--map-out", f"{out}-map.png"], out)  # fmt: skip


def pictures():
    """Two pictures [2,3,128,128]."""
    from diffedit_core import images

    first = images.to_array([images.load_image(APPLES)])
    return np.concatenate((first, first[:, :, ::-1]))


def functions(name, out, **changes):
    """`edit` on a batch of two."""
    from diffedit_core import edit
    from diffedit_core.draws import draws
    from diffedit_core.options import RECIPES

    options = RECIPES[changes.pop("recipe", "paper")]
    options = options.replace(num_inference_steps=5, num_maps=2, **changes.pop("options", {}))
    found = edit.edit(
        model.Model.load(),
        pictures(),
        SOURCE,
        [TARGET, "a plate of plums"],
        options,
        draws(options, (7, 8), (4, 16, 16)),
        **changes,
    )
    save(out, found)


def save(out, edits):
    out.mkdir(exist_ok=True)
    names = ("noise_map", "mask", "inverted_latents", "decoded_latents", "image")
    for i, edit in enumerate(edits):
        for name in names:
            if getattr(edit, name) is not None:
                np.save(out / f"{i}-{name}.npy", getattr(edit, name))


BATCHES = {
    "batch": {},
    "batch_diffusers": {"recipe": "diffusers"},
    "batch_edict": {"options": {"integrator": "edict"}},
    "batch_mask_only": {"only_mask": True},
    "batch_soft": {"mask": np.random.default_rng(3).random((2, 16, 16), np.float32)},
}


def facade(name, out):
    """The public pipeline's three calls on the tiny model, one and two pictures at once."""
    from diffedit_core.pipeline import StableDiffusionDiffEditPipeline

    pipe = StableDiffusionDiffEditPipeline.from_pretrained(TINY)
    rng = np.random.default_rng(1)
    coarse = [Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8)) for _ in range(2)]
    two = [c.resize((64, 48), Image.Resampling.BICUBIC) for c in coarse]
    grid = {"num_inference_steps": 5, "inpaint_strength": 0.6}
    source, target = "a bowl of fruits", "a bowl of pears"
    out.mkdir(exist_ok=True)
    mask = pipe.generate_mask(
        two, [target, target], source_prompt=[source, source], num_inference_steps=5,
        num_maps_per_mask=2, generator=4)  # fmt: skip
    np.save(out / "mask.npy", mask)
    for steps in (0, 1):
        latents = pipe.invert(
            source, two[0], generator=5, num_reg_steps=steps, num_auto_corr_rolls=2, **grid
        ).latents
        np.save(out / f"latents-{steps}.npy", latents.asnumpy())
    for eta in (0.0, 0.5):
        image = pipe(
            target, mask[0], latents, negative_prompt=source, generator=6, eta=eta,
            output_type="np", **grid).images  # fmt: skip
        np.save(out / f"image-{eta}.npy", image)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--against", type=Path)
    arguments = parser.parse_args()
    if arguments.against:
        return compare(arguments.against, arguments.out)
    arguments.out.mkdir(parents=True, exist_ok=True)
    model.Model.load = cached(model.Model.load)
    warnings.simplefilter("ignore")
    files = inputs(arguments.out)
    runs = {name: functools.partial(command, name, a, files=files) for name, a in COMMANDS.items()}
    runs |= {name: functools.partial(only_mask, name, a, files=files) for name, a in MASKS.items()}
    runs |= {name: functools.partial(functions, name, **dict(a)) for name, a in BATCHES.items()}
    runs["facade"] = functools.partial(facade, "facade")
    order = sorted(runs, key=lambda name: name.startswith("noise"))  # they read other runs
    for name in [n for n in order if arguments.only in n]:
        print(name, flush=True)
        runs[name](out=arguments.out / name)
    return 0


def cached(load):
    """`Model.load` that loads, and so compiles, each model once."""

    @functools.lru_cache
    def found(folder, dtype, kernels, others):
        return load(folder, dtype, kernels, **dict(others))

    def loaded(source=model.ORCHARD, dtype="fp32", kernels=None, on_component=None, **others):
        folder = str(getattr(source, "path", source))
        return found(folder, dtype, kernels, tuple(sorted(others.items())))

    return loaded


def compare(old, new):
    """Print every file that is in one folder only or differs."""
    names = sorted({p.relative_to(f) for f in (old, new) for p in f.rglob("*") if p.is_file()})
    differing = [n for n in names if not same(old / n, new / n)]
    for name in differing:
        print(f"{name}: {difference(old / name, new / name)}")
    print(f"{len(names) - len(differing)} of {len(names)} files are the same")
    return 1 if differing else 0


def same(a, b):
    return a.exists() and b.exists() and a.read_bytes() == b.read_bytes()


def difference(a, b):
    if not (a.exists() and b.exists()):
        return f"only in {(a if a.exists() else b).parent}"
    if a.suffix != ".npy":
        return "differs"
    x, y = np.load(a), np.load(b)
    if x.shape != y.shape or x.dtype != y.dtype:
        return f"{x.dtype} {x.shape}, {y.dtype} {y.shape}"
    return f"largest difference {np.abs(x.astype(np.float64) - y).max():.3g}"


if __name__ == "__main__":
    sys.exit(main())
