"""Every public method of the facade, called with wrong types for every argument: it works, or
raises one sentence that names the argument; nothing is compiled for it."""

import copy
import inspect

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffedit_core import torch_names
from diffedit_core.errors import InputError
from diffedit_core.pipeline import (
    DDIMInverseScheduler,
    DDIMScheduler,
    StableDiffusionDiffEditPipeline,
    make_image_grid,
)

from .tiny import FIXTURES, checker, picture, tiny_model

X = np.zeros((2, 4, 6, 8), np.float32)
STATES = np.zeros((2, 77, 12), np.float32)
IDS = np.zeros((1, 77), np.int64)
GRID = dict(num_inference_steps=5, inpaint_strength=0.6)


def quick_model():
    """The micro model with networks that only check what they are given."""
    model = copy.copy(tiny_model())

    def predict(latents, timestep, states):
        assert latents.dtype == states.dtype == ms.float32 and type(timestep) in (int, np.int64)
        assert latents.ndim == 4 and latents.shape[1] == 4 and 0 not in latents.shape
        assert states.ndim == 3 and states.shape[2] == 12 and len(states) == len(latents)
        assert np.isfinite(latents.asnumpy()).all() and np.isfinite(states.asnumpy()).all()
        return latents

    def encode_prompts(texts, skip=0):
        assert texts and all(isinstance(t, str) for t in texts) and skip in (0, 1)
        numbers = [[len(t)] for t in texts]  # different texts, different states
        return ms.Tensor(np.float32(numbers)[..., None] * np.ones((1, 77, 12), np.float32))

    def encode_image(pixels, tiling=None):
        assert pixels.dtype == np.float32 and pixels.ndim == 4 and abs(pixels).max() <= 1
        assert pixels.shape[1] == 3 and not any(n % 8 for n in pixels.shape[2:])
        zero = ms.Tensor(
            np.zeros((len(pixels), 4, *(n // 8 for n in pixels.shape[2:])), np.float32)
        )
        return zero, zero

    def decode_latents(latents, tiling=None):
        assert latents.ndim == 4 and latents.shape[1] == 4
        return np.zeros((len(latents), 3, *(8 * n for n in latents.shape[2:])), np.float32)

    def run(name, ids):
        assert name == "text_encoder" and ids.dtype == ms.int32 and ids.shape[1] <= 77
        return ms.Tensor(np.zeros((1, ids.shape[1], 12), np.float32))

    model.predict, model.encode_prompts, model._run = predict, encode_prompts, run
    model.encode_image, model.decode_latents = encode_image, decode_latents
    return model


def pipe():
    return StableDiffusionDiffEditPipeline(quick_model())


def scheduler(kind=DDIMScheduler):
    made = kind()
    made.set_timesteps(5)
    return made


PROMPTS = dict(source_prompt="a", target_prompt="an", num_inference_steps=5, num_maps_per_mask=2)
LATENTS = np.zeros((1, 3, 4, 6, 8), np.float32)
CALLS = {  # name: (owner, method, arguments that are right)
    "generate_mask": (pipe, "generate_mask", dict(image=picture(), **PROMPTS)),
    "invert": (pipe, "invert", dict(prompt="a", image=picture(), **GRID)),
    "edit": (
        pipe,
        "__call__",
        dict(prompt="a", mask_image=checker(), image_latents=LATENTS, **GRID),
    ),
    "embed_prompts": (pipe, "embed_prompts", dict(prompt="a")),
    "encode_prompt": (pipe, "encode_prompt", dict(prompt="a")),
    "enable_vae_tiling": (pipe, "enable_vae_tiling", {}),
    "to": (pipe, "to", {}),
    "progress_bar": (pipe, "progress_bar", {}),
    "tokenizer": (lambda: pipe().tokenizer, "__call__", dict(text="a")),
    "text_encoder": (lambda: pipe().text_encoder, "__call__", dict(input_ids=IDS)),
    "decode_ids": (lambda: pipe().tokenizer, "decode", dict(token_ids=IDS[0])),
    "unet": (
        lambda: pipe().unet,
        "__call__",
        dict(sample=X, timestep=3, encoder_hidden_states=STATES),
    ),
    "vae_encode": (lambda: pipe().vae, "encode", dict(x=np.zeros((1, 3, 48, 64), np.float32))),
    "vae_decode": (lambda: pipe().vae, "decode", dict(z=X)),
    "step": (scheduler, "step", dict(model_output=X, timestep=801, sample=X, eta=0.5)),
    "step_up": (
        lambda: scheduler(DDIMInverseScheduler),
        "step",
        dict(model_output=X, timestep=801, sample=X),
    ),
    "add_noise": (scheduler, "add_noise", dict(original_samples=X, noise=X, timesteps=[3])),
    "get_velocity": (scheduler, "get_velocity", dict(sample=X, noise=X, timesteps=[3])),
    "set_timesteps": (scheduler, "set_timesteps", dict(num_inference_steps=3)),
    "from_config": (scheduler, "from_config", dict(config={})),
    "from_pretrained": (
        lambda: DDIMScheduler,
        "from_pretrained",
        dict(pretrained_model_name_or_path=FIXTURES / "model", subfolder="scheduler"),
    ),
    "cat": (lambda: torch_names, "cat", dict(tensors=[ms.Tensor(X)])),
}
LOADING = "pretrained_model_name_or_path torch_dtype use_safetensors variant scheduler subfolder "
LOADING += "inverse_scheduler revision safety_checker token device_map"

WRONG = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 7),
    st.sampled_from([float("nan"), float("inf"), -1.0, 0.5, 2.5, 1e40, 1j]),
    st.sampled_from(["", "a", "pil", "\0", b"a", object(), {1}, {}, {"a": 1}, np.nan]),
    st.sampled_from([np.int64(3), np.float32(0.5), np.bool_(True), np.array(3), ms.Tensor(2.5)]),
    st.sampled_from(
        [
            np.zeros(shape, kind)
            for shape in [(0,), (3,), (6, 8), (1, 3, 5), (2, 4, 6, 8), (1, 77, 12), (1,) * 6]
            for kind in (np.float32, np.int64, np.complex64, object)
        ]
    ),
    st.sampled_from([ms.Tensor(X), ms.Tensor(STATES), ms.Tensor(X > 0), ms.Tensor(IDS)]),
    st.sampled_from([picture(), picture(size=(7, 9))]),
    st.lists(st.one_of(st.none(), st.just("a"), st.integers(0, 3), st.just(X)), max_size=3),
    st.tuples(st.just("a"), st.none()),
)


def ask(owner, method, arguments, changed):
    """Call it; an error has to be one sentence that names what was changed."""
    try:
        getattr(owner, method)(**arguments)
    except (TypeError, ValueError) as error:
        sentence = str(error)
        assert "\n" not in sentence and "C++" not in sentence and len(sentence) < 400, sentence
        names = [*changed, *(n.replace("_embeds", "") for n in changed)]
        for value in changed.values():  # a file's name or a setting's key says it as well
            names += [value] if isinstance(value, str) and value else []
            names += list(value) if isinstance(value, dict) else []
            names += (
                [v for v in value if isinstance(v, str)] if type(value) in (list, tuple) else []
            )
        names += ["the given mask"] if "mask_image" in changed else []
        assert any(name in sentence for name in names), sentence


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call", CALLS)
@given(data=st.data())
def test_wrong_types(call, data):
    make, method, right = CALLS[call]
    owner = make()
    parameters = inspect.signature(getattr(owner, method)).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for _ in range(3):
        some = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
        changed = {name: data.draw(WRONG, label=name) for name in some}
        ask(owner, method, right | changed, changed)


@pytest.mark.filterwarnings("ignore")
@given(name=st.sampled_from(LOADING.split()), value=WRONG)
def test_wrong_types_in_loading(name, value):
    right = dict(pretrained_model_name_or_path=FIXTURES / "model", variant="fp16")
    ask(StableDiffusionDiffEditPipeline, "from_pretrained", right | {name: value}, {name: value})


@pytest.mark.filterwarnings("ignore")
@given(name=st.sampled_from(["scheduler", "inverse_scheduler", "unet", "tokenizer"]), value=WRONG)
def test_wrong_components(name, value):
    owner = pipe()
    try:
        setattr(owner, name, value)
    except TypeError as error:
        assert str(error).startswith(f"{name} cannot be a ")
    else:
        assert name == "inverse_scheduler" and value is None


def test_grid_of_wrong_pictures():
    with pytest.raises(ValueError):
        make_image_grid([], rows=1, cols=1)


@pytest.mark.parametrize(
    "call, arguments, named",
    [
        ("enable_vae_tiling", {"tile": 1}, ("tile is 1 ", "overlap 12")),
        ("enable_vae_tiling", {"tile": 4, "overlap": 4}, ("tile is 4 ", "overlap 4")),
        ("progress_bar", {"iterable": np.array(3)}, ("iterable",)),
        ("progress_bar", {"iterable": ms.Tensor(2.5)}, ("iterable",)),
    ],
)
def test_what_hypothesis_found(call, arguments, named):
    owner, method, right = CALLS[call]
    with pytest.raises(InputError) as caught:
        getattr(owner(), method)(**{**right, **arguments})
    assert all(word in str(caught.value) for word in named)


@pytest.mark.parametrize("number", [0.5, np.float32(0.5), np.array(0.5)])
def test_a_step_of_a_single_number(number):
    """Arrays of no axes are arrays, too."""
    for kind in (DDIMScheduler, DDIMInverseScheduler):
        made = scheduler(kind)
        found = made.step(number, 801, number).prev_sample
        many = made.step(np.full((2, 3), float(number)), 801, np.full((2, 3), float(number)))
        np.testing.assert_allclose(np.asarray(found), many.prev_sample[0, 0], rtol=1e-6)
