"""The page of an edit: what Python writes into it, and that a browser makes the same masks of it.

The tests in a browser need Chromium and are skipped where there is none.
"""

import base64
import json
import os
import platform
import re
import shlex
import socket
import sys
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from diffedit_core import cli, images, mask as masks, model as M, pages, progress, report, results
from diffedit_core.arguments import bare, parser, words
from diffedit_core.options import DECLARED, RECIPES
from diffedit_core.parts import mask_of
from diffedit_core.pipeline import EditOutput
from diffedit_core.plan import plan
from diffedit_core.progress import Bars, hidden
from diffedit_core.prompts import Prompts

from . import browser
from .closed_forms import FakeModel
from .strategies import SD21, noise_maps

MICRO = Path(__file__).parent / "fixtures" / "pipeline" / "model"
NASTY = (
    "<script>hit = 1</script>",
    '"><img src=x onerror="hit = 1">',
    'it\'s "quoted" & $HOME `id` $(id) ${title} \\',
    "سلة من الكمثرى على طاولة",
    "🍐 in a 🧺",
    "pear" * 125,
    "</script><!-- ]]>",
)


def random_map(height, width, seed=0):
    """[1,height,width] float32, with a bright middle."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((height, width))
    far = (rows / height - 0.5) ** 2 + (columns / width - 0.5) ** 2
    return (rng.random((1, height, width)) * np.exp(-9 * far)).astype(np.float32)


def picture(width=128, height=96, seed=0):
    """A picture with grain, which compresses badly."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3))
    large = Image.fromarray(pixels.astype(np.uint8)).resize((width, height), Image.BICUBIC)
    grain = np.random.default_rng(seed).normal(0, 6, (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(large) + grain, 0, 255).astype(np.uint8))


def page(*more, targets=("pears",), source="apples", maps=None, mask=None, shown=None):
    """(the text of a page, its options) of a made-up run with these words on its command line.

    Args: maps: one [1,h,w] for each target; mask: [1,h,w] that was given instead; shown: picture.
    """
    shown = shown or picture()
    named = [f"--target={target}" for target in targets]
    line = ["edit", "in/a.png", f"--source={source}", *named, "--report", "out/p.html", *more]
    arguments = parser().parse_args(line)
    changes = {name: getattr(arguments, name, None) for name in DECLARED}
    options = RECIPES[arguments.recipe].replace(**changes)
    if mask is None:
        maps = maps or [random_map(12, 16, i) for i in range(len(targets))]
        pairs = [(m, mask_of(ms.Tensor(m), options).asnumpy()) for m in maps]
    else:
        pairs = [(None, mask)] * len(targets)
    image, size = images.pad_to_multiple(images.to_array([shown]), 8)
    edits = [results.Edit(*pair, *[None] * 4, image, not pair[1].any()) for pair in pairs]
    prompts = Prompts.of(source, targets)
    job = cli.Job(shown, image, size, mask, options, (4, *pairs[0][1].shape[1:]), prompts, 2)
    bars = Bars(quiet=True)
    bars.spent = {"mask": [1.25], "inversion": [2.5], "decoding": [4.0] * len(targets)}
    changed = [shown.rotate(180)] * len(targets)
    costs = plan(options, SD21, len(set(targets)), mask is not None)
    return report.edit_page(arguments, job, edits, changed, costs, bars), options


