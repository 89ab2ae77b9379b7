"""Plots as SVG text: marks, points with intervals along an axis, and rows of intervals.

Pure functions of numbers and texts. A plot is drawn the same for a page and for a file; the colours
of text and lines are the style's, see `alone`.
"""

import math
from html import escape
from typing import NamedTuple, Optional, Tuple

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8a8a")
MARKS = ("circle", "square", "triangle", "diamond")
WIDTH = 440
LEFT, RIGHT, TOP = 52, 14, 12
DODGE = 3
STYLE = (
    "text{fill:#1c1f24;font:13px system-ui,sans-serif}"
    ".grid{stroke:#d3d7dd;fill:none}.zero{stroke:#5b626d;fill:none}"
)


class Point(NamedTuple):
    """A value with its interval.

    key: (what it is of, which of its numbers), for a program in the page.
    x: place on the axis; None in `rows`.
    value, low, high: low and high are None where there is no interval.
    words: all its numbers as text.
    """

    key: tuple
    x: Optional[float]
    value: float
    low: Optional[float]
    high: Optional[float]
    words: str


class Series(NamedTuple):
    """Points of one colour and one mark; a line joins them in `lines`."""

    name: str
    points: Tuple[Point, ...]


def mark(kind, x, y, r, colour, text):
    """One point with its tooltip, as SVG."""
    inside = f"<title>{escape(text)}</title>" if text else ""
    style = f'fill="{colour}" fill-opacity="0.75" stroke="{colour}"'
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" {style}>{inside}</circle>'
    corners = {
        "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        "triangle": ((0, -1.2), (1.1, 0.8), (-1.1, 0.8)),
        "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    }[kind]
    points = " ".join(f"{x + r * a * 0.9:.1f},{y + r * b * 0.9:.1f}" for a, b in corners)
    return f'<polygon points="{points}" {style}>{inside}</polygon>'


def ticks(low, high, most=5):
    """Round numbers from low to high: multiples of 1, 2 or 5 times a power of ten.

    Laws: at least one and at most `most` + 1; each lies in [low, high]; their distances are equal.
    """
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(power * k for k in (1, 2, 5, 10) if (high - low) / (power * k) <= most)
    first = math.ceil(low / step - 1e-9)
    found = [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]
    return [min(max(tick, low), high) for tick in found] or [low]


def _range(values, room=0.05):
    """(low, high) that holds all values with some room; never empty."""
    low, high = min(values), max(values)
    more = (high - low) * room or max(abs(high) * 0.1, 1e-3)
    return low - more, high + more


def _ends(points):
    """All finite values and ends of intervals."""
    return [v for p in points for v in (p.value, p.low, p.high) if v is not None]


def _shown(tick):
    return f"{tick:.6g}" if tick else "0"


def _marked(point, shape, whisker):
    """A point that can be reached: its words for who sees it and who hears it."""
    words, key = escape(point.words), " ".join(map(str, point.key))
    return (
        f'<g class="point" role="img" tabindex="-1" data-key="{key}" aria-label="{words}">'
        f"<title>{words}</title>{whisker}{shape}</g>"
    )


def _whole(parts, height, name):
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height}" role="group" '
        f'aria-label="{escape(name)}">{"".join(parts)}</svg>'
    )


def _cut(text, most=58):
    return text if len(text) <= most else text[: most - 1] + "…"


