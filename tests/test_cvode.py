import sys
import threading

import autograd.numpy as anp
import numpy as np
import pymanopt
import pytest
from scipy.integrate import solve_ivp

from riemdln import DeepLinearMetric, FixedRank, FlowError, FullRank, gradient_flow
from riemdln._arrays import NotFiniteError
from riemdln.flows._cvode import CVODE


@pytest.fixture
def sundials():
    pytest.importorskip("sksundae", reason="scikit-sundae, which has SUNDIALS, is optional")


installed = pytest.mark.usefixtures("sundials")
both_formulas = pytest.mark.parametrize("formula", ["BDF", "Adams"])


def oscillator(t, y):
    """Of which (sin t, cos t) is a solution."""
    return np.array([y[1], -y[0]])


def van_der_pol(t, y):
    return np.array([y[1], 50 * (1 - y[0] ** 2) * y[1] - y[0]])


def robertson(t, y):
    slow, fast, faster = 0.04 * y[0], 1e4 * y[1] * y[2], 3e7 * y[1] ** 2
    return np.array([fast - slow, slow - fast - faster, faster])


def steps_of(solver):
    """The solver, after each of its steps."""
    while solver.status == "running":
        solver.step()
        assert solver.status != "failed"
        yield solver


@installed
@both_formulas
@pytest.mark.parametrize(("rtol", "error"), [(1e-4, 3e-2), (1e-7, 1e-4), (1e-10, 1e-7)])
@pytest.mark.parametrize("span", [(0, 10), (10, 0), (-3, 4)])
def test_a_closed_form_to_the_tolerance_at_steps_and_between(formula, rtol, error, span):
    solution = solve_ivp(
        oscillator,
        span,
        [np.sin(span[0]), np.cos(span[0])],
        method=CVODE,
        formula=formula,
        rtol=rtol,
        atol=rtol,
        dense_output=True,
    )
    assert solution.success
    assert solution.t[-1] == span[1]
    between = np.linspace(*span, 997)
    for times, states in ((solution.t, solution.y), (between, solution.sol(between))):
        np.testing.assert_allclose(states, [np.sin(times), np.cos(times)], atol=error)


