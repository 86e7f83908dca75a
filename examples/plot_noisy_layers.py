r"""
Noise on the layers makes an entropy
====================================

Train balanced layers with noise that keeps them balanced. Their product moves by Langevin's
equation of the manifold with one more term, the gradient of an entropy.

.. image:: images/sphx_glr_plot_noisy_layers_001.png
   :alt: Means of singular values in time: layers, W with the entropy and without
   :class: figures-first
   :target: ../_images/sphx_glr_plot_noisy_layers_001.png

.. image:: images/sphx_glr_plot_noisy_layers_002.png
   :alt: Differences of the distributions of singular values, with the entropy and without
   :class: figures-first
   :target: ../_images/sphx_glr_plot_noisy_layers_002.png

The gradient flow of the layers of a balanced network is a gradient flow of their product W alone,
under the metric :math:`g^N`. Is it so with noise? Put noise on each weight and let it keep the
balance, which is Brownian motion of the balanced layers beside the gradient,

.. math::

    dW_j = -\frac{\partial E}{\partial W_j} \, dt + \sqrt{2 / \beta} \, dB_j, \qquad
    W_{j+1}^T W_{j+1} = W_j W_j^T.

Then W moves by an equation of its own, but it is not Langevin's equation of the manifold. It has a
term more (Menon 2024; Menon and Yu 2025): with S(W), the logarithm of the volume of all balanced
layers with the product W,

.. math::

    dW = -A(\nabla E) \, dt + \frac{1}{\beta} \bigl( \Delta_g W + A(\nabla S) \bigr) \, dt
         + \sqrt{2 / \beta} \, A^{1/2} dB.

`riemdln.network_langevin_flow` moves layers and knows nothing of metric or entropy.
`riemdln.langevin_flow` moves W and knows nothing of layers. This example compares the singular
values of many copies of both: they have the same law with the entropy, and not without.

The guide has a section on :doc:`noise on the layers </guide/noise>`, and the theory on
:ref:`Langevin's equation <langevin>`.

Run it with ``python examples/plot_noisy_layers.py``; it writes ``plot_noisy_layers.png`` and
``plot_noisy_layers_distributions.png``.
"""

# %%
# Both sides
# ----------
# All copies start from one 2 x 3 matrix W, or from balanced layers with this product. They are
# drawn to a target while noise moves them. Both sides have errors of their steps, which at these
# steps are smaller than those of so few copies. The scheme of weak order two can take longer ones.

import matplotlib.pyplot as plt
import numpy as np
import pymanopt
from scipy.stats import ks_2samp

import riemdln

COPIES, BETA = 3000, 2.0
DEPTHS = [2, 3]
TIMES = np.linspace(0, 0.5, 6)
target = np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.0]])
start = np.array([[1.0, 0.3, 0.0], [0.0, 0.8, 0.2]])


def problem_at(depth):
    """Half the squared distance from the target, of each matrix of a stack."""
    manifold = riemdln.FullRank(2, 3, riemdln.DeepLinearMetric(depth))

    @pymanopt.function.numpy(manifold)
    def cost(W):
        return np.sum((W - target) ** 2, axis=(-2, -1)) / 2

    @pymanopt.function.numpy(manifold)
    def euclidean_gradient(W):
        return W - target

    return pymanopt.Problem(manifold, cost, euclidean_gradient=euclidean_gradient)


def copies_of(matrix):
    return np.tile(matrix, (COPIES, 1, 1))


options = {"beta": BETA, "vectorized": True}
layers, matrices = {}, {}
for depth in DEPTHS:
    problem = problem_at(depth)
    stacks = [copies_of(W) for W in riemdln.balanced_layers(start, depth)]
    layers[depth] = riemdln.network_langevin_flow(
        problem, stacks, TIMES, step_size=0.01, rng=0, **options
    )
    for entropy in (True, False):
        matrices[depth, entropy] = riemdln.langevin_flow(
            problem,
            copies_of(start),
            TIMES,
            step_size=0.05,
            scheme="splitting",
            entropy=entropy,
            rng=1,
            **options,
        )
    print(f"depth {depth}: layers are balanced to {layers[depth].imbalances.max():.0e}")
    assert layers[depth].imbalances.max() < 1e-12

