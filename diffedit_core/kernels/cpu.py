"""Lowerings for a CPU, chosen by measurement on MindSpore 2.8 (oneDNN 2.2, two cores);
`python -m benchmarks.kernels` repeats it.

Some take another way for large arrays. How large is a keyword of each, so that
`functools.partial(cpu.attention, score_bytes=1 << 20)` in a table of one's own is a lowering, too.
"""

import math

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from . import composites, library, reference, winograd
from .library import after, bias_add, bytes_of, cast, joined, piece, product, reshape, with_last

SCORE_BYTES = 8 << 20  # attention holds this many bytes of scores at a time, which a cache holds,
PIECES = 32  # or more where a head would have more pieces than that
PICTURE_BYTES = 16 << 20  # a convolution of a larger picture does not save products
WIDE_BYTES = 16 << 20  # a feed-forward whose wide layer is larger takes some rows at a time:
CHUNK_BYTES = 4 << 20  # so many that their wide layer has this size,
CHUNK_ROWS = 256  # but at least this many
CELLS = 1024  # a convolution saves products where a picture has so many cells,
CHANNELS = 128  # and so many channels come in and go out
TRANSPOSE_BYTES = 1 << 20  # what is larger is not transposed: a transpose keeps 8 to 16 bytes of
# indices for each element as long as its graph is there (MindSpore 2.8)

# log(Phi(x) / (1 - Phi(x))) / x as a polynomial in x^2, from the constant term up, with which
# x Phi(x) is within 7e-8 (`python -m benchmarks.kernels.gelu` finds it)
GELU = tuple(
    Tensor(c, ms.float32)
    for c in (
        1.595768537,
        7.266829813e-2,
        -6.605332091e-5,
        -1.105467977e-4,
        7.948144804e-6,
        -2.675665994e-7,
        3.627859027e-9,
    )
)

ONE, ZERO, MINUS_ONE, TWO = (Tensor(c, ms.float32) for c in (1, 0, -1, 2))
plus, minus, times = ops.Add(), ops.Sub(), ops.Mul()
sigmoid, softmax, inverse_sqrt = ops.Sigmoid(), ops.Softmax(-1), ops.Rsqrt()
mean_of_rows, outer = ops.ReduceMean(keep_dims=True), ops.MatMul()
swap, fill = ops.Transpose(), ops.FillV2()
scores_of, mean_of = ops.BatchMatMul(transpose_b=True), ops.BatchMatMul()
transposed_product = ops.MatMul(transpose_a=True, transpose_b=True)  # (W x)^T
ones_like, zeros_like = ops.OnesLike(), ops.ZerosLike()
affine = ops.BatchNorm(is_training=False, epsilon=1e-12)  # variance 1: 1 + 1e-12 is 1 in fp32


def conv2d(
    x, weight, bias, stride, padding, cells=CELLS, channels=CHANNELS, picture_bytes=PICTURE_BYTES
):
    """Fewer products for a picture that is neither small nor huge, the library's convolution
    otherwise.

    The number of pictures is not asked for, so that each has the same bits in every batch.
    """
    shapes = x.shape, weight.shape
    if decided(*shapes, stride, padding, cells, channels, picture_bytes):
        if x.dtype == ms.float32:  # its sums and differences would round fp16 once more
            return winograd.conv2d(x, weight, bias)
    return library.conv2d(x, weight, bias, stride, padding)


def saves_products(
    shape, kernel, stride, padding, cells=CELLS, channels=CHANNELS, picture_bytes=PICTURE_BYTES
):
    """Whether `winograd.conv2d` takes such a convolution, faster than the library and in little
    memory: its sums and differences grow with the channels, its savings with their square, and it
    holds some six times what comes in and goes out.

    Args:
        shape: (B,C,H,W) of the pictures.
        kernel: (C',C,rows,columns).
        stride, padding: of the convolution.
        cells, channels: the fewest of a picture.
        picture_bytes: the most of a picture that comes in or goes out, in fp32.
    """
    fits = tuple(kernel[2:]) == (3, 3) and stride == 1 and tuple(padding) == (1, 1, 1, 1)
    area = shape[2] * shape[3]
    pays = area >= cells and min(kernel[:2]) >= channels
    return fits and shape[2] % 2 == 0 and pays and 4 * area * max(kernel[:2]) <= picture_bytes


# Python computes these, not MindSpore's compiler.
decided, inverse_root = ops.constexpr(saves_products), ops.constexpr(lambda n: 1 / math.sqrt(n))


