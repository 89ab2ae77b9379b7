"""The roofline as a small SVG: each call at its FLOP a byte and its rate, under what the anchors
reached."""

import math
from html import escape

from ..plots import MARKS, mark
from . import peaks

WIDTH, HEIGHT = 760, 430
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 48

# family of operations -> (colour, names)
FAMILIES = {
    "convolution": ("#0072b2", ("conv2d",)),
    "linear": ("#e69f00", ("linear", "linear_from_picture", "linear_to_picture", "geglu")),
    "attention": ("#d55e00", ("attention",)),
    "norm": ("#009e73", ("group_norm", "layer_norm")),
    "activation": ("#cc79a7", ("gelu", "quick_gelu", "silu")),
    "upsampling, embedding": ("#56b4e9", ("upsample", "embedding")),
    "between the kernels": ("#8a8a8a", ()),
}


def family(op):
    """The family of an operation; what no family has is between the kernels."""
    named = (name for name, (_, ops) in FAMILIES.items() if op in ops)
    return next(named, "between the kernels")


class Axes:
    """Two logarithmic axes over whole decades that hold all points."""

    def __init__(self, xs, ys):
        self.x, self.y = (self._decades(values) for values in (xs, ys))

    @staticmethod
    def _decades(values):
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        return low, max(high, low + 1)

    def at(self, x, y):
        """Position of a point in the picture."""
        (left, right), (low, high) = self.x, self.y
        across = (math.log10(x) - left) / (right - left)
        up = (math.log10(y) - low) / (high - low)
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM),
        )

    def grid(self):
        """Lines and numbers of the decades, and the names of the axes."""
        lines = []
        for decade in range(self.x[0], self.x[1] + 1):
            x, _ = self.at(10.0**decade, 10.0 ** self.y[0])
            lines.append(
                f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
                f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">'
                f"{10.0**decade:g}</text>"
            )
        for decade in range(self.y[0], self.y[1] + 1):
            _, y = self.at(10.0 ** self.x[0], 10.0**decade)
            lines.append(
                f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
                f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{10.0**decade:g}</text>'
            )
        middle = (LEFT + WIDTH - RIGHT) / 2
        lines.append(
            f'<text x="{middle:.0f}" y="{HEIGHT - 10}" text-anchor="middle">'
            "FLOP for each byte that has to be moved</text>"
            f'<text x="14" y="{(HEIGHT - BOTTOM) / 2:.0f}" text-anchor="middle" '
            f'transform="rotate(-90 14 {(HEIGHT - BOTTOM) / 2:.0f})">GFLOP/s</text>'
        )
        return lines

    def roof(self, compute, memory, kind, text):
        """min(compute, memory x) in GFLOP/s and GB/s, as far as it is in the picture."""
        left, right = (10.0**decade for decade in self.x)
        low = 10.0 ** self.y[0]
        left = max(left, low / memory)
        if left >= right:
            return []
        ridge = min(max(compute / memory, left), right)
        ends = [(left, min(compute, memory * left)), (ridge, min(compute, memory * ridge))]
        points = [*ends, (right, min(compute, memory * right))]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in (self.at(*p) for p in points))
        x, y = self.at(*points[-1])
        return [
            f'<path class="roof {kind}" d="M{path}"/>',
            f'<text x="{x - 4:.1f}" y="{y - 6:.1f}" text-anchor="end">{escape(text)}</text>',
        ]


def svg(rows, anchors, variants, title_of):
    """The picture of the calls of one dtype; "" where there is none to draw.

    Args:
        rows: records of calls with times; those without arithmetic are left out.
        anchors: all records of anchors.
        variants: names, each with a mark of its own.
        title_of: title_of(row), the text of a tooltip.
    """
    rows = [r for r in rows if peaks.time_of(r) and r["flops"]]
    if not rows:
        return ""
    dtype = rows[0]["dtype"]
    roofs, found = [], peaks.measured(anchors, dtype)
    if found["flops"] and found["bytes"]:
        compute, memory = found["flops"] / 1e9, found["bytes"] / 1e9
        text = f"measured {compute:.4g} GFLOP/s, {memory:.4g} GB/s"
        roofs.append((compute, memory, "measured", text))
    paper = peaks.published(rows[0]["soc"])
    if paper and getattr(paper, dtype) and paper.memory:
        compute = getattr(paper, dtype) * 1e3
        text = f"published {compute:.4g} GFLOP/s, {paper.memory:.4g} GB/s"
        roofs.append((compute, paper.memory, "published", text))
    points = [(r["flops"] / r["bytes"], r["tflops"] * 1e3) for r in rows]
    axes = Axes([x for x, _ in points], [y for _, y in points] + [c for c, *_ in roofs])
    spent = [peaks.time_of(r) * r["count"] for r in rows]
    parts = [*axes.grid(), *(line for roof in roofs for line in axes.roof(*roof))]
    for _, row, point in sorted(zip(spent, rows, points), key=lambda t: -t[0]):
        share = peaks.time_of(row) * row["count"] / max(spent)
        kind = MARKS[variants.index(row["variant"]) % len(MARKS)]
        colour = FAMILIES[family(row["op"])][0]
        parts.append(mark(kind, *axes.at(*point), 3 + 8 * math.sqrt(share), colour, title_of(row)))
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="roofline, {escape(dtype)}">'
        f'{"".join(parts)}</svg>'
    )
