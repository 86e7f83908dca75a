"""The frame of a point: its singular value decomposition, which cuts matrices into blocks.

In the frame W = U diag(s) V^T every matrix Z splits into blocks::

    Z = U M V^T + Up V^T + U Vp^T + (the part orthogonal to both),    U^T Up = 0,  V^T Vp = 0,

on each of which a spectral metric acts entrywise. For a matrix of full rank U or V is square, so
the last part is zero, and so is Up or Vp. (Up, M, Vp) is also how pymanopt's FixedRankEmbedded
writes a tangent vector.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from array_api_compat import array_namespace

from riemdln._arrays import Array

__all__ = ["Blocks", "Frame", "singular_frame"]


class Blocks(NamedTuple):
    """The blocks of a matrix in a frame of rank r, or factors for their entries.

    Attributes
    ----------
    Up : array (..., m, r) or None
        What leaves the column space; None where U is square, so that nothing can.
    M : array (..., r, r)
        What stays in both spaces.
    Vpt : array (..., r, n) or None
        What leaves the row space, Vp^T; None where V is square.
    """

    Up: Array | None
    M: Array
    Vpt: Array | None

    @property
    def mT(self) -> Blocks:
        """The blocks of the transpose, in the frame of the transpose."""
        Up, M, Vpt = (None if block is None else block.mT for block in self)
        return Blocks(Vpt, M, Up)

    def root(self) -> Blocks:
        """The square root of factors, entrywise."""
        return Blocks(*(None if block is None else block**0.5 for block in self))

    def times(self, factors: Blocks) -> Blocks:
        """The product with factors, entrywise."""
        pairs = zip(self, factors, strict=True)
        return Blocks(*(None if block is None else block * factor for block, factor in pairs))

    def plus(self, other: Blocks) -> Blocks:
        """The sum, block by block."""
        pairs = zip(self, other, strict=True)
        return Blocks(*(None if block is None else block + term for block, term in pairs))


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

    U: Array | None
    s: Array
    Vt: Array | None

    @property
    def spans_columns(self) -> bool:
        """Whether U is square, so that no matrix leaves the column space: Up = 0."""
        return self.U is None or self.U.shape[-1] == self.U.shape[-2]

    @property
    def spans_rows(self) -> bool:
        """Whether V is square, so that no matrix leaves the row space: Vp = 0."""
        return self.Vt is None or self.Vt.shape[-1] == self.Vt.shape[-2]

    def at_rank(self, rank: int | None) -> Frame:
        """The frame of the nearest matrix of a lower rank; None keeps the rank."""
        U, s, Vt = self
        if rank is None or rank >= s.shape[-1] or U is None or Vt is None:
            return self
        return Frame(U[..., :, :rank], s[..., :rank], Vt[..., :rank, :])

    def rest(self, Z: Array) -> Array | None:
        """The part of a matrix orthogonal to both singular spaces; None where there is none."""
        if self.spans_columns or self.spans_rows:
            return None
        return Z - self.join(self.split(Z))

    def split(self, Z: Array) -> Blocks:
        """Cut a matrix into the blocks (Up, M, Vp^T) of this frame."""
        U, Vt = self.U, self.Vt
        UtZ = Z if U is None else _product(U.mT, Z)
        M = UtZ if Vt is None else _product(UtZ, Vt.mT)
        Up = Vpt = None
        if not self.spans_columns:
            Up = (Z if Vt is None else _product(Z, Vt.mT)) - _product(U, M)
        if not self.spans_rows:
            Vpt = UtZ - _product(M, Vt)
        return Blocks(Up, M, Vpt)

    def join(self, blocks: Blocks) -> Array:
        """Put the blocks of a matrix together: U M V^T + Up V^T + U Vp^T."""
        U, Vt = self.U, self.Vt
        UtZ = blocks.M if Vt is None else _product(blocks.M, Vt)
        if blocks.Vpt is not None:
            UtZ = UtZ + blocks.Vpt
        Z = UtZ if U is None else _product(U, UtZ)
        if blocks.Up is not None:
            Z = Z + (blocks.Up if Vt is None else _product(blocks.Up, Vt))
        return Z

    def scale(self, Z: Array, factors: Blocks) -> Array:
        """Multiply the blocks of a matrix entrywise by factors, and put them together again.

        With one factor a column of Up and one a row of Vp^T this is::

            U (F_M - F_Up - F_Vp) M V^T + U F_Vp (U^T Z) + F_Up (Z V) V^T,    M = U^T Z V,

        entrywise products left out of the notation: four large matrix products for every shape.
        """
        U, Vt = self.U, self.Vt
        UtZ = Z if U is None else _product(U.mT, Z)
        M = UtZ if Vt is None else _product(UtZ, Vt.mT)
        F = factors.M
        for others in (factors.Up, factors.Vpt):
            F = F if others is None else F - others
        UtZ_scaled = F * M if Vt is None else _product(F * M, Vt)
        if factors.Vpt is not None:
            UtZ_scaled = UtZ_scaled + factors.Vpt * UtZ
        scaled = UtZ_scaled if U is None else _product(U, UtZ_scaled)
        if factors.Up is not None:
            ZV_scaled = factors.Up * (Z if Vt is None else _product(Z, Vt.mT))
            scaled = scaled + (ZV_scaled if Vt is None else _product(ZV_scaled, Vt))
        return scaled


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
    >>> from riemdln.metrics._frame import singular_frame
    >>> singular_frame(np.array([[3.0, 4.0]])).s
    array([5.])
    """
    xp = array_namespace(W)
    m, n = W.shape[-2:]
    if min(m, n) > 1:
        return Frame(*xp.linalg.svd(W, full_matrices=False))
    axes = {"axis": (-2, -1), "keepdims": True}
    limits = xp.finfo(W.dtype)
    with np.errstate(over="ignore"):
        norm = xp.linalg.vector_norm(W, **axes)
    if not xp.all((norm > limits.smallest_normal**0.5 / limits.eps) & (norm < limits.max**0.5)):
        # The squares of small or large entries are lost; scaled by the largest entry they are not.
        scale = xp.maximum(xp.max(W, **axes), -xp.min(W, **axes))
        scaled = W / xp.where(scale > 0, scale, 1.0)
        norm = xp.linalg.vector_norm(scaled, **axes)
        first = xp.reshape(xp.arange(m * n) == 0, (m, n))
        unit = xp.where(norm > 0, scaled / xp.where(norm > 0, norm, 1.0), xp.astype(first, W.dtype))
        s = (scale * norm)[..., 0]
    else:
        unit, s = W / norm, norm[..., 0]
    return Frame(None, s, unit) if m == 1 else Frame(unit, s, None)


def _product(A: Array, B: Array) -> Array:
    # An outer product is a broadcast: many times faster than the general matrix product of BLAS.
    return A * B if A.shape[-1] == 1 else A @ B
