"""Command line: convert, inspect, verify."""

import argparse
import re
import signal
import sys
import warnings

from diffedit_core.errors import InputError

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def byte_size(text):
    """ "2GB", "500MiB" or a number of bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?)?B?", text.strip().upper())
    size = int(float(found[1]) * UNITS[found[2] or ""]) if found else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 2GB or 500MB")
    return size


def parser():
    top = argparse.ArgumentParser(
        prog="weights_convert",
        description="Convert, inspect and verify Stable Diffusion 1 and 2 weights.",
    )
    commands = top.add_subparsers(dest="command", required=True)
    _add_convert(commands)
    inspect = commands.add_parser("inspect", help="say what a file is and holds, from its header")
    inspect.add_argument("path")
    inspect.add_argument("--variant", help="suffix of a folder's files, such as fp16")
    inspect.add_argument("--keys", action="store_true", help="name every tensor")
    verify = commands.add_parser("verify", help="prove that a conversion's files are unchanged")
    verify.add_argument("path")
    verify.add_argument("--source", metavar="PATH", help="also compare what it was converted from")
    verify.add_argument("--quiet", action="store_true", help="no progress bar")
    return top


def _add_convert(commands):
    convert = commands.add_parser(
        "convert",
        help="convert a model folder or file",
        description="Convert a model folder or file; every key has its use, or nothing is written.",
    )
    add = convert.add_argument
    add("source", help="folder in the diffusers layout, or .safetensors, .ckpt, .bin file")
    add("target", help="what to write; must not exist")
    add("--to", choices=("diffusers", "single-file", "mindspore-ckpt"), default="diffusers")
    add("--dtype", choices=("keep", "fp32", "fp16", "bf16"), default="keep")
    add(
        "--max-shard-size",
        type=byte_size,
        metavar="SIZE",
        help="such as 2GB; default: one file for each part",
    )
    add("--ema", action="store_true", help="take the averaged weights of a single file")
    add(
        "--prediction-type",
        choices=("epsilon", "v_prediction"),
        help="for a single file; default: by its checksum, its name, or a guess",
    )
    add(
        "--config",
        metavar="DIR",
        help="model folder whose configuration and tokenizer hold for a single file",
    )
    add("--variant", help="suffix of a folder's files, such as fp16")
    add(
        "--drop",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out the keys that fit, such as 'model_ema.*'; may be repeated",
    )
    add(
        "--lora",
        nargs=2,
        action="append",
        default=[],
        metavar=("FILE", "SCALE"),
        help="merge a low-rank file",
    )
    add(
        "--embedding",
        nargs="+",
        action="append",
        default=[],
        metavar=("FILE", "WORD"),
        help="add a textual-inversion file, under a word of its own",
    )
    add("--quiet", action="store_true", help="no progress bar")


class Bar:
    """A progress bar on a terminal, nothing in a pipe."""

    def __init__(self, quiet):
        from tqdm import tqdm

        self.bar = tqdm(unit="B", unit_scale=True, leave=False, disable=True if quiet else None)

    def __call__(self, size, total=None):
        if not self.bar.disable:
            self.bar.total = total
            self.bar.update(size)


def run_convert(a):
    from .convert import convert

    if any(len(item) > 2 for item in a.embedding):
        raise InputError("--embedding takes a file and one word: repeat it for several files.")
    record = convert(
        a.source,
        a.target,
        a.to,
        a.dtype,
        a.max_shard_size,
        a.ema,
        a.prediction_type,
        a.config,
        a.variant,
        [(file, _scale(scale)) for file, scale in a.lora],
        [(item[0], item[1] if len(item) > 1 else None) for item in a.embedding],
        Bar(a.quiet),
        a.drop,
    )
    tensors = sum(len(entry.get("tensors", ())) for entry in record["files"].values())
    left = f", left out {sum(record['dropped'].values())}" if record["dropped"] else ""
    print(f"{a.target}: {tensors} tensors in {len(record['files'])} files{left}")
    for word, vectors in record["words"].items():
        print(f"write {word} in a prompt for {vectors} vector{'s' * (vectors != 1)}")


def _scale(text):
    try:
        return float(text)
    except ValueError:
        raise InputError(
            f"--lora: the scale {text!r} is no number: give the file, then the scale."
        ) from None


def run_inspect(a):
    from .inspect import inspect

    print("\n".join(inspect(a.path, a.variant, a.keys)))


def run_verify(a):
    from .verify import verify

    files, tensors = verify(a.path, a.source, Bar(a.quiet))
    print(f"{a.path}: {files} files and {tensors} tensors are what was converted")


def main(arguments=None):
    """Returns 0; 2 for input at fault, said in one line; 130 when interrupted."""
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # so that an end from outside also cleans up
    a = parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *rest: print(
            f"weights_convert: {message}", file=sys.stderr
        )
        try:
            {"convert": run_convert, "inspect": run_inspect, "verify": run_verify}[a.command](a)
        except InputError as error:
            print(f"weights_convert: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("weights_convert: interrupted, nothing was written", file=sys.stderr)
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
