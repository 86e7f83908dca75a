import autograd.numpy as anp
import matplotlib
import numpy as np
import pymanopt
import pytest
from pymanopt.manifolds import Euclidean, Sphere

from riemdln import DeepLinearMetric, FullRank, Metric
from riemdln.checks import (
    CheckError,
    check_gradient,
    check_hessian,
    check_metric,
    check_retraction,
)

matplotlib.use("Agg")


def problem_with(manifold, *, gradient=None, hessian=None):
    """The cost sum(W^4) / 4 with a gradient and a Hessian that may be wrong."""

    @pymanopt.function.numpy(manifold)
    def cost(W):
        return np.sum(W**4) / 4

    @pymanopt.function.numpy(manifold)
    def right_gradient(W):
        return W**3

    @pymanopt.function.numpy(manifold)
    def right_hessian(W, X):
        return 3 * W**2 * X

    return pymanopt.Problem(
        manifold,
        cost,
        euclidean_gradient=right_gradient
        if gradient is None
        else pymanopt.function.numpy(manifold)(gradient),
        euclidean_hessian=right_hessian
        if hessian is None
        else pymanopt.function.numpy(manifold)(hessian),
    )


MANIFOLDS = [
    lambda: FullRank(2, 3, DeepLinearMetric(3), rng=0),
    lambda: Euclidean(2, 3),
    lambda: Sphere(2, 3),
]


@pytest.mark.parametrize("manifold", MANIFOLDS)
def test_right_problems_pass(manifold):
    np.random.seed(0)  # noqa: NPY002 (pymanopt's own source of randomness)
    problem = problem_with(manifold())
    assert check_gradient(problem).slope == pytest.approx(2, abs=0.1)
    check = check_hessian(problem)
    assert check.slope == pytest.approx(3, abs=0.1)
    assert check.residuals["symmetry"] < 1e-10
    assert check.residuals["linearity"] < 1e-10


@pytest.mark.parametrize("manifold", MANIFOLDS)
def test_wrong_gradients_are_found(manifold):
    np.random.seed(0)  # noqa: NPY002 (pymanopt's own source of randomness)
    for factor in (1.1, 1.01, 1.001):
        with pytest.raises(
            CheckError, match=r"slope (0\.9|1\.)\d* in the step size, and 2 was expected"
        ):
            check_gradient(problem_with(manifold(), gradient=lambda W, c=factor: c * W**3))


@pytest.mark.parametrize("manifold", MANIFOLDS)
def test_wrong_hessians_are_found(manifold):
    np.random.seed(0)  # noqa: NPY002 (pymanopt's own source of randomness)
    with pytest.raises(CheckError, match=r"slope 2\.\d* in the step size, and 3 was expected"):
        check_hessian(problem_with(manifold(), hessian=lambda W, X: 3.1 * W**2 * X))
    skew = np.arange(36.0).reshape(6, 6)
    skew = skew - skew.T
    with pytest.raises(CheckError, match="the relative error of symmetry"):
        check_hessian(
            problem_with(
                manifold(),
                hessian=lambda W, X: 3 * W**2 * X + (skew @ X.ravel()).reshape(2, 3),
            )
        )


def test_gradients_that_are_not_tangent_are_found():
    class Untidy(Sphere):
        def euclidean_to_riemannian_gradient(self, point, euclidean_gradient):
            return euclidean_gradient

    np.random.seed(0)  # noqa: NPY002 (pymanopt's own source of randomness)
    with pytest.raises(CheckError, match="the relative error of tangency"):
        check_gradient(problem_with(Untidy(2, 3)))


def test_hessians_that_are_not_linear_are_found(rng):
    manifold = Euclidean(2, 3)
    W, X = rng.standard_normal((2, 2, 3))

    def hessian(W, V):
        return 3 * W**2 * V * (1 if np.allclose(V, X) else 2)

    with pytest.raises(CheckError, match="the relative error of linearity"):
        check_hessian(problem_with(manifold, hessian=hessian), W, X)


def with_cost(cost, gradient=lambda W: W):
    manifold = FullRank(2, 2, DeepLinearMetric(2), rng=0)
    functions = (pymanopt.function.numpy(manifold)(f) for f in (cost, gradient, lambda W, X: X))
    cost, gradient, hessian = functions
    return pymanopt.Problem(manifold, cost, euclidean_gradient=gradient, euclidean_hessian=hessian)


@pytest.mark.parametrize("check", [check_gradient, check_hessian])
def test_nothing_is_said_of_what_cannot_be_seen(check):
    for value in (np.nan, np.inf):
        with pytest.raises(CheckError, match="not finite near the point"):
            check(with_cost(lambda W, value=value: value))
    for offset in (1e10, 1e14):
        problem = with_cost(lambda W, c=offset: c + np.sum(W**2) / 2, lambda W: 1.01 * W)
        with pytest.raises(CheckError, match="nothing can be told"):
            check(problem)
    with pytest.raises(ValueError, match="^tangent_vector must be finite and not zero"):
        check(with_cost(lambda W: 0.0), np.eye(2), np.zeros((2, 2)))


