"""The loaded model: its weights bound to four functions, which are compiled when it pays."""

import re
import warnings
from collections import Counter

import mindspore as ms
import numpy as np

from . import clip, graph_cache, kernels as K, params as P, tokenizer as T, trace, unet, vae
from . import weights as W
from .errors import InputError
from .folder import COMPONENTS, ORCHARD, Found, check
from .folder import describe, read_configs, weight_files  # noqa: F401
from .graphs import Graph, signature
from .hub import find  # noqa: F401
from .memory import default_cells, rows_at_once

# (kernels, dtype) -> {function: calls of a shape that run operation by operation before it is
# compiled}: where that gives the same bits, and a compilation takes as long as a dozen of them.
# (The text encoder and the UNet can round otherwise when they are compiled, and in fp16 all do.)
CALLS_BEFORE = {("cpu", "fp32"): {"vae_encoder": 12, "vae_decoder": 12}}
# No calls where the picture's pixels times the square of the autoencoder's fewest channels are so
# many: there a compilation is paid back within three (measured with 2^26, 2^28 and 2^30).
LARGE = 1 << 29


class Model:
    """The loaded model: four functions (see CALLS_BEFORE), the tokenizer, and the configurations.
    All tensors in and out are fp32.

    Attributes:
        configs: `Configs`.
        tokenizer: `tokenizer.Tokenizer`.
        graphs: {"text_encoder", "unet", "vae_encoder", "vae_decoder"} -> `Graph`.
        on_compile: None, or called with a text before a graph compiles and with "" after its first
            run.
        weights: {component: `weights.Weights`}; empty where the parameters were given.
        sequential: whether only the component that computes has its weights in memory, and none has
            while a graph compiles. It may be set at any time; each change of the component then
            reads its files again, and no bit of a result changes.
        cached: whether graphs are loaded from files and kept in them, see `graph_cache`.
    """

    def __init__(self, configs, tokenizer, params, dtype="fp32", kernels=None, cells_at_once=None):
        kernels = K.checked(kernels)
        warn_of_slow_convolution(kernels)
        self.configs, self.tokenizer, self.dtype, self.kernels = configs, tokenizer, dtype, kernels
        self.cells_at_once = default_cells(kernels) if cells_at_once is None else cells_at_once
        self.graphs = {
            "text_encoder": self._graph(clip.apply, params["text_encoder"], configs.text),
            "unet": self._graph(unet.apply, params["unet"], configs.unet),
            "vae_encoder": self._graph(vae.encode, params["vae"], configs.vae),
            "vae_decoder": self._graph(vae.decode, params["vae"], configs.vae),
        }
        self.on_compile, self.weights, self.sequential, self.cached = None, {}, False, True
        self._calls, self._compiled = Counter(), set()  # of (graph, signature of its inputs)
        named = kernels if isinstance(kernels, str) else None
        self._before = CALLS_BEFORE.get((named, dtype), {})

    @classmethod
    def load(
        cls,
        source=ORCHARD,
        dtype="fp32",
        kernels=None,
        on_component=None,
        variant=None,
        cells_at_once=None,
        hf32=False,
        sequential=False,
    ):
        """Load a folder in the public layout, or a repository id.

        Args:
            source: folder or repository id, or what `folder.check` found of one.
            dtype: "fp32", "fp16" or "bf16", for the weights and the activations.
            kernels: a name of `kernels.LOWERINGS`, or a table of your own; by default the device's.
            on_component: called with the name of each component before it is read.
            variant: "fp16" prefers the files of that name for any dtype; None does so for fp16
                only.
            cells_at_once: how many latent cells the UNet takes at a time (see `rows_at_once`), 0
                for any number; by default what suits the kernels.
            hf32: on Ascend, let fp32 products be rounded to HF32 (11 bits of mantissa): faster.
            sequential: on a CPU, have the weights of one component at a time in memory, each read
                when it is first needed; then also what is wrong with their values is said.
        Raises:
            InputError: anything is missing, malformed, unknown, or does not fit together; or
                `sequential` on a device whose memory MindSpore manages.
        """
        if dtype not in P.DTYPES:
            raise InputError(f"The dtype is {dtype!r}: choose one of {', '.join(P.DTYPES)}.")
        K.set_up(dtype, hf32)
        if sequential and not W.releasable():
            raise InputError(
                f"sequential is for a CPU, MindSpore runs on {K.device()}: leave it out."
            )
        half = "fp16" in (dtype, variant)
        found = source if isinstance(source, Found) else check(source, half)
        weights = {}
        for component, files in found.files.items():
            if on_component is not None:
                on_component(component)
            weights[component] = W.Weights(files, found.configs.specs(component), dtype)
            if not sequential:
                weights[component].fill()
        params = {component: w.params for component, w in weights.items()}
        model = cls(found.configs, found.tokenizer, params, dtype, kernels, cells_at_once)
        model.weights, model.sequential = weights, sequential
        return model

    def _hold(self, name):
        """The weights of a graph are in memory, and with `sequential` no others."""
        (component,) = [c for c in COMPONENTS if name.startswith(c)]
        if self.sequential:
            self._release(c for c in self.weights if c != component)
        if component in self.weights:
            self.weights[component].fill()

    def _release(self, components):
        """Give the memory of their weights back."""
        filled = [self.weights[c] for c in components if self.weights[c].filled]
        for weights in filled:
            weights.release()
        if filled:
            W.trim()

    def _run(self, name, *inputs):
        """Run a graph, announce its compilation, and refuse results that are not finite."""
        graph, key = self.graphs[name], (name, signature(inputs))
        pays = self.sequential or self._calls[key] >= self._calls_before(name, inputs[0])
        first = pays and key not in self._compiled
        self._calls[key] += 1
        if first:
            self._compiled.add(key)
            if self.on_compile is not None:
                self.on_compile(f"compiling {name}")
            if self.sequential:  # a compiler and the weights never share the memory
                self._release(self.weights)
            file = graph_cache.file_of(graph, inputs) if self.cached else None
            graph_cache.compiled(graph, inputs, file)
            if self.sequential:
                W.trim()
        self._hold(name)
        compiled = key in self._compiled
        outputs = graph(*inputs) if compiled else graph.eagerly(self.kernels, *inputs)
        finite = trace.finite(*(outputs if isinstance(outputs, tuple) else (outputs,)))
        if first and self.on_compile is not None:
            self.on_compile("")
        if not finite:
            place = trace.locate_nonfinite(
                graph.eagerly, graph.params, *inputs, kernels=self.kernels
            )
            remedy = (
                "use --dtype fp32" if self.dtype != "fp32" else "check the weights and the inputs"
            )
            raise InputError(
                f"The {name} produced NaN or infinity in {self.dtype}, first {place}: {remedy}."
            )
        return outputs

    def _calls_before(self, name, x):
        """How many calls with an input of this shape run before the function is compiled for it."""
        if name not in self._before:
            return 0
        scale = self.configs.vae.factor if name == "vae_decoder" else 1
        pixels = scale**2 * x.shape[2] * x.shape[3]
        large = pixels * min(self.configs.vae.block_out_channels) ** 2 >= LARGE
        return 0 if large else self._before[name]

    def _cast(self, x):
        return x.astype(P.DTYPES[self.dtype])

    def _graph(self, function, params, config):
        return Graph(function, params, config, K.table_of(self.kernels))

    def encode_prompts(self, texts, skip=0):
        """Texts -> encoder_hidden_states [B,77,D]; `skip` leaves out that many of the last layers
        (clip_skip).

        Raises InputError for a text that cannot be encoded.
        """
        ids = T.encode(self.tokenizer, list(texts))
        graph = self.graphs["text_encoder"]
        if skip:
            if not 0 < skip < self.configs.text.num_hidden_layers:
                raise InputError(
                    f"clip_skip is {skip}: the text encoder has "
                    f"{self.configs.text.num_hidden_layers} layers."
                )
            name = f"text_encoder without {skip}"
            config = self.configs.text.without_last(skip)
            self.graphs.setdefault(name, self._graph(clip.apply, graph.params, config))
        else:
            name = "text_encoder"
        rows = [
            self._run(name, ms.Tensor(row[None])) for row in ids
        ]  # one by one: a single graph for any number
        return ms.ops.concat(rows, 0).astype(ms.float32)

    def predict(self, latents, timestep, encoder_hidden_states):
        """The UNet's raw prediction for latents [B,4,h,w] that are all at one timestep ->
        [B,4,h,w].

        The batch runs in parts of at most `cells_at_once` cells: less memory, and fewer graphs.
        """
        parts = self._in_parts("unet", timestep, latents, encoder_hidden_states)
        return ms.ops.concat(parts).astype(ms.float32)

    def evaluate(self, latents, timestep, encoder_hidden_states, deep=None):
        """(the prediction of `predict`, deep features [B,C',h,w] of the model's own dtype).

        With deep features of an earlier evaluation of latents of the same shape these are taken and
        given back, and only the UNet's outermost level is computed (`unet.apply_reusing`).
        """
        keeps = deep is None
        name = "unet that keeps" if keeps else "unet that reuses"
        if name not in self.graphs:
            function = unet.apply_keeping if keeps else unet.apply_reusing
            params, config = self.graphs["unet"].params, self.configs.unet
            self.graphs[name] = self._graph(function, params, config)
        given = (
            (latents, encoder_hidden_states) if keeps else (latents, encoder_hidden_states, deep)
        )
        parts = self._in_parts(name, timestep, *given)
        predicted, deep = map(ms.ops.concat, zip(*parts)) if keeps else (ms.ops.concat(parts), deep)
        return predicted.astype(ms.float32), deep

    def _in_parts(self, name, timestep, *inputs):
        """What a graph of the UNet gives for the parts of a batch [B,...] that run at once, the
        latents first."""
        timesteps = ms.Tensor(np.array([timestep], np.int32))
        latents, *others = map(self._cast, inputs)
        cells = latents.shape[2] * latents.shape[3]
        rows = rows_at_once(latents.shape[0], cells, self.cells_at_once)
        return [
            self._run(name, latents[i : i + rows], timesteps, *(x[i : i + rows] for x in others))
            for i in range(0, latents.shape[0], rows)
        ]

    def encode_image(self, image, tiling=None):
        """Picture [B,3,H,W] in [-1,1] -> (mean, log_variance) of its unscaled latents, [B,4,h,w]
        each.

        Each picture is encoded by itself, so that one graph serves every batch. With `tiling`
        (`vae.Tiling`), in tiles.
        """
        image = np.asarray(image, np.float32)
        moments = [
            vae.encode_tiled(self._encode, row[None], self.configs.vae.factor, tiling)
            for row in image
        ]
        mean, log_variance = [ms.Tensor(np.concatenate(m)) for m in zip(*moments)]
        return mean, log_variance

    def latents(self, moments, noise=None):
        """Scaled latents from `encode_image`'s moments: the posterior's mean, or a sample with
        `noise` of the same shape."""
        mean, log_variance = moments
        drawn = (
            mean
            if noise is None
            else vae.sample(mean, log_variance, ms.Tensor(np.asarray(noise, np.float32)))
        )
        return drawn * self.configs.vae.scaling_factor

    def _encode(self, image):
        mean, log_variance = self._run("vae_encoder", self._cast(ms.Tensor(image)))
        return mean.astype(ms.float32).asnumpy(), log_variance.astype(ms.float32).asnumpy()

    def decode_latents(self, latents, tiling=None):
        """Scaled latents [B,4,h,w] -> picture [B,3,H,W] as numpy float32, about [-1,1], one at a
        time."""
        latents = latents.asnumpy() / self.configs.vae.scaling_factor
        return np.concatenate(
            [
                vae.decode_tiled(self._decode, row[None], self.configs.vae.factor, tiling)
                for row in latents
            ]
        )

    def _decode(self, latents):
        return self._run("vae_decoder", self._cast(ms.Tensor(latents))).astype(ms.float32).asnumpy()


def warn_of_slow_convolution(kernels):
    """MindSpore 2.9 and later fall back to oneDNN's reference loop for 3x3 convolutions on a CPU
    (over 100 times slower)."""
    version = tuple(int(n) for n in re.findall(r"\d+", ms.__version__)[:2])
    if kernels == "cpu" and version >= (2, 9):
        warnings.warn(
            f"MindSpore {ms.__version__} computes 3x3 convolutions on a CPU over 100 times slower "
            "than 2.8: install mindspore 2.7 or 2.8.",
            stacklevel=3,
        )
