"""diffedit_core.options: every option is checked by name, the recipes are what they say, and what a
stage looks at follows from the declarations."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffedit_core.declare import option, whole
from diffedit_core.errors import InputError
from diffedit_core.integrators import INTEGRATORS
from diffedit_core.options import (
    DECLARED,
    RECIPES,
    STAGES,
    Options,
    inexact,
    looked_at,
    rows,
    stages_of,
)

PAPER, DIFFUSERS = RECIPES["paper"], RECIPES["diffusers"]
NOT_NUMBERS = (None, "0.5", math.nan, math.inf, -math.inf)
BAD = {  # values that no option of the kind takes, and those of an option by itself
    int: (0.5, 5.0, True, None, "5", -3),
    float: NOT_NUMBERS,
    bool: ("no", None, 1, 0),
    str: ("other", None, 1, ""),
}
BAD_BY_NAME = {
    **dict.fromkeys(("num_inference_steps", "num_maps", "map_batch", "num_auto_corr_rolls"), (0,)),
    "reuse_features": (0,),
    "decode_window": (-1,),
    **dict.fromkeys(("encode_ratio", "mask_noise_strength"), (0, -0.1, 1.01)),
    "mask_clamp_ratio": (0, -1),
    "mask_threshold": (-0.1, 1, 1.5),
    "mask_smoothing": (-0.1,),
    "mask_clamp_quantile": (-0.1, 1.01),
    "lambda_auto_corr": (-1.0,),
    "lambda_kl": (-1.0,),
    "guidance_interval": (0.5, (0.5,), (0.6, 0.4), (-0.1, 1), (0, 1.1), (0, math.nan), (0, 0.5, 1)),
    "integrator": ("inversion", "euler"),
    "inversion_prompt": ("target",),
    "inversion_timestep": ("next",),
    "clamp_over": ("channel",),
    "blend_level": ("cleaner",),
    "round_steps": ("up",),
}
CASES = [
    (name, value)
    for name, declared in DECLARED.items()
    for value in BAD[declared.check.kind] + BAD_BY_NAME.get(name, ())
    if value is not None or getattr(PAPER, name) is not None
]


@pytest.mark.parametrize("name, value", CASES)
def test_a_bad_option_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=rf"^{name} is .*: it has to be .+\.$"):
        dataclasses.replace(DIFFUSERS, **{name: value})


def test_every_default_and_recipe_passes_its_checks():
    assert set(BAD_BY_NAME) <= set(DECLARED)
    for options in RECIPES.values():
        assert all(d.check.holds(getattr(options, name)) for name, d in DECLARED.items())


def test_a_refusal_names_the_choices():
    with pytest.raises(InputError, match=" or ".join(map(repr, INTEGRATORS))):
        Options(integrator="euler")
    with pytest.raises(InputError, match="num_maps is 0: it has to be a whole number from 1 up"):
        Options(num_maps=0)
    with pytest.raises(InputError, match="mask_threshold is 'low': it has to be a number"):
        Options(mask_threshold="low")


def test_options_that_contradict_each_other_are_refused():
    with pytest.raises(InputError, match="inversion_guidance_scale is 3.0.*empty prompt"):
        Options(inversion_guidance_scale=3.0)
    Options(inversion_guidance_scale=3.0, inversion_prompt="source")
    for name, record in INTEGRATORS.items():
        if record.exact:
            with pytest.raises(InputError, match=f"num_reg_steps.*use integrator {inexact()}"):
                Options(num_reg_steps=1, integrator=name)
        else:
            Options(num_reg_steps=1, integrator=name)
    for name, record in INTEGRATORS.items():
        Options(reuse_features=1, integrator=name)
        if record.exact:
            with pytest.raises(InputError, match=f"reuse_features.*use integrator {inexact()}"):
                Options(reuse_features=2, integrator=name)
        else:
            Options(reuse_features=2, integrator=name)
    with pytest.raises(InputError, match="belm.*invert at least 2 steps"):
        Options(integrator="belm", num_inference_steps=5, encode_ratio=0.2)
    with pytest.raises(InputError, match="encode_ratio 0.1 of 9 steps rounds to no step"):
        Options(num_inference_steps=9, encode_ratio=0.1, round_steps="down")


def test_a_list_of_two_numbers_is_an_interval():
    """As the command line and JSON have it; the options stay what a key can be made of."""
    found = Options(guidance_interval=[0.25, 0.5])
    assert found == Options(guidance_interval=(0.25, 0.5)) and hash(found)


def test_replace_changes_what_is_given_and_leaves_none():
    changed = DIFFUSERS.replace(num_maps=3, guidance_scale=None)
    assert (changed.num_maps, changed.guidance_scale, changed.blend_level) == (3, 7.5, "noisier")
    with pytest.raises(InputError):
        DIFFUSERS.replace(num_maps=0)


def test_the_paper_is_the_default_recipe():
    assert PAPER == Options() and PAPER.num_inference_steps == 50 and PAPER.num_encode_steps == 40
    assert (PAPER.mask_noise_strength, PAPER.num_maps, PAPER.mask_threshold) == (0.5, 10, 0.5)
    public = DIFFUSERS.num_encode_steps, DIFFUSERS.inversion_guidance_scale
    assert public == (40, 7.5) and DIFFUSERS.mask_clamp_ratio == 3.0


def test_rounding_of_the_encoding_steps():
    """50 times 0.58 is 28.999999999999996 in binary."""
    near = Options(encode_ratio=0.58)
    assert (near.num_encode_steps, near.replace(round_steps="down").num_encode_steps) == (29, 28)
    assert Options(encode_ratio=0.001).num_encode_steps == 1, "at least one step"
    assert Options(encode_ratio=1.0).num_encode_steps == 50


@given(st.integers(1, 1000), st.floats(0.001, 1))
def test_encoding_steps_stay_within_the_grid(n, ratio):
    near = Options(num_inference_steps=n, encode_ratio=ratio)
    steps = near.num_encode_steps
    assert 1 <= steps <= n and abs(steps - n * ratio) <= max(0.5, 1 - n * ratio)
    if n * ratio >= 1:
        down = near.replace(round_steps="down").num_encode_steps
        assert n * ratio - 1 < down <= n * ratio


def test_a_guided_mask_has_the_guidance_of_the_decoding():
    assert PAPER.mask_guidance_scale == 1 and DIFFUSERS.mask_guidance_scale == 7.5
    assert PAPER.replace(guided_mask=True, guidance_scale=3.0).mask_guidance_scale == 3
    assert rows(1.0) == 1 and rows(7.5) == rows(0.0) == 2


# --- declarations ---------------------------------------------------------------------------------


def test_what_is_declared_names_stages_and_options_that_there_are():
    flags = [declared.flag for declared in DECLARED.values() if declared.flag]
    assert len(set(flags)) == len(flags)
    for declared in DECLARED.values():
        assert declared.stage in STAGES and set(declared.also) <= set(STAGES)
        others = {*declared.also.values(), declared.needs, declared.unless} - {None}
        assert others <= set(DECLARED)
        assert declared.help and not declared.help.endswith(".")


def test_a_stage_takes_results_of_stages_before_it():
    names = list(STAGES)
    for stage, before in STAGES.items():
        assert all(names.index(b) < names.index(stage) for b in before)


def after(stage):
    """The stage and those that take its results, or results of theirs."""
    found = {stage}
    while True:
        more = {s for s, before in STAGES.items() if found & set(before)} - found
        if not more:
            return found
        found |= more


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", DECLARED)
def test_a_stage_looks_at_its_options_and_at_those_of_the_stages_before(name, recipe):
    options = RECIPES[recipe]
    wanted = set().union(*(after(stage) for stage in stages_of(name, options)))
    if DECLARED[name].cost:
        wanted = set()
    assert {s for s in STAGES if name in looked_at(options, s)} == wanted
    assert all(
        looked_at(options, s).get(name, None) in (None, getattr(options, name)) for s in STAGES
    )


def test_an_option_of_two_stages_belongs_to_the_second_where_another_says_so():
    assert stages_of("guidance_scale", PAPER) == ("decode",)
    assert set(stages_of("guidance_scale", DIFFUSERS)) == {"decode", "maps"}
    assert set(stages_of("guidance_scale")) == {"decode", "maps"}
    assert "guidance_scale" in looked_at(DIFFUSERS, "maps")
    assert "guidance_scale" not in looked_at(PAPER, "mask")


def test_one_line_declares_an_option():
    @dataclasses.dataclass(frozen=True)
    class Own:
        count: int = option(3, whole(2), "maps", "how many", flag="n", cost=True)

    (field,) = dataclasses.fields(Own)
    declared = field.metadata["declared"]
    assert Own().count == 3 and declared.flag == "n" and declared.cost and declared.also == {}
    assert declared.check.holds(2) and not declared.check.holds(1)
