"""Definitions that the tests hold the package against. They share no code with it."""

import numpy as np
import pymanopt
import pytest


def fit(manifold, target):
    """E = |W - T|^2 / 2."""
    plain = pymanopt.function.numpy(manifold)
    return pymanopt.Problem(
        manifold,
        plain(lambda W: np.sum((W - target) ** 2) / 2),
        euclidean_gradient=plain(lambda W: W - target),
        euclidean_hessian=plain(lambda W, X: X),
    )


def symmetric_power(S, exponent):
    """S^exponent of a symmetric positive semidefinite matrix, with S^0 = I."""
    if exponent == 0:
        return np.eye(len(S))
    values, vectors = np.linalg.eigh(S)
    # The zero eigenvalues of a W^T W come out as rounding errors, whose roots would not be small.
    values = np.where(values > 1e-13 * values[-1], values, 0.0)
    return (vectors * values**exponent) @ vectors.T


def sharp_by_powers(W, P, depth):
    """Equation (1): the sum over layers, by fractional powers of W W^T and W^T W."""
    return sum(
        symmetric_power(W @ W.T, (depth - k) / depth)
        @ P
        @ symmetric_power(W.T @ W, (k - 1) / depth)
        for k in range(1, depth + 1)
    )


def spectral_definition(squares, other_squares, depth):
    """Equation (3), from its quotient: the kernel on all pairs of squared singular values."""
    a, b = np.meshgrid(squares, other_squares, indexing="ij")
    close = np.abs(a - b) <= 1e-9 * np.maximum(a, b)
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = (a - b) / (a ** (1 / depth) - b ** (1 / depth))
    return np.where(close, depth * ((a + b) / 2) ** (1 - 1 / depth), quotient)


def sharp_by_quadrature(W, P, nodes=40):
    """The limit of equation (1) over N: the integral of (W W^T)^{1-u} P (W^T W)^u over [0, 1]."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    return sum(
        weight
        / 2
        * symmetric_power(W @ W.T, (1 - point) / 2)
        @ P
        @ symmetric_power(W.T @ W, (1 + point) / 2)
        for point, weight in zip(points, weights, strict=True)
    )


def dense_cometric(sharp, m, n):
    """The mn x mn matrix of a linear map on m x n matrices."""
    basis = np.eye(m * n).reshape(m * n, m, n)
    return np.array([sharp(E).ravel() for E in basis]).T


def derivative(function, h):
    """The derivative at 0 by central differences of sixth order."""
    return (
        sum(
            weight * (function(k * h) - function(-k * h))
            for k, weight in ((1, 3 / 4), (2, -3 / 20), (3, 1 / 60))
        )
        / h
    )


def random_matrix(rng, m, n, singular_values=None):
    """A random m x n matrix, of condition 50 unless its singular values are given."""
    r = min(m, n)
    if singular_values is None:
        singular_values = np.geomspace(5.0, 0.1, r)
    U = np.linalg.qr(rng.standard_normal((m, r)))[0]
    V = np.linalg.qr(rng.standard_normal((n, r)))[0]
    return U * np.asarray(singular_values) @ V.T


@pytest.fixture
def rng():
    return np.random.default_rng(0)
