"""The recorder of flows: what all of them keep, whatever moves and however it ends."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, Protocol, TypeVar

import numpy as np
from tqdm.auto import tqdm

from riemdln.flows._results import Flow, FlowError

__all__ = ["BAR_LAYOUT", "Run", "progress_bar", "record"]

F = TypeVar("F", bound=Flow)

# How progress bars look.
BAR_LAYOUT = "{percentage:3.0f}%|{bar}| {desc} [{elapsed}<{remaining}]"

# What a flow has at one of its times, by the names of the fields of the result.
Row = dict[str, Any]


class Run(Protocol):
    """Rows at increasing times, computed one after the other while one iterates."""

    @property
    def nfev(self) -> int:
        """How many gradients were evaluated."""
        ...

    def __iter__(self) -> Generator[tuple[float, Row]]: ...

    def outcome(self, stopped: tuple[BaseException, float] | None = None) -> Row:
        """How it has ended: the fields `status`, `success`, `end_times` and `message`.

        If an error has stopped it, it is told which and at what time.
        """
        ...

    def reached(self) -> tuple[float, Row]:
        """The time that it has come to, and the row there, as far as it can be known."""
        ...


def record(kind: type[F], run: Run) -> F:
    """The result of a run: the rows at its times.

    Parameters
    ----------
    kind : subclass of Flow
        What the result is.
    run : Run
        The times and rows.

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
    then in its attribute ``result``: the rows, and one more at the time that the run had come to,
    in which the norm of a gradient that cannot be evaluated any more is NaN.
    """
    rows: list[Row] = []

    def keep(time: float, row: Row, *checked: str) -> None:
        for name in checked:
            if not np.isfinite(values := row[name]).all():
                what = {"costs": "cost", "gradient_norms": "gradient"}[name]
                raise FlowError(f"the {what} is not finite at time {time:g}: it is {values}")
        rows.append({"times": float(time), **row})

    def result(**outcome: Any) -> F:
        columns = {name: _column([row[name] for row in rows]) for name in rows[0]}
        return kind(**columns, **outcome, nfev=run.nfev)

    try:
        with closing(iter(run)) as steps:
            for time, row in steps:
                keep(time, row, "costs", "gradient_norms")
    except BaseException as error:
        if rows:
            with suppress(Exception, KeyboardInterrupt):
                time, row = run.reached()
                if time > rows[-1]["times"]:
                    keep(time, row, "costs")
            error.result = result(**run.outcome((error, rows[-1]["times"])))  # type: ignore[attr-defined]
            error.add_note("What the flow had computed is in this exception's attribute 'result'.")
        raise
    return result(**run.outcome())


@contextmanager
def progress_bar(times: Any, visible: bool) -> Iterator[Callable[[float, Callable[[], Any]], None]]:
    """A bar of the simulated time, which is shown a time and what tells the costs there."""
    first, last = float(times[0]), float(times[-1])
    with tqdm(total=last - first, disable=not visible, bar_format=BAR_LAYOUT) as bar:

        def show(time: float, costs: Callable[[], Any]) -> None:
            if visible:
                cost = float(np.mean(costs()))
                bar.set_description_str(
                    f"t = {time:.4g} of {last:.4g}, cost {cost:.4g}", refresh=False
                )
                bar.update(time - first - bar.n)

        yield show


def _column(values: list[Any]) -> Any:
    """One array of numbers, or of arrays; a list of anything else; None of nothing."""
    if values[0] is None:
        return None
    return np.array(values) if isinstance(values[0], (float, np.ndarray)) else values
