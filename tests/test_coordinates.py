"""Coordinates for differential equations, against the definition of a retraction."""

import functools

import numpy as np
import pytest
from pymanopt.manifolds import (
    ComplexCircle,
    Elliptope,
    Euclidean,
    FixedRankEmbedded,
    Grassmann,
    Oblique,
    PoincareBall,
    Positive,
    Product,
    PSDFixedRank,
    SpecialOrthogonalGroup,
    Sphere,
    Stiefel,
    Symmetric,
    SymmetricPositiveDefinite,
)

from riemdln import DeepLinearMetric, FixedRank, FullRank
from riemdln._frame import Blocks
from riemdln.manifolds import FixedRankPoint
from riemdln.manifolds._coordinates import (
    AmbientCoordinates,
    ProductCoordinates,
    StackCoordinates,
    coordinates_around,
)
from riemdln.manifolds._framed import FactorCoordinates
from riemdln.manifolds._multiplicative import MultiplicativeCoordinates

from .conftest import dense_cometric, sharp_by_powers

# Absolute errors alone: the default of assert_allclose lets relative ones of 1e-7 pass.
assert_near = functools.partial(np.testing.assert_allclose, rtol=0)

WITH_ARRAYS = [
    Euclidean(2, 3),
    Symmetric(3),
    Sphere(4),
    Oblique(3, 2),
    Stiefel(4, 2),
    Stiefel(4, 2, k=3),
    Grassmann(4, 2),
    SpecialOrthogonalGroup(2),
    SpecialOrthogonalGroup(3),
    SpecialOrthogonalGroup(3, k=2),
    SpecialOrthogonalGroup(3, retraction="polar"),
    SymmetricPositiveDefinite(3),
    Positive(2, 3),
    PoincareBall(3),
    PSDFixedRank(4, 2),
    Elliptope(4, 2),
    FullRank(2, 3, DeepLinearMetric(1), rng=0),
    FullRank(2, 3, DeepLinearMetric(1.5), rng=0),
]


@pytest.fixture(autouse=True)
def seed():
    np.random.seed(0)  # noqa: NPY002, pymanopt's manifolds draw from it


def place_of(manifold, point):
    coordinates = coordinates_around(manifold, point)
    return coordinates.at(coordinates.state)


@pytest.mark.parametrize("manifold", WITH_ARRAYS, ids=str)
def test_entries_move_as_the_retraction_leads(manifold):
    point = manifold.random_point()
    vector = manifold.random_tangent_vector(point)
    place, h = place_of(manifold, point), 1e-5
    forth, back = (manifold.retraction(point, t * vector).ravel() for t in (h, -h))
    velocity = place.velocity(place.tangent(vector))
    assert_near(velocity, (forth - back) / (2 * h), atol=1e-8)
    assert np.linalg.norm(velocity) > 0.01


@pytest.mark.parametrize("manifold", WITH_ARRAYS, ids=str)
def test_points_come_back_from_their_entries(manifold):
    point = manifold.random_point()
    coordinates = coordinates_around(manifold, point)
    state = coordinates.state
    assert (state.dtype, state.shape, coordinates.stack) == (np.float64, (point.size,), ())
    assert coordinates.renewed(state) is None
    place = coordinates.at(state)
    assert_near(place.point, point, atol=1e-14)
    np.testing.assert_array_equal(place.record, place.point)


@pytest.mark.parametrize("manifold", WITH_ARRAYS, ids=str)
def test_gradients_and_norms_are_those_of_the_manifold(manifold):
    point = manifold.random_point()
    vector = manifold.random_tangent_vector(point)
    place = place_of(manifold, point)
    assert place.norm(vector) == pytest.approx(manifold.norm(point, vector), rel=1e-12)
    covector = np.arange(1.0, 1 + point.size).reshape(point.shape)
    np.testing.assert_allclose(
        place.gradient(covector),
        manifold.euclidean_to_riemannian_gradient(point, covector),
        rtol=1e-10,
        atol=1e-10,
    )


