"""The free energy of a problem at a temperature: its cost less the entropy of the layers."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pymanopt
from numpy.typing import NDArray
from pymanopt import Problem
from pymanopt.manifolds.manifold import Manifold

from riemdln._arrays import point_of_shape, positive_number
from riemdln.flows._problem import energy_problem, gradient_of_stacks, is_own

__all__ = ["free_energy"]

Matrix = NDArray[np.floating[Any]]


def free_energy(problem: Problem | Manifold, beta: float) -> Problem:
    r"""The cost of a problem less the entropy of the layers over each matrix, as a problem.

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
        With the derivatives of the given problem less those of S, each in the form, Euclidean or
        Riemannian, in which the problem has it. Like those of the problem they take stacks of
        points, if its own do: `gradient_flow` with ``vectorized=True`` runs on it.

    Raises
    ------
    TypeError, ValueError
        If `problem` is no problem and no manifold, its metric has no entropy, its points are no
        matrices, as those of `FixedRank`, or `beta` is not a positive, finite number.

    Notes
    -----
    Where singular values are zero, F has no gradient: asking for it there raises an error in
    pymanopt's manifolds and makes flows shorten their steps. F itself is infinite where two
    singular values are zero, and at infinite depth where one is. Where one is zero at a finite
    depth F has an edge there, as the power 2 / N of its size, over which an optimizer may step.

    The entropy is asked at a matrix, in which singular values have the rounding errors of the
    largest one. Its pull on those that are smaller is lost, also in flows, which hold them to
    relative accuracy otherwise; a flow that ends at the edge takes short steps there.

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
    metric: Any = getattr(manifold, "metric", None)
    if not hasattr(metric, "entropy") or manifold.point_layout != 1:
        raise ValueError(
            "problem must be on FullRank or PositiveDefinite with a DeepLinearMetric, the only one "
            f"that has an entropy, got one on: {manifold}"
        )

    @cache
    def of_stacks() -> Any:
        return gradient_of_stacks(problem)

    def cost(W: Matrix) -> Any:
        return problem.cost(W) - metric.entropy(W) / beta

    def euclidean_gradient(W: Matrix) -> Any:
        of_energy = of_stacks() if np.ndim(W) > 2 else problem.euclidean_gradient
        gradient = point_of_shape("the gradient of the cost", of_energy(W), W.shape)
        return gradient - metric.entropy_gradient(W) / beta

    def euclidean_hessian(W: Matrix, X: Matrix) -> Any:
        hessian = point_of_shape(
            "the Hessian of the cost", problem.euclidean_hessian(W, X), W.shape
        )
        return hessian - metric.entropy_hessian(W, X) / beta

    def riemannian_gradient(W: Matrix) -> Any:
        gradient = point_of_shape(
            "the gradient of the cost", problem.riemannian_gradient(W), W.shape
        )
        return gradient - metric.sharp(W, metric.entropy_gradient(W)) / beta

    def riemannian_hessian(W: Matrix, X: Matrix) -> Any:
        of_entropy = manifold.euclidean_to_riemannian_hessian(
            W, metric.entropy_gradient(W), metric.entropy_hessian(W, X), X
        )
        hessian = point_of_shape(
            "the Hessian of the cost", problem.riemannian_hessian(W, X), W.shape
        )
        return hessian - of_entropy / beta

    derivatives = [euclidean_gradient, euclidean_hessian]
    if is_own(problem.riemannian_gradient):
        derivatives = [riemannian_gradient, riemannian_hessian]
    elif is_own(problem.riemannian_hessian):
        derivatives = [euclidean_gradient, riemannian_hessian]
    plain = pymanopt.function.numpy(manifold)
    return Problem(
        manifold,
        plain(cost),
        preconditioner=problem.preconditioner,
        **{function.__name__: plain(function) for function in derivatives},
    )
