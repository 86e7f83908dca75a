"""Coordinates of matrices of a rank k below min(m, n), for geodesics between two of them.

In orthonormal bases whose first k columns are near the column and the row space of a matrix, its
blocks are::

    [[ C,  F ],
     [ E,  E C^-1 F ]],    C of size k x k.

So it is given by C, E and F as long as C is invertible. A state has these blocks, and zero in
place of the last one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riemdln.geodesics._guesses import Guess, polar_paths, through
from riemdln.geodesics._results import GeodesicError
from riemdln.metrics._geodesic_coordinates import GeodesicCoordinates, PathAt

__all__ = ["RankCoordinates", "rank_paths"]

Matrix = NDArray[np.floating[Any]]


class RankCoordinates:
    """Coordinates of matrices of rank k by three of their blocks.

    Parameters
    ----------
    ambient : GeodesicCoordinates
        Coordinates of matrices of rank k by matrices of the same shape and rank.
    left, right : array (m, m) and (n, n)
        The orthonormal bases.
    rank : int
        The rank k.
    """

    def __init__(
        self, ambient: GeodesicCoordinates, left: Matrix, right: Matrix, rank: int
    ) -> None:
        self._ambient, self._left, self._right, self._rank = ambient, left, right, rank

    def states(self, points: Matrix) -> Matrix:
        return self.kept(self._ambient.states(points))

    def points(self, states: Matrix) -> Matrix:
        return self._ambient.points(self.whole(states))

    def singular_values(self, states: Matrix) -> Matrix:
        return self._ambient.singular_values(self.whole(states))

    def keeps_rank(self, path: Matrix) -> bool:
        return bool(np.ptp(np.linalg.slogdet(self._blocks(path)[0])[0]) == 0)

    def to_states(self, states: Matrix, tangent_vectors: Matrix) -> Matrix:
        return self.kept(self._ambient.to_states(self.whole(states), tangent_vectors))

    def to_points(self, states: Matrix, velocities: Matrix) -> Matrix:
        return self._ambient.to_points(self.whole(states), self.moved(states, velocities))

    def at(self, states: Matrix) -> PathAt:
        return _RankAt(self, self._ambient, states, self._rank)

    def kept(self, R: Matrix) -> Matrix:
        """The blocks C, E and F of a matrix in the bases, and zero for the last one."""
        blocks = self._left.T @ R @ self._right
        blocks[..., self._rank :, self._rank :] = 0
        return blocks

    def whole(self, states: Matrix) -> Matrix:
        """The matrix that three blocks stand for."""
        C, E, F = self._blocks(states)
        return self._filled(states, E @ np.linalg.solve(C, F))

    def moved(self, states: Matrix, velocities: Matrix) -> Matrix:
        """How the matrix moves when its three blocks do."""
        (C, E, F), (C_dot, E_dot, F_dot) = self._blocks(states), self._blocks(velocities)
        last = np.linalg.solve(C, F)
        return self._filled(velocities, E_dot @ last + E @ np.linalg.solve(C, F_dot - C_dot @ last))

    def bend(self, states: Matrix, X: Matrix, Y: Matrix) -> Matrix:
        """The second derivative of the matrix in its three blocks: of E C^-1 F."""
        (C, E, F), x, y = self._blocks(states), self._blocks(X), self._blocks(Y)
        below, beside = E @ np.linalg.inv(C), np.linalg.solve(C, F)

        def product(one: tuple[Matrix, ...], other: tuple[Matrix, ...]) -> Matrix:
            return (one[1] - below @ one[0]) @ np.linalg.solve(C, other[2] - other[0] @ beside)

        return self._filled(np.zeros_like(states), product(x, y) + product(y, x))

    def _blocks(self, states: Matrix) -> tuple[Matrix, Matrix, Matrix]:
        k = self._rank
        return states[..., :k, :k], states[..., k:, :k], states[..., :k, k:]

    def _filled(self, states: Matrix, last: Matrix) -> Matrix:
        whole = states.copy()
        whole[..., self._rank :, self._rank :] = last
        return self._left @ whole @ self._right.T


class _RankAt:
    def __init__(
        self, coordinates: RankCoordinates, ambient: GeodesicCoordinates, states: Matrix, rank: int
    ) -> None:
        self._coordinates, self._states = coordinates, states
        R = coordinates.whole(states)
        self._at, self._spaces = ambient.at(R), _spaces(R, rank)

    def inner(self, X: Matrix, Y: Matrix) -> Matrix:
        moved = self._coordinates.moved
        return self._at.inner(moved(self._states, X), moved(self._states, Y))

    def christoffel(self, X: Matrix, Y: Matrix) -> Matrix:
        """Three blocks of the tangent part of that of matrices and of the second derivative.

        Of a metric at a lower rank only the tangent part of the Christoffel symbols is known.
        """
        one = self._coordinates.moved(self._states, X)
        other = one if Y is X else self._coordinates.moved(self._states, Y)
        total = self._at.christoffel(one, other) + self._coordinates.bend(self._states, X, Y)
        U, V = self._spaces
        half = total - U @ (U.mT @ total)
        return self._coordinates.kept(total - half + half @ V @ V.mT)


def rank_paths(
    ambient: GeodesicCoordinates, a: Matrix, b: Matrix, rank: int
) -> Iterator[tuple[RankCoordinates, Guess]]:
    """Paths between two matrices of a rank that keep it, with coordinates for each.

    On the first one the column space turns steadily by its principal angles, and so does the row
    space; between them, the k x k matrices go along the path of `polar_paths`. On the others both
    factors of R = (U lambda^{1/2}) (V lambda^{1/2})^T go straight, as near to one another as they
    can be, or with one column reversed.

    Parameters
    ----------
    ambient : GeodesicCoordinates
        Coordinates of matrices of rank k by matrices of the same shape and rank.
    a, b : array (m, n)
        The states of the matrices in them.
    rank : int
        The rank k.

    Raises
    ------
    GeodesicError
        If the spaces are the same, and the determinants in them have opposite signs.
    """
    (U_a, V_a), (U_b, V_b) = (_spaces(R, rank) for R in (a, b))
    left, right = _Turn(U_a, U_b), _Turn(V_a, V_b)
    cores = left.start.T @ a @ right.start, left.end.T @ b @ right.end
    if np.linalg.slogdet(cores[0])[0] != np.linalg.slogdet(cores[1])[0]:
        # The longest turn goes the other way, to the negative of its end.
        longer = left if left.angles[-1] >= right.angles[-1] else right
        longer.reverse_last()
        cores = cores[0], left.end.T @ b @ right.end
    core = polar_paths(*cores)[0]

    yield _in_coordinates(ambient, left.at, right.at, core, rank)

    (L_a, R_a), (L_b, R_b) = (_factors(R, rank) for R in (a, b))
    Y, _, Zt = np.linalg.svd(L_a.T @ L_b + R_a.T @ R_b)
    for last in (1.0, -1.0):
        Q = ((Y * np.append(np.ones(rank - 1), last)) @ Zt).T
        L, R = through(np.stack([L_a, L_b @ Q])), through(np.stack([R_a, R_b @ Q]))
        yield _in_coordinates(ambient, L, R, None, rank)


def _in_coordinates(
    ambient: GeodesicCoordinates, left: Guess, right: Guess, core: Guess | None, rank: int
) -> tuple[RankCoordinates, Guess]:
    """The path L(t) C(t) R(t)^T, in bases that begin with the spaces of L and R half-way."""
    middle = np.array([0.5])
    P, Q = (np.linalg.svd(factor(middle)[0])[0] for factor in (left, right))
    coordinates = RankCoordinates(ambient, P, Q, rank)

    def path(times: Matrix) -> Matrix:
        L = left(times) if core is None else left(times) @ core(times)
        return coordinates.kept(L @ right(times).mT)

    return coordinates, path


class _Turn:
    """Orthonormal columns that turn from one space to another by the principal angles."""

    def __init__(self, U_a: Matrix, U_b: Matrix) -> None:
        Y, _, Zt = np.linalg.svd(U_a.T @ U_b)
        self.start, self.end = U_a @ Y, U_b @ Zt.T
        across = self.end - self.start * np.sum(self.start * self.end, axis=0)
        sines = np.linalg.norm(across, axis=0)
        self.angles = np.arctan2(sines, np.sum(self.start * self.end, axis=0))
        self._across = across / np.where(sines > 0, sines, 1.0)

    def at(self, times: Matrix) -> Matrix:
        angles = times[:, None, None] * self.angles
        return self.start * np.cos(angles) + self._across * np.sin(angles)

    def reverse_last(self) -> None:
        """Turn the last column by the supplement of its angle, to the negative of its end."""
        if not np.any(self._across[:, -1]):
            raise GeodesicError(
                "no geodesic is known between points that share both spaces, in which their "
                "determinants have opposite signs"
            )
        self.angles[-1] = np.pi - self.angles[-1]
        self.end[:, -1] *= -1
        self._across[:, -1] *= -1


def _spaces(R: Matrix, rank: int) -> tuple[Matrix, Matrix]:
    U, _, Vt = np.linalg.svd(R, full_matrices=False)
    return U[..., :rank], Vt[..., :rank, :].mT


def _factors(R: Matrix, rank: int) -> tuple[Matrix, Matrix]:
    U, roots, Vt = np.linalg.svd(R, full_matrices=False)
    root = roots[:rank] ** 0.5
    return U[:, :rank] * root, Vt[:rank].T * root
