"""How many singular values of a matrix count."""

from __future__ import annotations

from array_api_compat import array_namespace

from riemdln._arrays import Array, everywhere, finite_array, largest

__all__ = ["effective_rank"]


def effective_rank(singular_values: Array) -> Array:
    r"""How many singular values count: a real number from 1 to the rank.

    The exponential of the entropy of their shares of their sum (Roy and Vetterli 2007),

    .. math:: \exp\Bigl(-\sum_i p_i \ln p_i\Bigr), \qquad p_i = s_i / \sum_j s_j .

    It is k where k of them are equal and the others zero. Unlike the rank it has no threshold, and
    moves smoothly along a flow.

    Parameters
    ----------
    singular_values : array_like (..., r)
        Singular values in any order, such as those of a flow, (T, r). All may be multiplied by one
        number, which changes nothing.

    Returns
    -------
    float or array (...)
        Zero where all singular values are zero.

    Raises
    ------
    TypeError, ValueError
        If `singular_values` are not finite, nonnegative real numbers, at least one in a row.

    References
    ----------
    - O. Roy, M. Vetterli. The effective rank: a measure of effective dimensionality. EUSIPCO 2007.

    Examples
    --------
    >>> import numpy as np
    >>> import riemdln
    >>> riemdln.effective_rank([[5.0, 0.0, 0.0], [2.0, 2.0, 0.0]])
    array([1., 2.])
    >>> print(f"{riemdln.effective_rank([1.0, 0.1, 0.01]):.2f}")
    1.42
    """
    s = finite_array("singular_values", singular_values)
    xp = array_namespace(s)
    if s.ndim == 0 or s.shape[-1] == 0:
        raise ValueError(
            "singular_values must be an array (..., r) with at least one of them in a row, "
            f"got shape {tuple(s.shape)}"
        )
    if not everywhere(s >= 0, otherwise=True):
        raise ValueError("singular_values must be nonnegative, got a negative one")
    top = largest(s, -1, keepdims=True)
    s = s / xp.where(top > 0, top, xp.ones_like(top))  # whose sum neither over- nor underflows
    total = xp.sum(s, axis=-1, keepdims=True)
    shares = s / xp.where(total > 0, total, xp.ones_like(total))
    # p ln p goes to zero with p.
    terms = shares * xp.log(xp.where(shares > 0, shares, xp.ones_like(shares)))
    ranks = xp.exp(-xp.sum(terms, axis=-1))
    return ranks * xp.astype(total[..., 0] > 0, ranks.dtype)
