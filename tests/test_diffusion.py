"""The coordinates of noise: everything at a state, against dense cometrics and differences."""

import math

import numpy as np
import pytest

from riemdln import DeepLinearMetric, KroneckerMetric, Metric, SpectralMetric
from riemdln.metrics._diffusion import AmbientDiffusion, RootDiffusion
from tests.conftest import dense_cometric, random_matrix

SHAPES = [(1, 1), (2, 2), (3, 3), (2, 4), (4, 3), (1, 3)]
DEPTHS = [1, 2, 2.5, 3, 5, 16]


def derivative(function, h):
    return (8 * (function(h) - function(-h)) - (function(2 * h) - function(-2 * h))) / (12 * h)


def second_derivative(function, h):
    near, far = function(h) + function(-h), function(2 * h) + function(-2 * h)
    return (16 * near - far - 30 * function(0.0)) / (12 * h**2)


def units(m, n):
    return np.eye(m * n).reshape(m * n, 1, m, n)


def root_of(W, depth):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    return np.sqrt(depth) * U * s ** (1 / depth) @ Vt


class Case:
    """A point, and the map to its roots with its derivatives."""

    def __init__(self, m, n, depth, rng):
        self.metric, self.depth, self.shape = DeepLinearMetric(depth), depth, (m, n)
        self.W = random_matrix(rng, m, n, np.linspace(2.0, 0.8, min(m, n)))
        self.R = root_of(self.W, depth)
        self.at = RootDiffusion(depth).at(self.R[None])

    def along(self, X):
        """The derivative of the root along a tangent vector at W."""
        h = 1e-3 / max(np.linalg.norm(X), 1.0)
        return derivative(lambda h: root_of(self.W + h * X, self.depth), h)

    def assert_equal(self, value, expected, tolerance):
        expected = np.reshape(expected, np.shape(value))
        tolerance = tolerance * max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(value, expected, atol=tolerance)


@pytest.fixture(params=[(m, n, depth) for m, n in SHAPES for depth in DEPTHS], ids=str)
def case(request, rng):
    return Case(*request.param, rng)


def test_states_are_roots_and_points_their_powers(case):
    case.assert_equal(RootDiffusion(case.depth).states(case.W[None]), case.R, 1e-13)
    case.assert_equal(case.at.points, case.W, 1e-13)
    singular_values = np.linalg.svd(case.W, compute_uv=False)
    np.testing.assert_allclose(case.at.singular_values[0], singular_values, rtol=1e-13)


def test_the_root_squared_is_the_cometric_of_the_states(case):
    m, n = case.shape
    jacobian = np.array([case.along(E[0]).ravel() for E in units(m, n)]).T
    cometric = jacobian @ dense_cometric(lambda E: case.metric.sharp(case.W, E), m, n) @ jacobian.T
    root, inverse = (
        np.array([function(E).ravel() for E in units(m, n)]).T
        for function in (case.at.root, case.at.inverse_root)
    )
    case.assert_equal(root, root.T, 1e-13)
    case.assert_equal(root @ root, cometric, 1e-9)
    case.assert_equal(inverse @ root, np.eye(m * n), 1e-12)


def test_the_volume_of_the_states_is_constant(case):
    m, n = case.shape
    root = np.array([case.at.root(E).ravel() for E in units(m, n)]).T
    r = min(m, n)
    expected = math.log(case.depth) * (r * (r - 1) / 2 + abs(m - n) * r / 2)
    assert np.linalg.slogdet(root)[1] == pytest.approx(expected, abs=1e-12)
    assert case.at.log_volume() == [0.0]


def test_gradients_and_tangent_vectors_are_pushed_forward(case, rng):
    P = rng.standard_normal(case.shape)
    case.assert_equal(case.at.sharp(P[None]), case.along(case.metric.sharp(case.W, P)), 1e-7)
    case.assert_equal(case.at.tangent(P[None]), case.along(P), 1e-9)
    gradient = case.metric.sharp(case.W, case.metric.entropy_gradient(case.W))
    case.assert_equal(case.at.entropy_gradient(), case.along(gradient), 1e-9)
    assert case.at.entropy()[0] == pytest.approx(case.metric.entropy(case.W), abs=1e-12)


