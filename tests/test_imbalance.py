"""Layers off balance by multiples of the identity: their kernel and metric against themselves."""

import math
import pickle
from functools import reduce
from itertools import accumulate

import mpmath
import numpy as np
import pytest
from scipy.integrate import quad

import riemdln
from riemdln import (
    DeepLinearMetric,
    FixedRank,
    FullRank,
    PositiveDefinite,
    SpectralMetric,
    balanced_layers,
    end_to_end,
    gradient_flow,
    imbalances,
    layer_gradients,
    network_flow,
)
from riemdln.checks import check_metric
from riemdln.kernels import DeepLinearKernel, ImbalancedKernel, Kernel, LoewnerKernel
from tests.conftest import fit

SHAPES = [(3, 3), (2, 4), (4, 2), (1, 3), (3, 1)]

# Random ones, equal c_j, and the least c_j attained once, twice and by all but one; of both signs.
IMBALANCES = [
    (2, 0.7),
    (2, -1.3),
    (3, [0.4, 0.9]),
    (3, [0.0, 0.8]),
    (3, [0.8, -0.8]),
    (3, [-0.6, 0.6]),
    (5, [0.3, -0.7, 1.1, 0.2]),
    (5, [0.5, 0.0, -0.5, 0.0]),
    (5, [0.0, 0.0, 0.0, 2.0]),
    (5, 0.25),
]


def velocity(layers, P):
    """The sum over explicit layers of what those above and those below make of P."""
    above = list(accumulate(layers[:0:-1], lambda product, layer: product @ layer))
    below = list(accumulate(layers[:-1], lambda product, layer: layer @ product))
    above = [np.eye(layers[-1].shape[0]), *above][::-1]
    below = [np.eye(layers[0].shape[1]), *below]
    return sum(A @ A.T @ P @ B.T @ B for A, B in zip(above, below, strict=True))


def imbalanced_layers(rng, W, depth, imbalance):
    """Layers over W, from roots that NumPy finds of the polynomial, in random hidden bases."""
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    c = np.concatenate([[0.0], np.cumsum(np.broadcast_to(imbalance, depth - 1))])
    c -= c.min()
    x = np.empty(len(s))
    for i, s_i in enumerate(s):
        q = np.poly(-c)
        q[-1] -= s_i**2
        roots = np.roots(q)
        x[i] = max(root.real for root in roots if abs(root.imag) < 1e-9 * (1 + abs(root)))
    layers = [np.diag((x + c_j) ** 0.5) for c_j in c]
    layers[0], layers[-1] = layers[0] @ Vt, U @ layers[-1]
    for j in range(depth - 1):
        Q = np.linalg.qr(rng.standard_normal((len(s), len(s))))[0]
        layers[j], layers[j + 1] = Q @ layers[j], layers[j + 1] @ Q.T
    return layers


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("depth", "imbalance"), IMBALANCES)
def test_the_metric_is_that_of_explicit_layers(rng, depth, imbalance, shape):
    metric = DeepLinearMetric(depth, imbalance)
    W, P = rng.standard_normal(shape), rng.standard_normal(shape)
    layers = imbalanced_layers(rng, W, depth, imbalance)
    np.testing.assert_allclose(end_to_end(layers), W, rtol=0, atol=1e-13 * np.abs(W).max())
    expected = velocity(layers, P)
    np.testing.assert_allclose(
        metric.sharp(W, P), expected, rtol=0, atol=1e-12 * np.abs(expected).max()
    )


@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (4, 2)])
@pytest.mark.parametrize(("depth", "imbalance"), IMBALANCES)
def test_the_canonical_layers_have_the_imbalance(rng, depth, imbalance, shape):
    W = rng.standard_normal(shape)
    layers = balanced_layers(W, depth, imbalance=imbalance)
    np.testing.assert_allclose(end_to_end(layers), W, rtol=0, atol=1e-14)
    differences = np.broadcast_to(imbalance, depth - 1)
    for matrix, difference in zip(imbalances(layers), differences, strict=True):
        np.testing.assert_allclose(matrix, difference * np.eye(min(shape)), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("depth", "imbalance"), IMBALANCES)
