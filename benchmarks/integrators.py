"""Which integrator gives the picture back, what it costs, and what that does to an edit: the table.

    python -m benchmarks.integrators [--pictures 100] [--steps 10 20 50 100] [--ways ddim ...]
    python -m benchmarks.integrators --table [--dtype fp16] [--pictures 10] [--edit-guidance 3 5
    7.5]

For test pictures of the Orchard, each integrator and each number of steps: the relative error of
the latents after inversion and decoding with the picture's own sentence, at guidance 1 and 7.5,
over the levels that an edit inverts; and an edit of the fruit with recipe "paper", whose answer is
known. Pictures run in batches; where a fixed-point inversion iterates, evaluations, unsolved steps
and the residual are those of the worst picture of the batch in each step. Every batch is appended
to --out as soon as it is measured; what is there already is not measured again, so a run can be
stopped and continued. --table prints, of what is there, the rows that the same options would
measure.
"""

import argparse
import json
import warnings
from pathlib import Path

import mindspore as ms
import numpy as np
from tqdm import tqdm

from diffedit_core import diffedit as D
from diffedit_core.model import ORCHARD, Model

from .orchard import classifier as C, methods, world as W

WAYS = {
    "ddim": {},
    "dpmpp_2m": {"integrator": "dpmpp_2m"},
    "fixed_point": {"inversion": "fixed_point"},
    "anderson": {"inversion": "anderson"},
    "edict": {"integrator": "edict"},
    "belm": {"integrator": "belm"},
}
FIXED_POINTS = tuple(name for name, options in WAYS.items() if "inversion" in options)
GUIDANCE = (1.0, 7.5)  # of the round trips
KEY = ("picture", "way", "steps", "what", "guidance", "dtype", "model")  # what a row is about
RESULT = Path(__file__).with_suffix(".jsonl")


class Counted:
    """A `predict` that counts the latents it was asked about."""

    def __init__(self, predict):
        self.predict, self.rows = predict, 0

    def __call__(self, x, timestep, states):
        self.rows += x.shape[0]
        return self.predict(x, timestep, states)


def journey(setting, options, guidance, states, mask, down_states=None, down_guidance=None):
    """Up with some states and down with others: (decoded latents, trail, evaluations of each
    picture up, and down)."""
    config, predict = setting.model.configs.scheduler, Counted(setting.model.predict)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fixed points: the residual is in the row
        trail = D.invert_states(
            predict,
            setting.latents,
            setting.levels,
            options.num_encode_steps,
            states,
            None if guidance == 1 else setting.empty,
            guidance,
            config.prediction_type,
            integrator=options.integrator,
            inversion=options.inversion,
        )
    up, guidance = predict.rows, down_guidance or guidance
    back = D.decode_states(
        predict,
        trail,
        mask,
        setting.levels,
        states if down_states is None else down_states,
        None if guidance == 1 else setting.empty,
        guidance,
        config.prediction_type,
        integrator=options.integrator,
    )
    pictures = len(setting.latents)
    return back, trail, up / pictures, (predict.rows - up) / pictures


def round_trips(setting, options, guidance):
    """For each picture the relative error (root mean squares) of the latents after both ways,
    evaluations, and the worst note of a fixed point."""
    whole = ms.ops.ones((len(setting.latents), *setting.latents.shape[2:]), ms.float32)
    back, trail, up, down = journey(setting, options, guidance, setting.source, whole)
    common, notes = {"up": up, "down": down}, [
        state.note for state in trail[1:] if state.note is not None
    ]
    if notes:
        common |= {
            "residual": max(n.residual for n in notes),
            "contraction": max(n.contraction for n in notes),
            "stopped": sum(not n.converged for n in notes),
        }
    rows = zip(setting.latents.asnumpy(), back.asnumpy(), trail[-1].latents.asnumpy())
    return [
        {
            "error": float(np.sqrt(((end - x0) ** 2).mean() / (x0**2).mean())),
            "deviation": float(deepest.std()),
            **common,
        }
        for x0, end, deepest in rows
    ]


def edits(setting, batch, options, masks, classifier):
    """For each picture mean absolute errors in grey levels, outside the true mask against the
    picture and inside it against the true edit, and whether the classifier sees the wanted
    fruit."""
    latents = journey(
        setting,
        options,
        options.inversion_guidance_scale,
        setting.empty,
        ms.Tensor(masks),
        setting.target,
        options.guidance_scale,
    )[0]
    images = np.clip(methods.unedited(setting.model.decode_latents(latents), masks, batch), -1, 1)
    fruit = list(C.HEADS).index("fruit")
    for case, image, found in zip(batch, images, classifier(images)[1]):
        outside, inside = [
            127.5 * np.abs(image - true).mean(0) for true in (case.source, case.truth)
        ]
        yield {
            "background": float(outside[~case.mask].mean()),
            "target": float(inside[case.mask].mean()),
            "recognised": bool(found[fruit] == C.classes(case.edited)[fruit]),
        }


