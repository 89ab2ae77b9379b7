"""Compiled graphs in files: what one process has compiled, the next one loads.

MindSpore (2.8) can keep the graphs of a process in a folder, the n-th compilation in the n-th file.
It does not ask whether a file is of the graph that it compiles. So each process has a folder of its
own, with one file at a time, under the number that comes next. The graphs themselves lie in another
folder: each under the digest of all that it depends on, behind the digest of its own bytes. Loading
one takes a sixth of compiling it, and gives the same bits (tests/test_graph_cache.py).

They are in `folder()`: DIFFEDIT_GRAPH_CACHE if that is set, none if it is empty, else `diffedit` in
the user's folder of caches. On Ascend, untried, there is none.
"""

import atexit
import contextlib
import hashlib
import inspect
import os
import re
import shutil
import tempfile
import threading
from pathlib import Path

import mindspore as ms
from mindspore.common import api

from . import clip, kernels as K, layers, params as P, unet, vae
from .files import written
from .graphs import signature

VARIABLE = "DIFFEDIT_GRAPH_CACHE"
LIMIT = 256 << 20  # bytes of all files; those that were not used for the longest time go first
DIGEST = hashlib.sha256().digest_size
GRAPHS, NAME = "rank_0/graph_cache", "compile_cache_{}.mindir"  # in MindSpore's folder
ENABLE, PATH = "MS_COMPILER_CACHE_ENABLE", "MS_COMPILER_CACHE_PATH"
FORCE = "MS_DEV_FORCE_USE_COMPILE_CACHE"
WARNING = re.compile(rb"\] (GetCompileCacheResource|LoadFuncGraphFromMindIR|GetCachedFuncGraph)\] ")


def folder(environment=os.environ):
    """The folder of the graphs, or None for none: where it is turned off, where MindSpore's own
    cache is in use, where a user has no home, and on other devices than a CPU."""
    own = environment.get(ENABLE) or environment.get(PATH) or ms.get_context("enable_compile_cache")
    found = environment.get(VARIABLE)
    if own or found == "" or K.device() != "CPU":
        return None
    if found:
        return Path(found)
    caches = environment.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(caches) / "diffedit" / "graphs" if os.path.isabs(caches) else None


def file_of(graph, inputs):
    """The file of a `graphs.Graph` compiled for these inputs, under a digest of all that it depends
    on; None where there is no cache, where a function or a kernel is not of this package, and where
    the programs are no longer those that were imported."""
    place, table = folder(), graph.static[-1]
    if place is None or not all(map(_ours, (graph.function, *table.values()))):
        return None
    if sources() != SOURCES or replaced():
        return None
    kernels = [(name, f.__module__, f.__qualname__) for name, f in sorted(table.items())]
    function = graph.function.__module__, graph.function.__qualname__
    leaves = [(path, x.shape, str(x.dtype)) for path, x in P.flatten(graph.params).items()]
    parts = sources(), function, leaves, graph.static[:-1], kernels, signature(inputs)
    digest = hashlib.sha256(repr((ms.__version__, *parts)).encode()).hexdigest()
    return place / f"{digest}.graph"


def sources():
    """The digest of this package's programs."""
    place, found = Path(__file__).parent, hashlib.sha256()
    for file in sorted(place.rglob("*.py")):
        found.update(f"{file.relative_to(place)}\0".encode() + file.read_bytes() + b"\0")
    return found.hexdigest()


def live():
    """{(module, name): (value, code)} of all that the models' modules hold."""
    modules = [clip, layers, unet, vae, *(v for v in vars(K).values() if inspect.ismodule(v))]
    return {
        (module.__name__, name): (value, getattr(value, "__code__", None))
        for module in (K, *modules)
        for name, value in vars(module).items()
        if not name.startswith("__")
    }


def replaced():
    """Whether a function or a number of the models was replaced while the program runs, which no
    source tells."""
    now = live()
    return now.keys() != LIVE.keys() or any(
        old is not new for key in now for old, new in zip(LIVE[key], now[key])
    )


SOURCES, LIVE = sources(), live()


def load(file):
    """The graph of a file; None if there is none that is whole."""
    try:
        content = file.read_bytes()
        os.utime(file)
    except OSError:
        return None
    graph = content[DIGEST:]
    return graph if hashlib.sha256(graph).digest() == content[:DIGEST] else None


