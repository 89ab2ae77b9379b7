"""Faults at the edge: settings, model folders, parameters, tokenizer, pictures, addresses."""

from . import Fault

TESTS = {  # what has to notice, the quickest first
    "diffedit_core/settings": ("tests/test_config.py", "tests/test_hub.py"),
    "diffedit_core/scheduler_config": ("tests/test_config.py",),
    "diffedit_core/unet_config": ("tests/test_config.py",),
    "diffedit_core/hub": ("tests/test_hub.py", "tests/test_model.py"),
    "diffedit_core/folder": ("tests/test_hub.py", "tests/test_model.py"),
    "diffedit_core/recognise": ("tests/test_hub.py",),
    "diffedit_core/limits": ("tests/test_limits.py",),
    "diffedit_core/model": ("tests/test_model.py",),
    "diffedit_core/params": ("tests/test_params.py", "tests/test_hub.py"),
    "diffedit_core/tokenizer": ("tests/test_tokenizer.py",),
    "diffedit_core/arrays": ("tests/test_images.py",),
    "diffedit_core/colour": ("tests/test_colour.py",),
    "diffedit_core/reading": ("tests/test_images.py", "tests/test_web.py"),
    "diffedit_core/mask_files": ("tests/test_images.py",),
    "diffedit_core/writing": ("tests/test_colour.py", "tests/test_web.py", "tests/test_images.py"),
    "diffedit_core/web": ("tests/test_web.py",),
    "diffedit_core/fonts": ("tests/test_images.py",),
}

