"""The largest eigenvalue of a symmetric map that is given by what it makes of vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh

__all__ = ["largest_eigenvalue"]

Vector = NDArray[np.floating[Any]]

# Up to this dimension the matrix is formed.
_DENSE = 200


def largest_eigenvalue(
    apply: Callable[[Vector], Vector], dimension: int, shift: float = 0.0
) -> float:
    """The largest eigenvalue of a symmetric map of vectors.

    Parameters
    ----------
    apply : callable
        The map of vectors of float64.
    dimension : int
        Their size.
    shift : float
        Is added to the eigenvalues and subtracted again. With one of the size of what the map was
        computed from, the eigenvalues of a map that is but rounding errors are found too.

    Raises
    ------
    RuntimeError
        If the search for the eigenvalue does not end.
    """
    if dimension <= _DENSE:
        return float(np.linalg.eigvalsh([apply(e) for e in np.eye(dimension)])[-1])

    def shifted(x: Vector) -> Vector:
        return apply(x) + shift * x

    start = np.random.default_rng(0).standard_normal(dimension)
    if not shifted(start).any():
        return -shift  # only the zero map takes a random vector to zero, and eigsh refuses it
    operator = LinearOperator((dimension, dimension), matvec=shifted, dtype=float)
    # More vectors than eigsh takes by itself, as eigenvalues may lie close together.
    (value,) = eigsh(
        operator,
        k=1,
        which="LA",
        v0=start,
        ncv=min(60, dimension - 1),
        tol=1e-12,
        return_eigenvectors=False,
    )
    return float(value - shift)
