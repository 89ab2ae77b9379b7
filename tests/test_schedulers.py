"""diffedit_core.schedulers: loops of one's own, step by step as the public schedulers take them."""

import json
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffedit_core import pipeline, schedule
from diffedit_core.errors import InputError
from diffedit_core.pipeline import DDIMInverseScheduler, DDIMScheduler

from .tiny import FIXTURES, Foreign, close

RUN = np.load(Path(__file__).parent / "fixtures" / "schedulers" / "steps.npz")
CASES = json.loads(str(RUN["cases"]))
SHAPE = RUN["sample"].shape


@pytest.mark.parametrize("case", CASES)
def test_public_steps(case):
    """Every step within 2e-5 of the public scheduler, whose noise schedule is float32."""
    kind, settings, steps, eta = CASES[case]
    scheduler = getattr(pipeline, kind)(**settings)
    scheduler.set_timesteps(steps, device="cuda")
    assert scheduler.timesteps.tolist() == RUN[f"{case}/timesteps"].tolist()
    x = RUN["sample"].astype(np.float64)
    for i, t in enumerate(scheduler.timesteps):
        more = dict(eta=eta, variance_noise=RUN["noise"][i]) if eta else {}
        result = scheduler.step(RUN["outputs"][i], t, scheduler.scale_model_input(x, t), **more)
        x = result.prev_sample
        close(x, RUN[f"{case}/prev"][i], 2e-5)
        close(result.pred_original_sample, RUN[f"{case}/x0"][i], 2e-5)
    if kind == "DDIMScheduler":
        given = RUN["sample"], RUN["noise"][0], RUN["steps"]
        close(scheduler.add_noise(*given), RUN[f"{case}/noisy"], 2e-5)
        close(scheduler.get_velocity(*given), RUN[f"{case}/velocity"], 2e-5)


def v_of(eps, x, alpha):
    """The v of an eps: (eps - sqrt(1-a) x) / sqrt(a)."""
    return (eps - np.sqrt(1 - alpha) * x) / np.sqrt(alpha)


@given(
    steps=st.integers(1, 40),
    spacing=st.sampled_from(["leading", "trailing"]),
    kind=st.sampled_from(["epsilon", "v_prediction"]),
    seed=st.integers(0, 99),
)
def test_up_then_down_is_the_identity(steps, spacing, kind, seed):
    """With one prediction of eps, the inverse scheduler's step is undone by the other's at the same
    timestep; and noise, clean latents and velocity agree with each other."""
    settings = dict(timestep_spacing=spacing, prediction_type=kind, num_train_timesteps=200)
    down, up = DDIMScheduler(**settings), DDIMInverseScheduler(**settings)
    down.set_timesteps(steps), up.set_timesteps(steps)
    assert down.timesteps.tolist() == up.timesteps[::-1].tolist()
    rng = np.random.default_rng(seed)
    x, eps = rng.standard_normal((2, 1, 4, 3, 5))
    t = int(rng.choice(up.timesteps))
    ratio = t - 200 // steps
    start = up.alphas_cumprod[ratio] if ratio >= 0 else up.initial_alpha_cumprod
    # the model's outputs at both ends that stand for the same eps
    first = eps if kind == "epsilon" else v_of(eps, x, start)
    there = up.step(first, t, x).prev_sample
    second = eps if kind == "epsilon" else v_of(eps, there, up.alphas_cumprod[t])
    back = down.step(second, t, there)
    close(back.prev_sample, x, 1e-9)
    at = np.array([t])
    close(down.add_noise(back.pred_original_sample, eps, at), there, 1e-9)
    velocity = down.get_velocity(back.pred_original_sample, eps, at)
    close(schedule.v_to_eps(velocity, there, down.alphas_cumprod[t]), eps, 1e-9)


def test_attributes():
    scheduler = DDIMScheduler(num_train_timesteps=50, steps_offset=1)
    assert len(scheduler) == 50 and scheduler.order == 1 and scheduler.init_noise_sigma == 1
    assert scheduler.timesteps.tolist() == list(range(50))[::-1]
    assert DDIMInverseScheduler(num_train_timesteps=50).timesteps.tolist() == list(range(50))
    close(scheduler.alphas_cumprod, np.cumprod(scheduler.alphas), 1e-12)
    close(scheduler.alphas, 1 - scheduler.betas, 1e-12)
    assert scheduler.final_alpha_cumprod == 1.0
    least = DDIMScheduler(set_alpha_to_one=False)
    assert least.final_alpha_cumprod == least.alphas_cumprod[0]


