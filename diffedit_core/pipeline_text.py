"""The pipeline's tokenizer as programs call it: `pipe.tokenizer(text, ...).input_ids`."""

import dataclasses
import sys

import numpy as np
from tokenizers import decoders

from . import tokenizer as tokens
from .errors import InputError
from .foreign import to_numpy
from .pipeline_checks import check, flag, whole


class TokenIds(np.ndarray):
    """An integer array with the methods of a tensor that programs call on token ids."""

    def to(self, *places, **options):
        """Itself: the text encoder takes it wherever it is."""
        return self

    cpu = cuda = detach = to

    def numpy(self):
        """A plain numpy array."""
        return np.asarray(self)


class TokenBatch(dict):
    """`input_ids` and `attention_mask` [B,T], as keys and as attributes."""

    def __getattr__(self, name):
        if name in self:
            return self[name]
        raise AttributeError(f"A tokenizer's result has no {name!r}: {', '.join(self)}.")

    def to(self, *places, **options):
        """Itself: the text encoder takes it wherever it is."""
        return self


class Tokenizer:
    """CLIP's tokenizer, called as the public one is."""

    def __init__(self, pipe):
        self.model, self._tokens = pipe.model, pipe.model.tokenizer
        self.model_max_length = self._tokens.max_length
        self.bos_token_id, self.eos_token_id = self._tokens.bos, self._tokens.eos
        self.pad_token_id = self._tokens.pad

    def __call__(self, text, padding=False, max_length=None, truncation=False, return_tensors=None):
        """Token ids of a string or a list of B strings.

        Args:
            padding: False, "longest" (or True) or "max_length".
            max_length: at most so many ids, by default the text encoder's; truncation: cut longer
                ones.
            return_tensors: None for lists; "np" and "ms" for arrays with a tensor's `to`; "pt" for
                PyTorch's tensors if the program has imported it, else for the same arrays.
        Returns:
            `TokenBatch`.
        """
        listed = [text] if isinstance(text, str) else text
        strings = isinstance(listed, (list, tuple)) and all(isinstance(t, str) for t in listed)
        check("text", text, strings and listed, "a string or a list of strings")
        most = self.model_max_length if max_length is None else whole("max_length", max_length, 2)
        padding = _choice("padding", padding, (False, True, "longest", "max_length"))
        truncation = _choice("truncation", truncation, (False, True, "longest_first"))
        kind = _choice("return_tensors", return_tensors, (None, "np", "pt", "ms"))

        rows = [self._ids(t) for t in listed]
        if truncation:
            rows = [[*r[: most - 1], self.eos_token_id] if len(r) > most else r for r in rows]
        mask = [[1] * len(r) for r in rows]
        if padding:
            length = most if padding == "max_length" else max(map(len, rows))
            rows = [r + [self.pad_token_id] * (length - len(r)) for r in rows]
            mask = [m + [0] * (len(r) - len(m)) for m, r in zip(mask, rows)]
        if kind is None:
            single = isinstance(text, str)
            rows, mask = (rows[0], mask[0]) if single else (rows, mask)
            return TokenBatch(input_ids=rows, attention_mask=mask)
        if len(set(map(len, rows))) > 1:
            raise InputError("padding is False, but the texts differ in length: choose 'longest'.")
        return TokenBatch(input_ids=_array(rows, kind), attention_mask=_array(mask, kind))

    def _ids(self, text):
        """All ids of a text, in its frame, uncut and unpadded."""
        room = 2 + 100 * len(text.encode("utf-8", "surrogatepass"))  # a word may be many vectors
        unframed = dataclasses.replace(self._tokens, max_length=room, pad=-1)
        row = tokens.encode(unframed, text)[0]
        return row[row >= 0].tolist()

    def decode(self, token_ids, skip_special_tokens=False):
        """The text of ids [T], in small letters."""
        array = to_numpy(token_ids, "token_ids")
        good = array.dtype.kind in "iu" or not array.size
        check("token_ids", token_ids, good and array.ndim < 2, "whole numbers [T]")
        ids = array.ravel().tolist()
        special = {self.bos_token_id, self.eos_token_id, self.pad_token_id}
        if flag("skip_special_tokens", skip_special_tokens):
            ids = [i for i in ids if i not in special]
        words = [self._tokens.library.id_to_token(i) if i >= 0 else None for i in ids]
        if None in words:
            raise InputError(f"token_ids has {ids[words.index(None)]}, which is no token's id.")
        words = "".join(words).split("</w>")
        bytewise = decoders.ByteLevel()
        return " ".join(bytewise.decode([word]) for word in words).strip()

    def batch_decode(self, sequences, skip_special_tokens=False):
        """The texts of rows of ids."""
        return [self.decode(row, skip_special_tokens) for row in sequences]


def _choice(name, value, known):
    """One of the known values, of exactly its type."""
    good = any(type(value) is type(k) and value == k for k in known)
    check(name, value, good, " or ".join(map(repr, known)))
    return value


def _array(rows, kind):
    """Whole numbers [B,T] as the tensor that was asked for, or as `TokenIds`."""
    array = np.array(rows, np.int64)
    if kind == "pt" and "torch" in sys.modules:
        return sys.modules["torch"].from_numpy(array)
    return array.view(TokenIds)
