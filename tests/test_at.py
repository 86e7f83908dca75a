"""The metric at a point, against the dense matrix of its cometric."""

import math

import autograd.numpy as anp
import numpy as np
import pytest

from riemdln import (
    DeepLinearMetric,
    FixedRank,
    FullRank,
    KroneckerMetric,
    Metric,
    SpectralMetric,
)
from riemdln._frame import singular_frame
from riemdln.kernels import FunctionKernel, Kernel
from riemdln.manifolds import FixedRankPoint
from tests.conftest import dense_cometric, random_matrix, sharp_by_powers, sharp_by_quadrature

SHAPES = [(3, 3), (2, 4), (4, 2), (1, 4), (4, 1), (1, 1)]
DEPTHS = [1, 1.5, 2, 2.5, 3, 5, math.inf]


def asymmetric(s, t):
    return 1 + s**2 + 3 * t**2


class Own(Metric):
    """A(P) = (2 + W W^T) P (1 + W^T W), a metric that defines nothing but sharp."""

    def sharp(self, W, P):
        left, right = 2 * np.eye(W.shape[0]), np.eye(W.shape[1])
        return anp.dot(anp.dot(left + anp.dot(W, W.T), P), right + anp.dot(W.T, W))


def kronecker(m, n):
    rng = np.random.default_rng(7)
    roots = [rng.standard_normal((size, size)) for size in (m, n)]
    return KroneckerMetric(*(root @ root.T + np.eye(len(root)) for root in roots))


METRICS = {
    **{f"depth {depth:g}": lambda m, n, d=depth: DeepLinearMetric(d) for depth in DEPTHS},
    "sum of kernels": lambda m, n: SpectralMetric(
        DeepLinearMetric(2).kernel + 0.5 * DeepLinearMetric(5).kernel + 0.1
    ),
    "constant kernel": lambda m, n: SpectralMetric(2.5),
    "asymmetric": lambda m, n: SpectralMetric(asymmetric),
    "kronecker": kronecker,
    "own": lambda m, n: Own(),
}
CASES = [
    (name, m, n) for name in METRICS for m, n in SHAPES if not (name == "depth inf" and m != n)
]
every_metric = pytest.mark.parametrize(("name", "m", "n"), CASES)
# Kernels that are known by their values alone have derivatives of ten digits.
DIGITS = {"asymmetric": 1e-8}


def point_of(rng, m, n):
    return random_matrix(rng, m, n, np.linspace(1.6, 0.7, min(m, n)))


def dense(metric, W):
    return dense_cometric(lambda P: metric.sharp(W, P), *W.shape)


def derivative(function, W, h=0.02):
    """The derivatives of a function of W by its entries, by central differences of order eight."""
    weights = {1: 4 / 5, 2: -1 / 5, 3: 4 / 105, 4: -1 / 280}
    return np.array(
        [
            sum(w * (function(W + k * h * E) - function(W - k * h * E)) for k, w in weights.items())
            / h
            for E in np.eye(W.size).reshape(-1, *W.shape)
        ]
    )


def log_volume_by_determinant(metric, W):
    return -np.linalg.slogdet(dense(metric, W))[1] / 2


@every_metric
def test_the_root_squared_is_sharp(rng, name, m, n):
    W, P, Q = point_of(rng, m, n), *rng.standard_normal((2, m, n))
    at = METRICS[name](m, n).at(W)
    sharp = at.sharp(P)
    np.testing.assert_allclose(at.root(at.root(P)), sharp, atol=1e-13 * np.abs(sharp).max())
    # The symmetric root, and the positive one.
    assert np.sum(Q * at.root(P)) == pytest.approx(np.sum(P * at.root(Q)), abs=1e-12)
    eigenvalues = np.linalg.eigvalsh(dense_cometric(at.root, m, n))
    squares = np.linalg.eigvalsh(dense_cometric(at.sharp, m, n))
    np.testing.assert_allclose(eigenvalues, np.sqrt(squares), rtol=1e-10)


@every_metric
def test_log_volume_is_the_dense_determinant(rng, name, m, n):
    metric, W = METRICS[name](m, n), point_of(rng, m, n)
    at = metric.at(W)
    expected = log_volume_by_determinant(metric, W)
    np.testing.assert_allclose(at.log_volume(), expected, rtol=1e-11, atol=1e-12)
    slopes = derivative(lambda V: log_volume_by_determinant(metric, V), W).reshape(m, n)
    np.testing.assert_allclose(at.log_volume_gradient(), slopes, atol=DIGITS.get(name, 1e-9))


