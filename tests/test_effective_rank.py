import array_api_strict
import mpmath
import numpy as np
import pytest
from scipy.stats import entropy

import riemdln


@pytest.mark.parametrize("count", [1, 2, 5])
def test_equal_singular_values_count_one_each(count):
    s = np.zeros(7)
    s[:count] = 0.3
    assert riemdln.effective_rank(s) == pytest.approx(count, rel=1e-14)


def test_it_is_the_exponential_of_the_entropy_of_the_shares(rng):
    s = rng.random((4, 3, 6))
    np.testing.assert_allclose(
        riemdln.effective_rank(s), np.exp(entropy(s, axis=-1)), rtol=1e-13, strict=True
    )


@pytest.mark.parametrize("scale", [1e-300, 1e-3, 1e300])
def test_small_shares_and_scales_keep_their_digits(scale):
    # Of the shares 1 - e and e the entropy is about e (1 + ln(1 / e)), which no rounding may eat.
    tiny = 1e-9
    with mpmath.workdps(40):
        shares = [1 / (1 + mpmath.mpf(tiny)), mpmath.mpf(tiny) / (1 + mpmath.mpf(tiny))]
        exact = mpmath.exp(-sum(p * mpmath.log(p) for p in shares)) - 1
    assert riemdln.effective_rank([scale, tiny * scale]) - 1 == pytest.approx(
        float(exact), rel=1e-6
    )


def test_many_large_ones_do_not_overflow():
    assert riemdln.effective_rank(np.full(5, 1e308)) == pytest.approx(5, rel=1e-14)
    assert riemdln.effective_rank(np.full(5, 5e-324)) == pytest.approx(5, rel=1e-14)


def test_order_does_not_matter_and_zero_has_none():
    s = np.array([[1.0, 0.1, 0.0], [0.0, 1.0, 0.1], [0.0, 0.0, 0.0]])
    first, second, none = riemdln.effective_rank(s)
    assert first == pytest.approx(second, rel=1e-14)
    assert none == 0.0


def test_it_stays_in_the_library_and_precision_of_its_argument():
    s = array_api_strict.asarray([[2.0, 2.0, 0.0]], dtype=array_api_strict.float32)
    ranks = riemdln.effective_rank(s)
    assert ranks.dtype == array_api_strict.float32
    assert float(ranks[0]) == pytest.approx(2, rel=1e-6)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([1.0, -1e-3], ValueError, "nonnegative"),
        (3.0, ValueError, r"got shape \(\)"),
        (np.zeros((2, 0)), ValueError, r"got shape \(2, 0\)"),
        ([1.0, np.nan], ValueError, "finite"),
        (["a"], TypeError, "singular_values"),
    ],
)
def test_what_are_no_singular_values_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        riemdln.effective_rank(given)
