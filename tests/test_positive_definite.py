"""Symmetric positive definite matrices, against Bures-Wasserstein and dense definitions."""

import math

import autograd.numpy as anp
import numpy as np
import pymanopt
import pytest
import scipy.linalg
from pymanopt.optimizers import ConjugateGradient, TrustRegions

from riemdln import DeepLinearMetric, KroneckerMetric, PositiveDefinite, SpectralMetric
from riemdln.checks import check_gradient, check_hessian, check_retraction
from riemdln.kernels import FunctionKernel


def square_root(A):
    return scipy.linalg.sqrtm(A).real


def quartic(manifold, target):
    @pymanopt.function.autograd(manifold)
    def cost(W):
        # Not symmetric in W: only the symmetric part of its gradient counts.
        return anp.sum((W - target) ** 4) / 4 + anp.sum((W - target) ** 2) / 2 + W[0, 1]

    return pymanopt.Problem(manifold, cost)


def test_depth_two_is_twice_bures_wasserstein(rng):
    manifold = PositiveDefinite(3, DeepLinearMetric(2), rng=rng)
    A, B = manifold.random_point(), manifold.random_point()
    root = square_root(A)
    squared = np.trace(A) + np.trace(B) - 2 * np.trace(square_root(root @ B @ root))
    assert manifold.dist(A, B) == pytest.approx(np.sqrt(2 * squared), rel=1e-6)
    np.testing.assert_allclose(manifold.exp(A, manifold.log(A, B)), B, atol=1e-6)
    X = manifold.random_tangent_vector(A)
    L = scipy.linalg.solve_sylvester(A, A, X)  # g(X, X) = Tr(L A L) of Bures-Wasserstein
    assert manifold.norm(A, X) == pytest.approx(np.sqrt(2 * np.trace(L @ A @ L)))
    assert manifold.norm(A, X) == pytest.approx(1)


@pytest.mark.parametrize("depth", [1, 2, 3, math.inf])
def test_gradients_hessians_and_steps(rng, depth):
    manifold = PositiveDefinite(3, DeepLinearMetric(depth), rng=1)
    problem = quartic(manifold, np.diag([2.0, 1.0, 0.5]))
    assert check_gradient(problem).slope == pytest.approx(2, abs=0.1)
    assert check_hessian(problem).slope == pytest.approx(3, abs=0.1)
    check_retraction(manifold)
    W, X = manifold.random_point(), manifold.random_tangent_vector(manifold.random_point())
    for length in (0.1, 1.0, 100.0):
        end = manifold.retraction(W, length * X)
        np.testing.assert_array_equal(end, end.T)
        assert np.linalg.eigvalsh(end)[0] > -1e-12 * np.linalg.norm(end)


@pytest.mark.parametrize("optimizer", [ConjugateGradient, TrustRegions])
@pytest.mark.parametrize("depth", [2, 3])
def test_optimizers_converge(optimizer, depth):
    manifold = PositiveDefinite(3, DeepLinearMetric(depth), rng=0)
    problem = quartic(manifold, np.diag([2.0, 1.0, 0.5]))
    result = optimizer(verbosity=0, min_gradient_norm=1e-8, max_iterations=500).run(problem)
    W = result.point
    # The symmetric part of the Euclidean gradient vanishes inside the manifold.
    gradient = (W - np.diag([2.0, 1.0, 0.5])) ** 3 + W - np.diag([2.0, 1.0, 0.5])
    gradient[0, 1] += 1
    np.testing.assert_allclose(gradient + gradient.T, np.zeros((3, 3)), atol=1e-6)
    assert np.linalg.eigvalsh(W)[0] > 0


def test_tangent_vectors_are_isotropic():
    manifold = PositiveDefinite(2, DeepLinearMetric(3), rng=0)
    W = np.diag([2.0, 0.2])
    draws = np.array([manifold.random_tangent_vector(W) for _ in range(4000)])
    basis = [np.diag([1.0, 0.0]), np.array([[0.0, 1.0], [1.0, 0.0]]), np.diag([0.0, 1.0])]
    covectors = np.array([manifold.flat(W, E / manifold.norm(W, E)) for E in basis])
    shares = np.mean(np.einsum("kij,eij->ke", draws, covectors) ** 2, axis=0)
    # The standard error of the mean of a squared coordinate on the sphere is 0.005.
    np.testing.assert_allclose(shares, 1 / 3, atol=0.02)


