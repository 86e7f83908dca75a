from itertools import pairwise

import array_api_strict
import autograd
import autograd.numpy as anp
import numpy as np
import pytest
from scipy.sparse import csr_array

from riemdln import (
    DeepLinearMetric,
    FixedRank,
    balanced_layers,
    end_to_end,
    imbalance,
    layer_gradients,
    random_layers,
)
from riemdln.networks import imbalances, thin_end_to_end
from tests.conftest import random_matrix, symmetric_power

SHAPES = [(4, 4), (3, 6), (6, 3), (1, 5), (5, 1), (1, 1)]


def product(layers):
    W = layers[0]
    for layer in layers[1:]:
        W = anp.dot(layer, W)
    return W


@pytest.mark.parametrize("depth", [1, 2, 3, 8])
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_balanced_layers_multiply_to_the_matrix_and_are_balanced(rng, m, n, depth):
    W = random_matrix(rng, m, n)
    layers = balanced_layers(W, depth)
    assert len(layers) == depth
    np.testing.assert_allclose(product(layers), W, atol=1e-13)
    assert imbalance(layers) < 1e-13
    if depth > 1:
        np.testing.assert_allclose(
            layers[-1] @ layers[-1].T, symmetric_power(W @ W.T, 1 / depth), atol=1e-7
        )


def test_the_zero_matrix_has_zero_layers():
    layers = balanced_layers(np.zeros((2, 3)), 3)
    assert all(not layer.any() for layer in layers)


def test_layer_gradients_are_those_of_autodiff(rng):
    layers = [rng.standard_normal(shape) for shape in ((4, 5), (2, 4), (6, 2), (3, 6))]
    target = rng.standard_normal((3, 5))

    def cost(layers):
        return anp.sum((product(layers) - target) ** 4)

    expected = autograd.grad(cost)(layers)
    gradients = layer_gradients(layers, 4 * (product(layers) - target) ** 3)
    for gradient, answer in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, answer, rtol=1e-11)


def test_imbalance_is_the_largest_defect(rng):
    A, B, C = (rng.standard_normal(shape) for shape in ((4, 5), (2, 4), (6, 2)))
    for layers in ([A, B, C], [C.T, B.T, A.T]):  # the largest comes first, and last
        below, middle, above = layers
        defects = [middle.T @ middle - below @ below.T, above.T @ above - middle @ middle.T]
        for matrix, defect in zip(imbalances(layers), defects, strict=True):
            np.testing.assert_allclose(matrix, defect, rtol=1e-12, atol=1e-14)
        largest = max(np.sqrt(np.sum(defect**2)) for defect in defects)
        assert imbalance(layers) == pytest.approx(largest)
        assert type(imbalance(layers)) is float
    assert imbalance([A]) == 0.0
    assert imbalances([A]) == []


def test_hands_out_copies():
    W = np.ones((2, 2))
    for other in (end_to_end([W]), *balanced_layers(W, 1), *layer_gradients([W], W)):
        other[:] = 5.0
    np.testing.assert_array_equal(W, np.ones((2, 2)))


@pytest.mark.parametrize("shape", [(2, 2), (1, 3), (3, 1)])
def test_no_two_layers_share_memory(shape):
    W = np.ones(shape)
    layers = balanced_layers(W, 4)
    for j, layer in enumerate(layers):
        before = [other.copy() for other in layers]
        layer[:] = 7.0 + j
        for k, other in enumerate(layers):
            if k != j:
                np.testing.assert_array_equal(other, before[k])
    np.testing.assert_array_equal(W, np.ones(shape))


def to_library(library):
    """How the library makes an array of NumPy's, after skipping where it is not installed."""
    xp = pytest.importorskip(library)
    return xp.tensor if library == "torch" else xp.asarray


LIBRARIES = [
    ("array_api_strict", np.float64),
    ("array_api_strict", np.float32),
    ("torch", np.float64),
    ("torch", np.float32),
    ("jax.numpy", np.float32),  # JAX has no float64 unless it is switched on
]


