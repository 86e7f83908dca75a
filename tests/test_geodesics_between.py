"""Geodesics of g^N near lower rank and far away: closed forms, and the paths between points."""

import math

import mpmath
import numpy as np
import pytest
import scipy.linalg

from riemdln import DeepLinearMetric, FixedRank, FullRank
from riemdln.geodesics import (
    GeodesicError,
    LowerRankError,
    exponential,
    geodesic,
    geodesic_between,
)
from riemdln.geodesics._guesses import _polyline_energy
from riemdln.metrics._geodesic_coordinates import RootCoordinates
from tests.conftest import derivative, random_matrix

INFINITE = DeepLinearMetric(math.inf)


def rotation(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def orthogonal(rng, n):
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    return Q * np.array([*[1.0] * (n - 1), np.linalg.det(Q)])


def gaussian_pair(rng, m, n):
    """Two points, with determinants of one sign."""
    a, b = rng.standard_normal((2, m, n))
    if m == n and np.linalg.det(a) * np.linalg.det(b) < 0:
        b[0] *= -1
    return a, b


def assert_geodesic(metric, path, a, b):
    """It has one speed, and from a its velocity leads to b: the equation is solved there."""
    squares = metric.inner(path.points, path.velocities, path.velocities)
    np.testing.assert_allclose(squares, path.length**2, rtol=1e-7)
    np.testing.assert_array_equal(path.points[[0, -1]], [a, b])
    end = exponential(metric, a, path.velocities[0])
    np.testing.assert_allclose(end, b, rtol=0, atol=1e-6 * np.abs(b).max())


# From a point with a velocity.


@pytest.mark.parametrize("rate", [-700.0, -30.0, 1e-3, 30.0, 700.0])
def test_numbers_at_infinite_depth_move_exponentially(rate):
    end = exponential(INFINITE, [[1.0]], [[rate]])
    np.testing.assert_allclose(end, [[math.exp(rate)]], rtol=1e-10 if abs(rate) < 100 else 1e-8)


def test_singular_values_at_infinite_depth_move_on_their_own(rng):
    for rates in ([-20.0, 0.0], [-20.0, 15.0]):
        path = geodesic(INFINITE, np.eye(2), np.diag(rates), [0.0, 0.5, 1.0])
        expected = [np.diag(np.exp(t * np.array(rates))) for t in path.times]
        np.testing.assert_allclose(path.points, expected, rtol=1e-10, atol=1e-14)
        assert path.length == pytest.approx(np.linalg.norm(rates), rel=1e-12)


@pytest.mark.parametrize("depth", [1.5, 2, 3, math.inf])
def test_geodesics_turn_with_the_matrices(rng, depth):
    # Orthogonal factors are isometries, and equal singular values are nothing special.
    metric, U, V = DeepLinearMetric(depth), orthogonal(rng, 3), orthogonal(rng, 3)
    X = 0.5 * rng.standard_normal((3, 3))
    for s in ([1.0, 1.0, 1.0], [2.0, 1.0, 1.0]):
        W = np.diag(s)
        end = exponential(metric, W, X)
        np.testing.assert_allclose(
            exponential(metric, U @ W @ V, U @ X @ V), U @ end @ V, atol=1e-9
        )
        there = [geodesic_between(metric, *ends) for ends in ((W, end), (U @ W @ V, U @ end @ V))]
        assert there[0].length == pytest.approx(there[1].length, rel=1e-9)
        np.testing.assert_allclose(there[0].velocities[0], X, rtol=0, atol=1e-6)


def test_the_time_of_lower_rank_away_from_singular_vectors(rng):
    # At depth 2, W(t) = (I + t S) W (I + t S) with S W + W S = W'(0) and W positive definite, until
    # an eigenvalue of I + t S is zero: the kernel of W is that of the symmetric S + I / t.
    Q, S = orthogonal(rng, 3), rng.standard_normal((3, 3))
    W, S = Q * [2.0, 1.0, 0.5] @ Q.T, (S + S.T) / 2
    values, vectors = np.linalg.eigh(S)
    with pytest.raises(LowerRankError) as info:
        geodesic(DeepLinearMetric(2), W, S @ W + W @ S, [0.0, 100.0])
    error, kernel = info.value, vectors[:, 0]
    assert error.time == pytest.approx(-1 / values[0], rel=1e-9)
    np.testing.assert_allclose(
        np.outer(error.left, error.right), np.outer(kernel, kernel), rtol=0, atol=1e-5
    )
    assert f"time {-1 / values[0]:.6g}" in str(error)
    before = -0.999 / values[0]
    path = geodesic(DeepLinearMetric(2), W, S @ W + W @ S, [3.0, 3.0 + before])
    grown = np.eye(3) + before * S
    np.testing.assert_allclose(path.points[1], grown @ W @ grown, rtol=0, atol=1e-9)


@pytest.mark.parametrize("depth", [2, 3, 8])
@pytest.mark.parametrize("shape", [(2, 1), (1, 2)])
def test_a_column_that_nearly_hits_zero_goes_round_it(depth, shape):
    # A column is a point of a plane, at the radius r = N^{1/2} |w|^{1/N}, and its angle counts as
    # 1 / N^{1/2} of it. There geodesics are straight lines.
    start = depth**0.5
    miss = 1e-4 * start
    t = np.linspace(0, 2, 21)
    line = np.array([start, 0.0]) + np.outer(t, [-start, miss])
    radius, angle = np.hypot(*line.T), np.arctan2(*line.T[::-1]) * depth**0.5
    expected = (radius / depth**0.5) ** depth * np.array([np.cos(angle), np.sin(angle)])
    X = np.array([-depth, 1e-4 * depth**0.5]).reshape(shape)  # d|w| = N dr / r, |w| d(angle)
    path = geodesic(DeepLinearMetric(depth), np.eye(*shape), X, t)
    np.testing.assert_allclose(path.points.reshape(-1, 2), expected.T, rtol=0, atol=1e-7)
    assert path.length == pytest.approx(2 * np.hypot(start, miss), rel=1e-9)


@pytest.mark.parametrize(("m", "n", "depth"), [(3, 2, 2), (2, 3, 2), (4, 3, 1.5)])
def test_a_geodesic_that_nearly_meets_lower_rank_keeps_its_speed(rng, m, n, depth):
    metric, r = DeepLinearMetric(depth), min(m, n)
    W = random_matrix(rng, m, n, np.linspace(1.5, 1.0, r))
    U, _, Vt = np.linalg.svd(W)
    # Straight to lower rank at time 1/2, but for a small turn of the space of columns or rows.
    aside = np.outer(U[:, -1], Vt[-1])  # of these one is of the rest
    X = -2 * depth * np.outer(U[:, r - 1], Vt[r - 1]) + 1e-3 * aside
    path = geodesic(metric, W, X, np.linspace(0, 1, 41))
    least = np.linalg.svd(path.points, compute_uv=False)[:, -1] ** (1 / depth)
    assert 1e-5 < least.min() < 1e-3  # at time 1/2, which is one of them
    squares = metric.inner(path.points, path.velocities, path.velocities)
    np.testing.assert_allclose(squares, path.length**2, rtol=1e-6)
    back = exponential(metric, path.points[-1], -path.velocities[-1])
    np.testing.assert_allclose(back, W, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 2), (2, 2), (2, 3)])
