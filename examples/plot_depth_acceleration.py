r"""
How depth bends gradient flow
=============================

Training a deep linear network :math:`W_N \cdots W_1` moves its end-to-end matrix :math:`W` by the
gradient flow of a Riemannian metric :math:`g^N` on one matrix. This example follows that flow at
several depths, on data that scikit-learn ships, with the real network beside it:

- ten classes from the 64 pixels of the handwritten digits, by linear regression with the
  :math:`\ell_2` loss (W is 10 x 64);
- the progress of diabetes from ten measurements, with the :math:`\ell_4` loss (W is 1 x 10).

It then compares descent with a fixed learning rate, the best of a grid for each depth. Depth
accelerates the :math:`\ell_4` problem and not the :math:`\ell_2` one, as Arora, Cohen and Hazan
(ICML 2018) found on other data.

Run it with ``python examples/plot_depth_acceleration.py``; it writes
``plot_depth_acceleration.png`` to the current folder.
"""

# %%
# Data and problems
# -----------------
# Features are standardized. The quadratic loss depends on the data through two Gram matrices only.

import autograd.numpy as anp
import matplotlib.pyplot as plt
import numpy as np
import pymanopt
from pymanopt.optimizers import SteepestDescent
from sklearn.datasets import load_diabetes, load_digits
from sklearn.preprocessing import StandardScaler

import riemdln


def digits_cost():
    """The mean of |W x - y|^2 / 2 over the digits, y the class as a unit vector less its mean."""
    pixels, classes = load_digits(return_X_y=True)
    X = StandardScaler().fit_transform(pixels)
    Y = np.eye(10)[classes] - np.eye(10)[classes].mean(axis=0)
    XX, YX, YY = X.T @ X / len(X), Y.T @ X / len(X), np.sum(Y**2) / len(X)
    return lambda W: anp.sum((W @ XX) * W) / 2 - anp.sum(W * YX) + YY / 2


def diabetes_cost():
    """The mean of (w x - y)^4 / 4 over the patients, y standardized."""
    X, y = load_diabetes(return_X_y=True)
    X, y = StandardScaler().fit_transform(X), (y - y.mean()) / y.std()
    return lambda w: anp.mean((X @ w.T - y[:, None]) ** 4) / 4


def problem_at(depth, shape, cost, retraction="linear"):
    """The problem under the metric of one depth: depth 1 is Euclidean."""
    metric = riemdln.DeepLinearMetric(depth)
    manifold = riemdln.FullRank(*shape, metric, retraction=retraction)
    return pymanopt.Problem(manifold, pymanopt.function.autograd(manifold)(cost))


DEPTHS = [1, 2, 3, 5]
RATES = np.geomspace(0.2, 1.6, 14)
DIGITS = {"shape": (10, 64), "cost": digits_cost()}
DIABETES = {"shape": (1, 10), "cost": diabetes_cost()}


def start_of(shape):
    """A small random matrix, the same for all depths."""
    W = np.random.default_rng(0).standard_normal(shape)
    return 0.1 * W / np.linalg.norm(W, 2)


# %%
# The flow on one matrix is the flow of the network
# -------------------------------------------------
# One line switches the geometry. The balanced layers of the same start, integrated as a network of
# N matrices, stay on top of it.

times = np.concatenate([[0.0], np.geomspace(0.01, 100, 40)])
tolerances = {"rtol": 1e-9, "atol": 1e-11}
flows, distances = {}, {}
for depth in DEPTHS:
    problem = problem_at(depth, **DIGITS)
    start = start_of(DIGITS["shape"])
    flows[depth] = riemdln.gradient_flow(problem, start, times, **tolerances)
    layers = riemdln.balanced_layers(start, depth)
    network = riemdln.network_flow(problem, layers, times, **tolerances)
    distances[depth] = np.linalg.norm(network.points - flows[depth].points, axis=(1, 2))
    print(
        f"digits, depth {depth}: flow and network are never farther apart than "
        f"{distances[depth].max():.0e}"
    )
    assert distances[depth].max() < 1e-6

# %%
# A fixed learning rate
# ---------------------
# Steepest descent with a constant step: on W under g^N, and on the layers of a real network, which
# a step of size h moves apart by O(h^2). Either has its own learning rate, the best of a grid by
# the loss at the end.


def descend(problem, start, rate, iterations):
    """The losses along steepest descent on W with a constant learning rate."""
    optimizer = SteepestDescent(
        riemdln.FixedStep(rate),
        max_iterations=iterations,
        min_gradient_norm=0.0,
        verbosity=0,
        log_verbosity=1,
    )
    with np.errstate(all="ignore"):
        try:
            result = optimizer.run(problem, initial_point=start)
        except ValueError:  # the run overflowed: the rate is too large
            return np.array([np.inf])
    return np.array(result.log["iterations"]["cost"])


