"""diffedit_core.plan: what a plan counts is what a run evaluates."""

import dataclasses
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffedit_core.errors import InputError
from diffedit_core.integrators import INTEGRATORS
from diffedit_core.options import RECIPES
from diffedit_core.plan import plan, shortened

from .closed_forms import PHASES, edited
from .strategies import SD21

PAPER, DIFFUSERS = RECIPES["paper"], RECIPES["diffusers"]
TARGETS = (("a",), ("a", "b"), ("a", "b", "a"), ("source", "a"), ("source", "a", "a", "source"))


def counted(options, targets=("a",), given_mask=False):
    """(the plan, {phase: rows} of a run, its model)."""
    different = len(set(targets) - (set() if given_mask else {"source"}))
    found = plan(options, SD21, different, given_mask)
    mask = np.ones((1, 6, 8)) if given_mask else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, _ = edited(options, targets=targets, mask=mask)
    return found, {phase: model.rows(phase) for phase in PHASES}, model


def agree(plan, rows):
    assert rows["mask"] == plan.mask_evaluations
    assert rows["decoding"] == plan.decode_evaluations
    if plan.at_most:
        assert 0 < rows["inversion"] <= plan.inversion_evaluations
    else:
        assert rows["inversion"] == plan.inversion_evaluations
        assert sum(rows.values()) == plan.evaluations


@given(
    st.integers(2, 4),
    st.sampled_from(TARGETS),
    st.booleans(),
    st.sampled_from((1.0, 3.0)),
    st.sampled_from((1.0, 2.0)),
    st.sampled_from(tuple(RECIPES)),
    st.booleans(),
    st.integers(1, 4),
    st.sampled_from(tuple(INTEGRATORS)),
)
def test_a_plan_counts_what_an_edit_evaluates(
    n, targets, given_mask, scale, inversion_scale, recipe, guided_mask, map_batch, integrator
):
    options = RECIPES[recipe].replace(
        num_inference_steps=n,
        num_maps=3,
        map_batch=map_batch,
        guidance_scale=scale,
        guided_mask=guided_mask,
        encode_ratio=1.0,
        inversion_guidance_scale=inversion_scale if recipe == "diffusers" else None,
        mask_noise_strength=1.0,
        integrator=integrator,
    )
    plan, rows, model = counted(options, targets, given_mask)
    agree(plan, rows)
    assert plan.largest_batch == max(len(sentences) for _, _, sentences in model.calls)
    asked = {p: [t for phase, t, _ in model.calls if phase == p] for p in PHASES}
    assert set(asked["mask"]) == (set() if given_mask else {plan.mask_timestep})
    assert plan.num_encode_steps == len(plan.timesteps)
    if integrator == "ddim":
        assert plan.num_encode_steps == len(asked["inversion"])
        if options.inversion_timestep == "destination":
            assert asked["inversion"] == plan.timesteps.tolist()


@given(
    st.integers(2, 6),
    st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    st.sampled_from(tuple(RECIPES)),
    st.sampled_from(tuple(INTEGRATORS)),
    st.integers(1, 4),
    st.sampled_from((None, 0, 1)),
)
def test_a_plan_counts_a_limited_guidance_and_reused_features(
    n, interval, recipe, integrator, m, window
):
    """A decoding in a window asks as often."""
    options = RECIPES[recipe].replace(
        num_inference_steps=n,
        num_maps=2,
        encode_ratio=1.0,
        mask_noise_strength=1.0,
        guidance_interval=interval,
        decode_window=window,
        integrator=integrator,
        reuse_features=1 if INTEGRATORS[integrator].exact else m,
    )
    plan, rows, model = counted(options, ("a", "b"))
    agree(plan, rows)
    asked = [len(sentences) for phase, _, sentences in model.calls if phase != "mask"]
    assert len(model.reused) == (len(asked) if options.reuse_features > 1 else 0)
    shallow = sum(count for count, reused in zip(asked, model.reused) if reused)
    assert plan.shallow_evaluations == shallow
    assert plan.largest_batch == max(len(sentences) for _, _, sentences in model.calls)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", INTEGRATORS)
def test_a_plan_counts_every_integrator(name, recipe):
    """Exactly, or where the inversion iterates as a limit."""
    options = RECIPES[recipe].replace(
        num_inference_steps=4,
        num_maps=2,
        encode_ratio=1.0,
        mask_noise_strength=1.0,
        integrator=name,
    )
    plan, rows, _ = counted(options, ("a", "b"))
    agree(plan, rows)
    assert plan.at_most == INTEGRATORS[name].iterates


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_edit_towards_the_source_costs_nothing(recipe):
    plan, rows, _ = counted(RECIPES[recipe], ("source", "source"))
    assert plan.evaluations == sum(rows.values()) == 0
    plan, rows, _ = counted(RECIPES[recipe], ("source",), given_mask=True)
    assert plan.evaluations == sum(rows.values()) > 0, "but a given mask is edited"


def test_plan_of_the_recipes():
    paper, public = (plan(options, SD21) for options in (PAPER, DIFFUSERS))
    counts = [
        (p.mask_evaluations, p.inversion_evaluations, p.decode_evaluations) for p in (paper, public)
    ]
    assert counts == [(20, 40, 80), (40, 80, 80)]
    assert public.timesteps.tolist() == list(range(1, 782, 20))
    with pytest.raises(InputError, match="1001"):
        plan(PAPER.replace(num_inference_steps=1001), SD21)


def test_plan_of_a_limited_guidance():
    """40 steps at 1, 21, ..., 781 of 1000: between 101 and 381, both included, are 15."""
    options = PAPER.replace(guidance_interval=(0.101, 0.381))
    assert plan(options, SD21).decode_evaluations == 2 * 15 + 25
    assert plan(options.replace(integrator="edict"), SD21).decode_evaluations == 2 * (2 * 15 + 25)
    assert plan(options.replace(integrator="belm"), SD21).decode_evaluations == 2 * 15 + 24


def test_plan_of_reused_features():
    """Of 40 evaluations every fourth is whole: 10, with 30 between them. A change of guidance,
    after 20 and 35 of the decoding, begins anew: the last five have two whole ones, not one."""
    options = PAPER.replace(reuse_features=4)
    assert plan(options, SD21).shallow_evaluations == 30 + 2 * 30
    assert plan(options, SD21).evaluations == plan(PAPER, SD21).evaluations
    limited = options.replace(guidance_interval=(0.101, 0.381))
    assert plan(limited, SD21).shallow_evaluations == 30 + (20 - 5) + 2 * (15 - 4) + (5 - 2)


def test_plan_refuses_what_the_schedule_cannot_do():
    config = dataclasses.replace(
        SD21,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
    )
    for name, record in INTEGRATORS.items():
        plan(PAPER.replace(integrator=name), config)
        whole = PAPER.replace(encode_ratio=1.0, integrator=name)
        if record.needs_signal:
            with pytest.raises(InputError, match="ends without signal.*ddim or dpmpp_2m"):
                plan(whole, config)
        else:
            plan(whole, config)


def test_long_lists_of_timesteps_are_shortened():
    assert shortened(range(3)) == "0, 1, 2" and shortened(range(11)).count(",") == 10
    assert shortened(range(40)) == "0, 1, 2, ..., 38, 39"
