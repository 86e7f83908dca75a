"""Geodesics from a point with a velocity, for any metric."""

from __future__ import annotations

import warnings
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import DOP853

from riemdln._arrays import (
    Array,
    NotFiniteError,
    finite_matrix,
    increasing_times,
    integer,
    like,
    point_of_shape,
    positive_number,
    to_numpy,
)
from riemdln._frame import singular_frame
from riemdln.geodesics._results import Geodesic, GeodesicError, LowerRankError
from riemdln.metrics import Metric
from riemdln.metrics._geodesic_coordinates import GeodesicCoordinates

__all__ = ["exponential", "geodesic", "require_full_rank"]

Matrix = NDArray[np.floating[Any]]


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
    LowerRankError
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
    of the speed, is conserved to the tolerance. Under `riemdln.DeepLinearMetric` it is integrated
    for roots of the matrices, in which the equation is smooth down to lower rank: at finite depth a
    geodesic ends where it meets a matrix of lower rank, and at infinite depth it never does.

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
        that of `riemdln.SpectralMetric.at` with this rank.
    max_evaluations : int
        How often the equation may be evaluated. A geodesic takes some hundreds.

    Returns
    -------
    Geodesic

    Raises
    ------
    LowerRankError
        If the geodesic runs into a matrix of lower rank.
    GeodesicError
        If it leaves the range of floating-point numbers or takes too many evaluations.

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
    max_evaluations = integer("max_evaluations", max_evaluations)
    metric.at(W, rank=rank)  # says what is wrong with the point
    if metric.ends_at_lower_rank:
        require_full_rank("point", W, rank)
    duration = float(times[-1] - times[0])
    coordinates = metric.geodesic_coordinates(W[None], duration * X, rank)
    state = coordinates.states(W)
    velocity = coordinates.to_states(state, X)
    at = coordinates.at(state)
    speed = float(at.inner(velocity, velocity)) ** 0.5
    if duration == 0 or speed == 0:
        points = W + 0.0 * times[:, None, None]
        # A frozen direction leads nowhere.
        velocities = 0.0 * points + (X if speed > 0 else 0.0 * X)
    else:
        momentum = at.flat(velocity)
        at.sharp_derivative_adjoint(momentum, momentum)  # says what is wrong with derivatives
        size = max(float(np.linalg.norm(state)), duration * float(np.linalg.norm(velocity)))
        path = _Path(metric, coordinates, rank, state, momentum, size, times, rtol, max_evaluations)
        points, velocities = path.followed()
    return Geodesic(times, like(given, points), like(given, velocities), duration * speed)


def require_full_rank(name: str, W: Array, rank: int | None = None) -> None:
    """Raise a GeodesicError where a matrix is of lower rank, up to rounding error."""
    whole = singular_frame(W)
    if rank is not None and rank < len(whole.s) and whole.s[rank] > 100 * whole.rounding:
        raise GeodesicError(
            f"the {name} is of a rank above {rank}: its next singular value is {whole.s[rank]:.1e}"
        )
    frame = whole.at_rank(rank)
    if not frame.s[-1] > frame.rounding:
        raise GeodesicError(
            f"the {name} is of lower rank: its singular values range from {frame.s[0]:.1e} to "
            f"{frame.s[-1]:.1e}"
        )


