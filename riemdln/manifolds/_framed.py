"""Matrices that flows know by their frames: what their places share, and three factors of them.

An entry of a matrix is only as true as the largest one. Where a metric depends on singular values
or vectors that entries do not hold, the state of a flow is made of factors of the matrix.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from riemdln._arrays import OutsideError, finite
from riemdln._frame import Blocks, Frame, is_orthonormal
from riemdln.manifolds._coordinates import CoordinatesBase
from riemdln.metrics._spectral_at import FrameAt

__all__ = ["FactorCoordinates", "FramedPlace", "MatrixGeometry", "quotient", "rows"]

Array = NDArray[np.floating[Any]]


class MatrixGeometry(NamedTuple):
    """What a manifold of matrices with a spectral metric says of a frame, or of a place with one.

    Attributes
    ----------
    at_frame : callable
        From a frame to the metric on blocks.
    covector : callable
        From a place and a Euclidean gradient there to its blocks.
    tangent : callable
        From a place and a tangent vector there to its blocks.
    point : callable
        From a place to the point as costs take it.
    record : callable
        From a place to the point in the form in which that of the start was given.
    factors : callable
        From X and Y to the factors that they stand for, where these are bound to each other.
    """

    at_frame: Callable[[Frame], FrameAt]
    covector: Callable[[Any, Any], Blocks]
    tangent: Callable[[Any, Any], Blocks]
    point: Callable[[Any], Any]
    record: Callable[[Any], Any]
    factors: Callable[[Array, Array], tuple[Array, Array]] = lambda X, Y: (X, Y)


class FramedPlace(abc.ABC):
    """A matrix, or a stack of them, by its frame; tangent vectors are blocks in it."""

    def __init__(self, geometry: MatrixGeometry) -> None:
        self._geometry = geometry

    @property
    @abc.abstractmethod
    def frame(self) -> Frame:
        """Its frame."""

    @property
    @abc.abstractmethod
    def matrix(self) -> Array:
        """The matrix itself."""

    @cached_property
    def point(self) -> Any:
        """The point, as costs take it."""
        return self._geometry.point(self)

    @cached_property
    def record(self) -> Any:
        """The point in the form in which that of the start was given."""
        return self._geometry.record(self)

    @property
    def singular_values(self) -> Array:
        """Its singular values."""
        return self.frame.s

    def gradient(self, covector: Any) -> Blocks:
        """The Riemannian gradient of a Euclidean one."""
        return self._at.sharp(self._geometry.covector(self, covector))

    def tangent(self, tangent_vector: Any) -> Blocks:
        """A tangent vector of the manifold."""
        return self._geometry.tangent(self, tangent_vector)

    def norm(self, Z: Blocks) -> Array:
        """The norm of a tangent vector in the metric."""
        # Not by flat, which takes small singular values for frozen: here they are none.
        root = Z.map(lambda z, theta: quotient(z, np.sqrt(theta)), self._at.theta)
        largest = root.largest()
        scale = np.where(largest > 0, largest, 1.0)  # squares may leave the range
        shares = [part / scale[..., None, None] for part in root.parts()]
        return scale * np.sqrt(sum(np.sum(part * part, axis=(-2, -1)) for part in shares))

    @abc.abstractmethod
    def velocity(self, Z: Blocks) -> Array:
        """How the state moves when the matrix moves along a tangent vector."""

    def in_frame(self) -> tuple[FrameAt, Callable[[Blocks], Blocks]]:
        """The metric on blocks, which are what tangent vectors are here."""
        return self._at, lambda blocks: blocks

    @cached_property
    def _at(self) -> FrameAt:
        return self._geometry.at_frame(self.frame)


class FactorCoordinates(CoordinatesBase):
    r"""Three factors of a matrix of rank k: W = U C V^T with any square C.

    Singular vectors turn fast where singular values meet, these factors do not: along the tangent
    vector u M vt + Up vt + u Vp^T they may move by

    .. math:: \dot U = U_p C^{-1}, \qquad \dot C = M, \qquad \dot V = V_p C^{-T}

    where U = u, C = diag(s) and V = vt^T (Koch and Lubich 2007, with C for their S). U and V hold
    the row and the column space also where C is singular and the entries of W do not determine
    them.

    Parameters
    ----------
    geometry : MatrixGeometry
        What the manifold says of frames.
    frame : Frame
        That of the point where they start, or of a stack of points.

    References
    ----------
    - O. Koch, C. Lubich. Dynamical low-rank approximation. SIAM J. Matrix Anal. Appl. 29, 2007.
    """

    def __init__(self, geometry: MatrixGeometry, frame: Frame) -> None:
        U, s, Vt = (np.asarray(part, dtype=np.float64) for part in frame)
        self._geometry = geometry
        self._m, self._k = U.shape[-2:]
        self.stack = s.shape[:-1]
        V, C = Vt.mT, s[..., None] * np.eye(self._k)
        if not (is_orthonormal(U) and is_orthonormal(V)):
            (U, R_u), (V, R_v) = np.linalg.qr(U), np.linalg.qr(V)
            C = R_u @ C @ R_v.mT
        self.state = rows(U, C, V)

    def at(self, state: Array) -> FactorPlace:
        """The point U C V^T, of which U and V need not be quite orthonormal."""
        m, k = self._m, self._k
        copies = state.reshape(*self.stack, -1)
        U, C, V = (
            part.reshape(*self.stack, -1, k)
            for part in np.split(copies, [m * k, m * k + k * k], axis=-1)
        )
        return FactorPlace(self._geometry, U, C, V)


class FactorPlace(FramedPlace):
    """A point U C V^T, and how the factors move."""

    def __init__(self, geometry: MatrixGeometry, U: Array, C: Array, V: Array) -> None:
        super().__init__(geometry)
        self._U, self._C, self._V = U, C, V

    @cached_property
    def matrix(self) -> Array:
        """The matrix itself."""
        return finite("the point", self._U @ self._C @ self._V.mT)

    @cached_property
    def frame(self) -> Frame:
        """Its frame."""
        (Q_u, R_u), (Q_v, R_v) = np.linalg.qr(self._U), np.linalg.qr(self._V)
        left, s, right = np.linalg.svd(finite("the point", R_u @ self._C @ R_v.mT))
        return Frame(Q_u @ left, s, right @ Q_v.mT)

    def velocity(self, Z: Blocks) -> Array:
        """The velocities of U, C and V."""
        u, s, vt = self.frame
        left, right = u.mT @ self._U, vt @ self._V
        # The formulas hold for u, diag(s) and vt^T. Here U = u left, where left does not move, and
        # the same on the right.
        C = np.linalg.solve(left, np.linalg.solve(right, Z.M.mT).mT)
        rounding = max(self.frame.shape) * np.finfo(np.float64).eps * Z.largest()[..., None, None]
        return rows(
            _turned(Z.Up, s, left, self._U, rounding),
            C,
            _turned(Z.Vp, s, right, self._V, rounding),
        )


def _turned(Up: Array | None, s: Array, left: Array, U: Array, rounding: Array) -> Array:
    """The velocity Up S^{-1} u^T U of an outer factor; a square one stays."""
    if Up is None:
        return np.zeros_like(U)
    if np.any((s[..., None, :] == 0) & (np.abs(Up) > rounding)):
        raise OutsideError("singular vectors turn infinitely fast at a singular value of zero")
    return quotient(Up, s[..., None, :]) @ left


def rows(*factors: Array) -> Array:
    """The factors of each copy one after the other, as one flat vector."""
    flat = [factor.reshape(*factor.shape[:-2], -1) for factor in factors]
    return np.concatenate(flat, axis=-1).ravel()


def quotient(part: Array, size: Array) -> Array:
    """The quotient, and zero where the size is: what has no size moves nothing."""
    return np.divide(part, size, out=np.zeros(part.shape), where=size > 0)