def test_a_constant_cost_has_no_gradient():
    assert check_gradient(with_cost(lambda W: 3.0, lambda W: 0 * W)).slope == np.inf


def test_retractions_that_leave_at_rest_are_found():
    class Restless(Euclidean):
        def retraction(self, point, tangent_vector):
            return point + tangent_vector + (0.0 if np.any(tangent_vector) else 1e-3)

    with pytest.raises(CheckError, match="the relative error of origin"):
        check_retraction(Restless(3))


@pytest.mark.parametrize("seed", range(10))
def test_right_problems_pass_at_random_points(seed):
    manifold = FullRank(3, 3, DeepLinearMetric(1 + seed % 4), rng=seed)
    check_gradient(problem_with(manifold))
    check_hessian(problem_with(manifold))


def test_wrong_retractions_are_found():
    class Slow(Euclidean):
        def retraction(self, point, tangent_vector):
            return point + 0.9 * tangent_vector

    class Shifted(Euclidean):
        def retraction(self, point, tangent_vector):
            return point + tangent_vector + 1e-3

    with pytest.raises(CheckError, match=r"slope 1\.0"):
        check_retraction(Slow(3))
    with pytest.raises(CheckError, match=r"slope -?0\.0"):
        check_retraction(Shifted(3))


def test_exact_models_have_an_infinite_slope():
    assert check_retraction(Euclidean(2, 2)).slope == np.inf


def test_takes_a_point_and_a_vector_and_draws_itself(rng):
    problem = problem_with(FullRank(2, 3, DeepLinearMetric(2)))
    W, X = rng.standard_normal((2, 2, 3))
    check = check_gradient(problem, W, X)
    axes = check.plot()
    assert axes.get_xlabel() == "step size"
    assert len(axes.lines) == 2
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), check.step_sizes)
    # The line of slope 2 meets the errors at the longest step, where they are no rounding errors.
    line = check.errors[-1] * (check.step_sizes / check.step_sizes[-1]) ** 2
    np.testing.assert_allclose(axes.lines[1].get_ydata(), line, rtol=1e-12)
    with pytest.raises(ValueError, match="^point must be given"):
        check_gradient(problem, None, X)


def on_a_line(cost, gradient):
    """The problem of one number, of which the check sees cost(0 + t)."""
    line = Euclidean(1)
    functions = (pymanopt.function.numpy(line)(f) for f in (cost, gradient))
    cost, gradient = functions
    return pymanopt.Problem(line, cost, euclidean_gradient=gradient)


@pytest.mark.parametrize("power", [1.1, 1.6, 1.85])
def test_costs_that_are_not_smooth_enough_are_found(power):
    problem = on_a_line(lambda w: np.sum(np.abs(w) ** power), lambda w: 0 * w)
    with pytest.raises(CheckError, match=f"has slope {power:.2f} in the step size"):
        check_gradient(problem, np.zeros(1), np.ones(1))


@pytest.mark.parametrize("digits", [8, 9, 10, 11])
def test_slopes_are_those_beside_rounding_errors(digits):
    # The errors t^2 / 2 are seen in steps of the last digit, larger than the check knows of.
    problem = on_a_line(lambda w: np.round(1 + np.sum(w**2) / 2, digits), lambda w: w)
    check = check_gradient(problem, np.zeros(1), np.ones(1))
    assert check.slope == pytest.approx(2, abs=0.02)


def test_the_residuals_are_relative_errors():
    class Untidy(Sphere):
        def euclidean_to_riemannian_gradient(self, point, euclidean_gradient):
            gradient = super().euclidean_to_riemannian_gradient(point, euclidean_gradient)
            return gradient + error * self.norm(point, gradient) * point

    np.random.seed(0)  # noqa: NPY002 (pymanopt's own source of randomness)
    error = 3e-9
    check = check_gradient(problem_with(Untidy(2, 3)))
    assert check.residuals["tangency"] == pytest.approx(error, rel=1e-3)
    error = 3e-8
    with pytest.raises(CheckError, match="the relative error of tangency is 3.0e-08"):
        check_gradient(problem_with(Untidy(2, 3)))


def test_masked_points_are_refused():
    problem, masked = problem_with(Euclidean(2, 3)), np.ma.masked_array(np.ones((2, 3)), mask=True)
    with pytest.raises(TypeError, match="^point must be an array without a mask"):
        check_gradient(problem, masked)
    with pytest.raises(TypeError, match="^tangent_vector must be an array without a mask"):
        check_hessian(problem, np.ones((2, 3)), masked)


class Power(Metric):
    """A(P) = (W W^T)^a P."""

    def __init__(self, power):
        self.power = power

    def sharp(self, W, P):
        values, vectors = anp.linalg.eigh(W @ W.T)
        return (vectors * values**self.power) @ vectors.T @ P

    def flat(self, W, Z):
        return Power(-self.power).sharp(W, Z)