def test_a_geodesic_may_come_nearer_to_lower_rank_than_its_start(shape):
    # The square root of the second singular value goes from 1e-6 to a tenth of it.
    W, X = np.eye(*shape), np.zeros(shape)
    W[1, 1], X[1, 1] = 1e-12, -1.8e-12
    end = exponential(DeepLinearMetric(2), W, X)
    assert end[1, 1] == pytest.approx(1e-14, rel=1e-6)


def test_says_where_points_do_not_hold_their_singular_values(rng):
    U, V = orthogonal(rng, 2), orthogonal(rng, 2)
    with pytest.warns(RuntimeWarning, match="^at time 0.75 the geodesic has singular values"):
        path = geodesic(INFINITE, U @ V, U @ np.diag([0.0, -50.0]) @ V, [0, 0.25, 0.75, 1])
    expected = [U @ np.diag([1.0, math.exp(-50 * t)]) @ V for t in path.times]
    np.testing.assert_allclose(path.points, expected, rtol=0, atol=1e-9)
    held = geodesic(INFINITE, U @ V, U @ np.diag([0.0, -12.0]) @ V, [0, 1])  # and no warning
    assert held.length == pytest.approx(12, rel=1e-10)


@pytest.mark.parametrize("rate", [-800.0, 800.0])
def test_says_where_numbers_end(rate):
    with pytest.raises(GeodesicError, match="leaves the range of floating-point numbers"):
        exponential(INFINITE, [[1.0]], [[rate]])


