"""Programs written for the public pipeline: the guide's three with their imports changed, then what
other programs call.

The programs differ from the guide's in the model's name, the pictures, the number of steps, and in
that captions come from a list. `from_pretrained` is given the micro model that is compiled already.
"""

import sys
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from PIL import Image

from diffedit_core import pipeline_loading, torch_names
from diffedit_core.errors import InputError
from diffedit_core.model import Model
from diffedit_core.pipeline import (
    DDIMInverseScheduler,
    DDIMScheduler,
    StableDiffusionDiffEditPipeline,
    load_image,
    make_image_grid,
)

from .tiny import FIXTURES, Foreign, checker, close, picture, tiny_model

STEPS = dict(num_inference_steps=5)
GRID = dict(num_inference_steps=5, inpaint_strength=0.6)


@pytest.fixture
def pipe():
    return StableDiffusionDiffEditPipeline(tiny_model())


@pytest.fixture
def loaded(monkeypatch):
    """What `Model.load` is asked for by a program, which gets the compiled model."""
    asked, model = [], tiny_model()

    def load(source, dtype, kernels=None, variant=None):
        asked.append((source, dtype))
        return model

    monkeypatch.setattr(Model, "load", load)
    return asked


@pytest.fixture
def img_url(tmp_path):
    picture().save(tmp_path / "origin.png")
    return str(tmp_path / "origin.png")


# ---- the guide's programs ------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*has no effect")
def test_mask_and_edit(loaded, img_url, tmp_path):
    torch = torch_names

    pipeline = StableDiffusionDiffEditPipeline.from_pretrained(
        "owner/tiny", torch_dtype=torch.float16, safety_checker=None, use_safetensors=True
    )
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.inverse_scheduler = DDIMInverseScheduler.from_config(pipeline.scheduler.config)
    pipeline.enable_model_cpu_offload()
    pipeline.enable_vae_slicing()

    raw_image = load_image(img_url).convert("RGB").resize((64, 48))
    source_prompt = "a bowl of fruits"
    target_prompt = "a basket of pears"
    mask_image = pipeline.generate_mask(
        image=raw_image, source_prompt=source_prompt, target_prompt=target_prompt, **STEPS
    )
    inv_latents = pipeline.invert(prompt=source_prompt, image=raw_image, **STEPS).latents
    image = pipeline(
        prompt=target_prompt,
        mask_image=mask_image,
        image_latents=inv_latents,
        negative_prompt=source_prompt,
        **STEPS,
    ).images[0]
    image.save(tmp_path / "edited_image.png")
    mask = Image.fromarray((mask_image.squeeze() * 255).astype("uint8"), "L").resize((64, 48))
    grid = make_image_grid([raw_image, mask, image], rows=1, cols=3)

    assert loaded == [("owner/tiny", "fp16")]
    assert grid.size == (192, 48) and inv_latents.shape == (1, 4, 4, 6, 8)
    assert not np.array_equal(np.asarray(image), np.asarray(raw_image))
    assert pipeline.scheduler.timesteps.tolist() == [801, 601, 401, 201, 1]
    assert pipeline.inverse_scheduler.timesteps.tolist() == [1, 201, 401, 601, 801]


@pytest.mark.filterwarnings("ignore:.*has no effect")
def test_generated_captions_averaged(loaded, img_url, tmp_path):
    torch = torch_names
    source_prompts = ["a bowl of fruits", "fruits of a bowl"]
    target_prompts = ["a basket of pears", "pears"]

    pipeline = StableDiffusionDiffEditPipeline.from_pretrained(
        "owner/tiny", torch_dtype=torch.float16, use_safetensors=True
    ).to("cuda")
    pipeline.enable_model_cpu_offload()
    pipeline.enable_vae_slicing()

    @torch.no_grad
    def embed_prompts(sentences, tokenizer, text_encoder, device="cuda"):
        embeddings = []
        for sent in sentences:
            text_inputs = tokenizer(
                sent,
                padding="max_length",
                max_length=tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            )
            text_input_ids = text_inputs.input_ids
            prompt_embeds = text_encoder(text_input_ids.to(device), attention_mask=None)[0]
            embeddings.append(prompt_embeds)
        return torch.concatenate(embeddings, dim=0).mean(dim=0).unsqueeze(0)

    source_embeds = embed_prompts(source_prompts, pipeline.tokenizer, pipeline.text_encoder)
    target_embeds = embed_prompts(target_prompts, pipeline.tokenizer, pipeline.text_encoder)

    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.inverse_scheduler = DDIMInverseScheduler.from_config(pipeline.scheduler.config)
    raw_image = load_image(img_url).convert("RGB").resize((64, 48))
    mask_image = pipeline.generate_mask(
        image=raw_image,
        source_prompt_embeds=source_embeds,
        target_prompt_embeds=target_embeds,
        **STEPS,
    )
    inv_latents = pipeline.invert(prompt_embeds=source_embeds, image=raw_image, **STEPS).latents
    images = pipeline(
        mask_image=mask_image,
        image_latents=inv_latents,
        prompt_embeds=target_embeds,
        negative_prompt_embeds=source_embeds,
        **STEPS,
    ).images
    images[0].save(tmp_path / "edited_image.png")

    mean = pipeline.embed_prompts(source_prompts, average=True)
    close(source_embeds.asnumpy(), mean.asnumpy(), 1e-6)
    assert images[0].size == (64, 48) and mask_image.shape == (1, 6, 8)


