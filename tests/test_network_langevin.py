"""Balanced layers with noise, against dense projections, exact laws and the equation of W."""

from functools import reduce
from itertools import pairwise

import autograd.numpy as anp
import numpy as np
import pymanopt
import pytest
from pymanopt.manifolds import Euclidean
from scipy import stats

import riemdln
from riemdln import (
    DeepLinearMetric,
    FlowError,
    FullRank,
    balanced_layers,
    imbalance,
    langevin_flow,
    load_flow,
    network_flow,
    network_langevin_flow,
)
from riemdln.flows import _network_langevin as module

# End-to-end shapes, depths, and widths of the hidden layers.
SHAPES = [(2, 3, 2, 2), (3, 2, 3, 2), (3, 3, 2, 3), (3, 3, 4, 2), (1, 2, 5, 1), (2, 4, 1, 2)]


def turned_layers(rng, m, n, depth, r, sizes=None):
    """Balanced layers in random bases of all spaces."""
    sizes = np.geomspace(1.5, 0.6, r) if sizes is None else sizes
    widths = [n, *[r] * (depth - 1), m]
    bases = [np.linalg.qr(rng.standard_normal((d, r)))[0] for d in widths]
    return [Q * sizes @ P.T for P, Q in pairwise(bases)]


def flat(layers):
    return np.concatenate([W.ravel() for W in layers])


def unflat(vector, layers):
    parts = np.split(vector, np.cumsum([W.size for W in layers])[:-1])
    return [part.reshape(W.shape) for part, W in zip(parts, layers, strict=True)]


def defects(layers):
    """All independent entries of the imbalances."""
    matrices = [above.T @ above - below @ below.T for below, above in pairwise(layers)]
    return np.concatenate([np.zeros(0), *(D[np.triu_indices(len(D))] for D in matrices)])


def jacobian(layers):
    """The derivative of the imbalances in all layers; these are quadratic, so it is exact."""
    x = flat(layers)
    return np.array(
        [
            (defects(unflat(x + e, layers)) - defects(unflat(x - e, layers))) / 2
            for e in np.eye(x.size)
        ]
    ).T


def tangential(J, vector):
    if not len(J):
        return vector
    return vector - J.T @ np.linalg.lstsq(J.T, vector, rcond=None)[0]


def copies(layers, count):
    return [np.tile(W, (count, 1, 1)) for W in layers]


def squared_norms(layers):
    return sum(np.sum(W**2, axis=(-2, -1)) for W in layers)


def half_square(m, n):
    manifold = Euclidean(m, n)

    @pymanopt.function.numpy(manifold)
    def cost(W):
        return np.sum(W**2, axis=(-2, -1)) / 2

    @pymanopt.function.numpy(manifold)
    def gradient(W):
        return W

    return pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)


def brownian(m, n, layers, times, *, step_size, rng=0, manifold=None):
    manifold = Euclidean(m, n) if manifold is None else manifold
    return network_langevin_flow(manifold, layers, times, beta=2.0, step_size=step_size, rng=rng)


class Given:
    """A source of noise that is given."""

    def __init__(self, vectors):
        self._vectors = iter(vectors)

    def standard_normal(self, shape):
        return np.reshape(next(self._vectors), shape)


@pytest.mark.parametrize(("m", "n", "depth", "r"), SHAPES)
def test_noise_is_projected_as_the_dense_jacobian_says(rng, m, n, depth, r):
    layers = turned_layers(rng, m, n, depth, r)
    vector = rng.standard_normal(flat(layers).size)
    start, _ = module._start(layers)
    projected = start.tangent([X[None] for X in unflat(vector, layers)])
    expected = tangential(jacobian(layers), vector)
    assert np.allclose(flat(projected), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("m", "n", "depth", "r"), SHAPES)
