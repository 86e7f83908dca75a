"""How a spectral cometric varies to the second order: what its curvature needs.

As in `riemdln.metrics._variation`, A_W acts on the left as a function of W W^T and on the right as
one of W^T W. With x_i = s_i^2 and E = D(W W^T)[X] = X W^T + W X^T, the part of D^2 A_W[X, Y] P from
the left alone is, in the frame of W,

    sum_kl theta[s_i, s_k, s_l; s_j] (E^X_ik E^Y_kl + E^Y_ik E^X_kl) P_lj
    + sum_l theta[s_i, s_l; s_j] (X Y^T + Y X^T)_il P_lj

with second divided differences in the squares. Where s_i and s_l are small and s_k is not, the two
sums cancel. So all that multiplies X_ik Y_lk is collected: by the product rule of divided
differences it is, with that of chi(s, t) = s^2 theta(s, t),

    x_k theta[s_i, s_k, s_l; s_j] + theta[s_i, s_l; s_j] = chi[s_i, s_k, s_l; s_j],

which is of the size of theta[s_k, 0; s_j] there, and exists at s_i = s_l = 0. The part from the
right is the same of all transposes, and that from both sides is, with F = D(W^T W)[Y],

    sum_kl theta[s_i, s_l; s_j, s_k] E^X_il P_lk F^Y_kj + the same with X and Y exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riemdln._frame import Blocks, Frame
from riemdln.kernels import Kernel

__all__ = ["SecondVariation", "SquareForm"]

Matrix = NDArray[np.floating[Any]]

# Where the squares of two singular values differ by less than this from their mean, relatively, a
# difference of a function at the two comes from its values at these distances from the mean.
_CLOSE = 0.05
_DISTANCES = _CLOSE * np.cos(np.pi * (2 * np.arange(4) + 1) / 16)


class SecondVariation:
    """The second derivative of a spectral cometric at W = diag(s), a square matrix.

    Parameters
    ----------
    kernel : Kernel
        The kernel theta.
    s : array (..., d)
        The singular values. Zeros stand for the rows or the columns that W has beyond its rank.

    Raises
    ------
    ValueError
        If the kernel has no finite second derivatives there.
    """

    def __init__(self, kernel: Kernel, s: Matrix) -> None:
        # A sum over i, j, k, l of a table (..., d, d, d, d), of what its axes are called, and of
        # which entries of q, X, Y and p it pairs in <q, D^2 A[X, Y] p>.
        self._terms: list[tuple[Matrix, str, tuple[str, ...]]] = []
        with np.errstate(all="ignore"):
            left = _one_side(kernel, s)
            transpose = kernel.transpose
            right = left if transpose is kernel else _one_side(transpose, s)
            both = _both_sides(kernel, s)
        if not all(np.isfinite(table).all() for table in (*left, *right, both)):
            raise ValueError(
                "the curvature needs a kernel with finite second derivatives at the singular "
                f"values of W, from {s.min():g} to {s.max():g}"
            )
        for tables, turn in ((left, 1), (right, -1)):
            chi, theta = tables
            for table, entries in (
                (chi, ("ij", "ik", "lk", "lj")),
                (_weighted(theta, s, "iklj", "kl"), ("ij", "ik", "kl", "lj")),
                (_weighted(theta, s, "iklj", "il"), ("ij", "ki", "kl", "lj")),
                (_weighted(theta, s, "iklj", "ik"), ("ij", "ki", "lk", "lj")),
            ):
                self._terms.append((table, "iklj", tuple(e[::turn] for e in entries)))
        for one, entry in (("l", "il"), ("i", "li")):
            for other, other_entry in (("k", "kj"), ("j", "jk")):
                table = _weighted(both, s, "iljk", one + other)
                self._terms.append((table, "iljk", ("ij", entry, other_entry, "lk")))

    def derivative(self, X: Matrix, Y: Matrix, p: Matrix) -> Matrix:
        """The second derivative D^2 A[X, Y] p of sharp, applied to a covector."""
        return self._pairing(None, X, Y, p)

    def adjoint(self, p: Matrix, X: Matrix, q: Matrix) -> Matrix:
        """The covector of Y -> <p, D^2 A[X, Y] q>."""
        return self._pairing(p, X, None, q)

    def _pairing(self, q: Matrix | None, X: Matrix, Y: Matrix | None, p: Matrix) -> Matrix:
        """What <q, D^2 A[X, Y] p> pairs with the one of q and Y that is left out."""
        total: Any = 0.0
        for table, axes, entries in self._terms:
            for first, second in ((X, Y), (Y, X)):
                operands, names, free = [table], [axes], ""
                for matrix, entry in zip((q, first, second, p), entries, strict=True):
                    if matrix is None:
                        free = entry
                    else:
                        operands.append(matrix)
                        names.append(entry)
                subscripts = ",".join("..." + name for name in names)
                total = total + np.einsum(f"{subscripts}->...{free}", *operands)
        return np.asarray(total)


class SquareForm:
    """Blocks as square matrices, of which W is a diagonal one.

    Of what leaves the column space or the row space of W only the few dimensions that some vectors
    span are kept, with singular values of zero: reflections show that curvature stays in them.

    Parameters
    ----------
    frame : Frame
        The frame of W, of rank r.
    vectors : sequence of Blocks
        Vectors that span what the others do.
    """

    def __init__(self, frame: Frame, vectors: Sequence[Blocks]) -> None:
        (m, n), self._r = frame.shape, frame.s.shape[-1]
        self._columns = _spanned(m - self._r, [vector.Up for vector in vectors])
        self._rows = _spanned(n - self._r, [vector.Vp for vector in vectors])
        bases = [basis for basis in (self._columns, self._rows) if basis is not None]
        self._stacks = [basis.shape[:-2] for basis in bases]
        beyond = max([basis.shape[-1] for basis in bases], default=0)
        self.s = np.concatenate([frame.s, np.zeros((*frame.s.shape[:-1], beyond))], axis=-1)

    def matrix(self, blocks: Blocks) -> Matrix:
        """The square matrix of some blocks."""
        d, r = self.s.shape[-1], self._r
        Z = np.zeros((*np.broadcast_shapes(blocks.M.shape[:-2], *self._stacks), d, d))
        Z[..., :r, :r] = blocks.M
        if self._columns is not None:
            Z[..., r:, :r] = self._columns.mT @ blocks.Up
        if self._rows is not None:
            Z[..., :r, r:] = (self._rows.mT @ blocks.Vp).mT
        return Z

    def blocks(self, Z: Matrix) -> Blocks:
        """The blocks of a square matrix."""
        r = self._r
        return Blocks(
            None if self._columns is None else self._columns @ Z[..., r:, :r],
            Z[..., :r, :r],
            None if self._rows is None else self._rows @ Z[..., :r, r:].mT,
        )


def _spanned(dimension: int, parts: list[Matrix]) -> Matrix | None:
    """An orthonormal basis of what the columns of some matrices span, of at most this dimension."""
    if not dimension:
        return None
    columns = np.concatenate(np.broadcast_arrays(*parts), axis=-1)
    return np.linalg.svd(columns, full_matrices=False)[0][..., :dimension]


def _one_side(kernel: Kernel, s: Matrix) -> tuple[Matrix, Matrix]:
    """The tables of chi[s_i, s_k, s_l; s_j] and theta[s_i, s_k, s_l; s_j]."""
    i, k, l, j = _along_axes(s)
    low, middle, high = np.sort(np.stack(np.broadcast_arrays(i, k, l, j)[:3]), axis=0)
    j = j + 0.0 * high

    def difference(a: Matrix) -> Matrix:
        return _difference(kernel, a, middle + 0.0 * a, j + 0.0 * a)

    def times_square(a: Matrix) -> Matrix:
        return np.where(a > 0, a**2 * difference(a), 0.0)

    # Where two of them are zero, theta is multiplied by zero, and so is chi where all three are.
    chi = np.where(high > 0, _divided(times_square, high, low), 0.0)
    theta = np.where(middle > 0, _divided(difference, high, low), 0.0)
    return chi, theta


def _both_sides(kernel: Kernel, s: Matrix) -> Matrix:
    """The table of theta[s_i, s_l; s_j, s_k]."""
    i, l, j, k = np.broadcast_arrays(*_along_axes(s))

    def difference(t: Matrix) -> Matrix:
        return _difference(kernel, i + 0.0 * t, l + 0.0 * t, t)

    return np.where((i + l > 0) & (j + k > 0), _divided(difference, j, k), 0.0)


def _difference(kernel: Kernel, a: Matrix, b: Matrix, t: Matrix) -> Matrix:
    """The divided difference theta[a, b; t], where zero stands for what is beyond the rank."""
    a, b, t = np.broadcast_arrays(a, b, t)
    beyond, from_edge = t == 0, (t > 0) & (np.minimum(a, b) == 0)
    inside, values = ~(beyond | from_edge), np.empty(a.shape)
    larger = np.maximum(a, b)[from_edge]
    for where, difference in (
        (inside, kernel.divided_difference(a[inside], b[inside], t[inside])),
        (from_edge, kernel.difference_from_edge(larger, t[from_edge])),
        (beyond, kernel.edge_difference(a[beyond], b[beyond])),
    ):
        values[where] = difference
    return values


def _divided(f: Callable[[Matrix], Matrix], a: Matrix, b: Matrix) -> Matrix:
    """The difference (f(a) - f(b)) / (a^2 - b^2), with its limit at a = b.

    Where a and b are close it is that of the odd part of f around the mean of the squares, an even
    function of the distance from there: a polynomial interpolates it at four distances.
    """
    mean, half = (a**2 + b**2) / 2, (a - b) * (a + b) / 2
    distance = half / np.where(mean > 0, mean, 1.0)
    close = np.abs(distance) < _CLOSE
    quotient = (f(a) - f(b)) / np.where(close, 1.0, 2 * half)
    if not close.any():
        return quotient
    polynomial: Any = 0.0
    for node in _DISTANCES:
        others = _DISTANCES[node != _DISTANCES]
        weight = np.prod(
            [(distance**2 - other**2) / (node**2 - other**2) for other in others], axis=0
        )
        odd = f(np.sqrt(mean * (1 + node))) - f(np.sqrt(mean * (1 - node)))
        polynomial = polynomial + weight * odd / (2 * node * mean)
    return np.where(close, polynomial, quotient)


def _along_axes(s: Matrix) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    """The singular values along each of four axes."""
    return (
        s[..., :, None, None, None],
        s[..., None, :, None, None],
        s[..., None, None, :, None],
        s[..., None, None, None, :],
    )


def _weighted(table: Matrix, s: Matrix, axes: str, weights: str) -> Matrix:
    """A table times the singular values along some of its axes."""
    along = dict(zip(axes, _along_axes(s), strict=True))
    for axis in weights:
        table = table * along[axis]
    return table
