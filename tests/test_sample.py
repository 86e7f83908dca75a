import sys
import warnings
from dataclasses import FrozenInstanceError

import numpy as np
import pymanopt
import pytest
from pymanopt.manifolds import Sphere

from riemdln import (
    DeepLinearMetric,
    FixedRank,
    FlowError,
    FullRank,
    KroneckerMetric,
    PositiveDefinite,
    SpectralMetric,
    langevin_flow,
    sample,
)
from riemdln.kernels import DeepLinearKernel

STANDARD_ERRORS = 4.5


@pytest.fixture
def arviz():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ 0 announces ArviZ 1
        return pytest.importorskip("arviz", reason="ArviZ, which has diagnostics, is optional")


def problem_of(m, n, metric, cost=None, gradient=None):
    """Of E = |W|^2 / 2 unless another cost is given; on stacks of matrices."""
    manifold = FullRank(m, n, metric)
    cost = cost or (lambda W: np.sum(W**2, axis=(-2, -1)) / 2)
    return pymanopt.Problem(
        manifold,
        pymanopt.function.numpy(manifold)(cost),
        euclidean_gradient=pymanopt.function.numpy(manifold)(gradient or (lambda W: W)),
    )


def well(target):
    """E = |W - target|^2 / 2 and its gradient."""
    return lambda W: np.sum((W - target) ** 2, axis=(-2, -1)) / 2, lambda W: W - target


def draws(m, n, depth, beta=1.0, *, entropy=True, **options):
    """A sample that many chains, which are independent, make."""
    options = {"chains": 400, "warmup": 60, "thinning": 6, "rng": 0, "vectorized": True} | options
    return sample(problem_of(m, n, DeepLinearMetric(depth)), beta, 8, entropy=entropy, **options)


def deviation(values, expectation):
    """How many standard errors the mean of values (chains, count) is off."""
    means = values.mean(axis=1)
    return (means.mean() - expectation) / (means.std(ddof=1) / len(means) ** 0.5)


def kernel(s, t, depth):
    """A_W in the frame, equation (1), by fractional powers."""
    return sum(
        s ** (2 * (depth - k) / depth) * t ** (2 * (k - 1) / depth) for k in range(1, depth + 1)
    )


def assert_quantiles(values, nodes, weights):
    """Values (chains, count) have the law of the weights on increasing nodes."""
    law = np.cumsum(weights) / np.sum(weights)
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        k = np.searchsorted(law, share)
        assert abs(deviation(values <= nodes[k], law[k])) < STANDARD_ERRORS, share


@pytest.mark.parametrize(("depth", "step_size"), [(2, 0.3), (3, 0.2)])
def test_a_single_number_has_the_law_by_quadrature(depth, step_size):
    # exp(-beta w^2 / 2) |w|^{1/N - 1} dw, on nodes of |w|^{1/N}, where it has no singularity.
    result = draws(1, 1, depth, beta=1.5, step_size=step_size)
    roots = (np.arange(4000) + 0.5) * 2.2 / 4000
    assert_quantiles(
        np.abs(result.points[..., 0, 0]), roots**depth, np.exp(-0.75 * roots ** (2 * depth))
    )
    positive = result.points[..., 0, 0] > 0
    if depth == 2:
        assert positive.all()  # as the random starts are
    else:
        assert abs(deviation(positive, 0.5)) < STANDARD_ERRORS


@pytest.mark.parametrize("entropy", [True, False])
@pytest.mark.parametrize(("depth", "step_size"), [(2, 0.2), (3, 0.15)])
def test_singular_values_have_the_law_by_quadrature(depth, step_size, entropy):
    result = draws(2, 2, depth, entropy=entropy, step_size=step_size)
    # dW is |s_1^2 - s_2^2| ds; nodes of s^{1/N}, as above.
    roots = (np.arange(400) + 0.5) * 2.5 / 400
    s = roots**depth
    s1, s2 = s[:, None], s[None, :]
    volume = (kernel(s1, s1, depth) * kernel(s2, s2, depth)) ** -0.5 / kernel(s1, s2, depth)
    density = np.abs(s1**2 - s2**2) * np.exp(-(s1**2 + s2**2) / 2) * volume
    if entropy:
        density *= kernel(s1, s2, depth) ** 0.5
    weights = np.tril(density * (s1 * s2) ** (1 - 1 / depth))
    assert_quantiles(result.singular_values[..., 0], s, weights.sum(axis=1))
    assert_quantiles(result.singular_values[..., 1], s, weights.sum(axis=0))


