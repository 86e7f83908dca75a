"""The flow that brings layers to balance and leaves their end-to-end matrix as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import OdeSolver

from riemdln._arrays import chained_layers, to_numpy
from riemdln._memory import Memory
from riemdln.flows._recorder import Row, record
from riemdln.flows._results import BalancingFlow
from riemdln.flows._trajectory import Ends, Trajectory
from riemdln.kernels.imbalanced import layer_differences
from riemdln.networks import end_to_end, imbalances

__all__ = ["balancing_flow"]

Vector = NDArray[np.floating[Any]]

# Bases of the hidden spaces are folded into the layers where a vector of one has grown or shrunk by
# this.
_WORN = 30.0


def balancing_flow(
    layers: Sequence[ArrayLike],
    times: ArrayLike,
    *,
    imbalance: float | Sequence[float] = 0.0,
    method: str | type[OdeSolver] = "DOP853",
    rtol: float = 1e-8,
    atol: float = 1e-10,
    gradient_tolerance: float | None = None,
    stop: Callable[[float, Any, float, float], Any] | None = None,
    progress: bool = False,
    **options: Any,
) -> BalancingFlow:
    r"""Bring layers to balance by a flow that does not move their end-to-end matrix.

    .. math::

        \dot W_j = M_j W_j - W_j M_{j-1}, \qquad
        M_j = W_{j+1}^T W_{j+1} - W_j W_j^T \ (0 < j < N), \qquad M_0 = M_N = 0

    The layers move to G_j W_j G_{j-1}^{-1} with dG_j/dt = M_j G_j: only the bases of the hidden
    spaces change, so the product stays. Along the flow the sum of ``|W_j|^2 / 2`` falls as fast as
    it can under such changes, at the rate of the sum of ``|M_j|^2``. It is least at balanced layers
    (Kempf and Ness 1979). With an imbalance (c_{j+1} - c_j) I is taken off M_j.

    Parameters
    ----------
    layers : sequence of array_like
        At least two layers [W_1, ..., W_N], balanced or not.
    times, method, stop, progress, **options
        As for `gradient_flow`.
    imbalance : float or sequence of float (N - 1,)
        The differences c_{j+1} - c_j to come to, as `balanced_layers` takes them: one number stands
        for all of them, and zero for balanced layers.
    rtol, atol : float
        Relative and absolute tolerances of the integrator for the bases G_j, which begin as
        identities. The end-to-end matrix stays as it is to rounding at any tolerance.
    gradient_tolerance : float, optional
        End where the norm of all M_j together has come down to this. With an explicit method it
        does not come down to much less than `rtol` times the squares of the weights; with "Radau",
        which suits networks of up to some hundred hidden neurons, it does.

    Returns
    -------
    BalancingFlow

    Raises
    ------
    FlowError
        If the integrator fails.
    TypeError, ValueError
        If the layers do not chain or there is only one, if `imbalance` has not the right shape; of
        the other arguments as `gradient_flow` does.

    Warns
    -----
    UserWarning
        If the gradient tolerance is met or `stop` is true at the first time.

    See Also
    --------
    balanced_layers : balanced layers of a matrix, at once.

    Notes
    -----
    How fast the M_j go to zero, without an imbalance:

    - If each layer has the rank of W, exponentially. The limit is `balanced_layers` of W at that
      rank, up to orthogonal changes of the bases of the hidden spaces and to neurons without
      weights.
    - Otherwise some weights have to go to zero for balance, as balanced layers have the rank of W.
      Their squares go as 1 / t, and so do the M_j. So it is with W = 0, whose only balanced layers
      are zero.

    At depth two the limit has a closed form where A = W_1 W_1^T and B = W_2^T W_2 are invertible:
    G_1^T G_1 is the geometric mean of A^{-1} and B. At greater depths `balanced_layers` gives it at
    once.

    Layers whose hidden widths are the rank of W can have any imbalance. Others may not: at depth
    two a positive one takes a W_2 of full column rank, and a negative one a W_1 of full row rank.
    Where it cannot be had, the M_j do not go to zero and the cost falls without end.

    The integrator moves the G_j, and the layers follow from them, so that the product stays. A
    method that moved the layers would lose it at its tolerances.

    References
    ----------
    - G. Kempf, L. Ness. The length of vectors in representation spaces. In Algebraic Geometry,
      Lecture Notes in Mathematics 732, Springer, 1979.

    Examples
    --------
    >>> import numpy as np
    >>> import riemdln
    >>> layers = [np.array([[1.0]]), np.array([[4.0]])]
    >>> flow = riemdln.balancing_flow(layers, [0.0, 0.1, 2.0])
    >>> np.round([[W.item() for W in layers] for layers in flow.layers], 3)
    array([[1.   , 4.   ],
           [1.771, 2.259],
           [2.   , 2.   ]])
    >>> flow.points.ravel()
    array([4., 4., 4.])
    """
    start: list[Vector] = [to_numpy(W).astype(np.float64) for W in chained_layers("layers", layers)]
    if len(start) == 1:
        raise ValueError("layers must be at least two to be balanced, got one")
    trajectory = Trajectory(
        _HiddenBases(start, layer_differences(len(start), imbalance), 0.0),
        times,
        ends=Ends(gradient_tolerance, None, stop),
        progress=progress,
        method=method,
        rtol=rtol,
        atol=atol,
        **options,
    )
    return record(BalancingFlow, trajectory)


class _HiddenBases:
    """Layers G_j L_j G_{j-1}^{-1}, G_0 = G_N = I, with the matrices G_1, ..., G_{N-1} as the state.

    Parameters
    ----------
    layers : list of array
        The layers L_j, from which the G_j begin as identities.
    target : array (N - 1,)
        The differences c_{j+1} - c_j.
    logs : float
        The sum of (c_{j+1} - c_j) log |det G_j| of the bases that L_j has been through.
    """

    stack: tuple[int, ...] = ()
    scale = 1.0
    nfev = 0

    def __init__(self, layers: list[Vector], target: Vector, logs: float) -> None:
        self._layers, self._target, self._logs = layers, target, logs
        self._widths = [len(layer) for layer in layers[:-1]]
        self._ends = np.cumsum(np.square(self._widths))[:-1]
        self.state = np.concatenate([np.eye(width).ravel() for width in self._widths])
        self._seen = Memory(size=1)

    def velocity(self, state: Vector) -> Vector:
        moves = zip(self._gradients(state), self._bases(state), strict=True)
        return np.concatenate([(M @ G).ravel() for M, G in moves])

    def costs(self, state: Vector) -> float:
        squares = sum(float(np.vdot(layer, layer)) for layer in self._moved(state))
        return squares / 2 + self._all_logs(state)

    def norms(self, state: Vector) -> float:
        return float(np.sqrt(sum(np.vdot(M, M) for M in self._gradients(state))))

    def points(self, state: Vector) -> list[Vector]:
        return [end_to_end(self._moved(state))]

    def observe(self, state: Vector, *, norms: bool = True) -> Row:
        (point,) = self.points(state)
        gradients = self._gradients(state)
        return {
            "points": point,
            "costs": self.costs(state),
            "gradient_norms": self.norms(state),
            "singular_values": np.linalg.svd(point, compute_uv=False),
            "layers": self._moved(state),
            "imbalances": float(max(np.linalg.norm(M) for M in gradients)),
        }

    def renewed(self, state: Vector) -> _HiddenBases | None:
        sizes = np.concatenate([scipy.linalg.svdvals(G) for G in self._bases(state)])
        if sizes.min() > 1 / _WORN and sizes.max() < _WORN:
            return None
        return _HiddenBases(self._moved(state), self._target, self._all_logs(state))

    def halted(self, copies: Any, state: Vector) -> _HiddenBases:
        raise TypeError("a network is one flow, of which no copies can stand still")

    def _bases(self, state: Vector) -> list[Vector]:
        parts = np.split(state, self._ends)
        return [part.reshape(w, w) for part, w in zip(parts, self._widths, strict=True)]

    def _moved(self, state: Vector) -> list[Vector]:
        """The layers; those of the last state are remembered."""
        if (known := self._seen.find(state)) is not None:
            return known
        first, *others = self._layers
        bases = self._bases(state)
        pulled = [first, *(_divided(W, G) for W, G in zip(others, bases, strict=True))]
        moved = [*(G @ W for G, W in zip(bases, pulled, strict=False)), pulled[-1]]
        self._seen.put(state, moved)
        return moved

    def _gradients(self, state: Vector) -> list[Vector]:
        """The matrices M_j."""
        pairs = zip(imbalances(self._moved(state)), self._target, strict=True)
        return [D - c * np.eye(len(D)) for D, c in pairs]

    def _all_logs(self, state: Vector) -> float:
        logs = [np.linalg.slogdet(G)[1] for G in self._bases(state)]
        return self._logs + float(self._target @ logs)


def _divided(W: Vector, G: Vector) -> Vector:
    """W G^{-1}."""
    return np.linalg.solve(G.T, W.T).T
