"""Matrices of fixed rank, against dense definitions, pymanopt's embedded manifold and FullRank."""

import copy
import pickle
from itertools import pairwise

import autograd.numpy as anp
import numpy as np
import pymanopt
import pytest
import scipy.integrate
import scipy.linalg
from pymanopt.manifolds import FixedRankEmbedded
from pymanopt.optimizers import ConjugateGradient, SteepestDescent, TrustRegions
from scipy.sparse import csr_array, csr_matrix, dok_array, lil_array
from scipy.sparse.linalg import aslinearoperator

from riemdln import (
    DeepLinearMetric,
    FixedRank,
    FullRank,
    GeodesicError,
    KroneckerMetric,
    SpectralMetric,
    balanced_layers,
    end_to_end,
    gradient_flow,
    imbalance,
    layer_gradients,
    network_flow,
)
from riemdln.checks import check_gradient, check_hessian, check_retraction
from riemdln.geodesics import LowerRankError
from riemdln.manifolds import FixedRankPoint, FixedRankVector
from tests.conftest import random_matrix, sharp_by_powers

DEPTHS = [1, 1.5, 2, 3]
SHAPES = [(6, 5, 2), (4, 7, 3), (5, 5, 1), (6, 3, 3), (3, 6, 3), (4, 4, 4)]
TIGHT = {"rtol": 1e-11, "atol": 1e-12}


def dense(point):
    return point[0] * point[1] @ point[2]


def ambient(point, vector):
    (u, _, vt), (Up, M, Vp) = point, vector
    return u @ M @ vt + Up @ vt + u @ Vp.T


def quartic(manifold, target, *, form="array"):
    """The cost sum((W - target)^4) / 4 + |W - target|^2 / 2, with derivatives of any form."""
    forms = {
        "array": lambda Z: Z,
        "sparse": csr_array,
        "sparse matrix": csr_matrix,
        "lists": lil_array,
        "keys": dok_array,
        "operator": aslinearoperator,
        "low rank": lambda Z: (Z, np.eye(Z.shape[1]), np.eye(Z.shape[1])),
    }
    give = forms[form]

    @pymanopt.function.numpy(manifold)
    def cost(u, s, vt):
        Z = u * s @ vt - target
        return np.sum(Z**4) / 4 + np.sum(Z**2) / 2

    @pymanopt.function.numpy(manifold)
    def gradient(u, s, vt):
        Z = u * s @ vt - target
        return give(Z**3 + Z)

    @pymanopt.function.numpy(manifold)
    def hessian(u, s, vt, U, S, V):
        Z = u * s @ vt - target
        return give((3 * Z**2 + 1) * (U @ S @ V.T))

    return pymanopt.Problem(manifold, cost, euclidean_gradient=gradient, euclidean_hessian=hessian)


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_gradients_are_the_sum_over_layers(rng, m, n, k, depth):
    manifold = FixedRank(m, n, k, DeepLinearMetric(depth), rng=rng)
    point, P = manifold.random_point(), rng.standard_normal((m, n))
    gradient = manifold.euclidean_to_riemannian_gradient(point, P)
    expected = sharp_by_powers(dense(point), P, depth)
    np.testing.assert_allclose(ambient(point, gradient), expected, atol=1e-11)
    assert np.abs(point.u.T @ gradient.Up).max() < 1e-12
    assert np.abs(point.vt @ gradient.Vp).max() < 1e-12
    # The norm of a gradient pairs it with its covector.
    norm = np.sqrt(np.sum(P * expected))
    assert manifold.norm(point, gradient) == pytest.approx(norm, rel=1e-9)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_the_metric_is_the_inverse_of_the_dense_cometric(rng, m, n, k, depth):
    manifold = FixedRank(m, n, k, DeepLinearMetric(depth), rng=rng)
    point = manifold.random_point()
    X, Y = (manifold.random_tangent_vector(point) for _ in range(2))
    assert manifold.norm(point, X) == pytest.approx(1)
    basis = np.eye(m * n).reshape(-1, m, n)
    images = [
        ambient(point, manifold.euclidean_to_riemannian_gradient(point, E)).ravel() for E in basis
    ]
    inverse = np.linalg.pinv(np.array(images), rcond=1e-10)
    expected = ambient(point, X).ravel() @ inverse @ ambient(point, Y).ravel()
    assert manifold.inner_product(point, X, Y) == pytest.approx(expected, rel=1e-7, abs=1e-9)
    there_and_back = manifold.sharp(point, manifold.flat(point, X))
    np.testing.assert_allclose(ambient(point, there_and_back), ambient(point, X), atol=1e-12)


@pytest.mark.parametrize(
    "form", ["array", "sparse", "sparse matrix", "lists", "keys", "operator", "low rank"]
)
def test_all_forms_of_ambient_gradients_agree(rng, form):
    manifold = FixedRank(6, 5, 2, DeepLinearMetric(3), rng=rng)
    target = rng.standard_normal((6, 5))
    point = manifold.random_point()
    X = manifold.random_tangent_vector(point)
    problem, reference = quartic(manifold, target, form=form), quartic(manifold, target)
    for actual, expected in (
        (problem.riemannian_gradient(point), reference.riemannian_gradient(point)),
        (problem.riemannian_hessian(point, X), reference.riemannian_hessian(point, X)),
    ):
        np.testing.assert_allclose(ambient(point, actual), ambient(point, expected), atol=1e-12)


