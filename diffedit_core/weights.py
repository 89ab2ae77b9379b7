"""Weights that can be given back to the system and read again, beneath graphs that stay
compiled."""

import contextlib
import ctypes
import mmap
import sys

import mindspore as ms
import numpy as np

from . import kernels as K
from . import params as P

LINE = 64  # every leaf begins at a cache line


class Weights:
    """The parameters of one component and the files that they come from.

    On a CPU the leaves lie in one piece of memory: `release` gives it back, `fill` reads the files
    into the same addresses, so that a compiled graph serves before and after. On another device the
    leaves are MindSpore's own and stay.

    Attributes:
        params: the tree with `mindspore.Parameter` leaves, of undefined values until `fill`.
        filled: whether the values are there.
    Law: after any sequence of `release` and `fill` that ends with `fill` the leaves have the bits
        of `params.load`.
    """

    def __init__(self, files, specs, dtype):
        self.files, self.specs, self.dtype = files, specs, dtype
        self.filled, self.memory, self.arrays = False, None, {}
        if releasable():
            self._lay_out()
        else:
            self.params, self.filled = P.load(files, specs, dtype), True

    def _lay_out(self):
        """Leaves of the right shapes in memory that no value has touched yet, which costs none."""
        wanted, dtype = P.flatten(self.specs), np.dtype(P.NUMPY_DTYPES[self.dtype])
        starts, end = {}, 0
        for path, leaf in wanted.items():
            starts[path] = end
            end += -(-int(np.prod(leaf.shape)) * dtype.itemsize // LINE) * LINE
        self.memory = mmap.mmap(-1, max(end, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        large_pages(self.memory)
        for path, leaf in wanted.items():
            count = int(np.prod(leaf.shape))
            flat = np.frombuffer(self.memory, dtype, count, starts[path])
            self.arrays[path] = flat.reshape(leaf.shape)
        self.params = P.tree_map(lambda path, _: shared(path, self.arrays[path]), self.specs)

    def fill(self):
        """Read the values, where they are not there.

        Raises InputError like `params.load`.
        """
        if not self.filled:
            for path, array in P.read(self.files, self.specs, self.dtype):
                np.copyto(self.arrays[path], array, casting="same_kind")
            self.filled = True

    def release(self):
        """Give the memory of the values back, where that can be done."""
        if self.filled and self.memory is not None:
            self.memory.madvise(mmap.MADV_DONTNEED)
            self.filled = False


def shared(path, array):
    """A `mindspore.Parameter` that looks at this array: `Parameter` copies what it is made of, here
    one number; `set_data` does not (MindSpore 2.8; tests/test_weights.py)."""
    leaf = ms.Parameter(ms.Tensor.from_numpy(np.zeros(1, array.dtype)), name=path)
    leaf.set_data(ms.Tensor.from_numpy(array), slice_shape=True)
    return leaf


def large_pages(memory):
    """Ask for pages of 2 MiB, where the system has them: it then hands out fewer."""
    with contextlib.suppress(AttributeError, OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)


def releasable():
    """Whether weights can be given back: the device is a CPU, whose system takes single pages."""
    return K.device() == "CPU" and hasattr(mmap, "MADV_DONTNEED")


def trim():
    """Give back what the C library keeps of freed memory (glibc; elsewhere nothing happens)."""
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)(0)
