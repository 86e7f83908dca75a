r"""
Depth accelerates one regression and not two others
===================================================

One matrix under the metric :math:`g^N` moves as the product of a deep linear network does. At the
best learning rate of each depth, depth speeds up an :math:`\ell_4` regression and neither of two
:math:`\ell_2` regressions.

.. image:: images/sphx_glr_plot_depth_acceleration_001.png
   :alt: Losses of one matrix and of the network agree; depth lowers only the l_4 loss of descent
   :class: figures-first
   :target: ../_images/sphx_glr_plot_depth_acceleration_001.png

The guide tells how to :doc:`choose a depth </guide/depth>` and compares :doc:`networks and one
matrix </guide/networks>`. The theory has :ref:`the flow <flow>` and :ref:`the layers <layers>`. The
code uses `riemdln.gradient_flow`, `riemdln.network_flow` and `riemdln.FixedStep`.

Run it with ``python examples/plot_depth_acceleration.py``; it writes
``plot_depth_acceleration.png`` to the current folder.
"""

# %%
# Data and problems
# -----------------
# Linear regression with the loss :math:`E(W) = \tfrac1p \, \mathrm{mean} \, \| W x - y \|_p^p`
# on standardized data:
#
# - digits, :math:`p = 2`: ten classes from the 64 pixels of handwritten digits (W is 10 x 64);
# - gas sensors, :math:`p = 2`: the concentration of ethanol from 128 features of 16 sensors
#   (W is 1 x 128);
# - gas sensors, :math:`p = 4`: the same with the :math:`\ell_4` loss.
#
# The gas sensors are those on which Arora, Cohen and Hazan (ICML 2018) found that depth accelerates
# the :math:`\ell_4` loss and not the :math:`\ell_2` loss. The data are those of Vergara et al.
# (2012) and Rodriguez-Lujan et al. (2014); LICENSE.md beside them says which measurements.

from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pymanopt
import scipy
from joblib import Parallel, delayed
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter
from pymanopt.optimizers import SteepestDescent
from sklearn.datasets import load_digits
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

import riemdln

# Where no file is run, in a notebook or in the gallery, the current folder is that of the examples.
EXAMPLES = Path(__file__).parent if "__file__" in globals() else Path()


class Regression(NamedTuple):
    """Linear regression of the rows of Y on the rows of X with the l_p loss, p even."""

    X: np.ndarray
    Y: np.ndarray
    p: int
    duration: float  # of its flow

    def cost(self, W):
        """The mean over the samples of |W x - y|_p^p / p."""
        return np.sum((self.X @ W.T - self.Y) ** self.p) / (self.p * len(self.X))

    def gradient(self, W):
        """The gradient of the cost."""
        return (self.X.T @ ((self.X @ W.T - self.Y) ** (self.p - 1) / len(self.X))).T

    def problem(self, depth, retraction="linear"):
        """The problem under the metric of one depth: depth 1 is Euclidean."""
        metric = riemdln.DeepLinearMetric(depth)
        shape = self.Y.shape[1], self.X.shape[1]
        manifold = riemdln.FullRank(*shape, metric, retraction=retraction)
        function = pymanopt.function.numpy(manifold)
        gradient = function(self.gradient)
        return pymanopt.Problem(manifold, function(self.cost), euclidean_gradient=gradient)

    def start(self):
        """A small random matrix, the same for all depths."""
        W = np.random.default_rng(0).standard_normal((self.Y.shape[1], self.X.shape[1]))
        return 0.1 * W / np.linalg.norm(W, 2)


def fewer_samples(X, Y):
    """As many samples as X and Y have columns, with the same l_2 loss."""
    R = np.linalg.qr(np.hstack([X, Y]), mode="r")
    return np.split(np.sqrt(len(R) / len(X)) * R, [X.shape[1]], axis=1)


standardized = StandardScaler().fit_transform
pixels, classes = load_digits(return_X_y=True)
digits = standardized(pixels), np.eye(10)[classes] - np.eye(10)[classes].mean(axis=0)
columns = np.loadtxt(EXAMPLES / "data" / "gas_sensor_ethanol.csv.gz", delimiter=",", skiprows=1)
sensors = standardized(columns[:, 2:]), standardized(columns[:, 1:2])

DEPTHS = [1, 2, 3, 5]
PROBLEMS = {
    "digits, l_2": Regression(*fewer_samples(*digits), p=2, duration=100),
    "gas sensors, l_2": Regression(*fewer_samples(*sensors), p=2, duration=10),
    "gas sensors, l_4": Regression(*sensors, p=4, duration=1),
}

# sphinx_gallery_thumbnail_path = "gallery/images/panel_plot_depth_acceleration_001_4.png"

# %%
# The flow on one matrix is the flow of the network
# -------------------------------------------------
# The depth of the metric is all that changes. The product of N balanced layers, which start at the
# same :math:`W` and flow as a network, stays where the one matrix is.


