"""What the manifolds of this package share: pymanopt's interface over a metric at a point."""

from __future__ import annotations

import abc
import math
from copy import deepcopy
from typing import Any

import numpy as np
from pymanopt.manifolds.manifold import Manifold

from riemdln._arrays import NotFiniteError, Rng, random_generator
from riemdln.manifolds._logarithms import Connection, logarithm_named
from riemdln.metrics import Metric, MetricAt

__all__ = ["MetricManifold"]

# A point, and a tangent vector or covector, in the form that the manifold has them.
Point = Any
Vector = Any


class MetricManifold(Manifold):
    """A pymanopt manifold of matrices with a metric of one's choice.

    A subclass says what its points and vectors are. All geometry is asked of the metric at a point,
    and whatever that says is wrong is said again under pymanopt's names of the arguments.

    Where the gradient is exactly zero, pymanopt's optimizers divide by its norm and take steps
    of 0 / 0 times the gradient. So numbers are np.float64, which answers a division by zero with
    NaN and not with an error, and vectors with NaN in all their entries are let through.

    Parameters
    ----------
    name : str
        What the manifold is called.
    dimension : int
        Its dimension.
    metric : Metric
        The metric.
    rng : numpy.random.Generator, int or None
        Source of the random points and tangent vectors, or a seed for one.
    logarithm : str
        What `log`, `dist` and `pair_mean` are: "geodesic" or "linear".
    point_layout : int
        How many arrays a point has.
    """

    def __init__(
        self,
        name: str,
        dimension: int,
        metric: Metric,
        rng: Any,
        *,
        logarithm: str,
        point_layout: int = 1,
    ) -> None:
        self._metric = metric
        self._rng = random_generator("rng", rng)
        self._logarithm = logarithm_named(logarithm)
        super().__init__(name, dimension, point_layout=point_layout)

    @property
    def metric(self) -> Metric:
        """The metric."""
        return self._metric

    @abc.abstractmethod
    def at(self, point: Point) -> MetricAt:
        """The metric at a point, on this manifold's own tangent vectors and covectors."""

    @abc.abstractmethod
    def _checked(self, name: str, vector: Vector) -> Vector:
        """A vector as the metric takes it, if its arrays have the right shapes."""

    @abc.abstractmethod
    def _require_finite(self, name: str, value: Any) -> None:
        """Raise a NotFiniteError if a point or a vector has NaN or infinity."""

    @abc.abstractmethod
    def _is_undefined(self, vector: Vector) -> bool:
        """Whether all entries of a vector are NaN."""

    @abc.abstractmethod
    def _connect(self, point_a: Point, point_b: Point) -> Connection:
        """The geodesic between two points."""

    @abc.abstractmethod
    def _difference(self, point_a: Point, point_b: Point) -> Vector:
        """W_b - W_a, projected to the tangent space at W_a."""

    @abc.abstractmethod
    def _separation(self, point_a: Point, point_b: Point) -> float:
        """The Frobenius norm of W_b - W_a."""

    @abc.abstractmethod
    def _middle(self, point_a: Point, point_b: Point) -> Point:
        """The point whose matrix is nearest to (W_a + W_b) / 2."""

    @abc.abstractmethod
    def _retract(self, point: Point, tangent_vector: Vector) -> Point:
        """Where a step leads."""

    def inner_product(
        self, point: Point, tangent_vector_a: Vector, tangent_vector_b: Vector
    ) -> np.float64:
        """The metric's inner product g_W(X, Y)."""
        try:
            value = self._ask(
                point,
                "inner",
                tangent_vector_a=tangent_vector_a,
                tangent_vector_b=tangent_vector_b,
            )
        except NotFiniteError:
            if self._is_undefined(tangent_vector_a) or self._is_undefined(tangent_vector_b):
                return np.float64(np.nan)
            raise
        return np.float64(value)

    def norm(self, point: Point, tangent_vector: Vector) -> np.float64:
        """The norm sqrt(g_W(X, X)) of a tangent vector."""
        try:
            X = self._checked("tangent_vector", tangent_vector)
            square = self.at(point).inner(X, X)
        except NotFiniteError as error:
            if self._is_undefined(tangent_vector):
                return np.float64(np.nan)
            raise self._explained(error, point=point, tangent_vector=tangent_vector) from error
        return np.float64(math.sqrt(max(float(square), 0.0)))

    def sharp(self, point: Point, covector: Vector) -> Vector:
        """The cometric: from a covector to the tangent vector that it stands for."""
        return self._ask(point, "sharp", covector=covector)

    def flat(self, point: Point, tangent_vector: Vector) -> Vector:
        """The inverse of `sharp`: from a tangent vector to its covector."""
        return self._ask(point, "flat", tangent_vector=tangent_vector)

    def random_tangent_vector(self, point: Point) -> Vector:
        """A random tangent vector of norm one, its direction uniform in the metric.

        Raises
        ------
        ValueError
            If no tangent vector has a norm, as at the zero matrix.
        """
        vector = self.at(point).random_tangent(self._rng)
        norm = self.norm(point, vector)
        if not norm > 0:
            raise ValueError("point has no tangent vector of norm one: every direction is frozen")
        return vector / float(norm)  # which leaves the dtype of arrays alone

    def _random(self, rng: Rng) -> np.random.Generator:
        """The given source of randomness, or the manifold's own for None."""
        return self._rng if rng is None else random_generator("rng", rng)

    def retraction(self, point: Point, tangent_vector: Vector) -> Point:
        """The point that a step leads to.

        A step that is undefined, with NaN in all its entries, leads nowhere.
        """
        try:
            return self._retract(point, self._checked("tangent_vector", tangent_vector))
        except NotFiniteError as error:
            self._require_finite("point", point)
            if self._is_undefined(tangent_vector):
                return deepcopy(point)
            raise self._explained(error, point=point, tangent_vector=tangent_vector) from error

    def dist(self, point_a: Point, point_b: Point) -> float:
        """The length of the way to another point: of the geodesic, or of the straight line.

        Raises
        ------
        GeodesicError
            If no geodesic was found.
        """
        return self._logarithm.dist(self, point_a, point_b)

    def log(self, point_a: Point, point_b: Point) -> Vector:
        """The tangent vector that leads to another point along the geodesic, or straight.

        Raises
        ------
        GeodesicError
            If no geodesic was found.
        """
        return self._logarithm.log(self, point_a, point_b)

    def pair_mean(self, point_a: Point, point_b: Point) -> Point:
        """The point half-way to another point, along the geodesic or straight.

        Raises
        ------
        GeodesicError
            If no geodesic was found.
        """
        return self._logarithm.pair_mean(self, point_a, point_b)

    @abc.abstractmethod
    def _key(self, name: str, point: Point) -> tuple[np.ndarray, ...]:
        """The arrays of a point, if they are finite and have the right shapes."""

    def _ask(self, point: Point, method: str, **vectors: Vector) -> Any:
        """What the metric at a point says of some vectors."""
        checked = [self._checked(name, vector) for name, vector in vectors.items()]
        try:
            return getattr(self.at(point), method)(*checked)
        except NotFiniteError as error:
            raise self._explained(error, point=point, **vectors) from error

    def _explained(self, error: NotFiniteError, **given: Any) -> NotFiniteError:
        """Which of the arguments is not finite, or that all of them are."""
        for name, value in given.items():
            self._require_finite(name, value)
        return NotFiniteError(
            f"{', '.join(given)} lead out of the range of floating-point numbers ({error})"
        )
