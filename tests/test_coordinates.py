"""Coordinates for differential equations, against the definition of a retraction."""

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
from riemdln.manifolds._coordinates import (
    AmbientCoordinates,
    FactorCoordinates,
    ProductCoordinates,
    coordinates_of,
)

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
    FullRank(2, 3, DeepLinearMetric(3), rng=0),
]


@pytest.fixture(autouse=True)
def seed():
    np.random.seed(0)  # noqa: NPY002, pymanopt's manifolds draw from it


@pytest.mark.parametrize("manifold", WITH_ARRAYS, ids=str)
def test_entries_move_as_the_retraction_leads(manifold):
    point = manifold.random_point()
    vector = manifold.random_tangent_vector(point)
    coordinates, h = coordinates_of(manifold), 1e-5
    state = coordinates.to_state(point)
    forth, back = (manifold.retraction(point, t * vector).ravel() for t in (h, -h))
    velocity = coordinates.velocity(state, vector)
    np.testing.assert_allclose(velocity, (forth - back) / (2 * h), atol=1e-8)
    assert np.linalg.norm(velocity) > 0.01


@pytest.mark.parametrize("manifold", WITH_ARRAYS, ids=str)
def test_points_come_back_from_their_entries(manifold):
    point = manifold.random_point()
    coordinates = coordinates_of(manifold)
    state = coordinates.to_state(point)
    assert (state.dtype, state.shape) == (np.float64, (point.size,))
    np.testing.assert_allclose(coordinates.to_point(state), point, atol=1e-14)


def test_states_off_a_curved_manifold_are_brought_back():
    for manifold, defect in (
        (Sphere(4), lambda x: x @ x - 1),
        (Stiefel(4, 2), lambda X: X.T @ X - np.eye(2)),
        (SpecialOrthogonalGroup(3), lambda X: X.T @ X - np.eye(3)),
    ):
        coordinates = coordinates_of(manifold)
        state = coordinates.to_state(manifold.random_point())
        state += 1e-3 * np.arange(state.size)
        reached = coordinates.to_point(state)
        np.testing.assert_allclose(defect(reached), 0, atol=1e-14)
        assert np.abs(reached.ravel() - state).max() < 0.02


def dense(point):
    return point[0] * point[1] @ point[2]


def random_triple(rng, m, n, k, s):
    u, v = (np.linalg.qr(rng.standard_normal((size, k)))[0] for size in (m, n))
    return u, np.asarray(s, dtype=float), v.T


@pytest.mark.parametrize(("m", "n", "k"), [(5, 4, 2), (3, 6, 3), (3, 3, 3), (4, 5, 1)])
def test_factors_move_as_the_matrix_does(rng, m, n, k):
    u, s, vt = random_triple(rng, m, n, k, [2.0, 0.7, 0.1][:k])
    Up, M, Vp = (rng.standard_normal(size) for size in ((m, k), (k, k), (n, k)))
    coordinates, h = FactorCoordinates(m, n, k, lambda *factors: factors), 1e-6
    state = coordinates.to_state((u, s, vt))
    # Also where U and V are no longer orthonormal, and B is not diagonal.
    for start in (state, state + 0.1 * rng.standard_normal(state.size)):
        u, s, vt = coordinates.to_point(start)
        np.testing.assert_allclose(u.T @ u, np.eye(k), atol=1e-14)
        np.testing.assert_allclose(vt @ vt.T, np.eye(k), atol=1e-14)
        U, B, V = (part.reshape(-1, k) for part in np.split(start, [m * k, m * k + k * k]))
        np.testing.assert_allclose(u * s @ vt, U @ B @ V.T, atol=1e-14)
        out, across = Up - u @ (u.T @ Up), Vp - vt.T @ (vt @ Vp)
        velocity = coordinates.velocity(start, (out, M, across))
        forth, back = (dense(coordinates.to_point(start + t * velocity)) for t in (h, -h))
        expected = u @ M @ vt + out @ vt + u @ across.T
        np.testing.assert_allclose((forth - back) / (2 * h), expected, atol=1e-7)


@pytest.mark.parametrize("smallest", [0.5, 0.0])
def test_factors_obey_the_equations_of_koch_and_lubich(rng, smallest):
    U, s, Vt = random_triple(rng, 5, 4, 2, [3.0, smallest])
    B, V = np.diag(s), Vt.T
    coordinates = FactorCoordinates(5, 4, 2, lambda *factors: factors)
    state = coordinates.to_state((U, s, Vt))
    np.testing.assert_array_equal(state, np.concatenate([U.ravel(), B.ravel(), V.ravel()]))
    # The tangent vector is written in the factors of the state's point, whose signs may be others.
    u, s, vt = coordinates.to_point(state)
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
    velocity = coordinates.velocity(state, (Up, M, Vp))
    expected = np.concatenate([part.ravel() for part in expected])
    np.testing.assert_allclose(velocity, expected, atol=1e-13)


def test_products_put_their_factors_one_after_the_other(rng):
    fixed = FixedRank(5, 4, 2, DeepLinearMetric(2), rng=0)
    manifold = Product([SpecialOrthogonalGroup(2), fixed, Euclidean(3)])
    point, coordinates = manifold.random_point(), coordinates_of(manifold)
    vector = manifold.random_tangent_vector(point)
    state = coordinates.to_state(point)
    velocity = coordinates.velocity(state, vector)
    ends = [4, 4 + 10 + 4 + 8]
    for factor, x, v, part, moving in zip(
        manifold.manifolds,
        point,
        vector,
        np.split(state, ends),
        np.split(velocity, ends),
        strict=True,
    ):
        alone = coordinates_of(factor)
        np.testing.assert_array_equal(part, alone.to_state(x))
        np.testing.assert_array_equal(moving, alone.velocity(part, v))
    rotation, triple, free = coordinates.to_point(state)
    np.testing.assert_allclose(rotation, point[0], atol=1e-14)
    np.testing.assert_allclose(dense(triple), dense(point[1]), atol=1e-14)
    np.testing.assert_array_equal(free, point[2])
    assert type(triple) is type(point[1])


