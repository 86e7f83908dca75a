"""What every metric on matrices offers: a cometric, and all that follows from it."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping

import autograd
import autograd.numpy as anp
import numpy as np
from array_api_compat import array_namespace
from scipy.sparse.linalg import LinearOperator, cg

from riemdln._arrays import Array, finite_matrix, matching_matrix, point_of_shape

__all__ = ["Metric"]

Retraction = Callable[[Array, Array], Array]
Transport = Callable[[Array, Array, Array], Array]


class Metric(abc.ABC):
    r"""A Riemannian metric on m x n matrices, given by its cometric.

    At each point W the cometric `sharp` turns a covector (a Euclidean gradient) into a tangent
    vector (the Riemannian gradient); it is linear, symmetric and positive definite. `flat` is its
    inverse, and the metric itself is g_W(X, Y) = <X, flat(W, Y)> with <X, Y> = Tr(X^T Y).

    A metric of one's own is a subclass with one method, `sharp`, written in autograd.numpy. Then
    `flat` comes by conjugate gradients and the derivatives of `sharp` by automatic
    differentiation, and with them all of `FullRank`. Override what has a closed form.

    Attributes
    ----------
    is_constant : bool
        Whether `sharp` does not depend on W, so that geodesics are straight lines. False unless a
        subclass says otherwise.
    ends_at_lower_rank : bool
        Whether geodesics end at matrices of lower rank, so that square matrices with determinants
        of opposite sign are not connected. False unless a subclass says otherwise.
    takes_stacks : bool
        Whether the methods take stacks of matrices (..., m, n), which makes geodesics between
        points faster. False unless a subclass says otherwise.

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

    is_constant: bool = False
    ends_at_lower_rank: bool = False
    takes_stacks: bool = False

    @abc.abstractmethod
    def sharp(self, W: Array, P: Array) -> Array:
        """The cometric A_W: from a covector to the tangent vector that it stands for.

        Parameters
        ----------
        W : array (m, n)
            The point.
        P : array (m, n)
            A covector: the Euclidean gradient of a cost at W.

        Returns
        -------
        array (m, n)
        """

    def flat(self, W: Array, Z: Array) -> Array:
        """The inverse of `sharp`: from a tangent vector to the covector that stands for it.

        By default A_W(Y) = Z is solved by conjugate gradients, to a relative residual of 1e-13, or
        as far as rounding errors allow.

        Parameters
        ----------
        W : array (m, n)
            The point.
        Z : array (m, n)
            A tangent vector.

        Returns
        -------
        array (m, n)

        Raises
        ------
        numpy.linalg.LinAlgError
            If the relative residual stays above 1e-9, as where `sharp` is not symmetric and
            positive definite, or has a condition number of more than about 1e8.
        """
        W, Z = checked(W, Z=Z)

        def apply(vector: Array) -> Array:
            return np.asarray(self.sharp(W, vector.reshape(W.shape))).ravel()

        operator = LinearOperator((W.size, W.size), matvec=apply, dtype=np.float64)
        limit = 10 * W.size + 100
        with np.errstate(all="ignore"):
            solution, _ = cg(operator, Z.ravel(), rtol=1e-13, maxiter=limit)
            residual = np.linalg.norm(apply(solution) - Z.ravel())
        if not residual <= 1e-9 * np.linalg.norm(Z):
            raise np.linalg.LinAlgError(
                f"flat did not converge in {limit} iterations of conjugate gradients: the residual "
                f"is {residual:.1e}; is sharp symmetric and positive definite at this W?"
            )
        return solution.reshape(W.shape)

    def inner(self, W: Array, X: Array, Y: Array) -> Array:
        """The inner product g_W(X, Y) = <X, flat(W, Y)> of two tangent vectors."""
        covector = self.flat(W, Y)
        xp = array_namespace(covector)
        return xp.sum(matching_matrix("X", X, "W", covector) * covector, axis=(-2, -1))

    def sharp_derivative(self, W: Array, X: Array, p: Array) -> Array:
        """The derivative DA_W[X] p of `sharp` along a tangent vector, applied to a covector.

        By default by automatic differentiation, as the covector of q -> <Xi_W(q, p), X>.

        Parameters
        ----------
        W : array (m, n)
            The point.
        X : array (m, n)
            A tangent vector: the direction in which W moves.
        p : array (m, n)
            A covector, held fixed.

        Returns
        -------
        array (m, n)
        """
        W, X, p = checked(W, X=X, p=p)

        def pairing(q: Array) -> Array:
            return anp.sum(X * self._pairing_gradient(W, q, p)) + 0.0 * anp.sum(q)

        # Linear in q, so its gradient is the same at every q. Not taken at zero, where autograd
        # leaves out terms of the derivative of eigenvectors.
        generic = np.cos(np.arange(W.size)).reshape(W.shape)
        return autograd.grad(pairing)(generic)

    def sharp_derivative_adjoint(self, W: Array, p: Array, q: Array) -> Array:
        """The covector Xi_W(p, q) of X -> <p, DA_W[X] q>, symmetric in p and q.

        By default by automatic differentiation, as the gradient of <p, A_W(q)> in W.

        Parameters
        ----------
        W : array (m, n)
            The point.
        p, q : array (m, n)
            Covectors, held fixed.

        Returns
        -------
        array (m, n)
        """
        W, p, q = checked(W, p=p, q=q)
        return self._pairing_gradient(W, p, q)

    def christoffel(self, W: Array, X: Array, Y: Array) -> Array:
        r"""The Christoffel symbol, a symmetric bilinear map of tangent vectors.

        .. math::

            \Gamma_W(X, Y) = \tfrac12 A(\Xi(x, y)) - \tfrac12 DA[X] y - \tfrac12 DA[Y] x,
            \qquad x = A^{-1} X, \quad y = A^{-1} Y

        A geodesic obeys W'' + Gamma_W(W', W') = 0.

        Parameters
        ----------
        W : array (m, n)
            The point.
        X, Y : array (m, n)
            Tangent vectors.

        Returns
        -------
        array (m, n)
        """
        x, y = self.flat(W, X), self.flat(W, Y)
        along_x = self.sharp_derivative(W, X, y)
        along_y = along_x if X is Y else self.sharp_derivative(W, Y, x)
        pulled = self.sharp(W, self.sharp_derivative_adjoint(W, x, y))
        return (pulled - along_x - along_y) / 2

    def known_geodesic(
        self, W_a: Array, W_b: Array, times: Array
    ) -> tuple[Array, Array, float] | None:
        """The geodesic from one point to another where it has a closed form.

        By default a straight line if the metric is constant, and None otherwise.

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
        if not self.is_constant:
            return None
        step = W_b - W_a
        path = W_a + times[:, None, None] * step
        return path, np.broadcast_to(step, path.shape), float(np.sqrt(self.inner(W_a, step, step)))

    def require_shape(self, m: int, n: int) -> None:  # noqa: B027 (a hook: most metrics need nothing)
        """Raise a ValueError where the metric does not exist on m x n matrices."""

    def retractions(self) -> Mapping[str, Retraction]:
        """The retractions (W, X) -> point that belong to this metric alone, by name."""
        return {}

    def transports(self) -> Mapping[str, Transport]:
        """The transports (W_a, W_b, X) -> vector at W_b that belong to this metric, by name."""
        return {}

    def _pairing_gradient(self, W: Array, p: Array, q: Array) -> Array:
        # The zero keeps a sharp that does not depend on W differentiable.
        def pairing(V: Array) -> Array:
            Z = self.sharp(V, q)
            if isinstance(Z, np.ndarray) and Z.dtype == object:
                raise TypeError(
                    f"{self!r} cannot be differentiated: its sharp must be written in "
                    "autograd.numpy, and call no function of NumPy itself"
                )
            return anp.sum(p * Z) + 0.0 * anp.sum(V)

        return autograd.grad(pairing)(W)


def checked(W: Array, **vectors: Array) -> tuple[Array, ...]:
    """A point and the vectors given there, as finite matrices of one shape."""
    W = finite_matrix("W", W)
    arrays = [point_of_shape(name, vector, W.shape) for name, vector in vectors.items()]
    return W, *(finite_matrix(name, array) for name, array in zip(vectors, arrays, strict=True))
