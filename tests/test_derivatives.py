"""Derivatives of a metric by autograd, PyTorch and JAX, against differences and closed forms."""

import autograd
import numpy as np
import pymanopt
import pytest

from riemdln import DeepLinearMetric, FullRank, KroneckerMetric, Metric, SpectralMetric
from riemdln.checks import check_hessian
from tests.conftest import random_matrix

# The identity has equal singular values, where a singular value decomposition has no derivative.
POINTS = {
    "square": (3, 3, [1.9, 1.2, 0.6]),
    "wide": (3, 4, [1.9, 1.2, 0.6]),
    "tall": (4, 3, [1.9, 1.2, 0.6]),
    "row": (1, 4, [1.3]),
    "identity": (3, 3, None),
}
KINDS = ["autograd", "torch", "jax"]
TOLERANCE = 1e-9


def point_of(rng, name):
    m, n, s = POINTS[name]
    return np.eye(3) if s is None else random_matrix(rng, m, n, s)


def library(kind):
    module = pytest.importorskip(kind, reason=f"{kind} is optional")
    if kind == "jax":
        module.config.update("jax_enable_x64", True)
    return module


def arrays_of(kind, *arrays):
    module = library(kind)
    if kind == "torch":
        return [module.tensor(a) for a in arrays]
    return [module.numpy.asarray(a) for a in arrays] if kind == "jax" else list(arrays)


def gradient(kind, function, *arrays, compiled=False):
    """The gradients of a function in all of its arguments, as NumPy's arrays.

    Compiled as one, JAX is faster at a shape that no other test has: alone, it compiles hundreds
    of operations.
    """
    module, arrays = library(kind), arrays_of(kind, *arrays)
    places = tuple(range(len(arrays)))
    if kind == "torch":
        arrays = [a.requires_grad_() for a in arrays]
        gradients = module.autograd.grad(function(*arrays), arrays)
    elif kind == "jax":
        gradients = module.grad(function, places)
        gradients = (module.jit(gradients) if compiled else gradients)(*arrays)
    else:
        gradients = [autograd.grad(function, place)(*arrays) for place in places]
    return [np.asarray(g) for g in gradients]


def by_differences(function, W, step=5e-3):
    """The gradient of a function by central differences of sixth order."""
    total = np.zeros_like(W)
    for place, weight in ((1, 3 / 4), (2, -3 / 20), (3, 1 / 60)):
        for i in np.ndindex(W.shape):
            E = np.zeros_like(W)
            E[i] = place * step
            total[i] += weight / step * (function(W + E) - function(W - E))
    return total


def metrics():
    left, right = np.diag([1.0, 2.0, 3.0]), np.diag([3.0, 1.0, 2.0])
    return [
        DeepLinearMetric(2.5),
        DeepLinearMetric(1),
        SpectralMetric(DeepLinearMetric(3).kernel + 0.1),
        KroneckerMetric(left, right),
    ]


# JAX compiles each function at each shape, which takes seconds: it has fewer cases.
@pytest.mark.parametrize(
    ("kind", "point", "metric"),
    [
        pytest.param(kind, point, metric, id=f"{kind}-{point}-{metric!r}")
        for kind in KINDS
        for point in POINTS
        for metric in metrics()
        if kind != "jax" or repr(metric) == "DeepLinearMetric(depth=2.5)" or point == "identity"
    ],
)
def test_gradients_are_those_of_the_values(rng, metric, point, kind):
    W = point_of(rng, point)
    P, Q = rng.standard_normal((2, *W.shape))
    if isinstance(metric, KroneckerMetric) and W.shape != (3, 3):
        with pytest.raises(ValueError, match="exists on 3 x 3 matrices only"):
            gradient(kind, lambda W: metric.log_volume(W), W)
        return
    for name in ("sharp", "flat", "inner"):
        method = getattr(metric, name)

        def paired(W, P, Q, name=name, method=method):
            return method(W, P, Q) if name == "inner" else (Q * method(W, P)).sum()

        actual = gradient(kind, paired, W, P, Q)
        # Linear in the vectors, so that a unit step gives the gradient in them.
        expected = [
            by_differences(lambda V: paired(V, P, Q), W),
            by_differences(lambda V: paired(W, V, Q), P, step=1.0),
            by_differences(lambda V: paired(W, P, V), Q, step=1.0),
        ]
        for one, other in zip(actual, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE)
    for name in ("log_volume", "entropy"):
        if hasattr(metric, name):
            method = getattr(metric, name)
            (actual,) = gradient(kind, lambda W, method=method: method(W), W)
            np.testing.assert_allclose(actual, by_differences(method, W), atol=TOLERANCE)
            expected = getattr(metric, f"{name}_gradient")(W)
            np.testing.assert_allclose(actual, expected, atol=1e-14)


