"""Arrays of every kind: other namespaces, other devices, single precision, stacks, tracing."""

import array_api_strict
import numpy as np
import pytest

from riemdln import DeepLinearMetric, FullRank, KroneckerMetric, Metric, SpectralMetric
from riemdln._arrays import to_numpy
from riemdln.geodesics import exponential, geodesic, geodesic_between
from riemdln.kernels import DeepLinearKernel, FunctionKernel, as_kernel

METHODS = {
    "sharp": "P",
    "flat": "X",
    "root": "X",
    "inner": "XY",
    "sharp_derivative": "XP",
    "sharp_derivative_adjoint": "PQ",
    "christoffel": "XY",
    "log_volume": "",
    "log_volume_gradient": "",
    "coordinate_laplacian": "",
    "entropy": "",
    "entropy_gradient": "",
    "entropy_hessian": "X",
}
SHAPES = [(3, 3), (3, 4), (1, 4), (2, 4, 3), (0, 3, 3)]


class Weighted(Metric):
    """A(P) = (1 + W^2) P, entrywise."""

    def sharp(self, W, P):
        return (1 + W**2) * P


def metrics():
    return [
        DeepLinearMetric(3),
        DeepLinearMetric(1),
        DeepLinearMetric(3, [0.4, -0.9]),
        SpectralMetric(lambda s, t: 1 + s * s + 3 * t),
        SpectralMetric(DeepLinearKernel(2.5) + 0.1),
        KroneckerMetric(np.diag([1.0, 2.0, 3.0]), np.eye(3)),
        Weighted(),
    ]


def exists(metric, shape):
    return shape[-2:] == (3, 3) or not isinstance(metric, KroneckerMetric)


CASES = [(metric, shape) for metric in metrics() for shape in SHAPES if exists(metric, shape)]


def name_of(value):
    return str(value).replace(" ", "") if isinstance(value, tuple) else type(value).__name__


def elsewhere(array):
    """The array in another namespace, on a device that is not the default one."""
    dtype = getattr(array_api_strict, array.dtype.name)
    return array_api_strict.asarray(
        array, dtype=dtype, device=array_api_strict.Device("device1"), copy=True
    )


def answers(metric, vectors):
    """All that a metric says of arrays W, X, Y, P and Q."""
    W = vectors["W"]
    for name, arguments in METHODS.items():
        if hasattr(metric, name):
            yield name, getattr(metric, name)(W, *(vectors[letter] for letter in arguments))
    yield "hessian", metric.at(W).hessian(*(vectors[letter] for letter in "XPQ"))
    yield "random_tangent", metric.random_tangent(W, 0)


def agree(actual, expected):
    """Whether an array of the other device holds the values of one of NumPy."""
    assert actual.device == array_api_strict.Device("device1")
    assert str(actual.dtype).endswith(expected.dtype.name)
    tolerance = 1e-9 if expected.dtype == np.float64 else 1e-2
    np.testing.assert_allclose(to_numpy(actual), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("metric", "shape"), CASES, ids=name_of)
def test_metrics_stay_in_the_namespace_and_on_the_device_of_the_point(rng, metric, shape):
    given = dict(zip("WXYPQ", rng.standard_normal((5, *shape)), strict=True))
    there = {letter: elsewhere(array) for letter, array in given.items()}
    for (name, expected), (_, actual) in zip(
        answers(metric, given), answers(metric, there), strict=True
    ):
        entries = name not in ("inner", "log_volume", "entropy")
        assert expected.shape == (shape if entries else shape[:-2]), name
        agree(actual, expected)


@pytest.mark.parametrize(("metric", "shape"), CASES, ids=name_of)
def test_metrics_keep_single_precision(rng, metric, shape):
    U = np.linalg.qr(rng.standard_normal((*shape[:-2], shape[-2], shape[-2])))[0]
    W = U @ np.eye(*shape[-2:]) * np.linspace(2.0, 1.0, shape[-1])
    given = dict(zip("WXYPQ", (W, *rng.standard_normal((4, *shape))), strict=True))
    single = {letter: array.astype(np.float32) for letter, array in given.items()}
    for (name, exact), (_, rounded) in zip(
        answers(metric, given), answers(metric, single), strict=True
    ):
        assert rounded.dtype == np.float32, name
        if name != "random_tangent":  # the singular vectors of its frame may differ
            np.testing.assert_allclose(rounded, exact, rtol=1e-3, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("metric", "shape"), [case for case in CASES if len(case[1]) == 2], ids=name_of
)
def test_geodesics_are_given_as_the_point_is(rng, metric, shape, dtype):
    W = (np.eye(*shape) + 0.1 * rng.standard_normal(shape)).astype(dtype)
    X = (0.1 * rng.standard_normal(shape)).astype(dtype)

    def all_of(W, X):
        path = geodesic(metric, W, X, [0.0, 0.5, 1.0])
        between = geodesic_between(metric, W, W + X)
        end = exponential(metric, W, X)
        return path.points, path.velocities, between.points, between.velocities, end

    for actual, expected in zip(all_of(elsewhere(W), elsewhere(X)), all_of(W, X), strict=True):
        assert expected.dtype == dtype
        agree(actual, expected)


