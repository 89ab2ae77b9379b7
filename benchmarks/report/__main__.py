"""python -m benchmarks.report"""

import sys

from .cli import main

sys.exit(main())
