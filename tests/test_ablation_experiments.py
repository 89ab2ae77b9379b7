"""What an experiment may say, what makes two functions the same, what a table shows, and the
experiments that ship."""

import ast
import functools
import json
import math
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.ablation import Experiment, cli, compare, engine, experiment as E, identity
from benchmarks.ablation import rows, subjects, tables
from benchmarks.ablation.identity import code, digest
from benchmarks.ablation.measures import MEASURES, numbers_of, ssim
from benchmarks.ablations import beyond, ledger, masks
from diffedit_core.errors import InputError
from diffedit_core.options import RECIPES
from diffedit_core.parts import Parts

from .closed_forms import FakeModel
from .test_ablation import bench, experiment, ran

ROOT = Path(__file__).parent.parent


# --- what is refused ------------------------------------------------------------------------------


class Hidden:
    def __call__(self, noise_map):
        return noise_map


@pytest.mark.parametrize(
    "more, said",
    [
        ({"vary": {"mask_treshold": (0.3,)}}, "did you mean 'mask_threshold'?"),
        ({"rows": {"a": {"zzz": 1}}}, "axis 'zzz', which there is not: choose of"),
        ({"base": {"recipes": "paper"}}, "did you mean 'recipe'?"),
        ({"vary": {"mask_threshold": ()}}, "has no values: give at least one"),
        ({"vary": {"mask_threshold": 0.3}}, "write (0.3,)"),
        ({"vary": {"integrator": "ddim"}}, "write ('ddim',)"),
        ({"vary": {"mask_threshold": (1.5,)}}, "mask_threshold is 1.5: it has to be"),
        ({"vary": {"recipe": ("papers",)}}, "did you mean 'paper'?"),
        ({"vary": {"to_mask": (3,)}}, "to_mask is 3, it has to be a function"),
        ({"vary": {"source": (3,)}}, "source is 3, it has to be a text or a function"),
        ({"vary": {"to_mask": (Hidden(),)}}, "has no identity that a cache could know it by"),
        ({"measures": ("IoU",)}, "did you mean 'iou'?"),
        ({"measures": ()}, "needs a measure, a scene and a seed"),
        ({"scenes": 0}, "needs a measure, a scene and a seed"),
    ],
)
def test_what_is_wrong_is_a_sentence(more, said):
    with pytest.raises(InputError) as caught:
        Experiment("toy", "Does it?", **more).variants
    assert said in str(caught.value) and "\n" not in str(caught.value)


FILES = {
    "no.py": ("x = 1", "has no Experiment"),
    "broken.py": ("x = (", "fails with SyntaxError"),
    "name.py": ("x = y", "fails with NameError"),
    "axis.py": (
        "from benchmarks.ablation import Experiment\n"
        "A = Experiment('a', 'Does it?', vary={'encode_ration': (0.5,)})",
        "did you mean 'encode_ratio'?",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_file_is_a_sentence_and_exit_code_2(name, tmp_path, capsys):
    (tmp_path / name).write_text(FILES[name][0], encoding="utf-8")
    assert cli.main([str(tmp_path / name), "--plan"]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("ablation: ") and FILES[name][1] in said and "\n" not in said


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "no experiment is named"),
        (["nothing"], "There is no experiment 'nothing': choose of all, "),
        (["missing.py"], "missing.py is missing"),
        (["threshold", "--pictures", "folder"], "--pictures and --prompts belong together"),
        (["threshold", "--shard", "3/2"], "write i/n"),
        (["threshold", "--shard", "half"], "write i/n"),
        (["threshold", "--table", "--out", "nowhere"], "has no rows of threshold: run it first"),
    ],
)
def test_a_wrong_command_is_a_sentence_and_exit_code_2(arguments, said, capsys, monkeypatch):
    monkeypatch.setattr(cli, "COLLECTED", Path("nowhere"))
    assert cli.main(arguments) == 2
    assert said in capsys.readouterr().err


def test_what_needs_the_truth_or_a_package_says_so(tmp_path):
    with pytest.raises(InputError, match="'recognised', which needs the true answer"):
        engine.lay_out(experiment(measures=("recognised",)), bench(), tmp_path)
    with pytest.raises(InputError, match=r"'lpips': install the public packages \(pip install"):
        engine.lay_out(experiment(measures=("lpips",)), bench(), tmp_path)


