"""Operations that are made of others: each is written once, from the operations of any table.

A backend has a row of its own for one of these only where it has a faster way.
"""


def linear_from_picture(table, x, weight, bias):
    """Each cell's channels through a linear layer: a 1x1 convolution whose result is a list of
    cells."""
    batch, channels, height, width = x.shape
    cells = x.reshape(batch, channels, height * width).swapaxes(1, 2)
    return table["linear"](cells, matrix(weight), bias)


def linear_to_picture(table, x, weight, bias, height, width):
    """A list of cells through a linear layer, back to a picture."""
    y = table["linear"](x, matrix(weight), bias).swapaxes(1, 2)
    return y.reshape(y.shape[0], y.shape[1], height, width)


def geglu(table, x, weight, bias, weight_out, bias_out):
    """(a * gelu(b)) W'^T + b', where [a, b] = x W^T + b (Shazeer 2020, arXiv 2002.05202, eq. 6)."""
    h = table["linear"](x, weight, bias)
    half = h.shape[-1] // 2
    return table["linear"](h[..., :half] * table["gelu"](h[..., half:]), weight_out, bias_out)


def matrix(weight):
    """The weight of a linear layer [C',C], or of a 1x1 convolution [C',C,1,1], as [C',C]."""
    return weight.reshape(weight.shape[0], weight.shape[1])
