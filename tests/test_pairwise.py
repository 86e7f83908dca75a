"""Distances between all pairs of points, against closed forms."""

import math

import array_api_strict
import joblib
import numpy as np
import pytest

from riemdln import DeepLinearMetric, Metric
from riemdln.geodesics import GeodesicError, geodesic_between, pairwise_distances
from tests.conftest import random_matrix


@pytest.fixture
def mixed(rng):
    """Square matrices with determinants of both signs, and one of lower rank."""
    signs = np.array([1.0, 1.0, -1.0, 1.0, -1.0])
    points = np.eye(2) + 0.2 * rng.standard_normal((5, 2, 2))
    points[:, 0] *= (signs * np.sign(np.linalg.det(points)))[:, None]
    return np.concatenate([points, [np.diag([1.0, 0.0])]]), np.append(signs, 0.0)


@pytest.mark.parametrize("depth", [1.5, 2, 3])
def test_diagonal_matrices_are_as_far_apart_as_their_roots(rng, depth):
    s = rng.uniform(0.5, 3.0, size=(5, 3))
    distances, reasons = pairwise_distances(DeepLinearMetric(depth), s[:, None] * np.eye(3))
    roots = s ** (1 / depth)
    expected = math.sqrt(depth) * np.linalg.norm(roots[:, None] - roots, axis=-1)
    np.testing.assert_allclose(distances, expected, rtol=1e-6, atol=1e-12)
    assert reasons == {}


@pytest.mark.parametrize("depth", [2, 3, 8])
def test_columns_lie_on_a_cone(rng, depth):
    # |dw|^2 is N |w|^{2/N - 2} along w and |w|^{2/N - 2} across: the cone of radius
    # sqrt(N) |w|^{1/N}, whose angles are those between columns over sqrt(N).
    columns = rng.standard_normal((6, 3))
    sizes = np.linalg.norm(columns, axis=1)
    cosines = np.clip(columns @ columns.T / np.outer(sizes, sizes), -1, 1)
    radii = math.sqrt(depth) * sizes ** (1 / depth)
    turned = radii * np.exp(1j * np.arccos(cosines) / math.sqrt(depth))
    expected = np.abs(turned - radii[:, None])
    distances, reasons = pairwise_distances(DeepLinearMetric(depth), columns[:, :, None])
    np.testing.assert_allclose(distances, expected, rtol=1e-7, atol=1e-7)
    np.testing.assert_array_equal(np.diag(distances), 0)
    assert reasons == {}


def test_a_distance_is_nan_for_a_reason(mixed):
    points, signs = mixed
    distances, reasons = pairwise_distances(DeepLinearMetric(2), points)
    unknown = (signs[:, None] != signs) & ~np.eye(len(points), dtype=bool)
    np.testing.assert_array_equal(np.isnan(distances), unknown)
    np.testing.assert_array_equal(distances, distances.T)
    np.testing.assert_array_equal(np.diag(distances), 0)
    assert set(reasons) == {(i, j) for i, j in np.argwhere(unknown).tolist() if i < j}
    for (i, j), reason in reasons.items():
        with pytest.raises(GeodesicError) as caught:
            geodesic_between(DeepLinearMetric(2), points[i], points[j])
        assert reason == str(caught.value)
        assert ("lower rank" if 0 in (signs[i], signs[j]) else "opposite signs") in reason


def test_determinants_of_opposite_signs_take_no_solve(mixed):
    class Counted(DeepLinearMetric):
        asked = 0

        def known_geodesic(self, *arguments):
            Counted.asked += 1
            return super().known_geodesic(*arguments)

    points, signs = mixed
    first = [np.argmax(signs > 0), np.argmax(signs < 0)]
    assert np.isnan(pairwise_distances(Counted(2), points[first]).distances[0, 1])
    assert Counted.asked == 0
    pairwise_distances(Counted(2), points[signs > 0])
    assert Counted.asked == 3


def test_the_order_of_the_points_is_the_order_of_the_rows(mixed, rng):
    points, order = mixed[0], rng.permutation(6)
    distances, reasons = pairwise_distances(DeepLinearMetric(3), points)
    permuted, others = pairwise_distances(DeepLinearMetric(3), points[order])
    np.testing.assert_allclose(permuted, distances[np.ix_(order, order)], rtol=1e-6)
    assert {tuple(sorted(order[list(pair)])) for pair in others} == set(reasons)


def test_processes_and_threads_find_the_same(mixed):
    metric, points = DeepLinearMetric(3), mixed[0]
    distances, reasons = pairwise_distances(metric, points)
    try:
        by_processes = pairwise_distances(metric, points, n_jobs=2)
    finally:
        joblib.externals.loky.get_reusable_executor().shutdown()
    with joblib.parallel_config("threading", n_jobs=2):
        by_threads = pairwise_distances(metric, points, n_jobs=None)
    with joblib.parallel_config("multiprocessing", n_jobs=1):  # gives all results at once
        together = pairwise_distances(metric, points, n_jobs=None)
    for others in (by_processes, by_threads, together):
        np.testing.assert_allclose(others.distances, distances, rtol=1e-10)
        assert others.reasons == reasons


