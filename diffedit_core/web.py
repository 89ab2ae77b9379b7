"""Files from web addresses, limited in size and time; and the limit of time for anything else."""

import threading

from .errors import InputError

SECONDS = 30  # for the whole answer
MAX_BYTES = 64 << 20
TYPES = ("image/", "application/octet-stream", "binary/octet-stream")


def is_address(source):
    """Whether a source is a web address instead of a file's name."""
    return str(source).lower().startswith(("http://", "https://"))


def fetch(address, seconds=SECONDS, limit=MAX_BYTES):
    """The content of a picture's address, redirections followed.

    Args: address: http:// or https://; seconds: for all of it; limit: bytes.
    Returns: bytes.
    Raises: InputError: no answer in time, an error, too large, or not a picture.
    """
    try:
        return within(seconds, lambda: _answer(address, seconds, limit))
    except InputError:
        raise
    # the client's, the network's and the certificates' failures have no common class
    except Exception as error:
        told = "no whole answer in time" if isinstance(error, TimeoutError) else error
        told = " ".join(str(told).split())
        raise InputError(
            f"{address} cannot be had ({told}): download the picture, then give the file."
        ) from None


def _answer(address, seconds, limit):
    import urllib.request

    too_large = InputError(
        f"{address} is larger than {limit / 2**20:g} MiB: download it, make it smaller, then give "
        "the file."
    )
    request = urllib.request.Request(address, headers={"User-Agent": "diffedit", "Accept": "*/*"})
    with _opener().open(request, timeout=seconds) as answer:
        kind = answer.headers.get("Content-Type", TYPES[1])
        if not kind.lower().startswith(TYPES):
            raise InputError(
                f"{address} is of type {kind.split(';')[0]}, not a picture: give the address of "
                "the picture itself, or download it."
            )
        length = answer.headers.get("Content-Length", "")
        if length.isdigit() and int(length) > limit:
            raise too_large
        content = answer.read(limit + 1)
    if len(content) > limit:
        raise too_large
    if length.isdigit() and len(content) < int(length):
        raise ConnectionError(f"{len(content)} of {length} bytes came")
    return content


def _opener():
    """A client that knows http and https only, also after a redirection."""
    import urllib.request as client

    opener = client.OpenerDirector()
    for handler in (
        client.ProxyHandler,
        client.UnknownHandler,
        client.HTTPHandler,
        client.HTTPSHandler,
        client.HTTPDefaultErrorHandler,
        client.HTTPRedirectHandler,
        client.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def within(seconds, function):
    """The function's result, or TimeoutError after so many seconds: a name server's silence, or a
    byte now and then, obeys no time-out of a client."""
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
