"""The frame of a point: its singular value decomposition, which cuts matrices into blocks.

In the frame W = U diag(s) V^T every matrix Z splits into four blocks::

    Z = U M V^T + Up V^T + U Vp^T + rest,    U^T Up = 0,  V^T Vp = 0,  U^T rest = 0,  rest V = 0,

on each of which a spectral metric acts entrywise. For a matrix of full rank U or V is square, so
the rest is zero, and so is Up or Vp. (Up, M, Vp) is also how pymanopt's FixedRankEmbedded
writes a tangent vector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from riemdln._arrays import Array, device, everywhere, largest, limits, namespace

__all__ = ["Blocks", "Frame", "is_orthonormal", "singular_frame", "whole_frame"]


class Blocks:
    """The blocks of a matrix in a frame of rank r, or factors for their entries.

    Blocks are added, subtracted and multiplied with numbers as vectors are.

    Attributes
    ----------
    Up : array (..., m, r) or None
        What leaves the column space; None where U is square, so that nothing can.
    M : array (..., r, r)
        What stays in both spaces.
    Vp : array (..., n, r) or None
        What leaves the row space; None where V is square.
    rest : array or operator, or None
        What is orthogonal to both spaces: only covectors have it, only below full rank.
    """

    __slots__ = ("M", "Up", "Vp", "rest")

    def __init__(self, Up: Array, M: Array, Vp: Array, rest: Array = None) -> None:
        self.Up, self.M, self.Vp, self.rest = Up, M, Vp, rest

    @property
    def mT(self) -> Blocks:
        """The blocks of the transpose, in the frame of the transpose."""
        return Blocks(self.Vp, self.M.mT, self.Up, None if self.rest is None else self.rest.mT)

    def parts(self) -> list[Array]:
        """The blocks of the tangent space that there are: M, then Up and Vp."""
        return [part for part in (self.M, self.Up, self.Vp) if part is not None]

    def largest(self) -> Array:
        """The size of the largest entry of the tangent blocks, or those of a stack, in NumPy."""
        return np.max([np.abs(part).max(axis=(-2, -1)) for part in self.parts()], axis=0)

    def map(self, function: Callable[..., Array], *others: Blocks) -> Blocks:
        """A function of each of the tangent blocks, and of those of others."""
        Up, Vp = self.Up, self.Vp
        return Blocks(
            None if Up is None else function(Up, *[other.Up for other in others]),
            function(self.M, *[other.M for other in others]),
            None if Vp is None else function(Vp, *[other.Vp for other in others]),
        )

    def __add__(self, other: Blocks) -> Blocks:
        total = self.map(lambda a, b: a + b, other)
        rests = [rest for rest in (self.rest, other.rest) if rest is not None]
        total.rest = sum(rests[1:], rests[0]) if rests else None
        return total

    def __mul__(self, factor: float) -> Blocks:
        product = self.map(lambda a: factor * a)
        product.rest = None if self.rest is None else factor * self.rest
        return product

    __rmul__ = __mul__

    def __sub__(self, other: Blocks) -> Blocks:
        return self + (-1.0) * other

    def __truediv__(self, divisor: float) -> Blocks:
        return self * (1.0 / divisor)

    def __neg__(self) -> Blocks:
        return -1.0 * self


class Frame(NamedTuple):
    """The frame W = U diag(s) V^T of a matrix (..., m, n) or of a stack of them.

    Attributes
    ----------
    U : array (..., m, r) or None
        Left singular vectors; None stands for the identity.
    s : array (..., r)
        Singular values, descending.
    Vt : array (..., r, n) or None
        Right singular vectors, transposed; None stands for the identity.
    """

    U: Array  # or None
    s: Array
    Vt: Array  # or None

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (m, n) of the matrix."""
        r = self.s.shape[-1]
        m, n = (
            r if self.U is None else self.U.shape[-2],
            r if self.Vt is None else self.Vt.shape[-1],
        )
        return m, n

    @property
    def mT(self) -> Frame:
        """The frame of the transpose."""
        U, s, Vt = self
        return Frame(None if Vt is None else Vt.mT, s, None if U is None else U.mT)

    @property
    def spans_columns(self) -> bool:
        """Whether U is square, so that no matrix leaves the column space: Up = 0."""
        return self.U is None or self.U.shape[-1] == self.U.shape[-2]

    @property
    def spans_rows(self) -> bool:
        """Whether V is square, so that no matrix leaves the row space: Vp = 0."""
        return self.Vt is None or self.Vt.shape[-1] == self.Vt.shape[-2]

    @property
    def leaves_both(self) -> bool:
        """Whether a matrix may leave both spaces, as below full rank."""
        return not (self.spans_columns or self.spans_rows)

    @property
    def rounding(self) -> Array:
        """The threshold of the numerical rank, (...): what is not above it is a rounding error.

        As in numpy.linalg.matrix_rank it is max(m, n) times the machine epsilon times the largest
        one. A matrix of fixed rank is kept by its decomposition, whose size is that rank.
        """
        (m, n), r = self.shape, self.s.shape[-1]
        size = max(m, n) if r == min(m, n) else r
        return size * limits(self.s).eps * largest(self.s, -1)

    def at_rank(self, rank: int | None) -> Frame:
        """The frame of the nearest matrix of a lower rank; None keeps the rank."""
        U, s, Vt = self
        if rank is None or rank >= s.shape[-1] or U is None or Vt is None:
            return self
        return Frame(U[..., :, :rank], s[..., :rank], Vt[..., :rank, :])

    def split(self, Z: Array) -> Blocks:
        """Cut a matrix into its blocks in this frame."""
        U, _, Vt = self
        UtZ = Z if U is None else _product(U.mT, Z)
        M = UtZ if Vt is None else _product(UtZ, Vt.mT)
        blocks = Blocks(None, M, None)
        if not self.spans_columns:
            blocks.Up = (Z if Vt is None else _product(Z, Vt.mT)) - _product(U, M)
        if not self.spans_rows:
            blocks.Vp = UtZ.mT - _product(Vt.mT, M.mT)
        if blocks.Up is not None and blocks.Vp is not None:
            blocks.rest = Z - self.join(blocks)
        return blocks

    def join(self, blocks: Blocks) -> Array:
        """Put the blocks of a tangent vector together: U M V^T + Up V^T + U Vp^T."""
        (U, _, Vt), M = self, blocks.M
        if blocks.Up is None:
            UtZ = M if Vt is None else _product(M, Vt)
            UtZ = UtZ if blocks.Vp is None else UtZ + blocks.Vp.mT
            return UtZ if U is None else _product(U, UtZ)
        ZV = blocks.Up + (M if U is None else _product(U, M))
        Z = ZV if Vt is None else _product(ZV, Vt)
        return Z if blocks.Vp is None else Z + U @ blocks.Vp.mT


