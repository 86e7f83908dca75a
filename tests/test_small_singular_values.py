"""Small singular values along flows, against closed forms and arithmetic of forty digits."""

import autograd.numpy as anp
import numpy as np
import pymanopt
import pytest

from riemdln import (
    DeepLinearMetric,
    FixedRank,
    FullRank,
    balanced_layers,
    gradient_flow,
    network_flow,
)
from tests.conftest import random_matrix


def distance(manifold, target):
    """Half the squared distance to a target, on arrays or triples."""
    if isinstance(manifold, FixedRank):

        @pymanopt.function.autograd(manifold)
        def cost(u, s, vt):
            return anp.sum((u * s @ vt - target) ** 2) / 2

    else:

        @pymanopt.function.autograd(manifold)
        def cost(W):
            return anp.sum((W - target) ** 2) / 2

    return pymanopt.Problem(manifold, cost)


def logistic(t, s, a):
    """Of depth 2: the singular value that starts at s beside the target a, s' = 2 s (a - s)."""
    return a / (1 + (a / s - 1) * np.exp(-2 * a * np.asarray(t, dtype=float)))


@pytest.mark.parametrize("run", ["manifold", "network"])
def test_a_number_does_not_pass_through_zero(run):
    problem = distance(FullRank(1, 1, DeepLinearMetric(2)), 3.0)
    times = np.linspace(0, 20, 41)
    if run == "manifold":
        flow = gradient_flow(problem, [[-1.0]], times, rtol=1e-10)
    else:
        flow = network_flow(problem, balanced_layers([[-1.0]], 2), times, rtol=1e-10)
    values = flow.points.ravel()
    np.testing.assert_allclose(values, -logistic(times, 1.0, -3.0), rtol=1e-6)
    np.testing.assert_allclose(flow.singular_values.ravel(), -values, rtol=1e-12)
    np.testing.assert_allclose(values[-1], -5.7507360552915e-53, rtol=1e-6)


SADDLE = np.linalg.qr([[1.0, 0.0], [1e-3, 1.0], [0.0, 1e-3], [0.0, 0.0]])[0]


@pytest.mark.parametrize("manifold", [FullRank, FixedRank])
def test_leaves_a_saddle_for_lower_rank(manifold):
    u, s, vt = SADDLE, np.array([1.0, 0.5]), np.eye(2, 3)
    target = np.zeros((4, 3))
    target[[0, 1], [0, 1]] = 3.0, -1.0
    metric = DeepLinearMetric(2)
    if manifold is FullRank:
        flow = gradient_flow(distance(FullRank(4, 3, metric), target), u * s @ vt, [0, 10])
        assert flow.singular_values[-1, 2] < 1e-15  # rank 2 from the start
    else:
        flow = gradient_flow(distance(FixedRank(4, 3, 2, metric), target), (u, s, vt), [0, 10])
        np.testing.assert_array_equal(flow.points[-1].s, flow.singular_values[-1])
    np.testing.assert_allclose(flow.singular_values[-1, :2], [3.0, 5.77967e-12], rtol=1e-4)
    assert flow.costs[-1] == pytest.approx(0.5, rel=1e-9)


@pytest.mark.parametrize(
    ("size", "depth", "seed"), [(2, 2, 0), (2, np.inf, 1), (3, 2, 2), (3, 3, 3), (2, 5, 4)]
)
def test_the_sign_of_the_determinant_stays(size, depth, seed):
    rng = np.random.default_rng(seed)
    u, vt = (np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2))
    u[:, 0] *= -np.linalg.det(u) * np.linalg.det(vt)
    start = u, np.sort(rng.uniform(0.1, 2, size))[::-1], vt
    target = rng.standard_normal((size, size))
    target[:, 0] *= np.linalg.slogdet(target)[0]  # of the other sign: the flow tends to lower rank
    problem, times = distance(FullRank(size, size, DeepLinearMetric(depth)), target), [0, 2, 10, 40]
    flow = gradient_flow(problem, start, times)
    for point in flow.points:
        assert np.linalg.det(point.u) * np.linalg.det(point.vt) == pytest.approx(-1, abs=1e-12)
        assert point.s.min() > 0
    assert flow.points[-1].s.min() < 0.05
    if np.isinf(depth):
        return
    network = network_flow(problem, balanced_layers(u * start[1] @ vt, depth), times)
    errors = network.singular_value_errors
    claimed = errors < 1e-4 * network.singular_values
    assert claimed[0].all()
    assert claimed[:, 0].all()
    np.testing.assert_allclose(
        network.singular_values[claimed], flow.singular_values[claimed], rtol=1e-4
    )


