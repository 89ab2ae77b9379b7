"""Who does what: units of work, and the loop that does them. Knows no model.

A unit is a batch of subjects and a group of variants that share work. Processes that share a folder
take a unit each by locking its file: first those of their own share, then what nobody has begun. A
unit whose process died is free at once, and what it had written counts.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

from diffedit_core.errors import InputError

from . import rows


class Unit(NamedTuple):
    """A batch and the variants to run on it, in the order in which they share most.

    name: of its file.
    batch: what `compute` takes.
    variants: of `experiment.Variant`.
    ids: {variant's digest: the ids of its rows}, one for each subject.
    """

    name: str
    batch: Any
    variants: tuple
    ids: dict


class Share(NamedTuple):
    """Share `index` of `count`; `alone` leaves the units of the others to them."""

    index: int = 0
    count: int = 1
    alone: bool = False

    @classmethod
    def of(cls, text=None, environment=os.environ):
        """From --shard i/n, i from 1 to n; else what MindSpore's launcher says; else everything."""
        if text is None:
            rank, size = (environment.get(n, d) for n, d in (("RANK_ID", "0"), ("RANK_SIZE", "1")))
            return cls(int(rank), int(size))
        index, _, count = text.partition("/")
        if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
            raise InputError(f"--shard is {text!r}: write i/n, such as 1/2 and 2/2.")
        return cls(int(index) - 1, int(count), True)

    def of_units(self, units):
        """Its own units, then, unless `alone`, those of the others."""
        own = units[self.index :: self.count]
        others = [] if self.alone else [u for i, u in enumerate(units)
                                        if i % self.count != self.index]  # fmt: skip
        return [*own, *others]


def done(folder):
    """The ids of the rows of a folder of results."""
    return {line["id"] for line in rows.read(folder) if line["kind"] == "row"}


def missing(unit, known):
    """The unit's variants that lack a row."""
    return [v for v in unit.variants if not known.issuperset(unit.ids[v.digest])]


def work(units, folder, compute, begin, share=Share()):
    """Do what is missing of the units; returns how many others are doing.

    Args:
        units: list of `Unit`.
        folder: of the results; each unit has a file there.
        compute: function (unit, variants) -> generator of (variant, [{measure: number}] of the
            batch), in the order of the variants.
        begin: function (writer, unit), called before the first row of a unit.
        share: `Share`.
    Laws: a process that is killed at any moment loses no row that it has written, and the next one
        writes none twice; two processes write the same rows as one.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}): choose another --out.")
    elsewhere, known = 0, done(folder)
    for unit in share.of_units(units):
        if not missing(unit, known):
            continue
        with rows.locked(folder / f"{unit.name}.jsonl") as writer:
            if writer is None:
                elsewhere += 1
                continue
            there = known | {line["id"] for line in rows.lines(writer.path) if "id" in line}
            variants = missing(unit, there)
            if variants:
                begin(writer, unit)
            for variant, found in compute(unit, variants):
                for name, numbers in zip(unit.ids[variant.digest], found):
                    if name not in there:
                        writer.append(kind="row", id=name, **numbers)
    return elsewhere