def test_singular_values_are_those_of_points_that_are_matrices(rng):
    for manifold in (Euclidean(3, 2), FullRank(3, 2, DeepLinearMetric(1))):
        W = rng.standard_normal((3, 2))
        expected = np.sqrt(np.linalg.eigvalsh(W.T @ W)[::-1])
        np.testing.assert_allclose(place_of(manifold, W).singular_values, expected, rtol=1e-12)
    assert place_of(Sphere(3), [0, 0, 1]).singular_values is None
    assert place_of(Product([Sphere(3)]), [[0, 0, 1]]).singular_values is None


def test_states_off_a_curved_manifold_are_brought_back():
    for manifold, defect in (
        (Sphere(4), lambda x: x @ x - 1),
        (Stiefel(4, 2), lambda X: X.T @ X - np.eye(2)),
        (SpecialOrthogonalGroup(3), lambda X: X.T @ X - np.eye(3)),
    ):
        coordinates = coordinates_around(manifold, manifold.random_point())
        state = coordinates.state + 1e-3 * np.arange(coordinates.state.size)
        reached = coordinates.at(state).point
        assert_near(defect(reached), 0, atol=1e-14)
        assert np.abs(reached.ravel() - state).max() < 0.02


def dense(point):
    return point[0] * point[1] @ point[2]


def random_triple(rng, m, n, k, s):
    u, v = (np.linalg.qr(rng.standard_normal((size, k)))[0] for size in (m, n))
    return u, np.asarray(s, dtype=float), v.T


def factor_coordinates(point):
    """Depth 1 does not keep the rank."""
    (m, k), n = point[0].shape, point[2].shape[1]
    coordinates = coordinates_around(FixedRank(m, n, k, DeepLinearMetric(1)), point)
    assert isinstance(coordinates, FactorCoordinates)
    return coordinates


@pytest.mark.parametrize(("m", "n", "k"), [(5, 4, 2), (3, 6, 3), (3, 3, 3), (4, 5, 1)])
def test_factors_move_as_the_matrix_does(rng, m, n, k):
    Up, M, Vp = (rng.standard_normal(size) for size in ((m, k), (k, k), (n, k)))
    coordinates = factor_coordinates(random_triple(rng, m, n, k, [2.0, 0.7, 0.1][:k]))
    state, h = coordinates.state, 1e-6
    # Also where U and V are no longer orthonormal, and B is not diagonal.
    for start in (state, state + 0.1 * rng.standard_normal(state.size)):
        place = coordinates.at(start)
        u, s, vt = place.point
        assert_near(u.T @ u, np.eye(k), atol=1e-14)
        assert_near(vt @ vt.T, np.eye(k), atol=1e-14)
        np.testing.assert_array_equal(place.singular_values, s)
        U, B, V = (part.reshape(-1, k) for part in np.split(start, [m * k, m * k + k * k]))
        assert_near(u * s @ vt, U @ B @ V.T, atol=1e-14)
        out, across = Up - u @ (u.T @ Up), Vp - vt.T @ (vt @ Vp)
        velocity = place.velocity(Blocks(out, M, across))
        forth, back = (dense(coordinates.at(start + t * velocity).point) for t in (h, -h))
        expected = u @ M @ vt + out @ vt + u @ across.T
        assert_near((forth - back) / (2 * h), expected, atol=1e-7)


