"""Langevin's equation of the balanced layers of a deep linear network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray
from pymanopt import Problem
from pymanopt.manifolds.manifold import Manifold

from riemdln._arrays import (
    Rng,
    finite,
    finite_array,
    increasing_times,
    point_of_shape,
    positive_number,
    random_generator,
)
from riemdln.flows._problem import Asked, asked_of
from riemdln.flows._recorder import Row, record
from riemdln.flows._results import NetworkLangevinFlow
from riemdln.flows._stepped import Stepped
from riemdln.manifolds._coordinates import entry_coordinates_around
from riemdln.networks import end_to_end

__all__ = ["network_langevin_flow"]

Vector = NDArray[np.floating[Any]]

# Layers are balanced if their imbalance is not above this, in proportion to their squared norm.
_BALANCED = 1e-10


def network_langevin_flow(
    problem: Problem | Manifold,
    layers: Sequence[ArrayLike],
    times: ArrayLike,
    *,
    beta: float,
    step_size: float,
    vectorized: bool = False,
    rng: Rng = None,
    progress: bool = False,
) -> NetworkLangevinFlow:
    r"""Train the layers of a deep linear network with noise that keeps them balanced.

    .. math::

        dW_j = -(W_N \cdots W_{j+1})^T \, \nabla E(W) \, (W_{j-1} \cdots W_1)^T \, dt
               + \sqrt{2 / \beta} \, dB_j

    where (B_1, ..., B_N) is Brownian motion of the balanced layers, the submanifold

    .. math:: \{ W_{j+1}^T W_{j+1} = W_j W_j^T, \ j = 1, \dots, N - 1 \}

    of the flat space of all layers: noise on each weight, projected to the tangent space, and the
    drift of its mean curvature. Their end-to-end matrix moves by `langevin_flow` with the
    entropy under ``DeepLinearMetric(N)`` (Menon 2024). This function knows neither metric nor
    entropy: it is the definition to hold the other against.

    Parameters
    ----------
    problem : pymanopt.Problem or manifold
        The cost E as a function of the end-to-end matrix; the manifold's metric plays no part. The
        manifold itself stands for the cost E = 0.
    layers : sequence of array_like
        The balanced layers [W_1, ..., W_N] at the start, such as those of `balanced_layers`. Each
        may be a stack (K, d_j, d_{j-1}) of those of K independent copies. All hidden layers have
        the same width, the rank of the end-to-end matrix.
    times : array_like (T,)
        Strictly increasing times; it starts at the first and is returned at all.
    beta : float
        The inverse temperature, positive: the noise of a weight has the variance 2 / beta for a
        unit of time.
    step_size : float
        The longest step. The time between two of `times` is divided into equal ones.
    vectorized : bool, optional
        Whether the cost and its gradient take the whole stack at once: see `gradient_flow`.
    rng : numpy.random.Generator, int or None
        The source of randomness, or a seed for one.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    NetworkLangevinFlow

    Raises
    ------
    FlowError
        If a step leaves the range of floating-point numbers, or the cost or its gradient is not
        finite.
    TypeError, ValueError
        If the layers do not chain, are not balanced, or have hidden layers of several widths or
        singular ones; or another argument is not as described.

    See Also
    --------
    langevin_flow : the equation of the end-to-end matrix.
    network_flow : the flow of layers without noise.

    Notes
    -----
    A step of size h is that of Euler's scheme, with noise that is projected to the tangent
    space. From there one step of Newton's method along the normal space at the old layers,

    .. math:: W_j \mapsto W_j + W_j M_{j-1} - M_j W_j, \qquad M_j = M_j^T, \ M_0 = M_N = 0,

    takes back what is of the order of h in the imbalance, and with it gives the curvature's drift
    (Ciccotti, Lelievre and Vanden-Eijnden 2008); balanced layers near these, found by
    orthogonal factors of one layer after the other, take back the rest, of the order of h^{3/2}.
    It has weak order one. In bases of the hidden spaces in which W_j W_j^T is diagonal, of entries
    c_a^2, the normal equations are tridiagonal in j,

    .. math::

        2 (c_a^2 + c_b^2) (M_j)_{ab} - 2 c_a c_b (M_{j-1} + M_{j+1})_{ab} = R_j,

    with the change R_j of W_{j+1}^T W_{j+1} - W_j W_j^T that is asked for, and a sine transform
    solves them at every depth.

    Where a square W is singular, balanced layers cross themselves. Those of one weight each are the
    lines (+-x, ..., +-x), and Brownian motion goes on along its line: at determinant zero
    the smallest singular values of all layers change sign together. So the determinant changes sign
    at odd depths and not at even ones. Steps to layers whose signs do not agree, which are
    within h of a singular matrix, are held to this at even depths. Other matrices never come there.

    Whatever ends it early carries what was computed until then: see `gradient_flow`.

    References
    ----------
    - G. Menon. The geometry of the deep linear network. 2024.
    - G. Ciccotti, T. Lelievre, E. Vanden-Eijnden. Projection of diffusions on submanifolds:
      application to mean force computation. Comm. Pure Appl. Math. 2008.

    Examples
    --------
    >>> import numpy as np
    >>> import riemdln
    >>> manifold = riemdln.FullRank(2, 3, riemdln.DeepLinearMetric(depth=2))
    >>> layers = riemdln.balanced_layers(np.eye(2, 3), depth=2)
    >>> start = [np.tile(W, (500, 1, 1)) for W in layers]
    >>> flow = riemdln.network_langevin_flow(
    ...     manifold, start, [0.0, 1.0], beta=2.0, step_size=0.05, rng=0
    ... )
    >>> [W.shape for W in flow.layers[-1]]
    [(500, 2, 3), (500, 2, 2)]
    >>> squares = sum(np.sum(W**2, axis=(-2, -1)) for W in flow.layers[-1])
    >>> round(float(squares.mean()))  # from 4, growing by the dimension 7 of the balanced layers
    11
    """
    rng = random_generator("rng", rng)
    beta = positive_number("beta", beta)
    step_size = positive_number("step_size", step_size)
    times = increasing_times("times", times)
    start, is_stack = _start(layers)
    asked, manifold = asked_of(problem, vectorized=vectorized)
    points = start.end_to_end()
    entry_coordinates_around(manifold, points[0], "the end-to-end matrix of layers")
    if asked is not None:
        asked.require_stack(points.shape[:1] if is_stack else (), "networks as layers")
    stepper = _Layers(asked, beta, start, rng)
    return record(NetworkLangevinFlow, Stepped(stepper, times, step_size, is_stack, progress))


class _Balanced(NamedTuple):
    """Balanced layers W_j = Q_j diag(c) Q_{j-1}^T of K copies.

    Attributes
    ----------
    bases : list of array
        Q_0, ..., Q_N with r orthonormal columns, (K, d_j, r). Those of hidden spaces are square.
    sizes : array (K, r)
        The singular values c of each layer, the N-th roots of those of the end-to-end matrix.
    """

    bases: list[Vector]
    sizes: Vector

    def layers(self) -> list[Vector]:
        """The layers themselves."""
        return [self._joined(Q, self.sizes, P) for P, Q in pairwise(self.bases)]

    def end_to_end(self) -> Vector:
        """The product of the layers."""
        depth = len(self.bases) - 1
        return self._joined(self.bases[-1], self.sizes**depth, self.bases[0])

    def tangent(self, vectors: list[Vector]) -> list[Vector]:
        """Vectors of the layers' space, projected to the tangent space of balanced layers."""
        c = self.sizes
        cores = [Q.mT @ X @ P for X, (P, Q) in zip(vectors, pairwise(self.bases), strict=True)]
        # The derivative of each imbalance along the vectors, in the bases of hidden spaces.
        halves = [c[:, :, None] * above - below * c[:, None] for below, above in pairwise(cores)]
        normals = self.normal(self.multipliers([half + half.mT for half in halves]))
        return [X - Y for X, Y in zip(vectors, normals, strict=True)]

    def imbalances(self, layers: list[Vector]) -> list[Vector]:
        """The imbalances of other layers, in the bases of hidden spaces."""
        turned = zip(pairwise(layers), self.bases[1:-1], strict=True)
        return [Q.mT @ (above.mT @ above - below @ below.mT) @ Q for (below, above), Q in turned]

    def multipliers(self, changes: list[Vector]) -> Vector:
        """The M_0, ..., M_N of the normal vector that changes the imbalances by these.

        It does to the first order. They are an array (N + 1, K, r, r), in the bases of hidden
        spaces; the first and the last are zero.
        """
        (copies, r), depth = self.sizes.shape, len(self.bases) - 1
        M = np.zeros((depth + 1, copies, r, r))
        if changes:
            a, b = self.sizes[:, :, None], self.sizes[:, None]
            cosines = np.cos(np.pi / depth * np.arange(1, depth)).reshape(-1, 1, 1, 1)
            waves = scipy.fft.dst(np.array(changes), type=1, axis=0, norm="ortho")
            waves /= 2 * (a**2 + b**2) - 4 * a * b * cosines
            M[1:-1] = scipy.fft.dst(waves, type=1, axis=0, norm="ortho")
        return M

    def normal(self, M: Vector) -> list[Vector]:
        """The normal vector W_j M_{j-1} - M_j W_j."""
        a, b = self.sizes[:, :, None], self.sizes[:, None]
        return [
            Q @ (a * below - above * b) @ P.mT
            for (below, above), (P, Q) in zip(pairwise(M), pairwise(self.bases), strict=True)
        ]

    @staticmethod
    def _joined(Q: Vector, c: Vector, P: Vector) -> Vector:
        return Q * c[:, None] @ P.mT


