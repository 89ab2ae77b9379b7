"""The schedulers of a package, and how they are asked."""

import importlib
import logging
import math
import warnings
from typing import Callable, NamedTuple

import numpy as np

from diffedit_core.errors import InputError


class Package(NamedTuple):
    """The two schedulers of a package, and its tensors."""

    name: str
    version: str
    down: Callable  # DDIMScheduler
    up: Callable  # DDIMInverseScheduler
    to: Callable  # numpy -> tensor
    back: Callable  # tensor -> numpy
    refuses: tuple = ()  # settings: predictions, "clip_sample"


def of_diffusers():
    torch, public = importlib.import_module("torch"), importlib.import_module("diffusers")
    public.utils.logging.set_verbosity_error()
    both = public.DDIMScheduler, public.DDIMInverseScheduler
    return Package("diffusers", public.__version__, *both, torch.from_numpy, lambda x: x.numpy())


def of_mindone():
    ms = importlib.import_module("mindspore")
    public = importlib.import_module("mindone.diffusers.schedulers")
    version = importlib.import_module("importlib.metadata").version("mindone")
    logging.getLogger("mindone").setLevel(logging.ERROR)
    both = public.DDIMScheduler, public.DDIMInverseScheduler
    return Package("mindone", version, *both, ms.Tensor, lambda x: x.asnumpy())


def ours():
    core = importlib.import_module("diffedit_core.pipeline")
    both, same = (core.DDIMScheduler, core.DDIMInverseScheduler), np.asarray
    return Package("ours", "", *both, same, same, refuses=("sample", "clip_sample"))


PACKAGES = {"diffusers": of_diffusers, "mindone": of_mindone, "ours": ours}


def load(name):
    """The `Package` of a name.

    Raises:
        InputError: it cannot be imported here; the sentence says what to install.
    """
    extra = 'pip install ".[compare]"' if name == "diffusers" else f"pip install {name}"
    try:
        return PACKAGES[name]()
    except ImportError as error:
        raise InputError(f"{name} cannot be imported ({error}): {extra}.") from error


def take(package, scheduler, out, t, x):
    """One step, of numpy arrays; a division by zero shows in the result."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = scheduler.step(package.to(out), int(t), package.to(x), return_dict=False)
    return package.back(found[0])


def prediction_of(kind, x0, eps, alpha):
    """What a model of this kind says, of the picture and the noise that it sees."""
    signal, noise = (x0.dtype.type(math.sqrt(a)) for a in (alpha, 1 - alpha))
    return {"epsilon": eps, "sample": x0}.get(kind, signal * eps - noise * x0)
