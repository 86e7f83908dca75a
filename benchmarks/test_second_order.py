"""What Hessians and geodesics cost, as ratios measured in one run, or as counts.

Run with ``pytest benchmarks -s``.
"""

import math
from itertools import cycle

import numpy as np
import pytest
from pymanopt.manifolds import Euclidean

from benchmarks.test_geometry import decomposition, median_ratio, report
from riemdln import DeepLinearMetric, FixedRank, FullRank
from riemdln.geodesics import geodesic_between


def hessian_product(manifold, m, n, *, new_point):
    """One Hessian-vector product of the geometry: the Euclidean one is given."""
    rng = np.random.default_rng(0)
    points = cycle(rng.standard_normal((8 if new_point else 1, m, n)))
    P, H, X = rng.standard_normal((3, m, n))
    return lambda: manifold.euclidean_to_riemannian_hessian(next(points), P, H, X)


@pytest.mark.parametrize("new_point", [True, False], ids=["new", "known"])
@pytest.mark.parametrize("depth", [3, 64, math.inf])
@pytest.mark.parametrize(("n", "rounds"), [(5, 500), (100, 100)])
def test_hessian_product(benchmark, n, rounds, depth, new_point):
    product = hessian_product(FullRank(n, n, DeepLinearMetric(depth)), n, n, new_point=new_point)
    ratio = median_ratio(product, decomposition(n, n), rounds)
    where = "a new" if new_point else "a known"
    report(benchmark, f"Hessian product at {where} {n} x {n} point, depth {depth}, in SVDs", ratio)
    benchmark(product)


@pytest.mark.parametrize("n", [5, 100])
def test_hessian_product_at_depth_one(benchmark, n):
    product = hessian_product(FullRank(n, n, DeepLinearMetric(1)), n, n, new_point=True)
    manifold, rng = Euclidean(n, n), np.random.default_rng(0)
    W, P, H, X = rng.standard_normal((4, n, n))

    def euclidean():
        # What pymanopt's Euclidean manifold does for the same question, with its checks of input.
        return manifold.euclidean_to_riemannian_hessian(W, P, H, X)

    ratio = median_ratio(product, decomposition(n, n), 500)
    report(benchmark, f"Hessian product at {n} x {n}, depth 1, in SVDs", ratio)
    ratio = median_ratio(euclidean, decomposition(n, n), 500)
    report(benchmark, f"the same of pymanopt's Euclidean manifold at {n} x {n}, in SVDs", ratio)
    benchmark(product)


@pytest.mark.parametrize("depth", [2, 3, math.inf])
@pytest.mark.parametrize("points", ["near the identity", "Gaussian"])
def test_points_visited_for_a_distance(benchmark, points, depth):
    class Counting(DeepLinearMetric):
        def at(self, W):
            evaluations.append(math.prod(np.shape(W)[:-2]))
            return super().at(W)

    metric, rng, counts = Counting(depth), np.random.default_rng(0), []
    for _ in range(30):
        W_a, W_b = rng.standard_normal((2, 5, 5))
        if points == "Gaussian":
            for W in (W_a, W_b):  # in one component, which has a determinant of one sign
                W[:, 0] *= np.linalg.slogdet(W)[0]
        else:
            W_a, W_b = np.eye(5) + 0.3 * W_a, np.eye(5) + 0.3 * W_b
        evaluations = []
        geodesic_between(metric, W_a, W_b)
        counts.append(sum(evaluations))
    what = f"points visited for a distance of 5 x 5 points {points}, depth {depth}"
    report(benchmark, f"{what}, median", np.median(counts))
    report(benchmark, f"{what}, nine of ten below", np.quantile(counts, 0.9))
    benchmark.pedantic(geodesic_between, (metric, W_a, W_b), rounds=3)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize(("m", "n", "k"), [(60, 50, 5), (500, 400, 10)])
def test_hessian_product_at_fixed_rank(benchmark, m, n, k, depth):
    manifold = FixedRank(m, n, k, DeepLinearMetric(depth), rng=0)
    point, rng = manifold.random_point(), np.random.default_rng(0)
    X, (P, H) = manifold.random_tangent_vector(point), rng.standard_normal((2, m, n))

    def product():
        return manifold.euclidean_to_riemannian_hessian(point, P, H, X)

    def unavoidable():
        # The blocks of the gradient and of its derivative.
        return P @ point.vt.T, P.T @ point.u, H @ point.vt.T, H.T @ point.u

    ratio = median_ratio(product, unavoidable, 200)
    what = f"Hessian product at {m} x {n}, rank {k}, depth {depth}"
    report(benchmark, f"{what}, in four products of the matrices with the factors", ratio)
    benchmark(product)


@pytest.mark.parametrize("what", ["sharp", "christoffel", "hessian"])
def test_stack_against_loop(benchmark, what):
    metric, rng = DeepLinearMetric(3), np.random.default_rng(0)
    W, *vectors = rng.standard_normal((4, 1000, 3, 3))
    count = {"sharp": 1, "christoffel": 2, "hessian": 3}[what]

    def at_new_points(points, *own):
        points[..., 0, 0] += 1e-3
        return getattr(metric.at(points), what)(*own)

    def loop():
        for one in zip(W, *vectors[:count], strict=True):
            at_new_points(*one)

    def stack():
        return at_new_points(W, *vectors[:count])

    report(
        benchmark, f"{what} at 1,000 points of 3 x 3: loop in stacks", median_ratio(loop, stack, 5)
    )
    benchmark(stack)