def test_a_bound_on_evaluations_is_kept():
    with pytest.raises(GeodesicError, match="which took 40 evaluations.*max_evaluations"):
        geodesic(
            DeepLinearMetric(3), np.eye(2), [[1.0, 2.0], [0.0, 1.0]], [0, 9], max_evaluations=40
        )


# Closed forms.


@pytest.mark.parametrize("left", [0, 1])
def test_distances_along_singular_values(rng, left):
    U, V = (orthogonal(rng, 2) if left else np.eye(2) for _ in "UV")

    def dist(depth, *ends):
        return FullRank(2, 2, DeepLinearMetric(depth)).dist(*(U @ np.diag(s) @ V for s in ends))

    assert dist(math.inf, [1, 1], [math.exp(-10), 1]) == pytest.approx(10, rel=1e-10)
    expected = math.sqrt(8) * (1 - 1e-9 ** (1 / 8))
    assert dist(8, [1, 1], [1e-9, 1]) == pytest.approx(expected, rel=1e-7 if left else 1e-10)
    expected = math.sqrt(3 * (3 ** (1 / 3) - 2 ** (1 / 3)) ** 2 + 3 * (2 - 1) ** 2)
    assert dist(3, [2, 1], [3, 8]) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("m", "n"), [(3, 3), (2, 3), (3, 2)])
@pytest.mark.parametrize("depth", [1.5, 3, math.inf])
@pytest.mark.parametrize(
    ("s", "t"),
    [
        ([3.0, 1.0, 2.0], [1.5, 0.2, 1.0]),
        ([1.0, 1.0, 2.0], [0.3, 0.6, 5.0]),
        ([2, 2, 2], [1, 1, 1]),
    ],
)
def test_aligned_matrices_solve_the_equation_too(rng, m, n, depth, s, t):
    if math.isinf(depth) and m != n:
        depth = 2  # infinite depth is for square matrices
    r, metric = min(m, n), DeepLinearMetric(depth)
    U, V = (np.linalg.qr(rng.standard_normal((size, r)))[0] for size in (m, n))
    a, b = U * s[:r] @ V.T, U * t[:r] @ V.T
    known = geodesic_between(metric, a, b, np.linspace(0, 1, 9))
    path = np.linspace(a, b, 5)
    solved = geodesic_between(metric, a, b, known.times, path)
    assert solved.length == pytest.approx(known.length, rel=1e-9)
    np.testing.assert_allclose(solved.points, known.points, rtol=0, atol=1e-7)
    np.testing.assert_allclose(solved.velocities, known.velocities, rtol=0, atol=1e-6)
    np.testing.assert_allclose(known.points[[0, -1]], [a, b], rtol=0, atol=1e-14)
    roots = [np.array(x[:r], dtype=float) ** (1 / depth) for x in (s, t)]
    if math.isinf(depth):
        expected = np.linalg.norm(np.log(s) - np.log(t))
    else:
        expected = depth**0.5 * np.linalg.norm(roots[0] - roots[1])
    assert known.length == pytest.approx(expected, rel=1e-10)


