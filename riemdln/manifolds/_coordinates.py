"""Coordinates of manifolds for differential equations: a point as one flat vector, and back.

An integrator of ordinary differential equations moves a flat vector. Coordinates say which vector a
point is, which point a vector is, and how the vector moves when the point moves along a tangent
vector. A manifold with coordinates of its own has a method ``coordinates()`` that gives them;
`coordinates_of` finds those of any manifold that has some.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pymanopt.manifolds.manifold import Manifold

from riemdln._arrays import finite_array, floating_array

__all__ = [
    "AmbientCoordinates",
    "Coordinates",
    "FactorCoordinates",
    "ProductCoordinates",
    "coordinates_of",
]

Vector = NDArray[np.floating[Any]]


class Coordinates(Protocol):
    """How the points of a manifold are written as flat vectors, the states of an integrator."""

    def to_state(self, point: Any, name: str = "initial_point") -> Vector:
        """The state of a point; the first one is that at which the differential equation starts.

        Parameters
        ----------
        point : any
            A point as the manifold has it.
        name : str
            What errors call it.

        Returns
        -------
        array (d,)
            Of float64.

        Raises
        ------
        TypeError, ValueError
            If it is no point of the manifold: of other shapes, complex or not finite.
        """
        ...

    def to_point(self, state: Vector) -> Any:
        """The point of a state, on the manifold also where rounding has led the state off it."""
        ...

    def velocity(self, state: Vector, tangent_vector: Any) -> Vector:
        """How the state moves when its point, ``to_point(state)``, moves along a tangent vector."""
        ...


def coordinates_of(manifold: Manifold) -> Coordinates:
    """The coordinates of a manifold: its own, those of its factors, or its points' entries.

    Parameters
    ----------
    manifold : pymanopt manifold
        One that has a method ``coordinates()``, a product (with its factors in the attribute
        ``manifolds``, as pymanopt's Product has them), or one whose points are arrays.

    Returns
    -------
    Coordinates

    Raises
    ------
    ValueError
        If the manifold is none of these.
    """
    if hasattr(manifold, "coordinates"):
        return manifold.coordinates()
    if hasattr(manifold, "manifolds"):
        return ProductCoordinates([coordinates_of(factor) for factor in manifold.manifolds])
    if manifold.point_layout != 1:
        raise ValueError(
            "problem.manifold must have arrays as points (point_layout 1), be a product of "
            f"manifolds, or have a method coordinates(), got {manifold}, whose point_layout is "
            f"{manifold.point_layout}"
        )
    return AmbientCoordinates(manifold)


class AmbientCoordinates:
    """The entries of points that are arrays, in the space that they lie in.

    Tangent vectors may be of another kind than the points: on groups of matrices they lie in the
    Lie algebra. What moves the entries is their image in space, ``manifold.embedding``.

    Parameters
    ----------
    manifold : pymanopt manifold
        One whose points are arrays.
    """

    def __init__(self, manifold: Manifold) -> None:
        self._manifold = manifold
        # Not every manifold knows the shape of its points: the first one tells.
        self._shape: tuple[int, ...] = ()

    def to_state(self, point: Any, name: str = "initial_point") -> Vector:
        """The entries of the point."""
        array = finite_array(name, point).astype(np.float64)
        expected = np.shape(self._manifold.zero_vector(array))
        if array.shape != expected:
            raise ValueError(
                f"{name} must have shape {expected}, as the points of {self._manifold}, "
                f"got {array.shape}"
            )
        self._shape = expected
        return array.ravel()

    def to_point(self, state: Vector) -> Vector:
        """The array of these entries, brought back to a manifold that is curved in its space."""
        point = state.reshape(self._shape)
        if self._manifold.dim == state.size:
            return point
        # Truncation errors leave a curved manifold; the retraction of zero leads back.
        return self._manifold.retraction(point, self._manifold.zero_vector(point))

    def velocity(self, state: Vector, tangent_vector: Any) -> Vector:
        """The entries of the tangent vector as a vector in space."""
        in_space = self._manifold.embedding(self.to_point(state), tangent_vector)
        velocity = floating_array("the velocity of the point", in_space)
        if velocity.shape != self._shape:
            raise ValueError(
                f"the velocity of the point must have its shape {self._shape}, but tangent vectors "
                f"of {self._manifold} have shape {velocity.shape} in space"
            )
        return velocity.ravel()


class FactorCoordinates:
    r"""Three factors of a matrix of rank k: W = U B V^T with any invertible B.

    Singular vectors turn fast where singular values meet, these factors do not: along the tangent
    vector u M vt + Up vt + u Vp^T they may move by

    .. math:: \dot U = U_p B^{-1}, \qquad \dot B = M, \qquad \dot V = V_p B^{-T}

    where U = u, B = diag(s) and V = vt^T (Koch and Lubich 2007, with B for their S).

    Parameters
    ----------
    m, n, k : int
        The numbers of rows and columns, and the rank.
    triple : callable
        What makes a point of its factors u, s and vt.

    References
    ----------
    - O. Koch, C. Lubich. Dynamical low-rank approximation. SIAM J. Matrix Anal. Appl. 29, 2007.
    """

    def __init__(self, m: int, n: int, k: int, triple: Callable[..., Any]) -> None:
        self._m, self._n, self._k = m, n, k
        self._triple = triple

    def to_state(self, point: Any, name: str = "initial_point") -> Vector:
        """The entries of U = u, B = diag(s) and V = vt^T."""
        m, n, k = self._m, self._n, self._k
        if not isinstance(point, Sequence) or len(point) != 3:
            raise ValueError(f"{name} must be a triple (u, s, vt), got {point!r}")
        u, s, vt = (
            finite_array(f"{name}.{part}", array)
            for part, array in zip(("u", "s", "vt"), point, strict=True)
        )
        shapes = u.shape, s.shape, vt.shape
        if shapes != ((m, k), (k,), (k, n)):
            raise ValueError(
                f"{name} must have shape {(m, n)} and rank {k}, with u, s, vt of shapes "
                f"{(m, k)}, {(k,)}, {(k, n)}, got shapes {shapes}"
            )
        if np.any(s < 0):
            raise ValueError(f"{name}.s must be nonnegative, got {s}")
        return np.concatenate([u.ravel(), np.diag(s).ravel(), vt.T.ravel()]).astype(np.float64)

    def to_point(self, state: Vector) -> Any:
        """The point U B V^T, of which U and V need not be quite orthonormal."""
        return self._triple(*self._decompose(state)[0])

    def velocity(self, state: Vector, tangent_vector: Any) -> Vector:
        """The velocities of U, B and V."""
        (_, s, _), left, right = self._decompose(state)
        Up, M, Vp = tangent_vector
        s = np.where(s > 0, s, 1.0)
        # The formulas hold for u, diag(s) and vt^T. Here u = U C with C = left^{-1}, which does
        # not move, and the same on the right.
        B = np.linalg.solve(left, np.linalg.solve(right, M.T).T)
        return np.concatenate([((Up / s) @ left).ravel(), B.ravel(), ((Vp / s) @ right).ravel()])

    def _decompose(self, state: Vector) -> tuple[tuple[Vector, Vector, Vector], Vector, Vector]:
        """The factors u, s, vt at a state, left = u^T U and right = v^T V."""
        m, k = self._m, self._k
        U, B, V = (part.reshape(-1, k) for part in np.split(state, [m * k, m * k + k * k]))
        (Q_u, R_u), (Q_v, R_v) = np.linalg.qr(U), np.linalg.qr(V)
        left, s, right = np.linalg.svd(R_u @ B @ R_v.T)
        return (Q_u @ left, s, right @ Q_v.T), left.T @ R_u, right @ R_v


class ProductCoordinates:
    """The coordinates of a product's factors, one after the other; a point is a list of points.

    Parameters
    ----------
    factors : sequence of Coordinates
        The coordinates of each factor.
    """

    def __init__(self, factors: Sequence[Coordinates]) -> None:
        self._factors = list(factors)
        self._ends: list[int] = []

    def to_state(self, point: Any, name: str = "initial_point") -> Vector:
        """The states of the points, one after the other."""
        count = len(self._factors)
        if not isinstance(point, Sequence) or len(point) != count:
            raise ValueError(
                f"{name} must be a list of {count} points, one of each factor of the product, "
                f"got {point!r}"
            )
        states = [
            factor.to_state(part, f"{name}[{j}]")
            for j, (factor, part) in enumerate(zip(self._factors, point, strict=True))
        ]
        self._ends = [int(end) for end in np.cumsum([len(state) for state in states])[:-1]]
        return np.concatenate(states)

    def to_point(self, state: Vector) -> list[Any]:
        """The list of the points."""
        parts = np.split(state, self._ends)
        return [factor.to_point(part) for factor, part in zip(self._factors, parts, strict=True)]

    def velocity(self, state: Vector, tangent_vector: Any) -> Vector:
        """The velocities of the states, one after the other."""
        parts = np.split(state, self._ends)
        return np.concatenate(
            [
                factor.velocity(part, vector)
                for factor, part, vector in zip(self._factors, parts, tangent_vector, strict=True)
            ]
        )