class Parsed(HTMLParser):
    """A page's elements with the names of their attributes, its text, and its data."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.attributes = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, tuple(name for name, _ in attributes)))
        self.attributes += [value for _, value in attributes if value]

    def handle_data(self, text):
        self.text += text


def data_of(text):
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1]
    )


def floats(text):
    return np.frombuffer(base64.b64decode(text), "<f4")


def picture_in(address):
    return Image.open(BytesIO(base64.b64decode(address.partition("base64,")[2])))


# --- what is written ------------------------------------------------------------------------------


@given(st.text(max_size=60), st.text(min_size=1, max_size=60))
@example(NASTY[0], NASTY[1])
@example(NASTY[2], NASTY[6])
def test_no_sentence_adds_an_element(source, target):
    """Whatever the sentences are, the page has the elements of a page of plain words, and shows the
    sentences as text."""
    small = {"shown": picture(8, 8), "maps": [random_map(1, 1)]}
    plain = Parsed(page(source="apples" if source else "", targets=["pears"], **small)[0])
    found = Parsed(page(source=source, targets=[target], **small)[0])
    assert found.elements == plain.elements
    for sentence in (source, target):
        assert re.sub(r"\r\n?", "\n", sentence) in re.sub(r"\r\n?", "\n", found.text)


@given(st.text(max_size=40), st.sampled_from(tuple(RECIPES)), st.data())
def test_the_words_of_a_command_are_that_command(sentence, recipe, data):
    """Read again, they give the same arguments."""
    line = ["edit", "a.png", f"--source={sentence}", "--target=-x", "--target", "b"]
    line += ["--recipe", recipe, "--model", "owner/name", "--out", "o.png"]
    for name in data.draw(st.sets(st.sampled_from(("threshold", "smoothing", "clamp-ratio")))):
        line += [f"--mask-{name}", str(data.draw(st.floats(0.01, 0.9)))]
    flags = ("--tiling", "--guided-mask", "--no-guided-mask", "--seed=3", "--steps=7")
    flags += ("--report-full", "--strict", "--mask-clamp-quantile=0")
    line += data.draw(st.lists(st.sampled_from(flags)))
    line += data.draw(st.sampled_from(((), ("--guidance-interval", "0.25", "0.5"))))
    line += data.draw(st.sampled_from(((), ("--decode-window=0",), ("--decode-window=3",))))
    arguments = parser().parse_args(line)
    found = words(arguments)
    assert found[0] == "diffedit" and vars(parser().parse_args(found[1:])) == vars(arguments)
    fewer = words(arguments, leave_out=("source", "mask_smoothing"))
    assert not {"--source", "--mask-smoothing"} & {word.split("=")[0] for word in fewer}


@pytest.mark.parametrize(
    "place, name",
    [("/a/b/c.png", "c.png"), ("b/c.png", "c.png"), ("c.png", "c.png"), ("-", "-"),
     ("https://some.where/x/y.jpg?token=secret", "y.jpg"), ("https://some.where", "picture"),
     ("/a/-b.png", "./-b.png"), ("/a/b/", "b")],
)  # fmt: skip
def test_a_place_is_named_without_what_is_before_it(place, name):
    assert bare(place) == name


def test_no_page_names_the_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "a-secret-of-the-environment")
    for place, name in ((socket, "gethostname"), (socket, "getfqdn"), (platform, "node")):
        monkeypatch.setattr(place, name, lambda: "a-host-of-somebody")
    folder = tmp_path / "a-folder-of-somebody"
    folder.mkdir()
    files = {"out": "o.png", "mask-out": "m.png", "grid": "g.png", "save-trace": "t", "model": ""}
    more = [word for flag, name in files.items() for word in (f"--{flag}", str(folder / name))]
    text, _ = page(*more)
    for word in (str(tmp_path), str(Path.home()), "a-host-of", os.getcwd()):
        assert word == "/" or word not in text
    assert "a-secret" not in text and "in/a.png" not in text and "out/p.html" not in text
    assert "--model a-folder-of-somebody" in data_of(text)["command"]
    assert "o.png" in data_of(text)["command"]
    longer = [value for value in os.environ.values() if len(value) > 12]
    assert not [value for value in longer if value in text]


def test_the_page_holds_the_map_to_the_bit_and_what_was_run():
    maps = [random_map(12, 16, 1), random_map(12, 16, 2)]
    more = ("--mask-threshold", "0.35", "--seed", "7", "--recipe", "smooth", "--negative", "<blur>")
    text, options = page(*more, targets=["pears", "plums"], maps=maps)
    data = data_of(text)
    for target, wanted in zip(data["targets"], maps):
        assert (target["height"], target["width"], target["given"]) == (12, 16, False)
        assert floats(target["cells"]).tobytes() == wanted.tobytes()
    assert data["run"]["mask_threshold"] == 0.35 and data["clamp"] == "quantile"
    assert data["recipe"]["mask_threshold"] == 0.3
    assert "--seed 7" in data["command"] and "threshold" not in data["command"]
    parsed = Parsed(text)
    cells = " ".join(parsed.text.split())
    assert "mask 30 1.2 inversion 40 2.5 decoding 160 8.0" in cells.replace("1.3", "1.2")
    assert "128x96 pixels; recipe smooth, seed 7, the shipped model, fp32" in cells
    assert f"--steps {options.num_inference_steps} steps of the whole grid, N" in cells
    shown = [picture_in(value) for value in parsed.attributes if value.startswith("data:image")]
    heat = images.heat_map(maps[0][0])
    assert any(np.array_equal(np.asarray(s.convert("RGB")), np.asarray(heat)) for s in shown)


def test_the_page_says_the_window_of_each_target():
    """Found and given masks; none where nothing was decoded."""
    square, dot = (np.zeros((1, 12, 16), np.float32) for _ in range(2))
    square[0, 3:8, 2:9], dot[0, 11, 15] = 1, 1
    more, targets = ("--decode-window", "1"), ["pears", "plums"]
    text, _ = page(*more, targets=targets, maps=[square, dot])
    assert "<p>Decoded in a window of 10x8 of 16x12 cells.</p>" in text
    assert "<p>Decoded in a window of 2x2 of 16x12 cells.</p>" in text
    assert "window of 10x8 of" in page(*more, mask=square)[0]
    assert "Decoded in" not in page(*more, mask=0 * square)[0] + page(mask=square)[0]


def test_pictures_are_of_screen_size_and_whole_on_request():
    large = picture(2000, 1500)
    sizes = {}
    for flags in ((), ("--report-full",)):
        text, _ = page(*flags, shown=large, maps=[random_map(16, 16)])
        values = [v for v in Parsed(text).attributes if v.startswith("data:image")]
        sizes[flags] = max(picture_in(value).size for value in values)
        whole = [np.asarray(picture_in(v)) for v in values if picture_in(v).size == large.size]
        assert any(np.array_equal(w, np.asarray(large)) for w in whole) == bool(flags)
    assert sizes == {(): (1600, 1200), ("--report-full",): (2000, 1500)}


def test_an_edit_of_512_pixels_is_below_2_megabytes():
    text, _ = page(shown=picture(512, 512), maps=[random_map(64, 64)])
    assert len(text.encode()) < 2e6


def test_a_given_mask_has_no_sliders():
    soft = np.linspace(0, 1, 12 * 16, dtype=np.float32).reshape(1, 12, 16)
    text, _ = page("--mask", "m.png", mask=soft)
    data = data_of(text)
    assert "run" not in data and "<form" not in text and "Noise map" not in text
    assert data["targets"][0]["given"] and floats(data["targets"][0]["cells"]).tobytes() == (
        soft.tobytes()
    )


def test_only_its_own_program_may_run():
    text, _ = page()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy
    assert not re.search(r"(src|href)=\"(?!data:|#)", text) and "@import" not in text
    program = pages.read("edit.js")
    assert "</script" not in program and "<!--" not in program


# --- the command ----------------------------------------------------------------------------------


class QuickModel(FakeModel):
    """The shape of the micro model: a sentence is its length, and it matters in the middle."""

    def __init__(self):
        super().__init__(lambda x, timestep, state: x * 0.125 + state * self.middle(x))
        self.configs.latent_channels, self.configs.vae.factor = 4, 8

    def middle(self, x):
        return random_map(*x.shape[-2:], seed=3)[0]

    def encode_prompts(self, texts):
        return ms.Tensor(np.array([len(t) for t in texts], np.float32).reshape(-1, 1, 1))

    def encode_image(self, image, tiling=None):
        cells = image[:, :, 4::8, 4::8]
        mean = ms.Tensor(np.concatenate([cells, cells[:, :1]], 1))
        return mean, mean * 0 - 2

    def decode_latents(self, latents, tiling=None):
        return latents.asnumpy()[:, :3].repeat(8, 2).repeat(8, 3).clip(-1, 1)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty current folder with a picture, and a model that answers at once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(M.Model, "load", lambda *_, **__: QuickModel())
    picture(64, 48).save("a.png")
    return tmp_path


def main(*words_):
    return cli.main([*map(str, words_), "--model", str(MICRO), "--num-maps", "2", "--quiet"])


def test_the_command_writes_the_page(work):
    """Two targets, one of them the source: the page holds the maps and the results of the run."""
    line = ("edit", "a.png", "--source", "apples", "--target", "bananas", "--target", "apples")
    assert (
        main(*line, "--steps", 4, "--report", "p.html", "--save-trace", "t", "--out", "o.png") == 0
    )
    text = Path("p.html").read_text(encoding="utf-8")
    data = data_of(text)
    for i, target in enumerate(data["targets"]):
        noise_map = np.load(f"t/target-{i + 1}/noise_map.npy")
        assert floats(target["cells"]).tobytes() == noise_map.tobytes()
    values = [v for v in Parsed(text).attributes if v.startswith("data:image/png")]
    shown = [np.asarray(picture_in(v)) for v in values]
    for name in ("a.png", "o-1.png"):
        wanted = np.asarray(Image.open(name))
        assert any(s.shape == wanted.shape and np.array_equal(s, wanted) for s in shown)
    rows = re.findall(r"<td>(\w+)</td>\s*<td><span class=\"number\">(\d+)<", text)
    assert rows == [("mask", "4"), ("inversion", "3"), ("decoding", "6")]
    assert text.count("the picture stays as it is") == 1
    assert sorted(p.name for p in work.iterdir()) == ["a.png", "o-1.png", "o-2.png", "p.html", "t"]


def test_a_mask_has_a_page_too(work):
    """Without before and after; no other file is written."""
    assert main("mask", "a.png", "--target", "pears", "--report", "p.html") == 0
    text = Path("p.html").read_text(encoding="utf-8")
    assert "Before and after" not in text and "Noise map" in text
    assert data_of(text)["command"].startswith("diffedit mask a.png")
    assert sorted(p.name for p in work.iterdir()) == ["a.png", "p.html"]


@pytest.mark.parametrize(
    "more, said",
    [
        (("--report", "none/p.html"), "the folder of none/p.html does not exist"),
        (("--report", "p.png"), "p.png does not end in .html"),
        (("--report", "d.html"), "d.html is a folder"),
        (("--report-full",), "--report-full changes nothing without --report"),
        (("--report", "p.html", "--out", "p.html"), "have the same file name"),
        (("--out", "p.html"), "p.html does not end in a known picture suffix"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_computed(
    work, monkeypatch, capsys, more, said
):
    def load(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(M.Model, "load", load)
    Path("d.html").mkdir()
    assert main("edit", "a.png", "--target", "pears", *more) == 2
    assert said in capsys.readouterr().err
    assert sorted(p.name for p in work.iterdir()) == ["a.png", "d.html"]


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if browser.PROGRAM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with_page = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield with_page
    with_page.close()


@pytest.fixture
def opened(chromium, tmp_path):
    """A function: show a page of `page`; after the test nothing was asked for or complained of."""

    def show(text, **screen):
        file = tmp_path / "p.html"
        file.write_text(text, encoding="utf-8")
        chromium.open(file, **screen)
        return chromium

    yield show
    assert not chromium.requests() and not chromium.complaints()


@pytest.fixture(scope="module")
def with_program(chromium, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "p.html"
    file.write_text(page()[0], encoding="utf-8")
    chromium.open(file)
    return chromium


def masks_in(chromium, noise_map, many):
    """The page's masks of a map [1,h,w] for options, [n,h,w]."""
    names = list(report.SLIDERS)
    settings = json.dumps([{name: getattr(o, name) for name in names} for o in many])
    _, height, width = noise_map.shape
    call = f"maskOf(numbers('{pages.numbers(noise_map)}'), {height}, {width}, o)"
    found = chromium.run(f"{settings}.map((o) => Array.from({call}))")
    return np.array(found, np.float32).reshape(-1, height, width)


