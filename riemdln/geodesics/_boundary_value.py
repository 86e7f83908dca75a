"""The geodesic between two points, for any metric: a boundary value problem."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import NoConvergence, newton_krylov

from riemdln._arrays import (
    Array,
    NotFiniteError,
    finite,
    finite_matrix,
    floating_array,
    increasing_times,
    integer,
    like,
    point_of_shape,
    positive_number,
    to_numpy,
)
from riemdln.geodesics._collocation import (
    DEGREES,
    along_time,
    chebyshev_points,
    differentiation,
    resample,
    solve,
    solve_in_steps,
    squared_speeds,
)
from riemdln.geodesics._guesses import Guess, first_guesses, relaxed, through
from riemdln.geodesics._initial_value import geodesic, require_full_rank
from riemdln.geodesics._near import near_geodesic
from riemdln.geodesics._rank_coordinates import rank_paths
from riemdln.geodesics._results import Geodesic, GeodesicError
from riemdln.metrics import Metric
from riemdln.metrics._geodesic_coordinates import GeodesicCoordinates, PathCoordinates

__all__ = ["geodesic_between"]

Matrix = NDArray[np.floating[Any]]


def geodesic_between(
    metric: Metric,
    W_a: Array,
    W_b: Array,
    times: ArrayLike | None = None,
    initial_path: Array | None = None,
    *,
    rank: int | None = None,
    tolerance: float = 1e-9,
) -> Geodesic:
    """The geodesic from one point, at time 0, to another one, at time 1.

    Closed forms come first (`riemdln.Metric.known_geodesic`). Elsewhere W'' + Gamma_W(W', W') = 0
    is solved for a polynomial in time that takes the given values at its ends, by Newton's method
    with a Krylov solver, at more and more points until the speed is the same at all of them. Under
    `riemdln.DeepLinearMetric` it is solved for roots of the matrices, in which geodesics that dive
    toward lower rank are smooth. Several first guesses are tried: where geodesics end at lower
    rank, one that turns the polar factor steadily, one that turns it the other way round if it
    turns by nearly a half turn, and, unless much longer, a straight line and one that turns both
    frames; at a lower rank, one that turns both spaces by their principal angles. The shortest of
    what they lead to is taken. Where Newton's method fails from the first one, the far end is moved
    along it in steps. At full rank, where none leads to the tolerance, guesses are followed from
    the other end and replaced by polylines of least energy. What still misses it is mended by
    shooting.

    Parameters
    ----------
    metric : Metric
        The metric.
    W_a, W_b : array (m, n)
        The points.
    times : array_like (K,), optional
        Strictly increasing times from 0 to 1 at which the geodesic is given; by default the
        Chebyshev points of [0, 1] that it was found at, with 1/2 in the middle.
    initial_path : array (L, m, n), optional
        The only first guess, in place of those above and of closed forms: matrices of the same
        rank on a way from `W_a` to `W_b`, both included, at equal steps of time.
    rank : int, optional
        The rank of the matrices; by default they are of full rank. A metric at a lower rank is
        that of `riemdln.SpectralMetric.at` with this rank.
    tolerance : float
        How much the squared speed may vary along the geodesic, relatively.

    Returns
    -------
    Geodesic
        The shortest path that was found.

    Raises
    ------
    GeodesicError
        If no geodesic was found: no path avoids matrices of lower rank, the shortest way leads
        through zero, or the equation was not solved to the tolerance.
    TypeError, ValueError
        If an argument is not as described.

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
    if initial_path is not None:
        initial_path = _checked_path(initial_path, W_a, W_b)
    if rank is not None:
        rank, most = integer("rank", rank), min(W_a.shape)
        if rank > most:
            raise ValueError(f"rank must be at most min(m, n) = {most}, got {rank}")
        rank = rank if rank < most else None
    _require_connected(metric, W_a, W_b, rank)
    wanted = chebyshev_points(DEGREES[0]).copy() if times is None else times
    known: Any = None
    if np.array_equal(W_a, W_b):
        still = W_a + 0.0 * wanted[:, None, None]
        known = still, 0.0 * still, 0.0
    elif initial_path is None:
        known = metric.known_geodesic(W_a, W_b, wanted) if rank is None else None
        if known is None:
            known = near_geodesic(metric, W_a, W_b, wanted, rank, tolerance)
    if known is None:
        found = _found(metric, W_a, W_b, times, initial_path, rank, tolerance)
    else:
        found = Geodesic(wanted, *known)
    points, velocities = (like(given, values) for values in (found.points, found.velocities))
    return found._replace(points=points, velocities=velocities)


