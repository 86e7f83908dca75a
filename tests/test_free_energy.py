"""The free energy E - S / beta: its derivatives, minimizers and flows, against definitions."""

import math

import autograd.numpy as anp
import mpmath
import numpy as np
import pymanopt
import pytest
from pymanopt import optimizers
from scipy.integrate import solve_ivp
from scipy.optimize import root

from riemdln import (
    DeepLinearMetric,
    FixedRank,
    FlowError,
    FullRank,
    PositiveDefinite,
    SpectralMetric,
    balanced_layers,
    end_to_end,
    free_energy,
    gradient_flow,
)
from riemdln.checks import check_gradient, check_hessian
from tests.conftest import fit, random_matrix

SHAPES = [(2, 2), (3, 3), (2, 4), (4, 3), (1, 3)]
DEPTHS = [2, 3, 2.5, math.inf]
CASES = [(m, n, N) for m, n in SHAPES for N in DEPTHS if m == n or not math.isinf(N)]
every_case = pytest.mark.parametrize(("m", "n", "depth"), CASES)


def exact_entropy(W, depth):
    """S = 1/2 sum_{i<j} ln (a - b) / (a^{1/N} - b^{1/N}), a and b the eigenvalues of W W^T."""
    squares = list(mpmath.eigsy(W * W.T if W.rows <= W.cols else W.T * W, eigvals_only=True))
    total = mpmath.mpf(0)
    for i, a in enumerate(squares):
        for b in squares[:i]:
            power = 1 / mpmath.mpf(depth)
            roots = mpmath.log(a / b) if math.isinf(depth) else a**power - b**power
            total += mpmath.log((a - b) / roots)
    return total / 2


def second_difference(W, X, Y, depth):
    """The second derivative of the entropy along X and Y, in 90 digits."""
    W, X, Y = (mpmath.matrix(A.tolist()) for A in (W, X, Y))
    with mpmath.workdps(90):
        h = mpmath.mpf(10) ** -25
        corners = [(a, b) for a in (1, -1) for b in (1, -1)]
        return float(
            sum(a * b * exact_entropy(W + h * (a * X + b * Y), depth) for a, b in corners)
            / (4 * h * h)
        )


@pytest.mark.parametrize("last", [0.5, 1e-6, 1 - 1e-4, 1 - 1e-7])
@every_case
def test_the_hessian_of_the_entropy_has_nine_digits(rng, m, n, depth, last):
    W = random_matrix(rng, m, n, np.geomspace(1.0, last, min(m, n)))
    X, Y = rng.standard_normal((2, m, n))
    H = DeepLinearMetric(depth).entropy_hessian(W, X)
    expected = second_difference(W, X, Y, depth)
    assert np.sum(H * Y) == pytest.approx(expected, abs=1e-9 * np.linalg.norm(H))


@pytest.mark.parametrize("depth", [1.5, 2, 3, 60, math.inf])
def test_the_hessian_where_singular_values_are_equal(rng, depth):
    X = rng.standard_normal((3, 3))
    Y = np.diag([1.0, 1.7, 2.9])
    nearly = np.diag([1.0 + 1e-12, 1.0, 1.0 - 1e-12])
    for W in (np.eye(3), nearly):
        H = DeepLinearMetric(depth).entropy_hessian(W, X)
        expected = second_difference(nearly, X, Y, depth)
        np.testing.assert_allclose(np.sum(H * Y), expected, rtol=1e-9)


@pytest.mark.parametrize("depth", [1, 3])
def test_hessians_of_stacks_are_those_of_the_matrices(rng, depth):
    metric = DeepLinearMetric(depth)
    W, X = rng.standard_normal((2, 5, 3, 4))
    expected = [metric.entropy_hessian(*pair) for pair in zip(W, X, strict=True)]
    np.testing.assert_allclose(metric.entropy_hessian(W, X), expected, atol=1e-13)
    assert metric.entropy_hessian(W[0], X).shape == X.shape
    if depth == 1:
        assert not np.any(expected)


