"""Weight decay of the layers: against layers, closed forms, finite differences and PyTorch."""

import math
from itertools import pairwise

import autograd.numpy as anp
import mpmath
import numpy as np
import pymanopt
import pytest
from pymanopt import optimizers
from scipy.integrate import solve_ivp
from scipy.sparse import coo_array

from riemdln import (
    DeepLinearMetric,
    FixedRank,
    FixedStep,
    FullRank,
    MatrixCompletion,
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
    network_flow,
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
    gram = np.eye(target.shape[-1], dtype=target.dtype) if data is None else data @ data.T
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
        return [
            part.reshape(a.shape) for part, a in zip(np.split(state, sizes), layers, strict=True)
        ]

    def velocity(_, state):
        Ws = unpacked(state)
        G, moves = gradient(end_to_end(Ws)), []
        for j in range(len(Ws)):
            above, below = np.eye(Ws[j].shape[0]), np.eye(Ws[0].shape[1])
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
    layers = [rng.standard_normal(shape) / 2 for shape in ((4, 3), (3, 4), (2, 3))]
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


@pytest.mark.parametrize("gap", [1e-10 - 1, 0.0, 1e-14, 1e-9, 1e-5, 1e-2])
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
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-13)


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


@pytest.mark.parametrize("depth", [2, 3, math.inf])
def test_singular_values_that_collapse_have_relative_accuracy(rng, depth):
    """At a start that is aligned with the target each one has an equation of its own."""
    growth = 1 if math.isinf(depth) else depth
    U, V = random_matrix(rng, 3, 3, [1, 1, 1]), random_matrix(rng, 3, 3, [1, 1, 1])
    sigma, s = np.array([4.0, 0.2, 0.1]), np.array([3.0, 1.0, 0.5])
    time = math.log(1e130) / growth

    def slope(_, logarithm):
        return growth * ((sigma - np.exp(logarithm)) * np.exp((1 - 2 / depth) * logarithm) - 1)

    exact = solve_ivp(slope, (0, time), np.log(s), method="LSODA", rtol=1e-12, atol=1e-12)
    manifold = FullRank(3, 3, DeepLinearMetric(depth))
    problem = layer_decay(regression(manifold, U * sigma @ V.T), 1.0)
    flow = gradient_flow(problem, (U, s, V.T), [0, time])
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
        return (
            np.array(
                [
                    a * (1 / (1 - ratio) - 1 / (2 * gap)),
                    b * (-ratio / (1 - ratio) + 1 / (2 * gap)),
                ]
            )
            / 1e3
        )

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
    ):
        expected = ask(decay) + ask(entropy) - ask(problem)
        np.testing.assert_allclose(ask(both), expected, atol=1e-12)
    flow = gradient_flow(both, W, [0, 1e-4, 2e-4], rtol=1e-12, atol=1e-14)
    velocity = (flow.points[2] - flow.points[0]) / 2e-4
    np.testing.assert_allclose(velocity, -both.riemannian_gradient(flow.points[1]), rtol=1e-5)
    np.testing.assert_allclose(flow.costs, [both.cost(point) for point in flow.points], rtol=1e-12)


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


@pytest.mark.parametrize("depth", [2, 3, math.inf])
def test_rank_deficient_matrices_decay_too(rng, depth):
    problem = layer_decay(regression(FullRank(2, 2, DeepLinearMetric(depth)), np.eye(2)), MU)
    W = np.diag([2.0, 0.0])
    growth = 1 if math.isinf(depth) else depth
    theta = 4.0 if math.isinf(depth) else depth * 2 ** (2 - 2 / depth)
    expected = np.diag([theta + growth * MU * 2, 0.0])
    np.testing.assert_allclose(problem.riemannian_gradient(W), expected)
    if depth == 2:  # one of the subgradients of the nuclear norm
        assert problem.cost(W) == pytest.approx(1 + MU * 2)
    else:
        with pytest.raises(ValueError, match="^the gradient of the decay must be finite"):
            problem.euclidean_gradient(W)
    with pytest.raises(ValueError, match="of the decay must be finite"):
        problem.euclidean_hessian(W, np.eye(2))


