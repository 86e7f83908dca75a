"""Deep linear networks: their layers, their end-to-end matrix, and how far they are from balance.

Layers are listed [W_1, ..., W_N] in the order in which they act: x -> W_N ... W_1 x. They may be
arrays of any library that follows the array API standard, such as NumPy, PyTorch and JAX, and what
is computed from them is of that library too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import accumulate, pairwise
from typing import Any, Literal

import numpy as np
from array_api_compat import array_namespace, device, is_array_api_obj, is_numpy_array

from riemdln._ambient import ambient_matrix
from riemdln._arrays import (
    Array,
    Rng,
    chained_layers,
    common_namespace,
    finite,
    finite_array,
    finite_matrix,
    integer,
    is_triple,
    limits,
    nonnegative_number,
    random_generator,
)
from riemdln._frame import Frame, is_orthonormal, singular_frame
from riemdln.kernels.imbalanced import network_kernel

__all__ = [
    "balanced_layers",
    "end_to_end",
    "end_to_end_velocity",
    "imbalance",
    "imbalances",
    "layer_gradients",
    "nearest_imbalance",
    "random_layers",
]


def end_to_end(layers: Sequence[Array]) -> Array:
    """The end-to-end matrix of a deep linear network: the product of its layers.

    It is ``W_N ... W_1``.

    Parameters
    ----------
    layers : sequence of array_like
        The layers [W_1, ..., W_N]; W_{j+1} has as many columns as W_j has rows. A stack
        (N, m, m) of square layers is a sequence too.

    Returns
    -------
    array (m, n)

    Raises
    ------
    TypeError, ValueError
        If the layers are not finite real matrices of one library, or do not chain.

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


def thin_end_to_end(layers: Sequence[Array]) -> Frame:
    """The singular value decomposition of the end-to-end matrix, which is not formed.

    Parameters
    ----------
    layers : sequence of array_like
        At least two layers [W_1, ..., W_N].

    Returns
    -------
    Frame
        With as many singular values as the narrowest hidden layer is wide, zeros among them where
        the rank is less.
    """
    layers = chained_layers("layers", layers)
    if len(layers) == 1:
        raise ValueError("layers must be at least two at fixed rank, got one")
    xp = array_namespace(*layers)
    (Q_u, R_u), (Q_v, R_v) = xp.linalg.qr(end_to_end(layers[1:])), xp.linalg.qr(layers[0].mT)
    left, s, right = xp.linalg.svd(R_u @ R_v.mT, full_matrices=False)
    width = min(layer.shape[0] for layer in layers[:-1])
    return Frame(Q_u @ left, s, right @ Q_v.mT).at_rank(width)