@pytest.mark.parametrize("smallest", [0.5, 0.0])
def test_factors_obey_the_equations_of_koch_and_lubich(rng, smallest):
    U, s, Vt = random_triple(rng, 5, 4, 2, [3.0, smallest])
    B, V = np.diag(s), Vt.T
    coordinates = factor_coordinates((U, s, Vt))
    np.testing.assert_array_equal(
        coordinates.state, np.concatenate([U.ravel(), B.ravel(), V.ravel()])
    )
    # The tangent vector is written in the factors of the state's point, whose signs may be others.
    place = coordinates.at(coordinates.state)
    u, s, vt = place.point
    Up, M, Vp = (rng.standard_normal(size) for size in ((5, 2), (2, 2), (4, 2)))
    Up, Vp = Up - u @ (u.T @ Up), Vp - vt.T @ (vt @ Vp)
    if not smallest:  # nothing leaves the spaces along a singular value of zero
        Up[:, 1] = Vp[:, 1] = 0.0
    Z = u @ M @ vt + Up @ vt + u @ Vp.T
    inverse = np.linalg.pinv(B)
    expected = [
        (Z - U @ (U.T @ Z)) @ V @ inverse,
        U.T @ Z @ V,
        (Z.T - V @ (V.T @ Z.T)) @ U @ inverse.T,
    ]
    velocity = place.velocity(Blocks(Up, M, Vp))
    expected = np.concatenate([part.ravel() for part in expected])
    assert_near(velocity, expected, atol=1e-13)


@pytest.mark.parametrize("depth", [1, 1.5])
def test_stacks_under_a_metric_that_does_not_keep_the_rank(rng, depth):
    manifold = FullRank(2, 3, DeepLinearMetric(depth))
    points, P = rng.standard_normal((2, 4, 2, 3))
    coordinates = coordinates_around(manifold, points)
    assert isinstance(coordinates, StackCoordinates)
    assert coordinates.stack == (4,)
    assert coordinates.renewed(coordinates.state) is None
    np.testing.assert_array_equal(coordinates.state, points.ravel())
    place = coordinates.at(2 * coordinates.state)
    np.testing.assert_array_equal(place.point, 2 * points)
    np.testing.assert_array_equal(place.record, 2 * points)
    gradient = place.gradient(P)
    np.testing.assert_array_equal(place.velocity(place.tangent(gradient)), gradient.ravel())
    for k, (W, p) in enumerate(zip(2 * points, P, strict=True)):
        alone = place_of(manifold, W)
        np.testing.assert_allclose(gradient[k], alone.gradient(p), rtol=1e-12, atol=1e-12)
        assert place.norm(gradient)[k] == pytest.approx(alone.norm(alone.gradient(p)), rel=1e-10)
        roots = np.sqrt(np.linalg.eigvalsh(W @ W.T)[::-1])
        np.testing.assert_allclose(place.singular_values[k], roots, rtol=1e-10)


@pytest.mark.parametrize("value", [np.ones((2, 3)), np.full((4, 2, 3), np.nan)])
def test_stacks_refuse_what_is_no_gradient(rng, value):
    for depth in (1, 2):
        points = rng.standard_normal((4, 2, 3))
        place = place_of(FullRank(2, 3, DeepLinearMetric(depth)), points)
        with pytest.raises(ValueError, match="^the gradient of the cost must"):
            place.gradient(value)


def test_norms_are_those_of_the_cometric(rng):
    """The square of the norm of A_W(P) is <P, A_W(P)>, in every kind of coordinates of matrices."""
    W, P = rng.standard_normal((2, 3, 2))
    for depth in (1, 2, 3):
        A = dense_cometric(lambda E, N=depth: sharp_by_powers(W, E, N), 3, 2)
        expected = np.sqrt(P.ravel() @ A @ P.ravel())
        manifold = FullRank(3, 2, DeepLinearMetric(depth))
        place = place_of(manifold, W)
        assert place.norm(place.gradient(P)) == pytest.approx(expected, rel=1e-10)
        stack = place_of(manifold, np.stack([W, 2 * W]))
        norms = stack.norm(stack.gradient(np.stack([P, P])))
        factor = 2 ** (1 - 1 / depth)  # A_W is homogeneous of degree 2 - 2/N
        np.testing.assert_allclose(norms, [expected, factor * expected], rtol=1e-10)


