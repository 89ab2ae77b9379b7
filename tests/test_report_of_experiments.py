"""The page of experiments: its numbers are those of the rows, its verdicts follow from intervals,
and no name changes what it is made of. Rows are made up, with answers that are known.

The test in a browser needs Chromium and is skipped where there is none.
"""

import base64
import json
import os
import platform
import random
import re
import socket
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks import plots
from benchmarks.ablation import cli as ablation, tables
from benchmarks.ablation.measures import MEASURES
from benchmarks.report import claims, cli, drawing, page, reading, sheets, verdicts
from benchmarks.report.frontier import frontier
from diffedit_core.errors import InputError

from . import browser

NASTY = (
    '"><img src=x onerror="hit = 1">',
    "</script><script>hit = 1</script><!-- ]]>",
    "it's ${title} $& \\ `x`",
    "سلة من الكمثرى",
    "🍐 in a 🧺",
    "pear" * 60,
)
MEASURED = ("iou", "recognised", "evaluations")


def lines_of(name, labels, scenes=8, seeds=(0,), measures=MEASURED, value=None, question="Why?"):
    """The lines of an experiment as the engine writes them; the first label is the base.

    Args: value: function (label's index, scene's index, seed, measure) -> number; random without.
    """
    rng = np.random.default_rng(len(labels) * 100 + scenes)

    def made(index, i, seed, measure):
        if measure == "recognised":
            return bool(rng.random() < 0.7)
        return float(f"{rng.random() + index:.6g}")

    value = value or made
    variants = [[label, f"{index:012x}"] for index, label in enumerate(labels)]
    yield {"kind": "experiment", "name": name, "question": question, "measures": list(measures),
           "base": variants[0][1], "variants": variants}  # fmt: skip
    yield {"kind": "run", "run": "r1", "code": "c1", "model": "m1", "commit": "abc",
           "python": "3", "mindspore": "2", "numpy": "1", "machine": "x"}  # fmt: skip
    for label, digest in variants:
        pieces = (piece.partition(" ") for piece in label.split(", "))
        axes = {axis: text for axis, _, text in pieces if axis.startswith("axis")}
        yield {"kind": "variant", "variant": digest, "axes": axes}
    for index, (_, digest) in enumerate(variants):
        for i in range(scenes):
            for seed in seeds:
                numbers = {m: value(index, i, seed, m) for m in measures}
                yield {"kind": "row", "id": f"{name}{digest}{i} {seed}", "run": "r1",
                       "variant": digest, "scene": f"test-{i:04d}", "seed": seed,
                       "subject": "fruit", **numbers}  # fmt: skip


def put(path, lines):
    """Write lines of results, and give the path back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def summary_of(folder, *arguments, **more):
    """The one summary of an experiment."""
    (found,) = reading.read([put(folder / "some.jsonl", lines_of(*arguments, **more))])
    return found


class Reader(HTMLParser):
    """What a page is made of: its elements with the names of their attributes, the cells of its
    tables, its text, its data."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.cells, self.text, self.data, self.within = [], [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, tuple(name for name, _ in attributes)))
        if tag == "script":
            self.within.append(dict(attributes).get("type", "program"))
        if tag == "table":
            self.cells.append([])
        if tag == "tr":
            self.cells[-1].append([])
        if tag in ("td", "th"):
            self.cells[-1][-1].append("")

    def handle_endtag(self, tag):
        if tag == "script":
            self.within.pop()

    def handle_data(self, data):
        if self.within:
            self.data += data if self.within[-1] == "application/json" else ""
            return
        self.text.append(data)
        if self.cells and self.lasttag in ("td", "th", "span", "b", "bdi") and self.cells[-1]:
            self.cells[-1][-1][-1] += data.strip("\n")


def numbers_in(text):
    """The numbers of a cell "mean [low, high]"."""
    return [float(n) for n in re.findall(r"[-+]?\d+(?:\.\d+)?", text)]


# --- numbers --------------------------------------------------------------------------------------