@pytest.mark.parametrize(("library", "dtype"), LIBRARIES)
def test_layers_of_every_library_give_what_numpy_gives(rng, library, dtype):
    give = to_library(library)
    kind = type(give(np.ones(1, dtype)))
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in ((3, 5), (2, 3), (4, 2))]
    G = rng.standard_normal((4, 5)).astype(dtype)
    W = random_matrix(rng, 4, 3).astype(dtype)
    u, s, vt = np.linalg.svd(W[:, :2], full_matrices=False)
    layers = [give(array) for array in arrays]
    answers = [
        ([end_to_end(layers)], [end_to_end(arrays)]),
        (layer_gradients(layers, give(G)), layer_gradients(arrays, G)),
        (imbalances(layers), imbalances(arrays)),
        (balanced_layers(give(W[:1]), 3), balanced_layers(W[:1], 3)),
        (balanced_layers((give(u), give(s), give(vt)), 3), balanced_layers((u, s, vt), 3)),
        (balanced_layers((give(u), give(s), give(vt)), 1), [W[:, :2]]),
        (balanced_layers(give(W), 1), [W]),
        ([thin_end_to_end(layers).s], [thin_end_to_end(arrays).s]),
        # The signs of singular vectors are the library's choice; these matrices have none.
        (
            [a @ a.T for a in balanced_layers(give(W), 3)[1:]],
            [a @ a.T for a in balanced_layers(W, 3)[1:]],
        ),
    ]
    tolerance = 1e3 * float(np.finfo(dtype).eps)
    for found, expected in answers:
        assert len(found) == len(expected)
        for array, answer in zip(found, expected, strict=True):
            assert type(array) is kind
            assert np.asarray(array).dtype == dtype
            np.testing.assert_allclose(np.asarray(array), answer, rtol=tolerance, atol=tolerance)
    assert type(imbalance(layers)) is kind
    assert float(imbalance(layers)) == pytest.approx(imbalance(arrays), rel=tolerance)
    assert float(imbalance(layers[:1])) == 0.0
    stack = give(np.ones((3, 2, 2), dtype))
    np.testing.assert_allclose(np.asarray(end_to_end(stack)), 4 * np.ones((2, 2)), rtol=tolerance)