@pytest.mark.parametrize(
    ("m", "n", "k", "depth"),
    [(6, 5, 2, 1), (6, 5, 2, 1.5), (4, 5, 2, 2), (5, 4, 1, 3), (4, 3, 3, 3), (3, 4, 3, 1)],
)
def test_gradients_and_hessians_are_derivatives(rng, m, n, k, depth):
    manifold = FixedRank(m, n, k, DeepLinearMetric(depth), rng=rng)
    problem = quartic(manifold, rng.standard_normal((m, n)))
    point = manifold.random_point()
    point = FixedRankPoint(point.u, point.s + 0.5, point.vt)
    assert check_gradient(problem, point).slope == pytest.approx(2, abs=0.1)
    check = check_hessian(problem, point)
    assert check.slope == pytest.approx(3, abs=0.1)
    assert check.residuals["symmetry"] < 1e-10


@pytest.mark.parametrize(("depth", "slope"), [(1, 3), (2, 2)])
def test_the_projected_retraction_is_of_second_order_at_depth_one(rng, depth, slope):
    manifold = FixedRank(5, 4, 1, DeepLinearMetric(depth), rng=rng)
    assert check_retraction(manifold).slope == pytest.approx(slope, abs=0.1)


@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_depth_one_is_the_embedded_manifold(rng, m, n, k):
    embedded = FixedRankEmbedded(m, n, k)
    manifold = FixedRank(m, n, k, DeepLinearMetric(1), rng=rng)
    assert manifold.dim == embedded.dim
    assert manifold.point_layout == embedded.point_layout
    assert manifold.typical_dist == embedded.typical_dist
    a, b = manifold.random_point(), manifold.random_point()
    X, Y = (manifold.random_tangent_vector(a) for _ in range(2))
    assert manifold.inner_product(a, X, Y) == pytest.approx(embedded.inner_product(a, X, Y))
    assert manifold.norm(a, X) == pytest.approx(embedded.norm(a, X))
    Z = rng.standard_normal((m, n))
    # The middle factor is symmetric: pymanopt 2.2.1 forgets to transpose it.
    triple = rng.standard_normal((m, 2)), np.diag([2.0, -1.0]), rng.standard_normal((n, 2))
    pairs = [
        (manifold.projection(a, Z), embedded.projection(a, Z)),
        (manifold.projection(a, triple), embedded.projection(a, triple)),
        (manifold.to_tangent_space(a, X), embedded.to_tangent_space(a, X)),
        (manifold.embedding(a, X), embedded.embedding(a, X)),
        (manifold.transport(a, b, X), embedded.transport(a, b, X)),
        (manifold.zero_vector(a), embedded.zero_vector(a)),
    ]

    def cost(u, s, vt):
        return anp.sum((anp.dot(u * s, vt) - Z) ** 4) + anp.sum(s**3) + anp.sum(u**4 * s)

    gradients = [
        pymanopt.Problem(space, pymanopt.function.autograd(space)(cost)).riemannian_gradient(a)
        for space in (manifold, embedded)
    ]
    for actual, expected in [*pairs, gradients]:
        for block, other in zip(actual, expected, strict=True):
            np.testing.assert_allclose(block, other, rtol=1e-9, atol=1e-10)
    if k < min(m, n):  # elsewhere pymanopt's steps have no orthonormal factors
        reached = manifold.retraction(a, X)
        np.testing.assert_allclose(dense(reached), dense(embedded.retraction(a, X)), atol=1e-12)


@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_retractions_project_on_the_matrices_of_rank_k(rng, m, n, k):
    manifold = FixedRank(m, n, k, DeepLinearMetric(2), rng=rng)
    point = manifold.random_point()
    for X in (
        manifold.random_tangent_vector(point),
        manifold.zero_vector(point),
        manifold.zero_vector(point)
        + FixedRankVector(
            point.u @ np.zeros((k, k)) + manifold.random_tangent_vector(point).Up[:, :1],
            np.eye(k),
            np.zeros((n, k)),
        ),
    ):
        reached = manifold.retraction(point, X)
        U, s, Vt = np.linalg.svd(dense(point) + ambient(point, X))
        np.testing.assert_allclose(dense(reached), U[:, :k] * s[:k] @ Vt[:k], atol=1e-12)
        np.testing.assert_allclose(reached.u.T @ reached.u, np.eye(k), atol=1e-12)
        np.testing.assert_allclose(reached.vt @ reached.vt.T, np.eye(k), atol=1e-12)
        assert np.all(np.diff(reached.s) <= 0)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("m", "n"), [(4, 4), (3, 5), (5, 3)])
def test_full_rank_and_fixed_rank_agree(rng, m, n, depth):
    metric, r = DeepLinearMetric(depth), min(m, n)
    full, fixed = FullRank(m, n, metric), FixedRank(m, n, r, metric)
    U, s, Vt = np.linalg.svd(random_matrix(rng, m, n, np.linspace(2, 0.5, r)), full_matrices=False)
    point, W = FixedRankPoint(U, s, Vt), U * s @ Vt
    X, Y, P, H = 0.3 * rng.standard_normal((4, m, n))
    x, y = (fixed.projection(point, Z) for Z in (X, Y))
    assert fixed.inner_product(point, x, y) == pytest.approx(full.inner_product(W, X, Y))
    for actual, expected in (
        (
            fixed.euclidean_to_riemannian_gradient(point, P),
            full.euclidean_to_riemannian_gradient(W, P),
        ),
        (
            fixed.euclidean_to_riemannian_hessian(point, P, H, x),
            full.euclidean_to_riemannian_hessian(W, P, H, X),
        ),
    ):
        np.testing.assert_allclose(ambient(point, actual), expected, atol=1e-10)
    np.testing.assert_allclose(dense(fixed.exp(point, x)), full.exp(W, X), atol=1e-9)
    np.testing.assert_allclose(dense(fixed.retraction(point, x)), W + X, atol=1e-12)


