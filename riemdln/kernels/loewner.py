"""The kernel of one increasing function of the squares of the singular values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from riemdln._arrays import Array, floating_arrays, limits, namespace
from riemdln.kernels.kernel import Kernel, filled_like, quotient_in_squares

__all__ = ["LoewnerKernel"]


class LoewnerKernel(Kernel):
    r"""The kernel that one increasing function defines.

    With an increasing function :math:`\varphi` of the squares of the singular values,

    .. math::

        \theta(s, t) = \frac{s^2 - t^2}{\varphi(s^2) - \varphi(t^2)}, \qquad
        \theta(s, s) = \frac{1}{\varphi'(s^2)}.

    Under the metric of this kernel the gradient flow of a cost E moves :math:`\varphi(W W^T)` by

    .. math:: \frac{d}{dt} \varphi(W W^T) = -(\nabla E \, W^T + W \, \nabla E^T),

    whatever E is. The powers :math:`x^{1/N}` give the network of N layers, and the logarithm that
    of infinite depth.

    Parameters
    ----------
    function : callable
        The function phi of arrays of nonnegative numbers, entry by entry. At zero it may be minus
        infinity.
    derivative : callable
        Its derivative, positive. At zero it may be infinite.

    Raises
    ------
    TypeError
        If one of the two cannot be called.
    ValueError
        If `function` does not increase between 0.1 and 10, or `derivative` is not its derivative.

    Notes
    -----
    The quotient is the reciprocal of an entry of the Loewner matrix of phi, its first divided
    difference. Where s and t are close it is the mean of the derivative between their squares.
    Singular values whose squares underflow, those below 3e-154, count as zero.
    Divided differences of theta are computed from values of theta, to about ten digits, or to
    fewer where phi has none.

    References
    ----------
    - K. Löwner. Über monotone Matrixfunktionen. Mathematische Zeitschrift 38, 1934.

    Examples
    --------
    The function sqrt(x) is that of two layers, of which theta is s + t:

    >>> import numpy as np
    >>> from riemdln.kernels import LoewnerKernel
    >>> kernel = LoewnerKernel(np.sqrt, lambda x: 0.5 / np.sqrt(x))
    >>> np.round(kernel(np.array([1.0, 2.0, 4.0]), 4.0), 12)
    array([5., 6., 8.])

    One of one's own, which moves small singular values as one layer and large ones as two:

    >>> import riemdln
    >>> kernel = LoewnerKernel(lambda x: np.sqrt(1 + x), lambda x: 0.5 / np.sqrt(1 + x))
    >>> metric = riemdln.SpectralMetric(kernel)
    """

    is_pure = False
    is_symmetric = True

    def __init__(
        self, function: Callable[[Array], Any], derivative: Callable[[Array], Any]
    ) -> None:
        for name, value in (("function", function), ("derivative", derivative)):
            if not callable(value):
                raise TypeError(f"{name} must be a function of squares, got {value!r}")
        self._function, self._derivative = function, derivative
        self._require_derivative()

    def __repr__(self) -> str:
        # Without the address that the repr of a function has, which differs from run to run.
        return f"LoewnerKernel({getattr(self._function, '__qualname__', self._function)})"

    def _require_derivative(self) -> None:
        x, step = np.geomspace(0.1, 10.0, 9), 1e-4
        try:
            above, below = (np.asarray(self._function(x * (1 + h))) for h in (step, -step))
            slopes = np.asarray(self._derivative(x))
        except TypeError:
            return  # functions of arrays of another library
        quotients = (above - below) / (2 * step * x)
        if not np.all(quotients > 0):
            raise ValueError(
                f"function must increase, got one with the slopes {quotients} at x = {x}"
            )
        if not np.allclose(slopes, quotients, rtol=1e-3):
            raise ValueError(
                f"derivative must be that of function, {quotients} at x = {x}, got {slopes}"
            )

    def __call__(self, s: Array, t: Array) -> Array:
        """The kernel, entry by entry."""
        s, t = map(_with_square, floating_arrays(s=s, t=t))
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            rise = self._function(s**2) - self._function(t**2)
            loewner = quotient_in_squares(rise, lambda s: self._derivative(s**2), s, t)
            return filled_like(1 / loewner, s, t)


def _with_square(s: Array) -> Array:
    """The singular values, of which those whose squares are lost to underflow are zero."""
    return namespace(s).where(s > 2 * limits(s).tiny ** 0.5, s, 0.0)
