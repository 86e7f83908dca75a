"""The gradient flow of the layers of a deep linear network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, reduce
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray
from pymanopt import Problem
from scipy.integrate import OdeSolver

from riemdln._arrays import chained_layers, positive_number
from riemdln._frame import Frame, whole_frame
from riemdln._memory import Memory
from riemdln.flows._problem import Asked
from riemdln.flows._recorder import Row, record
from riemdln.flows._results import NetworkFlow
from riemdln.flows._trajectory import Ends, Trajectory
from riemdln.manifolds._coordinates import entry_coordinates_around
from riemdln.manifolds._multiplicative import factored_frame
from riemdln.networks import end_to_end, imbalance, imbalances, layer_gradients

__all__ = ["network_flow"]

Vector = NDArray[np.floating[Any]]

# Bases are renewed when the weights of a neuron have grown or shrunk by this, or hardly differ from
# those of others.
_WORN = 30.0

# Neurons with smaller weights than this have none.
_TINY = 1e-150

# A neuron that has drifted by more than this is lost.
_LOST = 0.01

# How many times the tolerance of the integrator errors may grow to along a flow.
_MARGIN = 100.0


def network_flow(
    problem: Problem,
    layers: Sequence[ArrayLike],
    times: ArrayLike,
    *,
    method: str | type[OdeSolver] = "DOP853",
    rtol: float = 1e-8,
    atol: float = 1e-10,
    gradient_tolerance: float | None = None,
    cost_tolerance: float | None = None,
    stop: Callable[[float, Any, float, float], Any] | None = None,
    progress: bool = False,
    **options: Any,
) -> NetworkFlow:
    r"""The gradient flow of the layers of a deep linear network.

    .. math::

        \dot W_j = -(W_N \cdots W_{j+1})^T \, \nabla E(W) \, (W_{j-1} \cdots W_1)^T,
        \qquad W = W_N \cdots W_1

    From balanced layers W follows `gradient_flow` under ``DeepLinearMetric(N)`` exactly (Arora,
    Cohen and Hazan 2018, Theorem 1). Small singular values of W keep relative accuracy for a while
    where the layers are balanced, and none where they are not; layers amplify errors of
    balance while a singular value falls. ``NetworkFlow.singular_value_errors`` says what each of
    them is worth, and the message says below which size they are noise; with them the sign of a
    determinant is.

    Parameters
    ----------
    problem : pymanopt.Problem
        The cost E as a function of the end-to-end matrix; its manifold's metric plays no part. The
        manifold has m x n arrays as points, or a method ``from_layers(layers)`` that gives the
        point of a network. On `FixedRank`, which has one, the Euclidean gradient has to be given as
        an m x n matrix, dense or not.
    layers : sequence of array_like
        The layers [W_1, ..., W_N] at the start, balanced or not.
    times, method, cost_tolerance, stop, progress, **options
        As for `gradient_flow`.
    rtol, atol : float
        Relative and absolute tolerances of the integrator. The absolute one of a weight is
        in proportion to the weights of the two neurons that it joins.
    gradient_tolerance : float, optional
        End where the norm of the gradient in all layers together has come down to this.

    Returns
    -------
    NetworkFlow

    Raises
    ------
    FlowError
        If the integrator fails, or the cost or its gradient is not finite where the flow is.
    TypeError, ValueError
        If the layers do not chain, or their end-to-end matrix is no point of the manifold; of the
        other arguments as `gradient_flow` does.

    Notes
    -----
    Whatever ends a flow early carries what was computed until then: see `gradient_flow`.

    Examples
    --------
    >>> import autograd.numpy as anp
    >>> import numpy as np
    >>> import pymanopt
    >>> import riemdln
    >>> manifold = pymanopt.manifolds.Euclidean(1, 1)
    >>> @pymanopt.function.autograd(manifold)
    ... def cost(W):
    ...     return -anp.sum(W)
    >>> problem = pymanopt.Problem(manifold, cost)
    >>> layers = riemdln.balanced_layers([[1.0]], depth=2)
    >>> flow = riemdln.network_flow(problem, layers, [0.0, 0.5])  # dw/dt = 2 w
    >>> np.allclose(flow.points[-1], np.e)
    True
    """
    asked = Asked(problem)
    start = [layer.astype(np.float64) for layer in chained_layers("layers", layers)]
    point_of = getattr(problem.manifold, "from_layers", end_to_end)
    entry_coordinates_around(problem.manifold, point_of(start), "the end-to-end matrix of layers")
    tolerance = _MARGIN * (positive_number("rtol", rtol) + positive_number("atol", atol))
    turned, bases = _in_bases_of_sizes(start)
    trajectory = Trajectory(
        _Layers(
            asked,
            point_of,
            tolerance,
            turned,
            bases,
            imbalances(turned),
            *_roundings(start, bases, turned),
        ),
        times,
        ends=Ends(gradient_tolerance, cost_tolerance, stop),
        progress=progress,
        method=method,
        rtol=rtol,
        atol=atol,
        **options,
    )
    flow = record(NetworkFlow, trajectory)
    errors = flow.singular_value_errors
    lost = (flow.singular_values <= errors) & (errors > 0)
    if lost.any():
        since = flow.times[lost.any(axis=1)][0]
        is_square = start[0].shape[1] == start[-1].shape[0]
        flow = replace(
            flow,
            message=f"{flow.message}; from time {since:g} on singular values below "
            f"{errors[lost].max():.1e} are noise"
            + (", and so is the sign of a determinant" if is_square else ""),
        )
    return flow


class _Layers:
    """The layers of a network, in bases of its hidden spaces that keep small weights apart.

    Hidden bases may be turned without changing what the network computes or how it moves: with
    W_j = Q_j L_j Q_{j-1}^T, Q_j orthogonal and Q_0 = Q_N = I, the L_j have the same end-to-end
    matrix and flow as the W_j do. In the bases of the singular vectors of [W_{j+1}; W_j^T] a neuron
    of balanced layers has weights of one size c_i = s_i^{1/N}, and errors in proportion to it are
    errors in proportion to each singular value.

    Parameters
    ----------
    asked : Asked
        The problem.
    point_of : callable
        From layers to the point of the problem's manifold.
    tolerance : float
        How far the integrator lets weights err, in proportion to their scales.
    layers : list of array
        The layers L_j.
    turns : list of array
        The hidden bases Q_1, ..., Q_{N-1}.
    conserved, doubts : list of array
        The imbalances at the start of the flow, which it conserves, in these bases, and how far
        rounding errors leave them in doubt.
    drifts : list of array
        How far those of each hidden neuron have drifted at most, in proportion to its weights.
    """

    stack: tuple[int, ...] = ()

    def __init__(
        self,
        asked: Asked,
        point_of: Any,
        tolerance: float,
        layers: list[Vector],
        turns: list[Vector],
        conserved: list[Vector],
        doubts: list[Vector],
        drifts: list[Vector],
    ) -> None:
        self._asked, self._point_of, self._tolerance = asked, point_of, tolerance
        self._turns, self._conserved, self._doubts = turns, conserved, doubts
        self._drifts = drifts
        self._shapes = [layer.shape for layer in layers]
        self._ends = np.cumsum([layer.size for layer in layers])[:-1]
        self.state = _flat(layers)
        self._sizes = _sizes(layers)
        self.scale = _flat(_scales(layers))
        self._seen = Memory(size=1)

    @property
    def nfev(self) -> int:
        return self._asked.nfev

    def velocity(self, state: Vector) -> Vector:
        return -_flat(self._see(state).gradients)

    def costs(self, state: Vector) -> float:
        return self._asked.costs(self._see(state).point, ())

    def norms(self, state: Vector) -> float:
        return float(np.linalg.norm(_flat(self._see(state).gradients)))

    def points(self, state: Vector) -> list[Any]:
        return [self._see(state).point]

    def observe(self, state: Vector, *, norms: bool = True) -> Row:
        layers = self._layers(state)
        before, after = [np.eye(layers[0].shape[1]), *self._turns], [*self._turns, None]
        given = [
            (W if Q is None else Q @ W) @ P.T for P, W, Q in zip(before, layers, after, strict=True)
        ]
        return {
            "points": self._see(state).point,
            "costs": self.costs(state),
            "gradient_norms": self.norms(state) if norms else np.nan,
            "layers": given,
            "imbalances": imbalance(layers),
            **self._singular_values(layers),
        }

    def renewed(self, state: Vector) -> _Layers | None:
        layers = self._layers(state)
        self._drifts = self._watched(layers)
        for stacked, sizes in zip(_stacked(layers), self._sizes, strict=True):
            scaled = stacked / np.maximum(sizes, _TINY)
            gram = scaled.T @ scaled
            gram[np.diag_indices_from(gram)] += sizes < _TINY
            stretches = np.linalg.eigvalsh(gram)
            if stretches[0] < _WORN**-2 or stretches[-1] > _WORN**2:
                return self._turned(layers)
        return None

    def _turned(self, layers: list[Vector]) -> _Layers:
        turned, bases = _in_bases_of_sizes(layers)
        # What a new neuron errs by is a sum of what the old ones err by.
        drifts = [
            np.minimum(np.abs(Q).T @ (drift * old) / np.maximum(new, _TINY), 1.0)
            for drift, Q, old, new in zip(
                self._drifts, bases, _sizes(layers), _sizes(turned), strict=True
            )
        ]
        return self._with(
            turned,
            [old @ Q for old, Q in zip(self._turns, bases, strict=True)],
            [Q.T @ D @ Q for D, Q in zip(self._conserved, bases, strict=True)],
            [np.abs(Q).T @ R @ np.abs(Q) for R, Q in zip(self._doubts, bases, strict=True)],
            drifts,
        )

    def _watched(self, layers: list[Vector]) -> list[Vector]:
        """How far each neuron has drifted at most from what its flow conserves.

        Where a singular value falls, an error of balance grows beside it: two neurons' weights
        a = -b that fall as e^-t have a sum that grows as e^t. So this tells what a singular value
        is worth, from then on. What two neurons have drifted is put down to the smaller one.
        """
        drifts = []
        for drift, now, then, doubt, size in zip(
            self._drifts,
            imbalances(layers),
            self._conserved,
            self._doubts,
            _sizes(layers),
            strict=True,
        ):
            sizes = np.maximum(size, _TINY)
            shares = (np.abs(now - then) + doubt) / sizes / sizes[:, None]
            shares[sizes[:, None] < sizes] = 0.0
            largest = np.where(size < _TINY, 1.0, shares.max(axis=0))
            # Between two steps it may have been many times as large.
            drifts.append(np.maximum(drift, np.where(largest > _LOST, 1.0, largest)))
        return drifts

    def halted(self, copies: Any, state: Vector) -> _Layers:
        raise TypeError("a network is one flow, of which no copies can stand still")

    def _with(self, *parts: list[Any]) -> _Layers:
        return _Layers(self._asked, self._point_of, self._tolerance, *parts)

    def _singular_values(self, layers: list[Vector]) -> Row:
        """The singular values of the end-to-end matrix, and what errors of weights do to them.

        To first order an error dL_j moves s_i by u_i^T L_N ... L_{j+1} dL_j L_{j-1} ... L_1 v_i.
        Where the neurons' weights are well conditioned but for their sizes, it moves none by more
        than the condition in proportion.
        """
        frame, condition = _end_to_end_frame(layers, self._sizes)
        above, below = [frame.U.T], [frame.Vt.T]
        for layer in layers[:0:-1]:
            above.append(above[-1] @ layer)
        for layer in layers[:-1]:
            below.append(layer @ below[-1])
        m, n = len(layers[-1]), layers[0].shape[1]
        drifts = [np.zeros(n), *self._watched(layers), np.zeros(m)]
        errors = np.zeros(frame.s.shape)
        for u, scale, v, (into, out) in zip(
            reversed(above), _scales(layers), below, pairwise(drifts), strict=True
        ):
            share = self._tolerance + np.maximum(out[:, None], into)
            errors += np.sum(np.abs(u).T * ((share * scale) @ np.abs(v)), axis=0)
        if np.isinf(condition):
            errors += max(m, n) * np.finfo(float).eps * frame.s.max(initial=0.0)
        else:
            # Where there are as many neurons as singular values, in their order, each has its own.
            own = sum(
                drift[np.argsort(-size)] if len(drift) == len(frame.s) else drift.max()
                for drift, size in zip(drifts[1:-1], _sizes(layers), strict=True)
            )
            share = condition * self._tolerance + own
            errors = np.minimum(errors, len(layers) * share * frame.s)
        return {"singular_values": frame.s, "singular_value_errors": errors}

    def _layers(self, state: Vector) -> list[Vector]:
        parts = np.split(state, self._ends)
        return [part.reshape(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def _see(self, state: Vector) -> _Seen:
        """What there is at a state; of the last one it is remembered."""
        seen: _Seen | None = self._seen.find(state)
        if seen is None:
            seen = _Seen(self._asked, self._point_of, self._layers(state))
            self._seen.put(state, seen)
        return seen


class _Seen:
    """What a problem says of layers, of which each is asked for once."""

    def __init__(self, asked: Asked, point_of: Any, layers: list[Vector]) -> None:
        self._asked, self._point_of, self._layers = asked, point_of, layers

    @cached_property
    def point(self) -> Any:
        """The point of the problem's manifold."""
        return self._point_of(self._layers)

    @cached_property
    def gradients(self) -> list[Vector]:
        """The gradient in each of the layers."""
        return layer_gradients(self._layers, self._asked.euclidean_gradient(self.point))


