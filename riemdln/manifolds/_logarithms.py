"""Logarithms of manifolds: how one point is seen from another one.

A logarithm takes two points to the tangent vector at the first that leads to the second, to the
length of that way, and to the point half-way. Each of those listed here by name asks the manifold
for what depends on the form of points and vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from riemdln._memory import Memory

if TYPE_CHECKING:
    from riemdln.manifolds._base import MetricManifold

__all__ = ["Connection", "Logarithm", "logarithm_named"]

# A point, and a tangent vector, in the form that the manifold has them.
Point = Any
Vector = Any


class Connection(NamedTuple):
    """The geodesic between two points, as manifolds are asked for it.

    Attributes
    ----------
    length : float
        Its length.
    velocity : vector
        Its velocity at the first point; it reaches the second in unit time.
    middle : point
        The point half-way.
    """

    length: float
    velocity: Vector
    middle: Point


class Logarithm(Protocol):
    """What a manifold has from its logarithm, under pymanopt's names."""

    def log(self, manifold: MetricManifold, point_a: Point, point_b: Point) -> Vector:
        """The tangent vector at one point that leads to another."""
        ...

    def dist(self, manifold: MetricManifold, point_a: Point, point_b: Point) -> float:
        """How far it is from one point to another along the way that this vector begins."""
        ...

    def pair_mean(self, manifold: MetricManifold, point_a: Point, point_b: Point) -> Point:
        """The point that half of this vector leads to."""
        ...


class GeodesicLogarithm:
    """The logarithm of Riemannian geometry: the inverse of the exponential map."""

    def __init__(self) -> None:
        self._known = Memory(size=32)

    def log(self, manifold: MetricManifold, point_a: Point, point_b: Point) -> Vector:
        """The velocity of the geodesic at its first point."""
        return deepcopy(self._connection(manifold, point_a, point_b).velocity)

    def dist(self, manifold: MetricManifold, point_a: Point, point_b: Point) -> float:
        """The length of the geodesic."""
        return self._connection(manifold, point_a, point_b).length

    def pair_mean(self, manifold: MetricManifold, point_a: Point, point_b: Point) -> Point:
        """The middle of the geodesic."""
        return deepcopy(self._connection(manifold, point_a, point_b).middle)

    def _connection(self, manifold: MetricManifold, point_a: Point, point_b: Point) -> Connection:
        key = (*manifold._key("point_a", point_a), *manifold._key("point_b", point_b))
        if not manifold.metric.is_pure:
            return manifold._connect(point_a, point_b)
        # Optimizers ask for all three, of the same points, one after the other.
        known: Connection | None = self._known.find(key)
        if known is None:
            known = manifold._connect(point_a, point_b)
            self._known.put(key, known)
        return known


class LinearLogarithm:
    """The logarithm of straight lines in the space of matrices, which is there for any two points.

    Its vectors point down the gradient of half the squared distance, however the metric measures
    it, so that a search for the mean of some points ends at their mean in that space.
    """

    def log(self, manifold: MetricManifold, point_a: Point, point_b: Point) -> Vector:
        """The tangent part of W_b - W_a."""
        return manifold._difference(point_a, point_b)

    def dist(self, manifold: MetricManifold, point_a: Point, point_b: Point) -> float:
        """The Frobenius norm |W_b - W_a|."""
        return manifold._separation(point_a, point_b)

    def pair_mean(self, manifold: MetricManifold, point_a: Point, point_b: Point) -> Point:
        """The point nearest to (W_a + W_b) / 2."""
        return manifold._middle(point_a, point_b)


_LOGARITHMS: dict[str, Callable[[], Logarithm]] = {
    "geodesic": GeodesicLogarithm,
    "linear": LinearLogarithm,
}


def logarithm_named(name: Any) -> Logarithm:
    """The logarithm that a name stands for."""
    if not isinstance(name, str) or name not in _LOGARITHMS:
        raise ValueError(
            f"logarithm must be one of {', '.join(map(repr, _LOGARITHMS))}, got {name!r}"
        )
    return _LOGARITHMS[name]()
