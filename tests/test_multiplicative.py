"""Multiplicative coordinates, against many digits, fractional powers and the equations written out.

A matrix is W = X diag(d) Y^T here, of which X and Y move.
"""

import functools
import math

import autograd.numpy as anp
import mpmath
import numpy as np
import pymanopt
import pytest

from riemdln import (
    DeepLinearMetric,
    FixedRank,
    FullRank,
    KroneckerMetric,
    Metric,
    PositiveDefinite,
    SpectralMetric,
    gradient_flow,
)
from riemdln._arrays import NotFiniteError
from riemdln.kernels import DeepLinearKernel, FunctionKernel
from riemdln.manifolds import FixedRankPoint
from riemdln.manifolds._coordinates import coordinates_around
from riemdln.manifolds._multiplicative import MultiplicativeCoordinates, factored_frame

from .conftest import random_matrix, sharp_by_powers, sharp_by_quadrature

# Absolute errors alone: the default of assert_allclose lets relative ones of 1e-7 pass.
assert_near = functools.partial(np.testing.assert_allclose, rtol=0)

DEPTHS = [2, 2.5, 3, math.inf]


def orthonormal(rng, m, r):
    return np.linalg.qr(rng.standard_normal((m, r)))[0]


def factor(rng, m, r, stretch=5.0):
    """A factor whose singular values go from `stretch` down to its inverse."""
    sizes = np.geomspace(stretch, 1 / stretch, r) if r > 1 else np.array([stretch])
    return orthonormal(rng, m, r) * sizes @ orthonormal(rng, r, r)


def in_many_digits(X, d, Y):
    """U, s and V of X diag(d) Y^T, by mpmath, whose errors are those of the largest entry."""
    positive = [value for value in d if value > 0]
    digits = 50 + int(math.log10(max(positive) / min(positive))) if positive else 50
    with mpmath.workdps(digits):
        X, Y = (mpmath.matrix(A.tolist()) for A in (X, Y))
        D = mpmath.diag([mpmath.mpf(float(value)) for value in d])
        (Q, R), (P, T) = (mpmath.qr(A, mode="skinny") for A in (X, Y))
        left, s, right = mpmath.svd_r(R * D * T.T)
        U, V = (np.array((A * B).tolist(), dtype=float) for A, B in ((Q, left), (P, right.T)))
        return U, np.array([float(value) for value in s]), V


def cut(state, shape, r):
    """X and Y of a state."""
    X, Y = np.split(state, [shape[0] * r])
    return X.reshape(shape[0], r), Y.reshape(shape[1], r)


SPREADS = [
    np.array([2.0, 1.0, 0.5]),
    np.array([1.0, 1e-3, 1e-9]),
    np.array([1e3, 1e-15, 3e-16]),
    np.array([1.0, 1e-30, 1e-31]),
    np.array([1.0, 1e-200, 1e-300]),
    np.array([1e-100, 1e-250, 1e-300]),
    np.array([1.0, 1.0, 1e-40]),
]


@pytest.mark.parametrize("d", SPREADS, ids=str)
@pytest.mark.parametrize(
    ("m", "n", "r"), [(3, 3, 3), (5, 3, 3), (3, 6, 3), (5, 4, 3), (4, 4, 2), (5, 4, 1), (1, 1, 1)]
)
def test_frames_have_every_digit(rng, m, n, r, d):
    d = d[-r:] if r > 1 else d[-1:]
    X, Y = factor(rng, m, r), factor(rng, n, r)
    U, s, V = in_many_digits(X, d, Y)
    frame = factored_frame(X, d, Y)
    np.testing.assert_allclose(frame.s, s, rtol=1e-13)
    assert [part.shape for part in frame] == [(m, r), (r,), (r, n)]
    assert_near(frame.U.T @ frame.U, np.eye(r), atol=2e-15)
    assert_near(frame.Vt @ frame.Vt.T, np.eye(r), atol=2e-15)
    # Each pair of singular vectors too, but for the sign that both have in common.
    signs = np.sign(np.sum(frame.U * U, axis=0))
    assert_near(frame.U * signs, U, atol=1e-12)
    assert_near(frame.Vt.T * signs, V, atol=1e-12)


def test_frames_of_many_scales(rng):
    r = 12
    X, Y, d = factor(rng, 15, r), factor(rng, 12, r), np.geomspace(1.0, 1e-300, r)
    frame = factored_frame(X, d, Y)
    np.testing.assert_allclose(frame.s, in_many_digits(X, d, Y)[1], rtol=1e-13)


