"""The constant learning rate, on a quadratic cost whose runs are known in closed form."""

import numpy as np
import pymanopt
import pytest
from pymanopt.manifolds import Euclidean
from pymanopt.optimizers import SteepestDescent

from riemdln import DeepLinearMetric, FixedStep, FullRank


def run(step_size, **options):
    """Steepest descent of |w|^2 / 2 from 1: each step multiplies w by 1 - h."""
    line = Euclidean(1)
    cost, gradient = (
        pymanopt.function.numpy(line)(f) for f in (lambda w: float(w @ w) / 2, lambda w: w)
    )
    problem = pymanopt.Problem(line, cost, euclidean_gradient=gradient)
    optimizer = SteepestDescent(FixedStep(step_size), verbosity=0, **options)
    return optimizer.run(problem, initial_point=np.ones(1))


@pytest.mark.parametrize("step_size", [0.1, 1.5, 2.5])
def test_each_step_goes_the_learning_rate_whatever_the_cost_does(step_size):
    result = run(step_size, max_iterations=20)
    np.testing.assert_allclose(result.point, [(1 - step_size) ** 20], rtol=1e-12)


def test_the_optimizer_compares_its_least_step_with_the_learning_rate():
    # Steps of 0.1 w, in the end far shorter than the least step size.
    options = {"max_iterations": 200, "min_step_size": 0.09, "min_gradient_norm": 1e-12}
    assert run(0.1, **options).iterations == 200
    assert run(0.08, **options).iterations < 5


def test_shows_its_learning_rate():
    assert repr(FixedStep(0.1)) == "FixedStep(0.1)"


@pytest.mark.parametrize("retraction", ["linear", "network"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_run_that_diverges_says_so(depth, retraction):
    manifold = FullRank(2, 2, DeepLinearMetric(depth), retraction=retraction)
    target = np.diag([3.0, 1.0])
    plain = pymanopt.function.numpy(manifold)
    problem = pymanopt.Problem(
        manifold,
        plain(lambda W: np.sum((W - target) ** 2) / 2),
        euclidean_gradient=plain(lambda W: W - target),
    )
    optimizer = SteepestDescent(FixedStep(2.5), max_iterations=3000, verbosity=0)
    with (
        np.errstate(over="ignore", invalid="ignore"),
        pytest.raises(ValueError, match="^the run diverged|must be finite"),
    ):
        optimizer.run(problem, initial_point=np.eye(2))
