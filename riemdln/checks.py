"""Numerical checks of gradients, Hessians, retractions and metrics.

Each check compares something, at one point, with its definition. Where they differ it raises a
`CheckError` that says what is wrong. Otherwise it returns the errors that it found, which a test
can assert and `TaylorCheck.plot` draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pymanopt import Problem
from pymanopt.manifolds.manifold import Manifold
from scipy.sparse.linalg import LinearOperator, eigsh

from riemdln._arrays import Rng, integer, random_generator, require_unmasked
from riemdln._differences import central_difference
from riemdln.metrics import Metric

__all__ = [
    "CheckError",
    "MetricCheck",
    "TaylorCheck",
    "check_gradient",
    "check_hessian",
    "check_metric",
    "check_retraction",
]

Vector = NDArray[np.floating[Any]]

# Up to this distance of their logarithms from a line, errors are said to lie on the line.
_STRAIGHT = 0.02


class CheckError(AssertionError):
    """What a check raises where it finds something wrong."""


@dataclass(frozen=True, eq=False)
class TaylorCheck:
    """How fast the error of a Taylor model goes to zero with the step size.

    On logarithmic axes the errors of a model of order p lie on a line of slope p.

    Attributes
    ----------
    slope : float
        The slope at the smallest step sizes where the errors are larger than rounding errors and
        lie on a line; infinite if all errors are rounding errors.
    expected_slope : float
        The slope that a right model has at least.
    residuals : dict of str to float
        Relative errors of what else was checked, such as "symmetry".
    step_sizes, errors : array (K,)
        The step sizes, and the errors of the model there.
    """

    slope: float
    expected_slope: float
    residuals: dict[str, float]
    step_sizes: Vector = field(repr=False)
    errors: Vector = field(repr=False)

    def plot(self, axes: Any = None) -> Any:
        """Draw the errors against the step sizes, beside a line of the expected slope.

        Parameters
        ----------
        axes : matplotlib.axes.Axes, optional
            Where to draw; by default on new axes.

        Returns
        -------
        matplotlib.axes.Axes
        """
        if axes is None:
            from matplotlib import pyplot

            axes = pyplot.subplots(layout="constrained")[1]
        visible = self.errors > 0
        axes.loglog(self.step_sizes[visible], self.errors[visible], "o", markersize=3)
        line = self.step_sizes**self.expected_slope
        line *= self.errors[-1] / line[-1] if self.errors[-1] > 0 else 1.0
        axes.loglog(self.step_sizes, line, "--", label=f"slope {self.expected_slope:g}")
        smallest = np.min(self.errors[visible], initial=np.inf)
        if np.isfinite(smallest):
            axes.set_ylim(smallest / 10, np.max(self.errors) * 10)
        axes.set(xlabel="step size", ylabel="error of the model", title=f"slope {self.slope:.2f}")
        axes.legend(frameon=False)
        return axes


@dataclass(frozen=True)
class MetricCheck:
    """How well a metric satisfies its equations at a random point.

    Attributes
    ----------
    symmetry : float
        The relative error of <P, A(Q)> = <Q, A(P)>, with A the cometric `sharp`.
    positivity : float
        The least eigenvalue of A divided by the largest, which must be positive. For matrices of
        more than 64 entries it is known to three digits, by the Lanczos method.
    inverse : float
        The relative error of A(flat(X)) = X.
    inner : float
        Of g(X, Y) = <A^{-1} X, Y>.
    derivative : float
        The relative error of `sharp_derivative` against central differences of `sharp`.
    adjoint : float
        The relative error of <Xi(p, q), X> = <p, DA[X] q>, with Xi `sharp_derivative_adjoint` and
        DA `sharp_derivative`.
    christoffel_symmetry : float
        The relative error of Gamma(X, Y) = Gamma(Y, X), with Gamma `christoffel`.
    compatibility : float
        The relative error of 2 g(Gamma(X, Y), Y) against central differences of g(Y, Y) along X.
    root : float
        The relative error of R(R(P)) = A(P), with R the `root` of the cometric.
    volume : float
        The error of `log_volume_gradient` against central differences of `log_volume` along X, as
        the change over a step of the length of W.
    """

    symmetry: float
    positivity: float
    inverse: float
    inner: float
    derivative: float
    adjoint: float
    christoffel_symmetry: float
    compatibility: float
    root: float
    volume: float


def check_gradient(
    problem: Problem,
    point: ArrayLike | None = None,
    tangent_vector: ArrayLike | None = None,
) -> TaylorCheck:
    """Check the Riemannian gradient of a problem against its cost.

    Along a retraction R the cost is f(R(t X)) = f + t <grad f, X> + O(t^2), where the last term
    has slope 2.

    Parameters
    ----------
    problem : pymanopt.Problem
        The problem.
    point, tangent_vector : array_like, optional
        Where to check, and in which direction. By default the manifold draws both at random.

    Returns
    -------
    TaylorCheck
        With the residual "tangency", how far the gradient is from the tangent space.

    Raises
    ------
    CheckError
        If the slope is less than 1.9, or a residual more than 1e-8.

    Examples
    --------
    >>> import autograd.numpy as anp
    >>> import pymanopt
    >>> import riemdln
    >>> from riemdln.checks import check_gradient
    >>> manifold = riemdln.FullRank(2, 3, riemdln.DeepLinearMetric(3), rng=0)
    >>> @pymanopt.function.autograd(manifold)
    ... def cost(W):
    ...     return anp.sum(W**4)
    >>> round(check_gradient(pymanopt.Problem(manifold, cost)).slope, 1)
    2.0
    """
    _require_type("problem", problem, Problem)
    manifold = problem.manifold
    point, X = _where(manifold, point, tangent_vector)
    cost, gradient = problem.cost(point), problem.riemannian_gradient(point)
    derivative = manifold.inner_product(point, gradient, X)
    projected = manifold.to_tangent_space(point, gradient)
    leaving = manifold.norm(point, gradient - projected)
    residuals = {"tangency": _ratio(leaving, manifold.norm(point, gradient))}
    return _taylor_check(
        lambda t: problem.cost(manifold.retraction(point, t * X)) - cost - t * derivative,
        lambda t: t * derivative,
        expected_slope=2,
        noise=abs(cost),
        residuals=residuals,
        advice="the gradient, or the Euclidean gradient behind it, is not that of the cost",
    )


def check_hessian(
    problem: Problem,
    point: ArrayLike | None = None,
    tangent_vector: ArrayLike | None = None,
) -> TaylorCheck:
    """Check the Riemannian Hessian of a problem against its cost and gradient.

    Along a geodesic the cost is f(exp(t X)) = f + t <grad f, X> + t^2 <Hess f[X], X> / 2 + O(t^3),
    where the last term has slope 3. On a manifold without `exp` the retraction takes the place of
    the geodesic, and must be of second order.

    Parameters
    ----------
    problem : pymanopt.Problem
        The problem.
    point, tangent_vector : array_like, optional
        Where to check, and in which direction. By default the manifold draws both at random.

    Returns
    -------
    TaylorCheck
        With the residuals "linearity" and "symmetry" of the Hessian.

    Raises
    ------
    CheckError
        If the slope is less than 2.9, or a residual more than 1e-8.

    Examples
    --------
    >>> import autograd.numpy as anp
    >>> import pymanopt
    >>> import riemdln
    >>> from riemdln.checks import check_hessian
    >>> manifold = riemdln.FullRank(2, 3, riemdln.DeepLinearMetric(3), rng=0)
    >>> @pymanopt.function.autograd(manifold)
    ... def cost(W):
    ...     return anp.sum(W**4)
    >>> round(check_hessian(pymanopt.Problem(manifold, cost)).slope, 1)
    3.0
    """
    _require_type("problem", problem, Problem)
    manifold = problem.manifold
    point, X = _where(manifold, point, tangent_vector)
    cost, gradient = problem.cost(point), problem.riemannian_gradient(point)
    first = manifold.inner_product(point, gradient, X)
    along_X = problem.riemannian_hessian(point, X)
    second = manifold.inner_product(point, along_X, X)

    Y = manifold.random_tangent_vector(point)
    along_Y = problem.riemannian_hessian(point, Y)
    along_both = problem.riemannian_hessian(point, 2.0 * X - 3.0 * Y)
    across = manifold.inner_product(point, along_X, Y)
    back = manifold.inner_product(point, X, along_Y)
    scale = manifold.norm(point, along_X) * manifold.norm(point, Y)
    nonlinear = manifold.norm(point, 2.0 * along_X - 3.0 * along_Y - along_both)
    residuals = {
        "linearity": _ratio(nonlinear, manifold.norm(point, along_both)),
        "symmetry": _ratio(abs(across - back), scale),
    }

    def error(t: float) -> float:
        reached = problem.cost(_geodesic_step(manifold, point, t * X))
        return reached - cost - t * first - t**2 / 2 * second

    return _taylor_check(
        error,
        lambda t: t**2 / 2 * second,
        expected_slope=3,
        noise=abs(cost),
        residuals=residuals,
        advice="the Hessian, or the gradient, is not that of the cost",
    )


def check_retraction(
    manifold: Manifold,
    point: ArrayLike | None = None,
    tangent_vector: ArrayLike | None = None,
) -> TaylorCheck:
    """Check a manifold's retraction against its geodesics.

    The distance ``|R(t X) - exp(t X)|`` has slope 2 for every retraction, and slope 3 for one of
    second order.

    Parameters
    ----------
    manifold : pymanopt.manifolds.manifold.Manifold
        A manifold with `exp`, whose points are arrays or triples (u, s, vt).
    point, tangent_vector : array_like, optional
        Where to check, and in which direction. By default the manifold draws both at random.

    Returns
    -------
    TaylorCheck
        With the residual "origin", how far R(0) is from the point.

    Raises
    ------
    CheckError
        If the slope is less than 1.9, or the residual more than 1e-8.

    Examples
    --------
    >>> import riemdln
    >>> from riemdln.checks import check_retraction
    >>> metric = riemdln.DeepLinearMetric(3)
    >>> manifold = riemdln.FullRank(2, 3, metric, retraction="second_order", rng=0)
    >>> round(check_retraction(manifold).slope, 1)
    3.0
    """
    _require_type("manifold", manifold, Manifold)
    point, X = _where(manifold, point, tangent_vector)
    start = _embedded(point)
    origin = _embedded(manifold.retraction(point, manifold.zero_vector(point)))

    def error(t: float) -> float:
        reached = _embedded(manifold.retraction(point, t * X))
        return float(np.linalg.norm(reached - _embedded(manifold.exp(point, t * X))))

    return _taylor_check(
        error,
        lambda t: t * float(np.linalg.norm(_embedded(manifold.retraction(point, X)) - start)),
        expected_slope=2,
        noise=float(np.linalg.norm(start)),
        residuals={"origin": _relative(origin - start, start)},
        advice="the retraction does not leave the point along the tangent vector",
    )


def check_metric(metric: Metric, m: int, n: int, *, rng: Rng = None) -> MetricCheck:
    """Check a metric at a random m x n matrix, whose singular values go from 1/2 to 2.

    Parameters
    ----------
    metric : Metric
        The metric.
    m, n : int
        The numbers of rows and columns.
    rng : numpy.random.Generator, int or None
        The source of the random matrices, or whatever else `numpy.random.default_rng` takes.

    Returns
    -------
    MetricCheck

    Raises
    ------
    CheckError
        If `sharp` is not symmetric, not positive definite, not inverted by `flat` or not the square
        of `root`, or if a derivative is wrong, by a relative error of more than 1e-6, or if an
        answer is not a finite real m x n matrix.

    Examples
    --------
    >>> import riemdln
    >>> from riemdln.checks import check_metric
    >>> check = check_metric(riemdln.DeepLinearMetric(3), 2, 3, rng=0)
    >>> check.symmetry < 1e-12 and check.derivative < 1e-8
    True
    """
    _require_type("metric", metric, Metric)
    m, n = integer("m", m), integer("n", n)
    metric.require_shape(m, n)
    rng = random_generator("rng", rng)
    W, X, Y, P, Q = rng.standard_normal((5, m, n))
    U, _, Vt = np.linalg.svd(W, full_matrices=False)
    W = U * np.geomspace(2.0, 0.5, min(m, n)) @ Vt

    def pair(a: Vector, b: Vector) -> float:
        return float(np.sum(a * b))

    def sharp(W: Vector, covector: Vector) -> Vector:
        return _matrix("sharp", metric.sharp(W, covector), W)

    sharp_P, sharp_Q = sharp(W, P), sharp(W, Q)
    symmetry = _relative(pair(P, sharp_Q) - pair(Q, sharp_P), np.abs(P) * np.abs(sharp_Q))
    _require_small("symmetry", symmetry, "sharp is not symmetric: <P, A(Q)> differs from <Q, A(P)>")
    positivity = _positivity(lambda P: sharp(W, P), m, n, rng)
    if not positivity > 0:
        raise CheckError(
            "sharp is not positive definite: its least eigenvalue is "
            f"{positivity:.1e} times the largest"
        )
    try:
        flat_X = _matrix("flat", metric.flat(W, X), W)
    except np.linalg.LinAlgError as error:
        raise CheckError(f"flat failed: {error}") from error
    inverse = _relative(sharp(W, flat_X) - X, X)
    _require_small("inverse", inverse, "flat is not the inverse of sharp")
    paired = np.sum(flat_X * Y)
    inner = _ratio(abs(metric.inner(W, X, Y) - paired), np.linalg.norm(flat_X) * np.linalg.norm(Y))
    _require_small("inner", inner, "inner is not the pairing of flat(X) with Y")

    along_X = _matrix("sharp_derivative", metric.sharp_derivative(W, X, P), W)
    unit = np.linalg.norm(W) / np.linalg.norm(X)  # the steps along X that change W by its own size

    def differences(function: Callable[[Vector], Any]) -> Any:
        """The derivative along X, by central differences of fourth order."""
        return central_difference(lambda step: function(W + step * X), 1e-3 * unit)

    expected = differences(lambda V: sharp(V, P))
    derivative = _relative(along_X - expected, sharp_P / unit)
    _require_small(
        "derivative", derivative, "sharp_derivative is not the derivative of sharp along X"
    )
    pulled = _matrix("sharp_derivative_adjoint", metric.sharp_derivative_adjoint(W, Q, P), W)
    adjoint = _relative(pair(pulled, X) - pair(Q, along_X), np.abs(Q) * np.abs(sharp_P))
    _require_small(
        "adjoint", adjoint, "sharp_derivative_adjoint is not the adjoint of sharp_derivative"
    )
    gamma, swapped = (
        _matrix("christoffel", metric.christoffel(W, *vectors), W) for vectors in ((X, Y), (Y, X))
    )
    asymmetry = _relative(gamma - swapped, np.abs(X) * np.abs(Y))
    _require_small("christoffel_symmetry", asymmetry, "christoffel is not symmetric in its vectors")
    flat_Y = metric.flat(W, Y)
    change = differences(lambda V: pair(Y, metric.flat(V, Y))) - 2 * pair(flat_Y, gamma)
    compatibility = _relative(change, pair(Y, flat_Y) / unit)
    _require_small("compatibility", compatibility, "christoffel is not that of this metric")

    root_P = _matrix("root", metric.root(W, P), W)
    root = _relative(_matrix("root", metric.root(W, root_P), W) - sharp_P, sharp_P)
    _require_small("root", root, "root applied twice is not sharp")
    climb = pair(_matrix("log_volume_gradient", metric.log_volume_gradient(W), W), X)
    volume = float(unit * abs(climb - differences(metric.log_volume)))
    _require_small("volume", volume, "log_volume_gradient is not the gradient of log_volume")
    return MetricCheck(
        symmetry=symmetry,
        positivity=positivity,
        inverse=inverse,
        inner=inner,
        derivative=derivative,
        adjoint=adjoint,
        christoffel_symmetry=asymmetry,
        compatibility=compatibility,
        root=root,
        volume=volume,
    )


def _positivity(
    sharp: Callable[[Vector], Vector], m: int, n: int, rng: np.random.Generator
) -> float:
    """The least eigenvalue of `sharp` over the largest."""

    def apply(covector: Vector) -> Vector:
        return np.ravel(sharp(covector.reshape(m, n)))

    if m * n <= 64:
        matrix = np.array([apply(covector) for covector in np.eye(m * n)])
        eigenvalues = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    else:
        operator = LinearOperator((m * n, m * n), matvec=apply, dtype=np.float64)
        start = rng.standard_normal(m * n)
        eigenvalues = eigsh(
            operator, k=2, which="BE", v0=start, tol=1e-3, return_eigenvectors=False
        )
    return float(np.min(eigenvalues) / np.max(np.abs(eigenvalues)))


def _matrix(name: str, answer: Any, W: Vector) -> Vector:
    """What a metric's method answered at W, if it is a finite real matrix of the shape of W."""
    if np.shape(answer) != W.shape:
        raise CheckError(f"{name} must have the shape of W, {W.shape}, got {np.shape(answer)}")
    if not (np.isrealobj(answer) and np.isfinite(answer).all()):
        m, n = W.shape
        hint = (
            ": one of W W^T and W^T W is singular there, and the rounding errors that take the "
            "place of its zero eigenvalues may be negative and have no real powers"
        )
        raise CheckError(
            f"{name} is not real and finite at a random {m} x {n} matrix of rank {min(m, n)}"
            + (hint if m != n else "")
        )
    return np.asarray(answer)