def test_a_turn_is_shorter_where_singular_values_change_places():
    # So the formula for aligned matrices, of length 2^{1/2} ln 1e5, is not used.
    a, b = np.diag([1.0, 1e-5]), np.diag([1e-5, 1.0])
    assert INFINITE.known_geodesic(a, b, np.array([0.0, 1.0])) is None
    turns = [rotation(angle) for angle in np.linspace(0, np.pi / 2, 9)]
    found = geodesic_between(INFINITE, a, b, initial_path=[Q @ a @ Q.T for Q in turns])
    assert_geodesic(INFINITE, found, a, b)
    # A quarter turn of both bases together moves the entries 12 and 21 by 1 - 1e-5, divided by
    # theta(s, t) = (s^2 - t^2) / (2 ln(s / t)).
    turn = np.pi / 2 * math.sqrt(2 * (1 - 1e-5) ** 2 * 2 * math.log(1e5) / (1 - 1e-10))
    assert found.length < turn < 0.7 * math.sqrt(2) * math.log(1e5)


def test_nearly_aligned_matrices_are_not_taken_for_aligned_ones(rng):
    # The velocity has the small turn, at the rate of its part in the entries 12 and 21.
    for depth in (2, 3, math.inf):
        metric, small = DeepLinearMetric(depth), 1e-7 * np.array([[0.0, 1.0], [-0.4, 0.0]])
        a, b = np.diag([1.0, 2.0]), np.diag([1.5, 3.0]) + small
        X = geodesic_between(metric, a, b, [0.0]).velocities[0]
        np.testing.assert_allclose(exponential(metric, a, X), b, rtol=0, atol=1e-10)


def bures_wasserstein(A, B):
    root = scipy.linalg.sqrtm(A).real
    cross = np.trace(scipy.linalg.sqrtm(root @ B @ root)).real
    return math.sqrt(2 * (np.trace(A) + np.trace(B) - 2 * cross))


@pytest.mark.parametrize(("m", "n"), [(3, 3), (4, 2), (2, 4)])
@pytest.mark.parametrize("equal", [False, True])
def test_depth_two_with_the_same_polar_factor(rng, m, n, equal):
    r, metric = min(m, n), DeepLinearMetric(2)
    Q = np.linalg.qr(rng.standard_normal((max(m, n), r)))[0]
    A, B = (G @ G.T + 0.1 * np.eye(r) for G in rng.standard_normal((2, r, r)))
    if equal:
        A = 2 * np.eye(r)
    a, b = (Q @ H if m >= n else H @ Q.T for H in (A, B))
    known = geodesic_between(metric, a, b, np.linspace(0, 1, 7))
    assert metric.known_geodesic(a, b, known.times) is not None
    assert known.length == pytest.approx(bures_wasserstein(A, B), rel=1e-10)
    # The map from A to B of optimal transport: T A T = B.
    root = scipy.linalg.sqrtm(A).real
    T = np.linalg.solve(root, scipy.linalg.sqrtm(root @ B @ root).real) @ np.linalg.inv(root)
    steps = [np.eye(r) + t * (T - np.eye(r)) for t in known.times]
    expected = [Q @ S @ A @ S if m >= n else S @ A @ S @ Q.T for S in steps]
    np.testing.assert_allclose(known.points, expected, rtol=0, atol=1e-10)
    solved = geodesic_between(metric, a, b, known.times, np.linspace(a, b, 4))
    np.testing.assert_allclose(solved.points, known.points, rtol=0, atol=1e-7)
    np.testing.assert_allclose(solved.velocities, known.velocities, rtol=0, atol=1e-6)


# Between two points.