def _flat(layers: Sequence[Vector]) -> Vector:
    return np.concatenate([layer.ravel() for layer in layers])


def _stacked(layers: Sequence[Vector]) -> list[Vector]:
    """For each hidden space the weights out of its neurons above those into them."""
    return [np.vstack([above, below.T]) for below, above in pairwise(layers)]


def _in_bases_of_sizes(layers: list[Vector]) -> tuple[list[Vector], list[Vector]]:
    """The layers in the bases of the singular vectors of [W_{j+1}; W_j^T], and these bases."""
    bases = [_right_singular_vectors(stacked) for stacked in _stacked(layers)]
    before, after = [np.eye(layers[0].shape[1]), *bases], [*bases, np.eye(len(layers[-1]))]
    return [Q.T @ W @ P for P, W, Q in zip(before, layers, after, strict=True)], bases


def _sizes(layers: Sequence[Vector]) -> list[Vector]:
    """The sizes of the hidden neurons: the norms of all their weights."""
    return [np.linalg.norm(stacked, axis=0) for stacked in _stacked(layers)]


def _scales(layers: list[Vector]) -> list[Vector]:
    """The scale of each weight: the smaller one of the sizes of the two neurons that it joins."""
    ends = np.ones(layers[0].shape[1]), *_sizes(layers), np.ones(len(layers[-1]))
    return [np.maximum(np.minimum(above[:, None], below), _TINY) for below, above in pairwise(ends)]


