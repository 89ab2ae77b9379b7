"""The Orchard's evaluation: its measures against closed forms, its batched methods against
`edit.edit`."""

import math
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, strategies as st

from benchmarks import integrators
from benchmarks.ablation.work import Share
from benchmarks.orchard import backgrounds, batches, classifier as C, data, evaluate as E, masks
from benchmarks.orchard import measures, methods
from benchmarks.orchard import world as W
from diffedit_core import schedule
from diffedit_core.draws import draws
from diffedit_core.edit import edit
from diffedit_core.errors import InputError
from diffedit_core.options import RECIPES

from .closed_forms import OBJECT, FakeModel

SEEDS = st.integers(0, 2**31 - 1)
CHANGES = {"num_inference_steps": 10, "num_maps": 3, "guidance_scale": 3.0}
OPTIONS = RECIPES["paper"].replace(**CHANGES)


def pictures(seed, *shape):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


# ---- measures ------------------------------------------------------------------------------------


@given(SEEDS, st.floats(1e-3, 0.5))
def test_psnr_of_a_constant_error(seed, error):
    """20 log10(2 / error): the range is 2."""
    wanted = 0.4 * pictures(seed, 3, 7, 9)
    assert measures.psnr(wanted + np.float32(error), wanted) == pytest.approx(
        20 * math.log10(2 / error), abs=0.01
    )


@given(SEEDS)
def test_psnr_looks_only_where_it_is_told(seed):
    wanted, where = pictures(seed, 2, 3, 7, 9), np.zeros((7, 9), bool)
    where[2:4, 5:] = True
    found = np.where(where, wanted + 0.1, -wanted)
    assert measures.psnr(found, wanted, where) == measures.psnr(
        np.clip(wanted + 0.1, -1, 1), wanted, where
    )
    assert np.isnan(measures.psnr(found, wanted, where & False))


@given(SEEDS)
def test_slope_error_of_equal_flat_and_brighter_pictures(seed):
    wanted = 0.5 * pictures(seed, 3, 7, 9)
    assert measures.slope_error(wanted, wanted) == 0
    assert measures.slope_error(np.zeros_like(wanted), wanted) == pytest.approx(1)
    assert measures.slope_error(wanted + 0.3, wanted) == pytest.approx(0, abs=1e-5)


@given(SEEDS)
def test_overlap_counts(seed):
    a, b = np.random.default_rng(seed).random((2, 5, 7)) < 0.4
    both, either = sum(x and y for x, y in zip(a.flat, b.flat)), sum(
        x or y for x, y in zip(a.flat, b.flat)
    )
    assert measures.overlap(a, b) == (both / either, both / a.sum(), both / b.sum())
    assert measures.overlap(a, a) == (1, 1, 1) and measures.overlap(a & False, b & False) == (
        1,
        1,
        1,
    )


@given(SEEDS)
def test_a_grown_mask_holds_what_is_at_most_one_cell_away(seed):
    mask = np.random.default_rng(seed).random((5, 7)) < 0.1
    rows, columns = np.nonzero(mask)
    near = [
        [bool(((abs(rows - i) <= 1) & (abs(columns - j) <= 1)).any()) for j in range(7)]
        for i in range(5)
    ]
    assert np.array_equal(measures.grown(mask), near)


def test_sampling_is_ddim_from_the_last_level():
    """With the predictor that knows the picture, any noise ends at the picture, up to the clean
    level's a(0)."""
    levels = schedule.levels(FakeModel().configs.scheduler, 10)
    wanted = pictures(1, 3, 5, 7)

    def field(x, timestep, state):
        a = levels.alphas[list(levels.timesteps).index(timestep, 1)]
        return (x - math.sqrt(a) * wanted) / math.sqrt(1 - a)

    model = Speaker(field)
    model.configs.latent_channels = 3
    model.decode_latents = lambda latents: latents.asnumpy()
    options = RECIPES["paper"].replace(num_inference_steps=10)
    found = methods.samples(model, ["a pear", "an apple"], [1, 2], options, (5, 7))
    scale = math.sqrt(levels.alphas[0])
    assert found.shape == (2, 3, 5, 7)
    assert np.abs(found - scale * wanted).max() < 0.1 and np.abs(found - wanted).max() < 0.1


