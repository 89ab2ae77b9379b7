"""benchmarks.kernels: records that survive a kill, comparisons, the books, the page, the bundle."""

import csv
import html.parser
import io
import json
import math
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.kernels import books, bundle, compare, page, peaks, records, roofline

from .test_config import refused

MACHINE = dict(
    soc="Ascend910B4", cann="8.3", driver="25", mindspore="2.8.0", processor="P, 2 cores"
)
HOW = dict(l2="warm", hf32="none", settings={"iters": 10, "repeats": 5, "warmup": 3})


def times(p50, noise=0.01):
    return {"p20": p50 * (1 - noise), "p50": p50, "p80": p50 * (1 + noise), "min": p50, "n": 5}


def row(op="conv2d", us=100.0, count=1, variant="ascend", kind="call", timer="wall_us", **more):
    fields = dict(
        record=kind,
        suite="unet",
        model="sd21-base",
        size=512,
        batch=2,
        op=op,
        dtype="fp16",
        variant=variant,
        shapes=[[2, 4, 64, 64]],
        args=[1, [1, 1, 1, 1]],
        count=count,
        flops=2e9,
        bytes=1e6,
        error=1e-4,
        tolerance=1e-3,
        commit="abc",
        **MACHINE,
        **HOW,
    )
    made = records.record(**{**fields, timer: None if us is None else times(us), **more})
    made.update(peaks.rates(made, made["soc"], {"flops": 2e14, "bytes": 6e11, "launch_us": 1.0}))
    return made


def anchor(op, us, **more):
    return row(op, us, kind="anchor", suite="anchors", variant="library", **more)


ANCHORS = [
    anchor("matmul", 1000.0, flops=2e11, bytes=1e8),
    anchor("matmul", 500.0, flops=0.5e11, bytes=1e8, shapes=[[9, 9]]),
    anchor("copy", 1000.0, flops=0, bytes=6e8),
    anchor("launch", 5.0, flops=1, bytes=6),
]


# --- records --------------------------------------------------------------------------------------


def test_a_killed_run_goes_on(tmp_path):
    """A cut anywhere in the unfinished file loses one row at most, and never a whole one."""
    rows = [row(op, us) for op, us in (("conv2d", 10.0), ("silu", 20.0), ("linear", 30.0))]
    file = tmp_path / "r.jsonl"
    first = records.Writer(file)
    for each in rows:
        first.add(each)
    part = tmp_path / "r.jsonl.part"
    text = part.read_text()
    ends = [i for i, letter in enumerate(text) if letter == "\n"]
    for length in (0, 1, ends[0] - 1, ends[0], ends[0] + 1, ends[1] - 7, len(text) - 2, len(text)):
        part.write_text(text[:length])
        second = records.Writer(file, resume=True)
        complete = [end for end in ends if end <= length]
        assert second.rows == rows[: len(complete)]
        for each in rows:
            assert (second.find(each) is not None) == (each in second.rows)
        for each in rows[len(complete) :]:
            second.add(each)
        assert part.read_text() == text and not file.exists()
    second.finish()
    assert file.read_text() == text and not part.exists() and records.read(file) == rows


def test_nothing_is_overwritten(tmp_path):
    file = tmp_path / "r.jsonl"
    records.Writer(file).add(row())
    refused(lambda: records.Writer(file), "--resume")
    records.Writer(file, resume=True).finish()
    refused(lambda: records.Writer(file, resume=True), "is there already")


def test_a_run_goes_on_as_it_began_only(tmp_path):
    """On another machine, or with other numbers of calls, the rows would not be comparable."""
    file = tmp_path / "r.jsonl"
    records.Writer(file).add(row())
    writer = records.Writer(file, resume=True)
    writer.check_same(MACHINE, row())
    refused(lambda: writer.check_same({**MACHINE, "cann": "8.5"}, row()), "cann 8.3", "8.5")
    refused(lambda: writer.check_same(MACHINE, row(settings={"iters": 1})), "settings", "iters")


def test_what_makes_two_rows_the_same():
    """What is measured, not what came out, nor how long it was measured."""
    one = row()
    assert records.key(one) == records.key(row(us=7.0, count=3, commit="def"))
    for name, value in (
        ("record", "anchor"),
        ("suite", "vae"),
        ("model", "sd15"),
        ("size", 768),
        ("batch", 1),
        ("op", "silu"),
        ("shapes", [[1]]),
        ("args", []),
        ("dtype", "bf16"),
        ("variant", "reference"),
        ("l2", "cold"),
        ("jit_level", "O2"),
        ("hf32", "both"),
    ):
        assert name in records.KEY and records.key(one) != records.key({**one, name: value})
    with pytest.raises(KeyError):
        records.record(opp="conv2d")