@pytest.mark.parametrize(
    "spectrum", [[2.0, 1.0], [1.0, 1.0], [1.0, 1.0 + 1e-9], [1.0 + 1e-6, 1.0], [1.0, 1e-8]]
)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_factor_gradients_survive_equal_singular_values(rng, spectrum, depth):
    manifold = FixedRank(6, 5, 2, DeepLinearMetric(depth), rng=rng)
    u, _, vt = manifold.random_point()
    point = FixedRankPoint(u, np.array(spectrum), vt)
    Z = rng.standard_normal((6, 5))

    @pymanopt.function.autograd(manifold)
    def cost(u, s, vt):
        return anp.sum((anp.dot(u * s, vt) - Z) ** 4) / 4 + anp.sum(s**2) / 2

    gradient = pymanopt.Problem(manifold, cost).riemannian_gradient(point)
    W = dense(point)
    expected = manifold.euclidean_to_riemannian_gradient(point, (W - Z) ** 3 + W)
    # The 1e-8 divides rounding errors of the gradients of u and vt.
    tolerance = 1e-7 if spectrum[-1] == 1e-8 else 1e-12
    np.testing.assert_allclose(ambient(point, gradient), ambient(point, expected), atol=tolerance)


def test_factor_gradients_of_any_function_of_the_factors(rng):
    manifold = FixedRank(6, 5, 3, DeepLinearMetric(2), rng=rng)

    @pymanopt.function.autograd(manifold)
    def cost(u, s, vt):
        return anp.sum(s * anp.sum(u**4, axis=0)) + anp.sum(s**3 * vt[:, 0] ** 2)

    assert check_gradient(pymanopt.Problem(manifold, cost)).slope == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("depth", DEPTHS)
def test_geodesics_have_constant_speed_and_shortest_steps(rng, depth):
    manifold = FixedRank(7, 6, 2, DeepLinearMetric(depth), rng=rng)
    point = FixedRankPoint(*manifold.random_point())
    point = FixedRankPoint(point.u, np.array([2.0, 1.0]), point.vt)
    X = 0.5 * manifold.random_tangent_vector(point)
    # A point on the way and the velocity there lead on to the same end.
    h = 1e-4
    halves = [manifold.exp(point, t * X) for t in (0.5 - h, 0.5, 0.5 + h)]
    velocity = manifold.projection(halves[1], (dense(halves[2]) - dense(halves[0])) / (2 * h))
    assert manifold.norm(halves[1], velocity) == pytest.approx(0.5, rel=1e-6)
    onward = manifold.exp(halves[1], 0.5 * velocity)
    np.testing.assert_allclose(dense(onward), dense(manifold.exp(point, X)), atol=1e-6)


def test_geodesics_of_rank_k_matrices_of_depth_two_are_bures_wasserstein(rng):
    # Of positive semidefinite matrices W = R R^T the geodesic is (R + t H)(R + t H)^T.
    n, k = 5, 2
    R = rng.standard_normal((n, k))
    H = 0.2 * rng.standard_normal((n, k))
    # Horizontal: R^T H symmetric.
    gram = R.T @ R
    skew = scipy.linalg.solve_sylvester(gram, gram, R.T @ H - H.T @ R)
    H = H - R @ skew
    np.testing.assert_allclose(R.T @ H, H.T @ R, atol=1e-12)
    U, s, Vt = np.linalg.svd(R @ R.T)
    point = FixedRankPoint(U[:, :k], s[:k], Vt[:k])
    manifold = FixedRank(n, n, k, DeepLinearMetric(2))
    X = manifold.projection(point, R @ H.T + H @ R.T)
    end = manifold.exp(point, X)
    np.testing.assert_allclose(dense(end), (R + H) @ (R + H).T, atol=1e-8)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("shared", ["columns", "rows", "both"])
def test_points_that_share_a_singular_space_have_a_distance(rng, shared, depth):
    manifold = FixedRank(7, 6, 2, DeepLinearMetric(depth), rng=rng)
    a = FixedRankPoint(*manifold.random_point())
    a = FixedRankPoint(a.u, np.array([2.0, 1.0]), a.vt)
    X = 0.4 * manifold.random_tangent_vector(a)
    zero = manifold.zero_vector(a)
    X = FixedRankVector(
        X.Up if shared == "rows" else zero.Up, X.M, X.Vp if shared == "columns" else zero.Vp
    )
    b = manifold.exp(a, X)
    assert manifold.dist(a, b) == pytest.approx(manifold.norm(a, X), rel=1e-6)
    assert manifold.dist(b, a) == pytest.approx(manifold.dist(a, b), rel=1e-7)
    np.testing.assert_allclose(ambient(a, manifold.log(a, b)), ambient(a, X), atol=1e-6)
    middle = manifold.exp(a, 0.5 * X)
    np.testing.assert_allclose(dense(manifold.pair_mean(a, b)), dense(middle), atol=1e-6)


@pytest.mark.parametrize(
    ("m", "n", "k", "depth"),
    [(7, 6, 2, 2), (5, 5, 3, 3), (4, 5, 2, 8), (6, 6, 2, 2.5), (5, 4, 2, 1)],
)
def test_points_that_share_neither_space_have_a_distance(m, n, k, depth):
    rng = np.random.default_rng(3)
    manifold = FixedRank(m, n, k, DeepLinearMetric(depth), rng=rng)
    a = manifold.random_point()
    # At depth 1 the geodesics of farther points run into lower rank.
    b = manifold.random_point() if depth > 1 else manifold.exp(a, manifold.random_tangent_vector(a))
    X = manifold.log(a, b)
    np.testing.assert_allclose(dense(manifold.exp(a, X)), dense(b), atol=1e-6)
    assert manifold.norm(a, X) == pytest.approx(manifold.dist(a, b), rel=1e-7)
    assert manifold.dist(b, a) == pytest.approx(manifold.dist(a, b), rel=1e-7)
    np.testing.assert_allclose(
        dense(manifold.pair_mean(a, b)), dense(manifold.exp(a, X / 2)), atol=1e-6
    )


