"""Flows of two layers out of balance by a multiple of I, against their solution in closed form."""

import mpmath
import numpy as np
import pymanopt
import pytest

from riemdln import DeepLinearMetric, FullRank, network_flow

TIMES = [0.0, 0.3, 1.0, 4.0]


def solution(layers, target, times, digits=60):
    """The end-to-end matrices of layers with W_2^T W_2 - W_1 W_1^T = l I that learn a target.

    Let Q stack W_1^T and W_2, and K = [[-l I, 2 T^T], [2 T, l I]] / 2. The flow of the layers down
    |W_2 W_1 - T|^2 / 2 is dQ/dt = K Q - Q Q^T Q / 2, so that S = Q Q^T obeys Riccati's equation
    dS/dt = K S + S K - S^2 (Fukumizu 1998; Braun et al. 2022; Domine et al. 2024), of which
    S(t) = e^{Kt} Q_0 (I + Q_0^T int_0^t e^{2Ku} du Q_0)^{-1} Q_0^T e^{Kt} is the solution. W is its
    block below the diagonal.
    """
    first, second = layers
    (m, n), width = target.shape, len(first)
    difference = np.trace(second.T @ second - first @ first.T) / width
    K = (
        np.block([[-difference * np.eye(n), 2 * target.T], [2 * target, difference * np.eye(m)]])
        / 2
    )
    with mpmath.workdps(digits):
        values, vectors = mpmath.eigsy(mpmath.matrix(K.tolist()))
        start = vectors.T * mpmath.matrix(np.vstack([first.T, second]).tolist())

        def at(t):
            grown, integral = (
                mpmath.diag([function(value) for value in values])
                for function in (
                    lambda value: mpmath.exp(value * t),
                    lambda value: mpmath.expm1(2 * value * t) / (2 * value) if value else t,
                )
            )
            Q = vectors * grown * start
            S = Q * mpmath.inverse(mpmath.eye(width) + start.T * integral * start) * Q.T
            return np.array(S.tolist(), dtype=float)[n:, :n]

        return np.stack([at(mpmath.mpf(t)) for t in times])


def layers_over(W, difference, rng):
    """Layers of the product W that are out of balance by a multiple of I, in a random basis."""
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    x = np.sqrt(s**2 + difference**2 / 4) - difference / 2
    basis = np.linalg.qr(rng.standard_normal((len(s), len(s))))[0]
    return [basis * np.sqrt(x) @ Vt, U * np.sqrt(x + difference) @ basis.T]


def regression(m, n, samples, rng):
    """|W X - Y|^2 / 2 with X X^T = I, and the least squares solution Y X^T."""
    X = np.linalg.qr(rng.standard_normal((samples, n)))[0].T
    Y = rng.standard_normal((m, samples))
    return X, Y


CASES = [
    (m, n, difference)
    for m, n in [(3, 3), (2, 4), (4, 2), (1, 3), (3, 1), (1, 1)]
    for difference in (0.0, 0.7, -0.7, 6.0, -1e-3)
]


@pytest.mark.parametrize(("m", "n", "difference"), CASES)
def test_layers_learn_as_riccati_has_it(m, n, difference):
    rng = np.random.default_rng(m + 10 * n)
    X, Y = regression(m, n, 6, rng)
    layers = layers_over(0.5 * rng.standard_normal((m, n)), difference, rng)
    manifold = FullRank(m, n, DeepLinearMetric(2))
    numpy = pymanopt.function.numpy(manifold)
    problem = pymanopt.Problem(
        manifold,
        numpy(lambda W: np.sum((W @ X - Y) ** 2) / 2),
        euclidean_gradient=numpy(lambda W: (W @ X - Y) @ X.T),
    )
    flow = network_flow(problem, layers, TIMES, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(flow.points, solution(layers, Y @ X.T, TIMES), rtol=0, atol=1e-9)