@every_case
def test_the_derivatives_are_those_of_the_cost(rng, m, n, depth):
    manifold = FullRank(m, n, DeepLinearMetric(depth), rng=0)
    problem = free_energy(fit(manifold, rng.standard_normal((m, n))), beta=0.7)
    W, X, Y = random_matrix(rng, m, n), *rng.standard_normal((2, m, n))
    G, H = problem.euclidean_gradient(W), problem.euclidean_hessian(W, X)
    assert np.sum(H * Y) == pytest.approx(np.sum(problem.euclidean_hessian(W, Y) * X))
    # The errors of Taylor models, of which a half step leaves a fourth and an eighth.
    t = np.array([1e-3, 5e-4])
    linear = [problem.cost(W + h * X) - problem.cost(W) - h * np.sum(G * X) for h in t]
    quadratic = linear - t**2 / 2 * np.sum(H * X)
    assert np.log2(linear[0] / linear[1]) == pytest.approx(2, abs=0.1)
    if m == 1:  # no entropy, and E is a square
        np.testing.assert_allclose(quadratic, 0, atol=1e-13)
    else:
        assert np.log2(quadratic[0] / quadratic[1]) == pytest.approx(3, abs=0.1)
    h = 1e-5
    bend = (problem.euclidean_gradient(W + h * X) - problem.euclidean_gradient(W - h * X)) / (2 * h)
    np.testing.assert_allclose(H, bend, atol=1e-5 * np.linalg.norm(H))


@pytest.mark.parametrize(
    "manifold",
    [
        FullRank(2, 2, DeepLinearMetric(math.inf), rng=0),
        PositiveDefinite(3, DeepLinearMetric(3), rng=0),
    ],
    ids=repr,
)
def test_the_derivatives_pass_the_checks(manifold):
    problem = free_energy(manifold, beta=0.7)
    assert check_gradient(problem).slope == pytest.approx(2, abs=0.1)
    assert check_hessian(problem).slope == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("backend", ["autograd", "torch", "jax"])
def test_every_backend_will_do(rng, backend):
    library = pytest.importorskip(backend, reason=f"{backend} is optional")
    if backend == "jax":
        library.config.update("jax_enable_x64", True)
    decorators = pymanopt.function
    decorate = decorators.pytorch if backend == "torch" else getattr(decorators, backend)
    manifold = FullRank(2, 3, DeepLinearMetric(3))

    @decorate(manifold)
    def cost(W):
        return (W**4).sum()

    problem, alone = (free_energy(p, 2.0) for p in (pymanopt.Problem(manifold, cost), manifold))
    W, X = rng.standard_normal((2, 2, 3))
    assert problem.cost(W) - alone.cost(W) == pytest.approx(np.sum(W**4))
    gradient = problem.euclidean_gradient(W) - alone.euclidean_gradient(W)
    np.testing.assert_allclose(gradient, 4 * W**3, atol=1e-12)
    hessian = problem.euclidean_hessian(W, X) - alone.euclidean_hessian(W, X)
    np.testing.assert_allclose(hessian, 12 * W**2 * X, atol=1e-12)
    assert alone.cost(W) == pytest.approx(-manifold.metric.entropy(W) / 2)


