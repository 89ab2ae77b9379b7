"""The Orchard: still lifes whose every edit has an exact answer.

A `Scene` names what is in a picture; its seed fixes everything else (geometry, light, texture
offset, noise). So the same scene can be drawn again with one thing changed: `counterfactual`. The
two pictures give the true mask and the true edit.

    python -m benchmarks.orchard.world --out sheet.png      draws a sheet of scenes with an edit of
    each
"""

import argparse
import dataclasses
from dataclasses import dataclass

import numpy as np
from PIL import Image

from . import paint
from .paint import BACKGROUNDS, CONTAINERS, FRUITS, NEW_BACKGROUNDS, SIZE

VERSION = "Orchard v1"  # frozen: what it draws stays, see manifest.txt
MIXED = "mixed"
SIZES = (SIZE, 2 * SIZE)  # pixels on each side of a picture
PLACES = ("left", "middle", "right")
LIGHTS = ("usual", "low")  # from above; from the front, below the viewer
CENTRES = {"left": 44, "middle": 64, "right": 84}  # of a still life, in units from the left
COUNTS = (1, 2, 3, 4, 5)
NUMBERS = dict(zip(COUNTS, ("one", "two", "three", "four", "five")))
PLURALS = {name: name + "s" for name in FRUITS} | {
    "strawberry": "strawberries",
    "plum": "plums",
    MIXED: "fruits",
}
SEEDS = {
    "train": range(0, 1_000_000),
    "validation": range(1_000_000, 1_100_000),
    "test": range(2_000_000, 2_100_000),
}
# grey levels from which a difference between two pictures counts: less is the faint end of a soft
# shadow
VISIBLE = 16

# Combinations that training never shows, to test composition. Each of their parts is seen in other
# company.
HELD_OUT = frozenset(
    (
        ("apple", "basket", "sand"),
        ("apple", "plate", "a blue cloth"),
        ("strawberry", "bowl", "white marble"),
        ("strawberry", "none", "sand"),
        ("orange", "plate", "green grass"),
        ("orange", "basket", "a checked cloth"),
        ("plum", "bowl", "a wooden table"),
        ("plum", "none", "green grass"),
        ("lemon", "bowl", "a blue cloth"),
        ("lemon", "basket", "green grass"),
        ("lime", "plate", "a wooden table"),
        ("lime", "bowl", "sand"),
        ("pear", "plate", "white marble"),
        ("pear", "none", "a checked cloth"),
        ("banana", "basket", "white marble"),
        ("banana", "plate", "sand"),
    )
)

# Places of the fruits for each count, in fruit radii from the middle; the back row first.
ROWS = {
    1: (((0, 0),),),
    2: (((-1.05, 0.05), (1.05, -0.05)), ((-0.85, -0.5), (0.85, 0.25))),
    3: (((0, -1.25), (-1.02, 0.2), (1.02, 0.2)), ((-1.95, -0.15), (0, 0.15), (1.95, -0.15))),
    4: (
        ((0, -1.30), (-1.95, -0.1), (1.95, -0.1), (0, 0.3)),
        ((-0.95, -1.35), (0.95, -1.35), (-1.15, 0.2), (1.15, 0.2)),
    ),
    5: (((-1.0, -1.35), (1.0, -1.35), (-1.95, 0.0), (1.95, 0.0), (0, 0.35)),),
}


@dataclass(frozen=True)
class Scene:
    """What a picture shows; `seed` fixes the rest."""

    fruit: str  # a key of FRUITS, or MIXED
    container: str
    background: str
    count: int
    place: str
    seed: int
    light: str = "usual"

    def __post_init__(self):
        for value, known in (
            (self.fruit, (*FRUITS, MIXED)),
            (self.container, CONTAINERS),
            (self.background, (*BACKGROUNDS, *NEW_BACKGROUNDS)),
            (self.count, COUNTS),
            (self.place, PLACES),
            (self.light, LIGHTS),
        ):
            if value not in known:
                raise ValueError(
                    f"{value!r} is not in the Orchard: choose one of {', '.join(map(str, known))}."
                )
        if self.fruit == MIXED and self.count < 2:
            raise ValueError("One fruit cannot be mixed: take at least two.")

    @property
    def combination(self):
        return self.fruit, self.container, self.background