def flow_and_network(regression, depth):
    """The flow of the metric on W, and the flow of the layers of a network."""
    problem, start = regression.problem(depth), regression.start()
    times = np.concatenate([[0.0], regression.duration * np.geomspace(1e-4, 1, 40)])
    tolerances = {"rtol": 1e-9, "atol": 1e-11}
    layers = riemdln.balanced_layers(start, depth)
    return (
        riemdln.gradient_flow(problem, start, times, **tolerances),
        riemdln.network_flow(problem, layers, times, **tolerances),
    )


# %%
# A fixed learning rate
# ---------------------
# Steepest descent with a constant step, on W under :math:`g^N` and on the layers of a real network.
# A step of size :math:`h` moves the two apart by :math:`O(h^2)`. Each has its own learning rate,
# the one at which the last third of the losses stays lowest.

STEPS = 300


def descend(problem, start, rate, steps=STEPS):
    """The losses along steepest descent on W with a constant learning rate."""
    optimizer = SteepestDescent(
        riemdln.FixedStep(rate),
        max_iterations=steps,
        min_gradient_norm=0.0,
        verbosity=0,
        log_verbosity=1,
    )
    with np.errstate(all="ignore"):
        try:
            result = optimizer.run(problem, initial_point=start)
        except ValueError:  # the run overflowed: the rate is too large
            return np.array([np.inf])
    return np.nan_to_num(result.log["iterations"]["cost"], nan=np.inf)


def train(problem, layers, rate):
    """The losses along gradient descent on the layers of a network."""
    costs = []
    for _ in range(STEPS):
        W = riemdln.end_to_end(layers)
        costs.append(problem.cost(W))
        if not costs[-1] < 1e6:  # the run diverged: the rate is too large
            return np.array([np.inf])
        gradients = riemdln.layer_gradients(layers, problem.euclidean_gradient(W))
        layers = [W_j - rate * G_j for W_j, G_j in zip(layers, gradients, strict=True)]
    return np.array(costs)


