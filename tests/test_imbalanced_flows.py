"""Flows of two layers out of balance by a multiple of I, against their solution in closed form."""

import autograd.numpy as anp
import mpmath
import numpy as np
import pymanopt
import pytest
from scipy.integrate import solve_ivp

from riemdln import (
    DeepLinearMetric,
    FixedRank,
    FlowError,
    FullRank,
    SpectralMetric,
    balanced_layers,
    end_to_end,
    gradient_flow,
    network_flow,
)
from riemdln.kernels import ImbalancedKernel
from tests.conftest import fit

TIMES = [0.0, 0.3, 1.0, 4.0]


def solution(layers, target, times, digits=60):
    """The end-to-end matrices of layers with W_2^T W_2 - W_1 W_1^T = l I that learn a target.

    Let Q stack W_1^T and W_2, and K = [[-l I / 2, T^T], [T, l I / 2]]. The flow of the layers down
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


def problem_on(X, Y, imbalance):
    manifold = FullRank(len(Y), len(X), DeepLinearMetric(2, imbalance=imbalance))
    numpy = pymanopt.function.numpy(manifold)
    return pymanopt.Problem(
        manifold,
        numpy(lambda W: np.sum((W @ X - Y) ** 2) / 2),
        euclidean_gradient=numpy(lambda W: (W @ X - Y) @ X.T),
    )


@pytest.mark.parametrize(
    ("m", "n", "difference"),
    [
        (m, n, difference)
        for m, n in [(3, 3), (2, 4), (4, 2), (1, 3), (3, 1)]
        for difference in (0.0, 0.7, -5.0)
    ],
)
def test_two_layers_and_their_metric_learn_as_riccati_has_it(m, n, difference):
    rng = np.random.default_rng(m + 10 * n)
    X, Y = regression(m, n, 6, rng)
    # Half-way to the target, so that the flow keeps away from lower rank.
    start = 0.5 * Y @ X.T + 0.1 * rng.standard_normal((m, n))
    layers = layers_over(start, difference, rng)
    exact = solution(layers, Y @ X.T, TIMES)
    problem = problem_on(X, Y, difference)
    network = network_flow(problem, layers, TIMES, rtol=1e-11, atol=1e-12)
    flow = gradient_flow(problem, start, TIMES, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(network.points, exact, rtol=0, atol=1e-9)
    np.testing.assert_allclose(flow.points, exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("difference", [-0.7, -5.0])
def test_flows_of_rows_past_zero_keep_their_digits(difference):
    # The first layer keeps its length, and the last, a number, changes its sign. So W passes
    # through zero, where its entries lose its direction: the flow holds it beside them.
    rng = np.random.default_rng(31)
    X, Y = regression(1, 3, 6, rng)
    start = rng.standard_normal((1, 3))
    problem = problem_on(X, Y, difference)
    exact = solution(layers_over(start, difference, rng), Y @ X.T, TIMES)
    assert np.any(start @ X @ Y.T < 0)  # W turns round
    flow = gradient_flow(problem, start, TIMES, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(flow.points, exact, rtol=0, atol=1e-9)


# Layers whose product does not determine them at lower rank: the outer layer that turns with it is
# not the one that goes to zero there.
UNDETERMINED = [(4, 3, 3, 0.5), (2, 4, 2, -0.7), (3, 1, 2, 0.7), (3, 5, 3, (-1.0, 2.0))]


def triple(m, n, s, rng):
    u, v = (np.linalg.qr(rng.standard_normal((size, len(s))))[0] for size in (m, n))
    return u, np.array(s), v.T


@pytest.mark.parametrize(("m", "n", "depth", "imbalance"), UNDETERMINED)
def test_through_lower_rank_flows_are_as_true_as_the_layers(m, n, depth, imbalance):
    rng, r = np.random.default_rng(m + 10 * n), min(m, n)
    u, s, vt = triple(m, n, [1.5, 1.0, 0.3][-r:], rng)
    target = u @ np.diag([*np.full(r - 1, 2.0), -2.0]) @ vt + 0.2 * rng.standard_normal((m, n))
    problem = fit(FullRank(m, n, DeepLinearMetric(depth, imbalance)), target)
    W, times, fine = u * s @ vt, np.linspace(0.0, 2.0, 6), {"rtol": 1e-11, "atol": 1e-12}
    network = network_flow(problem, balanced_layers(W, depth, imbalance), times, **fine)
    # A singular value passes through zero: the square part of the layers turns round.
    squares = [end_to_end(layers[:-1] if m > n else layers[1:]) for layers in network.layers]
    assert np.linalg.det(squares[0]) * np.linalg.det(squares[-1]) < 0
    for tolerances, error in ((fine, 1e-9), ({}, 3e-7)):
        flow = gradient_flow(problem, W, times, **tolerances)
        np.testing.assert_allclose(flow.points, network.points, rtol=0, atol=error)
        np.testing.assert_allclose(flow.gradient_norms, network.gradient_norms, rtol=0, atol=error)


@pytest.mark.parametrize(
    ("m", "n", "depth", "imbalance", "rank"),
    [*((*case, rank) for case in UNDETERMINED for rank in (0, 1)), (4, 3, 3, (0.0, 1.0), 1)],
)
def test_at_lower_rank_the_singular_vectors_say_what_the_layers_are(m, n, depth, imbalance, rank):
    rng, r = np.random.default_rng(m + 10 * n), min(m, n)
    u, s, vt = start = triple(m, n, np.eye(r)[:rank].sum(axis=0), rng)
    problem = fit(FullRank(m, n, DeepLinearMetric(depth, imbalance)), rng.standard_normal((m, n)))
    times, fine = [0.0, 0.5], {"rtol": 1e-11, "atol": 1e-12}
    network = network_flow(problem, balanced_layers(start, depth, imbalance), times, **fine)
    flow = gradient_flow(problem, start, times, **fine)
    points = [u * s @ vt for u, s, vt in flow.points]
    np.testing.assert_allclose(points, network.points, rtol=0, atol=1e-9)
    np.testing.assert_allclose(flow.gradient_norms, network.gradient_norms, rtol=0, atol=1e-9)
    if rank < r:
        with pytest.raises(ValueError, match=r"^initial_point must have full rank, or be a triple"):
            gradient_flow(problem, u * s @ vt, times)


@pytest.mark.parametrize(("m", "n", "difference"), [(2, 4, -0.7), (4, 2, 5.0), (3, 1, 0.7)])
def test_two_layers_leave_zero_as_riccati_has_it(m, n, difference):
    rng = np.random.default_rng(m + 10 * n)
    u, s, vt = triple(m, n, np.zeros(min(m, n)), rng)
    target, sizes = rng.standard_normal((m, n)), np.sqrt(np.maximum([-difference, difference], 0))
    exact = solution([sizes[0] * vt, sizes[1] * u], target, TIMES)
    flow = gradient_flow(
        fit(FullRank(m, n, DeepLinearMetric(2, difference)), target),
        (u, s, vt),
        TIMES,
        rtol=1e-11,
        atol=1e-12,
    )
    points = [u * s @ vt for u, s, vt in flow.points]
    np.testing.assert_allclose(points, exact, rtol=0, atol=1e-9)


def test_a_flow_that_ends_near_lower_rank_goes_on_from_its_triple():
    rng = np.random.default_rng(31)
    start = triple(4, 1, [0.3], rng)
    target = -2.0 * start[0] * start[2] + 0.2 * rng.standard_normal((4, 1))
    problem = fit(FullRank(4, 1, DeepLinearMetric(2, 0.7)), target)
    fine = {"rtol": 1e-11, "atol": 1e-12}
    whole = gradient_flow(problem, start, np.linspace(0.0, 2.0, 401), **fine)
    least = int(np.argmin(whole.singular_values[:, 0]))
    assert 0 < least < 400
    assert whole.singular_values[least, 0] < 1e-2
    u, s, vt = whole.points[-1]
    rest = gradient_flow(problem, whole.points[least], [whole.times[least], 2.0], **fine)
    x, d, yt = rest.points[-1]
    np.testing.assert_allclose(x * d @ yt, u * s @ vt, rtol=0, atol=1e-9)


def test_copies_past_lower_rank_flow_each_for_itself():
    rng = np.random.default_rng(4)
    starts, target = rng.standard_normal((2, 3, 2)), rng.standard_normal((3, 2))
    problem = fit(FullRank(3, 2, DeepLinearMetric(2, 0.7)), target)
    times, fine = [0.0, 1.0], {"rtol": 1e-11, "atol": 1e-12}
    flow = gradient_flow(problem, starts, times, **fine)
    for k, start in enumerate(starts):
        alone = gradient_flow(problem, start, times, **fine)
        np.testing.assert_allclose(flow.points[:, k], alone.points, rtol=0, atol=1e-9)
        np.testing.assert_allclose(
            flow.singular_values[:, k], alone.singular_values, rtol=0, atol=1e-9
        )


def test_imbalance_leads_through_lower_rank_to_the_other_sign_of_a_determinant():
    rng = np.random.default_rng(0)
    target, start = np.diag([2.0, 1.0]), np.diag([1.0, -0.3])
    for difference, sign in [(0.5, 1), (-0.5, 1), (0.0, -1)]:
        exact = solution(layers_over(start, difference, rng), target, [0.0, 2.0, 5.0])
        problem = problem_on(np.eye(2), target, difference)
        flow = gradient_flow(problem, start, [0.0, 2.0, 5.0], rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(flow.points, exact, rtol=0, atol=1e-9)
        assert np.sign(np.linalg.det(flow.points[-1])) == sign


@pytest.mark.parametrize(("m", "n"), [(3, 3), (2, 4), (4, 2), (1, 3), (3, 1)])
def test_orthogonal_layers_of_separate_neurons_have_the_metric_of_an_imbalance(m, n):
    # Rows of W_2 and columns of W_1 are orthogonal and of one length, as in the limit of great
    # width; W_2^T W_2 - W_1 W_1^T is far from a multiple of I.
    rng = np.random.default_rng(m + 10 * n)
    X, Y = regression(m, n, 6, rng)
    basis = np.linalg.qr(rng.standard_normal((m + n + 2, m + n)))[0]
    scale = 0.8
    layers = [scale * basis[:, :n], scale * basis[:, n:].T]
    problem = problem_on(X, Y, 2 * scale**2 * (1 if m <= n else -1))
    network = network_flow(problem, layers, TIMES, rtol=1e-11, atol=1e-12)
    flow = gradient_flow(problem, np.zeros((m, n)), TIMES, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(network.points, flow.points, rtol=0, atol=1e-9)


def test_wide_random_layers_move_by_the_metric_of_their_width():
    rng = np.random.default_rng(0)
    imbalance, target = 1.3, rng.standard_normal((2, 3))
    times = [0.0, 0.2, 0.6, 2.0]
    problem = problem_on(np.eye(3), target, imbalance)
    exact = gradient_flow(problem, np.zeros((2, 3)), times).points
    distances = []
    for width in (10**2, 10**3, 10**4, 10**5):
        scale = (imbalance / (2 * width)) ** 0.5
        draws = []
        for _ in range(5):
            first = scale * rng.standard_normal((width, 3))
            second = scale * rng.standard_normal((2, width))
            # The layers stay in the span of the rows of W_2 and the columns of W_1.
            basis = np.linalg.qr(np.hstack([first, second.T]))[0]
            network = network_flow(problem, [basis.T @ first, second @ basis], times)
            draws.append(np.linalg.norm(network.points - exact, axis=(1, 2)).max())
        distances.append(np.mean(draws))
    power = np.polyfit(np.log([1e2, 1e3, 1e4, 1e5]), np.log(distances), 1)[0]
    assert abs(power + 0.5) < 0.1
    assert distances[-1] < 1e-2


def test_a_start_where_singular_vectors_turn_infinitely_fast_is_refused():
    # With a constant beside it the cometric turns the direction of W = 0 at an infinite rate.
    kernel = ImbalancedKernel([0.5])
    target, start = np.array([[2.0], [0.3], [0.1]]), (np.eye(3, 1), np.zeros(1), np.eye(1))
    problem = fit(FullRank(3, 1, SpectralMetric(kernel)), target)
    assert gradient_flow(problem, start, [0.0, 1.0]).success
    problem = fit(FullRank(3, 1, SpectralMetric(kernel + 0.1)), target)
    with pytest.raises(FlowError, match="singular vectors turn infinitely fast"):
        gradient_flow(problem, start, [0.0, 1.0])


def test_rounding_errors_of_single_precision_say_no_singular_vectors():
    problem = fit(FullRank(4, 2, DeepLinearMetric(2, 0.7)), np.ones((4, 2)))
    W = np.outer([0.1, 0.2, 0.3, 0.4], [0.6, 0.8]).astype(np.float32)
    assert np.linalg.svd(W.astype(np.float64))[1][-1] > 1e-16
    with pytest.raises(ValueError, match="^initial_point must have full rank, or be a triple"):
        gradient_flow(problem, W, [0.0, 0.5])


@pytest.mark.parametrize("imbalance", [0.0, 0.7])
def test_a_triple_stands_for_its_matrix_whatever_its_factors_are(imbalance, rng):
    # Those of tiny factors would be lost in absolute tolerances.
    u, s, vt = triple(4, 2, [2.0, 0.5], rng)
    problem = fit(FullRank(4, 2, DeepLinearMetric(2, imbalance)), np.ones((4, 2)))
    turn, times = np.array([[1.0, 1.0], [0.0, 1e-3]]), [0.0, 0.5]
    expected = gradient_flow(problem, u * s @ vt, times).points
    for factors in (
        (1e-12 * u, 1e24 * s, 1e-12 * vt),
        (u @ turn, np.ones(2), np.linalg.solve(turn, s[:, None] * vt)),
    ):
        points = [x * d @ yt for x, d, yt in gradient_flow(problem, factors, times).points]
        np.testing.assert_allclose(points, expected, rtol=0, atol=1e-7)
    u[:, 1] = 0.0
    with pytest.raises(ValueError, match=r"^initial_point\.u must have rank 2"):
        gradient_flow(problem, (u, s, vt), times)


@pytest.mark.parametrize("part", [0, 2])
def test_layers_of_a_triple_need_orthonormal_vectors(part, rng):
    start = [*triple(4, 3, [2.0, 1.0, 0.5], rng)]
    start[part] = start[part] * (1.0 + 1e-7)
    with pytest.raises(ValueError, match=rf"^W\[{part}\] must have orthonormal"):
        balanced_layers(tuple(start), 2, 0.7)


def test_rounding_errors_turn_no_singular_vector_at_zero(rng):
    # The target has the singular vectors of the start, one of which belongs to zero.
    u, s, vt = triple(5, 4, [1.0, 0.0], rng)
    target = u * [2.0, 1.0] @ vt
    manifold = FixedRank(5, 4, 2, DeepLinearMetric(1))

    @pymanopt.function.autograd(manifold)
    def cost(u, s, vt):
        return anp.sum((u * s @ vt - target) ** 2) / 2

    problem = pymanopt.Problem(manifold, cost)
    flow = gradient_flow(problem, (u, s, vt), [0.0, 1.0], rtol=1e-11, atol=1e-12)
    x, d, yt = flow.points[-1]
    exact = u * [2 - np.exp(-1.0), 1 - np.exp(-1.0)] @ vt
    np.testing.assert_allclose(x * d @ yt, exact, atol=1e-9)


KERNEL = ImbalancedKernel([0.0, 1.0])  # two layers go to zero with s, and the third one stays


@pytest.mark.parametrize(
    ("kernel", "columns", "rows"),
    [
        (ImbalancedKernel([0.7]), True, False),
        (KERNEL, True, False),
        (KERNEL + 0.1, True, False),
        (ImbalancedKernel([-1.0, 0.0]) + 0.1, False, True),
        (ImbalancedKernel([0.0, 1e-6]) + 0.1, True, False),
        (ImbalancedKernel([0.0, 1e6]) + 0.1, True, False),
        (ImbalancedKernel([1.0, -1.0]) + 0.1, False, False),
        (DeepLinearMetric(3).kernel + 0.1, False, False),
    ],
    ids=str,
)
def test_metrics_need_frames_where_edges_are_no_limits(kernel, columns, rows):
    metric = SpectralMetric(kernel)
    assert metric.needs_frame(4, 2) is columns
    assert metric.needs_frame(2, 4) is rows
    assert not metric.needs_frame(3, 3)


@pytest.mark.parametrize("size", [0, -1, 2.5, "2", None])
def test_sizes_of_frames_are_whole_numbers(size):
    for name, shape in (("m", (size, 2)), ("n", (2, size))):
        with pytest.raises((TypeError, ValueError), match=f"^{name} must be a"):
            SpectralMetric(KERNEL).needs_frame(*shape)


def test_sums_with_such_a_kernel_flow_from_triples():
    target, s = np.diag([2.0, 1.5]), np.array([1.0, 0.0])
    start, times = (np.eye(4, 2), s, np.eye(2)), [0.0, 0.5, 2.0]
    problem = fit(FullRank(4, 2, SpectralMetric(KERNEL + 0.1)), np.eye(4, 2) @ target)

    def speed(t, s):
        """(q'(x) + 0.1) (target - s), with q(x) = x^2 (x + 1) = s^2."""
        x = np.array([np.roots([1, 1, 0, -(size**2)]).real.max() for size in s])
        return (3 * x**2 + 2 * x + 0.1) * (np.diag(target) - s)

    expected = solve_ivp(speed, (0.0, 2.0), s, t_eval=times, rtol=1e-9, atol=1e-10).y.T
    flow = gradient_flow(problem, start, times)
    points = [u * s @ vt for u, s, vt in flow.points]
    np.testing.assert_allclose(points, [np.eye(4, 2) * s for s in expected], rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"^initial_point must have full rank, or be a triple"):
        gradient_flow(problem, np.eye(4, 2) * s, times)


@pytest.mark.parametrize(("m", "n", "imbalance"), [(4, 2, [0.0, 1.0]), (2, 4, [-1.0, 0.0])])
def test_the_kernel_alone_flows_from_triples_as_the_layers(m, n, imbalance):
    rng = np.random.default_rng(m)
    start, target = triple(m, n, [1.0, 0.0], rng), rng.standard_normal((m, n))
    times, fine = [0.0, 0.5, 2.0], {"rtol": 1e-11, "atol": 1e-12}
    network = network_flow(
        fit(FullRank(m, n, DeepLinearMetric(3, imbalance)), target),
        balanced_layers(start, 3, imbalance),
        times,
        **fine,
    )
    metric = SpectralMetric(ImbalancedKernel(imbalance))
    flow = gradient_flow(fit(FullRank(m, n, metric), target), start, times, **fine)
    points = [u * s @ vt for u, s, vt in flow.points]
    np.testing.assert_allclose(points, network.points, rtol=0, atol=1e-9)


def test_of_a_stack_the_matrices_of_lower_rank_alone_need_frames(rng):
    # At zero the kernel agrees with its edges, and at the other matrix it does not.
    metric, W = SpectralMetric(KERNEL), np.stack([np.zeros((4, 2)), rng.standard_normal((4, 2))])
    P = rng.standard_normal((2, 4, 2))
    expected = [metric.sharp(*pair) for pair in zip(W, P, strict=True)]
    np.testing.assert_allclose(metric.sharp(W, P), expected, rtol=0, atol=1e-14)
    with pytest.raises(ValueError, match="^W must have full rank under the kernel"):
        metric.sharp(np.stack([W[1], np.eye(4, 2) * [1.0, 0.0]]), P)
