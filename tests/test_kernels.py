import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from riemdln.kernels import theta

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