@st.composite
def mask_options(draw, levels=()):
    """Options of the mask, with round numbers, which make ties; `levels` are thresholds to try."""
    thresholds = [0.0, 0.1, 0.25, 0.3, 1 / 3, 0.5, 0.75, *(v for v in levels if v < 1)]
    return RECIPES["paper"].replace(
        mask_threshold=draw(st.floats(0, 0.999) | st.sampled_from(thresholds)),
        mask_smoothing=draw(st.sampled_from((0.0, 0.7, 1.0, 2.5)) | st.floats(0.05, 9)),
        mask_clamp_ratio=draw(st.sampled_from((1.0, 2.0, 3.0, 4.0)) | st.floats(0.1, 9)),
        mask_clamp_quantile=draw(st.sampled_from((0.0, 0.5, 0.98, 1.0)) | st.floats(0.01, 1)),
    )


@st.composite
def any_map(draw):
    """[1,h,w] float32: of the strategies, of three levels (for ties), or of an edit's shapes."""
    kind = draw(st.sampled_from(("strategy", "levels", "edit")))
    if kind == "strategy":
        return draw(noise_maps(dtype=st.just(np.float32)))[:1]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if kind == "levels":
        return rng.choice(np.float32([0.1, 0.2, 0.4]), (1, 6, 9))
    return random_map(*draw(st.sampled_from(((16, 16), (13, 24), (40, 33)))), rng)


