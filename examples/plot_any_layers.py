r"""
Layers that are not balanced: how far from a metric, and how to balance them
============================================================================

The flow of unbalanced layers strays from the flow of a metric in proportion to how far their
imbalance is from a multiple of the identity. Small random layers are as unbalanced for their size
as large ones, and yet they follow the path of :math:`g^N`, at another pace.

.. image:: images/sphx_glr_plot_any_layers_001.png
   :alt: The flow of two layers nears that of a metric as imbalance or the scale of layers falls
   :class: figures-first
   :target: ../_images/sphx_glr_plot_any_layers_001.png

.. image:: images/sphx_glr_plot_any_layers_002.png
   :alt: Balancing takes the imbalance to zero fast with 3 hidden neurons, as 1 / time with 4
   :class: figures-first
   :target: ../_images/sphx_glr_plot_any_layers_002.png

Gradient flow conserves :math:`D = W_2^T W_2 - W_1 W_1^T`. If :math:`D = c I` the end-to-end matrix
:math:`W = W_2 W_1` moves by a metric, ``DeepLinearMetric(2, imbalance=c)``; for other layers the
nearest :math:`c` is the mean eigenvalue of :math:`D`. This example measures how far the flows come
apart, at depth two, and shows the flow that brings layers to balance and leaves :math:`W` as it is.

The guide has a section on :ref:`layers that are not balanced <any-layers-guide>`, and the theory
:ref:`a bound and the equations <any-layers>`. The functions are :func:`~riemdln.velocity_error`,
:func:`~riemdln.nearest_imbalance` and :func:`~riemdln.balancing_flow`.

Run it with ``python examples/plot_any_layers.py``; it writes ``plot_any_layers.png`` and
``plot_any_layers_balancing.png``.
"""

# %%
# A cost under every metric
# -------------------------

import matplotlib.pyplot as plt
import numpy as np
import pymanopt
from scipy.linalg import expm

import riemdln

target = np.diag([2.0, 1.2, 0.7])


def problem_under(metric):
    """Half the squared distance from the target."""
    manifold = riemdln.FullRank(3, 3, metric)

    @pymanopt.function.numpy(manifold)
    def cost(W):
        return np.sum((W - target) ** 2) / 2

    @pymanopt.function.numpy(manifold)
    def gradient(W):
        return W - target

    return pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)


def relative_distances(points, others):
    """The distance of each two matrices, beside the first one."""
    return np.linalg.norm(points - others, axis=(1, 2)) / np.linalg.norm(points, axis=(1, 2))


# sphinx_gallery_thumbnail_path = "gallery/images/panel_plot_any_layers_001_1.png"

# %%
# What is left of the imbalance
# -----------------------------
# The layers have :math:`D = I` at first. A change of the basis of the hidden layer keeps :math:`W`
# and takes :math:`D` away from multiples of the identity. The spread is the difference of its
# largest and its least eigenvalue.

W = np.array([[1.0, 0.2, 0.0], [0.1, 0.8, 0.3], [0.0, 0.2, 0.7]])
first, second = riemdln.balanced_layers(W, 2, imbalance=1.0)
direction = np.random.default_rng(0).standard_normal((3, 3))
times = np.linspace(0.0, 2.0, 21)
spreads, near, far = [], [], []
for size in np.geomspace(1e-4, 1e-1, 7):
    G = expm(size * direction)
    layers = [G @ first, second @ np.linalg.inv(G)]
    spreads.append(np.ptp(np.linalg.eigvalsh(riemdln.imbalances(layers)[0])))
    nearest = riemdln.DeepLinearMetric(2, imbalance=riemdln.nearest_imbalance(layers))
    network = riemdln.network_flow(problem_under(nearest), layers, times)
    for metric, distances in ((nearest, near), (riemdln.DeepLinearMetric(2), far)):
        flow = riemdln.gradient_flow(problem_under(metric), W, times)
        distances.append(relative_distances(network.points, flow.points).max())
power = np.polyfit(np.log(spreads), np.log(near), 1)[0]
print(f"distance from the flow of the nearest metric: power {power:.3f} of the spread")
assert abs(power - 1) < 0.02
assert min(far) > 10 * near[2]

# %%
# Small random layers
# -------------------
# The flows are compared at equal times, and at equal costs. Where only the second distance is
# small, they take the same path at different speeds.

metric = riemdln.DeepLinearMetric(2)
problem = problem_under(metric)
scales = np.array([0.5, 0.2, 0.1, 0.05, 0.02, 0.005, 0.001])
at_equal_times, at_equal_costs, velocity_errors = [], [], []
times = np.linspace(0.0, 15.0, 751)
for scale in scales:
    layers = riemdln.random_layers([3, 3, 3], scale=scale, rng=3)
    network = riemdln.network_flow(problem, layers, times)
    flow = riemdln.gradient_flow(problem, riemdln.end_to_end(layers), times)
    velocity_errors.append(riemdln.velocity_error(layers, metric))
    at_equal_times.append(relative_distances(network.points, flow.points).max())
    costs = np.linspace(0.05, 0.95, 91) * flow.costs[0]
    network_points, flow_points = (
        np.transpose(
            [np.interp(costs, f.costs[::-1], entry[::-1]) for entry in f.points.reshape(-1, 9).T]
        ).reshape(-1, 3, 3)
        for f in (network, flow)
    )
    at_equal_costs.append(relative_distances(network_points, flow_points).max())
