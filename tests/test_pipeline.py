"""diffedit_core.pipeline: the public pipeline's runs reproduced, its programs, then every
refusal."""

import io
import json
import re
import warnings

import mindspore as ms
import numpy as np
import pytest
from PIL import Image

from diffedit_core import pipeline_inputs as inputs
from diffedit_core import pipeline_switches as switches
from diffedit_core.errors import InputError
from diffedit_core.pipeline import (
    DDIMInverseScheduler,
    DDIMScheduler,
    StableDiffusionDiffEditPipeline,
)
from diffedit_core.pipeline_draws import DECODING, draws
from diffedit_core.pipeline_draws import MASK as MASK_STREAM

from .tiny import FIXTURES, Foreign, checker, close, picture, tiny_model

CASES = sorted(path.stem for path in FIXTURES.glob("*.npz"))
BATCHED = "guidance_1"  # runs with the model's own batches
MASK_ARGUMENTS = (
    "source_prompt",
    "target_prompt",
    "source_negative_prompt",
    "target_negative_prompt",
    "num_inference_steps",
    "num_maps_per_mask",
    "mask_encode_strength",
    "mask_thresholding_ratio",
)
GRID = dict(num_inference_steps=5, inpaint_strength=0.6)  # 3 steps
STEPS = 3
PROMPTS = dict(
    source_prompt="a bowl of fruits",
    target_prompt="a bowl of pears",
    num_inference_steps=5,
    num_maps_per_mask=2,
)


@pytest.fixture
def pipe():
    """The pipeline as it was after loading; only its compiled graphs are shared between tests."""
    return StableDiffusionDiffEditPipeline(tiny_model())


def inversion(seed=0, batch=1, steps=STEPS):
    """Latents such as invert gives, [B,L,4,6,8]."""
    return ms.Tensor(
        np.random.default_rng(seed).standard_normal((batch, steps, 4, 6, 8)).astype(np.float32)
    )


def pixels(image):
    return inputs.pixels(image, 8, 4)


# Parity


@pytest.mark.parametrize("case", CASES)
def test_public_run(case, pipe, monkeypatch):
    if case == BATCHED:
        monkeypatch.setattr(pipe.model, "predict", pipe.model.batched)
    run = np.load(FIXTURES / f"{case}.npz")
    o = json.loads(str(run["options"]))
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **o["scheduler"])
    pipe.inverse_scheduler = DDIMInverseScheduler.from_config(pipe.scheduler.config)
    generator = np.random.default_rng(o["seed"])
    image = [Image.fromarray(pixels) for pixels in run["images"]]
    grid = {k: o[k] for k in ("num_inference_steps", "inpaint_strength")}

    mask = pipe.generate_mask(
        image=image,
        guidance_scale=o["mask_guidance_scale"],
        generator=generator,
        **{k: o[k] for k in MASK_ARGUMENTS},
    )
    assert mask.dtype == np.int64 and np.array_equal(mask, run["mask"])

    inverse_steps, steps = [], []
    inverted = pipe.invert(
        image=image,
        prompt=o["source_prompt"],
        negative_prompt=o["invert_negative_prompt"],
        generator=generator,
        guidance_scale=o["invert_guidance_scale"],
        callback=lambda i, t, x: inverse_steps.append(t),
        **grid,
    ).latents
    assert inverse_steps == run["invert_timesteps"].tolist()
    close(inverted.asnumpy(), run["inverted_latents"], 2e-4)

    decoded = "image" in run
    result = pipe(
        prompt=o["target_prompt"],
        mask_image=mask,
        image_latents=inverted,
        negative_prompt=o["edit_negative_prompt"],
        guidance_scale=o["edit_guidance_scale"],
        eta=o["eta"],
        output_type="np" if decoded else "latent",
        generator=generator,
        callback=lambda i, t, x: steps.append((t, x.asnumpy())),
        **grid,
    ).images
    assert [t for t, _ in steps] == run["edit_timesteps"].tolist()
    close([x for _, x in steps], run["edit_latents"], 2e-4)
    if decoded:
        assert abs(result - run["image"]).max() < 1e-3  # a quarter of a grey level


