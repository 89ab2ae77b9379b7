"""All random numbers of a run, drawn on the host before it begins."""

from typing import NamedTuple, Optional

import numpy as np

from . import regularise


class Draws(NamedTuple):
    """Standard normal numbers, float32, and shifts.

    maps: [B,n,C,h,w], the noise of each map.
    posterior: [B,C,h,w], for a sample from each picture's posterior; where an experiment noises the
        picture instead of inverting it (SDEdit), its noise.
    posterior_mask: [B,n,C,h,w], for a sample of each map's own, or None.
    rolls: int32 [K,steps,rolls,sizes,B,C], the shifts of the regularisation, or None.
    """

    maps: np.ndarray
    posterior: np.ndarray
    posterior_mask: Optional[np.ndarray] = None
    rolls: Optional[np.ndarray] = None


MAPS, POSTERIOR, POSTERIOR_MASK, ROLLS = range(4)  # streams of a seed


def stream(seed, kind, index=0):
    """The generator of one draw; the 0 keeps the numbers of earlier versions."""
    return np.random.default_rng([seed, 0, kind, index])


def draws(options, seeds, shape):
    """The `Draws` that `options` need.

    Args:
        options: `options.Options`.
        seeds: one for each picture; neither the device nor the batch nor the number of maps changes
            what a seed draws.
        shape: of one latent, (C,h,w).
    Laws: a picture's draws are those of its seed alone, in any batch; more maps leave the first as
        they are.
    """

    def normal(seed, kind, index=0):
        return stream(seed, kind, index).standard_normal(shape).astype(np.float32)

    def for_each_map(kind):
        return np.stack([[normal(s, kind, m) for m in range(options.num_maps)] for s in seeds])

    rolls = None
    if options.num_reg_steps:
        rolls = regularise.draw_rolls(
            [stream(seed, ROLLS) for seed in seeds],
            options.num_encode_steps,
            options.num_reg_steps,
            options.num_auto_corr_rolls,
            (len(seeds), *shape),
        )
    return Draws(
        maps=for_each_map(MAPS),
        posterior=np.stack([normal(seed, POSTERIOR) for seed in seeds]),
        posterior_mask=for_each_map(POSTERIOR_MASK) if options.posterior_per_map else None,
        rolls=rolls,
    )
