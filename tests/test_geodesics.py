import math
import pickle

import autograd.numpy as anp
import mpmath
import numpy as np
import pymanopt
import pytest
import scipy.linalg
from pymanopt.optimizers import NelderMead, ParticleSwarm, TrustRegions

from riemdln import (
    DeepLinearMetric,
    FullRank,
    GeodesicError,
    KroneckerMetric,
    Metric,
    SpectralMetric,
)
from riemdln.checks import check_hessian, check_retraction
from riemdln.geodesics import LowerRankError, exponential, geodesic, geodesic_between
from riemdln.geodesics._guesses import polar_paths
from riemdln.kernels import DeepLinearKernel, FunctionKernel
from riemdln.retractions import polar_retraction
from tests.conftest import (
    dense_cometric,
    derivative,
    random_matrix,
    sharp_by_powers,
    sharp_by_quadrature,
)

SMALL_SHAPES = [(2, 2), (2, 3), (3, 2), (1, 3), (3, 1), (1, 1)]
SHAPES = [(3, 3), (2, 4), (4, 2), (1, 4), (4, 1)]
DEPTHS = [1, 1.5, 2, 3, 8, math.inf]


def cases(shapes, depths):
    return [
        pytest.param(m, n, depth, id=f"{m}x{n}-{depth}")
        for m, n in shapes
        for depth in depths
        if m == n or not math.isinf(depth)
    ]


def sharp_by_definition(W, P, depth):
    return sharp_by_quadrature(W, P) if math.isinf(depth) else sharp_by_powers(W, P, depth)


def nearby_points(rng, m, n, count=2, spread=0.3):
    """Points between which there is a shortest geodesic."""
    return np.eye(m, n) + spread * rng.standard_normal((count, m, n))


@pytest.mark.parametrize("spectrum", ["generic", "equal", "clustered"])
@pytest.mark.parametrize(("m", "n", "depth"), cases(SHAPES, [1, 2, 3, 5, math.inf]))
def test_the_derivative_of_sharp_is_that_of_its_definition(rng, m, n, depth, spectrum):
    values = {
        "generic": np.linspace(2.0, 0.5, min(m, n)),
        "equal": np.full(min(m, n), 0.7),
        "clustered": 0.7 * (1 + 1e-5 * np.arange(min(m, n))),
    }[spectrum]
    W, metric = random_matrix(rng, m, n, values), DeepLinearMetric(depth)
    X, P, Q = rng.standard_normal((3, m, n))
    expected = derivative(lambda h: sharp_by_definition(W + h * X, P, depth), 3e-3)
    actual = metric.sharp_derivative(W, X, P)
    np.testing.assert_allclose(actual, expected, rtol=1e-7, atol=1e-7 * np.abs(expected).max())
    pulled = metric.sharp_derivative_adjoint(W, Q, P)
    assert np.sum(pulled * X) == pytest.approx(np.sum(Q * expected), rel=1e-7, abs=1e-7)
    np.testing.assert_allclose(
        pulled, metric.sharp_derivative_adjoint(W, P, Q), atol=1e-11 * max(np.abs(pulled).max(), 1)
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 1e-3)])
@pytest.mark.parametrize("distance", [1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 5e-8, 2e-8, 1e-9, 0.0])
def test_the_derivative_near_clusters(rng, distance, dtype, tolerance):
    W = random_matrix(rng, 4, 4, 0.7 * (1 + distance * np.arange(4))).astype(dtype)
    X, P = rng.standard_normal((2, 4, 4)).astype(dtype)

    def root_derivative(W, X):
        # R = (W W^T)^{1/2} solves R dR + dR R = d(W W^T), which no cluster disturbs.
        U, s, _ = np.linalg.svd(W.astype(float))
        R = U * s @ U.T
        return scipy.linalg.solve_sylvester(R, R, X @ W.T + W @ X.T)

    expected = root_derivative(W, X) @ P + P @ root_derivative(W.T, X.T)
    actual = DeepLinearMetric(2).sharp_derivative(W, X, P)
    assert actual.dtype == dtype
    np.testing.assert_allclose(actual, expected, atol=tolerance * np.abs(expected).max())


def exact_derivative(s, X, P, depth):
    """DA_W[X] P at W = diag(s), by divided differences of the sum over layers, in 60 digits."""
    with mpmath.workdps(60):
        n, s = len(s), [mpmath.mpf(value) for value in s]

        def theta(a, b):
            N = mpmath.mpf(depth)
            return sum(a ** (2 * (N - k) / N) * b ** (2 * (k - 1) / N) for k in range(1, depth + 1))

        def difference(a, b, t):
            b = b * (1 + mpmath.mpf(10) ** -30) if a == b else b
            return (theta(a, t) - theta(b, t)) / (a * a - b * b)

        def left(X, P, i, j):
            change = [X[i, k] * s[k] + X[k, i] * s[i] for k in range(n)]
            return sum(difference(s[i], s[k], s[j]) * change[k] * P[k, j] for k in range(n))

        return np.array(
            [[float(left(X, P, i, j) + left(X.T, P.T, j, i)) for j in range(n)] for i in range(n)]
        )


@pytest.mark.parametrize("distance", [1e-2, 1e-4, 2e-5, 1e-5, 1e-6, 5e-8, 2e-8, 0.0])
@pytest.mark.parametrize("depth", [2, 3])
def test_the_derivative_near_clusters_in_high_precision(rng, depth, distance):
    s = 0.7 * (1 + distance * np.arange(3))[::-1]
    X, P = rng.standard_normal((2, 3, 3))
    expected = exact_derivative(s, X, P, depth)
    actual = DeepLinearMetric(depth).sharp_derivative(np.diag(s), X, P)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-10 * np.abs(expected).max())