def _roundings(
    layers: list[Vector], bases: list[Vector], turned: list[Vector]
) -> tuple[list[Vector], list[Vector]]:
    """What rounding errors of layers and of turning them leave in doubt.

    Of the imbalances of the turned layers absolutely, and of each hidden neuron in proportion to
    its weights. What is in doubt between two neurons is put down to the smaller one.
    """
    before, after = [np.eye(layers[0].shape[1]), *bases], [*bases, np.eye(len(layers[-1]))]
    eps = np.finfo(float).eps
    errors = [
        eps * np.abs(Q).T @ np.abs(W) @ np.abs(P)
        for P, W, Q in zip(before, layers, after, strict=True)
    ]
    doubts, drifts = [], []
    sizes = [np.full(layers[0].shape[1], np.inf), *_sizes(turned), np.full(len(layers[-1]), np.inf)]
    for j in range(len(bases)):
        E = errors[j + 1].T @ np.abs(turned[j + 1]) + errors[j] @ np.abs(turned[j]).T
        doubts.append(E + E.T)
        size = sizes[j + 1]
        into = np.where(sizes[j] >= size[:, None], errors[j], 0.0).max(axis=1)
        out = np.where(sizes[j + 2][:, None] >= size, errors[j + 1], 0.0).max(axis=0)
        drifts.append(np.minimum(np.maximum(into, out) / np.maximum(size, _TINY), 1.0))
    return doubts, drifts