@pytest.mark.parametrize("d", [[3.0, 0.0, 0.0], [3.0, 1e-50, 0.0], [1.0, 0.9, 0.0], [0.0] * 3])
def test_zeros_stay_zeros(rng, d):
    d = np.array(d)
    X, Y = factor(rng, 4, 3), factor(rng, 5, 3)
    frame = factored_frame(X, d, Y)
    rank = np.count_nonzero(d)
    # Of rank r the first r columns of the factors are all that counts.
    if rank:
        exact = in_many_digits(X[:, :rank], d[:rank], Y[:, :rank])[1]
        np.testing.assert_allclose(frame.s[:rank], exact, rtol=1e-13)
    assert_near(frame.s[rank:], 0, atol=1e-15 * frame.s[0])
    assert_near(frame.U.T @ frame.U, np.eye(3), atol=2e-15)
    assert_near(frame.Vt @ frame.Vt.T, np.eye(3), atol=2e-15)
    assert_near(frame.U * frame.s @ frame.Vt, X * d @ Y.T, atol=1e-14)


def test_frames_of_a_single_column_and_of_signs():
    frame = factored_frame(np.array([[-3.0], [4.0]]), np.array([2e-200]), np.array([[-1.0]]))
    assert frame.s == pytest.approx(1e-199, rel=1e-15)
    np.testing.assert_allclose(frame.U @ frame.Vt, [[0.6], [-0.8]], rtol=1e-15)
    frame = factored_frame(np.array([[-1.0]]), np.array([5.0]), np.array([[1.0]]))
    assert (frame.U @ frame.Vt).item() == -1


@pytest.mark.parametrize("d", [[1e200, 1e199], [1e200, 1e-100]], ids=str)
@pytest.mark.parametrize("m", [2, 4])
def test_frames_that_overflow_are_refused(m, d):
    X, refused = 1e150 * np.eye(m, 2), pytest.raises(NotFiniteError, match="the point must be")
    with refused, np.errstate(over="ignore", invalid="ignore"):
        factored_frame(X, np.array(d), X)


@pytest.mark.parametrize("stack", [(5,), (2, 3)])
def test_frames_of_stacks_are_those_of_each(rng, stack):
    """Some copies are graded and some are not, some have equal values and some have none."""
    size = math.prod(stack)
    rows = [[3.0, 2.0], [1.0, 1e-30], [2.0, 0.0], [0.0, 0.0], [1.0, 1.0], [1.0, 1e-300]][:size]
    d = np.array(rows).reshape(*stack, 2)
    X = np.stack([factor(rng, 4, 2) for _ in range(size)]).reshape(*stack, 4, 2)
    Y = np.stack([factor(rng, 3, 2) for _ in range(size)]).reshape(*stack, 3, 2)
    frame = factored_frame(X, d, Y)
    W = (X * d[..., None, :]) @ Y.mT
    assert [part.shape for part in frame] == [(*stack, 4, 2), (*stack, 2), (*stack, 2, 3)]
    assert_near((frame.U * frame.s[..., None, :]) @ frame.Vt, W, atol=1e-13)
    for k in np.ndindex(stack):
        alone = factored_frame(X[k], d[k], Y[k])
        np.testing.assert_allclose(frame.s[k], alone.s, rtol=1e-13, atol=1e-320)
        if d[k].min() > 0:
            np.testing.assert_allclose(frame.s[k], in_many_digits(X[k], d[k], Y[k])[1], rtol=1e-13)


def far_state(rng, shape, r, d):
    """A state whose X and Y are far from orthonormal, and its matrix."""
    m, n = shape
    X, Y = factor(rng, m, r), factor(rng, n, r)
    return np.concatenate([X.ravel(), Y.ravel()]), (X * d) @ Y.T


def velocity_of_matrix(state, velocity, shape, r, d, h=1e-6):
    """How X diag(d) Y^T moves when X and Y do, by finite differences."""

    def matrix(where):
        X, Y = cut(where, shape, r)
        return (X * d) @ Y.T

    return (matrix(state + h * velocity) - matrix(state - h * velocity)) / (2 * h)


def sharp_by_definition(W, P, depth):
    if math.isinf(depth):
        return sharp_by_quadrature(W, P)
    if float(depth).is_integer():
        return sharp_by_powers(W, P, depth)
    return sharp_by_kernel(W, P, lambda s, t: quotient(s, t, depth))


def quotient(s, t, depth):
    """Equation (3), for singular values that are all different, or zero."""
    with np.errstate(all="ignore"):
        other = (s**2 - t**2) / (s ** (2 / depth) - t ** (2 / depth))
    return np.where(s == t, depth * s ** (2 - 2 / depth), other)