def test_every_number_of_the_page_is_the_rows(tmp_path):
    """In its data, its table and the words of its marks; means by numpy, intervals by `tables`."""
    labels = ("start", "axis_a 1", "other")
    lines = list(lines_of("some", labels, scenes=7, seeds=(0, 1)))
    lines = [line for line in lines if line.get("scene") != "test-0002" or line["seed"] == 0]
    # a scene that only the last variant has, and a value that is no number
    extra = {**lines[-1], "id": "extra", "scene": "test-0077"}
    lines += [extra, {**extra, "id": "extra 2", "scene": "test-0078", "iou": None}]
    found = reading.read([put(tmp_path / "some.jsonl", lines)])
    read = Reader(page.page(found))
    (data,) = json.loads(read.data)
    table = read.cells[-1]
    assert data["measures"] == list(MEASURED)
    rows = [line for line in lines if line["kind"] == "row"]
    for index, variant in enumerate(data["variants"]):
        own = [row for row in rows if row["variant"] == f"{index:012x}"]
        assert variant["label"] == labels[index] and variant["n"] == len(own)
        cells = table[1 + index]
        assert cells[0].startswith(labels[index]) and int(cells[1]) == len(own)
        for number, measure in enumerate(MEASURED):
            value, difference = variant["values"][measure], variant["differences"][measure]
            expected = oracle(own, measure)
            assert value[0] == pytest.approx(expected)
            assert value[1] <= value[0] <= value[2]
            assert close(cells[2 + 2 * number], value, measure)
            if index == 0:
                assert difference is None and cells[3 + 2 * number] == "-"
                continue
            assert difference[0] == pytest.approx(oracle_of_pairs(rows, f"{index:012x}", measure))
            assert close(cells[3 + 2 * number], difference, measure)
            words = [t for t in re.findall(r'aria-label="([^"]*)"', page.page(found))
                     if t.startswith(f"{labels[index]}: {MEASURES[measure].title}")]  # fmt: skip
            assert len(words) == 1 and tables.shown(value, measure) in words[0]


def oracle(rows, measure):
    """Mean over scenes of the means over seeds."""
    scenes = {}
    for row in rows:
        if row[measure] is not None:
            scenes.setdefault(row["scene"], []).append(row[measure])
    return np.mean([np.mean(v) for v in scenes.values()])


def oracle_of_pairs(rows, variant, measure):
    """The same of the differences to the base, of what both have."""
    by_key = {(r["variant"], r["scene"], r["seed"]): r[measure] for r in rows}
    found = []
    for (owner, scene, seed), value in by_key.items():
        base = by_key.get(("0" * 12, scene, seed))
        if owner == variant and None not in (value, base):
            found.append({"scene": scene, measure: float(value) - float(base)})
    return oracle(found, measure)


def close(cell, triple, measure):
    digits = MEASURES[measure].digits
    return numbers_in(cell) == pytest.approx(triple, abs=0.5001 * 10**-digits)


def test_a_collected_file_gives_the_same_numbers(tmp_path):
    lines = list(lines_of("some", ("a", "b", "c"), scenes=6))
    put(tmp_path / "some" / "000.jsonl", lines)
    tables.collect(lines, tables.results(lines), tmp_path / "file.jsonl")
    found = [reading.read([tmp_path / name])[0] for name in ("some", "file.jsonl")]
    assert page.data(found[0]) == page.data(found[1])
    assert found[0].ways[1].values["iou"][0] > 0.5


def test_files_of_one_experiment_are_put_together_and_counted_once(tmp_path):
    """The folder above, its files in another order, and a file twice: the same."""
    lines = list(lines_of("some", ("a", "b"), scenes=9))
    start = [line for line in lines if line["kind"] != "row"]
    rows = [line for line in lines if line["kind"] == "row"]
    random.Random(3).shuffle(rows)
    files = [put(tmp_path / "out" / "some" / f"{i}.jsonl", start + rows[i::3]) for i in range(3)]
    whole = reading.read([put(tmp_path / "whole.jsonl", lines)])
    places = ([tmp_path / "out"], [tmp_path / "out" / "some"], [*files[::-1], files[0]])
    assert all(page.data(reading.read(p)[0]) == page.data(whole[0]) for p in places)


