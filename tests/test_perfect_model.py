"""benchmarks/ablations/perfect_model.py: the best denoiser of a finite world, DiffEdit on it."""

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given, strategies as st

from benchmarks.ablations import perfect_model as P
from benchmarks.orchard import measures, world as W
from diffedit_core.draws import draws
from diffedit_core.edit import edit
from diffedit_core.options import RECIPES

from .strategies import seeds

levels = st.sampled_from((0.99915, 0.98, 0.6, 0.2, 0.0047))
SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 9), st.sampled_from((1, 7, 30)))  # B, M, D


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def world(seed, count, size):
    return P.Atoms.of(normal(seed + 1, count, size))


def by_definition(x, points, alpha):
    """E[x0 | x] in float64, as the equation stands."""
    x, points = x.astype(np.float64), points.astype(np.float64)
    logits = -((x[:, None] - np.sqrt(alpha) * points) ** 2).sum(-1) / (2 * (1 - alpha))
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return (shares / shares.sum(1, keepdims=True)) @ points


def noised(seed, atoms, alpha, count):
    """(x_t, noise) of pictures of the world, each as often as the other."""
    rng = np.random.default_rng(seed)
    clean = atoms.points[rng.integers(len(atoms.points), size=count)]
    noise = rng.standard_normal(clean.shape).astype(np.float32)
    return np.float32(np.sqrt(alpha)) * clean + np.float32(np.sqrt(1 - alpha)) * noise, noise


# ---- the denoiser --------------------------------------------------------------------------------


@given(SHAPES, levels, seeds, st.sampled_from((1.0, 30.0)))
def test_it_is_the_equation(shape, alpha, seed, size):
    """Within what a logit may be off, also where pictures are far larger than the noise."""
    rows, count, width = shape
    points = size + 0.1 * normal(seed, count, width)
    x = np.sqrt(alpha) * points[np.arange(rows) % count] + 0.3 * normal(seed + 2, rows, width)
    x = x.astype(np.float32)
    found = P.expected(x, P.Atoms.of(points), alpha)
    wanted = by_definition(x, points, alpha)
    allowed = 4 * P.ROUNDING * np.ptp(points, axis=0).max() + 1e-5 * size
    assert found.dtype == np.float32 and np.abs(found - wanted).max() <= allowed


@given(SHAPES, levels, seeds)
def test_one_picture_is_found_from_anywhere(shape, alpha, seed):
    """In a world of one picture eps* is the noise that was added."""
    rows, _, width = shape
    atoms = world(seed, 1, width)
    x, noise = noised(seed, atoms, alpha, rows)
    assert np.array_equal(P.expected(x, atoms, alpha), np.tile(atoms.points, (rows, 1)))
    assert np.abs(P.best_eps(x, atoms, alpha) - noise).max() <= 1e-5 / np.sqrt(1 - alpha)


@given(SHAPES, seeds)
def test_of_pure_noise_it_expects_the_mean(shape, seed):
    """As sigma grows without bound."""
    rows, count, width = shape
    atoms = world(seed, count, width)
    found = P.expected(normal(seed, rows, width), atoms, 1e-12)
    assert np.abs(found - atoms.points.mean(0)).max() <= 1e-4


@given(SHAPES, levels, seeds)
def test_it_expects_something_between_the_pictures(shape, alpha, seed):
    rows, count, width = shape
    atoms = world(seed, count, width)
    found = P.expected(3 * normal(seed, rows, width), atoms, alpha)
    assert (found <= atoms.points.max(0) + 1e-5).all()
    assert (found >= atoms.points.min(0) - 1e-5).all()


@given(SHAPES, levels, seeds)
def test_a_sentence_is_the_world_of_its_pictures(shape, alpha, seed):
    """The pictures that a sentence does not fit might as well not be there, row by row."""
    rows, count, width = shape
    atoms, x = world(seed, count + 1, width), normal(seed, rows, width)
    fits = np.random.default_rng(seed).random((rows, count + 1)) < 0.5
    fits[:, 0] = True
    found = P.expected(x, atoms, alpha, fits)
    for row in range(rows):
        alone = P.expected(x[row][None], P.Atoms.of(atoms.points[fits[row]]), alpha)
        assert np.abs(found[row] - alone[0]).max() <= 1e-3


@pytest.mark.parametrize("alpha", (0.98, 0.6, 0.2))
def test_no_neighbour_has_a_smaller_error(alpha):
    """Against sampled noise: eps* scaled, shifted, bent, or of another level or world is worse, by
    about the square of what was changed."""
    atoms = world(5, 7, 6)
    x, noise = noised(11, atoms, alpha, 20000)
    best = P.best_eps(x, atoms, alpha)

    def error(estimate):
        return float(((estimate - noise) ** 2).mean())

    others = {
        "scaled up": 1.1 * best,
        "scaled down": 0.9 * best,
        "shifted": best + 0.1,
        "towards x": best + 0.1 * x,
        "bent": best + 0.1 * np.sin(3 * x),
        "another level": P.best_eps(x, atoms, alpha * 0.9),
        "fewer pictures": P.best_eps(x, P.Atoms.of(atoms.points[:-1]), alpha),
    }
    for name, estimate in others.items():
        gap, changed = error(estimate) - error(best), float(((estimate - best) ** 2).mean())
        assert 0.5 * changed < gap < 1.5 * changed, name


# ---- DiffEdit on it ------------------------------------------------------------------------------