def sharp_by_kernel(W, P, theta):
    """The kernel entrywise in the frame of LAPACK, with zeros beyond the singular values."""
    U, s, Vt = np.linalg.svd(W)
    m, n = W.shape
    left, right = (np.pad(s, (0, size - len(s))) for size in (m, n))
    factors = theta(left[:, None], right[None, :]) * np.ones((m, n))
    return U @ (factors * (U.T @ P @ Vt.T)) @ Vt


SHAPES = [(3, 3), (4, 2), (2, 4), (1, 4), (3, 1), (1, 1)]


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_matrix_moves_along_its_gradient(rng, shape, depth):
    m, n = shape
    if math.isinf(depth) and m != n:
        shape = m, n = max(m, n), max(m, n)  # infinite depth freezes the rest of other shapes
    r = min(m, n)
    d = np.linspace(2.0, 0.6, r)
    W = random_matrix(rng, m, n, d)
    coordinates = coordinates_around(FullRank(m, n, DeepLinearMetric(depth)), W)
    assert isinstance(coordinates, MultiplicativeCoordinates)
    P = rng.standard_normal(shape)
    far, far_matrix = far_state(rng, shape, r, d)
    for state, matrix in ((coordinates.state, W), (far, far_matrix)):
        place = coordinates.at(state)
        assert_near(place.point, matrix, atol=1e-13)
        np.testing.assert_allclose(
            place.singular_values, np.linalg.svd(matrix, compute_uv=False), rtol=1e-11
        )
        expected = sharp_by_definition(matrix, P, depth)
        velocity = place.velocity(place.gradient(P))
        moved = velocity_of_matrix(state, velocity, shape, r, d)
        size = np.abs(expected).max()
        assert_near(moved, expected, atol=1e-8 * size)
        # A tangent vector as the manifold has it is the same as its blocks.
        other = place.velocity(place.tangent(expected))
        assert_near(other, velocity, atol=1e-10 * np.abs(velocity).max())
        square = np.sum(P * expected)
        assert place.norm(place.gradient(P)) == pytest.approx(np.sqrt(square), rel=1e-9)


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize(("m", "n", "k"), [(5, 4, 2), (3, 4, 3), (4, 3, 3), (4, 4, 1)])
def test_the_matrix_of_fixed_rank_moves_along_its_gradient(rng, m, n, k, depth):
    manifold = FixedRank(m, n, k, DeepLinearMetric(depth), rng=0)
    d = np.linspace(2.0, 0.6, k)
    coordinates = coordinates_around(
        manifold, (orthonormal(rng, m, k), d, orthonormal(rng, n, k).T)
    )
    P = rng.standard_normal((m, n))
    state, W = far_state(rng, (m, n), k, d)
    place = coordinates.at(state)
    u, s, vt = place.point
    assert type(place.point) is type(place.record) is FixedRankPoint
    assert_near(u * s @ vt, W, atol=1e-13)
    expected = sharp_by_powers(W, P, depth)
    for vector in (
        place.gradient(P),
        place.tangent(manifold.euclidean_to_riemannian_gradient(place.point, P)),
    ):
        velocity = place.velocity(vector)
        moved = velocity_of_matrix(state, velocity, (m, n), k, d)
        assert_near(moved, expected, atol=1e-8 * np.abs(expected).max())
        assert place.norm(vector) == pytest.approx(np.sqrt(np.sum(P * expected)), rel=1e-9)


