"""Geodesics as polynomials in time, which are known by their values at Chebyshev points.

W'' + Gamma_W(W', W') = 0 with both ends given is collocated: the equation holds at the Chebyshev
points between the ends.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from scipy.optimize import NoConvergence, newton_krylov

from riemdln._arrays import NotFiniteError
from riemdln.metrics._geodesic_coordinates import PathCoordinates

__all__ = [
    "DEGREES",
    "along_time",
    "chebyshev_points",
    "differentiation",
    "double_integration",
    "resample",
    "solve",
    "solve_in_steps",
    "squared_speeds",
]

Matrix = NDArray[np.floating[Any]]

# The degrees of the polynomials that geodesics between points are sought among; even, so that the
# middle is one of the points.
DEGREES = (8, 16, 32, 64, 128, 256)


def solve_in_steps(
    coordinates: PathCoordinates, guess: Callable[[Matrix], Matrix], degree: int
) -> Matrix | None:
    """A rough geodesic from guess(0) to guess(1), or None.

    By way of guess(t), 0 < t < 1, where all of it is too far at once.
    """
    times = chebyshev_points(degree)
    reached, step = 0.0, 1.0
    correction: Matrix = np.zeros(1)
    while step > 1 / 64:
        ahead = min(reached + step, 1.0)
        # What a geodesic has over the guess grows with the square of its length.
        growth = (ahead / reached) ** 2 if reached else 0.0
        path = solve(coordinates, guess(ahead * times) + growth * correction, 1e-6)
        if path is None:
            step /= 2
        elif ahead == 1:
            return path
        else:
            correction, reached = path - guess(ahead * times), ahead
    return None


def solve(coordinates: PathCoordinates, path: Matrix, tolerance: float) -> Matrix | None:
    """The polynomial near a path that obeys W'' = -Gamma(W', W') between the same ends, or None.

    The equation is solved for W'' first, so that its linear part is the identity.
    """
    degree, shape = len(path) - 1, path.shape[1:]
    first, inside, from_ends = differentiation(degree), *double_integration(degree)
    straight = along_time(from_ends, path[[0, -1]])

    def residual(inner: Matrix) -> Matrix:
        trial = np.concatenate([path[:1], inner, path[-1:]])
        velocities = along_time(first, trial)[1:-1]
        gamma = coordinates.at(inner).christoffel(velocities, velocities)
        return inner - straight + along_time(inside, gamma)

    # The residual has to be small where the path is small, but above its rounding errors. The
    # solver's finite differences ask for unknowns of the order of one.
    sizes = np.max(np.abs(path), axis=(1, 2))
    least, largest = float(np.min(sizes)), float(np.max(sizes))
    if np.max(np.abs(path[-1] - path[0])) <= 1e-14 * largest:
        return path[0] + 0.0 * path
    tolerance = max(tolerance * max(least / largest, 1e-3), 1e-13)
    try:
        with np.errstate(all="ignore"):
            inner = (
                largest
                * newton_krylov(
                    lambda unknown: residual(largest * unknown) / largest,  # type: ignore[arg-type]
                    path[1:-1] / largest,
                    f_tol=tolerance,
                    maxiter=10,
                )
            )
    except (NoConvergence, NotFiniteError, ValueError, ZeroDivisionError, np.linalg.LinAlgError):
        return None
    return np.concatenate([path[:1], inner.reshape(-1, *shape), path[-1:]])


def squared_speeds(coordinates: PathCoordinates, path: Matrix) -> Matrix:
    """The squared speeds at the Chebyshev points."""
    velocities = along_time(differentiation(len(path) - 1), path)
    return coordinates.at(path).inner(velocities, velocities)


def along_time(matrix: Matrix, path: Matrix) -> Matrix:
    """A matrix that acts on the values at the times."""
    return np.tensordot(matrix, path, axes=1)


def resample(path: Matrix, times: Matrix) -> Matrix:
    """The values at other times of the polynomial that a path gives at its Chebyshev points."""
    degree = len(path) - 1
    vandermonde = chebyshev.chebvander(2 * chebyshev_points(degree) - 1, degree)
    return along_time(
        chebyshev.chebvander(2 * times - 1, degree) @ np.linalg.inv(vandermonde), path
    )


@cache
def chebyshev_points(degree: int) -> Matrix:
    """The extrema of the Chebyshev polynomial on [0, 1], ascending."""
    # As a sine, which makes 0, 1/2 and 1 exact.
    return (1 + np.sin(np.pi / 2 * (2 * np.arange(degree + 1) / degree - 1))) / 2


@cache
def differentiation(degree: int) -> Matrix:
    """The matrix that differentiates a polynomial given by its values at the Chebyshev points."""
    points = 2 * chebyshev_points(degree) - 1
    derivatives = chebyshev.chebvander(points, degree - 1) @ chebyshev.chebder(np.eye(degree + 1))
    return 2 * derivatives @ np.linalg.inv(chebyshev.chebvander(points, degree))


@cache
def double_integration(degree: int) -> tuple[Matrix, Matrix]:
    """The inner values of a polynomial, from its inner second derivatives and from its ends."""
    second = differentiation(degree) @ differentiation(degree)
    inside = np.linalg.inv(second[1:-1, 1:-1])
    return inside, -inside @ second[1:-1, [0, -1]]
