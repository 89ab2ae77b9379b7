"""Files and folders that appear whole or not at all."""

import contextlib
import os
import secrets
import shutil
import tempfile
from pathlib import Path


@contextlib.contextmanager
def written(path):
    """A name beside `path` to write a file to; it becomes `path` at the end, and is gone after an
    error. A link stays a link.

    Args: path: of the file; its folder exists.
    Yields: Path of the same suffix.
    """
    target = Path(os.path.realpath(path))
    part = target.with_name(f".{secrets.token_hex(8)}{target.suffix}")
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_written(path):
    """The same for a folder. One that is there already keeps its other files, and gets each new one
    by a rename.

    Yields: Path of an empty folder.
    """
    target = Path(os.path.realpath(path))
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield part
        part.chmod(0o755)
        if not target.exists():
            os.replace(part, target)
            return
        for source in sorted(part.rglob("*")):
            place = target / source.relative_to(part)
            if source.is_dir():
                place.mkdir(exist_ok=True)
            else:
                os.replace(source, place)
    finally:
        shutil.rmtree(part, ignore_errors=True)
