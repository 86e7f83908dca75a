"""Ensembles: each copy against its own single flow."""

import autograd.numpy as anp
import numpy as np
import pymanopt
import pytest

from riemdln import (
    DeepLinearMetric,
    FixedRank,
    FullRank,
    Metric,
    PositiveDefinite,
    gradient_flow,
)
from tests.conftest import random_matrix

TARGET = np.array([[3.0, 1.0], [0.0, -1.0]])


def single(manifold, target=TARGET, exponent=2):
    @pymanopt.function.autograd(manifold)
    def cost(W):
        return anp.sum((W - target) ** exponent) / exponent

    @pymanopt.function.numpy(manifold)
    def gradient(W):
        return (W - target) ** (exponent - 1)

    return pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)


def stacked(manifold, target=TARGET, exponent=2):
    @pymanopt.function.autograd(manifold)
    def cost(W):
        return anp.sum((W - target) ** exponent, axis=(-2, -1)) / exponent

    return pymanopt.Problem(manifold, cost)


class Powers(Metric):
    """A metric of one's own: A(P) = (1 + |W|^2) P."""

    def sharp(self, W, euclidean_gradient):
        return (1 + np.sum(W**2, axis=(-2, -1), keepdims=True)) * euclidean_gradient


FIELDS = "points", "costs", "gradient_norms", "singular_values"


def compare(flow, copies, rtol=1e-6):
    """An ensemble has at each time what its copies have alone."""
    for k, copy in enumerate(copies):
        for name in FIELDS:
            ours, theirs = getattr(flow, name)[:, k], getattr(copy, name)
            np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=1e-6 * np.max(theirs))


@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3, np.inf])
def test_each_copy_flows_as_if_alone(rng, depth, vectorized):
    manifold = FullRank(2, 2, DeepLinearMetric(depth))
    starts = np.array([random_matrix(rng, 2, 2, s) for s in ([1, 0.5], [2, 1e-2], [0.3, 0.1])])
    times = [0, 0.1, 0.4, 2]
    problem = stacked(manifold) if vectorized else single(manifold)
    flow = gradient_flow(problem, starts, times, vectorized=vectorized)
    assert flow.points.shape == (4, 3, 2, 2)
    assert flow.costs.shape == flow.gradient_norms.shape == (4, 3)
    assert flow.singular_values.shape == (4, 3, 2)
    compare(flow, [gradient_flow(single(manifold), W, times) for W in starts])
    np.testing.assert_array_equal(flow.status, [0, 0, 0])
    np.testing.assert_array_equal(flow.success, [True] * 3)
    np.testing.assert_array_equal(flow.end_times, [2.0] * 3)
    assert flow.message == "3 copies reached the last time"


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("method", ["DOP853", "LSODA"])
def test_copies_of_very_different_stiffness(depth, method):
    # Of the fourth power the rates at 30 and at 0.1 are four orders of magnitude apart.
    manifold = FullRank(2, 2, DeepLinearMetric(depth))
    starts, times = np.array([size * np.eye(2) + 0.1 for size in (0.01, 30.0, 1.0)]), [0, 0.1, 1]
    flow = gradient_flow(single(manifold, exponent=4), starts, times, method=method)
    for k, W in enumerate(starts):
        alone = gradient_flow(single(manifold, exponent=4), W, times, method=method)
        np.testing.assert_allclose(flow.points[:, k], alone.points, atol=1e-6)


@pytest.mark.parametrize("method", ["RK23", "RK45", "DOP853"])
def test_one_hard_copy_among_many_is_as_accurate_as_alone(method):
    # One that moves among many at rest: a mean error over all would hide its own.
    manifold, options = FullRank(1, 1, DeepLinearMetric(2)), {"method": method, "rtol": 1e-6}
    starts = np.full((400, 1, 1), 3.0)
    starts[0] = 1e-3
    flow = gradient_flow(stacked(manifold, 3.0), starts, [0, 1], vectorized=True, **options)
    alone = gradient_flow(single(manifold, 3.0), starts[0], [0, 1], **options)
    expected = 3 / (1 + (3 / 1e-3 - 1) * np.exp(-6))
    error, own = (np.abs(x.item() / expected - 1) for x in (flow.points[-1, 0], alone.points[-1]))
    assert error <= 2 * own
    assert abs(flow.nfev - alone.nfev) <= 0.1 * alone.nfev + 13  # a first step may be one too many
    np.testing.assert_allclose(flow.points[-1, 1:], 3.0, rtol=1e-12)