@given(SEEDS)
def test_frechet_distance_of_a_shift_is_its_square(seed):
    a = np.random.default_rng(seed).standard_normal((40, 5))
    shift = np.array((0.5, 0, -1, 2, 0))
    assert measures.frechet(a, a) == pytest.approx(0, abs=1e-6)
    assert np.isnan(measures.frechet(a[:1], a))  # one has no spread
    assert measures.frechet(a, a + shift) == pytest.approx((shift**2).sum(), rel=1e-6)
    # of independent scaled axes: sum (s - 1)^2 var, here with s = 3
    assert measures.frechet(a, 3 * a) == pytest.approx(
        4 * (np.trace(np.cov(a.T)) + (a.mean(0) ** 2).sum()), rel=1e-6
    )


def test_intervals():
    """Wilson's for 92 of 100, from the closed form by hand; normal for numbers; not-a-number is
    left out."""
    mean, low, high = measures.interval([True] * 92 + [False] * 8)
    assert (mean, low, high) == pytest.approx((0.92, 0.8500, 0.9589), abs=1e-3)
    assert (
        measures.interval([True] * 20)[2] == pytest.approx(1)
        and 0.8 < measures.interval([True] * 20)[1] < 1
    )
    mean, low, high = measures.interval([1.0, 2.0, 3.0, float("nan")])
    assert (mean, high - mean) == pytest.approx((2, 1.96 / math.sqrt(3)))
    assert mean - low == pytest.approx(high - mean)


# ---- cases ---------------------------------------------------------------------------------------


def test_cases_are_test_scenes_with_their_truth():
    for i, case in enumerate(methods.cases(6)):
        assert case.kind == W.EDITS[i % 3] and case.scene.seed in W.SEEDS["test"]
        before, after = data.to_pixels(np.stack([case.source, case.truth]))
        assert np.array_equal(before, W.render(case.scene)[0]) and np.array_equal(
            after, W.render(case.edited)[0]
        )
        assert np.array_equal(case.mask, W.true_mask(before, after)) and case.mask.any()


def test_the_true_edit_gets_full_marks_and_the_source_none():
    case = methods.cases(3)[2]
    cells = W.on_grid(case.mask, 8)
    right = measures.judge(case, case.truth, cells, case.source, C.classes(case.edited), 8)
    assert right["iou"] == right["precision"] == right["recall"] == 1
    assert (
        right["edit psnr"] > 100
        and right["edit slope error"] == 0
        and right["recognised"]
        and right["rest unchanged"]
    )
    assert right["background psnr"] > 25 and right["outside psnr"] > 25
    near = case.source.copy()
    near[:, np.kron(measures.grown(cells) & ~cells, np.ones((8, 8), bool))] = 0
    marks = measures.judge(case, near, cells, case.source, C.classes(case.edited), 8)
    assert marks["beyond psnr"] == marks["beyond floor"] > 100 > marks["outside psnr"]
    copied = measures.judge(case, case.source, ~cells, case.source, C.classes(case.scene), 8)
    assert copied["iou"] == 0 and copied["background psnr"] > 100 and not copied["recognised"]
    assert copied["edit psnr"] < 25


# ---- methods -------------------------------------------------------------------------------------


class Speaker(FakeModel):
    """Understands every caption: a number between 1 and 3 that follows from its letters."""

    class Prompts(dict):
        def __missing__(self, text):
            return 1 + 2 * zlib.crc32(text.encode()) / 2**32

    PROMPTS = Prompts(FakeModel.PROMPTS)


def small_cases(count=2):
    scenes = [W.sample_scene(seed) for seed in range(count)]
    inside = np.kron(OBJECT, np.ones((2, 2))) > 0
    return [
        methods.Case("both", s, W.random_edit(s, "both"), *pictures(s.seed, 2, 3, 12, 16), inside)
        for s in scenes
    ]


class Held(Speaker):
    """With the latents' channels in its configurations, as `methods` reads them."""

    def __init__(self, *arguments, **changes):
        super().__init__(*arguments, **changes)
        self.configs.latent_channels, self.configs.vae = 3, SimpleNamespace(factor=2)


