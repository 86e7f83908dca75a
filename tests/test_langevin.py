"""Noise: the laws of Brownian motion and of equilibrium, orders, and how a run ends."""

import math

import numpy as np
import pymanopt
import pytest
from scipy.linalg import expm
from scipy.stats import ks_2samp

from riemdln import (
    DeepLinearMetric,
    FixedRank,
    FlowError,
    FullRank,
    KroneckerMetric,
    LangevinFlow,
    PositiveDefinite,
    SpectralMetric,
    free_energy,
    gradient_flow,
    langevin_flow,
    load_flow,
    network_langevin_flow,
)
from riemdln.flows._problem import Asked
from riemdln.flows._schemes import SCHEMES, Equation
from riemdln.metrics._diffusion import RootDiffusion


def problem_on(manifold, loss, gradient):
    return pymanopt.Problem(
        manifold,
        pymanopt.function.numpy(manifold)(loss),
        euclidean_gradient=pymanopt.function.numpy(manifold)(gradient),
    )


def quadratic(manifold):
    """E = |W|^2 / 2, of one matrix or of a stack."""
    return problem_on(manifold, lambda W: np.sum(W**2, axis=(-2, -1)) / 2, lambda W: W)


def rectangular_diagonal(m, n, values):
    D = np.zeros((m, n))
    D[range(len(values)), range(len(values))] = values
    return D


def gaussian_law(W, depth, time, copies, seed):
    """Singular values of diag(N^{1/2} s^{1/N}) + B_t: the law of N^{1/2} s^{1/N} at time t."""
    s = np.linalg.svd(W, compute_uv=False)
    D = rectangular_diagonal(*W.shape, np.sqrt(depth) * s ** (1 / depth))
    noise = np.random.default_rng(seed).standard_normal((copies, *W.shape))
    return np.linalg.svd(D + np.sqrt(time) * noise, compute_uv=False)


def brownian(W, depth, time, *, copies, steps, scheme="splitting", seed=0):
    """The singular values' N^{1/2} s^{1/N} of Brownian motion at a time."""
    flow = langevin_flow(
        FullRank(*W.shape, DeepLinearMetric(depth)),
        np.tile(W, (copies, 1, 1)),
        [0.0, time],
        beta=2.0,
        entropy=False,
        step_size=time / steps,
        scheme=scheme,
        rng=seed,
    )
    return np.sqrt(depth) * flow.singular_values[-1] ** (1 / depth)


@pytest.mark.parametrize("depth", [1, 2, 2.5, 3])
@pytest.mark.parametrize(("m", "n"), [(2, 2), (2, 4), (4, 3)])
def test_brownian_motion_has_the_singular_values_of_a_gaussian_matrix(m, n, depth):
    """In steps however large; square matrices go through determinant zero, as often as not."""
    W = rectangular_diagonal(m, n, [1.5, 0.7, 0.4][: min(m, n)])
    time = 1.0 if m == n else 0.2
    measured = brownian(W, depth, time, copies=2000, steps=2)
    for values, exact in zip(
        measured.T, gaussian_law(W, depth, time, 20_000, seed=1).T, strict=True
    ):
        assert ks_2samp(values, exact).pvalue > 1e-3


def test_the_logarithms_of_singular_values_move_as_dyson_has_it_at_infinite_depth():
    """d ln s_i = dB_i + sum_{j != i} dt / (2 ln(s_i / s_j)), the motion of GOE's eigenvalues."""
    copies, time, steps = 2000, 0.1, 4
    start = np.array([1.0, 0.4])
    flow = langevin_flow(
        FullRank(2, 2, DeepLinearMetric(math.inf)),
        np.tile(np.diag(start), (copies, 1, 1)),
        [0.0, time],
        beta=2.0,
        entropy=False,
        step_size=time / steps,
        scheme="splitting",
        rng=0,
    )
    # Those of a symmetric matrix of Brownian motions, half as fast beside the diagonal.
    noise = np.random.default_rng(1).standard_normal((20_000, 2, 2))
    exact = np.linalg.eigvalsh(np.diag(np.log(start)) + math.sqrt(time) * (noise + noise.mT) / 2)
    for values, law in zip(np.log(flow.singular_values[-1, :, ::-1]).T, exact.T, strict=True):
        assert ks_2samp(values, law).pvalue > 1e-3


