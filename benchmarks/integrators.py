"""Which integrator gives the picture back, what it costs, and what that does to an edit: the table.

    python -m benchmarks.integrators [--pictures 100] [--steps 10 20 50 100] [--integrators ddim]
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
import itertools
import json
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import mindspore as ms
import numpy as np
from tqdm import tqdm

from diffedit_core import edit as stages
from diffedit_core.integrators import INTEGRATORS
from diffedit_core.model import ORCHARD, Model
from diffedit_core.options import RECIPES, Options
from diffedit_core.parts import Parts, Run
from diffedit_core.prompts import text_states

from .command import command
from .orchard import classifier as judges, methods, world

GUIDANCE = (1.0, 7.5)  # of the round trips
KEY = ("picture", "integrator", "steps", "what", "guidance", "dtype", "model")  # of a row
RESULT = Path(__file__).with_suffix(".jsonl")


class Counted:
    """A `predict` that counts the latents it was asked about."""

    def __init__(self, predict):
        self.predict, self.rows = predict, 0

    def __call__(self, x, timestep, states):
        self.rows += x.shape[0]
        return self.predict(x, timestep, states)


class Batch(NamedTuple):
    """Cases, their clean latents [B,C,h,w], and their captions."""

    model: Model
    cases: list
    latents: ms.Tensor
    sources: tuple
    targets: tuple

    @classmethod
    def of(cls, model, cases):
        latents = model.latents(model.encode_image(np.stack([c.source for c in cases])))
        captions = [tuple(world.caption(getattr(c, n)) for c in cases) for n in ("scene", "edited")]
        return cls(model, cases, latents, *captions)


def there_and_back(batch, options, mask, target):
    """Up as the options say, and down to `target` where the mask is 1: (latents, states, UNet rows
    for each picture up, and down)."""
    model, predict = batch.model, Counted(batch.model.predict)
    run = Run(predict, model.configs.scheduler, options, Parts.of(options))
    text = text_states(model, len(batch.cases))
    prompt = batch.sources if options.inversion_prompt == "source" else ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fixed points: the residual is in the row
        states = list(stages.trail(run, batch.latents, text(prompt), text("")))
    up = predict.rows
    *_, last = stages.decode(run, text(target), states, ms.Tensor(mask), text(""))
    pictures = len(batch.cases)
    return last.latents, states, up / pictures, (predict.rows - up) / pictures


def round_trips(batch, options, guidance):
    """For each picture the relative error (root mean squares) of the latents after going up and
    down with its own sentence, evaluations, and the worst note of a fixed point."""
    options = options.replace(
        inversion_prompt="source", inversion_guidance_scale=guidance, guidance_scale=guidance
    )
    whole = np.ones((len(batch.cases), *batch.latents.shape[2:]), np.float32)
    back, states, up, down = there_and_back(batch, options, whole, batch.sources)
    common = {"up": up, "down": down}
    notes = [state.note for state in states[1:] if state.note is not None]
    if notes:
        common |= {
            "residual": max(n.residual for n in notes),
            "contraction": max(n.contraction for n in notes),
            "stopped": sum(not n.converged for n in notes),
        }
    rows = zip(batch.latents.asnumpy(), back.asnumpy(), states[-1].latents.asnumpy())
    return [
        {
            "error": float(np.sqrt(((end - x0) ** 2).mean() / (x0**2).mean())),
            "deviation": float(deepest.std()),
            **common,
        }
        for x0, end, deepest in rows
    ]


def edits(batch, options, masks, classifier):
    """For each picture mean absolute errors in grey levels, outside the true mask against the
    picture and inside it against the true edit, and whether the classifier sees the wanted
    fruit."""
    latents = there_and_back(batch, options, masks, batch.targets)[0]
    images = batch.model.decode_latents(latents)
    empty = ~masks.any((1, 2))
    images[empty] = np.stack([case.source for case in batch.cases])[empty]
    images = np.clip(images, -1, 1)
    fruit = list(judges.HEADS).index("fruit")
    for case, image, found in zip(batch.cases, images, classifier(images)[1]):
        outside, inside = [
            127.5 * np.abs(image - true).mean(0) for true in (case.source, case.truth)
        ]
        yield {
            "background": float(outside[~case.mask].mean()),
            "target": float(inside[case.mask].mean()),
            "recognised": bool(found[fruit] == judges.classes(case.edited)[fruit]),
        }


def measure(arguments):
    """Append every missing row to the file."""
    model, judge = Model.load(arguments.model, arguments.dtype), judges.Classifier.load(
        judges.TRAINED
    )
    done, name = {key(row) for row in read(arguments.out)}, methods.model_name(arguments.model)
    size = methods.own_size(arguments.model)
    cases = methods.cases(arguments.pictures, kinds=("fruit",), size=size)
    whats = [("round trip", g) for g in GUIDANCE] + [("edit", g) for g in arguments.edit_guidance]
    tasks = list(itertools.product(arguments.steps, arguments.integrators, whats))
    total = len(cases) * len(tasks)
    with open(arguments.out, "a", encoding="utf-8") as out, tqdm(total=total, disable=None) as bar:
        for start in range(0, len(cases), arguments.batch):
            some = cases[start : start + arguments.batch]
            batch, masks = Batch.of(model, some), None
            for steps, integrator, (what, guidance) in tasks:
                values = (integrator, steps, what, guidance, arguments.dtype, name)
                heads = [dict(zip(KEY, (case.scene.seed, *values))) for case in some]
                bar.update(len(some))
                if all(key(head) in done for head in heads):
                    continue
                options = Options(num_inference_steps=steps, integrator=integrator)
                if what == "edit":
                    if masks is None:  # the same whatever is varied
                        masks = methods.run("DiffEdit", model, {}, some, only_mask=True).masks
                    edited = options.replace(guidance_scale=guidance)
                    found = edits(batch, edited, masks, judge)
                else:
                    found = round_trips(batch, options, guidance)
                rows = [head | row for head, row in zip(heads, found) if key(head) not in done]
                out.writelines(json.dumps(row) + "\n" for row in rows)
                out.flush()


def key(row):
    return tuple(row[name] for name in KEY)


def selected(rows, arguments, model):
    """The rows that these arguments would measure."""
    seeds = world.SEEDS["test"][: arguments.pictures]
    return [
        row
        for row in rows
        if row["model"] == model
        and row["dtype"] == arguments.dtype
        and row["picture"] in seeds
        and row["steps"] in arguments.steps
        and row["integrator"] in arguments.integrators
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
    """{values of these fields: rows that have them}, integrators in the order of their table."""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return dict(
        sorted(
            groups.items(),
            key=lambda g: [list(INTEGRATORS).index(v) if v in INTEGRATORS else v for v in g[0]],
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
    for (dtype, n, integrator), found in grouped(
        (r for r in rows if r["what"] == "round trip"), "dtype", "steps", "integrator"
    ).items():
        one, high = [[row for row in found if row["guidance"] == g] for g in GUIDANCE]
        unsolved = " / ".join(
            f"{mean(r, 'stopped', '.0f')} ({largest(r, 'residual', '.0e')})" for r in (one, high)
        )
        errors = (f"{mean(r, 'error', '.1e')} ({largest(r, 'error', '.1e')})" for r in (one, high))
        trips.append(
            (
                integrator,
                dtype,
                str(n),
                *errors,
                f"{mean(one, 'up', '.0f')} + {mean(one, 'down', '.0f')}",
                mean(high, "up", ".0f", 0.5),
                unsolved if INTEGRATORS[integrator].iterates else "-",
                f"{mean(one, 'deviation', '.2f')} / {mean(high, 'deviation', '.2f')}",
                f"{len(one)}, {len(high)}",
            )
        )
    of_edits = (r for r in rows if r["what"] == "edit")
    for (dtype, n, guidance, integrator), found in grouped(
        of_edits, "dtype", "steps", "guidance", "integrator"
    ).items():
        edited.append(
            (
                integrator,
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
    top.add_argument(
        "--integrators", nargs="+", choices=tuple(INTEGRATORS), default=tuple(INTEGRATORS)
    )
    top.add_argument(
        "--edit-guidance",
        type=float,
        nargs="+",
        default=(RECIPES["paper"].guidance_scale,),
        help="guidance of the decoding of edits",
    )
    top.add_argument("--batch", type=int, default=10, help="pictures at once")
    top.add_argument("--dtype", choices=("fp32", "fp16"), default="fp32", help="of the model")
    top.add_argument("--model", default=str(ORCHARD))
    top.add_argument("--out", type=Path, default=RESULT)
    top.add_argument("--table", action="store_true", help="measure nothing, only print")
    return top


@command("integrators")
def main(words):
    arguments = parser().parse_args(words)
    if not arguments.table:
        measure(arguments)
    print(
        "\n".join(
            tables(selected(read(arguments.out), arguments, methods.model_name(arguments.model)))
        )
    )


if __name__ == "__main__":
    sys.exit(main())