@pytest.mark.parametrize("metric", [DeepLinearMetric(3), Weighted()], ids=name_of)
def test_manifolds_keep_single_precision(rng, metric):
    manifold = FullRank(2, 3, metric, rng=0)
    W, X = rng.standard_normal((2, 2, 3)).astype(np.float32)
    assert manifold.zero_vector(W).dtype == np.float32
    assert manifold.random_tangent_vector(W).dtype == np.float32
    assert manifold.euclidean_to_riemannian_gradient(W, X).dtype == np.float32
    assert manifold.norm(W, manifold.random_tangent_vector(W)) == pytest.approx(1, rel=1e-5)


def test_a_function_of_torch_is_a_kernel(rng):
    torch = pytest.importorskip("torch", reason="torch is optional")
    metric = SpectralMetric(lambda s, t: torch.sqrt(s * s + t * t) + 1)
    same = SpectralMetric(lambda s, t: np.sqrt(s * s + t * t) + 1)
    given = dict(zip("WXYPQ", rng.standard_normal((5, 2, 3, 4)), strict=True))
    tensors = {letter: torch.tensor(array) for letter, array in given.items()}
    for (name, actual), (_, expected) in zip(
        answers(metric, tensors), answers(same, given), strict=True
    ):
        assert isinstance(actual, torch.Tensor)
        np.testing.assert_allclose(actual.numpy(), expected, atol=1e-9, err_msg=name)


@pytest.mark.parametrize(
    "metric", [m for m in metrics() if not isinstance(m, Weighted)], ids=name_of
)
def test_metrics_are_traced_by_jax(rng, metric):
    jax = pytest.importorskip("jax", reason="jax is optional")
    jax.config.update("jax_enable_x64", True)
    W, Z = rng.standard_normal((2, 4, 3, 3))
    for name in ("sharp", "flat", "root", "inner"):
        method, arguments = getattr(metric, name), (W, Z, Z) if name == "inner" else (W, Z)
        compiled = jax.jit(jax.vmap(method))(*arguments)
        np.testing.assert_allclose(compiled, method(*arguments), rtol=1e-9, atol=1e-12)
        # The mapped axis may be any, and one argument may stay the same.
        for axes in ((None, 1), (1, None)):
            own = [
                np.moveaxis(a, 0, 1) if axis else a[0] for a, axis in zip((W, Z), axes, strict=True)
            ]
            own += [own[1]] * (name == "inner")
            axes += (axes[1],) * (name == "inner")
            moved = [np.moveaxis(a, 1, 0) if axis else a for a, axis in zip(own, axes, strict=True)]
            expected = method(*np.broadcast_arrays(*moved))
            np.testing.assert_allclose(jax.vmap(method, axes)(*own), expected, atol=1e-12)
    volumes = jax.jit(jax.vmap(metric.log_volume))(W)
    np.testing.assert_allclose(volumes, metric.log_volume(W), rtol=1e-9)
    assert jax.jit(metric.sharp)(W.astype(np.float32), Z.astype(np.float32)).dtype == np.float32


def test_a_metric_of_ones_own_is_not_traced():
    jax = pytest.importorskip("jax", reason="jax is optional")
    with pytest.raises(TypeError, match="its sharp alone can be traced"):
        jax.jit(Weighted().flat)(np.eye(2), np.eye(2))


@pytest.mark.parametrize(
    "kernel",
    [
        DeepLinearKernel(2.5),
        DeepLinearKernel(2),
        FunctionKernel(lambda s, t: s**2 + t),
        DeepLinearKernel(3) + 0.1,
        as_kernel("kernel", 2.0),
    ],
    ids=repr,
)
def test_kernels_take_numbers_beside_arrays(kernel):
    xp = array_api_strict
    expected = kernel(np.array([2.0]), np.array([1.0]))[0]
    for s, t in ((2.0, 1.0), (np.array(2.0), 1.0), (np.float64(2.0), np.array(1.0)), (2, 1)):
        assert kernel(s, t) == pytest.approx(expected, rel=1e-14)
    a, b, t = (np.array([x]) for x in (2.0, 1.0, 3.0))
    expected = kernel.divided_difference(a, b, t)[0]
    for arguments in ((2.0, 1.0, 3.0), (np.array(2.0), 1.0, 3.0)):
        assert kernel.divided_difference(*arguments) == pytest.approx(expected, rel=1e-12)
    there = xp.asarray([2.0], dtype=xp.float32, device=xp.Device("device1"))
    for values in (kernel(there, 1.0), kernel.divided_difference(there, 1.0, 3.0)):
        assert values.dtype == xp.float32
        assert values.device == xp.Device("device1")
    assert kernel(np.array([2.0], np.float32), 1.0).dtype == np.float32
