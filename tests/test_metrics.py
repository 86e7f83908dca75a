import copy
import math
import pickle
import threading

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from riemdln import DeepLinearMetric, Metric, SpectralMetric, balanced_layers
from tests.conftest import (
    dense_cometric,
    random_matrix,
    sharp_by_powers,
    sharp_by_quadrature,
    spectral_definition,
)

SHAPES = [(4, 4), (3, 6), (6, 3), (1, 5), (5, 1), (1, 1)]
DEPTHS = [1, 2, 3, 5, 8]
SPECTRA = {
    "generic": None,
    "equal": lambda r: np.full(r, 0.7),
    "clustered": lambda r: 0.7 * (1 + 1e-9 * np.arange(r)),
    "two clusters": lambda r: np.where(np.arange(r) < r // 2, 3.0, 0.2),
}


def relative_difference(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def point_of(rng, m, n, spectrum):
    values = SPECTRA[spectrum]
    return random_matrix(rng, m, n, None if values is None else values(min(m, n)))


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_sharp_is_the_sum_over_layers(rng, m, n, depth, spectrum):
    W, P = point_of(rng, m, n, spectrum), rng.standard_normal((m, n))
    sharp = DeepLinearMetric(depth).sharp(W, P)
    assert relative_difference(sharp, sharp_by_powers(W, P, depth)) < 1e-11


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_flat_is_the_dense_solve(rng, m, n, depth, spectrum):
    W, Z = point_of(rng, m, n, spectrum), rng.standard_normal((m, n))
    matrix = dense_cometric(lambda P: sharp_by_powers(W, P, depth), m, n)
    expected = np.linalg.solve(matrix, Z.ravel()).reshape(m, n)
    assert relative_difference(DeepLinearMetric(depth).flat(W, Z), expected) < 1e-9


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_infinite_depth_is_an_integral(rng, n, spectrum):
    W, P = point_of(rng, n, n, spectrum), rng.standard_normal((n, n))
    metric = DeepLinearMetric(math.inf)
    assert relative_difference(metric.sharp(W, P), sharp_by_quadrature(W, P)) < 1e-11
    matrix = dense_cometric(lambda P: sharp_by_quadrature(W, P), n, n)
    expected = np.linalg.solve(matrix, P.ravel()).reshape(n, n)
    assert relative_difference(metric.flat(W, P), expected) < 1e-9


def test_depth_two_is_a_sylvester_equation(rng):
    W, Z = random_matrix(rng, 4, 4), rng.standard_normal((4, 4))
    left, right = scipy.linalg.sqrtm(W @ W.T), scipy.linalg.sqrtm(W.T @ W)
    expected = scipy.linalg.solve_sylvester(left, right, Z)
    assert relative_difference(DeepLinearMetric(2).flat(W, Z), expected) < 1e-9


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (1, 1)])
@pytest.mark.parametrize("depth", [1, 2, 2.5, 3, 8])
def test_claim_2_for_one_row_or_column(rng, shape, depth):
    w, p = rng.standard_normal(shape), rng.standard_normal(shape)
    norm = np.linalg.norm(w)
    projection = w * np.sum(w * p) / norm**2
    expected = norm ** (2 - 2 / depth) * (p + (depth - 1) * projection)
    assert relative_difference(DeepLinearMetric(depth).sharp(w, p), expected) < 1e-13


@pytest.mark.parametrize("depth", [1, 2, 2.5, 3, 8])
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_inner_is_the_trace_form_and_flat_inverts_sharp(rng, m, n, depth):
    metric = DeepLinearMetric(depth)
    W, X, Y = random_matrix(rng, m, n), *rng.standard_normal((2, m, n))
    assert metric.inner(W, X, Y) == pytest.approx(np.sum(X * metric.flat(W, Y)), rel=1e-9)
    assert metric.inner(W, X, Y) == pytest.approx(metric.inner(W, Y, X), rel=1e-9)
    assert relative_difference(metric.sharp(W, metric.flat(W, X)), X) < 1e-11


