"""The manifold of matrices of fixed rank with any spectral metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pymanopt.tools import ndarraySequenceMixin

from riemdln._ambient import Ambient, OrthogonalPart, ambient_matrix
from riemdln._arrays import Rng, finite, finite_array, floating_array, integer, is_triple, least
from riemdln._frame import Blocks, Frame
from riemdln.geodesics import GeodesicError, LowerRankError, exponential, geodesic_between
from riemdln.manifolds._base import MetricManifold
from riemdln.manifolds._coordinates import Coordinates, require_frame
from riemdln.manifolds._framed import FactorCoordinates, MatrixGeometry
from riemdln.manifolds._logarithms import Connection
from riemdln.manifolds._multiplicative import MultiplicativeCoordinates
from riemdln.metrics import MetricAt, SpectralMetric
from riemdln.metrics._spectral_at import FrameAt, SpectralAt
from riemdln.networks import thin_end_to_end

__all__ = ["FixedRank", "FixedRankPoint", "FixedRankVector"]

Matrix = NDArray[np.floating[Any]]

# Up to this relative distance of the squares of two singular values what the gradients of u and vt
# say of their off-diagonal entry beyond the product rule is lost in rounding errors.
_CLOSE = 1e-5

# Two singular spaces are the same if no unit vector of one is farther than this from the other.
_SAME = 1e-10


class _Point(NamedTuple):
    u: Matrix
    s: Matrix
    vt: Matrix


class _Vector(NamedTuple):
    Up: Matrix
    M: Matrix
    Vp: Matrix


class FixedRankPoint(ndarraySequenceMixin, _Point):
    """A matrix u diag(s) vt of rank k.

    Attributes
    ----------
    u : array (m, k)
        Orthonormal columns.
    s : array (k,)
        The singular values.
    vt : array (k, n)
        Orthonormal rows.
    """


class FixedRankVector(ndarraySequenceMixin, _Vector):
    """A tangent vector u M vt + Up vt + u Vp^T.

    Sums and multiples are entrywise.

    Attributes
    ----------
    Up : array (m, k)
        What leaves the column space: u^T Up = 0.
    M : array (k, k)
        What stays in both spaces.
    Vp : array (n, k)
        What leaves the row space: vt Vp = 0.
    """

    def __add__(self, other: tuple[Matrix, ...]) -> FixedRankVector:  # type: ignore[override]
        return FixedRankVector(*(a + b for a, b in zip(self, other, strict=True)))

    def __sub__(self, other: tuple[Matrix, ...]) -> FixedRankVector:
        return FixedRankVector(*(a - b for a, b in zip(self, other, strict=True)))

    def __mul__(self, factor: float) -> FixedRankVector:  # type: ignore[override]
        return FixedRankVector(*(factor * block for block in self))

    __rmul__ = __mul__  # type: ignore[assignment]

    def __truediv__(self, divisor: float) -> FixedRankVector:
        return FixedRankVector(*(block / divisor for block in self))

    def __neg__(self) -> FixedRankVector:
        return FixedRankVector(*(-block for block in self))


class FixedRank(MetricManifold):
    r"""The manifold of m x n matrices of rank k, with a spectral metric of one's choice.

    A deep linear network with a narrow layer of width k lives on these matrices. Points and tangent
    vectors are those of pymanopt's FixedRankEmbedded: (u, s, vt) stands for u diag(s) vt, and
    (Up, M, Vp) for u M vt + Up vt + u Vp^T; costs that were written for it run unchanged. No
    m x n array is formed. With ``DeepLinearMetric(1)`` it is FixedRankEmbedded.

    Parameters
    ----------
    m, n : int
        The numbers of rows and columns.
    k : int
        The rank, at most min(m, n).
    metric : SpectralMetric
        The metric. Its cometric multiplies the blocks of a Euclidean gradient by theta(s_i, s_j),
        theta(0, s_j) and theta(s_i, 0).
    logarithm : str
        What `log`, `dist` and `pair_mean` are. "geodesic": the inverse of the exponential map, the
        distance and the middle of the geodesic; where none is found they raise a `GeodesicError`
        (see `dist`). "linear": those of the straight line, as for `FullRank`. Here
        `log` is W_b - W_a projected to the tangent space at W_a, which the retraction takes to W_b
        but for an error of third order, and `pair_mean` the matrix of rank k nearest to
        (W_a + W_b) / 2.
    rng : numpy.random.Generator, int or None
        Source of the random points and tangent vectors, or a seed for one.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or the metric freezes the row or column space, as
        that of infinite depth does.

    Notes
    -----
    A Euclidean gradient is taken in two forms. Autodiff gives the gradients (du, ds, dvt) of the
    factors. A cost of the matrix itself may give its m x n gradient: an array, a scipy.sparse
    array, a scipy.sparse.linalg.LinearOperator, or a triple (U, S, V) that stands for U S V^T.
    Hessians take the second form of both the gradient and its derivative along the triple
    `embedding`, because the part of the gradient that is orthogonal to both singular spaces, of
    which the factors know nothing, enters there. So autodiff of the factors gives no Hessian:
    pymanopt pairs the triple with the gradients of the factors, and stops at their shapes. Autodiff
    of a function of the matrix does (see the second example).

    References
    ----------
    - B. Vandereycken. Low-rank matrix completion by Riemannian optimization. SIAM J. Optim. 2013.
    - G. Menon. The geometry of the deep linear network. 2024.

    Examples
    --------
    >>> import autograd.numpy as anp
    >>> import numpy as np
    >>> import pymanopt
    >>> import riemdln
    >>> manifold = riemdln.FixedRank(5, 4, 1, riemdln.DeepLinearMetric(depth=2), rng=0)
    >>> target = np.outer(np.arange(5.0), np.ones(4))
    >>> @pymanopt.function.autograd(manifold)
    ... def cost(u, s, vt):
    ...     return anp.sum((u * s @ vt - target) ** 2) / 2
    >>> problem = pymanopt.Problem(manifold, cost)
    >>> result = pymanopt.optimizers.ConjugateGradient(verbosity=0).run(problem)
    >>> u, s, vt = result.point
    >>> np.allclose(u * s @ vt, target, atol=1e-5)
    True

    Hessians by autodiff, of a function of the matrix:

    >>> from autograd import grad, hessian_vector_product
    >>> def loss(W):
    ...     return anp.sum((W - target) ** 4) / 4 + anp.sum((W - target) ** 2) / 2
    >>> @pymanopt.function.numpy(manifold)
    ... def cost(u, s, vt):
    ...     return loss(u * s @ vt)
    >>> @pymanopt.function.numpy(manifold)
    ... def gradient(u, s, vt):
    ...     return grad(loss)(u * s @ vt)
    >>> @pymanopt.function.numpy(manifold)
    ... def hessian(u, s, vt, U, S, V):
    ...     return hessian_vector_product(loss)(u * s @ vt, U @ S @ V.T)
    >>> problem = pymanopt.Problem(
    ...     manifold, cost, euclidean_gradient=gradient, euclidean_hessian=hessian
    ... )
    >>> result = pymanopt.optimizers.TrustRegions(verbosity=0).run(problem)
    >>> u, s, vt = result.point
    >>> np.allclose(u * s @ vt, target, atol=1e-6)
    True
    """

    def __init__(
        self,
        m: int,
        n: int,
        k: int,
        metric: SpectralMetric,
        *,
        logarithm: str = "geodesic",
        rng: Rng = None,
    ) -> None:
        m, n, k = integer("m", m), integer("n", n), integer("k", k)
        if k > min(m, n):
            raise ValueError(f"k must be at most min(m, n) = {min(m, n)}, got {k}")
        if not hasattr(metric, "at_frame"):
            raise TypeError(f"metric must be a SpectralMetric, got {metric!r}")
        self._shape, self._k = (m, n), k
        small = Frame(np.eye(min(m, k + 1), k), np.ones(k), np.eye(k, min(n, k + 1)))
        if not metric.at_frame(small).is_regular:
            raise ValueError(
                f"{metric!r} freezes the row or column space of {m} x {n} matrices of rank {k}: "
                "theta(s, 0) = 0, so that the metric does not exist there"
            )
        name = f"Manifold of {m}x{n} matrices of rank {k} with {metric!r}"
        dimension = (m + n - k) * k
        super().__init__(name, dimension, metric, rng, logarithm=logarithm, point_layout=3)

    def __repr__(self) -> str:
        return f"FixedRank({self._shape[0]}, {self._shape[1]}, {self._k}, {self._metric!r})"

    @property
    def typical_dist(self) -> float:
        """The scale of the manifold, its dimension, as FixedRankEmbedded has it."""
        return float(self.dim)

    def at(self, point: FixedRankPoint) -> MetricAt:
        """The metric at a point, on vectors (Up, M, Vp)."""
        return _FactoredAt(self._metric.at_frame(self._frame(point)), self)  # type: ignore[attr-defined]

    def scaled(self, point: FixedRankPoint, factor: float) -> FixedRankPoint:
        """The point times a positive number."""
        u, s, vt = point
        return FixedRankPoint(u, factor * s, vt)

    def in_frame(self, point: FixedRankPoint) -> tuple[FrameAt, Any, Any]:
        """The metric on blocks at a point, and the maps of vectors there and back."""
        return self.at(point).in_frame()  # type: ignore[return-value]

    def projection(self, point: FixedRankPoint, vector: Any) -> FixedRankVector:
        """The orthogonal projection of an m x n matrix on the tangent space.

        Parameters
        ----------
        point : FixedRankPoint
            The point.
        vector : array, sparse array, LinearOperator or triple (U, S, V)
            The matrix; a triple stands for U S V^T.

        Returns
        -------
        FixedRankVector
        """
        Z = ambient_matrix("vector", vector, self._shape)
        return self._vector(self._split(self._frame(point), Z))

    def to_tangent_space(self, point: FixedRankPoint, vector: Any) -> FixedRankVector:
        """(Up, M, Vp) with what rounding errors left of u^T Up and vt Vp taken away."""
        (u, _, vt), (Up, M, Vp) = point, vector
        return FixedRankVector(Up - u @ (u.T @ Up), M, Vp - vt.T @ (vt @ Vp))

    def random_point(self, rng: Rng = None) -> FixedRankPoint:
        """Uniform random singular vectors, and singular values uniform in (0, 1).

        Parameters
        ----------
        rng : numpy.random.Generator, int or None
            The source of randomness, or a seed for one; None for that of the manifold.
        """
        (m, n), k, rng = self._shape, self._k, self._random(rng)
        # The signs make the distribution of Q uniform.
        (u, R_u), (v, R_v) = (np.linalg.qr(rng.standard_normal((size, k))) for size in (m, n))
        s = np.sort(rng.uniform(size=k))[::-1]
        return FixedRankPoint(u * np.sign(np.diag(R_u)), s, (v * np.sign(np.diag(R_v))).T)

    def zero_vector(self, point: FixedRankPoint) -> FixedRankVector:
        """The zero vector."""
        (m, n), k = self._shape, self._k
        dtype = np.result_type(*point, np.float32)
        return FixedRankVector(*(np.zeros(size, dtype) for size in ((m, k), (k, k), (n, k))))

    def embedding(
        self, point: FixedRankPoint, tangent_vector: Any
    ) -> tuple[Matrix, Matrix, Matrix]:
        """The tangent vector as an m x n matrix U S V^T of rank 2k: the triple (U, S, V)."""
        (u, _, vt), (Up, M, Vp) = point, tangent_vector
        middle = np.eye(2 * self._k, dtype=M.dtype)
        return np.hstack([u @ M + Up, u]), middle, np.hstack([vt.T, Vp])

    def transport(
        self, point_a: FixedRankPoint, point_b: FixedRankPoint, tangent_vector_a: Any
    ) -> FixedRankVector:
        """The orthogonal projection of a tangent vector on the tangent space of another point."""
        return self.projection(point_b, self.embedding(point_a, tangent_vector_a))

    def retraction(self, point: FixedRankPoint, tangent_vector: Any) -> FixedRankPoint:
        """The matrix of rank k nearest to W + X, by the SVD of a 2k x 2k matrix.

        A step that is undefined, with NaN in all its entries, leads nowhere.
        """
        return super().retraction(point, tangent_vector)

    def _retract(self, point: FixedRankPoint, tangent_vector: Blocks) -> FixedRankPoint:
        frame, X, k = self._frame(point), tangent_vector, self._k
        Q_u, R_u = _orthonormal_complement(frame.U, X.Up)
        Q_v, R_v = _orthonormal_complement(frame.Vt.T, X.Vp)
        corner = np.zeros((len(R_u), len(R_v)), dtype=X.M.dtype)
        core = np.block([[np.diag(frame.s) + X.M, R_v.T], [R_u, corner]])
        left, s, right = np.linalg.svd(core)
        u = frame.U @ left[:k, :k] + Q_u @ left[k:, :k]
        v = frame.Vt.T @ right[:k, :k].T + Q_v @ right[:k, k:].T
        return FixedRankPoint(u, s[:k], v.T)

    def exp(self, point: FixedRankPoint, tangent_vector: Any) -> FixedRankPoint:
        """The point that the geodesic with this velocity reaches.

        The metric does not change when rows or columns are turned, so a geodesic stays in
        the span of the columns of u and Up, and of v and Vp: it is that of a 2k x 2k matrix of
        rank k (see `geodesics.geodesic`).

        Raises
        ------
        LowerRankError
            If the geodesic runs into a matrix of lower rank. At depth 1 such matrices are no end
            of the metric, and a geodesic may pass through one.
        """
        frame, X = self._frame(point), self._blocks("tangent_vector", tangent_vector)
        U, V = _joint_basis(frame.U, X.Up), _joint_basis(frame.Vt.T, X.Vp)
        inner = Frame(U.T @ frame.U, frame.s, frame.Vt @ V)
        Up, Vp = (
            None if leaving is None else basis.T @ leaving
            for basis, leaving in ((U, X.Up), (V, X.Vp))
        )
        W, Z = inner.U * inner.s @ inner.Vt, inner.join(Blocks(Up, X.M, Vp))
        try:
            end = exponential(self._metric, W, Z, rank=self._k)
        except LowerRankError as error:
            raise LowerRankError(error.time, U @ error.left, V @ error.right) from None
        return self._lifted(end, U, V)

    def dist(self, point_a: FixedRankPoint, point_b: FixedRankPoint) -> float:
        """The length of the way to another point: of the geodesic, or of the straight line.

        The geodesic lies in the span of the columns and rows of both points, among matrices of at
        most 2k rows and columns (see `geodesics.geodesic_between`).

        Raises
        ------
        GeodesicError
            If no geodesic was found, or infinitely many are the shortest: where the points share
            both spaces, in which their determinants have opposite signs.
        """
        return super().dist(point_a, point_b)

    def _connect(self, point_a: FixedRankPoint, point_b: FixedRankPoint) -> Connection:
        """The geodesic between two points, among matrices W that stand for U W V^T."""
        a, b = self._frame(point_a), self._frame(point_b)
        U, V = _common_basis(a.U, b.U), _common_basis(a.Vt.T, b.Vt.T)
        ends = [(U.T @ frame.U) * frame.s @ (frame.Vt @ V) for frame in (a, b)]
        shares_both = U.shape[1] == V.shape[1] == self._k
        if shares_both and np.prod([np.linalg.slogdet(end)[0] for end in ends]) < 0:
            raise GeodesicError(
                "no geodesic is known between points that share both spaces, in which their "
                "determinants have opposite signs: all turns out of these spaces are alike"
            )
        geodesic = geodesic_between(self._metric, *ends, rank=self._k)
        velocity = self.projection(point_a, (U, geodesic.velocities[0], V))
        middle = self._lifted(geodesic.points[len(geodesic.points) // 2], U, V)
        return Connection(geodesic.length, velocity, middle)

    def _difference(self, point_a: FixedRankPoint, point_b: FixedRankPoint) -> FixedRankVector:
        return self.projection(point_a, self._combination(-1, point_a, 1, point_b))

    def _separation(self, point_a: FixedRankPoint, point_b: FixedRankPoint) -> float:
        U, S, V = self._combination(-1, point_a, 1, point_b)
        return float(np.linalg.norm(np.linalg.qr(U)[1] @ S @ np.linalg.qr(V)[1].T))

    def _middle(self, point_a: FixedRankPoint, point_b: FixedRankPoint) -> FixedRankPoint:
        U, S, V = self._combination(0.5, point_a, 0.5, point_b)
        (Q_u, R_u), (Q_v, R_v) = np.linalg.qr(U), np.linalg.qr(V)
        return self._lifted(R_u @ S @ R_v.T, Q_u, Q_v)

    def _combination(
        self, alpha: float, point_a: FixedRankPoint, beta: float, point_b: FixedRankPoint
    ) -> tuple[Matrix, Matrix, Matrix]:
        """The matrix alpha W_a + beta W_b as a triple (U, S, V) that stands for U S V^T."""
        a, b = self._frame(point_a, "point_a"), self._frame(point_b, "point_b")
        S = np.diag(np.concatenate([alpha * a.s, beta * b.s]))
        return np.hstack([a.U, b.U]), S, np.vstack([a.Vt, b.Vt]).T

    def _lifted(self, W: Matrix, U: Matrix, V: Matrix) -> FixedRankPoint:
        """The point U W V^T of a small matrix W."""
        k = self._k
        left, s, right = np.linalg.svd(W, full_matrices=False)
        return FixedRankPoint(U @ left[:, :k], s[:k], right[:k] @ V.T)

    def euclidean_to_riemannian_gradient(
        self, point: FixedRankPoint, euclidean_gradient: Any
    ) -> FixedRankVector:
        """The Riemannian gradient, of a Euclidean gradient in either form (see `FixedRank`)."""
        frame = self._frame(point)
        covector = self._covector(frame, euclidean_gradient)
        return self._ask(frame, "sharp", euclidean_gradient=covector)

    def euclidean_to_riemannian_hessian(
        self,
        point: FixedRankPoint,
        euclidean_gradient: Any,
        euclidean_hessian: Any,
        tangent_vector: Any,
    ) -> FixedRankVector:
        """The Riemannian Hessian along a tangent vector: see `MetricAt.hessian`.

        The Euclidean gradient and its derivative are taken as m x n matrices (see `FixedRank`).
        """
        frame = self._frame(point)
        given = {"euclidean_gradient": euclidean_gradient, "euclidean_hessian": euclidean_hessian}
        for name, value in given.items():
            if _are_factors(value):
                raise TypeError(
                    f"{name} must be an m x n matrix (an array, a sparse array, a LinearOperator "
                    "or a triple (U, S, V) that stands for U S V^T): the gradients of the factors "
                    "u, s and vt do not determine the Riemannian Hessian"
                )
        covectors = {
            name: self._split(frame, ambient_matrix(name, value, self._shape))
            for name, value in given.items()
        }
        return self._ask(frame, "hessian", **covectors, tangent_vector=tangent_vector)

    def coordinates(self, point: Any, name: str = "initial_point") -> Coordinates:
        """Coordinates for differential equations around a point.

        Under a metric whose flows keep the rank they are multiplicative ones, which give every
        singular value to relative accuracy; under any other three factors U C V^T, C square.

        Parameters
        ----------
        point : FixedRankPoint
            The point.
        name : str
            What errors call it.

        Raises
        ------
        TypeError, ValueError
            If it is no point of the manifold.
        """
        frame = require_frame(name, point, *self._shape, self._k)
        if frame.s.ndim != 1:
            raise ValueError(f"{name} must be a single point, got a stack of {len(frame.s)}")
        geometry = MatrixGeometry(
            at_frame=self._metric.at_frame,  # type: ignore[attr-defined]
            covector=lambda place, P: self._covector(place.frame, P),
            tangent=lambda place, Z: self._checked("tangent_vector", Z),
            point=lambda place: FixedRankPoint(*place.frame),
            record=lambda place: place.point,
        )
        keeps_rank = self._metric.keeps_rank  # type: ignore[attr-defined]
        return (MultiplicativeCoordinates if keeps_rank else FactorCoordinates)(geometry, frame)

    def from_layers(self, layers: Sequence[ArrayLike]) -> FixedRankPoint:
        """The end-to-end matrix of a deep linear network whose narrowest layer has width k."""
        u, s, vt = thin_end_to_end(layers)
        return FixedRankPoint(u, s, vt)

    def _covector(self, frame: Frame, gradient: Any) -> Blocks:
        """The blocks of a Euclidean gradient, given as an m x n matrix or by its factors."""
        if not _are_factors(gradient):
            return self._split(frame, ambient_matrix("euclidean_gradient", gradient, self._shape))
        U, s, V = frame.U, frame.s, frame.Vt.T
        shapes = U.shape, s.shape, frame.Vt.shape
        du, ds, dvt = (
            finite_array(f"euclidean_gradient[{j}]", factor) for j, factor in enumerate(gradient)
        )
        if (du.shape, ds.shape, dvt.shape) != shapes:
            raise ValueError(
                f"euclidean_gradient must be an m x n matrix or factors of shapes {shapes}, got "
                f"{(du.shape, ds.shape, dvt.shape)}"
            )
        # Of a function of the matrix with gradient P these are P V S and S U^T P.
        left, right = U.T @ du, dvt @ V
        column, row = s[:, None], s[None, :]
        positive = np.where(s > 0, s, 1.0)
        larger = np.maximum(column, row)
        larger = np.where(larger > 0, larger, 1.0)
        a, b = column / larger, row / larger  # so that no square underflows
        M = (left * b + a * right) / larger / np.maximum(a**2 + b**2, 1.0)
        # Other functions of the factors: what is left turns the singular vectors.
        left, right = left - M * row, right - column * M
        gap = (row - column) * (row + column)
        far = np.abs(gap) > _CLOSE * np.maximum(row, column) ** 2
        turn = (left - left.T) * row + column * (right.T - right)
        M = M + np.where(far, turn, 0.0) / np.where(far, gap, 1.0)
        np.fill_diagonal(M, ds)
        Up = (du - U @ (U.T @ du)) / positive
        Vp = (dvt.T - V @ (V.T @ dvt.T)) / positive
        return self._blocks("euclidean_gradient", (Up, M, Vp))

    def _frame(self, point: Any, name: str = "point") -> Any:
        """The frame of a point, whose arrays are finite and have the right shapes: once checked."""
        if isinstance(point, Frame):
            return point
        (m, n), k = self._shape, self._k
        if len(point) != 3:
            raise ValueError(f"{name} must be a triple (u, s, vt), got {len(point)} arrays")
        names = [f"{name}.{field}" for field in ("u", "s", "vt")]
        arrays = [floating_array(where, part) for where, part in zip(names, point, strict=True)]
        shapes = tuple(array.shape for array in arrays)
        if shapes != ((m, k), (k,), (k, n)):
            raise ValueError(
                f"{name} must have arrays of shapes {(m, k)}, {(k,)}, {(k, n)}, got {shapes}"
            )
        frame = Frame(*map(finite, names, arrays))
        if least(frame.s) < 0:
            raise ValueError(f"{name}.s must be nonnegative, got {frame.s}")
        return frame

    def _blocks(self, name: str, vector: Any) -> Blocks:
        """The blocks of (Up, M, Vp), without those that the shape leaves no room for."""
        (m, n), k = self._shape, self._k
        arrays = [floating_array(name, array) for array in vector]
        shapes = tuple(array.shape for array in arrays)
        if shapes != ((m, k), (k, k), (n, k)):
            raise ValueError(
                f"{name} must have arrays of shapes {(m, k)}, {(k, k)}, {(n, k)}, got {shapes}"
            )
        Up, M, Vp = (finite(name, array) for array in arrays)
        return Blocks(None if k == m else Up, M, None if k == n else Vp)

    def _vector(self, blocks: Blocks) -> FixedRankVector:
        (m, n), k = self._shape, self._k
        Up = np.zeros((m, k), blocks.M.dtype) if blocks.Up is None else blocks.Up
        Vp = np.zeros((n, k), blocks.M.dtype) if blocks.Vp is None else blocks.Vp
        return FixedRankVector(Up, blocks.M, Vp)

    def _split(self, frame: Any, Z: Ambient) -> Blocks:
        """The blocks of a matrix, by its products with v and its transpose's with u."""
        (U, _, Vt), (m, n), k = frame, self._shape, self._k
        ZV, ZtU = Z @ Vt.T, Z.T @ U
        M = U.T @ ZV
        rest = None if k in (m, n) else OrthogonalPart(Z, U, Vt.T)
        Up, Vp = ZV - U @ M, ZtU - Vt.T @ M.T
        return Blocks(None if k == m else Up, M, None if k == n else Vp, rest)

    def _checked(self, name: str, vector: Any) -> Blocks:
        return vector if isinstance(vector, Blocks) else self._blocks(name, vector)

    def _require_finite(self, name: str, value: Any) -> None:
        if isinstance(value, Blocks):
            parts = [(name, part) for part in value.parts()]
        elif np.ndim(value[1]) == 1:
            parts = [
                (f"{name}.{field}", part)
                for field, part in zip(("u", "s", "vt"), value, strict=True)
            ]
        else:
            parts = [(name, part) for part in value]
        for where, part in parts:
            finite_array(where, part)

    def _is_undefined(self, vector: Any) -> bool:
        return all(np.isnan(block).all() for block in vector)

    def _key(self, name: str, point: FixedRankPoint) -> tuple[np.ndarray, ...]:
        return tuple(self._frame(point, name))