def test_errors_in_units_of_the_bound():
    """Operations that only move numbers allow none."""
    assert records.of_bound(row(error=1e-4, tolerance=2e-4)) == 0.5
    assert records.of_bound(row(error=0.0, tolerance=0.0)) == 0
    assert records.of_bound(row(error=1e-4, tolerance=0.0)) is None
    assert records.of_bound(row(error=None)) is None


def test_files_that_are_none(tmp_path):
    file = tmp_path / "r.jsonl"
    refused(lambda: records.read(file), "cannot be read")
    for text, word in (("", "no records"), ('{"a": 1}', "no record"), ('{"op', "line 1")):
        file.write_text(text)
        refused(lambda: records.read(file), "r.jsonl", word)


def test_the_table_has_the_same_numbers():
    rows = [row(args=[1, "a,b"]), row("silu", None, note='wrong: "nan",\nnot timed')]
    found = list(csv.DictReader(io.StringIO(records.to_csv(rows))))
    assert [float(r["wall_us_p50"] or "nan") for r in found][0] == 100.0
    assert found[1]["wall_us_p50"] == "" and found[1]["note"] == rows[1]["note"]
    for made, line in zip(rows, found):
        assert json.loads(line["args"]) == made["args"] and line["op"] == made["op"]
        assert float(line["flops"]) == made["flops"]
    assert set(records.FIELDS) - set(records.TIMES) <= set(found[0])


# --- peaks ----------------------------------------------------------------------------------------


def test_peaks_are_the_best_of_the_anchors():
    found = peaks.measured(ANCHORS, "fp16")
    assert found == {"flops": 2e14, "bytes": 6e11, "launch_us": 5.0}
    assert set(peaks.measured(ANCHORS, "fp32").values()) == {None}


@given(st.floats(1.0, 1e6), st.floats(1.0, 1e12), st.floats(1.0, 1e9))
def test_what_bounds_a_call(us, flops, size):
    """The larger of the two least times, unless the launch is most of it; a call at its bound is at
    100 %."""
    peak = {"flops": 1e13, "bytes": 1e12, "launch_us": 2.0}
    found = peaks.rates(row(us=us, flops=flops, bytes=size), "Ascend910B4", peak)
    least = max(flops / 1e13, size / 1e12) * 1e6
    assert math.isclose(found["roofline_pct"], 100 * least / us)
    wanted = "compute" if flops / 1e13 > size / 1e12 else "memory"
    assert found["bound"] == ("launch" if us < 4 else wanted)
    assert math.isclose(found["tflops"], flops / us / 1e6)
    assert math.isclose(found["pct_cube"], 100 * found["tflops"] / 245.8)
    device = row(us=us, flops=flops, bytes=size, timer="device_us")
    assert peaks.rates(device, "CPU", peak)["bound"] == wanted
    assert peaks.rates(device, "CPU", peak)["pct_cube"] is None


def test_published_peaks_by_the_longest_name():
    assert peaks.published("Ascend910B4").fp32 == 75
    assert peaks.published("Ascend910_9391") is peaks.PUBLISHED["Ascend910_93"]
    assert peaks.published("Ascend910A") is peaks.published("CPU") is peaks.published(None) is None
    assert all(p.source for p in peaks.PUBLISHED.values())


# --- comparison -----------------------------------------------------------------------------------


def test_a_difference_beyond_the_noise():
    old = [row("conv2d", 100.0), row("silu", 100.0), row("gelu", 50.0), row("linear", None)]
    new = [row("conv2d", 110.0), row("silu", 101.0), row("upsample", 50.0), row("linear", 1.0)]
    found, only_old, only_new, machines = compare.checked(old, new, False)
    assert [r.row["op"] for r in found] == ["conv2d", "silu"] and not machines
    assert [r.differs for r in found] == [True, False]
    assert math.isclose(found[0].middle, 1.1) and found[0].low < 1.1 < found[0].high
    assert (only_old, only_new) == (1, 2)
    assert compare.slower(found, 1.05) == found[:1] and compare.slower(found, 1.2) == []
    shown = compare.text(found, only_old, only_new, machines)
    assert "2 rows in both, 1 differ" in shown and "1 rows of the first" in shown