def test_results_are_of_the_sample_s_kind():
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(4)
    x, out = RUN["sample"], RUN["outputs"][0]
    expected = scheduler.step(out, 500, x).prev_sample
    assert expected.dtype == np.float32
    tensor, clean = scheduler.step(ms.Tensor(out), ms.Tensor(500), ms.Tensor(x), return_dict=False)
    assert isinstance(tensor, ms.Tensor) and np.array_equal(tensor.asnumpy(), expected)
    half = scheduler.step(ms.Tensor(out), 500, ms.Tensor(x, ms.float16)).prev_sample
    assert half.dtype == ms.float16
    foreign = scheduler.step(Foreign(out), Foreign(500), Foreign(x)).prev_sample
    assert isinstance(foreign, Foreign) and foreign.device == "cuda:0"
    assert np.array_equal(foreign.array, expected)


def test_a_sample_of_whole_numbers_gives_fractions():
    """The same numbers as of that sample in float32."""
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(4)
    whole = np.round(RUN["sample"] * 3).astype(np.int32)
    expected = scheduler.step(RUN["outputs"][0], 500, whole.astype(np.float32)).prev_sample
    for given in (whole, ms.Tensor(whole), whole.tolist()):
        found = scheduler.step(RUN["outputs"][0], 500, given).prev_sample
        assert type(found) is (ms.Tensor if isinstance(given, ms.Tensor) else np.ndarray)
        assert np.array_equal(np.asarray(found), expected)


def test_noise_of_a_step():
    """A seed determines the noise of each timestep, a generator goes on."""
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(4)

    def noise(generator, t=500):
        zero = np.zeros(SHAPE, np.float32)
        return scheduler.step(zero, t, zero, eta=1.0, generator=generator).prev_sample

    assert np.array_equal(noise(3), noise(np.int64(3)))
    assert not np.array_equal(noise(3), noise(4))
    assert np.corrcoef(noise(3).ravel(), noise(3, 250).ravel())[0, 1] < 0.5
    stream = np.random.default_rng(3)
    assert not np.array_equal(noise(stream), noise(stream))


def test_of_a_folder():
    scheduler = DDIMScheduler.from_pretrained(FIXTURES / "model", subfolder="scheduler")
    assert scheduler.config.prediction_type == "v_prediction"
    folder = FIXTURES / "model" / "scheduler"
    up = DDIMInverseScheduler.from_pretrained(str(folder), timestep_spacing="trailing")
    assert up.config == {**scheduler.config, "timestep_spacing": "trailing"}
    with pytest.raises(InputError, match="add subfolder='scheduler'"):
        DDIMScheduler.from_pretrained(FIXTURES / "model")
    with pytest.raises(InputError, match="nowhere"):
        DDIMScheduler.from_pretrained("nowhere")
    with pytest.raises(TypeError, match="colour"):
        DDIMScheduler.from_pretrained(folder, colour="blue")


X = RUN["sample"]
REFUSED = [
    ("step", (X, 500, X[:1]), "model_output"),
    ("step", (X, 1000, X), "timestep is 1000"),
    ("step", (X, 1.5, X), "timestep is 1.5"),
    ("step", (X * np.nan, 500, X), "model_output"),
    ("step", (X, 500, X, 2.0), "eta"),
    ("step", (X, 500, X, 1.0, False, 1, X), "not both"),
    ("step", (X, 500, X, 1.0, False, None, X[:1]), "variance_noise"),
    ("add_noise", (X, X[:1], 3), "noise is"),
    ("add_noise", (X, X, [1, 2, 3]), "number of timesteps is 3"),
    ("add_noise", (X, X, [1, 1000]), "timesteps is"),
    ("add_noise", (X, X, 0.5), "timesteps is"),
    ("get_velocity", ("x", X, 3), "sample is 'x'"),
    ("set_timesteps", (1001,), "num_inference_steps is 1001"),
    ("set_timesteps", (0,), "num_inference_steps is 0"),
    ("from_config", ("v",), "config is 'v'"),
]


@pytest.mark.parametrize("method, arguments, words", REFUSED)
def test_refused(method, arguments, words):
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(4)
    with pytest.raises(InputError, match=words):
        getattr(scheduler, method)(*arguments)


def test_a_step_needs_a_grid():
    with pytest.raises(InputError, match="call set_timesteps first"):
        DDIMScheduler().step(X, 500, X)