def balanced_layers(W: Any, depth: float, imbalance: Any = 0.0) -> list[Array]:
    r"""The canonical layers of a matrix, balanced or off balance by multiples of the identity.

    With the thin decomposition W = U S V^T the balanced ones are

    .. math:: W_N = U S^{1/N}, \qquad W_j = S^{1/N} \ (1 < j < N), \qquad W_1 = S^{1/N} V^T,

    so that W_N ... W_1 = W and W_{j+1}^T W_{j+1} = W_j W_j^T (Arora, Cohen and Hazan 2018,
    proof of Theorem 1). The hidden layers have min(m, n) neurons. Those of a matrix that is given
    by its decomposition have as many neurons as it has singular values.

    With an imbalance, W_{j+1}^T W_{j+1} - W_j W_j^T = (c_{j+1} - c_j) I, and layer j has the
    singular values (x + c_j)^{1/2} in place of S^{1/N}: see
    `riemdln.kernels.ImbalancedKernel`. At a lower rank they depend on which singular vectors W is
    given by, unless the first and the last layer have the least c_j.

    Parameters
    ----------
    W : array_like (m, n) or triple of arrays (u, s, vt)
        The end-to-end matrix, of full rank or not. A triple, such as a point of `FixedRank`, has
        arrays of shapes (m, k), (k,), (k, n) and stands for u diag(s) vt, with orthonormal columns
        in u and rows in vt.
    depth : int
        The number of layers N, at least 1.
    imbalance : float or sequence of float (N - 1,)
        The differences c_{j+1} - c_j of neighbouring layers; one number stands for all of them.

    Returns
    -------
    list of array
        The layers [W_1, ..., W_N].

    Raises
    ------
    TypeError, ValueError
        If `W` is not a finite real matrix, `depth` is not a whole number, or `imbalance` has a
        wrong number of entries.

    Examples
    --------
    >>> import numpy as np
    >>> import riemdln
    >>> layers = riemdln.balanced_layers(np.array([[3.0, 4.0]]), depth=3)
    >>> [layer.shape for layer in layers]
    [(1, 2), (1, 1), (1, 1)]
    >>> np.allclose(riemdln.end_to_end(layers), [[3.0, 4.0]])
    True
    >>> layers = riemdln.balanced_layers(np.diag([2.0, 1.0]), depth=2, imbalance=1.5)
    >>> np.allclose(riemdln.imbalances(layers)[0], 1.5 * np.eye(2))
    True
    """
    depth = integer("depth", depth)
    kernel = network_kernel(depth, imbalance)
    if is_triple(W, 2, 1, 2):
        u, s, vt = (finite_array(f"W[{j}]", part) for j, part in enumerate(W))
        xp = common_namespace("W", u, s, vt)
        if u.shape[1:] != s.shape or s.shape != vt.shape[:1] or xp.any(s < 0):
            raise ValueError(
                "W must be a triple (u, s, vt) of shapes (m, k), (k,), (k, n) with nonnegative s, "
                f"got shapes {tuple(u.shape)}, {tuple(s.shape)}, {tuple(vt.shape)}"
            )
        frame = Frame(u, s, vt)
        for name, factor, lines in (("W[0]", u, "columns"), ("W[2]", vt.mT, "rows")):
            if not is_orthonormal(factor):
                raise ValueError(
                    f"{name} must have orthonormal {lines}, as in a singular value decomposition"
                )
        if depth == 1:
            return [u * s @ vt]
    else:
        W = finite_matrix("W", W)
        if depth == 1:
            return [W + 0.0]
        frame = singular_frame(W)
    return layers_in_frame(frame, kernel.layer_singular_values(frame.s))


def layers_in_frame(frame: Frame, singular_values: Sequence[Array]) -> list[Array]:
    """The layers, at least two, with these singular values, of a matrix that has this frame."""
    U, s, Vt = frame
    eye = array_namespace(s).eye(s.shape[0], dtype=s.dtype, device=device(s))
    first, *middle, last = singular_values
    return [
        first[:, None] * (eye if Vt is None else Vt),
        *(own[:, None] * eye for own in middle),
        last * (eye if U is None else U),
    ]


def layer_gradients(layers: Sequence[Array], euclidean_gradient: Any) -> list[Array]:
    r"""The Euclidean gradient of a cost of the end-to-end matrix in each of the layers.

    .. math::

        \frac{\partial E}{\partial W_j}
            = (W_N \cdots W_{j+1})^T \, \nabla E(W) \, (W_{j-1} \cdots W_1)^T

    The layers move with minus these under gradient flow (Arora, Cohen and Hazan 2018, equation 5).
    With a covector p = flat(X) in place of grad E, and balanced layers, these are the horizontal
    lift of X: of all motions of the layers that move the end-to-end matrix by X, the shortest.

    Parameters
    ----------
    layers : sequence of array_like
        The layers [W_1, ..., W_N].
    euclidean_gradient : array_like (m, n)
        The gradient of E at the end-to-end matrix. With layers of NumPy it may also be a sparse
        array, a LinearOperator or a triple (U, S, V) that stands for U S V^T.

    Returns
    -------
    list of array
        One gradient for each layer, of its shape.

    Raises
    ------
    TypeError, ValueError
        If the layers do not chain, or the gradient is not of their library or has not the shape of
        the end-to-end matrix.

    Examples
    --------
    >>> import numpy as np
    >>> import riemdln
    >>> layers = [np.array([[2.0]]), np.array([[3.0]])]
    >>> riemdln.layer_gradients(layers, np.array([[1.0]]))
    [array([[3.]]), array([[2.]])]
    """
    return _layer_gradients(
        chained_layers("layers", layers), "euclidean_gradient", euclidean_gradient
    )