class Nodes:
    """Gauss-Hermite nodes in the place of random numbers: expectations without noise.

    Each of its draws is a matrix with nodes where a mask has ones, and zeros elsewhere.
    """

    def __init__(self, masks, count):
        nodes, weights = np.polynomial.hermite_e.hermegauss(count)
        places = np.indices((count,) * sum(mask.sum() for mask in masks))
        places = places.reshape(len(places), -1)
        self.weights = np.prod((weights / weights.sum())[places], axis=0)
        each = iter(nodes[places])
        self._draws = []
        for mask in masks:
            draw = np.zeros((len(self.weights), *mask.shape))
            for place in np.argwhere(mask):
                draw[(slice(None), *place)] = next(each)
            self._draws.append(draw)

    def standard_normal(self, shape):
        draw = self._draws.pop(0)
        assert draw.shape == shape
        return draw


def all_of(m, n):
    return np.ones((m, n), dtype=int)


def means_after(scheme, equation, W, size, masks, count, functions, steps=1):
    """The means of functions of states after steps of a size."""
    nodes = Nodes(masks * steps, count)
    moving = SCHEMES[scheme](equation, np.tile(W, (len(nodes.weights), 1, 1)), nodes)
    for _ in range(steps):
        moving.step(size)
    return np.array([nodes.weights @ function(moving.states) for function in functions])


def slope(sizes, errors):
    return np.polyfit(np.log(sizes), np.log(errors), 1)[0]


def brownian_moments(R, time):
    """The means of |R + B_t|^2 and of its square, B_t a Brownian matrix like R."""
    square = np.sum(R**2)
    mean = square + R.size * time
    return np.array([mean, mean**2 + 2 * R.size * time**2 + 4 * square * time])


@pytest.mark.parametrize(("m", "n", "count"), [(1, 2, 8), (2, 2, 3)], ids=["1x2", "2x2"])
@pytest.mark.parametrize(
    ("states", "scheme", "draws", "order"),
    [("roots", "euler", 1, 1), ("entries", "euler", 1, 1), ("entries", "splitting", 2, 2)],
)
@pytest.mark.parametrize("depth", [2, 3, 2.5])
def test_a_step_of_noise_errs_as_the_weak_order_says(
    m, n, count, scheme, draws, order, depth, states
):
    """By quadrature over the noise: a scheme of weak order p errs by h^{p+1} in one step."""
    metric = DeepLinearMetric(depth)
    if states == "entries":
        metric = SpectralMetric(metric.kernel)
    equation = Equation(metric, beta=2.0, entropy=False, asked=None)
    W = rectangular_diagonal(m, n, [1.5, 0.7][:m])
    R = np.sqrt(depth) * np.abs(W) ** (1 / depth)

    def square(state):
        s = np.linalg.svd(state, compute_uv=False)
        return np.sum(s**2 if states == "roots" else depth * s ** (2 / depth), axis=-1)

    sizes = np.array([0.02, 0.01, 0.005])
    functions = square, lambda state: square(state) ** 2
    masks = [all_of(m, n)] * draws
    errors = [
        np.abs(
            means_after(scheme, equation, W, size, masks, count, functions)
            - brownian_moments(R, size)
        ).max()
        for size in sizes
    ]
    assert slope(sizes, errors) > order + 0.7


@pytest.mark.parametrize("depth", [2, 3, 2.5])
def test_turns_out_of_the_row_space_have_weak_order_two(depth):
    """1 x 2, where g^N is a cone: rho^k cos(phi) is harmonic for k = N^{1/2}, so its mean stays."""
    equation = Equation(DeepLinearMetric(depth), beta=2.0, entropy=False, asked=None)
    W = np.array([[1.5, 0.0]])

    def harmonic(R):
        rho = np.linalg.norm(R, axis=(-2, -1))
        return rho ** (np.sqrt(depth) - 1) * R[:, 0, 0]

    masks = [all_of(1, 2), *[np.array([[0], [1]]), np.zeros((2, 1), dtype=int)] * 2, all_of(1, 2)]
    sizes = np.array([0.1, 0.05, 0.025])
    exact = (np.sqrt(depth) * 1.5 ** (1 / depth)) ** np.sqrt(depth)
    errors = [
        abs(means_after("splitting", equation, W, size, masks, 6, [harmonic])[0] - exact)
        for size in sizes
    ]
    assert slope(sizes, errors) > 2.8