class Answering(DeepLinearMetric):
    """A right metric but for one method, whose answer is changed."""

    def __init__(self, method, change):
        super().__init__(2)
        right = getattr(self, method)
        setattr(self, method, lambda *arguments: change(right(*arguments)))


METHODS = [
    "sharp",
    "flat",
    "sharp_derivative",
    "sharp_derivative_adjoint",
    "christoffel",
    "root",
    "log_volume_gradient",
]


@pytest.mark.parametrize("power", [0.5, -0.5])
def test_powers_at_lower_rank_are_explained(power):
    # W W^T of an 8 x 2 matrix has six zero eigenvalues, some of which come out negative.
    check_metric(Power(power), 2, 8, rng=0)
    message = r"^sharp is not real and finite at .* 8 x 2 matrix of rank 2: one of W W\^T and"
    with np.errstate(invalid="ignore"), pytest.raises(CheckError, match=message):
        check_metric(Power(power), 8, 2, rng=0)


def test_a_sharp_of_single_precision_is_explained():
    class Single(Metric):
        def sharp(self, W, P):
            return ((1 + W**2) * P).astype(np.float32)

    message = r"^flat failed: flat did not converge: the residual of sharp\(Y\) = Z is"
    with pytest.raises(CheckError, match=message):
        check_metric(Single(), 2, 3, rng=0)


@pytest.mark.parametrize("method", METHODS)
def test_answers_that_are_no_real_finite_matrices_are_named(method):
    check_metric(Answering(method, lambda Z: Z), 3, 3, rng=0)
    for change in (lambda Z: Z * np.nan, lambda Z: Z * np.inf, lambda Z: Z + 0j):
        with pytest.raises(CheckError, match=f"^{method} is not real and finite at .* of rank 3$"):
            check_metric(Answering(method, change), 3, 3, rng=0)
    for change in (np.ravel, np.sum, lambda Z: Z[:2]):
        with pytest.raises(CheckError, match=rf"^{method} must have the shape of W, \(3, 3\)"):
            check_metric(Answering(method, change), 3, 3, rng=0)


@pytest.mark.parametrize("method", METHODS)
def test_small_errors_of_every_method_are_found(method):
    with pytest.raises(CheckError, match="the relative error"):
        check_metric(Answering(method, lambda Z: Z + 1e-4 * np.triu(Z, 1)), 3, 3, rng=0)


@pytest.mark.parametrize(("m", "n"), [(2, 3), (9, 8)])
@pytest.mark.parametrize("least", [-1e-2, -1e-5, -0.99])
def test_one_negative_eigenvalue_is_found(m, n, least):
    class Indefinite(Metric):
        def sharp(self, W, P):
            factors = np.ones((m, n))
            factors[-1, -1] = least
            return factors * P

        def flat(self, W, Z):
            return self.sharp(W, Z) / self.sharp(W, np.ones((m, n))) ** 2

    with pytest.raises(CheckError, match=f"^sharp is not positive definite: .* is {least:.1e}"):
        check_metric(Indefinite(), m, n, rng=0)


class Weighted(Metric):
    """A(P) = (1 + W^2) P, entrywise: sqrt(det g) is the product of (1 + w^2)^{-1/2}."""

    def __init__(self, root=0.5, gradient=1.0, volume=0.5):
        self._root, self._gradient, self._volume = root, gradient, volume

    def sharp(self, W, P):
        return (1 + W**2) * P

    def root(self, W, Z):
        return (1 + W**2) ** self._root * Z

    def log_volume(self, W):
        return -self._volume * np.sum(np.log(1 + W**2))

    def log_volume_gradient(self, W):
        return -self._gradient * W / (1 + W**2)


def test_roots_and_volumes_are_checked():
    check = check_metric(Weighted(), 2, 3, rng=0)
    assert check.root < 1e-14
    assert check.volume < 1e-9
    with pytest.raises(CheckError, match="^root applied twice is not sharp"):
        check_metric(Weighted(root=0.50001), 2, 3, rng=0)
    for wrong in ({"gradient": 1.0001}, {"volume": 0.50001}, {"gradient": 0.0}, {"volume": 0.0}):
        with pytest.raises(CheckError, match="^log_volume_gradient is not the gradient"):
            check_metric(Weighted(**wrong), 2, 3, rng=0)


def test_metrics_are_checked_at_the_matrices_of_the_seed():
    def checks(**options):
        return check_metric(DeepLinearMetric(3), 3, 2, **options)

    assert checks(rng=5) == checks(rng=np.random.SeedSequence(5))
    assert checks(rng=5) != checks(rng=6)
    assert checks() != checks()
    with pytest.raises(ValueError, match="^rng must be"):
        checks(rng=-1)


def test_refuses_what_is_no_problem():
    for check in (check_gradient, check_hessian, check_retraction):
        with pytest.raises(TypeError, match="must be a"):
            check(3)