def test_the_laplacian_is_that_of_the_roots_as_functions_of_the_matrix(case):
    """By Ito's formula, from the Laplacian of the entries and the second derivatives."""
    metric, W, depth = case.metric, case.W, case.depth
    expected = case.along(metric.coordinate_laplacian(W)) if depth > 1 else 0.0
    for E in units(*case.shape):
        X = metric.root(W, E[0])
        size = 3e-3 / np.linalg.norm(X) ** 0.5
        expected = expected + second_derivative(lambda h, X=X: root_of(W + h * X, depth), size)
    case.assert_equal(case.at.laplacian(1e-9), expected, 1e-6)


def test_the_drift_of_ito_is_its_definition(case):
    """Half of sum_E DR[R E] E, R the square root of the cometric."""
    metric, W = case.metric, case.W
    expected = 0.0
    for E in units(*case.shape)[:, 0]:
        X = metric.root(W, E)
        expected = expected + derivative(lambda h, X=X, E=E: metric.root(W + h * X, E), 1e-3) / 2
    case.assert_equal(metric.ito_drift(W), expected, 1e-8)


@pytest.mark.parametrize("gap", [0.0, 1e-15, 1e-9, 1e-4, 1e-3, 2e-3])
@pytest.mark.parametrize("depth", [2, 3, 2.5, 7])
def test_nothing_is_lost_near_equal_singular_values(gap, depth):
    """A function of two singular values that is symmetric: near equal ones it hardly changes."""
    equal, near = (
        RootDiffusion(depth).at(np.diag([1 + x / 2, 1 - x / 2])[None]) for x in (0.0, gap)
    )
    values, others = (at.laplacian(1e-9) for at in (near, equal))
    np.testing.assert_allclose(values, others, atol=2 * depth**2 * gap + 1e-12)
    for turn, other in zip(near.turns(1.0), equal.turns(1.0), strict=True):
        np.testing.assert_allclose(turn, other, rtol=depth**2 * gap + 1e-6)
    np.testing.assert_allclose(near.entropy_gradient(), equal.entropy_gradient(), atol=9 * gap)
    x, y = 1 + gap / 2, 1 - gap / 2
    rotated = near.root(np.array([[[0.0, 1.0], [1.0, 0.0]]]))[0, 0, 1]
    tau = math.log(x / y)
    expected = depth * math.tanh(tau / 2) / math.tanh(depth * tau / 2) if gap else 1.0
    assert rotated == pytest.approx(math.sqrt(expected), rel=1e-12)


@pytest.mark.parametrize("least", [0.0, 1e-300, 1e-30, 1e-8])
@pytest.mark.parametrize(("m", "n"), [(2, 2), (2, 3)])
@pytest.mark.parametrize("depth", [2, 3, 2.5])
def test_noise_is_regular_at_lower_rank(m, n, least, depth):
    """Beside a singular value near zero all of a symmetric pair's noise has the variance N."""
    state = np.zeros((1, m, n))
    state[0, 0, 0], state[0, 1, 1] = 1.0, least
    at = RootDiffusion(depth).at(state)
    root = np.array([at.root(E).ravel() for E in units(m, n)]).T
    entries = np.full((m, n), depth)
    entries[[0, 1], [0, 1]] = 1.0
    np.testing.assert_allclose(root @ root, np.diag(entries.ravel()), atol=1e-7)
    for vector in (at.laplacian(0.1), *at.turns(0.1), at.sharp(np.ones((1, m, n)))):
        assert np.isfinite(vector).all()
    # What would lead beyond zero leads to zero.
    assert (state + 0.1 * at.laplacian(0.1))[0, 1, 1] >= -0.1 * abs(at.laplacian(1e-9)[0, 0, 0])


