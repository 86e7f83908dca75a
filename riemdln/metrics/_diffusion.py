"""What moves when noise moves a matrix: its entries, or those of its root.

A diffusion on a stack of matrices (K, m, n) is computed in coordinates of the same shape, the
states. `AmbientDiffusion` takes the matrices themselves, under any metric. `RootDiffusion` takes
roots of depth N, in which the noise of g^N is regular everywhere, at lower rank too.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["AmbientDiffusion", "Diffusion", "DiffusionAt", "RootDiffusion"]

Vector = NDArray[np.floating[Any]]


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

        It is followed for some time: what would lead beyond zero in that time leads to zero.
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

    def ito_drift(self, time: float) -> Vector:
        """The drift that Ito's form of the noise of `root` adds: see `Metric.ito_drift`."""
        ...

    def log_volume(self) -> Vector:
        """The logarithm of the volume density of the metric in the states, up to a constant."""
        ...

    def holds(self, variance: float) -> Any:
        """Whether the states hold the least singular values: see `MetricAt.holds`."""
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


class _AmbientAt:
    def __init__(self, points: Vector, metric: Any) -> None:
        at = metric.at(points)
        self.points, self._metric, self._at = points, metric, at
        self.sharp, self.root, self.inverse_root = at.sharp, at.root, at.inverse_root
        self.log_volume = at.log_volume
        self.holds = at.holds

    @property
    def singular_values(self) -> Vector:
        return np.linalg.svd(self.points, compute_uv=False)

    def laplacian(self, time: float) -> Vector:
        return self._at.coordinate_laplacian()

    def ito_drift(self, time: float) -> Vector:
        return self._at.ito_drift()

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
        return self._drift(lambda root: 1 + root, time)

    def ito_drift(self, time: float) -> Vector:
        return 0.5 * self._drift(lambda root: root, time)

    def _drift(self, factor: Any, time: float) -> Vector:
        r"""U diag(d) V^T for the sum over the cometric's values c of (1 - c^{1/2}) factor(c^{1/2}).

        Each is divided by the rate at which its direction turns the frame: rho_i - rho_j where c is
        a_ij, rho_i + rho_j where it is b_ij, and rho_i where it is N.
        """
        (a, b), N = self._roots, self._N
        here, there = self._sigma[..., :, None], self._sigma[..., None, :]
        total = np.where(here + there > 0, here + there, 1.0)
        d = np.sum(
            self._symmetric_rate * factor(a) + np.where(self._off, (1 - b) / total, 0) * factor(b),
            axis=-1,
        )
        if self._beyond:
            with np.errstate(divide="ignore"):
                edge = self._beyond * (1 - N**0.5) * factor(N**0.5) / self._sigma
            d += np.maximum(edge, -N * self._sigma / time)
        return self._spectral(d / N**0.5)

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

    def holds(self, variance: float) -> Any:
        return np.ones(self._sigma.shape[:-1], dtype=bool)

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
    def _symmetric_rate(self) -> Vector:
        """(1 - a^{1/2}) / (sigma_i - sigma_j), with its limit zero where these are equal."""
        N, logs, (root, _) = self._N, self._logs, self._roots
        here, there = self._sigma[..., :, None], self._sigma[..., None, :]
        close = np.abs(N * logs) < 1e-3
        # a^{1/2} = 1 - (N^2 - 1) tau^2 / 24 + ...
        far = (1 - root) / np.where(close, 1.0, here - there)
        near = (N**2 - 1) / 24 * logs / np.where(here > 0, here, 1.0)
        return np.where(close, np.where(self._off, near, 0.0), far)

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