@pytest.mark.parametrize("depth", [1.5, 2, 3, 8])
def test_rank_one_is_a_cone(rng, depth):
    # With rho = N^{1/2} s^{1/N} the metric is d rho^2 + rho^2 / N (d alpha^2 + d beta^2), where u
    # turns by alpha and v by beta; (u, v) and (-u, -v) are the same point.
    manifold = FixedRank(4, 3, 1, DeepLinearMetric(depth), rng=rng)
    for _ in range(4):
        a, b = manifold.random_point(), manifold.random_point()
        alpha, beta = (
            np.arccos((one @ other).item())
            for one, other in zip((a.u.T, a.vt), (b.u, b.vt.T), strict=True)
        )
        turn = min(np.hypot(alpha, beta), np.hypot(np.pi - alpha, np.pi - beta)) / np.sqrt(depth)
        rho_a, rho_b = (np.sqrt(depth) * point.s[0] ** (1 / depth) for point in (a, b))
        if turn < 0.9 * np.pi:  # or the shortest way leads through the tip
            expected = np.sqrt(rho_a**2 + rho_b**2 - 2 * rho_a * rho_b * np.cos(turn))
            assert manifold.dist(a, b) == pytest.approx(expected, rel=1e-7)


def test_a_geodesic_that_meets_lower_rank_says_so(rng):
    manifold = FixedRank(5, 4, 2, DeepLinearMetric(2), rng=rng)
    point = manifold.random_point()
    X = FixedRankVector(np.zeros((5, 2)), np.diag([0.0, -4 * point.s[1]]), np.zeros((4, 2)))
    with pytest.raises(
        LowerRankError, match="runs into a matrix of lower rank at time 0.5,"
    ) as info:
        manifold.exp(point, X)
    np.testing.assert_allclose(
        np.outer(info.value.left, info.value.right), np.outer(point.u[:, 1], point.vt[1]), atol=1e-9
    )


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_trust_regions_find_the_best_approximation(rng, depth):
    target = random_matrix(rng, 12, 9, np.geomspace(5, 0.1, 9))
    manifold = FixedRank(12, 9, 3, DeepLinearMetric(depth), rng=rng)

    @pymanopt.function.numpy(manifold)
    def cost(u, s, vt):
        return np.sum((u * s @ vt - target) ** 2) / 2

    @pymanopt.function.numpy(manifold)
    def gradient(u, s, vt):
        return u * s @ vt - target

    @pymanopt.function.numpy(manifold)
    def hessian(u, s, vt, U, S, V):
        return U @ S @ V.T

    problem = pymanopt.Problem(
        manifold, cost, euclidean_gradient=gradient, euclidean_hessian=hessian
    )
    optimizer = TrustRegions(verbosity=0, min_gradient_norm=1e-10, max_iterations=200)
    result = optimizer.run(problem, initial_point=manifold.random_point())
    U, s, Vt = np.linalg.svd(target)
    np.testing.assert_allclose(dense(result.point), U[:, :3] * s[:3] @ Vt[:3], atol=1e-8)


@pytest.mark.parametrize("optimizer", [SteepestDescent, ConjugateGradient])
def test_first_order_solvers_run(rng, optimizer):
    manifold = FixedRank(6, 5, 2, DeepLinearMetric(2), rng=rng)
    problem = quartic(manifold, dense(manifold.random_point()))
    start = manifold.random_point()
    result = optimizer(verbosity=0, max_iterations=300).run(problem, initial_point=start)
    assert result.cost < 1e-6 * problem.cost(start)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_flow_is_that_of_layers_with_a_narrow_width(rng, depth):
    manifold = FixedRank(6, 5, 2, DeepLinearMetric(depth), rng=rng)
    problem = quartic(manifold, rng.standard_normal((6, 5)), form="sparse")
    start, times = manifold.random_point(), np.linspace(0, 0.5, 4)
    flow = gradient_flow(problem, start, times, **TIGHT)
    if depth == 1:
        # The projected gradient flow, as a differential equation of dense matrices.
        def velocity(t, w):
            U, s, Vt = np.linalg.svd(w.reshape(6, 5))
            point = FixedRankPoint(U[:, :2], s[:2], Vt[:2])
            return -ambient(point, problem.riemannian_gradient(point)).ravel()

        reference = scipy.integrate.solve_ivp(
            velocity, (0, 0.5), dense(start).ravel(), t_eval=times, rtol=1e-9, atol=1e-11
        ).y.T.reshape(-1, 6, 5)
        for point, expected in zip(flow.points, reference, strict=True):
            np.testing.assert_allclose(dense(point), expected, atol=1e-6)
        return
    layers = balanced_layers(start, depth)
    assert [layer.shape for layer in layers] == [(2, 5), *[(2, 2)] * (depth - 2), (6, 2)]
    assert imbalance(layers) < 1e-14
    np.testing.assert_allclose(end_to_end(layers), dense(start), atol=1e-14)
    network = network_flow(problem, layers, times, **TIGHT)
    for point, other in zip(flow.points, network.points, strict=True):
        np.testing.assert_allclose(dense(point), dense(other), atol=1e-8)
    np.testing.assert_allclose(flow.gradient_norms, network.gradient_norms, rtol=1e-7)
    np.testing.assert_allclose(flow.costs, network.costs, rtol=1e-8)