def _require_small(name: str, error: float, explanation: str) -> None:
    if not error < 1e-6:
        raise CheckError(f"{explanation}: the relative error {name} is {error:.1e}")


def _require_type(name: str, value: Any, expected: type) -> None:
    if not isinstance(value, expected):
        raise TypeError(f"{name} must be a {expected.__name__}, got {type(value).__name__}")


def _where(
    manifold: Manifold, point: ArrayLike | None, tangent_vector: ArrayLike | None
) -> tuple[Any, Any]:
    if tangent_vector is not None and point is None:
        raise ValueError("point must be given with tangent_vector, which is tangent there")
    if point is None:
        point = manifold.random_point()
    if tangent_vector is None:
        tangent_vector = manifold.random_tangent_vector(point)
    if manifold.point_layout == 1:
        require_unmasked("point", point)
        require_unmasked("tangent_vector", tangent_vector)
        point, tangent_vector = np.asarray(point), np.asarray(tangent_vector)
    if not 0 < manifold.norm(point, tangent_vector) < np.inf:
        raise ValueError("tangent_vector must be finite and not zero")
    return point, tangent_vector


def _geodesic_step(manifold: Any, point: Any, vector: Any) -> Any:
    try:
        return manifold.exp(point, vector)
    except NotImplementedError:
        return manifold.retraction(point, vector)