@pytest.mark.parametrize(
    ("kind", "point"),
    [(k, p) for k in KINDS for p in ("wide", "identity") if (k, p) != ("jax", "wide")],
)
def test_gradients_of_derivatives(rng, point, kind):
    metric, W = DeepLinearMetric(3), point_of(rng, point)
    X, P, Q = rng.standard_normal((3, *W.shape))
    # At equal singular values differences lose some digits more.
    tolerance = 1e-7 if point == "identity" else TOLERANCE
    for name, count in (
        ("sharp_derivative", 2),
        ("sharp_derivative_adjoint", 2),
        ("christoffel", 2),
        ("log_volume_gradient", 0),
        ("entropy_gradient", 0),
        ("entropy_hessian", 1),
    ):
        method, vectors = getattr(metric, name), [X, P][:count]

        def paired(W, Q, *vectors, method=method):
            return (Q * method(W, *vectors)).sum()

        def of_point(W, paired=paired, vectors=vectors):
            return paired(W, *arrays_of(kind, Q, *vectors))

        def of_vectors(*vectors, paired=paired):
            return paired(*arrays_of(kind, W, Q), *vectors)

        (actual,) = gradient(kind, of_point, W)
        expected = by_differences(
            lambda V, paired=paired, vectors=vectors: paired(V, Q, *vectors), W
        )
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)
        for place, along in enumerate(gradient(kind, of_vectors, *vectors) if count else []):

            def of_one(V, paired=paired, vectors=vectors, place=place):
                return paired(W, Q, *vectors[:place], V, *vectors[place + 1 :])

            expected = by_differences(of_one, vectors[place], step=1.0)
            np.testing.assert_allclose(along, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("points", "vectors"), [((2, 3), ()), ((), (2, 3)), ((2, 1), (3,))])
def test_gradients_of_stacks(rng, points, vectors, kind):
    metric = DeepLinearMetric(3)
    W, P = rng.standard_normal((*points, 2, 3)), rng.standard_normal((*vectors, 2, 3))
    Q = rng.standard_normal((2, 3, 2, 3))
    actual = gradient(kind, lambda W, P, Q: (Q * metric.sharp(W, P)).sum(), W, P, Q, compiled=True)
    expected = np.zeros_like(W + 0 * Q), np.zeros_like(P + 0 * Q)
    every = np.broadcast_to(W, Q.shape), np.broadcast_to(P, Q.shape)
    for i in np.ndindex(2, 3):
        w, p = every[0][i], every[1][i]
        expected[0][i] = metric.sharp_derivative_adjoint(w, Q[i], p)
        expected[1][i] = metric.sharp(w, Q[i])
    for one, other in zip(actual, expected, strict=False):
        repeated = other.reshape(-1, *other.shape[-2:])
        assert one.shape in (W.shape, P.shape)
        np.testing.assert_allclose(one.sum(axis=tuple(range(one.ndim - 2))), repeated.sum(axis=0))
    (volumes,) = gradient(
        kind, lambda W: (W[..., 0, 0] * metric.log_volume(W)).sum(), W, compiled=True
    )
    corner = np.zeros((2, 3))
    corner[0, 0] = 1.0
    expected = W[..., :1, :1] * metric.log_volume_gradient(W)
    expected = expected + metric.log_volume(W)[..., None, None] * corner
    np.testing.assert_allclose(volumes, expected, atol=1e-12)


BACKENDS = {
    "autograd": ("autograd", pymanopt.function.autograd),
    "pytorch": ("torch", pymanopt.function.pytorch),
    "jax": ("jax", pymanopt.function.jax),
}


