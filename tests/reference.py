"""Oracles in numpy and float64, written from the equations and not from the code under test.

Trees of parameters are nested dicts of arrays with the public names.
"""

import math

import numpy as np

erf = np.vectorize(math.erf, otypes=[np.float64])


def wide(*arrays):
    """Arrays, or one array, in float64."""
    cast = [np.asarray(a, np.float64) for a in arrays]
    return cast[0] if len(cast) == 1 else cast


# --- schedule -------------------------------------------------------------------------------------


def prediction(out, x, alpha, kind):
    """(x0, eps) that a prediction at a level stands for. Salimans & Ho 2022, appendix D."""
    signal, noise = np.sqrt(alpha), np.sqrt(1 - alpha)
    if kind == "epsilon":
        return (x - noise * out) / signal, out
    return signal * x - noise * out, signal * out + noise * x


def ddim_step(x, out, alpha_from, alpha_to, kind="epsilon", sigma=0.0):
    """Song et al. 2021, eq. 12, without its random term."""
    x0, eps = prediction(*wide(out, x), alpha_from, kind)
    return np.sqrt(alpha_to) * x0 + np.sqrt(1 - alpha_to - sigma**2) * eps


def grid_points(total, n, spacing, offset):
    """Lin et al. 2023, table 2: (numerators, denominator) of the timesteps before they are rounded,
    exact."""
    if spacing == "leading":
        steps = np.arange(n) * (total // n) + offset
        return steps - max(0, steps[-1] - total + 1), 1
    if spacing == "trailing":
        return total * np.arange(1, n + 1) - n, n
    return (total - 1) * np.arange(n), max(n - 1, 1)


# --- mask -----------------------------------------------------------------------------------------


def noise_map(target, source):
    """[B,n,C,h,w] predictions -> [B,h,w]: mean over draws and channels of the absolute
    difference."""
    target, source = wide(target, source)
    return np.abs(target - source).mean((1, 2))


def smooth(noise_map, sigma):
    """Each cell of each map as the Gaussian-weighted mean of all cells."""
    maps = wide(noise_map)
    result = np.zeros_like(maps)
    rows, columns = np.indices(maps.shape[1:])
    for i, j in np.ndindex(*maps.shape[1:]):
        weights = np.exp(-((rows - i) ** 2 + (columns - j) ** 2) / (2 * sigma * sigma))
        result[:, i, j] = (maps * weights).sum((1, 2)) / weights.sum()
    return result


def normalise(noise_map, clamp_ratio, over="image", clamp_quantile=0.0):
    """Clamp each map at a multiple of a mean, or at a quantile, then divide by it; a zero map stays
    zero."""
    maps = wide(noise_map)
    result = np.zeros_like(maps)
    for i, m in enumerate(maps):
        cells = m if over == "image" else maps
        clamp = np.quantile(cells, clamp_quantile) if clamp_quantile else clamp_ratio * cells.mean()
        if clamp > 0:
            result[i] = np.clip(m / clamp, 0, 1)
    return result


# --- the phases -----------------------------------------------------------------------------------


def guided(predict, x, timestep, state, negative, scale):
    """u + g (c - u), or the plain prediction without a negative state."""
    conditional = predict(x, timestep, state)
    if negative is None:
        return conditional
    unconditional = predict(x, timestep, negative)
    return unconditional + scale * (conditional - unconditional)


def invert(
    predict,
    x0,
    timesteps,
    alphas,
    steps,
    state,
    negative=None,
    scale=1.0,
    kind="epsilon",
    asked="current",
):
    """DiffEdit, eq. 3, from the clean picture up: a list of latents, index 0 the clean one."""
    trail = [wide(x0)]
    for i in range(steps):
        timestep = timesteps[i + 1] if asked == "destination" else timesteps[i]
        out = guided(predict, trail[i], timestep, state, negative, scale)
        trail.append(ddim_step(trail[i], out, alphas[i], alphas[i + 1], kind))
    return trail


def decode(
    predict,
    trail,
    mask,
    timesteps,
    alphas,
    state,
    negative=None,
    scale=1.0,
    kind="epsilon",
    blend="same",
):
    """DiffEdit, eq. 2 and the blend of section 3.2, step 3."""
    level = len(trail) - 1
    x, mask = wide(trail[level]), wide(mask)[:, None]
    while level > 0:
        out = guided(predict, x, timesteps[level], state, negative, scale)
        x = ddim_step(x, out, alphas[level], alphas[level - 1], kind)
        background = trail[level] if blend == "noisier" else trail[level - 1]
        x = mask * x + (1 - mask) * wide(background)
        level -= 1
    return x


# --- kernels --------------------------------------------------------------------------------------


def conv2d(x, weight, bias, stride=1, padding=(1, 1, 1, 1)):
    """Each output value by itself: the sum of a window times the kernel."""
    x, weight, bias = wide(x, weight, bias)
    top, bottom, left, right = padding
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    _, _, rows, columns = weight.shape
    height, width = (x.shape[2] - rows) // stride + 1, (x.shape[3] - columns) // stride + 1
    y = np.empty((len(x), len(weight), height, width))
    for i in range(height):
        for j in range(width):
            window = x[:, :, i * stride : i * stride + rows, j * stride : j * stride + columns]
            y[:, :, i, j] = np.einsum("bcij,ocij->bo", window, weight) + bias
    return y


def linear(x, weight, bias=None):
    """x W^T + b."""
    y = np.einsum("...i,oi->...o", *wide(x, weight))
    return y if bias is None else y + wide(bias)


def softmax(scores):
    """Over the last axis."""
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention(query, key, value, heads, causal=False):
    """One picture, one head, one query after the other. Vaswani et al. 2017, eq. 1."""
    query, key, value = wide(query, key, value)
    y = np.empty_like(query)
    dim = query.shape[2] // heads
    for b in range(len(query)):
        for h in range(heads):
            own = slice(h * dim, (h + 1) * dim)
            for t in range(query.shape[1]):
                seen = slice(0, t + 1 if causal else key.shape[1])
                y[b, t, own] = (
                    softmax(key[b, seen, own] @ query[b, t, own] / np.sqrt(dim))
                    @ value[b, seen, own]
                )
    return y


def group_norm(x, weight, bias, groups, eps):
    """Wu & He 2018."""
    x, weight, bias = wide(x, weight, bias)
    y = np.empty_like(x)
    size = x.shape[1] // groups
    for b in range(len(x)):
        for g in range(groups):
            own = slice(g * size, (g + 1) * size)
            y[b, own] = (x[b, own] - x[b, own].mean()) / np.sqrt(x[b, own].var() + eps)
    return y * weight[:, None, None] + bias[:, None, None]


def layer_norm(x, weight, bias, eps):
    """Over the last axis. Ba et al. 2016."""
    x, weight, bias = wide(x, weight, bias)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * weight + bias


def gelu(x):
    """x Phi(x)."""
    return wide(x) * (1 + erf(wide(x) / math.sqrt(2))) / 2


def sigmoid(x):
    return 1 / (1 + np.exp(-wide(x)))


def quick_gelu(x):
    return wide(x) * sigmoid(1.702 * wide(x))


def silu(x):
    return wide(x) * sigmoid(x)


def embedding(ids, weight):
    """The rows with these numbers."""
    return wide(weight)[ids]


def upsample(x):
    """Nearest neighbour, twice as high and wide."""
    return wide(x).repeat(2, 2).repeat(2, 3)


# --- layers ---------------------------------------------------------------------------------------


def apply(operation, params, x, *rest):
    """An operation with its `weight` and `bias`."""
    return operation(x, params["weight"], params.get("bias"), *rest)


def resnet(params, x, time, groups, eps, scale=1.0):
    """He et al. 2016 with group norm and time embedding as in Ho et al. 2020, appendix B."""
    h = apply(conv2d, params["conv1"], silu(apply(group_norm, params["norm1"], x, groups, eps)))
    if time is not None:
        h = h + apply(linear, params["time_emb_proj"], silu(time))[:, :, None, None]
    h = apply(conv2d, params["conv2"], silu(apply(group_norm, params["norm2"], h, groups, eps)))
    if "conv_shortcut" in params:
        x = apply(conv2d, params["conv_shortcut"], x, 1, (0, 0, 0, 0))
    return (wide(x) + h) / scale


def attend(params, x, context, heads):
    """The four projections around `attention`."""
    q, k, v = (
        apply(linear, params[name], t)
        for name, t in (("to_q", x), ("to_k", context), ("to_v", context))
    )
    return apply(linear, params["to_out.0"], attention(q, k, v, heads))


def cells(x):
    """[B,C,H,W] -> [B,HW,C], row by row."""
    return np.stack([x[:, :, i, j] for i in range(x.shape[2]) for j in range(x.shape[3])], 1)


def picture(h, height, width):
    """[B,HW,C] -> [B,C,H,W]."""
    y = np.empty((h.shape[0], h.shape[2], height, width))
    for n in range(height * width):
        y[:, :, n // width, n % width] = h[:, n]
    return y


def spatial_attention(params, x, heads, groups, eps):
    """Ho et al. 2020, appendix B."""
    h = cells(apply(group_norm, params["group_norm"], x, groups, eps))
    return wide(x) + picture(attend(params, h, h, heads), *x.shape[2:])


def geglu(x, weight, bias, weight_out, bias_out):
    """Shazeer 2020, eq. 6: the second half is the gate."""
    a, b = np.split(linear(x, weight, bias), 2, -1)
    return linear(a * gelu(b), weight_out, bias_out)


def linear_from_picture(x, weight, bias):
    """Cell by cell; the weight may be a 1x1 convolution's."""
    return linear(cells(x), weight.reshape(weight.shape[:2]), bias)


def linear_to_picture(x, weight, bias, height, width):
    """Cell by cell; the weight may be a 1x1 convolution's."""
    return picture(linear(x, weight.reshape(weight.shape[:2]), bias), height, width)


def transformer(params, x, context, heads, depth, groups):
    """Rombach et al. 2022, section 3.3: to itself, to the text, through the feed-forward, each
    added to its input."""

    def project(p, y):  # both kinds of projection are one matrix for every cell
        weight = wide(p["weight"])
        return linear(y, weight.reshape(weight.shape[:2]), p["bias"])

    h = project(params["proj_in"], cells(apply(group_norm, params["norm"], x, groups, 1e-6)))
    for i in range(depth):
        block = params[f"transformer_blocks.{i}"]
        n = apply(layer_norm, block["norm1"], h, 1e-5)
        h = h + attend(block["attn1"], n, n, heads)
        h = h + attend(block["attn2"], apply(layer_norm, block["norm2"], h, 1e-5), context, heads)
        n, ff = apply(layer_norm, block["norm3"], h, 1e-5), block["ff"]
        h = h + geglu(
            n,
            *(ff[layer][leaf] for layer in ("net.0.proj", "net.2") for leaf in ("weight", "bias")),
        )
    return wide(x) + picture(project(params["proj_out"], h), *x.shape[2:])


def time_embedding(params, timesteps, channels, flip_sin_to_cos, freq_shift):
    """Ho et al. 2020, appendix B; an odd width ends with a zero."""
    half = channels // 2
    rows = np.zeros((len(timesteps), channels))
    for b, t in enumerate(timesteps):
        for k in range(half):
            angle = float(t) * 10000.0 ** (-k / (half - freq_shift))
            first, second = (math.cos, math.sin) if flip_sin_to_cos else (math.sin, math.cos)
            rows[b, k], rows[b, half + k] = first(angle), second(angle)
    return apply(linear, params["linear_2"], silu(apply(linear, params["linear_1"], rows)))
