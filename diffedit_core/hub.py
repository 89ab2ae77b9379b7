"""Where a model is: its own folder, or a repository of the hub whose needed files are fetched.

Needs no MindSpore, so that a wrong name is answered at once.
"""

import contextlib
import re
from pathlib import Path

from . import recognise
from .errors import InputError
from .limits import WORDS_FILE
from .web import within

HUB_SECONDS = 3  # until a name without a network is answered; the program itself takes two

# component -> base name of its weight files
WEIGHTS = {
    "text_encoder": "model",
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}
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

        def wanted(names):
            other = recognise.of_listing(source, names)
            if other is not None:
                raise InputError(other)
            return needed_files(names, half, source)

        return fetch(str(source), wanted, local_files_only, revision=revision, cache_dir=cache_dir)
    raise InputError(
        f"There is no model folder {source}: give an existing folder, or a repository id such as "
        "owner/name."
    )


def fetch(repository, wanted, local_files_only=False, **place):
    """The local folder of a repository, with only the files that are wanted.

    Args:
        wanted: the names of all its files -> those to fetch.
        place: revision, cache_dir, token, force_download, as the hub's own client has them.
    Raises:
        InputError: there is no such repository, or it cannot be had.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError
    from huggingface_hub.errors import RevisionNotFoundError

    failure = "local_files_only"
    try:
        if not local_files_only:
            names = within(HUB_SECONDS, lambda: _listing(repository, place))
            return Path(snapshot_download(repository, allow_patterns=wanted(names), **place))
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
    place.pop("force_download", None)
    with contextlib.suppress(Exception):
        return Path(snapshot_download(repository, local_files_only=True, **place))
    asked = [f"{k}={v!r}" for k, v in place.items() if v is not None and k != "token"]
    asked = f" with {', '.join(asked)}" if asked else ""
    raise InputError(
        f"{repository}{asked} is neither a folder nor in the local cache ({failure}): download the "
        "model where there is a network and give its folder."
    )


def _listing(repository, place):
    """The names of a repository's files: one request without the client's repetitions."""
    from huggingface_hub import HfApi

    options = {name: place.get(name) for name in ("revision", "token")}
    found = HfApi().model_info(repository, timeout=HUB_SECONDS, **options)
    return [file.rfilename for file in found.siblings]


def needed_files(names, half, repository="the repository"):
    """Of all file names of a repository, those that a model needs. Raises InputError where a
    component has none."""
    wanted = [
        n
        for n in names
        if n == "model_index.json"
        or n == "scheduler/scheduler_config.json"
        or n == WORDS_FILE
        or n.startswith("tokenizer/")
        and n.split("/")[-1] in TOKENIZER_FILES
    ]
    for component, base in WEIGHTS.items():
        own = [n[len(component) + 1 :] for n in names if n.startswith(component + "/")]
        chosen = choose_weights(own, base, half)
        if chosen is None:
            raise InputError(recognise.of_listed_weights(repository, f"{component}/{base}", own))
        wanted += [f"{component}/{n}" for n in ("config.json", *chosen)]
    return wanted


def choose_weights(names, base, half):
    """The weight files to read among the names of a component's folder, an index first; None if
    there are none.

    `half` prefers the fp16 variant to the plain files; either way it takes what there is.
    """
    names = set(names)
    for variant in ("fp16", "") if half else ("", "fp16"):
        dot = f".{variant}" if variant else ""
        single, index = f"{base}{dot}.safetensors", f"{base}.safetensors.index{dot}.json"
        if index in names:
            shards = sorted(
                n
                for n in names
                if re.fullmatch(rf"{re.escape(base + dot)}-\d+-of-\d+\.safetensors", n)
            )
            return [index, *shards]
        if single in names:
            return [single]
    return None