@pytest.mark.filterwarnings("ignore:.*has no effect")
def test_inversion_with_a_caption(loaded, img_url):
    captions = iter(["a photograph of a bowl of fruit on a table"])

    def generate_caption(images):
        return next(captions)

    pipeline = StableDiffusionDiffEditPipeline.from_pretrained(
        "owner/tiny", torch_dtype=torch_names.float16, low_cpu_mem_usage=True
    )
    raw_image = load_image(img_url).convert("RGB").resize((64, 48))
    caption = generate_caption(raw_image)
    seeded = dict(image=raw_image, generator=0, **STEPS)
    inv_latents = pipeline.invert(prompt=caption, **seeded).latents

    assert inv_latents.shape == (1, 4, 4, 6, 8)
    other = pipeline.invert(prompt="a cat", **seeded).latents
    assert abs(inv_latents.asnumpy() - other.asnumpy()).max() > 1e-3


# ---- loops of one's own --------------------------------------------------------------------------


def test_a_loop_of_one_s_own_is_the_pipeline_s_inversion(pipe):
    """tokenizer, text encoder, VAE, UNet and inverse scheduler, as programs put them together."""
    image, scale = picture(), pipe.vae.config.scaling_factor
    scheduler = DDIMInverseScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(5)
    pixels = np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
    latents = pipe.vae.encode(ms.Tensor(pixels)).latent_dist.mode() * scale
    ids = pipe.tokenizer(["", "a cat"], padding="max_length", return_tensors="pt").input_ids
    states = pipe.text_encoder(ids)[0]
    x = latents
    for t in scheduler.timesteps[:3]:
        pair = scheduler.scale_model_input(torch_names.cat([x] * 2), t)
        out = pipe.unet(pair, t, encoder_hidden_states=states).sample
        out = out[:1] + 7.5 * (out[1:] - out[:1])
        x = scheduler.step(out, t, x).prev_sample

    expected = pipe.invert("a cat", latents, **GRID).latents.asnumpy()[:, 0]
    close(x.asnumpy(), expected, 1e-4)
    decoded = pipe.vae.decode(x / scale).sample
    close(decoded.asnumpy(), tiny_model().decode_latents(x), 1e-4)


def test_posterior(pipe):
    pixels = np.zeros((1, 3, 48, 64), np.float32)
    found = pipe.vae.encode(Foreign(pixels), return_dict=False)[0]
    assert isinstance(found.mean, Foreign) and found.mean.device == "cuda:0"
    drawn = [found.sample(generator=seed).array for seed in (1, 1, 2)]
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])
    deviation = (drawn[0] - found.mean.array) / np.exp(found.logvar.array / 2)
    assert 0.7 < deviation.std() < 1.3


def test_tokenizer(pipe, monkeypatch):
    own = pipe.tokenizer
    text = "a bowl of fruits"
    whole = own([text, "a cat"], padding="max_length", truncation=True, return_tensors="np")
    longest = own([text, "a cat"], padding=True, return_tensors="ms")
    plain = own(text)
    assert whole.input_ids.shape == whole["attention_mask"].shape == (2, own.model_max_length)
    length = len(plain.input_ids)
    assert longest.input_ids.shape == (2, length)
    assert whole.input_ids[0, :length].tolist() == plain.input_ids
    assert whole.attention_mask.sum(1).tolist() == longest.attention_mask.sum(1).tolist()
    assert own.batch_decode(whole.input_ids, skip_special_tokens=True) == [text, "a cat"]
    assert own.decode(own("Ünï 猫")["input_ids"], skip_special_tokens=True) == "ünï 猫"

    many = "a cat " * 60
    cut = own(many, truncation=True, padding=True, return_tensors="np").input_ids
    assert cut.shape == (1, 77) and cut[0, -1] == own.eos_token_id
    assert len(own(many).input_ids) == 122
    with pytest.raises(InputError, match="padding"):
        own([text, "a"], return_tensors="np")
    with pytest.raises(AttributeError, match="token_type_ids"):
        plain.token_type_ids
    monkeypatch.setitem(sys.modules, "torch", sys.modules["tests_tensors"])
    ids = own(text, padding="max_length", return_tensors="pt").input_ids.to("cuda:1")
    states = pipe.text_encoder(ids).last_hidden_state
    assert isinstance(ids, Foreign) and states.device == "cuda:1"
    close(states.array, pipe.embed_prompts(text).asnumpy(), 1e-6)