def laplacian_by_differences(metric, W):
    """Delta_g x^a = g^{-1/2} d_b (g^{1/2} g^{ab}) from dense matrices, g^{ab} that of sharp."""

    def density_times_cometric(V):
        cometric = dense(metric, V)
        return np.linalg.det(cometric) ** -0.5 * cometric

    slopes = derivative(density_times_cometric, W)  # slopes[b, a, c] of g^{1/2} g^{ac} along b
    divergence = np.einsum("bab->a", slopes)
    return (divergence * np.linalg.det(dense(metric, W)) ** 0.5).reshape(W.shape)


@every_metric
def test_the_coordinate_laplacian_is_that_of_the_dense_cometric(rng, name, m, n):
    metric, W = METRICS[name](m, n), point_of(rng, m, n)
    expected = laplacian_by_differences(metric, W)
    tolerance = 1e-8 * max(np.abs(expected).max(), 1.0)
    np.testing.assert_allclose(metric.at(W).coordinate_laplacian(), expected, atol=tolerance)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_the_entropy_gradient_is_that_of_the_entropy(rng, m, n, depth):
    if math.isinf(depth) and m != n:
        with pytest.raises(ValueError, match="square matrices only"):
            DeepLinearMetric(depth).entropy_gradient(point_of(rng, m, n))
        return
    metric, W = DeepLinearMetric(depth), point_of(rng, m, n)
    slopes = derivative(metric.entropy, W).reshape(m, n)
    np.testing.assert_allclose(metric.entropy_gradient(W), slopes, atol=1e-9)


@pytest.mark.parametrize("depth", [2, 2.5, math.inf])
def test_volumes_and_laplacians_where_singular_values_are_equal(rng, depth):
    metric, W = DeepLinearMetric(depth), random_matrix(rng, 3, 3, [1.2, 1.2, 0.8])
    slopes = derivative(lambda V: log_volume_by_determinant(metric, V), W).reshape(3, 3)
    np.testing.assert_allclose(metric.log_volume_gradient(W), slopes, atol=1e-8)
    expected = laplacian_by_differences(metric, W)
    np.testing.assert_allclose(metric.coordinate_laplacian(W), expected, atol=1e-8)
    slopes = derivative(metric.entropy, W).reshape(3, 3)
    np.testing.assert_allclose(metric.entropy_gradient(W), slopes, atol=1e-8)


def orthonormal_coordinates(metric, W, vectors):
    """Coordinates of vectors in a basis that is orthonormal for g, the inverse of the cometric."""
    values, axes = np.linalg.eigh(np.linalg.inv(dense(metric, W)))
    return vectors.reshape(len(vectors), -1) @ (axes * np.sqrt(values))


@pytest.mark.parametrize(
    ("name", "m", "n"),
    [case for case in CASES if case[1:] in ((3, 3), (2, 4)) and case[0] != "own"] + [("own", 2, 2)],
)
def test_random_tangents_are_isotropic_in_the_metric(name, m, n):
    metric, W, rng = METRICS[name](m, n), point_of(np.random.default_rng(3), m, n), 11
    count = 500 if name == "own" else 4000
    # One stack is as many independent draws, but of one's own metric a stack is a loop.
    stack = np.broadcast_to(W, (count, m, n))
    draws = metric.random_tangent(np.array(stack), rng)
    coordinates = orthonormal_coordinates(metric, W, draws)
    covariance = coordinates.T @ coordinates / count
    # The entries of a sample covariance have a standard deviation of at most sqrt(2 / count), and
    # 5 of them are exceeded by one of 36 entries with a probability of 2e-5.
    np.testing.assert_allclose(covariance, np.eye(m * n), atol=5 * np.sqrt(2 / count))


def test_random_tangents_of_manifolds_have_equal_shares():
    metric, W = DeepLinearMetric(3), np.diag([2.0, 0.2])
    manifold = FullRank(2, 2, metric, rng=5)
    vectors = np.array([manifold.random_tangent_vector(W) for _ in range(4000)])
    shares = np.mean(orthonormal_coordinates(metric, W, vectors) ** 2, axis=0)
    # Of a uniform direction in four dimensions a share has the standard deviation 0.22 / 63.
    np.testing.assert_allclose(shares, np.full(4, 1 / 4), atol=5 * 0.22 / 63)


