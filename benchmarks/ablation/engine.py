"""An experiment on a bench: its units, its plan, its rows."""

import base64
import functools
import json
import platform
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import mindspore as ms
import numpy as np
from tqdm import tqdm

from diffedit_core import window
from diffedit_core.errors import InputError
from diffedit_core.files import written
from diffedit_core.integrators import INTEGRATORS

from . import editing, plan, work
from .cache import Cache, Tally
from .identity import ROOT, code, digest
from .measures import MEASURES, numbers_of

FINDERS = tuple(f"diffedit_core.{m}" for m in ("hub", "folder", "recognise", "limits"))
NUMERICS = tuple(f"diffedit_core.{m}" for m in ("edit", "draws", "model"))
JUDGES = (
    "benchmarks.ablation.editing",
    "benchmarks.ablation.measures",
    "benchmarks.orchard.reader",
)


class Bench(NamedTuple):
    """What experiments run on.

    configs: `folder.Configs` of the model.
    model: its digest.
    size: of the pictures, their side in pixels.
    load: function () -> `model.Model`.
    batches: function (split, scenes, seeds) -> [`subjects.Batch`].
    reader: function (images) -> (features, classes), or None where no answer is known.
    compare: {measure: function (subject, image) -> number} of public packages.
    """

    configs: Any
    model: str
    size: int
    load: Callable
    batches: Callable
    reader: Optional[Callable] = None
    compare: dict = {}


class Job(NamedTuple):
    """An experiment whose work is laid out: its units, and what each variant's edit asks for."""

    experiment: Any
    bench: Bench
    units: list
    steps: dict
    folder: Path

    @property
    def plan(self):
        """The `plan.Plan`."""
        edits = [v.options for v in self.experiment.variants if not v.get("answer")]
        windows = any(options.decode_window is not None for options in edits)  # of empty masks none
        at_most = windows or any(INTEGRATORS[options.integrator].iterates for options in edits)
        return plan.of_units(self.units, self.steps, work.done(self.folder), at_most)


def total(jobs):
    """The `plan.Plan` of several jobs that share a folder of computed values."""
    plans, lists = [job.plan for job in jobs], {}
    for job in jobs:
        for unit in job.units:
            asked = lists.setdefault(unit.batch.names, {})
            for variant in unit.variants:
                asked.update({s.name: s.evaluations for s in job.steps[variant.digest]})
    shared = sum(len(names) * sum(asked.values()) for names, asked in lists.items())
    sums = [sum(each) for each in zip(*((p.alone, p.left, p.edits) for p in plans))]
    return plan.Plan(sums[0], shared, min(sums[1], shared), sums[2], any(p.at_most for p in plans))


def numerics():
    """The digest of the program that edits."""
    return code(*NUMERICS, without=FINDERS)


def program():
    """The digest of the program that edits and measures."""
    return code(*NUMERICS, *JUDGES, without=FINDERS)


def lay_out(experiment, bench, folder):
    """The `Job`.

    Args: folder: of all results; the experiment has one of its name there.
    Raises:
        InputError: a measure needs an answer, or packages, that the bench does not have.
    """
    for name in experiment.measures:
        if MEASURES[name].truth == "edit" and bench.reader is None:
            raise InputError(
                f"Experiment {experiment.name} measures {name!r}, which needs the true answer: of "
                "pictures of your own choose "
                f"{', '.join(n for n, m in MEASURES.items() if m.truth != 'edit')}."
            )
        if MEASURES[name].extra and name not in bench.compare:
            raise InputError(
                f"Experiment {experiment.name} measures {name!r}: install the public packages "
                f"(pip install '.[compare]') and give the folder of their model by --{name}."
            )
    batches = list(bench.batches(experiment.split, experiment.scenes, experiment.seeds))
    planner, plans = code("benchmarks.ablation.plan", without=FINDERS), Path(folder) / "plans"
    first, asked = batches[0].make()[0], (bench.configs, bench.model, planner, plans)
    steps = plan.remembered(experiment.variants, first, *asked)
    units = []
    for number, batch in enumerate(batches):
        for group in plan.groups(experiment.variants, steps):
            ids = {v.digest: _ids(experiment, bench, v, batch) for v in group}
            name = f"{number:03d}-{digest(batch.names, sorted(ids))[:8]}"
            units.append(work.Unit(name, batch, tuple(group), ids))
    return Job(experiment, bench, units, steps, Path(folder) / experiment.name)


def _ids(experiment, bench, variant, batch):
    """The ids of a variant's rows; where pictures are mixed, their neighbours are part of them."""
    beside = batch.names if variant.options.clamp_over == "batch" else ()
    what = (experiment.name, variant.digest, program(), bench.model, bench.size, beside)
    return [digest(*what, *name)[:16] for name in batch.names]


def run(job, cache=None, share=work.Share()):
    """Do what is left of a job: (how many units other processes have, evaluations computed)."""
    cache = cache or Cache()
    doing = _Doing(job, cache, share)
    try:
        elsewhere = work.work(job.units, job.folder, doing.compute, doing.begin, share)
    finally:
        doing.bar.close()
        doing.note_rate()
    return elsewhere, doing.computed


