"""diffedit_core.window: the smallest rectangle around a mask, what is cut out and put back, and a
decoding that sees no more."""

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffedit_core import edit as stages
from diffedit_core import walk
from diffedit_core.errors import InputError
from diffedit_core.integrators import INTEGRATORS, State
from diffedit_core.options import RECIPES
from diffedit_core.parts import Parts
from diffedit_core.window import Window, around, crop, described, paste, share

from .closed_forms import SHAPE, FakeModel, Predictor, back, edited, equal, latents_of, normal
from .closed_forms import run_of, states, there, wave_field

FAR = 4  # margins up to this

# --- where it is ----------------------------------------------------------------------------------

margins = st.integers(0, FAR)
multiples = st.sampled_from((1, 2, 3, 4, 8))


@st.composite
def masks(draw, most=17):
    """[h,w] with a few cells above 0, at least one."""
    h, w = draw(st.integers(1, most)), draw(st.integers(1, most))
    mask = np.zeros((h, w))
    cells = st.tuples(st.integers(0, h - 1), st.integers(0, w - 1), st.sampled_from((0.25, 1)))
    for row, column, value in draw(st.lists(cells, min_size=1, max_size=4)):
        mask[row, column] = value
    return mask


def ends(mask, axis):
    """(the first, the one after the last) row or column that the mask touches."""
    found = np.nonzero(mask)[axis]
    return found.min(), found.max() + 1


def sides(found):
    """((start, length) of the rows, of the columns)."""
    return (found.top, found.height), (found.left, found.width)


@given(masks(), margins, multiples)
def test_a_window_holds_the_mask_and_its_margin_and_no_side_could_be_shorter(mask, margin, m):
    for axis, (start, length) in enumerate(sides(around(mask, margin, m))):
        size, (low, high) = mask.shape[axis], ends(mask, axis)
        wanted = set(range(max(0, low - margin), min(size, high + margin)))

        def holds(start, length, wanted=wanted, size=size):
            fits = 0 <= start and start + length <= size
            return fits and wanted <= set(range(start, start + length))

        assert holds(start, length)
        able = [n for n in range(1, size + 1) if n % m == 0 or n == size]
        assert length == min(n for n in able if any(holds(s, n) for s in range(size)))


@given(masks(), margins, multiples)
def test_what_a_window_is_too_long_is_divided_between_both_ends(mask, margin, m):
    for axis, (start, length) in enumerate(sides(around(mask, margin, m))):
        size, (low, high) = mask.shape[axis], ends(mask, axis)
        before, after = max(0, low - margin) - start, start + length - min(size, high + margin)
        assert 0 <= after - before <= 1 or start == 0 or start + length == size


@given(masks(9), margins, multiples)
def test_a_window_moves_with_its_mask_and_is_transposed_with_it(mask, margin, m):
    top, left, height, width = around(mask, margin, m)
    assert around(mask.T, margin, m) == Window(left, top, width, height)
    room = FAR + m
    wide = np.pad(mask, ((room, room + 3), (room, room + 5)))
    free, moved = around(wide, margin, m), around(np.roll(wide, (3, 5), (0, 1)), margin, m)
    assert moved == free._replace(top=free.top + 3, left=free.left + 5)


@given(masks(), margins, multiples)
def test_a_larger_margin_gives_a_larger_window(mask, margin, m):
    """Side by side, not cell by cell: the surplus of a smaller one may lie elsewhere."""
    small, large = around(mask, margin, m), around(mask, margin + 1, m)
    assert large.height >= small.height and large.width >= small.width
    assert share(mask, margin, m) <= share(mask, margin + 1, m) <= share(mask, None) == 1


def test_a_window_by_hand():
    mask = np.zeros((16, 24))
    mask[5:8, 20] = mask[6, 3] = 0.25
    assert around(mask, 0) == Window(5, 3, 3, 18)
    assert around(mask, 2) == Window(3, 1, 7, 22)
    assert around(mask, 2, 4) == Window(3, 0, 8, 24) and share(mask, 2, 4) == 0.5
    assert around(mask[:, :19], 1, 4) == Window(5, 2, 4, 4), "one part of two"
    assert around(mask[:7], 3, 8) == Window(0, 0, 7, 24), "a side that is no multiple, as it is"
    assert around(0 * mask, 2) is None and share(0 * mask, 2) == 0 and share(0 * mask, None) == 1
    assert described(mask, 1, 2) == "20x6 of 24x16 cells" and described(0 * mask, 1) == "no cells"


# --- cut out and put back -------------------------------------------------------------------------


