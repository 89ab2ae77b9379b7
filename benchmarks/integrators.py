"""Which integrator gives the picture back, what it costs, and what that does to an edit: the table.

    python -m benchmarks.integrators [--pictures 100] [--steps 10 20 50 100] [--dtype fp32] [--model DIR]
    python -m benchmarks.integrators --table

For each test picture of the Orchard, each integrator and each number of steps: the relative error of the latents after
inversion and decoding with the picture's own sentence, at guidance 1 and 7.5, over the levels that an edit inverts; and an
edit with recipe "paper", whose answer is known. Every row is appended to --out as soon as it is measured; what is there
already is not measured again, so a run can be stopped and continued. --table prints means over the
pictures, of the model given.
"""

import argparse
import hashlib
import json
import warnings
from pathlib import Path

import mindspore as ms
import numpy as np
from tqdm import tqdm

from diffedit_core import diffedit as D
from diffedit_core import schedule as S
from diffedit_core.images import to_array
from diffedit_core.model import COMPONENTS, ORCHARD, Model, weight_files

WAYS = {"ddim": {}, "dpmpp_2m": {"integrator": "dpmpp_2m"}, "fixed_point": {"inversion": "fixed_point"},
        "anderson": {"inversion": "anderson"}, "edict": {"integrator": "edict"}, "belm": {"integrator": "belm"}}
GUIDANCE = (1.0, 7.5)
RESULT = Path(__file__).with_suffix(".jsonl")


class Counted:
    """A `predict` that counts the latents it was asked about."""

    def __init__(self, predict):
        self.predict, self.rows = predict, 0

    def __call__(self, x, timestep, states):
        self.rows += x.shape[0]
        return self.predict(x, timestep, states)


def examples(count):
    """(number, picture, picture after the edit, sentence, sentence after) of test pictures whose container stays."""
    from .orchard import world
    for seed in world.SEEDS["test"][:count]:
        scene = world.sample_scene(seed)
        wanted = world.random_edit(scene, "fruit")
        yield (seed, world.render(scene)[0], world.render(wanted)[0], world.caption(scene), world.caption(wanted))


def round_trip(model, latents, sentence, options, guidance):
    """Relative error (root mean squares) of the latents after both ways, evaluations, and the worst note of a fixed point."""
    config, predict = model.configs.scheduler, Counted(model.predict)
    levels = S.levels(config, options.num_inference_steps)
    states, empty = (s.expand_dims(0) for s in model.encode_prompts([sentence, ""]))
    negative = None if guidance == 1 else empty
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fixed points: the residual is in the row
        trail = D.invert_states(predict, latents, levels, options.num_encode_steps, states, negative, guidance,
                                config.prediction_type, integrator=options.integrator, inversion=options.inversion)
    up = predict.rows
    everywhere = ms.Tensor(np.ones((1, *latents.shape[2:]), np.float32))
    back = D.decode_states(predict, trail, everywhere, levels, states, negative, guidance, config.prediction_type,
                           integrator=options.integrator).asnumpy()
    x0, deepest = latents.asnumpy(), trail[-1].latents.asnumpy()
    notes = [state.note for state in trail[1:] if state.note is not None]
    row = {"error": float(np.sqrt(((back - x0) ** 2).mean() / (x0 ** 2).mean())), "up": up, "down": predict.rows - up,
           "deviation": float(deepest.std())}  # of white noise at that level it would be about 1
    if notes:
        row |= {"residual": max(n.residual for n in notes), "contraction": max(n.contraction for n in notes),
                "stopped": sum(not n.converged for n in notes), "iterations": sum(n.evaluations for n in notes)}
    return row