@pytest.mark.parametrize("depth", [2, 3, 2.5])
def test_turns_of_pairs_have_weak_order_two(depth):
    """2 x 2: the mean of U diag(rho) V^T by the exponential of the generator on such matrices."""
    rho, sizes = np.array([1.9, 1.1]), np.array([0.08, 0.04, 0.02])
    tau = math.log(rho[0] / rho[1])
    a = depth * math.tanh(tau / 2) / math.tanh(depth * tau / 2)
    p = 2 * (a - 1) / (rho[0] - rho[1]) ** 2
    q = 2 * (depth**2 / a - 1) / (rho[0] + rho[1]) ** 2
    generator = np.array([[-(p + q), p - q], [p - q, -(p + q)]]) / 4
    upper = np.array([[0, 1], [0, 0]])
    errors = []
    for size in sizes:
        nodes = Nodes([upper] * 4, 8)
        states = np.tile(np.diag(rho), (len(nodes.weights), 1, 1))
        turned = RootDiffusion(depth)._turned(states, size, nodes)
        np.testing.assert_allclose(
            np.linalg.svd(turned, compute_uv=False), np.tile(rho, (len(states), 1)), rtol=1e-12
        )
        mean = np.tensordot(nodes.weights, turned, axes=1)
        errors.append(np.abs(mean - np.diag(expm(size * generator) @ rho)).max())
    assert slope(sizes, errors) > 2.8


@pytest.mark.parametrize(("scheme", "order"), [("euler", 1), ("splitting", 2)])
@pytest.mark.parametrize("depth", [1, 2, 3, 2.5])
def test_costs_are_followed_with_the_weak_order_of_the_scheme(scheme, order, depth):
    """One step beside two of half the size, with E = (w - 1)^2 / 2, by quadrature."""
    manifold = FullRank(1, 1, DeepLinearMetric(depth))
    problem = problem_on(
        manifold, lambda W: np.sum((W - 1) ** 2, axis=(-2, -1)) / 2, lambda W: W - 1
    )
    asked = Asked(problem, vectorized=True)
    equation = Equation(manifold.metric, beta=4.0, entropy=True, asked=asked)
    W, sizes = np.array([[1.7]]), np.array([0.01, 0.005, 0.0025])
    noise, none = all_of(1, 1), np.zeros((1, 1), dtype=int)
    masks = [noise] if scheme == "euler" else [noise, *[none] * 4, noise]
    functions = lambda R: R[:, 0, 0] ** 2, lambda R: R[:, 0, 0] ** 4
    errors = [
        np.abs(
            means_after(scheme, equation, W, size, masks, 8, functions)
            - means_after(scheme, equation, W, size / 2, masks, 8, functions, steps=2)
        ).max()
        for size in sizes
    ]
    assert slope(sizes, errors) > order + 0.7


@pytest.mark.parametrize(("depth", "entropy"), [(2, True), (3, False)])
def test_metropolis_steps_keep_the_density_of_equilibrium(depth, entropy):
    """2 x 2, E = |W|^2 / 2: beta E |W|^2 by scaling, at steps where Euler is off."""
    m = n = 2
    manifold, beta = FullRank(m, n, DeepLinearMetric(depth)), 2.0
    start = np.random.default_rng(0).standard_normal((1000, m, n))
    means = {}
    for metropolis in (True, False):
        flow = langevin_flow(
            quadratic(manifold),
            start,
            np.linspace(0, 8, 33),
            beta=beta,
            entropy=entropy,
            step_size={2: 0.125, 3: 0.05}[depth],
            scheme=None if metropolis else "euler",
            metropolis=metropolis,
            vectorized=True,
            rng=1,
        )
        squares = beta * 2 * flow.costs[9:]
        means[metropolis] = squares.mean(), squares.mean(axis=0).std() / 1000**0.5
    # W -> c W takes the volume sqrt(det g) dW to c^{d / N} times itself, d = m n, and exp(S) to
    # c^{(1 - 1/N) r (r - 1) / 2} times itself, so the mean is the sum of the exponents.
    exact = m * n / depth + entropy * (1 - 1 / depth) * n * (n - 1) / 2
    mean, error = means[True]
    assert abs(mean - exact) < 4 * error
    mean, error = means[False]
    assert mean - exact > 6 * error