@pytest.mark.parametrize("smallest", [(1e-158, 5e-159), (1e-170, 1e-200), (1e-300, 1e-305)])
@pytest.mark.parametrize("depth", [2, 3, 5])
def test_the_derivative_where_squares_underflow(rng, depth, smallest):
    s = (2.0, 1.0, *smallest)
    X, P, Q = rng.standard_normal((3, 4, 4))
    X[2:, 2:] = 0.0  # these directions are frozen
    expected = exact_derivative(s, X, P, depth)
    metric, W = DeepLinearMetric(depth), np.diag(s)
    actual = metric.sharp_derivative(W, X, P)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    pulled = metric.sharp_derivative_adjoint(W, Q, P)
    assert np.sum(pulled * X) == pytest.approx(np.sum(Q * expected), rel=1e-11)


@pytest.mark.parametrize("smallest", [1e-140, 1e-170, 1e-300])
def test_the_derivative_at_infinite_depth_falls_as_the_logarithm(smallest):
    # theta(a, t) = (a^2 - t^2) / (2 ln(a / t)), so for a = 1 and t^2 lost beside it
    # d theta / da = 1 / L - 1 / (2 L^2), L = -ln t.
    E_11, E_12 = np.zeros((2, 2, 2))
    E_11[0, 0] = E_12[0, 1] = 1.0
    L = -np.log(smallest)
    actual = DeepLinearMetric(np.inf).sharp_derivative(np.diag([1.0, smallest]), E_11, E_12)
    np.testing.assert_allclose(actual, (1 / L - 1 / (2 * L**2)) * E_12, rtol=1e-12)


@pytest.mark.parametrize("depth", [1.5, 2, 3, 8])
@pytest.mark.parametrize(("m", "n"), [(4, 4), (4, 6), (6, 4)])
def test_frozen_directions_do_not_count(rng, m, n, depth):
    W = random_matrix(rng, m, n, [2.0, 1.0, 0.0, 0.0])
    X, P, Q = rng.standard_normal((3, m, n))
    metric = DeepLinearMetric(depth)
    moving = metric.sharp(W, metric.flat(W, X))
    assert np.linalg.norm(X - moving) > 0.1
    along = metric.sharp_derivative(W, X, P)
    np.testing.assert_allclose(along, metric.sharp_derivative(W, moving, P), atol=1e-9)
    pulled = metric.sharp_derivative_adjoint(W, Q, P)
    assert np.sum(pulled * X) == pytest.approx(np.sum(Q * along), abs=1e-9)
    if depth in (2, 3, 8):
        step = metric.network_retraction(W, X)
        np.testing.assert_allclose(step, metric.network_retraction(W, moving), atol=1e-7)
        np.testing.assert_allclose(
            metric.network_retraction(W, 1e-6 * X), W + 1e-6 * moving, atol=1e-10
        )


@pytest.mark.parametrize("scale", [1e-160, 1e155])
def test_derivatives_say_where_squares_leave_the_range(scale):
    metric, W = DeepLinearMetric(2), scale * np.diag([1.0, 2.0])
    with pytest.raises(ValueError, match="^W has singular values up to .*: scale W"):
        metric.sharp_derivative(W, np.eye(2), np.eye(2))


def test_derivatives_need_a_kernel_that_is_finite_at_zero():
    metric = SpectralMetric(lambda s, t: 1 / (s * t))
    W = np.diag([1.0, 2.0])
    np.testing.assert_allclose(metric.sharp(W, np.ones((2, 2))), [[1, 0.5], [0.5, 0.25]])
    with pytest.raises(ValueError, match="need a kernel that is finite and differentiable"):
        metric.sharp_derivative(W, np.eye(2), np.eye(2))


def test_the_derivative_at_depth_one_is_a_stack_of_zeros(rng):
    W, X, P = rng.standard_normal((5, 3, 3)), *rng.standard_normal((2, 3, 3))
    metric = DeepLinearMetric(1)
    for zeros in (metric.sharp_derivative(W, X, P), metric.sharp_derivative_adjoint(W, X, P)):
        np.testing.assert_array_equal(zeros, np.zeros((5, 3, 3)))


def test_the_derivative_goes_on_smoothly_to_lower_rank(rng):
    X, P = rng.standard_normal((2, 4, 5))
    for smallest in (1e-8, 1e-17, 1e-300, 0.0):
        W = random_matrix(rng, 4, 5, [2.0, 1.0, smallest, smallest])
        for depth in (1.5, 2, 3, 8):
            metric = DeepLinearMetric(depth)
            tangent = metric.sharp(W, X)
            assert np.isfinite(metric.sharp_derivative(W, tangent, P)).all()
            assert np.isfinite(metric.sharp_derivative_adjoint(W, P, X)).all()
            hess = metric.at(W).hessian(P, X, tangent)
            assert np.isfinite(hess).all()


def christoffel_by_differences(W, X, Y, depth):
    """Gamma from central differences of the dense metric tensor."""
    m, n = W.shape
    size = m * n

    def tensor(V):
        return np.linalg.inv(dense_cometric(lambda P: sharp_by_definition(V, P, depth), m, n))

    h = 1e-3
    slopes = np.array(
        [derivative(lambda t, E=E: tensor(W + t * E.reshape(m, n)), h) for E in np.eye(size)]
    )  # slopes[l, i, j] = d g_ij / d W_l
    x, y = X.ravel(), Y.ravel()
    lowered = (
        np.einsum("ijl,i,j->l", slopes, x, y)
        + np.einsum("jil,i,j->l", slopes, x, y)
        - np.einsum("lij,i,j->l", slopes, x, y)
    ) / 2
    return np.linalg.solve(tensor(W), lowered).reshape(m, n)