def _found(
    metric: Metric,
    W_a: Matrix,
    W_b: Matrix,
    times: Matrix | None,
    initial_path: Matrix | None,
    rank: int | None,
    tolerance: float,
) -> Geodesic:
    """The geodesic where no closed form is known."""
    scaling = metric.scaling(W_a, W_b, rank)
    with np.errstate(all="ignore"):
        ends = np.stack([W_a, W_b / scaling.divisor])
    if not (np.all(np.isfinite(ends)) and ends[1].any()):
        raise GeodesicError(
            "the sizes of the points are too far apart for floating-point numbers: their largest "
            f"entries are {np.max(np.abs(W_a)):.1e} and {np.max(np.abs(W_b)):.1e}"
        )
    ambient = metric.geodesic_coordinates(ends, None, rank)
    states = ambient.states(ends)
    ways: Iterable[tuple[PathCoordinates, list[Guess]]]
    if initial_path is not None:
        sizes = scaling.divisor ** np.linspace(0, 1, len(initial_path))
        initial_path = initial_path / sizes[:, None, None]
    if rank is not None:
        paths = rank_paths(ambient, states[0], states[1], rank)
        ways = ((coordinates, [guess]) for coordinates, guess in paths)
    elif initial_path is not None:
        ways = [(ambient, [])]
    else:
        keep_rank = metric.ends_at_lower_rank
        ways = [(ambient, first_guesses(ambient, *states, keep_rank=keep_rank))]
    best = None
    for coordinates, guesses in ways:
        if initial_path is not None:
            guesses = [through(coordinates.states(initial_path))]
        best = _shortest(coordinates, _rough_geodesics(coordinates, guesses), tolerance)
        if initial_path is not None or (best is not None and best.variation <= tolerance):
            break
    if rank is None and (best is None or best.variation > tolerance):
        polylines = _relaxed_geodesics(ambient, guesses)
        best = _shortest(coordinates, polylines, tolerance, best)
    if best is None:
        raise GeodesicError(
            "no geodesic was found between the points: from no first guess did Newton's method "
            "converge to a path that avoids lower rank. The singular values of the points are "
            f"{_spectrum(W_a)} and {_spectrum(W_b)}"
        )
    if times is None:
        times = chebyshev_points(len(best.states) - 1).copy()
    velocities = along_time(differentiation(len(best.states) - 1), best.states)
    hit, length = None, best.square_length**0.5
    if best.variation > tolerance:
        hit = _hit(metric, coordinates, ends[0], best.states, velocities[0], rank)
        if hit is None:
            raise GeodesicError(
                "no geodesic was found between the points: with a polynomial of degree "
                f"{len(best.states) - 1} the squared speed varies by {best.variation:.1e}, the "
                f"tolerance is {tolerance:g}, and shooting did not converge. "
                + _nearest(coordinates, best.states, rank)
            )
        length = float(coordinates.at(best.states[0]).inner(hit, hit)) ** 0.5
    scaled = scaling.scaled(times, length)
    if scaled is None:
        raise GeodesicError(
            "no geodesic joins the points: they are at an angle of more than a half turn in the "
            "cone of all multiples of matrices, so that the shortest way leads through zero"
        )
    if hit is not None:
        inner, index = np.unique(np.clip(scaled.times, 0, 1), return_inverse=True)
        X = coordinates.to_points(best.states[0], hit)
        shot = geodesic(metric, W_a, X, np.union1d([0.0], inner), rank=rank)
        kept = np.searchsorted(shot.times, inner)[index]
        points, tangent_vectors = shot.points[kept], shot.velocities[kept]
    else:
        states = resample(best.states, scaled.times)
        velocities = resample(velocities, scaled.times)
        points = coordinates.points(states)
        tangent_vectors = coordinates.to_points(states, velocities)
    rates, factors, growths = (
        value[:, None, None] for value in (scaled.rates, scaled.factors, scaled.growths)
    )
    tangent_vectors = growths * points + factors * rates * tangent_vectors
    points = factors * points
    # As they were given, and not as the roots have them.
    points[times == 0], points[times == 1] = W_a, W_b
    return Geodesic(times, points, tangent_vectors, scaled.length)


class _Path(NamedTuple):
    """States at Chebyshev points, the square of their length and how the squared speed varies."""

    states: Matrix
    square_length: float
    variation: float


def _measured(coordinates: PathCoordinates, states: Matrix) -> _Path:
    squares = squared_speeds(coordinates, states)
    mean = float(np.mean(squares))
    if np.max(np.ptp(states, axis=0)) <= 1e-13 * np.max(np.abs(states)):  # it stays where it is
        return _Path(states, mean, 0.0)
    return _Path(states, mean, float(np.ptp(squares)) / mean)


def _rough_geodesics(coordinates: PathCoordinates, guesses: list[Guess]) -> list[Matrix]:
    """Geodesics to a rough tolerance, the shortest ones first."""
    # Of each guess the lowest degree that leads to one: the shortest way may need more than others.
    found = []
    for number, guess in enumerate(guesses):
        for degree in DEGREES[:3]:
            if number == 0:
                path = solve_in_steps(coordinates, guess, degree)
            else:
                path = solve(coordinates, guess(chebyshev_points(degree)), 1e-2)
            if path is not None:
                found.append(path)
                break
    return sorted(found, key=lambda path: _measured(coordinates, path).square_length)


