r"""
One output: an adaptive step size and momentum
==============================================

With one output the matrix is a row :math:`w`. Depth scales its gradient by a power of the length of
:math:`w`, and adds a push along :math:`w` that acts like momentum.

.. image:: images/sphx_glr_plot_single_output_001.png
   :alt: The deeper the network, the later its loss falls, and the larger is the push along w
   :class: figures-first
   :target: ../_images/sphx_glr_plot_single_output_001.png

The guide tells :doc:`what depth does </guide/depth>`, and the theory has :ref:`the formula for one
output <special>`. The code uses `riemdln.DeepLinearMetric` and `riemdln.FixedStep`.

Run it with ``python examples/plot_single_output.py``; it writes ``plot_single_output.png``.
"""

# %%
# The problem
# -----------
# The progress :math:`y` of diabetes is predicted from ten standardized measurements :math:`x` of
# 442 patients, as :math:`w x`.

import autograd.numpy as anp
import matplotlib.pyplot as plt
import numpy as np
import pymanopt
from pymanopt.optimizers import SteepestDescent
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import StandardScaler

import riemdln

inputs, outputs = load_diabetes(return_X_y=True)
inputs = StandardScaler().fit_transform(inputs)
outputs = (outputs - outputs.mean()) / outputs.std()


def cost(w):
    """The mean of (w x - y)^4 / 4 over the patients."""
    return anp.mean((inputs @ w.T - outputs[:, None]) ** 4) / 4


# sphinx_gallery_thumbnail_path = "gallery/images/panel_plot_single_output_001_3.png"

# %%
# Descent, step by step
# ---------------------
# Depth :math:`N` turns the gradient :math:`p` into (Arora, Cohen and Hazan 2018, Claim 2)
#
# .. math:: A_{N,w}(p) = \|w\|^{2-2/N} \big(p + (N-1) \, \mathrm{Pr}_w \, p\big).
#
# Here :math:`\mathrm{Pr}_w \, p` is the part of :math:`p` along :math:`w`. The factor in front is
# an adaptive step size, small near the origin and large far from it. The run starts near zero, so
# :math:`w` points along the way that it has come. The part along :math:`w` is therefore like
# momentum. Along each run the Riemannian gradient is compared with this formula.

DEPTHS, STEPS = [1, 2, 3, 5], 60
start = np.random.default_rng(0).standard_normal((1, 10))
start *= 0.1 / np.linalg.norm(start)
runs = {}
for depth in DEPTHS:
    manifold = riemdln.FullRank(1, 10, riemdln.DeepLinearMetric(depth))
    problem = pymanopt.Problem(manifold, pymanopt.function.autograd(manifold)(cost))
    optimizer = SteepestDescent(
        riemdln.FixedStep(0.2), max_iterations=STEPS, verbosity=0, log_verbosity=1
    )
    log = optimizer.run(problem, initial_point=start).log["iterations"]
    rates, pushes, worst = [], [], 0.0
    for w in log["point"]:
        gradient = problem.euclidean_gradient(w)
        norm, length = np.linalg.norm(w), np.linalg.norm(gradient)
        momentum = (depth - 1) * w * np.sum(w * gradient) / norm**2
        rate = norm ** (2 - 2 / depth)
        difference = rate * (gradient + momentum) - problem.riemannian_gradient(w)
        worst = max(worst, np.linalg.norm(difference) / length)
        rates.append(rate)
        # A step goes against the gradient: one that leads away from zero counts as positive.
        pushes.append(-np.sum(momentum * w) / (norm * length))
    assert worst < 1e-13
    runs[depth] = np.array(log["cost"]), np.array(rates), np.array(pushes)
    print(
        f"depth {depth}: Claim 2 holds to {worst:.0e}, adaptive step size from {rates[0]:.3f} to "
        f"{rates[-1]:.3f}, momentum up to {np.abs(pushes).max():.2f} gradients"
    )

# Depth 1 has neither. Near the origin a deeper network takes smaller steps, so its loss falls
# later, and its momentum is larger.
assert np.all(runs[1][1] == 1)
assert np.all(runs[1][2] == 0)
waits = [int(np.argmax(runs[depth][0] < 0.3)) for depth in DEPTHS]
print(f"steps until the loss is below 0.3: {waits} at depths {DEPTHS}")
assert np.all(np.diff(waits) > 0)
assert np.all(np.diff([runs[depth][1][0] for depth in DEPTHS]) < 0)
assert np.all(np.diff([runs[depth][2].max() for depth in DEPTHS]) > 0)
assert all(np.abs(runs[depth][2]).max() <= depth - 1 for depth in DEPTHS)

# %%
# The figure
# ----------
# The push is :math:`-(N-1) \langle w, p \rangle / (\|w\| \|p\|)`: the length of the second term
# over that of the gradient, positive where a step leads away from zero.

colours = dict(zip(DEPTHS, ["#000000", "#0072B2", "#D55E00", "#009E73"], strict=True))
figure, panels = plt.subplot_mosaic(
    [["loss", "loss"], ["rate", "momentum"]],
    figsize=(9, 8),
    height_ratios=[4, 5],
    layout="constrained",
)
for depth, (costs, rates, pushes) in runs.items():
    label = f"depth {depth}" + " (Euclidean)" * (depth == 1)
    panels["loss"].plot(costs, color=colours[depth], label=label)
    panels["rate"].semilogy(rates, color=colours[depth])
    panels["momentum"].plot(pushes, color=colours[depth])
panels["loss"].set(
    title="The deeper the network, the later its loss falls",
    ylabel=r"loss, mean of $(w x - y)^4 / 4$",
)
panels["rate"].set(title="Steps are small near zero", ylabel=r"step size factor $\|w\|^{2-2/N}$")
panels["momentum"].set(
    title="A push along $w$ follows, like momentum",
    ylabel=r"push along $w$, $-(N-1) \langle w, p \rangle / (\|w\| \|p\|)$",
)
for panel in panels.values():
    panel.set_xlabel("step of gradient descent")
    panel.grid(alpha=0.25)
handles, labels = panels["loss"].get_legend_handles_labels()
figure.legend(
    handles,
    labels,
    title=(
        r"Regression of the progress $y$ of diabetes on ten measurements $x$; start $\|w\| = 0.1$."
        "\n"
        r"Step of depth $N$: $w \leftarrow w - 0.2 \|w\|^{2-2/N} (p + (N-1) \, \mathrm{Pr}_w p)$,"
        "\n"
        r"with $p$ the gradient of the loss and $\mathrm{Pr}_w p$ its part along $w$."
    ),
    frameon=False,
    loc="outside lower center",
    ncols=4,
)
figure.suptitle(
    "With depth the first steps from near zero are small; then comes a push like momentum",
    fontsize=13,
)
figure.savefig("plot_single_output.png", dpi=150)
plt.show()
