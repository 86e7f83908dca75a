"""Eigenvalues of Hessians and the learning rates that they allow, against explicit layers."""

import math
from itertools import pairwise

import autograd.numpy as anp
import numpy as np
import pymanopt
import pytest
import scipy.linalg
from autograd import hessian
from pymanopt import manifolds
from pymanopt.optimizers import SteepestDescent

from riemdln import (
    DeepLinearMetric,
    FixedRank,
    FixedStep,
    FullRank,
    KroneckerMetric,
    PositiveDefinite,
    balanced_layers,
    end_to_end,
    gradient_flow,
    imbalance,
    imbalances,
    layer_gradients,
    max_stable_step,
    network_flow,
    network_sharpness,
    sharpness,
    spectrum,
)
from tests.conftest import derivative, fit, random_matrix, spectral_definition

DEPTHS = [1, 2, 3, 4, 5]
SHAPES = [(2, 2), (2, 3), (4, 2), (1, 3)]


def regression(manifold, inputs, W):
    """E = |V X - W X|^2 / 2 as a function of V: its minimum is exactly at W."""
    plain = pymanopt.function.numpy(manifold)
    second = inputs @ inputs.T
    return pymanopt.Problem(
        manifold,
        plain(lambda V: np.sum(((V - W) @ inputs) ** 2) / 2),
        euclidean_gradient=plain(lambda V: (V - W) @ second),
        euclidean_hessian=plain(lambda V, X: X @ second),
    )


def quartic(manifold, target):
    """E = |W - T|_4^4 / 4 + |W - T|^2 / 2, by autograd."""

    @pymanopt.function.autograd(manifold)
    def cost(W):
        return anp.sum((W - target) ** 4) / 4 + anp.sum((W - target) ** 2) / 2

    return pymanopt.Problem(manifold, cost)


def layers_hessian(cost, layers):
    """The dense Hessian of a cost in the entries of all layers, by autograd."""
    ends = np.cumsum([layer.size for layer in layers])

    def of_entries(entries):
        product = None
        for layer, part in zip(layers, np.split(np.arange(ends[-1]), ends[:-1]), strict=True):
            matrix = anp.reshape(entries[part], layer.shape)
            product = matrix if product is None else anp.dot(matrix, product)
        return cost(product)

    return hessian(of_entries)(np.concatenate(layers, axis=None))


def dense_eigenvalues(problem, point):
    """All eigenvalues, descending, by the matrices of the metric and the Hessian in a basis."""
    manifold = problem.manifold
    basis = [manifold.random_tangent_vector(point) for _ in range(manifold.dim)]
    images = [problem.riemannian_hessian(point, X) for X in basis]
    metric, form = (
        np.array([[manifold.inner_product(point, X, Y) for Y in others] for X in basis])
        for others in (basis, images)
    )
    return scipy.linalg.eigh((form + form.T) / 2, metric, eigvals_only=True)[::-1]


# The layers' Hessian at a minimum.


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_at_a_minimum_the_layers_have_the_same_eigenvalues(rng, m, n, depth):
    W, inputs = random_matrix(rng, m, n), rng.standard_normal((n, 2 * n))
    problem = regression(FullRank(m, n, DeepLinearMetric(depth), rng=0), inputs, W)
    dense = layers_hessian(
        lambda V: anp.sum(anp.dot(V - W, inputs) ** 2) / 2, balanced_layers(W, depth)
    )
    expected = np.linalg.eigvalsh(dense)[::-1]
    found = spectrum(problem, W, m * n)
    np.testing.assert_allclose(found.eigenvalues, expected[: m * n], atol=1e-10 * expected[0])
    np.testing.assert_allclose(expected[m * n :], 0, atol=1e-10 * expected[0])
    assert np.all(found.errors <= 1e-8 * expected[0])
    assert network_sharpness(problem, balanced_layers(W, depth)) == pytest.approx(
        expected[0], rel=1e-10
    )