@pytest.mark.parametrize("package, asked", [("transformers", "clip"), ("lpips", "lpips")])
def test_a_package_that_cannot_be_imported(package, asked, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())
    monkeypatch.setitem(sys.modules, package, None)  # an import of it fails
    with pytest.raises(InputError, match=f"--{asked} needs the package {package}, which cannot be"):
        compare.functions(**{asked: str(tmp_path)})


def test_public_packages_get_the_edit_its_text_and_its_source(monkeypatch, tmp_path):
    """CLIP's embeddings, here numbers made of what came in: their product is the cosine. LPIPS gets
    both pictures within -1 and 1."""

    def processor(text, images, return_tensors, truncation):
        assert return_tensors == "pt" and truncation and len(text) == 1
        return {"text": text[0], "image": np.asarray(images)}

    def model(text, image):
        picture = np.array([image[0, 0, 0, 0], image[0, 0, 1, 2]])
        return SimpleNamespace(image_embeds=picture, text_embeds=np.array([len(text), 1]))

    def from_pretrained(made):
        return SimpleNamespace(from_pretrained=lambda folder: made)

    torch = SimpleNamespace(no_grad=nullcontext, from_numpy=np.asarray)
    monkeypatch.setitem(sys.modules, "torch", torch)
    packages = {"CLIPModel": from_pretrained(model), "CLIPProcessor": from_pretrained(processor)}
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(**packages))
    seen = []

    def lpips(net, verbose):
        assert (net, verbose) == ("alex", False)
        return lambda *pair: seen.append(pair) or 0.25

    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=lpips))
    found = compare.functions(str(tmp_path), "alex")
    image = np.zeros((3, 1, 2), np.float32)
    image[0, 0], image[2, 0, 1] = (1, -1), 1.5
    subject = SimpleNamespace(target="a pear", source=np.full((3, 1, 2), -1.5, np.float32))
    assert found["clip"](subject, image) == 6 * 255 + 255
    assert found["lpips"](subject, image) == 0.25
    edit, source = seen[0]
    assert edit.shape == source.shape == (1, 3, 1, 2)
    assert (edit[0, 2, 0, 1], source.min(), source.max()) == (1, -1, -1)
    with pytest.raises(InputError, match="is missing: give the folder of a CLIP model"):
        compare.functions(str(tmp_path / "nowhere"))


# --- what is the same -----------------------------------------------------------------------------


def twice(x):
    """Two."""
    return helper(x) * 2


def helper(x):
    return x


def adder(n):
    return lambda x: x + n


def test_functions_are_the_same_if_they_do_the_same():
    assert digest(adder(1)) == digest(adder(1)) != digest(adder(2))
    assert digest(lambda x: x + 1) != digest(lambda x: x + 2)
    assert digest(functools.partial(twice, 1)) != digest(functools.partial(twice, 2))
    assert digest(twice) != digest(helper)
    assert digest(np.eye(2)) == digest(np.eye(2)) != digest(np.eye(3))
    assert digest(1) != digest(1.0) != digest("1.0") != digest(True)
    before = digest(twice)
    changed = {**twice.__globals__, "helper": lambda x: -x}
    other = type(twice)(twice.__code__, changed, "twice")
    assert digest(other) != before, "what it calls is part of it"


def test_a_digest_is_that_of_another_process(tmp_path):
    """Sets of texts, which Python orders by chance, included."""
    file = tmp_path / "functions.py"
    text = """
from benchmarks.ablation.identity import digest
known = frozenset({"a", "b", "c", "d"})
def f(x, y=("q", 1.5)):
    "%s"
    # %s
    return x in {"apple", "pear", "plum", "fig"} or x in known
print(digest(f))
"""
    found = set()
    for seed, comment in (("1", "one"), ("2", "two")):
        file.write_text(text % (comment, comment), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, str(file)], env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1


def test_the_programs_digest_sees_code_and_no_comments(tmp_path, monkeypatch):
    core = tmp_path / "diffedit_core"
    core.mkdir()
    monkeypatch.setattr(identity, "ROOT", tmp_path)

    def of(first, second="from . import a\ny = a.x"):
        (core / "a.py").write_text(first, encoding="utf-8")
        (core / "b.py").write_text(second, encoding="utf-8")
        code.cache_clear()
        return code("diffedit_core.b")

    before = of("x = 1")
    assert of('"""New."""\n\nx = 1  # one') == before
    assert of("x = 2") != before != of("x = 1", "from . import a\ny = -a.x")
    code.cache_clear()


