import copy
import inspect
import itertools
import math

import autograd
import autograd.numpy as anp
import mpmath
import numpy as np
import pymanopt
import pytest
import scipy.linalg
from scipy.optimize import least_squares

from riemdln import (
    CriticalPoint,
    DeepLinearMetric,
    FixedRank,
    FullRank,
    critical_points,
    escape_time,
    gradient_flow,
    network_flow,
)
from tests.conftest import random_matrix

MODES = {
    "apart": [3.0, 2.0, 0.5],
    "equal": [2.0, 2.0, 1.0],
    "spread": [3.0, 1e-3, 1e-6],
    "one missing": [3.0, 2.0, 0.0],
}


def product(layers):
    W = layers[0]
    for layer in layers[1:]:
        W = anp.dot(layer, W)
    return W


class Layers:
    """The cost as a function of all entries of explicit layers of one hidden width."""

    def __init__(self, target, inputs, depth, width):
        m, n = len(target), len(inputs)
        widths = [n, *[width] * (depth - 1), m]
        self.shapes = [(b, a) for a, b in itertools.pairwise(widths)]
        self.ends = np.cumsum([0, *(a * b for a, b in self.shapes)])
        self.target, self.inputs = target, inputs

    def unpacked(self, entries):
        parts = [entries[a:b] for a, b in itertools.pairwise(self.ends)]
        return [anp.reshape(p, shape) for p, shape in zip(parts, self.shapes, strict=True)]

    def cost(self, entries):
        return (
            anp.sum((anp.dot(product(self.unpacked(entries)), self.inputs) - self.target) ** 2) / 2
        )

    def balanced(self, W, rank):
        """The entries of balanced layers of a matrix of some rank."""
        U, s, Vt = np.linalg.svd(W)
        depth = len(self.shapes)
        if depth == 1:
            return W.ravel()
        roots = s[:rank] ** (1 / depth)
        layers = [np.zeros(shape) for shape in self.shapes]
        layers[0][:rank] = roots[:, None] * Vt[:rank]
        layers[-1][:, :rank] = U[:, :rank] * roots
        for layer in layers[1:-1]:
            layer[range(rank), range(rank)] = roots
        return np.concatenate([layer.ravel() for layer in layers])


def least_squares_problem(rng, m, n, modes, whitened):
    """A target and inputs with given modes; whitened ones have inputs that are the identity."""
    target = random_matrix(rng, m, n, modes[: min(m, n)])
    if whitened:
        return target, np.eye(n)
    inputs = rng.standard_normal((n, 2 * n + 1))
    Q = np.linalg.qr(inputs.T)[0]
    rest = rng.standard_normal((m, 2 * n + 1))
    return target @ Q.T + rest - rest @ Q @ Q.T, inputs


NETWORKS = [  # depth, m, n, width
    *[(2, 3, 3, 3), (2, 2, 3, 2), (2, 3, 2, 4), (2, 3, 3, 2), (2, 1, 3, 1)],
    *[(3, 3, 3, 3), (3, 3, 2, 4), (3, 3, 3, 2), (4, 2, 3, 2), (5, 3, 3, 2), (5, 1, 1, 1)],
]


@pytest.mark.parametrize("whitened", [True, False])
@pytest.mark.parametrize(("depth", "m", "n", "width"), NETWORKS)
@pytest.mark.parametrize("modes", MODES.values(), ids=MODES)
def test_kinds_and_rates_are_those_of_the_hessian_of_explicit_layers(
    rng, depth, m, n, width, whitened, modes
):
    target, inputs = least_squares_problem(rng, m, n, modes, whitened)
    layers = Layers(target, inputs, depth, width)
    gradient, hessian = autograd.grad(layers.cost), autograd.hessian(layers.cost)
    for point in critical_points(target, None if whitened else inputs, depth=depth, width=width):
        entries = layers.balanced(point.point, point.rank)
        np.testing.assert_allclose(gradient(entries), 0.0, atol=1e-6)
        assert layers.cost(entries) == pytest.approx(point.cost, rel=1e-10, abs=1e-12)
        least = np.linalg.eigvalsh(hessian(entries))[0]
        assert -least == pytest.approx(point.escape_rate, rel=1e-6, abs=1e-7)
        assert (point.kind == "strict saddle") == (least < -1e-7)