class _Doing:
    """The state of a run: the model once it is needed, the cache, the bar."""

    def __init__(self, job, cache, share):
        self.job, self.cache, self.model = job, cache, None
        self.computed, self.seconds = 0, 0.0
        self.facts = facts(job.bench)
        self.with_features = "csfid" in job.experiment.measures
        total = -(-job.plan.left // share.count)
        self.bar = tqdm(total=total, desc=job.experiment.name, unit="evaluation", disable=None)

    def begin(self, writer, unit):
        """The lines that explain the rows that follow."""
        for line in explained(self.job.experiment, self.facts):
            writer.append(**line)
        if self.with_features:
            subjects = unit.batch.make()
            features, _ = self.job.bench.reader(np.stack([s.truth for s in subjects]))
            for subject, row in zip(subjects, features):
                of = {"scene": subject.name, "size": self.job.bench.size}
                writer.append(kind="truth", **of, features=encoded(row))

    def compute(self, unit, variants):
        """(variant, [row of each subject])"""
        if self.model is None:
            self.model = editing.Counted(self.job.bench.load())
        subjects = unit.batch.make()
        context = editing.context(self.job.bench.model, numerics(), subjects)
        for variant in variants:
            tally, start = Tally(), time.perf_counter()
            counted = functools.partial(getattr, self.model, "evaluations")
            keep = self.cache.keep(context, counted, tally, self.model.clock)
            outcome = editing.run(variant, subjects, self.model, keep)
            self.computed += tally.computed
            self.seconds += time.perf_counter() - start
            self.bar.update(tally.computed)
            yield variant, list(self.rows(unit, variant, subjects, outcome, tally))

    def rows(self, unit, variant, subjects, outcome, tally):
        """What is written of an outcome."""
        factor, classes, size = self.job.bench.configs.vae.factor, None, len(subjects)
        if outcome.images is not None and self.job.bench.reader is not None:
            features, classes = self.job.bench.reader(np.clip(outcome.images, -1, 1))
        for i, (subject, (name, seed)) in enumerate(zip(subjects, unit.batch.names)):
            parts = (outcome.images, outcome.masks, outcome.noise_maps, classes)
            image, mask, noise_map, found = (None if p is None else p[i] for p in parts)
            numbers = numbers_of(subject, image, mask, noise_map, found, factor)
            for measure, function in self.job.bench.compare.items():
                if measure in self.job.experiment.measures and image is not None:
                    numbers[measure] = function(subject, image)
            if mask is not None and image is not None:
                margin, multiple = variant.options.decode_window, self.job.bench.configs.unet.factor
                numbers["window"] = window.share(mask, margin, multiple)
            numbers["evaluations"] = tally.evaluations // size
            numbers["seconds"] = tally.seconds / size
            row = {"run": self.facts["run"], "variant": variant.digest, "scene": name,
                   "seed": seed, "subject": subject.kind}  # fmt: skip
            row.update({k: rounded(v) for k, v in numbers.items()})
            if classes is not None and self.with_features:
                row["features"] = encoded(features[i])
            yield row

    def note_rate(self):
        """Leave the measured rate for the next `--plan`."""
        if self.computed and self.seconds:
            file = self.job.folder.parent / "rate.json"
            rate = {"evaluations": self.computed, "seconds": self.seconds}
            try:
                with written(file) as part:
                    part.write_text(json.dumps(rate), encoding="utf-8")
            except OSError:
                pass  # a full disk has been said already


def rate(folder):
    """Evaluations a second of the last run, or None."""
    try:
        found = json.loads((Path(folder) / "rate.json").read_text(encoding="utf-8"))
        return found["evaluations"] / found["seconds"]
    except (OSError, ValueError, KeyError):
        return None


# --- lines ----------------------------------------------------------------------------------------


def facts(bench):
    """Where numbers come from: program, model, size of the pictures, versions."""
    found = {
        "code": program(),
        "model": bench.model,
        "size": bench.size,
        "commit": commit(),
        "python": platform.python_version(),
        "mindspore": ms.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
    }
    return {"run": digest(found)[:8], **found}


def commit():
    """The commit of the program, with a + if files differ from it; None without git."""
    said = []
    for command in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "-uno")):
        try:
            done = subprocess.run(("git", *command), cwd=ROOT, capture_output=True, text=True)
        except OSError:
            return None
        if done.returncode:
            return None
        said.append(done.stdout.strip())
    return said[0] + "+" * bool(said[1])


def explained(experiment, facts):
    """The lines before the rows: the experiment, the run, and the variants."""
    yield {
        "kind": "experiment",
        "name": experiment.name,
        "question": experiment.question,
        "measures": experiment.measures,
        "base": experiment.base_digest,
        "variants": [[v.label, v.digest] for v in experiment.variants],
    }
    yield {"kind": "run", **facts}
    for variant in {v.digest: v for v in experiment.variants}.values():
        yield {"kind": "variant", "variant": variant.digest, "axes": variant.described}


def rounded(value):
    """Six digits are more than any measure is worth; what is no number is null."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    return float(f"{value:.6g}") if np.isfinite(value) else None


def encoded(features):
    """Features as text, in half precision."""
    return base64.b64encode(np.asarray(features, "<f2").tobytes()).decode()
