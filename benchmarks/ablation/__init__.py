"""Experiments on edits whose answer is known; see benchmarks/README.md."""

from .experiment import Experiment  # noqa: F401
