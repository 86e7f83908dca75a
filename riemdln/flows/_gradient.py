"""The gradient flow of a cost on a manifold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pymanopt import Problem
from scipy.integrate import OdeSolver

from riemdln.flows._recorder import Trajectory, record
from riemdln.flows._results import Flow
from riemdln.manifolds._coordinates import coordinates_of

__all__ = ["gradient_flow", "require_problem"]

Vector = NDArray[np.floating[Any]]


def gradient_flow(
    problem: Problem,
    initial_point: Any,
    times: ArrayLike,
    *,
    method: str | type[OdeSolver] = "DOP853",
    rtol: float = 1e-8,
    atol: ArrayLike = 1e-10,
    gradient_tolerance: float | None = None,
    progress: bool = False,
    **options: Any,
) -> Flow:
    """The gradient flow dW/dt = -grad E(W) of a problem on its manifold.

    On `FullRank` the Riemannian gradient is A_W(grad E), so with ``DeepLinearMetric(N)`` this is
    the flow of the end-to-end matrix of a balanced network of depth N (Arora, Cohen and Hazan
    2018, Theorem 1). `FixedRank`, any pymanopt manifold whose points are plain arrays, and products
    of all these will do; on one that is curved in its space, such as a sphere, the flow is kept on
    the manifold by its retraction. On `FixedRank` at depth 1 singular vectors turn at a rate of
    1 / s_i, so a flow that goes to lower rank is stiff there, and stalls at singular values of
    about 1e-10; deeper ones go on.

    Parameters
    ----------
    problem : pymanopt.Problem
        The cost and the manifold, with any of pymanopt's autodiff backends.
    initial_point : array_like, or as the manifold has its points
        Where the flow starts.
    times : array_like (K,)
        Strictly increasing times; the flow starts at the first and is returned at all.
    method : str or class
        The integrator, as `scipy.integrate.solve_ivp` takes it. For stiff problems "LSODA" or
        "Radau" may take fewer steps.
    rtol, atol : float
        Relative and absolute tolerances of the integrator. Take `atol` well below the entries of
        a start near zero.
    gradient_tolerance : float, optional
        Stop when the norm of the Riemannian gradient has come down to this. By default the flow
        goes on to the last time.
    progress : bool
        Whether to show a progress bar.
    **options
        Further options of the method, such as `first_step` and `max_step`.

    Returns
    -------
    Flow

    Raises
    ------
    FlowError
        If the integrator fails, or the cost or its gradient is not finite where the flow is.
    TypeError, ValueError
        If the manifold has no coordinates for a flow, the start is no point of it, the times do
        not increase, a tolerance is not positive or an option is not one of the method's.

    Notes
    -----
    Whatever ends a flow after its first point (`FlowError`, an error in the cost,
    KeyboardInterrupt) carries what was computed until then in its attribute ``result``.

    A manifold of one's own may have a method ``coordinates()`` that says how its points are written
    as vectors for the integrator (see the source of ``riemdln.manifolds._coordinates``).

    Examples
    --------
    >>> import autograd.numpy as anp
    >>> import numpy as np
    >>> import pymanopt
    >>> import riemdln
    >>> manifold = riemdln.FullRank(1, 1, riemdln.DeepLinearMetric(depth=2))
    >>> @pymanopt.function.autograd(manifold)
    ... def cost(W):
    ...     return -anp.sum(W)
    >>> problem = pymanopt.Problem(manifold, cost)
    >>> flow = riemdln.gradient_flow(problem, [[1.0]], [0.0, 0.5])  # dw/dt = 2 w
    >>> np.allclose(flow.points[-1], np.e)
    True
    """
    require_problem(problem)
    manifold = problem.manifold
    coordinates = coordinates_of(manifold)

    def velocity(state: Vector) -> Vector:
        gradient = problem.riemannian_gradient(coordinates.to_point(state))
        return coordinates.velocity(state, -gradient)

    def gradient_norm(state: Vector) -> float:
        point = coordinates.to_point(state)
        return float(manifold.norm(point, problem.riemannian_gradient(point)))

    def observe(state: Vector) -> dict[str, Any]:
        point = coordinates.to_point(state)
        return {
            "points": point,
            "costs": float(problem.cost(point)),
            "gradient_norms": gradient_norm(state),
        }

    trajectory = Trajectory(
        velocity,
        gradient_norm,
        coordinates.to_state(initial_point),
        times,
        gradient_tolerance=gradient_tolerance,
        progress=progress,
        method=method,
        rtol=rtol,
        atol=atol,
        **options,
    )
    return record(Flow, trajectory, observe)


def require_problem(problem: Any) -> None:
    """Refuse what is no problem of pymanopt."""
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be a pymanopt.Problem, got {type(problem).__name__}")