@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 4)], ids=str)
@pytest.mark.parametrize(
    "theta",
    [
        lambda s, t: s + 2 * t,
        lambda s, t: s + t / (1 + s) + 0.3 * s * t,
        lambda s, t: 3 * s + 0 * t,  # nothing leaves the column space
    ],
)
def test_kernels_need_not_be_symmetric(rng, shape, theta):
    r = min(shape)
    d = np.linspace(2.0, 0.6, r)
    coordinates = coordinates_around(
        FullRank(*shape, SpectralMetric(theta)), random_matrix(rng, *shape, d)
    )
    P = rng.standard_normal(shape)
    state, W = far_state(rng, shape, r, d)
    place = coordinates.at(state)
    velocity = place.velocity(place.gradient(P))
    expected = sharp_by_kernel(W, P, theta)
    moved = velocity_of_matrix(state, velocity, shape, r, d)
    assert_near(moved, expected, atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize("depth", [2, 3, 7])
@pytest.mark.parametrize(("m", "n", "k"), [(3, 3, 3), (4, 2, 2), (2, 4, 2), (5, 4, 2), (4, 5, 1)])
def test_factors_obey_their_equations(rng, m, n, k, depth):
    """dX/dt = K X and dY/dt = L^T Y, with the K and L of the theory written out."""
    X, Y = factor(rng, m, k), factor(rng, n, k)
    d, P = np.linspace(2.0, 0.6, k), rng.standard_normal((m, n))
    U, s, Vt = np.linalg.svd((X * d) @ Y.T)
    U, s, V = U[:, :k], s[:k], Vt[:k].T
    p = U.T @ P @ V
    column, row = s[:, None], s[None, :]
    layers = range(1, depth + 1)
    theta = sum(column ** (2 * (depth - j) / depth) * row ** (2 * (j - 1) / depth) for j in layers)
    psi, e = theta / (column + row), s ** (2 - 2 / depth) / s
    K = U @ (psi * p) @ U.T + (P @ V - U @ p) * e @ U.T
    L = V @ (psi * p) @ V.T + V * e @ (P.T @ U - V @ p.T).T
    manifold = FixedRank(m, n, k, DeepLinearMetric(depth))
    coordinates = coordinates_around(
        manifold, (orthonormal(rng, m, k), d, orthonormal(rng, n, k).T)
    )
    place = coordinates.at(np.concatenate([X.ravel(), Y.ravel()]))
    moved = cut(place.velocity(place.gradient(P)), (m, n), k)
    assert_near(moved[0], K @ X, atol=1e-11)
    assert_near(moved[1], L.T @ Y, atol=1e-11)


def test_small_singular_values_move_by_their_own_rates(rng):
    """Where s_j is far below rounding of s_i its factors still move to every digit."""
    s, P = np.array([1.0, 1e-12, 1e-30, 1e-200]), rng.standard_normal((4, 4))
    U, V = orthonormal(rng, 4, 4), orthonormal(rng, 4, 4)
    coordinates = coordinates_around(FullRank(4, 4, DeepLinearMetric(2)), (U, s, V.T))
    place = coordinates.at(coordinates.state)
    np.testing.assert_allclose(place.singular_values, s, rtol=1e-14)
    X, Y = cut(place.velocity(place.gradient(P)), (4, 4), 4)
    # theta = s + t, so that psi = 1.
    p = U.T @ P @ V
    assert_near(U.T @ X, p, atol=1e-13)
    assert_near(V.T @ Y, p.T, atol=1e-13)


def test_what_has_no_size_does_not_move(rng):
    U, V, P = orthonormal(rng, 4, 2), orthonormal(rng, 3, 2), rng.standard_normal((4, 3))
    coordinates = coordinates_around(
        FixedRank(4, 3, 2, DeepLinearMetric(2)), (U, np.array([2.0, 0.0]), V.T)
    )
    place = coordinates.at(coordinates.state)
    velocity = place.velocity(place.gradient(P))
    assert np.isfinite(velocity).all()
    moved = velocity_of_matrix(coordinates.state, velocity, (4, 3), 2, np.array([2.0, 0.0]))
    W = 2 * np.outer(U[:, 0], V[:, 0])
    assert_near(moved, sharp_by_powers(W, P, 2), atol=1e-8)
    # What a vector has where nothing can move is not followed, however it came there.
    Up, M, Vp = (rng.standard_normal(size) for size in ((4, 2), (2, 2), (3, 2)))
    M[0] = M[:, 0] = 0.0
    Up, Vp = Up - U @ (U.T @ Up), Vp - V @ (V.T @ Vp)
    X, Y = cut(place.velocity(place.tangent((Up, M, Vp))), (4, 3), 2)
    assert_near(X @ [0, 1], 0.0, atol=1e-14)
    assert_near(Y @ [0, 1], 0.0, atol=1e-14)
    zero = coordinates_around(FullRank(3, 2, DeepLinearMetric(2)), np.zeros((3, 2)))
    place = zero.at(zero.state)
    np.testing.assert_array_equal(place.singular_values, [0, 0])
    np.testing.assert_array_equal(place.velocity(place.gradient(np.ones((3, 2)))), 0)
    assert place.norm(place.gradient(np.ones((3, 2)))) == 0
    assert zero.renewed(zero.state) is None


def test_equal_singular_values_may_turn(rng):
    """Whatever frame is chosen where singular values are equal, the matrix moves the same way."""
    for d in (np.array([2.0, 2.0, 2.0]), np.array([1.0, 1.0, 1e-5])):
        U, V = orthonormal(rng, 3, 3), orthonormal(rng, 3, 3)
        coordinates = coordinates_around(FullRank(3, 3, DeepLinearMetric(3)), (U, d, V.T))
        P = rng.standard_normal((3, 3))
        place = coordinates.at(coordinates.state)
        velocity = place.velocity(place.gradient(P))
        moved = velocity_of_matrix(coordinates.state, velocity, (3, 3), 3, d)
        expected = sharp_by_kernel(
            U * d @ V.T, P, lambda s, t: (s**4) ** (1 / 3) + (s * t) ** (2 / 3) + (t**4) ** (1 / 3)
        )
        assert_near(moved, expected, atol=1e-8)


@pytest.mark.parametrize("stretch", [1 / 31, 31.0])
@pytest.mark.parametrize("worn", ["X", "Y"])
@pytest.mark.parametrize("d", SPREADS, ids=str)
def test_worn_factors_are_renewed(rng, d, worn, stretch):
    manifold = FullRank(4, 3, DeepLinearMetric(2))
    start = orthonormal(rng, 4, 3), d, orthonormal(rng, 3, 3).T
    coordinates = coordinates_around(manifold, start)
    assert coordinates.renewed(coordinates.state) is None
    factors = [orthonormal(rng, 4, 3), orthonormal(rng, 3, 3)]
    which = "XY".index(worn)
    for size, is_worn in ((29 / 31, False), (1.0, True)):
        stretched = list(factors)
        sizes = np.array([1.0, 1.0, stretch * size if stretch > 1 else stretch / size])
        stretched[which] = factors[which] * sizes @ orthonormal(rng, 3, 3)
        state = np.concatenate([part.ravel() for part in stretched])
        renewed = coordinates.renewed(state)
        assert (renewed is not None) == is_worn
    X, Y = stretched
    place = renewed.at(renewed.state)
    exact = in_many_digits(X, d, Y)[1]
    np.testing.assert_allclose(place.singular_values, exact, rtol=1e-13)
    assert_near(place.point, (X * d) @ Y.T, atol=1e-13 * exact[0])
    for part in cut(renewed.state, (4, 3), 3):
        assert_near(part.T @ part, np.eye(3), atol=1e-14)
    assert renewed.renewed(renewed.state) is None


def test_one_worn_copy_renews_a_stack(rng):
    d = np.array([[2.0, 1.0], [1.0, 1e-100]])
    U = np.stack([orthonormal(rng, 3, 2) for _ in range(2)])
    V = np.stack([orthonormal(rng, 2, 2) for _ in range(2)])
    manifold = FullRank(3, 2, DeepLinearMetric(2))
    coordinates = coordinates_around(manifold, (U, d, V.mT))
    assert coordinates.stack == (2,)
    assert coordinates.renewed(coordinates.state) is None
    rows = coordinates.state.reshape(2, -1).copy()
    rows[1, :6] = factor(rng, 3, 2, 40.0).ravel()
    renewed = coordinates.renewed(rows.ravel())
    assert renewed.stack == (2,)
    before, after = coordinates.at(rows.ravel()), renewed.at(renewed.state)
    np.testing.assert_allclose(after.singular_values, before.singular_values, rtol=1e-12)
    assert_near(after.point, before.point, atol=1e-13)
    X, Y = cut(rows[1], (3, 2), 2)
    exact = in_many_digits(X, d[1], Y)[1]
    np.testing.assert_allclose(after.singular_values[1], exact, rtol=1e-12)


def test_copies_of_a_stack_are_independent(rng):
    manifold = FullRank(3, 2, DeepLinearMetric(3))
    points, P = rng.standard_normal((2, 4, 3, 2))
    points[1] = random_matrix(rng, 3, 2, [1.0, 1e-6])
    coordinates = coordinates_around(manifold, points)
    place = coordinates.at(coordinates.state)
    gradient = place.gradient(P)
    velocities = place.velocity(gradient).reshape(4, -1)
    assert_near(place.point, points, atol=1e-14)
    np.testing.assert_array_equal(place.record, place.point)
    for k in range(4):
        alone = coordinates_around(manifold, points[k])
        np.testing.assert_array_equal(coordinates.state.reshape(4, -1)[k], alone.state)
        there = alone.at(alone.state)
        np.testing.assert_allclose(velocities[k], there.velocity(there.gradient(P[k])), rtol=1e-9)
        expected = np.sqrt(np.sum(P[k] * sharp_by_powers(points[k], P[k], 3)))
        assert place.norm(gradient)[k] == pytest.approx(expected, rel=1e-6)


def dense(point):
    return (point[0] * point[1][..., None, :]) @ point[2]


def test_matrices_of_low_rank_are_never_formed(rng):
    # One of 30,000 x 30,000 would take 7 GB, and its decomposition hours.
    n, k = 30_000, 2
    manifold = FixedRank(n, n, k, DeepLinearMetric(2))
    u, v = orthonormal(rng, n, k), orthonormal(rng, n, k)
    target = np.array([2.0, 3.0])

    @pymanopt.function.numpy(manifold)
    def cost(u, s, vt):
        return np.sum((s - target) ** 2) / 2

    @pymanopt.function.numpy(manifold)
    def gradient(left, s, vt):  # of |W - u diag(target) v^T|^2 / 2
        S = np.diag(np.append(s, -target))
        return np.hstack([left, u]), S, np.hstack([vt.T, v])

    problem = pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)
    start = FixedRankPoint(u, np.array([1.0, 0.5]), v.T)
    flow = gradient_flow(problem, start, [0, 1], rtol=1e-5)
    # Each singular value goes its own way: s' = 2 s (t - s).
    rate = np.exp(-2 * target)
    expected = target / (1 + (target / [1.0, 0.5] - 1) * rate)
    np.testing.assert_allclose(np.sort(flow.singular_values[-1]), expected, rtol=1e-4)


