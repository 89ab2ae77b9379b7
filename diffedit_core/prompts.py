"""The sentences of an edit, and their text states."""

from typing import NamedTuple

from mindspore import ops

from . import walk


class Prompts(NamedTuple):
    """The sentences of an edit; each is one for the whole batch, or a tuple of one for each row.

    source: what the pictures show; may be empty.
    targets: tuple of what they shall show.
    negative, mask_negative, inversion_negative: what to guide away from in the decoding, in a
        guided mask, and in a guided inversion.
    """

    source: object
    targets: tuple
    negative: object = ""
    mask_negative: object = ""
    inversion_negative: object = ""

    @classmethod
    def of(cls, source, targets, *negatives):
        """The same of strings and lists, which become tuples, so that they can be keys."""
        each = [tuple(p) if isinstance(p, list) else p for p in (source, *negatives)]
        targets = tuple(tuple(t) if isinstance(t, list) else t for t in targets)
        return cls(each[0], targets, *each[1:])

    def needed(self, options, masked, only_mask):
        """The sentences whose states an edit asks for, each once.

        Args:
            masked: whether it has a mask already.
            only_mask: whether it ends with the masks.
        """
        found = []
        if not masked and self.others:
            found += [self.source, *self.others]
            found += [self.mask_negative] * (options.mask_guidance_scale != 1)
        if not only_mask:
            found.append(self.source if options.inversion_prompt == "source" else "")
            found += [self.inversion_negative] * (options.inversion_guidance_scale != 1)
            found += self.targets if masked else self.others
            found += [self.negative] * (options.guidance_scale != 1)
        return tuple(dict.fromkeys(found))

    @property
    def others(self):
        """The targets that are not the source, each once, in their order."""
        return tuple(t for t in dict.fromkeys(self.targets) if t != self.source)


def text_states(model, batch, ahead=()):
    """A function: a sentence, or a tuple of B of them -> text states [B,S,D].

    The model encodes each sentence once: when it is first asked for, or all those of `ahead` with
    the first that is, so that a model that has one component at a time goes back to none.
    """
    known = {}

    def states(text):
        rows = text if isinstance(text, tuple) else (text,)
        early = () if known else (s for t in ahead for s in (t if isinstance(t, tuple) else (t,)))
        new = [t for t in dict.fromkeys((*rows, *early)) if t not in known]
        if new:
            known.update(zip(new, model.encode_prompts(new)))
        if len(rows) == 1:
            return walk.repeat(known[rows[0]].expand_dims(0), batch)
        return ops.stack([known[t] for t in rows])

    return states
