"""Weight decay of the layers: against layers, closed forms, finite differences and PyTorch."""

import math

import autograd.numpy as anp
import mpmath
import numpy as np
import pymanopt
import pytest
from pymanopt import optimizers
from scipy.integrate import solve_ivp

from riemdln import (
    DeepLinearMetric,
    FixedRank,
    FixedStep,
    FullRank,
    PositiveDefinite,
    SpectralMetric,
    balanced_layers,
    collapse_threshold,
    decayed_singular_value,
    end_to_end,
    free_energy,
    gradient_flow,
    imbalances,
    layer_decay,
    random_layers,
)
from riemdln.checks import check_gradient, check_hessian
from tests.conftest import random_matrix

MU = 0.4
SHAPES = [(2, 2), (3, 2), (2, 4), (1, 3)]
DEPTHS = [1, 1.5, 2, 2.5, 3, 8, math.inf]
CASES = [(m, n, N) for m, n in SHAPES for N in DEPTHS if m == n or not math.isinf(N)]
every_case = pytest.mark.parametrize(("m", "n", "depth"), CASES)


def regression(manifold, target, data=None):
    """E = |(W - T) X|^2 / 2."""
    gram = np.eye(target.shape[-1]) if data is None else data @ data.T
    plain = pymanopt.function.numpy(manifold)
    return pymanopt.Problem(
        manifold,
        plain(lambda W: np.sum((W - target) @ gram * (W - target), axis=(-2, -1)) / 2),
        euclidean_gradient=plain(lambda W: (W - target) @ gram),
        euclidean_hessian=plain(lambda W, X: X @ gram),
    )


def decaying_layers(layers, gradient, rate, time):
    """The layers that go down a loss with weight decay, by their own equation."""
    sizes = np.cumsum([layer.size for layer in layers])[:-1]

    def unpacked(state):
        return [part.reshape(a.shape) for part, a in zip(np.split(state, sizes), layers)]

    def velocity(_, state):
        Ws = unpacked(state)
        G = gradient(np.linalg.multi_dot([*Ws[::-1], np.eye(Ws[0].shape[1])]))
        moves = []
        for j in range(len(Ws)):
            above, below = np.eye(Ws[-1].shape[0]), np.eye(Ws[0].shape[1])
            for W in Ws[j + 1 :]:
                above = W @ above if W.shape[1] == above.shape[0] else W
            above = np.eye(Ws[j].shape[0])
            for W in Ws[j + 1 :]:
                above = W @ above
            for W in Ws[:j]:
                below = W @ below
            moves.append(-above.T @ G @ below.T - rate * Ws[j])
        return np.concatenate([move.ravel() for move in moves])

    start = np.concatenate([layer.ravel() for layer in layers])
    run = solve_ivp(velocity, (0, time), start, method="DOP853", rtol=1e-12, atol=1e-13)
    return unpacked(run.y[:, -1])


