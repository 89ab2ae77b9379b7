"""A whole edit by the command line: seconds, processor time and peak memory.

python -m benchmarks.edit IMAGE --source TEXT --target TEXT [any option of `diffedit edit`]
"""

import sys
import time

from diffedit_core import cli

from .timing import peak_memory


def main():
    """Run `diffedit edit` with the arguments as they are, and print what it took."""
    wall, processor = time.perf_counter(), time.process_time()
    code = cli.main(["edit", *sys.argv[1:]])
    print(
        f"{time.perf_counter() - wall:.1f} s, "
        f"processor time {time.process_time() - processor:.1f} s, "
        f"peak memory {peak_memory():.2f} GiB"
    )
    return code


if __name__ == "__main__":
    sys.exit(main())
