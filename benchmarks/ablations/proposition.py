"""Proposition 1 of the paper: how far from the picture do SDEdit and DDIM encoding lead?

    python -m benchmarks.ablations.proposition [--scenes 12] [--model DIR] [--out FILE]
    python -m benchmarks.ablations.proposition --table

|.| is the root mean square over the latents of a picture, tau = sqrt(1/a - 1) at the level r. With
|e| <= C, e(., "", t) Lipschitz with K1, and K2 = E max_t |e(x_t, Q, t) - e(x_t, "", t)|:

    SDEdit    E|x0 - D_r(G_r(x0, eps), Q)| <= (C + 1) tau
    encoding  E|x0 - D_r(E_r(x0), Q)|      <= K2 tau / sqrt(tau^2 + 1) (tau + sqrt(tau^2 + 1))^K1

The second cannot hold as it stands. For e(., "") = 0 and e(., Q) = b it allows
|b| tau / sqrt(tau^2 + 1), and the distance is |b| tau. With u = |y - y'|, y = x / sqrt(a), the
paper's ODE gives u' <= K2 + K1 u / sqrt(tau^2 + 1), so that (Gronwall) what holds is
`encoding_bound`, without that root.

The constants are of the shipped model on test scenes, without guidance. K1 is the largest ratio
that was found for two small steps, one at random and one in the direction of the sentence: at most
the true one.

Source: DiffEdit, section 3.3 and appendix; the verdict is in paper_notes.md.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from tqdm import tqdm

from diffedit_core import schedule, walk
from diffedit_core.errors import InputError
from diffedit_core.files import written
from diffedit_core.folder import ORCHARD
from diffedit_core.integrators import State, ddim
from diffedit_core.model import Model
from diffedit_core.parts import noised
from diffedit_core.prompts import text_states

from ..command import command
from ..orchard import methods, world
from ..orchard.measures import interval

STEPS = 50  # N
RATIOS = (0.2, 0.4, 0.6, 0.8, 1.0)
SMALL = 0.01  # length of the steps that K1 is measured with
PAPER = {"C": 1.0, "K1": 3.0, "K2": 0.02}  # the paper's estimates, figure 3
RESULTS = Path(__file__).with_name("proposition.json")


def tau(alpha):
    """sqrt(1/a - 1), the noise level in units of the picture."""
    return math.sqrt(1 / alpha - 1)


def sdedit_bound(t, constants):
    """(C + 1) tau."""
    return (constants["C"] + 1) * t


def printed_bound(t, constants):
    """K2 tau / sqrt(tau^2 + 1) (tau + sqrt(tau^2 + 1))^K1, as the paper has it."""
    return encoding_bound(t, constants) / math.sqrt(t * t + 1)


def encoding_bound(t, constants):
    """K2 tau (tau + sqrt(tau^2 + 1))^K1."""
    return constants["K2"] * t * (t + math.sqrt(t * t + 1)) ** constants["K1"]


def size(x):
    """|x| of each picture: [B,...] -> float64 [B]."""
    x = np.asarray(x.asnumpy() if isinstance(x, ms.Tensor) else x, np.float64)
    return np.sqrt((x**2).mean(tuple(range(1, x.ndim))))


def recorded(denoise, sizes):
    """The same, with the largest |e| of each call appended to `sizes`: C is the largest of all."""

    def ask(x, k):
        x0, eps = denoise(x, k)
        sizes.append(float(size(eps).max()))
        return x0, eps

    return ask


def constants(empty, target, states, noise):
    """K1 and K2 along the encoding.

    Args:
        empty, target: denoise(x, k) -> (x0, eps) of the two sentences.
        states: latents [B,C,h,w] of the levels 0, 1, ...; the clean one is not asked at.
        noise: [B,C,h,w], the direction of the random step.
    """
    steepest, apart = [], []
    for k, x in enumerate(states[1:], 1):
        without = empty(x, k)[1]
        difference = target(x, k)[1] - without
        apart.append(size(difference))
        for direction in (noise, difference):
            length = np.maximum(size(direction), 1e-12).astype(np.float32)
            step = direction * ms.Tensor((SMALL / length).reshape(-1, 1, 1, 1))
            steepest.append(size(empty(x + step, k)[1] - without) / np.maximum(size(step), 1e-12))
    return {"K1": float(np.max(steepest)), "K2": float(np.max(apart, axis=0).mean())}


def distances(target, levels, states, latents, noise, steps):
    """|x0 - D_r(.)| of each picture: (from the encoding, from noise), [B] each."""
    *_, deepest = noised(ddim, target, levels, latents, steps, noise)
    found = []
    for start in (State(states[steps]), deepest):
        *_, last = walk.down(ddim, target, levels, start, steps)
        found.append(size(last.latents - latents))
    return found


def measured(model, scenes):
    """{"constants", "rows"} of the first test scenes."""
    cases = methods.cases(scenes, size=model.configs.picture_size)
    config = model.configs.scheduler
    pictures = np.stack([case.source for case in cases])
    latents = model.latents(model.encode_image(pictures))
    levels = schedule.levels(config, STEPS)
    text = text_states(model, scenes)
    captions = tuple(world.caption(case.edited) for case in cases)
    kind, sizes = config.prediction_type, []
    empty, target = [
        recorded(walk.denoiser(walk.asked(model.predict, levels, s), levels, kind), sizes)
        for s in (text(""), text(captions))
    ]
    rng = np.random.default_rng(0)
    noise = ms.Tensor(rng.standard_normal(latents.shape).astype(np.float32))
    deepest = round(STEPS * max(RATIOS))
    walked = walk.up(ddim, empty, levels, State(latents), deepest)
    states = [s.latents for s in tqdm(walked, "encoding", deepest + 1, disable=None)]
    found, rows = constants(empty, target, states, noise), []
    for ratio in tqdm(RATIOS, "ratios", disable=None):
        steps = round(STEPS * ratio)
        encoded, from_noise = distances(target, levels, states, latents, noise, steps)
        rows.append(
            {
                "ratio": ratio,
                "tau": tau(levels.alphas[steps]),
                "encoding": encoded.tolist(),
                "sdedit": from_noise.tolist(),
            }
        )
    found = {"C": max(sizes), **found}
    return {"scenes": scenes, "steps": STEPS, "constants": found, "rows": rows}


def table(results):
    """Lines of the Markdown table: mean distances with 95 % intervals, and the bounds."""
    own = results["constants"]
    yield ", ".join(f"{name} = {own[name]:.3g} (paper {PAPER[name]:g})" for name in PAPER)
    yield ""
    yield (
        "| r | tau | encoding | its bound | as printed | with the paper's constants | SDEdit | "
        "its bound |"
    )
    yield "|---" * 8 + "|"
    for row in results["rows"]:
        t = row["tau"]
        bounds = [f(t, own) for f in (encoding_bound, printed_bound)]
        bounds.append(encoding_bound(t, PAPER))
        encoded, noisy = [shown(row[name]) for name in ("encoding", "sdedit")]
        cells = [f"{row['ratio']:g}", f"{t:.3g}", encoded, *(f"{b:.3g}" for b in bounds)]
        yield f"| {' | '.join(cells)} | {noisy} | {sdedit_bound(t, own):.3g} |"


def shown(values):
    """Mean [low, high]."""
    mean, low, high = interval(values)
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


@command("proposition")
def main(words):
    """Measure, or print what was measured; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=12, metavar="N")
    parser.add_argument("--model", default=ORCHARD, metavar="DIR")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    parser.add_argument("--table", action="store_true", help="only print what --out has")
    arguments = parser.parse_args(words)
    if not arguments.table:
        if arguments.scenes < 2:
            raise InputError(f"--scenes is {arguments.scenes}: an interval needs 2 or more.")
        results = measured(Model.load(arguments.model), arguments.scenes)
        with written(arguments.out) as part:
            part.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if not arguments.out.is_file():
        raise InputError(f"{arguments.out} is not there: measure first, without --table.")
    print("\n".join(table(json.loads(arguments.out.read_text(encoding="utf-8")))))


if __name__ == "__main__":
    sys.exit(main())
