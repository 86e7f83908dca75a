"""Flows of layers, against equation (7) and an integrator of SciPy."""

import re
from functools import reduce
from itertools import pairwise
from itertools import product as product_of

import autograd.numpy as anp
import numpy as np
import pymanopt
import pytest
import scipy.integrate
from pymanopt.manifolds import Euclidean

from riemdln import (
    DeepLinearMetric,
    FixedRank,
    balanced_layers,
    end_to_end,
    network_flow,
    random_layers,
)
from riemdln.flows import _network as module


def distance(target):
    manifold = Euclidean(*target.shape)

    @pymanopt.function.autograd(manifold)
    def cost(W):
        return anp.sum((W - target) ** 2) / 2

    @pymanopt.function.numpy(manifold)
    def gradient(W):
        return W - target

    return pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)


def product(layers, size):
    return reduce(lambda W, layer: layer @ W, layers, np.eye(size))


def reference(layers, target, times):
    """The layers at each time by equation (7), product by product."""
    ends, n = np.cumsum([W.size for W in layers])[:-1], layers[0].shape[1]

    def parts(y):
        return [x.reshape(W.shape) for x, W in zip(np.split(y, ends), layers, strict=True)]

    def velocity(_, y):
        now = parts(y)
        G = product(now, n) - target
        motions = [
            product(now[j + 1 :], len(W)).T @ G @ product(now[:j], n).T for j, W in enumerate(now)
        ]
        return -np.concatenate([motion.ravel() for motion in motions])

    solution = scipy.integrate.solve_ivp(
        velocity,
        (times[0], times[-1]),
        np.concatenate([W.ravel() for W in layers]),
        t_eval=times,
        method="DOP853",
        rtol=1e-12,
        atol=1e-14,
    )
    return [parts(y) for y in solution.y.T]


def imbalance_of(layers):
    defects = [b.T @ b - a @ a.T for a, b in pairwise(layers)]
    return max((np.linalg.norm(D) for D in defects), default=0.0)


WIDTHS = [
    (3, 2),
    (2, 3, 4),
    (4, 1, 3),
    (2, 5, 3),
    (1, 4, 1),
    (3, 2, 3, 3),
    (3, 3, 3, 3),
    (4, 2, 4, 3),
    (2, 4, 5, 2),
    (4, 2, 1, 3, 4),
    (2, 5, 1, 5, 4),
    (3, 3, 3, 3, 3),
]
TIMES = [0, 0.3, 1, 3]


@pytest.fixture(scope="module", params=WIDTHS, ids=str)
def both(request):
    """The flow of random layers of these widths, and what equation (7) says of it."""
    rng, widths = np.random.default_rng(sum(request.param)), request.param
    layers = [0.7 * rng.standard_normal((after, before)) for before, after in pairwise(widths)]
    target = rng.standard_normal((widths[-1], widths[0]))
    flow = network_flow(distance(target), layers, TIMES)
    return flow, reference(layers, target, TIMES), target


def test_layers_move_as_their_equation_says(both):
    flow, expected, target = both
    for layers, others, point in zip(flow.layers, expected, flow.points, strict=True):
        for layer, other in zip(layers, others, strict=True):
            np.testing.assert_allclose(layer, other, atol=1e-6)
        W = product(layers, target.shape[1])
        np.testing.assert_allclose(point, W, atol=1e-13 * (1 + np.linalg.norm(W)))
    costs = [np.sum((product(layers, target.shape[1]) - target) ** 2) / 2 for layers in expected]
    np.testing.assert_allclose(flow.costs, costs, rtol=1e-5, atol=1e-12)


def test_imbalances_are_those_of_the_start(both):
    flow, expected, _ = both
    start = imbalance_of(expected[0])
    np.testing.assert_allclose(flow.imbalances, start, rtol=1e-6, atol=1e-12)
    for layers in flow.layers:
        assert imbalance_of(layers) == pytest.approx(start, rel=1e-6, abs=1e-12)


