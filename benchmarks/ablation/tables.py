"""Tables of rows: means with 95 % intervals, and differences to the base, paired by scene. No
MindSpore."""

import base64
import json
from collections import Counter
from typing import NamedTuple

import numpy as np

from diffedit_core.files import written

from ..orchard.measures import frechet, interval
from .measures import MEASURES
from .rows import packed

RESAMPLES = 2000
BLOCKS = 20  # of scenes, for intervals of what is no mean


class Results(NamedTuple):
    """The rows of one program, one model and one size.

    experiment: its line.
    run: the line of a run of these rows.
    rows: {variant's digest: {(scene, seed): row}}.
    truths: {scene: the features of its true edit}.
    sets: {(variant's digest, measure): line} of a collected file, which has no features.
    others: rows of other programs, models and sizes.
    """

    experiment: dict
    run: dict
    rows: dict
    truths: dict
    sets: dict
    others: int


def owner_of(run):
    """(program, model, size of the pictures) of a run; early ones do not say the size."""
    return run["code"], run["model"], run.get("size")


def results(lines, wanted=None):
    """The `Results` of lines: those of `wanted`, as `owner_of` says it, where there are any, else
    those of the owner who has most."""
    experiments = [line for line in lines if line["kind"] == "experiment"]
    runs = {line["run"]: line for line in lines if line["kind"] == "run"}
    rows = [line for line in lines if line["kind"] == "row"]
    if not experiments or not rows:
        return None
    owners = Counter(owner_of(runs[row["run"]]) for row in rows)
    owner = wanted if wanted in owners else owners.most_common(1)[0][0]
    found, run = {}, None
    for row in rows:
        of = runs[row["run"]]
        if owner_of(of) == owner:
            run = of
            found.setdefault(row["variant"], {})[row["scene"], row["seed"]] = row
    same_size = (t for t in lines if t["kind"] == "truth" and t.get("size") == owner[2])
    truths = {t["scene"]: decoded(t["features"]) for t in same_size}
    sets = {(t["variant"], t["measure"]): t for t in lines if t["kind"] == "set"}
    return Results(experiments[-1], run, found, truths, sets, len(rows) - owners[owner])


def decoded(text):
    """Features that were written in half precision, float64."""
    return np.frombuffer(base64.b64decode(text), "<f2").astype(np.float64)


