"""The Riemannian Langevin equation, and the steps of the schemes that solve it.

All is done on a stack of matrices (K, m, n), K independent copies.
"""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from riemdln._arrays import NotFiniteError, finite, point_of_shape
from riemdln.flows._problem import Asked
from riemdln.flows._recorder import Row
from riemdln.flows._results import FlowError
from riemdln.metrics import Metric
from riemdln.metrics._diffusion import DiffusionAt

__all__ = ["SCHEMES", "Equation", "Metropolis", "Scheme"]

Vector = NDArray[np.floating[Any]]

# A proposal with entries beyond this is not worth a look: products with its cometric overflow.
_FAR = 1e50

# How long a drift of Metropolis steps may be, in lengths of their noise.
_LONGEST_DRIFT = 3.0

# After so many steps of which none was accepted a run is over.
_PATIENCE = 100


class Equation:
    r"""The Riemannian Langevin equation, in Ito's form.

    .. math::

        dW = -A(\nabla E) \, dt + \tfrac{1}{\beta} (\Delta_g W + A(\nabla S)) \, dt
             + \sqrt{2 / \beta} \, A^{1/2} dB

    Parameters
    ----------
    metric : Metric
        The metric g, with the cometric A.
    beta : float
        The inverse temperature.
    entropy : bool
        Whether the entropy S takes part.
    asked : Asked or None
        The cost E and its gradient; None for E = 0.
    """

    def __init__(self, metric: Metric, beta: float, entropy: bool, asked: Asked | None) -> None:
        self.metric, self.diffusion, self.beta = metric, metric.diffusion(), beta
        self._entropy, self._asked = entropy, asked

    @property
    def nfev(self) -> int:
        """How many gradients of the cost were evaluated."""
        return 0 if self._asked is None else self._asked.nfev

    def costs(self, points: Vector) -> Vector:
        """The costs of points."""
        if self._asked is None:
            return np.zeros(len(points))
        return self._asked.costs(points, points.shape[:1])

    def gradient_norms(self, at: DiffusionAt) -> Vector:
        """The norms of the Riemannian gradients of the cost."""
        if self._asked is None:
            return np.zeros(len(at.points))
        return np.linalg.norm(at.inverse_root(self._gradient(at)), axis=(-2, -1))

    def drift(self, at: DiffusionAt, size: float, descent: Vector) -> Vector:
        """The drift of Ito's form, for a step of some size."""
        return at.laplacian(size / self.beta) / self.beta + descent

    @property
    def has_energy(self) -> bool:
        """Whether there is a cost or an entropy."""
        return self._entropy or self._asked is not None

    def descent(self, at: DiffusionAt) -> Vector:
        """The part of the drift that goes down the gradient of E - S / beta."""
        descent = np.zeros_like(at.points)
        if self._entropy:
            descent += at.entropy_gradient() / self.beta
        if self._asked is not None:
            descent -= self._gradient(at)
        return descent

    def noise(self, at: DiffusionAt, gaussian: Vector) -> Vector:
        """The noise (2 / beta)^{1/2} A^{1/2} Z of a unit of time, for a Gaussian matrix Z."""
        return (2 / self.beta) ** 0.5 * at.root(gaussian)

    def log_density(self, at: DiffusionAt) -> Vector:
        r"""The logarithm of the stationary density of states, ln(exp(-beta E + S) sqrt(det g))."""
        return self.log_weight(at, self.costs(at.points)) + at.log_volume()

    def log_weight(self, at: DiffusionAt, costs: Vector) -> Vector:
        """That of the density under the metric's volume, S - beta E, from the costs."""
        return (at.entropy() if self._entropy else 0.0) - self.beta * costs

    def _gradient(self, at: DiffusionAt) -> Vector:
        """The Riemannian gradient of the cost, as a velocity of states."""
        asked: Any = self._asked
        given = asked.given_gradient(at.points, at.points.shape[:1])
        gradient = point_of_shape("the gradient of the cost", given, at.points.shape)
        gradient = finite("the gradient of the cost", gradient)
        return at.tangent(gradient) if asked.is_riemannian else at.sharp(gradient)


