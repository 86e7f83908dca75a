"""The manifold of full-rank matrices with any metric."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pymanopt.manifolds.manifold import Manifold

from riemdln._validation import (
    NotFiniteError,
    finite,
    integer,
    point_of_shape,
    random_generator,
)
from riemdln.metrics import Metric

__all__ = ["FullRank"]

Matrix = NDArray[np.floating]


class FullRank(Manifold):
    r"""The manifold of m x n matrices of full rank, with a metric of one's choice.

    It is an open set of matrices, so its tangent vectors are all m x n matrices and all that
    sets it apart from pymanopt's Euclidean(m, n) is the metric: the Riemannian gradient is
    ``metric.sharp`` of the Euclidean one. With `DeepLinearMetric(N)` pymanopt's optimizers
    move one matrix as training moves the end-to-end matrix of a deep linear network.

    Parameters
    ----------
    m, n : int
        The numbers of rows and columns.
    metric : Metric
        The metric, which must exist on m x n matrices.
    retraction : str
        How a step X leaves W. "linear", for every metric, is W + X. "network", for
        `DeepLinearMetric` of a whole depth, is the step that the layers of a balanced network
        would take: one fixed step of steepest descent is then one step of gradient descent on the
        layers.
    rng : numpy.random.Generator, int or None
        Source of the random points and tangent vectors, or a seed for one.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of the above.

    Notes
    -----
    The matrices of lower rank are the manifold's boundary. Runs may converge to them: see
    `SpectralMetric.flat` for what the metric does there.

    References
    ----------
    G. Menon. The geometry of the deep linear network. 2024.
    N. Boumal. An introduction to optimization on smooth manifolds. 2023.

    Examples
    --------
    >>> import autograd.numpy as anp
    >>> import numpy as np
    >>> import pymanopt
    >>> import riemdln
    >>> manifold = riemdln.FullRank(2, 3, riemdln.DeepLinearMetric(depth=3), rng=0)
    >>> target = np.array([[3.0, 0.0, 1.0], [0.0, 2.0, 1.0]])
    >>> @pymanopt.function.autograd(manifold)
    ... def cost(W):
    ...     return anp.sum((W - target) ** 2) / 2
    >>> problem = pymanopt.Problem(manifold, cost)
    >>> optimizer = pymanopt.optimizers.ConjugateGradient(verbosity=0)
    >>> np.allclose(optimizer.run(problem).point, target, atol=1e-5)
    True
    """

    def __init__(
        self,
        m: int,
        n: int,
        metric: Metric,
        *,
        retraction: str = "linear",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        m, n = integer("m", m), integer("n", n)
        if not isinstance(metric, Metric):
            raise TypeError(f"metric must be a riemdln.Metric, got {metric!r}")
        metric.require_shape(m, n)
        retractions = {"linear": _linear_retraction, **metric.retractions()}
        if not isinstance(retraction, str) or retraction not in retractions:
            raise ValueError(
                f"retraction must be one of {', '.join(map(repr, retractions))} with "
                f"{metric!r}, got {retraction!r}"
                + (": it needs a metric of whole depth" if retraction == "network" else "")
            )
        self._shape = (m, n)
        self._metric = metric
        self._retraction = retractions[retraction]
        self._rng = random_generator("rng", rng)
        super().__init__(f"Manifold of {m}x{n} matrices of full rank with {metric!r}", m * n)

    def __repr__(self) -> str:
        return f"FullRank({self._shape[0]}, {self._shape[1]}, {self._metric!r})"

    @property
    def metric(self) -> Metric:
        """The metric."""
        return self._metric

    @property
    def typical_dist(self) -> float:
        """The scale of the manifold, sqrt(m n): the size of a random point."""
        return float(np.sqrt(self.dim))

    # Numbers are returned as np.float64, not float: at a gradient of exactly zero pymanopt's
    # optimizers divide by them, which NumPy answers with NaN or infinity and Python with an error.
    def inner_product(
        self, point: ArrayLike, tangent_vector_a: ArrayLike, tangent_vector_b: ArrayLike
    ) -> np.float64:
        """The metric's inner product g_W(X, Y)."""
        inner = self._at(
            point,
            self._metric.inner,
            tangent_vector_a=tangent_vector_a,
            tangent_vector_b=tangent_vector_b,
        )
        return np.float64(inner)

    def norm(self, point: ArrayLike, tangent_vector: ArrayLike) -> np.float64:
        """The norm sqrt(g_W(X, X)) of a tangent vector."""
        square = self._at(
            point, self._metric.inner, tangent_vector=tangent_vector, same_vector=tangent_vector
        )
        return np.sqrt(np.maximum(np.float64(square), 0.0))

    def projection(self, point: ArrayLike, vector: Matrix) -> Matrix:
        """The vector itself: every m x n matrix is a tangent vector."""
        return vector

    to_tangent_space = projection

    def random_point(self) -> Matrix:
        """A matrix of independent standard Gaussians, which has full rank with probability one."""
        return self._rng.standard_normal(self._shape)

    def random_tangent_vector(self, point: ArrayLike) -> Matrix:
        """A random tangent vector of norm one: the normalized sharp of a random covector.

        Raises
        ------
        ValueError
            If no tangent vector has a norm, as at the zero matrix.
        """
        covector = self._rng.standard_normal(self._shape)
        vector = self.euclidean_to_riemannian_gradient(point, covector)
        norm = self.norm(point, vector)
        if not norm > 0:
            raise ValueError("point has no tangent vector of norm one: every direction is frozen")
        return vector / norm

    def zero_vector(self, point: ArrayLike) -> Matrix:
        """The zero matrix."""
        return np.zeros(self._shape)

    def euclidean_to_riemannian_gradient(
        self, point: ArrayLike, euclidean_gradient: ArrayLike
    ) -> Matrix:
        """The Riemannian gradient: the metric's sharp of the Euclidean gradient."""
        return self._at(point, self._metric.sharp, euclidean_gradient=euclidean_gradient)

    def retraction(self, point: ArrayLike, tangent_vector: ArrayLike) -> Matrix:
        """Where a step leads, by the retraction that the manifold was made with."""
        return self._at(point, self._retraction, tangent_vector=tangent_vector)

    def transport(self, point_a: ArrayLike, point_b: ArrayLike, tangent_vector_a: Matrix) -> Matrix:
        """The vector itself, as in any chart."""
        return tangent_vector_a

    def _at(self, point: ArrayLike, function: Callable[..., Any], **vectors: ArrayLike) -> Any:
        """A function of the metric at a point, which names bad arguments as pymanopt does."""
        point = point_of_shape("point", point, self._shape)
        checked = [point_of_shape(name, vector, self._shape) for name, vector in vectors.items()]
        try:
            return function(point, *checked)
        except NotFiniteError:
            for name, array in zip(("point", *vectors), (point, *checked), strict=True):
                finite(name, array)
            raise


def _linear_retraction(W: Matrix, X: Matrix) -> Matrix:
    return finite("point", W + X)
