"""The recorder of flows: what all of them do, whatever moves.

`Trajectory` integrates a velocity and reads states off at given times; `record` observes states,
one after the other, and keeps what was observed whatever ends the run.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any, Protocol, TypeVar

import numpy as np
import scipy.integrate
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import OdeSolver
from scipy.optimize import brentq
from tqdm.auto import tqdm

from riemdln._arrays import (
    NotFiniteError,
    finite_array,
    increasing_times,
    positive_number,
)
from riemdln.flows._cvode import CVODE, sundials
from riemdln.flows._results import Flow, FlowError

__all__ = ["Run", "Trajectory", "record"]

Vector = NDArray[np.floating[Any]]
F = TypeVar("F", bound=Flow)


class Run(Protocol):
    """States at increasing times, computed one after the other while one iterates."""

    @property
    def message(self) -> str:
        """Why it ended, once it has."""
        ...

    @property
    def nfev(self) -> int:
        """How many velocities it has evaluated so far."""
        ...

    def __iter__(self) -> Generator[tuple[float, Vector]]: ...


def record(kind: type[F], run: Run, observe: Callable[[Vector], dict[str, Any]]) -> F:
    """The result of a run: what was observed at each of its times.

    Parameters
    ----------
    kind : subclass of Flow
        What the result is.
    run : Run
        The times and states.
    observe : callable
        From a state to the fields of the result that have one value at each time, `costs` and
        `gradient_norms` among them.

    Returns
    -------
    kind
        Fields are arrays where the values at each time are numbers or arrays, and lists otherwise.

    Raises
    ------
    FlowError
        If the cost or the norm of the gradient is not finite at one of the times.

    Notes
    -----
    Whatever else ends the run after its first point leaves through here, with the result until
    then in its attribute ``result``.
    """
    rows: list[dict[str, Any]] = []

    def result(message: str, *, success: bool) -> F:
        columns = {name: _column([row[name] for row in rows]) for name in rows[0]}
        return kind(**columns, message=message, success=success, nfev=run.nfev)

    try:
        with closing(iter(run)) as states:
            for time, state in states:
                with _defined_at(time):
                    seen = observe(state)
                for name, value in (("cost", seen["costs"]), ("gradient", seen["gradient_norms"])):
                    if not np.isfinite(value):
                        raise FlowError(f"the {name} is not finite at time {time:g}: it is {value}")
                rows.append({"times": float(time), **seen})
    except BaseException as error:
        if rows:
            error.result = result(  # type: ignore[attr-defined]
                f"stopped by {type(error).__name__}", success=False
            )
            error.add_note("What the flow had computed is in this exception's attribute 'result'.")
        raise
    return result(run.message, success=True)


class Trajectory:
    """The solution of dy/dt = velocity(y) at given times, by an integrator of SciPy.

    The integrator chooses its own steps, whatever the times; they are read off its interpolant.

    Parameters
    ----------
    velocity : callable
        From a state to its velocity. One that is not finite, or raises NotFiniteError, makes the
        integrator shorten its step.
    gradient_norm : callable
        From a state to what comes down to the gradient tolerance.
    start : array (d,)
        The state at the first time.
    times : array_like (K,)
        Strictly increasing times.
    gradient_tolerance : float, optional
        End where `gradient_norm` has come down to this.
    progress : bool
        Whether to show a progress bar.
    method, rtol, atol, **options
        The integrator and its options: see `gradient_flow`.

    Attributes
    ----------
    message : str
        Why it ended.
    nfev : int
        How many velocities it has evaluated.
    """

    def __init__(
        self,
        velocity: Callable[[Vector], Vector],
        gradient_norm: Callable[[Vector], float],
        start: Vector,
        times: ArrayLike,
        *,
        gradient_tolerance: float | None,
        progress: bool,
        method: str | type[OdeSolver],
        rtol: float,
        atol: ArrayLike,
        **options: Any,
    ) -> None:
        self._solver = _solver(method)
        self._options = _solver_options(options, rtol=rtol, atol=atol)
        self._times = increasing_times("times", times)
        if gradient_tolerance is not None:
            gradient_tolerance = positive_number("gradient_tolerance", gradient_tolerance)
        self._tolerance = gradient_tolerance
        self._progress = progress
        self._velocity = velocity
        self._gradient_norm = gradient_norm
        self._start = start
        self._gap: float | None = None  # where the last step met a velocity that is not finite
        self.nfev = 0
        self.message = ""

    def __iter__(self) -> Generator[tuple[float, Vector]]:
        """The states at the times; the last one where it meets the tolerance."""
        times = self._times
        yield times[0], self._start
        self.message = "reached the last time"
        if len(times) == 1:
            return
        due = 1
        ends_here = self._excess(times[0], self._start) <= 0
        with _progress_bar(times, self._progress) as show:
            for solver in () if ends_here else self._steps():
                start, end = solver.t_old, solver.t
                ends_here = self._excess(end, solver.y) <= 0
                if ends_here or times[due] <= end:
                    path = solver.dense_output()  # costs gradients
                if ends_here:
                    end = self._crossing(path, start, end)
                while due < len(times) and times[due] <= end:
                    yield times[due], path(times[due])
                    due += 1
                show(end)
                if ends_here:
                    if times[due - 1] < end:
                        yield end, path(end)
                    break
        if ends_here:
            self.message = "reached the gradient tolerance"

    def _excess(self, time: float, state: Vector) -> float:
        """How far the norm of the gradient is above the tolerance."""
        if self._tolerance is None:
            return np.inf
        with _defined_at(time):
            return self._gradient_norm(state) - self._tolerance

    def _crossing(self, path: Callable[[float], Vector], start: float, end: float) -> float:
        """The time within a step at which the norm of the gradient meets the tolerance."""

        def excess(time: float) -> float:
            return self._excess(time, path(time))

        if excess(start) > 0 >= excess(end):
            return brentq(excess, start, end, xtol=1e-12 * (end - start))
        return end

    def _steps(self) -> Iterator[Any]:
        """The integrator, after each of its steps."""
        first, last = self._times[0], self._times[-1]
        with self._explaining(first):
            solver: Any = self._solver(
                self._finite_velocity, first, self._start, last, **self._options
            )
        while solver.status == "running":
            self._gap = None
            with self._explaining(solver.t):
                message = solver.step()
            if solver.status == "failed" or not np.isfinite(solver.y).all():
                raise self._failure(
                    solver.t, message or "The flow left the range of floating-point numbers."
                )
            yield solver

    def _finite_velocity(self, time: float, state: Vector) -> Vector:
        # A trial step that overflows has no velocity; NaN makes the integrator shorten it.
        undefined = np.full_like(state, np.nan)
        if not np.isfinite(state).all():
            return undefined
        self.nfev += 1
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                velocity = self._velocity(state)
        except NotFiniteError:
            velocity = undefined
        except BaseException:
            self._gap = None  # it is this error that ends the flow
            raise
        if not np.isfinite(velocity).all():
            self._gap = time
            if self.nfev == 1:  # no shorter step helps
                raise self._failure(time, "")
        return velocity

    @contextmanager
    def _explaining(self, time: float) -> Iterator[None]:
        """Errors that an integrator makes of a velocity that is not finite become a FlowError."""
        try:
            yield
        except (ArithmeticError, ValueError) as error:  # LinAlgError is a ValueError
            if self._gap is None:
                raise
            raise self._failure(time, str(error)) from error

    def _failure(self, time: float, reason: str) -> FlowError:
        if self._gap is None:
            reason = f"{reason} Another method or other tolerances may do."
        else:
            reason = f"the gradient is not finite at time {self._gap:g}"
        return FlowError(
            f"the integrator {self._solver.__name__} failed at time {time:g}: {reason}"
        )


@contextmanager
def _defined_at(time: float) -> Iterator[None]:
    """A gradient that turns out not to be finite ends the flow."""
    try:
        yield
    except NotFiniteError as error:
        raise FlowError(f"the gradient is not finite at time {time:g}: {error}") from error


@contextmanager
def _progress_bar(times: Vector, visible: bool) -> Iterator[Callable[[float], None]]:
    first, last = float(times[0]), float(times[-1])
    layout = "{percentage:3.0f}%|{bar}| {desc} of " + f"{last:.4g} [{{elapsed}}<{{remaining}}]"
    with tqdm(total=last - first, disable=not visible, bar_format=layout) as bar:

        def show(time: float) -> None:
            bar.set_description_str(f"t = {time:.4g}", refresh=False)
            bar.update(time - first - bar.n)

        yield show


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


def _solver_options(options: dict[str, Any], **tolerances: Any) -> dict[str, Any]:
    reserved = {"args", "dense_output", "events", "fun", "t_eval", "t_span", "vectorized", "y0"}
    if taken := reserved.intersection(options):
        raise TypeError(f"options must not contain {', '.join(sorted(taken))}: the flow sets them")
    rtol = positive_number("rtol", tolerances["rtol"])
    atol = finite_array("atol", tolerances["atol"])
    if not np.all(atol > 0):
        # With zero the error of an entry that is zero has no scale, and steps are undefined.
        raise ValueError(f"atol must be positive, got {atol!r}")
    for name in {"first_step", "max_step"}.intersection(options):
        if options[name] is not None and not (name == "max_step" and options[name] == np.inf):
            options[name] = positive_number(name, options[name])
    return {**options, "rtol": rtol, "atol": atol}


def _column(values: list[Any]) -> Any:
    """One array of numbers, or of arrays; a list of anything else."""
    return np.array(values) if isinstance(values[0], (float, np.ndarray)) else values
