"""The Riemannian Langevin equation, and Brownian motion."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pymanopt import Problem
from pymanopt.manifolds.manifold import Manifold

from riemdln._arrays import (
    Rng,
    finite_array,
    increasing_times,
    positive_number,
    random_generator,
    true_or_false,
)
from riemdln.flows._problem import asked_of
from riemdln.flows._recorder import record
from riemdln.flows._results import LangevinFlow
from riemdln.flows._schemes import SCHEMES, Equation, Metropolis
from riemdln.flows._stepped import Stepped
from riemdln.manifolds._coordinates import entry_coordinates_around

__all__ = ["equation_of", "langevin_flow"]

Vector = NDArray[np.floating[Any]]


def langevin_flow(
    problem: Problem | Manifold,
    initial_point: ArrayLike,
    times: ArrayLike,
    *,
    beta: float,
    step_size: float,
    entropy: bool = True,
    scheme: str | None = None,
    metropolis: bool = False,
    vectorized: bool = False,
    rng: Rng = None,
    progress: bool = False,
) -> LangevinFlow:
    r"""Solve the Riemannian Langevin equation: a gradient flow with noise.

    .. math::

        dW = -A(\nabla E) \, dt + \tfrac{1}{\beta} \bigl(\Delta_g W + A(\nabla S)\bigr) dt
             + \sqrt{2 / \beta} \, A^{1/2} dB

    in Ito's sense, with the cost E and the cometric A of the metric g. The entropy S is what the
    noise of many layers adds: with ``DeepLinearMetric(N)`` the end-to-end matrix of a balanced
    network, of which each weight has noise that keeps the balance, moves by this equation. Without
    S it is Langevin's equation of the manifold alone; without E and S, at beta = 2, it is Brownian
    motion under g.

    Parameters
    ----------
    problem : pymanopt.Problem or manifold
        The cost and the manifold, `FullRank` with any metric. The manifold itself stands for the
        cost E = 0.
    initial_point : array_like (m, n) or (K, m, n)
        Where it starts, of full rank; a stack is K independent copies.
    times : array_like (T,)
        Strictly increasing times; it starts at the first and is returned at all.
    beta : float
        The inverse temperature, positive: noise has the variance 2 / beta for a unit of time.
    step_size : float
        The longest step. The time between two of `times` is divided into equal ones.
    entropy : bool
        Whether the entropy takes part, which `DeepLinearMetric` has.
    scheme : {"splitting", "euler"}, optional
        The splitting into steps of noise and steps down the gradient has weak order two, and
        under ``DeepLinearMetric`` of finite depth, without E and S, it gives the singular values
        their exact law at every step size. Euler and Maruyama's scheme has weak order one:
        expectations are off by a multiple of the step, which grows with the square of the depth.
        It takes a half to a sixth of the time of the other, which is the default.
    metropolis : bool
        Whether to take steps of Euler's scheme that are accepted or rejected, so that the
        stationary law exp(-beta E + S) sqrt(det g) dW is exact at every step size. Paths are those
        of the equation in the limit of small steps only.
    vectorized : bool, optional
        Whether the cost and its gradient take the whole stack at once: see `gradient_flow`.
    rng : numpy.random.Generator, int or None
        The source of randomness, or a seed for one.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    LangevinFlow

    Raises
    ------
    FlowError
        If a step leaves the range of floating-point numbers, the cost or its gradient is not
        finite, the entries of W cannot hold the singular values that noise leads to (at infinite
        depth), or none of the first 100 Metropolis steps is accepted.
    TypeError, ValueError
        If the manifold is not an open set of matrices, the metric has no entropy, the start is no
        point of full rank, or another argument is not as described.

    See Also
    --------
    sample : draws from the stationary law.
    free_energy : the cost E - S / beta.

    Notes
    -----
    Noise takes square matrices to determinant zero. Balanced layers pass through it on a straight
    line, along which the smallest singular value of each of the N layers changes sign: so the
    determinant changes sign at odd depths, and at even ones it comes back with
    the sign that it had. This is what happens here (`Metric.changes_determinant_sign`); at depths
    that are no whole number the determinant keeps its sign, and at infinite depth it never is zero.
    Metropolis steps to a sign that it cannot have are rejected, and so are those to a cost that is
    infinite or NaN, where no gradient is asked.

    Whatever ends it early carries what was computed until then: see `gradient_flow`.

    References
    ----------
    - G. Menon, T. Yu. An entropy formula for the deep linear network. 2025.
    - G. Strang. On the construction and comparison of difference schemes. SIAM J. Numer. Anal.
      1968.
    - M. Ninomiya, S. Ninomiya. A new higher-order weak approximation scheme for stochastic
      differential equations and the Runge-Kutta method. Finance Stoch. 2009.
    - G. O. Roberts, O. Stramer. Langevin diffusions and Metropolis-Hastings algorithms.
      Methodol. Comput. Appl. Probab. 2002.

    Examples
    --------
    >>> import numpy as np
    >>> import riemdln
    >>> manifold = riemdln.FullRank(2, 4, riemdln.DeepLinearMetric(depth=3))
    >>> start = np.tile(np.eye(2, 4), (500, 1, 1))
    >>> flow = riemdln.langevin_flow(
    ...     manifold, start, [0.0, 0.5], beta=2.0, step_size=0.1, entropy=False, rng=0
    ... )
    >>> mean = np.sum(3 * flow.singular_values ** (2 / 3), axis=-1).mean(axis=-1)
    >>> np.round(mean)  # which grows by m n = 8 for a unit of time
    array([ 6., 10.])
    """
    rng = random_generator("rng", rng)
    equation, points, is_stack = equation_of(
        problem, initial_point, beta=beta, entropy=entropy, vectorized=vectorized
    )
    metropolis = true_or_false("metropolis", metropolis)
    if metropolis and scheme is not None:
        raise ValueError(f"scheme must be left out with metropolis=True, got {scheme!r}")
    scheme = "splitting" if scheme is None else scheme
    if not isinstance(scheme, str) or scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, got {scheme!r}")
    kind = Metropolis if metropolis else SCHEMES[scheme]
    step_size = positive_number("step_size", step_size)
    times = increasing_times("times", times)
    run = Stepped(kind(equation, points, rng), times, step_size, is_stack, progress)
    return record(LangevinFlow, run)


def equation_of(
    problem: Problem | Manifold,
    initial_point: ArrayLike | Callable[[Any], ArrayLike],
    *,
    beta: float,
    entropy: bool,
    vectorized: bool,
) -> tuple[Equation, Vector, bool]:
    """The equation, its start as a stack of points, and whether it was given as one.

    A start may be a function of the manifold.
    """
    beta = positive_number("beta", beta)
    asked, manifold = asked_of(problem, vectorized=vectorized)
    metric = getattr(manifold, "metric", None)
    refused = ValueError(
        "problem must be on an open set of matrices with a metric, such as FullRank, got "
        f"{manifold}"
    )
    if metric is None or manifold.point_layout != 1:
        raise refused
    if callable(initial_point):
        initial_point = initial_point(manifold)
    coordinates = entry_coordinates_around(manifold, initial_point)
    points = finite_array("initial_point", initial_point).astype(np.float64)
    shape = points.shape
    if len(shape) not in (2, 3) or manifold.dim != math.prod(shape[-2:]):
        raise refused
    if true_or_false("entropy", entropy) and not hasattr(metric, "entropy"):
        raise ValueError(
            f"entropy must be False where the metric has none: {metric!r} is not a DeepLinearMetric"
        )
    if asked is not None:
        asked.require_stack(coordinates.stack)
    if not np.linalg.svd(points, compute_uv=False)[..., -1].all():
        raise ValueError("initial_point must have full rank, but it has a singular value of zero")
    return Equation(metric, beta, entropy, asked), points.reshape(-1, *shape[-2:]), len(shape) == 3
