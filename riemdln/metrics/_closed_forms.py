"""Geodesics of g^N in closed form, beside those of one row or column."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import polar

__all__ = ["aligned_geodesic", "depth_two_geodesic"]

Matrix = NDArray[np.floating[Any]]

# Points, velocities and length.
Known = tuple[Matrix, Matrix, float]

# What matrices may lack of the form that a formula asks for, in proportion to the distance.
_ROUNDING = 1e-12


def aligned_geodesic(metric: Any, W_a: Matrix, W_b: Matrix, times: Matrix) -> Known | None:
    """The geodesic between matrices that share their singular vectors, in the same order.

    The N-th roots of singular values move evenly, and at infinite depth their logarithms,

        W(t) = U ((1 - t) S_a^{1/N} + t S_b^{1/N})^N V^T, of length N^{1/2} |S_a^{1/N} - S_b^{1/N}|.

    No path is shorter: no singular value moves faster than its path. Where the order changes on
    the way, turns may be shorter, and the answer is None.

    Parameters
    ----------
    metric : DeepLinearMetric
        The metric.
    W_a, W_b : array (m, n)
        The points.
    times : array (K,)
        Times from 0 to 1.
    """
    # Of the sum singular vectors are known that equal singular values of one leave open.
    U, _, Vt = np.linalg.svd(
        W_a / np.linalg.norm(W_a) + 0.7 * W_b / np.linalg.norm(W_b), full_matrices=False
    )
    a, b = (np.sum(U * (W @ Vt.T), axis=0) for W in (W_a, W_b))
    if not (np.all(a > 0) and np.all(b > 0)):
        return None
    if np.any(np.subtract.outer(a, a) * np.subtract.outer(b, b) < 0):
        return None
    N, t = metric.depth, times[:, None]
    with np.errstate(over="ignore", divide="ignore"):
        rise = np.log(b / a)  # which keeps digits that the difference of logarithms may lose
    rise = np.where(np.isfinite(rise), rise, np.log(b) - np.log(a))
    if math.isinf(N):
        s, length = np.exp(np.log(a) + t * rise), float(np.linalg.norm(rise))
        speeds = s * rise
    else:
        excess = np.expm1(rise / N)  # of the roots, in proportion
        length = float(N**0.5 * np.linalg.norm(a ** (1 / N) * excess))
        s = a * np.exp(N * np.log1p(t * excess))
        speeds = N * s * excess / (1 + t * excess)
    if _misses(metric, W_a, U * a @ Vt, length) or _misses(metric, W_b, U * b @ Vt, length):
        return None
    return (U * s[:, None, :]) @ Vt, (U * speeds[:, None, :]) @ Vt, length


def depth_two_geodesic(metric: Any, W_a: Matrix, W_b: Matrix, times: Matrix) -> Known | None:
    """The geodesic at depth 2 between matrices with the same polar factor, W = Q H.

    On positive definite matrices H the metric is twice that of Bures and Wasserstein. With
    H = L L^T, and the factors L_a and L_b of the two as near to one another as they can be,

        W(t) = Q L(t) L(t)^T, L(t) = (1 - t) L_a + t L_b, of length 2^{1/2} |L_a - L_b|.

    Parameters
    ----------
    metric : DeepLinearMetric
        The metric, of depth 2.
    W_a, W_b : array (m, n)
        The points.
    times : array (K,)
        Times from 0 to 1.

    References
    ----------
    - R. Bhatia, T. Jain, Y. Lim. On the Bures-Wasserstein distance between positive definite
      matrices. Expositiones Mathematicae 37, 2019.
    """
    if W_a.shape[0] < W_a.shape[1]:
        found = depth_two_geodesic(metric, W_a.T, W_b.T, times)
        return found and (found[0].mT, found[1].mT, found[2])
    U, s, Vt = np.linalg.svd(W_a, full_matrices=False)
    Q = U @ Vt
    H_b = Q.T @ W_b
    values, vectors = np.linalg.eigh((H_b + H_b.T) / 2)
    if not np.all(values > 0):
        return None
    L_a, root_b = Vt.T * s**0.5 @ Vt, vectors * values**0.5 @ vectors.T
    step = root_b @ polar(root_b @ L_a)[0] - L_a
    length = float(2**0.5 * np.linalg.norm(step))
    if _misses(metric, W_b, Q @ root_b @ root_b, length):
        return None
    L = L_a + times[:, None, None] * step
    moved = step @ L.mT
    return Q @ (L @ L.mT), Q @ (moved + moved.mT), length


def _misses(metric: Any, W: Matrix, form: Matrix, length: float) -> bool:
    """Whether a matrix is farther from its form than by rounding.

    In the metric at the form, and in all directions: `flat` leaves out those that it freezes.
    """
    U, s, Vt = np.linalg.svd(form, full_matrices=False)
    error, theta = W - form, metric.kernel
    M = U.T @ error @ Vt.T
    square = np.sum(M**2 / theta(s[:, None], s))
    if W.shape[0] != W.shape[1]:
        square += np.sum((U.T @ error - M @ Vt) ** 2 / theta(s, 0 * s)[:, None])
        square += np.sum((error @ Vt.T - U @ M) ** 2 / theta(0 * s, s))
    return not float(square) <= (_ROUNDING * length) ** 2
