"""Progress bars on a terminal and in a notebook, and nothing in a pipe."""

import contextlib
import re
import sys
import time


def hidden():
    """tqdm's `disable`: None, which is silent where stderr is no terminal, but False in a notebook,
    where it never is one."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return None if getattr(shell, "kernel", None) is None else False


class Bars:
    """One bar at a time; `note` says on it what takes long.

    spent: {phase: list of the seconds that each iterable of `watch` took}.
    compiling: seconds, within a phase or not.
    """

    def __init__(self, quiet=False):
        self.disable = True if quiet else hidden()
        self.bar = None
        self.spent, self.compiling, self._since = {}, 0.0, 0.0

    @contextlib.contextmanager
    def open(self, name, total):
        """A bar that a function advances, called with what comes next."""
        bar = self._start(name, total, leave=False)
        yield lambda text: (bar.set_postfix_str(text), bar.update())
        self.close()

    def watch(self, phase, total, iterable):
        """The items of an iterable, with a bar that advances as they are used (`parts.Run`)."""
        bar, start = self._start(phase, total, leave=True), time.perf_counter()
        for item in iterable:
            yield item
            bar.update()
        self.spent.setdefault(phase, []).append(time.perf_counter() - start)

    def note(self, text):
        """Called by the model before a graph compiles, and with "" after its first run."""
        now = time.perf_counter()
        self.compiling += 0 if text else now - self._since
        self._since = now
        if self.bar is not None and not self.bar.disable:
            name = text.replace("_", " ")
            self.bar.set_postfix_str(re.sub("^compiling (.*)", r"compiling the \1, once", name))

    def close(self):
        """End the bar that is shown."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _start(self, name, total, leave):
        from tqdm.auto import tqdm

        self.close()
        self.bar = tqdm(total=total, desc=name, disable=self.disable, leave=leave)
        return self.bar