@given(any_map(), st.data())
def test_the_page_makes_the_masks_of_python_cell_for_cell(with_program, noise_map, data):
    normalised = noise_map / (noise_map.mean() * 3 or 1)
    levels = [float(v) for v in normalised.reshape(-1)[:5]]
    many = [data.draw(mask_options(levels)) for _ in range(4)]
    found = masks_in(with_program, noise_map, many)
    wanted = [mask_of(ms.Tensor(noise_map), o).asnumpy()[0] for o in many]
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize("quantile", (0.0, 0.98))
def test_at_an_edits_size_the_masks_are_equal_too(with_program, quantile):
    noise_map = random_map(64, 64, 4)
    many = [
        RECIPES["paper"].replace(mask_threshold=t, mask_smoothing=s, mask_clamp_quantile=quantile)
        for t in (0.15, 0.45)
        for s in (0.0, 0.7, 3.0)
    ]
    found = masks_in(with_program, noise_map, many)
    wanted = [mask_of(ms.Tensor(noise_map), o).asnumpy()[0] for o in many]
    assert np.array_equal(found, wanted) and 0 < found.mean() < 1


@pytest.mark.parametrize("smoothing", (0.0, 0.7))
@pytest.mark.parametrize("quantile", (0.0, 0.98))
def test_a_cell_at_the_threshold_is_out_on_both_sides(with_program, quantile, smoothing):
    """Thresholds that are the value of a cell to the last bit: another comparison, another order of
    the sums, or double precision would let some of them in."""
    noise_map = random_map(13, 24, 6)
    base = RECIPES["paper"].replace(mask_smoothing=smoothing, mask_clamp_quantile=quantile)
    smoothed = masks.smooth(ms.Tensor(noise_map), smoothing)
    values = masks.normalise(smoothed, base.mask_clamp_ratio, "image", quantile).asnumpy()[0]
    many = [base.replace(mask_threshold=float(v)) for v in values[values < 1][:150]]
    found = masks_in(with_program, noise_map, many)
    for options, mask in zip(many, found):
        assert np.array_equal(mask, values > np.float32(options.mask_threshold))
    wanted = [mask_of(ms.Tensor(noise_map), o).asnumpy()[0] for o in many]
    assert len(many) == 150 and np.array_equal(found, wanted)


