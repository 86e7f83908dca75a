"""What is known of a geodesic, and the error where there is none."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Geodesic", "GeodesicError", "LowerRankError"]

Matrix = NDArray[np.floating[Any]]


class GeodesicError(RuntimeError):
    """A geodesic runs into a matrix of lower rank, or none was found between two points."""


class LowerRankError(GeodesicError):
    """A geodesic runs into a matrix of lower rank.

    Parameters
    ----------
    time : float
        When it does.
    left, right : array (m,) and (n,)
        The singular vectors whose singular value goes to zero then.
    """

    def __init__(self, time: float, left: Matrix, right: Matrix) -> None:
        super().__init__(time, left, right)
        self.time, self.left, self.right = time, left, right

    def __str__(self) -> str:
        left, right = (
            np.array2string(vector, precision=4, suppress_small=True, threshold=10)
            for vector in (self.left, self.right)
        )
        return (
            f"the geodesic runs into a matrix of lower rank at time {self.time:.6g}, where the "
            f"singular value goes to zero that has the singular vectors {left} and {right}; a "
            "shorter time or tangent vector ends before it"
        )


class Geodesic(NamedTuple):
    """A geodesic at K times.

    Attributes
    ----------
    times : array (K,)
        The times: those asked for, or by default of a geodesic between two points the Chebyshev
        points of [0, 1], with 1/2 in the middle.
    points, velocities : array (K, m, n)
        The matrices W(t) and their derivatives W'(t).
    length : float
        The length from the first time to the last.
    """

    times: NDArray[np.floating[Any]]
    points: Matrix
    velocities: Matrix
    length: float
