"""The only file that knows a device.

Every operation of the models stands here once as a readable `reference` and, where that pays, as a
faster lowering for a device. `LOWERINGS` is the table that decides; a model passes its `kernels`
name ("reference", "cpu", "ascend") down to the functions at the end of this file. A test compares
each lowering with its reference.

The CPU lowerings were chosen by measurement on MindSpore 2.8 (oneDNN 2.2, two cores);
`benchmarks/kernels.py` repeats it. The Ascend lowerings are written from MindSpore's documentation
and have not been run on such a device.
"""

import math

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from . import params as P

SCORE_BYTES = 32 << 20  # attention computes at most this many bytes of scores at a time on a CPU
PICTURE_BYTES = 16 << 20  # a linear layer of larger pictures takes them one after the other
FEED_FORWARD_BYTES = (
    4 << 20
)  # the feed-forward at most this many of its wide layer, or FEED_FORWARD_ROWS rows
FEED_FORWARD_ROWS = 256
CELLS = {
    "cpu": 4096
}  # latent cells that the UNet takes at a time: more of them gain no speed there, but cost memory


def device():
    """The device that MindSpore uses: "CPU", "Ascend" or "GPU"."""
    return ms.get_context("device_target")


def default_kernels():
    """The lowering for the device that MindSpore uses: "ascend" or "cpu"; "reference" elsewhere (a
    GPU, say)."""
    return {"CPU": "cpu", "Ascend": "ascend"}.get(device(), "reference")


