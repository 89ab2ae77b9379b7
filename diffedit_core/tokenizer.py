"""CLIP's byte-pair tokenizer: a public-layout `tokenizer/` folder in, int32 ids [B, max_length]
out.

The ids are those of transformers' `CLIPTokenizer` (5.23), also where it surprises: SD 2.x pads with
"!", so "!" is a special token, cut out of the raw text before words are formed; and `do_lower_case`
is ignored, CLIP always lower-cases. A word with several vectors becomes all of them, as diffusers
writes it out in the prompt before it asks the tokenizer.
"""

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

from .errors import InputError
from .settings import is_lfs_pointer, lfs_sentence

# Radford et al. 2021, `simple_tokenizer.py`.
WORD = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
END = "<|endoftext|>"
# In the order in which they are registered: of unequal entries with one text, the later one's flags
# win.
SPECIAL = {
    "bos_token": "<|startoftext|>",
    "eos_token": END,
    "unk_token": END,
    "sep_token": None,
    "pad_token": END,
    "cls_token": None,
    "mask_token": None,
}
# Settings that would change the ids, with the values CLIP is trained with.
FIXED = {
    "padding_side": ["right"],
    "truncation_side": ["right"],
    "split_special_tokens": [False],
    "add_bos_token": [True],
    "add_eos_token": [True],
    "additional_special_tokens": [[], {}, None],
    "extra_special_tokens": [[], {}, None],
}


@dataclass(frozen=True)
class Tokenizer:
    """The `tokenizers` object with the ids and the length that frame its output."""

    library: tokenizers.Tokenizer = field(repr=False)
    bos: int
    eos: int
    pad: int
    max_length: int
    # {id: (id, ids of word_1, word_2, ...)}
    families: dict = field(default_factory=dict, repr=False, compare=False)


def load(folder) -> Tokenizer:
    """Read a `tokenizer/` folder.

    Args:
        folder: holds tokenizer_config.json, and vocab.json with merges.txt (preferred) or
            tokenizer.json.
    Raises:
        InputError: a file is missing or unreadable, or its content is not a CLIP tokenizer.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder: give the `tokenizer` folder of a Stable Diffusion model"
        )
    config, tokens = _settings(folder)
    named = {key: config.get(key) or default for key, default in SPECIAL.items()}
    named = {key: _added(value, folder, key) for key, value in named.items() if value is not None}
    listed = {str(token) for token in tokens}
    for token in named.values():
        if str(token) not in listed and token not in tokens:
            tokens.append(token)

    vocab, merges = _bpe(folder)
    for token in tokens:
        if str(token) not in vocab:
            raise InputError(
                f"{folder}: special token {str(token)!r} is not in the vocabulary: name one that is"
            )
    library = tokenizers.Tokenizer(
        models.BPE(
            vocab,
            merges,
            unk_token=str(named["unk_token"]),
            fuse_unk=False,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
        )
    )
    library.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    library.add_special_tokens(tokens)
    bos, eos, pad = (vocab[str(named[key])] for key in ("bos_token", "eos_token", "pad_token"))
    families = _families({str(token): vocab[str(token)] for token in tokens})
    return Tokenizer(library, bos, eos, pad, _max_length(config, folder), families)


def encode(tokenizer: Tokenizer, texts) -> np.ndarray:
    """Frame each text as bos, tokens, eos, padding; what does not fit is dropped with a warning.

    Args:
        tokenizer: from `load`.
        texts: one string, or a list of B strings.
    Returns:
        ids [B, max_length], int32.
    Raises:
        InputError: a text holds a lone surrogate.
    """
    texts = [texts] if isinstance(texts, str) else texts
    ids = np.full((len(texts), tokenizer.max_length), tokenizer.pad, np.int32)
    for row, text in zip(ids, texts):
        body = _body(tokenizer, text)
        row[: len(body) + 2] = [tokenizer.bos, *body, tokenizer.eos]
    return ids


def _families(added: dict) -> dict:
    """{id of a word: ids of the word, word_1, word_2, ...} of the added words that go on so: a word
    with several vectors (textual inversion), by diffusers' convention."""
    families = {}
    for word, index in added.items():
        family = [index]
        while f"{word}_{len(family)}" in added:
            family.append(added[f"{word}_{len(family)}"])
        if len(family) > 1:
            families[index] = tuple(family)
    return families


