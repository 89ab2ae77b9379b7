"""The public pipeline's switches: those of memory that do something here, those that change
nothing and say so once, and those that would need what is not there."""

import re

from . import kernels as K
from . import params as P
from .errors import InputError
from .foreign import shown
from .pipeline_checks import check, warn, whole
from .pipeline_loading import dtype_name
from .vae import Tiling
from .weights import releasable

# what the public pipeline can be asked for, and why nothing changes
HARMLESS = {
    "enable_attention_slicing": "the kernels choose how attention is computed",
    "disable_attention_slicing": "the kernels choose how attention is computed",
    "set_attention_slice": "the kernels choose how attention is computed",
    "enable_xformers_memory_efficient_attention": "the kernels have an attention of their own",
    "disable_xformers_memory_efficient_attention": "the kernels have an attention of their own",
    "set_use_memory_efficient_attention_xformers": "the kernels have an attention of their own",
    "disable_freeu": "FreeU is never on",
    "fuse_qkv_projections": "the compiler fuses what it can",
    "unfuse_qkv_projections": "the compiler fuses what it can",
    "enable_lora_hotswap": "a LoRA is merged into a model's files before it is loaded",
    "unload_lora_weights": "no LoRA is loaded",
    "unfuse_lora": "no LoRA is loaded",
    "disable_lora": "no LoRA is loaded",
    "unload_textual_inversion": "words are added to a model's files before it is loaded",
    "unload_ip_adapter": "no IP-Adapter is loaded",
    "maybe_free_model_hooks": "the model needs no hooks",
    "remove_all_hooks": "the model needs no hooks: see disable_model_cpu_offload",
    "reset_device_map": "the model is on one device",
}
CONVERT = "python -m weights_convert convert"
MERGE_LORA = f"merge it with `{CONVERT} MODEL NEW --lora FILE SCALE` and load the folder NEW"
ADD_WORDS = f"add its words with `{CONVERT} MODEL NEW --embedding FILE` and load the folder NEW"
NO_ADAPTER = "an IP-Adapter needs layers that this UNet does not have: describe it in the prompt"
REFUSED = {
    "load_lora_weights": MERGE_LORA,
    "load_lora_into_unet": MERGE_LORA,
    "load_lora_into_text_encoder": MERGE_LORA,
    "fuse_lora": MERGE_LORA,
    "set_adapters": MERGE_LORA,
    "load_textual_inversion": ADD_WORDS,
    "load_ip_adapter": NO_ADAPTER,
    "set_ip_adapter_scale": NO_ADAPTER,
    "save_pretrained": "the weights are those of the folder that was loaded: copy that folder",
    "push_to_hub": "the weights are those of the folder that was loaded: upload that folder",
    "enable_freeu": "FreeU is not implemented: leave the call out",
    "enable_group_offload": "the compiled graphs hold the weights: leave the call out",
}
REFUSED_OF_THE_CLASS = {
    "from_single_file": f"convert the file with `{CONVERT} FILE NEW` and give from_pretrained the "
    "folder NEW",
    "from_pipe": "build it with StableDiffusionDiffEditPipeline(**pipeline.components)",
    "download": "call from_pretrained with the repository's name",
}


class Device(str):
    """The name of MindSpore's device, which programs also ask for `.type` and `.index`."""

    index = 0

    @property
    def type(self):
        return str(self)


