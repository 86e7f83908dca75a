"""Weight decay on the layers, as it moves their product, and where it makes ranks collapse."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from pymanopt import Problem
from scipy.optimize import elementwise

from riemdln._arrays import (
    finite,
    finite_array,
    namespace,
    positive_number,
    real_depth,
)
from riemdln._frame import Blocks
from riemdln.flows._problem import require_problem
from riemdln.flows._spectral_problem import SpectralProblem, SpectralTerm
from riemdln.metrics._spectral_at import FrameAt

__all__ = ["CollapseThreshold", "collapse_threshold", "decayed_singular_value", "layer_decay"]


def layer_decay(problem: Problem, rate: float, depth: float | None = None) -> Problem:
    r"""Add weight decay on the layers of a balanced network to the cost of a problem.

    .. math::

        F(W) = E(W) + \frac{\mu N}{2} \sum_i s_i^{2/N}
             = \min_{W_N \cdots W_1 = W} E(W) + \frac{\mu}{2} \sum_j \|W_j\|^2

    Under ``DeepLinearMetric(N)`` its gradient flow is that of the product of balanced layers that
    go down E with weight decay of the rate mu. The Riemannian gradient of the new term is mu N W,
    at every W: all singular values decay at one rate, beside what the loss does to them.

    Parameters
    ----------
    problem : pymanopt.Problem
        The cost E on `FullRank`, `FixedRank` or `PositiveDefinite`, as a rule with
        ``DeepLinearMetric(N)``, with any of pymanopt's autodiff backends or derivatives of one's
        own.
    rate : float
        The rate mu, positive: what ``torch.optim.SGD`` calls ``weight_decay``.
    depth : float, optional
        The depth N of the layers that decay; by default that of the metric. With another depth, or
        another spectral metric, the cost F is that of N layers, and its flow is not theirs.

    Returns
    -------
    pymanopt.Problem
        On the same manifold, for every optimizer and flow. It has Hessians if the given one has
        them, and takes stacks of points if that does. On `FixedRank` it has Riemannian derivatives
        only.

    Raises
    ------
    TypeError, ValueError
        If `problem` is no problem, its metric is not spectral, `rate` is not a positive, finite
        number, `depth` is not a depth, or it is left out where the metric has none or an imbalance,
        which decays too. If `depth` is 2 or more under a metric whose flows pass through lower rank
        (`DeepLinearMetric.keeps_rank`): there the cost has an edge, over which a flow would go to
        and fro.

    See Also
    --------
    collapse_threshold : where decay takes singular values to zero.
    FixedStep : steps of gradient descent with weight decay.

    Notes
    -----
    Under the metric of the depth N the new term is mu / 2 times the squared distance of W from
    zero, for geodesics to zero have the length :math:`\sqrt N |S^{1/N}|`. Its Riemannian Hessian is
    mu times the identity: decay adds mu to every eigenvalue of the Hessian of E.

    At infinite depth the metric is the limit of A_N / N. There the term is
    :math:`\mu \sum_i \ln s_i`, the limit of :math:`\tfrac{\mu N}{2} \sum_i (s_i^{2/N} - 1)`. Its
    Riemannian gradient is mu W and its Riemannian Hessian is zero. It has no lower bound.

    Flows and Riemannian derivatives are regular also where singular values are zero. The Euclidean
    gradient :math:`\mu \, U \mathrm{diag}(s_i^{2/N - 1}) V^T` is not: beyond depth 2 it grows
    without bound near lower rank, and at a singular value of zero it raises an error.
    `langevin_flow` asks for it. So does `network_flow`, which moves layers down F of their product:
    only for balanced layers is that weight decay.

    The cost of a matrix has the rounding errors of its singular values to the power 2 / N, so that
    optimizers stand still sooner near lower rank. Flows do not: they hold all singular values.

    References
    ----------
    - S. Arora, N. Cohen, E. Hazan. On the optimization of deep networks: implicit acceleration by
      overparameterization. ICML 2018, Theorem 1, which has weight decay.
    - F. Shang, Y. Liu, J. Cheng. Unified scalable equivalent formulations for Schatten
      quasi-norms. 2016, arXiv:1606.00668.

    Examples
    --------
    At depth 2 the term is the nuclear norm, and singular values of a target are lowered by mu:

    >>> import numpy as np
    >>> import pymanopt
    >>> import riemdln
    >>> manifold = riemdln.FullRank(2, 2, riemdln.DeepLinearMetric(depth=2))
    >>> target = np.diag([3.0, 0.25])
    >>> @pymanopt.function.numpy(manifold)
    ... def cost(W):
    ...     return np.sum((W - target) ** 2) / 2
    >>> @pymanopt.function.numpy(manifold)
    ... def gradient(W):
    ...     return W - target
    >>> problem = pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)
    >>> problem = riemdln.layer_decay(problem, rate=0.5)
    >>> flow = riemdln.gradient_flow(problem, np.eye(2), [0.0, 200.0], method="LSODA")
    >>> np.round(flow.points[-1], 6) + 0.0
    array([[2.5, 0. ],
           [0. , 0. ]])
    """
    require_problem(problem, "a pymanopt.Problem")
    rate = positive_number("rate", rate)
    manifold = problem.manifold
    if not hasattr(getattr(manifold, "metric", None), "kernel"):
        raise ValueError(
            "problem must be on FullRank, FixedRank or PositiveDefinite with a spectral metric, "
            f"such as DeepLinearMetric, got one on: {manifold}"
        )
    own = balanced_depth(manifold)
    chosen = own if depth is None else real_depth("depth", depth)
    if chosen is None:
        raise ValueError(
            "depth must be given where the metric is not that of balanced layers, got a problem "
            f"on: {manifold}"
        )
    if chosen >= 2 and not manifold.metric.keeps_rank:
        raise ValueError(
            f"depth must be below 2 where flows pass through lower rank, at which the cost has an "
            f"edge, got {chosen:g} on: {manifold}"
        )
    term = _BalancedDecay if chosen == own else _Decay
    return SpectralProblem(problem, term(rate, chosen))


def balanced_depth(manifold: Any) -> float | None:
    """The depth of the balanced layers whose metric a manifold has, or None if it has another."""
    metric: Any = getattr(manifold, "metric", None)
    return metric.depth if getattr(metric, "is_balanced", False) else None


class _Decay(SpectralTerm):
    """The energy (mu N / 2) sum_i s_i^{2/N}, or mu sum_i ln s_i at infinite depth."""

    def __init__(self, rate: float, depth: float) -> None:
        self._rate, self._power = rate, 2 / depth
        self._is_finite = math.isfinite(depth)
        self._growth = rate * depth if self._is_finite else rate

    def value(self, at: FrameAt) -> Any:
        s, xp = at.frame.s, namespace(at.frame.s)
        with np.errstate(divide="ignore"):  # ln 0 = -inf is right
            terms = self._growth / 2 * s**self._power if self._is_finite else self._rate * xp.log(s)
        return xp.sum(terms, axis=-1)

    def euclidean_gradient(self, at: FrameAt) -> Blocks:
        return at.diagonal(self._slopes(at.frame.s))

    def euclidean_hessian(self, at: FrameAt, X: Blocks) -> Blocks:
        """That of a spectral function, by divided differences of d_i = mu s_i^p, p = 2/N - 1."""
        s, xp = at.frame.s, namespace(at.frame.s)
        column, row, p = s[..., :, None], s[..., None, :], self._power - 1
        larger, smaller, is_equal = xp.maximum(column, row), xp.minimum(column, row), column == row
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = xp.where(is_equal, 1.0, smaller / xp.where(is_equal, 1.0, larger))
            log_ratio = xp.log(ratio)
            # (1 - ratio^p) / (1 - ratio)
            share = xp.expm1(p * log_ratio) / xp.where(is_equal, 1.0, xp.expm1(log_ratio))
            scale = self._rate * larger ** (p - 1)
            of_differences = scale * xp.where(is_equal, p, share)
            of_sums = scale * (1 + ratio**p) / (1 + ratio)
            leaving = self._rate * s ** (p - 1)
        finite("the Hessian of the decay", of_differences)
        return at.spectral_hessian(leaving, of_differences, of_sums, X)

    def _slopes(self, s: Any) -> Any:
        with np.errstate(divide="ignore"):
            return finite("the gradient of the decay", self._rate * s ** (self._power - 1))


class _BalancedDecay(_Decay):
    """The same under the metric of this depth, where it decays all singular values at one rate."""

    def riemannian_gradient(self, at: FrameAt) -> Blocks:
        return at.diagonal(self._growth * at.frame.s)

    def riemannian_hessian(self, at: FrameAt, X: Blocks) -> Blocks:
        return (self._rate if self._is_finite else 0.0) * X


class CollapseThreshold(NamedTuple):
    """Where weight decay takes a singular value to zero.

    Attributes
    ----------
    sigma : float
        The least singular value of the target that leaves one other than zero.
    singular_value : float
        The singular value that is left there.
    """

    sigma: float
    singular_value: float


def collapse_threshold(rate: float, depth: float) -> CollapseThreshold:
    r"""The singular value of a target below which weight decay takes that of the matrix to zero.

    With ``E = |W - T|^2 / 2`` and the singular vectors of T, a singular value s for the one sigma
    of the target moves by

    .. math:: \dot s = N s^{2 - 2/N} (\sigma - s) - \mu N s,

    so that it rests at zero or where :math:`\sigma = s + \mu s^{2/N - 1}`. Where the right-hand
    side has its least value, sigma_c at s_c, two such points meet and are gone.

    Parameters
    ----------
    rate : float
        The rate mu of the decay of each layer, positive.
    depth : float
        The depth N, from 1 to infinity.

    Returns
    -------
    CollapseThreshold
        The pair of sigma_c and s_c. At depths below 2 both are zero: nothing collapses.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Notes
    -----
    .. math::

        s_c = \left(\mu \left(1 - \tfrac 2 N\right)\right)^{a}, \qquad
        \sigma_c = \left(2 - \tfrac 2 N\right) \mu^a \left(1 - \tfrac 2 N\right)^{a - 1}, \qquad
        a = \frac{N}{2 N - 2}

    At depth 2, sigma_c = mu and s_c = 0: the singular value comes to zero continuously. It is
    there the threshold of the top singular value of -grad E(0) for every E, below which zero
    attracts. At depths above 2 it jumps: s_c > 0, and zero attracts whatever E is. At a larger
    sigma the singular value must start above the smaller solution of sigma = s + mu s^{2/N - 1} not
    to collapse.

    Examples
    --------
    >>> import math
    >>> import riemdln
    >>> riemdln.collapse_threshold(rate=0.25, depth=2)  # soft thresholding
    CollapseThreshold(sigma=0.25, singular_value=0.0)
    >>> riemdln.collapse_threshold(rate=0.25, depth=math.inf)
    CollapseThreshold(sigma=1.0, singular_value=0.5)
    """
    rate, depth = positive_number("rate", rate), real_depth("depth", depth)
    if depth < 2:
        return CollapseThreshold(0.0, 0.0)
    a, b = 1 / (2 - 2 / depth), 1.0 if math.isinf(depth) else (depth - 2) / depth
    return CollapseThreshold((2 - 2 / depth) * rate**a * b ** (a - 1), (rate * b) ** a)


def decayed_singular_value(sigma: ArrayLike, rate: float, depth: float) -> Any:
    r"""The singular value that a loss with weight decay rests at, from a start that is not small.

    It is the largest solution of :math:`\sigma = s + \mu s^{2/N - 1}`, or zero below the threshold.
    At depth 1 this is ridge regression, sigma / (1 + mu), and at depth 2 soft thresholding.

    Parameters
    ----------
    sigma : array_like
        The singular values of the target of ``E = |W - T|^2 / 2``, nonnegative.
    rate, depth : float
        See `collapse_threshold`.

    Returns
    -------
    float or array
        Of the shape of `sigma`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or what is left is below the range of a float.

    Examples
    --------
    >>> import riemdln
    >>> riemdln.decayed_singular_value([3.0, 1.0, 0.2], rate=0.5, depth=2)
    array([2.5, 0.5, 0. ])
    >>> riemdln.decayed_singular_value([3.0, 1.5, 0.3], rate=0.5, depth=1)
    array([2. , 1. , 0.2])
    """
    given = finite_array("sigma", sigma).astype(np.float64)
    if np.any(given < 0):
        raise ValueError(f"sigma must be nonnegative, got {sigma!r}")
    least, s_c = collapse_threshold(rate, depth)
    power, survives = 2 / depth - 1, (given >= least) & (given > 0)
    solvable = np.where(survives, given, 1.0 + least)

    def excess(s: Any, sigma: Any) -> Any:
        # Of differences from the threshold, so that the sign at s_c is right.
        return (s - s_c) + rate * (s**power - s_c**power) - (sigma - least)

    bracket = s_c + 0 * solvable, solvable * (1 + 1e-9)
    with np.errstate(over="ignore"):
        root = elementwise.find_root(
            excess, bracket, args=(solvable,), tolerances={"fatol": 0.0, "xatol": 0.0}
        )
    if not np.all(root.success):
        raise ValueError(
            f"sigma and rate must leave what is in the range of a float, got {sigma!r}, {rate!r}"
        )
    return np.where(survives, root.x, 0.0)[()]
