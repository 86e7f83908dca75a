"""The Riemannian Langevin equation, and the steps of the schemes that solve it.

All is done on a stack of matrices (K, m, n), K independent copies.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from riemdln._arrays import NotFiniteError
from riemdln.flows._problem import Asked
from riemdln.metrics import Metric, MetricAt

__all__ = ["SCHEMES", "Equation", "Metropolis", "Scheme"]

Vector = NDArray[np.floating[Any]]

# Entries of a proposal beyond this are not worth a look.
_FAR = 1e100


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
        self.metric, self.beta = metric, beta
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

    def gradient_norms(self, points: Vector) -> Vector:
        """The norms of the Riemannian gradients of the cost."""
        if self._asked is None:
            return np.zeros(len(points))
        at = self.metric.at(points)
        gradient = self._asked.given_gradient(points, points.shape[:1])
        if not self._asked.is_riemannian:
            gradient = at.sharp(gradient)
        return np.sqrt(at.inner(gradient, gradient))

    def drift(self, points: Vector, at: MetricAt) -> Vector:
        """The drift of Ito's form."""
        at, there, back = at.in_frame()
        drift = at.coordinate_laplacian() / self.beta
        covectors = []
        if self._entropy:
            covectors.append(at.entropy_gradient() / self.beta)  # type: ignore[attr-defined]
        if self._asked is not None:
            gradient = self._asked.given_gradient(points, points.shape[:1])
            if self._asked.is_riemannian:
                drift = drift - there("riemannian_gradient", gradient)
            else:
                covectors.append(-there("euclidean_gradient", gradient))
        if covectors:
            drift = drift + at.sharp(sum(covectors[1:], covectors[0]))
        return back(drift)

    def stratonovich_drift(self, points: Vector, at: MetricAt) -> Vector:
        """The drift of Stratonovich's form, which obeys the chain rule."""
        return self.drift(points, at) - 2 / self.beta * at.ito_drift()

    def noise(self, at: MetricAt, gaussian: Vector) -> Vector:
        """The noise (2 / beta)^{1/2} A^{1/2} Z of a unit of time, for a Gaussian matrix Z."""
        return (2 / self.beta) ** 0.5 * at.root(gaussian)

    def log_density(self, costs: Vector, at: MetricAt) -> Vector:
        r"""The logarithm of the stationary density in W, ln(exp(-beta E + S) sqrt(det g))."""
        entropy = at.entropy() if self._entropy else 0.0  # type: ignore[attr-defined]
        return -self.beta * costs + entropy + at.log_volume()


class Scheme(abc.ABC):
    """A scheme that moves points along an equation.

    Parameters
    ----------
    equation : Equation
        The equation.
    points : array (K, m, n)
        Where it starts.
    rng : numpy.random.Generator
        The source of randomness.

    Attributes
    ----------
    points : array (K, m, n)
        The points that it has come to.
    accepted : array (K,)
        How many of its steps were accepted.
    lost : int
        How many proposals were rejected since they had singular values that are rounding errors.
    """

    def __init__(self, equation: Equation, points: Vector, rng: np.random.Generator) -> None:
        self.equation, self.points, self._rng = equation, points, rng
        self.accepted = np.zeros(len(points), dtype=int)
        self.lost = 0
        m, n = points.shape[-2:]
        self._keeps_signs = m == n and not equation.metric.changes_determinant_sign
        self._signs = np.linalg.slogdet(points)[0] if self._keeps_signs else np.ones(len(points))

    @abc.abstractmethod
    def step(self, size: float) -> None:
        """Take one step of time."""

    def _gaussian(self) -> Vector:
        return self._rng.standard_normal(self.points.shape)

    def _crossed(self, points: Vector) -> Any:
        """Which points have a determinant of a sign that they cannot have."""
        if not self._keeps_signs:
            return np.zeros(len(points), dtype=bool)
        return np.linalg.slogdet(points)[0] != self._signs

    def _settle(self, points: Vector) -> None:
        """Take points, their least singular value with its other sign where they have crossed."""
        if not np.isfinite(points).all():
            raise NotFiniteError("the step has left the range of floating-point numbers")
        crossed = self._crossed(points)
        if crossed.any():
            U, s, Vt = np.linalg.svd(points[crossed])
            s[:, -1] *= -1
            points[crossed] = U * s[:, None, :] @ Vt
        self.points = points
        self.accepted += 1

    def _at(self, points: Vector, size: float) -> MetricAt:
        """The metric at points, if noise covers the rounding errors of their singular values."""
        at = self.equation.metric.at(points)
        lost = (2 * size / self.equation.beta) ** 0.5 * at.relative_noise_at_rounding() < 1
        if np.any(lost):
            raise NotFiniteError(
                f"{np.sum(lost)} of {len(points)} copies have singular values that are rounding "
                "errors of W, from which the noise of a step does not lift them: a matrix does not "
                "hold singular values of this spread"
            )
        return at