def stream(seed, purpose):
    """The random numbers of one purpose: what one thing draws does not move another."""
    return np.random.default_rng(
        [seed, ("scene", "geometry", "kinds", "ground", "noise").index(purpose)]
    )


def sample_scene(seed, held_out=False):
    """The scene of a seed; one of the combinations in HELD_OUT if `held_out`, else never one of
    them."""
    rng = stream(seed, "scene")
    if held_out:
        fruit, container, background = sorted(HELD_OUT)[rng.integers(len(HELD_OUT))]
    else:
        fruit, container, background = _free_combination(rng)
    count = int(rng.integers(2 if fruit == MIXED else 1, len(COUNTS) + 1))
    return Scene(
        fruit, container, background, count, PLACES[rng.choice(3, p=(0.25, 0.5, 0.25))], seed
    )


def _free_combination(rng):
    while True:
        fruit = (*FRUITS, MIXED)[rng.integers(len(FRUITS) + 1)]
        combination = (
            fruit,
            CONTAINERS[rng.integers(len(CONTAINERS))],
            BACKGROUNDS[rng.integers(len(BACKGROUNDS))],
        )
        if combination not in HELD_OUT:
            return combination


def counterfactual(scene, fruit=None, container=None, background=None):
    """The same scene with the fruit, the container or the background changed and nothing else.

    Raises:
        ValueError: there is no such fruit, container or background.
    """
    changes = {"fruit": fruit, "container": container, "background": background}
    return dataclasses.replace(
        scene, **{name: value for name, value in changes.items() if value is not None}
    )


EDITS = ("fruit", "container", "both")


def random_edit(scene, kind):
    """A counterfactual of one of EDITS, whose new fruit and container follow from the scene's
    seed."""
    rng = np.random.default_rng([scene.seed, len(EDITS), EDITS.index(kind)])
    fruits = [name for name in FRUITS if name != scene.fruit]
    containers = [name for name in CONTAINERS if name != scene.container]
    fruit, container = fruits[rng.integers(len(fruits))], containers[rng.integers(len(containers))]
    return counterfactual(
        scene, fruit if kind != "container" else None, container if kind != "fruit" else None
    )


# --- captions -------------------------------------------------------------------------------------


def captions(scene):
    """Every true caption, in an order that does not depend on fruit, container or background.

    So the caption of one index before and after a counterfactual differs in the changed words only.
    Plain ones come first, then those that name the count, then all of them once more with the
    place.
    """
    many, one = PLURALS[scene.fruit], scene.fruit
    noun = one if scene.count == 1 else many
    article = "an" if noun[0] in "aeiou" else "a"
    ground = f"on {scene.background}"
    held = {"bowl": " in a bowl", "basket": " in a basket", "plate": " on a plate", "none": ""}[
        scene.container
    ]
    alone = f"{article} {noun}" if scene.count == 1 else noun
    grouped = (
        f"a {scene.container} of {many}"
        if scene.container != "none" and scene.count > 1
        else f"{alone}{held}"
    )
    number = f"{NUMBERS[scene.count]} {noun}"
    counted = f"a {scene.container} with {number}" if scene.container != "none" else number
    plain = [
        f"{grouped} {ground}",
        f"{alone}{held} {ground}",
        f"{number}{held} {ground}",
        f"{counted} {ground}",
    ]
    where = "in the middle" if scene.place == "middle" else f"on the {scene.place}"
    return plain + [f"{text} {where}" for text in plain]


def caption(scene, index=0):
    """One of `captions`; the first is the plainest, such as "a bowl of apples on a wooden
    table"."""
    return captions(scene)[index]


