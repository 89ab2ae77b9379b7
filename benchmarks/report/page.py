"""The page of a report: one file that needs nothing else."""

from pathlib import Path

from diffedit_core import pages
from diffedit_core.pages import Html, escaped, joined, number, table

from ..ablation.measures import MEASURES
from ..ablation.tables import shown
from . import claims, drawing, sheets, verdicts

HERE = Path(__file__).parent
SIDE = 96  # px of a picture in a contact sheet
NOTHING = "The paper says nothing about this."
UNKNOWN = "No sentence of the paper is noted for this experiment."


def page(found):
    """A page of [`Summary`], as text. Law: it has no number that the results do not have."""
    held = {}
    sections = [section(summary, number, held) for number, summary in enumerate(found)]
    body = joined(
        [
            Html(f"<style>{pages.read(HERE / 'page.css')}</style>"),
            Html("<h1>Experiments</h1>"),
            Html(f"<nav><ul>{joined(_entry(s, i) for i, s in enumerate(found))}</ul></nav>"),
            _how(),
            *sections,
            _held(held),
        ]
    )
    return pages.page("Experiments", body, [data(summary) for summary in found], HERE / "page.js")


def data(summary):
    """What the program of the page finds: every number of an experiment, not rounded."""
    ways = [
        {"label": w.label, "n": w.n, "values": w.values, "differences": w.differences}
        for w in summary.ways
    ]
    keys = ("name", "question", "measures")
    titles = {name: MEASURES[name].title for name in summary.measures}
    held = {key: summary.experiment[key] for key in keys}
    return {**held, "titles": titles, "variants": ways}


def _entry(summary, index):
    """A line of the table of contents, with the verdicts."""
    words = [verdict.word for _, verdict in _judged(summary) if verdict is not None]
    return Html(
        f'<li><a href="#experiment-{index}"><bdi>{escaped(summary.experiment["name"])}</bdi></a> '
        f"{joined(map(_badge, words))}</li>"
    )


def _how():
    return Html(
        f'<details class="dim"><summary>How to read this page</summary><p>Brackets are 95 % '
        "intervals: Wilson's for a share, else a bootstrap over scenes. Differences are to the "
        "base and paired by scene. <b>Bold</b> is a difference whose interval leaves zero out, of "
        f"{verdicts.LEAST} scenes or more. {escaped(verdicts.RULE)}</p></details>"
    )


def section(summary, index, held):
    """One experiment, as `Html`.

    Args: held: {scene: its pictures}, to which the scenes of its contact sheet are added.
    """
    experiment, run = summary.experiment, summary.found.run
    base = summary.base
    facts = [experiment["name"], f"model {run['model']}", f"program {run['code']}"]
    facts += [f"commit {run['commit']}"] if run.get("commit") else []
    facts += ["the base was not measured"] if base is None else []
    if summary.found.others:
        facts.append(f"{summary.found.others} rows of other programs, models or sizes are left out")
    return joined(
        [
            Html(f'<section id="experiment-{index}">'),
            Html(f'<h2 dir="auto">{escaped(experiment["question"])}</h2>'),
            Html(f'<p class="dim"><bdi>{escaped("; ".join(facts))}</bdi></p>'),
            *_paper(summary),
            _measured(summary, index),
            *_sheet(summary, held),
            Html("</section>"),
        ]
    )


# --- the paper ------------------------------------------------------------------------------------


def _judged(summary):
    """[(claim, `Verdict` or None)]"""
    of = claims.CLAIMS.get(summary.experiment["name"], ())
    return [(claim, verdicts.judged(claim, summary)) for claim in of]


def _badge(word):
    return Html(f'<b class="badge" data-verdict="{escaped(word)}">{escaped(word)}</b>')


def _paper(summary):
    found = _judged(summary)
    if not found:
        known = summary.experiment["name"] in claims.CLAIMS
        yield Html(f"<p>{escaped(NOTHING if known else UNKNOWN)}</p>")
    for claim, verdict in found:
        said = f"<b>The paper:</b> {escaped(claim.sentence)} <i>({escaped(claim.source)})</i>"
        yield Html(f'<div class="claim"><p>{said}</p>')
        if verdict is None:
            yield Html('<p class="dim">No comparison of this experiment tests it.</p>')
        else:
            conditions = " and ".join(verdict.conditions) if verdict.word == verdicts.IF else ""
            more = f": {escaped(conditions)}" if conditions else ""
            yield Html(f"<p><b>Here:</b> {_badge(verdict.word)}{more}</p>")
            yield _comparisons(verdict)
        yield Html("</div>")


