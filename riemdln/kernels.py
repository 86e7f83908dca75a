"""Kernels: functions of two singular values, each of which defines a spectral metric.

In the frame of the singular value decomposition W = U diag(s) V^T, a spectral cometric
multiplies entry (i, j) of a matrix by ``theta(s_i, s_j)``, and its derivative multiplies by
divided differences of theta in the squares of the singular values. A kernel is one object that
holds both. Sums of kernels and their products with positive numbers are kernels too, and so are
plain functions and nonnegative numbers.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from riemdln._arrays import (
    Array,
    certain,
    device,
    everywhere,
    floating_arrays,
    limits,
    namespace,
    nonnegative_number,
    positive_number,
    real_depth,
)
from riemdln._differences import CENTRAL

__all__ = ["DeepLinearKernel", "FunctionKernel", "Kernel", "as_kernel"]

# Depths whose sum over layers takes less time than the quotient.
_FEW_LAYERS = (2, 3, 4)

# Where a and b are closer than this, relatively, a divided difference is a mean of derivatives:
# Gauss-Legendre quadrature in the square from b^2 to a^2. Farther apart it is a quotient.
_CLOSE = 0.05
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(4)
_QUADRATURE = [((1 + float(x)) / 2, float(w) / 2) for x, w in zip(_NODES, _WEIGHTS, strict=True)]


# Where |ln(s^2 / t^2)| is less than this, the poles of the terms of d ln theta are cancelled by
# hand, in a series.
_NEAR = 0.2
# Of 1 / (1 - e^-x) = 1/2 + 1/x + x/12 - x^3/720 + ..., the odd powers: B_{k+1} / (k+1)!.
_SERIES = ((1, 1 / 12), (3, -1 / 720), (5, 1 / 30240), (7, -1 / 1209600), (9, 1 / 47900160))


class Kernel(abc.ABC):
    r"""A function theta(s, t) of two singular values, with its divided differences.

    A kernel of one's own is a subclass with one method, ``__call__``, or just a function (see
    `FunctionKernel`). It has to be finite and nonnegative, and positive where s and t are.

    Attributes
    ----------
    is_symmetric : bool
        Whether theta(s, t) = theta(t, s), so that one divided difference serves both arguments.
        False unless a subclass says otherwise.
    is_pure : bool
        Whether theta depends on nothing but s and t, so that its values may be remembered. True
        unless a subclass says otherwise.
    constant : float or None
        The value of a kernel that is the same everywhere, and None of all others.

    Examples
    --------
    A tenth of the Euclidean cometric beside that of two layers:

    >>> import numpy as np
    >>> import riemdln
    >>> kernel = riemdln.DeepLinearMetric(2).kernel + 0.1
    >>> kernel(np.array([1.0, 2.0]), np.array([3.0, 4.0]))  # s + t + 0.1
    array([4.1, 6.1])
    >>> metric = riemdln.SpectralMetric(kernel)
    """

    is_symmetric: bool = False
    is_pure: bool = True
    constant: float | None = None

    # So that NumPy's numbers leave products and sums to the kernel.
    __array_ufunc__ = None

    @abc.abstractmethod
    def __call__(self, s: Array, t: Array) -> Array:
        """The kernel, entry by entry.

        Parameters
        ----------
        s, t : array
            Singular values, nonnegative, of shapes that broadcast together.

        Returns
        -------
        array
        """

    def divided_difference(self, a: Array, b: Array, t: Array) -> Array:
        r"""The first divided difference in the square of the first argument.

        .. math:: \theta[a, b; t] = \frac{\theta(a, t) - \theta(b, t)}{a^2 - b^2}

        and, at a = b, the derivative of theta in the square of its first argument. By default it
        is computed from values of theta, to about ten digits where theta varies visibly: a
        difference that is lost in the rounding errors of theta counts as zero.

        Parameters
        ----------
        a, b, t : array
            Singular values, nonnegative, of shapes that broadcast together.

        Returns
        -------
        array
            Symmetric in `a` and `b`. It has no meaning at a = b = 0.
        """
        return _numerical_divided_difference(self, a, b, t)

    @property
    def transpose(self) -> Kernel:
        """The kernel theta(t, s): itself where the kernel is symmetric."""
        return self if self.is_symmetric else _Transpose(self)

    def __add__(self, other: Any) -> Kernel:
        return _Sum([*_terms(self), *_terms(as_kernel("a term of a sum of kernels", other))])

    __radd__ = __add__

    def __mul__(self, factor: float) -> Kernel:
        factor = positive_number("a factor of a kernel", factor)
        return _Sum([(factor * weight, kernel) for weight, kernel in _terms(self)])

    __rmul__ = __mul__


class FunctionKernel(Kernel):
    """A plain function of two singular values as a kernel.

    Parameters
    ----------
    function : callable
        ``function(s, t)`` on arrays that broadcast together. It may ignore an argument, or return
        a number.
    divided_difference : callable, optional
        ``divided_difference(a, b, t)`` is (theta(a, t) - theta(b, t)) / (a^2 - b^2), with its limit
        at a = b. By default it is computed from values of the function.
    transposed_difference : callable, optional
        The same in the second argument, (theta(t, a) - theta(t, b)) / (a^2 - b^2); not for
        symmetric functions.
    symmetric : bool
        Whether function(s, t) = function(t, s).

    Raises
    ------
    TypeError, ValueError
        If one of the functions cannot be called, or `transposed_difference` is given of a
        symmetric one.

    Notes
    -----
    What a function reads beside its arguments may change, so that its values are not remembered.

    Examples
    --------
    >>> import numpy as np
    >>> from riemdln.kernels import FunctionKernel
    >>> kernel = FunctionKernel(lambda s, t: s**4 + t)
    >>> a, b = np.array([1.0, 3.0]), np.array([1.0, 1.0])
    >>> np.round(kernel.divided_difference(a, b, np.array(5.0)), 9)  # a^2 + b^2
    array([ 2., 10.])
    """

    is_pure = False

    def __init__(
        self,
        function: Callable[[Array, Array], Any],
        divided_difference: Callable[[Array, Array, Array], Any] | None = None,
        transposed_difference: Callable[[Array, Array, Array], Any] | None = None,
        *,
        symmetric: bool = False,
    ) -> None:
        for name, value, optional in (
            ("function", function, False),
            ("divided_difference", divided_difference, True),
            ("transposed_difference", transposed_difference, True),
        ):
            if not (callable(value) or (optional and value is None)):
                raise TypeError(f"{name} must be a function of singular values, got {value!r}")
        if symmetric and transposed_difference is not None:
            raise ValueError("transposed_difference must be None of a symmetric function")
        self._function = function
        self._difference, self._transposed = divided_difference, transposed_difference
        self.is_symmetric = bool(symmetric)

    def __repr__(self) -> str:
        # Without the address that the repr of a function has, which differs from run to run.
        return str(getattr(self._function, "__qualname__", self._function))

    def __call__(self, s: Array, t: Array) -> Array:
        """The function, entry by entry, also where it does not depend on both arguments."""
        return _filled(self._function(s, t), s, t)

    def divided_difference(self, a: Array, b: Array, t: Array) -> Array:
        """The divided difference that was given, or one from values of the function."""
        if self._difference is None:
            return super().divided_difference(a, b, t)
        return _filled(self._difference(a, b, t), a, b, t)

    @property
    def transpose(self) -> Kernel:
        """The kernel of the function with its arguments exchanged."""
        if self.is_symmetric:
            return self
        return FunctionKernel(_Exchanged(self._function), self._transposed, self._difference)


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

    def __repr__(self) -> str:
        return f"DeepLinearKernel({self.depth:.15g})"

    def __call__(self, s: Array, t: Array) -> Array:
        """The kernel, entry by entry."""
        (s, t), depth = floating_arrays(s=s, t=t), self.depth
        if depth == 1:
            return _filled(1.0, s, t)
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
        xp = namespace(a, b, t)
        close = xp.abs(a - b) <= _CLOSE * xp.maximum(a, b)
        run = (a - b) * (a + b)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            if same or everywhere(a == b, otherwise=False):
                return self._slope(a, t)
            rise = self._above_zero(a, t) - self._above_zero(b, t)
            quotient = rise / xp.where(close, 1.0, run)
            if not certain(xp.any(close), otherwise=True):
                return quotient
            mean = sum(
                weight * self._slope(xp.sqrt(b**2 + node * run), t) for node, weight in _QUADRATURE
            )
        return xp.where(close, mean, quotient)

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

            s^2 \, \partial_s^2 \ln \theta_N = 2 (2 k' - k)(x), \qquad
            s t \, \partial_s \partial_t \ln \theta_N = -4 k'(x), \qquad
            k(x) = \frac{1}{1 - e^{-x}} - \frac{1}{N (1 - e^{-x/N})}.

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


class _Constant(Kernel):
    """The same number everywhere: a multiple of the Euclidean cometric."""

    is_symmetric = True

    def __init__(self, value: float) -> None:
        self.constant = nonnegative_number("a constant kernel", value)

    def __repr__(self) -> str:
        return f"{self.constant:.15g}"

    def __call__(self, s: Array, t: Array) -> Array:
        return _filled(self.constant, s, t)

    def divided_difference(self, a: Array, b: Array, t: Array) -> Array:
        return _filled(0.0, a, b, t)


class _Sum(Kernel):
    """A sum of kernels with positive weights."""

    def __init__(self, terms: list[tuple[float, Kernel]]) -> None:
        self.terms = terms
        self.is_symmetric = all(kernel.is_symmetric for _, kernel in terms)
        self.is_pure = all(kernel.is_pure for _, kernel in terms)
        constants = [weight * k.constant for weight, k in terms if k.constant is not None]
        self.constant = sum(constants) if len(constants) == len(terms) else None

    def __repr__(self) -> str:
        return " + ".join(
            repr(kernel) if weight == 1 else f"{weight:.15g} * {kernel!r}"
            for weight, kernel in self.terms
        )

    def __call__(self, s: Array, t: Array) -> Array:
        return sum(weight * kernel(s, t) for weight, kernel in self.terms)

    def divided_difference(self, a: Array, b: Array, t: Array) -> Array:
        return sum(weight * kernel.divided_difference(a, b, t) for weight, kernel in self.terms)

    @property
    def transpose(self) -> Kernel:
        if self.is_symmetric:
            return self
        return _Sum([(weight, kernel.transpose) for weight, kernel in self.terms])


class _Transpose(Kernel):
    """A kernel with its arguments exchanged, whose divided differences come from its values."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel, self.is_pure = kernel, kernel.is_pure

    def __repr__(self) -> str:
        return f"the transpose of {self._kernel!r}"

    def __call__(self, s: Array, t: Array) -> Array:
        return self._kernel(t, s)

    @property
    def transpose(self) -> Kernel:
        return self._kernel


