"""What the stages of the Orchard's training have in common: the weights that they start from, the
log, and the history that is written down."""

import time
from pathlib import Path

import numpy as np

from diffedit_core import model as M, params as P, tokenizer as T
from diffedit_core.errors import InputError
from diffedit_core.settings import read_json

from . import layout, steps as stepping


def start_weights(source, component, specs, seed):
    """Weights to start from: of a model folder, of a checkpoint of this program, or random ones.

    Raises:
        InputError: a leaf is missing or has another shape.
    """
    fresh = P.init(specs, np.random.default_rng([seed, 0]))
    if source is None:
        return fresh
    weights = (
        folder_weights(Path(source), component, P.flatten(fresh))
        if Path(source).is_dir()
        else stepping.read_weights(source)[1]
    )
    bad = [
        path
        for path, leaf in P.flatten(specs).items()
        if path not in weights or weights[path].shape != leaf.shape
    ]
    if bad:
        raise InputError(
            f"{source} does not fit: {', '.join(bad[:5])} missing or of another shape."
        )
    return P.tree_map(lambda path, _: weights[path].astype(np.float32), specs)


def folder_weights(folder, component, fresh):
    """{path: array} of a model folder's component; "unet" includes the text encoder.

    Words are matched by their text, so that a model of another vocabulary can serve; a new word
    starts afresh.
    """
    stored = M.read_configs(M.find(folder))
    owners = {"text_encoder": stored.text, "unet": stored.unet, "vae": stored.vae}
    weights = {}
    for name in ("text_encoder", "unet") if component == "unet" else (component,):
        files = M.weight_files(folder / name, M.COMPONENTS[name][2], "fp32")
        tree = P.load(files, M.COMPONENTS[name][3](owners[name]))
        weights.update({path: leaf.asnumpy() for path, leaf in P.flatten(tree).items()})
    words = "text_model.embeddings.token_embedding.weight"
    if words in weights:
        known, own = T.load(folder / "tokenizer").library.get_vocab(), fresh[words].copy()
        for row, token in enumerate(layout.vocabulary()[0]):
            if token in known:
                own[row] = weights[words][known[token]]
        weights[words] = own
    return weights


def run(a, train_step, batch, facts, report):
    """`steps.run` with a log file, and a sample sheet now and then."""
    folder = a.work / "samples"
    folder.mkdir(parents=True, exist_ok=True)

    def log(line):
        line = f"{time.strftime('%H:%M:%S')} {line}"
        print(line, flush=True)
        with open(a.work / f"{a.name}.log", "a", encoding="utf-8") as handle:
            print(line, file=handle)

    until = None if a.minutes is None else time.time() + 60 * a.minutes
    return stepping.run(
        train_step,
        batch,
        a.work / f"{a.name}.safetensors",
        facts,
        a.steps,
        a.rate,
        until,
        a.save_minutes,
        log,
        lambda step: report(log, folder, step),
        a.sample_steps,
        a.threads,
    )


def history(source, stage):
    """The runs of a stage that the weights of `source` come from: a list of {"steps": ...,
    "seconds": ...}."""
    if source is None:
        return []
    if Path(source).is_dir():
        path = Path(source) / "training.json"
        return (
            read_json(path)[stage]
            if path.exists()
            else [{"weights": M.find(source).name, "steps": None}]
        )
    return runs(stepping.read_weights(source)[0])


def runs(progress):
    """The history of a checkpoint, its own run last."""
    own = {key: value for key, value in progress.facts.items() if key not in ("before", "stage")}
    return [
        *progress.facts["before"],
        {**own, "steps": progress.step, "seconds": round(progress.seconds)},
    ]