def test_generated_captions(pipe):
    captions = ["a bowl of fruits", "a cat", "pears of a dog"]
    each = pipe.embed_prompts(captions)
    mean = pipe.embed_prompts(captions, average=True)
    assert each.shape == (3, 77, 12) and mean.shape == (1, 77, 12)
    close(mean.asnumpy()[0], each.asnumpy().mean(0), 1e-6)
    arguments = dict(image=picture(), num_inference_steps=5, num_maps_per_mask=2, generator=3)
    by_states = pipe.generate_mask(
        target_prompt_embeds=pipe.embed_prompts("a cat"), source_prompt_embeds=mean, **arguments
    )
    by_text = pipe.generate_mask(
        target_prompt="a cat", source_prompt_embeds=mean.asnumpy(), **arguments
    )
    assert np.array_equal(by_states, by_text) and 0 < by_text.mean() < 1
    text = pipe.invert("a cat", picture(), generator=3, **GRID).latents.asnumpy()
    states = pipe.invert(
        None,
        picture(),
        generator=3,
        prompt_embeds=pipe.embed_prompts("a cat"),
        negative_prompt_embeds=pipe.embed_prompts(""),
        **GRID,
    ).latents.asnumpy()
    assert np.array_equal(text, states)


# What the arguments do


def test_scheduler_swap_changes_the_run(pipe):
    def run():
        return pipe.invert("a cat", picture(), generator=1, **GRID).latents.asnumpy()

    before = run()
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    trailing = run()  # invert follows the scheduler as long as it has no inverse of its own
    assert abs(trailing - before).max() > 0.1
    pipe.inverse_scheduler = DDIMInverseScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="leading"
    )
    assert np.array_equal(run(), before)
    with pytest.raises(TypeError, match="DDIMInverseScheduler"):
        pipe.inverse_scheduler = DDIMScheduler()
    with pytest.raises(TypeError, match="scheduler cannot be a str"):
        pipe.scheduler = "ddim"


def test_scheduler_config(pipe):
    config = pipe.scheduler.config
    assert (
        config.prediction_type
        == config["prediction_type"]
        == dict(config)["prediction_type"]
        == "v_prediction"
    )
    assert DDIMScheduler.from_config(dict(config)).config == config
    assert (
        DDIMScheduler.from_config(config, prediction_type="epsilon").config.prediction_type
        == "epsilon"
    )
    assert "trailing" in repr(DDIMInverseScheduler.from_config(config, timestep_spacing="trailing"))
    with pytest.raises(TypeError, match="from_config"):
        config["prediction_type"] = "epsilon"
    with pytest.raises(TypeError, match="from_config"):
        config.prediction_type = "epsilon"
    with pytest.raises(AttributeError, match="solver_order"):
        config.solver_order
    # of another sampler, whose config programs hand over
    assert DDIMScheduler.from_config(config, solver_order=2).config == config
    with pytest.raises(InputError, match="solver_odrer"):
        DDIMScheduler.from_config(config, solver_odrer=2)
    with pytest.raises(InputError, match="clip_sample"):
        DDIMScheduler(clip_sample=True)


def test_outside_of_the_mask_nothing_changes_but_by_the_deepest_level(pipe):
    latents = inversion()
    edited = pipe("a dog", checker(), latents, output_type="latent", **GRID).images.asnumpy()
    background = latents.asnumpy()[:, -1]
    assert np.array_equal(edited[..., checker() == 0], background[..., checker() == 0])
    assert abs(edited - background)[..., checker() == 1].max() > 0.01