@pytest.mark.parametrize(
    ("backend", "point", "name"),
    [
        (backend, point, name)
        for backend in BACKENDS
        for point in ("square", "wide", "identity")
        for name in ("entropy", "log_volume", "sharp", "flat")
        if backend != "jax" or name == "entropy" or (point, name) == ("identity", "sharp")
    ],
)
def test_hessians_of_costs_in_the_metric(rng, name, point, backend):
    kind, decorate = BACKENDS[backend]
    library(kind)
    W, metric = point_of(rng, point), DeepLinearMetric(3)
    manifold = FullRank(*W.shape, metric, rng=0)
    P, Q = arrays_of(kind, *rng.standard_normal((2, *W.shape)))

    @decorate(manifold)
    def cost(W):
        method = getattr(metric, name)
        return method(W) if name in ("entropy", "log_volume") else (Q * method(W, P)).sum()

    check = check_hessian(pymanopt.Problem(manifold, cost), W, rng.standard_normal(W.shape))
    assert check.slope == pytest.approx(3, abs=0.1)


def test_torch_agrees_with_its_own_differences(rng):
    torch = library("torch")
    W, P = (torch.tensor(a, requires_grad=True) for a in rng.standard_normal((2, 1, 2)))
    metric = DeepLinearMetric(3)
    assert torch.autograd.gradcheck(metric.christoffel, (W, P, P))
    assert torch.autograd.gradgradcheck(metric.flat, (W, P))
    assert torch.autograd.gradgradcheck(metric.entropy, (torch.eye(2).double().requires_grad_(),))


def test_jax_composes_its_transformations(rng):
    jax = library("jax")
    W = point_of(rng, "identity")
    w, x, p, q = map(jax.numpy.asarray, (W, *rng.standard_normal((3, *W.shape))))
    metric = DeepLinearMetric(3)

    def cost(w):
        return jax.numpy.sum(q * metric.sharp(w, p))

    def forward_over_reverse(w, x):
        return jax.jvp(jax.grad(cost), (w,), (x,))[1]

    def along_gradient(w):
        return jax.numpy.sum(x * jax.grad(cost)(w))

    def along_tangent(w):
        return jax.jvp(cost, (w,), (x,))[1]

    step = 1e-3
    places = ((1, 2 / 3), (2, -1 / 12))
    expected = sum(
        weight
        / step
        * (
            metric.sharp_derivative_adjoint(
                W + place * step * np.asarray(x), *map(np.asarray, (p, q))
            )
            - metric.sharp_derivative_adjoint(
                W - place * step * np.asarray(x), *map(np.asarray, (p, q))
            )
        )
        for place, weight in places
    )
    for name, actual in {
        "forward over reverse": forward_over_reverse(w, x),
        "reverse over reverse": jax.jit(jax.grad(along_gradient))(w),
        "reverse over forward": jax.jit(jax.grad(along_tangent))(w),
        "compiled": jax.jit(forward_over_reverse)(w, x),
        "mapped": jax.vmap(forward_over_reverse, (None, 0))(w, x[None])[0],
    }.items():
        np.testing.assert_allclose(actual, expected, atol=1e-7, err_msg=name)


