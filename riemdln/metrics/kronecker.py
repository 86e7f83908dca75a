"""The metric of two fixed preconditioners, one for the rows and one for the columns."""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike

from riemdln._arrays import Array, device, finite_matrix, limits, matrix_shape, namespace
from riemdln.metrics._constant_at import ConstantAt, straight_line
from riemdln.metrics.metric import Metric, checked_point, require_no_derivatives, require_no_rank

__all__ = ["KroneckerMetric"]


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

    is_pure = True

    def __init__(self, left: ArrayLike, right: ArrayLike) -> None:
        self._left = _eigendecomposition("left", left)
        self._right = _eigendecomposition("right", right)

    def __repr__(self) -> str:
        m, n = len(self._left[0]), len(self._right[0])
        return f"KroneckerMetric(<{m} x {m} matrix>, <{n} x {n} matrix>)"

    def require_shape(self, m: int, n: int) -> None:
        """Raise a ValueError unless the factors are m x m and n x n."""
        expected = (len(self._left[0]), len(self._right[0]))
        if (m, n) != expected:
            raise ValueError(
                f"this metric exists on {expected[0]} x {expected[1]} matrices only, got {m} x {n}"
            )

    def at(self, W: Array, *, rank: int | None = None) -> KroneckerAt:
        """The metric, which is the same at every point."""
        require_no_rank(rank, self)
        require_no_derivatives(W)
        W = checked_point("W", W)
        self.require_shape(*matrix_shape("W", W))
        return KroneckerAt(W, self._left, self._right)

    def sharp(self, W: Array, P: Array) -> Array:
        """The cometric A(P) = L P R, the same at every point."""
        return self._ask("sharp", W, P)

    def known_geodesic(
        self, W_a: Array, W_b: Array, times: Array
    ) -> tuple[Array, Array, float] | None:
        """A straight line."""
        return straight_line(self, W_a, W_b, times)


class KroneckerAt(ConstantAt):
    """The cometric L P R, by the eigenvalues l_i of L and r_j of R.

    Parameters
    ----------
    W : array (..., m, n)
        The point.
    left, right : (eigenvalues, eigenvectors)
        The decompositions of L and R.
    """

    def __init__(self, W: Array, left: Any, right: Any) -> None:
        super().__init__(W)
        xp = namespace(W)
        (l, self._U), (r, self._V) = (
            [xp.asarray(part, dtype=W.dtype, device=device(W)) for part in pair]
            for pair in (left, right)
        )
        self._left, self._right = l[:, None], r

    def sharp(self, P: Array) -> Array:
        return self._scaled(self._vector("P", P), 1.0)

    def flat(self, Z: Array) -> Array:
        """The inverse of `sharp`, L^{-1} Z R^{-1}."""
        return self._scaled(self._vector("Z", Z), -1.0)

    def root(self, Z: Array) -> Array:
        return self._scaled(self._vector("Z", Z), 0.5)

    def inverse_root(self, Z: Array) -> Array:
        return self._scaled(self._vector("Z", Z), -0.5)

    def log_volume(self) -> Array:
        xp, (m, n) = namespace(self._W), self._W.shape[-2:]
        logarithm = n * xp.sum(xp.log(self._left)) + m * xp.sum(xp.log(self._right))
        return 0.0 * self._W[..., 0, 0] - logarithm / 2

    def _scaled(self, Z: Array, power: float) -> Array:
        """L^power Z R^power, in this order so that no product of l_i and r_j overflows."""
        inner = self._left**power * (self._U.mT @ Z @ self._V) * self._right**power
        return self._U @ inner @ self._V.mT


def _eigendecomposition(name: str, value: ArrayLike) -> tuple[Array, Array]:
    """The eigenvalues and eigenvectors of a symmetric positive definite matrix."""
    matrix = finite_matrix(name, value)
    xp, (eps, tiny, _) = namespace(matrix), limits(matrix)
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{name} must be square, got shape {tuple(matrix.shape)}")
    size = max(float(xp.max(xp.abs(matrix))), tiny)
    asymmetry = float(xp.max(xp.abs(matrix - matrix.mT))) / size
    if asymmetry > eps**0.5:
        raise ValueError(f"{name} must be symmetric, but its relative asymmetry is {asymmetry:.1e}")
    values, vectors = xp.linalg.eigh(matrix / 2 + matrix.mT / 2)
    if not float(values[0]) > eps * float(values[-1]):
        raise ValueError(
            f"{name} must be positive definite to rounding error, but its eigenvalues range from "
            f"{float(values[0]):.1e} to {float(values[-1]):.1e}"
        )
    return values, vectors