@pytest.mark.parametrize("stack", [(), (3,)])
def test_points_come_back_in_the_form_of_the_start(rng, stack):
    shape = (*stack, 4, 3)
    manifold = FullRank(4, 3, DeepLinearMetric(2))
    u = np.linalg.qr(rng.standard_normal(shape))[0]
    vt = np.linalg.qr(rng.standard_normal((*stack, 3, 3)))[0]
    s = np.broadcast_to([1e-30, 2.0, 1e-200], (*stack, 3)).copy()  # in any order
    lists = [part.tolist() for part in (u, s, vt)]
    for triple in ((u, s, vt), [u, s, vt], FixedRankPoint(u, s, vt), lists):
        coordinates = coordinates_around(manifold, triple)
        assert coordinates.stack == stack
        place = coordinates.at(coordinates.state)
        assert type(place.record) is FixedRankPoint
        for part, given in zip(place.record, (u, s, vt), strict=True):
            assert part.shape == given.shape
        np.testing.assert_allclose(place.record.s, np.sort(s, axis=-1)[..., ::-1], rtol=1e-14)
        assert_near(dense(place.record), dense((u, s, vt)), atol=1e-15)
        np.testing.assert_array_equal(place.singular_values, place.record.s)
        assert_near(place.point, dense((u, s, vt)), atol=1e-15)
        # Each singular vector is where its value went.
        overlap = np.abs(np.swapaxes(place.record.u, -1, -2) @ u)
        assert_near(overlap, np.broadcast_to(np.eye(3)[[1, 0, 2]], overlap.shape), atol=1e-14)
        # What is recorded is again a start.
        again = coordinates_around(manifold, place.record)
        np.testing.assert_allclose(
            again.at(again.state).singular_values, place.singular_values, rtol=1e-14
        )
    matrices = coordinates_around(manifold, dense((u, s, vt)))
    record = matrices.at(matrices.state).record
    assert type(record) is np.ndarray
    assert_near(record, dense((u, s, vt)), atol=1e-15)


