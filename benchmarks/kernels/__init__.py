"""The microbenchmark of the kernels. Unfinished: it has no command line, page, bundle or tests yet.

| file | what it holds |
|---|---|
| `models.py` | the models by name, and every distinct call of one evaluation with its count |
| `glue.py` | the operations between the kernels: additions, concatenations, casts |
| `flops.py` | operations and bytes of a call, by formula |
| `oracle.py` | each operation in numpy and float64 |
| `tolerance.py` | how far a result may be from the oracle |
| `cases.py` | a call as a compiled graph whose inputs are on the device; the whole model likewise |
| `timers.py` | the timers wall, event and device |
| `profiler_csv.py` | the profiler's kernel_details.csv |
| `peaks.py` | published and measured peaks, and what bounds a call |
| `machine.py` | what is measured on: device, versions, without names of hosts or paths |
| `records.py` | records as JSON lines and CSV, resumable |
| `suite.py` | runs a suite: check, time, record, close the books |
| `compare.py` | two files of records against each other |
"""
