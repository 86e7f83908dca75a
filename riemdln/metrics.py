"""Metrics on matrices. A metric is given by its cometric, from covectors to tangent vectors.

`Metric` is what every metric offers, `SpectralMetric` has it in closed form for metrics that
act entrywise in the frame of the singular value decomposition, and `DeepLinearMetric` is the
one that a deep linear network of a given depth puts on its end-to-end matrix.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping
from functools import cached_property, partial, reduce
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from riemdln._recent import Recent
from riemdln._validation import (
    Array,
    finite,
    finite_matrix,
    floating_array,
    integer,
    matching_matrix,
    matrix_shape,
    point_of_shape,
    real_depth,
)
from riemdln.frame import Blocks, Frame, singular_frame
from riemdln.kernels import theta
from riemdln.networks import end_to_end, layers_in_frame

__all__ = ["DeepLinearMetric", "Metric", "SpectralMetric"]

Retraction = Callable[[Array, Array], Array]


class Metric(abc.ABC):
    """A Riemannian metric on m x n matrices, given by its cometric.

    At each point W the cometric `sharp` turns a covector (a Euclidean gradient) into a tangent
    vector (the Riemannian gradient); it is linear, symmetric and positive definite. `flat` is its
    inverse, and the metric itself is g_W(X, Y) = <X, flat(W, Y)> with <X, Y> = Tr(X^T Y).

    Points are matrices (m, n); a metric may also take stacks of them (..., m, n).
    """

    @abc.abstractmethod
    def sharp(self, W: Array, P: Array) -> Array:
        """The cometric A_W: from a covector to the tangent vector that it stands for."""

    @abc.abstractmethod
    def flat(self, W: Array, Z: Array) -> Array:
        """The inverse of `sharp`: from a tangent vector to the covector that stands for it."""

    def inner(self, W: Array, X: Array, Y: Array) -> Array:
        """The inner product g_W(X, Y) = <X, flat(W, Y)> of two tangent vectors."""
        covector = self.flat(W, Y)
        xp = array_namespace(covector)
        return xp.sum(matching_matrix("X", X, "W", covector) * covector, axis=(-2, -1))

    def require_shape(self, m: int, n: int) -> None:  # noqa: B027 (a hook: most metrics need nothing)
        """Raise a ValueError where the metric does not exist on m x n matrices."""

    def retractions(self) -> Mapping[str, Retraction]:
        """The retractions (W, X) -> point that belong to this metric, by name."""
        return {}


class _SpectralPoint:
    """What a spectral metric knows at one point: the frame, its factors, the last gradient.

    Parameters
    ----------
    frame : Frame
        The frame of the point.
    factors : callable
        From a frame to the kernel on its blocks.
    """

    def __init__(self, frame: Frame, factors: Callable[[Frame], Blocks]) -> None:
        self.frame = frame
        self.factors = factors
        self.theta = factors(frame)
        self.covectors = Recent(size=1)

    @cached_property
    def least(self) -> Array:
        return _over_blocks("min", self.theta)

    @cached_property
    def largest(self) -> Array:
        return _over_blocks("max", self.theta)

    @cached_property
    def rounding_level(self) -> Array:
        """Below it theta is lost in the rounding error of sharp, or 1 / theta overflows."""
        xp = array_namespace(self.theta.M)
        limits = xp.finfo(self.theta.M.dtype)
        level = limits.eps * self.largest
        return xp.where(level > limits.smallest_normal, level, limits.smallest_normal)

    @cached_property
    def rounding(self) -> Array:
        """Below it a singular value is a rounding error of the point, as in matrix_rank."""
        U, s, Vt = self.frame
        size = max(1 if U is None else U.shape[-2], 1 if Vt is None else Vt.shape[-1])
        return size * array_namespace(s).finfo(s.dtype).eps * s[..., :1]

    @cached_property
    def is_regular(self) -> bool:
        """Whether no singular value is a rounding error, and no direction below the level."""
        xp = array_namespace(self.theta.M)
        return bool(
            xp.all(self.frame.s[..., -1:] > self.rounding)
            and xp.all(self.least > self.rounding_level)
        )

    @cached_property
    def inverse(self) -> Blocks:
        """The factors of flat: 1 / theta, and 0 in frozen directions."""
        xp = array_namespace(self.theta.M)
        if self.is_regular:
            return Blocks(*(None if b is None else 1 / b for b in self.theta))
        s, level = self.frame.s, self.rounding_level
        at_rank = self.factors(self.frame._replace(s=xp.where(s > self.rounding, s, 0.0)))
        pairs = zip(self.theta, at_rank, strict=True)
        return Blocks(
            *(
                None if b is None else xp.where(c > level, 1 / xp.where(c > level, b, 1.0), 0.0)
                for b, c in pairs
            )
        )


def _over_blocks(reduction: str, blocks: Blocks) -> Array:
    xp = array_namespace(blocks.M)
    reduce_block, reduce_two = {"min": (xp.min, xp.minimum), "max": (xp.max, xp.maximum)}[reduction]
    each = (reduce_block(b, axis=(-2, -1), keepdims=True) for b in blocks if b is not None)
    return reduce(reduce_two, each)


class SpectralMetric(Metric):
    r"""A metric that acts entrywise in the frame of the singular value decomposition.

    With W = U S V^T,

    .. math:: (U^T A_W(P) V)_{ij} = \theta(s_i, s_j) (U^T P V)_{ij},

    where singular vectors beyond the rank have s = 0. `flat` divides by the same factors. One
    frame is computed for a point and shared by all that is asked there; a row or a column
    has its frame in closed form.

    Parameters
    ----------
    kernel : callable
        ``kernel(s, t)`` on arrays of singular values that broadcast together; nonnegative,
        and positive where s and t are.

    See Also
    --------
    DeepLinearMetric : the kernel of the deep linear network.

    Notes
    -----
    `sharp`, `flat` and `inner` take stacks of matrices (..., m, n), in NumPy or in any namespace
    that follows the array API standard. They never form an m x m or n x n factor for an m x n
    matrix, m != n. Metrics may be shared by threads and copied, and pickled if their kernel can be.

    Examples
    --------
    >>> import numpy as np
    >>> import riemdln
    >>> metric = riemdln.SpectralMetric(lambda s, t: s + t)
    >>> metric.sharp(np.diag([1.0, 2.0]), np.ones((2, 2)))
    array([[2., 3.],
           [3., 4.]])
    """

    def __init__(self, kernel: Callable[[Array, Array], Array]) -> None:
        if not callable(kernel):
            raise TypeError(f"kernel must be a function of two singular values, got {kernel!r}")
        self._kernel = kernel
        self._points = Recent()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._kernel!r})"

    def sharp(self, W: Array, P: Array) -> Array:
        """The cometric A_W: from a Euclidean gradient to the Riemannian gradient.

        (U^T A_W(P) V)_ij = theta(s_i, s_j) (U^T P V)_ij

        Parameters
        ----------
        W : array (..., m, n)
            The point, of any rank.
        P : array (..., m, n)
            A covector: the Euclidean gradient of a cost at W.

        Returns
        -------
        array (..., m, n)

        Raises
        ------
        TypeError, ValueError
            If an argument is complex, not finite or wrongly shaped, or if the metric
            does not exist on m x n matrices.
        """
        point, P = self._at(W, P=P)
        Z = point.frame.scale(P, point.theta)
        # Of a gradient, inner is <P, .>: cheaper than to solve for P, and exact where W is nearly
        # singular. A copy, because the caller may change P.
        if isinstance(Z, np.ndarray) and P.shape == Z.shape and point.is_regular:
            point.covectors.put(Z, P.copy())
        return Z

    def flat(self, W: Array, Z: Array) -> Array:
        """The inverse of `sharp`, which solves A_W(Y) = Z for Y by simultaneous diagonalization.

        (U^T Y V)_ij = (U^T Z V)_ij / theta(s_i, s_j)

        Directions in which theta is below the rounding level of `sharp` (the machine epsilon
        times the largest theta at W) are frozen: no gradient can move W there, and what Z has
        there, which can only be rounding error of a gradient, is taken as zero. Singular values
        up to max(m, n) times the machine epsilon times the largest one are rounding errors of W,
        and count as zero in this. So a run that converges to a matrix of lower rank goes on
        smoothly, and at a rank-deficient W flat is the pseudoinverse of sharp.

        Parameters
        ----------
        W : array (..., m, n)
            The point.
        Z : array (..., m, n)
            A tangent vector.

        Returns
        -------
        array (..., m, n)

        Raises
        ------
        TypeError, ValueError
            As for `sharp`.
        """
        point, Z = self._at(W, Z=Z)
        return point.frame.scale(Z, point.inverse)

    def inner(self, W: Array, X: Array, Y: Array) -> Array:
        """The inner product g_W(X, Y) = Tr(X^T A_W^{-1}(Y)) of two tangent vectors.

        Frozen directions (see `flat`) count as zero.

        Parameters
        ----------
        W : array (..., m, n)
            The point.
        X, Y : array (..., m, n)
            Tangent vectors.

        Returns
        -------
        array (...)
            A number for a single matrix, one for each matrix of a stack.

        Raises
        ------
        TypeError, ValueError
            As for `sharp`.
        """
        point, X, Y = self._at(W, X=X, Y=Y)
        if X.shape != Y.shape:
            Y = matching_matrix("Y", Y, "X", X)
        xp = array_namespace(X)
        # The gradient that sharp has just computed is the sharp of the covector it came from.
        for gradient, vector in ((X, Y), (Y, X)):
            covector = point.covectors.find(gradient)
            if covector is not None:
                return xp.sum(covector * vector, axis=(-2, -1))
        x, y = point.frame.split(X), point.frame.split(Y)
        blocks = zip(x, y, point.inverse, strict=True)
        terms = (a * (b * factor) for a, b, factor in blocks if a is not None)
        return sum(xp.sum(term, axis=(-2, -1)) for term in terms)

    def _at(self, W: Array, **vectors: Array) -> tuple[Any, ...]:
        """What is known at W, and the vectors that were given there, checked under their names."""
        W = floating_array("W", W)
        if W.ndim < 2:
            matrix_shape("W", W)
        checked = [matching_matrix(name, vector, "W", W) for name, vector in vectors.items()]
        point = self._points.find(W)
        if point is None:
            point = self._decompose(W)
            self._points.put(W, point)
        return point, *checked

    def _decompose(self, W: Array) -> _SpectralPoint:
        self.require_shape(*matrix_shape("W", W))
        frame = singular_frame(finite("W", W))
        point = _SpectralPoint(frame, self._factors)
        xp = array_namespace(W)
        # A regular point needs no further look: what is above its rounding level is no NaN.
        if not (point.is_regular or xp.all((point.least >= 0) & (point.largest < math.inf))):
            raise ValueError(
                f"W has singular values up to {xp.max(frame.s):g}, at which {self!r} is not finite "
                "and nonnegative: W is too large, or the kernel is not one of a metric"
            )
        return point

    def _factors(self, frame: Frame) -> Blocks:
        """The kernel on the blocks: theta(0, s_j), theta(s_i, s_j) and theta(s_i, 0)."""
        row, column = frame.s[..., None, :], frame.s[..., :, None]
        return Blocks(
            Up=None if frame.spans_columns else self._theta(0 * row, row),
            M=self._theta_on_pairs(column, row),
            Vpt=None if frame.spans_rows else self._theta(column, 0 * column),
        )

    def _theta(self, s: Array, t: Array) -> Array:
        """The kernel on all pairs of singular values, also where it does not depend on both."""
        value = self._kernel(s, t)
        shape = np.broadcast_shapes(tuple(s.shape), tuple(t.shape))
        if getattr(value, "shape", None) == shape and value.dtype == s.dtype:
            return value
        xp = array_namespace(s)
        return xp.broadcast_to(xp.asarray(value, dtype=s.dtype), shape)

    def _theta_on_pairs(self, column: Array, row: Array) -> Array:
        # A slab of rows at a time, so that what the kernel computes on the way stays in the cache.
        count, rows = column.shape[-2], max(1, 8192 // row.shape[-1])
        if count <= rows:
            return self._theta(column, row)
        slabs = [
            self._theta(column[..., start : min(start + rows, count), :], row)
            for start in range(0, count, rows)
        ]
        return array_namespace(row).concat(slabs, axis=-2)


class DeepLinearMetric(SpectralMetric):
    r"""The metric g^N that a deep linear network of depth N puts on its end-to-end matrix.

    Training the layers of a balanced network by gradient flow moves W = W_N ... W_1 by the
    Riemannian gradient flow of this metric, whose cometric is

    .. math::

        A_{N,W}(P) = \sum_{k=1}^{N} (W W^T)^{(N-k)/N} \, P \, (W^T W)^{(k-1)/N}.

    Parameters
    ----------
    depth : float
        The depth N: any real number from 1, the Euclidean metric, to ``math.inf``, the limit of
        A_{N,W} / N. At infinite depth the row or the column space of a matrix that is not square
        cannot move, so there the metric exists on square matrices only.

    Raises
    ------
    TypeError
        If `depth` is not a real number.
    ValueError
        If `depth` is less than 1 or NaN.

    Notes
    -----
    Nothing here costs more at a greater depth: see `riemdln.kernels.theta`. `flat` solves the
    generalized Sylvester equation A_{N,W}(Y) = Z. For one row or one column w

    .. math:: A_{N,w}(p) = |w|^{2-2/N} (p + (N-1) \, \mathrm{Pr}_w p),

    an adaptive step size and a term like momentum (Claim 2 of the 2018 paper).

    References
    ----------
    S. Arora, N. Cohen, E. Hazan. On the optimization of deep networks: implicit acceleration by
    overparameterization. ICML 2018, Theorem 1 and Claim 2.
    G. Menon. The geometry of the deep linear network. 2024, section 4.3.

    Examples
    --------
    >>> import numpy as np
    >>> import riemdln
    >>> metric = riemdln.DeepLinearMetric(depth=3)
    >>> W, P = np.diag([1.0, 8.0]), np.ones((2, 2))
    >>> np.round(metric.sharp(W, P), 12)
    array([[ 3., 21.],
           [21., 48.]])
    >>> np.allclose(metric.flat(W, metric.sharp(W, P)), P)
    True
    """

    def __init__(self, depth: float) -> None:
        self._depth = real_depth("depth", depth)
        super().__init__(partial(theta, depth=self.depth))

    @property
    def depth(self) -> float:
        """The depth N."""
        return self._depth

    def __repr__(self) -> str:
        return f"DeepLinearMetric(depth={self.depth:.15g})"

    def require_shape(self, m: int, n: int) -> None:
        """Raise a ValueError at infinite depth unless m = n."""
        if math.isinf(self.depth) and m != n:
            raise ValueError(
                f"the metric of infinite depth exists on square matrices only, got {m} x {n}: "
                "theta(s, 0) = 0 freezes the row or column space of any other matrix"
            )

    def retractions(self) -> Mapping[str, Retraction]:
        """The network retraction, where the depth is a whole number."""
        return {"network": self.network_retraction} if self.depth.is_integer() else {}

    def network_retraction(self, W: Array, X: Array) -> Array:
        """Where a step X takes W when the layers of a real network take it.

        The canonical balanced layers of W (`riemdln.balanced_layers`) each move along the
        horizontal lift of X, and are multiplied. For X = -h sharp(W, grad E) this is
        exactly one step of gradient descent on the layers, with learning rate h; W + X agrees
        with it up to O(h^2).

        Parameters
        ----------
        W : array (m, n)
            The point.
        X : array (m, n)
            A tangent vector.

        Returns
        -------
        array (m, n)

        Raises
        ------
        TypeError, ValueError
            As for `sharp`, or if the depth is not a whole number.
        """
        depth = integer("depth", self.depth)
        W = finite_matrix("W", W)
        point, X = self._at(W, X=point_of_shape("X", X, W.shape))
        if depth == 1:
            return W + X
        layers = layers_in_frame(point.frame, depth)
        moves = self._horizontal_lift(point, X)
        return end_to_end([layer + move for layer, move in zip(layers, moves, strict=True)])

    def _horizontal_lift(self, point: _SpectralPoint, X: Array) -> list[Array]:
        """The shortest motion of the canonical balanced layers that moves W by X.

        Layer j moves by (W_N ... W_{j+1})^T p (W_{j-1} ... W_1)^T with p = flat(X). In the frame
        the powers of the singular values and 1 / theta are multiplied first, so that none of them
        amplifies what another one would undo, and a small singular value grows as it does in
        the network.
        """
        (U, s, Vt), depth, x = point.frame, self.depth, point.frame.split(X)
        eps = np.finfo(X.dtype).eps
        noise = 8 * eps * np.max(np.abs(X))

        def over_theta(block: Array, theta: Array, least: Array) -> Array:
            # A direction is still where both singular values are rounding errors of W, or where
            # X has but its own rounding error, which 1 / theta would amplify.
            still = (theta <= least) | ((theta <= point.rounding_level) & (np.abs(block) <= noise))
            return np.where(still, 0.0, block / np.where(still, 1.0, theta))

        rounding = eps * s[:1, None]
        M = over_theta(x.M, point.theta.M, self._theta(rounding, rounding) / 2)
        powers = [s ** ((depth - j) / depth) for j in range(1, int(depth) + 1)]
        moves = [
            above[:, None] * M * below for above, below in zip(powers, powers[::-1], strict=True)
        ]
        if Vt is not None:
            moves[0] = moves[0] @ Vt
        if U is not None:
            moves[-1] = U @ moves[-1]
        edge = self._theta(rounding, 0 * rounding) / 2
        if x.Vpt is not None:
            moves[0] += powers[0][:, None] * over_theta(x.Vpt, point.theta.Vpt, edge)
        if x.Up is not None:
            moves[-1] += over_theta(x.Up, point.theta.Up, edge) * powers[0]
        return moves

    def _decompose(self, W: Array) -> _SpectralPoint:
        if self.depth > 1:
            return super()._decompose(W)
        # Depth 1 is Euclidean: theta = 1 in every frame, so the standard frame will do.
        matrix_shape("W", finite("W", W))
        one = array_namespace(W).ones_like(W[..., :1, :1])
        return _SpectralPoint(Frame(None, one[..., 0], None), lambda _: Blocks(None, one, None))