def test_singular_value_errors_bound_the_errors(both):
    flow, expected, target = both
    for s, errors, layers in zip(
        flow.singular_values, flow.singular_value_errors, expected, strict=True
    ):
        true = np.linalg.svd(product(layers, target.shape[1]), compute_uv=False)[: len(s)]
        rounding = 1e-13 * true[0]  # of what SVDs of products are worth
        assert np.all(np.abs(s - true) <= errors + rounding)
        assert np.isfinite(errors).all()


def test_singular_value_errors_are_not_idle(both):
    flow, *_ = both
    # Of layers of order one the integrator errs by about its tolerance, and the margin is 100.
    assert np.all(flow.singular_value_errors <= 1e-3 * (1 + flow.singular_values[:, :1]))
    noisy = np.any(flow.singular_values <= flow.singular_value_errors)
    assert ("are noise" in flow.message) == noisy


def test_all_that_is_left_out_of_the_singular_values_is_zero(both):
    flow, *_ = both
    for s, layers in zip(flow.singular_values, flow.layers, strict=True):
        all_of_them = np.linalg.svd(end_to_end(layers), compute_uv=False)
        assert np.all(all_of_them[len(s) :] <= 1e-12 * all_of_them[0])


@pytest.mark.parametrize("depth", [2, 3])
def test_hidden_rotations_change_nothing(rng, depth):
    # W_{j+1} Q^T and Q W_j: the same end-to-end flow, with layers that are turned alike.
    start, target = rng.standard_normal((3, 4)), rng.standard_normal((3, 4))
    layers = balanced_layers(start, depth)
    turns = [np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in layers[1:]]
    before, after = [np.eye(4), *turns], [*turns, np.eye(3)]
    turned = [Q @ W @ P.T for P, W, Q in zip(before, layers, after, strict=True)]
    flow, other = (network_flow(distance(target), W, [0, 1, 4]) for W in (layers, turned))
    np.testing.assert_allclose(other.points, flow.points, atol=1e-6)
    np.testing.assert_allclose(other.singular_values, flow.singular_values, rtol=1e-6)
    for ours, theirs in zip(flow.layers, other.layers, strict=True):
        for P, W, V, Q in zip(before, ours, theirs, after, strict=True):
            np.testing.assert_allclose(V, Q @ W @ P.T, atol=1e-6)
    assert np.abs(flow.layers[-1][0] - layers[0]).max() > 0.01


def test_the_message_says_below_which_size_singular_values_are_noise(rng):
    # The least singular value falls towards a target of the other sign, as e^{-2t}.
    Q, P = (np.linalg.qr(rng.standard_normal((2, 2)))[0] for _ in range(2))
    problem, layers = distance(Q * [3.0, -1.0] @ P), balanced_layers(Q @ P, 2)
    flow = network_flow(problem, layers, [0, 0.5])
    assert flow.message == "reached the last time"
    assert np.all(flow.singular_values > flow.singular_value_errors)
    flow = network_flow(problem, layers, [0, 0.5, 10.0, 20.0, 40.0])
    noisy = flow.singular_values <= flow.singular_value_errors
    np.testing.assert_array_equal(noisy.any(axis=1), [False, False, False, True, True])
    found = re.fullmatch(
        r"reached the last time; from time 20 on singular values below ([\d.e+-]+) are noise, "
        "and so is the sign of a determinant",
        flow.message,
    )
    errors = flow.singular_value_errors[noisy]
    assert np.ptp(errors) > 0.2 * errors.max()
    assert float(found[1]) == pytest.approx(errors.max(), rel=0.06)
    assert flow.singular_values[-1, 1] <= flow.singular_value_errors[-1, 1]
    assert flow.status == 0