def test_metropolis_is_exact_in_coordinates_of_entries_too():
    """A metric without roots: 1 x 1, A = 1 + w^2, with the density exp(-w^2) / (1 + w^2)^{1/2}."""
    manifold = FullRank(1, 1, SpectralMetric(lambda s, t: 1 + s * t))
    flow = langevin_flow(
        quadratic(manifold),
        np.random.default_rng(0).standard_normal((4000, 1, 1)),
        np.linspace(0, 6, 13),
        beta=2.0,
        entropy=False,
        step_size=0.25,
        metropolis=True,
        vectorized=True,
        rng=1,
    )
    w = np.linspace(-6, 6, 20_001)
    density = np.exp(-(w**2)) / np.sqrt(1 + w**2)
    exact = np.sum(w**2 * density) / np.sum(density)
    squares = 2 * flow.costs[4:]
    assert abs(squares.mean() - exact) < 4 * squares.mean(axis=0).std() / 4000**0.5
    assert 0.5 < flow.acceptance_rates.mean() < 0.99


def test_without_noise_it_is_the_gradient_flow():
    """At a great beta, by its scheme of order two, with a gradient of either kind."""
    manifold = FullRank(2, 3, DeepLinearMetric(3))
    target = np.array([[2.0, 0.0, 1.0], [0.0, 1.0, 0.5]])
    problem = problem_on(manifold, lambda W: np.sum((W - target) ** 2) / 2, lambda W: W - target)
    numpy = pymanopt.function.numpy(manifold)
    riemannian = pymanopt.Problem(
        manifold,
        numpy(lambda W: np.sum((W - target) ** 2) / 2),
        riemannian_gradient=numpy(lambda W: manifold.metric.sharp(W, W - target)),
    )
    start, times = rectangular_diagonal(2, 3, [1.0, 0.3]), [0.0, 0.3, 1.0]
    expected = gradient_flow(problem, start, times)
    for given in (problem, riemannian):
        flow = langevin_flow(
            given, start, times, beta=1e24, step_size=0.02, scheme="splitting", rng=0
        )
        assert isinstance(flow, LangevinFlow)
        np.testing.assert_allclose(flow.points, expected.points, atol=2e-4)
        np.testing.assert_allclose(flow.costs, expected.costs, atol=2e-4)
        np.testing.assert_allclose(flow.gradient_norms, expected.gradient_norms, atol=2e-3)
        np.testing.assert_allclose(flow.singular_values, expected.singular_values, atol=2e-4)
        assert flow.status == 0
        assert flow.success
        assert flow.end_times == 1.0
        assert flow.acceptance_rates == 1.0
        assert flow.nfev == 50 * 4 + 3  # four for each step, one for each time


@pytest.mark.parametrize(("depth", "kept"), [(2, 1.0), (2.5, 1.0), (3, 0.5), (1, 0.5)])
@pytest.mark.parametrize("scheme", ["euler", "splitting", "metropolis"])
def test_noise_takes_the_determinant_through_zero_as_layers_are(depth, kept, scheme):
    """From 0.01 I a Brownian determinant has forgotten its sign; at even depths it comes back."""
    metropolis = scheme == "metropolis"
    flow = langevin_flow(
        FullRank(2, 2, DeepLinearMetric(depth)),
        np.tile(0.01 * np.eye(2), (400, 1, 1)),
        [0.0, 2.0],
        beta=2.0,
        entropy=False,
        step_size=0.1,
        scheme=None if metropolis else scheme,
        metropolis=metropolis,
        rng=0,
    )
    positive = np.mean(np.linalg.det(flow.points[-1]) > 0)
    assert abs(positive - kept) < (0.1 if kept < 1 else 1e-9)


def test_single_points_stacks_and_ways_of_asking_agree():
    manifold = FullRank(2, 3, DeepLinearMetric(2))
    start = np.random.default_rng(0).standard_normal((5, 2, 3))
    options = {"beta": 3.0, "step_size": 0.1, "rng": 7}
    stacked = langevin_flow(quadratic(manifold), start, [0, 0.5], vectorized=True, **options)
    asked = langevin_flow(quadratic(manifold), start, [0, 0.5], **options)
    assert np.array_equal(stacked.points, asked.points)
    assert stacked.points.shape == (2, 5, 2, 3)
    assert stacked.costs.shape == stacked.gradient_norms.shape == (2, 5)
    assert stacked.singular_values.shape == (2, 5, 2)
    assert stacked.acceptance_rates.shape == stacked.status.shape == (5,)
    one, same = (langevin_flow(quadratic(manifold), start[0], [0, 0.5], **options) for _ in "ab")
    alone = langevin_flow(quadratic(manifold), start[:1], [0, 0.5], vectorized=True, **options)
    assert np.array_equal(one.points, same.points)
    assert np.array_equal(one.points, alone.points[:, 0])
    assert one.points.shape == (2, 2, 3)
    np.testing.assert_allclose(np.linalg.svd(one.points[-1])[1], one.singular_values[-1])