def mean_square(m, n, depth, entropy):
    """beta E|W|^2 for E = |W|^2 / 2, since sqrt(det g) and exp(S) are homogeneous."""
    r, e = min(m, n), abs(m - n)
    if not entropy:
        return m * n / depth
    return m * n - (1 - 1 / depth) * (r * (r + 1) / 2 + e * r)


@pytest.mark.parametrize("entropy", [True, False])
@pytest.mark.parametrize(
    ("m", "n", "depth", "step_size"), [(2, 2, 2.5, 0.2), (3, 3, 2, 0.1), (1, 3, 3, 0.1)]
)
def test_mean_squares(m, n, depth, step_size, entropy):
    result = draws(m, n, depth, 2.0, entropy=entropy, step_size=step_size)
    assert abs(deviation(result.costs, mean_square(m, n, depth, entropy) / 4)) < STANDARD_ERRORS


@pytest.mark.parametrize("entropy", [True, False])
@pytest.mark.parametrize(("m", "n"), [(3, 2), (2, 4)])
def test_mean_squares_where_eulers_scheme_is_off(m, n, entropy):
    expectation = mean_square(m, n, 2, entropy) / 4
    result = draws(m, n, 2, 2.0, entropy=entropy, step_size=0.2)
    assert abs(deviation(result.costs, expectation)) < STANDARD_ERRORS
    flow = langevin_flow(
        problem_of(m, n, DeepLinearMetric(2)),
        result.points[:, -1],
        0.8 * np.arange(6),
        beta=2.0,
        step_size=0.2,
        scheme="euler",
        entropy=entropy,
        vectorized=True,
        rng=0,
    )
    assert deviation(flow.costs[1:].T, expectation) > 2 * STANDARD_ERRORS


@pytest.mark.parametrize("beyond", [np.inf, np.nan])
def test_a_barrier_is_kept(beyond):
    """E = -ln(1 - w^2), which has neither a value nor a gradient beyond one, where 5 E[w^2] = 1."""
    manifold = FullRank(1, 1, DeepLinearMetric(1))
    plain = pymanopt.function.numpy(manifold)

    def inside(value, W):
        return np.where(np.abs(W) < 1, value(np.clip(W, -0.999999, 0.999999)), beyond)

    problem = pymanopt.Problem(
        manifold,
        plain(lambda W: inside(lambda W: -np.log(1 - W**2), W)[..., 0, 0]),
        euclidean_gradient=plain(lambda W: inside(lambda W: 2 * W / (1 - W**2), W)),
    )
    start = np.full((200, 1, 1), 0.3)
    draws = sample(
        problem,
        1.0,
        50,
        chains=200,
        step_size=0.1,
        warmup=20,
        thinning=4,
        initial_point=start,
        vectorized=True,
        rng=0,
    )
    means = np.mean(draws.points**2, axis=(1, 2, 3))
    assert np.all(np.abs(draws.points) < 1)
    assert abs(np.mean(means) - 0.2) < 3 * np.std(means) / len(means) ** 0.5


def test_a_metric_of_constant_volume_has_the_law_of_gaussian_matrices():
    metric = KroneckerMetric(np.diag([1.0, 2.0]), np.diag([3.0, 1.0, 0.5]))
    result = sample(
        problem_of(2, 3, metric), 4.0, 10, entropy=False, chains=400, vectorized=True, rng=0,
        warmup=50, thinning=3,
    )  # fmt: skip
    for i in np.ndindex(2, 3):
        values = result.points[..., *i]
        assert abs(deviation(values, 0)) < STANDARD_ERRORS
        assert abs(deviation(values**2, 1 / 4)) < STANDARD_ERRORS


def test_a_metric_of_ones_own_has_its_law():
    # The same law as that of g^2 without the entropy, computed in entries of W and not of its root.
    problem = problem_of(2, 4, SpectralMetric(DeepLinearKernel(2)))
    result = sample(
        problem, 2.0, 8, entropy=False, chains=400, vectorized=True, rng=0,
        step_size=0.05, warmup=120, thinning=10,
    )  # fmt: skip
    assert abs(deviation(result.costs, mean_square(2, 4, 2, entropy=False) / 4)) < STANDARD_ERRORS


