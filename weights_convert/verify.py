"""Proof that a conversion's files are what was written, from the record beside them."""

import hashlib
import json
from pathlib import Path

from diffedit_core.errors import InputError

from . import output as O
from .sources import open_file
from .tensors import read_bytes


def verify(path, source=None, advance=lambda count: None):
    """Compare every byte of a conversion's result with its record.

    Args:
        path: the folder, or the file, that `convert` wrote.
        source: also compare the file or folder that it was made from.
        advance: called with the number of bytes after each piece.
    Returns:
        (number of files, number of tensors) that are intact.
    Raises:
        InputError: anything is missing, added or changed; all of it in one message.
    """
    path = Path(path).expanduser()
    record_file = path / O.RECORD if path.is_dir() else path.with_name(f"{path.name}.{O.RECORD}")
    record = read_record(record_file)
    base, problems, tensors = record_file.parent, [], 0
    if path.is_dir():
        there = {p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir()} - {
            O.RECORD
        }
        problems += [
            f"{name} is not in the record" for name in sorted(there - set(record["files"]))
        ]
    for name, entry in record["files"].items():
        file = base / name
        if not file.is_file():
            problems.append(f"{name} is missing")
        elif file.stat().st_size != entry["size"]:
            problems.append(f"{name} has {file.stat().st_size} bytes, not {entry['size']}")
        elif "tensors" in entry:
            problems += _weights(file, name, entry, advance)
            tensors += len(entry["tensors"])
        elif hashlib.sha256(file.read_bytes()).hexdigest() != entry["sha256"]:
            problems.append(f"{name} is changed")
    problems += _source(record, source, advance) if source else []
    if problems:
        raise InputError(
            f"{path} is not what was converted: {'; '.join(problems)}. Convert the source again."
        )
    return len(record["files"]), tensors


def read_record(path):
    """The record of a conversion. Raises InputError if it is missing, damaged or changed."""
    try:
        content = path.read_bytes()
        record = json.loads(content)
        own = {key: value for key, value in record.items() if key != "checksum"}
        intact = content == O.seal(own) and all(map(_is_entry, record["files"].values()))
    except FileNotFoundError:
        raise InputError(
            f"{path} is missing: only what weights_convert wrote can be verified."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}): convert the source again.") from None
    if not intact:
        raise InputError(
            f"{path} is changed: its own checksum is another. Convert the source again."
        )
    return record


def _is_entry(entry):
    return type(entry["size"]) is int and isinstance(
        entry["tensors"] if "frame" in entry else entry["sha256"], (dict, str)
    )


def _weights(file, name, entry, advance):
    """What is wrong with a weight file."""
    try:
        tensors = open_file(file).tensors
    except InputError as error:
        return [str(error)]
    told = [(key, {"dtype": stored.dtype, "shape": list(stored.shape)}) for key, stored in tensors]
    wanted = [
        (key, {"dtype": own["dtype"], "shape": own["shape"]})
        for key, own in entry["tensors"].items()
    ]
    if sorted(told, key=str) != sorted(wanted, key=str):
        return [f"{name} has another header"]
    problems, position, frame = [], 0, hashlib.sha256()
    for key, stored in sorted(tensors, key=lambda item: item[1].pieces):
        content = hashlib.sha256()
        for offset, size in stored.pieces:
            frame.update(read_bytes(file, ((position, offset - position),), 0, offset - position))
            for first in range(0, size, O.BLOCK):
                last = min(first + O.BLOCK, size)
                content.update(read_bytes(file, ((offset, size),), first, last))
                advance(last - first)
            position = offset + size
        if content.hexdigest() != entry["tensors"][key]["sha256"]:
            problems.append(f"{key!r} in {name} is changed")
    frame.update(
        read_bytes(file, ((position, entry["size"] - position),), 0, entry["size"] - position)
    )
    return problems + (
        [f"the header of {name} is changed"] if frame.hexdigest() != entry["frame"] else []
    )


def _source(record, source, advance):
    """What is different in the source."""
    source, problems = Path(source).expanduser(), []
    for own in record["source"]["files"]:
        found = [source] if source.is_file() else sorted(source.rglob(own["name"]))
        if not any(
            O.digest(file, advance=advance) | {"name": own["name"]} == own for file in found
        ):
            problems.append(f"{own['name']} of the source {source} is another")
    return problems
