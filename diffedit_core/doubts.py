"""What makes a result doubtful: said as a warning, or with --strict as an error."""

import warnings

from .errors import InputError
from .images import crop
from .limits import picture_sentence, words_sentence


def limits_of_words(folder, prompts):
    """What to say about words that the model never saw, or None."""
    each = (prompts.source, *prompts.targets, *prompts[2:])
    return words_sentence(folder, [text for text in each if text])


def limits_of_picture(job, edits):
    """What to say about a picture that the autoencoder cannot hold, or None."""
    for edit in edits:
        if edit.roundtrip is not None:
            return picture_sentence(crop(job.image, job.size), crop(edit.roundtrip, job.size))
    return None


def doubt(arguments, sentence):
    """Say what makes the result doubtful; with --strict, stop."""
    if sentence is None:
        return
    if arguments.strict:
        raise InputError(f"{sentence} (--strict)")
    warnings.warn(sentence[:1].upper() + sentence[1:] + ".", stacklevel=2)
