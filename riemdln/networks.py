"""Deep linear networks: their layers, their end-to-end matrix, and how far they are from balance.

Layers are listed [W_1, ..., W_N] in the order in which they act: x -> W_N ... W_1 x.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import accumulate, pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from riemdln._ambient import ambient_matrix
from riemdln._arrays import (
    chained_layers,
    finite_array,
    finite_matrix,
    integer,
    nonnegative_number,
    random_generator,
)
from riemdln.metrics._frame import Frame, singular_frame

__all__ = ["balanced_layers", "end_to_end", "imbalance", "layer_gradients", "random_layers"]

Matrix = NDArray[np.floating[Any]]


def end_to_end(layers: Sequence[ArrayLike]) -> Matrix:
    """The end-to-end matrix of a deep linear network.

    It is the product ``W_N ... W_1``.

    Parameters
    ----------
    layers : sequence of array_like
        The layers [W_1, ..., W_N]; W_{j+1} has as many columns as W_j has rows.

    Returns
    -------
    array (m, n)

    Raises
    ------
    TypeError, ValueError
        If the layers are not finite real matrices, or do not chain.

    Examples
    --------
    >>> import numpy as np
    >>> import riemdln
    >>> riemdln.end_to_end([np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]])])
    array([[3., 6.],
           [4., 8.]])
    """
    # A copy, so that a network of one layer does not hand out its layer.
    return reduce(lambda product, layer: layer @ product, chained_layers("layers", layers)) + 0.0


def thin_end_to_end(layers: Sequence[ArrayLike]) -> Frame:
    """The thin frame of the end-to-end matrix of layers of a hidden width, which is not formed.

    Parameters
    ----------
    layers : sequence of array_like
        At least two layers [W_1, ..., W_N]; the rank is that of the narrowest.

    Returns
    -------
    Frame
        With singular values of which some may be zero.
    """
    layers = chained_layers("layers", layers)
    if len(layers) == 1:
        raise ValueError("layers must be at least two at fixed rank, got one")
    (Q_u, R_u), (Q_v, R_v) = np.linalg.qr(end_to_end(layers[1:])), np.linalg.qr(layers[0].T)
    left, s, right = np.linalg.svd(R_u @ R_v.T, full_matrices=False)
    width = min(len(layer) for layer in layers[:-1])
    return Frame(Q_u @ left, s, right @ Q_v.T).at_rank(width)


def balanced_layers(W: Any, depth: float) -> list[Matrix]:
    r"""The canonical balanced layers of a matrix.

    With the thin decomposition W = U S V^T,

    .. math:: W_N = U S^{1/N}, \qquad W_j = S^{1/N} \ (1 < j < N), \qquad W_1 = S^{1/N} V^T,

    so that W_N ... W_1 = W and W_{j+1}^T W_{j+1} = W_j W_j^T (Arora, Cohen and Hazan 2018,
    proof of Theorem 1). The hidden layers have min(m, n) neurons, or those of a matrix that is
    given as a point of `FixedRank` its rank.

    Parameters
    ----------
    W : array_like (m, n) or FixedRankPoint
        The end-to-end matrix, of full rank or not, or a triple (u, s, vt) that stands for
        u diag(s) vt.
    depth : int
        The number of layers N, at least 1.

    Returns
    -------
    list of array
        The layers [W_1, ..., W_N].

    Raises
    ------
    TypeError, ValueError
        If `W` is not a finite real matrix, or `depth` is not a whole number.

    Examples
    --------
    >>> import numpy as np
    >>> import riemdln
    >>> layers = riemdln.balanced_layers(np.array([[3.0, 4.0]]), depth=3)
    >>> [layer.shape for layer in layers]
    [(1, 2), (1, 1), (1, 1)]
    >>> np.allclose(riemdln.end_to_end(layers), [[3.0, 4.0]])
    True
    """
    depth = integer("depth", depth)
    if isinstance(W, (tuple, list)) and [np.ndim(part) for part in W] == [2, 1, 2]:
        u, s, vt = (finite_array(name, a) for name, a in zip(("u", "s", "vt"), W, strict=True))
        if u.shape[1:] != s.shape or s.shape != vt.shape[:1] or np.any(s < 0):
            raise ValueError(
                "W must be a triple (u, s, vt) of shapes (m, k), (k,), (k, n) with nonnegative s, "
                f"got shapes {u.shape}, {s.shape}, {vt.shape}"
            )
        return layers_in_frame(Frame(u, s, vt), depth) if depth > 1 else [u * s @ vt]
    W = finite_matrix("W", W)
    if depth == 1:
        return [W.copy()]
    return layers_in_frame(singular_frame(W), depth)


def layers_in_frame(frame: Frame, depth: int) -> list[Matrix]:
    """The canonical balanced layers, at least two, of the matrix that has this frame."""
    U, s, Vt = frame
    root = np.diag(s ** (1 / depth))
    last = root if U is None else U @ root
    first = root if Vt is None else root @ Vt
    return [first, *(root.copy() for _ in range(depth - 2)), last]


def layer_gradients(layers: Sequence[ArrayLike], euclidean_gradient: ArrayLike) -> list[Matrix]:
    r"""The Euclidean gradient of a cost of the end-to-end matrix in each of the layers.

    .. math::

        \frac{\partial E}{\partial W_j}
            = (W_N \cdots W_{j+1})^T \, \nabla E(W) \, (W_{j-1} \cdots W_1)^T

    Minus these is the velocity of the layers under gradient flow (Arora, Cohen and Hazan 2018,
    equation 5). Of a covector p = flat(X) instead of grad E they are the horizontal lift of
    X to balanced layers: the shortest motion of the layers that moves the end-to-end matrix by X.

    Parameters
    ----------
    layers : sequence of array_like
        The layers [W_1, ..., W_N].
    euclidean_gradient : array_like (m, n)
        The gradient of E at the end-to-end matrix; it may also be a sparse array, a LinearOperator
        or a triple (U, S, V) that stands for U S V^T.

    Returns
    -------
    list of array
        One gradient for each layer, of its shape.

    Raises
    ------
    TypeError, ValueError
        If the layers do not chain, or the gradient has not the end-to-end matrix's shape.

    Examples
    --------
    >>> import numpy as np
    >>> import riemdln
    >>> layers = [np.array([[2.0]]), np.array([[3.0]])]
    >>> riemdln.layer_gradients(layers, np.array([[1.0]]))
    [array([[3.]]), array([[2.]])]
    """
    layers = chained_layers("layers", layers)
    shape = (layers[-1].shape[0], layers[0].shape[1])
    gradient = ambient_matrix("euclidean_gradient", euclidean_gradient, shape)
    # below[j] = W_j ... W_1 and pulled[j] = (W_N ... W_{j+1})^T grad E, each built from the last.
    below = list(accumulate(layers[:-1], lambda product, layer: layer @ product))
    pulled = list(accumulate(layers[:0:-1], lambda G, layer: layer.T @ G, initial=gradient))[::-1]
    first = pulled[0] + 0.0 if isinstance(pulled[0], np.ndarray) else pulled[0] @ np.eye(shape[1])
    return [first, *(G @ B.T for G, B in zip(pulled[1:], below, strict=True))]


def imbalance(layers: Sequence[ArrayLike]) -> float:
    r"""How far the layers are from balance.

    .. math:: \max_j \, \| W_{j+1}^T W_{j+1} - W_j W_j^T \|_F

    Gradient flow conserves each of these differences (Arora, Cohen and Hazan 2018, proof of
    Theorem 1), so balanced layers stay balanced.

    Parameters
    ----------
    layers : sequence of array_like
        The layers [W_1, ..., W_N].

    Returns
    -------
    float
        Zero for balanced layers, and for a single layer.

    Raises
    ------
    TypeError, ValueError
        If the layers are not finite real matrices, or do not chain.

    Examples
    --------
    >>> import numpy as np
    >>> import riemdln
    >>> riemdln.imbalance([np.array([[2.0]]), np.array([[3.0]])])
    5.0
    """
    layers = chained_layers("layers", layers)
    defects = (above.T @ above - below @ below.T for below, above in pairwise(layers))
    return max((float(np.linalg.norm(defect)) for defect in defects), default=0.0)


def random_layers(
    widths: Sequence[int],
    *,
    initialization: Literal["near-zero", "near-identity"] = "near-zero",
    scale: float = 0.01,
    rng: np.random.Generator | int | None = None,
) -> list[Matrix]:
    """Random layers, near zero or near the identity.

    Each entry is an independent Gaussian of standard deviation `scale`; "near-identity" adds
    the identity, cut or padded with zeros to the layer's shape. These are the two kinds of
    initialization that Arora, Cohen and Hazan (2018, experiments) compare.

    Parameters
    ----------
    widths : sequence of int
        The widths [n, ..., m] from the input to the output: N + 1 numbers for N layers.
    initialization : {"near-zero", "near-identity"}
        Where the layers are centred.
    scale : float
        The standard deviation of each entry; with 0 the layers are the centre itself.
    rng : numpy.random.Generator, int or None
        Source of randomness, or a seed for one.

    Returns
    -------
    list of array
        The layers [W_1, ..., W_N]. In general they are not balanced.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of the above.

    Examples
    --------
    >>> import riemdln
    >>> layers = riemdln.random_layers([64, 10, 10], rng=0)
    >>> [layer.shape for layer in layers]
    [(10, 64), (10, 10)]
    """
    if not isinstance(widths, (Sequence, np.ndarray)) or len(widths) < 2:
        raise ValueError(f"widths must list at least an input and an output width, got {widths!r}")
    widths = [integer(f"widths[{j}]", width) for j, width in enumerate(widths)]
    if not isinstance(initialization, str) or initialization not in ("near-zero", "near-identity"):
        raise ValueError(
            f"initialization must be 'near-zero' or 'near-identity', got {initialization!r}"
        )
    scale = nonnegative_number("scale", scale)
    rng = random_generator("rng", rng)
    centre = 1.0 if initialization == "near-identity" else 0.0
    return [
        centre * np.eye(rows, columns) + scale * rng.standard_normal((rows, columns))
        for columns, rows in pairwise(widths)
    ]
