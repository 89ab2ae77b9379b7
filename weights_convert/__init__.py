"""Every public form of Stable Diffusion 1 and 2 weights, converted to the layout that the core
loads, and back."""

from .convert import convert
from .inspect import inspect
from .verify import verify

__all__ = ["convert", "inspect", "verify"]
