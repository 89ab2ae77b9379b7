"""`python -m diffedit_core` is `diffedit`."""

import sys

from .cli import main

sys.exit(main())
