"""The Orchard's world: what its scenes, captions and counterfactuals promise. Pictures are drawn,
no model is needed."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from benchmarks.orchard import layout, paint, world as W
from diffedit_core import tokenizer as T

ANY = st.integers(0, 2**31 - 1)
CHANGES = st.fixed_dictionaries(
    {},
    optional={"fruit": st.sampled_from((*W.FRUITS,)), "container": st.sampled_from(W.CONTAINERS)},
)


def everything():
    """One scene of each combination of words."""
    for fruit, container, background in itertools.product(
        (*W.FRUITS, W.MIXED), W.CONTAINERS, W.BACKGROUNDS
    ):
        for count, place in itertools.product(W.COUNTS, W.PLACES):
            if not (fruit == W.MIXED and count == 1):
                yield W.Scene(fruit, container, background, count, place, 0)


# ---- scenes --------------------------------------------------------------------------------------


def test_the_world_is_as_rich_as_it_has_to_be():
    """Eight fruits, two pairs of one colour and two shapes, two of one shape and two colours; four
    containers, six grounds."""
    looks = [(colour, shape) for colour, shape, _ in W.FRUITS.values()]
    assert len(set(looks)) == len(looks) >= 8
    pairs = list(itertools.combinations(looks, 2))
    assert sum(a[0] == b[0] and a[1] != b[1] for a, b in pairs) >= 2
    assert sum(a[1] == b[1] and a[0] != b[0] for a, b in pairs) >= 2
    assert len(W.CONTAINERS) == 4 and len(W.BACKGROUNDS) == 6


def test_splits_share_no_seed():
    for a, b in itertools.combinations(W.SEEDS.values(), 2):
        assert not set(a) & set(b)


def test_held_out_combinations_never_occur_but_their_parts_do():
    seen = [W.sample_scene(seed) for seed in range(4000)]
    assert not {scene.combination for scene in seen} & W.HELD_OUT
    assert {scene.combination for scene in seen} | W.HELD_OUT >= set(
        itertools.product(W.FRUITS, W.CONTAINERS, W.BACKGROUNDS)
    )
    for part in range(3):
        assert {c[part] for c in W.HELD_OUT} <= {scene.combination[part] for scene in seen}


@given(ANY)
def test_held_out_scenes_are_held_out(seed):
    assert W.sample_scene(seed, held_out=True).combination in W.HELD_OUT


@given(ANY)
def test_a_seed_is_one_scene_and_one_picture(seed):
    scene = W.sample_scene(seed)
    assert scene == W.sample_scene(seed)
    (first, masks), (second, again) = W.render(scene), W.render(scene)
    assert np.array_equal(first, second) and all(
        np.array_equal(masks[name], again[name]) for name in masks
    )


@pytest.mark.parametrize(
    "part, value",
    [
        ("fruit", "melon"),
        ("container", "cup"),
        ("background", "snow"),
        ("count", 6),
        ("place", "top"),
    ],
)
def test_what_is_not_in_the_world_is_refused_by_name(part, value):
    with pytest.raises(ValueError, match=str(value)):
        dataclasses.replace(W.sample_scene(3), **{part: value})


def test_one_fruit_is_not_mixed():
    with pytest.raises(ValueError, match="mixed"):
        W.Scene(W.MIXED, "bowl", "sand", 1, "left", 0)


@given(ANY)
def test_mixed_fruits_are_of_two_kinds_at_least(seed):
    scene = dataclasses.replace(W.sample_scene(seed), fruit=W.MIXED, count=2 + seed % 4)
    found = W.kinds(scene)
    assert len(found) == scene.count and len(set(found)) >= 2


# ---- counterfactuals -----------------------------------------------------------------------------


@given(ANY, CHANGES)
def test_a_counterfactual_changes_the_objects_and_nothing_else(seed, changes):
    """Outside what either picture shows of fruit, container and their shadows, all pixels are
    equal, noise included."""
    scene = W.sample_scene(seed)
    edited = W.counterfactual(scene, **changes)
    (before, masks), (after, others) = W.render(scene), W.render(edited)
    objects = np.logical_or.reduce([*masks.values(), *others.values()])
    assert np.array_equal(before[~objects], after[~objects])
    mask = W.true_mask(before, after)
    assert not (mask & ~objects).any()
    assert mask.any() == (edited != scene)


@given(ANY, st.sampled_from(W.BACKGROUNDS))
def test_another_ground_leaves_the_objects_where_they_are(seed, background):
    """A single fruit without a stem: between several, and beside a stem, the ground shines
    through."""
    scene = dataclasses.replace(
        W.sample_scene(seed), fruit=("orange", "lemon", "lime")[seed % 3], count=1
    )
    (before, masks), (after, others) = W.render(scene), W.render(
        W.counterfactual(scene, background=background)
    )
    assert all(np.array_equal(masks[name], others[name]) for name in ("fruit", "container"))
    inner = eroded(masks["fruit"] & ~masks["container"], 2)
    assert inner.sum() > 20
    assert np.array_equal(before[inner], after[inner])


def eroded(mask, times):
    """The pixels whose neighbours are all in the mask, `times` times over."""
    for _ in range(times):
        padded = np.pad(mask, 1)
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


@given(ANY)
def test_true_mask_is_symmetric_and_empty_for_equal_pictures(seed):
    a, b = W.render(W.sample_scene(seed))[0], W.render(W.sample_scene(seed + 1))[0]
    assert np.array_equal(W.true_mask(a, b), W.true_mask(b, a))
    assert not W.true_mask(a, a).any()


@given(ANY, st.sampled_from((8, 16)))
def test_the_grid_holds_a_mask_and_no_empty_cell(seed, factor):
    mask = np.random.default_rng(seed).random((48, 80)) < 0.01
    cells = W.on_grid(mask, factor)
    assert cells.shape == (48 // factor, 80 // factor)
    assert (np.kron(cells, np.ones((factor, factor), bool)) >= mask).all()
    for row, column in np.argwhere(cells):
        assert mask[
            row * factor : (row + 1) * factor, column * factor : (column + 1) * factor
        ].any()


@given(ANY, st.sampled_from(W.EDITS))
def test_an_edit_changes_what_its_name_says(seed, kind):
    scene = W.sample_scene(seed)
    edited = W.random_edit(scene, kind)
    assert edited == W.random_edit(scene, kind)
    assert (edited.fruit != scene.fruit) == (kind != "container") and (
        edited.container != scene.container
    ) == (kind != "fruit")
    assert edited.background == scene.background and edited.count == scene.count


# ---- what is drawn -------------------------------------------------------------------------------


@given(ANY)
def test_every_object_is_seen(seed):
    scene = W.sample_scene(seed)
    picture, masks = W.render(scene)
    assert picture.shape == (W.SIZE, W.SIZE, 3) and picture.dtype == np.uint8
    assert masks["fruit"].sum() > 60 * scene.count
    assert (masks["container"].sum() > 400) == (scene.container != "none")


@given(ANY)
@settings(max_examples=8)
def test_a_scene_is_the_same_scene_at_both_sizes(seed):
    """The larger picture averaged down is the smaller one, up to what finer sampling tells of the
    edges; the objects are in the same places. Another scene is far away. Blades of grass are
    polygons, which Pillow draws about half a sample too wide: two grey levels darker when finer."""
    scene = W.sample_scene(seed)
    (small, masks), (large, others) = [W.render(scene, size) for size in W.SIZES]
    error = averaged(large) - small
    grass = scene.background == "green grass"
    assert np.sqrt((error**2).mean()) < (5 if grass else 4)
    assert abs(error.mean()) < (2.5 if grass else 0.3)
    other = W.render(W.sample_scene(seed + 1))[0]
    assert np.sqrt(((averaged(large) - other) ** 2).mean()) > 8
    for name in ("fruit", "container"):
        shares = averaged(others[name][..., None].astype(np.float64))[..., 0]
        assert not (shares > 0)[~grown(grown(masks[name]))].any()
        if masks[name].any():
            assert shares[masks[name]].mean() > 0.9


def averaged(picture):
    """The means of squares of two pixels: [2H,2W,C] -> [H,W,C]."""
    height, width, channels = picture.shape
    return picture.reshape(height // 2, 2, width // 2, 2, channels).mean((1, 3))


def grown(mask):
    """The mask and its neighbours."""
    return ~eroded(~mask, 1)


@given(ANY, CHANGES)
@settings(max_examples=8)
def test_a_counterfactual_changes_the_objects_only_at_the_larger_size_too(seed, changes):
    scene = W.sample_scene(seed)
    (before, masks), (after, others) = [
        W.render(s, max(W.SIZES)) for s in (scene, W.counterfactual(scene, **changes))
    ]
    objects = np.logical_or.reduce([*masks.values(), *others.values()])
    assert np.array_equal(before[~objects], after[~objects])


def test_another_size_is_refused():
    with pytest.raises(ValueError, match="200"):
        W.render(W.sample_scene(0), 200)


@given(ANY)
@settings(max_examples=8)
def test_the_light_moves_no_object(seed):
    """It falls from another side: shading and shadows change, shapes and places do not."""
    scene = W.sample_scene(seed)
    low = dataclasses.replace(scene, light="low")
    (usual, masks), (other, others) = W.render(scene), W.render(low)
    assert all(np.array_equal(masks[name], others[name]) for name in ("fruit", "container"))
    assert (usual != other)[masks["fruit"]].mean() > 0.5
    assert W.captions(scene) == W.captions(low)


@pytest.mark.parametrize("density", (1, 2))
@pytest.mark.parametrize("background", (*W.BACKGROUNDS, *W.NEW_BACKGROUNDS))
def test_textures_continue_over_their_edges(background, density):
    """The step across the edge is no larger than the largest within: any offset gives an unbroken
    ground."""
    tile = paint.texture(background, density)
    assert tile.shape == (density * W.SIZE, density * W.SIZE, 3)
    for axis in (0, 1):
        steps = np.abs(np.diff(tile, axis=axis)).mean((1 - axis, 2))
        seam = np.abs(np.take(tile, 0, axis) - np.take(tile, -1, axis)).mean()
        assert seam <= 1.1 * steps.max(), background
    assert 0 <= tile.min() and tile.max() <= 255 and tile.std() > 3


# ---- captions ------------------------------------------------------------------------------------


def read_caption(text):
    """The facts that a caption states; a reader written from the language, not from the writer."""
    words = text.split()
    numbers = {word: n for n, word in W.NUMBERS.items()}
    names = {plural: name for name, plural in W.PLURALS.items()} | {name: name for name in W.FRUITS}
    facts = {
        "fruit": next(names[w] for w in words if w in names),
        "container": next((c for c in W.CONTAINERS if c in words), "none"),
        "background": next(b for b in W.BACKGROUNDS if f"on {b}" in text),
    }
    place = [p for p in W.PLACES if words[-1] == p]
    singular = [1 for w in words if w in W.FRUITS]
    count = singular + [numbers[w] for w in words if w in numbers]
    return facts | ({"place": place[0]} if place else {}) | ({"count": count[0]} if count else {})


def test_captions_say_what_the_scene_is():
    for scene in everything():
        stated = [read_caption(text) for text in W.captions(scene)]
        for facts in stated:
            assert all(getattr(scene, name) == value for name, value in facts.items()), (
                scene,
                facts,
            )
        assert {"fruit", "container", "background"} <= set.intersection(*map(set, stated))
        assert {"place", "count"} <= set.union(*map(set, stated))


def test_captions_of_different_scenes_differ():
    """With place and count stated, a caption belongs to one scene only."""
    known = {}
    for scene in everything():
        assert known.setdefault(W.captions(scene)[6], scene) == scene


def test_the_guides_own_captions_are_in_the_language():
    scene = W.Scene(W.MIXED, "bowl", "a wooden table", 4, "left", 0)
    assert W.caption(scene) == "a bowl of fruits on a wooden table"
    edited = W.counterfactual(scene, fruit="pear", container="basket")
    assert W.caption(edited) == "a basket of pears on a wooden table"
    assert "two lemons on a plate on green grass" in W.captions(
        W.Scene("lemon", "plate", "green grass", 2, "left", 0)
    )
    apples = W.Scene("apple", "bowl", "a wooden table", 3, "left", 0)
    assert "a bowl of apples on a wooden table on the left" in W.captions(apples)


def test_every_word_is_one_token(tmp_path):
    """And a text of other letters can still be written and told apart."""
    layout.write_tokenizer(tmp_path)
    tokenizer = T.load(tmp_path)
    vocabulary = tokenizer.library.get_vocab()
    for word in layout.words():
        ids = T.encode(tokenizer, word)[0]
        assert ids[1] == vocabulary[word + "</w>"] and ids[2] == tokenizer.eos, word
    others = ["zebra", "a quince", "Äpfel", "梨"]
    assert len({tuple(T.encode(tokenizer, text)[0]) for text in others}) == len(others)
