"""Which plot an experiment gets: lines over the axis of most numbers, else rows of intervals."""

import math

from ..ablation.measures import MEASURES
from ..ablation.tables import shown
from ..plots import Point, Series, lines, rows

LEAST = 3  # values of an axis that are worth a line


def curve(summary):
    """(axis, [(name of a series, [(x, index of a way)])], index of a base apart or None) if all
    ways but the base differ in an axis of numbers, else None.

    The axes are read from the labels that the engine makes: "axis value, axis value".
    """
    apart, read = None, {}
    for index, way in enumerate(summary.ways):
        if way.label == "base":
            apart = index
        else:
            read[index] = _pieces(way)
    if not read or None in read.values():
        return None
    axes = set.intersection(*(set(pieces) for pieces in read.values()))
    values = {axis: {_number(pieces[axis]) for pieces in read.values()} for axis in axes}
    usable = [axis for axis in sorted(axes) if None not in values[axis]]
    axis = max(usable, key=lambda a: len(values[a]), default=None)
    if axis is None or len(values[axis]) < LEAST:
        return None
    series = {}
    for index, pieces in read.items():
        name = ", ".join(f"{a} {v}" for a, v in pieces.items() if a != axis)
        series.setdefault(name, []).append((_number(pieces[axis]), index))
    if any(len({x for x, _ in points}) < len(points) for points in series.values()):
        return None
    return axis, list(series.items()), apart


def _pieces(way):
    """{axis: text of its value} of a label, or None if it is no such label."""
    found = {}
    for piece in way.label.split(", "):
        axis, _, value = piece.partition(" ")
        if axis not in way.axes or axis in found:
            return None
        found[axis] = value
    return found


def _number(text):
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def words_of(way, measure):
    """All numbers of a way and a measure, as text."""
    text = f"{way.label}: {MEASURES[measure].title} {shown(full(way.values[measure]), measure)}"
    if way.differences[measure] is not None:
        text += f", difference to the base {shown(full(way.differences[measure]), measure, '+')}"
    return f"{text}, n = {way.n}"


def full(triple):
    """A triple with "not a number" where there is no interval, as `tables.shown` takes it."""
    return None if triple is None else tuple(math.nan if v is None else v for v in triple)


def plots_of(summary, number=0):
    """{measure: SVG} of the measures that have a number.

    Args: number: of the summary in its page.
    """
    return {
        measure: plot(summary, measure, number, curve(summary))
        for measure in summary.measures
        if any(way.values[measure] is not None for way in summary.ways)
    }


def plot(summary, measure, number, found):
    """The SVG of one measure; `found` is what `curve` found."""
    title = f"{summary.experiment['name']}, {MEASURES[measure].title}"

    def point(x, index, triple, which):
        key = (number, index, which, measure.replace(" ", "_"))
        return Point(key, x, *triple, words_of(summary.ways[index], measure))

    if found is None:
        return rows(_rows(summary, measure, point), title, "difference to the base")
    axis, named, apart = found
    series = []
    for name, places in named:
        held = [(x, i, summary.ways[i].values[measure]) for x, i in places]
        points = [point(x, i, triple, "value") for x, i, triple in held if triple is not None]
        if points:
            series.append(Series(name, tuple(points)))
    base = None if apart is None else summary.ways[apart].values[measure]
    if not series:  # the base alone has a number
        return rows(_rows(summary, measure, point), title, "difference to the base")
    return lines(series, axis, title, None if base is None else ("base", base[0]))


def _rows(summary, measure, point):
    """A row for each way; the base's is at zero and has its value in the words."""
    found = []
    for index, way in enumerate(summary.ways):
        if way.digest == summary.experiment["base"]:
            of = () if way.values[measure] is None else ((0.0, None, None),)
        else:
            of = (way.differences[measure],) if way.differences[measure] is not None else ()
        points = tuple(point(None, index, triple, "difference") for triple in of)
        is_base = way.digest == summary.experiment["base"] and way.label != "base"
        found.append(Series(way.label + " (base)" * is_base, points))
    return found