def singular_frame(W: Array) -> Frame:
    """The frame of a matrix, or of a stack of matrices, of full rank or not.

    The factors are thin: neither m x m nor n x n for an m x n matrix with m != n. One row or
    one column w has the closed form ``s = |w|``, ``w / |w|``, and needs no decomposition; the zero
    vector, for which any unit vector would do, gets the first one.

    Parameters
    ----------
    W : array (..., m, n)
        Finite, of real floating dtype.

    Returns
    -------
    Frame
        With r = min(m, n).

    Examples
    --------
    >>> import numpy as np
    >>> from riemdln._frame import singular_frame
    >>> singular_frame(np.array([[3.0, 4.0]])).s
    array([5.])
    """
    xp = namespace(W)
    m, n = W.shape[-2:]
    if min(m, n) > 1:
        return Frame(*xp.linalg.svd(W, full_matrices=False))
    with np.errstate(over="ignore"):
        norm = xp.linalg.vector_norm(W, axis=(-2, -1), keepdims=True)
    (eps, tiny, most) = limits(W)
    if everywhere((norm > tiny**0.5 / eps) & (norm < most**0.5), otherwise=False):
        unit, s = W / norm, norm[..., 0]
    else:
        # The squares of small or large entries are lost; scaled by the largest entry they are not.
        scale = largest(xp.abs(W), (-2, -1), keepdims=True)
        scaled = W / xp.where(scale > 0, scale, 1.0)
        norm = xp.linalg.vector_norm(scaled, axis=(-2, -1), keepdims=True)
        first = xp.reshape(xp.arange(m * n, device=device(W)) == 0, (m, n))
        unit = xp.where(norm > 0, scaled / xp.where(norm > 0, norm, 1.0), xp.astype(first, W.dtype))
        s = (scale * norm)[..., 0]
    return Frame(None, s, unit) if m == 1 else Frame(unit, s, None)


def whole_frame(W: Array) -> Frame:
    """The frame of a matrix or of a stack of matrices, with both factors also where one is 1."""
    U, s, Vt = singular_frame(W)
    one = namespace(W).ones_like(s)[..., None]
    return Frame(one if U is None else U, s, one if Vt is None else Vt)


def _product(A: Array, B: Array) -> Array:
    # An outer product is a broadcast: many times faster than the general matrix product of BLAS.
    return A * B if A.shape[-1] == 1 else A @ B


def is_orthonormal(factor: Array) -> bool:
    """Whether columns are orthonormal to half the digits, as those are that were stored."""
    xp = namespace(factor)
    identity = xp.eye(factor.shape[-1], dtype=factor.dtype, device=device(factor))
    near = xp.abs(factor.mT @ factor - identity) <= limits(factor).eps ** 0.5
    return everywhere(near, otherwise=True)
