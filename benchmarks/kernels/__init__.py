"""Every kernel that a model calls: is it right, how long does it take, what bounds it.

    python -m benchmarks.kernels [--suite unet,vae,text,anchors] [--model sd21-base] [--only OP] ...
    python -m benchmarks.kernels compare OLD.jsonl NEW.jsonl

| file | what it holds |
|---|---|
| `cli.py`, `arguments.py`, `listing.py` | the command line; what would be measured, as text |
| `models.py` | the models by name, and every distinct call of one evaluation with its count |
| `glue.py` | the operations between the kernels: additions, concatenations, casts |
| `flops.py` | operations and bytes of a call, by formula |
| `oracle.py` | each operation in numpy and float64 |
| `tolerance.py` | how far a result may be from the oracle |
| `cases.py` | a call as a compiled graph whose inputs are on the device; the whole model likewise |
| `timers.py` | the timers wall, event and device |
| `profiler_csv.py` | the profiler's kernel_details.csv |
| `measure.py` | a call checked, then timed |
| `suite.py` | runs a suite, row by row |
| `books.py` | the sum of the calls against the whole evaluation |
| `peaks.py` | published and measured peaks, and what bounds a call |
| `machine.py` | what is measured on: device, versions, without names of hosts or paths |
| `records.py` | records as JSON lines and CSV, resumable |
| `evaluation.py` | records of the benchmarks that time whole evaluations |
| `compare.py` | two files of records against each other |
| `page.py`, `roofline.py` | a page of the results, with `page.css`, `page.js`, `../plots.py` |
| `bundle.py` | what to send back |
"""