def test_the_kernel_in_high_precision(depth, imbalance):
    kernel = DeepLinearMetric(depth, imbalance).kernel
    c = [sum(np.broadcast_to(imbalance, depth - 1)[:j].tolist()) for j in range(depth)]
    c = [c_j - min(c) for c_j in c]
    c = [0.0 if c_j < 1e-15 else c_j for c_j in c]
    for s, t in [(1e-150, 1.0), (1e-30, 1e-31), (0.3, 0.3 * (1 + 1e-9)), (2.0, 2.0), (1e60, 3.0)]:
        with mpmath.workdps(400):
            x, y = (exact_square(c, value) for value in (s, t))
            if s == t:
                y = x * (1 + mpmath.mpf(10) ** -60)
            exact = (product(c, x) - product(c, y)) / (x - y)
            value = mpmath.mpf(float(kernel(np.float64(s), np.float64(t))))
            assert abs(value / exact - 1) < 1e-13


def product(c, x):
    return reduce(lambda q, c_j: q * (x + mpmath.mpf(c_j)), c, mpmath.mpf(1))


def exact_square(c, s):
    """The root of prod (x + c_j) = s^2: its logarithm by bisection, and then by Newton's method."""
    low, high, square = mpmath.mpf(10) ** -350, mpmath.mpf(10) ** 200, mpmath.mpf(s) ** 2
    for _ in range(30):
        middle = mpmath.sqrt(low * high)
        low, high = (middle, high) if product(c, middle) < square else (low, middle)
    x = low
    for _ in range(12):
        slope = sum(x / (x + c_j) for c_j in c)
        x *= mpmath.exp(-mpmath.log(product(c, x) / square) / slope)
    return x


@pytest.mark.parametrize("scale", [1e-200, 1e-8, 0.1, 1.0, 30.0, 1e100])
def test_two_layers_have_a_closed_form(scale):
    lam, s, t = 0.8, scale * np.array([[0.5], [1.0]]), scale * np.array([1.0, 0.3])
    expected = np.hypot(s, lam / 2) + np.hypot(t, lam / 2)
    for kernel in (ImbalancedKernel([lam]), ImbalancedKernel([-lam])):
        np.testing.assert_allclose(kernel(s, t), expected, rtol=2e-14)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_no_imbalance_is_balance(rng, depth):
    s, t = 10.0 ** rng.uniform(-40, 40, (2, 50))
    kernel = ImbalancedKernel([0.0] * (depth - 1))
    np.testing.assert_allclose(kernel(s, t), DeepLinearKernel(depth)(s, t), rtol=1e-13)
    np.testing.assert_allclose(
        kernel.divided_difference(s, t, t[::-1]),
        DeepLinearKernel(depth).divided_difference(s, t, t[::-1]),
        rtol=1e-11,
    )
    W, P = rng.standard_normal((2, 3, 4))
    balanced = DeepLinearMetric(depth)
    for imbalance in (0, 0.0, [0.0] * (depth - 1)):
        np.testing.assert_array_equal(
            DeepLinearMetric(depth, imbalance).sharp(W, P), balanced.sharp(W, P)
        )
    np.testing.assert_allclose(
        SpectralMetric(kernel).sharp(W, P), balanced.sharp(W, P), rtol=0, atol=1e-13 * 20
    )


@pytest.mark.parametrize("imbalance", [[1.0], [0.4, 0.9], [0.0, 0.8], [0.3, -0.7, 1.1, 0.2]])
def test_divided_differences_in_high_precision(imbalance):
    kernel = ImbalancedKernel(imbalance)
    c = [0.0, *np.cumsum(imbalance).tolist()]
    c = [c_j - min(c) for c_j in c]
    for a, b, t in [(2.0, 1.0, 3.0), (1.0, 1.0, 1.0), (1e-3, 1e-5, 1.0), (1.0, 1e-8, 1e-8)]:
        with mpmath.workdps(300):

            def theta(s, t, c=c):
                x, y = exact_square(c, s), exact_square(c, t)
                return (product(c, x) - product(c, y)) / (x - y)

            t_, a_ = mpmath.mpf(t) * (1 + mpmath.mpf(10) ** -60), mpmath.mpf(a)
            b_ = mpmath.mpf(b) if b != a else a_ * (1 + mpmath.mpf(10) ** -50)
            exact = (theta(a_, t_) - theta(b_, t_)) / (a_**2 - b_**2)
            value = mpmath.mpf(float(kernel.divided_difference(*map(np.float64, (a, b, t)))))
            assert abs(value / exact - 1) < 1e-12


