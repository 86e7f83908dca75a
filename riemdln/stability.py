"""How long a step may be: the eigenvalues of Hessians, and the learning rates that they allow."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from itertools import accumulate, compress
from operator import add
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pymanopt import Problem

from riemdln._arrays import (
    chained_layers,
    finite,
    integer,
    point_of_shape,
    positive_number,
    require_unmasked,
    to_numpy,
)
from riemdln._eigenvalues import largest_eigenvalue
from riemdln.flows._problem import require_problem
from riemdln.manifolds._coordinates import entry_coordinates_around
from riemdln.networks import end_to_end

__all__ = ["Spectrum", "max_stable_step", "network_sharpness", "sharpness", "spectrum"]

# A point or a tangent vector, in the form that its manifold has them.
Point = Any
Vector = Any
Array = NDArray[np.floating[Any]]

# How many vectors the search for eigenvalues keeps before it goes on with the best of them.
_KEPT = 60

# A vector has no part of its own beside others if less than this share of it is left.
_LOST = 1e-8

# What is multiplied with this is far from where floating-point numbers underflow.
_SCALE = 2.0**500


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Some eigenvalues of a Riemannian Hessian, with their eigenvectors.

    Attributes
    ----------
    eigenvalues : array (count,)
        The eigenvalues, from the end that was asked for: the largest or the smallest comes first.
    errors : array (count,)
        The norm of H v - lambda v for each pair, with the Hessian H: within this distance of lambda
        there is an eigenvalue.
    eigenvectors : list
        As many tangent vectors, orthonormal in the manifold's inner product.
    """

    eigenvalues: Array
    errors: Array
    eigenvectors: list[Vector] = field(repr=False)


def spectrum(
    problem: Problem,
    point: Point,
    count: int = 1,
    *,
    which: Literal["largest", "smallest"] = "largest",
    tolerance: float = 1e-8,
    max_products: int = 10_000,
) -> Spectrum:
    r"""The largest or the smallest eigenvalues of the Riemannian Hessian at a point.

    Where the gradient is zero, the largest one bounds the learning rate of gradient descent, and
    the smallest one is the rate at which gradient flow ends. No matrix is formed: the Hessian is
    only asked for products with tangent vectors.

    Parameters
    ----------
    problem : pymanopt.Problem
        The problem, on any manifold of this package or of pymanopt, with a Hessian.
    point : any
        A point of the manifold.
    count : int
        How many eigenvalues, at most the dimension of the manifold. An eigenvalue counts as often
        as it has independent eigenvectors.
    which : {"largest", "smallest"}
        From which end; the smallest ones may be negative.
    tolerance : float
        The search ends where all ``Spectrum.errors`` are down to this share of the Hessian's
        largest eigenvalue in absolute value. The eigenvalues themselves are far closer, where they
        stand apart from others.
    max_products : int
        How many products with the Hessian the search may take.

    Returns
    -------
    Spectrum

    Raises
    ------
    RuntimeError
        If the eigenvalues are not found in `max_products` products, or the Hessian of the problem
        is wrong, so that it is not symmetric.
    TypeError, ValueError
        If an argument is not as described, the problem has no Hessian, the Hessian is not finite or
        lost to underflow, or fewer directions than `count` have a length in the metric.

    Notes
    -----
    At a point W where the gradient of E is zero the eigenvalues under a metric of this package are
    those of

    .. math:: A_W^{1/2} \, D^2 E(W) \, A_W^{1/2},

    which are the nonzero eigenvalues of the Hessian of the layers, if W is the end-to-end matrix
    of balanced layers and the metric that of their depth. Elsewhere the Hessian of the layers is
    another one: see `network_sharpness`.

    Directions that the metric freezes, as at lower rank, have no length and do not count. Where
    singular values are small, all eigenvalues have the rounding errors of the largest one.

    The start is random: it is drawn by ``manifold.random_tangent_vector``. The method is that of
    Lanczos with a block of `count` vectors, so that equal eigenvalues are all found, full
    orthogonalization, and restarts from the best vectors (Wu and Simon 2000).

    References
    ----------
    - K. Wu, H. Simon. Thick-restart Lanczos method for large symmetric eigenvalue problems. SIAM J.
      Matrix Anal. Appl. 22, 2000.
    - J. Cohen, S. Kaur, Y. Li, J. Z. Kolter, A. Talwalkar. Gradient descent on neural networks
      typically occurs at the edge of stability. ICLR 2021.

    Examples
    --------
    Of half the squared distance from a target, eigenvalues at the target are theta(s_i, s_j):

    >>> import autograd.numpy as anp
    >>> import numpy as np
    >>> import pymanopt
    >>> import riemdln
    >>> manifold = riemdln.FullRank(2, 2, riemdln.DeepLinearMetric(depth=2), rng=0)
    >>> target = np.diag([3.0, 1.0])
    >>> @pymanopt.function.autograd(manifold)
    ... def cost(W):
    ...     return anp.sum((W - target) ** 2) / 2
    >>> problem = pymanopt.Problem(manifold, cost)
    >>> np.round(riemdln.spectrum(problem, target, 4).eigenvalues, 9)  # s_i + s_j
    array([6., 4., 4., 2.])
    >>> np.round(riemdln.spectrum(problem, target, which="smallest").eigenvalues, 9)
    array([2.])
    """
    require_problem(problem, "a pymanopt.Problem")
    manifold = problem.manifold
    if manifold.point_layout == 1:
        require_unmasked("point", point)
        point = np.asarray(point)
        if point.dtype.kind not in "iufc":
            raise TypeError(f"point must be an array of numbers, got dtype {point.dtype}")
        point = finite("point", point if point.dtype.kind == "c" else point.astype(np.float64))
    count = integer("count", count)
    if count > manifold.dim:
        raise ValueError(f"count must be at most {manifold.dim}, the dimension of {manifold}")

    def hessian(vector: Vector) -> Vector:
        with _needs_a_hessian():
            image = problem.riemannian_hessian(point, vector)
        return manifold.to_tangent_space(point, image)

    space = _TangentSpace(manifold, point)
    return _extreme_eigenvalues(hessian, space, count, which, tolerance, max_products)