@pytest.mark.parametrize("depth", [1, 2, 2.5, 3, 7, math.inf])
@pytest.mark.parametrize("s", [[3.0, 2.0, 1.0], [2.0, 2.0, 2.0], [2.0, 2.0 - 1e-10, 1e-5]])
def test_a_fit_has_the_values_of_the_kernel(rng, depth, s):
    target = random_matrix(rng, 3, 3, s)
    squares = np.square(s)
    if math.isinf(depth):
        a, b = np.meshgrid(squares, squares)
        close = np.abs(a - b) < 1e-6 * a
        with np.errstate(divide="ignore", invalid="ignore"):
            theta = np.where(close, (a + b) / 2, (a - b) / np.log(a / b))
    else:
        theta = spectral_definition(squares, squares, depth)
    problem = fit(FullRank(3, 3, DeepLinearMetric(depth), rng=0), target)
    expected = np.sort(theta, axis=None)[::-1]
    for count in (1, 4, 9):
        np.testing.assert_allclose(
            spectrum(problem, target, count).eigenvalues, expected[:count], atol=3e-9 * expected[0]
        )
        np.testing.assert_allclose(
            spectrum(problem, target, count, which="smallest").eigenvalues,
            expected[::-1][:count],
            atol=3e-9 * expected[0],
        )


def test_the_sharpness_of_a_fit_in_closed_form(rng):
    target = random_matrix(rng, 3, 5, [3.0, 1.0, 0.2])
    for depth in DEPTHS:
        problem = fit(FullRank(3, 5, DeepLinearMetric(depth), rng=0), target)
        assert sharpness(problem, target) == pytest.approx(depth * 3.0 ** (2 - 2 / depth))
        assert max_stable_step(problem, target) == pytest.approx(2 / sharpness(problem, target))


def test_eigenvalues_whose_squares_leave_the_range():
    for size in (1e-100, 1e100):  # eigenvalues of 4e-200 and 4e200
        target = np.diag([2.0, 1.0]) * size
        problem = fit(FullRank(2, 2, DeepLinearMetric(math.inf), rng=0), target)
        assert sharpness(problem, target) == pytest.approx((2 * size) ** 2, rel=1e-9)
    target = np.full((1, 1), 5e-109)
    problem = fit(FullRank(1, 1, DeepLinearMetric(math.inf), rng=0), target)
    with pytest.raises(ValueError, match="^the Hessian at point must be in the range of floating"):
        sharpness(problem, target)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [1e-140, 1e-120, 1e-60, 1.0, 1e120])
def test_a_hessian_that_is_lost_is_not_one_of_zero(size):
    manifold = FullRank(2, 2, DeepLinearMetric(2), rng=0)
    plain = pymanopt.function.numpy(manifold)
    W = np.diag([2.0, 1.0]) * size

    def multiple(factor):  # its largest eigenvalue is factor theta(s_1, s_1) = 2 factor s_1
        return pymanopt.Problem(
            manifold,
            plain(lambda W: 0.0),
            euclidean_gradient=plain(lambda W: 0 * W),
            euclidean_hessian=plain(lambda W, X: factor * X),
        )

    assert sharpness(multiple(0.0), W) == 0
    assert sharpness(multiple(1e-150 / size), W) == pytest.approx(4e-150, rel=1e-9)
    if size < 1:  # entries of the Hessian's products are less than eigenvalues
        with pytest.raises(ValueError, match="^the Hessian at point must be in the range of float"):
            sharpness(multiple(1e-300 / size), W)


# Every manifold and metric, anywhere.


def rayleigh(manifold, matrix):
    @pymanopt.function.autograd(manifold)
    def cost(x):
        return anp.sum(x * anp.dot(matrix, x))

    return pymanopt.Problem(manifold, cost)


def on_product(metric, target):
    manifold = manifolds.Product([FullRank(2, 2, metric, rng=0), manifolds.Sphere(3)])

    @pymanopt.function.autograd(manifold)
    def cost(W, x):
        return anp.sum((W - target) ** 4) + anp.sum(W[0, 0] * x**3)

    return pymanopt.Problem(manifold, cost)