@pytest.mark.parametrize(("m", "n", "depth"), cases(SMALL_SHAPES, [1, 2, 3, 5, math.inf]))
def test_christoffel_is_that_of_the_dense_metric(rng, m, n, depth):
    W = random_matrix(rng, m, n, np.linspace(1.5, 0.7, min(m, n)))
    X, Y = rng.standard_normal((2, m, n))
    metric = DeepLinearMetric(depth)
    gamma = metric.christoffel(W, X, Y)
    np.testing.assert_allclose(gamma, christoffel_by_differences(W, X, Y, depth), atol=2e-5)
    np.testing.assert_allclose(gamma, metric.christoffel(W, Y, X), rtol=1e-12, atol=1e-12)


def quartic_problem(manifold, target):
    @pymanopt.function.autograd(manifold)
    def cost(W):
        return anp.sum((W - target) ** 4) / 4 + anp.sum((W - target) ** 2) / 2

    return pymanopt.Problem(manifold, cost)


@pytest.mark.parametrize(("m", "n", "depth"), cases(SHAPES, [1.5, 3, math.inf]))
def test_the_hessian_is_symmetric_and_of_third_order(rng, m, n, depth):
    manifold = FullRank(m, n, DeepLinearMetric(depth), rng=1)
    problem = quartic_problem(manifold, rng.standard_normal((m, n)))
    check = check_hessian(problem)
    assert check.slope == pytest.approx(3, abs=0.1)
    assert check.residuals["symmetry"] < 1e-10


@pytest.mark.parametrize("depth", [1.5, 3, math.inf])
def test_the_hessian_is_the_second_derivative_along_geodesics(rng, depth):
    manifold = FullRank(3, 3, DeepLinearMetric(depth))
    problem = quartic_problem(manifold, rng.standard_normal((3, 3)))
    W, h = random_matrix(rng, 3, 3, [1.5, 1.0, 0.7]), 1e-2
    X = 0.3 * rng.standard_normal((3, 3))
    steps = h * np.arange(-3, 4)
    costs = np.array([problem.cost(manifold.exp(W, t * X)) for t in steps])
    weights = np.array([1 / 90, -3 / 20, 3 / 2, -49 / 18, 3 / 2, -3 / 20, 1 / 90])
    second = manifold.inner_product(W, X, problem.riemannian_hessian(W, X))
    assert weights @ costs / h**2 == pytest.approx(second, rel=1e-5)


@pytest.mark.parametrize("depth", [2, 3, math.inf])
def test_trust_regions_converge_quadratically(rng, depth):
    manifold = FullRank(3, 3, DeepLinearMetric(depth))
    target = random_matrix(rng, 3, 3, [2.0, 1.5, 1.0])
    start = target + 0.3 * rng.standard_normal((3, 3))
    optimizer = TrustRegions(min_gradient_norm=1e-10, verbosity=0)
    result = optimizer.run(quartic_problem(manifold, target), initial_point=start)
    assert result.gradient_norm < 1e-10
    assert result.iterations < 15
    np.testing.assert_allclose(result.point, target, atol=1e-9)
    # The last steps: each norm is of the order of the square of the one before.
    problem, norms, W = quartic_problem(manifold, target), [], result.point
    for size in (1e-2, 1e-3):
        W = target + size * rng.standard_normal((3, 3))
        norms.append(manifold.norm(W, problem.riemannian_gradient(W)))
        step = TrustRegions(min_gradient_norm=1e-14, max_iterations=1, verbosity=0).run(
            problem, initial_point=W, mininner=9, Delta_bar=10.0, Delta0=5.0
        )
        norms.append(step.gradient_norm)
    order = np.log(norms[1] / norms[3]) / np.log(norms[0] / norms[2])
    assert order > 1.7


@pytest.mark.parametrize(
    ("m", "n", "depth"), [*cases([(3, 3)], [1, 2, math.inf]), (2, 4, 1.5), (4, 2, 3)]
)
def test_retractions_have_their_orders(m, n, depth):
    geodesics = {}  # the same for all retractions

    def slope(retraction):
        manifold = FullRank(m, n, DeepLinearMetric(depth), retraction=retraction, rng=2)
        exp = manifold.exp

        def remembered(W, X):
            key = W.tobytes() + X.tobytes()
            if key not in geodesics:
                geodesics[key] = exp(W, X)
            return geodesics[key]

        manifold.exp = remembered
        return check_retraction(manifold).slope

    if depth == 1:
        assert slope("linear") == slope("second_order") == math.inf
    else:
        assert slope("linear") == pytest.approx(2, abs=0.1)
        assert slope("second_order") == pytest.approx(3, abs=0.1)
    if depth in (2, 3, 8):
        # Horizontal lines of layers project to geodesics up to third order.
        assert slope("network") == pytest.approx(3, abs=0.1)
    assert slope("polar") == pytest.approx(2, abs=0.1)


def test_the_polar_retraction_keeps_the_rank_and_the_determinant(rng):
    W = random_matrix(rng, 3, 3)
    for X in 100 * rng.standard_normal((20, 3, 3)):
        assert np.linalg.det(polar_retraction(W, X)) * np.linalg.det(W) > 0
    with pytest.raises(ValueError, match="full rank"):
        polar_retraction(np.zeros((2, 2)), np.eye(2))


def square_root(A):
    return scipy.linalg.sqrtm(A).real


def positive_definite(rng, n):
    root = np.eye(n) + 0.4 * rng.standard_normal((n, n))
    return root @ root.T


