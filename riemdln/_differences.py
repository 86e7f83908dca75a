"""Central differences, for derivatives that have no closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["CENTRAL", "CENTRAL_SIXTH", "central_difference"]

# f'(0) is, up to the fourth order of the step h, the sum of weight (f(place h) - f(-place h)) / h.
CENTRAL = ((1, 2 / 3), (2, -1 / 12))
# The same up to the sixth order.
CENTRAL_SIXTH = ((1, 3 / 4), (2, -3 / 20), (3, 1 / 60))


def central_difference(function: Callable[[Any], Any], step: Any) -> Any:
    """The derivative at 0 of a function of a number, or of numbers that broadcast with a stack."""
    return sum(
        weight / step * (function(place * step) - function(-place * step))
        for place, weight in CENTRAL
    )