@pytest.mark.parametrize("width", [2, 3])
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_minima_are_the_points_of_least_cost(rng, depth, width):
    target, inputs = least_squares_problem(rng, 3, 4, [3.0, 2.0, 1.0], whitened=False)
    points = list(critical_points(target, inputs, depth=depth, width=width))
    minima = [point for point in points if point.kind == "minimum"]
    # The least cost among matrices of this rank, by Eckart and Young's theorem.
    fitted = np.linalg.lstsq(inputs.T, target.T)[0].T @ inputs
    cut = np.linalg.svd(fitted, compute_uv=False)[width:]
    least = np.sum((fitted - target) ** 2) / 2 + cut @ cut / 2
    assert [point.cost for point in minima] == [pytest.approx(least)]
    assert all(point.cost > least + 0.1 for point in points if point is not minima[0])


@pytest.mark.parametrize("depth", [3, 4])
def test_costs_fall_from_a_nonstrict_saddle_at_the_order_of_the_depth(rng, depth):
    target, inputs = least_squares_problem(rng, 3, 3, [3.0, 2.0, 1.0], whitened=False)
    layers = Layers(target, inputs, depth, 3)
    point = next(critical_points(target, inputs, depth=depth, modes=[[0]]))
    assert point.kind == "non-strict saddle"
    best = next(critical_points(target, inputs, depth=depth, modes=[[0, 1]]))
    start = layers.balanced(point.point, 1)
    assert layers.cost(start) - best.cost == pytest.approx(2.0)  # sigma_1^2 / 2

    # The unused neurons build u v^T of the unlearned gradient, with layers of the size h each.
    G = (point.point @ inputs - target) @ inputs.T
    u, _, vt = np.linalg.svd(G)

    def along(h):
        parts = layers.unpacked(start.copy())
        parts[0][1] += h * vt[0]
        parts[-1][:, 1] -= h * u[:, 0]
        for part in parts[1:-1]:
            part[1, 1] += h
        return layers.cost(np.concatenate([part.ravel() for part in parts])) - layers.cost(start)

    for h in (1e-1, 3e-2):
        lost = along(h / 2) / along(h)
        assert along(h) < 0
        assert lost == pytest.approx(0.5**depth, rel=20 * h)


def test_depth_one_has_the_least_squares_solution_alone(rng):
    target, inputs = least_squares_problem(rng, 3, 2, [3.0, 2.0], whitened=False)
    (point,) = critical_points(target, inputs, depth=1)
    np.testing.assert_allclose(point.point, np.linalg.lstsq(inputs.T, target.T)[0].T, atol=1e-12)
    assert (point.kind, point.escape_rate, point.rank) == ("minimum", 0.0, 2)


@pytest.mark.parametrize(("depth", "starts", "expected"), [(2, 20, {0, 1, 2, 3}), (3, 6, {1, 2})])
def test_newtons_method_on_the_layers_finds_these_points_and_no_others(
    rng, depth, starts, expected
):
    target, inputs = least_squares_problem(rng, 2, 2, [3.0, 1.5], whitened=False)
    layers = Layers(target, inputs, depth, 2)
    gradient, hessian = autograd.grad(layers.cost), autograd.hessian(layers.cost)
    known = [point.point for point in critical_points(target, inputs, depth=depth)]
    found = set()
    for _ in range(starts):
        start = rng.standard_normal(layers.ends[-1])
        entries = least_squares(gradient, start, hessian, xtol=1e-14, ftol=1e-14, gtol=1e-14).x
        if np.linalg.norm(gradient(entries)) < 1e-9:
            distances = [np.linalg.norm(product(layers.unpacked(entries)) - W) for W in known]
            assert min(distances) < 1e-3  # a degenerate one is known to a root of the tolerance
            found.add(int(np.argmin(distances)))
    assert found >= expected


@pytest.mark.parametrize("depth", [3, 4])
@pytest.mark.parametrize("modes", [[0, 2], [1], [2]])
def test_the_rate_is_of_the_riemannian_hessian_at_fixed_rank(rng, depth, modes):
    target, inputs = least_squares_problem(rng, 4, 3, [3.0, 2.0, 1.0], whitened=False)
    point = next(critical_points(target, inputs, depth=depth, modes=[modes]))
    k = point.rank
    manifold = FixedRank(4, 3, k, DeepLinearMetric(depth))
    gram = inputs @ inputs.T

    @pymanopt.function.numpy(manifold)
    def cost(u, s, vt):
        return np.sum((u * s @ vt @ inputs - target) ** 2) / 2

    @pymanopt.function.numpy(manifold)
    def gradient(u, s, vt):
        return u * s @ vt @ gram - target @ inputs.T

    @pymanopt.function.numpy(manifold)
    def hessian(u, s, vt, U, S, V):
        return U @ S @ V.T @ gram

    problem = pymanopt.Problem(
        manifold, cost, euclidean_gradient=gradient, euclidean_hessian=hessian
    )
    u, s, vt = (
        part[..., :k] if j < 2 else part[:k] for j, part in enumerate(np.linalg.svd(point.point))
    )
    place = manifold.random_point(0)._replace(u=u, s=s, vt=vt)
    vectors = [manifold.random_tangent_vector(place) for _ in range(k * (7 - k))]
    images = [problem.riemannian_hessian(place, vector) for vector in vectors]
    form, inner = (
        np.array([[manifold.inner_product(place, a, b) for b in vectors] for a in others])
        for others in (images, vectors)
    )
    values = scipy.linalg.eigh((form + form.T) / 2, inner, eigvals_only=True)
    assert -values[0] == pytest.approx(point.escape_rate, rel=1e-7)


