"""What comes back outside the mask: the autoencoder blurs all of a picture, an edit changes a
part."""

import numpy as np

KINDS = {
    "restored": "give back what the autoencoder lost",
    "pasted": "the source's own pixels",
    "decoded": "as the autoencoder gives it, as in the paper",
}
FULL = 0.25  # weight from which on the decoded picture counts whole in `restored`


def weight(mask, grow, feather):
    """W, 1 where the edit is: the mask grown, then falling to 0 over the feather.

    W = mean over k = 0..feather-1 of the mask grown by grow + k, or without a feather the mask
    grown by grow; grown by n: the largest value within n pixels along each axis.

    Args:
        mask: [...,H,W] in [0,1], in pixels; soft values stay soft.
        grow: pixels, 0 or more.
        feather: pixels over which W falls, 0 or more.
    Returns:
        float32 [...,H,W].
    Laws: monotone in the mask; W >= mask; 1 within `grow` of a 1, 0 beyond grow + feather of all
        that is not 0; one mask's W does not depend on the others of the batch.
    """
    grown = np.asarray(mask, np.float32)
    for _ in range(grow):
        grown = dilated(grown)
    if not feather:
        return grown
    total = np.zeros_like(grown)
    for _ in range(feather):
        total += grown
        grown = dilated(grown)
    return total / feather


def dilated(mask):
    """The largest of each cell and its eight neighbours: [...,H,W] -> the same shape."""
    for axis in (-2, -1):
        before, after = np.roll(mask, 1, axis), np.roll(mask, -1, axis)
        edge = [slice(None)] * mask.ndim
        edge[axis] = 0
        before[tuple(edge)] = mask[tuple(edge)]
        edge[axis] = -1
        after[tuple(edge)] = mask[tuple(edge)]
        mask = np.maximum(mask, np.maximum(before, after))
    return mask


def finished(kind, decoded, source, roundtrip, w):
    """The picture that comes back.

    restored: decoded + (1-W) (source - roundtrip): what the autoencoder lost of the source is given
        back, and nothing of the old object under a hole of the mask. Where the decoder is not local
        decoded differs from roundtrip outside W, too: that part fades as W goes from 1/4 to 0.
    pasted: W decoded + (1-W) source.
    decoded: decoded.

    Args:
        kind: a key of KINDS.
        decoded, source, roundtrip: pictures [...,3,H,W]; roundtrip is the source encoded and
            decoded, for "restored" only.
        w: [...,1,H,W] of `weight`.
    Returns:
        float32 [...,3,H,W].
    Laws: but for "decoded", exactly the source where W = 0; exactly decoded where W = 1; restored =
        pasted where decoded = roundtrip.
    """
    if kind == "decoded":
        return decoded
    if kind == "pasted":
        mixed = w * decoded + (1 - w) * source
    else:
        leak = np.minimum(w / np.float32(FULL), 1) * (decoded - roundtrip)
        mixed = roundtrip + leak + (1 - w) * (source - roundtrip)
    return np.where(w == 0, source, np.where(w == 1, decoded, mixed)).astype(np.float32)
