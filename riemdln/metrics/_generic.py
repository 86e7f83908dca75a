"""The metric at a point where only its cometric is known, by linear algebra and autodiff.

The same formulas in closed form stand in `riemdln.metrics._spectral_at`.
"""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any, Self

import autograd
import autograd.numpy as anp
import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse.linalg import LinearOperator, cg

from riemdln._arrays import Array, finite, like, matching_matrix, point_of_shape, to_numpy
from riemdln._differences import central_difference
from riemdln.metrics._at import MetricAt

__all__ = ["VECTORS", "GenericAt", "StackAt"]

# Up to this many entries linear systems are solved by the dense matrix of sharp.
_DENSE = 1000

# What a metric may define itself, and how the vectors that it takes are called.
VECTORS = {
    "sharp": ("P",),
    "flat": ("Z",),
    "root": ("Z",),
    "inner": ("X", "Y"),
    "sharp_derivative": ("X", "p"),
    "sharp_derivative_adjoint": ("p", "q"),
    "christoffel": ("X", "Y"),
    "log_volume": (),
    "log_volume_gradient": (),
    "coordinate_laplacian": (),
    "ito_drift": (),
}

# Those whose answer is a number.
_NUMBERS = ("inner", "log_volume", "pair")


class GenericAt(MetricAt):
    """A metric at one point, from its method `sharp`, or from what else it defines itself.

    All is computed in NumPy's float64, and given as an array like the point.

    Parameters
    ----------
    metric : Metric
        The metric.
    W : array (m, n)
        The point.
    own : list of str
        The methods that the metric defines itself.
    """

    def __init__(self, metric: Any, W: Array, own: list[str]) -> None:
        self._metric, self._given = metric, W
        self._W = to_numpy(W).astype(np.float64)
        for name in own:
            setattr(self, name, partial(self._ask_metric, name))

    def _ask_metric(self, method: str, *vectors: Array) -> Array:
        checked = map(self._vector, VECTORS[method], vectors)
        return self._as_given(getattr(self._metric, method)(self._W, *checked))

    def in_frame(self) -> tuple[Self, Any, Any]:
        """The metric itself; vectors are checked there under their own names."""
        return self, self._named, self._as_given

    def sharp(self, P: Array) -> Array:
        return self._ask_metric("sharp", P)

    def flat(self, Z: Array) -> Array:
        z = self._vector("Z", Z).ravel()
        if z.size <= _DENSE:
            y = cho_solve(self._cholesky, z)
        else:
            operator = LinearOperator((z.size, z.size), matvec=self._apply, dtype=np.float64)
            with np.errstate(all="ignore"):
                y, _ = cg(operator, z, rtol=1e-13, maxiter=10 * z.size + 100)
        with np.errstate(all="ignore"):
            residual = np.linalg.norm(self._apply(y) - z)
        if not residual <= 1e-9 * np.linalg.norm(z):
            raise np.linalg.LinAlgError(
                f"flat did not converge: the residual of sharp(Y) = Z is {residual:.1e}; is sharp "
                "symmetric and positive definite at this W?"
            )
        return self._as_given(y.reshape(self._W.shape))

    def root(self, Z: Array) -> Array:
        return self._power(0.5, Z)

    def inverse_root(self, Z: Array) -> Array:
        return self._power(-0.5, Z)

    def _power(self, exponent: float, Z: Array) -> Array:
        values, vectors = np.linalg.eigh(self._dense)
        if not values[0] > 0:
            raise np.linalg.LinAlgError(
                f"sharp must be positive definite, but its least eigenvalue is {values[0]:.1e}"
            )
        z = vectors @ (values**exponent * (vectors.T @ self._vector("Z", Z).ravel()))
        return self._as_given(z.reshape(self._W.shape))

    def pair(self, p: Array, X: Array) -> Array:
        return self._as_given(np.sum(self._vector("p", p) * self._vector("X", X)))

    def sharp_derivative(self, X: Array, p: Array) -> Array:
        X, p = self._vector("X", X), self._vector("p", p)

        def pairing(q: Array) -> Array:
            return anp.sum(X * self._pairing_gradient(q, p)) + 0.0 * anp.sum(q)

        # Linear in q, so its gradient is the same at every q. Not taken at zero, where autograd
        # leaves out terms of the derivative of eigenvectors.
        generic = np.cos(np.arange(X.size)).reshape(X.shape)
        return self._as_given(autograd.grad(pairing)(generic))

    def sharp_derivative_adjoint(self, p: Array, q: Array) -> Array:
        return self._as_given(self._pairing_gradient(self._vector("p", p), self._vector("q", q)))

    def gaussian(self, rng: np.random.Generator) -> Array:
        return like(self._given, rng.standard_normal(self._W.shape))

    def log_volume(self) -> Array:
        return self._as_given(-np.sum(np.log(np.diagonal(self._cholesky[0]))))

    def log_volume_gradient(self) -> Array:
        """From D ln det A[X] = sum_E <A^{-1} E, DA[X] E> over the unit matrices E."""
        return -sum(self.sharp_derivative_adjoint(self.flat(E), E) for E in self._basis) / 2

    def coordinate_laplacian(self) -> Array:
        """From div A = sum_E DA[E] E over the unit matrices E."""
        divergence = sum(self.sharp_derivative(E, E) for E in self._basis)
        return divergence + self.sharp(self.log_volume_gradient())

    def ito_drift(self) -> Array:
        """From its definition, by differences of `root` along the columns of the root."""
        W, step = to_numpy(self._given).astype(np.float64), np.finfo(float).eps ** 0.2

        def along(E: Array) -> Array:
            X = to_numpy(self.root(E))
            h = step * np.abs(W).max() / np.abs(X).max()
            return central_difference(lambda h: self._metric.root(W + h * X, E), h)

        return self._as_given(sum(map(along, self._basis)) / 2)

    def _named(self, name: str, vector: Array) -> Array:
        return finite(name, point_of_shape(name, vector, self._W.shape))

    def _vector(self, name: str, vector: Array) -> Array:
        return to_numpy(self._named(name, vector)).astype(np.float64)

    def _as_given(self, value: Array) -> Array:
        value = like(self._given, value)
        return (
            value[()] if isinstance(value, np.ndarray) else value
        )  # a number, not of 0 dimensions

    def _apply(self, vector: Array) -> Array:
        return np.ravel(self._metric.sharp(self._W, vector.reshape(self._W.shape)))

    @property
    def _basis(self) -> Array:
        return np.eye(self._W.size).reshape(-1, *self._W.shape)

    @cached_property
    def _dense(self) -> Array:
        """The matrix of sharp on the entries of a covector."""
        dense = np.array([self._apply(E) for E in self._basis]).T
        asymmetry = np.abs(dense - dense.T).max() / max(np.abs(dense).max(), 1e-300)
        if not asymmetry < 1e-8:
            raise np.linalg.LinAlgError(
                f"sharp must be finite and symmetric, but its relative asymmetry is {asymmetry:.1e}"
            )
        return (dense + dense.T) / 2

    @cached_property
    def _cholesky(self) -> Any:
        dense = self._dense
        try:
            return cho_factor(dense)
        except np.linalg.LinAlgError as error:
            raise np.linalg.LinAlgError(
                "flat did not converge: sharp must be positive definite to rounding error at this "
                f"W, but {error}"
            ) from error

    def _pairing_gradient(self, p: Array, q: Array) -> Array:
        # The zero keeps a sharp that does not depend on W differentiable.
        def pairing(V: Array) -> Array:
            Z = self._metric.sharp(V, q)
            if isinstance(Z, np.ndarray) and Z.dtype == object:
                raise TypeError(
                    f"{self._metric!r} cannot be differentiated: its sharp must be written in "
                    "autograd.numpy, and call no function of NumPy itself"
                )
            return anp.sum(p * Z) + 0.0 * anp.sum(V)

        return autograd.grad(pairing)(self._W)


