"""The arguments of `diffedit edit`, `diffedit mask` and `diffedit info`.

Every option of a run becomes a flag by its declaration in options.py. Nothing here imports
MindSpore, so that `--help` answers at once.
"""

import argparse
from pathlib import Path
from urllib.parse import urlsplit

from .options import DECLARED, RECIPES, Options, stages_of

MASK_STAGES = ("encode", "maps", "mask")  # those that `diffedit mask` runs
TITLES = {
    "encode": "the picture's latents",
    "maps": "where to edit: the noise maps",
    "mask": "where to edit: from a map to a mask",
    "trail": "the inversion",
    "decode": "the decoding",
    "picture": "the picture that comes back",
}
METAVARS = {int: "N", float: "X"}
PLACES = ("IMAGE", "FILE", "DIR", "DIR|REPO")  # metavars of files and folders
NONE = argparse.SUPPRESS  # a default that says: as the recipe has it


def flag(name):
    """The flag of an option, without the dashes."""
    return DECLARED[name].flag or name.replace("_", "-")


def given(arguments, name):
    """A value of the command line, None where it was left out."""
    return getattr(arguments, name, None)


def words(arguments, leave_out=()):
    """A command line that does the same, as a list of words: files and folders by their names
    alone, and nothing that has its default.

    Args: leave_out: names of arguments.
    """
    found = ["diffedit", arguments.command, bare(arguments.image)]
    for action in commands(parser())[arguments.command]._actions:
        name, value = action.dest, given(arguments, action.dest)
        if name in (*leave_out, "image", "quiet") or value in (None, action.default):
            continue
        if isinstance(value, bool):
            found.append(action.option_strings[0 if value else -1])
            continue
        if isinstance(action.nargs, int):
            found += [action.option_strings[0], *map(str, value)]
            continue
        for each in value if isinstance(value, list) else [value]:
            place = action.metavar in PLACES
            text = bare(each, action.dest == "model") if place else str(each)
            flagged = action.option_strings[0]
            found += [f"{flagged}={text}"] if text.startswith("-") else [flagged, text]
    return found


def bare(place, repository=False):
    """The name of a file, folder or address without what is before it; "-" as it is.

    Args: repository: whether what is no folder here is a repository, whose whole name it needs.
    """
    text = str(place)
    if text == "-" or repository and not Path(text).exists():
        return text
    name = Path(urlsplit(text).path if "://" in text else text).name or "picture"
    return f"./{name}" if name.startswith("-") else name


def commands(top):
    """{name: parser} of the commands of `parser`."""
    return top._subparsers._group_actions[0].choices


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """A default stands in the help where it says something: None, "" and False do not."""

    def _get_help_string(self, action):
        said = action.default not in (None, "") and action.default is not False
        return super()._get_help_string(action) if said else action.help


def parser():
    """The argument parser of all commands."""
    top = argparse.ArgumentParser(
        prog="diffedit",
        allow_abbrev=False,
        description="Edit a picture from two sentences (DiffEdit, arXiv 2210.11427).",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="{edit,mask,info}")

    def command(name, text):
        return commands.add_parser(name, help=text, allow_abbrev=False, formatter_class=Help)

    edit = command("edit", "write the edited picture")
    mask = command("mask", "only find where the edit would be")
    info = command("info", "print what a model is")
    for each in (edit, mask):
        add_common(each)
    add_edit(edit)
    add_options(edit, tuple(TITLES))
    add_options(mask, MASK_STAGES)
    info.add_argument(
        "model",
        nargs="?",
        default=None,
        metavar="MODEL",
        help="folder or repository id (default: the shipped one)",
    )
    return top


def add_options(command, stages):
    """A flag for each option that one of the stages may look at, in groups by stage."""
    groups = {stage: command.add_argument_group(TITLES[stage]) for stage in stages}
    for name, declared in DECLARED.items():
        found = [stage for stage in stages_of(name) if stage in stages]
        if not found or declared.batch:
            continue
        kind, default = declared.check.kind, getattr(Options, name)
        shown = {"default": NONE, "help": f"{declared.help} (paper: {in_words(default)})"}
        if kind is bool:
            shown["action"] = argparse.BooleanOptionalAction
        elif declared.check.choices is not None:
            shown["choices"] = tuple(declared.check.choices)
            if isinstance(declared.check.choices, dict):
                rows = declared.check.choices.items()
                rows = [f"{key}: {getattr(row, 'summary', row)}" for key, row in rows]
                shown["help"] += "; " + "; ".join(rows)
        elif declared.check.parts:
            parts = declared.check.parts
            shown |= {"type": kind, "nargs": len(parts), "metavar": parts}
        else:
            shown |= {"type": kind, "metavar": METAVARS[kind]}
        groups[found[0]].add_argument(f"--{flag(name)}", dest=name, **shown)


