"""Metrics that act entrywise in the frame of the singular value decomposition."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import copy
from functools import cached_property, partial, reduce
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from riemdln._memory import Memory
from riemdln._arrays import (
    Array,
    finite,
    floating_array,
    integer,
    matching_matrix,
    matrix_shape,
)
from riemdln.metrics._frame import Blocks, Frame, singular_frame
from riemdln.kernels import DividedDifference, Kernel, numerical_divided_difference
from riemdln.metrics.metric import Metric, Transport
from riemdln.metrics._variation import Variation, left_variation

__all__ = ["SpectralMetric"]


class SpectralPoint:
    """What a spectral metric knows at one point: the frame, its factors, the last gradient.

    Parameters
    ----------
    frame : Frame
        The frame of the point.
    factors : callable
        From a frame to the kernel on its blocks.
    differences : pair of callables
        The divided differences of the kernel in its first and in its second argument.
    """

    def __init__(
        self,
        frame: Frame,
        factors: Callable[[Frame], Blocks],
        differences: tuple[DividedDifference, DividedDifference],
    ) -> None:
        self.frame = frame
        self.factors = factors
        self.differences = differences
        self.theta = factors(frame)
        self.covectors = Memory(size=1)

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
        if not (self.frame.spans_columns or self.frame.spans_rows):
            size = s.shape[-1]  # a point of fixed rank is kept by its decomposition
        xp = array_namespace(s)
        return size * xp.finfo(s.dtype).eps * xp.max(s, axis=-1, keepdims=True)

    @cached_property
    def is_regular(self) -> bool:
        """Whether no singular value is a rounding error, and no direction below the level."""
        xp = array_namespace(self.theta.M)
        return bool(
            xp.all(self.frame.s > self.rounding) and xp.all(self.least > self.rounding_level)
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

    @cached_property
    def left(self) -> Variation:
        """How theta varies with W W^T."""
        return self._variation(self.differences[0], self.theta.Vpt, self.frame.spans_columns)

    @cached_property
    def right(self) -> Variation:
        """How theta varies with W^T W, on transposes."""
        first, second = self.differences
        if first is second and self.frame.spans_rows and self.frame.spans_columns:
            return self.left
        return self._variation(second, self.theta.mT.Vpt, self.frame.spans_rows)

    def _variation(
        self, difference: DividedDifference, edge: Array | None, spans_columns: bool
    ) -> Variation:
        variation = left_variation(self.frame.s, difference, spans_rows=edge is None)
        if edge is None or spans_columns:
            return variation
        # At fixed rank the cometric is zero on what is orthogonal to both singular spaces, where
        # a kernel that is positive at (0, 0) is not.
        return variation._replace(rise=variation.rise._replace(Vpt=edge))

    def sharp_derivative(self, x: Blocks, p: Blocks, rest: Array | None = None) -> Blocks:
        """DA[X] p of a tangent vector and a covector, which may have a rest outside its blocks."""
        left = self.left.derivative(x, p, rest)
        transposed = None if rest is None else rest.mT
        return left.plus(self.right.derivative(x.mT, p.mT, transposed).mT)

    def sharp_derivative_adjoint(
        self, p: Blocks, q: Blocks, rest_p: Array | None = None, rest_q: Array | None = None
    ) -> Blocks:
        """The covector of X -> <p, DA[X] q>."""
        left = self.left.adjoint(p, q, rest_p, rest_q)
        rests = (None if rest is None else rest.mT for rest in (rest_p, rest_q))
        return left.plus(self.right.adjoint(p.mT, q.mT, *rests).mT)

    def moving(self, blocks: Blocks) -> Blocks:
        """The blocks of a tangent vector without its frozen directions."""
        if self.is_regular:
            return blocks
        xp = array_namespace(self.theta.M)
        pairs = zip(blocks, self.inverse, strict=True)
        return Blocks(*(None if b is None else xp.where(f > 0, b, 0.0) for b, f in pairs))


def _over_blocks(reduction: str, blocks: Blocks) -> Array:
    xp = array_namespace(blocks.M)
    reduce_block, reduce_two = {"min": (xp.min, xp.minimum), "max": (xp.max, xp.maximum)}[reduction]
    each = (reduce_block(b, axis=(-2, -1), keepdims=True) for b in blocks if b is not None)
    return reduce(reduce_two, each)


def _transposed(kernel: Kernel, s: Array, t: Array) -> Array:
    return kernel(t, s)


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
        and positive where s and t are. It need not be symmetric. Derivatives of the metric need
        a kernel that is finite where s or t is zero.
    divided_difference : callable or pair of callables, optional
        ``divided_difference(a, b, t)`` is (theta(a, t) - theta(b, t)) / (a^2 - b^2), with its limit
        at a = b, for the derivatives of the metric. A kernel that is not symmetric takes a pair:
        this, and (theta(t, a) - theta(t, b)) / (a^2 - b^2). By default both are computed from the
        kernel, to about ten digits where singular values are neither tiny nor clustered.

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

    takes_stacks = True

    def __init__(
        self,
        kernel: Kernel,
        divided_difference: (
            DividedDifference | tuple[DividedDifference, DividedDifference] | None
        ) = None,
    ) -> None:
        if not callable(kernel):
            raise TypeError(f"kernel must be a function of two singular values, got {kernel!r}")
        if divided_difference is None:
            divided_difference = (
                numerical_divided_difference(kernel),
                numerical_divided_difference(partial(_transposed, kernel)),
            )
        elif callable(divided_difference):
            divided_difference = divided_difference, divided_difference
        pair = divided_difference if isinstance(divided_difference, (tuple, list)) else ()
        if len(pair) != 2 or not all(map(callable, pair)):
            raise TypeError(
                f"divided_difference must be a function or a pair, got {divided_difference!r}"
            )
        self._kernel = kernel
        self._differences = pair[0], pair[1]
        zero = np.zeros((1, 1))
        with np.errstate(all="ignore"):
            self.ends_at_lower_rank = bool(np.all(kernel(zero, zero) == 0))
        self._points = Memory()
        self._rank: int | None = None

    def at_rank(self, rank: int) -> SpectralMetric:
        """The same metric on matrices of a lower rank, as `FixedRank` has it, in dense form.

        Vectors are taken without their part orthogonal to both singular spaces, where `sharp` is
        zero; but a covector's part there counts in the derivative of `sharp`, of which the
        tangential part is given.

        Parameters
        ----------
        rank : int
            The rank of the matrices; singular values beyond it are taken as zero.

        Returns
        -------
        SpectralMetric
        """
        metric = copy(self)
        metric._rank, metric._points = integer("rank", rank), Memory()
        metric.is_constant, metric.ends_at_lower_rank = False, True
        return metric

    def at_frame(self, frame: Frame) -> SpectralPoint:
        """What the metric knows at the matrix U diag(s) V^T of a frame."""
        return SpectralPoint(frame, self._factors, self._differences)

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
        remembers = isinstance(Z, np.ndarray) and self._rank is None
        if remembers and P.shape == Z.shape and point.is_regular:
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

    def sharp_derivative(self, W: Array, X: Array, p: Array) -> Array:
        """The derivative DA_W[X] p of `sharp` along a tangent vector, applied to a covector.

        In the frame, by divided differences of theta: see `riemdln.metrics._variation`. Frozen directions
        of X (see `flat`) count as zero.

        Parameters
        ----------
        W : array (..., m, n)
            The point.
        X : array (..., m, n)
            A tangent vector: the direction in which W moves.
        p : array (..., m, n)
            A covector, held fixed.

        Returns
        -------
        array (..., m, n)

        Raises
        ------
        TypeError, ValueError
            As for `sharp`.

        Examples
        --------
        >>> import numpy as np
        >>> import riemdln
        >>> metric = riemdln.DeepLinearMetric(depth=2)
        >>> metric.sharp_derivative([[3.0]], [[1.0]], [[1.0]])  # A(p) = 2 w p
        array([[2.]])
        """
        point, X, p = self._at(W, X=X, p=p)
        if self.is_constant:
            return 0.0 * (point.frame.s[..., None] + X + p)
        frame = point.frame
        x = point.moving(frame.split(X))
        return frame.join(point.sharp_derivative(x, frame.split(p), frame.rest(p)))

    def sharp_derivative_adjoint(self, W: Array, p: Array, q: Array) -> Array:
        """The covector Xi_W(p, q) of X -> <p, DA_W[X] q>, symmetric in p and q.

        Parameters
        ----------
        W : array (..., m, n)
            The point.
        p, q : array (..., m, n)
            Covectors, held fixed.

        Returns
        -------
        array (..., m, n)

        Raises
        ------
        TypeError, ValueError
            As for `sharp`.
        """
        point, p, q = self._at(W, p=p, q=q)
        if self.is_constant:
            return 0.0 * (point.frame.s[..., None] + p + q)
        frame = point.frame
        adjoint = point.sharp_derivative_adjoint(
            frame.split(p), frame.split(q), frame.rest(p), frame.rest(q)
        )
        return frame.join(point.moving(adjoint))

    def log_volume(self, W: Array) -> Array:
        r"""The logarithm of the volume density of the metric, ln sqrt(det g_W).

        .. math::

            \ln \sqrt{\det g_W} = -\tfrac12 \sum_{i,j} \ln \theta(s_i, s_j),

        over all m n entries of a matrix, where singular values beyond the rank are zero.

        Parameters
        ----------
        W : array (..., m, n)
            The point.

        Returns
        -------
        array (...)
            Infinite where theta is zero, as at a matrix with a singular value of exactly zero;
            one that is zero up to rounding errors counts as it is.

        Raises
        ------
        TypeError, ValueError
            As for `sharp`.

        References
        ----------
        - G. Menon, T. Yu. An entropy formula for the deep linear network. 2025.

        Examples
        --------
        >>> import numpy as np
        >>> import riemdln
        >>> metric = riemdln.DeepLinearMetric(depth=2)  # theta = s + t
        >>> bool(np.isclose(metric.log_volume(np.diag([1.0, 3.0])), -np.log(2 * 4 * 4 * 6) / 2))
        True
        """
        (point,) = self._at(W)
        xp = array_namespace(point.theta.M)
        m, n, r = *np.shape(W)[-2:], point.frame.s.shape[-1]
        blocks = zip(Blocks(Up=m - r, M=1, Vpt=n - r), point.theta, strict=True)
        with np.errstate(divide="ignore"):  # ln 0 = -inf is right
            return -sum(
                copies * xp.sum(xp.log(block), axis=(-2, -1)) / 2
                for copies, block in blocks
                if block is not None
            )

    def isometric_transport(self, W_a: Array, W_b: Array, X: Array) -> Array:
        """The isometry A_b^{1/2} A_a^{-1/2} from tangent vectors at W_a to those at W_b.

        It keeps inner products: g_b of the images is g_a of the vectors. Frozen directions of X
        at W_a (see `flat`) are lost.

        Parameters
        ----------
        W_a, W_b : array (..., m, n)
            The points.
        X : array (..., m, n)
            A tangent vector at W_a.

        Returns
        -------
        array (..., m, n)

        Raises
        ------
        TypeError, ValueError
            As for `sharp`.
        """
        (at_a, X), (at_b,) = self._at(W_a, X=X), self._at(W_b)
        return at_b.frame.scale(at_a.frame.scale(X, at_a.inverse.root()), at_b.theta.root())

    def transports(self) -> Mapping[str, Transport]:
        """The isometric transport."""
        return {"isometric": self.isometric_transport}

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

    def _decompose(self, W: Array) -> SpectralPoint:
        self.require_shape(*matrix_shape("W", W))
        frame = singular_frame(finite("W", W)).at_rank(self._rank)
        point = self.at_frame(frame)
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
        if count <= 2 * rows:
            return self._theta(column, row)
        slabs = [
            self._theta(column[..., start : min(start + rows, count), :], row)
            for start in range(0, count, rows)
        ]
        return array_namespace(row).concat(slabs, axis=-2)
