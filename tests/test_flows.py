import pickle
import re
from dataclasses import fields
from functools import partialmethod
from itertools import pairwise

import autograd.numpy as anp
import numpy as np
import pymanopt
import pytest
import scipy.integrate
from pymanopt.manifolds import (
    ComplexCircle,
    ComplexEuclidean,
    ComplexGrassmann,
    Elliptope,
    Euclidean,
    FixedRankEmbedded,
    Grassmann,
    HermitianPositiveDefinite,
    Oblique,
    PoincareBall,
    Positive,
    Product,
    PSDFixedRank,
    PSDFixedRankComplex,
    SkewSymmetric,
    SpecialHermitianPositiveDefinite,
    SpecialOrthogonalGroup,
    Sphere,
    SphereSubspaceComplementIntersection,
    SphereSubspaceIntersection,
    Stiefel,
    Symmetric,
    SymmetricPositiveDefinite,
    UnitaryGroup,
)
from tqdm import tqdm

from riemdln import (
    DeepLinearMetric,
    FixedRank,
    FlowError,
    FullRank,
    KroneckerMetric,
    Metric,
    PositiveDefinite,
    balanced_layers,
    end_to_end,
    gradient_flow,
    imbalance,
    load_flow,
    network_flow,
    random_layers,
)
from riemdln._arrays import NotFiniteError
from tests.conftest import random_matrix

TIGHT = {"rtol": 1e-12, "atol": 1e-13}


def problem_on(manifold, target, exponent=4):
    @pymanopt.function.autograd(manifold)
    def cost(W):
        return anp.sum((W - target) ** exponent) / exponent

    @pymanopt.function.numpy(manifold)  # in a fifth of the time of automatic differentiation
    def gradient(W):
        return (W - target) ** (exponent - 1)

    return pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize(("m", "n"), [(3, 3), (2, 4), (4, 2), (1, 4)])
def test_the_flow_of_the_metric_is_the_flow_of_the_balanced_network(rng, m, n, depth):
    start, target = random_matrix(rng, m, n), rng.standard_normal((m, n))
    problem = problem_on(FullRank(m, n, DeepLinearMetric(depth)), target)
    times, tolerances = np.linspace(0, 1, 5), {"rtol": 1e-11, "atol": 1e-12}
    flow = gradient_flow(problem, start, times, **tolerances)
    network = network_flow(problem, balanced_layers(start, depth), times, **tolerances)
    np.testing.assert_allclose(flow.points, network.points, atol=1e-8)
    np.testing.assert_allclose(flow.gradient_norms, network.gradient_norms, rtol=1e-6)
    np.testing.assert_allclose(flow.costs, network.costs, rtol=1e-6)
    assert network.imbalances.max() < 1e-9


@pytest.fixture(scope="module")
def unbalanced():
    """The flow of unbalanced layers, and the same by equation (7) and an integrator of SciPy."""
    layers, target = random_layers([4, 3, 5, 2], scale=0.7, rng=0), np.ones((2, 4))
    times = [0, 0.5, 1]
    flow = network_flow(problem_on(Euclidean(2, 4), target), layers, times, **TIGHT)

    def parts(state):
        return [
            part.reshape(W.shape) for part, W in zip(np.split(state, [12, 27]), layers, strict=True)
        ]

    def velocity(_, state):
        first, second, third = parts(state)
        G = (third @ second @ first - target) ** 3
        motions = (third @ second).T @ G, third.T @ G @ first.T, G @ (second @ first).T
        return -np.concatenate([motion.ravel() for motion in motions])

    start = np.concatenate([layer.ravel() for layer in layers])
    solution = scipy.integrate.solve_ivp(velocity, (0, 1), start, t_eval=times, **TIGHT)
    return flow, [parts(state) for state in solution.y.T]


def test_the_layers_at_each_time_are_those_of_that_time(unbalanced):
    flow, reference = unbalanced
    for point, layers, expected in zip(flow.points, flow.layers, reference, strict=True):
        np.testing.assert_allclose(end_to_end(layers), point, rtol=1e-13)
        for layer, other in zip(layers, expected, strict=True):
            np.testing.assert_allclose(layer, other, atol=1e-7)


def test_an_unbalanced_network_conserves_its_imbalance(unbalanced):
    flow, _ = unbalanced
    start = random_layers([4, 3, 5, 2], scale=0.7, rng=0)
    np.testing.assert_allclose(flow.imbalances, imbalance(start), rtol=1e-9)
    for j in range(2):
        before = start[j + 1].T @ start[j + 1] - start[j] @ start[j].T
        for earlier, later in pairwise([start, *flow.layers[1:]]):
            assert np.abs(later[j + 1] - earlier[j + 1]).max() > 0.01  # while the layers move
            after = later[j + 1].T @ later[j + 1] - later[j] @ later[j].T
            np.testing.assert_allclose(after, before, atol=1e-9)
            assert np.linalg.norm(after) > 0.1


@pytest.mark.parametrize("depth", [1, 2, 3, np.inf])
def test_singular_values_obey_their_equation(rng, depth):
    W, target = random_matrix(rng, 3, 3, [2.0, 1.0, 0.5]), rng.standard_normal((3, 3))
    problem = problem_on(FullRank(3, 3, DeepLinearMetric(depth)), target)
    h = 1e-5
    flow = gradient_flow(problem, W, [0, h, 2 * h], **TIGHT)
    values = [np.linalg.svd(point)[1] for point in flow.points]
    U, s, Vt = np.linalg.svd(flow.points[1])
    P = problem.euclidean_gradient(flow.points[1])
    factor = s**2 if np.isinf(depth) else depth * s ** (2 - 2 / depth)
    expected = -factor * np.diag(U.T @ P @ Vt.T)
    np.testing.assert_allclose((values[2] - values[0]) / (2 * h), expected, rtol=1e-5, atol=1e-5)


def test_the_euclidean_flow_of_a_quadratic_is_exponential(rng):
    for manifold in (Euclidean(5), Euclidean(2, 3), FullRank(2, 3, DeepLinearMetric(1))):
        target = manifold.random_point()
        start, times = 0 * target + 1.0, np.array([1.0, 1.5, 4.0])
        flow = gradient_flow(problem_on(manifold, target, 2), start, times, **TIGHT)
        decay = np.exp(-(times - 1)).reshape(-1, *([1] * target.ndim))
        np.testing.assert_allclose(flow.points, target + decay * (start - target), atol=1e-9)
        np.testing.assert_array_equal(flow.times, times)
        assert flow.message == "reached the last time"


def test_stays_on_a_curved_manifold():
    manifold, scales = Sphere(3), np.array([1.0, 2.0, 3.0])

    @pymanopt.function.autograd(manifold)
    def cost(x):
        return anp.sum(scales * x**2) / 2

    start, times = np.ones(3) / np.sqrt(3), np.array([0.0, 1.0, 5.0, 40.0])
    flow = gradient_flow(pymanopt.Problem(manifold, cost), start, times)
    expected = start * np.exp(-scales * times[:, None])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(flow.points, expected, atol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(flow.points, axis=1), 1, rtol=1e-14)


def test_rotations_go_down_as_their_equation_says():
    # Of the rotation by a the cost -tr(X) is -2 cos(a), and |dX/da|^2 = 2: a' = -sin(a).
    manifold = SpecialOrthogonalGroup(2)

    @pymanopt.function.autograd(manifold)
    def cost(X):
        return -anp.sum(np.eye(2) * X)

    times = np.linspace(0, 5, 6)
    angles = 2 * np.arctan(np.tan(1.0) * np.exp(-times))
    c, s = np.cos(angles), np.sin(angles)
    expected = np.moveaxis(np.array([[c, -s], [s, c]]), -1, 0)
    flow = gradient_flow(pymanopt.Problem(manifold, cost), expected[0], times)
    np.testing.assert_allclose(flow.points, expected, atol=1e-7)
    np.testing.assert_allclose(flow.costs, -2 * c, atol=1e-7)
    np.testing.assert_allclose(flow.gradient_norms, np.sqrt(2) * s, atol=1e-7)


