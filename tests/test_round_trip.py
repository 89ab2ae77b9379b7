"""Inversion and decoding with the shipped model: what the closed forms promise holds for a real
UNet too.

Profile "ci" takes the 50 steps of the claim and the slower ways; the default takes 10. Those laws
of tests/laws.py that depend on no closed form are checked with the shipped UNet as well.
"""

import functools
import os

import mindspore as ms
import numpy as np
import pytest
from hypothesis import strategies as st

from diffedit_core import images
from diffedit_core import schedule as S
from diffedit_core.integrators import INTEGRATORS, TOLERANCE
from diffedit_core.model import ORCHARD

from . import laws, strategies
from .closed_forms import back, ones, run_of, there
from .laws import counterexample, in_words
from .test_laws import reason_against
from .tiny import shared_load

WHOLE = os.environ.get("HYPOTHESIS_PROFILE") == "ci"
STEPS = 50 if WHOLE else 10
PICTURE, SENTENCE = ORCHARD.parent / "bowl_of_apples.png", "a bowl of apples on a wooden table"


@functools.lru_cache(maxsize=None)
def start():
    """(model, clean latents, text states, empty text states)."""
    model = shared_load()
    latents = model.latents(model.encode_image(images.to_array([images.load_image(PICTURE)])))
    return model, latents, *(s.expand_dims(0) for s in model.encode_prompts([SENTENCE, ""]))


@functools.lru_cache(maxsize=None)
def round_trip(guidance, integrator="ddim", n=STEPS, ratio=0.8):
    """(relative error of the latents in root mean squares, notes) after a share of n steps up and
    down."""
    model, latents, states, empty = start()
    run = run_of(
        model.predict,
        int(ratio * n),
        n,
        model.configs.scheduler,
        integrator=integrator,
        inversion_prompt="source",
        inversion_guidance_scale=guidance,
        guidance_scale=guidance,
    )
    x0 = latents.asnumpy()
    trail = there(run, x0, states, empty)
    end = back(run, trail, ones(x0).astype(np.float32), states, empty)
    notes = [state.note for state in trail if state.note is not None]
    return np.sqrt(((end - x0) ** 2).mean() / (x0**2).mean()), notes


class UNet(laws.Field):
    """The shipped UNet as the denoiser of a law's example; its `name` is the sentence that it is
    told."""

    def eps(self, x, alpha):
        model, config = start()[0], start()[0].configs.scheduler
        timestep = int(np.abs(S.alphas_cumprod(config) - alpha).argmin())
        states = ms.ops.concat([text_states(self.name)] * len(x))
        return S.denoised(
            model.predict(ms.Tensor(x), timestep, states).asnumpy(),
            x,
            alpha,
            config.prediction_type,
        )[1]


@functools.lru_cache(maxsize=None)
def text_states(sentence):
    return start()[0].encode_prompts([sentence])


unets = st.builds(
    UNet, st.sampled_from(("", SENTENCE, "two lemons on a plate on green grass")), st.just(None)
)
unet_latents = strategies.latents(shape=(1, 4, 16, 16), dtype=np.float32)
level_pairs = strategies.alpha_pairs.map(lambda pair: tuple(sorted(pair, reverse=True)))
EXAMPLES = {
    "identity": st.builds(
        laws.Step, strategies.alphas.map(lambda alpha: (alpha, alpha)), unets, unet_latents
    ),
    "purity": st.builds(laws.Trajectory, level_pairs, unets, unet_latents),
    "asks_at_its_own_levels": st.builds(laws.Trajectory, level_pairs, unets, unet_latents),
}


@pytest.mark.parametrize("law", EXAMPLES)
@pytest.mark.parametrize("integrator", ("ddim", "dpmpp_2m", "edict", "belm"))
def test_laws_hold_for_the_shipped_unet(integrator, law):
    assert reason_against(integrator, law) is None
    found = counterexample(
        laws.LAWS[law]._replace(examples=EXAMPLES[law], cost=10), INTEGRATORS[integrator].step
    )
    assert found is None, in_words(found)


@pytest.mark.parametrize("integrator", ("edict", "belm"))
def test_exact_integrators_return_in_float32_with_guidance(integrator):
    assert round_trip(7.5, integrator)[0] < 1e-3 < 0.1 < round_trip(7.5)[0], "and DDIM does not"


@pytest.mark.skipif(not WHOLE, reason="300 evaluations of the UNet: profile ci only")
@pytest.mark.parametrize("integrator", ("fixed_point", "anderson"))
def test_fixed_points_return_without_guidance(integrator):
    error, notes = round_trip(1.0, integrator)
    assert error < 1e-4 and sum(n.evaluations for n in notes) < 8 * len(notes)


@pytest.mark.skipif(not WHOLE, reason="500 evaluations of the UNet: profile ci only")
def test_a_fixed_point_that_does_not_contract_with_guidance_says_so():
    _, notes = round_trip(7.5, "fixed_point")
    left = [n.residual for n in notes if not n.converged]
    assert 0 < len(left) < len(notes) and min(left) > TOLERANCE


@pytest.mark.skipif(not WHOLE, reason="several hundred evaluations of the UNet: profile ci only")
def test_more_steps_return_nearer():
    """The error falls with N, for DPM-Solver++ from a smaller one."""
    errors = {
        (name, n): round_trip(1.0, name, n, 0.5)[0]
        for name in ("ddim", "dpmpp_2m")
        for n in (10, 40)
    }
    assert errors["ddim", 40] < errors["ddim", 10] / 2
    assert errors["dpmpp_2m", 40] < errors["dpmpp_2m", 10] / 2
    assert errors["dpmpp_2m", 40] < errors["ddim", 40]
