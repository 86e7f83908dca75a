"""The geodesic between two near points, by their difference, which keeps its digits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from riemdln._arrays import NotFiniteError
from riemdln.geodesics._collocation import (
    along_time,
    chebyshev_points,
    differentiation,
    double_integration,
    resample,
)
from riemdln.geodesics._rank_coordinates import rank_paths
from riemdln.metrics import Metric
from riemdln.metrics._geodesic_coordinates import EntryCoordinates, PathCoordinates

__all__ = ["near_geodesic"]

Matrix = NDArray[np.floating[Any]]

# How far the equation may bend the straight line, in proportion to its length, and the degree.
_NEARLY_STRAIGHT, _DEGREE = 1e-4, 8


def near_geodesic(
    metric: Metric, W_a: Matrix, W_b: Matrix, times: Matrix, rank: int | None, tolerance: float
) -> tuple[Matrix, Matrix, float] | None:
    """The points, velocities and length of a geodesic that is nearly a straight line.

    Picard's iteration solves W'' = -Gamma_W(W', W') for W(t) - W_a. None where the points are too
    far apart for it, or the metric is flat.
    """
    entries = EntryCoordinates(metric, rank)
    coordinates: PathCoordinates = entries
    if rank is not None:
        coordinates = next(rank_paths(entries, W_a, W_b, rank))[0]
    start, step = coordinates.states(W_a), coordinates.states(W_b - W_a)
    straight = chebyshev_points(_DEGREE)[:, None, None] * step
    first, (inside, _) = differentiation(_DEGREE), double_integration(_DEGREE)
    try:
        at = coordinates.at(start)
        bend = at.christoffel(step, step)
        square, bent = float(at.inner(step, step)), float(at.inner(bend, bend))
        if not 0 < bent <= _NEARLY_STRAIGHT**2 * square:
            return None
        moved, change = straight, np.inf
        while change > 1e-14 * np.max(np.abs(step)):
            velocities = along_time(first, moved)[1:-1]
            gamma = coordinates.at(start + moved[1:-1]).christoffel(velocities, velocities)
            before, moved = moved, straight.copy()
            moved[1:-1] -= along_time(inside, gamma)
            last, change = change, float(np.max(np.abs(moved - before)))
            if not change < last:
                break
        velocities = along_time(first, moved)
        squares = coordinates.at(start + moved).inner(velocities, velocities)
    except (NotFiniteError, np.linalg.LinAlgError):
        return None
    if not np.ptp(squares) <= tolerance * np.mean(squares):
        return None
    states, velocities = start + resample(moved, times), resample(velocities, times)
    points = coordinates.points(states)
    points[times == 0], points[times == 1] = W_a, W_b
    return points, coordinates.to_points(states, velocities), float(np.mean(squares)) ** 0.5
