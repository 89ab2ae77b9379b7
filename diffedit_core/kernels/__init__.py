"""The only place that knows a device: every operation of the models, and the table that says which
function computes it where.

| file | what it holds |
|---|---|
| `reference.py` | each operation once, as readable as its equation |
| `composites.py` | operations made of others: written once, from the operations of any table |
| `library.py` | calls of MindSpore's library, which several devices share |
| `cpu.py`, `ascend.py` | what is faster on such a device |
| `winograd.py` | a 3x3 convolution with fewer products, which `cpu.py` chooses |
| `aclop.py` | Ascend's older operations, to compare with |
| `chips.py` | what is known of Ascend's chips |

A model passes its `kernels` down to the functions at the end of this file: a name of `LOWERINGS`,
or a table of one's own. A kernel of one's own, in every edit:

    def silu(x):
        return x * ops.sigmoid(x)

    table = {**kernels.LOWERINGS["cpu"], "silu": silu}
    model = Model.load(kernels=table)

A lowering takes two places: its function, and its row here. A new operation takes its function in
`reference.py`, a row, and the function below that the models call. A backend's own composite stands
for itself: `cpu.geglu` does not look for another `linear` in the table. MindSpore compiles a kernel
from its source: it has to stand in a file.
"""

import mindspore as ms

from ..errors import InputError
from . import aclop, ascend, chips, composites, cpu, library, reference

REFERENCE = {
    "conv2d": reference.conv2d,
    "linear": reference.linear,
    "attention": reference.attention,
    "group_norm": reference.group_norm,
    "layer_norm": reference.layer_norm,
    "gelu": reference.gelu,
    "quick_gelu": reference.quick_gelu,
    "silu": reference.silu,
    "upsample": reference.upsample,
    "embedding": reference.embedding,
}

COMPOSITES = {
    "linear_from_picture": composites.linear_from_picture,
    "linear_to_picture": composites.linear_to_picture,
    "geglu": composites.geglu,
}

ASCEND = {
    **REFERENCE,
    "conv2d": ascend.conv2d,
    "linear": ascend.linear,
    "attention": ascend.attention,
    "group_norm": ascend.group_norm,
    "layer_norm": ascend.layer_norm,
    "gelu": ascend.gelu,
    "silu": library.silu,
    "upsample": ascend.upsample,
    "embedding": ascend.embedding,
}

LOWERINGS = {
    "reference": REFERENCE,
    "cpu": {
        **REFERENCE,
        "conv2d": cpu.conv2d,
        "linear": library.linear,
        "linear_from_picture": cpu.linear_from_picture,
        "linear_to_picture": cpu.linear_to_picture,
        "geglu": cpu.geglu,
        "attention": cpu.attention,
        "group_norm": cpu.group_norm,
        "layer_norm": cpu.layer_norm,
        "gelu": cpu.gelu,
        "silu": library.silu,
        "upsample": cpu.upsample,
    },
    "ascend": ASCEND,
    "ascend-unfused": {  # aclnn has no such norm on a 310P, no such resize of float32 on either
        **ASCEND,
        "attention": ascend.attention_by_parts,
        "layer_norm": library.layer_norm,
        "upsample": reference.upsample,
    },
    "ascend-aclop": {
        **REFERENCE,
        "conv2d": library.conv2d,
        "linear": library.linear,
        "attention": aclop.attention,
        "group_norm": aclop.group_norm,
        "layer_norm": library.layer_norm,
        "gelu": library.gelu,
        "silu": library.silu,
        "upsample": aclop.upsample,
    },
}

OPERATIONS = (*REFERENCE, *COMPOSITES)  # all that a model calls
# written from the documentation, not run on the device yet
UNTRIED = ("ascend", "ascend-unfused", "ascend-aclop")
ONLY_ON_ASCEND = ("ascend", "ascend-unfused")  # other devices lack some of their kernels
FUSED = ("ascend", "ascend-aclop")  # have the fused attention, which not every chip has


def device():
    """The device that MindSpore uses: "CPU", "Ascend" or "GPU"."""
    return ms.get_context("device_target")


def default_kernels():
    """The lowering for the device that MindSpore uses: "cpu", "ascend", or "ascend-unfused" on a
    chip without the fused attention; "reference" elsewhere (a GPU, say)."""
    if device() == "Ascend":
        return "ascend" if chips.has_fused_attention() else "ascend-unfused"
    return {"CPU": "cpu"}.get(device(), "reference")


def check_dtype(dtype):
    """Raises InputError where the device, or its chip, lacks a dtype."""
    if device() == "Ascend":
        chips.check_dtype(dtype)
    if dtype == "bf16" and device() == "CPU":
        raise InputError("MindSpore has no bf16 convolution on a CPU: choose fp32 or fp16.")


def set_up(dtype, hf32=False):
    """Prepare the device for a model: before its first operation.

    Args:
        dtype: "fp32", "fp16" or "bf16".
        hf32: whether fp32 products may be rounded to HF32, on Ascend.
    Raises:
        InputError: the device has no such dtype, or no HF32, or has chosen otherwise before.
    """
    if device() == "Ascend":
        chips.set_up(dtype, hf32)
        return
    check_dtype(dtype)
    if hf32:
        raise InputError(f"hf32 is for Ascend, MindSpore runs on {device()}: leave it out.")
    if device() == "CPU":
        ms.runtime.launch_blocking()  # small operations take a third of the time one by one