def edited(pictures, fits, picture, mask=None, **changes):
    """The edit of a picture [3,H,W] from "a" to "b" in a world of pictures [M,3,H,W]."""
    rows = np.reshape(pictures, (len(pictures), -1)) * np.float32(P.SCALE)
    everything = {"": np.ones(len(pictures), bool)}
    model = P.PerfectModel(P.Atoms.of(rows), everything | fits)
    options = RECIPES["paper"].replace(num_inference_steps=20, background="decoded", **changes)
    shape = picture.shape
    return edit(model, picture[None], "a", ["b"], options, draws(options, [3], shape), mask=mask)[0]


def test_a_world_of_one_picture_is_inverted_exactly():
    """Up and down again with a mask that is everywhere, whatever the guidance."""
    picture = np.random.default_rng(0).uniform(-1, 1, (3, 5, 7)).astype(np.float32)
    both = {"a": np.array([True]), "b": np.array([True])}
    found = edited(picture[None], both, picture, mask=np.ones((1, 5, 7)))
    assert np.abs(found.image[0] - picture).max() < 1e-4
    noise = found.inverted_latents[-1]  # in x_t = sqrt(a) x0 + sqrt(1-a) noise there is none
    assert np.abs(noise).max() < 1.0


def test_a_world_that_holds_the_edit_is_edited_exactly():
    """The mask is where the two pictures differ, the result the other picture."""
    rng = np.random.default_rng(1)
    source = rng.uniform(-1, 1, (3, 9, 11)).astype(np.float32)
    target = source.copy()
    target[:, 3:6, 4:8] *= -1
    unlike = rng.uniform(-1, 1, (4, 3, 9, 11)).astype(np.float32)
    fits = {"a": np.array([1, 0, 1, 1, 0, 0], bool), "b": np.array([0, 1, 0, 0, 1, 1], bool)}
    found = edited(np.stack([source, target, *unlike]), fits, source, mask_threshold=0.05)
    differs = np.zeros((9, 11), bool)
    differs[3:6, 4:8] = True
    assert np.array_equal(found.mask[0] > 0.5, differs)
    assert np.abs(found.image[0] - target).max() < 0.02
    assert np.array_equal(found.image[0][:, ~differs], source[:, ~differs])


def test_equal_rows_are_looked_up_once_and_all_are_answered():
    atoms = world(0, 4, 3 * 2 * 5)
    fits = {"": np.ones(4, bool), "a": np.array([1, 0, 1, 0], bool)}
    model, x = P.PerfectModel(atoms, fits), normal(3, 2, 3, 2, 5)
    order = [0, 1, 0, 0]
    texts = ["a", "", "", "a"]
    states = model.encode_prompts(texts)
    found = model.predict(ms.Tensor(x[order]), 500, states).asnumpy()
    alpha = float(model.alphas[500])
    for row, text, answer in zip(order, texts, found):
        wanted = P.best_eps(x[row].reshape(1, -1), atoms, alpha, fits[text][None])
        assert np.allclose(answer.reshape(-1), wanted[0], atol=1e-5)


# ---- the worlds and the numbers ------------------------------------------------------------------


def test_the_renders_of_a_sentence_say_it():
    """The same ones each time, the first of more of them; one fruit stays one."""
    for scene in (W.sample_scene(W.SEEDS["test"][i]) for i in range(12)):
        some, more = list(P.alike(scene, 5)), list(P.alike(scene, 9))
        assert some == more[:5] and {W.caption(s) for s in more} == {W.caption(scene)}
        assert not {s.seed for s in more} & set(W.SEEDS["test"])
        ground = P.on_its_ground(scene)
        assert scene not in ground and {W.caption(s) for s in ground} == {W.caption(scene)}
        assert {s.seed for s in ground} == {scene.seed} and len(ground) == len(set(ground)) > 1


def test_worlds_hold_what_their_kind_says(tmp_path):
    case = P.cases(1, 32)[0]
    atoms, fits = P.world_of(tmp_path, case, 3, 32, P.others(tmp_path, 4, 32))
    scene, truth = (P.rows_of(P.draw(s, 32)[None])[0] for s in (case.scene, case.edited))
    texts = ["", *map(W.caption, (case.scene, case.edited))]
    assert set(fits) == set(P.KINDS) and all(list(f) == texts for f in fits.values())
    for kind, sentences in fits.items():
        held = [(atoms.points[some] == row).all(1).any() for row, some in zip(
            (scene, truth), list(sentences.values())[1:]
        )]  # fmt: skip
        assert held == [kind == "holds the scene"] * 2
        assert (sentences[""] >= sentences[texts[1]]).all()
        assert not (sentences[texts[1]] & sentences[texts[2]]).any()
        extra = {"holds the scene": 2, "holds its ground": 2 * len(P.on_its_ground(case.scene))}
        assert sentences[""].sum() == 3 + 3 + 4 + extra.get(kind, 0)
    again = P.world_of(tmp_path, case, 3, 32, P.others(tmp_path, 4, 32))[0]
    assert np.array_equal(again.points, atoms.points)


@given(st.integers(1, 6), seeds)
def test_the_best_threshold_is_the_best_of_all(values, seed):
    rng = np.random.default_rng(seed)
    noise_map = rng.integers(0, values, (5, 7)) / 8
    true = rng.random((5, 7)) < 0.4
    true[0, 0] = True
    assert P.best(noise_map, true) == pytest.approx(measures.best_overlap(noise_map, true))


def test_the_committed_results_are_whole():
    """30 edits, each kind of world, each run; none twice."""
    a = P.parser().parse_args([])
    rows = [row for row in P.rows(a.out) if P.matches(row, a)]
    found = [(row["edit"], row["kind"], P.run_of(row)) for row in rows]
    assert len(set(found)) == len(found) == a.edits * len(P.KINDS) * len(P.RUNS)
    assert P.table(rows).count("\n") == 2 + len(P.KINDS) * len(P.RUNS)