def _layer_gradients(layers: list[Array], name: str, covector: Any) -> list[Array]:
    """The gradients in layers that chain, of a covector that errors call by a name."""
    shape = (layers[-1].shape[0], layers[0].shape[1])
    if is_array_api_obj(covector):
        common_namespace(f"layers and {name}", *layers, covector)
    elif not is_numpy_array(layers[0]):
        raise TypeError(
            f"{name} must be an array of the library of layers, got {type(covector).__name__}"
        )
    gradient = ambient_matrix(name, covector, shape)
    # below[j] = W_j ... W_1 and pulled[j] = (W_N ... W_{j+1})^T grad E, each built from the last.
    below = list(accumulate(layers[:-1], lambda product, layer: layer @ product))
    pulled = list(accumulate(layers[:0:-1], lambda G, layer: layer.T @ G, initial=gradient))[::-1]
    first = pulled[0] + 0.0 if is_array_api_obj(pulled[0]) else pulled[0] @ np.eye(shape[1])
    return [first, *(G @ B.T for G, B in zip(pulled[1:], below, strict=True))]


def end_to_end_velocity(layers: Sequence[Array], P: Any) -> Array:
    r"""How fast the end-to-end matrix moves when each layer moves by its gradient.

    .. math::

        \sum_{j=1}^{N} (W_N \cdots W_{j+1}) (W_N \cdots W_{j+1})^T \, P \,
            (W_{j-1} \cdots W_1)^T (W_{j-1} \cdots W_1)

    Layers of any kind have it, balanced or not. Gradient flow of the layers moves the end-to-end
    matrix by minus this at P = grad E. For balanced layers it is ``DeepLinearMetric(N).sharp(W,
    P)`` (Arora, Cohen and Hazan 2018, Theorem 1).

    Parameters
    ----------
    layers : sequence of array_like
        The layers [W_1, ..., W_N].
    P : array_like (m, n)
        A covector, such as the gradient of a cost at the end-to-end matrix; with layers of NumPy
        also in the other forms that `layer_gradients` takes.

    Returns
    -------
    array (m, n)

    Raises
    ------
    TypeError, ValueError
        If the layers do not chain, or `P` is not of their library or has not the shape of the
        end-to-end matrix.

    See Also
    --------
    velocity_error : how far this is from the sharp of a metric.

    Examples
    --------
    >>> import numpy as np
    >>> import riemdln
    >>> layers = [np.array([[2.0]]), np.array([[3.0]])]
    >>> riemdln.end_to_end_velocity(layers, np.array([[1.0]]))  # 3 * 3 + 2 * 2
    array([[13.]])
    """
    layers = chained_layers("layers", layers)
    first, *gradients = _layer_gradients(layers, "P", P)
    # The product rule, one layer at a time: the product of the layers so far, and its velocity.
    product, velocity = layers[0], first
    for layer, gradient in zip(layers[1:], gradients, strict=True):
        product, velocity = layer @ product, layer @ velocity + gradient @ product
    return velocity


def imbalances(layers: Sequence[Array]) -> list[Array]:
    r"""What gradient flow conserves: how far each two neighbouring layers are from balance.

    .. math:: W_{j+1}^T W_{j+1} - W_j W_j^T, \qquad j = 1, \dots, N - 1

    Gradient flow of any cost of the end-to-end matrix leaves these matrices as they are (Arora,
    Cohen and Hazan 2018, proof of Theorem 1), so balanced layers, which have zeros, stay balanced.

    Parameters
    ----------
    layers : sequence of array_like
        The layers [W_1, ..., W_N].

    Returns
    -------
    list of array
        N - 1 symmetric matrices, square of the widths of the hidden layers.

    Raises
    ------
    TypeError, ValueError
        If the layers are not finite real matrices of one library, or do not chain.

    Examples
    --------
    >>> import numpy as np
    >>> import riemdln
    >>> riemdln.imbalances([np.array([[2.0]]), np.array([[3.0]])])
    [array([[5.]])]
    """
    layers = chained_layers("layers", layers)
    return [above.T @ above - below @ below.T for below, above in pairwise(layers)]


