r"""Derivatives of a metric's functions by rule, for autograd, PyTorch and JAX.

No derivative is taken through a singular value decomposition, which has none where singular values
are equal. Each function has rules instead, made of the metric's own functions, so that they can
be differentiated again. With A_W for `sharp`, G for a cotangent and X for a direction of W::

    function      along X                      pulled back from G         its adjoints
    A_W(P)        DA_W[X] P                    Xi_W(G, P)                 A_W(G)
    A_W^{-1}(Z)   -A_W^{-1} DA_W[X] A_W^{-1} Z -Xi_W(A_W^{-1} G, A_W^{-1} Z)  A_W^{-1}(G)
    DA_W[Y] p     D^2A_W[X, Y] p               D Xi_W[Y](G, p)            Xi_W(G, p), DA_W[Y] G
    Xi_W(p, q)    D Xi_W[X](p, q)              D Xi_W[G](p, q)            DA_W[G] q, DA_W[G] p
    f(W)          <grad f, X>                  G grad f
    grad f(W)     D grad f[X]                  D grad f[G]

The second derivatives of the cometric and of f = `log_volume` are differences of first
derivatives, which have closed forms: see `_along`. Those of f = `entropy` have closed forms too,
and its third ones are differences. That a derivative along Y may be pulled back as one along Y is
the symmetry of second derivatives.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
from autograd.extend import defvjp, primitive
from autograd.numpy.numpy_vjps import unbroadcast_f
from autograd.tracer import getval, isbox

from riemdln._arrays import Array, everywhere, is_traced, limits, namespace
from riemdln._differences import central_difference
from riemdln._frame import singular_frame
from riemdln.metrics._at import MetricAt

__all__ = ["Function", "are_differentiated", "are_recorded", "by_rule", "plainly"]


class Function:
    """A function of a point W and of vectors, linear in each of them, with its derivatives.

    All callables take the metric first, and then what the function takes.

    Parameters
    ----------
    value : callable
        ``value(metric, W, *vectors)``, on arrays that are not differentiated.
    tangent : callable
        ``tangent(metric, X, W, *vectors)``, the derivative along X of the point.
    pullback : callable
        ``pullback(metric, G, W, *vectors)``, the covector of X -> <G, tangent(X)>.
    *adjoints : callable
        ``adjoint(metric, G, W, *vectors)`` for each vector V, the covector of
        V -> <G, value(V)>.
    """

    def __init__(
        self,
        value: Callable[..., Array],
        tangent: Callable[..., Array],
        pullback: Callable[..., Array],
        *adjoints: Callable[..., Array],
    ) -> None:
        self.value, self.tangent, self.pullback, self.adjoints = value, tangent, pullback, adjoints

    def __call__(self, metric: Any, W: Array, *vectors: Array) -> Array:
        """The function as the library sees it whose derivatives are taken."""
        arrays = (W, *vectors)
        if any(map(isbox, arrays)):
            return _autograd_value(self, metric, *arrays)
        if any(map(is_traced, arrays)):
            return _jax_value()(self, metric, *arrays)
        if any(map(_requires_grad, arrays)):
            return _torch_function().apply(self, metric, *arrays)
        return self.value(metric, *arrays)

    def cotangent(self, place: int, metric: Any, G: Array, *arrays: Array) -> Array:
        """What reaches the point (place 0) or a vector (places 1, 2, ...) from a cotangent G."""
        pull = self.adjoints[place - 1] if place else self.pullback
        return pull(metric, G, *arrays)

    @cached_property
    def derivative(self) -> Function:
        """The derivative D f(W, X, *vectors) of a function along a direction X of the point.

        Its own rules are derivatives along X of the function's rules.
        """

        def along(rule: Callable[..., Array]) -> Callable[..., Array]:
            def differenced(metric: Any, G: Array, W: Array, X: Array, *vectors: Array) -> Array:
                return _along(X, W, lambda V: rule(metric, G, V, *vectors))

            return differenced

        def value(metric: Any, W: Array, X: Array, *vectors: Array) -> Array:
            return _along(X, W, lambda V: self.value(metric, V, *vectors))

        def pullback_of_direction(
            metric: Any, G: Array, W: Array, X: Array, *vectors: Array
        ) -> Array:
            return self.pullback(metric, G, W, *vectors)

        return Function(
            value,
            along(self.tangent),
            along(self.pullback),
            pullback_of_direction,
            *map(along, self.adjoints),
        )


def _along(X: Array, W: Array, function: Callable[[Array], Array]) -> Array:
    """The derivative of a function of W along X, by differences of fourth order.

    The step is eps^(1/5), 7e-4 in double precision, of the least positive singular value of W, up
    to which the functions of a metric are analytic. That keeps some eleven digits, and seven of a
    kernel whose divided differences are numerical, less those of the condition number of W: what
    is lost beyond 1e6 is warned of.
    """
    w, x = _constant(W), _constant(X)
    xp, frame = namespace(w), singular_frame(w)
    is_clear = frame.s > frame.rounding[..., None]
    least = xp.min(xp.where(is_clear, frame.s, frame.s[..., :1]), axis=-1, keepdims=True)
    largest = xp.max(frame.s, axis=-1, keepdims=True)
    if not everywhere(least * limits(w).eps ** -0.4 >= largest, otherwise=True):
        warnings.warn(
            "second derivatives of a metric lose as many digits as the condition number of W has, "
            f"of which the largest is {float(xp.max(largest / least)):.1e}",
            RuntimeWarning,
            stacklevel=2,
        )
    step = limits(w).eps ** 0.2 * least[..., None]
    size = xp.linalg.vector_norm(x, axis=(-2, -1), keepdims=True)
    step = step / xp.where(size > 0, size, 1.0)
    step = xp.where(step > 0, step, 1.0)
    return central_difference(lambda h: function(W + h * X), step)


def _constant(array: Array) -> Array:
    """The array with its values only."""
    if isbox(array):
        return getval(array)
    if is_traced(array):
        return sys.modules["jax"].lax.stop_gradient(array)
    return array.detach() if hasattr(array, "detach") else array


def _requires_grad(array: Array) -> bool:
    torch = sys.modules.get("torch")
    return (
        torch is not None
        and isinstance(array, torch.Tensor)
        and array.requires_grad
        and torch.is_grad_enabled()
    )


def are_recorded(*arrays: Array) -> bool:
    """Whether autograd or PyTorch record what is done with one of the arrays."""
    return any(isbox(array) or _requires_grad(array) for array in arrays)


def are_differentiated(*arrays: Array) -> bool:
    """Whether derivatives are being taken in one of the arrays, or may be."""
    return any(
        type(array) is not np.ndarray
        and (isbox(array) or is_traced(array) or _requires_grad(array))
        for array in arrays
    )


def plainly(name: str, metric: Any, W: Array, *vectors: Any) -> Any:
    """What the metric at a point says, where no derivatives are taken."""
    # Not what a metric defines itself, so that it may call this method by super().
    return metric.at(W).by_default(name, *vectors)


def by_rule(name: str, metric: Any, W: Array, *vectors: Any) -> Any:
    """A function of a metric where derivatives are taken."""
    if name in _FUNCTIONS:
        return _FUNCTIONS[name](metric, W, *vectors)
    if name in _COMPOSED:
        return _COMPOSED[name](_MetricItself(metric, W), *vectors)
    return plainly(name, metric, W, *vectors)


class _MetricItself:
    """A metric as formulas of `MetricAt` ask for it: all is asked of the metric's own functions.

    Parameters
    ----------
    metric : Metric
        The metric.
    W : array (..., m, n)
        The point.
    """

    in_frame = MetricAt.in_frame

    def __init__(self, metric: Any, W: Array) -> None:
        self._metric, self._W = metric, W

    def __getattr__(self, name: str) -> Callable[..., Array]:
        return partial(getattr(self._metric, name), self._W)


_COMPOSED: dict[str, Callable[..., Array]] = {
    "inner": lambda at, X, Y: (at.flat(X) * Y).sum(axis=(-2, -1)),
    "christoffel": MetricAt.christoffel,
}


def _potential(name: str, hessian: Callable[..., Array]) -> dict[str, Function]:
    """A function f(W) and its gradient, whose derivative along X is hessian(metric, X, W)."""
    gradient = f"{name}_gradient"

    def tangent(metric: Any, X: Array, W: Array) -> Array:
        return (getattr(metric, gradient)(W) * X).sum(axis=(-2, -1))

    def pullback(metric: Any, G: Array, W: Array) -> Array:
        return G[..., None, None] * getattr(metric, gradient)(W)

    return {
        name: Function(partial(plainly, name), tangent, pullback),
        gradient: Function(partial(plainly, gradient), hessian, hessian),
    }


def _without_derivative(name: str) -> Function:
    """A function of which no derivative in W is known, as JAX traces it."""

    def refuse(metric: Any, X: Array, W: Array, *vectors: Array) -> Array:
        raise TypeError(f"{name} of {metric!r} has no rule for its derivative in W")

    def symmetric(metric: Any, G: Array, W: Array, *vectors: Array) -> Array:
        return getattr(metric, name)(W, G)

    return Function(partial(plainly, name), refuse, refuse, symmetric)


# Each formula below has its arguments in this order: the metric g, G or the direction, the point W,
# and the vectors.
_FUNCTIONS: dict[str, Function] = {
    "sharp": Function(
        partial(plainly, "sharp"),
        lambda g, X, W, P: g.sharp_derivative(W, X, P),
        lambda g, G, W, P: g.sharp_derivative_adjoint(W, G, P),
        lambda g, G, W, P: g.sharp(W, G),
    ),
    "flat": Function(
        partial(plainly, "flat"),
        lambda g, X, W, Z: -g.flat(W, g.sharp_derivative(W, X, g.flat(W, Z))),
        lambda g, G, W, Z: -g.sharp_derivative_adjoint(W, g.flat(W, G), g.flat(W, Z)),
        lambda g, G, W, Z: g.flat(W, G),
    ),
    "sharp_derivative": Function(
        partial(plainly, "sharp_derivative"),
        lambda g, X, W, Y, p: _FUNCTIONS["sharp_derivative"].derivative(g, W, X, Y, p),
        lambda g, G, W, Y, p: _FUNCTIONS["sharp_derivative_adjoint"].derivative(g, W, Y, G, p),
        lambda g, G, W, Y, p: g.sharp_derivative_adjoint(W, G, p),
        lambda g, G, W, Y, p: g.sharp_derivative(W, Y, G),
    ),
    "sharp_derivative_adjoint": Function(
        partial(plainly, "sharp_derivative_adjoint"),
        lambda g, X, W, p, q: _FUNCTIONS["sharp_derivative_adjoint"].derivative(g, W, X, p, q),
        lambda g, G, W, p, q: _FUNCTIONS["sharp_derivative_adjoint"].derivative(g, W, G, p, q),
        lambda g, G, W, p, q: g.sharp_derivative(W, G, q),
        lambda g, G, W, p, q: g.sharp_derivative(W, G, p),
    ),
    **_potential(
        "log_volume", lambda g, X, W: _FUNCTIONS["log_volume_gradient"].derivative(g, W, X)
    ),
    **_potential("entropy", lambda g, X, W: g.entropy_hessian(W, X)),
    "entropy_hessian": Function(
        partial(plainly, "entropy_hessian"),
        lambda g, X, W, Y: _FUNCTIONS["entropy_hessian"].derivative(g, W, X, Y),
        lambda g, G, W, Y: _FUNCTIONS["entropy_hessian"].derivative(g, W, G, Y),
        lambda g, G, W, Y: g.entropy_hessian(W, G),
    ),
    **{name: _without_derivative(name) for name in ("root", "coordinate_laplacian", "ito_drift")},
}


def _value(function: Function, metric: Any, *arrays: Array) -> Array:
    return function.value(metric, *arrays)


_autograd_value = primitive(_value)


def _autograd_rule(place: int) -> Callable[..., Any]:
    def rule(value: Array, function: Function, metric: Any, *arrays: Array) -> Any:
        return unbroadcast_f(arrays[place], lambda G: function.cotangent(place, metric, G, *arrays))

    return rule


_MOST = range(4)  # a point and up to three vectors
defvjp(_autograd_value, *map(_autograd_rule, _MOST), argnums=[2 + place for place in _MOST])


@cache
def _torch_function() -> Any:
    import torch

    class Ruled(torch.autograd.Function):
        @staticmethod
        def forward(function: Function, metric: Any, *arrays: Array) -> Array:
            return function.value(metric, *arrays)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.function, ctx.metric, *arrays = inputs
            ctx.save_for_backward(*arrays)

        @staticmethod
        def backward(ctx: Any, G: Array) -> Any:
            arrays = ctx.saved_tensors
            cotangents = [
                ctx.function.cotangent(place, ctx.metric, G, *arrays).sum_to_size(array.shape)
                if ctx.needs_input_grad[2 + place]
                else None
                for place, array in enumerate(arrays)
            ]
            return (None, None, *cotangents)

    return Ruled


@cache
def _jax_value() -> Callable[..., Array]:
    """The functions as one primitive of JAX, which all of its transformations know."""
    import jax
    from jax.extend.core import Primitive
    from jax.interpreters import ad, batching, mlir

    metric_function = Primitive("metric_function")

    def value(*arrays: Array, function: Function, metric: Any) -> Array:
        return function.value(metric, *arrays)

    def shape_of(*arrays: Any, function: Function, metric: Any) -> Any:
        shapes = (jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays)
        result = jax.eval_shape(partial(value, function=function, metric=metric), *shapes)
        return jax.core.ShapedArray(result.shape, result.dtype)

    def forward(arrays: Any, tangents: Any, *, function: Function, metric: Any) -> Any:
        terms = [
            function(metric, *arrays[:place], tangent, *arrays[place + 1 :])
            if place
            else function.tangent(metric, tangent, *arrays)
            for place, tangent in enumerate(tangents)
            if not isinstance(tangent, ad.Zero)
        ]
        return function(metric, *arrays), sum(terms[1:], terms[0])

    def backward(G: Any, *arrays: Any, function: Function, metric: Any) -> list[Any]:
        # Linear maps have one unknown vector.
        place = next(i for i, array in enumerate(arrays) if ad.is_undefined_primal(array))
        shape = arrays[place].aval.shape
        cotangents: list[Any] = [None] * len(arrays)
        if not isinstance(G, ad.Zero):
            cotangents[place] = _summed(function.cotangent(place, metric, G, *arrays), shape)
        return cotangents

    def stacked(arrays: Any, axes: Any, *, function: Function, metric: Any) -> Any:
        most = max(a.ndim - (axis is not None) for a, axis in zip(arrays, axes, strict=True))
        stacks = []
        for array, axis in zip(arrays, axes, strict=True):
            if axis is not None:
                array = jax.numpy.moveaxis(array, axis, 0)
                ones = (1,) * (most + 1 - array.ndim)
                array = array.reshape(array.shape[0], *ones, *array.shape[1:])
            stacks.append(array)
        return function(metric, *stacks), 0

    metric_function.def_impl(value)
    metric_function.def_abstract_eval(shape_of)
    mlir.register_lowering(metric_function, mlir.lower_fun(value, multiple_results=False))
    ad.primitive_jvps[metric_function] = forward
    ad.primitive_transposes[metric_function] = backward
    batching.primitive_batchers[metric_function] = stacked

    def bound(function: Function, metric: Any, *arrays: Array) -> Array:
        arrays = tuple(map(jax.numpy.asarray, arrays))
        return metric_function.bind(*arrays, function=function, metric=metric)

    return bound


def _summed(array: Array, shape: tuple[int, ...]) -> Array:
    """The sum over what broadcasting from a shape has repeated."""
    array = array.sum(axis=tuple(range(array.ndim - len(shape))))
    ones = tuple(i for i, size in enumerate(shape) if size == 1 and array.shape[i] > 1)
    return array.sum(axis=ones, keepdims=True)
