import math
import pickle

import autograd.numpy as anp
import numpy as np
import pymanopt
import pytest
from pymanopt.manifolds import Euclidean
from pymanopt.optimizers import ConjugateGradient, SteepestDescent, TrustRegions

from riemdln import (
    DeepLinearMetric,
    FixedRank,
    FixedStep,
    FullRank,
    PositiveDefinite,
    SpectralMetric,
    balanced_layers,
    end_to_end,
    layer_gradients,
)
from tests.conftest import random_matrix

SHAPES = [(4, 4), (3, 6), (6, 3), (1, 5), (5, 1), (1, 1)]


def l4_problem(manifold, target):
    @pymanopt.function.autograd(manifold)
    def cost(W):
        return anp.sum((W - target) ** 4) / 4 + anp.sum((W - target) ** 2) / 2

    @pymanopt.function.numpy(manifold)
    def gradient(W):
        return (W - target) ** 3 + W - target

    return pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)


@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_depth_one_is_pymanopts_euclidean_manifold(rng, m, n):
    ours, theirs = FullRank(m, n, DeepLinearMetric(1)), Euclidean(m, n)
    W, X, Y = rng.standard_normal((3, m, n))
    assert ours.dim == theirs.dim
    assert ours.typical_dist == pytest.approx(theirs.typical_dist)
    assert ours.inner_product(W, X, Y) == pytest.approx(theirs.inner_product(W, X, Y), rel=1e-14)
    assert ours.norm(W, X) == pytest.approx(theirs.norm(W, X), rel=1e-14)
    for method in ("projection", "to_tangent_space", "euclidean_to_riemannian_gradient"):
        np.testing.assert_array_equal(getattr(ours, method)(W, X), getattr(theirs, method)(W, X))
    np.testing.assert_array_equal(ours.retraction(W, X), theirs.retraction(W, X))
    np.testing.assert_array_equal(ours.transport(W, Y, X), theirs.transport(W, Y, X))
    np.testing.assert_array_equal(ours.zero_vector(W), theirs.zero_vector(W))


@pytest.mark.parametrize("optimizer", [SteepestDescent, ConjugateGradient])
@pytest.mark.parametrize("depth", [1, 2, 2.5, 3, math.inf])
def test_first_order_optimizers_converge(rng, optimizer, depth):
    manifold = FullRank(3, 3, DeepLinearMetric(depth), rng=1)
    target = random_matrix(rng, 3, 3, [3.0, 2.0, 1.0])
    run = optimizer(verbosity=0, max_iterations=2000, min_gradient_norm=1e-8)
    result = run.run(l4_problem(manifold, target), initial_point=np.eye(3) + target / 2)
    np.testing.assert_allclose(result.point, target, atol=1e-6)


@pytest.mark.parametrize("backend", ["pytorch", "jax"])
def test_other_autodiff_backends(rng, backend):
    pytest.importorskip({"pytorch": "torch", "jax": "jax"}[backend], reason="optional backend")
    manifold = FullRank(2, 3, DeepLinearMetric(3))
    target = rng.standard_normal((2, 3))

    @getattr(pymanopt.function, backend)(manifold)
    def cost(W):
        return ((W - other) ** 2).sum()

    if backend == "pytorch":
        import torch

        other = torch.from_numpy(target)
    else:
        other = target
    problem = pymanopt.Problem(manifold, cost)
    for optimizer in (SteepestDescent(verbosity=0), ConjugateGradient(verbosity=0)):
        result = optimizer.run(problem, initial_point=target + 0.3)
        np.testing.assert_allclose(result.point, target, atol=1e-5)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_a_fixed_step_by_the_network_retraction_is_a_step_of_the_layers(rng, m, n, depth):
    manifold = FullRank(m, n, DeepLinearMetric(depth), retraction="network")
    W, target, h = random_matrix(rng, m, n), rng.standard_normal((m, n)), 1e-2
    problem = l4_problem(manifold, target)
    optimizer = SteepestDescent(FixedStep(h), verbosity=0, max_iterations=1)
    layers = balanced_layers(W, depth)
    gradients = layer_gradients(layers, problem.euclidean_gradient(W))
    expected = end_to_end([L - h * G for L, G in zip(layers, gradients, strict=True)])
    np.testing.assert_allclose(optimizer.run(problem, initial_point=W).point, expected, atol=1e-12)