def _relaxed_geodesics(coordinates: GeodesicCoordinates, guesses: list[Guess]) -> Iterator[Matrix]:
    """Those from guesses followed from their other ends, and from polylines of least energy."""
    for guess in guesses:
        for degree in DEGREES[:3]:
            path = solve_in_steps(coordinates, _reversed(guess), degree)
            if path is not None:
                yield path[::-1]
                break
        polyline = relaxed(coordinates, guess)
        for degree in DEGREES[1:4]:
            path = solve(coordinates, polyline(chebyshev_points(degree)), 1e-6)
            if path is not None:
                yield path
                break


def _reversed(guess: Guess) -> Guess:
    return lambda times: guess(1 - times)


def _shortest(
    coordinates: PathCoordinates,
    rough: Iterable[Matrix],
    tolerance: float,
    best: _Path | None = None,
) -> _Path | None:
    """The shortest geodesic that rough ones lead to, or what comes nearest to one."""

    def order(path: _Path) -> tuple[float, float]:
        return path.variation if path.variation > tolerance else 0.0, path.square_length

    for states in rough:
        start = _measured(coordinates, states)
        if best is not None and best.variation <= tolerance and not _rivals(start, best):
            continue
        path = _refined(coordinates, start, tolerance)
        if coordinates.keeps_rank(path.states) and (best is None or order(path) < order(best)):
            best = path
    return best


def _rivals(rough: _Path, path: _Path) -> bool:
    """Whether a rough geodesic is another one, and may be shorter."""
    there = resample(path.states, chebyshev_points(len(rough.states) - 1))
    apart = np.max(np.abs(rough.states - there)) > 0.1 * np.max(np.abs(path.states))
    return rough.square_length < 1.05 * path.square_length and bool(apart)


def _refined(coordinates: PathCoordinates, path: _Path, tolerance: float) -> _Path:
    """The path at a degree that is high enough, as far as Newton's method gets."""
    for degree in DEGREES:
        least = len(path.states) - 1
        # A rough solution that is far from the tolerance is so for its low degree.
        if degree < least or (degree == least and path.variation > 1e3 * tolerance):
            continue
        finer = solve(coordinates, resample(path.states, chebyshev_points(degree)), 1e-11)
        if finer is None:
            break
        path = _measured(coordinates, finer)
        if path.variation <= tolerance:
            break
    return path


def _hit(
    metric: Metric,
    coordinates: PathCoordinates,
    W_a: Matrix,
    path: Matrix,
    velocity: Matrix,
    rank: int | None,
) -> Matrix | None:
    """The velocity of the state, near a given one, with which a geodesic hits the path's end."""
    start, target = path[0], path[-1]
    size = float(np.max(np.abs(target - start)))

    def miss(velocity: Any) -> Any:
        X = coordinates.to_points(start, size * velocity)
        end = geodesic(metric, W_a, X, [0.0, 1.0], rank=rank, max_evaluations=2000).points[1]
        return (coordinates.states(end) - target) / size

    try:
        found: Any = newton_krylov(miss, velocity / size, f_tol=1e-10, maxiter=5)
    except (NoConvergence, GeodesicError, NotFiniteError, ValueError, np.linalg.LinAlgError):
        return None
    hit: Matrix = size * found
    return hit


def _spectrum(W: Matrix) -> str:
    return np.array2string(np.linalg.svd(W, compute_uv=False), precision=3, threshold=6)


def _nearest(coordinates: PathCoordinates, path: Matrix, rank: int | None) -> str:
    """How near a path comes to lower rank."""
    s = coordinates.singular_values(path)[:, :rank]
    ratios = s[:, -1] / s[:, 0]
    k = int(np.argmin(ratios))
    time = chebyshev_points(len(path) - 1)[k]
    return (
        f"The path comes near lower rank at time {time:.3g}, where the singular values are {s[k]}"
    )


def _checked_path(value: Array, W_a: Matrix, W_b: Matrix) -> Matrix:
    """A path of matrices from one point to the other."""
    path = to_numpy(finite("initial_path", floating_array("initial_path", value)))
    if path.ndim != 3 or path.shape[1:] != W_a.shape or len(path) < 2:
        m, n = W_a.shape
        raise ValueError(
            f"initial_path must have the shape (L, {m}, {n}) with L at least 2, got {path.shape}"
        )
    for end, W in ((path[0], W_a), (path[-1], W_b)):
        if not np.linalg.norm(end - W) <= 1e-5 * np.linalg.norm(W):
            raise ValueError("initial_path must go from W_a to W_b")
    path = path.astype(np.float64)
    path[0], path[-1] = W_a, W_b
    return path


def _require_connected(metric: Metric, W_a: Matrix, W_b: Matrix, rank: int | None) -> None:
    """Raise where no path between the points avoids matrices of lower rank."""
    if not metric.ends_at_lower_rank:
        return
    require_full_rank("first point", W_a, rank)
    require_full_rank("second point", W_b, rank)
    is_square = rank is None and W_a.shape[0] == W_a.shape[1]
    if is_square and np.linalg.slogdet(W_a)[0] != np.linalg.slogdet(W_b)[0]:
        raise GeodesicError(
            "the determinants of the points have opposite signs, so that every path between "
            "them meets a matrix of lower rank; straight lines, which manifolds with "
            'logarithm="linear" take, join any two points'
        )