def test_triples_stand_for_their_matrix(rng):
    """Also where u and vt are not orthonormal."""
    u, s, vt = factor(rng, 4, 2), np.array([1.0, 1e-40]), factor(rng, 3, 2).T
    exact = in_many_digits(u, s, vt.T)[1]
    coordinates = coordinates_around(FixedRank(4, 3, 2, DeepLinearMetric(2)), (u, s, vt))
    place = coordinates.at(coordinates.state)
    np.testing.assert_allclose(place.point.s, exact, rtol=1e-13)
    assert_near(place.point.u.T @ place.point.u, np.eye(2), atol=1e-14)
    assert_near(dense(place.point), u * s @ vt, atol=1e-14)


def test_matrices_of_float32_are_taken_as_they_are(rng):
    W = rng.standard_normal((3, 2)).astype(np.float32)
    coordinates = coordinates_around(FullRank(3, 2, DeepLinearMetric(2)), W)
    assert_near(coordinates.at(coordinates.state).point, W, atol=1e-14)


def linear(manifold, slope):
    """The cost -<slope, W>."""
    return pymanopt.Problem(
        manifold,
        pymanopt.function.numpy(manifold)(lambda W: -float(np.sum(slope * W))),
        euclidean_gradient=pymanopt.function.numpy(manifold)(lambda W: -slope),
    )