@pytest.mark.parametrize(("m", "n"), SHAPES)
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_layers_with_decay_move_their_product_as_the_flow(rng, m, n, depth):
    manifold = FullRank(m, n, DeepLinearMetric(depth))
    target, data = rng.standard_normal((m, n)), rng.standard_normal((n, 2 * n)) / 2
    W = random_matrix(rng, m, n)
    problem = regression(manifold, target, data)
    layers = balanced_layers(W, depth)
    ends = decaying_layers(layers, problem.euclidean_gradient, MU, 0.8)
    flow = gradient_flow(layer_decay(problem, MU), W, [0, 0.8], rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(flow.points[-1], end_to_end(ends), atol=1e-8)
    squares = sum(np.sum(layer**2) for layer in ends)
    assert flow.costs[-1] - problem.cost(flow.points[-1]) == pytest.approx(MU / 2 * squares)
    for C in imbalances(ends):
        np.testing.assert_allclose(C, 0, atol=1e-9)


@pytest.mark.parametrize("backend", ["autograd", "numpy"])
def test_narrow_layers_with_decay_move_as_the_flow_of_fixed_rank(rng, backend):
    manifold = FixedRank(4, 3, 2, DeepLinearMetric(3))
    target, W = rng.standard_normal((4, 3)), random_matrix(rng, 4, 3, [2.0, 0.5, 0.0])
    u, s, vt = np.linalg.svd(W, full_matrices=False)
    start = u[:, :2], s[:2], vt[:2]

    @getattr(pymanopt.function, backend)(manifold)
    def cost(u, s, vt):
        return anp.sum((u * s @ vt - target) ** 2) / 2

    given = {}
    if backend == "numpy":
        plain = pymanopt.function.numpy(manifold)
        given["euclidean_gradient"] = plain(lambda u, s, vt: u * s @ vt - target)
        given["euclidean_hessian"] = plain(lambda u, s, vt, U, S, V: U @ S @ V.T)
    problem = layer_decay(pymanopt.Problem(manifold, cost, **given), MU)
    flow = gradient_flow(problem, start, [0, 0.8], rtol=1e-11, atol=1e-13)
    root = s[:2] ** (1 / 3)
    layers = [root[:, None] * vt[:2], np.diag(root), u[:, :2] * root]
    ends = decaying_layers(layers, lambda W: W - target, MU, 0.8)
    u, s, vt = point = flow.points[-1]
    np.testing.assert_allclose(u * s @ vt, end_to_end(ends), atol=1e-8)
    assert check_gradient(problem, point).slope == pytest.approx(2, abs=0.1)
    if backend == "numpy":
        assert check_hessian(problem, point).slope == pytest.approx(3, abs=0.1)


def test_positive_definite_matrices_move_as_matrices(rng):
    Q = random_matrix(rng, 3, 3, [1.0, 1.0, 1.0])
    start, target = (Q * [3.0, 1.0, 0.5]) @ Q.T, np.diag([2.0, 1.0, 0.1])
    metric = DeepLinearMetric(3)
    cone, whole = (
        layer_decay(regression(manifold, target), MU)
        for manifold in (PositiveDefinite(3, metric, rng=0), FullRank(3, 3, metric))
    )
    flows = [gradient_flow(problem, start, [0, 2]) for problem in (cone, whole)]
    np.testing.assert_allclose(flows[0].points[-1], flows[1].points[-1], atol=1e-7)
    assert check_gradient(cone).slope == pytest.approx(2, abs=0.1)
    assert check_hessian(cone).slope == pytest.approx(3, abs=0.1)


def test_decay_balances_layers(rng):
    layers = random_layers([3, 4, 3, 2], rng=rng)
    target = rng.standard_normal((2, 3))
    ends = decaying_layers(layers, lambda W: W - target, MU, 1.5)
    for before, after in zip(imbalances(layers), imbalances(ends), strict=True):
        assert np.linalg.norm(before) > 0.1
        np.testing.assert_allclose(after, math.exp(-2 * MU * 1.5) * before, atol=1e-9)


@every_case
def test_the_euclidean_derivatives_are_those_of_the_cost(rng, m, n, depth):
    problem = layer_decay(regression(FullRank(m, n, DeepLinearMetric(depth)), np.ones((m, n))), MU)
    W, X, Y = random_matrix(rng, m, n), *rng.standard_normal((2, m, n))
    G, H = problem.euclidean_gradient(W), problem.euclidean_hessian(W, X)
    assert np.sum(H * Y) == pytest.approx(np.sum(problem.euclidean_hessian(W, Y) * X))
    h = 1e-4
    rise = (problem.cost(W + h * X) - problem.cost(W - h * X)) / (2 * h)
    assert np.sum(G * X) == pytest.approx(rise, abs=1e-5 * np.linalg.norm(G))
    bend = (problem.euclidean_gradient(W + h * X) - problem.euclidean_gradient(W - h * X)) / (2 * h)
    np.testing.assert_allclose(H, bend, atol=1e-5 * np.linalg.norm(H))


@pytest.mark.parametrize("gap", [0.0, 1e-14, 1e-9, 1e-5, 1e-2])
@pytest.mark.parametrize("depth", [1, 1.5, 2, 3, math.inf])
def test_the_euclidean_hessian_where_singular_values_are_close(rng, depth, gap):
    """Against sums over entries in 40 digits, at diag(1, 1 + gap) in a turned frame."""
    problem = layer_decay(regression(FullRank(2, 2, DeepLinearMetric(depth)), np.zeros((2, 2))), MU)
    X = rng.standard_normal((2, 2))
    with mpmath.workdps(40):
        a, b = mpmath.mpf(1), mpmath.mpf(1.0 + gap)
        power = 2 / mpmath.mpf(depth) - 1
        slopes = [MU * a**power, MU * b**power]
        bends = [MU * power * a ** (power - 1), MU * power * b ** (power - 1)]
        same = bends[0] if a == b else (slopes[0] - slopes[1]) / (a - b)
        other = (slopes[0] + slopes[1]) / (a + b)
    even, odd = (X[0, 1] + X[1, 0]) / 2, (X[0, 1] - X[1, 0]) / 2
    expected = np.diag([float(bends[0] * X[0, 0]), float(bends[1] * X[1, 1])])
    expected[0, 1] = float(same * even + other * odd)
    expected[1, 0] = float(same * even - other * odd)
    actual = problem.euclidean_hessian(np.diag([1.0, 1.0 + gap]), X) - X
    np.testing.assert_allclose(actual, expected, atol=1e-13)


@every_case
def test_the_riemannian_derivatives_are_those_of_the_euclidean_ones(rng, m, n, depth):
    """mu N W and mu X, which share nothing with the metric's general formulas."""
    manifold = FullRank(m, n, DeepLinearMetric(depth))
    problem = layer_decay(regression(manifold, np.ones((m, n))), MU)
    W, X = random_matrix(rng, m, n), rng.standard_normal((m, n))
    P, H = problem.euclidean_gradient(W), problem.euclidean_hessian(W, X)
    expected = manifold.euclidean_to_riemannian_gradient(W, P)
    np.testing.assert_allclose(problem.riemannian_gradient(W), expected, atol=1e-12)
    expected = manifold.euclidean_to_riemannian_hessian(W, P, H, X)
    np.testing.assert_allclose(problem.riemannian_hessian(W, X), expected, atol=1e-10)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_the_term_is_half_the_squared_distance_from_zero(rng, depth):
    manifold = FullRank(2, 3, DeepLinearMetric(depth))
    nothing = regression(manifold, np.zeros((2, 3)), np.zeros((3, 1)))
    W = random_matrix(rng, 2, 3)
    length = manifold.dist(1e-12**depth * W, W) / (1 - 1e-12)
    assert layer_decay(nothing, MU).cost(W) == pytest.approx(MU * length**2 / 2)
    layers = balanced_layers(W, depth)
    least = sum(np.sum(layer**2) for layer in layers)
    assert least == pytest.approx(length**2)
    change = np.diag([1.5, 0.7]) + 0.2 * rng.standard_normal((2, 2))
    layers[0], layers[1] = np.linalg.solve(change, layers[0]), layers[1] @ change
    np.testing.assert_allclose(end_to_end(layers), W)
    assert sum(np.sum(layer**2) for layer in layers) > least


@pytest.mark.parametrize("depth", [2, 3, 5, math.inf])
def test_singular_values_that_collapse_have_relative_accuracy(rng, depth):
    """At a start that is aligned with the target each one has an equation of its own."""
    growth = 1 if math.isinf(depth) else depth
    U, V = random_matrix(rng, 3, 3, [1, 1, 1]), random_matrix(rng, 3, 3, [1, 1, 1])
    sigma, s = np.array([4.0, 0.2, 0.1]), np.array([3.0, 1.0, 0.5])
    time = math.log(1e200) / growth

    def slope(_, logarithm):
        return growth * ((sigma - np.exp(logarithm)) * np.exp((1 - 2 / depth) * logarithm) - 1)

    exact = solve_ivp(slope, (0, time), np.log(s), method="LSODA", rtol=1e-12, atol=1e-12)
    manifold = FullRank(3, 3, DeepLinearMetric(depth))
    problem = layer_decay(regression(manifold, U * sigma @ V.T), 1.0)
    flow = gradient_flow(problem, (U, s, V.T), [0, time], method="LSODA", rtol=1e-10)
    logarithms = np.log(flow.singular_values[-1])
    assert logarithms[-1] < math.log(1e-100)
    np.testing.assert_allclose(logarithms, exact.y[:, -1], atol=1e-5)
    assert np.all(np.isfinite(flow.costs))
    if math.isinf(depth):
        loss = np.sum((np.exp(exact.y[:, -1]) - sigma) ** 2) / 2
        assert flow.costs[-1] == pytest.approx(loss + np.sum(exact.y[:, -1]))


@pytest.mark.parametrize("depth", [2, 3, math.inf])
def test_the_entropy_pulls_on_singular_values_that_entries_do_not_hold(depth):
    """Where s_1 = 1 stays: d/dt ln s_2 of diag(1, s_2), by the equation of s_2 alone."""
    small = 1e-40
    problem = free_energy(FullRank(2, 2, DeepLinearMetric(depth)), beta=1e3)
    times = [0, 1e-6 if depth == 2 else 1e-3]
    flow = gradient_flow(problem, (np.eye(2), np.array([1.0, small]), np.eye(2)), times, rtol=1e-11)

    def speed(t, logarithms):
        a, b = np.exp(logarithms)
        if depth == 2:
            return np.array([2, 2]) / (a + b) / 2 / 1e3
        if depth == 3:
            roots = np.exp(2 / 3 * logarithms)
            theta = roots[0] ** 2 + roots[0] * roots[1] + roots[1] ** 2
            # theta(s, s) dS / ds / s = s^{2/3} (2 r_1 + r_2) / theta
            return np.array([2 * roots[0] + roots[1], 2 * roots[1] + roots[0]]) / theta / 1e3
        ratio = (b / a) ** 2
        # S = ln(theta) / 2, theta = (a^2 - b^2) / (2 ln(a / b))
        gap = logarithms[0] - logarithms[1]
        return np.array(
            [
                a * (1 / (1 - ratio) - 1 / (2 * gap)),
                b * (-ratio / (1 - ratio) + 1 / (2 * gap)),
            ]
        ) / 1e3

    exact = solve_ivp(speed, times, np.log([1.0, small]), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(np.log(flow.singular_values[-1]), exact.y[:, -1], atol=1e-8)


@pytest.mark.parametrize("first", ["decay", "entropy"])
def test_terms_add(rng, first):
    manifold = FullRank(2, 3, DeepLinearMetric(3))
    problem = regression(manifold, rng.standard_normal((2, 3)))
    W, X = rng.standard_normal((2, 2, 3))
    decay, entropy = layer_decay(problem, MU), free_energy(problem, 2.0)
    both = free_energy(decay, 2.0) if first == "decay" else layer_decay(entropy, MU)
    for ask in (
        lambda p: p.cost(W),
        lambda p: p.euclidean_gradient(W),
        lambda p: p.euclidean_hessian(W, X),
        lambda p: p.riemannian_gradient(W),
        lambda p: p.riemannian_hessian(W, X),
        lambda p: p.riemannian_gradient(gradient_flow(both, W, [0, 0.1]).points[-1]),
    ):
        expected = ask(decay) + ask(entropy) - ask(problem)
        np.testing.assert_allclose(ask(both), expected, atol=1e-12)
    flow = gradient_flow(both, W, [0, 1e-4])
    step = W - 1e-4 * both.riemannian_gradient(W)
    np.testing.assert_allclose(flow.points[-1], step, atol=1e-6)


@pytest.mark.parametrize("depth", [1, 1.5, 3])
def test_ensembles_flow_as_single_copies_do(rng, depth):
    manifold = FullRank(2, 3, DeepLinearMetric(depth))
    problem = layer_decay(regression(manifold, rng.standard_normal((2, 3))), MU)
    starts = rng.standard_normal((3, 2, 3))
    flows = [gradient_flow(problem, starts, [0, 0.5], vectorized=v) for v in (True, False)]
    for k, start in enumerate(starts):
        alone = gradient_flow(problem, start, [0, 0.5])
        for flow in flows:
            np.testing.assert_allclose(flow.points[:, k], alone.points, atol=1e-7)
            np.testing.assert_allclose(flow.costs[:, k], alone.costs, atol=1e-7)
    gradients = problem.euclidean_gradient(starts)
    np.testing.assert_allclose(gradients[1], problem.euclidean_gradient(starts[1]))


def test_riemannian_gradients_of_ones_own_will_do(rng):
    manifold = FullRank(2, 3, DeepLinearMetric(3))
    given = regression(manifold, rng.standard_normal((2, 3)))
    plain = pymanopt.function.numpy(manifold)
    own = pymanopt.Problem(
        manifold, plain(given.cost), riemannian_gradient=plain(given.riemannian_gradient)
    )
    W = rng.standard_normal((2, 3))
    flows = [gradient_flow(layer_decay(problem, MU), W, [0, 0.5]) for problem in (given, own)]
    np.testing.assert_allclose(flows[1].points, flows[0].points, atol=1e-7)
    np.testing.assert_allclose(flows[1].costs, flows[0].costs, atol=1e-7)


@pytest.mark.parametrize("backend", ["autograd", "torch"])
def test_autograd_and_torch_will_do(rng, backend):
    pytest.importorskip(backend, reason=f"{backend} is optional")
    decorator = pymanopt.function.pytorch if backend == "torch" else pymanopt.function.autograd
    manifold = FullRank(2, 3, DeepLinearMetric(3))

    @decorator(manifold)
    def cost(W):
        return (W**4).sum()

    W, X = rng.standard_normal((2, 2, 3))
    problem = layer_decay(pymanopt.Problem(manifold, cost), MU)
    values = np.linalg.svd(W, compute_uv=False)
    assert problem.cost(W) == pytest.approx(np.sum(W**4) + 1.5 * MU * np.sum(values ** (2 / 3)))
    gradient = problem.riemannian_gradient(W)
    expected = manifold.metric.sharp(W, 4 * W**3) + 3 * MU * W
    np.testing.assert_allclose(gradient, expected, atol=1e-12)
    assert np.isfinite(problem.riemannian_hessian(W, X)).all()