def test_a_product_flows_as_its_factors_do():
    metric, times = DeepLinearMetric(2), np.array([0.0, 0.3, 1.0])
    factors = [
        FullRank(2, 3, metric, rng=0),
        FixedRank(4, 3, 2, metric, rng=0),
        Euclidean(2),
        Sphere(3),
    ]
    targets = [np.arange(6.0).reshape(2, 3), np.ones((4, 3)), np.array([1.0, -2.0]), np.arange(3.0)]
    start = [factors[0].random_point(), factors[1].random_point(), np.zeros(2), np.ones(3) / 3**0.5]

    def distance(j):
        if j == 1:
            return lambda u, s, vt: anp.sum((u * s @ vt - targets[1]) ** 2) / 2
        return lambda x: anp.sum((x - targets[j]) ** 2) / 2

    product = Product(factors)

    @pymanopt.function.autograd(product)
    def cost(W, u, s, vt, x, y):
        return distance(0)(W) + distance(1)(u, s, vt) + distance(2)(x) + distance(3)(y)

    flow = gradient_flow(pymanopt.Problem(product, cost), start, times, **TIGHT)
    alone = [
        gradient_flow(
            pymanopt.Problem(factor, pymanopt.function.autograd(factor)(distance(j))),
            x,
            times,
            **TIGHT,
        )
        for j, (factor, x) in enumerate(zip(factors, start, strict=True))
    ]
    assert isinstance(flow.points, list)
    for k, (W, triple, x, y) in enumerate(flow.points):
        for j, point in ((0, W), (2, x), (3, y)):
            np.testing.assert_allclose(point, alone[j].points[k], atol=1e-9)
        (u, s, vt), other = triple, alone[1].points[k]
        np.testing.assert_allclose(u * s @ vt, other.u * other.s @ other.vt, atol=1e-9)
    np.testing.assert_allclose(flow.costs, sum(part.costs for part in alone), rtol=1e-9)
    squares = sum(part.gradient_norms**2 for part in alone)
    np.testing.assert_allclose(flow.gradient_norms, np.sqrt(squares), rtol=1e-7)
    assert np.all(np.diff(flow.costs) < -0.1)


@pytest.mark.parametrize("method", ["RK45", "Radau", "LSODA"])
def test_takes_the_methods_of_scipy(method):
    problem = problem_on(FullRank(1, 1, DeepLinearMetric(2)), 2.0, 2)
    flow = gradient_flow(problem, [[0.1]], [0, 1, 2], method=method, max_step=0.5)
    reference = gradient_flow(problem, [[0.1]], [0, 1, 2], **TIGHT)
    np.testing.assert_allclose(flow.points, reference.points, rtol=1e-5)


@pytest.mark.parametrize("run", ["manifold", "network"])
def test_stops_at_a_gradient_tolerance(run):
    problem = problem_on(FullRank(1, 1, DeepLinearMetric(2)), 2.0, 2)
    if run == "manifold":
        flow = gradient_flow(problem, [[1.0]], [0, 1, 100, 200], gradient_tolerance=1e-3)
    else:
        layers = balanced_layers([[1.0]], 2)
        flow = network_flow(problem, layers, [0, 1, 100, 200], gradient_tolerance=1e-3)
    assert flow.gradient_norms[-1] == pytest.approx(1e-3, rel=1e-5)
    assert 1 < flow.times[-1] < 100
    assert len(flow.times) == len(flow.points) == len(flow.costs) == 3
    assert (flow.status, flow.success) == (1, True)
    assert flow.message == "reached the gradient tolerance"
    assert flow.end_times == flow.times[-1]
    assert flow.singular_values[-1] == pytest.approx(np.abs(flow.points[-1].ravel()), rel=1e-14)


@pytest.mark.parametrize(
    ("ends", "status", "reason"),
    [
        ({"gradient_tolerance": 1e-3}, 1, "the gradient tolerance"),
        ({"cost_tolerance": 2.1}, 2, "the cost tolerance"),
        ({"stop": lambda *_: True}, 3, "to where stop is true"),
    ],
)
@pytest.mark.parametrize("run", ["manifold", "network"])
def test_what_is_met_at_the_first_time_is_no_success(run, ends, status, reason):
    # Near the saddle 0 the gradient is small, and the cost 2.
    problem = problem_on(FullRank(1, 1, DeepLinearMetric(2)), 2.0, 2)
    run, start = {
        "manifold": (gradient_flow, [[1e-8]]),
        "network": (network_flow, balanced_layers([[1e-8]], 2)),
    }[run]
    with pytest.warns(UserWarning, match=f"{reason} at the first time already") as seen:
        flow = run(problem, start, [3, 5], **ends)
    assert ("near a saddle" in str(seen[0].message)) == (status == 1)
    assert seen[0].filename == __file__
    assert (flow.status, flow.success, flow.end_times) == (status, False, 3.0)
    assert flow.message.endswith(f"{reason}, at the first time already")
    np.testing.assert_array_equal(flow.times, [3])
    np.testing.assert_allclose(flow.points, [[[1e-8]]], rtol=1e-14)


def test_goes_on_smoothly_to_lower_rank(rng):
    target = random_matrix(rng, 3, 4, [2.0, 0.0, 0.0])
    problem = problem_on(FullRank(3, 4, DeepLinearMetric(2)), target, 2)
    flow = gradient_flow(problem, random_matrix(rng, 3, 4, [1.0, 1.0, 1.0]), [0, 1, 10, 100])
    assert np.isfinite(flow.gradient_norms).all()
    assert np.all(np.diff(flow.costs) < 0)
    assert flow.costs[-1] < 1e-4  # s_2 and s_3 fall as 1 / 2t


def blowing_up():
    manifold = FullRank(1, 1, DeepLinearMetric(3))

    @pymanopt.function.autograd(manifold)
    def cost(W):
        return -anp.sum(W**3)

    return pymanopt.Problem(manifold, cost)


def test_failure_of_the_integrator_keeps_what_was_computed():
    with (
        np.errstate(all="ignore"),
        pytest.raises(FlowError, match="integrator DOP853 failed") as info,
    ):
        gradient_flow(blowing_up(), [[1.0]], [0, 0.01, 0.02, 10.0])
    result = info.value.result
    np.testing.assert_array_equal(result.times[:3], [0, 0.01, 0.02])
    assert len(result.times) == 4
    assert 0.04 < result.times[3] < 0.048  # w' = 9 w^{10/3}: w = (1 - 21 t)^{-3/7}
    expected = (1 - 21 * result.times[:3]) ** (-3 / 7)
    np.testing.assert_allclose(result.points[:3].ravel(), expected, rtol=1e-6)
    assert np.all(np.diff(result.points.ravel()) > 0)
    assert (result.status, result.success, result.message) == (-1, False, "stopped by FlowError")
    assert result.end_times == result.times[3]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_interruption_keeps_what_was_computed(error):
    manifold = Euclidean(1, 1)

    @pymanopt.function.numpy(manifold)
    def cost(W):
        if W[0, 0] < 0.5:
            raise error
        return float(W[0, 0] ** 2 / 2)

    @pymanopt.function.numpy(manifold)
    def gradient(W):
        return W

    problem = pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)
    with pytest.raises(error) as info:
        network_flow(problem, [np.ones((1, 1))], [0, 0.1, 0.2, 5.0])
    assert len(info.value.result.layers) == 3
    assert "result" in info.value.__notes__[0]


def test_shows_progress_on_request(capsys):
    problem = problem_on(Euclidean(1, 1), 0.0, 2)
    for times in ([0, 1, 2], [-3, -1]):
        gradient_flow(problem, [[1.0]], times, progress=True)
        shown = f"100%|██████████| t = {times[-1]} of {times[-1]}, cost 0.009158 ["  # e^{-4} / 2
        assert shown in capsys.readouterr().err
    gradient_flow(problem, [[1.0]], [0, 1, 2])
    assert capsys.readouterr().err == ""


def shown_progress(capsys, monkeypatch, **ends):
    """The shares, times and costs that the bar of the flow e^{2 - t} shows, from t = 2 to 6."""
    monkeypatch.setattr(tqdm, "__init__", partialmethod(tqdm.__init__, mininterval=0, miniters=0))
    problem = problem_on(Euclidean(1, 1), 0.0, 2)
    gradient_flow(problem, [[1.0]], [2, 6], progress=True, **ends)
    bar = r"(\d+)%\|[^\r]*\| t = ([\d.]+) of 6, cost ([\d.e-]+) \["
    return np.array(re.findall(bar, capsys.readouterr().err), dtype=float).T


