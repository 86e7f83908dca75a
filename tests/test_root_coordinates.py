"""The roots that geodesics of g^N move, against the matrices and arithmetic of sixty digits."""

import math

import mpmath
import numpy as np
import pytest
import scipy.linalg

from riemdln import DeepLinearMetric
from riemdln.metrics._geodesic_coordinates import RootCoordinates
from tests.conftest import (
    dense_cometric,
    derivative,
    random_matrix,
    sharp_by_powers,
    sharp_by_quadrature,
)

SHAPES = [(3, 3), (2, 4), (4, 2), (1, 3)]
SPECTRA = {
    "generic": np.array([2.0, 1.1, 0.5, 0.4]),
    "equal": np.array([0.7, 0.7, 0.7, 0.7]),
    "near": 0.7 * (1 + 1e-7 * np.arange(4)),
}

# Finite depths, and infinite depth with matrices whose logarithms go over little and over much.
COORDINATES = {
    "1.5": (1.5, 0.0),
    "2": (2, 0.0),
    "3": (3, 0.0),
    "64": (64, 0.0),
    "infinite": (math.inf, 1.0),
    "infinite, far": (math.inf, 60.0),
}


def cases(names=COORDINATES, shapes=SHAPES):
    return [
        pytest.param(m, n, *COORDINATES[name], id=f"{m}x{n}-{name}")
        for m, n in shapes
        for name in names
        if m == n or not name.startswith("infinite")
    ]


def unit_and_order(coordinates, depth):
    """Of lambda = u s^{1/M}, u and M."""
    if math.isinf(depth):
        return coordinates.order, coordinates.order
    return math.sqrt(depth), depth


def roots_by_powers(W, unit, order):
    """Q H^{1/M} of the polar decomposition W = Q H."""
    if W.shape[0] < W.shape[1]:
        return roots_by_powers(W.T, unit, order).T
    Q, H = scipy.linalg.polar(W)
    return unit * Q @ scipy.linalg.fractional_matrix_power(H, 1 / order)


def dense(function, m, n):
    """The matrix of a linear map on m x n matrices."""
    return dense_cometric(function, m, n)


@pytest.mark.parametrize(("m", "n", "depth", "log_range"), cases())
def test_states_are_roots_of_polar_factors(rng, m, n, depth, log_range):
    coordinates = RootCoordinates(depth, log_range, None)
    W = rng.standard_normal((m, n))
    R = coordinates.states(W)
    expected = roots_by_powers(W, *unit_and_order(coordinates, depth))
    np.testing.assert_allclose(R, expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())
    np.testing.assert_allclose(coordinates.points(R), W, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        coordinates.singular_values(R), np.linalg.svd(W, compute_uv=False), rtol=1e-11
    )


def test_states_hold_singular_values_that_matrices_lose(rng):
    s = np.array([1.0, 1e-40, 1e-100])
    R = random_matrix(rng, 3, 3, 3**0.5 * s ** (1 / 3))
    held = RootCoordinates(3, 0.0, None).singular_values(R)
    np.testing.assert_allclose(held[:2], s[:2], rtol=1e-1)
    R = np.diag(3**0.5 * s ** (1 / 3))
    np.testing.assert_allclose(RootCoordinates(3, 0.0, None).singular_values(R), s, rtol=1e-12)


def test_at_infinite_depth_roots_are_nearly_linear_in_logarithms():
    # The steps of the state between powers of ten are equal up to the share of the range in it.
    for log_range in (1.0, 20.0, 700.0):
        coordinates = RootCoordinates(math.inf, log_range, None)
        logs = np.linspace(-log_range / 2, log_range / 2, 9)
        R = np.array([coordinates.states(np.exp(log) * np.eye(1))[0, 0] for log in logs])
        slopes = np.diff(R) / np.diff(logs)
        assert np.all(np.abs(slopes - 1) < 0.3)


@pytest.mark.parametrize(("m", "n", "depth", "log_range"), cases())
def test_velocities_of_states_are_derivatives_of_states(rng, m, n, depth, log_range):
    coordinates = RootCoordinates(depth, log_range, None)
    W, X = random_matrix(rng, m, n, SPECTRA["generic"][: min(m, n)]), rng.standard_normal((m, n))
    expected = derivative(
        lambda h: roots_by_powers(W + h * X, *unit_and_order(coordinates, depth)), 1e-3
    )
    R = coordinates.states(W)
    moved = coordinates.to_states(R, X)
    np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-9 * np.abs(expected).max())
    np.testing.assert_allclose(coordinates.to_points(R, moved), X, rtol=0, atol=1e-12)


