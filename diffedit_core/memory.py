"""Memory: what an edit takes of it, an estimate, and what there is."""

from pathlib import Path

from . import kernels as K
from . import params as P
from .folder import COMPONENTS

# copies of the UNet's first level that a graph keeps: SD 2.1, 512x512, MindSpore 2.8 on a CPU
ACTIVATION_LAYERS = 320

VAE_LAYERS = 10  # the same of the VAE's

BASE_BYTES = 450 << 20  # MindSpore itself

# kernels -> latent cells that the UNet takes at a time. On a CPU latents run one by one: one graph
# to compile for every batch, and no row depends, to the last bit, on those beside it. On Ascend,
# unmeasured, they bound memory and the parts of attention that a graph unrolls.
CELLS_AT_ONCE = {"cpu": 1, **dict.fromkeys(K.UNTRIED, 32768)}

# The same where one process makes many edits, so that compiling a graph for each batch pays.
CELLS_OF_MANY = {**CELLS_AT_ONCE, "cpu": 4096}


def estimate_memory(configs, latent_size, rows, dtype, kernels, unets=1, sequential=False):
    """(weights, activations) in bytes of a run whose largest UNet batch has `rows` latents of size
    (h, w): an estimate.

    A compiled graph keeps its memory, so that the VAE's comes on top, and the inversion's batch of
    one where the kernels run large batches whole. `unets` are the graphs of the UNet: three with
    deep features that are reused, each counted as if it were whole. With `sequential` the weights
    are those of the largest component.
    """
    width = {"fp32": 4, "fp16": 2, "bf16": 2}[dtype]
    counts = [P.count(configs.specs(c)) for c in COMPONENTS]
    weights = width * (max(counts) if sequential else sum(counts))
    cells = latent_size[0] * latent_size[1]
    batches = {rows_at_once(n, cells, default_cells(kernels)) for n in (rows, 1)}
    layer = 4 * sum(batches) * cells * configs.unet.block_out_channels[0]
    scores = score_bytes(configs, cells, max(batches), dtype, kernels)
    pixels = 4 * cells * configs.vae.factor**2 * configs.vae.block_out_channels[0]
    return weights, unets * ACTIVATION_LAYERS * layer + VAE_LAYERS * pixels + scores + BASE_BYTES


def score_bytes(configs, cells, rows, dtype, kernels):
    """Bytes of the largest scores of attention, in the UNet's first level or the VAE's middle."""
    heads, width = configs.unet.heads[0], configs.unet.block_out_channels[0]
    unet_bytes = K.score_bytes(kernels, dtype, rows, heads, width // heads, cells)
    width = configs.vae.block_out_channels[-1]
    return max(unet_bytes, K.score_bytes(kernels, dtype, 1, 1, width, cells))


def default_cells(kernels=None, cells=CELLS_AT_ONCE):
    """The `cells_at_once` of these kernels; none, or a table of one's own, is taken for the
    device's."""
    name = kernels if isinstance(kernels, str) else K.default_kernels()
    return cells.get(name, 0)


def rows_at_once(rows, cells, cells_at_once):
    """How many of the latents of a batch, of so many cells each, to run at once: the largest
    divisor of their number that is at most `cells_at_once` cells, but at least one; all of them
    for 0."""
    most = max(1, (cells_at_once or rows * cells) // cells)
    return max(n for n in range(1, rows + 1) if rows % n == 0 and n <= most)


def needs_sequence(available, needed):
    """Whether an edit that needs so many bytes with all weights at once has to have them one
    component after the other; no where nothing is known of the memory (None)."""
    return available is not None and needed > available


def available(root="/"):
    """Bytes that a process can still have without swapping, None where the system does not say: the
    kernel's estimate, or what is left of the control group's limit if that is less (Linux, groups
    of version 2).

    Args: root: the folder that proc/ and sys/ are in.
    """
    group, found = Path(root) / "sys/fs/cgroup", []
    try:
        found.append(numbers(Path(root) / "proc/meminfo")["MemAvailable"] << 10)
    except (OSError, KeyError):
        pass
    try:
        limit, used = [int((group / f"memory.{name}").read_text()) for name in ("max", "current")]
        files = numbers(group / "memory.stat")["inactive_file"]  # given back when asked for
        found.append(max(0, limit - used + files))
    except (OSError, ValueError, KeyError):  # no group, or no limit
        pass
    return min(found, default=None)


def numbers(file):
    """{name: number} of a file with a name and a number in each line."""
    words = [line.replace(":", " ").split() for line in file.read_text().splitlines()]
    return {w[0]: int(w[1]) for w in words if len(w) > 1 and w[1].isdigit()}
