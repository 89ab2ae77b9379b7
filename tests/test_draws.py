"""diffedit_core.draws: all random numbers of a run, a seed for each picture."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diffedit_core.draws import draws
from diffedit_core.options import Options

from .strategies import seeds

EVERY = Options(num_maps=4, posterior_per_map=True, num_reg_steps=2, num_inference_steps=5)


def arrays(drawn):
    return {name: array for name, array in drawn._asdict().items() if array is not None}


@given(st.lists(st.integers(0, 2**63), min_size=1, max_size=3), st.integers(0, 2**32))
def test_a_pictures_draws_are_those_of_its_seed_in_any_batch(chosen, more):
    """Rolls have the picture in their last axis but one."""
    together = arrays(draws(EVERY, [more, *chosen], (1, 3, 5)))
    assert set(together) == {"maps", "posterior", "posterior_mask", "rolls"}
    for b, seed in enumerate(chosen):
        for name, alone in arrays(draws(EVERY, [seed], (1, 3, 5))).items():
            axis = -2 if name == "rolls" else 0
            assert np.array_equal(together[name].take([b + 1], axis), alone), name


@given(seeds, st.integers(1, 4), st.booleans())
def test_more_maps_leave_the_first_as_they_are(seed, maps, per_map):
    options = Options(num_maps=maps, posterior_per_map=per_map)
    few = arrays(draws(options, [seed, seed + 1], (1, 3, 5)))
    many = draws(
        options.replace(num_maps=maps + 3, posterior_per_map=True), [seed, seed + 1], (1, 3, 5)
    )
    assert set(few) == {"maps", "posterior"} | ({"posterior_mask"} if per_map else set())
    for name, drawn in few.items():
        wider = getattr(many, name)
        assert drawn.dtype == np.float32
        assert np.array_equal(drawn, wider if name == "posterior" else wider[:, :maps])


def test_every_stream_is_its_own_and_the_seed_decides():
    options = Options(num_maps=4, posterior_per_map=True)
    drawn = [arrays(draws(options, (seed, seed + 1, seed + 2), (2, 3, 5))) for seed in (7, 10)]
    rows = np.concatenate([a.reshape(-1, 30) for some in drawn for a in some.values()])
    assert len(rows) == 2 * (12 + 3 + 12) and len(np.unique(rows, axis=0)) == len(rows)
    again = arrays(draws(options, (7, 8, 9), (2, 3, 5)))
    assert all(np.array_equal(a, again[name]) for name, a in drawn[0].items())
    assert not np.array_equal(*(draws(EVERY, [s], (2, 19, 7)).rolls for s in (7, 8)))


def test_draws_are_standard_normal():
    """Moments of 120,000 numbers, within 5 standard errors: mean 1, variance 2, third 15, fourth
    96, over their number."""
    options = Options(num_maps=3, posterior_per_map=True)
    for drawn in arrays(draws(options, [1, 2], (4, 50, 100))).values():
        z = np.resize(drawn, drawn.size).astype(np.float64)
        for power, wanted, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
            assert abs((z**power).mean() - wanted) < 5 * math.sqrt(variance / z.size)
    maps = draws(Options(num_maps=8), [1], (4, 30, 30)).maps.reshape(8, -1)
    assert np.abs(np.corrcoef(maps) - np.eye(8)).max() < 5 / math.sqrt(3600)


def test_rolls_are_one_for_each_gradient_step():
    shape = draws(EVERY, [1, 2], (3, 19, 7)).rolls.shape
    assert shape == (EVERY.num_encode_steps, 2, EVERY.num_auto_corr_rolls, 3, 2, 3)


def test_rolls_of_a_picture_are_those_of_its_seed_in_any_batch():
    """Shifts [K,steps,rolls,sizes,B,C]."""
    options = Options(num_inference_steps=5, num_reg_steps=1)
    together = draws(options, [7, 4, 4], (2, 16, 16)).rolls
    for row, seed in enumerate((7, 4, 4)):
        alone = draws(options, [seed], (2, 16, 16)).rolls
        assert np.array_equal(together[..., row : row + 1, :], alone)
