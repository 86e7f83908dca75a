"""What the geometry costs, as ratios measured in one run.

Run with ``pytest benchmarks -s``. Each benchmark times the geometry and its yardstick in turn and
prints the median of the ratios, which holds when the machine's speed drifts. pytest-benchmark's
own table gives the absolute times.
"""

import math
import time
from itertools import cycle

import numpy as np
import pytest

from riemdln import DeepLinearMetric, FullRank, balanced_layers


def median_ratio(work, yardstick, rounds):
    """The median over rounds of the time of `work` as a multiple of the time of `yardstick`."""
    ratios = []
    for _ in range(rounds):
        times = []
        for function in (yardstick, work):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        ratios.append(times[1] / times[0])
    return float(np.median(ratios))


def report(benchmark, what, ratio):
    benchmark.extra_info[what] = round(ratio, 2)
    print(f"\n{what}: {ratio:.2f}")


def solver_step(m, n, metric, count=8):
    """What one step of a first-order solver asks, at a new point each time it is called."""
    rng = np.random.default_rng(0)
    manifold = FullRank(m, n, metric)
    points = cycle(rng.standard_normal((count, m, n)))
    P, X = rng.standard_normal((2, m, n))

    def step():
        W = next(points)
        gradient = manifold.euclidean_to_riemannian_gradient(W, P)
        manifold.norm(W, gradient)
        manifold.inner_product(W, gradient, X)
        manifold.retraction(W, -0.1 * gradient)

    return step


def decomposition(m, n):
    W = np.random.default_rng(0).standard_normal((m, n))
    return lambda: np.linalg.svd(W, full_matrices=False)


@pytest.mark.parametrize("depth", [1, 2, 3, 64, math.inf])
@pytest.mark.parametrize(("n", "rounds"), [(5, 2000), (20, 1000), (200, 100)])
def test_solver_step(benchmark, n, rounds, depth):
    step = solver_step(n, n, DeepLinearMetric(depth))
    ratio = median_ratio(step, decomposition(n, n), rounds)
    report(benchmark, f"solver step at {n} x {n}, depth {depth}, in SVDs", ratio)
    benchmark(step)


@pytest.mark.parametrize("depth", [2, 3, 64, math.inf])
@pytest.mark.parametrize(("n", "rounds"), [(5, 2000), (10, 2000)])
def test_sharp_at_a_new_point(benchmark, n, rounds, depth):
    metric, rng = DeepLinearMetric(depth), np.random.default_rng(0)
    points, P = cycle(rng.standard_normal((8, n, n))), rng.standard_normal((n, n))

    def sharp():
        return metric.sharp(next(points), P)

    ratio = median_ratio(sharp, decomposition(n, n), rounds) - 1
    what = f"sharp at a new {n} x {n} point, depth {depth}, beside the decomposition"
    report(benchmark, f"{what}, in SVDs", ratio)
    benchmark(sharp)


@pytest.mark.parametrize("depth", [64, math.inf])
def test_depth_is_free(benchmark, depth):
    step = solver_step(200, 200, DeepLinearMetric(depth))
    ratio = median_ratio(step, solver_step(200, 200, DeepLinearMetric(2)), 100)
    report(benchmark, f"solver step at 200 x 200, depth {depth} against depth 2", ratio)
    benchmark(step)


def test_sharp_against_fractional_powers(benchmark):
    from scipy.linalg import fractional_matrix_power

    n, depth = 100, 3
    points = cycle(np.random.default_rng(0).standard_normal((8, n, n)))
    P = np.random.default_rng(1).standard_normal((n, n))
    metric = DeepLinearMetric(depth)

    def definition():
        W = next(points)
        return sum(
            fractional_matrix_power(W @ W.T, (depth - k) / depth)
            @ P
            @ fractional_matrix_power(W.T @ W, (k - 1) / depth)
            for k in range(1, depth + 1)
        )

    def sharp():
        return metric.sharp(next(points), P)

    def ten_sharps():
        # SciPy and NumPy bring a BLAS each, and the threads of one go on spinning for some
        # milliseconds after its last call. Of ten calls most are past that.
        for _ in range(10):
            sharp()

    report(
        benchmark,
        "fractional powers in sharps, at 100 x 100, depth 3",
        10 / median_ratio(ten_sharps, definition, 20),
    )
    benchmark(sharp)


@pytest.mark.parametrize("shape", [(1, 1_000_000), (1_000_000, 1)])
def test_long_vectors(benchmark, shape):
    rng = np.random.default_rng(0)
    w, p, x = rng.standard_normal((3, *shape))
    metric = DeepLinearMetric(3)

    def one_pass():
        return w + p

    def sharp_at_a_new_point():
        w[0, 0] += 1.0
        return metric.sharp(w, p)

    for what, work in {
        "sharp at a new point": sharp_at_a_new_point,
        "sharp at a known point": lambda: metric.sharp(w, p),
        "inner at a known point": lambda: metric.inner(w, p, x),
    }.items():
        work()
        ratio = median_ratio(work, one_pass, 50)
        report(benchmark, f"{what} {shape[0]} x {shape[1]}, in additions of two vectors", ratio)
    benchmark(sharp_at_a_new_point)


@pytest.mark.parametrize("depth", [2, 3, 8])
def test_gradient_step_against_a_network_in_pytorch(benchmark, depth):
    torch = pytest.importorskip("torch", reason="the explicit network is PyTorch's")
    m, n, h = 50, 80, 1e-3
    rng = np.random.default_rng(0)
    target = rng.standard_normal((m, n))
    W = rng.standard_normal((m, n))
    manifold = FullRank(m, n, DeepLinearMetric(depth))
    layers = [torch.tensor(layer, requires_grad=True) for layer in balanced_layers(W, depth)]
    torch_target = torch.tensor(target)

    def on_the_matrix():
        nonlocal W
        gradient = manifold.euclidean_to_riemannian_gradient(W, W - target)
        W = manifold.retraction(W, -h * gradient)

    def on_the_layers():
        product = layers[0]
        for layer in layers[1:]:
            product = layer @ product
        (torch.sum((product - torch_target) ** 2) / 2).backward()
        with torch.no_grad():
            for layer in layers:
                layer -= h * layer.grad
                layer.grad = None

    ratio = median_ratio(on_the_matrix, on_the_layers, 200)
    report(benchmark, f"gradient step at 50 x 80, depth {depth}, in steps of the network", ratio)
    benchmark(on_the_matrix)