def test_a_program_has_the_same_digest_in_every_version_of_python(monkeypatch):
    """Python 3.12 gave functions a field that is empty for all that 3.11 can say."""
    tree = ast.parse("def f(x=0, *, y=None): return x, y, ...")
    before = identity._syntax(tree)
    fields = (*ast.FunctionDef._fields, "of_a_newer_version")
    monkeypatch.setattr(ast.FunctionDef, "_fields", fields)
    for value, same in (([], True), (None, True), ([ast.Pass()], False)):
        tree.body[0].of_a_newer_version = value
        assert (identity._syntax(tree) == before) is same


def test_the_names_of_parts_are_the_cores():
    assert E.PARTS == Parts._fields


def test_variants_of_the_same_edit_have_the_same_digest():
    one = Experiment("toy", "?", vary={"source": ("source", ""), "mask_threshold": (0.5, 0.3)})
    assert len(one.variants) == 4 and one.base_digest == one.variants[0].digest
    other = Experiment("other", "?", rows={"a": {"mask_threshold": 0.3}})
    assert [v.label for v in other.variants] == ["base", "a"]
    assert other.variants[1].digest == one.variants[1].digest
    assert not one.only_mask and Experiment("m", "?", measures=("iou", "area")).only_mask


# --- tables ---------------------------------------------------------------------------------------

VALUES = st.lists(st.floats(-5, 5), min_size=2, max_size=12)


@given(VALUES, st.floats(-3, 3), st.randoms())
def test_a_bootstrap_moves_with_its_values_and_forgets_their_order(values, shift, random):
    mean, low, high = tables.bootstrap(values)
    assert low <= mean + 1e-9 and mean <= high + 1e-9
    assert mean == pytest.approx(np.mean(values))
    assert tables.bootstrap(np.add(values, shift)) == pytest.approx(
        (mean + shift, low + shift, high + shift), abs=1e-9
    )
    shuffled = list(values)
    random.shuffle(shuffled)
    assert tables.bootstrap(shuffled) == (mean, low, high)


def test_a_bootstrap_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [tables.bootstrap(rng.standard_normal(40), 400) for _ in range(400)]
    share = np.mean([low <= 0 <= high for _, low, high in found])
    assert 0.90 <= share <= 0.98
    assert tables.bootstrap([2.0])[0] == 2 and math.isnan(tables.bootstrap([2.0])[1])
    assert tables.bootstrap([2.0] * 5) == (2, 2, 2)


def test_differences_are_paired_by_scene():
    """Two ways that differ by a constant have a difference without an interval, however much the
    scenes differ."""
    rng = np.random.default_rng(1)
    base = {(f"s{i}", 0): {"iou": float(rng.uniform())} for i in range(30)}
    rows_ = {key: {"iou": row["iou"] + 0.125} for key, row in base.items()}
    rows_["new", 0] = {"iou": 0.0}
    mean, low, high = tables.difference(rows_, base, "iou")
    assert (mean, low, high) == pytest.approx((0.125,) * 3)
    _, low, high = tables.summary(base, "iou")
    assert high - low > 0.1


def test_a_table_has_a_line_for_each_way_and_what_is_no_number_is_left_out(tmp_path, capsys):
    one = experiment(vary={"mask_threshold": (0.3, 0.5, 0.6)})
    ran(one, tmp_path)
    found = tables.results(rows.read(tmp_path / "toy"))
    text = tables.table(found)
    lines = text.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| mask_threshold 0.3",
        "| mask_threshold 0.5 (base)",
        "| mask_threshold 0.6",
    ]
    assert all(line.split(" | ")[1] == "4" for line in lines[2:])
    assert lines[3].count(" - ") >= len(one.measures)
    tables.collect(rows.read(tmp_path / "toy"), found, tmp_path / "toy.jsonl")
    again = tables.results(list(rows.lines(tmp_path / "toy.jsonl")))
    assert tables.table(again) == text
    size = sum(p.stat().st_size for p in (tmp_path / "toy").iterdir())
    assert (tmp_path / "toy.jsonl").stat().st_size < size


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "kind": st.just("row"),
                "run": st.sampled_from("rs"),
                "variant": st.sampled_from("ab"),
                "id": st.text(max_size=3),
            },
            optional={"iou": st.floats(0, 1) | st.none(), "recognised": st.booleans()},
        )
        | st.fixed_dictionaries({"kind": st.sampled_from(("run", "truth"))}),
        max_size=20,
    )
)
def test_packed_rows_are_the_rows(found):
    """No line is lost or changed, and those of a run and variant with the same numbers keep their
    order."""
    again = [each for line in rows.packed(found) for each in rows.unpacked(line)]
    key = functools.partial(json.dumps, sort_keys=True)
    assert sorted(map(key, again)) == sorted(map(key, found))
    for line in found:
        same = [
            [each for each in some if each.keys() == line.keys()
             and [each.get(k) for k in ("kind", "run", "variant")]
             == [line.get(k) for k in ("kind", "run", "variant")]]
            for some in (found, again)
        ]  # fmt: skip
        assert same[0] == same[1]


