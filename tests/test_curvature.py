import math

import autograd.numpy as anp
import mpmath
import numpy as np
import pytest

from riemdln import DeepLinearMetric, KroneckerMetric, Metric, SpectralMetric
from riemdln.geodesics import (
    curvature,
    geodesic,
    ricci_curvature,
    scalar_curvature,
    sectional_curvature,
)
from riemdln.kernels import FunctionKernel
from tests.conftest import random_matrix

ALL = [
    pytest.param(m, n, depth, id=f"{m}x{n}-{depth}")
    for m, n in [(2, 2), (3, 3), (3, 4), (4, 3)]
    for depth in [1.5, 2, 3, math.inf]
    if m == n or not math.isinf(depth)
]


class Own(Metric):
    """The spectral metric theta(s, t) = s^2 + t^2 + 1, of which only sharp is known."""

    def sharp(self, W, P):
        return W @ W.T @ P + P @ W.T @ W + P


class Conformal(Metric):
    """A(P) = c(W) P: the metric |dW|^2 / c of a plane, which is one row of two."""

    def __init__(self, c):
        self.c = c

    def sharp(self, W, P):
        return self.c(W[0, 0], W[0, 1]) * P


def frame_cometric(W, depth):
    """The dense cometric of equation (3) in mpmath, for square W with distinct singular values."""
    (a, U), (b, V) = mpmath.eigsy(W * W.T), mpmath.eigsy(W.T * W)
    d = W.rows

    def theta(x, y):
        if abs(x - y) < mpmath.mpf(10) ** -20 * x:
            return x if math.isinf(depth) else depth * x ** (1 - 1 / mpmath.mpf(depth))
        if math.isinf(depth):
            return (x - y) / mpmath.log(x / y)
        return (x - y) / (x ** (1 / mpmath.mpf(depth)) - y ** (1 / mpmath.mpf(depth)))

    A = mpmath.zeros(d * d)
    for i in range(d):
        for j in range(d):
            column = mpmath.matrix([U[k, i] * V[l, j] for k in range(d) for l in range(d)])
            A += theta(a[i], b[j]) * (column * column.T)
    return A


