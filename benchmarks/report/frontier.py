"""What is gained and what it costs: several experiments in one plot."""

from diffedit_core.errors import InputError

from .. import plots
from ..ablation.measures import MEASURES
from ..ablation.tables import shown
from .drawing import full

AXES = ("seconds", "edit psnr")


def frontier(summaries, across=AXES[0], upwards=AXES[1]):
    """The SVG of one measure over another.

    A series for each experiment, joined in the order of what it costs; a point for each of its
    ways, with the interval of what is gained.

    Args:
        summaries: of `reading.Summary`.
        across, upwards: names of measures.
    Raises:
        InputError: there is no such measure, or no experiment has both.
    """
    for name in (across, upwards):
        if name not in MEASURES:
            raise InputError(f"There is no measure {name!r}: choose of {', '.join(MEASURES)}.")
    series = []
    for number, summary in enumerate(summaries):
        points = []
        for index, way in enumerate(summary.ways):
            x, y = way.values.get(across), way.values.get(upwards)
            if x is not None and y is not None:
                words = ", ".join(
                    f"{MEASURES[name].title} {shown(full(way.values[name]), name)}"
                    for name in (upwards, across)
                )
                key = (number, index, "value", upwards.replace(" ", "_"))
                points.append(plots.Point(key, x[0], *y, f"{way.label}: {words}, n = {way.n}"))
        if points:
            series.append(plots.Series(summary.experiment["name"], tuple(points)))
    if not series:
        raise InputError(f"No experiment has both {across!r} and {upwards!r}: give other --axes.")
    title = f"{MEASURES[across].title}; upwards: {MEASURES[upwards].title}"
    return plots.lines(series, title, title)