def test_riemannian_derivatives_of_ones_own_are_kept(rng):
    manifold = FullRank(2, 3, DeepLinearMetric(3), rng=0)
    plain = pymanopt.function.numpy(manifold)
    target = rng.standard_normal((2, 3))

    @pymanopt.function.autograd(manifold)
    def cost(W):
        return anp.sum((W - target) ** 2) / 2

    euclidean = pymanopt.Problem(manifold, cost)
    own = {
        "riemannian_gradient": plain(lambda W: manifold.metric.sharp(W, W - target)),
        "riemannian_hessian": plain(lambda W, X: euclidean.riemannian_hessian(W, X)),
    }
    W, X = random_matrix(rng, 2, 3, [2.0, 1.0]), rng.standard_normal((2, 3))
    expected = free_energy(euclidean, 0.7)
    flow = gradient_flow(expected, W, [0, 0.3])
    for given in (own, {"riemannian_gradient": own["riemannian_gradient"]}):
        problem = free_energy(pymanopt.Problem(manifold, cost, **given), 0.7)
        for name, arguments in (("gradient", (W,)), ("hessian", (W, X))):
            name = f"riemannian_{name}"
            actual = getattr(problem, name)(*arguments)
            np.testing.assert_allclose(actual, getattr(expected, name)(*arguments), atol=1e-12)
        same = gradient_flow(problem, W, [0, 0.3])
        np.testing.assert_allclose(same.points, flow.points, atol=1e-7)
    problem = pymanopt.Problem(manifold, cost, riemannian_hessian=own["riemannian_hessian"])
    problem = free_energy(problem, 0.7)
    np.testing.assert_allclose(
        problem.riemannian_hessian(W, X), expected.riemannian_hessian(W, X), atol=1e-12
    )
    np.testing.assert_allclose(problem.euclidean_gradient(W), expected.euclidean_gradient(W))


def test_a_missing_hessian_is_missed_when_it_is_asked_for():
    manifold = FullRank(2, 2, DeepLinearMetric(2))
    plain = pymanopt.function.numpy(manifold)
    given = pymanopt.Problem(
        manifold, plain(lambda W: np.sum(W**2) / 2), euclidean_gradient=plain(lambda W: W)
    )
    problem = free_energy(given, 1.0)
    assert gradient_flow(problem, np.diag([2.0, 1.0]), [0, 1]).success
    with pytest.raises(NotImplementedError, match="No autodiff support"):
        problem.euclidean_hessian(np.eye(2), np.eye(2))


def test_up_the_entropy_singular_values_keep_their_ratio_at_depth_two(rng):
    manifold = FullRank(2, 2, DeepLinearMetric(2))
    start, times = random_matrix(rng, 2, 2, [3.0, 0.5]), np.linspace(0, 5, 6)
    flow = gradient_flow(free_energy(manifold, beta=1.0), start, times)
    expected = np.outer(1 + times / 3.5, [3.0, 0.5])
    np.testing.assert_allclose(flow.singular_values, expected, rtol=1e-7)
    expected = start * (1 + times / 3.5)[:, None, None]
    np.testing.assert_allclose(flow.points, expected, atol=1e-6)


def minus_mean_curvature(layers):
    """Minus the mean curvature of the orbit (W_1, ..) -> (Q_1 W_1, Q_2 W_2 Q_1^T, ..) at layers.

    The orbit's curves exp(t B) have the accelerations B B x, of which a trace is taken over an
    orthonormal basis of the tangent space, and the part normal to the orbit.
    """
    r, sizes = layers[0].shape[0], [layer.size for layer in layers]

    def turned(hidden, i, j, layers):
        B = np.zeros((r, r))
        B[i, j], B[j, i] = 1.0, -1.0
        moves = [np.zeros_like(layer) for layer in layers]
        moves[hidden], moves[hidden + 1] = B @ layers[hidden], -layers[hidden + 1] @ B
        return moves

    def flat(layers):
        return np.concatenate([layer.ravel() for layer in layers])

    turns = [(h, i, j) for h in range(len(layers) - 1) for i in range(r) for j in range(i)]
    tangents = np.array([flat(turned(*turn, layers)) for turn in turns])
    gram = np.linalg.inv(tangents @ tangents.T)
    total = sum(
        gram[a, b] * flat(turned(*one, turned(*other, layers)))
        for a, one in enumerate(turns)
        for b, other in enumerate(turns)
    )
    normal = total - tangents.T @ (gram @ (tangents @ total))
    parts = np.split(-normal, np.cumsum(sizes)[:-1])
    return [part.reshape(layer.shape) for part, layer in zip(parts, layers, strict=True)]