@pytest.mark.parametrize(
    ("m", "n", "depth"),
    [(2, 2, 2), (2, 2, math.inf), (3, 2, 3), (2, 4, 1.5), (3, 3, 3), (3, 3, math.inf), (2, 3, 8)],
)
def test_geodesics_between_gaussian_matrices(m, n, depth):
    rng, metric = np.random.default_rng(m * 10 + n), DeepLinearMetric(depth)
    for _ in range(3):
        a, b = gaussian_pair(rng, m, n)
        found = geodesic_between(metric, a, b)
        assert_geodesic(metric, found, a, b)
        # No singular value moves faster than the geodesic.
        s, t = (np.linalg.svd(W, compute_uv=False) for W in (a, b))
        if math.isinf(depth):
            least = np.linalg.norm(np.log(s / t))
        else:
            least = depth**0.5 * np.linalg.norm(s ** (1 / depth) - t ** (1 / depth))
        assert found.length >= least * (1 - 1e-9)


def cone_distance(r_a, r_b, angle):
    return math.sqrt(r_a**2 + r_b**2 - 2 * r_a * r_b * math.cos(angle))


@pytest.mark.parametrize("angle", [0.5, 3.1, 4.5])
@pytest.mark.parametrize("depth", [2, 3, 8, math.inf])
def test_multiples_of_rotations_are_a_cone(depth, angle):
    # They are the fixed points of the isometry W -> J W J^T, so that geodesics stay among them.
    # There g = 2 (dr^2 + r^2 da^2 / N^2), r = N^{1/2} h^{1/N}, and 2 (dln h^2 + da^2) where N is
    # infinite.
    a, b, metric = np.eye(2), 3 * rotation(angle), DeepLinearMetric(depth)
    shorter = min(angle, 2 * np.pi - angle)
    if math.isinf(depth):
        expected = math.sqrt(2) * math.hypot(math.log(3), shorter)
    else:
        radii = [depth**0.5 * h ** (1 / depth) for h in (1, 3)]
        expected = math.sqrt(2) * cone_distance(*radii, shorter / depth)
    assert geodesic_between(metric, a, b).length == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("depth", [2, 3, math.inf])
def test_from_a_matrix_to_its_opposite(rng, depth):
    metric = DeepLinearMetric(depth)
    half_turn = math.sqrt(2) * np.pi
    if depth < math.inf:
        half_turn = math.sqrt(2) * 2 * depth**0.5 * math.sin(np.pi / 2 / depth)
    assert geodesic_between(metric, np.eye(2), -np.eye(2)).length <= half_turn * (1 + 1e-9)
    for W in rng.standard_normal((1, 2, 2)):
        found = geodesic_between(metric, W, -W)
        assert_geodesic(metric, found, W, -W)
        # By an isometry the way back is another one of the same length.
        assert geodesic_between(metric, -W, W).length == pytest.approx(found.length, rel=1e-9)


@pytest.mark.parametrize(
    ("seed", "depth"),
    [(0, 3), (3, math.inf)],  # the direct way asks for more points than the other at infinite depth
)
def test_of_the_two_ways_round_the_shorter_one_is_taken(seed, depth):
    rng, metric = np.random.default_rng(seed), DeepLinearMetric(depth)
    H_a, H_b = (G @ G.T + 0.02 * np.eye(2) for G in rng.standard_normal((2, 2, 2)))
    a, b = H_a, rotation(0.97 * np.pi) @ H_b

    def length(angle):
        """Of the way that turns by this angle."""
        steps = [rotation(t * angle) @ ((1 - t) * H_a + t * H_b) for t in np.linspace(0, 1, 13)]
        return geodesic_between(metric, a, b, initial_path=steps).length

    direct, other = length(0.97 * np.pi), length(-1.03 * np.pi)
    assert direct < 0.99 * other
    assert geodesic_between(metric, a, b).length == pytest.approx(direct, rel=1e-9)


