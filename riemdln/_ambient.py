"""m x n matrices that are known by their products alone: dense, sparse, operators or low-rank."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from scipy.sparse import issparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from riemdln._arrays import finite_array, is_triple

__all__ = ["OrthogonalPart", "ambient_matrix"]

# What has products with blocks of vectors, and a transpose T that has them too.
Ambient = Any


def ambient_matrix(name: str, value: Any, shape: tuple[int, int]) -> Ambient:
    """The value as a matrix of this shape that has products, never as an array if it is none.

    Parameters
    ----------
    name : str
        What errors call it.
    value : array, scipy.sparse array or matrix, LinearOperator, or triple
        A triple (U, S, V) stands for U S V^T.
    shape : (int, int)

    Returns
    -------
    array, sparse array or LinearOperator

    Raises
    ------
    TypeError, ValueError
        If it has another shape, or entries that are not finite; or if it is a gradient of factors.
    """
    if is_triple(value, 2, 1, 2):
        raise TypeError(
            f"{name} must be an m x n matrix (an array, a sparse array, a LinearOperator or a "
            "triple (U, S, V) that stands for U S V^T), got the gradients of the factors u, s and "
            "vt, as autodiff gives them: give the problem a euclidean_gradient of its own"
        )
    if is_triple(value, 2, 2, 2):
        U, S, V = (finite_array(f"{name}[{j}]", factor) for j, factor in enumerate(value))
        if not all(a.shape[1] == b.shape[0] for a, b in pairwise((U, S, V.T))):
            raise ValueError(f"{name} must be factors (U, S, V) of a product U S V^T")
        value = aslinearoperator(U) @ aslinearoperator(S) @ aslinearoperator(V.T)
    elif issparse(value):
        # Not every format has its entries in one array.
        value = value.tocsr()  # type: ignore[attr-defined]
        finite_array(name, value.data)
    elif not isinstance(value, LinearOperator):
        value = finite_array(name, value)
    if value.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(value.shape)}")
    return value


class OrthogonalPart:
    """The part (I - U U^T) Z (I - V V^T) of a matrix orthogonal to both singular spaces.

    Parameters
    ----------
    Z : array, sparse array or LinearOperator
        The matrix.
    U, V : array (m, r), array (n, r)
        Orthonormal columns.
    """

    def __init__(self, Z: Ambient, U: np.ndarray, V: np.ndarray) -> None:
        self._Z, self._U, self._V = Z, U, V

    @property
    def mT(self) -> OrthogonalPart:
        """The transpose."""
        return OrthogonalPart(self._Z.T, self._V, self._U)

    def __matmul__(self, columns: np.ndarray) -> np.ndarray:
        product = self._Z @ (columns - self._V @ (self._V.T @ columns))
        return product - self._U @ (self._U.T @ product)
