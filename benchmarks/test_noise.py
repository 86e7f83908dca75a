"""What noise costs: steps of 20,000 copies beside their singular value decompositions, and memory.

Run with ``pytest benchmarks/test_noise.py -s``. Times are ratios within one run.
"""

import tracemalloc

import numpy as np
import pytest

from benchmarks.test_flows import problem_on, seconds
from benchmarks.test_geometry import report
from riemdln import (
    DeepLinearMetric,
    FullRank,
    balanced_layers,
    langevin_flow,
    network_langevin_flow,
)

COPIES = 20_000


def ensemble(m, n):
    return np.random.default_rng(0).standard_normal((COPIES, m, n))


def quadratic(manifold):
    return problem_on(manifold, lambda W: np.sum(W**2, axis=(-2, -1)) / 2, lambda W: W)


def seconds_of_a_step(run):
    """From the difference of eleven steps and one, so that what is recorded does not count."""
    return (seconds(lambda: run(11)) - seconds(lambda: run(1))) / 10


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("way", ["euler", "splitting", "metropolis", "layers"])
def test_a_step(benchmark, way, depth):
    """2 x 4, with a cost and the entropy."""
    start = ensemble(2, 4)
    problem = quadratic(FullRank(2, 4, DeepLinearMetric(depth)))
    options = {"beta": 2.0, "step_size": 1e-3, "vectorized": True, "rng": 0}
    networks = [balanced_layers(W, depth) for W in start]
    layers = [np.stack(stack) for stack in zip(*networks, strict=True)]

    def run(steps):
        times = [0.0, 1e-3 * steps]
        if way == "layers":
            return network_langevin_flow(problem, layers, times, **options)
        scheme = {"metropolis": True} if way == "metropolis" else {"scheme": way}
        return langevin_flow(problem, start, times, **scheme, **options)

    step = seconds_of_a_step(run)
    svd = seconds(lambda: np.linalg.svd(start, full_matrices=False))
    report(
        benchmark, f"a step of noise, 2 x 4, depth {depth}, {way}, in SVDs of the stack", step / svd
    )
    benchmark.pedantic(run, (1,), rounds=1)


def test_memory_does_not_grow_with_steps(benchmark):
    problem = quadratic(FullRank(2, 4, DeepLinearMetric(2)))
    start = ensemble(2, 4)[:2000]

    def peak(steps):
        tracemalloc.start()
        langevin_flow(
            problem, start, [0.0, 1.0], beta=2.0, step_size=1 / steps, vectorized=True, rng=0
        )
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    report(benchmark, "peak memory of 100 steps in that of 10", peak(100) / peak(10))
    benchmark.pedantic(peak, (10,), rounds=1)
