"""A spectral metric at a point: every formula in closed form, in the frame of the point.

`FrameAt` is the metric on blocks, where each formula stands once. `SpectralAt` is the same for
vectors of any form that a frame can split into blocks and join again, and `DenseAt` for matrices.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from functools import cached_property, reduce
from operator import mul, truediv
from typing import Any

import numpy as np

from riemdln._arrays import (
    Array,
    NotFiniteError,
    certain,
    diagonal_mask,
    diagonal_matrix,
    everywhere,
    finite,
    floating_array,
    largest,
    least,
    like,
    limits,
    matching_matrix,
    namespace,
    paired,
)
from riemdln._frame import Blocks, Frame
from riemdln._memory import same_array
from riemdln.kernels import Kernel
from riemdln.kernels.kernel import filled
from riemdln.metrics._at import MetricAt
from riemdln.metrics._second_variation import SecondVariation, SquareForm
from riemdln.metrics._variation import Variation, left_variation

__all__ = ["DenseAt", "FrameAt", "SpectralAt", "needs_frame"]


class FrameAt(MetricAt):
    """A spectral metric at a point that is given by its frame, on blocks.

    Parameters
    ----------
    kernel : Kernel
        The kernel theta.
    frame : Frame
        The frame of the point.

    Raises
    ------
    ValueError
        If the kernel is not finite and nonnegative there.
    """

    def __init__(self, kernel: Kernel, frame: Frame) -> None:
        self.kernel, self.frame = kernel, frame
        self.theta = self._factors(frame.s)
        xp, parts = namespace(self.theta.M), self.theta.parts()
        axis = None if self.theta.M.ndim == 2 else (-2, -1)
        # Where a value is NaN, so are both of these, and no comparison is true.
        self._least = reduce(xp.minimum, [least(part, axis) for part in parts])
        self._largest = reduce(xp.maximum, [largest(part, axis) for part in parts])
        nonnegative = self._least >= 0
        if not everywhere(nonnegative & (self._largest < math.inf), otherwise=True):
            # A trial step that leads out of range is shortened; a wrong kernel stays wrong.
            overflows = everywhere(nonnegative, otherwise=True)
            raise (NotFiniteError if overflows else ValueError)(self._what_is_wrong())

    def _factors(self, s: Array) -> Blocks:
        """The kernel on the blocks: theta(0, s_j), theta(s_i, s_j) and theta(s_i, 0)."""
        row, column, kernel = s[..., None, :], s[..., :, None], self.kernel
        pairs = (*s.shape, s.shape[-1])
        return Blocks(
            None if self.frame.spans_columns else filled(kernel.transpose.edge(row), row),
            filled(kernel(column, row), row, pairs),
            None if self.frame.spans_rows else filled(kernel.edge(row), row),
        )

    def of_matrix(self) -> FrameAt:
        """Itself, if the matrix alone says what the metric is, and not its singular vectors.

        Raises
        ------
        ValueError
            If the matrix has lower rank, and to the kernel what is beyond the rank is not the limit
            of what is in it.
        """
        s, kernel = self.frame.s, self.kernel
        if needs_frame(kernel, self.frame):
            raise ValueError(
                f"W must have full rank under the kernel {kernel!r}: at lower rank the metric "
                f"depends on singular vectors that W does not determine, got singular values "
                f"from {float(namespace(s).min(s)):g} to {float(namespace(s).max(s)):g}"
            )
        return self

    def _singular_values(self) -> str:
        """The range of the singular values, for messages."""
        xp, s = namespace(self.frame.s), self.frame.s
        return f"W has singular values from {float(xp.min(s)):g} to {float(xp.max(s)):g}"

    def _what_is_wrong(self) -> str:
        xp = namespace(self.frame.s)
        return (
            f"{self._singular_values()}, at which the kernel {self.kernel!r} takes values from "
            f"{float(xp.min(self._least)):g} to {float(xp.max(self._largest)):g}: it must be "
            "finite and nonnegative, also at zero if W is not square; is W too large?"
        )

    @cached_property
    def theta_rounding(self) -> Array:
        """Below it theta is lost in the rounding error of sharp, or 1 / theta overflows."""
        level, tiny = limits(self.theta.M).eps * self._largest, limits(self.theta.M).tiny
        return namespace(self.theta.M).where(level > tiny, level, tiny)[..., None, None]

    @cached_property
    def is_regular(self) -> bool:
        """Whether no singular value is a rounding error, and no direction is frozen."""
        (eps, tiny, _) = limits(self.theta.M)
        moves = (self._least > eps * self._largest) & (self._least > tiny)
        return everywhere(moves & (least(self.frame.s, -1) > self.frame.rounding), otherwise=False)

    @cached_property
    def inverse(self) -> Blocks:
        """The factors of flat where some direction is frozen: 0 there, and 1 / theta elsewhere."""
        xp, s, level = namespace(self.frame.s), self.frame.s, self.theta_rounding
        at_rank = self._factors(xp.where(s > self.frame.rounding[..., None], s, 0.0))

        def invert(theta: Array, theta_at_rank: Array) -> Array:
            moves = theta_at_rank > level
            return xp.where(moves, 1 / xp.where(moves, theta, 1.0), 0.0)

        return self.theta.map(invert, at_rank)

    @cached_property
    def _left(self) -> Variation:
        """How theta varies with W W^T."""
        return left_variation(self.frame, self.kernel)

    @cached_property
    def _right(self) -> Variation:
        """How theta varies with W^T W, on transposes."""
        frame, kernel = self.frame, self.kernel.transpose
        if kernel is self.kernel and frame.spans_rows == frame.spans_columns:
            return self._left
        return left_variation(frame.mT, kernel)

    def moving(self, blocks: Blocks) -> Blocks:
        """The blocks of a tangent vector without its frozen directions."""
        if self.is_regular:
            return blocks
        xp = namespace(blocks.M)
        return blocks.map(lambda b, factor: xp.where(factor > 0, b, 0.0), self.inverse)

    def sharp(self, P: Blocks) -> Blocks:
        return P.map(mul, self.theta)

    def flat(self, Z: Blocks) -> Blocks:
        return Z.map(truediv, self.theta) if self.is_regular else Z.map(mul, self.inverse)

    def root(self, Z: Blocks) -> Blocks:
        return Z.map(lambda block, theta: theta**0.5 * block, self.theta)

    def inverse_root(self, Z: Blocks) -> Blocks:
        if not everywhere(self._least > 0, otherwise=True):
            raise ValueError("W must have full rank: sharp has no inverse there, and no root of it")
        return Z.map(lambda block, theta: block / theta**0.5, self.theta)

    def holds_least_singular_value(self, variance: float) -> Array:
        """Whether the least singular value is more than what disturbs it, or its noise is.

        Rounding errors disturb it, and noise in the entries that it shares with the largest one,
        whose product does to the second order. Where noise of its own is more, the law forgets it.
        """
        s, xp = self.frame.s, namespace(self.frame.s)
        level = xp.maximum(self.frame.rounding, variance * self.theta.M[..., 0, -1] / s[..., 0])
        noise = (variance * filled(self.kernel(level, level), level)) ** 0.5
        return (s[..., -1] > level) | (noise >= level)

    def pair(self, p: Blocks, X: Blocks) -> Array:
        return sum(map(paired, p.parts(), X.parts()))

    def sharp_derivative(self, X: Blocks, p: Blocks) -> Blocks:
        X = self.moving(X)
        return self._left.derivative(X, p) + self._right.derivative(X.mT, p.mT).mT

    def sharp_derivative_adjoint(self, p: Blocks, q: Blocks) -> Blocks:
        return self.moving(self._left.adjoint(p, q) + self._right.adjoint(p.mT, q.mT).mT)

    def known_curvature(self, X: Blocks, Y: Blocks, Z: Blocks) -> Blocks:
        r"""The curvature R(X, Y)Z by the first two derivatives of `sharp`, in NumPy.

        It is that of vector fields whose covectors x = A^{-1} X, y and z are constant, so that
        [X, Y] = DA[X] y - DA[Y] x. With f(y, z) = Xi(y, z) / 2,

        .. math::

            2 R(X, Y) Z = T(X, Y) - T(Y, X) + C(Z, [X, Y])
                          + \tfrac12 C(Y, [X, Z]) - \tfrac12 C(X, [Y, Z]),

            T(X, Y) = D^2A[Y, Z] x - DA[\Gamma(Y, Z)] x + DA[X] f(y, z)
                      + A \left(D\Xi[X](y, z) + \Xi(x, f(y, z))\right),

            C(X, B) = DA[X] b - A(\Xi(x, b)), \qquad b = A^{-1} B.

        Raises
        ------
        ValueError
            If W is of lower rank, or the kernel varies so much that less than four digits are left.

        References
        ----------
        - M. Micheli, P. W. Michor, D. Mumford. Sectional curvature in terms of the cometric, with
          applications to the Riemannian manifolds of landmarks. SIAM J. Imaging Sci. 5, 2012.
        """
        if self.frame.leaves_both:
            raise ValueError("curvature exists on matrices of full rank only")
        self._require_curvature()
        A, DA, Xi = self.sharp, self.sharp_derivative, self.sharp_derivative_adjoint
        square = SquareForm(self.frame, (X, Y, Z))
        second = SecondVariation(self.kernel, square.s)
        x, y, z = map(self.flat, (X, Y, Z))

        def change(X: Blocks, x: Blocks, Y: Blocks, y: Blocks) -> Blocks:
            """T(X, Y)."""
            X_, x_, Y_, y_, Z_, z_ = map(square.matrix, (X, x, Y, y, Z, z))
            f = 0.5 * Xi(y, z)
            return (
                square.blocks(second.derivative(Y_, Z_, x_))
                - DA(self.christoffel(Y, Z), x)
                + DA(X, f)
                + A(square.blocks(second.adjoint(y_, X_, z_)) + Xi(x, f))
            )

        def bracket(X: Blocks, x: Blocks, Y: Blocks, y: Blocks) -> Blocks:
            """The covector of [X, Y]."""
            return self.flat(DA(X, y) - DA(Y, x))

        def turn(X: Blocks, x: Blocks, b: Blocks) -> Blocks:
            """C(X, B)."""
            return DA(X, b) - A(Xi(x, b))

        changes = change(X, x, Y, y) - change(Y, y, X, x)
        turns = turn(Y, y, bracket(X, x, Z, z)) - turn(X, x, bracket(Y, y, Z, z))
        return 0.5 * (changes + turn(Z, z, bracket(X, x, Y, y)) + 0.5 * turns)

    def gaussian(self, rng: np.random.Generator) -> Blocks:
        (m, n), U, Vt = self.frame.shape, self.frame.U, self.frame.Vt
        stack, r = self.frame.s.shape[:-1], self.frame.s.shape[-1]
        M, Up, Vp = (
            like(self.frame.s, rng.standard_normal((*stack, size, r))) for size in (r, m, n)
        )
        return Blocks(
            None if self.frame.spans_columns else Up - U @ (U.mT @ Up),
            M,
            None if self.frame.spans_rows else Vp - Vt.mT @ (Vt @ Vp),
        )

    def log_volume(self) -> Array:
        r"""The sum -1/2 sum_ij ln theta(s_i, s_j) over the tangent space, with s = 0 beyond r."""
        (m, n), r = self.frame.shape, self.frame.s.shape[-1]
        xp = namespace(self.theta.M)
        self._require_no_underflow(self.theta.M)
        copies = Blocks(m - r, 1, n - r)
        with np.errstate(divide="ignore"):  # ln 0 = -inf is right
            logs = self.theta.map(
                lambda theta, count: count * xp.sum(xp.log(theta), axis=(-2, -1)), copies
            )
        return -0.5 * sum(logs.parts())

    def log_volume_gradient(self) -> Blocks:
        r"""The blocks of U diag(d) V^T, d_i the derivative of `log_volume` in s_i."""
        (m, n), s = self.frame.shape, self.frame.s
        xp, r = namespace(s), s.shape[-1]
        self._require_derivatives()
        # A zero of theta makes the volume infinite, and its gradient has no finite value.
        with np.errstate(divide="ignore", invalid="ignore"):
            d = -s * sum(
                xp.sum(variation.derivative_in_square / theta, axis=-1)
                + (beyond and beyond * xp.linalg.diagonal(variation.edge) / edge[..., 0, :])
                for variation, theta, edge, beyond in (
                    (self._left, self.theta.M, self.theta.Vp, n - r),
                    (self._right, self.theta.M.mT, self.theta.Up, m - r),
                )
            )
        return self.diagonal(d)

    def entropy(self) -> Array:
        r"""The sum 1/2 sum_{i<j} ln theta(s_i, s_j)."""
        xp = namespace(self.theta.M)
        self._require_no_underflow(self.theta.M)
        with np.errstate(divide="ignore"):
            return xp.sum(xp.tril(xp.log(self.theta.M), k=-1), axis=(-2, -1)) / 2

    def entropy_gradient(self) -> Blocks:
        r"""The blocks of U diag(d) V^T, d_i the derivative of `entropy` in s_i."""
        return self.diagonal(self._entropy_slopes)

    @cached_property
    def _entropy_slopes(self) -> Array:
        """The derivatives d_i of `entropy` in s_i.

        At s_i = 0 they are zero if fewer than two layers go to zero with s_i, of which the power
        2 / order of s_i is in theta. Otherwise theta has an edge there, and they are NaN.
        """
        xp, s = namespace(self.frame.s), self.frame.s
        self._require_derivatives()
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = self._left.derivative_in_square / self.theta.M
            slope = xp.where((s[..., :, None] > 0) | (self._order < 2), slope, xp.nan)
            # Of a small singular value the term i = j is the largest, so that it is not subtracted.
            return s * xp.sum(xp.where(diagonal_mask(s), 0.0, slope), axis=-1)

    @property
    def _order(self) -> float:
        """How many layers go to zero with a singular value; infinite where none are known."""
        return getattr(self.kernel, "order", math.inf)

    def entropy_hessian(self, X: Blocks) -> Blocks:
        r"""The derivative of `entropy_gradient` along X: that of a spectral function f(s).

        The diagonal of X is multiplied by the matrix of the second derivatives f_ij. Beside it, the
        symmetric part of X is multiplied by (d_i - d_j) / (s_i - s_j), whose limit is
        f_ii - f_ij, the antisymmetric part by (d_i + d_j) / (s_i + s_j), and what leaves a
        space by d_i / s_i. Where one layer goes to zero with s_i, f is even in s_i. So at s_i = 0
        f_ij is zero, and d_i / s_i has the limit f_ii, twice the derivative in s_i^2.
        """
        xp, s, d = namespace(self.frame.s), self.frame.s, self._entropy_slopes
        column, row, on_diagonal = s[..., :, None], s[..., None, :], diagonal_mask(s)
        # Where the rounding error of the quotient, eps / closeness, meets that of the mean of the
        # limits at both ends, closeness^2 / 12.
        close = xp.abs(column - row) <= limits(s).eps ** (1 / 3) * xp.maximum(column, row)
        with np.errstate(divide="ignore", invalid="ignore"):
            pure, mixed = self.kernel.second_log_derivatives(  # type: ignore[attr-defined]
                column, row
            )
            zero, pairs = 0.0 * column, (*s.shape, s.shape[-1])
            limit = filled(self.kernel.divided_difference(zero, zero, row), s, pairs)
            limit = limit / self.theta.M if self._order == 1 else xp.nan + limit
            mixed = xp.where((column > 0) & (row > 0), mixed / (2 * column * row), 0.0 * limit)
            pure, other, limit = (
                xp.where(on_diagonal, 0.0, terms) for terms in (pure, mixed, limit)
            )
            leaving = xp.where(s > 0, d / s, xp.sum(limit, axis=-1))
            own = xp.where(s > 0, xp.sum(pure, axis=-1) / (2 * s**2), leaving)
            quotient = (d[..., :, None] - d[..., None, :]) / xp.where(close, 1.0, column - row)
            symmetric = xp.where(
                close, (own[..., :, None] + own[..., None, :]) / 2 - other, quotient
            )
            antisymmetric = xp.where(
                column + row > 0,
                (d[..., :, None] + d[..., None, :]) / (column + row),
                leaving[..., None],
            )
        along_diagonal = other @ xp.linalg.diagonal(X.M)[..., None]
        hessian = self.spectral_hessian(leaving, symmetric, antisymmetric, X)
        return hessian + self.diagonal(along_diagonal[..., 0])

    def spectral_hessian(
        self, leaving: Array, symmetric: Array, antisymmetric: Array, X: Blocks
    ) -> Blocks:
        """The Euclidean Hessian of a function of the singular values, beside mixed derivatives.

        Parameters
        ----------
        leaving : array (..., r)
            What multiplies that which leaves a space: d_i / s_i, with the derivatives d_i.
        symmetric, antisymmetric : array (..., r, r)
            What multiplies these parts of U^T X V: (d_i - d_j) / (s_i - s_j), with its limits, and
            (d_i + d_j) / (s_i + s_j).
        X : Blocks
            A tangent vector.
        """
        beyond = leaving[..., None, :]
        return Blocks(
            None if X.Up is None else X.Up * beyond,
            symmetric * (X.M + X.M.mT) / 2 + antisymmetric * (X.M - X.M.mT) / 2,
            None if X.Vp is None else X.Vp * beyond,
        )

    def coordinate_laplacian(self) -> Blocks:
        r"""Delta_g W = div A + A(grad ln sqrt(det g)), with div A = sum_E DA[E] E.

        From the left W moves d_i by s_i (theta[s_i, s_i; s_i] + sum_k theta[s_i, s_k; s_i]), where
        k goes over all m rows, with s_k = 0 beyond the rank; from the right it is the same of the
        transpose.
        """
        divergence = self._divergence(lambda there, here: 1.0 + 0.0 * there)
        return divergence + self.sharp(self.log_volume_gradient())

    def ito_drift(self) -> Blocks:
        r"""Half of sum_E DR[R E] E with R = A^{1/2}, whose kernel is rho = theta^{1/2}.

        A term of the divergence of A has the factor rho(s_k, s_i) here, as W moves by R E, and
        rho[s_i, s_k; s_i] = theta[s_i, s_k; s_i] / (rho(s_i, s_i) + rho(s_k, s_i)).
        """
        return 0.5 * self._divergence(lambda there, here: there**0.5 / (here**0.5 + there**0.5))

    def _divergence(self, weight: Callable[[Array, Array], Array]) -> Blocks:
        """The blocks of U diag(d) V^T for a sum over unit matrices, as above.

        Each term has a weight, a function of theta(s_k, s_i) and theta(s_i, s_i).
        """
        if self.frame.leaves_both:
            raise ValueError("drifts of noise exist on matrices of full rank only")
        (m, n), s, theta = self.frame.shape, self.frame.s, self.theta
        xp, r = namespace(s), s.shape[-1]
        column, row = s[..., :, None], s[..., None, :]
        here = xp.linalg.diagonal(theta.M)
        d = 0.0 * s
        with np.errstate(divide="ignore", invalid="ignore"):
            for kernel, beyond, there, from_zero in (
                (self.kernel, m - r, theta.M.mT, theta.Up),
                (self.kernel.transpose, n - r, theta.M, theta.Vp),
            ):
                terms = filled(kernel.divided_difference(column, row, column), s, (*s.shape, r))
                terms = terms * weight(there, here[..., :, None])
                total = xp.linalg.diagonal(terms) + xp.sum(terms, axis=-1)
                if beyond:
                    edge = kernel.difference_from_edge(s, s)
                    total = total + beyond * edge * weight(from_zero[..., 0, :], here)
                d = d + xp.where(s > 0, s * total, 0.0)
        return self.diagonal(d)

    def _require_no_underflow(self, value: Array) -> None:
        """Raise where a value of two positive singular values was lost to underflow."""
        xp, s = namespace(value), self.frame.s
        positive = (s[..., :, None] > 0) & (s[..., None, :] > 0)
        if certain(xp.any(positive & (value < limits(s).tiny)), otherwise=False):
            raise NotFiniteError(
                f"{self._singular_values()}, at which the volume needs more than the range of "
                f"{s.dtype}: scale W"
            )

    def _require_derivatives(self) -> None:
        """Raise where theta, or a square that its derivatives need, was lost to underflow."""
        self._require_no_underflow(self.theta.M)
        self._require_no_underflow(self.frame.s[..., :, None] ** 2 * limits(self.frame.s).eps)

    def _require_curvature(self) -> None:
        """Raise where rounding errors leave less than four digits of the curvature."""
        xp, s, (eps, tiny, most) = namespace(self.frame.s), self.frame.s, limits(self.frame.s)
        in_range = (s > tiny**0.25) & (s < most**0.25)
        if not (self.is_regular and everywhere(in_range, otherwise=True)):
            raise ValueError(
                f"{self._singular_values()}: the curvature needs full rank, and fourth powers in "
                f"the range of {s.dtype}"
            )
        if not everywhere(self._least > 1e4 * eps * self._largest, otherwise=True):
            raise ValueError(
                f"{self._singular_values()}, between which the kernel {self.kernel!r} varies by a "
                f"factor of {float(xp.max(self._largest / self._least)):.1e}: less than four "
                "digits of the curvature would be left"
            )

    def diagonal(self, d: Array) -> Blocks:
        """The blocks of U diag(d) V^T."""
        U, _, Vt = self.frame
        return Blocks(
            None if self.frame.spans_columns else 0.0 * U,
            diagonal_matrix(d),
            None if self.frame.spans_rows else 0.0 * Vt.mT,
        )


def needs_frame(kernel: Kernel, frame: Frame) -> bool:
    """Whether the metric depends on singular vectors that the matrix does not determine.

    It does at lower rank, if to the kernel what is beyond the rank is not the limit of what is in
    it.
    """
    s, xp = frame.s, namespace(frame.s)
    has_full_rank = least(s, -1) > frame.rounding
    if everywhere(has_full_rank, otherwise=True):
        return False
    for spans, side in ((frame.spans_columns, kernel.transpose), (frame.spans_rows, kernel)):
        if not spans:
            inside = side(s, 0.0 * s)
            differ = xp.abs(inside - side.edge(s)) > 1e-8 * inside
            if certain(xp.any(differ & ~has_full_rank[..., None]), otherwise=False):
                return True
    return False


class SpectralAt(MetricAt):
    """A spectral metric at a point, on vectors of some form that subclasses split and join.

    Parameters
    ----------
    at : FrameAt
        The metric on blocks.
    """

    def __init__(self, at: FrameAt) -> None:
        self.on_blocks = at

    @abc.abstractmethod
    def split(self, name: str, vector: Any) -> Blocks:
        """The blocks of a vector; what is wrong with it is said under its name."""

    @abc.abstractmethod
    def join(self, blocks: Blocks) -> Any:
        """The vector that has these blocks."""

    def in_frame(self) -> tuple[Any, Any, Any]:
        """The metric on blocks, with the maps of vectors there and back."""
        return self.on_blocks, self.split, self.join

    def sharp(self, P: Any) -> Any:
        return self.join(self.on_blocks.sharp(self.split("P", P)))

    def flat(self, Z: Any) -> Any:
        return self.join(self.on_blocks.flat(self.split("Z", Z)))

    def root(self, Z: Any) -> Any:
        return self.join(self.on_blocks.root(self.split("Z", Z)))

    def inverse_root(self, Z: Any) -> Any:
        return self.join(self.on_blocks.inverse_root(self.split("Z", Z)))

    def holds_least_singular_value(self, variance: float) -> Array:
        return self.on_blocks.holds_least_singular_value(variance)

    def pair(self, p: Any, X: Any) -> Array:
        return self.on_blocks.pair(self.split("p", p), self.split("X", X))

    def sharp_derivative(self, X: Any, p: Any) -> Any:
        X, p = self.split("X", X), self.split("p", p)
        return self.join(self.on_blocks.sharp_derivative(X, p))

    def sharp_derivative_adjoint(self, p: Any, q: Any) -> Any:
        p, q = self.split("p", p), self.split("q", q)
        return self.join(self.on_blocks.sharp_derivative_adjoint(p, q))

    def known_curvature(self, X: Any, Y: Any, Z: Any) -> Any:
        X, Y, Z = self.split("X", X), self.split("Y", Y), self.split("Z", Z)
        return self.join(self.on_blocks.known_curvature(X, Y, Z))

    def gaussian(self, rng: np.random.Generator) -> Any:
        return self.join(self.on_blocks.gaussian(rng))

    def log_volume(self) -> Array:
        return self.on_blocks.log_volume()

    def log_volume_gradient(self) -> Any:
        return self.join(self.on_blocks.log_volume_gradient())

    def entropy(self) -> Array:
        """The logarithm of the volume of the balanced layers: see `DeepLinearMetric.entropy`."""
        return self.on_blocks.entropy()

    def entropy_gradient(self) -> Any:
        """The Euclidean gradient of the entropy: see `DeepLinearMetric.entropy_gradient`."""
        return self.join(self.on_blocks.entropy_gradient())

    def entropy_hessian(self, X: Any) -> Any:
        """The Euclidean Hessian of the entropy: see `DeepLinearMetric.entropy_hessian`."""
        return self.join(self.on_blocks.entropy_hessian(self.split("X", X)))

    def coordinate_laplacian(self) -> Any:
        return self.join(self.on_blocks.coordinate_laplacian())

    def ito_drift(self) -> Any:
        return self.join(self.on_blocks.ito_drift())


class DenseAt(SpectralAt):
    """A spectral metric at a point that is a matrix, on matrices of its shape.

    Parameters
    ----------
    at : FrameAt
        The metric on blocks.
    W : array (..., m, n)
        The point.
    """

    def __init__(self, at: FrameAt, W: Array) -> None:
        super().__init__(at)
        self._W = W
        # Of the last first argument of inner: itself, its blocks and those of its covector.
        self._known: tuple[Any, Any, Any] = None, None, None

    def split(self, name: str, vector: Array) -> Blocks:
        """The blocks of a matrix."""
        return self.on_blocks.frame.split(finite(name, matching_matrix(name, vector, "W", self._W)))

    def join(self, blocks: Blocks) -> Array:
        """The matrix that has these blocks."""
        return self.on_blocks.frame.join(blocks)

    def inner(self, X: Array, Y: Array) -> Array:
        """The inner product; the blocks of X are remembered, as solvers ask for its norm first."""
        known, x, covector = self._known
        if not same_array(known, X):
            x = self.split("X", X)
            covector = self.on_blocks.flat(x)
            if type(X) is np.ndarray:
                self._known = X.copy(), x, covector
        y = x if Y is X else self.split("Y", _fitting_stack(Y, X))
        return self.on_blocks.pair(covector, y)


def _fitting_stack(Y: Array, X: Array) -> Array:
    """The vector Y, if it goes with X where both are stacks of matrices."""
    if getattr(X, "shape", None) == getattr(Y, "shape", None):
        return Y
    return matching_matrix("Y", Y, "X", floating_array("X", X))
