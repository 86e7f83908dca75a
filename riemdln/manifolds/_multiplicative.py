"""Multiplicative coordinates: a matrix as X diag(d) Y^T, of which X and Y move.

A flow of a deep linear network never changes the rank of its matrix, and its small singular values
may be tiny beside the large ones. Entries of the matrix hold neither, because an error of theirs is
in proportion to the largest singular value. These coordinates hold the rank and small singular
values.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from riemdln._arrays import finite
from riemdln._frame import Blocks, Frame, is_orthonormal
from riemdln.manifolds._coordinates import CoordinatesBase
from riemdln.manifolds._framed import FramedPlace, MatrixGeometry, quotient, rows

__all__ = ["MultiplicativeCoordinates", "factored_frame"]

Array = NDArray[np.floating[Any]]

# Factors are renewed when they have stretched or shrunk any direction by this.
_WORN = 30.0

# Above this ratio of the least to the largest entry of d the SVD of LAPACK has all the digits that
# matter: its error is the machine epsilon over the ratio.
_UNGRADED = 1e-3


class MultiplicativeCoordinates(CoordinatesBase):
    r"""Two factors of a matrix, W = X diag(d) Y^T, that move while d stays.

    Along a tangent vector U M V^T + Up V^T + U Vp^T in the frame W = U diag(s) V^T, with
    :math:`\psi_{ij} = 1 / (s_i + s_j)`, they may move by

    .. math::

        \dot X = (U (\psi \circ M) + U_p S^{-1}) \, U^T X, \qquad
        \dot Y = (V (\psi \circ M)^T + V_p S^{-1}) \, V^T Y,

    for then W moves by that vector. A gradient has M = theta(s_i, s_j) p_ij and so on, so that
    these velocities are bounded near lower rank if theta(s, t) / (s + t) is. An integrator acts on
    X and Y from the left: it changes neither the rank of W nor the sign of its determinant, and
    with X and Y well conditioned a relative error of these is one of every singular value.

    Parameters
    ----------
    geometry : MatrixGeometry
        What the manifold says of frames.
    frame : Frame
        That of the point where they start, or of a stack of points: X = U, d = s and Y = V.
    """

    def __init__(self, geometry: MatrixGeometry, frame: Frame) -> None:
        U, s, Vt = (np.asarray(part, dtype=np.float64) for part in frame)
        if np.any(np.diff(s, axis=-1) > 0):
            order = np.argsort(-s, axis=-1, kind="stable")
            s = np.take_along_axis(s, order, -1)
            U = np.take_along_axis(U, order[..., None, :], -1)
            Vt = np.take_along_axis(Vt, order[..., :, None], -2)
        if not (is_orthonormal(U) and is_orthonormal(Vt.mT)):
            # The tolerances of integrators are those of entries of about one.
            U, s, Vt = factored_frame(U, s, Vt.mT)
        self._geometry = geometry
        self._d = s
        self._shapes = U.shape[-2:], Vt.mT.shape[-2:]
        self.stack = s.shape[:-1]
        self.state = rows(U, Vt.mT)

    def at(self, state: Array) -> MultiplicativePlace:
        """The point of a state, and how it moves."""
        return MultiplicativePlace(self._geometry, *self._factors(state), self._d)

    def renewed(self, state: Array) -> MultiplicativeCoordinates | None:
        """New coordinates around a state whose factors are worn, or None while they are not."""
        for factor in self._factors(state):
            # Squares suffice: what they lose would be worn by far.
            stretches = np.linalg.eigvalsh(factor.mT @ factor)
            if stretches.min() < _WORN**-2 or stretches.max() > _WORN**2:
                return MultiplicativeCoordinates(self._geometry, self.at(state).frame)
        return None

    def _factors(self, state: Array) -> tuple[Array, Array]:
        (m, r), (n, _) = self._shapes
        copies = state.reshape(*self.stack, -1)
        X, Y = copies[..., : m * r], copies[..., m * r :]
        return self._geometry.factors(X.reshape(*self.stack, m, r), Y.reshape(*self.stack, n, r))


class MultiplicativePlace(FramedPlace):
    """A matrix X diag(d) Y^T, or a stack of them, and how its factors move."""

    # The covector that a gradient was asked for last, and its gradient.
    _last: tuple[Blocks, Blocks] | None = None

    def __init__(self, geometry: MatrixGeometry, X: Array, Y: Array, d: Array) -> None:
        super().__init__(geometry)
        self._X, self._Y, self._d = X, Y, d

    @cached_property
    def matrix(self) -> Array:
        """The matrix itself."""
        return finite("the point", (self._X * self._d[..., None, :]) @ self._Y.mT)

    @cached_property
    def frame(self) -> Frame:
        """Its frame, with every singular value to relative accuracy."""
        is_thin = self._d.shape[-1] < min(self._X.shape[-2], self._Y.shape[-2])
        W = None if is_thin else self.matrix  # which costs are asked of anyway
        return factored_frame(self._X, self._d, self._Y, W)

    def gradient(self, covector: Any) -> Blocks:
        """The Riemannian gradient of a Euclidean one."""
        blocks = self._geometry.covector(self, covector)
        self._last = blocks, self._at.sharp(blocks)
        return self._last[1]

    def norm(self, Z: Blocks) -> Array:
        """The norm of a tangent vector in the metric."""
        self._warn_of_underflow(Z)
        return super().norm(Z)

    def velocity(self, Z: Blocks) -> Array:
        """How the factors move when the matrix moves along a tangent vector."""
        U, s, Vt = self.frame
        total = s[..., :, None] + s[..., None, :]
        within = quotient(Z.M, total)
        X = _moved(U, within, Z.Up, s, self._X)
        Y = _moved(Vt.mT, within.mT, Z.Vp, s, self._Y)
        return rows(X, Y)

    def _warn_of_underflow(self, Z: Blocks) -> None:
        if self._last is None:
            return
        (covector, gradient), s = self._last, self.singular_values[..., 0]
        # What is lost in full is lost in its part from the covector too: elsewhere parts cancel.
        size = np.maximum(Z.largest(), gradient.largest())
        is_lost = (size < np.finfo(float).tiny) & (covector.largest() > 0) & (s > 0)
        if is_lost.any():
            warnings.warn(
                f"W has no singular value above {s[is_lost].max():g}, where its gradient is below "
                "the range of floating-point numbers, so that it stands still: scale W",
                stacklevel=3,
            )


def _moved(U: Array, within: Array, Up: Array | None, s: Array, X: Array) -> Array:
    """(U within + Up S^{-1}) U^T X: the velocity of one of the two factors."""
    motion = U @ within
    if Up is not None:
        motion = motion + quotient(Up, s[..., None, :])
    return motion @ (U.mT @ X)


def factored_frame(X: Array, d: Array, Y: Array, W: Array | None = None) -> Frame:
    """The singular value decomposition of X diag(d) Y^T, with every singular value to all digits.

    With X and Y well conditioned the relative error of each singular value is of the order of
    rounding, whatever the spread of d: what LAPACK's SVD of the product gives is only
    right to rounding of the largest one. X and Y are reduced to triangles by QR, and a one-sided
    Jacobi method decomposes what is left, well conditioned but for the scales of its columns.

    Parameters
    ----------
    X : array (..., m, r)
        The left factor.
    d : array (..., r)
        Nonnegative and descending.
    Y : array (..., n, r)
        The right factor.
    W : array (..., m, n), optional
        The product, if it is there already; at a lower rank it is not formed.

    Returns
    -------
    Frame

    Raises
    ------
    NotFiniteError
        If the product overflows.

    References
    ----------
    - J. Demmel, M. Gu, S. Eisenstat, I. Slapnicar, K. Veselic, Z. Drmac. Computing the singular
      value decomposition with high relative accuracy. Linear Algebra Appl. 299, 1999.
    - Z. Drmac, K. Veselic. New fast and accurate Jacobi SVD algorithm. SIAM J. Matrix Anal. Appl.
      29, 2008.
    """
    if d.shape[-1] < min(X.shape[-2], Y.shape[-2]):
        (Q, R), (P, T) = np.linalg.qr(X), np.linalg.qr(Y)
        left, s, right = factored_frame(R, d, T)
        return Frame(Q @ left, s, right @ P.mT)
    graded = np.asarray(d[..., -1] < _UNGRADED * d[..., 0])
    if graded.all():
        return _jacobi_frame(X, d, Y)
    if W is None:
        W = finite("the point", (X * d[..., None, :]) @ Y.mT)
    frame = Frame(*np.linalg.svd(W, full_matrices=False))
    # Factors that are not quite well conditioned may spread the singular values farther than d.
    graded |= frame.s[..., -1] < 0.1 * _UNGRADED * frame.s[..., 0]
    if graded.any():
        for whole, part in zip(frame, _jacobi_frame(X[graded], d[graded], Y[graded]), strict=True):
            whole[graded] = part
    return frame


def _jacobi_frame(X: Array, d: Array, Y: Array) -> Frame:
    (Q, R), (P, T) = np.linalg.qr(X), np.linalg.qr(Y)
    # The transpose T D R^T of the core has its columns graded as d is, for D R^T D^{-1} is
    # triangular with entries that are not large.
    core = finite("the point", (T * d[..., None, :]) @ R.mT)
    left, s, right = np.empty(core.shape), np.empty(d.shape), np.empty(core.shape)
    for k in np.ndindex(d.shape[:-1]):
        left[k], s[k], right[k] = _jacobi(core[k])
    return Frame(Q @ right, s, (P @ left).mT)


def _jacobi(A: Array) -> tuple[Array, Array, Array]:
    """U, s and V of a matrix that is well conditioned but for the scales of its columns."""
    # LAPACK drops normal numbers beside others, so that A is scaled to the middle of the range.
    shift = 500 - int(np.frexp(np.abs(A).max())[1])
    # joba=0 promises such columns; jobr=jobp=0: tiny ones are neither dropped nor disturbed.
    s, U, V, work, _, info = lapack.dgejsv(
        np.ldexp(A, shift), joba=0, jobu=0, jobv=0, jobr=0, jobp=0
    )
    if info or not np.isfinite(s).all():
        raise np.linalg.LinAlgError(f"the Jacobi method did not converge: info = {info}")
    return U, np.ldexp(s * (work[0] / work[1]), -shift), V
