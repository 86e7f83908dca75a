"""Coordinates of manifolds for differential equations: a point as one flat vector, and back.

An integrator of ordinary differential equations moves a flat vector, the state. Coordinates around
a point say which state it has, and a place is what they say of one state: which point it is, and
how the state moves when the point moves along a tangent vector. A manifold with coordinates of its
own has a method ``coordinates(point, name)`` that gives them; `coordinates_around` finds those of
any manifold that has some.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pymanopt.manifolds.manifold import Manifold

from riemdln._arrays import finite_array, floating_array
from riemdln._frame import Frame

__all__ = [
    "AmbientCoordinates",
    "Coordinates",
    "Place",
    "ProductCoordinates",
    "StackCoordinates",
    "coordinates_around",
    "entry_coordinates_around",
    "require_frame",
]

Vector = NDArray[np.floating[Any]]


class Place(Protocol):
    """What coordinates say of one state.

    Tangent vectors have the form that suits the coordinates.
    """

    @property
    def point(self) -> Any:
        """The point, on the manifold also where rounding has led the state off it."""
        ...

    @property
    def record(self) -> Any:
        """The point in the form in which that of the start was given."""
        ...

    @property
    def singular_values(self) -> Any:
        """The singular values of a point that is a matrix, and None of any other."""
        ...

    def gradient(self, covector: Any) -> Any:
        """The Riemannian gradient of a Euclidean gradient."""
        ...

    def tangent(self, tangent_vector: Any) -> Any:
        """A tangent vector as the manifold has it."""
        ...

    def norm(self, vector: Any) -> Any:
        """The norm of a tangent vector in the manifold's metric."""
        ...

    def velocity(self, vector: Any) -> Vector:
        """How the state moves when the point moves along a tangent vector."""
        ...

    def in_frame(self) -> tuple[Any, Callable[[Any], Any]]:
        """A spectral metric on blocks in the frame of the point, and the map from these.

        Of blocks the map makes a tangent vector. Where there is no such metric it is not asked.
        """
        ...


class Coordinates(Protocol):
    """How points around one point of a manifold are written as flat vectors of float64.

    Attributes
    ----------
    state : array (d,)
        The state of that point.
    stack : tuple of int
        (K,) where the point is a stack of K independent copies, and () elsewhere.
    """

    state: Vector
    stack: tuple[int, ...]

    def at(self, state: Vector) -> Place:
        """What they say of a state."""
        ...

    def renewed(self, state: Vector) -> Coordinates | None:
        """Better coordinates around the point of a state, or None where these are good enough."""
        ...

    def around(self, state: Vector) -> Coordinates:
        """The same coordinates, with another state as the one where they start."""
        ...


def coordinates_around(manifold: Manifold, point: Any, name: str = "initial_point") -> Coordinates:
    """Coordinates of a manifold around a point: its own, those of its factors, or entries.

    Parameters
    ----------
    manifold : pymanopt manifold
        One that has a method ``coordinates(point, name)``, a product (with its factors in the
        attribute ``manifolds``, as pymanopt's Product has them), or one whose points are arrays.
    point : any
        A point as the manifold has it.
    name : str
        What errors call it.

    Returns
    -------
    Coordinates

    Raises
    ------
    TypeError, ValueError
        If the manifold is none of these, or the point is none of it: of other shapes, complex or
        not finite.
    """
    if hasattr(manifold, "coordinates"):
        return manifold.coordinates(point, name)
    if hasattr(manifold, "manifolds"):
        return ProductCoordinates(_factors(manifold.manifolds, point, name))
    if manifold.point_layout != 1:
        raise ValueError(
            "problem.manifold must have arrays as points (point_layout 1), be a product of "
            f"manifolds, or have a method coordinates(), got {manifold}, whose point_layout is "
            f"{manifold.point_layout}"
        )
    return AmbientCoordinates(manifold, point, name)


def entry_coordinates_around(
    manifold: Manifold, point: Any, name: str = "initial_point"
) -> Coordinates:
    """Coordinates that are the entries of a matrix, where a manifold has them beside others.

    They take any point, and suit what knows it by its entries alone. Elsewhere they are those of
    `coordinates_around`, with the same arguments and errors.
    """
    if hasattr(manifold, "entry_coordinates"):
        return manifold.entry_coordinates(point, name)
    return coordinates_around(manifold, point, name)


class CoordinatesBase:
    """What coordinates share: those that serve everywhere, of a single point, need no more."""

    state: Vector
    stack: tuple[int, ...] = ()

    def around(self, state: Vector) -> Self:
        """The same coordinates, with another state as the one where they start."""
        moved = copy(self)
        moved.state = state
        return moved

    def renewed(self, state: Vector) -> Any:
        """None: they are good everywhere."""


