"""Layers that are not balanced: how they move, how far from a metric, and how to balance them."""

from itertools import pairwise

import array_api_strict
import numpy as np
import pymanopt
import pytest
from scipy.integrate import simpson, solve_ivp
from scipy.linalg import expm, sqrtm
from scipy.sparse import csr_array

import riemdln.networks
from riemdln import (
    DeepLinearMetric,
    FullRank,
    KroneckerMetric,
    SpectralMetric,
    balanced_layers,
    balancing_flow,
    end_to_end,
    end_to_end_velocity,
    gradient_flow,
    imbalance,
    imbalances,
    load_flow,
    nearest_imbalance,
    network_flow,
    velocity_error,
)
from tests.conftest import dense_cometric, derivative, random_matrix, sharp_by_powers

WIDTHS = [[3, 4], [3, 2, 4], [5, 4, 4, 3], [4, 1, 3], [2, 6, 3, 5, 2], [1, 1, 1]]


def random_chain(rng, widths):
    return [rng.standard_normal((b, a)) for a, b in pairwise(widths)]


def products(layers):
    """W_N ... W_{j+1} and W_{j-1} ... W_1 for each j."""
    for j, layer in enumerate(layers):
        above, below = np.eye(len(layer)), np.eye(layers[0].shape[1])
        for later in layers[j + 1 :]:
            above = later @ above
        for earlier in layers[:j]:
            below = earlier @ below
        yield above, below


def kronecker_cometric(layers):
    """The matrix of the velocity: a sum over the layers of Kronecker products."""
    return sum(np.kron(above @ above.T, below.T @ below) for above, below in products(layers))


def of_other_bases(layers, bases):
    """The layers in other bases of the hidden spaces, which leave the product as it is."""
    after = [*bases, np.eye(len(layers[-1]))]
    before = [np.eye(layers[0].shape[1]), *bases]
    return [G @ W @ np.linalg.inv(F) for F, W, G in zip(before, layers, after, strict=True)]


