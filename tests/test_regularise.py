"""diffedit_core.regularise: the two losses in numpy, their gradients, and inversions of the public
pipeline."""

import dataclasses
import json
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffedit_core import regularise as G
from diffedit_core.options import RECIPES

from .closed_forms import latents_of, run_of, there
from .strategies import SD21, seeds

FIXTURES = Path(__file__).parent / "fixtures" / "regularised"


def correlation(eps, rolls):
    """Parmar et al. 2023, eq. 2, picture by picture and cell by cell."""
    total = 0.0
    for b in range(eps.shape[0]):
        for c in range(eps.shape[1]):
            plane, k = eps[b, c], 0
            while True:
                for axis in (0, 1):
                    total += (plane * np.roll(plane, rolls[k, b, c], axis)).mean() ** 2
                if plane.shape[0] <= 8:
                    break
                h, w = plane.shape[0] // 2, plane.shape[1] // 2
                plane = np.array(
                    [
                        [plane[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for j in range(w)]
                        for i in range(h)
                    ]
                )
                k += 1
    return total


def divergence(eps, over):
    rows = eps.reshape(1 if over == "batch" else len(eps), -1)
    return sum(
        row.var(ddof=1) + row.mean() ** 2 - 1 - np.log(row.var(ddof=1) + 1e-7) for row in rows
    )


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def rolls_of(shape, seed=0, steps=1, rolls=1):
    return G.draw_rolls(
        [np.random.default_rng([seed, p]) for p in range(shape[0])], 1, steps, rolls, shape
    )[0]


@pytest.mark.parametrize("shape", ((2, 3, 19, 22), (1, 2, 8, 5), (2, 1, 9, 3)))
def test_losses_agree_with_their_definitions(shape):
    eps, rolls = normal(1, *shape), rolls_of(shape)[0, 0]
    found = float(G.auto_correlation(ms.Tensor(eps), ms.Tensor(rolls)).asnumpy())
    assert found == pytest.approx(correlation(eps, rolls), rel=1e-6)
    for over in ("image", "batch"):
        assert float(G.kl_divergence(ms.Tensor(eps), over).asnumpy()) == pytest.approx(
            divergence(eps, over), rel=1e-6
        )


@pytest.mark.parametrize("kind", ("epsilon", "v_prediction"))
def test_each_step_follows_the_gradient(kind):
    """Against central differences of the numpy losses, in cells chosen at random."""
    shape, alpha, over = (2, 1, 9, 3), 0.3, "image"
    out, x, rolls = normal(2, *shape), normal(3, *shape), rolls_of(shape)

    def eps(value):
        return value if kind == "epsilon" else np.sqrt(alpha) * value + np.sqrt(1 - alpha) * x

    losses = {
        (2.0, 0.0): lambda v: correlation(eps(v), rolls[0, 0]),
        (0.0, 3.0): lambda v: divergence(eps(v), over),
    }
    for (auto, kl), loss in losses.items():
        moved = G.regularise(
            ms.Tensor(out), ms.Tensor(x), alpha, kind, rolls, auto, kl, over
        ).asnumpy()
        for cell in np.random.default_rng(4).integers(0, shape, (6, 4)):
            bump = np.zeros(shape)
            bump[tuple(cell)] = 1e-5
            slope = (loss(out + bump) - loss(out - bump)) / 2e-5
            assert (out - moved)[tuple(cell)] == pytest.approx(
                (auto + kl) * slope, rel=1e-4, abs=1e-7
            )


def test_both_losses_fall():
    shape = (1, 1, 9, 3)
    out, rolls = 2 + 3 * normal(5, *shape), rolls_of(shape, steps=3, rolls=2)
    losses = {
        (1e-3, 0.0): lambda e: sum(correlation(e, r) for r in rolls[0]),
        (0.0, 1.0): lambda e: divergence(e, "image"),
    }
    for (auto, kl), loss in losses.items():
        moved = G.regularise(
            ms.Tensor(out), ms.Tensor(out), 0.5, "epsilon", rolls, auto, kl
        ).asnumpy()
        assert loss(moved) < loss(out)


def test_nothing_changes_without_steps_or_sizes():
    out = ms.Tensor(normal(6, 1, 1, 9, 3))
    for rolls, sizes in (
        (rolls_of((1, 1, 9, 3), steps=0), (20.0, 20.0)),
        (rolls_of((1, 1, 9, 3)), (0.0, 0.0)),
    ):
        assert np.array_equal(
            G.regularise(out, out, 0.5, "epsilon", rolls, *sizes).asnumpy(), out.asnumpy()
        )


@given(st.integers(1, 70), st.integers(1, 70))
def test_the_pyramid_halves_until_few_rows(height, width):
    sizes = G.pyramid((1, 1, height, width))
    assert sizes[0] == (height, width) and sizes[-1][0] <= 8
    for (h, w), (h2, w2) in zip(sizes, sizes[1:]):
        assert h > 8 and (h2, w2) == (h // 2, w // 2)


@given(seeds, st.integers(1, 3))
def test_rolls_are_within_half_the_rows_and_each_picture_has_its_own(seed, pictures):
    shape = (pictures, 2, 19, 7)
    rolls = G.draw_rolls(
        [np.random.default_rng([seed, p]) for p in range(pictures)], 3, 2, 5, shape
    )
    assert rolls.shape == (3, 2, 5, 3, pictures, 2) and rolls.dtype == np.int32 and rolls.min() >= 0
    assert all(rolls[:, :, :, k].max() < half for k, half in enumerate((9, 4, 2)))
    assert np.array_equal(
        G.draw_rolls([np.random.default_rng([seed, 0])], 3, 2, 5, (1, *shape[1:]))[..., 0, :],
        rolls[..., 0, :],
    )
    assert len(np.unique(rolls)) > 4


@pytest.mark.parametrize("case", sorted(p.stem for p in FIXTURES.glob("*.npz")))
def test_inversions_of_the_public_pipeline(case):
    """Given its predictions and rolls, our regularised inversion is its, at every level."""
    with np.load(FIXTURES / f"{case}.npz") as file:
        arrays = dict(file)
    o = json.loads(str(arrays["options"]))
    own = {
        k: o[k]
        for k in (
            "num_inference_steps",
            "num_reg_steps",
            "num_auto_corr_rolls",
            "lambda_auto_corr",
            "lambda_kl",
        )
    }
    steps = RECIPES["diffusers"].replace(encode_ratio=o["inpaint_strength"], **own).num_encode_steps
    config = dataclasses.replace(SD21, prediction_type=o["prediction_type"])

    def inverted(**changes):
        said = iter(arrays["predictions"].astype(np.float64))
        own.pop("num_inference_steps", None)
        run = run_of(
            lambda x, timestep, states: ms.Tensor(next(said)),
            steps,
            o["num_inference_steps"],
            config,
            inversion_timestep="destination",
            clamp_over="batch",
            **own | changes,
        )
        x0 = arrays["latents0"].astype(np.float64)
        return latents_of(there(run, x0, ms.Tensor(0.0), rolls=arrays["rolls"]))[1:]

    wanted = arrays["inverted_latents"].swapaxes(0, 1)[::-1]
    assert np.abs(inverted() - wanted).max() <= 2e-5 * np.abs(wanted).max()
    apart = np.abs(inverted(num_reg_steps=0) - wanted).max()
    assert apart > 1e-3 * np.abs(wanted).max(), "the fixture would not see it left out"