def test_products_put_their_factors_one_after_the_other(rng):
    fixed = FixedRank(5, 4, 2, DeepLinearMetric(1), rng=0)
    kept = FixedRank(5, 4, 2, DeepLinearMetric(2), rng=0)
    manifold = Product([SpecialOrthogonalGroup(2), fixed, kept, Euclidean(3)])
    point = manifold.random_point()
    coordinates = coordinates_around(manifold, point)
    vector = manifold.random_tangent_vector(point)
    state = coordinates.state
    assert coordinates.stack == ()
    place = coordinates.at(state)
    velocity = place.velocity(place.tangent(vector))
    ends = [4, 4 + 22, 4 + 22 + 18]
    covectors = [rng.standard_normal(shape) for shape in ((2, 2), (5, 4), (5, 4), (3,))]
    gradients = place.gradient(covectors)
    squares = 0.0
    for j, (part, moving) in enumerate(
        zip(np.split(state, ends), np.split(velocity, ends), strict=True)
    ):
        alone = coordinates_around(manifold.manifolds[j], point[j])
        np.testing.assert_array_equal(part, alone.state)
        there = alone.at(part)
        np.testing.assert_array_equal(moving, there.velocity(there.tangent(vector[j])))
        gradient = there.gradient(covectors[j])
        np.testing.assert_array_equal(there.velocity(gradients[j]), there.velocity(gradient))
        squares += there.norm(gradient) ** 2
    assert place.norm(gradients) == pytest.approx(np.sqrt(squares), rel=1e-14)
    for points in (place.point, place.record):
        rotation, triple, other, free = points
        assert_near(rotation, point[0], atol=1e-14)
        assert_near(dense(triple), dense(point[1]), atol=1e-14)
        assert_near(dense(other), dense(point[2]), atol=1e-14)
        np.testing.assert_array_equal(free, point[3])
        assert type(triple) is type(other) is type(point[1])


def test_products_take_tangent_vectors_as_their_factors_do(rng):
    matrices = FullRank(2, 2, DeepLinearMetric(2))
    W, Z = rng.standard_normal((2, 2, 2))
    place, alone = (
        place_of(Product([Sphere(2), matrices]), [np.array([0.6, 0.8]), W]),
        place_of(matrices, W),
    )
    velocity = place.velocity(place.tangent([np.array([3.0, 4.0]), Z]))
    np.testing.assert_array_equal(velocity[2:], alone.velocity(alone.tangent(Z)))
    np.testing.assert_array_equal(velocity[:2], [3, 4])


def test_products_renew_the_factors_that_are_worn():
    line, matrices = Euclidean(2), FullRank(2, 2, DeepLinearMetric(2))
    start = [np.array([5.0, 6.0]), np.diag([2.0, 1.0]), np.diag([3.0, 1.0])]
    coordinates = coordinates_around(Product([line, matrices, matrices]), start)
    assert coordinates.renewed(coordinates.state) is None
    state = coordinates.state.copy()
    state[:2] = [7.0, 8.0]
    state[2:6] *= 31.0  # X of the first matrix
    state[10:14] *= 2.0  # X of the second one
    renewed = coordinates.renewed(state)
    entries, first, second = renewed.at(renewed.state).point
    np.testing.assert_array_equal(entries, [7, 8])
    np.testing.assert_allclose(first, np.diag([62.0, 31.0]), rtol=1e-14)
    np.testing.assert_allclose(second, np.diag([6.0, 2.0]), rtol=1e-14)
    np.testing.assert_array_equal(renewed.state[10:14], state[10:14])  # is good as it is
    assert np.abs(renewed.state[2:6]).max() == pytest.approx(1)
    assert renewed.renewed(renewed.state) is None