# --- pictures -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Geometry:
    """What the seed fixes of a picture, whatever is in it. Lengths are in units of the world."""

    centre: tuple  # of a bowl's opening
    scale: float
    light: np.ndarray  # unit vector towards the light
    offset: tuple  # of the ground's texture
    gradient: tuple  # brightness across the picture
    places: tuple  # of the fruits, the back row first
    radii: np.ndarray
    angles: np.ndarray
    brightness: np.ndarray


def geometry(scene):
    """The geometry of a scene: from its seed, count, place and light only."""
    rng = stream(scene.seed, "geometry")
    scale = rng.uniform(0.92, 1.10)
    centre = CENTRES[scene.place] + rng.uniform(-4, 4), rng.uniform(58, 76)
    tilt, side = rng.uniform(0.45, 0.75), rng.choice((-1, 1), p=(0.7, 0.3))
    light = np.array((side * rng.uniform(0.35, 0.6), -tilt, 0.7))
    if scene.light == "low":
        light = light * (1, -1, 1)
    radius = scale * (12.2 if scene.count > 2 else 14.0 if scene.count == 2 else 16.5)
    rows = ROWS[scene.count][rng.integers(len(ROWS[scene.count]))]
    jitter = rng.uniform(-0.10, 0.10, (len(COUNTS), 2))
    lift = -0.35 * radius
    places = tuple(
        (centre[0] + (x + dx) * radius, centre[1] + lift + (y + dy) * radius)
        for (x, y), (dx, dy) in zip(rows, jitter)
    )
    ground = stream(scene.seed, "ground")
    return Geometry(
        centre,
        scale,
        light / np.linalg.norm(light),
        tuple(ground.integers(0, SIZE, 2)),
        tuple(ground.uniform(-0.06, 0.06, 2)),
        places,
        radius * rng.uniform(0.94, 1.06, len(COUNTS)),
        rng.uniform(-0.45, 0.45, len(COUNTS)),
        rng.uniform(0.92, 1.07, len(COUNTS)),
    )


def kinds(scene):
    """The kind of each fruit; a mixed scene has at least two kinds."""
    if scene.fruit != MIXED:
        return (scene.fruit,) * scene.count
    rng, names = stream(scene.seed, "kinds"), tuple(FRUITS)
    first, second = rng.choice(len(names), 2, replace=False)
    others = rng.integers(len(names), size=scene.count - 2)
    return tuple(names[i] for i in rng.permutation((first, second, *others)))


def render(scene, size=SIZE):
    """Draw a scene.

    Args:
        size: pixels on each side, one of SIZES. The scene is the same at all of them.
    Returns:
        (picture uint8 [size,size,3], masks): the masks are {"fruit", "container", "shadow"} -> bool
        [size,size]: what is seen of the fruits, of the container, and the ground that the two
        darken.
    Law: two scenes that differ in fruit or container only have equal pixels outside all their
        masks.
    """
    density = density_of(size)
    g = geometry(scene)
    lit = ground(scene, g, density)
    canvas = lit.copy()
    seen = {name: np.zeros((size, size), np.float32) for name in ("container", "fruit")}
    _cast_shadow(canvas, scene.container, g)
    for layer in paint.behind(scene.container, *g.centre, g.scale, g.light, density):
        _lay(canvas, layer, seen, "container")
    for i, kind in enumerate(kinds(scene)):
        _put_fruit(canvas, kind, i, scene, g, seen, density)
    for layer in paint.before(scene.container, *g.centre, g.scale, g.light, density):
        _lay(canvas, layer, seen, "container")
    masks = {name: alpha > 0 for name, alpha in seen.items()}
    masks["shadow"] = (canvas != lit).any(-1) & ~masks["fruit"] & ~masks["container"]
    noise = stream(scene.seed, "noise").standard_normal((SIZE, SIZE, 1), np.float32)
    canvas += noise if density == 1 else paint.enlarged(noise[..., 0], size)[..., None]
    return np.clip(np.round(canvas), 0, 255).astype(np.uint8), masks