def test_single_precision_is_kept(rng):
    problem = layer_decay(
        regression(FullRank(2, 3, DeepLinearMetric(3)), np.ones((2, 3), np.float32)), MU
    )
    W, X = rng.standard_normal((2, 2, 3))
    names = ["euclidean_gradient", "riemannian_gradient"]
    exact = [problem.cost(W), *(getattr(problem, name)(W) for name in names)]
    exact += [problem.riemannian_hessian(W, X)]
    W, X = W.astype(np.float32), X.astype(np.float32)
    single = [problem.cost(W), *(getattr(problem, name)(W) for name in names)]
    single += [problem.riemannian_hessian(W, X)]
    for actual, expected in zip(single, exact, strict=True):
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize(
    "optimizer",
    [optimizers.SteepestDescent, optimizers.ConjugateGradient, optimizers.TrustRegions],
)
def test_optimizers_come_to_lower_rank(rng, optimizer, depth):
    U, V = (np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in range(2))
    sigma = np.array([4.0, 2.0, 0.1])
    problem = layer_decay(regression(FullRank(3, 3, DeepLinearMetric(depth)), U * sigma @ V.T), 0.5)
    start = (U * [3.0, 2.0, 0.5]) @ V.T + 0.1 * rng.standard_normal((3, 3))
    # A singular value that is a rounding error counts with its power 2 / N in the cost.
    result = optimizer(verbosity=0, min_gradient_norm=1e-3, max_iterations=500).run(
        problem, initial_point=start
    )
    expected = U * decayed_singular_value(sigma, 0.5, depth) @ V.T
    np.testing.assert_allclose(result.point, expected, atol=2e-3)


def exact_threshold(rate, depth):
    """The least value of s + mu s^{2/N - 1}, where its derivative is zero."""
    with mpmath.workdps(30):
        power = -1 if math.isinf(depth) else 2 / mpmath.mpf(depth) - 1
        slope = lambda x: 1 + rate * power * mpmath.exp((power - 1) * x)  # noqa: E731
        s = mpmath.exp(mpmath.findroot(slope, (-40, 40), solver="bisect"))
        return float(s + rate * s**power), float(s)


@pytest.mark.parametrize("rate", [1e-6, 0.3, 50.0])
@pytest.mark.parametrize("depth", [2.001, 2.5, 3, 4, 20, 1e6, math.inf])
def test_the_threshold_is_the_least_value_of_the_target(depth, rate):
    np.testing.assert_allclose(
        collapse_threshold(rate, depth), exact_threshold(rate, depth), rtol=1e-11
    )


def test_the_threshold_of_soft_thresholding_is_the_limit():
    assert collapse_threshold(0.3, 2) == pytest.approx((0.3, 0.0))
    np.testing.assert_allclose(collapse_threshold(0.3, 2 + 1e-9), [0.3, 0.0], atol=1e-7)
    assert collapse_threshold(0.3, 1.999) == (0.0, 0.0)


@pytest.mark.parametrize("depth", [3, 4, math.inf])
def test_flows_collapse_below_the_threshold(depth):
    """Bisection over targets: which of the flows from large singular values go to zero."""
    manifold = FullRank(1, 1, DeepLinearMetric(depth))
    threshold, left = collapse_threshold(MU, depth)
    low, high = 0.5 * threshold, 2.0 * threshold
    while high - low > 2e-4 * threshold:
        middle = (low + high) / 2
        problem = layer_decay(regression(manifold, np.array([[middle]])), MU)
        flow = gradient_flow(
            problem, [[3.0]], [0, 600.0], rtol=1e-6, stop=lambda t, W, *_: W[0, 0] < left / 2
        )
        low, high = (middle, high) if flow.points[-1, 0, 0] < 0.6 * left else (low, middle)
    assert (low + high) / 2 == pytest.approx(threshold, rel=3e-4)


@pytest.mark.parametrize("depth", [3, 4, math.inf])
def test_above_the_threshold_zero_attracts_small_singular_values(depth):
    """The boundary of the basins is the smaller solution of sigma = s + mu s^{2/N - 1}."""
    sigma = 1.3 * collapse_threshold(MU, depth).sigma
    power = 2 / depth - 1
    large = decayed_singular_value(sigma, MU, depth)
    small = mpmath.findroot(
        lambda s: s + MU * s**power - sigma, (1e-3, 0.9 * large), solver="anderson", verify=False
    )
    assert float(small) < collapse_threshold(MU, depth).singular_value < large
    problem = layer_decay(
        regression(FullRank(1, 1, DeepLinearMetric(depth)), np.array([[sigma]])), MU
    )
    for start, end in ((0.99 * float(small), 0.0), (1.01 * float(small), large)):
        flow = gradient_flow(problem, [[start]], [0, 100.0])
        np.testing.assert_allclose(flow.points[-1], end, atol=1e-6)