def gelu(x):
    """x Phi(x) with Phi(x) = sigmoid(x P(x^2)), P the polynomial `GELU`, in fp32."""
    wide = cast(x, ms.float32)
    square = times(wide, wide)
    p = plus(times(square, GELU[6]), GELU[5])
    p = plus(times(p, square), GELU[4])
    p = plus(times(p, square), GELU[3])
    p = plus(times(p, square), GELU[2])
    p = plus(times(p, square), GELU[1])
    p = plus(times(p, square), GELU[0])
    return cast(times(wide, sigmoid(times(wide, p))), x.dtype)


def linear_from_picture(x, weight, bias, transpose_bytes=TRANSPOSE_BYTES):
    """One product for each picture, transposed on the fly; small ones are transposed at once."""
    batch, channels, height, width = x.shape
    weight, cells = composites.matrix(weight), height * width
    if bytes_of(*x.shape) <= transpose_bytes:
        x = swap(reshape(x, (batch, channels, cells)), (0, 2, 1))
        return library.linear(x, weight, bias)
    pictures = ()
    for picture in rows_of(reshape(x, (batch * channels, cells)), batch):
        pictures = pictures + (transposed_product(picture, weight),)
    y = joined(pictures, 0)
    y = y if bias is None else bias_add(y, bias)
    return reshape(y, (batch, cells, weight.shape[0]))


def linear_to_picture(x, weight, bias, height, width, transpose_bytes=TRANSPOSE_BYTES):
    """One product for each picture, with the factors exchanged, so that the channels come first;
    small ones are transposed at once."""
    batch, cells, channels = x.shape
    weight = composites.matrix(weight)
    shape = (batch, weight.shape[0], height, width)
    if bytes_of(*shape) <= transpose_bytes:
        return reshape(swap(library.linear(x, weight, bias), (0, 2, 1)), shape)
    pictures = ()
    for picture in rows_of(reshape(x, (batch * cells, channels)), batch):
        pictures = pictures + (product(weight, picture),)
    y = reshape(joined(pictures, 0), shape)
    return y if bias is None else bias_add(y, bias)


def rows_of(x, count):
    """x [count*R,C] as `count` arrays [R,C]."""
    return ops.Split(0, count)(x) if count > 1 else (x,)