# %%
# Two samples
# -----------
# At the last time, are the singular values of both sides draws from the same law? The test of
# Kolmogorov and Smirnov takes the greatest distance of their distribution functions. If the laws
# are the same, its p-value is below p with the chance p.

for (depth, entropy), flow in matrices.items():
    of_layers, of_W = layers[depth].singular_values[-1], flow.singular_values[-1]
    tests = [ks_2samp(of_layers[:, i], of_W[:, i]) for i in (0, 1)]
    print(
        f"depth {depth}, {'with' if entropy else 'without'} the entropy: means of s_1, s_2 "
        f"{of_W.mean(axis=0).round(3)}, of the layers {of_layers.mean(axis=0).round(3)}; "
        f"p-values {tests[0].pvalue:.2g}, {tests[1].pvalue:.2g}"
    )
    least = min(test.pvalue for test in tests)
    assert least > 1e-3 if entropy else least < 1e-4

# %%
# The figures
# -----------
# They stand at the head of this page. First the means over time. Then the distribution functions of
# both singular values at the last time, less those of the layers. Where two samples of one law
# differ, in 95 of 100 cases they stay within the grey band.

STYLES = {True: ("#009E73", "o", "W with the entropy"), False: ("#CC79A7", "s", "W without it")}
band = 1.358 * (2 / COPIES) ** 0.5


def panels_by_depth(ylabel):
    figure, panels = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained", sharey=True)
    panels[0].set_ylabel(ylabel)
    for depth, panel in zip(DEPTHS, panels, strict=True):
        panel.set_title(f"Depth {depth}")
        panel.grid(alpha=0.25)
    return figure, dict(zip(DEPTHS, panels, strict=True))


figure, panels = panels_by_depth("means of $s_1$ and $s_2$")
for depth, panel in panels.items():
    panel.plot(TIMES, layers[depth].singular_values.mean(axis=1), color="0.65", linewidth=3)
    panel.plot([], [], color="0.65", linewidth=3, label="product of noisy layers")
    for entropy, (colour, marker, name) in STYLES.items():
        means = matrices[depth, entropy].singular_values.mean(axis=1)
        lines = panel.plot(TIMES, means, marker, color=colour, markersize=6)
        lines[0].set_label(name)
    panel.set(xlabel="time", ylim=(0, None))
panels[2].legend(frameon=False, loc=(0.3, 0.44))
figure.suptitle(
    "Noisy layers move their product as the equation with the entropy says", fontsize=13
)
figure.savefig("plot_noisy_layers.png", dpi=150)

figure, panels = panels_by_depth("share of copies below s, W less layers")
for depth, panel in panels.items():
    of_layers = layers[depth].singular_values[-1]
    grid = np.linspace(0, of_layers.max(), 300)
    panel.axhspan(-band, band, color="0.5", alpha=0.2, linewidth=0)
    for entropy, (colour, _, name) in STYLES.items():
        of_W = matrices[depth, entropy].singular_values[-1]
        for i, line in enumerate(("-", "--")):
            below, above = (np.sort(s[:, i]) for s in (of_layers, of_W))
            difference = np.searchsorted(above, grid) - np.searchsorted(below, grid)
            label = f"$s_{i + 1}$, {name}"
            panel.plot(grid, difference / COPIES, line, color=colour, label=label)
    panel.set(xlabel="singular value s at the last time", xlim=(0, 4))
panels[2].text(3.95, 0.9 * band, "grey: by chance alone", ha="right", va="top")
panels[2].legend(frameon=False)
figure.suptitle(
    "With the entropy the law is that of the layers, without it the law is another", fontsize=13
)
figure.savefig("plot_noisy_layers_distributions.png", dpi=150)
plt.show()
