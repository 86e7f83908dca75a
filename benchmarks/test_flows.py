"""What flows cost: gradients until they are where they should be, and time for the same error.

Run with ``pytest benchmarks/test_flows.py -s``. Counts do not depend on the machine; times are
ratios within one run.
"""

import importlib.util
import itertools
import time

import numpy as np
import pymanopt
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.preprocessing import StandardScaler

from benchmarks.test_geometry import report
from riemdln import (
    DeepLinearMetric,
    FixedRank,
    FullRank,
    balanced_layers,
    gradient_flow,
    network_flow,
)

# The threads of two libraries would wait for each other.
torch.set_num_threads(1)


def problem_on(manifold, loss, gradient):
    return pymanopt.Problem(
        manifold,
        pymanopt.function.numpy(manifold)(loss),
        euclidean_gradient=pymanopt.function.numpy(manifold)(gradient),
    )


def completion(depth, n=50, rank=2, share=0.3):
    """A Gaussian matrix of rank 2, of which random entries are observed."""
    rng = np.random.default_rng(0)
    target = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, n))
    observed = rng.random((n, n)) < share
    return problem_on(
        FullRank(n, n, DeepLinearMetric(depth)),
        lambda W: 0.5 * np.sum((observed * (W - target)) ** 2),
        lambda W: observed * (W - target),
    )


def seconds(run, repeats=3):
    spans = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        spans.append(time.perf_counter() - start)
    return min(spans)


@pytest.mark.parametrize("second", [1e-8, 1e-12, 1e-30, 0.0])
def test_fixed_rank_from_a_small_singular_value(benchmark, second):
    """From singular values 1 and s_2 at depth 2, towards 3 and 1."""
    target = np.diag([3.0, 1.0, 0.0, 0.0])
    problem = problem_on(
        FixedRank(4, 4, 2, DeepLinearMetric(2)),
        lambda u, s, vt: 0.5 * np.sum((u * s @ vt - target) ** 2),
        lambda u, s, vt: u * s @ vt - target,
    )
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((4, 2)))[0] for _ in range(2))
    start = u, np.array([1.0, second]), v.T
    flow = benchmark.pedantic(gradient_flow, (problem, start, [0, 100]), rounds=1)
    report(benchmark, f"gradients at fixed rank from s_2 = {second:g} to t = 100", flow.nfev)


@pytest.mark.parametrize("depth", [np.inf, 3])
def test_completion_with_cvode(benchmark, depth):
    """Infinite depth to a relative loss of 1e-5 from 1e-5 I; depth 3 from 1e-3 I to t = 1e4."""
    pytest.importorskip("sksundae", reason="CVODE needs scikit-sundae: the extra stiff")
    problem = completion(depth)
    start = (1e-5 if np.isinf(depth) else 1e-3) * np.eye(50)
    options = {"cost_tolerance": 1e-5 * problem.cost(start)} if np.isinf(depth) else {}
    times = [0, 1e9 if np.isinf(depth) else 1e4]
    for tolerance in (1e-4, 1e-5, 1e-6):
        asked = {**options, "method": "CVODE", "rtol": tolerance, "atol": tolerance}
        flow = gradient_flow(problem, start, times, **asked)
        what = (
            f"gradients with CVODE, depth {depth}, rtol {tolerance:g}, to t = {flow.times[-1]:.4g}"
        )
        report(benchmark, what, flow.nfev)
    budget = 3 * flow.nfev
    seen = []

    def spent(time, point, cost, norm):
        seen.append(time)
        return len(seen) * 12 > budget  # DOP853 takes 12 gradients a step

    flow = gradient_flow(problem, start, times, stop=spent, **options)
    report(benchmark, f"where DOP853 is after {flow.nfev} gradients, t", flow.times[-1])
    benchmark.pedantic(lambda: None, rounds=1)


