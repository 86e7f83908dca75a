"""Arrays of every namespace in one place: what they are made of, and checks of what users give.

Each error names the argument, what was given and what was expected.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from functools import cache
from numbers import Real
from typing import Any, NamedTuple

import array_api_compat
import numpy as np
from array_api_compat import array_namespace, is_array_api_obj, is_numpy_array

# An array of any namespace that follows the array API standard.
Array = Any

device = array_api_compat.device

# A source of randomness, as numpy.random.default_rng takes it.
Rng = (
    np.random.Generator
    | np.random.BitGenerator
    | np.random.SeedSequence
    | Sequence[int]
    | int
    | None
)


class NotFiniteError(ValueError):
    """An array contains NaN or infinity."""


class OutsideError(ValueError):
    """A point is not on its manifold."""


class Limits(NamedTuple):
    """The limits of a floating dtype: its epsilon, least normal number and largest number."""

    eps: float
    tiny: float
    max: float


def namespace(*arrays: Array) -> Any:
    """The array API namespace of some arrays; of NumPy's arrays it is NumPy itself."""
    for array in arrays:
        if not isinstance(array, (np.ndarray, np.generic, float, int)):
            return array_namespace(*(a for a in arrays if not isinstance(a, (float, int))))
    return np


def limits(array: Array) -> Limits:
    """The limits of an array's dtype."""
    return _limits(namespace(array), array.dtype)


@cache
def _limits(xp: Any, dtype: Any) -> Limits:
    info = xp.finfo(dtype)
    return Limits(float(info.eps), float(info.smallest_normal), float(info.max))


def like(array: Array, values: Any) -> Array:
    """Values as an array of the namespace, the dtype and the device of another one."""
    xp = namespace(array)
    return xp.asarray(values, dtype=array.dtype, device=device(array))


def diagonal_mask(s: Array) -> Array:
    """Where i = j in the matrices (r, r) that go with arrays (..., r), as booleans."""
    xp = namespace(s)
    return xp.eye(s.shape[-1], dtype=xp.bool, device=device(s))


def diagonal_matrix(d: Array) -> Array:
    """The matrices diag(d) of arrays (..., r)."""
    return namespace(d).where(diagonal_mask(d), d[..., None, :], 0.0 * d[..., None, :])


def is_traced(array: Array) -> bool:
    """Whether an array stands for values that are not known yet, as under jax.jit and jax.vmap."""
    if isinstance(array, (np.ndarray, np.generic, bool)):
        return False
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(array, jax.core.Tracer)


def certain(condition: Array, *, otherwise: bool) -> bool:
    """Whether a condition holds, or `otherwise` where the values behind it are not known yet."""
    return otherwise if is_traced(condition) else bool(condition)


def everywhere(condition: Array, *, otherwise: bool) -> bool:
    """Whether a condition holds for all entries, or `otherwise` where they are not known yet."""
    if type(condition) is np.bool_:
        return bool(condition)
    if type(condition) is np.ndarray:
        return bool(condition.all())
    return certain(namespace(condition).all(condition), otherwise=otherwise)


def least(array: Array, axis: Any = None, *, keepdims: bool = False) -> Array:
    """The least entry along some axes, NaN where one is."""
    if type(array) is np.ndarray:  # whose methods take half the time of NumPy's functions
        return array.min(axis, keepdims=keepdims)
    return namespace(array).min(array, axis=axis, keepdims=keepdims)


def largest(array: Array, axis: Any = None, *, keepdims: bool = False) -> Array:
    """The largest entry along some axes, NaN where one is."""
    if type(array) is np.ndarray:
        return array.max(axis, keepdims=keepdims)
    return namespace(array).max(array, axis=axis, keepdims=keepdims)


def paired(a: Array, b: Array) -> Array:
    """The sum of the products of the entries of two matrices, or of each two of stacks."""
    if type(a) is type(b) is np.ndarray and a.ndim == b.ndim == 2:
        return np.vdot(a, b)  # which writes no matrix of products
    return namespace(a).sum(a * b, axis=(-2, -1))


