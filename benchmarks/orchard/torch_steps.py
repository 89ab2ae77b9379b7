"""The autoencoder's training step with PyTorch and diffusers, for `train.py vae --backend torch`
(extra `train`).

On a CPU MindSpore 2.8 differentiates convolutions of few channels on large pictures slowly; README
and the model card say what was measured. Loss, data, schedule and checkpoints are those of the
MindSpore step.
"""

import numpy as np
import torch
from diffusers import AutoencoderKL

from diffedit_core import params as P

from . import layout, steps as S


class VAETrainStep:
    """`steps.TrainStep` for the autoencoder: the same methods, the same update; convolutions in
    bfloat16.

    Args:
        terms: function of (found, image, mean, log_variance) -> scalar.
        weights: tree of arrays.
        frozen: beginnings of the paths of leaves that stay as they are.
    """

    def __init__(self, terms, weights, frozen=()):
        self.terms, self.weights = terms, weights
        self.model = AutoencoderKL.from_config(layout.public("vae", layout.VAE))
        self.model.load_state_dict(
            {path: torch.from_numpy(np.array(leaf)) for path, leaf in P.flatten(weights).items()}
        )
        self.named = {
            path: p
            for path, p in self.model.named_parameters()
            if not path.startswith(tuple(frozen))
        }
        for path, p in self.model.named_parameters():
            p.requires_grad_(path in self.named)
        self.first, self.second = [
            {path: torch.zeros_like(p) for path, p in self.named.items()} for _ in range(2)
        ]
        self.ema = {path: p.detach().clone() for path, p in self.named.items()}

    def __call__(self, rates, *inputs):
        image, target, noise, own = map(torch.from_numpy, inputs)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = self.model.encode(image).latent_dist
            latents = posterior.mean + posterior.std * noise
            found = self.model.decode(own * latents + (1 - own) * latents.flip((0,))).sample
        loss = self.terms(found.float(), target, posterior.mean.float(), posterior.logvar.float())
        gradients = torch.autograd.grad(loss, list(self.named.values()))
        norm = torch.sqrt(sum((g * g).sum() for g in gradients))
        shrink = S.LARGEST_NORM / max(float(norm), S.LARGEST_NORM)
        with torch.no_grad():
            for (path, p), g in zip(self.named.items(), gradients):
                first, second = self.first[path], self.second[path]
                first.lerp_(g * shrink, 1 - S.BETAS[0])
                second.lerp_((g * shrink) ** 2, 1 - S.BETAS[1])
                p -= float(rates[0]) * (first / (second.sqrt() + S.EPSILON) + S.WEIGHT_DECAY * p)
                self.ema[path].lerp_(p, float(rates[1]))
        return float(loss.detach()), float(norm)

    def arrays(self):
        kinds = {
            "params": dict(self.model.named_parameters()),
            "first": self.first,
            "second": self.second,
            "ema": self.ema,
        }
        return {
            f"{kind}.{path}": leaf.detach().numpy().copy()
            for kind, leaves in kinds.items()
            for path, leaf in leaves.items()
        }

    def restore(self, arrays):
        kinds = {
            "params": dict(self.model.named_parameters()),
            "first": self.first,
            "second": self.second,
            "ema": self.ema,
        }
        with torch.no_grad():
            for kind, leaves in kinds.items():
                for path, leaf in leaves.items():
                    leaf.copy_(torch.from_numpy(arrays[f"{kind}.{path}"]))

    def average(self):
        """The tree of averaged weights as arrays."""
        frozen = dict(self.model.named_parameters())
        return P.tree_map(
            lambda path, _: self.ema.get(path, frozen[path]).detach().numpy(), self.weights
        )