class Euler(Scheme):
    """The Euler-Maruyama scheme, of weak order one."""

    def step(self, size: float) -> None:
        points, equation = self.points, self.equation
        at = self._at(points, size)
        noise = size**0.5 * equation.noise(at, self._gaussian())
        self._settle(points + size * equation.drift(points, at) + noise)


class Ninomiya(Scheme):
    r"""The scheme of Ninomiya and Ninomiya, of weak order two.

    With the drift b of Stratonovich's form and Gaussian matrices Z_1, Z_2 of variances 1/2 and 3/2
    and covariance -1/2, it follows dW/du = h^{1/2} A^{1/2} Z_1, and then
    dW/du = h b + h^{1/2} A^{1/2} Z_2, each for a unit of u. A Runge-Kutta method of order four
    does, since the terms of its error at h^{5/2} are odd in the Gaussians.
    """

    def step(self, size: float) -> None:
        equation, metric = self.equation, self.equation.metric
        first = self._gaussian() / 2**0.5
        second = self._gaussian() - first
        self._at(self.points, size)

        def along_first(points: Vector) -> Vector:
            return size**0.5 * equation.noise(metric.at(points), first)

        def along_second(points: Vector) -> Vector:
            at = metric.at(points)
            drift = size * equation.stratonovich_drift(points, at)
            return drift + size**0.5 * equation.noise(at, second)

        self._settle(_runge_kutta(along_second, _runge_kutta(along_first, self.points)))


class Metropolis(Scheme):
    """Steps of Euler's scheme that are accepted or rejected, so that the density is kept.

    Of a proposal W' from W the chance is that of Hastings: with the density q(W' | W) of the step,
    min(1, pi(W') q(W | W') / (pi(W) q(W' | W))). A proposal to a determinant of a sign that it
    cannot have, or with a singular value that is a rounding error, is rejected.
    """

    def __init__(self, equation: Equation, points: Vector, rng: np.random.Generator) -> None:
        super().__init__(equation, points, rng)
        self._here: _Seen | None = None

    def step(self, size: float) -> None:
        here = self._here or self._seen(self.points, self.equation.metric.at(self.points))
        proposals = here.points + size * here.drift + size**0.5 * here.noise
        with np.errstate(invalid="ignore"):
            outside = ~(np.abs(proposals).max(axis=(-2, -1)) < _FAR)
        proposals = np.where(outside[:, None, None], here.points, proposals)
        outside |= self._crossed(proposals)
        at = self.equation.metric.at(proposals)
        lost = at.relative_noise_at_rounding() < np.inf
        proposals = np.where(np.reshape(lost, (-1, 1, 1)), here.points, proposals)
        if np.any(lost):
            at = self.equation.metric.at(proposals)
        self.lost += np.sum(lost)
        there = self._seen(proposals, at)
        back = at.inverse_root(here.points - proposals - size * there.drift)
        half_square = self.equation.beta / (4 * size) * np.sum(back**2, axis=(-2, -1))
        log_ratio = there.log_weight - half_square - here.log_weight + here.half_square
        # Of a NaN no comparison is true.
        accepted = (np.log(self._rng.random(len(proposals))) < log_ratio) & ~(outside | lost)
        self.accepted += accepted
        self._here = there.where(accepted, here)
        self.points = self._here.points

    def _seen(self, points: Vector, at: MetricAt) -> _Seen:
        """What a step needs of points, with the noise of the next one."""
        equation, gaussian = self.equation, self._gaussian()
        # The density of a step has the volume sqrt(det g) at its start.
        log_weight = equation.log_density(equation.costs(points), at) + at.log_volume()
        half_square = np.sum(gaussian**2, axis=(-2, -1)) / 2
        noise = equation.noise(at, gaussian)
        return _Seen(points, equation.drift(points, at), noise, half_square, log_weight)


class _Seen(NamedTuple):
    """What a Metropolis step needs of points: all of it arrays with K copies."""

    points: Vector
    drift: Vector
    noise: Vector
    half_square: Vector
    log_weight: Vector

    def where(self, condition: Any, other: _Seen) -> _Seen:
        """These where a condition holds, and others elsewhere."""
        return _Seen(
            *(
                np.where(condition[:, None, None] if mine.ndim == 3 else condition, mine, its)
                for mine, its in zip(self, other, strict=True)
            )
        )


def _runge_kutta(field: Callable[[Vector], Vector], points: Vector) -> Vector:
    """The flow of a vector field for a unit of time, by one classical step of order four."""
    a = field(points)
    b = field(points + a / 2)
    c = field(points + b / 2)
    d = field(points + c)
    return points + (a + 2 * b + 2 * c + d) / 6


# The schemes by their names.
SCHEMES: dict[str, type[Scheme]] = {"euler": Euler, "ninomiya": Ninomiya}