class StackAt(MetricAt):
    """A metric at each point of a stack, asked point by point.

    Parameters
    ----------
    W : array (..., m, n)
        The points.
    each : list of MetricAt
        The metric at each of them, in the order of the stack.
    """

    def __init__(self, W: Array, each: list[MetricAt]) -> None:
        self._given, self._each = W, each

    def in_frame(self) -> tuple[Self, Any, Any]:
        """The metric itself; vectors are checked there under their own names."""
        return self, self._vector, partial(like, self._given)

    def by_default(self, method: str, *vectors: Array) -> Array:
        return self._loop(method, [partial(at.by_default, method) for at in self._each], vectors)

    def _ask(self, method: str, *vectors: Array) -> Array:
        return self._loop(method, [getattr(at, method) for at in self._each], vectors)

    def _loop(self, method: str, functions: list[Any], vectors: tuple[Array, ...]) -> Array:
        shape = tuple(self._given.shape)
        names = VECTORS.get(method, ("p", "X"))[: len(vectors)]
        checked = list(map(self._vector, names, vectors))
        stacks = [np.broadcast_to(to_numpy(V), shape).reshape(-1, *shape[-2:]) for V in checked]
        answers = [function(*own) for function, *own in zip(functions, *stacks, strict=True)]
        return like(self._given, np.reshape(answers, shape[:-2] if method in _NUMBERS else shape))

    def _vector(self, name: str, vector: Array) -> Array:
        return finite(name, matching_matrix(name, vector, "W", self._given))

    def sharp(self, P: Array) -> Array:
        return self._ask("sharp", P)

    def flat(self, Z: Array) -> Array:
        return self._ask("flat", Z)

    def root(self, Z: Array) -> Array:
        return self._ask("root", Z)

    def inverse_root(self, Z: Array) -> Array:
        return self._ask("inverse_root", Z)

    def pair(self, p: Array, X: Array) -> Array:
        return self._ask("pair", p, X)

    def inner(self, X: Array, Y: Array) -> Array:
        """The inner product of each point."""
        return self._ask("inner", X, Y)

    def sharp_derivative(self, X: Array, p: Array) -> Array:
        return self._ask("sharp_derivative", X, p)

    def sharp_derivative_adjoint(self, p: Array, q: Array) -> Array:
        return self._ask("sharp_derivative_adjoint", p, q)

    def christoffel(self, X: Array, Y: Array) -> Array:
        return self._ask("christoffel", X, Y)

    def gaussian(self, rng: np.random.Generator) -> Array:
        return like(self._given, rng.standard_normal(tuple(self._given.shape)))

    def log_volume(self) -> Array:
        return self._ask("log_volume")

    def log_volume_gradient(self) -> Array:
        return self._ask("log_volume_gradient")

    def coordinate_laplacian(self) -> Array:
        return self._ask("coordinate_laplacian")

    def ito_drift(self) -> Array:
        return self._ask("ito_drift")