@given(st.data(), st.integers(1, 6), st.integers(1, 7))
def test_crop_and_paste_agree_with_their_definition(data, h, w):
    height, width = data.draw(st.integers(1, h)), data.draw(st.integers(1, w))
    top, left = data.draw(st.integers(0, h - height)), data.draw(st.integers(0, w - width))
    found = Window(top, left, height, width)
    x, piece = normal(1, 2, 3, h, w), normal(2, 2, 3, height, width)
    wanted = x.copy()
    wanted[..., top : top + height, left : left + width] = piece
    pasted = paste(ms.Tensor(piece), ms.Tensor(x), found)
    assert np.array_equal(pasted.asnumpy(), wanted)
    assert np.array_equal(crop(pasted, found).asnumpy(), piece)
    assert np.array_equal(paste(crop(ms.Tensor(x), found), ms.Tensor(x), found).asnumpy(), x)


# --- a decoding in windows ------------------------------------------------------------------------

MASK = np.zeros((3, 5, 7))  # a corner, soft; two parts; nothing
MASK[0, 0, 0], MASK[0, 1, 1] = 0.375, 1
MASK[1, 2, 1], MASK[1, 4, 4] = 1, 0.5
WINDOWS = {0: [(2, 2), (3, 4)], 1: [(3, 3), (4, 6)]}  # margin -> sides of the first two
THREE = (3, *SHAPE[1:])


def across(x, timestep, state):
    """A prediction that looks at every cell of its picture."""
    return wave_field(x, timestep, state) + np.sin(x.mean((2, 3), keepdims=True))


def walked(field, mask=MASK, batch=3, steps=5, **changes):
    """(the states of a decoding, the predictor, the states of its inversion)."""
    predict, x0 = Predictor(field), 0.5 * normal(31, *THREE)[:batch]
    run = run_of(predict, steps, 10, inversion_prompt="source", **changes)
    trail = there(run, x0, states(*[0.25] * batch), states(*[0.0] * batch))
    predict.calls.clear()
    predict.reused.clear()
    text, away = states(*(0.5, 0.75, 1.0)[:batch]), states(*(-0.25, 0.0, 0.25)[:batch])
    return list(stages.decode(run, text, trail, ms.Tensor(mask), away)), predict, trail


def same(one, other):
    """Whether two states have the same latents and coupled latents, bit for bit."""
    if (one.coupled is None) != (other.coupled is None):
        return False
    pairs = [(one.latents, other.latents), (one.coupled, other.coupled)]
    return all(np.array_equal(a.asnumpy(), b.asnumpy()) for a, b in pairs if a is not None)


@pytest.mark.parametrize("margin", WINDOWS)
@pytest.mark.parametrize("background", ("same", "noisier"))
@pytest.mark.parametrize("name", INTEGRATORS)
def test_where_the_model_looks_at_single_cells_a_window_changes_nothing(name, background, margin):
    """Every state of every integrator, its coupled latent included; and the model is asked about
    the windows only, each picture's own."""
    asked = {"integrator": name, "blend_level": background, "guidance_scale": 2.5}
    wanted, whole, _ = walked(wave_field, **asked)
    found, predict, trail = walked(wave_field, decode_window=margin, **asked)
    assert len(found) == len(wanted) == 6 and all(map(same, found, wanted))
    shapes = [x.shape[2:] for _, x, _ in predict.calls]
    assert sorted(shapes) == sorted(WINDOWS[margin] * len(whole.calls))
    assert predict.rows == 2 * whole.rows // 3, "of two pictures in three"
    last = trail[0 if background == "same" else 1].latents.asnumpy()
    assert np.array_equal(found[-1].latents.asnumpy()[2], last[2]), "an empty mask"


@pytest.mark.parametrize("every", (2, 3))
def test_features_are_reused_in_a_window_as_in_the_whole(every):
    wanted, whole, _ = walked(wave_field, reuse_features=every)
    found, predict, _ = walked(wave_field, reuse_features=every, decode_window=1)
    assert all(map(same, found, wanted))
    assert predict.reused == [reused for reused in whole.reused for _ in range(2)]


@pytest.mark.parametrize("name", ("ddim", "dpmpp_2m", "edict"))
def test_a_window_is_the_decoding_of_what_it_shows(name):
    """Where the model looks at more than a cell: that of the cut trail and mask, alone."""
    found, _, trail = walked(across, decode_window=1, integrator=name)
    whole = walked(across, integrator=name)[0][-1].latents.asnumpy()
    for b, text, away in ((0, 0.5, -0.25), (1, 0.75, 0.0)):
        place = around(MASK[b], 1)
        rows, columns = np.s_[place.top : place.top + place.height], np.s_[
            place.left : place.left + place.width
        ]  # fmt: skip

        def cut(x, b=b, rows=rows, columns=columns):
            return None if x is None else ms.Tensor(x.asnumpy()[b : b + 1, ..., rows, columns])

        own = [State(cut(s.latents), cut(s.coupled)) for s in trail]
        run = run_of(Predictor(across), 5, 10, integrator=name)
        alone = back(run, own, MASK[b : b + 1, rows, columns], states(text), states(away))
        wanted = trail[0].latents.asnumpy()[b].copy()
        wanted[:, rows, columns] = alone[0]
        assert np.array_equal(found[-1].latents.asnumpy()[b], wanted)
        assert np.abs(whole[b] - wanted).max() > 1e-3, "or the window would not be seen"


