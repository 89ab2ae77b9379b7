"""MindSpore's checkpoint format: protocol-buffer messages {tag, tensor {dims, type, bytes}} one
behind the other.

A tensor of more than 512 MB is written as several messages with the same tag. A file may end with
"crc_num" and the CRC-32 of all that is before.
"""

from diffedit_core.errors import InputError

from .tensors import SIZES, Stored, count

TYPES = {
    "Float64": "F64",
    "Float32": "F32",
    "Float16": "F16",
    "BFloat16": "BF16",
    "Int64": "I64",
    "UInt64": "U64",
    "Int32": "I32",
    "UInt32": "U32",
    "Int16": "I16",
    "UInt16": "U16",
    "Int8": "I8",
    "UInt8": "U8",
    "Bool": "BOOL",
}
NAMES = {dtype: name for name, dtype in TYPES.items()}
MAX_TEXT = 4096  # bytes of a name
MAX_MESSAGE = 2**31 - 64  # protocol buffers hold no more
VALUE, TAG, TENSOR, DIMS, TYPE, CONTENT = (
    0x0A,
    0x0A,
    0x12,
    0x08,
    0x12,
    0x1A,
)  # field number and kind
PACKED_DIMS = 0x0A
CRC_MARK, CRC_SIZE = b"crc_num", 17


def looks_like(start, size):
    """Whether the first bytes are a message's with a tag."""
    return len(start) > 3 and start[0] == VALUE and TAG in start[1:12]


def read(path):
    """[(tag, Stored)] in the order of the file, and [(offset, bytes, CRC-32)] to check. Raises
    InputError if it is malformed."""
    end, checks = path.stat().st_size, []
    with open(path, "rb") as file:
        if end > CRC_SIZE:
            file.seek(end - CRC_SIZE)
            trailer = file.read(CRC_SIZE)
            if trailer.startswith(CRC_MARK):
                end -= CRC_SIZE
                checks.append((0, end, int.from_bytes(trailer[len(CRC_MARK) :], "big")))
        try:
            values = _values(file, end)
        except ValueError as error:
            raise InputError(
                f"{path} is not a complete MindSpore checkpoint ({error}): copy or download it "
                "again."
            ) from None
    return [
        (tag, Stored(path, dtype, shape, pieces))
        for tag, dtype, shape, pieces in _joined(path, values)
    ], checks


def _values(file, end):
    """[(tag, dims, type, offset, size)] of all messages."""
    values, position = [], 0
    file.seek(0)
    while position < end:
        field, position = _varint(file, position, end)
        if field != VALUE:
            raise ValueError(f"byte {position - 1} begins no value")
        size, position = _varint(file, position, end)
        if size > end - position:
            raise ValueError(
                f"the value at byte {position} claims {size} bytes, {end - position} are left"
            )
        found = _fields(file, position, position + size, {TAG: "text", TENSOR: "range"})
        if set(found) != {TAG, TENSOR}:
            raise ValueError(f"the value at byte {position} is no named tensor")
        begin, stop = found[TENSOR][0]
        tensor = _fields(
            file,
            begin,
            stop,
            {DIMS: "number", PACKED_DIMS: "numbers", TYPE: "text", CONTENT: "range"},
        )
        if TYPE not in tensor or CONTENT not in tensor:
            raise ValueError(f"{found[TAG][0]!r} has no type or no content")
        dims = tensor.get(DIMS, []) + [
            n for numbers in tensor.get(PACKED_DIMS, []) for n in numbers
        ]
        low, high = tensor[CONTENT][0]
        values.append((found[TAG][0], tuple(dims), tensor[TYPE][0], low, high - low))
        position += size
        file.seek(position)
    return values


def _fields(file, position, end, kinds):
    """{field: [values]} of one message, the fields and their kinds being known; a field of one
    value only is given once."""
    found = {}
    while position < end:
        file.seek(position)
        field, position = _varint(file, position, end)
        kind = kinds.get(field)
        if kind is None:
            raise ValueError(f"there is an unknown field {field} at byte {position}")
        size, position = _varint(file, position, end)
        if kind == "number":
            found.setdefault(field, []).append(size)
            continue
        if size > end - position or kind != "range" and size > MAX_TEXT:
            raise ValueError(f"the field at byte {position} claims {size} bytes")
        if kind == "text":
            value = file.read(size).decode()
        elif kind == "numbers":
            value, stop = [], position + size
            while position < stop:
                number, position = _varint(file, position, stop)
                value.append(number)
            size = 0
        else:
            value = (position, position + size)
        if field in found:
            raise ValueError(f"the field at byte {position} is given twice")
        found[field] = [value]
        position += size
    return found


def _varint(file, position, end):
    """(number, position behind it)."""
    number = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte or position >= end:
            raise ValueError("it ends in the middle of a number")
        number, position = number | (byte[0] & 0x7F) << shift, position + 1
        if byte[0] < 0x80:
            return number, position
    raise ValueError(f"there is a number of more than 64 bits at byte {position}")


def _joined(path, values):
    """Values, those that follow each other with the same tag put together; each must have the bytes
    of its shape."""
    joined = []
    for tag, dims, kind, offset, size in values:
        if kind not in TYPES:
            raise InputError(
                f"{tag!r} in {path} has the type {kind!r}, which is not read: save the file "
                "without it."
            )
        if joined and joined[-1][0] == tag and joined[-1][1:3] == (TYPES[kind], dims):
            joined[-1][3].append((offset, size))
        else:
            joined.append((tag, TYPES[kind], dims, [(offset, size)]))
    for tag, dtype, dims, pieces in joined:
        total = sum(size for _, size in pieces)
        shape = () if dims == (0,) and total else dims  # a scalar is written with the dims [0]
        if len(shape) > 64 or count(shape) * SIZES[dtype] != total:
            raise InputError(
                f"{tag!r} in {path} has {total} bytes for the shape {list(dims)} and {dtype}: the "
                "file is damaged or gives it twice, copy or download it again."
            )
        yield tag, dtype, shape, tuple(pieces)


def _number(n):
    """A number as protocol buffers write it, seven bits at a time."""
    data = bytearray()
    while n > 0x7F:
        data.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes(data) + bytes([n])


def frames(outputs):
    """The bytes before each tensor of a file with these outputs. Raises InputError for a tensor
    that no message can hold."""
    return [_frame(output) for output in outputs]


def _frame(output):
    size = count(output.shape) * SIZES[output.dtype]
    if size > MAX_MESSAGE:
        raise InputError(
            f"{output.name!r} has {size} bytes, a MindSpore checkpoint holds at most "
            f"{MAX_MESSAGE} in one tensor: use --dtype fp16."
        )
    kind, tag = NAMES[output.dtype].encode(), output.name.encode()
    tensor = b"".join(bytes([DIMS]) + _number(n) for n in output.shape or (0,))
    tensor += bytes([TYPE]) + _number(len(kind)) + kind + bytes([CONTENT]) + _number(size)
    value = (
        bytes([TAG])
        + _number(len(tag))
        + tag
        + bytes([TENSOR])
        + _number(len(tensor) + size)
        + tensor
    )
    return bytes([VALUE]) + _number(len(value) + size) + value