@pytest.mark.parametrize("n", [2, 4])
def test_depth_two_is_bures_wasserstein(rng, n):
    A, B = positive_definite(rng, n), positive_definite(rng, n)
    manifold = FullRank(n, n, DeepLinearMetric(2))
    root = square_root(A)
    squared = np.trace(A) + np.trace(B) - 2 * np.trace(square_root(root @ B @ root))
    logarithm = square_root(A @ B) + square_root(B @ A) - 2 * A
    assert manifold.dist(A, B) == pytest.approx(np.sqrt(2 * squared), abs=1e-6)
    np.testing.assert_allclose(manifold.log(A, B), logarithm, atol=1e-6)
    mean = (A + B + square_root(A @ B) + square_root(B @ A)) / 4
    np.testing.assert_allclose(manifold.pair_mean(A, B), mean, atol=1e-6)
    X = 0.3 * (B - A)
    L = scipy.linalg.solve_sylvester(A, A, X)
    expected = (np.eye(n) + L) @ A @ (np.eye(n) + L)
    np.testing.assert_allclose(manifold.exp(A, X), expected, atol=1e-6)


@pytest.mark.parametrize(("m", "n", "depth"), cases([(3, 3), (2, 4), (4, 2)], DEPTHS))
def test_geodesics_with_the_same_singular_vectors(rng, m, n, depth):
    r = min(m, n)
    s, t = np.linspace(1.0, 2.0, r), np.linspace(3.0, 0.5, r)
    U, V = (np.linalg.qr(rng.standard_normal((size, r)))[0] for size in (m, n))
    W_a, W_b = U * s @ V.T, U * t @ V.T
    if math.isinf(depth):
        middle, length = np.sqrt(s * t), np.linalg.norm(np.log(s / t))
    else:
        middle = ((s ** (1 / depth) + t ** (1 / depth)) / 2) ** depth
        length = np.sqrt(depth) * np.linalg.norm(s ** (1 / depth) - t ** (1 / depth))
    manifold = FullRank(m, n, DeepLinearMetric(depth))
    assert manifold.dist(W_a, W_b) == pytest.approx(length, rel=1e-7)
    np.testing.assert_allclose(manifold.pair_mean(W_a, W_b), U * middle @ V.T, atol=1e-6)


@pytest.mark.parametrize("depth", [1.5, 2, 3, 8])
@pytest.mark.parametrize("shape", [(1, 3), (3, 1)])
def test_one_row_or_column_is_a_flat_cone(rng, shape, depth):
    # With the radius sqrt(N) |w|^{1/N} an angle between vectors counts as one of 1 / sqrt(N) of it.
    a, b = rng.standard_normal((2, *shape))
    radii = [np.sqrt(depth) * np.linalg.norm(w) ** (1 / depth) for w in (a, b)]
    cosine = np.sum(a * b) / (np.linalg.norm(a) * np.linalg.norm(b))
    angle = np.arccos(cosine) / np.sqrt(depth)
    expected = np.sqrt(radii[0] ** 2 + radii[1] ** 2 - 2 * radii[0] * radii[1] * np.cos(angle))
    manifold = FullRank(*shape, DeepLinearMetric(depth))
    assert manifold.dist(a, b) == pytest.approx(expected, rel=1e-12)
    # The closed form solves the equation of geodesics, which knows nothing of it.
    np.testing.assert_allclose(manifold.exp(a, manifold.log(a, b)), b, atol=1e-8)
    halfway = manifold.exp(a, 0.5 * manifold.log(a, b))
    np.testing.assert_allclose(manifold.pair_mean(a, b), halfway, atol=1e-8)
    kernel_only = SpectralMetric(lambda s, t: DeepLinearKernel(depth)(s, t))
    assert FullRank(*shape, kernel_only).dist(a, b) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-200, 1e-160, 1e160])
def test_rows_of_any_size_have_a_distance(scale):
    manifold = FullRank(1, 2, DeepLinearMetric(2))
    a, b = scale * np.eye(2)[:, None, :]
    expected = np.sqrt(scale) * manifold.dist(a / scale, b / scale)
    assert manifold.dist(a, b) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(manifold.log(a, b) / scale, manifold.log(a / scale, b / scale))


@pytest.mark.parametrize("depth", [1e3, 1e6, 1e12, 1e16])
def test_rows_at_great_depth(depth):
    manifold = FullRank(1, 2, DeepLinearMetric(depth))
    a, b = np.array([[[1.0, 0.0]], [[2.0, 0.0]]])
    expected = np.sqrt(depth) * np.expm1(np.log(2) / depth)
    assert manifold.dist(a, b) == pytest.approx(expected, rel=1e-12)
    middle = ((1 + 2 ** (1 / depth)) / 2) ** depth if depth < 1e4 else np.sqrt(2)
    np.testing.assert_allclose(manifold.pair_mean(a, b), [[middle, 0]], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("turn", [1e-8, 1e-13])
def test_rows_that_are_nearly_in_line_turn_the_right_way(turn):
    a = np.array([[1.0, 2.0, -1.0]])
    b = 2 * a + turn * np.array([[1.0, -1.0, -1.0]])
    path = geodesic_between(DeepLinearMetric(3), a, b, [0.0, 1.0])
    np.testing.assert_allclose(path.points[1], b, rtol=0, atol=1e-14)


def test_a_long_row_needs_no_square_matrix():
    w = np.zeros((1, 100_000))
    w[0, 0] = 1.0
    assert FullRank(1, 100_000, DeepLinearMetric(2)).dist(w, 4 * w) == pytest.approx(np.sqrt(2))


@pytest.mark.parametrize("smallest", [1e-9, 1e-13])
@pytest.mark.parametrize("depth", [3, 10, math.inf])
def test_singular_values_that_gradients_do_not_move_have_geodesics(depth, smallest):
    # theta there is rounding error beside the largest one, so that metric.inner leaves it out.
    metric, W, X = DeepLinearMetric(depth), np.diag([1.0, smallest]), np.diag([0.0, smallest])
    path = geodesic(metric, W, X, [0.0, 1.0])
    factor = math.e if math.isinf(depth) else (1 + 1 / depth) ** depth
    np.testing.assert_allclose(path.points[1], np.diag([1.0, factor * smallest]), rtol=1e-9)
    length = 1.0 if math.isinf(depth) else smallest ** (1 / depth) / depth**0.5
    assert path.length == pytest.approx(length, rel=1e-9)
    assert geodesic_between(metric, W, path.points[1]).length == pytest.approx(length, rel=1e-8)


def test_frozen_velocities_lead_nowhere():
    metric, W = SpectralMetric(lambda s, t: s**4 + t**4), np.diag([1.0, 1e-5])
    path = geodesic(metric, W, np.diag([0.0, 1e-9]), [0.0, 1.0])
    np.testing.assert_array_equal(path.points, [W, W])
    np.testing.assert_array_equal(path.velocities, np.zeros((2, 2, 2)))


@pytest.mark.parametrize("retraction", ["linear", "second_order", "polar", "network"])
def test_steps_out_of_range_are_refused(retraction):
    manifold = FullRank(2, 2, DeepLinearMetric(2), retraction=retraction)
    far = 1.5e308 * np.eye(2)
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="range of floating-point"):
        manifold.retraction(np.eye(2) if retraction != "linear" else far, far)


