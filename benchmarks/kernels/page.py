"""A page of the results: one file that needs nothing else."""

import json
from html import escape
from pathlib import Path

from diffedit_core.errors import InputError

from . import books, compare, machine, peaks, records, roofline

HERE = Path(__file__).parent
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def digits(number):
    """A number with three or four digits."""
    return "" if number is None else f"{number:.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def text(value):
    """A text, or nothing."""
    return "" if value is None else str(value)


def shapes(row):
    """Shapes of the tensors."""
    return "  ".join("x".join(map(str, shape)) for shape in row["shapes"] or [])


def figure(name):
    """A function that gives a figure of a row's best timer."""
    return lambda row: (peaks.times_of(row) or {}).get(name)


def timer(row):
    """Name of a row's best timer."""
    return next((name for name in ("device", "event", "wall") if row.get(f"{name}_us")), None)


def field(name, factor=1):
    """A function that gives a field of a row, times a factor."""
    return lambda row: row[name] if row[name] is None or factor == 1 else row[name] * factor


def spent(row):
    """Milliseconds of all calls of a row in one evaluation."""
    us = peaks.time_of(row)
    return us and us * row["count"] / 1e3


# title, value of a row, how it is shown; a column of texts is sorted and set as text
COLUMNS = (
    ("operation", field("op"), text),
    ("dtype", field("dtype"), text),
    ("kernels", field("variant"), text),
    ("suite", field("suite"), text),
    ("shapes", shapes, text),
    ("settings", lambda row: ", ".join(map(text, row["args"] or [])), text),
    ("calls", field("count"), digits),
    ("median, us", figure("p50"), digits),
    ("20 %", figure("p20"), digits),
    ("80 %", figure("p80"), digits),
    ("n", figure("n"), digits),
    ("timer", timer, text),
    ("all calls, ms", spent, digits),
    ("GFLOP", field("flops", 1e-9), digits),
    ("MB", field("bytes", 1e-6), digits),
    ("GFLOP/s", field("tflops", 1e3), digits),
    ("GB/s", field("gbs"), digits),
    ("% of the roof", field("roofline_pct"), digits),
    ("% published FLOP/s", field("pct_cube"), digits),
    ("% published GB/s", field("pct_hbm"), digits),
    ("bound by", field("bound"), text),
    ("launches", field("launches"), digits),
    ("layout, us", field("transdata_us"), digits),
    ("AiCPU, us", field("aicpu_us"), digits),
    ("first call, s", field("first_call_s"), digits),
    ("memory, MB", field("max_memory_allocated", 1e-6), digits),
    ("error / allowed", records.of_bound, digits),
    ("note", field("note"), text),
)


def page(rows):
    """The page as text.

    Raises: InputError: there is no measured call among the rows.
    """
    calls = [row for row in rows if row["record"] == "call"]
    anchors = [row for row in rows if row["record"] == "anchor"]
    if not calls and not anchors:
        raise InputError("There are no calls in these results: measure some, then make the page.")
    parts = [*heading(rows), *books_of(rows), *time_of_families(calls)]
    for dtype in dict.fromkeys(row["dtype"] for row in calls):
        parts += roofline_of([row for row in calls if row["dtype"] == dtype], anchors)
    parts += [
        "<h2>Every call</h2>",
        '<p class="search">A click on the name of a column sorts by it. <label>Rows with the words '
        '<input type="search"></label></p>',
        *table("calls", COLUMNS, sorted(calls, key=lambda row: -(spent(row) or 0)) + anchors),
    ]
    style, script = (read(name) for name in ("page.css", "page.js"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title(rows))}</title><style>\n{style}</style></head>\n<body>\n"
        + "\n".join(parts)
        + f"\n<script>\n{script}</script>\n</body></html>\n"
    )


def read(name):
    """A file that stands beside this one."""
    return (HERE / name).read_text(encoding="utf-8")


def values(rows, name):
    """The distinct values of a field, as text."""
    return ", ".join(dict.fromkeys(str(r[name]) for r in rows if r[name] is not None))


def title(rows):
    """What was measured."""
    models = values(rows, "model")
    sizes = f" at {values(rows, 'size')}" if models else ""
    return f"Kernels of {models}{sizes}" if models else "The anchors"


def heading(rows):
    """What was measured, on what and how."""
    machines = "; ".join(
        f"{escape(name)} {escape(values(rows, name))}"
        for name in machine.FIELDS
        if values(rows, name)
    )
    how = rows[0]["settings"] or {}
    times = f"{how.get('iters')} calls, {how.get('repeats')} times, after {how.get('warmup')}"
    levels = values(rows, "jit_level") or "MindSpore's own"
    yield f"<h1>{escape(title(rows))}</h1>"
    yield f"<p>{machines}.</p>"
    yield (
        f"<p>Median, 20 % and 80 % of {escape(times)} to warm up; caches "
        f"{escape(values(rows, 'l2'))}, HF32 {escape(values(rows, 'hf32'))}, jit level "
        f"{escape(levels)}. Every result was compared with float64 first. A whole evaluation is "
        "timed call by call.</p>"
    )