def test_flows_pass_through_equal_singular_values():
    # diag(1 - t, t) in closed form: the cost is linear, at depth 1 on square full-rank matrices.
    manifold = FixedRank(3, 2, 2, DeepLinearMetric(1))
    D = np.array([[1.0, 0.0], [0.0, -1.0], [0.0, 0.0]])

    @pymanopt.function.numpy(manifold)
    def cost(u, s, vt):
        return np.sum(D * (u * s @ vt))

    @pymanopt.function.numpy(manifold)
    def gradient(u, s, vt):
        return D

    problem = pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)
    start = FixedRankPoint(np.eye(3, 2), np.array([2.0, 1.0]), np.eye(2))
    flow = gradient_flow(problem, start, [0, 0.25, 0.5, 0.75, 1.0], **TIGHT)
    for time, point in zip(flow.times, flow.points, strict=True):
        expected = np.eye(3, 2) * [2 - time, 1 + time]
        np.testing.assert_allclose(dense(point), expected, atol=1e-10)


def test_layer_gradients_take_sparse_gradients(rng):
    layers = [rng.standard_normal(shape) for shape in ((2, 5), (2, 2), (6, 2))]
    P = rng.standard_normal((6, 5)) * (rng.random((6, 5)) < 0.4)
    for form in (csr_array(P), aslinearoperator(P), (P, np.eye(5), np.eye(5))):
        for actual, expected in zip(
            layer_gradients(layers, form), layer_gradients(layers, P), strict=True
        ):
            np.testing.assert_allclose(actual, expected, atol=1e-13)


def test_any_spectral_kernel_will_do(rng):
    metric = SpectralMetric(lambda s, t: 1 + s**2 + 3 * t**2)
    manifold = FixedRank(5, 4, 2, metric, rng=rng)
    problem = quartic(manifold, rng.standard_normal((5, 4)))
    point = FixedRankPoint(
        *manifold.random_point()[:1], np.array([1.5, 0.7]), manifold.random_point()[2]
    )
    check = check_hessian(problem, point)
    assert check.slope == pytest.approx(3, abs=0.1)
    assert check.residuals["symmetry"] < 1e-8


def test_steps_keep_the_factors_orthonormal_where_the_rank_drops(rng):
    target = random_matrix(rng, 12, 9, [3.0, 2.0, *[0.0] * 7])
    manifold = FixedRank(12, 9, 4, DeepLinearMetric(1), rng=rng)
    problem = quartic(manifold, target)
    optimizer = TrustRegions(verbosity=0, min_gradient_norm=1e-12, max_iterations=50)
    u, s, vt = optimizer.run(problem, initial_point=manifold.random_point()).point
    np.testing.assert_allclose(u.T @ u, np.eye(4), atol=1e-13)
    np.testing.assert_allclose(vt @ vt.T, np.eye(4), atol=1e-13)
    np.testing.assert_allclose(s, [3, 2, 0, 0], atol=1e-9)


@pytest.mark.parametrize("depth", [2, 3])
def test_flows_go_on_to_lower_rank(depth):
    manifold = FixedRank(6, 5, 2, DeepLinearMetric(depth), rng=0)
    target, count = np.ones((6, 5)), []

    @pymanopt.function.numpy(manifold)
    def cost(u, s, vt):
        return np.sum((u * s @ vt - target) ** 2) / 2

    @pymanopt.function.numpy(manifold)
    def gradient(u, s, vt):
        count.append(s)
        assert len(count) < 5000, "the flow stalls"
        return u * s @ vt - target

    problem = pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)
    flow = gradient_flow(problem, manifold.random_point(), [0, 5, 20])
    assert flow.costs[-1] < 0.1
    assert np.all(np.diff(flow.costs) < 0)


def test_the_dense_metric_at_a_rank_forgets_that_of_full_rank(rng):
    metric = DeepLinearMetric(2)
    W = random_matrix(rng, 5, 4, [2.0, 1.0, 1e-3, 1e-3])
    P, Y = rng.standard_normal((2, 5, 4))
    full = metric.sharp(W, P)
    lower = metric.at(W, rank=2)
    U, s, Vt = np.linalg.svd(W)
    truncated = U[:, :2] * s[:2] @ Vt[:2]
    gradient = lower.sharp(P)
    np.testing.assert_allclose(gradient, sharp_by_powers(truncated, P, 2), atol=1e-12)
    assert np.abs(gradient - full).max() > 1e-4
    expected = np.sum(lower.flat(gradient) * lower.sharp(Y))
    assert lower.inner(gradient, lower.sharp(Y)) == pytest.approx(expected)
    # Of vectors that are not tangent, what is orthogonal to both spaces does not count.
    rest = [space @ space.T for space in (U[:, 2:], Vt[2:].T)]
    for X in (P, gradient):
        tangent = Y - rest[0] @ Y @ rest[1]
        assert np.linalg.norm(tangent - Y) > 0.1
        assert lower.inner(X, Y) == pytest.approx(lower.inner(X, tangent), rel=1e-12)
        assert lower.inner(X, Y) == pytest.approx(np.sum(lower.flat(X) * tangent), rel=1e-12)
        assert lower.inner(Y, X) == pytest.approx(lower.inner(X, Y), rel=1e-9)
    np.testing.assert_allclose(lower.sharp(lower.flat(Y)), tangent, atol=1e-12)
    thetas = [2 * 2.0, 3.0, 3.0, 2 * 1.0, *[2.0, 1.0] * 3, *[2.0, 1.0] * 2]
    assert lower.log_volume() == pytest.approx(-np.sum(np.log(thetas)) / 2, rel=1e-6)


