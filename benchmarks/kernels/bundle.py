"""What to send back of a run: one file without prompts, pictures, paths or names of hosts."""

import json
import platform
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from diffedit_core.errors import InputError

from . import machine, measure, page, records

ROOT = Path(__file__).parents[2]
READ_ME = """results.jsonl   one row for each call: what benchmarks/kernels wrote
results.csv     the same as a table
page.html       the same to look at
versions.json   versions and device
inventory.txt   the primitives that the lowerings become, and which have a kernel of aclnn
"""


def versions():
    """{name: text or None} of the device and of what the measurement ran on."""
    return {
        **machine.describe(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "system": platform.system(),
        "architecture": platform.machine(),
    }


def inventory_of(module):
    """What the module prints, run in a process of its own; what it says where it fails."""
    run = subprocess.run(
        [sys.executable, "-m", module], cwd=ROOT, capture_output=True, text=True, errors="replace"
    )
    if run.returncode == 0:
        return run.stdout
    last = (run.stderr.strip().splitlines() or ["no message"])[-1]
    return f"the inventory failed: {measure.without_paths(last)}\n"


def write(file, rows, inventory):
    """Write the archive.

    Args: file: Path; rows: records; inventory: text.
    Raises: InputError: a row holds what looks like a path.
    """
    contents = {
        "README.txt": READ_ME,
        "results.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "results.csv": records.to_csv(rows),
        "page.html": page.page(rows),
        "versions.json": json.dumps(versions(), indent=1) + "\n",
        "inventory.txt": inventory,
    }
    for name in ("results.jsonl", "versions.json", "inventory.txt"):
        found = next((word for word in private() if word in contents[name]), None)
        if found:
            raise InputError(f"{name} names {found!r}, which is private: nothing was bundled.")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in contents.items():
            archive.writestr(zipfile.ZipInfo(name), text)  # without dates and owners


def private():
    """Folders that must not be named in a bundle."""
    folders = (Path.home(), ROOT, Path.cwd(), Path(tempfile.gettempdir()))
    return sorted({str(folder) for folder in folders if len(folder.parts) > 1})