def test_velocities_at_equal_and_at_tiny_singular_values():
    # Of W = diag(s) with s' = x, and of the rotation by t of it, the states move as the roots say.
    coordinates = RootCoordinates(3, 0.0, None)
    s, x, J = np.array([1.0, 1e-20]), np.array([2.0, 3e-20]), np.array([[0.0, -1.0], [1.0, 0.0]])
    roots = 3**0.5 * s ** (1 / 3)
    R = np.diag(roots)
    moved = coordinates.to_states(R, np.diag(x))
    np.testing.assert_allclose(np.diag(moved), roots * x / s / 3, rtol=1e-12)
    np.testing.assert_allclose(coordinates.to_states(R, J * s), J * roots, rtol=1e-12, atol=1e-14)
    equal = 2.0 * np.eye(2)
    R = coordinates.states(equal)
    np.testing.assert_allclose(coordinates.to_states(R, J @ equal), J @ R, rtol=1e-12, atol=1e-14)
    X = np.array([[0.0, 1.0], [1.0, 0.0]])  # exp(tX) 2, whose roots are those of exp(tX / 3)
    np.testing.assert_allclose(coordinates.to_states(R, 2 * X), X / 3 * R[0, 0], rtol=1e-12)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize(("m", "n", "depth", "log_range"), cases(["2", "3", "infinite"]))
def test_the_cometric_of_states_is_that_of_matrices(rng, m, n, depth, log_range, spectrum):
    coordinates = RootCoordinates(depth, log_range, None)
    W = random_matrix(rng, m, n, SPECTRA[spectrum][: min(m, n)])
    R = coordinates.states(W)
    at = coordinates.at(R)
    J = dense(lambda X: coordinates.to_points(R, X), m, n)
    if math.isinf(depth):
        expected = dense(lambda P: sharp_by_quadrature(W, P), m, n)
    else:
        expected = dense(lambda P: sharp_by_powers(W, P, depth), m, n)
    cometric = dense(at.sharp, m, n)
    np.testing.assert_allclose(J @ cometric @ J.T, expected, rtol=0, atol=1e-12 * expected.max())
    np.testing.assert_allclose(dense(at.flat, m, n) @ cometric, np.eye(m * n), rtol=0, atol=1e-12)
    X, Y = rng.standard_normal((2, m, n))
    product = X.ravel() @ np.linalg.solve(cometric, Y.ravel())
    assert at.inner(X, Y) == pytest.approx(product, rel=1e-11)


@pytest.mark.parametrize(("m", "n", "depth", "log_range"), cases())
def test_inner_products_of_states_are_those_of_matrices(rng, m, n, depth, log_range):
    coordinates, metric = RootCoordinates(depth, log_range, None), DeepLinearMetric(depth)
    W = rng.standard_normal((5, m, n))
    X, Y = rng.standard_normal((2, 5, m, n))
    R = coordinates.states(W)
    actual = coordinates.at(R).inner(coordinates.to_states(R, X), coordinates.to_states(R, Y))
    np.testing.assert_allclose(actual, metric.inner(W, X, Y), rtol=1e-9)


@pytest.mark.parametrize(("m", "n"), [(4, 3), (3, 4), (3, 3)])
@pytest.mark.parametrize("depth", [2, 3])
def test_the_cometric_of_states_of_lower_rank(rng, m, n, depth):
    coordinates = RootCoordinates(depth, 0.0, 2)
    W = random_matrix(rng, m, n, [1.5, 0.6, 0.0])
    R = coordinates.states(W)
    J = dense(lambda X: coordinates.to_points(R, X), m, n)
    expected = dense(lambda P: sharp_by_powers(W, P, depth), m, n)
    actual = J @ dense(coordinates.at(R).sharp, m, n) @ J.T
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12 * expected.max())
    X, Y = rng.standard_normal((2, m, m)) @ W + W @ rng.standard_normal((2, n, n))  # tangent
    product = X.ravel() @ np.linalg.pinv(expected, rcond=1e-12) @ Y.ravel()
    velocities = [coordinates.to_states(R, V) for V in (X, Y)]
    assert coordinates.at(R).inner(*velocities) == pytest.approx(product, rel=1e-10)
    # What leaves both spaces leads to a higher rank, and no gradient moves it.
    U, _, Vt = np.linalg.svd(W)
    leaving = np.outer(U[:, -1], Vt[-1])
    np.testing.assert_allclose(coordinates.at(R).flat(leaving), 0, rtol=0, atol=1e-12)