def test_products_may_be_nested():
    class Several:  # pymanopt's Product refuses products
        def __init__(self, *manifolds):
            self.manifolds = manifolds

    manifold = Several(Several(Sphere(3), Euclidean(2)), Euclidean(1))
    x, y, z = np.array([0.6, 0.0, 0.8]), np.ones(2), np.zeros(1)
    coordinates = coordinates_around(manifold, [[x, y], z])
    np.testing.assert_array_equal(coordinates.state, [0.6, 0, 0.8, 1, 1, 0])
    place = coordinates.at(coordinates.state)
    (a, b), c = place.point
    for ours, theirs in ((a, x), (b, y), (c, z)):
        assert_near(ours, theirs, atol=1e-15)
    velocity = place.velocity([[y[:1] * [0, 1, 0], y], z])
    np.testing.assert_array_equal(velocity, [0, 1, 0, 1, 1, 0])
    with pytest.raises(ValueError, match=r"^x\[0\]\[1\] must have shape \(2,\)"):
        coordinates_around(manifold, [[x, z], z], "x")


def test_a_manifold_of_ones_own_brings_its_coordinates():
    class Own(Sphere):
        def coordinates(self, point, name):
            return "its own", point, name

    assert coordinates_around(Own(3), "here", "x") == ("its own", "here", "x")
    assert coordinates_around(Own(3), "here") == ("its own", "here", "initial_point")
    matrix, triple = np.eye(2), (np.eye(2, 1), np.ones(1), np.eye(1, 2))
    for manifold, point, kind in (
        (FullRank(2, 2, DeepLinearMetric(1)), matrix, AmbientCoordinates),
        (FullRank(2, 2, DeepLinearMetric(1)), matrix[None], StackCoordinates),
        (FullRank(2, 2, DeepLinearMetric(2)), matrix, MultiplicativeCoordinates),
        (FullRank(2, 1, DeepLinearMetric(2, 1.0)), matrix[:, :1], FactorCoordinates),
        (FullRank(1, 2, DeepLinearMetric(2, 1.0)), matrix[:1], AmbientCoordinates),
        (FullRank(2, 2, DeepLinearMetric(2, 1.0)), matrix, AmbientCoordinates),
        (FixedRank(2, 2, 1, DeepLinearMetric(1)), triple, FactorCoordinates),
        (FixedRank(2, 2, 1, DeepLinearMetric(2)), triple, MultiplicativeCoordinates),
        (Product([Sphere(3)]), [np.eye(3)[0]], ProductCoordinates),
        (Sphere(3), np.eye(3)[0], AmbientCoordinates),
    ):
        assert type(coordinates_around(manifold, point)) is kind


def test_the_same_coordinates_around_another_state():
    triple = np.eye(3, 2), np.array([2.0, 1.0]), np.eye(2)
    for manifold, point in (
        (Euclidean(2), np.ones(2)),
        (FullRank(2, 2, DeepLinearMetric(1)), np.ones((4, 2, 2))),
        (FullRank(2, 2, DeepLinearMetric(2)), np.array([[3.0, 1.0], [0.0, 2.0]])),
        (FixedRank(3, 2, 2, DeepLinearMetric(1)), triple),
        (Product([Euclidean(1), FixedRank(3, 2, 2, DeepLinearMetric(2))]), [np.ones(1), triple]),
    ):
        coordinates = coordinates_around(manifold, point)
        before, state = coordinates.state.copy(), 1.5 * coordinates.state
        moved = coordinates.around(state)
        np.testing.assert_array_equal(moved.state, state)
        np.testing.assert_array_equal(coordinates.state, before)
        assert moved.stack == coordinates.stack
        velocities = []
        for place in (moved.at(moved.state), coordinates.at(state)):
            vector = place.gradient(CONSTANT.get(type(manifold), np.ones)(point))
            velocities.append(place.velocity(vector))
        np.testing.assert_array_equal(*velocities)
        assert np.abs(velocities[0]).max() > 0


# A covector of a point, where it is not of the shape of the point.
CONSTANT = {
    Euclidean: np.ones_like,
    FullRank: np.ones_like,
    FixedRank: lambda point: np.ones((3, 2)),
    Product: lambda point: [np.ones(1), np.ones((3, 2))],
}