def sharpness(problem: Problem, point: Point) -> float:
    """The largest eigenvalue of the Riemannian Hessian at a point.

    Parameters
    ----------
    problem : pymanopt.Problem
        The problem, with a Hessian.
    point : any
        A point of its manifold.

    Returns
    -------
    float

    Raises
    ------
    RuntimeError, TypeError, ValueError
        See `spectrum`.

    Notes
    -----
    At a minimum it is the sharpness of balanced layers, `network_sharpness`. Away from points with
    zero gradient the two differ.

    Examples
    --------
    >>> import autograd.numpy as anp
    >>> import numpy as np
    >>> import pymanopt
    >>> import riemdln
    >>> manifold = riemdln.FullRank(2, 2, riemdln.DeepLinearMetric(depth=4), rng=0)
    >>> target = np.diag([4.0, 1.0])
    >>> @pymanopt.function.autograd(manifold)
    ... def cost(W):
    ...     return anp.sum((W - target) ** 2) / 2
    >>> problem = pymanopt.Problem(manifold, cost)
    >>> round(riemdln.sharpness(problem, target), 9)  # N s_1^{2 - 2/N}
    32.0
    """
    return float(spectrum(problem, point).eigenvalues[0])


def max_stable_step(problem: Problem, point: Point) -> float:
    r"""The learning rate above which gradient descent leaves a minimum.

    .. math:: h < \frac{2}{\lambda}, \qquad \lambda = \mathrm{sharpness}

    Near a minimum a step of gradient descent multiplies the error along an eigenvector of the
    Hessian, of eigenvalue l, by 1 - h l. All errors shrink if h is less than this rate.

    Parameters
    ----------
    problem : pymanopt.Problem
        The problem, with a Hessian.
    point : any
        A minimum of it.

    Returns
    -------
    float

    Raises
    ------
    RuntimeError, TypeError, ValueError
        See `spectrum`. Also if the largest eigenvalue is not positive: then no step is bounded by
        it.

    Notes
    -----
    The rate is that of a `FixedStep` with any retraction, and that of the layers of a
    balanced network. The point must be a minimum, which is not checked: elsewhere the number is
    still 2 / `sharpness`, but no step needs to be stable there.

    What happens above it depends on the depth and the cost: the run may diverge, or go to and fro
    at a distance from the minimum.

    Examples
    --------
    >>> import autograd.numpy as anp
    >>> import numpy as np
    >>> import pymanopt
    >>> import riemdln
    >>> manifold = riemdln.FullRank(2, 2, riemdln.DeepLinearMetric(depth=2), rng=0)
    >>> target = np.diag([4.0, 1.0])
    >>> @pymanopt.function.autograd(manifold)
    ... def cost(W):
    ...     return anp.sum((W - target) ** 2) / 2
    >>> problem = pymanopt.Problem(manifold, cost)
    >>> rate = riemdln.max_stable_step(problem, target)
    >>> round(rate, 9)  # 2 / (2 s_1)
    0.25
    >>> optimizer = pymanopt.optimizers.SteepestDescent(riemdln.FixedStep(0.9 * rate), verbosity=0)
    >>> np.allclose(optimizer.run(problem, initial_point=target + 0.1).point, target, atol=1e-5)
    True
    """
    largest = sharpness(problem, point)
    if not largest > 0:
        raise ValueError(
            "point must be a minimum where the cost curves upwards, but the largest eigenvalue of "
            f"the Hessian there is {largest:.3g}"
        )
    return 2 / largest