class AmbientCoordinates(CoordinatesBase):
    """The entries of points that are arrays, in the space that they lie in.

    Tangent vectors may be of another kind than the points: on groups of matrices they lie in the
    Lie algebra. What moves the entries is their image in space, ``manifold.embedding``.

    Parameters
    ----------
    manifold : pymanopt manifold
        One whose points are arrays.
    point, name
        See `coordinates_around`.
    """

    def __init__(self, manifold: Manifold, point: Any, name: str = "initial_point") -> None:
        array = finite_array(name, point).astype(np.float64)
        # Not every manifold knows the shape of its points.
        expected = np.shape(manifold.zero_vector(array))
        if array.shape != expected:
            raise ValueError(
                f"{name} must have shape {expected}, as the points of {manifold}, got {array.shape}"
            )
        self._manifold = manifold
        self._shape = expected
        self.state = array.ravel()
        nearest = np.asarray(self.at(self.state).point)
        if not np.allclose(nearest, array, rtol=1e-6, atol=1e-6 * np.abs(array).max(initial=0.0)):
            raise ValueError(
                f"{name} must be a point of {manifold}, got {array}, of which {nearest} is made"
            )

    def at(self, state: Vector) -> AmbientPlace:
        """The array of these entries."""
        return AmbientPlace(self._manifold, state.reshape(self._shape))


class AmbientPlace:
    """A point by its entries, with tangent vectors as the manifold has them."""

    def __init__(self, manifold: Manifold, array: Vector) -> None:
        self._manifold, self._array = manifold, array

    @cached_property
    def point(self) -> Any:
        """The array, brought back to a manifold that is curved in its space."""
        if self._manifold.dim == self._array.size:
            return self._array
        # Truncation errors leave a curved manifold; the retraction of zero leads back.
        return self._manifold.retraction(self._array, self._manifold.zero_vector(self._array))

    @property
    def record(self) -> Any:
        return self.point

    @property
    def singular_values(self) -> Any:
        """Those of a matrix."""
        return _singular_values(self.point)

    def gradient(self, covector: Any) -> Any:
        return self._manifold.euclidean_to_riemannian_gradient(self.point, covector)

    def tangent(self, tangent_vector: Any) -> Any:
        return tangent_vector

    def norm(self, vector: Any) -> Any:
        return self._manifold.norm(self.point, vector)

    def velocity(self, vector: Any) -> Vector:
        """The entries of the tangent vector as a vector in space."""
        in_space = self._manifold.embedding(self.point, vector)
        velocity = floating_array("the velocity of the point", in_space)
        if velocity.shape != self._array.shape:
            raise ValueError(
                f"the velocity of the point must have its shape {self._array.shape}, but tangent "
                f"vectors of {self._manifold} have shape {velocity.shape} in space"
            )
        return velocity.ravel()

    def in_frame(self) -> tuple[Any, Callable[[Any], Any]]:
        at, _, join = self._manifold.in_frame(self.point)
        return at, join


class StackCoordinates(CoordinatesBase):
    """The entries of a matrix under a metric, or of a stack: K independent copies.

    Parameters
    ----------
    at : callable
        From a stack of matrices to the metric there.
    points : array (K, m, n)
        Where the copies start.
    covector : callable
        From what a cost gives as its Euclidean gradients to the covectors that the metric takes.
    in_frame : callable
        From a stack of matrices to the metric on blocks, and the maps of vectors there and back.
    record : callable, optional
        From a stack of matrices to the form in which the start was given.
    """

    def __init__(
        self,
        at: Callable[[Vector], Any],
        points: Vector,
        covector: Callable[[Any, Vector], Any],
        in_frame: Callable[[Vector], Any],
        record: Callable[[Vector], Any] = lambda points: points,
    ) -> None:
        self._of_place = at, covector, in_frame, record
        self._shape = points.shape
        self.stack = points.shape[:-2]
        self.state = points.astype(np.float64).ravel()

    def at(self, state: Vector) -> StackPlace:
        """The stack of these entries."""
        return StackPlace(state.reshape(self._shape), *self._of_place)


class StackPlace:
    """A matrix, or a stack of matrices, by its entries."""

    def __init__(
        self,
        points: Vector,
        at: Callable[[Vector], Any],
        covector: Callable[[Any, Vector], Any],
        in_frame: Callable[[Vector], Any],
        record: Callable[[Vector], Any],
    ) -> None:
        self._metric_at, self._covector, self._framed = at, covector, in_frame
        self.point, self._recorded = points, record

    @cached_property
    def _at(self) -> Any:
        return self._metric_at(self.point)

    @cached_property
    def record(self) -> Any:
        return self._recorded(self.point)

    @property
    def singular_values(self) -> Any:
        return _singular_values(self.point)

    def gradient(self, covector: Any) -> Vector:
        return self._at.sharp(self._covector(covector, self.point))

    def tangent(self, tangent_vector: Vector) -> Vector:
        return tangent_vector

    def norm(self, vector: Vector) -> Vector:
        return np.sqrt(np.maximum(self._at.inner(vector, vector), 0.0))

    def velocity(self, vector: Vector) -> Vector:
        return vector.ravel()

    def in_frame(self) -> tuple[Any, Callable[[Any], Any]]:
        at, _, join = self._framed(self.point)
        return at, join