@pytest.mark.parametrize(
    ("manifold", "point"),
    [
        (FixedRankEmbedded(4, 3, 2), None),
        (Product([Sphere(3), FixedRankEmbedded(4, 3, 2)]), [np.eye(3)[0], None]),
    ],
)
def test_refuses_manifolds_without_coordinates(manifold, point):
    message = r"^problem\.manifold must have arrays as points .* rank 2.* point_layout is 3$"
    with pytest.raises(ValueError, match=message):
        coordinates_around(manifold, point)


GOOD = np.eye(5, 2), np.array([2.0, 1.0]), np.eye(2, 4)
STACK = tuple(np.stack([part, part]) for part in GOOD)


@pytest.mark.parametrize(
    ("manifold", "point", "message"),
    [
        (
            Sphere(3),
            np.ones(2),
            r"^x must have shape \(3,\), as the points of Sphere .* got \(2,\)",
        ),
        (Sphere(3), [1, np.nan, 0], "^x must be finite"),
        (Sphere(3), np.array([1j, 0, 0]), "^x must be real"),
        (SpecialOrthogonalGroup(2), np.eye(3), r"^x must have shape \(2, 2\)"),
        (Product([Sphere(3), Sphere(2)]), np.ones((2, 3)), "^x must be a list of 2 points"),
        (Product([Sphere(3), Sphere(2)]), [np.eye(3)[0]], "^x must be a list of 2 points"),
        (Product([Sphere(3), Sphere(2)]), [np.eye(3)[0]] * 2, r"^x\[1\] must have shape \(2,\)"),
    ],
)
def test_refuses_what_is_no_point(manifold, point, message):
    with pytest.raises(ValueError, match=message):
        coordinates_around(manifold, point, "x")


# Under depth 2, which keeps the rank, other coordinates are made than under depth 1.
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize(
    ("point", "message"),
    [
        (np.eye(5), r"^x must be a triple \(u, s, vt\), got array"),
        (GOOD[:2], r"^x must be a triple"),
        ((GOOD[0], GOOD[1], GOOD[2].T), r"^x must have shape \(5, 4\) and 2 sing.* \(4, 2\)"),
        ((GOOD[0][:, :1], GOOD[1][:1], GOOD[2][:1]), r"^x must have .* 2 sing"),
        ((GOOD[0], -GOOD[1], GOOD[2]), r"^x\.s must be nonnegative"),
        ((GOOD[0], np.inf * GOOD[1], GOOD[2]), r"^x\.s must be finite"),
        ((np.nan * GOOD[0], GOOD[1], GOOD[2]), r"^x\.u must be finite"),
        ((GOOD[0], GOOD[1], np.nan * GOOD[2]), r"^x\.vt must be finite"),
        ((GOOD[0], 1j * GOOD[1], GOOD[2]), r"^x\.s must be real"),
        (STACK, "^x must be a single point, got a stack of 2"),
    ],
)
def test_fixed_rank_refuses_what_is_no_point(point, message, depth):
    with pytest.raises(ValueError, match=message):
        coordinates_around(FixedRank(5, 4, 2, DeepLinearMetric(depth)), point, "x")


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize(
    ("point", "message"),
    [
        (np.eye(4), r"^x must have shape \(5, 4\), as the points of .*5x4.*got \(4, 4\)$"),
        (np.ones((2, 2, 5, 4)), r"^x must have shape \(5, 4\).* or be a stack .*\(2, 2, 5, 4\)"),
        (np.ones(5), r"^x must have shape \(5, 4\)"),
        (np.ones((0, 5, 4)), r"^x must have shape \(5, 4\).* got \(0, 5, 4\)"),
        (np.full((5, 4), np.inf), "^x must be finite"),
        (np.full((3, 5, 4), np.nan), "^x must be finite"),
        (1j * np.ones((5, 4)), "^x must be real"),
        (GOOD, r"^x must have shape \(5, 4\) and 4 sing.* got shapes .*\(5, 2\)"),
        (STACK, r"^x must have shape \(5, 4\) and 4 sing"),
        ((np.eye(5, 4), -np.ones(4), np.eye(4)), r"^x\.s must be nonnegative"),
        ((np.eye(5, 4), np.full(4, np.nan), np.eye(4)), r"^x\.s must be finite"),
        ((1j * np.eye(5, 4), np.ones(4), np.eye(4)), r"^x\.u must be real"),
        ((np.eye(5, 4), np.ones(3), np.eye(4)), r"^x must have .* got shapes .*\(3,\)"),
        (
            (np.ones((2, 5, 4)), np.ones((3, 4)), np.ones((2, 4, 4))),
            r"^x must have .* got shapes .*\(3, 4\)",
        ),
    ],
)
def test_full_rank_refuses_what_is_no_point(point, message, depth):
    with pytest.raises(ValueError, match=message):
        coordinates_around(FullRank(5, 4, DeepLinearMetric(depth)), point, "x")