def test_geodesics_out_of_range_say_so():
    small = 1e-200 * np.eye(2)
    with pytest.raises(ValueError, match=r"squares.* scale W"):
        exponential(SpectralMetric(lambda s, t: s + t), small, small)
    np.testing.assert_allclose(exponential(DeepLinearMetric(2), small, small), 2.25 * small)
    for bad in (np.nan, 0.0, -1.0):
        with pytest.raises(ValueError, match="^rtol must be positive"):
            geodesic(DeepLinearMetric(2), np.eye(2), np.eye(2), [0, 1], rtol=bad)
        with pytest.raises(ValueError, match="^tolerance must be positive"):
            geodesic_between(DeepLinearMetric(2), np.eye(2), 2 * np.eye(2), tolerance=bad)


@pytest.mark.parametrize("smallest", [1e-7, 1e-10, 1e-13, 1e-16, 0.0])
def test_numerical_derivatives_stay_bounded_near_lower_rank(rng, smallest):
    metric = SpectralMetric(lambda s, t: 1 + s**2)  # A(P) = P + W W^T P
    W = random_matrix(rng, 3, 3, [2.0, 1.0, smallest])
    X, P = rng.standard_normal((2, 3, 3))
    expected = (W @ X.T + X @ W.T) @ P
    np.testing.assert_allclose(metric.sharp_derivative(W, X, P), expected, atol=1e-4)


def test_velocities_are_not_the_argument(rng):
    W, X = rng.standard_normal((2, 2, 2))
    straight = geodesic(DeepLinearMetric(1), W, X, [0, 1])
    kept = X.copy()
    X[:] = 7
    np.testing.assert_array_equal(straight.velocities[0], kept)


def test_opposite_vectors_have_a_geodesic():
    manifold, w = FullRank(1, 3, DeepLinearMetric(2)), np.array([[1.0, 2.0, -1.0]])
    np.testing.assert_allclose(manifold.exp(w, manifold.log(w, -3 * w)), -3 * w, atol=1e-7)


@pytest.mark.parametrize(("m", "n", "depth"), cases(SHAPES, DEPTHS))
def test_exp_and_log_are_inverse_to_each_other(rng, m, n, depth):
    manifold = FullRank(m, n, DeepLinearMetric(depth))
    W_a, W_b = nearby_points(rng, m, n)
    X = manifold.log(W_a, W_b)
    np.testing.assert_allclose(manifold.exp(W_a, X), W_b, atol=1e-6)
    assert manifold.norm(W_a, X) == pytest.approx(manifold.dist(W_a, W_b), rel=1e-7)
    Y = 0.3 * rng.standard_normal((m, n))
    np.testing.assert_allclose(manifold.log(W_a, manifold.exp(W_a, Y)), Y, atol=1e-6)


@pytest.mark.parametrize("depth", [2, 3, math.inf])
def test_dist_is_a_distance(rng, depth):
    manifold = FullRank(3, 3, DeepLinearMetric(depth))
    a, b, c = nearby_points(rng, 3, 3, 3)
    # Another manifold has to solve for the way back.
    back = FullRank(3, 3, DeepLinearMetric(depth))
    assert manifold.dist(a, b) == pytest.approx(back.dist(b, a), rel=1e-7)
    assert manifold.dist(a, c) < manifold.dist(a, b) + manifold.dist(b, c)
    assert manifold.dist(a, a) == 0
    np.testing.assert_array_equal(manifold.log(a, a), np.zeros((3, 3)))
    np.testing.assert_allclose(manifold.pair_mean(a, b), back.pair_mean(b, a), atol=1e-6)


@pytest.mark.parametrize("depth", [1, 1.5, 3, math.inf])
def test_the_hamiltonian_is_conserved(rng, depth):
    metric = DeepLinearMetric(depth)
    W, X = random_matrix(rng, 4, 4, [2.0, 1.5, 1.0, 0.8]), 0.3 * rng.standard_normal((4, 4))
    path = geodesic(metric, W, X, np.linspace(0, 1, 7))
    speeds = np.sqrt(metric.inner(path.points, path.velocities, path.velocities))
    np.testing.assert_allclose(speeds, np.sqrt(metric.inner(W, X, X)), rtol=1e-9)
    assert path.length == pytest.approx(speeds[0])
    between = geodesic_between(metric, W, path.points[-1])
    assert between.length == pytest.approx(path.length, rel=1e-7)