def test_steps_are_as_long_as_asked_for_or_shorter():
    """A step for each evaluated gradient, and one of them for each row."""
    problem = quadratic(FullRank(1, 2, DeepLinearMetric(2)))
    options = {"beta": 9.0, "scheme": "euler", "rng": 0}
    for step_size, steps in ((0.1, 10 + 20), (0.3, 4 + 7), (5.0, 2)):
        flow = langevin_flow(problem, [[1.0, 0.0]], [0, 1, 3], step_size=step_size, **options)
        assert flow.nfev == steps + 3
        assert flow.times.tolist() == [0.0, 1.0, 3.0]


def test_runs_are_saved(tmp_path):
    flow = langevin_flow(
        FullRank(2, 2, DeepLinearMetric(2)), np.eye(2), [0, 1], beta=1.0, step_size=0.5, rng=0
    )
    flow.save(tmp_path / "flow.npz")
    again = load_flow(tmp_path / "flow.npz")
    assert isinstance(again, LangevinFlow)
    assert np.array_equal(again.points, flow.points)
    assert again.acceptance_rates == flow.acceptance_rates
    assert again.message == flow.message == "reached the last time"


def test_what_an_interruption_leaves_is_kept():
    manifold = FullRank(1, 1, DeepLinearMetric(2))
    asked = []

    def loss(W):
        return float(np.sum(W**2)) / 2

    def gradient(W):
        asked.append(1)
        if len(asked) == 8:
            raise KeyboardInterrupt
        return W

    with pytest.raises(KeyboardInterrupt) as interruption:
        langevin_flow(
            problem_on(manifold, loss, gradient),
            [[1.0]],
            [0.0, 0.2, 2.0],
            beta=1.0,
            step_size=0.1,
            scheme="euler",
            rng=0,
        )
    flow = interruption.value.result
    np.testing.assert_allclose(flow.times, [0.0, 0.2, 0.5])
    assert flow.message == "stopped by KeyboardInterrupt"
    assert flow.status == -1
    assert not flow.success
    assert flow.end_times == pytest.approx(0.5)