@pytest.mark.parametrize(
    ("depth", "polynomial"),
    [  # of y = s^{1/N} or s^{2/N}, in sigma and mu
        (3, lambda sigma, mu: ([1, 0, 0, -sigma, mu], 3)),
        (4, lambda sigma, mu: ([1, 0, -sigma, mu], 2)),
        (1.5, lambda sigma, mu: ([1, 0, mu, -sigma], 3)),
        (math.inf, lambda sigma, mu: ([1, -sigma, mu], 1)),
        (1, lambda sigma, mu: ([1 + mu, -sigma], 1)),
        (2, lambda sigma, mu: ([1, mu - sigma], 1)),
    ],
)
def test_what_is_left_of_singular_values_is_a_root(depth, polynomial):
    least = collapse_threshold(MU, depth).sigma
    sigma = least + np.array([1e-6, 0.01, 1.0, 30.0, 1e8])
    for value, left in zip(sigma, decayed_singular_value(sigma, MU, depth), strict=True):
        coefficients, power = polynomial(value, MU)
        roots = np.roots(coefficients)
        largest = roots[np.abs(roots.imag) < 1e-7 * np.abs(roots)].real.max()
        assert left == pytest.approx(largest**power, rel=1e-7)
    below = decayed_singular_value([0.0, 0.3 * least, 0.999 * least], MU, depth)
    assert not np.any(below)


def test_what_is_left_of_small_and_large_singular_values_has_all_digits():
    # At depth 1.5 it is (sigma / mu)^3 for small sigma.
    assert decayed_singular_value(1e-60, MU, 1.5) == pytest.approx((1e-60 / MU) ** 3, rel=1e-13)
    assert decayed_singular_value(1e200, MU, 3) == pytest.approx(1e200, rel=1e-15)
    assert decayed_singular_value(1e-300, 1e-10, 1) == pytest.approx(1e-300, rel=1e-9)
    assert decayed_singular_value(1e308, 1e-300, math.inf) == pytest.approx(1e308, rel=1e-15)
    # 1 / (1 - 1e-8) of the threshold leaves a digit of every two.
    sigma = 2 * (1 + 1e-8)
    assert decayed_singular_value(sigma, 1.0, math.inf) == pytest.approx(
        sigma / 2 + math.sqrt(1e-8 * (2 + 1e-8)), rel=1e-8
    )
    left = decayed_singular_value(np.full((2, 3), 1.0), MU, 2)
    np.testing.assert_allclose(left, np.full((2, 3), 1.0 - MU), rtol=1e-15)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_a_loss_of_data_collapses_where_its_gradient_at_zero_is_below_the_rate(rng, depth):
    """At depth 2 zero attracts below the top singular value of -grad E(0), beyond at every rate."""
    target, data = rng.standard_normal((3, 4)), rng.standard_normal((4, 9)) / 3
    manifold = FullRank(3, 4, DeepLinearMetric(depth))
    problem = regression(manifold, target, data)
    top = np.linalg.norm(problem.euclidean_gradient(np.zeros((3, 4))), ord=2)
    start = 1e-6 * rng.standard_normal((3, 4))
    for share in (0.97, 1.03):
        decaying = layer_decay(problem, share * top)
        flow = gradient_flow(decaying, start, [0, 20 / top, 40 / top], rtol=1e-6)
        grows = depth == 2 and share < 1
        assert (flow.singular_values[2, 0] > flow.singular_values[1, 0]) == grows


@pytest.mark.parametrize(("m", "n"), SHAPES)
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_step_is_one_of_torch_with_weight_decay(rng, m, n, depth):
    torch = pytest.importorskip("torch", reason="torch is optional")
    h, W, target = 0.02, random_matrix(rng, m, n), rng.standard_normal((m, n))
    layers = [torch.tensor(layer, requires_grad=True) for layer in balanced_layers(W, depth)]
    product = torch.linalg.multi_dot([*layers[::-1], torch.eye(n, dtype=torch.float64)])
    torch.sum((product - torch.tensor(target)) ** 2 / 2).backward()
    torch.optim.SGD(layers, lr=h, weight_decay=MU).step()
    expected = end_to_end([layer.detach().numpy() for layer in layers])
    manifold = FullRank(m, n, DeepLinearMetric(depth), retraction="network")
    search = FixedStep(h, weight_decay=MU)
    optimizer = optimizers.SteepestDescent(search, max_iterations=1, verbosity=0)
    result = optimizer.run(regression(manifold, target), initial_point=W)
    np.testing.assert_allclose(result.point, expected, atol=1e-13)


