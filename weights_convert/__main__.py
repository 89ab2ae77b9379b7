"""`python -m weights_convert` is `weights_convert`."""

import sys

from .cli import main

sys.exit(main())