def test_against_the_network(benchmark):
    """50 x 50, depth 3: time for the same error, at the error that each tolerance gives."""
    n = 50
    rng = np.random.default_rng(0)
    start, target = (rng.standard_normal((n, n)) / n**0.5 for _ in range(2))
    if np.linalg.slogdet(start)[0] != np.linalg.slogdet(target)[0]:
        target[:, 0] *= -1
    inputs = rng.standard_normal((n, 2 * n)) / (2 * n) ** 0.5
    square = inputs @ inputs.T
    problem = problem_on(
        FullRank(n, n, DeepLinearMetric(3)),
        lambda W: 0.5 * np.sum(((W - target) @ inputs) ** 2),
        lambda W: (W - target) @ square,
    )
    layers, times = balanced_layers(start, 3), [0.0, 3.0]
    exact = gradient_flow(problem, start, times, rtol=1e-12, atol=1e-13).points[-1]

    def error_and_time(flow, where, tolerance):
        def run():
            return flow(problem, where, times, rtol=tolerance, atol=tolerance)

        return np.abs(run().points[-1] - exact).max(), seconds(run)

    tolerances = np.array([1e-6, 1e-7, 1e-8, 1e-9, 1e-10])
    alone, network = (
        np.log([error_and_time(*flow, tolerance) for tolerance in tolerances])
        for flow in ((gradient_flow, start), (network_flow, layers))
    )
    # The time goes as the eighth root of the error, and as the number of gradients.
    slope = np.polyfit(network[:, 0], network[:, 1], 1)
    slowdowns = np.exp(alone[:, 1] - np.polyval(slope, alone[:, 0]))
    report(benchmark, "gradient_flow at 50 x 50, depth 3, in network_flow", np.median(slowdowns))
    benchmark.pedantic(lambda: None, rounds=1)


def test_against_gradient_descent_in_pytorch(benchmark):
    """Regression of ten digits on 64 pixels, depth 3: the time for the same relative error."""
    pixels, digits = load_digits(return_X_y=True)
    inputs = StandardScaler().fit_transform(pixels).T / len(pixels) ** 0.5
    outputs = (np.eye(10)[:, digits] - np.eye(10)[:, digits].mean(axis=1, keepdims=True)) / len(
        pixels
    ) ** 0.5
    square, cross = inputs @ inputs.T, outputs @ inputs.T
    problem = problem_on(
        FullRank(10, 64, DeepLinearMetric(3)),
        lambda W: 0.5 * np.sum((W @ inputs - outputs) ** 2),
        lambda W: W @ square - cross,
    )
    start = np.random.default_rng(0).standard_normal((10, 64))
    start *= 0.1 / np.linalg.norm(start, 2)
    last = 100.0

    def flow(tolerance, method="DOP853"):
        asked = {"method": method, "rtol": tolerance, "atol": tolerance}
        return gradient_flow(problem, start, [0, last], **asked).points[-1]

    exact = flow(1e-12)

    def distance(W):
        return np.linalg.norm(W - exact) / np.linalg.norm(exact)

    torch_square, torch_cross = torch.tensor(square), torch.tensor(cross)

    def descend(steps):
        """The layers after gradient descent of so many steps to the same time."""
        layers = [torch.tensor(W, requires_grad=True) for W in balanced_layers(start, 3)]
        for _ in range(steps):
            W = layers[2] @ layers[1] @ layers[0]
            (torch.sum(W * (W @ torch_square)) / 2 - torch.sum(W * torch_cross)).backward()
            with torch.no_grad():
                for layer in layers:
                    layer -= last / steps * layer.grad
                    layer.grad = None
        return (layers[2] @ layers[1] @ layers[0]).detach().numpy()

    errors = [distance(descend(steps)) for steps in (1000, 2000)]
    assert 1.8 < errors[0] / errors[1] < 2.2  # an error of first order: so many steps it takes
    a_step = seconds(lambda: descend(500)) / 500
    # The flow is stiff: the steps of DOP853 are as long as stability lets them be.
    methods = ["CVODE", "DOP853"] if importlib.util.find_spec("sksundae") else ["DOP853"]
    for method, wanted in itertools.product(methods, (1e-4, 1e-6)):
        tolerance = wanted
        while distance(flow(tolerance, method)) > wanted:
            tolerance /= 3
        steps = 2000 * errors[1] / wanted
        span = seconds(lambda: flow(tolerance, method))  # noqa: B023, called at once
        what = f"PyTorch layers, {steps:.0f} steps, for an error of {wanted:g}, in {method}"
        report(benchmark, what, a_step * steps / span)
    benchmark.pedantic(lambda: None, rounds=1)


def test_an_ensemble_against_a_loop(benchmark):
    """500 flows of 3 x 3 matrices at depth 3."""
    rng = np.random.default_rng(0)
    target, starts = rng.standard_normal((3, 3)), rng.standard_normal((500, 3, 3))
    problem = problem_on(
        FullRank(3, 3, DeepLinearMetric(3)),
        lambda W: 0.5 * np.sum((W - target) ** 2, axis=(-2, -1)),
        lambda W: W - target,
    )
    times = [0, 1, 5]

    def loop():
        return [gradient_flow(problem, start, times) for start in starts[:50]]

    alone = 10 * seconds(loop)
    for vectorized in (True, False):
        together = seconds(lambda: gradient_flow(problem, starts, times, vectorized=vectorized))  # noqa: B023
        report(
            benchmark, f"a loop over 500 flows, in one ensemble, {vectorized=}", alone / together
        )
    benchmark.pedantic(lambda: None, rounds=1)
