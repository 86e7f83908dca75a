"""What moves along a geodesic: the entries of a matrix, or those of its root.

Geodesics are computed in coordinates of the same shape as the matrices, the states, in which the
metric is asked as it is elsewhere. `EntryCoordinates` takes the matrices themselves, under any
metric. `RootCoordinates` takes roots, in which g^N does not degenerate where singular values go
to zero: there a geodesic that dives toward lower rank is as smooth as any other one.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "EntryCoordinates",
    "GeodesicAt",
    "GeodesicCoordinates",
    "PathAt",
    "PathCoordinates",
    "RootCoordinates",
]

Vector = NDArray[np.floating[Any]]


class PathAt(Protocol):
    """The metric at each state of a stack, on velocities of states."""

    def inner(self, X: Vector, Y: Vector) -> Vector:
        """The inner products."""
        ...

    def christoffel(self, X: Vector, Y: Vector) -> Vector:
        """The Christoffel symbols."""
        ...


class GeodesicAt(PathAt, Protocol):
    """The metric at each state of a stack, on velocities of states and on covectors."""

    def sharp(self, P: Vector) -> Vector:
        """From covectors to velocities."""
        ...

    def flat(self, Z: Vector) -> Vector:
        """From velocities to covectors."""
        ...

    def sharp_derivative_adjoint(self, p: Vector, q: Vector) -> Vector:
        """The covector Xi(p, q) of X -> <p, DA[X] q>."""
        ...


class PathCoordinates(Protocol):
    """Coordinates of matrices for geodesics between two of them."""

    def states(self, points: Vector) -> Vector:
        """The states of matrices."""
        ...

    def points(self, states: Vector) -> Vector:
        """The matrices of states."""
        ...

    def singular_values(self, states: Vector) -> Vector:
        """The singular values, also those too small for matrices of floating-point numbers."""
        ...

    def to_states(self, states: Vector, tangent_vectors: Vector) -> Vector:
        """How states move when their matrices move along tangent vectors."""
        ...

    def to_points(self, states: Vector, velocities: Vector) -> Vector:
        """How the matrices move when their states do."""
        ...

    def keeps_rank(self, path: Vector) -> bool:
        """Whether a path of states does not change the sign of a determinant that it must keep."""
        ...

    def at(self, states: Vector) -> PathAt:
        """The metric at some states."""
        ...


class GeodesicCoordinates(PathCoordinates, Protocol):
    """Coordinates of matrices for geodesics."""

    def singular_vectors(self, left: Vector, right: Vector) -> tuple[Vector, Vector]:
        """Those of a matrix, from those of its state."""
        ...

    def at(self, states: Vector) -> GeodesicAt:
        """The metric at some states."""
        ...


class EntryCoordinates:
    """Coordinates that are the matrices themselves.

    Parameters
    ----------
    metric : Metric
        The metric.
    rank : int or None
        The rank of the matrices, if it is not full.
    """

    def __init__(self, metric: Any, rank: int | None) -> None:
        self._metric, self._rank = metric, rank

    def states(self, points: Vector) -> Vector:
        return points

    def points(self, states: Vector) -> Vector:
        return states

    def singular_values(self, states: Vector) -> Vector:
        return np.linalg.svd(states, compute_uv=False)

    def to_states(self, states: Vector, tangent_vectors: Vector) -> Vector:
        return tangent_vectors

    def to_points(self, states: Vector, velocities: Vector) -> Vector:
        return velocities

    def at(self, states: Vector) -> GeodesicAt:
        at: GeodesicAt = self._metric.at(states, rank=self._rank)
        return at

    def singular_vectors(self, left: Vector, right: Vector) -> tuple[Vector, Vector]:
        return left, right

    def keeps_rank(self, path: Vector) -> bool:
        return not self._metric.ends_at_lower_rank or _keeps_sign(path)


class RootCoordinates:
    r"""Coordinates of g^N that are roots of the matrices, R = U diag(lambda) V^T.

    At finite depth lambda_i = N^{1/2} s_i^{1/N}, the distance of s_i from zero. In the frame of R
    the cometric multiplies the symmetric part of the entries ij and ji by k(lambda_i, lambda_j)
    and the antisymmetric part by k(lambda_i, -lambda_j), with

    .. math::

        k_N(\lambda, \mu) = N \frac{\tanh(\tau / 2)}{\tanh(N \tau / 2)}, \qquad
        k_N(\lambda, -\mu) = N^2 / k_N(\lambda, \mu), \qquad k_N(\lambda, 0) = N, \qquad
        \tau = \ln(\lambda / \mu).

    So it is bounded, and the identity on the diagonal. At infinite depth lower rank is infinitely
    far away, and with lambda_i = M s_i^{1/M}, of any order M,

    .. math::

        k_\infty(\lambda, \mu) = \frac{(\lambda - \mu)^2}{2 M \tau \tanh(M \tau / 2)}, \qquad
        k_\infty(\lambda, -\mu) = \frac{(\lambda + \mu)^2 \tanh(M \tau / 2)}{2 M \tau}.

    Seen as the symmetric matrix with the blocks R and R^T, whose eigenvalues are all lambda and
    -lambda, and zero, R has the one kernel k: its derivatives are those of Daleckii and Krein.

    Parameters
    ----------
    depth : float
        The depth N, more than 1.
    log_range : float
        At infinite depth, the range of the logarithms of all singular values on the way, about.
    rank : int or None
        The rank of the matrices, if it is not full.
    left, right : array (m, p) and (n, q), optional
        Orthonormal bases of spaces in which all columns and all rows lie, if these are not all.

    References
    ----------
    - Ju. L. Daleckii, S. G. Krein. Integration and differentiation of functions of Hermitian
      operators and applications to the theory of perturbations. 1965.
    """

    def __init__(
        self,
        depth: float,
        log_range: float,
        rank: int | None,
        left: Vector | None = None,
        right: Vector | None = None,
    ) -> None:
        self.depth, self.rank = depth, rank
        self._left, self._right = left, right
        # At infinite depth the roots are nearly linear in the logarithms, and of one size.
        self.order = max(8.0, 2 * log_range) if math.isinf(depth) else depth
        self._unit = self.order if math.isinf(depth) else depth**0.5

    def states(self, points: Vector) -> Vector:
        U, s, Vt = np.linalg.svd(self._within(points), full_matrices=False)
        roots = self._unit * s[..., None, : self.rank] ** (1 / self.order)
        return (U[..., : self.rank] * roots) @ Vt[..., : self.rank, :]

    def points(self, states: Vector) -> Vector:
        U, roots, Vt = np.linalg.svd(states, full_matrices=False)
        s = self.powers(roots[..., None, : self.rank])
        with np.errstate(invalid="ignore"):  # of infinite singular values
            return self._beyond((U[..., : self.rank] * s) @ Vt[..., : self.rank, :])

    def singular_values(self, states: Vector) -> Vector:
        return self.powers(np.linalg.svd(states, compute_uv=False))

    def to_states(self, states: Vector, tangent_vectors: Vector) -> Vector:
        at = self.at(states)
        return at.spread(at.gathered(self._within(tangent_vectors)) / at.differences_of_points)

    def to_points(self, states: Vector, velocities: Vector) -> Vector:
        at = self.at(states)
        return self._beyond(at.spread(at.gathered(velocities) * at.differences_of_points))

    def singular_vectors(self, left: Vector, right: Vector) -> tuple[Vector, Vector]:
        return (
            left if self._left is None else self._left @ left,
            right if self._right is None else self._right @ right,
        )

    def at(self, states: Vector) -> _RootAt:
        return _RootAt(self, states)

    def keeps_rank(self, path: Vector) -> bool:
        return _keeps_sign(path)

    def _within(self, matrices: Vector) -> Vector:
        """Matrices in the bases."""
        matrices = matrices if self._left is None else self._left.T @ matrices
        return matrices if self._right is None else matrices @ self._right

    def _beyond(self, matrices: Vector) -> Vector:
        """Matrices from those in the bases."""
        matrices = matrices if self._left is None else self._left @ matrices
        return matrices if self._right is None else matrices @ self._right.T

    def powers(self, roots: Vector) -> Vector:
        """The singular values of roots."""
        with np.errstate(over="ignore"):
            return (roots / self._unit) ** self.order


class _RootAt:
    """The metric at roots, in the frame of the symmetric matrices with the blocks R and R^T."""

    def __init__(self, coordinates: RootCoordinates, R: Vector) -> None:
        self._coordinates = coordinates
        U, roots, Vt = np.linalg.svd(R)
        rank, V = coordinates.rank or roots.shape[-1], Vt.mT
        u, v, roots = U[..., :rank] / 2**0.5, V[..., :rank] / 2**0.5, roots[..., :rank]
        u_rest, v_rest = U[..., rank:], V[..., rank:]
        # Its eigenvectors are (u, v), (u, -v), (u_rest, 0) and (0, v_rest).
        no_u = np.zeros((*u.shape[:-1], v_rest.shape[-1]))
        no_v = np.zeros((*v.shape[:-1], u_rest.shape[-1]))
        self._top = np.concatenate([u, u, u_rest, no_u], axis=-1)
        self._bottom = np.concatenate([v, -v, no_v, v_rest], axis=-1)
        zeros = np.zeros((*roots.shape[:-1], self._top.shape[-1] - 2 * rank))
        self._values = np.concatenate([roots, -roots, zeros], axis=-1)

    def gathered(self, X: Vector) -> Vector:
        """The symmetric matrix with the blocks X and X^T, in the frame."""
        half = self._top.mT @ X @ self._bottom
        return half + half.mT

    def spread(self, X: Vector) -> Vector:
        """The block X of a symmetric matrix that is given in the frame."""
        return self._top @ X @ self._bottom.mT

    def sharp(self, P: Vector) -> Vector:
        return self.spread(self._kernel * self.gathered(P))

    def flat(self, Z: Vector) -> Vector:
        return self.spread(self._over_kernel(self.gathered(Z)))

    def inner(self, X: Vector, Y: Vector) -> Vector:
        covector = self._over_kernel(self.gathered(Y))
        return np.sum(self.gathered(X) * covector, axis=(-2, -1)) / 2

    def christoffel(self, X: Vector, Y: Vector) -> Vector:
        """-1/2 DA[X] y - 1/2 DA[Y] x + 1/2 A(Xi(x, y))."""
        one = self.gathered(X)
        other = one if Y is X else self.gathered(Y)
        x, y = self._over_kernel(one), self._over_kernel(other)
        pull, crossed = self._kernel * self._adjoint(x, y), self._derivative(one, y)
        crossed = crossed + (crossed if Y is X else self._derivative(other, x))
        return self.spread(pull - crossed) / 2

    def sharp_derivative_adjoint(self, p: Vector, q: Vector) -> Vector:
        return self.spread(self._adjoint(self.gathered(p), self.gathered(q)))

    def _derivative(self, X: Vector, p: Vector) -> Vector:
        """sum_c k[a, c; b] X_ac p_cb, and its transpose."""
        apart, close = (gap * X for gap in self._gaps)
        k, slope = self._kernel, self._slope
        half = k * (apart @ p) - apart @ (k * p) + slope * (close @ p) + close @ (slope * p)
        return half + half.mT

    def _adjoint(self, p: Vector, q: Vector) -> Vector:
        """sum_b k[a, c; b] p_ab q_cb, and its transpose."""
        (apart, close), k, slope = self._gaps, self._kernel, self._slope
        half = apart * ((k * p) @ q.mT - p @ (k * q).mT)
        half = half + close * ((slope * p) @ q.mT + p @ (slope * q).mT)
        return half + half.mT

    def _over_kernel(self, X: Vector) -> Vector:
        k = self._kernel
        return np.where(k > 0, X, 0.0) / np.where(k > 0, k, 1.0)

    @cached_property
    def _pairs(self) -> tuple[Vector, Vector, Vector, Vector]:
        """All pairs: both eigenvalues a and b, ln|a / b| off zero, and the sign of a b."""
        a, b = self._values[..., :, None], self._values[..., None, :]
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(np.abs(self._values))
            log_ratio = logs[..., :, None] - logs[..., None, :]
        far = _FAR * np.sign(np.abs(a) - np.abs(b))
        log_ratio = np.where(np.isfinite(log_ratio), log_ratio, far)
        log_ratio = np.where(np.abs(log_ratio) < 1e-20, 1e-20, log_ratio)
        return a, b, log_ratio, np.sign(a) * np.sign(b)

    @cached_property
    def _kernel(self) -> Vector:
        """The values k(a, b)."""
        (a, b, x, sign), N, M = self._pairs, self._coordinates.depth, self._coordinates.order
        turned = np.tanh(M * x / 2)
        if math.isinf(N):
            # The same x in all factors, so that nothing is lost where a and b are all but equal.
            near = np.maximum(np.abs(a), np.abs(b)) * np.expm1(-np.abs(x))
            return np.where(sign > 0, near, a - b) ** 2 / (2 * M * x) * turned**-sign
        k = N * (np.tanh(x / 2) / turned) ** sign
        # 0 of what no gradient of a matrix of lower rank moves.
        return np.where((a == 0) & (b == 0), 0.0, k)

    @cached_property
    def _slope(self) -> Vector:
        """The derivatives of k in its first argument: k / a times those of ln k in ln|a|."""
        (a, _, x, sign), N, M = self._pairs, self._coordinates.depth, self._coordinates.order
        if math.isinf(N):
            squared = np.where(sign > 0, 2 / x * _x_coth_x_less_1(x / 2), np.tanh(x / 2))
            logarithmic = 1 + squared - sign / x * _x_over_sinh_x_less_1(M * x)
        else:
            logarithmic = sign / x * (_x_over_sinh_x_less_1(x) - _x_over_sinh_x_less_1(M * x))
        return self._kernel * logarithmic / np.where(a == 0, 1.0, a)

    @cached_property
    def _gaps(self) -> tuple[Vector, Vector]:
        """1 / (a - b) where a and b are apart, and 1/2 where they are close."""
        a, b, _, _ = self._pairs
        # Where the rounding error of the quotient meets the error of the mean of the derivatives.
        close = np.abs(a - b) <= np.finfo(float).eps ** (1 / 3) * np.maximum(np.abs(a), np.abs(b))
        apart = np.where(close, 0.0, 1 / np.where(close, 1.0, a - b))
        return apart, np.where(close & (a != 0), 0.5, 0.0)

    @cached_property
    def differences_of_points(self) -> Vector:
        """The divided differences of the map from roots to singular values."""
        a, b, x, sign = self._pairs
        s, M = self._coordinates.powers(np.abs(self._values)), self._coordinates.order
        s_a, s_b = s[..., :, None], s[..., None, :]
        steep = np.expm1(-M * np.abs(x)) / np.expm1(-np.abs(x))
        size = np.where(sign > 0, np.maximum(np.abs(a), np.abs(b)), np.abs(a) + np.abs(b))
        rise = np.where(sign > 0, np.maximum(s_a, s_b) * steep, s_a + s_b)
        # 1 of what leaves both spaces, which is zero.
        return np.where(size > 0, rise, 1.0) / np.where(size > 0, size, 1.0)


def _keeps_sign(path: Vector) -> bool:
    is_square = path.shape[-2] == path.shape[-1]
    return not is_square or bool(np.ptp(np.linalg.slogdet(path)[0]) == 0)


# An end of the range of logarithms of ratios, in place of infinity.
_FAR = 700.0


def _x_over_sinh_x_less_1(x: Vector) -> Vector:
    near, square = np.abs(x) < 0.2, x * x
    coefficients = (-1 / 6, 7 / 360, -31 / 15120, 127 / 604800, -73 / 3421440)
    safe = np.where(near, 1.0, np.minimum(np.abs(x), _FAR))
    return np.where(near, _series(coefficients, square), safe / np.sinh(safe) - 1)


def _x_coth_x_less_1(x: Vector) -> Vector:
    near, square = np.abs(x) < 0.2, x * x
    coefficients = (1 / 3, -1 / 45, 2 / 945, -1 / 4725, 2 / 93555)
    safe = np.where(near, 1.0, x)
    return np.where(near, _series(coefficients, square), safe / np.tanh(safe) - 1)


def _series(coefficients: tuple[float, ...], square: Vector) -> Vector:
    """The sum of coefficients times x^2, x^4, ..."""
    total = 0.0 * square
    for coefficient in reversed(coefficients):
        total = square * (coefficient + total)
    return total