class _Exchanged:
    """A function of two arguments with these exchanged; it can be pickled if the function can."""

    def __init__(self, function: Callable[[Array, Array], Any]) -> None:
        self._function = function

    def __repr__(self) -> str:
        return f"the transpose of {FunctionKernel(self._function)!r}"

    def __call__(self, s: Array, t: Array) -> Any:
        return self._function(t, s)


def as_kernel(name: str, value: Any) -> Kernel:
    """A kernel itself, or the kernel of a function of two singular values or of a number."""
    if isinstance(value, Kernel):
        return value
    if callable(value):
        return FunctionKernel(value)
    try:
        return _Constant(value)
    except TypeError as error:
        raise TypeError(
            f"{name} must be a kernel, a function of two singular values or a nonnegative number, "
            f"got {value!r}"
        ) from error


def _terms(kernel: Kernel) -> list[tuple[float, Kernel]]:
    return kernel.terms if isinstance(kernel, _Sum) else [(1.0, kernel)]


def filled(value: Any, s: Array, shape: tuple[int, ...] | None = None) -> Array:
    """A value of a kernel as an array of a shape and of the dtype and the device of s."""
    shape = s.shape if shape is None else shape
    if getattr(value, "shape", None) == shape and value.dtype == s.dtype:
        return value
    xp = namespace(s)
    try:
        if not hasattr(value, "dtype"):
            value = xp.asarray(value, dtype=s.dtype, device=device(s))
        elif namespace(value) is not xp:
            value = xp.asarray(value, device=device(s))
        if xp.isdtype(value.dtype, "complex floating"):
            raise TypeError("it is complex")
        return xp.broadcast_to(xp.astype(value, s.dtype), shape)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"a kernel must give real numbers of the shape of its arguments, got {value!r}: {error}"
        ) from error