@pytest.mark.parametrize(("library", "dtype"), LIBRARIES[:-1])
def test_steps_of_layers_are_those_of_numpy_in_every_library(rng, library, dtype):
    give = to_library(library)
    W, X = (random_matrix(rng, 4, 3).astype(dtype) for _ in range(2))
    metric, tolerance = DeepLinearMetric(3), 1e3 * float(np.finfo(dtype).eps)
    found, expected = metric.network_retraction(give(W), give(X)), metric.network_retraction(W, X)
    assert type(found) is type(give(W))
    assert np.asarray(found).dtype == dtype
    np.testing.assert_allclose(np.asarray(found), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("widths", [[5, 2, 6], [5, 4, 2, 6], [5, 2, 4, 6], [5, 3, 3, 2, 7, 6]])
def test_the_thin_end_to_end_matrix_has_the_rank_of_the_narrowest_layer(rng, widths):
    layers = [rng.standard_normal((b, a)) for a, b in pairwise(widths)]
    U, s, Vt = thin_end_to_end(layers)
    assert (U.shape, s.shape, Vt.shape) == ((6, 2), (2,), (2, 5))
    np.testing.assert_allclose(U * s @ Vt, product(layers), atol=1e-12)
    for columns in (U, Vt.T):
        np.testing.assert_allclose(columns.T @ columns, np.eye(2), atol=1e-14)
    assert s[0] >= s[1] > 0
    with pytest.raises(ValueError, match="^layers must be at least two at fixed rank"):
        thin_end_to_end(layers[:1])


def test_the_end_to_end_matrix_and_imbalance_of_tensors_can_be_differentiated(rng):
    torch = pytest.importorskip("torch")
    arrays = [rng.standard_normal(shape) for shape in ((3, 5), (4, 3))]
    layers = [torch.nn.Parameter(torch.tensor(array)) for array in arrays]
    G = rng.standard_normal((4, 5))
    (end_to_end(layers) * torch.tensor(G)).sum().backward()
    for layer, expected in zip(layers, (arrays[1].T @ G, G @ arrays[0].T), strict=True):
        np.testing.assert_allclose(layer.grad.numpy(), expected, rtol=1e-12)
        layer.grad = None
    (imbalance(layers) ** 2).backward()
    D = arrays[1].T @ arrays[1] - arrays[0] @ arrays[0].T
    for layer, expected in zip(layers, (-4 * D @ arrays[0], 4 * arrays[1] @ D), strict=True):
        np.testing.assert_allclose(layer.grad.numpy(), expected, rtol=1e-10, atol=1e-12)


def test_layers_of_several_libraries_are_refused():
    strict = array_api_strict.ones((2, 2))
    for function in (end_to_end, imbalance, imbalances, lambda a: layer_gradients(a, np.eye(2))):
        with pytest.raises(TypeError, match="^layers must be arrays of one library, got array_api"):
            function([np.eye(2), strict])
    message = "^layers and euclidean_gradient must be arrays of one library"
    for layers, gradient in (([np.eye(2)], strict), ([strict], np.eye(2))):
        with pytest.raises(TypeError, match=message):
            layer_gradients(layers, gradient)
    for gradient in (csr_array(np.eye(2)), (np.eye(2),) * 3, [[1.0, 0.0], [0.0, 1.0]]):
        with pytest.raises(TypeError, match="^euclidean_gradient must be an array of the library"):
            layer_gradients([strict], gradient)
    with pytest.raises(TypeError, match="^W must be arrays of one library"):
        balanced_layers((np.eye(2), array_api_strict.ones(2), np.eye(2)), 2)


def test_layers_of_two_precisions_are_those_of_the_finer(rng):
    W_1, W_2, W_3 = rng.standard_normal((3, 2, 2))
    mixed = [W_1.astype(np.float32), W_2.astype(np.float32), W_3]
    expected = W_3 @ (mixed[1].astype(float) @ mixed[0].astype(float))
    np.testing.assert_allclose(end_to_end(mixed), expected, rtol=1e-13, atol=1e-14)


def test_np_matrix_is_taken_for_an_array(rng):
    # The product of two of np.matrix's is that of matrices, not of entries.
    W = rng.standard_normal((3, 3))
    for found, expected in zip(
        [*balanced_layers(W.view(np.matrix), 3), *imbalances([W.view(np.matrix)] * 2)],
        [*balanced_layers(W, 3), *imbalances([W] * 2)],
        strict=True,
    ):
        assert type(found) is np.ndarray
        np.testing.assert_array_equal(found, expected)
    metric = DeepLinearMetric(3)
    np.testing.assert_array_equal(
        metric.sharp(W.view(np.matrix), W.T.view(np.matrix)), metric.sharp(W, W.T)
    )


def test_masked_arrays_are_refused():
    masked = np.ma.masked_array(np.eye(2), mask=[[False, True], [False, False]])
    for name, function in {
        r"layers\[0\]": lambda: end_to_end([masked]),
        r"layers\[1\]": lambda: imbalance([np.eye(2), masked]),
        "W": lambda: balanced_layers(masked, 2),
        "euclidean_gradient": lambda: layer_gradients([np.eye(2)], masked),
        "P": lambda: DeepLinearMetric(2).sharp(np.eye(2), masked),
    }.items():
        with pytest.raises(TypeError, match=f"^{name} must be an array without a mask"):
            function()


def test_triples_and_rows_are_told_apart(rng):
    point = FixedRank(5, 4, 2, DeepLinearMetric(2), rng=rng).random_point()
    u, s, vt = point
    singular = s * [1.0, 0.0]
    for triple in (point, (u, s, vt), [u, s, vt], (u, singular, vt)):
        layers = balanced_layers(triple, 2)
        assert [layer.shape for layer in layers] == [(2, 4), (5, 2)]
        product = u * triple[1] @ vt
        np.testing.assert_allclose(end_to_end(layers), product, rtol=1e-12, atol=1e-14)
    for bad in ((u, -s, vt), (u, s[:1], vt), (u[:, :1], s, vt)):
        with pytest.raises(ValueError, match=r"^W must be a triple \(u, s, vt\)"):
            balanced_layers(bad, 2)
    with pytest.raises(ValueError, match=r"^W\[1\] must be finite"):
        balanced_layers((u, np.full(2, np.nan), vt), 2)
    # Three rows, as numbers and as arrays.
    rows = ((1.0, 2.0), (3.0, 4.0), (5.0, 6.0))
    for matrix in (rows, [list(row) for row in rows], [np.array(row) for row in rows]):
        np.testing.assert_allclose(end_to_end(balanced_layers(matrix, 2)), rows)


@pytest.mark.parametrize("kind", ["near-zero", "near-identity"])
def test_random_layers(kind):
    widths = [300, 200, 250]
    layers = random_layers(widths, initialization=kind, scale=0.1, rng=3)
    centre = float(kind == "near-identity")
    for layer, columns, rows in zip(layers, widths, widths[1:], strict=False):
        assert layer.shape == (rows, columns)
        noise = layer - centre * np.eye(rows, columns)
        assert noise.std() == pytest.approx(0.1, rel=0.02)
        assert abs(noise.mean()) < 2e-3
    again = random_layers(widths, initialization=kind, scale=0.1, rng=3)
    np.testing.assert_array_equal(layers[1], again[1])


def test_layers_and_widths_may_be_arrays(rng):
    layers = rng.standard_normal((3, 2, 2))
    np.testing.assert_allclose(
        end_to_end(layers), layers[2] @ layers[1] @ layers[0], rtol=1e-12, atol=1e-14
    )
    assert [layer.shape for layer in random_layers(np.array([5, 4, 3]))] == [(4, 5), (3, 4)]


def test_refuses_layers_that_do_not_chain():
    layers = [np.ones((2, 3)), np.ones((4, 5))]
    for function in (
        end_to_end,
        imbalance,
        lambda layers: layer_gradients(layers, np.ones((4, 3))),
    ):
        with pytest.raises(ValueError, match=r"^layers must chain: layers\[1\]"):
            function(layers)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ([], ValueError, "layers must list at least one matrix"),
        (3.0, TypeError, "layers must be a list of matrices"),
        ("ab", TypeError, "layers must be a list of matrices"),
        (np.ones((2, 2)), ValueError, r"layers\[0\] must be a matrix"),
        ([np.ones(3)], ValueError, r"layers\[0\] must be a matrix"),
        ([np.full((2, 2), np.nan)], ValueError, r"layers\[0\] must be finite"),
        ([np.ones((2, 2), dtype=complex)], ValueError, r"layers\[0\] must be real"),
        ([np.ones((2, 2), dtype=bool)], TypeError, r"layers\[0\] must be an array of real numbers"),
    ],
)
def test_refuses_what_are_no_layers(bad, error, message):
    with pytest.raises(error, match=message):
        end_to_end(bad)