@pytest.mark.parametrize("widths", WIDTHS)
def test_the_velocity_is_the_sum_over_layers_and_the_derivative_along_their_gradients(rng, widths):
    layers = random_chain(rng, widths)
    P = rng.standard_normal((widths[-1], widths[0]))
    velocity = end_to_end_velocity(layers, P)
    expected = (kronecker_cometric(layers) @ P.ravel()).reshape(P.shape)
    np.testing.assert_allclose(velocity, expected, rtol=1e-11, atol=1e-11)
    gradients = [above.T @ P @ below.T for above, below in products(layers)]

    def moved(h):
        return end_to_end([W + h * G for W, G in zip(layers, gradients, strict=True)])

    # Exact for polynomials of this degree.
    np.testing.assert_allclose(velocity, derivative(moved, 0.01), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize(("m", "n"), [(3, 3), (2, 4), (4, 1)])
def test_the_velocity_of_balanced_layers_is_sharp(rng, m, n, depth):
    W, P = random_matrix(rng, m, n), rng.standard_normal((m, n))
    layers = balanced_layers(W, depth)
    expected = sharp_by_powers(W, P, depth)
    np.testing.assert_allclose(end_to_end_velocity(layers, P), expected, rtol=1e-8, atol=1e-8)


def test_the_velocity_keeps_relative_accuracy_at_all_scales():
    layers = [np.diag([1e-20, 1.0])] * 3
    velocity = end_to_end_velocity(layers, np.ones((2, 2)))
    expected = [[3e-80, 1.0 + 1e-40 + 1e-80], [1.0 + 1e-40 + 1e-80, 3.0]]
    np.testing.assert_allclose(velocity, expected, rtol=1e-14)


@pytest.mark.parametrize("library", ["array_api_strict", "torch"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_library_gives_what_numpy_gives(rng, library, dtype):
    xp = pytest.importorskip(library)
    give = xp.tensor if library == "torch" else xp.asarray
    arrays = [W.astype(dtype) for W in random_chain(rng, [4, 2, 3, 5])]
    P = rng.standard_normal((5, 4)).astype(dtype)
    layers, tolerance = [give(W) for W in arrays], 1e3 * float(np.finfo(dtype).eps)
    for found, expected in (
        (end_to_end_velocity(layers, give(P)), end_to_end_velocity(arrays, P)),
        (nearest_imbalance(layers), nearest_imbalance(arrays)),
        (nearest_imbalance(layers[:1]), np.zeros(0)),
    ):
        assert type(found) is type(layers[0])
        assert np.asarray(found).dtype == dtype
        np.testing.assert_allclose(np.asarray(found), expected, rtol=tolerance, atol=tolerance)
    metric = DeepLinearMetric(3)
    assert velocity_error(layers, metric) == velocity_error(arrays, metric)


def test_the_velocity_of_tensors_can_be_differentiated(rng):
    torch = pytest.importorskip("torch")
    arrays, (P, Q) = random_chain(rng, [2, 3, 4]), rng.standard_normal((2, 4, 2))
    layers = [torch.tensor(W, requires_grad=True) for W in arrays]
    (end_to_end_velocity(layers, torch.tensor(P)) * torch.tensor(Q)).sum().backward()
    W_1, W_2 = arrays
    # Of <Q, W_2 W_2^T P + P W_1^T W_1>.
    for layer, expected in zip(
        layers, (W_1 @ (P.T @ Q + Q.T @ P), (P @ Q.T + Q @ P.T) @ W_2), strict=True
    ):
        np.testing.assert_allclose(layer.grad.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_sparse_and_low_rank_covectors(rng):
    layers = random_chain(rng, [4, 3, 5])
    P = np.diag([1.0, 2.0, 0.0, 3.0])[[0, 1, 2, 3, 0]]
    expected = end_to_end_velocity(layers, P)
    for covector in (csr_array(P), (P, np.eye(4), np.eye(4))):
        np.testing.assert_allclose(end_to_end_velocity(layers, covector), expected, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2])
def test_wrong_layers_and_covectors_are_refused(rng, count):
    layers = random_chain(rng, [3, 4, 5][: count + 1])
    kept = [W.copy() for W in layers]
    for P, error, message in (
        (np.ones((2, 3)), ValueError, r"^P must have shape \(., 3\), got \(2, 3\)"),
        (np.full((layers[-1].shape[0], 3), np.nan), ValueError, "^P must be finite"),
        (array_api_strict.ones((5, 3)), TypeError, "^layers and P must be arrays of one library"),
    ):
        with pytest.raises(error, match=message):
            end_to_end_velocity(layers, P)
    for function in (
        lambda a: end_to_end_velocity(a, np.eye(2)),
        nearest_imbalance,
        lambda a: velocity_error(a, DeepLinearMetric(2)),
        lambda a: balancing_flow(a, [0.0, 1.0]),
    ):
        with pytest.raises(ValueError, match=r"^layers must chain: layers\[1\] has shape"):
            function([np.ones((2, 2)), np.ones((3, 1))])
    for before, after in zip(kept, layers, strict=True):
        np.testing.assert_array_equal(before, after)


def test_the_nearest_imbalance_is_that_of_least_squares(rng):
    layers = random_chain(rng, [4, 3, 5, 2])
    W_1, W_2, W_3 = layers
    for c, D in zip(
        nearest_imbalance(layers),
        (W_2.T @ W_2 - W_1 @ W_1.T, W_3.T @ W_3 - W_2 @ W_2.T),
        strict=True,
    ):
        (expected,) = np.linalg.lstsq(np.eye(len(D)).reshape(-1, 1), D.ravel())[0]
        assert c == pytest.approx(expected, rel=1e-12)


def test_layers_of_an_imbalance_have_it(rng):
    Q, V = (np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in range(2))
    x, c = np.array([3.0, 1.0, 0.1]), np.array([0.5, 0.0, 2.0])  # W_j W_j^T = x + c_j
    layers = [np.sqrt(x + c_j)[:, None] * np.eye(3) for c_j in c]
    layers = [layers[0] @ V, layers[1], Q @ layers[2]]
    np.testing.assert_allclose(nearest_imbalance(layers), np.diff(c), rtol=1e-13)


METRICS = {
    "depth 2": DeepLinearMetric(2),
    "depth 3": DeepLinearMetric(3),
    "rows": KroneckerMetric(np.diag([1.0, 2.0, 3.0]), np.eye(4)),
    "unsymmetric": SpectralMetric(lambda s, t: s**2 + t + 1),
}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("dense", [0, 100])
def test_the_velocity_error_is_that_of_dense_matrices(rng, monkeypatch, name, dense):
    monkeypatch.setattr(riemdln._eigenvalues, "_DENSE", dense)
    layers, metric = random_chain(rng, [4, 3, 5, 3]), METRICS[name]
    W, of_layers = end_to_end(layers), kronecker_cometric(layers)
    of_metric = dense_cometric(lambda P: metric.sharp(W, P), 3, 4)
    expected = np.linalg.norm(of_layers - of_metric, 2) / np.linalg.norm(of_layers, 2)
    assert velocity_error(layers, metric) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("size", [3, 15])  # a dense matrix, and Lanczos steps
def test_balanced_layers_have_no_velocity_error_at_their_own_depth(rng, size):
    layers = balanced_layers(random_matrix(rng, size, size), 3)
    assert velocity_error(layers, DeepLinearMetric(3)) < 1e-13
    assert velocity_error(layers, DeepLinearMetric(2)) > 0.01


@pytest.mark.parametrize("size", [2, 15])
def test_the_velocity_error_where_layers_or_the_metric_stand_still(size):
    dead, metric = [np.zeros((size, size))] * 2, DeepLinearMetric(2)
    assert velocity_error(dead, metric) == 0.0
    assert velocity_error(dead, DeepLinearMetric(1)) == np.inf
    assert velocity_error([dead[0], np.eye(size)], metric) == pytest.approx(1.0, rel=1e-14)


def parts(D, c):
    """The largest and the least eigenvalue of D - c I, or zero, as positive numbers."""
    values = np.linalg.eigvalsh(D) - c
    return max(values[-1], 0.0), max(-values[0], 0.0)


@pytest.mark.parametrize("widths", [[3, 3, 3], [4, 2, 3], [2, 5, 3], [1, 4, 1], [3, 1, 2]])
def test_at_depth_two_the_imbalance_bounds_the_velocity_error(rng, widths):
    for shares in ((1.0, 1.0), (1.0, 0.01), (0.0, 1.0), (1e-8, 1.0)):
        layers = [a * W for a, W in zip(shares, random_chain(rng, widths), strict=True)]
        W = end_to_end(layers)
        above, below = parts(imbalances(layers)[0], 0.0)
        metric = dense_cometric(lambda P, W=W: sharp_by_powers(W, P, 2), *W.shape)
        values = np.linalg.eigvalsh(kronecker_cometric(layers) - metric)
        rounding = 1e-6 * max(above, below)
        assert values[-1] <= above + below + rounding
        assert values[0] >= -(above + below) / 2 - rounding
        error = velocity_error(layers, DeepLinearMetric(2))
        size = sum(np.linalg.norm(W, 2) ** 2 for W in layers)
        assert error <= (above + below) / size + 1e-6


def test_the_bound_of_depth_two_is_attained():
    # Where only one layer has weights all motion is of its imbalance.
    layers = [np.zeros((2, 2)), np.diag([2.0, 1.0])]
    assert parts(imbalances(layers)[0], 0.0) == (4.0, 0.0)
    assert velocity_error(layers, DeepLinearMetric(2)) == pytest.approx(1.0)


@pytest.mark.parametrize("share", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("widths", [[3, 3, 3], [3, 5, 3], [2, 2, 4], [4, 3, 3]])
def test_the_spread_of_the_imbalance_bounds_the_error_of_the_nearest_metric(rng, widths, share):
    W_1, W_2 = random_chain(rng, widths)
    layers = [W_1 / 2, share * W_2]
    (D,), (c,) = imbalances(layers), nearest_imbalance(layers)
    size = sum(np.linalg.norm(W, 2) ** 2 for W in layers)
    error = velocity_error(layers, DeepLinearMetric(2, imbalance=c))
    assert 0 < error <= np.ptp(np.linalg.eigvalsh(D)) / size


@pytest.mark.parametrize("c", [[2.0], [-0.5, 1.0], [1.0, 1.0, -3.0]])
def test_layers_of_the_nearest_imbalance_have_no_velocity_error(rng, c):
    depth = len(c) + 1
    layers = balanced_layers(random_matrix(rng, 3, 3), depth, imbalance=c)
    turns = [np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in c]
    layers = of_other_bases(layers, turns)
    metric = DeepLinearMetric(depth, imbalance=nearest_imbalance(layers))
    assert velocity_error(layers, metric) < 1e-12


def quadratic(metric, target):
    manifold = FullRank(*target.shape, metric)

    @pymanopt.function.numpy(manifold)
    def cost(W):
        return np.sum((W - target) ** 2) / 2

    @pymanopt.function.numpy(manifold)
    def gradient(W):
        return W - target

    return pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)


def test_the_flow_of_layers_strays_from_the_flow_of_the_metric_by_less_than_the_bound(rng):
    problem = quadratic(DeepLinearMetric(2), np.diag([2.0, 1.5, 1.0]))
    times = np.linspace(0.0, 0.5, 11)
    U, V = (np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in range(2))
    balanced = balanced_layers(U * [1.5, 1.0, 0.5] @ V, 2)
    for size in (0.01, 0.1, 1.0):
        layers = of_other_bases(balanced, [expm(size * random_matrix(rng, 3, 3))])
        network = network_flow(problem, layers, times)
        metric = gradient_flow(problem, end_to_end(layers), times)
        # (20d): the Lipschitz constant of A_V(V - T) on the ball that holds both.
        gradients = network.points - np.diag([2.0, 1.5, 1.0])
        largest = max(np.linalg.norm(V, 2) for V in [*network.points, *metric.points])
        rate = 2 * largest + 2 * np.sqrt(2) * max(np.linalg.norm(G, 2) for G in gradients)
        force = max(np.linalg.norm(G) for G in gradients) * sum(parts(imbalances(layers)[0], 0.0))
        distances = np.linalg.norm(network.points - metric.points, axis=(1, 2))
        assert np.all(distances[1:] > 0)
        assert np.all(distances[1:] <= force * np.expm1(rate * times[1:]) / rate)


@pytest.mark.parametrize("depth", [2, 3])
def test_the_distance_of_the_flows_is_of_first_order_in_the_imbalance(rng, depth):
    problem = quadratic(DeepLinearMetric(depth), np.diag([2.0, 1.5, 1.0]))
    balanced = balanced_layers(np.array([[1.0, 0.2, 0.0], [0.1, 0.8, 0.3], [0.0, 0.2, 0.7]]), depth)
    turns = rng.standard_normal((depth - 1, 3, 3))
    sizes, distances = [], []
    for size in (1e-3, 1e-2):
        layers = of_other_bases(balanced, [expm(size * S) for S in turns])
        flow = network_flow(problem, layers, [0.0, 1.0])
        other = gradient_flow(problem, end_to_end(layers), [0.0, 1.0])
        sizes.append(imbalance(layers))
        distances.append(np.linalg.norm(flow.points[-1] - other.points[-1]))
    power = np.diff(np.log(distances)) / np.diff(np.log(sizes))
    assert power == pytest.approx(1.0, abs=0.05)


CHAINS = [[3, 3, 3], [4, 3, 3, 5], [2, 5, 4], [3, 2, 4, 3, 2]]


@pytest.mark.parametrize("widths", CHAINS)
def test_balancing_keeps_the_end_to_end_matrix_to_rounding(rng, widths):
    layers = random_chain(rng, widths)
    W = end_to_end(layers)
    for tolerance in (1e-2, 1e-8):
        flow = balancing_flow(layers, [0.0, 0.1, 3.0, 100.0], rtol=tolerance, atol=tolerance)
        assert np.abs(flow.points - W).max() < 1e-13 * np.abs(W).max()
        for point, at_time in zip(flow.points, flow.layers, strict=True):
            np.testing.assert_array_equal(point, end_to_end(at_time))
    assert flow.imbalances[0] == pytest.approx(imbalance(layers))
    assert np.all(np.diff(flow.imbalances) < 0)
    assert flow.imbalances[-1] < 0.05 * flow.imbalances[0]


@pytest.mark.parametrize("widths", CHAINS)
def test_balancing_is_the_flow_of_the_layers(rng, widths):
    layers = random_chain(rng, widths)
    target = rng.standard_normal(len(layers) - 1)
    shapes, ends = [W.shape for W in layers], np.cumsum([W.size for W in layers])

    def velocity(_, y):
        W = [a.reshape(shape) for a, shape in zip(np.split(y, ends[:-1]), shapes, strict=True)]
        M = [np.zeros((widths[0],) * 2)]
        M += [B.T @ B - A @ A.T - c * np.eye(len(A)) for A, B, c in zip(W, W[1:], target)]  # noqa: B905
        M += [np.zeros((widths[-1],) * 2)]
        return np.concatenate([(M[j + 1] @ W[j] - W[j] @ M[j]).ravel() for j in range(len(W))])

    start = np.concatenate([W.ravel() for W in layers])
    expected = solve_ivp(velocity, (0.0, 0.7), start, "DOP853", rtol=1e-11, atol=1e-12).y[:, -1]
    flow = balancing_flow(layers, [0.0, 0.7], imbalance=target, rtol=1e-10)
    found = np.concatenate([W.ravel() for W in flow.layers[-1]])
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_the_cost_falls_at_the_rate_of_the_squared_norm(rng):
    layers = random_chain(rng, [3, 4, 2, 3])
    times = np.linspace(0.0, 0.4, 81)
    for target in ([0.0, 0.0], [0.3, -0.5]):
        flow = balancing_flow(layers, times, imbalance=target, rtol=1e-11, atol=1e-12)
        assert flow.costs[0] == pytest.approx(sum(np.sum(W**2) for W in layers) / 2)
        fallen = simpson(flow.gradient_norms**2, x=times)
        # Bases have been folded into the layers by then, and the logarithms with them.
        assert flow.costs[0] - flow.costs[-1] == pytest.approx(fallen, rel=1e-4)
    M = [D - c * np.eye(len(D)) for D, c in zip(imbalances(layers), target, strict=True)]
    assert flow.gradient_norms[0] == pytest.approx(np.sqrt(sum(np.sum(D**2) for D in M)))
    assert flow.imbalances[0] == pytest.approx(max(np.linalg.norm(D) for D in M))


@pytest.mark.parametrize("widths", CHAINS)
def test_the_extreme_eigenvalues_of_imbalances_come_closer(rng, widths):
    target = rng.standard_normal(len(widths) - 2)
    flow = balancing_flow(random_chain(rng, widths), np.linspace(0.0, 1.0, 21), imbalance=target)
    ends = []
    for layers in flow.layers:
        spectra = [np.linalg.eigvalsh(D) for D in imbalances(layers)]
        values = np.concatenate([s - c for s, c in zip(spectra, target, strict=True)])
        ends.append((max(values.max(), 0.0), min(values.min(), 0.0)))
    largest, least = np.transpose(ends)
    assert largest[0] > 0 > least[0]
    assert np.all(np.diff(largest) < 1e-8)
    assert np.all(np.diff(least) > -1e-8)


@pytest.mark.parametrize(("a", "b"), [(3.0, 1.0), (1e-3, 2.0), (-1.0, 1.5), (0.0, 1.0)])
def test_one_neuron_balances_as_its_closed_form_says(a, b):
    # D = b^2 - a^2 has dD/dt = -2 (a^2 + b^2) D, with (a^2 + b^2)^2 = D^2 + 4 w^2 and w = a b.
    times, w, D = np.array([0.0, 0.2, 1.0, 2.0]), abs(a * b), b**2 - a**2
    if w > 0:
        expected = 2 * w / np.sinh(4 * w * times + np.arcsinh(2 * w / abs(D)))
    else:
        expected = abs(D) / (1 + 2 * abs(D) * times)
    flow = balancing_flow([np.array([[a]]), np.array([[b]])], times)
    np.testing.assert_allclose(flow.imbalances, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("m", "n", "c"), [(3, 3, [0.0]), (4, 2, [0.0, 0.0]), (2, 3, [1, -2, 3])])
def test_at_the_rank_of_the_matrix_the_limit_is_the_canonical_layers_but_for_bases(rng, m, n, c):
    r = min(m, n)
    canonical = balanced_layers(random_matrix(rng, m, n), len(c) + 1, imbalance=c)
    layers = of_other_bases(canonical, expm(rng.standard_normal((len(c), r, r))))
    flow = balancing_flow(
        layers, [0.0, 300.0], imbalance=c, method="Radau", gradient_tolerance=1e-9
    )
    assert flow.status == 1
    assert_equal_but_for_orthogonal_bases(flow.layers[-1], canonical)


def assert_equal_but_for_orthogonal_bases(found, expected):
    Q = np.eye(found[0].shape[1])
    for j, (W, canonical) in enumerate(zip(found, expected, strict=True)):
        if j + 1 == len(found):
            turn = np.eye(len(W))
        else:
            turn = W @ Q @ np.linalg.pinv(canonical)
            np.testing.assert_allclose(turn.T @ turn, np.eye(len(turn)), atol=1e-6)
        np.testing.assert_allclose(W @ Q, turn @ canonical, atol=1e-6)
        Q = turn


def test_at_depth_two_the_change_of_basis_is_a_geometric_mean(rng):
    W_1, W_2 = random_chain(rng, [4, 3, 5])
    flow = balancing_flow([W_1, W_2], [0.0, 300.0], method="Radau", gradient_tolerance=1e-9)
    limit = flow.layers[-1]
    G = limit[0] @ np.linalg.pinv(W_1)
    A, B = W_1 @ W_1.T, W_2.T @ W_2
    root = sqrtm(np.linalg.inv(A)).real
    mean = root @ sqrtm(np.linalg.inv(root) @ B @ np.linalg.inv(root)).real @ root
    np.testing.assert_allclose(G.T @ G, mean, rtol=1e-6, atol=1e-7)


def test_layers_of_the_rank_of_their_product_balance_fast_at_any_width(rng):
    narrow = random_chain(rng, [3, 2, 2, 4])
    bases = [np.linalg.qr(rng.standard_normal((5, 5)))[0] @ np.diag([1.0, 2.0, 0.5, 1.0, 1.0])] * 2
    wide = [np.zeros((b, a)) for a, b in pairwise([3, 5, 5, 4])]
    for W, given in zip(wide, narrow, strict=True):
        W[: given.shape[0], : given.shape[1]] = given
    wide[2][:, :2] = narrow[2]
    # Zeros that are rounding errors would be weights that have to go.
    flow = balancing_flow(wide, [0.0, 200.0], gradient_tolerance=1e-7)
    assert flow.status == 1
    turned = of_other_bases(wide, bases)
    flow = balancing_flow(turned, [0.0, 200.0], gradient_tolerance=1e-7)
    assert flow.status == 1
    s = np.linalg.svd(end_to_end(narrow), compute_uv=False)
    for W in flow.layers[-1]:
        found = np.linalg.svd(W, compute_uv=False)
        np.testing.assert_allclose(found[:2], s[:2] ** (1 / 3), rtol=1e-6)
        assert found[2:].max(initial=0.0) < 1e-6


def test_weights_in_excess_of_the_rank_go_as_one_over_the_root_of_the_time(rng):
    lower = random_chain(rng, [3, 3, 3])
    lower[0] = lower[0][:, :1] @ lower[0][:1]
    for layers in (lower, random_chain(rng, [2, 5, 4]), [np.zeros((2, 3)), np.ones((2, 2))]):
        flow = balancing_flow(layers, [0.0, 200.0, 400.0], rtol=1e-6)
        assert flow.imbalances[1] / flow.imbalances[2] == pytest.approx(2.0, rel=0.05)
        rank = np.linalg.matrix_rank(end_to_end(layers))
        before, after = (np.linalg.svd(W[-1], compute_uv=False)[rank] for W in flow.layers[1:])
        assert before / after == pytest.approx(np.sqrt(2), rel=0.05)


@pytest.mark.parametrize("target", [[1.0, -2.0], [-0.5, -0.5], [0.0, 3.0]])
def test_balancing_to_other_imbalances(rng, target):
    layers = random_chain(rng, [3, 3, 3, 3])
    flow = balancing_flow(layers, [0.0, 500.0], imbalance=target, gradient_tolerance=1e-7)
    assert flow.status == 1
    for c, D in zip(target, imbalances(flow.layers[-1]), strict=True):
        np.testing.assert_allclose(D, c * np.eye(3), atol=1e-7)
    np.testing.assert_allclose(flow.points[-1], end_to_end(layers), atol=1e-13)


def test_an_imbalance_that_cannot_be_had_is_not_reached(rng):
    W_1, W_2 = random_chain(rng, [3, 4, 2])  # W_2^T W_2 has rank 2, which c I of size 4 has not
    flow = balancing_flow([W_1, W_2], [0.0, 20.0], imbalance=0.5)
    assert flow.imbalances[-1] == pytest.approx(0.5 * np.sqrt(2), rel=1e-2)
    assert np.abs(flow.points - W_2 @ W_1).max() < 1e-13
    assert flow.costs[-1] < -5.0


def test_weights_of_very_different_sizes(rng):
    W_1, W_2 = random_chain(rng, [3, 3, 3])
    flow = balancing_flow([1e6 * W_1, 1e-6 * W_2], [0.0, 200.0], method="Radau")
    assert flow.imbalances[-1] < 1e-7  # of 1e12
    np.testing.assert_allclose(flow.points[-1], W_2 @ W_1, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("method", ["BDF", "Radau", "RK45"])
def test_balancing_by_other_methods(rng, method):
    layers = random_chain(rng, [2, 2, 2])
    expected = balancing_flow(layers, [0.0, 1.0]).layers[-1]
    found = balancing_flow(layers, [0.0, 1.0], method=method, rtol=1e-7).layers[-1]
    for W, answer in zip(found, expected, strict=True):
        np.testing.assert_allclose(W, answer, atol=1e-4)


def test_balanced_layers_stay(rng):
    layers = balanced_layers(random_matrix(rng, 3, 4), 3)
    flow = balancing_flow(layers, [0.0, 10.0])
    for W, answer in zip(flow.layers[-1], layers, strict=True):
        np.testing.assert_allclose(W, answer, atol=1e-12)


def test_a_balancing_flow_is_kept_in_a_file(rng, tmp_path):
    flow = balancing_flow(random_chain(rng, [2, 3, 2]), [0.0, 1.0, 2.0])
    assert flow.nfev == 0
    flow.save(tmp_path / "flow.npz")
    again = load_flow(tmp_path / "flow.npz")
    assert type(again) is type(flow)
    np.testing.assert_array_equal(again.imbalances, flow.imbalances)
    for found, expected in zip(again.layers, flow.layers, strict=True):
        for W, answer in zip(found, expected, strict=True):
            np.testing.assert_array_equal(W, answer)


def test_balancing_stops_where_it_is_told_to(rng):
    layers = random_chain(rng, [3, 3, 3])
    flow = balancing_flow(layers, [0.0, 10.0], stop=lambda t, W, cost, norm: t > 0.5)
    assert flow.status == 3
    assert flow.end_times == pytest.approx(0.5, abs=1e-6)


def test_wrong_arguments_of_balancing_are_refused(rng):
    layers = random_chain(rng, [2, 2, 2, 2])
    with pytest.raises(ValueError, match="^layers must be at least two to be balanced, got one"):
        balancing_flow(layers[:1], [0.0, 1.0])
    for target in ([1.0], [1.0, 2.0, 3.0], [[1.0, 2.0]]):
        with pytest.raises(
            ValueError, match="^imbalance must be a number or depth - 1 = 2 of them"
        ):
            balancing_flow(layers, [0.0, 1.0], imbalance=target)
    with pytest.raises(ValueError, match="^imbalance must be finite"):
        balancing_flow(layers, [0.0, 1.0], imbalance=np.nan)
    with pytest.raises(ValueError, match="^times must be"):
        balancing_flow(layers, [1.0, 0.0])


def test_single_precision_is_balanced_in_double(rng):
    layers = [W.astype(np.float32) for W in random_chain(rng, [2, 2, 2])]
    flow = balancing_flow(layers, [0.0, 1.0])
    assert all(W.dtype == np.float64 for W in flow.layers[-1])


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_the_nearest_imbalance_of_balanced_layers_is_zero(rng, depth):
    for shape in [(4, 2), (3, 3), (1, 5)]:
        layers = balanced_layers(1e3 * rng.standard_normal(shape), depth)
        np.testing.assert_array_equal(nearest_imbalance(layers), np.zeros(depth - 1))


@pytest.mark.parametrize("scale", [1e-165, 1e-160, 1e-155, 1e-150])
def test_the_nearest_imbalance_of_small_layers_is_zero_where_squares_underflow(rng, scale):
    for _ in range(50):
        layers = [scale * W for W in balanced_layers(rng.standard_normal((3, 3)), 3)]
        np.testing.assert_array_equal(nearest_imbalance(layers), np.zeros(2))
    small = nearest_imbalance([1e-140 * np.eye(2), 1e-140 * np.diag([3.0, 1.0])])
    np.testing.assert_allclose(small, [4e-280], rtol=1e-12)


def test_the_velocity_error_takes_metrics_only():
    with pytest.raises(TypeError, match=r"^metric must be a riemdln.Metric, got 2"):
        velocity_error([np.eye(2), np.eye(2)], 2)


@pytest.mark.parametrize("widths", [[3, 3, 3], [2, 5, 2], [4, 3, 3], [2, 2, 4], [1, 4, 1]])
def test_at_depth_two_every_imbalance_bounds_the_error_of_its_metric(rng, widths):
    for c in (-3.0, -0.4, 0.2, 5.0):
        layers = random_chain(rng, widths)
        above, below = parts(imbalances(layers)[0], c)
        size = sum(np.linalg.norm(W, 2) ** 2 for W in layers)
        error = velocity_error(layers, DeepLinearMetric(2, imbalance=c))
        assert error * size <= (above + below) * (1 + 1e-9)


@pytest.mark.parametrize("shape", [(15, 20), (20, 15), (30, 10)])
def test_the_velocity_error_of_many_balanced_weights_is_one_of_rounding(shape):
    for seed in range(3):
        W = np.random.default_rng(seed).standard_normal(shape)
        for depth in (2, 3):
            assert velocity_error(balanced_layers(W, depth), DeepLinearMetric(depth)) < 1e-12


def test_layers_of_another_library_come_to_balance():
    layers = [array_api_strict.asarray([[1.0]]), array_api_strict.asarray([[4.0]])]
    flow = balancing_flow(layers, [0.0, 5.0])
    np.testing.assert_allclose([W.item() for W in flow.layers[-1]], 2.0, rtol=1e-7)


def test_layers_whose_products_leave_the_range_are_refused():
    layers = [np.diag([1.0, 2.0]), np.diag([3.0, 2.5]), np.diag([1.0, 1.5])]
    metric = DeepLinearMetric(3)
    small = [1e-60 * layer for layer in layers]  # the error does not depend on a common factor
    assert velocity_error(small, metric) == pytest.approx(velocity_error(layers, metric), rel=1e-9)
    with pytest.raises(ValueError, match="^layers must move their product by what is in the range"):
        velocity_error([1e-100 * layer for layer in layers], metric)
    with (
        np.errstate(over="ignore", invalid="ignore"),
        pytest.raises(ValueError, match="^the squares of layers must be finite"),
    ):
        nearest_imbalance([np.eye(2), 1e200 * np.eye(2)])
