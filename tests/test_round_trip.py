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

from diffedit_core import diffedit as D
from diffedit_core import images
from diffedit_core import integrators as I
from diffedit_core import schedule as S
from diffedit_core.model import ORCHARD, Model

from . import laws, strategies
from .test_laws import EXCEPTIONS, OURS, counterexample, in_words

WHOLE = os.environ.get("HYPOTHESIS_PROFILE") == "ci"
STEPS = 50 if WHOLE else 10
PICTURE, SENTENCE = ORCHARD.parent / "bowl_of_apples.png", "a bowl of apples on a wooden table"


@functools.lru_cache(maxsize=None)
def start():
    """(model, clean latents, text states, empty text states)."""
    model = Model.load()
    latents = model.latents(model.encode_image(images.to_array([images.load_image(PICTURE)])))
    return model, latents, *(s.expand_dims(0) for s in model.encode_prompts([SENTENCE, ""]))


@functools.lru_cache(maxsize=None)
def round_trip(guidance, **way):
    """(relative error of the latents in root mean squares, notes) after 0.8 STEPS steps up and
    down."""
    model, latents, states, empty = start()
    kind, negative = model.configs.scheduler.prediction_type, None if guidance == 1 else empty
    levels, depth = S.levels(model.configs.scheduler, STEPS), int(0.8 * STEPS)
    trail = D.invert_states(
        model.predict, latents, levels, depth, states, negative, guidance, kind, **way
    )
    everywhere = ms.Tensor(np.ones((1, *latents.shape[2:]), np.float32))
    back = D.decode_states(
        model.predict,
        trail,
        everywhere,
        levels,
        states,
        negative,
        guidance,
        kind,
        integrator=way.get("integrator", "ddim"),
    ).asnumpy()
    x0 = latents.asnumpy()
    return np.sqrt(((back - x0) ** 2).mean() / (x0**2).mean()), [
        s.note for s in trail if s.note is not None
    ]


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
    "purity": st.builds(laws.Journey, level_pairs, unets, unet_latents),
    "asks_at_its_own_levels": st.builds(laws.Journey, level_pairs, unets, unet_latents),
}


@pytest.mark.parametrize("law", EXAMPLES)
@pytest.mark.parametrize("integrator", ("ddim", "dpmpp_2m", "edict", "belm"))
def test_laws_hold_for_the_shipped_unet(integrator, law):
    assert (integrator, law) not in EXCEPTIONS
    found = counterexample(
        laws.LAWS[law]._replace(examples=EXAMPLES[law], cost=10), OURS[integrator]
    )
    assert found is None, in_words(found)


@pytest.mark.parametrize("integrator", ("edict", "belm"))
def test_exact_integrators_return_in_float32_with_guidance(integrator):
    assert (
        round_trip(7.5, integrator=integrator)[0] < 1e-3 < 0.1 < round_trip(7.5)[0]
    ), "and DDIM does not"


@pytest.mark.skipif(not WHOLE, reason="300 evaluations of the UNet: profile ci only")
@pytest.mark.parametrize("inversion", ("fixed_point", "anderson"))
def test_fixed_points_return_without_guidance(inversion):
    error, notes = round_trip(1.0, inversion=inversion)
    assert error < 1e-4 and sum(n.evaluations for n in notes) < 8 * len(notes)


@pytest.mark.skipif(not WHOLE, reason="500 evaluations of the UNet: profile ci only")
def test_a_fixed_point_that_does_not_contract_with_guidance_warns():
    with pytest.warns(UserWarning, match="did not converge"):
        _, notes = round_trip(7.5, inversion="fixed_point")
    left = [n.residual for n in notes if not n.converged]
    assert 0 < len(left) < len(notes) and min(left) > I.TOLERANCE


@pytest.mark.skipif(not WHOLE, reason="several hundred evaluations of the UNet: profile ci only")
def test_more_steps_return_nearer():
    """The error falls with N, for DPM-Solver++ from a smaller one."""
    model, latents, states, _ = start()
    errors = {}
    for integrator in ("ddim", "dpmpp_2m"):
        for n in (10, 40):
            levels = S.levels(model.configs.scheduler, n)
            kind = model.configs.scheduler.prediction_type
            trail = D.invert_states(
                model.predict,
                latents,
                levels,
                n // 2,
                states,
                prediction_type=kind,
                integrator=integrator,
            )
            back = D.decode_states(
                model.predict,
                trail,
                ms.Tensor(np.ones((1, *latents.shape[2:]), np.float32)),
                levels,
                states,
                prediction_type=kind,
                integrator=integrator,
            )
            errors[integrator, n] = float(((back - latents) ** 2).mean().sqrt().asnumpy())
    assert (
        errors["ddim", 40] < errors["ddim", 10] / 2
        and errors["dpmpp_2m", 40] < errors["dpmpp_2m", 10] / 2
    )
    assert errors["dpmpp_2m", 40] < errors["ddim", 40]