def exact_sharp(R, P, depth, order):
    """The cometric of states in 60 digits: that of matrices, and the map from roots to them."""
    U, roots, Vt = mpmath.svd_r(R, full_matrices=False)
    r = len(roots)
    unit = mpmath.mpf(order) if math.isinf(depth) else mpmath.sqrt(depth)
    s = [(root / unit) ** order for root in roots]

    def theta(i, j):
        if math.isinf(depth):
            if s[i] == s[j]:
                return s[i] ** 2
            return (s[i] ** 2 - s[j] ** 2) / (2 * mpmath.log(s[i] / s[j]))
        N = mpmath.mpf(depth)
        return sum(
            s[i] ** (2 * (N - k) / N) * s[j] ** (2 * (k - 1) / N) for k in range(1, depth + 1)
        )

    def steepness(i, j):
        """(s_i - s_j) / (lambda_i - lambda_j) of s = (lambda / u)^M, without a quotient."""
        return sum(roots[i] ** k * roots[j] ** (order - 1 - k) for k in range(order)) / unit**order

    inside, symmetric = U.T * P * Vt.T, mpmath.zeros(r, r)
    for i in range(r):
        for j in range(r):
            even, odd = inside[i, j] + inside[j, i], inside[i, j] - inside[j, i]
            turning = (s[i] + s[j]) / (roots[i] + roots[j])
            symmetric[i, j] = theta(i, j) / 2 * (even / steepness(i, j) ** 2 + odd / turning**2)
    outside = P - U * inside * Vt
    # s^{2 - 2/N} of what leaves one space, which moves there as s / lambda times its state.
    return U * symmetric * Vt + (depth * outside if U.rows != Vt.cols else 0 * outside)


def exact_adjoint(R, p, q, depth, order):
    """Xi(p, q) by central differences with steps of 1e-20."""
    h, (m, n) = mpmath.mpf(10) ** -20, R.shape
    R, p, q = (mpmath.matrix(M.tolist()) for M in (R, p, q))
    Xi = np.zeros((m, n))
    for i in range(m):
        for j in range(n):
            change = mpmath.zeros(m, n)
            change[i, j] = h
            ahead, behind = (exact_sharp(R + k * change, q, depth, order) for k in (1, -1))
            slope = (ahead - behind) / (2 * h)
            Xi[i, j] = float(sum(a * b for a, b in zip(p, slope, strict=True)))
    return Xi


DISTANCES = [0.0, 1e-12, 1e-10, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3]


ROOTS = [
    *([1.3, 0.7 * (1 + distance), 0.7] for distance in DISTANCES),
    [1.0, 1e-4, 1e-8],
    [1.0, 1e-8, 1e-8 * (1 - 1e-9)],
]


@pytest.mark.parametrize(
    ("roots", "depth"),
    [
        *((roots, depth) for roots in ROOTS for depth in (2, 3, math.inf)),
        ([2.0, 1.0], 2),  # 3 x 2
        ([2.0, 1.0], 3),
    ],
    ids=str,
)
def test_the_cometric_and_its_derivatives_in_high_precision(rng, roots, depth):
    coordinates = RootCoordinates(depth, 1.0, None)
    order = 8 if math.isinf(depth) else depth
    assert coordinates.order == order
    R = np.zeros((3, len(roots)))
    np.fill_diagonal(R, roots)
    p, q = rng.standard_normal((2, *R.shape))
    if math.isinf(depth):  # of relative accuracy where the cometric goes to zero
        scales = 1 / np.array(roots)
        p, q = p * np.minimum.outer(scales, scales), q * np.minimum.outer(scales, scales)
    at = coordinates.at(R)
    with mpmath.workdps(60):
        P = mpmath.matrix(q.tolist())
        expected = exact_sharp(mpmath.matrix(R.tolist()), P, depth, order)
        expected = np.array(expected.tolist(), dtype=float)
        Xi = exact_adjoint(R, p, q, depth, order)
    np.testing.assert_allclose(at.sharp(q), expected, rtol=1e-12, atol=1e-14)
    actual = at.sharp_derivative_adjoint(p, q)
    np.testing.assert_allclose(actual, Xi, rtol=1e-8, atol=2e-9 * np.abs(Xi).max())


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize(("m", "n", "depth", "log_range"), cases())
def test_christoffel_symbols_obey_the_law_of_transformation(rng, m, n, depth, log_range, spectrum):
    # W = f(R) has Gamma_W(DfX, DfY) = Df Gamma_R(X, Y) - D^2f(X, Y).
    coordinates, metric = RootCoordinates(depth, log_range, None), DeepLinearMetric(depth)
    W = random_matrix(rng, m, n, SPECTRA[spectrum][: min(m, n)])
    R = coordinates.states(W)
    X, Y = (coordinates.to_states(R, V) for V in rng.standard_normal((2, m, n)))
    bend = derivative(lambda h: coordinates.to_points(R + h * X, Y), 1e-3)
    gamma = coordinates.at(R).christoffel(X, Y)
    actual = coordinates.to_points(R, gamma) - bend
    expected = metric.christoffel(W, coordinates.to_points(R, X), coordinates.to_points(R, Y))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-8 * np.abs(expected).max())
    # Of one vector twice, which is computed once.
    twice = coordinates.at(R).christoffel(X, X)
    np.testing.assert_allclose(twice, coordinates.at(R).christoffel(X, X.copy()), atol=1e-12)