def test_random_tangents_have_a_seed_and_refuse_what_is_none(rng):
    at = DeepLinearMetric(3).at(point_of(rng, 2, 3))
    np.testing.assert_array_equal(at.random_tangent(4), at.random_tangent(4))
    assert np.abs(at.random_tangent(4) - at.random_tangent(5)).max() > 0.1
    one = np.random.default_rng(4)
    np.testing.assert_array_equal(at.random_tangent(4), at.random_tangent(one))
    assert np.abs(at.random_tangent(one) - at.random_tangent(4)).max() > 0.1
    for bad in (-1, 1.5, "seed"):
        with pytest.raises((ValueError, TypeError), match="^rng must be"):
            at.random_tangent(bad)


class SharpAlone(Metric):
    """The same cometric as another metric's, by autograd's decompositions."""

    def __init__(self, depth):
        self.depth = depth

    def sharp(self, W, P):
        values, vectors = anp.linalg.eigh(anp.dot(W, W.T))
        root = anp.dot(vectors * values ** (1 / self.depth), vectors.T)
        inverse = anp.dot(vectors * values ** (1 / self.depth - 1), vectors.T)

        def right(power):  # (W^T W)^{power / N} = W^T (W W^T)^{power / N - 1} W
            if power == 0:
                return np.eye(W.shape[1])
            between = inverse
            for _ in range(power - 1):
                between = anp.dot(between, root)
            return anp.dot(anp.dot(W.T, between), W)

        total, left = 0.0 * P, np.eye(W.shape[0])
        for k in range(self.depth, 0, -1):
            total = total + anp.dot(anp.dot(left, P), right(k - 1))
            left = anp.dot(left, root)
        return total


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize(("m", "n"), [(3, 3), (2, 4), (1, 3)])
def test_sharp_alone_gives_all_that_the_closed_forms_give(rng, m, n, depth):
    W, X, Y, P, Q = point_of(rng, m, n), *rng.standard_normal((4, m, n))
    generic, closed = SharpAlone(depth).at(W), DeepLinearMetric(depth).at(W)
    for name, vectors in {
        "sharp": (P,),
        "flat": (X,),
        "root": (P,),
        "inner": (X, Y),
        "pair": (P, X),
        "sharp_derivative": (X, P),
        "sharp_derivative_adjoint": (P, Q),
        "christoffel": (X, Y),
        "hessian": (X, P, Q),
        "log_volume": (),
        "log_volume_gradient": (),
        "coordinate_laplacian": (),
    }.items():
        expected = getattr(closed, name)(*vectors)
        actual = getattr(generic, name)(*vectors)
        np.testing.assert_allclose(actual, expected, rtol=1e-8, atol=1e-8, err_msg=name)
    np.testing.assert_allclose(
        generic.random_tangent(3),
        closed.root(generic.gaussian(np.random.default_rng(3))),
        atol=1e-8,
    )


@every_metric
def test_christoffel_and_hessian_are_built_from_the_definitions(rng, name, m, n):
    """Both equations (8), with A, DA, Xi and the inverse as dense arrays of differences of A."""
    metric, W = METRICS[name](m, n), point_of(rng, m, n)
    X, Y, P, H = (v.ravel() for v in rng.standard_normal((4, m, n)))
    A, DA = dense(metric, W), derivative(lambda V: dense(metric, V), W)
    x, y = np.linalg.solve(A, X), np.linalg.solve(A, Y)

    def along(Z, p):
        return np.einsum("cab,c,b->a", DA, Z, p)

    def adjoint(p, q):
        return np.einsum("cab,a,b->c", DA, p, q)

    at = metric.at(W)
    back = [v.reshape(m, n) for v in (X, Y, P, H)]
    gamma = 0.5 * (A @ adjoint(x, y) - along(X, y) - along(Y, x))
    scale = max(np.abs(gamma).max(), 1.0)
    np.testing.assert_allclose(at.christoffel(*back[:2]).ravel(), gamma, atol=1e-7 * scale)
    hessian = A @ H + 0.5 * (along(X, P) - along(A @ P, x) + A @ adjoint(x, P))
    scale = max(np.abs(hessian).max(), 1.0)
    actual = at.hessian(back[2], back[3], back[0])
    np.testing.assert_allclose(actual.ravel(), hessian, atol=1e-7 * scale)


ASKED = {
    "flat": ("Z",),
    "root": ("Z",),
    "inner": ("X", "Y"),
    "sharp_derivative": ("X", "p"),
    "sharp_derivative_adjoint": ("p", "q"),
    "christoffel": ("X", "Y"),
    "log_volume": (),
    "log_volume_gradient": (),
    "coordinate_laplacian": (),
}


