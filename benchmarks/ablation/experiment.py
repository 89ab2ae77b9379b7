"""What an experiment is: a question, what it varies, and what is measured. Imports no MindSpore."""

import dataclasses
import difflib
import functools
import itertools
from dataclasses import dataclass, field
from typing import Mapping, NamedTuple

from diffedit_core.errors import InputError
from diffedit_core.options import DECLARED, RECIPES

from .identity import digest
from .measures import MEASURES

PARTS = ("step", "difference", "to_mask", "blend", "trail")  # of `diffedit_core.parts.Parts`
PROMPTS = {  # and what they are where nothing is said: "source" and "target" are the captions
    "source": "source",
    "target": "target",
    "negative": "",
    "mask_negative": "",
    "inversion_negative": "",
}
OTHERS = {
    "recipe": "a name of RECIPES, which the options start from",
    "mask": "function(subject, (h, w)) -> the mask [h,w] to use instead of looking for one",
    "answer": "function(subject) -> a picture [3,H,W] in [-1,1] instead of an edit",
}
AXES = (*DECLARED, *PARTS, *PROMPTS, *OTHERS)
ALWAYS = {"recipe": "paper", "background": "decoded"}  # methods are compared, not backgrounds


@dataclass(frozen=True)
class Experiment:
    """A question and the edits that answer it.

    name: of its folder of results.
    question: a sentence.
    vary: {axis: its values}, of which all combinations are run; values may be {label: value}. An
        axis is an option, one of PARTS with functions, one of PROMPTS with texts ("source" and
        "target" stand for the captions) or functions(subject) -> text, or one of OTHERS.
    rows: {label: {axis: value}} instead, or besides: single variants.
    base: {axis: value} of all of them where they say nothing else. It is run as well, and what the
        others are compared with. Without a recipe it is the paper's, without a background the
        picture as the autoencoder decodes it.
    measures: names of MEASURES; if all are of the mask, no picture is edited.
    scenes, split: the first edits of a split of the Orchard.
    seeds: of the draws; each is another run of every scene.
    """

    name: str
    question: str
    vary: Mapping = field(default_factory=dict)
    rows: Mapping = field(default_factory=dict)
    base: Mapping = field(default_factory=dict)
    measures: tuple = ("iou", "recognised", "background psnr")
    scenes: int = 30
    seeds: tuple = (0,)
    split: str = "test"

    def __post_init__(self):
        for axis, values in self.vary.items():
            _axis(self, axis)
            if isinstance(values, str) or not hasattr(values, "__len__"):
                values = f"{values!r}, not several values: write ({values!r},)"
                raise InputError(f"Axis {axis!r} of experiment {self.name} is {values}.")
            if not values:
                raise InputError(
                    f"Axis {axis!r} of experiment {self.name} has no values: give at least one."
                )
        for axis in itertools.chain(self.base, *self.rows.values()):
            _axis(self, axis)
        for measure in self.measures:
            _known(measure, MEASURES, f"Experiment {self.name} measures")
        if not self.measures or not self.seeds or self.scenes < 1:
            raise InputError(f"Experiment {self.name} needs a measure, a scene and a seed.")

    @property
    def only_mask(self):
        """Whether the masks say all that is measured."""
        return all(MEASURES[name].of == "mask" for name in self.measures)

    @functools.cached_property
    def variants(self):
        """[`Variant`]; several may be the same under different labels. The base comes first, unless
        it is one of the others."""
        found = [Variant(label, changes, self.only_mask) for label, changes in _changes(self)]
        for variant in found:
            _check(self, variant)
        return found[any(v.digest == found[0].digest for v in found[1:]) :]

    @property
    def base_digest(self):
        """The digest of the variant that the others are compared with."""
        return Variant("base", {**ALWAYS, **self.base}, self.only_mask).digest


def _changes(experiment):
    """(label, {axis: value}) of the base, the combinations and the rows."""
    base = {**ALWAYS, **experiment.base}
    yield "base", base
    axes = {axis: _labelled(values) for axis, values in experiment.vary.items()}
    for chosen in itertools.product(*axes.values()) if axes else ():
        label = ", ".join(f"{axis} {name}" for axis, (name, _) in zip(axes, chosen))
        yield label, {**base, **{axis: value for axis, (_, value) in zip(axes, chosen)}}
    for label, changes in experiment.rows.items():
        yield label, {**base, **changes}


def _labelled(values):
    """[(label, value)]"""
    if isinstance(values, Mapping):
        return list(values.items())
    return [(label_of(value), value) for value in values]


def label_of(value):
    """How a table names a value."""
    if isinstance(value, functools.partial):
        settings = [*map(label_of, value.args)]
        settings += [f"{k}={label_of(v)}" for k, v in value.keywords.items()]
        return f"{label_of(value.func)}({', '.join(settings)})"
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    if value is None:
        return "as it is"
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'


class Variant(NamedTuple):
    """One way to edit.

    label: how a table names it.
    changes: {axis: value}.
    only_mask: stop after the masks.
    """

    label: str
    changes: Mapping
    only_mask: bool

    def get(self, axis, default=None):
        value = self.changes.get(axis)
        return default if value is None else value

    def prompt(self, name):
        """The text or function of a prompt."""
        return self.get(name, PROMPTS[name])

    @property
    def options(self):
        """`Options`: the recipe's with the changes."""
        own = {name: value for name, value in self.changes.items() if name in DECLARED}
        return RECIPES[self.changes["recipe"]].replace(**own)

    @property
    def functions(self):
        """{part: function} of those that are replaced."""
        return {name: self.changes[name] for name in PARTS if self.get(name) is not None}

    @property
    def digest(self):
        """What the variant is, whatever its label."""
        return digest(
            dataclasses.asdict(self.options),
            self.functions,
            {name: self.prompt(name) for name in PROMPTS},
            {name: self.get(name) for name in ("mask", "answer")},
            self.only_mask,
        )[:12]

    @property
    def described(self):
        """{axis: value or its name}, for the files of results."""
        plain = (bool, int, float, str, type(None))
        named = {k: v if isinstance(v, plain) else label_of(v) for k, v in self.changes.items()}
        return {**dataclasses.asdict(self.options), **named}


# --- checks ---------------------------------------------------------------------------------------


def _known(name, table, what):
    if name not in table:
        near = difflib.get_close_matches(str(name).lower(), table, 1, 0.6)
        meant = f"did you mean {near[0]!r}?" if near else f"choose of {', '.join(table)}."
        raise InputError(f"{what} {name!r}, which there is not: {meant}")


def _axis(experiment, axis):
    _known(axis, AXES, f"Experiment {experiment.name} has an axis")


def _check(experiment, variant):
    """Every value is one that its axis takes; all functions have an identity."""
    where = f"Experiment {experiment.name}, {variant.label}"
    _known(variant.changes["recipe"], RECIPES, f"{where}: the recipe is")
    for axis, value in variant.changes.items():
        is_text = axis in PROMPTS and isinstance(value, str)
        wants_function = axis in PARTS or axis in PROMPTS or axis in ("mask", "answer")
        if wants_function and value is not None and not is_text and not callable(value):
            wanted = "a text or a function" if axis in PROMPTS else "a function"
            raise InputError(f"{where}: {axis} is {value!r}, it has to be {wanted}.")
    try:
        return variant.digest
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
