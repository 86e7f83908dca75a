"""How a spectral cometric varies with its point: the derivative of sharp and its adjoint.

A_W acts on the left as a function of W W^T and on the right as a function of W^T W. Seen from
the left, each column j of U^T P V is multiplied by the matrix function theta(., s_j) of W W^T,
whose derivative in the frame of W is (Daleckii and Krein 1965)::

    (U^T DA_W[X] P V)_ij = sum_l theta[s_i, s_l; s_j] (D(W W^T)[X])_il (U^T P V)_lj

with the first divided difference theta[a, b; t] = (theta(a, t) - theta(b, t)) / (a^2 - b^2). Seen
from the right it is the same of all transposes. Up to the indices where s_i and s_l are close this
is a difference of two matrix products::

    theta * (K @ P) - K @ (theta * P),    K_il = (D(W W^T)[X])_il / (s_i^2 - s_l^2),

and where they are close, the divided difference is the mean of the derivatives at s_i and s_l up
to the order of the square of their relative distance: two more products, if any two are close.
So the cost is that of a few products for every kernel, and no array has three indices.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from riemdln._arrays import (
    Array,
    NotFiniteError,
    certain,
    diagonal_mask,
    everywhere,
    limits,
    namespace,
)
from riemdln._frame import Blocks, Frame
from riemdln.kernels import Kernel
from riemdln.kernels.kernel import filled

__all__ = ["Variation", "left_variation"]


class Variation(NamedTuple):
    """How theta varies with W W^T, in a frame of rank r with singular values s.

    Attributes
    ----------
    s : array (..., r)
        The singular values; those whose squares are lost to underflow count as zero.
    inverse_gap : array (..., r, r)
        1 / (s_i^2 - s_l^2), and 0 where the two are close.
    clustered : array (..., r, r) or None
        1/2 where s_i and s_l are close, i != l, and 0 elsewhere; None where no two are close.
    above_zero, derivative_in_square : array (..., r, r)
        theta(s_i, s_j) - theta(0, s_j), and the derivative of theta(s_i, s_j) in s_i^2.
    leaving : array (..., r, r) or None
        s_i theta[s_i, 0; s_j], for what leaves the column space; None where nothing can. In this
        and the next two 0 stands for what is beyond the rank, see `Kernel.edge`.
    edge : array (..., r, r) or None
        theta[s_i, s_l; 0], for what leaves the row space; None where nothing can.
    corner : array (..., r) or None
        theta(s_i, 0) / s_i, for what leaves both spaces; None where nothing can.
    """

    s: Array
    inverse_gap: Array
    clustered: Array  # or None
    above_zero: Array
    derivative_in_square: Array
    leaving: Array  # or None
    edge: Array  # or None
    corner: Array  # or None

    def derivative(self, X: Blocks, P: Blocks) -> Blocks:
        """What the variation of W W^T along X makes of P, up to what leaves both spaces."""
        change = X.M * self.s[..., None, :]
        change = change + change.mT  # D(W W^T)[X] = X W^T + W X^T, in the frame
        M, Up, Vp = self._product(change, P.M), None, None
        if X.Up is not None:
            M = M + self.leaving * (X.Up.mT @ P.Up)
            Up = X.Up @ (self.leaving * P.M)
        if P.Vp is not None:
            Vp = P.Vp @ (self.edge * change)
        if P.rest is not None:
            Vp = Vp + (P.rest.mT @ X.Up) * self.corner[..., None, :]
        return Blocks(Up, M, Vp)

    def adjoint(self, P: Blocks, Q: Blocks) -> Blocks:
        """The covector of X -> <P, derivative(X, Q)>."""
        pairing, Up, Vp = self._pairing(P.M, Q.M), None, None
        if P.Vp is not None:
            pairing = pairing + self.edge * (P.Vp.mT @ Q.Vp)
            Vp = 0.0 * P.Vp
        if P.Up is not None:
            Up = Q.Up @ (self.leaving * P.M).mT + P.Up @ (self.leaving * Q.M).mT
        for one, other in ((P, Q), (Q, P)):
            if one.rest is not None:
                Up = Up + one.rest @ (other.Vp * self.corner[..., None, :])
        return Blocks(Up, (pairing + pairing.mT) * self.s[..., None, :], Vp)

    def _product(self, change: Array, P: Array) -> Array:
        """sum_l theta[s_i, s_l; s_j] change_il P_lj."""
        xp = namespace(P)
        diagonal = xp.linalg.diagonal(change)[..., :, None]
        inverse_gap = self.inverse_gap * change
        product = (
            self.above_zero * (inverse_gap @ P)
            - inverse_gap @ (self.above_zero * P)
            + self.derivative_in_square * diagonal * P
        )
        if self.clustered is not None:
            clustered = self.clustered * change
            product = (
                product
                + self.derivative_in_square * (clustered @ P)
                + clustered @ (self.derivative_in_square * P)
            )
        return product

    def _pairing(self, P: Array, Q: Array) -> Array:
        """sum_j theta[s_i, s_l; s_j] P_ij Q_lj."""
        xp = namespace(P)
        pairing = self.inverse_gap * ((self.above_zero * P) @ Q.mT - P @ (self.above_zero * Q).mT)
        diagonal = xp.sum(self.derivative_in_square * P * Q, axis=-1)
        pairing = pairing + xp.where(diagonal_mask(self.s), diagonal[..., None, :], 0.0)
        if self.clustered is not None:
            pairing = pairing + self.clustered * (
                (self.derivative_in_square * P) @ Q.mT + P @ (self.derivative_in_square * Q).mT
            )
        return pairing


def left_variation(frame: Frame, kernel: Kernel) -> Variation:
    """How a kernel varies with W W^T, through its first argument.

    Parameters
    ----------
    frame : Frame
        The frame of the point.
    kernel : Kernel
        The kernel.

    Returns
    -------
    Variation

    Raises
    ------
    ValueError
        If the squares of the largest singular values cannot be represented, or the kernel is not
        finite where one of its arguments is zero.
    """
    s = frame.s
    xp, (eps, least, most) = namespace(s), limits(s)
    tiny = least / eps
    largest = xp.max(s, axis=-1)
    in_range = (largest == 0) | ((largest > (2 * tiny) ** 0.5) & (largest < (most / 2) ** 0.5))
    if not everywhere(in_range, otherwise=True):
        raise NotFiniteError(
            f"W has singular values up to {float(xp.max(s)):g}, whose squares, which the "
            f"derivatives of the metric need, are outside the range of {s.dtype}: scale W"
        )
    second = s[..., None, :]  # of the second argument no square is taken
    s = xp.where(s**2 > tiny, s, 0.0)
    column, row = s[..., :, None], s[..., None, :]
    # Where the rounding error of the quotient, eps / closeness, meets that of the mean of the
    # derivatives, closeness^2 / 12.
    close = xp.abs(column - row) <= eps ** (1 / 3) * xp.maximum(column, row)
    inverse_gap = xp.where(close, 0.0, 1 / xp.where(close, 1.0, (column - row) * (column + row)))
    others = close & (column > 0) & ~diagonal_mask(s)
    clustered = None
    if certain(xp.any(others), otherwise=True):
        clustered = xp.where(others, 0.5 + 0.0 * column, 0.0)

    safe, zero, pairs = xp.where(column > 0, column, 1.0), 0.0 * column, (*s.shape, s.shape[-1])
    with np.errstate(all="ignore"):
        above_zero = safe**2 * filled(kernel.divided_difference(safe, zero, second), s, pairs)
        derivative_in_square = filled(kernel.divided_difference(safe, safe, second), s, pairs)
        leaving = edge = corner = None
        if not frame.spans_columns:
            leaving = safe * filled(kernel.difference_from_edge(safe, second), s, pairs)
            leaving = _finite_where_positive(leaving, column)
        if not frame.spans_rows:
            edge = filled(kernel.edge_difference(safe, row), s, pairs)
        if frame.leaves_both:
            corner = (filled(kernel.edge(safe), safe) / safe)[..., 0]
    if edge is not None:
        edge = xp.where(column > 0, edge, xp.where(row > 0, edge.mT, 0.0))
        edge = _finite_where_positive(edge, column + row)
    if corner is not None:
        corner = _finite_where_positive(corner, s)
    return Variation(
        s,
        inverse_gap,
        clustered,
        _finite_where_positive(above_zero, column),
        _finite_where_positive(derivative_in_square, column),
        leaving,
        edge,
        corner,
    )


def _finite_where_positive(value: Array, s: Array) -> Array:
    xp = namespace(value)
    value = xp.where(s > 0, value, 0.0)
    if not everywhere(xp.isfinite(value), otherwise=True):
        raise ValueError(
            "the derivatives of the metric need a kernel that is finite and differentiable "
            f"where one of its arguments is zero, and up to {float(xp.max(s)):g}"
        )
    return value