# --- verdicts -------------------------------------------------------------------------------------

BOUNDS = st.floats(-5, 5)
SIDES = st.sampled_from([verdicts.FOR, verdicts.AGAINST, verdicts.OPEN, verdicts.MISSING])


@given(BOUNDS, BOUNDS, BOUNDS)
def test_a_side_is_the_intervals_alone(mean, a, b):
    low, high = sorted((a, b))
    side = verdicts.side_of((mean, low, high), 6)
    turned = {verdicts.FOR: verdicts.AGAINST, verdicts.AGAINST: verdicts.FOR}
    assert verdicts.side_of((-mean, -high, -low), 6) == turned.get(side, side)
    assert (side == verdicts.OPEN) == (low <= 0 <= high)
    assert verdicts.side_of((mean, None, None), 6) == verdicts.OPEN
    assert verdicts.side_of((mean, low, high), 5) == verdicts.OPEN


@given(st.lists(SIDES, min_size=1), st.randoms())
def test_a_verdict_is_the_sides_alone(sides, order):
    word = verdicts.word_of(sides)
    shuffled = list(sides)
    order.shuffle(shuffled)
    assert verdicts.word_of(shuffled) == word
    assert (word == verdicts.HOLDS) == (set(sides) == {verdicts.FOR})
    assert (word == verdicts.NOT) == (verdicts.FOR not in sides and verdicts.AGAINST in sides)
    assert (word == verdicts.IF) == (verdicts.FOR in sides and len(set(sides)) > 1)


LABELS = ("mask_threshold 0.5", "mask_threshold 0.25", "mask_threshold 0.75")


@pytest.mark.parametrize(
    "iou, psnr, word, conditions",
    [
        (0.1, 1.0, verdicts.HOLDS, ["mask", "background"]),
        (0.1, -1.0, verdicts.IF, ["mask"]),
        (0.0, 1.0, verdicts.IF, ["background"]),
        (-0.1, -1.0, verdicts.NOT, []),
        (0.0, -1.0, verdicts.NOT, []),
        (0.0, 0.0, verdicts.UNDECIDED, []),
    ],
)
def test_a_verdict_follows_from_the_rows(iou, psnr, word, conditions, tmp_path):
    """The base is better by so much than the threshold 0.25, up to a tenth that averages out."""

    def value(index, i, seed, measure):
        shift = {"iou": iou, "background psnr": psnr}.get(measure, 0.0)
        return i + shift * (index == 0) * (1 + (-1) ** i / 10) + (-1) ** i * 1e-3 * index

    measures = ("iou", "background psnr")
    found = summary_of(tmp_path, "threshold", LABELS, measures=measures, value=value)
    (first, verdict), (_, second) = page._judged(found)
    assert verdict.word == word and verdict.conditions == conditions
    assert second.word == verdicts.UNDECIDED  # not measured
    shown = page.page([found])
    assert f'data-verdict="{word}"' in shown and first.sentence.split(":")[0] in shown


@pytest.mark.parametrize("scenes, words", [(1, []), (5, []), (6, ["holds"]), (7, ["holds"])])
def test_few_scenes_decide_nothing(scenes, words, tmp_path):
    """Not even if all say the same. Of five, all take one side by chance in 1 of 16 cases."""
    found = summary_of(tmp_path, "threshold", LABELS, scenes, measures=("iou", "background psnr"),
                       value=lambda index, i, seed, m: float(index == 0))  # fmt: skip
    shown = [verdict.word for _, verdict in page._judged(found)]
    assert [word for word in shown if word != verdicts.UNDECIDED] == words
    assert ("<b>-1.000" in page.page([found])) == bool(words)


