"""PyTorch's zip format (.ckpt, .bin, .pt), read without PyTorch and without running its pickle.

A pickle is a program. `pickletools` splits it into operations without executing any; the small
machine below knows those that build dictionaries, tuples and numbers, and four names: those that
put a tensor together. Every other operation or name stops the reading and is named. Nothing is
imported or called on the pickle's behalf.
"""

import pickletools
import struct
import zipfile
from typing import NamedTuple

from diffedit_core.errors import InputError

from .tensors import SIZES, Stored, count, row_major

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
}
TENSOR, PARAMETER, ORDERED = (
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "collections.OrderedDict",
)
ALLOWED = {TENSOR, PARAMETER, ORDERED, *(f"torch.{name}" for name in STORAGES)}
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


class Name(NamedTuple):
    """A global of the pickle: its name, and nothing else."""

    text: str


class Storage(NamedTuple):
    dtype: str
    key: str
    count: int


class Refused(ValueError):
    """Why a pickle is not read."""


def looks_like(start, size):
    return start[:4] == b"PK\x03\x04"


def read(path):
    """The object that the file holds, its tensors as `Stored`, and [(offset, bytes, CRC-32)] to
    check.

    Raises:
        InputError: the file is no such archive, is incomplete, or holds anything but tensors in
            dictionaries.
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
        content = run(program, lambda *parts: _tensor(path, records, root, *parts))
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


def _tensor(path, records, root, storage, first, shape, strides):
    """`_rebuild_tensor_v2` as a place in the file."""
    record = records.get(f"{root}data/{storage.key}")
    size = SIZES[storage.dtype]
    if record is None or record.size != storage.count * size:
        raise Refused(
            f"the storage {storage.key!r} of {storage.count} numbers is missing or has another size"
        )
    if (
        len(shape) != len(strides)
        or len(shape) > 32
        or any(type(n) is not int or n < 0 for n in (first, *shape, *strides))
    ):
        raise Refused("a tensor has an impossible shape")
    numbers = count(shape)
    last = first + 1 + sum((n - 1) * s for n, s in zip(shape, strides)) if numbers else first
    if last > storage.count:
        raise Refused(f"a tensor of shape {list(shape)} reaches beyond its storage {storage.key!r}")
    used = [(n, s) for n, s in zip(shape, strides) if n != 1]
    plain = not numbers or [s for _, s in used] == list(row_major([n for n, _ in used]))
    if not plain and last - first > 4 * numbers or not plain and 0 in dict(used).values():
        raise Refused(f"a tensor of shape {list(shape)} is a view with gaps or repetitions")
    return Stored(
        path,
        storage.dtype,
        tuple(shape),
        ((record.offset + first * size, (last - first) * size),),
        None if plain else tuple(strides),
    )


def _refuse_name(text):
    raise Refused(
        f"its pickle names {text!r}, which is none of the names that put tensors together"
    )


def run(program, tensor):
    """What a pickle builds, with `tensor(storage, first, shape, strides)` for each tensor.

    Raises:
        Refused: any operation or name that is not needed for dictionaries of tensors.
    """
    machine = _Machine(tensor)
    try:
        for operation, argument, _ in pickletools.genops(program):
            if operation.name == "STOP":
                return machine.pop(1)[0]
            machine.do(operation.name, argument)
    except (IndexError, KeyError, TypeError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, Refused):
            raise
        raise Refused(f"its pickle is malformed ({type(error).__name__}: {error})") from None
    raise Refused("its pickle has no end")


class _Machine:
    """The stack, the marks on it, and the memo of a pickle."""

    def __init__(self, tensor):
        self.tensor, self.stack, self.marks, self.memo = tensor, [], [], {}

    def do(self, name, argument):
        """One operation."""
        if name in CONSTANTS:
            self.stack.append(CONSTANTS[name]())
        elif name in ARGUMENTS:
            self.stack.append(argument)
        elif name in TUPLES:
            self.stack.append(tuple(self.pop(TUPLES[name])))
        elif name in OPERATIONS:
            OPERATIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise Refused(f"its pickle has the operation {name}, which is not needed for tensors")

    def pop(self, number):
        """That many items from the top, none from below the last mark."""
        place = len(self.stack) - number
        if place < (self.marks[-1] if self.marks else 0):
            raise Refused("its pickle takes more from the stack than there is")
        items, self.stack[place:] = self.stack[place:], []
        return items

    def since_mark(self):
        return self.pop(len(self.stack) - self.marks.pop())

    def top(self, kind):
        """The top item, which has to be of a kind that can be filled."""
        if not isinstance(self.stack[-1], kind):
            raise Refused(f"its pickle fills something that is no {kind.__name__}")
        return self.stack[-1]

    def mark(self, _):
        self.marks.append(len(self.stack))

    def tuple(self, _):
        self.stack.append(tuple(self.since_mark()))

    def put(self, index):
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def get(self, index):
        self.stack.append(self.memo[index])

    def name(self, text):
        self.stack.append(_name(text.replace(" ", ".")))

    def stack_name(self, _):
        self.stack.append(_name("{}.{}".format(*self.pop(2))))

    def storage(self, _):
        self.stack.append(_storage(self.pop(1)[0]))

    def call(self, _):
        self.stack.append(_call(*self.pop(2), self.tensor))

    def append(self, _):
        items = self.pop(1)
        self.top(list).extend(items)

    def appends(self, _):
        items = self.since_mark()
        self.top(list).extend(items)

    def set_item(self, _):
        items = self.pop(2)
        _fill(self.top(dict), items)

    def set_items(self, _):
        items = self.since_mark()
        _fill(self.top(dict), items)

    def build(self, _):
        self.pop(1)  # the state of an OrderedDict, to which torch gives a `_metadata`
        self.top(dict)


CONSTANTS = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
ARGUMENTS = frozenset(
    "BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8".split()
)
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
OPERATIONS = {
    "MARK": _Machine.mark,
    "TUPLE": _Machine.tuple,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.put,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "BINPERSID": _Machine.storage,
    "REDUCE": _Machine.call,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "BUILD": _Machine.build,
}


def _name(text):
    return Name(text) if text in ALLOWED else _refuse_name(text)


def _fill(mapping, items):
    if len(items) % 2:
        raise Refused("its pickle has a key without a value")
    for key, value in zip(items[::2], items[1::2]):
        if not isinstance(key, (str, int)):
            raise Refused(f"its pickle has a key that is no text ({type(key).__name__})")
        if key in mapping:
            raise Refused(f"its pickle gives {key!r} twice")
        mapping[key] = value


def _storage(identity):
    """("storage", torch.FloatStorage, key, device, numbers)."""
    kind, name, key, _, number = identity
    if (
        kind != "storage"
        or not isinstance(name, Name)
        or type(number) is not int
        or not isinstance(key, str)
    ):
        raise Refused("its pickle refers to something that is no storage")
    return Storage(STORAGES[name.text.rpartition(".")[2]], key, number)


def _call(function, arguments, tensor):
    """The three allowed calls, each answered without calling anything."""
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise Refused("its pickle calls something that is no name")
    if function.text == ORDERED and not arguments:
        return {}
    if function.text == PARAMETER and isinstance(arguments[0], Stored):
        return arguments[0]
    if function.text == TENSOR and isinstance(arguments[0], Storage):
        storage, first, shape, strides = arguments[:4]
        return tensor(storage, first, shape, strides)
    raise Refused(f"its pickle calls {function.text!r} with something else than a tensor's parts")
