r"""
Singular values are learned one after the other
===============================================

From a small start, depth learns the large singular values of a target first and the small ones
later. The deeper the network, the sharper the steps: depth prefers low rank.

.. image:: images/sphx_glr_plot_singular_values_001.png
   :alt: Four singular values against time: all rise together at depth 1, in turn at infinite depth
   :class: figures-first
   :target: ../_images/sphx_glr_plot_singular_values_001.png

.. image:: images/sphx_glr_plot_singular_values_002.png
   :alt: The deeper the network, the shorter is the rise of a singular value beside its wait
   :class: figures-first
   :target: ../_images/sphx_glr_plot_singular_values_002.png

The guide tells how to :doc:`choose a depth </guide/depth>` and how to :doc:`follow a flow
</guide/flows>`, and the theory has :ref:`the equation <flow>`. The code uses
`riemdln.gradient_flow`.

Run it with ``python examples/plot_singular_values.py``; it writes ``plot_singular_values.png`` and
``plot_singular_values_steps.png``.
"""

# %%
# The flow
# --------
# The target has the singular values 4, 2, 1 and 1/2. The start is small, and its singular vectors
# are near those of the target. While some singular values have been learned and others still
# wait, the flow is stiff, and LSODA changes to an implicit method.

import autograd.numpy as anp
import matplotlib.pyplot as plt
import numpy as np
import pymanopt

import riemdln

TARGET_VALUES = np.array([4.0, 2.0, 1.0, 0.5])
# From before the first step to after the last one.
SPANS = {1: (0.02, 7.6), 2: (0.1, 8.2), 3: (0.2, 11.0), np.inf: (8.0, 260.0)}
DEPTHS = list(SPANS)
rng = np.random.default_rng(0)
U, _, Vt = np.linalg.svd(rng.standard_normal((4, 4)))
target = U * TARGET_VALUES @ Vt
start = 1e-2 * (U @ Vt + 0.1 * rng.standard_normal((4, 4)))


def problem_at(depth):
    """Half the squared distance from the target, under the metric of one depth."""
    manifold = riemdln.FullRank(4, 4, riemdln.DeepLinearMetric(depth))

    @pymanopt.function.autograd(manifold)
    def cost(W):
        return anp.sum((W - target) ** 2) / 2

    return pymanopt.Problem(manifold, cost)


flows = {}
for depth, span in SPANS.items():
    times = np.concatenate([[0.0], np.geomspace(*span, 300)])
    flows[depth] = riemdln.gradient_flow(
        problem_at(depth), start, times, method="LSODA", rtol=1e-8, atol=1e-10
    )

# sphinx_gallery_thumbnail_path = "gallery/images/panel_plot_singular_values_001_3.png"

# %%
# The equation
# ------------
# Under the flow of :math:`g^N` the singular values of the matrix move by (Arora, Cohen, Hu and Luo
# 2019)
#
# .. math:: \dot s_i = -\theta_N(s_i, s_i) \, u_i^T \nabla E \, v_i, \qquad
#           \theta_N(s, s) = N s^{2 - 2/N}, \qquad \theta_\infty(s, s) = s^2.
#
# The factor is small where the singular value is: this is why small ones wait. At 20 points of each
# flow, central differences of the singular values over a short time agree with the equation.


def speeds_at(problem, depth, W):
    """The speeds of the singular values a short time after W: measured, and by the equation."""
    time = 1e-6 / np.linalg.norm(problem.riemannian_gradient(W))
    flow = riemdln.gradient_flow(problem, W, [0.0, time, 2 * time])
    first, _, last = flow.singular_values
    left, s, right = np.linalg.svd(flow.points[1])
    slopes = np.diag(left.T @ problem.euclidean_gradient(flow.points[1]) @ right.T)
    theta = s**2 if np.isinf(depth) else depth * s ** (2 - 2 / depth)
    return (last - first) / (2 * time), -theta * slopes


