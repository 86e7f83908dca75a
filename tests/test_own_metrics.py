"""Metrics of one's own: what `Metric` makes of `sharp` alone, and the constant metric."""

import autograd.numpy as anp
import numpy as np
import pymanopt
import pytest
import scipy.linalg
from pymanopt.optimizers import SteepestDescent, TrustRegions

from riemdln import (
    DeepLinearMetric,
    FixedStep,
    FullRank,
    GeodesicError,
    KroneckerMetric,
    Metric,
)
from riemdln.checks import CheckError, check_hessian, check_metric
from riemdln.geodesics import geodesic
from tests.conftest import random_matrix


class SumOverLayers(Metric):
    """g^N by automatic differentiation of equation (1), on wide or square matrices of full rank."""

    def __init__(self, depth):
        self.depth = depth

    def sharp(self, W, P):
        N = self.depth
        values, vectors = anp.linalg.eigh(anp.dot(W, W.T))

        def left(exponent):
            return anp.dot(vectors * values**exponent, vectors.T)

        def times_right(exponent):  # P (W^T W)^e = P W^T (W W^T)^{e-1} W
            return anp.dot(anp.dot(anp.dot(P, W.T), left(exponent - 1)), W)

        return sum(
            anp.dot(left((N - k) / N), times_right((k - 1) / N) if k > 1 else P)
            for k in range(1, N + 1)
        )


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(("m", "n"), [(3, 3), (2, 4), (1, 3)])
def test_the_generic_path_agrees_with_the_closed_form(rng, m, n, depth):
    W = random_matrix(rng, m, n, np.linspace(2.0, 0.8, m))
    X, Y, P, Q = rng.standard_normal((4, m, n))
    generic, closed = SumOverLayers(depth), DeepLinearMetric(depth)
    for name, arguments in {
        "flat": (X,),
        "inner": (X, Y),
        "sharp_derivative": (X, P),
        "sharp_derivative_adjoint": (P, Q),
        "christoffel": (X, Y),
    }.items():
        actual = getattr(generic, name)(W, *arguments)
        np.testing.assert_allclose(actual, getattr(closed, name)(W, *arguments), atol=1e-8)
    np.testing.assert_allclose(
        generic.at(W).hessian(P, Q, X), closed.at(W).hessian(P, Q, X), atol=1e-8
    )


def test_the_generic_path_has_geodesics(rng):
    W_a, W_b = np.array([[1.0, 0.0], [1.05, 0.02]])[:, None, :]
    generic = FullRank(1, 2, SumOverLayers(2))
    closed = FullRank(1, 2, DeepLinearMetric(2))
    np.testing.assert_allclose(generic.log(W_a, W_b), closed.log(W_a, W_b), atol=1e-7)
    X = 0.1 * rng.standard_normal((1, 2))
    np.testing.assert_allclose(generic.exp(W_a, X), closed.exp(W_a, X), atol=1e-8)


class Weighted(Metric):
    """A(P) = (1 + W^2) P entrywise, a product of lines with arc length asinh(w)."""

    def sharp(self, W, P):
        return (1 + W**2) * P


def test_a_product_of_lines(rng):
    manifold = FullRank(2, 3, Weighted())
    a, b = rng.standard_normal((2, 2, 3))
    expected = np.linalg.norm(np.arcsinh(b) - np.arcsinh(a))
    assert manifold.dist(a, b) == pytest.approx(expected, rel=1e-7)
    middle = np.sinh((np.arcsinh(a) + np.arcsinh(b)) / 2)
    np.testing.assert_allclose(manifold.pair_mean(a, b), middle, atol=1e-6)
    assert manifold.dist(0 * a, b) == pytest.approx(np.linalg.norm(np.arcsinh(b)), rel=1e-7)
    check_metric(Weighted(), 2, 3, rng=0)

    @pymanopt.function.autograd(manifold)
    def cost(W):
        return anp.sum((W - b) ** 4) / 4 + anp.sum((W - b) ** 2) / 2

    problem = pymanopt.Problem(manifold, cost)
    assert check_hessian(problem, a).slope == pytest.approx(3, abs=0.1)
    result = TrustRegions(verbosity=0).run(problem, initial_point=a)
    np.testing.assert_allclose(result.point, b, atol=1e-6)