@pytest.mark.parametrize(("tolerance", "last"), [(None, 6.0), (np.exp(-1.0), 3.0)])
def test_progress_is_the_time_that_the_flow_has_come_to(capsys, monkeypatch, tolerance, last):
    shares, reached, _ = shown_progress(capsys, monkeypatch, gradient_tolerance=tolerance)
    np.testing.assert_allclose(shares, 100 * (reached - 2) / 4, atol=0.6)
    assert np.all(np.diff(reached) >= 0)
    assert len(np.unique(reached)) > 2
    assert reached[-1] == last


@pytest.mark.parametrize("tolerance", [None, np.exp(-1.0)])
def test_progress_shows_the_cost_at_its_time(capsys, monkeypatch, tolerance):
    _, reached, costs = shown_progress(capsys, monkeypatch, gradient_tolerance=tolerance)
    np.testing.assert_allclose(costs, np.exp(-2 * (reached - 2)) / 2, rtol=5e-3)


@pytest.mark.parametrize("times", [[0, 0], [1, 0], [], [[0, 1]], [0, np.nan]])
def test_refuses_times_that_do_not_increase(times):
    with pytest.raises(ValueError, match="^times must be"):
        gradient_flow(problem_on(Euclidean(1, 1), 0.0), [[1.0]], times)


def test_refuses_bad_arguments():
    problem = problem_on(Euclidean(2, 3), 0.0)
    with pytest.raises(TypeError, match=r"^problem must be a pymanopt\.Problem"):
        gradient_flow(None, np.ones((2, 3)), [0, 1])
    with pytest.raises(ValueError, match="^gradient_tolerance must be"):
        gradient_flow(problem, np.ones((2, 3)), [0, 1], gradient_tolerance=0.0)
    with pytest.raises(ValueError, match="^initial_point must be finite"):
        gradient_flow(problem, np.full((2, 3), np.nan), [0, 1])
    with pytest.raises(ValueError, match="^layers must chain"):
        network_flow(problem, [np.ones((2, 3)), np.ones((3, 3))], [0, 1])
    embedded = FixedRankEmbedded(4, 3, 2)

    @pymanopt.function.autograd(embedded)
    def cost(u, s, vt):
        return anp.sum(s)

    problem = pymanopt.Problem(embedded, cost)
    with pytest.raises(ValueError, match=r"^problem\.manifold must have arrays as points"):
        gradient_flow(problem, embedded.random_point(), [0, 1])
    with pytest.raises(ValueError, match=r"^problem\.manifold must have arrays as points"):
        network_flow(problem, [np.ones((2, 3)), np.ones((4, 2))], [0, 1])


def test_refuses_starts_of_another_shape_than_the_problem():
    problem = problem_on(FullRank(3, 3, DeepLinearMetric(2)), np.eye(3))
    with pytest.raises(ValueError, match=r"^initial_point must have shape \(3, 3\), .* \(2, 2\)"):
        gradient_flow(problem, np.eye(2), [0, 1])
    with pytest.raises(ValueError, match=r"^the end-to-end matrix .* \(3, 3\), .* \(1, 3\)"):
        network_flow(problem, [np.ones((1, 3))], [0, 1])


def test_takes_the_first_step_and_refuses_options_of_its_own():
    problem = problem_on(FullRank(2, 2, DeepLinearMetric(2)), np.eye(2))
    flow = gradient_flow(problem, 2 * np.eye(2), [0, 0.5, 1], first_step=1e-3)
    assert flow.times[-1] == 1
    with pytest.raises(TypeError, match="^options must not contain events, t_eval"):
        gradient_flow(problem, np.eye(2), [0, 1], events=None, t_eval=None)


def exploding_problem(evaluations=None):
    """A cost whose gradient overflows where a trial step leads, though the flow is tame."""
    manifold = FullRank(1, 1, DeepLinearMetric(3))

    @pymanopt.function.numpy(manifold)
    def cost(W):
        return np.cosh(40 * W[0, 0])

    @pymanopt.function.numpy(manifold)
    def gradient(W):
        if evaluations is not None:
            evaluations.append(W)
        return 40 * np.sinh(40 * W)

    return pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("method", ["DOP853", "RK45"])
def test_shortens_trial_steps_that_overflow(method):
    flow = gradient_flow(exploding_problem(), [[2.0]], [0, 1e-30, 1e-3], method=method)
    assert np.isfinite(flow.costs).all()
    assert flow.costs[-1] < 10 * np.cosh(40 * 0.2)


def test_starts_may_be_whole_numbers_or_of_single_precision():
    problem = problem_on(FullRank(2, 2, DeepLinearMetric(2)), np.eye(2))
    reference = gradient_flow(problem, 2 * np.eye(2), [0, 1]).points[-1]
    for dtype in (int, np.float32):
        flow = gradient_flow(problem, 2 * np.eye(2, dtype=dtype), [0, 1])
        np.testing.assert_allclose(flow.points[-1], reference, rtol=1e-12)


@pytest.mark.parametrize(("method", "looks"), [("RK23", 2), ("LSODA", 0)])
def test_more_times_cost_no_more_gradients_until_they_are_observed(method, looks):
    # But for two looks at the interpolant of an explicit method, at most in every step.
    counts = []
    for times in ([0, 1], np.linspace(0, 1, 101)):
        manifold, evaluations = Euclidean(1), []

        @pymanopt.function.numpy(manifold)
        def cost(x):
            return float(x[0] ** 2 / 2)

        @pymanopt.function.numpy(manifold)
        def gradient(x, evaluations=evaluations):
            evaluations.append(x)
            return x

        problem = pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)
        flow = gradient_flow(problem, [1.0], times, method=method, rtol=1e-8)
        np.testing.assert_allclose(flow.points[:, 0], np.exp(-np.asarray(times)), rtol=1e-6)
        counts.append(len(evaluations) - len(times))
    assert counts[0] <= counts[1] <= counts[0] + 100 * looks


def test_refuses_methods_that_scipy_does_not_have():
    for method in ("Euler", "simpson", np.linalg.svd):
        with pytest.raises(ValueError, match="^method must be an integrator"):
            gradient_flow(problem_on(Euclidean(1, 1), 0.0), [[1.0]], [0, 1], method=method)


@pytest.mark.parametrize("options", [{"atol": 0.0}, {"first_step": np.nan}, {"max_step": -1.0}])
def test_refuses_steps_without_a_scale(options):
    problem = problem_on(FullRank(2, 2, DeepLinearMetric(2)), np.eye(2))
    with pytest.raises(ValueError, match=f"^{next(iter(options))} must be positive"):
        gradient_flow(problem, np.eye(2), [0, 1], **options)


def test_a_flow_that_leaves_the_range_of_numbers_says_so():
    with np.errstate(all="ignore"), pytest.raises(FlowError, match="integrator LSODA failed"):
        gradient_flow(blowing_up(), [[1.0]], [0, 10.0], method="LSODA", rtol=1e-4)


def test_a_tolerance_is_met_within_short_times():
    # The flow of w^2 / 2 scaled by 1e30: dw/dt = -1e30 w.
    manifold = Euclidean(1, 1)

    @pymanopt.function.autograd(manifold)
    def cost(W):
        return 1e30 * anp.sum(W**2) / 2

    problem = pymanopt.Problem(manifold, cost)
    flow = gradient_flow(problem, [[1.0]], [-1e-29, 1e-29], gradient_tolerance=1e29)
    assert flow.times[-1] + 1e-29 == pytest.approx(np.log(10) * 1e-30, rel=1e-6)


@pytest.mark.parametrize("name", ["rtol", "atol"])
@pytest.mark.parametrize(
    ("bad", "error"), [(np.nan, ValueError), (-1.0, ValueError), ("a", TypeError)]
)
def test_refuses_bad_tolerances(name, bad, error):
    problem = problem_on(FullRank(1, 1, DeepLinearMetric(2)), 2.0)
    with pytest.raises(error, match=f"^{name} must be"):
        gradient_flow(problem, [[1.0]], [0, 1], **{name: bad})


