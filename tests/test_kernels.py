"""Kernels: values and divided differences against high precision, and how kernels combine."""

import math
import pickle

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from riemdln import DeepLinearMetric, SpectralMetric
from riemdln.kernels import DeepLinearKernel, FunctionKernel, Kernel, as_kernel

singular_values = st.floats(1e-100, 1e100)
depths = st.floats(1.0, 1e6) | st.sampled_from([1.0, 2.0, 2.5, 3.0, 64.0, math.inf])


def exact_theta(s, t, depth):
    """Equation (3) in high precision."""
    with mpmath.workdps(400):
        s, t = mpmath.mpf(s), mpmath.mpf(t)
        if math.isinf(depth):
            return s**2 if s == t else (s**2 - t**2) / (2 * mpmath.log(s / t))
        N = mpmath.mpf(depth)
        if s == t:
            return N * s ** (2 - 2 / N)
        return (s**2 - t**2) / (s ** (2 / N) - t ** (2 / N))


def relative_error(value, exact):
    return float(abs(mpmath.mpf(float(value)) - exact) / exact)


@pytest.mark.parametrize("depth", [1.5, 2, 2.5, 3, 64, math.inf])
@pytest.mark.parametrize("ratio", [1e-30, 1e-4, 0.5, 0.9, 0.91, 0.999, 1.001, 1.1, 3.0, 1e8, 1e30])
def test_second_derivatives_of_the_logarithm(ratio, depth):
    s, t = 0.7 * ratio, 0.7
    actual = DeepLinearKernel(depth).second_log_derivatives(np.float64(s), np.float64(t))
    with mpmath.workdps(250):
        h = mpmath.mpf(10) ** -40

        def logarithm(a, b):
            return mpmath.log(exact_theta(s * (1 + a * h), t * (1 + b * h), depth))

        pure = (logarithm(1, 0) - 2 * logarithm(0, 0) + logarithm(-1, 0)) / h**2
        corners = [(a, b) for a in (1, -1) for b in (1, -1)]
        mixed = sum(a * b * logarithm(a, b) for a, b in corners) / (4 * h**2)
    assert abs(relative_error(actual[0], pure)) < 1e-12
    assert abs(relative_error(actual[1], mixed)) < 1e-12


@given(singular_values, singular_values, depths)
def test_equals_the_definition_in_high_precision(s, t, depth):
    value = DeepLinearKernel(depth)(np.float64(s), np.float64(t))
    assert relative_error(value, exact_theta(s, t, depth)) < 1e-13


@given(singular_values, st.floats(-1e-6, 1e-6), depths)
def test_loses_nothing_where_singular_values_cluster(s, gap, depth):
    t = s * (1 + gap)
    value = DeepLinearKernel(depth)(np.float64(s), np.float64(t))
    assert relative_error(value, exact_theta(s, t, depth)) < 1e-13


@pytest.mark.parametrize("depth", [1, 2, 3, 2.5, 64, 1e10, math.inf])
def test_at_the_ends_of_the_floating_point_range(depth):
    s, t = 1e-300, 1e100
    value = DeepLinearKernel(depth)(np.float64(s), np.float64(t))
    assert relative_error(value, exact_theta(s, t, depth)) < 1e-13


@pytest.mark.parametrize("depth", [2, 3, 2.5, 64])
def test_limits_at_zero(depth):
    kernel, s = DeepLinearKernel(depth), np.array([0.5, 3.0])
    np.testing.assert_allclose(kernel(s, 0 * s), s ** (2 - 2 / depth), rtol=1e-15)
    np.testing.assert_allclose(kernel(0 * s, s), s ** (2 - 2 / depth), rtol=1e-15)
    assert kernel(np.zeros(1), np.zeros(1)) == 0


def test_limits_at_zero_at_infinite_depth():
    kernel, s = DeepLinearKernel(math.inf), np.array([0.0, 0.5, 3.0, 1e200])
    np.testing.assert_array_equal(kernel(s, 0 * s), 0 * s)
    np.testing.assert_array_equal(kernel(0 * s, s), 0 * s)


def test_depth_one_is_one_everywhere():
    s = np.array([0.0, 1e-300, 0.3, 1.0, 1e200])
    np.testing.assert_allclose(DeepLinearKernel(1)(s[:, None], s), np.ones((5, 5)), rtol=1e-15)


@given(singular_values, singular_values, st.integers(1, 12))
def test_equals_the_sum_over_layers(s, t, depth):
    layers = [
        s ** (2 * (depth - k) / depth) * t ** (2 * (k - 1) / depth) for k in range(1, depth + 1)
    ]
    np.testing.assert_allclose(
        DeepLinearKernel(depth)(np.float64(s), np.float64(t)), sum(layers), rtol=1e-12
    )