@pytest.mark.parametrize("imbalance", [[1.0], [0.4, 0.9], [0.0, 0.8], [0.3, -0.7, 1.1, 0.2]])
@pytest.mark.parametrize("s", [1e-3, 0.7, 0.9, 40.0])
def test_second_derivatives_of_the_logarithm(imbalance, s):
    kernel, t = ImbalancedKernel(imbalance), 0.7
    c = [0.0, *np.cumsum(imbalance).tolist()]
    c = [c_j - min(c) for c_j in c]
    with mpmath.workdps(250):
        h, perturbed = mpmath.mpf(10) ** -40, mpmath.mpf(t) * (1 + mpmath.mpf(10) ** -90)

        def logarithm(a, b):
            x, y = exact_square(c, s * (1 + a * h)), exact_square(c, perturbed * (1 + b * h))
            return mpmath.log((product(c, x) - product(c, y)) / (x - y))

        pure = (logarithm(1, 0) - 2 * logarithm(0, 0) + logarithm(-1, 0)) / h**2
        corners = [(a, b) for a in (1, -1) for b in (1, -1)]
        mixed = sum(a * b * logarithm(a, b) for a, b in corners) / (4 * h**2)
    actual = kernel.second_log_derivatives(np.float64(s), np.float64(t))
    # What is small is the difference of terms of the size of one.
    assert abs(float(actual[0]) - float(pure)) < 1e-13 + 1e-12 * abs(float(pure))
    assert abs(float(actual[1]) - float(mixed)) < 1e-13 + 1e-12 * abs(float(mixed))


@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (4, 2)])
@pytest.mark.parametrize(("depth", "imbalance"), IMBALANCES)
def test_the_metric_satisfies_its_equations(depth, imbalance, shape):
    check = check_metric(DeepLinearMetric(depth, imbalance), *shape, rng=1)
    for error in (check.symmetry, check.inverse, check.inner, check.adjoint, check.root):
        assert error < 1e-12
    for error in (check.derivative, check.compatibility, check.volume):
        assert error < 1e-7


@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (4, 2)])
@pytest.mark.parametrize(("depth", "imbalance"), [(2, 0.7), (3, [0.4, -0.9]), (3, [0.0, 0.8])])
def test_hessians_laplacians_and_curvatures_are_those_of_the_dense_metric(
    rng, depth, imbalance, shape
):
    metric = DeepLinearMetric(depth, imbalance)
    # A metric that knows nothing but sharp, and differentiates it.
    generic = OnlySharp(metric)
    W, X, Y, Z = rng.standard_normal((4, *shape))
    np.testing.assert_allclose(
        metric.at(W).hessian(Y, X, X), generic.at(W).hessian(Y, X, X), rtol=0, atol=1e-7
    )
    np.testing.assert_allclose(
        metric.coordinate_laplacian(W), generic.coordinate_laplacian(W), rtol=0, atol=1e-7
    )
    np.testing.assert_allclose(
        riemdln.geodesics.curvature(metric, W, X, Y, Z),
        riemdln.geodesics.curvature(generic, W, X, Y, Z),
        rtol=0,
        atol=2e-6,
    )


class OnlySharp(riemdln.Metric):
    def __init__(self, metric):
        self._metric = metric

    def sharp(self, W, P):
        return self._metric.sharp(W, P)


@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (4, 2)])
@pytest.mark.parametrize(
    ("depth", "imbalance"), [(2, 0.7), (3, [0.4, -0.9]), (5, [0.5, 0, -0.5, 0])]
)
def test_the_entropy_is_the_volume_of_the_orbit(rng, depth, imbalance, shape):
    metric, r = DeepLinearMetric(depth, imbalance), min(shape)

    def log_volume_of_orbit(W):
        """Half the log determinant of the Gram matrix of all turns of hidden bases."""
        layers, turns = balanced_layers(W, depth, imbalance), []
        for j in range(depth - 1):
            for a in range(r):
                for b in range(a):
                    skew = np.zeros((r, r))
                    skew[a, b], skew[b, a] = 1, -1
                    moves = [0 * layer for layer in layers]
                    moves[j], moves[j + 1] = skew @ layers[j], -layers[j + 1] @ skew
                    turns.append(np.concatenate([move.ravel() for move in moves]))
        gram = np.array(turns) @ np.array(turns).T
        return np.linalg.slogdet(gram)[1] / 2

    points = rng.standard_normal((3, *shape))
    constants = [log_volume_of_orbit(W) - metric.entropy(W) for W in points]
    np.testing.assert_allclose(constants, constants[0], rtol=0, atol=1e-12)
    W, X, h = points[0], rng.standard_normal(shape), 1e-5
    slope = (metric.entropy(W + h * X) - metric.entropy(W - h * X)) / (2 * h)
    np.testing.assert_allclose(np.sum(metric.entropy_gradient(W) * X), slope, rtol=0, atol=1e-8)
    change = (metric.entropy_gradient(W + h * X) - metric.entropy_gradient(W - h * X)) / (2 * h)
    np.testing.assert_allclose(metric.entropy_hessian(W, X), change, rtol=0, atol=1e-7)