def table(found, kind=None):
    """Markdown: a line for each variant, with each measure and its difference to the base; of
    several seeds also the lowest and the highest mean of one.

    Args: kind: of the edits, or None for all.
    """
    measures, variants = found.experiment["measures"], found.experiment["variants"]
    titles = []
    for name in measures:
        titles += [MEASURES[name].title, "difference"]
    text = [f"| | n | {' | '.join(titles)} |", "|---" * (len(titles) + 2) + "|"]
    first = found.experiment["base"]
    base = _of_kind(found.rows.get(first, {}), kind)
    for label, variant in variants:
        rows = _of_kind(found.rows.get(variant, {}), kind)
        cells = []
        for name in measures:
            if MEASURES[name].of == "set":
                one, other = set_cells(found, variant, first, name) if kind is None else (None,) * 2
            else:
                one, other = summary(rows, name), difference(rows, base, name)
            cells.append(shown(one, name) + of_seeds(rows, name))
            cells.append(shown(None if variant == first else other, name, "+"))
        label += " (base)" if variant == first and label != "base" else ""
        text.append(f"| {label} | {len(rows)} | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def set_cells(found, variant, first, name):
    """(value, difference) of a measure of a set, with their intervals."""
    line = found.sets.get((variant, name))
    if line is not None:
        return line["value"], line["difference"]
    rows, base = (found.rows.get(v, {}) for v in (variant, first))
    return set_interval(rows, found.truths), set_interval(rows, found.truths, base)


def _of_kind(rows, kind):
    return {k: r for k, r in rows.items() if kind is None or r["subject"] == kind}


def shown(triple, name, plus=""):
    """A value of a measure with its interval, as text; plus: "+" for a difference."""
    if triple is None or not np.isfinite(triple[0]):
        return "-"
    mean, low, high = triple
    digits = MEASURES[name].digits
    if not np.isfinite(low):
        return f"{mean:{plus}.{digits}f}"
    return f"{mean:{plus}.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def summary(rows, name):
    """(mean, low, high) of a measure; Wilson's interval for a share of single runs, else a
    bootstrap over scenes."""
    values = _by_scene(rows, name)
    if not values:
        return None
    if all(len(v) == 1 and isinstance(v[0], bool) for v in values.values()):
        return interval([v[0] for v in values.values()])
    return bootstrap([np.mean(v) for v in values.values()])


def difference(rows, base, name):
    """(mean, low, high) of the differences to the base, over the scenes and seeds of both."""
    pairs = {}
    for key in sorted(rows.keys() & base.keys()):
        values = [r[key].get(name) for r in (rows, base)]
        if None not in values:
            pairs.setdefault(key[0], []).append(float(values[0]) - float(values[1]))
    return bootstrap([np.mean(v) for v in pairs.values()]) if pairs else None


def by_seed(rows, name):
    """{seed: mean over its scenes}, of what is a number."""
    found = {}
    for (_, seed), row in sorted(rows.items()):
        if row.get(name) is not None:
            found.setdefault(seed, []).append(float(row[name]))
    return {seed: float(np.mean(values)) for seed, values in found.items()}


def of_seeds(rows, name):
    """The range of the seeds' means in words; nothing where there is one seed."""
    means, digits = by_seed(rows, name).values(), MEASURES[name].digits
    if len(means) < 2:
        return ""
    return f", {len(means)} seeds {min(means):.{digits}f} to {max(means):.{digits}f}"


def _by_scene(rows, name):
    """{scene: values of its seeds}, without what is no number."""
    found = {}
    for (scene, _), row in sorted(rows.items()):
        if row.get(name) is not None:
            found.setdefault(scene, []).append(row[name])
    return found


def bootstrap(values, resamples=RESAMPLES):
    """(mean, low, high): the 2.5 % and 97.5 % quantiles of the means of resamples.

    Args: values: one for each scene.
    Laws: independent of the order; a constant shift shifts all three; the interval of equal values
        is that value; a single value has none.
    """
    values = np.sort(np.asarray(values, np.float64))
    if len(values) < 2:
        return float(values[0]), float("nan"), float("nan")
    chosen = np.random.default_rng(len(values)).integers(len(values), size=(resamples, len(values)))
    low, high = np.quantile(values[chosen].mean(1), (0.025, 0.975))
    return float(values.mean()), float(low), float(high)


def set_interval(rows, truths, base=None):
    """(distance, low, high) of the pictures' features to those of the true edits, or its difference
    to the base's; the interval from leaving out a block of scenes at a time."""
    pairs = [r for r in (rows, base) if r is not None]
    keys = [
        k for k in sorted(rows) if k[0] in truths and all("features" in r.get(k, {}) for r in pairs)
    ]
    if len(keys) < 2 * BLOCKS:
        return None
    wanted = np.stack([truths[scene] for scene, _ in keys])
    arrays = [np.stack([decoded(r[k]["features"]) for k in keys]) for r in pairs]

    def value(some):
        found = [frechet(a[some], wanted[some]) for a in arrays]
        return found[0] - (found[1] if len(found) > 1 else 0.0)

    block = np.arange(len(keys)) % BLOCKS
    whole = value(block >= 0)
    without = np.array([value(block != b) for b in range(BLOCKS)])
    error = np.sqrt((BLOCKS - 1) / BLOCKS * ((without - without.mean()) ** 2).sum())
    return whole, whole - 1.96 * error, whole + 1.96 * error


def collect(lines, found, path):
    """Write the lines of a folder as one file: each explanation once, each row of `found` once,
    without what the table does not show; a measure of a set as its value.

    Where there are too few scenes for that value yet the features stay, so that a run that has the
    file in its folder goes on with it.
    """
    experiment = found.experiment
    first, wanted = experiment["base"], set(experiment["measures"])
    sets = [{"kind": "set", "variant": variant, "measure": name,
             **dict(zip(("value", "difference"), set_cells(found, variant, first, name)))}
            for name in experiment["measures"] if MEASURES[name].of == "set"
            for variant in dict.fromkeys(v for _, v in experiment["variants"])]  # fmt: skip
    unfinished = any(line["value"] is None for line in sets)
    without = MEASURES.keys() - wanted | (set() if unfinished else {"features"})
    kinds = ("run", "variant", *(("truth",) if unfinished else ()))
    kept = [experiment, *(line for line in lines if line["kind"] in kinds)]
    for rows in found.rows.values():
        kept += [{k: v for k, v in row.items() if k not in without} for row in rows.values()]
    kept += [] if unfinished else sets
    once = {json.dumps(line): line for line in kept}.values()
    texts = [json.dumps(line, separators=(",", ":")) for line in packed(once)]
    with written(path) as part:
        part.write_text("\n".join(texts) + "\n", encoding="utf-8")
