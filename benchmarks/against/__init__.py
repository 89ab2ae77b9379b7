"""Whole edits, each in a process of its own and phase by phase: ours beside the public pipeline's,
and ours against what it depends on.

`child.py` is what the processes share, `ours.py` and `public.py` are the two of them, `job.py` what
they are given, `children.py` how they are started and heard; `agreement.py`, `rows.py` and
`tables.py` are what becomes of their results, `cli.py` the command.
"""
