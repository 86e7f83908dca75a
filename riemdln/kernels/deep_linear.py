"""The kernel of the deep linear network."""

from __future__ import annotations

import math

import numpy as np

from riemdln._arrays import (
    Array,
    everywhere,
    floating_arrays,
    integer,
    limits,
    namespace,
    real_depth,
)
from riemdln.kernels.kernel import Kernel, filled_like, quotient_in_squares

__all__ = ["DeepLinearKernel"]

# Depths whose sum over layers takes less time than the quotient.
_FEW_LAYERS = (2, 3, 4)

# Where |ln(s^2 / t^2)| is less than this, the poles of the terms of d ln theta are cancelled by
# hand, in a series.
_NEAR = 0.2
# Of 1 / (1 - e^-x) = 1/2 + 1/x + x/12 - x^3/720 + ..., the odd powers: B_{k+1} / (k+1)!.
_SERIES = ((1, 1 / 12), (3, -1 / 720), (5, 1 / 30240), (7, -1 / 1209600), (9, 1 / 47900160))


class DeepLinearKernel(Kernel):
    r"""The kernel of the deep linear network of a given depth.

    .. math::

        \theta_N(s, t) = \sum_{k=1}^{N} s^{2(N-k)/N} t^{2(k-1)/N}
                       = M^{2 - 2/N} \frac{1 - r^2}{1 - r^{2/N}},
        \qquad M = \max(s, t), \quad r = \min(s, t) / M,

    and at infinite depth the limit of :math:`\theta_N / N`,

    .. math:: \theta_\infty(s, t) = M^2 \frac{1 - r^2}{-2 \ln r}.

    The second form has no sum over layers, so it costs the same at every depth and extends
    the first one, which is taken for two, three and four layers, to every real depth from 1 to
    infinity. On the diagonal
    :math:`\theta_N(s, s) = N s^{2 - 2/N}` and :math:`\theta_\infty(s, s) = s^2`; where one argument
    is zero :math:`\theta_N(s, 0) = s^{2 - 2/N}` and :math:`\theta_\infty(s, 0) = 0`.

    Parameters
    ----------
    depth : float
        The depth N, a number from 1 to ``math.inf``.

    Raises
    ------
    TypeError
        If `depth` is not a number.
    ValueError
        If `depth` is less than 1 or NaN.

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
    >>> from riemdln.kernels import DeepLinearKernel
    >>> s = np.array([1.0, 2.0, 4.0])
    >>> DeepLinearKernel(2)(s, 4.0)  # s + t
    array([5., 6., 8.])
    >>> DeepLinearKernel(math.inf)(s, s)  # s^2
    array([ 1.,  4., 16.])
    """

    is_symmetric = True

    def __init__(self, depth: float) -> None:
        self._depth = real_depth("depth", depth)
        self.constant = 1.0 if self._depth == 1 else None

    @property
    def depth(self) -> float:
        """The depth N."""
        return self._depth

    @property
    def imbalance(self) -> float:
        """The difference of neighbouring layers, zero: they are balanced."""
        return 0.0

    @property
    def order(self) -> float:
        """How many layers go to zero where a singular value of their product does: all N."""
        return self._depth

    def __repr__(self) -> str:
        return f"DeepLinearKernel({self.depth:.15g})"

    def __call__(self, s: Array, t: Array) -> Array:
        """The kernel, entry by entry."""
        (s, t), depth = floating_arrays(s=s, t=t), self.depth
        if depth == 1:
            return filled_like(1.0, s, t)
        if depth in _FEW_LAYERS:
            # The sum over layers, in which no term cancels another one.
            a, b = s ** (2 / depth), t ** (2 / depth)
            if depth == 2:
                return a + b
            squares = a * a + b * b
            return squares + a * b if depth == 3 else squares * (a + b)
        xp = namespace(s, t)
        root_s, root_t = xp.sqrt(s), xp.sqrt(t)
        positive = xp.maximum(root_s, limits(s).tiny)  # so that at s = t = 0 the ratio is 0
        ratio = xp.minimum(root_s, root_t) / xp.maximum(positive, root_t)
        with np.errstate(divide="ignore"):  # ln 0 = -inf is the right limit
            # Kept off zero by less than rounding, so that the quotient is defined at r = 1.
            x = xp.minimum(4 * xp.log(ratio), -1e-20)
        quotient = xp.expm1(x) / (x if math.isinf(depth) else xp.expm1(x / depth))
        larger = xp.maximum(s ** (1 - 1 / depth), t ** (1 - 1 / depth))
        return larger * quotient * larger  # in this order 0 where the quotient is, for every M

    def divided_difference(self, a: Array, b: Array, t: Array) -> Array:
        """The first divided difference in the squares, to nearly all digits.

        The quotient is taken of theta(s, t) - theta(0, t), which is small where s is, and the
        derivative is theta(s, t) / s^2 times the derivative of ln theta in ln s^2. So neither small
        singular values nor close ones lose digits to cancellation; only within 1e-3 of depth 1,
        where theta itself is nearly constant, are some lost. It has no finite value at a = b = 0,
        except at depth 1, where it is zero everywhere.

        Examples
        --------
        >>> import numpy as np
        >>> from riemdln.kernels import DeepLinearKernel
        >>> a, b = np.array([2.0, 2.0, 1e-9]), np.array([1.0, 2.0, 0.0])
        >>> np.round(DeepLinearKernel(2).divided_difference(a, b, 4.0) * (a + b), 12)  # 1 / (a + b)
        array([1., 1., 1.])
        """
        same = a is b
        a, b, t = floating_arrays(a=a, b=b, t=t)
        if self.depth == 1:
            return 0.0 * (a + b + t)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            if same or everywhere(a == b, otherwise=False):
                return self._slope(a, t)
            rise = self._above_zero(a, t) - self._above_zero(b, t)
            return quotient_in_squares(rise, lambda s: self._slope(s, t), a, b)

    def _above_zero(self, s: Array, t: Array) -> Array:
        """theta(s, t) - theta(0, t) = s^{2/N} M^{2-4/N} (1 - r^{2-2/N}) / (1 - r^{2/N})."""
        if math.isinf(self.depth):
            return self(s, t)
        xp = namespace(s, t)
        x, power = -xp.abs(_log_ratio(s, t)), 2 - 4 / self.depth
        quotient = xp.expm1(x * (1 - 1 / self.depth)) / xp.expm1(x / self.depth)
        # Powers of the larger one, taken before the two are broadcast together.
        larger = xp.maximum(s**power, t**power) if power > 0 else xp.minimum(s**power, t**power)
        return xp.where(s > 0, s ** (2 / self.depth) * larger * quotient, 0.0)

    def _slope(self, s: Array, t: Array) -> Array:
        """The derivative of theta in s^2: theta / s^2 times that of ln theta in ln(s^2 / t^2)."""
        xp, x = namespace(s, t), _log_ratio(s, t)
        c, q = self._poles(x)
        logarithmic = xp.where(xp.abs(x) < _NEAR, self._series(x)[0], c - q)
        return self(s, t) * logarithmic / s / s

    def second_log_derivatives(self, s: Array, t: Array) -> tuple[Array, Array]:
        r"""The second derivatives of ln theta, in proportion to the singular values.

        With x = ln(s^2 / t^2) and k(x) the derivative of ln theta in ln s^2,

        .. math::

            s^2 \, \partial_s^2 \ln \theta_N &= 2 (2 k' - k)(x), \\
            s t \, \partial_s \partial_t \ln \theta_N &= -4 k'(x), \\
            k(x) &= \frac{1}{1 - e^{-x}} - \frac{1}{N (1 - e^{-x/N})}.

        Parameters
        ----------
        s, t : array
            Singular values, positive, of shapes that broadcast together.

        Returns
        -------
        pair of arrays
            The first and the second of these, to nearly all digits at any ratio of s to t, except
            within 1e-3 of depth 1.

        Examples
        --------
        >>> import numpy as np
        >>> from riemdln.kernels import DeepLinearKernel
        >>> s, t = np.array(1.0), np.array(3.0)
        >>> np.round(DeepLinearKernel(2).second_log_derivatives(s, t), 12)  # of ln(s + t)
        array([-0.0625, -0.1875])
        """
        s, t = floating_arrays(s=s, t=t)
        xp = namespace(s, t)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            x = _log_ratio(s, t)
            near, (series, slope) = xp.abs(x) < _NEAR, self._series(x)
            c, q = self._poles(x)
            # As k = c - q has the derivative k' = c (1 - c) - q (1/N - q), this is 2 k' - k. It is
            # used where c and q do not cancel.
            pure = c * (1 - 2 * c) + q * (1 - 2 / self.depth + 2 * q)
            # k' is even, and nothing cancels where x is negative.
            c, q = self._poles(-xp.abs(x))
            mixed = c * (1 - c) - q * (1 / self.depth - q)
        return 2 * xp.where(near, 2 * slope - series, pure), -4 * xp.where(near, slope, mixed)

    def layer_singular_values(self, s: Array) -> list[Array]:
        """The singular values s^{1/N} of the balanced layers whose product has those given.

        Parameters
        ----------
        s : array (...)
            Singular values of the end-to-end matrix.

        Returns
        -------
        list of N arrays (...)

        Raises
        ------
        ValueError
            If the depth is not a whole number.
        """
        return [s ** (1 / self.depth)] * integer("depth", self.depth)

    def _poles(self, x: Array) -> tuple[Array, Array]:
        """The terms of d ln theta / d ln s^2: c = 1 / (1 - e^-x) less q = 1 / (N (1 - e^(-x/N))).

        It is the derivative of ln(expm1(x) / expm1(x / N)). Each of the two has a pole at x = 0,
        where their difference has none, see `_series`.
        """
        N, expm1 = self.depth, namespace(x).expm1
        return 1 / -expm1(-x), 1 / x if math.isinf(N) else 1 / (-N * expm1(-x / N))

    def _series(self, x: Array) -> tuple[Array, Array]:
        """The difference c - q of `_poles` and its derivative, where x is small."""
        odd, slope, square = 0.0, 0.0, x * x
        for power, coefficient in reversed(_SERIES):
            term = coefficient * (1 - self.depth ** -(power + 1))
            odd, slope = odd * square + term, slope * square + power * term
        return (1 - 1 / self.depth) / 2 + x * odd, slope


def _log_ratio(s: Array, t: Array) -> Array:
    """The logarithm x = ln(s^2 / t^2), kept off zero by less than rounding."""
    xp = namespace(s, t)
    x = 4 * xp.log(xp.sqrt(s) / xp.sqrt(t))
    return xp.where(xp.abs(x) < 1e-20, 1e-20, x)
