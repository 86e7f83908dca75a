"""The manifold of symmetric positive definite matrices with any symmetric spectral metric."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from riemdln._arrays import OutsideError, Rng, limits
from riemdln._frame import Frame
from riemdln.manifolds.full_rank import FullRank
from riemdln.metrics import Metric, MetricAt, SpectralMetric
from riemdln.retractions import RETRACTIONS, Retraction, root_retraction
from riemdln.transports import Transport

__all__ = ["PositiveDefinite"]

Matrix = NDArray[np.floating]


class PositiveDefinite(FullRank):
    r"""The manifold of symmetric positive definite n x n matrices, with a spectral metric.

    Transposition keeps a spectral metric of a symmetric kernel, so the symmetric matrices that
    it leaves fixed are totally geodesic among those of full rank: gradients, Hessians, geodesics
    and distances are those of `FullRank`, of symmetric parts. ``DeepLinearMetric(2)`` is twice
    the Bures-Wasserstein metric here, and ``DeepLinearMetric(math.inf)`` is complete.

    Parameters
    ----------
    n : int
        The number of rows and columns.
    metric : SpectralMetric
        The metric, of a kernel with theta(s, t) = theta(t, s).
    retraction : str or callable
        How a step leaves W, as for `FullRank`. The default, "polar", moves the square root of W
        and squares it again, so that no step leads out of the manifold; others may.
    transport : str or callable
        How a tangent vector moves to another point, as for `FullRank`.
    logarithm : str
        What leads from one point to another: "geodesic" or "linear", as for `FullRank`.
    rng : numpy.random.Generator, int or None
        Source of the random points and tangent vectors, or a seed for one.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    References
    ----------
    - R. Bhatia, T. Jain, Y. Lim. On the Bures-Wasserstein distance between positive definite
      matrices. Expositiones Mathematicae 37, 2019.

    Examples
    --------
    >>> import numpy as np
    >>> import riemdln
    >>> manifold = riemdln.PositiveDefinite(2, riemdln.DeepLinearMetric(depth=2))
    >>> round(manifold.dist(np.diag([1.0, 4.0]), np.diag([4.0, 9.0])), 9)  # sqrt(2) |(1, 1)|
    2.0
    """

    _retractions = {**RETRACTIONS, "polar": lambda metric: root_retraction}  # noqa: RUF012

    def __init__(
        self,
        n: int,
        metric: SpectralMetric,
        *,
        retraction: str | Retraction = "polar",
        transport: str | Transport = "identity",
        logarithm: str = "geodesic",
        rng: Rng = None,
    ) -> None:
        super().__init__(
            n,
            n,
            metric,
            retraction=retraction,
            transport=transport,
            logarithm=logarithm,
            rng=rng,
        )
        kernel = getattr(metric, "kernel", None)
        if kernel is None or not kernel.is_symmetric:
            raise TypeError(
                "metric must be a SpectralMetric with a symmetric kernel, got "
                f"{metric!r}; of a function, FunctionKernel(function, symmetric=True) is one"
            )

    def _name_and_dimension(self, m: int, n: int, metric: Metric) -> tuple[str, int]:
        name = f"Manifold of positive definite {n}x{n} matrices with {metric!r}"
        return name, n * (n + 1) // 2

    def __repr__(self) -> str:
        return f"PositiveDefinite({self._shape[0]}, {self._metric!r})"

    def projection(self, point: ArrayLike, vector: Matrix) -> Matrix:
        """The symmetric part of a matrix."""
        return _symmetric(vector)

    to_tangent_space = projection

    def random_point(self, rng: Rng = None) -> Matrix:
        """A matrix with random eigenvectors, its eigenvalues exponentials of Gaussians.

        Parameters
        ----------
        rng : numpy.random.Generator, int or None
            The source of randomness, or a seed for one; None for that of the manifold.
        """
        n, rng = self._shape[0], self._random(rng)
        Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
        return _symmetric(Q * np.exp(rng.standard_normal(n)) @ Q.T)

    def random_tangent_vector(self, point: ArrayLike) -> Matrix:
        """A random symmetric matrix of norm one, its direction uniform in the metric."""
        vector = _symmetric(self.at(point).random_tangent(self._rng))
        return vector / float(self.norm(point, vector))

    def exp(self, point: ArrayLike, tangent_vector: ArrayLike) -> Matrix:
        """The point that the geodesic with this velocity reaches."""
        return _symmetric(super().exp(point, tangent_vector))

    def euclidean_to_riemannian_gradient(
        self, point: ArrayLike, euclidean_gradient: ArrayLike
    ) -> Matrix:
        """The Riemannian gradient: the sharp of the symmetric part of the Euclidean gradient."""
        P = super()._checked("euclidean_gradient", euclidean_gradient)
        return _symmetric(super().euclidean_to_riemannian_gradient(point, _symmetric(P)))

    def euclidean_to_riemannian_hessian(
        self,
        point: ArrayLike,
        euclidean_gradient: ArrayLike,
        euclidean_hessian: ArrayLike,
        tangent_vector: ArrayLike,
    ) -> Matrix:
        """The Riemannian Hessian along a tangent vector, of symmetric parts."""
        P = _symmetric(super()._checked("euclidean_gradient", euclidean_gradient))
        H = _symmetric(super()._checked("euclidean_hessian", euclidean_hessian))
        return _symmetric(super().euclidean_to_riemannian_hessian(point, P, H, tangent_vector))

    def _checked_frame(self, name: str, frame: Frame) -> Frame:
        u, s, vt = frame
        if not np.allclose(vt, u.mT, rtol=0, atol=1e-8):
            raise ValueError(f"{name} must be a triple (u, s, u^T), so that it is symmetric")
        return Frame(u, s, u.mT)

    def _frame_of(self, name: str, points: Matrix) -> Frame:
        values, U = np.linalg.eigh(_symmetric(points.astype(np.float64)))
        return Frame(U, np.maximum(values, 0.0), U.mT)

    def _factors(self, X: Matrix, Y: Matrix) -> tuple[Matrix, Matrix]:
        mean = (X + Y) / 2  # from which they part by rounding errors
        return mean, mean

    def _at_stack(self, points: Matrix) -> MetricAt:
        for W in points.reshape(-1, *self._shape):
            self._point("the point of a flow", W)
        return super()._at_stack(points)

    def _retract(self, point: ArrayLike, tangent_vector: Matrix) -> Matrix:
        return _symmetric(super()._retract(point, tangent_vector))

    def _point(self, name: str, point: ArrayLike) -> Matrix:
        W = _require_symmetric(name, super()._point(name, point))
        if np.isfinite(W).all():
            # The singular values add up to the trace, less twice the negative eigenvalues. A run
            # may converge to the boundary, where the least eigenvalues are rounding errors.
            s = self._metric.on_blocks(W).frame.s  # type: ignore[attr-defined]
            if (s.sum() - np.trace(W)) / 2 > limits(W).eps ** 0.6 * s[0]:
                least, largest = np.linalg.eigvalsh(W)[[0, -1]]
                raise OutsideError(
                    f"{name} must be positive definite, but its eigenvalues range from "
                    f"{least:.1e} to {largest:.1e}"
                )
        return W

    def _checked(self, name: str, vector: ArrayLike) -> Matrix:
        return _require_symmetric(name, super()._checked(name, vector))


def _require_symmetric(name: str, Z: Matrix) -> Matrix:
    asymmetry = np.abs(Z - Z.T).max()
    if asymmetry > 1e-6 * np.abs(Z).max():
        raise ValueError(f"{name} must be symmetric, but its asymmetry is {asymmetry:.1e}")
    return Z


def _symmetric(Z: Any) -> Matrix:
    return (Z + Z.mT) / 2