def test_an_infinite_cost_is_a_wall():
    """Matrices that are uniform in a ball, outside of which there is no gradient."""

    def is_inside(W):
        return np.sum(W**2, axis=(-2, -1)) < 1

    problem = problem_of(
        1,
        3,
        DeepLinearMetric(1),
        lambda W: np.where(is_inside(W), 0.0, np.inf),
        lambda W: np.where(is_inside(W)[..., None, None], 0.0, np.nan) * W,
    )
    result = sample(
        problem, 1.0, 8, chains=400, initial_point=[[0.1, 0.0, 0.0]], step_size=0.1,
        warmup=60, thinning=6, vectorized=True, rng=0,
    )  # fmt: skip
    assert abs(deviation(result.singular_values[..., 0] ** 2, 3 / 5)) < STANDARD_ERRORS


@pytest.mark.parametrize("stiffness", [1e-6, 1.0, 1e6])
def test_the_step_size_is_adapted_to_the_cost(stiffness):
    problem = problem_of(
        2,
        2,
        DeepLinearMetric(2),
        lambda W: stiffness * np.sum(W**2, axis=(-2, -1)) / 2,
        lambda W: stiffness * W,
    )
    result = sample(problem, 1.0, 50, chains=20, warmup=400, thinning=1, vectorized=True, rng=0)
    # W = stiffness^{-1/2} X brings all three to one, of which time goes as the size of W^{2/N}.
    assert 0.05 < result.step_size * stiffness**0.5 < 1.0
    assert 0.45 < result.acceptance_rates.mean() < 0.7
    assert result.acceptance_rates.shape == (20,)


def test_a_sample_belongs_together():
    result = draws(2, 3, 3, beta=2.0, step_size=0.1, chains=5)
    assert result.points.shape == (5, 8, 2, 3)
    s = np.linalg.svd(result.points, compute_uv=False)
    np.testing.assert_allclose(result.singular_values, s, atol=1e-12)
    np.testing.assert_allclose(result.costs, np.sum(s**2, axis=-1) / 2, rtol=1e-12)
    # S = ln(theta(s_1, s_2)) / 2, up to a constant.
    entropies = result.log_densities + 2 * result.costs
    expected = np.log(kernel(s[..., 0], s[..., 1], 3)) / 2
    np.testing.assert_allclose(entropies - entropies[0, 0], expected - expected[0, 0], atol=1e-9)
    assert np.all((result.accepted * 6) % 1 < 1e-9)  # shares of six steps
    assert result.step_size == 0.1
    assert result.nfev == 1 + 60 + 8 * 6
    assert repr(result).startswith("Sample(5 chains of 8 draws: all draws were made; acceptance ")


def test_a_sample_is_not_changed_by_mistake():
    drawn = draws(2, 1, 2, chains=2)
    with pytest.raises(FrozenInstanceError):
        drawn.points = -drawn.points


def test_the_same_seed_gives_the_same_sample():
    first, again, other = (
        sample(problem_of(2, 2, DeepLinearMetric(3)), 1.0, 3, warmup=20, rng=seed)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.points, again.points)
    assert first.step_size == again.step_size
    assert not np.any(first.points == other.points)


def test_a_sample_goes_on_where_another_has_ended():
    options = {"step_size": 0.1, "chains": 3, "thinning": 2, "vectorized": True}
    problem, rng = problem_of(2, 2, DeepLinearMetric(2)), np.random.default_rng(0)
    first = sample(problem, 1.0, 2, warmup=4, rng=rng, **options)
    start = first.points[:, -1]
    second = sample(problem, 1.0, 2, warmup=0, rng=rng, initial_point=start, **options)
    whole = sample(problem, 1.0, 4, warmup=4, rng=0, **options)
    np.testing.assert_allclose(
        np.concatenate([first.points, second.points], axis=1), whole.points, rtol=1e-9
    )


