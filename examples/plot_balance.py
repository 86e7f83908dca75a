r"""
Balanced layers: what they share, and what disturbs them
========================================================

Balanced layers share their singular values, and the flow keeps them balanced. Finite steps disturb
balance in proportion to the step size, and layers off balance leave the flow of :math:`g^N` in
proportion to their imbalance.

.. image:: images/sphx_glr_plot_balance_001.png
   :alt: At each time the three layers have the same singular values, cube roots of the product's
   :class: figures-first
   :target: ../_images/sphx_glr_plot_balance_001.png

.. image:: images/sphx_glr_plot_balance_002.png
   :alt: Imbalance grows in proportion to the step size, and distance from the flow to imbalance
   :class: figures-first
   :target: ../_images/sphx_glr_plot_balance_002.png

The guide compares :doc:`networks and one matrix </guide/networks>` and treats :doc:`layers off
balance </guide/imbalance>`. The theory has :ref:`the layers <layers>` and :ref:`their imbalance
<imbalance>`. The code uses `riemdln.balanced_layers`, `riemdln.network_flow` and
`riemdln.imbalance`.

Run it with ``python examples/plot_balance.py``; it writes ``plot_balance.png`` and
``plot_balance_disturbed.png``.
"""

# %%
# Networks along the flow
# -----------------------
# A deep linear network :math:`W = W_N \cdots W_1` moves by the gradient flow of :math:`g^N` if its
# layers are balanced, :math:`W_{j+1}^T W_{j+1} = W_j W_j^T` (Arora, Cohen and Hazan 2018, proof of
# Theorem 1). The flow of the layers conserves the differences of the two sides. The imbalance is
# the largest of their norms, :math:`\max_j \| W_{j+1}^T W_{j+1} - W_j W_j^T \|_F`. If it is zero,
# all layers have the same singular values, the :math:`N`-th roots of those of :math:`W`, and with
# :math:`P_j = W_N \cdots W_{j+1}`
#
# .. math:: W_1^T W_1 = (W^T W)^{1/N}, \qquad P_j P_j^T = (W W^T)^{(N-j)/N}.
#
# Two networks with two layers and two with three, which fit a 4 x 4 and a 4 x 3 matrix, are tested
# for these identities. Powers are computed by their definition, from eigenvalues and eigenvectors.

from itertools import pairwise

import autograd.numpy as anp
import matplotlib.pyplot as plt
import numpy as np
import pymanopt
from scipy.integrate import simpson

import riemdln

CASES = [(2, (4, 4)), (3, (4, 4)), (2, (4, 3)), (3, (4, 3))]
TOLERANCES = {"rtol": 1e-11, "atol": 1e-13}


def problem_at(depth, shape):
    """The sum of r^4 / 4 + r^2 / 2 over the residuals r of a random target, under g^N."""
    manifold = riemdln.FullRank(*shape, riemdln.DeepLinearMetric(depth))
    target = np.random.default_rng(1).standard_normal(shape)

    @pymanopt.function.autograd(manifold)
    def cost(W):
        return anp.sum((W - target) ** 4) / 4 + anp.sum((W - target) ** 2) / 2

    return pymanopt.Problem(manifold, cost)


def start_of(shape):
    """A random matrix, the same for all depths."""
    return np.random.default_rng(0).standard_normal(shape) / 2


def power(M, exponent):
    """A power of a symmetric positive semidefinite matrix; rounding errors count as zero."""
    eigenvalues, vectors = np.linalg.eigh(M)
    eigenvalues = np.where(eigenvalues > 1e-13 * eigenvalues[-1], eigenvalues, 0.0)
    return vectors * eigenvalues**exponent @ vectors.T


def identities(layers):
    """The name of each identity, and its two sides."""
    depth, W = len(layers), riemdln.end_to_end(layers)
    name = rf"$W_1^T W_1 = (W^T W)^{{1/{depth}}}$"
    yield name, layers[0].T @ layers[0], power(W.T @ W, 1 / depth)
    for j in range(1, depth):
        P = riemdln.end_to_end(layers[j:])
        upper = " ".join(f"W_{i}" for i in range(depth, j, -1))
        lower = " ".join(f"W_{i}^T" for i in range(j + 1, depth + 1))
        name = rf"${upper} {lower} = (W W^T)^{{{depth - j}/{depth}}}$"
        yield name, P @ P.T, power(W @ W.T, (depth - j) / depth)