def test_norms_count_what_is_small():
    """At a saddle the gradient is all in the direction of a tiny singular value."""
    triple = np.eye(2), np.array([1.0, 1e-18]), np.eye(2)
    coordinates = coordinates_around(FullRank(2, 2, DeepLinearMetric(2)), triple)
    place = coordinates.at(coordinates.state)
    gradient = place.gradient(np.diag([0.0, 1.0]))  # |A(P)|^2 = theta(s, s) p^2 with theta = 2 s
    assert place.norm(gradient) == pytest.approx(np.sqrt(2e-18), rel=1e-12)


@pytest.mark.parametrize("size", [1e-150, 1e100, 1e130])
@pytest.mark.parametrize("depth", [2, 3, math.inf])
def test_flows_of_any_scale_are_one_flow(size, depth):
    """Of W / size = V under a linear cost: V' = size^(1 - 2 / N) A(G)."""
    rate = size ** (1 - 2 / depth)
    manifold, start = FullRank(2, 2, DeepLinearMetric(depth)), np.array([[1.0, 0.2], [0.1, 0.5]])
    problem = linear(manifold, np.ones((2, 2)))
    one = gradient_flow(problem, start, [0, 0.1])
    flow = gradient_flow(problem, size * start, [0, 0.1 / rate])
    np.testing.assert_allclose(flow.points[-1] / size, one.points[-1], rtol=1e-7)
    np.testing.assert_allclose(
        flow.gradient_norms / size ** (1 - 1 / depth), one.gradient_norms, rtol=1e-7
    )


@pytest.mark.parametrize(("depth", "size", "slope"), [(3, 1e-150, 1e-150), (math.inf, 1e-200, 1.0)])
def test_a_gradient_that_underflows_says_so(depth, size, slope):
    manifold = FullRank(2, 2, DeepLinearMetric(depth))
    problem = linear(manifold, slope * np.ones((2, 2)))
    with pytest.warns(UserWarning, match="no singular value above .* stands still: scale W"):
        gradient_flow(problem, size * np.eye(2), [0, 1])
    with pytest.warns(UserWarning, match="scale W"):
        gradient_flow(problem, [np.eye(2), size * np.eye(2)], [0, 0.1])
    # At zero, and where there is no slope, standing still is right.
    gradient_flow(problem, np.zeros((2, 2)), [0, 1])
    gradient_flow(linear(manifold, np.zeros((2, 2))), size * np.eye(2), [0, 1])


class Own(Metric):
    """A metric that says its cometric alone."""

    def __repr__(self):
        return "Own()"

    def sharp(self, W, P):
        return W @ W.T @ P


KEEP_RANK = [
    *(DeepLinearMetric(depth) for depth in (2, 2.5, 3, 64, math.inf)),
    SpectralMetric(DeepLinearKernel(2) + DeepLinearKernel(5)),
    SpectralMetric(1e-6 * DeepLinearKernel(2) + 1e6 * DeepLinearKernel(3)),
    SpectralMetric(lambda s, t: s + t),
    SpectralMetric(lambda s, t: s + 2 * t),
    SpectralMetric(lambda s, t: s * t),
    SpectralMetric(FunctionKernel(lambda s, t: s + t, symmetric=True) + DeepLinearKernel(math.inf)),
]
LEAVE_RANK = [
    *(DeepLinearMetric(depth) for depth in (1, 1.5, 1.9)),
    SpectralMetric(0.5),
    SpectralMetric(lambda s, t: 1.0),
    SpectralMetric(lambda s, t: (s + t) ** 0.5),
    # Beside one zero singular value alone, on either side.
    SpectralMetric(lambda s, t: s + t + np.maximum(t - s, 0.0) ** 0.5),
    SpectralMetric(lambda s, t: s + t + np.maximum(s - t, 0.0) ** 0.5),
    SpectralMetric(lambda s, t: (s + t) * (1 + 1 / (s + 1e-200))),
    SpectralMetric(lambda s, t: (s**2 + t**2) / abs(s - t)),  # has no finite values at s = t
    SpectralMetric(DeepLinearKernel(2) + 0.1),
    SpectralMetric(DeepLinearKernel(2) + 1e-12),
    KroneckerMetric(np.eye(2), np.eye(2)),
    Own(),
]


@pytest.mark.parametrize("metric", KEEP_RANK, ids=str)
def test_metrics_whose_flows_keep_the_rank(metric):
    assert metric.keeps_rank is True
    manifold = FullRank(2, 2, metric)
    assert type(coordinates_around(manifold, np.eye(2))) is MultiplicativeCoordinates


