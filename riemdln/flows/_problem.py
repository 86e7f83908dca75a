"""What a flow asks of a problem: costs and gradients, copy by copy or of a whole stack."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pymanopt
from pymanopt import Problem
from pymanopt.autodiff import Function
from pymanopt.manifolds.manifold import Manifold

from riemdln._arrays import true_or_false
from riemdln.manifolds._coordinates import Place

__all__ = ["Asked", "asked_of", "energy_problem", "gradient_of_stacks", "require_problem"]

_PROBLEM_OR_MANIFOLD = "a pymanopt.Problem or a manifold"


class Asked:
    """The costs and gradients of a problem, which are counted.

    Parameters
    ----------
    problem : pymanopt.Problem
        The problem.
    vectorized : bool
        Whether its cost and gradient take a stack of points (K, m, n) at once.

    Attributes
    ----------
    is_riemannian : bool
        Whether the problem came with a Riemannian gradient of its own.
    nfev : int
        How many gradients were asked for; that of a whole stack counts once.
    """

    def __init__(self, problem: Problem, *, vectorized: bool = False) -> None:
        require_problem(problem, "a pymanopt.Problem")
        self.nfev = 0
        self._vectorized = true_or_false("vectorized", vectorized)
        self._problem = problem
        # What a place says of terms, functions of singular values, has the accuracy of these.
        self._energy = getattr(problem, "without_spectral_terms", problem)
        self._terms = getattr(problem, "spectral_terms", ())
        self.is_riemannian = _is_own(self._energy.riemannian_gradient)

    @cached_property
    def _euclidean_gradient(self) -> Any:
        return self._gradient_of(self._problem)

    @cached_property
    def _energy_gradient(self) -> Any:
        return self._gradient_of(self._energy)

    def _gradient_of(self, problem: Problem) -> Any:
        return gradient_of_stacks(problem) if self._vectorized else problem.euclidean_gradient

    def require_stack(self, stack: tuple[int, ...], what: str = "points as initial_point") -> None:
        """Refuse a single point where the problem takes stacks."""
        if self._vectorized and not stack:
            raise ValueError(f"vectorized=True needs a stack of {what}, got one")

    def costs(self, point: Any, stack: tuple[int, ...]) -> Any:
        """The cost of a point, or those of a stack of points."""
        return self._costs(self._problem.cost, point, stack)

    def costs_at(self, place: Place, stack: tuple[int, ...]) -> Any:
        """The cost at a place, or those at a stack of places."""
        costs = self._costs(self._energy.cost, place.point, stack)
        return sum((term.value(place.in_frame()[0]) for term in self._terms), costs)

    def _costs(self, cost: Any, point: Any, stack: tuple[int, ...]) -> Any:
        if not stack:
            return _number(cost(point))
        if not self._vectorized:
            return np.array([_number(cost(W)) for W in point])
        costs = np.asarray(cost(point), dtype=np.float64)
        if costs.shape != stack:
            raise ValueError(
                f"the cost of a stack of points must have shape {stack}, one number for each, got "
                f"{costs.shape}: is vectorized=True right?"
            )
        return costs

    def euclidean_gradient(self, point: Any, stack: tuple[int, ...] = ()) -> Any:
        """The Euclidean gradient at a point, or at those of a stack."""
        return self._ask(self._euclidean_gradient, point, stack)

    def gradient(self, place: Place, stack: tuple[int, ...]) -> Any:
        """The Riemannian gradient at a place, in the form of its tangent vectors."""
        if self.is_riemannian:
            return place.tangent(self.given_gradient(place.point, stack))
        gradient = place.gradient(self._ask(self._energy_gradient, place.point, stack))
        if not self._terms:
            return gradient
        at, join = place.in_frame()
        return sum((join(term.riemannian_gradient(at)) for term in self._terms), gradient)

    def given_gradient(self, point: Any, stack: tuple[int, ...]) -> Any:
        """The gradient as the problem has it, Riemannian or Euclidean, of a point or a stack."""
        if self.is_riemannian:
            return self._ask(self._problem.riemannian_gradient, point, stack)
        return self._ask(self._euclidean_gradient, point, stack)

    def _ask(self, gradient: Any, point: Any, stack: tuple[int, ...]) -> Any:
        if stack and not self._vectorized:
            gradients = np.array([gradient(W) for W in point])
        else:
            gradients = gradient(point)
        self.nfev += 1
        return gradients


def asked_of(problem: Any, *, vectorized: bool) -> tuple[Asked | None, Any]:
    """What a flow asks of a problem, and its manifold; of a manifold alone nothing is asked."""
    if isinstance(problem, Manifold):
        return None, problem
    require_problem(problem, _PROBLEM_OR_MANIFOLD)
    return Asked(problem, vectorized=vectorized), problem.manifold


def energy_problem(problem: Any) -> Problem:
    """The problem itself, or on a manifold that was given in its place the one without a cost."""
    if not isinstance(problem, Manifold):
        require_problem(problem, _PROBLEM_OR_MANIFOLD)
        return problem
    plain = pymanopt.function.numpy(problem)
    return Problem(
        problem,
        plain(lambda W: 0.0 * W[..., 0, 0]),
        euclidean_gradient=plain(lambda W: 0.0 * W),
        euclidean_hessian=plain(lambda W, X: 0.0 * X),
    )


def _is_own(derivative: Any) -> bool:
    """Whether a problem came with a Riemannian derivative of its own."""
    # pymanopt wraps what it was given, and makes the others itself.
    return hasattr(derivative, "__wrapped__")


def require_problem(problem: Any, expected: str) -> None:
    """Raise a TypeError for what is no problem."""
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be {expected}, got {type(problem).__name__}")


def _number(cost: Any) -> float:
    """The cost of a point as a float."""
    value = np.asarray(cost)
    if value.shape or value.dtype.kind not in "fiub":
        raise TypeError(f"the cost of a point must be a real number, got {cost!r}")
    return float(value)


def gradient_of_stacks(problem: Problem) -> Any:
    """The Euclidean gradients of a stack of points, whatever the backend."""
    if isinstance(getattr(problem.euclidean_gradient, "__wrapped__", None), Function):
        return problem.euclidean_gradient
    # Copies do not depend on each other: the gradient of the sum of costs holds those of all.
    try:
        cost = problem.cost.__wrapped__
        backend, function = cost._backend, cost._original_function
    except AttributeError as error:  # these are pymanopt's own
        raise TypeError(
            "vectorized=True needs a problem with a euclidean_gradient of stacks: this version of "
            "pymanopt does not say what its cost is differentiated by"
        ) from error
    return backend.generate_gradient_operator(lambda points: function(points).sum(), 1)