def slide(chromium, name, value):
    """Move a slider as a mouse would."""
    chromium.run(f"""(() => {{ const range = row('{name}').querySelector('[type=range]');
        range.value = {value}; range.dispatchEvent(new Event('input', {{bubbles: true}})); }})()""")


def test_the_slider_shows_the_area_of_the_mask(opened):
    """Of both targets, at five thresholds, and the mask of the run before anything is touched."""
    maps = [random_map(12, 16, 1), random_map(12, 16, 2)]
    text, options = page("--mask-threshold", "0.333", targets=["a", "b"], maps=maps)
    shown = opened(text)
    for threshold in (None, 0.1, 0.25, 0.99, 0.62, 0.4):
        if threshold is not None:
            slide(shown, "mask_threshold", threshold)
        changed = options.replace(mask_threshold=threshold)
        wanted = [mask_of(ms.Tensor(m), changed).asnumpy() for m in maps]
        assert shown.run("targets.map((t) => t.mask.reduce((a, b) => a + b))") == [
            mask.sum() for mask in wanted
        ]
        areas = shown.run("[...document.querySelectorAll('.area')].map((a) => a.textContent)")
        assert [float(area.split()[0]) for area in areas] == [
            pytest.approx(100 * mask.mean(), abs=0.05001) for mask in wanted
        ]
    drawn = shown.run("""targets.map(({canvas, width, height}) => {
        const all = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        const size = canvas.width / width;
        const middle = (i) => Math.floor((i + 0.5) * size);
        return Array.from({length: width * height}, (_, i) => all.data[
            4 * (middle(Math.floor(i / width)) * canvas.width + middle(i % width)) + 3]);
        })""")
    for alpha, mask in zip(drawn, wanted):
        assert np.array_equal(np.array(alpha) == 0, mask.reshape(-1) == 1)