def test_hessians_at_a_zero_singular_value_are_those_of_lower_rank(rng):
    u, _, vt = FixedRank(6, 5, 3, DeepLinearMetric(3), rng=rng).random_point()
    higher = FixedRank(6, 5, 3, DeepLinearMetric(3))
    lower = FixedRank(6, 5, 2, DeepLinearMetric(3))
    at_three = FixedRankPoint(u, np.array([2.0, 1.0, 0.0]), vt)
    at_two = FixedRankPoint(u[:, :2], np.array([2.0, 1.0]), vt[:2])
    P, H, Z = rng.standard_normal((3, 6, 5))
    x = lower.euclidean_to_riemannian_gradient(at_two, Z)
    X = higher.projection(at_three, ambient(at_two, x))
    expected = ambient(at_two, lower.euclidean_to_riemannian_hessian(at_two, P, H, x))
    actual = ambient(at_three, higher.euclidean_to_riemannian_hessian(at_three, P, H, X))
    np.testing.assert_allclose(actual, expected, atol=1e-9)


@pytest.mark.parametrize("depth", [1.5, 2, 3])
def test_hessians_leave_out_frozen_directions(rng, depth):
    manifold = FixedRank(6, 5, 3, DeepLinearMetric(depth), rng=rng)
    u, _, vt = manifold.random_point()
    point = FixedRankPoint(u, np.array([2.0, 1.0, 1e-17]), vt)
    X = manifold.projection(point, rng.standard_normal((6, 5)))
    moving = manifold.sharp(point, manifold.flat(point, X))
    assert np.abs(X.M - moving.M).max() > 1e-3
    P, H = rng.standard_normal((2, 6, 5))
    actual, expected = (
        ambient(point, manifold.euclidean_to_riemannian_hessian(point, P, H, vector))
        for vector in (X, moving)
    )
    np.testing.assert_allclose(actual, expected, atol=1e-9 * np.abs(expected).max())
    at = manifold.at(point)
    gamma = [ambient(point, at.christoffel(vector, X)) for vector in (X, moving)]
    np.testing.assert_allclose(*gamma, atol=1e-9 * np.abs(gamma[1]).max())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.ones((5, 6)), r"must have shape \(6, 5\), got \(5, 6\)"),
        (np.full((6, 5), np.inf), "must be finite"),
        (csr_array(np.full((6, 5), np.nan)), "must be finite"),
    ],
)
def test_what_is_wrong_with_a_hessian_is_said_of_it(rng, bad, message):
    manifold, good = FixedRank(6, 5, 2, DeepLinearMetric(2), rng=rng), np.ones((6, 5))
    point = manifold.random_point()
    X = manifold.random_tangent_vector(point)
    for name, pair in (("euclidean_gradient", (bad, good)), ("euclidean_hessian", (good, bad))):
        with pytest.raises(ValueError, match=f"^{name} {message}"):
            manifold.euclidean_to_riemannian_hessian(point, *pair, X)


def test_small_singular_values_of_large_matrices_are_no_rounding_errors():
    manifold = FixedRank(1000, 800, 2, DeepLinearMetric(2))
    point = FixedRankPoint(np.eye(1000, 2), np.array([1.0, 1e-13]), np.eye(2, 800))
    X = FixedRankVector(np.zeros((1000, 2)), np.diag([0.0, 1.0]), np.zeros((800, 2)))
    # At depth 2 theta = s + t.
    assert manifold.inner_product(point, X, X) == pytest.approx(1 / 2e-13, rel=1e-12)


def test_random_points_have_singular_vectors_of_both_signs():
    manifold = FixedRank(5, 4, 2, DeepLinearMetric(2), rng=0)
    points = [manifold.random_point() for _ in range(40)]
    for factor in ("u", "vt"):
        first = np.array([getattr(point, factor)[0, 0] for point in points])
        # Each sign is as likely: under 10 of 40 have a probability of 3e-4.
        assert 10 <= np.sum(first > 0) <= 30


def test_no_tangent_vector_where_every_direction_is_frozen():
    manifold = FixedRank(5, 4, 2, DeepLinearMetric(2), rng=0)
    u, s, vt = manifold.random_point()
    with pytest.raises(ValueError, match="every direction is frozen"):
        manifold.random_tangent_vector(FixedRankPoint(u, 0 * s, vt))


@pytest.mark.parametrize("turned", [1, 2])
def test_geodesics_depend_on_the_order_of_their_ends(rng, turned):
    manifold = FixedRank(6, 5, 2, DeepLinearMetric(3), rng=rng)
    u, _, vt = manifold.random_point()
    a = FixedRankPoint(u, np.array([2.0, 1.0]), vt)
    b = manifold.retraction(
        a, 0.3 * turned * manifold.projection(a, u @ rng.standard_normal((2, 5)))
    )
    fresh = [FixedRank(6, 5, 2, DeepLinearMetric(3)) for _ in range(2)]
    for ends, other in (((a, b), fresh[0]), ((b, a), fresh[1])):
        known, expected = manifold.log(*ends), other.log(*ends)
        np.testing.assert_allclose(ambient(ends[0], known), ambient(ends[0], expected), atol=1e-9)
        for block in known:
            block += 1.0
        again = manifold.log(*ends)
        np.testing.assert_allclose(ambient(ends[0], again), ambient(ends[0], expected), atol=1e-9)
    u_before = manifold.pair_mean(a, b).u.copy()
    manifold.pair_mean(a, b).u[:] = 0
    np.testing.assert_array_equal(manifold.pair_mean(a, b).u, u_before)


def test_a_kernel_that_does_not_exist_at_the_point_is_said_to(rng):
    u, _, vt = FixedRank(5, 4, 2, DeepLinearMetric(2), rng=rng).random_point()
    point = FixedRankPoint(u, np.array([2.0, 0.5]), vt)
    X = FixedRankVector(np.zeros((5, 2)), np.eye(2), np.zeros((4, 2)))
    for kernel in (
        lambda s, t: np.where(s + t > 3, -1.0, s + t),
        lambda s, t: np.where(s + t > 3, np.nan, s + t),
    ):
        manifold = FixedRank(5, 4, 2, SpectralMetric(kernel))
        for ask in (manifold.norm, manifold.sharp, manifold.flat):
            with pytest.raises(
                ValueError, match="from 0.5 to 2, .* must be finite and nonnegative"
            ):
                ask(point, X)