class Relative(Metric):
    """A(P) = P + W W^T P, on columns of two entries the hyperbolic plane."""

    def sharp(self, W, P):
        return P + W @ (W.T @ P)


class Flat(Metric):
    def sharp(self, W, P):
        return 1.0 * P


class Sphere(Metric):
    """The round sphere, seen from a pole: unit circles are great ones."""

    def sharp(self, W, P):
        return (1 + anp.sum(W**2)) ** 2 * P


def test_geodesics_start_from_zero_and_cross_lower_rank_where_the_metric_allows_it():
    line = FullRank(1, 1, Relative())
    assert line.exp([[0.0]], [[1.0]]) == pytest.approx(np.sinh(1))
    end = FullRank(2, 2, Flat()).exp(np.eye(2), np.diag([0.0, -2.0]))
    np.testing.assert_allclose(end, np.diag([1.0, -1.0]), atol=1e-12)


def test_long_geodesics_take_more_evaluations_when_asked_to():
    W, X = np.array([[1.0, 0.0]]), np.array([[0.0, 2.0]])
    with pytest.raises(GeodesicError, match="which took 500 evaluations"):
        geodesic(Sphere(), W, X, [0, 50.0], max_evaluations=500)
    end = geodesic(Sphere(), W, X, [0, 5.0]).points[-1]
    np.testing.assert_allclose(end, [[np.cos(10), np.sin(10)]], atol=1e-8)


def test_a_sharp_in_plain_numpy_is_found_out(rng):
    class Plain(Metric):
        def sharp(self, W, P):
            return (1 + np.asarray(W) ** 2) * P

    W, X, P = rng.standard_normal((3, 2, 2))
    with pytest.raises(TypeError, match=r"must be written in autograd\.numpy"):
        Plain().sharp_derivative(W, X, P)


class Indefinite(Metric):
    def sharp(self, W, P):
        return P * np.where(np.arange(P.size).reshape(P.shape) % 3, 1.0, -1.0)


class Skew(Metric):
    def sharp(self, W, P):
        return P + np.roll(P, 1)


class WrongInverse(Weighted):
    def flat(self, W, Z):
        return Z


class WrongInner(Weighted):
    def inner(self, W, X, Y):
        return 2 * super().inner(W, X, Y)


class WrongDerivative(Weighted):
    def sharp_derivative(self, W, X, p):
        return 3.0 * W * X * p


class Asymmetric(Weighted):
    def christoffel(self, W, X, Y):
        return super().christoffel(W, X, Y) + np.roll(X, 1) * Y


class WrongAdjoint(Weighted):
    def sharp_derivative_adjoint(self, W, p, q):
        return W * p * q


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (Skew(), "not symmetric"),
        (WrongInverse(), "flat is not the inverse"),
        (WrongInner(), "inner is not the pairing"),
        (WrongDerivative(), "sharp_derivative is not the derivative"),
        (WrongAdjoint(), "not the adjoint"),
        (Asymmetric(), "christoffel is not symmetric"),
    ],
)
def test_check_metric_finds_what_is_wrong(metric, message):
    with pytest.raises(AssertionError, match=message):
        check_metric(metric, 2, 3, rng=0)


@pytest.mark.parametrize(("m", "n"), [(2, 3), (20, 20)])
def test_check_metric_finds_an_indefinite_metric(m, n):
    # A random covector sees but the mean of the eigenvalues, which is positive here.
    with pytest.raises(CheckError, match=r"positive definite: its least eigenvalue is -"):
        check_metric(Indefinite(), m, n, rng=0)


