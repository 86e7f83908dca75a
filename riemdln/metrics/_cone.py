"""Geodesics of one row or one column, in closed form: a flat cone.

Of a vector w the metric g^N sees the radius ``rho = sqrt(N) |w|^{1/N}``, and an angle between two
vectors as one of 1 / sqrt(N) of it (from Claim 2 of Arora, Cohen and Hazan 2018). So the plane of
two vectors is a cone of total angle 2 pi / sqrt(N), and a geodesic is a straight line when the cone
is unrolled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from riemdln._frame import singular_frame

__all__ = ["cone_geodesic"]

Matrix = NDArray[np.floating[Any]]


def cone_geodesic(
    a: Matrix, b: Matrix, depth: float, times: NDArray[np.floating[Any]]
) -> tuple[Matrix, Matrix, float]:
    """The shortest geodesic from a at time 0 to b at time 1.

    Parameters
    ----------
    a, b : array (m, n)
        Rows or columns, not zero; of one entry only, of one sign.
    depth : float
        The depth N, more than 1 and finite, so that the tip of the cone is never met.
    times : array (K,)
        Times from 0 to 1.

    Returns
    -------
    points, velocities : array (K, m, n)
    length : float

    Examples
    --------
    >>> import numpy as np
    >>> from riemdln.metrics._cone import cone_geodesic
    >>> points, _, length = cone_geodesic(
    ...     np.array([[1.0]]), np.array([[9.0]]), 2, np.array([0.5])
    ... )
    >>> points  # the square root moves evenly
    array([[[4.]]])
    >>> round(length / 2**0.5, 12)  # sqrt(2) |3 - 1|
    2.0
    """
    root = np.sqrt(depth)
    (size_a, along), (size_b, across) = _polar(a), _polar(b)
    cosine = float(along @ across)
    across = across - cosine * along
    sine = float(np.linalg.norm(across))
    if sine < 1e-15:  # in line: any direction serves, and none is taken unless b = -a |b| / |a|
        across = (np.arange(a.size) == np.argmin(np.abs(along))) * 1.0
        across = across - (along @ across) * along
    across = across / max(float(np.linalg.norm(across)), np.finfo(float).tiny)
    angle = np.arctan2(sine, cosine) / root
    # Unrolled, with the radius of a as the unit of length: a is at (1, 0) and b at (1 + x, y). At
    # great depths x and y are small, of the order 1 / N and 1 / sqrt(N).
    excess = np.expm1((np.log(size_b) - np.log(size_a)) / depth)
    x = excess * np.cos(angle) - 2 * np.sin(angle / 2) ** 2
    y = (1 + excess) * np.sin(angle)

    t = times[:, None]
    square = t * (2 * x + t * (x**2 + y**2))  # of the radius, less 1
    turned = root * np.arctan2(t * y, 1 + t * x)
    growth = depth * (x + t * (x**2 + y**2)) / (1 + square)
    turning = root * y / (1 + square)
    outward = np.cos(turned) * along + np.sin(turned) * across
    sideward = np.cos(turned) * across - np.sin(turned) * along
    sizes = size_a * np.exp(depth / 2 * np.log1p(square))
    points = sizes * outward
    velocities = sizes * (growth * outward + turning * sideward)
    length = float(root * size_a ** (1 / depth) * np.hypot(x, y))
    return points.reshape(-1, *a.shape), velocities.reshape(-1, *a.shape), length


def _polar(w: Matrix) -> tuple[float, Matrix]:
    """The norm and the direction of a row or column."""
    U, s, Vt = singular_frame(w)
    direction = Vt if U is None else U
    return float(s[0]), np.ravel(direction)
