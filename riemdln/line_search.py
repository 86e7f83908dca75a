"""A line searcher that does not search: a constant learning rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from riemdln._arrays import positive_number

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

    Raises
    ------
    TypeError, ValueError
        If `step_size` is not a positive, finite number.

    Notes
    -----
    pymanopt's optimizers stop where a step is shorter than their `min_step_size`. Here they compare
    it with the learning rate, not with the length of the step, so that a run goes on until
    `min_gradient_norm` or `max_iterations` ends it, unless the learning rate itself is smaller.
    With too large a learning rate the run diverges, until an error says that the gradient or the
    step is no longer finite.

    Near a minimum the rate has to be less than `max_stable_step`, which is known from the Hessian
    there, for every retraction. Nine tenths of it are a good first choice where the minimum, and
    not the start, is the steepest place of the run.

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
    >>> rate
    FixedStep(0.0944940787421155)
    >>> result = SteepestDescent(rate, verbosity=0).run(problem, initial_point=np.eye(2))
    >>> np.allclose(result.point, target, atol=1e-5)
    True
    """

    def __init__(self, step_size: float) -> None:
        self.step_size = positive_number("step_size", step_size)

    def __repr__(self) -> str:
        return f"FixedStep({self.step_size:.15g})"

    def search(
        self, objective: Callable[..., float], manifold: Any, x: Any, d: Any, f0: float, df0: float
    ) -> tuple[float, Any]:
        """Take one step: the learning rate and the new point, as pymanopt's line searchers do."""
        return self.step_size, manifold.retraction(x, self.step_size * d)