def _comparisons(verdict):
    """What was compared, and which side each comparison takes."""
    rows = []
    for comparison, difference, scenes, side in verdict.outcomes:
        more, less = comparison.more, comparison.less
        if more.label == less.label:
            what = f"{MEASURES[more.measure].title} - {MEASURES[less.measure].title}, {more.label}"
        else:
            what = f"{MEASURES[more.measure].title}: {more.label} - {less.label}"
        text = shown(drawing.full(difference), more.measure, "+")
        rows.append([comparison.when, what, number(text), number(scenes), side])
    return table(["", "expected above zero", "difference", "scenes", ""], rows)


# --- plots, tables, pictures ----------------------------------------------------------------------


def _measured(summary, index):
    """Plots and table; side by side where there is one plot, and room."""
    made = drawing.plots_of(summary, index)
    pieces = joined([joined(_plots(made)), results(summary)])
    return Html(f'<div class="measured{" beside" * (len(made) == 1)}">{pieces}</div>')


def _plots(made):
    if made:
        yield Html("<div>")
        yield Html('<div class="views plots">')
        for measure, svg in made.items():
            title = MEASURES[measure].title
            yield Html(f"<figure><figcaption>{escaped(title)}</figcaption>{svg}</figure>")
        yield Html("</div>")
        yield Html('<p class="dim hint">Point at a mark, or reach it with Tab and the arrow keys, '
                   "for its numbers.</p></div>")  # fmt: skip


def results(summary):
    """The table of an experiment, as `Html`."""
    heads, rows = ["", "n"], []
    for measure in summary.measures:
        heads += [MEASURES[measure].title, "difference"]
    for way in summary.ways:
        is_base = way.digest == summary.experiment["base"] and way.label != "base"
        label = Html(f"<bdi>{escaped(way.label)}</bdi>{' (base)' * is_base}")
        cells = [label, number(way.n)]
        for measure in summary.measures:
            cells.append(number(shown(drawing.full(way.values[measure]), measure)))
            difference = way.differences[measure]
            text = escaped(shown(drawing.full(difference), measure, "+"))
            side = verdicts.side_of(difference, way.scenes[measure])
            decided = side in (verdicts.FOR, verdicts.AGAINST)
            cells.append(number(Html(f"<b>{text}</b>") if decided else text))
        rows.append(cells)
    copy = '<p class="hint"><button type="button">Copy the numbers</button> <output></output></p>'
    return Html(f'<div class="results">{table(heads, rows)}{copy}</div>')


def _sheet(summary, held):
    found = sheets.sheet(summary)
    if found is None:
        return
    measure, parts = found
    label = summary.base.label
    of = label if label == "base" else f"{label} (base)"
    yield Html(
        f"<details><summary>Best, middle and worst scenes by {escaped(MEASURES[measure].title)} of "
        f"<bdi>{escaped(of)}</bdi></summary><p class='dim'>Drawn again from the scenes' seeds: the "
        "source and the true edit. The results hold no pictures of the edits.</p>"
    )
    for part, scenes in parts.items():
        yield Html(f'<h3>{part}</h3><div class="sheet">')
        for each in scenes:
            source, truth, before, after = held.setdefault(each.scene, sheets.drawn(each.scene))
            pair = joined(_use(f"{each.scene}-{k}", words)
                          for k, words in enumerate((before, after)))  # fmt: skip
            lines = [f"{each.scene}, {each.kind}"]
            lines += [f"{MEASURES[m].title} {v:.{MEASURES[m].digits}f}"
                      for m, v in each.numbers.items()]  # fmt: skip
            text = Html("<br>").join(map(escaped, lines))
            yield Html(
                f'<figure><div class="pair">{pair}</div><figcaption>{text}</figcaption></figure>'
            )
        yield Html("</div>")
    yield Html("</details>")


def _use(name, words):
    """A picture that is held at the end of the page."""
    return Html(
        f'<svg viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="{escaped(words)}">'
        f'<title>{escaped(words)}</title><use href="#{escaped(name)}"/></svg>'
    )


def _held(held):
    """Each picture of the sheets once, whatever the number of sheets it is in."""
    pieces = []
    for scene, (source, truth, *_) in held.items():
        for k, picture in enumerate((source, truth)):
            address = pages.embedded(picture, SIDE, lossless=False)
            pieces.append(
                f'<image id="{escaped(scene)}-{k}" width="{SIDE}" height="{SIDE}" '
                f'href="{address}"/>'
            )
    return Html(f'<svg class="held" aria-hidden="true"><defs>{"".join(pieces)}</defs></svg>')