def test_a_comparison_of_two_measures_is_paired(tmp_path):
    """Masks that overshoot: recall above precision in each scene, though their ranges overlap."""

    def value(index, i, seed, measure):
        return i / 10 + {"recall": 0.05, "precision": 0.0}[measure]

    found = summary_of(tmp_path, "mask-ways", ("base", "other"), measures=("precision", "recall"),
                       value=value)  # fmt: skip
    ((_, verdict),) = page._judged(found)
    assert verdict.word == verdicts.HOLDS
    assert verdict.outcomes[0].difference == pytest.approx((0.05,) * 3)


def test_a_verdict_s_interval_is_the_table_s_with_its_sign(tmp_path):
    """Of values whose interval is not the same to both sides of their mean."""
    found = summary_of(tmp_path, "threshold", LABELS, 9, measures=("iou",),
                       value=lambda index, i, seed, m: index * (i + 1.0) ** 3)  # fmt: skip
    base, other = (claims.Side(label, "iou") for label in LABELS[:2])
    shown = found.way(other.label).differences["iou"]
    assert verdicts.difference(found, claims.Comparison("", other, base)) == (shown, 9)
    (mean, low, high), turned = shown, claims.Comparison("", base, other)
    assert verdicts.difference(found, turned) == ((-mean, -high, -low), 9)


@pytest.mark.parametrize("shift, side", [(2.0, verdicts.FOR), (-2.0, verdicts.AGAINST)])
def test_a_collected_difference_is_turned_the_right_way(shift, side, tmp_path):
    """CSFID of a collected file is there as a difference to the base only."""
    lines = list(lines_of("threshold", LABELS, measures=("csfid",), value=lambda *_: None))
    for index in range(3):
        other = [shift, shift - 1, shift + 1] if index else None
        lines.append({"kind": "set", "variant": f"{index:012x}", "measure": "csfid",
                      "value": [9 + shift * (index > 0), 8, 12], "difference": other})  # fmt: skip
    (found,) = reading.read([put(tmp_path / "a.jsonl", lines)])
    assert verdicts.judged(claims.CLAIMS["threshold"][1], found).outcomes[0].side == side
    turned = claims.Comparison("", *(claims.Side(label, "csfid") for label in LABELS[:2]))
    assert verdicts.difference(found, turned) == ((-shift, -shift - 1, -shift + 1), 8)


def test_the_claims_name_what_the_experiments_measure():
    """Every experiment has its entry; every comparison names its variants and its measures."""
    known = ablation.experiments()
    assert claims.CLAIMS.keys() == known.keys()
    for name, of in claims.CLAIMS.items():
        labels = {v.label for v in known[name].variants}
        for side in (s for claim in of for c in claim.comparisons for s in (c.more, c.less)):
            assert side.label in labels and side.measure in known[name].measures, (name, side)


def test_where_the_paper_says_nothing_the_page_says_so(tmp_path):
    texts = [page.page([summary_of(tmp_path, name, ("a", "b"))]) for name in ("soft", "my own")]
    assert page.NOTHING in texts[0] and page.UNKNOWN not in texts[0]
    assert page.UNKNOWN in texts[1] and page.NOTHING not in texts[1]


# --- plots ----------------------------------------------------------------------------------------


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_and_inside(low, width):
    found = plots.ticks(low, low + width)
    assert 1 <= len(found) <= 6 and all(low <= tick <= low + width for tick in found)
    inner = np.diff(found)[1:-1]
    assert len(inner) < 2 or np.allclose(inner, inner[0], rtol=1e-3)


def test_an_axis_of_numbers_becomes_lines(tmp_path):
    labels = [f"axis_a {a}, axis_b {b}" for a in ("x", "y") for b in (1, 2, 10)]
    axis, series, apart = drawing.curve(summary_of(tmp_path, "some", labels))
    assert axis == "axis_b" and apart is None
    assert series == [("axis_a x", [(1, 0), (2, 1), (10, 2)]),
                      ("axis_a y", [(1, 3), (2, 4), (10, 5)])]  # fmt: skip