def test_states_with_a_condition():
    """What is known of two stacks is put together copy by copy."""
    rng = np.random.default_rng(0)
    for diffusion in (RootDiffusion(3), AmbientDiffusion(DeepLinearMetric(3))):
        a, b, Z = rng.standard_normal((3, 4, 2, 3))
        condition = np.array([True, False, False, True])
        mixed = np.where(condition[:, None, None], a, b)
        together = diffusion.at(a).where(condition, diffusion.at(b))
        np.testing.assert_allclose(together.points, diffusion.at(mixed).points, atol=1e-13)
        np.testing.assert_allclose(together.root(Z), diffusion.at(mixed).root(Z), atol=1e-12)
        np.testing.assert_allclose(
            together.laplacian(1e-3), diffusion.at(mixed).laplacian(1e-3), atol=1e-11
        )


class Own(Metric):
    def __repr__(self):
        return "Own()"

    def sharp(self, W, P):
        return (1 + W**2) * P


@pytest.mark.parametrize(
    "metric",
    [
        Own(),
        SpectralMetric(lambda s, t: 1 + s**2 + 2 * t),
        KroneckerMetric(np.diag([1.0, 4.0]), np.diag([1.0, 2.0, 3.0])),
        DeepLinearMetric(2).kernel + 0.1,
    ],
    ids=["own", "nonsymmetric", "kronecker", "sum"],
)
def test_other_metrics_have_inverse_roots_and_drifts(metric, rng):
    if not isinstance(metric, Metric):
        metric = SpectralMetric(metric)
    W, Z = rng.standard_normal((2, 2, 3, 2, 3))
    at = metric.at(W)
    np.testing.assert_allclose(at.inverse_root(at.root(Z)), Z, atol=1e-11)
    np.testing.assert_allclose(at.root(at.root(Z)), at.sharp(Z), atol=1e-10)
    for point, drift in zip(W, metric.ito_drift(W), strict=True):
        expected = 0.0
        for E in units(2, 3)[:, 0]:
            X = metric.root(point, E)
            expected = expected + derivative(
                lambda h, E=E, X=X, W=point: metric.root(W + h * X, E), 1e-3
            )
        np.testing.assert_allclose(drift, expected / 2, atol=1e-8)


@pytest.mark.parametrize(
    ("metric", "changes"),
    [
        (DeepLinearMetric(1), True),
        (DeepLinearMetric(2), False),
        (DeepLinearMetric(3), True),
        (DeepLinearMetric(2.5), False),
        (DeepLinearMetric(math.inf), False),
        (SpectralMetric(lambda s, t: s + t), False),
        (SpectralMetric(lambda s, t: 1 + s + t), True),
        (Own(), True),
    ],
    ids=str,
)
def test_whether_noise_changes_the_sign_of_a_determinant(metric, changes):
    assert metric.changes_determinant_sign is changes


def test_what_entries_hold_of_the_least_singular_value():
    """At infinite depth its noise is in proportion to it, at depth 2 to its root."""
    W = np.array([np.diag([1.0, 1e-20]), np.diag([1.0, 1e-10]), np.diag([1.0, 0.1])])
    infinite, two = DeepLinearMetric(math.inf).at(W), DeepLinearMetric(2).at(W)
    for at in (infinite, two):
        assert at.holds_least_singular_value(0.0).tolist() == [False, True, True]
    # Noise of variance v moves it by v theta(1, s) = v / (2 ln(1 / s)), to the second order.
    assert infinite.holds_least_singular_value(1e-2).tolist() == [False, False, True]
    assert infinite.holds_least_singular_value(1e-12).tolist() == [False, True, True]
    assert infinite.holds_least_singular_value(0.5).tolist() == [False, False, False]
    assert two.holds_least_singular_value(1e-2).tolist() == [True, True, True]
    assert Own().at(W[0]).holds_least_singular_value(0.1)
    assert RootDiffusion(3).holds_least_singular_value(W, 0.1).all()


def test_the_inverse_root_is_refused_where_there_is_none():
    with pytest.raises(ValueError, match="W must have full rank"):
        DeepLinearMetric(2).at(np.zeros((2, 2))).inverse_root(np.eye(2))
