"""The Riemannian Langevin equation, and Brownian motion."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pymanopt import Problem
from pymanopt.manifolds.manifold import Manifold

from riemdln._arrays import (
    NotFiniteError,
    Rng,
    increasing_times,
    positive_number,
    random_generator,
)
from riemdln.flows._problem import Asked
from riemdln.flows._recorder import Row, progress_bar, record
from riemdln.flows._results import FlowError, LangevinFlow
from riemdln.flows._schemes import SCHEMES, Equation, Metropolis, Scheme
from riemdln.flows._trajectory import REASONS
from riemdln.manifolds._coordinates import coordinates_around

__all__ = ["PATIENCE", "equation_of", "langevin_flow", "stopped_by"]

Vector = NDArray[np.floating[Any]]

# After so many steps of which none was accepted a run is over.
PATIENCE = 100


def langevin_flow(
    problem: Problem | Manifold,
    initial_point: ArrayLike,
    times: ArrayLike,
    *,
    beta: float,
    step_size: float,
    entropy: bool = True,
    scheme: str = "euler",
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
    scheme : {"euler", "ninomiya"}
        Euler and Maruyama's scheme has weak order one: expectations are off by a multiple of the
        step. That of Ninomiya and Ninomiya has weak order two, and takes the time of eight.
    metropolis : bool
        Whether each step of Euler's scheme is accepted or rejected, so that the
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
        finite, singular values are lost in rounding errors (at great depths a
        matrix cannot hold those that noise leads to), or none of the first 100 Metropolis steps is
        accepted.
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
    Metropolis steps to a sign that it cannot have are rejected, and so are those to matrices
    with a singular value that is a rounding error.

    Whatever ends it early carries what was computed until then: see `gradient_flow`.

    References
    ----------
    - G. Menon, T. Yu. An entropy formula for the deep linear network. 2025.
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
    ...     manifold,
    ...     start,
    ...     [0.0, 0.5],
    ...     beta=2.0,
    ...     step_size=0.1,
    ...     entropy=False,
    ...     scheme="ninomiya",
    ...     rng=0,
    ... )
    >>> mean = np.sum(3 * flow.singular_values ** (2 / 3), axis=-1).mean(axis=-1)
    >>> np.round(mean)  # which grows by m n = 8 for a unit of time
    array([ 6., 10.])
    """
    rng = random_generator("rng", rng)
    equation, points, is_stack = equation_of(
        problem, initial_point, beta=beta, entropy=entropy, vectorized=vectorized
    )
    if scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, got {scheme!r}")
    if metropolis and scheme != "euler":
        raise ValueError(f"scheme must be 'euler' with metropolis=True, got {scheme!r}")
    kind = Metropolis if metropolis else SCHEMES[scheme]
    step_size = positive_number("step_size", step_size)
    times = increasing_times("times", times)
    run = _Run(kind(equation, points, rng), times, step_size, is_stack, progress)
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
    asked = None if isinstance(problem, Manifold) else Asked(problem, vectorized=vectorized)
    manifold: Any = problem if asked is None else problem.manifold
    metric = getattr(manifold, "metric", None)
    refused = ValueError(
        "problem must be on an open set of matrices with a metric, such as FullRank, got "
        f"{manifold}"
    )
    if metric is None or manifold.point_layout != 1:
        raise refused
    if callable(initial_point):
        initial_point = initial_point(manifold)
    coordinates = coordinates_around(manifold, initial_point)
    points = np.array(initial_point, dtype=np.float64)
    if points.ndim not in (2, 3) or manifold.dim != math.prod(points.shape[-2:]):
        raise refused
    if entropy and not hasattr(metric, "entropy"):
        raise ValueError(
            f"entropy must be False where the metric has none: {metric!r} is not a DeepLinearMetric"
        )
    if asked is not None:
        asked.require_stack(coordinates.stack)
    is_stack = points.ndim == 3
    return Equation(metric, beta, entropy, asked), points.reshape(-1, *points.shape[-2:]), is_stack


class _Run:
    """The rows of points that a scheme moves."""

    def __init__(
        self, scheme: Scheme, times: Vector, step_size: float, is_stack: bool, progress: bool
    ) -> None:
        self._scheme, self._times, self._step_size = scheme, times, step_size
        self._is_stack, self._progress = is_stack, progress
        self._now, self._steps = float(times[0]), 0

    @property
    def nfev(self) -> int:
        """How many gradients were evaluated."""
        return self._scheme.equation.nfev

    def __iter__(self) -> Generator[tuple[float, Row]]:
        yield self._now, self._row()
        with progress_bar(self._times, self._progress) as show:
            for start, end in zip(self._times[:-1], self._times[1:], strict=True):
                count = max(1, math.ceil((end - start) / self._step_size * (1 - 1e-12)))
                for step in range(1, count + 1):
                    self._advance((end - start) / count)
                    self._now = start + step * (end - start) / count
                    show(self._now, self._costs)
                yield end, self._row()

    def _advance(self, size: float) -> None:
        try:
            self._scheme.step(size)
        except NotFiniteError as error:
            raise FlowError(f"no step of {size:g} from time {self._now:g}: {error}") from error
        self._steps += 1
        if self._steps == PATIENCE and not self._scheme.accepted.any():
            raise FlowError(
                f"none of {PATIENCE} steps was accepted at time {self._now:g}: step_size must be "
                f"less than {size:g}"
            )

    def outcome(self, stopped: tuple[BaseException, float] | None = None) -> Row:
        """How it has ended, and the share of its steps that were accepted."""
        scheme = self._scheme
        status, message = (0, REASONS[0]) if stopped is None else (-1, stopped_by(stopped[0]))
        if scheme.lost:
            message += (
                f"; {scheme.lost} proposals were rejected, since they have singular values that "
                "are rounding errors"
            )
        each = np.ones(len(scheme.states), dtype=int)
        fields = {
            "status": status * each,
            "success": status * each == 0,
            "end_times": self._now * each,
            "acceptance_rates": scheme.accepted / max(self._steps, 1),
        }
        return {name: self._own(values) for name, values in fields.items()} | {"message": message}

    def reached(self) -> tuple[float, Row]:
        """The time of the last step, and the row there."""
        return self._now, self._row()

    def _row(self) -> Row:
        at, equation = self._scheme.at(), self._scheme.equation
        return {
            "points": self._own(at.points),
            "costs": self._own(equation.costs(at.points)),
            "gradient_norms": self._own(equation.gradient_norms(at)),
            "singular_values": self._own(at.singular_values),
        }

    def _costs(self) -> Vector:
        return self._scheme.equation.costs(self._scheme.at().points)

    def _own(self, values: Vector) -> Any:
        """The values of all copies, or of the one that there is."""
        if self._is_stack:
            return values
        return values[0] if values.ndim > 1 else values[0].item()


def stopped_by(error: BaseException) -> str:
    return f"stopped by {type(error).__name__}"
