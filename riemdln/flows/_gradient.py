"""The gradient flow of a cost on a manifold."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pymanopt import Problem
from scipy.integrate import OdeSolver

from riemdln._memory import Memory
from riemdln.flows._problem import Asked
from riemdln.flows._recorder import Row, record
from riemdln.flows._results import Flow
from riemdln.flows._trajectory import Ends, Trajectory
from riemdln.manifolds._coordinates import (
    Coordinates,
    Place,
    coordinates_around,
    entry_coordinates_around,
)

__all__ = ["gradient_flow"]

Vector = NDArray[np.floating[Any]]


def gradient_flow(
    problem: Problem,
    initial_point: Any,
    times: ArrayLike,
    *,
    method: str | type[OdeSolver] = "DOP853",
    rtol: float = 1e-8,
    atol: float = 1e-10,
    gradient_tolerance: float | None = None,
    cost_tolerance: float | None = None,
    stop: Callable[[float, Any, float, float], Any] | None = None,
    vectorized: bool = False,
    progress: bool = False,
    **options: Any,
) -> Flow:
    r"""The gradient flow dW/dt = -grad E(W) of a problem on its manifold.

    On `FullRank` the Riemannian gradient is A_W(grad E), so with ``DeepLinearMetric(N)`` this is
    the flow of the end-to-end matrix of a balanced network of depth N (Arora, Cohen and Hazan
    2018, Theorem 1). `FixedRank`, any pymanopt manifold whose points are plain arrays, and products
    of all these will do; on one that is curved in its space, such as a sphere, the flow is kept on
    the manifold by its retraction.

    Where the metric keeps the rank, as `DeepLinearMetric` does at depths of 2 and more, every
    singular value has relative accuracy, 1e-30 beside 1 included: the flow never changes the
    rank of a matrix or the sign of its determinant, and leaves saddles when it should. Elsewhere
    errors are those of the largest entry. The metric of layers off balance may depend on singular
    vectors that a matrix of lower rank does not determine. Then the flow holds these beside the
    matrix, and passes through lower rank as the layers do. On `FixedRank` at depth 1, and off
    balance, singular vectors turn at a rate of 1 / s_i. So a flow that goes to lower rank is stiff
    there, and stalls at singular values of about 1e-10; a start with s_i = 0 is an error.

    Parameters
    ----------
    problem : pymanopt.Problem
        The cost and the manifold, with any of pymanopt's autodiff backends. A Riemannian gradient
        of one's own on `FullRank` gives up the accuracy of small singular values, and that of
        singular vectors near lower rank.
    initial_point : array_like, or as the manifold has its points
        Where the flow starts. On `FullRank` it may also be a triple of arrays (u, s, vt) that
        stands for u diag(s) vt, such as a singular value decomposition. It holds singular values of
        any spread, and singular vectors at lower rank, where the entries of one matrix do not. Or
        it may be a stack of K matrices (K, m, n), or of such triples, which is an ensemble of K
        independent flows.
    times : array_like (T,)
        Strictly increasing times; the flow starts at the first and is returned at all.
    method : str or class
        The integrator, as `scipy.integrate.solve_ivp` takes it, or "CVODE" (see the guide on
        flows). An explicit method, the default, takes small steps on plateaus; implicit ones,
        "CVODE", "BDF" and "Radau", do not.
    rtol, atol : float
        Relative and absolute tolerances of the integrator. Where the metric keeps the rank what is
        integrated has entries of order one, whatever the size of W, and errors of singular values
        are in proportion to them.
    gradient_tolerance, cost_tolerance : float, optional
        End where the norm of the Riemannian gradient, or the cost, has come down to this. The
        gradient is small on the way through a saddle too: a cost is the safer end.
    stop : callable, optional
        End where ``stop(time, point, cost, gradient_norm)`` is true. It is asked after each step of
        the integrator, and to find the time within a step, so its answer must depend on its
        arguments alone.
    vectorized : bool, optional
        Whether the cost and its gradient take the whole stack of an ensemble at once, from (K, m,
        n) to (K,) and (K, m, n). Autodiff gives such gradients where the cost is one number for
        each copy. By default they are asked copy by copy.
    progress : bool
        Whether to show a progress bar, with the time and the cost that the flow has come to.
    **options
        Further options of the method, such as `first_step` and `max_step`.

    Returns
    -------
    Flow

    Raises
    ------
    FlowError
        If the integrator fails, the cost or its gradient is not finite where the flow is, or
        singular vectors turn infinitely fast there, at a singular value of zero.
    TypeError, ValueError
        If the manifold has no coordinates for a flow, the start is no point of it, the times do
        not increase, a tolerance is not positive or an option is not one of the method's.

    Warns
    -----
    UserWarning
        If a tolerance is met or `stop` is true at the first time: near a saddle the gradient is
        small, which is no convergence. The flow ends there, without success.
        If a gradient is below the range of floating-point numbers, so that the flow stands still.

    See Also
    --------
    network_flow : the flow of the layers.
    load_flow : a flow from a file.

    Notes
    -----
    Whatever ends a flow after its first point (`FlowError`, an error in the cost,
    KeyboardInterrupt) carries what was computed until then in its attribute ``result``: the
    points at the times that it has passed, and the one that it had come to; the norm of a gradient
    that cannot be evaluated any more is NaN there.

    Where the metric keeps the rank W = X diag(d) Y^T, and the integrator moves X and Y: with the
    frame W = U S V^T and the blocks p = U^T P V, P V - U p and P^T U - V p^T of P = grad E,

    .. math::

        \dot X &= -\bigl(U (\psi \circ p) + (P V - U p)\,\mathrm{diag}(e)\bigr) U^T X, \\
        \dot Y &= -\bigl(V (\psi \circ p)^T + (P^T U - V p^T)\,\mathrm{diag}(e)\bigr) V^T Y,

    where psi_ij = theta(s_i, s_j) / (s_i + s_j) and e_j = theta(0, s_j) / s_j. A new frame begins,
    with X = U, d = s and Y = V, where X or Y has stretched anything thirtyfold.

    Where it holds singular vectors, W = U C V^T with orthonormal columns in U and V. Along the
    tangent vector U M V^T + Up V^T + U Vp^T the integrator moves C by M, U by Up C^{-1} and V by
    Vp C^{-T} (Koch and Lubich 2007). Of layers off balance Up and Vp fall as s^2 near lower rank,
    so that these velocities are smooth there. The velocity of W as a function of W is not: its
    Lipschitz constant grows as 1 / s, and errors of W by the same factor.

    A manifold of one's own may have a method ``coordinates(point, name)`` that says how its points
    are written as vectors for the integrator (see the source of
    ``riemdln.manifolds._coordinates``).

    References
    ----------
    - S. Arora, N. Cohen, E. Hazan. On the optimization of deep networks: implicit acceleration by
      overparameterization. ICML 2018.
    - O. Koch, C. Lubich. Dynamical low-rank approximation. SIAM J. Matrix Anal. Appl. 29, 2007.

    Examples
    --------
    >>> import autograd.numpy as anp
    >>> import numpy as np
    >>> import pymanopt
    >>> import riemdln
    >>> manifold = riemdln.FullRank(1, 1, riemdln.DeepLinearMetric(depth=2))
    >>> @pymanopt.function.autograd(manifold)
    ... def cost(W):
    ...     return anp.sum((W - 3) ** 2) / 2
    >>> problem = pymanopt.Problem(manifold, cost)
    >>> flow = riemdln.gradient_flow(problem, [[1.0]], [0.0, 0.5])  # dw/dt = 2 w (3 - w)
    >>> np.allclose(flow.points[-1], 3 / (1 + 2 * np.exp(-3)))
    True
    >>> flow = riemdln.gradient_flow(problem, [[-1.0]], [0.0, 20.0])  # cannot pass through zero
    >>> print(f"{flow.points[-1].item():.6e}")
    -5.750736e-53
    """
    asked = Asked(problem, vectorized=vectorized)
    # A Riemannian gradient has rounding errors of its largest entry, which small singular values do
    # not stand.
    around = entry_coordinates_around if asked.is_riemannian else coordinates_around
    coordinates = around(problem.manifold, initial_point)
    asked.require_stack(coordinates.stack)
    trajectory = Trajectory(
        _Descent(asked, coordinates),
        times,
        ends=Ends(gradient_tolerance, cost_tolerance, stop),
        progress=progress,
        method=method,
        rtol=rtol,
        atol=atol,
        **options,
    )
    return record(Flow, trajectory)


class _Descent:
    """A point, or a stack of points, that goes down the gradient of a cost."""

    scale = 1.0

    def __init__(self, asked: Asked, coordinates: Coordinates, moves: Any = None) -> None:
        self._asked, self._coordinates = asked, coordinates
        self.state, self.stack = coordinates.state, coordinates.stack
        self._moves = np.ones(self.stack) if moves is None else moves  # 1 or 0
        self._seen = Memory(size=1)

    @property
    def nfev(self) -> int:
        return self._asked.nfev

    def velocity(self, state: Vector) -> Vector:
        """Down the gradient, where a copy moves at all."""
        seen = self._see(state)
        rows = seen.place.velocity(seen.gradient).reshape(*self.stack, -1)
        return (-self._moves[..., None] * rows).ravel()

    def costs(self, state: Vector) -> Any:
        return self._see(state).costs

    def norms(self, state: Vector) -> Any:
        return self._see(state).norms

    def points(self, state: Vector) -> list[Any]:
        record = self._see(state).place.record
        if not self.stack:
            return [record]
        if isinstance(record, tuple):
            return [type(record)(*parts) for parts in zip(*record, strict=True)]
        return list(record)

    def observe(self, state: Vector, *, norms: bool = True) -> Row:
        seen = self._see(state)
        return {
            "points": seen.place.record,
            "costs": seen.costs,
            "gradient_norms": seen.norms if norms else np.full(self.stack, np.nan)[()],
            "singular_values": seen.place.singular_values,
        }

    def renewed(self, state: Vector) -> _Descent | None:
        coordinates = self._coordinates.renewed(state)
        return None if coordinates is None else _Descent(self._asked, coordinates, self._moves)

    def halted(self, copies: Any, state: Vector) -> _Descent:
        return _Descent(self._asked, self._coordinates.around(state), 1.0 - copies)

    def _see(self, state: Vector) -> _Seen:
        """What there is at a state; of the last one it is remembered."""
        seen: _Seen | None = self._seen.find(state)
        if seen is None:
            seen = _Seen(self._asked, self._coordinates.at(state), self.stack)
            self._seen.put(state, seen)
        return seen


class _Seen:
    """What a problem says of a place, of which each is asked for once."""

    def __init__(self, asked: Asked, place: Place, stack: tuple[int, ...]) -> None:
        self._asked, self.place, self._stack = asked, place, stack

    @cached_property
    def costs(self) -> Any:
        return self._asked.costs_at(self.place, self._stack)

    @cached_property
    def gradient(self) -> Any:
        """The Riemannian gradient."""
        return self._asked.gradient(self.place, self._stack)

    @cached_property
    def norms(self) -> Any:
        return self.place.norm(self.gradient)
