"""The safetensors format: a JSON header of names, dtypes, shapes and offsets, then the bytes.

Read without trusting it: the header's size is checked before it is read, and every tensor must lie
where it says, back to back, from the header to the end of the file.
"""

import json
import struct

from diffedit_core.errors import InputError

from .tensors import SIZES, Stored, count

MAX_HEADER = 100_000_000  # bytes, the format's own limit
# dtypes of the format that no weight of Stable Diffusion 1 or 2 has a use for
UNREAD = ("F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F6_E2M3", "F6_E3M2", "F4")
AGAIN = "copy or download it again."


def looks_like(start, size):
    """Whether the first bytes are a safetensors header's."""
    return (
        len(start) > 8
        and start[8:9] == b"{"
        and int.from_bytes(start[:8], "little") <= max(size, MAX_HEADER)
    )


def _once(pairs):
    """A JSON object whose keys are all different."""
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            "it names twice: " + ", ".join(sorted({repr(n) for n in names if names.count(n) > 1}))
        )
    return mapping


def read(path):
    """[(name, Stored)] in the order of the file, and its metadata. Raises InputError for anything
    that is not as it should be."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER, size - 8):
            raise InputError(
                f"{path} is not a complete safetensors file (its header claims {length} bytes, "
                f"the file has {size}): {AGAIN}"
            )
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_once)
        if not isinstance(header, dict):
            raise ValueError("it is no object")
        metadata = header.pop("__metadata__", {})
        tensors = sorted(
            ((_entry(path, name, entry, 8 + length), name) for name, entry in header.items()),
            key=lambda item: (item[0].pieces, item[1]),
        )
        end = 8 + length
        for stored, name in tensors:
            if stored.pieces[0][0] != end:
                raise ValueError(f"{name!r} does not begin where the one before it ends")
            end += stored.pieces[0][1]
        if end != size:
            raise ValueError(f"its tensors end at byte {end}, the file at {size}")
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a valid safetensors file ({error}): {AGAIN}") from None
    return [(name, stored) for stored, name in tensors], (
        metadata if isinstance(metadata, dict) else {}
    )


def _entry(path, name, entry, start):
    """One line of the header, checked by itself."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if isinstance(dtype, str) and dtype in UNREAD:
        raise InputError(
            f"{name!r} in {path} is {dtype}, which is not read: use the file of the same model in "
            "fp16."
        )
    if not isinstance(dtype, str) or dtype not in SIZES:
        raise ValueError(f"{name!r} has the unknown dtype {dtype!r}")
    for numbers in (shape, offsets):
        if (
            not isinstance(numbers, list)
            or any(type(n) is not int or not 0 <= n < 2**63 for n in numbers)
            or len(numbers) > 64
        ):
            raise ValueError(f"{name!r} has the impossible shape or offsets {str(numbers)[:80]}")
    if len(offsets) != 2 or offsets[1] - offsets[0] != count(shape) * SIZES[dtype]:
        raise ValueError(
            f"{name!r} of shape {shape} and dtype {dtype} does not have the bytes {offsets}"
        )
    return Stored(path, dtype, tuple(shape), ((start + offsets[0], offsets[1] - offsets[0]),))


def frames(outputs):
    """The bytes before each tensor of a file with these outputs: the header before the first,
    nothing before the others."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for output in outputs:
        end = offset + count(output.shape) * SIZES[output.dtype]
        header[output.name] = {
            "dtype": output.dtype,
            "shape": list(output.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [struct.pack("<Q", len(text)) + text] + [b""] * (len(outputs) - 1)
