"""Faults for `python -m tests.mutations`: one table for each part of the code, and the tests that
have to notice.

`old` is matched token by token, so that a line break or a space more does not matter.
"""

from typing import NamedTuple


class Fault(NamedTuple):
    """In one file, `old`, which is there once, becomes `new`; `first` selects (-k) what to try
    first."""

    name: str
    module: str  # path below the top folder, of Python without .py, as "diffedit_core/mask"
    old: str
    new: str
    first: str = ""
