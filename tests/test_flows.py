import re
from functools import partialmethod
from itertools import pairwise

import autograd.numpy as anp
import numpy as np
import pymanopt
import pytest
import scipy.integrate
from pymanopt.manifolds import (
    Euclidean,
    FixedRankEmbedded,
    Product,
    SpecialOrthogonalGroup,
    Sphere,
)
from tqdm import tqdm

from riemdln import (
    DeepLinearMetric,
    FixedRank,
    FlowError,
    FullRank,
    balanced_layers,
    end_to_end,
    gradient_flow,
    imbalance,
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

    return pymanopt.Problem(manifold, cost)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize(("m", "n"), [(3, 3), (2, 4), (4, 2), (1, 4)])
def test_the_flow_of_the_metric_is_the_flow_of_the_balanced_network(rng, m, n, depth):
    start, target = random_matrix(rng, m, n), rng.standard_normal((m, n))
    problem = problem_on(FullRank(m, n, DeepLinearMetric(depth)), target)
    times = np.linspace(0, 2, 9)
    flow = gradient_flow(problem, start, times, **TIGHT)
    network = network_flow(problem, balanced_layers(start, depth), times, **TIGHT)
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
    assert flow.message == "reached the gradient tolerance"
    again = gradient_flow(problem, flow.points[-1], [0, 1], gradient_tolerance=1e-2)
    assert len(again.times) == 1


def test_goes_on_smoothly_to_lower_rank(rng):
    target = random_matrix(rng, 3, 4, [2.0, 0.0, 0.0])
    problem = problem_on(FullRank(3, 4, DeepLinearMetric(2)), target, 2)
    flow = gradient_flow(problem, random_matrix(rng, 3, 4, [1.0, 1.0, 1.0]), [0, 1, 10, 100, 1000])
    assert np.isfinite(flow.gradient_norms).all()
    assert np.all(np.diff(flow.costs) < 0)
    assert flow.costs[-1] < 1e-5


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
    np.testing.assert_array_equal(info.value.result.times, [0, 0.01, 0.02])
    assert info.value.result.message == "stopped by FlowError"


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
        assert f"100%|██████████| t = {times[-1]} of {times[-1]} [" in capsys.readouterr().err
    gradient_flow(problem, [[1.0]], [0, 1, 2])
    assert capsys.readouterr().err == ""


def test_progress_is_the_time_that_the_flow_has_come_to(capsys, monkeypatch):
    monkeypatch.setattr(tqdm, "__init__", partialmethod(tqdm.__init__, mininterval=0, miniters=0))
    problem = problem_on(Euclidean(1, 1), 0.0, 2)
    for tolerance, last in ((None, 6.0), (np.exp(-1.0), 3.0)):  # |x'| = e^{2 - t} from t = 2
        gradient_flow(problem, [[1.0]], [2, 6], progress=True, gradient_tolerance=tolerance)
        shown = re.findall(r"(\d+)%\|[^\r]*\| t = ([\d.]+) of 6 \[", capsys.readouterr().err)
        shares, reached = np.array(shown, dtype=float).T
        np.testing.assert_allclose(shares, 100 * (reached - 2) / 4, atol=0.6)
        assert np.all(np.diff(reached) >= 0)
        assert len(np.unique(reached)) > 2
        assert reached[-1] == last


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


@pytest.mark.parametrize("method", ["RK23", "LSODA"])
def test_more_times_cost_no_more_gradients_until_they_are_observed(method):
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
    assert counts[1] == counts[0]


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


@pytest.mark.parametrize("method", ["DOP853", "RK45", "LSODA", "Radau", "BDF"])
def test_counts_the_velocities_and_says_that_it_succeeded(method):
    evaluations, manifold = [], Euclidean(3)

    @pymanopt.function.numpy(manifold)
    def cost(x):
        return float(np.sum(x**4) / 4)

    @pymanopt.function.numpy(manifold)
    def gradient(x):
        evaluations.append(x)
        return x**3

    problem = pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)
    times = [0, 0.1, 0.4, 1]
    flow = gradient_flow(problem, [1.0, 2.0, 3.0], times, method=method)
    assert flow.nfev == len(evaluations) - len(times)  # each time its norm is asked for once
    assert flow.success is True
    assert flow.message == "reached the last time"
    flow = gradient_flow(problem, [1.0, 2.0, 3.0], [0, 100], gradient_tolerance=0.1, method=method)
    assert flow.success is True
    assert flow.message == "reached the gradient tolerance"


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
    np.testing.assert_array_equal(result.times, [0, 0.1, 0.2])
    assert result.message == "stopped by FlowError"
    assert result.success is False
    assert result.nfev > 10
    assert np.isfinite(result.points).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("method", ["DOP853", "BDF"])
def test_a_cost_that_is_not_finite_is_named(method, value):
    problem = ending_at_a_half(Euclidean(1, 1), "cost", value)
    message = f"^the cost is not finite at time 1: it is {value}"
    with pytest.raises(FlowError, match=message) as info:
        gradient_flow(problem, [[1.0]], [0, 0.1, 1.0, 5.0], method=method)
    np.testing.assert_array_equal(info.value.result.times, [0, 0.1])
    with pytest.raises(FlowError, match=message) as info:
        network_flow(problem, [[[1.0]], [[1.0]]], [0, 0.1, 1.0, 5.0], method=method)
    assert len(info.value.result.layers) == 2


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
    np.testing.assert_array_equal(info.value.result.times, [0, 0.1])


def test_layers_of_a_width_that_the_manifold_has_not_are_refused():
    manifold = FixedRank(4, 3, 2, DeepLinearMetric(2))

    @pymanopt.function.autograd(manifold)
    def cost(u, s, vt):
        return anp.sum(s)

    problem = pymanopt.Problem(manifold, cost)
    for width in (1, 3):
        with pytest.raises(ValueError, match=r"^the end-to-end matrix .* \(4, 3\) and rank 2"):
            network_flow(problem, [np.ones((width, 3)), np.ones((4, width))], [0, 1])
