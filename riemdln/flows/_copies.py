"""Explicit integrators of SciPy for many copies of an equation, each with its own accuracy.

An integrator holds the root of the mean square of its error below one, in units of the tolerances.
That mean over all entries hides what a single copy errs by. Here the error of a step is the largest
one of any copy, so that equal copies take the steps that one takes alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import DOP853, RK23, RK45

__all__ = ["OF_COPIES", "largest_rms"]

Vector = NDArray[np.floating[Any]]


def _mean_squares(vector: Vector, copies: int) -> Vector:
    """The mean squares (K,) of the parts that K copies have of a vector."""
    return np.mean(vector.reshape(copies, -1) ** 2, axis=1)


def largest_rms(vector: Vector, copies: int) -> Any:
    """The largest root mean square of the parts that the copies have of a vector."""
    return np.sqrt(_mean_squares(vector, copies).max())


class _OfCopies:
    """What an integrator of copies knows beside its equation: how many they are."""

    def __init__(self, *args: Any, copies: int, **options: Any) -> None:
        self._copies = copies
        super().__init__(*args, **options)


class _RungeKutta(_OfCopies):
    """The error of the pairs of formulas of RK23 and RK45."""

    E: Vector

    def _estimate_error_norm(self, K: Vector, h: float, scale: Vector) -> Any:
        return largest_rms(h * (self.E @ K) / scale, self._copies)


class _Dop853(_OfCopies):
    """The error of DOP853 from its formulas of orders 5 and 3 (Hairer and others 1993, II.10)."""

    E3: Vector
    E5: Vector

    def _estimate_error_norm(self, K: Vector, h: float, scale: Vector) -> Any:
        fifth, third = (_mean_squares(E @ K / scale, self._copies) for E in (self.E5, self.E3))
        total = fifth + 0.01 * third
        return np.max(abs(h) * fifth / np.sqrt(np.where(total > 0, total, 1.0)))


# The same integrators, of copies. The norm is no part of SciPy's interface: without it, none.
OF_COPIES: dict[Any, Any] = {
    method: type(method.__name__, (norm, method), {})
    for method, norm in ((RK23, _RungeKutta), (RK45, _RungeKutta), (DOP853, _Dop853))
    if hasattr(method, "_estimate_error_norm")
}