def test_none_leaves_the_number_of_jobs_to_the_caller(mixed, monkeypatch):
    numbers = []

    class Recorded(joblib.Parallel):
        def __call__(self, tasks):
            numbers.append(self.n_jobs)
            return super().__call__(tasks)

    monkeypatch.setattr(joblib, "Parallel", Recorded)
    for n_jobs in (None, 1):
        with joblib.parallel_config("threading", n_jobs=3):
            pairwise_distances(DeepLinearMetric(2), mixed[0][:2], n_jobs=n_jobs)
    assert numbers == [3, 1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_matrix_is_like_the_points(rng, dtype):
    points = np.stack([random_matrix(rng, 2, 3, [2.0, 1.0]) for _ in range(3)]).astype(dtype)
    expected = pairwise_distances(DeepLinearMetric(2), points).distances
    assert expected.dtype == dtype
    strict = array_api_strict.asarray(points)
    distances = pairwise_distances(DeepLinearMetric(2), strict).distances
    assert type(distances) is type(strict)
    np.testing.assert_array_equal(np.asarray(distances), expected)


def test_the_tolerance_is_that_of_the_geodesics(rng, monkeypatch):
    tolerances = []

    def recorded(*points, tolerance):
        tolerances.append(tolerance)
        return geodesic_between(*points, tolerance=tolerance)

    monkeypatch.setattr("riemdln.geodesics._pairwise.geodesic_between", recorded)
    points = rng.standard_normal((2, 3, 1))
    pairwise_distances(DeepLinearMetric(3), points, tolerance=1e-5)
    pairwise_distances(DeepLinearMetric(3), points)
    assert tolerances == [1e-5, 1e-9]


class Failing(Metric):
    """The Euclidean metric, until it has been asked for three geodesics."""

    ends_at_lower_rank = False

    def __init__(self, error):
        self._error, self._asked = error, 0

    def sharp(self, W, P):
        return P

    def known_geodesic(self, W_a, W_b, times):
        self._asked += 1
        if self._asked > 3:
            raise self._error
        path = W_a + times[:, None, None] * (W_b - W_a)
        return path, 0 * path + (W_b - W_a), float(np.linalg.norm(W_b - W_a))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError("mine")])
def test_what_was_computed_is_kept(rng, error):
    points = rng.standard_normal((4, 2, 2))
    with pytest.raises(type(error)) as caught:
        pairwise_distances(Failing(error), points)
    distances, reasons = caught.value.result
    expected = np.linalg.norm(points[0] - points[1:], axis=(1, 2))
    np.testing.assert_allclose(distances[0, 1:], expected)
    np.testing.assert_array_equal(distances, distances.T)
    assert reasons == dict.fromkeys(
        [(1, 2), (1, 3), (2, 3)], "the computation ended before this pair"
    )
    assert "'result'" in caught.value.__notes__[0]


def test_a_progress_bar_counts_pairs(rng, capsys):
    points = rng.standard_normal((4, 3, 1))
    pairwise_distances(DeepLinearMetric(2), points)
    assert capsys.readouterr().err == ""
    pairwise_distances(DeepLinearMetric(2), points, progress=True)
    assert "6/6" in capsys.readouterr().err


def test_one_point_has_no_pairs():
    distances, reasons = pairwise_distances(DeepLinearMetric(2), np.ones((1, 2, 3)))
    np.testing.assert_array_equal(distances, [[0.0]])
    assert reasons == {}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"points": np.eye(2)}, ValueError, "^points must be a stack"),
        ({"points": np.ones((0, 2, 2))}, ValueError, "^points must be a stack"),
        ({"points": np.full((2, 2, 2), np.nan)}, ValueError, "^points must be finite"),
        ({"points": np.ones((2, 2, 2), complex)}, ValueError, "^points must be real"),
        ({"metric": DeepLinearMetric(math.inf)}, ValueError, "square matrices only"),
        ({"n_jobs": 0}, ValueError, "^n_jobs must be a whole number other than 0, or None, got 0"),
        ({"n_jobs": 1.5}, ValueError, "^n_jobs must be a whole number other than 0"),
        ({"n_jobs": "2"}, TypeError, "^n_jobs must be a real number"),
        ({"progress": "yes"}, TypeError, "^progress must be True or False"),
        ({"tolerance": 0.0}, ValueError, "^tolerance must be positive"),
    ],
)
def test_refuses_bad_arguments(arguments, error, message):
    given = {"metric": DeepLinearMetric(2), "points": np.ones((2, 2, 3)), **arguments}
    with pytest.raises(error, match=message):
        pairwise_distances(**given)
