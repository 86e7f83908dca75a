"""Retractions that know nothing of the metric."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from riemdln._arrays import finite

__all__ = ["linear_retraction", "polar_retraction"]

Matrix = NDArray[np.floating[Any]]


def linear_retraction(W: Matrix, X: Matrix) -> Matrix:
    """W + X.

    Parameters
    ----------
    W, X : array (m, n)
        The point and the tangent vector.

    Returns
    -------
    array (m, n)
    """
    return W + X


def polar_retraction(W: Matrix, X: Matrix) -> Matrix:
    """Where a step X leads that moves the factors of W = Q R^2, and so crosses no lower rank.

    Q has orthonormal columns and R is symmetric and positive definite (of a wide W, that of the
    transpose). Along X they move by dQ and dR; the step leads to the polar factor of Q + dQ times
    (R + dR)^2. A square matrix keeps the sign of its determinant, however long the step is; for
    some lengths the determinant is zero.

    Parameters
    ----------
    W, X : array (m, n)
        The point, of full rank, and the tangent vector.

    Returns
    -------
    array (m, n)

    Examples
    --------
    >>> import numpy as np
    >>> from riemdln.retractions import polar_retraction
    >>> polar_retraction(np.array([[1.0]]), np.array([[-4.0]]))  # (1 - 4 / 2)^2
    array([[1.]])
    """
    W, X = finite("W", W), finite("X", X)
    if W.shape[0] < W.shape[1]:
        return polar_retraction(W.T, X.T).T
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    if not s[-1] > 0:
        raise ValueError("the polar retraction needs a point of full rank")
    M = U.T @ X @ Vt.T
    # In the frame W = U S V^T: dQ = U turn V^T + (I - U U^T) X V S^{-1} V^T, dH = V stretch V^T.
    turn = (M - M.T) / (s[:, None] + s)
    stretch = M - turn * s
    root = np.diag(np.sqrt(s)) + stretch / (np.sqrt(s)[:, None] + np.sqrt(s))
    leaving = (X @ Vt.T - U @ M) / s
    left, _, right = np.linalg.svd(U + U @ turn + leaving, full_matrices=False)
    return left @ right @ root @ root @ Vt
