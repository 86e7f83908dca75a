"""The manifold of full-rank matrices with any metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from riemdln._arrays import (
    Rng,
    finite,
    finite_array,
    floating_array,
    integer,
    point_of_shape,
)
from riemdln._frame import Frame, whole_frame
from riemdln.geodesics import exponential, geodesic_between
from riemdln.manifolds._base import MetricManifold
from riemdln.manifolds._coordinates import (
    AmbientCoordinates,
    Coordinates,
    StackCoordinates,
    require_frame,
)
from riemdln.manifolds._framed import FactorCoordinates, MatrixGeometry
from riemdln.manifolds._logarithms import Connection
from riemdln.manifolds._multiplicative import MultiplicativeCoordinates
from riemdln.manifolds.fixed_rank import FixedRankPoint
from riemdln.metrics import Metric, MetricAt
from riemdln.metrics._spectral_at import needs_frame
from riemdln.retractions import RETRACTIONS, Retraction
from riemdln.transports import TRANSPORTS, Transport

__all__ = ["FullRank"]

Matrix = NDArray[np.floating]


class FullRank(MetricManifold):
    r"""The manifold of m x n matrices of full rank, with a metric of one's choice.

    It is an open set of matrices, so its tangent vectors are all m x n matrices and all that
    sets it apart from pymanopt's Euclidean(m, n) is the metric: the Riemannian gradient is
    ``metric.sharp`` of the Euclidean one. With ``DeepLinearMetric(N)`` pymanopt's optimizers
    move one matrix as training moves the end-to-end matrix of a deep linear network.

    Parameters
    ----------
    m, n : int
        The numbers of rows and columns.
    metric : Metric
        The metric, which must exist on m x n matrices.
    retraction : str or callable
        How a step X leaves W. For every metric: "linear" is W + X; "second_order" is
        W + X - Gamma(X, X) / 2, which agrees with the geodesic to second order; "geodesic" is the
        exponential map; "polar" moves the factors of W = Q R^2 so that no step changes the sign of
        a determinant: Q by its polar retraction and R by its derivative, squared
        again. For `DeepLinearMetric` of a whole depth: "network" is the step that the
        layers of a balanced network would take, so that one fixed step of steepest descent is one
        step of gradient descent on the layers. Or a function ``retraction(W, X)`` of one's own.
    transport : str or callable
        How a tangent vector moves to another point. "identity" is the vector
        itself, as in any chart; "isometric" is A_b^{1/2} A_a^{-1/2}, which keeps inner products.
        Or a function ``transport(W_a, W_b, X)`` of one's own.
    logarithm : str
        What `log`, `dist` and `pair_mean` are. "geodesic": the inverse of the exponential map, the
        distance and the middle of the geodesic; where none is found they raise a `GeodesicError`.
        "linear": those of the straight line, W_b - W_a, which is the inverse of the linear
        retraction, its Frobenius norm, and (W_a + W_b) / 2. They are there for any two points, and
        are what optimizers without derivatives need, which start at random points. A Frobenius
        norm is not the distance of the metric (see `geodesics.geodesic_between` for that one).
    rng : numpy.random.Generator, int or None
        Source of the random points and tangent vectors, or a seed for one.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or the retraction does not go with the metric.

    Notes
    -----
    The matrices of lower rank are the manifold's boundary. Runs may converge to them: see
    `SpectralMetric` for what the metric does there.

    References
    ----------
    - G. Menon. The geometry of the deep linear network. 2024.
    - N. Boumal. An introduction to optimization on smooth manifolds. 2023.

    Examples
    --------
    >>> import autograd.numpy as anp
    >>> import numpy as np
    >>> import pymanopt
    >>> import riemdln
    >>> manifold = riemdln.FullRank(2, 3, riemdln.DeepLinearMetric(depth=3), rng=0)
    >>> target = np.array([[3.0, 0.0, 1.0], [0.0, 2.0, 1.0]])
    >>> @pymanopt.function.autograd(manifold)
    ... def cost(W):
    ...     return anp.sum((W - target) ** 2) / 2
    >>> problem = pymanopt.Problem(manifold, cost)
    >>> optimizer = pymanopt.optimizers.ConjugateGradient(verbosity=0)
    >>> np.allclose(optimizer.run(problem).point, target, atol=1e-5)
    True
    """

    # From a name to what makes the retraction of a metric.
    _retractions: Mapping[str, Callable[[Metric], Retraction]] = RETRACTIONS

    def __init__(
        self,
        m: int,
        n: int,
        metric: Metric,
        *,
        retraction: str | Retraction = "linear",
        transport: str | Transport = "identity",
        logarithm: str = "geodesic",
        rng: Rng = None,
    ) -> None:
        m, n = integer("m", m), integer("n", n)
        if not isinstance(metric, Metric):
            raise TypeError(f"metric must be a riemdln.Metric, got {metric!r}")
        metric.require_shape(m, n)
        self._shape = (m, n)
        self._retraction = _choice("retraction", retraction, self._retractions, metric)
        self._transport = _choice("transport", transport, TRANSPORTS, metric)
        name, dimension = self._name_and_dimension(m, n, metric)
        super().__init__(name, dimension, metric, rng, logarithm=logarithm)

    def _name_and_dimension(self, m: int, n: int, metric: Metric) -> tuple[str, int]:
        return f"Manifold of {m}x{n} matrices of full rank with {metric!r}", m * n

    def __repr__(self) -> str:
        return f"FullRank({self._shape[0]}, {self._shape[1]}, {self._metric!r})"

    @property
    def typical_dist(self) -> float:
        """The scale of the manifold, the root of its dimension: the size of a random point."""
        return float(np.sqrt(self.dim))

    def at(self, point: ArrayLike) -> MetricAt:
        """The metric at a point."""
        return self._metric.at(self._point("point", point))

    def scaled(self, point: Matrix, factor: float) -> Matrix:
        """The point times a positive number."""
        return factor * point

    def in_frame(self, point: Matrix) -> tuple[Any, Any, Any]:
        """A spectral metric on blocks at a point or a stack, and the maps of vectors to and fro."""
        at = self._metric.on_blocks(point)  # type: ignore[attr-defined]
        return (
            at,
            lambda name, Z: at.frame.split(self._matrix(name, Z)),
            lambda blocks: self.projection(point, at.frame.join(blocks)),
        )

    def projection(self, point: ArrayLike, vector: Matrix) -> Matrix:
        """The vector itself: every m x n matrix is a tangent vector."""
        return vector

    to_tangent_space = projection

    def exp(self, point: ArrayLike, tangent_vector: ArrayLike) -> Matrix:
        """The point that the geodesic with this velocity reaches: see `geodesics.exponential`."""
        point = finite("point", self._point("point", point))
        vector = self._matrix("tangent_vector", tangent_vector)
        return finite("the end of the geodesic", exponential(self._metric, point, vector))

    def random_point(self, rng: Rng = None) -> Matrix:
        """A matrix of independent standard Gaussians, which has full rank with probability one.

        Where square matrices with determinants of opposite sign are not connected, as for
        `DeepLinearMetric`, the determinant is positive: the first column takes the sign
        that makes it so.

        Parameters
        ----------
        rng : numpy.random.Generator, int or None
            The source of randomness, or a seed for one; None for that of the manifold.
        """
        point = self._random(rng).standard_normal(self._shape)
        if self._metric.ends_at_lower_rank and self._shape[0] == self._shape[1]:
            point[:, 0] *= np.linalg.slogdet(point)[0]
        return point

    def zero_vector(self, point: ArrayLike) -> Matrix:
        """The zero matrix."""
        return np.zeros(self._shape, floating_array("point", point).dtype)

    def euclidean_to_riemannian_gradient(
        self, point: ArrayLike, euclidean_gradient: ArrayLike
    ) -> Matrix:
        """The Riemannian gradient: the metric's sharp of the Euclidean gradient."""
        return self._ask(point, "sharp", euclidean_gradient=euclidean_gradient)

    def euclidean_to_riemannian_hessian(
        self,
        point: ArrayLike,
        euclidean_gradient: ArrayLike,
        euclidean_hessian: ArrayLike,
        tangent_vector: ArrayLike,
    ) -> Matrix:
        """The Riemannian Hessian along a tangent vector: see `MetricAt.hessian`."""
        return self._ask(
            point,
            "hessian",
            euclidean_gradient=euclidean_gradient,
            euclidean_hessian=euclidean_hessian,
            tangent_vector=tangent_vector,
        )

    def coordinates(self, point: Any, name: str = "initial_point") -> Coordinates:
        """Coordinates for differential equations around a point, or a stack of points.

        Under a metric whose flows keep the rank they are multiplicative ones, which give every
        singular value to relative accuracy. Under one that depends on singular vectors at lower
        rank they are three factors, which hold these; under any other they are the entries.

        Parameters
        ----------
        point : array (m, n), or triple of arrays (m, r), (r,), (r, n); or a stack (K, ...) of these
            The point. A triple (u, s, vt) stands for u diag(s) vt, r = min(m, n), and holds
            singular values of any spread.
        name : str
            What errors call it.

        Raises
        ------
        TypeError, ValueError
            If it is no such point, or no triple though the metric needs one there.
        """
        frame, points = self._start(point, name)
        metric: Any = self._metric
        if getattr(metric, "keeps_rank", False):
            kind: Any = MultiplicativeCoordinates
        elif hasattr(metric, "needs_frame") and metric.needs_frame(*self._shape):
            kind = FactorCoordinates
        else:
            return self._entries(frame, points, name)
        geometry = MatrixGeometry(
            at_frame=metric.at_frame,
            covector=lambda place, P: place.frame.split(self._gradient(P, place.matrix)),
            tangent=lambda place, Z: place.frame.split(self._gradient(Z, place.matrix)),
            point=lambda place: self.projection(place.matrix, place.matrix),
            record=lambda place: FixedRankPoint(*place.frame) if frame else place.point,
            factors=self._factors,
        )
        return kind(geometry, frame or self._frame_of(name, points))

    def entry_coordinates(self, point: Any, name: str = "initial_point") -> Coordinates:
        """The entries of a point, or of a stack of points, as coordinates."""
        return self._entries(*self._start(point, name), name)

    def _entries(self, frame: Frame | None, points: Matrix, name: str) -> Coordinates:
        of_stack = self._at_stack, points, self._gradient, self.in_frame
        if frame is not None:
            return StackCoordinates(*of_stack, record=lambda W: FixedRankPoint(*whole_frame(W)))
        if points.ndim == 2:
            return AmbientCoordinates(self, points, name)
        return StackCoordinates(*of_stack)

    def _start(self, point: Any, name: str) -> tuple[Frame | None, Matrix]:
        """The start of a flow: its frame if it is given by one, and its matrices."""
        (m, n), frame = self._shape, None
        # A list of three may be a stack or the rows of a matrix, a tuple of three is none of these.
        is_frame = isinstance(point, list) and [*map(np.ndim, point)] in ([2, 1, 2], [3, 2, 3])
        if is_frame or (isinstance(point, tuple) and len(point) == 3 and np.ndim(point[0]) > 1):
            frame = self._checked_frame(name, require_frame(name, point, m, n, min(m, n)))
            point = frame.U * frame.s[..., None, :] @ frame.Vt
        points = finite_array(name, point)
        if points.shape[-2:] != self._shape or points.ndim not in (2, 3) or not points.size:
            raise ValueError(
                f"{name} must have shape {self._shape}, as the points of {self}, or be a stack of "
                f"such points, got {points.shape}"
            )
        for W in points.reshape(-1, m, n):
            self._point(name, W)
        return frame, points

    def transport(self, point_a: ArrayLike, point_b: ArrayLike, tangent_vector_a: Matrix) -> Matrix:
        """A tangent vector at another point, by the transport that the manifold was made with."""
        return self._transport(
            self._matrix("point_a", point_a),
            self._matrix("point_b", point_b),
            self._matrix("tangent_vector_a", tangent_vector_a),
        )

    def _retract(self, point: ArrayLike, tangent_vector: Matrix) -> Matrix:
        point = self._point("point", point)
        return finite("the end of the step", self._retraction(point, tangent_vector))

    def _connect(self, point_a: ArrayLike, point_b: ArrayLike) -> Connection:
        geodesic = geodesic_between(self._metric, point_a, point_b)
        middle = geodesic.points[len(geodesic.points) // 2]
        return Connection(geodesic.length, geodesic.velocities[0].copy(), middle.copy())

    def _difference(self, point_a: ArrayLike, point_b: ArrayLike) -> Matrix:
        (W_a,), (W_b,) = self._key("point_a", point_a), self._key("point_b", point_b)
        return W_b - W_a

    def _separation(self, point_a: ArrayLike, point_b: ArrayLike) -> float:
        return float(np.linalg.norm(self._difference(point_a, point_b)))

    def _middle(self, point_a: ArrayLike, point_b: ArrayLike) -> Matrix:
        (W_a,), (W_b,) = self._key("point_a", point_a), self._key("point_b", point_b)
        return (W_a + W_b) / 2

    def _checked_frame(self, name: str, frame: Frame) -> Frame:
        """A start u diag(s) vt, if it is one on this manifold."""
        return frame

    def _frame_of(self, name: str, points: Matrix) -> Frame:
        """The frame of a start that is no triple."""
        frame = whole_frame(points.astype(np.float64))
        # What is a rounding error to the caller's kind of number is one here.
        given = Frame(*(part.astype(points.dtype) for part in frame))
        if needs_frame(self._metric.kernel, given):  # type: ignore[attr-defined]
            raise ValueError(
                f"{name} must have full rank, or be a triple (u, s, vt): at lower rank "
                f"{self._metric!r} depends on singular vectors that a matrix does not determine, "
                f"got singular values from {frame.s.min():g} to {frame.s.max():g}"
            )
        return frame

    def _factors(self, X: Matrix, Y: Matrix) -> tuple[Matrix, Matrix]:
        """The factors of a flow's matrix X diag(d) Y^T."""
        return X, Y

    def _at_stack(self, points: Matrix) -> MetricAt:
        return self._metric.at(points)

    def _gradient(self, value: Any, points: Matrix) -> Matrix:
        """What a cost gives as its gradient at a point, or at a stack of points."""
        gradient = point_of_shape("the gradient of the cost", value, points.shape)
        return self.projection(points, finite("the gradient of the cost", gradient))

    def _matrix(self, name: str, value: ArrayLike) -> Matrix:
        return finite(name, self._checked(name, value))

    def _checked(self, name: str, vector: ArrayLike) -> Matrix:
        return point_of_shape(name, vector, self._shape)

    def _require_finite(self, name: str, value: ArrayLike) -> None:
        self._matrix(name, value)

    def _is_undefined(self, vector: ArrayLike) -> bool:
        return bool(np.isnan(vector).all())

    def _key(self, name: str, point: ArrayLike) -> tuple[np.ndarray, ...]:
        return (finite(name, self._point(name, point)),)

    def _point(self, name: str, point: ArrayLike) -> Matrix:
        """A point, if it has the right shape."""
        return point_of_shape(name, point, self._shape)


def _choice(
    name: str, value: Any, choices: Mapping[str, Callable[[Metric], Any]], metric: Metric
) -> Any:
    """What a name stands for with a metric, or a function that was given itself."""
    if callable(value):
        return value
    if not isinstance(value, str) or value not in choices:
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, choices))} or a function, got {value!r}"
        )
    return choices[value](metric)