def run(name, batch, changes=CHANGES):
    return methods.run(name, Held(), changes, batch)


@pytest.mark.parametrize(
    "name", ["DiffEdit", "recipe smooth", "recipe smooth-32", "recipe diffusers"]
)
def test_a_batch_gives_what_each_edit_alone_gives(name):
    """Also of the public pipeline, in which every picture is a batch of its own."""
    batch, method = small_cases(), methods.METHODS[name]
    options = RECIPES[method.recipe].replace(**CHANGES, background="decoded")
    found = run(name, batch)
    for i, case in enumerate(batch):
        source = W.caption(case.scene)
        drawn = draws(options, [case.scene.seed], (3, 6, 8))
        negative = source if name == "recipe diffusers" else ""
        targets = [W.caption(case.edited)]
        alone = edit(Held(), case.source[None], source, targets, options, drawn, negative=negative)[
            0
        ]
        np.testing.assert_allclose(found.images[i], alone.image[0], atol=1e-5)
        assert np.array_equal(found.masks[i], alone.mask[0]) and found.masks[i].any()
        np.testing.assert_allclose(found.noise_maps[i], alone.noise_map[0], atol=1e-6)


@pytest.mark.parametrize("name", ["ddim", "belm", "anderson"])
def test_integrators_in_a_batch_give_what_each_picture_alone_gives(name):
    """Errors and edits; the counts of an iterated inversion are those of the slowest picture."""
    cases, options = small_cases(), OPTIONS.replace(integrator=name)

    def judge(images):
        return None, np.zeros((len(images), len(C.HEADS)), int)

    def measured(part):
        batch = integrators.Batch.of(Held(), part)
        found = run("DiffEdit", part).masks
        return (
            integrators.round_trips(batch, options, 1.0),
            integrators.round_trips(batch, options, 7.5),
            list(integrators.edits(batch, options, found, judge)),
        )

    together, alone = measured(cases), [measured([case]) for case in cases]
    for i, one in enumerate(alone):
        for rows, own in zip(together, one):
            for key in {"error", "background", "target"} & set(own[0]):
                assert rows[i][key] == pytest.approx(own[0][key], rel=1e-3, abs=1e-6)
            if "up" in own[0]:
                assert rows[i]["up"] >= own[0]["up"] and rows[i]["down"] == own[0]["down"]
    steps = options.num_encode_steps
    plain, guided = alone[0][0][0]["down"], alone[0][1][0]["down"]
    assert plain == (steps - 1 if name == "belm" else steps) and guided == 2 * plain


def test_tables_of_integrators():
    """Means of the rows that belong together, fewest steps first, integrators in their order, each
    guidance on its own line."""
    rows = [
        dict(
            zip(integrators.KEY, (seed, integrator, steps, what, guidance, "fp32", "m")),
            error=0.01 * (seed + guidance),
            deviation=guidance,
            up=4 * guidance,
            down=5,
            background=float(seed),
            target=2.0,
            recognised=seed == 1,
        )
        for seed in (1, 3)
        for integrator in ("belm", "ddim")
        for steps in (20, 10)
        for what, guidance in (
            ("round trip", 1.0),
            ("round trip", 7.5),
            ("edit", 7.5),
            ("edit", 3.0),
        )
    ]
    trips, edited = "\n".join(integrators.tables(rows)).split("\n\n")
    trips, edited = [
        [line.strip("| ").split(" | ") for line in part.split("\n")][2:] for part in (trips, edited)
    ]
    assert [(row[0], row[2]) for row in trips] == [
        ("ddim", "10"),
        ("belm", "10"),
        ("ddim", "20"),
        ("belm", "20"),
    ]
    assert trips[0][3:] == [
        "3.0e-02 (4.0e-02)",
        "9.5e-02 (1.0e-01)",
        "4 + 5",
        "15",
        "-",
        "1.00 / 7.50",
        "2, 2",
    ]
    assert [row[0] + row[3] for row in edited[:4]] == ["ddim3", "belm3", "ddim7.5", "belm7.5"]
    assert edited[0][4:] == ["2.00", "2.0", "0.50", "2"]