@pytest.mark.parametrize("method", ["RK23", "RK45", "DOP853"])
def test_equal_copies_take_the_gradients_of_one(rng, method):
    manifold = FullRank(2, 2, DeepLinearMetric(3))
    start, times = random_matrix(rng, 2, 2, [1, 0.2]), [0, 0.3, 1]
    options = {"method": method, "rtol": 1e-5}
    starts = np.tile(start, (100, 1, 1))
    flow = gradient_flow(stacked(manifold), starts, times, vectorized=True, **options)
    alone = gradient_flow(single(manifold), start, times, **options)
    assert flow.nfev == alone.nfev
    np.testing.assert_allclose(flow.points[-1] - alone.points[-1], 0.0, atol=1e-10)


def test_a_metric_of_ones_own_flows_in_stacks(rng):
    manifold = FullRank(2, 2, Powers())
    starts, times = rng.standard_normal((3, 2, 2)), [0, 0.2, 1]
    flow = gradient_flow(single(manifold), starts, times)
    compare(flow, [gradient_flow(single(manifold), W, times) for W in starts])


def test_positive_definite_copies_stay_symmetric(rng):
    roots = rng.standard_normal((3, 2, 2))
    starts = roots @ roots.mT + 0.1 * np.eye(2)
    for depth in (1, 2):
        manifold = PositiveDefinite(2, DeepLinearMetric(depth))
        target = np.array([[2.0, 0.5], [0.5, 1.0]])
        flow = gradient_flow(single(manifold, target), starts, [0, 0.3, 1])
        alone = [gradient_flow(single(manifold, target), W, [0, 0.3, 1]) for W in starts]
        compare(flow, alone)
        np.testing.assert_allclose(flow.points, flow.points.mT, atol=1e-14)


def backend_problems(manifold, backend):
    """The squared distance to the target in the ways of a backend: of one, and of a stack."""
    if backend == "autograd":
        return stacked(manifold)
    if backend == "numpy":

        @pymanopt.function.numpy(manifold)
        def cost(W):
            return np.sum((W - TARGET) ** 2, axis=(-2, -1)) / 2

        @pymanopt.function.numpy(manifold)
        def gradient(W):
            return W - TARGET

        return pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)
    torch = pytest.importorskip("torch")

    @pymanopt.function.pytorch(manifold)
    def cost(W):
        return ((W - torch.as_tensor(TARGET)) ** 2).sum(dim=(-2, -1)) / 2

    return pymanopt.Problem(manifold, cost)


@pytest.mark.parametrize("backend", ["autograd", "numpy", "torch"])
def test_all_backends_take_stacks(rng, backend):
    manifold = FullRank(2, 2, DeepLinearMetric(2))
    problem, starts = backend_problems(manifold, backend), rng.standard_normal((3, 2, 2))
    flow = gradient_flow(problem, starts, [0, 0.3, 1], vectorized=True)
    compare(flow, [gradient_flow(single(manifold), W, [0, 0.3, 1]) for W in starts])


def test_the_riemannian_gradient_of_a_stack_may_be_given(rng):
    manifold = FullRank(2, 2, DeepLinearMetric(2))

    @pymanopt.function.numpy(manifold)
    def gradient(W):
        return manifold._metric.sharp(W, W - TARGET)

    cost = stacked(manifold).cost.__wrapped__
    problem = pymanopt.Problem(manifold, cost, riemannian_gradient=gradient)
    starts, times = rng.standard_normal((3, 2, 2)), [0, 0.3, 1]
    for vectorized, kind in (
        (True, problem),
        (
            False,
            pymanopt.Problem(
                manifold, single(manifold).cost.__wrapped__, riemannian_gradient=gradient
            ),
        ),
    ):
        flow = gradient_flow(kind, starts, times, vectorized=vectorized)
        compare(flow, [gradient_flow(single(manifold), W, times) for W in starts])