class Scheme(abc.ABC):
    """A scheme that moves states along an equation.

    Parameters
    ----------
    equation : Equation
        The equation.
    points : array (K, m, n)
        The points where it starts.
    rng : numpy.random.Generator
        The source of randomness.

    Attributes
    ----------
    states : array (K, m, n)
        The states that it has come to.
    copies : int
        How many there are, K.
    accepted : array (K,)
        How many of its steps were accepted.
    """

    def __init__(self, equation: Equation, points: Vector, rng: np.random.Generator) -> None:
        self.equation, self._rng = equation, rng
        self.states = equation.diffusion.states(points)
        self.copies = len(points)
        self.accepted = np.zeros(self.copies, dtype=int)
        m, n = points.shape[-2:]
        self._keeps_signs = m == n and not equation.metric.changes_determinant_sign
        self._signs = np.linalg.slogdet(points)[0] if self._keeps_signs else np.ones(len(points))

    @property
    def nfev(self) -> int:
        """How many gradients were evaluated."""
        return self.equation.nfev

    def costs(self) -> Vector:
        """The costs of the copies."""
        return self.equation.costs(self.at().points)

    def observe(self) -> Row:
        """What the result keeps of the copies."""
        at = self.at()
        return {
            "points": at.points,
            "costs": self.equation.costs(at.points),
            "gradient_norms": self.equation.gradient_norms(at),
            "singular_values": at.singular_values,
        }

    def account(self, steps: int) -> Row:
        """The share of the steps that were accepted."""
        return {"acceptance_rates": self.accepted / max(steps, 1)}

    @abc.abstractmethod
    def step(self, size: float) -> None:
        """Take one step of time."""

    def at(self) -> DiffusionAt:
        """The diffusion at the states."""
        return self.equation.diffusion.at(self.states)

    def _gaussian(self) -> Vector:
        return self._rng.standard_normal(self.states.shape)

    def _crossed(self, states: Vector) -> Any:
        """Which states have a determinant of a sign that they cannot have."""
        if not self._keeps_signs:
            return np.zeros(len(states), dtype=bool)
        return np.linalg.slogdet(states)[0] != self._signs

    def _reflected(self, states: Vector) -> Vector:
        """The states, reflected where they have crossed: the least singular value changes sign."""
        crossed = self._crossed(_checked(states))
        if crossed.any():
            U, s, Vt = np.linalg.svd(states[crossed])
            s[:, -1] *= -1
            states[crossed] = U * s[:, None, :] @ Vt
        return states

    def _take(self, states: Vector) -> None:
        """Go to states."""
        self.states = states
        self.accepted += 1

    def _require_held(self, size: float) -> None:
        """Raise where the states do not hold their singular values in a step of some size."""
        variance = 2 * size / self.equation.beta
        held = self.equation.diffusion.holds_least_singular_value(self.states, variance)
        lost = ~np.broadcast_to(held, self.copies)
        if np.any(lost):
            raise NotFiniteError(
                f"{np.sum(lost)} of {self.copies} copies have singular values so small beside the "
                "largest that the entries of W do not hold them in a step of this size: it must be "
                "smaller, or there is no way on"
            )


class Euler(Scheme):
    """The Euler-Maruyama scheme, of weak order one."""

    def step(self, size: float) -> None:
        self._require_held(size)
        at, equation = self.at(), self.equation
        noise = size**0.5 * equation.noise(at, self._gaussian())
        drift = equation.drift(at, size, equation.descent(at))
        self._take(self._reflected(self.states + size * drift + noise))


class Splitting(Scheme):
    """Half a step down the gradient of E - S / beta, one of noise, and another half.

    Each is of order two, and so is the whole, as it is symmetric (Strang 1968).
    """

    def step(self, size: float) -> None:
        self._require_held(size)
        variance = 2 * size / self.equation.beta
        states = self._descended(self.states, size / 2)
        states = self.equation.diffusion.brownian_step(states, variance, self._rng, self._reflected)
        self._take(self._descended(states, size / 2))

    def _descended(self, states: Vector, size: float) -> Vector:
        """Down the gradient by the midpoint method."""
        equation = self.equation
        if not equation.has_energy:
            return states
        half = states + size / 2 * equation.descent(equation.diffusion.at(states))
        middle = equation.diffusion.at(_checked(half))
        return self._reflected(states + size * equation.descent(middle))


