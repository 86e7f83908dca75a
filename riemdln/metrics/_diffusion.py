"""What moves when noise moves a matrix: its entries, or those of its root.

A diffusion on a stack of matrices (K, m, n) is computed in coordinates of the same shape, the
states. `AmbientDiffusion` takes the matrices themselves, under any metric. `RootDiffusion` takes
roots of depth N, in which the noise of g^N is regular everywhere, at lower rank too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["AmbientDiffusion", "Diffusion", "DiffusionAt", "RootDiffusion"]

Vector = NDArray[np.floating[Any]]

# Turns are cut at this: they grow without end where singular values go to zero, and what they turn
# goes to zero there.
_LONGEST_TURN = 1e6

# From states beyond a boundary to their mirror images; it leaves others as they are.
Reflection = Callable[[Vector], Vector]


class DiffusionAt(Protocol):
    """A diffusion at each of K states. All vectors are velocities of states (K, m, n)."""

    @property
    def points(self) -> Vector:
        """The matrices."""
        ...

    @property
    def singular_values(self) -> Vector:
        """Their singular values."""
        ...

    def laplacian(self, time: float) -> Vector:
        """The Laplace-Beltrami operator of the metric, applied to the entries of the states.

        As a drift that is followed for a time: where m != n it is infinite at lower rank, and what
        would take a singular value beyond zero in that time takes it to zero.
        """
        ...

    def sharp(self, covector: Vector) -> Vector:
        """The Riemannian gradient of a Euclidean gradient at the points."""
        ...

    def tangent(self, tangent_vector: Vector) -> Vector:
        """How the states move when the points move along a tangent vector."""
        ...

    def entropy(self) -> Vector:
        """The entropy of balanced layers."""
        ...

    def entropy_gradient(self) -> Vector:
        """The Riemannian gradient of the entropy."""
        ...

    def root(self, Z: Vector) -> Vector:
        """The square root of the cometric of the states."""
        ...

    def inverse_root(self, Z: Vector) -> Vector:
        """The inverse of `root`."""
        ...

    def log_volume(self) -> Vector:
        """The logarithm of the volume density of the metric in the states, up to a constant."""
        ...

    def where(self, condition: Any, other: Any) -> DiffusionAt:
        """The diffusion at these states where a condition (K,) holds, and at others elsewhere."""
        ...


class Diffusion(Protocol):
    """The coordinates of a diffusion."""

    def states(self, points: Vector) -> Vector:
        """The states of matrices."""
        ...

    def at(self, states: Vector) -> DiffusionAt:
        """The diffusion at some states."""
        ...

    def holds_least_singular_value(self, states: Vector, variance: float) -> Any:
        """Whether a step of noise leaves digits: see `MetricAt.holds_least_singular_value`."""
        ...

    def brownian_step(
        self, states: Vector, variance: float, rng: np.random.Generator, reflect: Reflection
    ) -> Vector:
        """The states after Brownian motion of a variance, to weak order two.

        States on the way, and those at its end, are reflected where they have left the domain.
        """
        ...


class AmbientDiffusion:
    """A diffusion whose states are the matrices themselves.

    Parameters
    ----------
    metric : Metric
        The metric.
    """

    def __init__(self, metric: Any) -> None:
        self._metric = metric

    def states(self, points: Vector) -> Vector:
        return points

    def at(self, states: Vector) -> DiffusionAt:
        return _AmbientAt(states, self._metric)

    def holds_least_singular_value(self, states: Vector, variance: float) -> Any:
        return self._metric.at(states).holds_least_singular_value(variance)

    def brownian_step(
        self, states: Vector, variance: float, rng: np.random.Generator, reflect: Reflection
    ) -> Vector:
        r"""By the scheme of Ninomiya and Ninomiya (2009).

        With the drift b of Stratonovich's form and Gaussian matrices Z_1 and Z_2 of variances 1/2
        and 3/2 and covariance -1/2, it follows dW/du = v^{1/2} A^{1/2} Z_1, and then
        dW/du = v b + v^{1/2} A^{1/2} Z_2, each for a unit of u. A Runge-Kutta method of order four
        does, since the terms of its error at v^{5/2} are odd in the Gaussians.
        """
        first = rng.standard_normal(states.shape) / 2**0.5
        second = rng.standard_normal(states.shape) - first

        def along_first(W: Vector) -> Vector:
            return variance**0.5 * self._metric.at(W).root(first)

        def along_second(W: Vector) -> Vector:
            at = self._metric.at(W)
            drift = at.coordinate_laplacian() / 2 - at.ito_drift()
            return variance * drift + variance**0.5 * at.root(second)

        return reflect(_runge_kutta(along_second, reflect(_runge_kutta(along_first, states))))


class _AmbientAt:
    def __init__(self, points: Vector, metric: Any) -> None:
        at = metric.at(points)
        self.points, self._metric, self._at = points, metric, at
        self.sharp, self.root, self.inverse_root = at.sharp, at.root, at.inverse_root
        self.log_volume = at.log_volume

    @property
    def singular_values(self) -> Vector:
        return np.linalg.svd(self.points, compute_uv=False)

    def laplacian(self, time: float) -> Vector:
        return self._at.coordinate_laplacian()

    def tangent(self, tangent_vector: Vector) -> Vector:
        return tangent_vector

    def entropy(self) -> Vector:
        return self._at.entropy()

    def entropy_gradient(self) -> Vector:
        return self._at.sharp(self._at.entropy_gradient())

    def where(self, condition: Any, other: _AmbientAt) -> _AmbientAt:
        points = np.where(condition[:, None, None], self.points, other.points)
        return _AmbientAt(points, self._metric)


class RootDiffusion:
    r"""A diffusion under g^N whose states are R = U diag(rho) V^T, rho_i = N^{1/2} s_i^{1/N}.

    In the frame of R the cometric is 1 on the diagonal, and on the symmetric and the antisymmetric
    parts of the entries ij and ji

    .. math::

        a_{ij} = N \frac{\tanh(\tau / 2)}{\tanh(N \tau / 2)}, \qquad b_{ij} = N^2 / a_{ij}, \qquad
        \tau = |\ln(\rho_i / \rho_j)|,

    and N on what leaves the row or the column space of R where m != n. So it is bounded, also where
    rho_i = 0, and sqrt(det g) is constant: the metric's volume is that of the entries of R.

    The cometric is the identity, whose Brownian motion is a Gaussian matrix, and a rest that is not
    negative and turns the frame alone. So the singular values rho are those of a Gaussian matrix.

    Parameters
    ----------
    depth : float
        The depth N, finite.

    References
    ----------
    - G. Menon, T. Yu. An entropy formula for the deep linear network. 2025.
    """

    def __init__(self, depth: float) -> None:
        self._depth = depth

    def states(self, points: Vector) -> Vector:
        U, s, Vt = np.linalg.svd(points, full_matrices=False)
        return self._depth**0.5 * (U * s[..., None, :] ** (1 / self._depth)) @ Vt

    def at(self, states: Vector) -> DiffusionAt:
        U, rho, Vt = np.linalg.svd(states, full_matrices=False)
        return _RootAt(self._depth, U, rho / self._depth**0.5, Vt)

    def holds_least_singular_value(self, states: Vector, variance: float) -> Any:
        return np.ones(states.shape[:-2], dtype=bool)

    def brownian_step(
        self, states: Vector, variance: float, rng: np.random.Generator, reflect: Reflection
    ) -> Vector:
        """Half of the Gaussian matrix, the turns of the frame, and the other half (Strang 1968)."""

        def gaussian() -> Vector:
            return (variance / 2) ** 0.5 * rng.standard_normal(states.shape)

        return reflect(self._turned(reflect(states + gaussian()), variance, rng) + gaussian())

    def _turned(self, states: Vector, variance: float, rng: np.random.Generator) -> Vector:
        r"""The states U diag(rho) V^T with random turns of U and V.

        For each pair of singular vectors U turns by x and V by y, Gaussian with

        .. math::

            x + y \sim (2 (a_{ij} - 1) v)^{1/2} / (\rho_i - \rho_j), \qquad
            x - y \sim (2 (b_{ij} - 1) v)^{1/2} / (\rho_i + \rho_j),

        and the longer of U and V by ((N - 1) v)^{1/2} / rho_i out of its space. Two turns with
        Gaussians of variances 1/2 and 3/2 and covariance -1/2 have weak order two, as they commute
        with the singular values.
        """
        m, n = states.shape[-2:]
        U, rho, Vt = np.linalg.svd(states)
        r = rho.shape[-1]
        at = _RootAt(self._depth, U[..., :r], rho / self._depth**0.5, Vt[..., :r, :])
        shape = (*rho.shape[:-1], max(m, n), r)
        plus, minus, out = at.turns(variance)
        before = [np.zeros(shape), np.zeros(shape)]
        for weight in (0.5**0.5, 1.0):
            x, y = (weight * rng.standard_normal(shape) - g for g in before)
            before = [x, y]
            skew = [(plus * x[..., :r, :] + sign * minus * y[..., :r, :]) / 2 for sign in (1, -1)]
            turns = [_skew(skew[0], out * x[..., r:, :], m), _skew(skew[1], out * x[..., r:, :], n)]
            U, Vt = U @ _rotation(turns[0]), _rotation(turns[1]).mT @ Vt
        return (U[..., :r] * rho[..., None, :]) @ Vt[..., :r, :]


class _RootAt:
    def __init__(self, depth: float, U: Vector, sigma: Vector, Vt: Vector) -> None:
        self._N, self._U, self._sigma, self._Vt = depth, U, sigma, Vt  # sigma_i = s_i^{1/N}
        self._beyond = abs(U.shape[-2] - Vt.shape[-1])

    @cached_property
    def points(self) -> Vector:
        with np.errstate(invalid="ignore"):  # of infinite singular values
            return (self._U * self.singular_values[..., None, :]) @ self._Vt

    @cached_property
    def singular_values(self) -> Vector:
        with np.errstate(over="ignore"):
            return self._sigma**self._N

    def laplacian(self, time: float) -> Vector:
        r"""U diag(d) V^T, d_i = sum_j (1 - a) / (rho_i - rho_j) + (1 - b) / (rho_i + rho_j) + ...

        It is what is left of the drift of the singular values of a Gaussian matrix.
        """
        (_, b), N = self._roots, self._N
        here, there = self._sigma[..., :, None], self._sigma[..., None, :]
        total = np.where(here + there > 0, here + there, 1.0)
        plus = np.where(self._off, (1 - b**2) / total, 0.0)
        d = np.sum(self._symmetric_rate + plus, axis=-1)
        if self._beyond:
            with np.errstate(divide="ignore"):
                edge = self._beyond * (1 - N) / self._sigma
            d += np.maximum(edge, -N * self._sigma / time)
        return self._spectral(d / N**0.5)

    def turns(self, variance: float) -> tuple[Vector, Vector, Vector]:
        """The spreads of the turns of the frame: see `RootDiffusion`."""
        (_, b), N = self._roots, self._N
        here, there = self._sigma[..., :, None], self._sigma[..., None, :]
        with np.errstate(divide="ignore", invalid="ignore"):
            minus = np.where(self._off, (2 * variance / N * (b**2 - 1)) ** 0.5 / (here + there), 0)
            out = ((N - 1) * variance / N) ** 0.5 / self._sigma[..., None, :]
        minus, out = (np.minimum(np.nan_to_num(turn), _LONGEST_TURN) for turn in (minus, out))
        return (2 * variance / N) ** 0.5 * self._symmetric_turn, minus, out

    def sharp(self, covector: Vector) -> Vector:
        """Of its symmetric part N^{1/2} (s_i + s_j) / (sigma_i + sigma_j) times, and so on."""
        N, edge = self._N, self._sigma ** (self._N - 1)
        return N**0.5 * self._mapped(covector, *self._quotients, edge)

    def tangent(self, tangent_vector: Vector) -> Vector:
        """The derivative of s -> N^{1/2} s^{1/N} on the parts."""
        plus, minus = self._quotients
        with np.errstate(divide="ignore"):
            edge = self._sigma ** (1 - self._N)
            return self._N**0.5 * self._mapped(tangent_vector, 1 / minus, 1 / plus, edge)

    def root(self, Z: Vector) -> Vector:
        return self._mapped(Z, *self._roots, self._N**0.5 + 0 * self._sigma)

    def inverse_root(self, Z: Vector) -> Vector:
        a, b = self._roots
        return self._mapped(Z, 1 / a, 1 / b, self._N**-0.5 + 0 * self._sigma)

    def entropy(self) -> Vector:
        """The sum 1/2 sum_{i<j} ln theta, theta = (s_i^2 - s_j^2) / (sigma_i^2 - sigma_j^2)."""
        plus, minus = self._quotients
        with np.errstate(divide="ignore"):
            return np.sum(np.tril(np.log(plus) + np.log(minus), -1), axis=(-2, -1)) / 2

    def entropy_gradient(self) -> Vector:
        r"""U diag(dS / d rho_i) V^T, from x = 2 ln(sigma_i / sigma_j).

        dS / d sigma_i = sum_j (N / (1 - e^{-N x}) - 1 / (1 - e^{-x})) / sigma_i
        """
        N, x = self._N, 2 * self._logs
        close = np.abs(N * x) < 1e-3
        safe = np.where(close, 1.0, x)
        with np.errstate(over="ignore"):
            far = 1 / np.expm1(-safe) - N / np.expm1(-N * safe)
        slope = np.where(close, (N - 1) / 2 + (N**2 - 1) * np.where(close, x, 0.0) / 12, far)
        sigma = np.where(self._sigma > 0, self._sigma, 1.0)
        d = np.sum(np.where(self._off, slope, 0.0), axis=-1) / sigma
        return self._spectral(d / N**0.5)

    def log_volume(self) -> Vector:
        return np.zeros(self._sigma.shape[:-1])

    def where(self, condition: Any, other: _RootAt) -> _RootAt:
        each, rows = condition[:, None, None], condition[:, None]
        return _RootAt(
            self._N,
            np.where(each, self._U, other._U),
            np.where(rows, self._sigma, other._sigma),
            np.where(each, self._Vt, other._Vt),
        )

    @cached_property
    def _off(self) -> Vector:
        """Where i != j."""
        return ~np.eye(self._sigma.shape[-1], dtype=bool)

    @cached_property
    def _logs(self) -> Vector:
        """The logarithms ln(sigma_i / sigma_j), of 0 / 0 zero."""
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(self._sigma)
            difference = logs[..., :, None] - logs[..., None, :]
        return np.where(np.isnan(difference), 0.0, difference)

    @cached_property
    def _roots(self) -> tuple[Vector, Vector]:
        """The roots of the cometric's values a and b on symmetric and antisymmetric parts."""
        half = np.abs(self._logs) / 2
        close = half < 1e-150
        safe = np.where(close, 1.0, half)
        ratio = np.where(close, 1 / self._N, np.tanh(safe) / np.tanh(self._N * safe))
        root = (self._N * ratio) ** 0.5
        return root, self._N / root

    @cached_property
    def _symmetric_turn(self) -> Vector:
        """(a - 1)^{1/2} / |sigma_i - sigma_j|, with its limit where these are equal."""
        N, logs, (root, _) = self._N, np.abs(self._logs), self._roots
        here, there = self._sigma[..., :, None], self._sigma[..., None, :]
        close = N * logs < 1e-3
        far = np.maximum(root**2 - 1, 0.0) ** 0.5 / np.where(close, 1.0, np.abs(here - there))
        # a = 1 + (N^2 - 1) tau^2 / 12 + ...
        near = ((N**2 - 1) / 12) ** 0.5 / np.where(here > 0, here, 1.0)
        return np.where(self._off, np.where(close, near, far), 0.0)

    @cached_property
    def _symmetric_rate(self) -> Vector:
        """(1 - a) / (sigma_i - sigma_j), with its limit zero where these are equal."""
        difference = self._sigma[..., :, None] - self._sigma[..., None, :]
        return -(self._symmetric_turn**2) * difference

    @cached_property
    def _quotients(self) -> tuple[Vector, Vector]:
        """(s_i + s_j) / (sigma_i + sigma_j) and (s_i - s_j) / (sigma_i - sigma_j)."""
        N, tau = self._N, np.abs(self._logs)
        largest = np.maximum(self._sigma[..., :, None], self._sigma[..., None, :]) ** (N - 1)
        close = tau < 1e-150
        safe = np.where(close, 1.0, tau)
        minus = np.where(close, N, np.expm1(-N * safe) / np.expm1(-safe))
        return largest * (1 + np.exp(-N * tau)) / (1 + np.exp(-tau)), largest * minus

    def _mapped(self, Z: Vector, symmetric: Vector, antisymmetric: Vector, edge: Vector) -> Vector:
        """A matrix of which the parts in the frame are multiplied: the blocks M and what is beyond.

        The factor of the symmetric part is that of the diagonal too.
        """
        U, Vt, edge = self._U, self._Vt, edge[..., None, :]
        m, n = Z.shape[-2:]
        half = U.mT @ Z if m < n else Z @ Vt.mT
        M = half @ Vt.mT if m < n else U.mT @ half
        inside = (M * (symmetric + antisymmetric) + M.mT * (symmetric - antisymmetric)) / 2
        if m < n:
            return U @ ((inside - edge.mT * M) @ Vt + edge.mT * half)
        if m > n:
            return (U @ (inside - edge * M) + edge * half) @ Vt
        return U @ inside @ Vt

    def _spectral(self, d: Vector) -> Vector:
        """The matrices U diag(d) V^T."""
        return (self._U * d[..., None, :]) @ self._Vt


def _skew(inner: Vector, outer: Vector, size: int) -> Vector:
    """Skew matrices from what is above their diagonals, and from the rows beyond, if there are."""
    r = inner.shape[-1]
    skew = np.zeros((*inner.shape[:-2], size, size))
    upper = np.triu(inner, 1)
    skew[..., :r, :r] = upper - upper.mT
    if size > r:
        skew[..., r:, :r], skew[..., :r, r:] = outer, -outer.mT
    return skew


def _rotation(X: Vector) -> Vector:
    """The exponential of skew matrices by its Padé approximant of order four, a rotation."""
    even, odd = np.eye(X.shape[-1]) + X @ X / 12, X / 2
    return np.linalg.solve(even - odd, even + odd)


def _runge_kutta(field: Callable[[Vector], Vector], states: Vector) -> Vector:
    """The flow of a vector field for a unit of time, by one classical step of order four."""
    a = field(states)
    b = field(states + a / 2)
    c = field(states + b / 2)
    d = field(states + c)
    return states + (a + 2 * b + 2 * c + d) / 6
