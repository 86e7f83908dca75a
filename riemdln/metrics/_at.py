"""The metric at a point: one object that answers all that geometry asks there."""

from __future__ import annotations

import abc
from typing import Any, Self

import numpy as np

from riemdln._arrays import Array, Rng, random_generator

__all__ = ["MetricAt"]

# A tangent vector or a covector: an array, or what adds and multiplies with numbers as one.
Vector = Any


class MetricAt(abc.ABC):
    r"""A Riemannian metric at one point W, or at each point of a stack.

    It is what `riemdln.Metric.at` returns. Covectors P, p, q are Euclidean gradients, X, Y, Z are
    tangent vectors; all are arrays of the shape of W, or on a manifold such as `riemdln.FixedRank`
    that manifold's own vectors.

    Examples
    --------
    >>> import numpy as np
    >>> import riemdln
    >>> at = riemdln.DeepLinearMetric(depth=2).at(np.diag([1.0, 3.0]))
    >>> at.sharp(np.ones((2, 2)))
    array([[2., 4.],
           [4., 6.]])
    >>> at.flat(at.sharp(np.ones((2, 2))))
    array([[1., 1.],
           [1., 1.]])
    """

    @abc.abstractmethod
    def sharp(self, P: Vector) -> Vector:
        """The cometric A_W(P): from a covector to the tangent vector that it stands for."""

    @abc.abstractmethod
    def flat(self, Z: Vector) -> Vector:
        """The inverse of `sharp`: from a tangent vector to the covector that stands for it."""

    @abc.abstractmethod
    def root(self, Z: Vector) -> Vector:
        """The symmetric square root A_W^{1/2} of `sharp`."""

    @abc.abstractmethod
    def inverse_root(self, Z: Vector) -> Vector:
        """The inverse A_W^{-1/2} of `root`, of which no direction is taken as frozen."""

    @abc.abstractmethod
    def pair(self, p: Vector, X: Vector) -> Array:
        """The pairing <p, X> of a covector and a tangent vector."""

    @abc.abstractmethod
    def sharp_derivative(self, X: Vector, p: Vector) -> Vector:
        """The derivative DA_W[X] p of `sharp` along a tangent vector, applied to a covector."""

    @abc.abstractmethod
    def sharp_derivative_adjoint(self, p: Vector, q: Vector) -> Vector:
        """The covector Xi_W(p, q) of X -> <p, DA_W[X] q>, symmetric in p and q."""

    @abc.abstractmethod
    def gaussian(self, rng: np.random.Generator) -> Vector:
        """A vector of independent standard Gaussians in the tangent space, for <X, Y>."""

    @abc.abstractmethod
    def log_volume(self) -> Array:
        """The logarithm ln sqrt(det g_W) of the volume density."""

    @abc.abstractmethod
    def log_volume_gradient(self) -> Vector:
        """The Euclidean gradient of `log_volume`."""

    @abc.abstractmethod
    def coordinate_laplacian(self) -> Vector:
        """Laplace-Beltrami of the entries of W: see `riemdln.Metric.coordinate_laplacian`."""

    @abc.abstractmethod
    def ito_drift(self) -> Vector:
        """The drift that Ito's form of noise adds: see `riemdln.Metric.ito_drift`."""

    def holds_least_singular_value(self, variance: float) -> Any:
        """Whether the least singular value keeps digits in the entries of W in a step of noise.

        At infinite depth noise spreads singular values without end, until the entries of W have
        rounding errors above the least one. True unless a metric says otherwise.

        Parameters
        ----------
        variance : float
            That of the noise, which is A_W^{1/2} times Gaussian numbers; zero for no step.

        Returns
        -------
        bool or array of bool (...)
        """
        return np.asarray(True)

    def known_curvature(self, X: Vector, Y: Vector, Z: Vector) -> Vector | None:
        """The curvature R(X, Y)Z where it has a closed form, and None elsewhere.

        Parameters
        ----------
        X, Y, Z : vector
            Tangent vectors, in NumPy.

        Returns
        -------
        vector or None
            See `riemdln.geodesics.curvature`.
        """
        return None

    def by_default(self, method: str, *vectors: Vector) -> Any:
        """What a method says where the metric does not define it itself."""
        return getattr(type(self), method)(self, *vectors)

    def in_frame(self) -> tuple[Self, Any, Any]:
        """The same metric where formulas are cheapest, with the maps of vectors there and back."""
        return self, _as_given, _as_it_is

    def inner(self, X: Vector, Y: Vector) -> Array:
        """The inner product g_W(X, Y) = <flat(X), Y> of two tangent vectors."""
        at, there, _ = self.in_frame()
        x = there("X", X)
        return at.pair(at.flat(x), x if Y is X else there("Y", Y))

    def christoffel(self, X: Vector, Y: Vector) -> Vector:
        r"""The Christoffel symbol, a symmetric bilinear map of tangent vectors.

        .. math::

            \Gamma_W(X, Y) = \tfrac12 A(\Xi(x, y)) - \tfrac12 DA[X] y - \tfrac12 DA[Y] x,
            \qquad x = A^{-1} X, \quad y = A^{-1} Y
        """
        at, there, back = self.in_frame()
        X_, Y_ = there("X", X), there("Y", Y)
        x, y = at.flat(X_), at.flat(Y_)
        along_x = at.sharp_derivative(X_, y)
        along_y = along_x if X is Y else at.sharp_derivative(Y_, x)
        pulled = at.sharp(at.sharp_derivative_adjoint(x, y))
        return back(0.5 * (pulled - along_x - along_y))

    def hessian(
        self, euclidean_gradient: Vector, euclidean_hessian: Vector, tangent_vector: Vector
    ) -> Vector:
        r"""The Riemannian Hessian of a cost E along a tangent vector.

        .. math::

            \mathrm{Hess}\, E[X] = A(D^2E[X]) + \tfrac12 DA[X] p - \tfrac12 DA[A p] x
                                 + \tfrac12 A(\Xi(x, p)),

            p = \nabla E, \quad x = A^{-1} X

        Parameters
        ----------
        euclidean_gradient, euclidean_hessian : vector
            The Euclidean gradient of E at W, and the derivative of the Euclidean gradient along X.
        tangent_vector : vector
            The tangent vector X.

        Returns
        -------
        vector

        References
        ----------
        - N. Boumal. An introduction to optimization on smooth manifolds. 2023, section 5.

        Examples
        --------
        >>> import numpy as np
        >>> from riemdln import DeepLinearMetric
        >>> one = np.ones((1, 1))  # A = 2 w, with arc length r = sqrt(2 w), so E = w is r^2 / 2
        >>> DeepLinearMetric(2).at(3 * one).hessian(one, 0 * one, one)
        array([[1.]])
        """
        at, there, back = self.in_frame()
        p = there("euclidean_gradient", euclidean_gradient)
        H = there("euclidean_hessian", euclidean_hessian)
        X = there("tangent_vector", tangent_vector)
        x = at.flat(X)
        lifted = at.sharp(H + 0.5 * at.sharp_derivative_adjoint(x, p))
        along_gradient = at.sharp_derivative(at.sharp(p), x)
        return back(lifted + 0.5 * (at.sharp_derivative(X, p) - along_gradient))

    def random_tangent(self, rng: Rng = None) -> Vector:
        """A random tangent vector, Gaussian and isotropic in the metric: the root of white noise.

        Parameters
        ----------
        rng : numpy.random.Generator, int or None
            Source of randomness, or a seed for one.

        Returns
        -------
        vector
            Its coordinates in an orthonormal basis of the tangent space are independent standard
            Gaussians.
        """
        return self.root(self.gaussian(random_generator("rng", rng)))


def _as_given(name: str, vector: Vector) -> Vector:
    return vector


def _as_it_is(vector: Vector) -> Vector:
    return vector