def test_one_start_serves_all_chains():
    start = np.array([[-2.0, 0.0], [0.0, 1.0]])
    result = draws(2, 2, 2, step_size=1e-12, initial_point=start, chains=3)
    np.testing.assert_allclose(result.points, np.broadcast_to(start, (3, 8, 2, 2)), atol=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("depth", [2, 2.5])
def test_determinants_keep_the_sign_of_the_start(depth, sign):
    start = np.diag([1.0, 0.1 * sign])
    result = draws(2, 2, depth, step_size=0.2, initial_point=start, chains=20)
    np.testing.assert_array_equal(np.sign(np.linalg.det(result.points)), sign)
    assert np.all(result.acceptance_rates > 0)


def test_an_interruption_keeps_what_was_drawn():
    calls = iter(range(10**9))

    def cost(W):
        if next(calls) == 30:
            raise KeyboardInterrupt
        return np.sum(W**2, axis=(-2, -1)) / 2

    options = {"chains": 3, "warmup": 10, "thinning": 2, "vectorized": True, "rng": 0}
    with pytest.raises(KeyboardInterrupt) as caught:
        sample(problem_of(2, 2, DeepLinearMetric(2), cost), 1.0, 100, **options)
    kept = caught.value.result
    assert 2 <= kept.costs.shape[1] < 10
    assert kept.message == "stopped by KeyboardInterrupt"
    assert "attribute 'result'" in caught.value.__notes__[0]
    whole = sample(problem_of(2, 2, DeepLinearMetric(2)), 1.0, 10, **options)
    np.testing.assert_array_equal(kept.points, whole.points[:, : kept.points.shape[1]])


def test_a_progress_bar_tells_of_draws_and_acceptance(capsys):
    draws(2, 2, 2, chains=2, progress=True)
    shown = capsys.readouterr().err
    assert "draw 8 of 8, acceptance 0." in shown
    draws(2, 2, 2, chains=2)
    assert capsys.readouterr().err == ""


def test_a_chain_that_rests_is_told_of():
    # The second chain starts so deep in a well that the others' steps lead it out.
    def cost(W):
        return np.log(np.sum(W**2, axis=(-2, -1))) * 20

    def gradient(W):
        return 40 * W / np.sum(W**2, axis=(-2, -1), keepdims=True)

    problem = problem_of(2, 4, DeepLinearMetric(1), cost, gradient)
    start = np.array([np.eye(2, 4) * 1e3, np.eye(2, 4) * 1e-3])
    result = sample(
        problem, 1.0, 5, chains=2, initial_point=start, step_size=0.1, warmup=0,
        vectorized=True, rng=0,
    )  # fmt: skip
    assert result.acceptance_rates[0] > 0
    assert result.message == "all draws were made; chains that never moved: [1]"


def test_arviz_tells_chains_that_mix_from_those_that_do_not(arviz):
    target = np.diag([2.0, 1.5])
    problem = problem_of(2, 2, DeepLinearMetric(2), *well(target))
    options = {"chains": 6, "warmup": 100, "thinning": 3, "vectorized": True, "rng": 0}
    good = sample(problem, 4.0, 100, initial_point=target, **options)
    assert good.r_hats["cost"] < 1.05
    assert good.r_hats["singular_values"].shape == (2,)
    assert np.all(good.r_hats["singular_values"] < 1.05)
    sizes = good.effective_sample_sizes
    assert 100 < sizes["cost"] < 1000
    assert np.all((sizes["singular_values"] > 100) & (sizes["singular_values"] < 1000))
    # At even depths noise does not lead from one sign of the determinant to the other.
    starts = np.stack([target, target @ np.diag([1.0, -1.0])] * 3)
    stuck = sample(problem, 4.0, 100, initial_point=starts, **options)
    assert stuck.r_hats["cost"] > 1.5
    assert stuck.r_hats["singular_values"][1] > 1.5
    assert stuck.effective_sample_sizes["cost"] < 50


def test_arviz_takes_a_sample(arviz):
    result = draws(2, 3, 2, chains=50)  # more than draws
    data = result.to_arviz()
    assert set(data["posterior"].data_vars) == {"W", "singular_values"}
    assert set(data["sample_stats"].data_vars) == {"lp", "cost", "acceptance_rate"}
    W = data["posterior"]["W"]
    assert W.dims == ("chain", "draw", "row", "column")
    np.testing.assert_array_equal(W.values, result.points)
    assert data["posterior"]["singular_values"].dims == ("chain", "draw", "index")
    for name, values in (
        ("lp", result.log_densities),
        ("cost", result.costs),
        ("acceptance_rate", result.accepted),
    ):
        assert data["sample_stats"][name].dims == ("chain", "draw")
        np.testing.assert_array_equal(data["sample_stats"][name].values, values)
    # Its own functions say of the container what the sample says.
    table = arviz.ess(data, var_names=["singular_values"])
    table = table.get("posterior", table)
    np.testing.assert_allclose(
        table["singular_values"].values, result.effective_sample_sizes["singular_values"]
    )


@pytest.mark.parametrize("ask", ["to_arviz", "r_hats", "effective_sample_sizes"])
def test_where_arviz_is_missing_the_error_says_how_to_install_it(ask, monkeypatch):
    result = draws(2, 2, 2, chains=2)
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match=r'pip install "riemdln\[sampling\]"'):
        _ = result.to_arviz() if ask == "to_arviz" else getattr(result, ask)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"beta": 0.0}, ValueError, "beta must be positive"),
        ({"beta": np.nan}, ValueError, "beta must be positive"),
        ({"count": 0}, ValueError, "count must be a whole number, at least 1, got 0"),
        ({"count": 2.5}, ValueError, "count must be a whole number"),
        ({"chains": 0}, ValueError, "chains must be a whole number"),
        ({"thinning": 0}, ValueError, "thinning must be a whole number"),
        ({"warmup": 0}, ValueError, "warmup must be a whole number, at least 1"),
        ({"warmup": -1, "step_size": 0.1}, ValueError, "warmup must be a whole number, at least 0"),
        ({"step_size": 0.0}, ValueError, "step_size must be positive"),
        ({"step_size": np.inf}, ValueError, "step_size must be positive and finite"),
        ({"rng": "seed"}, TypeError, "rng must be"),
        ({"initial_point": np.eye(3)}, ValueError, "initial_point must have shape"),
        ({"initial_point": np.ones(2)}, ValueError, "one for each of 4 chains, got shape"),
        ({"initial_point": np.ones((3, 2, 2))}, ValueError, "one for each of 4 chains, got shape"),
        ({"initial_point": np.full((2, 2), np.nan)}, ValueError, "initial_point must be finite"),
        ({"problem": 3}, TypeError, "problem must be"),
        ({"problem": Sphere(2, 2)}, ValueError, "problem must be on an open set of matrices"),
        (
            {"problem": FixedRank(3, 3, 2, DeepLinearMetric(2))},
            ValueError,
            "problem must be on an open set of matrices",
        ),
        (
            {"problem": PositiveDefinite(2, DeepLinearMetric(2))},
            ValueError,
            "problem must be on an open set of matrices",
        ),
        (
            {"problem": FullRank(2, 2, KroneckerMetric(np.eye(2), np.eye(2)))},
            ValueError,
            "entropy must be False",
        ),
    ],
)
def test_wrong_arguments_are_refused(changed, error, message):
    arguments = {"problem": problem_of(2, 2, DeepLinearMetric(2)), "beta": 1.0, "count": 2}
    with pytest.raises(error, match=message):
        sample(**arguments | changed)