def books_of(rows):
    """The sums against the whole evaluations."""
    found = books.of_rows(rows)
    columns = (
        ("suite", lambda f: f[0]["suite"], text),
        ("dtype", lambda f: f[0]["dtype"], text),
        ("kernels", lambda f: f[0]["variant"], text),
        ("sum of the calls, ms", lambda f: f[1].total / 1e3, digits),
        ("of it between the kernels, ms", lambda f: f[1].between / 1e3, digits),
        ("launches taken off, ms", lambda f: f[1].launches / 1e3, digits),
        ("whole evaluation, ms", lambda f: f[1].whole / 1e3, digits),
        ("not explained, %", lambda f: f[1].rest, digits),
        ("calls without a time", lambda f: f[1].missing, digits),
        ("closes", lambda f: "yes" if f[1].close else "no", text),
    )
    if found:
        yield f"<h2>Do the calls add up? Within {books.PERCENT} %</h2>"
        yield from table("books", columns, found)


def time_of_families(calls):
    """A bar for each suite, dtype and table of kernels."""
    timed = [row for row in calls if peaks.time_of(row)]
    keys = list(dict.fromkeys((r["suite"], r["dtype"], r["variant"]) for r in timed))
    totals = {
        key: sum(spent(r) for r in timed if (r["suite"], r["dtype"], r["variant"]) == key)
        for key in keys
    }
    if not keys:
        return
    yield "<h2>Where the time goes</h2>"
    yield "<p>Count x median of each call; by a timer of the host with their launches.</p>"
    yield legend()
    for key in keys:
        own = [r for r in timed if (r["suite"], r["dtype"], r["variant"]) == key]
        largest = max(total for k, total in totals.items() if k[:2] == key[:2])
        yield f"<div>{escape(' '.join(key))}: {digits(totals[key])} ms</div>"
        spans = []
        for name, (colour, _) in roofline.FAMILIES.items():
            ms = sum(spent(r) for r in own if roofline.family(r["op"]) == name)
            if ms:
                width, share = 100 * ms / largest, 100 * ms / totals[key]
                words = f"{name}: {digits(ms)} ms, {share:.0f} %"
                spans.append(
                    f'<span style="width:{width:.2f}%;background:{colour}" '
                    f'title="{escape(words)}"></span>'
                )
        yield f'<div class="bar">{"".join(spans)}</div>'


def legend(variants=()):
    """What colours and marks mean."""
    items = [
        f'<li><i style="background:{colour}"></i>{escape(name)}</li>'
        for name, (colour, _) in roofline.FAMILIES.items()
    ]
    for number, name in enumerate(variants):
        kind = roofline.MARKS[number % len(roofline.MARKS)]
        shown = roofline.mark(kind, 7, 7, 5, "currentColor", name)
        items.append(f'<li><svg viewBox="0 0 14 14">{shown}</svg> {escape(name)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def roofline_of(calls, anchors):
    """The roofline of the calls of one dtype."""
    variants = list(dict.fromkeys(row["variant"] for row in calls))

    def words(row):
        return (
            f"{compare.title(row)}: {digits(peaks.time_of(row))} us, {row['count']} calls, "
            f"{digits(row['tflops'] * 1e3)} GFLOP/s"
        )

    picture = roofline.svg(calls, anchors, variants, words)
    if picture:
        still = sum(not row["flops"] for row in calls)
        yield f"<h2>Roofline, {escape(calls[0]['dtype'])}</h2>"
        yield picture
        yield legend(variants)
        yield (
            "<p>The larger a mark, the more time all its calls take. The line is what a matrix "
            f"product and a copy reached in the same run. {still} rows without arithmetic are in "
            "the table only.</p>"
        )


def table(name, columns, rows):
    """A table that can be sorted; columns that are empty in every row are left out."""
    cells = [[(value(row), show) for _, value, show in columns] for row in rows]
    kept = [i for i in range(len(columns)) if any(line[i][0] not in (None, "") for line in cells)]
    yield f'<div class="wide"><table id="{name}"><thead><tr>'
    for i in kept:
        head, _, show = columns[i]
        kind = ' class="text"' if show is text else ""
        yield f'<th scope="col"{kind}><button>{escape(head)}</button></th>'
    yield "</tr></thead><tbody>"
    for line in cells:
        shown = []
        for i in kept:
            value, show = line[i]
            kind = ' class="text note"' if columns[i][0] == "note" else ' class="text"'
            exact = "" if show is text else f' data-v="{escape(json.dumps(value))}"'
            shown.append(f"<td{kind if show is text else exact}>{escape(show(value))}</td>")
        yield f"<tr>{''.join(shown)}</tr>"
    yield "</tbody></table></div>"