@pytest.mark.parametrize("recipe", ("paper", "smooth"))
def test_the_command_of_the_page_makes_its_mask(opened, recipe):
    """After any number of changes; what it says is accepted by the command line."""
    noise_map = random_map(12, 16, 5)
    more = ("--recipe", recipe, "--negative", NASTY[2])
    shown = opened(page(*more, maps=[noise_map], targets=[NASTY[0]], source=NASTY[3])[0])
    changes = [
        ("mask_smoothing", 0.9),
        ("mask_clamp_quantile", 0.9),
        ("mask_threshold", 0.21),
        ("mask_clamp_ratio", 2.2),
        ("mask_clamp_quantile", 0.8),  # the ratio, which stays at 2.2, has no say
        ("mask_clamp_ratio", 3.0),
    ]
    for change in (None, *changes):
        if change:
            slide(shown, *change)
        line = shlex.split(shown.run("document.getElementById('command').textContent"))
        arguments = parser().parse_args(line[1:])
        assert (arguments.source, arguments.target) == (NASTY[3], [NASTY[0]])
        given_ = {name: getattr(arguments, name, None) for name in DECLARED}
        options = RECIPES[arguments.recipe].replace(**given_)
        cli.check_effect(arguments, options)
        wanted = mask_of(ms.Tensor(noise_map), options).asnumpy().reshape(-1)
        assert shown.run("Array.from(targets[0].mask)") == wanted.tolist()


def test_keys_move_the_sliders_and_numbers_may_be_typed(opened):
    shown = opened(page("--mask-threshold", "0.5")[0])
    shown.run("row('mask_threshold').querySelector('[type=range]').focus()")
    shown.press("ArrowRight", 39)
    assert shown.run("chosen().mask_threshold") == 0.51
    shown.run("document.querySelector('.compare input').focus()")
    shown.press("ArrowLeft", 37)
    assert shown.run("document.querySelector('.compare').style.getPropertyValue('--at')") == "49%"

    def type_in(text):
        shown.run(f"""(() => {{ const number = document.getElementById('mask_threshold');
            number.value = '{text}'; number.dispatchEvent(new Event('input')); }})()""")
        return shown.run("chosen().mask_threshold")

    assert [type_in(text) for text in ("0.12345", "7", "", "0")] == [0.12345, 0.12345, 0.12345, 0]
    shown.run("document.querySelector('[type=reset]').click()")
    shown.run("new Promise((done) => setTimeout(done, 20))")
    assert shown.run("chosen().mask_threshold") == 0.5
    reached = shown.run("""[...document.querySelectorAll('input, button')].every((e) =>
        e.tabIndex >= 0 && (e.labels?.length || e.ariaLabel || e.textContent))""")
    assert reached is True


def test_copying_says_so_or_selects_the_command(opened):
    shown = opened(page()[0])
    shown.run("copy()")
    said = shown.run("document.getElementById('copied').textContent")
    selected = shown.run("String(getSelection())")
    command = shown.run("document.getElementById('command').textContent")
    assert said == "copied" or said.startswith("selected") and selected == command


@pytest.mark.parametrize("width", (360, 800, 1440))
def test_sentences_of_all_kinds_are_text_and_fit(opened, width):
    """No script of theirs runs, nothing is wider than the screen, and each has its direction."""
    more = ("--negative", NASTY[1])
    text, _ = page(*more, source=NASTY[0], targets=NASTY[1:], maps=[random_map(4, 6)] * 6)
    shown = opened(text, width=width, dark=width == 800)
    assert shown.run("typeof hit") == "undefined"
    assert shown.run("document.documentElement.scrollWidth") <= width
    found = shown.run("[...document.querySelectorAll('h2 q')].map((q) => q.textContent)")
    assert found == list(NASTY[1:])
    directions = shown.run(
        "[...document.querySelectorAll('h2 q')].map((q) => getComputedStyle(q).direction)"
    )
    assert directions == ["rtl" if text == NASTY[3] else "ltr" for text in NASTY[1:]]
    dark = shown.run("getComputedStyle(document.body).backgroundColor")
    assert dark == ("rgb(20, 23, 27)" if width == 800 else "rgb(255, 255, 255)")


