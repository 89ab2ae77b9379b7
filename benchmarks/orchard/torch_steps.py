"""The training steps with PyTorch, diffusers and transformers, for `train.py --backend torch`
(extra `train`).

On a CPU MindSpore 2.8 takes the gradient of convolutions slowly; README and the model card say what
was measured. Losses, data, schedule and checkpoints are those of the MindSpore steps. On a GPU the
autoencoder is compiled (`torch.compile`), and no step waits for the one before.
"""

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel

from diffedit_core import params as P

from . import layout, steps as stepping

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# with PyTorch 2.11's flash and cuDNN kernels allowed, gradients were not finite on an H100
ATTENTION = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
ATTENTION += [SDPBackend.FLASH_ATTENTION] if DEVICE == "cpu" else []
TEXT = "text_model."  # newer versions of transformers leave it out of the names of the leaves


class TorchStep:
    """`steps.TrainStep` with PyTorch: the same methods, the same update; convolutions in bfloat16.

    Args:
        modules: modules whose parameters are the weights; their names do not meet.
        loss: function of (*modules, *inputs), the inputs as tensors.
        weights: tree of arrays.
        frozen: beginnings of the paths of leaves that stay as they are.
        narrow: whether convolutions and products are computed in bfloat16.
    """

    def __init__(self, modules, loss, weights, frozen=(), narrow=True):
        # channels last is the order that oneDNN computes in
        self.modules = [m.to(DEVICE, memory_format=torch.channels_last) for m in modules]
        self.loss, self.weights, self.narrow = loss, weights, narrow
        flat = P.flatten(weights)
        self.leaves = {
            name if name in flat else TEXT + name: leaf
            for module in self.modules
            for name, leaf in module.named_parameters()
        }
        if set(self.leaves) != set(flat):
            different = ", ".join(sorted(set(self.leaves) ^ set(flat))[:5])
            raise ValueError(f"The modules are not those of the weights: {different}.")
        self.named = {p: leaf for p, leaf in self.leaves.items() if not p.startswith(tuple(frozen))}
        for path, leaf in self.leaves.items():
            leaf.requires_grad_(path in self.named)
        with torch.no_grad():
            for path, leaf in self.leaves.items():
                leaf.copy_(torch.from_numpy(np.array(flat[path])))
        self.first, self.second = [
            {path: torch.zeros_like(leaf) for path, leaf in self.named.items()} for _ in range(2)
        ]
        self.gradients = [torch.zeros_like(leaf) for leaf in self.named.values()]
        self.ema = {path: leaf.detach().clone() for path, leaf in self.named.items()}

    def __call__(self, rates, *inputs):
        """One update; loss and gradient norm are tensors, so that a GPU need not be waited for."""
        tensors = [torch.from_numpy(x).to(DEVICE, non_blocking=True) for x in inputs]
        with torch.autocast(DEVICE, torch.bfloat16, enabled=self.narrow):
            loss = self.loss(*self.modules, *tensors)
        with torch.no_grad():
            norm = self.update(float(rates[0]), float(rates[1]), loss)
        return loss.detach(), norm

    def update(self, rate, forget, loss):
        """`steps.adamw` on all leaves at once: the norm of the loss's gradient before clipping."""
        leaves = list(self.named.values())
        first, second, ema = [list(kind.values()) for kind in (self.first, self.second, self.ema)]
        torch._foreach_copy_(self.gradients, torch.autograd.grad(loss, leaves))
        g = self.gradients
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(g)))
        torch._foreach_mul_(g, (stepping.LARGEST_NORM / norm).clamp(max=1))
        torch._foreach_lerp_(first, g, 1 - stepping.BETAS[0])
        torch._foreach_lerp_(second, torch._foreach_mul(g, g), 1 - stepping.BETAS[1])
        roots = torch._foreach_sqrt(second)
        torch._foreach_add_(roots, stepping.EPSILON)
        changes = torch._foreach_div(first, roots)
        torch._foreach_add_(changes, leaves, alpha=stepping.WEIGHT_DECAY)
        torch._foreach_add_(leaves, changes, alpha=-rate)
        torch._foreach_lerp_(ema, leaves, forget)
        return norm

    def state(self):
        """{name: leaf} of everything that the next step depends on."""
        kinds = {"params": self.leaves, "first": self.first, "second": self.second, "ema": self.ema}
        return {
            f"{kind}.{path}": leaf
            for kind, leaves in kinds.items()
            for path, leaf in leaves.items()
        }

    def arrays(self):
        return {name: to_array(leaf) for name, leaf in self.state().items()}

    def restore(self, arrays):
        with torch.no_grad():
            for name, leaf in self.state().items():
                leaf.copy_(torch.from_numpy(arrays[name]))

    def average(self):
        """The tree of averaged weights as arrays."""
        return P.tree_map(
            lambda path, _: to_array(self.ema.get(path, self.leaves[path])), self.weights
        )


def to_array(leaf):
    """A copy of a tensor as a numpy array."""
    return leaf.detach().cpu().numpy().copy()


def vae_step(terms, weights, frozen=()):
    """The autoencoder's step; `terms` is a function of (found, image, mean, log_variance)."""

    def loss(model, image, target, noise, own):
        posterior = model.encode(image.contiguous(memory_format=torch.channels_last)).latent_dist
        latents = posterior.mean + posterior.std * noise
        found = model.decode(own * latents + (1 - own) * latents.flip((0,))).sample
        return terms(found.float(), target, posterior.mean.float(), posterior.logvar.float())

    return TorchStep([autoencoder()], compiled(loss), weights, frozen)


def compiled(function):
    """The function as one program, where there is a GPU; as it is, where there is none."""
    return torch.compile(function, dynamic=False) if DEVICE == "cuda" else function


def autoencoder():
    """The public autoencoder of our configuration."""
    return AutoencoderKL.from_config(layout.public("vae", layout.VAE))


def unet_step(weights, text_config, config, narrow=True):
    """The step of text encoder and UNet together: `denoiser.unet_loss`."""
    fields = layout.public("text_encoder", text_config)
    fields.pop("architectures")
    modules = [
        CLIPTextModel(CLIPTextConfig(**fields)),
        UNet2DConditionModel.from_config(layout.public("unet", config)),
    ]

    @sdpa_kernel(ATTENTION)
    def loss(text, unet, latents, noise, levels, timesteps, ids):
        states = text(ids.long())[0]
        noisy = levels[0] * latents + levels[1] * noise
        wanted = levels[0] * noise - levels[1] * latents
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        error = unet(noisy, timesteps, states).sample.float() - wanted
        return (error * error).mean()

    return TorchStep(modules, loss, weights, narrow=narrow)


def encoder(weights):
    """A function of pictures float [B,3,H,W] -> (mean, log_variance) in float32, as arrays."""
    model = autoencoder()
    flat = P.flatten(weights)
    model.load_state_dict({path: torch.from_numpy(np.array(leaf)) for path, leaf in flat.items()})
    model.to(DEVICE, memory_format=torch.channels_last)

    @torch.no_grad()
    def encode(image):
        image = torch.from_numpy(image).to(DEVICE, memory_format=torch.channels_last)
        posterior = model.encode(image).latent_dist
        return posterior.mean.cpu().numpy(), posterior.logvar.cpu().numpy()

    return encode