times = np.linspace(0, 1, 41) ** 2
problems, flows, errors = {}, {}, {}
for depth, shape in CASES:
    problem, layers = problem_at(depth, shape), riemdln.balanced_layers(start_of(shape), depth)
    flow = riemdln.network_flow(problem, layers, times, **TOLERANCES)
    problems[depth, shape], flows[depth, shape] = problem, flow
    errors[depth, shape] = {}
    for layers in flow.layers:
        for name, left, right in identities(layers):
            error = np.linalg.norm(left - right) / np.linalg.norm(right)
            errors[depth, shape].setdefault(name, []).append(error)
    roots = [[np.linalg.svd(W, compute_uv=False) for W in layers] for layers in flow.layers]
    spread = np.max(np.abs(np.array(roots) ** depth - flow.singular_values[:, None]))
    worst = np.max(list(errors[depth, shape].values()))
    print(
        f"{shape[0]} x {shape[1]}, depth {depth}: loss {flow.costs[0]:.2f} to "
        f"{flow.costs[-1]:.2f}, singular values agree to {spread:.0e}, identities to {worst:.0e}, "
        f"imbalance at most {flow.imbalances.max():.0e}"
    )
    assert max(spread, worst, flow.imbalances.max()) < 1e-9

# sphinx_gallery_thumbnail_path = "gallery/images/panel_plot_balance_001_1.png"

# %%
# Finite steps leave balance
# --------------------------
# The gradients of the layers are :math:`G_1, ..., G_N`. A step of size :math:`h` changes
# :math:`W_{j+1}^T W_{j+1} - W_j W_j^T` by exactly :math:`h^2 (G_{j+1}^T G_{j+1} - G_j G_j^T)`: the
# first order cancels. By a given time the steps add up to an imbalance of :math:`h` times the norm
# of the integral of the bracket along the flow, to first order in :math:`h`.


def brackets(problem, layers):
    """G_{j+1}^T G_{j+1} - G_j G_j^T for each pair of neighbouring layers."""
    gradient = problem.euclidean_gradient(riemdln.end_to_end(layers))
    G = riemdln.layer_gradients(layers, gradient)
    return np.array([above.T @ above - below @ below.T for below, above in pairwise(G)])


def trained(problem, layers, step_size, steps):
    """The layers after gradient descent."""
    for _ in range(steps):
        gradient = problem.euclidean_gradient(riemdln.end_to_end(layers))
        G = riemdln.layer_gradients(layers, gradient)
        layers = [W_j - step_size * G_j for W_j, G_j in zip(layers, G, strict=True)]
    return layers


steps = 2 ** np.arange(4, 10)
drifts, rates = {}, {}
for case in CASES:
    problem, flow = problems[case], flows[case]
    one_step = riemdln.imbalance(trained(problem, flow.layers[0], 0.01, 1))
    exact = np.max(np.linalg.norm(brackets(problem, flow.layers[0]), axis=(1, 2))) * 0.01**2
    assert abs(one_step / exact - 1) < 1e-9
    drifts[case] = np.array(
        [
            riemdln.imbalance(trained(problem, flow.layers[0], times[-1] / count, count))
            for count in steps
        ]
    )
    along = [brackets(problem, layers) for layers in flow.layers]
    rates[case] = np.max(np.linalg.norm(simpson(along, x=times, axis=0), axis=(1, 2)))
    slope = -np.polyfit(np.log(steps[2:]), np.log(drifts[case][2:]), 1)[0]
    ratio = drifts[case][-1] * steps[-1] / times[-1] / rates[case]
    print(
        f"{case[1][0]} x {case[1][1]}, depth {case[0]}: imbalance at time 1 of slope {slope:.3f} "
        f"in the step size, at the smallest {ratio:.4f} times the predicted one"
    )
    assert abs(slope - 1) < 0.05
    assert abs(ratio - 1) < 0.01

# %%
# An unbalanced start
# -------------------
# Replacing :math:`W_1` by :math:`G W_1` and :math:`W_2` by :math:`W_2 G^{-1}` leaves the end-to-end
# matrix as it is, and spoils the balance unless :math:`G` is orthogonal. The flow of the layers
# keeps their imbalance. As long as it is small, the distance of the end-to-end matrix from the flow
# of :math:`g^N` is proportional to it.


def unbalanced(layers, G):
    """The same end-to-end matrix from other layers."""
    first, second, *others = layers
    return [G @ first, second @ np.linalg.inv(G), *others]


sizes = np.geomspace(1e-5, 1e-1, 7)
departures = {}
for case in CASES:
    problem, layers = problems[case], flows[case].layers[0]
    ends = [0.0, times[-1]]
    reference = riemdln.gradient_flow(problem, start_of(case[1]), ends, **TOLERANCES).points[-1]
    direction = np.random.default_rng(2).standard_normal((len(layers[0]),) * 2)
    departures[case] = []
    for size in sizes:
        start = unbalanced(layers, np.eye(len(direction)) + size * direction)
        flow = riemdln.network_flow(problem, start, ends, **TOLERANCES)
        before, after = flow.imbalances
        assert abs(after - before) < 1e-9
        departures[case].append((before, np.linalg.norm(flow.points[-1] - reference)))
    imbalances, distances = np.array(departures[case]).T
    small = imbalances < 0.2
    slope = np.polyfit(np.log(imbalances[small]), np.log(distances[small]), 1)[0]

    turned = unbalanced(layers, np.linalg.qr(direction)[0])
    flow = riemdln.network_flow(problem, turned, ends, **TOLERANCES)
    orthogonal = np.linalg.norm(flow.points[-1] - reference)
    print(
        f"{case[1][0]} x {case[1][1]}, depth {case[0]}: distance from the flow of g^N of slope "
        f"{slope:.3f} in the imbalance; {orthogonal:.0e} for an orthogonal G"
    )
    assert abs(slope - 1) < 0.05
    assert orthogonal < 1e-8

