"""The only place that knows a device: every operation of the models, and the table that says which
function computes it where.

| file | what it holds |
|---|---|
| `reference.py` | each operation once, as readable as its equation |
| `composites.py` | operations made of others: written once, from the operations of any table |
| `library.py` | calls of MindSpore's library, which several devices share |
| `cpu.py`, `ascend.py` | what is faster on such a device |

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
from . import ascend, composites, cpu, library, reference

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
}

COMPOSITES = {
    "linear_from_picture": composites.linear_from_picture,
    "linear_to_picture": composites.linear_to_picture,
    "geglu": composites.geglu,
}

LOWERINGS = {
    "reference": REFERENCE,
    "cpu": {
        **REFERENCE,
        "conv2d": library.conv2d,
        "linear": library.linear,
        "linear_from_picture": cpu.linear_from_picture,
        "linear_to_picture": cpu.linear_to_picture,
        "geglu": cpu.geglu,
        "attention": cpu.attention,
        "group_norm": cpu.group_norm,
        "layer_norm": library.layer_norm,
        "silu": library.silu,
        "upsample": cpu.upsample,
    },
    "ascend": {
        **REFERENCE,
        "conv2d": library.conv2d,
        "linear": library.linear,
        "attention": ascend.attention,
        "group_norm": ascend.group_norm,
        "layer_norm": library.layer_norm,
        "gelu": library.gelu,
        "silu": library.silu,
        "upsample": ascend.upsample,
    },
}

OPERATIONS = (*REFERENCE, *COMPOSITES)  # all that a model calls
UNTRIED = ("ascend",)  # written from the documentation, not run on the device yet


def device():
    """The device that MindSpore uses: "CPU", "Ascend" or "GPU"."""
    return ms.get_context("device_target")


def default_kernels():
    """The lowering for the device that MindSpore uses: "ascend" or "cpu"; "reference" elsewhere (a
    GPU, say)."""
    return {"CPU": "cpu", "Ascend": "ascend"}.get(device(), "reference")


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


def call(kernels, name, *args):
    """The result of an operation; `kernels` is a name of `LOWERINGS`, or a table of its own."""
    table = LOWERINGS[kernels] if isinstance(kernels, str) else kernels
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


def upsample(x, kernels):
    """Nearest neighbour times two. [B,C,H,W] -> [B,C,2H,2W]."""
    return call(kernels, "upsample", x)