def test_a_step_may_be_as_long_as_it_likes():
    problem = problem_on(FullRank(2, 2, DeepLinearMetric(2)), np.eye(2))
    free, bounded = (
        gradient_flow(problem, 2 * np.eye(2), [0, 0.5, 1], max_step=step) for step in (np.inf, 1e-2)
    )
    default = gradient_flow(problem, 2 * np.eye(2), [0, 0.5, 1])
    np.testing.assert_array_equal(free.points, default.points)
    assert free.nfev == default.nfev < bounded.nfev
    with pytest.raises(ValueError, match="^first_step must be positive and finite"):
        gradient_flow(problem, np.eye(2), [0, 1], first_step=np.inf)


def counted(manifold, ends_after=np.inf):
    """The quarter of the fourth powers, a list of where its gradient was asked for, and a limit."""
    evaluations = []

    @pymanopt.function.numpy(manifold)
    def cost(x):
        return float(np.sum(x**4) / 4)

    @pymanopt.function.numpy(manifold)
    def gradient(x):
        if len(evaluations) == ends_after:
            raise KeyboardInterrupt
        evaluations.append(x)
        return x**3

    return pymanopt.Problem(manifold, cost, euclidean_gradient=gradient), evaluations


METHODS = ["RK45", "DOP853", "Radau", "BDF", "LSODA"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("run", ["manifold", "network"])
def test_counts_all_gradients_and_says_that_it_succeeded(run, method):
    # Of observations, bisections, difference quotients and new frames too.
    for times, ends, reason in (
        ([0, 0.1, 0.4, 1], {}, "reached the last time"),
        ([0, 100], {"gradient_tolerance": 0.01}, "reached the gradient tolerance"),
    ):
        problem, evaluations = counted(FullRank(2, 2, DeepLinearMetric(2)))
        if run == "manifold":
            flow = gradient_flow(problem, [[1.0, 0.2], [0, 2]], times, method=method, **ends)
        else:
            layers = balanced_layers([[1.0, 0.2], [0, 2]], 2)
            flow = network_flow(problem, layers, times, method=method, **ends)
        assert flow.nfev == len(evaluations) > 20
        assert flow.success is True
        assert flow.message == reason


def test_counts_the_gradients_of_an_interrupted_flow():
    problem, _ = counted(Euclidean(3), 50)
    with pytest.raises(KeyboardInterrupt) as info:
        gradient_flow(problem, [1.0, 2.0, 3.0], [0, 100])
    assert info.value.result.nfev == 50


def test_a_tolerance_that_is_met_exactly_is_met():
    problem = problem_on(Euclidean(1, 1), 0.0, 2)  # of gradient norm 1 at the start
    with pytest.warns(UserWarning, match="reached the gradient tolerance at the first time"):
        flow = gradient_flow(problem, [[1.0]], [0, 1], gradient_tolerance=1.0)
    assert (flow.status, flow.success, flow.end_times, len(flow.times)) == (1, False, 0.0, 1)


def test_a_flow_that_is_interrupted_at_its_start_has_reached_the_start_once():
    def stop(*state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as info:
        gradient_flow(problem_on(Euclidean(2, 2), 0.0), np.eye(2), [0, 1], stop=stop)
    np.testing.assert_array_equal(info.value.result.times, [0.0])
    assert info.value.result.points.shape == (1, 2, 2)


def ending_at_a_half(manifold, what, value=np.nan):
    """Half the square of w, with NaN or infinity in the cost or its gradient from w = 1/2 on."""

    @pymanopt.function.numpy(manifold)
    def cost(W):
        return value if what == "cost" and W[0, 0] < 0.5 else float(W[0, 0] ** 2 / 2)

    @pymanopt.function.numpy(manifold)
    def gradient(W):
        return W * np.nan if what == "gradient" and W[0, 0] < 0.5 else W

    return pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)


@pytest.mark.parametrize("method", ["DOP853", "LSODA", "Radau", "BDF"])
@pytest.mark.parametrize(
    "manifold", [Euclidean(1, 1), FullRank(1, 1, DeepLinearMetric(2))], ids=str
)
def test_a_gradient_that_ends_within_the_flow_is_named(manifold, method):
    # The flows are e^{-t} and w' = -2 w^2, 1 / (1 + 2 t): both are at 1/2 before t = 0.7.
    problem = ending_at_a_half(manifold, "gradient")
    with pytest.raises(FlowError) as info:
        gradient_flow(problem, [[1.0]], [0, 0.1, 0.2, 5.0], method=method)
    found = re.fullmatch(
        rf"the integrator {method} failed at time ([\d.]+): "
        r"the gradient is not finite at time ([\d.]+)",
        str(info.value),
    )
    end = np.log(2) if manifold.__class__ is Euclidean else 0.5
    assert float(found[1]) == pytest.approx(end, abs=0.1)
    assert float(found[2]) == pytest.approx(end, abs=0.1)
    result = info.value.result
    np.testing.assert_array_equal(result.times[:3], [0, 0.1, 0.2])
    assert len(result.times) == 4  # and where the last step led
    assert 0.2 < result.times[3] == result.end_times < end + 1e-3
    t = result.times
    expected = np.exp(-t) if manifold.__class__ is Euclidean else 1 / (1 + 2 * t)
    np.testing.assert_allclose(result.points.ravel(), expected, rtol=1e-4)
    np.testing.assert_allclose(result.costs, result.points.ravel() ** 2 / 2, rtol=1e-12)
    assert (result.status, result.message) == (-1, "stopped by FlowError")
    assert result.success is False
    assert result.nfev > 10


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("method", ["DOP853", "BDF"])
def test_a_cost_that_is_not_finite_is_named(method, value):
    problem = ending_at_a_half(Euclidean(1, 1), "cost", value)
    message = f"^the cost is not finite at time 1: it is {value}"
    with pytest.raises(FlowError, match=message) as info:
        gradient_flow(problem, [[1.0]], [0, 0.1, 1.0, 5.0], method=method)
    # Where a step has led to before 1 the cost may not be finite either.
    result = info.value.result
    np.testing.assert_array_equal(result.times[:2], [0, 0.1])
    assert np.all(result.times <= np.log(2))
    np.testing.assert_allclose(result.costs, np.exp(-2 * result.times) / 2, rtol=1e-5)
    with pytest.raises(FlowError, match=message) as info:
        network_flow(problem, [[[1.0]], [[1.0]]], [0, 0.1, 1.0, 5.0], method=method)
    result = info.value.result
    np.testing.assert_array_equal(result.times[:2], [0, 0.1])
    assert len(result.layers) == len(result.times)
    assert np.isfinite(result.costs).all()


def test_a_norm_that_ends_where_a_step_has_led_is_named():
    manifold = Euclidean(1)

    def norm(point, vector):
        if point[0] < 0.5:
            raise NotFiniteError("the metric ends here")
        return np.linalg.norm(vector)

    manifold.norm = norm
    with pytest.raises(FlowError, match=r"^the gradient is not finite at time [\d.]+: the metric"):
        gradient_flow(problem_on(manifold, 0.0, 2), [1.0], [0, 5], gradient_tolerance=1e-3)


@pytest.mark.parametrize(
    "manifold", [Euclidean(1, 1), FullRank(1, 1, DeepLinearMetric(2))], ids=str
)
def test_a_flow_without_a_gradient_at_its_start_does_not_begin(manifold):
    problem = ending_at_a_half(manifold, "gradient")
    for times in ([3.0], [3.0, 4.0]):
        with pytest.raises(FlowError, match="^the gradient is not finite at time 3") as info:
            gradient_flow(problem, [[0.4]], times)
        assert info.value.result is None


def test_a_velocity_that_is_not_finite_at_the_start_is_no_endless_search():
    class Stuck(Euclidean):
        def embedding(self, point, tangent_vector):
            return tangent_vector / 0.0

    problem = problem_on(Stuck(2), 0.0)
    with np.errstate(all="ignore"), pytest.raises(FlowError, match="not finite at time 0"):
        gradient_flow(problem, [1.0, 1.0], [0, 1])


@pytest.mark.parametrize("error", [ValueError, np.linalg.LinAlgError, OverflowError])
def test_errors_of_the_cost_stay_what_they_are(error):
    manifold = Euclidean(1, 1)

    @pymanopt.function.numpy(manifold)
    def cost(W):
        return float(W[0, 0] ** 2 / 2)

    calls = []

    @pymanopt.function.numpy(manifold)
    def gradient(W):
        calls.append(W)
        if len(calls) > 40 and W[0, 0] < 0.5:
            raise error("of the cost")
        return W * np.nan if W[0, 0] < 0.5 else W

    problem = pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)
    with pytest.raises(error) as info:
        gradient_flow(problem, [[1.0]], [0, 0.1, 5.0])
    assert type(info.value) is error
    assert str(info.value) == "of the cost"
    result = info.value.result
    np.testing.assert_array_equal(result.times[:2], [0, 0.1])
    assert len(result.times) == 3
    np.testing.assert_allclose(result.points.ravel(), np.exp(-result.times), rtol=1e-6)


