"""Kernels: the plain functions of two singular values that define spectral metrics.

In the frame of the singular value decomposition W = U diag(s) V^T, a spectral cometric
multiplies entry (i, j) of a matrix by ``theta(s_i, s_j)``. This module holds the kernel of
the deep linear network for every real depth, infinity included.
"""

from __future__ import annotations

import math

import numpy as np
from array_api_compat import array_namespace

from riemdln._validation import Array, floating_array, real_depth

__all__ = ["theta"]


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
    S. Arora, N. Cohen, E. Hazan. On the optimization of deep networks: implicit acceleration by
    overparameterization. ICML 2018, Theorem 1 and its proof.
    N. Cohen, G. Menon, Z. Veraszto. Deep linear networks for matrix completion: an infinite
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
    larger = xp.maximum(s, t) ** (1 - 1 / depth)
    return larger * quotient * larger  # in this order 0 where the quotient is, however large M is
