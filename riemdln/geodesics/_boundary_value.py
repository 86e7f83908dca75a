"""The geodesic between two points, for any metric: a boundary value problem.

W'' + Gamma_W(W', W') = 0 with both ends given is collocated at Chebyshev points: W is a polynomial
in time that is known by its values there, and the equation holds at those between the ends.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import schur
from scipy.optimize import NoConvergence, newton_krylov

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
from riemdln.geodesics._initial_value import require_full_rank
from riemdln.geodesics._results import Geodesic, GeodesicError
from riemdln.metrics import Metric

__all__ = ["geodesic_between"]

Matrix = NDArray[np.floating[Any]]

# The degrees of the polynomials that geodesics between points are sought among; even, so that the
# middle is one of the points.
_DEGREES = (8, 16, 32, 64, 128, 256)


def geodesic_between(
    metric: Metric,
    W_a: Array,
    W_b: Array,
    times: ArrayLike | None = None,
    *,
    tolerance: float = 1e-8,
) -> Geodesic:
    """The geodesic from one point, at time 0, to another one, at time 1.

    W'' + Gamma_W(W', W') = 0 is solved for a polynomial in time that takes the given values at
    its ends, by Newton's method with a Krylov solver, at more and more points until the speed is
    the same at all of them. The first guess is a straight line, or where geodesics end at
    matrices of lower rank it interpolates the polar factors of the two points, W = Q R^2. Where
    Newton's method fails from there, the far end is moved along the guess in steps. Metrics may
    know a closed form (`riemdln.Metric.known_geodesic`).

    Parameters
    ----------
    metric : Metric
        The metric.
    W_a, W_b : array (m, n)
        The points, of full rank.
    times : array_like (K,), optional
        Strictly increasing times from 0 to 1 at which the geodesic is given; by default the
        Chebyshev points of [0, 1] that it was found at, with 1/2 in the middle.
    tolerance : float
        How much the squared speed may vary along the geodesic, relatively.

    Returns
    -------
    Geodesic
        A shortest path if the points are not too far apart.

    Raises
    ------
    GeodesicError
        If no geodesic was found: no path avoids matrices of lower rank, or the equation was not
        solved to the tolerance.

    References
    ----------
    - L. N. Trefethen. Spectral methods in MATLAB. SIAM, 2000, chapters 6 and 13.

    Examples
    --------
    >>> import numpy as np
    >>> from riemdln import DeepLinearMetric
    >>> from riemdln.geodesics import geodesic_between
    >>> geodesic = geodesic_between(DeepLinearMetric(2), np.diag([1.0, 4.0]), np.diag([4.0, 9.0]))
    >>> round(geodesic.length, 9)  # sqrt(2) |(1, 2) - (2, 3)|
    2.0
    >>> middle = geodesic_between(DeepLinearMetric(2), np.eye(1), 9 * np.eye(1), [0.5]).points
    >>> np.round(middle, 9)  # the square root moves evenly
    array([[[4.]]])
    """
    tolerance = positive_number("tolerance", tolerance)
    given = finite_matrix("W_a", W_a)
    W_b = finite_matrix("W_b", point_of_shape("W_b", W_b, given.shape))
    W_a, W_b = (to_numpy(W).astype(np.float64) for W in (given, W_b))
    if times is not None:
        times = increasing_times("times", times)
        if not (times[0] >= 0 and times[-1] <= 1):
            raise ValueError(f"times must be from 0 to 1, got {times}")
    _require_connected(metric, W_a, W_b)
    wanted = _chebyshev_points(_DEGREES[0]).copy() if times is None else times
    known: Any
    if np.array_equal(W_a, W_b):
        still = W_a + 0.0 * wanted[:, None, None]
        known = still, 0.0 * still, 0.0
    else:
        known = metric.known_geodesic(W_a, W_b, wanted)
    if known is None:
        found = _solution(metric, W_a, W_b, tolerance)
        if times is not None:
            found = Geodesic(
                wanted,
                _resample(found.points, wanted),
                _resample(found.velocities, wanted),
                found.length,
            )
        wanted, *known = found
    points, velocities, length = known
    return Geodesic(wanted, like(given, points), like(given, velocities), length)


def _solution(metric: Metric, W_a: Matrix, W_b: Matrix, tolerance: float) -> Geodesic:
    """The geodesic between two points, where no closed form is known."""
    guess, failure = _straight_path(W_a, W_b), ""
    if metric.ends_at_lower_rank:
        guess = _polar_path(W_a, W_b)
    for start in range(3):
        coarse, reached = _solve_in_steps(metric, guess, _DEGREES[start])
        if coarse is None:
            failure = f"Newton's method did not converge, and reached {reached:.3g} of the way"
            continue
        for degree in _DEGREES[start:]:
            finer = _solve(metric, _resample(coarse, _chebyshev_points(degree)), 1e-11)
            if finer is None:
                break
            coarse = finer
            found, variation = _as_geodesic(metric, finer)
            if variation <= tolerance:
                return found
        _, variation = _as_geodesic(metric, coarse)
        failure = (
            f"with a polynomial of degree {len(coarse) - 1} the squared speed varies by "
            f"{variation:.1e}, and the tolerance is {tolerance:g}"
        )
    raise GeodesicError(
        f"no geodesic was found between the points: {failure}; it may come close to a matrix of "
        "lower rank"
    )


def _as_geodesic(metric: Metric, path: Matrix) -> tuple[Geodesic, float]:
    """The geodesic along a path, and how much the squared speed varies, relatively."""
    velocities = _along_time(_differentiation(len(path) - 1), path)
    squares = metric.at(path).inner(velocities, velocities)
    mean = float(np.mean(squares))
    length = float(np.sqrt(mean))
    found = Geodesic(_chebyshev_points(len(path) - 1).copy(), path, velocities, length)
    return found, float(np.ptp(squares)) / mean if mean > 0 else 0.0


def _solve_in_steps(
    metric: Metric, guess: Callable[[Matrix], Matrix], degree: int
) -> tuple[Matrix | None, float]:
    """A rough geodesic from guess(0) to guess(1), and how far along the guess it got.

    By way of guess(t), 0 < t < 1, where all of it is too far at once.
    """
    times = _chebyshev_points(degree)
    reached, step = 0.0, 1.0
    correction: Matrix = np.zeros(1)
    while step > 1 / 64:
        ahead = min(reached + step, 1.0)
        # What a geodesic has over the guess grows with the square of its length.
        growth = (ahead / reached) ** 2 if reached else 0.0
        path = _solve(metric, guess(ahead * times) + growth * correction, 1e-6)
        if path is None:
            step /= 2
        elif ahead == 1:
            return path, ahead
        else:
            correction, reached = path - guess(ahead * times), ahead
    return None, reached


def _solve(metric: Metric, path: Matrix, tolerance: float) -> Matrix | None:
    """The polynomial near a path that obeys W'' = -Gamma(W', W') between the same ends, or None.

    The equation is solved for W'' first, so that its linear part is the identity.
    """
    degree, shape = len(path) - 1, path.shape[1:]
    first, inside, from_ends = _differentiation(degree), *_double_integration(degree)
    straight = _along_time(from_ends, path[[0, -1]])

    def residual(inner: Matrix) -> Matrix:
        trial = np.concatenate([path[:1], inner, path[-1:]])
        velocities = _along_time(first, trial)[1:-1]
        gamma = metric.at(inner).christoffel(velocities, velocities)
        return inner - straight + _along_time(inside, gamma)

    # The residual has to be small where the path is small, but above its rounding errors. The
    # solver's finite differences ask for unknowns of the order of one.
    sizes = np.max(np.abs(path), axis=(1, 2))
    least, largest = float(np.min(sizes)), float(np.max(sizes))
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
    except (NoConvergence, NotFiniteError, ZeroDivisionError, np.linalg.LinAlgError):
        return None
    return np.concatenate([path[:1], inner.reshape(-1, *shape), path[-1:]])


def _straight_path(W_a: Matrix, W_b: Matrix) -> Callable[[Matrix], Matrix]:
    return lambda times: W_a + times[:, None, None] * (W_b - W_a)


def _polar_path(W_a: Matrix, W_b: Matrix) -> Callable[[Matrix], Matrix]:
    """A path that keeps the rank: it interpolates W = Q R^2, Q orthonormal and R positive definite.

    Q turns steadily from one end to the other, and R goes straight.
    """
    if W_a.shape[0] < W_a.shape[1]:
        transposed = _polar_path(W_a.T, W_b.T)
        return lambda times: transposed(times).mT

    def factors(W: Matrix) -> tuple[Matrix, Matrix]:
        U, s, Vt = np.linalg.svd(W, full_matrices=False)
        return U @ Vt, Vt.T * np.sqrt(s) @ Vt

    (Q_a, root_a), (Q_b, root_b) = factors(W_a), factors(W_b)
    turn = _rotation(Q_a, Q_b)

    def path(times: Matrix) -> Matrix:
        t = times[:, None, None]
        root = (1 - t) * root_a + t * root_b
        return turn(t) @ root @ root

    return path


def _rotation(Q_a: Matrix, Q_b: Matrix) -> Callable[[Matrix], Matrix]:
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
    triangle, vectors = schur(np.hstack([image, rest]), output="complex")
    angles = np.angle(np.diag(triangle))
    start = vectors.conj().T[:, :n]
    return lambda t: basis @ ((vectors * np.exp(1j * t * angles)) @ start).real


def _require_connected(metric: Metric, W_a: Matrix, W_b: Matrix) -> None:
    """Raise where no path between the points avoids matrices of lower rank."""
    if not metric.ends_at_lower_rank:
        return
    require_full_rank("first point", W_a)
    require_full_rank("second point", W_b)
    if W_a.shape[0] == W_a.shape[1] and np.linalg.slogdet(W_a)[0] != np.linalg.slogdet(W_b)[0]:
        raise GeodesicError(
            "the determinants of the points have opposite signs, so that every path between "
            "them meets a matrix of lower rank"
        )


def _along_time(matrix: Matrix, path: Matrix) -> Matrix:
    return np.tensordot(matrix, path, axes=1)


def _resample(path: Matrix, times: Matrix) -> Matrix:
    """The values at other times of the polynomial that a path gives at its Chebyshev points."""
    degree = len(path) - 1
    vandermonde = chebyshev.chebvander(2 * _chebyshev_points(degree) - 1, degree)
    return _along_time(
        chebyshev.chebvander(2 * times - 1, degree) @ np.linalg.inv(vandermonde), path
    )


@cache
def _chebyshev_points(degree: int) -> Matrix:
    """The extrema of the Chebyshev polynomial on [0, 1], ascending."""
    # As a sine, which makes 0, 1/2 and 1 exact.
    return (1 + np.sin(np.pi / 2 * (2 * np.arange(degree + 1) / degree - 1))) / 2


@cache
def _differentiation(degree: int) -> Matrix:
    """The matrix that differentiates a polynomial given by its values at the Chebyshev points."""
    points = 2 * _chebyshev_points(degree) - 1
    derivatives = chebyshev.chebvander(points, degree - 1) @ chebyshev.chebder(np.eye(degree + 1))
    return 2 * derivatives @ np.linalg.inv(chebyshev.chebvander(points, degree))


@cache
def _double_integration(degree: int) -> tuple[Matrix, Matrix]:
    """The inner values of a polynomial, from its inner second derivatives and from its ends."""
    second = _differentiation(degree) @ _differentiation(degree)
    inside = np.linalg.inv(second[1:-1, 1:-1])
    return inside, -inside @ second[1:-1, [0, -1]]
