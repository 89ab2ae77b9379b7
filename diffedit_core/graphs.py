"""The one small Cell that binds a parameter tree and a pure function to a compiled graph."""

import mindspore as ms
from mindspore import nn

from . import params as P


class Graph(nn.Cell):
    """`Graph(function, params, *static)(*inputs)` runs `function(params, *inputs, *static)` as one
    graph per input shape.

    The leaves are held both as a ParameterTuple, so that the compiler takes them for weights, and
    in the tree that the function reads. MindSpore is put into graph mode for it. The obvious
    alternatives are silently wrong (MindSpore 2.8): `jit` on a closure over the tree, or on this
    `construct` in PyNative mode, bakes the weights in as constants, so that a changed weight
    changes nothing. `tests/test_graphs.py` checks this binding.

    Args:
        function: pure function of (params, *inputs, *static), written in what graph mode can
            compile.
        params: tree with `mindspore.Parameter` leaves.
        static: hashable values that the graph is specialised to (a config, the name of the
            kernels).
    """

    def __init__(self, function, params, *static):
        super().__init__(auto_prefix=False)
        ms.set_context(mode=ms.GRAPH_MODE)
        self.leaves = ms.ParameterTuple(list(P.flatten(params).values()))
        self.params = params
        self.function = function
        self.static = static
        self.shapes = set()

    def construct(self, *inputs):
        return self.function(self.params, *inputs, *self.static)

    def compiled_for(self, *inputs):
        """Whether these inputs run at once, without compiling first; remembers them as seen."""
        key = tuple((tuple(x.shape), str(x.dtype)) for x in inputs)
        known = key in self.shapes
        self.shapes.add(key)
        return known