def lines(series, xlabel, title, reference=None, measured=True, apart=True):
    """Values over a numeric axis, a line for each series, with a legend below.

    Args:
        series: list of `Series` with at least one point.
        xlabel, title: texts.
        reference: (name, value) of a dashed line, or None.
        measured: ticks of the axis at the values that the points have, else at round numbers.
        apart: each series stands some px aside, so that intervals at one place do not cover
            each other.
    """
    points = [p for s in series for p in s.points]
    held = _ends(points) + ([reference[1]] if reference else [])
    (left, right), (low, high) = _range([p.x for p in points]), _range(held)
    bottom = 240

    def at(x, y):
        across = (x - left) / (right - left) * (WIDTH - LEFT - RIGHT)
        return LEFT + across, bottom - (y - low) / (high - low) * (bottom - TOP)

    xs = sorted({p.x for p in points}) if measured else ticks(left, right)
    parts = [*_upright(at, low, high), *_level(at, xs, low, bottom)]
    parts.append(_text(WIDTH / 2, bottom + 36, xlabel, "middle"))
    if reference:
        y = at(left, reference[1])[1]
        parts.append(
            f'<path class="zero" stroke-dasharray="5 4" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        )
    named = [s for s in series if s.name]
    for number, each in enumerate(series):
        aside = DODGE * (number - (len(series) - 1) / 2) * apart
        colour, kind = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
        parts += _line(each, at, aside, colour, kind)
    for number, each in enumerate(named):
        y = bottom + 58 + 20 * number
        colour, kind = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
        parts += [mark(kind, LEFT, y - 4, 5, colour, ""), _text(LEFT + 14, y, _cut(each.name))]
    if reference:
        y = bottom + 58 + 20 * len(named)
        parts.append(
            f'<path class="zero" stroke-dasharray="5 4" d="M{LEFT - 8} {y - 4}h16"/>'
            + _text(LEFT + 14, y, _cut(reference[0]))
        )
    rows = len(named) + bool(reference)
    return _whole(parts, bottom + 46 + 20 * rows, title)


def _line(series, at, aside, colour, kind):
    ordered = sorted(series.points, key=lambda p: p.x)
    places = [(at(p.x, p.value)[0] + aside, at(p.x, p.value)[1]) for p in ordered]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    yield f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
    for point, (x, y) in zip(ordered, places):
        whisker = ""
        if point.low is not None:
            below, above = at(point.x, point.low)[1], at(point.x, point.high)[1]
            whisker = f'<path d="M{x:.1f} {below:.1f}V{above:.1f}" stroke="{colour}"/>'
        yield _marked(point, mark(kind, x, y, 5, colour, ""), whisker)


def _upright(at, low, high):
    for tick in ticks(low, high):
        y = at(0, tick)[1]
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        yield _text(LEFT - 6, y + 4, _shown(tick), "end")


def _level(at, xs, low, bottom):
    """A tick at each value, a number where there is room for it."""
    before = -math.inf
    for x in xs:
        place = at(x, low)[0]
        yield f'<path class="zero" d="M{place:.1f} {bottom}v5"/>'
        if place - before >= 34:
            yield _text(place, bottom + 19, _shown(x), "middle")
            before = place


def _text(x, y, text, anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def rows(found, title, note=""):
    """Rows of intervals beside a line at zero, each under its name.

    Args: found: [`Series`] of one point each, or of none where there is no number; note: below the
        axis.
    """
    points = [p for s in found for p in s.points]
    low, high = _range([*_ends(points), 0.0])
    bottom, side = TOP + 36 * len(found), 26

    def at(value):
        return side + (value - low) / (high - low) * (WIDTH - 2 * side)

    parts = []
    for tick in ticks(low, high):
        x = at(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{bottom}"/>')
        parts.append(_text(x, bottom + 17, _shown(tick), "middle"))
    parts.append(f'<path class="zero" d="M{at(0.0):.1f} {TOP}V{bottom}"/>')
    for number, each in enumerate(found):
        y, colour = TOP + 36 * number + 25, COLOURS[0]
        parts.append(_text(4, y - 11, _cut(each.name)))
        if not each.points:
            parts.append(_text(side, y + 5, "-"))
        for point in each.points:
            whisker = ""
            if point.low is not None:
                whisker = (
                    f'<path d="M{at(point.low):.1f} {y}H{at(point.high):.1f}" '
                    f'stroke="{colour}" stroke-width="2"/>'
                )
            shape = mark("circle", at(point.value), y, 5, colour, "")
            parts.append(_marked(point, shape, whisker))
    parts.append(_text(WIDTH / 2, bottom + 36, note, "middle"))
    return _whole(parts, bottom + 44, title)


def alone(svg):
    """A plot of a page as a file of its own: with a name space and a style."""
    head, _, rest = svg.partition(">")
    head = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return f"{head}><style>{STYLE}</style>{rest}\n"