def test_geodesics_between_generic_matrices(rng):
    metric = DeepLinearMetric(3)
    for _ in range(5):
        W_a, W_b = rng.standard_normal((2, 3, 5))
        found = geodesic_between(metric, W_a, W_b)
        end = exponential(metric, W_a, found.velocities[0])
        np.testing.assert_allclose(end, W_b, atol=1e-5)


def test_far_points_are_reached_in_steps():
    # A = 1 + w^2 on a line has the arc length arsinh(w). From the straight line Newton's method
    # fails at this distance at once.
    manifold = FullRank(1, 1, SpectralMetric(lambda s, t: 1 + s * t))
    distance = manifold.dist([[-50.0]], [[80.0]])
    assert distance == pytest.approx(np.arcsinh(80) + np.arcsinh(50), rel=1e-9)


@pytest.mark.parametrize("scale", [1e-20, 1e-8, 1e12])
def test_distances_scale_with_the_matrices(rng, scale):
    manifold = FullRank(3, 3, DeepLinearMetric(3))
    W_a, W_b = nearby_points(rng, 3, 3)
    expected = scale ** (1 / 3) * manifold.dist(W_a, W_b)
    assert manifold.dist(scale * W_a, scale * W_b) == pytest.approx(expected, rel=1e-6)


def test_a_geodesic_may_leave_the_neighbourhood_of_lower_rank():
    manifold = FullRank(2, 2, DeepLinearMetric(2))
    W, X = np.diag([1.0, 1e-10]), np.diag([0.0, 1e-8])
    # The square root of the second singular value goes from 1e-5 with the velocity 5e-4.
    end = manifold.exp(W, X)
    np.testing.assert_allclose(end, np.diag([1.0, (1e-5 + 5e-4) ** 2]), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("m", "n", "depth"), [(3, 3, 3), (2, 4, 1.5), (4, 2, 2), (1, 3, 2)])
def test_geodesics_meet_lower_rank_when_equation_nine_says(rng, m, n, depth):
    W = random_matrix(rng, m, n, np.linspace(1.0, 2.0, min(m, n)))
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    # s_i(t)^{1/N} = s_i^{1/N} (1 - t v_i / (N s_i)), and the last one gets to zero.
    velocities = np.append(np.zeros(len(s) - 1), 2 * depth * s[-1])
    with pytest.raises(
        LowerRankError, match="runs into a matrix of lower rank at time 0.5,"
    ) as info:
        geodesic(DeepLinearMetric(depth), W, -U * velocities @ Vt, [0.0, 1.0])
    assert info.value.time == pytest.approx(1 / 2, abs=1e-9)
    np.testing.assert_allclose(
        np.outer(info.value.left, info.value.right), np.outer(U[:, -1], Vt[-1]), atol=1e-5
    )


def test_a_geodesic_at_one_time_is_its_start(rng):
    W, X = rng.standard_normal((2, 2, 3))
    start = geodesic(DeepLinearMetric(3), W, X, [0.0])
    np.testing.assert_array_equal(start.points, W[None])
    np.testing.assert_array_equal(start.velocities, X[None])
    assert start.length == 0


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("times", [[1.0, 2.0], [0.0, 2.0], [-3.0, -2.5, -1.0]])
def test_a_geodesic_is_at_its_start_at_the_first_time(times, depth):
    # At depth 2 the square root of one entry moves evenly, at depth 1 the entry itself.
    start, velocity = 4.0, 2.0
    path = geodesic(DeepLinearMetric(depth), [[start]], [[velocity]], times)
    t = np.array(times) - times[0]
    expected = (start ** (1 / depth) * (1 + velocity / start / depth * t)) ** depth
    np.testing.assert_allclose(path.points.ravel(), expected, rtol=1e-9)
    slopes = velocity * (expected / start) ** (1 - 1 / depth)
    np.testing.assert_allclose(path.velocities.ravel(), slopes, rtol=1e-9)
    speed = velocity if depth == 1 else velocity / np.sqrt(2 * start)
    assert path.length == pytest.approx(speed * t[-1], rel=1e-12)
    np.testing.assert_array_equal(path.times, times)


def test_what_a_geodesic_hands_out_is_the_callers(rng):
    a, b = nearby_points(rng, 2, 3)
    for ends in ((a, b), (a, a)):
        first = geodesic_between(DeepLinearMetric(3), *ends)
        kept = [np.copy(array) for array in first[:3]]
        for array in first[:3]:
            array[...] = 7.0
        again = geodesic_between(DeepLinearMetric(3), *ends)
        for array, expected in zip(again[:3], kept, strict=True):
            np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("times", [[0.3], [0.0, 0.25, 1.0]])
def test_geodesics_between_points_are_given_at_the_times_asked_for(rng, times):
    metric, t = DeepLinearMetric(2), np.array(times)
    between = geodesic_between(metric, [[4.0]], [[9.0]], times)
    np.testing.assert_allclose(between.points.ravel(), (2 + t) ** 2, rtol=1e-12)
    np.testing.assert_allclose(between.velocities.ravel(), 2 * (2 + t), rtol=1e-12)
    # Where no closed form is known: the geodesic that starts there with the velocity at time 0.
    W_a, W_b = nearby_points(rng, 2, 3)
    between = geodesic_between(metric, W_a, W_b, times)
    start = geodesic_between(metric, W_a, W_b, [0.0]).velocities[0]
    onwards = geodesic(metric, W_a, start, [0.0, *t[t > 0]])
    kept = slice(None if t[0] == 0 else 1, None)
    np.testing.assert_allclose(between.points, onwards.points[kept], atol=1e-7)
    np.testing.assert_allclose(between.velocities, onwards.velocities[kept], atol=1e-6)
    assert between.length == pytest.approx(onwards.length / t[-1], rel=1e-7)