class _Layers:
    """Balanced layers of K copies that move by Langevin's equation.

    Parameters
    ----------
    asked : Asked or None
        The cost E and its gradient; None for E = 0.
    beta : float
        The inverse temperature.
    start : _Balanced
        Where they start.
    rng : numpy.random.Generator
        The source of randomness.
    """

    def __init__(
        self, asked: Asked | None, beta: float, start: _Balanced, rng: np.random.Generator
    ) -> None:
        self._asked, self._beta, self._rng = asked, beta, rng
        self._now, self._points = start, start.end_to_end()
        self.copies = len(start.sizes)
        is_square = {Q.shape[-2] for Q in start.bases} == {start.sizes.shape[-1]}
        depth = len(start.bases) - 1
        self._signs = _signs(start) if is_square and depth % 2 == 0 else None

    @property
    def nfev(self) -> int:
        """How many gradients were evaluated."""
        return 0 if self._asked is None else self._asked.nfev

    def step(self, size: float) -> None:
        """Take one step of time."""
        here, layers = self._now, self._now.layers()
        noise = here.tangent([self._rng.standard_normal(W.shape) for W in layers])
        scale, gradients = (2 / self._beta * size) ** 0.5, self._gradients(layers)
        moves = [scale * Z - size * G for Z, G in zip(noise, gradients, strict=True)]
        moved = [W + X for W, X in zip(layers, moves, strict=True)]
        M = here.multipliers([-D for D in here.imbalances(moved)])
        # The root of c^2 + x is c + x / 2 c for small x alone: beside singular values that
        # are less than a step the first order goes too far.
        M *= 2 / (1 + np.sqrt(1 + 4 * np.abs(M)))
        near = [W + Y for W, Y in zip(moved, here.normal(M), strict=True)]
        state = self._of_old_signs(_balanced_near([finite("a layer", W) for W in near]))
        points = finite("the end-to-end matrix", state.end_to_end())
        self._now, self._points = state, points

    def costs(self) -> Vector:
        """The costs of the copies."""
        if self._asked is None:
            return np.zeros(self.copies)
        return self._asked.costs(self._points, (self.copies,))

    def observe(self) -> Row:
        """What the result keeps of the layers."""
        layers = self._now.layers()
        defects = [np.zeros(self.copies), *(_norms([D]) for D in self._now.imbalances(layers))]
        return {
            "points": self._points,
            "costs": self.costs(),
            "gradient_norms": _norms(self._gradients(layers)),
            "singular_values": -np.sort(-(self._now.sizes ** len(layers)), axis=-1),
            "layers": layers,
            "imbalances": np.max(defects, axis=0),
        }

    def account(self, steps: int) -> Row:
        """Nothing is said of the steps."""
        return {}

    def _gradients(self, layers: list[Vector]) -> list[Vector]:
        """The gradients of the cost in the layers."""
        if self._asked is None:
            return [np.zeros((self.copies, 1, 1))] * len(layers)
        given = self._asked.euclidean_gradient(self._points, (self.copies,))
        G = point_of_shape("the gradient of the cost", given, self._points.shape)
        above = list(accumulate(layers[:0:-1], lambda product, W: W.mT @ product, initial=G))[::-1]
        below = accumulate(layers[:-1], lambda product, W: W @ product)
        return [above[0], *(A @ B.mT for A, B in zip(above[1:], below, strict=True))]

    def _of_old_signs(self, state: _Balanced) -> _Balanced:
        """The layers, the least singular value of the last with its other sign where need be."""
        if self._signs is not None:
            crossed = np.flatnonzero(_signs(state) != self._signs)
            last = state.bases[-1]
            last[crossed, :, state.sizes[crossed].argmin(axis=-1)] *= -1
        return state


