"""The free energy of a problem at a temperature: its cost less the entropy of the layers."""

from __future__ import annotations

from typing import Any

from pymanopt import Problem
from pymanopt.manifolds.manifold import Manifold

from riemdln._arrays import finite, positive_number
from riemdln._frame import Blocks
from riemdln.flows._problem import energy_problem
from riemdln.flows._spectral_problem import SpectralProblem, SpectralTerm
from riemdln.metrics._spectral_at import FrameAt

__all__ = ["free_energy"]


def free_energy(problem: Problem | Manifold, beta: float) -> Problem:
    r"""Subtract the entropy of the layers over each matrix, over beta, from the cost of a problem.

    .. math:: F(W) = E(W) - S(W) / \beta

    At the temperature 1 / beta, noise on the layers of a balanced network moves their product W
    down the gradient of F, beside the Brownian motion of the metric: S, `DeepLinearMetric.entropy`,
    is the logarithm of the volume of the layers that have the product W. What is returned is a
    problem on the same manifold, for every optimizer and flow.

    Parameters
    ----------
    problem : pymanopt.Problem or manifold
        The cost E on `FullRank` or `PositiveDefinite` with a `DeepLinearMetric`, with any of
        pymanopt's autodiff backends or derivatives of one's own. The manifold alone stands for E =
        0, so that F is the entropy's own energy -S / beta.
    beta : float
        The inverse temperature, positive and finite.

    Returns
    -------
    pymanopt.Problem
        With the derivatives of the given problem less those of S. Like those of the problem they
        take stacks of points, if its own do: `gradient_flow` with ``vectorized=True`` runs on it.

    Raises
    ------
    TypeError, ValueError
        If `problem` is no problem and no manifold, its metric has no entropy, its points are no
        matrices, as those of `FixedRank`, or `beta` is not a positive, finite number.

    Notes
    -----
    Where one of several singular values is zero, F has no gradient if two layers or more are zero
    there, as in balance. Asking for it raises an error in pymanopt's manifolds and makes flows
    shorten their steps. If one layer alone is zero there, F is smooth. In balance F is infinite
    where two singular values are zero, and at infinite depth where one is. Where one is zero at a
    finite depth F has an edge, as the power 2 / N of its size, over which an optimizer may step.

    Flows hold every singular value to relative accuracy, and the entropy pulls on each as it
    should. Elsewhere it is asked at a matrix, in which singular values have the rounding errors of
    the largest one: its pull on those that are smaller is lost.

    The positive definite matrices have the same S, which counts all layers with the product W.

    References
    ----------
    - G. Menon, T. Yu. An entropy formula for the deep linear network. 2025, arXiv:2509.09088.
    - G. Menon. The geometry of the deep linear network. 2024, arXiv:2411.09004.

    Examples
    --------
    Up the entropy, at depth 2, singular values grow and keep their ratio:

    >>> import numpy as np
    >>> import riemdln
    >>> manifold = riemdln.FullRank(2, 2, riemdln.DeepLinearMetric(depth=2))
    >>> problem = riemdln.free_energy(manifold, beta=1.0)
    >>> flow = riemdln.gradient_flow(problem, np.diag([3.0, 1.0]), [0.0, 4.0])
    >>> np.round(flow.singular_values[-1], 6)  # s_i (1 + t / (s_1 + s_2))
    array([6., 2.])
    """
    problem, beta = energy_problem(problem), positive_number("beta", beta)
    manifold = problem.manifold
    if not hasattr(getattr(manifold, "metric", None), "entropy") or manifold.point_layout != 1:
        raise ValueError(
            "problem must be on FullRank or PositiveDefinite with a DeepLinearMetric, the only one "
            f"that has an entropy, got one on: {manifold}"
        )
    return SpectralProblem(problem, _Entropy(beta))


class _Entropy(SpectralTerm):
    """The energy -S / beta of the entropy."""

    def __init__(self, beta: float) -> None:
        self._beta = beta

    def value(self, at: FrameAt) -> Any:
        return -at.entropy() / self._beta

    def euclidean_gradient(self, at: FrameAt) -> Blocks:
        gradient = at.entropy_gradient() / -self._beta
        finite("the gradient of the entropy", gradient.M)
        return gradient

    def euclidean_hessian(self, at: FrameAt, X: Blocks) -> Blocks:
        return at.entropy_hessian(X) / -self._beta