@pytest.mark.parametrize("depth", [3, 10])
def test_small_singular_values_grow_as_in_the_network(depth):
    W, h = np.diag([1.0, 1e-10]), 0.1
    manifold = FullRank(2, 2, DeepLinearMetric(depth), retraction="network")
    P = np.diag([0.0, -1.0])
    layers = balanced_layers(W, depth)
    moved = [L - h * G for L, G in zip(layers, layer_gradients(layers, P), strict=True)]
    step = manifold.retraction(W, -h * manifold.euclidean_to_riemannian_gradient(W, P))
    np.testing.assert_allclose(step[1, 1], end_to_end(moved)[1, 1], rtol=1e-10)


@pytest.mark.parametrize("smallest", [1e-6, 1e-10, 1e-13, 0.0])
@pytest.mark.parametrize("depth", [2, 3, 10])
@pytest.mark.parametrize(("m", "n"), [(3, 5), (5, 3), (3, 3)])
def test_the_network_step_is_the_layers_near_lower_rank(rng, m, n, depth, smallest):
    manifold = FullRank(m, n, DeepLinearMetric(depth), retraction="network")
    W, P, h = random_matrix(rng, m, n, [1.0, 0.5, smallest]), rng.standard_normal((m, n)), 0.1
    layers = balanced_layers(W, depth)
    moved = [L - h * G for L, G in zip(layers, layer_gradients(layers, P), strict=True)]
    step = manifold.retraction(W, -h * manifold.euclidean_to_riemannian_gradient(W, P))
    np.testing.assert_allclose(step, end_to_end(moved), atol=1e-11)


@pytest.mark.parametrize("depth", [2, 3])
def test_the_linear_step_differs_from_the_layers_by_the_square_of_the_step_size(rng, depth):
    W, P = random_matrix(rng, 3, 4), rng.standard_normal((3, 4))
    metric = DeepLinearMetric(depth)
    steps = 0.1 * 0.5 ** np.arange(6)
    Z = metric.sharp(W, P)
    errors = [np.linalg.norm(W - h * Z - metric.network_retraction(W, -h * Z)) for h in steps]
    order = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert order == pytest.approx(2.0, abs=0.05)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("retraction", ["linear", "network"])
@pytest.mark.parametrize("depth", [2, 3])
def test_convergence_to_a_target_of_lower_rank(rng, depth, retraction):
    manifold = FullRank(4, 5, DeepLinearMetric(depth), retraction=retraction)
    target = random_matrix(rng, 4, 5, [3.0, 2.0, 0.0, 0.0])
    start = random_matrix(rng, 4, 5, [1.0, 1.0, 1.0, 1.0])
    optimizer = SteepestDescent(
        FixedStep(0.02), verbosity=0, max_iterations=1500, min_gradient_norm=1e-12, log_verbosity=1
    )
    result = optimizer.run(l4_problem(manifold, target), initial_point=start)
    norms = np.array(result.log["iterations"]["gradient_norm"])
    assert np.isfinite(norms).all()
    assert np.all(np.diff(result.log["iterations"]["cost"]) <= 1e-15)
    assert result.cost < 1e-3


def test_random_points_and_vectors_have_a_seed(rng):
    metric = DeepLinearMetric(3)
    ours, same = FullRank(3, 4, metric, rng=7), FullRank(3, 4, metric, rng=7)
    W = ours.random_point()
    np.testing.assert_array_equal(W, same.random_point())
    X = ours.random_tangent_vector(W)
    assert X.shape == (3, 4)
    assert ours.norm(W, X) == pytest.approx(1.0)
    assert np.linalg.matrix_rank(W) == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda rng: FullRank(3, 3, DeepLinearMetric(2), rng=rng),
        lambda rng: PositiveDefinite(3, DeepLinearMetric(2), rng=rng),
        lambda rng: FixedRank(4, 3, 2, DeepLinearMetric(2), rng=rng),
    ],
    ids=["full_rank", "positive_definite", "fixed_rank"],
)
def test_random_points_of_another_source_leave_the_manifolds_own_alone(make):
    manifold = make(7)
    for points in zip(
        [*manifold.random_point(5)],
        [*manifold.random_point(np.random.default_rng(5))],
        [*make(5).random_point()],
        strict=True,
    ):
        np.testing.assert_array_equal(points[0], points[1])
        np.testing.assert_array_equal(points[0], points[2])
    for untouched, part in zip(make(7).random_point(), manifold.random_point(), strict=True):
        np.testing.assert_array_equal(untouched, part)


