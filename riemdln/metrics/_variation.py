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

from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace

from riemdln._arrays import NotFiniteError
from riemdln.metrics._frame import Blocks
from riemdln.kernels import DividedDifference

# An array of any namespace that follows the array API standard.
Array = Any

__all__ = ["Variation", "left_variation"]


class Variation(NamedTuple):
    """How theta varies with W W^T, in a frame of rank r with singular values s.

    Attributes
    ----------
    s : array (..., r)
        The singular values; those whose squares are lost to underflow count as zero.
    far : array (..., r, r)
        1 / (s_i^2 - s_l^2), and 0 where the two are close.
    near : array (..., r, r) or None
        1/2 where s_i and s_l are close, i != l, and 0 elsewhere; None where no two are close.
    rise, slope : Blocks
        theta(s_i, t) - theta(0, t), and the derivative of theta in s_i^2, for t = s_j in M and
        for t = 0 in Vpt.
    """

    s: Array
    far: Array
    near: Array
    rise: Blocks
    slope: Blocks

    def derivative(self, X: Blocks, P: Blocks, rest: Array | None = None) -> Blocks:
        """What the variation of W W^T along X makes of P, up to its own rest.

        The rest of P, orthogonal to both singular spaces, is an array or an operator.
        """
        change = X.M * self.s[..., None, :]
        change = change + change.mT  # D(W W^T)[X] = X W^T + W X^T, in the frame
        M = self._product(change, P.M, self.rise.M, self.slope.M)
        Up = Vpt = None
        if X.Up is not None:
            edge = self._edge(self.rise.M)
            M = M + edge * (X.Up.mT @ P.Up)
            Up = X.Up @ (edge * P.M)
        if P.Vpt is not None:
            Vpt = self._product(change, P.Vpt, self.rise.Vpt, self.slope.Vpt)
        if rest is not None:
            Vpt = Vpt + self._edge(self.rise.Vpt) * (rest.mT @ X.Up).mT
        return Blocks(Up, M, Vpt)

    def adjoint(
        self, P: Blocks, Q: Blocks, rest_P: Array | None = None, rest_Q: Array | None = None
    ) -> Blocks:
        """The covector of X -> <P, derivative(X, Q)>."""
        pairing = self._pairing(P.M, Q.M, self.rise.M, self.slope.M)
        Up = Vpt = None
        if P.Vpt is not None:
            pairing = pairing + self._pairing(P.Vpt, Q.Vpt, self.rise.Vpt, self.slope.Vpt)
            Vpt = 0.0 * P.Vpt
        if P.Up is not None:
            edge = self._edge(self.rise.M)
            Up = Q.Up @ (edge * P.M).mT + P.Up @ (edge * Q.M).mT
        for rest, other in ((rest_P, Q), (rest_Q, P)):
            if rest is not None:
                Up = Up + rest @ (self._edge(self.rise.Vpt) * other.Vpt).mT
        return Blocks(Up, (pairing + pairing.mT) * self.s[..., None, :], Vpt)

    def _product(self, change: Array, P: Array, rise: Array, slope: Array) -> Array:
        """sum_l theta[s_i, s_l; t_j] change_il P_lj."""
        xp = array_namespace(P)
        diagonal = xp.linalg.diagonal(change)[..., :, None]
        far = self.far * change
        product = rise * (far @ P) - far @ (rise * P) + slope * diagonal * P
        if self.near is not None:
            near = self.near * change
            product = product + slope * (near @ P) + near @ (slope * P)
        return product

    def _pairing(self, P: Array, Q: Array, rise: Array, slope: Array) -> Array:
        """sum_j theta[s_i, s_l; t_j] P_ij Q_lj."""
        xp = array_namespace(P)
        pairing = self.far * ((rise * P) @ Q.mT - P @ (rise * Q).mT)
        diagonal = xp.sum(slope * P * Q, axis=-1)
        pairing = pairing + xp.eye(P.shape[-2], dtype=P.dtype) * diagonal[..., None, :]
        if self.near is not None:
            pairing = pairing + self.near * ((slope * P) @ Q.mT + P @ (slope * Q).mT)
        return pairing

    def _edge(self, rise: Array) -> Array:
        """s_i theta[s_i, 0; t_j]: for the directions that leave the column space."""
        xp = array_namespace(self.s)
        positive = xp.where(self.s > 0, self.s, 1.0)[..., :, None]
        return rise / positive


def left_variation(s: Array, difference: DividedDifference, *, spans_rows: bool) -> Variation:
    """The variation with W W^T of the kernel with a given divided difference in its first argument.

    Parameters
    ----------
    s : array (..., r)
        Singular values, descending.
    difference : callable
        The divided difference ``difference(a, b, t)`` of the kernel in its first argument.
    spans_rows : bool
        Whether the frame spans the row space, so that there is no block Vpt.

    Returns
    -------
    Variation

    Raises
    ------
    ValueError
        If the squares of the largest singular values cannot be represented, or the kernel is not
        finite where one of its arguments is zero.
    """
    xp = array_namespace(s)
    limits = xp.finfo(s.dtype)
    tiny = limits.smallest_normal / limits.eps
    largest = xp.max(s, axis=-1)
    largest = xp.where(largest > 0, largest, 1.0)
    if not xp.all((largest > (2 * tiny) ** 0.5) & (largest < (limits.max / 2) ** 0.5)):
        raise NotFiniteError(
            f"W has singular values up to {xp.max(s):g}, whose squares, which the derivatives of "
            f"the metric need, are outside the range of {s.dtype}: scale W"
        )
    s = xp.where(s**2 > tiny, s, 0.0)
    column, row = s[..., :, None], s[..., None, :]
    # Where the rounding error of the quotient, eps / closeness, meets that of the mean of the
    # derivatives, closeness^2 / 12.
    closeness = float(limits.eps) ** (1 / 3)
    close = xp.abs(column - row) <= closeness * xp.maximum(column, row)
    far = xp.where(close, 0.0, 1 / xp.where(close, 1.0, (column - row) * (column + row)))
    others = close & (column > 0) & ~xp.eye(s.shape[-1], dtype=xp.bool)
    near = xp.astype(others, s.dtype) / 2 if xp.any(others) else None

    def positive(value: Array) -> Array:
        value = xp.where(column > 0, value, 0.0)
        if not xp.all(xp.isfinite(value)):
            raise ValueError(
                "the derivatives of the metric need a kernel that is finite and differentiable "
                f"where one of its arguments is zero, and up to {xp.max(s):g}"
            )
        return value

    safe, zero = xp.where(column > 0, column, 1.0), 0.0 * column
    ts = (row, None if spans_rows else zero)
    with np.errstate(all="ignore"):
        rises = [None if t is None else safe**2 * difference(safe, zero, t) for t in ts]
        slopes = [None if t is None else difference(safe, safe, t) for t in ts]
    rise, slope = (
        Blocks(None, *(None if value is None else positive(value) for value in values))
        for values in (rises, slopes)
    )
    return Variation(s, far, near, rise, slope)