def test_the_first_guess_may_be_given():
    # The way round the other side of the cone of multiples of rotations, at depth 3.
    metric, angle = DeepLinearMetric(3), 2.0
    a, b, other = np.eye(2), rotation(angle), angle - 2 * np.pi
    path = [rotation(t * other) for t in np.linspace(0, 1, 9)]
    found = geodesic_between(metric, a, b, initial_path=path)
    assert found.length == pytest.approx(math.sqrt(6) * cone_distance(1, 1, other / 3), rel=1e-9)
    assert_geodesic(metric, found, a, b)
    assert geodesic_between(metric, a, b).length < 0.5 * found.length


def test_a_first_guess_has_to_fit():
    metric, a, b = DeepLinearMetric(2), np.eye(2), 2 * np.eye(2)
    for path in ([a], np.zeros((2, 2, 3)), a):
        with pytest.raises(ValueError, match=r"^initial_path must have the shape \(L, 2, 2\)"):
            geodesic_between(metric, a, b, initial_path=np.array(path))
    for path in ([b, b], [a, a]):
        with pytest.raises(ValueError, match="^initial_path must go from W_a to W_b"):
            geodesic_between(metric, a, b, initial_path=np.array(path))
    with pytest.raises(ValueError, match="^initial_path must be finite"):
        geodesic_between(metric, a, b, initial_path=np.array([a, np.nan * a, b]))


def spread_pair(seed, m, n, decades, scale=1.0):
    """A Gaussian pair of which one has singular values spread over some decades."""
    a, b = gaussian_pair(np.random.default_rng([seed, decades]), m, n)
    U, s, Vt = np.linalg.svd(a, full_matrices=False)
    return U * 10.0 ** -np.linspace(0, decades, len(s)) @ Vt, scale * b


@pytest.mark.parametrize(
    ("seed", "m", "n", "depth", "decades", "scale"),
    [
        (1, 3, 3, 3, 4, 1.0),
        (0, 2, 2, 2, 4, 1e-4),
        (1, 2, 2, 8, 4, 1e-12),
        (1, 2, 2, 3, 8, 1.0),
        (7, 2, 2, math.inf, 4, 1.0),  # from the polyline of least energy alone
        (2, 2, 3, 1.5, 4, 1.0),  # by shooting alone
    ],
)
def test_geodesics_dive_toward_lower_rank(seed, m, n, depth, decades, scale):
    metric, (a, b) = DeepLinearMetric(depth), spread_pair(seed, m, n, decades, scale)
    assert_geodesic(metric, geodesic_between(metric, a, b), a, b)


def test_says_why_no_geodesic_was_found(monkeypatch):
    # Pairs that are not found are rare: here Newton's method and shooting are kept from success.
    metric, (a, b) = DeepLinearMetric(2), spread_pair(1, 2, 2, 1)
    module = "riemdln.geodesics._boundary_value"
    monkeypatch.setattr(f"{module}._hit", lambda *arguments: None)
    with pytest.raises(
        GeodesicError, match="degree 256 the squared speed varies by .* comes near lower rank at"
    ):
        geodesic_between(metric, a, b, tolerance=1e-17)
    for name in ("solve", "solve_in_steps"):
        monkeypatch.setattr(f"{module}.{name}", lambda *arguments: None)
    with pytest.raises(GeodesicError, match="^no geodesic was found between the points: from no"):
        geodesic_between(metric, a, b)


@pytest.mark.parametrize("depth", [1.5, 3, math.inf])
def test_the_gradient_of_the_energy_of_polylines(rng, depth):
    nodes = np.eye(3) + 0.2 * rng.standard_normal((5, 3, 3))
    change = rng.standard_normal(nodes.shape)
    coordinates = DeepLinearMetric(depth).geodesic_coordinates(nodes, None, None)
    nodes, change = coordinates.states(nodes), 0.1 * change
    slope = derivative(lambda h: _polyline_energy(coordinates, nodes + h * change)[0], 1e-3)
    gradient = _polyline_energy(coordinates, nodes)[1]
    assert np.sum(gradient * change) == pytest.approx(slope, rel=1e-7)


