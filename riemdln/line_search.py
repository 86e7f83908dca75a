"""A line searcher that does not search: a constant learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from riemdln._arrays import NotFiniteError, nonnegative_number, positive_number
from riemdln.weight_decay import balanced_depth

__all__ = ["FixedStep"]


class FixedStep:
    """A constant learning rate for pymanopt's SteepestDescent and ConjugateGradient.

    Each step goes ``step_size`` times the descent direction along the retraction, whatever the cost
    does. With `FullRank` and its "linear" retraction that is W - h A_W(grad E). With the "network"
    retraction it is a step of gradient descent on the layers of a balanced deep linear network.

    Parameters
    ----------
    step_size : float
        The learning rate h, positive.
    weight_decay : float
        The rate mu at which the weights of each layer decay, as ``torch.optim.SGD`` takes it: every
        step multiplies each layer by 1 - h mu. On the matrix this is decoupled weight decay. It
        needs a manifold with a `DeepLinearMetric`, and 1 - h mu > 0.

    Raises
    ------
    TypeError, ValueError
        If `step_size` is not a positive, finite number, weight_decay is not a nonnegative one
        below 1 / h, or the manifold's metric has no depth that weights could decay at.

    Notes
    -----
    pymanopt's optimizers stop where a step is shorter than their `min_step_size`. Here they compare
    it with the learning rate, not with the length of the step, so that a run goes on until
    `min_gradient_norm` or `max_iterations` ends it, unless the learning rate itself is smaller.
    With a far too large learning rate the run diverges, until an error says so.

    Near a minimum the rate has to be less than `max_stable_step`, which is known from the Hessian
    there, for every retraction. Nine tenths of it are a good first choice where the minimum, and
    not the start, is the steepest place of the run.

    A layer W_j moves to (1 - h mu) W_j - h G_j with its gradient G_j, so that their product moves
    to the point of a step of h / (1 - h mu) without decay, times (1 - h mu)^N. At infinite depth,
    in the time of A_N / N, this is a step of h, times exp(-h mu). The optimizer's cost does
    not contain the decay, and the gradient does not go to zero: `max_iterations` ends the run. See
    `layer_decay` for the cost that decays.

    Examples
    --------
    >>> from pymanopt.optimizers import SteepestDescent
    >>> import riemdln
    >>> optimizer = SteepestDescent(riemdln.FixedStep(1e-2), max_iterations=100, verbosity=0)

    With a rate from the Hessian at the minimum:

    >>> import autograd.numpy as anp
    >>> import numpy as np
    >>> import pymanopt
    >>> manifold = riemdln.FullRank(2, 2, riemdln.DeepLinearMetric(3), retraction="network", rng=0)
    >>> target = np.diag([4.0, 1.0])
    >>> @pymanopt.function.autograd(manifold)
    ... def cost(W):
    ...     return anp.sum((W - target) ** 2) / 2
    >>> problem = pymanopt.Problem(manifold, cost)
    >>> rate = riemdln.FixedStep(0.9 * riemdln.max_stable_step(problem, target))
    >>> round(rate.step_size, 6)
    0.094494
    >>> result = SteepestDescent(rate, verbosity=0).run(problem, initial_point=np.eye(2))
    >>> np.allclose(result.point, target, atol=1e-5)
    True
    """

    def __init__(self, step_size: float, weight_decay: float = 0.0) -> None:
        self.step_size = positive_number("step_size", step_size)
        self.weight_decay = nonnegative_number("weight_decay", weight_decay)
        if not self.step_size * self.weight_decay < 1:
            raise ValueError(
                f"weight_decay must be below 1 / step_size = {1 / self.step_size:g}, so that "
                f"weights keep their signs, got {weight_decay!r}"
            )

    def __repr__(self) -> str:
        decay = f", weight_decay={self.weight_decay:.15g}" if self.weight_decay else ""
        return f"FixedStep({self.step_size:.15g}{decay})"

    def search(
        self, objective: Callable[..., float], manifold: Any, x: Any, d: Any, f0: float, df0: float
    ) -> tuple[float, Any]:
        """Take one step: the learning rate and the new point, as pymanopt's line searchers do.

        Raises
        ------
        ValueError
            If the slope `df0` is not finite, as where a run diverges.
        """
        if not math.isfinite(df0):
            raise NotFiniteError(
                f"the run diverged: its cost is {float(f0):g}, and its gradient is not finite or "
                f"has no finite length. The learning rate {self.step_size:g} may be too large: see "
                "max_stable_step"
            )
        if not self.weight_decay:
            return self.step_size, manifold.retraction(x, self.step_size * d)
        depth = balanced_depth(manifold)
        if depth is None:
            raise ValueError(
                "weight_decay needs a manifold with a DeepLinearMetric of balanced layers, which "
                f"decay, got {manifold}"
            )
        loss = self.step_size * self.weight_decay
        if math.isinf(depth):
            step, kept = self.step_size, math.exp(-loss)
        else:
            step, kept = self.step_size / (1 - loss), (1 - loss) ** depth
        return self.step_size, manifold.scaled(manifold.retraction(x, step * d), kept)