@pytest.mark.parametrize("metric", LEAVE_RANK, ids=str)
def test_metrics_whose_flows_may_change_the_rank(metric):
    assert getattr(metric, "keeps_rank", False) is False
    manifold = FullRank(2, 2, metric)
    coordinates = coordinates_around(manifold, np.eye(2))
    np.testing.assert_array_equal(coordinates.state, np.eye(2).ravel())


def test_depths_just_below_two_may_change_the_rank():
    """With dw/dt = -N w^{2 - 2/N} w comes to zero in finite time for every N < 2."""
    assert DeepLinearMetric(1.99).keeps_rank is False


def half_square(manifold, target):
    @pymanopt.function.autograd(manifold)
    def cost(W):
        return anp.sum((W - target) ** 2) / 2

    return pymanopt.Problem(manifold, cost)


def logistic(w, c, t):
    """The solution of dw/dt = 2 w (c - w), at depth 2."""
    return c / (1 + (c / w - 1) * np.exp(-2 * c * t))


@pytest.mark.parametrize("n", [1, 3])
def test_positive_definite_flows_go_to_the_boundary(rng, n):
    """Where the target has a negative eigenvalue, and off the boundary where it has not."""
    start, target = np.array([1e-4, 0.5, 2.0])[:n], np.array([-1.0, -0.5, 3.0])[:n]
    times = np.linspace(0.0, 10.0, 6)
    Q = orthonormal(rng, n, n)
    W, T = (symmetric(Q * values @ Q.T) for values in (start, target))
    problem = half_square(PositiveDefinite(n, DeepLinearMetric(2)), T)
    exact = logistic(start, target, times[:, None])
    assert exact.min() < 1e-11
    for first in (W, (Q, start, Q.T)):
        flow = gradient_flow(problem, first, times, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(flow.singular_values, np.sort(exact, axis=1)[:, ::-1], rtol=1e-8)
        for t in range(len(times)):
            record = flow.points[t]
            point = record if first is W else dense(record)
            assert_near(point, Q * exact[t] @ Q.T, atol=1e-9)
            # The factors of a triple are as good as the integration, and so is their symmetry.
            assert_near(point, point.T, atol=0.0 if first is W else 1e-10)
            assert np.linalg.eigvalsh(symmetric(point))[0] > -1e-14


def test_positive_definite_flows_stay_at_the_boundary(rng):
    """The nearest semidefinite matrix to -I is 0, where the cost is n / 2."""
    Q = orthonormal(rng, 2, 2)
    problem = half_square(PositiveDefinite(2, DeepLinearMetric(2)), -np.eye(2))
    flow = gradient_flow(problem, symmetric(Q * [1.0, 0.5] @ Q.T), [0.0, 20.0, 40.0])
    for point in flow.points:
        assert np.linalg.eigvalsh(point)[0] > -1e-14
    np.testing.assert_allclose(flow.costs[1:], 1.0, rtol=1e-12)
    expected = np.sort(logistic(np.array([1.0, 0.5]), -1.0, 40.0))[::-1]
    np.testing.assert_allclose(flow.singular_values[-1], expected, rtol=1e-6)


@pytest.mark.parametrize("turned", [np.diag([1.0, -1.0, 1.0]), np.eye(3)[[0, 2, 1]]], ids=str)
def test_positive_definite_refuses_triples_of_others(turned):
    """What is tiny beside the largest singular value counts as well, for it may grow."""
    triple = np.eye(3), np.array([1.0, 1e-20, 1e-20]), turned
    with pytest.raises(ValueError, match="^x must be"):
        coordinates_around(PositiveDefinite(3, DeepLinearMetric(2)), triple, "x")


def symmetric(Z):
    return (Z + Z.T) / 2


def test_positive_definite_points_are_symmetric_wherever_the_state_is(rng):
    manifold = PositiveDefinite(3, DeepLinearMetric(2), rng=0)
    coordinates = coordinates_around(manifold, manifold.random_point())
    state = coordinates.state + 1e-3 * rng.standard_normal(coordinates.state.size)
    place = coordinates.at(state)
    np.testing.assert_array_equal(place.point, place.point.T)
    np.testing.assert_array_equal(place.record, place.point)
    P = rng.standard_normal((3, 3))
    place = coordinates.at(coordinates.state)
    velocity = place.velocity(place.gradient(P))  # of which the symmetric part counts
    symmetric = sharp_by_powers(place.point, (P + P.T) / 2, 2)
    d = place.singular_values
    moved = velocity_of_matrix(coordinates.state, velocity, (3, 3), 3, d)
    assert_near(moved, symmetric, atol=1e-8)
