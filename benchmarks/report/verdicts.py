"""From intervals to verdicts, by one rule."""

from typing import NamedTuple, Optional, Tuple

from ..ablation import tables
from ..ablation.measures import MEASURES
from .claims import Comparison
from .reading import plain, scenes_of

LEAST = 6  # scenes: of five, all take one side by chance in 2 / 2^5 = 6 % of the cases
RULE = (
    "A comparison is for the sentence if the 95 % interval of the difference, paired by scene, "
    "lies above zero, against it if it lies below zero, and open otherwise or with fewer than "
    f"{LEAST} scenes. All for it: holds. "
    "Some for it: holds if. None for it and one against it: does not hold here. All open: not "
    "decided, which more scenes may change."
)
FOR, AGAINST, OPEN, MISSING = "for it", "against it", "open", "not measured"
HOLDS, IF, NOT, UNDECIDED = "holds", "holds if", "does not hold here", "not decided"


class Outcome(NamedTuple):
    """A comparison with its difference (mean, low, high), or None, its number of scenes, and what
    follows."""

    comparison: Comparison
    difference: Optional[tuple]
    scenes: int
    side: str


class Verdict(NamedTuple):
    word: str
    outcomes: Tuple[Outcome, ...]

    @property
    def conditions(self):
        """Where a sentence that holds under conditions does."""
        return [o.comparison.when for o in self.outcomes if o.side == FOR]


def side_of(difference, scenes):
    """Which side an interval takes.

    Args:
        difference: (mean, low, high), low and high None without an interval; or None.
        scenes: that it is of.
    Laws: the mean alone decides nothing; turned about, for it becomes against it.
    """
    if difference is None:
        return MISSING
    _, low, high = difference
    if low is None or high is None or scenes < LEAST:
        return OPEN
    return FOR if low > 0 else AGAINST if high < 0 else OPEN


def word_of(sides):
    """The verdict of the sides of all comparisons.

    Laws: depends on their order in nothing; what was not measured is never for a sentence.
    """
    if all(side == FOR for side in sides):
        return HOLDS
    if FOR in sides:
        return IF
    return NOT if AGAINST in sides else UNDECIDED


def judged(claim, summary):
    """The `Verdict` on a claim that has comparisons, else None."""
    if not claim.comparisons:
        return None
    outcomes = []
    for comparison in claim.comparisons:
        found, scenes = difference(summary, comparison)
        outcomes.append(Outcome(comparison, found, scenes, side_of(found, scenes)))
    return Verdict(word_of([o.side for o in outcomes]), tuple(outcomes))


def difference(summary, comparison):
    """((mean, low, high) of `more` - `less`, paired by scene, how many scenes); the first is None
    if one was not measured. Law: of the base - a way it is the table's, of the way - the base, with
    the other sign: of both the same resamples are taken."""
    pair = (comparison.more, comparison.less)
    ways = [summary.way(side.label) for side in pair]
    if None in ways:
        return None, 0
    rows = [summary.found.rows.get(way.digest, {}) for way in ways]
    scenes = scenes_of(*zip(rows, (side.measure for side in pair)))
    if any(MEASURES[side.measure].of == "set" for side in pair):
        return _of_sets(summary, pair, ways), scenes
    sides = [{key: {"value": row.get(side.measure)} for key, row in of.items()}
             for of, side in zip(rows, pair)]  # fmt: skip
    if summary.base is not None and ways[0].digest == summary.base.digest:
        return mirrored(plain(tables.difference(*sides[::-1], "value"))), scenes
    return plain(tables.difference(*sides, "value")), scenes


def mirrored(found):
    """The interval of a difference that is taken the other way round."""
    if found is None:
        return None
    mean, low, high = found
    return -mean, None if high is None else -high, None if low is None else -low


def _of_sets(summary, pair, ways):
    """The same of measures of whole sets: from the features, else from what was collected, which
    has the differences to the base."""
    if pair[0].measure != pair[1].measure:
        return None
    more, less = (summary.found.rows.get(way.digest, {}) for way in ways)
    found = plain(tables.set_interval(more, summary.found.truths, less))
    if found is not None or summary.base is None:
        return found
    name, base = pair[0].measure, summary.base.digest
    if ways[1].digest == base:
        return ways[0].differences.get(name)
    return mirrored(ways[1].differences.get(name)) if ways[0].digest == base else None