class _Path:
    """The way of a geodesic, step by step."""

    def __init__(
        self,
        metric: Metric,
        coordinates: GeodesicCoordinates,
        rank: int | None,
        state: Matrix,
        momentum: Matrix,
        size: float,
        times: Matrix,
        rtol: float,
        max_evaluations: int,
    ) -> None:
        self._coordinates, self._rank, self._times = coordinates, rank, times
        self._ends, self._most = metric.ends_at_lower_rank, max_evaluations
        smallest = np.linalg.svd(state, compute_uv=False)[:rank][-1]
        # Where what leaves the column or the row space turns about lower rank, the turn is lost in
        # rounding errors below the first margin. The last singular value may start near zero.
        can_leave = state.shape[0] != state.shape[1] or rank not in (None, len(state))
        self._margin = min((1e-6 if can_leave else 1e-12) * size, 1e-4 * smallest)
        self._shape = (2, *state.shape)
        scales = np.repeat([size, np.linalg.norm(momentum)], state.size)
        self._evaluations = count()
        self._solver = DOP853(
            self._rates,
            times[0],
            np.concatenate([state.ravel(), momentum.ravel()]),
            times[-1],
            rtol=rtol,
            atol=rtol * 1e-2 * scales,  # type: ignore[arg-type]
        )

    def followed(self) -> tuple[Matrix, Matrix]:
        """The points and velocities at the times."""
        solver, times = self._solver, self._times
        found = [solver.y]
        while len(found) < len(times):
            if self._ends:
                solver.max_step = self._longest_step()
            with np.errstate(over="ignore", invalid="ignore"):
                message = solver.step()
            if solver.status == "failed":
                raise GeodesicError(f"the geodesic was not followed to its end: {message}")
            passed = times[len(found) :][times[len(found) :] <= solver.t]
            if len(passed):
                found += list(solver.dense_output()(passed).T)
        states, momenta = np.stack(found).reshape(-1, *self._shape).swapaxes(0, 1)
        velocities = self._coordinates.at(states).sharp(momenta)
        points = self._coordinates.points(states)
        self._require_held(states, points)
        return points, self._coordinates.to_points(states, velocities)

    def _require_held(self, states: Matrix, points: Matrix) -> None:
        """Raise where matrices are out of range, and warn where they lose singular values."""
        true = self._coordinates.singular_values(states)[:, : self._rank]
        if not np.all(np.isfinite(points)) or (self._ends and not np.all(true > 0)):
            raise GeodesicError("the geodesic leaves the range of floating-point numbers")
        held = np.linalg.svd(points, compute_uv=False)[:, : self._rank]
        lost = np.any(np.abs(held - true) > 1e-6 * true, axis=-1)
        if self._ends and np.any(lost):
            warnings.warn(
                f"at time {self._times[np.argmax(lost)]:g} the geodesic has singular values that "
                "are smaller than the rounding errors of its points, which do not hold them",
                RuntimeWarning,
                stacklevel=4,
            )

    def _rates(self, time: float, unknowns: Matrix) -> Matrix:
        if next(self._evaluations) > self._most:
            raise GeodesicError(
                f"the geodesic was followed up to time {time:.6g} only, which took {self._most} "
                "evaluations: a longer one takes more (max_evaluations)"
            )
        state, p = unknowns.reshape(self._shape)
        try:
            at = self._coordinates.at(state)
            return np.stack([at.sharp(p), at.sharp_derivative_adjoint(p, p) / -2]).ravel()
        except (NotFiniteError, np.linalg.LinAlgError):  # a trial step too far is shortened
            return np.full_like(unknowns, np.nan)

    def _longest_step(self) -> float:
        """Half of the time in which the last singular value may get to zero.

        It changes by its own entry M_rr of the velocity in the frame in proportion to the time h,
        by others to the second order, M_ri^2 h^2 / s_i, and by what leaves a space as s_i = s_r.
        """
        state, momentum = self._solver.y.reshape(self._shape)
        velocity = self._coordinates.at(state).sharp(momentum)
        U, s, Vt = np.linalg.svd(state)
        last = len(s[: self._rank]) - 1
        if not s[last] > self._margin:
            u, v = U[:, last], Vt[last]
            rate = max(abs(float(u @ velocity @ v)), np.finfo(float).tiny)
            time = float(self._solver.t + s[last] / rate)
            raise LowerRankError(time, *self._coordinates.singular_vectors(u, v))
        M = U.T @ velocity @ Vt.T
        others = np.zeros(max(M.shape))
        others[:last] = s[:last]
        reach = np.sqrt(s[last] * np.maximum(others, s[last]))
        m, n = M.shape
        rates = np.concatenate([np.abs(M[last]) / reach[:n], np.abs(M[:, last]) / reach[:m]])
        return float(0.5 / max(np.max(rates), np.finfo(float).tiny))