def test_integrators_go_on_where_they_were_stopped(tmp_path, monkeypatch):
    """A second run measures only what is new, and the file has each row once."""
    asked = []

    def row(kind):
        def measured(batch, *_):
            asked.append(kind)
            return [{} for _ in batch]

        return measured

    monkeypatch.setattr(integrators.Model, "load", lambda *_: None)
    monkeypatch.setattr(integrators.judges.Classifier, "load", lambda *_: None)
    monkeypatch.setattr(integrators.methods, "model_name", lambda *_: "m")
    monkeypatch.setattr(integrators.Batch, "of", lambda model, cases: cases)
    outcome = methods.Outcome(None, np.zeros(1), None)
    monkeypatch.setattr(integrators.methods, "run", lambda *_, **__: outcome)
    monkeypatch.setattr(integrators, "round_trips", row("round trip"))
    monkeypatch.setattr(integrators, "edits", lambda *a: row("edit")(a[0]))
    out = tmp_path / "rows.jsonl"
    words = [
        "--out",
        str(out),
        "--batch",
        "2",
        "--integrators",
        "ddim",
        "--steps",
        "10",
        "--pictures",
    ]
    for pictures, guidance, calls in (
        ("2", "7.5", 3),
        ("3", "7.5", 3),
        ("3", "7.5", 0),
        ("3", "3", 2),
    ):
        asked.clear()
        integrators.measure(
            integrators.parser().parse_args([*words, pictures, "--edit-guidance", guidance])
        )
        assert len(asked) == calls
    rows = integrators.read(out)
    assert len(rows) == len(set(map(integrators.key, rows))) == 3 * 4
    for more, count in (
        ((), 3 * 3),
        (("--edit-guidance", "3", "7.5"), 3 * 4),
        (("--pictures", "1"), 3),
        (("--dtype", "fp16"), 0),
        (("--integrators", "edict"), 0),
        (("--steps", "20"), 0),
    ):
        assert len(integrators.selected(rows, integrators.parser().parse_args(more), "m")) == count
    assert not integrators.selected(rows, integrators.parser().parse_args([]), "another model")


def test_what_each_alternative_keeps():
    """Outside the mask the masked ones give the round trip back; SDEdit and encode-decode may
    change everything."""
    batch = small_cases()
    trip = Speaker().decode_latents(
        Speaker().latents(Speaker().encode_image(np.stack([c.source for c in batch])))
    )
    outside = np.kron(OBJECT, np.ones((2, 2))) == 0
    for name in ("DiffEdit", "mask without encoding"):
        found = run(name, batch)
        assert np.array_equal(found.images[..., outside], trip[..., outside])
        assert np.abs(found.images - trip)[..., ~outside].min() > 1e-4
    for name in ("SDEdit", "encode-decode"):
        found = run(name, batch)
        assert found.masks is None and (found.images != trip).mean() > 0.9
    assert np.array_equal(run("copy", batch).images, np.stack([c.source for c in batch]))
    assert not np.allclose(
        run("SDEdit", batch).images, run("encode-decode", batch).images, atol=1e-2
    )


def measured(folder, names, count=5, share=Share(), model=None):
    """`batches.measure` of small cases, three a batch, judged by their means."""

    def judge(images):
        return images.mean((2, 3)), np.zeros((len(images), len(C.HEADS)), int)

    cases = small_cases(count)
    sources = np.stack([c.source for c in cases])

    def trips(start):
        return sources[start : start + batches.BATCH]

    batches.measure(names, model or Held(), CHANGES, cases, judge, trips, folder, share)
    return [batches.collected(name, count, folder) for name in names]