@pytest.mark.parametrize("zeros", [1, 2])
@pytest.mark.parametrize("shape", [(3, 3), (3, 5), (4, 3)])
@pytest.mark.parametrize(("depth", "imbalance"), [(1, 0), (2, 0.7), (3, [0.4, -0.9])])
def test_the_entropy_is_smooth_where_one_layer_goes_to_zero(rng, shape, depth, imbalance, zeros):
    metric, h = DeepLinearMetric(depth, imbalance), 3e-5
    s = np.where(np.arange(3) < 3 - zeros, [1.3, 0.8, 0.5], 0.0)
    X, Y = rng.standard_normal((2, *shape))
    U, _, Vt = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    W, at = U * s @ Vt, metric.at_frame((U, s, Vt))  # singular values of exactly zero

    def entropy(x, y):
        return metric.entropy(W + x * h * X + y * h * Y)

    blocks = at.frame.split(X)
    slope = (entropy(1, 0) - entropy(-1, 0)) / (2 * h)
    assert at.pair(at.entropy_gradient(), blocks) == pytest.approx(slope, abs=1e-6)
    corners = entropy(1, 1) - entropy(1, -1) - entropy(-1, 1) + entropy(-1, -1)
    second = at.pair(at.entropy_hessian(blocks), at.frame.split(Y))
    assert second == pytest.approx(corners / (4 * h**2), abs=1e-5)


@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (4, 2)])
@pytest.mark.parametrize(("depth", "imbalance"), IMBALANCES)
def test_a_step_of_the_network_is_one_of_its_layers(rng, depth, imbalance, shape):
    metric = DeepLinearMetric(depth, imbalance)
    W, P = rng.standard_normal(shape), rng.standard_normal(shape)
    layers = imbalanced_layers(rng, W, depth, imbalance)
    moved = [W_j - 0.1 * G for W_j, G in zip(layers, layer_gradients(layers, P), strict=True)]
    actual = metric.network_retraction(W, -0.1 * metric.sharp(W, P))
    np.testing.assert_allclose(actual, end_to_end(moved), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (4, 2)])
@pytest.mark.parametrize(("depth", "imbalance"), IMBALANCES)
def test_the_flow_is_that_of_the_layers(rng, depth, imbalance, shape):
    metric, times = DeepLinearMetric(depth, imbalance), [0.0, 0.2, 1.0]
    problem = fit(FullRank(*shape, metric), rng.standard_normal(shape))
    W = rng.standard_normal(shape)
    layers = imbalanced_layers(rng, W, depth, imbalance)
    tolerances = {"rtol": 1e-11, "atol": 1e-12}
    of_layers = network_flow(problem, layers, times, **tolerances)
    flow = gradient_flow(problem, W, times, **tolerances)
    np.testing.assert_allclose(flow.points, of_layers.points, rtol=0, atol=1e-8)
    kept = imbalances(of_layers.layers[-1])
    for before, after in zip(imbalances(layers), kept, strict=True):
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-8)


@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (4, 2)])
@pytest.mark.parametrize(("depth", "imbalance"), [(2, 0.7), (3, [0.4, -0.9]), (3, 0), (5, 0.25)])
def test_the_flow_moves_one_function_of_the_squares(rng, depth, imbalance, shape):
    """Equations (11) and (12): along the flow, phi(W W^T) moves by -(G W^T + W G^T)."""
    metric, W, G = DeepLinearMetric(depth, imbalance), *rng.standard_normal((2, *shape))
    if shape[0] > shape[1]:  # of W^T W, whose zero eigenvalues stay where they are
        W_, G_ = W.T, G.T
    else:
        W_, G_ = W, G

    def phi(W):
        squares, U = np.linalg.eigh(W @ W.T if shape[0] <= shape[1] else W.T @ W)
        c = np.concatenate([[0.0], np.cumsum(np.broadcast_to(imbalance, depth - 1))])
        c -= c.min()
        x = [max(np.roots(np.poly(-c) - square * np.eye(depth + 1)[-1]).real) for square in squares]
        return (U * x) @ U.T

    h, Z = 1e-5, metric.sharp(W, G)
    rate = (phi(W - h * Z) - phi(W + h * Z)) / (2 * h)
    np.testing.assert_allclose(rate, -(G_ @ W_.T + W_ @ G_.T), rtol=0, atol=1e-6)


