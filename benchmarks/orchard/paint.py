"""Paint of the Orchard: textures of the ground, and fruits and containers as shaded layers. numpy
and Pillow only.

The world is SIZE units wide and high, x to the right, y down; a picture has `density` pixels to the
unit. All lengths of the world are in units, so that a scene is the same scene at every density.

A layer is (alpha [h,w], colour [h,w,3] in 0..255, top, left), in pixels. It is painted
SUPERSAMPLING times finer than the picture and averaged down.
"""

import functools
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128  # units on each side of the world, and of a texture, which tiles
SUPERSAMPLING = 3

FRUITS = {  # colour, shape, gloss
    "apple": ((205, 32, 38), "apple", 0.75),
    "strawberry": ((205, 32, 38), "heart", 0.45),
    "orange": ((245, 135, 18), "round", 0.40),
    "plum": ((104, 38, 120), "round", 0.55),
    "lemon": ((248, 214, 42), "lemon", 0.45),
    "lime": ((84, 160, 44), "lemon", 0.45),
    "pear": ((176, 196, 62), "pear", 0.45),
    "banana": ((248, 214, 42), "crescent", 0.30),
}
CONTAINERS = ("bowl", "basket", "plate", "none")
BACKGROUNDS = (
    "a wooden table",
    "green grass",
    "a blue cloth",
    "white marble",
    "sand",
    "a checked cloth",
)
# Grounds that only the benchmark's out-of-distribution splits show.
SLATE = "grey slate"
CLOTHS = {  # a cloth of each colour that a fruit has
    "a red cloth": ("apple", "strawberry"),
    "an orange cloth": ("orange",),
    "a purple cloth": ("plum",),
    "a yellow cloth": ("lemon", "banana"),
    "a green cloth": ("lime",),
    "a pale green cloth": ("pear",),
}
NEW_BACKGROUNDS = (SLATE, *CLOTHS)

RIM = (36.0, 11.0)  # half axes of a bowl's opening, in units at scale 1
DEPTH = 25.0  # from the opening's centre to the foot, without the foot's own half axis
FOOT = (20.0, 6.0)  # half axes of the foot
PLATE = (42.0, 16.0)
PLATE_DROP = 6.0  # the plate's centre lies that much below an opening's


class Layer(NamedTuple):
    """Something painted, with the place of its upper left corner."""

    alpha: np.ndarray
    colour: np.ndarray
    top: int
    left: int


# --- functions that every processor computes alike ------------------------------------------------


def portable(function):
    """A numpy function, computed in float64 and rounded to its arguments' own type.

    In float32 numpy takes another program for each kind of vector unit (AVX-512 or not), whose last
    bits differ; in float64 these differ, too, but they vanish when the result is rounded.
    """

    def rounded(*values):
        kind = np.result_type(*values)
        return function(*(np.asarray(v, np.float64) for v in values)).astype(kind)

    return rounded


sin, cos, exp, tanh, arcsin, arctan2, hypot, power = (
    portable(getattr(np, name))
    for name in ("sin", "cos", "exp", "tanh", "arcsin", "arctan2", "hypot", "power")
)


# --- the ground -----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=None)
def texture(background, density=1):
    """The tile of a background, float32 [SIZE*density,SIZE*density,3], always the same; it
    continues over its edges.

    A pixel is where its middle is: the mean of `density`^2 pixels belongs to the pixel of density 1
    that they fill.
    """
    side = SIZE * density
    y, x = (np.mgrid[:side, :side].astype(np.float32) + 0.5) / density - 0.5
    turn = 2 * np.pi / SIZE  # one turn over the tile
    rng = np.random.default_rng((*BACKGROUNDS, *NEW_BACKGROUNDS).index(background))
    return TEXTURES[background](x * turn, y * turn, rng).astype(np.float32)


def shades(level, dark, light):
    """Level 0..1 [h,w] -> colours between two."""
    return np.asarray(dark, np.float32) + np.clip(level, 0, 1)[..., None] * np.subtract(
        light, dark
    ).astype(np.float32)


def smooth_noise(rng, side, period, octaves=1):
    """Noise [side,side] that tiles, about -1..1, with `period` bumps along each side; each further
    octave is twice as fine."""
    total = 0
    for octave in range(octaves):
        n = period * 2**octave
        total = total + enlarged(rng.uniform(-1, 1, (n, n)), side) / 2**octave
    return total