def test_refuses_what_does_not_fit():
    for metric in (
        KroneckerMetric(np.eye(2), np.eye(2)),
        SpectralMetric(FunctionKernel(lambda s, t: 1 + s)),
    ):
        with pytest.raises(TypeError, match="^metric must be a SpectralMetric with a symmetric"):
            PositiveDefinite(2, metric)
    manifold = PositiveDefinite(2, DeepLinearMetric(2))
    assert manifold.dim == 3
    with pytest.raises(ValueError, match="^point must be symmetric"):
        manifold.norm(np.array([[1.0, 0.5], [0.0, 1.0]]), np.eye(2))


def test_points_and_vectors_are_checked():
    manifold, one = PositiveDefinite(2, DeepLinearMetric(2)), np.eye(2)
    turned, indefinite = np.array([[1.0, 0.9], [-0.9, 1.0]]), np.diag([1.0, -1.0])
    for ask in (
        lambda W: manifold.norm(W, one),
        lambda W: manifold.exp(W, one),
        lambda W: manifold.dist(W, one),
        lambda W: manifold.retraction(W, one),
    ):
        with pytest.raises(ValueError, match="^point(_a)? must be symmetric"):
            ask(turned)
        with pytest.raises(ValueError, match="^point(_a)? must be positive definite"):
            ask(indefinite)
    with pytest.raises(ValueError, match="^tangent_vector must be symmetric"):
        manifold.norm(one, turned)


def test_single_precision_is_kept():
    manifold = PositiveDefinite(2, DeepLinearMetric(2), rng=0)
    assert manifold.random_tangent_vector(np.eye(2, dtype=np.float32)).dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_negative_eigenvalues_are_let_through_as_rounding_errors_only(rng, dtype):
    n, depth_2 = 30, DeepLinearMetric(2)
    manifold, Q = PositiveDefinite(n, depth_2), np.linalg.qr(rng.standard_normal((n, n)))[0]
    eps, X = np.finfo(dtype).eps, np.eye(n, dtype=dtype)
    for least, is_inside in ((1e-3, True), (0.0, True), (-2 * eps, True), (-1e-3, False)):
        W = (Q * [least, *np.geomspace(eps, 1.0, n - 1)] @ Q.T).astype(dtype)
        W = (W + W.T) / 2
        if is_inside:
            assert manifold.norm(W, X) > 0
        else:
            with pytest.raises(ValueError, match="^point must be positive definite, but its eig"):
                manifold.norm(W, X)


@pytest.mark.parametrize("depth", [1, 2])
def test_symmetry_is_asked_for_up_to_rounding_errors(depth):
    manifold, W = PositiveDefinite(2, DeepLinearMetric(depth)), np.array([[2.0, 1.0], [1.0, 3.0]])
    skew, turn = np.array([[0.0, 1.0], [-1.0, 0.0]]), np.array([[1.0, -1e-5], [1e-5, 1.0]])
    u, s, vt = np.linalg.svd(W)
    for off, is_symmetric in ((1e-12, True), (1e-5, False)):
        if is_symmetric:
            assert manifold.norm(W + off * skew, W) == pytest.approx(manifold.norm(W, W))
        else:
            with pytest.raises(ValueError, match="^point must be symmetric"):
                manifold.norm(W + off * skew, W)
    with pytest.raises(ValueError, match=r"^x must be a triple \(u, s, u\^T\)"):
        manifold.coordinates((u, s, vt @ turn), "x")
    # Of a stack each matrix is looked at.
    for bad, wrong in ((W + 1e-5 * skew, "symmetric"), (np.diag([1.0, -1.0]), "positive definite")):
        with pytest.raises(ValueError, match=f"^x must be {wrong}"):
            manifold.coordinates(np.stack([W, bad]), "x")
