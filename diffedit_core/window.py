"""The decoding in a window: the mask and a margin around it. A shortcut, and not exact: attention,
convolutions and group norms of the model see the window alone.

Outside the mask the decoding is held to the inversion at every level, so that cells far from it
only tell the model what is around the edit. The walk itself is the caller's, as are its steps.
"""

from typing import NamedTuple

import numpy as np

from .integrators import State
from .walk import joined


class Window(NamedTuple):
    """A rectangle of the latents' grid: its first row and column, and its sides."""

    top: int
    left: int
    height: int
    width: int


def around(mask, margin, multiple=1):
    """The smallest `Window` with a mask and so many cells on each side of it, as far as the grid
    reaches, whose sides are multiples of a number or the grid's own.

    What a side is longer than the mask and its margins is divided between both ends.

    Args:
        mask: [h,w] array; its cells are those that are not 0. Parts far from each other are in one
            window, with all that lies between.
        margin: cells, from 0 up.
        multiple: `UNetConfig.factor`, so that no level of the UNet cuts a cell off.
    Returns:
        A window, or None for an empty mask.
    Laws: it contains the mask and the margin, lies in the grid, and no shorter side would do; a
        larger margin gives a larger window; it moves with the mask, and is transposed with it.
    """
    cells = np.asarray(mask) != 0
    if not cells.any():
        return None
    (top, height), (left, width) = (side(cells.any(axis), margin, multiple) for axis in (1, 0))
    return Window(top, left, height, width)


def side(occupied, margin, multiple):
    """(start, length) of a window along one side of the grid, of the cells [n] that the mask has
    there."""
    size, found = len(occupied), np.flatnonzero(occupied)
    low, high = max(0, found[0] - margin), min(size, found[-1] + 1 + margin)
    length = min(size, -(-(high - low) // multiple) * multiple)
    start = low - (length - (high - low)) // 2
    return int(min(max(0, start), size - length)), int(length)


def share(mask, margin, multiple=1):
    """The share of the cells of a mask [h,w] that its window has: what a decoding evaluates of
    them; 1 where the margin is None."""
    found = None if margin is None else around(mask, margin, multiple)
    if found is None:
        return float(margin is None)
    return found.height * found.width / np.size(mask)


def described(mask, margin, multiple=1):
    """The window of a mask [h,w] in words, columns first: "12x8 of 16x16 cells"."""
    found, (height, width) = around(mask, margin, multiple), np.shape(mask)
    return f"{found.width}x{found.height} of {width}x{height} cells" if found else "no cells"


def crop(x, window):
    """What a window shows of x: [...,h,w] -> [...,height,width]."""
    top, left, height, width = window
    return x[..., top : top + height, left : left + width]


def paste(piece, x, window):
    """x [...,h,w] with a piece [...,height,width] in place of what a window shows.

    Laws: paste(crop(x), x) = x; crop(paste(piece, x)) = piece; outside it is x; all bit for bit.
    """
    top, left, height, width = window
    rows = x[..., top : top + height, :]
    rows = _between(rows[..., :left], piece, rows[..., left + width :], -1)
    return _between(x[..., :top, :], rows, x[..., top + height :, :], -2)


def _between(before, piece, after, axis):
    return joined([part for part in (before, piece, after) if part.shape[axis]], axis)


def decoded(walked, states, negative, trail, mask, above, margin, multiple):
    """A decoding in which each picture has its own window, so that none depends on its neighbours.

    Args:
        walked: function (states, negative, trail, mask) -> iterable of the K+1 states of a
            decoding from the trail's last state down, held to the trail where the mask is 0.
        states, negative: text states [B,S,D]; the second may be None.
        trail: K+1 `integrators.State` of latents [B,C,h,w].
        mask: [B,h,w] in [0,1].
        above: outside the windows is the trail's state so many levels above.
        margin, multiple: as in `around`.
    Returns:
        An iterable of K+1 states: in its window each picture's own, outside it and for an empty
        mask the trail's. They have no history and no features, which are the windows'.
    Laws: if every window is all of the grid it is `walked` itself, bit for bit; an empty mask is
        not walked; a picture's states are those that it has alone.
    """
    windows = [around(each, margin, multiple) for each in mask.asnumpy()]
    whole = Window(0, 0, *mask.shape[1:])
    if all(window == whole for window in windows):
        return walked(states, negative, trail, mask)
    paths = []
    for b, window in enumerate(windows):
        if window is not None:
            row = slice(b, b + 1)
            own = [_seen(state, row, window) for state in trail]
            away = None if negative is None else negative[row]
            paths.append(iter(walked(states[row], away, own, crop(mask[row], window))))
    behind = [trail[-1], *(trail[k + above] for k in range(len(trail) - 2, -1, -1))]
    return (_placed([next(path) for path in paths], state, windows) for state in behind)


def _seen(state, row, window):
    """What a window shows of one picture's state."""

    def seen(x):
        return None if x is None else crop(x[row], window)

    history = state.history and (state.history[0], seen(state.history[1]))
    return State(seen(state.latents), seen(state.coupled), history)


def _placed(pieces, behind, windows):
    """The state of a batch: each piece in its window, the rest as it is behind. A state without a
    coupled latent lends its latents, as in `parts.blend`."""

    def filled(found, x):
        found = iter(found)
        rows = [x[b : b + 1] for b in range(len(windows))]
        each = zip(windows, rows)
        return joined([r if w is None else paste(next(found), r, w) for w, r in each])

    latents = filled([piece.latents for piece in pieces], behind.latents)
    coupled = [piece.coupled for piece in pieces]
    if not pieces or coupled[0] is None:
        return State(latents, None if pieces else behind.coupled)
    lent = behind.latents if behind.coupled is None else behind.coupled
    return State(latents, filled(coupled, lent))