@pytest.mark.parametrize("depth", [2, 3])
def test_steps_are_those_of_torch_to_order_two_and_runs_come_to_the_flow(rng, depth):
    torch = pytest.importorskip("torch", reason="torch is optional")
    W, target = random_matrix(rng, 3, 2), rng.standard_normal((3, 2))
    problem = regression(FullRank(3, 2, DeepLinearMetric(depth)), target)
    flow = gradient_flow(layer_decay(problem, MU), W, [0, 0.5], rtol=1e-11, atol=1e-13)

    def run(h, steps):
        layers = [torch.tensor(layer, requires_grad=True) for layer in balanced_layers(W, depth)]
        optimizer = torch.optim.SGD(layers, lr=h, weight_decay=MU)
        for _ in range(steps):
            optimizer.zero_grad()
            product = torch.linalg.multi_dot([*layers[::-1], torch.eye(2, dtype=torch.float64)])
            torch.sum((product - torch.tensor(target)) ** 2 / 2).backward()
            optimizer.step()
        return end_to_end([layer.detach().numpy() for layer in layers])

    def errors(h, steps):
        end = run(h, steps)
        search = FixedStep(h, weight_decay=MU)
        descent = optimizers.SteepestDescent(search, max_iterations=steps, verbosity=0)
        point = descent.run(problem, initial_point=W).point
        return np.linalg.norm(point - end), np.linalg.norm(point - flow.points[-1])

    (one, _), (half, _) = errors(1e-3, 1), errors(5e-4, 1)
    assert np.log2(one / half) == pytest.approx(2, abs=0.05)
    (many, to_flow), (more, nearer) = errors(1e-3, 500), errors(5e-4, 1000)
    assert np.log2(many / more) == pytest.approx(1, abs=0.1)
    assert np.log2(to_flow / nearer) == pytest.approx(1, abs=0.1)

    # Runs of more and more steps, whose errors are a series in h, extrapolated to h = 0.
    ends = [run(0.5 / steps, steps) for steps in 2 ** np.arange(4, 11)]
    for power in range(1, len(ends)):
        ends = [fine + (fine - coarse) / (2**power - 1) for coarse, fine in pairwise(ends)]
    np.testing.assert_allclose(flow.points[-1], ends[0], atol=1e-8)


def test_steps_with_decay_on_other_manifolds(rng):
    u, s, vt = np.linalg.svd(random_matrix(rng, 4, 3), full_matrices=False)
    point, h = (u[:, :2], s[:2], vt[:2]), 0.1
    manifold = FixedRank(4, 3, 2, DeepLinearMetric(3))
    still = manifold.zero_vector(point)
    _, (u, s, vt) = FixedStep(h, MU).search(None, manifold, point, still, 0.0, 0.0)
    expected = (point[0] * point[1] @ point[2]) * (1 - h * MU) ** 3
    np.testing.assert_allclose(u * s @ vt, expected, atol=1e-14)
    W = np.diag([2.0, 1.0])
    cone = PositiveDefinite(2, DeepLinearMetric(math.inf))
    _, end = FixedStep(h, MU).search(None, cone, W, 0 * W, 0.0, 0.0)
    np.testing.assert_allclose(end, math.exp(-h * MU) * W, atol=1e-14)


@pytest.mark.parametrize(
    "manifold",
    [
        FullRank(2, 2, SpectralMetric(lambda s, t: s + t)),
        pymanopt.manifolds.Euclidean(2, 2),
    ],
    ids=str,
)
def test_what_has_no_layers_says_so(manifold):
    problem = pymanopt.Problem(manifold, pymanopt.function.numpy(manifold)(lambda W: np.sum(W)))
    expected = (
        "depth must be given" if hasattr(manifold, "metric") else "problem must be on .* spectral"
    )
    with pytest.raises(ValueError, match=f"^{expected}"):
        layer_decay(problem, 1.0)
    with pytest.raises(ValueError, match="^weight_decay needs a manifold with a DeepLinearMetric"):
        FixedStep(0.1, 0.1).search(np.sum, manifold, np.eye(2), np.eye(2), 0.0, 0.0)


