"""diffedit_core.parts: replaced functions are the ones that run; batches of different sentences."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffedit_core import integrators, schedule
from diffedit_core import parts as edit_parts
from diffedit_core.integrators import INTEGRATORS
from diffedit_core.options import RECIPES
from diffedit_core.parts import Parts, everywhere, noised

from .closed_forms import OBJECT, SHORT, FakeModel, column, draws_of, edited, equal, picture
from .closed_forms import wavy_on_the_object
from .strategies import SD21

PAPER = RECIPES["paper"].replace(**SHORT)


def parts(**replaced):
    return Parts.of(PAPER)._replace(**replaced)


def test_sdedit_is_a_noised_trail_and_a_mask_that_is_everywhere():
    """By hand: x_K = sqrt(a_K) x0 + sqrt(1-a_K) noise, then DDIM down with guidance."""
    model, (found,) = edited(
        PAPER,
        batch=2,
        model=FakeModel(wavy_on_the_object),
        parts=parts(trail=noised, to_mask=everywhere),
    )
    levels, steps = schedule.levels(SD21, 10), PAPER.num_encode_steps
    x0 = picture(2)[:, :, ::2, ::2].astype(np.float64) / 2
    alpha = levels.alphas[steps]
    x = math.sqrt(alpha) * x0 + math.sqrt(1 - alpha) * draws_of(PAPER, 2).posterior
    for i in range(steps, 0, -1):
        timestep = int(levels.timesteps[i])
        without, with_target = (
            wavy_on_the_object(x, timestep, column(FakeModel.PROMPTS[s])) for s in ("", "a")
        )
        eps = without + 7.5 * (with_target - without)
        clean = (x - math.sqrt(1 - levels.alphas[i]) * eps) / math.sqrt(levels.alphas[i])
        a = levels.alphas[i - 1]
        x = math.sqrt(a) * clean + math.sqrt(1 - a) * eps
    assert np.abs(found.decoded_latents - x).max() < 1e-4 * np.abs(x).max()
    assert found.noise_map is None and (found.mask == 1).all()
    assert {phase for phase, _, _ in model.calls} == {"decoding"}, "no map and no inversion"


def test_a_noised_trail_has_one_noise_at_every_level():
    _, (found,) = edited(PAPER, parts=parts(trail=noised))
    x0, noise = picture()[:, :, ::2, ::2] / 2, draws_of(PAPER).posterior
    alphas = schedule.levels(SD21, 10).alphas
    assert np.array_equal(found.inverted_latents[0], x0)
    for x, alpha in list(zip(found.inverted_latents, alphas))[1:]:
        assert np.abs(x - math.sqrt(alpha) * x0 - math.sqrt(1 - alpha) * noise).max() < 1e-6


def test_a_replaced_difference_makes_the_map():
    def first_channel(target, source):
        return (target - source)[..., 0, :, :] * 5

    _, (found,) = edited(PAPER, parts=parts(difference=first_channel))
    assert np.abs(found.noise_map - 5 * OBJECT).max() < 1e-5
    assert np.abs(edited(PAPER)[1][0].noise_map - OBJECT).max() < 1e-5


def test_a_replaced_mask_is_the_one_that_is_used():
    _, (found,) = edited(PAPER, parts=parts(to_mask=lambda noise_map: 1 - noise_map))
    assert np.abs(found.mask - (1 - OBJECT)).max() < 1e-5


def test_a_replaced_blend_is_called_after_every_step():
    seen = []

    def mine(edited, background, mask):
        seen.append(background.latents.asnumpy())
        return edited

    _, (found,) = edited(PAPER, parts=parts(blend=mine))
    assert np.array_equal(seen, found.inverted_latents[-2::-1])
    outside = np.broadcast_to(OBJECT == 0, found.decoded_latents.shape)
    assert not np.array_equal(found.decoded_latents[outside], found.inverted_latents[0][outside])


def test_a_replaced_step_goes_up_and_down():
    seen = []

    def mine(denoise, state, levels, i, j):
        seen.append((i, j))
        return integrators.edict(denoise, state, levels, i, j)

    _, found = edited(PAPER, parts=parts(step=mine))
    steps = range(PAPER.num_encode_steps)
    assert seen == [(i, i + 1) for i in steps] + [(i + 1, i) for i in reversed(steps)]
    _, wanted = edited(PAPER.replace(integrator="edict"))
    assert equal(found[0], wanted[0])


def test_parts_of_equal_options_are_equal():
    """So that a cache knows them again; options of other stages do not matter to the mask."""
    one, other = Parts.of(PAPER), Parts.of(PAPER.replace())
    assert one == other and hash(one) == hash(other)
    assert Parts.of(PAPER.replace(guidance_scale=3.0)).to_mask == one.to_mask
    assert Parts.of(PAPER.replace(mask_threshold=0.4)).to_mask != one.to_mask


# --- batches --------------------------------------------------------------------------------------

ROWS = (("source", "a", "negative"), ("b", "c", ""), ("a", "d", "source"))


def one_by_one(options, rows, **more):
    """The edits of each picture alone, with its own seed, sentences and pixels."""
    from diffedit_core import edit as stages

    for b, (source, target, negative) in enumerate(rows):
        model = FakeModel(wavy_on_the_object)
        image, draws = picture(len(rows))[b : b + 1], draws_of(options, 1, seed=b)
        negatives = dict.fromkeys(("negative", "mask_negative", "inversion_negative"), negative)
        own = {name: value[b : b + 1] for name, value in more.items()}
        yield stages.edit(model, image, source, [target], options, draws, **negatives, **own)[0]


def together(options, rows, **more):
    sources, targets, negatives = (list(column) for column in zip(*rows))
    all_negatives = dict.fromkeys(("negative", "mask_negative", "inversion_negative"), negatives)
    model = FakeModel(wavy_on_the_object)
    return edited(options, sources, [targets], len(rows), model=model, **all_negatives, **more)[1][
        0
    ]


@given(st.sampled_from(tuple(RECIPES)), st.sampled_from(tuple(INTEGRATORS)), st.permutations(ROWS))
def test_rows_with_sentences_of_their_own_equal_the_edits_one_by_one(recipe, integrator, rows):
    """Bit for bit, in any order of the batch."""
    options = RECIPES[recipe].replace(
        num_inference_steps=5, num_maps=2, clamp_over="image", integrator=integrator
    )
    found = together(options, rows)
    for b, alone in enumerate(one_by_one(options, rows)):
        assert np.array_equal(found.noise_map[b], alone.noise_map[0])
        assert np.array_equal(found.mask[b], alone.mask[0])
        assert np.array_equal(found.inverted_latents[:, b], alone.inverted_latents[:, 0])
        assert np.array_equal(found.decoded_latents[b], alone.decoded_latents[0])
        assert np.array_equal(found.image[b], alone.image[0])


@pytest.mark.parametrize("empty", ((0,), (1,), (0, 2)))
def test_rows_with_an_empty_mask_return_the_input(empty):
    """Exactly, though the round trip through the latents would not; the others are edited."""
    rows = [("source", "source", "") if b in empty else row for b, row in enumerate(ROWS)]
    found = together(PAPER, rows)
    for b in range(3):
        assert found.mask[b].any() != (b in empty)
        assert np.array_equal(found.image[b], picture(3)[b]) == (b in empty)
    assert not found.unchanged


def test_rows_with_an_empty_given_mask_return_the_input():
    mask = np.zeros((3, 6, 8), np.float32)
    mask[1] = OBJECT
    found = together(PAPER, ROWS, mask=mask)
    assert [np.array_equal(a, b) for a, b in zip(found.image, picture(3))] == [True, False, True]
    assert found.noise_map is None


def test_inverted_and_noised_begin_with_the_picture():
    assert Parts.of(PAPER).trail is edit_parts.inverted
    for trail in (edit_parts.inverted, edit_parts.noised):
        _, (found,) = edited(PAPER, parts=parts(trail=trail))
        assert found.inverted_latents.shape[0] == PAPER.num_encode_steps + 1
        assert np.array_equal(found.inverted_latents[0], picture()[:, :, ::2, ::2] / 2)