@pytest.mark.parametrize(
    "labels",
    [
        ("axis_a 1", "axis_a 2"),  # too few
        ("axis_a 1", "axis_a 2", "axis_a x"),  # one is no number
        ("axis_a 1", "axis_a 2", "3 of them"),  # one is no axis
        ("axis_a 1", "axis_a 2", "axis_a 3", "axis_a 1.0"),  # two at one place
        ("axis_a 1", "axis_a inf", "axis_a 3"),
    ],
)
def test_other_labels_become_rows(labels, tmp_path):
    assert drawing.curve(summary_of(tmp_path, "some", labels)) is None


def test_a_mark_is_where_its_number_is(tmp_path):
    """Heights of marks are linear in the values, the larger the higher; whiskers end at the
    interval's ends."""
    labels = ("axis_a 1", "axis_a 2", "axis_a 4")
    found = summary_of(tmp_path, "some", labels, measures=("iou",))
    svg = ET.fromstring(drawing.plots_of(found)["iou"])
    marks = [g for g in svg.iter("g") if g.get("class") == "point"]
    values = [way.values["iou"] for way in found.ways]
    xs, ys, ends = [], [], []
    for group in marks:
        circle, whisker = group.find("circle"), group.find("path").get("d")
        xs.append(float(circle.get("cx")))
        ys.append(float(circle.get("cy")))
        ends.append([float(n) for n in re.findall(r"[\d.]+", whisker)[1:]])
    heights = [number for value in values for number in (value[1], value[2], value[0])]
    places = [number for pair, y in zip(ends, ys) for number in (*pair, y)]
    slope, start = np.polyfit(heights, places, 1)
    assert slope < 0 and np.allclose(slope * np.array(heights) + start, places, atol=0.11)
    assert np.diff(xs)[1] == pytest.approx(2 * np.diff(xs)[0], abs=0.3)


def test_plots_as_files(tmp_path):
    """One for each plot under a name that any system takes, each XML of its own."""
    names = ("a/b", "a-b", "سلة", "🍐", "../../x")
    found = [summary_of(tmp_path, name, ("a", *NASTY)) for name in names]
    files = cli.files(found)
    assert len(files) == len(names) * len(MEASURED)
    for name, svg in files.items():
        assert re.fullmatch(r"[a-z0-9-]+\.svg", name)
        root = ET.fromstring(plots.alone(svg))
        assert root.tag == "{http://www.w3.org/2000/svg}svg" and NASTY[0] in "".join(
            root.itertext()
        )
    put(tmp_path / "r" / "a.jsonl", lines_of("some", ("a", "b")))
    assert cli.main([str(tmp_path / "r"), "--svg", str(tmp_path / "svg")]) == 0
    assert len(list((tmp_path / "svg").glob("*.svg"))) == len(MEASURED)


def test_the_frontier_has_every_way_where_its_numbers_are(tmp_path):
    """Across and upwards the places are linear in the means; one series for each experiment."""
    found = [
        summary_of(tmp_path, name, ("a", "b", "c"), measures=("iou", "recall")) for name in "xy"
    ]
    svg = ET.fromstring(frontier(found, "recall", "iou"))
    marks = [g for g in svg.iter("g") if g.get("class") == "point"]
    assert len(marks) == 6 and {"x", "y"} <= {text.text for text in svg.iter("text")}
    whisker = r"M([\d.]+) ([\d.]+)V([\d.]+)"
    shown = [
        None if g.find("path") is None else re.findall(whisker, g.find("path").get("d"))[0]
        for g in marks
    ]
    assert shown.count(None) == 2  # the bases are at zero
    order = [sorted(s.ways, key=lambda way: way.values["recall"][0]) for s in found]
    ways = [way for of in order for way in of]
    values, places = [], []
    for number in range(2):  # of the experiment: its marks stand a little aside
        own = [i for i in range(3 * number, 3 * number + 3) if shown[i] is not None]
        values += [(ways[i].values["recall"][0], *ways[i].differences["iou"][1:]) for i in own]
        places += [
            [float(shown[i][0]) - number * plots.DODGE, *map(float, shown[i][1:])] for i in own
        ]
    for one, other in ((0, 0), (1, 1), (2, 2)):
        there, given = np.array(places)[:, one], np.array(values)[:, other]
        slope, start = np.polyfit(given, there, 1)
        assert np.allclose(slope * given + start, there, atol=0.11)
    alone = ET.fromstring(frontier(found[:1], "recall", "iou"))
    texts = {text.text for text in alone.iter("text")}
    assert {way.label for way in found[0].ways} <= texts and "x" not in texts, "each way is named"
    places = [float(x) for x in re.findall(r"M([\d.]+) [\d.]+V", ET.tostring(alone, "unicode"))]
    given = [way.values["recall"][0] for way in found[0].ways if way is not found[0].base]
    assert len(places) == len(given) == 2
    assert (places[0] < places[1]) == (given[0] < given[1]), "and stands where its number is"
    with pytest.raises(InputError, match="seconds"):
        frontier(found)
    with pytest.raises(InputError, match="no measure 'price'"):
        frontier(found, "price", "iou")
    put(tmp_path / "r" / "a.jsonl", lines_of("some", ("a", "b"), measures=("iou", "recall")))
    words = [str(tmp_path / "r"), "--frontier", str(tmp_path / "f.svg"), "--axes", "recall", "iou"]
    assert cli.main(words) == 0 and ET.parse(tmp_path / "f.svg").getroot().tag.endswith("svg")
    assert cli.main([*words[:3], "--axes", "recall", "clip"]) == 2