@given(st.floats(1, 1e6), st.floats(1, 1e6), st.floats(0, 0.3), st.floats(0, 0.3))
def test_comparing_the_other_way_round(a, b, noise_a, noise_b):
    """Ratios are inverse, and the same rows differ."""
    one, two = row(wall_us=times(a, noise_a)), row(wall_us=times(b, noise_b))
    (there,), (back,) = compare.ratios([one], [two])[0], compare.ratios([two], [one])[0]
    assert math.isclose(there.middle * back.middle, 1) and there.differs == back.differs
    assert math.isclose(there.low * back.high, 1) and there.low <= there.middle <= there.high
    assert there.differs == (a * (1 + noise_a) < b * (1 - noise_b)
                             or b * (1 + noise_b) < a * (1 - noise_a))  # fmt: skip


def test_timers_of_two_kinds_are_not_compared():
    """The best that both have."""
    both = row(device_us=times(10.0))
    (found,), *_ = compare.ratios([both], [row(us=200.0)])
    assert found.timer == "wall_us" and found.middle == 2
    assert compare.ratios([row(us=None, event_us=times(3.0))], [row()])[0] == []


@pytest.mark.parametrize("name", ("soc", "cann", "driver", "mindspore", "processor"))
def test_another_machine_is_not_compared_silently(name):
    other = row(**{name: "other"}) if name not in MACHINE else {**row(), name: "other"}
    refused(lambda: compare.checked([row()], [other], False), name, "other", "--across-machines")
    *rest, machines = compare.checked([row()], [other], True)
    assert name in compare.text(*rest, machines).splitlines()[0]
    refused(lambda: compare.checked([row()], [row("silu")], False), "in common")


# --- the books ------------------------------------------------------------------------------------


def test_the_books():
    """One launch is taken off each call by a timer of the host, none of the device's."""
    whole = row("whole", 1000.0, kind="whole")
    rows = [row("conv2d", 105.0, 6), row("add", 25.0, 10), row("cut", 3.0, 7)]
    found = books.closed(rows, whole, 5.0)
    assert found.total == 600 + 200 and found.between == 200 and found.launches == 30 + 50 + 21
    assert found.rest == pytest.approx(20.0) and not found.close
    rows = [{**r, "device_us": r["wall_us"]} for r in rows]
    found = books.closed(rows, whole, 5.0)
    assert found.total == 630 + 250 + 21 and found.launches == 0 and found.close
    assert not books.closed([*rows, row("silu", None)], whole, 5.0).close
    assert "DOES NOT CLOSE" in books.line(whole, books.closed(rows[:1], whole, None))


def test_books_of_a_file():
    """Each whole evaluation with the calls that it is made of, and with no others."""
    rows = [*ANCHORS]
    for variant, us in (("ascend", 95.0), ("reference", 950.0)):
        rows.append(row("conv2d", us + 5, 10, variant))
        rows.append(row("whole", us * 10, kind="whole", variant=variant))
    rows.append(row("conv2d", 7e7, 1, suite="vae"))
    found = books.of_rows(rows)
    assert [w["variant"] for w, _ in found] == ["ascend", "reference"]
    assert all(f.close and f.rest == pytest.approx(0) for _, f in found)


# --- the page -------------------------------------------------------------------------------------