def to_numpy(array: Array) -> np.ndarray:
    """The values of an array as one of NumPy."""
    if isinstance(array, np.ndarray):
        return array
    if hasattr(array, "detach"):  # PyTorch's arrays may belong to a graph of derivatives
        array = array.detach().cpu()
    elif hasattr(namespace(array), "Device"):  # array_api_strict's, which may be on any device
        array = array.to_device(namespace(array).Device("CPU_DEVICE"))
    return np.asarray(array)


def real_number(name: str, value: Any) -> float:
    """The value as a float, if it is a real number and neither a bool nor a string."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{name} must be in the range of a float, got {value!r}") from error


def positive_number(name: str, value: Any) -> float:
    """The value as a float, if it is positive and finite."""
    number = real_number(name, value)
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value!r}")
    return number


def nonnegative_number(name: str, value: Any) -> float:
    """The value as a float, if it is nonnegative and finite."""
    number = real_number(name, value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be nonnegative and finite, got {value!r}")
    return number


def true_or_false(name: str, value: Any) -> bool:
    """The value as a bool, if it is one: of a word such as "no" it is not clear what it means."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def real_depth(name: str, value: Any) -> float:
    """The value as a float, if it is a depth: a number from 1 to infinity."""
    depth = real_number(name, value)
    if not depth >= 1:
        raise ValueError(f"{name} must be a number from 1 to infinity, got {value!r}")
    return depth


def integer(name: str, value: Any, *, least: int = 1) -> int:
    """The value as an int, if it is a whole number not below `least`."""
    number = real_number(name, value)
    if not (number >= least and number.is_integer()):
        raise ValueError(f"{name} must be a whole number, at least {least}, got {value!r}")
    return int(number)


def random_generator(name: str, value: Rng) -> np.random.Generator:
    """A source of randomness, from whatever `numpy.random.default_rng` takes."""
    try:
        return np.random.default_rng(value)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"{name} must be what numpy.random.default_rng takes, such as a Generator, a "
            f"SeedSequence, a nonnegative whole number or None, got {value!r}"
        ) from error


def is_triple(value: Any, *ndims: int) -> bool:
    """Whether a value is a tuple or list of three arrays with these numbers of dimensions.

    Lists of numbers are no arrays, so a matrix written as nested lists is never a triple.
    """
    return (
        isinstance(value, (tuple, list))
        and len(value) == 3
        and all(
            is_array_api_obj(part) and part.ndim == d for part, d in zip(value, ndims, strict=True)
        )
    )


