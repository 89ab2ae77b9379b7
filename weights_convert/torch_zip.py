"""PyTorch's zip format (.ckpt, .bin, .pt), read without PyTorch: a pickle, which
`pickle_machine` reads without running it, and one plainly stored member for each storage."""

import struct
import zipfile
from typing import NamedTuple

from diffedit_core.errors import InputError

from . import pickle_machine
from .inert import Inert, Name, Refused
from .tensors import SIZES, Stored, count, row_major
from .unpickled import contents

MAX_PICKLE = 64 << 20  # bytes; the public files have less than one
STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64",
    "ComplexDoubleStorage": "C128",
    "QInt8Storage": "I8",
    "QUInt8Storage": "U8",
    "QInt32Storage": "I32",
    "UntypedStorage": "U8",
}
DTYPES = {  # of a tensor in an untyped storage
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
    "complex64": "C64",
    "complex128": "C128",
}
LOCAL_HEADER = struct.Struct("<4s22xHH")
BROKEN = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
    EOFError,
    struct.error,
    OSError,
    KeyError,
)
AGAIN = "copy or download it again, or use the safetensors file of the same model."


def looks_like(start, size):
    return start[:4] == b"PK\x03\x04"


def read(path):
    """The `Contents` of the file, its tensors as `Stored`, and [(offset, bytes, CRC-32)] to check.

    Raises:
        InputError: the file is no such archive, is incomplete, or its pickle is malformed.
    """
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            records = _records(archive, file)
            root = _root(records)
            if records[root + "data.pkl"].size > MAX_PICKLE:
                raise Refused(f"its pickle has {records[root + 'data.pkl'].size} bytes")
            program = archive.read(root + "data.pkl")
            order = root + "byteorder"
            if order in records and (records[order].size > 9 or archive.read(order) != b"little"):
                raise Refused("its numbers are not little-endian")
    except BROKEN as error:
        raise InputError(
            f"{path} cannot be read as a PyTorch zip file ({error}): {AGAIN}"
        ) from None
    try:
        content = contents(
            *pickle_machine.run(program, lambda own: _storage(path, records, root, own), _tensor)
        )
    except Refused as error:
        raise InputError(f"{path} is not loaded, because {error}: {AGAIN}") from None
    return content, [(record.offset, record.size, record.crc) for record in records.values()]


class Record(NamedTuple):
    offset: int
    size: int
    crc: int


def _records(archive, file):
    """{name: Record} of an archive whose members are all plainly stored, each once."""
    end, records = file.seek(0, 2), {}
    for info in archive.infolist():
        if info.filename in records:
            raise Refused(f"{info.filename!r} is in it twice")
        if (
            info.compress_type != zipfile.ZIP_STORED
            or info.compress_size != info.file_size
            or info.flag_bits & 1
        ):
            raise Refused(f"{info.filename!r} is compressed or encrypted")
        file.seek(info.header_offset)
        mark, name, extra = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
        offset = info.header_offset + LOCAL_HEADER.size + name + extra
        if mark != b"PK\x03\x04" or offset + info.file_size > end:
            raise Refused(f"{info.filename!r} is not where the archive says")
        records[info.filename] = Record(offset, info.file_size, info.CRC)
    return records


def _root(records):
    """The folder in the archive that holds data.pkl."""
    found = [
        name[: -len("data.pkl")]
        for name in records
        if name == "data.pkl" or name.endswith("/data.pkl")
    ]
    if len(found) != 1:
        raise Refused(f"it holds {len(found)} files data.pkl")
    return found[0]


def _storage(path, records, root, identity):
    """("storage", torch.FloatStorage, key, device, numbers) as numbers in a row. What else is
    referred to is of no use."""
    if not isinstance(identity, tuple) or identity[:1] != ("storage",):
        return Inert("object outside the pickle", (identity,))
    if len(identity) != 5:
        raise Refused("its pickle refers to a storage in an unknown way")
    _, name, key, _, number = identity
    kind = name.text if isinstance(name, Name) else ""
    dtype = STORAGES.get(kind.rpartition(".")[2]) if kind.startswith("torch.") else None
    if dtype is None:
        raise Refused(f"it has a storage of the kind {kind!r}, which is not known")
    if type(number) is not int or not isinstance(key, str):
        raise Refused("its pickle refers to a storage in an unknown way")
    record = records.get(f"{root}data/{key}")
    if record is None or record.size != number * SIZES[dtype]:
        raise Refused(f"the storage {key!r} of {number} numbers is missing or has another size")
    return Stored(path, dtype, (number,), ((record.offset, record.size),))


def _tensor(storage=None, first=None, shape=None, strides=None, *rest):
    """`_rebuild_tensor_v2`, or `_v3` with the dtype at its end, as a place in the file."""
    if not isinstance(storage, Stored) or len(storage.shape) != 1 or storage.strides:
        raise Refused("its pickle puts a tensor together from something that is no storage")
    dtype = storage.dtype
    if len(rest) > 2 and isinstance(rest[2], Name):
        dtype = DTYPES.get(rest[2].text.removeprefix("torch."))
        if dtype is None:
            raise Refused(f"it has a tensor of the type {rest[2].text!r}, which is not read")
    size, bytes_there = SIZES[dtype], storage.pieces[0][1]
    if (
        not isinstance(shape, (tuple, list))
        or not isinstance(strides, (tuple, list))
        or len(shape) != len(strides)
        or len(shape) > 32
        or any(type(n) is not int or n < 0 for n in (first, *shape, *strides))
    ):
        raise Refused("a tensor has an impossible shape")
    numbers = count(shape)
    last = first + 1 + sum((n - 1) * s for n, s in zip(shape, strides)) if numbers else first
    if last * size > bytes_there:
        raise Refused(f"a tensor of shape {list(shape)} reaches beyond its storage")
    used = [(n, s) for n, s in zip(shape, strides) if n != 1]
    plain = not numbers or [s for _, s in used] == list(row_major([n for n, _ in used]))
    if not plain and (last - first > 4 * numbers or 0 in dict(used).values()):
        raise Refused(f"a tensor of shape {list(shape)} is a view with gaps or repetitions")
    return Stored(
        storage.path,
        dtype,
        tuple(shape),
        ((storage.pieces[0][0] + first * size, (last - first) * size),),
        None if plain else tuple(strides),
    )
