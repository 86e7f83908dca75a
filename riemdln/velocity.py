"""How far the metric of a matrix is from telling how the layers behind it move it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from riemdln._arrays import Array, chained_layers, to_numpy
from riemdln._eigenvalues import largest_eigenvalue
from riemdln.metrics import Metric
from riemdln.networks import end_to_end, end_to_end_velocity

__all__ = ["velocity_error"]


def velocity_error(layers: Sequence[Array], metric: Metric) -> float:
    r"""How far a metric is from telling how the end-to-end matrix of some layers moves.

    The relative error of the cometric A_W of the metric beside the operator A of
    `end_to_end_velocity`, in the operator norm that belongs to the Frobenius norm:

    .. math:: \frac{\| A - A_W \|_2}{\| A \|_2}

    Parameters
    ----------
    layers : sequence of array_like
        The layers [W_1, ..., W_N], balanced or not.
    metric : Metric
        Any metric, such as ``DeepLinearMetric(N)``.

    Returns
    -------
    float
        Zero to rounding for balanced layers and the metric of their depth. At a relative error e no
        gradient moves W to more than e times the norm of A and the gradient off what `metric` says.
        It is infinite where only the layers stand still, and zero where both do.

    Raises
    ------
    TypeError, ValueError
        If the layers do not chain, they are so small that squares of their products underflow, or
        `metric` has no cometric at their end-to-end matrix.

    Notes
    -----
    At depth two the imbalance bounds it. With the one matrix D of `imbalances`, and
    ``DeepLinearMetric(2, c)`` as the metric,

    .. math::

        \| A - A_W \|_2 \le \max(\lambda_{\max}(D) - c, 0) + \max(c - \lambda_{\min}(D), 0),
        \qquad \| A \|_2 = \| W_1 \|_2^2 + \| W_2 \|_2^2 ,

    for c = 0 always, and for other c where W is square with as many hidden neurons or more, or has
    full rank with min(m, n) of them. With the nearest c it is the spread of the eigenvalues of D.
    The theory has the proof. Gradient flow conserves D, so the first bound holds at all times.

    Singular values of W that are zero are rounding errors of it. To a metric of balanced layers of
    depth N they count for up to the power 2 / N of the machine epsilon.

    Examples
    --------
    >>> import numpy as np
    >>> import riemdln
    >>> metric = riemdln.DeepLinearMetric(2)
    >>> riemdln.velocity_error([np.array([[1.0]]), np.array([[1.0]])], metric)
    0.0
    >>> error = riemdln.velocity_error([np.array([[2.0]]), np.array([[3.0]])], metric)
    >>> bool(np.isclose(error, 1 / 13))  # 9 + 4 beside 2 * 6
    True
    """
    layers = [to_numpy(layer) for layer in chained_layers("layers", layers)]
    if not hasattr(metric, "at"):
        raise TypeError(f"metric must be a riemdln.Metric, got {metric!r}")
    W = end_to_end(layers)
    at = metric.at(W)

    def difference(P: np.ndarray) -> np.ndarray:
        return end_to_end_velocity(layers, P) - at.sharp(P)

    size = _operator_norm(lambda P: end_to_end_velocity(layers, P), W.shape, 0.0)
    if size < (tiny := np.finfo(np.float64).tiny):
        units = [layer / max(np.abs(layer).max(), tiny) for layer in layers]
        if _operator_norm(lambda P: end_to_end_velocity(units, P), W.shape, 0.0) > 0:
            raise ValueError(
                "layers must move their product by what is in the range of floating-point "
                f"numbers, got the operator norm {size:g}: scale the layers"
            )
    error = _operator_norm(difference, W.shape, size)
    if error == 0:
        return 0.0
    return error / size if size > 0 else np.inf


def _operator_norm(
    apply: Callable[[np.ndarray], np.ndarray], shape: tuple[int, int], scale: float
) -> float:
    """The largest modulus of an eigenvalue of a symmetric operator, of parts of this size."""

    def along(sign: float) -> float:
        return largest_eigenvalue(
            lambda x: sign * apply(x.reshape(shape)).ravel(), shape[0] * shape[1], scale
        )

    return max(along(1.0), along(-1.0), 0.0)
