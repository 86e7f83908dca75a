"""What every metric on matrices offers: a cometric, and all that follows from it."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np

from riemdln._arrays import (
    Array,
    Rng,
    finite,
    floating_array,
    is_traced,
    matrix_shape,
    to_numpy,
)
from riemdln.metrics._at import MetricAt
from riemdln.metrics._diffusion import AmbientDiffusion, Diffusion
from riemdln.metrics._generic import VECTORS, GenericAt, StackAt
from riemdln.metrics._geodesic_coordinates import EntryCoordinates, GeodesicCoordinates
from riemdln.metrics._rules import are_differentiated, are_recorded, by_rule, plainly
from riemdln.metrics._scaling import NoScaling, Scaling

__all__ = ["Metric"]


class Metric(abc.ABC):
    r"""A Riemannian metric on m x n matrices, given by its cometric.

    At each point W the cometric `sharp` turns a covector (a Euclidean gradient) into a tangent
    vector (the Riemannian gradient); it is linear, symmetric and positive definite. `flat` is its
    inverse, and the metric itself is g_W(X, Y) = <X, flat(W, Y)> with <X, Y> = Tr(X^T Y).

    A metric of one's own is a subclass with one method, `sharp`, written in autograd.numpy. Then
    `flat` comes by a linear solver and the derivatives of `sharp` by automatic
    differentiation, and with them all of `FullRank`. Override what has a closed form.

    What a metric says can be differentiated itself, by autograd, PyTorch and JAX: in all vectors,
    and in W, except for `root`, `coordinate_laplacian`, `ito_drift` and `random_tangent`. So a cost
    may contain a metric, and a metric another one. First derivatives have closed forms, also where
    singular values are equal; second ones, but for the entropy's, are differences of these, to some
    ten digits.

    Attributes
    ----------
    changes_determinant_sign : bool
        Whether noise takes square matrices to those with a determinant of the other sign: unless a
        subclass says otherwise, where geodesics do not end at lower rank.
    ends_at_lower_rank : bool
        Whether geodesics end at matrices of lower rank, so that square matrices with determinants
        of opposite sign are not connected. False unless a subclass says otherwise.
    is_pure : bool
        Whether the metric depends on nothing but the point, so that what was computed may be
        remembered. False unless a subclass says otherwise.

    Examples
    --------
    >>> import autograd.numpy as anp
    >>> import numpy as np
    >>> import riemdln
    >>> class Weighted(riemdln.Metric):
    ...     '''A(P) = (1 + W^2) P, entrywise.'''
    ...
    ...     def sharp(self, W, P):
    ...         return (1 + W**2) * P
    >>> metric = Weighted()
    >>> W, X = np.array([[1.0, 2.0]]), np.array([[2.0, 5.0]])
    >>> np.round(metric.flat(W, X), 9)
    array([[1., 1.]])
    >>> np.round(metric.christoffel(W, X, X), 9)  # -w x^2 / (1 + w^2), entrywise
    array([[ -2., -10.]])
    """

    ends_at_lower_rank: bool = False
    is_pure: bool = False

    @property
    def changes_determinant_sign(self) -> bool:
        """Whether noise takes square matrices to those with a determinant of the other sign."""
        return not self.ends_at_lower_rank

    def at(self, W: Array, *, rank: int | None = None) -> MetricAt:
        """The metric at a point: one object that answers all that is asked there.

        The other methods ask it at one point at a time. Where much is asked at the same point,
        the object saves looking it up.

        Parameters
        ----------
        W : array (..., m, n)
            The point, or a stack of points.
        rank : int, optional
            The rank of the matrices, for metrics that exist on those of a lower rank too: see
            `SpectralMetric.at`.

        Returns
        -------
        MetricAt

        Raises
        ------
        TypeError, ValueError
            If `W` is no finite real matrix, or the metric does not exist on m x n matrices.
        """
        require_no_rank(rank, self)
        require_no_derivatives(W)
        W = checked_point("W", W)
        self.require_shape(*matrix_shape("W", W))
        if is_traced(W):
            raise TypeError(
                f"{self!r} is asked by its values, but JAX traces W: its sharp alone can be traced"
            )
        own = [name for name in VECTORS if getattr(type(self), name) is not getattr(Metric, name)]
        if W.ndim == 2:
            return GenericAt(self, W, own)
        points = to_numpy(W).reshape(-1, *W.shape[-2:])
        return StackAt(W, [GenericAt(self, point, own) for point in points])

    @abc.abstractmethod
    def sharp(self, W: Array, P: Array) -> Array:
        """The cometric A_W: from a covector to the tangent vector that it stands for.

        Parameters
        ----------
        W : array (..., m, n)
            The point.
        P : array (..., m, n)
            A covector: the Euclidean gradient of a cost at W.

        Returns
        -------
        array (..., m, n)
        """

    def flat(self, W: Array, Z: Array) -> Array:
        """The inverse of `sharp`: from a tangent vector to the covector that stands for it.

        By default A_W(Y) = Z is solved by the Cholesky factorization of the dense cometric, or of
        more than 1,000 entries by conjugate gradients.

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
        numpy.linalg.LinAlgError
            If the solver finds that `sharp` is not symmetric and positive definite at W, or the
            relative residual stays above 1e-9.
        """
        return self._ask("flat", W, Z)

    def root(self, W: Array, Z: Array) -> Array:
        """The symmetric square root A_W^{1/2} of `sharp`, which turns unit noise into the metric's.

        Parameters
        ----------
        W : array (..., m, n)
            The point.
        Z : array (..., m, n)
            A matrix.

        Returns
        -------
        array (..., m, n)
        """
        return self._ask("root", W, Z)

    def inner(self, W: Array, X: Array, Y: Array) -> Array:
        """The inner product g_W(X, Y) = <X, flat(W, Y)> of two tangent vectors.

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
        """
        return self._ask("inner", W, X, Y)

    def sharp_derivative(self, W: Array, X: Array, p: Array) -> Array:
        """The derivative DA_W[X] p of `sharp` along a tangent vector, applied to a covector.

        By default by automatic differentiation, as the covector of q -> <Xi_W(q, p), X>.

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

        Examples
        --------
        >>> import riemdln
        >>> metric = riemdln.DeepLinearMetric(depth=2)
        >>> metric.sharp_derivative([[3.0]], [[1.0]], [[1.0]])  # A(p) = 2 w p
        array([[2.]])
        """
        return self._ask("sharp_derivative", W, X, p)

    def sharp_derivative_adjoint(self, W: Array, p: Array, q: Array) -> Array:
        """The covector Xi_W(p, q) of X -> <p, DA_W[X] q>, symmetric in p and q.

        By default by automatic differentiation, as the gradient of <p, A_W(q)> in W.

        Parameters
        ----------
        W : array (..., m, n)
            The point.
        p, q : array (..., m, n)
            Covectors, held fixed.

        Returns
        -------
        array (..., m, n)
        """
        return self._ask("sharp_derivative_adjoint", W, p, q)

    def christoffel(self, W: Array, X: Array, Y: Array) -> Array:
        """The Christoffel symbol of two tangent vectors: see `MetricAt.christoffel`.

        A geodesic obeys W'' + Gamma_W(W', W') = 0.

        Parameters
        ----------
        W : array (..., m, n)
            The point.
        X, Y : array (..., m, n)
            Tangent vectors.

        Returns
        -------
        array (..., m, n)
        """
        return self._ask("christoffel", W, X, Y)

    def log_volume(self, W: Array) -> Array:
        r"""The logarithm of the volume density of the metric, ln sqrt(det g_W).

        Parameters
        ----------
        W : array (..., m, n)
            The point.

        Returns
        -------
        array (...)
            Infinite where the metric is.

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
        return self._ask("log_volume", W)

    def log_volume_gradient(self, W: Array) -> Array:
        """The Euclidean gradient of `log_volume`, a covector.

        Parameters
        ----------
        W : array (..., m, n)
            The point.

        Returns
        -------
        array (..., m, n)
        """
        return self._ask("log_volume_gradient", W)

    def coordinate_laplacian(self, W: Array) -> Array:
        r"""The Laplace-Beltrami operator of the metric, applied to each entry of W.

        .. math:: \Delta_g W = \mathrm{div} A + A(\nabla \ln \sqrt{\det g})

        Brownian motion under the metric has the drift Delta_g W / 2 (Ito).

        Parameters
        ----------
        W : array (..., m, n)
            The point.

        Returns
        -------
        array (..., m, n)

        References
        ----------
        - E. P. Hsu. Stochastic analysis on manifolds. 2002, section 3.3.

        Examples
        --------
        >>> import riemdln
        >>> riemdln.DeepLinearMetric(depth=2).coordinate_laplacian([[3.0]])  # sqrt(2 w) is Brownian
        array([[1.]])
        """
        return self._ask("coordinate_laplacian", W)

    def ito_drift(self, W: Array) -> Array:
        r"""The drift that Ito's form of dW = A_W^{1/2} o dB has, an equation of Stratonovich's.

        .. math:: \tfrac12 \sum_E D(A^{1/2})[A^{1/2} E] \, E

        over the unit matrices E. So dW = b dt + A^{1/2} dB in Ito's sense is the equation
        dW = (b - ito_drift) dt + A^{1/2} o dB in Stratonovich's, which obeys the chain rule.

        Parameters
        ----------
        W : array (..., m, n)
            The point.

        Returns
        -------
        array (..., m, n)

        References
        ----------
        - P. E. Kloeden, E. Platen. Numerical solution of stochastic differential equations. 1992,
          section 4.9.

        Examples
        --------
        >>> import riemdln
        >>> riemdln.DeepLinearMetric(depth=2).ito_drift([[3.0]])  # A' / 4, of A = 2 w
        array([[0.5]])
        """
        return self._ask("ito_drift", W)

    def random_tangent(self, W: Array, rng: Rng = None) -> Array:
        """A random tangent vector, Gaussian and isotropic in the metric: the root of white noise.

        Parameters
        ----------
        W : array (..., m, n)
            The point.
        rng : numpy.random.Generator, int or None
            Source of randomness, or a seed for one.

        Returns
        -------
        array (..., m, n)
        """
        return self.at(W).random_tangent(rng)

    def known_geodesic(
        self, W_a: Array, W_b: Array, times: Array
    ) -> tuple[Array, Array, float] | None:
        """The geodesic from one point to another where it has a closed form, and None elsewhere.

        Parameters
        ----------
        W_a, W_b : array (m, n)
            The points, at times 0 and 1.
        times : array (K,)
            Times from 0 to 1.

        Returns
        -------
        (points, velocities, length) or None
            Arrays (K, m, n) at the times, and the length.
        """
        return None

    def _ask(self, name: str, W: Array, *vectors: Any) -> Any:
        """What the metric at a point says, with derivatives by rule where they are taken."""
        if are_differentiated(W, *vectors):
            return by_rule(name, self, W, *vectors)
        return plainly(name, self, W, *vectors)

    def diffusion(self) -> Diffusion:
        """The coordinates in which `langevin_flow` computes: the entries of the matrices."""
        return AmbientDiffusion(self)

    def geodesic_coordinates(
        self, points: Array, velocity: Array | None, rank: int | None
    ) -> GeodesicCoordinates:
        """The coordinates in which geodesics are computed: the entries of the matrices.

        Parameters
        ----------
        points : array (K, m, n)
            The points that a geodesic is sought between, or the one that it starts from.
        velocity : array (m, n) or None
            The velocity that it has there, in the second case; it is followed for a unit of time.
        rank : int or None
            The rank of the matrices, if it is not full.
        """
        return EntryCoordinates(self, rank)

    def scaling(self, W_a: Array, W_b: Array, rank: int | None) -> Scaling:
        """How geodesics follow from those between matrices of one size: not at all.

        Parameters
        ----------
        W_a, W_b : array (m, n)
            The ends of a geodesic.
        rank : int or None
            The rank of the matrices, if it is not full.
        """
        return NoScaling()

    def require_shape(self, m: int, n: int) -> None:  # noqa: B027 (a hook: most metrics need nothing)
        """Raise a ValueError where the metric does not exist on m x n matrices."""


def checked_point(name: str, W: Array) -> Array:
    """The value as a finite matrix, or a stack of matrices."""
    W = floating_array(name, W)
    matrix_shape(name, W)
    return finite(name, W)


def require_no_derivatives(W: Array) -> None:
    """Raise a TypeError where autograd or PyTorch would differentiate a decomposition."""
    if type(W) is not np.ndarray and are_recorded(W):
        raise TypeError(
            "W must not be differentiated in metric.at(W): the metric's own functions, such as "
            "metric.sharp(W, P), have rules for their derivatives"
        )


def require_no_rank(rank: int | None, metric: Metric) -> None:
    """Raise a ValueError where a metric that exists at full rank only is asked for a lower one."""
    if rank is not None:
        raise ValueError(f"rank must be None: {metric!r} is known on matrices of full rank only")