def test_products_may_be_nested():
    inner = ProductCoordinates([coordinates_of(Sphere(3)), coordinates_of(Euclidean(2))])
    coordinates = ProductCoordinates([inner, coordinates_of(Euclidean(1))])
    x, y, z = np.array([0.6, 0.0, 0.8]), np.ones(2), np.zeros(1)
    state = coordinates.to_state([[x, y], z])
    np.testing.assert_array_equal(state, [0.6, 0, 0.8, 1, 1, 0])
    (a, b), c = coordinates.to_point(state)
    for ours, theirs in ((a, x), (b, y), (c, z)):
        np.testing.assert_allclose(ours, theirs, atol=1e-15)
    velocity = coordinates.velocity(state, [[y[:1] * [0, 1, 0], y], z])
    np.testing.assert_array_equal(velocity, [0, 1, 0, 1, 1, 0])


def test_a_manifold_of_ones_own_brings_its_coordinates():
    class Own(Sphere):
        def coordinates(self):
            return "its own"

    assert coordinates_of(Own(3)) == "its own"
    for manifold, kind in (
        (FullRank(2, 2, DeepLinearMetric(2)), AmbientCoordinates),
        (FixedRank(2, 2, 1, DeepLinearMetric(2)), FactorCoordinates),
        (Product([Sphere(3)]), ProductCoordinates),
        (Sphere(3), AmbientCoordinates),
    ):
        assert type(coordinates_of(manifold)) is kind


@pytest.mark.parametrize(
    "manifold", [FixedRankEmbedded(4, 3, 2), Product([Sphere(3), FixedRankEmbedded(4, 3, 2)])]
)
def test_refuses_manifolds_without_coordinates(manifold):
    message = r"^problem\.manifold must have arrays as points .* rank 2.* point_layout is 3$"
    with pytest.raises(ValueError, match=message):
        coordinates_of(manifold)


GOOD = np.eye(5, 2), np.array([2.0, 1.0]), np.eye(2, 4)


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
        ("fixed", np.eye(5), r"^x must be a triple \(u, s, vt\), got array"),
        ("fixed", GOOD[:2], r"^x must be a triple"),
        (
            "fixed",
            (GOOD[0], GOOD[1], GOOD[2].T),
            r"^x must have shape \(5, 4\) and rank 2.* \(4, 2\)",
        ),
        ("fixed", (GOOD[0][:, :1], GOOD[1][:1], GOOD[2][:1]), r"^x must have .* rank 2"),
        ("fixed", (GOOD[0], -GOOD[1], GOOD[2]), r"^x\.s must be nonnegative"),
        ("fixed", (GOOD[0], np.inf * GOOD[1], GOOD[2]), r"^x\.s must be finite"),
        ("fixed", (np.nan * GOOD[0], GOOD[1], GOOD[2]), r"^x\.u must be finite"),
        ("fixed", (GOOD[0], GOOD[1], np.nan * GOOD[2]), r"^x\.vt must be finite"),
        (Product([Sphere(3), Sphere(2)]), np.ones((2, 3)), "^x must be a list of 2 points"),
        (Product([Sphere(3), Sphere(2)]), [np.ones(3)], "^x must be a list of 2 points"),
        (Product([Sphere(3), Sphere(2)]), [np.ones(3)] * 2, r"^x\[1\] must have shape \(2,\)"),
    ],
)
def test_refuses_what_is_no_point(manifold, point, message):
    if manifold == "fixed":
        manifold = FixedRank(5, 4, 2, DeepLinearMetric(2))
    with pytest.raises(ValueError, match=message):
        coordinates_of(manifold).to_state(point, "x")


def test_refuses_velocities_that_are_not_those_of_real_entries():
    circle = coordinates_of(ComplexCircle(2))  # its tangent vectors at real points are imaginary
    state = circle.to_state([1.0, -1.0])
    with pytest.raises(ValueError, match="^the velocity of the point must be real"):
        circle.velocity(state, np.array([1j, 2j]))

    class Angles(SpecialOrthogonalGroup):
        def embedding(self, point, tangent_vector):
            return tangent_vector[0, 1:]

    rotations = coordinates_of(Angles(2))
    state = rotations.to_state(np.eye(2))
    with pytest.raises(ValueError, match=r"its shape \(2, 2\), but .* have shape \(1,\) in space"):
        rotations.velocity(state, np.zeros((2, 2)))


def test_starts_of_any_precision_become_float64_and_are_copied():
    for coordinates, point in (
        (coordinates_of(Euclidean(2)), np.array([1, 2])),
        (coordinates_of(Euclidean(2)), np.array([1, 2], dtype=np.float32)),
        (coordinates_of(FixedRank(5, 4, 2, DeepLinearMetric(2))), GOOD),
    ):
        state = coordinates.to_state(point)
        assert state.dtype == np.float64
        for part in point:
            assert not np.shares_memory(state, part)
    point = np.ones(2)
    assert not np.shares_memory(coordinates_of(Euclidean(2)).to_state(point), point)
