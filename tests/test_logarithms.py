"""The logarithm of straight lines, against dense definitions, and the optimizers that need it."""

import pickle

import numpy as np
import pymanopt
import pytest
from pymanopt.optimizers import NelderMead, ParticleSwarm

from riemdln import DeepLinearMetric, FixedRank, FullRank, GeodesicError, PositiveDefinite
from riemdln.retractions import polar_retraction, root_retraction

METRIC = DeepLinearMetric(3)


def manifold_of(kind, m, n, depth=3, **options):
    metric = DeepLinearMetric(depth)
    if kind == "fixed rank":
        return FixedRank(m, n, min(m, n) - 1, metric, logarithm="linear", **options)
    if kind == "positive definite":
        return PositiveDefinite(n, metric, logarithm="linear", **options)
    return FullRank(m, n, metric, logarithm="linear", **options)


def dense(point):
    return point if isinstance(point, np.ndarray) else point[0] * point[1] @ point[2]


def dense_vector(point, X):
    """A tangent vector as a matrix: on matrices of fixed rank u M vt + Up vt + u Vp^T."""
    if isinstance(X, np.ndarray):
        return X
    (u, _, vt), (Up, M, Vp) = point, X
    return u @ M @ vt + Up @ vt + u @ Vp.T


def tangent_part(point, Z):
    """Z without (I - U U^T) Z (I - V V^T), which leaves the matrices of fixed rank."""
    if isinstance(point, np.ndarray):
        return Z
    u, _, vt = point
    return Z - (np.eye(len(u)) - u @ u.T) @ Z @ (np.eye(vt.shape[1]) - vt.T @ vt)


KINDS = [
    ("full rank", 3, 3),
    ("full rank", 2, 4),
    ("fixed rank", 5, 4),
    ("fixed rank", 2, 7),
    ("positive definite", 3, 3),
]


@pytest.mark.parametrize(("kind", "m", "n"), KINDS)
def test_straight_lines_are_those_of_the_matrices(kind, m, n):
    manifold = manifold_of(kind, m, n, rng=0)
    a, b = manifold.random_point(), manifold.random_point()
    difference = dense(b) - dense(a)
    log = dense_vector(a, manifold.log(a, b))
    np.testing.assert_allclose(log, tangent_part(a, difference), atol=1e-13)
    assert manifold.dist(a, b) == pytest.approx(np.sqrt(np.sum(difference**2)), rel=1e-13)
    assert manifold.dist(a, b) == pytest.approx(manifold.dist(b, a), rel=1e-14)
    assert manifold.dist(a, a) == pytest.approx(0, abs=1e-15)

    middle = dense(manifold.pair_mean(a, b))
    U, s, Vt = np.linalg.svd((dense(a) + dense(b)) / 2)
    k = manifold.log(a, b)[1].shape[0] if kind == "fixed rank" else len(s)
    np.testing.assert_allclose(middle, U[:, :k] * s[:k] @ Vt[:k], atol=1e-13)


def test_the_linear_logarithm_inverts_the_linear_retraction(rng):
    manifold = manifold_of("full rank", 3, 3)
    a, b = np.diag([1.0, 2.0, 3.0]), rng.standard_normal((3, 3))
    b[0] *= -np.sign(np.linalg.det(b))  # where no geodesic leads
    np.testing.assert_allclose(manifold.retraction(a, manifold.log(a, b)), b, atol=1e-15)
    with pytest.raises(GeodesicError, match="opposite signs"):
        FullRank(3, 3, METRIC).log(a, b)


def test_at_fixed_rank_it_inverts_the_retraction_up_to_third_order():
    manifold = manifold_of("fixed rank", 5, 4, rng=1)
    a = manifold.random_point()
    X = manifold.random_tangent_vector(a)
    lengths = 0.05 * 0.5 ** np.arange(5)
    errors = []
    for length in lengths:
        b = manifold.retraction(a, length * X)
        again = manifold.retraction(a, manifold.log(a, b))
        errors.append(np.linalg.norm(dense(again) - dense(b)))
    order = np.polyfit(np.log(lengths), np.log(errors), 1)[0]
    assert order == pytest.approx(3, abs=0.2)