# --- contact sheets -------------------------------------------------------------------------------


def test_a_sheet_has_the_best_the_middle_and_the_worst(tmp_path, monkeypatch):
    values = random.Random(5).sample(range(11), 11)

    def value(index, i, seed, measure):
        return values[i] if measure == "iou" else True

    names = ("recognised", "iou")
    found = summary_of(tmp_path, "some", ("a", "b"), scenes=11, measures=names, value=value)
    measure, parts = sheets.sheet(found)
    shown = {part: [each.numbers["iou"] for each in of] for part, of in parts.items()}
    assert measure == "iou"
    assert shown == {"best": [10, 9, 8], "middle": [6, 5, 4], "worst": [2, 1, 0]}
    assert all(values[int(each.scene[-4:])] == each.numbers["iou"]
               for of in parts.values() for each in of)  # fmt: skip
    monkeypatch.setattr(sheets, "LOWER", ("iou",))
    assert [each.numbers["iou"] for each in sheets.sheet(found)[1]["best"]] == [0, 1, 2]


def test_pictures_of_a_sheet_are_the_scenes(tmp_path):
    """Drawn from the seed, each once in the page, and there only if they can be drawn."""
    text = page.page([summary_of(tmp_path, "some", ("a", "b"), scenes=3)] * 2)
    held = re.findall(r'<image id="(test-\d+)-(\d)"[^>]*base64,([^"]+)"', text)
    assert sorted(h[:2] for h in held) == [(f"test-{i:04d}", k) for i in range(3) for k in "01"]
    pictures = {(f"test-{i:04d}", k): sheets.drawn(f"test-{i:04d}")[int(k)]
                for i in range(3) for k in "01"}  # fmt: skip
    for scene, k, content in held:
        shown = np.asarray(Image.open(BytesIO(base64.b64decode(content))), float)
        small = {name: p.resize(shown.shape[1::-1], Image.Resampling.LANCZOS)
                 for name, p in pictures.items()}  # fmt: skip
        far = {name: np.abs(shown - np.asarray(p, float)).mean() for name, p in small.items()}
        assert min(far, key=far.get) == (scene, k) and far[scene, k] < 8
    own = [{**line, "scene": f"{line['seed']}-my.png"} if line["kind"] == "row" else line
           for line in lines_of("some", ("a", "b"))]  # fmt: skip
    assert "<image" not in page.page(reading.read([put(tmp_path / "own.jsonl", own)]))


# --- the page -------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=30)
                | st.sampled_from(NASTY), min_size=4, max_size=4, unique=True))  # fmt: skip