def test_infinite_depth_is_the_limit_over_depth():
    s, t = np.array([0.2, 1.0, 3.0]), np.array([1.5, 1.0, 0.1])
    limit = DeepLinearKernel(math.inf)(s, t)
    np.testing.assert_allclose(DeepLinearKernel(1e9)(s, t) / 1e9, limit, rtol=1e-7)


def test_keeps_single_precision():
    s = np.array([1.0, 2.0], dtype=np.float32)
    assert DeepLinearKernel(3)(s, s[::-1]).dtype == np.float32


def exact_difference(a, b, t, depth):
    """The first divided difference in the squares, in high precision."""
    with mpmath.workdps(400):
        a, b = mpmath.mpf(a), mpmath.mpf(b)
        if a == b:
            b = a * (1 + mpmath.mpf(10) ** -150)
        return (exact_theta(a, t, depth) - exact_theta(b, t, depth)) / (a**2 - b**2)


scales = st.floats(1e-30, 1e30)
gaps = st.floats(1e-12, 10) | st.just(0.0)


@given(scales, gaps, st.floats(1e-8, 1e8) | st.just(1.0), depths.filter(lambda depth: depth > 1.01))
def test_divided_differences_in_high_precision(b, gap, ratio, depth):
    a, t = b * (1 + gap), b * ratio
    exact = exact_difference(a, b, t, depth)
    for pair in ((a, b), (b, a)):
        value = DeepLinearKernel(depth).divided_difference(*map(np.float64, (*pair, t)))
        assert relative_error(value, exact) < 1e-11


@pytest.mark.parametrize("depth", [1.5, 3, 64, math.inf])
@pytest.mark.parametrize("ratio", [1 / 1.02, 1.02, 1.2, 3.0])
def test_derivatives_keep_their_digits_near_the_second_argument(ratio, depth):
    one, t = np.float64(1.0), np.float64(ratio)
    value = DeepLinearKernel(depth).divided_difference(one, one, t)
    assert relative_error(value, exact_difference(one, one, t, depth)) < 1e-13


@pytest.mark.parametrize("depth", [1.5, 2, 3, 8, math.inf])
def test_divided_differences_from_zero(depth):
    s, t = np.array([1e-20, 1e-3, 1.0, 50.0]), 2.0
    values = DeepLinearKernel(depth).divided_difference(s, np.zeros(4), t)
    for value, a in zip(values, s, strict=True):
        with mpmath.workdps(400):
            at_zero = 0 if math.isinf(depth) else mpmath.mpf(t) ** (2 - 2 / mpmath.mpf(depth))
            exact = (exact_theta(a, t, depth) - at_zero) / mpmath.mpf(a) ** 2
        assert relative_error(value, exact) < 1e-13


def test_divided_differences_at_depth_one_are_zero():
    a, b = np.array([1.0, 2.0, 0.0]), np.array([1.0, 1.0, 0.0])
    np.testing.assert_array_equal(DeepLinearKernel(1).divided_difference(a, b, 3.0), np.zeros(3))


def cubic(s, t):
    return s**3 + t


def cubic_difference(a, b, t):
    return (a**2 + a * b + b**2) / (a + b)


def linear_difference(a, b, t):
    return 1 / (a + b)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_numerical_divided_differences_of_a_known_kernel(scale):
    a, b = np.array([1.0, 1.0, 2.0, 0.1]), np.array([1.0, 1 + 1e-6, 0.5, 0.1])
    a, b, t = scale * a, scale * b, np.float64(0.0)
    difference = FunctionKernel(cubic).divided_difference(a, b, t)
    np.testing.assert_allclose(difference, cubic_difference(a, b, t), rtol=1e-9)


@pytest.mark.parametrize("gap", [0.0, 1e-9, 1e-7, 1e-5, 1e-3, 0.1, 2.0])
def test_numerical_divided_differences_at_every_distance(gap):
    # s + t has the divided difference 1 / (a + b), of which t takes no digits but its share.
    a, b = np.float64(1 + gap), np.float64(1.0)
    value = FunctionKernel(lambda s, t: s + t).divided_difference(a, b, np.float64(0.5))
    assert value == pytest.approx(1 / (a + b), rel=2e-9)


def test_numerical_divided_differences_know_each_point_of_a_stack_alone():
    a, t = np.array([1e8, 1.0]), np.array([1e8, 1.0])
    kernel = FunctionKernel(lambda s, t: s + t)
    np.testing.assert_allclose(kernel.divided_difference(a, a, t) * 2 * a, [1, 1], rtol=1e-9)