@pytest.mark.filterwarnings("ignore:overflow")
def test_points_that_are_too_large_are_blamed():
    X = FixedRankVector(np.zeros((5, 2)), np.eye(2), np.zeros((4, 2)))
    point = FixedRankPoint(np.eye(5, 2), np.array([1e200, 1.0]), np.eye(2, 4))
    with pytest.raises(ValueError, match="^point, .*singular values from 1 to 1e.200.* too large"):
        FixedRank(5, 4, 2, DeepLinearMetric(64)).norm(point, X)


@pytest.mark.filterwarnings("ignore:PyTorch does not support numpy arrays with negative strides")
@pytest.mark.parametrize("backend", ["autograd", "pytorch", "jax"])
def test_hessians_by_autodiff_of_the_factors_are_refused(rng, backend):
    """They have no numbers in them that are right, so the shapes must keep them from having any."""
    pytest.importorskip({"pytorch": "torch"}.get(backend, backend), reason="optional backend")
    manifold = FixedRank(6, 5, 2, DeepLinearMetric(2), rng=rng)

    @getattr(pymanopt.function, backend)(manifold)
    def cost(u, s, vt):
        return (((u * s) @ vt) ** 2).sum()

    problem, point = pymanopt.Problem(manifold, cost), manifold.random_point()
    X = manifold.random_tangent_vector(point)
    with pytest.raises((ValueError, RuntimeError), match="shape|dimensions"):
        problem.riemannian_hessian(point, X)
    # Where the backend does not notice, the manifold does.
    factors = problem.euclidean_gradient(point)
    dense_matrix = np.ones((6, 5))
    for pair, name in (
        ((factors, dense_matrix), "euclidean_gradient"),
        ((dense_matrix, factors), "euclidean_hessian"),
    ):
        with pytest.raises(TypeError, match=f"^{name} must be an m x n matrix"):
            manifold.euclidean_to_riemannian_hessian(point, *pair, X)


@pytest.mark.filterwarnings("ignore:.*encountered in")
@pytest.mark.parametrize("optimizer", [SteepestDescent, ConjugateGradient, TrustRegions])
def test_optimizers_may_reach_a_gradient_of_zero(optimizer):
    """One observed entry: the cost is zero on a hypersurface, and the gradient exactly."""
    manifold = FixedRank(3, 3, 1, DeepLinearMetric(2))
    observed = np.zeros((3, 3))
    observed[0, 0] = 1.0

    @pymanopt.function.numpy(manifold)
    def cost(u, s, vt):
        return np.sum(observed * (u * s @ vt - 1) ** 2) / 2

    @pymanopt.function.numpy(manifold)
    def gradient(u, s, vt):
        return observed * (u * s @ vt - 1)

    @pymanopt.function.numpy(manifold)
    def hessian(u, s, vt, U, S, V):
        return observed * (U @ S @ V.T)

    problem = pymanopt.Problem(
        manifold, cost, euclidean_gradient=gradient, euclidean_hessian=hessian
    )
    start = FixedRankPoint(np.eye(3, 1), np.ones(1), np.eye(1, 3))
    result = optimizer(verbosity=0).run(problem, initial_point=start)
    assert result.cost == result.gradient_norm == 0
    for factor, kept in zip(result.point, start, strict=True):
        np.testing.assert_array_equal(factor, kept)


def test_single_precision_is_kept(rng):
    manifold = FixedRank(6, 5, 2, DeepLinearMetric(2), rng=rng)
    point = FixedRankPoint(*(block.astype(np.float32) for block in manifold.random_point()))
    P = rng.standard_normal((6, 5)).astype(np.float32)
    X = manifold.euclidean_to_riemannian_gradient(point, P)
    reached = manifold.retraction(point, X)
    moved = manifold.transport(point, reached, X)
    drawn = manifold.random_tangent_vector(point)
    for block in (*X, *reached, *moved, *drawn, *manifold.zero_vector(point)):
        assert block.dtype == np.float32


def test_nearly_common_spaces_are_not_common(rng):
    manifold = FixedRank(6, 5, 1, DeepLinearMetric(2))
    a = FixedRankPoint(np.eye(6, 1), np.ones(1), np.eye(1, 5))
    for angle in (1e-6, 1e-8):
        turn = np.array([[1.0], [angle], [0], [0], [0], [0]]) / np.hypot(1.0, angle)
        b = FixedRankPoint(turn, np.ones(1), turn[:5].T)
        # Both spaces turn by the angle, each at g(X, X) = angle^2 / theta(0, 1).
        assert manifold.dist(a, b) == pytest.approx(np.sqrt(2) * angle, rel=1e-6)
    with pytest.raises(GeodesicError, match="opposite signs"):
        manifold.dist(a, FixedRankPoint(-a.u, a.s, a.vt))


def test_networks_of_several_widths_have_the_rank_of_the_narrowest(rng):
    widths = [5, 4, 2, 6]
    layers = [rng.standard_normal((b, a)) for a, b in pairwise(widths)]
    problem = quartic(FixedRank(6, 5, 2, DeepLinearMetric(3)), rng.standard_normal((6, 5)))
    flow = network_flow(problem, layers, [0, 1e-3])
    np.testing.assert_allclose(dense(flow.points[0]), end_to_end(layers), atol=1e-12)
    with pytest.raises(ValueError, match="^the end-to-end matrix of layers must have shape"):
        network_flow(problem, [layer[:, :1] for layer in layers[:1]] + layers[1:], [0, 1])
    with pytest.raises(ValueError, match="^layers must be at least two"):
        network_flow(problem, [rng.standard_normal((6, 5))], [0, 1])