@pytest.mark.parametrize("times", [[0.5, 1.0 + 1e-12], [-1e-12, 0.5], [0.5, 0.25], []])
def test_geodesics_between_points_do_not_go_beyond_them(times):
    for W_b in (9.0 * np.eye(2), np.array([[3.0, 1.0], [0.0, 2.0]])):  # with a closed form or not
        with pytest.raises(ValueError, match="^times must be"):
            geodesic_between(DeepLinearMetric(2), np.eye(2), W_b, times)


@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (4, 3), (3, 3)])
def test_the_first_guess_keeps_away_from_lower_rank(rng, shape):
    for a, b in rng.standard_normal((30, 2, *shape)):
        if shape == (3, 3) and np.linalg.det(a) * np.linalg.det(b) < 0:
            b[:, 0] *= -1
        (path, *_) = (p(np.linspace(0, 1, 41)) for p in polar_paths(a, b))
        np.testing.assert_allclose(path[[0, -1]], [a, b], atol=1e-12)
        least = np.linalg.svd(path, compute_uv=False)[:, -1]
        # The second polar factor goes straight, so its least eigenvalue is concave.
        assert np.min(least) >= min(least[0], least[-1]) * (1 - 1e-9)


@pytest.mark.parametrize("depth", [2, 3, 8])
def test_velocities_are_followed_as_far_as_numbers_go(depth):
    manifold = FullRank(2, 2, DeepLinearMetric(depth))
    if depth < 8:
        end = manifold.exp(np.eye(2), 1e60 * np.eye(2))
        np.testing.assert_allclose(end, (1 + 1e60 / depth) ** depth * np.eye(2), rtol=1e-9)
    else:
        with pytest.raises(GeodesicError, match="leaves the range of floating-point"):
            manifold.exp(np.eye(2), 1e60 * np.eye(2))


def test_single_precision_is_kept(rng):
    W, X = 0.3 * rng.standard_normal((2, 2, 3)).astype(np.float32)
    for retraction in ("linear", "second_order", "geodesic", "polar", "network"):
        manifold = FullRank(2, 3, DeepLinearMetric(2), retraction=retraction)
        assert manifold.retraction(W, 0.1 * X).dtype == np.float32
    for array in geodesic_between(DeepLinearMetric(2), W, W + 0.1 * X)[1:3]:
        assert array.dtype == np.float32


def test_a_geodesic_that_meets_lower_rank_says_so():
    manifold = FullRank(2, 2, DeepLinearMetric(2))
    W = np.eye(2)
    # The square root of the first singular value goes 1 - t X / 2: it meets zero at t = 1 / 2.
    with pytest.raises(GeodesicError, match=r"runs into a matrix of lower rank at time 0\.5,"):
        manifold.exp(W, np.diag([-4.0, 0.0]))
    with pytest.raises(GeodesicError, match="determinants of the points have opposite signs"):
        manifold.log(W, np.diag([1.0, -1.0]))
    with pytest.raises(GeodesicError, match="the point is of lower rank"):
        manifold.exp(np.diag([1.0, 0.0]), np.eye(2))
    with pytest.raises(GeodesicError, match="the first point is of lower rank"):
        manifold.dist(np.diag([1.0, 0.0]), W)
    with pytest.raises(GeodesicError, match="the second point is of lower rank"):
        manifold.dist(W, np.diag([1.0, 0.0]))


@pytest.mark.parametrize(("m", "n"), [(2, 2), (2, 3), (5, 2)])
def test_there_is_one_numerical_rank(m, n):
    manifold, threshold = FullRank(m, n, DeepLinearMetric(2)), max(m, n) * np.finfo(float).eps
    X = np.zeros((m, n))
    for small in (1e-13, 1.5 * threshold):
        W = np.zeros((m, n))
        W[[0, 1], [0, 1]], X[1, 1] = (1.0, small), 0.2 * small
        # As in equation (9), and g(X, X) = x^2 / (2 s) in the direction of one singular value.
        assert manifold.norm(W, X) == pytest.approx(0.2 * np.sqrt(small / 2), rel=1e-12)
        end = manifold.exp(W, X)
        assert end[1, 1] == pytest.approx(1.1**2 * small, rel=1e-9)
        assert manifold.dist(W, 1.21 * W) == pytest.approx(0.1 * np.sqrt(2), rel=1e-9)
    W[1, 1] = X[1, 1] = 0.5 * threshold
    assert manifold.norm(W, X) == 0
    with pytest.raises(GeodesicError, match="the point is of lower rank"):
        manifold.exp(W, X)
    with pytest.raises(GeodesicError, match="the first point is of lower rank"):
        manifold.dist(W, 2 * W)


def test_euclidean_geodesics_are_straight_and_know_no_boundary():
    manifold = FullRank(2, 2, DeepLinearMetric(1))
    W_a, W_b = np.eye(2), np.diag([1.0, -3.0])
    assert manifold.dist(W_a, W_b) == pytest.approx(4, rel=1e-15)
    np.testing.assert_array_equal(manifold.log(W_a, W_b), W_b - W_a)
    np.testing.assert_allclose(manifold.exp(W_a, W_b), W_a + W_b, atol=1e-13)
    np.testing.assert_array_equal(manifold.pair_mean(W_a, W_b), (W_a + W_b) / 2)


