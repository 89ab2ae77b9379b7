"""The whole edit of diffedit_core.edit, with a model in closed form."""

import math
import warnings

import mindspore as ms
import numpy as np
import pytest

from diffedit_core import edit as stages
from diffedit_core import regularise, schedule, walk
from diffedit_core.options import RECIPES, Options
from diffedit_core.parts import Parts, Run

from . import reference
from .closed_forms import OBJECT, SHORT, FakeModel, back, draws_of, edited, equal, latents_of
from .closed_forms import on_the_object, picture, there
from .strategies import PREDICTION_TYPES, SD21

PAPER, DIFFUSERS = RECIPES["paper"], RECIPES["diffusers"]
BOTH = pytest.mark.parametrize("recipe", ("paper", "diffusers"))


def short(recipe, **changes):
    return RECIPES[recipe].replace(**SHORT, **changes)


def value(name, batch=1):
    """Text states of a sentence."""
    return ms.Tensor(np.full((batch, 1, 1), FakeModel.PROMPTS[name], np.float32))


@BOTH
def test_edit_finds_the_object_and_leaves_the_rest(recipe):
    model, (result,) = edited(short(recipe), batch=2)
    assert np.array_equal(result.mask, np.broadcast_to(OBJECT, (2, 6, 8))) and not result.unchanged
    assert result.noise_map.shape == (2, 6, 8) and result.image.shape == (2, 3, 12, 16)
    decoded, trail = result.decoded_latents, result.inverted_latents
    assert trail.shape == (9, 2, 3, 6, 8) and decoded.shape == (2, 3, 6, 8)
    outside = np.broadcast_to(OBJECT == 0, decoded.shape)
    background = trail[0 if recipe == "paper" else 1]
    assert np.array_equal(decoded[outside], background[outside])
    assert np.abs(decoded - background)[~outside].min() > 1e-3
    assert np.array_equal(result.image[:, :, ::2, ::2], 2 * decoded)
    lost = short(recipe).background == "restored"  # the source encoded and decoded, too
    assert model.encoded == 1 and model.decoded == 1 + lost


@BOTH
def test_edit_composes_the_stages(recipe):
    """Its latents are those of `trail` and `decode` called by hand with the right sentences."""
    options = short(recipe)
    negatives = {"negative": "negative", "inversion_negative": "d"}
    _, (result,) = edited(options, **negatives)
    run = Run(FakeModel().predict, SD21, options, Parts.of(options))
    inverted = value("") if recipe == "paper" else value("source")
    trail = there(run, result.inverted_latents[0], inverted, value("d"))
    decoded = back(run, trail, result.mask, value("a"), value("negative"))
    assert np.array_equal(result.inverted_latents, latents_of(trail))
    assert np.array_equal(result.decoded_latents, decoded)


def test_each_phase_uses_its_own_sentences():
    """Paper: mask source and target, inversion the empty prompt, decoding negative and target.
    Public: a negative of its own in each."""
    a, source, empty = (FakeModel.PROMPTS[p] for p in ("a", "source", ""))
    one, two, three = (FakeModel.PROMPTS[p] for p in ("negative", "c", "d"))
    negatives = {"negative": "negative", "mask_negative": "c", "inversion_negative": "d"}
    public = [two, source, two, a], [three, source], [one, a]
    for recipe, wanted in (("paper", ([source, a], [empty], [one, a])), ("diffusers", public)):
        model, _ = edited(short(recipe), **negatives)
        for phase, sentences in zip(("mask", "inversion", "decoding"), wanted):
            asked = {tuple(s) for p, _, s in model.calls if p == phase}
            assert len(asked) == 1 and sorted(*asked) == sorted(sentences), (recipe, phase)


def test_swapped_sentences_edit_in_the_other_direction():
    """The mask is symmetric in the sentences, the decoding is not."""
    (_, (there_,)), (_, (back_,)) = (
        edited(short("paper"), s, (t,)) for s, t in (("source", "a"), ("a", "source"))
    )
    for name in ("noise_map", "mask", "inverted_latents"):
        assert np.array_equal(getattr(there_, name), getattr(back_, name))
    inside = np.broadcast_to(OBJECT == 1, there_.decoded_latents.shape)
    assert np.abs(there_.decoded_latents - back_.decoded_latents)[inside].min() > 0.1


