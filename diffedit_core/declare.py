"""How an option is declared: its check, its stage, its help, and what makes it look or not look."""

import dataclasses
import math
import numbers
from typing import Any, Callable, NamedTuple


class Check(NamedTuple):
    """What a value has to be: a test, the words for it, and its type on the command line.

    parts: the names of its numbers, where it is a tuple of several.
    """

    holds: Callable
    wanted: Callable
    kind: type
    choices: Any = None
    parts: tuple = ()


def whole(least):
    """A whole number from `least` up."""

    def holds(value):
        return isinstance(value, numbers.Integral) and type(value) is not bool and value >= least

    return Check(holds, lambda: f"a whole number from {least} up", int)


def optional(check):
    """None, or what another check asks for."""

    def holds(value):
        return value is None or check.holds(value)

    return check._replace(holds=holds, wanted=lambda: f"{check.wanted()}, or None")


def number(wanted="a finite number", within=lambda value: True):
    """A finite number for which `within` holds; `wanted` says that in words."""

    def holds(value):
        return isinstance(value, numbers.Real) and math.isfinite(value) and within(value)

    return Check(holds, lambda: wanted, float)


def interval():
    """(low, high): two numbers from 0 to 1, the first not above the second."""

    def holds(value):
        if not isinstance(value, tuple) or len(value) != 2:
            return False
        return all(map(QUANTILE.holds, value)) and value[0] <= value[1]

    wanted = "two numbers from 0 to 1, the first not above the second"
    return Check(holds, lambda: wanted, float, parts=("LOW", "HIGH"))


def one_of(choices):
    """A key of a table, or an element of a tuple; the table is read when a value is checked."""

    def holds(value):
        return isinstance(value, str) and value in choices

    return Check(holds, lambda: " or ".join(map(repr, choices)), str, choices)


def flag():
    """True or False."""
    return Check(lambda value: isinstance(value, bool), lambda: "True or False", bool)


SHARE = number("above 0 and at most 1", lambda value: 0 < value <= 1)
POSITIVE = number("a positive number", lambda value: value > 0)
AT_LEAST_0 = number("0 or a positive number", lambda value: value >= 0)
QUANTILE = number("between 0 and 1", lambda value: 0 <= value <= 1)
BELOW_1 = number("at least 0 and below 1", lambda value: 0 <= value < 1)


class Declared(NamedTuple):
    """What is declared of an option beside its name and default.

    check: `Check`.
    stage: the stage that looks at it.
    help: a phrase for `--help` and the table in the notes.
    also: {another stage that looks at it: the option that makes it do so}.
    needs, unless: an option without which, or with which, this one changes nothing.
    flag: its name on the command line, without the dashes.
    cost: it changes memory and speed only.
    batch: it matters in a batch of several pictures only, so that the command line has no flag.
    """

    check: Check
    stage: str
    help: str
    also: dict
    needs: str
    unless: str
    flag: str
    cost: bool
    batch: bool


def option(
    default,
    check,
    stage,
    help,
    also=None,
    needs=None,
    unless=None,
    flag=None,
    cost=False,
    batch=False,
):
    """Declare an option; see `Declared`."""
    declared = Declared(check, stage, help, also or {}, needs, unless, flag, cost, batch)
    return dataclasses.field(default=default, metadata={"declared": declared})
