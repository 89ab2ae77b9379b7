"""Lowerings that call MindSpore's library and that several devices share."""

from mindspore import ops


def conv2d(x, weight, bias, stride, padding):
    """The library's convolution."""
    convolution = ops.Conv2D(
        weight.shape[0], weight.shape[2:4], pad_mode="pad", pad=padding, stride=stride
    )
    return ops.bias_add(convolution(x, weight), bias)


def linear(x, weight, bias):
    """One matrix product over all leading axes."""
    rows = x.reshape(-1, x.shape[-1])
    y = ops.MatMul(transpose_b=True)(rows, weight)
    y = y if bias is None else ops.bias_add(y, bias)
    return y.reshape(*x.shape[:-1], weight.shape[0])


def layer_norm(x, weight, bias, eps):
    """The library's primitive, which keeps its sums in fp32."""
    return ops.LayerNorm(begin_norm_axis=-1, begin_params_axis=-1, epsilon=eps)(x, weight, bias)[0]


def gelu(x):
    """The library's exact GELU: five kernels, each of which rounds to the dtype."""
    return ops.gelu(x, approximate="none")


def silu(x):
    """The library's SiLU."""
    return ops.silu(x)


# --- arrays in pieces -----------------------------------------------------------------------------


def joined(pieces, axis):
    """The pieces one after the other along an axis."""
    return ops.concat(pieces, axis) if len(pieces) > 1 else pieces[0]


def after(x, earlier):
    """x, not before the last of the earlier results is there."""
    return ops.depend(x, earlier[-1]) if len(earlier) > 0 else x
