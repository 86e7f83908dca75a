r"""
Stiff flows: when to take an implicit method
============================================

Near a minimum some parts of a deep flow are fast and some slow, and an explicit method must take
short steps to the end. An implicit method can take long ones: here it needs far fewer gradients.

.. image:: images/sphx_glr_plot_stiff_flows_001.png
   :alt: To late times the explicit method takes far more gradients; both have the same losses
   :class: figures-first
   :target: ../_images/sphx_glr_plot_stiff_flows_001.png

The guide tells :doc:`which method to take </guide/flows>`, and the theory has :ref:`the flow
<flow>`. The code uses `riemdln.gradient_flow`.

Run it with ``python examples/plot_stiff_flows.py``; it writes ``plot_stiff_flows.png``. It needs
the extra ``stiff``: ``pip install scikit-sundae``.
"""

# %%
# The flow
# --------
# A 20 x 20 matrix of rank two is completed from half of its entries, at depth three. The start is
# the identity times :math:`10^{-3}`. Near a minimum a large singular value settles at a rate of
# about :math:`N s^{2 - 2/N}`, while small ones have hardly begun to grow: the flow is stiff.
# DOP853, the default, is an explicit Runge-Kutta method, and the backward differentiation formulas
# (BDF) of CVODE are implicit. ``stop`` is called after each step, so it is also a place to count
# gradients.

import matplotlib.pyplot as plt
import numpy as np
import pymanopt

import riemdln

SIZE, DEPTH, LAST = 20, 3, 1e3
BUDGET = 12_000
IMPLICIT, EXPLICIT = "implicit: BDF of CVODE", "explicit: DOP853 (Runge-Kutta)"

rng = np.random.default_rng(0)
target = rng.standard_normal((SIZE, 2)) @ rng.standard_normal((2, SIZE))
observed = rng.random((SIZE, SIZE)) < 0.5
manifold = riemdln.FullRank(SIZE, SIZE, riemdln.DeepLinearMetric(DEPTH))
start = 1e-3 * np.eye(SIZE)


def run(method, **options):
    """The times after each step, the gradients until then, and the flow."""
    times, counts = [], []
    gradients = 0

    @pymanopt.function.numpy(manifold)
    def cost(W):
        return float(np.sum((observed * (W - target)) ** 2) / 2)

    @pymanopt.function.numpy(manifold)
    def gradient(W):
        nonlocal gradients
        gradients += 1
        return observed * (W - target)

    def stop(time, point, cost, gradient_norm):
        times.append(time)
        counts.append(gradients)
        return gradients > BUDGET

    problem = pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)
    flow = riemdln.gradient_flow(
        problem, start, np.r_[0, np.geomspace(1e-2, LAST, 60)], method=method, stop=stop, **options
    )
    return np.array(times[1:]), np.array(counts[1:]), flow


runs = {
    IMPLICIT: run("CVODE", rtol=1e-6, atol=1e-8),
    EXPLICIT: run("DOP853", rtol=1e-6, atol=1e-8),
}
for name, (times, counts, flow) in runs.items():
    print(f"{name}: {counts[-1]} gradients to t = {times[-1]:.4g}, {flow.message}")

# sphinx_gallery_thumbnail_path = "gallery/images/panel_plot_stiff_flows_001_1.png"

# %%
# Both follow the same flow: their losses agree for as long as the budget of the explicit one lasts.

implicit, explicit = (flow for _, _, flow in runs.values())
both = len(explicit.times) - 1  # the last time of the explicit one is where its budget was spent
np.testing.assert_allclose(explicit.costs[:both], implicit.costs[:both], rtol=1e-2, atol=1e-8)

# %%
# How many gradients
# ------------------
# The fast part keeps the steps of the explicit method short: its gradients grow in proportion to
# the time. Those of the implicit one grow by less than a half while the time grows tenfold. Early
# on, while everything still moves, the explicit method needs fewer: its order is eight, and its
# steps are cheap.

times, counts, _ = runs[EXPLICIT]
late = times > times[-1] / 2
rate = np.polyfit(times[late], counts[late], 1)[0]
spent = runs[IMPLICIT][1][-1]
print(f"DOP853 takes {rate:.0f} gradients a unit of time: {rate * LAST:.0f} to t = {LAST:g}")
print(f"CVODE takes {spent}: {rate * LAST / spent:.0f} times fewer")
assert rate * LAST > 10 * spent
early, ten, hundred = np.transpose(
    [np.interp([0.1, 10, 100], times, counts) for times, counts, _ in runs.values()]
)
assert early[1] < early[0]
assert hundred[0] < 1.5 * ten[0]

# %%
# The figure
# ----------
# Where the flow of the explicit method ends, its budget of 12,000 gradients was spent.

STYLES = [{"color": "#0072B2"}, {"color": "#D55E00", "linestyle": "--"}]
figure, (taken, losses) = plt.subplots(1, 2, figsize=(9, 5.4), layout="constrained")
for (name, (times, counts, flow)), style in zip(runs.items(), STYLES, strict=True):
    taken.loglog(times, counts, label=name, **style)
    losses.loglog(flow.times[1:], flow.costs[1:], **style)
times, counts, _ = runs[EXPLICIT]
end = times[-1], counts[-1]
taken.annotate("stopped after 12,000", end, (12, 5), textcoords="offset points", ha="right")
taken.set_title("The implicit method takes fewer gradients", fontsize=11)
taken.set(
    xlabel="time that the flow has reached",
    ylabel="gradients computed until then",
    xlim=(1e-2, LAST),
    ylim=(5, 6e4),
)
losses.set_title("Both follow the same flow", fontsize=11)
losses.set(
    xlabel="time of the flow",
    ylabel="loss: half the squared error of the known entries",
    xlim=(1e-2, LAST),
)
for panel in (taken, losses):
    panel.grid(alpha=0.25)
figure.legend(
    title=(
        "Gradient flow at depth 3 completes a 20 x 20 matrix of rank 2 from half of its entries.\n"
        "It is stiff: large singular values settle while small ones have hardly begun to grow."
    ),
    frameon=False,
    loc="outside lower center",
    ncols=2,
)
figure.suptitle("An implicit method follows a stiff flow to late times with far fewer gradients")
figure.savefig("plot_stiff_flows.png", dpi=150)
plt.show()