def on_fixed_rank(rng):
    manifold = FixedRank(5, 4, 2, DeepLinearMetric(3), rng=0)
    target, mask = rng.standard_normal((5, 4)), rng.uniform(size=(5, 4)) < 0.6
    plain = pymanopt.function.numpy(manifold)
    return pymanopt.Problem(
        manifold,
        plain(lambda u, s, vt: np.sum(mask * (u * s @ vt - target) ** 2) / 2),
        euclidean_gradient=plain(lambda u, s, vt: mask * (u * s @ vt - target)),
        euclidean_hessian=plain(lambda u, s, vt, U, S, V: mask * (U @ S @ V.T)),
    )


def problems(rng):
    target, own = rng.standard_normal((2, 3)), np.diag([1.0, 2.0])
    symmetric = rng.standard_normal((4, 4))
    deep = DeepLinearMetric(3)
    return {
        "full rank": quartic(FullRank(2, 3, deep, rng=0), target),
        "Kronecker": quartic(FullRank(2, 3, KroneckerMetric(own, np.eye(3)), rng=0), target),
        "positive definite": quartic(PositiveDefinite(3, deep, rng=0), np.diag([1.0, 2.0, 3.0])),
        "fixed rank": on_fixed_rank(rng),
        "Euclidean": quartic(manifolds.Euclidean(2, 3), target),
        "sphere": rayleigh(manifolds.Sphere(4), symmetric + symmetric.T),
        "Stiefel": rayleigh(manifolds.Stiefel(4, 2), symmetric + symmetric.T),
        "product": on_product(deep, target[:, :2]),
    }


@pytest.mark.parametrize("name", problems(np.random.default_rng(0)))
def test_eigenvalues_are_those_of_dense_matrices(rng, name):
    np.random.seed(0)  # noqa: NPY002 (pymanopt draws from it)
    problem = problems(rng)[name]
    manifold = problem.manifold
    point = manifold.random_point()
    expected = dense_eigenvalues(problem, point)
    size = np.abs(expected).max()
    for count in (1, 3, manifold.dim):
        top, bottom = (
            spectrum(problem, point, count, which=which) for which in ("largest", "smallest")
        )
        np.testing.assert_allclose(top.eigenvalues, expected[:count], atol=1e-8 * size)
        np.testing.assert_allclose(bottom.eigenvalues, expected[::-1][:count], atol=1e-8 * size)
        for i, (value, X) in enumerate(zip(top.eigenvalues, top.eigenvectors, strict=True)):
            rest = problem.riemannian_hessian(point, X) - float(value) * X
            assert manifold.norm(point, rest) < 2e-8 * size
            products = [manifold.inner_product(point, X, Y) for Y in top.eigenvectors]
            np.testing.assert_allclose(products, np.eye(count)[i], atol=1e-8)


def test_the_hessian_on_a_sphere_in_closed_form(rng):
    # Of x^T A x at the last eigenvector: 2 (a_i - a_n) for all the others.
    np.random.seed(0)  # noqa: NPY002
    A = rng.standard_normal((6, 6))
    values, vectors = np.linalg.eigh(A + A.T)
    problem = rayleigh(manifolds.Sphere(6), A + A.T)
    np.testing.assert_allclose(
        spectrum(problem, vectors[:, 0], 5).eigenvalues, 2 * (values[:0:-1] - values[0])
    )


def test_large_matrices_take_restarts(rng):
    # D^2E is X -> X C, every eigenvalue of C as often as W has rows.
    np.random.seed(0)  # noqa: NPY002
    m, n = 40, 50
    inputs = random_matrix(rng, n, n, np.linspace(1.0, 0.1, n))
    problem = regression(manifolds.Euclidean(m, n), inputs, np.zeros((m, n)))
    values = np.linspace(1.0, 0.1, n) ** 2
    np.testing.assert_allclose(spectrum(problem, np.zeros((m, n))).eigenvalues, values[:1])
    least = spectrum(problem, np.zeros((m, n)), 3, which="smallest")
    np.testing.assert_allclose(least.eigenvalues, values[[-1, -1, -1]], rtol=1e-9)