def test_names_are_shown_letter_by_letter(tmp_path_factory, names):
    """Whatever a name, the page is made of the same elements and attributes, and shows it."""
    folder = tmp_path_factory.mktemp("names")
    given_, plain = (
        Reader(page.page([summary_of(folder, some[0], some[1:3], scenes=2, question=some[3])]))
        for some in (names, ("some", "one", "two", "why"))
    )
    assert given_.elements == plain.elements
    text = "".join(given_.text)
    assert all(name in text for name in names)
    (data,) = json.loads(given_.data)
    assert [data["name"], *(v["label"] for v in data["variants"])] == names[:3]


def test_the_page_keeps_quiet_about_the_machine(tmp_path):
    line = ("--out", str(tmp_path / "p.html"))
    place = put(tmp_path / "secret-folder" / "a.jsonl", lines_of("some", ("a", "b")))
    assert cli.main([str(place), *line]) == 0
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    words = {str(tmp_path), "secret-folder", socket.gethostname(), platform.node(), os.getcwd()}
    words |= {v for v in os.environ.values() if len(v) > 5 and "/" in v}
    said = re.sub(r"base64,[^\"]*|sha256-[^']*", "", text)  # letters at random
    assert not [word for word in words if re.search(rf"\b{re.escape(word)}\b", said)]
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", text) and "url(" not in text


def test_thirty_experiments_stay_below_five_megabytes(tmp_path, monkeypatch):
    """With as many variants as the largest has, and 36 scenes in their sheets. Drawing them takes
    a second for each ten, so noise stands for them, which no format makes small."""
    rng = np.random.default_rng(0)
    grain = rng.normal(0, 60, (128, 128, 3)) + 128
    noisy = Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8))
    monkeypatch.setattr(sheets, "drawn", lambda scene: (noisy, noisy, "a", "b"))
    labels = [f"axis_a {a}, axis_b {b}" for a in range(5) for b in range(11)]
    found = summary_of(tmp_path, "some", labels, scenes=36, measures=("iou", "evaluations"))
    assert len(page.page([found] * 30).encode()) < 5 * 2**20


