"""Agreement of picture and text, and distance of two pictures, by public packages (`[compare]`).

They are imported when they are asked for, and they read their weights from folders or their own
caches.
"""

from pathlib import Path

import numpy as np

from diffedit_core.errors import InputError
from diffedit_core.images import to_pil


def functions(clip=None, lpips=None):
    """{measure: function (subject, image [3,H,W]) -> number} of those that are asked for.

    Args:
        clip: folder of a CLIP model in the layout of transformers.
        lpips: "alex" or "vgg".
    Raises:
        InputError: the packages are not installed, or the folder is missing.
    """
    found = {}
    if clip is not None:
        found["clip"] = _clip(Path(clip))
    if lpips is not None:
        found["lpips"] = _lpips(lpips)
    return found


def _need(package, what, problem):
    first = str(problem).splitlines()[0]
    return InputError(
        f"{what} needs the package {package}, which cannot be imported ({first}): "
        "pip install '.[compare]'."
    )


def _clip(folder):
    """Cosine of CLIP's embeddings of the picture and of the target's text."""
    try:
        import torch
        from transformers import CLIPModel, CLIPProcessor
    except ImportError as problem:
        raise _need("transformers", "--clip", problem) from None
    if not folder.is_dir():
        raise InputError(f"{folder} is missing: give the folder of a CLIP model as --clip.")
    model, processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)

    def agreement(subject, image):
        given = processor(
            text=[subject.target], images=to_pil(image[None]), return_tensors="pt", truncation=True
        )
        with torch.no_grad():
            found = model(**given)
        return float((found.image_embeds * found.text_embeds).sum())

    return agreement


def _lpips(network):
    """LPIPS (Zhang et al. 2018) of the edit and the source."""
    try:
        import lpips
        import torch
    except ImportError as problem:
        raise _need("lpips", "--lpips", problem) from None
    model = lpips.LPIPS(net=network, verbose=False)

    def distance(subject, image):
        pair = [torch.from_numpy(np.clip(p, -1, 1))[None] for p in (image, subject.source)]
        with torch.no_grad():
            return float(model(*pair))

    return distance