@pytest.mark.parametrize("depth", [1, 2, 8, np.inf])
def test_check_metric_passes_right_metrics_wherever_it_looks(depth):
    for seed in range(10):
        check = check_metric(DeepLinearMetric(depth), 9, 9, rng=seed)
        kappa = 16 if np.isinf(depth) else 4 ** (2 - 2 / depth)
        assert check.positivity == pytest.approx(1 / kappa, rel=1e-2)


def test_flat_says_where_conjugate_gradients_do_not_converge():
    class Singular(Metric):
        def sharp(self, W, P):
            return P * np.array([[1.0, 0.0]])

    with pytest.raises(np.linalg.LinAlgError, match="^flat did not converge"):
        Singular().flat(np.ones((1, 2)), np.ones((1, 2)))


class Diagonal(Metric):
    """A(P) = d P entrywise, with a weight of its own for each entry."""

    def __init__(self, weights):
        self.weights = weights

    def sharp(self, W, P):
        return self.weights * P


@pytest.mark.parametrize("condition", [1e2, 1e6, 1e12])
def test_flat_solves_what_has_a_solution(rng, condition):
    # The dense solver of small matrices: rows and columns of a diagonal do not disturb each other.
    weights, Z = np.geomspace(1, condition, 144).reshape(12, 12), rng.standard_normal((12, 12))
    actual = Diagonal(weights).flat(np.ones((12, 12)), Z)
    np.testing.assert_allclose(actual, Z / weights, rtol=1e-10)


def test_flat_of_large_matrices_solves_to_nearly_all_digits(rng):
    weights, Z = np.geomspace(1, 100, 1200).reshape(40, 30), rng.standard_normal((40, 30))
    Y = Diagonal(weights).flat(np.ones((40, 30)), Z)
    assert np.linalg.norm(weights * Y - Z) < 1e-12 * np.linalg.norm(Z)


class Rounded(Diagonal):
    """A cometric whose values have seven digits only."""

    def sharp(self, W, P):
        return super().sharp(W, P).astype(np.float32).astype(np.float64)


def test_flat_gives_nothing_that_does_not_solve_the_system(rng):
    weights, Z = np.geomspace(1, 100, 1200).reshape(40, 30), rng.standard_normal((40, 30))
    with pytest.raises(np.linalg.LinAlgError, match="^flat did not converge: the residual"):
        Rounded(weights).flat(np.ones((40, 30)), Z)


def test_flat_of_large_matrices_says_where_it_did_not_converge(rng):
    # So many eigenvalues of so many sizes are beyond conjugate gradients.
    weights, Z = np.geomspace(1, 1e14, 1200).reshape(40, 30), rng.standard_normal((40, 30))
    with pytest.raises(np.linalg.LinAlgError, match="^flat did not converge: the residual"):
        Diagonal(weights).flat(np.ones((40, 30)), Z)


class NearlySymmetric(Metric):
    """A(P) = P (I + a E) with one entry of E, whose symmetric part is I + a (E + E^T) / 2."""

    def __init__(self, asymmetry):
        self.factor = np.array([[1.0, asymmetry], [0.0, 1.0]])

    def sharp(self, W, P):
        return P @ self.factor


@pytest.mark.parametrize("method", ["flat", "root", "log_volume"])
def test_a_sharp_that_is_not_symmetric_is_found_out(method):
    W, vectors = np.eye(2), () if method == "log_volume" else (np.ones((2, 2)),)
    for asymmetry in (1e-7, np.nan):
        with pytest.raises(
            np.linalg.LinAlgError,
            match=f"sharp must be finite and symmetric, .* asymmetry is {asymmetry:.1e}",
        ):
            getattr(NearlySymmetric(asymmetry), method)(W, *vectors)
    # Rounding errors are none.
    expected = getattr(KroneckerMetric(W, W), method)(W, *vectors)
    actual = getattr(NearlySymmetric(1e-10), method)(W, *vectors)
    np.testing.assert_allclose(actual, expected, atol=1e-9)


def whitening(rng, m, n):
    roots = [rng.standard_normal((size, size)) for size in (m, n)]
    return [root @ root.T + np.eye(len(root)) for root in roots]


