"""A memory of what was last computed from a few arrays."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np


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
        arrays = _arrays(key)
        if arrays is not None:
            for known, value in self._entries():
                if len(known) == len(arrays) and all(map(_same, known, arrays)):
                    return value
        return None

    def put(self, key: Any, value: Any) -> None:
        """Remember the value at an array or a tuple of arrays, and forget the oldest one."""
        arrays = _arrays(key)
        if arrays is not None:
            entries = ((tuple(array.copy() for array in arrays), value), *self._entries())
            self._local.entries = entries[: self._size]

    def _entries(self) -> tuple[tuple[tuple[np.ndarray, ...], Any], ...]:
        return getattr(self._local, "entries", ())

    def __reduce__(self) -> tuple[type[Memory], tuple[int]]:
        return Memory, (self._size,)


def _arrays(key: Any) -> tuple[np.ndarray, ...] | None:
    arrays = key if isinstance(key, tuple) else (key,)
    return arrays if all(isinstance(array, np.ndarray) for array in arrays) else None


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and np.array_equal(a, b)
