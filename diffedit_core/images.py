"""The edge where pictures come in and go out, under one name: files and PIL on one side, numpy
arrays on the other. Needs no model and no MindSpore."""

from .arrays import (  # noqa: F401
    crop,
    mask_to_latents,
    mask_to_pixels,
    pad_to_multiple,
    resize_mask,
    resized,
    round_half_up,
    to_array,
    to_pil,
)
from .figures import heat_map, labelled_grid, make_image_grid, overlay  # noqa: F401
from .mask_files import load_mask  # noqa: F401
from .reading import load_image, stem  # noqa: F401
from .writing import check_writable, save_atomically  # noqa: F401