@BOTH
def test_the_posterior_is_averaged_or_drawn(recipe):
    options = short(recipe)
    first, second = (edited(options, seed=s)[1][0].inverted_latents[0] for s in (0, 1))
    assert np.array_equal(first, second) == (recipe == "paper")
    draws, (result,) = draws_of(options, seed=3), edited(options, seed=3)[1]
    image = picture()[:, :, ::2, ::2]
    wanted = image / 2 + (0 if recipe == "paper" else draws.posterior * math.exp(-1) / 2)
    assert np.abs(result.inverted_latents[0] - wanted).max() < 1e-6


def test_each_map_has_a_sample_of_its_own():
    """Seen through a prediction whose difference is |x_t|: the noise map averages sqrt(a) x0 +
    sqrt(1-a) noise by draws."""
    options = short("diffusers", guidance_scale=1.0)
    model = FakeModel(lambda x, timestep, state: x * state)
    _, (result,) = edited(options, batch=2, model=model, only_mask=True)
    draws = draws_of(options, batch=2)
    clean = picture(2)[:, None, :, ::2, ::2] / 2 + draws.posterior_mask * math.exp(-1) / 2
    alpha = schedule.noise_level(SD21, 0.5, 10)[1]
    x = math.sqrt(alpha) * clean + math.sqrt(1 - alpha) * draws.maps
    assert np.abs(result.noise_map - np.abs(x).mean((1, 2))).max() < 1e-5


# --- nothing to edit ------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", (("source",), ("source", "source")))
@BOTH
def test_identical_sentences_return_the_picture_without_asking_the_model(recipe, targets):
    with pytest.warns(UserWarning, match="source and target are the same prompt"):
        model, results = edited(short(recipe), targets=targets)
    assert model.calls == [] and len(results) == len(targets)
    for result in results:
        assert result.unchanged and not result.mask.any()
        assert np.array_equal(result.image, picture())
        assert result.inverted_latents is None and result.decoded_latents is None


@BOTH
def test_a_map_of_zeros_returns_the_picture(recipe):
    model = FakeModel(lambda x, timestep, state: x * 0.125)
    with pytest.warns(UserWarning, match="no place differs enough"):
        _, (result,) = edited(short(recipe), model=model)
    assert result.unchanged and not result.mask.any()
    assert np.array_equal(result.noise_map, 0 * result.noise_map)
    assert {phase for phase, _, _ in model.calls} == {"mask"}


def test_an_empty_given_mask_returns_the_picture():
    with pytest.warns(UserWarning, match="the given mask is empty"):
        model, (result,) = edited(short("paper"), mask=np.zeros((1, 6, 8)))
    assert result.unchanged and model.calls == []