def measure(arguments):
    """Append every missing row to the file."""
    model, judge = Model.load(arguments.model, arguments.dtype), C.Classifier.load(C.TRAINED)
    done, name = {key(row) for row in read(arguments.out)}, methods.model_name(arguments.model)
    cases = methods.cases(arguments.pictures, kinds=("fruit",))
    whats = [("round trip", g) for g in GUIDANCE] + [("edit", g) for g in arguments.edit_guidance]
    tasks = [
        (n, way, what, guidance)
        for n in arguments.steps
        for way in arguments.ways
        for what, guidance in whats
    ]
    with open(arguments.out, "a", encoding="utf-8") as out, tqdm(
        total=len(cases) * len(tasks), disable=None
    ) as bar:
        for start in range(0, len(cases), arguments.batch):
            batch, masks, encoded = cases[start : start + arguments.batch], None, {}
            for n, way, what, guidance in tasks:
                heads = [
                    dict(zip(KEY, (c.scene.seed, way, n, what, guidance, arguments.dtype, name)))
                    for c in batch
                ]
                bar.update(len(batch))
                if all(key(head) in done for head in heads):
                    continue
                options = D.Options(num_inference_steps=n, **WAYS[way])
                if n not in encoded:
                    encoded[n] = methods.setting(model, options, batch)
                if (
                    what == "edit" and masks is None
                ):  # the same for every way, number of steps and guidance
                    masks = methods.find_mask(encoded[n])[1].asnumpy()
                if what == "edit":
                    found = edits(
                        encoded[n], batch, options.replace(guidance_scale=guidance), masks, judge
                    )
                else:
                    found = round_trips(encoded[n], options, guidance)
                out.writelines(
                    json.dumps(head | row) + "\n"
                    for head, row in zip(heads, found)
                    if key(head) not in done
                )
                out.flush()


def key(row):
    return tuple(row[name] for name in KEY)


def selected(rows, arguments, model):
    """The rows that these arguments would measure."""
    seeds = W.SEEDS["test"][: arguments.pictures]
    return [
        row
        for row in rows
        if row["model"] == model
        and row["dtype"] == arguments.dtype
        and row["picture"] in seeds
        and row["steps"] in arguments.steps
        and row["way"] in arguments.ways
        and row["guidance"] in (arguments.edit_guidance if row["what"] == "edit" else GUIDANCE)
    ]


def read(path):
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if path.exists()
        else []
    )


HEADS = ("integrator", "dtype", "N")
ROUND_TRIPS = (
    *HEADS,
    "error, g = 1",
    "error, g = 7.5",
    "up + down",
    "up at 7.5, a row",
    "unsolved steps",
    "deviation at the top",
    "pictures",
)
EDITS = (*HEADS, "guidance", "background", "target", "fruit right", "pictures")


def grouped(rows, *names):
    """{values of these fields: rows that have them}, integrators in the order of WAYS."""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return dict(
        sorted(
            groups.items(), key=lambda g: [list(WAYS).index(v) if v in WAYS else v for v in g[0]]
        )
    )


def mean(rows, field, form, times=1.0):
    return (
        format(np.mean([row[field] for row in rows]) * times, form)
        if all(field in row for row in rows) and rows
        else "-"
    )


def largest(rows, field, form):
    return (
        format(max(row[field] for row in rows), form)
        if all(field in row for row in rows) and rows
        else "-"
    )


def lines(heads, cells):
    """Lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *cells)]


def tables(rows):
    """Lines of two Markdown tables, of round trips and of edits: means over the pictures, of errors
    the largest too.

    Evaluations are those of a picture at guidance 1; at 7.5 an evaluation has two rows. Unsolved
    steps, with the largest residual, are those of an iterated inversion that end above its
    tolerance for some picture of a batch, at guidance 1 and 7.5. The deviation is that of the
    deepest latents, at guidance 1 and 7.5; white noise at that level would have about 1.
    """
    trips, edited = [], []
    for (dtype, n, way), found in grouped(
        (r for r in rows if r["what"] == "round trip"), "dtype", "steps", "way"
    ).items():
        one, high = [[row for row in found if row["guidance"] == g] for g in GUIDANCE]
        unsolved = " / ".join(
            f"{mean(r, 'stopped', '.0f')} ({largest(r, 'residual', '.0e')})" for r in (one, high)
        )
        errors = (f"{mean(r, 'error', '.1e')} ({largest(r, 'error', '.1e')})" for r in (one, high))
        trips.append(
            (
                way,
                dtype,
                str(n),
                *errors,
                f"{mean(one, 'up', '.0f')} + {mean(one, 'down', '.0f')}",
                mean(high, "up", ".0f", 0.5),
                unsolved if way in FIXED_POINTS else "-",
                f"{mean(one, 'deviation', '.2f')} / {mean(high, 'deviation', '.2f')}",
                f"{len(one)}, {len(high)}",
            )
        )
    of_edits = (r for r in rows if r["what"] == "edit")
    for (dtype, n, guidance, way), found in grouped(
        of_edits, "dtype", "steps", "guidance", "way"
    ).items():
        edited.append(
            (
                way,
                dtype,
                str(n),
                f"{guidance:g}",
                mean(found, "background", ".2f"),
                mean(found, "target", ".1f"),
                mean(found, "recognised", ".2f"),
                str(len(found)),
            )
        )
    return [*lines(ROUND_TRIPS, trips), "", *lines(EDITS, edited)]


def parser():
    """The command line."""
    top = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--pictures", type=int, default=100, help="the first test pictures")
    top.add_argument("--steps", type=int, nargs="+", default=(10, 20, 50, 100), help="N")
    top.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=tuple(WAYS))
    top.add_argument(
        "--edit-guidance",
        type=float,
        nargs="+",
        default=(D.RECIPES["paper"].guidance_scale,),
        help="guidance of the decoding of edits",
    )
    top.add_argument("--batch", type=int, default=10, help="pictures at once")
    top.add_argument("--dtype", choices=("fp32", "fp16"), default="fp32", help="of the model")
    top.add_argument("--model", default=str(ORCHARD))
    top.add_argument("--out", type=Path, default=RESULT)
    top.add_argument("--table", action="store_true", help="measure nothing, only print")
    return top


def main():
    arguments = parser().parse_args()
    if not arguments.table:
        measure(arguments)
    print(
        "\n".join(
            tables(selected(read(arguments.out), arguments, methods.model_name(arguments.model)))
        )
    )


if __name__ == "__main__":
    main()
