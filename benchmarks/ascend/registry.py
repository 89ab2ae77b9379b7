"""The primitives for which MindSpore's wheel has an aclnn kernel in graph mode.

    python -m benchmarks.ascend.registry        # what the installed wheel gained and lost

Every wheel for x86-64 holds the Ascend plugin. Its classes are called Aclnn<Name>KernelMod or
<Name>Ascend; their names stand in the binary.
"""

import re
import sys
from pathlib import Path

import mindspore as ms

PLUGIN = Path(ms.__file__).parent / "lib" / "plugin" / "libmindspore_ops_ascend.so"
SNAPSHOT = Path(__file__).parent / "aclnn_2.8.txt"
PATTERNS = (
    rb"\d+Aclnn([A-Z][A-Za-z0-9]+?)KernelMod",
    rb"N9mindspore6kernel[0-9a-z_]*?\d+([A-Z][A-Za-z0-9]*?)Ascend[EDC]",
)

# primitives that need no aclnn kernel, and why
EXCUSED = {
    "Constant": "no kernel: a value in the graph",
    "Return": "the end of a graph",
    "MakeTuple": "no kernel: a tuple of results",
    "TupleGetItem": "no kernel: one of the results",
    "Depend": "no kernel: an order",
    "UpdateState": "no kernel: an order",
    "Load": "no kernel: reads a weight",
    "Reshape": "a view: MindSpore has a kernel of its own for it",
    "StridedSlice": "the view StridedSlice is a kernel of CANN's older library (aclop)",
    "ExpandDims": "a view",
    "Shape": "computed on the host",
    "GetNext": "no kernel: input",
}


def registered(plugin=PLUGIN):
    """The names of all primitives with an aclnn kernel in the wheel's plugin; None without one."""
    if not Path(plugin).exists():
        return None
    data = Path(plugin).read_bytes()
    return {name.decode() for pattern in PATTERNS for name in re.findall(pattern, data)}


def snapshot():
    """The names that MindSpore 2.8's wheel has."""
    return set(SNAPSHOT.read_text(encoding="utf-8").split())


def changes(names):
    """(dropped, gained) since the snapshot, sorted."""
    return sorted(snapshot() - names), sorted(names - snapshot())


def without_kernel(primitives, names):
    """Those primitives that have neither an aclnn kernel nor an excuse, sorted."""
    return sorted(set(primitives) - names - set(EXCUSED))


def main():
    """Print what changed; exit code 1 if anything did."""
    names = registered()
    if names is None:
        print(f"this wheel of MindSpore {ms.__version__} has no Ascend plugin")
        return 1
    dropped, gained = changes(names)
    print(f"MindSpore {ms.__version__}: {len(names)} primitives with an aclnn kernel")
    print(f"dropped: {' '.join(dropped) or 'none'}\ngained:  {' '.join(gained) or 'none'}")
    return 1 if dropped or gained else 0


if __name__ == "__main__":
    sys.exit(main())
