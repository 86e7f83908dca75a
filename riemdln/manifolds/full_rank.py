"""The manifold of full-rank matrices with any metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pymanopt.manifolds.manifold import Manifold

from riemdln._memory import Memory
from riemdln._arrays import (
    NotFiniteError,
    finite,
    integer,
    point_of_shape,
    random_generator,
)
from riemdln.geodesics import geodesic_between
from riemdln.geodesics._initial_value import (
    exponential,
    hessian,
    second_order_retraction,
)
from riemdln.manifolds._coordinates import AmbientCoordinates
from riemdln.metrics import Metric
from riemdln.networks import end_to_end
from riemdln.retractions import linear_retraction, polar_retraction

__all__ = ["FullRank"]

Matrix = NDArray[np.floating]


class FullRank(Manifold):
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
    retraction : str
        How a step X leaves W. For every metric: "linear" is W + X; "second_order" is
        W + X - Gamma(X, X) / 2, which agrees with the geodesic to second order; "geodesic" is the
        exponential map; "polar" moves the factors of W = Q H so that no step changes the sign of a
        determinant: Q by its polar retraction and the square root of H by its derivative, squared
        again. For `DeepLinearMetric` of a whole depth: "network" is the step that the
        layers of a balanced network would take, so that one fixed step of steepest descent is one
        step of gradient descent on the layers.
    transport : str
        How a tangent vector moves to another point. "identity", for every metric, is the vector
        itself, as in any chart. "isometric", for `SpectralMetric` and `DeepLinearMetric`, is
        A_b^{1/2} A_a^{-1/2}, which keeps inner products.
    rng : numpy.random.Generator, int or None
        Source of the random points and tangent vectors, or a seed for one.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of the above.

    Notes
    -----
    The matrices of lower rank are the manifold's boundary. Runs may converge to them: see
    `SpectralMetric.flat` for what the metric does there.

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

    def __init__(
        self,
        m: int,
        n: int,
        metric: Metric,
        *,
        retraction: str = "linear",
        transport: str = "identity",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        m, n = integer("m", m), integer("n", n)
        if not isinstance(metric, Metric):
            raise TypeError(f"metric must be a riemdln.Metric, got {metric!r}")
        metric.require_shape(m, n)
        retractions = {
            "linear": linear_retraction,
            "second_order": partial(second_order_retraction, metric),
            "geodesic": partial(exponential, metric),
            "polar": polar_retraction,
            **metric.retractions(),
        }
        transports = {"identity": _identity_transport, **metric.transports()}
        self._shape = (m, n)
        self._metric = metric
        self._retraction = _choice("retraction", retraction, retractions, metric)
        self._transport = _choice("transport", transport, transports, metric)
        self._geodesics = Memory(size=32)
        self._rng = random_generator("rng", rng)
        super().__init__(f"Manifold of {m}x{n} matrices of full rank with {metric!r}", m * n)

    def __repr__(self) -> str:
        return f"FullRank({self._shape[0]}, {self._shape[1]}, {self._metric!r})"

    @property
    def metric(self) -> Metric:
        """The metric."""
        return self._metric

    @property
    def typical_dist(self) -> float:
        """The scale of the manifold, sqrt(m n): the size of a random point."""
        return float(np.sqrt(self.dim))

    # Where the gradient is exactly zero, pymanopt's optimizers divide by its norm and take steps
    # of 0 / 0 times the gradient. So numbers are np.float64, which answers a division by zero with
    # NaN and not with an error, and vectors with NaN in all their entries are let through.
    def inner_product(
        self, point: ArrayLike, tangent_vector_a: ArrayLike, tangent_vector_b: ArrayLike
    ) -> np.float64:
        """The metric's inner product g_W(X, Y)."""
        return self._inner(
            point, tangent_vector_a=tangent_vector_a, tangent_vector_b=tangent_vector_b
        )

    def norm(self, point: ArrayLike, tangent_vector: ArrayLike) -> np.float64:
        """The norm sqrt(g_W(X, X)) of a tangent vector."""
        square = self._inner(point, tangent_vector=tangent_vector, itself=tangent_vector)
        return np.sqrt(np.maximum(square, 0.0))

    def _inner(self, point: ArrayLike, **vectors: ArrayLike) -> np.float64:
        try:
            return np.float64(self._at(point, self._metric.inner, **vectors))
        except NotFiniteError:
            if any(_is_undefined(vector) for vector in vectors.values()):
                return np.float64(np.nan)
            raise

    def projection(self, point: ArrayLike, vector: Matrix) -> Matrix:
        """The vector itself: every m x n matrix is a tangent vector."""
        return vector

    to_tangent_space = projection

    def dist(self, point_a: ArrayLike, point_b: ArrayLike) -> float:
        """The length of the geodesic between two points: see `boundary_value.geodesic_between`."""
        length, _, _ = self._geodesic_between(point_a, point_b)
        return length

    def exp(self, point: ArrayLike, tangent_vector: ArrayLike) -> Matrix:
        """Where the geodesic with this velocity leads: see `connection.exponential`."""
        return self._at(point, self._finite_exponential, tangent_vector=tangent_vector)

    def log(self, point_a: ArrayLike, point_b: ArrayLike) -> Matrix:
        """The velocity at one point of the geodesic that reaches another in unit time."""
        _, velocity, _ = self._geodesic_between(point_a, point_b)
        return velocity.copy()

    def pair_mean(self, point_a: ArrayLike, point_b: ArrayLike) -> Matrix:
        """The point half-way along the geodesic between two points."""
        _, _, middle = self._geodesic_between(point_a, point_b)
        return middle.copy()

    def random_point(self) -> Matrix:
        """A matrix of independent standard Gaussians, which has full rank with probability one.

        Where square matrices with determinants of opposite sign are not connected, as for
        `DeepLinearMetric`, the determinant is positive: the first column takes the sign
        that makes it so.
        """
        point = self._rng.standard_normal(self._shape)
        if self._metric.ends_at_lower_rank and self._shape[0] == self._shape[1]:
            point[:, 0] *= np.linalg.slogdet(point)[0]
        return point

    def random_tangent_vector(self, point: ArrayLike) -> Matrix:
        """A random tangent vector of norm one: the normalized sharp of a random covector.

        Raises
        ------
        ValueError
            If no tangent vector has a norm, as at the zero matrix.
        """
        covector = self._rng.standard_normal(self._shape)
        vector = self.euclidean_to_riemannian_gradient(point, covector)
        norm = self.norm(point, vector)
        if not norm > 0:
            raise ValueError("point has no tangent vector of norm one: every direction is frozen")
        return vector / norm

    def coordinates(self) -> AmbientCoordinates:
        """Coordinates for differential equations: the entries of the matrix."""
        return AmbientCoordinates(self)

    def from_layers(self, layers: Sequence[ArrayLike]) -> Matrix:
        """The end-to-end matrix of a deep linear network."""
        return end_to_end(layers)

    def zero_vector(self, point: ArrayLike) -> Matrix:
        """The zero matrix."""
        return np.zeros(self._shape)

    def euclidean_to_riemannian_gradient(
        self, point: ArrayLike, euclidean_gradient: ArrayLike
    ) -> Matrix:
        """The Riemannian gradient: the metric's sharp of the Euclidean gradient."""
        return self._at(point, self._metric.sharp, euclidean_gradient=euclidean_gradient)

    def euclidean_to_riemannian_hessian(
        self,
        point: ArrayLike,
        euclidean_gradient: ArrayLike,
        euclidean_hessian: ArrayLike,
        tangent_vector: ArrayLike,
    ) -> Matrix:
        """The Riemannian Hessian along a tangent vector: see `connection.hessian`."""
        return self._at(
            point,
            partial(hessian, self._metric),
            tangent_vector=tangent_vector,
            euclidean_gradient=euclidean_gradient,
            euclidean_hessian=euclidean_hessian,
        )

    def retraction(self, point: ArrayLike, tangent_vector: ArrayLike) -> Matrix:
        """Where a step leads, by the retraction that the manifold was made with.

        A step that is undefined, with NaN in all its entries, leads nowhere.
        """
        try:
            return self._at(point, self._finite_retraction, tangent_vector=tangent_vector)
        except NotFiniteError:
            if _is_undefined(tangent_vector):
                return finite("point", np.array(point, dtype=np.float64))
            raise

    def transport(self, point_a: ArrayLike, point_b: ArrayLike, tangent_vector_a: Matrix) -> Matrix:
        """A tangent vector at another point, by the transport that the manifold was made with."""
        if self._transport is _identity_transport:
            return tangent_vector_a
        named = {
            "point_a": point_a,
            "point_b": point_b,
            "tangent_vector_a": tangent_vector_a,
        }
        arrays = [
            finite(name, point_of_shape(name, value, self._shape)) for name, value in named.items()
        ]
        return self._transport(*arrays)

    def _finite_retraction(self, W: Matrix, X: Matrix) -> Matrix:
        return finite("the end of the step", self._retraction(W, X))

    def _finite_exponential(self, W: Matrix, X: Matrix) -> Matrix:
        return finite("the end of the geodesic", exponential(self._metric, W, X))

    def _geodesic_between(
        self, point_a: ArrayLike, point_b: ArrayLike
    ) -> tuple[float, Matrix, Matrix]:
        """The length, the velocity at the first point and the middle of a geodesic."""
        pair = np.stack(
            [
                finite(name, point_of_shape(name, point, self._shape))
                for name, point in (("point_a", point_a), ("point_b", point_b))
            ]
        )
        # Optimizers ask for all three, of the same points, one after the other.
        known = self._geodesics.find(pair)
        if known is None:
            geodesic = geodesic_between(self._metric, *pair)
            middle = geodesic.points[len(geodesic.points) // 2]
            known = geodesic.length, geodesic.velocities[0].copy(), middle.copy()
            self._geodesics.put(pair, known)
        return known

    def _at(self, point: ArrayLike, function: Callable[..., Any], **vectors: ArrayLike) -> Any:
        """A function of the metric at a point, which names bad arguments as pymanopt does."""
        point = point_of_shape("point", point, self._shape)
        checked = [point_of_shape(name, vector, self._shape) for name, vector in vectors.items()]
        try:
            return function(point, *checked)
        except NotFiniteError as error:
            for name, array in zip(("point", *vectors), (point, *checked), strict=True):
                finite(name, array)
            raise NotFiniteError(
                f"{', '.join(('point', *vectors))} lead out of the range of floating-point numbers "
                f"({error})"
            ) from error


def _is_undefined(vector: ArrayLike) -> bool:
    return bool(np.isnan(vector).all())


def _choice(name: str, value: str, choices: Mapping[str, Any], metric: Metric) -> Any:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, choices))} with {metric!r}, got {value!r}"
            + (": it needs a metric of whole depth" if value == "network" else "")
        )
    return choices[value]


def _identity_transport(W_a: Matrix, W_b: Matrix, X: Matrix) -> Matrix:
    return X