def require_unmasked(name: str, value: Any) -> None:
    """Raise a TypeError for a masked array, whose mask NumPy's functions would drop in silence."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} must be an array without a mask, got a numpy.ma.MaskedArray, whose masked "
            "entries are unknown"
        )


def floating_array(name: str, value: Any) -> Array:
    """The value as an array of float32 or float64; integers become float64.

    Arrays of other namespaces (PyTorch, JAX, CuPy) stay what they are; all else becomes NumPy's.
    """
    if type(value) is np.ndarray and value.dtype.char in "df":
        return value
    require_unmasked(name, value)
    if not is_array_api_obj(value) or is_numpy_array(value):
        try:
            value = np.asarray(value)
        except ValueError as error:
            raise ValueError(f"{name} must be an array of real numbers: {error}") from error
        if value.dtype.kind not in "iufc":
            raise TypeError(f"{name} must be an array of real numbers, got dtype {value.dtype}")
    xp = array_namespace(value)
    if xp.isdtype(value.dtype, "integral"):
        return xp.astype(value, xp.float64)
    if value.dtype not in (xp.float32, xp.float64):
        raise ValueError(f"{name} must be real, of dtype float32 or float64, got {value.dtype}")
    return value


def floating_arrays(**values: Any) -> list[Array]:
    """The values as floating arrays; numbers take the dtype and the device of the arrays."""
    if {*map(type, values.values())} == {np.ndarray}:
        return list(map(floating_array, values, values.values()))
    is_number = {name: isinstance(value, (int, float)) for name, value in values.items()}
    arrays = {n: None if is_number[n] else floating_array(n, v) for n, v in values.items()}
    first = next((a for a in arrays.values() if a is not None), np.zeros(()))
    return [like(first, values[n]) if a is None else a for n, a in arrays.items()]


def is_finite(array: Array) -> bool:
    """Whether an array has neither NaN nor infinity, as far as that is known yet."""
    # A product tells of NaN and infinity at the least cost, unless it overflows.
    if type(array) is np.ndarray and math.isfinite(np.vdot(array, array)):
        return True
    return everywhere(namespace(array).isfinite(array), otherwise=True)


def finite(name: str, value: Array) -> Array:
    """The array itself, if it has neither NaN nor infinity."""
    if not is_finite(value):
        raise NotFiniteError(f"{name} must be finite, but it contains NaN or infinity")
    return value


def finite_array(name: str, value: Any) -> Array:
    """The value as an array of finite float32 or float64 numbers."""
    return finite(name, floating_array(name, value))


def matrix_shape(name: str, value: Array) -> tuple[int, int]:
    """The last two dimensions of a matrix or of a stack of matrices."""
    if value.ndim < 2 or 0 in value.shape[-2:]:
        raise ValueError(
            f"{name} must be a matrix (..., m, n) with at least one row and one column, "
            f"got shape {tuple(value.shape)}"
        )
    m, n = value.shape[-2:]
    return m, n


def matching_matrix(name: str, value: Any, point_name: str, point: Array) -> Array:
    """The value as an array of the shape of a point, up to broadcasting of stacks."""
    array = floating_array(name, value)
    if array.shape != point.shape:
        try:
            broadcast = np.broadcast_shapes(tuple(array.shape), tuple(point.shape))
        except ValueError:
            broadcast = ()
        if broadcast[-2:] != tuple(array.shape[-2:]) or array.shape[-2:] != point.shape[-2:]:
            raise ValueError(
                f"{name} must have the shape of {point_name}, {tuple(point.shape)}, "
                f"got {tuple(array.shape)}"
            )
    return array


def point_of_shape(name: str, value: Any, shape: tuple[int, ...]) -> Array:
    """The value as a floating array of exactly this shape."""
    array = floating_array(name, value)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(array.shape)}")
    return array


def finite_matrix(name: str, value: Any) -> Array:
    """The value as a single finite matrix with at least one row and one column."""
    array = finite_array(name, value)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} must be a matrix (m, n), got shape {tuple(array.shape)}")
    return array


def chained_layers(name: str, value: Any) -> list[Array]:
    """The layers [W_1, ..., W_N] as finite matrices that chain: W_{j+1} takes what W_j gives.

    They are arrays of one namespace and of one dtype, that of their product.
    """
    if isinstance(value, str) or not (isinstance(value, Sequence) or is_array_api_obj(value)):
        raise TypeError(f"{name} must be a list of matrices, got {type(value).__name__}")
    if isinstance(value, Sequence):
        given = list(value)
    else:  # a stack; not every namespace iterates over one
        given = [value[j, ...] for j in range(value.shape[0])] if value.ndim else []
    if not given:
        raise ValueError(f"{name} must list at least one matrix, got none")
    layers = [finite_matrix(f"{name}[{j}]", layer) for j, layer in enumerate(given)]
    for j, layer in enumerate(layers):
        if j and layer.shape[1] != layers[j - 1].shape[0]:
            raise ValueError(
                f"{name} must chain: {name}[{j}] has shape {tuple(layer.shape)}, but expected "
                f"{layers[j - 1].shape[0]} columns, as many as {name}[{j - 1}] has rows"
            )
    xp = common_namespace(name, *layers)
    dtype = xp.result_type(*layers)
    return [xp.astype(layer, dtype, copy=False) for layer in layers]


def common_namespace(name: str, *arrays: Array) -> Any:
    """The namespace of arrays that must all be of one library."""
    try:
        return array_namespace(*arrays)
    except TypeError as error:
        libraries = sorted({type(array).__module__.partition(".")[0] for array in arrays})
        raise TypeError(
            f"{name} must be arrays of one library, got {' and '.join(libraries)}"
        ) from error


def increasing_times(name: str, value: Any) -> np.ndarray:
    """The value as a strictly increasing list of times, at least one."""
    times = finite_array(name, value)
    if times.ndim != 1 or not times.size or np.any(np.diff(times) <= 0):
        raise ValueError(f"{name} must be a strictly increasing list of times, got {value!r}")
    return times.astype(np.float64)