@pytest.mark.parametrize("depth", [1.5, 2, 8, math.inf])
def test_points_of_any_size_take_the_same_work(rng, depth, monkeypatch):
    a, b = gaussian_pair(rng, 3, 3)
    metric, calls = DeepLinearMetric(depth), []
    coordinates_at = RootCoordinates.at
    monkeypatch.setattr(
        RootCoordinates, "at", lambda self, states: calls.append(1) or coordinates_at(self, states)
    )

    def measured(c):
        calls.clear()
        return geodesic_between(metric, a, c * b), len(calls)

    def size(W):
        s = np.linalg.svd(W, compute_uv=False)
        return (
            math.log(np.prod(s)) / 3**0.5
            if math.isinf(depth)
            else (depth**0.5 * np.linalg.norm(s ** (1 / depth)))
        )

    (near, ordinary), r = measured(1.0), size(a)
    for c in (1e-10, 1e-3, 1e10):
        far, work = measured(c)
        assert work < 2 * ordinary
        if math.isinf(depth):  # a product
            expected = near.length**2 + (size(c * b) - r) ** 2 - (size(b) - r) ** 2
        else:  # a cone: its law of cosines
            cosine = (r**2 + size(b) ** 2 - near.length**2) / (2 * r * size(b))
            expected = r**2 + size(c * b) ** 2 - 2 * r * size(c * b) * cosine
        assert far.length == pytest.approx(expected**0.5, rel=1e-8)
        speeds = metric.inner(far.points, far.velocities, far.velocities) ** 0.5
        np.testing.assert_allclose(speeds, far.length, rtol=1e-8)
        if c == 1e-3:
            np.testing.assert_allclose(
                exponential(metric, a, far.velocities[0]), c * b, rtol=0, atol=1e-6 * c
            )


@pytest.mark.parametrize("distance", [1e-5, 1e-8, 1e-13])
@pytest.mark.parametrize("depth", [1.5, 2, 1000, math.inf])
def test_near_points_are_as_far_apart_as_the_metric_says(rng, depth, distance):
    metric, (a, X) = DeepLinearMetric(depth), rng.standard_normal((2, 3, 3))
    b = a + distance * X
    step = b - a
    expected = metric.inner((a + b) / 2, step, step) ** 0.5  # up to the square of the distance
    found = geodesic_between(metric, a, b, [0.0, 0.5, 1.0])
    assert found.length == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(found.velocities[1], step, rtol=0, atol=1e-3 * distance)


def test_near_points_of_lower_rank_are_as_far_apart_as_the_metric_says(rng):
    manifold = FixedRank(5, 4, 2, DeepLinearMetric(2), rng=1)
    point = manifold.random_point()
    X = 1e-7 * manifold.random_tangent_vector(point)
    end = manifold.retraction(point, X)
    assert manifold.dist(point, end) == pytest.approx(1e-7, rel=1e-6)


@pytest.mark.parametrize("depth", [1e5, 1e9])
def test_great_depths_tend_to_infinite_depth(rng, depth):
    a, b = gaussian_pair(rng, 2, 2)
    # g^N is g_inf / N up to terms of the order 1 / N^2.
    expected = geodesic_between(INFINITE, a, b).length
    found = geodesic_between(DeepLinearMetric(depth), a, b).length * depth**0.5
    assert found == pytest.approx(expected, rel=10 / depth + 1e-8)


@pytest.mark.parametrize("depth", [1e3, 1e12])
def test_aligned_matrices_at_great_depth(depth):
    found = geodesic_between(DeepLinearMetric(depth), np.diag([3.0, 1.0]), np.diag([5.0, 1.25]))
    with mpmath.workdps(40):
        roots = [mpmath.mpf(s) ** (1 / mpmath.mpf(depth)) for s in (3, 1, 5, 1.25)]
        gaps = roots[2] - roots[0], roots[3] - roots[1]
        expected = float(mpmath.sqrt(depth) * mpmath.hypot(*gaps))
    assert found.length == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("depth", [4, math.inf])