@pytest.mark.parametrize("depth", [2, 2.5, math.inf])
def test_random_points_are_connected(depth):
    manifold = FullRank(3, 3, DeepLinearMetric(depth), rng=0)
    points = np.array([manifold.random_point() for _ in range(20)])
    assert np.all(np.linalg.det(points) > 0)
    # Where lower rank is no boundary they are Gaussian: under 3 of 20 have a probability of 2e-4.
    euclidean = FullRank(3, 3, DeepLinearMetric(1), rng=0)
    signs = np.sign(np.linalg.det([euclidean.random_point() for _ in range(20)]))
    assert 3 <= np.sum(signs > 0) <= 17


def test_geodesics_are_remembered_by_their_ends_in_order(rng):
    manifold = FullRank(2, 3, DeepLinearMetric(3))
    a, b = random_matrix(rng, 2, 3, [2.0, 1.0]), random_matrix(rng, 2, 3, [1.5, 0.8])
    for ends in ((a, b), (b, a)):
        fresh = FullRank(2, 3, DeepLinearMetric(3))
        expected = fresh.log(*ends), fresh.dist(*ends), fresh.pair_mean(*ends)
        for _ in range(2):
            velocity, length, middle = (
                manifold.log(*ends),
                manifold.dist(*ends),
                (manifold.pair_mean(*ends)),
            )
            np.testing.assert_allclose(velocity, expected[0], rtol=1e-9, atol=1e-12)
            assert length == pytest.approx(expected[1], rel=1e-9)
            np.testing.assert_allclose(middle, expected[2], rtol=1e-9, atol=1e-12)
            velocity += 1.0  # what was handed out is the caller's
            middle += 1.0
    assert np.abs(manifold.log(a, b) + manifold.log(b, a)).max() > 0.01


def test_points_and_vectors_that_are_handed_out_are_the_callers(rng):
    manifold, W = FullRank(2, 3, DeepLinearMetric(2)), rng.standard_normal((2, 3))
    undefined = np.full((2, 3), np.nan)
    assert manifold.retraction(W, undefined) is not W
    assert not np.shares_memory(manifold.retraction(W, undefined), W)
    assert not np.shares_memory(manifold.zero_vector(W), W)


@pytest.mark.parametrize("depth", [1, 2, 2.5])
def test_single_precision_is_kept(rng, depth):
    manifold = FullRank(2, 3, DeepLinearMetric(depth), rng=rng)
    W, X, P = rng.standard_normal((3, 2, 3)).astype(np.float32)
    for array in (
        manifold.zero_vector(W),
        manifold.random_tangent_vector(W),
        manifold.sharp(W, P),
        manifold.flat(W, X),
        manifold.euclidean_to_riemannian_hessian(W, P, P, X),
        manifold.retraction(W, X),
    ):
        assert array.dtype == np.float32


@pytest.mark.filterwarnings("ignore:overflow")
def test_points_that_are_too_large_are_blamed():
    manifold = FullRank(2, 2, DeepLinearMetric(64))
    with pytest.raises(ValueError, match="^point, .*singular values from 1 to 1e.200.* too large"):
        manifold.norm(np.diag([1e200, 1.0]), np.eye(2))


def test_no_tangent_vector_at_the_zero_matrix():
    with pytest.raises(ValueError, match="every direction is frozen"):
        FullRank(2, 2, DeepLinearMetric(2)).random_tangent_vector(np.zeros((2, 2)))


def test_is_pickled(rng):
    manifold = FullRank(2, 3, DeepLinearMetric(3), retraction="network")
    W, X = rng.standard_normal((2, 2, 3))
    other = pickle.loads(pickle.dumps(manifold))
    np.testing.assert_array_equal(other.retraction(W, X), manifold.retraction(W, X))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 2, DeepLinearMetric(2)), ValueError, "^m must be"),
        ((2, 2.5, DeepLinearMetric(2)), ValueError, "^n must be"),
        (("2", 2, DeepLinearMetric(2)), TypeError, "^m must be"),
        ((2, 2, 3), TypeError, "^metric must be"),
        ((2, 3, DeepLinearMetric(math.inf)), ValueError, "square matrices only"),
    ],
)
def test_refuses_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        FullRank(*arguments)