@pytest.mark.parametrize("depth", [1, 2, 2.5, math.inf])
def test_inner_with_the_last_gradient_is_the_directional_derivative(rng, depth):
    W, P, X = rng.standard_normal((3, 4, 4))
    metric = DeepLinearMetric(depth)
    expected = DeepLinearMetric(depth).inner(W, metric.sharp(W, P), X)
    assert metric.inner(W, metric.sharp(W, P), X) == pytest.approx(expected, rel=1e-9)
    assert metric.inner(W, X, metric.sharp(W, P)) == pytest.approx(np.sum(P * X), rel=1e-9)


def test_real_depths_lie_between_whole_ones(rng):
    W, P = random_matrix(rng, 3, 4), rng.standard_normal((3, 4))
    below, at, above = (DeepLinearMetric(d).sharp(W, P) for d in (3 - 1e-7, 3, 3 + 1e-7))
    np.testing.assert_allclose((below + above) / 2, at, rtol=1e-10)


@given(st.integers(1, 4), st.integers(1, 4), st.floats(1, 20), st.integers(-30, 30), st.data())
def test_is_homogeneous_and_symmetric(m, n, depth, exponent, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    W, P, Q = rng.standard_normal((3, m, n))
    metric, scale = DeepLinearMetric(depth), 10.0**exponent
    sharp = metric.sharp(W, P)
    np.testing.assert_allclose(
        metric.sharp(scale * W, P),
        scale ** (2 - 2 / depth) * sharp,
        rtol=1e-9,
        atol=1e-11 * scale ** (2 - 2 / depth) * np.abs(sharp).max(),
    )
    size = np.linalg.norm(sharp) * np.linalg.norm(Q)
    assert abs(np.sum(Q * sharp) - np.sum(P * metric.sharp(W, Q))) < 1e-12 * depth * size
    assert np.sum(P * sharp) > 0


def test_a_kernel_need_not_be_symmetric(rng):
    W, P = random_matrix(rng, 3, 5), rng.standard_normal((3, 5))
    metric = SpectralMetric(lambda s, t: 1 + s**2 + 3 * t**2)
    expected = P + W @ W.T @ P + 3 * P @ W.T @ W
    assert relative_difference(metric.sharp(W, P), expected) < 1e-13
    transposed = SpectralMetric(lambda s, t: 1 + t**2 + 3 * s**2)
    assert relative_difference(transposed.sharp(W.T, P.T), expected.T) < 1e-13


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (100, 100), (1, 4)])
def test_a_kernel_may_ignore_an_argument_or_be_constant(rng, shape):
    W, P = rng.standard_normal((2, *shape))
    np.testing.assert_allclose(SpectralMetric(lambda s, t: 2.0).sharp(W, P), 2 * P, atol=1e-12)
    left = SpectralMetric(lambda s, t: 1 + s**2).sharp(W, P)
    np.testing.assert_allclose(left, P + W @ W.T @ P, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("depth", [2, 3])
def test_larger_matrices_take_the_same_sum(rng, depth):
    W, P = rng.standard_normal((2, 150, 150))
    expected = sharp_by_powers(W, P, depth)
    assert relative_difference(DeepLinearMetric(depth).sharp(W, P), expected) < 1e-10


@pytest.mark.parametrize("depth", [1.5, 2, 3, 8])
@pytest.mark.parametrize("smallest", [1e-8, 1e-17, 1e-300, 0.0])
def test_goes_on_smoothly_to_lower_rank(rng, depth, smallest):
    metric = DeepLinearMetric(depth)
    W = random_matrix(rng, 4, 5, [2.0, 1.0, smallest, smallest])
    P = rng.standard_normal((4, 5))
    Z = metric.sharp(W, P)
    assert np.isfinite(metric.flat(W, Z)).all()
    # A metric that did not compute Z has to solve for P.
    for solver in (metric, DeepLinearMetric(depth)):
        assert solver.inner(W, Z, Z) == pytest.approx(np.sum(P * Z), rel=1e-6)


@pytest.mark.parametrize("depth", [1.5, 2, 3])
@pytest.mark.parametrize(("m", "n", "rank"), [(4, 5, 2), (5, 4, 2), (100, 200, 50), (60, 60, 30)])
def test_flat_is_the_pseudoinverse_at_lower_rank(rng, m, n, rank, depth):
    spectrum = np.linspace(1, 2, rank)
    W = random_matrix(rng, m, n, [*spectrum, *np.zeros(min(m, n) - rank)])
    X = rng.standard_normal((m, n))
    U, s, Vt = np.linalg.svd(W)
    s[rank:] = 0.0
    squares = (np.pad(s, (0, size - len(s))) ** 2 for size in (m, n))
    factors = spectral_definition(*squares, depth)
    squared = (U.T @ X @ Vt.T) ** 2
    expected = np.sum(np.where(factors > 0, squared / np.where(factors > 0, factors, 1), 0))
    assert DeepLinearMetric(depth).inner(W, X, X) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("smallest", [1e-9, 1e-11])
def test_an_answer_does_not_depend_on_what_was_asked_before(rng, smallest):
    W = random_matrix(rng, 4, 4, [1.0, 0.5, 0.3, smallest])
    P, X = rng.standard_normal((2, 4, 4))
    asked, fresh = DeepLinearMetric(3), DeepLinearMetric(3)
    Z = asked.sharp(W, P)
    assert asked.inner(W, Z, X) == fresh.inner(W, Z, X)
    assert asked.inner(W, X, Z) == fresh.inner(W, X, Z)
    assert asked.inner(W, Z, Z) == fresh.inner(W, Z, Z)


def test_a_tiny_singular_value_is_exact(rng):
    W = np.diag([1.0, 1e-300])
    sharp = DeepLinearMetric(2).sharp(W, np.ones((2, 2)))
    np.testing.assert_allclose(sharp, [[2.0, 1.0], [1.0, 2e-300]], rtol=1e-14)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_the_zero_matrix_has_a_frame_too(shape):
    P = np.ones(shape)
    sharp = SpectralMetric(lambda s, t: 2.0 + s + t).sharp(np.zeros(shape), P)
    np.testing.assert_allclose(sharp, 2 * P, rtol=1e-15)


@pytest.mark.parametrize(("scale", "depth"), [(1e-160, math.inf), (1e-240, 3), (1e-310, 2)])
def test_factors_that_underflow_are_frozen(scale, depth):
    metric, W, P = DeepLinearMetric(depth), scale * np.eye(2), np.ones((2, 2))
    np.testing.assert_array_equal(metric.flat(W, metric.sharp(W, P)), np.zeros((2, 2)))


def test_inner_neither_overflows_nor_underflows_on_the_way():
    metric = DeepLinearMetric(3)
    for scale, size in ((1e150, 3e200), (1e-150, 3e-200)):
        W, X = scale * np.eye(2), np.full((2, 2), size)
        assert metric.inner(W, X, X) == pytest.approx(np.sum(X * metric.flat(W, X)), rel=1e-12)
        assert metric.inner(W, X, X) > 0


def test_at_the_zero_matrix_everything_is_frozen():
    metric, zero, P = DeepLinearMetric(3), np.zeros((2, 3)), np.ones((2, 3))
    np.testing.assert_array_equal(metric.sharp(zero, P), zero)
    np.testing.assert_array_equal(metric.flat(zero, P), zero)
    assert metric.inner(zero, P, P) == 0


def test_a_long_row_neither_overflows_nor_underflows():
    metric = DeepLinearMetric(2)
    for scale in (1e-200, 1e-160, 1e200):
        w = scale * np.array([[3.0, 4.0]])
        np.testing.assert_allclose(metric.sharp(w, w / scale), 2 * 5 * w, rtol=1e-14)


def test_sees_changes_in_place_and_hands_out_nothing_it_keeps(rng):
    metric = DeepLinearMetric(3)
    W, P = rng.standard_normal((2, 4, 4))
    first = metric.sharp(W, P)
    assert metric.inner(W, first, first) == pytest.approx(np.sum(P * first))
    W *= 2.0
    np.testing.assert_allclose(metric.sharp(W, P), 2 ** (4 / 3) * first, rtol=1e-12)
    gradient = metric.sharp(W, P)
    covector = P.copy()
    P[:] = 0.0
    assert metric.inner(W, gradient, gradient) == pytest.approx(np.sum(covector * gradient))


def test_changes_no_argument(rng):
    arrays = rng.standard_normal((3, 3, 4))
    kept = arrays.copy()
    metric = DeepLinearMetric(2)
    metric.sharp(arrays[0], arrays[1])
    metric.flat(arrays[0], arrays[1])
    metric.inner(*arrays)
    metric.network_retraction(arrays[0], arrays[1])
    np.testing.assert_array_equal(arrays, kept)


def test_threads_share_a_metric(rng):
    metric = DeepLinearMetric(3)
    points, P = rng.standard_normal((4, 6, 6)), rng.standard_normal((6, 6))
    expected = [DeepLinearMetric(3).sharp(W, P) for W in points]
    failures = []

    def work(W, answer):
        for _ in range(200):
            Z = metric.sharp(W, P)
            if not np.allclose(Z, answer) or not np.isclose(metric.inner(W, Z, Z), np.sum(P * Z)):
                failures.append(W)

    threads = [
        threading.Thread(target=work, args=pair) for pair in zip(points, expected, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def sum_kernel(s, t):
    return s + t


def test_a_metric_is_pickled_when_its_kernel_can_be(rng):
    metric = SpectralMetric(sum_kernel)
    W, X, P = rng.standard_normal((3, 2, 3))
    copied = pickle.loads(pickle.dumps(metric))
    expected = metric.sharp_derivative(W, X, P)
    np.testing.assert_array_equal(copied.sharp_derivative(W, X, P), expected)


def test_is_pickled_and_copied_without_its_frames(rng):
    metric, fresh = DeepLinearMetric(3), DeepLinearMetric(3)
    W, P = rng.standard_normal((2, 50, 50))
    Z = metric.sharp(W, P)
    assert len(pickle.dumps(metric)) == len(pickle.dumps(fresh))
    for other in (pickle.loads(pickle.dumps(metric)), copy.deepcopy(metric)):
        np.testing.assert_array_equal(other.sharp(W, P), Z)


def test_keeps_precision_and_converts_integers(rng):
    metric = DeepLinearMetric(3)
    ones = np.ones((2, 2))
    assert metric.sharp(ones, ones).dtype == np.float64
    assert metric.sharp(ones.astype(np.float32), ones.astype(np.float32)).dtype == np.float32
    W, P = rng.standard_normal((2, 3, 3)).astype(np.float32)
    assert metric.sharp(W, P).dtype == metric.flat(W, P).dtype == np.float32
    assert metric.sharp([[1, 2], [3, 4]], [[1, 0], [0, 1]]).dtype == np.float64


def test_stacks_are_taken_matrix_by_matrix(rng):
    metric = DeepLinearMetric(3)
    for m, n in SHAPES:
        W, X, Y = rng.standard_normal((3, 2, 5, m, n))
        for method in (metric.sharp, metric.flat):
            expected = [
                [method(w, x) for w, x in zip(*rows, strict=True)]
                for rows in zip(W, X, strict=True)
            ]
            np.testing.assert_allclose(method(W, X), expected, rtol=1e-9, atol=1e-12)
        assert metric.inner(W, X, Y).shape == (2, 5)
        # The same covector and vector for all: also of the last gradient.
        Z = metric.sharp(W, X[0, 0])
        assert metric.inner(W, Z, Y[0, 0]).shape == (2, 5)
        assert metric.inner(W, X, Y)[1, 2] == pytest.approx(metric.inner(W[1, 2], X[1, 2], Y[1, 2]))


@pytest.mark.parametrize("namespace", ["array_api_strict", "torch"])
@pytest.mark.parametrize("shape", [(4, 4), (2, 3, 5), (5, 3), (1, 6), (6, 1), (150, 150)])
def test_other_array_namespaces(rng, namespace, shape):
    xp = pytest.importorskip(namespace, reason=f"{namespace} is optional")
    W, X, Y = (xp.asarray(a) for a in rng.standard_normal((3, *shape)))
    w, x, y = (np.asarray(a) for a in (W, X, Y))
    for depth in (1, 2, 2.5):
        metric = DeepLinearMetric(depth)
        for method in (metric.sharp, metric.flat):
            result = method(W, X)
            assert type(result) is type(W)
            np.testing.assert_allclose(np.asarray(result), method(w, x), rtol=1e-9)
        np.testing.assert_allclose(
            np.asarray(metric.inner(W, X, Y)), metric.inner(w, x, y), rtol=1e-9
        )


class Doubled(Metric):
    """Twice the Euclidean cometric, the shortest metric there is."""

    def sharp(self, W, P):
        return 2.0 * P

    def flat(self, W, Z):
        return Z / 2.0


def test_the_base_class_gives_inner(rng):
    W, X, Y = rng.standard_normal((3, 2, 3))
    assert Doubled().inner(W, X, Y) == pytest.approx(np.sum(X * Y) / 2)


BAD_MATRICES = [
    (np.ones((3, 2)), ValueError, "must have the shape"),
    (np.full((2, 3), np.nan), ValueError, "must be finite"),
    (np.full((2, 3), np.inf), ValueError, "must be finite"),
    (np.ones((2, 3), dtype=complex), ValueError, "must be real"),
    (np.array([["a"] * 3] * 2), TypeError, "must be an array of real numbers"),
    (None, TypeError, "must be an array of real numbers"),
    ([[1.0], [2.0, 3.0]], ValueError, "must be an array of real numbers"),
]


@pytest.mark.parametrize("method", ["sharp", "flat"])
@pytest.mark.parametrize(("bad", "error", "message"), BAD_MATRICES)
def test_refuses_bad_vectors(method, bad, error, message):
    name = {"sharp": "P", "flat": "Z"}[method]
    with pytest.raises(error, match=f"^{name} {message}"):
        getattr(DeepLinearMetric(2), method)(np.ones((2, 3)), bad)


@pytest.mark.parametrize(("bad", "error", "message"), BAD_MATRICES[1:])
def test_refuses_bad_points(bad, error, message):
    with pytest.raises(error, match=f"^W {message}"):
        DeepLinearMetric(2).sharp(bad, np.ones((2, 3)))


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("shape", [(3,), (), (0, 3), (3, 0)])
def test_refuses_what_is_no_matrix(depth, shape):
    with pytest.raises(ValueError, match="^W must be a matrix"):
        DeepLinearMetric(depth).sharp(np.ones(shape), np.ones(shape))


@pytest.mark.parametrize(
    ("depth", "error"),
    [(0.5, ValueError), ("3", TypeError), (True, TypeError), (math.nan, ValueError)],
)
def test_refuses_what_is_no_depth(depth, error):
    with pytest.raises(error, match="^depth must be"):
        DeepLinearMetric(depth)


@pytest.mark.parametrize("W", [3.0, np.ones(2)])
def test_blames_the_point_where_it_is_no_matrix(W):
    with pytest.raises(ValueError, match="^W must be a matrix"):
        DeepLinearMetric(2).sharp(W, np.eye(2))


def test_refuses_stacks_that_do_not_fit_together():
    with pytest.raises(ValueError, match="^Y must have the shape of X"):
        DeepLinearMetric(2).inner(np.eye(2), np.ones((2, 2, 2)), np.ones((3, 2, 2)))


def test_refuses_infinite_depth_on_matrices_that_are_not_square():
    with pytest.raises(ValueError, match="square matrices only, got 2 x 3"):
        DeepLinearMetric(math.inf).sharp(np.ones((2, 3)), np.ones((2, 3)))


def test_refuses_a_kernel_that_is_no_function():
    with pytest.raises(TypeError, match="^kernel must be a kernel, a function"):
        SpectralMetric("s + t")
    for zero in (0, 0.0):
        with pytest.raises(ValueError, match="^kernel must be positive"):
            SpectralMetric(zero)


@pytest.mark.parametrize(
    "kernel", [lambda s, t: s - t - 5, lambda s, t: s * np.nan, lambda s, t: -1.0]
)
def test_refuses_what_a_kernel_cannot_be(kernel):
    with pytest.raises(
        ValueError,
        match="^W has singular values from 1 to 2, .* takes values from .* finite and nonnegative",
    ):
        SpectralMetric(kernel).sharp(np.diag([1.0, 2.0]), np.eye(2))


@pytest.mark.filterwarnings("ignore:overflow")
def test_says_where_a_point_is_too_large():
    with pytest.raises(ValueError, match="is W too large"):
        DeepLinearMetric(math.inf).sharp(np.diag([1.0, 1e200]), np.eye(2))


def test_depth_is_fixed():
    metric = DeepLinearMetric(3)
    with pytest.raises(AttributeError):
        metric.depth = 5


@pytest.mark.parametrize("depth", [1, 1.5, 2, 3, np.inf])
@pytest.mark.parametrize(("m", "n"), [(3, 3), (2, 4), (4, 2), (1, 3)])
def test_log_volume_is_that_of_the_dense_metric(rng, m, n, depth):
    if np.isinf(depth) and m != n:
        pytest.skip("the metric of infinite depth exists on square matrices only")
    metric = DeepLinearMetric(depth)
    stack = np.stack([random_matrix(rng, m, n) for _ in range(2)])
    expected = [
        -np.linalg.slogdet(dense_cometric(lambda P, W=W: metric.sharp(W, P), m, n))[1] / 2
        for W in stack
    ]
    np.testing.assert_allclose(metric.log_volume(stack), expected, rtol=1e-9)


def orbit_log_volume(W, depth):
    """The volume of the balanced layers over W at the canonical ones, by its Gram determinant."""
    layers = balanced_layers(W, depth)
    r = min(W.shape)
    tangents = []
    for hidden in range(depth - 1):
        for i in range(r):
            for j in range(i):
                turn = np.zeros((r, r))
                turn[i, j], turn[j, i] = 1.0, -1.0
                moves = [np.zeros_like(layer) for layer in layers]
                moves[hidden] = turn @ layers[hidden]
                moves[hidden + 1] = -layers[hidden + 1] @ turn
                tangents.append(np.concatenate([move.ravel() for move in moves]))
    tangents = np.array(tangents)
    return np.linalg.slogdet(tangents @ tangents.T)[1] / 2


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize(("m", "n"), [(3, 3), (2, 4), (4, 3)])
def test_entropy_is_the_volume_of_the_orbit_of_layers(rng, m, n, depth):
    a, b = (random_matrix(rng, m, n, rng.uniform(0.3, 3.0, min(m, n))) for _ in range(2))
    metric = DeepLinearMetric(depth)
    expected = orbit_log_volume(b, depth) - orbit_log_volume(a, depth)
    assert metric.entropy(b) - metric.entropy(a) == pytest.approx(expected, rel=1e-10)


def test_volumes_at_lower_rank():
    W = np.diag([2.0, 1.0, 0.0])
    for depth in (2, 3):
        metric = DeepLinearMetric(depth)
        assert metric.log_volume(W) == np.inf
        assert np.isfinite(metric.entropy(W))
        assert metric.entropy(np.diag([1.0, 0.0, 0.0])) == -np.inf
    assert DeepLinearMetric(np.inf).entropy(W) == -np.inf
    assert DeepLinearMetric(1).entropy(W) == DeepLinearMetric(1).log_volume(W) == 0