@pytest.mark.parametrize("depth", [1, 2])
def test_products_refuse_stacks(depth):
    one = Sphere(2), np.array([0.6, 0.8])
    other = FullRank(5, 4, DeepLinearMetric(depth)), np.ones((3, 5, 4))
    for j, factors in enumerate([(other, one), (one, other)]):
        manifolds, points = zip(*factors, strict=True)
        with pytest.raises(ValueError, match=rf"^x\[{j}\] must be a single point, got a stack"):
            coordinates_around(Product(manifolds), points, "x")


def test_refuses_velocities_that_are_not_those_of_real_entries():
    circle = place_of(ComplexCircle(2), [1.0, -1.0])  # tangent vectors at real points: imaginary
    with pytest.raises(ValueError, match="^the velocity of the point must be real"):
        circle.velocity(np.array([1j, 2j]))

    class Angles(SpecialOrthogonalGroup):
        def embedding(self, point, tangent_vector):
            return tangent_vector[0, 1:]

    rotations = place_of(Angles(2), np.eye(2))
    with pytest.raises(ValueError, match=r"its shape \(2, 2\), but .* have shape \(1,\) in space"):
        rotations.velocity(np.zeros((2, 2)))


@pytest.mark.parametrize("depth", [1, 2])
def test_starts_of_any_precision_become_float64_and_are_copied(depth):
    metric = DeepLinearMetric(depth)
    for manifold, point in (
        (Euclidean(2), np.array([1, 2])),
        (Euclidean(2), np.array([1, 2], dtype=np.float32)),
        (Euclidean(2), np.ones(2)),
        (FullRank(2, 2, metric), np.array([[1, 2], [3, 5]])),
        (FullRank(2, 2, metric), np.array([[[1, 2], [3, 5]]])),
        (FullRank(2, 2, metric), (np.eye(2, dtype=int), np.array([2, 1]), np.eye(2, dtype=int))),
        (FixedRank(5, 4, 2, metric), GOOD),
        (FixedRank(5, 4, 2, metric), tuple(part.astype(np.float32) for part in GOOD)),
        (FixedRank(5, 4, 2, metric), FixedRankPoint(*(part.astype(int) for part in GOOD))),
    ):
        coordinates = coordinates_around(manifold, point)
        assert coordinates.state.dtype == np.float64
        for part in point:
            assert not np.shares_memory(coordinates.state, part)
        matrix = dense(point) if len(point) == 3 else point
        reached = coordinates.at(coordinates.state).point
        reached = dense(reached) if isinstance(reached, FixedRankPoint) else reached
        assert_near(reached, matrix, atol=1e-14)
        assert np.asarray(reached).dtype == np.float64


def test_refuses_starts_off_a_curved_manifold():
    for manifold, point in ((Sphere(3), [2.0, 0.0, 0.0]), (Stiefel(3, 2), 1.1 * np.eye(3, 2))):
        with pytest.raises(
            ValueError, match=r"^x must be a point of (?s:.*), of which (?s:.*) is made$"
        ):
            coordinates_around(manifold, point, "x")
