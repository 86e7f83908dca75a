"""A memory of what was last computed from a few arrays."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

__all__ = ["Memory", "same_array"]


class Memory:
    """What was last computed from a few arrays, found again by the arrays' values.

    An array that was changed in place is another key, so a caller never gets a stale answer.
    Each thread has a memory of its own; copies and pickles start empty. Only NumPy arrays are
    remembered: arrays of other namespaces may belong to a graph of derivatives, which depends on
    more than their values.

    Parameters
    ----------
    size : int
        How many values to keep. Two serve a solver that compares a point with the next one.
    """

    def __init__(self, size: int = 2) -> None:
        self._size = size
        self._local = threading.local()

    def find(self, key: Any) -> Any:
        """The remembered value at an array, or at a tuple of arrays, or None."""
        arrays = key if isinstance(key, tuple) else (key,)
        for known, value in getattr(self._local, "entries", ()):
            if len(known) == len(arrays) and all(map(same_array, known, arrays)):
                return value
        return None

    def put(self, key: Any, value: Any) -> None:
        """Remember the value at an array or a tuple of arrays, and forget the oldest one."""
        arrays = key if isinstance(key, tuple) else (key,)
        if {*map(type, arrays)} == {np.ndarray}:
            kept = getattr(self._local, "entries", ())[: self._size - 1]
            self._local.entries = (([array.copy() for array in arrays], value), *kept)

    def __reduce__(self) -> tuple[type[Memory], tuple[int]]:
        return Memory, (self._size,)


def same_array(known: Any, array: Any) -> bool:
    """Whether two arrays are NumPy's, of one shape and dtype, and have the same values."""
    if not type(known) is type(array) is np.ndarray:
        return False
    if array.shape != known.shape or array.dtype != known.dtype:
        return False
    # The first entry alone tells most arrays apart.
    if array.size and array.item(0) != known.item(0):
        return False
    return np.count_nonzero(array == known) == array.size