class Metropolis(Scheme):
    """Steps of Euler's scheme that are accepted or rejected, so that the density is kept.

    A long drift is cut (Roberts and Tweedie 1996). Of a proposal W' from W the chance is that of
    Hastings: with the density q(W' | W) of the step, min(1, pi(W') q(W | W') / (pi(W) q(W' | W))).
    A proposal to a determinant of a sign that it cannot have, or where the cost is infinite or NaN,
    is rejected.
    """

    def __init__(self, equation: Equation, points: Vector, rng: np.random.Generator) -> None:
        super().__init__(equation, points, rng)
        self._here: _Seen | None = None
        self._tried = 0

    def step(self, size: float) -> None:
        equation, beta = self.equation, self.equation.beta
        here = self._here
        if here is None:
            self._require_held(0.0)
            at = self.at()
            here = self._seen(self.states, at, equation.costs(at.points))
        gaussian = self._gaussian()
        drift = self._drift(here, size)
        proposals = here.states + size * drift + size**0.5 * equation.noise(here.at, gaussian)
        outside = _are_far(proposals)
        proposals = np.where(outside[:, None, None], here.states, proposals)
        outside |= self._crossed(proposals)
        at = equation.diffusion.at(proposals)
        far = _are_far(at.points)
        if far.any():  # powers of states that are not
            proposals = np.where(far[:, None, None], here.states, proposals)
            at, outside = equation.diffusion.at(proposals), outside | far
        costs = equation.costs(at.points)
        undefined = ~(costs < np.inf)
        if undefined.any():  # and so there need not be a gradient
            proposals = np.where(undefined[:, None, None], here.states, proposals)
            costs = np.where(undefined, here.costs, costs)
            at, outside = at.where(~undefined, here.at), outside | undefined
        there = self._seen(proposals, at, costs)
        back = at.inverse_root(here.states - proposals - size * self._drift(there, size))
        forward = np.sum(gaussian**2, axis=(-2, -1)) / 2
        backward = beta / (4 * size) * np.sum(back**2, axis=(-2, -1))
        log_ratio = there.log_weight - backward - (here.log_weight - forward)
        # Of a NaN no comparison is true.
        accepted = (np.log(self._rng.random(len(proposals))) < log_ratio) & ~outside
        self.accepted += accepted
        self._here = there.where(accepted, here)
        self.states = self._here.states
        self._tried += 1
        if self._tried == _PATIENCE and not self.accepted.any():
            raise FlowError(
                f"none of {_PATIENCE} steps was accepted: step_size must be less than {size:g}"
            )

    def at(self) -> DiffusionAt:
        """The diffusion at the states."""
        return super().at() if self._here is None else self._here.at

    def _drift(self, seen: _Seen, size: float) -> Vector:
        """The drift, cut where a step of it is longer than three times one of noise.

        Far out, where the cost is steep, a chain would else propose the same far leap for ever.
        """
        drift = self.equation.drift(seen.at, size, seen.descent)
        steps = size * np.linalg.norm(seen.at.inverse_root(drift), axis=(-2, -1))
        longest = _LONGEST_DRIFT * (2 * size / self.equation.beta * drift[0].size) ** 0.5
        with np.errstate(divide="ignore"):
            return drift * np.minimum(longest / steps, 1.0)[:, None, None]

    def _seen(self, states: Vector, at: DiffusionAt, costs: Vector) -> _Seen:
        # One volume sqrt(det g) is that of the stationary density, one of the density of a step.
        log_weight = self.equation.log_weight(at, costs) + 2 * at.log_volume()
        return _Seen(states, at, costs, self.equation.descent(at), log_weight)


class _Seen(NamedTuple):
    """What a Metropolis step needs of K states."""

    states: Vector
    at: DiffusionAt
    costs: Vector
    descent: Vector
    log_weight: Vector

    def where(self, condition: Any, other: _Seen) -> _Seen:
        """These where a condition holds, and others elsewhere."""
        each = condition[:, None, None]
        return _Seen(
            np.where(each, self.states, other.states),
            self.at.where(condition, other.at),
            np.where(condition, self.costs, other.costs),
            np.where(each, self.descent, other.descent),
            np.where(condition, self.log_weight, other.log_weight),
        )


def _checked(states: Vector) -> Vector:
    """The states, if they are finite."""
    if not np.isfinite(states).all():
        raise NotFiniteError("the step has left the range of floating-point numbers")
    return states


def _are_far(matrices: Vector) -> Any:
    """Which of some matrices have entries that are too large, or NaN."""
    with np.errstate(invalid="ignore"):
        return ~(np.abs(matrices).max(axis=(-2, -1)) < _FAR)


# The schemes by their names.
SCHEMES: dict[str, type[Scheme]] = {"euler": Euler, "splitting": Splitting}