def enlarged(cells, side):
    """Values [n,n] that tile, interpolated to [side,side] by cubics; n divides `side`."""
    n = len(cells)
    padded = np.pad(cells, 2, mode="wrap").astype(np.float32)
    big = Image.fromarray(padded).resize(((n + 4) * side // n,) * 2, Image.BICUBIC)
    edge = 2 * side // n
    return np.asarray(big)[edge : edge + side, edge : edge + side]


def wood(x, y, rng):
    """Four boards, each with rings of its own, and the gaps between them."""
    board = np.floor(4 * y / (2 * np.pi)).astype(int)
    shift, tone = rng.uniform(0, 2 * np.pi, 4)[board], np.array((0.08, -0.06, 0.02, -0.04))[board]
    warp = (
        1.1 * sin(x + shift)
        + 0.45 * sin(2 * x - 3 * shift)
        + 0.5 * smooth_noise(rng, len(y), 4)
    )
    grain = 0.30 * sin(16 * y + 2.2 * warp + 5 * shift) + 0.16 * sin(
        32 * y + 3 * warp + shift
    )
    colour = shades(
        0.55 + tone + grain * (0.75 + 0.25 * sin(x + 2 * shift)), (126, 76, 38), (190, 132, 78)
    )
    row = np.arange(len(y)) * SIZE // len(y) % (SIZE // 4)  # in units from the board's upper edge
    gap = np.select((row == 0, row == 1, row == SIZE // 4 - 1), (0.50, 0.78, 1.06), 1.0)
    return colour * gap[:, None, None]


def grass(x, y, rng):
    """Blades drawn one over the other from back to front, on a tile half as wide that comes four
    times."""
    n, density, finer = SIZE // 2, len(y) // SIZE, 4
    fine = finer * density
    tile = Image.new("RGB", (n * fine, n * fine), (44, 92, 34))
    draw = ImageDraw.Draw(tile)
    for i in range(520):
        root, lean, length = rng.uniform(0, n, 2), rng.normal(0, 2.2), rng.uniform(7, 12)
        light = rng.uniform(0.25, 1) * (0.45 + 0.55 * i / 520)
        colour = tuple(shades(np.array(light), (42, 88, 30), (126, 186, 70)).astype(int))
        for dx in (-n, 0, n):
            for dy in (-n, 0, n):
                foot = (root + (dx, dy)) * fine
                tip = foot + np.array((lean, -length)) * fine
                side = np.array((0.85, 0)) * fine
                draw.polygon([tuple(foot - side), tuple(foot + side), tuple(tip)], fill=colour)
    tile = np.asarray(tile.resize((n * density,) * 2, Image.BOX), np.float32)
    return np.tile(tile, (2, 2, 1))


def blue_cloth(x, y, rng):
    """A plain weave of four units' period under soft folds."""
    return shades(folds_and_weave(x, y), (36, 62, 140), (104, 142, 224))


def folds_and_weave(x, y):
    """How bright a cloth is, about 0 to 1."""
    folds = 0.5 * sin(2 * x + y + 0.8 * sin(x)) + 0.3 * sin(
        x - 2 * y + 0.6 * sin(2 * y)
    )
    weave = sin(32 * x) * sin(32 * y)
    return 0.52 + 0.26 * folds + 0.15 * weave


def cloth_of(fruit):
    """The texture of a cloth in a fruit's colour."""
    colour = np.array(FRUITS[fruit][0], np.float32)

    def cloth(x, y, rng):
        return shades(folds_and_weave(x, y), 0.72 * colour, np.minimum(1.12 * colour + 8, 255))

    return cloth


def slate(x, y, rng):
    """Dark layers that break off in steps."""
    rough = smooth_noise(rng, len(y), 4, 3)
    level = 3 * (0.5 + 0.35 * sin(2 * x + y + 1.5 * rough) + 0.15 * sin(3 * y - x))
    step = np.floor(level) + 1 / (1 + exp(-14 * (level % 1 - 0.5)))
    return shades(0.12 + 0.25 * step + 0.10 * rough, (52, 58, 66), (128, 134, 142))


def marble(x, y, rng):
    """White with thin grey veins along the zero lines of a warped wave."""
    warp = 1.0 * smooth_noise(rng, len(y), 2, 3)
    main = np.abs(sin(x + y + 1.6 * warp))
    fine = np.abs(sin(2 * x - y + 2.4 * warp + 1))
    vein = (
        0.75 * exp(-((main / 0.09) ** 2))
        + 0.40 * exp(-((fine / 0.07) ** 2))
        + 0.18 * exp(-((main / 0.5) ** 2))
    )
    return shades(vein, (238, 237, 234), (138, 142, 152))


def sand(x, y, rng):
    """Wind ripples, lit from one side, with fine grains."""
    phase = 9 * y + 1.3 * sin(x) + 0.6 * sin(2 * x + y)
    grains = rng.standard_normal((SIZE // 2, SIZE // 2))
    if len(y) > SIZE:  # a grain is a unit wide
        grains = enlarged(grains, len(y) // 2)
    grains = np.tile(grains, (2, 2))
    return shades(
        0.52 + 0.20 * sin(phase) + 0.10 * sin(2 * phase + 0.6) + 0.055 * grains,
        (188, 156, 104),
        (240, 218, 170),
    )


def checked_cloth(x, y, rng):
    """Red and white squares of eight units; where two stripes cross, the red is full; a twill runs
    over it."""
    stripes = [0.5 + 0.5 * tanh(6 * sin(8 * t)) for t in (x, y)]
    twill = 0.04 * sin(32 * (x + y))
    return shades(0.5 * (stripes[0] + stripes[1]) + twill, (243, 238, 230), (196, 62, 66))


TEXTURES = {
    **dict(zip(BACKGROUNDS, (wood, grass, blue_cloth, marble, sand, checked_cloth))),
    SLATE: slate,
    **{name: cloth_of(owners[0]) for name, owners in CLOTHS.items()},
}


# --- layers ---------------------------------------------------------------------------------------


def mesh(cx, cy, half_width, half_height, density):
    """A box around (cx, cy): supersampled coordinates (x, y) relative to it in units, and (top,
    left) in pixels."""
    left = int(np.floor(density * (cx - half_width)))
    top = int(np.floor(density * (cy - half_height)))
    columns = int(np.ceil(density * (cx + half_width))) - left
    rows = int(np.ceil(density * (cy + half_height))) - top
    s = SUPERSAMPLING
    x = (np.arange(columns * s, dtype=np.float32) + 0.5) / s + np.float32(left - density * cx)
    y = (np.arange(rows * s, dtype=np.float32) + 0.5) / s + np.float32(top - density * cy)
    return x[None, :] / density, y[:, None] / density, top, left


def reduce_layer(inside, colour, top, left):
    """Average the fine pixels that are inside: booleans [H,W] and colours [H,W,3] -> Layer."""
    s = SUPERSAMPLING
    rows, columns = inside.shape[0] // s, inside.shape[1] // s
    weight = inside.astype(np.float32)
    alpha = weight.reshape(rows, s, columns, s).sum((1, 3))
    total = np.clip(colour, 0, 255) * weight[..., None]
    total = total.reshape(rows, s, columns, s, 3).sum((1, 3))
    return Layer(alpha / s**2, total / np.maximum(alpha, 1)[..., None], top, left)


def window(shape, top, left, height, width):
    """Slices of a picture and of a layer where they overlap."""
    y0, x0, y1, x1 = (
        max(top, 0),
        max(left, 0),
        min(top + height, shape[0]),
        min(left + width, shape[1]),
    )
    y1, x1 = max(y0, y1), max(x0, x1)
    return (slice(y0, y1), slice(x0, x1)), (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))


def put(canvas, layer):
    """Lay a layer over a picture [H,W,3], in place."""
    there, here = window(canvas.shape, layer.top, layer.left, *layer.alpha.shape)
    alpha = layer.alpha[here][..., None]
    canvas[there] += alpha * (layer.colour[here] - canvas[there])


def darken(canvas, cx, cy, half_width, half_height, strength, within=None):
    """Multiply a soft elliptic shadow into a picture, in place; it is nothing beyond its half axes,
    or where `within` is 0. Lengths are in units."""
    density = len(canvas) // SIZE
    left = int(np.floor(density * (cx - half_width)))
    top = int(np.floor(density * (cy - half_height)))
    columns = int(np.ceil(density * (cx + half_width))) + 1 - left
    rows = int(np.ceil(density * (cy + half_height))) + 1 - top
    there, here = window(canvas.shape, top, left, rows, columns)
    x = ((np.arange(columns) + 0.5 + left) / density - cx)[None, here[1]] / half_width
    y = ((np.arange(rows) + 0.5 + top) / density - cy)[here[0], None] / half_height
    inside = np.clip(1 - x * x - y * y, 0, 1)
    weight = strength * inside * inside * (3 - 2 * inside)
    weight = weight if within is None else weight * within[there]
    canvas[there] *= (1 - weight)[..., None].astype(np.float32)


# --- fruits ---------------------------------------------------------------------------------------


def bump(angle, centre, width):
    """A bump of height 1 at an angle of the outline."""
    d = (angle - centre + np.pi) % (2 * np.pi) - np.pi
    return exp(-((d / width) ** 2))


UP, DOWN = -np.pi / 2, np.pi / 2
OUTLINES = {  # radius over the angle; 1 is the fruit's radius, y points down
    "round": lambda a: 1.0,
    "apple": lambda a: 1.04
    - 0.17 * bump(a, UP, 0.42)
    - 0.08 * bump(a, DOWN, 0.35)
    + 0.02 * cos(2 * a),
    "lemon": lambda a: 1.02 / np.sqrt((0.86 * cos(a)) ** 2 + (1.2 * sin(a)) ** 2)
    + 0.20 * bump(a, 0, 0.20)
    + 0.13 * bump(a, np.pi, 0.22),
    "pear": lambda a: 0.94
    + 0.52 * bump(a, UP, 0.46)
    - 0.10 * bump(a, UP - 0.95, 0.4)
    - 0.10 * bump(a, UP + 0.95, 0.4),
    "heart": lambda a: 0.94
    + 0.32 * bump(a, DOWN, 0.48)
    + 0.05 * cos(2 * a)
    - 0.10 * bump(a, UP, 0.5),
}


def surface(shape, u, v):
    """How far out (1 at the outline) and the normal's (x, y) of a fruit's surface at (u, v)."""
    if shape == "crescent":  # a bent tube: across it is a circle
        radius = hypot(u, v + 1.15)
        along = arctan2(u, v + 1.15) / 0.98
        across = (radius - 1.50) / (0.44 * np.sqrt(np.clip(1.04 - power(along, 4), 0.02, 1)))
        out = np.where(np.abs(along) < 1, np.abs(across), 9)
        return out, across * u / radius, across * (v + 1.15) / radius
    distance = hypot(u, v) + 1e-6
    out = distance / OUTLINES[shape](arctan2(v, u))
    return out, out * u / distance, out * v / distance


def fruit(kind, cx, cy, radius, angle, brightness, light, density=1):
    """A fruit as a layer.

    Args:
        kind: key of FRUITS.
        cx, cy, radius: in units.
        angle: rotation in radians.
        brightness: factor of the colour, about 1.
        light: unit vector (x, y, z) towards the light, z towards the viewer.
        density: pixels of the picture to the unit.
    """
    colour, shape, gloss = FRUITS[kind]
    x, y, top, left = mesh(cx, cy, 1.62 * radius, 1.62 * radius, density)
    along, aside = np.float32(cos(angle)), np.float32(sin(angle))
    u = (x * along + y * aside) / np.float32(radius)
    v = (y * along - x * aside) / np.float32(radius)
    out, nx, ny = surface(shape, u, v)
    inside = out < 1
    nz = np.sqrt(np.clip(1 - nx * nx - ny * ny, 0, 1))
    lx, ly = light[0] * along + light[1] * aside, light[1] * along - light[0] * aside
    lz = light[2]
    facing = np.clip(nx * lx + ny * ly + nz * lz, -0.2, 1)
    half = np.array((lx, ly, lz + 1)) / np.linalg.norm((lx, ly, lz + 1))
    mirror = np.clip(nx * half[0] + ny * half[1] + nz * half[2], 0, 1)
    base = np.asarray(colour, np.float32) * np.float32(brightness)
    base, inside = DETAILS[kind](np.broadcast_to(base, (*u.shape, 3)), inside, u, v, out)
    shade = 0.40 + 0.72 * np.maximum(facing, 0.04 * facing) - 0.16 * power(np.minimum(out, 1), 6)
    shine = gloss * (190 * power(mirror, 42) + 34 * power(mirror, 9))
    return reduce_layer(inside, base * shade[..., None] + shine[..., None], top, left)


def tint(base, weight, colour):
    """Mix a colour into the base by a weight [H,W]."""
    return base + weight[..., None].astype(np.float32) * (np.asarray(colour, np.float32) - base)


def stem(u, v, low, high, bend=0.18, width=0.075):
    """Where a short stem is: from v = low up to v = high."""
    return (np.abs(u - bend * (v - low) ** 2) < width) & (v < low) & (v > high)


def apple(base, inside, u, v, out):
    base = tint(
        base,
        0.42 * np.clip(-v - 0.15, 0, 1) * (0.6 + 0.4 * sin(11 * arctan2(v, u))),
        (250, 196, 70),
    )
    base = tint(base, exp(-((u / 0.30) ** 2 + ((v + 0.80) / 0.16) ** 2)), (96, 52, 22))
    stalk = stem(u, v, -0.72, -1.28)
    leaf = ((u - 0.36) / 0.34) ** 2 + ((v + 1.06 + 0.45 * (u - 0.36)) / 0.15) ** 2 < 1
    base = tint(tint(base, leaf, (88, 158, 52)), stalk & ~leaf, (92, 62, 34))
    return base, inside | stalk | leaf


def strawberry(base, inside, u, v, out):
    row = np.round(v / 0.36)
    seed = ((u / 0.36 + 0.5 * (row % 2) + 0.5) % 1 - 0.5) ** 2 + (v / 0.36 - row) ** 2 * 0.5 < 0.022
    base = tint(base, seed & (v > -0.5), (250, 214, 120))
    angle = arctan2(v + 0.80, u)
    cap = hypot(u, 1.5 * (v + 0.80)) < 0.46 + 0.30 * np.abs(cos(2.5 * (angle - UP)))
    return tint(base, cap, (74, 150, 52)), inside | cap


def orange(base, inside, u, v, out):
    base = tint(base, 0.10 * (sin(13 * u + 3 * v) * sin(13 * v - 3 * u) > 0.35), (190, 84, 0))
    navel = hypot(u - 0.12, v + 0.62) < 0.12
    return tint(base, navel, (92, 120, 40)), inside


def plum(base, inside, u, v, out):
    crease = exp(-(((u - 0.34 * (1 - v * v)) / 0.09) ** 2))
    base = tint(base, 0.55 * crease, (52, 12, 66))
    base = tint(base, 0.30 * exp(-((u + 0.3) ** 2 + (v + 0.2) ** 2) / 0.5), (150, 130, 210))
    stalk = stem(u, v, -0.80, -1.22)
    return tint(base, stalk, (92, 72, 40)), inside | stalk


def citrus(base, inside, u, v, out):
    base = tint(
        base, 0.10 * (sin(12 * u + 4 * v) * sin(12 * v - 4 * u) > 0.35), (150, 140, 20)
    )
    return tint(base, 0.35 * np.clip((np.abs(u) - 1.0) / 0.3, 0, 1), (120, 120, 30)), inside


def pear(base, inside, u, v, out):
    base = tint(base, 0.35 * np.clip(u + 0.2 * v, 0, 1), (226, 150, 60))
    base = tint(
        base, 0.30 * (sin(9 * u + 5 * v) * sin(10 * v - 4 * u) > 0.72), (120, 110, 40)
    )
    stalk = stem(u, v, -1.30, -1.60, bend=0.9)
    return tint(base, stalk, (92, 62, 34)), inside | stalk


def banana(base, inside, u, v, out):
    along = arctan2(u, v + 1.15) / 0.98
    edge = hypot(u, v + 1.15) - 1.50
    base = tint(base, 0.45 * exp(-(((edge - 0.10) / 0.05) ** 2)), (176, 130, 20))
    base = tint(base, 0.25 * np.clip((np.abs(along) - 0.6) / 0.3, 0, 1), (150, 170, 60))
    return tint(base, np.abs(along) > 0.90, (92, 66, 34)), inside


DETAILS = {
    "apple": apple,
    "strawberry": strawberry,
    "orange": orange,
    "plum": plum,
    "lemon": citrus,
    "lime": citrus,
    "pear": pear,
    "banana": banana,
}


# --- containers -----------------------------------------------------------------------------------


def behind(container, cx, cy, scale, light, density=1):
    """The part of a container that lies behind the fruits: a list of layers."""
    if container == "plate":
        return [plate(cx, cy + PLATE_DROP * scale, scale, light, density)]
    if container == "none":
        return []
    rx, ry = RIM[0] * scale, RIM[1] * scale
    x, y, top, left = mesh(cx, cy, rx, ry, density)
    u, v = x / rx, y / ry
    out = u * u + v * v
    lip = out > 0.80
    depth = 0.62 + 0.30 * v - 0.18 * u * np.sign(light[0]) * -1
    if container == "bowl":
        colour = np.where(
            lip[..., None], (250, 247, 240), np.float32((206, 208, 214)) * depth[..., None]
        )
    else:
        strands = 0.80 + 0.20 * sin(9 * arctan2(v, u) * 2)
        inner = 0.75 + 0.25 * sin(y * 1.6) * np.sign(sin(x * 0.8))
        colour = np.where(
            lip[..., None],
            np.float32((206, 152, 84)) * strands[..., None],
            np.float32((116, 76, 38)) * (depth * inner)[..., None],
        )
    return [reduce_layer(out < 1, colour.astype(np.float32), top, left)]


def before(container, cx, cy, scale, light, density=1):
    """The part of a container that lies before the fruits: a list of layers."""
    if container in ("plate", "none"):
        return []
    rx, ry, depth = RIM[0] * scale, RIM[1] * scale, DEPTH * scale
    middle = 0.5 * (depth + FOOT[1] * scale)
    x, y, top, left = mesh(cx, cy + middle, rx + 1, middle + ry + 1, density)
    y = y + np.float32(middle)  # relative to the opening's centre
    front = ry * np.sqrt(np.clip(1 - (x / rx) ** 2, 0, 1))  # height of the opening's near edge
    # 0 at the opening, 1 at the foot, along the wall
    down = np.clip((y - front * 0.72) / depth, 0, 1.2)
    if container == "bowl":
        width = rx - (rx - FOOT[0] * scale) * power(np.clip(down, 0, 1), 2.4)
    else:
        width = rx - 0.62 * (rx - FOOT[0] * scale) * np.clip(down, 0, 1)
    u = x / width
    foot = depth + FOOT[1] * scale * np.sqrt(np.clip(1 - u * u, 0, 1))
    inside = (np.abs(u) < 1) & (y > front) & (y < foot) & (np.abs(x) < rx)
    nx = np.clip(u, -1, 1)
    nz = np.sqrt(1 - nx * nx)
    facing = np.clip(nx * light[0] * 1.1 + nz * 0.80 - 0.35 * down * light[2], 0, 1)
    shade = 0.46 + 0.60 * facing
    wall = porcelain if container == "bowl" else wicker
    colour = wall(u, down, nx, shade, light)
    return [reduce_layer(inside, colour.astype(np.float32), top, left)]


def porcelain(u, down, nx, shade, light):
    """White with two blue bands and a streak of shine."""
    colour = np.broadcast_to(np.float32((240, 236, 226)), (*down.shape, 3))
    bands = (np.abs(down - 0.30) < 0.075) | (np.abs(down - 0.47) < 0.022)
    colour = tint(colour, bands, (44, 84, 176)) * shade[..., None]
    across, along = ((u - 0.55 * light[0]) / 0.10) ** 2, ((down - 0.45) / 0.35) ** 2
    shine = 70 * exp(-across) * exp(-along)
    return colour + shine[..., None]


def wicker(u, down, nx, shade, light):
    """Strands over and under stakes, and a twisted hem."""
    turn = arcsin(nx) * (10 / np.pi) * 2  # stakes stand at equal angles around
    row = down * 7
    over = np.floor(turn + 0.5 * np.floor(row) * 1.0) % 2
    strand = power(sin(np.pi * (row % 1)), 0.6) * (
        0.72 + 0.28 * sin(np.pi * ((turn + 0.5 * np.floor(row)) % 1))
    )
    weave = 0.50 + 0.50 * strand * np.where(over == 1, 1.0, 0.82)
    colour = np.float32((204, 146, 76)) * (weave * shade)[..., None]
    twist = 0.80 + 0.20 * sin(turn * 2 * np.pi + 14 * down)
    hem = np.float32((212, 158, 90)) * (twist * shade)[..., None]
    return np.where((down < 0.13)[..., None], hem, colour)


def plate(cx, cy, scale, light, density=1):
    """A flat plate with a blue line along its rim."""
    rx, ry = PLATE[0] * scale, PLATE[1] * scale
    x, y, top, left = mesh(cx, cy, rx, ry + 3 * scale, density)
    u, v = x / rx, y / ry
    out = np.sqrt(u * u + v * v)
    # the plate's thickness, seen at its near side
    edge = np.sqrt(u * u + ((y - 2.2 * scale) / ry) ** 2)
    tilt = 0.5 + 0.5 * (u * light[0] + v * light[1])
    level = np.where(out < 0.66, 0.90 + 0.06 * tilt, np.where(out < 0.70, 0.76, 0.86 + 0.14 * tilt))
    colour = np.float32((250, 249, 246)) * level[..., None]
    colour = tint(colour, (out > 0.86) & (out < 0.92), (70, 110, 190))
    colour = np.where((out > 1)[..., None], np.float32((168, 168, 174)), colour)
    return reduce_layer((out < 1) | (edge < 1), colour.astype(np.float32), top, left)