def test_same_seed_same_points():
    first, second = (FixedRank(5, 4, 2, DeepLinearMetric(2), rng=3) for _ in range(2))
    a, b = first.random_point(), second.random_point()
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)
    for copied in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        np.testing.assert_array_equal(
            copied.retraction(a, copied.zero_vector(a)).s,
            first.retraction(a, first.zero_vector(a)).s,
        )


def test_singular_values_that_go_to_zero_are_frozen_smoothly(rng):
    manifold = FixedRank(6, 5, 3, DeepLinearMetric(2), rng=rng)
    u, _, vt = manifold.random_point()
    P, X = rng.standard_normal((2, 6, 5))
    du = rng.standard_normal((6, 3)), np.ones(3), rng.standard_normal((3, 5))
    limit, norms = None, []
    for smallest in (0.0, 1e-300, 1e-100, 1e-8):
        s = np.array([2.0, 1.0, smallest])
        point = FixedRankPoint(u, s, vt)
        gradient = manifold.euclidean_to_riemannian_gradient(point, P)
        expected = (u * s @ u.T) @ P + P @ (vt.T * s @ vt)  # depth 2: |W^T| P + P |W|
        np.testing.assert_allclose(ambient(point, gradient), expected, atol=1e-13)
        np.testing.assert_allclose(manifold.norm(point, gradient) ** 2, np.sum(P * expected))
        hessian = manifold.euclidean_to_riemannian_hessian(point, P, X, gradient)
        reached = ambient(point, hessian)
        limit = reached if limit is None else limit
        np.testing.assert_allclose(reached, limit, atol=1e-12 + 100 * smallest)
        norms.append(manifold.norm(point, hessian))
        factors = manifold.euclidean_to_riemannian_gradient(point, du)
        assert all(np.isfinite(block).all() for block in factors)
    assert np.abs(limit).max() > 1
    np.testing.assert_allclose(norms, norms[0], rtol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((5, 4, 5, DeepLinearMetric(2)), ValueError, r"^k must be at most min\(m, n\) = 4, got 5"),
        ((5, 4, 0, DeepLinearMetric(2)), ValueError, "^k must be a whole number"),
        ((5, 4, 2, KroneckerMetric(np.eye(5), np.eye(4))), TypeError, "^metric must be a Spectral"),
        ((5, 4, 2, DeepLinearMetric(np.inf)), ValueError, "freezes the row or column space"),
        ((4, 4, 2, DeepLinearMetric(np.inf)), ValueError, "freezes the row or column space"),
    ],
)
def test_refuses_what_is_no_manifold(arguments, error, message):
    with pytest.raises(error, match=message):
        FixedRank(*arguments)


def test_infinite_depth_exists_on_square_matrices_of_full_rank(rng):
    fixed, full = (
        FixedRank(3, 3, 3, DeepLinearMetric(np.inf)),
        FullRank(3, 3, DeepLinearMetric(np.inf)),
    )
    point, P = fixed.random_point(), rng.standard_normal((3, 3))
    gradient = fixed.euclidean_to_riemannian_gradient(point, P)
    expected = full.euclidean_to_riemannian_gradient(dense(point), P)
    np.testing.assert_allclose(ambient(point, gradient), expected, atol=1e-12)


def test_bad_points_and_vectors_are_named(rng):
    manifold = FixedRank(5, 4, 2, DeepLinearMetric(2), rng=rng)
    point = manifold.random_point()
    X = manifold.random_tangent_vector(point)
    gap = X + FixedRankVector(np.zeros((5, 2)), np.array([[np.nan, 0], [0, 0]]), np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"^point must have arrays of shapes \(5, 2\)"):
        manifold.norm((point.u.T, point.s, point.vt), X)
    with pytest.raises(ValueError, match=r"^point\.s must be finite"):
        manifold.norm(FixedRankPoint(point.u, point.s * np.nan, point.vt), X)
    with pytest.raises(ValueError, match=r"^point\.s must be nonnegative"):
        manifold.norm(FixedRankPoint(point.u, -point.s, point.vt), X)
    with pytest.raises(ValueError, match="^tangent_vector must be finite"):
        manifold.retraction(point, gap)
    undefined = X * np.nan
    assert np.isnan(manifold.norm(point, undefined))
    np.testing.assert_array_equal(manifold.retraction(point, undefined).u, point.u)
    with pytest.raises(ValueError, match="^tangent_vector_a must have arrays of shapes"):
        manifold.inner_product(point, X[::-1], X)
    for bad, message in (
        (np.ones((4, 5)), r"^euclidean_gradient must have shape \(5, 4\), got \(4, 5\)"),
        (np.full((5, 4), np.nan), "^euclidean_gradient must be finite"),
        (csr_array(np.diag([1.0, np.inf, 1, 1, 1])[:, :4]), "^euclidean_gradient must be finite"),
        (csr_array(np.full((5, 4), 1j)), "^euclidean_gradient must be real"),
        ((point.u, np.eye(3), np.ones((4, 3))), r"^euclidean_gradient must be factors"),
        ((point.u, np.ones(3), point.vt), "^euclidean_gradient must be an m x n matrix or factors"),
    ):
        with pytest.raises(ValueError, match=message):
            manifold.euclidean_to_riemannian_gradient(point, bad)
    with pytest.raises(TypeError, match="do not determine the Riemannian Hessian"):
        manifold.euclidean_to_riemannian_hessian(point, tuple(point), np.ones((5, 4)), X)