def score_bytes(kernels, dtype, rows, heads, width, cells):
    """Bytes that self-attention over so many cells holds for its scores, an estimate.

    0 where the kernel is fused or, on a CPU, where they are in what was measured.
    """
    name = kernels if isinstance(kernels, str) else default_kernels()
    if name == "cpu":
        return 0
    if name in FUSED and dtype != "fp32" and width <= ascend.WIDEST_HEAD:
        return 0
    whole = 4 * rows * heads * cells**2
    most = ascend.SCORE_BYTES if name in (*ONLY_ON_ASCEND, *FUSED) else whole
    return ascend.SCORE_COPIES * min(most, whole)


def checked(kernels):
    """The kernels for a model: what was given, or the device's for None.

    Raises:
        InputError: there are none of that name; or a table lacks an operation, or has one that no
            model calls.
    """
    if kernels is None:
        return default_kernels()
    if isinstance(kernels, str):
        if kernels not in LOWERINGS:
            names = ", ".join(LOWERINGS)
            raise InputError(f"There are no kernels {kernels!r}: choose one of {names}.")
        refuse_foreign(kernels)
        return kernels
    if not isinstance(kernels, dict):
        raise InputError(
            f"The kernels are of type {type(kernels).__name__}: give a name, or a table "
            "{operation: function} such as kernels.LOWERINGS['reference']."
        )
    missing = [name for name in REFERENCE if not callable(kernels.get(name))]
    if missing:
        raise InputError(
            f"The table of kernels has no function for {', '.join(missing)}: start from an "
            "existing one, {**kernels.LOWERINGS['reference'], 'linear': yours}."
        )
    unknown = [str(name) for name in kernels if name not in OPERATIONS]
    if unknown:
        raise InputError(
            f"The table of kernels has {', '.join(unknown)}, which no model calls: the operations "
            f"are {', '.join(OPERATIONS)}."
        )
    return kernels


def refuse_foreign(name):
    """Raises InputError where the device, or its chip, lacks a kernel of this lowering."""
    if name in ONLY_ON_ASCEND and device() != "Ascend":
        raise InputError(
            f"The kernels {name!r} need an Ascend device, MindSpore runs on {device()}: choose "
            f"{default_kernels()}."
        )
    if name in FUSED and device() == "Ascend" and not chips.has_fused_attention():
        raise InputError(
            f"{chips.chip_name()} has no fused attention, which the kernels {name!r} use: choose "
            "ascend-unfused."
        )


def table_of(kernels):
    """The table of a name; a table is itself, and a graph compiles faster with one."""
    return LOWERINGS[kernels] if isinstance(kernels, str) else kernels


def call(kernels, name, *args):
    """The result of an operation; `kernels` is a name of `LOWERINGS`, or a table of its own."""
    table = table_of(kernels)
    if name in table:
        return table[name](*args)
    return COMPOSITES[name](table, *args)


# --- what the models call -------------------------------------------------------------------------
#
# Each hands the leaves of the parameter tree on as they are, so that a trace can name them.


def conv2d(params, x, kernels, stride=1, padding=(1, 1, 1, 1)):
    """Convolution. x [B,C,H,W], padding (top, bottom, left, right) with zeros -> [B,C',H',W']."""
    return call(kernels, "conv2d", x, params["weight"], params["bias"], stride, padding)


def linear(params, x, kernels):
    """y = x W^T (+ b). x [...,C] -> [...,C']."""
    return call(kernels, "linear", x, params["weight"], bias_of(params))


def linear_from_picture(params, x, kernels):
    """Linear layer, or 1x1 convolution, of each cell. x [B,C,H,W] -> [B,HW,C']."""
    return call(kernels, "linear_from_picture", x, params["weight"], bias_of(params))


def linear_to_picture(params, x, height, width, kernels):
    """Linear layer, or 1x1 convolution, of each cell. x [B,HW,C] -> [B,C',H,W]."""
    weight, bias = params["weight"], bias_of(params)
    return call(kernels, "linear_to_picture", x, weight, bias, height, width)


def bias_of(params):
    """The bias of a layer, or None."""
    return params["bias"] if "bias" in params else None


def geglu(params, x, kernels):
    """Feed-forward with a gate. x [...,C] -> [...,C]."""
    wide, out = params["net.0.proj"], params["net.2"]
    return call(kernels, "geglu", x, wide["weight"], wide["bias"], out["weight"], out["bias"])


def attention(query, key, value, heads, kernels, causal=False):
    """Multi-head attention. query [B,T,C], key and value [B,S,C] -> [B,T,C]."""
    return call(kernels, "attention", query, key, value, heads, causal)


def group_norm(params, x, groups, eps, kernels):
    """Group norm. x [B,C,H,W] -> the same shape."""
    return call(kernels, "group_norm", x, params["weight"], params["bias"], groups, eps)


def layer_norm(params, x, eps, kernels):
    """Layer norm over the last axis. x [...,C] -> the same shape."""
    return call(kernels, "layer_norm", x, params["weight"], params["bias"], eps)


def gelu(x, kernels):
    """Exact GELU."""
    return call(kernels, "gelu", x)


def quick_gelu(x, kernels):
    """GELU's sigmoid approximation."""
    return call(kernels, "quick_gelu", x)


def silu(x, kernels):
    """SiLU."""
    return call(kernels, "silu", x)


def embedding(params, ids, kernels):
    """Rows of a matrix. ids [...] whole numbers -> [...,C]."""
    return call(kernels, "embedding", ids, params["weight"])


def upsample(x, kernels):
    """Nearest neighbour times two. [B,C,H,W] -> [B,C,2H,2W]."""
    return call(kernels, "upsample", x)