def geglu(
    x,
    weight,
    bias,
    weight_out,
    bias_out,
    wide_bytes=WIDE_BYTES,
    chunk_bytes=CHUNK_BYTES,
    chunk_rows=CHUNK_ROWS,
):
    """Some rows after the others, so that a wide layer between stays in the cache."""
    flat, half = reshape(x, (-1, weight.shape[1])), weight_out.shape[1]
    count, rows = flat.shape[0], max(chunk_rows, chunk_bytes // (8 * half))
    y = ()
    if bytes_of(2, count, half) <= wide_bytes:
        y = (gated(flat, weight, bias, weight_out, bias_out),)
    else:
        for start in range(0, count, rows):
            some = after(piece(flat, 0, start, min(rows, count - start)), y)
            y = y + (gated(some, weight, bias, weight_out, bias_out),)
    return reshape(joined(y, 0), with_last(x.shape, weight_out.shape[0]))


def gated(x, weight, bias, weight_out, bias_out):
    """`geglu` of rows [T,C]."""
    half = weight_out.shape[1]
    h = bias_add(product(x, weight), bias)
    h = times(piece(h, 1, 0, half), gelu(piece(h, 1, half, half)))
    return bias_add(product(h, weight_out), bias_out)


def attention(
    query,
    key,
    value,
    heads,
    causal,
    score_bytes=SCORE_BYTES,
    most=PIECES,
    transpose_bytes=TRANSPOSE_BYTES,
):
    """All heads at once where their scores fit, else a slice of one head's queries after the other.

    A large transpose keeps twice its size in memory until the graph is gone (MindSpore 2.8), so
    heads are cut out as columns. The runtime would start all pieces at once and hold all their
    scores; `depend` makes each wait for the last.
    """
    batch, length, channels = query.shape
    dim, tokens = channels // heads, key.shape[1]
    query = times(query, cast(inverse_root(dim), query.dtype))
    ahead = reference.causal_mask(length) if causal else None
    if bytes_of(batch, heads, length, tokens) <= score_bytes:
        cut = bytes_of(*query.shape) > transpose_bytes
        q, k = split_heads(query, heads, cut), split_heads(key, heads, cut)
        y = attend(q, k, split_heads(value, heads, cut), ahead)
        return cast(joined_heads(y, heads, cut), value.dtype)

    rows = max(-(-length // most), score_bytes // (4 * batch * tokens))  # of queries, in a piece
    columns, pieces = (), ()
    for head in range(heads):
        q, k, v = [cast(piece(t, 2, head * dim, dim), ms.float32) for t in (query, key, value)]
        parts = ()
        for start in range(0, length, rows):
            some = min(rows, length - start)
            beyond = None if ahead is None else piece(ahead, 0, start, some)
            pieces = (attend(after(piece(q, 1, start, some), pieces), k, v, beyond),)
            parts = parts + pieces
        columns = columns + (joined(parts, 1),)
    return joined(columns, 2).astype(value.dtype)


def split_heads(x, heads, cut):
    """[B,T,C] -> [B*heads,T,C/heads] in fp32 by a transpose, or [heads*B,T,C/heads] by cutting
    columns, which keeps no indices."""
    x = cast(x, ms.float32)
    if cut:
        return joined(ops.Split(2, heads)(x), 0) if heads > 1 else x
    batch, length, channels = x.shape
    dim = channels // heads
    x = swap(reshape(x, (batch, length, heads, dim)), (0, 2, 1, 3))
    return reshape(x, (batch * heads, length, dim))


def joined_heads(x, heads, cut):
    """[B,T,C] of what `split_heads` split in the same way."""
    if cut:
        return joined(ops.Split(0, heads)(x), 2) if heads > 1 else x
    stack, length, dim = x.shape
    x = swap(reshape(x, (stack // heads, heads, length, dim)), (0, 2, 1, 3))
    return reshape(x, (stack // heads, length, heads * dim))


def attend(q, k, v, ahead):
    """softmax(q k^T + ahead) v for a stack of heads; q is already divided by sqrt(d)."""
    scores = scores_of(q, k)
    if ahead is not None:
        scores = scores + ahead
    return mean_of(softmax(scores), v)


def group_norm(x, weight, bias, groups, eps):
    """Both halves as batch norms, for which oneDNN has fused kernels: groups as channels, then
    channels as channels."""
    batch, channels, height, width = x.shape
    count = batch * groups
    y = reshape(cast(x, ms.float32), (1, count, channels // groups * height, width))
    # In training mode the primitive overwrites its last two inputs, the running mean and variance,
    # which it does not use. They must have values of their own: equal constants are merged in a
    # graph with gradients, and the ones would change.
    ones, zeros = fill((count,), ONE), fill((count,), ZERO)
    mean, variance = fill((count,), MINUS_ONE), fill((count,), TWO)
    y = ops.BatchNorm(is_training=True, epsilon=eps)(y, ones, zeros, mean, variance)[0]

    scale, shift = cast(weight, ms.float32), cast(bias, ms.float32)
    y = affine(reshape(y, x.shape), scale, shift, zeros_like(scale), ones_like(scale))[0]
    return cast(y, x.dtype)


def layer_norm(x, weight, bias, eps):
    """Mean and variance by two sums, in fp32. A row's mean and its factor times the scales are
    spread by products with one column: broadcasting is slower, and the library's norm keeps to one
    thread (MindSpore 2.8)."""
    channels = x.shape[-1]
    rows = reshape(cast(x, ms.float32), (-1, channels))
    centred = minus(rows, outer(mean_of_rows(rows, 1), fill((1, channels), ONE)))
    variance = mean_of_rows(times(centred, centred), 1)
    scales = outer(
        inverse_sqrt(plus(variance, eps)), reshape(cast(weight, ms.float32), (1, channels))
    )
    y = bias_add(times(centred, scales), cast(bias, ms.float32))
    return cast(reshape(y, x.shape), x.dtype)


def upsample(x):
    """Columns by a product with a 0/1 matrix, rows by putting each row twice."""
    batch, channels, height, width = x.shape
    double = doubling(width).astype(x.dtype)
    x = ops.MatMul()(x.reshape(-1, width), double).reshape(batch, channels, height, 2 * width)
    return ops.concat((x, x), 3).reshape(batch, channels, 2 * height, 2 * width)


@ops.constexpr
def doubling(width):
    """[W,2W] float32: the matrix that puts each column twice."""
    return Tensor(np.repeat(np.eye(width, dtype=np.float32), 2, 1))