@pytest.mark.parametrize("seed", [0, 2, 5])
def test_errors_of_what_falls_for_long_are_claimed(seed):
    # s' = 2 s (-1 - s) from 1. Errors of balance grow beside it, until a determinant turns.
    rng = np.random.default_rng(seed)
    Q, P = (np.linalg.qr(rng.standard_normal((2, 2)))[0] for _ in range(2))
    times = [0, 10, 15, 20, 40]
    flow = network_flow(distance(Q * [3.0, -1.0] @ P), balanced_layers(Q @ P, 2), times)
    expected = 1 / (2 * np.exp(2 * flow.times) - 1)
    errors = np.abs(flow.singular_values[:, 1] - expected)
    assert np.all(errors <= flow.singular_value_errors[:, 1] + 1e-8 * expected)
    if np.linalg.det(flow.points[-1]) * np.linalg.det(flow.points[0]) < 0:
        assert "so is the sign of a determinant" in flow.message


def test_a_zero_of_wide_layers_is_a_number():
    target = np.diag([1.0, 0.5])
    for layers in (
        [np.zeros((2, 2))],
        [np.eye(3, 2), np.zeros((2, 3))],
        [np.zeros((2, 2)), np.zeros((2, 2))],
    ):
        flow = network_flow(distance(target), layers, [0, 1.0])
        np.testing.assert_array_equal(flow.singular_values[0], 0.0)
        assert np.isfinite(flow.singular_value_errors).all()
        n = layers[0].shape[1]
        expected = [product(W, n) for W in reference(layers, target, [0, 1.0])]
        np.testing.assert_allclose(flow.points, expected, atol=1e-7)


@pytest.mark.parametrize("hidden", [2, 3])
def test_weights_that_grow_from_nothing_take_new_bases(hidden):
    # From 1e-6 to 1: the bases wear out on the way, and the layers are in those that were given.
    rng = np.random.default_rng(5)
    layers = [1e-3 * rng.standard_normal((hidden, 3)), 1e-3 * rng.standard_normal((2, hidden))]
    target, times = np.array([[2.0, 1.0, 0.0], [0.5, -1.0, 1.5]]), [0, 2, 4, 8]
    flow = network_flow(distance(target), layers, times, rtol=1e-10)
    for ours, theirs in zip(flow.layers, reference(layers, target, times), strict=True):
        for layer, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(layer, other, atol=1e-5)
    np.testing.assert_allclose(flow.points[-1], target, atol=1e-4)


def test_a_wide_layer_leaves_rounding_errors_of_the_largest():
    S, (c, s) = np.eye(3, 2) * [1.0, 1e-10], (np.cos(0.4), np.sin(0.4))
    R = np.array([[c, -s], [s, c]])
    flow = network_flow(distance(np.eye(2)), [S @ R.T, R @ S.T], [0, 1.0])
    assert flow.singular_value_errors.min() > 1e-17  # where s_2 is 1e-20
    assert "are noise" in flow.message


def test_doubts_of_imbalances_are_turned_with_them():
    # Errors |E| <= R are Q^T E Q in a new basis Q, and some choice of signs makes each the largest.
    layers = [np.array([[1.0, 0.2], [0.4, 0.6]]), np.array([[0.7, -0.3], [0.5, 0.9]])]
    R = np.array([[1.0, 0.3], [0.3, 0.5]])
    parts = [np.eye(2)], [np.zeros((2, 2))], [R], [np.zeros(2)]
    turned = module._Layers(None, end_to_end, 0.0, layers, *parts)._turned(layers)
    (Q,) = turned._turns
    assert np.abs(Q).min() > 0.1
    errors = [Q.T @ (R * np.reshape(signs, (2, 2))) @ Q for signs in product_of([1, -1], repeat=4)]
    np.testing.assert_allclose(turned._doubts[0], np.max(np.abs(errors), axis=0), rtol=1e-14)


def test_gradients_of_factors_are_refused_on_fixed_rank():
    manifold = FixedRank(4, 3, 2, DeepLinearMetric(2))

    @pymanopt.function.autograd(manifold)
    def cost(u, s, vt):
        return anp.sum((u * s @ vt) ** 2) / 2

    with pytest.raises(
        TypeError, match=r"euclidean_gradient must be an m x n matrix .* of its own"
    ):
        network_flow(pymanopt.Problem(manifold, cost), random_layers([3, 2, 4], rng=0), [0, 1])
