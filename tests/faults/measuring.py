"""Faults in benchmarks/kernels: formulas, timers, records, books, comparison, page."""

from . import Fault

FORMULAS, TIMERS = "tests/test_measuring_formulas.py", "tests/test_measuring_timers.py"
RESULTS, COMMAND = "tests/test_measuring_results.py", "tests/test_measuring_command.py"
TESTS = {
    "benchmarks/kernels/flops": (FORMULAS,),
    "benchmarks/kernels/oracle": (FORMULAS,),
    "benchmarks/kernels/glue": (FORMULAS,),
    "benchmarks/kernels/timers": (TIMERS,),
    "benchmarks/kernels/profiler_csv": (TIMERS,),
    "benchmarks/kernels/records": (RESULTS,),
    "benchmarks/kernels/books": (RESULTS,),
    "benchmarks/kernels/compare": (RESULTS,),
    "benchmarks/kernels/peaks": (RESULTS,),
    "benchmarks/kernels/page": (RESULTS,),
    "benchmarks/kernels/measure": (COMMAND,),
}

FAULTS = (
    Fault(
        "a causal token sees all",
        "benchmarks/kernels/flops",
        "length * (length + 1) // 2 if causal else length * tokens",
        "length * tokens",
        "attention",
    ),
    Fault(
        "the bias is not added",
        "benchmarks/kernels/flops",
        "(len(shapes) == 2)",
        "1",
        "linear_layer",
    ),
    Fault(
        "a table is read whole",
        "benchmarks/kernels/flops",
        'call.name in ("gather", "embedding")',
        'call.name == "gather"',
        "bytes",
    ),
    Fault(
        "the oracle looks ahead",
        "benchmarks/kernels/oracle",
        "start + 1, scores.shape[1]",
        "1, scores.shape[1]",
        "in_parts",
    ),
    Fault(
        "additions are not seen",
        "benchmarks/kernels/glue",
        '("__add__", "__mul__", "__truediv__", "__getitem__", "astype")',
        '("__mul__", "__truediv__", "__getitem__", "astype")',
        "stable_diffusion",
    ),
    Fault(
        "the flush is timed",
        "benchmarks/kernels/timers",
        "flush() synchronise() start = clock()",
        "start = clock()\n            flush()\n            synchronise()",
        "flush",
    ),
    Fault(
        "no slope, one bracket",
        "benchmarks/kernels/timers",
        "(twice - once) / iters",
        "twice / (2 * iters)",
        "slope",
    ),
    Fault(
        "a flush counts as a kernel",
        "benchmarks/kernels/profiler_csv",
        "if k.type not in leave_out",
        "if k.type",
        "profilers_table",
    ),
    Fault(
        "steps may differ",
        "benchmarks/kernels/profiler_csv",
        "if any(kind != kinds[0] for kind in kinds):",
        "if False:",
        "may_be_wrong",
    ),
    Fault(
        "a row that is cut off counts",
        "benchmarks/kernels/profiler_csv",
        "if len(row) != len(header):",
        "if len(row) > len(header):",
        "cut_off",
    ),
    Fault(
        "a run goes on elsewhere",
        "benchmarks/kernels/records",
        "if row[name] != wanted[name]",
        "if name not in row",
        "as_it_began",
    ),
    Fault(
        "launches count in the books",
        "benchmarks/kernels/books",
        '(us - launch) * row["count"] launches',
        'us * row["count"]\n        launches',
        "books",
    ),
    Fault(
        "any ratio is a difference",
        "benchmarks/kernels/compare",
        "self.low > 1 or self.high < 1",
        "self.middle != 1",
        "noise",
    ),
    Fault(
        "other machines are compared",
        "benchmarks/kernels/compare",
        "if not across:",
        "if False:",
        "silently",
    ),
    Fault(
        "a launch bounds the device's time",
        "benchmarks/kernels/peaks",
        'None if record.get("device_us") else peak.get("launch_us")',
        'peak.get("launch_us")',
        "bounds",
    ),
    Fault(
        "the page believes what it is given",
        "benchmarks/kernels/page",
        "{escape(show(value))}",
        "{show(value)}",
        "escapes",
    ),
    Fault(
        "a wrong kernel is timed",
        "benchmarks/kernels/measure",
        "if not error <= bound:",
        "if error != error:",
        "wrong_kernel",
    ),
)
