"""Retractions: how a step X leaves a matrix W.

A retraction is a function ``retraction(W, X)`` of two m x n matrices. What is listed here by name
makes one for a metric.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import polar

from riemdln._arrays import finite, finite_matrix, point_of_shape
from riemdln.geodesics import exponential
from riemdln.metrics import Metric

__all__ = [
    "RETRACTIONS",
    "Retraction",
    "linear_retraction",
    "polar_retraction",
    "root_retraction",
    "second_order_retraction",
]

Matrix = NDArray[np.floating[Any]]
Retraction = Callable[[Matrix, Matrix], Matrix]


def linear_retraction(W: Matrix, X: Matrix) -> Matrix:
    """The step W + X.

    Parameters
    ----------
    W, X : array (m, n)
        The point and the tangent vector.

    Returns
    -------
    array (m, n)
    """
    return W + X


def second_order_retraction(metric: Metric, W: Matrix, X: Matrix) -> Matrix:
    r"""The step W + X - Gamma_W(X, X) / 2, which follows the geodesic to second order.

    Parameters
    ----------
    metric : Metric
        The metric.
    W, X : array (m, n)
        The point and the tangent vector.

    Returns
    -------
    array (m, n)

    Examples
    --------
    >>> import numpy as np
    >>> from riemdln import DeepLinearMetric
    >>> from riemdln.retractions import second_order_retraction
    >>> one = np.ones((1, 1))  # the geodesic at depth 2 is (1 + t / 2)^2 w
    >>> second_order_retraction(DeepLinearMetric(2), one, one)
    array([[2.25]])
    """
    W = finite_matrix("W", W)
    X = finite_matrix("X", point_of_shape("X", X, W.shape))
    return W + X - metric.christoffel(W, X, X) / 2


def polar_retraction(W: Matrix, X: Matrix) -> Matrix:
    """A step that moves the factors of W = Q R^2, and so keeps the sign of a determinant.

    Q has orthonormal columns and R is symmetric and positive definite (of a wide W, those of the
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
    moved, _ = polar(U + U @ turn + leaving)
    return moved @ root @ root @ Vt


def root_retraction(W: Matrix, X: Matrix) -> Matrix:
    """A step that moves the square root of a positive definite matrix, and so stays among these.

    Of W = R^2 it leads to (R + dR)^2 with R dR + dR R = X. This is the polar retraction where its
    Q is I; no rounding error of a long step turns that Q. Within the kernel of a W on the boundary,
    where no dR does this, nothing moves.

    Parameters
    ----------
    W, X : array (n, n)
        The point, symmetric and positive definite, and the tangent vector, symmetric.

    Returns
    -------
    array (n, n)

    Examples
    --------
    >>> import numpy as np
    >>> from riemdln.retractions import root_retraction
    >>> root_retraction(np.diag([4.0, 1.0]), np.diag([4.0, -4.0]))  # (2 + 4 / 4)^2, (1 - 4 / 2)^2
    array([[9., 0.],
           [0., 1.]])
    """
    values, vectors = np.linalg.eigh(finite("W", W))
    root = np.sqrt(np.abs(values))  # near the boundary rounding errors may be negative
    sums = root[:, None] + root
    change = vectors.T @ finite("X", X) @ vectors / np.where(sums > 0, sums, np.inf)
    moved = vectors @ (np.diag(root) + change)
    return moved @ moved.T


def _network(metric: Any) -> Retraction:
    if not float(getattr(metric, "depth", np.nan)).is_integer():
        raise ValueError(
            f"retraction 'network' needs a metric of whole depth, whose layers take the step, got "
            f"{metric!r}"
        )
    return metric.network_retraction


# From a name to what makes the retraction of a metric.
RETRACTIONS: dict[str, Callable[[Metric], Retraction]] = {
    "linear": lambda metric: linear_retraction,
    "second_order": lambda metric: partial(second_order_retraction, metric),
    "geodesic": lambda metric: partial(exponential, metric),
    "polar": lambda metric: polar_retraction,
    "network": _network,
}
