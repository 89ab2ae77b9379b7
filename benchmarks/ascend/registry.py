"""The primitives for which MindSpore's wheel has an aclnn kernel in graph mode.

    python -m benchmarks.ascend.registry        # what the installed wheel gained and lost

Every wheel for x86-64 holds the Ascend plugin. Its classes are called Aclnn<Name>KernelMod or
<Name>Ascend; their names stand in the binary. Views are <Name>View in another library.
"""

import re
import sys
from pathlib import Path

import mindspore as ms

LIBRARIES = Path(ms.__file__).parent / "lib"
PLUGIN = LIBRARIES / "plugin" / "libmindspore_ops_ascend.so"
HOST = LIBRARIES / "libmindspore_ops_host.so"
SNAPSHOT = Path(__file__).parent / "aclnn_2.8.txt"
PATTERNS = (
    rb"\d+Aclnn([A-Z][A-Za-z0-9]+?)KernelMod",
    rb"N9mindspore6kernel[0-9a-z_]*?\d+([A-Z][A-Za-z0-9]*?)Ascend[EDC]",
)

# primitives that need no aclnn kernel, and why
NO_KERNEL = {
    "Constant": "no kernel: a value in the graph",
    "Return": "no kernel: the end of a graph",
    "MakeTuple": "no kernel: a tuple of results",
    "TupleGetItem": "no kernel: one of the results",
    "Depend": "no kernel: an order",
    "UpdateState": "no kernel: an order",
    "Load": "no kernel: reads a weight",
}
VIEWS = ("Reshape", "StridedSlice", "ExpandDims", "BroadcastTo")
ACLOP = ("Conv2D", "BiasAdd", "LayerNorm", "ResizeNearestNeighborV2", "Gather")
EXCUSED = {
    **NO_KERNEL,
    **{name: "a view: MindSpore makes it on the host" for name in VIEWS},
    **{name: "aclop: an older kernel, compiled for each shape" for name in ACLOP},
}


def registered(plugin=PLUGIN):
    """The names of all primitives with an aclnn kernel in the wheel's plugin; None without one."""
    if not Path(plugin).exists():
        return None
    data = Path(plugin).read_bytes()
    return {name.decode() for pattern in PATTERNS for name in re.findall(pattern, data)}


def views(library=HOST):
    """The names of all primitives that MindSpore makes a view of; None without the library."""
    if not Path(library).exists():
        return None
    found = re.findall(rb"N9mindspore6kernel\d+([A-Z][A-Za-z0-9]*?)ViewE", library.read_bytes())
    return {name.decode() for name in found}


def snapshot():
    """The names that MindSpore 2.8's wheel has."""
    return set(SNAPSHOT.read_text(encoding="utf-8").split())


def changes(names):
    """(dropped, gained) since the snapshot, sorted."""
    return sorted(snapshot() - names), sorted(names - snapshot())


def without_kernel(primitives, names):
    """Those primitives that have no aclnn kernel and need one, sorted."""
    return sorted(set(primitives) - names - set(NO_KERNEL) - set(VIEWS))


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