def _embedded(point: Any) -> Vector:
    """A point as an array; (u, s, vt) stands for u diag(s) vt."""
    if isinstance(point, np.ndarray):
        return point
    u, s, vt = point
    return u * s @ vt


def _relative(difference: Any, scale: Any) -> float:
    return _ratio(np.linalg.norm(difference), np.linalg.norm(scale))


def _ratio(error: Any, scale: Any) -> float:
    return float(error / scale) if scale > 0 else float(error)


def _taylor_check(
    error: Callable[[float], float],
    term: Callable[[float], float],
    *,
    expected_slope: float,
    noise: float,
    residuals: dict[str, float],
    advice: str,
) -> TaylorCheck:
    """Fit the slope of an error at the smallest step sizes where it is a clear straight line.

    There a term of too low an order, however small its factor, is larger than all others. If no
    error is clear of rounding errors, the last term of the model tells whether the model is exact
    or cannot be seen.
    """
    step_sizes = np.logspace(-6, -1, 31)
    errors = np.array([abs(float(error(t))) for t in step_sizes])
    window = 6
    # Below this the difference of two costs is made of rounding errors.
    rounding = 1e3 * np.finfo(float).eps * max(noise, 1e-300)
    if not (np.isfinite(errors).all() and np.isfinite(rounding)):
        raise CheckError("the cost, or what it is compared with, is not finite near the point")
    clear = errors > rounding
    slope, bend = np.inf, np.inf
    for start in range(len(errors) - window + 1):
        part = slice(start, start + window)
        if not clear[part].all() or bend < _STRAIGHT:
            continue
        logarithms = np.log(errors[part])
        line = np.polynomial.Polynomial.fit(np.log(step_sizes[part]), logarithms, 1)
        distance = float(np.max(np.abs(line(np.log(step_sizes[part])) - logarithms)))
        if distance < bend:
            slope, bend = float(line.convert().coef[1]), distance
    last = abs(float(term(step_sizes[-1])))
    if np.isinf(slope) and (clear.any() or 0 < last < 1e6 * rounding):
        raise CheckError(
            "nothing can be told: too few step sizes have errors that are clear of rounding "
            f"errors, which are about {rounding:.0e}; subtract a constant from the cost, or check "
            "at another point"
        )
    check = TaylorCheck(slope, expected_slope, residuals, step_sizes, errors)
    if not slope > expected_slope - 0.1:
        raise CheckError(
            f"the error of the Taylor model has slope {slope:.2f} in the step size, and "
            f"{expected_slope:g} was expected: {advice}"
        )
    for name, residual in residuals.items():
        if not residual < 1e-8:
            raise CheckError(f"the relative error of {name} is {residual:.1e}: {advice}")
    return check
