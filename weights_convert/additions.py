"""What is added to a model while it is converted: low-rank changes of its weights, and new
words."""

import json
from pathlib import Path

from diffedit_core.errors import InputError

from . import infer, rules_lora as table
from .engine import Report, candidates
from .sources import open_file, to_json
from .tensors import FLOATS, Change, Segment, Stored, count, load


def lora_changes(path, scale, leaves):
    """The changes that a low-rank file makes.

    W' = W + scale alpha / rank (up down); alpha is the rank where a file does not give it (Hu et
    al. 2021, section 4.1).

    Args:
        path: a file in kohya's or diffusers' names.
        scale: 1 for the full change.
        leaves: {leaf: shape} of the model.
    Returns:
        {leaf: Change}.
    Raises:
        InputError: a key that is unknown, without its partner, or of another shape; all in one
            message.
    """
    source = open_file(path)
    keys, report, changes, used = {}, Report(), {}, set()
    for key, stored in source.tensors:
        if key in keys:
            report.add("given twice", repr(key))
        keys[key] = stored
    weights = [
        leaf for leaf, shape in leaves.items() if leaf.endswith(".weight") and len(shape) > 1
    ]
    for leaf, claims in candidates(table.RULES, weights, table.numbers).items():
        for claim in claims:
            down, up, alpha = (claim.key + ending for ending in table.ENDINGS[claim.layout])
            if down not in keys and up not in keys:
                continue
            if down not in keys or up not in keys:
                report.add("missing", repr(up if down in keys else down))
            elif leaf in changes:
                report.add("given twice", f"the change of {leaf!r} (again in {down!r})")
            elif _fits(keys, (down, up, alpha), leaves[leaf], report):
                changes[leaf] = Change(
                    keys[down], keys[up], scale * _strength(keys, alpha, keys[down].shape[0])
                )
            used |= {down, up, alpha}
    for key in keys:
        if key not in used:
            report.add("unknown", f"{key!r} {list(keys[key].shape)}")
    if not keys:
        report.add("missing", "any tensor")
    report.check(f"{path}, given as a low-rank file,")
    return changes


def _fits(keys, names, shape, report):
    """Whether two factors multiply to a weight of this shape."""
    down, up = keys[names[0]], keys[names[1]]
    rank = down.shape[0] if down.shape else 0
    flat_up = up.shape[:2] if up.shape[2:] in ((), (1, 1)) else up.shape
    wanted_down, wanted_up = (rank, *shape[1:]), (shape[0], rank)
    bad_down = down.shape != wanted_down and down.shape != (*wanted_down, 1, 1) or not rank
    for key, wrong, wanted in (
        (names[0], bad_down, wanted_down),
        (names[1], flat_up != wanted_up, wanted_up),
    ):
        if wrong:
            report.add(
                "wrong shape", f"{key!r} is {list(keys[key].shape)}, expected {list(wanted)}"
            )
        if keys[key].dtype not in FLOATS:
            report.add(
                "wrong type", f"{key!r} is {keys[key].dtype}, expected one of {', '.join(FLOATS)}"
            )
    alpha = keys.get(names[2])
    if alpha is not None and (count(alpha.shape) != 1 or alpha.dtype not in FLOATS):
        report.add(
            "wrong shape", f"{names[2]!r} is {alpha.dtype} {list(alpha.shape)}, expected one number"
        )
    return not report.found


def _strength(keys, alpha, rank):
    return float(load(keys[alpha]).reshape(-1)[0]) / rank if alpha in keys else 1.0


def read_embedding(path, token=None):
    """The rows of a textual-inversion file.

    Args:
        path: diffusers' {token: vector}, or the web UI's `emb_params` or `string_to_param`.
        token: the word to use; by default the file's own, or the file's name.
    Returns:
        (token, Stored [D] or [n,D]).
    Raises:
        InputError: it is not such a file.
    """
    source, path = open_file(path), Path(path)
    parameters = source.extras.get("string_to_param")
    if (
        isinstance(parameters, dict)
        and len(parameters) == 1
        and isinstance(next(iter(parameters.values())), Stored)
    ):
        own, stored = str(source.extras.get("name") or path.stem), next(iter(parameters.values()))
    elif len(source.tensors) == 1:
        key, stored = source.tensors[0]
        own = path.stem if key == "emb_params" else key
    else:
        raise InputError(
            f"{path} is no textual-inversion embedding: it holds {len(source.tensors)} tensors, expected one."
        )
    if stored.dtype not in FLOATS or len(stored.shape) not in (1, 2) or not count(stored.shape):
        raise InputError(
            f"{path} is no textual-inversion embedding: its tensor is {stored.dtype} {list(stored.shape)}, "
            "expected rows of numbers."
        )
    token = token or own
    if not token.strip() or any(c.isspace() for c in token):
        raise InputError(
            f"{path}: the word {token!r} is empty or has spaces: name another one, --embedding FILE WORD."
        )
    return token, stored


def words(token, stored):
    """The words of an embedding's rows: the token itself, then token_1, token_2, ... (diffusers'
    convention)."""
    rows = stored.shape[0] if len(stored.shape) == 2 else 1
    return [token, *(f"{token}_{i}" for i in range(1, rows))]


def embedding_segments(embeddings, width):
    """Segments that follow the token table, one row for each word. Raises InputError for vectors of
    another width."""
    segments = []
    for token, stored in embeddings:
        if stored.shape[-1] != width:
            raise InputError(
                f"{stored.path} has vectors of {stored.shape[-1]} numbers, the text encoder's 'hidden_size' is "
                f"{width}: the embedding is of another model."
            )
        segments.append(Segment(stored, 0, stored.count))
    return segments


def add_words(files, new, first):
    """A tokenizer's files with new words, whose ids count up from `first`.

    Args:
        files: {file name: content}; vocab.json and merges.txt have to be there.
        new: words.
        first: the first new id, which is the number of rows of the token table before.
    Raises:
        InputError: a word is there already, or the files are of another form.
    """
    if not {"vocab.json", "merges.txt"} <= set(files):
        raise InputError(
            "The tokenizer has no vocab.json with merges.txt: words can be added to that form only."
        )
    try:
        vocab, config = json.loads(files["vocab.json"]), json.loads(files["tokenizer_config.json"])
        added = json.loads(files.get("added_tokens.json", b"{}"))
        decoder = config.get("added_tokens_decoder")
        taken = set(vocab) | set(added)
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"The tokenizer's files are not readable JSON ({error}): copy them from the model's release."
        ) from None
    for index, word in enumerate(new, first):
        if word in taken:
            raise InputError(
                f"The tokenizer has the word {word!r} already: name another one, --embedding FILE WORD."
            )
        taken.add(word)
        vocab[word] = added[word] = index
        if decoder is not None:
            decoder[str(index)] = {
                "content": word,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
    kept = {
        name: content for name, content in files.items() if name != "tokenizer.json"
    }  # would lack the words
    return {
        **kept,
        "vocab.json": json.dumps(vocab, ensure_ascii=False).encode(),
        "added_tokens.json": to_json(added),
        "tokenizer_config.json": to_json(config),
    }


def describe(tensors):
    """What a low-rank file holds, in words."""
    ranks = sorted(
        {
            stored.shape[0]
            for key, stored in tensors
            if stored.shape and any(key.endswith(down) for down, _, _ in table.ENDINGS.values())
        }
    )
    factors = sum(infer.kind([tensor]) == "lora" for tensor in tensors)
    return f"low-rank changes of {factors // 2} weights, rank {', '.join(map(str, ranks))}"