def _start(layers: Sequence[ArrayLike]) -> tuple[_Balanced, bool]:
    """The layers of the start, and whether they were given as stacks."""
    if isinstance(layers, str) or not isinstance(layers, (Sequence, np.ndarray)):
        raise TypeError(f"layers must be a list of matrices, got {type(layers).__name__}")
    stacks = [np.asarray(finite_array(f"layers[{j}]", W), float) for j, W in enumerate(layers)]
    copies = {W.shape[:-2] for W in stacks}
    if any(W.ndim not in (2, 3) or 0 in W.shape for W in stacks) or len(copies) > 1:
        raise ValueError(
            "layers must all be matrices, or all stacks (K, d_j, d_{j-1}) of as many, got shapes "
            f"{', '.join(str(W.shape) for W in stacks)}"
        )
    stacks = [W.reshape(-1, *W.shape[-2:]) for W in stacks]
    m, n = end_to_end([W[0] for W in stacks]).shape
    widths = [W.shape[-2] for W in stacks[:-1]]
    if len({*widths}) > 1 or max(widths, default=1) > min(m, n):
        raise ValueError(
            "layers must have hidden layers of one width, which is at most the number of rows "
            f"and of columns of their {m} x {n} product, got the widths {widths}"
        )
    state = _balanced_near(stacks)
    squares = np.sum(state.sizes**2, axis=-1)
    if not squares.all():
        raise ValueError("layers must be of full rank, but one of them is zero")
    for defects in state.imbalances(stacks):
        shares = _norms([defects]) / squares
        if not (shares <= _BALANCED).all():
            raise ValueError(
                "layers must be balanced, such as those of balanced_layers, but their imbalance is "
                f"{np.max(shares):.1e} of the square of their norms"
            )
    if not (state.sizes.min(axis=-1) > _BALANCED * squares**0.5).all():
        raise ValueError("layers must be of full rank, but one of them is singular")
    return state, () not in copies


def _balanced_near(layers: list[Vector]) -> _Balanced:
    """Balanced layers near others that are almost so."""
    U, sizes, Vt = np.linalg.svd(layers[0], full_matrices=False)
    bases = [Vt.mT, U]
    for W in layers[1:]:
        # The Q with orthonormal columns for which Q diag(sizes) is the nearest to W times the last.
        U, _, Vt = np.linalg.svd(W @ bases[-1] * sizes[:, None], full_matrices=False)
        bases.append(U @ Vt)
    own = [np.sum(Q * (W @ P), axis=-2) for W, (P, Q) in zip(layers, pairwise(bases), strict=True)]
    return _Balanced(bases, np.mean(own, axis=0))


def _signs(state: _Balanced) -> Vector:
    """The signs of the determinants of square end-to-end matrices."""
    return np.linalg.slogdet(state.bases[-1])[0] * np.linalg.slogdet(state.bases[0])[0]


def _norms(vectors: list[Vector]) -> Vector:
    """The norms of vectors of the space of all layers, one for each copy."""
    return sum(np.sum(X**2, axis=(-2, -1)) for X in vectors) ** 0.5
