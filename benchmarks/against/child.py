"""What the processes that edit have in common: a clock of phases, the largest memory, and how they
say what they measured. Nothing but Python's own modules, since one of them has no MindSpore."""

import collections
import contextlib
import json
import os
import sys
import time

EDITS = 2  # of a process at most: the first is cold, the second warm


class Clock:
    """Seconds and UNet rows of each phase. What runs within an inner phase is not of the outer one,
    so that the phases add up to the outermost.

    Args: now: gives seconds.
    """

    def __init__(self, now=time.perf_counter):
        self.seconds, self.rows = collections.Counter(), collections.Counter()
        self._now, self._open, self._since = now, [], 0.0

    @contextlib.contextmanager
    def phase(self, name):
        """The phase of what runs within."""
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def timed(self, name, function):
        """The function, as a phase."""

        def run(*args, **kwargs):
            with self.phase(name):
                return function(*args, **kwargs)

        return run

    def count(self, rows):
        """Rows that the UNet evaluates in the phase that is open."""
        self.rows[self._open[-1]] += rows

    def _turn(self):
        now = self._now()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


def resident():
    """The largest memory of this process so far, in bytes; None where the system does not say."""
    try:
        with open("/proc/self/status", encoding="utf-8") as lines:
            (line,) = [line for line in lines if line.startswith("VmHWM")]
    except OSError:
        return None
    return int(line.split()[1]) << 10


def speaker():
    """A function that says its arguments as a line of JSON on stdout. Whatever else is printed from
    now on goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return lambda **message: print(json.dumps(message), file=out, flush=True)


def serve(say, versions, load, save, memory=resident, edits=EDITS):
    """Load, edit once or twice, and say after each what it took.

    Args:
        say: as of `speaker`.
        versions: {name: text}.
        load: gives the function that edits: called with a `Clock`, it gives {name: array}.
        save: called with the number of an edit and its arrays, when it is no longer timed.
        memory: the largest memory so far, in bytes.
        edits: how many.
    Says "ready" after the imports, "loaded", "edited" after each edit, "done".
    """
    say(event="ready", versions=versions)
    clock = Clock()
    with clock.phase("load"):
        edit = load()
    say(event="loaded", seconds=clock.seconds["load"], memory=memory())
    for number in range(edits):
        clock, processor = Clock(), time.process_time()
        with clock.phase("other"):
            arrays = edit(clock)
        begun = processor if number else 0.0  # the first counts from the start of the process
        say(
            event="edited",
            seconds=clock.seconds,
            rows=clock.rows,
            processor=time.process_time() - begun,
            memory=memory(),
        )
        save(number, arrays)
    say(event="done")


def guarded(main):
    """Run a process's program; an error is said in one line on stderr, the last one."""
    try:
        main(sys.argv[1:])
    except Exception as error:  # whoever started the process repeats the line
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
