"""Metrics that act entrywise in the frame of the singular value decomposition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from riemdln._arrays import Array, finite, floating_array, integer, matrix_shape
from riemdln._frame import Frame, singular_frame
from riemdln._memory import Memory
from riemdln.kernels import Kernel, as_kernel
from riemdln.kernels.kernel import filled
from riemdln.metrics._at import MetricAt
from riemdln.metrics._constant_at import MultipleAt, straight_line
from riemdln.metrics._generic import VECTORS
from riemdln.metrics._spectral_at import DenseAt, FrameAt, needs_frame
from riemdln.metrics.metric import Metric, require_no_derivatives

__all__ = ["SpectralMetric"]

# Singular values of many sizes, to find any at which a kernel differs from its edges.
_SIZES = np.logspace(-30, 8, 39)


class SpectralMetric(Metric):
    r"""A metric that acts entrywise in the frame of the singular value decomposition.

    With W = U S V^T,

    .. math:: (U^T A_W(P) V)_{ij} = \theta(s_i, s_j) (U^T P V)_{ij},

    where singular vectors beyond the rank have s = 0. `flat` divides by the same factors. One
    frame is computed for a point and shared by all that is asked there; a row or a column
    has its frame in closed form.

    Parameters
    ----------
    kernel : Kernel, callable or float
        The kernel theta: a `riemdln.kernels.Kernel`, ``kernel(s, t)`` on arrays of singular values
        that broadcast together, or a number. It is nonnegative, and positive where s and t are.
        Where theta(s, 0) = 0, matrices that are not square keep their row or column space. It need
        not be symmetric. Derivatives of the metric need a kernel that is finite where s or t is
        zero.

    Raises
    ------
    TypeError
        If `kernel` is no kernel.
    ValueError
        If `kernel` is a number that is not positive.

    See Also
    --------
    DeepLinearMetric : the kernel of the deep linear network.

    Notes
    -----
    Everything takes stacks of matrices (..., m, n), in NumPy or in any namespace that follows the
    array API standard. No m x m or n x n factor is ever formed for an m x n matrix, m != n. Metrics
    may be shared by threads and copied, and pickled if their kernel can be.

    `flat` treats directions as frozen in which theta is below the rounding level of `sharp` (the
    machine epsilon times the largest theta at W): no gradient can move W there, and what a vector
    has there can only be rounding error of a gradient, so it counts as zero. Singular values
    up to max(m, n) times the machine epsilon times the largest one are rounding errors of W,
    and count as zero in this. So a run that converges to a matrix of lower rank goes on
    smoothly, and at a rank-deficient W flat is the pseudoinverse of sharp.

    Examples
    --------
    >>> import numpy as np
    >>> import riemdln
    >>> metric = riemdln.SpectralMetric(lambda s, t: s + t)
    >>> metric.sharp(np.diag([1.0, 2.0]), np.ones((2, 2)))
    array([[2., 3.],
           [3., 4.]])
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if own := sorted(set(VECTORS) & set(vars(cls))):
            raise TypeError(
                f"{cls.__name__} must not define {', '.join(own)}: of a spectral metric the kernel "
                "defines all of it; derive from riemdln.Metric, or change the kernel"
            )

    def __init__(self, kernel: Kernel | Callable[[Array, Array], Array] | float) -> None:
        self._kernel = as_kernel("kernel", kernel)
        if self._kernel.constant == 0:
            raise ValueError("kernel must be positive where s and t are, got zero")
        self._points = Memory()

    @property
    def kernel(self) -> Kernel:
        """The kernel theta."""
        return self._kernel

    @property
    def is_pure(self) -> bool:  # type: ignore[override]
        """Whether the metric depends on nothing but the point: whether its kernel is pure."""
        return self._kernel.is_pure

    @property
    def ends_at_lower_rank(self) -> bool:  # type: ignore[override]
        """Whether geodesics end at matrices of lower rank: where theta(0, 0) = 0."""
        zero = np.zeros((1, 1))
        with np.errstate(all="ignore"):
            return bool(np.all(self._kernel(zero, zero) == 0))

    @property
    def keeps_rank(self) -> bool:
        """Whether no flow changes the rank: where theta(s, t) / (s + t) is bounded near zero.

        Of a kernel of one's own this is seen from its values down to 1e-300.
        """
        s, kernel = 10.0 ** -np.arange(0.0, 301.0, 20.0), self._kernel
        with np.errstate(all="ignore"):
            ratios = [
                filled(values, s) / size
                for values, size in (
                    (kernel(s, s), 2 * s),
                    (kernel.edge(s), s),
                    (kernel.transpose.edge(s), s),
                )
            ]
        # Of a NaN no comparison is true.
        return all(bool(np.all(ratio <= 1e3 * ratios[0][0])) for ratio in ratios)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._kernel!r})"

    def at(self, W: Array, *, rank: int | None = None) -> MetricAt:
        """The metric at a point: one object that answers all that is asked there.

        Parameters
        ----------
        W : array (..., m, n)
            The point, or a stack of points.
        rank : int, optional
            The rank, for the metric on matrices of a lower rank as `FixedRank` has it: singular
            values beyond it are taken as zero, and vectors without their part orthogonal to both
            singular spaces, where `sharp` is zero. But a covector's part there counts in the
            derivative of `sharp`, of which the tangential part is given.

        Returns
        -------
        MetricAt

        Raises
        ------
        TypeError, ValueError
            If `W` is no finite real matrix, the metric does not exist on m x n matrices, or the
            kernel is not finite and nonnegative at W.
        """
        require_no_derivatives(W)
        W = floating_array("W", W)
        if rank is not None:
            rank, most = integer("rank", rank), min(matrix_shape("W", W))
            if rank > most:
                raise ValueError(f"rank must be at most min(m, n) = {most}, got {rank}")
            return DenseAt(FrameAt(self._kernel, self._frame(W).at_rank(rank)).of_matrix(), W)
        if self._kernel.constant is None:
            return self._remembered(W)
        self.require_shape(*matrix_shape("W", W))
        return MultipleAt(finite("W", W), self._kernel.constant)

    def at_frame(self, frame: tuple[Array, Array, Array]) -> FrameAt:
        """The metric at the matrix U diag(s) V^T, on blocks: for manifolds of decompositions.

        Parameters
        ----------
        frame : triple of arrays (..., m, r), (..., r) and (..., r, n)
            U, s and V^T.

        Returns
        -------
        MetricAt
            On vectors that are the blocks of matrices in this frame.
        """
        return FrameAt(self._kernel, Frame(*frame))

    def on_blocks(self, W: Array) -> FrameAt:
        """The metric at a point, on the blocks of matrices in the frame of the point.

        Parameters
        ----------
        W : array (..., m, n)
            The point, or a stack of points.

        Returns
        -------
        MetricAt
            As from `at_frame`, with the frame in its attribute ``frame``.

        Raises
        ------
        TypeError, ValueError
            As for `at`.
        """
        return self._remembered(floating_array("W", W)).on_blocks

    def needs_frame(self, m: int, n: int) -> bool:
        """Whether m x n matrices of lower rank do not determine the metric.

        It depends on singular vectors there, which `at_frame` takes: under a kernel with edges of
        its own, such as that of layers off balance.

        Parameters
        ----------
        m, n : int
            The numbers of rows and columns.

        Raises
        ------
        TypeError, ValueError
            If one of them is no positive whole number.
        """
        m, n = integer("m", m), integer("n", n)
        r = min(m, n)
        # At zero itself a kernel may agree with its edges: those of two layers or more do.
        s = np.repeat(_SIZES[:, None], r, axis=1)
        s[:, -1] = 0.0
        U, Vt = (np.broadcast_to(0.0, (len(s), *shape)) for shape in ((m, r), (r, n)))
        with np.errstate(all="ignore"):
            return needs_frame(self._kernel, Frame(U, s, Vt))

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
        return self._ask("sharp", W, P)

    def known_geodesic(
        self, W_a: Array, W_b: Array, times: Array
    ) -> tuple[Array, Array, float] | None:
        """A straight line where the kernel is constant, and None elsewhere."""
        return None if self._kernel.constant is None else straight_line(self, W_a, W_b, times)

    def _remembered(self, W: Array) -> DenseAt:
        """The metric at a point by its frame, from memory where it was asked for before."""
        point: DenseAt | None = self._points.find(W)
        if point is None:
            frame = self._frame(W)
            point = DenseAt(FrameAt(self._kernel, frame).of_matrix(), W)
            self._points.put(W, point)
        elif not self._kernel.is_pure:
            frame = point.on_blocks.frame
            point = DenseAt(FrameAt(self._kernel, frame), W)
        return point

    def _frame(self, W: Array) -> Frame:
        W = floating_array("W", W)
        self.require_shape(*matrix_shape("W", W))
        return singular_frame(finite("W", W))
