"""The pipeline's networks as programs use them: `pipe.text_encoder(ids)`,
`pipe.unet(x, t, states)`, `pipe.vae.encode(pixels)`.

Tensors come back in the library of what was given: PyTorch's for PyTorch's, else MindSpore's.
"""

import dataclasses
from typing import NamedTuple

import mindspore as ms
import numpy as np

from . import vae
from .errors import InputError
from .foreign import beside, to_numpy
from .pipeline_checks import check, flag, whole
from .pipeline_draws import POSTERIOR, stream
from .pipeline_inputs import float_tensor
from .schedulers import FrozenConfig


class TextOutput(NamedTuple):
    """The text encoder's states [B,T,D], after the final layer norm."""

    last_hidden_state: object


class UNetOutput(NamedTuple):
    """The UNet's prediction [B,C,h,w]."""

    sample: object


class EncoderOutput(NamedTuple):
    """The distribution of a picture's latents."""

    latent_dist: object


class DecoderOutput(NamedTuple):
    """Pictures [B,3,H,W], about [-1,1]."""

    sample: object


class Part:
    """What the three networks share: their config, and switches that change nothing."""

    name = ""

    def __init__(self, pipe):
        self._pipe = pipe
        owner = {"text_encoder": "text"}.get(self.name, self.name)
        self.config = FrozenConfig(dataclasses.asdict(getattr(pipe.model.configs, owner)))

    @property
    def model(self):
        """The `model.Model` that it is a part of."""
        return self._pipe.model

    @property
    def dtype(self):
        """The pipeline's."""
        return self._pipe.dtype

    @property
    def device(self):
        """The pipeline's."""
        return self._pipe.device

    def to(self, *places, memory_format=None, **options):
        """Itself, checked as `pipe.to` does; the kernels choose the memory format."""
        self._pipe.to(*places, **options)
        return self

    def eval(self):
        """Itself: nothing here is trained."""
        return self

    def requires_grad_(self, requires_grad=True):
        """Itself: nothing here is trained, so only False is possible."""
        check("requires_grad", requires_grad, requires_grad is False, "False")
        return self


class TextEncoder(Part):
    """ids [B,T] -> text states [B,T,D]."""

    name = "text_encoder"

    def __call__(self, input_ids, attention_mask=None, output_hidden_states=None, return_dict=True):
        """Args: input_ids: whole numbers, T at most the config's max_position_embeddings;
        attention_mask: None, or ones everywhere."""
        ids = to_numpy(input_ids, "input_ids")
        most, words = self.config.max_position_embeddings, self.config.vocab_size
        shape = ids.ndim == 2 and ids.dtype.kind in "iu" and ids.size and ids.shape[1] <= most
        check("input_ids", ids, shape, f"whole numbers [B,T] with T at most {most}")
        inside = ids.min() >= 0 and ids.max() < words
        check("input_ids' range", [int(ids.min()), int(ids.max())], inside, f"[0, {words - 1}]")
        if (
            attention_mask is not None
            and not (to_numpy(attention_mask, "attention_mask") == 1).all()
        ):
            raise InputError(
                "attention_mask hides positions, which the model was not trained for: leave it out."
            )
        hidden = output_hidden_states is not None and flag(
            "output_hidden_states", output_hidden_states
        )
        check("output_hidden_states", hidden, not hidden, "left out: use embed_prompts(clip_skip=)")
        rows = [ms.Tensor(row[None]) for row in ids.astype(np.int32)]
        states = [self.model._run("text_encoder", r).astype(ms.float32).asnumpy() for r in rows]
        output = TextOutput(beside(np.concatenate(states), input_ids))
        return output if flag("return_dict", return_dict) else tuple(output)


class UNet(Part):
    """Latents [B,C,h,w] at a timestep, text states [B,S,D] -> prediction [B,C,h,w]."""

    name = "unet"

    def __call__(
        self,
        sample,
        timestep,
        encoder_hidden_states=None,
        cross_attention_kwargs=None,
        return_dict=True,
    ):
        """Args: timestep: one number, or one for each latent if all are the same."""
        x = float_tensor("sample", sample, (None, self.config.in_channels, None, None))
        width = self.config.cross_attention_dim
        states = float_tensor("encoder_hidden_states", encoder_hidden_states, (len(x), None, width))
        steps = np.unique(to_numpy(timestep, "timestep"))
        check("timestep", timestep, len(steps) == 1, "one number, the same for all latents")
        most = self.model.configs.scheduler.num_train_timesteps - 1
        whole_number = np.isfinite(steps[0]) and steps[0] == np.floor(steps[0])
        t = whole("timestep", int(steps[0]) if whole_number else steps[0], 0, most)
        given = cross_attention_kwargs
        check("cross_attention_kwargs", given, given is None, "left out, as it has no effect")
        predicted = self.model.predict(ms.Tensor(x), t, ms.Tensor(states)).asnumpy()
        output = UNetOutput(beside(predicted, sample))
        return output if flag("return_dict", return_dict) else tuple(output)


class VAE(Part):
    """Pictures [B,3,H,W] in [-1,1] <-> latents [B,C,h,w], unscaled: config.scaling_factor is the
    caller's."""

    name = "vae"

    def encode(self, x, return_dict=True):
        """The distribution of the latents of pictures whose sides are multiples of 8."""
        pixels = float_tensor("x", x, (None, 3, None, None))
        factor = self._pipe.vae_scale_factor
        sides = not any(n % factor for n in pixels.shape[2:])
        check("x's shape", pixels.shape, sides, f"[B,3,H,W] with H and W multiples of {factor}")
        output = EncoderOutput(Posterior(*self.model.encode_image(pixels, self._pipe.tiling), x))
        return output if flag("return_dict", return_dict) else tuple(output)

    def decode(self, z, return_dict=True, generator=None):
        """Pictures of unscaled latents; nothing is drawn, whatever the generator."""
        latents = float_tensor("z", z, (None, self.config.latent_channels, None, None))
        scaled = ms.Tensor(latents * np.float32(self.config.scaling_factor))
        pixels = self.model.decode_latents(scaled, self._pipe.tiling)
        output = DecoderOutput(beside(pixels, z))
        return output if flag("return_dict", return_dict) else tuple(output)

    def enable_tiling(self, use_tiling=True):
        """The pipeline's `enable_vae_tiling`."""
        on = flag("use_tiling", use_tiling)
        self._pipe.enable_vae_tiling() if on else self._pipe.disable_vae_tiling()

    def disable_tiling(self):
        """The pipeline's `disable_vae_tiling`."""
        self._pipe.disable_vae_tiling()

    def enable_slicing(self):
        """Nothing changes: pictures always pass one at a time."""

    disable_slicing = enable_slicing


class Posterior:
    """The normal distribution of a picture's unscaled latents: `mean`, `logvar`, `mode()`,
    `sample(generator)`."""

    def __init__(self, mean, log_variance, given):
        self._moments, self._given = (mean, log_variance), given
        self.mean, self.logvar = (beside(m.asnumpy(), given) for m in self._moments)

    def mode(self):
        """The mean."""
        return self.mean

    def sample(self, generator=None):
        """One draw, from None, a seed or a Generator."""
        noise = stream(generator, POSTERIOR).standard_normal(self._moments[0].shape)
        drawn = vae.sample(*self._moments, ms.Tensor(noise.astype(np.float32)))
        return beside(drawn.asnumpy(), self._given)