def density_of(size):
    """Pixels to the unit in a picture of `size` pixels on each side."""
    if size not in SIZES:
        raise ValueError(
            f"The Orchard is not drawn at {size!r}: choose one of {', '.join(map(str, SIZES))}."
        )
    return size // SIZE


def ground(scene, g, density=1):
    """The textured background, brighter on one side: float32 [size,size,3]."""
    offset = [density * shift for shift in g.offset]
    tile = np.roll(paint.texture(scene.background, density), offset, (0, 1))
    edge = 1 + (1 - 1 / density) / (
        SIZE - 1
    )  # -1 and 1 are the middles of density 1's outer pixels
    across = np.linspace(-edge, edge, SIZE * density, dtype=np.float32)
    bright = 1 + g.gradient[0] * across[None, :] + g.gradient[1] * across[:, None]
    return tile * bright[..., None].astype(np.float32)


def _cast_shadow(canvas, container, g):
    """The soft shadow of a container on the ground."""
    (x, y), s = g.centre, g.scale
    if container == "plate":
        paint.darken(
            canvas, x - 6 * g.light[0], y + (paint.PLATE_DROP + 5) * s, 46 * s, 19 * s, 0.5
        )
    elif container != "none":
        paint.darken(canvas, x - 16 * g.light[0], y + (paint.DEPTH + 1) * s, 38 * s, 14 * s, 0.6)


def _put_fruit(canvas, kind, i, scene, g, seen, density):
    """Fruit `i` of a scene and its shadow, which falls into a bowl but not beside it."""
    (x, y), radius = g.places[i], g.radii[i]
    within = None
    if scene.container in ("bowl", "basket"):
        within = np.minimum(seen["container"] + seen["fruit"], 1)
    cx, cy = x - 0.35 * radius * g.light[0], y + 0.62 * radius
    paint.darken(canvas, cx, cy, 1.25 * radius, 0.75 * radius, 0.55, within)
    layer = paint.fruit(kind, x, y, radius, g.angles[i], g.brightness[i], g.light, density)
    _lay(canvas, layer, seen, "fruit")


def _lay(canvas, layer, seen, name):
    """Paint a layer and keep account of what is seen of each thing."""
    paint.put(canvas, layer)
    there, here = paint.window(canvas.shape, layer.top, layer.left, *layer.alpha.shape)
    alpha = layer.alpha[here]
    for other in seen.values():
        other[there] *= 1 - alpha
    seen[name][there] += alpha


def true_mask(picture, other, visible=VISIBLE):
    """The pixels that differ: by at least `visible` grey levels in one channel. uint8 [H,W,3] twice
    -> bool [H,W]."""
    return np.abs(picture.astype(np.int16) - other).max(-1) >= visible


def on_grid(mask, factor=8):
    """A mask of pixels on the grid of the latents: a cell is in it as soon as one of its pixels is.
    [H,W] -> [h,w]."""
    height, width = mask.shape
    return mask.reshape(height // factor, factor, width // factor, factor).any((1, 3))


def sheet(rows):
    """Pictures uint8 [H,W,3], in rows of equal length -> one picture."""
    return Image.fromarray(np.concatenate([np.concatenate(row, 1) for row in rows], 0))


def main():
    """Draw scenes, and an edit of each beside it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="orchard.png", help="the sheet, a PNG")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--columns", type=int, default=4, help="pairs in a row")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first scene")
    arguments = parser.parse_args()
    rows, seed = [], arguments.seed
    for _ in range(arguments.rows):
        row = []
        for _ in range(arguments.columns):
            scene = sample_scene(seed)
            edited = random_edit(scene, EDITS[seed % len(EDITS)])
            row += [render(scene)[0], render(edited)[0]]
            seed += 1
        rows.append(row)
    sheet(rows).save(arguments.out)


if __name__ == "__main__":
    main()