@pytest.mark.parametrize(
    "content, words",
    [
        ("", "no rows"),
        ("no json\n", "no JSON"),
        ("[1]\n", "no line of results"),
        ('{"kind": "experiment", "name": "a"}\n', "question"),
        ({"kind": "row"}, "run None"),
        ({"kind": "experiment", "measures": ["beauty"]}, "'beauty'"),
        ({"kind": "experiment", "base": None}, "base None"),
        ({"kind": "experiment", "variants": [["a"]]}, "variant ['a']"),
        ({"kind": "row", "iou": "many"}, "'many'"),
        ({"kind": "row", "run": "r9"}, "does not explain"),
    ],
)
def test_bad_results_are_one_sentence(content, words, tmp_path, capsys):
    """A text, or a change to all lines of a kind."""
    path = tmp_path / "a.jsonl"
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    else:
        lines = list(lines_of("some", ("a", "b")))
        bad = {"kind": "row", "id": "a"} if content == {"kind": "row"} else None
        put(path, [(bad or {**line, **content}) if line["kind"] == content["kind"] else line
                   for line in lines])  # fmt: skip
    assert cli.main([str(path), "--out", str(tmp_path / "p.html")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and words in said and str(path) in said
    assert not (tmp_path / "p.html").exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=3,
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_a_line_says_there_is_a_page_or_a_sentence(tmp_path_factory, data):
    """One value of one line is another; or the line is gone."""
    lines = list(lines_of("some", ("a", "b"), scenes=2, measures=("iou", "csfid")))
    lines.append({"kind": "truth", "scene": "test-0000", "features": "AAAA"})
    lines.append({"kind": "set", "variant": "0" * 12, "measure": "csfid", "value": [1, 0, 2],
                  "difference": None})  # fmt: skip
    index = data.draw(st.integers(0, len(lines) - 1))
    key = data.draw(st.sampled_from([*lines[index], "features", None]))
    if key is None:
        del lines[index]
    else:
        lines[index] = {**lines[index], key: data.draw(JSON)}
    path = put(tmp_path_factory.getbasetemp() / "changed.jsonl", lines)
    try:
        assert page.page(reading.read([path])).startswith("<!doctype html>")
    except InputError as error:
        assert str(path) in str(error)


def test_bad_places_are_one_sentence(tmp_path, capsys):
    good = str(put(tmp_path / "a.jsonl", lines_of("some", ("a", "b"))))
    (tmp_path / "empty").mkdir()
    for line in ([good], [str(tmp_path / "none"), "--out", "p.html"],
                 [str(tmp_path / "empty"), "--out", "p.html"],
                 [good, "--out", str(tmp_path / "none" / "p.html")],
                 [good, "--svg", str(tmp_path / "none" / "svg")]):  # fmt: skip
        assert cli.main(line) == 2
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(InputError, match="before the line of its experiment"):
        reading.read([put(tmp_path / "b.jsonl", list(lines_of("some", ("a", "b")))[1:])])


# --- in a browser ---------------------------------------------------------------------------------


@pytest.mark.skipif(browser.PROGRAM is None, reason="there is no Chromium")
def test_the_page_in_a_browser(tmp_path):
    """It fits at each width, asks for nothing, complains of nothing; pointer and keys reach every
    mark, and the marks say the numbers."""
    curves = [f"axis_a {a}" for a in (1, 2, 3)]
    found = [
        summary_of(tmp_path, "threshold", LABELS, measures=("iou", "background psnr")),
        summary_of(tmp_path, NASTY[1], ("a", *NASTY), question=NASTY[0]),
        summary_of(tmp_path, "curves", curves),
    ]
    path = tmp_path / "p.html"
    path.write_text(page.page(found), encoding="utf-8")
    (tmp_path / "profile").mkdir()
    opened = browser.Browser(tmp_path / "profile")
    try:
        backs = []
        for width, dark in ((360, False), (800, True), (1440, False)):
            opened.open(path, width, 800, dark)
            wide = opened.run("document.documentElement.scrollWidth")
            assert wide <= width, "something is cut off"
            backs.append(opened.run("getComputedStyle(document.body).backgroundColor"))
            colour = opened.run("getComputedStyle(document.querySelector('.plot text')).fill")
            assert colour != backs[-1]
        assert backs[0] == backs[2] != backs[1]
        _reach(opened, found)
        assert opened.run("typeof hit") == "undefined"
        assert not opened.requests() and not opened.complaints()
    finally:
        opened.close()


def _reach(opened, found):
    """Each plot is one stop of Tab; End is its last mark; a mark that has the focus says its
    numbers, and none does after Escape."""
    opened.run("document.querySelector('.plot').scrollIntoView()")
    count = opened.run("document.querySelectorAll('.plot').length")
    assert count == sum(len(summary.measures) for summary in found)
    assert opened.run("document.querySelectorAll('.point[tabindex=\"0\"]').length") == count
    opened.run("document.querySelectorAll('summary, a, button').forEach(e => e.tabIndex = -1)")
    opened.press("Tab", 9)
    assert opened.run("document.activeElement.dataset.key") == "0 0 difference iou"
    said = opened.run("tip.hidden ? null : tip.innerText")
    value = found[0].ways[0].values["iou"]
    assert LABELS[0] in said and numbers_in(said.splitlines()[1]) == pytest.approx(value, rel=1e-5)
    opened.press("ArrowRight", 39)
    assert opened.run("document.activeElement.dataset.key") == "0 1 difference iou"
    opened.press("End", 35)
    assert opened.run("document.activeElement.dataset.key") == "0 2 difference iou"
    said = opened.run("tip.innerText").splitlines()
    assert numbers_in(said[2]) == pytest.approx(found[0].ways[2].differences["iou"], rel=1e-5)
    opened.press("Escape", 27)
    assert opened.run("tip.hidden")
    opened.run("""document.querySelector('[data-key="1 2 difference iou"]')
               .dispatchEvent(new PointerEvent('pointerenter'))""")
    assert NASTY[1][:20] in opened.run("tip.textContent")
