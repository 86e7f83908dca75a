"""What a flow gives back, and the error of one that fails."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BalancingFlow",
    "Flow",
    "FlowError",
    "LangevinFlow",
    "NetworkFlow",
    "NetworkLangevinFlow",
]

Vector = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False, repr=False)
class Flow:
    """A gradient flow at T times, or K of them in an ensemble.

    Of an ensemble `costs`, `gradient_norms`, `singular_values` and `points` have the K copies after
    the times, and `status`, `success` and `end_times` are arrays (K,). A copy that has come to its
    end rests there.

    Attributes
    ----------
    times : array (T,)
        The requested times, up to where the flow ended; one that ended before the last of them has
        that time as its last.
    points : array (T, ...) or list
        The points in the form in which the initial one was given: one array where each of them is
        an array, and otherwise a list of T points: triples (u, s, vt) on `FixedRank` and from a
        start that is a triple; lists on a product of manifolds. Of an ensemble of triples each has
        stacks of u, s and vt.
    costs : array (T,)
        The costs.
    gradient_norms : array (T,)
        The norms of the Riemannian gradients. Where the gradient has ended the
        flow, and cannot be evaluated any more, the last one is NaN.
    singular_values : array (T, r) or None
        The singular values of points that are matrices, to relative accuracy where the metric
        keeps the rank (see `gradient_flow`), and None where points are no matrices.
    status : int
        Why it ended: 0 it reached the last time, 1 the gradient tolerance, 2 the cost tolerance,
        3 `stop` was true, -1 an error or an interruption ended it.
    success : bool
        Whether it ended as asked: at the last time, or at a tolerance or `stop` that was not met at
        the first time already.
    end_times : float
        When it ended.
    message : str
        Why it ended, in words.
    nfev : int
        How many gradients of the cost were evaluated, those of what is observed and of difference
        quotients included; one of a whole ensemble counts once.
    """

    times: Vector
    points: Any
    costs: Vector
    gradient_norms: Vector
    singular_values: Any
    status: Any
    success: Any
    end_times: Any
    message: str
    nfev: int

    def __repr__(self) -> str:
        copies = f", {self.costs.shape[1]} copies" if self.costs.ndim > 1 else ""
        return (
            f"{type(self).__name__}({len(self.times)} times{copies}: {self.message}; "
            f"nfev={self.nfev})"
        )

    def save(self, path: str | PathLike[str]) -> None:
        """Write the flow to one .npz file of plain arrays, which `load_flow` reads.

        Parameters
        ----------
        path : str or path
            The file, which is overwritten.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        from riemdln.flows._files import save_flow  # which knows all kinds of flows

        save_flow(path, self)


@dataclass(frozen=True, eq=False, repr=False)
class NetworkFlow(Flow):
    """The gradient flow of a network's layers at T times.

    `points` are the end-to-end matrices, and `gradient_norms` the norms of the gradient in all
    layers together, which for balanced layers is the norm of the Riemannian gradient of g^N.

    Attributes
    ----------
    layers : list of list of array
        The layers [W_1, ..., W_N] at each of the T times.
    imbalances : array (T,)
        Their imbalances (see `imbalance`).
    singular_value_errors : array (T, r)
        About how far the singular values of the end-to-end matrix may be off: a singular value
        that is not above its error is noise, and with it the sign of a determinant.
    """

    layers: list[list[Vector]]
    imbalances: Vector
    singular_value_errors: Vector


@dataclass(frozen=True, eq=False, repr=False)
class LangevinFlow(Flow):
    """A solution of the Riemannian Langevin equation at T times, or K of them in an ensemble.

    `gradient_norms` are the norms of the Riemannian gradient of the cost, without the entropy.

    Attributes
    ----------
    acceptance_rates : float or array (K,)
        The share of the steps that were accepted; one where none is ever rejected.
    """

    acceptance_rates: Any


@dataclass(frozen=True, eq=False, repr=False)
class NetworkLangevinFlow(Flow):
    """Balanced layers that move with noise, at T times, or those of K networks in an ensemble.

    `points` are the end-to-end matrices, and `gradient_norms` the norms of the gradient in all
    layers together, which are those of the Riemannian gradient of g^N.

    Attributes
    ----------
    layers : list of list of array
        The layers [W_1, ..., W_N] at each of the T times; of an ensemble each has stacks
        (K, d_j, d_{j-1}).
    imbalances : array (T,) or (T, K)
        Their imbalances (see `imbalance`), which are rounding errors.
    """

    layers: list[list[Vector]]
    imbalances: Vector


@dataclass(frozen=True, eq=False, repr=False)
class BalancingFlow(Flow):
    """Layers on their way to balance at T times, with one and the same end-to-end matrix.

    `points` are the end-to-end matrices, `costs` half the sum of the squares of all weights, with
    the sum of ``(c_{j+1} - c_j) log |det G_j|`` added where an imbalance was asked for, and
    `gradient_norms` the norms of all matrices M_j together, whose squares are the rate at which the
    costs fall (see `balancing_flow`). No gradient of a problem is asked for, so `nfev` is zero.

    Attributes
    ----------
    layers : list of list of array
        The layers [W_1, ..., W_N] at each of the T times.
    imbalances : array (T,)
        How far they are from balance (see `imbalance`), or from the imbalance that was asked for:
        the largest Frobenius norm of a matrix M_j.
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