def test_singular_values_pass_through_zero_as_those_of_the_layers():
    """With one layer that goes to zero nothing freezes there."""
    problem = fit(FullRank(2, 2, DeepLinearMetric(2, 1.0)), np.diag([1.0, -0.5]))
    flow = gradient_flow(problem, np.diag([0.5, 0.3]), [0.0, 40.0])
    np.testing.assert_allclose(flow.points[-1], np.diag([1.0, -0.5]), rtol=0, atol=1e-7)
    # With two that do, small singular values have relative accuracy, and signs stay.
    metric = DeepLinearMetric(3, [0.0, 1.0])
    problem = fit(FullRank(2, 2, metric), np.diag([1.0, -0.5]))
    flow = gradient_flow(problem, np.diag([0.5, 0.3]), [0.0, 80.0])
    s = flow.singular_values[-1, 1]
    assert flow.points[-1][1, 1] > 0
    # s' = -theta(s, s) (s + 1/2), and the time from 0.3 to s is that of the exact flow.
    kernel = metric.kernel

    def rate(logarithm):
        value = np.exp(logarithm)
        return value / (float(kernel(value, value)) * (value + 0.5))

    time = quad(rate, math.log(s), math.log(0.3), epsabs=1e-10)[0]
    np.testing.assert_allclose(time, 80.0, rtol=1e-6)
    assert 0 < s < 1e-15


def test_relative_accuracy_at_lower_rank_of_a_tall_matrix(rng):
    """Two layers go to zero, and the last one, which turns with the column space, does not."""
    metric = DeepLinearMetric(3, [0.0, 1.0])
    manifold = FullRank(3, 2, metric)
    U, V = (
        np.linalg.qr(rng.standard_normal((3, 2)))[0],
        np.linalg.qr(rng.standard_normal((2, 2)))[0],
    )
    target = U @ np.diag([1.0, 0.6]) @ V.T
    start = (U, np.array([1.0, 1e-25]), V.T)
    flow = gradient_flow(fit(manifold, target), start, [0.0, 5.0])
    kernel, (s,) = metric.kernel, flow.singular_values[-1, 1:]

    def time(s):
        def rate(logarithm):
            value = np.exp(logarithm)
            return value / (float(kernel(value, value)) * (0.6 - value))

        return quad(rate, math.log(1e-25), math.log(s), epsabs=1e-11)[0]

    assert 1e-25 < s < 0.6
    np.testing.assert_allclose(time(s), 5.0, rtol=1e-7)


@pytest.mark.parametrize("c", [0.7, -0.7])
@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (4, 2)])
def test_zero_is_a_point_where_it_determines_the_layers(c, shape):
    """Of two layers the one that turns with the row or the column space must go to zero."""
    metric, P = DeepLinearMetric(2, c), np.ones(shape)
    m, n = shape
    if m == n or (m < n) == (c > 0):
        np.testing.assert_allclose(metric.sharp(0 * P, P), 0.7 * P, rtol=1e-15)
        np.testing.assert_allclose(metric.flat(0 * P, P), P / 0.7, rtol=1e-15)
        small = 1e-9 * P
        X = metric.sharp_derivative(0 * P, P, P)
        np.testing.assert_allclose(
            X, (metric.sharp(small, P) - metric.sharp(0 * P, P)) / 1e-9, rtol=0, atol=1e-6
        )
    else:
        with pytest.raises(ValueError, match="W must have full rank under the kernel"):
            metric.sharp(0 * P, P)


def test_the_rank_is_kept_where_two_layers_go_to_zero():
    expected = {(2, 1.0): False, (3, (0.0, 1.0)): True, (3, (1.0, 1.0)): False, (2, 0.0): True}
    for (depth, imbalance), keeps in expected.items():
        metric = DeepLinearMetric(depth, imbalance)
        assert metric.keeps_rank is keeps
        assert SpectralMetric(metric.kernel).keeps_rank is keeps  # as seen from the values
        assert metric.ends_at_lower_rank is keeps
    assert DeepLinearMetric(2, 1.0).changes_determinant_sign
    assert not DeepLinearMetric(3, [0.0, 1.0]).changes_determinant_sign
    assert DeepLinearMetric(4, [0.0, 0.0, 1.0]).changes_determinant_sign


@pytest.mark.parametrize("imbalance", [(2, 0.8), (3, [0.4, -0.9])])
def test_geodesics_of_one_singular_value(imbalance):
    """A 1 x 1 matrix w has the length of dw / theta(w, w)^{1/2}, through zero too."""
    metric = DeepLinearMetric(*imbalance)

    def speed(w):
        return float(metric.kernel(np.float64(abs(w)), np.float64(abs(w)))) ** -0.5

    length = quad(speed, -0.4, 1.5, points=[0.0])[0]
    geodesic = riemdln.geodesics.geodesic_between(metric, [[-0.4]], [[1.5]])
    np.testing.assert_allclose(geodesic.length, length, rtol=1e-8)