for depth, flow in flows.items():
    problem = problem_at(depth)
    # While the last one is on its way: later all are at rest.
    moving = np.argmax(flow.singular_values[:, 3] > TARGET_VALUES[3] / 2)
    chosen = np.linspace(0, moving, 20).astype(int)
    pairs = np.array([speeds_at(problem, depth, flow.points[k]) for k in chosen])
    measured, expected = np.moveaxis(pairs, 1, 0)
    fastest = np.abs(expected).max(axis=1, keepdims=True)
    error = np.max(np.abs(measured - expected) / fastest)
    print(f"depth {depth}: the equation holds to {error:.0e} of the fastest speed")
    assert error < 1e-5

# %%
# The steps
# ---------
# A singular value waits until it is half of what it will be, and its rise goes from 10% to 90%. At
# depth 1 all rise together, as :math:`1 - e^{-t}`. The deeper the network, the later the small ones
# come, and the shorter a rise is compared with the wait for it.

halves, rises = {}, {}
for depth, flow in flows.items():
    shares = flow.singular_values / TARGET_VALUES
    tenth, half, most = (
        np.array([np.interp(level, share, flow.times) for share in shares.T])
        for level in (0.1, 0.5, 0.9)
    )
    halves[depth], rises[depth] = half, (most - tenth) / half
    print(
        f"depth {depth}: half-way at {np.round(half / half[0], 2)} of the largest one's time; "
        f"rise / time half-way {np.round(rises[depth], 3)}"
    )
lateness = np.array([half[1:] / half[0] for half in halves.values()])
assert np.all(np.diff(lateness, axis=0) > 0)
assert np.allclose(lateness[0], 1, atol=0.05)
assert np.all(np.diff(list(rises.values()), axis=0) < 0)

# %%
# The figures
# -----------
# Time is divided by the time at which the first singular value is half learned.

COLOURS = dict(zip(DEPTHS, ["#000000", "#0072B2", "#D55E00", "#CC79A7"], strict=True))
LABELS = {1: "depth 1 (Euclidean)", 2: "depth 2", 3: "depth 3", np.inf: r"depth $\infty$"}
SETTING = r"Gradient flow of $\|W - T\|^2 / 2$, 4 x 4 target $T$, start near zero"
figure, axes = plt.subplots(2, 2, figsize=(9, 7.2), sharex=True, sharey=True, layout="constrained")
for panel, (depth, colour) in zip(axes.flat, COLOURS.items(), strict=True):
    flow = flows[depth]
    panel.plot(flow.times / halves[depth][0], flow.singular_values, color=colour)
    for value in TARGET_VALUES:
        panel.axhline(value, color="0.5", linewidth=0.8, linestyle=":")
    order = "all together" if depth == 1 else "one after the other"
    panel.set_title(f"{LABELS[depth]}: {order}", fontsize=11)
    panel.set_xlim(0, 11)
    panel.grid(alpha=0.25)
figure.supxlabel("time / time at which the largest singular value is half learned", fontsize=10)
figure.supylabel("singular values of $W$ (dotted: of the target $T$)", fontsize=10)
figure.suptitle(
    "The deeper the network, the more it learns singular values one after the other\n" + SETTING,
    fontsize=12,
)
figure.savefig("plot_singular_values.png", dpi=150)

figure, panel = plt.subplots(figsize=(9, 4.6), layout="constrained")
for depth, colour in COLOURS.items():
    panel.semilogy([1, 2, 3, 4], rises[depth], "o-", color=colour, label=LABELS[depth])
panel.set(
    xlabel="singular value of $W$, from the largest to the smallest",
    ylabel="time from 10% to 90% learned / time until 50%",
    xticks=[1, 2, 3, 4],
    xticklabels=[f"$s_{i + 1}$, to {value:g}" for i, value in enumerate(TARGET_VALUES)],
    ylim=(0.02, 5),
)
panel.legend(frameon=False, loc="lower right")
panel.grid(alpha=0.25)
figure.suptitle(
    "The deeper the network, the shorter a rise compared with the wait for it\n" + SETTING,
    fontsize=12,
)
figure.savefig("plot_singular_values_steps.png", dpi=150)
plt.show()
