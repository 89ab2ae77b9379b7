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
        static: values that the graph is specialised to, such as a config; of a model's function
            the last is its kernels, a name or a table.
    """

    def __init__(self, function, params, *static):
        super().__init__(auto_prefix=False)
        ms.set_context(mode=ms.GRAPH_MODE)
        self.leaves = ms.ParameterTuple(list(P.flatten(params).values()))
        self.params = params
        self.function = function
        self.static = static

    def construct(self, *inputs):
        return self.function(self.params, *inputs, *self.static)

    def eagerly(self, kernels, *inputs):
        """The function operation by operation, with other kernels than the graph's (see
        `trace`)."""
        return self.function(self.params, *inputs, *self.static[:-1], kernels)


def signature(inputs):
    """What a graph is compiled for: the same for inputs that one compilation serves."""
    return tuple((tuple(x.shape), str(x.dtype)) for x in inputs)