def test_layers_of_a_width_that_the_manifold_has_not_are_refused():
    manifold = FixedRank(4, 3, 2, DeepLinearMetric(2))

    @pymanopt.function.autograd(manifold)
    def cost(u, s, vt):
        return anp.sum(s)

    problem = pymanopt.Problem(manifold, cost)
    for width in (1, 3):
        with pytest.raises(ValueError, match=r"^the end-to-end matrix .* \(4, 3\) and 2 sing"):
            network_flow(problem, [np.ones((width, 3)), np.ones((4, width))], [0, 1])


def half_square(manifold, target=0.0):
    return problem_on(manifold, target, 2)


@pytest.mark.parametrize("method", METHODS)
def test_stop_ends_where_it_becomes_true(method):
    # w' = 2 w (3 - w) from 1 is 3 / (1 + 2 e^{-6t}): it comes to 2 at t = ln(4) / 6.
    problem, seen = problem_on(FullRank(1, 1, DeepLinearMetric(2)), 3.0, 2), []

    def stop(*state):
        seen.append(state)
        return state[1][0, 0] >= 2

    flow = gradient_flow(problem, [[1.0]], [0, 0.1, 5], stop=stop, method=method, rtol=1e-9)
    assert flow.end_times == pytest.approx(np.log(4) / 6, rel=1e-6)
    np.testing.assert_array_equal(flow.times, [0, 0.1, flow.end_times])
    np.testing.assert_allclose(flow.points[-1], 2, rtol=1e-6)
    assert (flow.status, flow.success) == (3, True)
    assert flow.message == "came to where stop is true"
    for time, point, cost, norm in seen:
        assert point.shape == (1, 1)
        w = point[0, 0]
        assert type(cost) is type(norm) is float
        assert w == pytest.approx(3 / (1 + 2 * np.exp(-6 * time)), rel=1e-6)
        assert cost == pytest.approx((w - 3) ** 2 / 2, rel=1e-12)
        assert norm == pytest.approx(np.sqrt(2 * w) * (3 - w), rel=1e-9)  # |p| theta^{1/2}


def test_stop_of_a_network_and_of_triples_gets_their_points():
    seen = []

    def stop(time, point, cost, norm):
        seen.append(point)
        return time >= 0.25

    metric = DeepLinearMetric(2)
    problem = problem_on(FullRank(1, 1, metric), 3.0, 2)
    flow = network_flow(problem, balanced_layers([[1.0]], 2), [0, 5], stop=stop)
    assert flow.end_times == pytest.approx(0.25, rel=1e-9)
    np.testing.assert_allclose(flow.points[-1], 3 / (1 + 2 * np.exp(-1.5)), rtol=1e-6)
    assert all(point.shape == (1, 1) for point in seen)
    seen.clear()
    flow = gradient_flow(problem, (np.eye(1), np.ones(1), np.eye(1)), [0, 5], stop=stop)
    assert all(point.s.shape == (1,) for point in seen)
    assert flow.points[-1].s == pytest.approx(3 / (1 + 2 * np.exp(-1.5)), rel=1e-6)


@pytest.mark.parametrize("tolerance", ["gradient_tolerance", "cost_tolerance"])
def test_it_is_stop_that_ended_what_it_ended(tolerance):
    # Of e^{-t}: at t = 0.7 both the gradient and the cost are above their tolerances.
    flow = gradient_flow(
        half_square(Euclidean(1, 1)),
        [[1.0]],
        [0, 5.0],
        stop=lambda time, *_: time >= 0.7,
        **{tolerance: 0.1},
    )
    assert flow.end_times == pytest.approx(0.7, rel=1e-9)
    assert flow.status == 3
    assert flow.message == "came to where stop is true"


@pytest.mark.parametrize("run", ["manifold", "network"])
@pytest.mark.parametrize(("ends", "status"), [((0.3, 0.02), 1), ((0.1, 0.02), 2)])
def test_the_end_that_comes_first_ends_it(run, ends, status):
    # Of e^{-t} the gradient is e^{-t} and the cost e^{-2t} / 2.
    ends = dict(zip(("gradient_tolerance", "cost_tolerance"), ends, strict=True))
    problem = half_square(Euclidean(1, 1))
    if run == "manifold":
        flow = gradient_flow(problem, [[1.0]], [0, 5.0], **ends)
    else:
        flow = network_flow(problem, [np.ones((1, 1))], [0, 5.0], **ends)
    assert flow.status == status
    expected = -np.log(0.3) if status == 1 else -np.log(0.04) / 2
    assert flow.end_times == pytest.approx(expected, rel=1e-6)
    assert flow.times[-1] == flow.end_times


def test_refuses_ends_that_are_none():
    problem = half_square(Euclidean(1, 1))
    for name, value, error in (
        ("cost_tolerance", np.nan, ValueError),
        ("cost_tolerance", "small", TypeError),
        ("gradient_tolerance", -1.0, ValueError),
        ("stop", 3, TypeError),
    ):
        for run, start in ((gradient_flow, [[1.0]]), (network_flow, [[[1.0]]])):
            with pytest.raises(error, match=f"^{name} must be"):
                run(problem, start, [0, 1], **{name: value})


def test_a_cost_tolerance_may_be_negative():
    # From 0 the cost 1/2 (w - 1)^2 - 1/2 falls to -1/4: w = 1 - e^{-t} = 1 - 2^{-1/2}.
    manifold = Euclidean(1)

    @pymanopt.function.autograd(manifold)
    def cost(w):
        return anp.sum((w - 1) ** 2) / 2 - 0.5

    flow = gradient_flow(pymanopt.Problem(manifold, cost), [0.0], [0, 9], cost_tolerance=-0.25)
    assert flow.end_times == pytest.approx(np.log(2) / 2, rel=1e-6)
    assert (flow.status, flow.message) == (2, "reached the cost tolerance")


@pytest.mark.parametrize("network", [False, True])
def test_tolerances_of_networks_say_what_is_wrong(network):
    problem = half_square(Euclidean(1, 1))
    run, start = (network_flow, [[[1.0]]]) if network else (gradient_flow, [[1.0]])
    for name in ("rtol", "atol"):
        with pytest.raises(TypeError, match=f"^{name} must be"):
            run(problem, start, [0, 1], **{name: "a"})


@pytest.mark.parametrize(
    "manifold",
    [
        FullRank(3, 2, DeepLinearMetric(3), rng=0),
        FullRank(3, 2, DeepLinearMetric(1), rng=0),
        PositiveDefinite(3, DeepLinearMetric(2), rng=0),
        FixedRank(4, 3, 2, DeepLinearMetric(2), rng=0),
        FixedRank(4, 3, 2, DeepLinearMetric(1), rng=0),
        Stiefel(4, 2),
        SpecialOrthogonalGroup(3),
        Product([FullRank(2, 2, DeepLinearMetric(2), rng=0), Sphere(3)]),
    ],
    ids=str,
)
def test_a_riemannian_gradient_may_be_given(manifold):
    np.random.seed(3)  # noqa: NPY002, pymanopt's manifolds draw from it
    point, is_product = manifold.random_point(), isinstance(manifold, Product)

    @pymanopt.function.autograd(manifold)
    def cost(*parts):
        W = parts[0] * parts[1] @ parts[2] if len(parts) == 3 else parts[0]
        total = anp.sum((W - 0.3) ** 4) / 4 + anp.sum(W[0] ** 3)
        return total + anp.sum(parts[1] ** 3) if len(parts) == 2 else total

    problem = pymanopt.Problem(manifold, cost)

    @pymanopt.function.numpy(manifold)
    def gradient(*parts):
        x = parts[0] if len(parts) == 1 else list(parts) if is_product else parts
        vector = manifold.euclidean_to_riemannian_gradient(x, problem.euclidean_gradient(x))
        return list(vector) if is_product else vector

    # A cost without autodiff: no other gradient can be made.
    plain = pymanopt.function.numpy(manifold)(lambda *parts: cost(*parts))
    given = pymanopt.Problem(manifold, plain, riemannian_gradient=gradient)
    times = [0, 0.05, 0.2]
    flow, expected = (gradient_flow(p, point, times, **TIGHT) for p in (given, problem))
    np.testing.assert_allclose(flow.costs, expected.costs, rtol=1e-10)
    np.testing.assert_allclose(flow.gradient_norms, expected.gradient_norms, rtol=1e-8)
    assert flow.costs[-1] < flow.costs[0] - 1e-6
    # The norms are those of the manifold at the points.
    for x, norm in zip(flow.points, flow.gradient_norms, strict=True):
        assert manifold.norm(x, given.riemannian_gradient(x)) == pytest.approx(norm, rel=1e-8)