def network_sharpness(problem: Problem, layers: Sequence[ArrayLike]) -> float:
    r"""The largest eigenvalue of the Hessian of a cost in all layers of a deep linear network.

    Gradient descent on the layers with the learning rate h is stable up to the sharpness 2 / h. The
    layers may be anywhere, balanced or not.

    Parameters
    ----------
    problem : pymanopt.Problem
        The cost E as a function of the end-to-end matrix, with a Hessian, on a manifold whose
        points are m x n matrices; its metric plays no part.
    layers : sequence of array_like
        The layers [W_1, ..., W_N], of any widths.

    Returns
    -------
    float

    Raises
    ------
    RuntimeError
        If the eigenvalue is not found.
    TypeError, ValueError
        If the layers do not chain, their end-to-end matrix is no point of the manifold, or the
        problem has no Hessian.

    Notes
    -----
    Write B_j = W_{j-1} ... W_1 for the product of the layers below layer j, G_N = grad E(W) and
    G_{j-1} = W_j^T G_j for the gradient pulled down to layer j, so that the gradient in W_j is
    G_j B_j^T. Along motions X_j of the layers it changes by

    .. math::

        \dot G_j B_j^T + G_j \dot B_j^T, \qquad
        \dot B_{j+1} = X_j B_j + W_j \dot B_j, \quad
        \dot G_{j-1} = X_j^T G_j + W_j^T \dot G_j, \quad
        \dot G_N = D^2 E(W)[\dot B_{N+1}].

    At a minimum only the terms with D^2 E remain, and the eigenvalues of balanced layers that are
    not zero are those of the Riemannian Hessian: see `spectrum`.

    References
    ----------
    - J. Cohen, S. Kaur, Y. Li, J. Z. Kolter, A. Talwalkar. Gradient descent on neural networks
      typically occurs at the edge of stability. ICLR 2021.

    Examples
    --------
    Of (w_2 w_1 - 1)^2 / 2 at a minimum, w_1^2 + w_2^2: the balanced one is the least sharp.

    >>> import autograd.numpy as anp
    >>> import numpy as np
    >>> import pymanopt
    >>> import riemdln
    >>> manifold = riemdln.FullRank(1, 1, riemdln.DeepLinearMetric(depth=2))
    >>> @pymanopt.function.autograd(manifold)
    ... def cost(W):
    ...     return anp.sum((W - 1) ** 2) / 2
    >>> problem = pymanopt.Problem(manifold, cost)
    >>> for w in (1.0, 2.0):
    ...     layers = [np.array([[w]]), np.array([[1 / w]])]
    ...     print(round(riemdln.network_sharpness(problem, layers), 9))
    2.0
    4.25
    """
    require_problem(problem, "a pymanopt.Problem")
    if problem.manifold.point_layout != 1:
        raise ValueError(
            f"problem.manifold must have m x n matrices as points, got {problem.manifold}"
        )
    matrices: list[Array] = [
        to_numpy(W).astype(np.float64) for W in chained_layers("layers", layers)
    ]
    entry_coordinates_around(
        problem.manifold, end_to_end(matrices), "the end-to-end matrix of layers"
    )
    size = sum(layer.size for layer in matrices)
    return largest_eigenvalue(_hessian_of_layers(problem, matrices), size)