@installed
def test_a_stiff_linear_system_in_steps_of_the_slow_solution():
    # y' = A (y - g) + g' with g(t) = (cos t, sin t): fast parts die out, y -> g.
    turn = np.array([[3.0, -4.0], [4.0, 3.0]]) / 5
    matrix = turn @ np.diag([-1.0, -1e7]) @ turn.T

    def velocity(t, y):
        return matrix @ (y - [np.cos(t), np.sin(t)]) + [-np.sin(t), np.cos(t)]

    solution = solve_ivp(velocity, [0, 6], [1.0, 0.0], method=CVODE, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(solution.y, [np.cos(solution.t), np.sin(solution.t)], atol=1e-5)
    assert solution.nfev < 2000  # an explicit method takes 6e7 / 3 steps


@installed
@pytest.mark.parametrize(
    ("velocity", "end", "start"),
    [(van_der_pol, 90.0, [2.0, 0.0]), (robertson, 1e3, [1.0, 0.0, 0.0])],
)
def test_stiff_equations_agree_with_tight_radau(velocity, end, start):
    times = np.linspace(0, end, 10)
    expected = solve_ivp(
        velocity, [0, end], start, t_eval=times, method="Radau", rtol=1e-11, atol=1e-14
    )
    solution = solve_ivp(
        velocity, [0, end], start, t_eval=times, method=CVODE, rtol=1e-8, atol=1e-12
    )
    np.testing.assert_allclose(solution.y, expected.y, rtol=2e-4, atol=1e-9)


@installed
@both_formulas
def test_the_dense_output_of_cvode_is_its_own_interpolant_and_changes_no_later_step(formula, rng):
    def solver():
        return CVODE(van_der_pol, 0.0, [2.0, 0.0], 30.0, rtol=1e-6, atol=1e-9, formula=formula)

    plain = [(step.t, step.nfev, *step.y) for step in steps_of(solver())]
    observed = []
    kept = []
    for step in steps_of(solver()):
        observed.append((step.t, step.nfev, *step.y))
        path = step.dense_output()
        times = np.sort(rng.uniform(step.t_old, step.t, 7))[[3, 6, 0, 1, 5, 4, 2]]
        kept.append((path, times, np.array([step._interpolate(t) for t in times]).T))
        step.dense_output()
    assert observed == plain
    for path, times, values in kept:  # long after CVODE has forgotten those steps
        scale = abs(path([path.t_old, path.t])).max()
        np.testing.assert_allclose(path(times), values, rtol=0, atol=1e-11 * scale)
        assert path(times[0]).shape == (2,)
    for (before, *_), (after, *_), state in zip(kept[:-1], kept[1:], plain[:-1], strict=True):
        np.testing.assert_array_equal(before(before.t), state[2:])
        np.testing.assert_array_equal(after(before.t), state[2:])


@installed
@both_formulas
def test_cvode_twice_gives_the_same_bits(formula, rng):
    matrix, start = -np.diag(np.geomspace(1, 1e4, 40)), rng.standard_normal(40)
    first, second = (
        solve_ivp(lambda t, y: matrix @ np.sin(y), [0, 1], start, method=CVODE, formula=formula)
        for _ in range(2)
    )
    assert first.nfev == second.nfev
    np.testing.assert_array_equal(first.y, second.y)


@installed
@both_formulas
@pytest.mark.parametrize("span", [(0.0, 20.0), (20.0, 0.0)])
def test_every_call_counts_and_none_is_beyond_the_bound(formula, span):
    calls = []

    def velocity(t, y):
        calls.append((t, y))
        return oscillator(t, y)

    solution = solve_ivp(velocity, span, [0.0, 1.0], method=CVODE, formula=formula)
    assert solution.nfev == len(calls)
    times = [t for t, _ in calls]
    assert 0 <= min(times) < 1e-9
    assert 20 - 1e-9 < max(times) <= 20
    assert len({y.ctypes.data for _, y in calls}) == len(calls)  # y may be kept: none is reused


@installed
@pytest.mark.parametrize("span", [(0.0, 3.0), (3.0, 0.0)])
def test_the_product_with_the_jacobian_takes_the_place_of_difference_quotients(span):
    # The first rate is fast and dies out, forwards and backwards.
    rates = np.array([-300.0, 2.0]) * np.sign(span[1] - span[0])
    products = []

    def velocity(t, y):
        return rates * (y - np.cos(t)) - np.sin(t)

    def product(t, y, v):
        products.append(t)
        return rates * v

    def solve(**options):
        start = np.full(2, np.cos(span[0]))
        return solve_ivp(velocity, span, start, method=CVODE, rtol=1e-9, atol=1e-11, **options)

    quotients, exact = solve(), solve(jacobian_product=product)
    assert quotients.njev == 0
    assert exact.njev == len(products) > 0
    assert exact.nfev < quotients.nfev
    assert min(products) >= 0
    assert max(products) <= 3
    for solution in (quotients, exact):
        np.testing.assert_allclose(solution.y, np.cos([solution.t] * 2), atol=1e-4)


@installed
def test_the_tolerances_of_each_entry_and_the_steps_are_cvode_s():
    rates, start = np.array([0.0, 1.0]), [1.0, 1e-6]

    def error(**options):
        solution = solve_ivp(lambda t, y: -rates * y, [0, 1], start, method=CVODE, **options)
        return abs(solution.y[1, -1] / start[1] - np.exp(-1)), np.diff(solution.t)

    assert error(rtol=1e-9, atol=[1e-15, 1e-3])[0] > 1e-3
    assert error(rtol=1e-9, atol=[1e-3, 1e-15])[0] < 1e-6
    assert error(first_step=1e-5)[1][0] == pytest.approx(1e-5)
    assert error(max_step=0.01)[1].max() < 0.01 * (1 + 1e-9)


@installed
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formula": "Gear"}, "^formula must be"),
        ({"formula": "bdf"}, "^formula must be"),
        ({"rtol": 0.0}, "^rtol must be"),
        ({"atol": -1.0}, "^atol must be"),
        ({"atol": [1e-3, 0.0]}, "^atol must be"),
        ({"atol": [1e-3] * 3}, "^atol must be"),
        ({"first_step": -1.0}, "^first_step must be"),
        ({"max_step": 0.0}, "^max_step must be"),
    ],
)
def test_options_that_cvode_has_not_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CVODE(oscillator, 0.0, [0.0, 1.0], 1.0, **options)


@installed
def test_an_option_of_another_integrator_is_refused_by_cvode():
    with pytest.raises(TypeError, match="lband"):
        CVODE(oscillator, 0.0, [0.0, 1.0], 1.0, lband=1)


