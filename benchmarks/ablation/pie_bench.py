"""The edits of PIE-Bench as pictures, masks and prompts for the ablations.

    python -m benchmarks.ablation.pie_bench FOLDER --out DIR [--types 1]
    python -m benchmarks.ablation NAME --pictures DIR --prompts DIR/prompts.jsonl --model MODEL

FOLDER is the benchmark's own, with mapping_file.json and annotation_images/ (Ju et al. 2023, arXiv
2310.01506). A mask there is a list start, length, start, length, ... of the pixels of
a picture row by row. Its own programs also count the picture's border as edited; here it counts as
it was drawn. Square brackets in a prompt mark what changes and are left out.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from diffedit_core import images
from diffedit_core.errors import InputError
from diffedit_core.files import folder_written

from ..command import command

TYPES = (1,)  # change an object; 0 to 9 are the benchmark's
PROMPTS = ("original_prompt", "editing_prompt")


def pixels(runs, height, width):
    """The mask bool [H,W] of [start, length, start, length, ...].

    Raises InputError where that is no mask of such a picture.
    """
    try:
        array = np.array(runs, np.int64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
        array = np.array([[-1, 0]])
    if (array < 0).any() or (array.sum(1) > height * width).any():
        raise InputError(f"mask is no list of starts and lengths within {width}x{height} pixels.")
    ends = np.zeros(height * width + 1, np.int64)
    np.add.at(ends, array[:, 0], 1)
    np.add.at(ends, array.sum(1), -1)
    return np.cumsum(ends)[:-1].reshape(height, width) > 0


def plain(prompt):
    """The sentence without the brackets around what changes."""
    return prompt.replace("[", "").replace("]", "")


def edits(folder, types):
    """(name, path of the picture, [source, target], mask bool [H,W]) of each edit of these types.

    Raises InputError where the folder is not as the benchmark has it.
    """
    file = Path(folder) / "mapping_file.json"
    try:
        mapping = json.loads(file.read_text(encoding="utf-8"))
        wanted = [
            (name, edit["image_path"], [plain(edit[key]) for key in PROMPTS], edit["mask"])
            for name, edit in mapping.items()
            if int(edit["editing_type_id"]) in types
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file} is missing or not as PIE-Bench has it ({type(error).__name__}: {error}): give "
            "the benchmark's folder."
        ) from None
    if not wanted:
        raise InputError(
            f"{file} has no edits of type {', '.join(map(str, types))}: choose of 0 to 9."
        )
    for name, path, prompts, runs in wanted:
        picture = Path(folder) / "annotation_images" / path
        width, height = images.load_image(str(picture)).size
        try:
            yield name, picture, prompts, pixels(runs, height, width)
        except InputError as error:
            raise InputError(f"{file}, {name}: {error}") from None


def write(folder, types, out):
    """Write pictures, masks and prompts.jsonl to a folder, which appears whole; how many edits."""
    with folder_written(out) as part:
        lines = []
        for name, picture, (source, target), mask in edits(folder, types):
            name = Path(name).name  # never a place outside the folder
            files = {"picture": name + picture.suffix, "mask": f"{name}-mask.png"}
            shutil.copy(picture, part / files["picture"])
            Image.fromarray(255 * mask.astype(np.uint8)).save(part / files["mask"])
            lines.append(json.dumps({**files, "source": source, "target": target}))
        (part / "prompts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


@command("pie_bench")
def main(words):
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablation.pie_bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--types", type=int, nargs="+", default=TYPES, help="of edits (default: 1)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    a = parser.parse_args(words)
    print(f"{write(a.folder, a.types, a.out)} edits in {a.out}")


if __name__ == "__main__":
    sys.exit(main())
