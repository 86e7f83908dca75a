"""Matrix completion: least squares over the observed entries of a matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pymanopt
from numpy.typing import NDArray
from pymanopt.manifolds.manifold import Manifold
from scipy.sparse import coo_array, csr_array, issparse
from scipy.sparse.linalg import svds
from tqdm.auto import tqdm

from riemdln._arrays import floating_array, integer, random_generator
from riemdln._memory import Memory
from riemdln.manifolds import FixedRank, FixedRankPoint

__all__ = ["MatrixCompletion"]

Vector = NDArray[np.floating[Any]]


class MatrixCompletion:
    r"""The problem of completing a matrix from some of its entries.

    .. math:: E(W) = \tfrac12 \sum_{(i,j) \in \Omega} (W_{ij} - a_{ij})^2

    Its gradient is sparse, with entries on Omega only. Cost, gradient and Hessian products are
    computed a chunk of entries at a time from the factors of W, in memory near that of the data.

    Parameters
    ----------
    observed : scipy.sparse array or matrix (m, n)
        The observed entries; those that are stored count, zeros too. Rows and columns without
        entries are allowed: the loss says nothing of them, and what they become depends on the
        start.
    test : scipy.sparse array or matrix (m, n), optional
        Further entries, for `test_error`.
    chunk_size : int
        How many entries are computed at a time.
    progress : bool
        Whether to show a progress bar that counts gradients, with the training error.

    Attributes
    ----------
    latest_point
        Where the last gradient was taken, so that an interrupted solver's work is not lost; None
        before.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of the above: an entry is given twice or is not finite, or there is
        none.

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
    >>> start = completion.spectral_point(1)
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
        point : triple (u, s, vt) or array (m, n)
        """
        residual = self._residual(point)
        return float(residual @ residual) / 2

    def gradient(self, point: Any) -> Any:
        """The Euclidean gradient, a sparse matrix with the errors on the observed entries."""
        return self._observed.matrix(self._residual(point))

    def hessian_product(self, direction: Any) -> Any:
        """The derivative of the gradient along a matrix: its observed entries.

        Parameters
        ----------
        direction : triple (U, S, V) or array (m, n)
            A triple stands for U S V^T, as `FixedRank.embedding` gives it.
        """
        if len(direction) == 3 and not isinstance(direction, np.ndarray):
            U, S, V = direction
            return self._observed.matrix(self._observed.sample(U @ S, V))
        return self._observed.matrix(self._observed.pick(direction))

    def train_error(self, point: Any) -> float:
        """The root mean square of the errors on the observed entries."""
        residual = self._residual(point)
        return float(np.linalg.norm(residual) / np.sqrt(len(residual)))

    def test_error(self, point: Any) -> float:
        """The root mean square of the errors on the test entries."""
        if self._test is None:
            raise ValueError("test must be given for a test error")
        residual = self._test.residual(point)
        return float(np.linalg.norm(residual) / np.sqrt(len(residual)))

    def problem(self, manifold: Manifold) -> pymanopt.Problem:
        """The problem on a manifold, with its Euclidean gradient and Hessian.

        Parameters
        ----------
        manifold : pymanopt.manifolds.manifold.Manifold
            `FixedRank`, `FullRank`, or any other whose points are triples (u, s, vt), such as
            pymanopt's FixedRankEmbedded, which gets the gradients of the factors, or m x n arrays.

        Returns
        -------
        pymanopt.Problem
        """
        bars: list[Any] = []  # one, opened by the first gradient

        def observe(point: Any) -> Any:
            self.latest_point = point
            gradient = self.gradient(point)
            if self._progress:
                bar = bars[0] if bars else tqdm(desc="gradients", unit="")
                bars[:] = [bar]
                bar.update()
                bar.set_postfix_str(f"training error {self.train_error(point):.4g}")
            return gradient

        functions: tuple[Callable[..., Any] | None, ...]
        if manifold.point_layout == 1:
            functions = (
                lambda W: self.cost(W),
                lambda W: observe(W).toarray(),
                lambda W, X: self.hessian_product(X).toarray(),
            )
        elif isinstance(manifold, FixedRank):
            functions = (
                lambda u, s, vt: self.cost(FixedRankPoint(u, s, vt)),
                lambda u, s, vt: observe(FixedRankPoint(u, s, vt)),
                lambda u, s, vt, U, S, V: self.hessian_product((U, S, V)),
            )
        else:

            def factors(u: Vector, s: Vector, vt: Vector) -> tuple[Vector, Vector, Vector]:
                P = observe(FixedRankPoint(u, s, vt))
                PV, UtP = P @ vt.T, (P.T @ u).T
                return PV * s, np.sum(u * PV, axis=0), s[:, None] * UtP

            functions = (lambda u, s, vt: self.cost(FixedRankPoint(u, s, vt)), factors, None)
        cost, gradient, hessian = (
            None if function is None else pymanopt.function.numpy(manifold)(function)
            for function in functions
        )
        return pymanopt.Problem(
            manifold, cost, euclidean_gradient=gradient, euclidean_hessian=hessian
        )

    def spectral_point(
        self, k: int, *, rng: np.random.Generator | int | None = 0
    ) -> FixedRankPoint:
        """A start: the best approximation of rank k of the observed entries, zeros elsewhere.

        It is scaled to fit the observed entries in the sense of least squares.

        Parameters
        ----------
        k : int
            The rank, less than min(m, n).
        rng : numpy.random.Generator, int or None
            Source of the random start of the Lanczos method.

        Returns
        -------
        FixedRankPoint
        """
        k = integer("k", k)
        if k >= min(self.shape):
            raise ValueError(f"k must be less than min(m, n) = {min(self.shape)}, got {k}")
        values = self._observed.values
        if not values.any():
            raise ValueError("the observed entries are all zero, so that no start is known")
        start = random_generator("rng", rng).standard_normal(min(self.shape))
        u, s, vt = svds(self._observed.matrix(values), k=k, v0=start)
        if not s[0] > 1e-12 * s[-1]:
            raise ValueError(f"k must be at most the rank of the observed entries, got {k}")
        samples = self._observed.sample(u * s, vt.T)
        scale = abs(float(values @ samples)) / float(samples @ samples)
        return FixedRankPoint(u[:, ::-1].copy(), scale * s[::-1], vt[::-1].copy())

    def _residual(self, point: Any) -> Vector:
        key = point if isinstance(point, np.ndarray) else tuple(point)
        residual = self._residuals.find(key)
        if residual is None:
            residual = self._observed.residual(point)
            self._residuals.put(key, residual)
        return residual


class _Entries:
    """Entries of a matrix in the order of its rows."""

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

    def residual(self, point: Any) -> Vector:
        """The errors of a matrix at these entries."""
        if isinstance(point, np.ndarray):
            self._require_shape(point.shape)
            return self.pick(point) - self.values
        u, s, vt = point
        self._require_shape((len(u), vt.shape[1]))
        return self.sample(u * s, vt.T) - self.values

    def _require_shape(self, shape: tuple[int, ...]) -> None:
        if shape != self.shape:
            raise ValueError(f"point must stand for a matrix of shape {self.shape}, got {shape}")

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


def _name_duplicate(name: str, entries: Any) -> str:
    rows, columns = entries.coords
    order = np.lexsort((columns, rows))
    same = (np.diff(rows[order]) == 0) & (np.diff(columns[order]) == 0)
    first = order[np.flatnonzero(same)[0]]
    return (
        f"{name} must give each entry once, but ({int(rows[first])}, {int(columns[first])}) is "
        "given more than once"
    )