def sectional_by_definition(W, X, Y, depth):
    """K(X, Y) from the dense metric tensor, by its differences in 60 digits.

    The numerator is, with Christoffel symbols of the first kind,
    -(D_XX g_YY - 2 D_XY g_XY + D_YY g_XX) / 2 + |Gamma_XY|^2 - <Gamma_XX, Gamma_YY>.
    """
    with mpmath.workdps(60):
        d, h = len(W), mpmath.mpf(10) ** -18
        W, X, Y = (mpmath.matrix(V.tolist()) for V in (W, X, Y))
        x, y = (mpmath.matrix([V[i, j] for i in range(d) for j in range(d)]) for V in (X, Y))

        def lowered(V):
            A = frame_cometric(V, depth)
            return mpmath.lu_solve(A, x), mpmath.lu_solve(A, y)

        def products(V):
            of_x, of_y = lowered(V)
            return mpmath.matrix([(x.T * of_x)[0], (x.T * of_y)[0], (y.T * of_y)[0]])

        def first(function, E):
            plus, minus = function(W + h * E), function(W - h * E)
            return [(p - q) / (2 * h) for p, q in zip(plus, minus, strict=True)]

        g = products(W)

        def second(E):
            return (products(W + h * E) - 2 * g + products(W - h * E)) / h**2

        along_x, along_y, mixed = second(X), second(Y), second(X + Y)
        bend = along_x[2] - (mixed - along_x - along_y)[1] + along_y[0]
        (xx, xy), (yx, yy) = first(lowered, X), first(lowered, Y)
        slopes = []
        for k in range(d * d):
            E = mpmath.zeros(d)
            E[k // d, k % d] = 1
            slopes.append(first(products, E))
        of_xx, of_xy, of_yy = (mpmath.matrix([row[k] for row in slopes]) / 2 for k in range(3))
        of_xx, of_xy, of_yy = xx - of_xx, (xy + yx) / 2 - of_xy, yy - of_yy
        A = frame_cometric(W, depth)
        square = (of_xy.T * A * of_xy)[0] - (of_xx.T * A * of_yy)[0]
        return float((square - bend / 2) / (g[0] * g[2] - g[1] ** 2))


def bures_wasserstein(S, X, Y):
    """The sectional curvature of Bures-Wasserstein at diag(S), by O'Neill's formula.

    S = B B^T of flat matrices B, so horizontal vectors are H B with H symmetric and
    H S + S H = X. Two of these fields have the bracket -[H_X, H_Y] B, of which the part
    along B times a skew matrix is vertical (Takatsu 2011).
    """
    total = S[:, None] + S
    H, G = X / total, Y / total

    def inner(H, G):
        return np.sum(H * G * S)

    rotation = 2 * np.sqrt(np.outer(S, S)) * (H @ G - G @ H) / total
    area = inner(H, H) * inner(G, G) - inner(H, G) ** 2
    return 0.75 * inner(rotation, rotation) / area


def polar_curvatures(s, t, depth):
    """The sectional curvatures at diag(s, t) of planes along polar coordinates, in 40 digits.

    In arc lengths rho of the singular values and angles of the singular vectors the metric of
    2 x 2 matrices is d rho^2 + f^2 d alpha^2 + h^2 d beta^2 with f = (s - t) / theta^{1/2} and
    h = (s + t) / theta^{1/2}: a plane along the unit vector u and an angle has the curvature
    -D^2f(u, u) / f, that of both angles -<grad f, grad h> / (f h).
    """
    with mpmath.workdps(40):
        if math.isinf(depth):
            rho = [mpmath.log(mpmath.mpf(v)) for v in (s, t)]

            def value(r):
                return mpmath.exp(r)
        else:
            N = mpmath.mpf(depth)
            rho = [mpmath.sqrt(N) * mpmath.mpf(v) ** (1 / N) for v in (s, t)]

            def value(r):
                return (r / mpmath.sqrt(N)) ** N

        def theta(p, q):
            a, b = value(p), value(q)
            roots = 2 * (p - q) if math.isinf(depth) else (p**2 - q**2) / N
            return (a**2 - b**2) / roots

        def f(p, q):
            return (value(p) - value(q)) / mpmath.sqrt(theta(p, q))

        def h(p, q):
            return (value(p) + value(q)) / mpmath.sqrt(theta(p, q))

        def of(g, *order):
            return mpmath.diff(g, tuple(rho), order, h=mpmath.mpf(10) ** -9 * rho[1])

        angles = -sum(of(f, *e) * of(h, *e) for e in ((1, 0), (0, 1))) / (f(*rho) * h(*rho))
        radial = [-of(g, *e) / g(*rho) for g in (f, h) for e in ((2, 0), (0, 2))]
        return [float(k) for k in (angles, *radial)]


ANTISYMMETRIC, SYMMETRIC = np.array([[0.0, 1.0], [-1.0, 0.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])
FIRST, LAST = np.diag([1.0, 0.0]), np.diag([0.0, 1.0])


@pytest.mark.parametrize("depth", [1.1, 1.5, 2, 3, 10, math.inf])
@pytest.mark.parametrize("ratio", [0.5, 1e-3, 1e-5])
def test_planes_of_two_by_two_matrices_in_polar_coordinates(ratio, depth):
    metric, W = DeepLinearMetric(depth), np.diag([1.0, ratio])
    X = np.array([SYMMETRIC, FIRST, LAST, FIRST, LAST])
    Y = np.array([ANTISYMMETRIC, *2 * [SYMMETRIC], *2 * [ANTISYMMETRIC]])
    expected = polar_curvatures(1.0, ratio, depth)
    scale = max(1.0, ratio ** (-2 / depth))  # of the terms that the sum is made of
    np.testing.assert_allclose(
        sectional_curvature(metric, W, X, Y), expected, rtol=1e-8, atol=1e-8 * scale
    )


@pytest.mark.parametrize("depth", [1.5, 2, 3])
@pytest.mark.parametrize("ratio", [0.3, 0.97, 1 - 1e-6, 1e-6])
def test_planes_have_the_curvature_of_the_dense_metric(rng, ratio, depth):
    W, metric = np.diag([1.0, ratio]), DeepLinearMetric(depth)
    X, Y = (metric.at(W).root(Z) for Z in rng.standard_normal((2, 2, 2)))
    expected = sectional_by_definition(W, X, Y, depth)
    lost = np.finfo(float).eps * ratio ** (2 / depth - 2)  # by the condition of the metric
    assert sectional_curvature(metric, W, X, Y) == pytest.approx(
        expected, rel=1e-8, abs=1e-9 + lost
    )


def test_planes_of_three_by_three_matrices_have_the_curvature_of_the_dense_metric(rng):
    W, (X, Y) = random_matrix(rng, 3, 3), rng.standard_normal((2, 3, 3))
    expected = sectional_by_definition(W, X, Y, math.inf)
    actual = sectional_curvature(DeepLinearMetric(math.inf), W, X, Y)
    assert actual == pytest.approx(expected, rel=1e-8)


def unit_vectors(rng, metric, W, count):
    at = metric.at(np.broadcast_to(W, (count, *W.shape)))
    vectors = at.root(rng.standard_normal((count, *W.shape)))
    return vectors / np.sqrt(at.inner(vectors, vectors))[:, None, None]


def assert_symmetries(rng, metric, W, tolerance=1e-8, count=6):
    X, Y, Z, V = (unit_vectors(rng, metric, W, count) for _ in range(4))
    at = metric.at(np.broadcast_to(W, X.shape))

    def R(X, Y, Z, V):
        return at.inner(curvature(metric, W, X, Y, Z), V)

    values = R(X, Y, Z, V)
    size = tolerance * np.abs(values).max()
    assert size > 1e-5 * tolerance
    np.testing.assert_allclose(R(Y, X, Z, V), -values, atol=size)
    np.testing.assert_allclose(R(X, Y, V, Z), -values, atol=size)
    np.testing.assert_allclose(R(Z, V, X, Y), values, atol=size)
    np.testing.assert_allclose(R(Y, Z, X, V) + R(Z, X, Y, V), -values, atol=size)


@pytest.mark.parametrize(("m", "n", "depth"), ALL)
def test_the_tensor_has_its_symmetries(rng, m, n, depth):
    assert_symmetries(rng, DeepLinearMetric(depth), random_matrix(rng, m, n))


@pytest.mark.parametrize("depth", [1.5, 2, 3])
@pytest.mark.parametrize(
    "s", [(1.0, 1e-6), (1.0, 1e-3, 1e-6), (1.0, 1.0, 1.0), (2.0, 1.0, 0.999999)]
)
def test_the_tensor_has_its_symmetries_at_every_spectrum(rng, s, depth):
    # At depth 3 and 1e-6 the condition of the metric, 1e8, costs more.
    tolerance = 1e-7 if depth == 3 and s[-1] == 1e-6 else 1e-8
    assert_symmetries(rng, DeepLinearMetric(depth), np.diag(s), tolerance)


def test_the_tensor_of_ones_own_metric_has_its_symmetries(rng):
    assert_symmetries(rng, Own(), rng.standard_normal((2, 2)), count=2)


@pytest.mark.parametrize("depth", [1.5, 2, 3, 10])
@pytest.mark.parametrize("shape", [(1, 4), (4, 1)])
def test_one_row_or_column_is_flat_through_the_vector_and_round_across(rng, shape, depth):
    w, X, Y = rng.standard_normal((3, *shape))
    X, Y = (V - np.sum(V * w) / np.sum(w * w) * w for V in (X, Y))
    metric, size = DeepLinearMetric(depth), np.linalg.norm(w)
    across = sectional_curvature(metric, w, X, Y)
    assert across == pytest.approx((depth - 1) / (depth * size ** (2 / depth)), rel=1e-11)
    assert sectional_curvature(metric, w, w + X, X) == pytest.approx(0, abs=1e-12)


def test_depth_two_is_half_of_bures_wasserstein(rng):
    S = np.array([3.0, 1.0, 0.2])
    Q = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    X, Y = rng.standard_normal((2, 20, 3, 3))
    X, Y = X + X.mT, Y + Y.mT
    expected = [bures_wasserstein(S, x, y) for x, y in zip(X, Y, strict=True)]
    actual = sectional_curvature(DeepLinearMetric(2), Q * S @ Q.T, Q @ X @ Q.T, Q @ Y @ Q.T)
    np.testing.assert_allclose(2 * actual, expected, rtol=1e-8)


@pytest.mark.parametrize("depth", [1.5, 2, 3, math.inf])
def test_planes_of_two_by_two_matrices_have_both_signs(rng, depth):
    """At equal singular values s from -(N^2 - 1) / (6 N) to three times its size, over s^{2/N}."""
    metric, W = DeepLinearMetric(depth), 2 * np.eye(2)
    unit = 1 / 6 if math.isinf(depth) else (depth**2 - 1) / (6 * depth) * 2 ** (-2 / depth)
    planes = np.stack([[FIRST - LAST, SYMMETRIC], [SYMMETRIC, ANTISYMMETRIC]], axis=1)
    np.testing.assert_allclose(
        sectional_curvature(metric, W, *planes), [3 * unit, -unit], rtol=1e-10
    )
    every = sectional_curvature(metric, W, *rng.standard_normal((2, 500, 2, 2)))
    assert every.min() > -unit * (1 + 1e-9)
    assert every.max() < 3 * unit * (1 + 1e-9)


@pytest.mark.parametrize("ratio", [0.9, 0.3, 1e-4])
def test_the_scalar_curvature_of_two_by_two_matrices(ratio):
    W, log_ratio = np.diag([3.0, 3 * ratio]), math.log(ratio)
    at_two = 1 / (3 * (1 + ratio))
    at_infinity = 1 / log_ratio**2 - 1 / math.sinh(log_ratio) ** 2
    assert scalar_curvature(DeepLinearMetric(2), W) == pytest.approx(at_two, rel=1e-10)
    assert scalar_curvature(DeepLinearMetric(math.inf), W) == pytest.approx(at_infinity, rel=1e-8)


@pytest.mark.parametrize(
    "metric",
    [
        DeepLinearMetric(1),
        SpectralMetric(3.0),
        KroneckerMetric(np.diag([1.0, 2.0, 3.0]), [[2.0, 1.0], [1.0, 2.0]]),
    ],
    ids=["euclidean", "multiple", "kronecker"],
)
def test_constant_metrics_are_flat(rng, metric):
    W, X, Y, Z = rng.standard_normal((4, 5, 3, 2))
    np.testing.assert_array_equal(curvature(metric, W, X, Y, Z), np.zeros((5, 3, 2)))
    np.testing.assert_array_equal(sectional_curvature(metric, W[0], X, Y), np.zeros(5))
    np.testing.assert_array_equal(ricci_curvature(metric, W, X, Y), np.zeros(5))
    np.testing.assert_array_equal(scalar_curvature(metric, W), np.zeros(5))


@pytest.mark.parametrize(
    ("c", "expected", "points"),
    [
        (lambda x, y: (1 + x**2 + y**2) ** 2 / 4, lambda x, y: 1.0, [(0.0, 0.0), (3.0, -1.0)]),
        (lambda x, y: y**2, lambda x, y: -1.0, [(2.0, 1.0), (0.0, 1e-3)]),
        (
            lambda x, y: anp.exp(x**2 + x * y**3),
            lambda x, y: np.exp(x**2 + x * y**3) * (1 + 3 * x * y),
            [(0.3, 0.8), (-1.0, 0.5)],
        ),
    ],
    ids=["sphere", "half-plane", "hills"],
)
def test_metrics_of_ones_own_have_their_gauss_curvature(c, expected, points):
    """Of |dw|^2 / c it is c / 2 times the Laplacian of ln c."""
    W = np.array(points)[:, None]
    X, Y = np.array([[1.0, 2.0]]), np.array([[0.5, -1.0]])
    gauss = [expected(x, y) for x, y in points]
    np.testing.assert_allclose(sectional_curvature(Conformal(c), W, X, Y), gauss, rtol=1e-8)
    scalar = scalar_curvature(Conformal(c), W[0])
    assert scalar == pytest.approx(2 * gauss[0], rel=1e-8)


@pytest.mark.parametrize(
    ("kernel", "sharp"),
    [
        (lambda s, t: s**2 + t**2 + 1, Own.sharp),
        (
            lambda s, t: 1 + s**2 * (2 + t**2),  # not symmetric
            lambda self, W, P: P + W @ W.T @ (2 * P + P @ W.T @ W),
        ),
    ],
    ids=["symmetric", "one-sided"],
)
@pytest.mark.parametrize("shape", [(2, 2), (2, 3), (3, 1)])
def test_kernels_of_ones_own_have_the_curvature_of_their_sharp(rng, kernel, sharp, shape):
    W, X, Y, Z = rng.standard_normal((4, *shape))
    by_differences = curvature(type("Matrices", (Metric,), {"sharp": sharp})(), W, X, Y, Z)
    actual = curvature(SpectralMetric(kernel), W, X, Y, Z)
    np.testing.assert_allclose(actual, by_differences, atol=1e-8 * np.abs(by_differences).max())


@pytest.mark.parametrize("distance", [0.0, 1e-9, 1e-6, 1e-3, 0.05, 0.2])
def test_kernels_of_ones_own_near_equal_singular_values(rng, distance):
    """Of a kernel that is known by its values alone some nine digits are left."""
    W, (X, Y) = np.diag([1.0, 1 - distance]), rng.standard_normal((2, 2, 2))
    metric = SpectralMetric(FunctionKernel(lambda s, t: s + t, symmetric=True))
    expected = sectional_curvature(DeepLinearMetric(2), W, X, Y)
    assert sectional_curvature(metric, W, X, Y) == pytest.approx(expected, rel=1e-7, abs=1e-8)


class ByDifferences(Metric):
    """Depth three without its closed form, which counts the calls of christoffel."""

    calls = 0

    def at(self, W, *, rank=None):
        at = DeepLinearMetric(3).at(W)
        christoffel = at.christoffel

        def counted(X, Y):
            self.calls += 1
            return christoffel(X, Y)

        at.known_curvature, at.christoffel = lambda *vectors: None, counted
        return at

    def sharp(self, W, P):
        return self.at(W).sharp(P)


def test_many_planes_take_few_calls(rng):
    W, (X, Y) = random_matrix(rng, 3, 3, [2.0, 1.0, 0.5]), rng.standard_normal((2, 1000, 3, 3))
    metric = ByDifferences()
    by_differences = sectional_curvature(metric, W, X, Y)
    assert metric.calls <= 30
    actual = sectional_curvature(DeepLinearMetric(3), W, X, Y)
    np.testing.assert_allclose(actual, by_differences, atol=1e-9 * np.abs(actual).max())


@pytest.mark.parametrize("metric", [DeepLinearMetric(2), ByDifferences()], ids=["known", "not"])
def test_ricci_and_scalar_curvature_are_sums_over_an_orthonormal_basis(rng, metric):
    W = rng.standard_normal((2, 1, 2) if isinstance(metric, Own) else (2, 2, 3))
    d = W[0].size
    e = np.array([metric.at(V).root(E) for V in W for E in np.eye(d).reshape(d, *W[0].shape)])
    e = e.reshape(2, d, *W[0].shape)
    planes = np.zeros((2, d, d))
    for i, j in zip(*np.triu_indices(d, 1), strict=True):
        planes[:, i, j] = planes[:, j, i] = sectional_curvature(metric, W, e[:, i], e[:, j])
    ricci = ricci_curvature(metric, W[:, None], e, e)
    tolerance = 1e-8 * np.abs(planes).max()
    np.testing.assert_allclose(ricci, planes.sum(axis=2), atol=tolerance)
    np.testing.assert_allclose(scalar_curvature(metric, W), ricci.sum(axis=1), atol=d * tolerance)
    mixed = ricci_curvature(metric, W, e[:, 0], e[:, 1])
    np.testing.assert_allclose(ricci_curvature(metric, W, e[:, 1], e[:, 0]), mixed, atol=tolerance)


def test_isometries_carry_the_curvature(rng):
    """A row space in many columns is turned into the first ones."""
    m, n, metric = 2, 9, DeepLinearMetric(2.5)
    short = rng.standard_normal((4, m, 5))
    long = np.concatenate([short, np.zeros((4, m, n - 5))], axis=-1)
    P, Q = (np.linalg.qr(rng.standard_normal((k, k)))[0] for k in (m, n))
    expected = np.concatenate([curvature(metric, *short), np.zeros((m, n - 5))], axis=-1)
    actual = curvature(metric, *(P @ long @ Q))
    np.testing.assert_allclose(actual, P @ expected @ Q, atol=1e-11 * np.abs(expected).max())
    np.testing.assert_allclose(
        curvature(metric, *(P @ long @ Q).mT), actual.T, atol=1e-11 * np.abs(expected).max()
    )


def test_a_stack_may_be_empty():
    empty = np.empty((0, 2, 3))
    assert curvature(DeepLinearMetric(2), *[empty] * 4).shape == (0, 2, 3)
    assert scalar_curvature(DeepLinearMetric(2), empty).shape == (0,)


@pytest.mark.parametrize("metric", [DeepLinearMetric(3), ByDifferences()], ids=["known", "not"])
def test_stacks_broadcast(rng, metric):
    W, X = rng.standard_normal((2, 2, 1, 2, 2))
    Y, Z = rng.standard_normal((2, 3, 2, 2))
    together = curvature(metric, W, X, Y, Z)
    planes = sectional_curvature(metric, W, X, Y)
    assert (together.shape, planes.shape) == ((2, 3, 2, 2), (2, 3))
    for i, j in ((0, 2), (1, 0)):
        point = W[i, 0], X[i, 0], Y[j]
        alone = curvature(metric, *point, Z[j])
        np.testing.assert_allclose(together[i, j], alone, atol=1e-9 * np.abs(alone).max())
        plane = sectional_curvature(metric, *point)
        assert np.ndim(plane) == 0
        assert planes[i, j] == pytest.approx(plane, rel=1e-8)


@pytest.mark.parametrize("library", ["numpy", "torch", "jax.numpy"])
def test_arrays_stay_what_they_are(rng, library):
    asarray = pytest.importorskip(library, reason=f"{library} is optional").asarray
    given = rng.standard_normal((4, 3, 2, 2)).astype(np.float32)
    metric = DeepLinearMetric(2)
    W, X, Y, Z = map(asarray, given)
    exact = given.astype(float)
    for actual, expected in (
        (curvature(metric, W, X, Y, Z), curvature(metric, *exact)),
        (sectional_curvature(metric, W, X, Y), sectional_curvature(metric, *exact[:3])),
        (ricci_curvature(metric, W, X, Y), ricci_curvature(metric, *exact[:3])),
        (scalar_curvature(metric, W), scalar_curvature(metric, exact[0])),
    ):
        assert type(actual) is type(W)
        assert actual.dtype == W.dtype
        np.testing.assert_allclose(np.asarray(actual), expected, rtol=1e-5, atol=1e-6)


def test_scaling_the_matrices_scales_the_curvature(rng):
    """By the power -2/N, as the metric of depth N scales by 2/N."""
    W, X, Y = rng.standard_normal((3, 2, 2))
    metric = DeepLinearMetric(4)
    expected = sectional_curvature(metric, W, X, Y)
    for scale in (1e-40, 1e40):
        actual = sectional_curvature(metric, scale * W, X, Y)
        assert actual * scale**0.5 == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("metric", [DeepLinearMetric(2), Own()], ids=["spectral", "own"])
def test_refuses_vectors_that_span_no_plane(rng, metric):
    W, X, Y = rng.standard_normal((3, 2, 2))
    for parallel in (0.0 * X, -2 * X, X + 1e-12 * Y):
        for pair in ((X, parallel), (parallel, X)):
            with pytest.raises(ValueError, match="X and Y must span a plane"):
                sectional_curvature(metric, W, *pair)
    with pytest.raises(ValueError, match="X and Y must span a plane.* in 1 of 3 pairs"):
        sectional_curvature(metric, W, np.stack([Y, Y, X]), X)
    one = np.ones((1, 1))
    with pytest.raises(ValueError, match="X and Y must span a plane"):
        sectional_curvature(metric, one, one, one)
    assert curvature(metric, one, one, one, one) == pytest.approx(0, abs=1e-12)
    assert scalar_curvature(metric, one) == pytest.approx(0, abs=1e-12)


def test_refuses_points_without_a_curvature(rng):
    X, Y, Z = rng.standard_normal((3, 2, 2))
    stack = np.stack([np.eye(2), np.ones((2, 2))])
    for W in (np.ones((2, 2)), np.zeros((2, 2)), stack, np.ones((2, 2), dtype=np.float32) / 3):
        with pytest.raises(ValueError, match="W must have full rank"):
            curvature(DeepLinearMetric(2), W, X, Y, Z)
    with pytest.raises(ValueError, match="less than four digits"):
        curvature(DeepLinearMetric(math.inf), np.diag([1.0, 1e-7]), X, Y, Z)
    with pytest.raises(ValueError, match="fourth powers"):
        curvature(DeepLinearMetric(2), 1e100 * np.eye(2), X, Y, Z)
    with pytest.raises(ValueError, match="square matrices only"):
        scalar_curvature(DeepLinearMetric(math.inf), np.eye(2, 3))
    kernel = FunctionKernel(lambda s, t: s + t, lambda a, b, t: abs(t - a) ** 0.5 / (b - t))
    with pytest.raises(ValueError, match="finite"):
        curvature(SpectralMetric(kernel), np.eye(2), X, Y, Z)


def test_refuses_metrics_whose_differences_do_not_agree():
    """A kink at x = 1 has a curvature that is no number."""
    metric = Conformal(lambda x, y: 1 + anp.abs(x - 1) ** 1.5)
    W = np.array([[1.0, 0.5]])
    with pytest.raises(ValueError, match="cannot be trusted"):
        sectional_curvature(metric, W, np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))


def test_refuses_bad_arguments(rng):
    W, X, Y, Z = rng.standard_normal((4, 2, 2))
    metric = DeepLinearMetric(2)
    with pytest.raises(ValueError, match="Y must have the shape of W"):
        curvature(metric, W, X, Y[:1], Z)
    with pytest.raises(ValueError, match="Z must be finite"):
        curvature(metric, W, X, Y, Z * np.nan)
    with pytest.raises(ValueError, match=r"X and Y must be stacks .*X of \(2, 2, 2\)"):
        sectional_curvature(metric, W, np.stack([X, Z]), np.stack([X, Y, Z]))
    with pytest.raises(TypeError, match="X must be an array of real numbers"):
        ricci_curvature(metric, W, "a", Y)


def test_geodesics_part_as_the_curvature_says(rng):
    """By |J(t)| = t - K t^3 / 6 + ..., J = d / de at 0 of the geodesics with velocity X + e Y."""
    metric, W = DeepLinearMetric(3), random_matrix(rng, 2, 2, [1.5, 0.8])
    X, Y = unit_vectors(rng, metric, W, 2)
    Y = Y - metric.inner(W, X, Y) * X
    Y = Y / metric.inner(W, Y, Y) ** 0.5
    e, times = 1e-3, np.array([0.0, 0.05, 0.1])
    ends = [geodesic(metric, W, X + k * e * Y, times, rtol=1e-13).points for k in (-2, -1, 1, 2)]
    fields = (8 * (ends[2] - ends[1]) - (ends[3] - ends[0])) / (12 * e)
    at = geodesic(metric, W, X, times).points
    lengths = np.sqrt(metric.inner(at[1:], fields[1:], fields[1:]))
    found = 6 * (1 - lengths / times[1:]) / times[1:] ** 2
    limit = (2 * found[0] - found[1]) + 0.0  # the next term is of the first order in t
    assert limit == pytest.approx(sectional_curvature(metric, W, X, Y), abs=5e-3)
