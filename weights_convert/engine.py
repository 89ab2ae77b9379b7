"""One engine for all tables: each leaf of the model to its key in a file.

A table is data: rules (pattern of a leaf, target, layout). A leaf is named "component/path"; the
target is the key that holds it, filled with the pattern's groups and with the numbers that the
table computes from them. A leaf may have several targets where files use older names; exactly one
of them must be there. Reading and writing use the same table.

Laws (tests): every source key belongs to exactly one leaf, part, drop or group; every leaf has
exactly one source.
"""

import re
from typing import NamedTuple

from diffedit_core.errors import InputError

from .tensors import FLOATS, count


class Rule(NamedTuple):
    """Layout: "same"; "matrix" and "1x1", a linear weight that may be stored as a convolution, the
    second being written so; "part k/n", one of n stacked on the first dimension."""

    pattern: str
    target: str
    layout: str = "same"


class Drop(NamedTuple):
    """Keys that are left out, and why."""

    pattern: str
    reason: str


class Group(NamedTuple):
    """Keys that are left out together: either all of them are there, in these shapes, or none."""

    reason: str
    shapes: dict


class Claim(NamedTuple):
    """A possible source of a leaf."""

    key: str
    layout: str
    rule: int


class Match(NamedTuple):
    """leaf -> Claim; how often each rule was used; how many keys were left out for each reason."""

    claims: dict
    rules: dict
    dropped: dict


def stored_shape(shape, layout):
    """The shape that is written for a leaf."""
    if layout == "1x1":
        return (*shape, 1, 1)
    if layout.startswith("part"):
        return (shape[0] * int(layout.partition("/")[2]), *shape[1:])
    return tuple(shape)


def read_shapes(shape, layout):
    """The shapes that a file may have for a leaf, the written one first."""
    written = stored_shape(shape, layout)
    if layout not in ("matrix", "1x1"):
        return (written,)
    return (written, *({tuple(shape), (*shape, 1), (*shape, 1, 1)} - {written}))


def part(layout):
    """Which of the parts that share a key a layout is."""
    return int(layout[5:].partition("/")[0]) if layout.startswith("part") else 0


def candidates(rules, leaves, numbers=None):
    """{leaf: [Claim, ...]}; the first is the name that is written. A leaf that no rule fits has
    none."""
    compiled = [re.compile(rule.pattern) for rule in rules]
    found = {}
    for leaf in leaves:
        found[leaf] = claims = []
        for index, (pattern, rule) in enumerate(zip(compiled, rules)):
            match = pattern.fullmatch(leaf)
            if match:
                groups = match.groupdict()
                key = rule.target.format(**groups, **(numbers(groups) if numbers else {}))
                claims.append(Claim(key, rule.layout, index))
    return found


def match(tensors, leaves, rules, names, drops=(), groups=(), where=""):
    """Give every leaf its source.

    Args:
        tensors: [(key, Stored)] of all the files; a key that is there twice is reported.
        leaves: {leaf: shape}.
        rules: the table, for the counts.
        names: `candidates` of the table.
        drops: keys that may be left out.
        groups: keys that are left out together.
        where: name of the source, for the message.
    Returns:
        `Match`.
    Raises:
        InputError: unknown, ambiguous, duplicate, missing and wrong-shaped keys, all of them in one
            message.
    """
    keys, report = {}, Report()
    for key, stored in tensors:
        if key in keys:
            report.add("given twice", repr(key))
        keys[key] = stored
    owners, claims = {}, {}
    for leaf, shape in leaves.items():
        present = [claim for claim in names[leaf] if claim.key in keys]
        if not present:
            report.add(
                "missing", repr(names[leaf][0].key) if names[leaf] else f"a rule for {leaf!r}"
            )
        elif len(present) > 1:
            report.add("given twice", " and ".join(repr(claim.key) for claim in present))
        for claim in present:
            claims[leaf] = claim
            _own(owners, claim, leaf, report)
            _fits(claim.key, keys[claim.key], read_shapes(shape, claim.layout), report)
    dropped = _leave_out(keys, owners, drops, groups, report)
    for key in keys:
        if key not in owners:
            report.add("unknown", f"{key!r} {list(keys[key].shape)}")
    report.check(where)
    used = {}
    for claim in claims.values():
        used[rules[claim.rule].pattern] = used.get(rules[claim.rule].pattern, 0) + 1
    return Match(claims, used, dropped)


def _own(owners, claim, leaf, report):
    """Note that a leaf takes a key, or a part of it, and report two that take the same."""
    parts = owners.setdefault(claim.key, {})
    layouts = {other.partition("/")[2] for other in parts}
    if claim.layout in parts or layouts and claim.layout.partition("/")[2] not in layouts - {""}:
        report.add("ambiguous", f"{claim.key!r} for {leaf!r} and {next(iter(parts.values()))!r}")
    parts[claim.layout] = leaf


def _fits(key, stored, shapes, report):
    if stored.shape not in shapes:
        report.add("wrong shape", f"{key!r} is {list(stored.shape)}, expected {list(shapes[0])}")
    if stored.dtype not in FLOATS:
        report.add("wrong type", f"{key!r} is {stored.dtype}, expected one of {', '.join(FLOATS)}")


def _leave_out(keys, owners, drops, groups, report):
    """Count the keys that drops and groups leave out."""
    dropped = {}
    for reason, shapes in groups:
        present = [key for key in shapes if key in keys]
        for key in shapes if present else ():
            if key not in keys:
                report.add("missing", repr(key))
            elif key in owners:
                report.add("ambiguous", f"{key!r} is both used and left out ({reason})")
            else:
                owners[key] = {"left out": reason}
                _fits(key, keys[key], (shapes[key],), report)
        if present:
            dropped[reason] = len(present)
    for drop in drops:
        for key in keys:
            if re.fullmatch(drop.pattern, key):
                if key in owners:
                    report.add("ambiguous", f"{key!r} is both used and left out ({drop.reason})")
                owners[key] = {"left out": drop.reason}
                dropped[drop.reason] = dropped.get(drop.reason, 0) + 1
    return dropped


class Report:
    """What is wrong with a source, by kind; told all at once."""

    def __init__(self):
        self.found = {}

    def add(self, kind, text):
        self.found.setdefault(kind, {})[text] = None  # a set that keeps its order

    def check(self, where):
        """Raises InputError if there is anything to tell."""
        if self.found:
            told = "; ".join(f"{kind}: {', '.join(texts)}" for kind, texts in self.found.items())
            raise InputError(
                f"{where} does not hold exactly what the model's configuration describes: {told}. "
                "Check that the file is complete, is of Stable Diffusion 1 or 2, and fits the "
                "configuration (--config); unknown keys that are no weights of the model can be "
                "left out with --drop PATTERN."
            )


def elements(shape, layout):
    """(first, last) element of a leaf in the key that it shares."""
    size = count(shape)
    return part(layout) * size, (part(layout) + 1) * size