def test_steps_go_back_along_the_normal_space(rng, m, n, depth, r):
    layers = turned_layers(rng, m, n, depth, r)
    noise = unflat(rng.standard_normal(flat(layers).size), layers)
    J, x = jacobian(layers), flat(layers)

    def curved(size):
        """The even part of a step, in which what is tangential would be a drift of its own."""
        ends = []
        for sign in (1, -1):
            start, _ = module._start(layers)
            moving = module._Layers(None, 2.0, start, Given([sign * Z for Z in noise]))
            moving.step(size)
            ends.append(flat(moving.observe()["layers"]))
        return (ends[0] + ends[1]) / 2 - x

    drifts = [np.linalg.norm(tangential(J, curved(size))) for size in (1e-3, 1e-4)]
    assert drifts[1] <= drifts[0] / 50 + 1e-14  # of order two in the size
    # The normal part is what takes back the imbalance of the tangential noise.
    step = unflat(tangential(J, flat(noise)), layers)
    gap = J @ curved(1e-4) / 1e-4 + defects(step) if depth > 1 else np.zeros(1)
    assert np.abs(gap).max() <= 2e-2


def test_one_layer_is_brownian_motion_of_a_matrix():
    W = np.arange(6.0).reshape(2, 3) + np.eye(2, 3)
    flow = brownian(2, 3, [W], [0.0, 0.25, 1.0], step_size=0.25, rng=7)
    steps = np.random.default_rng(7).standard_normal((4, 2, 3)) / 2
    assert np.allclose(flow.points[1:], W + np.cumsum(steps, axis=0)[[0, 3]], atol=1e-13)


@pytest.mark.parametrize(("m", "n", "depth", "r"), [(2, 3, 3, 2), (3, 3, 2, 3), (2, 2, 5, 1)])
def test_layers_stay_balanced_and_move_continuously(rng, m, n, depth, r):
    layers = turned_layers(rng, m, n, depth, r)
    flow = brownian(m, n, layers, np.linspace(0.0, 1.0, 201), step_size=0.005)
    assert np.allclose(flat(flow.layers[0]), flat(layers), atol=1e-13)
    scale = max(map(squared_norms, flow.layers))
    assert max(map(imbalance, flow.layers)) <= 1e-14 * scale
    assert flow.imbalances.max() <= 1e-14 * scale
    for W, point, s in zip(flow.layers, flow.points, flow.singular_values, strict=True):
        product = reduce(lambda P, L: L @ P, W)
        assert np.allclose(product, point, atol=1e-12)
        assert np.allclose(np.linalg.svd(product, compute_uv=False)[:r], s, atol=1e-12)
    # A step is a Gaussian of that many dimensions, of variance 0.005 each, and little more.
    steps = [np.linalg.norm(flat(b) - flat(a)) for a, b in pairwise(flow.layers)]
    assert max(steps) <= (0.005 * stats.chi2.isf(1e-6, flat(layers).size)) ** 0.5


@pytest.mark.parametrize(("m", "n", "depth", "r"), [(2, 3, 2, 2), (3, 2, 3, 2), (3, 3, 2, 2)])
def test_brownian_motion_spreads_by_the_dimension_of_balanced_layers(rng, m, n, depth, r):
    # The mean curvature of a cone is orthogonal to its points, so the square of the norm grows by
    # the dimension.
    layers = turned_layers(rng, m, n, depth, r)
    J = jacobian(layers)
    dimension = J.shape[1] - np.linalg.matrix_rank(J)
    assert dimension == flat(layers).size - (depth - 1) * r * (r + 1) // 2
    flow = brownian(m, n, copies(layers, 1500), [0.0, 0.5], step_size=0.025)
    growths = squared_norms(flow.layers[1]) - squared_norms(flow.layers[0])
    assert abs(growths.mean() - 0.5 * dimension) <= 3 * growths.std() / 1500**0.5


@pytest.mark.parametrize("depth", [2, 3])
def test_singular_values_have_the_law_of_the_equation_with_entropy_and_not_without(depth):
    W, count = np.array([[1.2, 0.0, 0.0], [0.0, 0.6, 0.0]]), 2000
    layers = copies(balanced_layers(W, depth), count)
    ours = brownian(2, 3, layers, [0.0, 1.0], step_size=0.025).singular_values[-1]
    with_entropy = langevin_flow(
        FullRank(2, 3, DeepLinearMetric(depth)),
        np.tile(W, (count, 1, 1)),
        [0.0, 1.0],
        beta=2.0,
        step_size=0.025,
        rng=1,
    ).singular_values[-1]
    # Brownian motion of the manifold alone has the singular values of a Gaussian matrix.
    noise = np.random.default_rng(2).standard_normal((count, 2, 3)) * depth**-0.5
    without = np.linalg.svd(W ** (1 / depth) + noise, compute_uv=False) ** depth

    def p_values(theirs):
        return [stats.ks_2samp(ours[:, i], theirs[:, i]).pvalue for i in range(2)]

    assert min(p_values(with_entropy)) > 0.01
    assert min(p_values(without)) < 1e-4


