"""The metric of two fixed preconditioners, one for the rows and one for the columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve

from riemdln._arrays import finite_matrix
from riemdln.metrics.metric import Metric, checked

__all__ = ["KroneckerMetric"]

Matrix = NDArray[np.floating[Any]]


class KroneckerMetric(Metric):
    r"""The constant metric with the cometric A(P) = L P R.

    Whitening of the data and the natural gradient of linear regression are of this kind: with L
    the covariance of the noise and R the inverse covariance of the inputs, the Riemannian gradient
    of a least squares problem is its natural gradient, and one step of size 1 solves it.

    Parameters
    ----------
    left : array_like (m, m)
        L, positive definite and symmetric to half the digits of its dtype, as computed inverses
        are; its symmetric part is taken.
    right : array_like (n, n)
        R, likewise.

    Raises
    ------
    TypeError, ValueError
        If a factor is not a symmetric positive definite matrix.

    References
    ----------
    - S. Amari. Natural gradient works efficiently in learning. Neural Computation 10, 1998.

    Examples
    --------
    >>> import numpy as np
    >>> import riemdln
    >>> metric = riemdln.KroneckerMetric(np.diag([1.0, 2.0]), np.eye(2))
    >>> metric.sharp(np.zeros((2, 2)), np.ones((2, 2)))
    array([[1., 1.],
           [2., 2.]])
    """

    is_constant = True

    def __init__(self, left: ArrayLike, right: ArrayLike) -> None:
        self._left, left_factor = _positive_definite("left", left)
        self._right, right_factor = _positive_definite("right", right)
        self._factors = left_factor, right_factor

    def __repr__(self) -> str:
        m, n = len(self._left), len(self._right)
        return f"KroneckerMetric(<{m} x {m} matrix>, <{n} x {n} matrix>)"

    def require_shape(self, m: int, n: int) -> None:
        """Raise a ValueError unless the factors are m x m and n x n."""
        expected = (len(self._left), len(self._right))
        if (m, n) != expected:
            raise ValueError(
                f"this metric exists on {expected[0]} x {expected[1]} matrices only, got {m} x {n}"
            )

    def sharp(self, W: Matrix, P: Matrix) -> Matrix:
        """The cometric A(P) = L P R, the same at every point."""
        _, P = self._checked(W, P=P)
        return self._left @ P @ self._right

    def flat(self, W: Matrix, Z: Matrix) -> Matrix:
        """The inverse of `sharp`, L^{-1} Z R^{-1}, by Cholesky factors."""
        _, Z = self._checked(W, Z=Z)
        left, right = self._factors
        return cho_solve(right, cho_solve(left, Z).T).T

    def sharp_derivative(self, W: Matrix, X: Matrix, p: Matrix) -> Matrix:
        """Zero: the metric is constant."""
        return np.zeros_like(self._checked(W, X=X, p=p)[0])

    def sharp_derivative_adjoint(self, W: Matrix, p: Matrix, q: Matrix) -> Matrix:
        """Zero: the metric is constant."""
        return np.zeros_like(self._checked(W, p=p, q=q)[0])

    def _checked(self, W: Matrix, **vectors: Matrix) -> tuple[Matrix, ...]:
        W, *arrays = checked(W, **vectors)
        self.require_shape(*W.shape)
        return W, *arrays


def _positive_definite(name: str, value: ArrayLike) -> tuple[Matrix, tuple[Matrix, bool]]:
    """A symmetric positive definite matrix, and its Cholesky factor."""
    matrix = finite_matrix(name, value)
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{name} must be square, got shape {matrix.shape}")
    asymmetry = np.abs(matrix - matrix.T).max() / max(np.abs(matrix).max(), np.finfo(float).tiny)
    if asymmetry > np.finfo(matrix.dtype).eps ** 0.5:
        raise ValueError(f"{name} must be symmetric, but its relative asymmetry is {asymmetry:.1e}")
    matrix = matrix / 2 + matrix.T / 2
    try:
        return matrix, cho_factor(matrix)
    except (np.linalg.LinAlgError, ValueError) as error:
        least, largest = np.linalg.eigvalsh(matrix)[[0, -1]]
        raise ValueError(
            f"{name} must be positive definite to rounding error, but its eigenvalues range from "
            f"{least:.1e} to {largest:.1e}"
        ) from error