@pytest.mark.parametrize(
    "form", ["array", "batch", "channel", "tensor", "list", "pil", "rgb", "large", "soft"]
)
def test_forms_of_a_mask(pipe, form):
    mask = checker()
    grey = Image.fromarray(np.uint8(255 * mask))
    given = {
        "array": mask,
        "batch": mask[None],
        "channel": mask[None, None],
        "tensor": ms.Tensor(mask.astype(np.float32)),
        "list": [mask],
        "pil": grey,
        "rgb": [grey.convert("RGB")],
        "large": grey.resize((64, 48), Image.Resampling.NEAREST),
        "soft": 0.4 + 0.2 * mask,
    }[form]
    assert np.array_equal(
        inputs.mask_cells(given, 2, (6, 8), 8), np.stack([mask, mask]).astype(np.float32)
    )


def test_forms_of_a_picture(pipe):
    given = picture()
    own = pixels(given)
    unit = np.asarray(given, np.float32) / 255
    chw = unit.transpose(2, 0, 1)[None]
    tensors = ms.Tensor(chw), ms.Tensor(2 * chw - 1), [ms.Tensor(chw[0])]
    tensors += (Foreign(chw), Foreign(2 * chw - 1))
    for same in ([given], given.convert("RGBA"), unit, unit[None], [unit], *tensors):
        close(pixels(same), own, 1e-6)
    assert pixels([given, picture(1)]).shape == (2, 3, 48, 64)
    assert pixels(picture(size=(71, 55))).shape == (1, 3, 48, 64)
    latents = np.random.default_rng(0).standard_normal((1, 4, 6, 8)).astype(np.float32)
    trail = pipe.invert("a cat", ms.Tensor(latents), **GRID).latents.asnumpy()
    assert np.array_equal(
        trail, pipe.invert("a cat", ms.Tensor(latents), generator=1, **GRID).latents.asnumpy()
    )


def test_seeds(pipe):
    class Elsewhere:  # a generator of another library
        def initial_seed(self):
            return 5

    def clean(generator):  # the first level, which is the drawn latents and one step
        return pipe.invert(
            "a cat", picture(), generator=generator, num_inference_steps=5, inpaint_strength=0.2
        ).latents.asnumpy()

    five = clean(5)
    of_mindspore = ms.Generator()
    of_mindspore.manual_seed(5)
    for same in (5, np.int64(5), [5], Elsewhere(), of_mindspore):
        assert np.array_equal(clean(same), five)
    stream = np.random.default_rng(5)
    first = clean(stream)
    for other in (clean(6), clean(None), first, clean(stream)):
        assert not np.array_equal(other, five)
    assert not np.array_equal(clean(stream), first)  # it goes on


def test_generators_per_picture(pipe):
    draw = draws([1, 2], MASK_STREAM)
    both = draw((2, 3), (4, 6, 8))
    assert both.shape == (2, 3, 4, 6, 8) and both.dtype == np.float32
    for i, seed in enumerate((1, 2)):
        assert np.array_equal(both[i], draws(seed, MASK_STREAM)((1, 3), (4, 6, 8))[0])
    per_map = draws([1, 2, 3, 4, 5, 6], MASK_STREAM)((2, 3), (4, 6, 8))
    assert np.array_equal(per_map[1, 0], draws(4, MASK_STREAM)((1, 1), (4, 6, 8))[0, 0])
    assert not np.array_equal(both, draws([1, 2], DECODING)((2, 3), (4, 6, 8)))


def test_map_batch_and_output(pipe):
    one = pipe.generate_mask(picture(), generator=2, **PROMPTS)
    assert np.array_equal(one, pipe.generate_mask(picture(), generator=2, map_batch=2, **PROMPTS))
    [pil] = pipe.generate_mask(picture(), generator=2, output_type="pil", **PROMPTS)
    assert pil.mode == "L" and np.array_equal(np.asarray(pil), 255 * one[0])


def test_one_source_and_one_picture_serve_all_targets(pipe):
    masks = pipe.generate_mask(
        picture(), **{**PROMPTS, "target_prompt": ["a bowl of pears", "a cat"]}, generator=2
    )
    assert masks.shape == (2, 6, 8)
    latents = pipe.invert(["a cat", "a cat"], picture(), generator=2, **GRID).latents.asnumpy()
    alone = pipe.invert("a cat", [picture()], generator=2, **GRID).latents.asnumpy()
    close(latents, np.concatenate([alone, alone]), 1e-5)


