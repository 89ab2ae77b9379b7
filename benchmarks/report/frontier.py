"""What is gained and what it costs: several experiments in one plot."""

from diffedit_core.errors import InputError

from .. import plots
from ..ablation.measures import MEASURES
from ..ablation.tables import shown
from .drawing import full, words_of

AXES = ("seconds", "edit psnr")


def frontier(summaries, across=AXES[0], upwards=AXES[1]):
    """The SVG of one measure over another.

    A series for each experiment, joined in the order of what it costs; of a single experiment one
    for each way. A point for each way: the mean of what it costs, and the difference to the
    experiment's base, which is at 0, with the interval of that difference.

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
        points, named = [], []
        for index, way in enumerate(summary.ways):
            base = way is summary.base and way.values.get(upwards) is not None
            x, y = way.values.get(across), way.differences.get(upwards)
            y = (0.0, None, None) if base else y
            if x is not None and y is not None:
                key = (number, index, "difference", upwards.replace(" ", "_"))
                words = (
                    f"{words_of(way, upwards)}; {MEASURES[across].title} {shown(full(x), across)}"
                )
                points.append(plots.Point(key, x[0], *y, words))
                named.append(way.label)
        if len(summaries) == 1:
            series = [plots.Series(name, (point,)) for name, point in zip(named, points)]
        elif points:
            series.append(plots.Series(summary.experiment["name"], tuple(points)))
    if not series:
        raise InputError(f"No experiment has both {across!r} and {upwards!r}: give other --axes.")
    title = f"{MEASURES[across].title}; upwards: {MEASURES[upwards].title}, difference to the base"
    return plots.lines(series, title, title, measured=False, apart=len(summaries) > 1)