def test_a_difference_in_the_rounding_errors_of_theta_is_zero():
    kernel, tiny = FunctionKernel(lambda s, t: 1.0 + s + t), np.array([1e-20, 3e-20])
    np.testing.assert_array_equal(kernel.divided_difference(tiny, tiny[::-1], 1.0), [0, 0])
    np.testing.assert_array_equal(kernel.divided_difference(tiny, tiny, 1.0), [0, 0])


def test_differences_that_are_given_are_used():
    differences = {"divided_difference": linear_difference, "transposed_difference": lambda *_: 7.0}
    kernel = FunctionKernel(lambda s, t: s - t, **differences)
    a, b, t = np.array([1.0, 2.0]), np.array([3.0, 2.0]), np.array([5.0, 5.0])
    np.testing.assert_array_equal(kernel.divided_difference(a, b, t), 1 / (a + b))
    # Of the transpose the other one, as an array though it gives a number.
    np.testing.assert_array_equal(kernel.transpose.divided_difference(a, b, t), [7.0, 7.0])
    np.testing.assert_array_equal(kernel.transpose(a, b), b - a)
    np.testing.assert_array_equal(kernel.transpose.transpose(a, b), a - b)


class Squares(Kernel):
    """theta = s^2 + 3 t^2 with no more than its values."""

    def __call__(self, s, t):
        return s**2 + 3 * t**2

    def __repr__(self):
        return "Squares()"


def test_a_kernel_of_ones_own_has_differences_and_a_transpose():
    a, b, t = np.array([1.0, 2.0, 1.0]), np.array([3.0, 2.0, 0.0]), np.float64(1.5)
    kernel = Squares()
    np.testing.assert_allclose(kernel.divided_difference(a, b, t), np.ones(3), rtol=1e-9)
    np.testing.assert_allclose(kernel.transpose.divided_difference(a, b, t), 3 * np.ones(3))
    np.testing.assert_array_equal(kernel.transpose(a, b), 3 * a**2 + b**2)
    assert kernel.transpose.transpose is kernel
    assert repr(kernel.transpose) == "the transpose of Squares()"


def test_symmetric_kernels_are_their_own_transposes():
    for kernel in (
        DeepLinearKernel(3),
        as_kernel("kernel", 2.0),
        FunctionKernel(lambda s, t: s * t, symmetric=True),
        DeepLinearKernel(3) + 2 * DeepLinearKernel(2),
    ):
        assert kernel.transpose is kernel
    assert (DeepLinearKernel(2) + Squares()).transpose(2.0, 1.0) == 3 + 12 + 1


@pytest.mark.parametrize(
    ("combined", "terms"),
    [
        (DeepLinearKernel(2) + DeepLinearKernel(3), [(1, 2), (1, 3)]),
        (0.5 * (DeepLinearKernel(2) + 4 * DeepLinearKernel(3)), [(0.5, 2), (2, 3)]),
        (DeepLinearKernel(2) * np.float64(3), [(3, 2)]),
        (sum([DeepLinearKernel(2), DeepLinearKernel(2)]), [(1, 2), (1, 2)]),
    ],
)
def test_sums_and_multiples_are_those_of_values_and_differences(combined, terms):
    s, t, u = np.array([0.5, 1.0, 2.0]), np.array([0.5, 3.0, 0.0]), 1.2
    expected = sum(weight * DeepLinearKernel(depth)(s, t) for weight, depth in terms)
    np.testing.assert_allclose(combined(s, t), expected, rtol=1e-15)
    expected = sum(w * DeepLinearKernel(d).divided_difference(s, t, u) for w, d in terms)
    np.testing.assert_allclose(combined.divided_difference(s, t, u), expected, rtol=1e-15)
    assert combined.constant is None


def test_functions_and_numbers_add_to_kernels():
    kernel = 0.25 + DeepLinearKernel(2) + (lambda s, t: s * t)
    s, t = np.array([1.0, 2.0]), np.array([3.0, 2.0])
    np.testing.assert_allclose(kernel(s, t), 0.25 + s + t + s * t, rtol=1e-15)
    assert not kernel.is_pure
    assert (DeepLinearKernel(2) + 1).is_pure


def test_kernels_know_where_they_are_constant():
    assert as_kernel("kernel", 2).constant == 2
    assert (3 * as_kernel("kernel", 2) + DeepLinearKernel(1)).constant == 7
    assert DeepLinearKernel(1).constant == 1
    assert DeepLinearKernel(1 + 1e-9).constant is None
    kernel, s, t = as_kernel("kernel", 2), np.zeros((2, 1)), np.zeros(3, np.float32)
    np.testing.assert_array_equal(kernel(s, t), np.full((2, 3), 2.0))
    np.testing.assert_array_equal(kernel.divided_difference(s, s, t), np.zeros((2, 3)))