@pytest.mark.parametrize(("m", "n", "depth"), [(2, 3, 2), (2, 2, 3)])
def test_the_mean_square_of_equilibrium(m, n, depth):
    r, e, beta, count = min(m, n), abs(m - n), 2.0, 500
    flow = network_langevin_flow(
        half_square(m, n),
        copies(balanced_layers(np.eye(m, n), depth), count),
        [0.0, 1.5, 2.5],
        beta=beta,
        step_size=0.025,
        vectorized=True,
        rng=3,
    )
    squares = np.mean(2 * flow.costs[1:], axis=0)  # of copies, which are independent
    expected = (m * n - (1 - 1 / depth) * (r * (r + 1) / 2 + e * r)) / beta
    assert abs(squares.mean() - expected) <= 3 * squares.std() / count**0.5


@pytest.mark.parametrize("depth", [2, 3])
def test_single_weights_go_through_zero_along_their_line(depth):
    start = copies([np.full((1, 1), 0.5)] * depth, 1000)
    flow = brownian(1, 1, start, [0.0, 1.0], step_size=0.1)
    line = stats.norm(0.5, depth**-0.5)  # of each weight
    product = flow.points[-1].ravel()
    roots = np.abs(product) ** (1 / depth)
    if depth % 2:
        assert stats.kstest(np.sign(product) * roots, line.cdf).pvalue > 0.01
    else:
        assert (product > 0).all()
        assert stats.kstest(roots, lambda x: line.cdf(x) - line.cdf(-x)).pvalue > 0.01
    first, *others = (W.ravel() for W in flow.layers[-1])
    assert np.mean(first < 0) > 0.1
    assert all(np.allclose(W, first, atol=1e-12) for W in others)


def test_the_sign_of_a_determinant_changes_at_odd_depths_alone():
    for depth in (2, 3, 4):
        start = copies(balanced_layers(np.diag([1.0, 0.05]), depth), 300)
        flow = brownian(2, 2, start, [0.0, 0.5], step_size=0.05)
        negative = np.linalg.det(flow.points[-1]) < 0
        assert negative.any() == (depth % 2 == 1)
        crossed = np.linalg.det(flow.layers[-1][0]) * np.linalg.det(flow.layers[0][0]) < 0
        assert crossed.mean() > 0.05


def test_without_noise_it_is_the_flow_of_the_layers(rng):
    target = rng.standard_normal((2, 3))
    manifold = Euclidean(2, 3)

    @pymanopt.function.autograd(manifold)
    def cost(W):
        return anp.sum((W - target) ** 2) / 2

    problem = pymanopt.Problem(manifold, cost)
    layers = turned_layers(rng, 2, 3, 3, 2)
    exact = network_flow(problem, layers, [0.0, 0.5])
    errors = []
    for size in (0.01, 0.005):
        flow = network_langevin_flow(problem, layers, [0.0, 0.5], beta=1e20, step_size=size, rng=0)
        errors.append(np.linalg.norm(flat(flow.layers[-1]) - flat(exact.layers[-1])))
    assert errors[0] < 0.05
    assert 1.8 < errors[0] / errors[1] < 2.2
    assert np.allclose(flow.gradient_norms[0], exact.gradient_norms[0], rtol=1e-12)
    assert flow.nfev == 100 + 2  # one for each step, and one for each time