@pytest.mark.parametrize("depth", [2.5, math.inf])
def test_refuses_the_network_retraction_at_other_depths(depth):
    with pytest.raises(ValueError, match="^retraction 'network' needs a metric of whole depth"):
        FullRank(2, 2, DeepLinearMetric(depth), retraction="network")
    with pytest.raises(ValueError, match="^depth must be a whole number"):
        DeepLinearMetric(depth).network_retraction(np.eye(2), np.eye(2))


def test_refuses_points_and_vectors_of_another_shape():
    manifold = FullRank(2, 3, DeepLinearMetric(2))
    good, bad = np.ones((2, 3)), np.ones((3, 2))
    with pytest.raises(ValueError, match="^point must have shape"):
        manifold.euclidean_to_riemannian_gradient(bad, good)
    with pytest.raises(ValueError, match="^tangent_vector must have shape"):
        manifold.retraction(good, bad)
    with pytest.raises(ValueError, match="^euclidean_gradient must have shape"):
        manifold.euclidean_to_riemannian_gradient(good, bad)
    with pytest.raises(ValueError, match="^tangent_vector_b must be finite"):
        manifold.inner_product(good, good, np.array([[1.0, np.nan, 1.0]] * 2))
    with pytest.raises(ValueError, match="^tangent_vector must have shape"):
        manifold.norm(good, np.ones((4, 2, 3)))
    with pytest.raises(ValueError, match="^point must be finite"):
        manifold.retraction(np.full((2, 3), np.inf), good)
    with pytest.raises(ValueError, match="^point must be finite"):
        manifold.norm(np.full((2, 3), np.inf), good)


def test_undefined_vectors_are_let_through():
    manifold, W, X = FullRank(2, 3, DeepLinearMetric(2)), np.ones((2, 3)), np.full((2, 3), np.nan)
    assert np.isnan(manifold.inner_product(W, X, W))
    assert np.isnan(manifold.norm(W, X))
    np.testing.assert_array_equal(manifold.retraction(W, X), W)


@pytest.mark.filterwarnings("ignore:.*encountered in")
@pytest.mark.parametrize("optimizer", [SteepestDescent, ConjugateGradient, TrustRegions])
def test_optimizers_may_start_at_the_optimum(optimizer):
    manifold, target = FullRank(2, 2, DeepLinearMetric(3)), np.diag([2.0, 1.0])

    @pymanopt.function.autograd(manifold)
    def cost(W):
        return anp.sum((W - target) ** 2) / 2

    problem = pymanopt.Problem(manifold, cost)
    result = optimizer(verbosity=0).run(problem, initial_point=target)
    np.testing.assert_array_equal(result.point, target)


def test_conjugate_gradients_may_hit_the_optimum_exactly():
    # In float64 this run ends with a gradient of exactly zero, by which pymanopt divides.
    target = np.diag([3.0, 2.0, 1.0])
    manifold = FullRank(3, 3, DeepLinearMetric(5))

    @pymanopt.function.autograd(manifold)
    def cost(W):
        return anp.sum((W - target) ** 2) / 2

    problem = pymanopt.Problem(manifold, cost)
    with np.errstate(invalid="ignore", divide="ignore"):
        result = ConjugateGradient(verbosity=0).run(problem, initial_point=np.eye(3))
    np.testing.assert_allclose(result.point, target, atol=1e-6)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (0.0, ValueError),
        (-1, ValueError),
        (math.inf, ValueError),
        (math.nan, ValueError),
        ("1", TypeError),
    ],
)
def test_fixed_step_refuses_bad_step_sizes(bad, error):
    with pytest.raises(error, match="^step_size must be"):
        FixedStep(bad)


def test_distances_of_a_metric_that_changes_are_not_remembered():
    state, W = {"factor": 1.0}, np.diag([1.0, 3.0])
    manifold = FullRank(2, 2, SpectralMetric(lambda s, t: state["factor"] + 0 * s * t))
    near = manifold.dist(W, 2 * W)
    state["factor"] = 4.0
    assert manifold.dist(W, 2 * W) == pytest.approx(near / 2, rel=1e-6)