# Lower rank.


@pytest.mark.parametrize("least", [1e-6, 1e-10, 1e-13, 1e-300])
@pytest.mark.parametrize("depth", [2, 3, 5])
def test_small_singular_values_do_no_harm(rng, depth, least):
    # The last eigenvalue, theta(s_2, s_2), is frozen or below the rounding errors of the first.
    target = random_matrix(rng, 2, 2, [1.0, least])
    problem = fit(FullRank(2, 2, DeepLinearMetric(depth), rng=0), target)
    theta = [depth, 1.0 + least ** (2 / depth), 1.0 + least ** (2 / depth)]
    if depth > 2:
        theta[1:] = [sum(least ** (2 * k / depth) for k in range(depth))] * 2
    found = spectrum(problem, target, 3).eigenvalues
    # The error of an eigenvalue that is zero is about eps^(2/N).
    np.testing.assert_allclose(found, theta, rtol=5 * np.finfo(float).eps ** (2 / depth) + 1e-9)


def test_frozen_directions_do_not_count():
    target = np.diag([1.0, 0.0])
    problem = fit(FullRank(2, 2, DeepLinearMetric(2), rng=0), target)
    np.testing.assert_allclose(spectrum(problem, target, 3).eigenvalues, [2.0, 1.0, 1.0])
    with pytest.raises(
        ValueError, match="count must be at most 3, got 4: at point no more directions"
    ):
        spectrum(problem, target, 4)
    with pytest.raises(ValueError, match="every direction is frozen"):
        spectrum(problem, np.zeros((2, 2)))


# The layers, anywhere.


@pytest.mark.parametrize("widths", [[3, 2], [3, 4, 2], [3, 1, 2], [2, 3, 5, 2], [1, 1, 1, 1, 1]])
def test_the_layers_have_the_hessian_of_autograd(rng, widths):
    layers = [rng.standard_normal((rows, columns)) for columns, rows in pairwise(widths)]
    target = rng.standard_normal((widths[-1], widths[0]))
    problem = quartic(manifolds.Euclidean(widths[-1], widths[0]), target)
    dense = layers_hessian(
        lambda W: anp.sum((W - target) ** 4) / 4 + anp.sum((W - target) ** 2) / 2, layers
    )
    assert network_sharpness(problem, layers) == pytest.approx(
        np.linalg.eigvalsh(dense)[-1], rel=1e-9
    )


def test_away_from_a_minimum_the_layers_have_another_hessian():
    # (w_2 w_1 - 1)^2 / 2 at w_1 = w_2 = 2: [[4, 7], [7, 4]] in the layers.
    problem = fit(FullRank(1, 1, DeepLinearMetric(2), rng=0), np.ones((1, 1)))
    layers = [np.full((1, 1), 2.0)] * 2
    assert network_sharpness(problem, layers) == pytest.approx(11.0)
    # On W = 4, where lengths are those of sqrt(2 W): the second derivative along the geodesic
    # (2 + t / sqrt(2))^2, which is the balanced motion of both layers.
    assert sharpness(problem, np.full((1, 1), 4.0)) == pytest.approx(11.0)
    layers = [np.full((1, 1), 1.0), np.full((1, 1), 4.0)]
    expected = np.linalg.eigvalsh([[16.0, 7.0], [7.0, 1.0]])[-1]
    assert network_sharpness(problem, layers) == pytest.approx(expected)


# Steps.


def descend(problem, layers, rate, steps):
    """The costs of gradient descent on explicit layers, and the layers at its end."""
    costs = []
    for _ in range(steps):
        W = end_to_end(layers)
        costs.append(problem.cost(W))
        if not costs[-1] < 1e6:
            break
        gradients = layer_gradients(layers, problem.euclidean_gradient(W))
        layers = [layer - rate * G for layer, G in zip(layers, gradients, strict=True)]
    return np.array(costs), layers


