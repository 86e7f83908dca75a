"""Geodesics from a point with a velocity, for any metric."""

from __future__ import annotations

from functools import partial
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp

from riemdln._arrays import (
    Array,
    NotFiniteError,
    finite_matrix,
    increasing_times,
    like,
    point_of_shape,
    positive_number,
    to_numpy,
)
from riemdln._frame import singular_frame
from riemdln.geodesics._results import Geodesic, GeodesicError
from riemdln.metrics import Metric

__all__ = ["exponential", "geodesic", "require_full_rank"]


def exponential(
    metric: Metric, W: Array, X: Array, *, rtol: float = 1e-11, rank: int | None = None
) -> Array:
    """The point that the geodesic from W with velocity X reaches in unit time.

    Parameters
    ----------
    metric : Metric
        The metric.
    W, X : array (m, n)
        The point and the tangent vector.
    rtol : float
        The relative tolerance of the integrator.
    rank : int, optional
        The rank of the matrices: see `geodesic`.

    Returns
    -------
    array (m, n)

    Raises
    ------
    GeodesicError
        If the geodesic runs into a matrix of lower rank.

    Examples
    --------
    >>> import numpy as np
    >>> from riemdln import DeepLinearMetric
    >>> from riemdln.geodesics import exponential
    >>> W = np.diag([1.0, 4.0])  # at depth 2 the square roots of singular values move evenly
    >>> np.round(exponential(DeepLinearMetric(2), W, np.diag([2.0, 4.0])), 9)
    array([[4., 0.],
           [0., 9.]])
    """
    return geodesic(metric, W, X, [0.0, 1.0], rtol=rtol, rank=rank).points[-1, ...]


def geodesic(
    metric: Metric,
    W: Array,
    X: Array,
    times: ArrayLike,
    *,
    rtol: float = 1e-11,
    rank: int | None = None,
    max_evaluations: int = 10_000,
) -> Geodesic:
    r"""The geodesic from W with velocity X.

    It is integrated in Hamiltonian form, which needs no inverse,

    .. math:: \dot W = A_W(p), \qquad \dot p = -\tfrac12 \Xi_W(p, p), \qquad p(0) = A_W^{-1} X,

    by an explicit Runge-Kutta method of order 8. The Hamiltonian <p, A_W(p)> / 2, half the square
    of the speed, is conserved to the tolerance.

    Parameters
    ----------
    metric : Metric
        The metric.
    W, X : array (m, n)
        The point and the tangent vector.
    times : array_like (K,)
        Strictly increasing times; the geodesic is at W at the first.
    rtol : float
        The relative tolerance of the integrator.
    rank : int, optional
        The rank of the matrices; by default they are of full rank. A metric at a lower rank is
        that of `SpectralMetric.at` with this rank.
    max_evaluations : int
        How often the equation may be evaluated. A geodesic takes some hundreds; one that comes
        closer and closer to lower rank takes any number.

    Returns
    -------
    Geodesic

    Raises
    ------
    GeodesicError
        If the geodesic runs into a matrix of lower rank, or takes too many evaluations.

    Examples
    --------
    >>> import numpy as np
    >>> from riemdln import DeepLinearMetric
    >>> from riemdln.geodesics import geodesic
    >>> one = np.ones((1, 1))  # at depth 2 it is (1 + t / 2)^2 w
    >>> np.round(geodesic(DeepLinearMetric(2), one, one, [0.0, 1.0, 2.0]).points.ravel(), 9)
    array([1.  , 2.25, 4.  ])
    """
    given = finite_matrix("W", W)
    X = to_numpy(finite_matrix("X", point_of_shape("X", X, given.shape))).astype(np.float64)
    W = to_numpy(given).astype(np.float64)
    times, rtol = increasing_times("times", times), positive_number("rtol", rtol)
    duration = times[-1] - times[0]
    metric_at = partial(metric.at, rank=rank)
    start = metric_at(W)
    momentum = start.flat(X)
    if metric.ends_at_lower_rank:
        require_full_rank("point", W, rank)
    length = float(duration * np.sqrt(start.inner(X, X)))
    if duration == 0 or length == 0:
        path = W + 0.0 * times[:, None, None]
        velocity_there = X if momentum.any() else 0.0 * X  # a frozen direction leads nowhere
        return _as_given(given, times, path, 0.0 * path + velocity_there, length)

    start.sharp_derivative_adjoint(momentum, momentum)  # says what is wrong at the start
    evaluations, smallest = count(), np.linalg.svd(W, compute_uv=False)[:rank][-1]
    size = max(float(np.linalg.norm(W)), duration * float(np.linalg.norm(X)))

    def velocity(time: float, state: Array) -> Array:
        if next(evaluations) > max_evaluations:
            raise GeodesicError(
                f"the geodesic was followed up to time {time:.6g} only, which took "
                f"{max_evaluations} evaluations: a longer one takes more (max_evaluations), and so "
                "does one that comes close to a matrix of lower rank"
            )
        point, p = state.reshape(2, *W.shape)
        try:
            at = metric_at(point)
            pull = at.sharp_derivative_adjoint(p, p)
            return np.concatenate([at.sharp(p).ravel(), -pull.ravel() / 2])
        except NotFiniteError:  # a trial step that overflows is shortened
            return np.full_like(state, np.nan)

    def rank_margin(time: float, state: Array) -> float:
        s = np.linalg.svd(state[: W.size].reshape(W.shape), compute_uv=False)[:rank]
        # All singular values may go to zero together, or the last one start near zero.
        return float(s[-1] - min(max(1e-8 * s[0], 1e-12 * size), 1e-4 * smallest))

    rank_margin.terminal = True  # type: ignore[attr-defined]
    rank_margin.direction = -1  # type: ignore[attr-defined] # a geodesic may leave the margin
    scales = np.repeat([size, np.linalg.norm(momentum)], W.size)
    with np.errstate(over="ignore", invalid="ignore"):
        solution: Any = solve_ivp(
            velocity,
            (times[0], times[-1]),
            np.concatenate([W.ravel(), momentum.ravel()]),
            method="DOP853",
            t_eval=times,
            rtol=rtol,
            atol=rtol * 1e-2 * scales,
            events=rank_margin if metric.ends_at_lower_rank else None,
        )
    if solution.status != 0:
        if solution.status == 1:
            raise GeodesicError(
                "the geodesic runs into a matrix of lower rank at time "
                f"{solution.t_events[0][0]:.6g}; a shorter tangent vector stops before it"
            )
        raise GeodesicError(f"the geodesic was not followed to its end: {solution.message}")
    points, momenta = solution.y.T.reshape(len(times), 2, *W.shape).swapaxes(0, 1)
    velocities = np.stack([metric_at(V).sharp(p) for V, p in zip(points, momenta, strict=True)])
    return _as_given(given, times, points, velocities, length)


def _as_given(W: Array, times: Array, points: Array, velocities: Array, length: float) -> Geodesic:
    return Geodesic(times, like(W, points), like(W, velocities), length)


def require_full_rank(name: str, W: Array, rank: int | None = None) -> None:
    """Raise a GeodesicError where a matrix is of lower rank, up to rounding error."""
    frame = singular_frame(W).at_rank(rank)
    if not frame.s[-1] > frame.rounding:
        raise GeodesicError(
            f"the {name} is of lower rank: its singular values range from {frame.s[0]:.1e} to "
            f"{frame.s[-1]:.1e}"
        )
