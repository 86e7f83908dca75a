"""Matrix completion: least squares over the observed entries of a matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pymanopt
import scipy.linalg
from numpy.typing import NDArray
from pymanopt.manifolds.manifold import Manifold
from scipy.sparse import coo_array, csr_array, issparse
from scipy.sparse.linalg import svds
from tqdm.auto import tqdm

from riemdln._arrays import (
    Rng,
    finite_array,
    finite_matrix,
    floating_array,
    integer,
    is_triple,
    random_generator,
)
from riemdln._memory import Memory
from riemdln.manifolds import FixedRankPoint

__all__ = ["MatrixCompletion"]

Vector = NDArray[np.floating[Any]]
# A matrix, as itself (W,), or by its decomposition (u, s, vt).
Point = tuple[Vector] | tuple[Vector, Vector, Vector]


class MatrixCompletion:
    r"""The problem of completing a matrix from some of its entries.

    .. math:: E(W) = \tfrac12 \sum_{(i,j) \in \Omega} (W_{ij} - a_{ij})^2

    The gradient is sparse, with entries on Omega only. Of a W that is given by its decomposition
    the m x n entries are never formed: cost, gradient and Hessian products are computed from the
    factors, a chunk of observed entries at a time, in memory near that of the data.

    Parameters
    ----------
    observed : scipy.sparse array or matrix (m, n)
        The observed entries: those that are stored, stored zeros among them. Rows and columns
        without entries are allowed. The cost does not depend on them, so that what they become
        depends on the start.
    test : scipy.sparse array or matrix (m, n), optional
        Further entries, for `test_error`.
    chunk_size : int
        How many entries are computed at a time.
    progress : bool
        Whether to show a progress bar that counts gradients and shows the training error.

    Attributes
    ----------
    latest_point
        The point where a problem's gradient was last asked for, so that the work of an interrupted
        solver is not lost; None before the first one.

    Raises
    ------
    TypeError, ValueError
        If `observed` or ``test`` has no entry, an entry twice, or one that is not finite and real,
        their shapes differ, or `chunk_size` is not a positive whole number.

    Examples
    --------
    >>> import numpy as np
    >>> import pymanopt
    >>> import riemdln
    >>> from scipy.sparse import coo_array
    >>> rng = np.random.default_rng(0)
    >>> target = np.outer(rng.standard_normal(20), rng.standard_normal(15))
    >>> seen = rng.random(target.shape) < 0.5
    >>> observed = coo_array((target[seen], np.nonzero(seen)), shape=target.shape)
    >>> completion = riemdln.MatrixCompletion(observed)
    >>> manifold = riemdln.FixedRank(20, 15, 1, riemdln.DeepLinearMetric(depth=2))
    >>> optimizer = pymanopt.optimizers.TrustRegions(verbosity=0)
    >>> start = completion.spectral_point(1, rng=0)
    >>> u, s, vt = optimizer.run(completion.problem(manifold), initial_point=start).point
    >>> np.allclose(u * s @ vt, target)
    True
    """

    def __init__(
        self, observed: Any, test: Any = None, *, chunk_size: int = 2**16, progress: bool = False
    ) -> None:
        chunk_size = integer("chunk_size", chunk_size)
        self._observed = _Entries("observed", observed, chunk_size)
        self._test = None
        if test is not None:
            self._test = _Entries("test", test, chunk_size)
            if self._test.shape != self.shape:
                raise ValueError(
                    f"test must have the shape of observed, {self.shape}, got {self._test.shape}"
                )
        self.latest_point: Any = None
        self._residuals = Memory(size=1)
        self._progress = progress

    def __repr__(self) -> str:
        m, n = self.shape
        return f"MatrixCompletion({len(self._observed.values)} entries of {m} x {n})"

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (m, n) of the matrix."""
        return self._observed.shape

    def cost(self, point: Any) -> float:
        """Half the sum of the squared errors on the observed entries.

        Parameters
        ----------
        point : array_like (m, n) or triple of arrays (u, s, vt)
            The matrix, or arrays of shapes (m, k), (k,), (k, n) that stand for u diag(s) vt, such
            as a point of `FixedRank`.

        Raises
        ------
        TypeError, ValueError
            If `point` does not stand for a finite real matrix of the shape of the observed one.
        """
        residual = self._residual(point)
        return float(residual @ residual) / 2

    def gradient(self, point: Any) -> Any:
        """The Euclidean gradient: a sparse matrix of the errors on the observed entries.

        Parameters
        ----------
        point : array_like (m, n) or triple of arrays (u, s, vt)
            As for `cost`.

        Returns
        -------
        scipy.sparse.csr_array (m, n)
        """
        return self._observed.matrix(self._residual(point))

    def hessian_product(self, direction: Any) -> Any:
        """The derivative of the gradient along a matrix: the matrix's observed entries.

        Parameters
        ----------
        direction : array_like (m, n) or triple of arrays (U, S, V)
            The matrix, or three matrices that stand for U S V^T, such as a tangent vector of
            `FixedRank` in the form of `FixedRank.embedding`.

        Returns
        -------
        scipy.sparse.csr_array (m, n)

        Raises
        ------
        TypeError, ValueError
            If `direction` does not stand for a finite real matrix of the shape of the observed
            one.
        """
        if is_triple(direction, 2, 2, 2):
            U, S, V = _factors("direction", direction)
            if (U.shape[0], V.shape[0]) != self.shape or (U.shape[1], V.shape[1]) != S.shape:
                raise ValueError(
                    f"direction must be a triple (U, S, V) with U S V^T of shape {self.shape}, got "
                    f"shapes {U.shape}, {S.shape}, {V.shape}"
                )
            return self._observed.matrix(self._observed.sample(U @ S, V))
        return self._observed.matrix(self._observed.pick(self._matrix("direction", direction)))

    def train_error(self, point: Any) -> float:
        """The root mean square of the errors on the observed entries, at a point as for `cost`."""
        return _root_mean_square(self._residual(point))

    def test_error(self, point: Any) -> float:
        """The root mean square of the errors on the test entries, at a point as for `cost`."""
        if self._test is None:
            raise ValueError("test must be given for a test error")
        return _root_mean_square(self._test.residual(self._point(point)))

    def problem(self, manifold: Manifold) -> pymanopt.Problem:
        """The completion problem on a manifold, ready for pymanopt's optimizers.

        Parameters
        ----------
        manifold : pymanopt.manifolds.manifold.Manifold
            Any manifold whose points are m x n matrices, such as `FullRank`, or triples
            (u, s, vt), such as `FixedRank` and pymanopt's FixedRankEmbedded.

        Returns
        -------
        pymanopt.Problem
            With a Euclidean gradient, and with a Euclidean Hessian except on manifolds of triples
            that, as FixedRankEmbedded, take nothing but the gradients of u, s and vt.

        Raises
        ------
        TypeError, ValueError
            If `manifold` is not a manifold of matrices or of triples.
        """
        if not isinstance(manifold, Manifold):
            raise TypeError(f"manifold must be a pymanopt manifold, got {manifold!r}")
        bar: Any = None  # opened by the first gradient

        def observe(point: Any) -> Any:
            nonlocal bar
            self.latest_point = point
            gradient = self.gradient(point)
            if self._progress:
                if bar is None:
                    bar = tqdm(desc="gradients", unit="")
                bar.update()
                bar.set_postfix_str(f"training error {self.train_error(point):.4g}")
            return gradient

        def observe_factors(u: Vector, s: Vector, vt: Vector) -> tuple[Vector, Vector, Vector]:
            P = observe(FixedRankPoint(u, s, vt))
            PV, UtP = P @ vt.T, (P.T @ u).T
            return PV * s, np.sum(u * PV, axis=0), s[:, None] * UtP

        functions: tuple[Callable[..., Any] | None, ...]
        if manifold.point_layout == 1:
            functions = (
                self.cost,
                lambda W: observe(W).toarray(),
                lambda W, X: self.hessian_product(X).toarray(),
            )
        elif manifold.point_layout == 3:
            # A manifold with a cometric `sharp` takes gradients that are m x n matrices, sparse
            # ones too, and needs them so for Hessians. Those of pymanopt have no such method.
            takes_matrices = hasattr(manifold, "sharp")
            functions = (
                lambda u, s, vt: self.cost((u, s, vt)),
                (lambda u, s, vt: observe(FixedRankPoint(u, s, vt)))
                if takes_matrices
                else observe_factors,
                (lambda u, s, vt, U, S, V: self.hessian_product((U, S, V)))
                if takes_matrices
                else None,
            )
        else:
            raise ValueError(
                "manifold must have m x n matrices or triples (u, s, vt) for points, got "
                f"{manifold} with point_layout {manifold.point_layout}"
            )
        cost, gradient, hessian = (
            None if function is None else pymanopt.function.numpy(manifold)(function)
            for function in functions
        )
        return pymanopt.Problem(
            manifold, cost, euclidean_gradient=gradient, euclidean_hessian=hessian
        )

    def spectral_point(self, k: int, *, rng: Rng = None) -> FixedRankPoint:
        """A point to start from: the best rank-k approximation of the observed entries.

        Entries that are not observed count as zero. The singular values are then all multiplied by
        the one factor that makes the cost least.

        Parameters
        ----------
        k : int
            The rank, less than min(m, n).
        rng : numpy.random.Generator, int or None
            Where the Lanczos method starts, as `numpy.random.default_rng` takes it. The result
            depends on it by rounding errors only.

        Returns
        -------
        FixedRankPoint

        Raises
        ------
        ValueError
            If `k` is not less than min(m, n), or more than the rank of the observed entries.
        """
        k = integer("k", k)
        if k >= min(self.shape):
            raise ValueError(f"k must be less than min(m, n) = {min(self.shape)}, got {k}")
        largest = np.max(np.abs(self._observed.values))
        if not largest > 0:
            raise ValueError("the observed entries are all zero, so that no start is known")
        values = self._observed.values / largest  # so that no square overflows or vanishes
        start = random_generator("rng", rng).standard_normal(min(self.shape))
        u, s, vt = svds(self._observed.matrix(values), k=k, v0=start)
        if not s[0] > 1e-12 * s[-1]:
            raise ValueError(f"k must be at most the rank of the observed entries, got {k}")
        samples = self._observed.sample(u * s, vt.T)
        scale = largest * float(values @ samples) / float(samples @ samples)
        return FixedRankPoint(u[:, ::-1].copy(), scale * s[::-1], vt[::-1].copy())

    def _residual(self, point: Any) -> Vector:
        known = self._point(point)
        residual = self._residuals.find(known)
        if residual is None:
            residual = self._observed.residual(known)
            self._residuals.put(known, residual)
        return residual

    def _point(self, point: Any) -> Point:
        if not is_triple(point, 2, 1, 2):
            return (self._matrix("point", point),)
        u, s, vt = _factors("point", point)
        k = len(s)
        if (u.shape, vt.shape) != ((self.shape[0], k), (k, self.shape[1])):
            m, n = self.shape
            raise ValueError(
                f"point must stand for a matrix of shape {self.shape}: a triple (u, s, vt) must "
                f"have shapes ({m}, k), (k,), (k, {n}), got {u.shape}, {s.shape}, {vt.shape}"
            )
        return u, s, vt

    def _matrix(self, name: str, value: Any) -> Vector:
        W = _require_numpy(name, finite_matrix(name, value))
        if W.shape != self.shape:
            raise ValueError(f"{name} must stand for a matrix of shape {self.shape}, got {W.shape}")
        return W


