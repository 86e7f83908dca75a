"""First guesses at the geodesic between two states, as functions of time in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline
from scipy.linalg import polar, schur
from scipy.optimize import minimize

from riemdln.metrics._geodesic_coordinates import GeodesicCoordinates

__all__ = ["Guess", "first_guesses", "polar_paths", "relaxed", "through"]

Matrix = NDArray[np.floating[Any]]

Guess = Callable[[Matrix], Matrix]

# Of turns the other way round, and of straight lines, those are tried that may be the shortest way:
# by angles of more than this, and of at most this length in proportion to the polar path.
_NEARLY_HALF = 0.9 * np.pi
_NEARLY_AS_SHORT = 1.5

# The intervals of a polyline.
_INTERVALS = 32


def first_guesses(
    coordinates: GeodesicCoordinates, a: Matrix, b: Matrix, *, keep_rank: bool
) -> list[Guess]:
    """Paths from one state to another, the most promising one first.

    Parameters
    ----------
    coordinates : GeodesicCoordinates
        The coordinates.
    a, b : array (m, n)
        The states.
    keep_rank : bool
        Whether the path has to avoid states of lower rank.
    """
    straight = through(np.stack([a, b]))
    if not keep_rank:
        return [straight]
    ways = polar_paths(a, b)
    most = _NEARLY_AS_SHORT**2 * _energy(coordinates, ways[0])
    return ways + [way for way in (straight, frame_path(a, b)) if _energy(coordinates, way) <= most]


def through(path: Matrix) -> Guess:
    """The path through states (L, m, n) at equal steps of time: a spline."""
    degree = min(3, len(path) - 1)
    spline: Guess = make_interp_spline(np.linspace(0, 1, len(path)), path, k=degree)
    return spline


def polar_paths(a: Matrix, b: Matrix) -> list[Guess]:
    """Paths that keep the rank: of a = Q H, Q turns steadily to its other end and H goes straight.

    Q is orthonormal and H positive definite. A second path turns Q the other way round in one
    plane, where its angle is nearly a half turn.
    """
    if a.shape[0] < a.shape[1]:
        return [_transposed(path) for path in polar_paths(a.T, b.T)]
    (Q_a, H_a), (Q_b, H_b) = polar(a), polar(b)

    def path(turn: Guess) -> Guess:
        def at_times(times: Matrix) -> Matrix:
            t = times[:, None, None]
            return turn(times) @ ((1 - t) * H_a + t * H_b)

        return at_times

    return [path(turn) for turn in _turns(Q_a, Q_b)]


def frame_path(a: Matrix, b: Matrix) -> Guess:
    """A path that keeps the rank: both frames turn steadily, and singular values go straight."""
    if a.shape[0] < a.shape[1]:
        return _transposed(frame_path(a.T, b.T))
    (U_a, s_a, Vt_a), (U_b, s_b, Vt_b) = (
        np.linalg.svd(state, full_matrices=False) for state in (a, b)
    )
    # Of each pair of singular vectors the sign is free, but frames of one orientation are needed.
    alike = np.sum(U_a * U_b, axis=0) + np.sum(Vt_a * Vt_b, axis=1)
    signs = np.where(alike < 0, -1.0, 1.0)
    if np.linalg.slogdet(Vt_a @ (Vt_b.T * signs))[0] < 0:
        signs[np.argmin(np.abs(alike))] *= -1
    left, right = _turns(U_a, U_b * signs)[0], _turns(Vt_a.T, Vt_b.T * signs)[0]

    def path(times: Matrix) -> Matrix:
        s = s_a + times[:, None] * (s_b - s_a)
        return (left(times) * s[:, None, :]) @ right(times).mT

    return path


def relaxed(coordinates: GeodesicCoordinates, guess: Guess) -> Guess:
    """The polyline of least energy that is found from a guess, as a path."""
    nodes = guess(np.linspace(0, 1, _INTERVALS + 1))
    # The energy of a constant metric is a sum of squares in these unknowns.
    laplacian = 2 * np.eye(_INTERVALS - 1) - np.eye(_INTERVALS - 1, k=1)
    laplacian -= np.eye(_INTERVALS - 1, k=-1)
    basis = np.linalg.inv(np.linalg.cholesky(_INTERVALS * laplacian)).T

    def moved(unknowns: Matrix) -> Matrix:
        inner = nodes[1:-1] + np.tensordot(basis, unknowns.reshape(nodes[1:-1].shape), axes=1)
        return np.concatenate([nodes[:1], inner, nodes[-1:]])

    def energy(unknowns: Matrix) -> tuple[float, Matrix]:
        value, gradient = _polyline_energy(coordinates, moved(unknowns))
        return value, np.tensordot(basis.T, gradient[1:-1], axes=1).ravel()

    with np.errstate(all="ignore"):
        found: Any = minimize(
            energy,
            np.zeros(nodes[1:-1].size),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 500},
        )
    return through(moved(found.x))


def _energy(coordinates: GeodesicCoordinates, guess: Guess) -> float:
    """The square of the length of a guess, if its speed is constant: twice its energy."""
    return 2 * _polyline_energy(coordinates, guess(np.linspace(0, 1, _INTERVALS + 1)))[0]


def _polyline_energy(coordinates: GeodesicCoordinates, nodes: Matrix) -> tuple[float, Matrix]:
    """The energy L / 2 sum_k g(D_k, D_k) of L steps D_k, g at their middles, and its gradient."""
    steps, intervals = np.diff(nodes, axis=0), len(nodes) - 1
    at = coordinates.at((nodes[1:] + nodes[:-1]) / 2)
    p = at.flat(steps)
    pull = intervals / 4 * at.sharp_derivative_adjoint(p, p)
    gradient = np.zeros_like(nodes)
    gradient[1:] += intervals * p - pull
    gradient[:-1] -= intervals * p + pull
    return intervals / 2 * float(np.sum(p * steps)), gradient


def _transposed(path: Guess) -> Guess:
    return lambda times: path(times).mT


def _turns(Q_a: Matrix, Q_b: Matrix) -> list[Guess]:
    """Orthonormal columns that turn from Q_a at 0 to Q_b at 1, by powers of one rotation.

    The rotation acts on the space of all the columns. It takes Q_a to Q_b, and what is orthogonal
    to Q_a as little as it can.
    """
    m, n = Q_a.shape
    basis = np.linalg.qr(np.hstack([Q_a, Q_b - Q_a @ (Q_a.T @ Q_b)]))[0][:, : min(m, 2 * n)]
    basis[:, :n] = Q_a
    image = basis.T @ Q_b
    complement = np.linalg.svd(image)[0][:, n:]
    left, _, right = np.linalg.svd(complement[n:].T)
    rest = complement @ left @ right
    if rest.shape[1] and np.linalg.slogdet(np.hstack([image, rest]))[0] < 0:
        rest = complement @ (left * np.append(np.ones(len(left) - 1), -1.0)) @ right
    triangle, vectors = schur(np.hstack([image, rest]))
    planes = _planes(triangle)

    def turn(planes: list[tuple[int, int, float]]) -> Guess:
        def at_times(times: Matrix) -> Matrix:
            turned = np.zeros((len(times), *triangle.shape)) + np.eye(len(triangle))
            for i, j, angle in planes:
                turned[:, i, i] = turned[:, j, j] = np.cos(times * angle)
                turned[:, j, i] = np.sin(times * angle)
                turned[:, i, j] = -turned[:, j, i]
            return basis @ (vectors @ (turned @ vectors[:n].T))

        return at_times

    turns = [turn(planes)]
    if planes:
        i, j, angle = max(planes, key=lambda plane: abs(plane[2]))
        if abs(angle) > _NEARLY_HALF:
            other = (i, j, angle - np.copysign(2 * np.pi, angle))
            turns.append(turn([*(plane for plane in planes if plane != (i, j, angle)), other]))
    return turns


def _planes(triangle: Matrix) -> list[tuple[int, int, float]]:
    """The planes (i, j) of a rotation in its real Schur form, and their angles."""
    planes, reflected, i = [], [], 0
    while i < len(triangle):
        if i + 1 < len(triangle) and triangle[i + 1, i] != 0:
            planes.append((i, i + 1, float(np.arctan2(triangle[i + 1, i], triangle[i, i]))))
            i += 2
        else:
            reflected += [i] if triangle[i, i] < 0 else []
            i += 1
    # A rotation has an even number of eigenvalues -1.
    return planes + [(i, j, np.pi) for i, j in zip(reflected[::2], reflected[1::2], strict=True)]