def near(rng, layers):
    return [layer + 1e-5 * rng.standard_normal(layer.shape) for layer in layers]


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_layers_stay_below_the_largest_rate_and_leave_above_it(rng, depth):
    W, inputs = random_matrix(rng, 2, 3, [2.0, 1.0]), rng.standard_normal((3, 12))
    problem = regression(FullRank(2, 3, DeepLinearMetric(depth), rng=0), inputs, W)
    rate = max_stable_step(problem, W)
    start = near(rng, balanced_layers(W, depth))
    below, _ = descend(problem, start, 0.99 * rate, 1500)
    assert below[-1] < 1e-12 * below[0]
    above, _ = descend(problem, start, 1.01 * rate, 600)
    assert above.max() > 1e4 * above[0]


@pytest.mark.parametrize("depth", DEPTHS)
def test_just_above_it_a_fit_diverges_at_depth_one_and_settles_in_two_points_deeper(rng, depth):
    # The bifurcation of x -> x - h E'(x) along the common motion of the layers, of the energy
    # (x^N - 1)^2 / 2,
    # gives the mean cost of the two points to first order in h / rate - 1.
    target = random_matrix(rng, 2, 3, [1.0, 0.5])
    problem = fit(FullRank(2, 3, DeepLinearMetric(depth), rng=0), target)
    rate = max_stable_step(problem, target)
    start = near(rng, balanced_layers(target, depth))
    costs, _ = descend(problem, start, 1.01 * rate, 3000)
    if depth == 1:
        assert costs[-1] > 1e6
    else:
        np.testing.assert_allclose(costs[-3], costs[-1], rtol=1e-6)
        assert abs(costs[-2] - costs[-1]) > 0.05 * costs[-1]
        expected = 0.01 * 3 * depth**2 / ((depth - 1) * (20 * depth - 16))
        assert np.mean(costs[-2:]) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_just_above_it_a_regression_ends_at_a_flatter_minimum_out_of_balance(rng, depth):
    # Of |W - T|^2 / 2 the balanced minimum is the flattest one, of other costs it is not.
    W, inputs = random_matrix(rng, 2, 3, [2.0, 1.0]), rng.standard_normal((3, 12))
    problem = regression(FullRank(2, 3, DeepLinearMetric(depth), rng=0), inputs, W)
    balanced = balanced_layers(W, depth)
    rate = 1.01 * max_stable_step(problem, W)
    costs, layers = descend(problem, near(rng, balanced), rate, 4000)
    assert costs.max() > 1e4 * costs[0]
    assert costs[-1] < 1e-12
    assert imbalance(layers) > 1e-3
    assert network_sharpness(problem, layers) < 2 / rate < network_sharpness(problem, balanced)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_out_of_balance_the_sharpness_changes_by_its_eigenvector(rng, depth):
    """Equation (21d), and what steps at the limit do to the sharpness by it."""
    W, inputs = random_matrix(rng, 2, 3, [2.0, 1.0]), rng.standard_normal((3, 12))
    problem = regression(FullRank(2, 3, DeepLinearMetric(depth), rng=0), inputs, W)
    layers = balanced_layers(W, depth)
    dense = layers_hessian(lambda V: anp.sum(anp.dot(V - W, inputs) ** 2) / 2, layers)
    values, vectors = np.linalg.eigh(dense)
    largest, ends = values[-1], np.cumsum([layer.size for layer in layers])
    parts = np.split(vectors[:, -1], ends[:-1])
    X = [part.reshape(layer.shape) for part, layer in zip(parts, layers, strict=True)]
    M = [above.T @ above - below @ below.T for below, above in pairwise(X)]

    def turned(j, S, t):
        out, factor = list(layers), scipy.linalg.expm(t * S)
        out[j], out[j + 1] = factor @ out[j], out[j + 1] @ np.linalg.inv(factor)
        return out

    def along(function, motion):
        return derivative(lambda t: function(turned(*motion, t)), 1e-3)

    entries = [np.diag([1.0, 0.0]), np.ones((2, 2)), np.diag([0.0, 1.0])]
    motions = [(j, S) for j in range(depth - 1) for S in entries]
    slopes = np.array([2 * largest * np.sum(S * M[j]) for j, S in motions])
    measured = along(lambda layers: network_sharpness(problem, layers), motions[-1])
    assert measured == pytest.approx(slopes[-1], abs=1e-6 * largest)

    # Steps to and fro by a X change the balance by 4 a^2 M, as minus K of a motion does.
    def balance(layers):
        return np.concatenate(imbalances(layers), axis=None)

    K = [along(balance, motion) for motion in motions]
    a, steps = 1e-4, 20
    motion = np.linalg.lstsq(np.transpose(K), 4 * a**2 * np.concatenate(M, axis=None))[0]
    start = [layer + a * x for layer, x in zip(layers, X, strict=True)]
    _, end = descend(problem, start, 2 / largest, steps)
    np.testing.assert_allclose(
        balance(end) - balance(start), steps * 4 * a**2 * np.concatenate(M, axis=None), rtol=0.01
    )

    def at_rest(layers):
        accuracy = {"rtol": 1e-11, "atol": 1e-13, "gradient_tolerance": 1e-10}
        flow = network_flow(problem, layers, [0.0, 10.0], **accuracy)
        return network_sharpness(problem, flow.layers[-1])

    change = at_rest(end) - at_rest(start)
    assert change < 0
    assert change == pytest.approx(steps * slopes @ motion, rel=0.01)