def train(problem, layers, rate, iterations):
    """The losses along gradient descent on the layers of a network."""
    costs = []
    for _ in range(iterations):
        W = riemdln.end_to_end(layers)
        costs.append(problem.cost(W))
        if not costs[-1] < 1e6:  # the run diverged: the rate is too large
            break
        gradients = riemdln.layer_gradients(layers, problem.euclidean_gradient(W))
        layers = [W_j - rate * G_j for W_j, G_j in zip(layers, gradients, strict=True)]
    return np.array(costs)


def best(runs):
    """The learning rate whose run ended with the least loss."""
    return min(runs, key=lambda rate: np.nan_to_num(runs[rate][-1], nan=np.inf))


def best_descents(name, data, iterations):
    """For each depth the best learning rates and the losses, on W and on the layers."""
    curves = {}
    for depth in DEPTHS:
        problem, start = problem_at(depth, **data), start_of(data["shape"])
        layers = riemdln.balanced_layers(start, depth)
        on_matrix = {rate: descend(problem, start, rate, iterations) for rate in RATES}
        on_layers = {rate: train(problem, layers, rate, iterations) for rate in RATES}
        rate, layers_rate = best(on_matrix), best(on_layers)
        curves[depth] = rate, on_matrix[rate], layers_rate, on_layers[layers_rate]
        print(
            f"{name}, depth {depth}: after {iterations} steps loss {on_matrix[rate][-1]:.4f} on W "
            f"(rate {rate:.2g}), {on_layers[layers_rate][-1]:.4f} on the layers "
            f"(rate {layers_rate:.2g})"
        )
        # With the network retraction the first step on W is the first step of the layers.
        network_step = problem_at(depth, **data, retraction="network")
        assert abs(descend(network_step, start, rate, 2)[1] - on_layers[rate][1]) < 1e-12
    return curves


digits = best_descents("digits, l_2", DIGITS, 300)
diabetes = best_descents("diabetes, l_4", DIABETES, 300)
assert min(diabetes[depth][1][-1] for depth in DEPTHS[1:]) < diabetes[1][1][-1]
assert all(digits[depth][1][-1] > digits[1][1][-1] for depth in DEPTHS[1:])

# %%
# The figure
# ----------
# Losses are drawn less their minimum, so that the end of a run can be seen.


def least_loss(data):
    """The least loss of a convex problem, by conjugate gradients."""
    optimizer = pymanopt.optimizers.ConjugateGradient(
        max_iterations=5000, min_gradient_norm=1e-7, min_step_size=1e-14, verbosity=0
    )
    return optimizer.run(problem_at(1, **data), initial_point=start_of(data["shape"])).cost


colours = dict(zip(DEPTHS, ["#000000", "#0072B2", "#D55E00", "#009E73"], strict=True))
labels = {depth: f"depth {depth}" + (" (Euclidean)" if depth == 1 else "") for depth in DEPTHS}
figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
(loss, gap), (quartic, quadratic) = axes
least = {"digits": least_loss(DIGITS), "diabetes": least_loss(DIABETES)}

for depth, colour in colours.items():
    loss.semilogx(times[1:], flows[depth].costs[1:], color=colour, label=labels[depth])
    if depth > 1:  # at depth 1 the network is the matrix, and the distance zero
        gap.loglog(times[1:], distances[depth][1:], color=colour, label=labels[depth])
    for panel, curves, floor in (
        (quartic, diabetes, least["diabetes"]),
        (quadratic, digits, least["digits"]),
    ):
        rate, on_matrix, _, on_layers = curves[depth]
        panel.semilogy(on_matrix - floor, color=colour, label=f"{labels[depth]}, rate {rate:.2g}")
        dots = np.arange(0, len(on_layers), 25)
        panel.semilogy(dots, on_layers[dots] - floor, "o", color=colour, markersize=4)

loss.set(
    title="A deep flow starts slowly from a small start\n(digits, $\\ell_2$ loss, flow of $g^N$)",
    xlabel="time",
    ylabel="loss",
)
gap.set(
    title="The flow of $g^N$ is the flow of the real network\n"
    "(digits, distance between the two, integrated to $10^{-9}$)",
    xlabel="time",
    ylabel="distance of the matrices W",
)
quartic.set(
    title="Depth accelerates $\\ell_4$ descent\n(diabetes; lines: on W, dots: on the layers)",
    xlabel="step",
    ylabel="loss minus its minimum",
    ylim=(1e-4, 2e-2),
)
quadratic.set(
    title="Depth does not accelerate $\\ell_2$ descent\n(digits; lines: on W, dots: on the layers)",
    xlabel="step",
    ylabel="loss minus its minimum",
)
for panel in axes.flat:
    panel.legend(frameon=False)
    panel.grid(alpha=0.25)
figure.savefig("plot_depth_acceleration.png", dpi=150)
plt.show()