@pytest.mark.parametrize("stack", [(), (2,), (2, 3)])
@pytest.mark.parametrize("name", ASKED)
def test_a_metrics_own_method_is_asked_and_may_call_super(rng, name, stack):
    def tripled(self, *arguments):
        return 3 * getattr(super(Overriding, self), name)(*arguments)

    Overriding = type("Overriding", (Own,), {name: tripled})
    W = point_of(rng, 2, 3) + 0.1 * rng.standard_normal((*stack, 2, 3))
    vectors = rng.standard_normal((len(ASKED[name]), *stack, 2, 3))
    expected = 3 * getattr(Own().at(W), name)(*vectors)
    np.testing.assert_allclose(getattr(Overriding(), name)(W, *vectors), expected, rtol=1e-9)
    np.testing.assert_allclose(getattr(Overriding().at(W), name)(*vectors), expected, rtol=1e-9)


def test_what_follows_from_a_method_follows_from_a_metrics_own(rng):
    class OwnFlat(Own):
        def flat(self, W, Z):
            return 2.0 * Z

    W, X, Y = point_of(rng, 2, 3), *rng.standard_normal((2, 2, 3))
    at = OwnFlat().at(W)
    assert at.inner(X, Y) == pytest.approx(2 * np.sum(X * Y))
    assert OwnFlat().inner(W, X, Y) == pytest.approx(2 * np.sum(X * Y))
    assert FullRank(2, 3, OwnFlat()).norm(W, X) == pytest.approx(2**0.5 * np.linalg.norm(X))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("depth 1", 50),
        ("depth 2.5", 1000),
        ("depth inf", 50),
        ("asymmetric", 50),
        ("kronecker", 50),
    ],
)
def test_a_stack_is_a_loop(rng, name, count):
    m, n = (3, 3) if name == "depth inf" else (2, 3)
    metric = METRICS[name](m, n)
    # Singular values that nearly meet lose digits, in a stack as in a loop.
    spectra = np.sort(rng.uniform(0.5, 2.0, (count, min(m, n)))) + 0.1 * np.arange(min(m, n))
    W = np.array([random_matrix(rng, m, n, s[::-1]) for s in spectra])
    at = metric.at(W)
    for method, names in {"sharp": ("P",), **ASKED}.items():
        vectors = rng.standard_normal((len(names), *W.shape))
        actual = getattr(at, method)(*vectors)
        some = slice(None, None, max(1, count // 50))
        expected = [
            getattr(metric.at(w), method)(*own)
            for w, *own in zip(W[some], *vectors[:, some], strict=True)
        ]
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            actual[some], expected, rtol=1e-9, atol=1e-12 * scale, err_msg=method
        )


def test_a_stack_of_ones_own_metric_is_a_loop(rng):
    W = rng.standard_normal((2, 3, 2, 2))
    for method, names in {"sharp": ("P",), "pair": ("p", "X"), **ASKED}.items():
        vectors = rng.standard_normal((len(names), *W.shape))
        actual = getattr(Own().at(W), method)(*vectors)
        for index in np.ndindex(2, 3):
            expected = getattr(Own().at(W[index]), method)(*(v[index] for v in vectors))
            np.testing.assert_allclose(actual[index], expected, rtol=1e-12, err_msg=method)
    X, P, H = rng.standard_normal((3, *W.shape))
    hessian = Own().at(W).hessian(P, H, X)[1, 2]
    expected = Own().at(W[1, 2]).hessian(P[1, 2], H[1, 2], X[1, 2])
    np.testing.assert_allclose(hessian, expected, rtol=1e-12)


@pytest.mark.parametrize("smallest", [1e-3, 1e-11, 0.0])
@pytest.mark.parametrize("name", ["depth 3", "depth inf", "asymmetric", "own"])
def test_an_answer_never_depends_on_what_was_asked_before(rng, name, smallest):
    m = n = 3
    W, others = random_matrix(rng, m, n, [1.0, 0.3, smallest]), rng.standard_normal((3, m, n))
    vectors = rng.standard_normal((2, m, n))
    metric, make = METRICS[name](m, n), METRICS[name]
    questions = {"sharp": ("P",), **ASKED}
    fresh = {
        method: getattr(make(m, n).at(W), method)(*vectors[: len(names)])
        for method, names in questions.items()
    }
    at = metric.at(W)
    for order in (list(questions), list(questions)[::-1]):
        for method in order:
            for other in others:
                metric.sharp(other, vectors[0])
            given = vectors[: len(questions[method])]
            np.testing.assert_array_equal(getattr(at, method)(*given), fresh[method])
            np.testing.assert_array_equal(getattr(metric, method)(W, *given), fresh[method])


@pytest.mark.parametrize("smallest", [1e-9, 1e-11, 0.0])
def test_inner_does_not_know_which_vectors_are_gradients(rng, smallest):
    metric, W = DeepLinearMetric(3), random_matrix(rng, 4, 4, [1.0, 0.5, 0.3, smallest])
    P, X = rng.standard_normal((2, 4, 4))
    Z = metric.sharp(W, P)
    for pair in ((Z, X), (X, Z), (Z, Z)):
        assert metric.inner(W, *pair) == DeepLinearMetric(3).inner(W, *pair)


def test_a_kernel_that_reads_changed_state_is_read_again():
    state = {"weight": 1.0}
    W, E = np.diag([2.0, 1.0]), np.ones((2, 2))
    for kernel in (
        lambda s, t: state["weight"] + s * t,
        DeepLinearMetric(1).kernel * 1e-9 + (lambda s, t: state["weight"] + s * t),
    ):
        metric = SpectralMetric(kernel)
        for weight in (1.0, 5.0, 1.0):
            state["weight"] = weight
            expected = weight + np.outer([2.0, 1.0], [2.0, 1.0])
            np.testing.assert_allclose(metric.sharp(W, E), expected, rtol=1e-8)
            np.testing.assert_allclose(metric.flat(W, E), 1 / expected, rtol=1e-8)
            np.testing.assert_allclose(metric.at(W).root(E), expected**0.5, rtol=1e-8)
            assert metric.log_volume(W) == pytest.approx(-np.sum(np.log(expected)) / 2, rel=1e-8)
    state["weight"] = 1.0


def test_points_of_a_stack_may_be_of_any_size():
    metric, W = SpectralMetric(lambda s, t: s + t), np.array([[[1e8]], [[1.0]]])
    one = np.ones((2, 1, 1))
    np.testing.assert_allclose(metric.sharp_derivative(W, one, one), 2 * one, rtol=1e-9)
    np.testing.assert_allclose(metric.sharp_derivative_adjoint(W, one, one), 2 * one, rtol=1e-9)
    np.testing.assert_allclose(metric.log_volume_gradient(W), -0.5 / W, rtol=1e-9)


@pytest.mark.parametrize("name", ["depth 1", "depth 2", "asymmetric", "kronecker", "own"])
def test_empty_stacks_have_empty_answers(name):
    metric, empty = METRICS[name](2, 3), np.ones((4, 0, 2, 3))
    for method, names in {"sharp": ("P",), "pair": ("p", "X"), **ASKED}.items():
        shape = (4, 0) if method in ("pair", "inner", "log_volume") else (4, 0, 2, 3)
        assert getattr(metric.at(empty), method)(*[empty] * len(names)).shape == shape
        if method in ASKED:
            assert getattr(metric, method)(empty, *[empty] * len(names)).shape == shape
    assert metric.random_tangent(empty, 0).shape == (4, 0, 2, 3)


@pytest.mark.parametrize("stack", [(), (2,)])
@pytest.mark.parametrize("name", ["depth 1", "depth 2.5", "asymmetric", "kronecker", "own"])
def test_single_precision_is_kept(rng, name, stack):
    metric = METRICS[name](2, 3)
    W, X, Y = rng.standard_normal((3, *stack, 2, 3)).astype(np.float32)
    at, exact = metric.at(W), metric.at(W.astype(np.float64))
    for method, names in {"sharp": ("P",), **ASKED}.items():
        answer = getattr(at, method)(*(X, Y)[: len(names)])
        expected = getattr(exact, method)(*(X, Y)[: len(names)])
        if np.shape(answer):
            assert answer.dtype == np.float32, method
        scale = np.abs(expected).max()
        np.testing.assert_allclose(answer, expected, atol=2e-3 * scale, err_msg=method)
    assert at.random_tangent(rng).dtype == np.float32


def matrix(point, vector):
    (u, _, vt), (Up, M, Vp) = point, vector
    return u @ M @ vt + Up @ vt + u @ Vp.T


def tangent_basis(manifold, point):
    """An orthonormal basis of the tangent space, for the trace form, as vectors."""
    m, n = manifold._shape
    projections = [
        matrix(point, manifold.projection(point, E)).ravel()
        for E in np.eye(m * n).reshape(-1, m, n)
    ]
    left, sizes, _ = np.linalg.svd(np.array(projections).T)
    assert np.allclose(sizes[: manifold.dim], 1)
    assert np.allclose(sizes[manifold.dim :], 0)
    return [manifold.projection(point, e.reshape(m, n)) for e in left.T[: manifold.dim]]


def sharp_by_definition(W, P, depth):
    return sharp_by_quadrature(W, P) if math.isinf(depth) else sharp_by_powers(W, P, depth)


FIXED = [(4, 3, 2, 3), (3, 4, 1, 2), (5, 3, 3, 2), (3, 3, 3, math.inf), (4, 4, 2, 1)]


@pytest.mark.parametrize(("m", "n", "k", "depth"), FIXED)
def test_fixed_rank_has_the_metric_of_the_dense_cometric(rng, m, n, k, depth):
    manifold = FixedRank(m, n, k, DeepLinearMetric(depth), rng=1)
    point = manifold.random_point()
    W, at, basis = point.u * point.s @ point.vt, manifold.at(point), tangent_basis(manifold, point)
    E = np.array([matrix(point, e).ravel() for e in basis])
    cometric = np.array(
        [E @ sharp_by_definition(W, e.reshape(m, n), depth).ravel() for e in E]
    )  # <e_i, A e_j>
    for ask, expected in (
        (at.sharp, cometric),
        (lambda v: at.root(at.root(v)), cometric),
        (at.flat, np.linalg.inv(cometric)),
    ):
        actual = np.array([E @ matrix(point, ask(e)).ravel() for e in basis])
        np.testing.assert_allclose(actual, expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())
    inner = np.array([[at.inner(e, f) for e in basis] for f in basis])
    np.testing.assert_allclose(inner, np.linalg.inv(cometric), rtol=1e-8, atol=1e-8)
    pairs = np.array([[at.pair(e, f) for e in basis] for f in basis])
    np.testing.assert_allclose(pairs, np.eye(len(basis)), atol=1e-12)
    expected = -np.linalg.slogdet(cometric)[1] / 2
    assert at.log_volume() == pytest.approx(expected, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize(("m", "n", "k", "depth"), FIXED)
def test_random_tangents_of_fixed_rank_are_isotropic(m, n, k, depth):
    manifold = FixedRank(m, n, k, DeepLinearMetric(depth), rng=2)
    point, rng, count = manifold.random_point(), np.random.default_rng(4), 4000
    at, basis = manifold.at(point), tangent_basis(manifold, point)
    E = np.array([matrix(point, e).ravel() for e in basis])
    W = point.u * point.s @ point.vt
    cometric = np.array([E @ sharp_by_definition(W, e.reshape(m, n), depth).ravel() for e in E])
    values, axes = np.linalg.eigh(np.linalg.inv(cometric))
    draws = np.array([E @ matrix(point, at.random_tangent(rng)).ravel() for _ in range(count)])
    coordinates = draws @ (axes * np.sqrt(values))
    covariance = coordinates.T @ coordinates / count
    # As above; of 100 entries one exceeds 5 standard deviations with a probability of 6e-5.
    np.testing.assert_allclose(covariance, np.eye(len(E)), atol=5 * np.sqrt(2 / count))


@pytest.mark.parametrize(("m", "n", "k"), [(4, 3, 2), (3, 4, 1), (3, 3, 3)])
@pytest.mark.parametrize("depth", [2, 3])
def test_christoffel_of_fixed_rank_is_that_of_the_definition(rng, m, n, k, depth):
    """Gamma = A(Xi(x, y)) / 2 - DA[X] y / 2 - DA[Y] x / 2 with dense arrays, on the tangent space.

    A is the cometric of all matrices. It varies along the matrices of rank k only, and what its
    derivatives lead out of the tangent space is the curvature of these in space, and no part.
    """
    manifold = FixedRank(m, n, k, DeepLinearMetric(depth), rng=3)
    u, _, vt = manifold.random_point()
    point = FixedRankPoint(u, np.linspace(1.6, 0.7, k), vt)
    W, at, basis = point.u * point.s @ point.vt, manifold.at(point), tangent_basis(manifold, point)
    X, Y = (manifold.random_tangent_vector(point) for _ in range(2))
    x, y = (matrix(point, at.flat(v)) for v in (X, Y))

    def sharp_along(Z, p, h=1e-3):
        def sharp(t):
            return sharp_by_powers(dense_of(manifold.retraction(point, t * Z)), p, depth)

        return (8 * (sharp(h) - sharp(-h)) - (sharp(2 * h) - sharp(-2 * h))) / (12 * h)

    along = sharp_along(X, y) + sharp_along(Y, x)
    pulled = sum(np.sum(x * sharp_along(e, y)) * matrix(point, e) for e in basis)
    ambient = (sharp_by_powers(W, pulled, depth) - along) / 2
    expected = matrix(point, manifold.projection(point, ambient))
    actual = matrix(point, at.christoffel(X, Y))
    np.testing.assert_allclose(actual, expected, atol=1e-6 * max(np.abs(expected).max(), 1))


def dense_of(point):
    return point[0] * point[1] @ point[2]


@pytest.mark.parametrize("drift", ["coordinate_laplacian", "ito_drift"])
def test_below_full_rank_there_is_no_drift_in_coordinates(drift):
    manifold = FixedRank(4, 4, 2, DeepLinearMetric(2), rng=0)
    with pytest.raises(ValueError, match="drifts of noise exist on matrices of full rank only"):
        getattr(manifold.at(manifold.random_point()), drift)()


def test_a_kernel_that_ignores_an_argument_has_a_volume_too():
    class Ignoring(Kernel):
        def __call__(self, s, t):
            return s**2 + 1

        def divided_difference(self, a, b, t):
            return 1.0

    V = np.array([[1.0, 2.0, 0.3], [0.5, -1.0, 2.0]])
    metric = SpectralMetric(Ignoring())  # P + W W^T P, whose Laplacian is linear in W
    dense = np.kron(np.eye(2) + V @ V.T, np.eye(3))
    assert metric.log_volume(V) == pytest.approx(-np.linalg.slogdet(dense)[1] / 2, rel=1e-12)
    inverse = np.linalg.inv(np.eye(2) + V @ V.T)
    # ln sqrt(det g) is -(n / 2) ln det(I + W W^T), and div A is (m + 1) W.
    gradient = -3 * inverse @ V
    np.testing.assert_allclose(metric.log_volume_gradient(V), gradient, atol=1e-12)
    laplacian = 3 * V + (np.eye(2) + V @ V.T) @ gradient
    np.testing.assert_allclose(metric.coordinate_laplacian(V), laplacian, atol=1e-12)


def test_kernels_give_real_numbers():
    with pytest.raises(TypeError, match="^a kernel must give real numbers"):
        SpectralMetric(lambda s, t: 1j * (s + t)).sharp(np.eye(2), np.eye(2))
    with pytest.raises(ValueError, match="takes values from nan to nan"):
        SpectralMetric(lambda s, t: None).sharp(np.eye(2), np.eye(2))
    whole = SpectralMetric(lambda s, t: np.where(s > 1.5, 2, 1) + 0 * (t > 0).astype(int))
    W = np.diag([2.0, 1.0])
    np.testing.assert_allclose(whole.flat(W, np.eye(2)), np.diag([0.5, 1.0]))


def test_spectral_metrics_are_not_overridden():
    with pytest.raises(TypeError, match="^Doubled must not define flat, sharp: of a spectral"):

        class Doubled(DeepLinearMetric):
            def sharp(self, W, P):
                return 2 * super().sharp(W, P)

            def flat(self, W, Z):
                return super().flat(W, Z) / 2


@pytest.mark.parametrize("rank", [0, -1, 1.5, 3])
def test_ranks_are_checked(rank):
    with pytest.raises(ValueError, match="^rank must be"):
        DeepLinearMetric(2).at(np.eye(2, 3), rank=rank)
    for metric in (KroneckerMetric(np.eye(2), np.eye(3)), Own()):
        with pytest.raises(ValueError, match="^rank must be None"):
            metric.at(np.eye(2, 3), rank=1)


def test_blocks_add_as_their_matrices_do(rng):
    frame = singular_frame(rng.standard_normal((5, 4))).at_rank(2)
    P, Q = rng.standard_normal((2, 5, 4))
    total, expected = frame.split(P) - 2.0 * frame.split(Q) / 3.0, frame.split(P - 2 * Q / 3)
    for block in ("Up", "M", "Vp", "rest"):
        np.testing.assert_allclose(getattr(total, block), getattr(expected, block), atol=1e-13)


def test_a_rank_is_that_of_the_nearest_matrix():
    at = DeepLinearMetric(2).at([[2.0, 0.0], [0.0, 1e-3]], rank=1)
    np.testing.assert_allclose(at.sharp(np.ones((2, 2))), [[4.0, 2.0], [2.0, 0.0]])


@pytest.mark.parametrize("depth", [3, math.inf])
def test_volumes_that_underflow_say_so(depth):
    metric, W = DeepLinearMetric(depth), np.diag([1.0, 1e-250])
    for method in (metric.log_volume, metric.log_volume_gradient, metric.coordinate_laplacian):
        with pytest.raises(ValueError, match="volume needs more than the range of float64: scale"):
            method(W)
    with pytest.raises(ValueError, match="scale W"):
        DeepLinearMetric(2).coordinate_laplacian(np.diag([1.0, 1e-150]))
    W = np.diag([1.0, 1e-140])
    expected = -(1e140 + 2 / (1 + 1e-140)) / 2
    assert DeepLinearMetric(2).log_volume_gradient(W)[1, 1] == pytest.approx(expected, rel=1e-12)
    assert DeepLinearMetric(2).coordinate_laplacian(W)[1, 1] == pytest.approx(1.0, rel=1e-9)


def test_kronecker_factors_may_be_large_or_small():
    identity = np.eye(3)
    for size in (1e-200, 1e200):
        metric = KroneckerMetric(size * identity, size * identity)
        expected = -9 * np.log(size)
        assert metric.log_volume(identity) == pytest.approx(expected, rel=1e-12)
    P = 1e-300 * identity
    np.testing.assert_allclose(metric.sharp(identity, P), 1e100 * identity, rtol=1e-12)


def test_inner_sees_changes_in_place():
    at, X, Y = DeepLinearMetric(2).at(np.diag([1.0, 2.0])), np.eye(2), np.ones((2, 2))
    before = at.inner(X, Y)
    X *= 3
    assert at.inner(X, Y) == pytest.approx(3 * before)
    assert at.inner(X, X) == pytest.approx(9 * (1 / 2 + 1 / 4))


def test_vectors_of_ones_own_metric_are_checked():
    W, P = np.eye(2), np.ones((2, 2))
    for bad in (np.ma.masked_array(P, mask=np.eye(2)), 1j * P, np.nan * P):
        with pytest.raises((TypeError, ValueError)):
            Own().inner(W, P, bad)
    assert Own().inner(W.tolist(), P.tolist(), P.tolist()) == Own().inner(W, P, P)
    with pytest.raises(ValueError, match="^Z must have the shape of W"):
        Own().flat(np.stack([W, W]), np.ones((1, 2)))


@pytest.mark.parametrize("stack", [(), (2,)])
@pytest.mark.parametrize("name", METRICS)
def test_what_is_wrong_with_a_vector_is_said_under_its_name(rng, name, stack):
    W, good = rng.standard_normal((2, *stack, 3, 3))
    at = METRICS[name](3, 3).at(W)
    for method, names in (
        ("inner", ("X", "Y")),
        ("christoffel", ("X", "Y")),
        ("hessian", ("euclidean_gradient", "euclidean_hessian", "tangent_vector")),
    ):
        for j, vector in enumerate(names):
            for bad, message in ((np.nan * good, "be finite"), (np.ones((3, 2)), "have .*shape")):
                vectors = [good] * len(names)
                vectors[j] = bad
                with pytest.raises(ValueError, match=f"^{vector} must {message}"):
                    getattr(at, method)(*vectors)


@pytest.mark.parametrize(("m", "n"), [(4, 4), (3, 5), (5, 3)])
@pytest.mark.parametrize("values", [[1.0, 1.0003, 0.0], [2.0, 0.5, 0.5], [0.0, 0.0, 0.7]])
def test_derivatives_of_a_polynomial_cometric_at_every_rank(rng, m, n, values):
    # A(P) = P + (W W^T)^3 P + P (W^T W)^3, which no direction freezes.
    def difference(a, b, t):
        return a**4 + a**2 * b**2 + b**4 + 0.0 * t

    kernel = FunctionKernel(lambda s, t: 1 + s**6 + t**6, difference, symmetric=True)
    metric, s = SpectralMetric(kernel), np.array([*values, 0.9][: min(m, n)])
    X, P, Q = rng.standard_normal((3, m, n))

    def power_derivative(S, dS):
        return dS @ S @ S + S @ dS @ S + S @ S @ dS

    # Of a diagonal matrix the singular values that are zero come out as zero, not as rounding.
    for W in (random_matrix(rng, m, n, s), np.eye(m, len(s)) * s @ np.eye(len(s), n)):
        along = power_derivative(W @ W.T, X @ W.T + W @ X.T) @ P
        along = along + P @ power_derivative(W.T @ W, X.T @ W + W.T @ X)
        np.testing.assert_allclose(metric.sharp_derivative(W, X, P), along, atol=1e-10)
        left = power_derivative(W @ W.T, P @ Q.T + Q @ P.T) @ W
        right = W @ power_derivative(W.T @ W, P.T @ Q + Q.T @ P)
        adjoint = metric.sharp_derivative_adjoint(W, P, Q)
        np.testing.assert_allclose(adjoint, left + right, atol=1e-10)
