"""Parameter trees: nested dicts whose paths, joined by dots, are the public names of the weights.

`specs(config)` of a model gives the tree of its leaves as `Leaf(shape, init)`. It is the only place
where shapes are written: initialisation, loading, checking and counting all follow it. Keys such as
"resnets.0" keep the tree at most five levels deep: MindSpore's graph mode refuses deeper ones.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

import mindspore as ms
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .errors import InputError

DTYPES = {"fp32": ms.float32, "fp16": ms.float16, "bf16": ms.bfloat16}
NUMPY_DTYPES = {"fp32": np.float32, "fp16": np.float16, "bf16": np.float32}
# dtypes of a file that weights may have, as numpy reads them: it has no bfloat16
STORED = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}


class Leaf(NamedTuple):
    """Shape of one parameter and how a new one starts: "normal" (variance 1/fan-in), "embedding"
    (0.02), "zeros", "ones"."""

    shape: tuple
    init: str = "normal"


def conv(c_in, c_out, kernel):
    """Leaves of a convolution, weight [c_out, c_in, kernel, kernel]."""
    return {"weight": Leaf((c_out, c_in, kernel, kernel)), "bias": Leaf((c_out,), "zeros")}


def linear(c_in, c_out, bias=True):
    """Leaves of a linear layer, weight [c_out, c_in]."""
    return {"weight": Leaf((c_out, c_in)), **({"bias": Leaf((c_out,), "zeros")} if bias else {})}


def norm(channels):
    """Leaves of a group or layer norm."""
    return {"weight": Leaf((channels,), "ones"), "bias": Leaf((channels,), "zeros")}


def flatten(tree, prefix=""):
    """Nested dict -> {"a.b.c": leaf}, in order."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def tree_map(function, tree, prefix=""):
    """A tree of the same form with `function(path, leaf)` for each leaf."""
    return {
        key: (
            tree_map(function, value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else function(prefix + key, value)
        )
        for key, value in tree.items()
    }


def count(tree):
    """Number of scalars in a tree of leaves, arrays or tensors."""
    return sum(int(np.prod(leaf.shape)) for leaf in flatten(tree).values())


def init(specs, rng):
    """Random parameters as numpy float32, drawn leaf by leaf from `rng` (numpy Generator)."""

    def draw(_, leaf):
        if leaf.init in ("zeros", "ones"):
            return np.full(leaf.shape, float(leaf.init == "ones"), np.float32)
        scale = 0.02 if leaf.init == "embedding" else 1 / np.sqrt(np.prod(leaf.shape[1:]))
        return (rng.standard_normal(leaf.shape) * scale).astype(np.float32)

    return tree_map(draw, specs)


def to_parameters(tree, dtype="fp32"):
    """Arrays -> `mindspore.Parameter`, each named by its path, cast to `dtype` ("fp32", "fp16" or
    "bf16")."""
    return tree_map(lambda path, leaf: _parameter(path, np.asarray(leaf), dtype), tree)


def _parameter(path, array, dtype):
    array = np.require(array, NUMPY_DTYPES[dtype], ["C", "A"])  # aligned: MindSpore 2.7
    tensor = ms.Tensor.from_numpy(array)
    return ms.Parameter(tensor.astype(DTYPES[dtype]) if dtype == "bf16" else tensor, name=path)


def save(tree, path, dtype="fp16"):
    """Write a tree as one safetensors file under its public names."""
    arrays = {
        name: np.ascontiguousarray(
            leaf if isinstance(leaf, np.ndarray) else leaf.asnumpy(), NUMPY_DTYPES[dtype]
        )
        for name, leaf in flatten(tree).items()
    }
    save_file(arrays, str(path), metadata={"format": "np"})


# Names that older public files use, and buffers that are no parameters.
_LEGACY = (
    (re.compile(r"^(?=embeddings\.|encoder\.layers\.|final_layer_norm\.)"), "text_model."),
    (re.compile(r"(mid_block\.attentions\.0)\.query\."), r"\1.to_q."),
    (re.compile(r"(mid_block\.attentions\.0)\.key\."), r"\1.to_k."),
    (re.compile(r"(mid_block\.attentions\.0)\.value\."), r"\1.to_v."),
    (re.compile(r"(mid_block\.attentions\.0)\.proj_attn\."), r"\1.to_out.0."),
)
_BUFFERS = re.compile(r"embeddings\.position_ids$")


def canonical(name):
    """The current public name of a weight that a file may call by an older one; None for a
    buffer."""
    if _BUFFERS.search(name):
        return None
    for pattern, replacement in _LEGACY:
        name = pattern.sub(replacement, name)
    return name


def load(files, specs, dtype="fp32"):
    """Read safetensors files into parameters, checked leaf by leaf against `specs`.

    The files are memory-mapped and each leaf is cast on its way, so that the peak is the tree plus
    one leaf.

    Args:
        files: paths of safetensors files that together hold every leaf once.
        specs: tree of `Leaf`.
        dtype: "fp32", "fp16" or "bf16".
    Returns:
        The tree with `mindspore.Parameter` leaves.
    Raises:
        InputError: a file is missing, truncated or not safetensors; a leaf is missing, unknown,
            given twice, of another shape or not finite. All bad names of all files are in the one
            message.
    """
    found = {path: _parameter(path, array, dtype) for path, array in read(files, specs, dtype)}
    return tree_map(lambda path, _: found[path], specs)


def read(files, specs, dtype="fp32"):
    """What `load` reads, leaf by leaf: (path, array of the file's dtype), in the files' order.

    A problem with the values is raised after the last leaf; from the first of them on no more
    leaves are given.
    """
    sources, problems = _locate(files, flatten(specs))
    for file, names in sources.items():
        for name, array in _read_arrays(file, names):
            if not np.isfinite(array).all():
                problems.append(f"{name!r} in {file} holds NaN or infinity")
            elif _overflows(array, NUMPY_DTYPES[dtype]):
                remedy = " (use fp32)" if dtype == "fp16" else ""
                problems.append(f"{name!r} in {file} does not fit into {dtype}{remedy}")
            elif not problems:
                yield canonical(name), array
    _refuse(problems)


def check(files, specs):
    """Raises InputError where `load` would, but for what only the values of the weights show."""
    _refuse(_locate(files, flatten(specs))[1])


def _refuse(problems):
    if problems:
        shown = "; ".join(problems[:8]) + (
            f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        )
        raise InputError(
            f"The weights do not fit the model: {shown}. Check that weights and config.json "
            "belong together."
        )


def _locate(files, wanted):
    """Read the headers only: {file: names to load}, and what is wrong with them."""
    sources, problems, seen = {}, [], set()
    for file in map(Path, files):
        sources[file] = names = []
        for name, shape, stored in _headers(file):
            leaf = canonical(name)
            if leaf is None:
                continue
            if leaf in seen:
                problems.append(f"{leaf!r} is given twice (again in {file})")
            elif leaf not in wanted:
                problems.append(f"{file} has {name!r} {list(shape)}, which the config does not")
            elif stored not in STORED:
                problems.append(
                    f"{name!r} in {file} is stored as {stored}, only {', '.join(STORED)} are read"
                )
            elif tuple(shape) != wanted[leaf].shape and not _old_linear(
                name, shape, wanted[leaf].shape
            ):
                problems.append(
                    f"{name!r} in {file} has shape {list(shape)}, the config asks for "
                    f"{list(wanted[leaf].shape)}"
                )
            else:
                names.append(name)
            seen.add(leaf)
    missing = [path for path in wanted if path not in seen]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        problems.insert(0, f"missing: {', '.join(missing[:5])}{more}")
    return sources, problems


def _overflows(array, dtype):
    """Whether a value would become infinite in a narrower dtype."""
    return (
        array.dtype.itemsize > np.dtype(dtype).itemsize
        and np.abs(array).max(initial=0) > np.finfo(dtype).max
    )


def _old_linear(name, shape, wanted):
    """The original VAE stores its attention's linear weights as 1x1 convolutions."""
    return _is_vae_attention(name) and tuple(shape) == (*wanted, 1, 1)


def _open(file):
    try:
        return safe_open(str(file), framework="np")
    except FileNotFoundError:
        raise InputError(
            f"{file} is missing: the model folder is not complete, copy or download it again."
        ) from None
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{file} is not a complete safetensors file ({error}): copy or download it again."
        ) from None


def _headers(file):
    with _open(file) as handle:
        slices = [(name, handle.get_slice(name)) for name in handle.keys()]
        return [(name, s.get_shape(), s.get_dtype()) for name, s in slices]


def _read_arrays(file, names):
    """Yield (name, array). An array is the mapped file itself, where its dtype allows that: nothing
    is copied, and its pages count as ours for as long as the array lives."""
    with open(file, "rb") as handle:
        size = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(size))
    for name in names:
        stored, shape = header[name]["dtype"], header[name]["shape"]
        start = 8 + size + header[name]["data_offsets"][0]
        array = np.asarray(np.memmap(file, STORED[stored], "c", start, tuple(shape)))
        if stored == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)  # its bits are the upper half
        one = array.shape[2:] == (1, 1) and _is_vae_attention(name)
        yield name, array.reshape(array.shape[:2]) if one else array


def _is_vae_attention(name):
    return re.search(r"mid_block\.attentions\.0\.(to_|query|key|value|proj_attn)", name) is not None