def edit(model, number, picture, wanted, sentence, target, options):
    """Mean absolute errors in grey levels: outside the true mask against the picture, inside it against the true edit."""
    from .orchard import world
    from PIL import Image
    image = to_array([Image.fromarray(picture)])
    shape = (model.configs.latent_channels, *(side // model.configs.vae.factor for side in image.shape[2:]))
    draws, inside = D.draw_noise(number, 1, options.num_maps, shape), world.true_mask(picture, wanted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = D.edit(model, image, sentence, [target], options, draws)[0]
    made = np.clip((result.image[0].transpose(1, 2, 0) + 1) * 127.5, 0, 255)
    error = [np.abs(made - true.astype(np.float64)).mean(-1) for true in (picture, wanted)]
    return {"background": float(error[0][~inside].mean()), "target": float(error[1][inside].mean()),
            "unchanged": bool(result.unchanged)}


def measure(arguments):
    """Append every missing row to the file."""
    model = Model.load(arguments.model, arguments.dtype)
    done = {key(row) for row in read(arguments.out)}
    tasks = [(way, n, what) for n in arguments.steps for way in arguments.ways for what in (*GUIDANCE, "edit")]
    with open(arguments.out, "a", encoding="utf-8") as out, tqdm(total=arguments.pictures * len(tasks), disable=None) as bar:
        for number, picture, wanted, sentence, target in examples(arguments.pictures):
            latents = None
            for way, n, what in tasks:
                bar.update()
                row = {"picture": number, "way": way, "steps": n, "what": what, "dtype": arguments.dtype,
                       "model": model_name(arguments)}
                if key(row) in done:
                    continue
                options = D.Options(num_inference_steps=n, encode_ratio=arguments.encode_ratio, **WAYS[way])
                if what == "edit":
                    row |= edit(model, number, picture, wanted, sentence, target, options)
                else:
                    if latents is None:
                        latents = model.latents(model.encode_image(picture.transpose(2, 0, 1)[None] / 127.5 - 1))
                    row |= round_trip(model, latents, sentence, options, what)
                out.write(json.dumps(row) + "\n")
                out.flush()


def key(row):
    return tuple(row[k] for k in ("picture", "way", "steps", "what", "dtype", "model"))


def model_name(arguments):
    """The folder's name and the beginning of its UNet's sha256: what ships changes."""
    file, *_ = weight_files(Path(arguments.model) / "unet", COMPONENTS["unet"][2])
    return f"{Path(arguments.model).name}-{hashlib.sha256(Path(file).read_bytes()).hexdigest()[:8]}"


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def table(rows):
    """Lines of a Markdown table: means over the pictures, and how many there were."""
    yield "| integrator | dtype | N | error, g = 1 | error, g = 7.5 | evaluations up + down | background | target | pictures |"
    yield "|---|---|---|---|---|---|---|---|---|"
    groups = {}
    for row in rows:
        groups.setdefault((row["dtype"], row["steps"], row["way"]), {}).setdefault(row["what"], []).append(row)
    for (dtype, n, way), found in sorted(groups.items(), key=lambda g: (g[0][0], g[0][1], list(WAYS).index(g[0][2]))):
        def mean(what, field, form):
            values = [row[field] for row in found.get(what, ())]
            return format(np.mean(values), form) if values else "-"
        counts = "/".join(str(len(found.get(what, ()))) for what in (*GUIDANCE, "edit"))
        yield (f"| {way} | {dtype} | {n} | {mean(1.0, 'error', '.1e')} | {mean(7.5, 'error', '.1e')} | {mean(1.0, 'up', '.0f')} + "
               f"{mean(1.0, 'down', '.0f')} | {mean('edit', 'background', '.2f')} | {mean('edit', 'target', '.1f')} | {counts} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--steps", type=int, nargs="+", default=(10, 20, 50, 100))
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=tuple(WAYS))
    parser.add_argument("--encode-ratio", type=float, default=0.8)
    parser.add_argument("--dtype", choices=("fp32", "fp16"), default="fp32")
    parser.add_argument("--model", default=str(ORCHARD))
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--table", action="store_true", help="only print the table of what is measured")
    arguments = parser.parse_args()
    if not arguments.table:
        measure(arguments)
    print("\n".join(table([row for row in read(arguments.out) if row["model"] == model_name(arguments)])))


if __name__ == "__main__":
    main()