class _FactoredAt(SpectralAt):
    """The metric at a point of fixed rank, on vectors (Up, M, Vp)."""

    def __init__(self, at: FrameAt, manifold: FixedRank) -> None:
        super().__init__(at)
        self._manifold = manifold

    def split(self, name: str, vector: Any) -> Blocks:
        """The blocks of a vector; a covector may have been split before."""
        return self._manifold._checked(name, vector)

    def join(self, blocks: Blocks) -> FixedRankVector:
        """The vector that has these blocks."""
        return self._manifold._vector(blocks)


def _are_factors(gradient: Any) -> bool:
    """Whether a Euclidean gradient is that of the factors u, s and vt."""
    return isinstance(gradient, (list, tuple)) and not is_triple(gradient, 2, 2, 2)


def _orthonormal_complement(U: Matrix, Up: Matrix | None) -> tuple[Matrix, Matrix]:
    """Q and R with Up = Q R, where Q has orthonormal columns that are orthogonal to those of U."""
    if Up is None:
        return U[:, :0], np.zeros((0, U.shape[1]))
    Q, R = np.linalg.qr(Up)
    if np.abs(U.T @ Q).max(initial=0.0) < 1e-15 * len(U) ** 0.5:
        return Q, R
    # Columns that are rounding errors of Up are not orthogonal to U; together with U they are.
    Q = np.linalg.qr(np.hstack([U, Up]))[0][:, U.shape[1] :]
    return Q, Q.T @ Up


def _common_basis(U_a: Matrix, U_b: Matrix) -> Matrix:
    """Orthonormal columns that span those of two matrices of orthonormal columns, U_a first."""
    rest, sizes, _ = np.linalg.svd(U_b - U_a @ (U_a.T @ U_b), full_matrices=False)
    return np.linalg.qr(np.hstack([U_a, rest[:, sizes > _SAME]]))[0]


def _joint_basis(U: Matrix, Up: Matrix | None) -> Matrix:
    """Orthonormal columns that span those of U and Up."""
    return U if Up is None else np.linalg.qr(np.hstack([U, Up]))[0]
