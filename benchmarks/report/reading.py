"""Results of experiments, checked and summed up."""

import math
from pathlib import Path
from typing import Mapping, NamedTuple, Optional

from diffedit_core.errors import InputError

from ..ablation import rows, tables
from ..ablation.measures import MEASURES

KEYS = {  # of the lines that the page needs; others are passed over
    "experiment": {"name": str, "question": str, "measures": list, "variants": list, "base": str},
    "run": {"run": str, "code": str, "model": str},
    "variant": {"variant": str, "axes": dict},
    "row": {"id": str, "run": str, "variant": str, "scene": str, "seed": int, "subject": str},
    "truth": {"scene": str, "features": str},
    "set": {"variant": str, "measure": str},
}


class Way(NamedTuple):
    """A variant under one of its labels.

    n: how many rows it has.
    values, differences: {measure: (mean, low, high), or None}; low and high are None where there
        is no interval. A difference is to the base, paired by scene.
    scenes: {measure: how many scenes a difference is of}.
    axes: {axis: value or its name}.
    """

    label: str
    digest: str
    n: int
    values: Mapping
    differences: Mapping
    scenes: Mapping
    axes: Mapping


class Summary(NamedTuple):
    """An experiment that was measured. found: `tables.Results`."""

    experiment: dict
    found: tables.Results
    ways: tuple

    @property
    def base(self):
        """The `Way` that the others are compared with, or None if it was not measured."""
        of_base = (w for w in self.ways if w.digest == self.experiment["base"] and w.n)
        return next(of_base, None)

    @property
    def measures(self):
        return self.experiment["measures"]

    def way(self, label) -> Optional[Way]:
        """The way of a label; "base" is the base under any label."""
        found = next((w for w in self.ways if w.label == label), None)
        return self.base if found is None and label == "base" else found


def read(places):
    """[`Summary`] of all experiments in folders and files, in the order of their names.

    Raises:
        InputError: a place is missing, has no results, or a line is none of an experiment's.
    """
    lines = {}
    for place in places:
        files = _files(Path(place))
        of_place = sum((_of_file(path, lines) for path in files), 0)
        if not of_place:
            raise InputError(
                f"{place} has no rows of experiments: give what `python -m benchmarks.ablation` "
                "wrote."
            )
    return [s for name in sorted(lines) if (s := _summary(list(lines[name].values())))]


def _files(place):
    if place.is_dir():
        return sorted({*place.glob("*.jsonl"), *place.glob("*/*.jsonl")})
    if not place.is_file():
        raise InputError(f"{place} is missing: give a folder or a file of results.")
    return [place]


def _of_file(path, into):
    """Add the lines of a file to {experiment: {what a line is: line}}; how many rows there are."""
    try:
        found = list(rows.numbered(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give a file of results.")
    for number, line in found:
        _check(f"{path}, line {number},", line)
    runs = {line["run"] for _, line in found if line["kind"] == "run"}
    name, count = None, 0
    for number, line in found:
        if line["kind"] not in KEYS:
            continue
        if line["kind"] == "experiment":
            name = line["name"]
        elif name is None:
            raise InputError(
                f"{path}, line {number}, stands before the line of its experiment: give the file "
                "as it was written."
            )
        if line["kind"] == "row":
            count += 1
            if line["run"] not in runs:
                raise InputError(
                    f"{path}, line {number}, is of a run that the file does not explain: measure "
                    "again."
                )
        into.setdefault(name, {})[_what(line)] = line
    return count


def _what(line):
    """What a line is: two that are the same are counted once, of two experiments the last."""
    names = {"experiment": (), "run": ("run",), "variant": ("variant",), "truth": ("scene",)}
    names["set"] = ("variant", "measure")
    names["row"] = ("id",)
    return line["kind"], *(line[key] for key in names[line["kind"]])


def _check(where, line):
    """A line has what the page needs.

    Raises: InputError.
    """
    if not isinstance(line, dict) or not isinstance(line.get("kind"), str):
        raise InputError(f"{where} is no line of results: give a file that an experiment wrote.")
    for key, kind in KEYS.get(line["kind"], {}).items():
        value = line.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise InputError(
                f"{where} has {key} {value!r}, not {kind.__name__}: it is of another program; "
                "measure again."
            )
    if line["kind"] == "experiment":
        _check_experiment(where, line)
    for name in sorted((MEASURES.keys() | {"features"}) & line.keys()):
        good = _are_features(line[name]) if name == "features" else _is_number(line[name])
        if not (good or (line[name] is None and name != "features")):
            raise InputError(f"{where} has {name} {line[name]!r}, not a number: measure again.")
    if line["kind"] == "set":
        _check_set(where, line)


def _check_experiment(where, line):
    for measure in line["measures"]:
        if not (isinstance(measure, str) and measure in MEASURES):
            raise InputError(
                f"{where} has a measure {measure!r}, which there is not: it is of another program."
            )
    for pair in line["variants"]:
        if not (isinstance(pair, list) and list(map(type, pair)) == [str, str]):
            raise InputError(f"{where} has a variant {pair!r}, not a label and a digest.")


def _check_set(where, line):
    """A measure of a whole set is one, and has an interval or nothing for both its numbers."""
    if line["measure"] not in MEASURES:
        raise InputError(f"{where} has a measure {line['measure']!r}, which there is not.")
    for key in ("value", "difference"):
        triple = line.get(key)
        if triple is None:
            continue
        if not (isinstance(triple, list) and len(triple) == 3 and all(map(_is_number, triple))):
            raise InputError(f"{where} has {key} {triple!r}, not a number with its interval.")


def _are_features(text):
    """Whether a text is what the engine writes of a picture's features."""
    try:
        return len(tables.decoded(text)) > 0
    except (ValueError, TypeError):
        return False


def _is_number(value):
    return isinstance(value, (bool, int, float)) and math.isfinite(value)


def _summary(lines):
    found = tables.results(lines)
    if found is None:
        return None
    experiment = found.experiment
    axes = {line["variant"]: line["axes"] for line in lines if line["kind"] == "variant"}
    first, ways = experiment["base"], []
    for label, variant in experiment["variants"]:
        own, base = (found.rows.get(v, {}) for v in (variant, first))
        values, differences, scenes = {}, {}, {}
        for name in experiment["measures"]:
            if MEASURES[name].of == "set":
                one, other = tables.set_cells(found, variant, first, name)
            else:
                one, other = tables.summary(own, name), tables.difference(own, base, name)
            values[name] = plain(one)
            differences[name] = None if variant == first else plain(other)
            scenes[name] = scenes_of((own, name), (base, name))
        axes_of = axes.get(variant, {})
        ways.append(Way(label, variant, len(own), values, differences, scenes, axes_of))
    return Summary(experiment, found, tuple(ways))


def scenes_of(*sides):
    """How many scenes all sides have.

    Args: sides: (rows of a variant, measure); of a measure of sets a row is enough.
    """
    having = [
        {
            key
            for key, row in rows.items()
            if MEASURES[name].of == "set" or row.get(name) is not None
        }
        for rows, name in sides
    ]
    return len({scene for scene, _ in set.intersection(*having)})


def plain(triple):
    """(mean, low, high) in plain numbers, with None for what is no number; or None."""
    if triple is None or not math.isfinite(triple[0]):
        return None
    return tuple(float(v) if math.isfinite(v) else None for v in triple)
