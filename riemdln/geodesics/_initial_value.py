"""The Levi-Civita connection of any metric: Hessians and geodesics.

All of it follows from the cometric and its derivative. Geodesics between two given points are found
in `riemdln.geodesics`.
"""

from __future__ import annotations

from itertools import count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import solve_ivp

from riemdln._arrays import (
    NotFiniteError,
    finite_matrix,
    increasing_times,
    point_of_shape,
    positive_number,
)
from riemdln.metrics import Metric

__all__ = [
    "Geodesic",
    "GeodesicError",
    "exponential",
    "geodesic",
    "hessian",
    "second_order_retraction",
]

Matrix = NDArray[np.floating[Any]]


class GeodesicError(RuntimeError):
    """A geodesic runs into a matrix of lower rank, or none was found between two points."""


class Geodesic(NamedTuple):
    """A geodesic at K times.

    Attributes
    ----------
    times : array (K,)
        The times; of a geodesic between two points the Chebyshev points of [0, 1], with 1/2 in
        the middle.
    points, velocities : array (K, m, n)
        The matrices W(t) and their derivatives W'(t).
    length : float
        The length from the first time to the last.
    """

    times: NDArray[np.floating[Any]]
    points: Matrix
    velocities: Matrix
    length: float


def hessian(
    metric: Metric,
    W: Matrix,
    X: Matrix,
    euclidean_gradient: Matrix,
    euclidean_hessian: Matrix,
) -> Matrix:
    r"""The Riemannian Hessian of a cost E along a tangent vector.

    .. math::

        \mathrm{Hess}\, E[X] = A(D^2E[X]) + \tfrac12 DA[X] p - \tfrac12 DA[A p] x
                             + \tfrac12 A(\Xi(x, p)), \qquad p = \nabla E, \quad x = A^{-1} X

    Parameters
    ----------
    metric : Metric
        The metric.
    W, X : array (m, n)
        The point and the tangent vector.
    euclidean_gradient, euclidean_hessian : array (m, n)
        The Euclidean gradient of E at W, and the derivative of the Euclidean gradient along X.

    Returns
    -------
    array (m, n)

    References
    ----------
    - N. Boumal. An introduction to optimization on smooth manifolds. 2023, section 5.

    Examples
    --------
    >>> import numpy as np
    >>> from riemdln import DeepLinearMetric
    >>> from riemdln.geodesics import hessian
    >>> one = np.ones((1, 1))  # E(w) = w under A = 2 w: E is r^2 / 2 in arc length r = sqrt(2 w)
    >>> hessian(DeepLinearMetric(2), 3 * one, one, one, 0 * one)
    array([[1.]])
    """
    p = euclidean_gradient
    if metric.is_constant:
        return metric.sharp(W, euclidean_hessian)
    x = metric.flat(W, X)
    lifted = metric.sharp(W, euclidean_hessian + metric.sharp_derivative_adjoint(W, x, p) / 2)
    along_gradient = metric.sharp_derivative(W, metric.sharp(W, p), x)
    return lifted + (metric.sharp_derivative(W, X, p) - along_gradient) / 2


def second_order_retraction(metric: Metric, W: Matrix, X: Matrix) -> Matrix:
    r"""Where a step X leads that follows the geodesic to second order, W + X - Gamma_W(X, X) / 2.

    Parameters
    ----------
    metric : Metric
        The metric.
    W, X : array (m, n)
        The point and the tangent vector.

    Returns
    -------
    array (m, n)

    Examples
    --------
    >>> import numpy as np
    >>> from riemdln import DeepLinearMetric
    >>> from riemdln.geodesics._initial_value import second_order_retraction
    >>> one = np.ones((1, 1))  # the geodesic at depth 2 is (1 + t / 2)^2 w
    >>> second_order_retraction(DeepLinearMetric(2), one, one)
    array([[2.25]])
    """
    W = finite_matrix("W", W)
    X = finite_matrix("X", point_of_shape("X", X, W.shape))
    return W + X - metric.christoffel(W, X, X) / 2


def exponential(metric: Metric, W: Matrix, X: Matrix, *, rank: int | None = None) -> Matrix:
    """Where the geodesic from W with velocity X leads in unit time.

    Parameters
    ----------
    metric : Metric
        The metric.
    W, X : array (m, n)
        The point and the tangent vector.
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
    return geodesic(metric, W, X, [0.0, 1.0], rank=rank).points[-1]


def geodesic(
    metric: Metric,
    W: Matrix,
    X: Matrix,
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
        that of `SpectralMetric.at_rank`.
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
    W = finite_matrix("W", W)
    X = finite_matrix("X", point_of_shape("X", X, W.shape))
    times, rtol = increasing_times("times", times), positive_number("rtol", rtol)
    duration = times[-1] - times[0]
    momentum = metric.flat(W, X)
    if not momentum.any():
        X = 0.0 * X  # frozen
    if metric.is_constant or duration == 0 or not X.any():
        path = W + (times - times[0])[:, None, None] * X
        length = duration * np.sqrt(metric.inner(W, X, X))
        return Geodesic(times, path, np.broadcast_to(X, path.shape).copy(), float(length))

    if metric.ends_at_lower_rank:
        require_full_rank("point", W, rank)

    metric.sharp_derivative_adjoint(W, momentum, momentum)  # says what is wrong at the start
    evaluations, smallest = count(), np.linalg.svd(W, compute_uv=False)[:rank][-1]
    size = max(float(np.linalg.norm(W)), duration * float(np.linalg.norm(X)))

    def velocity(time: float, state: Matrix) -> Matrix:
        if next(evaluations) > max_evaluations:
            raise GeodesicError(
                f"the geodesic was followed up to time {time:.6g} only, which took "
                f"{max_evaluations} evaluations: a longer one takes more (max_evaluations), and so "
                "does one that comes close to a matrix of lower rank"
            )
        point, p = state.reshape(2, *W.shape)
        try:
            pull = metric.sharp_derivative_adjoint(point, p, p)
            return np.concatenate([metric.sharp(point, p).ravel(), -pull.ravel() / 2])
        except NotFiniteError:  # a trial step that overflows is shortened
            return np.full_like(state, np.nan)

    def rank_margin(time: float, state: Matrix) -> float:
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
    states = solution.y.T.reshape(len(times), 2, *W.shape).astype(W.dtype, copy=False)
    points, momenta = states.swapaxes(0, 1)
    velocities = np.stack([metric.sharp(V, p) for V, p in zip(points, momenta, strict=True)])
    return Geodesic(times, points, velocities, float(duration * np.sqrt(metric.inner(W, X, X))))


def require_full_rank(name: str, W: Matrix, rank: int | None = None) -> None:
    """Raise a GeodesicError where a matrix is of lower rank, up to rounding error."""
    s = np.linalg.svd(W, compute_uv=False)[:rank]
    if not s[-1] > 1e-12 * s[0]:
        raise GeodesicError(
            f"the {name} is of lower rank: its singular values range from {s[0]:.1e} to {s[-1]:.1e}"
        )
