"""A memory of what was last computed from a few arrays."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np


class Recent:
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

    def find(self, array: Any) -> Any:
        """The remembered value at the array, or None."""
        if isinstance(array, np.ndarray):
            for key, value in self._entries():
                if key.dtype == array.dtype and np.array_equal(key, array):
                    return value
        return None

    def put(self, array: Any, value: Any) -> None:
        """Remember the value at the array, and forget the oldest one."""
        if isinstance(array, np.ndarray):
            entries = ((array.copy(), value), *self._entries())
            self._local.entries = entries[: self._size]

    def _entries(self) -> tuple[tuple[np.ndarray, Any], ...]:
        return getattr(self._local, "entries", ())

    def __reduce__(self) -> tuple[type[Recent], tuple[int]]:
        return Recent, (self._size,)
