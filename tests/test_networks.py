import autograd
import autograd.numpy as anp
import numpy as np
import pytest

from riemdln import balanced_layers, end_to_end, imbalance, layer_gradients, random_layers
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
    defects = [np.linalg.norm(B.T @ B - A @ A.T), np.linalg.norm(C.T @ C - B @ B.T)]
    assert imbalance([A, B, C]) == pytest.approx(max(defects))
    assert imbalance([A]) == 0.0


def test_hands_out_copies():
    W = np.ones((2, 2))
    for other in (end_to_end([W]), *balanced_layers(W, 1), *layer_gradients([W], W)):
        other[:] = 5.0
    np.testing.assert_array_equal(W, np.ones((2, 2)))


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


def test_refuses_bad_seeds_and_depths_beyond_a_float():
    for bad, error in (("a", TypeError), (-1, ValueError), (True, TypeError), (1.5, ValueError)):
        with pytest.raises(error, match="^rng must be"):
            random_layers([2, 3], rng=bad)
    with pytest.raises(ValueError, match="^depth must be"):
        balanced_layers(np.eye(2), 10**400)


def test_refuses_a_point_that_is_no_matrix_and_a_gradient_that_is_not_finite():
    with pytest.raises(ValueError, match="^W must be a matrix"):
        balanced_layers(np.ones(2), 3)
    with pytest.raises(ValueError, match="^euclidean_gradient must be finite"):
        layer_gradients([np.eye(2)], np.full((2, 2), np.nan))