@pytest.mark.parametrize("least", [1e-8, 1e-12, 1e-30, 0.0])
def test_tiny_singular_values_cost_few_gradients(rng, least):
    metric, target = DeepLinearMetric(2), random_matrix(rng, 5, 4, [3.0, 2.0, 0.0, 0.0])
    U, _, Vt = np.linalg.svd(target)
    u, s, vt = U[:, :2], np.array([1.0, least]), Vt[:2]
    problem = distance(FixedRank(5, 4, 2, metric), target)
    flow = gradient_flow(problem, (u, s, vt), [0, 1, 3, 8])
    expected = [logistic(flow.times, 1.0, 3.0)]
    expected += [logistic(flow.times, least, 2.0) if least else np.zeros(4)]
    np.testing.assert_allclose(flow.singular_values, np.transpose(expected), rtol=1e-6)
    assert flow.nfev < 2000
    # Also where the singular vectors have to turn.
    turned = np.linalg.qr(u + 0.3 * rng.standard_normal(u.shape))[0]
    flow = gradient_flow(problem, (turned, s, vt), [0, 8])
    assert flow.nfev < 2000
    assert np.all(np.diff(flow.costs) < 0)
    if not least:
        np.testing.assert_array_equal(flow.singular_values[:, 1], 0.0)


@pytest.mark.parametrize("depth", [2, 3, np.inf])
def test_a_start_of_any_spread_grows_in_its_own_time(rng, depth):
    # ds/dt = N s^{2 - 2/N} (a - s): where s is small the time to a value is known.
    Q, P = (np.linalg.qr(rng.standard_normal((2, 2)))[0] for _ in range(2))
    s, a = np.array([1e-2, 1e-2 * 1e-9 if depth == 2 else 1e-4]), np.array([2.0, 1.0])
    problem = distance(FullRank(2, 2, DeepLinearMetric(depth)), Q * a @ P)
    flow = gradient_flow(problem, (Q, s, P), [0, 1e-2, 1.0], rtol=1e-10)

    def elapsed(now, then, a):
        if depth == 2:  # ln(s / (a - s)) / 2a
            return (np.log(now / (a - now)) - np.log(then / (a - then))) / (2 * a)
        x, w = np.polynomial.legendre.leggauss(60)
        exponent = 2.0 if np.isinf(depth) else 2 - 2 / depth
        factor = 1.0 if np.isinf(depth) else depth
        low, high = np.log(then), np.log(now)
        r = np.exp(low + (high - low) * (x + 1) / 2)
        return (high - low) / 2 * np.sum(w * r ** (1 - exponent) / (factor * (a - r)))

    for k in (1, 2):
        for now, then, b in zip(flow.singular_values[k], s, a, strict=True):
            assert elapsed(now, then, b) == pytest.approx(flow.times[k], rel=1e-6)
    np.testing.assert_allclose(flow.points[0].s, s, rtol=1e-14)


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_the_size_of_the_matrix_does_not_matter(rng, scale):
    # At depth 2 with W scaled by c, and time by 1 / c, the flow of <P, W> is the same.
    manifold, P = FullRank(3, 2, DeepLinearMetric(2)), rng.standard_normal((3, 2))

    @pymanopt.function.autograd(manifold)
    def cost(W):
        return anp.sum(P * W)

    problem, start = pymanopt.Problem(manifold, cost), random_matrix(rng, 3, 2, [1.0, 1e-3])
    flow = gradient_flow(problem, start, [0, 0.7, 3])
    scaled = gradient_flow(problem, scale * start, [0, 0.7, 3])
    np.testing.assert_allclose(scaled.points / scale, flow.points, rtol=1e-6)
    np.testing.assert_allclose(scaled.singular_values / scale, flow.singular_values, rtol=1e-6)


def test_rows_between_steps_are_as_true_as_the_steps(rng):
    # Where stability bounds the steps of an explicit method its interpolant may be far worse.
    Q, P = (np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in range(2))
    s, a = np.array([1.0, 0.9, 0.02]), np.array([10.0, 4.0, -1.0])
    problem = distance(FullRank(3, 3, DeepLinearMetric(2)), Q * a @ P)
    times = np.append(0.0, np.linspace(3, 7, 41))
    flow = gradient_flow(problem, (Q, s, P), times)
    expected = np.transpose([logistic(times, *pair) for pair in zip(s, a, strict=True)])
    np.testing.assert_allclose(flow.singular_values, expected, rtol=1e-6)
