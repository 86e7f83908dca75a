"""The metric that a deep linear network puts on its end-to-end matrix."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from riemdln._arrays import (
    Array,
    finite_matrix,
    integer,
    limits,
    namespace,
    point_of_shape,
)
from riemdln._frame import Blocks
from riemdln.kernels.imbalanced import network_kernel
from riemdln.metrics._closed_forms import aligned_geodesic, depth_two_geodesic
from riemdln.metrics._cone import cone_geodesic
from riemdln.metrics._diffusion import Diffusion, RootDiffusion
from riemdln.metrics._geodesic_coordinates import GeodesicCoordinates, RootCoordinates
from riemdln.metrics._scaling import ConeScaling, ProductScaling, Scaling
from riemdln.metrics._spectral_at import FrameAt
from riemdln.metrics.spectral import SpectralMetric
from riemdln.networks import end_to_end, layers_in_frame

__all__ = ["DeepLinearMetric"]


class DeepLinearMetric(SpectralMetric):
    r"""The metric g^N that a deep linear network of depth N puts on its end-to-end matrix.

    Training the layers of a balanced network by gradient flow moves W = W_N ... W_1 by the
    Riemannian gradient flow of this metric, whose cometric is

    .. math::

        A_{N,W}(P) = \sum_{k=1}^{N} (W W^T)^{(N-k)/N} \, P \, (W^T W)^{(k-1)/N}.

    Layers that are off balance by multiples of the identity,
    :math:`W_{j+1}^T W_{j+1} - W_j W_j^T = (c_{j+1} - c_j) I`, which gradient flow keeps, move W by
    that of another metric of this kind.

    Parameters
    ----------
    depth : float
        The depth N: any real number from 1, the Euclidean metric, to ``math.inf``, the limit of
        A_{N,W} / N. At infinite depth the row or the column space of a matrix that is not square
        cannot move, so there the metric exists on square matrices only.
    imbalance : float or sequence of float (N - 1,)
        The differences c_{j+1} - c_j; one number stands for all of them, and zero for balanced
        layers. Others need a whole depth.

    Raises
    ------
    TypeError
        If `depth` is not a real number, or `imbalance` no such numbers.
    ValueError
        If `depth` is less than 1 or NaN, or no whole number where `imbalance` is not zero; or if
        `imbalance` has a wrong number of entries.

    See Also
    --------
    balanced_layers : the layers, with an imbalance or without.
    riemdln.kernels.ImbalancedKernel : the kernel of layers that are not balanced.

    Notes
    -----
    Nothing here costs more at a greater depth, see `riemdln.kernels.DeepLinearKernel`; only
    layers that are not balanced take N products. `flat` solves the generalized Sylvester equation
    A_{N,W}(Y) = Z. For one row or one column w of balanced layers

    .. math:: A_{N,w}(p) = \|w\|^{2-2/N} (p + (N-1) \, \mathrm{Pr}_w p),

    an adaptive step size and a term like momentum (Claim 2 of the 2018 paper).

    With an imbalance whose least c_j belongs to one layer only nothing freezes at W = 0, flows pass
    through lower rank as the layers do, and small singular values have no relative accuracy. At
    lower rank a matrix that is not square does not determine its layers, unless the outer one that
    turns with it, W_1 where m < n and W_N where m > n, has the least c_j. Elsewhere the metric ends
    there, and near it is as ill-conditioned as the singular vectors are. `gradient_flow` holds
    these beside W, and passes through. A triple (u, s, vt) as its start says what they are.

    References
    ----------
    - S. Arora, N. Cohen, E. Hazan. On the optimization of deep networks: implicit acceleration by
      overparameterization. ICML 2018, Theorem 1 and Claim 2.
    - G. Menon. The geometry of the deep linear network. 2024, section 4.3.

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

    def __init__(self, depth: float, imbalance: float | Sequence[float] = 0.0) -> None:
        self._network = network_kernel(depth, imbalance)
        super().__init__(self._network)

    @property
    def depth(self) -> float:
        """The depth N."""
        return self._network.depth

    @property
    def imbalance(self) -> float | tuple[float, ...]:
        """The differences c_{j+1} - c_j, or 0.0 for all of balanced layers."""
        return self._network.imbalance

    @property
    def is_balanced(self) -> bool:
        """Whether the layers are balanced."""
        return self.imbalance == 0.0

    def __repr__(self) -> str:
        if self.is_balanced:
            return f"DeepLinearMetric(depth={self.depth:.15g})"
        return f"DeepLinearMetric(depth={self.depth}, imbalance={self.imbalance})"

    def require_shape(self, m: int, n: int) -> None:
        """Raise a ValueError at infinite depth unless m = n."""
        if math.isinf(self.depth) and m != n:
            raise ValueError(
                f"the metric of infinite depth exists on square matrices only, got {m} x {n}: "
                "theta(s, 0) = 0 freezes the row or column space of any other matrix"
            )

    def known_geodesic(
        self, W_a: Array, W_b: Array, times: Array
    ) -> tuple[Array, Array, float] | None:
        """The geodesic in closed form: of one row or column, aligned matrices, or one polar factor.

        The first at finite depth, the last at depth 2, and all of balanced layers only.
        """
        if self.depth == 1 or not self.is_balanced:
            return super().known_geodesic(W_a, W_b, times)
        if min(W_a.shape) == 1 and self.depth < math.inf:
            return cone_geodesic(W_a, W_b, self.depth, times)
        known = aligned_geodesic(self, W_a, W_b, times)
        if known is None and self.depth == 2:
            return depth_two_geodesic(self, W_a, W_b, times)
        return known

    @property
    def keeps_rank(self) -> bool:
        """Whether no flow changes the rank: if two layers or more go to zero with W.

        Balanced ones do at depths of 2 and more.
        """
        return self._network.order >= 2

    @property
    def changes_determinant_sign(self) -> bool:
        """Whether noise takes square matrices to those with a determinant of the other sign.

        Balanced layers pass through a singular value of zero on a straight line, on which all N
        of them change sign: so does the determinant at odd depths, and at even ones it does not.
        A depth that is no whole number has no layers, and keeps the sign as an even one does.
        Where layers are not balanced, those that go to zero there are counted.
        """
        return self._network.order % 2 == 1

    def diffusion(self) -> Diffusion:
        """The coordinates in which `langevin_flow` computes.

        They are roots of depth N, if it is finite and the layers are balanced.
        """
        if math.isinf(self.depth) or not self.is_balanced:
            return super().diffusion()
        return RootDiffusion(self.depth)

    def geodesic_coordinates(
        self, points: Array, velocity: Array | None, rank: int | None
    ) -> GeodesicCoordinates:
        """The coordinates in which geodesics are computed: roots of the matrices.

        Parameters
        ----------
        points : array (K, m, n)
            The points that a geodesic is sought between, or the one that it starts from.
        velocity : array (m, n) or None
            The velocity that it has there, in the second case; it is followed for a unit of time.
        rank : int or None
            The rank of the matrices, if it is not full.
        """
        if not self._has_roots:
            return super().geodesic_coordinates(points, velocity, rank)
        s = np.linalg.svd(points, compute_uv=False)[:, :rank]
        log_range = float(np.log(np.max(s) / np.min(s)))
        if velocity is not None and math.isinf(self.depth):
            # No logarithm of a singular value moves faster than the geodesic. On a long way errors
            # add up, of which the more linear roots have less.
            root = self.at(points[0]).inverse_root(velocity)
            log_range = 2 * (log_range + float(np.linalg.norm(root)))
        # Matrices whose columns and rows lie in given spaces are totally geodesic.
        matrices = points if velocity is None else [*points, velocity]
        left, right = _basis(np.hstack(list(matrices))), _basis(np.vstack(list(matrices)).T)
        return RootCoordinates(self.depth, log_range, rank, left, right)

    def scaling(self, W_a: Array, W_b: Array, rank: int | None) -> Scaling:
        """How geodesics follow from those between matrices of one size: by a cone or a product.

        Parameters
        ----------
        W_a, W_b : array (m, n)
            The ends of a geodesic.
        rank : int or None
            The rank of the matrices, if it is not full.
        """
        if not self._has_roots:
            return super().scaling(W_a, W_b, rank)
        if math.isinf(self.depth):
            return ProductScaling(W_a, W_b)
        return ConeScaling(self.depth, W_a, W_b, rank)

    def entropy(self, W: Array) -> Array:
        r"""The logarithm of the volume of the layers over W, up to a constant.

        .. math:: S(W) = \tfrac12 \sum_{i<j} \ln \theta_N(s_i, s_j)

        The networks with end-to-end matrix W and the metric's imbalance, of hidden width min(m, n),
        are an orbit of orthogonal changes of the hidden bases. exp(S) is its volume, of which the
        constant depends on min(m, n) and N only.

        Parameters
        ----------
        W : array (..., m, n)
            The point.

        Returns
        -------
        array (...)
            At infinite depth that of the limit of theta_N / N. Minus infinity where two singular
            values are exactly zero and theta(0, 0) is zero too, or at infinite depth one of them.

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
        >>> bool(np.isclose(metric.entropy(np.diag([1.0, 3.0])), np.log(4) / 2))
        True
        """
        return self._ask("entropy", W)

    def entropy_gradient(self, W: Array) -> Array:
        """The Euclidean gradient of `entropy`, a covector.

        Parameters
        ----------
        W : array (..., m, n)
            The point.

        Returns
        -------
        array (..., m, n)
            NaN where the entropy has no gradient. If two layers or more go to zero with W, as all
            do in balance, that is where one of several singular values is zero.

        Examples
        --------
        >>> import numpy as np
        >>> import riemdln
        >>> metric = riemdln.DeepLinearMetric(depth=2)  # the entropy is ln(s_1 + s_2) / 2
        >>> np.round(metric.entropy_gradient(np.diag([1.0, 3.0])), 12)
        array([[0.125, 0.   ],
               [0.   , 0.125]])
        """
        return self._ask("entropy_gradient", W)

    def entropy_hessian(self, W: Array, X: Array) -> Array:
        r"""The Euclidean Hessian of `entropy` along a tangent vector, a covector.

        With d_i and f_ij the first and second derivatives of the entropy in the singular values,
        and M = U^T X V, it is U H V^T with

        .. math::

            H_{ii} = \sum_j f_{ij} M_{jj}, \qquad
            H_{ij} = \frac{d_i - d_j}{s_i - s_j} \, \frac{M_{ij} + M_{ji}}{2}
                     + \frac{d_i + d_j}{s_i + s_j} \, \frac{M_{ij} - M_{ji}}{2}, \quad i \ne j,

        and d_i / s_i times what leaves the column or the row space.

        Parameters
        ----------
        W : array (..., m, n)
            The point.
        X : array (..., m, n)
            A tangent vector: the direction in which W moves.

        Returns
        -------
        array (..., m, n)
            NaN where the gradient is, and at depths between 1 and 2 where it has no derivative.

        Raises
        ------
        TypeError, ValueError
            As for `sharp`.

        References
        ----------
        - A. S. Lewis, H. S. Sendov. Twice differentiable spectral functions. SIAM Journal on Matrix
          Analysis and Applications 23, 2001.

        Examples
        --------
        >>> import numpy as np
        >>> import riemdln
        >>> metric = riemdln.DeepLinearMetric(depth=2)  # the entropy is ln(s_1 + s_2) / 2
        >>> np.round(metric.entropy_hessian(np.diag([1.0, 3.0]), np.diag([1.0, 0.0])), 12)
        array([[-0.03125,  0.     ],
               [ 0.     , -0.03125]])
        """
        return self._ask("entropy_hessian", W, X)

    def network_retraction(self, W: Array, X: Array) -> Array:
        """Where a step X takes W when the layers of a real network take it.

        The canonical layers of W (`riemdln.balanced_layers`) each move along the horizontal lift
        of X, and are multiplied. For X = -h sharp(W, grad E) this is exactly one step of gradient
        descent on the layers, with learning rate h; W + X agrees with it up to O(h^2).

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
        X = finite_matrix("X", point_of_shape("X", X, W.shape))
        if depth == 1:
            return W + X
        at = self.on_blocks(W)
        own = self._network.layer_singular_values(at.frame.s)
        layers, moves = layers_in_frame(at.frame, own), self._horizontal_lift(at, own, X)
        return end_to_end([layer + move for layer, move in zip(layers, moves, strict=True)])

    @property
    def _has_roots(self) -> bool:
        """Whether roots of the depth, or of infinite depth, are good coordinates for geodesics."""
        # At depth 1 entries are. Roots of a great order lose digits, as they are nearly equal.
        return self.is_balanced and (1 < self.depth <= 1e4 or math.isinf(self.depth))

    def _horizontal_lift(self, at: FrameAt, own: list[Array], X: Array) -> list[Array]:
        """The shortest motion of the canonical layers, of these singular values, that moves W by X.

        Layer j moves by (W_N ... W_{j+1})^T p (W_{j-1} ... W_1)^T with p = flat(X). In the frame
        the singular values of these products and 1 / theta are multiplied first, so that none of
        them amplifies what another one would undo, and a small singular value grows as it does in
        the network.
        """
        (U, s, Vt), xp = at.frame, namespace(X)
        noise = 8 * limits(X).eps * xp.max(xp.abs(X))
        least = self.at_frame(at.frame._replace(s=0.0 * s + at.frame.rounding[..., None])).theta

        def over_theta(block: Array, theta: Array, least: Array) -> Array:
            # A direction is still where both singular values are rounding errors of W, or where
            # X has but its own rounding error, which 1 / theta would amplify.
            frozen = (theta <= at.theta_rounding) & (xp.abs(block) <= noise)
            still = (theta <= least / 2) | frozen
            return xp.where(still, 0.0, block / xp.where(still, 1.0, theta))

        p: Blocks = at.frame.split(X).map(over_theta, at.theta, least)
        one = xp.ones_like(s)
        below = list(accumulate(own[:-1], operator.mul, initial=one))
        above = list(accumulate(own[:0:-1], operator.mul, initial=one))[::-1]
        moves = [over[:, None] * p.M * under for over, under in zip(above, below, strict=True)]
        if Vt is not None:
            moves[0] = moves[0] @ Vt
        if U is not None:
            moves[-1] = U @ moves[-1]
        if p.Vp is not None:
            moves[0] = moves[0] + (p.Vp * above[0]).mT
        if p.Up is not None:
            moves[-1] = moves[-1] + p.Up * below[-1]
        return moves


def _basis(matrix: Array) -> Array:
    """Orthonormal columns that span those of a matrix with more rows than columns, else None."""
    return np.linalg.qr(matrix)[0] if matrix.shape[0] > matrix.shape[1] else None
