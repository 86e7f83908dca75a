"""A metric that is the same at every point: all its derivatives are zero."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from riemdln._arrays import Array, finite, like, matching_matrix, namespace, paired
from riemdln.metrics._at import MetricAt

__all__ = ["ConstantAt", "MultipleAt", "straight_line"]


class ConstantAt(MetricAt):
    """A constant metric at a point; subclasses say what `sharp`, `flat` and `root` are.

    Parameters
    ----------
    W : array (..., m, n)
        The point.
    """

    def __init__(self, W: Array) -> None:
        self._W = W

    def pair(self, p: Array, X: Array) -> Array:
        return paired(self._vector("p", p), self._vector("X", X))

    def inner(self, X: Array, Y: Array) -> Array:
        """The inner product <flat(X), Y>."""
        X, Y = self._vector("X", X), self._vector("Y", Y)
        return paired(self.flat(X), Y)

    def sharp_derivative(self, X: Array, p: Array) -> Array:
        return 0.0 * (self._vector("X", X) + self._vector("p", p))

    def sharp_derivative_adjoint(self, p: Array, q: Array) -> Array:
        return 0.0 * (self._vector("p", p) + self._vector("q", q))

    def christoffel(self, X: Array, Y: Array) -> Array:
        """Zero."""
        return 0.0 * (self._vector("X", X) + self._vector("Y", Y))

    def known_curvature(self, X: Array, Y: Array, Z: Array) -> Array:
        """Zero."""
        return 0.0 * (self._vector("X", X) + self._vector("Y", Y) + self._vector("Z", Z))

    def hessian(
        self, euclidean_gradient: Array, euclidean_hessian: Array, tangent_vector: Array
    ) -> Array:
        """The sharp of the derivative of the Euclidean gradient."""
        self._vector("euclidean_gradient", euclidean_gradient)
        self._vector("tangent_vector", tangent_vector)
        return self.sharp(self._vector("euclidean_hessian", euclidean_hessian))

    def gaussian(self, rng: np.random.Generator) -> Array:
        return like(self._W, rng.standard_normal(self._W.shape))

    def log_volume_gradient(self) -> Array:
        return 0.0 * self._W

    def coordinate_laplacian(self) -> Array:
        return 0.0 * self._W

    def ito_drift(self) -> Array:
        return 0.0 * self._W

    def _vector(self, name: str, vector: Array) -> Array:
        vector = finite(name, matching_matrix(name, vector, "W", self._W))
        return vector if vector.shape == self._W.shape else vector + 0.0 * self._W


class MultipleAt(ConstantAt):
    """The cometric c P, of the Euclidean metric for c = 1.

    Parameters
    ----------
    W : array (..., m, n)
        The point.
    factor : float
        The number c, positive.
    """

    def __init__(self, W: Array, factor: float) -> None:
        super().__init__(W)
        self._factor = factor

    def sharp(self, P: Array) -> Any:
        return self._factor * self._vector("P", P)

    def flat(self, Z: Array) -> Any:
        return self._vector("Z", Z) / self._factor

    def root(self, Z: Array) -> Any:
        return self._factor**0.5 * self._vector("Z", Z)

    def inverse_root(self, Z: Array) -> Any:
        return self._vector("Z", Z) / self._factor**0.5

    def log_volume(self) -> Array:
        m, n = self._W.shape[-2:]
        return 0.0 * self._W[..., 0, 0] - m * n / 2 * math.log(self._factor)

    def entropy(self) -> Array:
        """The sum 1/2 sum_{i<j} ln c: see `DeepLinearMetric.entropy`."""
        r = min(self._W.shape[-2:])
        return 0.0 * self._W[..., 0, 0] + r * (r - 1) / 4 * math.log(self._factor)

    def entropy_gradient(self) -> Array:
        """Zero."""
        return 0.0 * self._W

    def entropy_hessian(self, X: Array) -> Array:
        """Zero."""
        return 0.0 * self._vector("X", X)


def straight_line(metric: Any, W_a: Array, W_b: Array, times: Array) -> tuple[Array, Array, float]:
    """The geodesic of a constant metric, from W_a at time 0 to W_b at time 1."""
    xp, step = namespace(W_a), W_b - W_a
    path = W_a + times[:, None, None] * step
    return path, 0.0 * path + step, float(xp.sqrt(metric.inner(W_a, step, step)))
