"""What is known of a geodesic, and the error where there is none."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Geodesic", "GeodesicError"]

Matrix = NDArray[np.floating[Any]]


class GeodesicError(RuntimeError):
    """A geodesic runs into a matrix of lower rank, or none was found between two points."""


class Geodesic(NamedTuple):
    """A geodesic at K times.

    Attributes
    ----------
    times : array (K,)
        The times; of a geodesic between two points the Chebyshev points of [0, 1], with 1/2 in
        the middle.
    points, velocities : array (K, m, n)
        The matrices W(t) and their derivatives W'(t).
    length : float
        The length from the first time to the last.
    """

    times: NDArray[np.floating[Any]]
    points: Matrix
    velocities: Matrix
    length: float