def test_singular_values_are_those_of_matrices(rng):
    metric, times = DeepLinearMetric(2), [0, 0.1, 0.5]
    start = random_matrix(rng, 3, 2, [1.0, 0.2])
    for manifold in (
        FullRank(3, 2, metric),
        FullRank(3, 2, DeepLinearMetric(1)),
        Euclidean(3, 2),
        FullRank(3, 2, KroneckerMetric(np.diag([1.0, 2, 3]), np.eye(2))),
    ):
        flow = gradient_flow(problem_on(manifold, 1.0), start, times)
        assert flow.singular_values.shape == (3, 2)
        expected = np.linalg.svd(flow.points, compute_uv=False)
        np.testing.assert_allclose(flow.singular_values, expected, rtol=1e-12)
    for depth in (1, 2):
        manifold = FixedRank(4, 3, 2, DeepLinearMetric(depth), rng=0)
        flow = gradient_flow(on_triples(manifold, 1.0), manifold.random_point(), times)
        assert flow.singular_values.shape == (3, 2)
        np.testing.assert_allclose(flow.singular_values, [point.s for point in flow.points])
    x = np.array([0.6, 0.0, 0.8])
    assert gradient_flow(problem_on(Sphere(3), 1.0), x, times).singular_values is None
    product = Product([Sphere(3), Euclidean(2, 2)])

    @pymanopt.function.autograd(product)
    def cost(x, W):
        return anp.sum(x**3) + anp.sum(W**2)

    flow = gradient_flow(pymanopt.Problem(product, cost), [x, np.eye(2)], times)
    assert flow.singular_values is None


def on_triples(manifold, target):
    @pymanopt.function.autograd(manifold)
    def cost(u, s, vt):
        return anp.sum((u * s @ vt - target) ** 2) / 2

    return pymanopt.Problem(manifold, cost)


# The flow of <A, x> + |x|^4 / 4 does on each of these, of the columns of what is a quotient the
# trace of x x^T B.
WITH_ARRAYS = [
    Euclidean(3),
    Euclidean(2, 3),
    Euclidean(2, 2, 2),
    Symmetric(3),
    SkewSymmetric(3),
    Sphere(4),
    SphereSubspaceIntersection(np.eye(4)[:, :3]),
    SphereSubspaceComplementIntersection(np.eye(4)[:, :1]),
    Oblique(3, 2),
    Stiefel(4, 2),
    Stiefel(4, 2, k=3),
    Stiefel(4, 2, retraction="polar"),
    Grassmann(4, 2),
    Grassmann(4, 2, k=2),
    SpecialOrthogonalGroup(3),
    SpecialOrthogonalGroup(3, k=2),
    SpecialOrthogonalGroup(3, retraction="polar"),
    SymmetricPositiveDefinite(3),
    SymmetricPositiveDefinite(3, k=2),
    Positive(2, 3),
    PoincareBall(3),
    PoincareBall(3, k=2),
    PSDFixedRank(4, 2),
    Elliptope(4, 2),
    FullRank(2, 3, DeepLinearMetric(1), rng=0),
    FullRank(2, 3, DeepLinearMetric(3), rng=0),
    FullRank(3, 3, DeepLinearMetric(np.inf), rng=0),
    FullRank(2, 3, KroneckerMetric(np.diag([1.0, 2.0]), np.eye(3)), rng=0),
    PositiveDefinite(3, DeepLinearMetric(1)),
    PositiveDefinite(3, DeepLinearMetric(2)),
]


@pytest.mark.parametrize("manifold", WITH_ARRAYS, ids=str)
def test_the_cost_falls_as_the_square_of_the_norm(manifold):
    np.random.seed(1)  # noqa: NPY002, pymanopt's manifolds draw from it
    # Well within the cone, which the flow of depth 1 may leave.
    is_cone = isinstance(manifold, PositiveDefinite)
    start = 2 * np.eye(3) + 0.5 if is_cone else manifold.random_point()
    A = np.cos(np.arange(start.size)).reshape(start.shape) / 2
    B = A if start.ndim < 2 else np.diag(np.arange(1.0, start.shape[-2] + 1)) + 0.1

    @pymanopt.function.autograd(manifold)
    def cost(x):
        if isinstance(manifold, (PSDFixedRank, Elliptope)):
            return anp.sum((x @ x.T) * B)
        if isinstance(manifold, Grassmann):
            return anp.sum((B @ x) * x)
        return anp.sum(A * x) + anp.sum(x**4) / 4

    h, time = 1e-3, 0.1
    times = [0, *(time + h * np.arange(-2, 3))]
    flow = gradient_flow(pymanopt.Problem(manifold, cost), start, times, rtol=1e-11, atol=1e-13)
    slope = flow.costs[1:] @ [1, -8, 0, 8, -1] / (12 * h)
    assert slope == pytest.approx(-(flow.gradient_norms[3] ** 2), rel=1e-5)
    assert slope < -1e-3


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_cost_on_triples_falls_as_the_square_of_the_norm(depth):
    manifold = FixedRank(4, 3, 2, DeepLinearMetric(depth), rng=1)
    h, times = 1e-3, 0.1 + 1e-3 * np.arange(-2, 3)
    problem = on_triples(manifold, np.arange(12.0).reshape(4, 3) / 4)
    flow = gradient_flow(problem, manifold.random_point(), [0, *times], **TIGHT)
    slope = flow.costs[1:] @ [1, -8, 0, 8, -1] / (12 * h)
    assert slope == pytest.approx(-(flow.gradient_norms[3] ** 2), rel=1e-5)
    assert slope < -1e-3


@pytest.mark.parametrize(
    "manifold",
    [
        ComplexCircle(2),
        ComplexGrassmann(3, 2),
        ComplexEuclidean(2),
        HermitianPositiveDefinite(2),
        SpecialHermitianPositiveDefinite(2),
        PSDFixedRankComplex(3, 2),
        UnitaryGroup(2),
    ],
    ids=str,
)
def test_refuses_manifolds_of_complex_points(manifold):
    @pymanopt.function.autograd(manifold)
    def cost(x):
        return anp.sum(anp.real(x))

    with pytest.raises(ValueError, match="^initial_point must be real"):
        gradient_flow(pymanopt.Problem(manifold, cost), manifold.random_point(), [0, 1])


def interrupted(flow, problem, calls):
    """The result of a flow whose gradient is interrupted at its given call."""
    left = [calls]
    inner = problem.euclidean_gradient.__wrapped__

    @pymanopt.function.numpy(problem.manifold)
    def gradient(*parts):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return inner(*parts)

    @pymanopt.function.numpy(problem.manifold)
    def cost(*parts):
        return problem.cost.__wrapped__(*parts)

    kind = pymanopt.Problem(problem.manifold, cost, euclidean_gradient=gradient)
    with pytest.raises(KeyboardInterrupt) as info:
        flow(kind)
    return info.value.result


def as_matrix(point):
    return point if isinstance(point, np.ndarray) else point[0] * point[1] @ point[2]