def test_mask_without_guidance(pipe):
    """With equal negatives the guided difference is (1-g) times the plain one, which the
    normalisation cancels."""
    guided = pipe.generate_mask(picture(), generator=2, guidance_scale=5, **PROMPTS)
    assert np.array_equal(
        guided, pipe.generate_mask(picture(), generator=2, guidance_scale=1, **PROMPTS)
    )
    assert np.array_equal(
        guided, pipe.generate_mask(picture(), generator=2, guidance_scale=0, **PROMPTS)
    )
    assert 0 < guided.mean() < 1


def test_identical_prompts_give_an_empty_mask(pipe):
    with pytest.warns(UserWarning, match="mask is empty"):
        mask = pipe.generate_mask(
            picture(), **{**PROMPTS, "target_prompt": PROMPTS["source_prompt"]}
        )
    assert mask.shape == (1, 6, 8) and not mask.any()


def test_images_per_prompt(pipe):
    masks, latents = np.stack([checker(), 1 - checker()]), inversion(batch=2)
    arguments = dict(mask_image=masks, image_latents=latents, output_type="latent", **GRID)
    single = pipe(["a cat", "a dog"], **arguments).images.asnumpy()
    double = pipe(["a cat", "a dog"], num_images_per_prompt=2, **arguments).images.asnumpy()
    close(double, single.repeat(2, 0), 1e-5)  # each picture with its own mask and prompt
    random = pipe(
        ["a cat", "a dog"], num_images_per_prompt=2, eta=1.0, generator=0, **arguments
    ).images.asnumpy()
    assert abs(random[0] - random[1]).max() > 0.1
    flat = pipe(
        ["a cat", "a dog"], masks, latents.reshape(-1, 4, 6, 8), output_type="latent", **GRID
    ).images.asnumpy()
    assert np.array_equal(flat, single)
    listed = pipe(
        ["a cat", "a dog"], masks, [latents[:1], latents[1:]], output_type="latent", **GRID
    ).images.asnumpy()
    assert np.array_equal(listed, single)


def test_outputs(pipe):
    latents, images = pipe.invert(
        "a cat", picture(), decode_latents=True, generator=1, return_dict=False, **GRID
    )
    assert len(images) == STEPS and {i.size for i in images} == {(64, 48)}
    arrays = pipe.invert(
        "a cat", picture(), decode_latents=True, generator=1, output_type="np", **GRID
    ).images
    assert arrays.shape == (STEPS, 48, 64, 3) and arrays.min() >= 0 and arrays.max() <= 1
    assert abs(np.stack(images) / 255 - arrays).max() <= 0.5 / 255 + 1e-6
    arguments = dict(prompt="a dog", mask_image=checker(), image_latents=latents, **GRID)
    [pil], nsfw = pipe(return_dict=False, **arguments)
    [array] = pipe(output_type="np", **arguments).images
    assert nsfw is None and pipe(**arguments).nsfw_content_detected is None
    assert abs(np.asarray(pil) / 255 - array).max() <= 0.5 / 255 + 1e-6


def test_callbacks(pipe):
    seen = []

    def callback(step, timestep, latents):
        seen.append((step, timestep, latents.shape))

    pipe.invert("a cat", picture(), callback=callback, callback_steps=2, **GRID)
    assert seen == [(0, 1, (1, 4, 6, 8)), (2, 401, (1, 4, 6, 8))]
    seen.clear()
    pipe("a dog", checker(), inversion(), callback=callback, callback_steps=2, **GRID)
    assert seen == [(0, 401, (1, 4, 6, 8)), (2, 1, (1, 4, 6, 8))]