class Reader(html.parser.HTMLParser):
    """The tables of a page, as (header, rows of (text, exact value)); and every tag."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.tags, self.cell = {}, [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag == "table":
            self.head, self.rows = self.tables.setdefault(attributes["id"], ([], []))
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.cell, self.exact = "", attributes.get("data-v")

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data

    def handle_endtag(self, tag):
        if tag == "th":
            self.head.append(self.cell)
            self.cell = None
        elif tag == "td":
            exact = self.cell if self.exact is None else json.loads(self.exact)
            self.rows[-1].append((self.cell, exact))
            self.cell = None


ROWS = [
    *ANCHORS,
    row("conv2d", 123.456789, 7),
    row("conv2d", 500.0, 7, "reference"),
    row("cut", 3.0, 2, flops=0),
    row("silu", None, note="wrong: error 1.0e+00, allowed 1.0e-03; not timed", error=None),
    row("whole", 1000.0, kind="whole"),
]


def test_the_page_has_the_numbers_of_the_file():
    """Each cell of the large table, exactly, row by row."""
    header, lines = Reader(page.page(ROWS)).tables["calls"]
    lines = [line for line in lines if line]
    shown = [r for r in ROWS if r["record"] != "whole"]
    assert len(lines) == len(shown)
    columns = {name: value for name, value, _ in page.COLUMNS}
    assert {"operation", "median, us", "GFLOP/s", "error / allowed", "note"} <= set(header)
    for made in shown:
        wanted = [columns[name](made) for name in header]
        found = [[None if exact == "" else exact for _, exact in line] for line in lines]
        assert [None if w == "" else w for w in wanted] in found
    by_name = dict(zip(header, lines[0]))
    assert by_name["operation"][1] == "conv2d" and by_name["median, us"] == ("500", 500.0)
    assert by_name["all calls, ms"][1] == 3.5


def test_the_page_has_the_books():
    header, lines = Reader(page.page(ROWS)).tables["books"]
    line = dict(zip(header, lines[-1]))
    found = books.of_rows(ROWS)[0][1]
    assert line["whole evaluation, ms"][1] == 1.0
    assert line["sum of the calls, ms"][1] == found.total / 1e3
    assert line["calls without a time"][1] == 1 and line["closes"][1] == "no"


EVIL = "<script>alert(1)</script>&\"'<b>"


def test_the_page_escapes_what_it_is_given():
    names = ("op", "dtype", "variant", "suite", "model", "note", "soc", "cann", "commit", "bound")
    rows = [*ANCHORS, {**row(), **dict.fromkeys(names, EVIL), "args": [EVIL]}]
    text = page.page(rows)
    assert EVIL not in text and "<b>" not in text
    found = Reader(text)
    assert [tag for tag, _ in found.tags].count("script") == 1
    header, lines = found.tables["calls"]
    line = next(line for line in lines if line and line[0][0] == EVIL)
    assert dict(zip(header, line))["note"][0] == EVIL


def test_the_page_needs_nothing_else():
    """No address, no file, and the browser is told to load none."""
    text = page.page(ROWS)
    found = Reader(text)
    for tag, attributes in found.tags:
        assert not {"src", "href", "action", "data"} & set(attributes), (tag, attributes)
    assert "://" not in text and "url(" not in text and "@import" not in text
    assert "default-src 'none'" in text and "prefers-color-scheme: dark" in text
    assert "@media print" in text


@given(st.lists(st.tuples(st.floats(1e-3, 1e6), st.floats(1e-3, 1e6)), min_size=1, max_size=9))
def test_the_roofline_holds_every_point(points):
    """Within the axes, and higher and farther right where the number is larger."""
    axes = roofline.Axes(*zip(*points))
    places = [axes.at(*point) for point in points]
    for x, y in places:
        assert roofline.LEFT - 0.01 <= x <= roofline.WIDTH - roofline.RIGHT + 0.01
        assert roofline.TOP - 0.01 <= y <= roofline.HEIGHT - roofline.BOTTOM + 0.01
    for (point, place), (other, there) in zip(zip(points, places), list(zip(points, places))[1:]):
        assert point[0] > other[0] or place[0] <= there[0]
        assert point[1] > other[1] or place[1] >= there[1]


def test_the_roof_is_drawn_once_for_each_peak():
    rows = [r for r in ROWS if r["record"] == "call"]
    text = roofline.svg(rows, ANCHORS, ["ascend", "reference"], lambda r: r["op"])
    assert text.count('class="roof measured"') == text.count('class="roof published"') == 1
    assert text.count("<title>") == 2, "of conv2d twice; neither without arithmetic nor wrong"
    assert roofline.svg(rows[2:], ANCHORS, ["ascend"], str) == ""


def test_every_operation_has_a_family():
    from diffedit_core import kernels as K

    named = [name for _, names in roofline.FAMILIES.values() for name in names]
    assert len(named) == len(set(named)) and set(K.OPERATIONS) <= set(named)


# --- the bundle -----------------------------------------------------------------------------------


def test_the_bundle(tmp_path, monkeypatch):
    """Results, versions, inventory; no host, user, folder or date."""
    import getpass
    import platform

    monkeypatch.setattr(platform, "node", lambda: "host-of-nobody")
    file = tmp_path / "b.zip"
    bundle.write(file, ROWS, "Conv2DExt aclnn\n")
    with zipfile.ZipFile(file) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert set(texts) == {
        "README.txt",
        "results.jsonl",
        "results.csv",
        "page.html",
        "versions.json",
        "inventory.txt",
    }
    rows = [json.loads(line) for line in texts["results.jsonl"].splitlines()]
    assert rows == ROWS and texts["inventory.txt"] == "Conv2DExt aclnn\n"
    assert json.loads(texts["versions.json"])["mindspore"]
    for text in texts.values():
        for private in ("host-of-nobody", str(tmp_path), str(Path.home()), str(bundle.ROOT)):
            assert private not in text
    user = getpass.getuser()
    assert user not in texts["versions.json"]
    assert all(name.split()[0] in texts for name in bundle.READ_ME.splitlines())


def test_a_path_in_a_row_stops_the_bundle(tmp_path):
    file, rows = tmp_path / "b.zip", [row(note=f"failed: {bundle.ROOT}/x.py")]
    refused(lambda: bundle.write(file, rows, ""), "private")
    assert not file.exists()
