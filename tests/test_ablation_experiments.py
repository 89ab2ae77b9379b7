"""What an experiment may say, and the experiments that ship."""

import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.ablation import Experiment, cli, compare, engine, subjects
from benchmarks.ablations import ledger, masks
from diffedit_core.errors import InputError
from diffedit_core.options import RECIPES

from .test_ablation import bench, experiment

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