def _filled(value: Any, *arguments: Array) -> Array:
    """A value as an array of the shape, the dtype and the device of what it was computed from."""
    shape = np.broadcast_shapes(*(np.shape(argument) for argument in arguments))
    arrays = (argument for argument in arguments if hasattr(argument, "dtype"))
    return filled(value, next(arrays, np.zeros(())), shape)


def _log_ratio(s: Array, t: Array) -> Array:
    """The logarithm x = ln(s^2 / t^2), kept off zero by less than rounding."""
    xp = namespace(s, t)
    x = 4 * xp.log(xp.sqrt(s) / xp.sqrt(t))
    return xp.where(xp.abs(x) < 1e-20, 1e-20, x)


def _numerical_divided_difference(kernel: Kernel, a: Array, b: Array, t: Array) -> Array:
    a, b, t = floating_arrays(a=a, b=b, t=t)
    xp = namespace(a, b, t)
    eps = limits(a).eps
    # Where the rounding error of the quotient, eps / closeness, meets the error of taking the
    # derivative at the mean, closeness^2 / 24.
    close = xp.abs(a - b) <= 2 * eps ** (1 / 3) * xp.maximum(a, b)

    def variation(values: list[tuple[float, Array]]) -> Array:
        # What rounding errors of theta would drown is zero, or 1 / s would blow it up.
        total = sum(weight * value for weight, value in values)
        noise = 4 * eps * sum(abs(weight) * xp.abs(value) for weight, value in values)
        return xp.where(xp.isfinite(noise) & (xp.abs(total) <= noise), 0.0, total)

    rise, run = variation([(1.0, kernel(a, t)), (-1.0, kernel(b, t))]), (a - b) * (a + b)
    quotient = rise / xp.where(close, 1.0, run)
    if not certain(xp.any(close), otherwise=True):
        return quotient
    # A relative step of eps^(1/5) balances the error of fourth order against rounding.
    step, square = eps**0.2, (a**2 + b**2) / 2
    slope = variation(
        [
            (sign * weight, kernel(xp.sqrt(square * (1 + sign * place * step)), t))
            for place, weight in CENTRAL
            for sign in (1, -1)
        ]
    )
    return xp.where(close, slope / xp.where(square > 0, square * step, 1.0), quotient)