class Switches:
    """Methods that a pipeline inherits; it has `model` (`model.Model`) and `tiling`."""

    @property
    def device(self):
        """MindSpore's device: its name in lower case, with `.type` and `.index`."""
        return Device(K.device().lower())

    @property
    def dtype(self):
        """The dtype of weights and activations."""
        return P.DTYPES[self.model.dtype]

    def to(self, *places, device=None, dtype=None, silence_dtype_warnings=False):
        """The pipeline itself, which is already on MindSpore's device and in the dtype that it was
        loaded in."""
        for place in (*places, device, dtype):
            if place is None:
                continue
            if dtype_name(place) in P.DTYPES:
                self._check_dtype(place)
            else:
                self._check_device(place)
        return self

    def cuda(self, device="cuda"):
        """The same as `to(device)`."""
        return self.to(device)

    def cpu(self):
        """The same as `to("cpu")`."""
        return self.to("CPU")

    def _check_dtype(self, given):
        if dtype_name(given) != self.model.dtype:
            raise InputError(
                f"dtype is {shown(given)} but the model was loaded in {self.model.dtype}: give "
                "torch_dtype to from_pretrained."
            )

    def _check_device(self, given):
        named = getattr(given, "type", given)
        name = f"cuda:{named}" if type(named) is int and named >= 0 else named
        good = isinstance(name, str) and re.fullmatch(r"[a-zA-Z]+(:\d+)?", name)
        check("device", given, good, "the name of a device, such as 'cuda' or 'npu:0', or a dtype")
        if name.split(":")[0].lower() != self.device:
            self._say(f"to({name!r})", f"MindSpore runs the model on its device, {self.device}")

    def _say(self, call, why):
        """Warn once for each call that it changes nothing."""
        said = self.__dict__.setdefault("_said", set())
        if call not in said:
            said.add(call)
            warn(f"{call} has no effect: {why}.")

    def enable_model_cpu_offload(self, gpu_id=None, device=None):
        """On a CPU, have the weights of one component at a time in memory from now on: the others
        are given back, and read again from the model's files when they are needed. No bit of a
        result changes, and nothing compiles twice.

        There is one device, whatever `gpu_id` and `device` name. On another one than a CPU, or with
        a model that was not read from files, nothing moves, and a warning says why.
        """
        if releasable() and self.model.weights:
            self.model.sequential = True
        elif releasable():
            self._say("enable_model_cpu_offload", "the weights were not read from files")
        else:
            why = "the compiled graphs hold the weights on the device (for less memory: fp16, or "
            self._say("enable_model_cpu_offload", f"{why}tiles)")

    def enable_sequential_cpu_offload(self, gpu_id=None, device=None):
        """The same as `enable_model_cpu_offload`."""
        self.enable_model_cpu_offload()

    def disable_model_cpu_offload(self):
        """Weights stay in memory once they are there."""
        self.model.sequential = False

    def enable_vae_slicing(self):
        """Nothing changes: pictures always pass the VAE one at a time, which is what this asks
        for."""

    disable_vae_slicing = enable_vae_slicing

    def enable_vae_tiling(self, tile=Tiling().tile, overlap=Tiling().overlap):
        """Encode and decode pictures larger than `tile` in overlapping tiles (both in latent
        cells): less memory."""
        tile, overlap = whole("tile", tile), whole("overlap", overlap, 0)
        if overlap >= tile:
            raise InputError(
                f"The tile is {tile} cells and the overlap {overlap}: it has to be smaller."
            )
        self.tiling = Tiling(tile, overlap)

    def disable_vae_tiling(self):
        """Encode and decode pictures whole."""
        self.tiling = None


def _harmless(name, why):
    def method(self, *args, **kwargs):
        self._say(name, why)

    method.__name__, method.__doc__ = name, f"Nothing changes: {why}."
    return method


def _refused(name, remedy):
    def method(self, *args, **kwargs):
        raise InputError(f"{name} is not possible on a loaded pipeline: {remedy}.")

    method.__name__, method.__doc__ = name, f"Refused: {remedy}."
    return method


for _name, _why in HARMLESS.items():
    setattr(Switches, _name, _harmless(_name, _why))
for _name, _remedy in REFUSED.items():
    setattr(Switches, _name, _refused(_name, _remedy))
for _name, _remedy in REFUSED_OF_THE_CLASS.items():
    setattr(Switches, _name, classmethod(_refused(_name, _remedy)))
