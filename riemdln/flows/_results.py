"""What a flow gives back, and the error of one that fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Flow", "FlowError", "NetworkFlow"]

Vector = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Flow:
    """A gradient flow at K times.

    Attributes
    ----------
    times : array (K,)
        The requested times, up to where the flow ended; one that stops at a gradient tolerance ends
        with the time at which it reached the tolerance.
    points : array (K, ...) or list
        The points: one array where each of them is an array, and otherwise a list of K points:
        triples (u, s, vt) on `FixedRank`, lists on a product of manifolds.
    costs : array (K,)
        The costs.
    gradient_norms : array (K,)
        The norms of the Riemannian gradients.
    message : str
        Why the flow ended.
    success : bool
        Whether it reached the last time or a tolerance that was asked for.
    nfev : int
        How many velocities the integrator has evaluated, those for difference quotients included.
    """

    times: Vector
    points: Any
    costs: Vector
    gradient_norms: Vector
    message: str
    success: bool
    nfev: int


@dataclass(frozen=True, eq=False)
class NetworkFlow(Flow):
    """The gradient flow of a network's layers at K times.

    `points` are the end-to-end matrices, and `gradient_norms` the norms of the gradient in all
    layers together, which for balanced layers is the norm of the Riemannian gradient of g^N.

    Attributes
    ----------
    layers : list of list of array
        The layers [W_1, ..., W_N] at each of the K times.
    imbalances : array (K,)
        Their imbalances (see `imbalance`).
    """

    layers: list[list[Vector]]
    imbalances: Vector


class FlowError(RuntimeError):
    """A flow could not go on: its integrator failed, or its cost or gradient is not finite.

    Attributes
    ----------
    result : Flow or None
        What was computed until then; None if that is not even the first point.
    """

    result: Flow | None = None
