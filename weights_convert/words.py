"""Textual-inversion files: new words of a model, with one or more vectors each (Gal et al. 2022,
arXiv 2208.01618)."""

import json
import warnings
from pathlib import Path

from diffedit_core.errors import InputError

from .sources import open_file, to_json
from .tensors import FLOATS, Segment, Stored, count
from .unpickled import as_mapping

WIDTHS = {  # of the text encoders of public models
    768: "Stable Diffusion 1",
    1024: "Stable Diffusion 2",
    1280: "Stable Diffusion XL's second text encoder",
}
ANOTHER = "name another one, --embedding FILE WORD."


def read_embedding(path, token=None):
    """The rows of a textual-inversion file.

    Args:
        path: diffusers' {token: vector}, or the web UI's `emb_params` or `string_to_param`.
        token: the word to use; by default the file's own, or the file's name.
    Returns:
        (token in small letters, Stored [D] or [n,D]). CLIP's tokenizer knows no capitals, and
        diffusers finds a word of several vectors only as the tokenizer spells it.
    Raises:
        InputError: it is not such a file.
    """
    path = Path(path)
    own, stored = _rows(path, open_file(path))
    if stored.dtype not in FLOATS or len(stored.shape) not in (1, 2) or not count(stored.shape):
        raise InputError(
            f"{path} is no textual-inversion embedding: its tensor is {stored.dtype} "
            f"{list(stored.shape)}, expected rows of numbers."
        )
    token = (token or own).lower()
    if not token.strip() or any(c.isspace() or not c.isprintable() for c in token):
        raise InputError(f"{path}: the word {token!r} is empty or has spaces: {ANOTHER}")
    return token, stored


def _rows(path, source):
    """(the file's own word, its tensor)."""
    parameters = as_mapping(source.extras.get("string_to_param")) or {}
    rows = [own for own in parameters.values() if isinstance(own, Stored)]
    if len(rows) == 1:
        name = source.extras.get("name")
        return name if isinstance(name, str) and name else path.stem, rows[0]
    if len(source.tensors) == 1:
        key, stored = source.tensors[0]
        return path.stem if key == "emb_params" else key, stored
    keys = {key for key, _ in source.tensors}
    if {"clip_l", "clip_g"} <= keys:
        raise InputError(
            f"{path} is an embedding of Stable Diffusion XL, for two text encoders: use one of "
            "Stable Diffusion 1 or 2."
        )
    raise InputError(
        f"{path} is no textual-inversion embedding: it holds {len(keys)} tensors, expected one."
    )


def words(token, stored):
    """The words of an embedding's rows: the token itself, then token_1, token_2, ... (diffusers'
    convention). A prompt has the first; the tokenizer puts the others behind it."""
    rows = stored.shape[0] if len(stored.shape) == 2 else 1
    return [token, *(f"{token}_{i}" for i in range(1, rows))]


def segments(embeddings, width):
    """Segments that follow the token table, one row for each word. Raises InputError for vectors of
    another width."""
    found = []
    for _, stored in embeddings:
        own = stored.shape[-1]
        if own != width:
            raise InputError(
                f"{stored.path} has vectors of {own} numbers{_model_of(own)}, the text encoder's "
                f"'hidden_size' is {width}{_model_of(width)}: use an embedding of the same model."
            )
        found.append(Segment(stored, 0, stored.count))
    return found


def _model_of(width):
    return f" ({WIDTHS[width]})" if width in WIDTHS else ""


def add_words(files, new, first):
    """A tokenizer's files with new words, whose ids count up from `first`.

    The words are found in any case of letters, and those that begin and end with a letter or digit
    only where they stand alone.

    Args:
        files: {file name: content}; vocab.json and merges.txt have to be there.
        new: words.
        first: the first new id, which is the number of rows of the token table before.
    Raises:
        InputError: a word is there already, or the files are of another form.
    """
    vocab, added, config = _tables(files)
    decoder = config["added_tokens_decoder"]
    taken = {word.lower() for word in added}
    for index, word in enumerate(new, first):
        if word in vocab or word in taken:
            raise InputError(f"The tokenizer has the word {word!r} already: {ANOTHER}")
        if word + "</w>" in vocab:
            warnings.warn(
                f"{word!r} is an ordinary word of the tokenizer, which prompts can no longer use: "
                "name the embedding otherwise, --embedding FILE WORD",
                stacklevel=5,
            )
        taken.add(word)
        vocab[word] = added[word] = index
        decoder[str(index)] = {
            "content": word,
            "lstrip": False,
            "normalized": True,
            "rstrip": False,
            "single_word": word[0].isalnum() and word[-1].isalnum(),
            "special": False,
        }
    # tokenizer.json would lack the words
    kept = {name: content for name, content in files.items() if name != "tokenizer.json"}
    return {
        **kept,
        "vocab.json": json.dumps(vocab, ensure_ascii=False).encode(),
        "added_tokens.json": to_json(added),
        "tokenizer_config.json": to_json(config),
    }


def _tables(files):
    """(vocabulary, added tokens, configuration with an `added_tokens_decoder`): the older layout,
    which has none, is brought into the newer one, where a word can have its own settings."""
    if not {"vocab.json", "merges.txt"} <= set(files):
        raise InputError(
            "The tokenizer has no vocab.json with merges.txt: words can be added to that form only."
        )
    try:
        vocab, config, added, marks, whole = (
            dict(json.loads(files.get(name, b"{}")))
            for name in (
                "vocab.json",
                "tokenizer_config.json",
                "added_tokens.json",
                "special_tokens_map.json",
                "tokenizer.json",
            )
        )
        if config.get("added_tokens_decoder") is None:
            table = {str(index): _entry(word) for word, index in added.items()}
            table |= {str(token["id"]): _entry(**token) for token in whole.get("added_tokens", [])}
            marks = {
                name: {"__type": "AddedToken", **mark} if isinstance(mark, dict) else mark
                for name, mark in marks.items()
            }
            config = {**config, **marks, "added_tokens_decoder": table}
        listed = {token["content"] for token in config["added_tokens_decoder"].values()}
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(
            f"The tokenizer's files are not readable JSON ({error}): copy them from the model's "
            "release."
        ) from None
    return vocab, {**{word: vocab.get(word) for word in listed}, **added}, config


def _entry(content, **settings):
    """A token of the older layout, which is matched as it is written."""
    defaults = dict(lstrip=False, normalized=False, rstrip=False, single_word=False, special=True)
    return {"content": content, **{name: settings.get(name, v) for name, v in defaults.items()}}