def test_a_picture_of_12_megapixels_opens_in_2_seconds(opened):
    shown = opened(
        page(shown=picture(800, 600).resize((4000, 3000)), maps=[random_map(96, 128)])[0]
    )
    shown.run("Promise.all([...document.images].map((image) => image.decode()))")
    assert shown.run("performance.now()") < 2000


def test_a_soft_mask_is_shown_as_given(opened):
    soft = np.linspace(0, 1, 12 * 16, dtype=np.float32).reshape(1, 12, 16)
    shown = opened(page("--mask", "m.png", mask=soft)[0])
    assert shown.run("Array.from(targets[0].mask)") == soft.reshape(-1).tolist()
    assert shown.run("document.querySelector('.area').textContent") == "50.0 % of 192 cells"
    assert shown.run("document.querySelectorAll('form').length") == 0


# --- in a notebook --------------------------------------------------------------------------------


@pytest.mark.parametrize("batch, size", ((1, (640, 512)), (6, (640, 512)), (6, (256, 256))))
def test_an_edit_shows_itself_in_a_notebook(batch, size):
    """Source, mask over it and result of two rows at most, and the options, below 300 kB."""
    source = images.to_array([picture(*size, seed=i) for i in range(batch)])
    mask = np.zeros((batch, size[1] // 8, size[0] // 8), np.float32)
    mask[:, 10:20, 20:30] = 1
    options = RECIPES["smooth"].replace(num_maps=3)
    edit = results.Edit(None, mask, None, None, None, None, source[::-1], False, source, options)
    text = edit._repr_html_()
    found = Parsed(text)
    shown = [picture_in(v) for v in found.attributes if v.startswith("data:image")]
    assert len(shown) == 3 * min(batch, 2) and {max(s.size) for s in shown} == {224}
    assert len(text) < 300e3 and not {"script", "style"} & {tag for tag, _ in found.elements}
    assert f"mask, {mask[0].mean():.1%}" in found.text and "num_maps 3" in found.text
    assert "mask_smoothing 0.7" in found.text and "guidance_scale" not in found.text
    assert len(repr(edit)) < 80 and f"{mask.mean():.1%}" in repr(edit)
    assert ("and 4 more" in found.text) == (batch == 6)


def test_the_edits_of_a_run_hold_what_they_show():
    """With and without a result."""
    from .closed_forms import SHORT, edited
    from .closed_forms import picture as random_picture

    options = RECIPES["paper"].replace(**SHORT)
    for only_mask in (False, True):
        edit = edited(options, only_mask=only_mask)[1][0]
        assert edit.options is options and np.array_equal(edit.source, random_picture())
        assert Parsed(edit._repr_html_()).text.count("mask, ") == 1


def test_the_output_of_the_pipeline_shows_its_pictures():
    output = EditOutput([picture(40, 30), picture(30, 40)], None)
    assert len([v for v in Parsed(output._repr_html_()).attributes if "base64" in v]) == 2
    assert EditOutput(np.zeros((1, 8, 8, 3)), None)._repr_html_() is None
    assert output == (output.images, None) and output._fields[0] == "images"


@pytest.mark.parametrize("kernel", (None, object()))
def test_bars_show_in_a_notebook_and_not_in_a_pipe(monkeypatch, kernel):
    """A notebook's IPython has a kernel, that of a terminal has none."""
    shell = SimpleNamespace(kernel=kernel)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert hidden() is (None if kernel is None else False)
    assert Bars().disable is hidden() and Bars(quiet=True).disable is True
    monkeypatch.delitem(sys.modules, "IPython")
    assert hidden() is None


def test_bars_know_the_seconds_of_each_phase(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    bars = Bars(quiet=True)

    def items(seconds):
        for _ in range(3):
            bars.note("compiling unet")
            now[0] += seconds
            bars.note("")
            yield None

    for phase, seconds in (("mask", 1), ("decoding", 2), ("decoding", 4)):
        assert list(bars.watch(phase, 3, items(seconds))) == [None] * 3
    assert bars.spent == {"mask": [3], "decoding": [6, 12]} and bars.compiling == 21