def test_geodesics_are_found_and_have_constant_speed(rng):
    metric = DeepLinearMetric(2, 0.8)
    W_a, W_b = rng.standard_normal((2, 2, 3))
    geodesic = riemdln.geodesics.geodesic_between(metric, W_a, W_b)
    reached = riemdln.geodesics.exponential(metric, W_a, geodesic.velocities[0])
    np.testing.assert_allclose(reached, W_b, rtol=0, atol=1e-7)
    speeds = [
        metric.inner(W, X, X) ** 0.5
        for W, X in zip(geodesic.points, geodesic.velocities, strict=True)
    ]
    np.testing.assert_allclose(speeds, geodesic.length, rtol=1e-7)


def test_brownian_motion_has_the_mean_of_its_laplacian(rng):
    metric, W = DeepLinearMetric(2, 0.8), np.array([[1.0, 0.2], [-0.3, 0.7]])
    time, count = 0.02, 10_000
    flow = riemdln.langevin_flow(
        FullRank(2, 2, metric),
        np.broadcast_to(W, (count, 2, 2)),
        [0.0, time],
        beta=1.0,
        entropy=False,
        step_size=time / 2,
        rng=3,
    )
    # The generator is the Laplacian: the mean moves by it, up to terms of the order of time^2.
    drift = (np.mean(flow.points[-1], axis=0) - W) / time
    noise = np.std(flow.points[-1], axis=0) / count**0.5 / time
    error = np.abs(drift - metric.coordinate_laplacian(W))
    assert np.all(error < 5 * noise + 2 * time)


def test_at_fixed_rank(rng):
    metric, layers = DeepLinearMetric(3, [0.4, 0.9]), rng.standard_normal((4, 2))
    U, V = np.linalg.qr(layers)[0], np.linalg.qr(rng.standard_normal((3, 2)))[0]
    point = (U, np.array([1.5, 0.4]), V.T)
    hidden = balanced_layers(point, 3, imbalance=[0.4, 0.9])
    assert [layer.shape for layer in hidden] == [(2, 3), (2, 2), (4, 2)]
    P = rng.standard_normal((4, 3))
    manifold = FixedRank(4, 3, 2, metric)
    gradient = manifold.euclidean_to_riemannian_gradient(point, P)
    left, middle, right = manifold.embedding(point, gradient)
    np.testing.assert_allclose(left @ middle @ right.T, velocity(hidden, P), rtol=0, atol=1e-13)
    # The derivative against differences of explicit layers along matrices of this rank.
    W, Z = U * point[1] @ V.T, rng.standard_normal((4, 3))

    def tangent(Z):
        return Z - (np.eye(4) - U @ U.T) @ Z @ (np.eye(3) - V @ V.T)

    def moved(h):
        u, s, vt = np.linalg.svd(W + h * tangent(Z), full_matrices=False)
        nearest = (u[:, :2], s[:2], vt[:2])
        return velocity(balanced_layers(nearest, 3, imbalance=[0.4, 0.9]), P)

    np.testing.assert_allclose(
        metric.at(W, rank=2).sharp_derivative(tangent(Z), P),
        tangent(moved(1e-5) - moved(-1e-5)) / 2e-5,
        rtol=0,
        atol=1e-8,
    )


def test_sums_and_transposes_keep_the_edges(rng):
    kernel = DeepLinearMetric(3, [0.4, -0.9]).kernel
    metric = SpectralMetric(0.5 * kernel + 0.1)
    for W, P in (rng.standard_normal((2, 2, 4)), rng.standard_normal((2, 4, 2))):
        expected = 0.5 * SpectralMetric(kernel).sharp(W, P) + 0.1 * P
        np.testing.assert_allclose(metric.sharp(W, P), expected, rtol=0, atol=1e-14)
        transposed = SpectralMetric(metric.kernel.transpose)
        np.testing.assert_allclose(
            transposed.sharp(W.T, P.T), metric.sharp(W, P).T, rtol=0, atol=1e-14
        )
        X = rng.standard_normal(W.shape)
        np.testing.assert_allclose(
            metric.sharp_derivative(W, X, P),
            (metric.sharp(W + 1e-6 * X, P) - metric.sharp(W - 1e-6 * X, P)) / 2e-6,
            rtol=0,
            atol=1e-7,
        )