@pytest.mark.parametrize("retraction", ["linear", "network"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_the_largest_rate_is_that_of_fixed_steps(rng, depth, retraction):
    W, inputs = random_matrix(rng, 2, 3, [2.0, 1.0]), rng.standard_normal((3, 12))
    metric = DeepLinearMetric(depth)
    problem = regression(FullRank(2, 3, metric, retraction=retraction, rng=0), inputs, W)
    start = W + 1e-5 * rng.standard_normal(W.shape)
    ends = {}
    for share in (0.99, 1.01):
        optimizer = SteepestDescent(
            FixedStep(share * max_stable_step(problem, W)),
            max_iterations=400,
            min_gradient_norm=0.0,
            verbosity=0,
        )
        ends[share] = optimizer.run(problem, initial_point=start).cost / problem.cost(start)
    assert ends[0.99] < 1e-2
    assert ends[1.01] > 1e2


# Rates of convergence.


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_flows_and_descents_end_at_the_rate_of_the_spectrum(rng, depth):
    W, inputs = random_matrix(rng, 2, 2, [2.0, 1.0]), random_matrix(rng, 2, 2, [1.0, 0.5])
    problem = regression(FullRank(2, 2, DeepLinearMetric(depth), rng=0), inputs, W)
    largest = sharpness(problem, W)
    least = spectrum(problem, W, which="smallest").eigenvalues[0]
    start = W + 0.01 * rng.standard_normal(W.shape)
    flow = gradient_flow(
        problem, start, np.array([0.0, 16.0, 17.0]) / least, rtol=1e-12, atol=1e-16
    )
    slope = np.log(flow.costs[2] / flow.costs[1]) * least
    assert slope == pytest.approx(-2 * least, rel=1e-3)
    # The best step of gradient descent has the factor (largest - least) / (largest + least).
    best = 2 / (largest + least)
    W_k, distances = start, []
    for _ in range(int(8 * largest / least)):
        distances.append(np.linalg.norm(W_k - W))
        W_k = W_k - best * problem.riemannian_gradient(W_k)
    factor = (distances[-1] / distances[-11]) ** (1 / 10)
    assert factor == pytest.approx((largest - least) / (largest + least), rel=1e-2)


# What is refused.


def test_refuses_what_has_no_answer():
    manifold = FullRank(2, 2, DeepLinearMetric(2), rng=0)
    problem, one = fit(manifold, np.eye(2)), np.eye(2)
    plain = pymanopt.function.numpy(manifold)
    bare = pymanopt.Problem(manifold, plain(lambda W: 0.0), euclidean_gradient=plain(lambda W: W))
    for ask in (lambda: spectrum(bare, one), lambda: network_sharpness(bare, [one, one])):
        with pytest.raises(ValueError, match="problem must have a Hessian: give pymanopt.Problem"):
            ask()
    with pytest.raises(TypeError, match=r"problem must be a pymanopt.Problem, got FullRank"):
        spectrum(manifold, one)
    with pytest.raises(ValueError, match="count must be at most 4, the dimension"):
        spectrum(problem, one, 5)
    with pytest.raises(ValueError, match="which must be 'largest' or 'smallest', got 'LA'"):
        spectrum(problem, one, which="LA")
    with pytest.raises(ValueError, match="tolerance must be positive"):
        spectrum(problem, one, tolerance=0.0)
    with pytest.raises(ValueError, match="point must be finite"):
        spectrum(problem, one * np.nan)
    with pytest.raises(ValueError, match="layers must chain"):
        network_sharpness(problem, [np.ones((2, 2)), np.ones((2, 3))])
    with pytest.raises(ValueError, match=r"problem.manifold must have m x n matrices as points"):
        network_sharpness(on_fixed_rank(np.random.default_rng(0)), [one, one])


def test_refuses_hessians_that_are_wrong():
    line = manifolds.Euclidean(3)
    plain = pymanopt.function.numpy(line)

    def problem(hessian):
        cost, gradient = plain(lambda x: 0.0), plain(lambda x: 0 * x)
        return pymanopt.Problem(
            line, cost, euclidean_gradient=gradient, euclidean_hessian=plain(hessian)
        )

    turn = np.array([[1.0, 1.0, 0.0], [-1.0, 2.0, 0.0], [0.0, 0.0, 3.0]])
    with pytest.raises(RuntimeError, match="check_hessian says whether the Hessian is right"):
        spectrum(problem(lambda x, X: turn @ X), np.ones(3))
    with pytest.raises(ValueError, match="the Hessian must be finite at point"):
        spectrum(problem(lambda x, X: X * np.nan), np.ones(3))
    with pytest.raises(ValueError, match="largest eigenvalue of the Hessian there is -1"):
        max_stable_step(problem(lambda x, X: -X), np.ones(3))
    with pytest.raises(RuntimeError, match="not found in 2 products"):
        spectrum(problem(lambda x, X: np.array([1.0, 2.0, 3.0]) * X), np.ones(3), max_products=2)


def test_factors_of_a_product_with_one_seed_are_drawn_apart():
    """The cost couples two matrices, which equal draws would move alike."""
    one, other = (FullRank(2, 2, DeepLinearMetric(3), rng=0) for _ in range(2))
    manifold = pymanopt.manifolds.Product([one, other])

    @pymanopt.function.autograd(manifold)
    def cost(X, Y):
        return anp.sum((X - Y) ** 2) / 2

    point = [np.diag([2.0, 1.0])] * 2
    problem = pymanopt.Problem(manifold, cost)
    values = spectrum(problem, point, 8).eigenvalues
    # X - Y moves by twice the kernel, and X + Y not at all.
    s = np.array([2.0, 1.0])
    expected = np.sort(np.concatenate([2 * one.metric.kernel(s[:, None], s).ravel(), [0.0] * 4]))
    np.testing.assert_allclose(values, expected[::-1], atol=1e-8 * expected[-1])


def test_layers_must_lead_to_a_point_of_the_manifold():
    manifold = FullRank(3, 3, DeepLinearMetric(2))
    plain = pymanopt.function.numpy(manifold)
    problem = pymanopt.Problem(
        manifold,
        plain(lambda W: np.sum((W - 1) ** 2) / 2),
        euclidean_gradient=plain(lambda W: W - 1),
        euclidean_hessian=plain(lambda W, X: X),
    )
    with pytest.raises(ValueError, match="^the end-to-end matrix of layers must have shape"):
        network_sharpness(problem, [np.eye(2), np.eye(2)])
    with pytest.raises(TypeError, match="^point must be an array of numbers"):
        spectrum(problem, "x")
