"""What is known of Ascend's chips, and what a process chooses there before its first operation.

From CANN's and MindSpore's documentation; no such device was at hand.
"""

import warnings
from typing import NamedTuple

import mindspore as ms

from ..errors import InputError


class Chip(NamedTuple):
    """A family of chips."""

    family: str
    fused: bool  # has the fused attention
    bf16: bool
    fp32: bool  # multiplies matrices in float32; the others do so in fp16


# the start of what MindSpore calls a chip -> its family; longer names stand first
CHIPS = {
    "ascend910b": Chip("A2", True, True, True),
    "ascend910_93": Chip("A3", True, True, True),
    "ascend310p": Chip("310P", False, False, False),
    "ascend910": Chip("910A", False, False, False),  # 910A, 910ProA, 910PremiumA
}


def chip(name):
    """The `Chip` of a name such as "Ascend910B4"; None if there is none for it."""
    found = [row for start, row in CHIPS.items() if name.lower().startswith(start)]
    return found[0] if found else None


def chip_name():
    """What MindSpore calls the chip that it uses."""
    return ms.hal.get_device_name(ms.get_context("device_id"), "Ascend")


def has_fused_attention():
    """Whether the chip that MindSpore uses is known to have the fused attention."""
    found = chip(chip_name())
    return found is not None and found.fused


def check_dtype(dtype):
    """Raises InputError where the chip is not known to have the dtype."""
    name = chip_name()
    found = chip(name)
    if dtype == "bf16" and (found is None or not found.bf16):
        what = "no bf16" if found else "no bf16 that is known of"
        raise InputError(f"{name} has {what}: choose fp32 or fp16.")


def set_up(dtype, hf32):
    """Choose the precision of this process. Has to come before its first operation.

    Raises:
        InputError: the chip is not known to have the dtype, or the other was chosen before.
    """
    check_dtype(dtype)
    name = chip_name()
    found = chip(name)
    if dtype == "fp32" and found is not None and not found.fp32:
        warnings.warn(
            f"The matrix unit of {name} knows fp16 only: it rounds products of fp32 to that, or "
            "refuses them.",
            stacklevel=3,
        )
    choose_hf32(hf32)


_hf32 = []  # the one choice that this process made


def choose_hf32(allowed):
    """Whether float32 products may be computed in HF32, whose mantissa has 11 bits: by default CANN
    does so in convolutions, and this project does not.

    CANN reads it once.

    Raises:
        InputError: the process has chosen the other before.
    """
    if _hf32 and _hf32[0] != allowed:
        chosen = "with" if _hf32[0] else "without"
        raise InputError(
            f"This process runs {chosen} HF32, which can be chosen once: start another process."
        )
    if not _hf32:
        precision = ms.device_context.ascend.op_precision
        try:
            precision.conv_allow_hf32(allowed)
            precision.matmul_allow_hf32(allowed)
        except RuntimeError as error:
            raise InputError(
                "HF32 was chosen before the model was loaded, and can be chosen once: leave "
                "conv_allow_hf32 and matmul_allow_hf32 to Model.load(hf32=...)."
            ) from error
        _hf32.append(allowed)