@pytest.mark.parametrize("depth", [2, 3, 7, 50])
def test_rates_of_whitened_problems_have_a_closed_form(depth):
    sigma = np.array([4.0, 1.0, 1e-2, 1e-2, 1e-5])
    for point in critical_points(np.diag(sigma), depth=depth):
        others = np.delete(sigma, point.modes)
        pairs = itertools.product(sigma[list(point.modes)], others)
        rates = [s ** (1 - 2 / depth) * (t - s) for s, t in pairs]
        rates += list(others) if depth == 2 else []
        assert point.escape_rate == pytest.approx(max([0.0, *rates]), rel=1e-6)


def test_layers_leave_a_strict_saddle_at_its_rate(rng):
    target, inputs = least_squares_problem(rng, 3, 3, [3.0, 2.0, 1.0], whitened=False)
    point = next(critical_points(target, inputs, depth=3, modes=[[1]]))
    manifold = FullRank(3, 3, DeepLinearMetric(3))

    @pymanopt.function.autograd(manifold)
    def cost(W):
        return anp.sum((anp.dot(W, inputs) - target) ** 2) / 2

    layers = Layers(target, inputs, 3, 3)
    start = layers.balanced(point.point, 1)
    start = start + 1e-9 * rng.standard_normal(start.shape)
    rate = point.escape_rate
    times = np.r_[0, np.linspace(6, 12, 13)] / rate
    flow = network_flow(pymanopt.Problem(manifold, cost), layers.unpacked(start), times, rtol=1e-12)
    distances = np.linalg.norm(np.array(flow.points)[1:] - point.point, axis=(1, 2))
    slope = np.polyfit(times[1:], np.log(distances), 1)[0]
    assert slope == pytest.approx(rate, rel=1e-3)


def test_sets_are_made_one_by_one():
    points = critical_points(np.diag(np.arange(1.0, 61.0)), depth=3)
    assert [point.modes for point in itertools.islice(points, 3)] == [(), (0,), (1,)]
    (point,) = critical_points(np.diag(np.arange(1.0, 61.0)), depth=3, modes=[range(40)])
    assert point.rank == 40


def test_a_zero_target_has_one_critical_point():
    (point,) = critical_points(np.zeros((2, 3)), depth=3)
    assert (point.kind, point.cost, point.modes) == ("minimum", 0.0, ())


def test_rounding_errors_are_no_modes(rng):
    inputs = rng.standard_normal((2, 9))
    Q = np.linalg.qr(inputs.T)[0]
    unrelated = rng.standard_normal((3, 9))
    unrelated -= unrelated @ Q @ Q.T
    (point,) = critical_points(1e6 * unrelated, inputs, depth=3)
    assert point.kind == "minimum"
    assert point.cost == pytest.approx(5e11 * np.sum(unrelated**2))
    low_rank = np.outer(rng.standard_normal(4), rng.standard_normal(5)).astype(np.float32)
    assert [point.rank for point in critical_points(low_rank, depth=3)] == [0, 1]