def test_functions_fill_what_they_ignore_and_keep_the_precision():
    kernel = FunctionKernel(lambda s, t: s)
    s, t = np.array([[1.0], [2.0]], np.float32), np.zeros((1, 3), np.float32)
    assert kernel(s, t).dtype == np.float32
    np.testing.assert_array_equal(kernel(s, t), [[1.0] * 3, [2.0] * 3])


def test_reprs_say_what_a_kernel_is():
    kernel = 0.5 * DeepLinearKernel(2) + DeepLinearKernel(math.inf) + 3.0
    assert repr(kernel) == "0.5 * DeepLinearKernel(2) + DeepLinearKernel(inf) + 3"
    assert repr(FunctionKernel(cubic)) == "cubic"
    assert repr(FunctionKernel(cubic).transpose) == "the transpose of cubic"
    assert repr(DeepLinearKernel(2.5)) == "DeepLinearKernel(2.5)"
    assert repr(SpectralMetric(kernel)) == f"SpectralMetric({kernel!r})"


@pytest.mark.parametrize(
    "kernel",
    [
        DeepLinearKernel(2.5),
        as_kernel("kernel", 2.0),
        FunctionKernel(cubic, cubic_difference),
        FunctionKernel(cubic).transpose,
        Squares().transpose,
        2 * DeepLinearKernel(3) + cubic,
    ],
)
def test_kernels_are_pickled_where_their_functions_can_be(kernel):
    a, b, t = np.array([0.5, 2.0]), np.array([0.5, 1.0]), np.array([1.0, 3.0])
    copied = pickle.loads(pickle.dumps(kernel))
    np.testing.assert_array_equal(copied(a, t), kernel(a, t))
    np.testing.assert_array_equal(
        copied.divided_difference(a, b, t), kernel.divided_difference(a, b, t)
    )
    assert repr(copied) == repr(kernel)


@pytest.mark.parametrize(
    ("depth", "error"),
    [
        (0.5, ValueError),
        (-1, ValueError),
        (math.nan, ValueError),
        ("3", TypeError),
        (True, TypeError),
        (None, TypeError),
        (3 + 0j, TypeError),
    ],
)
def test_refuses_what_is_no_depth(depth, error):
    with pytest.raises(error, match="^depth must be"):
        DeepLinearKernel(depth)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ("s + t", TypeError, "^kernel must be a kernel, a function of two .* got 's \\+ t'"),
        (None, TypeError, "^kernel must be a kernel, a function .* got None"),
        (True, TypeError, "^kernel must be a kernel, a function .* got True"),
        (-1.0, ValueError, "^a constant kernel must be nonnegative and finite, got -1.0"),
        (math.inf, ValueError, "^a constant kernel must be nonnegative and finite, got inf"),
    ],
)
def test_refuses_what_is_no_kernel(bad, error, message):
    with pytest.raises(error, match=message):
        as_kernel("kernel", bad)
    with pytest.raises(error, match=message.replace("kernel must be a k", ".* must be a k")):
        DeepLinearKernel(2) + bad


@pytest.mark.parametrize(
    ("factor", "error"),
    [(0, ValueError), (-2.0, ValueError), (math.inf, ValueError), ("2", TypeError)],
)
def test_refuses_what_is_no_factor(factor, error):
    with pytest.raises(error, match="^a factor of a kernel must be"):
        factor * DeepLinearKernel(2)
    with pytest.raises(error, match="^a factor of a kernel must be"):
        DeepLinearKernel(2) * factor


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((3.0,), "function"),
        ((cubic, 3), "divided_difference"),
        ((cubic, cubic_difference, "x"), "transposed_difference"),
    ],
)
def test_refuses_differences_that_are_no_functions(arguments, name):
    with pytest.raises(TypeError, match=f"^{name} must be a function of singular values, got"):
        FunctionKernel(*arguments)


def test_metrics_of_sums_are_sums_of_metrics():
    rng = np.random.default_rng(0)
    W, P = rng.standard_normal((2, 3, 4))
    metric = SpectralMetric(DeepLinearMetric(2).kernel + 0.5 * DeepLinearMetric(3).kernel + 0.1)
    expected = DeepLinearMetric(2).sharp(W, P) + 0.5 * DeepLinearMetric(3).sharp(W, P) + 0.1 * P
    np.testing.assert_allclose(metric.sharp(W, P), expected, rtol=1e-12)
