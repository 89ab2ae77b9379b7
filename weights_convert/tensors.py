"""Tensors where they lie in files: read piece by piece, checked, cast. Nothing here holds more than
it was asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffedit_core.errors import InputError

SIZES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "C64": 8,
    "C128": 16,
    "I64": 8,
    "U64": 8,
    "I32": 4,
    "U32": 4,
    "I16": 2,
    "U16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
# numpy has no bfloat16 and no numbers of eight bits: their bits
NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "F8_E4M3": "u1", "F8_E5M2": "u1"}
FLOATS = tuple(NUMPY)  # what weights may be stored as, the widest first
KEPT = {"F8_E4M3": "F16", "F8_E5M2": "F16"}  # what is written instead; it holds every number
EXPONENT = {"F16": 0x7C00, "BF16": 0x7F80, "F8_E5M2": 0x7C}  # all set in NaN and infinity


@dataclass(frozen=True)
class Stored:
    """One tensor of a file.

    Attributes:
        path: the file.
        dtype: a key of `SIZES`.
        shape: its dimensions.
        pieces: ((offset, bytes), ...) that hold its storage, in order.
        strides: None for row-major order, else the step of each dimension in elements.
    """

    path: Path
    dtype: str
    shape: tuple
    pieces: tuple
    strides: tuple = None

    @property
    def count(self):
        return count(self.shape)


class Change(NamedTuple):
    """W + factor up down: what a low-rank file adds to a weight (Hu et al. 2021, arXiv 2106.09685,
    eq. 3)."""

    down: Stored  # [rank, in, ...]
    up: Stored  # [out, rank, ...]
    factor: float


class Segment(NamedTuple):
    """Elements `first` to `last` of a stored tensor, with the changes to add to them."""

    stored: Stored
    first: int
    last: int
    changes: tuple = ()


class Output(NamedTuple):
    """A tensor to write: its segments one behind the other."""

    name: str
    dtype: str
    shape: tuple
    segments: tuple


def count(shape):
    """Number of elements, without overflow."""
    number = 1
    for size in shape:
        number *= size
    return number


def row_major(shape):
    """The strides of a tensor whose last dimension runs fastest."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def read_bytes(path, pieces, first, last):
    """Bytes `first` to `last` of the pieces of a file put together. Raises InputError when the file
    has become shorter."""
    result = np.empty(last - first, np.uint8)
    rest, start = memoryview(result), 0
    try:
        with open(path, "rb", buffering=0) as file:
            for offset, size in pieces:
                low, high = max(first, start), min(last, start + size)
                if low < high:
                    file.seek(offset + low - start)
                    rest = _fill(file, rest, high - low)
                start += size
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror or error}): copy or download it again."
        ) from None
    return result


def _fill(file, buffer, size):
    """Read `size` bytes into a buffer; returns what is left of it."""
    while size:
        got = file.readinto(buffer[:size])
        if not got:
            raise OSError("it has become shorter")
        buffer, size = buffer[got:], size - got
    return buffer


def read(stored, first=0, last=None):
    """Elements `first` to `last` in row-major order, in the numpy dtype of `NUMPY`."""
    last = stored.count if last is None else last
    size, kind = SIZES[stored.dtype], NUMPY[stored.dtype]
    if stored.strides is None:
        return read_bytes(stored.path, stored.pieces, first * size, last * size).view(kind)
    storage = read_bytes(stored.path, stored.pieces, 0, sum(s for _, s in stored.pieces)).view(kind)
    view = np.lib.stride_tricks.as_strided(
        storage, stored.shape, [s * size for s in stored.strides], writeable=False
    )
    return view.reshape(-1)[first:last]


def widen(raw, dtype):
    """The numbers of raw storage: bfloat16 becomes float32, eight bits float16, the others are
    numbers already."""
    if dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    if dtype == "F8_E5M2":  # the upper half of a float16
        return (raw.astype(np.uint16) << 8).view(np.float16)
    return _E4M3[raw] if dtype == "F8_E4M3" else raw


def _e4m3():
    """The numbers of the 256 patterns of float8_e4m3fn: a sign, four bits of exponent with a bias
    of 7, three of mantissa; no infinity (Micikevicius et al. 2022, arXiv 2209.05433, table 1)."""
    bits = np.arange(128)
    exponent, mantissa = bits >> 3, bits & 7
    normal = 2.0 ** (exponent - 7) * (1 + mantissa / 8)
    values = np.where(exponent > 0, normal, 2.0**-6 * mantissa / 8)
    values[-1] = np.nan
    return np.concatenate((values, -values)).astype(np.float16)


_E4M3 = _e4m3()


def narrow(values, dtype):
    """Numbers -> raw storage of a dtype, rounded to nearest, ties to even. What is too large
    becomes infinite."""
    if dtype != "BF16":
        with np.errstate(over="ignore"):
            return values.astype(NUMPY[dtype], copy=False)
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def load(stored):
    """A whole tensor as numbers in its shape."""
    return widen(read(stored), stored.dtype).reshape(stored.shape)


def is_finite(raw, dtype):
    """Whether raw storage holds neither NaN nor infinity."""
    if dtype in EXPONENT:
        bits = raw.view(np.dtype(f"u{SIZES[dtype]}"))
        return bool(((bits & EXPONENT[dtype]) != EXPONENT[dtype]).all())
    if dtype == "F8_E4M3":
        return bool(((raw & 0x7F) != 0x7F).all())
    return bool(np.isfinite(raw).all())


def chunks(output, elements):
    """The raw storage of an output tensor in pieces of at most about `elements` elements.

    Raises:
        InputError: a value is not finite, or too large for the dtype.
    """
    for segment in output.segments:
        stored = segment.stored
        row = count(stored.shape[1:]) if segment.changes else 1
        step = segment.last - segment.first if stored.strides else max(1, elements // row) * row
        factors = [_factors(change) for change in segment.changes]
        for first in range(segment.first, segment.last, max(1, step)):
            last = min(first + step, segment.last)
            raw = read(stored, first, last)
            if not is_finite(raw, stored.dtype):
                raise InputError(
                    f"{output.name!r} in {stored.path} holds NaN or infinity: the file is damaged "
                    "or its training failed, use another one."
                )
            if stored.dtype == output.dtype and not factors:
                yield raw
                continue
            values = widen(raw, stored.dtype)
            for up, down in factors:
                wide = np.result_type(values.dtype, np.float32)
                begin, end = (first - segment.first) // row, (last - segment.first) // row
                values = values.astype(wide) + (
                    up[begin:end].astype(wide) @ down.astype(wide)
                ).reshape(-1)
            raw = narrow(values, output.dtype)
            if not is_finite(raw, output.dtype):
                raise InputError(
                    f"{output.name!r} does not fit into {output.dtype}: its largest value is "
                    f"{np.abs(values).max():.3g}; use --dtype fp32 or bf16."
                )
            yield raw


def _factors(change):
    """(factor up, down) as matrices."""
    up, down = load(change.up), load(change.down)
    return up.reshape(len(up), -1) * np.float32(change.factor), down.reshape(len(down), -1)