def test_kronecker_is_a_product_on_both_sides(rng):
    left, right = whitening(rng, 2, 3)
    metric = KroneckerMetric(left, right)
    W, X, Y, P = rng.standard_normal((4, 2, 3))
    np.testing.assert_allclose(metric.sharp(W, P), left @ P @ right)
    expected = np.linalg.solve(np.kron(left, right), X.ravel()).reshape(2, 3)
    np.testing.assert_allclose(metric.flat(W, X), expected, rtol=1e-9)
    np.testing.assert_array_equal(metric.christoffel(W, X, Y), np.zeros((2, 3)))
    manifold = FullRank(2, 3, metric)
    difference = np.sqrt(np.sum((Y - X) * metric.flat(W, Y - X)))
    assert manifold.dist(X, Y) == pytest.approx(difference)
    np.testing.assert_allclose(manifold.exp(W, X), W + X, atol=1e-13)
    check_metric(metric, 2, 3, rng=0)


def test_one_natural_gradient_step_solves_linear_regression(rng):
    inputs, outputs = (
        rng.standard_normal((50, 3)) * [1.0, 10.0, 100.0],
        rng.standard_normal((50, 2)),
    )
    covariance = inputs.T @ inputs / 50
    manifold = FullRank(2, 3, KroneckerMetric(np.eye(2), np.linalg.inv(covariance)))

    @pymanopt.function.autograd(manifold)
    def cost(W):
        return anp.mean(anp.sum((anp.dot(inputs, W.T) - outputs) ** 2, axis=1)) / 2

    optimizer = SteepestDescent(FixedStep(1.0), max_iterations=1, verbosity=0)
    result = optimizer.run(pymanopt.Problem(manifold, cost), initial_point=np.ones((2, 3)))
    expected = np.linalg.lstsq(inputs, outputs)[0].T
    np.testing.assert_allclose(result.point, expected, atol=1e-10)


@pytest.mark.parametrize(
    ("left", "message"),
    [
        (np.ones((2, 3)), "^left must be square"),
        (np.array([[1.0, 2.0], [0.0, 1.0]]), "^left must be symmetric"),
        (np.array([[1.0, 5e-3], [0.0, 1.0]]), "^left must be symmetric.* 5.0e-03"),
        (np.array([[1.0, 1e-7], [0.0, 1.0]]), "^left must be symmetric.* 1.0e-07"),
        (np.diag([1.0, -1.0]), "^left must be positive definite"),
        (scipy.linalg.hilbert(15), "^left must be positive definite to rounding error"),
        (np.diag([1.0, 1e-17]), "^left must be positive definite to rounding error"),
        (np.full((2, 2), np.nan), "^left must be finite"),
    ],
)
def test_kronecker_refuses_bad_factors(left, message):
    with pytest.raises(ValueError, match=message):
        KroneckerMetric(left, np.eye(2))


@pytest.mark.parametrize(("dtype", "asymmetry"), [(np.float64, 1e-9), (np.float32, 1e-4)])
def test_kronecker_takes_the_symmetric_part_of_an_almost_symmetric_factor(rng, dtype, asymmetry):
    """Computed inverses, of covariances say, are symmetric only to rounding errors."""
    Q = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    symmetric = Q * np.geomspace(1e-2, 1, 6) @ Q.T
    skew = np.triu(rng.choice([-1.0, 1.0], (6, 6)), 1)
    factor = symmetric + asymmetry / 2 * np.abs(symmetric).max() * (skew - skew.T)
    W, P = rng.standard_normal((2, 2, 6)).astype(dtype)
    computed = KroneckerMetric(np.eye(2), factor.astype(dtype)).sharp(W, P)
    np.testing.assert_allclose(computed, P @ symmetric, rtol=0, atol=30 * np.finfo(dtype).eps)


def test_kronecker_exists_on_one_shape_only():
    with pytest.raises(ValueError, match="^this metric exists on 2 x 3 matrices only, got 3 x 2"):
        FullRank(3, 2, KroneckerMetric(np.eye(2), np.eye(3)))