def store(file, graph):
    """Write a graph's bytes to a file; not where that cannot be done."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with written(file) as part:
            part.write_bytes(hashlib.sha256(graph).digest() + graph)
        prune(file.parent)


def prune(place, limit=LIMIT):
    """Delete the graphs of a folder that were not used for the longest time, beyond so many bytes
    in all."""
    total = 0
    for file in sorted(place.glob("*.graph"), key=lambda f: f.stat().st_mtime, reverse=True):
        total += file.stat().st_size
        if total > limit:
            file.unlink(missing_ok=True)


class Compiler:
    """MindSpore's own folder of graphs, which a process has one of.

    Attributes:
        place: the folder, None before `prepare`.
        first, last: what the next compilation's number can be. They differ after one that failed:
            nothing says whether MindSpore has counted it. Then a graph is offered under all.
    """

    def __init__(self):
        self.place, self.first, self.last, self.lock = None, 0, 0, threading.Lock()

    def prepare(self):
        """Make the folder, once. Raises OSError where that cannot be done."""
        if self.place is None:
            place = Path(tempfile.mkdtemp(prefix="diffedit-graphs-"))
            atexit.register(shutil.rmtree, place, ignore_errors=True)
            # MindSpore reads the program that was started, and fails where that is no file.
            (place / "entry.py").touch()
            (place / GRAPHS).mkdir(parents=True)
            self.place = place

    def compile(self, graph, inputs, known):
        """Compile a `graphs.Graph`, from the bytes of one if they are known. Returns the bytes of
        one that was made anew, else None."""
        with self.lock:
            offered = self.offer(known)
            before, done = len(graph.compile_cache), False
            try:
                with _mindspore_keeps(self.place), _without_its_warnings():
                    graph.compile(*inputs)
                done = len(graph.compile_cache) > before
            finally:
                made = [f for f, state in self.files().items() if state != offered.get(f)]
                if made:
                    self.first = self.last = int(made[0].stem.rpartition("_")[2]) + 1
                else:
                    self.first, self.last = self.first + done, self.last + 1
            return made[0].read_bytes() if made else None

    def offer(self, known):
        """Put a graph's bytes into the folder. Returns {file: what changes when it is written}."""
        for file in self.files():
            file.unlink()
        for number in range(self.first, self.last + 1) if known else ():
            (self.place / GRAPHS / NAME.format(number)).write_bytes(known)
        return self.files()

    def files(self):
        """{file: what changes when it is written}."""
        found = (self.place / GRAPHS).glob(NAME.format("*"))
        return {file: (file.stat().st_mode, file.stat().st_mtime_ns) for file in found}


COMPILER = Compiler()


def compiled(graph, inputs, file):
    """Compile a `graphs.Graph` for these inputs, from a file or into it.

    Args: file: of `file_of`.
    """
    if file is None or not hasattr(api, "entry_script_path"):
        graph.compile(*inputs)
        return
    try:
        COMPILER.prepare()
    except OSError:  # no room for temporary files
        graph.compile(*inputs)
        return
    made = COMPILER.compile(graph, inputs, load(file))
    if made:
        store(file, made)


@contextlib.contextmanager
def _mindspore_keeps(place):
    """MindSpore's own cache in this folder is in use within."""
    settings = {ENABLE: "1", PATH: str(place), FORCE: "1"}
    before = {name: os.environ.get(name) for name in settings}
    entry, api.entry_script_path = api.entry_script_path, str(place / "entry.py")
    os.environ.update(settings)
    try:
        yield
    finally:
        api.entry_script_path = entry
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _without_its_warnings():
    """MindSpore warns of the cache that was asked for. Without these lines, what is written to the
    standard error within comes at the end; where MindSpore gives no warnings, as it is written."""
    try:
        warns = os.environ.get("GLOG_v", "2") in "012"
        screen, said = (os.dup(2), tempfile.TemporaryFile()) if warns else (None, None)
    except OSError:  # there is no standard error
        warns = False
    if not warns:
        yield
        return
    with said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(screen, 2)
            said.seek(0)
            lines = [line for line in said if not WARNING.search(line)]
            os.write(2, b"".join(lines))
            os.close(screen)


def _ours(function):
    module = getattr(function, "__module__", None) or ""
    return module.split(".")[0] == __package__ and hasattr(function, "__qualname__")