def test_tiling(pipe):
    def run():
        return pipe("a dog", checker(), inversion(), output_type="np", **GRID).images

    whole = run()
    pipe.enable_vae_tiling()
    close(run(), whole, 1e-6)  # smaller than one tile
    pipe.enable_vae_tiling(tile=6, overlap=4)
    tiled = run()
    difference = abs(tiled - whole).mean() / whole.std()
    print("tiling", difference)
    assert 0 < difference < 0.3
    pipe.disable_vae_tiling()
    pipe.enable_vae_slicing()
    assert np.array_equal(run(), whole)
    pipe.disable_vae_slicing()
    assert np.array_equal(run(), whole)


def test_progress_bar(pipe):
    text = io.StringIO()
    pipe.model._compiled.clear()  # as if nothing had run
    pipe.set_progress_bar_config(disable=False, file=text, mininterval=0)
    pipe("a dog", checker(), inversion(), clip_skip=1, **GRID)
    assert (
        f"{STEPS}/{STEPS}" in text.getvalue()
        and "compiling text_encoder without 1" in text.getvalue()
    )
    with pipe.progress_bar(total=7) as bar:
        bar.update()
    assert "1/7" in text.getvalue()
    length = len(text.getvalue())
    pipe.set_progress_bar_config(disable=True)
    pipe("a dog", checker(), inversion(), **GRID)
    assert len(text.getvalue()) == length and pipe.model.on_compile is None


def test_silent_without_a_terminal(pipe, capfd):
    pipe("a dog", checker(), inversion(), **GRID)
    assert capfd.readouterr().err == ""


def test_clip_skip(pipe):
    whole, cut = (pipe.embed_prompts("a cat", clip_skip=skip).asnumpy() for skip in (None, 1))
    assert whole.shape == cut.shape and abs(whole - cut).max() > 0.01
    edited = [
        pipe(
            "a cat", checker(), inversion(), output_type="latent", clip_skip=skip, **GRID
        ).images.asnumpy()
        for skip in (None, 1)
    ]
    assert not np.array_equal(*edited)