def rows_at_once(kernels, rows, cells):
    """How many of the latents of a batch, of so many cells each, to run at once: a divisor of their
    number."""
    most = max(1, CELLS.get(kernels, rows * cells) // cells)
    return max(n for n in range(1, rows + 1) if rows % n == 0 and n <= most)


def locate_nonfinite(function, params, inputs, static):
    """Run a model operation by operation and name the first one whose result is not finite.

    Args:
        function, params, inputs, static: as given to `graphs.Graph`, whose last static value is the
            kernels' name.
    Returns:
        A phrase such as "in group_norm with down_blocks.0.resnets.1.norm1.weight".
    """
    names = {id(leaf): path for path, leaf in P.flatten(params).items()}
    latest = ["the first layer"]

    def checked(name, lowering):
        def run(*args):
            own = [names[id(a)] for a in args if id(a) in names]
            latest[0] = own[0] if own else latest[0]
            result = lowering(*args)
            if not np.isfinite(result.astype(ms.float32).asnumpy()).all():
                raise FloatingPointError(f"in {name} {'with' if own else 'after'} {latest[0]}")
            return result

        return run

    table = {name: checked(name, lowering) for name, lowering in LOWERINGS[static[-1]].items()}
    try:
        function(params, *inputs, *static[:-1], table)
    except FloatingPointError as place:
        return str(place)
    return "in the last operation, or only in the compiled graph"


# --- references -----------------------------------------------------------------------------------


def conv2d_reference(x, weight, bias, stride, padding):
    """Sum over the kernel's offsets of shifted pictures times a matrix."""
    top, bottom, left, right = padding
    batch, c_in, height, width = x.shape
    c_out, _, rows, columns = weight.shape
    x = (
        ops.concat(
            (
                ops.zeros((batch, c_in, top, width), x.dtype),
                x,
                ops.zeros((batch, c_in, bottom, width), x.dtype),
            ),
            2,
        )
        if top + bottom
        else x
    )
    height = height + top + bottom
    x = (
        ops.concat(
            (
                ops.zeros((batch, c_in, height, left), x.dtype),
                x,
                ops.zeros((batch, c_in, height, right), x.dtype),
            ),
            3,
        )
        if left + right
        else x
    )
    width = width + left + right
    h_out, w_out = (height - rows) // stride + 1, (width - columns) // stride + 1
    y = bias.reshape(1, c_out, 1)
    for i in range(rows):
        for j in range(columns):
            window = x[
                :,
                :,
                i : i + stride * (h_out - 1) + 1 : stride,
                j : j + stride * (w_out - 1) + 1 : stride,
            ]
            y = y + ops.matmul(weight[:, :, i, j], window.reshape(batch, c_in, h_out * w_out))
    return y.reshape(batch, c_out, h_out, w_out)


def linear_reference(x, weight, bias):
    """y = x W^T + b."""
    y = ops.matmul(x, weight.swapaxes(0, 1))
    return y if bias is None else y + bias


def linear_from_picture_reference(x, weight, bias):
    """Each cell's channels through a linear layer: a 1x1 convolution whose result is a list of
    cells."""
    batch, channels, height, width = x.shape
    return linear_reference(x.reshape(batch, channels, height * width).swapaxes(1, 2), weight, bias)


def linear_to_picture_reference(x, weight, bias, height, width):
    """A list of cells through a linear layer, back to a picture."""
    y = linear_reference(x, weight, bias).swapaxes(1, 2)
    return y.reshape(y.shape[0], y.shape[1], height, width)


def geglu_reference(x, weight, bias, weight_out, bias_out):
    """(a * gelu(b)) W' + b', where [a, b] = x W^T + b (Shazeer 2020, arXiv 2002.05202, eq. 6)."""
    h = linear_reference(x, weight, bias)
    half = h.shape[-1] // 2
    return linear_reference(h[..., :half] * gelu_reference(h[..., half:]), weight_out, bias_out)


def attention_reference(query, key, value, heads, causal):
    """softmax(Q K^T / sqrt(d)) V for each head; scores, softmax and products in fp32 (Vaswani et
    al. 2017, eq. 1)."""
    batch, length, channels = query.shape
    dim = channels // heads
    q, k, v = [
        t.astype(ms.float32).reshape(batch, t.shape[1], heads, dim).swapaxes(1, 2)
        for t in (query, key, value)
    ]
    scores = ops.matmul(q, k.swapaxes(2, 3)) / math.sqrt(dim)
    if causal:
        scores = scores + causal_mask(length)
    y = ops.matmul(ops.softmax(scores, -1), v)
    return y.swapaxes(1, 2).reshape(batch, length, channels).astype(query.dtype)


def group_norm_reference(x, weight, bias, groups, eps):
    """(x - mean) / sqrt(var + eps) over each group of channels, in fp32, then scale and shift (Wu &
    He 2018)."""
    batch, channels, height, width = x.shape
    y = x.astype(ms.float32).reshape(batch, groups, -1)
    centred = y - y.mean(-1, keep_dims=True)
    y = centred * ops.rsqrt((centred * centred).mean(-1, keep_dims=True) + eps)
    y = y.reshape(batch, channels, height, width).astype(x.dtype)
    return y * weight.reshape(1, channels, 1, 1) + bias.reshape(1, channels, 1, 1)


def layer_norm_reference(x, weight, bias, eps):
    """(x - mean) / sqrt(var + eps) over the last axis, in fp32, then scale and shift (Ba et al.
    2016)."""
    y = x.astype(ms.float32)
    centred = y - y.mean(-1, keep_dims=True)
    y = centred * ops.rsqrt((centred * centred).mean(-1, keep_dims=True) + eps)
    return y.astype(x.dtype) * weight + bias


def gelu_reference(x):
    """x Phi(x) with the exact normal distribution (Hendrycks & Gimpel 2016)."""
    return x * 0.5 * (1 + ops.erf(x / math.sqrt(2)))


def quick_gelu_reference(x):
    """x sigmoid(1.702 x), the approximation that SD 1.x's text encoder was trained with."""
    return x * ops.sigmoid(x * 1.702)


def silu_reference(x):
    """x sigmoid(x)."""
    return x * ops.sigmoid(x)


def upsample_reference(x):
    """Nearest neighbour, twice as high and wide."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height, 1, width, 1)
    return ops.broadcast_to(x, (batch, channels, height, 2, width, 2)).reshape(
        batch, channels, 2 * height, 2 * width
    )


def causal_mask(length):
    """[T,T] float32: 0 where a token may look (at itself and back), a large negative number ahead
    of it."""
    return Tensor(np.triu(np.full((length, length), -1e30, np.float32), 1))


# --- lowerings for several devices ----------------------------------------------------------------


def conv2d_library(x, weight, bias, stride, padding):
    """The library's convolution."""
    convolution = ops.Conv2D(
        weight.shape[0], weight.shape[2:4], pad_mode="pad", pad=padding, stride=stride
    )
    return ops.bias_add(convolution(x, weight), bias)


def linear_library(x, weight, bias):
    """One matrix product over all leading axes."""
    rows = x.reshape(-1, x.shape[-1])
    y = ops.MatMul(transpose_b=True)(rows, weight)
    y = y if bias is None else ops.bias_add(y, bias)
    return y.reshape(*x.shape[:-1], weight.shape[0])


def linear_from_picture_library(x, weight, bias):
    """A transpose and the library's product."""
    batch, channels, height, width = x.shape
    return linear_library(x.reshape(batch, channels, height * width).swapaxes(1, 2), weight, bias)


def linear_to_picture_library(x, weight, bias, height, width):
    """The library's product and a transpose."""
    y = linear_library(x, weight, bias).swapaxes(1, 2)
    return y.reshape(y.shape[0], y.shape[1], height, width)


def geglu_library(x, weight, bias, weight_out, bias_out):
    """Two library products around the library's GELU."""
    h = linear_library(x, weight, bias)
    half = h.shape[-1] // 2
    return linear_library(h[..., :half] * gelu_library(h[..., half:]), weight_out, bias_out)


def layer_norm_library(x, weight, bias, eps):
    """The library's primitive, which keeps its sums in fp32."""
    return ops.LayerNorm(begin_norm_axis=-1, begin_params_axis=-1, epsilon=eps)(x, weight, bias)[0]


def gelu_library(x):
    """The library's exact GELU."""
    return ops.gelu(x, approximate="none")


def silu_library(x):
    """The library's SiLU."""
    return ops.silu(x)


# --- CPU ------------------------------------------------------------------------------------------


def linear_from_picture_cpu(x, weight, bias):
    """One product for each large picture, transposed on the fly: a transpose keeps twice its size
    in memory (MindSpore 2.8).

    Small ones at once: a product of its own for each of 32 took twelve times as long.
    """
    batch, channels, height, width = x.shape
    if 4 * batch * channels * height * width <= PICTURE_BYTES:
        return linear_from_picture_library(x, weight, bias)
    product = ops.MatMul(transpose_a=True, transpose_b=True)
    cells = ()
    for i in range(batch):
        y = product(x[i].reshape(channels, height * width), weight)
        y = y if bias is None else ops.bias_add(y, bias)
        cells = cells + (y.reshape(1, height * width, weight.shape[0]),)
    return joined(cells, 0)


def linear_to_picture_cpu(x, weight, bias, height, width):
    """One product for each large picture, with the factors exchanged, so that the channels come
    first."""
    if 4 * x.shape[0] * weight.shape[0] * height * width <= PICTURE_BYTES:
        return linear_to_picture_library(x, weight, bias, height, width)
    pictures = ()
    for i in range(x.shape[0]):
        y = ops.MatMul(transpose_b=True)(weight, x[i]).reshape(1, weight.shape[0], height, width)
        pictures = pictures + (y if bias is None else ops.bias_add(y, bias),)
    return joined(pictures, 0)


def geglu_cpu(x, weight, bias, weight_out, bias_out):
    """Some rows after the others, so that a wide layer between stays in the cache."""
    flat = x.reshape(-1, x.shape[-1])
    if 4 * flat.shape[0] * weight.shape[0] <= SCORE_BYTES:
        return geglu_library(x, weight, bias, weight_out, bias_out)
    rows = max(FEED_FORWARD_ROWS, FEED_FORWARD_BYTES // (4 * weight.shape[0]))
    half = weight.shape[0] // 2
    pieces = ()
    for start in range(0, flat.shape[0], rows):
        h = linear_library(after(flat[start : start + rows], pieces), weight, bias)
        pieces = pieces + (
            linear_library(h[:, :half] * gelu_reference(h[:, half:]), weight_out, bias_out),
        )
    return joined(pieces, 0).reshape(*x.shape[:-1], weight_out.shape[0])


def attention_cpu(query, key, value, heads, causal):
    """All heads at once where their scores fit into SCORE_BYTES, else a slice of one head's queries
    after the other.

    A large transpose keeps twice its size in memory until the graph is gone (MindSpore 2.8), so
    heads are cut out as columns. The runtime would start all pieces at once and hold all their
    scores; `depend` makes each wait for the last.
    """
    batch, length, channels = query.shape
    dim, tokens = channels // heads, key.shape[1]
    query = query * (1 / math.sqrt(dim))
    ahead = causal_mask(length) if causal else None
    if 4 * batch * heads * length * tokens <= SCORE_BYTES:
        q, k, v = [split_heads(t, heads) for t in (query, key, value)]
        y = (
            _attend(q, k, v, ahead)
            .reshape(batch, heads, length, dim)
            .swapaxes(1, 2)
            .reshape(batch, length, channels)
        )
        return y.astype(value.dtype)
    rows = max(1, SCORE_BYTES // (4 * batch * tokens))  # query rows whose scores fit
    columns, pieces = (), ()
    for head in range(heads):
        q, k, v = [
            t[:, :, head * dim : (head + 1) * dim].astype(ms.float32) for t in (query, key, value)
        ]
        parts = ()
        for start in range(0, length, rows):
            stop = min(start + rows, length)
            own = None if ahead is None else ahead[start:stop]
            pieces = (_attend(after(q[:, start:stop], pieces), k, v, own),)
            parts = parts + pieces
        columns = columns + (joined(parts, 1),)
    return joined(columns, 2).astype(value.dtype)


def joined(pieces, axis):
    """The pieces one after the other along an axis."""
    return ops.concat(pieces, axis) if len(pieces) > 1 else pieces[0]


def after(x, earlier):
    """x, not before the last of the earlier results is there."""
    return ops.depend(x, earlier[-1]) if len(earlier) > 0 else x


def split_heads(x, heads):
    """[B,T,C] -> [B*heads,T,C/heads] in fp32."""
    batch, length, channels = x.shape
    x = x.astype(ms.float32).reshape(batch, length, heads, channels // heads)
    return x.swapaxes(1, 2).reshape(batch * heads, length, channels // heads)


def _attend(q, k, v, ahead):
    scores = ops.BatchMatMul(transpose_b=True)(q, k)
    if ahead is not None:
        scores = scores + ahead
    return ops.BatchMatMul()(ops.Softmax(-1)(scores), v)


def group_norm_cpu(x, weight, bias, groups, eps):
    """Both halves as batch norms, for which oneDNN has fused kernels: groups as channels, then
    channels as channels."""
    batch, channels, height, width = x.shape
    y = x.astype(ms.float32).reshape(1, batch * groups, channels // groups * height, width)
    ones, zeros = ops.ones(batch * groups, ms.float32), ops.zeros(batch * groups, ms.float32)
    # In training mode the primitive overwrites its last two inputs, the running mean and variance,
    # which it does not use. They must have values of their own: equal constants are merged in a
    # graph with gradients, and `ones` would change.
    mean, variance = ops.full((batch * groups,), -1, dtype=ms.float32), ops.full(
        (batch * groups,), 2, dtype=ms.float32
    )
    y = ops.BatchNorm(is_training=True, epsilon=eps)(y, ones, zeros, mean, variance)[0]
    ones, zeros = ops.ones(channels, ms.float32), ops.zeros(channels, ms.float32)
    affine = ops.BatchNorm(is_training=False, epsilon=1e-12)  # variance 1: 1 + 1e-12 is 1 in fp32
    y = affine(y.reshape(x.shape), weight.astype(ms.float32), bias.astype(ms.float32), zeros, ones)[
        0
    ]
    return y.astype(x.dtype)


def upsample_cpu(x):
    """Columns by a product with a 0/1 matrix, rows by putting each row twice."""
    batch, channels, height, width = x.shape
    double = Tensor(np.repeat(np.eye(width, dtype=np.float32), 2, 1)).astype(x.dtype)
    x = ops.MatMul()(x.reshape(-1, width), double).reshape(batch, channels, height, 2 * width)
    return ops.concat((x, x), 3).reshape(batch, channels, 2 * height, 2 * width)


# --- Ascend (from the documentation, not run) -----------------------------------------------------


def attention_ascend(query, key, value, heads, causal):
    """The fused kernel in fp16 or bf16 (it accumulates in fp32); it wants head widths that are a
    multiple of 16."""
    dim = query.shape[2] // heads
    if query.dtype == ms.float32 or dim % 16 != 0:
        return attention_reference(query, key, value, heads, causal)
    if not causal:
        return ops.flash_attention_score(
            query, key, value, heads, scalar_value=1 / math.sqrt(dim), input_layout="BSH"
        )
    length = query.shape[1]
    ahead = Tensor(np.triu(np.ones((length, length), np.uint8), 1))
    return ops.flash_attention_score(
        query,
        key,
        value,
        heads,
        attn_mask=ahead,
        scalar_value=1 / math.sqrt(dim),
        input_layout="BSH",
    )


def group_norm_ascend(x, weight, bias, groups, eps):
    """The library's group norm, in fp32."""
    y = ops.group_norm(
        x.astype(ms.float32), groups, weight.astype(ms.float32), bias.astype(ms.float32), eps
    )
    return y.astype(x.dtype)


def upsample_ascend(x):
    """The library's nearest-neighbour resize."""
    return ops.interpolate(x, size=(2 * x.shape[2], 2 * x.shape[3]), mode="nearest")


# --- the table ------------------------------------------------------------------------------------

REFERENCE = {
    "conv2d": conv2d_reference,
    "linear": linear_reference,
    "linear_from_picture": linear_from_picture_reference,
    "linear_to_picture": linear_to_picture_reference,
    "geglu": geglu_reference,
    "attention": attention_reference,
    "group_norm": group_norm_reference,
    "layer_norm": layer_norm_reference,
    "gelu": gelu_reference,
    "quick_gelu": quick_gelu_reference,
    "silu": silu_reference,
    "upsample": upsample_reference,
}

LOWERINGS = {
    "reference": REFERENCE,
    "cpu": {
        **REFERENCE,
        "conv2d": conv2d_library,
        "linear": linear_library,
        "linear_from_picture": linear_from_picture_cpu,
        "linear_to_picture": linear_to_picture_cpu,
        "geglu": geglu_cpu,
        "attention": attention_cpu,
        "group_norm": group_norm_cpu,
        "layer_norm": layer_norm_library,
        "silu": silu_library,
        "upsample": upsample_cpu,
    },
    "ascend": {
        **REFERENCE,
        "conv2d": conv2d_library,
        "linear": linear_library,
        "linear_from_picture": linear_from_picture_library,
        "linear_to_picture": linear_to_picture_library,
        "geglu": geglu_library,
        "attention": attention_ascend,
        "group_norm": group_norm_ascend,
        "layer_norm": layer_norm_library,
        "gelu": gelu_library,
        "silu": silu_library,
        "upsample": upsample_ascend,
    },
}


UNTRIED = ("ascend",)  # written from the documentation, not run on the device yet


def lowering(kernels, name):
    """The function for an operation; `kernels` is a name of the table, or a table of its own."""
    return LOWERINGS[kernels][name] if isinstance(kernels, str) else kernels[name]


def conv2d(params, x, kernels, stride=1, padding=(1, 1, 1, 1)):
    """Convolution. x [B,C,H,W], padding (top, bottom, left, right) with zeros -> [B,C',H',W']."""
    return lowering(kernels, "conv2d")(x, params["weight"], params["bias"], stride, padding)


def linear(params, x, kernels):
    """y = x W^T (+ b). x [...,C] -> [...,C']."""
    return lowering(kernels, "linear")(
        x, params["weight"], params["bias"] if "bias" in params else None
    )


def linear_from_picture(params, x, kernels):
    """Linear layer, or 1x1 convolution, of each cell. x [B,C,H,W] -> [B,HW,C']."""
    return lowering(kernels, "linear_from_picture")(
        x, matrix(params), params["bias"] if "bias" in params else None
    )


def linear_to_picture(params, x, height, width, kernels):
    """Linear layer, or 1x1 convolution, of each cell. x [B,HW,C] -> [B,C',H,W]."""
    bias = params["bias"] if "bias" in params else None
    return lowering(kernels, "linear_to_picture")(x, matrix(params), bias, height, width)


def matrix(params):
    """The weight of a linear layer or of a 1x1 convolution as [C',C]."""
    return params["weight"].reshape(params["weight"].shape[0], params["weight"].shape[1])


def geglu(params, x, kernels):
    """Feed-forward with a gate. x [...,C] -> [...,C]."""
    wide, out = params["net.0.proj"], params["net.2"]
    return lowering(kernels, "geglu")(x, wide["weight"], wide["bias"], out["weight"], out["bias"])


def attention(query, key, value, heads, kernels, causal=False):
    """Multi-head attention. query [B,T,C], key and value [B,S,C] -> [B,T,C]."""
    return lowering(kernels, "attention")(query, key, value, heads, causal)


def group_norm(params, x, groups, eps, kernels):
    """Group norm. x [B,C,H,W] -> the same shape."""
    return lowering(kernels, "group_norm")(x, params["weight"], params["bias"], groups, eps)


def layer_norm(params, x, eps, kernels):
    """Layer norm over the last axis. x [...,C] -> the same shape."""
    return lowering(kernels, "layer_norm")(x, params["weight"], params["bias"], eps)


def gelu(x, kernels):
    """Exact GELU."""
    return lowering(kernels, "gelu")(x)


def quick_gelu(x, kernels):
    """GELU's sigmoid approximation."""
    return lowering(kernels, "quick_gelu")(x)


def silu(x, kernels):
    """SiLU."""
    return lowering(kernels, "silu")(x)


def upsample(x, kernels):
    """Nearest neighbour times two. [B,C,H,W] -> [B,C,2H,2W]."""
    return lowering(kernels, "upsample")(x)
