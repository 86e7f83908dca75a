import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from riemdln.kernels import divided_difference, numerical_divided_difference, theta

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


@given(singular_values, singular_values, depths)
def test_equals_the_definition_in_high_precision(s, t, depth):
    value = theta(np.float64(s), np.float64(t), depth)
    assert relative_error(value, exact_theta(s, t, depth)) < 1e-13


@given(singular_values, st.floats(-1e-6, 1e-6), depths)
def test_loses_nothing_where_singular_values_cluster(s, gap, depth):
    t = s * (1 + gap)
    value = theta(np.float64(s), np.float64(t), depth)
    assert relative_error(value, exact_theta(s, t, depth)) < 1e-13


@pytest.mark.parametrize("depth", [1, 2, 3, 2.5, 64, 1e10, math.inf])
def test_at_the_ends_of_the_floating_point_range(depth):
    s, t = 1e-300, 1e100
    assert relative_error(theta(np.float64(s), np.float64(t), depth), exact_theta(s, t, depth)) < (
        1e-13
    )


@pytest.mark.parametrize("depth", [2, 3, 2.5, 64])
def test_limits_at_zero(depth):
    s = np.array([0.5, 3.0])
    np.testing.assert_allclose(theta(s, 0 * s, depth), s ** (2 - 2 / depth), rtol=1e-15)
    np.testing.assert_allclose(theta(0 * s, s, depth), s ** (2 - 2 / depth), rtol=1e-15)
    assert theta(np.zeros(1), np.zeros(1), depth) == 0


def test_limits_at_zero_at_infinite_depth():
    s = np.array([0.0, 0.5, 3.0])
    np.testing.assert_array_equal(theta(s, 0 * s, math.inf), 0 * s)


def test_depth_one_is_one_everywhere():
    s = np.array([0.0, 1e-300, 0.3, 1.0, 1e200])
    np.testing.assert_allclose(theta(s[:, None], s, 1), np.ones((5, 5)), rtol=1e-15)


@given(singular_values, singular_values, st.integers(1, 12))
def test_equals_the_sum_over_layers(s, t, depth):
    layers = [
        s ** (2 * (depth - k) / depth) * t ** (2 * (k - 1) / depth) for k in range(1, depth + 1)
    ]
    np.testing.assert_allclose(theta(np.float64(s), np.float64(t), depth), sum(layers), rtol=1e-12)


def test_infinite_depth_is_the_limit_over_depth():
    s, t = np.array([0.2, 1.0, 3.0]), np.array([1.5, 1.0, 0.1])
    np.testing.assert_allclose(theta(s, t, 1e9) / 1e9, theta(s, t, math.inf), rtol=1e-7)


def test_keeps_single_precision():
    s = np.array([1.0, 2.0], dtype=np.float32)
    assert theta(s, s[::-1], 3).dtype == np.float32


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
        value = divided_difference(*(np.float64(x) for x in pair), np.float64(t), depth)
        assert relative_error(value, exact) < 1e-11


@pytest.mark.parametrize("depth", [1.5, 2, 3, 8, math.inf])
def test_divided_differences_from_zero(depth):
    s, t = np.array([1e-20, 1e-3, 1.0, 50.0]), 2.0
    values = divided_difference(s, np.zeros(4), t, depth)
    for value, a in zip(values, s, strict=True):
        with mpmath.workdps(400):
            at_zero = 0 if math.isinf(depth) else mpmath.mpf(t) ** (2 - 2 / mpmath.mpf(depth))
            exact = (exact_theta(a, t, depth) - at_zero) / mpmath.mpf(a) ** 2
        assert relative_error(value, exact) < 1e-13


def test_divided_differences_at_depth_one_are_zero():
    a, b = np.array([1.0, 2.0, 0.0]), np.array([1.0, 1.0, 1.0])
    np.testing.assert_allclose(divided_difference(a, b, 3.0, 1), np.zeros(3), atol=1e-15)


def test_numerical_divided_differences_of_a_known_kernel():
    difference = numerical_divided_difference(lambda s, t: s**3 + t)
    a, b = np.array([1.0, 1.0, 2.0, 0.1]), np.array([1.0, 1 + 1e-6, 0.5, 0.1])
    expected = (a**2 + a * b + b**2) / (a + b)
    np.testing.assert_allclose(difference(a, b, np.float64(1.0)), expected, rtol=1e-9)


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
    with pytest.raises(error, match="depth must be"):
        theta(np.ones(1), np.ones(1), depth)