def test_encode_prompt_has_the_public_order(pipe):
    with pytest.warns(UserWarning, match="has no effect"):
        own, negative = pipe.encode_prompt(["a cat", "a dog"], "cuda", 2, True, ["dark", ""])
    expected = pipe.embed_prompts(["a cat", "a cat", "a dog", "a dog"]).asnumpy()
    assert np.array_equal(own.asnumpy(), expected)
    assert np.array_equal(negative.asnumpy()[::2], pipe.embed_prompts(["dark", ""]).asnumpy())
    assert pipe.encode_prompt("a cat", do_classifier_free_guidance=False)[1] is None


# ---- switches ------------------------------------------------------------------------------------


def test_switches(pipe):
    """Each that changes nothing says so once; each that is not possible names the remedy."""
    from diffedit_core import pipeline_switches as switches

    for name in switches.HARMLESS:
        with pytest.warns(UserWarning, match=f"{name} has no effect") as said:
            assert getattr(pipe, name)("auto") is getattr(pipe, name)() is None
        assert len(said) == 1
    for name in (*switches.REFUSED, *switches.REFUSED_OF_THE_CLASS):
        owner = type(pipe) if name in switches.REFUSED_OF_THE_CLASS else pipe
        with pytest.raises(InputError, match=f"^{name} is not possible .*[.]$"):
            getattr(owner, name)("file.safetensors", weight=1)
    for name in ("load_lora_weights", "load_textual_inversion", "from_single_file"):
        with pytest.raises(InputError, match="python -m weights_convert convert"):
            getattr(pipe, name)("file")


def test_to(pipe):
    assert pipe.device == pipe.device.type == "cpu" and pipe.dtype == ms.float32
    assert pipe.to("cpu") is pipe.to(device="cpu", dtype=ms.float32) is pipe.cpu() is pipe
    with pytest.warns(UserWarning, match="to.'cuda:0'. has no effect") as said:
        assert pipe.to("cuda:0").to("cuda:0", "torch.float32") is pipe
    assert len(said) == 1
    with pytest.raises(InputError, match="give torch_dtype to from_pretrained"):
        pipe.to(ms.float16)
    with pytest.raises(InputError, match="device is 5.5"):
        pipe.to(5.5)
    assert pipe.unet.eval().requires_grad_(False).to("cpu", memory_format="channels_last")
    assert pipe.vae.dtype == ms.float32 and pipe.vae.device == "cpu"


def test_components(pipe):
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    other = StableDiffusionDiffEditPipeline(**pipe.components)
    assert other.model is pipe.model and other.scheduler is pipe.scheduler
    assert other.unet.config.in_channels == 4 and other.safety_checker is None
    other.safety_checker = None
    for name in ("unet", "safety_checker", "scheduler"):
        with pytest.raises(TypeError, match=f"{name} cannot be a function"):
            setattr(other, name, checker)
    for wrong in ({}, {"model": 5}, {"unet": pipe.unet, "vae": 5}, {"model": 5, "colour": 1}):
        with pytest.raises(TypeError, match="model has to be|no component 'colour'"):
            StableDiffusionDiffEditPipeline(**wrong)


# ---- loading -------------------------------------------------------------------------------------


