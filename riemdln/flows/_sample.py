"""Draws from the stationary law of the Riemannian Langevin equation."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pymanopt import Problem
from pymanopt.manifolds.manifold import Manifold
from tqdm.auto import tqdm

from riemdln._arrays import (
    Rng,
    finite_array,
    integer,
    positive_number,
    random_generator,
)
from riemdln.flows._langevin import equation_of
from riemdln.flows._recorder import BAR_LAYOUT
from riemdln.flows._results import FlowError
from riemdln.flows._schemes import Metropolis
from riemdln.flows._stepped import explained, stopped_by

__all__ = ["Sample", "sample"]

Vector = NDArray[np.floating[Any]]

# The share of accepted steps at which long steps and few rejections are in balance: 0.574 is the
# optimum for product laws of high dimension (Roberts and Rosenthal 1998).
_TARGET = 0.57
# How fast the logarithm of the step size follows the share of accepted steps.
_GAIN = 0.5
# A chain that has rested for so many steps is stuck: by chance a moving one does so once in 10^7.
_RESTLESS = 20


@dataclass(frozen=True, eq=False, repr=False)
class Sample:
    """Draws of several Markov chains, which `sample` makes.

    Attributes
    ----------
    points : array (chains, count, m, n)
        The matrices.
    costs : array (chains, count)
        Their costs E.
    log_densities : array (chains, count)
        The logarithms S - beta E of their densities under the metric's volume sqrt(det g) dW, up
        to a constant; without the entropy, -beta E.
    singular_values : array (chains, count, r)
        Their singular values.
    accepted : array (chains, count)
        The share of the `thinning` steps up to each draw that were accepted.
    step_size : float
        The size of the steps.
    nfev : int
        How many gradients of the cost were evaluated; one of all chains at once counts once.
    message : str
        Why it ended, in words, and which chains never moved.
    """

    points: Vector
    costs: Vector
    log_densities: Vector
    singular_values: Vector
    accepted: Vector
    step_size: float
    nfev: int
    message: str

    def __repr__(self) -> str:
        chains, count = self.costs.shape
        return (
            f"Sample({chains} chains of {count} draws: {self.message}; "
            f"acceptance {np.mean(self.accepted):.2f}, nfev={self.nfev})"
        )

    @property
    def acceptance_rates(self) -> Vector:
        """The share of the steps of each chain that were accepted after the warm-up (chains,)."""
        return self.accepted.mean(axis=1)

    @property
    def effective_sample_sizes(self) -> dict[str, Any]:
        """How many independent draws those of all chains together are worth, by ArviZ.

        These are the bulk effective sample sizes of Vehtari and others (2021, "Rank-normalization,
        folding, and localization: an improved R-hat"): of the "cost" a number, and of the
        "singular_values" an array (r,). They are NaN of fewer than four draws.

        Raises
        ------
        ImportError
            If ArviZ is not installed; says how to install it.
        """
        return self._diagnostic("ess")

    @property
    def r_hats(self) -> dict[str, Any]:
        """How far the chains are from one another, which tells that they have not mixed, by ArviZ.

        These are the rank-normalized split R-hats of Vehtari and others (2021), of the "cost" a
        number and of the "singular_values" an array (r,): 1 in the limit of long chains, and above
        1.01 in doubt. They are NaN of a single chain, and of fewer than four draws.

        Raises
        ------
        ImportError
            If ArviZ is not installed; says how to install it.
        """
        return self._diagnostic("rhat")

    def to_arviz(self) -> Any:
        """The sample in ArviZ's container, for its tables, plots and files.

        Returns
        -------
        arviz.InferenceData or xarray.DataTree
            What the installed ArviZ works with, the second one from ArviZ 1 on. The group
            "posterior" has W (chain, draw, row, column) and singular_values (chain, draw, index);
            the group "sample_stats" has lp (`log_densities`), cost and acceptance_rate
            (`accepted`), each (chain, draw).

        Raises
        ------
        ImportError
            If ArviZ is not installed; says how to install it.
        """
        arviz = _arviz()
        groups = {
            "posterior": {"W": self.points, "singular_values": self.singular_values},
            "sample_stats": {
                "lp": self.log_densities,
                "cost": self.costs,
                "acceptance_rate": self.accepted,
            },
        }
        dims = {"W": ["row", "column"], "singular_values": ["index"]}
        make = partial(arviz.from_dict, dims=dims)
        with warnings.catch_warnings():  # to have more chains than draws is no mistake here
            warnings.filterwarnings("ignore", "More chains|Found chain dimension", UserWarning)
            return make(**groups) if arviz.__version__.startswith("0.") else make(groups)

    def _diagnostic(self, name: str) -> dict[str, Any]:
        """One of ArviZ's functions of each number that is drawn."""
        function = getattr(_arviz(), name)
        each = [float(function(values)) for values in np.moveaxis(self.singular_values, -1, 0)]
        return {"cost": float(function(self.costs)), "singular_values": np.array(each)}


def sample(
    problem: Problem | Manifold,
    beta: float,
    count: int,
    *,
    chains: int = 4,
    entropy: bool = True,
    initial_point: ArrayLike | None = None,
    step_size: float | None = None,
    thinning: int = 10,
    warmup: int = 1000,
    vectorized: bool = False,
    rng: Rng = None,
    progress: bool = False,
) -> Sample:
    r"""Draw matrices from the law that a gradient flow with noise comes to rest in.

    Their law is exp(-beta E + S) sqrt(det g) dW, with the cost E, the entropy S of balanced layers
    and the volume of the metric g: the stationary law of `langevin_flow`. Metropolis steps keep it
    exactly at every step size, so that draws have no error but that of their finite
    number. Several Markov chains run side by side, and can be held against one another.

    Parameters
    ----------
    problem : pymanopt.Problem or manifold
        The cost and the manifold, `FullRank` with any metric. The manifold itself stands for the
        cost E = 0. Where E is infinite or NaN there are no draws, and its gradient is not asked
        for. That the law has a finite integral, so that it is a law at all, cannot be known from
        here: E must grow fast enough with W, and so without a cost it has none.
    beta : float
        The inverse temperature, positive.
    count : int
        The number of draws from each chain.
    chains : int
        The number of chains. A hundred small ones take little longer than four.
    entropy : bool
        Whether the entropy takes part, which `DeepLinearMetric` has.
    initial_point : array_like (m, n) or (chains, m, n), optional
        Where all chains start, or each of them; by default at random points of the manifold.
    step_size : float, optional
        The size of the steps, as a time of `langevin_flow`. By default it is adapted during the
        warm-up, for all chains together, until about 0.57 of the steps are accepted, and then kept.
    thinning : int
        The number of steps from one draw to the next.
    warmup : int
        The number of steps before the first draw, which are left out; with a given step size it may
        be zero.
    vectorized : bool, optional
        Whether the cost and its gradient take all chains at once: see `gradient_flow`.
    rng : numpy.random.Generator, int or None
        The source of randomness, or a seed for one. The same seed gives the same sample.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    Sample

    Raises
    ------
    FlowError
        If the density is not finite where the chains start, a gradient is not finite, or none of
        the first 100 steps is accepted.
    TypeError, ValueError
        If the manifold is not an open set of matrices, the metric has no entropy, or another
        argument is not as described.

    See Also
    --------
    langevin_flow : the paths.

    Notes
    -----
    A step is that of Euler's scheme, accepted or rejected by the rule of Metropolis and Hastings:
    the Metropolis-adjusted Langevin algorithm, MALA (Roberts and Tweedie 1996). The logarithm of
    the step size is adapted in the warm-up: after a step that a share a of the chains has accepted
    it moves by 0.5 (a - 0.57). The first half of the warm-up is a search, in which a counts as zero
    while any chain has rested for 20 steps. In step k of the second half the move is divided by
    k^0.6 (Robbins and Monro 1951; Andrieu and Thoms 2008), and the mean over this half is kept.

    Where noise does not change the sign of the determinant of square matrices
    (`Metric.changes_determinant_sign`: under ``DeepLinearMetric`` at even depths, at those that are
    no whole number and at infinite depth), the law is that on the matrices with the sign
    of the start; random points have a positive determinant. At odd depths it is on all matrices.

    A draw is exact in the limit of a long warm-up only. Look at `Sample.r_hats`, at starts far from
    each other, and at `Sample.effective_sample_sizes`, which need ArviZ.

    What ends it early after the first draw, such as Ctrl-C, carries the `Sample` until then in its
    attribute ``result``. To go on from there, or from any sample, start at ``result.points[:, -1]``
    with its ``step_size`` and no warm-up.

    References
    ----------
    - G. Menon, T. Yu. An entropy formula for the deep linear network. 2025.
    - H. Robbins, S. Monro. A stochastic approximation method. Ann. Math. Statist. 1951.
    - G. O. Roberts, R. L. Tweedie. Exponential convergence of Langevin distributions and their
      discrete approximations. Bernoulli 1996.
    - G. O. Roberts, J. S. Rosenthal. Optimal scaling of discrete approximations to Langevin
      diffusions. J. R. Stat. Soc. B 1998.
    - C. Andrieu, J. Thoms. A tutorial on adaptive MCMC. Stat. Comput. 2008.

    Examples
    --------
    >>> import numpy as np
    >>> import pymanopt
    >>> import riemdln
    >>> manifold = riemdln.FullRank(2, 4, riemdln.DeepLinearMetric(depth=2))
    >>> @pymanopt.function.autograd(manifold)
    ... def cost(W):
    ...     return (W**2).sum(axis=(-2, -1)) / 2
    >>> problem = pymanopt.Problem(manifold, cost)
    >>> draws = riemdln.sample(
    ...     problem, 1.5, 10, chains=100, thinning=5, warmup=200, vectorized=True, rng=0
    ... )
    >>> draws.points.shape
    (100, 10, 2, 4)
    >>> print(f"{np.mean(np.sum(draws.points**2, axis=(-2, -1))):.0f}")  # its expectation
    3
    """
    count, chains = integer("count", count), integer("chains", chains)
    thinning = integer("thinning", thinning)
    warmup = integer("warmup", warmup, least=1 if step_size is None else 0)
    given_size = None if step_size is None else positive_number("step_size", step_size)
    rng = random_generator("rng", rng)
    equation, points, _ = equation_of(
        problem,
        partial(_starts, initial_point, chains, rng),
        beta=beta,
        entropy=entropy,
        vectorized=vectorized,
    )
    run = _Run(Metropolis(equation, points, rng), given_size, warmup, thinning)
    with _progress_bar(warmup + count * thinning, progress) as show:
        return run.sample(count, show)


class _Run:
    """Chains in motion, and what they have drawn.

    Parameters
    ----------
    scheme : Metropolis
        The chains.
    given_size : float or None
        The size of the steps; None to adapt it.
    warmup : int
        How many steps come before the first draw.
    thinning : int
        How many steps lie between draws.
    """

    def __init__(
        self, scheme: Metropolis, given_size: float | None, warmup: int, thinning: int
    ) -> None:
        self._scheme, self._warmup, self._thinning = scheme, warmup, thinning
        self._adapts, self._size = given_size is None, given_size or 1.0
        self._draws: list[tuple[Vector, ...]] = []
        density = scheme.equation.log_density(scheme.at())
        if not np.isfinite(density).all():
            raise FlowError(
                "the density must be finite where the chains start, but its logarithms there are "
                f"{density}"
            )

    def sample(self, count: int, show: Callable[[int, str], None]) -> Sample:
        """The draws, or an error with those until then."""
        try:
            self._warm_up(show)
            for number in range(1, count + 1):
                draw = self._draw()
                self._draws.append(draw)
                show(self._thinning, f"draw {number} of {count}, acceptance {draw[-1].mean():.2f}")
        except BaseException as error:
            if self._draws:
                error.result = self._result(stopped_by(error))  # type: ignore[attr-defined]
                error.add_note("What was drawn is in this exception's attribute 'result'.")
            raise
        return self._result("all draws were made")

    def _warm_up(self, show: Callable[[int, str], None]) -> None:
        half, rest, logs = self._warmup // 2, np.zeros(len(self._scheme.states)), []
        for k in range(1, self._warmup + 1):
            moved = self._step()
            rest = np.where(moved, 0, rest + 1)
            if self._adapts:
                is_search = k <= half
                # Far from where the law is steps must be shorter than there. So others that are
                # there already must not lengthen them before the last chain has come.
                share = 0.0 if is_search and rest.max() >= _RESTLESS else moved.mean()
                gain = _GAIN if is_search else _GAIN / (k - half) ** 0.6
                logs.append(math.log(self._size) + gain * (share - _TARGET))
                self._size = math.exp(logs[-1])
            show(1, f"warm-up, step size {self._size:.3g}")
        if self._adapts:
            self._size = math.exp(np.mean(logs[half:]))

    def _draw(self) -> tuple[Vector, ...]:
        accepted = np.mean([self._step() for _ in range(self._thinning)], axis=0)
        at, equation = self._scheme.at(), self._scheme.equation
        costs = equation.costs(at.points)
        return at.points, costs, equation.log_weight(at, costs), at.singular_values, accepted

    def _step(self) -> Vector:
        """Which chains have accepted a step."""
        before = self._scheme.accepted.copy()
        with explained(f"no step of {self._size:g}"):
            self._scheme.step(self._size)
        return self._scheme.accepted - before

    def _result(self, message: str) -> Sample:
        points, costs, log_densities, singular_values, accepted = (
            np.stack(column, axis=1) for column in zip(*self._draws, strict=True)
        )
        if resting := np.flatnonzero(~accepted.any(axis=1)).tolist():
            message += f"; chains that never moved: {resting}"
        return Sample(
            points=points,
            costs=costs,
            log_densities=log_densities,
            singular_values=singular_values,
            accepted=accepted,
            step_size=self._size,
            nfev=self._scheme.equation.nfev,
            message=message,
        )


def _starts(
    initial_point: ArrayLike | None, chains: int, rng: np.random.Generator, manifold: Any
) -> Vector:
    """Where each chain starts."""
    if initial_point is None:
        return np.array([manifold.random_point(rng) for _ in range(chains)])
    points = finite_array("initial_point", initial_point)
    if points.ndim == 2:
        return np.tile(points, (chains, 1, 1))
    if points.ndim != 3 or len(points) != chains:
        raise ValueError(
            f"initial_point must be a matrix (m, n), or one for each of {chains} chains, got shape "
            f"{points.shape}"
        )
    return points


@contextmanager
def _progress_bar(total: int, visible: bool) -> Iterator[Callable[[int, str], None]]:
    """A bar of steps, which is shown how many were taken and what they came to."""
    with tqdm(total=total, disable=not visible, bar_format=BAR_LAYOUT) as bar:

        def show(steps: int, description: str) -> None:
            bar.set_description_str(description, refresh=False)
            bar.update(steps)

        yield show


def _arviz() -> Any:
    """The module of ArviZ."""
    try:
        with warnings.catch_warnings():  # ArviZ 0 announces ArviZ 1
            warnings.simplefilter("ignore", FutureWarning)
            import arviz
    except ImportError as error:
        raise ImportError(
            'this needs the package ArviZ: pip install "riemdln[sampling]" (or pip install arviz)'
        ) from error
    return arviz