FAULTS = (
    # --- configurations
    Fault(
        "an unknown key is dropped in silence",
        "diffedit_core/settings",
        "elif key not in HARMLESS and key not in harmless:",
        "elif False:",
    ),
    Fault(
        "a number may be infinite",
        "diffedit_core/settings",
        "not isinstance(value, bool) and math.isfinite(value)",
        "not isinstance(value, bool)",
    ),
    Fault(
        "heads of the up path in the order of the down path",
        "diffedit_core/unet_config",
        'width // value if kind == "AttnUpBlock2D" else mirrored',
        'width // value if kind == "AttnUpBlock2D" else value',
    ),
    Fault(
        "flow sigmas are ignored as steering",
        "diffedit_core/scheduler_config",
        '"use_flow_sigmas": (False,),',
        '"use_flow_sigmas": (False, True),',
    ),
    Fault(
        "another sampler without a warning",
        "diffedit_core/scheduler_config",
        "if name is None or name in tuple(OWN):",
        "if name is None or name in tuple(OWN | OTHERS):",
    ),
    Fault(
        "defaults of LCM are those of DDIM",
        "diffedit_core/scheduler_config",
        "DEFAULTS.get(name, {}) | mapping",
        "mapping",
    ),
    # --- model folders
    Fault(
        "plain weights although fp16 is asked for",
        "diffedit_core/hub",
        'for variant in ("fp16", "") if half else ("", "fp16"):',
        'for variant in ("", "fp16"):',
    ),
    Fault(
        "shards of another variant",
        "diffedit_core/hub",
        "re.escape(base + dot)",
        "re.escape(base) + '.*'",
    ),
    Fault(
        "the client's repetitions are waited for",
        "diffedit_core/hub",
        'within(HUB_SECONDS, lambda: _listing(repository, place["revision"]))',
        '_listing(repository, place["revision"])',
    ),
    Fault(
        "headers are not checked",
        "diffedit_core/folder",
        "params.check(paths, configs.specs(component))",
        "pass",
    ),
    Fault(
        "tokens beyond the vocabulary",
        "diffedit_core/folder",
        "if largest >= configs.text.vocab_size:",
        "if largest > configs.text.vocab_size + 10**6:",
    ),
    Fault(
        "pointers pass for weights",
        "diffedit_core/folder",
        "if is_lfs_pointer(folder / name):",
        "if False:",
    ),
    Fault(
        "a refiner is any SDXL",
        "diffedit_core/recognise",
        'if has("text_encoder_2") and not has("text_encoder"):',
        "if False:",
    ),
    Fault(
        "the converter's command without quotes",
        "diffedit_core/recognise",
        'return f"weights_convert convert {shlex.quote(str(source))} {shlex.quote(target)}"',
        'return f"weights_convert convert {source} {target}"',
    ),
    Fault(
        "error without its square",
        "diffedit_core/limits",
        "np.mean((127.5 * difference) ** 2)",
        "np.mean(np.abs(127.5 * difference))",
    ),
    Fault(
        "capital letters are unknown",
        "diffedit_core/limits",
        'return unicodedata.normalize("NFC", text).lower()',
        'return unicodedata.normalize("NFC", text)',
    ),
    # --- parameters, tokenizer, model
    Fault(
        "bf16 read as fp16",
        "diffedit_core/params",
        "(bits.astype(np.uint32) << 16).view(np.float32)",
        "bits.view(np.float16).astype(np.float32)",
    ),
    Fault("a leaf may be given twice", "diffedit_core/params", "if leaf in seen:", "if False:"),
    Fault(
        "padding by the end token",
        "diffedit_core/tokenizer",
        "np.full((len(texts), tokenizer.max_length), tokenizer.pad, np.int32)",
        "np.full((len(texts), tokenizer.max_length), tokenizer.eos, np.int32)",
    ),
    Fault(
        "a long prompt loses its end token",
        "diffedit_core/tokenizer",
        "room = tokenizer.max_length - 2",
        "room = tokenizer.max_length - 1",
    ),
    Fault(
        "latents are not scaled",
        "diffedit_core/model",
        "return drawn * self.configs.vae.scaling_factor",
        "return drawn",
    ),
    Fault(
        "SD's scaling in place of the config's, encoding",
        "diffedit_core/model",
        "return drawn * self.configs.vae.scaling_factor",
        "return drawn * 0.18215",
        "scaled_once",
    ),
    Fault(
        "SD's scaling in place of the config's, decoding",
        "diffedit_core/model",
        "latents.asnumpy() / self.configs.vae.scaling_factor",
        "latents.asnumpy() / 0.18215",
        "scaled_once",
    ),
    # --- pictures and masks
    Fault(
        "half a level is rounded to even",
        "diffedit_core/arrays",
        "np.floor(np.clip(values, 0, 255) + 0.5)",
        "np.rint(np.clip(values, 0, 255))",
    ),
    Fault(
        "a resized mask counts covered cells fully",
        "diffedit_core/arrays",
        "mask.astype(np.float64) @ columns.T",
        "(mask > 0).astype(np.float64) @ columns.T",
    ),
    Fault("profiles are dropped", "diffedit_core/colour", "if not content:", "if True:"),
    Fault(
        "the alpha channel is lost with the profile",
        "diffedit_core/colour",
        "if alpha is not None:",
        "if False:",
    ),
    Fault(
        "16 bits are clipped at 255",
        "diffedit_core/reading",
        'white = 1 if picture.mode == "F" else 65535',
        'white = 1 if picture.mode == "F" else 255',
    ),
    Fault(
        "transparency over black",
        "diffedit_core/reading",
        'return flatten(to_srgb(picture, name), "white")',
        'return flatten(to_srgb(picture, name), "black")',
    ),
    Fault(
        "zeros and ones edit almost nothing",
        "diffedit_core/mask_files",
        "if grey.max() == 1:",
        "if False:",
    ),
    Fault(
        "8 bits in 16 are taken as they are",
        "diffedit_core/mask_files",
        "if 0 < largest <= 255:",
        "if 0 < largest <= 1:",
    ),
    Fault(
        "written pictures without a profile",
        "diffedit_core/writing",
        'if picture.mode == "RGB" and encoder != "BMP":',
        "if False:",
    ),
    Fault(
        "an endless answer is read to its end",
        "diffedit_core/web",
        "if len(content) > limit:",
        "if False:",
    ),
    Fault(
        "a font that has fewer characters",
        "diffedit_core/fonts",
        "if len(lacks) < len(missing):",
        "if len(lacks) > len(missing):",
    ),
)
