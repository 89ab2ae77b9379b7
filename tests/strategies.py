"""Hypothesis strategies: schedules, step counts, noise levels, latents.

Shapes have distinct odd sizes, so that a transpose or a mean over the wrong axis cannot cancel.
"""

import dataclasses

import numpy as np
from hypothesis import strategies as st

from diffedit_core import schedule as S
from diffedit_core.config import SchedulerConfig

SPACINGS = ("leading", "trailing", "linspace")
PREDICTION_TYPES = ("epsilon", "v_prediction")
SD21 = SchedulerConfig(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    steps_offset=1,
    set_alpha_to_one=False,
)

spacings = st.sampled_from(SPACINGS)
prediction_types = st.sampled_from(PREDICTION_TYPES)
step_counts = st.integers(1, 1000)
seeds = st.integers(0, 2**32 - 1)

# Noise levels that an eps prediction can leave; 1 is the clean picture. Below 1e-4 a step to the
# clean picture multiplies every rounding error by more than 100.
alphas = st.one_of(
    st.floats(1e-4, 1.0), st.sampled_from((1.0, 1 - 2**-40, 0.99915, 0.5, 0.0047, 1e-4))
)
alpha_pairs = st.tuples(alphas, alphas)
alpha_triples = st.tuples(alphas, alphas, alphas)


@st.composite
def scheduler_configs(draw, zero_snr=None):
    """Any `SchedulerConfig` that makes a schedule, of 2 to 1000 training timesteps; `zero_snr`
    fixes that field."""
    kind = draw(st.sampled_from(("linear", "scaled_linear", "squaredcos_cap_v2", "trained")))
    total = draw(st.one_of(st.just(1000), st.integers(2, 1000)))
    changes = {}
    if kind == "trained":
        total = min(total, 61)  # with betas up to 0.5 the last alpha is still about 2^-61
        changes["trained_betas"] = tuple(
            draw(st.lists(st.floats(1e-5, 0.5), min_size=total, max_size=total))
        )
    else:
        start = draw(st.floats(1e-5, 0.005))
        changes.update(
            beta_schedule=kind, beta_start=start, beta_end=start + draw(st.floats(0, 0.02))
        )
    return SchedulerConfig(
        num_train_timesteps=total,
        timestep_spacing=draw(spacings),
        prediction_type=draw(prediction_types),
        steps_offset=draw(st.integers(0, 3)),
        set_alpha_to_one=draw(st.booleans()),
        rescale_betas_zero_snr=draw(st.booleans()) if zero_snr is None else zero_snr,
        **changes
    )


@st.composite
def decreasing_alphas(draw, least=1e-2, most=0.9999):
    """Alphas of 2 to 6 levels, cleanest first, each at most 0.9 and at least 0.3 of the one
    before."""
    alphas = [draw(st.floats(max(0.3, least), most))]
    for _ in range(draw(st.integers(1, 5))):
        if alphas[-1] * 0.3 < least:
            break
        alphas.append(alphas[-1] * draw(st.floats(0.3, 0.9)))
    return tuple(alphas) if len(alphas) > 1 else (alphas[0], alphas[0] * 0.7)


@st.composite
def grid_alphas(draw, most=50):
    """Alphas of the first K+1 levels, K up to `most`, of a schedule's grid, as far as they stay
    above 0.002."""
    config = draw(
        st.sampled_from(
            (
                SD21,
                SchedulerConfig(beta_schedule="linear"),
                SchedulerConfig(beta_schedule="squaredcos_cap_v2"),
            )
        )
    )
    config = dataclasses.replace(
        config, timestep_spacing=draw(spacings), set_alpha_to_one=draw(st.booleans())
    )
    alphas = S.levels(config, draw(st.integers(2, 60))).alphas
    alphas = alphas[alphas > 0.002][: most + 1]
    return tuple(alphas.tolist())


@st.composite
def zero_snr_alphas(draw):
    """All alphas of a grid that ends without signal."""
    config = dataclasses.replace(
        SD21,
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        timestep_spacing=draw(st.sampled_from(("trailing", "linspace"))),
        set_alpha_to_one=draw(st.booleans()),
    )
    return tuple(S.levels(config, draw(st.integers(2, 8))).alphas.tolist())


shapes = st.sampled_from(((1, 4, 5, 7), (2, 3, 7, 5), (3, 5, 9, 1), (2, 1, 1, 11), (5, 3, 7, 9)))
floats = st.sampled_from((np.float32, np.float64))
floats_of_all_sizes = st.sampled_from((np.float16, np.float32, np.float64))


@st.composite
def latents(draw, shape=shapes, dtype=floats, extreme=False):
    """A numpy array of any dtype and shape given as a strategy or a value: normal, constant,
    extreme, spiky, or zero.

    Values are zero or between 1e-6 and 1e4 in size, so that nothing here tests how a device rounds
    denormal numbers; in float16, whose range is shorter, at most 100 and at least 0.01. With
    `extreme`, denormal and nearly denormal ones too.
    """
    shape = draw(shape) if hasattr(shape, "example") else shape
    dtype = draw(dtype) if hasattr(dtype, "example") else dtype
    rng = np.random.default_rng(draw(seeds))
    kind = draw(
        st.sampled_from(
            ("normal", "constant", "small", "large", "spike", "zero") + ("denormal",) * extreme
        )
    )
    values = {
        "denormal": lambda: rng.uniform(-4, 4, shape) * np.finfo(dtype).tiny,
        "normal": lambda: rng.standard_normal(shape),
        "constant": lambda: np.full(shape, rng.choice((-3.7, 0.18215, 1.0))),
        "small": lambda: rng.uniform(1e-6, 1e-5, shape) * rng.choice((-1, 1), shape),
        "large": lambda: rng.uniform(1e3, 1e4, shape) * rng.choice((-1, 1), shape),
        "spike": lambda: np.where(rng.random(shape) < 0.1, 1e4, rng.standard_normal(shape)),
        "zero": lambda: np.zeros(shape),
    }[kind]()
    if dtype == np.float16 and kind != "denormal":
        values = np.sign(values) * np.clip(np.abs(values), 0.01, 100) if kind != "zero" else values
    return values.astype(dtype)


@st.composite
def latents_like(draw, count=2, shape=shapes, dtype=floats):
    """`count` arrays of one shape and dtype."""
    shape, dtype = draw(shape), draw(dtype)
    return [draw(latents(shape, dtype)) for _ in range(count)]


@st.composite
def noise_maps(draw, dtype=floats):
    """Non-negative maps [B,h,w]: the absolute values of `latents`."""
    shape = draw(st.sampled_from(((1, 5, 7), (3, 7, 5), (2, 9, 1), (5, 3, 11))))
    return np.abs(draw(latents(shape, dtype)))