def _hessian_of_layers(problem: Problem, layers: list[Array]) -> Callable[[Array], Array]:
    """The Hessian in the entries of all layers, as `network_sharpness` writes it."""
    W = end_to_end(layers)
    with _needs_a_hessian():
        gradient = _matrix("the gradient of the cost", problem.euclidean_gradient(W), W)
    # B_1, ..., B_N and G_1, ..., G_N.
    below = list(accumulate(layers[:-1], lambda B, layer: layer @ B, initial=np.eye(W.shape[1])))
    pulled = list(accumulate(layers[:0:-1], lambda G, layer: layer.T @ G, initial=gradient))[::-1]
    ends = np.cumsum([layer.size for layer in layers])[:-1]

    def hessian(entries: Array) -> Array:
        parts = np.split(entries, ends)
        motions = [X.reshape(layer.shape) for X, layer in zip(parts, layers, strict=True)]
        dB = [np.zeros_like(below[0])]
        for X, layer, B in zip(motions, layers, below, strict=True):
            dB.append(X @ B + layer @ dB[-1])
        with _needs_a_hessian():
            curved = problem.euclidean_hessian(W, dB.pop())
        dG = [_matrix("the Hessian of the cost", curved, W)]
        for X, layer, G in zip(motions[:0:-1], layers[:0:-1], pulled[:0:-1], strict=True):
            dG.append(X.T @ G + layer.T @ dG[-1])
        changes = [
            dG_j @ B.T + G @ dB_j.T
            for dG_j, B, G, dB_j in zip(reversed(dG), below, pulled, dB, strict=True)
        ]
        return np.concatenate(changes, axis=None)

    return hessian


class _TangentSpace(NamedTuple):
    """The tangent space at a point, whose vectors are added and multiplied with numbers."""

    manifold: Any
    point: Point

    def draw(self) -> Vector:
        """A random vector."""
        # The factors of a product draw from generators that may have one seed.
        count = len(getattr(self.manifold, "manifolds", [self.manifold]))
        vectors = [self.manifold.random_tangent_vector(self.point) for _ in range(count)]
        for j in range(1, count):
            vectors[0][j] = vectors[j][j]
        return vectors[0]

    def inner(self, a: Vector, b: Vector) -> float:
        """The inner product of two vectors."""
        return float(self.manifold.inner_product(self.point, a, b))

    def norm(self, vector: Vector) -> float:
        """The norm of a vector, also where its square is out of range."""
        with np.errstate(over="ignore", invalid="ignore"):
            square, scale = self.inner(vector, vector), 1.0
            if not sys.float_info.min < square < math.inf:
                scale = _SCALE if square < 1 else 1 / _SCALE
                square = self.inner(scale * vector, scale * vector)
        return math.sqrt(max(square, 0.0)) / scale

    def beside(self, basis: list[Vector], vector: Vector) -> Vector | None:
        """The direction of a vector orthogonal to orthonormal ones, if it has one of its own."""
        least = _LOST * self.norm(vector)
        for _ in range(3):  # each time the error falls to rounding of what was taken away
            before = self.norm(vector)
            parts = [-self.inner(a, vector) for a in basis]
            vector = _combination([1.0, *parts], [vector, *basis])
            vector = self.manifold.to_tangent_space(self.point, vector)
            after = self.norm(vector)
            if not after > least:
                return None
            if after > before / 2:
                break
        return vector / after


