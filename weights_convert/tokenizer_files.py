"""CLIP's tokenizer for files that bring none, from its list of merges (OpenAI's CLIP, MIT
licence)."""

import gzip
import json
from pathlib import Path

from .sources import to_json

MERGES = Path(__file__).parent / "clip_merges.txt.gz"
WORDS = 49408


def letters():
    """The characters that stand for the bytes: printable ones for themselves, the others from 256
    up."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def clip_files(pad):
    """{file name: content} of the tokenizer; `pad` is "!" for Stable Diffusion 2 and
    "<|endoftext|>" for 1."""
    merges = gzip.decompress(MERGES.read_bytes()).decode().splitlines()
    words = [
        *letters(),
        *(letter + "</w>" for letter in letters()),
        *("".join(merge.split()) for merge in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    marks = {
        name: {
            "content": text,
            "lstrip": False,
            "normalized": True,
            "rstrip": False,
            "single_word": False,
        }
        for name, text in (
            ("bos_token", "<|startoftext|>"),
            ("eos_token", "<|endoftext|>"),
            ("unk_token", "<|endoftext|>"),
        )
    }
    config = {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": 77,
        "pad_token": pad,
        "tokenizer_class": "CLIPTokenizer",
        **{name: {"__type": "AddedToken", **mark} for name, mark in marks.items()},
    }
    return {
        "vocab.json": json.dumps(
            {word: i for i, word in enumerate(words)}, ensure_ascii=False
        ).encode(),
        "merges.txt": ("#version: 0.2\n" + "\n".join(merges) + "\n").encode(),
        "tokenizer_config.json": to_json(config),
        "special_tokens_map.json": to_json({**marks, "pad_token": pad}),
    }
