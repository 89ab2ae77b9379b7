"""A page of experiments: what was asked, what the paper says, and what was measured.

    python -m benchmarks.report RESULTS... --out page.html [--svg FOLDER]

| file | what it holds |
|---|---|
| `cli.py` | the command line |
| `reading.py` | folders and files of results, checked, as one `Summary` for each experiment |
| `claims.py` | the paper's sentences, and the comparisons that test them |
| `verdicts.py` | from a comparison's interval to a verdict |
| `drawing.py` | which plot an experiment gets, in `../plots.py`'s terms |
| `sheets.py` | scenes drawn again from their seeds: the best, the middle, the worst |
| `page.py` | the page, with `page.css` and `page.js` |

No MindSpore.
"""
