"""Faults in the cache of compiled graphs."""

from . import Fault

CACHE = "diffedit_core/graph_cache"
TESTS = {CACHE: ("tests/test_graph_cache.py",)}

FAULTS = (
    Fault("one graph for all configurations", CACHE, "leaves, graph.static[:-1],", "leaves,"),
    Fault("one graph for all kernels", CACHE, "graph.static[:-1], kernels,", "graph.static[:-1],"),
    Fault(
        "one graph for all inputs",
        CACHE,
        "kernels, signature(inputs)",
        "kernels",
        "test_the_file_depends",
    ),
    Fault(
        "one graph for all dtypes",
        CACHE,
        "(path, x.shape, str(x.dtype))",
        "(path, x.shape)",
        "test_the_file_depends",
    ),
    Fault(
        "one graph for all of MindSpore's versions",
        CACHE,
        "repr((ms.__version__, *parts))",
        "repr(parts)",
        "test_the_file_depends",
    ),
    Fault(
        "sources are told apart by their names",
        CACHE,
        '\\0".encode() + file.read_bytes() + b"\\0")',
        '\\0".encode() + b"\\0")',
        "test_the_sources",
    ),
    Fault(
        "replaced code is not noticed",
        CACHE,
        '(value, getattr(value, "__code__", None))',
        "(value, None)",
        "not_those_that_were_imported",
    ),
    Fault(
        "an edited source is not noticed",
        CACHE,
        "if sources() != SOURCES or replaced():",
        "if replaced():",
        "not_those_that_were_imported",
    ),
    Fault(
        "new names are not noticed",
        CACHE,
        "return now.keys() != LIVE.keys() or any(",
        "return any(",
        "not_those_that_were_imported",
    ),
    Fault("foreign kernels are ours", CACHE, "return module.split", "return True or module.split"),
    Fault("a cache on Ascend", CACHE, 'or K.device() != "CPU"', "", "where_it_is_untried"),
    Fault(
        "a damaged graph is taken",
        CACHE,
        "return graph if hashlib.sha256(graph).digest() == content[:DIGEST] else None",
        "return graph",
        "damaged",
    ),
    Fault("a loaded graph is not in use", CACHE, "os.utime(file)", "file.stat()", "longest_time"),
    Fault("what was used last goes first", CACHE, ", reverse=True)", ")", "longest_time"),
    Fault(
        "what reaches the limit goes",
        CACHE,
        "if total > limit:",
        "if total > limit - 6:",
        "longest_time",
    ),
    Fault("a failed compilation counts", CACHE, "self.first + done", "self.first + 1", "fails"),
    Fault(
        "a failed compilation never counts",
        CACHE,
        "self.first + done, self.last + 1",
        "self.first + done, self.last + done",
    ),
    Fault("the number does not move on", CACHE, '.rpartition("_")[2]) + 1', '.rpartition("_")[2])'),
    Fault(
        "what was compiled is not offered",
        CACHE,
        "self.last + 1) if known else ()",
        "self.last) if known else ()",
    ),
    Fault("MindSpore's cache stays in use", CACHE, "del os.environ[name]", "pass", "fails"),
    Fault("a program without a file fails", CACHE, 'str(place / "entry.py")', "entry", "process"),
    Fault("MindSpore's warnings are shown", CACHE, "if not WARNING.search(line)", "", "process"),
)