class ProductCoordinates(CoordinatesBase):
    """The coordinates of a product's factors, one after the other; a point is a list of points.

    Parameters
    ----------
    factors : sequence of Coordinates
        The coordinates of each factor.
    """

    def __init__(self, factors: Sequence[Coordinates]) -> None:
        self._factors = list(factors)
        self._ends = np.cumsum([len(factor.state) for factor in factors])[:-1]
        self.state = np.concatenate([factor.state for factor in factors])

    def at(self, state: Vector) -> ProductPlace:
        """The places of the factors."""
        return ProductPlace([f.at(part) for f, part in self._parts(state)])

    def renewed(self, state: Vector) -> ProductCoordinates | None:
        """New coordinates where those of a factor are worn."""
        renewed = [factor.renewed(part) for factor, part in self._parts(state)]
        if all(factor is None for factor in renewed):
            return None
        return ProductCoordinates(
            [
                factor.around(part) if new is None else new
                for new, (factor, part) in zip(renewed, self._parts(state), strict=True)
            ]
        )

    def _parts(self, state: Vector) -> list[tuple[Coordinates, Vector]]:
        return list(zip(self._factors, np.split(state, self._ends), strict=True))


class ProductPlace:
    """The places of a product's factors."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = places

    @property
    def point(self) -> list[Any]:
        """The list of the points."""
        return [place.point for place in self._places]

    @property
    def record(self) -> list[Any]:
        return [place.record for place in self._places]

    @property
    def singular_values(self) -> None:
        """None: a product has no singular values of its own."""

    def gradient(self, covector: Sequence[Any]) -> list[Any]:
        return [p.gradient(part) for p, part in zip(self._places, covector, strict=True)]

    def tangent(self, tangent_vector: Sequence[Any]) -> list[Any]:
        pairs = zip(self._places, tangent_vector, strict=True)
        return [place.tangent(part) for place, part in pairs]

    def norm(self, vector: Sequence[Any]) -> np.float64:
        """The root of the sum of the squares."""
        norms = [p.norm(part) for p, part in zip(self._places, vector, strict=True)]
        return np.float64(np.linalg.norm(norms))

    def velocity(self, vector: Sequence[Any]) -> Vector:
        """The velocities of the states, one after the other."""
        pairs = zip(self._places, vector, strict=True)
        return np.concatenate([place.velocity(part) for place, part in pairs])

    def in_frame(self) -> tuple[Any, Callable[[Any], Any]]:
        raise TypeError("a product of manifolds has no singular values of its own")


def require_frame(name: str, point: Any, m: int, n: int, k: int) -> Frame:
    """The factors of a matrix u diag(s) vt, or of a stack, if they have the right shapes."""
    if not isinstance(point, Sequence) or len(point) != 3:
        raise ValueError(f"{name} must be a triple (u, s, vt), got {point!r}")
    u, s, vt = (
        finite_array(f"{name}.{part}", array)
        for part, array in zip(("u", "s", "vt"), point, strict=True)
    )
    stack, shapes = u.shape[:-2], (u.shape, s.shape, vt.shape)
    if shapes != ((*stack, m, k), (*stack, k), (*stack, k, n)):
        raise ValueError(
            f"{name} must have shape {(m, n)} and {k} singular values, with u, s, vt of shapes "
            f"{(m, k)}, {(k,)}, {(k, n)}, got shapes {shapes}"
        )
    if np.any(s < 0):
        raise ValueError(f"{name}.s must be nonnegative, got {s}")
    for part, factor in (("u", u), ("vt", vt)):
        sizes = np.linalg.svd(factor, compute_uv=False)
        if np.any(sizes[..., -1] <= max(m, n) * np.finfo(np.float64).eps * sizes[..., 0]):
            raise ValueError(f"{name}.{part} must have rank {k}, got singular values {sizes}")
    return Frame(u, s, vt)


def _factors(manifolds: Sequence[Manifold], point: Any, name: str) -> list[Coordinates]:
    if not isinstance(point, Sequence) or len(point) != len(manifolds):
        raise ValueError(
            f"{name} must be a list of {len(manifolds)} points, one of each factor of the product, "
            f"got {point!r}"
        )
    factors = [
        coordinates_around(factor, part, f"{name}[{j}]")
        for j, (factor, part) in enumerate(zip(manifolds, point, strict=True))
    ]
    for j, factor in enumerate(factors):
        if factor.stack:
            raise ValueError(f"{name}[{j}] must be a single point, got a stack {factor.stack}")
    return factors


def _singular_values(array: Vector) -> Any:
    return np.linalg.svd(array, compute_uv=False) if array.ndim > 1 else None
