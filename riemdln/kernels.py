"""Kernels: the plain functions of two singular values that define spectral metrics.

In the frame of the singular value decomposition W = U diag(s) V^T, a spectral cometric
multiplies entry (i, j) of a matrix by ``theta(s_i, s_j)``, and its derivative multiplies by
divided differences of theta in the squares of the singular values. This module holds both for
the deep linear network of every real depth, infinity included.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from array_api_compat import array_namespace

from riemdln._arrays import Array, floating_array, real_depth

Kernel = Callable[[Array, Array], Array]
DividedDifference = Callable[[Array, Array, Array], Array]

__all__ = ["divided_difference", "numerical_divided_difference", "theta"]

# Where a and b are closer than this, relatively, a divided difference is a mean of derivatives:
# Gauss-Legendre quadrature in the square from b^2 to a^2. Farther apart it is a quotient.
_CLOSE = 0.05
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(4)


def theta(s: Array, t: Array, depth: float) -> Array:
    r"""The kernel of the deep linear network of a given depth.

    .. math::

        \theta_N(s, t) = \sum_{k=1}^{N} s^{2(N-k)/N} t^{2(k-1)/N}
                       = M^{2 - 2/N} \frac{1 - r^2}{1 - r^{2/N}},
        \qquad M = \max(s, t), \quad r = \min(s, t) / M,

    and at infinite depth the limit of :math:`\theta_N / N`,

    .. math:: \theta_\infty(s, t) = M^2 \frac{1 - r^2}{-2 \ln r}.

    The second form has no sum over layers, so it costs the same at every depth and extends
    the first one to every real depth from 1 to infinity.

    Parameters
    ----------
    s, t : array of float
        Singular values, nonnegative, of shapes that broadcast together.
    depth : float
        The depth N, a number from 1 to ``math.inf``.

    Returns
    -------
    array of float
        The kernel, elementwise. On the diagonal :math:`\theta_N(s, s) = N s^{2 - 2/N}` and
        :math:`\theta_\infty(s, s) = s^2`; where one argument is zero
        :math:`\theta_N(s, 0) = s^{2 - 2/N}` and :math:`\theta_\infty(s, 0) = 0`.

    Raises
    ------
    TypeError
        If ``depth`` is not a number.
    ValueError
        If ``depth`` is less than 1 or NaN.

    Notes
    -----
    With x = ln r^2 the quotient is expm1(x) / expm1(x / N), a smooth function of x in which a
    rounding error of x is harmless both at r -> 1, where x -> 0, and at r -> 0, where
    x -> -inf. The ratio of the square roots does not underflow, whatever s and t are; theta itself
    may, or overflow, since it is of the size of M^{2 - 2/N}.

    References
    ----------
    - S. Arora, N. Cohen, E. Hazan. On the optimization of deep networks: implicit acceleration by
      overparameterization. ICML 2018, Theorem 1 and its proof.
    - N. Cohen, G. Menon, Z. Veraszto. Deep linear networks for matrix completion: an infinite
      depth limit. 2023.

    Examples
    --------
    >>> import math
    >>> import numpy as np
    >>> from riemdln.kernels import theta
    >>> s = np.array([1.0, 2.0, 4.0])
    >>> theta(s, 4.0, depth=2)  # s + t
    array([5., 6., 8.])
    >>> theta(s, s, depth=math.inf)  # s^2
    array([ 1.,  4., 16.])
    """
    depth = real_depth("depth", depth)
    s, t = floating_array("s", s), floating_array("t", t)
    xp = array_namespace(s, t)
    root_s, root_t = xp.sqrt(s), xp.sqrt(t)
    tiny = xp.finfo(root_s.dtype).smallest_normal
    ratio = xp.minimum(root_s, root_t) / xp.maximum(xp.maximum(root_s, tiny), root_t)
    with np.errstate(divide="ignore"):  # ln 0 = -inf is the right limit
        # Kept off zero by less than rounding, so that the quotient is defined at r = 1.
        x = xp.minimum(4 * xp.log(ratio), -1e-20)
    quotient = xp.expm1(x) / (x if math.isinf(depth) else xp.expm1(x / depth))
    larger = xp.maximum(s ** (1 - 1 / depth), t ** (1 - 1 / depth))
    return larger * quotient * larger  # in this order 0 where the quotient is, however large M is


def divided_difference(a: Array, b: Array, t: Array, depth: float) -> Array:
    r"""The first divided difference of the deep linear network's kernel, in the squares.

    .. math:: \theta_N[a, b; t] = \frac{\theta_N(a, t) - \theta_N(b, t)}{a^2 - b^2}

    and, at a = b, the derivative of theta in the square of its first argument. The kernel is
    symmetric, so this serves both of its arguments.

    Parameters
    ----------
    a, b, t : array of float
        Singular values, nonnegative, of shapes that broadcast together.
    depth : float
        The depth N, a number from 1 to ``math.inf``.

    Returns
    -------
    array of float
        The divided difference, elementwise and symmetric in `a` and `b`. It has no finite value
        at a = b = 0, except at depth 1, where it is zero everywhere.

    Raises
    ------
    TypeError
        If ``depth`` is not a number.
    ValueError
        If ``depth`` is less than 1 or NaN.

    Notes
    -----
    The quotient is taken of theta(s, t) - theta(0, t), which is small where s is, and the
    derivative is theta(s, t) / s^2 times the derivative of ln theta in ln s^2. So neither small
    singular values nor close ones lose digits to cancellation; only within 1e-3 of depth 1, where
    theta itself is nearly constant, are some lost.

    Examples
    --------
    >>> import numpy as np
    >>> from riemdln.kernels import divided_difference
    >>> a, b = np.array([2.0, 2.0, 1e-9]), np.array([1.0, 2.0, 0.0])
    >>> np.round(divided_difference(a, b, 4.0, depth=2) * (a + b), 12)  # 1 / (a + b)
    array([1., 1., 1.])
    """
    depth = real_depth("depth", depth)
    a, b, t = (floating_array(*item) for item in (("a", a), ("b", b), ("t", t)))
    if depth == 1:
        return 0.0 * (a + b + t)
    xp = array_namespace(a, b, t)
    close = xp.abs(a - b) <= _CLOSE * xp.maximum(a, b)
    run = (a - b) * (a + b)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        if xp.all(a == b):
            return _theta_slope(a, t, depth)
        rise = _theta_above_zero(a, t, depth) - _theta_above_zero(b, t, depth)
        quotient = rise / xp.where(close, 1.0, run)
        if not xp.any(close):
            return quotient
        between = (xp.sqrt(b**2 + (1 + node) / 2 * run) for node in _NODES)
        slopes = (_theta_slope(s, t, depth) for s in between)
        mean = sum(weight / 2 * slope for weight, slope in zip(_WEIGHTS, slopes, strict=True))
    return xp.where(close, mean, quotient)


def _theta_above_zero(s: Array, t: Array, depth: float) -> Array:
    """theta(s, t) - theta(0, t) = s^{2/N} M^{2-4/N} (1 - r^{2-2/N}) / (1 - r^{2/N})."""
    if math.isinf(depth):
        return theta(s, t, depth)
    xp = array_namespace(s, t)
    x, power = -xp.abs(_log_ratio(s, t)), 2 - 4 / depth
    quotient = xp.expm1(x * (1 - 1 / depth)) / xp.expm1(x / depth)
    # Powers of the larger one, taken before the two are broadcast together.
    larger = xp.maximum(s**power, t**power) if power > 0 else xp.minimum(s**power, t**power)
    return xp.where(s > 0, s ** (2 / depth) * larger * quotient, 0.0)


def _theta_slope(s: Array, t: Array, depth: float) -> Array:
    """The derivative of theta in s^2: theta / s^2 times that of ln theta in x = ln(s^2 / t^2)."""
    xp = array_namespace(s, t)
    x = _log_ratio(s, t)
    # The derivative of ln(expm1(x) / expm1(x / N)) is c(x) - c(x / N) / N, c(x) = 1 / (1 - e^-x).
    # At x -> 0 the poles cancel: c(x) = 1/2 + 1/x + x/12 - x^3/720 + x^5/30240 - ...
    if math.isinf(depth):
        logarithmic = 1 / -xp.expm1(-x) - 1 / x
    else:
        logarithmic = 1 / -xp.expm1(-x) - 1 / (-depth * xp.expm1(-x / depth))
    c1, c3, c5 = (
        (1 - depth**-power) * coefficient
        for power, coefficient in ((2, 1 / 12), (4, -1 / 720), (6, 1 / 30240))
    )
    series = (1 - 1 / depth) / 2 + x * (c1 + x * x * (c3 + x * x * c5))
    return theta(s, t, depth) * xp.where(xp.abs(x) < 0.05, series, logarithmic) / s / s


def _log_ratio(s: Array, t: Array) -> Array:
    """X = ln(s^2 / t^2), kept off zero by less than rounding."""
    xp = array_namespace(s, t)
    x = 4 * xp.log(xp.sqrt(s) / xp.sqrt(t))
    return xp.where(xp.abs(x) < 1e-20, 1e-20, x)


def numerical_divided_difference(kernel: Kernel) -> DividedDifference:
    """The first divided difference of any kernel in its first argument, from its values alone.

    Where a and b are close it is the derivative in the square at their mean, by the central
    difference of fourth order.

    Parameters
    ----------
    kernel : callable
        ``kernel(s, t)`` on arrays that broadcast together.

    Returns
    -------
    callable
        ``divided_difference(a, b, t)``.

    Examples
    --------
    >>> import numpy as np
    >>> from riemdln.kernels import numerical_divided_difference
    >>> difference = numerical_divided_difference(lambda s, t: s**4 + t)
    >>> a, b = np.array([1.0, 3.0]), np.array([1.0, 1.0])
    >>> np.round(difference(a, b, 5.0), 9)  # a^2 + b^2
    array([ 2., 10.])
    """
    return partial(_numerical_divided_difference, kernel)


def _numerical_divided_difference(kernel: Kernel, a: Array, b: Array, t: Array) -> Array:
    xp = array_namespace(a, t)
    larger = xp.maximum(a, b)
    # Below this the rounding errors of theta would drown any difference: the derivative is taken
    # there instead, so that it stays bounded.
    floor = 1e-6 * float(xp.max(larger + t))
    tiny = larger < floor
    close = tiny | (xp.abs(a - b) <= 1e-3 * larger)
    rise, run = kernel(a, t) - kernel(b, t), (a - b) * (a + b)
    if not xp.any(close):
        return rise / run
    # A relative step of eps^(1/5) balances the error of fourth order against rounding.
    step = float(xp.finfo(a.dtype).eps) ** 0.2
    square = xp.where(tiny, floor**2, (a**2 + b**2) / 2)
    slope = sum(
        weight * kernel(xp.sqrt(square * (1 + place * step)), t)
        for place, weight in ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))
    ) / xp.where(square > 0, square * step, 1.0)
    return xp.where(close, slope, rise / xp.where(close, 1.0, run))