@pytest.mark.parametrize("background", ("same", "noisier"))
def test_a_picture_does_not_depend_on_its_neighbours(background):
    together = walked(across, decode_window=1, blend_level=background)[0]
    first = walked(across, MASK[:1], 1, decode_window=1, blend_level=background)[0]
    for one, other in zip(together, first):
        assert np.array_equal(one.latents.asnumpy()[:1], other.latents.asnumpy())


@pytest.mark.parametrize("name", INTEGRATORS)
def test_a_window_of_everything_is_the_whole_batch_at_once(name):
    """Bit for bit, the calls included: where the masks reach everywhere, or the margin does."""
    for mask, margin in (
        (0.5 + 0 * MASK, 0),
        (np.where(MASK.any((1, 2), keepdims=True), MASK, 1), 7),
    ):
        wanted, whole, _ = walked(across, mask, integrator=name)
        found, predict, _ = walked(across, mask, integrator=name, decode_window=margin)
        assert all(map(same, found, wanted)) and len(predict.calls) == len(whole.calls)
        assert all(map(np.array_equal, *[[x for _, x, _ in p.calls] for p in (predict, whole)]))


@pytest.mark.parametrize("background", ("same", "noisier"))
def test_empty_masks_are_not_decoded(background):
    found, predict, trail = walked(across, 0 * MASK, decode_window=2, blend_level=background)
    levels = (5, 4, 3, 2, 1, 0) if background == "same" else (5, 5, 4, 3, 2, 1)
    assert predict.calls == []
    assert np.array_equal(latents_of(found), latents_of(trail)[list(levels)])


def test_a_step_with_noise_of_its_own_needs_every_cell():
    trail, run = normal(4, 6, *SHAPE), run_of(Predictor(wave_field), 5, decode_window=1)
    step = walk.stochastic_ddim(0.5, ms.Tensor(normal(5, 5, *SHAPE)), 5)
    with pytest.raises(InputError, match="decode_window is of steps without noise.*leave it out"):
        back(run, trail, MASK[:2], states(1, 0.5), states(0, 0), step=step)


# --- the whole edit -------------------------------------------------------------------------------


class Looking(FakeModel):
    """Notes how many cells each prediction of the decoding saw."""

    def predict(self, x, timestep, states):
        if self.phase == "decoding":
            self.cells = [*getattr(self, "cells", ()), x.shape[2:]]
        return super().predict(x, timestep, states)


def smooth_field(x, timestep, state):
    """A prediction of any number of cells, in which the neighbours are heard."""
    return np.sin(x) * 0.125 + state * 0.25 + x.mean((2, 3), keepdims=True) + timestep / 4096


GIVEN = np.zeros((1, 6, 8))
GIVEN[0, 1:3, 4:7] = 1
QUICK = {"num_inference_steps": 5, "num_maps": 2}


@pytest.mark.parametrize("recipe", ("paper", "smooth", "diffusers"))
def test_an_edit_in_a_window_asks_as_often_about_fewer_cells(recipe):
    """Sides that the UNet can halve as often as it does: once, in this model."""
    options = RECIPES[recipe].replace(**QUICK)
    whole, (before,) = edited(options, model=Looking(smooth_field), mask=GIVEN)
    for margin, sides_ in ((0, (2, 4)), (1, (4, 6)), (2, (6, 6)), (4, (6, 8))):
        asked = options.replace(decode_window=margin)
        model, (after,) = edited(asked, model=Looking(smooth_field), mask=GIVEN)
        assert set(model.cells) == {sides_} and len(model.cells) == len(whole.cells)
        outside = np.broadcast_to(GIVEN == 0, after.decoded_latents.shape)
        assert np.array_equal(after.decoded_latents[outside], before.decoded_latents[outside])
        assert equal(after, before) == (sides_ == (6, 8))


def test_each_target_has_the_window_of_its_mask():
    options = RECIPES["paper"].replace(**QUICK, decode_window=0)
    sizes = iter(((2, 2), (4, 6)))

    def to_mask(noise_map):
        height, width = next(sizes)
        mask = np.zeros(noise_map.shape, np.float32)
        mask[:, 1 : 1 + height, 1 : 1 + width] = 1
        return ms.Tensor(mask)

    model = Looking(lambda x, t, s: smooth_field(x, t, s) + 0.1 * s * x)
    edited(
        options, targets=("a", "b"), model=model, parts=Parts.of(options)._replace(to_mask=to_mask)
    )
    assert [*dict.fromkeys(model.cells)] == [(2, 2), (4, 6)]
