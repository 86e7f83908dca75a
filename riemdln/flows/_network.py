"""The gradient flow of the layers of a deep linear network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pymanopt import Problem
from scipy.integrate import OdeSolver

from riemdln._arrays import chained_layers
from riemdln.flows._gradient import require_problem
from riemdln.flows._recorder import Trajectory, record
from riemdln.flows._results import NetworkFlow
from riemdln.manifolds._coordinates import coordinates_of
from riemdln.networks import end_to_end, imbalance, layer_gradients

__all__ = ["network_flow"]

Vector = NDArray[np.floating[Any]]


def network_flow(
    problem: Problem,
    layers: Sequence[ArrayLike],
    times: ArrayLike,
    *,
    method: str | type[OdeSolver] = "DOP853",
    rtol: float = 1e-8,
    atol: ArrayLike = 1e-10,
    gradient_tolerance: float | None = None,
    progress: bool = False,
    **options: Any,
) -> NetworkFlow:
    r"""The gradient flow of the layers of a deep linear network.

    .. math::

        \dot W_j = -(W_N \cdots W_{j+1})^T \, \nabla E(W) \, (W_{j-1} \cdots W_1)^T,
        \qquad W = W_N \cdots W_1

    From balanced layers W follows `gradient_flow` under ``DeepLinearMetric(N)`` exactly (Arora,
    Cohen and Hazan 2018, Theorem 1).

    Parameters
    ----------
    problem : pymanopt.Problem
        The cost E as a function of the end-to-end matrix; its manifold's metric plays no part. The
        manifold has m x n arrays as points, or a method ``from_layers(layers)`` that gives the
        point of a network. On `FixedRank`, which has one, the Euclidean gradient has to be given as
        an m x n matrix, dense or not.
    layers : sequence of array_like
        The layers [W_1, ..., W_N] at the start, balanced or not.
    times, method, rtol, atol, progress, **options
        As for `gradient_flow`.
    gradient_tolerance : float, optional
        Stop when the norm of the gradient in all layers together has come down to this.

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
    require_problem(problem)
    manifold = problem.manifold
    layers = chained_layers("layers", layers)
    point_of = getattr(manifold, "from_layers", end_to_end)
    coordinates_of(manifold).to_state(point_of(layers), "the end-to-end matrix of layers")
    ends = np.cumsum([layer.size for layer in layers])

    def unpack(state: Vector) -> list[Vector]:
        parts = np.split(state, ends[:-1])
        return [part.reshape(layer.shape) for part, layer in zip(parts, layers, strict=True)]

    def gradient(state: Vector) -> Vector:
        current = unpack(state)
        gradients = layer_gradients(current, problem.euclidean_gradient(point_of(current)))
        return np.concatenate([gradient.ravel() for gradient in gradients])

    def gradient_norm(state: Vector) -> float:
        return float(np.linalg.norm(gradient(state)))

    def observe(state: Vector) -> dict[str, Any]:
        current = unpack(state)
        point = point_of(current)
        return {
            "points": point,
            "costs": float(problem.cost(point)),
            "gradient_norms": gradient_norm(state),
            "layers": current,
            "imbalances": imbalance(current),
        }

    trajectory = Trajectory(
        lambda state: -gradient(state),
        gradient_norm,
        np.concatenate([layer.ravel() for layer in layers]).astype(np.float64),
        times,
        gradient_tolerance=gradient_tolerance,
        progress=progress,
        method=method,
        rtol=rtol,
        atol=atol,
        **options,
    )
    return record(NetworkFlow, trajectory, observe)