@pytest.mark.parametrize(("m", "n", "depth"), [(2, 2, 2), (3, 2, 3), (3, 3, 3), (2, 3, 4)])
def test_the_entropy_moves_w_as_mean_curvature_moves_the_layers(rng, m, n, depth):
    W = rng.standard_normal((m, n))
    layers = balanced_layers(W, depth)
    moves = minus_mean_curvature(layers)
    velocity = sum(
        end_to_end([*layers[:j], moves[j], *layers[j + 1 :]]) for j in range(len(layers))
    )
    problem = free_energy(FullRank(m, n, DeepLinearMetric(depth)), beta=1.0)
    np.testing.assert_allclose(-problem.riemannian_gradient(W), velocity, atol=1e-12)


def test_layers_that_move_by_mean_curvature(rng):
    layers = balanced_layers(random_matrix(rng, 2, 2, [2.0, 0.5]), 2)
    start = np.stack(layers)
    run = solve_ivp(
        lambda t, x: np.ravel(minus_mean_curvature(list(x.reshape(start.shape)))),
        (0, 1),
        start.ravel(),
        rtol=1e-10,
        atol=1e-12,
    )
    problem = free_energy(FullRank(2, 2, DeepLinearMetric(2)), beta=1.0)
    flow = gradient_flow(problem, end_to_end(layers), [0, 1])
    end = end_to_end(list(run.y[:, -1].reshape(start.shape)))
    np.testing.assert_allclose(flow.points[-1], end, atol=1e-7)


def radial_minimizer(target, depth, beta):
    """The least of sum (s_i - t_i)^2 / 2 - ln(theta) / (2 beta), theta a sum over two or three."""

    def slopes(s):
        a, b = s
        if depth == 2:
            theta, rises = a + b, np.ones(2)
        else:
            theta = a ** (4 / 3) + (a * b) ** (2 / 3) + b ** (4 / 3)
            rises = 4 / 3 * s ** (1 / 3) + 2 / 3 * s ** (-1 / 3) * s[::-1] ** (2 / 3)
        return s - target - rises / theta / (2 * beta)

    solution = root(slopes, np.asarray(target) + 1 / np.sqrt(beta), tol=1e-13)
    assert np.linalg.norm(slopes(solution.x)) < 1e-12
    return solution.x


@pytest.mark.parametrize("beta", [0.5, 3.0, 40.0])
@pytest.mark.parametrize("target", [[3.0, 1.0], [2.0, 2.0], [2.0, 0.1]])
@pytest.mark.parametrize("depth", [2, 3])
def test_minimizers_are_those_over_singular_values(rng, target, depth, beta):
    expected = radial_minimizer(target, depth, beta)
    gap, bend = expected[0] - expected[1], target[0] - target[1]
    # The entropy leaves the gap at depth 2 and narrows it beyond; ratios are drawn together.
    assert gap == pytest.approx(bend, abs=1e-11) or (depth == 3 and gap < bend)
    assert expected[0] / expected[1] <= target[0] / target[1] + 1e-11
    manifold = FullRank(2, 2, DeepLinearMetric(depth))
    problem = free_energy(fit(manifold, np.diag(target)), beta)
    turn = random_matrix(rng, 2, 2, [1.0, 1.0])
    start = 2 * np.eye(2) + 0.1 * turn
    optimizer = optimizers.TrustRegions(min_gradient_norm=1e-10, verbosity=0)
    result = optimizer.run(problem, initial_point=start)
    np.testing.assert_allclose(result.point, np.diag(expected), atol=1e-8)
    if beta == 3.0 and target == [2.0, 2.0]:
        flow = gradient_flow(problem, start, [0, 200], gradient_tolerance=1e-10)
        np.testing.assert_allclose(flow.points[-1], np.diag(expected), atol=1e-8)


