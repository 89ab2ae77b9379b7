"""Values that are computed once: in memory and, where a folder is given, on the disk.

A value's name is the digest of all that it depends on, so that nothing is ever out of date; both
places are bounded, and what was used least recently goes first. A file holds its value's own
digest: one that was cut off or changed is found and made again.
"""

import contextlib
import json
import os
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import mindspore as ms
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from diffedit_core.files import written
from diffedit_core.fixed_points import Note
from diffedit_core.integrators import State
from diffedit_core.walk import Features

from .identity import digest

TUPLES = {"State": State, "Note": Note, "Features": Features}
ON_DISK = ("maps", "trail", "decode")  # stages that cost evaluations
UNKEPT = ("picture",)  # large, and cheap to make of what is kept
MEMORY, DISK = 1 << 30, 4 << 30  # bytes


class Entry(NamedTuple):
    """A value and what it cost when it was computed."""

    value: Any
    seconds: float
    evaluations: int


class Tally:
    """What an edit would have cost alone, and what was computed for it."""

    def __init__(self):
        self.seconds, self.evaluations, self.computed = 0.0, 0, 0

    def add(self, entry, fresh):
        self.seconds += entry.seconds
        self.evaluations += entry.evaluations
        self.computed += entry.evaluations if fresh else 0


class Cache:
    """Entries by name.

    Args:
        memory, disk: bytes, at most.
        folder: of the files, or None.
        log: called with a sentence if the folder cannot be written, which is no error.
    """

    def __init__(self, memory=MEMORY, folder=None, disk=DISK, log=None):
        self.memory, self.disk, self.log = memory, disk, log or _to_stderr
        self.folder = None if folder is None else Path(folder)
        self.entries, self.bytes, self.written = OrderedDict(), 0, None

    def keep(self, context, counted, tally, clock=time.perf_counter):
        """A `parts.Run.keep`.

        Args:
            context: what values depend on beside their key: model, pictures, seeds, program.
            counted: function () -> UNet evaluations so far.
            tally: `Tally`.
            clock: function () -> seconds.
        """

        def keep(stage, key, function):
            name = digest(context, stage, key) if stage not in UNKEPT else None
            entry = None if name is None else self.get(name, stage)
            fresh = entry is None
            if fresh:
                before, start = counted(), clock()
                value = function()
                entry = Entry(value, clock() - start, counted() - before)
                if name is not None:
                    self.put(name, stage, entry)
            tally.add(entry, fresh)
            return entry.value

        return keep

    def get(self, name, stage):
        """The `Entry`, or None."""
        if name in self.entries:
            self.entries.move_to_end(name)
            return self.entries[name]
        if self.folder is None or stage not in ON_DISK:
            return None
        entry = read(self.folder / f"{name}.safetensors")
        if entry is not None:
            self._remember(name, entry)
        return entry

    def put(self, name, stage, entry):
        """Remember an entry, in memory and, if it was costly, in the folder."""
        self._remember(name, entry)
        if self.folder is not None and stage in ON_DISK:
            try:
                self._write(self.folder / f"{name}.safetensors", entry)
            except TypeError:
                pass  # a value of a function of somebody's own: in memory only
            except OSError as error:
                self.log(f"{self.folder} cannot be written ({error.strerror}): "
                         "the cache goes on in memory.")  # fmt: skip
                self.folder = None

    def _remember(self, name, entry):
        self.entries[name] = entry
        self.bytes += size_of(entry.value)
        while self.bytes > self.memory and len(self.entries) > 1:
            _, oldest = self.entries.popitem(last=False)
            self.bytes -= size_of(oldest.value)

    def _write(self, path, entry):
        content = packed(entry)
        self.folder.mkdir(parents=True, exist_ok=True)
        with written(path) as part:
            part.write_bytes(content)
        self.written = None if self.written is None else self.written + len(content)
        if self.written is None or self.written > self.disk:
            self.written = shrink(self.folder, self.disk)


def _to_stderr(text):
    print(text, file=sys.stderr)


def shrink(folder, limit):
    """Remove the files that were used least recently until `limit` bytes are left; the bytes that
    are."""
    found = []
    for path in folder.glob("*.safetensors"):
        with contextlib.suppress(OSError):  # another process may have removed it
            status = path.stat()
            found.append((status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            break
        path.unlink(missing_ok=True)
        total -= size
    return total


# --- a value as a file ----------------------------------------------------------------------------


def packed(entry):
    """The bytes of a safetensors file.

    Raises:
        TypeError: it holds something else than tensors, arrays, numbers, texts, and tuples of them.
    """
    arrays = []
    structure = json.dumps([_taken_apart(entry.value, arrays), entry.seconds, entry.evaluations])
    named = {str(i): np.ascontiguousarray(array) for i, array in enumerate(arrays)}
    facts = {"structure": structure, "sha256": digest(structure, arrays)}
    return save(named or {"none": np.zeros(1, np.int8)}, facts)


def read(path):
    """The `Entry` of a file; None where there is none, or where it is not as it was written."""
    try:
        with safe_open(path, "np") as file:
            facts, names = file.metadata(), [name for name in file.keys() if name != "none"]
            arrays = [file.get_tensor(name) for name in sorted(names, key=int)]
        if digest(facts["structure"], arrays) != facts["sha256"]:
            return None
        value, seconds, evaluations = json.loads(facts["structure"])
        os.utime(path)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
    return Entry(_put_together(value, arrays), seconds, evaluations)


def _taken_apart(value, arrays):
    if isinstance(value, (ms.Tensor, np.ndarray)):
        arrays.append(value.asnumpy() if isinstance(value, ms.Tensor) else value)
        return {"tensor" if isinstance(value, ms.Tensor) else "array": len(arrays) - 1}
    if isinstance(value, (tuple, list)):
        kind = type(value).__name__
        if kind not in ("tuple", "list", *TUPLES):
            raise TypeError(kind)
        return {kind: [_taken_apart(v, arrays) for v in value]}
    return {"value": json.loads(json.dumps(value))}


def _put_together(value, arrays):
    ((kind, content),) = value.items()
    if kind == "tensor":
        return ms.Tensor(arrays[content])
    if kind == "array":
        return arrays[content]
    if kind == "value":
        return content
    parts = [_put_together(v, arrays) for v in content]
    return TUPLES[kind](*parts) if kind in TUPLES else {"tuple": tuple, "list": list}[kind](parts)


def size_of(value):
    """Bytes of the tensors of a value."""
    if isinstance(value, (tuple, list)):
        return sum(map(size_of, value))
    return int(getattr(value, "nbytes", 64))
