"""What every kernel has: values, divided differences and edges, and how kernels combine."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import numpy as np

from riemdln._arrays import (
    Array,
    certain,
    device,
    floating_arrays,
    limits,
    namespace,
    nonnegative_number,
    positive_number,
)
from riemdln._differences import CENTRAL

__all__ = ["FunctionKernel", "Kernel", "as_kernel", "filled", "filled_like", "quotient_in_squares"]

# Where a and b are closer than this, relatively, a divided difference is a mean of derivatives:
# Gauss-Legendre quadrature in the square from b^2 to a^2. Farther apart it is a quotient.
_CLOSE = 0.05
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(4)
_QUADRATURE = [((1 + float(x)) / 2, float(w) / 2) for x, w in zip(_NODES, _WEIGHTS, strict=True)]


# What a kernel with edges of its own defines, beside its transpose.
_EDGES = ("edge", "edge_difference", "difference_from_edge")


class Kernel(abc.ABC):
    r"""A function theta(s, t) of two singular values, with its divided differences.

    A kernel of one's own is a subclass with one method, ``__call__``, or just a function (see
    `FunctionKernel`). It has to be finite and nonnegative, and positive where s and t are.

    Attributes
    ----------
    is_symmetric : bool
        Whether theta(s, t) = theta(t, s), so that one divided difference serves both arguments; of
        edges it says nothing. False unless a subclass says otherwise.
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

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        inherited = [name for name in _EDGES if getattr(cls, name) is getattr(Kernel, name)]
        missing = inherited + ["transpose"] * (cls.transpose is Kernel.transpose)
        if missing and len(inherited) < len(_EDGES):
            raise TypeError(
                f"{cls.__name__} has edges of its own, so that it must define "
                f"{', '.join(missing)} too"
            )

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

    def edge(self, s: Array) -> Array:
        r"""The kernel where its second argument is beyond the rank: for what leaves the row space.

        What is beyond the rank is a singular value of zero to most kernels, so that this is
        theta(s, 0). Where it is not, as in networks that are not balanced, a kernel has edges of
        its own: this one, its two differences, and those of its transpose.

        Parameters
        ----------
        s : array
            Singular values, nonnegative.

        Returns
        -------
        array
        """
        return self(s, 0.0 * s)

    def edge_difference(self, a: Array, b: Array) -> Array:
        r"""The first divided difference of `edge` in the square.

        Parameters
        ----------
        a, b : array
            Singular values, nonnegative, of shapes that broadcast together.

        Returns
        -------
        array
        """
        return self.divided_difference(a, b, 0.0 * b)

    def difference_from_edge(self, a: Array, t: Array) -> Array:
        r"""The first divided difference from beyond the rank, for what leaves the column space.

        .. math:: \frac{\theta(a, t) - \theta(\text{beyond}, t)}{a^2}

        Parameters
        ----------
        a, t : array
            Singular values, of shapes that broadcast together; `a` is positive.

        Returns
        -------
        array
        """
        return self.divided_difference(a, 0.0 * a, t)

    @property
    def transpose(self) -> Kernel:
        """The kernel theta(t, s): itself where the kernel and its edges are symmetric."""
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
        return filled_like(self._function(s, t), s, t)

    def divided_difference(self, a: Array, b: Array, t: Array) -> Array:
        """The divided difference that was given, or one from values of the function."""
        if self._difference is None:
            return super().divided_difference(a, b, t)
        return filled_like(self._difference(a, b, t), a, b, t)

    @property
    def transpose(self) -> Kernel:
        """The kernel of the function with its arguments exchanged."""
        if self.is_symmetric:
            return self
        return FunctionKernel(_Exchanged(self._function), self._transposed, self._difference)


class _Constant(Kernel):
    """The same number everywhere: a multiple of the Euclidean cometric."""

    is_symmetric = True

    def __init__(self, value: float) -> None:
        self.constant = nonnegative_number("a constant kernel", value)

    def __repr__(self) -> str:
        return f"{self.constant:.15g}"

    def __call__(self, s: Array, t: Array) -> Array:
        return filled_like(self.constant, s, t)

    def divided_difference(self, a: Array, b: Array, t: Array) -> Array:
        return filled_like(0.0, a, b, t)


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

    def edge(self, s: Array) -> Array:
        return sum(weight * kernel.edge(s) for weight, kernel in self.terms)

    def edge_difference(self, a: Array, b: Array) -> Array:
        return sum(weight * kernel.edge_difference(a, b) for weight, kernel in self.terms)

    def difference_from_edge(self, a: Array, t: Array) -> Array:
        return sum(weight * kernel.difference_from_edge(a, t) for weight, kernel in self.terms)

    @property
    def transpose(self) -> Kernel:
        if all(kernel.transpose is kernel for _, kernel in self.terms):
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


def filled_like(value: Any, *arguments: Array) -> Array:
    """A value as an array of the shape, the dtype and the device of what it was computed from."""
    shape = np.broadcast_shapes(*(np.shape(argument) for argument in arguments))
    arrays = (argument for argument in arguments if hasattr(argument, "dtype"))
    return filled(value, next(arrays, np.zeros(())), shape)


def quotient_in_squares(rise: Array, slope: Callable[[Array], Array], a: Array, b: Array) -> Array:
    """The quotient rise / (a^2 - b^2), or where a and b are close the mean of a slope from b to a.

    Parameters
    ----------
    rise : array
        The difference of a function of squares at a and at b.
    slope : callable
        From singular values to the derivative of the function in their squares.
    a, b : array
        Singular values, nonnegative.
    """
    xp, run = namespace(a, b), (a - b) * (a + b)
    close = xp.abs(a - b) <= _CLOSE * xp.maximum(a, b)
    quotient = rise / xp.where(close, 1.0, run)
    if not certain(xp.any(close), otherwise=True):
        return quotient
    mean = sum(weight * slope(xp.sqrt(b**2 + node * run)) for node, weight in _QUADRATURE)
    return xp.where(close, mean, quotient)


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
