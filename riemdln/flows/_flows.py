"""Gradient flows as ordinary differential equations: on a manifold, and on a network's layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import scipy.integrate
from numpy.typing import ArrayLike, NDArray
from pymanopt import Problem
from pymanopt.manifolds.manifold import Manifold
from scipy.integrate import OdeSolver
from scipy.optimize import brentq
from tqdm.auto import tqdm

from riemdln._arrays import (
    NotFiniteError,
    chained_layers,
    finite,
    finite_array,
    increasing_times,
    positive_number,
)
from riemdln.manifolds import FixedRank, FixedRankPoint
from riemdln.networks import end_to_end, imbalance, layer_gradients, thin_end_to_end

__all__ = ["Flow", "FlowError", "NetworkFlow", "gradient_flow", "network_flow"]

Vector = NDArray[np.floating]
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Flow:
    """A gradient flow at K times.

    Attributes
    ----------
    times : array (K,)
        The requested times, up to where the flow ended; one that stops at a gradient tolerance ends
        with the time at which it reached the tolerance.
    points : array (K, ...) or list
        The points; a list of triples (u, s, vt) on `FixedRank`.
    costs : array (K,)
        The costs.
    gradient_norms : array (K,)
        The norms of the Riemannian gradients.
    message : str
        Why the flow ended.
    """

    times: Vector
    points: Vector
    costs: Vector
    gradient_norms: Vector
    message: str


@dataclass(frozen=True)
class NetworkFlow(Flow):
    """The gradient flow of a network's layers at K times.

    `points` are the end-to-end matrices, and `gradient_norms` the norms of the gradient in all
    layers together, which for balanced layers is the norm of the Riemannian gradient of g^N.

    Attributes
    ----------
    layers : list of list of array
        The layers [W_1, ..., W_N] at each of the K times.
    imbalances : array (K,)
        Their imbalances (see `imbalance`).
    """

    layers: list[list[Vector]]
    imbalances: Vector


F = TypeVar("F", bound=Flow)


class FlowError(RuntimeError):
    """The integrator failed.

    Attributes
    ----------
    result : Flow
        What was computed until then.
    """

    result: Flow


def gradient_flow(
    problem: Problem,
    initial_point: ArrayLike,
    times: ArrayLike,
    *,
    method: str = "DOP853",
    rtol: float = 1e-8,
    atol: float = 1e-10,
    gradient_tolerance: float | None = None,
    progress: bool = False,
    **options: Any,
) -> Flow:
    """The gradient flow dW/dt = -grad E(W) of a problem on its manifold.

    On `FullRank` the Riemannian gradient is A_W(grad E), so with ``DeepLinearMetric(N)`` this is
    the flow of the end-to-end matrix of a balanced network of depth N (Arora, Cohen and Hazan
    2018, Theorem 1). `FixedRank` and any pymanopt manifold whose points are plain arrays will do;
    on one that is curved in its space, such as a sphere, the flow is kept on the manifold by its
    retraction. On `FixedRank` at depth 1 singular vectors turn at a rate of 1 / s_i, so a flow that
    goes to lower rank is stiff there, and stalls at singular values of about 1e-10; deeper ones go
    on.

    Parameters
    ----------
    problem : pymanopt.Problem
        The cost and the manifold, with any of pymanopt's autodiff backends.
    initial_point : array_like
        Where the flow starts.
    times : array_like (K,)
        Strictly increasing times; the flow starts at the first and is returned at all.
    method : str or class
        The integrator, as `scipy.integrate.solve_ivp` takes it. For stiff problems "LSODA" or
        "Radau" may take fewer steps.
    rtol, atol : float
        Relative and absolute tolerances of the integrator. Take `atol` well below the entries of
        a start near zero.
    gradient_tolerance : float, optional
        Stop when the norm of the Riemannian gradient has come down to this. By default the flow
        goes on to the last time.
    progress : bool
        Whether to show a progress bar.
    **options
        Further options of the method, such as `first_step` and `max_step`.

    Returns
    -------
    Flow

    Raises
    ------
    FlowError
        If the integrator fails.
    TypeError, ValueError
        If an argument is none of the above.

    Notes
    -----
    Whatever ends a flow after its first point (`FlowError`, an error in the cost,
    KeyboardInterrupt) carries what was computed until then in its attribute ``result``.

    Examples
    --------
    >>> import autograd.numpy as anp
    >>> import numpy as np
    >>> import pymanopt
    >>> import riemdln
    >>> manifold = riemdln.FullRank(1, 1, riemdln.DeepLinearMetric(depth=2))
    >>> @pymanopt.function.autograd(manifold)
    ... def cost(W):
    ...     return -anp.sum(W)
    >>> problem = pymanopt.Problem(manifold, cost)
    >>> flow = riemdln.gradient_flow(problem, [[1.0]], [0.0, 0.5])  # dw/dt = 2 w
    >>> np.allclose(flow.points[-1], np.e)
    True
    """
    _require_problem(problem)
    manifold = problem.manifold
    start, point_of, velocity_of = _coordinates(manifold, initial_point)

    def velocity(state: Vector) -> Vector:
        return velocity_of(state, -problem.riemannian_gradient(point_of(state)))

    def gradient_norm(state: Vector) -> float:
        point = point_of(state)
        return float(manifold.norm(point, problem.riemannian_gradient(point)))

    def observe(state: Vector) -> tuple[Any, ...]:
        point = point_of(state)
        return point, float(problem.cost(point)), gradient_norm(state)

    def collect(rows: Rows, message: str) -> Flow:
        times, points, costs, norms = _columns(rows)
        return Flow(times, points, costs, norms, message)

    flow = _Integral(velocity, gradient_norm, observe, collect)
    options = _solver_options(options, method=method, rtol=rtol, atol=atol)
    return flow.over(times, start, gradient_tolerance, progress, options)


def network_flow(
    problem: Problem,
    layers: Sequence[ArrayLike],
    times: ArrayLike,
    *,
    method: str = "DOP853",
    rtol: float = 1e-8,
    atol: float = 1e-10,
    gradient_tolerance: float | None = None,
    progress: bool = False,
    **options: Any,
) -> NetworkFlow:
    r"""The gradient flow of the layers of a deep linear network.

    .. math::

        \dot W_j = -(W_N \cdots W_{j+1})^T \, \nabla E(W) \, (W_{j-1} \cdots W_1)^T,
        \qquad W = W_N \cdots W_1

    From balanced layers W follows `gradient_flow` under ``DeepLinearMetric(N)`` exactly (Arora,
    Cohen and Hazan 2018, Theorem 1).

    Parameters
    ----------
    problem : pymanopt.Problem
        The cost E as a function of the end-to-end matrix; its manifold's metric plays no part. On
        `FixedRank` the Euclidean gradient has to be given as an m x n matrix, dense or not.
    layers : sequence of array_like
        The layers [W_1, ..., W_N] at the start, balanced or not.
    times, method, rtol, atol, progress, **options
        As for `gradient_flow`.
    gradient_tolerance : float, optional
        Stop when the norm of the gradient in all layers together has come down to this.

    Returns
    -------
    NetworkFlow

    Raises
    ------
    FlowError
        If the integrator fails.
    TypeError, ValueError
        If an argument is none of the above.

    Notes
    -----
    Whatever ends a flow early carries what was computed until then: see `gradient_flow`.

    Examples
    --------
    >>> import autograd.numpy as anp
    >>> import numpy as np
    >>> import pymanopt
    >>> import riemdln
    >>> manifold = pymanopt.manifolds.Euclidean(1, 1)
    >>> @pymanopt.function.autograd(manifold)
    ... def cost(W):
    ...     return -anp.sum(W)
    >>> problem = pymanopt.Problem(manifold, cost)
    >>> layers = riemdln.balanced_layers([[1.0]], depth=2)
    >>> flow = riemdln.network_flow(problem, layers, [0.0, 0.5])  # dw/dt = 2 w
    >>> np.allclose(flow.points[-1], np.e)
    True
    """
    _require_problem(problem)
    layers = chained_layers("layers", layers)

    def point_of(current: Sequence[ArrayLike]) -> Any:
        if isinstance(problem.manifold, FixedRank):
            u, s, vt = thin_end_to_end(current)
            return FixedRankPoint(u, s, vt)  # type: ignore[arg-type]
        return end_to_end(current)

    _require_shape("the end-to-end matrix of layers", point_of(layers), problem)
    ends = np.cumsum([layer.size for layer in layers])

    def unpack(state: Vector) -> list[Vector]:
        parts = np.split(state, ends[:-1])
        return [part.reshape(layer.shape) for part, layer in zip(parts, layers, strict=True)]

    def gradient(state: Vector) -> Vector:
        current = unpack(state)
        gradients = layer_gradients(current, problem.euclidean_gradient(point_of(current)))
        return np.concatenate([gradient.ravel() for gradient in gradients])

    def gradient_norm(state: Vector) -> float:
        return float(np.linalg.norm(gradient(state)))

    def observe(state: Vector) -> tuple[Any, ...]:
        current = unpack(state)
        point = point_of(current)
        return point, float(problem.cost(point)), gradient_norm(state), current, imbalance(current)

    def collect(rows: Rows, message: str) -> NetworkFlow:
        *_, history, imbalances = zip(*rows, strict=True)
        times, points, costs, norms = _columns([row[:4] for row in rows])
        return NetworkFlow(
            times, points, costs, norms, message, list(history), np.array(imbalances)
        )

    flow = _Integral(lambda state: -gradient(state), gradient_norm, observe, collect)
    start = np.concatenate([layer.ravel() for layer in layers]).astype(np.float64)
    options = _solver_options(options, method=method, rtol=rtol, atol=atol)
    return flow.over(times, start, gradient_tolerance, progress, options)


@dataclass(frozen=True)
class _Integral(Generic[F]):
    """The integral of a velocity field on flat vectors, observed at given times."""

    velocity: Callable[[Vector], Vector]
    gradient_norm: Callable[[Vector], float]
    observe: Callable[[Vector], tuple[Any, ...]]
    collect: Callable[[Rows, str], F]

    def over(
        self,
        times: ArrayLike,
        state: Vector,
        gradient_tolerance: float | None,
        progress: bool,
        options: dict[str, Any],
    ) -> F:
        times = increasing_times("times", times)
        if gradient_tolerance is not None:
            gradient_tolerance = positive_number("gradient_tolerance", gradient_tolerance)
        rows: Rows = []
        states = self._states(times, state, gradient_tolerance, progress, options)
        try:
            rows.append((times[0], *self.observe(state)))
            for time, reached in states:
                rows.append((time, *self.observe(reached)))
        except BaseException as error:
            if rows:
                error.result = self.collect(rows, f"stopped by {type(error).__name__}")  # type: ignore[attr-defined]
                error.add_note(
                    "What the flow had computed is in this exception's attribute 'result'."
                )
            raise
        finished = rows[-1][0] == times[-1]
        return self.collect(
            rows, "reached the last time" if finished else "reached the gradient tolerance"
        )

    def _states(
        self,
        times: Vector,
        state: Vector,
        tolerance: float | None,
        progress: bool,
        options: dict[str, Any],
    ) -> Iterator[tuple[float, Vector]]:
        """The state at each time after the first; the last one where it meets the tolerance.

        The integrator chooses its own steps, whatever the times; they are read off its interpolant.
        """

        def excess(state: Vector) -> float:
            return np.inf if tolerance is None else self.gradient_norm(state) - tolerance

        if excess(state) <= 0 or len(times) == 1:
            return
        due = 1
        with _progress_bar(times, progress) as show:
            for solver in self._steps(times, state, options):
                start, end = solver.t_old, solver.t
                ends_here = excess(solver.y) <= 0
                if ends_here or times[due] <= end:
                    path = solver.dense_output()  # costs gradients
                if ends_here and excess(path(start)) > 0 >= excess(path(end)):
                    precision = 1e-12 * (end - start)
                    end = brentq(lambda t, path=path: excess(path(t)), start, end, xtol=precision)
                while due < len(times) and times[due] <= end:
                    yield times[due], path(times[due])
                    due += 1
                show(end)
                if ends_here:
                    if times[due - 1] < end:
                        yield end, path(end)
                    return

    def _steps(self, times: Vector, state: Vector, options: dict[str, Any]) -> Iterator[Any]:
        """The integrator, after each of its steps."""
        name, options = options["method"], {k: v for k, v in options.items() if k != "method"}
        method = getattr(scipy.integrate, name, None) if isinstance(name, str) else name
        if not (isinstance(method, type) and issubclass(method, OdeSolver)):
            raise ValueError(f"method must be an integrator of scipy.integrate, got {name!r}")
        solver: Any = method(self._finite_velocity, times[0], state, times[-1], **options)
        while solver.status == "running":
            message = solver.step()
            if solver.status == "failed" or not np.isfinite(solver.y).all():
                reason = message or "The flow left the range of floating-point numbers."
                raise FlowError(
                    f"the integrator {name} failed at time {solver.t:g}: {reason} "
                    "Another method or other tolerances may do."
                )
            yield solver

    def _finite_velocity(self, time: float, state: Vector) -> Vector:
        # A trial step that overflows has no velocity; NaN makes the integrator shorten it.
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                return self.velocity(finite("state", state))
        except NotFiniteError:
            return np.full_like(state, np.nan)


@contextmanager
def _progress_bar(times: Vector, visible: bool) -> Iterator[Callable[[float], None]]:
    first, last = float(times[0]), float(times[-1])
    layout = "{percentage:3.0f}%|{bar}| {desc} of " + f"{last:.4g} [{{elapsed}}<{{remaining}}]"
    with tqdm(total=last - first, disable=not visible, bar_format=layout) as bar:

        def show(time: float) -> None:
            bar.set_description_str(f"t = {time:.4g}", refresh=False)
            bar.update(time - first - bar.n)

        yield show


def _solver_options(options: dict[str, Any], **named: Any) -> dict[str, Any]:
    reserved = {"args", "dense_output", "events", "fun", "t_eval", "t_span", "vectorized", "y0"}
    if taken := reserved.intersection(options):
        raise TypeError(f"options must not contain {', '.join(sorted(taken))}: the flow sets them")
    named["rtol"] = positive_number("rtol", named["rtol"])
    named["atol"] = finite_array("atol", named["atol"])
    if not np.all(named["atol"] > 0):
        # With zero the error of an entry that is zero has no scale, and steps are undefined.
        raise ValueError(f"atol must be positive, got {named['atol']!r}")
    for name in {"first_step", "max_step"}.intersection(options):
        if options[name] is not None and not (name == "max_step" and options[name] == np.inf):
            options[name] = positive_number(name, options[name])
    return options | named


def _columns(rows: Rows) -> tuple[Any, ...]:
    """Times, points, costs and gradient norms; points that are no arrays in a list."""
    times, points, costs, norms = zip(*rows, strict=True)
    stack = np.array(points) if isinstance(points[0], np.ndarray) else list(points)
    return np.array(times), stack, np.array(costs), np.array(norms)


def _coordinates(
    manifold: Manifold, initial_point: Any
) -> tuple[Vector, Callable[[Vector], Any], Callable[[Vector, Any], Vector]]:
    """Where a flow starts as one vector, and from vectors to points and velocities."""
    if isinstance(manifold, FixedRank):
        start = manifold.to_coordinates(initial_point)
        return start, manifold.from_coordinates, manifold.coordinate_velocity
    start = finite_array("initial_point", initial_point).astype(np.float64)
    expected = np.shape(manifold.zero_vector(start))
    if start.shape != expected:
        raise ValueError(
            f"initial_point must have shape {expected}, as the points of {manifold}, "
            f"got {start.shape}"
        )
    fills_its_space = manifold.dim == start.size

    def point_of(state: Vector) -> Vector:
        point = state.reshape(expected)
        # Truncation errors leave a curved manifold; the retraction of zero leads back.
        return point if fills_its_space else manifold.retraction(point, np.zeros_like(point))

    return start.ravel(), point_of, lambda state, vector: np.ravel(vector)


def _require_shape(name: str, point: Any, problem: Problem) -> None:
    zero = problem.manifold.zero_vector(point)
    if isinstance(problem.manifold, FixedRank):  # m, n and the rank
        shape = len(point.u), point.vt.shape[1], len(point.s)
        expected = len(zero.Up), len(zero.Vp), len(zero.M)
    else:
        shape, expected = point.shape, zero.shape
    if shape != expected:
        raise ValueError(
            f"{name} must have shape {expected}, as the points of {problem.manifold}, got {shape}"
        )


def _require_problem(problem: Any) -> None:
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be a pymanopt.Problem, got {type(problem).__name__}")
    if problem.manifold.point_layout != 1 and not isinstance(problem.manifold, FixedRank):
        raise ValueError(
            "problem must be on FixedRank or on a manifold whose points are plain arrays, got "
            f"{problem.manifold}"
        )
