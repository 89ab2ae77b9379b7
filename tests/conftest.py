"""Hypothesis profiles: "dev" by default, "ci" with ten times the examples.

Choose by the environment variable HYPOTHESIS_PROFILE or by pytest's --hypothesis-profile.
"""

import os

from hypothesis import HealthCheck, settings

COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}  # a first operation in MindSpore takes a second
settings.register_profile("dev", max_examples=25, derandomize=True, **COMMON)
settings.register_profile("ci", max_examples=250, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))
