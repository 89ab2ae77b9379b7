"""python -m benchmarks.ablation"""

import sys

from .cli import main

sys.exit(main())