def test_copies_are_asked_one_by_one_or_all_at_once(tmp_path):
    problem, start = half_square(2, 2), copies(balanced_layers(np.diag([2.0, 1.0]), 2), 3)
    options = {"beta": 1.0, "step_size": 0.1, "rng": 5}
    one_by_one = network_langevin_flow(problem, start, [0.0, 0.3], **options)
    at_once = network_langevin_flow(problem, start, [0.0, 0.3], vectorized=True, **options)
    assert one_by_one.costs.shape == one_by_one.imbalances.shape == (2, 3)
    assert np.array_equal(one_by_one.points, at_once.points)
    assert at_once.success.all()
    at_once.save(tmp_path / "flow.npz")
    again = load_flow(tmp_path / "flow.npz")
    assert isinstance(again, riemdln.NetworkLangevinFlow)
    assert all(
        np.array_equal(a, b) for a, b in zip(again.layers[1], at_once.layers[1], strict=True)
    )


def test_deep_layers_keep_small_singular_values(rng):
    # Of 40 layers, in which a matrix would have lost them to rounding errors.
    layers = turned_layers(rng, 2, 2, 40, 2, sizes=np.array([1.0, 0.2]))
    flow = brownian(2, 2, layers, [0.0, 1e-6], step_size=1e-6)
    assert np.allclose(flow.singular_values[0] ** (1 / 40), [1.0, 0.2], rtol=1e-12)
    assert np.allclose(flow.singular_values[1] ** (1 / 40), [1.0, 0.2], rtol=1e-2)


def test_a_step_out_of_range_keeps_what_there_is():
    start = copies(balanced_layers(1e3 * np.eye(2), 3), 2)
    with pytest.raises(FlowError, match="no step of 1 from time") as caught:
        network_langevin_flow(
            half_square(2, 2), start, [0.0, 1.0, 50.0], beta=1.0, step_size=1.0, rng=0
        )
    assert caught.value.result.status.tolist() == [-1, -1]
    assert len(caught.value.result.layers) >= 1


def test_what_is_refused():
    problem, layers = half_square(2, 3), balanced_layers(np.eye(2, 3), 3)

    def flow(layers=layers, problem=problem, times=(0.0, 0.1), beta=1.0, step_size=0.1, **options):
        return network_langevin_flow(
            problem, layers, times, beta=beta, step_size=step_size, **options
        )

    first, second, last = layers
    with pytest.raises(ValueError, match="^layers must be balanced.* imbalance is"):
        flow([first, 1.001 * second, last])
    with pytest.raises(ValueError, match="^layers must have hidden layers of one width.*3"):
        flow([np.eye(3), np.eye(3), np.eye(2, 3)])
    with pytest.raises(ValueError, match=r"^layers must chain: layers\[1\]"):
        flow([first, np.eye(3), last])
    with pytest.raises(ValueError, match="^layers must be of full rank"):
        flow(balanced_layers(np.diag([1.0, 0.0]), 2), half_square(2, 2))
    with pytest.raises(ValueError, match="^layers must be of full rank, but one of them is zero"):
        flow([np.zeros((2, 2))] * 2, half_square(2, 2))
    with pytest.raises(ValueError, match="^layers must all be matrices, or all stacks"):
        flow([np.tile(first, (2, 1, 1)), second, last])
    with pytest.raises(TypeError, match="^layers must be a list of matrices, got float"):
        flow(1.0)
    with pytest.raises(ValueError, match="^layers must list at least one matrix"):
        flow([])
    with pytest.raises(ValueError, match=r"^layers\[0\] must be finite"):
        flow([first * np.nan, second, last])
    with pytest.raises(ValueError, match=r"^the end-to-end matrix of layers must have shape"):
        flow(problem=half_square(3, 3))
    with pytest.raises(ValueError, match="^vectorized=True needs a stack of networks as layers"):
        flow(vectorized=True)
    with pytest.raises(TypeError, match="^problem must be a pymanopt.Problem or a manifold, got"):
        flow(problem=lambda W: 0.0)
    for name in ("beta", "step_size"):
        for value in (0.0, -1.0, np.nan, np.inf):
            with pytest.raises(ValueError, match=f"^{name} must be positive"):
                flow(**{name: value})
    with pytest.raises(ValueError, match="^times must be a strictly increasing"):
        flow(times=[0.0, 0.0])
