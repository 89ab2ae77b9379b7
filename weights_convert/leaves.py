"""Names and shapes of a model's leaves, from the core's own `specs`.

The core's models import MindSpore, which takes seconds and some 400 MB. A process of its own asks
them, so that the conversion stays small; a process that has MindSpore already asks them directly.
"""

import json
import os
import subprocess
import sys

from diffedit_core.config import TextConfig, UNetConfig, VAEConfig

READERS = {"text_encoder": TextConfig, "unet": UNetConfig, "vae": VAEConfig}


def shapes(configs):
    """{"component/path": shape} for the configurations {component: mapping}; they must be
    readable."""
    if "mindspore" in sys.modules:
        return _shapes(configs)
    run = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(configs),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    if run.returncode:
        raise RuntimeError(f"the core's specs cannot be read: {run.stderr}")
    return {leaf: tuple(shape) for leaf, shape in json.loads(run.stdout.splitlines()[-1]).items()}


def _shapes(configs):
    from diffedit_core import clip, params, unet, vae

    specs = {"text_encoder": clip.specs, "unet": unet.specs, "vae": vae.specs}
    return {
        f"{component}/{path}": tuple(leaf.shape)
        for component, reader in READERS.items()
        for path, leaf in params.flatten(specs[component](reader.read(configs[component]))).items()
    }


if __name__ == "__main__":
    print(json.dumps(_shapes(json.load(sys.stdin))))
