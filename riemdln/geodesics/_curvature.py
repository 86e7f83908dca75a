"""The curvature of any metric at a point: of planes, its traces, and the tensor itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from riemdln._arrays import (
    Array,
    NotFiniteError,
    everywhere,
    finite,
    like,
    limits,
    matching_matrix,
    to_numpy,
)
from riemdln._differences import CENTRAL_SIXTH
from riemdln._frame import singular_frame
from riemdln.metrics import Metric
from riemdln.metrics.metric import checked_point

__all__ = ["curvature", "ricci_curvature", "scalar_curvature", "sectional_curvature"]

Matrix = NDArray[np.floating[Any]]

# The steps of differences, relative to W, in the order in which they are tried, and the estimated
# relative errors that are good enough to try no other and that are not too large to be given.
_STEPS = (2.0**-6, 2.0**-9, 2.0**-3, 2.0**-12, 1.0)
_GOOD, _FAIR = 1e-9, 1e-6


def curvature(metric: Metric, W: Array, X: Array, Y: Array, Z: Array) -> Array:
    r"""How much a vector Z turns when it is carried around a small loop along X and Y.

    The Riemann curvature tensor, with Christoffel's symbols as derivatives of constant vectors,

    .. math::

        R(X, Y) Z = D\Gamma[X](Y, Z) - D\Gamma[Y](X, Z)
                    + \Gamma(X, \Gamma(Y, Z)) - \Gamma(Y, \Gamma(X, Z)),

    has a closed form for spectral and constant metrics. Of other metrics the derivatives are
    differences of sixth order, of two sizes of the step that have to agree.

    Parameters
    ----------
    metric : Metric
        The metric.
    W : array (..., m, n)
        The point, or a stack of points, of full rank.
    X, Y, Z : array (..., m, n)
        Tangent vectors. Their stacks and that of W broadcast together, as NumPy's arrays do.

    Returns
    -------
    array (..., m, n)
        The vectors R(X, Y) Z. With this sign spheres have positive sectional curvatures.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, a W is of lower rank, or differences do not agree to six
        digits.

    Notes
    -----
    In inner products of unit vectors the errors are, for a spectral metric, of the order of the
    machine epsilon times the largest theta(s_i, s_i) / s_i^2, the scale of curvature, at depth N
    N s_r^{-2/N}, and times the ratio of the largest to the least theta(s_i, s_j), the condition of
    the metric, at depth N (s_1 / s_r)^{2 - 2/N}. So at s_1 = 1 and s_r = 1e-6 they are some 1e-10
    at depth 2 and some 1e-8 at depth 3. Where the condition leaves less than four digits, an error
    is raised. Kernels of one's own without a divided difference (`riemdln.kernels.FunctionKernel`)
    have some five digits less. Time and memory grow as the fourth power of min(m, n).

    References
    ----------
    - P. Petersen. Riemannian geometry. Springer, 2016, section 3.1.

    Examples
    --------
    Planes of one row w that are orthogonal to it have the curvature
    ``(N - 1) / (N |w|^{2/N})``, here 1/4, and the squared length of y is 1/2:

    >>> import numpy as np
    >>> from riemdln import DeepLinearMetric
    >>> from riemdln.geodesics import curvature
    >>> w, x, y = np.diag([2.0, 1.0, 1.0])[:, None, :]
    >>> np.round(curvature(DeepLinearMetric(2), w, x, y, y), 12)
    array([[0.   , 0.125, 0.   ]])
    """
    W, (X, Y, Z), given = _arguments(metric, W, X=X, Y=Y, Z=Z)
    return like(given, _curvature(metric, W, X, Y, Z))


def sectional_curvature(metric: Metric, W: Array, X: Array, Y: Array) -> Array:
    r"""The curvature of the plane of X and Y: positive where geodesics in it come together.

    .. math:: K(X, Y) = \frac{g(R(X, Y) Y, X)}{g(X, X) \, g(Y, Y) - g(X, Y)^2}

    Parameters
    ----------
    metric : Metric
        The metric.
    W : array (..., m, n)
        The point, or a stack of points, of full rank.
    X, Y : array (..., m, n)
        Tangent vectors that span the plane, or stacks of them that broadcast with that of W.

    Returns
    -------
    array (...)
        A number for a single plane.

    Raises
    ------
    TypeError, ValueError
        As `curvature` does, and if X and Y span no plane: of a stack, if two of them do not.

    References
    ----------
    - P. Petersen. Riemannian geometry. Springer, 2016, section 3.1.3.

    Examples
    --------
    >>> import numpy as np
    >>> from riemdln import DeepLinearMetric
    >>> from riemdln.geodesics import sectional_curvature
    >>> w, x, y = 2 * np.eye(3)[:, None, :]
    >>> planes = np.stack([w, y])  # with x: one through w, and one orthogonal to it
    >>> np.round(sectional_curvature(DeepLinearMetric(2), w, planes, x), 12) + 0.0
    array([0.  , 0.25])
    """
    W, (X, Y), given = _arguments(metric, W, X=X, Y=Y)
    X, Y = _orthonormal(metric, W, X, Y, limits(given).eps ** 0.5)
    values = _inner(metric, W, _curvature(metric, W, X, Y, Y), X)
    return like(given, values)[()]


def ricci_curvature(metric: Metric, W: Array, X: Array, Y: Array) -> Array:
    r"""The Ricci curvature: of a unit vector with itself, the sum over planes through it.

    .. math:: \mathrm{Ric}(X, Y) = \mathrm{Tr}(V \mapsto R(V, X) Y)

    Parameters
    ----------
    metric : Metric
        The metric.
    W : array (..., m, n)
        The point, or a stack of points, of full rank.
    X, Y : array (..., m, n)
        Tangent vectors, or stacks of them that broadcast with that of W.

    Returns
    -------
    array (...)
        Symmetric in X and Y; a number for a single pair.

    Raises
    ------
    TypeError, ValueError
        As `curvature` does.

    Notes
    -----
    It takes the curvature of m n triples of vectors.

    Examples
    --------
    Of the two planes through x that are spanned with w and y one is flat:

    >>> import numpy as np
    >>> from riemdln import DeepLinearMetric
    >>> from riemdln.geodesics import ricci_curvature
    >>> w, x, y = 2 * np.eye(3)[:, None, :]
    >>> x = x / DeepLinearMetric(2).inner(w, x, x) ** 0.5
    >>> round(float(ricci_curvature(DeepLinearMetric(2), w, x, x)), 12)
    0.25
    """
    W, (X, Y), given = _arguments(metric, W, X=X, Y=Y)
    return like(given, _ricci_curvature(metric, W, X, Y))[()]


def scalar_curvature(metric: Metric, W: Array) -> Array:
    r"""The scalar curvature: the sum of those of all planes of two vectors of an orthonormal basis.

    Each plane counts twice, so that it is the trace of the Ricci curvature. Small balls around W
    have less volume than in flat space where it is positive.

    Parameters
    ----------
    metric : Metric
        The metric.
    W : array (..., m, n)
        The point, or a stack of points, of full rank.

    Returns
    -------
    array (...)
        A number for a single point.

    Raises
    ------
    TypeError, ValueError
        As `curvature` does.

    Notes
    -----
    It takes the curvature of (m n)^2 triples of vectors: seconds for 6 x 6 matrices.

    Examples
    --------
    >>> import numpy as np
    >>> from riemdln import DeepLinearMetric
    >>> from riemdln.geodesics import scalar_curvature
    >>> round(float(scalar_curvature(DeepLinearMetric(2), np.array([[2.0, 0.0, 0.0]]))), 12)
    0.5
    """
    W, _, given = _arguments(metric, W)
    E = _unit_matrices(W)
    basis = metric.at(E * 0.0 + W).root(E + 0.0 * W)  # orthonormal in the metric
    return like(given, np.sum(_ricci_curvature(metric, W, basis, basis), axis=0))[()]


def _curvature(metric: Metric, W: Matrix, X: Matrix, Y: Matrix, Z: Matrix) -> Matrix:
    known = metric.at(W).known_curvature(X, Y, Z)
    return _by_differences(metric, W, X, Y, Z) if known is None else known


def _ricci_curvature(metric: Metric, W: Matrix, X: Matrix, Y: Matrix) -> Matrix:
    E = _unit_matrices(W, X, Y)
    return np.asarray(np.sum(E * _curvature(metric, W, E, X, Y), axis=(0, -2, -1)))


def _by_differences(metric: Metric, W: Matrix, X: Matrix, Y: Matrix, Z: Matrix) -> Matrix:
    """The curvature by its definition, of any metric that has Christoffel symbols."""
    W, X, Y, Z = np.broadcast_arrays(W, X, Y, Z)

    def christoffel(points: Matrix, first: Matrix, second: Matrix) -> Matrix:
        points, first, second = np.broadcast_arrays(points, first, second)
        return np.asarray(metric.at(points).christoffel(first, second))

    along, other = np.stack([X, Y]), np.stack([Y, X])
    products = christoffel(W, along, christoffel(W, other, Z))
    sizes = [np.where(_size(V) > 0, _size(V), 1.0) for V in (W, along)]
    unit = sizes[0] / sizes[1]
    terms, error = np.zeros_like(along), np.full(unit.shape, np.inf)
    for relative in _STEPS:
        half, places = relative * unit / 2, np.array([1.0, 2.0, 3.0, 4.0, 6.0])
        shifts = np.multiply.outer(np.concatenate([places, -places]), half * along)
        try:
            ahead, behind = np.split(christoffel(W + shifts, other, Z), 2)
        except (NotFiniteError, np.linalg.LinAlgError):
            continue  # the step leads to where there is no metric
        odd = dict(zip(places, ahead - behind, strict=True))
        fine, coarse = (
            sum(w * odd[k * place] for place, w in CENTRAL_SIXTH) / (k * half) for k in (1, 2)
        )
        level = _size(fine) + _size(products) + np.max(_size(ahead), axis=0) / unit
        found = _size(fine - coarse) / np.where(level > 0, level, 1.0)
        better = found < error
        terms, error = np.where(better, fine, terms), np.where(better, found, error)
        if np.all(error <= _GOOD):
            break
    if not np.all(error <= _FAIR):
        raise ValueError(
            f"W is where the curvature of {metric!r} cannot be trusted: differences of its "
            f"Christoffel symbols disagree by {np.max(error):.1e}, relatively; are they smooth?"
        )
    terms = terms + products
    return np.asarray(terms[0] - terms[1])


def _arguments(metric: Metric, W: Array, **vectors: Array) -> tuple[Matrix, list[Matrix], Array]:
    """The point and the vectors in NumPy, and the point as it is given."""
    given = checked_point("W", W)
    checked = [finite(k, matching_matrix(k, V, "W", given)) for k, V in vectors.items()]
    try:
        np.broadcast_shapes(tuple(given.shape), *(tuple(V.shape) for V in checked))
    except ValueError as error:
        shapes = ", ".join(
            f"{k} of {tuple(V.shape)}" for k, V in zip(vectors, checked, strict=True)
        )
        raise ValueError(
            f"{' and '.join(vectors)} must be stacks that broadcast together, got {shapes}"
        ) from error
    if metric.ends_at_lower_rank:
        frame = singular_frame(given)
        if not everywhere(frame.s[..., -1] > frame.rounding, otherwise=True):
            raise ValueError("W must have full rank: the metric has no curvature at lower rank")
    return _numbers(given), [_numbers(V) for V in checked], given


def _numbers(array: Array) -> Matrix:
    return to_numpy(array).astype(np.float64)


def _inner(metric: Metric, W: Matrix, X: Matrix, Y: Matrix) -> Matrix:
    W, X, Y = np.broadcast_arrays(W, X, Y)
    return np.asarray(metric.at(W).inner(X, Y))


def _orthonormal(
    metric: Metric, W: Matrix, X: Matrix, Y: Matrix, rounding: float
) -> tuple[Matrix, Matrix]:
    """An orthonormal basis of the plane of X and Y."""

    def normalized(V: Matrix) -> tuple[Matrix, Matrix]:
        norm = _inner(metric, W, V, V)[..., None, None] ** 0.5
        return V / np.where(norm > 0, norm, 1.0), norm

    # Whose squares are in range.
    X, Y = (V / np.where(_size(V) > 0, _size(V), 1.0) for V in (X, Y))
    X, length = normalized(X)
    Y, _ = normalized(Y)
    # Twice, so that no rounding errors of the first time are left.
    for _ in range(2):
        Y, rest = normalized(Y - _inner(metric, W, X, Y)[..., None, None] * X)
        flat = (rest <= rounding) | (length == 0)
        if np.any(flat):
            raise ValueError(
                "X and Y must span a plane, but they are parallel up to rounding errors"
                + (f", in {np.sum(flat)} of {flat.size} pairs" if flat.size > 1 else "")
            )
    return X, Y


def _unit_matrices(W: Matrix, *vectors: Matrix) -> Matrix:
    """The m n unit matrices, along an axis before those of the stacks."""
    (m, n), stack = W.shape[-2:], max(V.ndim for V in (W, *vectors)) - 2
    return np.eye(m * n).reshape(m * n, *stack * (1,), m, n)


def _size(V: Matrix) -> Matrix:
    return np.max(np.abs(V), axis=(-2, -1), keepdims=True)