@pytest.mark.parametrize(("kind", "m", "n"), KINDS)
def test_the_logarithms_point_down_the_gradient_of_squared_distances(kind, m, n):
    # So a descent along them ends at the mean: that is how NelderMead finds its centroid.
    manifold = manifold_of(kind, m, n, rng=2)
    y, *points = [manifold.random_point() for _ in range(5)]
    downhill = sum((manifold.log(y, point) for point in points), manifold.zero_vector(y))

    def half_squares(t):
        there = manifold.retraction(y, t * downhill)
        return sum(manifold.dist(there, point) ** 2 for point in points) / 2

    h = 1e-4
    slope = (half_squares(h) - half_squares(-h)) / (2 * h)
    assert slope == pytest.approx(-np.sum(dense_vector(y, downhill) ** 2), rel=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "first"), [(ParticleSwarm, 10), (NelderMead, None)], ids=["swarm", "simplex"]
)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("kind", "m", "n", "depth", "iterations"),
    [
        ("full rank", 2, 2, 2, 20),
        ("full rank", 3, 4, 3, 20),
        ("full rank", 5, 5, 2, 40),
        ("fixed rank", 3, 3, 3, 10),
        ("positive definite", 2, 2, 3, 5),
    ],
)
def test_optimizers_without_derivatives_find_lower_costs(
    kind, m, n, depth, iterations, seed, optimizer, first
):
    manifold = manifold_of(kind, m, n, depth, rng=seed)
    target, costs = dense(manifold.random_point(100 + seed)), []

    @pymanopt.function.numpy(manifold)
    def cost(*point):
        W = dense(point if manifold.num_values > 1 else point[0])
        costs.append(np.sum((W - target) ** 2))
        return costs[-1]

    np.random.seed(seed)  # noqa: NPY002 (the swarm draws from NumPy's global generator)
    sizes = {"population_size": first} if first else {}
    run = optimizer(max_iterations=iterations, verbosity=0, **sizes)
    result = run.run(pymanopt.Problem(manifold, cost))
    assert result.cost < min(costs[: first or manifold.dim + 1])


def test_long_steps_of_positive_definite_matrices_stay_among_them():
    manifold = PositiveDefinite(4, METRIC, rng=0)
    W, X = manifold.random_point(), manifold.random_tangent_vector(manifold.random_point())
    np.testing.assert_allclose(root_retraction(W, X), polar_retraction(W, X), atol=1e-13)
    for length in (1e5, 1e10, 1e15, 1e20):
        end = manifold.retraction(W, length * X)
        least, largest = np.linalg.eigvalsh(end)[[0, -1]]
        assert least > -1e-14 * largest
        manifold.norm(end, X)  # which refuses what is outside


def test_steps_from_the_boundary_of_positive_definite_matrices_go_on():
    a, b, c = 0.5, 0.25, 3.0
    # R = diag(1, 0) and R dR + dR R = X, but for the entry c.
    moved = np.array([[1 + a / 2, b], [b, 0.0]])
    step = PositiveDefinite(2, METRIC).retraction(np.diag([1.0, 0.0]), np.array([[a, b], [b, c]]))
    np.testing.assert_allclose(step, moved @ moved, atol=1e-15)


@pytest.mark.parametrize("bad", ["straight", None, ["linear"], lambda a, b: b - a])
@pytest.mark.parametrize(
    "make",
    [
        lambda **options: FullRank(2, 3, METRIC, **options),
        lambda **options: FixedRank(3, 3, 1, METRIC, **options),
        lambda **options: PositiveDefinite(2, METRIC, **options),
    ],
    ids=["full_rank", "fixed_rank", "positive_definite"],
)
def test_refuses_other_logarithms(make, bad):
    with pytest.raises(ValueError, match="^logarithm must be one of 'geodesic', 'linear', got"):
        make(logarithm=bad)


@pytest.mark.parametrize("method", ["log", "dist", "pair_mean"])
def test_points_are_checked(method):
    full, fixed = manifold_of("full rank", 2, 3), manifold_of("fixed rank", 3, 3, rng=0)
    with pytest.raises(ValueError, match="^point_b must have shape"):
        getattr(full, method)(np.ones((2, 3)), np.ones((3, 2)))
    with pytest.raises(ValueError, match="^point_a must be finite"):
        getattr(full, method)(np.full((2, 3), np.nan), np.ones((2, 3)))
    good = fixed.random_point()
    with pytest.raises(ValueError, match="^point_b must have arrays of shapes"):
        getattr(fixed, method)(good, (good.u, good.s, good.vt[:, :2]))
    definite = manifold_of("positive definite", 2, 2)
    with pytest.raises(ValueError, match="^point_b must be positive definite"):
        getattr(definite, method)(np.eye(2), np.diag([1.0, -1.0]))


def test_manifolds_of_straight_lines_are_pickled(rng):
    a, b = rng.standard_normal((2, 2, 3))
    copy = pickle.loads(pickle.dumps(manifold_of("full rank", 2, 3)))
    np.testing.assert_array_equal(copy.log(a, b), b - a)
