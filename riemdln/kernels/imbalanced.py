"""The kernel of a network whose layers are off balance by multiples of the identity."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np

from riemdln._arrays import (
    Array,
    NotFiniteError,
    everywhere,
    finite_array,
    floating_array,
    floating_arrays,
    integer,
    limits,
    namespace,
    real_depth,
)
from riemdln.kernels.deep_linear import DeepLinearKernel
from riemdln.kernels.kernel import Kernel, filled_like

__all__ = ["ImbalancedKernel", "network_kernel"]

# Newton's method took up to eight steps, for up to 300 layers and ranges of 1e16.
_MOST_STEPS = 12


class ImbalancedKernel(Kernel):
    r"""The kernel of layers that differ from balance by multiples of the identity.

    The layers of a network of depth N keep
    :math:`W_{j+1}^T W_{j+1} - W_j W_j^T = (c_{j+1} - c_j) I`, and their singular values
    :math:`(x + c_j)^{1/2}` have the product s. With x(s) the root of

    .. math:: q(x) = \prod_{j=1}^{N} (x + c_j) = s^2, \qquad x \ge -\min_j c_j = 0,

    the kernel is the first divided difference of the polynomial q, a sum over layers,

    .. math::

        \theta(s, t) = \frac{q(x) - q(y)}{x - y}
            = \sum_{k=1}^{N} \prod_{j>k} (x + c_j) \prod_{j<k} (y + c_j),
        \qquad x = x(s), \quad y = x(t).

    What leaves the column or the row space of a matrix that is not square is moved by the last or
    the first layer alone: it has the factor :math:`s^2 / (x + c_N)` or :math:`s^2 / (x + c_1)`.

    Parameters
    ----------
    imbalance : sequence of float (N - 1,)
        The differences :math:`c_{j+1} - c_j`, of any signs. As a number that is common to all c_j
        changes nothing, the least of them is zero.

    Raises
    ------
    TypeError, ValueError
        If `imbalance` is not a sequence of finite numbers.

    Notes
    -----
    Divided differences of q, of every order, are sums of positive terms: with
    :math:`q_k(x) = q_{k-1}(x) (x + c_k)` the product rule gives

    .. math:: q_k[x_0, \dots, x_i] = q_{k-1}[x_0, \dots, x_i] (x_i + c_k)
              + q_{k-1}[x_0, \dots, x_{i-1}].

    So nothing here cancels, at any distance of s and t and where both are zero.

    References
    ----------
    - C. Domine, N. Anguita, A. M. Proca, L. Braun, D. Kunin, P. A. M. Mediano, A. M. Saxe. From
      lazy to rich: exact learning dynamics in deep linear networks. 2024, arXiv:2409.14623.

    Examples
    --------
    Two layers, of which theta is (s^2 + l^2 / 4)^{1/2} + (t^2 + l^2 / 4)^{1/2}:

    >>> import numpy as np
    >>> from riemdln.kernels import ImbalancedKernel
    >>> s, t = np.array([0.0, 2.0]), 0.0
    >>> np.round(ImbalancedKernel([3.0])(s, t), 12)
    array([3., 4.])
    """

    is_symmetric = True

    def __init__(self, imbalance: Sequence[float]) -> None:
        differences = np.asarray(finite_array("imbalance", imbalance), dtype=np.float64)
        if differences.ndim != 1:
            raise ValueError(
                f"imbalance must be a sequence of numbers, got shape {differences.shape}"
            )
        self._imbalance = tuple(differences.tolist())
        self._c = _offsets(self._imbalance)

    @property
    def depth(self) -> int:
        """The depth N."""
        return len(self._c)

    @property
    def imbalance(self) -> tuple[float, ...]:
        """The differences c_{j+1} - c_j."""
        return self._imbalance

    @property
    def order(self) -> int:
        """How many layers go to zero where a singular value of their product does."""
        return self._c.count(0.0)

    def __repr__(self) -> str:
        return f"ImbalancedKernel({[*self._imbalance]})"

    def __call__(self, s: Array, t: Array) -> Array:
        """The kernel, entry by entry."""
        s, t = floating_arrays(s=s, t=t)
        return _divided(self._c, self._squares(s), self._squares(t))

    def divided_difference(self, a: Array, b: Array, t: Array) -> Array:
        """The first divided difference in the squares, q[x(a), x(b), x(t)] / q[x(a), x(b)].

        It has all digits. At a = b = 0 it is finite if one layer only goes to zero there.
        """
        a, b, t = floating_arrays(a=a, b=b, t=t)
        x, y, z = map(self._squares, (a, b, t))
        with np.errstate(divide="ignore", invalid="ignore"):
            return _divided(self._c, x, y, z) / _divided(self._c, x, y)

    def edge(self, s: Array) -> Array:
        """The product of the squares of all layers but the first, s^2 / (x + c_1)."""
        return _divided(self._c[1:], self._squares(floating_array("s", s)))

    def edge_difference(self, a: Array, b: Array) -> Array:
        """The first divided difference of `edge` in the square."""
        a, b = floating_arrays(a=a, b=b)
        x, y = self._squares(a), self._squares(b)
        with np.errstate(divide="ignore", invalid="ignore"):
            return _divided(self._c[1:], x, y) / _divided(self._c, x, y)

    def difference_from_edge(self, a: Array, t: Array) -> Array:
        """That from beyond the column space: r[x(a), x(t)] / r(x(a)), r all layers but the last."""
        a, t = floating_arrays(a=a, t=t)
        x, z = self._squares(a), self._squares(t)
        with np.errstate(divide="ignore", invalid="ignore"):
            return _divided(self._c[:-1], x, z) / _divided(self._c[:-1], x + 0.0 * z)

    @cached_property
    def transpose(self) -> Kernel:
        """The kernel of the transposed layers, in reverse order: it differs at the edges."""
        reverse = tuple(-difference for difference in self._imbalance[::-1])
        return self if reverse == self._imbalance else ImbalancedKernel(reverse)

    def second_log_derivatives(self, s: Array, t: Array) -> tuple[Array, Array]:
        r"""The second derivatives of ln theta, in proportion to the singular values.

        They are :math:`s^2 \partial_s^2 \ln \theta` and :math:`s t \partial_s \partial_t \ln
        \theta`: see `DeepLinearKernel.second_log_derivatives`. In x, :math:`s \partial_s` is
        :math:`e \partial_x` with :math:`e = 2 q(x) / q'(x)`.

        Parameters
        ----------
        s, t : array
            Singular values, positive, of shapes that broadcast together.

        Returns
        -------
        pair of arrays
        """
        s, t = floating_arrays(s=s, t=t)
        x, y = self._squares(s), self._squares(t)

        def q(*nodes: Array) -> Array:
            return _divided(self._c, *nodes)

        def speed(x: Array) -> Array:
            return 2 * q(x) / q(x, x)

        with np.errstate(divide="ignore", invalid="ignore"):
            theta = q(x, y)
            slope = q(x, x, y) / theta  # the derivatives of ln theta, in x and in y
            other = q(x, y, y) / theta
            growth = 2 - 4 * q(x) * q(x, x, x) / q(x, x) ** 2  # of the speed, in x
            curved = 2 * q(x, x, x, y) / theta - slope**2
            mixed = q(x, x, y, y) / theta - slope * other
            pure = speed(x) * ((growth - 1) * slope + speed(x) * curved)
            return pure, speed(x) * speed(y) * mixed

    def layer_singular_values(self, s: Array) -> list[Array]:
        """The singular values (x + c_j)^{1/2} of the layers whose product has those given.

        Parameters
        ----------
        s : array (...)
            Singular values of the end-to-end matrix.

        Returns
        -------
        list of N arrays (...)
        """
        root = self._root(floating_array("s", s))
        return [root + 0.0 if c == 0 else (root**2 + c) ** 0.5 for c in self._c]

    def _squares(self, s: Array) -> Array:
        """The root x of q(x) = s^2."""
        return self._root(s) ** 2

    def _root(self, s: Array) -> Array:
        """The square root of x, which does not underflow where x does.

        Newton's method for sum_j ln(x + c_j) = 2 ln s in the unknown ln x, of which the left side
        is convex. It starts above the solution: of any k layers x^k times the other c_j is less.
        """
        xp = namespace(s)
        positive = s > 0
        logarithm = 2 * xp.log(xp.where(positive, s, 1.0))
        ordered = sorted(self._c)
        bounds = [
            (logarithm - sum(map(math.log, ordered[k:]))) / k
            for k in range(max(self.order, 1), self.depth + 1)
        ]
        u = bounds[0]
        for bound in bounds[1:]:
            u = xp.minimum(u, bound)
        for _ in range(_MOST_STEPS):
            x = xp.exp(u)
            value, slope = self.order * u - logarithm, self.order + 0.0 * u
            for c in ordered[self.order :]:
                value, slope = value + math.log(c) + xp.log1p(x / c), slope + x / (x + c)
            step = value / slope
            u = u - step
            if everywhere(xp.abs(step) <= limits(s).eps ** 0.5, otherwise=False):
                break  # the next one would be lost in rounding
        return xp.where(positive, xp.exp(u / 2), 0.0)


def _offsets(differences: Sequence[float]) -> tuple[float, ...]:
    """The numbers c_j with these differences, of which the least is zero.

    Sums are exact, so that large differences cost small ones no digits. But each difference may
    be a rounded number: a c_j within the rounding errors of those between it and a least one is
    zero too.
    """
    steps = [Fraction(difference) for difference in differences]
    c, way = ([*accumulate(terms, initial=Fraction(0))] for terms in (steps, map(abs, steps)))
    least = min(c)
    ends = [length for c_j, length in zip(c, way, strict=True) if c_j == least]

    def rounding(length: Fraction) -> Fraction:
        i = bisect(ends, length)  # one of the neighbours is the nearest
        nearest = min(abs(length - end) for end in ends[max(i - 1, 0) : i + 1])
        return nearest * Fraction(np.finfo(float).eps) / 2

    try:
        return tuple(
            float(c_j - least) if c_j - least > rounding(length) else 0.0
            for c_j, length in zip(c, way, strict=True)
        )
    except OverflowError:
        raise NotFiniteError("imbalance must be finite, but its sums overflow") from None


def network_kernel(depth: float, imbalance: Any = 0.0) -> DeepLinearKernel | ImbalancedKernel:
    """The kernel of a network of a depth and an imbalance, a number or N - 1 of them."""
    differences = np.asarray(finite_array("imbalance", imbalance), dtype=np.float64)
    if differences.ndim == 0 and differences == 0:
        return DeepLinearKernel(depth)
    depth = real_depth("depth", depth)
    if depth == math.inf or depth != int(depth):
        raise ValueError(
            f"depth must be a whole number where layers are not balanced, got {depth:g} with "
            f"imbalance {imbalance!r}"
        )
    differences = layer_differences(integer("depth", depth), imbalance)
    return ImbalancedKernel(differences.tolist()) if differences.any() else DeepLinearKernel(depth)


def layer_differences(depth: int, imbalance: Any) -> np.ndarray:
    """The differences c_{j+1} - c_j of layers, of which one number stands for all."""
    differences = np.asarray(finite_array("imbalance", imbalance), dtype=np.float64)
    if differences.ndim == 0 and depth > 1:
        differences = np.full(depth - 1, float(differences))
    if differences.shape != (depth - 1,):
        raise ValueError(
            f"imbalance must be a number or depth - 1 = {depth - 1} of them, got {imbalance!r}"
        )
    return differences


def _divided(c: Sequence[float], *nodes: Array) -> Array:
    """The divided difference of prod_j (x + c_j) at some points, by the product rule."""
    differences: list[Any] = [1.0 + 0.0 * nodes[0]] + [0.0] * (len(nodes) - 1)
    for offset in c:
        for i in reversed(range(1, len(nodes))):
            differences[i] = differences[i] * (nodes[i] + offset) + differences[i - 1]
        differences[0] = differences[0] * (nodes[0] + offset)
    return filled_like(differences[-1], *nodes)