def test_a_step_size_at_which_nothing_is_accepted_is_an_error():
    with pytest.raises(FlowError, match="none of 100 steps was accepted: step_size must be less"):
        draws(3, 3, 3, step_size=1e9, chains=2)


def test_a_density_that_is_not_finite_at_the_start_is_an_error():
    problem = problem_of(2, 2, DeepLinearMetric(2), lambda W: np.full(len(W), np.nan))
    with pytest.raises(FlowError, match="the density must be finite where the chains start"):
        sample(problem, 1.0, 2, vectorized=True)


def test_a_manifold_stands_for_no_cost():
    result = sample(FullRank(2, 2, DeepLinearMetric(2)), 1.0, 2, warmup=0, step_size=0.1, rng=0)
    np.testing.assert_array_equal(result.costs, 0)
    assert result.nfev == 0


def test_chains_that_start_where_the_cost_is_steep_come_in():
    """E = w^2 / 2 + w^4 / 10, whose drift leaps to the other side and farther without a cut."""
    manifold = FullRank(1, 1, DeepLinearMetric(3))
    plain = pymanopt.function.numpy(manifold)
    problem = pymanopt.Problem(
        manifold,
        plain(lambda W: (W**2 / 2 + W**4 / 10)[..., 0, 0]),
        euclidean_gradient=plain(lambda W: W + 0.4 * W**3),
    )
    start = np.linspace(2.0, 6.0, 50)[:, None, None]
    result = sample(
        problem,
        1.5,
        20,
        chains=50,
        step_size=0.3,
        warmup=200,
        initial_point=start,
        vectorized=True,
        rng=0,
    )
    assert np.all(result.acceptance_rates > 0)
    assert result.points.max() < 5.0