def _right_singular_vectors(A: Vector) -> Vector:
    """A whole basis of right singular vectors of a matrix whose columns may be of any sizes."""
    rows, columns = A.shape
    if rows < columns:
        return np.linalg.svd(A)[2].T
    sizes = np.linalg.norm(A, axis=0)
    order = np.argsort(-sizes, kind="stable")
    sizes = sizes[order]
    scaled = A[:, order] / np.where(sizes > 0, sizes, 1.0)
    V = np.empty((columns, columns))
    V[order] = factored_frame(scaled, sizes, np.eye(columns)).Vt.T
    return V


def _end_to_end_frame(layers: list[Vector], sizes: list[Vector]) -> tuple[Frame, float]:
    """The frame of the end-to-end matrix, and the condition of the weights but for their sizes.

    W = X D Y^T with the outer layers, scaled by the sizes of their neurons, in X and Y, and with
    the factors Q and R of what is between them, D the diagonal of R.
    """
    widths = [len(size) for size in sizes]
    if not sizes or max(widths) > min(len(layers[-1]), layers[0].shape[1]):
        return whole_frame(end_to_end(layers)), np.inf
    above, below = (np.where(size > 0, size, 1.0) for size in (sizes[-1], sizes[0]))
    between = above[:, None] * reduce(lambda product, W: W @ product, layers[1:-1], np.diag(below))
    # With rows in the order of their sizes and pivoted columns, an error of a row is small beside
    # that row, so that small neurons keep their digits.
    order = np.argsort(-np.linalg.norm(between, axis=1), kind="stable")
    Q, R, pivots = scipy.linalg.qr(between[order], mode="economic", pivoting=True)
    d = np.diag(R)
    X = (layers[-1] / above)[:, order] @ (Q * np.where(d < 0, -1.0, 1.0))
    Y = (layers[0].T / below)[:, pivots] @ (R / np.where(d == 0, 1.0, d)[:, None]).T
    return factored_frame(X, np.abs(d), Y), float(np.linalg.cond(X) + np.linalg.cond(Y))