@pytest.mark.parametrize("metric", [DeepLinearMetric(5), DeepLinearMetric(3, [0.0, 0.5])], ids=str)
def test_layers_of_another_depth_decay_in_the_cost(rng, metric):
    """The cost is that of explicit layers, and all derivatives are those of the cost."""
    manifold = FullRank(2, 3, metric, rng=1)
    W, nothing = rng.standard_normal((2, 3)), regression(manifold, np.zeros((2, 3)))
    problem = layer_decay(nothing, 0.7, depth=3)
    squares = sum(np.sum(layer**2) for layer in balanced_layers(W, 3))
    np.testing.assert_allclose(problem.cost(W) - nothing.cost(W), 0.35 * squares, rtol=1e-13)
    assert check_gradient(problem, W).slope > 1.9
    assert check_hessian(problem, W).slope > 2.9


def test_layers_off_balance_have_no_decay_of_their_own():
    manifold = FullRank(2, 2, DeepLinearMetric(2, 0.5))
    with pytest.raises(ValueError, match="^depth must be given where the metric is not that of"):
        layer_decay(regression(manifold, np.eye(2)), 1.0)
    with pytest.raises(ValueError, match="^depth must be below 2 where flows pass through lower r"):
        layer_decay(regression(manifold, np.eye(2)), 1.0, 2)
    with pytest.raises(ValueError, match="^weight_decay needs .* of balanced layers"):
        FixedStep(0.1, 0.1).search(np.sum, manifold, np.eye(2), np.eye(2), 0.0, 0.0)


def test_wrong_arguments_say_so():
    problem = regression(FullRank(2, 2, DeepLinearMetric(2)), np.eye(2))
    with pytest.raises(TypeError, match=r"^problem must be a pymanopt\.Problem, got FullRank"):
        layer_decay(problem.manifold, 1.0)
    for wrong in (0.0, -1.0, math.nan, math.inf, "1", None):
        with pytest.raises((TypeError, ValueError), match="^rate must be"):
            layer_decay(problem, wrong)
        with pytest.raises((TypeError, ValueError), match="^rate must be"):
            collapse_threshold(wrong, 2)
    with pytest.raises(ValueError, match="^depth must be a number from 1"):
        layer_decay(problem, 1.0, 0.5)
    with pytest.raises(ValueError, match="^depth must be a number from 1"):
        decayed_singular_value(1.0, 1.0, 0.5)
    with pytest.raises(ValueError, match="^sigma must be nonnegative"):
        decayed_singular_value([1.0, -1.0], 1.0, 2)
    with pytest.raises(ValueError, match="^sigma and rate must leave what is in the range"):
        decayed_singular_value(1e-300, 1.0, 1.5)
    with pytest.raises(ValueError, match="^weight_decay must be below 1 / step_size = 10"):
        FixedStep(0.1, weight_decay=10.0)
    with pytest.raises(ValueError, match="^weight_decay must be nonnegative"):
        FixedStep(0.1, weight_decay=-1.0)
    assert repr(FixedStep(0.1, 0.5)) == "FixedStep(0.1, weight_decay=0.5)"


def test_a_flow_at_rest_gives_no_warning():
    """Where decay and loss cancel to the last digit, nothing is below the range of numbers."""
    manifold = FullRank(1, 1, DeepLinearMetric(2))
    problem = layer_decay(regression(manifold, np.array([[1.0]])), 0.5)
    flow = gradient_flow(problem, [[0.5]], [0, 1])
    assert flow.points[-1] == 0.5
    assert flow.gradient_norms[-1] == 0


def test_a_flow_below_the_range_of_numbers_still_says_so():
    manifold = FullRank(1, 1, DeepLinearMetric(math.inf))
    problem = regression(manifold, np.array([[1.0]]))
    with pytest.warns(UserWarning, match="below the range"):
        gradient_flow(problem, [[1e-170]], [0, 1])
    flow = gradient_flow(layer_decay(problem, 1.0), [[1e-170]], [0, 10])
    assert flow.points[-1] == pytest.approx(1e-170 * math.exp(-10), rel=1e-6)