def in_words(value):
    """A value as one types it."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()


def add_common(command):
    """What `edit` and `mask` share, beside the options of the run."""
    add = command.add_argument
    add("image", metavar="IMAGE", help="the picture to edit")
    add("--source", default="", metavar="TEXT", help="what the picture shows; may be left out")
    add(
        "--target",
        action="append",
        required=True,
        metavar="TEXT",
        help="what it shall show; several share the inversion",
    )
    add(
        "--mask-negative",
        default=NONE,
        metavar="TEXT",
        help="what a guided mask guides away from (recipe diffusers)",
    )
    add(
        "--recipe",
        choices=tuple(RECIPES),
        default="paper",
        help="the paper's algorithm, the same with a mask of fewer holes (smooth-32: for latents "
        "of 32x32), or the public pipeline's",
    )

    model = command.add_argument_group("the model")
    model.add_argument(
        "--model",
        default=NONE,
        metavar="DIR|REPO",
        help="model in the diffusers layout (default: the shipped one)",
    )
    dtypes = ("fp32", "fp16", "bf16")
    model.add_argument("--dtype", choices=dtypes, default="fp32", help="of weights and activations")
    model.add_argument(
        "--hf32", action="store_true", help="on Ascend, round fp32 products to 11 bits: faster"
    )
    model.add_argument(
        "--sequential",
        action=argparse.BooleanOptionalAction,
        default=NONE,
        help="have the weights of text encoder, UNet and autoencoder in memory one after the "
        "other: the same picture for less memory; by default where the free memory asks for it",
    )
    model.add_argument(
        "--kernels",
        default="auto",
        metavar="NAME",
        help="lowering of the operations; `diffedit info` lists them",
    )
    add_files(command)


def add_files(command):
    """What `edit` and `mask` read and write, and the draws."""
    add = command.add_argument_group("input, output and random draws").add_argument
    add("--mask-out", default=NONE, metavar="FILE", help="write the mask, white where the edit is")
    add(
        "--map-out", default=NONE, metavar="FILE", help="write the heat map of the noise difference"
    )
    add(
        "--grid",
        default=NONE,
        metavar="FILE",
        help="write source, heat map, mask and result side by side",
    )
    add(
        "--report",
        default=NONE,
        metavar="FILE",
        help="write a page of all that, with sliders that make the mask from the noise map",
    )
    add("--report-full", action="store_true", help="whole pictures in it, not of screen size")
    add(
        "--size",
        type=int,
        default=NONE,
        metavar="PX",
        help="work at no more than this on the longer side; by default a picture over 1.5 times "
        "the model's own size is brought down to it. The output has the input's size",
    )
    add("--tiling", action="store_true", help="encode and decode in tiles, for large pictures")
    add("--seed", type=int, default=0, help="seed of all random draws")
    add("--save-trace", default=NONE, metavar="DIR", help="write every array of the run as .npy")
    add(
        "--load-noise", default=NONE, metavar="DIR", help="take the random draws from such a folder"
    )
    add("--strict", action="store_true", help="stop where the model does not know a word, or "
        "cannot hold the picture")  # fmt: skip
    add("--dry-run", action="store_true", help="print the plan and its cost, and stop")
    add("--quiet", action="store_true", help="no progress bars and no messages but errors")


def add_edit(command):
    """What only `edit` has."""
    add = command.add_argument
    add("--negative", default=NONE, metavar="TEXT", help="what the decoding guides away from")
    add(
        "--inversion-negative",
        default=NONE,
        metavar="TEXT",
        help="what a guided inversion guides away from",
    )
    add(
        "--out",
        default=NONE,
        metavar="FILE",
        help="the edited picture (default: NAME-edited.png here)",
    )
    add(
        "--mask",
        default=NONE,
        metavar="FILE",
        help="edit here: any size, grey values mix; no mask is looked for",
    )