STARTS = {
    "matrix": (FullRank(3, 2, DeepLinearMetric(2)), 1e-3 * np.eye(3, 2)),
    "triple": (
        FullRank(3, 2, DeepLinearMetric(2)),
        (np.eye(3, 2), np.array([1e-3, 1e-9]), np.eye(2)),
    ),
    "entries": (FullRank(3, 2, DeepLinearMetric(1)), 1e-3 * np.eye(3, 2)),
    "fixed": (
        FixedRank(3, 2, 2, DeepLinearMetric(3)),
        (np.eye(3, 2), np.array([0.1, 1e-4]), np.eye(2)),
    ),
    "factors": (FixedRank(3, 2, 1, DeepLinearMetric(1)), (np.eye(3, 1), np.ones(1), np.eye(1, 2))),
}


@pytest.mark.parametrize("which", STARTS)
def test_what_is_interrupted_goes_on_from_its_last_point(which):
    manifold, start = STARTS[which]
    target = np.array([[3.0, 1.0], [0.5, 2.0], [-1.0, 0.5]])
    kind = on_triples if manifold.point_layout == 3 else half_square
    problem, last = kind(manifold, target), 1.0
    whole = gradient_flow(problem, start, [0, last])
    for calls in np.linspace(whole.nfev // 2, whole.nfev - 1, 3, dtype=int):
        result = interrupted(lambda p: gradient_flow(p, start, [0, 1e-3, last]), problem, calls)
        time = result.times[-1]
        assert 1e-3 < time < last
        # It is on the path, and the rest leads where the whole does.
        there = gradient_flow(problem, start, [0, time])
        for name in ("costs", "gradient_norms", "singular_values"):
            now, then = getattr(result, name)[-1], getattr(there, name)[-1]
            np.testing.assert_allclose(now, then, rtol=1e-5)
        now, then = as_matrix(result.points[-1]), as_matrix(there.points[-1])
        np.testing.assert_allclose(now, then, atol=1e-6)
        rest = gradient_flow(problem, result.points[-1], [time, last])
        now, then = as_matrix(rest.points[-1]), as_matrix(whole.points[-1])
        np.testing.assert_allclose(now, then, atol=1e-5)


@pytest.mark.parametrize("method", ["DOP853", "BDF"])
def test_an_interruption_at_any_gradient_leaves_what_is_on_the_path(method):
    # It grows three thousandfold: the frame is a new one on the way.
    manifold, start = FullRank(1, 1, DeepLinearMetric(2)), [[1e-3]]
    problem, times = half_square(manifold, 3.0), [0, 4.0]
    whole = gradient_flow(problem, start, times, method=method)
    reached = []
    for calls in np.linspace(10, whole.nfev - 1, 12, dtype=int):
        result = interrupted(
            lambda p: gradient_flow(p, start, times, method=method), problem, calls
        )
        t = result.times
        expected = 3 / (1 + (3 / 1e-3 - 1) * np.exp(-6 * t))
        np.testing.assert_allclose(result.points.ravel(), expected, rtol=1e-4)
        np.testing.assert_allclose(result.costs, (result.points.ravel() - 3) ** 2 / 2, rtol=1e-9)
        reached.append(t[-1])
    assert len(np.unique(reached)) > 5


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, None])
@pytest.mark.parametrize("method", ["DOP853", "BDF", "CVODE"])
@pytest.mark.parametrize("is_network", [False, True])
def test_a_gradient_that_ends_for_good_leaves_the_last_point(is_network, method, error):
    if method == "CVODE":
        pytest.importorskip("sksundae", reason="CVODE needs scikit-sundae: the extra stiff")
    manifold, start, left = FullRank(1, 1, DeepLinearMetric(2)), np.array([[0.1]]), [40]

    def gradient(W):
        left[0] -= 1
        if left[0] >= 0:
            return W - 3
        if error is None:
            return np.array([[np.nan]])
        raise error

    problem = pymanopt.Problem(
        manifold,
        pymanopt.function.numpy(manifold)(lambda W: (W.item() - 3) ** 2 / 2),
        euclidean_gradient=pymanopt.function.numpy(manifold)(gradient),
    )
    run, where = (network_flow, balanced_layers(start, 2)) if is_network else (gradient_flow, start)
    with pytest.raises(error or FlowError) as info:
        run(problem, where, [0, 9], method=method)
    flow = info.value.result
    assert len(flow.times) == 2
    assert 0 < flow.times[-1] < 9
    exact = 3 / (1 + (3 / 0.1 - 1) * np.exp(-6 * flow.times[-1]))
    np.testing.assert_allclose(flow.points[-1], exact, rtol=1e-4)
    assert flow.costs[-1] == (flow.points[-1].item() - 3) ** 2 / 2
    assert np.isfinite(flow.gradient_norms[0])
    assert np.isnan(flow.gradient_norms[-1])


def test_an_interrupted_network_goes_on_from_its_last_layers():
    layers = random_layers([3, 4, 2], scale=0.3, rng=0)
    problem = half_square(Euclidean(2, 3), np.array([[2.0, 1.0, 0.0], [0.0, -1.0, 1.0]]))
    whole = network_flow(problem, layers, [0, 6.0])
    for calls in np.linspace(30, whole.nfev - 1, 3, dtype=int):
        result = interrupted(lambda p: network_flow(p, layers, [0, 1e-3, 6.0]), problem, calls)
        time = result.times[-1]
        there = network_flow(problem, layers, [0, time])
        np.testing.assert_allclose(result.costs[-1], there.costs[-1], rtol=1e-6)
        for now, then in zip(result.layers[-1], there.layers[-1], strict=True):
            np.testing.assert_allclose(now, then, atol=1e-6)
        rest = network_flow(problem, result.layers[-1], [time, 6.0])
        for now, then in zip(rest.layers[-1], whole.layers[-1], strict=True):
            np.testing.assert_allclose(now, then, atol=1e-5)


def test_the_same_flow_twice_has_the_same_bits(rng):
    manifold = FullRank(3, 2, DeepLinearMetric(2))
    problem, start = half_square(manifold, rng.standard_normal((3, 2))), rng.standard_normal((3, 2))
    times = [0, 0.3, 2.0]
    runs = [
        lambda: gradient_flow(problem, start, times),
        lambda: gradient_flow(problem, np.array([start, 2 * start]), times, method="LSODA"),
        lambda: network_flow(problem, balanced_layers(start, 3), times),
    ]
    for run in runs:
        first = run()
        gradient_flow(problem, start + 0.1, [0, 1])  # whatever was asked in between
        second = run()
        for name in ("points", "costs", "gradient_norms", "singular_values", "times"):
            np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
        assert first.nfev == second.nfev


def test_progress_changes_no_bit():
    problem = half_square(FullRank(2, 2, DeepLinearMetric(2)), np.diag([2.0, 3.0]))
    start = [[1.0, 0.3], [0.0, 0.5]]
    plain, shown = (gradient_flow(problem, start, [0, 1], progress=p) for p in (False, True))
    np.testing.assert_array_equal(plain.points, shown.points)


def test_results_survive_being_saved():
    problem = half_square(FullRank(2, 2, DeepLinearMetric(2)), np.eye(2))
    for start in (2 * np.eye(2), (np.eye(2), np.array([2.0, 1e-20]), np.eye(2))):
        flow = gradient_flow(problem, start, [0, 1])
        again = pickle.loads(pickle.dumps(flow))
        np.testing.assert_array_equal(as_matrix(again.points[-1]), as_matrix(flow.points[-1]))
        np.testing.assert_array_equal(again.singular_values, flow.singular_values)
        assert (again.status, again.message, again.nfev) == (flow.status, flow.message, flow.nfev)