@pytest.mark.parametrize("depth", [0, 2.5, np.inf, np.nan])
def test_refuses_depths_that_are_not_whole(depth):
    with pytest.raises(ValueError, match="^depth must be a whole number"):
        balanced_layers(np.ones((2, 2)), depth)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": [3]}, "^widths"),
        ({"widths": [3, 0]}, r"^widths\[1\]"),
        ({"widths": [3, 2], "scale": -1.0}, "^scale"),
        ({"widths": [3, 2], "initialization": "zero"}, "^initialization"),
    ],
)
def test_random_layers_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        random_layers(**arguments)


def test_layer_gradients_refuses_a_gradient_of_another_shape():
    with pytest.raises(ValueError, match="^euclidean_gradient must have shape"):
        layer_gradients([np.ones((2, 3))], np.ones((3, 2)))


@pytest.mark.parametrize(
    "source",
    [
        lambda: 7,
        lambda: [7, 8],
        lambda: np.random.SeedSequence(7),
        lambda: np.random.PCG64(7),
        lambda: np.random.default_rng(7),
    ],
)
def test_randomness_comes_from_whatever_default_rng_takes(source):
    (layer,) = random_layers([4, 3], scale=1.0, rng=source())
    expected = np.random.default_rng(source()).standard_normal((3, 4))
    np.testing.assert_array_equal(layer, expected)


def test_a_generator_is_not_started_anew():
    rng = np.random.default_rng(0)
    assert not np.array_equal(random_layers([3, 3], rng=rng)[0], random_layers([3, 3], rng=rng)[0])


def test_refuses_bad_seeds_and_depths_beyond_a_float():
    for bad, error in (("a", TypeError), (-1, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="^rng must be what numpy.random.default_rng takes"):
            random_layers([2, 3], rng=bad)
    with pytest.raises(ValueError, match="^depth must be"):
        balanced_layers(np.eye(2), 10**400)


def test_refuses_a_point_that_is_no_matrix_and_a_gradient_that_is_not_finite():
    with pytest.raises(ValueError, match="^W must be a matrix"):
        balanced_layers(np.ones(2), 3)
    with pytest.raises(ValueError, match="^euclidean_gradient must be finite"):
        layer_gradients([np.eye(2)], np.full((2, 2), np.nan))
