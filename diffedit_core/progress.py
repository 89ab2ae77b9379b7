"""Progress bars on a terminal, and nothing in a pipe."""

import contextlib
import re


class Bars:
    """One bar at a time; `note` says on it what takes long."""

    def __init__(self, quiet):
        self.disable = (
            True if quiet else None
        )  # tqdm: None means silent where stderr is no terminal
        self.bar = None

    @contextlib.contextmanager
    def open(self, name, total):
        """A bar that a function advances, called with what comes next."""
        bar = self._start(name, total, leave=False)
        yield lambda text: (bar.set_postfix_str(text), bar.update())
        self.close()

    def watch(self, phase, total, iterable):
        """The items of an iterable, with a bar that advances as they are used (`parts.Run`)."""
        bar = self._start(phase, total, leave=True)
        for item in iterable:
            yield item
            bar.update()

    def note(self, text):
        """Called by the model before and after a graph compiles."""
        if self.bar is not None and not self.bar.disable:
            name = text.replace("_", " ")
            self.bar.set_postfix_str(re.sub("^compiling (.*)", r"compiling the \1, once", name))

    def close(self):
        """End the bar that is shown."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _start(self, name, total, leave):
        from tqdm import tqdm

        self.close()
        self.bar = tqdm(total=total, desc=name, disable=self.disable, leave=leave)
        return self.bar