def at_best_rate(losses_at):
    """The learning rate at which the last third of the losses stays lowest, and all its losses.

    Powers of two are tried, beyond their ends for as long as the best is the first or the last of
    them, and then finer steps around the best.
    """
    runs = {}

    def best_with(rates):
        runs.update({rate: losses_at(rate) for rate in rates if rate not in runs})
        return min(sorted(runs), key=lambda rate: runs[rate][-STEPS // 3 :].max())

    first, last, best = -9, 0, None
    while best is None or best in (2.0**first, 2.0**last):
        first, last = first - 3 * (best == 2.0**first), last + 3 * (best == 2.0**last)
        best = best_with(2.0 ** np.arange(first, last + 1))
    best = best_with(best * 2 ** np.linspace(-1, 1, 9))
    return best, runs[best]


def descents(regression, depth):
    """The best learning rate and its losses, on W and on the layers."""
    problem, start = regression.problem(depth), regression.start()
    on_matrix = at_best_rate(partial(descend, problem, start))
    on_layers = at_best_rate(partial(train, problem, riemdln.balanced_layers(start, depth)))
    # With the network retraction the first step on W is the first step of the layers.
    rate, losses = on_layers
    first_step = descend(regression.problem(depth, retraction="network"), start, rate, steps=2)
    assert abs(first_step[1] - losses[1]) < 1e-12 * losses[0]
    return on_matrix, on_layers


keys = [(name, depth) for name in reversed(PROBLEMS) for depth in reversed(DEPTHS)]
runs = Parallel(n_jobs=-1, return_as="generator")(
    delayed(function)(PROBLEMS[name], depth)
    for function in (flow_and_network, descents)
    for name, depth in keys
)
runs = list(tqdm(runs, "flows and descents", 2 * len(keys), disable=None))
flows = dict(zip(keys, runs[: len(keys)], strict=True))
curves = dict(zip(keys, runs[len(keys) :], strict=True))

# %%
# What they show
# --------------
# Losses are taken less the minimum over all W. The singular values of the gas sensors' features
# fall by five orders of magnitude, which slows descent, but not Newton's method in an orthonormal
# basis of their columns. It starts from the solution of the :math:`\ell_2` problem.


def least_loss(regression):
    """The minimum of the loss over all matrices W."""
    Q = scipy.linalg.orth(regression.X)
    C = Q.T @ regression.Y
    if regression.p == 2:
        return regression._replace(X=Q).cost(C.T)
    (y,), p = regression.Y.T, regression.p
    newton = scipy.optimize.minimize(
        lambda c: np.sum((Q @ c - y) ** p) / p,
        C[:, 0],
        jac=lambda c: Q.T @ (Q @ c - y) ** (p - 1),
        hess=lambda c: (p - 1) * (Q.T * (Q @ c - y) ** (p - 2)) @ Q,
        method="trust-exact",
        options={"gtol": 1e-8},
    )
    assert newton.success, newton.message
    return newton.fun / len(Q)


least = {name: least_loss(regression) for name, regression in PROBLEMS.items()}


def excess(name, depth, k):
    """What the loss ends above the minimum, on W (k = 0) or on the layers (k = 1)."""
    _, losses = curves[name, depth][k]
    return losses[-1] - least[name]


print(f"Loss above the minimum after {STEPS} steps, as a multiple of that at depth 1")
print(f"{'':21}{'on W, at depth':24}{'on the layers, at depth':27}flow from")
print(f"{'':21}{(header := f'{2:<8}{3:<8}{5:<8}')}{header:27}network at most")
distance, accelerated = {}, set()
for name in PROBLEMS:
    for depth in DEPTHS:
        flow, network = flows[name, depth]
        distance[name, depth] = np.linalg.norm(flow.points - network.points, axis=(1, 2)).max()
    line = f"{name:21}"
    for k, gap in enumerate(["", "   "]):
        for depth in DEPTHS[1:]:
            ratio = excess(name, depth, k) / excess(name, 1, k)
            line += f"{ratio:<8.2f}"
            if ratio < 0.9:
                accelerated.add((name, depth, k))
        line += gap
    print(f"{line}{max(distance[name, depth] for depth in DEPTHS):.0e}")
assert max(distance.values()) < 1e-6
assert accelerated == {("gas sensors, l_4", depth, k) for depth in DEPTHS[1:] for k in (0, 1)}
print("Depth lowers the l_4 loss by more than a tenth, and no l_2 loss by as much.")

# %%
# The figure
# ----------
# Lines are the matrix W, dots the network.

COLOURS = dict(zip(DEPTHS, ["#000000", "#0072B2", "#D55E00", "#009E73"], strict=True))


def draw_flows(panel, name):
    """The losses along the flows of W, as lines, and along those of the layers, as dots."""
    for depth, colour in COLOURS.items():
        flow, network = flows[name, depth]
        panel.semilogx(flow.times[1:], flow.costs[1:], color=colour)
        panel.plot(network.times[1::3], network.costs[1::3], "o", color=colour, markersize=4)
    p = PROBLEMS[name].p
    panel.set(xlabel="time of the flow", ylabel=rf"loss, mean of $\|W x - y\|_{p}^{p} / {p}$")


def draw_descents(panel, name):
    """The same along descent, above the minimum."""
    for depth, colour in COLOURS.items():
        (_, on_matrix), (_, on_layers) = curves[name, depth]
        panel.semilogy(on_matrix - least[name], color=colour)
        dots = np.arange(0, STEPS, 20)
        panel.plot(dots, on_layers[dots] - least[name], "o", color=colour, markersize=4)
    panel.set(
        xlabel="step, at the best learning rate of each depth", ylabel="loss above its minimum"
    )
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_formatter(NullFormatter())


figure, axes = plt.subplots(2, 2, figsize=(9, 8.6), layout="constrained")
draw_flows(axes[0, 0], "digits, l_2")
draw_flows(axes[0, 1], "gas sensors, l_4")
draw_descents(axes[1, 0], "gas sensors, l_2")
draw_descents(axes[1, 1], "gas sensors, l_4")
axes[0, 0].set_title("Flow: matrix and layers agree (digits, $\\ell_2$)")
axes[0, 1].set_title("Flow: they agree (gas sensors, $\\ell_4$)")
axes[1, 0].set_title("Descent: depth changes little (gas sensors, $\\ell_2$)")
axes[1, 1].set_title("Descent: depth ends lower (gas sensors, $\\ell_4$)")
for panel in axes.flat:
    panel.title.set_fontsize(11)
    panel.grid(alpha=0.25)
handles = [Line2D([], [], color=colour, label=f"depth {n}") for n, colour in COLOURS.items()]
handles += [
    Line2D([], [], color="0.5", label="one matrix $W$"),
    Line2D([], [], color="0.5", marker="o", markersize=4, linestyle="", label="network's layers"),
]
figure.legend(
    handles=handles,
    title=(
        "Linear regression: ten digits from 64 pixels, "
        "or ethanol from 128 features of gas sensors.\n"
        "$W$ flows or descends under $g^N$, the metric that $N$ balanced layers give their product."
        "\nThe network is $W = W_N \\cdots W_1$, balanced at the start."
    ),
    loc="outside lower center",
    ncols=6,
    frameon=False,
)
figure.suptitle(
    "One matrix moves as the network does, and depth speeds up descent on the $\\ell_4$ loss only",
    fontsize=12,
)
figure.savefig("plot_depth_acceleration.png", dpi=150)
plt.show()