def test_a_given_mask_is_used_as_it_is_and_not_looked_for():
    mask = np.random.default_rng(1).choice((0, 0.25, 1), (1, 6, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, (result,) = edited(short("paper"), mask=mask)
        edited(short("paper"), targets=("source",), mask=mask)  # the same may be decoded anew
    assert np.array_equal(result.mask, mask) and result.noise_map is None
    assert {phase for phase, _, _ in model.calls} == {"inversion", "decoding"}


def test_one_target_that_changes_nothing_does_not_stop_the_others():
    with pytest.warns(UserWarning, match="'source'.*same prompt"):
        _, results = edited(short("paper"), targets=("source", "a"))
    assert [r.unchanged for r in results] == [True, False]
    assert equal(results[1], edited(short("paper"))[1][0])


def test_only_mask_stops_after_the_masks():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, results = edited(short("paper"), targets=("a", "source"), only_mask=True)
    assert {phase for phase, _, _ in model.calls} == {"mask"} and model.decoded == 0
    assert [r.unchanged for r in results] == [False, True]
    assert np.array_equal(results[0].mask[0], OBJECT)


# --- several targets, what is seen of a run -------------------------------------------------------


@BOTH
def test_several_targets_share_the_inversion_and_equal_separate_edits(recipe):
    options, targets = short(recipe), ("a", "b", "a", "c")
    model, together = edited(options, targets=targets)
    assert len([p for p, _, _ in model.calls if p == "inversion"]) == options.num_encode_steps
    assert model.encoded == 1
    for target, result in zip(targets, together):
        assert equal(result, edited(options, targets=(target,))[1][0]), target


@BOTH
def test_map_batch_changes_nothing(recipe):
    first, *others = [edited(short(recipe, map_batch=m), batch=2)[1][0] for m in (1, 2, 3)]
    assert all(equal(first, one) for one in others)


def test_watching_counts_every_step_of_every_phase_and_changes_nothing():
    model, watched = edited(short("paper"), targets=("a", "b"))
    assert model.watched == [
        ["mask", 3, 3],
        ["inversion", 8, 8],
        ["decoding", 8, 8],
        ["decoding", 8, 8],
    ]
    options = short("paper")
    unseen = stages.edit(FakeModel(), picture(), "source", ["a", "b"], options, draws_of(options))
    assert all(equal(one, other) for one, other in zip(watched, unseen))


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_edit_passes_the_prediction_type_on(kind):
    """To the inversion, whose first step follows the equation, and to the decoding, which equals
    one by hand."""
    _, (result,) = edited(short("paper"), model=FakeModel(prediction_type=kind))
    start, levels = result.inverted_latents[0], schedule.levels(SD21, 10)
    other_kind = next(k for k in PREDICTION_TYPES if k != kind)
    wanted, other = (
        reference.ddim_step(start, start * np.float32(0.125), *levels.alphas[:2], k)
        for k in (kind, other_kind)
    )
    assert np.abs(result.inverted_latents[1] - wanted).max() < 1e-6
    assert np.abs(other - wanted).max() > 1e-5
    decoded, other = (
        back(
            Run(FakeModel().predict, model.configs.scheduler, short("paper"), Parts.of(Options())),
            result.inverted_latents,
            result.mask,
            value("a"),
            value(""),
        )
        for model in (FakeModel(prediction_type=k) for k in (kind, other_kind))
    )
    assert np.array_equal(result.decoded_latents, decoded) and np.abs(other - decoded).max() > 0.1


def test_an_unsolved_inversion_warns():
    model = FakeModel(lambda x, timestep, state: 6 * np.sin(5 * x) + state * OBJECT)
    with pytest.warns(UserWarning, match="fixed-point inversion did not converge"):
        edited(short("paper", integrator="fixed_point"), model=model, mask=np.ones((1, 6, 8)))


# --- regularisation -------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe, ahead", (("paper", 0), ("diffusers", 1)))
def test_a_regularised_edit_uses_its_rolls_in_the_inversion_only(recipe, ahead):
    """Each prediction of the inversion is changed by `regularise` at the level where it was asked;
    no other is."""
    options = RECIPES[recipe].replace(
        num_inference_steps=3,
        num_maps=2,
        encode_ratio=1.0,
        mask_noise_strength=1.0,
        num_reg_steps=1,
        num_auto_corr_rolls=2,
    )
    draws, (result,) = draws_of(options), edited(options)[1]
    levels, model = schedule.levels(SD21, 3), FakeModel()
    pair = value(""), value("" if recipe == "paper" else "source")
    x = ms.Tensor(result.inverted_latents[0])
    for k in range(3):
        timestep = int(levels.timesteps[k + ahead])
        scale = options.inversion_guidance_scale
        (out,) = walk.guided(model.predict, x, timestep, [pair], scale)
        alpha, over = levels.alphas[k + ahead], options.clamp_over
        out = regularise.regularise(out, x, alpha, "epsilon", draws.rolls[k], 20.0, 20.0, over)
        x = schedule.ddim_step(x, out, levels.alphas[k], levels.alphas[k + 1])
        error = np.abs(x.asnumpy() - result.inverted_latents[k + 1]).max()
        assert error < 1e-4 * np.abs(x.asnumpy()).max()
    (plain,) = edited(options.replace(num_reg_steps=0))[1]
    apart = np.abs(plain.inverted_latents - result.inverted_latents)[1:].max((1, 2, 3, 4))
    assert apart.min() > 1e-3
    assert np.array_equal(plain.noise_map, result.noise_map)


def test_the_field_of_these_tests_has_the_object_where_it_says():
    """So that the masks above say something."""
    x = np.zeros((1, 3, 6, 8), np.float32)
    assert np.array_equal(on_the_object(x, 1, 2.0)[0, 0], 2 * OBJECT)