print(f"velocity errors from {min(velocity_errors):.3f} to {max(velocity_errors):.3f}")
print(f"at equal times from {at_equal_times[0]:.3f} to {at_equal_times[-1]:.3f}")
print(f"at equal costs from {at_equal_costs[0]:.3f} to {at_equal_costs[-1]:.3f}")
assert np.ptp(velocity_errors) < 1e-6
assert min(at_equal_times) > 0.05
assert np.all(np.diff(at_equal_costs) < 0)
assert at_equal_costs[-1] < at_equal_costs[0] / 5

# %%
# The flow to balance
# -------------------
# It only changes the bases of the hidden layers, so the end-to-end matrix stays the same to
# rounding. Where a hidden layer has as many neurons as the rank of :math:`W`, the imbalance falls
# exponentially. Where it has more, weights have to go to zero, and the imbalance falls as
# :math:`1 / t`.

balancing_times = np.concatenate([[0.0], np.geomspace(1e-2, 1e3, 101)])
widths = {"3": [5, 3, 3, 3], "4": [5, 4, 4, 3]}
balancing = {}
for name, sizes in widths.items():
    layers = riemdln.random_layers(sizes, scale=0.7, rng=0)
    flow = riemdln.balancing_flow(layers, balancing_times, method="Radau")
    W = riemdln.end_to_end(layers)
    drift = np.abs(flow.points - W).max() / np.abs(W).max()
    print(f"{name} hidden neurons: imbalance {flow.imbalances[-1]:.0e}, W moved by {drift:.0e}")
    assert drift < 1e-13
    balancing[name] = flow.imbalances
assert balancing["3"][-1] < 1e-8
late = balancing_times > 100
slope = np.polyfit(np.log(balancing_times[late]), np.log(balancing["4"][late]), 1)[0]
print(f"4 hidden neurons: power {slope:.2f} of the time")
assert abs(slope + 1) < 0.05

# %%
# The figures
# -----------
# They stand at the head of this page.

blue, orange, grey = "#0072B2", "#D55E00", "0.55"
figure, (departure, scale_panel) = plt.subplots(1, 2, figsize=(9, 5.8), layout="constrained")
departure.loglog(spreads, near, "o-", color=blue, label="from the flow of the nearest metric")
departure.loglog(spreads, far, "s-", color=orange, label="from that of $g^2$, at equal times")
departure.set_title("They part in proportion to the spread of $D$", fontsize=11)
departure.set(
    xlabel="spread of $D$: largest minus least eigenvalue",
    ylabel="largest distance of the two flows / $\\|W\\|$",
)
scale_panel.loglog(scales, at_equal_times, "s-", color=orange)
scale_panel.loglog(
    scales,
    at_equal_costs,
    "o--",
    color=orange,
    mfc="white",
    label="from that of $g^2$, at equal losses",
)
scale_panel.set_title("Small random layers: one path, two speeds", fontsize=11)
scale_panel.set(
    xlabel="standard deviation of the layers' entries",
    ylabel="largest distance of the two flows / $\\|W\\|$",
    ylim=(0.005, 0.3),
)
figure.suptitle("Layers off balance nearly follow the gradient flow of a metric", fontsize=13)
figure.legend(
    title=(
        "$W = W_2 W_1$ of 3 x 3 layers, trained on $\\|W - T\\|^2 / 2$, "
        "beside the flow of one matrix."
        "\n$g^2$: the metric that balanced layers (imbalance $D = W_2^T W_2 - W_1 W_1^T = 0$) "
        "give $W$.\nThe nearest metric: that of $D = c I$, with the mean eigenvalue $c$ of $D$."
    ),
    frameon=False,
    loc="outside lower center",
    ncols=3,
)
for panel in (departure, scale_panel):
    panel.grid(alpha=0.25)
figure.savefig("plot_any_layers.png", dpi=150)

figure, balance = plt.subplots(figsize=(9, 4.6), layout="constrained")
for (name, sizes), colour in zip(balancing.items(), ("#009E73", "#CC79A7"), strict=True):
    wide = ", more than the rank of $W$" if name == "4" else ", the rank of $W$"
    label = f"hidden layers of {name} neurons{wide}"
    balance.loglog(balancing_times[1:], sizes[1:], color=colour, label=label)
balance.plot([30, 1000], [3 * balancing["4"][-1] / 0.03, 3 * balancing["4"][-1]], color=grey)
balance.annotate("as 1 / time", (150, 40 * balancing["4"][-1]), color=grey)
balance.set(
    title="Balancing leaves $W$ as it is, and is fast unless weights have to go to zero",
    xlabel="time of the flow that balances the layers",
    ylabel=r"imbalance $\max_j \, \| W_{j+1}^T W_{j+1} - W_j W_j^T \|_F$",
    ylim=(1e-10, 20),
)
balance.legend(
    title="Three random layers, $W = W_3 W_2 W_1$ is 3 x 5", frameon=False, loc="lower left"
)
balance.grid(alpha=0.25)
figure.savefig("plot_any_layers_balancing.png", dpi=150)
plt.show()
