"""Writing: weights streamed into their formats, checksums on the way, everything moved into place
at the end.

`conversion.json` lists every other file with what `verify` needs to prove it unchanged: the
checksum of each tensor and of all that is no tensor ("frame"); of itself it holds a checksum, too.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from pathlib import Path

from diffedit_core.errors import InputError

from . import mindspore_ckpt, safetensors_file
from .tensors import NUMPY, SIZES, chunks, count

CHUNK = 1 << 22  # elements that are held at a time
BLOCK = 1 << 22  # bytes that are hashed at a time
FORMATS = {"safetensors": safetensors_file, "ckpt": mindspore_ckpt}
RECORD = "conversion.json"


def write_weights(path, outputs, form, advance=lambda count: None):
    """Write tensors to a file.

    Args:
        path: a new file.
        outputs: list of `Output`.
        form: a name of `FORMATS`.
        advance: called with the number of bytes after each piece.
    Returns:
        The file's entry in the record.
    Raises:
        InputError: a tensor is not finite or does not fit its dtype; OSError: the disk is full.
    """
    frame, tensors = hashlib.sha256(), {}
    with open(path, "wb", buffering=0) as file:
        for output, before in zip(outputs, FORMATS[form].frames(outputs)):
            frame.update(before)
            _write(file, before)
            content = hashlib.sha256()
            for raw in chunks(output, CHUNK):
                data = memoryview(raw.astype(NUMPY[output.dtype], copy=False)).cast("B")
                content.update(data)
                _write(file, data)
                advance(len(data))
            tensors[output.name] = {
                "dtype": output.dtype,
                "shape": list(output.shape),
                "sha256": content.hexdigest(),
            }
        os.fsync(file.fileno())
        size = file.tell()
    return {"size": size, "frame": frame.hexdigest(), "tensors": tensors}


def _write(file, data):
    """All of the data: an unbuffered file may take less at a time."""
    data = memoryview(data)
    while len(data):
        data = data[file.write(data) :]


def write_bytes(path, content):
    """Write a small file; returns its entry in the record."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def shards(outputs, base, limit):
    """[(file name, outputs)] of at most `limit` bytes each, in order; one file without a limit. A
    tensor is never split."""
    groups, size = [[]], 0
    for output in outputs:
        own = count(output.shape) * SIZES[output.dtype]
        if limit and groups[-1] and size + own > limit:
            groups.append([])
            size = 0
        groups[-1].append(output)
        size += own
    if len(groups) == 1:
        return [(f"{base}.safetensors", groups[0])]
    return [
        (f"{base}-{i:05d}-of-{len(groups):05d}.safetensors", group)
        for i, group in enumerate(groups, 1)
    ]


def index(parts):
    """The index file of several shards."""
    total = sum(count(o.shape) * SIZES[o.dtype] for _, outputs in parts for o in outputs)
    return {
        "metadata": {"total_size": total},
        "weight_map": {o.name: name for name, outputs in parts for o in outputs},
    }


def digest(path, checks=(), advance=lambda count: None):
    """Size and sha256 of a file, whose own CRC-32 checks are made on the way.

    Args:
        checks: [(offset, bytes, CRC-32)] in any order.
    Raises:
        InputError: a check fails.
    """
    total, position, waiting, running = hashlib.sha256(), 0, sorted(checks, reverse=True), []
    buffer = memoryview(bytearray(BLOCK))
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(buffer):
            total.update(buffer[:size])
            while waiting and waiting[-1][0] < position + size:
                running.append((*waiting.pop(), 0))
            running = [
                _checked(check, buffer[:size], position, path)
                for check in running
                if check[0] + check[1] > position
            ]
            position += size
            advance(size)
    return {"name": Path(path).name, "size": position, "sha256": total.hexdigest()}


def _checked(check, block, position, path):
    """A running check (offset, bytes, CRC-32, value so far) after one more block of the file."""
    begin, size, wanted, value = check
    value = zlib.crc32(block[max(begin - position, 0) : max(begin + size - position, 0)], value)
    if begin + size <= position + len(block) and value != wanted:
        raise InputError(
            f"{path} is damaged between bytes {begin} and {begin + size} (its own checksum says "
            "so): copy or download it again."
        )
    return begin, size, wanted, value


def seal(record):
    """The record as JSON with its own checksum in it."""
    return (json.dumps({**record, "checksum": checksum(record)}, indent=1) + "\n").encode()


def checksum(record):
    """sha256 of everything in a record but its checksum."""
    own = {key: value for key, value in record.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def fresh_place(target, needed):
    """A new folder beside the target, to be moved there; gone afterwards, whatever happens.

    Raises:
        InputError: the target exists, its folder does not, the disk has less than `needed` bytes,
            or it fills up.
    """
    target = Path(target).expanduser()
    if target.exists() or target.is_symlink():
        raise InputError(f"{target} exists already: name another target, or remove it first.")
    place = None
    try:
        free = shutil.disk_usage(target.parent).free
        if free < needed:
            raise InputError(
                f"{target.parent} has {free / 1e9:.2f} GB free, the result needs "
                f"{needed / 1e9:.2f}: free some, or use --dtype fp16."
            )
        place = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        place.chmod(0o755)
        yield place
    except OSError as error:
        raise InputError(
            f"{target} could not be written ({error.strerror or error}): free some space or name "
            "another target."
        ) from None
    finally:
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)


def move(place, target):
    """Rename a finished file or folder to its target, which must not exist, and make the renaming
    last."""
    for folder in [p for p in (place, *place.rglob("*")) if p.is_dir()] if place.is_dir() else []:
        _sync(folder)
    if target.exists():
        raise InputError(f"{target} has come into being meanwhile: name another target.")
    os.rename(place, target)
    _sync(target.parent)


def _sync(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