def test_options_of_the_hub(loaded, monkeypatch, tmp_path):
    import huggingface_hub

    calls = []

    class Api:
        def model_info(self, repository, timeout, **options):
            calls.append(("list", repository, options))
            names = [p.relative_to(FIXTURES / "model").as_posix() for p in files]
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in names])

    def snapshot_download(repository, **options):
        calls.append(("download", repository, options))
        return str(FIXTURES / "model")

    files = [p for p in (FIXTURES / "model").rglob("*") if p.is_file()]
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    load = StableDiffusionDiffEditPipeline.from_pretrained

    load("owner/tiny", revision="fp16", cache_dir=tmp_path, use_auth_token="secret")
    (_, _, listed), (_, _, fetched) = calls
    assert listed == dict(revision="fp16", token="secret")
    assert {k: fetched[k] for k in ("revision", "cache_dir", "token")} == dict(
        revision="fp16", cache_dir=tmp_path, token="secret"
    )
    assert "unet/config.json" in fetched["allow_patterns"]
    calls.clear()
    load("owner/tiny", local_files_only=True)
    assert calls == [("download", "owner/tiny", dict(local_files_only=True))]  # no request
    calls.clear()
    load(FIXTURES / "model", revision="main", local_files_only=True)  # a folder needs neither
    load(FIXTURES, subfolder="model")
    load("owner/tiny", local_files_only=False, token=None)
    assert calls == [] and [str(source) for source, _ in loaded[2:]] == [
        str(FIXTURES / "model"),
        str(FIXTURES / "model"),
        "owner/tiny",
    ]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: 1 / 0)
    with pytest.raises(InputError, match="owner/tiny with revision='v2' is neither a folder nor"):
        load("owner/tiny", revision="v2", token="secret")


def test_arguments_of_loading(loaded):
    load, folder = StableDiffusionDiffEditPipeline.from_pretrained, FIXTURES / "model"
    trailing = DDIMScheduler(timestep_spacing="trailing")
    assert load(folder, scheduler=trailing, image_encoder=None).scheduler is trailing
    for name in pipeline_loading.HARMLESS:
        with pytest.warns(UserWarning, match=f"{name} has no effect"):
            load(folder, **{name: True})
    for name in pipeline_loading.REFUSED:
        load(folder, **{name: None})
        with pytest.raises(InputError, match=f"^{name} is 'other', but "):
            load(folder, **{name: "other"})
    with pytest.raises(InputError, match="revision"):
        load("owner/tiny", revision=5)
    with pytest.raises(InputError, match="subfolder"):
        load(folder, subfolder="nowhere")


# ---- forms of arguments --------------------------------------------------------------------------


def test_forms_of_numbers_and_files(pipe, tmp_path):
    picture().save(tmp_path / "a.png")
    Image.fromarray(np.uint8(255 * checker())).save(tmp_path / "m.png")
    plain = pipe.invert("a cat", picture(), 5, 0.6, 7.5, generator=1).latents
    named = pipe.invert(
        "a cat",
        tmp_path / "a.png",
        np.int64(5),
        np.float32(0.6),
        np.float32(7.5),
        generator=torch_names.Generator("cuda").manual_seed(1),
    ).latents
    assert np.array_equal(plain.asnumpy(), named.asnumpy())
    settings = dict(output_type="latent", **GRID)
    edited = pipe("a dog", checker(), plain, **settings).images.asnumpy()
    for mask, latents in (
        (str(tmp_path / "m.png"), plain),
        ([tmp_path / "m.png"], Foreign(plain.asnumpy())),
        (Foreign(checker()), plain.asnumpy()),
    ):
        again = pipe("a dog", mask, latents, clip_skip=np.int64(0), **settings).images
        assert np.array_equal(again.asnumpy(), edited)


def test_forms_of_states(pipe):
    states = pipe.embed_prompts("a cat")
    arguments = dict(image=picture(), generator=1, num_inference_steps=5, inpaint_strength=0.2)
    expected = pipe.invert(prompt_embeds=states, **arguments).latents.asnumpy()
    array = states.asnumpy()
    for same in (array, [array], [array[0]], array.tolist(), Foreign(array), [states]):
        found = pipe.invert(prompt_embeds=same, **arguments).latents.asnumpy()
        assert np.array_equal(found, expected)
    rounded = pipe.invert(prompt_embeds=states.astype(ms.bfloat16), **arguments).latents
    close(rounded.asnumpy(), expected, 0.02)


def test_states_of_another_length(pipe):
    """All of one batch need the length; without a negative, any length runs."""
    long = np.zeros((1, 90, 12), np.float32)
    arguments = dict(image=picture(), **GRID)
    with pytest.raises(InputError, match="90 positions but negative_prompt_embeds 77: give neg"):
        pipe.invert(prompt_embeds=long, **arguments)
    with pytest.raises(InputError, match="target_prompt_embeds has 90 positions but source_prompt"):
        pipe.generate_mask(picture(), target_prompt_embeds=long, source_prompt="a")
    with pytest.raises(InputError, match="90 positions but negative_prompt 77"):
        pipe(
            None,
            checker(),
            np.zeros((1, 3, 4, 6, 8)),
            negative_prompt="a",
            prompt_embeds=long,
            **GRID,
        )