def test_a_stack_is_asked_for_once(rng):
    manifold, shapes = FullRank(2, 2, DeepLinearMetric(2)), []

    @pymanopt.function.numpy(manifold)
    def cost(W):
        return np.sum((W - TARGET) ** 2, axis=(-2, -1)) / 2

    @pymanopt.function.numpy(manifold)
    def gradient(W):
        shapes.append(W.shape)
        return W - TARGET

    problem, starts = (
        pymanopt.Problem(manifold, cost, euclidean_gradient=gradient),
        np.ones((5, 2, 2)),
    )
    starts = starts + rng.uniform(size=(5, 2, 2))
    flow = gradient_flow(problem, starts, [0, 1], vectorized=True)
    assert set(shapes) == {(5, 2, 2)}
    assert flow.nfev == len(shapes)
    shapes.clear()
    flow = gradient_flow(problem, starts, [0, 1])
    assert set(shapes) == {(2, 2)}
    assert 5 * flow.nfev == len(shapes)


def test_triples_hold_every_spread(rng):
    manifold, times = FullRank(3, 2, DeepLinearMetric(2)), [0, 0.5, 2]
    target, values = rng.standard_normal((3, 2)), [[1.0, 0.5], [1.0, 1e-12], [1e-3, 1e-30]]
    Q = [np.linalg.qr(rng.standard_normal((3, 2)))[0] for _ in values]
    P = [np.linalg.qr(rng.standard_normal((2, 2)))[0] for _ in values]
    start = np.array(Q), np.array(values), np.array(P)
    flow = gradient_flow(single(manifold, target), start, times)
    assert len(flow.points) == 3
    np.testing.assert_allclose(flow.points[0].s, values, rtol=1e-14)
    for k, triple in enumerate(zip(*start, strict=True)):
        alone = gradient_flow(single(manifold, target), triple, times)
        np.testing.assert_allclose(flow.singular_values[:, k], alone.singular_values, rtol=1e-5)
        for ours, theirs in zip(flow.points, alone.points, strict=True):
            product = ours.u[k] * ours.s[k] @ ours.vt[k]
            np.testing.assert_allclose(product, theirs.u * theirs.s @ theirs.vt, atol=1e-6)
            np.testing.assert_array_equal(ours.s[k], np.sort(ours.s[k])[::-1])


def logistic(t, s):
    """At depth 2, beside the target 3: w' = 2 w (3 - w)."""
    return 3 / (1 + (3 / s - 1) * np.exp(-6 * np.asarray(t)))


ENDS = {
    # w comes to where ln(w / (3 - w)) / 6 tells the time: |grad| = (2 w)^{1/2} (3 - w).
    "gradient_tolerance": (0.1, lambda w: np.sqrt(2 * w) * (3 - w) <= 0.1, 1),
    "cost_tolerance": (0.02, lambda w: (3 - w) ** 2 / 2 <= 0.02, 2),
    "stop": (lambda time, W, cost, norm: W[0, 0] >= 2.5, lambda w: w >= 2.5, 3),
}


@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("end", ENDS)
def test_copies_end_at_their_own_times(end, depth, vectorized):
    manifold = FullRank(1, 1, DeepLinearMetric(depth))
    starts, ends = np.array([1.0, 0.5, 2.4]).reshape(3, 1, 1), {end: ENDS[end][0]}
    times = [0, 0.2, 0.3, 0.5, 1, 8]
    problem = stacked(manifold, 3.0) if vectorized else single(manifold, 3.0)
    flow = gradient_flow(problem, starts, times, vectorized=vectorized, **ends)
    alone = [gradient_flow(single(manifold, 3.0), W, times, **ends) for W in starts]
    np.testing.assert_allclose(flow.end_times, [copy.end_times for copy in alone], rtol=1e-6)
    assert len(np.unique(flow.end_times)) == 3
    np.testing.assert_array_equal(flow.status, ENDS[end][2])
    np.testing.assert_array_equal(flow.success, True)
    last = flow.end_times.max()
    np.testing.assert_array_equal(flow.times, [*[t for t in times if t < last], last])
    for k, s in enumerate(starts.ravel()):
        lasting = np.minimum(flow.times, flow.end_times[k])  # they rest at their ends
        expected = logistic(lasting, s) if depth == 2 else 3 - (3 - s) * np.exp(-lasting)
        np.testing.assert_allclose(flow.points[:, k].ravel(), expected, rtol=1e-6)
        rests = flow.points[flow.times >= flow.end_times[k], k]
        np.testing.assert_allclose(rests, np.broadcast_to(rests[0], rests.shape), rtol=1e-14)
        if depth == 2:
            assert ENDS[end][1](flow.points[-1, k, 0, 0] + 1e-7)


