"""How a command of the benchmarks ends."""

import functools
import sys

from diffedit_core.errors import InputError


def command(name):
    """Makes a `main(words)` a command: `words` are those of the command line unless it is called
    with others; a wrong input ends it with one sentence on stderr and exit code 2, and what returns
    nothing ends with 0.

    Args: name: what the sentence begins with.
    """

    def decorated(main):
        @functools.wraps(main)
        def run(words=None):
            try:
                return main(words) or 0
            except InputError as error:
                print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
                return 2

        return run

    return decorated
