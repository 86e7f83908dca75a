"""Distances between all pairs of some points, for any metric."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import closing
from itertools import combinations
from typing import Any, NamedTuple

import joblib
import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from riemdln._arrays import (
    Array,
    finite_array,
    like,
    positive_number,
    real_number,
    to_numpy,
    true_or_false,
)
from riemdln.geodesics._boundary_value import geodesic_between
from riemdln.geodesics._results import GeodesicError
from riemdln.metrics import Metric

__all__ = ["PairwiseDistances", "pairwise_distances"]

Matrix = NDArray[np.floating[Any]]


class PairwiseDistances(NamedTuple):
    """The distances between K points, and why some of them are not known.

    Attributes
    ----------
    distances : array (K, K)
        The symmetric matrix of distances, with zeros on its diagonal and NaN where no geodesic was
        found.
    reasons : dict from (int, int) to str
        Why: from each pair (i, j), i < j, whose distance is NaN, to what the `GeodesicError` says.
    """

    distances: Array
    reasons: dict[tuple[int, int], str]


def pairwise_distances(
    metric: Metric,
    points: Array,
    n_jobs: int | None = 1,
    progress: bool = False,
    *,
    tolerance: float = 1e-9,
) -> PairwiseDistances:
    """The distances between all pairs of some points, as a symmetric matrix.

    Each is the length of the geodesic that `geodesic_between` finds. Where it finds none, as
    between determinants of opposite signs, the distance is NaN, and a reason goes with it: one pair
    does not stop the others. What else goes wrong is raised.

    Parameters
    ----------
    metric : Metric
        The metric.
    points : array (K, m, n)
        The points, of full rank.
    n_jobs : int or None
        How many pairs are computed at once, by joblib: 1 for one after the other in this process,
        -1 for as many as there are cores, None for what ``joblib.parallel_config`` says, and 1 if
        it says nothing. That also chooses the backend, such as Dask.
    progress : bool
        Whether to show a progress bar.
    tolerance : float
        That of `geodesic_between`.

    Returns
    -------
    PairwiseDistances
        The matrix, of the namespace and the dtype of the points, and the reasons.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or the metric does not exist on such matrices.

    Notes
    -----
    Whatever ends the computation early, such as Ctrl-C, leaves with the distances until then in its
    attribute ``result``. Backends that give all results at once, which are those of multiprocessing
    and Ray, have none until then, and their bar moves at the end only.

    The matrix is what scikit-learn calls a precomputed metric, once it has no NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from riemdln import DeepLinearMetric
    >>> from riemdln.geodesics import pairwise_distances
    >>> points = np.array([np.diag([1.0, 4.0]), np.diag([4.0, 9.0]), np.diag([1.0, -1.0])])
    >>> distances, reasons = pairwise_distances(DeepLinearMetric(2), points)
    >>> np.round(distances, 9)  # sqrt(2) |(1, 2) - (2, 3)|
    array([[ 0.,  2., nan],
           [ 2.,  0., nan],
           [nan, nan,  0.]])
    >>> reasons[0, 2]
    'the determinants of the points have opposite signs, so that every path between ...'
    """
    given = finite_array("points", points)
    if given.ndim != 3 or 0 in given.shape:
        raise ValueError(
            "points must be a stack of at least one matrix (K, m, n), got shape "
            f"{tuple(given.shape)}"
        )
    metric.require_shape(*given.shape[1:])
    if n_jobs is not None:
        if not (real_number("n_jobs", n_jobs).is_integer() and n_jobs):
            raise ValueError(f"n_jobs must be a whole number other than 0, or None, got {n_jobs!r}")
        n_jobs = int(n_jobs)
    progress = true_or_false("progress", progress)
    tolerance = positive_number("tolerance", tolerance)

    matrices = to_numpy(given).astype(np.float64)
    pairs = list(combinations(range(len(matrices)), 2))
    distances = np.full((len(matrices), len(matrices)), np.nan)
    np.fill_diagonal(distances, 0.0)
    reasons = dict.fromkeys(pairs, "the computation ended before this pair")
    tasks = (
        joblib.delayed(_distance)(metric, matrices[i], matrices[j], tolerance) for i, j in pairs
    )

    def result() -> PairwiseDistances:
        return PairwiseDistances(like(given, distances), reasons)

    try:
        with closing(_results(n_jobs, tasks)) as found:
            shown = tqdm(found, "pairs", len(pairs), disable=not progress)
            for (i, j), (distance, reason) in zip(pairs, shown, strict=True):
                distances[i, j] = distances[j, i] = distance
                if reason:
                    reasons[i, j] = reason
                else:
                    del reasons[i, j]
    except BaseException as error:
        error.result = result()  # type: ignore[attr-defined]
        error.add_note("The distances that were computed are in this exception's 'result'.")
        raise
    return result()


def _distance(metric: Metric, W_a: Matrix, W_b: Matrix, tolerance: float) -> tuple[float, str]:
    """The distance between two points, or NaN and the reason why it is not known."""
    try:
        return geodesic_between(metric, W_a, W_b, tolerance=tolerance).length, ""
    except GeodesicError as error:
        return np.nan, str(error)


def _results(n_jobs: int | None, tasks: Iterable[Any]) -> Generator[tuple[float, str]]:
    """What the tasks give, in their order, as early as joblib's backend has it."""
    try:
        parallel = joblib.Parallel(n_jobs, return_as="generator")
    except ValueError:  # a backend that gives all results at once
        parallel = joblib.Parallel(n_jobs)
    yield from parallel(tasks)