def test_ends_of_each_copy_have_closed_form():
    manifold = FullRank(1, 1, DeepLinearMetric(2))
    starts = np.array([1.0, 0.5, 2.4])
    flow = gradient_flow(
        stacked(manifold, 3.0),
        starts.reshape(3, 1, 1),
        [0, 8],
        vectorized=True,
        cost_tolerance=0.02,
    )
    expected = (np.log(2.8 / 0.2) - np.log(starts / (3 - starts))) / 6
    np.testing.assert_allclose(flow.end_times, expected, rtol=1e-6)
    np.testing.assert_allclose(flow.costs[-1], 0.02, rtol=1e-5)


def test_copies_may_end_for_different_reasons():
    # Of e^{-t}, -2 e^{-t} and 100 e^{-t} the first meets the tolerance, the second comes to -1.
    manifold = FullRank(1, 1, DeepLinearMetric(1))
    flow = gradient_flow(
        single(manifold, 0.0),
        np.array([1.0, -2.0, 100.0]).reshape(3, 1, 1),
        [0, 1, 2],
        gradient_tolerance=0.5,
        stop=lambda time, W, cost, norm: W[0, 0] >= -1.0 and W[0, 0] < 0,
    )
    np.testing.assert_array_equal(flow.status, [1, 3, 0])
    np.testing.assert_allclose(flow.end_times, [np.log(2), np.log(2), 2], rtol=1e-6)
    np.testing.assert_allclose(flow.points[-1].ravel(), [0.5, -1, 100 * np.exp(-2)], rtol=1e-6)
    for reason in ("the last time", "the gradient tolerance", "to where stop is true"):
        assert reason in flow.message


@pytest.mark.parametrize("depth", [1, 2])
def test_a_copy_may_be_at_its_end_from_the_start(depth):
    manifold = FullRank(1, 1, DeepLinearMetric(depth))
    starts = np.array([1.0, 2.999, 0.5]).reshape(3, 1, 1)
    problem = single(manifold, 3.0)
    with pytest.warns(UserWarning, match="^1 of 3 copies reached the cost tolerance at the first"):
        flow = gradient_flow(problem, starts, [0, 0.5, 9], cost_tolerance=0.02)
    np.testing.assert_array_equal(flow.success, [True, False, True])
    np.testing.assert_array_equal(flow.status, [2, 2, 2])
    assert flow.end_times[1] == 0
    np.testing.assert_allclose(flow.points[:, 1], 2.999, rtol=1e-14)
    for k in (0, 2):
        alone = gradient_flow(problem, starts[k], [0, 0.5, 9], cost_tolerance=0.02)
        assert flow.end_times[k] == pytest.approx(alone.end_times, rel=1e-6)
    assert "at the first time already" in flow.message


def test_all_copies_may_be_at_their_ends_from_the_start():
    manifold = FullRank(1, 1, DeepLinearMetric(2))
    with pytest.warns(UserWarning, match="^2 of 2 copies"):
        flow = gradient_flow(
            single(manifold, 3.0), np.full((2, 1, 1), 3.0), [1, 2], gradient_tolerance=1e-3
        )
    np.testing.assert_array_equal(flow.times, [1])
    np.testing.assert_array_equal(flow.success, False)
    np.testing.assert_array_equal(flow.end_times, 1.0)


@pytest.mark.parametrize("end", ["gradient_tolerance", "cost_tolerance"])
@pytest.mark.parametrize("depth", [1, 2])
def test_copies_with_targets_of_their_own_end_at_their_own_times(end, depth):
    # What takes a stack may treat its copies differently: none may be asked for alone.
    manifold, targets = FullRank(1, 1, DeepLinearMetric(depth)), np.array([3.0, 2.0, 1.5])
    problem = stacked(manifold, targets.reshape(3, 1, 1))
    starts = np.ones((3, 1, 1))
    flow = gradient_flow(problem, starts, [0, 20], vectorized=True, **{end: 1e-2})
    for k, target in enumerate(targets):
        alone = gradient_flow(single(manifold, target), starts[k], [0, 20], **{end: 1e-2})
        assert flow.end_times[k] == pytest.approx(alone.end_times, rel=1e-6)
    np.testing.assert_allclose(
        flow.gradient_norms[-1] if end.startswith("g") else flow.costs[-1], 1e-2, rtol=1e-4
    )