def _expanded(tokenizer: Tokenizer, encoding) -> list:
    """[(id, where it begins in the text)], with all vectors of each word that has several. A word
    that the prompt goes on by itself (word word_1) is left as it is."""
    places = list(zip(encoding.ids, (begin for begin, _ in encoding.offsets)))
    found = []
    for (index, begin), (after, _) in zip(places, [*places[1:], (None, 0)]):
        family = tokenizer.families.get(index, (index,))
        own = (index,) if (after,) == family[1:2] else family
        found += [(each, begin) for each in own]
    return found


def _body(tokenizer: Tokenizer, text: str) -> list:
    """The ids between bos and eos, at most max_length - 2."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"prompt {text!r} has a lone surrogate at index {error.start}: remove it"
        ) from None
    encoding = tokenizer.library.encode(text, add_special_tokens=False)
    found, room = _expanded(tokenizer, encoding), tokenizer.max_length - 2
    if len(found) > room:
        dropped = text[found[room][1] :]
        warnings.warn(
            f"the prompt has {len(found)} tokens and {room} fit: dropped {dropped!r}", stacklevel=3
        )
    return [index for index, _ in found[:room]]


def _settings(folder: Path) -> tuple:
    """The special-token settings, and the tokens listed beside them in order of id."""
    config = _read(folder / "tokenizer_config.json")
    table = config.get("added_tokens_decoder")
    if table is None:  # the older layout spreads the same over more files
        config |= _read(folder / "special_tokens_map.json", optional=True)
        table = {
            index: text
            for text, index in _read(folder / "added_tokens.json", optional=True).items()
        }
        whole = _read(folder / "tokenizer.json", optional=True)
        table |= {token["id"]: token for token in whole.get("added_tokens", [])}
    for key, allowed in FIXED.items():
        if config.get(key, allowed[0]) not in allowed:
            raise InputError(
                f"{folder}: {key} = {config[key]!r} is not supported: set it to {allowed[0]!r}"
            )
    return config, [
        _added(table[index], folder, f"added token {index}") for index in sorted(table, key=int)
    ]


def _bpe(folder: Path) -> tuple:
    """The vocabulary {token: id} and the merges [(left, right)], checked against each other."""
    absent = [name for name in ("vocab.json", "merges.txt") if not (folder / name).exists()]
    if not absent:
        source, vocab = folder / "merges.txt", _read(folder / "vocab.json")
        merges = [
            line
            for line in _read(source, parse=str.splitlines)
            if line and not line.startswith("#version")
        ]
    elif (folder / "tokenizer.json").exists():
        source = folder / "tokenizer.json"
        model = _read(source).get("model", {})
        vocab, merges = model.get("vocab", {}), model.get("merges", [])
    else:
        raise InputError(
            f"{folder}: no {' and '.join(absent)} and no tokenizer.json: copy them from the release"
        )
    if not isinstance(vocab, dict) or not all(
        type(index) is int and 0 <= index < 2**31 for index in vocab.values()
    ):
        raise InputError(
            f"{folder}: the vocabulary must map tokens to ids: copy it from the model's release"
        )
    pairs = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges]
    for rank, pair in enumerate(pairs, 1):
        if len(pair) != 2 or not vocab.keys() >= {*pair, "".join(pair)}:
            raise InputError(
                f"{source}: merge {rank} {' '.join(pair)!r} is not two vocabulary tokens that join "
                "to a third: copy the file from the model's release"
            )
    return vocab, pairs


def _max_length(config: dict, folder: Path) -> int:
    """`model_max_length`; null and 1e30, which transformers writes for "unset", mean CLIP's 77."""
    length = config.get("model_max_length")
    if length is None or type(length) in (int, float) and length > 1e20:
        return 77
    if type(length) is not int or length < 2:
        raise InputError(
            f"{folder}: model_max_length = {length!r} must be an integer of at least 2, such as 77"
        )
    return length


def _added(value, folder: Path, key: str):
    """A token given as its text, which is matched before normalisation, or as the AddedToken of a
    dictionary."""
    if isinstance(value, str):
        return value
    try:
        flags = {
            name: value[name]
            for name in ("lstrip", "rstrip", "single_word", "normalized")
            if name in value
        }
        return AddedToken(value["content"], special=True, **flags)
    except (TypeError, KeyError):
        raise InputError(
            f"{folder}: {key} = {value!r} must be a token's text or an AddedToken"
        ) from None


def _object(text: str) -> dict:
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    return content


def _read(path: Path, parse=_object, optional: bool = False):
    """The parsed file; an empty object if it is optional and absent."""
    if optional and not path.exists():
        return {}
    if is_lfs_pointer(path):
        raise InputError(lfs_sentence(path))
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is missing or unreadable ({error}): copy it from the model's release"
        ) from None