def test_a_kernel_of_ones_own_may_have_edges(rng):
    reference = ImbalancedKernel([-1.0])

    class Own(Kernel):
        def __init__(self, reference):
            self.reference = reference

        def __call__(self, s, t):
            return self.reference(s, t)

        def edge(self, s):
            return self.reference.edge(s)

        def edge_difference(self, a, b):
            return self.reference.edge_difference(a, b)

        def difference_from_edge(self, a, t):
            return self.reference.difference_from_edge(a, t)

        @property
        def transpose(self):
            return Own(self.reference.transpose)

    metric, expected = SpectralMetric(Own(reference)), SpectralMetric(reference)
    for shape in [(2, 3), (3, 2)]:
        W, X, P = rng.standard_normal((3, *shape))
        np.testing.assert_array_equal(metric.sharp(W, P), expected.sharp(W, P))
        np.testing.assert_allclose(
            metric.sharp_derivative(W, X, P),
            expected.sharp_derivative(W, X, P),
            rtol=0,
            atol=1e-7,  # of numerical divided differences
        )
    with pytest.raises(
        TypeError, match="^Half has edges of its own, so that it must define edge_d"
    ):

        class Half(Kernel):
            def edge(self, s):
                return s


def test_positive_definite_matrices_take_an_imbalance():
    manifold = PositiveDefinite(2, DeepLinearMetric(2, 0.5))
    target = np.array([[2.0, 0.5], [0.5, 1.0]])
    flow = gradient_flow(fit(manifold, target), np.eye(2), [0.0, 20.0])
    np.testing.assert_allclose(flow.points[-1], target, rtol=0, atol=1e-7)


def test_metrics_with_an_imbalance_are_pickled_and_printed():
    metric = DeepLinearMetric(3, [0.5, -1.0])
    assert repr(metric) == "DeepLinearMetric(depth=3, imbalance=(0.5, -1.0))"
    copied = pickle.loads(pickle.dumps(metric))
    assert copied.imbalance == (0.5, -1.0)
    assert copied.depth == 3
    assert DeepLinearMetric(3).imbalance == 0.0
    assert DeepLinearMetric(3).is_balanced
    assert not metric.is_balanced
    assert DeepLinearMetric(3, DeepLinearMetric(3).imbalance).is_balanced
    np.testing.assert_array_equal(
        copied.kernel(1.0, np.array([2.0])), metric.kernel(1.0, np.array([2.0]))
    )


@pytest.mark.parametrize(
    ("depth", "imbalance", "error", "message"),
    [
        (2.5, 1.0, ValueError, "^depth must be a whole number where layers are not balanced"),
        (math.inf, 1.0, ValueError, "^depth must be a whole number where layers are not balanced"),
        (3, [1.0], ValueError, r"^imbalance must be a number or depth - 1 = 2 of them"),
        (3, [1.0, 2.0, 3.0], ValueError, r"^imbalance must be a number or depth - 1 = 2 of them"),
        (1, 1.0, ValueError, r"^imbalance must be a number or depth - 1 = 0 of them"),
        (3, [[1.0, 2.0]], ValueError, r"^imbalance must be a number or depth - 1 = 2 of them"),
        (3, [1.0, np.nan], ValueError, "^imbalance must be finite"),
        (3, "balanced", TypeError, "^imbalance must be an array of real numbers"),
        (2, 1j, ValueError, "^imbalance must be real"),
        (0, 1.0, ValueError, "^depth must be"),
    ],
)
def test_refuses_what_is_no_imbalance(depth, imbalance, error, message):
    with pytest.raises(error, match=message):
        DeepLinearMetric(depth, imbalance)
    if depth in (1, 2, 3):
        with pytest.raises(error, match=message):
            balanced_layers(np.eye(2), depth, imbalance)


def test_kernels_from_an_increasing_function():
    s = np.array([[0.0], [1e-150], [1e-9], [1.0], [1 + 1e-9]])
    t = np.array([0.0, 1e-9, 1.0, 1.04, 3.0])
    for kernel, depth in (
        (LoewnerKernel(np.cbrt, lambda x: x ** (-2 / 3) / 3), 3),
        (LoewnerKernel(np.log, lambda x: 1 / x), math.inf),
    ):
        expected = DeepLinearKernel(depth)(s, t)
        np.testing.assert_allclose(kernel(s, t), expected, rtol=1e-12)
        assert kernel(np.zeros(1), np.zeros(1)) == 0
        assert kernel(np.array([1e-160]), np.zeros(1)) == 0  # whose square underflows