def test_shares_of_the_batches_are_together_what_one_process_finds(tmp_path, monkeypatch):
    """Whatever share comes first; what is there is not measured again."""
    monkeypatch.setattr(batches, "BATCH", 3)
    names = ["DiffEdit", "copy"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    assert measured(parts, names, share=Share(1, 2, True)) == [None, None]
    for one, other in zip(measured(whole, names), measured(parts, names, share=Share(0, 2, True))):
        for a, b in zip(one, other):
            np.testing.assert_equal(a, b)
        assert len(one.records) == 5 and one.images.shape == (5, 12, 16, 3)
    for found in measured(whole, names, model=object()):  # asks nothing
        assert len(found.records) == 5
    batches.discard("copy", 5, whole)
    assert batches.collected("copy", 5, whole) is None
    batches.discard("DiffEdit", 5, whole)
    assert not list(whole.iterdir())


def test_the_command_puts_two_shards_together(tmp_path, monkeypatch, capsys):
    """The same table as without shards; a shard alone writes none, and the batches' files go."""

    def judge(images):
        return images.mean((2, 3)), np.zeros((len(images), len(C.HEADS)), int)

    monkeypatch.setattr(batches, "BATCH", 3)
    monkeypatch.setattr(E, "cases", lambda count, size: small_cases(count))
    monkeypatch.setattr(E.M.Model, "load", lambda *_: Held())
    monkeypatch.setattr(E.C.Classifier, "load", lambda *_: judge)
    monkeypatch.setattr(E.C, "accuracy", lambda *_: {})
    words = "--edits 5 --texts 0 --size 128 --steps 4 --methods SDEdit copy --out".split()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert E.main([*words, str(whole)]) == 0
    for shard in ("2/2", "1/2"):
        assert E.main([*words, str(parts), "--shard", shard]) == 0
        assert not (parts / "results.md").exists()
    monkeypatch.setattr(batches, "run", None)  # nothing is left to edit
    assert E.main([*words, str(parts)]) == 0
    texts = [(folder / "results.md").read_text(encoding="utf-8") for folder in (whole, parts)]
    assert texts[0] == texts[1] and "| SDEdit | 5 |" in texts[0] and "| copy | 5 |" in texts[0]
    assert not (parts / "batches").exists()
    capsys.readouterr()
    assert E.main([*words, str(parts), "--shard", "3/2"]) == 2
    assert "--shard is '3/2'" in capsys.readouterr().err


def test_methods_of_a_batch_share_their_work(tmp_path):
    """The same numbers, with fewer evaluations: the second takes the first one's maps and
    trail."""
    (tmp_path / "all").mkdir()
    names, rows, alone = ["DiffEdit", "recipe smooth", "encode-decode", "SDEdit"], [], []

    class Counting(Held):
        def predict(self, x, timestep, states):
            rows.append(x.shape[0])
            return super().predict(x, timestep, states)

    together = measured(tmp_path / "all", names, 2, model=Counting())
    shared, rows[:] = sum(rows), []
    for name in names:
        (tmp_path / name).mkdir()
        alone += measured(tmp_path / name, [name], 2, model=Counting())
    for one, other in zip(together, alone):
        np.testing.assert_equal(one.records, other.records)
    assert shared < 0.8 * sum(rows)


def test_sheet_and_table():
    batch = methods.cases(4)
    maps = [np.random.default_rng(i).random((16, 16)) for i in range(4)]
    masks = [(m > 0.5).astype(np.float32) for m in maps]
    records = [
        measures.judge(c, c.truth * 0.9, m, c.source, C.classes(c.edited), 8)
        for c, m in zip(batch, masks)
    ]
    edits = data.to_pixels(np.stack([c.truth for c in batch]))
    sheet = E.contact_sheet(batch, records, edits, masks, maps, each=2)
    assert sheet.size == (3 * 5 * W.SIZE, 2 * W.SIZE)
    lines = {
        line: (len(rows), measures.summarise([records[i] for i in rows]))
        for line, rows in E.groups(batch).items()
    }
    text = measures.table(lines)
    rows = text.splitlines()
    assert len(rows) == 2 + len(lines) and all(
        len(row.split("|")) == len(measures.COLUMNS) + 4 for row in rows
    )
    assert {"fruit", "container", "both"} <= set(lines)


def test_threshold_curve():
    """The true cells as a map score 1 at every threshold; an even map is all or nothing around 1 /
    clamp_ratio."""
    batch = methods.cases(6)
    truths = [W.on_grid(case.mask, 8) for case in batch]
    exact = E.threshold_curve(batch, [cells.astype(np.float32) for cells in truths], 1.0)
    assert list(exact) == list(W.EDITS) and all(
        set(curve.values()) == {1.0} for curve in exact.values()
    )
    even = E.threshold_curve(batch, [np.ones((16, 16), np.float32)] * 6, 2.0)
    for i, kind in enumerate(W.EDITS):
        share = np.mean([truths[j].mean() for j in (i, i + 3)])
        for t, value in even[kind].items():
            assert value == pytest.approx(share if t == E.BEST or t < 0.5 else 0.0)


@given(SEEDS)
def test_no_threshold_finds_more_than_the_best_one(seed):
    batch = methods.cases(3)
    maps = [
        W.on_grid(case.mask, 8) + np.random.default_rng(seed + i).random((16, 16)) * 1.5
        for i, case in enumerate(batch)
    ]
    for curve in E.threshold_curve(batch, maps, 2.0).values():
        assert max(value for t, value in curve.items() if t != E.BEST) <= curve[E.BEST] < 1


@given(SEEDS, st.floats(0.01, 100))
def test_ways_from_a_map_to_a_mask(seed, scale):
    """No way finds more than the best threshold of its map, nor looks at the map's scale."""
    rng = np.random.default_rng(seed)
    truths = rng.random((3, 7, 9)) < 0.4
    truths[:, 0, 0], truths[:, 0, 1] = True, False
    found, scaled = [
        masks.scores(k * (truths + rng.random((3, 7, 9))), truths)
        for k, rng in ((1.0, np.random.default_rng(seed)), (scale, np.random.default_rng(seed)))
    ]
    for name, values in found.items():
        best = found[
            ("smoothed, " if name.startswith("smooth") else "") + "best threshold of each picture"
        ]
        assert (values <= best).all()
        np.testing.assert_allclose(values, scaled[name], atol=0.1, err_msg=name)
    assert masks.scores(truths.astype(np.float32), truths)[
        "best threshold of each picture"
    ] == pytest.approx(1)


def test_a_run_goes_on_where_it_was_stopped(tmp_path):
    """What is measured is kept for the same settings, and refused for others."""

    def arguments(*more):
        return E.parser().parse_args(["--out", str(tmp_path), *more])

    options = RECIPES["paper"]
    results = E.begin(arguments(), options)
    results |= {
        "methods": {"copy": (1, {})},
        "vae": {"psnr": 1.0, "slope error": 1.0},
        "classifier accuracy": {},
    }
    E.write(tmp_path, results)
    assert list(E.begin(arguments(), options)["methods"]) == ["copy"]
    for more, changed in ((("--edits", "3"), options), ((), options.replace(mask_threshold=0.4))):
        with pytest.raises(InputError, match="another --out"):
            E.begin(arguments(*more), changed)


@given(st.integers(1, 4), st.integers(1, 6))
def test_a_mosaic_holds_every_scene_and_changes_in_one(count, number):
    """Outside the edited scene a mosaic's source and truth are equal, and nothing is masked."""
    pictures = np.random.default_rng(count).standard_normal((2, number, 3, 4, 4))
    cases = [
        methods.Case("fruit", None, None, source, truth, np.ones((4, 4), bool))
        for source, truth in zip(*pictures)
    ]
    found = backgrounds.mosaics(cases, count)
    sources, truths, masks = (
        np.stack([getattr(c, n) for c in found]) for n in ("source", "truth", "mask")
    )
    assert sources.shape == (number, 3, 4 * count, 4 * count)
    assert np.array_equal(backgrounds.edited_scenes(sources, count), pictures[0])
    assert np.array_equal(backgrounds.edited_scenes(truths, count), pictures[1])
    assert backgrounds.edited_scenes(masks[:, None], count).all()
    assert (masks.sum((1, 2)) == 16).all()
    changed = (sources != truths).any(1)
    assert np.array_equal(changed, masks)
    if count > 1 and number > 1:  # beside the edited scene come the next ones
        second = sources[0, :, :4, 4:8]
        assert np.array_equal(second, pictures[0, 1])