@pytest.mark.parametrize("depth", [3, 5])
def test_what_rests_above_depth_two_is_not_small(rng, depth):
    """u_i^T grad E v_i = -mu s_i^{2/N - 1}, so that s_i >= (mu / |grad E|)^{N / (N - 2)}."""
    target, data = 2 * rng.standard_normal((3, 4)), rng.standard_normal((4, 9)) / 3
    problem = regression(FullRank(3, 4, DeepLinearMetric(depth)), target, data)
    flow = gradient_flow(layer_decay(problem, 0.5), target, [0, 60.0], rtol=1e-6)
    U, s, Vt = np.linalg.svd(flow.points[-1], full_matrices=False)
    rests = s > 1e-6
    assert 0 < np.sum(rests) < 3
    G = problem.euclidean_gradient(flow.points[-1])
    slopes = np.diag(U.T @ G @ Vt.T)[rests]
    np.testing.assert_allclose(slopes, -0.5 * s[rests] ** (2 / depth - 1), rtol=1e-4)
    bound = (0.5 / np.linalg.norm(G, ord=2)) ** (depth / (depth - 2))
    assert np.all(s[rests] > (1 - 1e-4) * bound)  # which is met where G is largest


def test_completion_with_decay_has_the_derivatives_of_its_cost(rng):
    """On matrices of fixed rank, with a sparse gradient, and the end of its flow."""
    target = rng.standard_normal((12, 2)) @ rng.standard_normal((2, 9))
    seen = rng.random(target.shape) < 0.7
    observed = coo_array((target[seen], np.nonzero(seen)), shape=target.shape)
    manifold = FixedRank(12, 9, 3, DeepLinearMetric(2), rng=0)
    problem = layer_decay(MatrixCompletion(observed).problem(manifold), 2.0)
    start = manifold.random_point()
    assert check_gradient(problem, start).slope == pytest.approx(2, abs=0.1)
    assert check_hessian(problem, start).slope == pytest.approx(3, abs=0.1)
    flow = gradient_flow(problem, start, [0, 20.0], rtol=1e-6)
    u, s, vt = flow.points[-1]
    assert s[1] > 0.5
    assert s[2] < 1e-3
    # The nuclear norm's condition: the singular values of grad E are mu on the span, less beyond.
    G = np.where(seen, u * s @ vt - target, 0.0)
    np.testing.assert_allclose(u[:, :2].T @ G @ vt[:2].T, -2.0 * np.eye(2), atol=1e-5)
    assert np.linalg.norm(G, ord=2) < 2.0 + 1e-5


@pytest.mark.parametrize("depth", [1, 1.5])
def test_fixed_rank_flows_that_do_not_keep_the_rank_decay_too(rng, depth):
    u, s, vt = np.linalg.svd(random_matrix(rng, 4, 3, [3.0, 2.0, 1.0]), full_matrices=False)
    manifold = FixedRank(4, 3, 2, DeepLinearMetric(depth))
    plain = pymanopt.function.numpy(manifold)
    nothing = pymanopt.Problem(
        manifold, plain(lambda u, s, vt: 0.0), euclidean_gradient=plain(lambda *_: np.zeros((4, 3)))
    )
    start = u[:, :2], s[:2], vt[:2]
    flow = gradient_flow(layer_decay(nothing, MU), start, [0, 1.0])
    np.testing.assert_allclose(flow.singular_values[-1], math.exp(-MU * depth) * s[:2], rtol=1e-7)


def test_ridge_regression_has_its_derivatives_at_every_rank(rng):
    problem = layer_decay(regression(FullRank(2, 3, DeepLinearMetric(1)), np.ones((2, 3))), MU)
    W, X = np.diag([2.0, 0.0]) @ np.eye(2, 3), rng.standard_normal((2, 3))
    for point in (W, 0 * W):
        np.testing.assert_allclose(problem.euclidean_gradient(point), point - 1 + MU * point)
        np.testing.assert_allclose(problem.euclidean_hessian(point, X), (1 + MU) * X, atol=1e-14)


@pytest.mark.parametrize("depth", [2, 3])
def test_layers_down_the_decayed_cost_of_their_product_decay(rng, depth):
    """For balanced layers the flow of the cost of the product is that of decaying layers."""
    manifold = FullRank(3, 2, DeepLinearMetric(depth))
    W, target = random_matrix(rng, 3, 2), rng.standard_normal((3, 2))
    problem = layer_decay(regression(manifold, target), MU)
    layers = balanced_layers(W, depth)
    network = network_flow(problem, layers, [0, 0.5], rtol=1e-11, atol=1e-12)
    ends = decaying_layers(layers, lambda W: W - target, MU, 0.5)
    for layer, end in zip(network.layers[-1], ends, strict=True):
        np.testing.assert_allclose(layer, end, atol=1e-8)


def test_one_singular_value_gives_one_number():
    assert isinstance(decayed_singular_value(1.0, 0.5, 2), float)