def test_the_flow_of_ones_own_function_moves_it(rng):
    """d/dt phi(W W^T) = -(G W^T + W G^T), for phi = x + arctan(x)."""
    kernel = LoewnerKernel(lambda x: x + np.arctan(x), lambda x: 1 + 1 / (1 + x**2))
    metric, W, G = SpectralMetric(kernel), *rng.standard_normal((2, 3, 3))

    def phi(W):
        squares, U = np.linalg.eigh(W @ W.T)
        return (U * (squares + np.arctan(squares))) @ U.T

    h, Z = 1e-5, metric.sharp(W, G)
    rate = (phi(W - h * Z) - phi(W + h * Z)) / (2 * h)
    np.testing.assert_allclose(rate, -(G @ W.T + W @ G.T), rtol=0, atol=1e-8)
    check = check_metric(metric, 3, 2, rng=0)
    assert check.derivative < 1e-7
    assert check.adjoint < 1e-10


def test_refuses_what_is_no_increasing_function():
    with pytest.raises(TypeError, match="^function must be a function of squares"):
        LoewnerKernel(2.0, np.cos)
    with pytest.raises(TypeError, match="^derivative must be a function of squares"):
        LoewnerKernel(np.sin, None)
    with pytest.raises(ValueError, match="^function must increase, got one with the slopes"):
        LoewnerKernel(lambda x: -x, lambda x: -1.0 + 0 * x)
    with pytest.raises(ValueError, match="^derivative must be that of function"):
        LoewnerKernel(lambda x: x + np.log1p(x), lambda x: 1 + x)


@pytest.mark.parametrize(
    ("differences", "offsets"),
    [
        ([1e-4, 1e12], [0.0, 1e-4, 1e12]),
        ([1e12, -2e12, 1e-5], [1e12, 2e12, 0.0, 1e-5]),
        ([1e-12, 1e4], [0.0, 1e-12, 1e4]),
        ([-1e4, -1e-12], [1e4, 1e-12, 0.0]),
        ([-1e17, -1.0], [1e17, 1.0, 0.0]),
        ([0.1, 0.2, -0.3], [0.0, 0.1, 0.3, 0.0]),
        ([0.3, -0.1, -0.2], [0.0, 0.3, 0.2, 0.0]),
        ([1e-7, 1e8, -1e8], [0.0, 1e-7, 1e8, 1e-7]),
        ([1e8, -1e8, 1e-7], [0.0, 1e8, 0.0, 1e-7]),
        ([1e8, -1e8, 1e-20], [0.0, 1e8, 0.0, 1e-20]),
        ([-1e8, 1e8, -1e-7], [1e8, 0.0, 1e8, 1e8]),
    ],
)
def test_small_differences_stand_beside_large_ones(differences, offsets):
    """The singular values of layers of a singular value of zero are the roots of the c_j."""
    own = ImbalancedKernel(differences).layer_singular_values(np.zeros(1))
    np.testing.assert_allclose(np.concatenate(own) ** 2, offsets, rtol=1e-12)
    reverse = [-difference for difference in differences[::-1]]
    own = ImbalancedKernel(reverse).layer_singular_values(np.zeros(1))
    np.testing.assert_allclose(np.concatenate(own) ** 2, offsets[::-1], rtol=1e-12)


@pytest.mark.parametrize(
    ("differences", "c"),
    [
        ([1e-7, 1e8, -1e8], [0.0, 1e-7, 1e8, 1e-7]),
        ([1e8, -1e8, 1e-7], [0.0, 1e8, 0.0, 1e-7]),
        ([1e4, -1e4, 1e-12], [0.0, 1e4, 0.0, 1e-12]),
    ],
)
@pytest.mark.parametrize("s", [1e-2, 1e-6, 1e-12])
def test_the_kernel_of_small_differences_beside_large_ones(differences, c, s):
    metric = DeepLinearMetric(4, differences)
    assert metric.keeps_rank == (c.count(0.0) > 1)
    with mpmath.workdps(60):  # the derivative of the product of all x + c_j
        x = exact_square(c, s)
        exact = sum(product([c_k for k, c_k in enumerate(c) if k != j], x) for j in range(4))
    for kernel in (metric.kernel, metric.kernel.transpose):
        assert float(kernel(np.float64(s), np.float64(s))) == pytest.approx(float(exact), rel=1e-13)


def test_an_imbalance_out_of_range_is_refused():
    with pytest.raises(ValueError, match="^imbalance must be finite"):
        DeepLinearMetric(3, 1e308)