def test_offload_moves_nothing_and_says_why(pipe, monkeypatch):
    """A program that asks for it runs on."""
    monkeypatch.setattr(pipe, "_said", set(), raising=False)
    monkeypatch.setattr(switches, "releasable", lambda: False)
    with pytest.warns(UserWarning, match="graphs hold the weights.*fp16"):
        pipe.enable_model_cpu_offload(gpu_id=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe.enable_sequential_cpu_offload()  # said once
        pipe.disable_model_cpu_offload()
    assert not pipe.model.sequential


def test_offload_of_weights_without_files_says_that_nothing_moves(pipe, monkeypatch):
    monkeypatch.setattr(pipe.model, "weights", {})
    with pytest.warns(UserWarning, match="enable_model_cpu_offload.*not read from files"):
        pipe.enable_model_cpu_offload()
    assert not pipe.model.sequential


@pytest.mark.parametrize("name", ("enable_model_cpu_offload", "enable_sequential_cpu_offload"))
def test_offload_has_one_component_in_memory_and_changes_no_bit(pipe, name):
    """Over several calls; `disable_model_cpu_offload` ends it."""
    whole = pipe.encode_prompt("a cat")
    getattr(pipe, name)()
    pipe.model.encode_image(np.zeros((1, 3, 48, 64), np.float32))
    for _ in range(2):
        assert [c for c, w in pipe.model.weights.items() if w.filled] == ["vae"]
        found = pipe.encode_prompt("a cat")
        assert all(np.array_equal(a.asnumpy(), b.asnumpy()) for a, b in zip(found, whole))
        pipe.model.encode_image(np.zeros((1, 3, 48, 64), np.float32))
    pipe.disable_model_cpu_offload()
    pipe.encode_prompt("a cat")
    pipe.model.predict(ms.ops.zeros((1, 4, 6, 8)), 5, found[0][:1])
    assert all(weights.filled for weights in pipe.model.weights.values())


# Refusals

STATES = np.zeros((1, 77, 12), np.float32)
LATENTS = np.zeros((1, STEPS, 4, 6, 8), np.float32)
TEXT = [  # for each prompt of the interface: (arguments without their prefix, exception, words)
    (dict(), ValueError, "one of them"),
    (dict(prompt="a", prompt_embeds=STATES), ValueError, "not both"),
    (dict(prompt=5), ValueError, "string"),
    (dict(prompt=("a",)), ValueError, "string"),
    (dict(prompt=[]), ValueError, "string"),
    (dict(prompt="a", negative_prompt="b", negative_prompt_embeds=STATES), ValueError, "not both"),
    (dict(prompt="a", negative_prompt=["b"]), TypeError, "two of a kind"),
    (dict(prompt=["a", "b"], negative_prompt=["c"]), ValueError, "another number"),
    (dict(prompt_embeds=STATES, negative_prompt_embeds=STATES[:, :5]), ValueError, "77 positions"),
    (dict(prompt_embeds=STATES[:, :, :5]), ValueError, "77"),
    (dict(prompt_embeds=STATES * np.nan), ValueError, "prompt_embeds is an array.* finite"),
    (
        dict(prompt_embeds=[[1.0, "a"]]),
        ValueError,
        "prompt_embeds is .* array or tensor of numbers",
    ),
]


@pytest.mark.parametrize("arguments, error, words", TEXT)
def test_refused_prompts(pipe, arguments, error, words):
    def prefixed(prefix):
        return {prefix + key: value for key, value in arguments.items()}

    with pytest.raises(error, match=words):
        pipe.generate_mask(picture(), source_prompt="a", **prefixed("target_"))
    with pytest.raises(error, match=words):
        pipe.generate_mask(picture(), target_prompt="a", **prefixed("source_"))
    with pytest.raises(error, match=words):
        pipe.invert(image=picture(), **arguments)
    with pytest.raises(error, match=words):
        pipe(mask_image=checker(), image_latents=LATENTS, **GRID, **arguments)


MASK = dict(image=picture(), **PROMPTS)
INVERT = dict(prompt="a", image=picture())
EDIT = dict(prompt="a", mask_image=checker(), image_latents=LATENTS, **GRID)
ARRAY = np.zeros((48, 64, 3), np.float32)
REFUSED = [
    ("generate_mask", MASK, dict(num_maps_per_mask=0), "num_maps_per_mask"),
    ("generate_mask", MASK, dict(num_maps_per_mask=None), "num_maps_per_mask"),
    ("generate_mask", MASK, dict(num_maps_per_mask=2.0), "num_maps_per_mask"),
    ("generate_mask", MASK, dict(map_batch=0), "map_batch"),
    ("generate_mask", MASK, dict(mask_thresholding_ratio=0), "mask_thresholding_ratio"),
    ("generate_mask", MASK, dict(mask_thresholding_ratio=None), "mask_thresholding_ratio"),
    ("generate_mask", MASK, dict(mask_thresholding_ratio=float("inf")), "mask_thresholding_ratio"),
    ("generate_mask", MASK, dict(mask_encode_strength=None), "mask_encode_strength"),
    ("generate_mask", MASK, dict(mask_encode_strength=1.1), "mask_encode_strength"),
    ("generate_mask", MASK, dict(mask_encode_strength=0.1), "one of the 5 steps"),
    ("generate_mask", MASK, dict(mask_encode_strength=0), "mask_encode_strength is 0"),
    ("generate_mask", MASK, dict(num_inference_steps=0), "num_inference_steps"),
    ("generate_mask", MASK, dict(num_inference_steps=1001), "1000"),
    ("generate_mask", MASK, dict(output_type="latent"), "output_type"),
    ("generate_mask", MASK, dict(guidance_scale=float("nan")), "guidance_scale"),
    ("generate_mask", MASK, dict(cross_attention_kwargs={"scale": 1}), "cross_attention_kwargs"),
    ("generate_mask", MASK, dict(source_prompt=["a", "b"]), "source_prompt has 2"),
    ("generate_mask", MASK, dict(image=None), "image"),
    ("generate_mask", MASK, dict(image="nowhere.png"), "nowhere.png"),
    ("generate_mask", MASK, dict(image=[]), "image is 'list'"),
    ("generate_mask", MASK, dict(image=[picture(), ARRAY]), "image is 'list of Image'"),
    ("generate_mask", MASK, dict(image=[ARRAY, ARRAY[:40]]), "image's shapes"),
    ("generate_mask", MASK, dict(image=ARRAY[0, 0]), "B,H,W,3"),
    ("generate_mask", MASK, dict(image=[picture(), picture(1)]), "2 pictures for 1 prompts"),
    ("generate_mask", MASK, dict(image=[picture(), picture(size=(48, 64))]), "one size"),
    ("generate_mask", MASK, dict(image=picture(size=(64, 7))), "at least 8x8"),
    ("generate_mask", MASK, dict(image=ARRAY[:, :60]), "multiples of 8"),
    ("generate_mask", MASK, dict(image=ARRAY[..., 0]), "B,H,W,3"),
    ("generate_mask", MASK, dict(image=ARRAY + 200), "range"),
    ("generate_mask", MASK, dict(image=ARRAY - 1), "range"),
    ("generate_mask", MASK, dict(image=ARRAY * np.nan), "range"),
    ("generate_mask", MASK, dict(image=ms.Tensor(ARRAY)), "B,3,H,W"),
    ("generate_mask", MASK, dict(generator=[1, 2, 3]), "generator lists 3"),
    ("invert", INVERT, dict(image=None), "image"),
    ("invert", INVERT, dict(inpaint_strength=-0.1), "inpaint_strength"),
    ("invert", INVERT, dict(inpaint_strength=None), "inpaint_strength"),
    ("invert", INVERT, dict(inpaint_strength=0.01), "one of the 50 steps"),
    ("invert", INVERT, dict(callback="print"), "callback is 'print'"),
    ("invert", INVERT, dict(return_dict="yes"), "return_dict is 'yes'"),
    ("invert", INVERT, dict(lambda_kl=-1), "lambda_kl"),
    ("invert", INVERT, dict(callback_steps=0), "callback_steps"),
    ("invert", INVERT, dict(callback_steps=None), "callback_steps"),
    ("invert", INVERT, dict(num_inference_steps=True), "num_inference_steps"),
    ("invert", INVERT, dict(num_inference_steps=1001), "1000"),
    ("invert", INVERT, dict(output_type="latent"), "output_type"),
    ("invert", INVERT, dict(cross_attention_kwargs={"scale": 1}), "cross_attention_kwargs"),
    ("invert", INVERT, dict(guidance_scale=None), "guidance_scale"),
    ("invert", INVERT, dict(image=[picture(), picture(1)]), "2 pictures for 1 prompts"),
    ("__call__", EDIT, dict(mask_image=None), "mask_image"),
    ("__call__", EDIT, dict(image_latents=None), "image_latents"),
    ("__call__", EDIT, dict(image_latents=picture()), "image_latents is 'Image'"),
    ("__call__", EDIT, dict(inpaint_strength=0.8), "inpaint_strength here too"),
    ("__call__", EDIT, dict(inpaint_strength=2), "inpaint_strength"),
    ("__call__", EDIT, dict(prompt=["a", "b"]), "for 2 prompts"),
    ("__call__", EDIT, dict(image_latents=LATENTS[:, :, :3]), "image_latents has the shape"),
    ("__call__", EDIT, dict(mask_image=np.ones((3, 6, 8))), "3 masks for 1 prompts"),
    ("__call__", EDIT, dict(mask_image=np.ones((1, 3, 6, 8))), "channels"),
    ("__call__", EDIT, dict(mask_image=np.full((6, 8), 1.5)), "1.5"),
    ("__call__", EDIT, dict(mask_image=np.full((6, 8), np.nan)), "nan"),
    ("__call__", EDIT, dict(mask_image="nowhere.png"), "nowhere.png"),
    ("__call__", EDIT, dict(image_latents=LATENTS * np.nan), "image_latents"),
    ("__call__", EDIT, dict(clip_skip=1.0), "clip_skip is 1.0: it has to be a whole number"),
    ("__call__", EDIT, dict(mask_image=np.ones((20, 8))), "8x20"),
    ("__call__", EDIT, dict(num_images_per_prompt=0), "num_images_per_prompt"),
    ("__call__", EDIT, dict(callback_steps=1.5), "callback_steps"),
    ("__call__", EDIT, dict(output_type="pt"), "output_type"),
    ("__call__", EDIT, dict(eta=-1), "eta"),
    ("__call__", EDIT, dict(clip_skip=2), "clip_skip"),
    ("__call__", EDIT, dict(cross_attention_kwargs={"scale": 1}), "cross_attention_kwargs"),
]


@pytest.mark.parametrize("method, arguments, changes, words", REFUSED)
def test_refused(pipe, method, arguments, changes, words):
    with pytest.raises(InputError, match=re.escape(words)):
        getattr(pipe, method)(**{**arguments, **changes})


def test_regularised_inversion_draws_its_rolls_from_the_generator(pipe):
    """The same seed gives the same latents, another one others, and without regularisation they are
    others again."""
    given = dict(
        prompt="a",
        image=ms.Tensor(inversion().asnumpy()[:, 0]),
        num_inference_steps=5,
        guidance_scale=1.0,
    )
    own = dict(num_reg_steps=2, num_auto_corr_rolls=2, lambda_auto_corr=5.0, lambda_kl=2.0)
    first, again, other, plain = (
        pipe.invert(generator=seed, **given, **more).latents.asnumpy()
        for seed, more in ((1, own), (1, own), (2, own), (1, {}))
    )
    assert np.array_equal(first, again) and np.isfinite(first).all()
    assert np.abs(first - plain).max() > 1e-3 and np.abs(first - other).max() > 1e-6


def test_refused_otherwise(pipe):
    with pytest.raises(InputError, match="num_reg_steps"):
        pipe.invert(num_reg_steps=-1, **INVERT)
    for wrong in ("seed", True, 1.5, np.random.RandomState(0)):
        with pytest.raises(TypeError, match="generator"):
            pipe.invert(generator=wrong, **INVERT)
    with pytest.warns(UserWarning, match="latents has no effect"):
        pipe(latents=inversion(), **EDIT)


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        (dict(safety_checker=object()), InputError, "safety checker"),
        (dict(use_safetensors=False), InputError, "safetensors"),
        (dict(variant="ema"), InputError, "variant"),
        (dict(mindspore_dtype="int8"), InputError, "int8"),
        (
            dict(mindspore_dtype=ms.float32, torch_dtype=ms.float16),
            InputError,
            "the same as mindspore_dtype",
        ),
        (dict(mindspore_dtype=ms.bfloat16), InputError, "bf16"),
        (dict(kernels="cuda"), InputError, "cuda"),
        (dict(custom_pipeline="other"), InputError, "custom_pipeline"),
        (dict(colour="blue"), TypeError, "colour"),
    ],
)
def test_refused_loading(arguments, error, words):
    with pytest.raises(error, match=words):
        StableDiffusionDiffEditPipeline.from_pretrained(FIXTURES / "model", **arguments)


def test_loading(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        StableDiffusionDiffEditPipeline.from_pretrained(tmp_path / "nowhere")
    for dtype in (ms.float16, "float16", "torch.float16", "fp16"):
        pipe = StableDiffusionDiffEditPipeline.from_pretrained(
            FIXTURES / "model", torch_dtype=dtype, variant="fp16"
        )
        assert pipe.model.dtype == "fp16" and pipe.inverse_scheduler is None
    pipe.disable_model_cpu_offload()  # nothing was enabled
    assert pipe.vae_scale_factor == 8
