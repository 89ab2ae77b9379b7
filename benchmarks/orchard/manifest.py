"""The manifest of the benchmark: what its frozen version draws, so that anyone can see whether they
draw the same.

    python -m benchmarks.orchard.manifest            draws every edit again and names what differs
    python -m benchmarks.orchard.manifest --write    writes manifest.txt

A line has a size, the name of an edit, and the first 16 hexadecimal digits of the SHA-256 of the
picture, of the true edit (uint8 [size,size,3], row by row) and of the true mask (0 or 255).
"""

import argparse
import hashlib
import platform
import sys
from pathlib import Path

import numpy as np
import PIL
from tqdm import tqdm

from . import data, splits, world as W

FILE = Path(__file__).with_name("manifest.txt")
DIGITS = 16


def line(split, i, size):
    """The line of an edit."""
    edit = splits.edit(split, i, size)
    arrays = data.arrays_of(edit)
    digests = [hashlib.sha256(arrays[name].tobytes()).hexdigest() for name in data.IMAGES]
    return " ".join((str(size), edit.name, *(digest[:DIGITS] for digest in digests)))


def names():
    """(split, index, size) of every line, in order."""
    return [
        (split, i, size)
        for size in W.SIZES
        for split, count in splits.TESTED.items()
        for i in range(count)
    ]


def read(path=FILE):
    """(first lines, lines of edits)."""
    lines = path.read_text(encoding="utf-8").splitlines()
    head = [text for text in lines if text.startswith("#")]
    return head, lines[len(head) :]


def write(path=FILE):
    """Draw everything and write the file."""
    head = [
        f"# {W.VERSION}, drawn with Pillow {PIL.__version__}, numpy {np.__version__}, "
        f"Python {platform.python_version()}.",
        f"# size, edit, and the first {DIGITS} digits of the SHA-256 of " + ", ".join(data.IMAGES),
    ]
    rows = [line(*name) for name in tqdm(names(), desc="edits", disable=None)]
    path.write_text("\n".join(head + rows) + "\n", encoding="utf-8")


def main(argv=None):
    """Check the manifest, or write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    if parser.parse_args(argv).write:
        write()
        return 0
    pairs = zip(tqdm(names(), desc="edits", disable=None), read()[1])
    different = [wanted for name, wanted in pairs if line(*name) != wanted]
    for wanted in different:
        print(f"drawn otherwise here: {' '.join(wanted.split()[:2])}")
    print(f"{len(different)} of {len(names())} edits differ.")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
