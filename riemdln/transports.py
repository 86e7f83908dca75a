"""Transports: how a tangent vector at one point becomes one at another.

A transport is a function ``transport(W_a, W_b, X)`` of two points and a tangent vector at the
first. What is listed here by name makes one for a metric.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from riemdln._arrays import Array
from riemdln.metrics import Metric

__all__ = ["TRANSPORTS", "Transport", "identity_transport", "isometric_transport"]

Transport = Callable[[Array, Array, Array], Array]


def identity_transport(W_a: Array, W_b: Array, X: Array) -> Array:
    """The same matrix at the other point.

    Parameters
    ----------
    W_a, W_b : array (m, n)
        The points.
    X : array (m, n)
        A tangent vector at W_a.

    Returns
    -------
    array (m, n)
    """
    return X


def isometric_transport(metric: Metric, W_a: Array, W_b: Array, X: Array) -> Array:
    """The isometry A_b^{1/2} A_a^{-1/2} from tangent vectors at W_a to those at W_b.

    It keeps inner products: g_b of the images is g_a of the vectors. Frozen directions of X
    at W_a (see `riemdln.SpectralMetric`) are lost.

    Parameters
    ----------
    metric : Metric
        The metric.
    W_a, W_b : array (..., m, n)
        The points.
    X : array (..., m, n)
        A tangent vector at W_a.

    Returns
    -------
    array (..., m, n)

    Examples
    --------
    >>> import numpy as np
    >>> from riemdln import DeepLinearMetric
    >>> from riemdln.transports import isometric_transport
    >>> one = np.ones((1, 1))  # at depth 2 A is 2 w
    >>> isometric_transport(DeepLinearMetric(2), one, 4 * one, one)
    array([[2.]])
    """
    at = metric.at(W_a)
    return metric.root(W_b, at.root(at.flat(X)))


# From a name to what makes the transport of a metric.
TRANSPORTS: dict[str, Callable[[Metric], Transport]] = {
    "identity": lambda metric: identity_transport,
    "isometric": lambda metric: partial(isometric_transport, metric),
}
