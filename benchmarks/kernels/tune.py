"""Which way is the fastest for each call: all ways of an operation in turn, and what the CPU's
lowering chooses."""

import math
from typing import NamedTuple

from diffedit_core import kernels as K
from diffedit_core.kernels import cpu, library, reference, winograd

from . import peaks


class Way(NamedTuple):
    """One way to compute an operation.

    compute: the lowering.
    takes: function (shapes of the tensors, settings) -> whether it computes such a call.
    """

    compute: callable
    takes: callable


def always(shapes, settings):
    """It computes every call."""
    return True


def saving(x, weight, bias, stride, padding):
    """`winograd.conv2d` as a lowering."""
    return winograd.conv2d(x, weight, bias)


def can_save(shapes, settings):
    """`saving` computes the call, worth it or not."""
    return cpu.saves_products(*shapes[:2], *settings, cells=0, channels=0, picture_bytes=math.inf)


def chosen_convolution(shapes, settings):
    """The name of the way that `cpu.conv2d` takes in fp32."""
    return "winograd" if cpu.saves_products(*shapes[:2], *settings) else "library"


WAYS = {
    "conv2d": {
        "library": Way(library.conv2d, always),
        "winograd": Way(saving, can_save),
        "shifted": Way(reference.conv2d, always),
    }
}
CHOSEN = {"conv2d": chosen_convolution}  # operation -> function (shapes, settings) -> name of a way


def tables(op):
    """{way: table of kernels in which it stands for the operation}."""
    return {name: {**K.LOWERINGS["cpu"], op: way.compute} for name, way in WAYS[op].items()}


def takes(call, name):
    """Whether a way computes a call (`trace.Call`)."""
    return WAYS[call.name][name].takes(call.shapes, call.settings)


class Choice(NamedTuple):
    """A call's microseconds by each way, the fastest way and the chosen one."""

    op: str
    shapes: tuple
    settings: tuple
    count: int
    us: dict
    chosen: str

    @property
    def best(self):
        """The fastest way."""
        return min(self.us, key=self.us.get)

    @property
    def lost(self):
        """How much longer the chosen way takes than the fastest, 0 for the same."""
        return self.us[self.chosen] / self.us[self.best] - 1


def choices(rows):
    """[`Choice`] of the rows of a run, one for each call whose ways were all timed."""
    found = {}
    for row in rows:
        if row["record"] == "call" and row["op"] in WAYS and row["variant"] in WAYS[row["op"]]:
            key = (row["suite"], row["op"], str(row["shapes"]), str(row["args"]))
            found.setdefault(key, []).append(row)
    result = []
    for own in found.values():
        shapes, settings = map(frozen, (own[0]["shapes"], own[0]["args"]))
        us = {row["variant"]: peaks.time_of(row) for row in own}
        chosen = CHOSEN[own[0]["op"]](shapes, settings)
        if chosen in us and None not in us.values():
            result.append(Choice(own[0]["op"], shapes, settings, own[0]["count"], us, chosen))
    return result


def frozen(values):
    """Lists, as a file gives them back, as tuples."""
    return tuple(frozen(v) if isinstance(v, (list, tuple)) else v for v in values)


def text(found):
    """The table of the choices, and their sums over all calls."""
    lines = []
    for op in dict.fromkeys(choice.op for choice in found):
        own, names = [c for c in found if c.op == op], tuple(WAYS[op])
        lines += [f"{op}, milliseconds", heading(names)]
        lines += [row_of(choice, names) for choice in own]
        totals = {
            "the library's": sum(c.us["library"] * c.count for c in own),
            "chosen": sum(c.us[c.chosen] * c.count for c in own),
            "the fastest": sum(c.us[c.best] * c.count for c in own),
        }
        each = ", ".join(f"{name} {us / 1e3:.1f}" for name, us in totals.items())
        lines.append(f"all calls of one evaluation: {each}")
    return "\n".join(lines) or "no call that was timed in all ways"


def heading(names):
    """The columns of the table."""
    return "".join(f"{name:>10}" for name in names) + "   chosen      lost  calls"


def row_of(choice, names):
    """A line of the table."""
    times = "".join(f"{choice.us[n] / 1e3:10.2f}" if n in choice.us else " " * 10 for n in names)
    shapes = " ".join("x".join(map(str, shape)) for shape in choice.shapes)
    lost = f"{choice.lost:7.0%}" if choice.lost else " " * 7
    return f"{times}   {choice.chosen:<9}{lost} {choice.count:>4} x {shapes}"