class _Subspace:
    """Orthonormal vectors, what a symmetric map makes of them, and its matrix among them."""

    def __init__(self, space: _TangentSpace, apply: Callable[[Vector], Vector]) -> None:
        self._space, self._apply = space, apply
        self._vectors: list[Vector] = []
        self._images: list[Vector] = []
        self._matrix = np.empty((0, 0))

    def __len__(self) -> int:
        return len(self._vectors)

    def grow(self, vectors: list[Vector]) -> int:
        """Take in what the vectors have beside those that are there; how many these are."""
        before = len(self)
        for vector in vectors:
            direction = self._space.beside(self._vectors, vector)
            if direction is not None and len(self) < self._space.manifold.dim:
                self._vectors.append(direction)
                self._images.append(self._image(direction))
                self._matrix = np.pad(self._matrix, (0, 1))
                products = [self._space.inner(self._images[-1], b) for b in self._vectors]
                self._matrix[-1] = self._matrix[:, -1] = products
        if not np.isfinite(self._matrix).all():
            raise ValueError("the Hessian must be finite at point, but it has NaN or infinity")
        return len(self) - before

    def _image(self, direction: Vector) -> Vector:
        """What the map makes of a vector, if it is not lost to underflow."""
        image, norm = self._apply(direction), self._space.norm
        if norm(image) < 1e-200:
            scale = _SCALE
            with np.errstate(over="ignore", invalid="ignore"):
                scaled = self._apply(scale * direction)
                while scale > 2 and not norm(scaled) < math.inf:  # so much overflows on the way
                    scale = math.sqrt(scale)
                    scaled = self._apply(scale * direction)
                lost = norm(_combination([1.0, -scale], [scaled, image]))
            if not lost <= _LOST * norm(scaled) < math.inf:
                raise ValueError(
                    "the Hessian at point must be in the range of floating-point numbers, but it "
                    "is lost to underflow: scale the problem"
                )
        return image

    def eigenvalues(self, sign: float) -> tuple[Array, Array]:
        """Those of the matrix, from the largest or (sign -1) the smallest on, and eigenvectors."""
        values, columns = np.linalg.eigh(sign * self._matrix)
        return sign * values[::-1], columns.T[::-1]

    def combined(self, rows: Array) -> tuple[list[Vector], list[Vector]]:
        """Combinations of the vectors, and what the map makes of them."""
        return [_combination(row, self._vectors) for row in rows], [
            _combination(row, self._images) for row in rows
        ]

    def shrink(self, values: Array, rows: Array) -> None:
        """Keep some of the eigenvectors alone."""
        self._vectors, self._images = self.combined(rows)
        self._matrix = np.diag(values)


def _extreme_eigenvalues(
    apply: Callable[[Vector], Vector],
    space: _TangentSpace,
    count: int,
    which: str,
    tolerance: float,
    max_products: int,
) -> Spectrum:
    """The eigenvalues at one end of a symmetric map, by restarted block Lanczos.

    The solvers of SciPy know only the inner product of entries. Here vectors are whatever a
    manifold has as tangent vectors, and the inner product is its metric.
    """
    if which not in ("largest", "smallest"):
        raise ValueError(f"which must be 'largest' or 'smallest', got {which!r}")
    tolerance = positive_number("tolerance", tolerance)
    max_products = integer("max_products", max_products)
    sign = 1.0 if which == "largest" else -1.0
    size = max(_KEPT, 4 * count)
    subspace = _Subspace(space, apply)
    products = added = subspace.grow([space.draw() for _ in range(count)])
    if added < count:
        raise ValueError(
            f"count must be at most {added}, got {count}: at point no more directions have a "
            "length in the metric"
        )
    while True:
        values, rows = subspace.eigenvalues(sign)
        vectors, images = subspace.combined(rows[:count])
        # Of Lanczos' method these residuals span the next block.
        residuals = [
            _combination([1.0, -value], pair)
            for value, *pair in zip(values[:count], images, vectors, strict=True)
        ]
        errors = np.array([space.norm(residual) for residual in residuals])
        is_open = errors > tolerance * np.abs(values).max()
        if not is_open.any():
            return Spectrum(values[:count], errors, vectors)
        if products >= max_products or not added:
            raise RuntimeError(
                f"the {which} eigenvalues were not found in {products} products with the Hessian: "
                f"they are {values[:count]} up to errors of {errors}. A larger tolerance may help; "
                "riemdln.checks.check_hessian says whether the Hessian is right and symmetric"
            )
        if len(subspace) + count > size:
            subspace.shrink(values[: size // 2], rows[: size // 2])
        added = subspace.grow(list(compress(residuals, is_open)))
        products += added


def _combination(coefficients: Iterable[float], vectors: Sequence[Vector]) -> Vector:
    """The sum of multiples of vectors."""
    terms = (float(c) * vector for c, vector in zip(coefficients, vectors, strict=True))
    return reduce(add, terms)


def _matrix(name: str, value: Any, W: Array) -> Array:
    return finite(name, point_of_shape(name, value, W.shape))


@contextmanager
def _needs_a_hessian() -> Iterator[None]:
    """Say what is missing where pymanopt has no derivative."""
    try:
        yield
    except NotImplementedError as error:
        raise ValueError(
            "problem must have a Hessian: give pymanopt.Problem a euclidean_gradient and a "
            "euclidean_hessian, or a cost of a backend that differentiates it, on a manifold that "
            f"has Hessians ({error})"
        ) from error