def imbalance(layers: Sequence[Array]) -> Any:
    r"""How far layers are from balance: the largest Frobenius norm of their `imbalances`.

    .. math:: \max_j \, \| W_{j+1}^T W_{j+1} - W_j W_j^T \|_F

    Parameters
    ----------
    layers : sequence of array_like
        The layers [W_1, ..., W_N].

    Returns
    -------
    float
        Zero for balanced layers, and for a single layer. Of layers of another library than NumPy
        it is an array () of that library, so that it can be differentiated.

    Raises
    ------
    TypeError, ValueError
        If the layers are not finite real matrices of one library, or do not chain.

    Examples
    --------
    >>> import numpy as np
    >>> import riemdln
    >>> riemdln.imbalance([np.array([[2.0]]), np.array([[3.0]])])
    5.0
    """
    layers = chained_layers("layers", layers)
    xp = array_namespace(*layers)
    none = xp.zeros((), dtype=layers[0].dtype, device=device(layers[0]))
    norms = xp.stack([none, *(xp.linalg.matrix_norm(matrix) for matrix in imbalances(layers))])
    largest = xp.max(norms)
    return float(largest) if is_numpy_array(layers[0]) else largest


def nearest_imbalance(layers: Sequence[Array]) -> Array:
    r"""The numbers that come nearest to the `imbalances` of layers, as multiples of the identity.

    The mean of the eigenvalues of each of the imbalances,

    .. math:: c_{j+1} - c_j = \operatorname{tr}(W_{j+1}^T W_{j+1} - W_j W_j^T) / d_j

    with d_j the width of hidden layer j. This number times the identity is nearest to the imbalance
    in the Frobenius norm. Where the imbalances are such multiples, and the hidden layers
    have min(m, n) neurons, the end-to-end matrix moves by the metric ``DeepLinearMetric(N,
    imbalance)`` of these numbers; elsewhere that is the metric to compare it with.

    Parameters
    ----------
    layers : sequence of array_like
        The layers [W_1, ..., W_N].

    Returns
    -------
    array (N - 1,)
        They may have either sign. What is a rounding error is zero, as it is for balanced layers,
        and so is what is lost where squares of entries underflow.

    Raises
    ------
    TypeError, ValueError
        If the layers are not finite real matrices of one library, or do not chain, or squares of
        their entries overflow.

    Examples
    --------
    >>> import numpy as np
    >>> import riemdln
    >>> layers = [np.eye(2), np.diag([3.0, 1.0])]
    >>> riemdln.nearest_imbalance(layers)
    array([4.])
    >>> metric = riemdln.DeepLinearMetric(2, imbalance=riemdln.nearest_imbalance(layers))
    """
    layers = chained_layers("layers", layers)
    xp = array_namespace(*layers)
    none = xp.zeros((0,), dtype=layers[0].dtype, device=device(layers[0]))
    means = [none]
    for (below, above), D in zip(pairwise(layers), imbalances(layers), strict=True):
        mean = xp.linalg.trace(D)[None] / D.shape[0]
        sizes = finite("the squares of layers", xp.sum(below * below) + xp.sum(above * above))
        eps, tiny, _ = limits(mean)
        # Each product that underflows is off by up to tiny.
        rounding = 4 * eps * sizes + tiny / eps
        means.append(xp.where(xp.abs(mean) > rounding, mean, 0.0))
    return xp.concat(means)


def random_layers(
    widths: Sequence[int],
    *,
    initialization: Literal["near-zero", "near-identity"] = "near-zero",
    scale: float = 0.01,
    rng: Rng = None,
) -> list[Array]:
    """Random layers to start training from, near zero or near the identity.

    Each entry is an independent Gaussian of standard deviation `scale`; "near-identity" adds
    the identity, cut or padded with zeros to the layer's shape. These are the two kinds of
    initialization that Arora, Cohen and Hazan (2018, experiments) compare.

    Parameters
    ----------
    widths : sequence of int
        The widths [n, ..., m] from the input to the output: N + 1 numbers for N layers.
    initialization : {"near-zero", "near-identity"}
        The mean of the layers.
    scale : float
        The standard deviation of each entry; with 0 the layers are equal to their mean.
    rng : numpy.random.Generator, int or None
        The source of randomness, or whatever else `numpy.random.default_rng` takes.

    Returns
    -------
    list of array
        The layers [W_1, ..., W_N], which in general are not balanced.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described above.

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