class _Entries:
    """Some entries of a matrix, in the order of its rows."""

    def __init__(self, name: str, matrix: Any, chunk_size: int) -> None:
        if not issparse(matrix):
            raise TypeError(
                f"{name} must be a scipy.sparse array or matrix, got {type(matrix).__name__}"
            )
        given: Any = coo_array(matrix)  # type: ignore[call-overload]
        if given.ndim != 2 or not given.nnz:
            raise ValueError(f"{name} must be a matrix with at least one stored entry")
        values = floating_array(name, given.data)
        if not np.isfinite(values).all():
            row, column = (int(i[~np.isfinite(values)][0]) for i in given.coords)
            raise ValueError(f"{name} must be finite, but its entry ({row}, {column}) is not")
        entries: Any = csr_array(given, dtype=np.float64)
        if entries.nnz < given.nnz:
            raise ValueError(_name_duplicate(name, given))
        self._structure = entries.indices, entries.indptr
        self._chunk_size = chunk_size
        self.shape: tuple[int, int] = entries.shape
        self.values = entries.data
        self._rows = np.repeat(
            np.arange(self.shape[0], dtype=entries.indices.dtype), np.diff(entries.indptr)
        )

    def matrix(self, values: Vector) -> Any:
        """The sparse matrix with other values at these entries."""
        return csr_array((values, *self._structure), shape=self.shape, copy=True)

    def residual(self, point: Point) -> Vector:
        """The errors of a matrix at these entries."""
        if len(point) == 1:
            return self.pick(point[0]) - self.values
        u, s, vt = point
        return self.sample(u * s, vt.T) - self.values

    def pick(self, W: Vector) -> Vector:
        """These entries of a matrix."""
        return W[self._rows, self._structure[0]]

    def sample(self, left: Vector, right: Vector) -> Vector:
        """These entries of left @ right.T, a chunk at a time."""
        columns, right = self._structure[0], np.ascontiguousarray(right)
        samples = np.empty(len(columns))
        for start in range(0, len(columns), self._chunk_size):
            part = slice(start, start + self._chunk_size)
            np.einsum("ij,ij->i", left[self._rows[part]], right[columns[part]], out=samples[part])
        return samples


def _factors(name: str, triple: Any) -> tuple[Vector, Vector, Vector]:
    first, middle, last = (
        _require_numpy(f"{name}[{j}]", finite_array(f"{name}[{j}]", part))
        for j, part in enumerate(triple)
    )
    return first, middle, last


def _require_numpy(name: str, value: Any) -> Vector:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, got {type(value).__name__}")
    return value


def _root_mean_square(residual: Vector) -> float:
    # SciPy's norm does not overflow in the squares.
    return float(scipy.linalg.norm(residual) / np.sqrt(len(residual)))


def _name_duplicate(name: str, entries: Any) -> str:
    rows, columns = entries.coords
    order = np.lexsort((columns, rows))
    same = (np.diff(rows[order]) == 0) & (np.diff(columns[order]) == 0)
    first = order[np.flatnonzero(same)[0]]
    return (
        f"{name} must give each entry once, but ({int(rows[first])}, {int(columns[first])}) is "
        "given more than once"
    )
