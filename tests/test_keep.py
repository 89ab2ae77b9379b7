"""What a cache spares: an option that changes makes its stage and those behind it compute again,
and no other."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffedit_core.options import DECLARED, RECIPES, STAGES, Options, stages_of

from .closed_forms import FakeModel, edited, equal, wavy_on_the_object

SMALL = {"num_inference_steps": 4, "num_maps": 2, "encode_ratio": 0.75, "mask_noise_strength": 0.75}


class Cache:
    """A `keep` that remembers; `ran` lists the stages whose functions it had to call."""

    def __init__(self):
        self.values, self.ran = {}, []

    def __call__(self, stage, key, function):
        assert key[0] == stage
        if key not in self.values:
            self.ran.append(stage)
            self.values[key] = function()
        return self.values[key]

    def since(self, function):
        """(the function's value, the stages that ran meanwhile)."""
        before = len(self.ran)
        return function(), self.ran[before:]


def small(recipe="paper", **changes):
    return RECIPES[recipe].replace(**SMALL, **changes)


def edit(options, keep=None, **more):
    more = more if keep is None else {**more, "keep": keep}
    model = FakeModel(wavy_on_the_object)
    return edited(options, batch=2, targets=("a", "b"), model=model, **more)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_cache_changes_nothing_and_a_second_edit_computes_nothing(recipe):
    cache, options = Cache(), small(recipe)
    _, plain = edit(options)
    (_, first), ran = cache.since(lambda: edit(options, cache))
    assert set(ran) == set(STAGES)
    (model, second), ran = cache.since(lambda: edit(options.replace(), cache))
    assert ran == [] and model.calls == [] and model.encoded == 0
    assert all(equal(a, b) and equal(a, c) for a, b, c in zip(plain, first, second))


# Another value than the recipes' for each option.
OTHER = {
    "num_maps": 3,
    "mask_noise_strength": 0.5,
    "map_batch": 2,
    "mask_clamp_ratio": 2.0,
    "mask_clamp_quantile": 0.9,
    "mask_smoothing": 0.5,
    "mask_threshold": 0.4,
    "num_inference_steps": 5,
    "encode_ratio": 0.5,
    "integrator": "belm",
    "inversion_guidance_scale": 2.0,
    "num_reg_steps": 1,
    "lambda_auto_corr": 10.0,
    "lambda_kl": 10.0,
    "num_auto_corr_rolls": 2,
    "guidance_scale": 3.0,
    "guidance_interval": (0.0, 0.3),
    "reuse_features": 2,
    "decode_window": 1,
    "grow": 2,
    "feather": 3,
}


def other(options, name):
    """The same options with another value of one."""
    choices, value = DECLARED[name].check.choices, getattr(options, name)
    if isinstance(value, bool):
        return options.replace(**{name: not value})
    if name not in OTHER:
        return options.replace(**{name: next(c for c in choices if c != value)})
    return options.replace(**{name: OTHER[name]})


def behind(stages):
    """These stages and those that take their results."""
    found = set(stages)
    for stage, before in STAGES.items():  # in their order
        if found & set(before):
            found.add(stage)
    return found


@functools.lru_cache(maxsize=None)
def recomputed(name, base):
    """Stages that run again after one option changed, and whether the edits are those without a
    cache."""
    cache = Cache()
    edit(base, cache)
    changed = other(base, name)
    (_, found), ran = cache.since(lambda: edit(changed, cache))
    return set(ran), all(equal(a, b) for a, b in zip(found, edit(changed)[1]))


GENTLE = {"lambda_auto_corr": 1.0, "lambda_kl": 1.0}  # larger steps end in NaN here
BASES = {
    "paper": small(inversion_prompt="source"),
    "diffusers": small("diffusers", clamp_over="image", **GENTLE),
    "regularised": small(num_reg_steps=2, inversion_prompt="source", **GENTLE),
}


@given(st.sampled_from(tuple(DECLARED)), st.sampled_from(tuple(BASES)))
def test_an_option_recomputes_its_stages_and_what_follows_and_nothing_before(name, base):
    options = BASES[base]
    if name == "integrator" and options.num_reg_steps:  # both are refused together
        return
    if name == "inversion_prompt" and options.inversion_guidance_scale != 1:
        return
    ran, same = recomputed(name, options)
    stages = stages_of(name, options)
    assert same and ran <= behind(stages), (name, ran)
    shared = {"encode_ratio", "round_steps", "num_maps"}  # prefixes are used again
    if not DECLARED[name].cost and name not in shared:
        spared = {"decode"} if name in ("mask_on_grid", "map_batch") else set()
        assert ran >= set(stages) - spared, (name, ran)
    if DECLARED[name].cost:
        assert ran <= set(stages), "a cost option changes no result"


def test_a_deeper_inversion_begins_with_a_shallower_one():
    cache = Cache()
    options = Options(num_inference_steps=10, num_maps=2, encode_ratio=0.5)
    shallow, ran = cache.since(lambda: edit(options, cache))
    assert ran.count("trail") == 5
    deep, ran = cache.since(lambda: edit(options.replace(encode_ratio=0.8), cache))
    assert ran.count("trail") == 3 and "maps" not in ran and "mask" not in ran
    again, ran = cache.since(lambda: edit(options.replace(encode_ratio=0.2), cache))
    assert "trail" not in ran
    for one, longer in zip(shallow[1], deep[1]):
        assert np.array_equal(one.inverted_latents, longer.inverted_latents[:6])
    whole = edit(options.replace(encode_ratio=0.8))[1]
    assert all(equal(a, b) for a, b in zip(deep[1], whole))
    assert again[1][0].inverted_latents.shape[0] == 3


@pytest.mark.parametrize("every", (2, 3, 4))
def test_a_deeper_inversion_goes_on_with_the_features_of_a_shallower_one(every):
    """They come with the state that is kept, so that a cache changes nothing here, too."""
    cache = Cache()
    options = Options(num_inference_steps=10, num_maps=2, encode_ratio=0.5, reuse_features=every)
    edit(options, cache)
    for ratio in (0.8, 1.0):
        deeper = options.replace(encode_ratio=ratio)
        (_, found), ran = cache.since(lambda: edit(deeper, cache))
        assert ran.count("trail") < deeper.num_encode_steps
        assert all(equal(a, b) for a, b in zip(found, edit(deeper)[1]))


def test_another_sentence_recomputes_what_it_is_said_to():
    """The paper's inversion does not hear the source; the decoding alone hears the negative."""
    cache, options = Cache(), small()
    edit(options, cache)
    _, ran = cache.since(lambda: edit(options, cache, negative="negative"))
    assert set(ran) == {"decode", "picture"}
    _, ran = cache.since(lambda: edit(options, cache, source="c"))
    assert set(ran) == {"maps", "mask", "decode", "picture"}
    guided = small("diffusers")
    edit(guided, cache)
    _, ran = cache.since(lambda: edit(guided, cache, mask_negative="negative"))
    assert "trail" not in ran and {"maps", "mask"} <= set(ran)
    _, ran = cache.since(lambda: edit(guided, cache, inversion_negative="negative"))
    assert "maps" not in ran and {"trail", "decode"} <= set(ran)


def test_the_fourth_target_is_the_only_one_that_is_decoded_anew():
    cache, options = Cache(), small()
    edited(options, targets=("a",), keep=cache)
    model, ran = cache.since(lambda: edited(options, targets=("a",), keep=cache))
    assert ran == []
    cells = np.ones((1, 6, 8))
    edited(options, targets=("a",), keep=cache, mask=cells)
    _, ran = cache.since(lambda: edited(options, targets=("a", "b"), keep=cache, mask=cells))
    assert "trail" not in ran and "maps" not in ran and set(ran) == {"decode", "picture"}