def test_the_distance_of_sets_is_that_of_the_evaluation():
    rng = np.random.default_rng(2)
    truths = {f"s{i}": rng.standard_normal(6) for i in range(60)}
    near, far = (
        {(s, 0): {"features": engine.encoded(t + shift)} for s, t in truths.items()}
        for shift in (0.5, 2.0)
    )
    assert tables.set_interval(near, truths)[0] == pytest.approx(6 * 0.25, rel=1e-2)
    value, low, high = tables.set_interval(far, truths, near)
    assert low < value < high and value == pytest.approx(6 * (4 - 0.25), rel=1e-2)


def scenes_with_features(some):
    """The lines of an experiment of two variants whose distance of sets is measured."""
    yield {"kind": "experiment", "name": "toy", "question": "?", "measures": ["csfid"], "base": "a",
           "variants": [["a", "a"], ["b", "b"]]}  # fmt: skip
    yield {"kind": "run", "run": "r", "code": "c", "model": "m"}
    for i in some:
        truth, one, other = np.random.default_rng(i).standard_normal((3, 5))
        yield {"kind": "truth", "scene": f"s{i}", "features": engine.encoded(truth)}
        for variant, features in (("a", truth + 0.5 * one), ("b", truth + one + other)):
            yield {"kind": "row", "id": f"{variant}{i}", "run": "r", "variant": variant, "seed": 0,
                   "scene": f"s{i}", "subject": "fruit", "change": 1.0,
                   "features": engine.encoded(features)}  # fmt: skip


def test_a_run_goes_on_with_a_collected_file(tmp_path):
    """A set that is too small for its measure keeps its features: collected in two parts or
    measured at once, the numbers are the same."""
    whole = list(scenes_with_features(range(50)))
    wanted = tables.table(tables.results(whole))
    assert "[" in wanted
    part = list(scenes_with_features(range(30)))
    tables.collect(part, tables.results(part), tmp_path / "part.jsonl")
    there = list(rows.lines(tmp_path / "part.jsonl"))
    assert "[" not in tables.table(tables.results(there))
    assert all("change" not in line for line in there)
    more = there + list(scenes_with_features(range(30, 50)))
    assert tables.table(tables.results(more)) == wanted
    tables.collect(more, tables.results(more), tmp_path / "whole.jsonl")
    there = list(rows.lines(tmp_path / "whole.jsonl"))
    assert not any("features" in line for line in there)
    assert tables.table(tables.results(there)) == wanted


# --- measures -------------------------------------------------------------------------------------


@given(st.integers(0, 2**31 - 1), st.floats(0.05, 0.5))
def test_ssim_is_one_for_equal_pictures_symmetric_and_falls(seed, amount):
    rng = np.random.default_rng(seed)
    a = rng.uniform(-0.5, 0.5, (3, 14, 17))
    b = a + amount * rng.standard_normal(a.shape)
    where = rng.random((14, 17)) < 0.5
    assert ssim(a, a) == pytest.approx(1) and ssim(a, a, where) == pytest.approx(1)
    assert ssim(a, np.clip(b, -1, 1)) == pytest.approx(ssim(np.clip(b, -1, 1), a))
    assert ssim(a + 4 * (b - a), a) < 1 and math.isnan(ssim(a, b, where & False))


def test_ssim_of_two_flat_pictures_is_its_formula():
    a, b = np.full((3, 9, 11), 0.25), np.full((3, 9, 11), 0.75)
    wanted = (2 * 0.25 * 0.75 + 0.02**2) / (0.25**2 + 0.75**2 + 0.02**2)
    assert ssim(a, b) == pytest.approx(wanted)