@pytest.mark.parametrize(
    "optimizer",
    [optimizers.SteepestDescent, optimizers.ConjugateGradient, optimizers.TrustRegions],
)
def test_every_optimizer_runs_on_it(rng, optimizer):
    manifold = FullRank(2, 3, DeepLinearMetric(3))
    target = random_matrix(rng, 2, 3, [3.0, 1.0])
    problem = free_energy(fit(manifold, target), beta=2.0)
    result = optimizer(verbosity=0, min_gradient_norm=1e-6).run(problem, initial_point=target)
    s = np.linalg.svd(result.point, compute_uv=False)
    np.testing.assert_allclose(s, radial_minimizer([3.0, 1.0], 3, 2.0), atol=1e-5)


@pytest.mark.parametrize("backend", ["autograd", "numpy", "torch"])
def test_ensembles_flow_as_single_copies_do(rng, backend):
    manifold = FullRank(2, 3, DeepLinearMetric(3))
    starts, times = rng.standard_normal((2, 2, 3)), [0, 0.1, 0.3]
    if backend == "torch":
        pytest.importorskip("torch", reason="torch is optional")
    decorate = getattr(pymanopt.function, "pytorch" if backend == "torch" else backend)(manifold)

    @decorate
    def cost(W):
        return (W**2).sum(-1).sum(-1) / 2

    given = {"euclidean_gradient": decorate(lambda W: W)} if backend == "numpy" else {}
    problem = free_energy(pymanopt.Problem(manifold, cost, **given), beta=2.0)
    together = gradient_flow(problem, starts, times, vectorized=True)
    apart = gradient_flow(problem, starts, times)
    for k, start in enumerate(starts):
        alone = gradient_flow(problem, start, times)
        for flow in (together, apart):
            np.testing.assert_allclose(flow.points[:, k], alone.points, atol=1e-7)
            np.testing.assert_allclose(flow.costs[:, k], alone.costs, atol=1e-7)


@pytest.mark.parametrize("depth", [2, math.inf])
def test_ensembles_go_up_the_entropy(rng, depth):
    problem = free_energy(FullRank(2, 2, DeepLinearMetric(depth)), beta=1.0)
    starts = rng.standard_normal((3, 2, 2))
    together = gradient_flow(problem, starts, [0, 1], vectorized=True)
    for k, start in enumerate(starts):
        alone = gradient_flow(problem, start, [0, 1])
        np.testing.assert_allclose(together.points[:, k], alone.points, atol=1e-7)
    assert np.all(np.diff(together.costs, axis=0) < 0)


def test_single_precision_is_kept(rng):
    problem = free_energy(FullRank(2, 3, DeepLinearMetric(3)), beta=2.0)
    W, X = rng.standard_normal((2, 2, 3))
    exact = problem.cost(W), problem.euclidean_gradient(W), problem.euclidean_hessian(W, X)
    W, X = W.astype(np.float32), X.astype(np.float32)
    single = problem.cost(W), problem.euclidean_gradient(W), problem.euclidean_hessian(W, X)
    for actual, expected in zip(single, exact, strict=True):
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("depth", [2, 3, math.inf])
def test_singular_matrices_have_no_gradient(depth):
    problem = free_energy(FullRank(2, 2, DeepLinearMetric(depth)), beta=2.0)
    W = np.diag([4.0, 0.0])
    # theta(4, 0) = 4^{2 - 2/N}
    expected = np.inf if math.isinf(depth) else -(1 - 1 / depth) * np.log(4) / 2
    assert problem.cost(W) == pytest.approx(expected)
    with pytest.raises(ValueError, match="^the gradient of the entropy must be finite"):
        problem.riemannian_gradient(W)
    with pytest.raises(FlowError, match="^the gradient is not finite at time 0"):
        gradient_flow(problem, W, [0, 1])


