"""What an integrator of ordinary differential equations makes of a flow.

A chart is what moves: coordinates around a point and what a problem says there. `Trajectory`
integrates its velocity, takes a new chart when it is worn, ends where it is told to, and gives
rows at given times.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import scipy.integrate
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import OdeSolver
from scipy.optimize import elementwise

from riemdln._arrays import (
    NotFiniteError,
    OutsideError,
    increasing_times,
    is_finite,
    positive_number,
    real_number,
)
from riemdln.flows._copies import OF_COPIES, largest_rms
from riemdln.flows._cvode import CVODE, sundials
from riemdln.flows._recorder import Row, progress_bar
from riemdln.flows._results import FlowError

__all__ = ["Chart", "Ends", "Trajectory"]

Vector = NDArray[np.floating[Any]]

# Explicit methods, whose interpolants may be worse than their steps; where in a step these are
# looked at; and how many times the tolerance their slope may be off the velocity, over a step.
_EXPLICIT = (scipy.integrate.RK23, scipy.integrate.RK45, scipy.integrate.DOP853)
_PROBES = (0.4, 0.75)
_DEFECT = 30.0

# Methods that need no history: they go on with their step where a new chart begins.
_ONE_STEP = (*_EXPLICIT, scipy.integrate.Radau)

_SADDLE = (
    "near a saddle, a point where the gradient vanishes but the cost can still fall, the gradient "
    "is small before the flow has begun, which is no convergence; start farther away, or ask for "
    "less"
)


class Chart(Protocol):
    """What moves: coordinates around a point of a flow, and what a problem says there.

    Attributes
    ----------
    state : array (d,)
        The state of that point; of K copies K states of equal size, one after the other.
    stack : tuple of int
        (K,) for K independent copies, and () for one flow.
    scale : float or array (d,)
        The size of each entry of the state, which multiplies the absolute tolerance.
    nfev : int
        How many gradients were evaluated for the flow so far, in this chart and those before.
    """

    state: Vector
    stack: tuple[int, ...]
    scale: Any

    @property
    def nfev(self) -> int: ...

    def velocity(self, state: Vector) -> Vector:
        """How a state moves; steps are shortened where it is not finite or a NotFiniteError."""
        ...

    def costs(self, state: Vector) -> Any:
        """The cost, or those of the copies."""
        ...

    def norms(self, state: Vector) -> Any:
        """The norm of the gradient, or those of the copies."""
        ...

    def points(self, state: Vector) -> list[Any]:
        """The points of the copies, a list of one where there is no stack."""
        ...

    def observe(self, state: Vector, *, norms: bool = True) -> Row:
        """What the result keeps of a state; on demand with NaN for the norms of the gradient."""
        ...

    def renewed(self, state: Vector) -> Chart | None:
        """A better chart around a state, or None where this one is good enough."""
        ...

    def halted(self, copies: Any, state: Vector) -> Chart:
        """A chart around a state in which some copies stand still."""
        ...


class Ends(NamedTuple):
    """What ends a flow before its last time.

    Attributes
    ----------
    gradient_tolerance, cost_tolerance : float or None
        It ends where the norm of the gradient, or the cost, has come down to this.
    stop : callable or None
        It ends where ``stop(time, point, cost, gradient_norm)`` is true.
    """

    gradient_tolerance: float | None = None
    cost_tolerance: float | None = None
    stop: Callable[[float, Any, float, float], Any] | None = None

    def checked(self) -> Ends:
        """The same, if they are numbers and a function."""
        gradient, cost, stop = self
        if gradient is not None:
            gradient = positive_number("gradient_tolerance", gradient)
        if cost is not None and not np.isfinite(cost := real_number("cost_tolerance", cost)):
            raise ValueError(f"cost_tolerance must be finite, got {cost}")
        if stop is not None and not callable(stop):
            raise TypeError(
                f"stop must be a function of time, point, cost and gradient_norm, got {stop!r}"
            )
        return Ends(gradient, cost, stop)

    def excess(self, times: Any, chart: Chart, state: Vector) -> Vector:
        """How far each copy is from each of the ends, (3, K): zero or less where it is there.

        The times are one number, or one for each copy.
        """
        gradient, cost, stop = self
        excess = np.full((3, *(chart.stack or (1,))), np.inf)
        if gradient is not None:
            excess[0] = chart.norms(state) - gradient
        if cost is not None:
            excess[1] = chart.costs(state) - cost
        if stop is not None:
            costs, norms = np.atleast_1d(chart.costs(state)), np.atleast_1d(chart.norms(state))
            times = np.broadcast_to(times, norms.shape)
            for k, point in enumerate(chart.points(state)):
                met = stop(float(times[k]), point, float(costs[k]), float(norms[k]))
                excess[2, k] = -1.0 if met else 1.0
        return excess


# What the numbers of `status` mean.
REASONS = {
    0: "reached the last time",
    1: "reached the gradient tolerance",
    2: "reached the cost tolerance",
    3: "came to where stop is true",
}


class Trajectory:
    """The solution of dy/dt = velocity(y) at given times, by an integrator.

    The integrator chooses its own steps, whatever the times; they are read off its interpolant.

    Parameters
    ----------
    chart : Chart
        What moves, around the start.
    times : array_like (T,)
        Strictly increasing times.
    ends : Ends
        What ends it before the last time.
    progress : bool
        Whether to show a progress bar.
    method, rtol, atol, **options
        The integrator and its options: see `gradient_flow`. The error of every one of K copies is
        held to the tolerances: the explicit methods of SciPy go by the largest one (see
        `riemdln.flows._copies`). Others control the mean of the squared errors of all entries, so
        that for them the tolerances are divided by the root of K.
    """

    def __init__(
        self,
        chart: Chart,
        times: ArrayLike,
        *,
        ends: Ends,
        progress: bool,
        method: str | type[OdeSolver],
        rtol: float,
        atol: float,
        **options: Any,
    ) -> None:
        self._method: Any = _solver(method)
        self._rtol, self._atol = positive_number("rtol", rtol), positive_number("atol", atol)
        self._options = _solver_options(self._method, options)
        self._later_options = {name: v for name, v in options.items() if name != "first_step"}
        self._times = increasing_times("times", times)
        span, spacing = np.ptp(self._times), np.spacing(np.abs(self._times).max())
        if 0 < span < 1e6 * spacing:
            raise ValueError(
                f"times must span more than {1e6 * spacing:.0e}, where there are too few numbers "
                f"between them, got {span:g}: let them begin at zero"
            )
        self._ends = ends.checked()
        self._progress = progress
        self._chart = chart
        self._now = self._times[0], chart, chart.state
        self._gap = ""  # where and why the last step met no velocity
        self._is_first = True  # whether the integrator has evaluated no velocity yet
        copies = chart.stack or (1,)
        self._status = np.zeros(copies, dtype=int)
        self._success = np.ones(copies, dtype=bool)
        self._end_times = np.full(copies, self._times[-1])

    @property
    def nfev(self) -> int:
        """How many gradients were evaluated."""
        return self._chart.nfev

    def outcome(self, stopped: tuple[BaseException, float] | None = None) -> Row:
        """How it has ended: the fields `status`, `success`, `end_times` and `message`.

        If an error has stopped it, it is told which and at what time.
        """
        if stopped is not None:
            going = self._status == 0
            self._status[going], self._success[going] = -1, False
            self._end_times[going] = stopped[1]
        reasons = [
            (int(count), REASONS.get(status, ""))
            for status, count in zip(*np.unique(self._status, return_counts=True), strict=True)
        ]
        fields: tuple[Any, ...] = self._status, self._success, self._end_times
        message = ", ".join(f"{count} copies {reason}" for count, reason in reasons)
        if not self._chart.stack:
            fields, message = tuple(field.item() for field in fields), reasons[0][1]
        if stopped is not None:
            message = f"stopped by {type(stopped[0]).__name__}"
        elif not self._success.all():
            message += ", at the first time already"
        return dict(zip(("status", "success", "end_times"), fields, strict=True), message=message)

    def reached(self) -> tuple[float, Row]:
        """The time of the last step, and the row there."""
        time, chart, state = self._now
        try:
            return time, self._observe(time, chart, state)
        except (Exception, KeyboardInterrupt):  # the gradient may have ended for good
            return time, chart.observe(state, norms=False)

    def __iter__(self) -> Generator[tuple[float, Row]]:
        """The rows at the times; the last one where all copies have come to an end."""
        times = self._times
        yield times[0], self._observe(times[0], self._chart, self._chart.state)
        if self._starts_at_its_end() or len(times) == 1:
            return
        due = 1
        with progress_bar(times, self._progress) as show:
            for solver in self._steps():
                end, chart = solver.t, self._chart
                over = (self._excess(end, chart, solver.y) <= 0).any(axis=0) & (self._status == 0)
                path = _Path(solver, len(self._status), self._is_bad, self._again)
                if over.any():
                    self._end(path, np.flatnonzero(over), solver.t_old, end)
                    path.rest = {k: self._end_times[k] for k in np.flatnonzero(over).tolist()}
                is_over = bool(self._status.all())
                if is_over:
                    end = self._end_times.max()
                while due < len(times) and times[due] <= end:
                    yield times[due], self._observe(times[due], chart, path(times[due]))
                    due += 1
                self._now = end, chart, path(end)
                if is_over and times[due - 1] < end:
                    yield end, self._observe(*self._now)
                show(end, partial(chart.costs, self._now[2]))
                if is_over:
                    return
                if over.any():
                    self._chart = chart.halted(self._status > 0, path(end))
                else:
                    self._chart = chart.renewed(solver.y) or chart

    def _starts_at_its_end(self) -> bool:
        """Whether all copies are at an end from the start; those that are get a warning."""
        time, chart = self._times[0], self._chart
        excess = self._excess(time, chart, chart.state)
        over = (excess <= 0).any(axis=0)
        if over.any():
            self._status[over] = 1 + np.argmin(excess[:, over], axis=0)
            self._success[over], self._end_times[over] = False, time
            reason = REASONS[self._status[over].min()]
            who = f"{over.sum()} of {over.size} copies" if chart.stack else "the flow"
            saddle = f": {_SADDLE}" if (self._status == 1).any() else ""
            # Of the caller of gradient_flow: record and two frames of this module are between.
            warnings.warn(f"{who} {reason} at the first time already{saddle}", stacklevel=5)
            if not over.all():
                self._chart = chart.halted(over, chart.state)
        return bool(over.all())

    def _end(self, path: _Path, copies: Any, start: float, end: float) -> None:
        """Find when some copies come to their ends within a step, and to which."""
        chart, span = self._chart, end - start

        def excess(places: Vector, copies: Any) -> Vector:
            # One evaluation of all copies, each of these at a time of its own.
            times = np.full(len(self._status), end)
            times[copies] = start + places * span
            with _defined_at(end):
                return self._ends.excess(times, chart, path.together(times))[:, copies]

        found: Any = elementwise.find_root(  # type: ignore[call-overload]
            lambda places, copies: excess(places, copies).min(axis=0),
            (np.zeros(len(copies)), np.ones(len(copies))),
            args=(copies,),
            tolerances={"xatol": 1e-12, "xrtol": 0.0, "fatol": 0.0, "frtol": 0.0},
        )
        (left, right), (at_left, _) = found.bracket, found.f_bracket
        places = np.where(found.success, np.where(at_left <= 0, left, right), 1.0)
        self._status[copies] = 1 + np.argmin(excess(places, copies), axis=0)
        self._end_times[copies] = start + places * span

    def _is_bad(self, solver: Any, path: Callable[[float], Vector]) -> bool:
        """Whether the interpolant of an explicit method is far worse than its step.

        It may be where stability bounds the steps. Its slope beside the velocity shows it, at two
        places within the step.
        """
        step = solver.t - solver.t_old
        for share in _PROBES:
            time = solver.t_old + share * step
            state = path(time)
            slope = (path(time + 1e-4 * step) - path(time - 1e-4 * step)) / (2e-4 * step)
            defect = step * (slope - self._finite_velocity(self._chart, time, state))
            size = solver.atol + solver.rtol * np.abs(state)
            # Of a NaN no comparison is true.
            if not largest_rms(defect / size, len(self._status)) < _DEFECT:
                return True
        return False

    def _again(self, solver: Any, time: float) -> Vector:
        """The state at a time within a step, by steps of the method itself."""
        options = {**self._later_options, "first_step": time - solver.t_old}
        again = self._begin(self._chart, solver.t_old, solver.y_old, time, options)
        while again.status == "running":
            self._advance(again)
        return again.y

    def _excess(self, time: float, chart: Chart, state: Vector) -> Vector:
        with _defined_at(time):
            return self._ends.excess(time, chart, state)

    def _observe(self, time: float, chart: Chart, state: Vector) -> Row:
        with _defined_at(time):
            return chart.observe(state)

    def _steps(self) -> Iterator[Any]:
        """The integrator, after each of its steps; a new one where the chart has changed."""
        time, options = self._times[0], self._options
        while time < self._times[-1]:
            chart = self._chart
            solver = self._begin(chart, time, chart.state, self._times[-1], options)
            while solver.status == "running" and self._chart is chart:
                self._advance(solver)
                yield solver
            time, options = solver.t, dict(self._later_options)
            if isinstance(solver, _ONE_STEP) and time < self._times[-1]:
                options["first_step"] = min(solver.h_abs, self._times[-1] - time)

    def _begin(
        self, chart: Chart, time: float, state: Vector, last: float, options: dict[str, Any]
    ) -> Any:
        """The integrator at a time, on its way to another."""
        self._is_first = True
        method, share, copies = self._method, 1.0, len(self._status)
        if copies > 1 and method in OF_COPIES:
            method, options = OF_COPIES[method], {**options, "copies": copies}
        else:
            share = copies**-0.5
        with self._explaining(time):
            return method(
                lambda t, y: self._finite_velocity(chart, t, y),
                time,
                state,
                last,
                # SciPy warns of less than it can hold.
                rtol=max(share * self._rtol, min(self._rtol, 1e-13)),
                atol=share * self._atol * chart.scale,
                **options,
            )

    def _advance(self, solver: Any) -> None:
        """Let the integrator take one step."""
        self._gap, before = "", solver.t
        with self._explaining(before):
            message = solver.step()
        if solver.status == "failed" or not np.isfinite(solver.y).all():
            raise self._failure(
                solver.t, message or "The flow left the range of floating-point numbers."
            )
        if solver.t == before:
            raise self._failure(before, "Its steps are too small to be told apart.")

    def _finite_velocity(self, chart: Chart, time: float, state: Vector) -> Vector:
        # A trial step that overflows has no velocity; NaN makes the integrator shorten it.
        if not is_finite(state):
            return np.full_like(state, np.nan)
        velocity, reason = None, "the gradient is not finite"
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                velocity = chart.velocity(state)
        except NotFiniteError:
            pass
        except OutsideError as error:
            reason = f"the flow leaves its manifold: {error}"
        except BaseException:
            self._gap = ""  # it is this error that ends the flow
            raise
        if velocity is None or not is_finite(velocity):
            self._gap = f"{reason} at time {time:g}"
            if self._is_first:  # no shorter step helps
                raise self._failure(time, "")
            return np.full_like(state, np.nan)
        self._is_first = False
        return velocity

    @contextmanager
    def _explaining(self, time: float) -> Iterator[None]:
        """Errors that an integrator makes of a velocity that is not finite become a FlowError."""
        try:
            yield
        except (ArithmeticError, ValueError) as error:  # LinAlgError is a ValueError
            if not self._gap:
                raise
            raise self._failure(time, str(error)) from error

    def _failure(self, time: float, reason: str) -> FlowError:
        reason = self._gap or f"{reason} Another method or other tolerances may do."
        return FlowError(
            f"the integrator {self._method.__name__} failed at time {time:g}: {reason}"
        )


class _Path:
    """The states within the last step of an integrator, where some copies rest at their ends.

    Parameters
    ----------
    solver : OdeSolver
        The integrator.
    copies : int
        How many copies there are.
    is_bad : callable
        Whether the interpolant of the integrator is far worse than its step.
    again : callable
        From the integrator and a time to the state there without the interpolant.

    Attributes
    ----------
    rest : dict
        The time at which each of the copies that rest has come to its end.
    """

    def __init__(
        self,
        solver: Any,
        copies: int,
        is_bad: Callable[..., bool],
        again: Callable[..., Vector],
    ) -> None:
        self._solver, self._copies = solver, copies
        self._is_bad, self._again = is_bad, again
        self._known: dict[float, Vector] = {solver.t: solver.y}
        self.rest: dict[int, float] = {}

    def __call__(self, time: float) -> Vector:
        """The state at a time, as true as the states at the ends of the step."""
        resting = {k: end for k, end in self.rest.items() if end < time}
        state = self._true(time)
        if resting:
            state = state.copy()
            for k, end in resting.items():
                self._rows(state)[k] = self._rows(self._true(end))[k]
        return state

    def together(self, times: Vector) -> Vector:
        """The interpolated states of all copies, each at a time of its own."""
        states = self._interpolant(times).T
        return np.concatenate([self._rows(state)[k] for k, state in enumerate(states)])

    @cached_property
    def _interpolant(self) -> Callable[[Any], Vector]:
        return self._solver.dense_output()  # which costs gradients

    def _true(self, time: float) -> Vector:
        if time not in self._known:
            if self._is_true:
                self._known[time] = self._interpolant(time)
            else:
                self._known[time] = self._again(self._solver, time)
        return self._known[time]

    @cached_property
    def _is_true(self) -> bool:
        is_explicit = isinstance(self._solver, _EXPLICIT)
        return not (is_explicit and self._is_bad(self._solver, self._interpolant))

    def _rows(self, state: Vector) -> Vector:
        return state.reshape(self._copies, -1)


@contextmanager
def _defined_at(time: float) -> Iterator[None]:
    """A gradient that turns out not to be finite ends the flow."""
    try:
        yield
    except NotFiniteError as error:
        raise FlowError(f"the gradient is not finite at time {time:g}: {error}") from error


def _solver(method: Any) -> type[OdeSolver]:
    if method == "CVODE":
        sundials()  # refuses it where it is not installed
        return CVODE
    solver = getattr(scipy.integrate, method, None) if isinstance(method, str) else method
    if not (isinstance(solver, type) and issubclass(solver, OdeSolver)):
        raise ValueError(
            f'method must be an integrator of scipy.integrate or "CVODE", got {method!r}'
        )
    return solver


def _solver_options(method: type[OdeSolver], options: dict[str, Any]) -> dict[str, Any]:
    reserved = {"args", "dense_output", "events", "fun", "t_eval", "t_span", "vectorized", "y0"}
    if taken := reserved.intersection(options):
        raise TypeError(f"options must not contain {', '.join(sorted(taken))}: the flow sets them")
    parameters = inspect.signature(method).parameters
    kinds = {name: parameter.kind for name, parameter in parameters.items()}
    # SciPy's methods take any other option as "extraneous", and warn.
    takes_any = any(k is inspect.Parameter.VAR_KEYWORD for n, k in kinds.items() if n[0] != "e")
    if not takes_any and (unknown := set(options) - set(kinds)):
        known = set(kinds) - reserved - {"t0", "t_bound", "extraneous"}
        raise TypeError(
            f"options must be those of {method.__name__}, {', '.join(sorted(known))}, got "
            f"{', '.join(sorted(unknown))}"
        )
    for name in {"first_step", "max_step"}.intersection(options):
        if options[name] is not None and not (name == "max_step" and options[name] == np.inf):
            options[name] = positive_number(name, options[name])
    return options
