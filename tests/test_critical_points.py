import itertools
import math

import autograd
import autograd.numpy as anp
import mpmath
import numpy as np
import pymanopt
import pytest
import scipy.linalg
from scipy.optimize import least_squares

from riemdln import (
    DeepLinearMetric,
    FixedRank,
    FullRank,
    critical_points,
    escape_time,
    gradient_flow,
    network_flow,
)
from tests.conftest import random_matrix

MODES = {
    "apart": [3.0, 2.0, 0.5],
    "equal": [2.0, 2.0, 1.0],
    "all equal": [1.0, 1.0, 1.0],
    "spread": [3.0, 1e-3, 1e-6],
    "one missing": [3.0, 2.0, 0.0],
}


def product(layers):
    W = layers[0]
    for layer in layers[1:]:
        W = anp.dot(layer, W)
    return W


class Layers:
    """The cost as a function of all entries of explicit layers of one hidden width."""

    def __init__(self, target, inputs, depth, width):
        m, n = len(target), len(inputs)
        widths = [n, *[width] * (depth - 1), m]
        self.shapes = [(b, a) for a, b in itertools.pairwise(widths)]
        self.ends = np.cumsum([a * b for a, b in self.shapes])[:-1]
        self.target, self.inputs = target, inputs

    def unpacked(self, entries):
        parts = np.split(entries, self.ends) if isinstance(entries, np.ndarray) else None
        if parts is None:
            bounds = [0, *self.ends, len(entries)]
            parts = [entries[a:b] for a, b in itertools.pairwise(bounds)]
        return [anp.reshape(p, shape) for p, shape in zip(parts, self.shapes, strict=True)]

    def cost(self, entries):
        return (
            anp.sum((anp.dot(product(self.unpacked(entries)), self.inputs) - self.target) ** 2) / 2
        )

    def balanced(self, W, rank):
        """The entries of balanced layers of a matrix of some rank."""
        U, s, Vt = np.linalg.svd(W)
        depth = len(self.shapes)
        if depth == 1:
            return W.ravel()
        roots = s[:rank] ** (1 / depth)
        layers = [np.zeros(shape) for shape in self.shapes]
        layers[0][:rank] = roots[:, None] * Vt[:rank]
        layers[-1][:, :rank] = U[:, :rank] * roots
        for layer in layers[1:-1]:
            layer[range(rank), range(rank)] = roots
        return np.concatenate([layer.ravel() for layer in layers])


def least_squares_problem(rng, m, n, modes, whitened):
    """A target and inputs with given modes; whitened ones have inputs that are the identity."""
    target = random_matrix(rng, m, n, modes[: min(m, n)])
    if whitened:
        return target, np.eye(n)
    inputs = rng.standard_normal((n, 2 * n + 1))
    Q = np.linalg.qr(inputs.T)[0]
    rest = rng.standard_normal((m, 2 * n + 1))
    return target @ Q.T + rest - rest @ Q @ Q.T, inputs


@pytest.mark.parametrize("whitened", [True, False])
@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize(
    ("m", "n", "width"), [(3, 3, 3), (2, 3, 2), (3, 2, 4), (3, 3, 2), (1, 2, 1)]
)
@pytest.mark.parametrize("modes", MODES.values(), ids=MODES)
def test_kinds_and_rates_are_those_of_the_hessian_of_explicit_layers(
    rng, m, n, width, depth, whitened, modes
):
    if depth == 5 and (modes[1] == 1e-3 or width == 4):
        pytest.skip()
    target, inputs = least_squares_problem(rng, m, n, modes, whitened)
    layers = Layers(target, inputs, depth, width)
    gradient, hessian = autograd.grad(layers.cost), autograd.hessian(layers.cost)
    for point in critical_points(target, None if whitened else inputs, depth=depth, width=width):
        entries = layers.balanced(point.point, point.rank)
        np.testing.assert_allclose(gradient(entries), 0.0, atol=1e-6)
        assert layers.cost(entries) == pytest.approx(point.cost, rel=1e-10, abs=1e-12)
        values = np.linalg.eigvalsh(hessian(entries))
        assert (point.escape_rate > 0) == (point.kind == "strict saddle")
        assert -values[0] == pytest.approx(point.escape_rate, rel=1e-6, abs=1e-7)
