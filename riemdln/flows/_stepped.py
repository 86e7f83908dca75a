"""Runs of random steps: all that flows with noise share, whatever their steps move."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from riemdln._arrays import NotFiniteError
from riemdln.flows._recorder import Row, progress_bar
from riemdln.flows._results import FlowError
from riemdln.flows._trajectory import REASONS

__all__ = ["Stepped", "Stepper", "explained", "stopped_by"]

Vector = NDArray[np.floating[Any]]


class Stepper(Protocol):
    """What moves by steps of time: independent copies.

    Attributes
    ----------
    copies : int
        How many there are, K.
    """

    copies: int

    @property
    def nfev(self) -> int:
        """How many gradients were evaluated."""
        ...

    def step(self, size: float) -> None:
        """Take one step of time; a NotFiniteError says that there is none."""
        ...

    def costs(self) -> Vector:
        """The costs of the copies, (K,)."""
        ...

    def observe(self) -> Row:
        """What the result keeps of the copies: arrays (K, ...), or lists of them."""
        ...

    def account(self, steps: int) -> Row:
        """What the result says of all steps: fields of arrays (K,)."""
        ...


class Stepped:
    """The rows of copies that move by steps, at given times.

    Parameters
    ----------
    stepper : Stepper
        What moves.
    times : array (T,)
        The times.
    step_size : float
        The longest step; the time between two of `times` is divided into equal ones.
    is_stack : bool
        Whether rows have the copies after the times; otherwise there is one copy.
    progress : bool
        Whether to show a progress bar.
    """

    def __init__(
        self, stepper: Stepper, times: Vector, step_size: float, is_stack: bool, progress: bool
    ) -> None:
        self._stepper, self._times, self._step_size = stepper, times, step_size
        self._is_stack, self._progress = is_stack, progress
        self._now, self._steps = float(times[0]), 0
        if not math.isfinite(float(times[-1] - times[0]) / step_size):
            raise ValueError(
                f"step_size must divide the times into a finite number of steps, got {step_size:g}"
            )

    @property
    def nfev(self) -> int:
        """How many gradients were evaluated."""
        return self._stepper.nfev

    def __iter__(self) -> Generator[tuple[float, Row]]:
        yield self.reached()
        with progress_bar(self._times, self._progress) as show:
            for start, end in zip(self._times[:-1], self._times[1:], strict=True):
                count = max(1, math.ceil((end - start) / self._step_size * (1 - 1e-12)))
                for step in range(1, count + 1):
                    self._advance((end - start) / count)
                    self._now = start + step * (end - start) / count
                    show(self._now, self._stepper.costs)
                yield end, self._row()

    def _advance(self, size: float) -> None:
        with explained(f"no step of {size:g} from time {self._now:g}"):
            self._stepper.step(size)
        self._steps += 1

    def outcome(self, stopped: tuple[BaseException, float] | None = None) -> Row:
        """How it has ended."""
        status, message = (0, REASONS[0]) if stopped is None else (-1, stopped_by(stopped[0]))
        fields = self._stepper.account(self._steps)
        each = np.full(self._stepper.copies, status)
        fields |= {
            "status": each,
            "success": each == 0,
            "end_times": np.full(each.shape, self._now),
        }
        own = {name: self._own(values) for name, values in fields.items()}
        return own | {"message": message}

    def reached(self) -> tuple[float, Row]:
        """The time of the last step, and the row there."""
        return self._now, self._row()

    def _row(self) -> Row:
        with explained(f"no cost at time {self._now:g}"):
            row = self._stepper.observe()
        return {name: self._own(values) for name, values in row.items()}

    def _own(self, values: Any) -> Any:
        """The values of all copies, or of the one that there is."""
        if isinstance(values, list):
            return [self._own(part) for part in values]
        if self._is_stack:
            return values
        return values[0] if values.ndim > 1 else values[0].item()


@contextmanager
def explained(what: str) -> Iterator[None]:
    """What is not finite becomes a FlowError, and what overflows is found where it is used."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            yield
    except NotFiniteError as error:
        raise FlowError(f"{what}: {error}") from error


def stopped_by(error: BaseException) -> str:
    """What a message says of an error."""
    return f"stopped by {type(error).__name__}"
