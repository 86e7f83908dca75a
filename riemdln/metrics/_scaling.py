"""What multiples of matrices do to geodesics: the metric g^N is a cone, or a product.

A geodesic from W_a to W_b is known where one from W_a to a multiple of W_b is known, so that only
matrices of one size need to be joined.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["ConeScaling", "NoScaling", "ProductScaling", "Scaled", "Scaling"]

Vector = NDArray[np.floating[Any]]


class Scaled(NamedTuple):
    """A geodesic W(t) = f(t) V(u(t)), seen from one V to a multiple of its end.

    Attributes
    ----------
    times, rates : array (K,)
        u and its derivative.
    factors, growths : array (K,)
        f and its derivative.
    length : float
        The length of W.
    """

    times: Vector
    rates: Vector
    factors: Vector
    growths: Vector
    length: float


class Scaling(Protocol):
    """How geodesics from W_a to W_b follow from those to a multiple of W_b."""

    divisor: float  # of W_b

    def scaled(self, times: Vector, length: float) -> Scaled | None:
        """The geodesic to W_b, from the length of that to the multiple; None where it has none."""
        ...


class NoScaling:
    """Of a metric for which multiples of matrices mean nothing."""

    divisor = 1.0

    def scaled(self, times: Vector, length: float) -> Scaled | None:
        ones = 1 + 0 * times
        return Scaled(times, ones, ones, 0 * times, length)


class ProductScaling:
    """At infinite depth: the metric is a product, of ln|det W| and of matrices of one determinant.

    Parameters
    ----------
    W_a, W_b : array (n, n)
        The ends of a geodesic.
    """

    def __init__(self, W_a: Vector, W_b: Vector) -> None:
        self._rise = float((np.linalg.slogdet(W_b)[1] - np.linalg.slogdet(W_a)[1]) / len(W_a))
        self._size = len(W_a) ** 0.5
        with np.errstate(over="ignore"):
            self.divisor = float(np.exp(self._rise))

    def scaled(self, times: Vector, length: float) -> Scaled | None:
        factors = np.exp(self._rise * times)
        total = float(np.hypot(length, self._size * self._rise))
        return Scaled(times, 1 + 0 * times, factors, self._rise * factors, total)


class ConeScaling:
    r"""At finite depth: a cone of the radius r = N^{1/2} |S^{1/N}|.

    Two matrices of one radius r whose geodesic has the length 2 r sin(psi / 2) are at the angle psi
    from one another. In the plane that the geodesic lies in when it is unrolled, all geodesics are
    straight lines.

    Parameters
    ----------
    depth : float
        The depth N, finite.
    W_a, W_b : array (m, n)
        The ends of a geodesic.
    rank : int or None
        Their rank, if it is not full.
    """

    def __init__(self, depth: float, W_a: Vector, W_b: Vector, rank: int | None) -> None:
        s = np.linalg.svd(np.stack([W_a, W_b]), compute_uv=False)[:, :rank]
        radii = np.linalg.norm(depth**0.5 * s ** (1 / depth), axis=-1)
        self._depth, self._radius = depth, float(radii[0])
        self._ratio = float(radii[1] / radii[0])
        self.divisor = float(np.exp(depth * np.log(self._ratio)))

    def scaled(self, times: Vector, length: float) -> Scaled | None:
        sine = length / self._radius / 2
        if not sine < 1:
            return None
        psi = max(2 * np.arcsin(sine), 1e-100)  # of multiples of one matrix zero
        # The straight lines from 1 to ratio e^{i psi} and to e^{i psi}, at equal angles.
        x = (self._ratio - 1) * np.cos(psi) - 2 * sine**2
        y = self._ratio * np.sin(psi)
        across, along = times * y, 1 + times * x
        radius, phi = np.hypot(across, along), np.arctan2(across, along)
        total = np.sin(phi) + np.sin(psi - phi)
        inner, inner_radius = np.sin(phi) / total, np.cos(psi / 2) / np.cos(phi - psi / 2)
        turning = y / radius**2
        rates = np.sin(psi) / total**2 * turning
        factors = (radius / inner_radius) ** self._depth
        growth = (along * x + across * y) / radius**2 - np.tan(phi - psi / 2) * turning
        whole = self._radius * float(np.hypot(x, y))
        return Scaled(inner, rates, factors, self._depth * growth * factors, whole)