def flows_of_every_form():
    """Flows with points that are arrays, triples, stacks of triples and lists; networks."""
    metric, rng = DeepLinearMetric(2), np.random.default_rng(0)
    fixed, full, I = FixedRank(3, 2, 1, metric, rng=0), FullRank(2, 2, metric), np.eye(2)
    target, product = rng.standard_normal((3, 2)), Product([fixed, Sphere(3)])

    @pymanopt.function.numpy(fixed)
    def low_cost(u, s, vt):
        return np.sum((u * s @ vt - target) ** 2) / 2

    @pymanopt.function.numpy(fixed)
    def low_gradient(u, s, vt):
        return u * s @ vt - target

    @pymanopt.function.autograd(product)
    def product_cost(u, s, vt, x):
        return anp.sum((u * s @ vt) ** 2) + x[0]

    square = half_square(full, np.diag([2.0, 3.0]))
    low = pymanopt.Problem(fixed, low_cost, euclidean_gradient=low_gradient)
    pair = np.stack([I, I]), np.array([[1.0, 0.5], [2.0, 1e-20]]), np.stack([I, -I])
    on_product = [fixed.random_point(), np.array([0.6, 0.8, 0.0])]
    yield gradient_flow(square, [[1.0, 0.3], [0.0, 0.5]], [0, 0.1, 5], cost_tolerance=1.0)
    yield gradient_flow(square, (I, np.array([1.0, 1e-20]), I), [0, 0.1])
    yield gradient_flow(square, [I, 2 * I, I + 0.1], [0, 0.1])
    yield gradient_flow(square, pair, [0, 0.1])
    yield gradient_flow(low, fixed.random_point(), [0, 0.1])
    yield gradient_flow(pymanopt.Problem(product, product_cost), on_product, [0, 0.1])
    yield network_flow(square, balanced_layers(2 * I, 3), [0, 0.1])
    yield network_flow(low, random_layers([2, 1, 3], scale=1.0, rng=0), [0, 0.1])


def assert_identical(a, b):
    """Assert that two values, and all that they hold, agree in their types and to the last bit."""
    assert type(a) is type(b)
    if isinstance(a, (list, tuple)):
        for part, other in zip(a, b, strict=True):
            assert_identical(part, other)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b


def test_files_keep_flows_of_every_form(tmp_path):
    for j, flow in enumerate(flows_of_every_form()):
        path = tmp_path / f"{j} of a name without an ending"
        flow.save(path)
        again = load_flow(path)
        assert type(again) is type(flow)
        for field in fields(flow):
            assert_identical(getattr(again, field.name), getattr(flow, field.name))


def test_refuses_files_that_hold_no_flow(tmp_path):
    path = tmp_path / "flow.npz"
    with pytest.raises(FileNotFoundError):
        load_flow(path)
    gradient_flow(half_square(Euclidean(2, 2)), np.eye(2), [0, 0.1]).save(path)
    whole = path.read_bytes()
    with np.load(path) as kept:
        arrays = dict(kept)
    header = str(arrays["header"])
    assert header.count("riemdln flow 1") == 1

    def holding(**arrays):
        np.savez(path, **arrays)
        return path.read_bytes()

    without_header = {name: array for name, array in arrays.items() if name != "header"}
    later = np.array(header.replace("riemdln flow 1", "riemdln flow 2"))
    for bad in (
        b"",
        b"a text",
        whole[: len(whole) // 2],
        holding(**without_header),
        holding(**{**arrays, "header": later}),
        holding(header=arrays["header"]),
        holding(**{**arrays, "header": np.array("[]")}),
    ):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match="^path must be a file that Flow.save has written"):
            load_flow(path)


def test_refuses_options_that_a_method_has_not():
    problem = problem_on(Euclidean(1, 1), 0.0)
    for method, option in (("DOP853", "tolerance"), ("RK45", "jac"), ("BDF", "min_step")):
        with pytest.raises(TypeError, match=f"^options must be those of {method}, .*got {option}$"):
            gradient_flow(problem, [[1.0]], [0, 1], method=method, **{option: 1e-3})


def test_refuses_times_that_numbers_do_not_tell_apart():
    for span in (20, 1e6):
        with pytest.raises(ValueError, match="^times must span more than 2e.06"):
            gradient_flow(problem_on(Euclidean(1, 1), 0.0), [[1.0]], [1e16, 1e16 + span])


@pytest.mark.parametrize("value", [None, "1.5", np.ones(2), 1.0 + 1j])
def test_refuses_costs_that_are_no_numbers(value):
    manifold = Euclidean(1, 1)
    cost = pymanopt.function.numpy(manifold)(lambda W: value)
    gradient = pymanopt.function.numpy(manifold)(lambda W: W)
    problem = pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)
    with pytest.raises(TypeError, match="^the cost of a point must be a real number, got"):
        gradient_flow(problem, [[1.0]], [0, 1])


def test_says_where_a_flow_leaves_its_manifold():
    # The Euclidean flow towards -1 passes zero at t = ln(3/2) from 1/2.
    problem = problem_on(PositiveDefinite(1, DeepLinearMetric(1)), -1.0, 2)
    with pytest.raises(FlowError, match=r"leaves its manifold: .* must be positive .* time 0\.405"):
        gradient_flow(problem, [[0.5]], [0, 3.0])


def test_a_flow_says_in_a_line_what_it_is():
    problem = problem_on(FullRank(1, 1, DeepLinearMetric(1)), 0.0, 2)
    flow = gradient_flow(problem, [[1.0]], [0, 1])
    assert repr(flow) == f"Flow(2 times: reached the last time; nfev={flow.nfev})"
    flow = gradient_flow(problem, np.ones((3, 1, 1)), [0, 1])
    expected = f"Flow(2 times, 3 copies: 3 copies reached the last time; nfev={flow.nfev})"
    assert repr(flow) == expected


class TwiceIdentity(Metric):
    """A metric that is known by its cometric alone: 2 P."""

    def sharp(self, W, P):
        return 2.0 * P


@pytest.mark.parametrize("copies", [(), (2,)])
@pytest.mark.parametrize(
    "metric",
    [DeepLinearMetric(1), DeepLinearMetric(2, imbalance=-1.0), TwiceIdentity()],
    ids=["depth 1", "off balance", "own"],
)
def test_a_start_that_is_a_triple_gives_triples_by_entries_too(metric, copies, rng):
    start = np.linalg.svd(rng.standard_normal((*copies, 4, 3)), full_matrices=False)
    problem, times = half_square(FullRank(4, 3, metric), rng.standard_normal((4, 3))), [0.0, 0.5]
    flow = gradient_flow(problem, start, times)
    by_entries = gradient_flow(problem, start.U * start.S[..., None, :] @ start.Vh, times)
    for (u, s, vt), W in zip(flow.points, by_entries.points, strict=True):
        np.testing.assert_allclose(u * s[..., None, :] @ vt, W, atol=1e-7)
        np.testing.assert_allclose(
            u.mT @ u, np.broadcast_to(np.eye(3), (*copies, 3, 3)), atol=1e-12
        )


def test_a_tuple_of_three_is_a_triple():
    problem = problem_on(FullRank(2, 2, DeepLinearMetric(2)), np.eye(2))
    with pytest.raises(ValueError, match="^initial_point must have .* u, s, vt of shapes"):
        gradient_flow(problem, (np.eye(2), np.diag([1.0, 0.5]), np.eye(2)), [0, 1])


@pytest.mark.parametrize("metric", [DeepLinearMetric(1), DeepLinearMetric(2, imbalance=-0.5)])
def test_symmetric_triples_give_triples_by_entries_too(metric, rng):
    u = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    problem, start = half_square(PositiveDefinite(3, metric), 2 * np.eye(3)), (u, np.ones(3), u.T)
    flow = gradient_flow(problem, start, [0.0, 0.5])
    by_entries = gradient_flow(problem, np.eye(3), [0.0, 0.5])
    resumed = gradient_flow(problem, flow.points[-1], [0.5, 1.0])
    for (u, s, vt), W in zip(flow.points, by_entries.points, strict=True):
        np.testing.assert_allclose(u * s @ vt, W, atol=1e-7)
    assert resumed.success


def test_a_triple_gives_triples_with_a_riemannian_gradient_too():
    manifold = FullRank(2, 2, DeepLinearMetric(2))
    numpy = pymanopt.function.numpy(manifold)
    problem = pymanopt.Problem(
        manifold,
        numpy(lambda W: np.sum(W**2) / 2),
        riemannian_gradient=numpy(lambda W: manifold.metric.sharp(W, W)),
    )
    flow = gradient_flow(problem, (np.eye(2), np.ones(2), np.eye(2)), [0.0, 0.5])
    u, s, vt = flow.points[-1]
    # s' = -2 s^2 from 1
    np.testing.assert_allclose(u * s @ vt, np.eye(2) / 2, atol=1e-7)
