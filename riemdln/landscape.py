"""Where runs end, and where they wait: the critical points of least squares, and escapes from them.

Half the squared error of a deep linear network has a critical point for each set of modes, which
are the singular vectors of the fitted outputs. All but the minimum are saddles. A run that starts
near zero visits them in the order of their rank, one mode after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, combinations
from typing import Any, Literal

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import tanhsinh
from scipy.special import boxcox

from riemdln._arrays import (
    finite_array,
    finite_matrix,
    integer,
    limits,
    real_depth,
    real_number,
    to_numpy,
)
from riemdln.metrics import DeepLinearMetric

__all__ = ["CriticalPoint", "critical_points", "escape_time"]

Vector = NDArray[np.floating[Any]]
Kind = Literal["minimum", "strict saddle", "non-strict saddle"]


@dataclass(frozen=True, eq=False)
class CriticalPoint:
    """A critical point of least squares for the layers of a deep linear network.

    `critical_points` makes these.

    Attributes
    ----------
    modes : tuple of int
        The chosen modes, in ascending order. Mode 0 is the strongest.
    point : array (m, n)
        The end-to-end matrix.
    cost : float
        Half the squared error there.
    kind : {"minimum", "strict saddle", "non-strict saddle"}
        What the balanced layers over the point are for the cost as a function of the layers. At a
        strict saddle their Hessian has a negative eigenvalue. At a non-strict one it has none, so
        that a run leaves it more slowly than by any exponential.
    """

    modes: tuple[int, ...]
    point: Vector = field(repr=False)
    cost: float
    kind: Kind
    # Set by `critical_points`, and asked when the rate is: it takes an eigenvalue problem.
    _network: _Network | None = field(default=None, init=False, repr=False)

    @property
    def rank(self) -> int:
        """The rank of the point: the number of modes."""
        return len(self.modes)

    @cached_property
    def escape_rate(self) -> float:
        r"""The rate at which layers leave the point: they move away as exp(escape_rate * time).

        It is minus the least eigenvalue of the Hessian of the balanced layers, and zero where none
        is negative. Without `inputs`, with the singular values sigma of the target, it is

        .. math::

            \max_{i \in I, \; j \notin I} \sigma_i^{1 - 2/N} (\sigma_j - \sigma_i),
            \qquad \text{and at depth 2 also} \quad \max_{j \notin I} \sigma_j

        if a hidden layer has more neurons than the point has modes. In general it is computed from
        a matrix of the size of the dimension of rank-k matrices, k (m + n - k).

        Raises
        ------
        ArithmeticError
            If the rate is positive, but so small that it is lost in the rounding errors of the
            largest eigenvalue.
        ValueError
            If the point is not one that `critical_points` gave.
        """
        if self._network is None:
            raise ValueError("only a point that critical_points gave has an escape rate")
        return self._network.escape_rate(self) if self.kind == "strict saddle" else 0.0


def critical_points(
    target: ArrayLike,
    inputs: ArrayLike | None = None,
    *,
    depth: int,
    width: int | None = None,
    modes: Iterable[Iterable[int]] | None = None,
) -> Iterator[CriticalPoint]:
    r"""The critical points of least squares over the layers of a deep linear network.

    The cost is ``E(W) = |W X - Y|^2 / 2``, of the inputs X and the target Y, or ``|W - Y|^2 / 2``
    without inputs. Each set of modes is a critical point, and the full set is the least-squares
    solution, the minimum unless `width` is less than its rank.

    Parameters
    ----------
    target : array_like (m, p)
        The outputs Y that the network should have for each of p inputs. Without `inputs`, the
        matrix (m, n) that it should become.
    inputs : array_like (n, p), optional
        The inputs X, one in each column, of full row rank n.
    depth : int
        The number of layers N, at least 1.
    width : int, optional
        The least number of neurons of a hidden layer, which bounds the rank. By default hidden
        layers are wide enough for every rank.
    modes : iterable of iterables of int, optional
        The sets of modes to take, such as ``[[], [0], [0, 1]]``, which a run from near zero
        passes. By default all 2^r sets are taken, one when asked for the next, from low rank to
        high. At depth 1 there is the set of all modes alone.

    Returns
    -------
    iterator of CriticalPoint
        Their points are NumPy arrays of float64, whatever library and dtype the target has.

    Raises
    ------
    TypeError, ValueError
        If an array is not a finite real matrix, their shapes do not match, `inputs` has not full
        row rank, so that W is not determined, or `depth` or `width` is not a positive whole number.
        If a set of modes names one that is not there or one twice, has more of them than `width`
        allows, or is not the full set at depth 1. This is raised when the set's turn comes.

    See Also
    --------
    escape_time : how long a flow takes to leave a saddle.

    Notes
    -----
    Let W* = Y X^+ be the least-squares solution and W* X = sum_i sigma_i u_i q_i^T the fitted
    outputs, with r modes sigma_1 >= ... >= sigma_r > 0. With U_I of the columns u_i, i in I,

    .. math:: W_I = U_I U_I^T W^*, \qquad E(W_I) = E(W^*) + \tfrac12 \sum_{i \notin I} \sigma_i^2 .

    The u_i are eigenvectors of Sigma_YX Sigma_XX^-1 Sigma_XY (Baldi and Hornik 1989). At equal
    sigma_i every choice of vectors of their space is as good, so that critical points are not
    isolated there; those of one choice are given.

    A point is a minimum if I has the strongest modes, as many as the rank may be. All others are
    saddles. They are strict at depth 2, and at greater depths where a chosen mode is weaker than
    one that is not (Achour, Malgouyres and Gerchinovitz 2021). Modes whose sigma_i differ by
    rounding errors count as equal here, and those that vanish but for rounding errors are none.

    The escape rate is that of the layers. It is also minus the least eigenvalue of the Riemannian
    Hessian on `FixedRank`, except where at depth 2 neurons are left over.

    References
    ----------
    - P. Baldi, K. Hornik. Neural networks and principal component analysis: learning from examples
      without local minima. Neural Networks 2, 1989.
    - E. M. Achour, F. Malgouyres, S. Gerchinovitz. The loss landscape of deep linear neural
      networks: a second-order analysis. 2021, arXiv:2107.13289.

    Examples
    --------
    >>> import numpy as np
    >>> import riemdln
    >>> for point in riemdln.critical_points(np.diag([2.0, 1.0]), depth=3):
    ...     print(point.modes, point.cost, point.kind, round(point.escape_rate, 6))
    () 2.5 non-strict saddle 0.0
    (0,) 0.5 non-strict saddle 0.0
    (1,) 2.0 strict saddle 1.0
    (0, 1) 0.0 minimum 0.0
    """
    network = _Network(target, inputs, depth, width)
    return map(network.critical_point, network.sets_of_modes() if modes is None else modes)


class _Network:
    """Least squares in the frame of its modes, for layers of one depth and width."""

    def __init__(self, target: Any, inputs: Any, depth: Any, width: Any) -> None:
        Y = to_numpy(finite_matrix("target", target))
        eps = limits(Y).eps
        self._depth = integer("depth", depth)
        if inputs is None:
            self._root, self._fitted, residual = np.eye(Y.shape[1]), Y, 0.0
        else:
            X = to_numpy(finite_matrix("inputs", inputs))
            eps = max(eps, limits(X).eps)
            if X.shape[1] != Y.shape[1]:
                raise ValueError(
                    "inputs must have as many columns as target, one for each example, got shapes "
                    f"{X.shape} and {Y.shape}"
                )
            if np.linalg.matrix_rank(X) < len(X):
                raise ValueError(
                    f"inputs must have full row rank, {len(X)}, so that least squares has one "
                    f"solution, got rank {np.linalg.matrix_rank(X)}"
                )
            # X = root Q^T, so that |W X - Y|^2 = |W root - Y Q|^2 + |Y - Y Q Q^T|^2.
            Q, R = np.linalg.qr(X.T.astype(np.float64))
            self._root, self._fitted = R.T, Y @ Q
            residual = float(np.linalg.norm(Y - self._fitted @ Q.T))
        self._U, sigma, Pt = np.linalg.svd(self._fitted.astype(np.float64))
        self._rounding = max(Y.shape) * eps * np.linalg.norm(Y, 2)
        self._sigma = sigma[sigma > self._rounding]
        # The least-squares solution is U diag(sigma) P^T root^-1: of the modes, all but U.
        modes = self._sigma[:, None] * Pt[: len(self._sigma)]
        self._rows = scipy.linalg.solve_triangular(self._root.T, modes.T).T
        self._least = residual**2 / 2
        self._width = min(self._fitted.shape) if width is None else integer("width", width)
        if self._depth == 1 and width is not None:
            raise ValueError(f"width must be None at depth 1, without hidden layers, got {width!r}")
        self._largest_rank = min(len(self._sigma), self._width)

    def sets_of_modes(self) -> Iterator[tuple[int, ...]]:
        """All sets of modes that are critical, from low rank to high."""
        least = self._largest_rank if self._depth == 1 else 0
        ranks = range(least, self._largest_rank + 1)
        return chain.from_iterable(combinations(range(len(self._sigma)), k) for k in ranks)

    def critical_point(self, modes: Iterable[int]) -> CriticalPoint:
        if not isinstance(modes, Iterable):
            raise TypeError(
                f"modes must be a list of sets of modes, such as [[0], [0, 1]], got {modes!r} in it"
            )
        chosen = sorted(integer("modes", mode, least=0) for mode in modes)
        r, k = len(self._sigma), len(chosen)
        if len(set(chosen)) < k or any(mode >= r for mode in chosen):
            raise ValueError(f"modes must be different ones of the {r} modes, got {chosen}")
        if k > self._largest_rank or (self._depth == 1 and k < r):
            expected = "all" if self._depth == 1 else f"at most {self._largest_rank}"
            raise ValueError(f"modes must be {expected} of the {r} modes, got {chosen}")
        others = np.delete(self._sigma, chosen)
        strongest = all(others <= self._sigma[chosen].min(initial=np.inf) + self._rounding)
        kind: Kind = "non-strict saddle"
        if strongest and k == self._largest_rank:
            kind = "minimum"
        elif self._depth == 2 or not strongest:
            kind = "strict saddle"
        W = self._U[:, chosen] @ self._rows[chosen]
        cost = float(self._least + others @ others / 2)
        point = CriticalPoint(tuple(chosen), W, cost, kind)
        object.__setattr__(point, "_network", self)
        return point

    def escape_rate(self, point: CriticalPoint) -> float:
        """Minus the least eigenvalue of the Hessian of the balanced layers over a strict saddle."""
        chosen, k = list(point.modes), point.rank
        left = np.delete(self._U, chosen, axis=1)
        gradient = -left.T @ self._fitted @ self._root.T  # without the rows of U_I, which are zero
        _, s, Vt = np.linalg.svd(self._rows[chosen])
        pull = gradient @ Vt[k:].T
        # Of neurons that the point does not use, two layers have the Hessian 2 <pull, B_2 B_1>.
        spare = np.linalg.norm(pull, 2) if self._depth == 2 and k < self._width else 0.0
        values = self._eigenvalues(s, pull, Vt @ self._root) if k else np.zeros(1)
        rate = max(float(spare), -float(values[0]))
        if rate <= len(values) * np.finfo(float).eps * values[-1]:
            raise ArithmeticError(
                f"the escape rate from modes {point.modes} at depth {self._depth} is below the "
                f"rounding errors of the largest eigenvalue of the Hessian, {values[-1]:.3g}"
            )
        return rate

    def _eigenvalues(self, s: Vector, pull: Vector, right: Vector) -> Vector:
        r"""The eigenvalues of the Riemannian Hessian among matrices of the rank of a point.

        A unit tangent vector is Z = U (theta^{1/2} . B) V^T, in the point's frame and without the
        part that leaves both singular spaces. Its quadratic form is

            |Z X|^2 + 2 <U_perp^T grad E V_perp, B_left diag(s^{1 - 2/N}) B_right>,

        with B_left what leaves the column space and B_right what leaves the row space.
        """
        k, m, n = len(s), len(self._U), len(right)
        kernel = DeepLinearMetric(self._depth).kernel
        rows, columns = np.pad(s, (0, m - k)), np.pad(s, (0, n - k))
        roots = np.sqrt(kernel(rows[:, None], columns))
        tangent = (np.arange(m)[:, None] < k) | (np.arange(n) < k)
        B = np.eye(m * n)[tangent.ravel()].reshape(-1, m, n)
        H = roots * ((roots * B) @ (right @ right.T))
        power = s ** (1 - 2 / self._depth)
        H[:, k:, :k] += pull @ B[:, :k, k:].mT * power
        H[:, :k, k:] += power[:, None] * (B[:, k:, :k].mT @ pull)
        return scipy.linalg.eigvalsh(H[:, tangent])


def escape_time(start: ArrayLike, sigma: ArrayLike, depth: float, *, fraction: float = 0.5) -> Any:
    r"""How long a small singular value takes to grow to a fraction of what it will be.

    .. math::

        T = \int_{s_0}^{f \sigma} \frac{ds}{\theta_N(s, s) \, (\sigma - s)}, \qquad
        \theta_N(s, s) = N s^{2 - 2/N}, \qquad \theta_\infty(s, s) = s^2 .

    This is the flow of ``|W - T|^2 / 2`` under g^N from singular vectors that are those of T, where
    each singular value moves by itself. The smaller the start, the longer: it takes about

    .. math::

        \frac1{2 \sigma} \ln \frac1{s_0} \text{ at depth 2}, \qquad
        \frac{s_0^{-(1 - 2/N)}}{(N - 2) \, \sigma} \text{ at depths above 2}, \qquad
        \frac1{\sigma s_0} \text{ at infinite depth} .

    Parameters
    ----------
    start : array_like
        Where the singular value starts, s_0: positive, and below ``fraction * sigma``.
    sigma : array_like
        What it comes to: the singular value of the target. It broadcasts with `start`.
    depth : float
        The depth N, a number from 1 to ``math.inf``. At infinite depth times are those of the
        metric that is the limit of N g^N.
    fraction : float
        The share of sigma at which the clock stops, between 0 and 1.

    Returns
    -------
    float or array
        The time, of the shape that `start` and `sigma` broadcast to.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described above, or a time is beyond the largest number.

    See Also
    --------
    critical_points : the saddles, and the rates at which layers leave them.

    Notes
    -----
    With x = s / sigma and p = 2/N - 1 the integrand is x^{p - 1} / (1 - x), over
    theta_N(sigma, sigma). Of it x^{p - 1} and 1 / (1 - x) have integrals in closed form. What is
    left, (x^p - 1) / (1 - x), is smooth in ln x, and integrated numerically. So starts down to
    1e-300 lose no digits. At depth 2 nothing is left: T is ln(x / (1 - x)) between the two ends.

    Where singular vectors still turn, a run takes longer by a constant at depth 2, and by a
    constant factor at greater depths. The slope in ln(1 / s_0) and the power of s_0 are the same.

    References
    ----------
    - S. Arora, N. Cohen, W. Hu, Y. Luo. Implicit regularization in deep matrix factorization.
      NeurIPS 2019, arXiv:1905.13655.

    Examples
    --------
    >>> import numpy as np
    >>> import riemdln
    >>> np.round(riemdln.escape_time([1e-10, 1e-20], 1.0, depth=2), 6)
    array([11.512925, 23.025851])
    >>> print(f"{riemdln.escape_time(1e-20, 1.0, depth=5):.4e}")
    3.3333e+11
    """
    depth = real_depth("depth", depth)
    fraction = real_number("fraction", fraction)
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be between 0 and 1, got {fraction!r}")
    start, sigma = (
        to_numpy(finite_array(name, value)).astype(np.float64)
        for name, value in (("start", start), ("sigma", sigma))
    )
    try:
        start, sigma = np.broadcast_arrays(start, sigma)
    except ValueError as error:
        raise ValueError(
            f"start must have a shape that broadcasts with that of sigma, {sigma.shape}, got "
            f"{start.shape}"
        ) from error
    if not (np.all(sigma > 0) and np.all((start > 0) & (start < fraction * sigma))):
        raise ValueError(
            "start must be positive and less than fraction * sigma, got start from "
            f"{start.min()} to {start.max()}, sigma from {sigma.min()} to {sigma.max()} and "
            f"fraction {fraction}"
        )
    power = 2 / depth - 1
    first = start / sigma
    with np.errstate(over="ignore", invalid="ignore"):
        speed = DeepLinearMetric(depth).kernel(sigma, sigma)
        powers = -(fraction**power) * boxcox(first / fraction, power)
        time = (
            powers + np.log1p((fraction - first) / (1 - fraction)) + _rest(first, fraction, power)
        ) / speed
    if not np.all(np.isfinite(time) & np.isfinite(speed)):
        raise ValueError(
            f"the escape time is out of the range of floating-point numbers at depth {depth}, with "
            f"start from {start.min():g} and sigma up to {sigma.max():g}"
        )
    return time[()]


def _rest(first: Vector, last: float, power: float) -> Vector:
    """The integral of (x^power - 1) / (1 - x), with v = -ln x as the variable."""

    def integrand(v: Vector) -> Vector:
        return np.expm1(-power * v) / np.expm1(v)

    integral: Vector = tanhsinh(integrand, -np.log(last), -np.log(first), rtol=1e-14).integral
    return integral