def test_progress_is_shown(capsys):
    problem = quadratic(FullRank(1, 1, DeepLinearMetric(2)))
    langevin_flow(problem, [[1.0]], [0, 1], beta=1.0, step_size=0.1, rng=0, progress=True)
    assert "t = 1 of 1, cost" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"beta": 0.0}, ValueError, "beta must be positive"),
        ({"beta": -1.0}, ValueError, "beta must be positive"),
        ({"beta": math.nan}, ValueError, "beta must be positive"),
        ({"beta": "hot"}, TypeError, "beta must be a real number"),
        ({"step_size": 0.0}, ValueError, "step_size must be positive"),
        ({"step_size": math.nan}, ValueError, "step_size must be positive"),
        ({"scheme": "heun"}, ValueError, "scheme must be one of euler, splitting, got 'heun'"),
        ({"scheme": "euler", "metropolis": True}, ValueError, "scheme must be left out with"),
        ({"scheme": ["euler"]}, ValueError, "scheme must be one of"),
        ({"entropy": "no"}, TypeError, "entropy must be True or False, got 'no'"),
        ({"metropolis": 1}, TypeError, "metropolis must be True or False, got 1"),
        ({"step_size": 1e-320}, ValueError, "step_size must divide the times into a finite"),
        ({"times": [1.0, 0.0]}, ValueError, "times must be a strictly increasing"),
        ({"initial_point": np.eye(2)}, ValueError, r"initial_point must have shape"),
        ({"initial_point": np.full((2, 3), np.nan)}, ValueError, "initial_point must be finite"),
        ({"initial_point": np.zeros((2, 3))}, ValueError, "initial_point must have full rank"),
        ({"vectorized": True}, ValueError, "vectorized=True needs a stack"),
        ({"entropy": "no"}, TypeError, "entropy must be True or False"),
        ({"metropolis": 1}, TypeError, "metropolis must be True or False"),
        ({"scheme": ["euler"]}, ValueError, "scheme must be one of euler, splitting"),
        ({"rng": -1}, ValueError, "rng must be what"),
        ({"problem": 3}, TypeError, "problem must be a pymanopt.Problem or a manifold, got int"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    arguments = {
        "problem": quadratic(FullRank(2, 3, DeepLinearMetric(2))),
        "initial_point": np.eye(2, 3),
        "times": [0.0, 1.0],
        "beta": 1.0,
        "step_size": 0.1,
        **change,
    }
    with pytest.raises(error, match=message):
        langevin_flow(**arguments)


@pytest.mark.parametrize(
    ("manifold", "start", "entropy", "message"),
    [
        (FullRank(2, 2, SpectralMetric(lambda s, t: s + t)), np.eye(2), True, "entropy must be"),
        (FullRank(2, 2, KroneckerMetric(np.eye(2), np.eye(2))), np.eye(2), True, "entropy must be"),
        (PositiveDefinite(2, DeepLinearMetric(2)), np.eye(2), True, "open set of matrices"),
        (pymanopt.manifolds.Sphere(3), np.eye(3)[0], False, "open set of matrices"),
        (
            FixedRank(3, 3, 2, DeepLinearMetric(2)),
            (np.eye(3, 2), np.ones(2), np.eye(2, 3)),
            True,
            "open set of matrices",
        ),
    ],
    ids=["spectral", "kronecker", "positive definite", "sphere", "fixed rank"],
)
def test_manifolds_and_metrics_that_will_not_do(manifold, start, entropy, message):
    with pytest.raises(ValueError, match=message):
        langevin_flow(manifold, start, [0, 1], beta=1.0, entropy=entropy, step_size=0.1)


def test_steps_that_fail_say_why():
    manifold = FullRank(2, 2, DeepLinearMetric(3))
    far = {"initial_point": 3 * np.eye(2), "beta": 1e3, "rng": 0}
    with pytest.raises(FlowError, match=r"step_size must be less than 1e\+09") as failure:
        langevin_flow(quadratic(manifold), times=[0, 1e12], step_size=1e9, metropolis=True, **far)
    assert failure.value.result.acceptance_rates == 0.0
    with pytest.raises(FlowError, match="no step of 50 from time .*: .*range of floating-point"):
        langevin_flow(quadratic(manifold), times=[0, 200], step_size=50, scheme="euler", **far)
    wrong = problem_on(manifold, lambda W: 1.0, lambda W: np.nan * W)
    with pytest.raises(FlowError, match="the gradient of the cost must be finite"):
        langevin_flow(wrong, np.eye(2), [0, 1], beta=1.0, step_size=0.1)


def test_a_gradient_of_another_shape_is_refused():
    """The sum over a stack, which would move each copy by the gradients of all."""
    manifold, start = FullRank(2, 2, DeepLinearMetric(2)), np.tile(np.eye(2), (3, 1, 1))
    problem = problem_on(
        manifold, lambda W: np.sum(W**2, axis=(-2, -1)) / 2, lambda W: np.sum(W, axis=0)
    )
    options = {"beta": 1.0, "step_size": 0.1, "vectorized": True}
    message = r"the gradient of the cost must have shape \(3, 2, 2\), got \(2, 2\)"
    with pytest.raises(ValueError, match=message):
        langevin_flow(problem, start, [0, 0.1], **options)
    with pytest.raises(ValueError, match=message):
        network_langevin_flow(problem, [start, start], [0, 0.1], **options)
    with pytest.raises(ValueError, match=message):
        gradient_flow(free_energy(problem, 1.0), start, [0, 0.1], vectorized=True)


def test_singular_values_that_a_matrix_does_not_hold_are_refused():
    """At infinite depth they spread without end, and entries lose the least of them."""
    manifold = FullRank(2, 2, DeepLinearMetric(math.inf))
    options = {"beta": 2.0, "entropy": False, "rng": 0}
    start = np.array([np.diag([1.0, 0.5]), np.diag([1.0, 1e-3])])
    with pytest.raises(FlowError, match="1 of 2 copies have singular values so small beside"):
        langevin_flow(manifold, start, [0, 1], step_size=0.02, **options)
    with pytest.raises(FlowError, match="1 of 1 copies have singular values so small beside"):
        langevin_flow(
            manifold, np.diag([1, 1e-16]), [0, 1], step_size=0.1, metropolis=True, **options
        )