@pytest.mark.parametrize(("m", "n", "depth"), cases(SHAPES, [1, 1.5, 3, math.inf]))
def test_the_isometric_transport_keeps_inner_products(rng, m, n, depth):
    manifold = FullRank(m, n, DeepLinearMetric(depth), transport="isometric")
    a, b, X, Y = rng.standard_normal((4, m, n))
    moved = (manifold.transport(a, b, V) for V in (X, Y))
    assert manifold.inner_product(b, *moved) == pytest.approx(
        manifold.inner_product(a, X, Y), rel=1e-9
    )
    there_and_back = manifold.transport(b, a, manifold.transport(a, b, X))
    np.testing.assert_allclose(there_and_back, X, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("retraction", ["linear", "second_order", "geodesic", "polar", "network"])
def test_bad_vectors_are_named_as_the_caller_knows_them(retraction):
    manifold = FullRank(2, 3, DeepLinearMetric(2), retraction=retraction, transport="isometric")
    W, X = np.eye(2, 3), np.ones((2, 3))
    gap = np.array([[1.0, np.nan, 1.0]] * 2)
    for call, name in {
        lambda V: manifold.retraction(W, V): "tangent_vector",
        lambda V: manifold.exp(W, V): "tangent_vector",
        lambda V: manifold.log(W, V): "point_b",
        lambda V: manifold.transport(W, W, V): "tangent_vector_a",
        lambda V: manifold.euclidean_to_riemannian_hessian(W, X, V, X): "euclidean_hessian",
    }.items():
        with pytest.raises(ValueError, match=f"^{name} must be finite"):
            call(gap)
        with pytest.raises(ValueError, match=f"^{name} must have shape"):
            call(X.T)


def test_the_isometric_transport_is_for_every_metric(rng):
    class Weighted(Metric):
        def sharp(self, W, P):
            return (1 + W**2) * P

    for metric in (Weighted(), KroneckerMetric(np.diag([1.0, 3.0]), np.eye(2))):
        manifold = FullRank(2, 2, metric, transport="isometric")
        a, b, X, Y = rng.standard_normal((4, 2, 2))
        moved = (manifold.transport(a, b, V) for V in (X, Y))
        expected = manifold.inner_product(a, X, Y)
        assert manifold.inner_product(b, *moved) == pytest.approx(expected, rel=1e-12)


def test_retractions_and_transports_may_be_functions_of_ones_own():
    def retraction(W, X):
        return W + 2 * X

    def transport(W_a, W_b, X):
        return 3 * X

    metric, one = DeepLinearMetric(2), np.ones((1, 1))
    manifold = FullRank(1, 1, metric, retraction=retraction, transport=transport)
    assert manifold.retraction(one, one) == 3
    assert manifold.transport(one, one, one) == 3
    with pytest.raises(ValueError, match="^transport must be one of 'identity', 'isometric' or a"):
        FullRank(1, 1, metric, transport="parallel")


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_particle_swarm_and_nelder_mead_run(depth):
    np.random.seed(0)  # noqa: NPY002 (pymanopt's own source of randomness)
    target = np.array([[1.5, 0.3, -0.2]])
    manifold = FullRank(
        1, 3, DeepLinearMetric(depth), retraction="polar", transport="isometric", rng=0
    )
    problem = quartic_problem(manifold, target)
    swarm = ParticleSwarm(max_iterations=20, population_size=10, verbosity=0).run(problem)
    assert swarm.cost < 0.1
    simplex = NelderMead(max_iterations=10, verbosity=0).run(problem)
    assert simplex.cost < 1


def test_manifolds_with_geodesics_are_pickled(rng):
    manifold = FullRank(2, 3, DeepLinearMetric(3), retraction="geodesic", transport="isometric")
    W, X = rng.standard_normal((2, 2, 3))
    manifold.dist(W, W + 0.1 * X)
    copy = pickle.loads(pickle.dumps(manifold))
    np.testing.assert_array_equal(copy.retraction(W, 0.1 * X), manifold.retraction(W, 0.1 * X))


def test_a_kernel_of_ones_own_has_geodesics(rng):
    # Its derivatives come from the kernel alone. At depth two the same kernel has them exactly.
    numerical = SpectralMetric(lambda s, t: s + t)
    kernel = FunctionKernel(lambda s, t: s + t, lambda a, b, t: 1 / (a + b) + 0 * t, symmetric=True)
    exact = SpectralMetric(kernel)
    W_a, W_b = nearby_points(rng, 3, 3)
    expected = FullRank(3, 3, DeepLinearMetric(2)).log(W_a, W_b)
    for metric, tolerance in ((numerical, 1e-6), (exact, 1e-8)):
        log = FullRank(3, 3, metric).log(W_a, W_b)
        np.testing.assert_allclose(log, expected, atol=tolerance)


def test_a_kernel_that_is_not_symmetric_takes_two_differences(rng):
    def kernel(s, t):
        return 1 + s**2 + 3 * t**4

    first, second = (lambda a, b, t: 1.0 + 0 * (a + b + t)), (lambda a, b, t: 3 * (a**2 + b**2))
    W, X, P = rng.standard_normal((3, 3, 4))

    def sharp(W):
        return P + W @ W.T @ P + 3 * P @ W.T @ W @ W.T @ W

    expected = derivative(lambda h: sharp(W + h * X), 1e-3)
    for metric in (SpectralMetric(kernel), SpectralMetric(FunctionKernel(kernel, first, second))):
        np.testing.assert_allclose(metric.sharp_derivative(W, X, P), expected, rtol=1e-7, atol=1e-7)


def test_refuses_differences_that_are_no_functions():
    with pytest.raises(TypeError, match="^divided_difference must be a function of singular"):
        FunctionKernel(lambda s, t: s + t, (1.0, 2.0))