@installed
@both_formulas
@pytest.mark.parametrize("outside", [np.nan, np.inf, -np.inf])
def test_cvode_steps_shorter_where_the_velocity_is_not_finite(formula, outside):
    # y' = -(y^2 + 1) up to y = -2 and undefined below it: y = tan(c - t) ends at t = c + atan 2.
    # A step is shortened up to the edge, and there it fails.
    def velocity(t, y):
        return np.where(y < -2, outside, -(y**2) - 1)

    solution = solve_ivp(
        velocity, [0, 5], [1.0], method=CVODE, formula=formula, rtol=1e-8, atol=1e-10
    )
    assert solution.status == -1
    assert "not finite at t = 1.89" in solution.message
    assert solution.t[-1] == pytest.approx(np.pi / 4 + np.arctan(2), abs=1e-4)
    np.testing.assert_allclose(solution.y[0], np.tan(np.pi / 4 - solution.t), rtol=1e-5, atol=1e-5)
    assert solution.nfev < 1000


@installed
def test_a_trial_step_into_the_undefined_is_taken_back():
    # sqrt(y) is undefined at y < 0, where a first step of 1 leads and the solution does not.
    met = []

    def velocity(t, y):
        met.append(y[0])
        with np.errstate(invalid="ignore"):
            return -30 * np.sqrt(y) * y

    solution = solve_ivp(
        velocity, [0, 2], [1.0], method=CVODE, first_step=1.0, rtol=1e-6, atol=1e-8
    )
    assert solution.success
    assert min(met) < 0
    np.testing.assert_allclose(solution.y[0], (1 + 15 * solution.t) ** -2, atol=1e-4)


@installed
@pytest.mark.parametrize("ever", [True, False])
def test_a_velocity_defined_nowhere_or_only_at_the_start_is_said(ever, capfd):
    solution = solve_ivp(
        lambda t, y: -y if ever and t == 0 else np.full_like(y, np.nan), [0, 1], [1.0], method=CVODE
    )
    assert solution.status == -1
    assert "not finite at t = " in solution.message
    assert solution.nfev < 200
    assert capfd.readouterr() == ("", "")  # SUNDIALS has printed nothing


@installed
def test_a_solution_that_blows_up_fails_at_that_time(capfd):
    solution = solve_ivp(lambda t, y: y**2, [0, 2], [1.0], method=CVODE, rtol=1e-9, atol=1e-9)
    assert solution.status == -1
    assert solution.t[-1] == pytest.approx(1, abs=1e-6)
    assert solution.message
    assert capfd.readouterr() == ("", "")


@installed
def test_a_tolerance_below_rounding_fails(capfd):
    solution = solve_ivp(oscillator, [0, 1], [0.0, 1.0], method=CVODE, rtol=1e-18, atol=1e-30)
    assert solution.status == -1
    assert "accuracy" in solution.message
    assert capfd.readouterr() == ("", "")


@installed
@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError, NotFiniteError, SystemExit])
@pytest.mark.parametrize("call", [1, 2, 3, 10, 50])
def test_what_the_velocity_raises_comes_out_of_cvode_as_it_is(kind, call):
    error = kind("mine")
    calls = 0

    def velocity(t, y):
        nonlocal calls
        calls += 1
        if calls == call:
            raise error
        return van_der_pol(t, y)

    solver = CVODE(velocity, 0.0, [2.0, 0.0], 60.0)
    with pytest.raises(kind) as caught:
        list(steps_of(solver))
    assert caught.value is error
    assert solver.nfev == calls == call
    assert solver.status == "failed"
    if solver.t_old is not None:
        with pytest.raises(RuntimeError, match="no interpolant"):
            solver.dense_output()


@installed
def test_what_the_jacobian_product_raises_comes_out_of_cvode_as_it_is():
    def product(t, y, v):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        solve_ivp(oscillator, [0, 1], [0.0, 1.0], method=CVODE, jacobian_product=product)


@installed
def test_what_the_velocity_prints_is_seen_while_cvode_is_silent(capsys):
    stdout = sys.stdout

    def velocity(t, y):
        print("seen")
        return -y

    def solve():
        return solve_ivp(velocity, [0, 1], [1.0], method=CVODE)

    solution = solve()
    assert capsys.readouterr().out == "seen\n" * solution.nfev
    thread = threading.Thread(target=solve)
    thread.start()
    thread.join()
    assert capsys.readouterr().out == "seen\n" * solution.nfev
    assert sys.stdout is stdout


@installed
@pytest.mark.parametrize(("bound", "start"), [(0.0, [1.0]), (1.0, [])])
def test_cvode_with_nothing_to_do(bound, start):
    solution = solve_ivp(lambda t, y: -y, [0, bound], start, method=CVODE)
    assert solution.success
    assert solution.nfev == 0
    assert solution.t[-1] == bound