def test_an_interrupted_ensemble_is_on_its_path():
    manifold, starts = FullRank(1, 1, DeepLinearMetric(2)), np.array([1.0, 1e-3])
    left = [0]

    @pymanopt.function.numpy(manifold)
    def cost(W):
        return float(np.sum((W - 3) ** 2) / 2)

    @pymanopt.function.numpy(manifold)
    def gradient(W):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return W - 3

    problem = pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)

    def run():
        return gradient_flow(problem, starts.reshape(2, 1, 1), [0, 0.1, 9], gradient_tolerance=0.1)

    whole = run()
    for calls in np.linspace(40, -left[0] - 1, 8, dtype=int):
        left[0] = calls
        with pytest.raises(KeyboardInterrupt) as info:
            run()
        result = info.value.result
        expected = [
            logistic(np.minimum(result.times, end), s)
            for s, end in zip(starts, whole.end_times, strict=True)
        ]
        np.testing.assert_allclose(result.points[..., 0, 0], np.transpose(expected), rtol=1e-4)
        ended = result.status != -1
        assert np.all(ended[whole.end_times < result.times[-1]])  # before the interruption
        np.testing.assert_array_equal(result.success, ended)
        np.testing.assert_array_equal(result.status[ended], whole.status[ended])
        assert result.message == "stopped by KeyboardInterrupt"


@pytest.mark.parametrize("method", ["RK45", "DOP853"])
def test_trial_steps_that_overflow_are_shortened_in_stacks(method):
    # The first steps of such a method lead from 30 to where W^4 is no number.
    manifold = FullRank(2, 2, DeepLinearMetric(2))
    starts = np.array([size * np.eye(2) + 0.1 for size in (0.01, 1.0, 30.0, 3.0)])
    times = [0, 0.1, 0.5, 2]
    with np.errstate(all="ignore"):
        flow = gradient_flow(single(manifold, exponent=4), starts, times, method=method)
    assert np.all(np.diff(flow.costs, axis=0) < 0)


def test_refuses_costs_of_another_shape():
    manifold = FullRank(2, 2, DeepLinearMetric(2))
    with pytest.raises(ValueError, match=r"shape \(3,\), one number for each, got \(\)"):
        gradient_flow(single(manifold), np.stack([np.eye(2)] * 3), [0, 1], vectorized=True)

    @pymanopt.function.autograd(manifold)
    def column(W):
        return anp.sum(W**2, axis=(1, 2))[:, None]

    problem = pymanopt.Problem(manifold, column)
    with pytest.raises(ValueError, match=r"shape \(3,\), one number for each, got \(3, 1\)"):
        gradient_flow(problem, np.stack([np.eye(2)] * 3), [0, 1], vectorized=True)


def test_refuses_a_single_point_where_stacks_are_meant():
    manifold = FullRank(2, 2, DeepLinearMetric(2))
    for point in (np.eye(2), (np.eye(2), np.ones(2), np.eye(2))):
        with pytest.raises(ValueError, match="^vectorized=True needs a stack of points"):
            gradient_flow(stacked(manifold), point, [0, 1], vectorized=True)


@pytest.mark.parametrize("depth", [1, 2])
def test_refuses_stacks_that_are_none(depth):
    manifold = FullRank(2, 2, DeepLinearMetric(depth))
    for shape in ((0, 2, 2), (2, 3, 2, 2), (3, 2), (4, 3, 2)):
        with pytest.raises(ValueError, match="^initial_point must"):
            gradient_flow(single(manifold), np.ones(shape), [0, 1])
    fixed = FixedRank(3, 2, 1, DeepLinearMetric(2))

    @pymanopt.function.autograd(fixed)
    def cost(u, s, vt):
        return anp.sum(s)

    point = np.full((2, 3, 1), 3**-0.5), np.ones((2, 1)), np.full((2, 1, 2), 2**-0.5)
    with pytest.raises(ValueError, match="^initial_point must be a single point"):
        gradient_flow(pymanopt.Problem(fixed, cost), point, [0, 1])
