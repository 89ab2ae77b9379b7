"""Files of results: JSON lines that are appended whole or not at all, and merged by reading.

A folder of results has a file for each unit of work; only the process that holds the file's lock
writes to it. The operating system frees the lock of a process that dies, however it dies. Lines:
{"kind": "experiment" | "variant" | "run" | "row" | "truth" | "set", ...}. Files that are kept have
many rows in a line of kind "rows"; `lines` gives them as rows.
"""

import contextlib
import errno
import json
import os
from pathlib import Path

from diffedit_core.errors import InputError

try:
    import fcntl
except ImportError:  # no locks on this system: one process at a time
    fcntl = None


class Writer:
    """The end of a file of results; see `locked`."""

    def __init__(self, path, descriptor):
        self.path, self.descriptor = path, descriptor

    def append(self, **line):
        """Write a line, and wait until it is on the disk.

        Raises:
            InputError: the disk is full or gone; what was there before stays as it was.
        """
        content = (json.dumps(line, separators=(",", ":")) + "\n").encode()
        size = os.fstat(self.descriptor).st_size
        try:
            if os.write(self.descriptor, content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self.descriptor)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self.descriptor, size)
            raise InputError(
                f"{self.path} cannot be written ({error.strerror}): nothing that is there is lost; "
                "make room and start again."
            ) from None


@contextlib.contextmanager
def locked(path):
    """A `Writer`, or None where another process has the file. A line that was cut off is removed.

    Args: path: of a file that may not be there yet; its folder is.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}): choose another --out.")
    try:
        if not _lock(path, descriptor):
            yield None
            return
        _cut(descriptor)
        yield Writer(path, descriptor)
    finally:
        os.close(descriptor)


def _lock(path, descriptor):
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise InputError(
            f"{path} cannot be locked ({error.strerror}): give --out on a file system that has "
            "locks."
        ) from None
    return True


def _cut(descriptor):
    """Remove what stands after the last end of a line."""
    size = os.fstat(descriptor).st_size
    content = os.pread(descriptor, size, 0)
    whole = content.rfind(b"\n") + 1
    if whole != size:
        os.ftruncate(descriptor, whole)


def packed(found):
    """Lines as dicts, those of kind "row" that have run, variant and keys in common as one of kind
    "rows", where the first of them was.

    Law: `unpacked` gives the rows back, those of one line in their order.
    """
    shared = ("kind", "run", "variant")
    places, out = {}, []
    for line in found:
        if line["kind"] != "row":
            out.append(line)
            continue
        columns = [key for key in line if key not in shared]
        place = (line["run"], line["variant"], *columns)
        if place not in places:
            places[place] = {**{key: line[key] for key in shared}, "kind": "rows",
                             "columns": columns, "values": []}  # fmt: skip
            out.append(places[place])
        places[place]["values"].append([line[key] for key in columns])
    return out


def unpacked(line):
    """The rows of a line of kind "rows"; any other line itself."""
    if not isinstance(line, dict) or line.get("kind") != "rows":
        return [line]
    row = {"kind": "row", "run": line["run"], "variant": line["variant"]}
    return [{**row, **dict(zip(line["columns"], values))} for values in line["values"]]


def lines(path):
    """The lines of a file as dicts; a last one that is cut off is not there yet.

    Raises:
        InputError: another line is no JSON.
    """
    return [line for _, line in numbered(path)]


def numbered(path):
    """`lines`, as pairs with the number of the line in the file."""
    content = Path(path).read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            found = unpacked(json.loads(line))
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{path}, line {number}, is no JSON: remove that line, it is measured again."
            ) from None
        yield from ((number, each) for each in found)


def read(folder):
    """All lines of the files of a folder, each row once."""
    seen, found = set(), []
    for path in sorted(Path(folder).glob("*.jsonl")):
        for line in lines(path):
            name = (line["kind"], line["id"]) if "id" in line else None
            if name is None or name not in seen:
                found.append(line)
                seen.add(name)
    return found