def test_ssim_at_a_pixel_is_its_formula():
    """Faint pictures, where both constants count, against weighted sums over one window."""
    a, b = 0.04 * np.random.default_rng(5).standard_normal((2, 3, 17, 15))
    window = np.exp(-(np.arange(-5, 6)[:, None] ** 2 + np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window /= window.sum()
    where = np.zeros((17, 15), bool)
    where[8, 6] = True
    x, y = (p[:, 3:14, 1:12] for p in (a, b))
    m, n = ((window * p).sum((1, 2)) for p in (x, y))
    variances = (window * (x**2 + y**2)).sum((1, 2)) - m**2 - n**2
    covariance = (window * x * y).sum((1, 2)) - m * n
    wanted = (2 * m * n + 0.0004) * (2 * covariance + 0.0036)
    wanted /= (m**2 + n**2 + 0.0004) * (variances + 0.0036)
    assert ssim(a, b, where) == pytest.approx(wanted.mean())


def test_an_edit_that_is_the_truth_has_the_best_numbers():
    one = subjects.scene("test", 1, 0, 128)
    assert one.truth.shape == (3, 128, 128) and one.caption != one.target
    cells = beyond.true_cells(one, (16, 16))
    other = beyond.random_cells(one, (16, 16))
    assert cells.sum() == other.sum() and (cells != other).any()
    from benchmarks.orchard.reader import classes

    found = numbers_of(one, one.truth, cells, cells.astype(float), classes(one.edited), 8)
    assert found["iou"] == found["best iou"] == 1 and found["recognised"]
    assert found["outside psnr"] > 40 and set(found) <= set(MEASURES)


# --- pictures of one's own ------------------------------------------------------------------------


def own_pictures(folder, text=None):
    Image.new("RGB", (40, 30), "red").save(folder / "a.png")
    Image.new("RGB", (20, 50), "blue").save(folder / "b.png")
    lines = [{"picture": n, "source": "source", "target": "a"} for n in ("a.png", "b.png")]
    file = folder / "edits.jsonl"
    file.write_text(text or "\n".join(map(json.dumps, lines)), encoding="utf-8")
    return file


def test_pictures_without_truth_have_the_same_tables(tmp_path, monkeypatch, capsys):
    file = own_pictures(tmp_path)

    def own(a):
        load = functools.partial(FakeModel, lambda x, t, state: np.sin(x) * 0.125 + state * x)
        return bench(load)._replace(
            batches=lambda split, count, seeds: subjects.pictures(a.pictures, a.prompts, seeds, 16)
        )

    monkeypatch.setattr(cli, "bench_of", own)
    arguments = ["threshold", "--pictures", str(tmp_path), "--prompts", str(file)]
    assert cli.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "SSIM outside predicted mask" in text and "seconds" in text and "mask IoU" not in text
    assert "| mask_threshold 0.25 | 2 |" in text


@pytest.mark.parametrize(
    "text, said",
    [
        ("[1]", "line 1: write an object with picture, source, target"),
        ('{"picture": "a.png", "source": 1, "target": "a"}', "source is 1, it has to be a text"),
        ('{"picture": "c.png", "source": "s", "target": "a"}', "c.png is missing"),
        ('{"picture": "a.png", "mask": "m", "source": "s", "target": "a"}', "m is missing"),
        ("\n", "has no lines"),
        ("{", "line 1: write an object"),
    ],
)
def test_wrong_prompts_are_a_sentence(text, said, tmp_path):
    with pytest.raises(InputError) as caught:
        list(subjects.pictures(tmp_path, own_pictures(tmp_path, text), (0,), 16))
    assert said in str(caught.value)


def test_a_given_mask_is_cropped_and_measured_like_its_picture(tmp_path):
    file = own_pictures(tmp_path)
    mask = np.zeros((30, 40), np.uint8)
    mask[:15, 5:20] = 255  # the upper left quarter of the middle square
    Image.fromarray(mask).save(tmp_path / "m.png")
    first = {**json.loads(file.read_text().splitlines()[0]), "mask": "m.png"}
    file.write_text(json.dumps(first))
    assert subjects.have_masks(tmp_path, file)
    (batch,) = subjects.pictures(tmp_path, file, (0,), 16)
    (subject,) = batch.make()
    cells = np.zeros((2, 2))
    cells[0] = 1
    wanted = np.kron([[1, 0], [0, 0]], np.ones((8, 8))) > 0
    assert np.array_equal(subject.mask, wanted) and subject.truth is None
    image = subject.source * np.where(wanted, 0.5, 0.75)
    found = numbers_of(subject, image, cells, np.eye(2), None, 8)
    assert found["iou"] == 0.5 and found["precision"] == 0.5 and found["recall"] == 1
    assert found["background psnr"] == pytest.approx(20 * np.log10(2 / 0.25), rel=1e-5)
    assert found["best iou"] == 0.5 and "edit psnr" not in found


@pytest.mark.parametrize("what", ("picture", "source", "target", "mask", "line"))
def test_another_sentence_picture_or_mask_is_another_experiment(what, tmp_path):
    file = own_pictures(tmp_path)
    Image.new("L", (40, 30)).save(tmp_path / "m.png")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["mask"] = "m.png"
    file.write_text("\n".join(map(json.dumps, lines)))
    named = ["threshold", "--pictures", str(tmp_path), "--prompts", str(file)]
    before, again = (cli.adjusted(SHIPPED["threshold"], cli.parser().parse_args(named)).name
                     for _ in range(2))  # fmt: skip
    if what in ("picture", "mask"):
        Image.new("L", (40, 30), 9).save(tmp_path / lines[0][what])
    elif what == "line":
        lines.pop()
    else:
        lines[0][what] += "s"
    file.write_text("\n".join(map(json.dumps, lines)))
    after = cli.adjusted(SHIPPED["threshold"], cli.parser().parse_args(named)).name
    assert before == again != after and after.startswith("threshold-edits-")


def test_answers_that_are_not_known_are_a_sentence(tmp_path):
    (batch,) = subjects.pictures(tmp_path, own_pictures(tmp_path), (0,), 16)
    subject = batch.make()[0]
    for answer in (lambda: beyond.true_cells(subject, (2, 2)), lambda: beyond.true_edit(subject)):
        with pytest.raises(InputError, match="give one with each picture|leave it out"):
            answer()


def test_measures_of_a_mask_are_in_the_table_where_one_is_given(tmp_path):
    file = own_pictures(tmp_path)
    named = ["--pictures", str(tmp_path), "--prompts", str(file)]
    a = cli.parser().parse_args(["threshold", *named])
    assert "iou" not in cli.without_truth(SHIPPED["threshold"], a)
    Image.new("L", (20, 50)).save(tmp_path / "m.png")
    lines = file.read_text().splitlines()
    file.write_text(lines[0] + "\n" + lines[1][:-1] + ', "mask": "m.png"}')
    found = cli.without_truth(SHIPPED["threshold"], a)
    assert {"iou", "best iou", "background psnr", "outside psnr"} <= set(found)
    assert not {"recognised", "edit psnr", "csfid"} & set(found)


# --- the experiments that ship --------------------------------------------------------------------

SHIPPED = cli.experiments()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_experiment_is_valid_and_asks_a_question(name):
    one = SHIPPED[name]
    assert one.question.endswith("?") and len(one.variants) >= 2
    labels = [v.label for v in one.variants]
    assert len(set(labels)) == len(labels)
    assert one.scenes == 100 or one.scenes % subjects.BATCH == 0, "batches are shared"


def test_the_ledger_goes_from_the_papers_recipe_to_the_public_pipelines():
    found = {v.label: v for v in ledger.LEDGER.variants}
    papers, publics = found["base"], found["all"]
    assert papers.options == RECIPES["paper"].replace(background="decoded")
    assert publics.options == RECIPES["diffusers"] and publics.get("negative") == "source"
    for name in ledger.SWITCHES:
        assert found[name].digest != papers.digest, name
    both_ways = {label: v for label, v in found.items() if label.startswith("the ")}
    assert len(both_ways) == 2 * (len(ledger.SWITCHES) - 2)
    assert publics.digest not in {v.digest for v in both_ways.values()}


@given(st.integers(0, 2**31 - 1))
def test_otsus_threshold_is_the_best_of_all(seed):
    values = np.random.default_rng(seed).integers(0, 9, (2, 3, 4)).astype(np.float32)
    found = masks.otsu(ms.Tensor(values)).asnumpy()

    def apart(one, mask):
        if mask.all() or not mask.any():
            return 0.0
        share = mask.mean()
        return share * (1 - share) * (one[mask].mean() - one[~mask].mean()) ** 2

    for one, mask in zip(values, found > 0):
        best = max(apart(one, one > t) for t in np.unique(one))
        assert apart(one, mask) == pytest.approx(best)


def test_the_top_share_is_that_share():
    values = np.random.default_rng(0).permutation(100).reshape(1, 10, 10).astype(np.float32)
    for share in (0.15, 0.25):
        found = masks.top(ms.Tensor(values), share).asnumpy()
        assert found.mean() == pytest.approx(share, abs=0.01)
        assert values[found > 0].min() > values[found == 0].max()