# %%
# The figures
# -----------
# The markers of the three layers lie within each other, as their singular values agree.

COLOURS = {2: "#0072B2", 3: "#D55E00"}
depth, shape = 3, (4, 4)
flow = flows[depth, shape]
figure, shared = plt.subplots(figsize=(9, 5), layout="constrained")
MARKERS = [("o", 13, "#56B4E9"), ("s", 7.5, "#E69F00"), ("o", 3, "#000000")]
dots = np.searchsorted(times, np.linspace(0, times[-1], 10))
for j, (marker, size, colour) in enumerate(MARKERS):
    layer_values = np.linalg.svd([flow.layers[k][j] for k in dots], compute_uv=False)
    points = shared.plot(times[dots], layer_values, marker, color=colour, markersize=size)
    plt.setp(points, markeredgewidth=1.6, fillstyle="full" if size == 3 else "none")
    points[0].set_label(f"layer $W_{j + 1}$")
lines = shared.plot(times, flow.singular_values ** (1 / depth), color="0.4", linewidth=1)
lines[0].set_label("cube roots of those of $W$")
shared.set_title("One set of values for three layers", fontsize=11)
shared.set(
    xlabel="time of the gradient flow of the layers",
    ylabel="the four singular values of each layer",
    ylim=(0.4, 1.3),
)
figure.legend(
    title=(
        "Layers of $W = W_3 W_2 W_1$, each 4 x 4,\nbalanced at the start:\n"
        "$W_2^T W_2 = W_1 W_1^T$, $W_3^T W_3 = W_2 W_2^T$.\n"
        "The loss compares $W$\nwith a random target.\n"
    ),
    frameon=False,
    loc="outside right center",
)
shared.grid(alpha=0.25)
figure.suptitle("Layers that start balanced share their singular values all along the flow")
figure.savefig("plot_balance.png", dpi=150)

figure, (drift, departure) = plt.subplots(1, 2, figsize=(9, 6), layout="constrained")
SHAPES = {(4, 4): {}, (4, 3): {"fillstyle": "none", "markersize": 10}}
for case in CASES:
    depth, shape = case
    style = {"color": COLOURS[depth], "linestyle": "", "marker": "os"[depth - 2]} | SHAPES[shape]
    label = f"depth {depth}, $W$ is {shape[0]} x {shape[1]}"
    drift.loglog(1 / steps, drifts[case], label=label, **style)
    drift.loglog(1 / steps, rates[case] / steps, color=COLOURS[depth], linewidth=0.8)
    imbalances, distances = np.transpose(departures[case])
    departure.loglog(imbalances, distances, **style)
    proportional = imbalances * distances[0] / imbalances[0]
    departure.loglog(imbalances, proportional, color=COLOURS[depth], linewidth=0.8)
for label in ("left: predicted, to first order in $h$", "right: proportional, through first point"):
    drift.plot([], [], color="0.5", linewidth=0.8, label=label)
drift.set_title("Finite steps disturb balance", fontsize=11)
drift.set(xlabel="step size $h$ of gradient descent", ylabel="imbalance after $1 / h$ steps")
drift.set_xscale("log", base=2)
departure.set_title("Imbalance leads off the flow", fontsize=11)
departure.set(
    xlabel="imbalance of the start", ylabel="distance of $W$ from the flow of $g^N$ at time 1"
)
for panel in (drift, departure):
    panel.grid(alpha=0.25)
figure.legend(
    title=(
        r"Imbalance: $\max_j \| W_{j+1}^T W_{j+1} - W_j W_j^T \|_F$ of the layers of "
        r"$W = W_N \cdots W_1$."
        "\nLeft: gradient descent from balanced layers. "
        "Right: gradient flow from unbalanced ones.\n"
        "The loss compares $W$ with a random target; distances are Frobenius norms.\n"
        "$g^N$: the metric that $N$ balanced layers give their product $W$."
    ),
    frameon=False,
    loc="outside lower center",
    ncols=3,
)
figure.suptitle("Larger steps disturb balance more, and more imbalance leads farther off the flow")
figure.savefig("plot_balance_disturbed.png", dpi=150)
plt.show()