@pytest.mark.parametrize(
    "manifold",
    [
        FixedRank(3, 3, 2, DeepLinearMetric(2)),
        FullRank(2, 2, SpectralMetric(lambda s, t: s + t)),
        pymanopt.manifolds.Euclidean(2, 2),
    ],
    ids=str,
)
def test_what_has_no_entropy_says_so(manifold):
    with pytest.raises(
        ValueError, match="^problem must be on .* with a DeepLinearMetric, the only"
    ):
        free_energy(manifold, 1.0)


@pytest.mark.parametrize("problem", [None, np.eye(2), DeepLinearMetric(2)], ids=str)
def test_what_is_no_problem_says_so(problem):
    with pytest.raises(TypeError, match=r"^problem must be a pymanopt\.Problem or a manifold, got"):
        free_energy(problem, 1.0)


@pytest.mark.parametrize("beta", [0, -1.0, math.nan, math.inf, "1", True, None])
def test_beta_is_positive_and_finite(beta):
    with pytest.raises((TypeError, ValueError), match="^beta must be"):
        free_energy(FullRank(2, 2, DeepLinearMetric(2)), beta)


@pytest.mark.parametrize("depth", [1.2, 1.5, 2, 3])
@pytest.mark.parametrize("small", [1e-4, 1e-8, 1e-12, 1e-16])
def test_the_entropy_pulls_on_small_singular_values_as_it_should(depth, small):
    """2 x 2, diag(1, s): dS / ds = s^{2/N - 1} / (N (1 - s^{2/N})) - s / (1 - s^2)."""
    gradient = DeepLinearMetric(depth).entropy_gradient(np.diag([1.0, small]))
    power = small ** (2 / depth)
    expected = power / small / depth / (1 - power) - small / (1 - small**2)
    assert gradient[1, 1] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("depth", [2, 3, math.inf])
def test_the_entropy_has_an_edge_at_zero_unless_it_is_constant(depth):
    metric, W = DeepLinearMetric(depth), np.diag([1.0, 0.0])
    assert np.all(np.isnan(metric.entropy_gradient(W)))
    assert np.all(np.isnan(metric.entropy_hessian(W, np.eye(2))))
    if depth < math.inf:
        assert not np.any(metric.entropy_gradient(np.zeros((3, 1))))
        assert not np.any(metric.entropy_hessian(np.zeros((1, 3)), np.ones((1, 3))))


@pytest.mark.parametrize(("depth", "imbalance"), [(1, 0), (2, 0.7), (3, [0.5, -0.2])])
def test_flows_start_at_zero_singular_values_where_the_rank_is_not_kept(depth, imbalance):
    manifold = FullRank(4, 2, DeepLinearMetric(depth, imbalance))
    problem = free_energy(fit(manifold, np.vstack([np.eye(2), np.ones((2, 2))])), beta=2.0)
    exact, near = (
        gradient_flow(problem, (np.eye(4, 2), np.array([1.0, least]), np.eye(2)), [0.0, 0.3, 1.0])
        for least in (0.0, 1e-12)
    )
    for (u, s, vt), (x, d, yt) in zip(exact.points, near.points, strict=True):
        np.testing.assert_allclose(u * s @ vt, x * d @ yt, rtol=0, atol=1e-7)


def test_at_depths_below_two_the_entropy_is_flat_at_a_zero():
    """At depth 1.5 it goes as s^{4/3}, which has a gradient and no second derivative."""
    metric, W = DeepLinearMetric(1.5), np.diag([1.0, 0.0])
    for X in np.diag([1.0, 0.0]), np.diag([0.0, 1.0]):
        slope = (metric.entropy(W + 1e-9 * X) - metric.entropy(W)) / 1e-9
        assert np.sum(metric.entropy_gradient(W) * X) == pytest.approx(slope, abs=1e-3)
    assert np.all(np.isnan(metric.entropy_hessian(W, np.eye(2))))
    assert np.all(np.isnan(metric.entropy_gradient(np.diag([1.0, 0.0, 0.0]))))