def test_kernels_without_differences_are_traced_at_equal_singular_values(rng):
    # theta = s^2 + t^2, so sharp of P is W W^T P + P W^T W, whose adjoint derivative is a product.
    jax = library("jax")
    metric = SpectralMetric(lambda s, t: s**2 + t**2)
    W, (P, Q) = 2 * np.eye(2), rng.standard_normal((2, 2, 2))
    actual = jax.jit(jax.grad(lambda W: jax.numpy.sum(Q * metric.sharp(W, P))))(W)
    expected = (Q @ P.T + P @ Q.T) @ W + W @ (P.T @ Q + Q.T @ P)
    np.testing.assert_allclose(actual, expected, rtol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_third_derivatives(kind):
    # The log-volume of one entry w at depth 2 is -ln(2 w) / 2, and its third derivative -1 / w^3.
    metric, (w,) = DeepLinearMetric(2), arrays_of(kind, np.array([[1.7]]))
    if kind == "torch":
        torch = library(kind)
        value = metric.log_volume(w.requires_grad_())
        for _ in range(3):
            (value,) = torch.autograd.grad(value.sum(), w, create_graph=True)
    else:
        grad = library(kind).grad

        def total(function):
            return lambda w: function(w).sum()

        value = grad(total(grad(total(grad(metric.log_volume)))))
        value = (library(kind).jit(value) if kind == "jax" else value)(w)
    assert value[0, 0].item() == pytest.approx(-1 / 1.7**3, rel=1e-7)


class Shifted(Metric):
    """A metric of one's own that asks another one."""

    def sharp(self, W, P):
        return DeepLinearMetric(3).sharp(W, P) + 0.1 * P


@pytest.mark.parametrize("point", ["wide", "row", "identity"])
def test_a_metric_of_ones_own_may_ask_another_one(rng, point):
    W = point_of(rng, point)
    X, Y, P, Q = rng.standard_normal((4, *W.shape))
    own, closed = Shifted(), SpectralMetric(DeepLinearMetric(3).kernel + 0.1)
    for name, arguments in {
        "flat": (X,),
        "root": (X,),
        "inner": (X, Y),
        "sharp_derivative": (X, P),
        "sharp_derivative_adjoint": (P, Q),
        "christoffel": (X, Y),
        "log_volume": (),
        "log_volume_gradient": (),
        "coordinate_laplacian": (),
    }.items():
        expected = getattr(closed, name)(W, *arguments)
        np.testing.assert_allclose(getattr(own, name)(W, *arguments), expected, atol=1e-12)
    expected = closed.at(W).hessian(P, Q, X)
    np.testing.assert_allclose(own.at(W).hessian(P, Q, X), expected, atol=1e-12)


@pytest.mark.parametrize("kind", ["autograd", "torch"])
def test_what_a_metric_of_ones_own_is_given_is_differentiated_too(rng, kind):
    W, own, closed = (
        point_of(rng, "wide"),
        Shifted(),
        SpectralMetric(DeepLinearMetric(3).kernel + 0.1),
    )
    X = rng.standard_normal(W.shape)
    for one, other in zip(
        gradient(kind, own.inner, W, X, X), gradient(kind, closed.inner, W, X, X), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("kind", ["torch", "jax"])
def test_what_has_no_rule_says_so(rng, kind):
    metric, W = DeepLinearMetric(3), rng.standard_normal((2, 3))
    with pytest.raises(TypeError, match="^coordinate_laplacian of .* has no rule"):
        gradient(kind, lambda W: metric.coordinate_laplacian(W).sum(), W)


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_is_kept(rng, kind):
    W = random_matrix(rng, 2, 3, [1.5, 0.5]).astype(np.float32)
    metric = DeepLinearMetric(3)
    (actual,) = gradient(kind, metric.entropy, W, compiled=True)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(
        actual, metric.entropy_gradient(W.astype(float)), rtol=1e-5, atol=1e-6
    )


def test_a_metric_at_a_point_is_not_differentiated():
    torch = library("torch")
    W = torch.eye(2, dtype=torch.float64, requires_grad=True)
    for ask in (
        lambda: DeepLinearMetric(3).at(W),
        lambda: DeepLinearMetric(3).random_tangent(W, 0),
    ):
        with pytest.raises(TypeError, match=r"^W must not be differentiated in metric\.at"):
            ask()


def test_second_derivatives_of_a_stack_know_each_direction_alone(rng):
    metric = DeepLinearMetric(3)
    W, X, P = rng.standard_normal((3, 2, 3, 3))
    X[1] *= 1e-9

    def gradient(W, X, P):
        return autograd.grad(lambda V: metric.sharp_derivative(V, X, P).sum())(W)

    stacked = gradient(W, X, P)
    for k in range(2):
        alone = gradient(W[k], X[k], P[k])
        np.testing.assert_allclose(stacked[k], alone, atol=1e-9 * np.abs(alone).max())


def test_second_derivatives_warn_where_they_lose_digits(rng):
    W = random_matrix(rng, 2, 2, [1.0, 1e-9])
    with pytest.warns(RuntimeWarning, match="lose as many digits as the condition number"):
        autograd.grad(lambda V: (DeepLinearMetric(2).log_volume_gradient(V) ** 2).sum())(W)