def test_small_blocks_that_turn_are_not_aligned(depth):
    # Among small singular values alone flat is frozen beside the large one.
    small = 1e-11 if depth == 4 else 1e-9
    metric, Q = DeepLinearMetric(depth), rotation(1.0)
    blocks = np.diag([2.0, 1.0]) * small, Q @ np.diag([3.0, 1.0]) @ Q.T * small
    whole = [scipy.linalg.block_diag(1.0, block) for block in blocks]
    expected = geodesic_between(metric, *blocks).length
    assert geodesic_between(metric, *whole).length == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("transpose", [False, True])
def test_tall_matrices_are_joined_in_the_span_of_their_columns(rng, transpose):
    metric, (a, b) = DeepLinearMetric(3), rng.standard_normal((2, 6, 2))
    Q = np.linalg.qr(rng.standard_normal((60, 6)))[0]
    tall = [(Q @ W).T if transpose else Q @ W for W in (a, b)]
    found = geodesic_between(metric, *tall)
    assert found.length == pytest.approx(geodesic_between(metric, a, b).length, rel=1e-9)
    assert_geodesic(metric, found, *tall)
    with pytest.raises(LowerRankError) as info:
        geodesic(metric, tall[0], -3 * tall[0], [0.0, 2.0])  # s^{1/3} goes as 1 - t
    assert info.value.time == pytest.approx(1.0, rel=1e-6)
    U, _, Vt = np.linalg.svd(tall[0], full_matrices=False)
    np.testing.assert_allclose(
        np.abs([info.value.left @ U, info.value.right @ Vt.T]), np.eye(2)[[1, 1]], atol=1e-6
    )


@pytest.mark.parametrize("depth", [2, 3, math.inf])
@pytest.mark.parametrize("share", [0.999, 0.9999, -0.999])
def test_near_a_half_turn_the_shorter_way_is_taken(depth, share):
    # As in the test of the cone: the other way round is longer by a thousandth or less.
    angle = abs(share) * np.pi
    found = geodesic_between(DeepLinearMetric(depth), np.eye(2), rotation(share * np.pi))
    if math.isinf(depth):
        expected = 2**0.5 * angle
    else:
        expected = (8 * depth) ** 0.5 * math.sin(angle / 2 / depth)
    assert found.length == pytest.approx(expected, rel=1e-9)


def test_matrices_of_a_higher_rank_are_refused(rng):
    a, b = rng.standard_normal((2, 3, 3))
    for call in (
        lambda: geodesic_between(DeepLinearMetric(3), a, b, rank=2),
        lambda: geodesic(DeepLinearMetric(3), a, b, [0.0, 1.0], rank=2),
    ):
        with pytest.raises(GeodesicError, match="point is of a rank above 2"):
            call()
    with pytest.raises(ValueError, match="^rank must be at most"):
        geodesic_between(DeepLinearMetric(3), a, b, rank=4)


def test_the_ends_of_a_first_guess_are_those_of_small_matrices_too():
    a, b = np.diag([1.0, 4.0]) * 1e-10, np.array([[4.0, 1.0], [1.0, 9.0]]) * 1e-10
    metric = DeepLinearMetric(2)
    with pytest.raises(ValueError, match="initial_path must go from W_a to W_b"):
        geodesic_between(metric, a, b, initial_path=np.array([2 * a, (a + b) / 2, 3 * b]))
    with pytest.raises(GeodesicError, match="sizes of the points are too far apart"):
        geodesic_between(INFINITE, np.eye(2) * 1e-160, np.array([[1.0, 0], [2, 1]]) * 1e150)