@installed
def test_cvode_with_columns_of_states_and_events_of_scipy():
    def fall(t, y):
        assert y.ndim == 2
        return np.array([y[1], -np.ones_like(y[1])])

    def ground(t, y):
        return y[0]

    ground.terminal = True
    solution = solve_ivp(
        fall, [0, 9], [2.0, 0.0], method=CVODE, vectorized=True, events=ground, rtol=1e-9, atol=1e-9
    )
    assert solution.t_events[0] == pytest.approx([2.0], abs=1e-6)


def problem_on(manifold, target):
    @pymanopt.function.autograd(manifold)
    def cost(*point):
        W = point[0] if len(point) == 1 else point[0] * point[1] @ point[2]
        return anp.sum((W - target) ** 4) / 4

    return pymanopt.Problem(manifold, cost)


@installed
@both_formulas
@pytest.mark.parametrize(
    "manifold",
    [FullRank(4, 3, DeepLinearMetric(3), rng=0), FixedRank(4, 3, 2, DeepLinearMetric(2), rng=0)],
)
def test_gradient_flows_by_cvode_are_those_by_dop853(formula, manifold):
    problem = problem_on(manifold, np.ones((4, 3)))
    start, times = manifold.random_point(), np.linspace(0, 3, 7)
    expected = gradient_flow(problem, start, times, rtol=1e-11, atol=1e-12)
    flow = gradient_flow(
        problem, start, times, method="CVODE", formula=formula, rtol=1e-9, atol=1e-11
    )

    def matrices(points):
        return [W if isinstance(W, np.ndarray) else W.u * W.s @ W.vt for W in points]

    np.testing.assert_allclose(matrices(flow.points), matrices(expected.points), atol=1e-6)
    np.testing.assert_allclose(flow.costs, expected.costs, atol=1e-6)
    assert flow.success
    assert flow.message == "reached the last time"


@installed
def test_a_flow_by_cvode_stops_at_the_gradient_tolerance():
    problem = problem_on(FullRank(2, 2, DeepLinearMetric(2)), np.ones((2, 2)))
    start = [[2.0, 0.5], [0.1, 1.0]]
    options = {"gradient_tolerance": 0.05, "rtol": 1e-10, "atol": 1e-12}
    flow = gradient_flow(problem, start, [0, 1e5], method="CVODE", **options)
    expected = gradient_flow(problem, start, [0, 1e5], **options)
    assert flow.message == "reached the gradient tolerance"
    assert flow.gradient_norms[-1] == pytest.approx(0.05, rel=1e-6)
    assert flow.times[-1] == pytest.approx(expected.times[-1], rel=1e-6)


@installed
def test_a_long_plateau_costs_cvode_fewer_gradients():
    manifold = FullRank(6, 6, DeepLinearMetric(3))
    known = np.add.outer(range(6), range(6)) % 3 > 0
    target = np.outer(np.arange(1.0, 7), np.arange(6.0, 0, -1)) / 15

    @pymanopt.function.autograd(manifold)
    def cost(W):
        return anp.sum(known * (W - target) ** 2) / 2

    problem, times = pymanopt.Problem(manifold, cost), [0, 100]
    stiff = gradient_flow(problem, 0.1 * np.eye(6), times, method="CVODE")
    explicit = gradient_flow(problem, 0.1 * np.eye(6), times)
    np.testing.assert_allclose(stiff.points, explicit.points, atol=1e-5)
    assert stiff.nfev < explicit.nfev / 2


@installed
def test_a_flow_by_cvode_out_of_the_domain_is_a_flow_error(capfd):
    manifold = FullRank(1, 1, DeepLinearMetric(1))

    @pymanopt.function.numpy(manifold)
    def cost(W):
        return W[0, 0]

    @pymanopt.function.numpy(manifold)
    def gradient(W):
        return np.where(W < 0.5, np.nan, 1.0)

    problem = pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)
    with pytest.raises(FlowError, match="integrator CVODE failed at time 0.5.*gradient is not"):
        gradient_flow(problem, [[1.0]], [0, 1], method="CVODE")
    assert capfd.readouterr() == ("", "")


def test_cvode_that_is_not_installed_says_how_to_get_it(monkeypatch):
    for name in ("sksundae", "sksundae.cvode"):
        monkeypatch.setitem(sys.modules, name, None)
    problem = problem_on(FullRank(2, 2, DeepLinearMetric(2)), np.ones((2, 2)))
    with pytest.raises(ImportError, match="pip install scikit-sundae"):
        gradient_flow(problem, np.eye(2), [0, 1], method="CVODE")
    with pytest.raises(ImportError, match="pip install scikit-sundae"):
        CVODE(oscillator, 0.0, [0.0, 1.0], 1.0)
