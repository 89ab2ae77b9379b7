"""Models found: a folder, or a repository of the hub that is fetched; checked and described."""

import contextlib
import json
import re
import threading
from pathlib import Path
from typing import NamedTuple

from . import params, recognise, tokenizer
from .errors import InputError
from .folder import COMPONENTS, Configs, choose_weights, read_configs, weight_files
from .settings import read_json

HUB_SECONDS = 3  # until a name without a network is answered; the program itself takes two

TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)


def find(source, half=False, revision=None, cache_dir=None, local_files_only=False):
    """The local folder of a model: `source` itself, or a repository id of the hub, fetched.

    Args:
        source: folder or repository id.
        half: see `choose_weights`.
        revision, cache_dir, local_files_only: of a repository, as the hub's own client has them.
    Raises:
        InputError: there is no such folder, or the repository cannot be had.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise InputError(recognise.of_folder(path))
        return path
    if path.is_file():
        raise InputError(recognise.of_file(path))
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and not str(source).startswith("."):
        place = {"revision": revision, "cache_dir": cache_dir}
        return _fetch(str(source), half, place, local_files_only)
    raise InputError(
        f"There is no model folder {source}: give an existing folder, or a repository id such as "
        "owner/name."
    )


def _fetch(repository, half, place, local_files_only):
    """Only the files that are needed: configs, tokenizer, and one set of safetensors for each
    component."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError
    from huggingface_hub.errors import RevisionNotFoundError

    failure = "local_files_only"
    try:
        if not local_files_only:
            names = within(HUB_SECONDS, lambda: _listing(repository, place["revision"]))
            other = recognise.of_listing(repository, names)
            if other is not None:
                raise InputError(other)
            wanted = needed_files(names, half, repository)
            return Path(snapshot_download(repository, allow_patterns=wanted, **place))
    except InputError:
        raise
    except (RepositoryNotFoundError, EntryNotFoundError, RevisionNotFoundError) as error:
        raise InputError(
            f"The hub has no public model {repository} ({type(error).__name__}): check the name, "
            "or log in."
        ) from None
    # no network, a proxy's answer, a time-out: each client has exceptions of its own
    except Exception as error:
        failure = f"the hub cannot be reached: {type(error).__name__}"
    with contextlib.suppress(Exception):
        return Path(snapshot_download(repository, local_files_only=True, **place))
    raise InputError(
        f"{repository} is neither a folder nor in the local cache ({failure}): download the model "
        "where there is a network and give its folder."
    )


def _listing(repository, revision):
    """The names of a repository's files: one request without the client's repetitions."""
    from huggingface_hub import HfApi

    found = HfApi().model_info(repository, revision=revision, timeout=HUB_SECONDS)
    return [file.rfilename for file in found.siblings]


def within(seconds, function):
    """The function's result, or TimeoutError after so many seconds: a name server's silence obeys
    no time-out of a client."""
    outcome = []

    def run():
        try:
            outcome.append((function(), None))
        except Exception as error:
            outcome.append((None, error))

    worker = threading.Thread(target=run, daemon=True)
    worker.start()
    worker.join(seconds)
    if not outcome:
        raise TimeoutError(f"no answer within {seconds} s")
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def needed_files(names, half, repository="the repository"):
    """Of all file names of a repository, those that a model needs. Raises InputError where a
    component has none."""
    wanted = [
        n
        for n in names
        if n == "model_index.json"
        or n == "scheduler/scheduler_config.json"
        or n.startswith("tokenizer/")
        and n.split("/")[-1] in TOKENIZER_FILES
    ]
    for component, (_, config, base, _) in COMPONENTS.items():
        own = [n[len(component) + 1 :] for n in names if n.startswith(component + "/")]
        chosen = choose_weights(own, base, half)
        if chosen is None:
            raise InputError(recognise.of_listed_weights(repository, f"{component}/{base}", own))
        wanted += [f"{component}/{n}" for n in (config, *chosen)]
    return wanted


class Found(NamedTuple):
    """A model folder whose files are all there and fit together; no weights are read yet."""

    path: Path
    configs: Configs
    tokenizer: tokenizer.Tokenizer
    files: dict  # component -> paths of its safetensors


def check(source, half=False, **place):
    """Find a model and check all of it but the values of its weights, from their headers.

    Args:
        source: folder or repository id.
        half: see `choose_weights`.
        place: `revision`, `cache_dir`, `local_files_only` of `find`.
    Returns:
        `Found`, which `Model.load` takes in place of the source.
    Raises:
        InputError: anything is missing, malformed, unknown, or does not fit together.
    """
    folder = find(source, half, **place)
    configs = read_configs(folder)
    found = tokenizer.load(folder / "tokenizer")
    if found.max_length > configs.text.max_position_embeddings:
        raise InputError(
            f"{folder}: the tokenizer gives {found.max_length} tokens, the text encoder has "
            f"{configs.text.max_position_embeddings} positions: the components are of different "
            "models."
        )
    largest = max(found.library.get_vocab().values())
    if largest >= configs.text.vocab_size:
        raise InputError(
            f"{folder}: the tokenizer gives ids up to {largest}, the text encoder's 'vocab_size' "
            f"is {configs.text.vocab_size}: the components are of different models."
        )
    files = {
        component: weight_files(folder / component, base, half)
        for component, (_, _, base, _) in COMPONENTS.items()
    }
    for component, paths in files.items():
        params.check(paths, configs.specs(component))
    return Found(folder, configs, found, files)


def describe(source):
    """What a model folder holds, without reading its weights: a dict for `diffedit info`."""
    found = check(source)
    return {
        "folder": str(found.path),
        "parameters": {c: params.count(found.configs.specs(c)) for c in COMPONENTS},
        "files": {c: [path.name for path in paths] for c, paths in found.files.items()},
        "prediction_type": found.configs.scheduler.prediction_type,
        "picture_size": found.configs.picture_size,
        "configs": found.configs,
        "index": json.dumps(read_json(found.path / "model_index.json")),
    }