def test_bad_input_is_refused(rng):
    target, inputs = np.diag([2.0, 1.0, 0.0]), rng.standard_normal((3, 3))
    for call, message in [
        (lambda: critical_points(target[0], depth=2), "target must be a matrix"),
        (lambda: critical_points(target, depth=0), "depth must be a whole number"),
        (lambda: critical_points(target, depth=2.5), "depth must be a whole number"),
        (lambda: critical_points(target, depth=2, width=0), "width must be a whole number"),
        (lambda: critical_points(target, depth=1, width=2), "width must be None at depth 1"),
        (lambda: critical_points(target, inputs[:, :2], depth=2), "as many columns as target"),
        (lambda: critical_points(target, inputs[[0, 0]], depth=2), "full row rank, 2, .* rank 1"),
        (lambda: critical_points(target, np.nan * inputs, depth=2), "inputs must be finite"),
        (lambda: next(critical_points(target, depth=2, modes=[[2]])), "of the 2 modes"),
        (lambda: next(critical_points(target, depth=2, modes=[[0, 0]])), "different ones"),
        (lambda: next(critical_points(target, depth=2, modes=[[-1]])), "whole number"),
        (lambda: next(critical_points(target, depth=2, width=1, modes=[[0, 1]])), "at most 1"),
        (lambda: next(critical_points(target, depth=1, modes=[[0]])), "must be all of the 2"),
        (lambda: escape_time(0.0, 1.0, 2), "start must be positive"),
        (lambda: escape_time([0.1, 0.6], 1.0, 2), "less than fraction"),
        (lambda: escape_time(0.1, -1.0, 2), "start must be positive"),
        (lambda: escape_time(0.1, 1.0, 0.5), "depth must be a number from 1"),
        (lambda: escape_time(0.1, 1.0, 2, fraction=1.0), "fraction must be between 0 and 1"),
        (lambda: escape_time(1e-300, 1e-10, math.inf), "out of the range"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_a_rate_below_rounding_errors_is_refused():
    (point,) = critical_points(np.diag([1.0, 0.5, 0.5 - 4e-16]), depth=3, modes=[[0, 2]])
    assert point.kind == "non-strict saddle"  # equal but for rounding errors
    (point,) = critical_points(np.diag([1.0, 0.5, 0.5 - 2e-15]), depth=3, modes=[[0, 2]])
    with pytest.raises(ArithmeticError, match=r"from modes \(0, 2\) at depth 3"):
        _ = point.escape_rate


@pytest.mark.parametrize("depth", [1, 1.5, 2, 2 + 1e-9, 3, 5, 1000, math.inf])
@pytest.mark.parametrize(
    ("share", "fraction"),
    [(1e-300, 0.5), (1e-20, 1 - 1e-9), (1e-3, 0.5), (0.4, 1 - 1e-9), (0.5 - 1e-9, 0.5)],
)
def test_escape_times_are_integrals_to_all_digits(depth, share, fraction):
    sigma = 3.0
    with mpmath.workdps(25):
        exponent = 2 - 2 / mpmath.mpf(depth)
        factor = 1 if math.isinf(depth) else depth

        def far(log_s):  # ds / theta / (sigma - s), in ln s
            s = mpmath.exp(log_s)
            return s / (factor * s**exponent * (sigma - s))

        def near(log_rest):  # and in ln(sigma - s)
            return 1 / (factor * (sigma - mpmath.exp(log_rest)) ** exponent)

        start, end = mpmath.mpf(share) * sigma, mpmath.mpf(fraction) * sigma
        middle = max(start, mpmath.mpf("0.45") * sigma)
        pieces = {
            far: [mpmath.log(start), mpmath.log(middle)],
            near: [mpmath.log(sigma - end), mpmath.log(sigma - middle)],
        }
        expected = sum(
            mpmath.quad(integrand, mpmath.linspace(*ends, 30), method="gauss-legendre")
            for integrand, ends in pieces.items()
        )
    time = escape_time(share * sigma, sigma, depth, fraction=fraction)
    # The start and its distance from the end are rounded themselves.
    rounding = 1e-15 * fraction / (fraction - share) + 1e-15 / (1 - fraction)
    assert time == pytest.approx(float(expected), rel=1e-12 + rounding)


def test_escape_times_take_arrays():
    times = escape_time([[1e-3], [1e-6]], [1.0, 2.0, 3.0], 2)
    x = np.array([[1e-3], [1e-6]]) / [1.0, 2.0, 3.0]
    np.testing.assert_allclose(times, np.log((1 - x) / x) / (2 * np.array([1.0, 2.0, 3.0])))


def whitened_problem(target, depth):
    manifold = FullRank(*target.shape, DeepLinearMetric(depth))

    @pymanopt.function.autograd(manifold)
    def cost(W):
        return anp.sum((W - target) ** 2, axis=(-2, -1)) / 2

    @pymanopt.function.numpy(manifold)
    def gradient(W):
        return W - target

    return pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)


def orthonormal(rng, m, n):
    return np.linalg.qr(rng.standard_normal((m, n)))[0]


SIGMA = np.array([3.0, 2.0, 1.0])


def time_to_leave(rng, depth, rank, size, *, turned=True, **options):
    """When a flow that starts near a critical point has learned half of the next mode."""
    U, V = orthonormal(rng, 4 if turned else 3, 3), orthonormal(rng, 3, 3)
    turn = orthonormal(rng, 3 - rank, 3 - rank) if turned else np.eye(3 - rank)
    start = (
        np.c_[U[:, :rank], U[:, rank:] @ turn],
        np.r_[SIGMA[:rank], size * np.linspace(1.0, 0.7, 3 - rank)],
        V.T,
    )
    time = escape_time(size, SIGMA[rank], depth)
    return gradient_flow(
        whitened_problem(U * SIGMA @ V.T, depth),
        start,
        [0.0, 20 * time],
        stop=lambda time, W, cost, norm: W.s[rank] >= SIGMA[rank] / 2,
        **options,
    ).times[-1]


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_flows_leave_zero_by_the_law_over_twenty_orders_of_magnitude(depth):
    early, late = (
        time_to_leave(np.random.default_rng(0), depth, 0, size, rtol=1e-6) for size in (1e-2, 1e-22)
    )
    decades = np.log(1e20)
    if depth == 2:
        assert (late - early) / decades == pytest.approx(1 / (2 * SIGMA[0]), rel=1e-2)
    else:
        assert np.log(late / early) / decades == pytest.approx(1 - 2 / depth, rel=1e-2)


@pytest.mark.parametrize(("depth", "sizes"), [(2, (1e-4, 1e-24)), (3, (1e-4, 1e-14))])
def test_flows_leave_a_saddle_of_rank_one_by_the_law(depth, sizes):
    pytest.importorskip("sksundae", reason="scikit-sundae, which has SUNDIALS, is optional")
    early, late = (
        time_to_leave(np.random.default_rng(0), depth, 1, size, method="CVODE", rtol=1e-6)
        for size in sizes
    )
    decades = np.log(sizes[0] / sizes[1])
    if depth == 2:
        assert (late - early) / decades == pytest.approx(1 / (2 * SIGMA[1]), rel=1e-2)
    else:
        assert np.log(late / early) / decades == pytest.approx(1 / 3, rel=1e-2)


@pytest.mark.parametrize("depth", [2, 2.5, 3, 5, math.inf])
def test_aligned_flows_take_the_escape_time(depth, rng):
    size = 1e-3
    time = time_to_leave(rng, depth, 0, size, turned=False)
    assert time == pytest.approx(escape_time(size, SIGMA[0], depth), rel=1e-5)


def test_runs_from_near_zero_pass_the_saddles_at_distances_by_a_power(rng):
    sigma = np.array([4.0, 2.0, 1.0])
    U, V = orthonormal(rng, 4, 3), orthonormal(rng, 3, 3)
    target = U * sigma @ V.T
    passed = critical_points(target, depth=2, modes=[range(1), range(2)])
    saddles = np.array([point.point for point in passed])
    u, v = orthonormal(rng, 4, 3), orthonormal(rng, 3, 3)
    distances = []
    for size in (1e-12, 1e-24):
        times = np.r_[0, np.log(1 / size) / (sigma[:2] + sigma[1:])]
        start = u, size * np.array([1.0, 0.8, 0.6]), v.T
        flow = gradient_flow(whitened_problem(target, 2), start, times)
        points = np.array([u * s @ vt for u, s, vt in flow.points[1:]])
        distances.append(np.linalg.norm(points - saddles, axis=(1, 2)))
    powers = np.log(distances[0] / distances[1]) / np.log(1e12)
    np.testing.assert_allclose(powers, [1 / 3, 1 / 3], rtol=1e-2)


def test_modes_are_sets_of_modes():
    with pytest.raises(TypeError, match=r"^modes must be a list of sets of modes.* got 0 in it"):
        next(critical_points(np.eye(2), depth=2, modes=[0, 1]))


@pytest.mark.parametrize("depth", [2, 3, np.inf])
def test_times_out_of_range_are_refused(depth):
    with pytest.raises(ValueError, match="^the escape time is out of the range"):
        escape_time(1e-3, 1e308, depth)
    with pytest.raises(ValueError, match="^start must have a shape that broadcasts"):
        escape_time([1e-3, 1e-2], [1.0, 2.0, 3.0], depth)


def test_a_critical_point_shows_its_public_fields_alone():
    assert [*inspect.signature(CriticalPoint).parameters] == ["modes", "point", "cost", "kind"]
    point = next(critical_points(np.eye(2), depth=2))
    assert repr(point) == "CriticalPoint(modes=(), cost=1.0, kind='strict saddle')"
    assert copy.copy(point).escape_rate == pytest.approx(1.0, rel=1e-12)
    with pytest.raises(ValueError, match="^only a point that critical_points gave"):
        _ = CriticalPoint((), np.zeros((2, 2)), 1.0, "strict saddle").escape_rate
